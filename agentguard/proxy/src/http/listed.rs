//! Lists of tools of which agents are shown a part: the answer is held until it is whole, and written anew.

use agentguard_decision::{Asked, Recorder};
use agentguard_protocol::content::Codings;
use agentguard_protocol::mcp::ListFilter;
use bytes::BytesMut;
use http::response::Parts;
use http::{StatusCode, header};
use tokio::time::timeout;

use crate::Port;
use crate::connection::Flow;
use crate::http::body::Received;
use crate::http::exchange::chain;
use crate::http::growth::Judge as _;
use crate::http::held::{Held, Holding};
use crate::http::reading::{is_json, kind};

/// An answer with those tools of a server alone of which the policy allows some call, and the names of the others.
///
/// # Errors
/// It cannot be held or read: why.
pub(super) async fn shown<R: Recorder, P: Port>(
    flow: &Flow<R, P>,
    asked: &Asked,
    server: &str,
    parts: &mut Parts,
    body: Received,
) -> Result<(Received, Vec<String>), String> {
    // With 202 the list comes by another stream, if it does.
    if !parts.status.is_success() || parts.status == StatusCode::ACCEPTED {
        return Ok((body, Vec::new()));
    }
    let kind = kind(&parts.headers);
    let events = kind.eq_ignore_ascii_case("text/event-stream");
    if !events && !is_json(kind) {
        return Err(format!("its type is `{}`", kind.escape_debug()));
    }
    let codings = Codings::read(&parts.headers).map_err(|why| why.to_string())?;
    if !codings.is_identity() {
        return Err("it is coded, which was not asked for".to_owned());
    }
    let mut filter = ListFilter::new(events);
    let held = Held::read(body, |memory| flow.room(memory), |piece| filter.push(piece));
    let held = timeout(flow.guard.limits.call, held).await;
    let held = held.map_err(|_| "it did not come to its end in time".to_owned())?;
    let (held, holding) = held.map_err(|error| chain(&error))?;
    if let Holding::Beyond(why) = holding {
        return Err(why.to_owned());
    }
    let (client, target) = (&flow.client, &flow.target);
    let decider = &flow.guard.decider;
    let filtered =
        filter.finish(&mut |names| decider.may_call(client, target, asked, server, names));
    let (answer, left_out) = filtered.map_err(|why| why.to_string())?;
    for name in [header::CONTENT_LENGTH, header::ETAG, header::TRAILER] {
        parts.headers.remove(name);
    }
    let held = held.instead(BytesMut::from(answer.as_slice()));
    Ok((Received::Held(held), left_out))
}

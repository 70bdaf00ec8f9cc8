//! The card of an agent, compared before the client is shown it.

use agentguard_decision::Recorder;
use agentguard_model::ToolDefinition;
use agentguard_protocol::api::a2a;
use agentguard_protocol::content::Codings;
use http::response::Parts;
use tokio::time::sleep;

use super::{Looked, NotShown};
use crate::Port;
use crate::http::body::Received;
use crate::http::growth::Judge as _;
use crate::http::held::{Held, Holding};

impl<R: Recorder, P: Port> Looked<R, P> {
    /// An answer that is a card, as it came, if the agent is shown it. Whatever its type is: clients look at its content
    /// alone. `name`: what it is pinned as. `in_result`: it is an answer of JSON-RPC, of which an error has no card.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn card(
        &self,
        name: &str,
        in_result: bool,
        parts: &Parts,
        body: Received,
    ) -> Result<Received, NotShown> {
        let coded = match Codings::of_text(&parts.headers) {
            Ok(codings) if codings.is_identity() => None,
            Ok(_) => Some("it is coded, which was not asked for".to_owned()),
            Err(why) => Some(why.to_string()),
        };
        if let Some(why) = coded {
            return self.unread(true, body, why).await;
        }
        let mut reader = a2a::CardReader::new(in_result);
        let late = sleep(self.flow.guard.limits.call);
        let room = |memory| self.flow.room(memory);
        let held = Held::read_until(body, late, room, |piece| reader.push(piece));
        let (held, holding) = held.await.map_err(NotShown::Broken)?;
        let card = match holding {
            Holding::Whole => reader.finish().map_err(|why| why.to_string()),
            Holding::Beyond(why) => Err(why.to_owned()),
        };
        let body = Received::Held(held);
        let text = match card {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(body),
            Err(why) => return self.unread(true, body, why).await,
        };
        let message = format!(
            "The card {name} of {} is not what it was first seen as: it changed, and an operator has to accept that.",
            self.server
        );
        let (client, target) = (&self.flow.client, &self.flow.target);
        let decider = &self.flow.guard.decider;
        let name = name.to_owned();
        let card = vec![ToolDefinition { name, text }];
        let shown = decider.listed(client, target, &self.asked, &self.server, card);
        match shown.await.as_slice() {
            [true] => Ok(body),
            _ => Err(NotShown::Held(message)),
        }
    }
}

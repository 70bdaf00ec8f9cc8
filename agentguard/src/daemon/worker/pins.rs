//! What the tools of servers were first seen as: for decisions, and what operators do about it.

use std::sync::Arc;

use agentguard_decision::{Change, Compared, Decider};
use agentguard_keeper::message::{ToolsDeed, ToolsOrder};
use agentguard_model::{PinAccepted, Sight, ToolDefinition};
use agentguard_pins::Pins;
use jiff::Timestamp;

use super::Recorded;

/// The most tools that are named in a sentence.
const NAMED: usize = 12;

/// As decisions ask for it.
#[derive(Debug)]
pub(super) struct Kept(pub(super) Arc<Pins>);

impl agentguard_decision::Pins for Kept {
    fn is_held(&self, server: &str, tool: &str) -> bool {
        self.0.is_held(server, tool)
    }

    fn compare(&self, server: &str, listed: Vec<ToolDefinition>) -> Compared {
        let (pins, server) = (self.0.clone(), server.to_owned());
        let count = listed.len();
        Box::pin(async move {
            let compare = move || pins.compare(&server, &listed, Timestamp::now());
            let compared = tokio::task::spawn_blocking(compare).await;
            compared.unwrap_or_else(|died| vec![Sight::NotPinned(died.to_string()); count])
        })
    }
}

/// Does what an operator wants: it is recorded, then done. With what was done, for a person; or why nothing was.
pub(super) async fn obey(
    order: ToolsOrder,
    uid: u32,
    pins: &Arc<Pins>,
    decider: &Decider<Recorded>,
) -> Result<String, String> {
    let (server, tool) = (order.server.as_str(), order.tool.as_deref());
    let refused = |error: agentguard_pins::NotChanged| error.to_string();
    let held = match &order.what {
        ToolsDeed::Accept { digest } => {
            let held = pins.held(server, tool, digest.as_deref());
            held.map_err(refused)?
        }
        ToolsDeed::Forget => {
            let names = pins.names(server, tool).map_err(refused)?;
            names
                .into_iter()
                .map(|name| (name, String::new()))
                .collect()
        }
    };
    if held.is_empty() {
        return Ok(match tool {
            Some(tool) => format!("the tool {tool} of {server} is what it was"),
            None => format!("the tools of {server} are what they were"),
        });
    }
    let names = names(&held);
    let (done, text) = match &order.what {
        ToolsDeed::Accept { .. } => (
            "tools_accept",
            format!("what {server} lists now was accepted for {names}"),
        ),
        ToolsDeed::Forget => (
            "tools_forget",
            format!("what {server} listed was forgotten for {names}"),
        ),
    };
    let why = order.reason.as_ref().map(|reason| format!(": {reason}"));
    let recorded = decider.changed(Change {
        done: done.to_owned(),
        message: format!("{text}, by uid {uid}{}", why.unwrap_or_default()),
        uid,
        agent: None,
    });
    recorded
        .await
        .map_err(|refused| format!("it cannot be recorded, so it is not done: {refused}"))?;
    let pins = pins.clone();
    let change = move || match order.what {
        ToolsDeed::Accept { .. } => {
            let by = PinAccepted {
                uid,
                time: Timestamp::now(),
                reason: order.reason,
            };
            pins.accept(&order.server, &held, &by)
        }
        ToolsDeed::Forget => {
            let names: Vec<String> = held.into_iter().map(|(name, _)| name).collect();
            pins.forget(&order.server, &names)
        }
    };
    match tokio::task::spawn_blocking(change).await {
        Ok(changed) => changed.map_err(refused).map(|()| text),
        Err(died) => Err(died.to_string()),
    }
}

/// Tools, each with what it is pinned to from now on.
fn names(tools: &[(String, String)]) -> String {
    let named = tools.iter().take(NAMED).map(|(name, digest)| {
        if digest.is_empty() {
            name.clone()
        } else {
            format!("{name} ({digest})")
        }
    });
    let named: Vec<String> = named.collect();
    match tools.len().saturating_sub(named.len()) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

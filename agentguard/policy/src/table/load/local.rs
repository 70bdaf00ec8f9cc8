//! Messages to tools on the agent's own host in tests.

use agentguard_model::{Tool, Transport};

use super::Checking;
use crate::flow::{Around, Flow};
use crate::local;
use crate::table::document::{RawMessage, RawTest};
use crate::table::{Attempt, Sent};
use crate::yaml::At;

impl Checking<'_> {
    /// A message, unless something is wrong with it.
    pub(super) fn local(&mut self, raw: &RawTest, message: &At<RawMessage>) -> Option<Attempt> {
        let parts = [
            ("port", raw.port.as_ref().map(|it| it.place)),
            ("transport", raw.transport.as_ref().map(|it| it.place)),
            ("request", raw.request.as_ref().map(|it| it.place)),
            ("opaque", raw.opaque.as_ref().map(|it| it.place)),
            ("resolves_to", raw.resolves_to.as_ref().map(|it| it.place)),
        ];
        let before = self.found.len();
        for (key, place) in parts {
            if let Some(place) = place {
                let hint = "what is local does not go over the network";
                self.error(place, format!("`{key}` beside `local_tool`"), hint);
            }
        }
        let tool = self.tool(message, Some(local::place()), "", true);
        if let Some(tool) = &tool {
            self.is_local(tool, message);
        } else if message.value.server.is_none() && !self.partial {
            let hint = "the name of a server with `api: mcp_stdio` or `api: hook`";
            self.error(message.place, "missing key `server`", hint);
        }
        let around = self.around(raw)?;
        let (tool, true) = (tool?, self.found.len() == before) else {
            return None;
        };
        Some(attempt(tool, around))
    }

    fn is_local(&mut self, tool: &Tool, message: &At<RawMessage>) {
        if self.policy.local_server(&tool.server).is_none() {
            let place = message.value.server.as_ref().map(|it| it.place);
            let told = format!("`{}` is no server on the agent's own host", tool.server);
            let hint = "one with `api: mcp_stdio` or `api: hook`; what is called over the network is a `request` with `tool`";
            self.error(place.unwrap_or(message.place), told, hint);
        }
    }
}

/// As the daemon asks about it.
fn attempt(tool: Tool, around: Around) -> Attempt {
    let flow = Flow {
        host: Some(local::place().clone()),
        ip: None,
        port: local::PORT,
        transport: Transport::Tcp,
        around,
    };
    let sent = Sent {
        method: String::new(),
        path: Ok(String::new()),
        query: None,
        fields: None,
        body: 0,
        websocket: false,
        opens_calls: false,
        llm: None,
        tool: Some(tool),
        secure: false,
    };
    Attempt::Request(flow, Box::new(sent))
}

//! What the tools of servers were first seen as, as it travels.

use std::sync::Arc;

use agentguard_model::{ToolPin, ToolPinned};
use agentguard_pins::Pins;
use serde::{Deserialize, Serialize};

use crate::api::{Problem, ProblemCode};

/// Which tools are meant.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ToolQuery {
    /// Those of this server.
    pub server: Option<String>,
    /// The one of this name.
    pub tool: Option<String>,
}

/// The answer to `GET /v1/tools`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ToolPins {
    /// By server and tool.
    pub pins: Vec<ToolPin>,
}

impl ToolQuery {
    /// Reads a query string.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let mut query = Self::default();
        for (key, value) in form_urlencoded::parse(text.as_bytes()) {
            let place = match &*key {
                "server" => &mut query.server,
                "tool" => &mut query.tool,
                _ => {
                    let shown: String = key.chars().take(40).collect();
                    let message = format!("there is no parameter `{shown}`");
                    return Err(Problem::bad_request(message).hint("server and tool are there"));
                }
            };
            if place.replace(value.into_owned()).is_some() {
                return Err(Problem::bad_request(format!("`{key}` is given twice")));
            }
        }
        Ok(query)
    }

    /// The query string that [`Self::parse`] reads back.
    #[must_use]
    pub fn to_query_string(&self) -> String {
        let mut out = form_urlencoded::Serializer::new(String::new());
        for (key, value) in [("server", &self.server), ("tool", &self.tool)] {
            if let Some(value) = value {
                out.append_pair(key, value);
            }
        }
        out.finish()
    }
}

/// What is pinned. For threads that may wait.
pub(crate) fn list(pins: &Pins, query: &ToolQuery) -> ToolPins {
    let mut pins = pins.list(query.server.as_deref());
    pins.retain(|pin| query.tool.as_ref().is_none_or(|tool| *tool == pin.tool));
    ToolPins { pins }
}

/// What one tool is pinned to, with its definitions.
pub(crate) async fn show(pins: &Arc<Pins>, query: ToolQuery) -> Result<ToolPinned, Problem> {
    let (Some(server), Some(tool)) = (query.server, query.tool) else {
        return Err(Problem::bad_request("server and tool have to be given"));
    };
    let (pins, own) = (Arc::clone(pins), (server.clone(), tool.clone()));
    let shown = tokio::task::spawn_blocking(move || pins.show(&own.0, &own.1)).await;
    let internal = |why: String| Problem::new(ProblemCode::Internal, why);
    let shown = shown.map_err(|died| internal(died.to_string()))?;
    shown
        .map_err(|error| internal(error.to_string()))?
        .ok_or_else(|| {
            let message = format!("nothing is pinned of a tool `{tool}` of a server `{server}`");
            Problem::new(ProblemCode::NotFound, message)
                .hint("`agentguard tools list` has what is pinned")
        })
}

#[cfg(test)]
mod tests {
    use super::ToolQuery;

    #[test]
    fn a_query_is_read_as_it_is_written() {
        let query = ToolQuery {
            server: Some("files".to_owned()),
            tool: Some("a/b&c d".to_owned()),
        };
        assert_eq!(ToolQuery::parse(&query.to_query_string()).unwrap(), query);
        assert_eq!(ToolQuery::parse("").unwrap(), ToolQuery::default());
        for (text, why) in [
            ("server=a&server=b", "`server` is given twice"),
            ("name=a", "there is no parameter `name`"),
        ] {
            assert_eq!(ToolQuery::parse(text).unwrap_err().message, why);
        }
    }
}

//! Whose sessions of tool servers are (MCP, "Session Management" of streamable HTTP): whoever was given one. An id that
//! another agent got hold of, from a file or a log, opens nothing to it.

use agentguard_model::AgentId;
use http::HeaderMap;
use quick_cache::sync::Cache;

/// The header field that has a session's id.
const FIELD: &str = "mcp-session-id";

/// How many sessions are known. Of more, those are forgotten that were not used the longest: they are anybody's then.
const MAX_SESSIONS: usize = 16_384;

/// The longest id that is kept, in bytes. A longer one is anybody's: none that is meant is as long.
const MAX_ID: usize = 256;

/// The sessions that servers have begun, by server and id: whose they are. Nobody's alone, where a server gave one to
/// several agents.
pub(crate) struct Sessions(Cache<(String, Vec<u8>), Option<AgentId>>);

impl Default for Sessions {
    fn default() -> Self {
        Self(Cache::new(MAX_SESSIONS))
    }
}

impl Sessions {
    /// Notes whose session an answer begins, if it does.
    pub(crate) fn begun(&self, server: &str, fields: &HeaderMap, agent: AgentId) {
        for id in ids(fields) {
            let key = (server.to_owned(), id.to_owned());
            let owner = match self.0.get(&key) {
                None => Some(agent),
                Some(owner) => owner.filter(|owner| *owner == agent),
            };
            self.0.insert(key, owner);
        }
    }

    /// Whether a request names a session that was begun by another agent.
    pub(crate) fn is_of_another(&self, server: &str, fields: &HeaderMap, agent: AgentId) -> bool {
        ids(fields).any(|id| {
            let owner = self.0.get(&(server.to_owned(), id.to_owned()));
            owner.flatten().is_some_and(|owner| owner != agent)
        })
    }
}

/// The one session that a request names, where it can be told.
pub(crate) fn named(fields: &HeaderMap) -> Option<String> {
    let mut values = fields.get_all(FIELD).iter();
    let id = values.next()?.to_str().ok()?;
    let fits = (1..=MAX_ID).contains(&id.len()) && values.next().is_none();
    fits.then(|| id.to_owned())
}

fn ids(fields: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = fields.get_all(FIELD).iter().map(|value| value.as_bytes());
    values.filter(|id| id.len() <= MAX_ID)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn the_one_session_that_is_named_is_told() {
        let mut fields = HeaderMap::new();
        assert_eq!(named(&fields), None);
        fields.append(FIELD, HeaderValue::from_static("s-1"));
        assert_eq!(named(&fields).as_deref(), Some("s-1"));
        fields.append(FIELD, HeaderValue::from_static("s-2"));
        assert_eq!(named(&fields), None);
        for none in ["", &"x".repeat(MAX_ID + 1)] {
            fields.insert(FIELD, HeaderValue::from_str(none).unwrap());
            assert_eq!(named(&fields), None);
        }
    }

    #[test]
    fn a_session_is_whose_it_was_given_to_alone() {
        let fields = |id: &str| {
            let value = HeaderValue::from_str(id).unwrap();
            HeaderMap::from_iter([(HeaderName::from_static(FIELD), value)])
        };
        let (one, other) = (AgentId(1), AgentId(2));
        let (sessions, long) = (Sessions::default(), "x".repeat(MAX_ID + 1));
        sessions.begun("files", &fields("a"), one);
        sessions.begun("files", &fields("a"), one);
        // A server that knows one session for all.
        sessions.begun("files", &fields("b"), one);
        sessions.begun("files", &fields("b"), other);
        sessions.begun("files", &fields("b"), other);
        sessions.begun("files", &fields(&long), one);
        sessions.begun("files", &HeaderMap::new(), one);
        let is_foreign =
            |server: &str, id: &str, agent| sessions.is_of_another(server, &fields(id), agent);
        assert!(is_foreign("files", "a", other));
        assert!(!is_foreign("files", "a", one) && !is_foreign("files", "b", one));
        for (server, id) in [("files", "b"), ("issues", "a"), ("files", &long)] {
            assert!(!is_foreign(server, id, other), "{server} {id}");
        }
        assert!(!sessions.is_of_another("files", &HeaderMap::new(), other));
    }
}

//! Streams of MCP's older HTTP+SSE (2024-11-05, "HTTP with SSE"): a server tells in the first event where its client is to
//! post to, and answers by the stream. What is refused of what is posted there is answered by it too: its client looks at
//! no response, and some take one that is an error for the end of their session.

use agentguard_model::AgentId;
use agentguard_protocol::mcp::Questions;
use agentguard_protocol::refusal::Refusal;
use agentguard_protocol::sse::Parser;
use bytes::Bytes;
use http::{Response, Uri};
use quick_cache::sync::Cache;
use tokio::sync::mpsc::{self, Receiver, Sender};

/// How many streams are known. Of more, those are forgotten that were not posted to the longest: refusals have a status there.
const MAX_STREAMS: usize = 4_096;

/// The longest place that is kept, in bytes. What is posted to a longer one is refused with a status.
const MAX_PLACE: usize = 2_048;

/// How many refusals wait until their client reads. More have a status.
const MAX_WAITING: usize = 8;

/// The most bytes of one of them: a batch has many answers. A longer one has a status.
const MAX_TOLD: usize = 4 * 1024;

/// Whose stream it is: of which server, of which agent, and where what belongs to it is posted.
type Key = (String, AgentId, String);

/// The streams that are open.
pub(crate) struct Streams(Cache<Key, Sender<Bytes>>);

impl Default for Streams {
    fn default() -> Self {
        Self(Cache::new(MAX_STREAMS))
    }
}

impl Streams {
    /// A stream of an agent's begins with this event, at `host`: where what is refused comes from, if it says where to
    /// post.
    pub(crate) fn begins(
        &self,
        server: &str,
        agent: AgentId,
        host: Option<&str>,
        event: &[u8],
    ) -> Option<Receiver<Bytes>> {
        let place = place(host, event)?;
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        self.0.insert((server.to_owned(), agent, place), sender);
        Some(receiver)
    }

    /// That to which belongs what an agent posts to a place.
    pub(crate) fn of(&self, server: &str, agent: AgentId, place: &Uri) -> Option<Told> {
        let place = place.path_and_query()?.as_str();
        if place.len() > MAX_PLACE {
            return None;
        }
        let key = (server.to_owned(), agent, place.to_owned());
        self.0.get(&key).map(Told)
    }
}

/// Where the event `endpoint` says that is posted to: at the same host alone.
fn place(host: Option<&str>, event: &[u8]) -> Option<String> {
    let mut said = None;
    Parser::new(MAX_PLACE).push(event, &mut |event| {
        if said.is_none() && event.kind == b"endpoint" {
            said = event.data.and_then(|data| Uri::try_from(data).ok());
        }
    });
    let said = said?;
    if said
        .host()
        .is_some_and(|it| !host.is_some_and(|host| it.eq_ignore_ascii_case(host)))
    {
        return None;
    }
    let place = said.path_and_query()?.as_str();
    let absolute = place.starts_with('/') && !place.starts_with("//");
    absolute.then(|| place.to_owned())
}

/// By which clients are told of what is refused.
#[derive(Clone)]
pub(crate) struct Told(Sender<Bytes>);

impl Told {
    /// Answers by the stream. None: it is over, its client does not read, or that would be long.
    pub(super) fn refused(
        &self,
        questions: &Questions,
        refusal: &Refusal<'_>,
    ) -> Option<Response<Bytes>> {
        let (events, accepted) = questions.refused_by_events(refusal)?;
        if events.len() > MAX_TOLD {
            return None;
        }
        self.0.try_send(events).ok()?;
        Some(accepted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_at_the_same_host_and_as_it_is_asked_for() {
        let host = Some("api.example");
        for (event, expected) in [
            (
                "event: endpoint\ndata: /messages/?session_id=1\n\n",
                Some("/messages/?session_id=1"),
            ),
            (
                "event: endpoint\r\ndata: https://API.example:8443/m?a=b\r\n\r\n",
                Some("/m?a=b"),
            ),
            ("event: endpoint\ndata: https://other.example/m\n\n", None),
            ("event: endpoint\ndata: //other.example/m\n\n", None),
            ("event: endpoint\ndata: messages\n\n", None),
            ("event: endpoint\ndata: /a b\n\n", None),
            ("event: endpoint\n\n", None),
            ("data: /messages\n\n", None),
            (": a comment\n\n", None),
        ] {
            let found = place(host, event.as_bytes());
            assert_eq!(found.as_deref(), expected, "{event:?}");
        }
        let long = format!("event: endpoint\ndata: /{}\n\n", "x".repeat(MAX_PLACE));
        assert_eq!(place(host, long.as_bytes()), None);
    }

    #[test]
    fn a_stream_is_its_agent_s_and_its_server_s() {
        let streams = Streams::default();
        let event = b"event: endpoint\ndata: /messages?s=1\n\n";
        let _told = streams.begins("files", AgentId(1), None, event).unwrap();
        let is = |server, agent, place| {
            let place = Uri::from_static(place);
            streams.of(server, AgentId(agent), &place).is_some()
        };
        assert!(is("files", 1, "/messages?s=1"));
        assert!(is("files", 1, "https://api.example/messages?s=1"));
        for (server, agent, place) in [
            ("files", 2, "/messages?s=1"),
            ("issues", 1, "/messages?s=1"),
            ("files", 1, "/messages?s=2"),
            ("files", 1, "/messages"),
        ] {
            assert!(!is(server, agent, place), "{server} {agent} {place}");
        }
    }
}

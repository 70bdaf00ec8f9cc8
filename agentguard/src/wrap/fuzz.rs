//! What passes between an agent and a server that it started: any bytes, in any pieces alike, are the same messages,
//! decided alike, and nothing comes out that was not decided, within the bound and without a panic.
//!
//! Under `cargo test` the target reads its corpus (`__fuzz__/wrapped_lines/corpus`) and random bytes for a moment;
//! `cargo bolero test` goes on for as long as one likes. Random bytes are seldom messages, so each input is read a
//! second time as words of them ([`spelled`]). Who answers is the daemon's own room, with a policy and a record in memory.

use std::collections::VecDeque;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use agentguard_decision::{Decider, Directory, Policies, RecordRefused, Recorder};
use agentguard_local::{Client, Port, serve};
use agentguard_model::contents::Contents;
use agentguard_model::{AgentId, AgentName, Decision, DecisionId, Outcome};
use agentguard_policy::{Document, compile};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::lines::{Line, Lines};
use super::relay;

/// How long the target runs under `cargo test`.
const MOMENT: Duration = Duration::from_secs(2);

/// The most bytes of a line here.
const BOUND: usize = 512;

const POLICY: &str = "
version: 1
tool_servers: [{name: files, api: mcp_stdio, list: allowed}]
agents: [{name: coder}]
rules:
  - {id: read, match: {tool: {server: [files], name: [read]}}, action: allow}
  - {id: clamp, match: {tool: {server: [files], name: [post]}}, action: modify, modify: {clamp: {/n: 1}}}
";

/// What messages are made of.
const WORDS: [&str; 32] = [
    "\n",
    "\r",
    "\r\n",
    "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"read\"}}",
    "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"tools/call\",\"params\":{\"name\":\"write\"}}",
    "{\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"tools/call\",\"params\":{\"name\":\"post\",\"arguments\":{\"n\":7}}}",
    "{\"jsonrpc\":\"2.0\",\"id\":4,\"method\":\"tools/call\",\"params\":{\"name\":\"read\",\"arguments\":{\"a\":",
    "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[{\"name\":\"read\"},{\"name\":\"write\"}]}}",
    "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}",
    "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}",
    "{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"method\":\"sampling/createMessage\"}",
    "{\"jsonrpc\":\"2.0\",\"id\":",
    ",\"method\":\"tools/list\"}",
    ",\"error\":{\"code\":-1,\"message\":\"no\"}}",
    "{",
    "}",
    "[",
    "]",
    "}}}",
    ",",
    ":",
    "\"",
    "\\",
    "\\n",
    "0",
    "-1e9",
    "null",
    " ",
    "\u{2028}",
    "\u{feff}",
    "a",
    "\t",
];

/// An input as words.
fn spelled(input: &[u8]) -> Vec<u8> {
    let word = |byte: &u8| WORDS.get(usize::from(*byte) % WORDS.len());
    input
        .iter()
        .filter_map(word)
        .flat_map(|it| it.bytes())
        .collect()
}

/// Bytes that come in these pieces.
struct Pieces(VecDeque<Vec<u8>>);

impl Pieces {
    fn of<'b>(pieces: impl IntoIterator<Item = &'b [u8]>) -> Self {
        let pieces = pieces.into_iter().filter(|it| !it.is_empty());
        Self(pieces.map(<[u8]>::to_vec).collect())
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if let Some(mut piece) = self.0.pop_front() {
            let rest = piece.split_off(piece.len().min(into.remaining()));
            into.put_slice(&piece);
            if !rest.is_empty() {
                self.0.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[derive(Default)]
struct Memory(Mutex<Vec<Decision>>);

impl Recorder for Memory {
    async fn write(&self, decision: Box<Decision>) -> Result<DecisionId, RecordRefused> {
        let id = decision.id;
        self.0.lock().unwrap().push(*decision);
        Ok(id)
    }

    fn outcome(&self, _: DecisionId, _: Outcome) {}

    fn contents(&self, _: DecisionId, _: &AgentName, _: Contents) {}
}

/// Whoever connects is the agent.
struct Whose;

impl Port for Whose {
    async fn whose(&self, _: &str) -> Option<(AgentId, u32)> {
        Some((AgentId(1), 0))
    }

    fn executable(&self, _: u32) -> Option<String> {
        None
    }
}

/// Who decides.
struct Guard {
    memory: Arc<Memory>,
    socket: PathBuf,
}

impl Guard {
    fn start(directory: &Path) -> Self {
        let document = Document {
            path: "policy.yaml".to_owned(),
            text: POLICY.to_owned(),
        };
        let agents = Directory::default();
        agents.agent(AgentId(1), "coder".parse().unwrap());
        let memory = Arc::<Memory>::default();
        let policies = Policies::new(1, compile(&[document]).unwrap());
        let decider = Decider::new(Arc::new(policies), Arc::new(agents), memory.clone());
        let socket = directory.join("agents.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        agentguard_keeper::packet::tell_senders(listener.as_fd()).unwrap();
        let shutdown = CancellationToken::new();
        tokio::spawn(serve(listener, decider, Whose, shutdown));
        Self { memory, socket }
    }

    /// What was decided since it was last asked, and the texts that came out, in all of which ids are their numbers.
    fn told(&self, texts: [Vec<u8>; 2]) -> (Vec<String>, [String; 2]) {
        let decisions = std::mem::take(&mut *self.memory.0.lock().unwrap());
        let mut texts = texts.map(|text| String::from_utf8_lossy(&text).into_owned());
        for (n, decision) in decisions.iter().enumerate() {
            for text in &mut texts {
                *text = text.replace(&decision.id.to_string(), &format!("#{n}"));
            }
        }
        let told = decisions.iter().map(|it| {
            assert!(it.action.tool.is_some());
            format!("{:?} {:?} {}", it.verdict, it.action, it.reason.message)
        });
        (told.collect(), texts)
    }

    /// What comes of what a client sends (`up`) or a server: decisions, what the server gets and what the client gets.
    async fn relayed(&self, up: bool, pieces: Pieces) -> (Vec<String>, [String; 2]) {
        let asking = tokio::sync::Mutex::new(Client::new(&self.socket, "files"));
        let lines = Lines::within(pieces, BOUND);
        let mut server = Vec::new();
        let client = tokio::sync::Mutex::new(Vec::new());
        let relayed = match up {
            true => relay::send(&asking, lines, &mut server, &client).await,
            false => relay::receive(&asking, lines, &client).await,
        };
        // A server that says too much is ended; a client that does is told.
        assert!(relayed.is_ok() || !up);
        self.told([server, client.into_inner()])
    }
}

/// The lines that pieces are.
async fn lines(pieces: Pieces) -> Vec<Line> {
    let mut reader = Lines::within(pieces, BOUND);
    let mut lines = Vec::new();
    while let Some(line) = reader.next().await.unwrap() {
        if let Line::Message(line) = &line {
            assert!((1..=BOUND).contains(&line.len()));
            assert!(!line.iter().any(|byte| matches!(byte, b'\n' | b'\r')));
        }
        lines.push(line);
    }
    lines
}

/// What came out is lines that came in, as they were, unless the guard wrote them.
fn agrees(came_in: &[Line], came_out: &str, written: impl Fn(&str) -> bool) {
    assert!(came_out.is_empty() || came_out.ends_with('\n'));
    let mut rest = came_in.iter();
    for line in came_out.lines() {
        let is_it =
            |it: &Line| matches!(it, Line::Message(it) if String::from_utf8_lossy(it) == line);
        assert!(written(line) || rest.any(is_it), "{line}");
    }
}

/// Whether a line has a call in it that the policy denies.
fn calls_write(line: &str) -> bool {
    let is_it =
        |it: &serde_json::Value| it["method"] == "tools/call" && it["params"]["name"] == "write";
    match serde_json::from_str(line) {
        Ok(serde_json::Value::Array(batch)) => batch.iter().any(is_it),
        Ok(message) => is_it(&message),
        Err(_) => false,
    }
}

#[test]
fn wrapped_lines() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let guard = runtime.block_on(async { Guard::start(directory.path()) });
    let target = bolero::check!(name = "wrapped_lines").with_test_time(MOMENT);
    target.for_each(|input: &[u8]| {
        for bytes in [input.to_vec(), spelled(input)] {
            runtime.block_on(any_pieces_are_the_same(&guard, &bytes));
        }
    });
}

async fn any_pieces_are_the_same(guard: &Guard, bytes: &[u8]) {
    let at = bytes
        .first()
        .map_or(0, |at| usize::from(*at) * bytes.len() / 256);
    let (one, two) = bytes.split_at(at);
    let splits = || [Pieces::of([one, two]), Pieces::of(bytes.chunks(1))];
    let whole = lines(Pieces::of([bytes])).await;
    for pieces in splits() {
        assert_eq!(whole, lines(pieces).await);
    }
    for up in [true, false] {
        let relayed = guard.relayed(up, Pieces::of([bytes])).await;
        for pieces in splits() {
            assert_eq!(relayed, guard.relayed(up, pieces).await);
        }
        let (decisions, [server, client]) = relayed;
        if up {
            // Each line is decided at least once; what is changed is the guard's own.
            assert!(decisions.len() >= whole.len());
            agrees(&whole, &server, |line| line.contains("\"name\":\"post\""));
            // As a server reads it that ends lines as text does.
            assert!(!server.split(['\n', '\r']).any(calls_write), "{server}");
            assert!(
                client
                    .lines()
                    .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
            );
        } else {
            assert!(server.is_empty());
            let of_the_guard = |line: &str| serde_json::from_str::<serde_json::Value>(line).is_ok();
            agrees(&whole, &client, of_the_guard);
        }
    }
}

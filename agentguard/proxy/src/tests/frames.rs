//! HTTP/2 frame by frame, as no well-meaning client sends it (RFC 9113).

use std::sync::Arc;

use agentguard_model::{ReasonCode, Verdict};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::client::TlsStream;

use super::inspect::{NAME, client, serve_one};
use super::{Rules, World, by_name, codes, soon};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Types (RFC 9113, 6).
const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

// Flags.
const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// A field as HPACK has it without a table (RFC 7541, 6.2.2).
pub(super) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        // Seven bits and then groups of seven (RFC 7541, 5.1).
        let mut left = text.len();
        if left < 127 {
            bytes.push(u8::try_from(left).unwrap());
        } else {
            bytes.push(127);
            left -= 127;
            while left >= 128 {
                bytes.push(u8::try_from(left % 128).unwrap() | 128);
                left /= 128;
            }
            bytes.push(u8::try_from(left).unwrap());
        }
        bytes.extend(text.as_bytes());
    }
    bytes
}

pub(super) fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    list.iter()
        .flat_map(|(name, value)| field(name, value))
        .collect()
}

const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", NAME),
    (":path", "/ok"),
];

/// A request without a body, whose fields are these and more.
pub(super) fn request(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    let block = fields(&[&GET, more].concat());
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
}

pub(super) fn get(stream: u32) -> Vec<u8> {
    request(stream, &[])
}

/// A client that has agreed on HTTP/2, and the upstream behind the guard.
pub(super) struct Hostile {
    stream: TlsStream<TcpStream>,
    upstream: AbortHandle,
}

impl Hostile {
    pub(super) async fn connect(world: &World) -> Self {
        Self::connect_to(world, serve_one).await
    }

    /// With an upstream of its own.
    pub(super) async fn connect_to<S>(
        world: &World,
        serve: impl FnOnce(TcpStream, Arc<ServerConfig>) -> S,
    ) -> Self
    where
        S: Future<Output = ()> + Send + 'static,
    {
        let config = world.upstreams.server(NAME, &["h2"]);
        let shaking = client(world, world.authority.roots(), &["h2"]);
        let upstream = async {
            let stream = world.accept().await;
            tokio::spawn(serve(stream, config)).abort_handle()
        };
        let (stream, upstream) = tokio::join!(shaking, upstream);
        let mut hostile = Self {
            stream: stream.unwrap(),
            upstream,
        };
        let begin = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        hostile.say(&begin).await.unwrap();
        hostile
    }

    pub(super) async fn say(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        soon(self.say_now(bytes)).await
    }

    /// Without end, where the guard does not read.
    pub(super) async fn say_now(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Asks for a sign of life, and waits for it.
    pub(super) async fn ping(&mut self) {
        self.say(&frame(PING, 0, 0, &[7; 8])).await.unwrap();
        loop {
            let (kind, flags, ..) = self.hear().await.expect("the connection is over");
            if (kind, flags) == (PING, ACK) {
                return;
            }
        }
    }

    /// The next frame; none where the connection is over.
    async fn hear(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        soon(self.stream.read_exact(&mut head)).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap()];
        soon(self.stream.read_exact(&mut payload)).await.ok()?;
        Some((kind, flags, u32::from_be_bytes(stream), payload))
    }

    /// How the guard answers, up to the first frame that ends something: a stream (`reset STREAM
    /// CODE`), the connection (`goaway CODE`, `closed`), or an answer (`answer STREAM`).
    pub(super) async fn outcome(&mut self) -> String {
        let code = |payload: &[u8], at: usize| {
            let code = payload.get(at..at + 4).unwrap();
            u32::from_be_bytes(code.try_into().unwrap())
        };
        loop {
            let Some((kind, _, stream, payload)) = self.hear().await else {
                return "closed".to_owned();
            };
            match kind {
                RST_STREAM => return format!("reset {stream} {}", code(&payload, 0)),
                GOAWAY if code(&payload, 4) != 0 => return format!("goaway {}", code(&payload, 4)),
                HEADERS => return format!("answer {stream}"),
                _ => {}
            }
        }
    }

    pub(super) fn end(self) {
        self.upstream.abort();
    }
}

/// Shows that another connection is served.
pub(super) async fn others_are_unharmed(world: &World) {
    let mut other = Hostile::connect(world).await;
    other.say(&get(1)).await.unwrap();
    assert_eq!(other.outcome().await, "answer 1");
    other.end();
}

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const FRAME_SIZE_ERROR: u32 = 6;

/// What the h2 library says in place of the code that the RFC names. The connection ends all the same.
const ANY_ERROR: u32 = PROTOCOL_ERROR;

/// What RFC 9113 calls an error of the connection ends it, with the code it names.
#[tokio::test]
async fn errors_of_the_connection() {
    let open = frame(
        HEADERS,
        END_HEADERS,
        1,
        &fields(&[(":method", "POST"), GET[1], GET[2], GET[3]]),
    );
    let after = |next: Vec<u8>| [open.clone(), next].concat();
    for (section, bytes, code) in [
        (
            "4.2 a frame above the limit",
            frame(DATA, 0, 1, &[0; 16_385]),
            FRAME_SIZE_ERROR,
        ),
        (
            "4.3 a field block that cannot be decoded",
            frame(HEADERS, END_HEADERS, 1, &[0xff; 9]),
            ANY_ERROR,
        ),
        (
            "5.1 DATA for an idle stream",
            frame(DATA, 0, 1, b"x"),
            PROTOCOL_ERROR,
        ),
        (
            "5.1 RST_STREAM for an idle stream",
            frame(RST_STREAM, 0, 1, &[0; 4]),
            PROTOCOL_ERROR,
        ),
        (
            "5.1 WINDOW_UPDATE for an idle stream",
            frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
            PROTOCOL_ERROR,
        ),
        (
            "5.1 CONTINUATION for an idle stream",
            frame(CONTINUATION, END_HEADERS, 1, &[]),
            PROTOCOL_ERROR,
        ),
        ("5.1.1 an even number", get(2), PROTOCOL_ERROR),
        (
            "5.1.1 a number that has passed",
            [get(5), get(3)].concat(),
            PROTOCOL_ERROR,
        ),
        (
            "6.1 DATA for stream 0",
            frame(DATA, 0, 0, b"x"),
            PROTOCOL_ERROR,
        ),
        (
            "6.1 padding beyond the frame",
            after(frame(DATA, PADDED, 1, &[9, 0, 0])),
            PROTOCOL_ERROR,
        ),
        (
            "6.2 HEADERS for stream 0",
            frame(HEADERS, END_HEADERS, 0, &fields(&GET)),
            PROTOCOL_ERROR,
        ),
        (
            "6.2 padding beyond the frame",
            frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0]),
            PROTOCOL_ERROR,
        ),
        (
            "6.2 another frame inside a field block",
            [frame(HEADERS, 0, 1, &fields(&GET)), frame(DATA, 0, 1, b"x")].concat(),
            PROTOCOL_ERROR,
        ),
        (
            "6.2 another stream's frame inside a field block",
            [frame(HEADERS, 0, 1, &fields(&GET)), get(3)].concat(),
            PROTOCOL_ERROR,
        ),
        (
            "6.4 RST_STREAM for stream 0",
            frame(RST_STREAM, 0, 0, &[0; 4]),
            PROTOCOL_ERROR,
        ),
        (
            "6.4 RST_STREAM of another length",
            after(frame(RST_STREAM, 0, 1, &[0; 3])),
            ANY_ERROR,
        ),
        (
            "6.5 SETTINGS for a stream",
            frame(SETTINGS, 0, 1, &[]),
            PROTOCOL_ERROR,
        ),
        (
            "6.5 SETTINGS of another length",
            frame(SETTINGS, 0, 0, &[0; 5]),
            ANY_ERROR,
        ),
        (
            "6.5 an acknowledgement with content",
            frame(SETTINGS, ACK, 0, &[0; 6]),
            ANY_ERROR,
        ),
        (
            "6.5.2 ENABLE_PUSH is 2",
            frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2]),
            PROTOCOL_ERROR,
        ),
        (
            "6.5.2 INITIAL_WINDOW_SIZE above the limit",
            frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]),
            ANY_ERROR,
        ),
        (
            "6.5.2 MAX_FRAME_SIZE is 0",
            frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 0]),
            PROTOCOL_ERROR,
        ),
        (
            "6.5.2 MAX_FRAME_SIZE above the limit",
            frame(SETTINGS, 0, 0, &[0, 5, 1, 0, 0, 0]),
            PROTOCOL_ERROR,
        ),
        (
            "6.6 PUSH_PROMISE from a client",
            after(frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])),
            PROTOCOL_ERROR,
        ),
        (
            "6.7 PING for a stream",
            frame(PING, 0, 1, &[0; 8]),
            PROTOCOL_ERROR,
        ),
        (
            "6.7 PING of another length",
            frame(PING, 0, 0, &[0; 6]),
            ANY_ERROR,
        ),
        (
            "6.8 GOAWAY for a stream",
            frame(GOAWAY, 0, 1, &[0; 8]),
            PROTOCOL_ERROR,
        ),
        (
            "6.9 WINDOW_UPDATE of 0",
            frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
            PROTOCOL_ERROR,
        ),
        (
            "6.9 WINDOW_UPDATE of another length",
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
            ANY_ERROR,
        ),
        (
            "6.9.1 a window above the limit",
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            FLOW_CONTROL_ERROR,
        ),
        (
            "6.10 CONTINUATION for stream 0",
            frame(CONTINUATION, END_HEADERS, 0, &[]),
            PROTOCOL_ERROR,
        ),
        (
            "6.10 CONTINUATION after the block's end",
            [get(1), frame(CONTINUATION, END_HEADERS, 1, &[])].concat(),
            PROTOCOL_ERROR,
        ),
    ] {
        let world = by_name(Rules::Inspect).build().await;
        let mut hostile = Hostile::connect(&world).await;
        // A guard that closed already may refuse to read on.
        let _ = hostile.say(&bytes).await;
        let mut outcome = hostile.outcome().await;
        if outcome == "answer 1" || outcome == "answer 5" {
            outcome = hostile.outcome().await;
        }
        assert_eq!(outcome, format!("goaway {code}"), "{section}");
        others_are_unharmed(&world).await;
        hostile.end();
        let decisions = world.end().await;
        let refused = decisions.iter().filter(|decision| {
            decision.verdict == Verdict::Deny && decision.reason.code == ReasonCode::HttpMalformed
        });
        assert_eq!(refused.count(), 1, "{section}: {decisions:#?}");
    }
}

/// What it calls an error of the stream, or a malformed request, ends that and nothing else.
#[tokio::test]
async fn errors_of_a_stream() {
    let post = [(":method", "POST"), GET[1], GET[2], GET[3]];
    let with = |block: &[(&str, &str)]| frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields(block));
    let long = [&post[..], &[("content-length", "9")]].concat();
    for (section, bytes) in [
        (
            "5.1 DATA after the end",
            [get(1), frame(DATA, 0, 1, b"x")].concat(),
        ),
        ("8.1.1 less content than its length", with(&long)),
        (
            "8.1.1 more content than its length",
            [
                frame(
                    HEADERS,
                    END_HEADERS,
                    1,
                    &fields(&[&post[..], &[("content-length", "1")]].concat()),
                ),
                frame(DATA, END_STREAM, 1, b"xx"),
            ]
            .concat(),
        ),
        ("8.2.1 an upper case name", request(1, &[("X-Upper", "1")])),
        (
            "8.2.1 a line break in a value",
            request(1, &[("x", "a\r\nb: c")]),
        ),
        ("8.2.2 Connection", request(1, &[("connection", "close")])),
        (
            "8.2.2 Transfer-Encoding",
            request(1, &[("transfer-encoding", "chunked")]),
        ),
        ("8.2.2 Keep-Alive", request(1, &[("keep-alive", "1")])),
        (
            "8.2.2 TE other than trailers",
            request(1, &[("te", "gzip")]),
        ),
        (
            "8.3 a pseudo field after a field",
            with(&[("x", "1"), GET[0], GET[1], GET[2], GET[3]]),
        ),
        (
            "8.3 an unknown pseudo field",
            with(&[GET[0], GET[1], GET[2], GET[3], (":x", "1")]),
        ),
        (
            "8.3 a pseudo field of answers",
            with(&[GET[0], GET[1], GET[2], GET[3], (":status", "200")]),
        ),
        ("8.3.1 no method", with(&[GET[1], GET[2], GET[3]])),
        ("8.3.1 no scheme", with(&[GET[0], GET[2], GET[3]])),
        ("8.3.1 no path", with(&[GET[0], GET[1], GET[2]])),
        (
            "8.3.1 an empty path",
            with(&[GET[0], GET[1], GET[2], (":path", "")]),
        ),
        (
            "8.3.1 two methods",
            with(&[GET[0], GET[0], GET[1], GET[2], GET[3]]),
        ),
        (
            "8.3.1 two paths",
            with(&[GET[0], GET[1], GET[2], GET[3], (":path", "/ok/2")]),
        ),
        (
            "6.9 WINDOW_UPDATE of 0",
            [
                frame(HEADERS, END_HEADERS, 1, &fields(&post)),
                frame(WINDOW_UPDATE, 0, 1, &[0; 4]),
            ]
            .concat(),
        ),
        (
            "6.3 PRIORITY of another length",
            [
                frame(HEADERS, END_HEADERS, 1, &fields(&post)),
                frame(PRIORITY, 0, 1, &[0; 4]),
            ]
            .concat(),
        ),
    ] {
        let world = by_name(Rules::Inspect).build().await;
        let mut hostile = Hostile::connect(&world).await;
        hostile.say(&bytes).await.unwrap();
        let outcome = hostile.outcome().await;
        // A recipient may take it for an error of the connection (RFC 9113, 5.4.2).
        match outcome.as_str() {
            "goaway 1" => {}
            "reset 1 1" => {
                hostile.say(&get(3)).await.unwrap();
                assert_eq!(hostile.outcome().await, "answer 3", "{section}");
            }
            _ => panic!("{section}: {outcome}"),
        }
        hostile.end();
        let malformed = (Verdict::Deny, ReasonCode::HttpMalformed);
        let decisions = codes(&world.end().await);
        let told = decisions.iter().filter(|code| **code == malformed);
        assert_eq!(told.count(), 1, "{section}: {decisions:?}");
        // A malformed request is none: what is allowed is the one behind it.
        if section.starts_with("8.2") || section.starts_with("8.3") {
            let allowed = decisions.iter().filter(|code| code.0 == Verdict::Allow);
            assert_eq!(
                allowed.count(),
                usize::from(outcome == "reset 1 1"),
                "{section}"
            );
        }
    }
}

//! What is held back, asked about and cut.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use agentguard_decision::Decided;
use agentguard_model::{AgentId, Handling, Reason, ReasonCode};
use agentguard_protocol::websocket::{Assembler, Side};
use flate2::{Compress, Compression, FlushCompress};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::hold::{MAX_HELD, MessageSizes, SizeHold};
use super::lane::{Lane, Out};
use super::{Closes, Stopped};
use crate::decoders::{Decoders, Decoding};
use crate::pump::Ended;

/// A rule on sizes: at each of the limits it is asked, and at the last one it may deny.
#[derive(Clone, Default)]
struct Rule {
    limits: VecDeque<u64>,
    denies: bool,
    asked: Arc<Mutex<Vec<u64>>>,
    /// Whether others have taken all the memory.
    full: bool,
}

impl Rule {
    fn at(limits: &[u64], denies: bool) -> Self {
        Self {
            limits: limits.iter().copied().collect(),
            denies,
            ..Self::default()
        }
    }

    fn asked(&self) -> Vec<u64> {
        self.asked.lock().unwrap().clone()
    }
}

fn denied() -> Decided {
    Decided {
        id: None,
        allowed: false,
        handling: Handling::Inspect,
        reason: Reason::new(ReasonCode::RuleDeny, "too large"),
        changes: Box::default(),
        cuts: false,
        aside: None,
        started: Instant::now(),
    }
}

impl MessageSizes for Rule {
    fn next_limit(&self) -> Option<u64> {
        self.limits.front().copied()
    }

    fn changed(&mut self) -> bool {
        false
    }

    async fn change(&mut self) {
        std::future::pending::<()>().await;
    }

    fn room(&self) -> Option<Decoding> {
        let decoders = Arc::<Decoders>::default();
        let rest = decoders.take(AgentId(1), 128 << 20).filter(|_| self.full);
        let room = decoders.take(AgentId(1), MAX_HELD);
        assert_eq!(rest.is_some(), room.is_none());
        room
    }

    async fn unread(&mut self) -> Result<(), Decided> {
        Err(denied())
    }

    async fn passes(&mut self, size: u64) -> Result<(), Decided> {
        self.asked.lock().unwrap().push(size);
        tokio::task::yield_now().await;
        self.limits.pop_front();
        match self.limits.is_empty() && self.denies {
            true => Err(denied()),
            false => Ok(()),
        }
    }
}

/// A client's frame, with a mask that changes nothing.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match u8::try_from(payload.len()) {
        Ok(length @ 0..126) => bytes.push(0x80 | length),
        _ => match u16::try_from(payload.len()) {
            Ok(length) => {
                bytes.push(0x80 | 126);
                bytes.extend_from_slice(&length.to_be_bytes());
            }
            Err(_) => {
                bytes.push(0x80 | 127);
                bytes.extend_from_slice(&(payload.len() as u64).to_be_bytes());
            }
        },
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}

struct Passed {
    bytes: Vec<u8>,
    messages: u64,
    ended: Result<Ended, Stopped>,
    asked: Vec<u64>,
}

/// What passes of these bytes, which are all there is.
async fn pass(bytes: &[u8], rule: Rule) -> Passed {
    let (written, messages, closes) = (AtomicU64::new(0), AtomicU64::new(0), Closes::default());
    let mut out = Out::new(Vec::new(), &written);
    let begin = || rule.clone();
    let mut hold = SizeHold::new(begin, Assembler::new(MAX_HELD, true), true);
    let mut lane = Lane::new(Side::Client, true, 16 * 1024, &[]);
    let mut reader = bytes;
    let ended = lane
        .run(&mut reader, &mut out, &mut hold, &messages, &closes)
        .await;
    let (mut bytes, pending) = out.into_inner();
    bytes.extend_from_slice(&pending);
    Passed {
        bytes,
        messages: messages.load(Ordering::Relaxed),
        ended,
        asked: rule.asked(),
    }
}

#[tokio::test]
async fn where_memory_is_short_a_message_goes_on_and_is_cut() {
    let message = [
        frame(0x02, &[1; 12_000]),
        frame(0x00, &[1; 12_000]),
        frame(0x80, &[1; 12_000]),
    ];
    for full in [false, true] {
        let rule = Rule {
            full,
            ..Rule::at(&[30_000], true)
        };
        let passed = pass(&message.concat(), rule).await;
        assert!(matches!(passed.ended, Err(Stopped::Denied(_))));
        let expected = if full {
            message[..2].concat()
        } else {
            Vec::new()
        };
        assert!(passed.bytes == expected, "{}", passed.bytes.len());
    }
}

struct Deflater(Compress);

impl Deflater {
    fn new() -> Self {
        Self(Compress::new(Compression::best(), false))
    }

    fn message(&mut self, text: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 1024 + text.len()];
        let before = self.0.total_out();
        self.0
            .compress(text, &mut out, FlushCompress::Sync)
            .unwrap();
        out.truncate(usize::try_from(self.0.total_out() - before).unwrap() - 4);
        out
    }
}

#[tokio::test]
async fn a_rule_is_asked_at_its_limits_and_not_below() {
    let small = frame(0x82, &[1; 9]);
    let fragments = [frame(0x02, &[1; 9]), frame(0x80, &[1; 9])].concat();
    for (bytes, limits, asked) in [
        (&small, &[][..], &[][..]),
        (&small, &[10], &[]),
        (&small, &[9], &[9]),
        (&small, &[1, 9, 10], &[9, 9]),
        (&fragments, &[18], &[18]),
        (&fragments, &[5, 10], &[9, 18]),
    ] {
        let passed = pass(bytes, Rule::at(limits, false)).await;
        assert!(
            matches!(passed.ended, Ok(Ended::Finished)),
            "{:?}",
            passed.ended
        );
        assert_eq!((&passed.bytes, passed.messages), (bytes, 1));
        assert_eq!(passed.asked, asked, "{limits:?}");
    }
}

#[tokio::test]
async fn nothing_of_a_message_that_is_denied_leaves() {
    let before = frame(0x81, b"before");
    for message in [
        frame(0x82, &[1; 100]),
        [frame(0x02, &[1; 50]), frame(0x80, &[1; 50])].concat(),
        frame(0x82, &vec![1; MAX_HELD / 2]),
        // Small on the wire.
        frame(0xc2, &Deflater::new().message(&[1; 100_000])),
    ] {
        let bytes = [&before[..], &message, &frame(0x81, b"behind")].concat();
        let passed = pass(&bytes, Rule::at(&[100], true)).await;
        let Err(Stopped::Denied(decided)) = passed.ended else {
            panic!("{:?}", passed.ended);
        };
        assert_eq!(decided.reason.message, "too large");
        assert_eq!((&passed.bytes, passed.messages), (&before, 1));
    }
}

#[tokio::test]
async fn deflated_messages_are_as_large_as_what_they_say() {
    let mut deflater = Deflater::new();
    let text = [b'a'; 50_000];
    let messages: Vec<Vec<u8>> = (0..3)
        .map(|_| frame(0xc1, &deflater.message(&text)))
        .collect();
    let passed = pass(&messages.concat(), Rule::at(&[50_000], false)).await;
    assert_eq!(passed.asked, [50_000; 3]);
    assert_eq!(passed.messages, 3);
    assert_eq!(passed.bytes, messages.concat());
    // One that is none of deflate, and a text that is none, once somebody looks.
    for (payload, code) in [(vec![0xff; 9], 1002), (deflater.message(b"\xff"), 1007)] {
        let bytes = frame(0xc1, &payload);
        let passed = pass(&bytes, Rule::at(&[50_000], false)).await;
        let Err(Stopped::Malformed(Side::Client, violation)) = passed.ended else {
            panic!("{:?}", passed.ended);
        };
        assert_eq!(violation.code(), code);
        assert_eq!(passed.bytes, b"");
        assert_eq!(pass(&bytes, Rule::default()).await.bytes, bytes);
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_to_be_held_is_cut_where_it_is_denied() {
    const LIMIT: u64 = 3 << 20;
    let message = frame(0x82, &vec![1; 5 << 20]);
    let passed = pass(&message, Rule::at(&[LIMIT], true)).await;
    assert!(matches!(passed.ended, Err(Stopped::Denied(_))));
    // Behind a head of 14 bytes.
    let cut = passed.bytes.len() as u64 - 14;
    assert!((LIMIT - 64 * 1024..LIMIT).contains(&cut), "{cut}");
    assert_eq!(passed.messages, 0);
    let passed = pass(&message, Rule::at(&[LIMIT], false)).await;
    assert_eq!((passed.bytes.len(), passed.messages), (message.len(), 1));
}

/// A lane whose two ends are in the test's hands.
fn lane(
    rule: Rule,
) -> (
    DuplexStream,
    DuplexStream,
    tokio::task::JoinHandle<Result<Ended, Stopped>>,
) {
    let (client, mut reader) = duplex(64 * 1024);
    let (writer, upstream) = duplex(64 * 1024);
    let running = tokio::spawn(async move {
        let (written, messages, closes) = (AtomicU64::new(0), AtomicU64::new(0), Closes::default());
        let mut out = Out::new(writer, &written);
        let mut hold = SizeHold::new(|| rule.clone(), Assembler::new(MAX_HELD, true), true);
        let mut lane = Lane::new(Side::Client, true, 16 * 1024, &[]);
        lane.run(&mut reader, &mut out, &mut hold, &messages, &closes)
            .await
    });
    (client, upstream, running)
}

async fn read(stream: &mut DuplexStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn a_message_is_held_until_it_is_whole_and_a_ping_is_not() {
    let (mut client, mut upstream, running) = lane(Rule::at(&[1000], true));
    let [first, ping, last] = [
        frame(0x01, b"one "),
        frame(0x89, b"?"),
        frame(0x80, b"message"),
    ];
    client.write_all(&first).await.unwrap();
    client.write_all(&ping).await.unwrap();
    // The ping comes first: nothing of the message is there.
    assert_eq!(read(&mut upstream, ping.len()).await, ping);
    client.write_all(&last).await.unwrap();
    let message = [first, last].concat();
    assert_eq!(read(&mut upstream, message.len()).await, message);
    drop(client);
    assert!(matches!(running.await.unwrap(), Ok(Ended::Finished)));
}

#[tokio::test]
async fn without_a_limit_nothing_is_held() {
    // Asked once, at the first byte, and never again.
    for rule in [Rule::default(), Rule::at(&[1], false)] {
        let (mut client, mut upstream, running) = lane(rule);
        for part in [frame(0x01, b"one "), frame(0x00, b"more"), frame(0x80, b"")] {
            client.write_all(&part).await.unwrap();
            assert_eq!(read(&mut upstream, part.len()).await, part);
        }
        drop(client);
        assert!(matches!(running.await.unwrap(), Ok(Ended::Finished)));
    }
}

/// The rule comes with a policy that came later: what earlier messages said is not known.
#[tokio::test]
async fn a_message_that_refers_to_what_nobody_read_does_not_pass_a_rule() {
    for takeover in [true, false] {
        let ruled = std::sync::atomic::AtomicBool::new(false);
        let begin = || {
            let limits: &[u64] = if ruled.swap(true, Ordering::Relaxed) {
                &[1000]
            } else {
                &[]
            };
            Rule::at(limits, true)
        };
        let (written, messages, closes) = (AtomicU64::new(0), AtomicU64::new(0), Closes::default());
        let mut out = Out::new(Vec::new(), &written);
        let mut hold = SizeHold::new(begin, Assembler::new(MAX_HELD, takeover), takeover);
        let mut lane = Lane::new(Side::Client, true, 16 * 1024, &[]);
        let message = frame(0xc1, &Deflater::new().message(b"text"));
        let bytes = message.repeat(2);
        let mut reader = &bytes[..];
        let ended = lane
            .run(&mut reader, &mut out, &mut hold, &messages, &closes)
            .await;
        if takeover {
            assert!(matches!(ended, Err(Stopped::Denied(_))), "{ended:?}");
            assert_eq!(messages.load(Ordering::Relaxed), 1);
        } else {
            assert!(matches!(ended, Ok(Ended::Finished)), "{ended:?}");
            assert_eq!(messages.load(Ordering::Relaxed), 2);
        }
    }
}

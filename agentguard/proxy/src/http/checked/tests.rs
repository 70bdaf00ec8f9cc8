//! Streams on their way, in pieces of any size: AWS's event streams here, lists in [`lists`].

mod lists;

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use agentguard_decision::{Asked, Changes, Decided, Held};
use agentguard_model::{AgentId, Handling, Llm, LlmOperation, Reason, ReasonCode};
use agentguard_protocol::eventstream::{message, messages};
use agentguard_protocol::llm::{Cutter, Endpoint};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
use serde_json::{Value, json};

use super::{Checked, MAX_EVENT};
use crate::decoders::Decoding;
use crate::http::checks::Checks;
use crate::http::growth::{Asking, Judge};
use crate::http::reading::Reading;
use crate::http::says::Answering;

const CONVERSE: Endpoint = Endpoint::Converse { stream: true };

/// Denies calls of `shell`, and what cannot be read.
struct NoShell {
    cuts: bool,
}

impl Judge for NoShell {
    fn written(self: Arc<Self>, _: Arc<Asked>, _: Arc<Held>, _: u64) -> Asking {
        Box::pin(std::future::ready(None))
    }

    fn limit(&self, _: &Asked) -> Option<u64> {
        None
    }

    fn ask(self: Arc<Self>, asked: Arc<Asked>, _: Option<String>) -> Asking {
        let llm = asked.seen().llm.unwrap();
        let denied = llm.asks_unread || llm.asks.iter().any(|tool| tool == "shell");
        let decided = denied.then(|| Decided {
            id: None,
            allowed: false,
            handling: Handling::Inspect,
            reason: Reason::new(ReasonCode::RuleDeny, "No shell."),
            changes: Box::default(),
            cuts: self.cuts,
            aside: None,
            started: Instant::now(),
        });
        Box::pin(async { decided })
    }

    fn changes(&self) -> Changes {
        crate::tests::no_changes()
    }

    fn room(&self, memory: usize) -> Option<Decoding> {
        Arc::<crate::decoders::Decoders>::default().take(AgentId(1), memory)
    }
}

/// A stream on its way.
struct Passing {
    checked: Checked,
    reading: Reading,
    /// What went on.
    went: Vec<u8>,
}

impl Passing {
    /// One of AWS's.
    fn new(cuts: bool) -> Self {
        Self::of(CONVERSE, "application/vnd.amazon.eventstream", cuts)
    }

    fn of(endpoint: Endpoint, kind: &'static str, cuts: bool) -> Self {
        let llm = Llm {
            provider: "aws".to_owned(),
            operation: LlmOperation::Chat,
            model: None,
            stream: true,
            max_output_tokens: None,
            tools: Vec::new(),
            asks: Vec::new(),
            asks_unread: false,
            not_understood: None,
        };
        let asked = Asked::new("POST", "/", None, HeaderMap::new(), None).calling(llm);
        let cutter = cuts.then(|| Cutter::new(endpoint));
        let checks = Checks::new(Arc::new(NoShell { cuts }), Arc::new(asked), cutter);
        let fields = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
        let reading = Reading::of(&fields, Some(Answering::Llm(endpoint)), |_| None);
        Self {
            checked: Checked::new(checks),
            reading: reading.unwrap().unwrap(),
            went: Vec::new(),
        }
    }

    /// The next piece of it. Whether it may go on.
    fn take(&mut self, piece: &[u8]) -> bool {
        self.checked.take(Bytes::copy_from_slice(piece));
        self.goes()
    }

    fn goes(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let (checked, reading) = (&mut self.checked, &mut self.reading);
        loop {
            match checked.poll(&mut cx, reading, &mut 0) {
                Poll::Ready(Ok(Some(data))) => self.went.extend_from_slice(&data),
                Poll::Ready(Ok(None)) => return true,
                Poll::Ready(Err(_)) => return false,
                Poll::Pending => panic!("who decides does not wait"),
            }
        }
    }

    /// All of it, in pieces of these sizes, over and over. Whether it went on to its end.
    fn all(&mut self, mut stream: &[u8], sizes: &[usize]) -> bool {
        for size in sizes.iter().cycle() {
            let (piece, rest) = stream.split_at_checked(*size).unwrap_or((stream, &[]));
            if piece.is_empty() {
                break;
            }
            if !self.take(piece) {
                return false;
            }
            stream = rest;
        }
        if self.checked.size() > 0 {
            self.checked.end(&mut self.reading);
        }
        self.goes()
    }
}

fn event(kind: &str, data: &Value) -> Vec<u8> {
    let headers = [(":event-type", kind), (":message-type", "event")];
    message(&headers, data.to_string().as_bytes()).unwrap()
}

/// A text, a call of this tool, and the end: each whole message.
fn stream(tool: &str) -> Vec<Vec<u8>> {
    let said = json!({"contentBlockIndex": 0, "delta": {"text": "x\r\n\ny"}});
    let call = json!({"toolUse": {"toolUseId": "t", "name": tool}});
    let more = json!({"contentBlockIndex": 1, "delta": {"toolUse": {"input": "{}"}}});
    vec![
        event("contentBlockDelta", &said),
        event(
            "contentBlockStart",
            &json!({"contentBlockIndex": 1, "start": call}),
        ),
        event("contentBlockDelta", &more),
        event("contentBlockStop", &json!({"contentBlockIndex": 1})),
        event("messageStop", &json!({"stopReason": "tool_use"})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_message_of_aws_goes_on_as_soon_as_it_is_whole(
        sizes in vec(1_usize..300, 1..20),
        cuts in any::<bool>(),
    ) {
        let messages = stream("look");
        let all = messages.concat();
        let ends = messages.iter().scan(0, |end, message| {
            *end += message.len();
            Some(*end)
        });
        let ends: Vec<usize> = ends.collect();
        let (mut passing, mut came) = (Passing::new(cuts), 0);
        for size in sizes.iter().cycle() {
            let piece = &all[came..all.len().min(came + size)];
            if piece.is_empty() {
                break;
            }
            prop_assert!(passing.take(piece));
            came += piece.len();
            let whole = ends.iter().rfind(|end| **end <= came).copied().unwrap_or_default();
            prop_assert_eq!(&passing.went, &all[..whole]);
        }
        prop_assert_eq!(passing.checked.size(), 0);
    }

    #[test]
    fn a_stream_of_aws_ends_before_the_message_that_asks(sizes in vec(1_usize..300, 1..20)) {
        let messages = stream("shell");
        let mut passing = Passing::new(false);
        prop_assert!(!passing.all(&messages.concat(), &sizes));
        prop_assert_eq!(&passing.went, &messages[0]);
    }

    #[test]
    fn a_call_is_cut_out_of_messages_of_aws_in_pieces(sizes in vec(1_usize..300, 1..20)) {
        let all = stream("shell").concat();
        let (mut whole, mut passing) = (Passing::new(true), Passing::new(true));
        prop_assert!(whole.all(&all, &[all.len()]));
        prop_assert!(passing.all(&all, &sizes));
        prop_assert_eq!(&passing.went, &whole.went);
        let went = messages(&passing.went).unwrap();
        let kinds: Vec<&str> = went.iter().filter_map(|it| it.head.event).collect();
        let expected = ["contentBlockDelta", "contentBlockDelta", "contentBlockStop", "messageStop"];
        prop_assert_eq!(kinds, expected);
        let said: Value = serde_json::from_slice(went[1].payload).unwrap();
        prop_assert_eq!(&said["delta"]["text"], &json!("No shell."));
        let stop: Value = serde_json::from_slice(went[3].payload).unwrap();
        prop_assert_eq!(stop, json!({"stopReason": "end_turn"}));
    }

    #[test]
    fn what_is_wrong_with_a_message_of_aws_ends_its_stream(
        sizes in vec(1_usize..300, 1..20),
        at in any::<proptest::sample::Index>(),
        bit in 0_u8..8,
        cuts in any::<bool>(),
    ) {
        let mut messages = stream("look");
        let at = at.index(messages[1].len());
        messages[1][at] ^= 1 << bit;
        let mut passing = Passing::new(cuts);
        prop_assert!(!passing.all(&messages.concat(), &sizes));
        prop_assert_eq!(&passing.went, &messages[0]);
    }
}

#[test]
fn a_message_of_aws_that_has_no_end_is_not_read() {
    let messages = stream("look");
    let all = messages.concat();
    let (first, last) = (messages[0].len(), all.len());
    for end in [first + 1, first + messages[1].len() - 1] {
        let mut passing = Passing::new(false);
        assert!(!passing.all(&all[..end], &[last]));
        assert_eq!(passing.went, messages[0], "{end}");
    }
}

#[test]
fn a_message_of_aws_is_held_up_to_a_bound() {
    let padded = |pad: usize| {
        let data = json!({"contentBlockIndex": 0, "delta": {"text": "x".repeat(pad)}});
        event("contentBlockDelta", &data)
    };
    let beside = padded(0).len();
    for (size, goes) in [(MAX_EVENT, true), (MAX_EVENT + 1, false)] {
        let mut messages = stream("look");
        messages.insert(1, padded(size - beside));
        assert_eq!(messages[1].len(), size);
        let all = messages.concat();
        for piece in [16 * 1024, all.len()] {
            let mut passing = Passing::new(false);
            assert_eq!(passing.all(&all, &[piece]), goes);
            let expected = if goes { &all } else { &messages[0] };
            assert!(passing.went == *expected, "{size} {piece}");
        }
    }
}

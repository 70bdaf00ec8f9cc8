//! Input that is counted where its bytes are too many for what is left.

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agentguard_budget::Embedded;
use agentguard_model::{BudgetLine, Demand, Llm, LlmOperation, ReasonCode, Usage};
use futures_util::poll;
use jiff::Timestamp;
use tempfile::TempDir;

use super::{Memory, asked, client, deciding, last, target};
use crate::{Accounting, Asked, Decided, Decider, Says, Used};

const OPENAI: &str = "api.openai.com";

/// With one budget, of this unit and limit.
fn charging(unit: &str, limit: &str) -> (Decider<Memory>, TempDir) {
    let policy = format!(
        "
version: 1
agents: [{{name: coder}}, {{name: watched}}]
rules: [{{id: all, match: {{host: ['*.openai.com', '*.anthropic.com']}}, action: allow}}]
budgets: [{{id: one, unit: {unit}, limit: {limit}, window: lifetime}}]
"
    );
    let directory = tempfile::tempdir().unwrap();
    let ledger = Embedded::open(directory.path(), Timestamp::now()).unwrap();
    let decider = deciding(&policy).charging(Arc::new(Accounting::new(Arc::new(ledger))));
    (decider, directory)
}

/// A call with what it says, and how many pieces of that were read.
struct Call {
    asked: Asked,
    body: String,
    read: AtomicUsize,
}

/// The bytes of one of its pieces.
const PIECE: usize = 1024;

impl Says for Call {
    fn pieces(&self) -> Box<dyn Iterator<Item = Cow<'_, [u8]>> + Send + '_> {
        Box::new(self.body.as_bytes().chunks(PIECE).map(|piece| {
            self.read.fetch_add(1, Ordering::Relaxed);
            Cow::Borrowed(piece)
        }))
    }
}

impl Call {
    /// To a model, that may write so many tokens.
    fn of(model: &str, output: u64, text: &str) -> Self {
        let body =
            format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"{text}"}}]}}"#);
        Self::saying(model, output, body)
    }

    fn saying(model: &str, output: u64, body: String) -> Self {
        let llm = Llm {
            provider: match model.starts_with("claude") {
                true => "anthropic".to_owned(),
                false => "openai".to_owned(),
            },
            operation: LlmOperation::Chat,
            model: Some(model.to_owned()),
            stream: false,
            max_output_tokens: Some(output),
            tools: Vec::new(),
            asks: Vec::new(),
            asks_unread: false,
            not_understood: None,
        };
        let demand = Demand {
            parts: 1,
            ..Demand::default()
        };
        let asked = asked("POST", "/v1/chat/completions")
            .calling(llm)
            .demanding(demand);
        asked.grew(body.len() as u64);
        Self {
            asked,
            body,
            read: AtomicUsize::new(0),
        }
    }

    fn streaming(self) -> Self {
        self.but(|it| it.stream = true)
    }

    /// The same with another call of a model.
    fn but(mut self, change: impl FnOnce(&mut Llm)) -> Self {
        let mut llm = self.asked.seen().llm.cloned().unwrap();
        change(&mut llm);
        let again = Self::saying("gpt-4o", 0, self.body.clone());
        self.asked = again.asked.calling(llm);
        self
    }

    async fn decided(&self, decider: &Decider<Memory>) -> Decided {
        self.decided_of(decider, 1).await
    }

    async fn decided_of(&self, decider: &Decider<Memory>, agent: u32) -> Decided {
        let target = target(OPENAI, 443);
        decider
            .request_saying(&client(agent), &target, &[], &self.asked, Some(self))
            .await
    }

    /// How many of its pieces were read so far.
    fn read(&self) -> usize {
        self.read.load(Ordering::Relaxed)
    }

    fn pieces(&self) -> usize {
        self.body.len().div_ceil(PIECE)
    }
}

/// A text of so many bytes, of which about five are a token.
fn text(bytes: usize) -> String {
    "The quick brown fox jumps over the lazy dog. ".repeat(bytes / 45)
}

/// Some text of which a token has few bytes, and always the same.
fn dense(bytes: usize) -> String {
    let mut state = 1_u32;
    let letters = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b"0123456789abcdefGHIJKLMNOPQRST=+"[(state >> 27) as usize])
    });
    letters.take(bytes).collect()
}

fn line(decider: &Decider<Memory>) -> BudgetLine {
    last(decider).budget[0].clone()
}

#[tokio::test]
async fn a_call_that_fits_by_its_tokens_and_not_by_its_bytes_goes() {
    for (unit, limit, bound) in [
        ("tokens", "8000", 7_000),
        ("input_tokens", "8000", 7_000),
        ("cached_tokens", "8000", 7_000),
        // 2.5 and 10 dollars for a million tokens of input and of output.
        ("micro_usd", "$0.02", 20_000),
    ] {
        let (decider, _ledger) = charging(unit, limit);
        let call = Call::of("gpt-4o", 100, &text(20_000));
        let decided = call.decided(&decider).await;
        assert!(decided.allowed, "{unit}: {:?}", decided.reason);
        assert_eq!(call.read(), call.pieces(), "{unit}");
        let line = line(&decider);
        assert!(line.counted, "{unit}");
        assert_eq!(line.clamped, None, "{unit}");
        // 20 KB are some 4,450 tokens.
        assert!(
            (4_450..bound).contains(&line.reserved),
            "{unit}: {}",
            line.reserved
        );
        // What is reported is what it costs, and what was reserved beyond that comes back.
        let usage = Usage {
            input_tokens: Some(4_460),
            output_tokens: Some(50),
            ..Usage::default()
        };
        let held = decided.held().unwrap();
        held.leaves();
        let settled = &held.settle(Used::Reported(&usage))[0];
        let expected = match unit {
            "tokens" => 4_510,
            "input_tokens" => 4_460,
            "cached_tokens" => 0,
            _ => 11_650,
        };
        assert_eq!(settled.settled, Some(expected), "{unit}");
        assert_eq!(settled.overshoot, None, "{unit}");
        assert!(settled.counted, "{unit}");
    }
}

/// Of what is not English, older models read far more tokens than those that came later.
#[tokio::test]
async fn each_model_is_counted_by_its_own_tokenizer() {
    // 14 tokens for GPT-4 and 4 for GPT-4o, of 38 bytes.
    let hindi = "नमस्ते दुनिया ".repeat(500);
    for (model, operation, expected) in [
        ("gpt-4o", LlmOperation::Chat, 2_000..2_500),
        ("gpt-4-turbo", LlmOperation::Chat, 7_000..7_500),
        ("gpt-3.5-turbo", LlmOperation::Chat, 7_000..7_500),
        // Around these more may be written.
        (
            "text-embedding-3-small",
            LlmOperation::Embeddings,
            9_000..9_500,
        ),
    ] {
        let call = || Call::of(model, 100, &hindi).but(|it| it.operation = operation);
        let (decider, _ledger) = charging("input_tokens", "10000");
        let decided = call().decided(&decider).await;
        assert!(decided.allowed, "{model}: {:?}", decided.reason);
        let line = line(&decider);
        assert!(line.counted, "{model}");
        assert!(expected.contains(&line.reserved), "{model}: {line:?}");
        // It has no room with one less.
        let (decider, _ledger) = charging("input_tokens", &(line.reserved - 1).to_string());
        let decided = call().decided(&decider).await;
        assert_eq!(decided.reason.code, ReasonCode::BudgetExhausted, "{model}");
    }
}

/// An agent whose calls are slow to count waits for itself.
#[tokio::test]
async fn one_call_of_each_agent_is_counted_at_a_time() {
    let (decider, _ledger) = charging("tokens", "120000");
    let calls = [(); 3].map(|()| Call::of("gpt-4o", 100, &text(150_000)));
    let [first, second, other] = &calls;
    let mut going = pin!(first.decided_of(&decider, 1));
    let mut waiting = pin!(second.decided_of(&decider, 1));
    let mut others = pin!(other.decided_of(&decider, 2));
    for _ in 0..10 {
        assert!(poll!(going.as_mut()).is_pending());
        assert!(poll!(waiting.as_mut()).is_pending());
        assert!(poll!(others.as_mut()).is_pending());
    }
    assert!((1..first.pieces()).contains(&first.read()));
    assert_eq!(second.read(), 0);
    assert!((1..other.pieces()).contains(&other.read()));
    let mut held = Vec::new();
    for decided in [others.await, going.await, waiting.await] {
        assert!(decided.allowed, "{:?}", decided.reason);
        held.push(decided);
    }
    assert_eq!(second.read(), second.pieces());
}

/// Calls for which it would change nothing are not read again.
#[tokio::test]
async fn what_has_room_and_what_has_none_is_not_counted() {
    let long = text(5 << 20);
    let short = text(20_000);
    for (name, unit, limit, call, allowed) in [
        (
            "room",
            "tokens",
            "40000",
            Call::of("gpt-4o", 100, &short),
            true,
        ),
        // A token for eight bytes would be more than that.
        (
            "spent",
            "tokens",
            "2400",
            Call::of("gpt-4o", 100, &short),
            false,
        ),
        (
            "no public tokenizer",
            "tokens",
            "8000",
            Call::of("claude-haiku-4-5", 100, &short),
            false,
        ),
        (
            "of output alone",
            "output_tokens",
            "10",
            Call::of("gpt-4o", 100, &short),
            false,
        ),
        (
            "longer than is counted",
            "tokens",
            "900000",
            Call::of("gpt-4.1", 100, &long),
            false,
        ),
    ] {
        let (decider, _ledger) = charging(unit, limit);
        let decided = call.decided(&decider).await;
        assert_eq!(decided.allowed, allowed, "{name}: {:?}", decided.reason);
        assert_eq!(call.read(), 0, "{name}");
        if allowed {
            assert!(!line(&decider).counted, "{name}");
        } else {
            assert_eq!(decided.reason.code, ReasonCode::BudgetExhausted, "{name}");
        }
    }
}

#[tokio::test]
async fn what_shows_more_than_its_text_is_not_counted() {
    let demands: [fn(&mut Demand); 3] = [
        |it| it.refers = true,
        |it| it.media = 1,
        |it| it.serves_tools = true,
    ];
    for (place, change) in demands.into_iter().enumerate() {
        let (decider, _ledger) = charging("tokens", "8000");
        let mut call = Call::of("gpt-4o", 100, &text(20_000));
        let mut demand = Demand::default();
        change(&mut demand);
        call.asked = call.asked.demanding(demand);
        assert!(!call.decided(&decider).await.allowed, "{place}");
        assert_eq!(call.read(), 0, "{place}");
    }
}

#[tokio::test]
async fn counting_ends_once_it_is_too_much() {
    let (decider, _ledger) = charging("tokens", "20000");
    let call = Call::of("gpt-4o", 100, &dense(120_000));
    let decided = call.decided(&decider).await;
    assert_eq!(decided.reason.code, ReasonCode::BudgetExhausted);
    let (read, all) = (call.read(), call.pieces());
    assert!(read > 0 && read <= all / 2 + 64, "{read} of {all}");
}

#[tokio::test]
async fn what_cannot_be_read_again_counts_by_its_bytes() {
    let (decider, _ledger) = charging("tokens", "8000");
    let mut body = Call::of("gpt-4o", 100, &text(20_000)).body;
    body.pop();
    let call = Call::saying("gpt-4o", 100, body);
    let decided = call.decided(&decider).await;
    assert_eq!(decided.reason.code, ReasonCode::BudgetExhausted);
    assert_eq!(call.read(), call.pieces());
}

/// Others hold what it needs by its bytes, and not what it needs.
#[tokio::test]
async fn a_call_is_counted_before_it_waits() {
    let (decider, _ledger) = charging("tokens", "30000");
    let other = Call::of("gpt-4o", 100, &text(20_000))
        .decided(&decider)
        .await;
    assert!(other.allowed && !line(&decider).counted);
    let began = Instant::now();
    let call = Call::of("gpt-4o", 100, &text(20_000));
    assert!(call.decided(&decider).await.allowed);
    assert!(line(&decider).counted);
    assert!(began.elapsed() < Duration::from_secs(4), "it waited");
    drop(other);
}

/// A limit of output is not lowered for what the bytes of the input would be at most.
#[tokio::test]
async fn a_call_is_counted_before_its_limit_is_lowered() {
    for streams in [false, true] {
        let (decider, _ledger) = charging("tokens", "22000");
        let mut call = Call::of("gpt-4o", 12_000, &text(20_000));
        if streams {
            call = call.streaming();
        }
        let decided = call.decided(&decider).await;
        assert!(decided.allowed, "{streams}: {:?}", decided.reason);
        let line = line(&decider);
        assert!(
            line.counted && line.clamped.is_none(),
            "{streams}: {line:?}"
        );
        // What it gave back meanwhile, another may have.
        drop(decided);
        let another = Call::of("gpt-4o", 12_000, &text(20_000));
        assert!(another.decided(&decider).await.allowed, "{streams}");
    }
}

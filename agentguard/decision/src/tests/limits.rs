//! Limits and breakers: what they refuse, what is recorded of that, and what they are told.

use std::future::ready;
use std::sync::Arc;

use agentguard_budget::{Asked as Answer, Granted, HoldId, Ledger, More, Refused, Want};
use agentguard_model::budget::Budget;
use agentguard_model::{
    Bytes, Llm, LlmAnswer, LlmOperation, Mode, Outcome, ReasonCode, Tool, ToolAnswer, ToolResult,
};
use http::{HeaderMap, HeaderValue};

use super::{Memory, asked, client, deciding, last, target};
use crate::{Accounting, Asked, Decided, Decider};

const START: &str = "
version: 1
tool_servers:
  - { name: planner, api: a2a, hosts: [planner.example.com] }
agents:
  - { name: coder, trusts: [traceparent] }
  - { name: watched, mode: observe }
rules:
  - { id: all, match: { host: ['*.example.com'], port: [443] }, action: allow, handling: inspect }
";

fn limited(limits: &str) -> Decider<Memory> {
    deciding(&format!("{START}{limits}"))
}

async fn call(decider: &Decider<Memory>, agent: u32, content: u64) -> Decided {
    let llm = Llm {
        provider: "openai".to_owned(),
        operation: LlmOperation::Chat,
        model: Some("gpt-4o".to_owned()),
        stream: false,
        max_output_tokens: None,
        tools: Vec::new(),
        asks: Vec::new(),
        asks_unread: false,
        not_understood: None,
    };
    let asked = asked("POST", "/v1/chat").calling(llm).saying(Some(content));
    let target = target("api.example.com", 443);
    decider.request(&client(agent), &target, &[], &asked).await
}

fn ends(decider: &Decider<Memory>, decided: &Decided, status: u16, asks: Option<&str>) {
    let tool_calls = asks.map(|arguments| agentguard_model::AskedTool {
        name: "run".to_owned(),
        id: None,
        arguments: Some(arguments.to_owned()),
    });
    let outcome = Outcome {
        bytes: Bytes {
            sent: 1,
            received: 1,
        },
        messages: None,
        duration_ms: 1,
        status: Some(status),
        llm: Some(LlmAnswer {
            finish_reason: Some("stop".to_owned()),
            tool_calls: tool_calls.into_iter().collect(),
            ..LlmAnswer::default()
        }),
        tool: None,
        budget: Vec::new(),
        error: None,
    };
    decider.finished(decided, outcome);
}

#[tokio::test]
async fn a_rate_refuses_with_the_time_and_holds_no_budget() {
    let decider = limited(
        "limits: [{ id: burst, rate: { calls: 1, every: 1h }, llm: {}, per: [agent], reason: Slower. }]\n",
    );
    assert!(call(&decider, 1, 1).await.allowed);
    let refused = call(&decider, 1, 2).await;
    assert!(!refused.allowed);
    assert_eq!(refused.reason.code, ReasonCode::RateLimited);
    assert_eq!(
        refused.reason.message,
        "This is more than may go in so short a time: limit `burst` of agent=coder is 1 in 1 h, and 1 at once. Slower."
    );
    let seconds = refused.retry_after().unwrap();
    assert!((3590..=3600).contains(&seconds), "{seconds}");
    let decision = last(&decider);
    let matched = &decision.matched[0];
    assert_eq!((&*matched.engine, &*matched.rule), ("limit", "burst"));
    assert_eq!(matched.source.line, 10);
    // What is no call is not counted.
    let target = target("api.example.com", 443);
    let other = asked("GET", "/");
    assert!(
        decider
            .request(&client(1), &target, &[], &other)
            .await
            .allowed
    );
}

#[tokio::test]
async fn an_agent_that_is_observed_goes_on_and_the_record_says_what_would_have_been() {
    let decider = limited("limits: [{ id: burst, rate: { calls: 1, every: 1h }, per: [agent] }]\n");
    assert!(call(&decider, 2, 1).await.allowed);
    assert!(last(&decider).matched.iter().all(|it| it.engine != "limit"));
    assert!(call(&decider, 2, 2).await.allowed);
    let decision = last(&decider);
    let matched = decision.matched.iter().find(|it| it.engine == "limit");
    assert_eq!(matched.unwrap().on_paper, Some(Mode::Observe));
}

#[tokio::test]
async fn the_same_call_is_stopped_and_another_is_not() {
    let decider = limited("limits: [{ id: loops, repeats: { calls: 2, within: 1h } }]\n");
    for _ in 0..2 {
        assert!(call(&decider, 1, 7).await.allowed);
    }
    let refused = call(&decider, 1, 7).await;
    assert_eq!(refused.reason.code, ReasonCode::RepeatedCall);
    assert_eq!(refused.retry_after(), None);
    assert!(call(&decider, 1, 8).await.allowed);
    let tool = |arguments: &str| Tool {
        server: "planner".to_owned(),
        name: Some("plan".to_owned()),
        arguments: Some(arguments.to_owned()),
        ..Tool::default()
    };
    let target = target("planner.example.com", 443);
    for (arguments, allowed) in [("a", true), ("a", true), ("b", true), ("a", false)] {
        let asked = asked("POST", "/").telling(vec![tool(arguments)]);
        let decided = decider.request(&client(1), &target, &[], &asked).await;
        assert_eq!(decided.allowed, allowed);
    }
}

#[tokio::test]
async fn a_storm_of_retries_waits_and_a_circuit_opens_for_all() {
    let decider = limited(
        "limits: [{ id: storm, retries: { failures: 2, within: 1h }, per: [agent] }]
breakers: [{ id: up, circuit: upstream, failures: 3, wait: 1h }]\n",
    );
    for status in [429, 503] {
        let decided = call(&decider, 1, 1).await;
        ends(&decider, &decided, status, None);
    }
    let refused = call(&decider, 1, 1).await;
    assert_eq!(refused.reason.code, ReasonCode::RetryStorm);
    assert!(refused.retry_after().unwrap() > 3590);
    // Of the three failures that the circuit takes, 429 is none.
    for _ in 0..2 {
        let decided = call(&decider, 2, 1).await;
        assert!(decided.allowed);
        ends(&decider, &decided, 502, None);
    }
    let refused = call(&decider, 1, 1).await;
    assert_eq!(refused.reason.code, ReasonCode::CircuitOpen);
    assert_eq!(
        refused.reason.message,
        "What this is for failed too often: breaker `up` of host=api.example.com:443 opens for 1 h with 3 failures among 3 calls."
    );
    // Another upstream has its own.
    let other = target("other.example.com", 443);
    let get = asked("GET", "/");
    assert!(decider.request(&client(1), &other, &[], &get).await.allowed);
}

#[tokio::test]
async fn a_request_with_several_messages_goes_over_the_circuit_of_its_upstream_once() {
    let decider =
        limited("breakers: [{ id: up, circuit: upstream, failures: 2, of: 2, wait: 1h }]\n");
    let target = target("planner.example.com", 443);
    let tool = || Tool {
        server: "planner".to_owned(),
        name: Some("plan".to_owned()),
        ..Tool::default()
    };
    let batch = asked("POST", "/").telling(vec![tool(), tool(), tool()]);
    let fails = async || {
        let first = decider.request(&client(1), &target, &[], &batch).await;
        let allowed = first.allowed;
        let mut all = vec![first];
        for other in batch.beside() {
            let decided = decider.request(&client(1), &target, &[], &other).await;
            assert!(decided.allowed);
            all.push(decided);
        }
        for decided in all.iter().filter(|it| it.allowed) {
            ends(&decider, decided, 502, None);
        }
        allowed
    };
    // Three messages of one request are one failure.
    assert!(fails().await && fails().await);
    assert!(!fails().await);
}

/// Does not answer.
struct Away;

impl Ledger for Away {
    fn reserve<'a>(&'a self, _: &'a Want, _: i64) -> Answer<'a, Granted> {
        Box::pin(ready(Err(Refused::Away("it is down".to_owned()))))
    }

    fn extend<'a>(&'a self, _: HoldId, _: More, _: &'a [Arc<Budget>], _: i64) -> Answer<'a, u64> {
        Box::pin(ready(Err(Refused::Settled)))
    }

    fn settle(&self, _: HoldId, _: Option<&[u64]>, _: i64) {}
}

#[tokio::test]
async fn what_a_budget_refuses_may_come_again() {
    let decider = limited(
        "budgets: [{ id: few, unit: calls, limit: 9, window: day }]
limits: [{ id: burst, rate: { calls: 1, every: 1h } }, { id: loops, repeats: { calls: 1, within: 1h } }]\n",
    );
    let decider = decider.charging(Arc::new(Accounting::new(Arc::new(Away))));
    for _ in 0..3 {
        let refused = call(&decider, 1, 1).await;
        assert_eq!(refused.reason.code, ReasonCode::LedgerFailed);
    }
}

#[tokio::test]
async fn a_model_that_asks_for_the_same_tool_call_makes_no_progress() {
    let decider =
        limited("limits: [{ id: stuck, no_progress: { calls: 2, within: 1h }, per: [agent] }]\n");
    for (content, arguments) in [(1, "a"), (2, "b"), (3, "a"), (4, "b")] {
        let decided = call(&decider, 1, content).await;
        assert!(decided.allowed, "{content}");
        ends(&decider, &decided, 200, Some(arguments));
    }
    let refused = call(&decider, 1, 5).await;
    assert_eq!(refused.reason.code, ReasonCode::NoProgress);
    assert!(call(&decider, 2, 5).await.allowed);
}

async fn plan(decider: &Decider<Memory>, run: u32, trace: Option<&'static str>) -> Decided {
    let mut fields = HeaderMap::new();
    if let Some(trace) = trace {
        fields.insert("traceparent", HeaderValue::from_static(trace));
    }
    let tool = Tool {
        server: "planner".to_owned(),
        name: Some("message/send".to_owned()),
        ..Tool::default()
    };
    let asked = Asked::new("POST", "/", None, fields, None).telling(vec![tool]);
    let client = crate::Client { run, ..client(1) };
    let target = target("planner.example.com", 443);
    decider.request(&client, &target, &[], &asked).await
}

#[tokio::test]
async fn agents_that_wait_for_each_other_are_stopped_by_their_trace() {
    let decider = limited("limits: [{ id: chains, depth: { calls: 3, agents: 2 } }]\n");
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const OTHER: &str = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let first = plan(&decider, 1, Some(TRACE)).await;
    let second = plan(&decider, 2, Some(TRACE)).await;
    assert!(first.allowed && second.allowed);
    let third = plan(&decider, 3, Some(TRACE)).await;
    assert_eq!(third.reason.code, ReasonCode::ChainTooDeep);
    // Another trace is another chain, and so is what a run does without one.
    let elsewhere = plan(&decider, 3, Some(OTHER)).await;
    let alone = plan(&decider, 3, None).await;
    assert!(elsewhere.allowed && alone.allowed);
    let fourth = plan(&decider, 1, Some(TRACE)).await;
    assert!(fourth.allowed);
    assert!(!plan(&decider, 2, Some(TRACE)).await.allowed);
    // What is over, or is never carried out, makes room.
    drop(first);
    assert!(plan(&decider, 2, Some(TRACE)).await.allowed);
}

/// How a call ends that a tool has answered so.
fn of_tool(answer: ToolAnswer) -> Outcome {
    Outcome {
        bytes: Bytes {
            sent: 1,
            received: 1,
        },
        messages: None,
        duration_ms: 1,
        status: Some(200),
        llm: None,
        tool: Some(Box::new(answer)),
        budget: Vec::new(),
        error: None,
    }
}

#[tokio::test]
async fn a_tool_that_is_polled_makes_progress_while_its_result_changes() {
    let decider = limited("limits: [{ id: stuck, no_progress: { calls: 2, within: 1h } }]\n");
    let target = target("planner.example.com", 443);
    let poll = async |content: u64| {
        let tool = Tool {
            server: "planner".to_owned(),
            name: Some("status".to_owned()),
            arguments: Some("sha256:00".to_owned()),
            ..Tool::default()
        };
        let asked = asked("POST", "/").telling(vec![tool]);
        let decided = decider.request(&client(1), &target, &[], &asked).await;
        if decided.allowed {
            let answer = ToolAnswer {
                content: Some(content),
                ..ToolAnswer::default()
            };
            decider.finished(&decided, of_tool(answer));
        }
        decided.allowed
    };
    for content in 0..10 {
        assert!(poll(content).await);
    }
    // From here on it stands still.
    assert!(poll(9).await && poll(9).await);
    assert!(!poll(9).await);
}

/// Calls a tool of the planner's, which ends with this error of JSON-RPC or well: what was decided.
async fn tries(decider: &Decider<Memory>, name: &str, error: Option<i64>) -> Decided {
    let tool = Tool {
        server: "planner".to_owned(),
        name: Some(name.to_owned()),
        ..Tool::default()
    };
    let asked = asked("POST", "/").telling(vec![tool]);
    let target = target("planner.example.com", 443);
    let decided = decider.request(&client(1), &target, &[], &asked).await;
    if decided.allowed {
        let result = ToolResult {
            error,
            ..ToolResult::default()
        };
        let answer = ToolAnswer {
            results: vec![result],
            ..ToolAnswer::default()
        };
        decider.finished(&decided, of_tool(answer));
    }
    decided
}

#[tokio::test]
async fn a_tool_that_fails_opens_its_own_circuit_is_tried_and_closes() {
    const BROKEN: Option<i64> = Some(-32603);
    let decider =
        limited("breakers: [{ id: broken, circuit: tool, failures: 2, wait: 1s, probes: 1 }]\n");
    for _ in 0..2 {
        assert!(tries(&decider, "search", BROKEN).await.allowed);
    }
    // Of its server no other tool.
    let refused = tries(&decider, "search", None).await;
    assert_eq!(refused.reason.code, ReasonCode::CircuitOpen);
    let message = &refused.reason.message;
    assert!(
        message.contains("breaker `broken` of tool=") && message.contains("search"),
        "{message}"
    );
    assert!(refused.retry_after().is_some());
    assert!(tries(&decider, "fetch", None).await.allowed);

    // One tries it, and it opens again with that; then another one closes it.
    let tried = async |error| {
        let began = std::time::Instant::now();
        while !tries(&decider, "search", error).await.allowed {
            assert!(began.elapsed().as_secs() < 20, "nobody tries it");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tried(BROKEN).await;
    let again = tries(&decider, "search", None).await;
    assert_eq!(again.reason.code, ReasonCode::CircuitOpen);
    tried(None).await;
    // It takes as many failures as before.
    assert!(tries(&decider, "search", BROKEN).await.allowed);
    assert!(tries(&decider, "search", None).await.allowed);
}

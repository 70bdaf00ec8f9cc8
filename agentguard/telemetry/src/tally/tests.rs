use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use agentguard_decision::{RecordRefused, Recorder};
use agentguard_model::contents::Contents;
use agentguard_model::{AgentName, Decision, DecisionId, Outcome, Reason, ReasonCode};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::store::Value;
use crate::{Figures, NOTES, Watched, parts, prometheus};

/// A record that takes all but what is for `full`.
#[derive(Clone)]
struct Memory;

impl Recorder for Memory {
    async fn write(&self, decision: Box<Decision>) -> Result<DecisionId, RecordRefused> {
        match decision
            .action
            .host
            .as_ref()
            .is_some_and(|host| host.as_str() == "full.example")
        {
            true => Err(RecordRefused {
                reason: Reason::new(ReasonCode::RecordFailed, "full"),
            }),
            false => Ok(decision.id),
        }
    }

    fn outcome(&self, _: DecisionId, _: Outcome) {}

    fn contents(&self, _: DecisionId, _: &AgentName, _: Contents) {}
}

pub(crate) fn decision(number: u128, changes: &serde_json::Value) -> Box<Decision> {
    let mut decision = json!({
        "id": DecisionId(ulid::Ulid(number)), "time": "2026-11-22T04:08:03Z", "context": {},
        "agent": {"name": "coder"}, "layer": "proxy", "action": {"kind": "connect", "host": "a.example"},
        "verdict": "allow", "enforced": true, "mode": "enforce",
        "reason": {"code": "rule_allow", "message": "m"}, "count": 1, "latency_us": 40, "policy_version": "0",
    });
    let (decision_map, changes) = (
        decision.as_object_mut().unwrap(),
        changes.as_object().unwrap(),
    );
    decision_map.extend(changes.clone());
    serde_json::from_value(decision).unwrap()
}

pub(crate) fn outcome(changes: &serde_json::Value) -> Outcome {
    let mut outcome = json!({"bytes": {"sent": 10, "received": 20}, "duration_ms": 1500});
    outcome
        .as_object_mut()
        .unwrap()
        .extend(changes.as_object().unwrap().clone());
    serde_json::from_value(outcome).unwrap()
}

pub(crate) fn call(model: &str) -> serde_json::Value {
    json!({"action": {
        "kind": "llm_call", "host": "api.openai.com", "port": 443,
        "llm": {"provider": "azure_openai", "operation": "chat", "model": model, "max_output_tokens": 99},
    }})
}

fn lines(figures: &Figures, start: &str) -> Vec<String> {
    let text = prometheus::encode(figures, false).unwrap();
    text.lines()
        .filter(|line| line.starts_with(start))
        .map(str::to_owned)
        .collect()
}

/// Has everything that was noted counted.
async fn counted(counting: crate::Counting) {
    let crate::Counting {
        mut notes,
        mut tally,
    } = counting;
    while let Ok(note) = notes.try_recv() {
        tally.take(note);
    }
}

#[tokio::test]
async fn decisions_are_counted_as_they_came_out_and_calls_by_what_came_of_them() {
    let (feed, figures, counting, mut spans) = parts(true);
    let watched = Watched::new(Memory, Some(feed));
    watched.write(decision(1, &json!({}))).await.unwrap();
    let denial =
        json!({"verdict": "deny", "reason": {"code": "no_rule", "message": "m"}, "count": 5});
    watched.write(decision(2, &denial)).await.unwrap();
    let full = json!({"action": {"kind": "connect", "host": "full.example"}});
    watched.write(decision(3, &full)).await.unwrap_err();
    // What the kernel did is done, whether or not that can be recorded.
    let kernel = json!({"action": {"kind": "connect", "host": "full.example"}, "layer": "kernel"});
    watched.write(decision(4, &kernel)).await.unwrap_err();
    let id = watched.write(decision(5, &call("gpt-5"))).await.unwrap();
    let usage = json!({"input_tokens": 100, "output_tokens": 7});
    let answer = json!({"status": 200, "llm": {"model": "gpt-5-2026", "usage": usage}});
    watched.outcome(id, outcome(&answer));
    let id = watched.write(decision(6, &call("gpt-5"))).await.unwrap();
    watched.outcome(id, outcome(&json!({"status": 429})));
    let mut denied = call("gpt-5");
    denied
        .as_object_mut()
        .unwrap()
        .extend(denial.as_object().unwrap().clone());
    watched.write(decision(7, &denied)).await.unwrap();
    let matched = |engine| json!([{"engine": engine, "rule": "team-day", "source": {"file": "p", "line": 1}}]);
    let spent = json!({
        "verdict": "deny", "count": 2, "reason": {"code": "budget_exhausted", "message": "m"},
        "matched": matched("budget"),
    });
    watched.write(decision(8, &spent)).await.unwrap();
    let held = json!({
        "verdict": "deny", "reason": {"code": "budget_held", "message": "m"}, "matched": matched("budget"),
    });
    watched.write(decision(9, &held)).await.unwrap();
    // Denied by a rule of the same name.
    let by_rule = json!({
        "verdict": "deny", "reason": {"code": "rule_deny", "message": "m"}, "matched": matched("rules"),
    });
    watched.write(decision(10, &by_rule)).await.unwrap();
    let by_limit = json!({
        "verdict": "deny", "reason": {"code": "circuit_open", "message": "m"}, "matched": matched("breaker"),
    });
    watched.write(decision(11, &by_limit)).await.unwrap();
    counted(counting).await;
    assert_eq!(
        lines(&figures, "agentguard_limit_refusals_total"),
        ["agentguard_limit_refusals_total{limit=\"team-day\"} 1"]
    );
    assert_eq!(
        lines(&figures, "agentguard_budget_refusals_total"),
        ["agentguard_budget_refusals_total{budget=\"team-day\"} 3"]
    );

    let decided = |kind, layer, verdict, reason| {
        format!(
            "agentguard_decisions_total{{layer=\"{layer}\",kind=\"{kind}\",verdict=\"{verdict}\",enforced=\"true\",reason=\"{reason}\"}}"
        )
    };
    assert_eq!(
        lines(&figures, "agentguard_decisions_total"),
        [
            decided("connect", "kernel", "allow", "rule_allow") + " 1",
            decided("connect", "proxy", "allow", "rule_allow") + " 1",
            decided("connect", "proxy", "deny", "budget_exhausted") + " 2",
            decided("connect", "proxy", "deny", "budget_held") + " 1",
            decided("connect", "proxy", "deny", "circuit_open") + " 1",
            decided("connect", "proxy", "deny", "no_rule") + " 5",
            decided("connect", "proxy", "deny", "record_failed") + " 1",
            decided("connect", "proxy", "deny", "rule_deny") + " 1",
            decided("llm_call", "proxy", "allow", "rule_allow") + " 2",
            decided("llm_call", "proxy", "deny", "no_rule") + " 5",
        ]
    );
    let agent = "agentguard_agent_decisions_total{agent=\"coder\",verdict=";
    assert_eq!(
        lines(&figures, agent),
        [
            format!("{agent}\"allow\",enforced=\"true\"}} 4"),
            format!("{agent}\"deny\",enforced=\"true\"}} 16"),
        ]
    );
    assert_eq!(
        lines(&figures, "agentguard_payload_bytes_total"),
        [
            "agentguard_payload_bytes_total{direction=\"received\"} 40",
            "agentguard_payload_bytes_total{direction=\"sent\"} 20",
        ]
    );
    let labels = "gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"azure.ai.openai\",gen_ai_request_model=\"gpt-5\"";
    let answered = format!("{labels},gen_ai_response_model=\"gpt-5-2026\"");
    assert_eq!(
        lines(&figures, "gen_ai_client_token_usage_sum"),
        [
            format!(
                "gen_ai_client_token_usage_sum{{gen_ai_token_type=\"input\",{answered}}} 100.0"
            ),
            format!("gen_ai_client_token_usage_sum{{gen_ai_token_type=\"output\",{answered}}} 7.0"),
        ]
    );
    assert_eq!(
        lines(&figures, "gen_ai_client_operation_duration_seconds_count"),
        [
            format!(
                "gen_ai_client_operation_duration_seconds_count{{{labels},error_type=\"429\"}} 1"
            ),
            format!("gen_ai_client_operation_duration_seconds_count{{{answered}}} 1"),
        ]
    );
    let bucket = "gen_ai_client_operation_duration_seconds_bucket{le=\"1.28\"";
    assert!(
        lines(&figures, bucket)
            .iter()
            .all(|line| line.ends_with(" 0"))
    );
    let bucket = "gen_ai_client_operation_duration_seconds_bucket{le=\"2.56\"";
    assert!(
        lines(&figures, bucket)
            .iter()
            .all(|line| line.ends_with(" 1"))
    );
    let told = std::iter::from_fn(|| spans.0.try_recv().ok());
    assert_eq!(told.count(), 3);
}

/// Whatever a call is for, and of whichever provider, as the conventions call it where they do.
#[tokio::test]
async fn calls_of_every_kind_have_their_figures_and_a_span() {
    let (feed, figures, counting, mut spans) = parts(true);
    let watched = Watched::new(Memory, Some(feed));
    let kinds = [
        ("chat", "gemini", "gcp.gemini", Some((6, Some(8)))),
        ("chat", "vertex", "gcp.vertex_ai", Some((7, Some(9)))),
        ("chat", "aws_bedrock", "aws.bedrock", Some((10, Some(11)))),
        (
            "text_completion",
            "mistral",
            "mistral_ai",
            Some((12, Some(13))),
        ),
        ("embeddings", "ollama", "ollama", Some((3, None))),
        ("count_tokens", "anthropic", "anthropic", Some((14, None))),
        ("realtime", "openai", "openai", Some((15, Some(16)))),
        ("transcription", "openai", "openai", Some((17, Some(18)))),
        ("retrieval", "xai", "x_ai", None),
    ];
    for (number, (operation, provider, _, tokens)) in kinds.iter().enumerate() {
        let mut call = call("m");
        call["action"]["llm"]["operation"] = json!(operation);
        call["action"]["llm"]["provider"] = json!(provider);
        let id = watched
            .write(decision(number as u128, &call))
            .await
            .unwrap();
        let usage = tokens.map(|(input, output)| {
            let mut usage = json!({ "input_tokens": input });
            if let Some(output) = output {
                usage["output_tokens"] = json!(output);
            }
            usage
        });
        let mut answer = json!({ "status": 200, "llm": { "model": "m-1" } });
        if let Some(usage) = usage {
            answer["llm"]["usage"] = usage;
        }
        watched.outcome(id, outcome(&answer));
    }
    // Of a server of tools, and of an agent's own host.
    for (number, layer) in [(20, "proxy"), (21, "hook")] {
        let tool = json!({ "layer": layer, "action": { "kind": "tool_call",
            "tool": { "server": "files", "name": "read", "method": "tools/call" } } });
        let id = watched.write(decision(number, &tool)).await.unwrap();
        watched.outcome(id, outcome(&json!({})));
    }
    counted(counting).await;
    let labels = |operation, provider| {
        format!(
            "gen_ai_operation_name=\"{operation}\",gen_ai_provider_name=\"{provider}\",gen_ai_request_model=\"m\",gen_ai_response_model=\"m-1\""
        )
    };
    let (mut calls, mut usage) = (Vec::new(), Vec::new());
    for (operation, _, provider, tokens) in kinds {
        let labels = labels(operation, provider);
        calls.push(format!(
            "gen_ai_client_operation_duration_seconds_count{{{labels}}} 1"
        ));
        let Some((input, output)) = tokens else {
            continue;
        };
        let line = |kind, tokens| {
            format!(
                "gen_ai_client_token_usage_sum{{gen_ai_token_type=\"{kind}\",{labels}}} {tokens}.0"
            )
        };
        usage.push(line("input", input));
        usage.extend(output.map(|output| line("output", output)));
    }
    calls.sort();
    usage.sort();
    let sorted = |start| {
        let mut lines = lines(&figures, start);
        lines.sort();
        lines
    };
    assert_eq!(
        sorted("gen_ai_client_operation_duration_seconds_count"),
        calls
    );
    assert_eq!(sorted("gen_ai_client_token_usage_sum"), usage);
    let counted = |labels: &str| {
        let lines = lines(&figures, "agentguard_decisions_total");
        assert!(
            lines.iter().any(|it| it.ends_with(labels)),
            "{labels} {lines:#?}"
        );
    };
    let allowed = "verdict=\"allow\",enforced=\"true\",reason=\"rule_allow\"}";
    counted(&format!("layer=\"proxy\",kind=\"llm_call\",{allowed} 9"));
    counted(&format!("layer=\"proxy\",kind=\"tool_call\",{allowed} 1"));
    counted(&format!("layer=\"hook\",kind=\"tool_call\",{allowed} 1"));
    let told = std::iter::from_fn(|| spans.0.try_recv().ok());
    let mut told: Vec<String> = told.map(|span| span.name().to_owned()).collect();
    let mut expected: Vec<String> = kinds.iter().map(|it| format!("{} m", it.0)).collect();
    expected.extend([
        "execute_tool read".to_owned(),
        "execute_tool read".to_owned(),
    ]);
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn what_has_no_room_is_lost_to_the_figures_and_counted_and_nobody_waits() {
    let (feed, figures, counting, _spans) = parts(true);
    let watched = Watched::new(Memory, Some(feed));
    for number in 0..NOTES as u128 + 10 {
        watched.write(decision(number, &json!({}))).await.unwrap();
    }
    assert_eq!(figures.health().lost_notes, 10);
    counted(counting).await;
    let told = lines(&figures, "agentguard_telemetry_lost_total{what=\"notes\"");
    assert_eq!(told, ["agentguard_telemetry_lost_total{what=\"notes\"} 10"]);
    let told = lines(&figures, "agentguard_decisions_total");
    assert!(told[0].ends_with(&format!(" {NOTES}")), "{told:?}");
}

#[tokio::test]
async fn calls_that_never_end_and_spans_that_nobody_takes_have_a_bound() {
    let (spans, mut taken) = mpsc::channel(2);
    let (_, figures, ..) = parts(true);
    let mut tally = super::Tally::new(figures.clone(), Some(spans));
    let note = |number| {
        let mut decided = super::Decided::of(&decision(number, &call("m")));
        decided.recorded = Some(decided.id);
        super::Note::Decided(Box::new(decided))
    };
    let many = super::CALLS as u128 + 3;
    for number in 1..=many {
        tally.take(note(number));
    }
    let ended = |number| {
        super::Note::Ended(
            DecisionId(ulid::Ulid(number)),
            Box::new(outcome(&json!({}))),
        )
    };
    // The three oldest were forgotten; of the others only two spans find room.
    for number in 1..=8 {
        tally.take(ended(number));
    }
    assert_eq!(figures.health().lost_spans, 3 + 3);
    assert_eq!(std::iter::from_fn(|| taken.try_recv().ok()).count(), 2);
    assert_eq!(tally.calls.open.len(), tally.calls.order.len());
    assert_eq!(tally.calls.open.len(), super::CALLS - 5);
    // Without anybody who takes spans there are none, and none is lost.
    let (_, figures, ..) = parts(false);
    let mut tally = super::Tally::new(figures.clone(), None);
    tally.take(note(1));
    tally.take(ended(1));
    assert_eq!(figures.health().lost_spans, 0);
    let store = figures.now();
    let durations = store
        .families()
        .nth(crate::catalogue::Id::OperationDuration as usize)
        .unwrap();
    assert!(
        matches!(durations.series.values().next(), Some(Value::Spread(spread)) if spread.count == 1)
    );
}

#[tokio::test]
async fn counting_ends_when_it_is_told() {
    let (feed, _, counting, _) = parts(false);
    let over = CancellationToken::new();
    let running = tokio::spawn(counting.run(over.clone()));
    over.cancel();
    running.await.unwrap();
    drop(Arc::new(feed));
}

/// A default would have each of them written by itself, and nothing else would tell.
#[test]
fn what_begins_together_does_so_in_the_record() {
    /// How often something did.
    struct Together(AtomicU32);

    impl Recorder for Together {
        async fn write(&self, decision: Box<Decision>) -> Result<DecisionId, RecordRefused> {
            Ok(decision.id)
        }

        fn together<T>(&self, begins: impl FnOnce() -> T) -> T {
            self.0.fetch_add(1, Ordering::Relaxed);
            begins()
        }

        fn outcome(&self, _: DecisionId, _: Outcome) {}

        fn contents(&self, _: DecisionId, _: &AgentName, _: Contents) {}
    }

    let watched = Watched::new(Together(AtomicU32::new(0)), None);
    assert_eq!(watched.together(|| 7), 7);
    assert_eq!(watched.record().0.load(Ordering::Relaxed), 1);
}

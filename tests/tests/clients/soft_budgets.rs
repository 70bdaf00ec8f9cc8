//! Budgets before they are spent, and agents that are stopped when they are.

use std::fs;
use std::time::{Duration, Instant};

use agentguard_model::{ActionKind, Decision, ReasonCode, Verdict};
use agentguard_tests::{Origin, Output, World, address, wait_until};
use anyhow::Result;
use jiff::Timestamp;
use serde_json::json;

use crate::inspected::inspected;
use crate::room::{LATE, Room};

const OPENAI: &str = "api.openai.com";

/// A window, and a moment.
const MINUTE: Duration = Duration::from_secs(70);

fn world(name: &str) -> Result<World> {
    let origin = Origin::at(&address::origin(0x10));
    World::new(name).origin(origin.site(OPENAI)).start()
}

fn open<'w>(world: &'w World, budgets: &str) -> Result<Room<'w>> {
    let policy = format!(
        "
version: 1
agents: [{{name: coder}}]
rules:
  - id: models
    match: {{ host: [{OPENAI}], port: [443] }}
    action: allow
    handling: inspect
budgets:
{budgets}
"
    );
    let upstreams = json!([{ "host": [OPENAI], "ca": world.ca_file() }]);
    let guard = world.guard().policy(&policy);
    let guard = guard.setting("upstreams", upstreams).start()?;
    Ok(Room::of(world, guard))
}

/// A call, with what came of it: head and content.
fn call(room: &Room<'_>) -> Result<Output> {
    let body =
        r#"{"model":"gpt-4o","max_tokens":50,"messages":[{"role":"user","content":"one two"}]}"#;
    let url = format!("https://{OPENAI}/v1/chat/completions");
    let words = [
        "curl",
        "-sS",
        "-i",
        "--max-time",
        "20",
        "-H",
        "content-type: application/json",
        "-H",
        "authorization: Bearer any",
        "-d",
        body,
        &url,
    ];
    inspected(room, &words).run()
}

fn field<'o>(answer: &'o str, name: &str) -> Option<&'o str> {
    let mut lines = answer.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.trim())
}

fn told(decisions: &[Decision], code: ReasonCode) -> Option<Decision> {
    let mut told = decisions.iter().filter(|it| it.reason.code == code);
    told.next().cloned()
}

#[test]
fn a_soft_limit_is_recorded_told_to_clients_and_slows_calls_down() {
    let world = world("budget-soft").unwrap();
    let budgets = "
  - { id: few, unit: calls, limit: 4, window: day, per: [agent], soft: { at: 50%, header: true, slow: 3s } }
";
    let room = open(&world, budgets).unwrap();
    for _ in 0..2 {
        let answer = call(&room).unwrap().success().unwrap();
        assert!(answer.stdout.contains("200"), "{answer}");
        assert_eq!(field(&answer.stdout, "ratelimit"), None, "{answer}");
    }
    let soft = |decisions: &[Decision]| told(decisions, ReasonCode::BudgetSoftLimit);
    let soft = room.guard.wait_verdicts("the soft limit", soft).unwrap();
    assert_eq!(
        (
            soft.action.kind,
            soft.verdict,
            soft.matched[0].rule.as_str()
        ),
        (ActionKind::Budget, Verdict::Allow, "few")
    );
    assert_eq!(
        soft.agent.as_ref().map(|it| it.name.as_str()),
        Some("coder")
    );
    assert!(
        soft.reason.message.contains("2 calls of 4 calls"),
        "{soft:?}"
    );
    // It is recorded before it holds, for a moment.
    let slow = wait_until("a slow call", LATE, || {
        let began = Instant::now();
        let answer = call(&room).ok()?;
        let slow = began.elapsed() >= Duration::from_secs(3);
        slow.then_some(answer.stdout)
    });
    let slow = slow.unwrap();
    assert!(slow.contains("200"), "{slow}");
    let left = field(&slow, "ratelimit").unwrap();
    assert!(
        left.starts_with("\"few\";r=") && left.contains(";t="),
        "{left}"
    );
    assert_eq!(
        field(&slow, "ratelimit-policy"),
        Some("\"few\";q=4;w=86400")
    );
    let soft = room.guard.verdicts().unwrap();
    let count = soft
        .iter()
        .filter(|it| it.reason.code == ReasonCode::BudgetSoftLimit);
    assert_eq!(count.count(), 1, "once in a window");
}

/// It is looked at each minute, and as the daemon starts: what its ledger has kept is enough.
#[test]
fn a_budget_that_will_be_spent_before_its_window_ends_is_told_of() {
    let world = world("budget-foretold").unwrap();
    let budgets = "
  - { id: minute, unit: calls, limit: 14, window: minute, per: [agent], soft: { at: 95%, forecast: true } }
";
    let mut room = open(&world, budgets).unwrap();
    let foretold = |decisions: &[Decision]| told(decisions, ReasonCode::BudgetForecast);
    // All of it is within one window, of which enough is left.
    let seconds = || Timestamp::now().as_second() % 60;
    wait_until("a window that has just begun", MINUTE, || {
        (1..20).contains(&seconds()).then_some(())
    })
    .unwrap();
    let began = Timestamp::now();
    let first = Instant::now();
    for second in 1..=8 {
        let answer = call(&room).unwrap().success().unwrap();
        assert!(answer.stdout.contains("200"), "{answer}");
        let due = first + Duration::from_secs(second);
        let is_due = || (Instant::now() >= due).then_some(());
        wait_until("the next second", LATE, is_due).unwrap();
    }
    assert_eq!(foretold(&room.guard.verdicts().unwrap()), None);
    room.guard.stop().unwrap();
    room.guard.start().unwrap();
    let told = room.guard.wait_verdicts("the forecast", foretold).unwrap();
    assert_eq!(
        (
            told.action.kind,
            told.verdict,
            told.matched[0].rule.as_str()
        ),
        (ActionKind::Budget, Verdict::Allow, "minute")
    );
    let agent = told.agent.as_ref().map(|it| it.name.as_str());
    assert_eq!(agent, Some("coder"));
    let message = &told.reason.message;
    let at = message.split_once("this will be spent at about ");
    let (at, behind) = at.and_then(|(_, at)| at.split_once(", ")).unwrap();
    assert!(behind.contains("8 calls of 14 calls"), "{message}");
    let (at, window) = (at.parse::<Timestamp>().unwrap(), began.as_second() / 60);
    assert_eq!(at.as_second() / 60, window, "{message}");
}

#[test]
fn an_agent_whose_budget_is_spent_is_stopped_until_it_is_released() {
    let world = world("budget-freeze").unwrap();
    let budgets = "
  - { id: two, unit: calls, limit: 2, window: day, per: [agent], reached: freeze }
";
    let room = open(&world, budgets).unwrap();
    for _ in 0..2 {
        let answer = call(&room).unwrap().success().unwrap();
        assert!(answer.stdout.contains("200"), "{answer}");
    }
    let cgroup = room.guard.agent_cgroup("coder").unwrap();
    let cli = |words: &[&str]| room.guard.cli().args(words).run().unwrap();
    let shown = cli(&["agent", "show", "coder"]).stdout;
    assert!(!shown.contains("quarantined"), "{shown}");
    // Its client is stopped with it: nobody waits for that.
    let url = format!("https://{OPENAI}/v1/chat/completions");
    let body = r#"{"model":"gpt-4o","max_tokens":5,"messages":[]}"#;
    let words = ["curl", "-sS", "--max-time", "60", "-d", body, &url];
    let _stopped = inspected(&room, &words).spawn().unwrap();
    let told = "the guard stopped its processes, since the budget `two` is spent";
    let shown = wait_until("the quarantine", LATE, || {
        let shown = cli(&["agent", "show", "coder"]).stdout;
        shown.contains(told).then_some(shown)
    });
    let shown = shown.unwrap();
    assert!(!shown.contains("by uid"), "nobody ordered it: {shown}");
    wait_until("the record of it", LATE, || {
        let decisions = room.guard.verdicts().ok()?;
        let mut messages = decisions.iter().map(|it| &it.reason.message);
        messages.any(|it| it.contains(told)).then_some(())
    })
    .unwrap();
    let is_stopped = || {
        fs::read_to_string(cgroup.join("cgroup.freeze"))
            .unwrap()
            .trim()
            == "1"
    };
    wait_until("its processes are stopped", LATE, || {
        is_stopped().then_some(())
    })
    .unwrap();
    let released = cli(&["agent", "release", "coder"]);
    assert_eq!(released.code(), 0, "{released}");
    assert!(!is_stopped());
    let reset = cli(&["budget", "reset", "two/agent=coder"]);
    assert_eq!(reset.code(), 0, "{reset}");
    let answer = call(&room).unwrap().success().unwrap();
    assert!(answer.stdout.contains("200"), "{answer}");
}

//! What rules depend on beside a flow: a switch that is set, an hour that comes, a run's workflow.

use std::fs;
use std::time::Duration;

use agentguard_model::{ActionKind, Decision, Layer, ReasonCode, Verdict};
use agentguard_tests::origin::BANNER;
use agentguard_tests::{Guard, Output, Puppet, World, patient, wait_until};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{OTHER, SITE, puppet, world};

const POLICY: &str = "
version: 1
switches: {freeze: false, calm: true}
agents: [{name: coder}]
rules:
  - id: sites
    match: {host: [api.example.com], port: [22, 80]}
    action: allow
  - id: freeze
    match: {host: [api.example.com], transport: [tcp]}
    when: switches.freeze
    action: deny
    reason: All changes are frozen.
";

fn say(guard: &Guard<'_>, words: &[&str]) -> Output {
    guard.cli().args(words).run().unwrap()
}

fn switch(guard: &Guard<'_>, to: &str) -> Output {
    let words = ["policy", "switch", "freeze", to, "--reason", "ticket 42"];
    say(guard, &words).success().unwrap()
}

/// The switches as programs see them, by name.
fn shown(guard: &Guard<'_>, name: &str) -> Option<Value> {
    let told = say(guard, &["policy", "switch", "-o", "json"]);
    let told: Vec<Value> = serde_json::from_str(&told.success().unwrap().stdout).unwrap();
    told.into_iter().find(|switch| switch["name"] == name)
}

/// Opens a connection to a site through the proxy, and hears its server's first words.
fn open(client: &mut Puppet, name: &str) {
    let found = client.ask(&format!("resolve('{SITE}', 4)")).unwrap();
    let dialled = found[0].as_str().unwrap().to_owned();
    client.gives(
        &format!("tcp('{name}', '{dialled}', 22)"),
        json!([dialled, 22]),
    );
    client.gives(&format!("of('{name}').recv(27).decode()"), BANNER);
}

/// The denials by a rule, once there are so many.
fn denials(guard: &Guard<'_>, rule: &str, count: usize, limit: Duration) -> Vec<Decision> {
    let by_it = |decision: &Decision| {
        let matched = decision.matched.iter().any(|matched| matched.rule == rule);
        decision.verdict == Verdict::Deny && matched
    };
    let found = wait_until(&format!("{count} denials by {rule}"), limit, || {
        let denied: Vec<Decision> = guard.verdicts().ok()?.into_iter().filter(by_it).collect();
        (denied.len() >= count).then_some(denied)
    });
    found.unwrap()
}

const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_switch_ends_what_is_open_refuses_what_is_new_and_survives_until_it_is_left_to_the_policy() {
    let world = world("switch");
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    open(&mut client, "s");
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    let listed = say(&guard, &["policy", "switch"]).success().unwrap();
    assert_eq!(
        listed.stdout,
        "NAME    STATE  DECLARED  SET BY  SINCE\n\
         calm    on     on        -       -\n\
         freeze  off    off       -       -\n"
    );

    let said = switch(&guard, "on");
    assert!(
        said.stderr.starts_with("the switch freeze is on; "),
        "{said}"
    );
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 403 Forbidden");
    client.fails("hear_all('s')", "ECONNRESET");
    let denied = denials(&guard, "freeze", 2, SOON);
    assert_eq!(denied.len(), 2, "{denied:#?}");
    for decision in &denied {
        assert_eq!(decision.reason.code, ReasonCode::RuleDeny);
        let message = &decision.reason.message;
        assert!(message.starts_with("All changes are frozen."), "{message}");
    }
    let listed = say(&guard, &["verdicts", "--verdict", "deny"]);
    let rows = listed.stdout.lines().filter(|it| it.contains("rule_deny"));
    assert_eq!(rows.count(), 2, "{listed}");
    let story = say(&guard, &["explain", &denied[0].id.to_string()]);
    assert!(
        story.stdout.contains("freeze") && story.stdout.contains("All changes are frozen."),
        "{story}"
    );
    let status = say(&guard, &["status"]);
    assert!(
        status
            .stdout
            .contains("switch     freeze is on, declared off; set on since "),
        "{status}"
    );
    let again = switch(&guard, "on");
    assert!(again.stderr.contains("freeze is on already"), "{again}");

    // A stop, and a death: the next daemon has it before it serves.
    guard.stop().unwrap();
    guard.start().unwrap();
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 403 Forbidden");
    guard.kill().unwrap();
    guard.start().unwrap();
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 403 Forbidden");
    let set = shown(&guard, "freeze").unwrap()["set"].clone();
    assert_eq!(
        set,
        json!({"on": true, "since": set["since"], "uid": 0, "reason": "ticket 42"})
    );

    let said = switch(&guard, "default");
    let words = "the switch freeze is off, as the policy declares it\n";
    assert_eq!(said.stderr, words);
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    open(&mut client, "t");
    assert_eq!(
        shown(&guard, "freeze").unwrap(),
        json!({"name": "freeze", "on": false, "declared": false})
    );
    let status = say(&guard, &["status"]);
    assert!(!status.stdout.contains("\nswitch "), "{status}");

    let done = guard
        .wait_verdicts("what was done", |decisions| {
            let operator = decisions.iter().filter(|it| it.layer == Layer::Operator);
            let done: Vec<_> = operator
                .map(|it| {
                    let what = it.action.method.clone();
                    (it.action.kind, what, it.reason.message.clone())
                })
                .collect();
            (done.len() >= 2).then_some(done)
        })
        .unwrap();
    let deed = |how: &str| {
        let message = format!("the switch freeze was {how}, by uid 0: ticket 42");
        let what = Some("switch".to_owned());
        (ActionKind::Administration, what, message)
    };
    assert_eq!(done, [deed("set on"), deed("left to the policy again")]);
}

#[test]
fn a_switch_that_is_not_declared_cannot_be_set_and_one_that_is_not_any_more_counts_for_nothing() {
    let world = world("switch-undeclared");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    let said = say(&guard, &["policy", "switch", "freze", "on"]);
    assert_eq!(said.code(), 1, "{said}");
    assert_eq!(
        said.stderr,
        "error: the policy declares no switch freze\nhint: it declares calm, freeze\n"
    );
    let long = "x".repeat(501);
    let said = say(
        &guard,
        &["policy", "switch", "freeze", "on", "--reason", &long],
    );
    assert_eq!(said.code(), 1, "{said}");
    assert!(said.stderr.contains("at most 500 characters"), "{said}");
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");

    switch(&guard, "on");
    let (without, _) = POLICY.split_once("  - id: freeze").unwrap();
    let without = without.replace("freeze: false, ", "");
    let reload = |text: &str| {
        fs::write(guard.policy(), text).unwrap();
        say(&guard, &["policy", "reload"]).success().unwrap();
    };
    reload(&without);
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    let listed = say(&guard, &["policy", "switch"]).success().unwrap();
    assert!(
        listed
            .stdout
            .contains("freeze  -      not declared  uid 0   "),
        "{listed}"
    );
    let refused = say(&guard, &["policy", "switch", "freeze", "off"]);
    assert_eq!(refused.code(), 1, "{refused}");
    // Declared again, it is as it was set.
    reload(POLICY);
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 403 Forbidden");
    reload(&without);
    let said = switch(&guard, "default");
    assert!(said.stderr.contains("is forgotten"), "{said}");
    assert_eq!(shown(&guard, "freeze"), None);
    reload(POLICY);
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
}

/// A worker has no word for it, and the next one knows what was set.
#[test]
fn a_new_worker_has_the_switches_before_it_serves() {
    let world = world("switch-worker");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    switch(&guard, "on");
    let worker = || {
        let status = guard.cli().args(["status", "-o", "json"]).run().ok()?;
        let status: Value = serde_json::from_str(&status.stdout).ok()?;
        i32::try_from(status["worker_pid"].as_i64()?).ok()
    };
    let before = worker().unwrap();
    let pid = rustix::process::Pid::from_raw(before).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 403 Forbidden");
    let other = || worker().filter(|worker| *worker != before);
    wait_until("another worker", SOON, other).unwrap();
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 403 Forbidden");
    let set = shown(&guard, "freeze").unwrap();
    assert_eq!(set["set"]["reason"], "ticket 42");
}

/// By the real clock, which is waited for a minute at most: from the next full minute on it is closed.
#[test]
fn what_is_open_ends_when_the_hour_of_a_denial_comes() {
    let world = world("clock");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    open(&mut client, "s");
    let minute = |time: Timestamp| time.to_zoned(TimeZone::UTC).strftime("%H:%M").to_string();
    // Not one that comes before the policy does.
    let soon = Timestamp::now() + patient(Duration::from_secs(3));
    let (first, last) = (
        minute(soon + SignedDuration::from_mins(1)),
        minute(soon + SignedDuration::from_mins(10)),
    );
    let text = format!(
        "{POLICY}  - id: closed\n    match:\n      host: [api.example.com]\n      transport: [tcp]\n      \
         time: {{hours: [\"{first}-{last}\"]}}\n    action: deny\n"
    );
    fs::write(guard.policy(), text).unwrap();
    say(&guard, &["policy", "reload"]).success().unwrap();
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    let denied = denials(&guard, "closed", 1, Duration::from_secs(66));
    assert_eq!(denied.len(), 1, "{denied:#?}");
    assert_eq!(minute(denied[0].time), first, "when its hour comes");
    client.fails("hear_all('s')", "ECONNRESET");
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 403 Forbidden");
}

/// Two sites: one is open to whatever is a release, the other to whatever is not.
const WORKFLOWS: &str = "
version: 1
agents: [{name: coder}]
rules:
  - id: release
    match: {host: [www.other.example], port: [80], workflow: ['release-*']}
    action: allow
  - id: sites
    match: {host: [api.example.com], port: [80]}
    action: allow
  - id: not-in-a-release
    match: {host: [api.example.com], transport: [tcp]}
    when: context.workflow.startsWith('release-')
    action: deny
";

fn in_workflow(world: &World, guard: &Guard<'_>, workflow: &str) -> Puppet {
    Puppet::start(world, |words| {
        let run = guard.cli().args(["run", "--agent", "coder"]);
        run.args(["--workflow", workflow, "--"]).args(words)
    })
    .unwrap()
}

#[test]
fn a_rule_for_a_workflow_is_decided_by_what_run_was_told() {
    let world = world("workflow");
    let guard = world.guard().policy(WORKFLOWS).start().unwrap();
    let mut release = in_workflow(&world, &guard, "release-7");
    let mut review = in_workflow(&world, &guard, "review");
    let mut none = puppet(&world, &guard, "coder");
    release.gives(&format!("get('{OTHER}')"), "HTTP/1.1 200 OK");
    release.gives(&format!("get('{SITE}')"), "HTTP/1.1 403 Forbidden");
    for other in [&mut review, &mut none] {
        other.gives(&format!("get('{OTHER}')"), "HTTP/1.1 403 Forbidden");
        other.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    }
    let denied = denials(&guard, "not-in-a-release", 1, SOON);
    assert_eq!(denied[0].context.workflow.as_deref(), Some("release-7"));
}

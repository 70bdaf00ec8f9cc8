//! Rules that depend on who is behind it, on the time, on switches and on expressions.

use std::collections::BTreeMap;

use agentguard_model::{Context, Mode, ReasonCode, Transport, Verdict};

use super::{agent, host, policy};
use crate::{Circumstances, Facts, Policy, Request, Ruling, RulingOutcome, Seen, Switches};

const TEXT: &str = r#"
version: 1
switches: {freeze: false}
agents: [{name: coder, labels: {tier: "1"}}]
rules:
  - {id: alice, match: {host: [a.example], user: [alice, "bo*"]}, action: allow}
  - {id: office, match: {host: [b.example], time: {days: [mon-fri], hours: ["08:00-18:00"]}}, action: allow}
  - {id: open, match: {host: [c.example]}, action: allow}
  - {id: freeze, match: {host: [c.example], transport: [tcp]}, when: switches.freeze, action: deny}
  - id: reads
    match: {host: [d.example]}
    when: request.method == 'GET' && request.path.startsWith('/v1/')
    action: allow
  - id: team
    match: {host: [e.example]}
    when: request.headers['x-team'] == 'web'
    action: allow
  - {id: also, match: {host: [e.example]}, action: allow}
  - {id: half, match: {host: [f.example], transport: [tcp]}, rollout: {percent: 50}, action: deny}
  - {id: whole, match: {host: [f.example]}, action: allow}
"#;

struct Scene {
    policy: Policy,
    context: Context,
    labels: BTreeMap<String, String>,
    switches: Switches,
    time: &'static str,
    run: u32,
}

impl Scene {
    fn new() -> Self {
        Self {
            policy: policy(TEXT),
            context: Context::default(),
            labels: BTreeMap::new(),
            switches: Switches::default(),
            // A Wednesday.
            time: "2026-06-03T12:00:00Z",
            run: 1,
        }
    }

    fn decide(&self, name: &str, request: Seen<'_>) -> Ruling {
        let name = host(name);
        let facts = Facts {
            host: Some(&name),
            ip: None,
            port: 443,
            transport: Transport::Tcp,
            request,
            circumstances: Circumstances {
                context: &self.context,
                labels: &self.labels,
                run: self.run,
                time: self.time.parse().unwrap(),
                switches: &self.switches,
                in_favour: None,
            },
        };
        self.policy.decide(agent(&self.policy, "coder"), &facts)
    }

    fn allows(&self, name: &str) -> bool {
        let ruling = self.decide(name, Seen::NotYet);
        matches!(ruling.outcome, RulingOutcome::Allow(_))
    }
}

#[test]
fn who_is_behind_it_decides() {
    let mut scene = Scene::new();
    assert!(!scene.allows("a.example"));
    for (user, allowed) in [
        ("alice", true),
        ("bob", true),
        ("carol", false),
        ("", false),
    ] {
        scene.context.user = Some(user.to_owned());
        assert_eq!(scene.allows("a.example"), allowed, "{user}");
    }
}

#[test]
fn the_hour_decides() {
    let mut scene = Scene::new();
    assert!(scene.allows("b.example"));
    scene.time = "2026-06-03T18:00:00Z";
    assert!(!scene.allows("b.example"));
    let next = scene.policy.next_change(scene.time.parse().unwrap());
    assert_eq!(next.unwrap().to_string(), "2026-06-04T00:00:00Z");
    assert_eq!(policy("version: 1\n").next_change(next.unwrap()), None);
}

#[test]
fn a_switch_decides() {
    let mut scene = Scene::new();
    assert!(scene.allows("c.example"));
    scene.switches.set("freeze", true);
    let ruling = scene.decide("c.example", Seen::NotYet);
    assert_eq!(ruling.outcome, RulingOutcome::Deny);
    assert_eq!(ruling.matched[0].rule, "freeze");
    assert_eq!(scene.policy.switches().get("freeze"), Some(&false));
}

#[test]
fn an_expression_waits_for_the_request_that_it_looks_at() {
    let scene = Scene::new();
    let early = scene.decide("d.example", Seen::NotYet);
    assert_eq!(early.outcome, RulingOutcome::Undecided);
    let never = scene.decide("d.example", Seen::Never);
    assert_eq!(never.reason.code, ReasonCode::NeedsInspection);
    for (method, path, code) in [
        ("GET", "/v1/a", ReasonCode::RuleAllow),
        ("PUT", "/v1/a", ReasonCode::NoRule),
        ("GET", "/v2/a", ReasonCode::NoRule),
    ] {
        let seen = Seen::Request(Request::new(method, path));
        let ruling = scene.decide("d.example", seen);
        assert_eq!(ruling.reason.code, code, "{method} {path}");
    }
}

#[test]
fn an_expression_that_cannot_be_evaluated_denies() {
    let scene = Scene::new();
    // Another rule allows it whatever the request, and yet it has to be seen.
    let early = scene.decide("e.example", Seen::NotYet);
    assert_eq!(early.outcome, RulingOutcome::Undecided);
    let ruling = scene.decide("e.example", Seen::Request(Request::new("GET", "/")));
    assert_eq!(ruling.outcome, RulingOutcome::Deny);
    assert_eq!(ruling.reason.code, ReasonCode::EngineError);
    assert_eq!(
        ruling.reason.message,
        "Rule team cannot decide whether to allow coder to GET e.example:443/: there is no `x-team`."
    );
    assert_eq!(ruling.matched[0].rule, "team");
}

#[test]
fn a_rule_is_in_force_for_a_share_of_the_sessions() {
    let mut scene = Scene::new();
    let mut denied = 0;
    for run in 0..400 {
        scene.run = run;
        let ruling = scene.decide("f.example", Seen::NotYet);
        assert_eq!(ruling.verdict, Verdict::Deny);
        if ruling.outcome == RulingOutcome::Deny {
            assert_eq!((ruling.enforced, ruling.mode), (true, Mode::Enforce));
            denied += 1;
        } else {
            assert_eq!((ruling.enforced, ruling.mode), (false, Mode::Shadow));
        }
    }
    assert!((120..280).contains(&denied), "{denied}");
}

#[test]
fn the_kernel_and_the_resolver_take_such_a_rule_as_one_that_may_match() {
    use agentguard_common::map::effect;
    let scene = Scene::new();
    let coder = agent(&scene.policy, "coder");
    for name in [
        "a.example",
        "b.example",
        "c.example",
        "d.example",
        "f.example",
    ] {
        let name = host(name);
        assert!(scene.policy.decide_name(coder, &name).allowed, "{name}");
        let lines = scene.policy.name_rules(coder, &name);
        assert_eq!(lines[0].effect, effect::PROXY, "{name}");
    }
}

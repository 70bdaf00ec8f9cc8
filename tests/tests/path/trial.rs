//! A policy on trial, with what the guard itself recorded: through the policy in force nothing changes,
//! and what a stricter one would change is named.

use std::time::Duration;

use agentguard_model::{ActionKind, Decision, ReasonCode, Verdict};
use agentguard_tests::{Guard, World, address, wait_until};
use serde_json::{Value, json};

use super::{OTHER, SITE, puppet, world};

/// Something of each kind: by name and by address, by request, direct, denied, on paper.
const POLICY: &str = "
version: 1
agents:
  - {name: coder}
  - {name: tried, mode: shadow}
rules:
  - id: pages
    agents: [coder]
    match: {host: [api.example.com], port: [80], method: [GET], path: [/, '/a/**'], header: {accept: ['*']}}
    action: allow
  - id: spliced
    agents: [coder]
    match: {host: [api.example.com], port: [443]}
    action: allow
  - id: no-queries
    match: {host: [api.example.com], query: {secret: ['*']}}
    action: deny
  - id: echo
    agents: [coder]
    match: {cidr: [203.0.113.16/32], port: [7], transport: [tcp, udp]}
    action: allow
    handling: direct
  - id: no-echo
    match: {cidr: [203.0.113.32/32]}
    action: deny
  - id: other-soon
    agents: [coder]
    match: {host: [www.other.example]}
    action: allow
    mode: shadow
  - id: discard-soon
    agents: [coder]
    match: {cidr: [203.0.113.16/32], port: [9], transport: [udp]}
    action: allow
    handling: direct
    mode: shadow
";

/// What agents do. What becomes of each is the policy's and not looked at here.
fn traffic(world: &World, guard: &Guard<'_>) {
    let [four, _] = address::origin(0x10);
    let [other, _] = address::origin(0x20);
    for agent in ["coder", "tried"] {
        let mut client = puppet(world, guard, agent);
        for order in [
            format!("get('{SITE}')"),
            format!("get('{OTHER}')"),
            format!("tls('t', '{SITE}')"),
            format!("tcp('c', '{four}', 7)"),
            format!("udp('u', '{four}')"),
            format!("say_to('u', 'hello', '{four}', 7)"),
            format!("say_to('u', 'hello', '{four}', 9)"),
            format!("tcp('d', '{other}', 7)"),
            format!("tcp('e', '{other}', 80)"),
            "tcp('l', '127.0.0.1', 9)".to_owned(),
            "listen('m', '127.0.0.1', 18080)".to_owned(),
            "tcp('n', '127.0.0.1', 18080)".to_owned(),
            "tcp('o', '169.254.169.254', 80)".to_owned(),
        ] {
            // An answer, or the error that the denial is.
            client.ask(&order).unwrap();
        }
        for path in ["/a/b", "/b", "/a/b?secret=1", "/a/b?other=1"] {
            let address = format!("resolve('{SITE}', 4)[0]");
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {SITE}\r\nAccept: text/plain\r\nConnection: close\r\n\r\n"
            );
            let bytes: String = request.bytes().map(|byte| format!("{byte:02x}")).collect();
            client
                .ask(&format!("talk({address}, 80, '{bytes}')"))
                .unwrap();
        }
    }
}

fn told(guard: &Guard<'_>, words: &[&str]) -> Value {
    let call = guard
        .cli()
        .args(["policy"])
        .args(words)
        .args(["-o", "json"]);
    let told = call.run().unwrap().success().unwrap();
    serde_json::from_str(&told.stdout).unwrap()
}

/// The policy with a change, beside it.
fn candidate(guard: &Guard<'_>, name: &str, change: (&str, &str)) -> String {
    assert!(POLICY.contains(change.0), "{}", change.0);
    let file = guard.policy().with_file_name(name);
    std::fs::write(&file, POLICY.replace(change.0, change.1)).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_simulation_tells_what_another_policy_would_have_changed_and_the_same_one_changes_nothing() {
    let world = world("trial");
    let guard = world.guard().policy(POLICY).start().unwrap();
    traffic(&world, &guard);
    // The kernel's decisions come after their effect.
    let metadata = |decisions: &[Decision]| {
        let of = |agent: &str| {
            decisions.iter().any(|decision| {
                let named = decision
                    .agent
                    .as_ref()
                    .is_some_and(|it| it.name.as_str() == agent);
                named && decision.action.ip == Some("169.254.169.254".parse().unwrap())
            })
        };
        (of("coder") && of("tried")).then(|| decisions.to_vec())
    };
    let recorded = guard.wait_verdicts("the last denials", metadata).unwrap();
    let of = |kind, verdict| {
        let same = |it: &&Decision| it.action.kind == kind && it.verdict == verdict;
        recorded.iter().filter(same).count()
    };
    for (kind, verdict) in [
        (ActionKind::DnsQuery, Verdict::Allow),
        (ActionKind::DnsQuery, Verdict::Deny),
        (ActionKind::HttpRequest, Verdict::Allow),
        (ActionKind::HttpRequest, Verdict::Deny),
        (ActionKind::Connect, Verdict::Allow),
        (ActionKind::Connect, Verdict::Deny),
        (ActionKind::Datagram, Verdict::Allow),
        (ActionKind::Datagram, Verdict::Deny),
    ] {
        assert!(of(kind, verdict) > 0, "{kind:?} {verdict:?}: {recorded:#?}");
    }

    // The very policy, and one that only reads otherwise.
    let file = guard.policy();
    for same in [
        file.to_str().unwrap().to_owned(),
        candidate(
            &guard,
            "spelled.yaml",
            ("version: 1", "# The same.\nversion: 1"),
        ),
    ] {
        let simulated = told(&guard, &["simulate", "--policy", &same, "--since", "1h"]);
        assert_eq!(simulated["groups"], json!([]), "{simulated:#}");
        assert_eq!(simulated["totals"]["changed"], 0, "{simulated:#}");
        assert_eq!(simulated["complete"], true);
        assert!(
            simulated["totals"]["unchanged"].as_u64() > Some(20),
            "{simulated:#}"
        );
    }
    let simulated = told(&guard, &["simulate", "--policy", file.to_str().unwrap()]);
    assert_eq!(simulated["totals"]["cannot_tell"], 0, "{simulated:#}");

    // Pages below `/a` are closed.
    let stricter = candidate(&guard, "stricter.yaml", ("path: [/, '/a/**']", "path: [/]"));
    let simulated = told(
        &guard,
        &["simulate", "--policy", &stricter, "--agent", "coder"],
    );
    let groups = simulated["groups"].as_array().unwrap();
    let [group] = groups.as_slice() else {
        panic!("{simulated:#}");
    };
    assert_eq!(group["agent"], "coder");
    assert_eq!(group["kind"], "http_request");
    assert_eq!(group["destination"], format!("{SITE}:80"));
    assert_eq!(group["was"]["verdict"], "allow");
    assert_eq!(
        group["would_be"],
        json!({"verdict": "deny", "enforced": true})
    );
    assert_eq!(group["before"]["rule"]["rule"], "pages");
    assert_eq!(group["after"], json!({"reason": "no_rule"}));
    assert_eq!(group["count"], 2, "{simulated:#}");
    let example = group["examples"][0].as_str().unwrap();
    let explained = guard.cli().args(["explain", example]).run().unwrap();
    let explained = explained.success().unwrap();
    assert!(explained.stdout.contains("/a/b"), "{explained}");

    // A condition on what was not recorded.
    let looking = candidate(&guard, "looking.yaml", ("accept: ['*']", "x-why: ['*']"));
    let simulated = told(
        &guard,
        &["simulate", "--policy", &looking, "--agent", "coder"],
    );
    assert_eq!(simulated["totals"]["changed"], 0, "{simulated:#}");
    let why = simulated["untold"][0]["why"].as_str().unwrap();
    assert_eq!(why, "not recorded: header `x-why`", "{simulated:#}");
}

/// A name that is answered with its own addresses: the gate decides by those, and the record has the name.
#[test]
fn what_goes_directly_by_the_real_address_of_a_name_is_recorded_with_the_name() {
    let world = world("trial-real");
    let policy = format!(
        "
version: 1
agents: [{{name: coder}}]
rules:
  - id: real
    match: {{host: [{SITE}], port: [7], transport: [tcp, udp]}}
    action: allow
    handling: direct
    addresses: real
"
    );
    let guard = world.guard().policy(&policy).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    let address = format!("resolve('{SITE}', 4)[0]");
    for order in [
        format!("tcp('t', {address}, 7)"),
        format!("tcp('d', {address}, 9)"),
        format!("udp('u', {address})"),
        format!("say_to('u', 'hello', {address}, 7)"),
    ] {
        client.ask(&order).unwrap();
    }
    let settled = guard.wait_verdicts("the flows", |decisions| {
        let flows = decisions
            .iter()
            .filter(|it| it.action.kind != ActionKind::DnsQuery);
        let flows: Vec<_> = flows.cloned().collect();
        (flows.len() >= 3).then_some(flows)
    });
    let [four, _] = address::origin(0x10);
    for flow in settled.unwrap() {
        let host = flow.action.host.as_ref().map(ToString::to_string);
        assert_eq!(host.as_deref(), Some(SITE), "{flow:#?}");
        assert_eq!(flow.action.ip.unwrap().to_string(), four.to_string());
        let allowed = flow.action.port == Some(7);
        assert_eq!(flow.verdict == Verdict::Allow, allowed, "{flow:#?}");
        let id = flow.id.to_string();
        let explained = guard.cli().args(["explain", &id]).run().unwrap();
        let explained = explained.success().unwrap().stdout;
        assert!(!explained.contains("0 of them"), "{explained}");
    }
    let file = guard.policy();
    let simulated = told(&guard, &["simulate", "--policy", file.to_str().unwrap()]);
    assert_eq!(simulated["totals"]["changed"], 0, "{simulated:#}");
    assert_eq!(simulated["totals"]["cannot_tell"], 0, "{simulated:#}");
}

#[test]
fn an_observed_lookup_of_what_is_not_there_is_recorded_as_it_would_be_decided() {
    let world = world("trial-nowhere");
    let policy = format!(
        "
version: 1
agents: [{{name: tried, mode: shadow}}]
rules:
  - {{id: site, match: {{host: ['*.{SITE}'], port: [443]}}, action: allow}}
"
    );
    let guard = world.guard().policy(&policy).start().unwrap();
    let mut client = puppet(&world, &guard, "tried");
    // A rule allows the one, and none the other.
    for (name, verdict, code) in [
        (
            format!("nowhere.{SITE}"),
            Verdict::Allow,
            ReasonCode::NameUnknown,
        ),
        (
            "nowhere.other.example".to_owned(),
            Verdict::Deny,
            ReasonCode::NoRule,
        ),
    ] {
        // It fails, as without the guard.
        client.ask(&format!("resolve('{name}', 4)")).unwrap();
        let asked = guard.wait_verdicts("the lookup", |decisions| {
            let host = |it: &&Decision| {
                it.action
                    .host
                    .as_ref()
                    .is_some_and(|it| it.as_str() == name)
            };
            decisions.iter().find(host).cloned()
        });
        let asked = asked.unwrap();
        assert_eq!(
            (asked.verdict, asked.reason.code),
            (verdict, code),
            "{name}"
        );
        assert_eq!(asked.enforced, verdict == Verdict::Allow, "{name}");
    }
}

#[test]
fn a_report_names_what_a_mode_let_pass_and_what_a_rule_on_paper_would_have_allowed() {
    let world = world("trial-report");
    let guard = world.guard().policy(POLICY).start().unwrap();
    traffic(&world, &guard);
    for (agent, known) in [("tired", false), ("tried", true)] {
        let said = guard
            .cli()
            .args(["policy", "report", "--agent", agent])
            .run();
        let said = said.unwrap().success().unwrap();
        let why = format!("has no agent {agent}, and the record nothing of one");
        assert_eq!(said.stderr.contains(&why), !known, "{said}");
    }
    let report = told(&guard, &["report", "--agent", "tried"]);
    let denied = report["would_be_denied"].as_array().unwrap();
    let site = denied
        .iter()
        .find(|it| it["destination"] == format!("{OTHER}:80") && it["kind"] == "http_request");
    let site = site.unwrap_or_else(|| panic!("{report:#}"));
    // At its address a rule says so, and not only that none allows the name.
    assert_eq!(site["mode"], "shadow");
    assert_eq!(site["by"]["rule"]["rule"], "no-echo", "{report:#}");
    assert_eq!(site["count"], 1, "{report:#}");
    assert_eq!(report["would_be_allowed"], json!([]));

    let report = told(&guard, &["report", "--agent", "coder"]);
    assert_eq!(report["would_be_denied"], json!([]), "{report:#}");
    let allowed = report["would_be_allowed"].as_array().unwrap();
    let soon = allowed.iter().find(|it| it["destination"] == OTHER);
    let soon = soon.unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!(soon["by"]["rule"]["rule"], "other-soon");
    assert_eq!(soon["kind"], "dns_query");
    // What the kernel denied alone, which knows no rules on paper, is recorded after its effect.
    let discarded = wait_until("the report", Duration::from_secs(10), || {
        let report = told(&guard, &["report", "--agent", "coder"]);
        let mut allowed = report["would_be_allowed"].as_array().unwrap().iter();
        allowed
            .find(|it| it["destination"] == "203.0.113.16:9/udp")
            .cloned()
    });
    let discarded = discarded.unwrap();
    assert_eq!(discarded["by"]["rule"]["rule"], "discard-soon");
    assert_eq!(discarded["kind"], "datagram");
}

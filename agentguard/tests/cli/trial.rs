//! A policy on trial against what was recorded: `policy simulate` and `policy report`.

use agentguard_model::{
    Action, ActionKind, Decision, DecisionId, Layer, Matched, Mode, Reason, ReasonCode, Source,
    Transport, Verdict,
};
use agentguard_policy::{Document, compile};
use serde_json::json;

use crate::world::{Bench, POLICY, Served, agentguard, decision};

/// As the guard records what [`POLICY`] says.
fn recorded(kind: ActionKind, host: &str, verdict: Verdict) -> Decision {
    let decision = decision(verdict, kind, host);
    let policy = compile(&[Document {
        path: "policy.yaml".into(),
        text: POLICY.into(),
    }])
    .unwrap();
    Decision {
        layer: match kind {
            ActionKind::DnsQuery => Layer::Dns,
            _ => Layer::Proxy,
        },
        action: Action {
            transport: Some(Transport::Tcp),
            ..decision.action
        },
        reason: Reason::new(
            match verdict {
                Verdict::Allow => ReasonCode::RuleAllow,
                _ => ReasonCode::NoRule,
            },
            "because",
        ),
        matched: match verdict {
            Verdict::Allow => vec![matched("docs", 6)],
            _ => Vec::new(),
        },
        policy_version: policy.version().to_owned(),
        ..decision
    }
}

fn matched(rule: &str, line: u32) -> Matched {
    Matched {
        engine: "native".into(),
        rule: rule.into(),
        source: Source {
            file: "policy.yaml".into(),
            line,
        },
        on_paper: None,
    }
}

fn some_traffic(served: &Served) -> Vec<DecisionId> {
    use ActionKind::{Connect, DnsQuery, HttpRequest};
    let deleted = |decision: Decision| Decision {
        action: Action {
            method: Some("DELETE".into()),
            path: Some("/a".into()),
            ..decision.action
        },
        reason: Reason::new(ReasonCode::RuleDeny, "because"),
        matched: vec![matched("no-deletes", 11)],
        ..decision
    };
    [
        recorded(DnsQuery, "docs.example", Verdict::Allow),
        recorded(DnsQuery, "docs.example", Verdict::Allow),
        Decision {
            count: 40,
            ..recorded(DnsQuery, "elsewhere.example", Verdict::Deny)
        },
        deleted(recorded(HttpRequest, "docs.example", Verdict::Deny)),
        Decision {
            reason: Reason::new(ReasonCode::NameMismatch, "they differ"),
            ..recorded(Connect, "docs.example", Verdict::Deny)
        },
    ]
    .into_iter()
    .map(|decision| served.write(decision))
    .collect()
}

#[test]
fn a_candidate_is_simulated_with_what_was_recorded() {
    let bench = Bench::new();
    let served = Served::new(&bench);
    let config = bench.config();
    let ids = some_traffic(&served);
    let since = "2026-01-01T00:00:00Z";

    // The policy in force, under another name.
    bench.write("same.yaml", POLICY);
    let same = bench.path("same.yaml");
    let simulate = |file: &str, more: &[&str]| {
        let arguments = ["policy", "simulate", "--policy", file, "--since", since];
        agentguard(arguments.iter().chain(more)).with_config(&config)
    };
    let said = simulate(&same, &["-o", "json"]).run();
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    let json: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(
        json["totals"],
        json!({
            "attempts": 44, "unchanged": 43, "changed": 0, "said_otherwise": 0,
            "done_otherwise": 0, "cannot_tell": 0, "not_the_policys": 1,
        })
    );
    assert_eq!(
        (&json["groups"], &json["complete"]),
        (&json!([]), &json!(true))
    );

    // Another one: one name less, one more, and a rule for what the record does not have.
    let candidate = "\
version: 1
agents: [{name: coder}]
rules:
  - {id: elsewhere, match: {host: [elsewhere.example], port: [443]}, action: allow}
  - id: deletes
    match: {host: [docs.example], port: [443], method: [DELETE], header: {x-why: [because]}}
    action: allow
    handling: inspect
  - {id: no-docs, match: {host: [docs.example], port: [443], path: [/b]}, action: deny}
  - {id: no-docs-at-all, match: {host: [docs.example]}, action: deny, mode: shadow}
";
    bench.write("other.yaml", candidate);
    let other = bench.path("other.yaml");
    let version = {
        let checked = agentguard(["policy", "check", &other, "-o", "json"]).run();
        let json: serde_json::Value = serde_json::from_str(&checked.stdout).unwrap();
        json["version"].as_str().unwrap().to_owned()
    };
    let said = simulate(&other, &[]).run();
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    assert_eq!(
        squeezed(&said.stdout),
        format!(
            "\
candidate {other}, version {version}
record 5 decisions, 44 attempts, from 2026-11-22T04:08:03Z to 2026-11-22T04:08:03Z

AGENT WAS WOULD BE KIND DESTINATION BEFORE AFTER COUNT EXAMPLES
coder deny allow dns_query elsewhere.example no_rule elsewhere ({other}:4) 40 {}
coder allow (deny) dns_query docs.example docs (policy.yaml:6) no-docs-at-all ({other}:10), shadow 2 {} {}

unchanged 0
changed 42, of which 42 said otherwise, 40 done otherwise
cannot be told 1
not the policy's 1

COUNT CANNOT BE TOLD BECAUSE EXAMPLES
1 not recorded: header `x-why` {}
",
            ids[2], ids[1], ids[0], ids[3]
        )
    );

    // Of another agent there is nothing; a candidate that is wrong is told as such.
    let said = simulate(&other, &["--agent", "tester"]).run();
    assert!(
        squeezed(&said.stdout)
            .contains("record 0 decisions, 0 attempts since 2026-01-01T00:00:00Z"),
        "{}",
        said.stdout
    );
    bench.write("bad.yaml", "version: 1\nrules: [{id: a, action: alow}]\n");
    let bad = bench.path("bad.yaml");
    simulate(&bad, &[]).says(
        "",
        &format!(
            "{bad}:2:25: error: unknown value `alow`\n  hint: did you mean `allow`?\nerror: {bad} cannot be used: 1 error\n"
        ),
        2,
    );
}

/// More than one answer of the daemon's holds.
#[test]
fn all_of_a_long_record_is_looked_at_once() {
    let bench = Bench::new();
    let served = Served::new(&bench);
    let config = bench.config();
    let one = recorded(ActionKind::DnsQuery, "docs.example", Verdict::Allow);
    for _ in 0..4001 {
        served.write(one.clone());
    }
    bench.write("same.yaml", POLICY);
    let same = bench.path("same.yaml");
    let arguments = ["policy", "simulate", "--policy", &same, "-o", "json"];
    let said = agentguard(arguments.iter().chain(&["--since", "2026-01-01T00:00:00Z"]))
        .with_config(&config)
        .run();
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    let json: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(
        (
            &json["decisions"],
            &json["totals"]["unchanged"],
            &json["complete"]
        ),
        (&json!(4001), &json!(4001), &json!(true))
    );
}

#[test]
fn a_report_says_what_the_modes_keep_from_being_done() {
    let bench = Bench::new();
    let served = Served::new(&bench);
    let config = bench.config();
    use ActionKind::{Connect, DnsQuery};
    let noted = |decision: Decision| Decision {
        enforced: false,
        mode: Mode::Shadow,
        ..decision
    };
    some_traffic(&served);
    let mut ids = Vec::new();
    for day in ["2026-11-23T00:00:00Z", "2026-11-24T00:00:00Z"] {
        ids.push(served.write(Decision {
            time: day.parse().unwrap(),
            count: 7,
            ..noted(recorded(DnsQuery, "elsewhere.example", Verdict::Deny))
        }));
    }
    ids.push(served.write(Decision {
        reason: Reason::new(ReasonCode::RuleDeny, "because"),
        matched: vec![matched("no-deletes", 11)],
        ..noted(recorded(Connect, "docs.example", Verdict::Deny))
    }));
    // The policy in force has a rule that would allow it, in shadow mode.
    let granted = |version: &str| Decision {
        matched: vec![matched("no-deletes", 11), matched("some-day", 16)],
        policy_version: version.to_owned(),
        ..recorded(Connect, "some-day.example", Verdict::Deny)
    };
    let version = recorded(Connect, "a.example", Verdict::Deny).policy_version;
    ids.push(served.write(granted(&version)));
    served.write(granted("of old"));

    let report = |more: &[&str]| {
        let arguments = ["policy", "report", "--since", "2026-01-01T00:00:00Z"];
        let said = agentguard(arguments.iter().chain(more))
            .with_config(&config)
            .run();
        assert_eq!((said.code, said.stderr.as_str()), (0, ""));
        said.stdout
    };
    let changed = noted(Decision {
        reason: Reason::new(ReasonCode::RuleModify, "because"),
        ..recorded(Connect, "docs.example", Verdict::Modify)
    });
    assert_eq!(
        squeezed(&report(&[])),
        format!(
            "\
record 10 decisions, 61 attempts, from 2026-11-22T04:08:03Z to 2026-11-24T00:00:00Z

15 went on, and would be denied in enforce mode
AGENT MODE BY KIND DESTINATION COUNT FIRST LAST EXAMPLES
coder shadow no_rule dns_query elsewhere.example 14 2026-11-23T00:00:00Z 2026-11-24T00:00:00Z {} {}
coder shadow no-deletes (policy.yaml:11) connect docs.example:443 1 2026-11-22T04:08:03Z 2026-11-22T04:08:03Z {}

0 went on, and would be changed in enforce mode where it was not

1 was denied, and would be allowed by a rule in enforce mode
AGENT MODE BY KIND DESTINATION COUNT FIRST LAST EXAMPLES
coder shadow some-day (policy.yaml:16) connect some-day.example:443 1 2026-11-22T04:08:03Z 2026-11-22T04:08:03Z {}

not told: 1 that were denied under earlier policies, on paper perhaps not
",
            ids[1], ids[0], ids[2], ids[3]
        )
    );
    served.write(changed);
    let json: serde_json::Value = serde_json::from_str(&report(&["-o", "json"])).unwrap();
    assert_eq!(json["would_be_modified"][0]["by"]["reason"], "rule_modify");
    assert_eq!(json["would_be_denied"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        (
            &json["attempts"],
            &json["of_earlier_policies"],
            &json["complete"]
        ),
        (&json!(62), &json!(1), &json!(true))
    );
    assert_eq!(
        json["would_be_denied"][0]["by"],
        json!({"reason": "no_rule"})
    );
    assert_eq!(
        json["would_be_allowed"][0]["by"]["rule"]["rule"],
        "some-day"
    );
}

/// With runs of spaces as one: how wide a column is depends on where the test runs.
fn squeezed(text: &str) -> String {
    let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(|it| line(it) + "\n").collect()
}

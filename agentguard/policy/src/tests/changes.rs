//! Rules that allow with changes.

use agentguard_model::{Handling, ReasonCode, Transport, Verdict};
use http::HeaderMap;

use super::{agent, host, llm_call, policy};
use crate::{Circumstances, Facts, Policy, Request, Ruling, RulingOutcome, Seen};

const TEXT: &str = r#"
version: 1
agents: [{name: coder}, {name: learner, mode: observe}]
rules:
  - {id: plain, match: {host: [a.example, b.example]}, action: allow, handling: splice}
  - id: no-cookies
    match: {host: [a.example, c.example]}
    action: modify
    modify: {headers: {drop: [cookie], set: {x-agent: first}}}
    handling: inspect
  - id: name-it
    match: {host: [a.example]}
    action: modify
    modify: {headers: {set: {x-agent: second}}}
  - {id: no-deletes, match: {host: [a.example], method: [DELETE]}, action: deny}
"#;

fn decide(policy: &Policy, of: &str, name: &str, request: Seen<'_>) -> Ruling {
    let name = host(name);
    let facts = Facts {
        host: Some(&name),
        ip: None,
        port: 443,
        transport: Transport::Tcp,
        request,
        circumstances: Circumstances::NOBODY,
    };
    policy.decide(agent(policy, of), &facts)
}

fn changed(ruling: &Ruling) -> Vec<(String, String)> {
    let mut fields = HeaderMap::new();
    fields.append("cookie", "a=1".parse().unwrap());
    fields.append("x-agent", "mine".parse().unwrap());
    fields.append("x-agent", "mine too".parse().unwrap());
    ruling.changes.iter().for_each(|it| it.apply(&mut fields));
    let fields = fields
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    fields.collect()
}

#[test]
fn every_rule_that_matches_changes_it_in_order() {
    let policy = policy(TEXT);
    let get = Seen::Request(Request::new("GET", "/"));
    let ruling = decide(&policy, "coder", "a.example", get);
    assert_eq!(ruling.outcome, RulingOutcome::Allow(Handling::Inspect));
    assert_eq!((ruling.verdict, ruling.enforced), (Verdict::Modify, true));
    assert_eq!(ruling.reason.code, ReasonCode::RuleModify);
    assert_eq!(
        ruling.reason.message,
        "Rule no-cookies allows coder to GET a.example:443/, without `cookie`, with another `x-agent`, with another `x-agent`."
    );
    let rules: Vec<_> = ruling.matched.iter().map(|it| it.rule.as_str()).collect();
    assert_eq!(rules, ["no-cookies", "name-it", "plain"]);
    assert_eq!(
        changed(&ruling),
        [("x-agent".to_owned(), "second".to_owned())]
    );
    let plain = decide(&policy, "coder", "b.example", get);
    assert_eq!((plain.verdict, changed(&plain).len()), (Verdict::Allow, 3));
}

#[test]
fn a_denial_beats_it_and_who_is_watched_sends_as_before() {
    let policy = policy(TEXT);
    let delete = Seen::Request(Request::new("DELETE", "/"));
    let denied = decide(&policy, "coder", "a.example", delete);
    assert_eq!((denied.verdict, denied.changes.len()), (Verdict::Deny, 0));
    let get = Seen::Request(Request::new("GET", "/"));
    let watched = decide(&policy, "learner", "c.example", get);
    assert_eq!(
        (watched.verdict, watched.enforced),
        (Verdict::Modify, false)
    );
    assert!(watched.changes.is_empty());
}

#[test]
fn what_would_be_changed_does_not_pass_unseen() {
    let policy = policy(TEXT);
    for name in ["a.example", "c.example"] {
        let early = decide(&policy, "coder", name, Seen::NotYet);
        assert_eq!(early.outcome, RulingOutcome::Undecided, "{name}");
        let never = decide(&policy, "coder", name, Seen::Never);
        assert_eq!(never.outcome, RulingOutcome::Deny, "{name}");
        assert_eq!(never.reason.code, ReasonCode::NeedsInspection, "{name}");
    }
}

/// On paper it says what would be changed, and changes nothing.
#[test]
fn on_paper_it_is_told_and_not_made() {
    let modify = "action: modify\n    modify: {headers: {drop: [cookie]}}\n    handling: inspect";
    let text = |more: &str| {
        format!(
            "version: 1\nagents: [{{name: coder}}]\nrules:\n  - {{id: open, match: {{host: [a.example]}}, action: allow, handling: inspect}}\n  - id: soon\n    match: {{host: [a.example, b.example]}}\n    {modify}\n    {more}\n"
        )
    };
    let get = Seen::Request(Request::new("GET", "/"));
    for more in ["mode: shadow", "rollout: {percent: 0}"] {
        let policy = policy(&text(more));
        let ruling = decide(&policy, "coder", "a.example", get);
        assert_eq!(ruling.outcome, RulingOutcome::Allow(Handling::Inspect));
        assert_eq!((ruling.verdict, ruling.enforced), (Verdict::Modify, false));
        assert_eq!(ruling.mode, agentguard_model::Mode::Shadow, "{more}");
        assert_eq!(ruling.matched[0].rule, "soon", "{more}");
        assert_eq!(changed(&ruling).len(), 3, "{more}");
        // It grants nothing.
        let alone = decide(&policy, "coder", "b.example", get);
        assert_eq!(alone.reason.code, ReasonCode::NoRule, "{more}");
    }
}

fn contents(matches: &str, modify: &str) -> String {
    format!(
        "version: 1\nproviders: [{{name: ours, api: openai, hosts: [a.example]}}]\ntool_servers: [{{name: files, api: mcp, hosts: [b.example]}}, {{name: code, api: graphql, hosts: [c.example]}}]\nagents: [{{name: coder}}]\nrules:\n  - id: changed\n    match: {{host: [a.example, b.example, c.example], port: [443], {matches}}}\n    action: modify\n    modify: {modify}\n    handling: inspect\n"
    )
}

#[test]
fn what_is_changed_in_contents_is_told_without_values() {
    let modify = "{redact: [/user, \"/messages/*/name\"], clamp: {/max_tokens: 4096, /temperature: {min: 0, max: 0.5}, /n: {min: 1}}, json_patch: [{op: test, path: /a, value: null}, {op: add, path: /b, value: {c: [1, secret]}}, {op: remove, path: /d}, {op: replace, path: /e, value: 1}, {op: move, from: /f, path: /g}, {op: copy, from: /g, path: /h/-}]}";
    let policy = policy(&contents("llm: {}", modify));
    let llm = llm_call("ours", Some("m"));
    let request = Request {
        llm: Some(&llm),
        ..Request::new("POST", "/v1/chat/completions")
    };
    let ruling = decide(&policy, "coder", "a.example", Seen::Request(request));
    assert_eq!(ruling.verdict, Verdict::Modify);
    let told = ruling.reason.message.split_once(", ").unwrap().1;
    assert_eq!(
        told,
        "with `/user` redacted, with `/messages/*/name` redacted, with `/max_tokens` at most 4096, with `/n` at least 1, with `/temperature` from 0 to 0.5, with `/a` tested, with `/b` added, without `/d`, with another `/e`, with `/f` moved to `/g`, with `/g` copied to `/h/-`."
    );
    let edits = ruling.changes[0].edits().unwrap();
    let document = r#"{"user":"me","messages":[{"name":"x"}],"max_tokens":5000,"temperature":0.7,"a":null,"d":1,"e":2,"f":[3],"h":[]}"#;
    let mut document =
        agentguard_protocol::json::Value::read(document.as_bytes(), 1 << 16).unwrap();
    edits.apply(&mut document).unwrap();
    assert_eq!(
        document.written(),
        r#"{"user":"[redacted]","messages":[{"name":"[redacted]"}],"max_tokens":4096,"temperature":0.5,"a":null,"e":1,"h":[[3]],"b":{"c":[1,"secret"]},"g":[3]}"#
    );
    // What is no call is not for it.
    let get = Seen::Request(Request::new("GET", "/"));
    let other = decide(&policy, "coder", "a.example", get);
    assert_eq!(other.reason.code, ReasonCode::NoRule);
}

/// A double of what is written would be another bound.
#[test]
fn a_number_is_bounded_by_just_what_is_written() {
    for (bound, before, after) in [
        (
            "123456789012345678901234567890",
            "123456789012345678901234567891",
            "123456789012345678901234567890",
        ),
        (
            "1000000000000000000",
            "1.000000000000000001e18",
            "1000000000000000000",
        ),
        ("0.1", "0.10000000000000000001", "0.1"),
        (
            "0.10000000000000000001",
            "0.10000000000000000001",
            "0.10000000000000000001",
        ),
        (
            "{min: -0.30000000000000000001}",
            "-1",
            "-0.30000000000000000001",
        ),
        (".5", "0.6", "0.5"),
    ] {
        let policy = policy(&contents("llm: {}", &format!("{{clamp: {{/n: {bound}}}}}")));
        let llm = llm_call("ours", Some("m"));
        let request = Request {
            llm: Some(&llm),
            ..Request::new("POST", "/v1/chat/completions")
        };
        let ruling = decide(&policy, "coder", "a.example", Seen::Request(request));
        let document = format!("{{\"n\":{before}}}");
        let mut document =
            agentguard_protocol::json::Value::read(document.as_bytes(), 1 << 16).unwrap();
        ruling.changes[0]
            .edits()
            .unwrap()
            .apply(&mut document)
            .unwrap();
        assert_eq!(document.written(), format!("{{\"n\":{after}}}"), "{bound}");
    }
}

#[test]
fn what_cannot_be_changed_in_contents_is_refused() {
    for (matches, modify, told) in [
        (
            "method: [POST]",
            "{redact: [/a]}",
            "contents are changed where they are read: in calls of language models and of tools",
        ),
        (
            "tool: {}",
            "{redact: [/a]}",
            "what is changed in calls of tools are their arguments",
        ),
        (
            "tool: {server: [code], name: [x]}",
            "{redact: [/a]}",
            "of calls to `code` no arguments can be changed",
        ),
        ("llm: {}", "{redact: [a]}", "`a` is no JSON Pointer"),
        ("llm: {}", "{redact: [/a~2]}", "`~` stands alone in it"),
        ("llm: {}", "{redact: [\"\"]}", "is no JSON Pointer"),
        ("llm: {}", "{redact: []}", "`redact` is empty"),
        ("llm: {}", "{clamp: {}}", "`clamp` is empty"),
        ("llm: {}", "{json_patch: []}", "`json_patch` is empty"),
        (
            "llm: {}",
            "{clamp: {/a: x}}",
            "expected a number, or `min` and `max`, found the text `x`",
        ),
        (
            "llm: {}",
            "{clamp: {/a: \"9\"}}",
            "expected a number, or `min` and `max`, found the text `9`\n  hint: write its digits, without quotes",
        ),
        (
            "llm: {}",
            "{clamp: {/a: .inf}}",
            "expected a number, or `min` and `max`",
        ),
        ("llm: {}", "{clamp: {/a: {}}}", "neither `min` nor `max`"),
        (
            "llm: {}",
            "{clamp: {/a: {min: 0.10000000000000000001, max: 0.1}}}",
            "`min` is larger than `max`",
        ),
        (
            "llm: {}",
            "{clamp: {/a: {min: 2, max: 1}}}",
            "`min` is larger than `max`",
        ),
        ("llm: {}", "{clamp: {/a: {most: 1}}}", "unknown key `most`"),
        (
            "llm: {}",
            "{json_patch: [{op: put, path: /a}]}",
            "unknown value `put`",
        ),
        (
            "llm: {}",
            "{json_patch: [{op: add, path: /a}]}",
            "this operation needs `value`",
        ),
        (
            "llm: {}",
            "{json_patch: [{op: remove, path: /a, value: 1}]}",
            "this operation has no `value`",
        ),
        (
            "llm: {}",
            "{json_patch: [{op: copy, path: /a}]}",
            "this operation needs `from`",
        ),
        (
            "llm: {}",
            "{json_patch: [{op: move, from: /a, path: /a/b}]}",
            "nothing is moved into itself",
        ),
    ] {
        let found = super::refusals::refused(&contents(matches, modify));
        assert!(
            found.iter().any(|it| it.contains(told)),
            "{modify}: {found:?}"
        );
    }
    let many: Vec<String> = (0..65).map(|n| format!("/a{n}")).collect();
    let many = contents("llm: {}", &format!("{{redact: [{}]}}", many.join(", ")));
    let found = super::refusals::refused(&many);
    assert!(found[0].contains("at most 64 changes"), "{found:?}");
    let large = "x".repeat(70_000);
    let large = format!("{{json_patch: [{{op: add, path: /a, value: {large}}}]}}");
    let found = super::refusals::refused(&contents("llm: {}", &large));
    assert!(found[0].contains("a value of a patch takes"), "{found:?}");
}

#[test]
fn contents_are_kept_of_what_a_rule_allows_that_sees_them() {
    let text = |rest: &str| {
        format!(
            "version: 1\nagents: [{{name: coder}}, {{name: learner, mode: observe}}]\nrules:\n  - {{id: kept, match: {{host: [a.example], port: [443]}}, action: allow, handling: inspect, obligations: {{capture_body: true}}}}\n  - {{id: open, match: {{host: [a.example, b.example], port: [443]}}, action: allow, handling: inspect{rest}}}\n"
        )
    };
    let policy = policy(&text(""));
    let get = Seen::Request(Request::new("GET", "/"));
    for (agent, name, captures) in [
        ("coder", "a.example", true),
        ("learner", "a.example", true),
        ("coder", "b.example", false),
    ] {
        let ruling = decide(&policy, agent, name, get);
        assert_eq!(ruling.captures, captures, "{agent} {name}");
        assert_eq!(ruling.verdict, Verdict::Allow);
    }
    let early = decide(&policy, "coder", "a.example", Seen::NotYet);
    assert_eq!(early.outcome, RulingOutcome::Allow(Handling::Inspect));
    // It is looked into for that alone, and what shows nothing does not pass.
    let spliced = text("").replace(
        "{host: [a.example, b.example], port: [443]}, action: allow, handling: inspect",
        "{host: [a.example, b.example], port: [443]}, action: allow, handling: splice",
    );
    let spliced = super::policy(&spliced);
    let early = decide(&spliced, "coder", "a.example", Seen::NotYet);
    assert_eq!(early.outcome, RulingOutcome::Undecided);
    let never = decide(&spliced, "coder", "a.example", Seen::Tls);
    assert_eq!(never.outcome, RulingOutcome::Deny);
    for (rest, told) in [
        (
            ", mode: shadow}\n  - {id: not, match: {host: [c.example]}, action: deny, obligations: {capture_body: true}",
            "`capture_body` is for rules that allow",
        ),
        (
            "}\n  - {id: direct, match: {host: [c.example]}, action: allow, handling: direct, obligations: {capture_body: true}",
            "`direct` cannot go with what looks at requests",
        ),
    ] {
        let found = super::refusals::refused(&text(rest));
        assert!(found.iter().any(|it| it.contains(told)), "{found:?}");
    }
}

/// What a denial on paper says is recorded, and what the other rules change is changed.
#[test]
fn a_denial_on_paper_takes_no_change_back() {
    for on_paper in ["mode: shadow", "rollout: {percent: 0}"] {
        let policy = policy(&format!(
            "version: 1\nagents: [{{name: coder}}]\nrules:\n  - {{id: m, match: {{host: [a.example]}}, action: modify, modify: {{headers: {{drop: [cookie]}}}}, handling: inspect}}\n  - {{id: soon, match: {{host: [a.example], method: [GET]}}, action: deny, {on_paper}}}\n"
        ));
        let get = Seen::Request(Request::new("GET", "/"));
        let ruling = decide(&policy, "coder", "a.example", get);
        assert_eq!(ruling.outcome, RulingOutcome::Allow(Handling::Inspect));
        assert_eq!((ruling.verdict, ruling.enforced), (Verdict::Deny, false));
        assert!(changed(&ruling).iter().all(|(name, _)| name != "cookie"));
    }
}

/// What a rule would change does not pass another rule by being written in another way.
#[test]
fn what_has_another_reading_is_changed_too() {
    let policy = policy(
        "version: 1\nproviders: [{name: ours, api: openai, hosts: [b.example]}]\nagents: [{name: coder}]\nrules:\n  - {id: open, match: {host: [a.example, b.example]}, action: allow, handling: inspect}\n  - {id: private, match: {host: [a.example], path: [\"/private/*\"]}, action: modify, modify: {headers: {drop: [cookie]}}, handling: inspect}\n  - {id: small, match: {host: [b.example], llm: {model: [small]}}, action: modify, modify: {redact: [/user]}, handling: inspect}\n  - {id: never, match: {host: [c.example], path: [\"/private/*\"]}, action: modify, modify: {headers: {drop: [cookie]}}, handling: inspect}\n",
    );
    for (path, modifies) in [
        ("/private/x", true),
        ("/private%2Fx", true),
        ("/public/x", false),
    ] {
        let get = Seen::Request(Request::new("GET", path));
        let ruling = decide(&policy, "coder", "a.example", get);
        let expected = match modifies {
            true => Verdict::Modify,
            false => Verdict::Allow,
        };
        assert_eq!(ruling.verdict, expected, "{path}");
        assert_eq!(ruling.changes.len(), usize::from(modifies), "{path}");
        let allows = match path {
            "/private/x" => "Rule private allows",
            _ => "Rule open allows",
        };
        let said = &ruling.reason.message;
        assert!(said.starts_with(allows), "{said}");
        // It allows nothing in another reading.
        let alone = decide(&policy, "coder", "c.example", get);
        let expected = match path {
            "/private/x" => ReasonCode::RuleModify,
            _ => ReasonCode::NoRule,
        };
        assert_eq!(alone.reason.code, expected, "{path}");
    }
    for (model, modifies) in [
        (Some("small"), true),
        (Some("SMALL"), true),
        (Some("large"), false),
    ] {
        let llm = llm_call("ours", model);
        let request = Request {
            llm: Some(&llm),
            ..Request::new("POST", "/v1/chat/completions")
        };
        let ruling = decide(&policy, "coder", "b.example", Seen::Request(request));
        assert_eq!(ruling.changes.len(), usize::from(modifies), "{model:?}");
    }
}

/// Each has a sample of its own, and what one changes another may change back.
#[test]
fn rules_that_only_seem_to_add_nothing_are_not_called_so() {
    let text = |rules: &str| format!("version: 1\nagents: [{{name: coder}}]\nrules:\n{rules}");
    let twice = "  - {id: ID, match: {host: [a.example], port: [443]}, action: ACTION, handling: inspect, rollout: {percent: 20}}\n";
    let sets = "  - {id: ID, match: {host: [a.example], port: [443]}, action: modify, modify: {headers: {set: {x-tier: TIER}}}, handling: inspect}\n";
    let of = |rule: &str, id: &str, other: &str| {
        let rule = rule.replace("ID", id);
        rule.replace("ACTION", other).replace("TIER", other)
    };
    for rules in [
        of(twice, "a", "allow") + &of(twice, "b", "allow"),
        of(sets, "a", "low") + &of(sets, "b", "high") + &of(sets, "c", "low"),
    ] {
        let policy = policy(&text(&rules));
        let warnings: Vec<_> = policy.warnings().iter().map(ToString::to_string).collect();
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}

/// Where ranks decide, a lower rule does not have the last word for a request being written in another way.
#[test]
fn the_highest_rank_changes_last() {
    for (strategy, priority) in [
        ("priority_first_match", "priority: 3, "),
        ("most_specific_wins", ""),
    ] {
        let policy = policy(&format!(
            "version: 1\nstrategy: {strategy}\nagents: [{{name: coder}}]\nrules:\n  - {{id: m, {priority}match: {{host: [a.example], port: [443], path: ['/private/*']}}, action: modify, modify: {{headers: {{set: {{x-agent: low}}}}}}, handling: inspect}}\n  - {{id: rest, match: {{host: [a.example], port: [443]}}, action: modify, modify: {{headers: {{set: {{x-agent: high}}}}}}, handling: inspect}}\n"
        ));
        for path in ["/private/x", "/private%2Fx"] {
            let get = Seen::Request(Request::new("GET", path));
            let ruling = decide(&policy, "coder", "a.example", get);
            assert_eq!(ruling.verdict, Verdict::Modify);
            let changed = changed(&ruling);
            let agent = changed.iter().find(|(name, _)| name == "x-agent").unwrap();
            assert_eq!(agent.1, "low", "{strategy} {path}");
        }
        assert!(policy.warnings().is_empty());
    }
}

/// Nor is what is kept passed by another spelling.
#[test]
fn contents_are_kept_in_every_reading() {
    let policy = policy(
        "version: 1\nagents: [{name: coder}]\nrules:\n  - {id: kept, match: {host: [a.example], path: ['/private/*']}, action: allow, handling: inspect, obligations: {capture_body: true}}\n  - {id: open, match: {host: [a.example]}, action: allow, handling: inspect}\n",
    );
    for (path, kept) in [("/private/x", true), ("/private%2Fx", true), ("/x", false)] {
        let get = Seen::Request(Request::new("GET", path));
        let ruling = decide(&policy, "coder", "a.example", get);
        assert_eq!(ruling.captures, kept, "{path}");
    }
}

#[test]
fn a_change_behind_a_wider_rule_may_still_change() {
    let policy = policy(
        "version: 1\nstrategy: priority_first_match\nagents: [{name: coder}]\nrules:\n  - {id: wide, priority: 2, match: {host: [a.example], port: [443], path: ['/private/**']}, action: allow, handling: inspect}\n  - {id: rest, match: {host: [a.example], port: [443]}, action: allow, handling: inspect}\n  - {id: m, priority: 1, match: {host: [a.example], port: [443], path: ['/private/*']}, action: modify, modify: {headers: {drop: [cookie]}}, handling: inspect}\n",
    );
    let warnings: Vec<_> = policy.warnings().iter().map(ToString::to_string).collect();
    assert!(
        warnings.iter().all(|it| !it.contains("rule `m`")),
        "{warnings:?}"
    );
}

#[test]
fn what_a_rule_does_in_another_reading_is_explained() {
    use crate::explain::Consideration;
    let policy = policy(
        "version: 1\nagents: [{name: coder}]\nrules:\n  - {id: open, match: {host: [a.example]}, action: allow, handling: inspect}\n  - {id: private, match: {host: [a.example], path: ['/private/*']}, action: modify, modify: {headers: {drop: [cookie]}}, handling: inspect}\n",
    );
    let name = host("a.example");
    for (path, expected) in [("/private/x", true), ("/private%2Fx", false)] {
        let facts = Facts {
            host: Some(&name),
            ip: None,
            port: 443,
            transport: Transport::Tcp,
            request: Seen::Request(Request::new("GET", path)),
            circumstances: Circumstances::NOBODY,
        };
        let considered = policy.explain(agent(&policy, "coder"), &facts);
        let private = considered.iter().find(|it| it.rule == "private").unwrap();
        let verdict = match expected {
            true => Consideration::Matched,
            false => Consideration::Obliges,
        };
        assert_eq!(private.verdict, verdict, "{path}");
    }
}

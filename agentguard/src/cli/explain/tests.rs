//! Stories as an operator reads them, and advice that the real compiler takes.

use std::path::{Path, PathBuf};

use agentguard_control::api::PolicyStatus;
use agentguard_model::{Decision, HostName};
use agentguard_policy::{
    Circumstances, Document, Facts, Policy, Request, RulingOutcome, Seen, compile,
};

use super::{advice, story};

const POLICY: &str = "\
version: 1
agents:
  - name: coder
rules:
  - id: no-deletes
    match:
      host: [api.example]
      method: [DELETE]
    action: deny
    reason: nothing is deleted here
  - id: other
    match: {host: [x.example]}
    action: allow
";

fn policy(text: &str) -> Policy {
    compile(&[Document {
        path: "policy.yaml".into(),
        text: text.into(),
    }])
    .unwrap()
}

/// A denied DELETE, with these changes.
fn decision(changes: &serde_json::Value) -> Decision {
    let mut decision = serde_json::json!({
        "id": "01JD6Z7Q0000000000000000AB", "time": "2026-11-22T04:08:03.9Z",
        "agent": {"name": "coder", "labels": {"tenant": "acme"}},
        "context": {"workflow": "nightly"},
        "process": {"pid": 42, "uid": 1000, "comm": "curl", "exe": "/usr/bin/curl"},
        "layer": "proxy",
        "action": {
            "kind": "http_request", "transport": "tcp", "host": "api.example", "port": 80,
            "method": "DELETE", "path": "/v1/x",
        },
        "verdict": "deny", "enforced": true, "mode": "enforce",
        "reason": {"code": "no_rule", "message": "no rule allows it"},
        "count": 1, "latency_us": 87, "policy_version": "0123456789ab",
    });
    let fields = decision.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        fields.insert(key.clone(), value.clone());
    }
    serde_json::from_value(decision).unwrap()
}

fn in_force(version: &str, files: &[&Path]) -> PolicyStatus {
    PolicyStatus {
        version: version.to_owned(),
        files: files.iter().map(|it| it.display().to_string()).collect(),
        loaded: "2026-11-22T04:00:00Z".parse().unwrap(),
        refused: None,
    }
}

#[test]
fn a_denial_without_a_rule() {
    assert_eq!(
        story(
            &decision(&serde_json::json!({})),
            Some(&in_force("0123456789ab", &[]))
        ),
        "coder was refused: DELETE api.example:80/v1/x\n\
         \n\
         what      the HTTP request DELETE api.example:80/v1/x (http_request)\n\
         who       agent coder (tenant=acme), by curl (pid 42, uid 1000, /usr/bin/curl)\n          \
                   workflow nightly\n\
         when      2026-11-22T04:08:03.9Z, decided by the proxy in 87 µs\n\
         verdict   deny: no rule allows it (no_rule)\n\
         enforced  yes, in mode enforce\n\
         rules     none matched\n\
         policy    version 0123456789ab, still in force\n\
         next      if it should be allowed, add this under `rules:`, then run `agentguard policy reload`\n            \
                     - id: coder-api.example\n              \
                       agents: [\"coder\"]\n              \
                       match:\n                \
                         host: [\"api.example\"]\n                \
                         port: [80]\n                \
                         method: [\"DELETE\"]\n                \
                         path: [\"/v1/x\"]\n              \
                       action: allow\n              \
                       # resolved_ranges: [\"10.0.0.0/8\"] or the like is needed if the name leads to no public address; the record does not say where it leads\n"
    );
}

#[test]
fn what_a_call_had_of_its_budgets_is_told() {
    let told = |line: serde_json::Value, ended: serde_json::Value| {
        let mut begun = serde_json::json!({ "budget": "day", "scope": "", "unit": "output_tokens", "reserved": 300 });
        begun
            .as_object_mut()
            .unwrap()
            .extend(line.as_object().unwrap().clone());
        let mut after = begun.clone();
        after
            .as_object_mut()
            .unwrap()
            .extend(ended.as_object().unwrap().clone());
        // Another budget's says nothing of it.
        let other = serde_json::json!({ "budget": "week", "scope": "", "unit": "output_tokens", "reserved": 7, "settled": 7 });
        let outcome = serde_json::json!({
            "bytes": { "sent": 1, "received": 2 }, "duration_ms": 3, "budget": [other, after],
        });
        let story = story(
            &decision(&serde_json::json!({ "budget": [begun], "outcome": outcome })),
            None,
        );
        let line = story.lines().find_map(|it| it.strip_prefix("budget    "));
        line.unwrap().to_owned()
    };
    let nothing = serde_json::json!({});
    assert_eq!(
        told(nothing.clone(), nothing),
        "day: 300 output tokens reserved"
    );
    assert_eq!(
        told(
            serde_json::json!({ "scope": "agent=coder", "hidden": true, "clamped": 300 }),
            serde_json::json!({ "settled": 40 })
        ),
        "day of agent=coder: 300 output tokens reserved, all that it may write, since some of that may not be shown; \
         no more was left, so that its limit was lowered to 300 tokens of output; 40 output tokens used"
    );
    assert_eq!(
        told(
            serde_json::json!({ "counted": true, "price_of": "gpt-4o" }),
            serde_json::json!({})
        ),
        "day: 300 output tokens reserved, with its input counted, which had too little room by its bytes; priced as gpt-4o"
    );
    assert_eq!(
        told(
            serde_json::json!({ "over": true, "price_of": "gpt-4o" }),
            serde_json::json!({
                "reserved": 500, "settled": 900, "overshoot": 400, "overshoot_cause": "written_behind",
            })
        ),
        "day: 300 output tokens reserved; more than the budget allows, which was not enforced; priced as gpt-4o; \
         500 output tokens in the end; 900 output tokens used, of which 400 output tokens were not reserved: its \
         provider wrote on behind the end that the answer had here"
    );
}

#[test]
fn a_denial_names_the_rules_that_nearly_allowed_it_while_the_file_is_what_decided() {
    const TEXT: &str = "version: 1
agents: [{name: coder}]
rules:
  - {id: reads, match: {host: [api.example], port: [80], method: [GET]}, action: allow}
  - {id: no-api, match: {host: [api.example], port: [443], transport: [tcp]}, action: deny}
";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.yaml");
    std::fs::write(&file, TEXT).unwrap();
    let path = file.display().to_string();
    let text = TEXT.to_owned();
    let policy = compile(&[Document { path, text }]).unwrap();
    let version = policy.version();
    let denied = decision(&serde_json::json!({ "policy_version": version }));
    let said = story(&denied, Some(&in_force(version, &[&file])));
    let near = format!(
        "rules     2 for this agent, 2 of them for this destination; none matched\n\
         near      `reads` at {0}:4 would allow, but does not match: method [GET]\n\
         near      `no-api` at {0}:5 would deny, but does not match: port [443]\n",
        file.display()
    );
    assert!(said.contains(&near), "{said}");
    // Another policy would say something else of another rule.
    std::fs::write(&file, TEXT.replace("GET", "HEAD")).unwrap();
    let said = story(&denied, Some(&in_force(version, &[&file])));
    assert!(!said.contains("near"), "{said}");
}

#[test]
fn a_denial_by_a_rule_shows_its_text_while_the_file_is_what_decided() {
    let dir = tempfile::tempdir().unwrap();
    let file: PathBuf = dir.path().join("policy.yaml");
    std::fs::write(&file, POLICY).unwrap();
    let version = compile(&[Document {
        path: file.display().to_string(),
        text: POLICY.into(),
    }])
    .unwrap()
    .version()
    .to_owned();
    let decision = decision(&serde_json::json!({
        "reason": {"code": "rule_deny", "message": "nothing is deleted here"},
        "matched": [{"engine": "native", "rule": "no-deletes", "source": {"file": file, "line": 5}}],
        "policy_version": version,
    }));
    let rule = format!("rule      `no-deletes` at {}:5 (native)\n", file.display());
    let said = story(&decision, Some(&in_force("another", &[])));
    assert!(
        said.contains(&format!(
            "{rule}               5 |   - id: no-deletes\n               6 |     match:\n               7 |       host: [api.example]\n               8 |       method: [DELETE]\n               9 |     action: deny\n              10 |     reason: nothing is deleted here\npolicy "
        )),
        "{said}"
    );
    assert!(said.contains("; version another is in force now, and may decide otherwise\n"));
    assert!(said.contains("next      to let it pass, narrow or remove rule `no-deletes`"));

    std::fs::write(&file, POLICY.replace("no-deletes", "changed")).unwrap();
    let said = story(&decision, None);
    assert!(
        said.contains(&format!(
            "{rule}          the file has changed since, so its text is not shown here\n"
        )),
        "{said}"
    );
    std::fs::remove_file(&file).unwrap();
    assert!(story(&decision, None).contains(&format!("{rule}policy ")));
}

#[test]
fn a_rule_of_an_included_file_is_shown_while_the_policy_in_force_is_what_decided() {
    let dir = tempfile::tempdir().unwrap();
    let main = dir.path().join("policy.yaml");
    let file = dir.path().join("base.yaml");
    std::fs::write(&main, "version: 1\ninclude: [base.yaml]\n").unwrap();
    std::fs::write(&file, POLICY).unwrap();
    let document = |path: &Path| Document {
        path: path.display().to_string(),
        text: std::fs::read_to_string(path).unwrap(),
    };
    let policy = compile(&[document(&main), document(&file)]).unwrap();
    let decision = decision(&serde_json::json!({
        "matched": [{"engine": "native", "rule": "no-deletes", "source": {"file": file, "line": 5}}],
        "policy_version": policy.version(),
    }));
    let text = "   5 |   - id: no-deletes\n";
    let changed = "the file has changed since";
    let said = story(
        &decision,
        Some(&in_force(policy.version(), &[&main, &file])),
    );
    assert!(said.contains(text) && !said.contains(changed), "{said}");
    // By itself the file is another policy; and so is the whole when the other file has changed.
    let said = story(&decision, None);
    assert!(!said.contains(text) && said.contains(changed), "{said}");
    std::fs::write(&main, "version: 1\ninclude: [base.yaml]\n# more\n").unwrap();
    let said = story(
        &decision,
        Some(&in_force(policy.version(), &[&main, &file])),
    );
    assert!(!said.contains(text) && said.contains(changed), "{said}");
}

#[test]
fn content_that_cannot_be_measured_is_not_told_to_be_inspected() {
    let next = |action: serde_json::Value| {
        let denied = decision(&serde_json::json!({
            "action": action,
            "reason": {"code": "needs_inspection", "message": "it has to be seen"},
        }));
        advice::of(&denied).words.unwrap()
    };
    let unmeasured = next(
        serde_json::json!({"kind": "http_request", "transport": "tcp",
        "host": "api.example", "port": 443, "method": "PUT", "path": "/"}),
    );
    assert!(
        unmeasured.contains("coded once in gzip, deflate, br or zstd"),
        "{unmeasured}"
    );
    assert!(!unmeasured.contains("inspect"), "{unmeasured}");
    let unseen = next(serde_json::json!({"kind": "connect", "transport": "tcp",
        "host": "api.example", "port": 443}));
    assert!(unseen.contains("`handling: inspect`"), "{unseen}");
}

#[test]
fn what_was_only_noted_says_so() {
    let said = story(
        &decision(&serde_json::json!({
            "enforced": false, "mode": "shadow", "count": 3, "last": "2026-11-22T04:09:00Z",
            "outcome": {
                "bytes": {"sent": 1, "received": 2}, "messages": {"sent": 0, "received": 3},
                "duration_ms": 5, "status": 204,
            },
        })),
        None,
    );
    for part in [
        "coder passed, and would have been refused, 3 times: DELETE",
        "in 87 µs; the last of 3 at 2026-11-22T04:09:00Z\n",
        "enforced  no: mode shadow records what would have happened and lets pass\n",
        "outcome   1 bytes sent, 2 received; 0 messages sent, 3 received, over after 5 ms, HTTP status 204\n",
    ] {
        assert!(said.contains(part), "{part}\nin\n{said}");
    }
}

#[test]
fn what_an_agent_wrote_stays_on_its_line() {
    let said = story(
        &decision(&serde_json::json!({
            "process": {"pid": 1, "uid": 1, "comm": "a\u{1b}[2J\nverdict   allow"},
        })),
        None,
    );
    assert!(
        said.contains("by a\\u{1b}[2J\\u{a}verdict   allow (pid 1"),
        "{said}"
    );
    assert!(!said.contains('\u{1b}'));
}

/// A policy of the suggested rule alone, and the rule.
fn suggested(denied: &Decision) -> (Policy, String) {
    let rule = advice::of(denied).rule.unwrap();
    let lines: String = rule.lines().map(|line| format!("  {line}\n")).collect();
    let text = format!("version: 1\nagents:\n  - name: coder\nrules:\n{lines}");
    (policy(&text), rule)
}

/// The suggested rule, in a policy of its own, is taken by the compiler and allows what was denied.
#[test]
fn the_suggested_rule_allows_what_was_denied_and_compiles() {
    for (action, seen) in [
        (
            serde_json::json!({"kind": "http_request", "transport": "tcp", "host": "api.example",
                "port": 80, "method": "DELETE", "path": "/v1/x"}),
            Seen::Request(Request::new("DELETE", "/v1/x")),
        ),
        (
            serde_json::json!({"kind": "connect", "transport": "tcp", "host": "a_b.example", "port": 443}),
            Seen::Never,
        ),
        (
            serde_json::json!({"kind": "connect", "transport": "tcp", "ip": "203.0.113.9", "port": 22}),
            Seen::Never,
        ),
        (
            serde_json::json!({"kind": "datagram", "transport": "udp", "ip": "2001:db8::1", "port": 53}),
            Seen::Never,
        ),
    ] {
        let denied = decision(&serde_json::json!({ "action": action }));
        let (policy, rule) = suggested(&denied);
        let agent = policy.agent(&"coder".parse().unwrap()).unwrap();
        let facts = Facts {
            host: denied.action.host.as_ref(),
            ip: denied.action.ip,
            port: denied.action.port.unwrap(),
            transport: denied.action.transport.unwrap(),
            request: seen,
            circumstances: Circumstances::NOBODY,
        };
        let ruling = policy.decide(agent, &facts);
        assert!(
            matches!(ruling.outcome, RulingOutcome::Allow(_)),
            "{ruling:?}\n{rule}"
        );
    }
}

/// Whatever a canonical path has means in a rule what it meant in the request.
#[test]
fn a_path_of_any_letters_is_suggested_as_it_was_asked_for() {
    for path in [
        "/@x",
        "/a:b",
        "/%C3%A9",
        "/a%22b",
        "/a%3Ab",
        "/$%7Bx%7D",
        "/a,b",
        "/a=b&c",
        "/(a)!'",
    ] {
        let denied = decision(&serde_json::json!({
            "action": {"kind": "http_request", "transport": "tcp", "host": "api.example",
                "port": 80, "method": "GET", "path": path},
        }));
        let (policy, rule) = suggested(&denied);
        assert!(rule.contains(&format!("path: [\"{path}\"]\n")), "{rule}");
        let agent = policy.agent(&"coder".parse().unwrap()).unwrap();
        for (asked, allowed) in [(path, true), ("/b", false)] {
            let facts = Facts {
                host: denied.action.host.as_ref(),
                ip: None,
                port: 80,
                transport: denied.action.transport.unwrap(),
                request: Seen::Request(Request::new("GET", asked)),
                circumstances: Circumstances::NOBODY,
            };
            let outcome = policy.decide(agent, &facts).outcome;
            let is_allowed = matches!(outcome, RulingOutcome::Allow(_));
            assert_eq!(is_allowed, allowed, "{asked}\n{rule}");
        }
    }
}

#[test]
fn a_rule_for_a_name_says_what_it_takes_at_a_private_address() {
    let of = |ip: Option<&str>| {
        let mut action = serde_json::json!({"kind": "http_request", "transport": "tcp",
            "host": "p.example.com", "port": 80, "method": "GET", "path": "/"});
        if let Some(ip) = ip {
            action["ip"] = ip.into();
        }
        suggested(&decision(&serde_json::json!({ "action": action }))).1
    };
    for (ip, range) in [
        ("10.77.0.1", "10.77.0.1/32"),
        ("fd00::1", "fd00::1/128"),
        ("64:ff9b::a4d:1", "10.0.0.0/8"),
    ] {
        let rule = of(Some(ip));
        let says = format!("  action: allow\n  resolved_ranges: [\"{range}\"]\n");
        assert!(rule.ends_with(&says), "{rule}");
        let range: ipnet::IpNet = range.parse().unwrap();
        let fine = agentguard_names::guard::examine([ip.parse().unwrap()], &[range], false);
        assert_eq!(fine.denied, [], "{ip}");
    }
    assert!(of(Some("203.0.113.9")).ends_with("  action: allow\n"));
    assert!(of(Some("224.0.0.1")).contains("no rule lets it have"));
    let unknown = of(None);
    assert!(
        unknown.contains("  # resolved_ranges: [\"10.0.0.0/8\"] or the like is needed if"),
        "{unknown}"
    );
}

#[test]
fn the_id_of_a_rule_for_an_address_is_that_address() {
    for (ip, id) in [
        ("45.55.66.10", "coder-45.55.66.10"),
        ("2001:db8::1", "coder-2001-db8--1"),
    ] {
        let denied = decision(&serde_json::json!({
            "action": {"kind": "connect", "transport": "tcp", "ip": ip, "port": 22},
        }));
        let (_, rule) = suggested(&denied);
        assert!(rule.starts_with(&format!("- id: {id}\n")), "{rule}");
    }
}

#[test]
fn a_denied_name_is_allowed_by_the_suggested_rule() {
    let denied = decision(&serde_json::json!({
        "layer": "dns",
        "action": {"kind": "dns_query", "host": "api.example", "port": 53, "transport": "udp", "method": "A"},
    }));
    let (policy, _) = suggested(&denied);
    let agent = policy.agent(&"coder".parse().unwrap()).unwrap();
    let name: HostName = "api.example".parse().unwrap();
    assert!(policy.decide_name(agent, &name).allowed);
}

/// A star in a path that an agent asked for must not become a wildcard in a rule.
#[test]
fn an_agent_cannot_widen_the_rule_that_is_suggested() {
    for path in [
        "/a/**",
        "/a\"]\n    host: [\"*\"]",
        "/a b",
        "/a%2Fb",
        "/a;b",
        "relative",
    ] {
        let denied = decision(&serde_json::json!({
            "action": {"kind": "http_request", "transport": "tcp", "host": "api.example",
                "port": 80, "method": "GET", "path": path},
        }));
        let rule = advice::of(&denied).rule.unwrap();
        assert!(!rule.contains("path: [") && !rule.contains('*'), "{rule}");
        // The method is as narrow as ever, and what is missing is said.
        assert!(rule.contains("method: [\"GET\"]"), "{rule}");
        assert!(rule.contains("every path is allowed"), "{rule}");
    }
}

/// What is denied of a server of tools is suggested by what it asks for, not by its path.
#[test]
fn a_denied_message_is_allowed_by_what_it_asks_for() {
    for (tool, kind, says) in [
        (
            serde_json::json!({"server": "files", "name": "read_file", "method": "tools/call"}),
            "tool_call",
            Some(r#"tool: { server: ["files"], name: ["read_file"] }"#),
        ),
        (
            serde_json::json!({"server": "files", "method": "resources/read"}),
            "http_request",
            Some(r#"tool: { server: ["files"], method: ["resources/read"] }"#),
        ),
        (
            serde_json::json!({"server": "files", "answers": ["roots/list"]}),
            "http_request",
            Some(r#"tool: { server: ["files"], method: ["roots/list"] }"#),
        ),
        (
            serde_json::json!({"server": "files", "name": "*", "method": "tools/call"}),
            "tool_call",
            None,
        ),
        (
            serde_json::json!({"server": "files", "name": "a\"]", "method": "tools/call"}),
            "tool_call",
            None,
        ),
        (
            serde_json::json!({"server": "files", "not_understood": "no JSON"}),
            "http_request",
            None,
        ),
    ] {
        let denied = decision(&serde_json::json!({
            "action": {"kind": kind, "transport": "tcp", "host": "mcp.example", "port": 443,
                "method": "POST", "path": "/mcp", "tls": true, "tool": tool},
        }));
        let rule = advice::of(&denied).rule;
        assert_eq!(rule.is_some(), says.is_some(), "{tool} {rule:?}");
        if let (Some(rule), Some(says)) = (rule, says) {
            assert!(
                rule.contains(says) && rule.contains("handling: inspect"),
                "{rule}"
            );
            assert!(!rule.contains("path:"), "{rule}");
        }
    }
}

/// A call of a language model by its provider and model, so that the rule lets pass no other.
#[test]
fn a_denied_call_is_allowed_by_its_model() {
    let call = |model: serde_json::Value, unread: Option<&str>| {
        let denied = decision(&serde_json::json!({
            "action": {"kind": "llm_call", "transport": "tcp", "host": "api.example", "port": 443, "method": "POST",
                "path": "/v1/chat/completions", "tls": true, "llm": {"provider": "openai", "operation": "chat",
                "model": model, "not_understood": unread}},
        }));
        advice::of(&denied).rule
    };
    let rule = call("gpt-5:latest".into(), None).unwrap();
    let says = r#"    llm: { provider: ["openai"], operation: [chat], model: ["gpt-5:latest"] }"#;
    assert!(
        rule.contains(says) && rule.contains("handling: inspect"),
        "{rule}"
    );
    assert!(
        !rule.contains("path:") && !rule.contains("method:"),
        "{rule}"
    );
    assert_eq!(call("gpt-*".into(), None), None);
    assert_eq!(call(serde_json::Value::Null, None), None);
    assert_eq!(call("gpt-5".into(), Some("no JSON")), None);
}

#[test]
fn what_nobody_looked_into_is_told_how_to_be_inspected() {
    let denied = decision(&serde_json::json!({
        "action": {"kind": "connect", "transport": "tcp", "host": "api.example", "port": 443},
        "reason": {"code": "needs_inspection", "message": "a rule has to see the request"},
    }));
    let advice = advice::of(&denied);
    let words = advice.words.unwrap();
    assert!(words.contains("`handling: inspect`"), "{words}");
    assert_eq!(advice.rule, None);
}

#[test]
fn what_rules_on_paper_did_or_would_do_is_told_as_that() {
    let matched = serde_json::json!([{"engine": "native", "rule": "soon", "source": {"file": "p.yaml", "line": 4}}]);
    let would = advice::of(&decision(&serde_json::json!({ "matched": matched })));
    let words = would.words.unwrap();
    assert!(
        words.starts_with("rule `soon` at p.yaml:4 would allow it, and is on paper"),
        "{words}"
    );
    assert_eq!(would.rule, None);
    let passed = advice::of(&decision(&serde_json::json!({
        "matched": matched, "enforced": false, "mode": "shadow",
        "reason": {"code": "rule_deny", "message": "no"},
    })));
    let words = passed.words.unwrap();
    assert!(
        words.starts_with("it passed: once rule `soon` at p.yaml:4 is enforced"),
        "{words}"
    );
}

#[test]
fn a_request_that_was_seen_in_tls_needs_a_rule_that_sees_it() {
    let denied = decision(&serde_json::json!({
        "action": {"kind": "http_request", "transport": "tcp", "host": "api.example",
            "port": 443, "method": "GET", "path": "/a", "tls": true},
    }));
    let rule = advice::of(&denied).rule.unwrap();
    assert!(rule.contains("  handling: inspect\n"), "{rule}");
}

/// Which of the rules that matched only say what they would do.
#[test]
fn a_matched_rule_on_paper_says_so() {
    let rule = |id: &str, on_paper: serde_json::Value| {
        let mut rule = serde_json::json!({
            "engine": "native", "rule": id, "source": {"file": "policy.yaml", "line": 5},
        });
        if !on_paper.is_null() {
            rule["on_paper"] = on_paper;
        }
        rule
    };
    let decision = decision(&serde_json::json!({
        "verdict": "modify",
        "reason": {"code": "rule_modify", "message": "Rule mo allows it, without `a`; on paper also without `b`."},
        "matched": [rule("mo", serde_json::Value::Null), rule("mp", "shadow".into())],
    }));
    let story = story(&decision, None);
    assert!(
        story.contains(
            "rule      `mo` at policy.yaml:5 (native)\nrule      `mp` at policy.yaml:5 (native), on paper: mode shadow\n"
        ),
        "{story}"
    );
}

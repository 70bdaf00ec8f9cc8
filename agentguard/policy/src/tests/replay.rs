//! Recorded decisions through another policy.

mod changed;
mod labels;
mod properties;
mod recorder;

use std::net::IpAddr;

use agentguard_model::{
    Action, ActionKind, Argument, Bytes, COUNTED_TOGETHER, Decision, DecisionId, Layer, Llm,
    Outcome, Reason, ReasonCode, Tool, Transport, Verdict,
};
use ipnet::IpNet;
use ulid::Ulid;

use super::{host, llm_call, policy};
use crate::replay::{EXAMPLES, MAX_GROUPS, Replay, Replayed, Summary, Told};
use recorder::decision;

/// No address is closed.
const OPEN: fn(IpAddr, &[IpNet], bool) -> bool = |_, _, _| false;

fn told(replayed: &Replayed) -> Option<&Told> {
    match replayed {
        Replayed::Told(told) => Some(told),
        Replayed::NotThePolicys | Replayed::CannotTell(_) => None,
    }
}

const CANDIDATE: &str = "\
version: 1
agents: [{name: coder}, {name: newcomer, mode: shadow}]
rules:
  - id: open
    match: {host: [open.example], port: [80, 443]}
    action: allow
  - id: read
    match: {host: [read.example], port: [80, 443], method: [GET]}
    action: allow
    handling: inspect
  - id: json
    match: {host: [json.example], port: [80], header: {accept: [application/json]}, query: {a: [b]}}
    action: allow
  - id: small
    match: {host: [open.example], port: [80], body_over: 1KiB}
    action: deny
  - id: range
    match: {host: [far.example], port: [8443]}
    action: allow
  - id: not-there
    match: {cidr: [192.0.2.0/24], port: [8443]}
    action: deny
  - id: soon
    match: {host: [open.example], port: [443], method: [PUT]}
    action: deny
    mode: shadow
";

fn to(kind: ActionKind, name: &str, port: u16) -> Action {
    Action {
        host: Some(host(name)),
        port: Some(port),
        transport: Some(Transport::Tcp),
        ..Action::new(kind)
    }
}

fn asks(method: &str, name: &str) -> Action {
    Action {
        method: Some(method.to_owned()),
        path: Some("/".to_owned()),
        ..to(ActionKind::HttpRequest, name, 80)
    }
}

fn allowed(layer: Layer, action: Action) -> Decision {
    Decision {
        verdict: Verdict::Allow,
        reason: Reason::new(ReasonCode::RuleAllow, "because"),
        ..decision(layer, action)
    }
}

/// An action that was over after so many bytes.
fn over(decision: Decision, sent: u64) -> Decision {
    let outcome = Outcome {
        bytes: Bytes { sent, received: 1 },
        messages: None,
        duration_ms: 1,
        status: None,
        llm: None,
        tool: None,
        budget: Vec::new(),
        error: None,
    };
    Decision {
        outcome: Some(outcome),
        ..decision
    }
}

#[test]
fn what_would_change_is_told_and_what_cannot_be_told_says_why() {
    use ActionKind::{Connect, DnsQuery};
    let candidate = policy(CANDIDATE);
    let replay = Replay::new(
        &candidate,
        [("of today".to_owned(), vec!["accept".to_owned()])],
        &OPEN,
    );
    let recorded = |query: &str, headers: &[(&str, &str)], version: &str| {
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Decision {
            policy_version: version.to_owned(),
            ..over(
                allowed(
                    Layer::Proxy,
                    Action {
                        query: (!query.is_empty()).then(|| query.to_owned()),
                        headers: headers.collect(),
                        ..asks("GET", "json.example")
                    },
                ),
                0,
            )
        }
    };
    let json = [("accept", "application/json")];
    let opened = |decision: Decision| Decision {
        action: Action {
            tls: true,
            port: Some(443),
            ..decision.action
        },
        ..decision
    };
    for (decision, expected) in [
        // The same, and another verdict.
        (
            allowed(Layer::Dns, to(DnsQuery, "open.example", 53)),
            "allow",
        ),
        (
            allowed(Layer::Dns, to(DnsQuery, "gone.example", 53)),
            "deny no_rule",
        ),
        (
            allowed(Layer::Proxy, to(Connect, "open.example", 8080)),
            "deny no_rule",
        ),
        (
            decision(Layer::Proxy, to(Connect, "open.example", 80)),
            "what was sent was not recorded, and rule small would look at it",
        ),
        (
            over(allowed(Layer::Proxy, asks("GET", "gone.example")), 0),
            "deny no_rule",
        ),
        (
            over(allowed(Layer::Proxy, asks("GET", "read.example")), 0),
            "allow",
        ),
        (
            over(allowed(Layer::Proxy, asks("PUT", "read.example")), 0),
            "deny no_rule",
        ),
        // What was sent.
        (
            allowed(Layer::Kernel, to(Connect, "read.example", 443)),
            "what was sent was not recorded, and rule read would look at it",
        ),
        (
            allowed(Layer::Proxy, to(Connect, "read.example", 443)),
            "what was sent was not recorded, and rule read would look at it",
        ),
        (
            allowed(Layer::Proxy, to(Connect, "json.example", 80)),
            "deny needs_inspection json",
        ),
        // What was in TLS is seen only where it is opened.
        (
            opened(over(allowed(Layer::Proxy, asks("GET", "read.example")), 0)),
            "allow",
        ),
        (
            opened(over(allowed(Layer::Proxy, asks("GET", "open.example")), 0)),
            "(deny) needs_inspection soon",
        ),
        // Queries and fields.
        (recorded("a=b", &json, "of today"), "allow"),
        (recorded("a=c", &json, "of today"), "deny no_rule"),
        (
            recorded("a=…", &json, "of today"),
            "not recorded: parameter `a` of the query",
        ),
        (
            recorded("z=…;…&a=b", &json, "of today"),
            "not recorded: parameter `a` of the query",
        ),
        (recorded("z=…&a=b", &json, "of today"), "allow"),
        (recorded("z=…", &json, "of today"), "deny no_rule"),
        (recorded("a=b", &[], "of today"), "deny no_rule"),
        (
            recorded("a=b", &[], "of another day"),
            "not recorded: header `accept`",
        ),
        (recorded("a=c", &[], "of another day"), "deny no_rule"),
        (
            recorded(
                "a=b",
                &[("accept", "text/plain, application/json")],
                "of today",
            ),
            "not recorded: header `accept`",
        ),
        (
            recorded("a=…", &[], "of another day"),
            "not recorded: header `accept`, parameter `a` of the query",
        ),
        // Content.
        (
            over(allowed(Layer::Proxy, asks("PUT", "open.example")), 0),
            "allow",
        ),
        (
            over(allowed(Layer::Proxy, asks("PUT", "open.example")), 5),
            "not recorded: how much content it came to have",
        ),
        (
            allowed(Layer::Proxy, asks("PUT", "open.example")),
            "not recorded: how much content it came to have",
        ),
        (
            allowed(Layer::Proxy, asks("PUT", "read.example")),
            "deny no_rule",
        ),
        (
            allowed(
                Layer::Proxy,
                Action {
                    body: Some(2000),
                    ..asks("PUT", "open.example")
                },
            ),
            "deny rule_deny small",
        ),
        // Where it went.
        (
            allowed(Layer::Proxy, to(Connect, "far.example", 8443)),
            "the address behind the name was not recorded, and rule not-there denies by it",
        ),
        (
            allowed(
                Layer::Proxy,
                Action {
                    ip: Some("192.0.2.1".parse().unwrap()),
                    ..to(Connect, "far.example", 8443)
                },
            ),
            "deny rule_deny not-there",
        ),
        (
            allowed(
                Layer::Proxy,
                Action {
                    ip: Some("198.51.100.1".parse().unwrap()),
                    ..to(Connect, "far.example", 8443)
                },
            ),
            "allow",
        ),
        (
            allowed(
                Layer::Proxy,
                Action {
                    host: None,
                    ..to(Connect, "far.example", 8443)
                },
            ),
            "where it went was not recorded",
        ),
        // What policies have no say in.
        (
            Decision {
                reason: Reason::new(ReasonCode::Quarantined, "it is"),
                ..decision(Layer::Proxy, asks("GET", "a.example"))
            },
            "not the policy's",
        ),
        (
            Decision {
                reason: Reason::new(ReasonCode::NameMismatch, "they do"),
                ..decision(Layer::Proxy, to(Connect, "a.example", 80))
            },
            "not the policy's",
        ),
        (
            Decision {
                reason: Reason::new(ReasonCode::NameUnknown, "none"),
                ..decision(Layer::Dns, to(DnsQuery, "a.example", 53))
            },
            "not the policy's",
        ),
        (
            decision(Layer::Kernel, Action::new(ActionKind::Socket)),
            "not the policy's",
        ),
        (
            decision(Layer::Operator, Action::new(ActionKind::Administration)),
            "not the policy's",
        ),
        (
            allowed(
                Layer::Kernel,
                Action {
                    host: None,
                    ip: Some("127.0.0.1".parse().unwrap()),
                    ..to(Connect, "a.b", 8080)
                },
            ),
            "not the policy's",
        ),
        (
            allowed(
                Layer::Kernel,
                Action {
                    host: None,
                    ip: Some("192.0.2.1".parse().unwrap()),
                    ..to(Connect, "a.b", 53)
                },
            ),
            "not the policy's",
        ),
        (
            Decision {
                agent: None,
                ..decision(Layer::Kernel, to(Connect, "a.example", 80))
            },
            "not the policy's",
        ),
        (
            Decision {
                reason: Reason::new(ReasonCode::NoRule, format!("no{COUNTED_TOGETHER}")),
                ..decision(Layer::Proxy, to(Connect, "a.example", 80))
            },
            "it was counted together with others of its reason, whatever their destination",
        ),
    ] {
        let replayed = match replay.replay(&decision) {
            Replayed::NotThePolicys => "not the policy's".to_owned(),
            Replayed::CannotTell(why) => why,
            Replayed::Told(told) if told.would_be.verdict == Verdict::Allow => "allow".to_owned(),
            Replayed::Told(told) => {
                let word = if told.would_be.enforced {
                    "deny"
                } else {
                    "(deny)"
                };
                let rule = told
                    .after
                    .rule
                    .map_or_else(String::new, |rule| format!(" {}", rule.rule));
                format!("{word} {}{rule}", told.after.reason)
            }
        };
        assert_eq!(replayed, expected, "{:#?}", decision.action);
    }
}

#[test]
fn an_agent_that_the_candidate_does_not_have_gets_nothing() {
    let candidate = policy(CANDIDATE);
    let mut was = allowed(Layer::Dns, to(ActionKind::DnsQuery, "open.example", 53));
    was.agent.as_mut().unwrap().name = "stranger".parse().unwrap();
    let Replayed::Told(told) = Replay::new(&candidate, [], &OPEN).replay(&was) else {
        panic!("{was:?}");
    };
    assert!(told.changed());
    assert_eq!(told.after.reason, ReasonCode::NoAgent);
    // One that is only observed is told, and goes on.
    was.agent.as_mut().unwrap().name = "newcomer".parse().unwrap();
    was.action.host = Some(host("gone.example"));
    let Replayed::Told(told) = Replay::new(&candidate, [], &OPEN).replay(&was) else {
        panic!("{was:?}");
    };
    assert!(told.changed() && told.would_be.goes_on());
    assert_eq!(told.would_be.verdict, Verdict::Deny);
}

#[test]
fn a_denial_of_closed_addresses_leaves_names_what_they_are() {
    let text = "version: 1\nagents: [{name: coder}]\nrules:\n  - {id: far, match: {host: [far.example]}, action: allow}\n  - {id: inside, match: {cidr: [NET]}, action: deny}\n";
    let was = allowed(Layer::Proxy, to(ActionKind::Connect, "far.example", 443));
    let private: IpNet = "10.0.0.0/8".parse().unwrap();
    // As the resolver sees it: also inside of IPv6.
    let ways = crate::special::ways_to(&private).into_iter().flatten();
    let closed_ranges: Vec<IpNet> = ways.chain([private]).collect();
    let closed =
        |ip: IpAddr, _: &[IpNet], _: bool| closed_ranges.iter().any(|net| net.contains(&ip));
    for (net, can_tell) in [
        ("10.0.0.0/8", true),
        ("10.1.0.0/16", true),
        ("10.0.0.0/7", false),
        ("8.0.0.0/6", false),
        ("192.0.2.0/24", false),
        ("0.0.0.0/0", false),
    ] {
        let candidate = policy(&text.replace("NET", net));
        let replayed = Replay::new(&candidate, [], &closed).replay(&was);
        assert_eq!(told(&replayed).is_some(), can_tell, "{net}: {replayed:?}");
    }
}

#[test]
fn equal_changes_are_counted_together() {
    let candidate = policy(CANDIDATE);
    let replay = Replay::new(&candidate, [], &OPEN);
    let mut summary = Summary::default();
    let id = |n| DecisionId(Ulid::from_parts(n, 0));
    let mut add = |n: u64, name: &str, count| {
        let action = to(ActionKind::DnsQuery, name, 53);
        let decision = Decision {
            id: id(n),
            count,
            ..allowed(Layer::Dns, action)
        };
        let replayed = replay.replay(&decision);
        summary.add(&decision, replayed);
    };
    for n in 0..5 {
        add(n, "gone.example", 2);
    }
    add(9, "open.example", 3);
    for n in 0..=MAX_GROUPS as u64 {
        add(100 + n, &format!("n{n}.example"), 1);
    }
    let summary = summary.sorted();
    let totals = summary.totals;
    let changed = 10 + MAX_GROUPS as u64 + 1;
    assert_eq!(
        (totals.attempts, totals.unchanged, totals.changed),
        (changed + 3, 3, changed)
    );
    assert_eq!(
        (totals.said_otherwise, totals.done_otherwise),
        (changed, changed)
    );
    assert_eq!((summary.groups.len(), summary.ungrouped), (MAX_GROUPS, 2));
    let first = &summary.groups[0];
    assert_eq!(
        (first.destination.as_str(), first.count),
        ("gone.example", 10)
    );
    assert_eq!(first.examples, [id(4), id(3), id(2)]);
    assert_eq!(first.examples.len(), EXAMPLES);
}

#[test]
fn near_misses_say_by_which_conditions() {
    let candidate = policy(CANDIDATE);
    let near = |decision: &Decision| -> Vec<(String, Vec<String>)> {
        let considered = candidate.considered(decision).into_iter();
        let near = considered.flat_map(|it| it.here);
        let near = near.filter(|it| !it.failed.is_empty());
        near.map(|it| (it.rule, it.failed)).collect()
    };
    let missed = |rule: &str, by: &[&str]| {
        let by = by.iter().map(|it| (*it).to_owned());
        (rule.to_owned(), by.collect::<Vec<_>>())
    };
    let put = near(&decision(Layer::Proxy, asks("PUT", "read.example")));
    assert_eq!(put[0], missed("read", &["method [GET]"]));
    let there = near(&decision(
        Layer::Kernel,
        to(ActionKind::Connect, "far.example", 443),
    ));
    assert_eq!(there[0], missed("range", &["port [8443]"]));
    // Not what is for elsewhere, nor what matches.
    assert!(
        there
            .iter()
            .all(|(_, by)| !by.contains(&"destination".to_owned())),
        "{there:?}"
    );
    let open = near(&decision(
        Layer::Kernel,
        to(ActionKind::Connect, "open.example", 80),
    ));
    assert!(open.iter().all(|(rule, _)| rule != "open"), "{open:?}");
    let asked = to(ActionKind::DnsQuery, "read.example", 53);
    assert_eq!(near(&decision(Layer::Dns, asked)), []);
}

/// A denial by the address behind a name may depend on a switch too, and neither is recorded.
#[test]
fn what_depends_on_an_address_and_a_switch_cannot_be_told() {
    let candidate = policy(
        "version: 1
switches: {freeze: false}
agents: [{name: coder}]
rules:
  - {id: all, match: {host: [far.example]}, action: allow}
  - {id: frozen, when: switches.freeze, match: {cidr: [192.0.2.0/24], transport: [tcp]}, action: deny}
",
    );
    let was = allowed(Layer::Kernel, to(ActionKind::Connect, "far.example", 443));
    let replayed = Replay::new(&candidate, [], &OPEN).replay(&was);
    assert!(matches!(replayed, Replayed::CannotTell(_)), "{replayed:?}");
}

/// A policy may look at a key; the record says that it was there, and a candidate is not told what it was.
#[test]
fn a_secret_is_recorded_without_what_it_is() {
    let looks = policy(
        "version: 1
agents: [{name: coder}]
rules:
  - id: own
    match: {host: [api.example], port: [80], header: {x-api-key: [\"own-*\"]}, query: {token: [abc]}}
    action: allow
",
    );
    let mut fields = http::HeaderMap::new();
    fields.insert("x-api-key", http::HeaderValue::from_static("own-1234"));
    let headers = looks.recorded_fields(&fields);
    assert_eq!(headers["x-api-key"], "…");
    let query = looks.recorded_query(&crate::Query::new("token=abc&a=b"));
    assert_eq!(query, "token=…&a=…");
    let action = Action {
        headers,
        query: Some(query),
        ..asks("GET", "api.example")
    };
    let replay = Replay::new(&looks, [], &OPEN);
    let replayed = replay.replay(&allowed(Layer::Proxy, action));
    assert!(matches!(replayed, Replayed::CannotTell(_)), "{replayed:?}");
}

/// A call of a language model, as it is recorded.
fn call(provider: &str, model: &str) -> Action {
    Action {
        llm: Some(llm_call(provider, Some(model))),
        kind: ActionKind::LlmCall,
        ..asks("POST", "m.example")
    }
}

#[test]
fn what_is_known_of_calls_is_told() {
    let text = "version: 1\nproviders: [{name: ours, api: openai, hosts: [m.example]}]\nagents: [{name: coder}]\nrules:\n  - {id: small, match: {host: [m.example], llm: {model: [\"small*\"]}}, action: allow}\n  - {id: list, match: {host: [m.example], method: [GET]}, action: allow}\n";
    let candidate = policy(text);
    let unread = |action: Action| Action {
        llm: action.llm.map(|llm| Llm {
            model: None,
            not_understood: Some("cut".to_owned()),
            ..llm
        }),
        ..action
    };
    for (action, expected) in [
        (call("ours", "small-1"), Ok(Verdict::Allow)),
        (call("ours", "large"), Ok(Verdict::Deny)),
        // Another form may make another call of it.
        (
            call("theirs", "small-1"),
            Err("whether it is a call of a language model"),
        ),
        // Nobody read it as one, for which there may have been no reason then.
        (
            asks("POST", "m.example"),
            Err("whether it is a call of a language model"),
        ),
        (asks("GET", "m.example"), Ok(Verdict::Allow)),
        (unread(call("ours", "")), Ok(Verdict::Deny)),
    ] {
        let replayed =
            Replay::new(&candidate, [], &OPEN).replay(&allowed(Layer::Proxy, action.clone()));
        match (expected, &replayed) {
            (Ok(verdict), Replayed::Told(told)) => assert_eq!(told.would_be.verdict, verdict),
            (Err(why), Replayed::CannotTell(told)) => assert!(told.contains(why), "{told}"),
            _ => panic!("{action:?} {replayed:?}"),
        }
    }
}

/// Some have no content: the answer to an earlier one is asked for by where it is.
#[test]
fn what_may_be_a_call_by_where_it_goes_is_not_taken_for_none() {
    let text = "version: 1\nproviders: [{name: ours, api: openai, hosts: [m.example]}, {name: google, api: gemini, hosts: [g.example]}]\nagents: [{name: coder}]\nrules:\n  - {id: fetch, match: {host: [m.example], llm: {operation: [retrieval]}}, action: allow}\n  - {id: google, match: {host: [g.example], llm: {}}, action: allow}\n";
    let candidate = policy(text);
    let long = format!("/{}…", "a".repeat(5000));
    for (method, host, path, known) in [
        ("GET", "m.example", "/v1/responses/r", false),
        ("GET", "m.example", "/v1/chat/completions/c", false),
        ("GET", "m.example", long.as_str(), false),
        ("HEAD", "m.example", "/v1/responses/r", true),
        ("GET", "m.example", "/v1/chat/completions", false),
        ("GET", "m.example", "/v1/conversations/c/items", false),
        ("GET", "m.example", "/v1/embeddings", true),
        ("GET", "m.example", "/v1/models", true),
        ("GET", "g.example", "/v1/models/m:generateContent", false),
        ("GET", "g.example", "/v1/models", true),
        ("CONNECT", "m.example", "/v1/responses/r", true),
    ] {
        let action = Action {
            path: Some(path.to_owned()),
            ..asks(method, host)
        };
        let replayed = Replay::new(&candidate, [], &OPEN).replay(&allowed(Layer::Proxy, action));
        match &replayed {
            Replayed::Told(told) if known => assert_eq!(told.would_be.verdict, Verdict::Deny),
            Replayed::CannotTell(told) if !known => {
                let why = "whether it is a call of a language model";
                assert!(told.contains(why), "{told}");
            }
            _ => panic!("{method} {path} {replayed:?}"),
        }
    }
}

/// Tools on the agent's own host are asked about as they were.
#[test]
fn what_was_asked_of_local_tools_goes_through_the_candidate() {
    let candidate = policy(
        "version: 1\ntool_servers: [{name: files, api: mcp_stdio}, {name: remote, api: mcp, hosts: [a.example]}]\nagents: [{name: coder}]\nrules:\n  - {id: data, match: {tool: {server: [files], name: [read], arguments: {/path: ['/data/*']}}}, action: allow}\n  - {id: notes, match: {tool: {server: [files], name: [note]}}, action: modify, modify: {redact: [/user]}}\n",
    );
    let replay = Replay::new(&candidate, [], &OPEN);
    let call = |server: &str, name: &str, path: Option<&str>| {
        let values = path.map(|path| Argument {
            pointer: "/path".to_owned(),
            values: vec![path.to_owned()],
        });
        let tool = Tool {
            server: server.to_owned(),
            method: Some("tools/call".to_owned()),
            name: Some(name.to_owned()),
            arguments: Some("sha256:00".to_owned()),
            values: values.into_iter().collect(),
            ..Tool::default()
        };
        let action = Action {
            tool: Some(tool),
            ..Action::new(ActionKind::ToolCall)
        };
        over(allowed(Layer::Hook, action), 10)
    };
    for (decision, expected) in [
        (call("files", "read", Some("/data/a")), Some(Verdict::Allow)),
        (call("files", "read", Some("/etc/a")), Some(Verdict::Deny)),
        (call("files", "write", None), Some(Verdict::Deny)),
        (call("files", "note", None), Some(Verdict::Modify)),
        // Which argument it had is not known.
        (call("files", "read", None), None),
        // That one is not on the agent's own host.
        (call("remote", "read", None), Some(Verdict::Deny)),
    ] {
        let replayed = replay.replay(&decision);
        let would_be = told(&replayed).map(|told| told.would_be.verdict);
        assert_eq!(would_be, expected, "{replayed:?}");
    }
}

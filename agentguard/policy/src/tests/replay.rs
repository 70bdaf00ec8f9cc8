//! Recorded decisions through another policy.

use std::net::IpAddr;

use agentguard_model::{
    Action, ActionKind, Agent, Bytes, COUNTED_TOGETHER, Context, Decision, DecisionId, Handling,
    HostName, Layer, Matched, Mode, Outcome, Reason, ReasonCode, Transport, Verdict,
};
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;
use jiff::Timestamp;
use proptest::prelude::*;
use ulid::Ulid;

use super::agreement::{ADDRESSES, NAMES, TRIED_PORTS, any_rules, transports};
use super::{agent, host, policy};
use crate::replay::{EXAMPLES, MAX_GROUPS, Replay, Replayed, State, Summary, Told};
use crate::{Facts, Policy, Query, Request, RulingOutcome, Seen, special};

/// No address is closed.
const OPEN: fn(IpAddr, &[IpNet], bool) -> bool = |_, _, _| false;

/// A decision on nothing in particular.
fn decision(layer: Layer, action: Action) -> Decision {
    Decision {
        id: DecisionId(Ulid::from_parts(1, 1)),
        time: Timestamp::UNIX_EPOCH,
        agent: Some(Agent {
            name: "coder".parse().unwrap(),
            labels: Default::default(),
        }),
        context: Context::default(),
        process: None,
        layer,
        action,
        verdict: Verdict::Deny,
        enforced: true,
        mode: Mode::Enforce,
        reason: Reason::new(ReasonCode::NoRule, "because"),
        matched: Vec::new(),
        budget: Vec::new(),
        findings: Vec::new(),
        count: 1,
        last: None,
        latency_us: 1,
        policy_version: "of old".to_owned(),
        outcome: None,
    }
}

/// Somebody who records what happens under a policy, as the guard does.
struct Recorder<'a> {
    policy: &'a Policy,
}

impl Recorder<'_> {
    fn record(
        &self,
        (layer, action): (Layer, Action),
        (verdict, enforced, reason): (Verdict, bool, Reason),
        matched: Vec<Matched>,
    ) -> Decision {
        Decision {
            verdict,
            enforced,
            reason,
            matched,
            policy_version: self.policy.version().to_owned(),
            ..decision(layer, action)
        }
    }

    fn name(&self, name: &HostName) -> Decision {
        let ruling = self.policy.decide_name(agent(self.policy, "coder"), name);
        let action = Action {
            host: Some(name.clone()),
            port: Some(53),
            transport: Some(Transport::Udp),
            ..Action::new(ActionKind::DnsQuery)
        };
        let said = (ruling.verdict, ruling.enforced, ruling.reason);
        self.record((Layer::Dns, action), said, ruling.matched)
    }

    /// A flow, by whoever decides it.
    fn flow(&self, attempt: &Attempt<'_>) -> Decision {
        let agent = agent(self.policy, "coder");
        let facts = attempt.facts;
        let mut action = Action {
            host: facts.host.cloned(),
            ip: facts.ip.map(special::canonical),
            port: Some(facts.port),
            transport: Some(facts.transport),
            ..Action::new(match facts.transport {
                Transport::Tcp => ActionKind::Connect,
                Transport::Udp => ActionKind::Datagram,
            })
        };
        // The kernel knows the address, and what the policy says whatever is sent.
        let early = Facts {
            ip: facts.ip.or(attempt.behind),
            ..facts
        };
        let ruling = self.policy.decide(agent, &early);
        if matches!(
            ruling.outcome,
            RulingOutcome::Deny | RulingOutcome::Allow(Handling::Direct)
        ) {
            let enforced =
                ruling.verdict == Verdict::Allow || ruling.outcome == RulingOutcome::Deny;
            let said = (ruling.verdict, enforced, ruling.reason);
            let matched = ruling.matched.into_iter().take(1).collect();
            return self.record((Layer::Kernel, action), said, matched);
        }
        let seen = match attempt.sent {
            Sent::Clear(request) => Seen::Request(request),
            Sent::Tls(request) if self.policy.inspects(agent, &facts) => Seen::Request(request),
            Sent::Tls(_) | Sent::Opaque => Seen::Never,
        };
        let facts = Facts {
            request: seen,
            ..facts
        };
        let mut ruling = self.policy.decide(agent, &facts);
        if let Seen::Request(request) = seen {
            action.kind = ActionKind::HttpRequest;
            action.method = Some(request.method.to_owned());
            action.path = Some(request.path.to_owned());
            action.query = request.query.map(|query| self.policy.recorded_query(query));
            let fields = request
                .fields
                .map(|fields| self.policy.recorded_fields(fields));
            action.headers = fields.unwrap_or_default();
            action.body = (request.body > 0).then_some(request.body);
            action.tls = matches!(attempt.sent, Sent::Tls(_));
            // An address behind the name for which a rule denies it is told, in force before on paper.
            if let (Some(ip), Some(_), None) = (attempt.behind, facts.host, facts.ip)
                && ruling.outcome != RulingOutcome::Deny
            {
                let ip = Some(ip);
                let there = self.policy.decide(agent, &Facts { ip, ..facts });
                let denied = there.outcome == RulingOutcome::Deny
                    || there.verdict == Verdict::Deny && ruling.verdict != Verdict::Deny;
                if denied {
                    action.ip = ip.map(special::canonical);
                    ruling = there;
                }
            }
        }
        let said = (ruling.verdict, ruling.enforced, ruling.reason);
        self.record((Layer::Proxy, action), said, ruling.matched)
    }
}

/// What happens, whoever looks at it and whoever records it.
struct Attempt<'a> {
    /// Before anything is sent.
    facts: Facts<'a>,
    /// The address behind the name.
    behind: Option<IpAddr>,
    sent: Sent<'a>,
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
enum Sent<'a> {
    /// A request.
    Clear(Request<'a>),
    /// A request inside TLS.
    Tls(Request<'a>),
    /// What nobody understands.
    Opaque,
}

/// A rule that allows much, so that others matter.
fn wide_rule() -> impl Strategy<Value = String> {
    prop::sample::select(&["splice", "inspect", "direct"][..]).prop_map(|handling| {
        format!("    match: {{transport: [tcp]}}\n    action: allow\n    handling: {handling}\n")
    })
}

/// A rule that looks at header fields and parameters, valid whatever the numbers.
fn looking_rule() -> impl Strategy<Value = String> {
    (
        prop::sample::select(&["accept", "x-a", "cookie"][..]),
        prop::sample::select(&["b", "b*", "*c"][..]),
        prop::option::of(prop::sample::select(&["a", "d"][..])),
        any::<bool>(),
        prop_oneof![1 => Just("observe"), 1 => Just("shadow"), 4 => Just("enforce")],
    )
        .prop_map(|(field, value, parameter, allow, mode)| {
            let query = parameter.map_or_else(String::new, |name| format!("      query: {{{name}: [\"b*\"]}}\n"));
            let action = if allow { "allow" } else { "deny" };
            format!(
                "    mode: {mode}\n    match:\n      header: {{{field}: [\"{value}\"]}}\n{query}    action: {action}\n"
            )
        })
}

fn text(rules: &[String], mode: &str) -> String {
    let mut text = format!("version: 1\nagents:\n  - {{name: coder, mode: {mode}}}\nrules:\n");
    if rules.is_empty() {
        text.push_str("  []\n");
    }
    for (n, rule) in rules.iter().enumerate() {
        text.push_str(&format!("  - id: r{n}\n{rule}"));
    }
    text
}

/// Rules as text: some that look at requests, and often one that allows the rest.
fn rules() -> impl Strategy<Value = (Vec<String>, &'static str)> {
    let mode = prop_oneof![1 => Just("observe"), 1 => Just("shadow"), 4 => Just("enforce")];
    let looking = prop::collection::vec(looking_rule(), 0..4);
    let wide = prop::option::weighted(0.7, wide_rule());
    (any_rules(), looking, wide, mode).prop_map(|(any, looking, wide, mode)| {
        let rules = any.into_iter().take(3).chain(looking).chain(wide);
        (rules.collect(), mode)
    })
}

prop_compose! {
    fn fields()(
        fields in prop::collection::vec(
            (
                prop::sample::select(&["accept", "x-a", "cookie"][..]),
                prop::sample::select(&["b", "bc", "x", "b, c", "\u{e9}"][..]),
            ),
            0..3,
        )
    ) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }
}

/// What may be attempted, owned: [`Tried::attempt`] borrows from it.
#[derive(Debug)]
struct Tried {
    name: Option<HostName>,
    ip: IpAddr,
    port: u16,
    transport: Transport,
    sent: u8,
    method: &'static str,
    path: &'static str,
    query: Option<Query>,
    fields: Option<HeaderMap>,
    body: u64,
}

const QUERIES: [&str; 10] = [
    "",
    "a=b",
    "a=x",
    "a=c1;a=x",
    "d=1&a=b",
    "d=b2",
    "z=1;d=b",
    "z=b",
    "0123456789abcdefg",
    "a=b&a=x",
];

prop_compose! {
    fn tried()(
        name in prop::option::of(prop::sample::select(&NAMES[..])),
        ip in prop::sample::select(&ADDRESSES[..]),
        (port, transport) in (prop::sample::select(&TRIED_PORTS[..]), transports()),
        sent in 0u8..5,
        method in prop::sample::select(&["GET", "PUT"][..]),
        path in prop::sample::select(&["/a", "/a/b", "/a%2Fb"][..]),
        query in prop::option::of(prop::sample::select(&QUERIES[..])),
        fields in fields(),
        body in prop_oneof![Just(0u64), 9u64..12],
    ) -> Tried {
        Tried {
            name: name.map(host),
            ip: ip.parse().unwrap(),
            port, transport, sent, method, path,
            query: query.map(Query::new),
            fields: Some(fields),
            body,
        }
    }
}

impl Tried {
    /// With so much content.
    fn attempt(&self, body: u64) -> Attempt<'_> {
        let request = Request {
            query: self.query.as_ref(),
            fields: self.fields.as_ref(),
            body,
            ..Request::new(self.method, self.path)
        };
        // Names lead to no closed address.
        let closed = special::hard(&special::canonical(self.ip).into()).is_some();
        Attempt {
            facts: Facts {
                host: self.name.as_ref(),
                ip: self.name.is_none().then_some(self.ip),
                port: self.port,
                transport: self.transport,
                request: Seen::NotYet,
            },
            behind: (self.name.is_some() && !closed).then_some(self.ip),
            sent: match self.sent {
                0 => Sent::Opaque,
                1 | 2 => Sent::Clear(request),
                _ => Sent::Tls(request),
            },
        }
    }
}

fn told(replayed: &Replayed) -> Option<&Told> {
    match replayed {
        Replayed::Told(told) => Some(told),
        Replayed::NotThePolicys | Replayed::CannotTell(_) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Through the policy that gave it, a decision stays what it was; through one that says the same
    /// under another version, no change is made up of what the record lacks.
    #[test]
    fn the_same_policy_changes_nothing((rules, mode) in rules(), tried in tried()) {
        let text = text(&rules, mode);
        let before = policy(&text);
        let again = policy(&format!("{text}# the same\n"));
        prop_assert_ne!(before.version(), again.version());
        let recorder = Recorder { policy: &before };
        let mut decisions = vec![recorder.flow(&tried.attempt(tried.body))];
        decisions.extend(tried.name.as_ref().map(|name| recorder.name(name)));
        let of_old = [(before.version().to_owned(), before.looked_at_fields())];
        for decision in &decisions {
            let context = format!("{text}{decision:#?}");
            let same = Replay::new(&before, [], &OPEN).replay(decision);
            let changed = told(&same).is_none_or(Told::changed);
            prop_assert!(!changed, "{:?}\n{}", same, context);
            for known in [&of_old[..], &[]] {
                let replayed = Replay::new(&again, known.iter().cloned(), &OPEN).replay(decision);
                let changed = told(&replayed).is_some_and(Told::changed);
                prop_assert!(!changed, "{:?}\n{}", replayed, context);
            }
        }
    }

    /// What is told of a candidate is what it would have done, whatever the record did not have.
    #[test]
    fn what_is_told_is_what_would_be(
        (rules, mode) in rules(), (others, others_mode) in rules(), tried in tried(),
        announced: bool,
    ) {
        let (text, others) = (text(&rules, mode), text(&others, others_mode));
        let (before, candidate) = (policy(&text), policy(&others));
        prop_assume!(before.version() != candidate.version());
        // A request may not say how much content it will have.
        let at_first = if announced { tried.body } else { 0 };
        let decision = Recorder { policy: &before }.flow(&tried.attempt(at_first));
        let truth = Recorder { policy: &candidate }.flow(&tried.attempt(tried.body));
        let truth = State { verdict: truth.verdict, enforced: truth.enforced };
        let of_old = [(before.version().to_owned(), before.looked_at_fields())];
        for known in [&of_old[..], &[]] {
            let replayed = Replay::new(&candidate, known.iter().cloned(), &OPEN).replay(&decision);
            let right = told(&replayed).is_none_or(|told| told.would_be.is(truth));
            prop_assert!(right, "{:?}\n{:?}\n{}{}{:#?}", replayed, truth, text, others, decision);
        }
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
    let closed = |ip: IpAddr, _: &[IpNet], _: bool| private.contains(&ip);
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

//! What holds of all policies and all that may have been recorded.

use std::net::IpAddr;

use agentguard_model::special::is_opened;
use agentguard_model::{HostName, Llm, ReasonCode, Tool, Transport};
use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

use super::recorder::{Attempt, Recorder, Sent};
use super::{OPEN, told};
use crate::replay::{Replay, State, Told};
use crate::tests::random::{
    ADDRESSES, NAMES, TRIED_PORTS, any_rules, call, circumstances, message, transports,
};
use crate::tests::{host, policy};
use crate::{Circumstances, Facts, Query, Request, Seen, special};

/// A rule that allows much, so that others matter.
fn wide_rule() -> impl Strategy<Value = String> {
    prop::sample::select(&["splice", "inspect", "direct"][..]).prop_map(|handling| {
        format!("    match: {{transport: [tcp]}}\n    action: allow\n    handling: {handling}\n")
    })
}

/// What a rule does, and what it changes.
const ACTIONS: [&str; 4] = [
    "allow",
    "deny",
    "modify\n    modify: {headers: {drop: [referer]}}",
    "modify\n    modify: {headers: {set: {x-b: c}}}",
];

/// What rules say of labels. The last one cannot be evaluated without the label.
const OF_LABELS: [&str; 2] = [
    "has(agent.labels.team) && agent.labels.team == 'ops'",
    "agent.labels.team != 'web'",
];

/// A rule that looks at header fields and parameters, or at labels, valid whatever the numbers.
fn looking_rule() -> impl Strategy<Value = String> {
    (
        prop::sample::select(&["accept", "x-a", "cookie"][..]),
        prop::sample::select(&["b", "b*", "*c"][..]),
        prop::option::of(prop::sample::select(&["a", "d"][..])),
        prop::sample::select(&ACTIONS[..]),
        prop_oneof![1 => Just("observe"), 1 => Just("shadow"), 4 => Just("enforce")],
        prop::option::weighted(0.4, prop::sample::select(&OF_LABELS[..])),
    )
        .prop_map(|(field, value, parameter, action, mode, of_labels)| {
            if let Some(when) = of_labels {
                return format!(
                    "    mode: {mode}\n    match: {{transport: [tcp]}}\n    when: \"{when}\"\n    action: {action}\n"
                );
            }
            let query = parameter.map_or_else(String::new, |name| format!("      query: {{{name}: [\"b*\"]}}\n"));
            format!(
                "    mode: {mode}\n    match:\n      header: {{{field}: [\"{value}\"]}}\n{query}    action: {action}\n"
            )
        })
}

/// Mode, strategy, what else stands before the agents, and the agent's labels.
type Head = (&'static str, &'static str, &'static str, &'static str);

/// Labels of the agent, which a run may have otherwise.
const LABELS: [&str; 3] = ["{}", "{team: web}", "{team: ops}"];

/// Where calls of language models and messages to servers of tools go, and what becomes of those that cannot be read.
const PROVIDERS: [&str; 7] = [
    "",
    "providers: [{name: ours, api: openai, hosts: [a.example, \"*.a.example\", d.test]}]\n",
    "providers: [{name: ours, api: openai, hosts: [\"*.example\"]}]\ndefaults: {not_understood: allow}\n",
    "tool_servers: [{name: files, api: mcp, hosts: [a.example, \"*.a.example\"], paths: [\"/a/**\"]}]\n",
    "tool_servers: [{name: files, api: mcp, hosts: [\"*.example\", d.test]}]\ndefaults: {not_understood: allow}\n",
    "tool_servers: [{name: other, api: mcp, hosts: [a.example, c.test]}]\ndefaults: {not_understood: allow}\n",
    "providers: [{name: theirs, api: openai, hosts: [a.example]}]\ndefaults: {not_understood: allow}\n",
];

fn text(rules: &[String], (mode, strategy, more, labels): Head) -> String {
    let mut text = format!(
        "version: 1\nstrategy: {strategy}\nswitches: {{lever: false}}\n{more}agents:\n  - {{name: coder, mode: {mode}, labels: {labels}}}\nrules:\n"
    );
    if rules.is_empty() {
        text.push_str("  []\n");
    }
    for (n, rule) in rules.iter().enumerate() {
        text.push_str(&format!("  - id: r{n}\n"));
        for line in rule.lines() {
            if strategy == "priority_first_match" || !line.contains("priority") {
                text.push_str(&format!("{line}\n"));
            }
        }
    }
    text
}

/// Rules as text: some that look at requests, and often one that allows the rest.
fn rules() -> impl Strategy<Value = (Vec<String>, Head)> {
    let mode = prop_oneof![1 => Just("observe"), 1 => Just("shadow"), 4 => Just("enforce")];
    let looking = prop::collection::vec(looking_rule(), 0..4);
    let wide = prop::option::weighted(0.7, wide_rule());
    let strategy = prop_oneof![
        2 => Just("deny_overrides"),
        1 => Just("priority_first_match"),
        1 => Just("most_specific_wins"),
    ];
    let providers = prop::sample::select(&PROVIDERS[..]);
    let labels = prop::sample::select(&LABELS[..]);
    (
        any_rules(),
        looking,
        wide,
        (mode, strategy, providers, labels),
    )
        .prop_map(|(any, looking, wide, mode)| {
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
    websocket: bool,
    method: &'static str,
    path: &'static str,
    query: Option<Query>,
    fields: Option<HeaderMap>,
    body: u64,
    llm: Option<&'static Llm>,
    tool: Option<&'static Tool>,
    circumstances: Circumstances<'static>,
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
        (sent, websocket) in (0u8..5, prop::bool::weighted(0.2)),
        (method, llm, tool) in (prop::sample::select(&["GET", "PUT"][..]), call(), message()),
        path in prop::sample::select(&["/a", "/a/b", "/a%2Fb"][..]),
        query in prop::option::of(prop::sample::select(&QUERIES[..])),
        fields in fields(),
        body in prop_oneof![Just(0u64), 9u64..12],
        circumstances in circumstances(),
    ) -> Tried {
        Tried {
            name: name.map(host),
            ip: ip.parse().unwrap(),
            port, transport, sent, websocket, method, path,
            query: query.map(Query::new),
            fields: Some(fields),
            body,
            llm,
            tool,
            circumstances,
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
            websocket: self.websocket,
            llm: self.llm,
            tool: self.tool,
            ..Request::new(self.method, self.path)
        };
        // Where names lead is not recorded; here to public addresses alone.
        let closed = !is_opened(special::canonical(self.ip), &[]);
        Attempt {
            facts: Facts {
                host: self.name.as_ref(),
                ip: self.name.is_none().then_some(self.ip),
                port: self.port,
                transport: self.transport,
                request: Seen::NotYet,
                circumstances: self.circumstances,
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
            // What the proxy denied is no policy's to change.
            let proxys = decision.reason.code == ReasonCode::NotUnderstood;
            let changed = told(&same).map_or(!proxys, Told::changed);
            prop_assert!(!changed, "{:?}\n{}", same, context);
            let labels = before.agents().iter().map(|it| (it.name.clone(), it.labels.clone()));
            for known in [&of_old[..], &[]] {
                let replay = || Replay::new(&again, known.iter().cloned(), &OPEN);
                let labelled = replay().labelled(before.version(), labels.clone());
                for replay in [replay(), labelled, replay().beside(&before)] {
                    let replayed = replay.replay(decision);
                    let changed = told(&replayed).is_some_and(Told::changed);
                    prop_assert!(!changed, "{:?}\n{}", replayed, context);
                }
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
        let changes = truth.changes;
        let truth = State { verdict: truth.verdict, enforced: truth.enforced };
        let of_old = [(before.version().to_owned(), before.looked_at_fields())];
        for known in [&of_old[..], &[]] {
            let replay = Replay::new(&candidate, known.iter().cloned(), &OPEN);
            let replayed = replay.beside(&before).replay(&decision);
            let right = told(&replayed).is_none_or(|told| told.would_be.is(truth));
            prop_assert!(right, "{:?}\n{:?}\n{}{}{:#?}", replayed, truth, text, others, decision);
            // What is called unchanged is changed in the same way.
            let unchanged = told(&replayed).is_some_and(|told| !told.changed());
            prop_assert!(
                !unchanged || changes == decision.changes,
                "{:?}\n{:?}\n{}{}{:#?}", replayed, changes, text, others, decision
            );
        }
    }
}

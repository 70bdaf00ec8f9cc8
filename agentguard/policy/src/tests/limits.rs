//! Limits and breakers: what is read, what is refused, and what is counted by which.

use std::time::Duration;

use agentguard_model::budget::Dimension;
use agentguard_model::limit::{Circuit, LimitKind, Rate};
use agentguard_model::{Llm, LlmOperation, Mode, Tool};

use super::{agent, document, llm_call, policy};
use crate::{Charged, Policy, compile};

const START: &str = "version: 1
agents: [{name: coder, labels: {team: a}}, {name: other, mode: shadow}]
tool_servers:
  - {name: files, hosts: [files.example.com], api: mcp}
  - {name: planner, hosts: [planner.example.com], api: a2a}
";

fn limits(text: &str) -> Policy {
    policy(&format!("{START}{text}"))
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn kinds_times_and_accounts_are_read() {
    let policy = limits(
        "limits:
  - {id: a, rate: {calls: 10, every: 1m}, per: [agent, label.team, model]}
  - {id: b, rate: {calls: 10, every: 2m, burst: 3}, of: [requests]}
  - {id: c, repeats: {calls: 5, within: 10m}}
  - {id: d, retries: {failures: 4, within: 30s}, mode: observe}
  - {id: e, no_progress: {calls: 20, within: 1h}, per: [session]}
  - {id: f, depth: {calls: 8, agents: 3}}
breakers:
  - {id: g, circuit: upstream, failures: 5}
  - {id: h, circuit: tool, failures: 5, of: 10, within: 5m, wait: 2m, probes: 3, per: [agent]}
",
    );
    let kinds: Vec<_> = policy.limits().iter().map(|it| it.limit.kind).collect();
    let rate = |calls, every, burst| {
        LimitKind::Rate(Rate {
            calls,
            every: seconds(every),
            burst,
        })
    };
    let wanted = [
        rate(10, 60, 10),
        rate(10, 120, 3),
        LimitKind::Repeats {
            calls: 5,
            within: seconds(600),
        },
        LimitKind::Retries {
            failures: 4,
            within: seconds(30),
        },
        LimitKind::NoProgress {
            calls: 20,
            within: seconds(3600),
        },
        LimitKind::Depth {
            calls: 8,
            agents: 3,
        },
    ];
    assert_eq!(kinds, wanted);
    let first = &policy.limits()[0];
    let per = [
        Dimension::Agent,
        Dimension::Label("team".to_owned()),
        Dimension::Model,
    ];
    assert_eq!(*first.limit.per, per);
    assert_eq!(first.says.source.line, 7);
    let observed = &policy.limits()[3];
    let coder = agent(&policy, "coder");
    assert_eq!(observed.says.on_paper(coder), Some(Mode::Observe));
    assert_eq!(first.says.on_paper(coder), None);
    assert_eq!(
        first.says.on_paper(agent(&policy, "other")),
        Some(Mode::Shadow)
    );
    let breakers: Vec<_> = policy.breakers().iter().map(|it| &*it.breaker).collect();
    let [g, h] = breakers[..] else {
        panic!("{breakers:?}");
    };
    assert_eq!(
        (g.circuit, g.failures, g.of, g.probes),
        (Circuit::Upstream, 5, 5, 1)
    );
    assert_eq!((g.within, g.wait), (seconds(60), seconds(30)));
    assert_eq!(
        (h.circuit, h.failures, h.of, h.probes),
        (Circuit::Tool, 5, 10, 3)
    );
    assert_eq!((h.within, h.wait), (seconds(300), seconds(120)));
    assert_eq!(*h.per, [Dimension::Agent]);
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_place() {
    let of_limits = [
        (
            "{id: A, rate: {calls: 1, every: 1m}}",
            "`A` is not the id of a limit",
        ),
        ("{id: a}", "a limit that limits nothing"),
        (
            "{id: a, rate: {calls: 1, every: 1m}, depth: {calls: 1}}",
            "a limit of `rate`, and of `depth`",
        ),
        (
            "{id: a, rate: {calls: 0, every: 1m}}",
            "`calls: 0` is not a number from 1 to 1000000",
        ),
        ("{id: a, rate: {calls: -1, every: 1m}}", "`-1`"),
        ("{id: a, rate: {calls: 1.5, every: 1m}}", "`1.5`"),
        (
            "{id: a, rate: {calls: 1000001, every: 1m}}",
            "`calls: 1000001` is not a number",
        ),
        ("{id: a, rate: {calls: 1}}", "missing key `every`"),
        (
            "{id: a, rate: {calls: 1, every: 60}}",
            "`every: 60` is not a time",
        ),
        (
            "{id: a, rate: {calls: 1, every: 0s}}",
            "`every: 0s` is not a time",
        ),
        (
            "{id: a, rate: {calls: 1, every: 25h}}",
            "`every: 25h` is not a time",
        ),
        (
            "{id: a, rate: {calls: 1, every: 1m, burst: 0}}",
            "`burst: 0` is not a number",
        ),
        (
            "{id: a, rate: {calls: 1, every: 1m, per: [agent]}}",
            "`per`",
        ),
        (
            "{id: a, repeats: {calls: 1, within: soon}}",
            "`within: soon` is not a time",
        ),
        ("{id: a, retries: {calls: 1, within: 1m}}", "`calls`"),
        (
            "{id: a, retries: {failures: 0, within: 1m}}",
            "`failures: 0` is not a number",
        ),
        (
            "{id: a, no_progress: {calls: 1, within: 2d}}",
            "`within: 2d` is not a time",
        ),
        (
            "{id: a, depth: {calls: 1, agents: 0}}",
            "`agents: 0` is not a number",
        ),
        (
            "{id: a, depth: {calls: 1}, llm: {}}",
            "`llm` is not for `depth`",
        ),
        (
            "{id: a, depth: {calls: 1}, of: [calls]}",
            "`depth` counts calls of agents",
        ),
        (
            "{id: a, repeats: {calls: 1, within: 1m}, of: [requests]}",
            "`requests` are for `rate`",
        ),
        (
            "{id: a, rate: {calls: 1, every: 1m}, of: []}",
            "`of` is empty",
        ),
        (
            "{id: a, rate: {calls: 1, every: 1m}, of: [words]}",
            "`words`",
        ),
        (
            "{id: a, rate: {calls: 1, every: 1m}, of: [requests, calls]}",
            "`requests` beside some of them",
        ),
        (
            "{id: a, rate: {calls: 1, every: 1m}, of: [calls], tool: {}}",
            "`tool` is for `tool_calls`",
        ),
        (
            "{id: a, rate: {calls: 1, every: 1m}, of: [tool_calls], llm: {}}",
            "`llm` is for `calls`",
        ),
        (
            "{id: a, rate: {calls: 1, every: 1m}, per: [colour]}",
            "`colour` tells no accounts apart",
        ),
        (
            "{id: a, rate: {calls: 1, every: 1m}, agents: [nobody]}",
            "no agent is called `nobody`",
        ),
        (
            "{id: a, rate: {calls: 1, every: 1m}, tool: {server: []}}",
            "`server` is empty",
        ),
        (
            "{id: a, rate: {calls: 1, every: 1m}}\n  - {id: a, rate: {calls: 1, every: 1m}}",
            "a second limit `a`",
        ),
        (
            "{id: a, rate: {calls: 1, every: 1m}}\nbreakers:\n  - {id: a, circuit: tool, failures: 1}",
            "a second breaker `a`",
        ),
    ];
    let of_breakers = [
        (
            "{id: a b, circuit: tool, failures: 1}",
            "`a b` is not the id of a breaker",
        ),
        ("{id: a, circuit: host, failures: 1}", "`host`"),
        ("{id: a, circuit: tool}", "missing key `failures`"),
        (
            "{id: a, circuit: tool, failures: 65}",
            "`failures: 65` is not a number from 1 to 64",
        ),
        (
            "{id: a, circuit: tool, failures: 5, of: 4}",
            "5 failures among 4 calls",
        ),
        (
            "{id: a, circuit: tool, failures: 5, wait: 1w}",
            "`wait: 1w` is not a time",
        ),
        (
            "{id: a, circuit: tool, failures: 5, probes: 0}",
            "`probes: 0` is not a number",
        ),
        (
            "{id: a, circuit: tool, failures: 5, llm: {}}",
            "`llm` is not for `circuit: tool`",
        ),
    ];
    let of_limits = of_limits.map(|(text, message)| (format!("limits:\n  - {text}\n"), message));
    let of_breakers =
        of_breakers.map(|(text, message)| (format!("breakers:\n  - {text}\n"), message));
    for (text, message) in of_limits.iter().chain(&of_breakers) {
        let document = document(&format!("{START}{text}"));
        let found = compile(&[document]).unwrap_err().to_string();
        assert!(found.contains(message), "{text}\n{found}");
        let line = START.lines().count() + 2;
        let here = [
            format!("p.yaml:{line}:"),
            format!("p.yaml:{}:", line + 1),
            format!("p.yaml:{}:", line + 2),
        ];
        assert!(here.iter().any(|it| found.starts_with(it)), "{found}");
    }
    let many: String = (0..257)
        .map(|it| format!("  - {{id: l{it}, rate: {{calls: 1, every: 1m}}}}\n"))
        .collect();
    let found = compile(&[document(&format!("{START}limits:\n{many}"))]).unwrap_err();
    assert!(
        found
            .to_string()
            .contains("more than 256 limits and breakers")
    );
}

#[test]
fn a_group_for_which_there_is_a_limit_is_used() {
    let text = "groups: [{name: all, agents: [coder]}]\nlimits:\n  - {id: a, rate: {calls: 1, every: 1m}, groups: [all]}\n";
    assert_eq!(limits(text).warnings(), []);
}

#[test]
fn each_counts_what_it_says() {
    let policy = limits(
        "limits:
  - {id: both, rate: {calls: 1, every: 1m}}
  - {id: models, rate: {calls: 1, every: 1m}, llm: {model: [gpt-*]}}
  - {id: tools, repeats: {calls: 1, within: 1m}, tool: {server: [files], name: [read*]}, agents: [coder]}
  - {id: all, rate: {calls: 1, every: 1m}, of: [requests]}
  - {id: chains, depth: {calls: 1}}
  - {id: named, depth: {calls: 1}, tool: {server: [files]}}
breakers:
  - {id: up, circuit: upstream, failures: 1}
  - {id: up-models, circuit: upstream, failures: 1, llm: {}}
  - {id: tool, circuit: tool, failures: 1}
",
    );
    let coder = agent(&policy, "coder");
    let counting = |what: Charged<'_>, who| {
        let limits = policy.limits().iter();
        let limits = limits.filter(|it| it.counts(&policy, who, what));
        let breakers = policy.breakers().iter().filter(|it| it.counts(who, what));
        let limits = limits.map(|it| it.limit.id.to_string());
        let ids = limits.chain(breakers.map(|it| it.breaker.id.to_string()));
        ids.collect::<Vec<_>>().join(" ")
    };
    let tool = |server: &str, name: Option<&str>| Tool {
        server: server.to_owned(),
        name: name.map(str::to_owned),
        not_understood: name.is_none().then(|| "malformed".to_owned()),
        ..Tool::default()
    };
    let gpt = llm_call("openai", Some("gpt-4o"));
    let other = llm_call("openai", Some("o3"));
    let fetched = Llm {
        operation: LlmOperation::Retrieval,
        ..llm_call("openai", None)
    };
    let counted = Llm {
        operation: LlmOperation::CountTokens,
        ..llm_call("openai", Some("gpt-4o"))
    };
    let (read, ask) = (
        tool("files", Some("read_file")),
        tool("planner", Some("message/send")),
    );
    let unread = tool("files", None);
    for (what, expected) in [
        (Charged::Llm(&gpt), "both models all up up-models"),
        (Charged::Llm(&other), "both all up up-models"),
        (Charged::Llm(&fetched), "all up"),
        (Charged::Llm(&counted), "all up"),
        (Charged::Tool(&read), "both tools all named up tool"),
        (Charged::Tool(&ask), "both all chains up tool"),
        (Charged::Tool(&unread), "both tools all named up"),
        (Charged::Other, "all up"),
    ] {
        assert_eq!(counting(what, coder), expected, "{what:?}");
    }
    let read = counting(Charged::Tool(&read), agent(&policy, "other"));
    assert_eq!(read, "both all named up tool");
}

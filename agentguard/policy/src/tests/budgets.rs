//! Budgets: what is read, what is refused, and what is charged to which.

use std::time::Duration;

use agentguard_model::budget::{Dimension, Reached, Unit, WhenAway, Window};
use agentguard_model::{Llm, LlmOperation, Tool};

use super::{agent, document, llm_call, policy};
use crate::{Charged, Policy, Soft, compile};

fn budgets(text: &str) -> Policy {
    let start =
        "version: 1\nagents: [{name: coder, labels: {team: a}}, {name: other, mode: shadow}]\n";
    policy(&format!("{start}{text}"))
}

#[test]
fn amounts_windows_and_accounts_are_read() {
    let policy = budgets(
        "budgets:
  - {id: a, unit: tokens, limit: 200000, window: day, zone: Europe/Berlin, per: [agent, label.team, model]}
  - {id: b, unit: micro_usd, limit: $25, window: month}
  - {id: c, unit: micro_usd, limit: \"$0.000001\", window: sliding, length: 24h, reached: alert, on_loss: lease}
  - {id: d, unit: wall_time, limit: 30m, window: lifetime, per: [session]}
  - {id: e, unit: tool_calls, limit: 5, window: minute, tool: {server: [files], name: [write_*]}}
",
    );
    let read: Vec<_> = policy
        .budgets()
        .iter()
        .map(|it| (it.budget.unit, it.budget.limit, it.budget.window))
        .collect();
    let day = Duration::from_secs(86_400);
    let wanted = [
        (Unit::Tokens, 200_000, Window::Day),
        (Unit::MicroUsd, 25_000_000, Window::Month),
        (Unit::MicroUsd, 1, Window::Sliding(day)),
        (Unit::WallTime, 1_800_000, Window::Lifetime),
        (Unit::ToolCalls, 5, Window::Minute),
    ];
    assert_eq!(read, wanted);
    let first = &policy.budgets()[0];
    assert_eq!(first.budget.zone.as_deref(), Some("Europe/Berlin"));
    let per = [
        Dimension::Agent,
        Dimension::Label("team".to_owned()),
        Dimension::Model,
    ];
    assert_eq!(*first.budget.per, per);
    assert_eq!(first.source.line, 4);
    assert_eq!(policy.budgets()[2].budget.reached, Reached::Alert);
    let on_loss: Vec<_> = policy
        .budgets()
        .iter()
        .map(|it| it.budget.on_loss)
        .collect();
    assert!(on_loss[2] == Some(WhenAway::Lease) && on_loss[0].is_none());
    assert_eq!(
        policy.budget("d").map(|it| it.budget.limit),
        Some(1_800_000)
    );
}

#[test]
fn soft_limits_are_read_and_hold_from_their_part_on() {
    let text = "version: 1\nagents: [{name: coder}]\nbudgets:\n  - {id: a, unit: calls, limit: 10, window: day, soft: {}}\n  \
                - {id: b, unit: calls, limit: 3, window: day, per: [agent], reached: freeze, soft: {at: 34 %, header: true, slow: 2s, forecast: true}}\n";
    let policy = compile(&[document(text)]).expect("it compiles");
    let soft = |id: &str| policy.budget(id).and_then(|it| it.soft).expect("one");
    let plain = Soft {
        percent: 80,
        header: false,
        slow: None,
        forecast: false,
    };
    let all = Soft {
        percent: 34,
        header: true,
        slow: Some(Duration::from_secs(2)),
        forecast: true,
    };
    assert_eq!((soft("a"), soft("b")), (plain, all));
    assert!(plain.is_reached(8, 10) && !plain.is_reached(7, 10));
    assert!(all.is_reached(2, 3) && !all.is_reached(1, 3));
    assert!(plain.is_reached(u64::MAX, u64::MAX));
    let reached = policy.budget("b").expect("one").budget.reached;
    assert!(reached == Reached::Freeze && reached.limits());
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_place() {
    let cases = [
        (
            "{id: A, unit: calls, limit: 1, window: day}",
            "`A` is not the id of a budget",
        ),
        ("{id: a, unit: call, limit: 1, window: day}", "`call`"),
        (
            "{id: a, unit: calls, limit: -1, window: day}",
            "`limit: -1` is no amount of `calls`",
        ),
        (
            "{id: a, unit: calls, limit: 1.5, window: day}",
            "`limit: 1.5` is no amount of `calls`",
        ),
        (
            "{id: a, unit: calls, limit: 0, window: day}",
            "a budget of nothing",
        ),
        (
            "{id: a, unit: calls, limit: 9007199254740992, window: day}",
            "more than there can be",
        ),
        (
            "{id: a, unit: calls, limit: 99999999999999999999999, window: day}",
            "is no amount",
        ),
        (
            "{id: a, unit: calls, limit: 007, window: day}",
            "is no amount",
        ),
        (
            "{id: a, unit: micro_usd, limit: 25, window: day}",
            "is no amount of `micro_usd`",
        ),
        (
            "{id: a, unit: micro_usd, limit: $1.0000001, window: day}",
            "is no amount",
        ),
        (
            "{id: a, unit: micro_usd, limit: \"$1.\", window: day}",
            "is no amount",
        ),
        (
            "{id: a, unit: wall_time, limit: 90, window: day}",
            "is no amount of `wall_time`",
        ),
        (
            "{id: a, unit: calls, limit: 1, window: fortnight}",
            "`fortnight`",
        ),
        (
            "{id: a, unit: calls, limit: 1, window: sliding}",
            "a sliding window has a `length`",
        ),
        (
            "{id: a, unit: calls, limit: 1, window: sliding, length: 5s}",
            "from a minute to 366 days",
        ),
        (
            "{id: a, unit: calls, limit: 1, window: day, length: 5m}",
            "`length` is for `window: sliding`",
        ),
        (
            "{id: a, unit: calls, limit: 1, window: day, zone: Berlin}",
            "is not a time zone",
        ),
        (
            "{id: a, unit: calls, limit: 1, window: hour, zone: UTC}",
            "`zone` is for",
        ),
        (
            "{id: a, unit: calls, limit: 1, window: day, per: [usr]}",
            "tells no accounts apart",
        ),
        (
            "{id: a, unit: calls, limit: 1, window: day, per: [user, user]}",
            "stands here twice",
        ),
        (
            "{id: a, unit: calls, limit: 1, window: day, per: []}",
            "`per` is empty",
        ),
        (
            "{id: a, unit: calls, limit: 1, window: day, agents: [codr]}",
            "no agent is called `codr`",
        ),
        (
            "{id: a, unit: tool_calls, limit: 1, window: day, llm: {}}",
            "`llm` is for units",
        ),
        (
            "{id: a, unit: calls, limit: 1, window: day, tool: {}}",
            "`tool` is for `unit: tool_calls`",
        ),
        (
            "{id: a, unit: calls, limit: 1, window: day, per: [tool]}",
            "`tool` says nothing of `calls`",
        ),
        (
            "{id: a, unit: concurrent_calls, limit: 1, window: day}",
            "calls at the same time have no window",
        ),
        (
            "{id: a, unit: wall_time, limit: 5m, window: day, llm: {}}",
            "leave `llm` out",
        ),
        (
            "{id: a, unit: calls, limit: 1, window: day, until: 5}",
            "`until`",
        ),
        ("{id: a, unit: calls, window: day}", "`limit`"),
        (
            "{id: a, unit: calls, limit: 1, window: day, reached: freeze, per: [agent, session]}",
            "`reached: freeze` is for accounts that each agent has for itself",
        ),
        (
            "{id: a, unit: calls, limit: 1, window: day, reached: freeze, per: [model]}",
            "`reached: freeze` is for accounts that each agent has for itself",
        ),
        (
            "{id: a, unit: calls, limit: 1, window: day, soft: {at: 0%}}",
            "`at: 0%` is no part of a limit",
        ),
        (
            "{id: a, unit: calls, limit: 1, window: day, soft: {at: 80}}",
            "`at: 80` is no part of a limit",
        ),
        (
            "{id: a, unit: calls, limit: 1, window: day, soft: {slow: 2m}}",
            "`slow: 2m` is not a time from 1 to 10 seconds",
        ),
        (
            "{id: a, unit: concurrent_calls, limit: 1, window: lifetime, soft: {}}",
            "`soft` is not for calls at the same time",
        ),
        (
            "{id: a, unit: calls, limit: 1, window: lifetime, soft: {forecast: true}}",
            "`forecast` is for what may be spent before a window ends",
        ),
    ];
    for (budget, wanted) in cases {
        let text = format!("version: 1\nagents: [{{name: coder}}]\nbudgets:\n  - {budget}\n");
        let found = compile(&[document(&text)]).expect_err(budget).to_string();
        assert!(found.contains(wanted), "{budget}: {found}");
        assert!(found.contains("p.yaml:4:"), "{budget}: {found}");
    }
}

#[test]
fn a_second_one_of_the_same_id_is_told_where_the_first_is() {
    let one = "{id: a, unit: calls, limit: 1, window: day}";
    let text = format!("version: 1\nbudgets:\n  - {one}\n  - {one}\n");
    let found = compile(&[document(&text)]).expect_err("twice").to_string();
    assert!(found.contains("a second budget `a`"), "{found}");
    assert!(found.contains("line 3, already"), "{found}");
}

#[test]
fn a_call_is_charged_to_what_it_belongs_to() {
    let policy = budgets(
        "budgets:
  - {id: all, unit: tokens, limit: 5, window: day}
  - {id: coders, unit: calls, limit: 5, window: day, labels: {team: a}}
  - {id: big, unit: tokens, limit: 5, window: day, llm: {provider: [openai], model: [big-*]}}
  - {id: writes, unit: tool_calls, limit: 5, window: day, tool: {server: [files], name: [write_*]}}
  - {id: places, unit: destinations, limit: 5, window: day}
  - {id: time, unit: wall_time, limit: 5m, window: lifetime, mode: shadow}
",
    );
    let of = |name: &str, charged: Charged<'_>| -> Vec<&str> {
        let agent = agent(&policy, name);
        let budgets = policy.budgets().iter();
        let charged = budgets.filter(|it| it.is_charged(agent, charged));
        charged.map(|it| &*it.budget.id).collect()
    };
    let big = llm_call("openai", Some("Big-1"));
    let small = llm_call("openai", Some("small"));
    let unread = Llm {
        not_understood: Some("no JSON".to_owned()),
        ..llm_call("openai", None)
    };
    let fetched = Llm {
        operation: LlmOperation::Retrieval,
        ..llm_call("openai", None)
    };
    assert_eq!(
        of("coder", Charged::Llm(&big)),
        ["all", "coders", "big", "places", "time"]
    );
    assert_eq!(
        of("coder", Charged::Llm(&small)),
        ["all", "coders", "places", "time"]
    );
    assert_eq!(
        of("coder", Charged::Llm(&unread)),
        ["all", "coders", "big", "places", "time"]
    );
    assert_eq!(of("other", Charged::Llm(&fetched)), ["places", "time"]);
    assert_eq!(of("other", Charged::Other), ["places"]);
    let tool = |server: &str, name: Option<&str>, unread: Option<&str>| Tool {
        server: server.to_owned(),
        name: name.map(str::to_owned),
        not_understood: unread.map(str::to_owned),
        ..Tool::default()
    };
    for (tool, wanted) in [
        (tool("files", Some("write_text"), None), true),
        (tool("files", Some("read_text"), None), false),
        (tool("mail", Some("write_text"), None), false),
        (tool("files", None, Some("no JSON")), true),
        (tool("files", None, None), false),
    ] {
        let charged = of("coder", Charged::Tool(&tool));
        assert_eq!(charged.contains(&"writes"), wanted, "{tool:?}");
    }
    let enforced = |name: &str, id: &str| {
        let budget = policy.budget(id).expect("one");
        budget.is_enforced(agent(&policy, name))
    };
    assert!(enforced("coder", "all"));
    assert!(!enforced("other", "all"));
    assert!(!enforced("coder", "time"));
}

//! Groups of agents: whom a rule is for, and what is said where a group is wrong.

use agentguard_model::Transport;
use proptest::prelude::*;
use proptest::sample::subsequence;

use super::{document, host, policy};
use crate::{Circumstances, Facts, Policy, RulingOutcome, Seen, compile};

const HEAD: &str = r#"version: 1
variables: {team: web}
lists: {named: [deploy, review]}
agents:
  - {name: coder, labels: {team: web, tier: "1"}}
  - {name: tester, labels: {team: web}}
  - {name: deploy, labels: {team: ops}}
  - {name: review}
  - {name: other}
"#;

/// The agents that reach a host of their own, which one rule alone allows.
fn reached_by(policy: &Policy) -> Vec<&str> {
    let name = host("x.example");
    let facts = Facts {
        host: Some(&name),
        ip: None,
        port: 443,
        transport: Transport::Tcp,
        request: Seen::Never,
        circumstances: Circumstances::NOBODY,
    };
    policy
        .agents()
        .iter()
        .filter(|agent| policy.decide(agent, &facts).outcome != RulingOutcome::Deny)
        .map(|agent| agent.name.as_str())
        .collect()
}

#[test]
fn a_rule_is_for_its_agents_and_groups_as_far_as_they_have_its_labels() {
    for (groups, whom, agents) in [
        (
            "{name: g, labels: {team: \"${team}\"}}",
            "groups: [g]",
            &["coder", "tester"][..],
        ),
        (
            "{name: g, labels: {team: web, tier: 1}}",
            "groups: [g]",
            &["coder"],
        ),
        (
            "{name: g, agents: [\"@named\"], labels: {tier: 1}}",
            "groups: [g]",
            &["coder", "deploy", "review"],
        ),
        (
            "{name: g, agents: [\"@named\"]}",
            "agents: [other], groups: [g]",
            &["deploy", "review", "other"],
        ),
        (
            "{name: g, agents: [tester, deploy]}",
            "groups: [g], labels: {team: web}",
            &["tester"],
        ),
        (
            "{name: g, agents: [tester]}, {name: h, labels: {team: ops}}",
            "groups: [g, h]",
            &["tester", "deploy"],
        ),
        (
            "{name: g, agents: [\"*\"]}",
            "groups: [g], labels: {team: ops}",
            &["deploy"],
        ),
        (
            "{name: g, agents: [tester]}",
            "agents: [\"*\"], groups: [g]",
            &["coder", "tester", "deploy", "review", "other"],
        ),
    ] {
        let policy = policy(&format!(
            "{HEAD}groups: [{groups}]\nrules:\n  - {{id: r, {whom}, match: {{host: [x.example]}}, action: allow}}\n"
        ));
        assert_eq!(reached_by(&policy), agents, "{groups} {whom}");
    }
}

#[test]
fn a_denial_for_a_group_holds_for_it_alone() {
    let policy = policy(&format!(
        "{HEAD}groups: [{{name: g, labels: {{team: web}}}}]\nrules:\n  - {{id: a, match: {{host: [x.example]}}, action: allow}}\n  - {{id: d, groups: [g], match: {{host: [x.example]}}, action: deny}}\n"
    ));
    assert_eq!(reached_by(&policy), ["deploy", "review", "other"]);
}

#[test]
fn what_is_wrong_with_a_group_is_told_in_its_place() {
    let head = "version: 1\nagents: [{name: coder, labels: {team: web}}]\n";
    let rule = "match: {host: [x.example]}, action: deny}\n";
    for (text, expected) in [
        (
            format!("groups: [{{name: builders}}]\nrules:\n  - {{id: r, groups: [bilders], {rule}"),
            &[
                "p.yaml:3:10: error: the group `builders` does not say whom it has\n  hint: `agents`: names; `labels`: all agents that have these",
                "p.yaml:5:22: error: no group is called `bilders`\n  hint: did you mean `builders`?",
            ][..],
        ),
        (
            format!("rules:\n  - {{id: r, groups: [web], {rule}"),
            &[
                "p.yaml:4:22: error: no group is called `web`\n  hint: a group is declared under `groups` of the document",
            ],
        ),
        (
            "groups:\n  - {nam: d, agents: [codr]}\nrules: [{id: r, groups: [d], action: deny}]\n".to_owned(),
            &[
                "p.yaml:4:6: error: unknown key `nam`\n  hint: did you mean `name`?",
            ],
        ),
        (
            "groups:\n  - {name: A, agents: [coder]}\n  - {name: a, agents: [codr]}\n  - {name: a, labels: {}}\n  - {name: b, agents: []}\n  - {name: c, labels: {}}\n"
                .to_owned(),
            &[
                "p.yaml:4:12: error: `A` is not a group's name: 1 to 63 characters a-z 0-9 . _ -, the first a letter or digit\n  hint: like `coders` or `team-payments`",
                "p.yaml:5:24: error: no agent is called `codr`\n  hint: did you mean `coder`?",
                "p.yaml:6:12: error: a second group `a`\n  hint: it stands in p.yaml, line 5, already",
                "p.yaml:7:23: error: `agents` is empty, so it would match nothing\n  hint: leave `agents` out to match all",
                "p.yaml:8:23: error: `labels` is empty, so it would match nothing\n  hint: leave `labels` out to match all",
            ],
        ),
        (
            format!("groups: [{{name: a, labels: {{team: ops}}}}]\nrules:\n  - {{id: r, groups: [], {rule}"),
            &[
                "p.yaml:3:17: warning: the group `a` has no agent\n  hint: rules that are for this group alone are for nobody",
                "p.yaml:5:21: error: `groups` is empty, so it would match nothing\n  hint: leave `groups` out to match all",
            ],
        ),
    ] {
        let found = compile(&[document(&format!("{head}{text}"))]).unwrap_err();
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{text}");
    }
    let many: String = (0..=1000)
        .map(|n| format!("  - {{name: g{n}, agents: [coder]}}\n"))
        .collect();
    let found = compile(&[document(&format!("{head}groups:\n{many}"))]).unwrap_err();
    assert_eq!(
        found.to_string(),
        "p.yaml:1004:5: error: more than 1000 groups\n  hint: rules can also choose agents by their labels: `labels: {team: payments}`"
    );
}

#[test]
fn what_is_odd_about_a_group_is_warned_of() {
    let warnings = |text: &str| -> Vec<String> {
        let policy = policy(&format!("{HEAD}{text}"));
        let warnings = policy.warnings().iter().map(ToString::to_string);
        // The head's own names are for other tests.
        warnings
            .filter(|it| !it.contains("is never used"))
            .collect()
    };
    for (text, expected) in [
        (
            "groups:\n  - {name: a, labels: {team: sales}}\n  - {name: b, agents: [coder]}\nrules:\n  - {id: r, groups: [a], match: {host: [x.example]}, action: allow}\n",
            &[
                "p.yaml:11:12: warning: the group `a` has no agent\n  hint: rules that are for this group alone are for nobody",
                "p.yaml:12:12: warning: no rule, budget or limit is for the group `b`\n  hint: it can go, or stand under `groups` of a rule",
            ][..],
        ),
        // The same group, or an agent that it names, is covered; what has its labels only by chance is not.
        (
            "groups:\n  - {name: a, agents: [coder], labels: {team: ops}}\nrules:\n  - {id: r, groups: [a], match: {host: [x.example]}, action: allow}\n  - {id: s, groups: [a], match: {host: [x.example], port: [1]}, action: allow}\n  - {id: t, agents: [coder], match: {host: [x.example], port: [1]}, action: allow}\n  - {id: u, agents: [tester], match: {host: [x.example], port: [1]}, action: allow}\n",
            &[
                "p.yaml:14:5: warning: rule `s` adds nothing to rule `r` (line 13)\n  hint: take it out",
                "p.yaml:15:5: warning: rule `t` adds nothing to rule `r` (line 13)\n  hint: take it out",
            ],
        ),
    ] {
        assert_eq!(warnings(text), expected, "{text}");
    }
}

const AGENTS: [&str; 5] = ["coder", "tester", "deploy", "review", "other"];

/// The agents that have a label of [`HEAD`].
fn with_team(team: &str) -> &'static [&'static str] {
    match team {
        "web" => &["coder", "tester"],
        "ops" => &["deploy"],
        _ => &[],
    }
}

proptest! {
    /// A rule for agents and groups is one for the agents that these are.
    #[test]
    fn a_group_is_its_agents(
        rules in proptest::collection::vec(
            (
                subsequence(AGENTS.to_vec(), 0..3),
                subsequence(AGENTS.to_vec(), 1..4),
                proptest::option::of(prop_oneof![Just("web"), Just("ops"), Just("none")]),
                any::<bool>(),
                any::<bool>(),
            ),
            1..5,
        ),
    ) {
        let list = |agents: &[&str]| format!("[{}]", agents.join(", "));
        let (mut groups, mut named, mut written) = (String::new(), String::new(), String::new());
        for (n, (own, members, team, labelled, allow)) in rules.iter().enumerate() {
            let labels = team.map_or_else(String::new, |it| format!(", labels: {{team: {it}}}"));
            groups.push_str(&format!("  - {{name: g{n}, agents: {}{labels}}}\n", list(members)));
            let own_key = match own.as_slice() {
                [] => String::new(),
                own => format!("agents: {}, ", list(own)),
            };
            let mut all = own.clone();
            all.extend(members);
            all.extend(with_team(team.unwrap_or_default()));
            all.sort_unstable();
            all.dedup();
            // `labels` of the rule restrict both.
            let restricted = if *labelled { "labels: {team: web}, " } else { "" };
            let action = if *allow { "allow" } else { "deny" };
            let rest = format!("{restricted}match: {{host: [x.example]}}, action: {action}}}\n");
            named.push_str(&format!("  - {{id: r{n}, {own_key}groups: [g{n}], {rest}"));
            written.push_str(&format!("  - {{id: r{n}, agents: {}, {rest}", list(&all)));
        }
        let named = policy(&format!("{HEAD}groups:\n{groups}rules:\n{named}"));
        let written = policy(&format!("{HEAD}rules:\n{written}"));
        prop_assert_eq!(reached_by(&named), reached_by(&written));
    }
}

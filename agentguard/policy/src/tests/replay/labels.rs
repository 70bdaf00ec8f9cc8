//! Labels of runs, which are recorded as they held: over those that the policy of then gave the agent.

use std::collections::BTreeMap;

use agentguard_model::{Decision, Transport, Verdict};

use super::recorder::{Attempt, Recorder, Sent};
use super::{OPEN, told};
use crate::replay::{Replay, Replayed};
use crate::tests::{host, policy};
use crate::{Circumstances, Facts, Policy, Request, Seen};

fn text(labels: &str) -> String {
    format!(
        "version: 1\nagents: [{{name: coder, labels: {{{labels}}}}}]\nrules:\n  - {{id: base, match: {{host: ['*.example'], port: [80]}}, action: allow}}\n  - {{id: lbl, match: {{host: [h.example], transport: [tcp]}}, when: \"has(agent.labels.team) && agent.labels.team == 'ops'\", action: deny}}\n"
    )
}

/// A request of a run with this team, or none of its own.
fn decided(policy: &Policy, name: &str, team: Option<&str>) -> Decision {
    let labels = team.map(|team| ("team".to_owned(), team.to_owned()));
    let labels: BTreeMap<_, _> = labels.into_iter().collect();
    let name = host(name);
    let attempt = Attempt {
        facts: Facts {
            host: Some(&name),
            ip: None,
            port: 80,
            transport: Transport::Tcp,
            request: Seen::NotYet,
            circumstances: Circumstances {
                labels: &labels,
                ..Circumstances::NOBODY
            },
        },
        behind: None,
        sent: Sent::Clear(Request::new("GET", "/")),
    };
    Recorder { policy }.flow(&attempt)
}

/// The run's label stands over the candidate's, as it stood over that of the policy of then.
#[test]
fn a_run_takes_its_labels_to_the_same_policy_under_another_version() {
    let before = policy(&text("team: web"));
    let again = policy(&(text("team: web") + "# the same\n"));
    for (team, was) in [
        (Some("ops"), Verdict::Deny),
        (Some("web"), Verdict::Allow),
        (None, Verdict::Allow),
    ] {
        let decision = decided(&before, "h.example", team);
        assert_eq!(decision.verdict, was, "{team:?}");
        let replayed = Replay::new(&again, [], &OPEN)
            .beside(&before)
            .replay(&decision);
        let told = told(&replayed).unwrap();
        assert_eq!(
            (told.changed(), told.would_be.verdict),
            (false, was),
            "{team:?}"
        );
    }
}

#[test]
fn whose_a_label_was_is_known_where_the_policy_of_then_did_not_give_it() {
    use Verdict::{Allow, Deny};
    // Of the policy of then, of the run, of the candidate; what is told where the labels of the policy of then are known.
    let table = [
        ("team: web", Some("ops"), "team: web", Some(Deny)),
        ("team: web", Some("ops"), "", Some(Deny)),
        ("", Some("ops"), "team: web", Some(Deny)),
        ("team: web", None, "team: dev", Some(Allow)),
        // The run may have had the same itself.
        ("team: web", None, "team: ops", None),
        ("team: ops", None, "", None),
        ("team: ops", None, "team: ops", Some(Deny)),
        // Without one in the record the run had none.
        ("", None, "team: ops", Some(Deny)),
    ];
    for (then, run, candidate, would_be) in table {
        let before = policy(&text(then));
        let candidate = policy(&(text(candidate) + "# the candidate\n"));
        let decision = decided(&before, "h.example", run);
        let agents = before.agents().iter();
        let labels = agents.map(|it| (it.name.clone(), it.labels.clone()));
        let replay = || Replay::new(&candidate, [], &OPEN);
        let unsure =
            Replayed::CannotTell("not recorded: whether label `team` was the run's own".to_owned());
        for replay in [
            replay().labelled(before.version(), labels),
            replay().beside(&before),
        ] {
            let replayed = replay.replay(&decision);
            let verdict = told(&replayed).map(|told| told.would_be.verdict);
            assert_eq!(verdict, would_be, "{then} {run:?} {candidate:?}");
            assert!(would_be.is_some() || replayed == unsure, "{replayed:?}");
        }
        // Where nothing looks at it, it does not matter.
        let elsewhere = replay().replay(&decided(&before, "a.example", run));
        assert_eq!(told(&elsewhere).unwrap().would_be.verdict, Allow);
        // Labels of another version say nothing.
        let replayed = replay().labelled("another", []).replay(&decision);
        assert!(
            told(&replayed).is_none_or(|told| Some(told.would_be.verdict) == would_be),
            "{replayed:?}"
        );
    }
    let (before, candidate) = (policy(&text("team: web")), policy(&text("team: dev")));
    let decision = decided(&before, "h.example", Some("ops"));
    let replayed = Replay::new(&candidate, [], &OPEN).replay(&decision);
    assert!(told(&replayed).is_none(), "{replayed:?}");
}

/// Many labels of which it is not known whose they were are not tried in all ways.
#[test]
fn too_many_labels_cannot_be_told() {
    let rules = |expression: &str| {
        format!(
            "version: 1\nagents: [{{name: coder}}]\nrules:\n  - {{id: base, match: {{host: [h.example], port: [80]}}, action: allow}}\n  - {{id: lbl, match: {{host: [h.example], transport: [tcp]}}, when: \"{expression}\", action: deny}}\n"
        )
    };
    let names = ["a", "b", "c", "d", "e"];
    for (count, expected) in [(4, true), (5, false)] {
        let has = names[..count].iter();
        let has: Vec<_> = has.map(|it| format!("has(agent.labels.{it})")).collect();
        let before = policy(&rules("agent.name == 'coder'"));
        let candidate = policy(&rules(&format!(
            "{} || agent.name == 'coder'",
            has.join(" || ")
        )));
        let mut decision = decided(&before, "h.example", None);
        let labels = names.map(|name| (name.to_owned(), "x".to_owned()));
        decision.agent.as_mut().unwrap().labels = labels.into();
        let replayed = Replay::new(&candidate, [], &OPEN).replay(&decision);
        assert_eq!(told(&replayed).is_some(), expected, "{replayed:?}");
    }
}

//! What would be changed, against what was.

use agentguard_model::{Decision, HostName, Layer, Mode, Reason, ReasonCode, Transport, Verdict};

use super::recorder::{Attempt, Recorder, Sent};
use super::{OPEN, allowed, asks, told};
use crate::replay::{Replay, Replayed, Summary};
use crate::report::Report;
use crate::tests::{host, llm_call, policy};
use crate::{Circumstances, Facts, Policy, Request, Seen};

/// A request in the clear.
fn requested<'a>(name: &'a HostName, request: Request<'a>) -> Attempt<'a> {
    Attempt {
        facts: Facts {
            host: Some(name),
            ip: None,
            port: 80,
            transport: Transport::Tcp,
            request: Seen::NotYet,
            circumstances: Circumstances::NOBODY,
        },
        behind: None,
        sent: Sent::Clear(request),
    }
}

/// Whether it is changed, and whether that is done, is what simulation is about.
#[test]
fn changes_that_come_into_force_or_go_on_paper_are_a_change() {
    let text = |agent: &str, rule: &str| {
        format!(
            "version: 1\nagents: [{{name: coder, mode: {agent}}}]\nrules:\n  - {{id: al, match: {{host: [open.example], port: [80]}}, action: allow, handling: inspect}}\n  - {{id: mo, match: {{host: [open.example], port: [80]}}, action: modify, modify: {{headers: {{drop: [cookie]}}}}, mode: {rule}}}\n"
        )
    };
    let ways = [
        ("enforce", "enforce"),
        ("enforce", "shadow"),
        ("shadow", "enforce"),
        ("observe", "shadow"),
    ];
    let name = host("open.example");
    for was in ways {
        let before = policy(&text(was.0, was.1));
        let attempt = requested(&name, Request::new("GET", "/"));
        let decision = Recorder { policy: &before }.flow(&attempt);
        assert_eq!(decision.verdict, Verdict::Modify);
        for would_be in ways {
            let candidate = policy(&(text(would_be.0, would_be.1) + "# another version\n"));
            let replayed = Replay::new(&candidate, [], &OPEN).replay(&decision);
            let told = told(&replayed).unwrap();
            let made = |way: (&str, &str)| way == ("enforce", "enforce");
            let changed = made(was) != made(would_be);
            assert_eq!(told.changed(), changed, "{was:?} {would_be:?}");
            let mut summary = Summary::default();
            summary.add(&decision, replayed.clone());
            let totals = summary.totals;
            assert_eq!(
                (totals.said_otherwise, totals.done_otherwise),
                (0, u64::from(changed)),
                "{was:?} {would_be:?}"
            );
        }
    }
}

/// Rules of one agent that change something, in their order.
fn changing(rules: &[&str]) -> String {
    let rule = |(n, modify): (usize, &&str)| {
        let of_call = if modify.contains("json_patch") {
            ", llm: {}"
        } else {
            ""
        };
        format!(
            "  - {{id: r{n}, match: {{host: [open.example], port: [80]{of_call}}}, action: modify, modify: {modify}}}\n"
        )
    };
    let rules: String = rules.iter().enumerate().map(rule).collect();
    format!(
        "version: 1\nproviders: [{{name: ours, api: openai, hosts: [open.example]}}]\nagents: [{{name: coder}}]\nrules:\n{rules}"
    )
}

/// A call of a language model under a policy.
fn recorded(before: &Policy) -> Decision {
    let (name, llm) = (host("open.example"), llm_call("ours", Some("m")));
    let request = Request {
        llm: Some(&llm),
        ..Request::new("POST", "/v1/chat/completions")
    };
    Recorder { policy: before }.flow(&requested(&name, request))
}

/// Whether it is said to change; none where that cannot be told.
fn changed(replayed: &Replayed) -> Option<bool> {
    match replayed {
        Replayed::Told(told) => Some(told.changed()),
        Replayed::CannotTell(why) => {
            assert!(why.contains("values"), "{why}");
            None
        }
        Replayed::NotThePolicys => panic!(),
    }
}

/// All that is changed counts, in its order and with values; these are known where the policy of that time is.
#[test]
fn all_that_would_be_changed_is_compared() {
    let many = |last: &str| {
        let names: Vec<_> = (1..31).map(|n| format!("x-{n}")).collect();
        format!("{{headers: {{drop: [{}, {last}]}}}}", names.join(", "))
    };
    let (many, others) = (many("cookie"), many("referer"));
    let set = |value: &str| format!("{{headers: {{set: {{x-a: \"{value}\"}}}}}}");
    let (one, two) = (set("1"), set("2"));
    let patch =
        |value: &str| format!("{{json_patch: [{{op: replace, path: /n, value: {value}}}]}}");
    let (patch_one, patch_two) = (patch("1"), patch("2"));
    let drops = [
        "{headers: {drop: [cookie]}}",
        "{headers: {drop: [referer]}}",
    ];
    let no = Some(false);
    let yes = Some(true);
    for (was, would_be, by_record, with_policy) in [
        (&[&*many][..], &[&*many][..], no, no),
        (&[&many], &[&others], yes, yes),
        (&[&one], &[&one], None, no),
        (&[&one], &[&two], None, yes),
        (&[&one, &two], &[&two, &one], None, yes),
        (&[&patch_one], &[&patch_one], None, no),
        (&[&patch_one], &[&patch_two], None, yes),
        (&[&one, &patch_one], &[&patch_one, &one], None, no),
        // Which rule does it does not matter.
        (&drops, &["{headers: {drop: [cookie, referer]}}"], no, no),
        (&drops, &["{headers: {drop: [referer, cookie]}}"], yes, yes),
    ] {
        let (text, candidate) = (changing(was), changing(would_be));
        let (before, candidate) = (policy(&text), policy(&(candidate + "# another version\n")));
        let decision = recorded(&before);
        assert_eq!(decision.verdict, Verdict::Modify);
        let replay = Replay::new(&candidate, [], &OPEN);
        let replayed = replay.replay(&decision);
        assert_eq!(changed(&replayed), by_record, "{was:?} {would_be:?}");
        let replayed = replay.beside(&before).replay(&decision);
        assert_eq!(changed(&replayed), with_policy, "{was:?} {would_be:?}");
        let done_otherwise = told(&replayed).map(|told| told.done_otherwise());
        assert_eq!(done_otherwise, with_policy, "{was:?} {would_be:?}");
        let same = Replay::new(&before, [], &OPEN).replay(&decision);
        assert_eq!(changed(&same), no, "{was:?}");
    }
}

/// A digest of few possible values would give them away.
#[test]
fn what_is_recorded_of_changes_says_nothing_about_values() {
    let digest = |value: &str| {
        let text = changing(&[&format!("{{headers: {{set: {{x-pin: \"{value}\"}}}}}}")]);
        recorded(&policy(&text)).changes.unwrap()
    };
    assert_eq!(digest("1234"), digest("4321"));
    assert!(digest("1234").made.unwrap().starts_with("sha256:"));
    assert_eq!(digest("1234").on_paper, None);
}

/// What an agent that is only observed would have changed is compared, too, and a denial on paper takes no change back.
#[test]
fn changes_on_paper_and_beside_a_denial_on_paper_are_compared() {
    let text = |agent: &str, drop: &str, more: &str| {
        format!(
            "version: 1\nagents: [{{name: coder, mode: {agent}}}]\nrules:\n  - {{id: m, match: {{host: [open.example], port: [80]}}, action: modify, modify: {{headers: {{drop: [{drop}]}}}}}}\n{more}"
        )
    };
    let soon = "  - {id: soon, match: {host: [open.example]}, action: deny, mode: shadow}\n";
    let name = host("open.example");
    for (agent, more, verdict, done_otherwise) in [
        ("shadow", "", Verdict::Modify, false),
        ("enforce", soon, Verdict::Deny, true),
    ] {
        let before = policy(&text(agent, "cookie", more));
        let attempt = requested(&name, Request::new("GET", "/"));
        let decision = Recorder { policy: &before }.flow(&attempt);
        assert_eq!((decision.verdict, decision.enforced), (verdict, false));
        for (drop, changed) in [("cookie", false), ("referer", true)] {
            let candidate = policy(&(text(agent, drop, more) + "# another version\n"));
            let replayed = Replay::new(&candidate, [], &OPEN).replay(&decision);
            let told = told(&replayed).unwrap();
            assert_eq!(told.changed(), changed, "{agent} {drop}");
            assert_eq!(
                told.done_otherwise(),
                changed && done_otherwise,
                "{agent} {drop}"
            );
        }
    }
}

/// Earlier versions of the guard recorded a sentence alone, which has no values.
#[test]
fn of_a_sentence_alone_it_is_told_what_differs() {
    let old = |changes: &str| Decision {
        verdict: Verdict::Modify,
        reason: Reason::new(
            ReasonCode::RuleModify,
            format!("Rule old allows coder to GET open.example:80/, {changes}."),
        ),
        ..allowed(Layer::Proxy, asks("GET", "open.example"))
    };
    let candidate = policy(&changing(&["{headers: {drop: [cookie]}}"]));
    let replay = Replay::new(&candidate, [], &OPEN);
    let same = replay.replay(&old("without `cookie`"));
    assert!(
        matches!(&same, Replayed::CannotTell(why) if why.contains("sentence")),
        "{same:?}"
    );
    let other = replay.replay(&old("without `cookie`, with another `x-a`"));
    assert_eq!(told(&other).map(|told| told.changed()), Some(true));
}

/// Beside what is changed it is told what a rule on paper would change.
#[test]
fn a_change_on_paper_is_not_lost_beside_one_that_is_made() {
    let text = |agent: &str, rules: &str| {
        let head = "version: 1\nproviders: [{name: ours, api: openai, hosts: [open.example]}]\n";
        let matches = "match: {host: [open.example], port: [80], llm: {}}";
        let rules = rules.replace("MATCH", matches);
        format!(
            "{head}agents: [{{name: coder, mode: {agent}}}]\nrules:\n  - {{id: al, {matches}, action: allow, handling: inspect}}\n{rules}"
        )
    };
    let made = "  - {id: mo, MATCH, action: modify, modify: {redact: [/user]}}\n";
    let soon = "  - {id: mp, MATCH, action: modify, modify: {clamp: {/n: 3}}, mode: shadow}\n";
    let few = soon.replace("mode: shadow", "rollout: {percent: 0}");
    let shadow = Some(Mode::Shadow);
    for (agent, rules, told, matched, digests) in [
        (
            "enforce",
            format!("{made}{soon}"),
            "with `/user` redacted; on paper also with `/n` at most 3.",
            &[("mo", None), ("mp", shadow), ("al", None)][..],
            [true, true],
        ),
        (
            "enforce",
            format!("{few}{made}"),
            "with `/user` redacted; on paper also with `/n` at most 3.",
            &[("mo", None), ("mp", shadow), ("al", None)],
            [true, true],
        ),
        (
            "enforce",
            soon.to_owned(),
            "with `/n` at most 3.",
            &[("mp", shadow), ("al", None)],
            [false, true],
        ),
        (
            "shadow",
            format!("{made}{soon}"),
            "with `/user` redacted; on paper also with `/n` at most 3.",
            &[("mo", None), ("mp", shadow), ("al", None)],
            [false, true],
        ),
    ] {
        let decision = recorded(&policy(&text(agent, &rules)));
        assert_eq!(decision.verdict, Verdict::Modify);
        assert_eq!(decision.enforced, digests[0], "{rules}");
        let sentence = &decision.reason.message;
        assert!(sentence.ends_with(told), "{sentence}");
        let rules_of = decision.matched.iter();
        let rules_of: Vec<_> = rules_of.map(|it| (it.rule.as_str(), it.on_paper)).collect();
        assert_eq!(rules_of, matched, "{rules}");
        let changes = decision.changes.as_ref().unwrap();
        assert_eq!(
            [changes.made.is_some(), changes.on_paper.is_some()],
            digests
        );
        let mut report = Report::default();
        report.add(&decision, None);
        let [would_be] = report.would_be_modified.as_slice() else {
            panic!("{report:?}");
        };
        let rule = would_be.by.rule.as_ref().map(|rule| rule.rule.as_str());
        let expected = if agent == "shadow" { "mo" } else { "mp" };
        assert_eq!(rule, Some(expected), "{rules}");
        if digests[0] {
            assert_eq!((would_be.mode, would_be.count), (Mode::Shadow, 1));
        }
        // What a candidate would change on paper no more is a change.
        let candidate = policy(&(text(agent, made) + "# another version\n"));
        let replayed = Replay::new(&candidate, [], &OPEN).replay(&decision);
        assert_eq!(changed(&replayed), Some(true), "{rules}");
    }
    let alone = recorded(&policy(&text("enforce", made)));
    let mut report = Report::default();
    report.add(&alone, None);
    assert!(report.would_be_modified.is_empty(), "{report:?}");
}

#[test]
fn matched_rules_on_paper_are_told_apart() {
    let rule = |id: &str, rest: &str| {
        format!(
            "  - {{id: {id}, match: {{host: [open.example], port: [80], transport: [tcp]}}, {rest}}}\n"
        )
    };
    let decision = recorded(&policy(&format!(
        "version: 1\nagents: [{{name: coder}}]\nrules:\n{}{}{}",
        rule("al", "action: allow"),
        rule("some-day", "action: allow, mode: observe"),
        rule("soon", "action: deny, rollout: {percent: 0}"),
    )));
    let matched: Vec<_> = decision
        .matched
        .iter()
        .map(|it| (it.rule.as_str(), it.on_paper))
        .collect();
    assert_eq!(
        matched,
        [
            ("soon", Some(Mode::Shadow)),
            ("al", None),
            ("some-day", Some(Mode::Observe))
        ]
    );
    let json = serde_json::to_value(&decision.matched).unwrap();
    assert_eq!(json[0]["on_paper"], "shadow");
    assert_eq!(json[1].get("on_paper"), None);
}

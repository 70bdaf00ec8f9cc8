//! Rules that allow with changes.

use agentguard_model::{Handling, ReasonCode, Transport, Verdict};
use http::HeaderMap;

use super::{agent, host, policy};
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

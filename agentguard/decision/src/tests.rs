mod behind;
mod bytes;
mod charged;
mod counted;
mod kernel;
mod limits;
mod local;
mod pins;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use agentguard_model::contents::Contents;
use agentguard_model::{
    ActionKind, AgentId, AgentName, Context, Decision, DecisionId, Handling, Labels, Layer, Mode,
    Outcome, Process, Reason, ReasonCode, Verdict,
};
use agentguard_policy::{Document, Switches, compile};
use http::{HeaderMap, HeaderValue};

use crate::{
    Asked, Client, Decider, Directory, Foreseen, Policies, RecordRefused, Recorder, Spoken, Target,
};

const POLICY: &str = r#"
version: 1
agents:
  - { name: coder, labels: { tenant: acme, team: web } }
  - { name: watched, mode: observe }
rules:
  - { id: api, match: { host: [api.example.com], port: [443] }, action: allow }
  - { id: read, match: { host: [api.example.com], port: [80], method: [GET] }, action: allow }
  - { id: never, match: { host: [bad.example.com] }, action: deny, reason: Not this one. }
  - { id: seen, match: { host: [seen.example.com], port: [443] }, action: allow, handling: inspect }
  - { id: net, match: { cidr: [192.0.2.0/24], port: [22] }, action: allow, handling: direct }
  - { id: soon, match: { cidr: [192.0.2.0/24], port: [2222] }, action: allow, mode: shadow }
  - { id: bad-net, match: { cidr: [198.51.100.0/24] }, action: deny, mode: shadow }
  - { id: small, match: { host: [sized.example.com] }, action: allow }
  - { id: maybe, match: { host: [sized.example.com], body_over: 10 }, action: deny, mode: shadow }
  - { id: large, match: { host: [sized.example.com], query: { a: [b] }, header: { x-a: ["*"] }, body_over: 20 }, action: deny }
"#;

/// A record in memory that can be full.
#[derive(Default)]
struct Memory {
    decisions: Mutex<Vec<Decision>>,
    outcomes: Mutex<Vec<(DecisionId, Outcome)>>,
    full: AtomicBool,
}

impl Recorder for Memory {
    async fn write(&self, decision: Box<Decision>) -> Result<DecisionId, RecordRefused> {
        if self.full.load(Ordering::Relaxed) {
            return Err(RecordRefused {
                reason: Reason::new(ReasonCode::RecordFailed, "the disk is full"),
            });
        }
        let id = decision.id;
        self.decisions.lock().unwrap().push(*decision);
        Ok(id)
    }

    fn outcome(&self, id: DecisionId, outcome: Outcome) {
        self.outcomes.lock().unwrap().push((id, outcome));
    }

    fn contents(&self, _: DecisionId, _: &AgentName, _: Contents) {}
}

fn decider() -> Decider<Memory> {
    deciding(POLICY)
}

fn deciding(policy: &str) -> Decider<Memory> {
    let document = Document {
        path: "policy.yaml".to_owned(),
        text: policy.to_owned(),
    };
    let policy = compile(&[document]).unwrap();
    let directory = Directory::default();
    directory.agent(AgentId(1), "coder".parse().unwrap());
    directory.agent(AgentId(2), "watched".parse().unwrap());
    directory.agent(AgentId(3), "gone".parse().unwrap());
    Decider::new(
        Arc::new(Policies::new(4, policy)),
        Arc::new(directory),
        Arc::new(Memory::default()),
    )
}

fn client(agent: u32) -> Client {
    Client {
        agent: AgentId(agent),
        run: 0,
        process: Process {
            pid: 7,
            uid: 1000,
            comm: "curl".to_owned(),
            exe: Some("/usr/bin/curl".to_owned()),
        },
    }
}

fn target(host: &str, port: u16) -> Target {
    Target {
        host: Some(host.parse().unwrap()),
        ip: None,
        port,
    }
}

fn asked(method: &str, path: &str) -> Asked {
    Asked::new(method, path, None, HeaderMap::new(), None)
}

fn last(decider: &Decider<Memory>) -> Decision {
    decider
        .recorder()
        .decisions
        .lock()
        .unwrap()
        .last()
        .unwrap()
        .clone()
}

#[tokio::test]
async fn an_allowed_connection_says_by_which_rule() {
    let decider = decider();
    let target = target("api.example.com", 443);
    assert_eq!(
        decider.foresee(&client(1), &target),
        Foreseen::Allow(Handling::Splice)
    );
    let decided = decider.connection(&client(1), &target, &[], false).await;
    assert!(decided.allowed);
    let decision = last(&decider);
    assert_eq!(Some(decision.id), decided.id);
    assert_eq!(decision.verdict, Verdict::Allow);
    assert_eq!(decision.layer, Layer::Proxy);
    assert_eq!(decision.matched.first().unwrap().rule, "api");
    assert_eq!(decision.matched.first().unwrap().source.line, 7);
    assert_eq!(
        decision.agent.unwrap().labels.get("tenant").unwrap(),
        "acme"
    );
}

#[tokio::test]
async fn a_request_is_decided_by_what_it_is() {
    let decider = decider();
    let target = target("api.example.com", 80);
    assert_eq!(decider.foresee(&client(1), &target), Foreseen::NeedsRequest);
    assert!(
        decider
            .request(&client(1), &target, &[], &asked("GET", "/a"))
            .await
            .allowed
    );
    assert!(
        !decider
            .request(&client(1), &target, &[], &asked("POST", "/a"))
            .await
            .allowed
    );
    let decision = last(&decider);
    assert_eq!(decision.action.kind, ActionKind::HttpRequest);
    assert_eq!(decision.action.method.as_deref(), Some("POST"));
    // What cannot be looked into is not allowed by a rule that has to look.
    let opaque = decider.connection(&client(1), &target, &[], false).await;
    assert!(!opaque.allowed);
    assert_eq!(opaque.reason.code, ReasonCode::NeedsInspection);
}

#[tokio::test]
async fn the_trace_that_a_request_names_is_recorded_where_it_is_one() {
    let decider = decider();
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (values, expected) in [
        (vec![good], Some(good)),
        (vec![], None),
        (vec![good, good], None),
        (vec!["00-mine"], None),
    ] {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append("traceparent", HeaderValue::from_static(value));
        }
        let asked = Asked::new("GET", "/", None, fields, None);
        let target = target("api.example.com", 80);
        let decided = decider.request(&client(1), &target, &[], &asked).await;
        assert!(decided.allowed);
        let decision = last(&decider);
        let named = decision.trace_parent.map(|it| it.to_string());
        assert_eq!(named.as_deref(), expected);
        // It is the run's to say, unless the policy trusts the request.
        assert_eq!(decision.context.trace_id, None);
        let trusting = Decider::new(
            Arc::new(Policies::new(5, trusting())),
            Arc::clone(decider.directory()),
            Arc::new(Memory::default()),
        );
        trusting.request(&client(1), &target, &[], &asked).await;
        let trace = last(&trusting).context.trace_id;
        let expected = expected.and_then(|it| it.split('-').nth(1));
        assert_eq!(trace.as_deref(), expected);
    }
}

/// The same policy, where requests say to which trace they belong.
fn trusting() -> agentguard_policy::Policy {
    let text = POLICY.replacen("name: coder", "name: coder, trusts: [traceparent]", 1);
    assert_ne!(text, POLICY);
    let path = "policy.yaml".to_owned();
    compile(&[Document { path, text }]).unwrap()
}

#[tokio::test]
async fn what_is_inspected_is_allowed_by_request_and_not_unseen() {
    let decider = decider();
    let target = target("seen.example.com", 443);
    assert_eq!(
        decider.foresee(&client(1), &target),
        Foreseen::Allow(Handling::Inspect)
    );
    let request = decider
        .request(&client(1), &target, &[], &asked("GET", "/a"))
        .await;
    assert!(request.allowed);
    assert_eq!(request.handling, Handling::Inspect);
    let opaque = decider.connection(&client(1), &target, &[], false).await;
    assert!(!opaque.allowed);
    assert_eq!(opaque.reason.code, ReasonCode::NeedsInspection);
    assert!(last(&decider).enforced);
    let watched = decider.connection(&client(2), &target, &[], false).await;
    assert!(watched.allowed);
    assert_eq!(watched.handling, Handling::Splice);
    let decision = last(&decider);
    assert_eq!(decision.verdict, Verdict::Deny);
    assert!(!decision.enforced);
    assert_eq!(decision.matched.first().unwrap().rule, "seen");
}

#[test]
fn tls_is_terminated_where_the_policy_says_so() {
    let decider = decider();
    for (agent, host, port, expected) in [
        (1, "seen.example.com", 443, true),
        (2, "seen.example.com", 443, true),
        (1, "seen.example.com", 80, false),
        (1, "api.example.com", 443, false),
        // Agents that the policy does not know, or nobody.
        (3, "seen.example.com", 443, false),
        (99, "seen.example.com", 443, false),
    ] {
        let inspects = decider.inspects(&client(agent), &target(host, port));
        assert_eq!(inspects, expected, "{agent} {host}:{port}");
    }
}

#[tokio::test]
async fn what_cannot_be_recorded_is_denied() {
    let decider = decider();
    decider.recorder().full.store(true, Ordering::Relaxed);
    let decided = decider
        .connection(&client(1), &target("api.example.com", 443), &[], false)
        .await;
    assert!(!decided.allowed);
    assert_eq!(decided.id, None);
    assert_eq!(decided.reason.code, ReasonCode::RecordFailed);
}

#[tokio::test]
async fn observing_passes_on_what_it_denies_on_paper() {
    let decider = decider();
    let decided = decider
        .connection(&client(2), &target("bad.example.com", 443), &[], false)
        .await;
    assert!(decided.allowed);
    let decision = last(&decider);
    assert_eq!(decision.verdict, Verdict::Deny);
    assert!(!decision.enforced);
    assert_eq!(decision.mode, Mode::Observe);
    assert_eq!(decision.reason.message, "Not this one.");
}

#[tokio::test]
async fn an_agent_without_a_policy_gets_nothing() {
    let decider = decider();
    for unknown in [3, 99] {
        let decided = decider
            .connection(
                &client(unknown),
                &target("api.example.com", 443),
                &[],
                false,
            )
            .await;
        assert!(!decided.allowed);
        assert_eq!(decided.reason.code, ReasonCode::NoAgent);
        let name = "api.example.com".parse().unwrap();
        assert!(!decider.name(AgentId(unknown), &name).allowed);
    }
}

#[tokio::test]
async fn a_run_has_its_context_and_its_labels_over_the_agents() {
    let decider = decider();
    let labels = Labels::from([("team".to_owned(), "night".to_owned())]);
    let context = Context {
        workflow: Some("release".to_owned()),
        ..Context::default()
    };
    decider.directory().run(5, context, labels);
    let runs = Client {
        run: 5,
        ..client(1)
    };
    decider
        .connection(&runs, &target("api.example.com", 443), &[], false)
        .await;
    let decision = last(&decider);
    assert_eq!(decision.context.workflow.as_deref(), Some("release"));
    let agent = decision.agent.unwrap();
    assert_eq!(agent.labels.get("team").unwrap(), "night");
    assert_eq!(agent.labels.get("tenant").unwrap(), "acme");
    // What is told of its last flows may be read when it is over, and not for ever.
    decider.directory().run_ended(5);
    decider
        .connection(&runs, &target("api.example.com", 443), &[], false)
        .await;
    assert_eq!(last(&decider).context.workflow.as_deref(), Some("release"));
    for number in 6..1030 {
        decider
            .directory()
            .run(number, Context::default(), Labels::new());
        decider.directory().run_ended(number);
    }
    decider
        .connection(&runs, &target("api.example.com", 443), &[], false)
        .await;
    assert_eq!(last(&decider).context, Context::default());
}

#[tokio::test]
async fn ids_are_in_order_also_within_a_millisecond() {
    let decider = decider();
    for _ in 0..1000 {
        decider
            .connection(&client(1), &target("api.example.com", 443), &[], false)
            .await;
    }
    let decisions = decider.recorder().decisions.lock().unwrap();
    assert!(decisions.windows(2).all(|pair| pair[0].id < pair[1].id));
}

#[tokio::test]
async fn an_observed_agent_goes_on_with_names_that_disagree() {
    let decider = decider();
    let target = target("api.example.com", 443);
    for (agent, goes_on) in [(1, false), (2, true)] {
        let why = Reason::new(ReasonCode::NameMismatch, "two names");
        let decided = decider
            .refuse(&client(agent), &target, ActionKind::Connect, why)
            .await;
        assert_eq!(decided.allowed, goes_on);
        assert_eq!(last(&decider).enforced, !goes_on);
        let why = Reason::new(ReasonCode::ClientTimeout, "late");
        let decided = decider
            .refuse(&client(agent), &target, ActionKind::Connect, why)
            .await;
        assert!(!decided.allowed);
    }
}

#[tokio::test]
async fn a_changed_policy_ends_what_it_denies_now_and_nothing_else() {
    let decider = decider();
    let api = target("api.example.com", 443);
    let changes = decider.changes();
    let without_api = |generation| {
        let text = POLICY.replace("host: [api.example.com], port: [443]", "host: [x.example]");
        let path = "policy.yaml".to_owned();
        let policy = compile(&[Document { path, text }]).unwrap();
        decider.policies().put(generation, policy);
    };
    // A policy that is put in force before the wait begins counts too.
    without_api(5);
    let (coder, watched) = (client(1), client(2));
    let observed = decider.revoked(
        changes.clone(),
        &watched,
        || vec![api.clone()],
        || None,
        Spoken::Other,
        || true,
    );
    let ruled = std::cell::Cell::new(false);
    let enforced = decider.revoked(
        changes.clone(),
        &coder,
        || vec![api.clone()],
        || None,
        Spoken::Other,
        || !ruled.replace(true),
    );
    let denied = tokio::select! {
        biased;
        _ = observed => panic!("an agent that is only observed goes on"),
        denied = enforced => denied,
    };
    assert!(!denied.allowed && ruled.get());
    let decision = last(&decider);
    assert_eq!(Some(decision.id), denied.id);
    assert_eq!((decision.verdict, decision.enforced), (Verdict::Deny, true));
    assert_eq!(decision.action.kind, ActionKind::Connect);
    assert_eq!(decider.recorder().decisions.lock().unwrap().len(), 1);

    // Only a change is a reason to look again.
    let changes = decider.changes();
    tokio::select! {
        biased;
        _ = decider.revoked(changes, &coder, || vec![api.clone()], || None, Spoken::Other, || true) => panic!("nothing changed"),
        () = tokio::task::yield_now() => {}
    }
}

#[tokio::test]
async fn a_request_that_grows_is_asked_again_at_each_size_that_matters() {
    let decider = decider();
    let (client, target) = (client(1), target("sized.example.com", 80));
    let fields = HeaderMap::from_iter([
        ("x-a".parse().unwrap(), HeaderValue::from_static("1")),
        (
            "authorization".parse().unwrap(),
            HeaderValue::from_static("s3cret"),
        ),
    ]);
    let asked = Asked::new("POST", "/", Some("a=b&token=s3cret"), fields, None);
    assert!(decider.request(&client, &target, &[], &asked).await.allowed);
    assert_eq!(decider.body_limit(&client, &target, &[], &asked), Some(10));
    asked.grew(10);
    assert!(
        decider
            .grown(&client, &target, &[], &asked, None)
            .await
            .is_none()
    );
    // A denial on paper is recorded, and it goes on.
    asked.grew(11);
    assert!(
        decider
            .grown(&client, &target, &[], &asked, None)
            .await
            .unwrap()
            .allowed
    );
    assert!(!last(&decider).enforced);
    assert_eq!(decider.body_limit(&client, &target, &[], &asked), Some(20));
    asked.grew(21);
    assert!(
        !decider
            .grown(&client, &target, &[], &asked, None)
            .await
            .unwrap()
            .allowed
    );
    let decision = last(&decider);
    assert!(decision.enforced);
    assert_eq!(decision.matched.first().unwrap().rule, "large");
    assert_eq!(decision.action.body, Some(21));
    assert_eq!(decision.action.query.as_deref(), Some("a=b&token=…"));
    assert_eq!(decision.action.headers.len(), 1);
    assert_eq!(decider.body_limit(&client, &target, &[], &asked), None);
    // What cannot be measured may be of any size.
    let why = Some("it is packed");
    let unknown = decider
        .grown(&client, &target, &[], &asked, why)
        .await
        .unwrap();
    assert!(!unknown.allowed);
    assert_eq!(unknown.reason.code, ReasonCode::NeedsInspection);
    assert_eq!(last(&decider).action.body, Some(21));
}

#[tokio::test]
async fn a_request_that_says_that_it_is_too_large_is_denied_at_once() {
    let decider = decider();
    let (client, target) = (client(1), target("sized.example.com", 80));
    let fields = HeaderMap::from_iter([("x-a".parse().unwrap(), HeaderValue::from_static("1"))]);
    let asked = Asked::new("POST", "/", Some("a=b"), fields, Some(21));
    assert!(!decider.request(&client, &target, &[], &asked).await.allowed);
    assert_eq!(last(&decider).action.body, Some(21));
}

#[tokio::test]
async fn a_quarantined_agent_is_denied_everything_at_once_and_the_others_are_not() {
    let decider = decider();
    let (mine, others) = (client(1), client(2));
    let api = target("api.example.com", 443);
    let changes = decider.changes();
    let cut = decider.directory().cut_of(mine.agent).now;
    let other = decider.directory().cut_of(others.agent).now;
    let going = decider.revoked(
        changes,
        &mine,
        || vec![api.clone()],
        || None,
        Spoken::Other,
        || true,
    );
    decider.quarantine(mine.agent, true);
    let denied = going.await;
    assert_eq!(denied.reason.code, ReasonCode::Quarantined);
    assert_eq!(
        denied.reason.message,
        "The agent is quarantined. (this was under way)"
    );
    assert!(cut.is_cancelled() && !other.is_cancelled());
    assert!(decider.directory().cut_of(mine.agent).now.is_cancelled());
    assert_eq!(decider.foresee(&mine, &api), Foreseen::Deny);
    assert!(!decider.connection(&mine, &api, &[], false).await.allowed);
    let name = decider.name(mine.agent, &"api.example.com".parse().unwrap());
    assert_eq!(name.reason.code, ReasonCode::Quarantined);
    // Also one that is only observed.
    decider.quarantine(others.agent, true);
    assert!(!decider.connection(&others, &api, &[], false).await.allowed);

    decider.quarantine(mine.agent, false);
    assert!(decider.connection(&mine, &api, &[], false).await.allowed);
    assert!(!decider.directory().cut_of(mine.agent).now.is_cancelled());
}

#[tokio::test]
async fn what_an_operator_did_is_recorded_with_who_and_why() {
    let decider = decider();
    let change = crate::Change {
        done: "quarantine".to_owned(),
        message: "coder was quarantined by uid 0: ticket 42".to_owned(),
        uid: 0,
        agent: Some("coder".parse().unwrap()),
    };
    decider.changed(change).await.unwrap();
    let decision = decider.recorder().decisions.lock().unwrap()[0].clone();
    assert_eq!(decision.action.kind, ActionKind::Administration);
    assert_eq!(decision.action.method.as_deref(), Some("quarantine"));
    assert_eq!(
        (decision.layer, decision.verdict),
        (Layer::Operator, Verdict::Allow)
    );
    assert_eq!(decision.reason.code, ReasonCode::Operator);
    assert_eq!(decision.context.user.as_deref(), Some("uid 0"));
    assert_eq!(decision.agent.unwrap().labels["tenant"], "acme");
}

#[tokio::test]
async fn what_a_rule_depends_on_decides_and_ends_what_is_under_way() {
    let decider = decider();
    let text = "version: 1
switches: {freeze: false}
agents: [{name: coder, labels: {tier: \"2\"}}]
rules:
  - {id: release, match: {host: [api.example.com], workflow: [\"release-*\"]}, action: allow}
  - {id: tier, match: {host: [api.example.com], transport: [tcp]}, when: agent.labels.tier == '3', action: deny}
  - {id: freeze, match: {host: [api.example.com], transport: [tcp]}, when: switches.freeze, action: deny}
";
    let document = Document {
        path: "policy.yaml".to_owned(),
        text: text.to_owned(),
    };
    let policy = compile(&[document]).unwrap();
    decider.policies().put(5, policy);
    let api = target("api.example.com", 443);
    let mut coder = client(1);
    assert!(!decider.connection(&coder, &api, &[], false).await.allowed);
    let context = Context {
        workflow: Some("release-7".to_owned()),
        ..Context::default()
    };
    decider.directory().run(9, context.clone(), Labels::new());
    let labels = Labels::from([("tier".to_owned(), "3".to_owned())]);
    decider.directory().run(10, context, labels);
    coder.run = 10;
    assert!(!decider.connection(&coder, &api, &[], false).await.allowed);
    coder.run = 9;
    assert!(decider.connection(&coder, &api, &[], false).await.allowed);

    let changes = decider.changes();
    let mut switches = Switches::default();
    switches.set("freeze", true);
    decider.policies().switch(switches.clone());
    let denied = decider
        .revoked(
            changes,
            &coder,
            || vec![api.clone()],
            || None,
            Spoken::Other,
            || true,
        )
        .await;
    assert!(!denied.allowed);
    let decision = last(&decider);
    assert_eq!(decision.matched[0].rule, "freeze");
    assert_eq!(
        decision.reason.message,
        "Rule freeze forbids coder to reach api.example.com:443 over TCP. (the policy changed while this was under way, or what it depends on did)"
    );
    // The same switches again are no change.
    let changes = decider.changes();
    decider.policies().switch(switches);
    assert!(!changes.came());
}

/// A denial on paper is noted and lets the request go on; one in force that is about the address behind
/// the name was then not asked.
#[tokio::test]
async fn a_denial_on_paper_hides_no_denial_in_force_by_address() {
    let decider = decider();
    let text = "
version: 1
agents: [{name: coder}]
rules:
  - {id: site, match: {host: [a.example], port: [80]}, action: allow}
  - {id: soon, match: {host: [a.example], method: [POST]}, action: deny, mode: shadow}
  - {id: never, match: {cidr: [192.0.2.0/24], path: [/x]}, action: deny}
";
    let path = "policy.yaml".to_owned();
    let text = text.to_owned();
    let policy = compile(&[Document { path, text }]).unwrap();
    decider.policies().put(5, policy);
    let (client, target) = (client(1), target("a.example", 80));
    let behind: [std::net::IpAddr; 2] = ["198.51.100.1", "192.0.2.1"].map(|ip| ip.parse().unwrap());
    for (method, path, allowed, rule, ip) in [
        ("GET", "/", true, "site", None),
        ("POST", "/", true, "soon", None),
        ("GET", "/x", false, "never", Some(behind[1])),
        ("POST", "/x", false, "never", Some(behind[1])),
    ] {
        let decided = decider
            .request(&client, &target, &behind, &asked(method, path))
            .await;
        assert_eq!(decided.allowed, allowed, "{method} {path}");
        let decision = last(&decider);
        assert_eq!(decision.matched.first().unwrap().rule, rule);
        assert_eq!(
            (decision.enforced, decision.action.ip),
            (rule != "soon", ip)
        );
    }
}

#[tokio::test]
async fn a_connection_denied_on_paper_by_the_address_behind_its_name_says_so() {
    let decider = decider();
    let target = target("api.example.com", 443);
    let behind = ["203.0.113.1", "198.51.100.7"].map(|ip| ip.parse().unwrap());
    for tls in [true, false] {
        let decided = decider.connection(&client(1), &target, &behind, tls).await;
        assert!(decided.allowed);
        let decision = last(&decider);
        assert_eq!(decision.verdict, Verdict::Deny);
        assert!(!decision.enforced);
        assert_eq!(decision.mode, Mode::Shadow);
        assert_eq!(decision.matched.first().unwrap().rule, "bad-net");
        assert_eq!(decision.action.ip, Some(behind[1]));
        // What it does not deny goes on as before.
        decider
            .connection(&client(1), &target, &behind[..1], tls)
            .await;
        let decision = last(&decider);
        assert_eq!(
            (decision.verdict, decision.action.ip),
            (Verdict::Allow, None)
        );
    }
}

//! `direct` handling: the kernel lets it go, the agent sees what it dialled, and the bytes are
//! counted.

use agentguard_model::{ActionKind, Bytes, Layer, ReasonCode, Verdict};
use agentguard_tests::address;
use serde_json::json;

use super::{SITE, gist, puppet, world};

const POLICY: &str = "
version: 1
agents: [{name: coder}]
rules:
  - id: by-name
    match: {host: [api.example.com], port: [7]}
    action: allow
    handling: direct
  - id: by-address
    match: {cidr: [203.0.113.32/32, '2001:db8:113::20/128'], port: [7]}
    action: allow
    handling: direct
  - id: spliced
    match: {host: [api.example.com], port: [22]}
    action: allow
";

const ALLOWED: (ActionKind, Verdict, ReasonCode, bool) = (
    ActionKind::Connect,
    Verdict::Allow,
    ReasonCode::RuleAllow,
    true,
);

#[test]
fn a_virtual_address_leads_to_the_real_one_and_the_bytes_are_counted() {
    let world = world("direct-name");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    let text = "x".repeat(1000);
    for (family, number) in [(4, 0), (6, 1)] {
        let found = client.ask(&format!("resolve('{SITE}', {family})")).unwrap();
        let dialled = found[0].as_str().unwrap().to_owned();
        client.gives(&format!("tcp('c', '{dialled}', 7)"), json!([dialled, 7]));
        client.gives(&format!("echo('c', '{text}')"), text.as_str());
        client.gives("list(of('c').getpeername()[:2])", json!([dialled, 7]));
        client.gives("close('c')", "closed");
        let decision = guard
            .wait_verdicts("the end of the flow", |decisions| {
                let mut found = decisions.iter().filter(|decision| {
                    decision.action.kind == ActionKind::Connect && decision.outcome.is_some()
                });
                found.nth(number).cloned()
            })
            .unwrap();
        assert_eq!(gist(&decision), ALLOWED);
        assert_eq!(decision.layer, Layer::Kernel);
        assert_eq!(decision.action.host.as_ref().unwrap().as_str(), SITE);
        assert_eq!(decision.matched[0].rule, "by-name");
        let bytes = decision.outcome.unwrap().bytes;
        let all = Bytes {
            sent: 1000,
            received: 1000,
        };
        assert_eq!(bytes, all);
    }
    let log = world.origin(SITE).unwrap().log().connections().unwrap();
    let locals: Vec<_> = log.iter().map(|flow| flow.local.ip()).collect();
    assert_eq!(locals, address::origin(0x10));
    // Nobody stood in between: the origin saw the host itself, and all of the bytes.
    let peers: Vec<_> = log.iter().map(|flow| flow.peer.ip()).collect();
    assert_eq!(peers, address::HOST);
    assert!(log.iter().all(|flow| flow.received == 1000));
}

#[test]
fn an_allowed_address_is_reached_in_every_way_to_write_it_and_no_other_port() {
    let world = world("direct-address");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    let [four, six] = address::origin(0x20);
    let mapped = format!("::ffff:{four}");
    for target in [four.to_string(), six.to_string(), mapped] {
        client.gives(&format!("tcp('c', '{target}', 7)"), json!([target, 7]));
        client.gives("echo('c', 'hello')", "hello");
        client.gives("close('c')", "closed");
        client.fails(&format!("tcp('d', '{target}', 22)"), "EPERM");
    }
    let decisions = guard
        .wait_verdicts("three flows that ended and three refusals", |decisions| {
            let ended = decisions
                .iter()
                .filter(|decision| decision.outcome.is_some());
            (decisions.len() == 6 && ended.count() == 3).then(|| decisions.to_vec())
        })
        .unwrap();
    for (number, decision) in decisions.iter().enumerate() {
        let ip = if matches!(number, 2 | 3) { six } else { four };
        assert_eq!(decision.action.ip, Some(ip));
        if number % 2 == 0 {
            assert_eq!(gist(decision), ALLOWED);
            assert_eq!(decision.matched[0].rule, "by-address");
            let bytes = decision.outcome.as_ref().unwrap().bytes;
            assert_eq!((bytes.sent, bytes.received), (5, 5));
        } else {
            assert_eq!(decision.reason.code, ReasonCode::NoRule);
            assert_eq!(decision.action.port, Some(22));
        }
    }
}

#[test]
fn a_connection_through_the_proxy_has_the_peer_that_was_dialled_too() {
    let world = world("peer");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    for family in [4, 6] {
        let found = client.ask(&format!("resolve('{SITE}', {family})")).unwrap();
        let dialled = found[0].as_str().unwrap().to_owned();
        client.gives(&format!("tcp('c', '{dialled}', 22)"), json!([dialled, 22]));
        client.gives(
            "of('c').recv(27).decode()",
            agentguard_tests::origin::BANNER,
        );
        client.gives("echo('c', 'hello')", "hello");
    }
}

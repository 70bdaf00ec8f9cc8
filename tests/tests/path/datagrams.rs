//! UDP: decided at the first datagram, connected or not. A connect alone sends nothing and is
//! nobody's business.

use agentguard_model::{ActionKind, Layer, ReasonCode, Transport, Verdict};
use agentguard_tests::{address, origin::port};
use serde_json::json;

use super::{SITE, free, gist, puppet, world};

const NOTHING: &str = "
version: 1
agents: [{name: coder}]
rules: []
";

#[test]
fn a_datagram_to_a_bare_address_is_refused_connected_or_not_and_a_connect_alone_is_not() {
    let world = world("datagrams");
    let guard = world.guard().policy(NOTHING).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    let [four, six] = address::origin(0x10);
    let mapped = format!("::ffff:{four}");
    let targets = [four.to_string(), six.to_string(), mapped];
    // As getaddrinfo does it, to learn the source address it would have.
    for target in &targets {
        client.gives(&format!("udp('u', '{target}')"), "made");
        client.gives(&format!("connect('u', '{target}', 7)"), "connected");
        client.gives("close('u')", "closed");
    }
    for target in &targets {
        client.gives(&format!("udp('u', '{target}')"), "made");
        client.fails(&format!("say_to('u', 'hello', '{target}', 7)"), "EPERM");
        client.gives("close('u')", "closed");
        client.gives(&format!("udp('u', '{target}')"), "made");
        client.gives(&format!("connect('u', '{target}', 7)"), "connected");
        client.fails("say('u', 'hello')", "EPERM");
        client.gives("close('u')", "closed");
    }
    let decisions = guard
        .wait_verdicts("the refusals", |decisions| {
            let attempts: u64 = decisions.iter().map(|decision| decision.count).sum();
            (attempts >= 6).then(|| decisions.to_vec())
        })
        .unwrap();
    let expected = (
        ActionKind::Datagram,
        Verdict::Deny,
        ReasonCode::NoRule,
        true,
    );
    for decision in &decisions {
        assert_eq!(gist(decision), expected);
        assert_eq!(decision.layer, Layer::Kernel);
        assert_eq!(decision.action.transport, Some(Transport::Udp));
        assert_eq!(decision.action.port, Some(port::ECHO));
    }
    // The connects that came first are not among them; a mapped address is the IPv4 address.
    let to = |ip| {
        let found = decisions
            .iter()
            .filter(|decision| decision.action.ip == Some(ip));
        found.map(|decision| decision.count).sum::<u64>()
    };
    assert_eq!((decisions.len(), to(four), to(six)), (6, 4, 2));
    assert_eq!(world.arrivals(four).unwrap(), 0);
    assert_eq!(world.arrivals(six).unwrap(), 0);

    let mut without = free(&world);
    for target in &targets {
        without.gives(&format!("udp('u', '{target}')"), "made");
        without.gives(&format!("say_to('u', 'hello', '{target}', 7)"), 5);
        without.gives("hear_from('u')", json!(["hello", target, 7]));
    }
    assert_eq!(world.arrivals(four).unwrap(), 2);
    assert_eq!(world.arrivals(six).unwrap(), 1);
}

const DIRECT: &str = "
version: 1
agents: [{name: coder}]
rules:
  - id: echo
    match: {cidr: [203.0.113.16/32, '2001:db8:113::10/128'], port: [7], transport: [udp]}
    action: allow
  - id: echo-by-name
    match: {host: [api.example.com], port: [7], transport: [udp]}
    action: allow
";

#[test]
fn allowed_datagrams_go_and_are_answered_and_one_flow_is_one_decision() {
    let world = world("datagrams-allowed");
    let guard = world.guard().policy(DIRECT).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    for target in address::origin(0x10) {
        client.gives(&format!("udp('u', '{target}')"), "made");
        for text in ["one", "two", "three"] {
            client.gives(&format!("say_to('u', '{text}', '{target}', 7)"), text.len());
            client.gives("hear_from('u')", json!([text, target, 7]));
        }
        client.gives(&format!("udp('c', '{target}')"), "made");
        client.gives(&format!("connect('c', '{target}', 7)"), "connected");
        client.gives("echo('c', 'connected')", "connected");
        client.gives("echo('c', 'again')", "again");
        // The next port is another destination.
        client.fails(&format!("say_to('u', 'x', '{target}', 8)"), "EPERM");
    }
    let decisions = guard
        .wait_verdicts("every flow", |decisions| {
            (decisions.len() >= 6).then(|| decisions.to_vec())
        })
        .unwrap();
    let found: Vec<_> = decisions
        .iter()
        .map(|decision| (decision.verdict, decision.reason.code, decision.action.port))
        .collect();
    let allowed = (Verdict::Allow, ReasonCode::RuleAllow, Some(7));
    let denied = (Verdict::Deny, ReasonCode::NoRule, Some(8));
    assert_eq!(
        found,
        [allowed, allowed, denied, allowed, allowed, denied],
        "{decisions:?}"
    );
    assert_eq!(decisions[0].matched[0].rule, "echo");
}

#[test]
fn by_name_the_agent_keeps_seeing_the_address_it_dialled() {
    let world = world("datagrams-named");
    let guard = world.guard().policy(DIRECT).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    for (family, number) in [(4, 0), (6, 1)] {
        let found = client.ask(&format!("resolve('{SITE}', {family})")).unwrap();
        let dialled = found[0].as_str().unwrap().to_owned();
        assert_ne!(dialled, address::origin(0x10)[number].to_string());
        client.gives(&format!("udp('u', '{dialled}')"), "made");
        client.gives(&format!("say_to('u', 'hello', '{dialled}', 7)"), 5);
        client.gives("hear_from('u')", json!(["hello", dialled, 7]));
        client.gives(&format!("udp('c', '{dialled}')"), "made");
        client.gives(&format!("connect('c', '{dialled}', 7)"), "connected");
        client.gives("echo('c', 'hello again')", "hello again");
        client.gives("list(of('c').getpeername()[:2])", json!([dialled, 7]));
    }
    let flows = guard
        .wait_verdicts("every flow", |decisions| {
            let flows = decisions
                .iter()
                .filter(|decision| decision.action.kind == ActionKind::Datagram);
            let flows: Vec<_> = flows.cloned().collect();
            (flows.len() >= 4).then_some(flows)
        })
        .unwrap();
    for flow in &flows {
        assert_eq!(flow.action.host.as_ref().unwrap().as_str(), SITE);
        assert_eq!(flow.matched[0].rule, "echo-by-name");
        assert_eq!(flow.action.ip, None);
    }
    assert_eq!(flows.len(), 4);
    let log = world.origin(SITE).unwrap().log().connections().unwrap();
    assert_eq!(log.iter().filter(|flow| flow.udp).count(), 4);
    // 5 bytes without, 11 with a connection, over each family.
    assert_eq!(log.iter().map(|flow| flow.received).sum::<u64>(), 32);
}

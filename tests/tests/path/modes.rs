//! `observe` and `shadow` refuse nothing but a short list, and write down what would have been.

use agentguard_model::{ActionKind, Decision, Mode, ReasonCode, Verdict};
use agentguard_tests::address;
use serde_json::json;

use super::{OTHER, SITE, free, gist, puppet, world};

const POLICY: &str = "
version: 1
agents:
  - {name: watched, mode: observe}
  - {name: tried, mode: shadow}
  - {name: coder}
rules:
  - id: not-there
    agents: [watched, tried]
    match: {cidr: [203.0.113.32/32], port: [22]}
    action: deny
  - id: echo
    agents: [coder]
    match: {cidr: [203.0.113.16/32], port: [7, 22], transport: [tcp, udp]}
    action: allow
    handling: direct
  - id: no-ssh-soon
    agents: [coder]
    match: {cidr: [203.0.113.16/32], port: [22]}
    action: deny
    mode: shadow
  - id: sites
    agents: [coder]
    match: {host: [api.example.com], port: [22, 80]}
    action: allow
  - id: no-sites-soon
    agents: [coder]
    match: {host: [api.example.com], port: [22], transport: [tcp]}
    action: deny
    mode: observe
";

/// The newest decision on this port, once it is there.
fn on_port(guard: &agentguard_tests::Guard<'_>, kind: ActionKind, port: u16) -> Decision {
    guard
        .wait_verdicts(&format!("a decision on port {port}"), |decisions| {
            let mut found = decisions.iter().rev();
            let same = |decision: &&Decision| {
                decision.action.port == Some(port) && decision.action.kind == kind
            };
            found.find(same).cloned()
        })
        .unwrap()
}

#[test]
fn what_no_rule_allows_and_what_one_denies_passes_and_is_recorded_as_not_enforced() {
    for (name, mode) in [("watched", Mode::Observe), ("tried", Mode::Shadow)] {
        let world = world("modes");
        let guard = world.guard().policy(POLICY).start().unwrap();
        let mut client = puppet(&world, &guard, name);
        let [four, six] = address::origin(0x20);

        client.gives(&format!("get('{OTHER}')"), "HTTP/1.1 200 OK");
        for target in [four, six] {
            client.gives(
                &format!("tcp('c', '{target}', 7)"),
                json!([target.to_string(), 7]),
            );
            client.gives("echo('c', 'hello')", "hello");
            client.gives(&format!("udp('u', '{target}')"), "made");
            client.gives(&format!("say_to('u', 'hello', '{target}', 7)"), 5);
            client.gives("hear_from('u')", json!(["hello", target.to_string(), 7]));
        }
        client.gives(
            &format!("tcp('d', '{four}', 22)"),
            json!([four.to_string(), 22]),
        );
        on_port(&guard, ActionKind::Connect, 22);

        let decisions = guard.verdicts().unwrap();
        for decision in &decisions {
            assert_eq!(decision.verdict, Verdict::Deny, "{decision:?}");
            assert!(!decision.enforced, "{decision:?}");
            assert_eq!(decision.mode, mode, "{decision:?}");
            let by_rule = decision.action.port == Some(22);
            let code = match by_rule {
                true => ReasonCode::RuleDeny,
                false => ReasonCode::NoRule,
            };
            assert_eq!(decision.reason.code, code, "{decision:?}");
            assert_eq!(
                decision
                    .matched
                    .first()
                    .map(|matched| matched.rule.as_str()),
                by_rule.then_some("not-there"),
            );
        }
        let count = |kind| {
            let of = decisions
                .iter()
                .filter(|decision| decision.action.kind == kind);
            of.map(|decision| decision.count).sum::<u64>()
        };
        assert_eq!(
            (
                count(ActionKind::DnsQuery),
                count(ActionKind::HttpRequest),
                count(ActionKind::Connect),
                count(ActionKind::Datagram)
            ),
            (1, 1, 3, 2),
            "{decisions:?}"
        );
    }
}

#[test]
fn the_hosts_services_metadata_and_the_guard_itself_stay_closed_in_every_mode() {
    const METADATA: [&str; 2] = ["169.254.169.254", "fd00:ec2::254"];
    let world = world("closed");
    world
        .internet()
        .ip("addr add 169.254.169.254/32 dev lo\naddr add fd00:ec2::254/128 dev lo nodad\n")
        .unwrap();
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut host = free(&world);
    host.gives("listen('l', '127.0.0.1', 5432)", 5432);
    host.gives("listen('m', '::1', 5433)", 5433);
    for name in ["watched", "tried", "coder"] {
        let mut client = puppet(&world, &guard, name);
        let closed = [
            ("127.0.0.1", 5432, ReasonCode::LoopbackNotOwn),
            ("0.0.0.0", 5432, ReasonCode::LoopbackNotOwn),
            ("::ffff:127.0.0.1", 5432, ReasonCode::LoopbackNotOwn),
            ("::1", 5433, ReasonCode::LoopbackNotOwn),
            ("::", 5433, ReasonCode::LoopbackNotOwn),
            ("127.0.0.1", 15001, ReasonCode::GuardSocket),
            ("::1", 15001, ReasonCode::GuardSocket),
            ("127.0.0.1", 15053, ReasonCode::GuardSocket),
            ("::ffff:127.0.0.2", 15053, ReasonCode::GuardSocket),
            (METADATA[0], 80, ReasonCode::MetadataService),
            (METADATA[1], 80, ReasonCode::MetadataService),
        ];
        let before = guard.verdicts().unwrap().len();
        for (address, port, _) in closed {
            client.fails(&format!("tcp('c', '{address}', {port})"), "EPERM");
        }
        let decisions = guard
            .wait_verdicts("every refusal", |decisions| {
                let new = decisions.get(before..)?;
                (new.len() >= closed.len()).then(|| new.to_vec())
            })
            .unwrap();
        let observing = name != "coder";
        for (decision, (address, port, code)) in decisions.iter().zip(closed) {
            // Where the agent is not watched only, a plain missing rule is reason enough.
            let found = match decision.reason.code {
                ReasonCode::NoRule if !observing => code,
                found => found,
            };
            assert_eq!(found, code, "{name} to {address}:{port}");
            assert_eq!(decision.verdict, Verdict::Deny);
            assert!(decision.enforced, "{name} to {address}:{port}");
        }
    }
    for address in METADATA {
        assert_eq!(world.arrivals(address.parse().unwrap()).unwrap(), 0);
        // Without the guard it is reached.
        host.fails(&format!("tcp('c', '{address}', 80)"), "ECONNREFUSED");
        assert!(world.arrivals(address.parse().unwrap()).unwrap() > 0);
    }
    host.gives("tcp('c', '127.0.0.1', 5432)", json!(["127.0.0.1", 5432]));
}

#[test]
fn a_rule_in_shadow_denies_on_paper_and_the_others_decide() {
    let world = world("shadow-rule");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    let [four, _] = address::origin(0x10);
    client.gives(
        &format!("tcp('c', '{four}', 22)"),
        json!([four.to_string(), 22]),
    );
    client.gives(
        "of('c').recv(27).decode()",
        agentguard_tests::origin::BANNER,
    );
    let decision = on_port(&guard, ActionKind::Connect, 22);
    assert_eq!(
        gist(&decision),
        (
            ActionKind::Connect,
            Verdict::Deny,
            ReasonCode::RuleDeny,
            false
        )
    );
    assert_eq!(decision.matched[0].rule, "no-ssh-soon");

    // The same through the proxy, by name.
    let found = client.ask(&format!("resolve('{SITE}', 4)")).unwrap();
    let dialled = found[0].as_str().unwrap();
    client.gives(&format!("tcp('d', '{dialled}', 22)"), json!([dialled, 22]));
    client.gives(
        "of('d').recv(27).decode()",
        agentguard_tests::origin::BANNER,
    );
    let decision = guard
        .wait_verdicts("the proxy's decision", |decisions| {
            let found = decisions.iter().find(|decision| {
                decision.action.kind == ActionKind::Connect && decision.action.host.is_some()
            });
            found.cloned()
        })
        .unwrap();
    assert_eq!(
        gist(&decision),
        (
            ActionKind::Connect,
            Verdict::Deny,
            ReasonCode::RuleDeny,
            false
        )
    );
    // Its address is denied on paper, too.
    let rules: Vec<&str> = decision.matched.iter().map(|it| it.rule.as_str()).collect();
    assert_eq!(rules[..2], ["no-ssh-soon", "no-sites-soon"]);

    // What no rule says anything of is still denied, and what is allowed without it is allowed.
    client.fails(&format!("tcp('e', '{four}', 23)"), "EPERM");
    assert!(on_port(&guard, ActionKind::Connect, 23).enforced);
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    let decision = on_port(&guard, ActionKind::HttpRequest, 80);
    assert_eq!(
        (decision.verdict, decision.enforced),
        (Verdict::Allow, true)
    );
}

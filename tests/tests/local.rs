//! Servers of an agent's own: open to itself and to the host, closed to other agents and to the
//! network. And the host's servers, which are closed to agents.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where it cannot go on, helpers included"
)]

use agentguard_model::{ActionKind, Decision, ReasonCode, Transport, Verdict};
use agentguard_tests::{Guard, Namespace, Puppet, World, address};
use serde_json::json;

const POLICY: &str = "
version: 1
agents: [{name: coder}, {name: helper}, {name: alone, local: none}]
rules: []
";

fn puppet(world: &World, guard: &Guard<'_>, agent: &str) -> Puppet {
    Puppet::start(world, |words| guard.agent(agent, words)).unwrap()
}

/// A client that nobody governs.
fn free(world: &World, place: &Namespace) -> Puppet {
    Puppet::start(world, |words| {
        let mut words = words.into_iter();
        let program = words.next().unwrap();
        place.command(program).args(words)
    })
    .unwrap()
}

/// The newest decisions after the first `before`, as soon as there are `count`.
fn newest(guard: &Guard<'_>, before: usize, count: usize) -> Vec<Decision> {
    let found = guard.wait_verdicts(&format!("{count} decisions"), |decisions| {
        let new = decisions.get(before..)?;
        (new.len() >= count).then(|| new.to_vec())
    });
    found.unwrap()
}

#[test]
fn a_dev_server_is_reachable_to_its_agent_and_the_host_and_to_nobody_else() {
    let world = World::new("dev-server").start().unwrap();
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut coder = puppet(&world, &guard, "coder");
    let mut again = puppet(&world, &guard, "coder");
    let mut helper = puppet(&world, &guard, "helper");
    let mut host = free(&world, world.host());
    let mut outside = free(&world, world.internet());
    outside.gives("socket.setdefaulttimeout(1)", json!(null));

    // Where it listens, and how its own clients may write that.
    let servers = [
        (
            "0.0.0.0",
            Some(8000),
            vec!["127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1"],
        ),
        (
            "127.0.0.1",
            Some(8001),
            vec!["127.0.0.1", "::ffff:127.0.0.1"],
        ),
        ("::1", Some(8002), vec!["::1"]),
        ("::", Some(8003), vec!["::1", "::", "127.0.0.1"]),
        // listen() without bind(): the kernel chooses the port.
        ("0.0.0.0", None, vec!["127.0.0.1"]),
        ("::", None, vec!["::1", "127.0.0.1"]),
    ];
    let [host4, host6] = address::HOST;
    for (bound, port, ways) in servers {
        let chosen = port.map_or("None".to_owned(), |port: u16| port.to_string());
        let port = coder
            .ask(&format!("listen('l', '{bound}', {chosen})"))
            .unwrap();
        let port = port.as_u64().unwrap();
        let before = guard.verdicts().unwrap().len();
        for way in &ways {
            let dial = format!("tcp('c', '{way}', {port})[1]");
            for client in [&mut again, &mut host] {
                client.gives(&dial, port);
                coder.ask("accept('l', 's')").unwrap();
                coder.gives("say('s', 'welcome')", 7);
                client.gives("hear('c')", "welcome");
            }
            helper.fails(&dial, "EPERM");
        }
        // The agent itself, in one process.
        coder.gives(&format!("tcp('c', '{}', {port})[1]", ways[0]), port);
        coder.ask("accept('l', 's')").unwrap();

        let denied = newest(&guard, before, ways.len());
        assert_eq!(denied.len(), ways.len(), "{denied:#?}");
        for decision in &denied {
            assert_eq!(decision.agent.as_ref().unwrap().name.as_str(), "helper");
            assert_eq!(decision.reason.code, ReasonCode::LoopbackNotOwn);
            assert_eq!(decision.action.port.map(u64::from), Some(port));
        }

        if matches!(bound, "0.0.0.0" | "::") {
            let (address, source) = match bound {
                "::" => (host6, address::GATEWAY[1]),
                _ => (host4, address::GATEWAY[0]),
            };
            let before = guard.verdicts().unwrap().len();
            outside.fails(&format!("tcp('c', '{address}', {port})"), "timeout");
            let inbound = newest(&guard, before, 1);
            assert_eq!(inbound[0].action.kind, ActionKind::Inbound);
            assert_eq!(inbound[0].verdict, Verdict::Deny);
            assert_eq!(inbound[0].reason.code, ReasonCode::InboundNotAllowed);
            assert_eq!(inbound[0].action.ip, Some(source));
            assert_eq!(inbound[0].action.port.map(u64::from), Some(port));
            assert_eq!(inbound[0].agent.as_ref().unwrap().name.as_str(), "coder");
            assert_eq!(
                coder.ask("of('l').setblocking(False)").unwrap(),
                json!(null)
            );
            coder.fails("accept('l', 's')", "EAGAIN");
            // Another agent does not get around by the host's own address.
            helper.fails(&format!("tcp('c', '{address}', {port})"), "EPERM");
        }
        coder.gives("close('l')", "closed");
    }

    // The same from a process that nobody governs is reachable from there.
    host.gives("listen('l', '0.0.0.0', 8010)", 8010);
    outside.gives(
        &format!("tcp('c', '{host4}', 8010)"),
        json!([host4.to_string(), 8010]),
    );
}

#[test]
fn datagrams_are_held_to_the_same() {
    let world = World::new("dev-datagrams").start().unwrap();
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut coder = puppet(&world, &guard, "coder");
    let mut again = puppet(&world, &guard, "coder");
    let mut helper = puppet(&world, &guard, "helper");
    let mut host = free(&world, world.host());
    let mut outside = free(&world, world.internet());
    for (bound, way, port) in [
        ("127.0.0.1", "127.0.0.1", 9000),
        ("0.0.0.0", "127.0.0.1", 9001),
        ("::1", "::1", 9002),
        ("::", "::1", 9003),
    ] {
        coder.gives(&format!("udp('l', '{bound}')"), "made");
        coder.gives(&format!("of('l').bind(('{bound}', {port}))"), json!(null));
        let before = guard.verdicts().unwrap().len();
        for client in [&mut again, &mut host] {
            client.gives(&format!("udp('u', '{way}')"), "made");
            client.gives(&format!("say_to('u', 'hello', '{way}', {port})"), 5);
            let heard = coder.ask("hear_from('l')").unwrap();
            assert_eq!(heard[0], "hello");
            // And the way back.
            let answer = format!("say_to('l', 'welcome', '{way}', {})", heard[2]);
            coder.gives(&answer, 7);
            client.gives("hear_from('u')", json!(["welcome", way, port]));
        }
        helper.gives(&format!("udp('u', '{way}')"), "made");
        helper.fails(&format!("say_to('u', 'hello', '{way}', {port})"), "EPERM");
        helper.gives(&format!("connect('u', '{way}', {port})"), "connected");
        helper.fails("say('u', 'hello')", "EPERM");
        let denied = newest(&guard, before, 2);
        assert_eq!(denied.len(), 2, "{denied:#?}");
        for decision in &denied {
            assert_eq!(decision.agent.as_ref().unwrap().name.as_str(), "helper");
            assert_eq!(decision.action.transport, Some(Transport::Udp));
            assert_eq!(decision.reason.code, ReasonCode::LoopbackNotOwn);
        }
        coder.gives("close('l')", "closed");
    }
    let [host4, _] = address::HOST;
    coder.gives("udp('l', '0.0.0.0')", "made");
    coder.gives("of('l').bind(('0.0.0.0', 9004))", json!(null));
    let before = guard.verdicts().unwrap().len();
    outside.gives("udp('u', '0.0.0.0')", "made");
    outside.gives(&format!("say_to('u', 'hello', '{host4}', 9004)"), 5);
    let inbound = newest(&guard, before, 1);
    assert_eq!(inbound[0].action.kind, ActionKind::Inbound);
    assert_eq!(inbound[0].reason.code, ReasonCode::InboundNotAllowed);
    assert_eq!(inbound[0].action.transport, Some(Transport::Udp));
    coder.gives("of('l').setblocking(False)", json!(null));
    coder.fails("hear_from('l')", "EAGAIN");
    // Without the guard it is heard.
    host.gives("udp('l', '0.0.0.0')", "made");
    host.gives("of('l').bind(('0.0.0.0', 9005))", json!(null));
    outside.gives(&format!("say_to('u', 'hello', '{host4}', 9005)"), 5);
    assert_eq!(host.ask("hear_from('l')").unwrap()[0], "hello");
}

#[test]
fn the_hosts_own_servers_and_the_guards_are_closed_to_agents() {
    let world = World::new("host-server").start().unwrap();
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut host = free(&world, world.host());
    host.gives("listen('t', '127.0.0.1', 5432)", 5432);
    host.gives("udp('u', '127.0.0.1')", "made");
    host.gives("of('u').bind(('127.0.0.1', 5432))", json!(null));
    host.gives("of('u').setblocking(False)", json!(null));
    let mut coder = puppet(&world, &guard, "coder");
    let closed = [
        (5432, ReasonCode::LoopbackNotOwn),
        (15001, ReasonCode::GuardSocket),
        (15053, ReasonCode::GuardSocket),
    ];
    for (port, code) in closed {
        let before = guard.verdicts().unwrap().len();
        coder.fails(&format!("tcp('c', '127.0.0.1', {port})"), "EPERM");
        coder.gives("udp('d', '127.0.0.1')", "made");
        coder.fails(&format!("say_to('d', 'x', '127.0.0.1', {port})"), "EPERM");
        coder.gives(&format!("connect('d', '127.0.0.1', {port})"), "connected");
        coder.fails("say('d', 'x')", "EPERM");
        let denied = newest(&guard, before, 3);
        assert_eq!(denied.len(), 3, "{denied:#?}");
        for decision in &denied {
            assert_eq!((decision.reason.code, decision.enforced), (code, true));
        }
    }
    host.fails("hear_from('u')", "EAGAIN");
    host.gives("of('t').setblocking(False)", json!(null));
    host.fails("accept('t', 's')", "EAGAIN");
    // The host's own clients reach it, and the port that an agent had is not its own for ever.
    host.gives("tcp('c', '127.0.0.1', 5432)", json!(["127.0.0.1", 5432]));
    coder.gives("listen('l', '127.0.0.1', 5433)", 5433);
    coder.gives("tcp('c', '127.0.0.1', 5433)", json!(["127.0.0.1", 5433]));
    coder.gives("close('l')", "closed");
    host.gives("listen('t', '127.0.0.1', 5433)", 5433);
    coder.fails("tcp('d', '127.0.0.1', 5433)", "EPERM");
}

#[test]
fn an_agent_without_loopback_does_not_reach_itself() {
    let world = World::new("no-loopback").start().unwrap();
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut alone = puppet(&world, &guard, "alone");
    alone.gives("listen('l', '127.0.0.1', 8000)", 8000);
    alone.fails("tcp('c', '127.0.0.1', 8000)", "EPERM");
    let denied = newest(&guard, 0, 1);
    assert_eq!(denied[0].reason.code, ReasonCode::LoopbackNotOwn);
    free(&world, world.host()).gives("tcp('c', '127.0.0.1', 8000)", json!(["127.0.0.1", 8000]));
}

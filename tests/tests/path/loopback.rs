//! Services of the host on loopback, and an agent that once held their port: what was its own is so
//! only while it is.

use agentguard_model::ReasonCode;
use agentguard_tests::{Guard, Puppet};
use serde_json::json;

use super::{free, puppet, world};

const POLICY: &str = "
version: 1
agents: [{name: coder}]
";

const SECRET: &str = "a secret of the host";

/// A UDP socket on an address, which may share its port with others.
fn bind(puppet: &mut Puppet, name: &str, address: &str, port: u16) {
    puppet.gives(&format!("udp('{name}', '{address}')"), "made");
    let shared = format!("of('{name}').setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)");
    puppet.gives(&shared, json!(null));
    puppet.gives(&format!("of('{name}').settimeout(1)"), json!(null));
    let bind = format!("of('{name}').bind(('{address}', {port}))");
    puppet.gives(&bind, json!(null));
}

fn any_of(address: &str) -> &'static str {
    if address.contains(':') {
        "::"
    } else {
        "0.0.0.0"
    }
}

fn refused(guard: &Guard<'_>) {
    guard
        .wait_verdicts("a denial for a loopback port", |decisions| {
            let mut codes = decisions.iter().map(|decision| decision.reason.code);
            codes
                .any(|code| code == ReasonCode::LoopbackNotOwn)
                .then_some(())
        })
        .unwrap();
}

/// The agent talks to a socket of its own that shares the port of the host's service, closes it, and
/// talks on. Gives what the service heard.
fn talk_on(agent: &mut Puppet, host: &mut Puppet, address: &str) -> Option<String> {
    bind(host, "service", any_of(address), 5399);
    bind(agent, "own", address, 5399);
    agent.gives(&format!("udp('c', '{address}')"), "made");
    agent.gives(&format!("connect('c', '{address}', 5399)"), "connected");
    agent.gives("say('c', 'first')", 5);
    agent.gives("hear('own')", "first");
    agent.gives("close('own')", "closed");
    let _ = agent.ask("say('c', 'second')");
    let heard = host.ask("hear('service')").ok();
    host.gives("close('service')", "closed");
    agent.gives("close('c')", "closed");
    heard?.as_str().map(str::to_owned)
}

#[test]
fn a_port_that_was_the_agents_own_is_not_so_for_the_next_datagram() {
    let world = world("own-once");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut host = free(&world);
    let mut agent = puppet(&world, &guard, "coder");
    for address in ["127.0.0.1", "::1"] {
        assert_eq!(talk_on(&mut agent, &mut host, address), None, "{address}");
    }
    refused(&guard);
    // Without the guard the service hears it.
    let mut without = free(&world);
    for address in ["127.0.0.1", "::1"] {
        let heard = talk_on(&mut without, &mut host, address);
        assert_eq!(heard.as_deref(), Some("second"), "{address}");
    }
}

/// The agent sends to itself from the port of the host's service, closes that socket, and answers.
fn answer_on(agent: &mut Puppet, host: &mut Puppet, address: &str) -> Option<String> {
    bind(host, "service", any_of(address), 5399);
    bind(agent, "listener", address, 6001);
    bind(agent, "own", address, 5399);
    agent.gives(&format!("say_to('own', 'hi', '{address}', 6001)"), 2);
    agent.gives("hear_from('listener')", json!(["hi", address, 5399]));
    agent.gives("close('own')", "closed");
    let _ = agent.ask(&format!("say_to('listener', 'answer', '{address}', 5399)"));
    let heard = host.ask("hear('service')").ok();
    host.gives("close('service')", "closed");
    agent.gives("close('listener')", "closed");
    heard?.as_str().map(str::to_owned)
}

#[test]
fn a_sender_that_was_the_agents_own_is_nobody_to_answer_to_once_it_is_gone() {
    let world = world("answer-once");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut host = free(&world);
    let mut agent = puppet(&world, &guard, "coder");
    for address in ["127.0.0.1", "::1"] {
        assert_eq!(answer_on(&mut agent, &mut host, address), None, "{address}");
    }
    let mut without = free(&world);
    for address in ["127.0.0.1", "::1"] {
        let heard = answer_on(&mut without, &mut host, address);
        assert_eq!(heard.as_deref(), Some("answer"), "{address}");
    }
}

/// `IP_PKTINFO` on a socket that is bound to every address: the address of a service of the host's
/// may not be said either, or a server of the agent's would answer there.
fn pretend(agent: &mut Puppet, host: &mut Puppet) -> Option<String> {
    bind(host, "service", "127.0.0.5", 5399);
    bind(agent, "listener", "127.0.0.1", 6001);
    bind(agent, "own", "0.0.0.0", 5399);
    let name = "(0, 8, bytes(4) + socket.inet_aton('127.0.0.5') + bytes(4))";
    let send = format!("of('own').sendmsg([b'hi'], [{name}], 0, ('127.0.0.1', 6001))");
    let _ = agent.ask(&send);
    let _ = agent.ask("hear_from('listener')");
    let _ = agent.ask("say_to('listener', 'answer', '127.0.0.5', 5399)");
    let heard = host.ask("hear('service')").ok();
    for name in ["own", "listener"] {
        agent.gives(&format!("close('{name}')"), "closed");
    }
    host.gives("close('service')", "closed");
    heard?.as_str().map(str::to_owned)
}

#[test]
fn a_socket_on_every_address_does_not_speak_for_a_service_of_the_hosts() {
    let world = world("pretend");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut host = free(&world);
    let mut agent = puppet(&world, &guard, "coder");
    assert_eq!(pretend(&mut agent, &mut host), None);
    let mut without = free(&world);
    assert_eq!(pretend(&mut without, &mut host).as_deref(), Some("answer"));
}

/// A full backlog leaves a SYN to be repeated; by then the port is the host's. Gives what its service
/// told.
fn repeat(agent: &mut Puppet, host: &mut Puppet) -> Option<String> {
    agent.gives("make('l', 2, 1)", "made");
    agent.gives("of('l').bind(('127.0.0.1', 7795))", json!(null));
    agent.gives("of('l').listen(0)", json!(null));
    for name in ["a", "b", "c", "late"] {
        let dial = format!(
            "(make('{name}', 2, 1), of('{name}').setblocking(False), \
             of('{name}').connect_ex(('127.0.0.1', 7795)))[2] in (0, errno.EINPROGRESS)"
        );
        agent.gives(&dial, true);
    }
    for name in ["l", "a", "b", "c"] {
        agent.gives(&format!("close('{name}')"), "closed");
    }
    host.gives("listen('s', '127.0.0.1', 7795)", 7795);
    host.gives("of('s').settimeout(4)", json!(null));
    let accepted = host.ask("accept('s', 'n')").unwrap().is_string();
    let heard = accepted.then(|| {
        host.gives(&format!("say('n', '{SECRET}')"), SECRET.len());
        agent.gives("of('late').settimeout(2)", json!(null));
        agent.ask("hear('late')").unwrap()
    });
    host.gives("close('s')", "closed");
    agent.gives("close('late')", "closed");
    heard?.as_str().map(str::to_owned)
}

#[test]
fn a_repeated_syn_does_not_reach_who_listens_by_then() {
    let world = world("repeated");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut host = free(&world);
    let mut agent = puppet(&world, &guard, "coder");
    assert_eq!(repeat(&mut agent, &mut host), None);
    refused(&guard);
    let mut without = free(&world);
    assert_eq!(repeat(&mut without, &mut host).as_deref(), Some(SECRET));
}

//! Local ports: whose they are, and when they are free again.

use std::collections::BTreeSet;
use std::net::TcpStream;

use agentguard_common::event::{kind, reason};
use agentguard_common::map::{Listeners, listener_flag};

use crate::client::Client;
use crate::world::{World, eventually, in_world};

/// Refused because nobody of the agent holds the port: a port that is open to the agent and
/// has no listener would say ECONNREFUSED.
#[track_caller]
fn is_foreign(world: &mut World, client: &mut Client, line: &str) {
    world.events();
    client.is_refused(line);
    let events = world.events();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0].reason, reason::LOOPBACK);
}

#[test]
fn an_agent_reaches_what_it_listens_on_and_no_other_agent_does() {
    in_world(|world| {
        let mut server = world.agent(1).client();
        let mut other = world.agent(2).client();
        for listener in [
            "listener()",
            "listener('0.0.0.0')",
            "listener(bind=False)",
            "listener('::')",
        ] {
            server.does(&format!("l = {listener}"));
            let port: u16 = server.number("port(l)");
            for address in ["127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1"] {
                server.does(&format!(
                    "c = tcp('{address}', {port}); l.accept(); c.close()"
                ));
                is_foreign(world, &mut other, &format!("tcp('{address}', {port})"));
            }
            assert_eq!(world.events().len(), 0, "a local flow is told to nobody");
            // A person's browser.
            TcpStream::connect(("127.0.0.1", port)).unwrap();
            server.does("l.accept(); l.close()");
            is_foreign(world, &mut server, &format!("tcp('127.0.0.1', {port})"));
        }
    });
}

#[test]
fn a_bound_port_that_nobody_listens_on_belongs_to_nobody() {
    in_world(|world| {
        let mut client = world.agent(1).client();
        client.does("b = socket.socket(); b.bind(('127.0.0.1', 0))");
        let port: u16 = client.number("port(b)");
        is_foreign(world, &mut client, &format!("tcp('127.0.0.1', {port})"));
        client.does("b.listen()");
        client.does(&format!("tcp('127.0.0.1', {port})"));
    });
}

#[test]
fn ipv6_loopback_is_kept_apart_in_the_same_way() {
    in_world(|world| {
        let mut server = world.agent(1).client();
        let mut other = world.agent(2).client();
        server.does("l = listener('::1')");
        let port: u16 = server.number("port(l)");
        for address in ["::1", "::"] {
            server.does(&format!(
                "c = tcp('{address}', {port}); l.accept(); c.close()"
            ));
            is_foreign(world, &mut other, &format!("tcp('{address}', {port})"));
        }
        is_foreign(world, &mut server, &format!("tcp('127.0.0.1', {port})"));
    });
}

#[test]
fn a_port_that_one_agent_left_can_be_anothers() {
    in_world(|world| {
        let mut first = world.agent(1).client();
        let mut second = world.agent(2).client();
        first.does("l = listener()");
        let port: u16 = first.number("port(l)");
        // Neither a duplicate nor an accepted connection holds or frees the port of its listener.
        first.does("c = tcp('127.0.0.1', port(l)); a = l.accept()[0]; a.close(); c.close()");
        first.does("d = l.dup(); l.close(); c = tcp('127.0.0.1', port(d)); d.accept()");
        first.ends();
        second.does(&format!("l = listener('127.0.0.1', {port}, reuse=True)"));
        second.does(&format!("tcp('127.0.0.1', {port})"));
    });
}

#[test]
fn two_sockets_on_one_port_hold_it_until_both_are_closed() {
    in_world(|world| {
        let mut client = world.agent(1).client();
        client.does("l = listener(reuse=True); m = listener(port=port(l), reuse=True)");
        let port: u16 = client.number("port(l)");
        client.does("l.close()");
        client.does(&format!(
            "c = tcp('127.0.0.1', {port}); m.accept(); c.close()"
        ));
        client.does("m.close()");
        is_foreign(world, &mut client, &format!("tcp('127.0.0.1', {port})"));
    });
}

#[test]
fn udp_ports_belong_to_whom_binds_them() {
    in_world(|world| {
        let mut client = world.agent(1).client();
        let mut other = world.agent(2).client();
        client.does("s = socket.socket(AF_INET, SOCK_DGRAM); s.bind(('0.0.0.0', 0))");
        let port: u16 = client.number("port(s)");
        let send = format!("c.sendto(b'x', ('127.0.0.1', {port}))");
        client.does("c = socket.socket(AF_INET, SOCK_DGRAM)");
        assert_eq!(client.says(&send), "1");
        assert!(client.says("heard(s)").starts_with("x 127.0.0.1 "));
        client.does(&format!("d = udp('127.0.0.1', {port}); d.send(b'y')"));
        assert!(client.says("heard(s)").starts_with("y 127.0.0.1 "));
        assert_eq!(world.events().len(), 0);

        other.does("c = socket.socket(AF_INET, SOCK_DGRAM)");
        is_foreign(world, &mut other, &send);
        other.does(&format!("d = udp('127.0.0.1', {port})"));
        is_foreign(world, &mut other, "d.send(b'x')");

        client.does("s.close()");
        is_foreign(world, &mut client, &send);
    });
}

#[test]
fn without_local_ports_of_its_own_an_agent_reaches_none() {
    in_world(|world| {
        let mut agent = world.agent(1);
        agent.entry.flags = 0;
        world.gate.put_agent(agent.id, &agent.entry).unwrap();
        let mut client = agent.client();
        client.does("l = listener()");
        is_foreign(world, &mut client, "tcp('127.0.0.1', port(l))");
    });
}

/// A socket of the agent's on the same port does not make somebody else's its own.
#[test]
fn a_port_held_beside_another_program_opens_nothing_of_it() {
    in_world(|world| {
        // An ungoverned service, and the agent beside it on the other family, v6-only.
        let host = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = host.local_addr().unwrap().port();
        let mut client = world.agent(1).client();
        client.does(&format!(
            "l = only6(socket.SOCK_STREAM, {port}); l.listen()"
        ));
        for address in ["127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1", "::ffff:0.0.0.0"] {
            is_foreign(world, &mut client, &format!("tcp('{address}', {port})"));
        }
        client.does(&format!("tcp('::1', {port})"));
        client.does("l.close()");
        client.does(&format!(
            "l = only6(socket.SOCK_STREAM, {port}, '::1'); l.listen()"
        ));
        for address in ["127.0.0.1", "0.0.0.0", "::ffff:0.0.0.0"] {
            is_foreign(world, &mut client, &format!("tcp('{address}', {port})"));
        }

        let host = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = host.local_addr().unwrap().port();
        client.does(&format!("u = only6(socket.SOCK_DGRAM, {port})"));
        client.does("d = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)");
        world.events();
        client.is_refused(&format!("d.sendto(b'x', ('127.0.0.1', {port}))"));
        assert_eq!(world.events()[0].reason, reason::LOOPBACK);
    });
}

/// A listener that does not listen any more leaves its port to whoever listens next.
#[test]
fn a_port_that_was_given_up_belongs_to_the_next() {
    in_world(|world| {
        let mut squatter = world.agent(1).client();
        let mut next = world.agent(2).client();
        squatter.does("l = listener('0.0.0.0', reuse=True)");
        let port: u16 = squatter.number("port(l)");
        squatter.does("l.shutdown(socket.SHUT_RDWR)");
        next.does(&format!("n = listener('127.0.0.1', {port}, reuse=True)"));
        is_foreign(world, &mut squatter, &format!("tcp('127.0.0.1', {port})"));
        next.does(&format!("c = tcp('127.0.0.1', {port}); n.accept()"));
    });
}

/// The guard's ports as while no daemon runs: the gate sends flows there, and nobody listens.
fn without_a_daemon(world: &mut World) {
    let listeners = Listeners {
        proxy_port: 20001,
        resolver_port: 20053,
        flags: listener_flag::V6,
    };
    let netns = world.listening.netns;
    world.gate.put_listeners(netns, &listeners).unwrap();
}

#[test]
fn nobody_takes_a_port_of_the_guards_while_no_daemon_runs() {
    in_world(|world| {
        without_a_daemon(world);
        let mut client = world.agent(1).client();
        let mut outside = world.ungoverned("outside").client();
        for address in [
            "127.0.0.1",
            "127.0.0.2",
            "0.0.0.0",
            "192.0.2.9",
            "::1",
            "::",
        ] {
            for (transport, number) in [("SOCK_STREAM", 6), ("SOCK_DGRAM", 17)] {
                for port in [20001, 20053] {
                    let bind = format!(
                        "s = socket.socket(family('{address}'), {transport}); s.bind(('{address}', {port}))"
                    );
                    outside.does(&format!("{bind}; s.close()"));
                    client.is_refused(&bind);
                    let events = world.events();
                    assert_eq!(events.len(), 1, "{bind}: {events:?}");
                    let event = &events[0];
                    assert_eq!(
                        (event.kind, event.reason, event.denied),
                        (kind::INBOUND, reason::GUARD, 1)
                    );
                    assert_eq!((event.local_port, event.protocol), (port, number));
                    assert_eq!((event.agent, event.pid), (1, client.pid()));
                }
            }
        }
        client.does("s.bind(('::', 20002))");
    });
}

#[test]
fn a_port_of_the_guards_that_the_kernel_gave_takes_nothing_that_is_for_the_guard() {
    in_world(|world| {
        without_a_daemon(world);
        let mut client = world.agent(1).client();
        let mut outside = world.ungoverned("outside").client();
        // Of this thread's network.
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "20001 20001").unwrap();
        client.does("l = socket.socket(); l.listen(); l.setblocking(False)");
        client.does("u = udp('127.0.0.1', 9); u.setblocking(False)");
        for held in ["l", "u"] {
            assert_eq!(client.number::<u16>(&format!("port({held})")), 20001);
        }
        world.events();
        outside.does("s = socket.socket(); s.bind(('127.0.0.1', 30000)); s.setblocking(False)");
        outside.does("s.connect_ex(('127.0.0.1', 20001))");
        outside.does("d = socket.socket(AF_INET, SOCK_DGRAM); d.bind(('127.0.0.1', 9))");
        outside.does("d.sendto(b'query', ('127.0.0.1', 20001))");
        let mut refused = BTreeSet::new();
        eventually("both are refused", || {
            let events = world.events().into_iter();
            refused.extend(events.map(|event| (event.protocol, event.kind, event.reason)));
            refused == BTreeSet::from([6, 17].map(|of| (of, kind::INBOUND, reason::GUARD)))
        });
        assert_eq!(client.says("do l.accept()"), "EAGAIN");
        assert_eq!(client.says("do u.recv(9)"), "EAGAIN");
    });
}

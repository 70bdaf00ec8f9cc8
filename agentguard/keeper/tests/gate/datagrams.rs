//! UDP: decided on the first datagram, and the resolver.

use std::net::{IpAddr, UdpSocket};

use agentguard_common::event::{kind, reason};
use agentguard_common::map::{Listeners, TCP, UDP, effect, listener_flag};
use agentguard_keeper::gate::view::Listener;

use crate::world::{
    PORTS, accept, any, datagram_server, direct, in_world, ports, server, tcp, udp,
};

#[test]
fn a_connect_that_sends_nothing_is_neither_refused_nor_told() {
    in_world(|world| {
        let mut client = world.agent(1).client();
        for address in ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"] {
            client.does(&format!("s = udp('{address}', 443)"));
            assert_eq!(client.says("peer(s)"), format!("{address} 443"));
            client.does("s.close()");
        }
        assert_eq!(world.events().len(), 0);
    });
}

#[test]
fn the_first_datagram_is_decided_with_one_event() {
    in_world(|world| {
        let agent = world.agent(1);
        let mut client = agent.client();
        for address in ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"] {
            client.does(&format!("s = udp('{address}', 443)"));
            client.is_refused("s.send(b'x')");
            let connected = world.events();
            client.does(&format!(
                "s = socket.socket(family('{address}'), SOCK_DGRAM)"
            ));
            client.is_refused(&format!("s.sendto(b'x', ('{address}', 443))"));
            let unconnected = world.events();
            for events in [connected, unconnected] {
                assert_eq!(events.len(), 1, "{events:?}");
                let event = &events[0];
                assert_eq!((event.kind, event.reason), (kind::FLOW, reason::NO_RULE));
                assert_eq!((event.agent, event.denied, event.protocol), (1, 1, 17));
                assert_eq!((event.pid, event.remote_port), (client.pid(), 443));
                let expected: IpAddr = address.parse().unwrap();
                assert_eq!(IpAddr::from(event.remote), expected.to_canonical());
            }
        }
        // Packets: the calls that were refused made none. The kernel gives what a v4-mapped socket
        // is connected to an address of its own, so that one is refused at the call too.
        assert_eq!(world.view.counters(1).unwrap().denied, 2);
    });
}

#[test]
fn an_allowed_flow_is_told_once_and_answered() {
    in_world(|world| {
        let agent = world.agent(1);
        let (server, port) = datagram_server("192.0.2.1:0");
        world.rule(
            &agent,
            &[("192.0.2.1/32", ports(effect::DIRECT, 8, UDP, port, port))],
        );
        let mut client = agent.client();
        for (open, send) in [
            (
                format!("s = udp('192.0.2.1', {port})"),
                "s.send(b'x')".to_owned(),
            ),
            (
                "s = socket.socket(AF_INET, SOCK_DGRAM)".to_owned(),
                format!("s.sendto(b'x', ('192.0.2.1', {port}))"),
            ),
        ] {
            client.does(&open);
            let mut buffer = [0; 8];
            for _ in 0..3 {
                assert_eq!(client.says(&send), "1");
                let (_, peer) = server.recv_from(&mut buffer).unwrap();
                server.send_to(b"y", peer).unwrap();
                assert_eq!(client.says("heard(s)"), format!("y 192.0.2.1 {port}"));
            }
            let events = world.events();
            assert_eq!(events.len(), 1, "{events:?}");
            assert_eq!((events[0].rule, events[0].denied), (8, 0));
        }
        // The rule is for UDP.
        client.is_refused(&format!("tcp('192.0.2.1', {port})"));
    });
}

#[test]
fn a_reused_socket_is_decided_for_each_destination() {
    in_world(|world| {
        let agent = world.agent(1);
        let (_allowed, port) = datagram_server("192.0.2.1:0");
        let (denied, _) = datagram_server(&format!("192.0.2.2:{port}"));
        world.rule(&agent, &[("192.0.2.1/32", direct(8))]);
        let mut client = agent.client();
        client.does(&format!("s = udp('192.0.2.1', {port})"));
        assert_eq!(client.says("s.send(b'x')"), "1");
        client.does(&format!("s.connect(('192.0.2.2', {port}))"));
        client.is_refused("s.send(b'x')");
        // An address on a connected socket.
        client.does(&format!("s.connect(('192.0.2.1', {port}))"));
        client.is_refused(&format!("s.sendto(b'x', ('192.0.2.2', {port}))"));
        assert_eq!(client.says("s.send(b'x')"), "1");
        denied.set_nonblocking(true).unwrap();
        assert!(denied.recv(&mut [0]).is_err());
        let told: Vec<u8> = world.events().iter().map(|event| event.denied).collect();
        assert_eq!(told, [0, 1, 1, 0]);
    });
}

#[test]
fn whatever_resolver_an_agent_asks_it_gets_ours() {
    in_world(|world| {
        let mut client = world.agent(1).client();
        let v4 = udp(&world.listening.v4.resolver_udp);
        let v6 = udp(&world.listening.v6.as_ref().unwrap().resolver_udp);
        let cases: [(&str, &UdpSocket, &str); 3] = [
            ("192.0.2.53", &v4, "127.0.0.1"),
            ("::ffff:192.0.2.53", &v4, "127.0.0.1"),
            ("2001:db8::53", &v6, "::1"),
        ];
        for (asked, resolver, local) in cases {
            for (open, send) in [
                (
                    format!("s = udp('{asked}', 53)"),
                    "s.send(b'query')".to_owned(),
                ),
                (
                    format!("s = socket.socket(family('{asked}'), SOCK_DGRAM)"),
                    format!("s.sendto(b'query', ('{asked}', 53))"),
                ),
            ] {
                client.does(&open);
                assert_eq!(client.says(&send), "5", "{send}");
                let mut buffer = [0; 8];
                let (length, peer) = resolver.recv_from(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], b"query");
                assert_eq!(peer.ip().to_string(), local);

                let key = world.key(local, peer.port(), UDP);
                let origin = world
                    .view
                    .origin(Listener::Resolver, &key)
                    .unwrap()
                    .expect("published");
                let expected: IpAddr = asked.parse().unwrap();
                assert_eq!(IpAddr::from(origin.destination), expected.to_canonical());
                assert_eq!((origin.port, origin.agent), (53, 1));
                assert_eq!(
                    (origin.pid, origin.reason),
                    (client.pid(), reason::RESOLVER)
                );

                resolver.send_to(b"reply", peer).unwrap();
                assert_eq!(client.says("heard(s)"), format!("reply {asked} 53"));
                if send.starts_with("s.send(") {
                    assert_eq!(client.says("peer(s)"), format!("{asked} 53"));
                }
            }
        }
        // The resolver says what becomes of them.
        assert_eq!(world.events().len(), 0);
    });
}

#[test]
fn a_resolver_is_asked_over_tcp_too() {
    in_world(|world| {
        let mut client = world.agent(1).client();
        client.does("s = tcp('192.0.2.53', 53)");
        let key = world.key("127.0.0.1", client.number("port(s)"), TCP);
        accept(&tcp(&world.listening.v4.resolver_tcp));
        let origin = world
            .view
            .origin(Listener::Resolver, &key)
            .unwrap()
            .unwrap();
        assert_eq!((origin.port, origin.reason), (53, reason::RESOLVER));
        assert_eq!(client.says("peer(s)"), "192.0.2.53 53");
    });
}

#[test]
fn what_only_the_proxy_may_decide_takes_no_datagrams() {
    in_world(|world| {
        let agent = world.agent(1);
        world.rule(&agent, &[("::/0", any(effect::PROXY, 4))]);
        let mut client = agent.client();
        client.does("s = udp('192.0.2.1', 443)");
        client.is_refused("s.send(b'x')");
        client.does("s = socket.socket(AF_INET, SOCK_DGRAM)");
        client.is_refused("s.sendto(b'x', ('192.0.2.1', 443))");
        let events = world.events();
        assert_eq!(events.len(), 2);
        for event in events {
            assert_eq!((event.reason, event.rule), (reason::DATAGRAM, 4));
        }
    });
}

#[test]
fn who_asks_an_agent_over_loopback_is_answered() {
    in_world(|world| {
        let mut client = world.agent(1).client();
        client.does("s = socket.socket(AF_INET, SOCK_DGRAM); s.bind(('127.0.0.1', 0))");
        let port: u16 = client.number("port(s)");
        let (asker, own) = datagram_server("127.0.0.1:0");
        asker.send_to(b"hey", ("127.0.0.1", port)).unwrap();
        assert_eq!(client.says("heard(s)"), format!("hey 127.0.0.1 {own}"));
        assert_eq!(
            client.says(&format!("s.sendto(b'ho', ('127.0.0.1', {own}))")),
            "2"
        );
        let mut buffer = [0; 4];
        assert_eq!(asker.recv(&mut buffer).unwrap(), 2);
        assert_eq!(world.events().len(), 0);
        // Nobody else is.
        let (_other, other) = datagram_server("127.0.0.1:0");
        client.is_refused(&format!("s.sendto(b'ho', ('127.0.0.1', {other}))"));
        assert_eq!(world.events()[0].reason, reason::LOOPBACK);
        let (_server, tcp_port) = server();
        client.is_refused(&format!("tcp('127.0.0.1', {tcp_port})"));
        assert_eq!(world.events()[0].reason, reason::LOOPBACK);
    });
}

/// What the resolver says to somebody who did not ask, as a late answer, is no way to ask it without
/// being known.
#[test]
fn who_hears_from_the_resolver_cannot_answer_it() {
    in_world(|world| {
        let mut client = world.agent(1).client();
        let v4 = udp(&world.listening.v4.resolver_udp);
        let v6 = udp(&world.listening.v6.as_ref().unwrap().resolver_udp);
        for (resolver, here) in [(v4, "127.0.0.1"), (v6, "::1")] {
            client.does(&format!("u = socket.socket(family('{here}'), SOCK_DGRAM)"));
            client.does(&format!("u.bind(('{here}', 0))"));
            let port: u16 = client.number("port(u)");
            resolver.send_to(b"late", (here, port)).unwrap();
            let told = format!("late {here} {}", PORTS.resolver);
            assert_eq!(client.says("heard(u)"), told);
            let answer = format!("u.sendto(b'x', ('{here}', {}))", PORTS.resolver);
            client.is_refused(&answer);
            client.does(&format!("u.connect(('{here}', {}))", PORTS.resolver));
            client.is_refused("u.send(b'x')");
            let refused: Vec<u8> = world.events().iter().map(|event| event.reason).collect();
            assert_eq!(refused, [reason::GUARD; 2]);
            resolver.set_nonblocking(true).unwrap();
            assert!(resolver.recv(&mut [0]).is_err());
        }
    });
}

/// After a start with another port a socket that was redirected before leads to where anybody may listen.
#[test]
fn what_was_redirected_goes_to_no_port_that_the_guard_has_left() {
    in_world(|world| {
        let mut client = world.agent(1).client();
        let v4 = udp(&world.listening.v4.resolver_udp);
        let v6 = udp(&world.listening.v6.as_ref().unwrap().resolver_udp);
        let netns = world.listening.netns;
        let ours = Listeners {
            proxy_port: PORTS.proxy,
            resolver_port: PORTS.resolver,
            flags: listener_flag::V6,
        };
        let moved = Listeners {
            resolver_port: PORTS.resolver + 1,
            ..ours
        };
        // The proxy has no use for a datagram either.
        let exchanged = Listeners {
            proxy_port: PORTS.resolver,
            ..moved
        };
        let four_only = Listeners { flags: 0, ..ours };
        for (resolver, asked, elsewhere) in [
            (v4, "192.0.2.53", vec![Some(moved), Some(exchanged), None]),
            (v6, "2001:db8::53", vec![Some(moved), Some(four_only), None]),
        ] {
            for listeners in elsewhere {
                client.does(&format!("s = udp('{asked}', 53)"));
                client.does("s.send(b'query')");
                let mut buffer = [0; 8];
                assert_eq!(resolver.recv(&mut buffer).unwrap(), 5);
                match listeners {
                    Some(listeners) => world.gate.put_listeners(netns, &listeners).unwrap(),
                    None => world.gate.remove_listeners(netns).unwrap(),
                }
                client.is_refused("s.send(b'query')");
                world.gate.put_listeners(netns, &ours).unwrap();
            }
            resolver.set_nonblocking(true).unwrap();
            assert!(resolver.recv(&mut [0]).is_err());
        }
        let events = world.events();
        assert_eq!(events.len(), 6);
        assert!(events.iter().all(|event| event.denied == 1));
    });
}

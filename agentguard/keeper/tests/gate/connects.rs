//! TCP: denied, direct, to the proxy.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use agentguard_common::event::{kind, reason};
use agentguard_common::map::{
    Origin, OriginKey, PortRule, PortRules, Settings, TCP, agent_flag, effect, mode, port_rule_flag,
};
use agentguard_keeper::gate::view::Listener;

use crate::client::Client;
use crate::world::{
    Agent, GENERATION, PORTS, World, accept, any, direct, eventually, in_world, ports, server, tcp,
};

#[test]
fn what_no_rule_allows_is_refused_in_every_family() {
    in_world(|world| {
        let agent = world.agent(1);
        let mut client = agent.client();
        for (address, told) in [
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("::ffff:192.0.2.2", "192.0.2.2"),
        ] {
            client.is_refused(&format!("s = tcp('{address}', 80)"));
            let events = world.events();
            assert_eq!(events.len(), 1, "{events:?}");
            let event = &events[0];
            assert_eq!((event.kind, event.reason), (kind::FLOW, reason::NO_RULE));
            assert_eq!(event.denied, 1);
            assert_eq!(std::net::IpAddr::from(event.remote).to_string(), told);
            assert_eq!((event.remote_port, event.protocol), (80, 6));
            assert_eq!((event.agent, event.run), (1, 101));
            assert_eq!((event.pid, event.uid), (client.pid(), 0));
            assert_eq!(event.comm, *b"python3\0\0\0\0\0\0\0\0\0");
            assert_eq!(event.netns, world.listening.netns);
            assert_eq!(event.generation, GENERATION);
        }
        // What nobody listens for says so only where a rule allows it.
        world.rule(&agent, &[("::/0", direct(3))]);
        assert_eq!(client.says("tcp('192.0.2.1', 9)"), "ECONNREFUSED");
    });
}

#[test]
fn a_rule_lets_its_ports_pass_and_no_others() {
    in_world(|world| {
        let (server, port) = server();
        let agent = world.agent(1);
        world.rule(
            &agent,
            &[
                ("192.0.2.0/25", ports(effect::DIRECT, 11, TCP, port, port)),
                (
                    "2001:db8:1::/48",
                    ports(effect::DIRECT, 12, TCP, port, port),
                ),
                ("192.0.2.64/26", any(effect::DENY, 13)),
            ],
        );
        let mut client = agent.client();
        for (address, rule) in [
            ("192.0.2.1", 11),
            ("::ffff:192.0.2.1", 11),
            ("2001:db8:1::1", 12),
        ] {
            client.does(&format!(
                "s = tcp('{address}', {port}); s.sendall(b'hello')"
            ));
            let (mut stream, _) = accept(&server);
            let mut heard = [0; 5];
            stream.read_exact(&mut heard).unwrap();
            assert_eq!(client.says("peer(s)"), format!("{address} {port}"));
            let events = world.events();
            assert_eq!(events.len(), 1, "{events:?}");
            assert_eq!(
                (events[0].reason, events[0].rule, events[0].denied),
                (reason::RULE_ALLOW, rule, 0)
            );

            // Its end is told with what was carried.
            drop(stream);
            assert_eq!(client.says("s.recv(1)"), "b''");
            client.does("s.close()");
            let mut closed = Vec::new();
            eventually("the end of the flow", || {
                closed.extend(world.events());
                !closed.is_empty()
            });
            assert_eq!((closed[0].kind, closed[0].rule), (kind::CLOSED, rule));
            assert_eq!((closed[0].sent_bytes, closed[0].received_bytes), (5, 0));
            assert_eq!(closed.len(), 1);
        }
        for (address, port, why) in [
            ("192.0.2.1", port ^ 1, reason::NO_RULE),
            ("192.0.2.65", port, reason::RULE_DENY),
            ("192.0.2.129", port, reason::NO_RULE),
            ("2001:db8:2::1", port, reason::NO_RULE),
        ] {
            client.is_refused(&format!("tcp('{address}', {port})"));
            let events = world.events();
            assert_eq!((events.len(), events[0].reason), (1, why), "{address}");
        }
    });
}

#[test]
fn the_modes_that_enforce_nothing_let_pass_and_say_so() {
    in_world(|world| {
        let (server, port) = server();
        let mut agent = world.agent(1);
        agent.entry.mode = mode::SHADOW;
        world.gate.put_agent(agent.id, &agent.entry).unwrap();
        let mut hard = any(effect::DENY, 9);
        hard[0].flags = port_rule_flag::HARD;
        world.rule(&agent, &[("203.0.113.254/32", hard)]);
        let mut client = agent.client();
        client.does(&format!("s = tcp('203.0.113.1', {port})"));
        accept(&server);
        let events = world.events();
        assert_eq!((events.len(), events[0].reason), (1, reason::NO_RULE));
        assert_eq!(events[0].denied, 0);
        client.is_refused(&format!("tcp('203.0.113.254', {port})"));
        assert_eq!(world.events()[0].reason, reason::METADATA);
    });
}

/// A process of an agent whose whole address space goes to the proxy.
fn proxied(world: &mut World) -> (Agent, Client) {
    let agent = world.agent(1);
    world.rule(
        &agent,
        &[("::/0", ports(effect::PROXY, 21, TCP, 0, u16::MAX))],
    );
    let client = agent.client();
    (agent, client)
}

fn origin(world: &World, key: &OriginKey) -> Option<Origin> {
    world.view.origin(Listener::Proxy, key).unwrap()
}

/// What the proxy finds out about a connection that it has accepted.
fn check_origin(world: &World, key: &OriginKey, client: u32, destination: &str, port: u16) {
    let origin = origin(world, key).expect("published");
    let told = std::net::IpAddr::from(origin.destination).to_string();
    assert_eq!((told.as_str(), origin.port), (destination, port));
    assert_eq!((origin.agent, origin.run), (1, 101));
    assert_eq!((origin.pid, origin.uid), (client, 0));
    assert_eq!(origin.comm, *b"python3\0\0\0\0\0\0\0\0\0");
    assert_eq!(origin.reason, reason::PROXY);
    assert_eq!(origin.generation, GENERATION);
    assert_ne!(origin.socket, 0);
}

#[test]
fn the_proxy_finds_where_a_connection_was_meant_to_go() {
    in_world(|world| {
        let (_agent, mut client) = proxied(world);
        let v4 = tcp(&world.listening.v4.proxy);
        let v6 = tcp(&world.listening.v6.as_ref().unwrap().proxy);
        for (dialled, listener, local, told) in [
            ("192.0.2.1", &v4, "127.0.0.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", &v4, "127.0.0.1", "192.0.2.1"),
            ("2001:db8::1", &v6, "::1", "2001:db8::1"),
        ] {
            client.does(&format!("s = tcp('{dialled}', 443)"));
            let port = client.number("port(s)");
            // Before it is accepted.
            let key = world.key(local, port, TCP);
            check_origin(world, &key, client.pid(), told, 443);
            let (mut stream, peer) = accept(listener);
            assert_eq!((peer.ip().to_string().as_str(), peer.port()), (local, port));
            assert_eq!(client.says("peer(s)"), format!("{dialled} 443"));
            stream.write_all(b"well").unwrap();
            assert_eq!(client.says("s.recv(4)"), "b'well'");
            // The proxy says what becomes of it; the kernel says nothing of its own.
            assert_eq!(world.events().len(), 0);

            let found = origin(world, &key).unwrap();
            let proxy = Listener::Proxy;
            world.view.forget_origin(proxy, &key, &found).unwrap();
            assert_eq!(origin(world, &key), None);
        }
    });
}

#[test]
fn a_client_that_is_long_gone_is_still_known() {
    in_world(|world| {
        let (_agent, mut client) = proxied(world);
        let pid = client.pid();
        client.does("s = tcp('192.0.2.1', 80); p = port(s)");
        let port = client.number("p");
        client.does("s.sendall(b'fire and forget'); s.close()");
        client.ends();
        let key = world.key("127.0.0.1", port, TCP);
        check_origin(world, &key, pid, "192.0.2.1", 80);
        let (mut stream, peer) = accept(&tcp(&world.listening.v4.proxy));
        assert_eq!(peer.port(), port);
        check_origin(world, &key, pid, "192.0.2.1", 80);
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "fire and forget");
        assert_eq!(world.view.sweep_origins(u64::MAX).unwrap(), 1);
    });
}

#[test]
fn the_guards_own_sockets_are_out_of_reach() {
    in_world(|world| {
        let agent = world.agent(1);
        world.rule(&agent, &[("::/0", direct(1))]);
        let mut client = agent.client();
        for address in ["127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::"] {
            for port in [PORTS.proxy, PORTS.resolver] {
                client.is_refused(&format!("tcp('{address}', {port})"));
                let events = world.events();
                assert_eq!(
                    (events.len(), events[0].reason),
                    (1, reason::GUARD),
                    "{address}"
                );
            }
        }
    });
}

#[test]
fn without_a_listener_in_the_namespace_there_is_no_way() {
    in_world(|world| {
        let (_agent, mut client) = proxied(world);
        world.gate.remove_listeners(world.listening.netns).unwrap();
        client.is_refused("tcp('192.0.2.1', 443)");
        assert_eq!(world.events()[0].reason, reason::NO_LISTENER);
        client.is_refused("tcp('192.0.2.1', 53)");
        assert_eq!(world.events()[0].reason, reason::NO_LISTENER);
        // Where no route leads there is no datagram that would tell of it.
        client.is_refused("udp('192.0.2.1', 53)");
        let events = world.events();
        assert_eq!((events.len(), events[0].reason), (1, reason::NO_LISTENER));
        // What getaddrinfo does only to sort addresses is no attempt.
        client.does("udp('192.0.2.1', 443)");
        assert_eq!(world.events().len(), 0);
    });
}

#[test]
fn without_the_daemon_direct_flows_end_unless_they_are_to_be_kept() {
    in_world(|world| {
        let (_server, port) = server();
        let mut agent = world.agent(1);
        world.rule(&agent, &[("::/0", direct(5))]);
        let mut client = agent.client();
        client.does(&format!("tcp('192.0.2.1', {port})"));
        world
            .gate
            .set(&Settings {
                alive_until_ns: 1,
                abi_version: agentguard_common::ABI_VERSION,
                generation: GENERATION,
            })
            .unwrap();
        world.events();
        client.is_refused(&format!("tcp('192.0.2.1', {port})"));
        let events = world.events();
        let refused = events.iter().find(|event| event.denied == 1).unwrap();
        assert_eq!((refused.reason, refused.rule), (reason::DAEMON_LOST, 5));
        agent.entry.flags |= agent_flag::KEEP_ON_LOSS;
        world.gate.put_agent(agent.id, &agent.entry).unwrap();
        client.does(&format!("tcp('192.0.2.1', {port})"));
    });
}

#[test]
fn quarantine_stops_an_open_connection() {
    in_world(|world| {
        let (server, port) = server();
        let mut agent = world.agent(1);
        world.rule(&agent, &[("::/0", direct(5))]);
        let mut client = agent.client();
        client.does(&format!("s = tcp('192.0.2.1', {port}); s.sendall(b'a')"));
        let (mut stream, _) = accept(&server);
        let mut one = [0];
        stream.read_exact(&mut one).unwrap();

        agent.entry.flags |= agent_flag::QUARANTINED;
        world.gate.put_agent(agent.id, &agent.entry).unwrap();
        let denied = |world: &World| world.view.counters(1).unwrap().denied;
        let before = denied(world);
        client.does("s.sendall(b'secret')");
        eventually("what leaves is dropped", || denied(world) > before);
        stream.set_nonblocking(true).unwrap();
        let error = stream.read(&mut one).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);

        let before = denied(world);
        stream.write_all(b"order").unwrap();
        eventually("what arrives is dropped", || denied(world) > before);
        assert_eq!(client.says("s.setblocking(False) or s.recv(9)"), "EAGAIN");
        client.is_refused(&format!("tcp('192.0.2.1', {port})"));
        let last = world.events().pop().unwrap();
        assert_eq!((last.reason, last.denied), (reason::QUARANTINED, 1));

        // And released: what TCP kept is sent again.
        agent.entry.flags &= !agent_flag::QUARANTINED;
        world.gate.put_agent(agent.id, &agent.entry).unwrap();
        stream.set_nonblocking(false).unwrap();
        let mut kept = [0; 6];
        stream.read_exact(&mut kept).unwrap();
        assert_eq!(&kept, b"secret");
    });
}

#[test]
fn an_agents_sockets_are_ended_and_no_others() {
    in_world(|world| {
        let (server, port) = server();
        let (agent, other) = (world.agent(1), world.agent(2));
        for agent in [&agent, &other] {
            world.rule(agent, &[("::/0", direct(5))]);
        }
        let below = agent.path.join("below/it");
        std::fs::create_dir_all(&below).unwrap();
        let mut free = world.ungoverned("free");
        free.entry.agent = 0;
        let mut clients = [
            agent.client(),
            Client::inside(&below),
            other.client(),
            free.client(),
        ];
        let mut held = Vec::new();
        for client in &mut clients {
            client.does("kept = []");
            for address in ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"] {
                client.does(&format!("kept.append(tcp('{address}', {port}))"));
                held.push(accept(&server));
            }
            client.does("kept.append(udp('192.0.2.1', 9))");
            client.does("[s.setblocking(False) for s in kept]");
        }
        let ended =
            agentguard_keeper::sockets::destroy(std::slice::from_ref(&agent.path), Vec::new());
        assert_eq!((ended.sockets, ended.failures), (8, Vec::new()));
        for (number, client) in clients.iter_mut().enumerate() {
            let expected = if number < 2 { "ECONNABORTED" } else { "EAGAIN" };
            for socket in 0..4 {
                assert_eq!(
                    client.says(&format!("kept[{socket}].recv(1)")),
                    expected,
                    "{number}"
                );
            }
        }
        let again = agentguard_keeper::sockets::destroy(&[agent.path], Vec::new());
        assert_eq!((again.sockets, again.failures), (0, Vec::new()));
    });
}

#[test]
fn a_connection_that_fails_leaves_nothing_behind() {
    in_world(|world| {
        let (_agent, mut client) = proxied(world);
        // Nobody listens where the gate sends it.
        let nowhere = agentguard_common::map::Listeners {
            proxy_port: 9,
            resolver_port: PORTS.resolver,
            flags: 0,
        };
        world
            .gate
            .put_listeners(world.listening.netns, &nowhere)
            .unwrap();
        assert_eq!(client.says("tcp('192.0.2.1', 80)"), "ECONNREFUSED");
        assert_eq!(world.view.sweep_origins(u64::MAX).unwrap(), 0);
    });
}

#[test]
fn a_destination_takes_its_first_line_that_matches() {
    in_world(|world| {
        let (server, port) = server();
        let agent = world.agent(1);
        let mut rules = PortRules::default();
        let line = |effect, rule, first, last| PortRule {
            rule,
            first,
            last,
            transports: TCP,
            effect,
            ..PortRule::default()
        };
        for (rule, port) in rules.iter_mut().zip(0..7) {
            *rule = line(effect::DENY, 40 + u32::from(port), port, port);
        }
        rules[7] = line(effect::DIRECT, 47, 0, u16::MAX);
        world.rule(&agent, &[("192.0.2.0/24", rules)]);
        let mut client = agent.client();
        for refused in 0..7u16 {
            client.is_refused(&format!("tcp('192.0.2.1', {refused})"));
            let events = world.events();
            assert_eq!((events.len(), events[0].rule), (1, 40 + u32::from(refused)));
        }
        client.does(&format!("s = tcp('192.0.2.1', {port})"));
        accept(&server);
        assert_eq!(world.events()[0].rule, 47);
    });
}

#[test]
fn ungoverned_processes_are_left_alone() {
    in_world(|world| {
        let (server, port) = server();
        TcpStream::connect(("192.0.2.1", port)).unwrap();
        accept(&server);
        assert_eq!(world.events().len(), 0);
    });
}

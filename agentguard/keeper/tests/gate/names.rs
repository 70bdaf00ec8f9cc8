//! Destinations that were answered by name.

use std::io::Write as _;
use std::net::IpAddr;

use agentguard_common::address::Address;
use agentguard_common::event::reason;
use agentguard_common::map::{NameEntry, NameKey, PortRules, TCP, UDP, effect};
use agentguard_keeper::gate::view::Listener;

use crate::world::{World, accept, any, datagram_server, direct, in_world, ports, server, tcp};

fn answer(world: &mut World, agent: u32, address: &str, real: &str, rules: PortRules) {
    let parse = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
    let key = NameKey {
        agent,
        address: parse(address),
    };
    let entry = NameEntry {
        real: parse(real),
        rules,
    };
    world.gate.put_name(&key, &entry).unwrap();
}

#[test]
fn a_direct_name_goes_to_its_real_address_and_shows_the_dialled_one() {
    in_world(|world| {
        let (server, port) = server();
        let agent = world.agent(1);
        answer(world, 1, "198.18.0.5", "192.0.2.7", direct(31));
        answer(
            world,
            1,
            "fd41:6775:6172:6400::5",
            "2001:db8::7",
            direct(32),
        );
        let mut client = agent.client();
        for (dialled, real, rule) in [
            ("198.18.0.5", "192.0.2.7", 31),
            ("::ffff:198.18.0.5", "192.0.2.7", 31),
            ("fd41:6775:6172:6400::5", "2001:db8::7", 32),
        ] {
            client.does(&format!("s = tcp('{dialled}', {port})"));
            let (mut stream, _) = accept(&server);
            let arrived = stream.local_addr().unwrap().ip().to_canonical();
            assert_eq!(arrived.to_string(), real);
            assert_eq!(client.says("peer(s)"), format!("{dialled} {port}"));
            stream.write_all(b"yes").unwrap();
            assert_eq!(client.says("s.recv(3)"), "b'yes'");
            let events = world.events();
            assert_eq!(events.len(), 1, "{events:?}");
            assert_eq!((events[0].rule, events[0].denied), (rule, 0));
            let told = IpAddr::from(events[0].remote);
            let expected: IpAddr = dialled.parse().unwrap();
            assert_eq!(told, expected.to_canonical());
            client.does("s.close()");
            drop(stream);
            crate::world::eventually("the end of the flow", || !world.events().is_empty());
        }
    });
}

#[test]
fn a_direct_name_works_over_udp_connected_and_not() {
    in_world(|world| {
        let (server, port) = datagram_server("192.0.2.7:0");
        let agent = world.agent(1);
        answer(world, 1, "198.18.0.5", "192.0.2.7", any(effect::DIRECT, 31));
        let mut client = agent.client();
        let mut buffer = [0; 16];
        for (open, send, source) in [
            (
                format!("s = udp('198.18.0.5', {port})"),
                "s.send(b'ping')".to_owned(),
                "198.18.0.5",
            ),
            (
                "s = socket.socket(AF_INET, SOCK_DGRAM)".to_owned(),
                format!("s.sendto(b'ping', ('198.18.0.5', {port}))"),
                "198.18.0.5",
            ),
            (
                "s = socket.socket(AF_INET6, SOCK_DGRAM)".to_owned(),
                format!("s.sendto(b'ping', ('::ffff:198.18.0.5', {port}))"),
                "::ffff:198.18.0.5",
            ),
        ] {
            client.does(&open);
            assert_eq!(client.says(&send), "4", "{send}");
            let (length, peer) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"ping");
            server.send_to(b"pong", peer).unwrap();
            assert_eq!(client.says("heard(s)"), format!("pong {source} {port}"));
            assert_eq!(client.says(&send), "4", "{send}");
            server.recv(&mut buffer).unwrap();
            let events = world.events();
            assert_eq!(events.len(), 1, "{events:?}");
            assert_eq!((events[0].rule, events[0].denied), (31, 0));
        }
    });
}

/// `connect` notes what it dials before it has decided on it, and the other thread's datagram leaves just
/// then: it would be told as one that was allowed to go where nothing is.
#[test]
fn what_is_told_of_a_datagram_is_where_it_goes_whatever_is_dialled_meanwhile() {
    in_world(|world| {
        let (_first, port) = datagram_server("192.0.2.7:0");
        let agent = world.agent(1);
        let names = [("198.18.0.5", "192.0.2.7"), ("198.18.0.6", "192.0.2.8")];
        for ((address, real), rule) in names.into_iter().zip([31, 32]) {
            answer(world, 1, address, real, any(effect::DIRECT, rule));
        }
        let elsewhere = "192.0.2.66";
        let mut client = agent.client();
        let race = format!("races(['198.18.0.5', '198.18.0.6'], '{elsewhere}', {port}, 0.1)");
        let mut told = 0;
        // A slow machine's share of the events is used up more often.
        for round in 0..300 {
            if round >= 30 && told > 20 {
                break;
            }
            client.does(&race);
            // While the agent's share of the events is used up nothing passes.
            for event in world.events() {
                if event.denied != 0 {
                    continue;
                }
                let remote = IpAddr::from(event.remote).to_string();
                let rule = names.iter().position(|(address, _)| *address == remote);
                assert_eq!(rule.map(|at| 31 + at as u32), Some(event.rule), "{event:?}");
                told += 1;
            }
        }
        assert!(told > 20, "{told}");
    });
}

#[test]
fn a_virtual_address_is_no_use_to_whom_it_was_not_answered() {
    in_world(|world| {
        let (_server, port) = server();
        let agent = world.agent(1);
        let other = world.agent(2);
        world.rule(&other, &[("::/0", direct(1))]);
        answer(world, 1, "198.18.0.5", "192.0.2.7", direct(31));
        let mut client = other.client();
        client.is_refused(&format!("tcp('198.18.0.5', {port})"));
        assert_eq!(world.events()[0].reason, reason::NOT_ANSWERED);
        client.is_refused(&format!("tcp('fd41:6775:6172:6400::5', {port})"));
        assert_eq!(world.events()[0].reason, reason::NOT_ANSWERED);

        let mut client = agent.client();
        client.does(&format!("tcp('198.18.0.5', {port})"));
        let key = NameKey {
            agent: 1,
            address: Address::from("198.18.0.5".parse::<IpAddr>().unwrap()),
        };
        assert_eq!(world.gate.names().unwrap(), [key]);
        world.gate.remove_name(&key).unwrap();
        world.gate.remove_name(&key).unwrap();
        client.is_refused(&format!("tcp('198.18.0.5', {port})"));
    });
}

#[test]
fn a_name_without_an_address_of_the_family_is_refused() {
    in_world(|world| {
        let agent = world.agent(1);
        answer(world, 1, "198.18.0.5", "2001:db8::7", direct(31));
        answer(world, 1, "198.18.0.6", "::", direct(32));
        let mut client = agent.client();
        for (address, rule) in [("198.18.0.5", 31), ("198.18.0.6", 32)] {
            client.is_refused(&format!("tcp('{address}', 80)"));
            let events = world.events();
            assert_eq!((events.len(), events[0].rule), (1, rule));
            assert_eq!(events[0].reason, reason::NO_ADDRESS);
        }
    });
}

#[test]
fn a_name_for_the_proxy_goes_there_over_tcp_alone() {
    in_world(|world| {
        let agent = world.agent(1);
        let rules = ports(effect::PROXY, 33, TCP | UDP, 443, 443);
        answer(world, 1, "198.18.0.5", "::", rules);
        let mut client = agent.client();
        client.does("s = tcp('198.18.0.5', 443)");
        let key = world.key("127.0.0.1", client.number("port(s)"), TCP);
        accept(&tcp(&world.listening.v4.proxy));
        let origin = world.view.origin(Listener::Proxy, &key).unwrap().unwrap();
        assert_eq!(IpAddr::from(origin.destination).to_string(), "198.18.0.5");
        client.is_refused("tcp('198.18.0.5', 80)");
        assert_eq!(world.events()[0].reason, reason::NO_RULE);
        // QUIC.
        client.does("s = udp('198.18.0.5', 443)");
        assert_eq!(world.events().len(), 0);
        client.is_refused("s.send(b'q')");
        let events = world.events();
        assert_eq!((events.len(), events[0].reason), (1, reason::DATAGRAM));
        client.does("s = socket.socket(AF_INET, SOCK_DGRAM)");
        client.is_refused("s.sendto(b'q', ('198.18.0.5', 443))");
        let events = world.events();
        assert_eq!((events.len(), events[0].reason), (1, reason::DATAGRAM));
    });
}

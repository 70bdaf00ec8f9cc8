//! Which sockets exist.

use std::fs;
use std::net::IpAddr;

use agentguard_common::event::{kind, reason};
use agentguard_common::map::mode;

use crate::world::{Client, accept, direct, in_world, server};

#[test]
fn a_process_under_the_gate_that_belongs_to_no_agent_gets_no_socket() {
    in_world(|world| {
        let mut client = Client::inside(world.cgroup());
        for family in ["AF_INET", "AF_INET6"] {
            for kind_of in ["SOCK_STREAM", "SOCK_DGRAM"] {
                client.is_refused(&format!("socket.socket({family}, {kind_of})"));
                let events = world.events();
                assert_eq!(events.len(), 1, "{events:?}");
                let event = &events[0];
                assert_eq!((event.kind, event.reason), (kind::SOCKET, reason::NO_AGENT));
                assert_eq!((event.agent, event.pid), (0, client.pid()));
            }
        }
        // Other families are none of the gate's business.
        client.does("socket.socket(socket.AF_UNIX)");
    });
}

#[test]
fn an_agent_that_is_forgotten_has_nothing_left() {
    in_world(|world| {
        let (_server, port) = server();
        let agent = world.agent(1);
        world.rule(&agent, &[("::/0", direct(1))]);
        let mut client = agent.client();
        client.does("s = socket.socket()");
        assert_eq!(world.gate.agents().unwrap(), [(agent.id, agent.entry)]);
        world.gate.remove_agent(agent.id).unwrap();
        world.gate.remove_agent(agent.id).unwrap();
        client.is_refused(&format!("s.connect(('192.0.2.1', {port}))"));
        assert_eq!(world.events()[0].reason, reason::NO_AGENT);
        client.is_refused("socket.socket()");
    });
}

#[test]
fn an_agents_children_cgroups_are_the_agents() {
    in_world(|world| {
        let agent = world.agent(1);
        let mut child = agent.path;
        for level in 0..6 {
            child.push(format!("level-{level}"));
            fs::create_dir(&child).unwrap();
        }
        let mut client = Client::inside(&child);
        client.is_refused("tcp('192.0.2.1', 80)");
        assert_eq!(world.events()[0].agent, 1);
    });
}

#[test]
fn sockets_of_other_kinds_are_refused() {
    in_world(|world| {
        fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
        let mut agent = world.agent(1);
        let mut client = agent.client();
        let kinds = [
            ("AF_INET, SOCK_RAW, 255", 255),
            ("AF_INET, SOCK_RAW, 1", 1),
            ("AF_INET6, SOCK_RAW, 58", 58),
            ("AF_INET, SOCK_DGRAM, 1", 1),
            ("AF_INET6, SOCK_DGRAM, 58", 58),
            ("AF_INET, SOCK_STREAM, 262", 262),
            ("AF_INET6, SOCK_STREAM, 262", 262),
            ("AF_INET, SOCK_STREAM, 132", 132),
            ("AF_INET, SOCK_SEQPACKET, 132", 132),
            ("AF_INET, SOCK_DGRAM, 136", 136),
        ];
        for (arguments, protocol) in kinds {
            let answer = client.says(&format!("socket.socket({arguments})"));
            let events = world.events();
            if answer != "EPERM" {
                // Kernels without the protocol refuse by themselves.
                let own = ["EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "ENOPROTOOPT"];
                assert!(own.contains(&answer.as_str()), "{arguments}: {answer}");
                println!("not on this kernel: {arguments}: {answer}");
                assert_eq!(events.len(), 0);
                continue;
            }
            assert_eq!(events.len(), 1, "{arguments}: {events:?}");
            let event = &events[0];
            assert_eq!(
                (event.kind, event.reason),
                (kind::SOCKET, reason::SOCKET_TYPE)
            );
            assert_eq!((event.protocol, event.denied), (protocol, 1), "{arguments}");
            assert_eq!((event.agent, event.pid), (1, client.pid()));
        }
        client.does("socket.socket(); socket.socket(AF_INET6, SOCK_DGRAM)");
        assert_eq!(world.events().len(), 0);

        // Who only looks on says what it would have refused.
        agent.entry.mode = mode::OBSERVE;
        world.gate.put_agent(agent.id, &agent.entry).unwrap();
        client.does("socket.socket(AF_INET, SOCK_RAW, 1)");
        let events = world.events();
        assert_eq!((events.len(), events[0].denied), (1, 0));
    });
}

/// Enrolling a cgroup that lives already.
#[test]
fn a_socket_from_before_the_gate_sends_nothing() {
    in_world(|world| {
        let (server, port) = server();
        let late = world.ungoverned("late");
        let mut client = Client::inside(&late.path);
        client.does(&format!("u = udp('192.0.2.1', {port})"));
        client.does(&format!("t = tcp('192.0.2.1', {port})"));
        client.does("unused = socket.socket()");
        accept(&server);

        world.gate.put_agent(late.id, &late.entry).unwrap();
        world.rule(&late, &[("::/0", direct(1))]);
        world.gate.attach(&late.path).unwrap();
        // The sockets tell nothing; their packets do. The end of the TCP peer may still arrive and be
        // acknowledged.
        let mut events = |protocol| {
            let mut seen = world.events();
            seen.retain(|event| event.protocol == protocol && event.kind == kind::FLOW);
            for event in &seen {
                assert_eq!(
                    (event.reason, event.agent),
                    (reason::UNKNOWN_SOCKET, late.entry.agent)
                );
                assert_eq!(IpAddr::from(event.remote), IpAddr::from([192, 0, 2, 1]));
                assert_eq!(event.remote_port, port);
            }
            seen.len()
        };
        client.is_refused("u.send(b'x')");
        assert_eq!(events(17), 1);
        client.does("t.sendall(b'x')");
        assert!(events(6) > 0);
        // Nothing was dialled with this one: it is as good as new.
        client.does(&format!("unused.connect(('192.0.2.1', {port}))"));
        accept(&server);
    });
}

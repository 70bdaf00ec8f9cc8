//! Which sockets exist.

use std::fs;
use std::net::IpAddr;

use agentguard_common::event::{kind, reason};
use agentguard_common::map::mode;

use crate::client::Client;
use crate::world::{accept, direct, in_world, server};

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

/// The resolver would answer there, on the wire: the option is from before the gate could refuse it.
#[test]
fn a_socket_that_may_have_any_address_asks_nothing_in_its_name() {
    in_world(|world| {
        let late = world.ungoverned("late");
        let mut client = Client::inside(&late.path);
        for name in ["bound", "chooses", "own"] {
            client.does(&format!("{name} = socket.socket(AF_INET6, SOCK_DGRAM)"));
            // IPV6_FREEBIND.
            client.does(&format!("{name}.setsockopt(41, 78, 1)"));
        }
        client.does("bound.bind(('2a00::7', 0)); own.bind(('::1', 0))");
        world.gate.put_agent(late.id, &late.entry).unwrap();
        world.gate.attach(&late.path).unwrap();
        let to = "('2001:db8::53', 53)";
        // Nor by IPV6_PKTINFO.
        let name = "(41, 50, socket.inet_pton(AF_INET6, '2a00::7') + bytes(4))";
        for line in [
            format!("bound.sendto(b'a secret', {to})"),
            format!("chooses.sendmsg([b'a secret'], [{name}], 0, {to})"),
        ] {
            client.is_refused(&line);
            let last = world.events().pop().unwrap();
            assert_eq!(
                (last.reason, last.denied),
                (reason::UNPARSABLE, 1),
                "{line}"
            );
        }
        client.does(&format!("own.sendto(b'a query', {to})"));
    });
}

/// Level, name and value of options that make the kernel send by itself.
const JOINS: [(&str, &str, &str); 18] = [
    // IP_ADD_MEMBERSHIP and those with sources.
    ("AF_INET", "0, 35", "224.9.8.7 0.0.0.0"),
    ("AF_INET", "0, 37", "224.9.8.7 0.0.0.0 192.0.2.1"),
    ("AF_INET", "0, 38", "224.9.8.7 0.0.0.0 192.0.2.1"),
    ("AF_INET", "0, 39", "224.9.8.7 0.0.0.0 192.0.2.1"),
    ("AF_INET", "0, 41", "224.9.8.7 0.0.0.0 192.0.2.1"),
    // MCAST_*: join, block, unblock, join with a source, filter.
    ("AF_INET", "0, 42", ""),
    ("AF_INET", "0, 43", ""),
    ("AF_INET", "0, 44", ""),
    ("AF_INET", "0, 46", ""),
    ("AF_INET", "0, 48", ""),
    // IPV6_JOIN_GROUP, MCAST_JOIN_GROUP, IPV6_JOIN_ANYCAST; and IPv4's on a socket of the other family.
    ("AF_INET6", "41, 20", "ff05::9:8 1"),
    ("AF_INET6", "41, 42", ""),
    ("AF_INET6", "41, 43", ""),
    ("AF_INET6", "41, 44", ""),
    ("AF_INET6", "41, 46", ""),
    ("AF_INET6", "41, 48", ""),
    ("AF_INET6", "41, 27", "2001:db8::9:8 1"),
    ("AF_INET6", "0, 35", "224.9.8.7 0.0.0.0"),
];

/// `setsockopt(2)` on `s`, with a value of what fits.
fn option(place: &str, value: &str) -> String {
    let mut bytes = String::from("b''");
    for word in value.split_whitespace() {
        let part = match word.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => format!("+socket.inet_aton('{word}')"),
            Ok(IpAddr::V6(_)) => format!("+socket.inet_pton(AF_INET6, '{word}')"),
            Err(_) => format!("+int({word}).to_bytes(4, 'little')"),
        };
        bytes.push_str(&part);
    }
    if value.is_empty() {
        bytes = "bytes(264)".to_owned();
    }
    format!("s.setsockopt({place}, {bytes})")
}

#[test]
fn no_group_is_joined_that_the_kernel_would_tell_the_link() {
    in_world(|world| {
        let mut agent = world.agent(1);
        let mut client = agent.client();
        let mut outside = world.ungoverned("outside").client();
        for (family, place, value) in JOINS {
            let make = format!("s = socket.socket({family}, SOCK_DGRAM)");
            let line = option(place, value);
            outside.does(&make);
            let answer = outside.says(&format!("do {line}"));
            assert_ne!(answer, "EPERM", "{line}");
            client.does(&make);
            client.is_refused(&line);
            let events = world.events();
            assert_eq!(events.len(), 1, "{line}: {events:?}");
            let event = &events[0];
            assert_eq!(
                (event.kind, event.reason),
                (kind::SOCKET, reason::MULTICAST)
            );
            let number = if family == "AF_INET" { 2 } else { 10 };
            assert_eq!((event.family, event.socket_type), (number, 2), "{line}");
            assert_eq!((event.protocol, event.denied), (17, 1), "{line}");
            assert_eq!((event.agent, event.run), (1, 101));
            assert_eq!(
                (event.pid, event.netns),
                (client.pid(), world.listening.netns)
            );
        }
        // It is the option and not its value that is refused.
        outside.does("s = socket.socket(AF_INET, SOCK_DGRAM)");
        outside.does(&option("0, 35", "224.9.8.7 127.0.0.1"));
        outside.does(&option("0, 36", "224.9.8.7 127.0.0.1"));
        // Nothing that was not joined is left, and the kernel itself says so.
        client.does("s = socket.socket(AF_INET, SOCK_DGRAM)");
        let leave = format!("do {}", option("0, 36", "224.9.8.7 127.0.0.1"));
        assert_eq!(client.says(&leave), "EADDRNOTAVAIL");
        assert_eq!(world.events().len(), 0);

        agent.entry.mode = mode::OBSERVE;
        world.gate.put_agent(agent.id, &agent.entry).unwrap();
        client.does(&option("0, 35", "224.9.8.7 127.0.0.1"));
        let events = world.events();
        assert_eq!((events.len(), events[0].denied), (1, 0));
    });
}

/// Options by which whoever answers a socket sends elsewhere than to this host, or by which a packet
/// reaches another socket than the gate has found.
#[test]
fn no_option_is_set_that_leads_packets_elsewhere() {
    in_world(|world| {
        let mut client = world.agent(1).client();
        let mut outside = world.ungoverned("outside").client();
        let program = "SOL_SOCKET, 51, struct.pack('HxxxxxxQ', 1, ctypes.addressof(code))";
        for (family, place) in [
            // IP_FREEBIND, IP_TRANSPARENT, also on a socket of the other family; IPV6_TRANSPARENT,
            // IPV6_FREEBIND.
            ("AF_INET", "0, 15, 1"),
            ("AF_INET", "0, 19, 1"),
            ("AF_INET6", "0, 15, 1"),
            ("AF_INET6", "0, 19, 1"),
            ("AF_INET6", "41, 75, 1"),
            ("AF_INET6", "41, 78, 1"),
            // SO_ATTACH_REUSEPORT_CBPF, of one instruction that gives the first socket.
            ("AF_INET", program),
        ] {
            let line = format!("s.setsockopt({place})");
            for puppet in [&mut client, &mut outside] {
                puppet.does("import ctypes, struct");
                puppet.does("code = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0))");
                puppet.does(&format!("s = socket.socket({family}, SOCK_DGRAM)"));
                puppet.does("s.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)");
            }
            outside.does("s.bind(('', 0))");
            outside.does(&line);
            client.does("s.bind(('', 0))");
            client.is_refused(&line);
            let events = world.events();
            assert_eq!(events.len(), 1, "{line}: {events:?}");
            assert_eq!(
                (events[0].kind, events[0].reason, events[0].denied),
                (kind::SOCKET, reason::OPTION, 1)
            );
        }
        // SO_ATTACH_REUSEPORT_EBPF, whatever its value.
        client.is_refused("s.setsockopt(SOL_SOCKET, 52, -1)");
    });
}

/// The hook has a page of an option's value at most, and none of it is lost.
#[test]
fn every_other_option_is_set_as_it_is_said_also_a_long_one() {
    in_world(|world| {
        let mut client = world.agent(1).client();
        client.does("s = socket.socket()");
        client.does("s.setsockopt(SOL_SOCKET, socket.SO_RCVBUF, 65536)");
        assert_eq!(
            client.number::<u32>("s.getsockopt(SOL_SOCKET, socket.SO_RCVBUF)"),
            131_072
        );
        client.does("s.setsockopt(6, socket.TCP_NODELAY, 1)");
        assert_ne!(
            client.number::<u32>("s.getsockopt(6, socket.TCP_NODELAY)"),
            0
        );
        client.does("s.setsockopt(6, socket.TCP_CONGESTION, b'reno')");
        assert!(
            client
                .says("s.getsockopt(6, socket.TCP_CONGESTION, 16)")
                .contains("reno")
        );
        client.does("s.setsockopt(0, socket.IP_TOS, 0x10)");
        assert_eq!(client.number::<u32>("s.getsockopt(0, socket.IP_TOS)"), 0x10);
        // A filter of two pages, within what a socket may hold before Linux 6.8 (`optmem_max`).
        client.does("import ctypes, struct");
        client.does("code = ctypes.create_string_buffer(b'\\0\\0\\0\\0\\0\\0\\0\\0' * 1023 + struct.pack('HBBI', 6, 0, 0, 65535))");
        client.does(
            "s.setsockopt(SOL_SOCKET, 26, struct.pack('HxxxxxxQ', 1024, ctypes.addressof(code)))",
        );
        // Longer than a page: what is behind it counts for nothing, what is before it does.
        client.does("s.setsockopt(0, socket.IP_TOS, (0x20).to_bytes(4, 'little') + bytes(20000))");
        assert_eq!(client.number::<u32>("s.getsockopt(0, socket.IP_TOS)"), 0x20);
        assert_eq!(world.events().len(), 0);
    });
}

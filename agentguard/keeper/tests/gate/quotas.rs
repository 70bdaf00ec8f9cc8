//! Quotas: bytes and connections of an agent, on whatever way they go.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use agentguard_common::event::{Event, kind, reason};
use agentguard_common::map::{agent_flag, effect, mode};
use agentguard_common::quota::{LEAST_BYTES, Quota, Usage};

use crate::world::{
    Agent, World, accept, any, datagram_server, deadline, direct, eventually, in_world, server,
    tcp, udp,
};

/// When the entries of these tests were made.
const BORN: u64 = 17;
/// So many ns that no test sees another connection let in.
const LONG: u64 = 1 << 50;

/// Holds an agent to a quota.
fn meter(world: &mut World, agent: &mut Agent, quota: Quota) {
    world.gate.usage(agent.entry.agent, BORN).unwrap();
    limit(world, agent, quota);
    agent.entry.flags |= agent_flag::METERED;
    world.gate.put_agent(agent.id, &agent.entry).unwrap();
}

fn limit(world: &mut World, agent: &Agent, quota: Quota) {
    world.gate.put_quota(agent.entry.agent, &quota).unwrap();
}

fn usage(world: &World, agent: &Agent) -> Usage {
    world.gate.counted(agent.entry.agent).unwrap().unwrap()
}

const fn sent(until: u64) -> Quota {
    Quota {
        sent_until: until,
        ..Quota::NONE
    }
}

const fn received(until: u64) -> Quota {
    Quota {
        received_until: until,
        ..Quota::NONE
    }
}

/// So many connections at once, and then none for the time of a test.
const fn burst(count: u64) -> Quota {
    Quota {
        interval_ns: LONG,
        depth_ns: LONG * count,
        ..Quota::NONE
    }
}

/// What of some events is about quotas: why, and whether it was refused.
fn of_quotas(events: &[Event]) -> Vec<(u8, u8)> {
    let whys = reason::QUOTA_SENT..=reason::CONNECTION_RATE;
    let found = events.iter().filter(|event| whys.contains(&event.reason));
    found.map(|event| (event.reason, event.denied)).collect()
}

/// How long nothing comes where nothing will.
fn silence() -> Duration {
    deadline() / 60
}

/// All that comes until nothing comes any more.
fn drain(stream: &mut TcpStream) -> usize {
    stream.set_read_timeout(Some(silence())).unwrap();
    let (mut all, mut buffer) = (0, [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return all,
            Ok(count) => all += count,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                return all;
            }
        }
    }
}

/// Sends pieces that are packets of their own.
const PIECES: &str = "def pieces(made, count):
    for _ in range(count):
        made.send(b'x' * 1000)
";

fn dial(client: &mut crate::client::Client, address: &str, port: u16) {
    client.does(&format!("exec({PIECES:?}, names)"));
    client.does(&format!("s = tcp('{address}', {port})"));
    client.does("s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)");
}

#[test]
fn a_flow_stops_at_the_last_byte_and_goes_on_with_another_limit() {
    in_world(|world| {
        let (server, port) = server();
        let mut agent = world.agent(1);
        world.rule(&agent, &[("::/0", direct(1))]);
        let mut client = agent.client();
        // Without a quota all of it arrives, and nothing is counted.
        dial(&mut client, "192.0.2.1", port);
        let (mut stream, _) = accept(&server);
        client.does("pieces(s, 60)");
        let mut all = [0; 60_000];
        stream.read_exact(&mut all).unwrap();
        assert_eq!(world.gate.counted(1).unwrap(), None);

        // The flow that is there is held to it, too.
        let until = 20_000;
        meter(world, &mut agent, sent(until));
        world.events();
        client.does("pieces(s, 60)");
        let arrived = drain(&mut stream);
        assert!((10_000..20_000).contains(&arrived), "{arrived}");
        let used = usage(world, &agent);
        assert!(used.sent <= until, "{used:?}");
        assert!(used.sent > until - 1100, "{used:?}");
        assert_eq!(used.born_ns, BORN);
        let denied = world.view.counters(1).unwrap().denied;
        assert!(denied > 0);

        // However many packets were refused, it was told once.
        let events = world.events();
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(of_quotas(&events), [(reason::QUOTA_SENT, 1)]);
        assert_eq!((events[0].kind, events[0].rule), (kind::FLOW, 0));
        assert_eq!((events[0].remote_port, events[0].pid), (port, client.pid()));

        // Nothing begins anew, over either transport and to wherever.
        client.is_refused(&format!("tcp('192.0.2.2', {port})"));
        client.is_refused("udp('192.0.2.3', 9).send(b'x')");
        client.is_refused("socket.socket(AF_INET, SOCK_DGRAM).sendto(b'x', ('192.0.2.4', 9))");
        let refused = of_quotas(&world.events());
        assert_eq!(refused, [(reason::QUOTA_SENT, 1); 3]);

        // The kernel sends again what is missing.
        limit(world, &agent, sent(200_000));
        let mut rest = vec![0; 60_000 - arrived];
        stream.set_read_timeout(Some(deadline())).unwrap();
        stream.read_exact(&mut rest).unwrap();
        assert!(of_quotas(&world.events()).is_empty());
    });
}

#[test]
fn what_arrives_is_held_to_a_limit_of_its_own() {
    in_world(|world| {
        let (server, port) = server();
        let mut agent = world.agent(1);
        world.rule(&agent, &[("::/0", direct(1))]);
        meter(world, &mut agent, received(20_000));
        let mut client = agent.client();
        dial(&mut client, "192.0.2.1", port);
        let (mut stream, _) = accept(&server);
        stream.set_nodelay(true).unwrap();
        for _ in 0..60 {
            stream.write_all(&[0; 1000]).unwrap();
        }
        client.does(&format!("s.settimeout({})", silence().as_secs_f64()));
        let arrived = "def arrived():
    all = 0
    try:
        while piece := s.recv(4096):
            all += len(piece)
    except TimeoutError:
        return all
";
        client.does(&format!("exec({arrived:?}, names)"));
        let first: u64 = client.number("arrived()");
        assert!((5_000..20_000).contains(&first), "{first}");
        let used = usage(world, &agent);
        assert!(used.received <= 20_000, "{used:?}");
        let events = world.events();
        assert_eq!(of_quotas(&events), [(reason::QUOTA_RECEIVED, 1)]);
        client.is_refused(&format!("tcp('192.0.2.1', {port})"));
        limit(world, &agent, received(400_000));
        let mut all = first;
        eventually("the rest", || {
            all += client.number::<u64>("arrived()");
            all == 60_000
        });
    });
}

#[test]
fn datagrams_are_counted_and_refused_at_the_call() {
    in_world(|world| {
        let (server, port) = datagram_server("192.0.2.1:0");
        let mut agent = world.agent(1);
        world.rule(&agent, &[("::/0", direct(1))]);
        meter(world, &mut agent, sent(LEAST_BYTES + 2500));
        let mut client = agent.client();
        client.does(&format!("s = udp('192.0.2.1', {port})"));
        for _ in 0..6 {
            client.does("s.send(b'x' * 1000)");
            let mut buffer = [0; 2000];
            assert_eq!(server.recv(&mut buffer).unwrap(), 1000);
        }
        // Headers count.
        assert_eq!(usage(world, &agent).sent, 6 * 1028);
        client.is_refused("s.send(b'x' * 1000)");
        // What still fits passes.
        client.does("s.send(b'x' * 100)");
        assert_eq!(usage(world, &agent).sent, 6 * 1028 + 128);
        let events = world.events();
        assert_eq!(events.len(), 2, "{events:?}");
        assert_eq!(of_quotas(&events), [(reason::QUOTA_SENT, 1)]);
    });
}

#[test]
fn what_goes_to_the_proxy_and_the_resolver_counts() {
    in_world(|world| {
        let mut agent = world.agent(1);
        world.rule(&agent, &[("::/0", any(effect::PROXY, 1))]);
        meter(world, &mut agent, sent(100_000));
        let mut client = agent.client();
        let proxy = tcp(&world.listening.v4.proxy);
        client.does("s = tcp('192.0.2.1', 80); s.sendall(b'x' * 10000)");
        let (mut stream, _) = accept(&proxy);
        let mut all = [0; 10_000];
        stream.read_exact(&mut all).unwrap();
        let tcp = usage(world, &agent).sent;
        assert!((10_000..12_000).contains(&tcp), "{tcp}");
        let resolver = udp(&world.listening.v4.resolver_udp);
        client.does("q = udp('192.0.2.53', 53); q.send(b'x' * 500)");
        assert_eq!(resolver.recv(&mut [0; 600]).unwrap(), 500);
        let both = usage(world, &agent).sent;
        assert!((tcp + 500..tcp + 1100).contains(&both), "{both}");
        assert!(usage(world, &agent).received > 0);
    });
}

#[test]
fn what_an_agent_says_to_itself_costs_it_nothing() {
    in_world(|world| {
        let mut agent = world.agent(1);
        meter(
            world,
            &mut agent,
            Quota {
                sent_until: LEAST_BYTES,
                received_until: LEAST_BYTES,
                ..burst(1)
            },
        );
        let mut client = agent.client();
        client.does("l = listener(); s = tcp('127.0.0.1', port(l)); a, _ = l.accept()");
        let echo = "def exchange(made, other):
    for _ in range(50):
        made.sendall(b'x' * 2000)
        got = 0
        while got < 2000:
            got += len(other.recv(4096))
";
        client.does(&format!("exec({echo:?}, names)"));
        client.does("exchange(s, a); exchange(a, s)");
        client.does("u = socket.socket(AF_INET, SOCK_DGRAM); u.bind(('127.0.0.1', 0))");
        client.does("v = udp('127.0.0.1', port(u))");
        for _ in 0..8 {
            client
                .does("v.send(b'x' * 1000); d, p = u.recvfrom(2000); u.sendto(d, p); v.recv(2000)");
        }
        client.does("[tcp('127.0.0.1', port(l)).close() for _ in range(5)]");
        let used = usage(world, &agent);
        assert_eq!((used.sent, used.received, used.opened_until_ns), (0, 0, 0));
        assert_eq!(world.events().len(), 0);
    });
}

#[test]
fn connections_and_flows_of_datagrams_have_a_rate_together() {
    in_world(|world| {
        let (server, port) = server();
        let (datagrams, udp_port) = datagram_server("192.0.2.1:0");
        let mut agent = world.agent(1);
        world.rule(&agent, &[("::/0", direct(1))]);
        let mut client = agent.client();
        let all = format!("[tcp('192.0.2.1', {port}) for _ in range(20)]");
        client.does(&format!("many = {all}"));
        meter(world, &mut agent, burst(4));
        world.events();
        client.does(&format!("a = tcp('192.0.2.1', {port})"));
        client.does(&format!("b = tcp('2001:db8::1', {port})"));
        client.does(&format!("c = udp('192.0.2.1', {udp_port}); c.send(b'x')"));
        client.does("d = socket.socket(AF_INET, SOCK_DGRAM)");
        client.does(&format!("d.sendto(b'x', ('192.0.2.1', {udp_port}))"));
        assert!(of_quotas(&world.events()).is_empty());
        client.is_refused(&format!("tcp('192.0.2.1', {port})"));
        client.is_refused(&format!("udp('192.0.2.1', {udp_port}).send(b'x')"));
        let anew =
            format!("socket.socket(AF_INET, SOCK_DGRAM).sendto(b'x', ('192.0.2.1', {udp_port}))");
        client.is_refused(&anew);
        let events = world.events();
        assert_eq!(events.len(), 3, "{events:?}");
        assert_eq!(of_quotas(&events), [(reason::CONNECTION_RATE, 1); 3]);
        assert!(events.iter().all(|event| event.rule == 0));

        // What was begun goes on, and asking for names has a bound of its own.
        client.does("c.send(b'y'); a.send(b'y')");
        client.does(&format!("d.sendto(b'y', ('192.0.2.1', {udp_port}))"));
        for _ in 0..4 {
            datagrams.recv(&mut [0; 8]).unwrap();
        }
        client.does("udp('192.0.2.53', 53).send(b'query')");
        // What a rule denies is denied by it, and takes nothing.
        world.rule(&agent, &[]);
        client.is_refused(&format!("tcp('192.0.2.1', {port})"));
        assert_eq!(world.events()[0].reason, reason::NO_RULE);
        // Another rate holds at once.
        world.rule(&agent, &[("::/0", direct(1))]);
        limit(world, &agent, burst(5));
        client.does(&format!("e = tcp('192.0.2.1', {port})"));
        client.is_refused(&format!("tcp('192.0.2.1', {port})"));
        drop(server);
    });
}

#[test]
fn connections_to_the_proxy_have_it_too() {
    in_world(|world| {
        let mut agent = world.agent(1);
        world.rule(&agent, &[("::/0", any(effect::PROXY, 1))]);
        meter(world, &mut agent, burst(2));
        let mut client = agent.client();
        client.does("a = tcp('192.0.2.1', 80); b = tcp('192.0.2.1', 80)");
        client.is_refused("tcp('192.0.2.1', 80)");
        assert_eq!(of_quotas(&world.events()), [(reason::CONNECTION_RATE, 1)]);
    });
}

#[test]
fn a_rate_lets_in_what_its_time_gives() {
    in_world(|world| {
        let (_server, port) = server();
        let mut agent = world.agent(1);
        world.rule(&agent, &[("::/0", direct(1))]);
        let interval_ns = 20_000_000;
        meter(
            world,
            &mut agent,
            Quota {
                interval_ns,
                depth_ns: 5 * interval_ns,
                ..Quota::NONE
            },
        );
        let mut client = agent.client();
        let tries = "def tries(port, count):
    passed = 0
    while passed < count:
        with socket.socket(AF_INET, SOCK_STREAM) as made:
            passed += made.connect_ex(('192.0.2.1', port)) != errno.EPERM
        # Each refusal is told, and nobody reads that here.
        time.sleep(0.005)
    return passed
";
        client.does(&format!("exec({tries:?}, names)"));
        let begun = std::time::Instant::now();
        let passed: u32 = client.number(&format!("tries({port}, 20)"));
        let least = Duration::from_nanos(interval_ns) * (passed - 5);
        assert!(begun.elapsed() >= least, "{:?}", begun.elapsed());
    });
}

#[test]
fn what_is_only_watched_passes_and_is_counted_and_told() {
    in_world(|world| {
        for mode in [mode::SHADOW, mode::OBSERVE] {
            let (server, port) = server();
            let mut agent = world.agent(u32::from(mode));
            agent.entry.mode = mode;
            world.rule(&agent, &[("::/0", direct(1))]);
            meter(
                world,
                &mut agent,
                Quota {
                    sent_until: LEAST_BYTES + 5000,
                    ..burst(2)
                },
            );
            let mut client = agent.client();
            dial(&mut client, "192.0.2.1", port);
            let (mut stream, _) = accept(&server);
            world.events();
            client.does("pieces(s, 30)");
            let mut all = [0; 30_000];
            stream.read_exact(&mut all).unwrap();
            assert!(usage(world, &agent).sent > 30_000);
            assert_eq!(of_quotas(&world.events()), [(reason::QUOTA_SENT, 0)]);
            limit(world, &agent, burst(2));
            client.does(&format!("b = tcp('192.0.2.1', {port})"));
            client.does(&format!("c = tcp('192.0.2.1', {port})"));
            let events = world.events();
            assert_eq!(of_quotas(&events), [(reason::CONNECTION_RATE, 0)]);
            assert_eq!(events.len(), 3, "{events:?}");
        }
    });
}

#[test]
fn who_should_have_a_quota_and_has_none_gets_nothing() {
    in_world(|world| {
        let (server, port) = server();
        let mut agent = world.agent(1);
        world.rule(&agent, &[("::/0", direct(1))]);
        let mut client = agent.client();
        dial(&mut client, "192.0.2.1", port);
        let (mut stream, _) = accept(&server);
        meter(world, &mut agent, Quota::NONE);
        client.does("pieces(s, 1)");
        stream.read_exact(&mut [0; 1000]).unwrap();
        world.gate.remove_quota(1).unwrap();
        world.events();
        client.is_refused(&format!("tcp('192.0.2.1', {port})"));
        assert_eq!(world.events()[0].reason, reason::MAP_FULL);
        client.does("pieces(s, 1)");
        assert_eq!(drain(&mut stream), 0);
    });
}

#[test]
fn a_flow_that_is_over_says_so_to_the_other_side() {
    in_world(|world| {
        let (server, port) = server();
        let mut agent = world.agent(1);
        world.rule(&agent, &[("::/0", direct(1))]);
        let mut client = agent.client();
        for address in ["192.0.2.1", "2001:db8::1"] {
            dial(&mut client, address, port);
            let (mut stream, _) = accept(&server);
            meter(world, &mut agent, sent(1));
            client.does("pieces(s, 1)");
            assert_eq!(drain(&mut stream), 0);
            client.does("s.setsockopt(SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))");
            client.does("s.close()");
            stream.set_read_timeout(Some(deadline())).unwrap();
            let error = stream.read(&mut [0; 1]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{address}");
            assert_eq!(usage(world, &agent).sent, 0);
            world.gate.remove_quota(1).unwrap();
            agent.entry.flags &= !agent_flag::METERED;
            world.gate.put_agent(agent.id, &agent.entry).unwrap();
        }
    });
}

#[test]
fn a_query_whose_answer_would_not_arrive_is_refused_at_the_call() {
    in_world(|world| {
        let mut agent = world.agent(1);
        let mut client = agent.client();
        let resolver = udp(&world.listening.v4.resolver_udp);
        client.does("q = udp('192.0.2.53', 53); q.send(b'query')");
        resolver.recv(&mut [0; 8]).unwrap();
        meter(world, &mut agent, received(LEAST_BYTES - 1));
        client.is_refused("q.send(b'query')");
        client
            .is_refused("socket.socket(AF_INET, SOCK_DGRAM).sendto(b'query', ('192.0.2.53', 53))");
        client.is_refused("tcp('192.0.2.53', 53)");
        let told = of_quotas(&world.events());
        assert_eq!(told, [(reason::QUOTA_RECEIVED, 1); 2]);
        limit(world, &agent, received(LEAST_BYTES));
        client.does("q.send(b'query')");
        resolver.recv(&mut [0; 8]).unwrap();
    });
}

/// On `lo` a packet can have 64 KiB: a flow of such ones is stopped long before the last byte.
#[test]
fn where_a_packet_is_larger_than_what_is_left_nothing_is_begun() {
    in_world(|world| {
        let (_server, port) = datagram_server("192.0.2.1:0");
        let mut agent = world.agent(1);
        world.rule(&agent, &[("::/0", direct(1))]);
        meter(world, &mut agent, sent(30_000));
        let mut client = agent.client();
        let send = |size: u32| format!("udp('192.0.2.1', {port}).send(b'x' * {size})");
        client.does(&send(100));
        client.is_refused(&send(40_000));
        client.is_refused(&send(100));
        let told = of_quotas(&world.events());
        assert_eq!(told, [(reason::QUOTA_SENT, 1); 2]);
        limit(world, &agent, sent(60_000));
        client.does(&send(40_000));
    });
}

/// As after a start of the host, when all was used before.
#[test]
fn what_has_nothing_left_from_the_start_is_told_too() {
    in_world(|world| {
        let (server, port) = server();
        let mut agent = world.agent(1);
        world.rule(&agent, &[("::/0", direct(1))]);
        let mut client = agent.client();
        dial(&mut client, "192.0.2.1", port);
        let (mut stream, _) = accept(&server);
        world.events();
        meter(world, &mut agent, sent(0));
        client.does("pieces(s, 1)");
        assert_eq!(drain(&mut stream), 0);
        assert_eq!(of_quotas(&world.events()), [(reason::QUOTA_SENT, 1)]);
    });
}

#[test]
fn processes_of_one_agent_share_its_quota_and_another_agent_has_its_own() {
    in_world(|world| {
        let (server, port) = server();
        let mut agents = [world.agent(1), world.agent(2)];
        let until = 300_000;
        for agent in &mut agents {
            world.rule(agent, &[("::/0", direct(1))]);
            meter(world, agent, sent(until));
        }
        let [first, second] = &agents;
        let mut clients = [first.client(), first.client(), first.client()];
        let mut streams = Vec::new();
        for client in &mut clients {
            dial(client, "192.0.2.1", port);
            streams.push(accept(&server).0);
        }
        std::thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(|| client.does("pieces(s, 200)"));
            }
        });
        let arrived: usize = streams.iter_mut().map(drain).sum();
        assert!((200_000..300_000).contains(&arrived), "{arrived}");
        let used = usage(world, first);
        assert!(used.sent <= until, "{used:?}");
        let of_second = usage(world, second);
        assert_eq!((of_second.sent, of_second.received), (0, 0));
        let mut other = second.client();
        other.does(&format!("s = tcp('192.0.2.1', {port})"));
    });
}

#[test]
fn counts_stay_while_limits_and_agents_come_and_go() {
    in_world(|world| {
        let (_server, port) = datagram_server("192.0.2.1:0");
        let mut agent = world.agent(1);
        world.rule(&agent, &[("::/0", direct(1))]);
        meter(world, &mut agent, sent(100_000));
        let mut client = agent.client();
        client.does(&format!("s = udp('192.0.2.1', {port}); s.send(b'x' * 972)"));
        limit(world, &agent, sent(50_000));
        // It goes with no cgroup of its agent, and is not made anew.
        world.gate.remove_agent(agent.id).unwrap();
        assert_eq!(world.gate.metered().unwrap(), [1]);
        assert_eq!(world.gate.usage(1, BORN + 1).unwrap().sent, 1000);
        world.gate.put_agent(agent.id, &agent.entry).unwrap();
        client.does("s.send(b'x' * 972)");
        let used = usage(world, &agent);
        assert_eq!((used.sent, used.born_ns), (2000, BORN));
        world.gate.remove_quota(1).unwrap();
        world.gate.remove_quota(1).unwrap();
        assert!(world.gate.metered().unwrap().is_empty());
        assert_eq!(world.gate.usage(1, BORN + 1).unwrap().born_ns, BORN + 1);
    });
}

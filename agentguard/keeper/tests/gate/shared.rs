//! What all agents share: one that takes more than its part has less itself, and others do not.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agentguard_common::address::Address;
use agentguard_common::event::{Event, reason};
use agentguard_common::map::{
    Budget, Counters, NameEntry, NameKey, Origin, OriginKey, SlotKey, TCP, UDP, effect, mode,
    pending,
};
use agentguard_keeper::cgroup;
use agentguard_keeper::gate::GateError;
use agentguard_keeper::gate::view::Listener;
use aya::Pod;
use aya::maps::{Map, MapData, PerCpuHashMap};

use crate::client::Client;
use crate::full::fill_with;
use crate::world::{
    World, accept, any, datagram_server, direct, in_world, in_world_of_its_own, ports, server, tcp,
    udp,
};

/// How many origins an agent has in a map.
fn held(world: &World, map: &str, agent: u32) -> usize {
    let map = world.map::<OriginKey, Origin>(map);
    let origins = map.iter().filter_map(Result::ok);
    origins.filter(|(_, origin)| origin.agent == agent).count()
}

/// A connection to the proxy and a query, which both find where they were to go.
#[track_caller]
fn is_served(world: &World, client: &mut Client) {
    client.does("s = socket.socket(); s.setblocking(False); s.connect_ex(('192.0.2.1', 80))");
    client.does("q = socket.socket(AF_INET, SOCK_DGRAM); q.sendto(b'?', ('192.0.2.53', 53))");
    let connection = world.key("127.0.0.1", client.number("port(s)"), TCP);
    let query = world.key("127.0.0.1", client.number("port(q)"), UDP);
    for (listener, key) in [(Listener::Proxy, connection), (Listener::Resolver, query)] {
        let origin = world.view.origin(listener, &key).unwrap();
        assert_eq!(origin.map(|origin| origin.agent), Some(2), "{listener:?}");
    }
    client.does("s.close(); q.close()");
}

/// Two agents that may reach everything through the proxy.
fn two(world: &mut World) -> [Client; 2] {
    [1, 2].map(|number| {
        let agent = world.agent(number);
        world.rule(&agent, &[("::/0", any(effect::PROXY, number))]);
        agent.client()
    })
}

fn full(events: &[Event], agent: u32) -> usize {
    let told = events.iter().filter(|event| event.agent == agent);
    told.filter(|event| event.reason == reason::MAP_FULL && event.denied == 1)
        .count()
}

#[test]
fn an_agent_that_asks_from_every_port_costs_nobody_else_a_query() {
    in_world(|world| {
        let [mut floods, mut client] = two(world);
        let (mut refused, mut number) = (0, 0);
        // It has its slots, and every further query is refused while they are held.
        let slots = pending::slots(pending::QUERY) as usize;
        crate::world::eventually("all of its slots are taken", || {
            let (first, last) = (20_000 + number % 5 * 8000, 28_000 + number % 5 * 8000);
            let address = 1 + number / 5 % 200;
            let asked = format!("queries('127.0.0.{address}', {first}, {last})");
            refused += floods.number::<usize>(&asked);
            is_served(world, &mut client);
            number += 1;
            held(world, "QUERIES", 1) == slots
        });
        assert!(refused > 0);
        let events = world.events();
        assert!(full(&events, 1) > 0);
        assert_eq!(full(&events, 2), 0);
        assert!(world.gate.counters(1).unwrap().denied >= refused as u64);

        // What is refused is not for ever: the first are old by now, or soon.
        crate::world::eventually("a query passes again", || {
            floods.number::<u32>("queries('127.0.0.9', 20000, 20001)") == 0
        });
        assert!(held(world, "QUERIES", 1) <= slots);
    });
}

#[test]
fn a_port_that_asks_again_keeps_its_slot() {
    in_world(|world| {
        let [mut client, _] = two(world);
        client.does("q = socket.socket(AF_INET, SOCK_DGRAM)");
        client.does("for i in range(200): q.sendto(b'?', ('192.0.2.53', 53))");
        assert_eq!(held(world, "QUERIES", 1), 1);
        assert_eq!(full(&world.events(), 1), 0);
    });
}

/// Sends the resolver so many bytes until it is refused, from one port; how often it was not.
const ASKS: &str = "exec('def asks(s, data, more=[], flags=0):\\n for i in range(100000):\\n  try: s.sendmsg(data, more, flags, (\"192.0.2.53\", 53))\\n  except PermissionError: return i\\n return 100000')";

/// Asks the resolver so often, from what a call gives, and waits for each answer.
const ASKS_AND_HEARS: &str = "exec('def asks_and_hears(of, count):\\n for i in range(count):\\n  s = of()\\n  s.sendto(b\"?\" * 60, (\"192.0.2.53\", 53))\\n  s.recv(64)')";

/// The port of whoever asks next, among those that wait to be read.
fn waits(resolver: &std::net::UdpSocket, port: u16) -> bool {
    resolver.set_nonblocking(true).unwrap();
    let mut bytes = [0; 65_536];
    while let Ok((_, from)) = resolver.recv_from(&mut bytes) {
        if from.port() == port {
            return true;
        }
    }
    false
}

#[test]
fn an_agent_whose_queries_nobody_reads_leaves_room_in_the_resolver_s_buffer() {
    // Of one query, and of as much as one datagram holds; and 64 that are sent as one (UDP_SEGMENT); and of
    // pieces on pages of their own, which are not copied (MSG_ZEROCOPY).
    let segments = "[(17, 103, (1).to_bytes(2, 'little'))]";
    let pieces = "[memoryview(pages)[i * 4096:i * 4096 + 20] for i in range(16)]";
    for (data, more) in [
        ("[b'?' * 60]", "[]"),
        ("[b'?' * 4000]", "[]"),
        ("[b'?' * 65000]", "[]"),
        ("[b'?' * 60]", segments),
        (pieces, "[], 0x4000000"),
    ] {
        in_world(|world| {
            let [mut floods, mut client] = two(world);
            let resolver = udp(&world.listening.v4.resolver_udp);
            floods.does(ASKS);
            floods.does("q = socket.socket(AF_INET, SOCK_DGRAM); q.setsockopt(SOL_SOCKET, 60, 1)");
            floods.does("import mmap; pages = mmap.mmap(-1, 16 * 4096)");
            let mut sent = 0;
            // As long as nobody reads for seconds.
            for _ in 0..8 {
                sent += floods.number::<u32>(&format!("asks(q, {data}, {more})"));
            }
            client
                .does("q = socket.socket(AF_INET, SOCK_DGRAM); q.sendto(b'?', ('192.0.2.53', 53))");
            let port = client.number("port(q)");
            assert!(
                waits(&resolver, port),
                "{data} {more}: {sent} of the other's"
            );
            let events = world.events();
            assert!(full(&events, 1) > 0, "{sent} sent");
            assert_eq!(full(&events, 2), 0);

            // Not for ever.
            crate::world::eventually("it is heard again", || {
                floods.number::<u32>("asks(q, [b'?'])") > 0
            });
        });
    }
}

#[test]
fn who_is_answered_asks_without_end() {
    in_world(|world| {
        let [mut client, _] = two(world);
        let resolver = udp(&world.listening.v4.resolver_udp);
        // As many as may wait, at once.
        client.does(ASKS);
        client.does("q = socket.socket(AF_INET, SOCK_DGRAM)");
        let sent: u64 = client.number("asks(q, [b'?' * 60])");
        assert!(sent >= pending::ASKED_BYTES / 1280, "{sent}");
        crate::world::eventually("it is heard again", || {
            client.says("do q.sendto(b'?', ('192.0.2.53', 53))") == "done"
        });
        waits(&resolver, 0);
        world.events();

        // Several times as many as may wait, and as there are slots; from one port, and each from another one.
        let count = 4 * pending::slots(pending::QUERY);
        client.does(ASKS_AND_HEARS);
        resolver.set_nonblocking(false).unwrap();
        let answers = std::thread::scope(|scope| {
            let answering = scope.spawn(|| {
                let mut bytes = [0; 2048];
                let mut answers = 0_u32;
                loop {
                    let (length, from) = resolver.recv_from(&mut bytes).unwrap();
                    if length == 1 {
                        return answers;
                    }
                    resolver.send_to(&bytes[..length], from).unwrap();
                    answers += 1;
                }
            });
            client.does(&format!("asks_and_hears(lambda: q, {count})"));
            let another = "lambda: socket.socket(AF_INET, SOCK_DGRAM)";
            client.does(&format!("asks_and_hears({another}, {count})"));
            client.does("q.sendto(b'.', ('192.0.2.53', 53))");
            answering.join().unwrap()
        });
        assert_eq!(answers, 2 * count);
        assert_eq!(full(&world.events(), 1), 0);
        assert!(held(world, "QUERIES", 1) <= pending::slots(pending::QUERY) as usize);
    });
}

/// In a network namespace of its own an agent can make answers of anything.
#[test]
fn answers_that_were_not_asked_for_give_no_room() {
    in_world(|world| {
        let [mut client, _] = two(world);
        let resolver = udp(&world.listening.v4.resolver_udp);
        resolver.set_nonblocking(false).unwrap();
        client.does(ASKS);
        client.does("one = socket.socket(AF_INET, SOCK_DGRAM)");
        client.does("one.sendto(b'?', ('192.0.2.53', 53))");
        let (_, asked) = resolver.recv_from(&mut [0; 16]).unwrap();
        client.does("q = socket.socket(AF_INET, SOCK_DGRAM)");
        let over = AtomicBool::new(false);
        let sent: u64 = std::thread::scope(|scope| {
            scope.spawn(|| {
                let begun = Instant::now();
                while !over.load(Ordering::Relaxed) && begun.elapsed() < Duration::from_secs(30) {
                    resolver.send_to(b"!", asked).unwrap();
                }
            });
            let sent = client.number("asks(q, [b'?' * 60])");
            over.store(true, Ordering::Relaxed);
            sent
        });
        // Of two periods at most.
        assert!(sent <= 2 * (pending::ASKED_BYTES / 1024), "{sent}");
    });
}

#[test]
fn connections_that_nobody_accepts_are_no_more_than_their_agent_may_have() {
    in_world(|world| {
        let [mut floods, mut client] = two(world);
        let slots = pending::slots(pending::CONNECTION) as usize;
        floods.does(&format!("made = beginning({})", slots + 500));
        assert_eq!(held(world, "ORIGINS", 1), slots);
        assert_eq!(full(&world.events(), 1), 500);
        is_served(world, &mut client);

        // Given up before they were established, and accepted: both give the slots back.
        floods.does("for each in made: each.close()");
        let proxy = tcp(&world.listening.v4.proxy);
        while held(world, "ORIGINS", 1) > 0 {
            let (_stream, peer) = accept(&proxy);
            let key = world.key("127.0.0.1", peer.port(), TCP);
            if let Some(origin) = world.view.origin(Listener::Proxy, &key).unwrap() {
                let listener = Listener::Proxy;
                world.view.forget_origin(listener, &key, &origin).unwrap();
            }
        }
        world.events();
        floods.does("s = socket.socket(); s.setblocking(False); s.connect_ex(('192.0.2.1', 80))");
        assert_eq!(held(world, "ORIGINS", 1), 1);
        assert_eq!(full(&world.events(), 1), 0);
    });
}

/// Fills a map with what is nobody's, and gives the number of entries that found room.
fn fill<V: Pod>(world: &World, name: &str, value: V) -> u32 {
    let mut map = world.map::<OriginKey, V>(name);
    fill_with(|number| {
        let key = OriginKey {
            netns: number.into(),
            ..OriginKey::default()
        };
        map.insert(key, value, 0)
    })
}

#[test]
fn where_the_origins_are_full_nothing_goes_out_and_what_is_direct_does() {
    in_world_of_its_own(|world| {
        let [mut client, _] = two(world);
        let (server, port) = server();
        let agent = world.agent(3);
        world.rule(&agent, &[("::/0", direct(3))]);
        let mut other = agent.client();
        for (map, dial) in [
            ("ORIGINS", "tcp('192.0.2.1', 80)"),
            ("QUERIES", "tcp('192.0.2.53', 53)"),
        ] {
            let count = fill(world, map, Origin::default());
            assert!(count >= 131_000, "{map} {count}");
            client.does(&format!("s = {dial}"));
            assert_eq!(held(world, map, 1), 0, "{map}");
            let events = world.events();
            assert_eq!((events.len(), full(&events, 1)), (1, 1), "{events:?}");
        }
        // The maps have room again, and no slot is left.
        assert!(world.view.sweep_origins(u64::MAX).unwrap() > 262_000);
        let mut slots = world.map::<SlotKey, OriginKey>("SLOTS");
        let taken = |slot| SlotKey { agent: 99, slot };
        let count = fill_with(|slot| slots.insert(taken(slot), OriginKey::default(), 0));
        assert!(count > 262_000, "{count}");
        client.does("s = tcp('192.0.2.1', 80)");
        assert_eq!(full(&world.events(), 1), 1);
        // A datagram is refused where it leaves.
        client.is_refused("udp('192.0.2.53', 53).send(b'?')");
        assert_eq!(full(&world.events(), 1), 1);
        other.does(&format!("t = tcp('192.0.2.1', {port})"));
        accept(&server);

        for slot in 0..100 {
            slots.remove(&SlotKey { agent: 99, slot }).unwrap();
        }
        client.does("s = tcp('192.0.2.1', 80); udp('192.0.2.53', 53).send(b'?')");
        assert_eq!(
            (held(world, "ORIGINS", 1), held(world, "QUERIES", 1)),
            (1, 1)
        );
    });
}

#[test]
fn where_the_names_are_full_those_that_are_known_are_served() {
    in_world_of_its_own(|world| {
        let (server, port) = server();
        let real: IpAddr = "192.0.2.7".parse().unwrap();
        let entry = NameEntry {
            real: real.into(),
            rules: direct(1),
        };
        let dialled: IpAddr = "198.18.0.5".parse().unwrap();
        let mut key = NameKey {
            agent: 1,
            address: dialled.into(),
        };
        world.gate.put_name(&key, &entry).unwrap();
        let mut client = world.agent(1).client();
        key.agent = 99;
        let mut count: u32 = 0;
        let error = loop {
            key.address = Address([0, 0, 1, count]);
            match world.gate.put_name(&key, &entry) {
                Ok(()) => count += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, GateError::Full("NAMES")), "{error}");
        client.does(&format!("s = tcp('198.18.0.5', {port})"));
        accept(&server);
        // Nor does it hinder that an entry changes, or goes.
        key.address = Address([0, 0, 1, 0]);
        world.gate.put_name(&key, &entry).unwrap();
        world.gate.remove_name(&key).unwrap();
        world.gate.put_name(&key, &entry).unwrap();
    });
}

/// Entries of every map that holds something for an agent.
fn entries(world: &World) -> [usize; 6] {
    let path = world
        .pins()
        .join(format!("v{}", agentguard_common::ABI_VERSION));
    let counters = MapData::from_pin(path.join("COUNTERS")).unwrap();
    let counters = Map::from_map_data(counters).unwrap();
    let counters: PerCpuHashMap<_, u32, Counters> = PerCpuHashMap::try_from(counters).unwrap();
    [
        world.gate.agents().unwrap().len(),
        counters.keys().count(),
        world.map::<u32, Budget>("BUDGETS").keys().count(),
        world.map::<SlotKey, OriginKey>("SLOTS").keys().count(),
        world.map::<OriginKey, Origin>("ORIGINS").keys().count(),
        world.map::<OriginKey, Origin>("QUERIES").keys().count(),
    ]
}

#[test]
fn agents_that_come_and_go_leave_nothing_behind() {
    in_world(|world| {
        let home = world.agent(1);
        let mut client = home.client();
        let proxy = tcp(&world.listening.v4.proxy);
        let resolver = udp(&world.listening.v4.resolver_udp);
        let before = entries(world);
        assert_eq!(before, [1, 1, 2, 0, 0, 0]);
        // The emulated machines take their time.
        let small = std::env::var_os("AGENTGUARD_PATIENCE").is_some();
        let agents = if small { 2_000 } else { 10_000 };
        for number in 2..2 + agents {
            let agent = world.agent(number);
            // One profile does for all.
            if number == 2 {
                world.rule(&agent, &[("::/0", any(effect::PROXY, 1))]);
            }
            let mut entry = agent.entry;
            entry.profile = 2;
            world.gate.put_agent(agent.id, &entry).unwrap();
            client.does(&format!("lives('{}')", agent.path.display()));
            if number % 100 == 2 {
                assert_eq!(entries(world), [2, 2, 3, 2, 1, 1]);
            }
            accept(&proxy);
            resolver.recv_from(&mut [0; 8]).unwrap();
            world.gate.remove_agent(agent.id).unwrap();
            cgroup::remove(&agent.path).unwrap();
            if number % 100 == 2 {
                // Another one at the same path is nobody's, whoever's the last one was.
                fs::create_dir(&agent.path).unwrap();
                client.is_refused(&format!("lives('{}')", agent.path.display()));
                client.does(&format!(
                    "open('{}/cgroup.procs', 'w').write('0')",
                    home.path.display()
                ));
                cgroup::remove(&agent.path).unwrap();
            }
        }
        assert_eq!(entries(world), before);
        let last = world.cgroup().join(format!("agent-{}", 1 + agents));
        assert!(!fs::exists(last).unwrap());
    });
}

#[test]
fn an_agent_with_a_cgroup_left_keeps_what_it_has() {
    in_world(|world| {
        let agent = world.agent(1);
        let run = cgroup::Cgroup::create(&agent.path.join("run")).unwrap();
        world.gate.put_agent(run.id, &agent.entry).unwrap();
        let mut client = agent.client();
        client.is_refused("udp('192.0.2.1', 9).send(b'x')");
        assert_eq!(world.gate.counters(1).unwrap().denied, 1);
        world.gate.remove_agent(run.id).unwrap();
        assert_eq!(world.gate.counters(1).unwrap().denied, 1);
        world.gate.remove_agent(agent.id).unwrap();
        assert_eq!(entries(world), [0, 0, 1, 0, 0, 0]);
    });
}

/// Numbers that are missing of all processors, from the first on.
fn missing(events: &[Event]) -> u64 {
    let mut seen: HashMap<u32, u64> = HashMap::new();
    let mut missing = 0;
    for event in events {
        let before = seen.insert(event.cpu, event.sequence).unwrap_or(0);
        missing += event.sequence - before - 1;
    }
    missing
}

/// So that the numbers are of one processor.
const PINNED: &str = "os.sched_setaffinity(0, [0])";

#[test]
fn an_agent_whose_flows_change_all_the_time_has_its_share_of_the_events_and_no_more() {
    in_world_of_its_own(|world| {
        let (_server, port) = datagram_server("[::]:0");
        let [flaps, other] = [1, 2].map(|number| {
            let agent = world.agent(number);
            let rules = ports(effect::DIRECT, number, UDP, 0, u16::MAX);
            world.rule(&agent, &[("::/0", rules)]);
            agent
        });
        let (mut flaps, mut client) = (flaps.client(), other.client());
        flaps.does(PINNED);
        client.does(PINNED);
        flaps.does("v = socket.socket(AF_INET, SOCK_DGRAM); sent = 0");
        flaps.does(
            "exec('def flap(i):\\n try: return bool(v.sendto(b\"x\", (\"192.0.2.1\", 9 + i % 2)))\\n except PermissionError: return False')",
        );
        let attempts: u64 = 10_000;
        let sent = flaps.number::<u64>(&format!("sum(map(flap, range({attempts})))"));
        for number in 1..=100 {
            client.does(&format!("udp('192.0.2.{number}', {port}).send(b'x')"));
        }
        let events = world.events();
        let of = |agent| events.iter().filter(|event| event.agent == agent).count() as u64;
        assert_eq!(of(2), 100, "all of the other's are told");
        assert_eq!(of(1), sent, "what is not told has not passed");
        assert!(sent > 500 && sent < 3000, "{sent}");
        let told = events.len() as u64;
        assert_eq!(told + missing(&events), attempts + 100);

        // Nobody is held back once the reader has caught up.
        flaps.does("v.sendto(b'x', ('192.0.2.77', 9))");
        assert_eq!(world.events().len(), 1);
    });
}

#[test]
fn what_is_only_watched_leaves_room_for_what_is_allowed() {
    in_world_of_its_own(|world| {
        let (server, port) = server();
        let attempts = 4000_u64;
        // As many as would fill all of it with their shares.
        let mut watched = Vec::new();
        for number in 1..=6 {
            let mut agent = world.agent(number);
            agent.entry.mode = mode::OBSERVE;
            world.gate.put_agent(agent.id, &agent.entry).unwrap();
            watched.push(agent);
        }
        for agent in &watched {
            let mut client = agent.client();
            client.does(PINNED);
            client.does("v = socket.socket(AF_INET, SOCK_DGRAM)");
            client.does(
                "exec('def flap(i):\\n try: v.sendto(b\"x\", (\"192.0.2.1\", 9 + i % 2))\\n except PermissionError: pass')",
            );
            client.does(&format!("for i in range({attempts}): flap(i)"));
        }
        let agent = world.agent(9);
        let allowed = ports(effect::DIRECT, 1, TCP, port, port);
        world.rule(&agent, &[("192.0.2.1/32", allowed)]);
        let mut client = agent.client();
        client.does(PINNED);
        client.does(&format!("t = tcp('192.0.2.1', {port})"));
        accept(&server);
        let events = world.events();
        let told = events.len() as u64;
        assert_eq!(events.last().map(|event| event.agent), Some(9));
        assert_eq!(told + missing(&events), 6 * attempts + 1);
    });
}

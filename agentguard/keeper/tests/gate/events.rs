//! What user space is told, and what it can find out.

use std::collections::HashMap;

use agentguard_common::event::Event;
use agentguard_common::map::{Counters, EXE_LEN, Exe, TCP, UDP, effect};

use agentguard_keeper::gate::Gate;

use crate::world::{
    absent, accept, direct, eventually, in_world, in_world_of_its_own, ports, server,
};

/// Events whose numbers are missing, given the last number seen on each processor.
fn missing(seen: &mut HashMap<u32, u64>, events: &[Event]) -> u64 {
    let mut missing = 0;
    for event in events {
        let last = seen.entry(event.cpu).or_default();
        assert!(event.sequence > *last, "out of order: {event:?}");
        missing += event.sequence - *last - 1;
        *last = event.sequence;
    }
    missing
}

#[test]
fn numbers_follow_each_other_on_each_processor() {
    in_world_of_its_own(|world| {
        let agent = world.agent(1);
        let mut clients = [agent.client(), agent.client()];
        for (processor, client) in clients.iter_mut().enumerate() {
            // A machine with one processor has both there.
            client.says(&format!("os.sched_setaffinity(0, [{processor}])"));
        }
        let mut seen = HashMap::new();
        let mut total = 0;
        for _ in 0..50 {
            for client in &mut clients {
                client.is_refused("tcp('192.0.2.1', 80)");
            }
            let events = world.events();
            total += events.len();
            assert_eq!(missing(&mut seen, &events), 0);
        }
        assert_eq!(total, 100);
        assert_eq!(seen.values().sum::<u64>(), 100);
    });
}

#[test]
fn events_that_found_no_room_leave_a_gap_of_their_number() {
    in_world_of_its_own(|world| {
        let mut client = world.agent(1).client();
        client.does("os.sched_setaffinity(0, [0])");
        client.does("s = socket.socket(); e = lambda: s.connect_ex(('192.0.2.1', 80))");
        let attempts: u64 = 8000;
        let refused = client.number::<u64>(&format!(
            "sum(e() == errno.EPERM for _ in range({attempts}))"
        ));
        assert_eq!(
            refused, attempts,
            "what cannot be told is refused all the same"
        );
        let mut seen = HashMap::new();
        let events = world.events();
        let told = events.len() as u64;
        assert!(told < attempts, "the ring buffer took them all");
        assert_eq!(missing(&mut seen, &events), 0);

        client.is_refused("s.connect(('192.0.2.1', 80))");
        let events = world.events();
        assert_eq!(events.len(), 1);
        assert_eq!(missing(&mut seen, &events), attempts - told);
    });
}

/// Else one agent's flood of refusals would stop what others may do.
#[test]
fn refusals_leave_room_for_what_is_allowed() {
    in_world_of_its_own(|world| {
        let (server, port) = server();
        let mut floods = world.agent(1).client();
        let agent = world.agent(2);
        let allowed = ports(effect::DIRECT, 1, TCP | UDP, port, port);
        world.rule(&agent, &[("192.0.2.1/32", allowed)]);
        let mut client = agent.client();
        floods.does("s = socket.socket(); e = lambda: s.connect_ex(('192.0.2.9', 80))");
        floods.says("sum(e() == errno.EPERM for _ in range(8000))");
        client.does(&format!("t = tcp('192.0.2.1', {port})"));
        accept(&server);
        client.does(&format!("udp('192.0.2.1', {port}).send(b'x')"));
        let events = world.events();
        let told = events.iter().filter(|event| event.denied == 0).count();
        assert_eq!(told, 2);
        assert!(events.len() < 8000, "the ring buffer took them all");
    });
}

/// Else an agent could have its own flows forgotten by a flood of others.
#[test]
fn what_is_allowed_and_cannot_be_told_does_not_pass() {
    in_world_of_its_own(|world| {
        let (server, port) = server();
        let agent = world.agent(1);
        world.rule(
            &agent,
            &[(
                "192.0.2.1/32",
                ports(effect::DIRECT, 1, TCP | UDP, port - 1, port),
            )],
        );
        let mut client = agent.client();
        client.does(&format!(
            "u = udp('192.0.2.1', {port}); v = socket.socket(AF_INET, SOCK_DGRAM)"
        ));
        // To one and then to the other is a flow each time.
        client.is_refused(&format!(
            "[v.sendto(b'x', ('192.0.2.1', {port} - i % 2)) for i in range(20000)]"
        ));
        client.is_refused(&format!("tcp('192.0.2.1', {port})"));
        client.is_refused("u.send(b'x')");
        client.is_refused(&format!("v.sendto(b'x', ('192.0.2.1', {port}))"));

        // Once there is room again, they pass and are told.
        world.events();
        client.does(&format!("t = tcp('192.0.2.1', {port})"));
        accept(&server);
        client.does("u.send(b'x')");
        client.does(&format!("v.sendto(b'x', ('192.0.2.1', {port}))"));
        let told = world.events();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told.iter().all(|event| event.denied == 0), "{told:?}");
    });
}

#[test]
fn traffic_is_counted() {
    in_world(|world| {
        let (server, port) = server();
        let agent = world.agent(1);
        world.rule(&agent, &[("::/0", direct(1))]);
        assert_eq!(world.gate.counters(1).unwrap(), Counters::default());
        let mut client = agent.client();
        client.does(&format!(
            "s = tcp('192.0.2.1', {port}); s.sendall(b'x' * 100000)"
        ));
        let (mut stream, _) = accept(&server);
        let mut heard = vec![0; 100_000];
        std::io::Read::read_exact(&mut stream, &mut heard).unwrap();
        let counted = world.gate.counters(1).unwrap();
        assert!(counted.sent_bytes > 100_000, "{counted:?}");
        assert!(counted.received_bytes > 0 && counted.received_bytes < 100_000);
        assert_eq!(counted.denied, 0);
        assert!(world.view.counters(1).unwrap().sent_bytes >= counted.sent_bytes);
    });
}

#[test]
fn the_executable_of_a_process_is_known_though_it_is_gone() {
    in_world(|world| {
        if let Some(why) = world.gate.executables_unknown() {
            absent(&format!("tracepoints on processes ({why})"));
            return;
        }
        let mut client = world.agent(1).client();
        let shell: u32 = client.number(
            "(lambda p: (p.wait(), p.pid)[1])(subprocess.Popen(['/bin/sh', '-c', 'exit 0']))",
        );
        assert_eq!(world.view.executable(shell).as_deref(), Some("/bin/sh"));
        // A child that executes nothing runs what its parent runs.
        let mut asleep = world.agent(2).client();
        asleep.does("import time");
        asleep.does(
            "p = subprocess.Popen(['/bin/sh', '-c', '(read x; exit 0) & echo $!; wait'], \
             stdin=subprocess.PIPE, stdout=subprocess.PIPE)",
        );
        let child: u32 = asleep.number("int(p.stdout.readline())");
        eventually("the child is known", || {
            world.view.executable(child).as_deref() == Some("/bin/sh")
        });
        asleep.does("p.communicate(b'end')");
        // Nobody else is noted.
        assert_eq!(world.view.executable(std::process::id()), None);
    });
}

#[test]
fn no_process_has_the_executable_of_the_last_one_of_its_number() {
    in_world(|world| {
        if let Some(why) = world.gate.executables_unknown() {
            absent(&format!("tracepoints on processes ({why})"));
            return;
        }
        // Of its parent none is known, as where others' have crowded it out.
        let stranger = world.ungoverned("stranger");
        let mut parent = stranger.client();
        let mut known = world.map::<u32, Exe>("PROCESSES");
        let last: u32 = parent.number("subprocess.Popen(['true']).pid");
        let mut stale = Exe { path: [0; EXE_LEN] };
        stale.path[..6].copy_from_slice(b"/stale");
        for number in last..last + 500 {
            known.insert(number, stale, 0).unwrap();
        }
        let child: u32 = parent.number("(lambda p: p if p else os._exit(0))(os.fork())");
        assert!((last..last + 500).contains(&child), "{last} {child}");
        assert_eq!(world.view.executable(child), None);
    });
}

#[test]
fn debugging_lines_tell_each_verdict_where_they_are_asked_for() {
    in_world_of_its_own(|world| {
        let (sender, lines) = std::sync::mpsc::channel();
        let sink = move |line: &str| sender.send(line.to_owned()).unwrap_or_default();
        world.gate = Gate::load_with(&world.pins(), Some(Box::new(sink))).unwrap();
        let cgroup = world.cgroup().to_owned();
        world.gate.attach(&cgroup).unwrap();
        let agent = world.agent(1);
        world.rule(&agent, &[("2001:db8::/32", direct(7))]);
        let mut client = agent.client();
        client.is_refused("tcp('192.0.2.1', 80)");
        assert_eq!(client.says("tcp('2001:db8::1', 9)"), "ECONNREFUSED");
        client.is_refused("udp('192.0.2.1', 443).send(b'x')");
        client.is_refused("socket.socket(AF_INET, SOCK_RAW, 1)");
        let mut told = Vec::new();
        eventually("the last line", || {
            told.extend(lines.try_iter());
            told.iter().any(|line| line.contains("socket"))
        });
        assert_eq!(
            told,
            [
                "agent 1 to ::ffff:192.0.2.1 port 80 transport 1 effect 0 reason 16 rule 0",
                "agent 1 to 2001:db8::1 port 9 transport 1 effect 1 reason 1 rule 7",
                // At connect, where nothing is refused, and at the first datagram.
                "agent 1 to ::ffff:192.0.2.1 port 443 transport 2 effect 0 reason 16 rule 0",
                "agent 1 to ::ffff:192.0.2.1 port 443 transport 2 effect 0 reason 16 rule 0",
                "agent 1 socket family 2 type 3 protocol 1 reason 25",
            ]
        );
        // The events come as ever.
        assert_eq!(
            world
                .events()
                .iter()
                .filter(|event| event.denied == 1)
                .count(),
            3
        );
    });
}

//! Connections that are older than the gate: refused, until they are made known to it; then they pass,
//! and nothing else does by them.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;

use agentguard_common::event::reason;
use agentguard_common::map::{AgentEntry, agent_flag};
use agentguard_keeper::sockets::{destroy_connections, destroy_held_except};

use crate::world::{accept, direct, eventually, in_world, server};

#[test]
fn a_connection_that_is_made_known_passes_until_a_quarantine_cuts_it_at_the_next_packet() {
    in_world(|world| {
        let (server, port) = server();
        let agent = world.ungoverned("older");
        let mut client = agent.client();
        client.does(&format!(
            "old = tcp('192.0.2.1', {port}); old.sendall(b'a')"
        ));
        let (mut old, _) = accept(&server);
        let mut heard = [0];
        old.read_exact(&mut heard).unwrap();

        // Under the gate it says nothing.
        world.gate.put_agent(agent.id, &agent.entry).unwrap();
        world.gate.attach(&agent.path).unwrap();
        client.does("old.sendall(b'b')");
        eventually("its packet is told as refused", || {
            !world.events().is_empty()
        });
        old.set_nonblocking(true).unwrap();
        assert!(old.read(&mut heard).is_err());
        old.set_nonblocking(false).unwrap();

        // That of another agent is not made known as this one's.
        let number = agent.entry.agent;
        let cgroups = std::slice::from_ref(&agent.path);
        let gate = Mutex::new(&mut world.gate);
        let kept = destroy_held_except(cgroups, &|connection| {
            let mut gate = gate.lock().unwrap();
            assert!(!gate.keeps(connection).unwrap());
            gate.keep_connection(connection, agent.id, number).unwrap()
        });
        assert_eq!((kept.kept, kept.sockets), (1, 0), "{:?}", kept.failures);
        assert_eq!(kept.told_kept[0].remote.unwrap().port(), port);
        let others = destroy_held_except(cgroups, &|connection| {
            let mut gate = gate.lock().unwrap();
            assert!(!gate.keep_connection(connection, agent.id + 1, 1).unwrap());
            gate.keeps(connection).unwrap()
        });
        assert_eq!((others.kept, others.sockets), (1, 0));
        old.read_exact(&mut heard).unwrap();
        assert_eq!(heard, *b"b");
        old.write_all(b"c").unwrap();
        assert_eq!(client.says("old.recv(1).decode()"), "c");

        // What is dialled is decided, also over its socket.
        client.is_refused(&format!("tcp('192.0.2.1', {port})"));

        let denied = world.gate.counters(number).unwrap().denied;
        let cut = AgentEntry {
            flags: agent.entry.flags | agent_flag::QUARANTINED,
            ..agent.entry
        };
        world.gate.put_agent(agent.id, &cut).unwrap();
        client.does("old.sendall(b'd')");
        eventually("its packet is refused", || {
            world.gate.counters(number).unwrap().denied > denied
        });
        old.set_nonblocking(true).unwrap();
        assert!(old.read(&mut heard).is_err());
        old.set_nonblocking(false).unwrap();
        world.gate.put_agent(agent.id, &agent.entry).unwrap();
        old.read_exact(&mut heard).unwrap();
        assert_eq!(heard, *b"d");

        // What was made known is found again, and ended; what began under the gate is not among it.
        let ended =
            destroy_connections(cgroups, &|connection| world.gate.keeps(connection).unwrap());
        assert_eq!(ended.sockets, 1, "{:?}", ended.failures);
        assert_eq!(client.says("old.recv(1)"), "ECONNABORTED");
    });
}

/// A socket that the gate has seen being made is no connection that it has decided on.
#[test]
fn what_was_made_under_the_gate_and_dialled_without_it_says_nothing_until_it_is_made_known() {
    in_world(|world| {
        let (server, port) = server();
        let agent = world.ungoverned("between");
        let mut client = agent.client();
        world.gate.put_agent(agent.id, &agent.entry).unwrap();
        world.gate.attach(&agent.path).unwrap();
        client.does("made = socket.socket(AF_INET, SOCK_STREAM)");
        world.gate.detach(agent.id).unwrap();
        client.does(&format!(
            "made.connect(('192.0.2.1', {port})); made.sendall(b'a')"
        ));
        let (mut old, _) = accept(&server);
        let mut heard = [0];
        old.read_exact(&mut heard).unwrap();

        world.gate.attach(&agent.path).unwrap();
        client.does("made.sendall(b'b')");
        eventually("its packet is told as refused", || {
            let mut events = world.events().into_iter();
            events.any(|event| event.denied == 1 && event.reason == reason::UNKNOWN_SOCKET)
        });
        old.set_nonblocking(true).unwrap();
        assert!(old.read(&mut heard).is_err());
        old.set_nonblocking(false).unwrap();

        let gate = Mutex::new(&mut world.gate);
        let kept = destroy_held_except(std::slice::from_ref(&agent.path), &|connection| {
            let mut gate = gate.lock().unwrap();
            gate.keep_connection(connection, agent.id, agent.entry.agent)
                .unwrap()
        });
        assert_eq!((kept.kept, kept.sockets), (1, 0), "{:?}", kept.failures);
        old.read_exact(&mut heard).unwrap();
        assert_eq!(heard, *b"b");
    });
}

/// While connections are looked for, others begin under the gate.
#[test]
fn a_connection_that_the_gate_decided_on_stays_decided_as_it_was() {
    in_world(|world| {
        let (server, port) = server();
        let agent = world.agent(1);
        world.rule(&agent, &[("192.0.2.1/32", direct(7))]);
        let mut client = agent.client();
        client.does(&format!("new = tcp('192.0.2.1', {port})"));
        let _accepted = accept(&server);
        let gate = Mutex::new(&mut world.gate);
        let kept = destroy_held_except(std::slice::from_ref(&agent.path), &|connection| {
            let mut gate = gate.lock().unwrap();
            let known = gate
                .keep_connection(connection, agent.id, agent.entry.agent)
                .unwrap();
            assert!(!gate.keeps(connection).unwrap());
            known
        });
        assert_eq!((kept.kept, kept.sockets), (1, 0), "{:?}", kept.failures);
        client.does("new.sendall(b'a')");
    });
}

/// How often the gate is attached beside them. The time in which it is half there is some milliseconds.
const ROUNDS: usize = 20;

#[test]
fn what_is_dialled_while_the_gate_is_attached_says_nothing_when_it_is() {
    in_world(|world| {
        let agent = world.ungoverned("window");
        let mut client = agent.client();
        for _ in 0..ROUNDS {
            let (server, port) = server();
            client.does(&format!("dialler = Dialler('192.0.2.1', {port})"));
            let mut accepted = Vec::new();
            eventually("it dials", || {
                accept_all(&server, &mut accepted);
                client.number::<usize>("len(dialler.opened)") > 10
            });
            world.gate.put_agent(agent.id, &agent.entry).unwrap();
            world.gate.attach(&agent.path).unwrap();
            accept_all(&server, &mut accepted);
            client.does("dialler.stop()");
            world.events();
            client.does("sent = [made.send(b'x') for made in dialler.opened]");
            eventually("what it sends is told as refused", || {
                !world.events().is_empty()
            });
            accept_all(&server, &mut accepted);
            for mut stream in accepted {
                stream.set_nonblocking(true).unwrap();
                let heard = stream.read(&mut [0]);
                assert!(heard.is_err() || heard.is_ok_and(|bytes| bytes == 0));
            }
            client.does("dialler.opened.clear()");
            world.gate.detach(agent.id).unwrap();
        }
    });
}

/// What waits to be accepted, and only the last of it.
fn accept_all(server: &TcpListener, accepted: &mut Vec<TcpStream>) {
    server.set_nonblocking(true).unwrap();
    while let Ok((stream, _)) = server.accept() {
        accepted.push(stream);
        if accepted.len() > 300 {
            accepted.drain(..100);
        }
    }
}

//! Sockets and processes of others, where the kernel runs LSM programs.

use std::fs;
use std::path::Path;

use agentguard_common::event::{Event, kind, reason};
use agentguard_common::map::mode;

use crate::client::Client;
use crate::lsm::in_world_with_lsm;
use crate::world::{World, accept, datagram_server, direct, server};

fn moves(client: &Client, cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), client.pid().to_string()).unwrap();
}

/// The one event, of a socket that the agent did not make.
#[track_caller]
fn refused(world: &mut World, client: &Client) -> Event {
    let events = world.events();
    let [event] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(
        (event.kind, event.reason),
        (kind::SOCKET, reason::UNKNOWN_SOCKET)
    );
    assert_eq!((event.agent, event.run, event.denied), (1, 101, 1));
    assert_eq!((event.pid, event.uid), (client.pid(), 0));
    *event
}

#[test]
fn a_moved_process_does_nothing_with_the_sockets_that_it_has() {
    in_world_with_lsm(|world| {
        let (_server, port) = server();
        let (_datagrams, there) = datagram_server("192.0.2.1:0");
        let agent = world.agent(1);
        world.rule(&agent, &[("::/0", direct(1))]);
        let mut client = world.ungoverned("outside").client();
        client.does(&format!("u = udp('192.0.2.1', {there})"));
        client.does(&format!("t = tcp('2001:db8::1', {port})"));
        client.does("s = socket.socket(); r = socket.socket(AF_INET, SOCK_RAW, 1)");
        client.does("m = socket.socket(AF_INET, SOCK_DGRAM)");
        client.does("a, b = socket.socketpair()");
        let join = "m.setsockopt(0, 35, socket.inet_aton('224.9.8.7') + bytes(4))";
        client.does("u.send(b'x'); t.send(b'x')");
        moves(&client, &agent.path);
        for (line, family, kind_of, protocol) in [
            ("u.send(b'x')".to_owned(), 2, 2, 17),
            ("os.write(u.fileno(), b'x')".to_owned(), 2, 2, 17),
            ("t.send(b'x')".to_owned(), 10, 1, 6),
            (format!("s.connect(('192.0.2.1', {port}))"), 2, 1, 6),
            ("s.listen()".to_owned(), 2, 1, 6),
            ("r.sendto(b'x', ('192.0.2.1', 0))".to_owned(), 2, 3, 1),
            (join.to_owned(), 2, 2, 17),
        ] {
            client.is_refused(&line);
            let event = refused(world, &client);
            assert_eq!(
                (event.family, event.socket_type, event.protocol),
                (family, kind_of, protocol),
                "{line}"
            );
        }
        // What says nothing to anybody is left to it, and so is what it makes now.
        client.does("t.recv(0); m.setsockopt(0, socket.IP_TOS, 16); a.send(b'x')");
        client.does(&format!("tcp('192.0.2.1', {port}).send(b'x')"));
        world.events();
        // Out again, it has them back.
        moves(&client, &world.ungoverned("outside").path);
        client.does("u.send(b'x')");
        // The end of the connection before may be told late.
        assert!(world.events().iter().all(|event| event.denied == 0));
    });
}

#[test]
fn who_is_only_watched_uses_a_socket_of_another_and_it_is_recorded() {
    in_world_with_lsm(|world| {
        let (_server, port) = datagram_server("192.0.2.1:0");
        let mut agent = world.agent(1);
        agent.entry.mode = mode::OBSERVE;
        world.gate.put_agent(agent.id, &agent.entry).unwrap();
        let mut client = world.ungoverned("outside").client();
        client.does(&format!("u = udp('192.0.2.1', {port})"));
        moves(&client, &agent.path);
        client.does("u.send(b'x')");
        let events = world.events();
        assert_eq!((events.len(), events[0].denied), (1, 0), "{events:?}");
        assert_eq!(events[0].reason, reason::UNKNOWN_SOCKET);
    });
}

/// What is neither IP nor UNIX was made before the gate was there, or while its agent was only watched, if it is
/// there at all.
#[test]
fn a_socket_of_another_family_from_before_says_nothing() {
    in_world_with_lsm(|world| {
        let mut agent = world.agent(1);
        agent.entry.mode = mode::OBSERVE;
        world.gate.put_agent(agent.id, &agent.entry).unwrap();
        let mut client = agent.client();
        client.does("p = socket.socket(17, SOCK_DGRAM, 0); n = socket.socket(16, SOCK_RAW, 0)");
        let vsock = client.says("do v = socket.socket(40, SOCK_STREAM, 0)") == "done";
        world.events();
        let frame = "p.sendto(bytes(20), ('lo', 0x0800))";
        client.does(frame);
        let events = world.events();
        assert_eq!((events.len(), events[0].denied), (1, 0), "{events:?}");
        agent.entry.mode = mode::ENFORCE;
        world.gate.put_agent(agent.id, &agent.entry).unwrap();
        client.is_refused(frame);
        let event = refused(world, &client);
        assert_eq!((event.family, event.socket_type), (17, 2));
        if vsock {
            client.is_refused("v.connect((1, 4000))");
            assert_eq!(refused(world, &client).family, 40);
        }
        // Links are asked for over netlink, by everybody.
        client.does("n.send(bytes([20, 0, 0, 0, 18, 0, 1, 3] + [0] * 12)); n.recv(65536)");
        assert_eq!(world.events().len(), 0);
    });
}

/// An agent's sockets are its own in every cgroup below its own, and also in another's.
#[test]
fn an_agents_sockets_are_its_own_wherever_below_it_they_are_used() {
    in_world_with_lsm(|world| {
        let (server, port) = server();
        let (agent, other) = (world.agent(1), world.agent(2));
        world.rule(&agent, &[("::/0", direct(1))]);
        let mut deep = agent.path.clone();
        for _ in 0..5 {
            deep.push("below");
            fs::create_dir(&deep).unwrap();
        }
        let mut client = agent.client();
        client.does(&format!("t = tcp('192.0.2.1', {port})"));
        accept(&server);
        moves(&client, &deep);
        client.does("t.send(b'x')");
        client.does(&format!("d = tcp('192.0.2.1', {port})"));
        moves(&client, &agent.path);
        client.does("d.send(b'x')");
        world.events();
        moves(&client, &other.path);
        client.is_refused("d.send(b'x')");
        let events = world.events();
        assert_eq!((events.len(), events[0].agent), (1, 2), "{events:?}");
    });
}

#[test]
fn sockets_that_are_handed_in_do_not_arrive() {
    in_world_with_lsm(|world| {
        let (_server, port) = server();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("handed");
        let path = path.to_str().unwrap();
        let mut outside = world.ungoverned("outside").client();
        outside.does(&format!(
            "l = socket.socket(socket.AF_UNIX); l.bind({path:?}); l.listen()"
        ));
        outside.does(&format!(
            "u = udp('192.0.2.1', {port}); t = tcp('192.0.2.1', {port})"
        ));
        let agent = world.agent(1);
        let mut client = agent.client();
        let mut friend = world.ungoverned("friend").client();
        // Who is no agent gets all of them.
        let cases = [
            ("u.fileno()", 0),
            ("t.fileno()", 0),
            ("l.fileno()", 1),
            ("os.open('/dev/null', 0)", 1),
        ];
        for (descriptor, wanted) in cases {
            for (to, count) in [(&mut friend, 1), (&mut client, wanted)] {
                to.does(&format!(
                    "c = socket.socket(socket.AF_UNIX); c.connect({path:?})"
                ));
                outside.does(&format!(
                    "a, _ = l.accept(); socket.send_fds(a, [b'x'], [{descriptor}])"
                ));
                let got: usize = to.number("len(socket.recv_fds(c, 1, 1)[1])");
                assert_eq!(got, count, "{descriptor}");
            }
            if wanted == 0 {
                refused(world, &client);
            }
            assert_eq!(world.events().len(), 0);
        }
    });
}

#[test]
fn processes_outside_of_the_agent_are_out_of_reach() {
    in_world_with_lsm(|world| {
        let agent = world.agent(1);
        let outside = world.ungoverned("outside").client();
        let stranger = world.agent(2).client();
        let mut child = agent.path.clone();
        child.push("child");
        fs::create_dir(&child).unwrap();
        let own = Client::inside(&child);
        let mut client = agent.client();
        let mut free = world.ungoverned("free").client();
        for client in [&mut client, &mut free] {
            client.does("import ctypes; libc = ctypes.CDLL(None, use_errno=True)");
            client.does("buffer = ctypes.create_string_buffer(64)");
        }
        let lines = |pid: u32| {
            [
                // Memory, by file and by call; a descriptor; all of it.
                (format!("open('/proc/{pid}/mem', 'r+b')"), "EACCES"),
                (
                    format!("open('/proc/{pid}/environ', 'rb').read()"),
                    "EACCES",
                ),
                (
                    format!(
                        "if libc.syscall(438, libc.syscall(434, {pid}, 0), 0, 0) < 0: raise OSError(ctypes.get_errno(), '')"
                    ),
                    "EPERM",
                ),
                (
                    format!(
                        "if libc.ptrace(16, {pid}, 0, 0) < 0: raise OSError(ctypes.get_errno(), '')"
                    ),
                    "EPERM",
                ),
                (
                    format!(
                        "if libc.ptrace(17, {pid}, 0, 0) < 0: raise OSError(ctypes.get_errno(), '')"
                    ),
                    "ESRCH",
                ),
            ]
        };
        for other in [&outside, &stranger] {
            for (line, wanted) in lines(other.pid()) {
                assert_eq!(client.says(&format!("do {line}")), wanted, "{line}");
                let events = world.events();
                if wanted == "ESRCH" {
                    continue;
                }
                let [event] = events.as_slice() else {
                    panic!("{line}: {events:?}");
                };
                assert_eq!((event.kind, event.reason), (kind::PROCESS, reason::PROCESS));
                assert_eq!((event.agent, event.denied), (1, 1));
                assert_eq!(event.pid, client.pid());
                assert_eq!(event.socket, u64::from(other.pid()), "{line}");
            }
            // Whoever lists processes is not told of.
            client.does(&format!("open('/proc/{}/stat').read()", other.pid()));
            assert_eq!(world.events().len(), 0);
        }
        // Its own processes it has, and who is no agent has all.
        for (client, pid) in [(&mut client, own.pid()), (&mut free, outside.pid())] {
            for (line, wanted) in lines(pid) {
                // Who was attached to stops a little later, and only then can be let go (ptrace(2)).
                if wanted == "ESRCH" {
                    client.does(&format!("os.waitpid({pid}, 0x40000000)"));
                }
                client.does(&line);
            }
        }
        assert_eq!(world.events().len(), 0);
    });
}

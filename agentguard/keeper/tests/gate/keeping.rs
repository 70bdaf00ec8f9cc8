//! The gate outlives its daemon: pins, replacement, cgroups that come and go.

use std::fs;
use std::io::Read as _;
use std::net::UdpSocket;
use std::path::Path;

use agentguard_common::event::reason;
use agentguard_common::map::{TCP, effect};
use agentguard_keeper::cgroup::Cgroup;
use agentguard_keeper::gate::view::Listener;
use agentguard_keeper::gate::view::View;
use agentguard_keeper::gate::{Attachment, Gate, GateError};
use aya::programs::links::{FdLink, PinnedLink};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::client::Client;
use crate::world::{accept, direct, eventually, in_world, in_world_of_its_own, ports, server, tcp};

#[test]
fn every_program_is_verified_and_attached() {
    in_world(|world| {
        let programs = world.gate.programs();
        let lsm = programs.iter().filter(|p| p.name.starts_with("lsm_"));
        assert_eq!(programs.len() - lsm.count(), 18);
        for program in programs {
            // What `cargo xtask vm-test` reads.
            if let Some(count) = program.verified_instructions {
                println!("verified {}: {count} instructions", program.name);
            }
        }
        let id = Cgroup::open(world.cgroup()).unwrap().id;
        assert_eq!(world.gate.attached().unwrap(), [id]);
        let links = fs::read_dir(world.pins().join("links").join(id.to_string())).unwrap();
        assert_eq!(links.count(), 16);
    });
}

#[test]
fn a_directory_that_is_no_bpf_file_system_is_refused_with_a_hint() {
    in_world(|_| {
        let directory = tempfile::tempdir().unwrap();
        match Gate::load(&directory.path().join("gate")) {
            Err(error @ GateError::NotBpffs(_)) => {
                let told = error.to_string();
                assert!(
                    told.starts_with(directory.path().to_str().unwrap()),
                    "{told}"
                );
                assert!(told.contains("hint: mount -t bpf"), "{told}");
            }
            other => panic!("{:?}", other.err()),
        }
    });
}

#[test]
fn the_gate_holds_while_its_daemon_is_gone_and_is_taken_over_by_the_next() {
    in_world_of_its_own(|world| {
        let (_server, port) = server();
        let agent = world.agent(1);
        let proxied = ports(effect::PROXY, 2, TCP, 443, 443);
        world.rule(
            &agent,
            &[("192.0.2.0/24", proxied), ("203.0.113.0/24", direct(3))],
        );
        let mut client = agent.client();
        let proxy = tcp(&world.listening.v4.proxy);
        client.does("os.sched_setaffinity(0, [0])");
        client.does("before = tcp('192.0.2.1', 443); before.sendall(b'a')");
        client.does("l = listener()");
        client.is_refused("tcp('192.0.2.2', 80)");
        let last = world.events().pop().unwrap();

        // One daemon after the other: what the first one held goes with it.
        let id = Cgroup::open(world.cgroup()).unwrap().id;
        let links = world.pins().join("links").join(id.to_string());
        let programs = linked_programs(&links);
        world.gate = Gate::load(&world.pins()).unwrap();
        client.is_refused("tcp('192.0.2.2', 80)");
        client.does("during = tcp('192.0.2.1', 443)");
        let cgroup = world.cgroup().to_owned();
        assert_eq!(world.gate.attach(&cgroup).unwrap(), Attachment::Replaced);
        let replaced = linked_programs(&links);
        assert_eq!(replaced.len(), 16);
        for (name, program) in &replaced {
            assert!(
                programs
                    .iter()
                    .any(|(other, old)| other == name && old != program),
                "{name}"
            );
        }

        // The maps have kept what they held, and the sockets what they were.
        assert_eq!(world.gate.agents().unwrap(), [(agent.id, agent.entry)]);
        (world.view, _) = View::new(world.gate.view_descriptors().unwrap()).unwrap();
        client.does("after = tcp('192.0.2.1', 443)");
        for name in ["before", "during", "after"] {
            let (mut stream, peer) = accept(&proxy);
            let local: u16 = client.number(&format!("port({name})"));
            assert_eq!(peer.port(), local, "{name}");
            let key = world.key("127.0.0.1", local, TCP);
            let found = world.view.origin(Listener::Proxy, &key);
            assert_eq!(found.unwrap().unwrap().port, 443);
            assert_eq!(client.says(&format!("peer({name})")), "192.0.2.1 443");
            if name == "before" {
                let mut heard = [0];
                stream.read_exact(&mut heard).unwrap();
            }
        }
        client.does("tcp('127.0.0.1', port(l))");
        client.does(&format!("tcp('203.0.113.1', {port})"));
        client.is_refused("tcp('192.0.2.2', 80)");
        let events = world.events();
        let refused: Vec<u8> = events
            .iter()
            .filter(|event| event.denied == 1)
            .map(|event| event.reason)
            .collect();
        assert_eq!(refused, [reason::NO_RULE, reason::NO_RULE]);
        // Numbers go on where they were: a start shows no gap.
        let next = events.iter().find(|event| event.cpu == last.cpu).unwrap();
        assert_eq!(next.sequence, last.sequence + 1);
    });
}

/// The programs behind the links that are pinned in a directory, by the links' names.
fn linked_programs(links: &Path) -> Vec<(String, u32)> {
    let mut programs: Vec<_> = fs::read_dir(links)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let link = FdLink::from(PinnedLink::from_pin(&path).unwrap());
            (name, link.info().unwrap().program_id())
        })
        .collect();
    programs.sort();
    programs
}

/// Whether a link that is open in this process is one on a cgroup.
fn open_links_know(cgroup: u64) -> bool {
    let line = format!("cgroup_id:\t{cgroup}");
    fs::read_dir("/proc/self/fdinfo").unwrap().any(|entry| {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        text.lines().any(|other| other == line)
    })
}

/// Who has such a socket, from a process of the cgroup, must not be free with it.
#[test]
fn the_gate_stays_on_a_removed_cgroup_while_a_socket_of_it_lives() {
    in_world(|world| {
        let old = world.ungoverned("left-behind");
        world.gate.put_agent(old.id, &old.entry).unwrap();
        world.gate.attach(&old.path).unwrap();
        let mut client = Client::inside(&old.path);
        client.does("left = socket.socket(AF_INET, SOCK_DGRAM)");
        let kept = socket_of(client.pid());
        drop(client);
        eventually("the cgroup is empty", || fs::remove_dir(&old.path).is_ok());

        world.gate.remove_agent(old.id).unwrap();
        world.gate.clear_removed(|_| false).unwrap();
        assert!(world.gate.attached().unwrap().contains(&old.id));
        let refused = kept.send_to(b"x", ("192.0.2.1", 9)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));

        drop(kept);
        eventually("nothing is left of it", || {
            world.gate.clear_removed(|_| false).unwrap();
            !world.gate.attached().unwrap().contains(&old.id)
        });
        let top = Cgroup::open(world.cgroup()).unwrap().id;
        assert_eq!(world.gate.attached().unwrap(), [top]);
    });
}

/// A copy of the one socket that a process has.
fn socket_of(process: u32) -> UdpSocket {
    let fds = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let number = fds
        .map(|entry| entry.unwrap())
        .find(|entry| {
            let to = fs::read_link(entry.path()).unwrap();
            to.to_str().is_some_and(|to| to.starts_with("socket:"))
        })
        .and_then(|entry| entry.file_name().to_str()?.parse().ok())
        .unwrap();
    let pid = Pid::from_raw(process.try_into().unwrap()).unwrap();
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    pidfd_getfd(process, number, PidfdGetfdFlags::empty())
        .unwrap()
        .into()
}

#[test]
fn a_link_whose_cgroup_was_removed_is_replaced() {
    in_world(|world| {
        let old = world.ungoverned("short-lived");
        assert_eq!(world.gate.attach(&old.path).unwrap(), Attachment::Attached);
        fs::remove_dir(&old.path).unwrap();
        assert!(world.gate.attached().unwrap().contains(&old.id));

        let pins = fs::read_dir(world.pins().join("links").join(old.id.to_string())).unwrap();
        let held: Vec<FdLink> = pins
            .map(|pin| PinnedLink::from_pin(pin.unwrap().path()).unwrap().into())
            .collect();
        assert_eq!(held.len(), 16);
        eventually("the links are without a cgroup", || {
            !open_links_know(old.id)
        });
        drop(held);

        // The kernel gives the number of a cgroup to another one some day.
        let new = world.ungoverned("short-lived");
        assert_ne!(new.id, old.id);
        let links = world.pins().join("links");
        fs::rename(
            links.join(old.id.to_string()),
            links.join(new.id.to_string()),
        )
        .unwrap();
        assert_eq!(world.gate.attach(&new.path).unwrap(), Attachment::Attached);
        world.gate.put_agent(new.id, &new.entry).unwrap();
        let mut client = new.client();
        client.is_refused("tcp('192.0.2.1', 80)");
        assert_eq!(world.events()[0].agent, new.entry.agent);
        assert_eq!(world.gate.attach(&new.path).unwrap(), Attachment::Replaced);
    });
}

#[test]
fn a_cgroup_is_released_by_its_number_and_all_by_the_directory() {
    in_world_of_its_own(|world| {
        let (_server, port) = server();
        let agent = world.agent(1);
        let mut client = agent.client();
        client.is_refused(&format!("tcp('192.0.2.1', {port})"));
        let id = Cgroup::open(world.cgroup()).unwrap().id;
        world.gate.detach(id).unwrap();
        world.gate.detach(id).unwrap();
        assert_eq!(world.gate.attached().unwrap(), [0; 0]);
        // The kernel takes the programs off in the background.
        eventually("the cgroup is free", || {
            !client
                .says(&format!("tcp('192.0.2.1', {port})"))
                .eq("EPERM")
        });

        let cgroup = world.cgroup().to_owned();
        assert_eq!(world.gate.attach(&cgroup).unwrap(), Attachment::Attached);
        client.is_refused(&format!("tcp('192.0.2.1', {port})"));
        assert_eq!(Gate::pinned(&world.pins()).unwrap(), [id]);
        assert_eq!(Gate::detach_all(&world.pins()).unwrap(), [id]);
        assert_eq!(Gate::detach_all(&world.pins()).unwrap(), [0; 0]);
        // What a daemon locks stays.
        assert!(world.pins().exists());
        assert!(!Gate::is_left(&world.pins()).unwrap());
        eventually("the cgroup is free", || {
            !client
                .says(&format!("tcp('192.0.2.1', {port})"))
                .eq("EPERM")
        });
    });
}

//! What LSM programs see, where the kernel runs them, and what is said where it does not.

use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};

use agentguard_common::event::{Event, kind, reason};
use agentguard_common::map::mode;
use agentguard_keeper::gate::Gate;
use aya::programs::{LsmAttachType, ProgramType};
use aya::sys::is_program_supported;
use rustix::mount::MountFlags;

use crate::client::Client;
use crate::world::{Agent, World, absent, in_world, in_world_of_its_own};

/// The programs, in the order of the status.
const PROGRAMS: [&str; 10] = [
    "lsm_socket_create",
    "lsm_unix_create",
    "lsm_unix_connect",
    "lsm_unix_send",
    "lsm_foreign_send",
    "lsm_foreign_dial",
    "lsm_foreign_listen",
    "lsm_foreign_option",
    "lsm_foreign_receive",
    "lsm_foreign_process",
];

/// Whether this kernel takes LSM programs, and has `bpf` among the modules that it asks: not by way of
/// the gate.
fn kernel_runs_lsm() -> bool {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    rustix::mount::mount("none", path, "securityfs", MountFlags::empty(), None).unwrap();
    let modules = fs::read_to_string(path.join("lsm")).unwrap_or_default();
    rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH).unwrap();
    modules.trim().split(',').any(|module| module == "bpf")
        && is_program_supported(ProgramType::Lsm(LsmAttachType::Mac))
            .is_ok_and(|supported| supported)
}

/// Runs a test where the kernel runs LSM programs. Elsewhere the gate says so.
pub(crate) fn in_world_with_lsm(test: impl FnOnce(&mut World) + Send) {
    in_world(|world| with_lsm(world, test));
}

fn with_lsm(world: &mut World, test: impl FnOnce(&mut World)) {
    if kernel_runs_lsm() {
        assert_eq!(world.gate.lsm_lacks(), [""; 0]);
        test(world);
    } else {
        assert_eq!(world.gate.lsm_lacks().len(), 3);
        absent("LSM programs");
    }
}

#[test]
fn what_runs_is_in_the_status_and_what_is_open_without_is_told() {
    in_world(|world| {
        let running: Vec<_> = world
            .gate
            .programs()
            .iter()
            .filter(|program| program.name.starts_with("lsm_"))
            .map(|program| program.name)
            .collect();
        let lacks = world.gate.lsm_lacks();
        if kernel_runs_lsm() {
            assert_eq!(running, PROGRAMS);
            assert_eq!(lacks, [""; 0]);
            let mut links: Vec<_> = fs::read_dir(world.pins().join("links/lsm"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            links.sort();
            let mut programs = PROGRAMS;
            programs.sort_unstable();
            assert_eq!(links, programs);
        } else {
            assert_eq!(running, [""; 0]);
            assert_eq!(lacks.len(), 3);
            for lack in lacks {
                println!("{lack}");
            }
            assert!(lacks[0].contains("AF_VSOCK"), "{lacks:?}");
            assert!(lacks[1].contains("Docker"), "{lacks:?}");
            assert!(lacks[2].contains("other processes"), "{lacks:?}");
        }
    });
}

/// Arguments of `socket(2)`, and the family in the event.
const REFUSED: [(&str, u16); 10] = [
    ("17, SOCK_RAW, 0", 17),
    ("17, SOCK_DGRAM, 0x0300", 17),
    // SOCK_PACKET over AF_INET is AF_PACKET.
    ("AF_INET, 10, 0x0300", 17),
    ("40, SOCK_STREAM, 0", 40),
    ("38, SOCK_SEQPACKET, 0", 38),
    ("44, SOCK_RAW, 0", 44),
    ("15, SOCK_RAW, 2", 15),
    // sock_diag, uevents.
    ("16, SOCK_RAW, 4", 16),
    ("16, SOCK_DGRAM, 15", 16),
    // A family that nobody has looked at.
    ("45, SOCK_DGRAM, 0", 45),
];

#[test]
fn families_that_are_not_listed_are_refused_to_agents_alone() {
    in_world_with_lsm(|world| {
        let agent = world.agent(1);
        let mut client = agent.client();
        let mut outside = world.ungoverned("outside").client();
        let mut made = 0;
        for (arguments, family) in REFUSED {
            let line = format!("socket.socket({arguments})");
            let answer = outside.says(&format!("do {line}"));
            assert_ne!(answer, "EPERM", "{arguments}");
            made += u32::from(answer == "done");
            assert_eq!(world.events().len(), 0, "{arguments}");
            client.is_refused(&line);
            let events = world.events();
            assert_eq!(events.len(), 1, "{arguments}: {events:?}");
            let event = &events[0];
            assert_eq!(
                (event.kind, event.reason),
                (kind::SOCKET, reason::SOCKET_TYPE)
            );
            assert_eq!((event.family, event.denied), (family, 1), "{arguments}");
            assert_eq!((event.agent, event.run), (1, 101));
            assert_eq!((event.pid, event.uid), (client.pid(), 0));
        }
        // Packets and netlink are on every kernel: what was refused could be had.
        assert!(made >= 5, "{made}");
        client.does("socket.socket(16, SOCK_RAW, 0)");
        client.does("socket.socketpair()");
        client.does("socket.if_nameindex()");
        client.does("socket.socket(); socket.socket(AF_INET6, SOCK_DGRAM)");
        assert_eq!(world.events().len(), 0);
    });
}

#[test]
fn who_is_only_watched_gets_the_family_and_it_is_recorded() {
    in_world_with_lsm(|world| {
        let mut agent = world.agent(1);
        agent.entry.mode = mode::SHADOW;
        world.gate.put_agent(agent.id, &agent.entry).unwrap();
        let mut client = agent.client();
        client.does("socket.socket(17, SOCK_RAW, 0)");
        let events = world.events();
        assert_eq!((events.len(), events[0].denied), (1, 0));
        assert_eq!(events[0].reason, reason::SOCKET_TYPE);
    });
}

/// UNIX sockets of a program outside: one below a listed path, one below another.
struct Host {
    directory: tempfile::TempDir,
    _listening: (UnixListener, UnixListener, UnixDatagram),
}

impl Host {
    fn new(world: &mut World) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listed = directory.path().join("listed");
        fs::create_dir(&listed).unwrap();
        let host = Self {
            _listening: (
                UnixListener::bind(listed.join("power.sock")).unwrap(),
                UnixListener::bind(directory.path().join("other.sock")).unwrap(),
                UnixDatagram::bind(listed.join("datagrams")).unwrap(),
            ),
            directory,
        };
        world
            .gate
            .refuse_unix([host.path("listed").as_str()])
            .unwrap();
        host
    }

    fn path(&self, name: &str) -> String {
        self.directory
            .path()
            .join(name)
            .to_str()
            .unwrap()
            .to_owned()
    }
}

fn dial(name: &str) -> String {
    format!("s = socket.socket(socket.AF_UNIX); s.connect({name:?})")
}

/// The one event, which is a refusal, and its name.
#[track_caller]
fn refusal(world: &mut World) -> (Event, String) {
    let told = world.told();
    let [(event, Some(name))] = told.as_slice() else {
        panic!("{told:?}");
    };
    assert_eq!(
        (event.kind, event.reason),
        (kind::SOCKET, reason::UNIX_SOCKET)
    );
    assert_eq!(event.family, 1);
    (*event, name.clone())
}

#[test]
fn a_listed_unix_socket_is_refused_however_its_path_is_written() {
    in_world_with_lsm(|world| {
        let host = Host::new(world);
        let listed = host.path("listed/power.sock");
        let link = host.path("link");
        std::os::unix::fs::symlink(host.path("listed"), &link).unwrap();
        fs::hard_link(&listed, host.path("hard")).unwrap();
        let agent = world.agent(1);
        let mut client = agent.client();
        let mut outside = world.ungoverned("outside").client();
        for (line, wanted) in [
            (dial(&listed), &listed),
            (dial(&format!("{link}/power.sock")), &listed),
            (dial(&format!("/proc/self/root{listed}")), &listed),
            (dial(&host.path("hard")), &listed),
            (
                format!(
                    "os.chdir({:?}); {}",
                    host.path("listed"),
                    dial("power.sock")
                ),
                &listed,
            ),
        ] {
            outside.does(&line);
            assert_eq!(world.events().len(), 0);
            client.is_refused(&line);
            let (event, name) = refusal(world);
            assert_eq!((&name, event.denied, event.agent), (wanted, 1, 1));
            assert_eq!((event.pid, event.socket_type), (client.pid(), 1));
        }
        // Moved elsewhere, it is still what its owner called it.
        let moved = host.path("moved");
        fs::rename(&listed, &moved).unwrap();
        client.is_refused(&dial(&moved));
        assert_eq!(refusal(world).1, listed);
        client.does(&dial(&host.path("other.sock")));
        assert_eq!(world.events().len(), 0);
    });
}

#[test]
fn datagrams_to_a_listed_unix_socket_are_refused_too() {
    in_world_with_lsm(|world| {
        let host = Host::new(world);
        let listed = host.path("listed/datagrams");
        let mut client = world.agent(1).client();
        let mut outside = world.ungoverned("outside").client();
        for client in [&mut client, &mut outside] {
            client.does("d = socket.socket(socket.AF_UNIX, SOCK_DGRAM)");
        }
        for line in [
            format!("d.sendto(b'x', {listed:?})"),
            format!("d.connect({listed:?})"),
        ] {
            outside.does(&line);
            client.is_refused(&line);
            let (event, name) = refusal(world);
            assert_eq!((&name, event.denied, event.socket_type), (&listed, 1, 2));
        }
        // What somebody else connected and passed on sends nothing either.
        let mut agent = world.agent(2);
        agent.entry.mode = mode::OBSERVE;
        world.gate.put_agent(agent.id, &agent.entry).unwrap();
        let mut observed = agent.client();
        observed.does("d = socket.socket(socket.AF_UNIX, SOCK_DGRAM)");
        observed.does(&format!("d.connect({listed:?})"));
        assert_eq!(refusal(world).0.denied, 0);
        agent.entry.mode = mode::ENFORCE;
        world.gate.put_agent(agent.id, &agent.entry).unwrap();
        observed.is_refused("d.send(b'x')");
        assert_eq!(refusal(world).0.denied, 1);
    });
}

fn listens(agent: &Agent, name: &str) -> Client {
    let mut client = agent.client();
    client.does(&format!(
        "l = socket.socket(socket.AF_UNIX); l.bind({name:?}); l.listen()"
    ));
    client
}

#[test]
fn an_agents_own_unix_sockets_are_open_to_it_and_abstract_ones_to_it_alone() {
    in_world_with_lsm(|world| {
        let host = Host::new(world);
        let own = host.path("listed/own.sock");
        let abstract_name = format!("\0agentguard-test-{}", own.replace('/', "-"));
        let (one, two) = (world.agent(1), world.agent(2));
        let _listening = [listens(&one, &own), listens(&one, &abstract_name)];
        let mut client = one.client();
        client.does(&dial(&own));
        client.does(&dial(&abstract_name));
        assert_eq!(world.events().len(), 0);

        let mut other = two.client();
        other.is_refused(&dial(&own));
        assert_eq!(refusal(world).1, own);
        other.is_refused(&dial(&abstract_name));
        let (event, name) = refusal(world);
        assert_eq!(event.agent, 2);
        assert_eq!(name, abstract_name.replace('\0', "@"));

        // Of a program of the host.
        let outside = format!("agentguard-host-{}", host.path("x").replace('/', "-"));
        let address = SocketAddr::from_abstract_name(&outside).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();
        let line = dial(&format!("\0{outside}"));
        client.is_refused(&line);
        assert_eq!(refusal(world).1, format!("@{outside}"));
        // The other way about, nobody is asked.
        world
            .ungoverned("outside")
            .client()
            .does(&dial(&abstract_name));
        assert_eq!(world.events().len(), 0);

        // A policy can open them, to one agent.
        let pattern = format!("@{outside}");
        world
            .gate
            .open_unix(1, [pattern.as_str(), &host.path("listed")])
            .unwrap();
        client.does(&line);
        client.does(&dial(&host.path("listed/power.sock")));
        other.is_refused(&line);
        world.gate.open_unix(1, ["@agentguard-host-*"]).unwrap();
        client.does(&line);
        client.is_refused(&dial(&host.path("listed/power.sock")));
        world.gate.keep_open_unix(&[1]).unwrap();
        client.does(&line);
        world.gate.keep_open_unix(&[2]).unwrap();
        client.is_refused(&line);
    });
}

/// Pairs and what has no name cannot be dialled by anybody.
#[test]
fn pairs_of_unix_sockets_work() {
    in_world_with_lsm(|world| {
        let mut client = world.agent(1).client();
        client.does("a, b = socket.socketpair(socket.AF_UNIX, SOCK_DGRAM); a.send(b'x')");
        client.does("assert b.recv(1) == b'x'");
        assert_eq!(world.events().len(), 0);
    });
}

#[test]
fn the_next_daemon_takes_over_and_nothing_is_refused_twice() {
    in_world_of_its_own(|world| {
        with_lsm(world, |world| {
            let host = Host::new(world);
            let listed = host.path("listed/power.sock");
            let own = host.path("listed/own.sock");
            let one = world.agent(1);
            let _listening = listens(&one, &own);
            let mut client = one.client();
            world.gate = Gate::load(&world.pins()).unwrap();
            world.gate.attach_lsm();
            assert_eq!(world.gate.lsm_lacks(), [""; 0]);
            client.is_refused(&dial(&listed));
            refusal(world);
            client.is_refused("socket.socket(17, SOCK_RAW, 0)");
            assert_eq!(world.events().len(), 1);
            // Whose a socket is is known from before.
            client.does(&dial(&own));
            let links = fs::read_dir(world.pins().join("links/lsm")).unwrap();
            assert_eq!(links.count(), PROGRAMS.len());

            Gate::detach_all(&world.pins()).unwrap();
            crate::world::eventually("the programs are gone", || {
                client.says("socket.socket(17, SOCK_RAW, 0)") != "EPERM"
            });
        });
    });
}

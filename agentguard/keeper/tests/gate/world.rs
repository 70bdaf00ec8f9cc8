//! What the tests stand on: a gate, agents, and their processes.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use agentguard_common::event::Event;
use agentguard_common::map::{
    AgentEntry, Listeners, OriginKey, PortRule, PortRules, Settings, TCP, UDP, agent_flag, effect,
    listener_flag,
};
use agentguard_keeper::cgroup;
use agentguard_keeper::gate::view::{Events, View};
use agentguard_keeper::gate::{Attachment, Gate, Network};
use agentguard_keeper::namespace::{Listening, Ports};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::UnshareFlags;

/// How long a test waits for something that must happen: so many times longer as `AGENTGUARD_PATIENCE`
/// says, on an emulated processor.
pub(crate) fn deadline() -> Duration {
    let patience = std::env::var("AGENTGUARD_PATIENCE");
    let times = patience.map_or(1, |times| times.parse().unwrap());
    Duration::from_secs(20) * times
}

/// Where the proxy and the resolver of every world listen.
pub(crate) const PORTS: Ports = Ports {
    proxy: 15001,
    resolver: 15053,
};

/// The policy generation of every world.
pub(crate) const GENERATION: u32 = 7;

/// A gate on a cgroup of its own, seen from a thread in namespaces of its own. Its mount and its
/// network end with that thread; drop removes the cgroups and what lives in them.
pub(crate) struct World {
    pub(crate) gate: Gate,
    pub(crate) view: View,
    pub(crate) listening: Listening,
    events: Events,
    top: PathBuf,
    cgroup: PathBuf,
    directory: tempfile::TempDir,
}

/// Runs a test in a new world, on a thread that ends with it.
pub(crate) fn in_world(test: impl FnOnce(&mut World) + Send) {
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    if let Some(missing) = missing() {
        assert!(
            std::env::var_os("AGENTGUARD_REQUIRE_ALL").is_none(),
            "{missing}, and nothing may be skipped"
        );
        println!("skipped {name}: {missing}");
        return;
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| test(&mut World::new()));
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    cgroup::mount().is_none().then_some("needs cgroup v2")
}

impl World {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        // SAFETY: only this thread's namespaces and file system attributes are left; no descriptor
        // table changes.
        unsafe {
            rustix::thread::unshare_unsafe(
                UnshareFlags::NEWNET | UnshareFlags::NEWNS | UnshareFlags::FS,
            )
        }
        .unwrap();
        rustix::mount::mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .unwrap();
        // Every documentation address and every virtual one is an address of this world, so that
        // what passes the gate arrives.
        ip("link set lo up");
        for range in ["192.0.2.0/24", "203.0.113.0/24", "198.18.0.0/15"] {
            ip(&format!("route add local {range} dev lo"));
        }
        for range in ["2001:db8::/32", "fd41:6775:6172:6400::/64"] {
            ip(&format!("-6 route add local {range} dev lo"));
        }

        let directory = tempfile::tempdir().unwrap();
        rustix::mount::mount("bpf", directory.path(), "bpf", MountFlags::empty(), None).unwrap();
        let top = cgroup::mount().unwrap().join(format!(
            "agentguard-test-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::SeqCst)
        ));
        let cgroup = top.join("gated");
        let guard = RemovedOnDrop(Some(top));
        fs::create_dir_all(&cgroup).unwrap();

        let listening = Listening::here(PORTS).unwrap();
        let mut gate = Gate::load(&directory.path().join("gate")).unwrap();
        set_up(&mut gate, &listening);
        gate.attach_lsm();
        let (view, events) = View::new(gate.view_descriptors().unwrap()).unwrap();
        let mut world = Self {
            gate,
            view,
            listening,
            events,
            top: guard.keep(),
            cgroup: cgroup.clone(),
            directory,
        };
        assert_eq!(world.gate.attach(&cgroup).unwrap(), Attachment::Attached);
        world
    }

    /// Writes what every world's gate has into new maps.
    pub(crate) fn set_up(&mut self) {
        set_up(&mut self.gate, &self.listening);
    }

    /// The cgroup that carries the gate.
    pub(crate) fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Where the gate is pinned.
    pub(crate) fn pins(&self) -> PathBuf {
        self.directory.path().join("gate")
    }

    /// An enforced agent that has its own loopback ports, its own profile and no rule.
    pub(crate) fn agent(&mut self, number: u32) -> Agent {
        let agent = agent(self.cgroup.join(format!("agent-{number}")), number);
        self.gate.put_agent(agent.id, &agent.entry).unwrap();
        agent
    }

    /// A cgroup without the gate, of an agent that the gate does not know yet.
    pub(crate) fn ungoverned(&self, name: &str) -> Agent {
        agent(self.top.join(name), 99)
    }

    /// Gives an agent's addresses their rules.
    pub(crate) fn rule(&mut self, agent: &Agent, networks: &[(&str, PortRules)]) {
        let networks: Vec<Network> = networks.iter().map(network).collect();
        self.gate
            .put_networks(agent.entry.profile, &networks)
            .unwrap();
    }

    /// The events since the last call.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        self.events.by_ref().map(|told| told.event).collect()
    }

    /// As [`Self::events`], with the names of UNIX sockets.
    pub(crate) fn told(&mut self) -> Vec<(Event, Option<String>)> {
        self.events
            .by_ref()
            .map(|told| (told.event, told.unix))
            .collect()
    }

    /// What is known of the client behind a port of `127.0.0.1`.
    pub(crate) fn key(&self, address: &str, port: u16, transport: u8) -> OriginKey {
        OriginKey {
            netns: self.listening.netns,
            address: address.parse::<IpAddr>().unwrap().into(),
            port,
            transport,
            _pad: [0; 5],
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(RemovedOnDrop(Some(self.top.clone())));
        // The directory cannot be removed while something is mounted on it.
        let _ = rustix::mount::unmount(self.directory.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

fn set_up(gate: &mut Gate, listening: &Listening) {
    gate.set(&Settings {
        alive_until_ns: u64::MAX,
        abi_version: agentguard_common::ABI_VERSION,
        generation: GENERATION,
    })
    .unwrap();
    let listeners = Listeners {
        proxy_port: PORTS.proxy,
        resolver_port: PORTS.resolver,
        flags: listener_flag::V6,
    };
    gate.put_listeners(listening.netns, &listeners).unwrap();
}

/// A cgroup that goes with all that lives in it.
struct RemovedOnDrop(Option<PathBuf>);

impl RemovedOnDrop {
    fn keep(mut self) -> PathBuf {
        self.0.take().unwrap()
    }
}

impl Drop for RemovedOnDrop {
    fn drop(&mut self) {
        let Some(path) = &self.0 else {
            return;
        };
        let _ = fs::write(path.join("cgroup.kill"), "1");
        let deadline = Instant::now() + deadline();
        while cgroup::remove(path).is_err() && Instant::now() < deadline {
            pause();
        }
    }
}

/// An agent and its cgroup.
pub(crate) struct Agent {
    pub(crate) path: PathBuf,
    pub(crate) id: u64,
    pub(crate) entry: AgentEntry,
}

fn agent(path: PathBuf, number: u32) -> Agent {
    let made = cgroup::Cgroup::create(&path).unwrap();
    Agent {
        path,
        id: made.id,
        entry: AgentEntry {
            agent: number,
            profile: number,
            run: 100 + number,
            flags: agent_flag::LOCAL_OWN,
            ..AgentEntry::default()
        },
    }
}

impl Agent {
    /// A process of this agent.
    pub(crate) fn client(&self) -> Client {
        Client::inside(&self.path)
    }
}

/// A process that does what a test says.
pub(crate) struct Client {
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
}

impl Client {
    /// In this cgroup.
    pub(crate) fn inside(cgroup: &Path) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gate/client.py");
        let mut child = Command::new("python3")
            .arg(script)
            .arg(cgroup)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, answers) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut client = Self {
            input: child.stdin.take().unwrap(),
            child,
            answers,
        };
        // It is where it should be from here on.
        client.does("pass");
        client
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The answer to one line of `client.py`.
    pub(crate) fn says(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        self.answers
            .recv_timeout(2 * deadline())
            .unwrap_or_else(|_| panic!("no answer to: {line}"))
    }

    /// Carries out a statement that succeeds.
    #[track_caller]
    pub(crate) fn does(&mut self, line: &str) {
        assert_eq!(self.says(&format!("do {line}")), "done", "{line}");
    }

    /// Carries out a line that the gate refuses.
    #[track_caller]
    pub(crate) fn is_refused(&mut self, line: &str) {
        assert_eq!(self.says(&format!("do {line}")), "EPERM", "{line}");
    }

    /// The value of an expression that is a number.
    #[track_caller]
    pub(crate) fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(&mut self, line: &str) -> T {
        self.says(line).parse().unwrap()
    }

    /// Ends the process and waits until it is gone.
    pub(crate) fn ends(mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every port over both transports.
pub(crate) fn any(effect: u8, rule: u32) -> PortRules {
    ports(effect, rule, TCP | UDP, 0, u16::MAX)
}

/// One line.
pub(crate) fn ports(effect: u8, rule: u32, transports: u8, first: u16, last: u16) -> PortRules {
    let mut rules = PortRules::default();
    rules[0] = PortRule {
        rule,
        first,
        last,
        transports,
        effect,
        ..PortRule::default()
    };
    rules
}

/// Every port, decided by the kernel alone.
pub(crate) fn direct(rule: u32) -> PortRules {
    any(effect::DIRECT, rule)
}

fn network((range, rules): &(&str, PortRules)) -> Network {
    let (address, prefix) = range.split_once('/').unwrap();
    Network {
        address: address.parse().unwrap(),
        prefix: prefix.parse().unwrap(),
        rules: *rules,
    }
}

/// A server for every address of the world, of both families, and its port.
pub(crate) fn server() -> (TcpListener, u16) {
    let server = TcpListener::bind("[::]:0").unwrap();
    let port = server.local_addr().unwrap().port();
    (server, port)
}

/// As [`server`], over UDP.
pub(crate) fn datagram_server(address: &str) -> (UdpSocket, u16) {
    let server = UdpSocket::bind(address).unwrap();
    server.set_read_timeout(Some(deadline())).unwrap();
    let port = server.local_addr().unwrap().port();
    (server, port)
}

/// The next connection of a listener.
pub(crate) fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    wait_readable(listener);
    let (stream, peer) = listener.accept().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(deadline())).unwrap();
    (stream, peer)
}

/// A blocking copy of one of the guard's listeners.
pub(crate) fn tcp(descriptor: &OwnedFd) -> TcpListener {
    descriptor.try_clone().unwrap().into()
}

/// A copy of one of the guard's UDP sockets, which waits.
pub(crate) fn udp(descriptor: &OwnedFd) -> UdpSocket {
    let socket: UdpSocket = descriptor.try_clone().unwrap().into();
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(deadline())).unwrap();
    socket
}

fn wait_readable(what: impl AsFd) {
    let mut fds = [PollFd::new(&what, PollFlags::IN)];
    let timeout = Timespec::try_from(deadline()).unwrap();
    assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)), Ok(1));
}

/// Waits on a condition that nothing announces.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + deadline();
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        pause();
    }
}

fn pause() {
    let pause = Timespec {
        tv_sec: 0,
        tv_nsec: 2_000_000,
    };
    let _ = rustix::event::poll(&mut [], Some(&pause));
}

/// Changes the network of this world.
pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    assert!(status.unwrap().success(), "ip {arguments}");
}

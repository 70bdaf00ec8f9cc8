//! What the tests stand on: a gate, agents, and their processes.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentguard_common::event::Event;
use agentguard_common::map::{
    AgentEntry, Listeners, NameEntry, NameKey, Origin, OriginKey, PortRule, PortRules, Settings,
    SlotKey, TCP, UDP, agent_flag, effect, listener_flag,
};
use agentguard_keeper::cgroup;
use agentguard_keeper::gate::view::{Events, View};
use agentguard_keeper::gate::{Attachment, Gate, Network};
use agentguard_keeper::namespace::{Listening, Ports};
use aya::Pod;
use aya::maps::{HashMap, Map, MapData};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, fsconfig_create, fsmount,
    fsopen,
};
use rustix::thread::UnshareFlags;

use crate::client::{self, Client};

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

/// A gate on a cgroup, seen from a thread in namespaces of its own. Its network ends with that thread.
pub(crate) struct World {
    pub(crate) gate: Gate,
    pub(crate) view: View,
    pub(crate) listening: Listening,
    events: Events,
    pins: PathBuf,
    place: Place,
}

/// A gate in the kernel, and the file system that it is pinned in.
struct Loaded {
    gate: Gate,
    bpffs: OwnedFd,
}

/// The gate that tests hand to each other: the kernel verifies a new one for a second, and an emulated
/// processor for ten.
static SHARED: Mutex<Option<Loaded>> = Mutex::new(None);

/// Runs a test in a new world, on a thread that ends with it. The gate is one that others had before,
/// emptied; a test that fails takes it along.
pub(crate) fn in_world(test: impl FnOnce(&mut World) + Send) {
    if is_skipped() {
        return;
    }
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let loaded = shared.take().unwrap_or_else(Loaded::new);
    *shared = Some(on_a_thread(|| {
        let Loaded { gate, bpffs } = loaded;
        let mut world = World::new(gate, &bpffs);
        test(&mut world);
        let gate = world.end();
        Loaded { gate, bpffs }
    }));
}

/// As [`in_world`], with a gate that nobody had before and nobody has afterwards: for what replaces it,
/// fills it up, or counts from its beginning.
pub(crate) fn in_world_of_its_own(test: impl FnOnce(&mut World) + Send) {
    if is_skipped() {
        return;
    }
    on_a_thread(|| {
        let Loaded { gate, bpffs } = Loaded::new();
        test(&mut World::new(gate, &bpffs));
    });
}

fn on_a_thread<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    client::nursery();
    std::thread::scope(|scope| match scope.spawn(run).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Parts of the kernel that one of those that are tested on (`docs/kernels.md`) is known to lack, and why: what
/// may be left out though nothing may be skipped.
const LACKS: [(&str, &str, &str); 1] = [(
    "LSM programs",
    "6.18",
    "that kernel refuses to load them, though `bpf` is among its security modules",
)];

/// Notes that a test, or something of it, is left out because the running kernel has no such part. Fails where
/// nothing may be skipped, and this kernel is not known to lack it.
pub(crate) fn absent(part: &str) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let known = LACKS.iter().find(|(lacks, kernel, _)| {
        let rest = release.strip_prefix(kernel);
        *lacks == part && rest.is_some_and(|rest| !rest.starts_with(|it: char| it.is_ascii_digit()))
    });
    match known {
        Some((_, _, why)) if std::env::var_os(WHOLE).is_some() => {
            println!("no {part} on Linux {release}: {why}");
        }
        _ => skip(&format!("no {part} on Linux {release}")),
    }
}

const WHOLE: &str = "AGENTGUARD_REQUIRE_ALL";

/// Says that a test is not run, where that is allowed.
fn skip(why: &str) {
    assert!(
        std::env::var_os(WHOLE).is_none(),
        "{why}, and nothing may be skipped"
    );
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    println!("skipped {name}: {why}");
    if let Some(file) = std::env::var_os("AGENTGUARD_SKIPPED") {
        let mut options = fs::OpenOptions::new();
        let mut file = options.create(true).append(true).open(file).unwrap();
        writeln!(file, "{name}: {why}").unwrap();
    }
}

fn is_skipped() -> bool {
    let missing = missing();
    if let Some(missing) = missing {
        skip(missing);
    }
    missing.is_some()
}

fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    cgroup::mount().is_none().then_some("needs cgroup v2")
}

impl Loaded {
    fn new() -> Self {
        let bpffs = mounted_bpffs().unwrap();
        let mut gate = Gate::load(&pins(&bpffs)).unwrap();
        gate.attach_lsm();
        Self { gate, bpffs }
    }
}

/// A BPF file system that is mounted nowhere, so that every thread sees it whatever its namespace is.
fn mounted_bpffs() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
}

fn pins(bpffs: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}/gate", bpffs.as_raw_fd()).into()
}

impl World {
    fn new(mut gate: Gate, bpffs: &OwnedFd) -> Self {
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
        ip("link set lo up
            route add local 192.0.2.0/24 dev lo
            route add local 203.0.113.0/24 dev lo
            route add local 198.18.0.0/15 dev lo
            route add local 2001:db8::/32 dev lo
            route add local fd41:6775:6172:6400::/64 dev lo");

        let top = cgroup::mount().unwrap().join(format!(
            "agentguard-test-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::SeqCst)
        ));
        let place = Place {
            gated: top.join("gated"),
            top,
        };
        fs::create_dir_all(&place.gated).unwrap();

        let listening = Listening::here(PORTS).unwrap();
        set_up(&mut gate, &listening);
        let (view, events) = View::new(gate.view_descriptors().unwrap()).unwrap();
        let mut world = Self {
            gate,
            view,
            listening,
            events,
            pins: pins(bpffs),
            place,
        };
        // Nobody is told what an earlier world has left.
        world.events();
        let gated = world.place.gated.clone();
        assert_eq!(world.gate.attach(&gated).unwrap(), Attachment::Attached);
        world
    }

    /// Leaves the gate as if nothing had been.
    fn end(self) -> Gate {
        let Self {
            mut gate,
            pins,
            place,
            ..
        } = self;
        // With the cgroups what lives in them goes.
        drop(place);
        for cgroup in gate.attached().unwrap() {
            gate.detach(cgroup).unwrap();
        }
        for (cgroup, _) in gate.agents().unwrap() {
            gate.remove_agent(cgroup).unwrap();
        }
        for netns in gate.listeners().unwrap() {
            gate.remove_listeners(netns).unwrap();
        }
        gate.keep_networks(&[]).unwrap();
        gate.keep_open_unix(&[]).unwrap();
        gate.refuse_unix([]).unwrap();
        for agent in gate.metered().unwrap() {
            gate.remove_quota(agent).unwrap();
        }
        clear::<NameKey, NameEntry>(&pins, "NAMES");
        clear::<OriginKey, Origin>(&pins, "ORIGINS");
        clear::<OriginKey, Origin>(&pins, "QUERIES");
        clear::<SlotKey, OriginKey>(&pins, "SLOTS");
        gate
    }

    /// Writes what every world's gate has into new maps.
    pub(crate) fn set_up(&mut self) {
        set_up(&mut self.gate, &self.listening);
    }

    /// The cgroup that carries the gate.
    pub(crate) fn cgroup(&self) -> &Path {
        &self.place.gated
    }

    /// One of the gate's maps, as it is pinned.
    pub(crate) fn map<K: Pod, V: Pod>(&self, name: &str) -> HashMap<MapData, K, V> {
        map(&self.pins, name)
    }

    /// Where the gate is pinned.
    pub(crate) fn pins(&self) -> PathBuf {
        self.pins.clone()
    }

    /// An enforced agent that has its own loopback ports, its own profile and no rule.
    pub(crate) fn agent(&mut self, number: u32) -> Agent {
        let agent = agent(self.place.gated.join(format!("agent-{number}")), number);
        self.gate.put_agent(agent.id, &agent.entry).unwrap();
        agent
    }

    /// A cgroup without the gate, of an agent that the gate does not know yet.
    pub(crate) fn ungoverned(&self, name: &str) -> Agent {
        agent(self.place.top.join(name), 99)
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

/// The cgroups of a world, which go with all that lives in them.
struct Place {
    top: PathBuf,
    /// What carries the gate.
    gated: PathBuf,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::write(self.top.join("cgroup.kill"), "1");
        let deadline = Instant::now() + deadline();
        while cgroup::remove(&self.top).is_err() && Instant::now() < deadline {
            pause();
        }
    }
}

/// One of the gate's maps.
fn map<K: Pod, V: Pod>(pins: &Path, name: &str) -> HashMap<MapData, K, V> {
    let path = pins.join(format!("v{}", agentguard_common::ABI_VERSION));
    let data = MapData::from_pin(path.join(name)).unwrap();
    HashMap::try_from(Map::from_map_data(data).unwrap()).unwrap()
}

fn clear<K: Pod, V: Pod>(pins: &Path, name: &str) {
    let mut map = map::<K, V>(pins, name);
    let keys: Vec<K> = map.keys().collect::<Result<_, _>>().unwrap();
    for key in keys {
        map.remove(&key).unwrap();
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

/// Changes the network of this world, in each line once.
pub(crate) fn ip(lines: &str) {
    let mut program = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = program.stdin.take().unwrap();
    input.write_all(lines.as_bytes()).unwrap();
    drop(input);
    assert!(program.wait().unwrap().success(), "ip: {lines}");
}

//! What the system says.

use std::collections::BTreeSet;
use std::io;
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket,
};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use agentguard_keeper::cgroup;
use agentguard_keeper::resources::controllers::{Controller, Tree};
use agentguard_keeper::spawn::{landlock, mounts};
use agentguard_model::ledger::{OnLoss, SharedLedger};
use agentguard_policy::{OnMissing, Sources};
use aya::maps::MapType;
use aya::programs::{LsmAttachType, ProgramType};
use aya::sys::{is_map_supported, is_program_supported};
use rustix::process::{Resource, getrlimit};

use crate::cli::failure::chain;
use crate::config::{ConfigError, Declared, Host, exposed, sources};

/// How long each address of the Redis that hosts share may take to answer.
const CONNECT: Duration = Duration::from_secs(2);

/// Its addresses, at most.
const MAX_PLACES: usize = 4;

/// Everything that the checks look at. A string or a list is what a file held; `None`: it could not
/// be read.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// The effective user.
    pub(super) uid: u32,
    /// The kernel's release, as `uname -r` says it.
    pub(super) kernel: String,
    /// What the kernel can do, or nothing where only root may ask.
    pub(super) bpf: Option<Bpf>,
    /// `/sys/kernel/btf/vmlinux` is there.
    pub(super) btf: bool,
    /// `/sys/kernel/security/lsm`: the active security modules, with commas.
    pub(super) lsm: Option<String>,
    /// The version of Landlock; 0: the kernel has none, or it is off.
    pub(super) landlock: u32,
    /// Why no view of `/proc` can be mounted that hides others' processes, if none can; root alone
    /// can ask.
    pub(super) process_view: Result<(), String>,
    /// `/proc/mounts`.
    pub(super) mounts: String,
    /// `/proc/sys/kernel/unprivileged_bpf_disabled`.
    pub(super) unprivileged_bpf_disabled: Option<String>,
    /// How many files this process may open (soft limit); `None`: any number.
    pub(super) open_files: Option<u64>,
    /// `/proc/net/if_inet6` is there, and IPv6 is not switched off on loopback.
    pub(super) ipv6: bool,
    /// A daemon answers on the control socket.
    pub(super) daemon_runs: bool,
    /// Seconds since 1970 that the clock shows.
    pub(super) clock: i64,
    /// The configuration, or what is wrong with it.
    pub(super) config: Result<Configured, String>,
}

/// What the kernel can do. `Err`: the probe itself failed, with the reason.
#[derive(Clone, Debug)]
pub(super) struct Bpf {
    pub(super) cgroup_sock: Probe,
    pub(super) cgroup_sock_addr: Probe,
    pub(super) cgroup_skb: Probe,
    pub(super) sock_ops: Probe,
    pub(super) ring_buffer: Probe,
    pub(super) sk_storage: Probe,
    pub(super) lpm_trie: Probe,
    pub(super) lsm: Probe,
}

/// One question to the kernel and its answer.
pub(super) type Probe = Result<bool, String>;

/// What depends on the configuration.
#[derive(Clone, Debug)]
pub(super) struct Configured {
    /// The file's paths.
    pub(super) cgroup_root: String,
    pub(super) bpffs: String,
    /// The worker's user as `name (uid)`, or what is wrong with it and how to mend it.
    pub(super) worker: Result<String, (String, String)>,
    /// The policy file's name, and its version or everything that is wrong with it.
    pub(super) policy: (String, Result<String, String>),
    /// What of agents' `resources` this host can hold them to.
    pub(super) resources: Resources,
    /// What of it others than root can change, with what to do, each a sentence.
    pub(super) exposed: Vec<(String, String)>,
    /// Where figures are found, and where they are sent.
    pub(super) telemetry: (Option<String>, Option<String>),
    /// The Redis that hosts share, if there is one.
    pub(super) ledger: Option<Redis>,
    /// Each port with who wants it, and why it cannot be had, if it cannot.
    pub(super) ports: Vec<Port>,
}

/// A Redis, as the configuration has it.
#[derive(Clone, Debug)]
pub(super) struct Redis {
    /// Host and port.
    pub(super) address: String,
    /// Whether others may see what goes there.
    pub(super) in_the_clear: bool,
    /// Why nobody answers there, if nobody does.
    pub(super) away: Option<String>,
    /// What becomes of calls then.
    pub(super) on_loss: OnLoss,
}

/// Whether agents can be held to their limits.
#[derive(Clone, Debug, Default)]
pub(super) struct Resources {
    /// The agents that have some, those that do not run without them first.
    pub(super) refused: Vec<String>,
    /// Those that do.
    pub(super) warned: Vec<String>,
    /// What the host lacks for them, with what to do: a sentence each.
    pub(super) lacks: Vec<(String, String)>,
}

/// A port that the guard listens on.
#[derive(Clone, Debug)]
pub(super) struct Port {
    pub(super) what: &'static str,
    pub(super) number: u16,
    pub(super) problem: Option<String>,
}

/// Asks the system.
pub(super) fn gather(config: Result<Declared, ConfigError>) -> Facts {
    let uid = rustix::process::geteuid().as_raw();
    let daemon_runs = config
        .as_ref()
        .is_ok_and(|config| UnixStream::connect(config.paths.control_socket()).is_ok());
    Facts {
        uid,
        kernel: rustix::system::uname().release().to_string_lossy().into(),
        bpf: (uid == 0).then(probe),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        lsm: read("/sys/kernel/security/lsm"),
        landlock: landlock::abi(),
        process_view: match uid {
            0 => mounts::processes()
                .map(drop)
                .map_err(|error| error.to_string()),
            _ => Ok(()),
        },
        mounts: read("/proc/mounts").unwrap_or_default(),
        unprivileged_bpf_disabled: read("/proc/sys/kernel/unprivileged_bpf_disabled"),
        open_files: getrlimit(Resource::Nofile).current,
        ipv6: Path::new("/proc/net/if_inet6").exists()
            && read("/proc/sys/net/ipv6/conf/lo/disable_ipv6").as_deref() == Some("0"),
        daemon_runs,
        clock: jiff::Timestamp::now().as_second(),
        config: config
            .map(|config| configured(&config))
            .map_err(|error| chain(&error)),
    }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

fn probe() -> Bpf {
    let program = |kind| is_program_supported(kind).map_err(|e| chain(&e));
    let map = |kind| is_map_supported(kind).map_err(|e| chain(&e));
    Bpf {
        cgroup_sock: program(ProgramType::CgroupSock),
        cgroup_sock_addr: program(ProgramType::CgroupSockAddr),
        cgroup_skb: program(ProgramType::CgroupSkb),
        sock_ops: program(ProgramType::SockOps),
        ring_buffer: map(MapType::RingBuf),
        sk_storage: map(MapType::SkStorage),
        lpm_trie: map(MapType::LpmTrie),
        lsm: program(ProgramType::Lsm(LsmAttachType::Mac)),
    }
}

fn configured(config: &Declared) -> Configured {
    let sources = sources::read(&config.paths.policy, |_| Ok(())).map_err(|error| chain(&error));
    Configured {
        cgroup_root: config.paths.cgroup_root.display().to_string(),
        bpffs: config.paths.bpffs.display().to_string(),
        worker: Host::default()
            .worker(config)
            .map(|worker| format!("{} (uid {}, gid {})", worker.name, worker.uid, worker.gid))
            .map_err(|fault| (fault.message, fault.hint)),
        policy: (
            config.paths.policy.display().to_string(),
            policy(sources.as_ref()),
        ),
        resources: resources(config, sources.as_ref().ok()),
        exposed: exposed_in(config, sources.as_ref().ok()),
        telemetry: (
            config.telemetry.prometheus.clone(),
            config.telemetry.endpoint().map(ToString::to_string),
        ),
        ledger: config.ledger().map(redis),
        ports: vec![
            Port {
                what: "proxy",
                number: config.proxy_port,
                problem: problem(config.proxy_port, false),
            },
            Port {
                what: "resolver",
                number: config.resolver_port,
                problem: problem(config.resolver_port, true),
            },
        ],
    }
}

/// Of a policy that cannot be used nothing is said here.
fn resources(config: &Declared, sources: Option<&Sources>) -> Resources {
    let mut resources = Resources::default();
    let policy = sources.and_then(|sources| sources.compile().ok());
    let (Some(policy), Some(mount)) = (policy, cgroup::mount()) else {
        return resources;
    };
    let mut needed = BTreeSet::new();
    for agent in policy.agents() {
        let limits = agent.limits();
        if limits.is_empty() {
            continue;
        }
        needed.extend(Controller::needed(&limits));
        let name = agent.name.to_string();
        match agent.resources.missing {
            OnMissing::Refuse => resources.refused.push(name),
            OnMissing::Warn => resources.warned.push(name),
        }
    }
    let tree = Tree::of_host(&mount, &config.paths.cgroup_root);
    let lacks = needed
        .into_iter()
        .filter_map(|it| tree.could_have(it).err());
    resources.lacks = lacks.map(|lack| (lack.what, lack.hint)).collect();
    resources
}

fn exposed_in(config: &Declared, sources: Option<&Sources>) -> Vec<(String, String)> {
    let paths = &config.paths;
    // The first one is the policy itself.
    let included = sources.map_or(&[][..], Sources::documents).iter().skip(1);
    // The daemon does not start without it; there is nothing to say of one that is not there.
    let mut looked = vec![
        exposed::file("configuration", config.file(), 0),
        exposed::file("policy", &paths.policy, 0),
    ];
    looked.extend(included.map(|it| exposed::file("policy", Path::new(&it.path), 0)));
    let prices = paths.prices.iter();
    looked.extend(prices.map(|it| exposed::file("prices", it, 0)));
    looked.push(exposed::directory("state_dir", &paths.state_dir));
    looked.push(exposed::directory("runtime_dir", &paths.runtime_dir));
    looked
        .into_iter()
        .filter_map(Result::err)
        .map(|exposed| (exposed.sentence(), exposed.hint()))
        .collect()
}

fn policy(sources: Result<&Sources, &String>) -> Result<String, String> {
    let policy = sources
        .map_err(String::clone)?
        .compile()
        .map_err(|diagnostics| diagnostics.to_string())?;
    crate::accounts::users(&policy).map_err(|diagnostics| diagnostics.to_string())?;
    Ok(policy.version().to_owned())
}

/// Why nobody can listen on this port of loopback, if so. A family that the host does not have is
/// another check's business.
fn problem(port: u16, datagrams: bool) -> Option<String> {
    let addresses = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    addresses
        .iter()
        .map(|ip| SocketAddr::new(*ip, port))
        .find_map(|address| {
            let tcp = TcpListener::bind(address).err().map(|e| ("TCP", e));
            let udp = || {
                datagrams
                    .then(|| UdpSocket::bind(address).err().map(|e| ("UDP", e)))
                    .flatten()
            };
            tcp.or_else(udp)
                .filter(|(_, error)| error.kind() != io::ErrorKind::AddrNotAvailable)
                .map(|(transport, error)| format!("{transport} {address}: {}", chain(&error)))
        })
}

/// Whether somebody listens there. Whether it lets the guard in only the daemon can tell, which has the password.
fn redis(ledger: &SharedLedger) -> Redis {
    let connect = || -> io::Result<()> {
        let places = (ledger.host.as_str(), ledger.port).to_socket_addrs()?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for place in places.take(MAX_PLACES) {
            match TcpStream::connect_timeout(&place, CONNECT) {
                Ok(_) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    Redis {
        address: ledger.address(),
        in_the_clear: ledger.is_in_the_clear(),
        away: connect().err().map(|error| error.to_string()),
        on_loss: ledger.on_loss,
    }
}

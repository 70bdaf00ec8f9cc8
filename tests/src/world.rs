//! The picture: two namespaces, a wire between them, and who lives there.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::guard::GuardBuilder;
use crate::namespace::{Namespace, Runtime};
use crate::origin::Origin;
use crate::wire::{Destination, Wire};
use crate::{Ca, Tag, Zone, dns, leftover, origin, patient, wait_until};

/// Addresses of the world. All of them are reserved for documentation (RFC 5737, RFC 3849).
pub mod address {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    /// The host.
    pub const HOST: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0x10)),
    ];
    /// The internet's end of the host's link.
    pub const GATEWAY: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 1)),
    ];
    /// The name server.
    pub const NAME_SERVER: [IpAddr; 2] = origin(0x53);
    /// Where no test's policy may lead: nobody lives there, and who dials it is refused at once.
    pub const CANARY: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 66)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x66)),
    ];
    /// Where the world itself sends to learn that everything before has arrived.
    pub(crate) const BEACON: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254));

    /// An origin's addresses, one of each family: 203.0.113.`n` and 2001:db8:113::`n` (in
    /// hexadecimal). 0x53 is the name server's.
    pub const fn origin(n: u8) -> [IpAddr; 2] {
        [
            IpAddr::V4(Ipv4Addr::new(203, 0, 113, n)),
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, n as u16)),
        ]
    }
}

/// Addresses that exist in the internet without anybody behind them: a connection is refused, not
/// left without an answer.
const INHABITED: [&str; 3] = ["203.0.113.0/24", "192.0.2.0/24", "2001:db8:113::/64"];

/// How long a packet may take from one end of the world to the other.
const LIMIT: Duration = Duration::from_secs(5);

/// How long one packet of ours is waited for before the next is sent.
const BEACON: Duration = Duration::from_millis(500);

/// A description of a world.
#[derive(Debug)]
pub struct WorldBuilder {
    name: String,
    origins: Vec<Origin>,
    zone: Zone,
}

impl WorldBuilder {
    /// An origin, whose sites get their names in the DNS.
    #[must_use]
    pub fn origin(mut self, origin: Origin) -> Self {
        for site in origin.sites() {
            self.zone = self.zone.address(&site.name, origin.addresses());
        }
        self.origins.push(origin);
        self
    }

    /// Further names, or others for the sites.
    #[must_use]
    pub fn zone(mut self, change: impl FnOnce(Zone) -> Zone) -> Self {
        self.zone = change(self.zone);
        self
    }

    /// Makes it. What killed runs have left behind is removed first.
    ///
    /// # Errors
    /// Not root, no `ip` command, or a port or address is described twice.
    pub fn start(self) -> Result<World> {
        let name = self.name.clone();
        self.make()
            .with_context(|| format!("cannot make the world `{name}`"))
    }

    fn make(self) -> Result<World> {
        let removed = leftover::sweep()?;
        for leftover in removed {
            eprintln!("removed of a killed run: {leftover}");
        }
        let tag = Tag::next();
        let directory = Directory::create(tag)?;
        let mut host = Namespace::create(tag, "host")?;
        let internet = Namespace::create(tag, "internet")?;
        connect(&host, &internet, &self.origins)?;

        let resolver = directory.path.join("resolv.conf");
        let [server, _] = address::NAME_SERVER;
        fs::write(&resolver, format!("nameserver {server}\n"))
            .with_context(|| format!("cannot write {}", resolver.display()))?;
        host.set_resolver(resolver);

        let ca = Ca::new()?;
        let ca_file = directory.path.join("ca.pem");
        fs::write(&ca_file, ca.pem())
            .with_context(|| format!("cannot write {}", ca_file.display()))?;

        let wire = Wire::start(&internet)?;
        let runtime = Runtime::start(&internet)?;
        let dns = dns::Server::start(&runtime, &address::NAME_SERVER, self.zone)?;
        let origins = self.origins.into_iter();
        let origins = origins
            .map(|origin| origin.start(&runtime, &ca))
            .collect::<Result<_>>()?;
        Ok(World {
            dns,
            origins,
            ca,
            ca_file,
            _runtime: runtime,
            wire,
            host,
            internet,
            directory,
        })
    }
}

fn connect(host: &Namespace, internet: &Namespace, origins: &[Origin]) -> Result<()> {
    let [host4, host6] = address::HOST;
    let [gateway4, gateway6] = address::GATEWAY;
    for namespace in [host, internet] {
        without_detection(namespace)?;
    }
    host.ip(&format!(
        "link add uplink type veth peer name host netns {}\n\
         link set uplink up\n\
         addr add {host4}/24 dev uplink\n\
         addr add {host6}/64 dev uplink nodad\n",
        internet.name()
    ))?;
    let mut batch = format!(
        "link set host up\n\
         addr add {gateway4}/24 dev host\n\
         addr add {gateway6}/64 dev host nodad\n"
    );
    for prefix in INHABITED {
        batch += &format!("route add local {prefix} dev lo\n");
    }
    // IPv6 binds only to addresses that are configured, whatever the routes say.
    let inhabitants = origins.iter().flat_map(Origin::addresses);
    let mut inhabitants: Vec<_> = inhabitants.chain(&address::NAME_SERVER).collect();
    inhabitants.sort();
    inhabitants.dedup();
    for address in inhabitants {
        batch += &match address {
            IpAddr::V4(address) => format!("addr add {address}/32 dev lo\n"),
            IpAddr::V6(address) => format!("addr add {address}/128 dev lo nodad\n"),
        };
    }
    internet.ip(&batch)?;
    host.ip(&format!(
        "route add default via {gateway4}\n\
         route add default via {gateway6}\n"
    ))
}

/// The links' own addresses are there at once, and not a second later, when duplicates would have been
/// noticed (RFC 4862 §5.4): a browser that sees an address come breaks off what it loads.
fn without_detection(namespace: &Namespace) -> Result<()> {
    for of in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{of}/accept_dad");
        let written = namespace.enter(|| fs::write(&path, "0"))?;
        written.with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

/// The world's directory, readable for everybody, since agents and the worker are not root. It is
/// dropped last, and takes whatever a test has left beside it.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    tag: Tag,
}

impl Directory {
    fn create(tag: Tag) -> Result<Self> {
        let path = std::env::temp_dir().join(tag.directory());
        fs::DirBuilder::new()
            .mode(0o755)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path, tag })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // A failure is for the check after the run to report: a drop cannot.
        if let Err(error) = leftover::remove(self.tag) {
            eprintln!("cannot remove a world: {error:#}");
        }
    }
}

/// A world that lives. Dropping it removes everything.
#[derive(Debug)]
pub struct World {
    dns: dns::Server,
    origins: Vec<origin::Server>,
    ca: Ca,
    ca_file: PathBuf,
    // Dropped in this order: tasks before the namespaces they are in, the directory last.
    _runtime: Runtime,
    wire: Wire,
    host: Namespace,
    internet: Namespace,
    directory: Directory,
}

impl World {
    /// Begins the description of one; the name is for error messages.
    #[expect(clippy::new_ret_no_self, reason = "the picture begins with the world")]
    pub fn new(name: &str) -> WorldBuilder {
        WorldBuilder {
            name: name.to_owned(),
            origins: Vec::new(),
            zone: Zone::new(),
        }
    }

    /// Where the daemon and the agents run.
    pub fn host(&self) -> &Namespace {
        &self.host
    }

    /// Where everybody else lives.
    pub fn internet(&self) -> &Namespace {
        &self.internet
    }

    /// The name server.
    pub fn dns(&self) -> &dns::Server {
        &self.dns
    }

    /// The origin that has this site.
    ///
    /// # Errors
    /// None has.
    pub fn origin(&self, site: &str) -> Result<&origin::Server> {
        let found = self
            .origins
            .iter()
            .find(|origin| origin.sites().iter().any(|name| name == site));
        found.with_context(|| format!("no origin has the site `{site}`"))
    }

    /// The authority that certified the origins.
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// Its certificate, in a file that everybody may read.
    pub fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// Variables that make the usual clients trust the origins.
    pub fn trust(&self) -> [(&'static str, &Path); 8] {
        [
            "SSL_CERT_FILE",
            "CURL_CA_BUNDLE",
            "GIT_SSL_CAINFO",
            "NODE_EXTRA_CA_CERTS",
            "REQUESTS_CA_BUNDLE",
            "AWS_CA_BUNDLE",
            "PIP_CERT",
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
        ]
        .map(|name| (name, self.ca_file()))
    }

    /// The world's directory, for files of the test's own. It is removed with the world.
    pub fn directory(&self) -> &Path {
        &self.directory.path
    }

    /// Its tag, which is in the names of all that it makes.
    pub fn tag(&self) -> Tag {
        self.directory.tag
    }

    /// Begins the description of a daemon in the host.
    pub fn guard(&self) -> GuardBuilder<'_> {
        GuardBuilder::new(self)
    }

    /// How many packets have arrived on the wire at an address, of any protocol.
    ///
    /// What was sent before the call is counted: the wire keeps the order, and a packet of our own
    /// is sent after it and waited for.
    ///
    /// # Errors
    /// The wire is cut.
    pub fn arrivals(&self, ip: IpAddr) -> Result<u64> {
        let arrived = self.all_arrivals()?;
        let to = arrived
            .iter()
            .filter(|(destination, _)| destination.ip == ip);
        Ok(to.map(|(_, count)| count).sum())
    }

    /// When the last packet arrived at an address, a moment late at most.
    pub fn last_arrival(&self, ip: IpAddr) -> Option<Instant> {
        self.wire.last(ip)
    }

    /// How many packets have arrived at addresses of the canary.
    ///
    /// # Errors
    /// As [`World::arrivals`].
    pub fn canary(&self) -> Result<u64> {
        let [four, six] = address::CANARY;
        Ok(self.arrivals(four)? + self.arrivals(six)?)
    }

    /// The marks of the packets on the wire ([`crate::MARK`]), of any protocol, with how many had
    /// each; as [`World::arrivals`].
    ///
    /// # Errors
    /// As [`World::arrivals`].
    pub fn marks(&self) -> Result<HashMap<String, u64>> {
        self.all_arrivals()?;
        Ok(self.wire.marks())
    }

    /// Every destination on the wire and how many packets arrived for it, as [`World::arrivals`].
    ///
    /// # Errors
    /// As [`World::arrivals`].
    pub fn all_arrivals(&self) -> Result<Vec<(Destination, u64)>> {
        static PORT: AtomicU16 = AtomicU16::new(1024);
        let beacon = Destination {
            ip: address::BEACON,
            protocol: 17,
            port: Some(PORT.fetch_add(1, Ordering::Relaxed)),
        };
        let socket = self.host.enter(|| UdpSocket::bind("0.0.0.0:0"))?;
        let socket = socket.context("cannot make the beacon's socket")?;
        let deadline = Instant::now() + patient(LIMIT);
        let arrived = loop {
            // Any of them will do: each is behind what was sent before the call. In a flood one can be lost.
            socket
                .send_to(b"beacon", (beacon.ip, beacon.port.unwrap_or(0)))
                .context("cannot send the beacon")?;
            let arrived = wait_until("the beacon arrives", BEACON, || match self.wire.arrived() {
                Ok(arrived) => arrived.contains_key(&beacon).then_some(Ok(arrived)),
                Err(error) => Some(Err(error)),
            });
            if arrived.is_ok() || Instant::now() >= deadline {
                break arrived;
            }
        };
        let mut all = arrived??;
        all.retain(|destination, _| destination.ip != address::BEACON);
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort();
        Ok(all)
    }

    /// Whether this machine can have worlds.
    ///
    /// # Errors
    /// What is missing.
    pub fn check() -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            bail!("not root");
        }
        if leftover::cgroup_mount().is_none() {
            bail!("cgroup v2 is not mounted");
        }
        World::new("check").start().map(drop)
    }
}

//! The origin and what carries connections to it beside the guard: all in the world, from the distribution's packages.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::load::size;
use super::posts::{self, DECODED, KEPT};
use super::{RAW, SITE, SOCKETS};
use crate::namespace::Namespace;
use crate::{Ca, Process, World, address, wait_until};

/// How long one may take to start or to end.
const LIMIT: Duration = Duration::from_secs(20);

/// What the origin has.
const PATHS: [&str; 3] = ["/1k", "/100k", "/100m"];

/// What carries the same load.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Peer {
    /// HAProxy that ends TLS on both sides, HTTP/1.1 to the origin.
    Haproxy,
    /// The same, HTTP/2 to the origin.
    HaproxyHttp2,
    /// The same, in front of the origin for WebSockets.
    HaproxySockets,
    /// HAProxy that carries TCP.
    HaproxyTcp,
    /// nginx that ends TLS on both sides, HTTP/1.1 to the origin: it knows no other.
    Nginx,
    /// squid that ends TLS on both sides (`https_port … accel`), HTTP/1.1 on both: it knows no other.
    Squid,
    /// squid as a proxy that clients ask with CONNECT, and that looks into TLS (`ssl-bump`), with certificates of its own.
    SquidBump,
    /// mitmproxy that ends TLS on both sides (reverse mode), HTTP/1.1 or HTTP/2.
    Mitmproxy,
}

impl Peer {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Haproxy | Self::HaproxyHttp2 | Self::HaproxySockets => "haproxy",
            Self::HaproxyTcp => "haproxy_tcp",
            Self::Nginx => "nginx",
            Self::Squid => "squid",
            Self::SquidBump => "squid_bump",
            Self::Mitmproxy => "mitmproxy",
        }
    }

    /// Whether it carries so few requests that a third of them takes long enough.
    pub(super) const fn is_slow(self) -> bool {
        matches!(self, Self::Mitmproxy)
    }

    /// Where it listens, on the host's loopback.
    pub(super) const fn address(self) -> &'static str {
        match self {
            Self::Haproxy => "127.0.0.1:8443",
            Self::HaproxyTcp => "127.0.0.1:8444",
            Self::Nginx => "127.0.0.1:8445",
            Self::HaproxyHttp2 => "127.0.0.1:8446",
            Self::Squid => "127.0.0.1:8447",
            Self::Mitmproxy => "127.0.0.1:8448",
            Self::HaproxySockets => "127.0.0.1:8449",
            Self::SquidBump => "127.0.0.1:8450",
        }
    }

    /// Whether clients ask it with CONNECT.
    pub(super) const fn is_asked(self) -> bool {
        matches!(self, Self::SquidBump)
    }

    /// Whom its clients trust.
    pub(super) fn ca(self, world: &World) -> PathBuf {
        match self {
            Self::SquidBump => world.directory().join("squid-ca.pem"),
            _ => world.ca_file().to_owned(),
        }
    }
}

/// All of them, and the origin.
pub(super) struct Peers {
    origin: Process,
    /// The origin for WebSockets.
    echoes: Process,
    haproxy: Process,
    nginx: Process,
    squid: Option<Process>,
    squid_bump: Option<Process>,
    mitmproxy: Option<Process>,
}

impl Peers {
    /// Those of other programs than HAProxy and nginx only where they are wanted.
    pub(super) fn start(world: &World, wanted: &[Peer]) -> Result<Self> {
        let directory = world.directory();
        let (certificate, key) = world
            .ca()
            .certify_pem(&[SITE, RAW, SOCKETS, DECODED.site, KEPT.site].map(str::to_owned))?;
        let chain = directory.join("chain.pem");
        fs::write(&chain, certificate + &key)?;
        let site = directory.join("site");
        fs::create_dir(&site)?;
        for path in PATHS {
            let bytes = vec![b'x'; usize::try_from(size(path)?)?];
            fs::write(site.join(path.trim_start_matches('/')), bytes)?;
        }
        fs::write(posts::file(directory), posts::call())?;
        let [ip, _] = address::origin(0x10).map(|ip| ip.to_string());
        let (chain, ca) = (chain.display().to_string(), world.ca_file().display());
        let serves = format!(
            "server {{
        listen {ip}:443 ssl http2 backlog=4096;
        ssl_certificate {chain};
        ssl_certificate_key {chain};
        root {};
        location = {} {{
            default_type application/json;
            return 200 '{}';
        }}
    }}",
            site.display(),
            posts::PATH,
            posts::answer()
        );
        let carries = format!(
            "upstream origin {{ server {ip}:443; keepalive 1024; keepalive_requests 1000000; }}
    server {{
        listen 127.0.0.1:8445 ssl http2 backlog=4096;
        ssl_certificate {chain};
        ssl_certificate_key {chain};
        location / {{
            proxy_pass https://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host {SITE};
            proxy_ssl_server_name on;
            proxy_ssl_name {SITE};
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {ca};
        }}
    }}"
        );
        let [sockets, _] = address::origin(0x11).map(|ip| ip.to_string());
        let verified = |site: &str| {
            format!("ssl verify required ca-file {ca} sni str({site}) verifyhost {site}")
        };
        let (verified, verified_sockets) = (verified(SITE), verified(SOCKETS));
        // By default it keeps no connection to the origin once a quarter of its files are open, as with 1,000 clients.
        let haproxy = format!(
            "global
    maxconn 4000
    nbthread 2
    tune.pool-low-fd-ratio 80
    tune.pool-high-fd-ratio 90
defaults
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend http1
    mode http
    bind 127.0.0.1:8443 ssl crt {chain} alpn http/1.1
    default_backend http1
backend http1
    mode http
    http-reuse always
    server origin {ip}:443 {verified} alpn http/1.1
frontend http2
    mode http
    bind 127.0.0.1:8446 ssl crt {chain} alpn h2
    default_backend http2
backend http2
    mode http
    http-reuse always
    server origin {ip}:443 {verified} alpn h2
frontend sockets
    mode http
    bind 127.0.0.1:8449 ssl crt {chain} alpn http/1.1
    default_backend sockets
backend sockets
    mode http
    server origin {sockets}:443 {verified_sockets} alpn http/1.1
frontend streams
    mode tcp
    option splice-auto
    bind 127.0.0.1:8444
    default_backend raw
backend raw
    mode tcp
    server origin {ip}:443
"
        );
        fs::write(configuration(world), haproxy)?;
        let host = world.host();
        Ok(Self {
            // The first: squid takes a parent that it cannot reach when it starts for dead.
            origin: nginx(world.internet(), directory, "origin", &serves, &ip, 443)?,
            echoes: echoes(world, &chain, &sockets)?,
            haproxy: haproxy_of(world)?,
            nginx: nginx(host, directory, "nginx", &carries, "127.0.0.1", 8445)?,
            squid: match wanted.contains(&Peer::Squid) {
                true => Some(squid(world, &chain, &ip)?),
                false => None,
            },
            squid_bump: match wanted.contains(&Peer::SquidBump) {
                true => Some(squid_bump(world, &ip)?),
                false => None,
            },
            mitmproxy: match wanted.contains(&Peer::Mitmproxy) {
                true => Some(mitmproxy(world, &chain)?),
                false => None,
            },
        })
    }

    /// The processes that carry a peer's connections.
    pub(super) fn pids(&self, peer: Peer) -> Result<Vec<u32>> {
        let (process, workers) = match peer {
            Peer::Haproxy | Peer::HaproxyHttp2 | Peer::HaproxySockets | Peer::HaproxyTcp => {
                (Some(&self.haproxy), false)
            }
            Peer::Nginx => (Some(&self.nginx), true),
            Peer::Squid => (self.squid.as_ref(), false),
            Peer::SquidBump => (self.squid_bump.as_ref(), false),
            Peer::Mitmproxy => (self.mitmproxy.as_ref(), false),
        };
        let process = process.with_context(|| format!("{} was not started", peer.name()))?;
        let pid = process.id();
        if !workers {
            return Ok(vec![pid]);
        }
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let pids = children.split_whitespace().map(str::parse::<u32>);
        Ok(pids.collect::<Result<_, _>>()?)
    }

    /// HAProxy anew, with nothing in its memory of what it has carried.
    pub(super) fn restart_haproxy(&mut self, world: &World) -> Result<()> {
        self.haproxy.signal(Signal::TERM)?;
        wait_until("HAProxy's end", LIMIT, || self.haproxy.ended().transpose())??;
        self.haproxy = haproxy_of(world)?;
        Ok(())
    }

    pub(super) fn stop(self) -> Result<()> {
        let Self {
            origin,
            echoes,
            haproxy,
            nginx,
            squid,
            squid_bump,
            mitmproxy,
        } = self;
        let peers = [Some(haproxy), Some(nginx), squid, squid_bump, mitmproxy];
        for mut process in peers.into_iter().flatten().chain([echoes, origin]) {
            process.signal(Signal::TERM)?;
            process.wait(LIMIT)?;
        }
        Ok(())
    }
}

/// What sends back what it gets on WebSockets.
fn echoes(world: &World, chain: &str, ip: &str) -> Result<Process> {
    let own = std::env::current_exe()?;
    let words = ["bench-echoes", &format!("{ip}:443"), chain];
    let internet = world.internet();
    started(
        internet.command(own).args(words).spawn()?,
        internet,
        ip,
        443,
    )
}

fn configuration(world: &World) -> PathBuf {
    world.directory().join("haproxy.cfg")
}

/// HAProxy in the host, as it is configured there.
fn haproxy_of(world: &World) -> Result<Process> {
    let haproxy = world.host().command("haproxy").args(["-db", "-f"]);
    let haproxy = haproxy.arg(configuration(world)).spawn()?;
    started(haproxy, world.host(), "127.0.0.1", 8443)
}

/// squid in the host, before the origin.
fn squid(world: &World, chain: &str, ip: &str) -> Result<Process> {
    let configuration = format!(
        "https_port 127.0.0.1:8447 accel defaultsite={SITE} tls-cert={chain} tls-key={chain}
cache_peer {ip} parent 443 0 no-query no-digest no-netdb-exchange originserver name=origin tls tls-cafile={} ssldomain={SITE}
cache_peer_access origin allow all
never_direct allow all
",
        world.ca_file().display(),
    );
    squid_of(world, "squid", &configuration, Peer::Squid)
}

/// squid in the host, which is asked for the origin. What it certifies sites by is its own. It goes by the name in CONNECT:
/// where it peeks at the hello first, as is common, it takes three times as long for a connection, and no session goes on.
fn squid_bump(world: &World, ip: &str) -> Result<Process> {
    let directory = world.directory();
    let ca = Ca::new()?;
    let (pair, hosts) = (
        directory.join("squid-bump.pem"),
        directory.join("squid.hosts"),
    );
    fs::write(&pair, ca.pem() + &ca.key_pem())?;
    fs::write(Peer::SquidBump.ca(world), ca.pem())?;
    fs::write(&hosts, format!("{ip} {SITE}\n"))?;
    // The program that makes certificates is one of squid's own, in no directory for programs, and is no root.
    let (certgen, made) = (
        "/usr/lib/squid/security_file_certgen",
        directory.join("squid-made"),
    );
    let host = world.host();
    let make = host.command(certgen).args(["-c", "-s"]);
    make.arg(&made).args(["-M", "4MB"]).run()?.success()?;
    let owner = host.command("chown").args(["-R", "proxy"]).arg(&made);
    owner.run()?.success()?;
    let (made, pair, hosts) = (made.display(), pair.display(), hosts.display());
    let configuration = format!(
        "http_port 127.0.0.1:8450 ssl-bump tls-cert={pair} generate-host-certificates=on dynamic_cert_mem_cache_size=4MB
sslcrtd_program {certgen} -s {made} -M 4MB
sslcrtd_children 1
ssl_bump bump all
tls_outgoing_options cafile={}
hosts_file {hosts}
",
        world.ca_file().display(),
    );
    squid_of(world, "squid-bump", &configuration, Peer::SquidBump)
}

/// squid with one worker, that keeps nothing and asks the origin for each. What it says is on standard error; it writes no
/// files, and none into what the machine's own has.
fn squid_of(world: &World, name: &str, ports: &str, peer: Peer) -> Result<Process> {
    let file = world.directory().join(format!("{name}.conf"));
    let configuration = format!(
        "{ports}http_access allow all
cache deny all
cache_mem 0 MB
max_filedescriptors 8192
access_log none
cache_log /dev/null
cache_store_log none
pid_filename none
pinger_enable off
cache_effective_user proxy
coredump_dir {}
shutdown_lifetime 1 seconds
visible_hostname {SITE}
",
        world.directory().display(),
    );
    fs::write(&file, configuration)?;
    let host = world.host();
    let squid = host
        .command("squid")
        .args(["-N", "-d", "1", "-n", &name.replace('-', ""), "-f"]);
    let (ip, port) = peer.address().split_once(':').context("no port")?;
    started(squid.arg(&file).spawn()?, host, ip, port.parse()?)
}

/// mitmproxy in the host, as `cargo xtask setup --tests` installs it.
fn mitmproxy(world: &World, chain: &str) -> Result<Process> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/mitmproxy/bin/mitmdump");
    let program = program.canonicalize();
    let program = program.context("no mitmproxy\nhint: run `cargo xtask setup --tests`")?;
    let set = [
        format!("confdir={}", world.directory().join("mitmproxy").display()),
        format!(
            "ssl_verify_upstream_trusted_ca={}",
            world.ca_file().display()
        ),
        "flow_detail=0".to_owned(),
    ];
    let mut command = world.host().command(program);
    command = command.args(["-q", "--listen-host", "127.0.0.1", "--listen-port", "8448"]);
    command = command.args(["--mode", &format!("reverse:https://{SITE}:443")]);
    command = command.args(["--certs", &format!("*={chain}")]);
    for set in &set {
        command = command.args(["--set", set]);
    }
    started(command.spawn()?, world.host(), "127.0.0.1", 8448)
}

/// An nginx with this of HTTP.
pub(in crate::bench) fn nginx(
    namespace: &Namespace,
    directory: &Path,
    name: &str,
    http: &str,
    ip: &str,
    port: u16,
) -> Result<Process> {
    let of = |what: &str| {
        directory
            .join(format!("{name}.{what}"))
            .display()
            .to_string()
    };
    let (pid, file) = (of("pid"), of("conf"));
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = temporary.map(|kind| format!("{kind}_temp_path {};\n    ", of(kind)));
    let configuration = format!(
        "daemon off;
user root;
worker_processes 2;
worker_rlimit_nofile 16384;
pid {pid};
error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    sendfile on;
    tcp_nodelay on;
    keepalive_requests 100000000;
    keepalive_timeout 300s;
    http2_max_concurrent_streams 256;
    {}{http}
}}
",
        temporary.concat()
    );
    fs::write(&file, configuration)?;
    let process = namespace.command("nginx").args(["-c", &file]).spawn()?;
    started(process, namespace, ip, port)
}

/// The same once it listens.
pub(in crate::bench) fn started(
    mut process: Process,
    namespace: &Namespace,
    ip: &str,
    port: u16,
) -> Result<Process> {
    let listens = || {
        let ended = process.ended().ok().flatten();
        let connect = || TcpStream::connect((ip, port));
        let reached = namespace.enter(connect).is_ok_and(|it| it.is_ok());
        (reached || ended.is_some()).then_some(reached)
    };
    let listens = wait_until("a peer", LIMIT, listens).context("it does not listen")?;
    ensure!(listens, "{}", process.stderr());
    Ok(process)
}

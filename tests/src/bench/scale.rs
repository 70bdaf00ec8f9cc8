//! Many connections, many agents, and more load than there are processors for.
//!
//! Client, subject and origin share the processors: what is compared is the same subject with little and with much, and
//! HAProxy, which ends TLS on both sides too.

mod agents;
mod client;
mod connections;
mod fair;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::{Value, json};

use super::proxy::peers::{nginx, started};
use crate::{Guard, GuardBuilder, Invocation, Origin, Process, Puppet, World, address};

pub use client::{Asked, client};

pub(super) const SITE: &str = "bench.example.com";

/// What requests are allowed by.
const RULES: &str = "
rules:
  - id: site
    match: { host: [bench.example.com], port: [443], method: [GET] }
    action: allow
    handling: inspect
";

/// Descriptors that the guard and HAProxy need for the connections: two for each, and some.
const FILES: u64 = 12_500;

/// How long HAProxy and the origin may take to end.
const LIMIT: Duration = Duration::from_secs(20);

/// Where HAProxy listens, on the host's loopback.
const HAPROXY: &str = "127.0.0.1:8443";

/// What is measured.
#[derive(Args, Clone, Debug)]
pub struct Cases {
    /// Only these: `connections`, `agents`, `fair`
    cases: Vec<String>,
}

type Measure = fn(&Scene) -> Result<()>;

const CASES: [(&str, Measure); 3] = [
    ("connections", connections::measure),
    ("agents", agents::measure),
    ("fair", fair::measure),
];

/// Measures, and prints each sample.
///
/// # Errors
/// A client failed, HAProxy, or the guard; or a request of the many connections was not answered.
pub fn scale(which: &Cases) -> Result<()> {
    let unknown = |name: &&String| !CASES.iter().any(|(known, _)| known == name);
    if let Some(name) = which.cases.iter().find(unknown) {
        let known = CASES.map(|(name, _)| name).join(", ");
        bail!("no case `{name}`; there are: {known}");
    }
    let scene = Scene::start()?;
    let measured = CASES.iter().try_for_each(|(name, measure)| {
        if which.cases.is_empty() || which.cases.iter().any(|it| it == name) {
            measure(&scene).with_context(|| format!("case {name}"))?;
        }
        Ok(())
    });
    scene.stop()?;
    measured
}

/// As many descriptors as may be, for all that is started from now on.
pub(super) fn raise_files() -> Result<()> {
    let files = getrlimit(Resource::Nofile);
    let enough = files.maximum.is_none_or(|most| most >= FILES);
    ensure!(
        enough,
        "fewer than {FILES} descriptors are allowed (ulimit -Hn)"
    );
    let most = Rlimit {
        current: files.maximum,
        ..files
    };
    setrlimit(Resource::Nofile, most).context("cannot raise the number of descriptors")
}

/// Through whom clients go.
#[derive(Clone, Copy)]
enum Way<'a> {
    /// As an agent.
    Guard(&'a Guard<'a>, &'a str),
    Haproxy,
}

impl Way<'_> {
    const fn name(self) -> &'static str {
        match self {
            Self::Guard(..) => "agentguard",
            Self::Haproxy => "haproxy",
        }
    }
}

/// A world with an origin, and HAProxy before it.
struct Scene {
    haproxy: Process,
    origin: Process,
    world: World,
}

impl Scene {
    fn start() -> Result<Self> {
        raise_files()?;
        let origin = Origin::at(&address::origin(0x10)).leave(443).site(SITE);
        let world = World::new("bench").origin(origin).start()?;
        let origin = self::origin(&world)?;
        let haproxy = haproxy(&world)?;
        Ok(Self {
            haproxy,
            origin,
            world,
        })
    }

    fn stop(self) -> Result<()> {
        for mut process in [self.haproxy, self.origin] {
            process.signal(Signal::TERM)?;
            process.wait(LIMIT)?;
        }
        Ok(())
    }

    /// A guard with these agents. The share that each has of the record holds nobody up: what one takes from another
    /// beside it is looked for.
    fn guard(&self, agents: impl IntoIterator<Item = String>) -> GuardBuilder<'_> {
        guard(&self.world, agents, RULES)
    }

    /// A client that goes to the site.
    fn client(&self, way: Way<'_>) -> Result<Puppet> {
        match way {
            Way::Guard(guard, agent) => {
                // What runs under the guard is told whom to trust.
                let run = ["run", "--agent", agent, "--"];
                self.client_by(&[], |words| guard.cli().args(run).args(words))
            }
            Way::Haproxy => {
                let ca = self.world.ca_file().as_os_str().to_owned();
                let options = ["--to".into(), HAPROXY.into(), "--ca".into(), ca];
                let host = |words| direct(&self.world, words);
                self.client_by(&options, host)
            }
        }
    }

    fn client_by<'a>(
        &self,
        options: &[OsString],
        invocation: impl FnOnce(Vec<OsString>) -> Invocation<'a>,
    ) -> Result<Puppet> {
        client_of(&self.world, SITE, options, invocation)
    }
}

/// A program in the host that no guard is told of.
fn direct(world: &World, words: Vec<OsString>) -> Invocation<'_> {
    let mut words = words.into_iter();
    let program = words.next().unwrap_or_default();
    world.host().command(program).args(words)
}

/// A client that goes to a site as it is told.
pub(super) fn client_of<'a>(
    world: &World,
    site: &str,
    options: &[OsString],
    invocation: impl FnOnce(Vec<OsString>) -> Invocation<'a>,
) -> Result<Puppet> {
    let own = std::env::current_exe()?.into();
    let words = [own, "bench-client".into(), site.into(), "/1k".into()];
    Puppet::of(world, &[&words, options].concat(), invocation)
}

/// A guard with these agents and rules, whose record holds nobody up.
pub(super) fn guard<'w>(
    world: &'w World,
    agents: impl IntoIterator<Item = String>,
    rules: &str,
) -> GuardBuilder<'w> {
    let agents = agents.into_iter();
    let agents: String = agents
        .map(|name| format!("  - {{ name: {name} }}\n"))
        .collect();
    let share = json!({ "per_second": 1_000_000, "at_once": 1_000_000, "mib_per_day": 1_048_576 });
    let upstreams = json!([{ "host": [SITE], "ca": world.ca_file() }]);
    world
        .guard()
        .policy(&format!("version: 1\nagents:\n{agents}{rules}"))
        .setting("upstreams", upstreams)
        .setting("record", json!({ "max_mib": 2_048, "agent_share": share }))
}

/// A figure of a client's answer.
pub(super) fn figure(answer: &Value, name: &str) -> Result<f64> {
    let figure = answer.get(name).and_then(Value::as_f64);
    figure.with_context(|| format!("no `{name}` in {answer}"))
}

/// Has a client open so many connections: how many a second it opened.
pub(super) fn open(client: &mut Puppet, count: usize) -> Result<f64> {
    // A few at a time: an order has its limit.
    const PIECE: usize = 250;
    let mut seconds = 0.0;
    let mut left = count;
    while left > 0 {
        let some = left.min(PIECE);
        seconds += figure(
            &all_went_well(client.ask(&format!("open {some}"))?)?,
            "seconds",
        )?;
        left -= some;
    }
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let count = count as f64;
    Ok(count / seconds)
}

/// The same answer, where nothing in it failed.
pub(super) fn all_went_well(answer: Value) -> Result<Value> {
    ensure!(figure(&answer, "errors")? == 0.0, "not all: {answer}");
    Ok(answer)
}

/// The origin: nginx with one file.
pub(super) fn origin(world: &World) -> Result<Process> {
    let directory = world.directory();
    let chain = chain(world)?;
    let site = directory.join("site");
    fs::create_dir(&site)?;
    fs::write(site.join("1k"), [b'x'; 1_000])?;
    let [ip, _] = address::origin(0x10).map(|ip| ip.to_string());
    let serves = format!(
        "server {{
        listen {ip}:443 ssl backlog=4096;
        ssl_certificate {chain};
        ssl_certificate_key {chain};
        root {};
    }}",
        site.display()
    );
    nginx(world.internet(), directory, "origin", &serves, &ip, 443)
}

/// HAProxy before the origin.
fn haproxy(world: &World) -> Result<Process> {
    let [ip, _] = address::origin(0x10);
    let (chain, ca) = (chain(world)?, world.ca_file().display());
    // By default it keeps no connection to the origin once a quarter of its files are open.
    let configuration = format!(
        "global
    maxconn 6000
    nbthread 2
    tune.pool-low-fd-ratio 80
    tune.pool-high-fd-ratio 90
defaults
    mode http
    timeout connect 10s
    timeout client 90s
    timeout server 90s
frontend clients
    bind {HAPROXY} ssl crt {chain} alpn http/1.1 backlog 4096
    default_backend origin
backend origin
    http-reuse always
    server origin {ip}:443 ssl verify required ca-file {ca} sni str({SITE}) verifyhost {SITE} alpn http/1.1
"
    );
    let file = world.directory().join("haproxy.cfg");
    fs::write(&file, configuration)?;
    let words = [Path::new("-db"), Path::new("-f"), &file];
    let haproxy = world.host().command("haproxy").args(words).spawn()?;
    let (ip, port) = HAPROXY.split_once(':').context("no port")?;
    started(haproxy, world.host(), ip, port.parse()?)
}

/// A file with a certificate for the site, and its key.
fn chain(world: &World) -> Result<String> {
    let file = world.directory().join("chain.pem");
    if !file.exists() {
        let (certificate, key) = world.ca().certify_pem(&[SITE.to_owned()])?;
        fs::write(&file, certificate + &key)?;
    }
    Ok(file.display().to_string())
}

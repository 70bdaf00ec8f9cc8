//! What inspected and spliced connections cost, beside proxies that others would pick: the same load through each, in
//! turns.
//!
//! The primary figure is the processor's time that a subject takes for a request, since client, subject and origin share
//! the processors; how many a second it carries is beside it.

mod echo;
mod fresh;
mod idle;
mod load;
pub(super) mod peers;
mod posts;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use super::sample;
use super::taken::{anonymous, processes, resident};
use crate::{Guard, Origin, World, address};
use load::{Load, Measured, Way};
use peers::{Peer, Peers};
use posts::{DECODED, KEPT, Otherwise};

pub use echo::{Echo, Echoes, echo, echoes};
pub use fresh::{Fresh, fresh};
pub use idle::{Idle, idle};

/// The sites of the origin: what is inspected, and what is not; and one for WebSockets, on a machine of its own.
const SITE: &str = "bench.example.com";
const RAW: &str = "raw.example.com";
const SOCKETS: &str = "sockets.example.com";

/// How many rules a small policy has.
const SMALL: usize = 10;

/// What is asked for is allowed by these three, the last of each policy.
const ALLOWED: &str = "
  - id: sockets
    match: { host: [sockets.example.com], port: [443], method: [GET] }
    action: allow
    handling: inspect
  - { id: raw, match: { host: [raw.example.com], port: [443] }, action: allow }
  - id: inspected
    match: { host: [bench.example.com], port: [443], method: [GET] }
    action: allow
    handling: inspect
";

/// What a guard decides by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Policy {
    /// So many rules.
    Rules(usize),
    /// A small one, for requests whose content is looked at or not.
    Posts,
}

/// The small one of most cases.
const FEW_RULES: Policy = Policy::Rules(SMALL);

impl Policy {
    fn text(self) -> String {
        match self {
            Self::Rules(rules) => policy(rules, "", ALLOWED),
            Self::Posts => policy(SMALL, posts::PROVIDERS, posts::ALLOWED),
        }
    }
}

/// A policy of so many rules, the last three of which are given. Those before are of eight kinds in turns, one of which is
/// about other paths of the site that is asked for.
fn policy(rules: usize, providers: &str, allowed: &str) -> String {
    let mut text = format!("version: 1\nagents: [{{ name: coder }}]\n{providers}rules:\n");
    for n in 0..rules.saturating_sub(3) {
        let (what, action) = match n % 8 {
            0 => (format!("host: [a{n}.example.com], method: [GET]"), "allow"),
            1 => (
                format!("host: [b{n}.example.com], method: [GET, POST]"),
                "allow",
            ),
            2 => (format!("host: ['*.c{n}.example.com']"), "allow"),
            3 => (
                format!("host: [d{n}.example.com], path: ['/v1/**']"),
                "deny",
            ),
            4 => (format!("cidr: [10.{}.{}.0/24]", n / 256, n % 256), "deny"),
            5 => (format!("host: [f{n}.example.com], port: [8443]"), "allow"),
            6 => (format!("host: ['*.g{n}.example.com']"), "deny"),
            _ => (format!("host: [{SITE}], path: ['/private{n}/**']"), "deny"),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "  - {{ id: r{n}, match: {{ {what} }}, action: {action} }}"
        );
    }
    text + allowed.trim_start_matches('\n')
}

/// What is measured.
#[derive(Args, Clone, Debug)]
pub struct Which {
    /// How often each is measured, each subject taking its turn at being first
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Only beside these peers, such as `haproxy`; all if absent
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Only these cases; all if absent
    cases: Vec<String>,
}

impl Which {
    fn has(&self, case: &Case) -> bool {
        self.has_named(case.name)
    }

    fn has_named(&self, case: &str) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|name| name == case)
    }

    /// Through whom the load of a case goes.
    fn subjects(&self, case: &Case) -> Vec<Subject> {
        self.of(case.subjects)
    }

    fn of(&self, subjects: &[Subject]) -> Vec<Subject> {
        let named = |peer: Peer| self.peers.iter().any(|name| name == peer.name());
        let subjects = subjects.iter().filter(|subject| match subject {
            Subject::Peer(peer) => self.peers.is_empty() || named(*peer),
            Subject::Unguarded | Subject::Guard | Subject::Otherwise(_) => true,
        });
        subjects.copied().collect()
    }
}

/// How often what takes long is measured, where more is asked for.
const FEW: usize = 3;

/// What the kernel says of a thread that has ended since it was listed (ESRCH).
const GONE: i32 = 3;

/// How long one client may take.
const LIMIT: Duration = Duration::from_secs(180);

/// What the guard's figures go by.
const OURS: &str = "agentguard";

/// Through whom a load goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Subject {
    /// Nobody: what client and origin can do.
    Unguarded,
    Guard,
    /// The guard, which does with the same load what it does elsewhere.
    Otherwise(&'static Otherwise),
    Peer(Peer),
}

impl Subject {
    const fn name(self) -> &'static str {
        match self {
            Self::Unguarded => "unguarded",
            Self::Guard | Self::Otherwise(_) => OURS,
            Self::Peer(peer) => peer.name(),
        }
    }
}

/// What is measured of whom.
struct Case {
    name: &'static str,
    site: &'static str,
    load: Load,
    subjects: &'static [Subject],
    /// How often it is measured at most.
    most: usize,
    policy: Policy,
}

impl Case {
    const fn new(name: &'static str, load: Load, subjects: &'static [Subject]) -> Self {
        Self {
            name,
            site: SITE,
            load,
            subjects,
            most: usize::MAX,
            policy: FEW_RULES,
        }
    }

    const fn at(self, site: &'static str) -> Self {
        Self { site, ..self }
    }

    const fn few(self) -> Self {
        Self { most: FEW, ..self }
    }

    const fn policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// How many decisions such a load takes at least: one for each request where they are read, and else one for each
    /// connection.
    fn decisions(&self, load: &Load) -> u64 {
        let (requests, connections) = load.counts();
        let decisions = match self.site {
            RAW | SOCKETS => connections,
            _ => requests,
        };
        decisions as u64
    }

    /// Cases and subjects as which a subject's figures are told: its own; and where the guard does otherwise, beside all that
    /// the load went through, and beside itself.
    fn told(&self, subject: Subject) -> Vec<(&'static str, &'static str)> {
        let otherwise = self.subjects.iter().filter_map(|subject| match subject {
            Subject::Otherwise(otherwise) => Some(*otherwise),
            _ => None,
        });
        let mut told = match subject {
            Subject::Otherwise(it) => return vec![(it.case, OURS), (it.question, OURS)],
            _ => vec![(self.name, subject.name())],
        };
        told.extend(otherwise.map(|it| match subject {
            Subject::Guard => (it.question, it.without),
            _ => (it.case, subject.name()),
        }));
        told
    }
}

/// All that end TLS on both sides.
const INSPECTING: &[Subject] = &[
    Subject::Unguarded,
    Subject::Guard,
    Subject::Peer(Peer::Haproxy),
    Subject::Peer(Peer::Nginx),
];

/// Fewer of them, where it is about the guard's own.
const BESIDE_HAPROXY: &[Subject] = &[
    Subject::Unguarded,
    Subject::Guard,
    Subject::Peer(Peer::Haproxy),
];

/// All that end TLS on both sides, with those that others would pick to look into TLS, and that carry less.
const INSPECTING_ALL: &[Subject] = &[
    Subject::Unguarded,
    Subject::Guard,
    Subject::Peer(Peer::Haproxy),
    Subject::Peer(Peer::Nginx),
    Subject::Peer(Peer::Squid),
    Subject::Peer(Peer::Mitmproxy),
];

/// Where the client is our own, which asks proxies as well.
const INSPECTING_NEW: &[Subject] = &[
    Subject::Unguarded,
    Subject::Guard,
    Subject::Peer(Peer::Haproxy),
    Subject::Peer(Peer::Nginx),
    Subject::Peer(Peer::Squid),
    Subject::Peer(Peer::SquidBump),
    Subject::Peer(Peer::Mitmproxy),
];

/// The same, for what looks into TLS as we do.
const BESIDE_SQUID: &[Subject] = &[
    Subject::Unguarded,
    Subject::Guard,
    Subject::Peer(Peer::Haproxy),
    Subject::Peer(Peer::SquidBump),
];

/// Those whose memory is looked at.
const IDLE: &[Subject] = &[Subject::Guard, Subject::Peer(Peer::Haproxy)];

/// Over HTTP/2, which squid has not.
const INSPECTING_HTTP2: &[Subject] = &[
    Subject::Unguarded,
    Subject::Guard,
    Subject::Peer(Peer::HaproxyHttp2),
    Subject::Peer(Peer::Nginx),
    Subject::Peer(Peer::Mitmproxy),
];

/// The quick ones of them.
const BESIDE_HTTP2: &[Subject] = &[
    Subject::Unguarded,
    Subject::Guard,
    Subject::Peer(Peer::HaproxyHttp2),
    Subject::Peer(Peer::Nginx),
];

/// All that carry WebSockets with TLS that ends on both sides.
const WEBSOCKET: &[Subject] = &[
    Subject::Unguarded,
    Subject::Guard,
    Subject::Peer(Peer::HaproxySockets),
];

/// Where content is looked at or not.
const POSTING: &[Subject] = &[
    Subject::Unguarded,
    Subject::Guard,
    Subject::Otherwise(&DECODED),
    Subject::Otherwise(&KEPT),
    Subject::Peer(Peer::Haproxy),
];

/// All that carry bytes.
const SPLICING: &[Subject] = &[
    Subject::Unguarded,
    Subject::Guard,
    Subject::Peer(Peer::HaproxyTcp),
];

const CASES: &[Case] = &[
    Case::new(
        "inspect-h1",
        Load::requests("/1k", 18_000).connections(32),
        INSPECTING_ALL,
    ),
    Case::new(
        "inspect-h2",
        Load::requests("/1k", 18_000).connections(32).http2(),
        INSPECTING_HTTP2,
    ),
    Case::new(
        "inspect-new",
        Load::requests("/1k", 2_000).connections(32).fresh(),
        INSPECTING_NEW,
    ),
    // Less than half of what one connection through the guard has where it has all that it can.
    Case::new(
        "latency",
        Load::requests("/1k", 6_000)
            .connections(1)
            .each_second(1_500),
        INSPECTING,
    ),
    // About half of what the guard has at saturation: all have the same to do, and nobody's queue is full.
    Case::new(
        "inspect-h1-half",
        Load::requests("/1k", 12_000)
            .connections(32)
            .each_second(190),
        INSPECTING,
    ),
    Case::new(
        "inspect-h2-half",
        Load::requests("/1k", 12_000)
            .connections(32)
            .each_second(150)
            .http2(),
        BESIDE_HTTP2,
    ),
    Case::new(
        "inspect-100k",
        Load::requests("/100k", 2_000).connections(32),
        INSPECTING,
    ),
    Case::new(
        "inspect-h2-100k",
        Load::requests("/100k", 2_000).connections(32).http2(),
        BESIDE_HTTP2,
    )
    .few(),
    Case::new(
        "inspect-100m",
        Load::requests("/100m", 10).connections(1),
        INSPECTING,
    )
    .few(),
    Case::new(
        "inspect-h2-100m",
        Load::requests("/100m", 10).connections(1).http2(),
        BESIDE_HTTP2,
    )
    .few(),
    Case::new(
        "inspect-h1-c1",
        Load::requests("/1k", 2_000).connections(1),
        INSPECTING,
    )
    .few(),
    Case::new(
        "inspect-h1-c100",
        Load::requests("/1k", 10_000).connections(100),
        INSPECTING,
    )
    .few(),
    // The handshake of each connection is in the figures: a share of one in twenty for each request.
    Case::new(
        "inspect-h1-c1000",
        Load::requests("/1k", 20_000).connections(1_000),
        INSPECTING,
    )
    .few(),
    // As `inspect-h1`, by our own client, which is slower.
    Case::new(
        "inspect-h1-bump",
        Load::requests("/1k", 18_000).connections(32).kept(),
        BESIDE_SQUID,
    )
    .few(),
    Case::new(
        "inspect-h1-rules-1000",
        Load::requests("/1k", 18_000).connections(32),
        BESIDE_HAPROXY,
    )
    .few()
    .policy(Policy::Rules(1_000)),
    Case::new(
        "inspect-h1-rules-10000",
        Load::requests("/1k", 18_000).connections(32),
        BESIDE_HAPROXY,
    )
    .few()
    .policy(Policy::Rules(10_000)),
    Case::new("post", Load::call(4_500).connections(32), POSTING).policy(Policy::Posts),
    Case::new(
        "websocket",
        Load::requests("/1k", 9_600).connections(32).echo(),
        WEBSOCKET,
    )
    .at(SOCKETS),
    Case::new(
        "splice",
        Load::requests("/100m", 20).connections(1),
        SPLICING,
    )
    .at(RAW),
    // Of such a connection one thing is decided and recorded, and nothing is read: what requests cost where they are none of
    // the guard's.
    Case::new(
        "splice-h1",
        Load::requests("/1k", 18_000).connections(32),
        SPLICING,
    )
    .at(RAW),
];

/// Measures, and prints each sample.
///
/// # Errors
/// A client failed, a peer, or the guard.
pub fn proxy(which: &Which) -> Result<()> {
    let known = CASES.iter().map(|case| case.name);
    let known: Vec<&str> = known.chain([idle::CASE]).collect();
    let unknown = |name: &&String| !known.contains(&name.as_str());
    if let Some(name) = which.cases.iter().find(unknown) {
        bail!("no case `{name}`; there are: {}", known.join(", "));
    }
    let all = CASES.iter().flat_map(|case| case.subjects);
    let mut known: Vec<&str> = all.map(|subject| subject.name()).collect();
    known.retain(|name| {
        ![Subject::Unguarded, Subject::Guard]
            .map(Subject::name)
            .contains(name)
    });
    known.sort_unstable();
    known.dedup();
    let unknown = |name: &&String| !known.contains(&name.as_str());
    if let Some(name) = which.peers.iter().find(unknown) {
        bail!("no peer `{name}`; there are: {}", known.join(", "));
    }
    let subjects = CASES.iter().filter(|case| which.has(case));
    let subjects = subjects.flat_map(|case| which.subjects(case));
    let peers = subjects.filter_map(|subject| match subject {
        Subject::Peer(peer) => Some(peer),
        Subject::Unguarded | Subject::Guard | Subject::Otherwise(_) => None,
    });
    let peers: Vec<Peer> = peers.collect();
    open_many()?;
    let world = World::new("bench")
        .origin(
            Origin::at(&address::origin(0x10))
                .leave(443)
                .site(SITE)
                .site(RAW)
                .site(DECODED.site)
                .site(KEPT.site),
        )
        .origin(Origin::at(&address::origin(0x11)).leave(443).site(SOCKETS))
        .start()?;
    let mut peers = Peers::start(&world, &peers)?;
    let measured = measure(&world, &mut peers, which);
    peers.stop()?;
    measured
}

/// As many open files as this user may have, for all that is started from here: clients, peers, the guard.
fn open_many() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, most).context("cannot raise the limit of open files")
}

/// One guard after the other, each with the policy that its cases ask for.
fn measure(world: &World, peers: &mut Peers, which: &Which) -> Result<()> {
    if which.has_named(idle::CASE) {
        idle::measure(world, peers, which.rounds, &which.of(IDLE))?;
    }
    let asked: Vec<&Case> = CASES.iter().filter(|case| which.has(case)).collect();
    let mut policies: Vec<Policy> = Vec::new();
    for case in &asked {
        if !policies.contains(&case.policy) {
            policies.push(case.policy);
        }
    }
    for policy in policies {
        let bench = Bench {
            world,
            peers,
            guard: guard(world, policy)?,
        };
        let small = policy == FEW_RULES;
        if small {
            bench.memory("idle")?;
        }
        for case in asked.iter().filter(|case| case.policy == policy) {
            bench.case(case, which)?;
        }
        if small {
            bench.memory("loaded")?;
        }
    }
    Ok(())
}

fn guard(world: &World, policy: Policy) -> Result<Guard<'_>> {
    let sites = [SITE, SOCKETS, DECODED.site, KEPT.site];
    let upstreams = json!([{ "host": sites, "ca": world.ca_file() }]);
    // All runs are one agent's, and no share of the record is to end one.
    let share = json!({ "per_second": 100_000, "at_once": 1_000_000, "mib_per_day": 10_240 });
    let guard = world.guard().policy(&policy.text());
    let guard = guard.setting("upstreams", upstreams);
    let guard = guard.setting("record", json!({ "agent_share": share }));
    guard.start()
}

struct Bench<'w> {
    world: &'w World,
    peers: &'w Peers,
    guard: Guard<'w>,
}

impl Bench<'_> {
    fn case(&self, case: &Case, which: &Which) -> Result<()> {
        let mut subjects = which.subjects(case);
        let before = posts::left_out(&self.guard)?;
        let mut kept = 0.0;
        // The first requests of each fill what is kept for later ones.
        for subject in &subjects {
            let (measured, _) = self.run(case, *subject, &case.load.short())?;
            if *subject == Subject::Otherwise(&KEPT) {
                kept += measured.requests;
            }
        }
        for _ in 0..which.rounds.min(case.most) {
            subjects.rotate_left(1);
            let mut direct = None;
            let mut figures = Vec::new();
            for subject in &subjects {
                let (measured, cpu) = self.run(case, *subject, &case.load)?;
                if *subject == Subject::Unguarded {
                    direct = Some(measured);
                }
                figures.push((*subject, measured, cpu));
            }
            let direct = direct.context("nothing went directly")?;
            for (subject, measured, cpu) in figures {
                if subject == Subject::Otherwise(&KEPT) {
                    kept += measured.requests;
                }
                for (name, subject) in case.told(subject) {
                    tell(name, subject, (measured, cpu), direct);
                }
            }
        }
        if kept > 0.0 {
            let left_out = posts::left_out(&self.guard)? - before;
            let percent = 100.0 * left_out / kept;
            sample(KEPT.case, OURS, "contents_left_out", "percent", percent);
        }
        Ok(())
    }

    /// Sends a load through a subject: what its client saw, and how much of the processors the subject took.
    fn run(
        &self,
        case: &Case,
        subject: Subject,
        load: &Load,
    ) -> Result<(Measured, Option<Duration>)> {
        let load = &match subject {
            Subject::Peer(peer) if peer.is_slow() => load.third(),
            _ => *load,
        };
        let pids = match subject {
            Subject::Unguarded => Vec::new(),
            Subject::Guard | Subject::Otherwise(_) => processes(&self.guard)?.to_vec(),
            Subject::Peer(peer) => self.peers.pids(peer)?,
        };
        let log = self.world.directory().join("load.log");
        let (to, asks, ca) = match subject {
            Subject::Peer(peer) => {
                let ca = Some(peer.ca(self.world));
                (Some(peer.address()), peer.is_asked(), ca)
            }
            Subject::Unguarded => (None, false, Some(self.world.ca_file().to_owned())),
            // What runs under the guard is told whom to trust.
            Subject::Guard | Subject::Otherwise(_) => (None, false, None),
        };
        let way = Way {
            to,
            asks,
            ca: ca.as_deref(),
        };
        let site = match subject {
            Subject::Otherwise(otherwise) => otherwise.site,
            _ => case.site,
        };
        let words = load.words(site, way, &log)?;
        let call = match subject {
            Subject::Guard | Subject::Otherwise(_) => {
                let run = ["run", "--agent", "coder", "--"];
                self.guard.cli().args(run).args(words)
            }
            Subject::Unguarded | Subject::Peer(_) => {
                let (program, arguments) = words.split_first().context("no program")?;
                self.world.host().command(program).args(arguments)
            }
        };
        let entries = self.entries()?;
        let before = Taken::of(&pids)?;
        let output = call.limit(LIMIT).run()?.success()?;
        let took = Taken::of(&pids)?.since(&before);
        if let Subject::Guard | Subject::Otherwise(_) = subject {
            let (recorded, least) = (self.entries()? - entries, case.decisions(load));
            ensure!(recorded >= least, "{}: {recorded} entries", case.name);
        }
        let measured = load
            .measured(&output.stdout, &log)
            .with_context(|| format!("{} through {}", case.name, subject.name()))?;
        Ok((measured, (!pids.is_empty()).then_some(took)))
    }

    /// How many entries the record has.
    fn entries(&self) -> Result<u64> {
        let status = self.guard.cli().args(["status", "-o", "json"]).run()?;
        let status: Value = serde_json::from_str(&status.success()?.stdout)?;
        let entries = status.pointer("/record/entries").and_then(Value::as_u64);
        entries.with_context(|| format!("no entries in {status}"))
    }

    /// What the guard's processes hold in memory, and how much of that is their own.
    fn memory(&self, case: &str) -> Result<()> {
        let [keeper, worker] = processes(&self.guard)?;
        let tell = |metric, kib| sample(case, "agentguard", metric, "kib", kib);
        tell("resident", resident(keeper)? + resident(worker)?);
        tell(
            "resident_anonymous",
            anonymous(keeper)? + anonymous(worker)?,
        );
        Ok(())
    }
}

/// Prints what was measured of a subject. `direct`: the same of nobody between.
fn tell(
    case: &str,
    subject: &str,
    (measured, cpu): (Measured, Option<Duration>),
    direct: Measured,
) {
    let told = |metric, unit, value| sample(case, subject, metric, unit, value);
    told("requests_per_s", "1/s", measured.requests_per_second);
    told("latency_p50", "us", measured.p50);
    told("latency_p99", "us", measured.p99);
    if let Some(resumed) = measured.resumed {
        told("resumed", "percent", resumed);
    }
    if measured.bytes > 1 << 20 {
        let rate = measured.bytes_per_second / f64::from(1 << 20);
        told("throughput", "mib_per_s", rate);
    }
    if let Some(cpu) = cpu {
        let micros = cpu.as_secs_f64() * 1e6;
        told("cpu_per_request", "us", micros / measured.requests);
        if measured.bytes > 1 << 20 {
            let gigabytes = measured.bytes as f64 * measured.requests / 1e9;
            told("cpu_per_gb", "ms", micros / 1e3 / gigabytes);
        }
        told("latency_p50_added", "us", measured.p50 - direct.p50);
        told("latency_p99_added", "us", measured.p99 - direct.p99);
    }
}

/// The processor's time of each thread of some processes (`schedstats` of the kernel's documentation: the first field, in
/// nanoseconds), by process and thread.
pub(super) struct Taken(BTreeMap<(u32, String), u64>);

impl Taken {
    /// What they have taken until now.
    pub(super) fn of(pids: &[u32]) -> Result<Self> {
        let mut threads = BTreeMap::new();
        for pid in pids {
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                let task = task?;
                let path = task.path().join("schedstat");
                let stat = match fs::read_to_string(&path) {
                    Err(error) if matches!(error.kind(), ErrorKind::NotFound) => continue,
                    Err(error) if error.raw_os_error() == Some(GONE) => continue,
                    stat => stat.with_context(|| path.display().to_string())?,
                };
                let ran = stat.split_whitespace().next().context("no time")?;
                let thread = task.file_name().to_string_lossy().into_owned();
                threads.insert((*pid, thread), ran.parse()?);
            }
        }
        Ok(Self(threads))
    }

    /// What they have taken since. What a thread took that has ended meanwhile is lost, of this time alone: those that do
    /// are idle ones, which wait for work that blocks.
    pub(super) fn since(&self, before: &Self) -> Duration {
        let each = self.0.iter().map(|(thread, now)| {
            let then = before.0.get(thread).copied().unwrap_or_default();
            now.saturating_sub(then)
        });
        Duration::from_nanos(each.sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_has_as_many_rules_as_are_asked_for_and_each_has_a_name_of_its_own() {
        for case in CASES {
            let rules = match case.policy {
                Policy::Rules(rules) => rules,
                Policy::Posts => SMALL,
            };
            let policy = case.policy.text();
            let names = policy.match_indices("id: ").map(|(at, _)| {
                let name = policy.get(at..).unwrap_or_default();
                name.split([',', '\n']).next().unwrap_or_default()
            });
            let mut names: Vec<&str> = names.collect();
            assert_eq!(names.len(), rules);
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), rules);
            // What a policy may have.
            assert!(policy.len() < 1 << 20, "{}", policy.len());
        }
    }

    #[test]
    fn what_the_guard_does_otherwise_is_told_beside_the_others_and_beside_itself() {
        let case = CASES.iter().find(|case| case.name == "post").unwrap();
        let mut told = Vec::new();
        for subject in case.subjects {
            told.extend(case.told(*subject));
        }
        told.sort_unstable();
        let beside = ["agentguard", "haproxy", "unguarded"];
        let mut all: Vec<_> = ["post", "post-decoded", "post-kept"]
            .into_iter()
            .flat_map(|case| beside.map(|subject| (case, subject)))
            .collect();
        all.extend([("decoding", OURS), ("decoding", "not_decoded")]);
        all.extend([("keeping", OURS), ("keeping", "not_kept")]);
        all.sort_unstable();
        assert_eq!(told, all);
        // Elsewhere each is told once.
        let case = CASES.iter().find(|case| case.name == "splice").unwrap();
        let told = case.subjects.iter().flat_map(|subject| case.told(*subject));
        let subjects: Vec<_> = told.map(|(_, subject)| subject).collect();
        assert_eq!(subjects, ["unguarded", "agentguard", "haproxy_tcp"]);
    }
}

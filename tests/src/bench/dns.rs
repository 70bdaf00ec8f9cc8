//! What answers of the resolver cost that agents have, from its cache, beside unbound on the same host.
//!
//! Each answer of ours is decided by the policy and recorded before it leaves, and goes through the gate both ways.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::json;

use super::proxy::Taken;
use super::sample;
use super::taken::processes;
use crate::{Guard, Origin, Process, World, address, wait_until};

const POLICY: &str = "
version: 1
agents: [{ name: coder }]
rules:
  - { id: sites, match: { host: ['*.example.com'], port: [443] }, action: allow }
";

/// How many names there are, each of which is asked for by turns.
const NAMES: usize = 100;

/// How often each is measured, each taking its turn at being first.
const ROUNDS: usize = 7;

/// How many queries a client sends in a round.
const QUERIES: usize = 20_000;

/// How many a client has unanswered at once.
const AT_ONCE: &str = "100";

/// Where unbound listens, on the host's loopback.
const PORT: &str = "5353";

/// How long one client may take.
const LIMIT: Duration = Duration::from_secs(120);

/// What is asked for of each name.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    types: &'static [&'static str],
}

const CASES: &[Case] = &[
    // Each answer is a decision of its own.
    Case {
        name: "dns",
        types: &["A"],
    },
    // As `getaddrinfo` asks: both are one decision.
    Case {
        name: "dns-pairs",
        types: &["A", "AAAA"],
    },
];

/// Fails where a name has no address of one of the two families.
const RESOLVE: &str = "
import socket, sys
for name in sys.argv[1:]:
    for family in (socket.AF_INET, socket.AF_INET6):
        socket.getaddrinfo(name, 443, family)
";

#[derive(Clone, Copy)]
enum Resolver {
    Guard,
    Unbound,
}

/// What a client saw.
struct Seen {
    per_second: f64,
    /// On the mean, in microseconds.
    latency: f64,
}

/// Measures, and prints each sample.
///
/// # Errors
/// A client failed or has not got all answers, unbound, or the guard.
pub fn dns() -> Result<()> {
    let sites = (0..NAMES).map(site);
    let origin = Origin::at(&address::origin(0x10));
    let world = World::new("bench")
        .origin(sites.fold(origin, |origin, site| origin.site(&site)))
        .start()?;
    // One agent asks for more here than its share of the record is meant for.
    let share = json!({ "per_second": 1_000_000, "at_once": 1_000_000, "mib_per_day": 10_000 });
    let guard = world.guard().policy(POLICY);
    let guard = guard.setting("record", json!({ "agent_share": share }));
    let guard = guard.start()?;
    let mut unbound = unbound(&world)?;
    let measured = CASES
        .iter()
        .try_for_each(|case| rounds(&world, &guard, &unbound, *case));
    unbound.signal(Signal::TERM)?;
    unbound.wait(LIMIT)?;
    measured
}

fn site(number: usize) -> String {
    format!("site-{number}.example.com")
}

fn rounds(world: &World, guard: &Guard<'_>, unbound: &Process, case: Case) -> Result<()> {
    let ask = |resolver| {
        let pids = match resolver {
            Resolver::Guard => processes(guard)?.to_vec(),
            Resolver::Unbound => vec![unbound.id()],
        };
        let before = Taken::of(&pids)?;
        let seen = asked(world, guard, resolver, case)?;
        Ok::<_, anyhow::Error>((seen, Taken::of(&pids)?.since(&before)))
    };
    // An answer without an address would be one as well.
    let words = ["python3", "-c", RESOLVE].map(str::to_owned);
    let words = words.into_iter().chain((0..NAMES).map(site));
    guard.agent("coder", words).limit(LIMIT).run()?.success()?;
    // The first questions of each fill its cache.
    for resolver in [Resolver::Guard, Resolver::Unbound] {
        ask(resolver)?;
    }
    for round in 0..ROUNDS {
        let mut resolvers = [Resolver::Guard, Resolver::Unbound];
        resolvers.rotate_left(round % 2);
        for resolver in resolvers {
            let (seen, took) = ask(resolver)?;
            let subject = match resolver {
                Resolver::Guard => "agentguard",
                Resolver::Unbound => "unbound",
            };
            #[expect(clippy::cast_precision_loss, reason = "some thousands")]
            let each = took.as_secs_f64() * 1e6 / QUERIES as f64;
            sample(case.name, subject, "requests_per_s", "1/s", seen.per_second);
            sample(case.name, subject, "latency_mean", "us", seen.latency);
            sample(case.name, subject, "cpu_per_answer", "us", each);
        }
    }
    Ok(())
}

/// What a client sees that has so many answers. It fails where one is missing, or says anything else than addresses.
fn asked(world: &World, guard: &Guard<'_>, resolver: Resolver, case: Case) -> Result<Seen> {
    let file = world.directory().join(case.name);
    let mut queries = String::new();
    let each = (0..NAMES).flat_map(|number| case.types.iter().map(move |kind| (number, kind)));
    for (number, kind) in each.cycle().take(QUERIES) {
        writeln!(queries, "{} {kind}", site(number))?;
    }
    fs::write(&file, queries)?;
    let [server, _] = address::NAME_SERVER.map(|ip| ip.to_string());
    let (server, port) = match resolver {
        Resolver::Guard => (server.as_str(), "53"),
        Resolver::Unbound => ("127.0.0.1", PORT),
    };
    let file = file.display().to_string();
    let words = ["-s", server, "-p", port, "-d", &file, "-n", "1"];
    let call = match resolver {
        Resolver::Guard => guard.agent("coder", ["dnsperf"]),
        Resolver::Unbound => world.host().command("dnsperf"),
    };
    // Its own buffer has room for all that may be answered at once, or what is lost there would be waited for.
    let call = call.args(words).args(["-q", AT_ONCE, "-b", "1024"]);
    let call = call.limit(LIMIT);
    let told = call.run()?.success()?.stdout;
    let figure = |name: &str| figure(&told, name).with_context(|| format!("no `{name}` in {told}"));
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let all = QUERIES as f64;
    for what in ["Queries sent:", "Queries completed:", "NOERROR"] {
        ensure!(figure(what)? == all, "not all {QUERIES} answers: {told}");
    }
    Ok(Seen {
        per_second: figure("Queries per second:")?,
        latency: figure("Average Latency (s):")? * 1e6,
    })
}

/// The number behind a word of what dnsperf says.
fn figure(told: &str, name: &str) -> Option<f64> {
    let (_, rest) = told.split_once(name)?;
    rest.split_whitespace().next()?.parse().ok()
}

/// unbound in the host, before the world's name server, with a thread for each of two processors. It validates
/// nothing, and writes nothing down of what it answers.
fn unbound(world: &World) -> Result<Process> {
    let [server, _] = address::NAME_SERVER;
    let configuration = format!(
        "server:
    interface: 127.0.0.1
    port: {PORT}
    num-threads: 2
    so-reuseport: yes
    module-config: iterator
    do-daemonize: no
    username: \"\"
    chroot: \"\"
    directory: \"{}\"
    pidfile: \"\"
    use-syslog: no
    verbosity: 0
    access-control: 127.0.0.0/8 allow
remote-control:
    control-enable: no
forward-zone:
    name: .
    forward-addr: {server}
",
        world.directory().display()
    );
    let file = world.directory().join("unbound.conf");
    fs::write(&file, configuration)?;
    let unbound = world.host().command("unbound").args(["-d", "-c"]);
    let mut unbound = unbound.arg(&file).spawn()?;
    let answers = wait_until("unbound", Duration::from_secs(10), || {
        let ended = unbound.ended().ok().flatten();
        let words = ["@127.0.0.1", "-p", PORT, "+tries=1", "+time=1", "+short"];
        let dig = world.host().command("dig").args(words).arg(site(0));
        let answered = dig.run().is_ok_and(|it| it.status.success());
        (answered || ended.is_some()).then_some(answered)
    });
    ensure!(answers.unwrap_or_default(), "{}", unbound.stderr());
    Ok(unbound)
}

#[cfg(test)]
mod tests {
    use super::figure;

    #[test]
    fn figures_are_read_from_what_dnsperf_says() {
        let told = "\
  Queries sent:         4000
  Queries completed:    3977 (99.42%)
  Response codes:       NOERROR 3964 (99.67%), SERVFAIL 13 (0.33%)
  Queries per second:   795.372003
  Average Latency (s):  0.017101 (min 0.000836, max 0.221462)
";
        for (name, value) in [
            ("Queries sent:", 4000.0),
            ("Queries completed:", 3977.0),
            ("NOERROR", 3964.0),
            ("Queries per second:", 795.372_003),
            ("Average Latency (s):", 0.017_101),
        ] {
            assert_eq!(figure(told, name), Some(value), "{name}");
        }
        assert_eq!(figure(told, "Queries lost:"), None);
    }
}

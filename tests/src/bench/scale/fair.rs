//! More load than there are processors for: what an agent that sends little waits beside one that sends all it can, and
//! whether what is carried breaks down with more connections.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{Scene, Way, all_went_well, figure, open};
use crate::bench::sample;
use crate::bench::taken::rest;
use crate::{Process, Puppet};

/// How often each is measured, guard and HAProxy taking turns at being first.
const ROUNDS: usize = 5;

/// What the light one sends, on one connection.
const LIGHT: &str = "pace 50 5";

/// Connections of the heavy one. The middle one is also beside the light one.
const HEAVY: [usize; 3] = [32, 256, 1_000];
const BESIDE: usize = 256;

/// How long the heavy one is under way before it counts, and how long that is measured, in seconds.
const WARM: usize = 3;
const MEASURED: usize = 3;
/// The same where it is beside the light one: it is under way longer than that.
const LONGER: usize = 8;

const LIMIT: Duration = Duration::from_secs(60);

/// Measures, and prints each sample.
///
/// # Errors
/// A client failed.
pub(super) fn measure(scene: &Scene) -> Result<()> {
    let guard = scene.guard(["light", "heavy"].map(str::to_owned)).start()?;
    let ours = [Way::Guard(&guard, "light"), Way::Guard(&guard, "heavy")];
    let theirs = [Way::Haproxy, Way::Haproxy];
    for round in 0..ROUNDS {
        let mut ways = [ours, theirs];
        ways.rotate_left(round % 2);
        for [light, heavy] in ways {
            light_and_heavy(scene, light, heavy)?;
            more_and_more(scene, heavy)?;
        }
    }
    Ok(())
}

/// The light one alone, and beside the heavy one.
fn light_and_heavy(scene: &Scene, light: Way<'_>, heavy: Way<'_>) -> Result<()> {
    let mut client = scene.client(light)?;
    open(&mut client, 1)?;
    waits(&mut client, "light-alone", light.name())?;
    let heavy = Heavy::start(scene, heavy, BESIDE, LONGER)?;
    // It counts once it is flat out, as what it measures of itself.
    rest(Instant::now() + Duration::from_secs(u64::try_from(WARM)?));
    let case = format!("light-beside-{BESIDE}");
    waits(&mut client, &case, light.name())?;
    heavy.rate().map(drop)
}

fn waits(client: &mut Puppet, case: &str, subject: &str) -> Result<()> {
    let answer = all_went_well(client.ask(LIGHT)?)?;
    for (metric, of) in [("latency_p50", "p50"), ("latency_p99", "p99")] {
        sample(case, subject, metric, "us", figure(&answer, of)?);
    }
    let rate = figure(&answer, "requests")? / figure(&answer, "seconds")?;
    sample(case, subject, "requests_per_s", "1/s", rate);
    Ok(())
}

/// The heavy one alone with ever more connections.
fn more_and_more(scene: &Scene, heavy: Way<'_>) -> Result<()> {
    let mut rates = Vec::new();
    for connections in HEAVY {
        let rate = Heavy::start(scene, heavy, connections, MEASURED)?.rate()?;
        rates.push((connections, rate));
    }
    let best = rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
    for (connections, rate) in rates {
        let case = format!("saturated-{connections}");
        sample(&case, heavy.name(), "requests_per_s", "1/s", rate);
        sample(&case, heavy.name(), "of_best", "ratio", rate / best);
    }
    Ok(())
}

/// `h2load`, which sends what it can.
struct Heavy(Process);

impl Heavy {
    fn start(scene: &Scene, way: Way<'_>, connections: usize, seconds: usize) -> Result<Self> {
        let mut words = ["h2load", "--h1", "-t1"].map(str::to_owned).to_vec();
        words.push(format!("-c{connections}"));
        words.push(format!("--duration={seconds}"));
        words.push(format!("--warm-up-time={WARM}"));
        if let Way::Haproxy = way {
            words.push(format!("--connect-to={}", super::HAPROXY));
        }
        words.push(format!("https://{}/1k", super::SITE));
        let words = words.into_iter().map(Into::into).collect();
        let call = match way {
            Way::Guard(guard, agent) => {
                let run = ["run", "--agent", agent, "--"];
                guard.cli().args(run).args::<std::ffi::OsString>(words)
            }
            Way::Haproxy => super::direct(&scene.world, words),
        };
        call.spawn().map(Self)
    }

    /// Requests in a second, none of which may have failed.
    fn rate(self) -> Result<f64> {
        let printed = self.0.wait(LIMIT)?.success()?.stdout;
        ensure!(
            printed.contains(" 0 failed, 0 errored, 0 timeout")
                && printed.contains(" 0 3xx, 0 4xx, 0 5xx"),
            "not all went well: {printed}"
        );
        let rate = printed.lines().find_map(|line| {
            let (_, rest) = line.strip_prefix("finished in ")?.split_once(", ")?;
            let (rate, _) = rest.split_once(" req/s")?;
            rate.parse::<f64>().ok()
        });
        rate.with_context(|| format!("no rate: {printed}"))
    }
}

//! Thousands of connections at once: whether all are carried, at what rate, and what one of them holds that is idle.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Scene, Way, figure, open};
use crate::Puppet;
use crate::bench::sample;
use crate::bench::taken::{anonymous, least, processes};

/// Connections, in as many clients as there are names: an agent may have 4,096 at once.
const MANY: usize = 5_000;
const AGENTS: [&str; 2] = ["many-a", "many-b"];

/// What they are compared with.
const FEW: usize = 100;

/// How long requests are sent.
const FLAT: &str = "flat 6";

/// How long what is idle may take to give back what it had in use.
const IDLE: Duration = Duration::from_secs(4);
const GONE: Duration = Duration::from_secs(15);

/// Measures, and prints each sample.
///
/// # Errors
/// A request failed.
pub(super) fn measure(scene: &Scene) -> Result<()> {
    let agents = ["few", AGENTS[0], AGENTS[1]].map(str::to_owned);
    let guard = scene.guard(agents).start()?;
    let [_, worker] = processes(&guard)?;
    let [a, b] = AGENTS.map(|agent| Way::Guard(&guard, agent));
    through(scene, worker, Way::Guard(&guard, "few"), [a, b])?;
    let way = Way::Haproxy;
    through(scene, scene.haproxy.id(), way, [way, way])
}

fn through(scene: &Scene, pid: u32, few: Way<'_>, many: [Way<'_>; 2]) -> Result<()> {
    let case = format!("connections-{MANY}");
    let told = |metric, unit, value| sample(&case, few.name(), metric, unit, value);
    let mut client = scene.client(few)?;
    open(&mut client, FEW)?;
    let of_few = together(&mut [client])?;
    let before = least(IDLE, 0.0, || anonymous(pid))?;

    let [a, b] = many;
    let mut clients = [scene.client(a)?, scene.client(b)?];
    let mut opened = 0.0;
    for client in &mut clients {
        opened += open(client, MANY / AGENTS.len())?;
    }
    told("opened", "1/s", opened / 2.0);
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let connections = MANY as f64;
    let silent = least(IDLE, 0.0, || anonymous(pid))?;
    let each = (silent - before) / connections;
    told("memory_per_silent_connection", "kib", each);
    let of_many = together(&mut clients)?;
    told("requests_per_s", "1/s", of_many);
    told("requests_per_s_of_100", "ratio", of_many / of_few);
    let idle = least(IDLE, 0.0, || anonymous(pid))?;
    told(
        "memory_per_idle_connection",
        "kib",
        (idle - before) / connections,
    );
    drop(clients);
    let enough = before + (idle - before) / 20.0;
    let after = least(GONE, enough, || anonymous(pid))?;
    let back = (idle - after) / (idle - before);
    told("memory_given_back", "percent", 100.0 * back);
    Ok(())
}

/// Has clients send at once: requests a second of all.
fn together(clients: &mut [Puppet]) -> Result<f64> {
    for client in &mut *clients {
        client.begin(FLAT)?;
    }
    let mut rate = 0.0;
    for client in clients {
        let answer: Value = client.answer(FLAT)?;
        let errors = figure(&answer, "errors")?;
        ensure!(errors == 0.0, "{errors} requests failed: {answer}");
        let rate_of_one = figure(&answer, "requests")? / figure(&answer, "seconds")?;
        rate += rate_of_one;
    }
    (rate > 0.0).then_some(rate).context("no request")
}

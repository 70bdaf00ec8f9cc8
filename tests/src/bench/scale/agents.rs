//! A daemon that has many agents, each in a cgroup of its own, beside one that has one: what they take, and what one of
//! them pays for the others.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::{Scene, all_went_well, figure, open};
use crate::bench::sample;
use crate::bench::taken::{anonymous, least, processes};
use crate::{Guard, Puppet};

/// Numbers of agents. The first is what the others are compared with.
const AGENTS: [usize; 3] = [1, 1_000, 10_000];

/// How often requests are measured, each number of agents taking its turn at being the first.
const TURNS: usize = 3;

/// Requests on one connection for one sample, and connections of one.
const REQUESTS: &str = "flat 1.5";
const DIALS: &str = "dial 100 0";

/// How long a reload may take, and what was needed for the start to be given back.
const LIMIT: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(3);

/// A daemon with many agents, and a client that is the last of them.
struct Crowd<'w> {
    agents: usize,
    guard: Guard<'w>,
    client: Puppet,
}

/// Measures, and prints each sample.
///
/// # Errors
/// A request failed, or the daemon does not start.
pub(super) fn measure(scene: &Scene) -> Result<()> {
    let mut crowds = Vec::new();
    let mut alone = None;
    for (place, agents) in AGENTS.into_iter().enumerate() {
        let mut crowd = Crowd::start(scene, place, agents)?;
        let memory = crowd.memory()?;
        match alone {
            None => alone = Some(memory),
            Some(alone) => {
                let each = (memory - alone) * 1024.0 / (count(agents) - 1.0);
                tell(agents, "memory_per_agent", "bytes", each);
            }
        }
        tell(agents, "memory", "kib", memory);
        crowd.reload()?;
        // What was opened before is asked to come again, now that the policy is another.
        open(&mut crowd.client, 1)?;
        crowds.push(crowd);
    }
    for _ in 0..TURNS {
        crowds.rotate_left(1);
        for crowd in &mut crowds {
            crowd.requests()?;
        }
    }
    Ok(())
}

/// One sample; that of one agent is also what the others are compared with.
fn tell(agents: usize, metric: &str, unit: &str, value: f64) {
    sample(
        &format!("agents-{agents}"),
        "agentguard",
        metric,
        unit,
        value,
    );
    let [one, others @ ..] = AGENTS;
    if agents == one && metric != "memory" {
        for other in others {
            sample(&format!("agents-{other}"), "one_agent", metric, unit, value);
        }
    }
}

impl<'w> Crowd<'w> {
    fn start(scene: &'w Scene, place: usize, agents: usize) -> Result<Self> {
        let names = (0..agents).map(name);
        // Several daemons are in the host at once.
        let port = 15_001 + 100 * u16::try_from(place)?;
        let guard = scene
            .guard(names)
            .setting("proxy_port", json!(port))
            .setting("resolver_port", json!(port + 50));
        let mut guard = guard.prepare()?;
        for number in 0..agents {
            fs::create_dir_all(guard.cgroup().join(name(number)))?;
        }
        let began = Instant::now();
        guard.start()?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        tell(agents, "start", "ms", took);
        let cgroup = guard.cgroup().join(name(agents - 1));
        // What is not started by the guard is told whom to trust.
        let ca = scene.world.directory().join(format!("guard-{agents}.pem"));
        let export = guard.cli().args(["ca", "export", "--out"]).arg(&ca);
        export.run()?.success()?;
        let options = ["--ca".into(), ca.into()];
        let client = scene.client_by(&options, |words| guard.within(&cgroup, words))?;
        Ok(Self {
            agents,
            guard,
            client,
        })
    }

    /// What keeper and worker hold together, in KiB.
    fn memory(&self) -> Result<f64> {
        let [keeper, worker] = processes(&self.guard)?;
        least(IDLE, 0.0, || Ok(anonymous(keeper)? + anonymous(worker)?))
    }

    /// How long it takes until a policy with another rule is in force.
    fn reload(&self) -> Result<()> {
        let text = fs::read_to_string(self.guard.policy())?;
        let rule = "  - { id: more, match: { host: [more.example.com] }, action: allow }\n";
        fs::write(self.guard.policy(), text + rule)?;
        let began = Instant::now();
        let reload = self.guard.cli().args(["policy", "reload"]);
        reload.limit(LIMIT).run()?.success()?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        tell(self.agents, "reload", "ms", took);
        Ok(())
    }

    fn requests(&mut self) -> Result<()> {
        let asked = all_went_well(self.client.ask(REQUESTS)?)?;
        tell(self.agents, "request_p50", "us", figure(&asked, "p50")?);
        tell(self.agents, "request_p99", "us", figure(&asked, "p99")?);
        let dialled = all_went_well(self.client.ask(DIALS)?)?;
        tell(
            self.agents,
            "connection_p50",
            "us",
            figure(&dialled, "p50")?,
        );
        tell(
            self.agents,
            "connection_p99",
            "us",
            figure(&dialled, "p99")?,
        );
        Ok(())
    }
}

fn name(number: usize) -> String {
    format!("agent-{number}")
}

fn count(agents: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "ten thousand at most")]
    let count = agents as f64;
    count
}

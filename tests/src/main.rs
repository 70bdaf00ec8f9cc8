//! What the build tasks call on the world: `world check|sweep|leftovers|demo|bench-…`.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use agentguard_tests::{World, bench, demo, leftover};
use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

/// The world of the end-to-end tests.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Say whether this machine can have worlds
    Check,
    /// Remove what killed runs left behind
    Sweep,
    /// Fail if something was left behind
    Leftovers,
    /// Show the main job
    Demo,
    /// Print samples of what inspection costs
    BenchInspection,
    /// Print samples of what the events of a stream take through inspection, and through HAProxy
    BenchSse,
    /// Print samples of what inspected and spliced connections cost, and what they cost through other proxies
    BenchProxy(bench::Which),
    /// Send requests, each on a connection of its own
    #[command(hide = true)]
    BenchFresh(bench::Fresh),
    /// Hold connections that are idle
    #[command(hide = true)]
    BenchIdle(bench::Idle),
    /// Send messages on WebSockets, and wait for each
    #[command(hide = true)]
    BenchEcho(bench::Echo),
    /// Send back messages on WebSockets
    #[command(hide = true)]
    BenchEchoes(bench::Echoes),
    /// Print samples of what the daemon takes to start, and HAProxy
    BenchStart,
    /// Print samples of what answers of the resolver cost, and those of unbound
    BenchDns,
    /// Print samples of what starts cost: of commands, and of another worker
    BenchRun,
    /// Print samples of what the gate costs
    BenchGate {
        /// The program that makes a gate with many agents
        crowd: PathBuf,
    },
    /// Print samples of many connections, many agents, and more load than there are processors for
    BenchScale(bench::Cases),
    /// Send requests on many connections, as it is told
    #[command(hide = true)]
    BenchClient(bench::Asked),
    /// Carry a steady load for long, and fail where memory or descriptors grow
    BenchSoak(bench::Soak),
    /// Print samples of what a simulation of another policy takes
    BenchSimulate {
        /// The program that makes a record of many decisions
        fill: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Check => World::check(),
        Task::Sweep => sweep(),
        Task::Leftovers => leftovers(),
        Task::Demo => demo::run(),
        Task::BenchInspection => bench::inspection(),
        Task::BenchSse => bench::sse(),
        Task::BenchProxy(which) => bench::proxy(&which),
        Task::BenchFresh(asked) => bench::fresh(&asked),
        Task::BenchIdle(asked) => bench::idle(&asked),
        Task::BenchEcho(asked) => bench::echo(&asked),
        Task::BenchEchoes(asked) => bench::echoes(&asked),
        Task::BenchStart => bench::start(),
        Task::BenchDns => bench::dns(),
        Task::BenchRun => bench::run(),
        Task::BenchGate { crowd } => bench::gate(&crowd),
        Task::BenchScale(cases) => bench::scale(&cases),
        Task::BenchClient(asked) => bench::client(&asked),
        Task::BenchSoak(asked) => bench::soak(&asked),
        Task::BenchSimulate { fill } => bench::simulate(&fill),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn sweep() -> Result<()> {
    for leftover in leftover::sweep()? {
        eprintln!("removed of a killed run: {leftover}");
    }
    Ok(())
}

fn leftovers() -> Result<()> {
    let found = leftover::find()?;
    if found.is_empty() {
        return Ok(());
    }
    let found: Vec<_> = found.iter().map(ToString::to_string).collect();
    bail!("left behind: {}", found.join(", "));
}

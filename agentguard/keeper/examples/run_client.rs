//! The client of `agentguard run` as a program of its own, so that this crate's tests can put it into
//! real shells and pipelines.

#[path = "../../src/run/mod.rs"]
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;

/// The keeper's socket, then what `agentguard run` takes.
#[derive(clap::Parser)]
struct Arguments {
    socket: PathBuf,
    #[command(flatten)]
    run: run::RunArgs,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    run::main(arguments.run, &arguments.socket, "start one")
}

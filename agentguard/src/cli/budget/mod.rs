//! `agentguard budget`

mod prices;

use clap::Subcommand;

use super::Global;
use super::failure::Failure;
use super::output::Output;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show what language models cost, or import it from files that others keep; works without a daemon
    #[command(subcommand)]
    Prices(prices::Command),
}

pub(super) fn main(command: Command, global: &Global, out: &mut Output) -> Result<(), Failure> {
    match command {
        Command::Prices(command) => prices::main(&command, global, out),
    }
}

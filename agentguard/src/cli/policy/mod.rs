//! `agentguard policy`

mod arguments;
mod check;
mod openapi;
mod past;
mod report;
mod show;
mod simulate;
pub(super) mod switch;
mod test;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use agentguard_keeper::message::Command as Request;
use agentguard_model::{Reason, ReasonCode};
use agentguard_names::guard;
use agentguard_policy::{Diagnostics, Policy};
use clap::Subcommand;
use ipnet::IpNet;

use super::Global;
use super::agent::change;
use super::failure::Failure;
use super::output::{Output, printable, say};
use crate::config::sources;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Compile a policy and say everything that is wrong with it; works without a daemon
    Check {
        /// The policy
        file: PathBuf,
    },
    /// Run the tests that are written beside a policy; works without a daemon
    Test {
        /// The tests
        file: PathBuf,
        /// The policy, instead of the one that the tests are about
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
    },
    Simulate(simulate::Simulate),
    #[command(name = "openapi")]
    OpenApi(openapi::OpenApi),
    /// Say what the modes keep from being done: what would be denied or allowed in enforce mode
    Report(past::Past),
    /// Show the policy in force
    Show,
    /// Load the policy anew; one that is wrong leaves the old one in force
    Reload,
    /// List the switches that the policy declares, or set one
    ///
    /// Rules look at them. What is under way is decided again at once, and what is denied now ends. It
    /// holds over reloads and over restarts of the daemon and of the host, until it is set to default.
    Switch(switch::Switch),
}

pub(super) fn main(command: Command, global: &Global, out: &mut Output) -> Result<(), Failure> {
    match command {
        Command::Check { file } => check::check(&file, out),
        Command::Show => {
            let policy = global.ask(async |mut client| Ok(client.policy().await?))?;
            show::show(&policy, out)
        }
        Command::Reload => change(global, &Request::Reload, out),
        Command::Switch(switch) => switch::main(switch, global, out),
        Command::Test { file, policy } => test::test(&file, policy.as_deref(), out),
        Command::OpenApi(asked) => openapi::openapi(&asked, out),
        Command::Simulate(simulate) => simulate::simulate(&simulate, global, out),
        Command::Report(past) => report::report(&past, global, out),
    }
}

/// A policy that is named on the command line or by a file that is. Its warnings are for `check`.
///
/// # Errors
/// A usage error: it cannot be read, or it is wrong, which has been said then.
fn compiled(file: &Path) -> Result<Policy, Failure> {
    let sources =
        sources::read(file, |_| Ok(())).map_err(|error| Failure::of_file(&error, true))?;
    let shown = file.display().to_string();
    sources.compile().map_err(|found| unusable(&shown, &found))
}

/// Why an address may not be behind a name, as the resolver has it.
fn closed(ip: IpAddr, ranges: &[IpNet], observing: bool) -> Option<Reason> {
    let examined = guard::examine([ip], ranges, observing);
    let (ip, special) = examined.denied.first()?;
    let message = format!("The name is at {ip}, a {special} address that no rule lets it have.");
    Some(Reason::new(ReasonCode::Rebinding, message))
}

/// Says what is wrong with a file that the command line names.
fn unusable(path: &str, found: &Diagnostics) -> Failure {
    say(&lines(&found.to_string()));
    Failure::usage(format!("{path} cannot be used: {}", found.summary()))
}

/// Several lines for a terminal.
pub(super) fn lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

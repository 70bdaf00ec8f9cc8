//! The command line: what is said, made into one value, and the command that does it.
//!
//! [`Arguments`] is what clap reads; [`main`] turns it into calls. Commands that only ask speak to
//! the worker's control socket; those that change the guard speak to the keeper's. Data goes to
//! standard output in the form that `-o` names, words go to standard error.
//!
//! **Invariant:** exit 0 is done, 1 refused or failed, 2 a usage or configuration error; `run` alone
//! returns its child's code. Nothing that an agent chose reaches a terminal unescaped.

mod agent;
mod budget;
mod ca;
mod explain;
pub(crate) mod failure;
mod limits;
pub(crate) mod output;
mod policy;
mod resources;
mod schema;
mod since;
mod status;
mod tools;
mod verdicts;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agentguard_control::{Client, ClientError};
use clap::{Args, Parser, Subcommand};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::config::{Config, ConfigError, Declared, Host};
use crate::{daemon, doctor, hook, run, wrap};
use failure::Failure;
use output::{Format, Output};

/// Governs what AI agents send to the network
///
/// Every byte that an agent sends passes a gate in the kernel, which allows only what the policy
/// allows. Each decision is recorded and can be explained later.
#[derive(Debug, Parser)]
#[command(
    name = "agentguard",
    version,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 done, 1 refused or failed, 2 usage or configuration error; run returns the code of its command"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Args, Debug)]
struct Global {
    /// The configuration [default: /etc/agentguard/config.yaml] [env: AGENTGUARD_CONFIG]
    // The variable is read by us: clap would show the option as given in each usage line, and
    // blame the option for an empty variable.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The form of the output
    #[arg(short, long, global = true, value_enum, value_name = "FORM", default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the guard, in the foreground
    Daemon {
        /// Instead, take the gate off everything: agents are not governed until the next start
        ///
        /// The only deliberate way to open the gate, which outlives the daemon. Refused while a
        /// daemon runs. The next start puts the gate up again and records that it was off.
        #[arg(long)]
        detach_all: bool,
    },
    /// Run a command as an agent
    Run(run::RunArgs),
    /// Put the guard before a server of tools that an agent starts
    #[command(subcommand)]
    Mcp(wrap::Command),
    /// Answer an agent's own hook: decide on a tool before it is used
    #[command(subcommand)]
    Hook(hook::Command),
    /// List, show, add, remove, quarantine and release agents
    #[command(subcommand)]
    Agent(agent::Command),
    /// List decisions, newest last
    Verdicts(verdicts::Verdicts),
    /// Say why a decision was taken, and what would change it
    Explain(explain::Explain),
    /// Check, test and try a policy, show the one in force, load it anew, set its switches
    #[command(subcommand)]
    Policy(policy::Command),
    /// Show what of budgets is used and left, and how long it lasts; what models cost
    #[command(subcommand)]
    Budget(budget::Command),
    /// Show what limits have counted, and which circuits are open
    #[command(subcommand)]
    Limits(limits::Command),
    /// List what tools of servers were first seen as, show what changed, accept it
    #[command(subcommand)]
    Tools(tools::Command),
    /// Show, export and rotate the certificate authority behind inspection
    #[command(subcommand)]
    Ca(ca::Command),
    /// Say how the guard is doing
    Status,
    /// Say what this host has of what the guard needs; works without a daemon
    Doctor,
    /// Print the JSON Schema of a document
    Schema(schema::Schema),
    /// The half of the daemon that the keeper starts
    #[command(hide = true)]
    Worker,
}

/// Reads the command line and does what it says.
///
/// # Errors
/// [`Failure`], which `main` prints once. Errors of usage end the program here, in clap's words.
pub(crate) fn main() -> Result<ExitCode, Failure> {
    let arguments = Arguments::parse();
    let mut global = arguments.global;
    global.or_variable()?;
    let mut out = Output::stdout(global.output);
    match arguments.command {
        Command::Daemon { detach_all: false } => {
            let config = global.config()?;
            log();
            daemon::keeper::run(config)?;
        }
        Command::Daemon { detach_all: true } => {
            let config = global.config()?;
            let text = daemon::keeper::detach_all(&config)?;
            agent::done(&text, &mut out)?;
        }
        Command::Worker => {
            log();
            daemon::worker::run()?;
        }
        Command::Run(args) => {
            let socket = global.declared()?.paths.keeper_socket();
            return Ok(run::main(args, &socket, &global.how_to_start())?);
        }
        Command::Mcp(wrap::Command::Wrap(args)) => {
            let socket = global.declared()?.paths.agents_socket();
            return wrap::main(&args, &socket);
        }
        Command::Hook(hook::Command::ClaudeCode(args)) => {
            // A hook that ends with another code than 2 denies nothing.
            let declared = global.declared();
            let declared = declared.map_err(|error| hook::denied(&Failure::from(error).text()))?;
            return hook::main(&args, &declared.paths.agents_socket());
        }
        Command::Agent(command) => agent::main(command, &global, &mut out)?,
        Command::Verdicts(query) => verdicts::main(query, &global, &mut out)?,
        Command::Explain(explain) => explain::main(&explain, &global, &mut out)?,
        Command::Policy(command) => policy::main(command, &global, &mut out)?,
        Command::Budget(command) => budget::main(command, &global, &mut out)?,
        Command::Limits(command) => limits::main(command, &global, &mut out)?,
        Command::Tools(command) => tools::main(command, &global, &mut out)?,
        Command::Ca(command) => ca::main(command, &global, &mut out)?,
        Command::Status => status::main(&global, &mut out)?,
        Command::Doctor => doctor::main(global.declared(), &mut out)?,
        Command::Schema(schema) => schema::main(&schema, &mut out)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The daemon's log goes to standard error, which the service manager keeps. `RUST_LOG` says how
/// much; without it, what an operator needs to know.
fn log() {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .init();
}

/// Names the configuration where the command line does not.
const CONFIG_VARIABLE: &str = "AGENTGUARD_CONFIG";

impl Global {
    /// Takes the configuration's name from the environment, where the command line has none.
    fn or_variable(&mut self) -> Result<(), Failure> {
        if self.config.is_some() {
            return Ok(());
        }
        match std::env::var_os(CONFIG_VARIABLE) {
            Some(name) if name.is_empty() => {
                Err(Failure::usage(format!("{CONFIG_VARIABLE} is empty"))
                    .hint("name a file in it, or unset it for the default"))
            }
            name => {
                self.config = name.map(PathBuf::from);
                Ok(())
            }
        }
    }

    /// What the configuration says; the defaults where nobody named a file and there is none.
    fn declared(&self) -> Result<Declared, ConfigError> {
        Declared::read_or_default(self.config.as_deref())
    }

    /// The configuration that a daemon runs on. The file must be there.
    fn config(&self) -> Result<Config, Failure> {
        let file = self
            .config
            .as_deref()
            .unwrap_or(Path::new(crate::config::DEFAULT_FILE));
        Ok(Declared::read(file)?.resolve(&Host::default())?)
    }

    /// Asks the daemon something, on a runtime that lives as long as the question.
    fn ask<T>(
        &self,
        question: impl AsyncFnOnce(Client) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let socket = self.declared()?.paths.control_socket();
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::refused(format!("cannot start the runtime: {error}")))?
            .block_on(async {
                match Client::connect(&socket).await {
                    Ok(client) => question(client).await,
                    Err(error) => Err(self.unreached(error)),
                }
            })
    }

    /// The failure to reach the daemon, with what to do in this configuration.
    fn unreached(&self, error: ClientError) -> Failure {
        let absent = matches!(error, ClientError::NoDaemon { .. });
        let failure = Failure::from(error);
        if absent {
            failure.hint(self.how_to_start())
        } else {
            failure
        }
    }

    /// How to start the daemon that this command line means.
    fn how_to_start(&self) -> String {
        agentguard_control::how_to_start(self.config.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::Arguments;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_consistent() {
        Arguments::command().debug_assert();
    }
}

//! `agentguard run`: a thin client. The keeper spawns; this process stands in its place in the
//! user's job.
//!
//! It sends what a child would have inherited (`request`), then stays (`session`): it relays the
//! terminal and signals, stops when the command stops, and ends as the command ended, so that a
//! shell, a pipeline and a supervisor see no difference. The user's own terminal never reaches the
//! command (`terminal`): it gets one that the keeper made.
//!
//! **Invariant:** however this process ends, short of SIGKILL, the user's terminal is as it was.

mod request;
mod session;
mod terminal;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use agentguard_keeper::message::Command;
use agentguard_keeper::packet;
use agentguard_keeper::spawn::message::ToClient;
use agentguard_keeper::spawn::signals::Signals;
use agentguard_model::AgentName;
use anyhow::Context as _;

/// Run a command as an agent.
///
/// Exit code: the command's own; 127 or 126 if it is not found or cannot be run; 1 if the daemon is
/// missing or refuses. A command that a signal ended ends this process by the same signal.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The agent that the command runs as
    #[arg(long, value_name = "NAME")]
    agent: AgentName,
    /// The unix user it runs as [default: yours]; only root may choose another
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// The workflow it is a part of, for rules and the record
    #[arg(long, value_name = "WORKFLOW")]
    workflow: Option<String>,
    /// The session it belongs to, for rules and the record; its share of a rollout goes by it [default: each
    /// run is one]
    #[arg(long, value_name = "SESSION")]
    session: Option<String>,
    /// What it is for, for rules and the record
    #[arg(long, value_name = "PURPOSE")]
    purpose: Option<String>,
    /// A label for rules and the record; may be repeated, once for each key
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Give it a network namespace of its own, with no way out but the guard
    #[arg(long)]
    isolate: bool,
    /// The command and its arguments, after `--`
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` has no `=`"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Runs the command and gives its exit code. What the user must know of a refusal is printed here;
/// `how_to_start` is what to do where there is no daemon.
///
/// # Errors
/// What is not the user's affair: a system call that should not fail.
pub(crate) fn main(
    args: RunArgs,
    keeper_socket: &Path,
    how_to_start: &str,
) -> anyhow::Result<ExitCode> {
    let mut keys = BTreeSet::new();
    if let Some((key, _)) = args.labels.iter().find(|(key, _)| !keys.insert(key)) {
        let message = format!("the label `{key}` is given twice");
        fail(&message, Some("give each label once"));
        return Ok(ExitCode::from(2));
    }
    let connection = match packet::connect(keeper_socket) {
        Ok(connection) => connection,
        Err(error) => return Ok(no_daemon(keeper_socket, &error, how_to_start)),
    };
    let program = args.command.first().cloned().unwrap_or_default();
    let mut request = request::gather(args)?;
    if !request.removed.is_empty() {
        eprintln!(
            "agentguard: removed {} from the environment: traffic is governed without a proxy",
            request.removed.join(", ")
        );
    }
    let terminal = request.terminal.take();
    // Before the command exists: what is meant for it must not end us.
    let mut signals = Signals::receive().context("cannot receive signals")?;
    connection
        .send(
            &Command::Run(Box::new(request.request)),
            &request::borrow(&request.fds),
        )
        .context("cannot ask the daemon")?;
    // Pipes end when the command closes them, not when we do.
    drop(request.fds);
    let early = session::wait_for_answer(&connection, &mut signals)?;
    let (answer, fds) = connection
        .recv::<ToClient>()
        .context("cannot understand the daemon")?
        .context("the daemon closed the connection without an answer")?;
    match answer {
        ToClient::Started { kept } => {
            if !kept.is_empty() {
                eprintln!(
                    "agentguard: left {} as set: connections are inspected, so what is named there must hold the guard's certificate authority (see `agentguard ca export`)",
                    kept.join(", ")
                );
            }
            session::attend(connection, fds, terminal, signals, &early, &program)
        }
        ToClient::Refused(refusal) => Ok(fail(&refusal.message, refusal.hint.as_deref())),
        _ => anyhow::bail!("the daemon gave an answer out of turn"),
    }
}

/// Prints what went wrong and what to do.
fn fail(message: &str, hint: Option<&str>) -> ExitCode {
    eprintln!("error: {message}");
    if let Some(hint) = hint {
        eprintln!("hint: {hint}");
    }
    ExitCode::FAILURE
}

fn no_daemon(path: &Path, error: &io::Error, how_to_start: &str) -> ExitCode {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            fail(&format!("no daemon at {path}"), Some(how_to_start))
        }
        io::ErrorKind::PermissionDenied => fail(
            &format!("you may not use the daemon at {path}"),
            Some(
                "root may run agents, and members of agentguard-run those whose `users` list them; whoever became one has to log in anew",
            ),
        ),
        _ => fail(
            &format!("cannot reach the daemon at {path}: {}", text(error)),
            None,
        ),
    }
}

/// An error of the system in words alone.
fn text(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

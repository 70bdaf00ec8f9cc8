//! `agentguard mcp wrap`: stands between an agent and a server of tools that it starts, and relays messages of the
//! Model Context Protocol between its own standard input and output and those of the server. Each is asked about
//! before it goes on (`relay`); lines are read with a bound (`lines`); what is said where nobody decides is in
//! `refusal`.
//!
//! It runs as the agent, and is believed nothing: who asks is what the kernel says of this process. An agent that
//! starts the server without it is not stopped by it.
//!
//! **Invariant:** no message goes on that the daemon did not allow, also where there is no daemon.

#[cfg(test)]
mod fuzz;
mod lines;
mod refusal;
mod relay;

use std::ffi::OsString;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitCode, ExitStatus, Stdio};

use tokio::process::Child;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::failure::Failure;

/// What is done for servers of tools that agents start.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Start a server of the Model Context Protocol, and have each message decided on its way
    ///
    /// For the configuration of an agent's host, in the place of the server's own command line: messages go between
    /// standard input and output as without it, and what is denied is answered in the server's place. Exit code: the
    /// server's own; 128 and the signal that ended it; 127 or 126 if it is not found or cannot be run.
    Wrap(WrapArgs),
}

/// Which server, and how it is started.
#[derive(Debug, clap::Args)]
pub(crate) struct WrapArgs {
    /// The server as the policy calls it, with `api: mcp_stdio` [default: the file name of the command]
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// The command that is the server, and its arguments, after `--`
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// Signals that go on to the server.
const RELAYED: [SignalKind; 6] = [
    SignalKind::hangup(),
    SignalKind::interrupt(),
    SignalKind::quit(),
    SignalKind::terminate(),
    SignalKind::user_defined1(),
    SignalKind::user_defined2(),
];

/// Relays until the server has ended, and gives its exit code. `socket`: where agents ask.
///
/// # Errors
/// The server's name is none, or it cannot be started.
pub(crate) fn main(args: &WrapArgs, socket: &Path) -> Result<ExitCode, Failure> {
    let server = name(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::refused(format!("cannot start the runtime: {error}")))?;
    let code = runtime.block_on(wrap(&args.command, &server, socket));
    // A read of standard input may be under way, on a thread of its own, for as long as nobody writes.
    runtime.shutdown_background();
    code
}

/// The server's name.
fn name(args: &WrapArgs) -> Result<String, Failure> {
    let file = || {
        Some(
            Path::new(args.command.first()?)
                .file_name()?
                .to_str()?
                .to_owned(),
        )
    };
    let name = args.server.clone().or_else(file).unwrap_or_default();
    let fits =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    let is_name =
        (1..=agentguard_local::api::MAX_NAME).contains(&name.len()) && name.bytes().all(fits);
    if !is_name {
        let message = format!(
            "`{}` is not a name of a server of tools",
            name.escape_debug()
        );
        let hint = "say --server with the name that `tool_servers` has in the policy: 1 to 63 characters a-z 0-9 . _ -";
        return Err(Failure::usage(message).hint(hint));
    }
    Ok(name)
}

async fn wrap(command: &[OsString], server: &str, socket: &Path) -> Result<ExitCode, Failure> {
    // Before the server is there, so that none is lost.
    let signals = RELAYED
        .map(signal)
        .into_iter()
        .collect::<Result<Vec<Signal>, _>>();
    let mut signals =
        signals.map_err(|error| Failure::refused(format!("cannot wait for signals: {error}")))?;
    let mut child = start(command)?;
    let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Failure::refused(
            "the server has no standard input or output",
        ));
    };
    let mut relay = tokio::spawn(relay::relay(
        agentguard_local::Client::new(socket, server),
        (own(std::io::stdin().as_fd())?, input),
        (output, own(std::io::stdout().as_fd())?),
    ));
    let mut relayed = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            number = received(&mut signals) => pass_on(&child, number),
            stopped = &mut relay, if !relayed => {
                relayed = true;
                if let Ok(Err(why)) = stopped {
                    crate::cli::output::say(&format!("error: {why}"));
                    // What it says is not passed on any more. It may have ended by itself.
                    let _ = child.start_kill();
                }
            }
        }
    };
    if !relayed {
        // The last words of a server that has ended are in the pipe, and whoever it left behind may hold that.
        let _ = tokio::time::timeout(relay::LAST_WORDS, &mut relay).await;
        relay.abort();
    }
    let status =
        status.map_err(|error| Failure::refused(format!("cannot wait for the server: {error}")))?;
    Ok(code(status))
}

/// A stream of our own, to be read or written beside others.
fn own(stream: BorrowedFd<'_>) -> Result<tokio::fs::File, Failure> {
    let stream = stream.try_clone_to_owned();
    let stream = stream.map_err(|error| {
        Failure::refused(format!("cannot use standard input or output: {error}"))
    })?;
    Ok(tokio::fs::File::from_std(stream.into()))
}

fn start(command: &[OsString]) -> Result<Child, Failure> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| Failure::usage("no command"))?;
    let started = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    started.map_err(|error| Failure::Said {
        text: format!("error: cannot run {}: {error}", program.display()),
        code: match error.kind() {
            std::io::ErrorKind::NotFound => 127,
            _ => 126,
        },
    })
}

/// The next signal of those that are relayed.
async fn received(signals: &mut [Signal]) -> i32 {
    std::future::poll_fn(|cx| {
        for (signal, kind) in signals.iter_mut().zip(RELAYED) {
            if signal.poll_recv(cx).is_ready() {
                return std::task::Poll::Ready(kind.as_raw_value());
            }
        }
        std::task::Poll::Pending
    })
    .await
}

/// Passes a signal on to the server, which is not waited for yet, so that its number is its own.
fn pass_on(child: &Child, number: i32) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    let pid = pid.and_then(rustix::process::Pid::from_raw);
    if let (Some(pid), Some(signal)) = (pid, rustix::process::Signal::from_named_raw(number)) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn code(status: ExitStatus) -> ExitCode {
    let signal = status.signal().map(|signal| signal.saturating_add(128));
    let code = status.code().or(signal);
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

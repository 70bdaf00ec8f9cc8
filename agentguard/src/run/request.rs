//! What is sent to the keeper: everything that a child of this process would have inherited.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentguard_keeper::spawn::message::{RunContext, RunRequest};
use agentguard_keeper::spawn::{signals, strings};
use anyhow::Context as _;
use rustix::fs::{Mode, OFlags};

use super::RunArgs;
use super::terminal::Terminal;

/// A request, ready to be sent.
pub(super) struct Gathered {
    /// The message.
    pub(super) request: RunRequest,
    /// Its descriptors.
    pub(super) fds: Vec<OwnedFd>,
    /// The names of the variables that were left out.
    pub(super) removed: Vec<String>,
    /// The user's terminal, if the command needs one.
    pub(super) terminal: Option<Terminal>,
}

/// Reads this process's inheritance.
pub(super) fn gather(args: RunArgs) -> anyhow::Result<Gathered> {
    let (environment, removed) = without_proxies(std::env::vars_os());
    let terminal = Terminal::find().context("cannot read the terminal")?;
    let slots = terminal.as_ref().map_or([false; 3], Terminal::slots);
    let mut fds = Vec::new();
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for (fd, is_terminal) in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]
        .into_iter()
        .zip(slots)
    {
        if !is_terminal {
            fds.push(fd.try_clone_to_owned()?);
        }
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fds.push(
        rustix::fs::open(".", flags, Mode::empty()).context("cannot open the current directory")?,
    );
    let arguments = u32::try_from(args.command.len())?;
    let variables = u32::try_from(environment.len())?;
    fds.push(strings::seal(args.command.into_iter().chain(environment))?);
    let request = RunRequest {
        agent: args.agent,
        user: args.user,
        context: RunContext {
            session: args.session,
            workflow: args.workflow,
            purpose: args.purpose,
            ..RunContext::default()
        },
        labels: args.labels.into_iter().collect(),
        isolate: args.isolate,
        arguments,
        variables,
        umask: umask(),
        ignored: signals::ignored()?,
        terminal: terminal.as_ref().map(Terminal::wanted).transpose()?,
    };
    Ok(Gathered {
        request,
        fds,
        removed,
        terminal,
    })
}

/// For [`agentguard_keeper::packet::Packet::send`].
pub(super) fn borrow(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}

/// It can only be read by setting it; no other thread makes files meanwhile.
fn umask() -> u32 {
    let mask = rustix::process::umask(Mode::empty());
    rustix::process::umask(mask);
    mask.bits()
}

/// `NAME=value` of all variables but those that name a proxy, and the names of these.
fn without_proxies(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> (Vec<OsString>, Vec<String>) {
    let mut kept = Vec::new();
    let mut removed = Vec::new();
    for (mut name, value) in variables {
        let text = name.to_string_lossy();
        if text.ends_with("_proxy") || text.ends_with("_PROXY") {
            removed.push(text.escape_debug().to_string());
        } else {
            name.push("=");
            name.push(value);
            kept.push(name);
        }
    }
    removed.sort();
    (kept, removed)
}

#[cfg(test)]
mod tests {
    use super::without_proxies;

    #[test]
    fn only_variables_that_name_a_proxy_are_removed() {
        let variables = [
            ("PATH", "/bin"),
            ("https_proxy", "http://a"),
            ("HTTP_PROXY", "b"),
            ("no_proxy", ""),
            ("proxy", "c"),
            ("PROXY_SETTINGS", "d"),
        ];
        let (kept, removed) = without_proxies(
            variables
                .map(|(name, value)| (name.into(), value.into()))
                .into_iter(),
        );
        assert_eq!(kept, ["PATH=/bin", "proxy=c", "PROXY_SETTINGS=d"]);
        assert_eq!(removed, ["HTTP_PROXY", "https_proxy", "no_proxy"]);
    }
}

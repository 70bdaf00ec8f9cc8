//! What the client of `run` and the keeper say to each other, after the client connected to the
//! keeper's socket. Everything from the client is hostile until [`super::plan`] has read it.

use std::fmt;

use agentguard_model::{AgentName, Labels};
use serde::{Deserialize, Serialize};

use super::terminal::{Modes, Size};

/// Run this command as an agent.
///
/// Descriptors beside it, in this order: those of 0, 1 and 2 that `terminal` does not replace; the
/// current directory; the sealed strings ([`super::strings`]). All else that a child inherits
/// (limits, niceness, groups) the keeper reads from the peer's process, so that no message can
/// claim more than the peer has.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RunRequest {
    /// The agent.
    pub agent: AgentName,
    /// The unix user to run as, a name or a number; only root may choose another than itself.
    pub user: Option<String>,
    /// Who is behind the run, as far as the caller says.
    pub context: RunContext,
    /// Labels of this run.
    pub labels: Labels,
    /// Run in a network namespace of its own that has no way out but the guard.
    pub isolate: bool,
    /// How many of the sealed strings are arguments, the program's name first.
    pub arguments: u32,
    /// How many of the sealed strings are environment variables; they follow the arguments.
    pub variables: u32,
    /// The caller's umask.
    pub umask: u32,
    /// The signals that the caller ignores, bit `n - 1` for signal `n`, so that `nohup` works.
    pub ignored: u64,
    /// Present if the command needs a terminal.
    pub terminal: Option<Terminal>,
}

/// Who is behind a run.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct RunContext {
    /// The person the agent works for.
    pub user: Option<String>,
    /// The session.
    pub session: Option<String>,
    /// The workflow.
    pub workflow: Option<String>,
    /// The purpose.
    pub purpose: Option<String>,
    /// W3C trace id, 32 hexadecimal digits.
    pub trace_id: Option<String>,
}

/// The terminal that the keeper makes for the command.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Terminal {
    /// Which of the descriptors 0, 1 and 2 it stands for.
    pub slots: [bool; 3],
    /// Whether the command begins in its foreground. If not, the first read of the terminal stops
    /// it with `SIGTTIN`, and the client then decides.
    pub foreground: bool,
    /// Its size.
    pub size: Size,
    /// Its modes.
    pub modes: Modes,
}

/// What a client says while its command runs. No descriptors.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum FromClient {
    /// Send this signal, one of [`RELAYED`], to the command's process group.
    Signal(i32),
    /// Continue the command, in the foreground of its terminal or in the background.
    Resume {
        /// Whether it may read the terminal.
        foreground: bool,
    },
}

/// The signals that a client relays: those with which people and supervisors steer a job.
pub const RELAYED: [i32; 9] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGTSTP,
    libc::SIGCONT,
    libc::SIGWINCH,
];

/// What the keeper answers: `Refused`, or `Started` and then the others in the order of events.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum ToClient {
    /// Nothing was run. The connection ends.
    Refused(Refusal),
    /// The command is being executed. Descriptors: a pidfd of its monitor, which ends with it, and,
    /// if a terminal was asked for, its master.
    Started {
        /// Variables that would say what the command trusts, and that the caller has set otherwise.
        kept: Vec<String>,
    },
    /// The command could not be executed; `Exited` follows.
    Failed {
        /// The step that failed.
        stage: Stage,
        /// The system's error number.
        errno: i32,
    },
    /// The command was stopped by this signal.
    Stopped(i32),
    /// The command is over.
    Exited(Ending),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Ending {
    /// By itself, with this code.
    Code(u8),
    /// By this signal.
    Signal(i32),
    /// Its monitor was killed, and the rest of the run after it.
    Lost,
}

/// The keeper does not run a command.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What happened and why, without a full stop.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Refusal {
    /// A refusal without a hint.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }
}

/// The steps between the new process and the command, in their order.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[repr(i32)]
#[allow(missing_docs, reason = "the texts below say it")]
pub enum Stage {
    Session = 1,
    Inherit,
    Network,
    Mounts,
    Credentials,
    Descriptors,
    Limits,
    Directory,
    Fork,
    Landlock,
    Seccomp,
    Execute,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Session,
        Self::Inherit,
        Self::Network,
        Self::Mounts,
        Self::Credentials,
        Self::Descriptors,
        Self::Limits,
        Self::Directory,
        Self::Fork,
        Self::Landlock,
        Self::Seccomp,
        Self::Execute,
    ];

    pub(super) fn from_number(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| *stage as i32 == number)
    }
}

/// What could not be done, to follow the word "cannot".
impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Session => "begin a session",
            Self::Inherit => "take over the caller's priority",
            Self::Network => "enter the network namespace",
            Self::Mounts => "prepare the mounts",
            Self::Credentials => "give up privileges",
            Self::Descriptors => "arrange the descriptors",
            Self::Limits => "set the resource limits",
            Self::Directory => "enter the current directory",
            Self::Fork => "create a process",
            Self::Landlock => "hold the command to its own processes",
            Self::Seccomp => "install the system call filter",
            Self::Execute => "run the command",
        })
    }
}

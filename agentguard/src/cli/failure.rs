//! How a command ends when it does not end well.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use agentguard_control::ClientError;
use agentguard_policy::Diagnostics;

use crate::config::ConfigError;
use crate::config::exposed::Exposed;

/// What the operator is told, and the exit code. It is printed once, in `main`.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was asked for makes no sense, or a file that it rests on is wrong. Exit code 2.
    Usage(Told),
    /// It was refused, or it failed. Exit code 1.
    Refused(Told),
    /// Text that stands for itself, and its exit code.
    Said { text: String, code: u8 },
    /// The reader of standard output went away: nothing is wrong. Exit code 0.
    Enough,
}

/// Words without a full stop, and what to do.
#[derive(Debug)]
pub(crate) struct Told {
    message: String,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(Told::new(message.into()))
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::Refused(Told::new(message.into()))
    }

    /// The same with what to do about it.
    pub(crate) fn hint(mut self, text: impl Into<String>) -> Self {
        if let Self::Usage(told) | Self::Refused(told) = &mut self {
            told.hint = Some(text.into());
        }
        self
    }

    /// What goes to standard error: `error: …`, then `hint: …`.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Usage(told) | Self::Refused(told) => {
                let mut out = format!("error: {}\n", told.message);
                if let Some(hint) = &told.hint {
                    let _ = writeln!(out, "hint: {hint}");
                }
                out
            }
            Self::Said { text, .. } => format!("{text}\n"),
            Self::Enough => String::new(),
        }
    }

    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Refused(_) => ExitCode::from(1),
            Self::Said { code, .. } => ExitCode::from(*code),
            Self::Enough => ExitCode::SUCCESS,
        }
    }
}

impl Told {
    fn new(message: String) -> Self {
        Self {
            message,
            hint: None,
        }
    }
}

/// Standard output failed.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::Enough
        } else {
            Self::refused(format!("cannot write the answer: {}", chain(&error)))
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let failure = Self::refused(chain(&error));
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::of_file(&error, false)
    }
}

impl Failure {
    /// What is wrong with a file. `named`: as for [`ConfigError::hint`].
    pub(crate) fn of_file(error: &ConfigError, named: bool) -> Self {
        match error {
            // Each fault has its own place, severity and hint.
            ConfigError::Wrong(faults) => Self::Said {
                text: faults.to_string(),
                code: 2,
            },
            ConfigError::Unreadable { .. } => {
                let failure = Self::usage(chain(error));
                match error.hint(named) {
                    Some(hint) => failure.hint(hint),
                    None => failure,
                }
            }
        }
    }
}

/// The daemon or a run ended in an error.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let error = match error.downcast::<ConfigError>() {
            Ok(error) => return error.into(),
            Err(error) => error,
        };
        let error = match error.downcast::<Exposed>() {
            Ok(exposed) => return Self::usage(exposed.sentence()).hint(exposed.hint()),
            Err(error) => error,
        };
        match error.downcast::<Diagnostics>() {
            Ok(faults) => Self::Said {
                text: faults.to_string(),
                code: 2,
            },
            Err(error) => {
                // Each error of the chain may end in what to do about it.
                let mut words = Vec::new();
                let mut hint = None;
                for cause in error.chain() {
                    let text = in_words(cause);
                    match text.split_once("; hint: ") {
                        Some((what, todo)) => {
                            words.push(what.to_owned());
                            hint.get_or_insert(todo.to_owned());
                        }
                        None => words.push(text),
                    }
                }
                let failure = Self::refused(words.join(": "));
                match hint {
                    Some(hint) => failure.hint(hint),
                    None => failure,
                }
            }
        }
    }
}

/// An error with its causes, outermost first, on one line and without the system's numbers.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut out = in_words(error);
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(out, ": {}", in_words(cause));
        source = cause.source();
    }
    out
}

fn in_words(error: &dyn Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::{Failure, chain};
    use crate::config::text::Written;

    #[test]
    fn causes_are_told_once_and_in_words() {
        let error = crate::config::ConfigError::Unreadable {
            what: Written::Configuration,
            path: "x".into(),
            source: std::io::Error::from_raw_os_error(2),
        };
        assert_eq!(
            chain(&error),
            "cannot read the configuration x: No such file or directory"
        );
    }

    #[test]
    fn a_hint_is_told_apart_from_the_causes_behind_it() {
        let error = anyhow::anyhow!("no such device").context("no bpffs; hint: mount one");
        assert_eq!(
            Failure::from(error).text(),
            "error: no bpffs: no such device\nhint: mount one\n"
        );
    }

    #[test]
    fn a_failure_says_what_and_what_to_do() {
        let failure = Failure::refused("it is closed").hint("open it");
        assert_eq!(failure.text(), "error: it is closed\nhint: open it\n");
    }
}

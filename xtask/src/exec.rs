//! Running other programs, with errors that say which.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs it with our standard streams.
///
/// # Errors
/// It cannot be started, or does not end with 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = line(command);
    let status = command
        .status()
        .with_context(|| format!("cannot run `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// What it prints on standard output, or `None` where it cannot be started or does not end with 0.
pub(crate) fn ask<S: AsRef<OsStr>>(program: S, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .env_remove("LD_LIBRARY_PATH")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as a person would type it: variables that it sets, program, arguments.
pub(crate) fn line(command: &Command) -> String {
    let mut words: Vec<String> = command
        .get_envs()
        .filter_map(|(name, value)| {
            Some(format!(
                "{}={}",
                name.to_string_lossy(),
                quote(&value?.to_string_lossy())
            ))
        })
        .collect();
    words.push(command.get_program().to_string_lossy().into_owned());
    words.extend(
        command
            .get_args()
            .map(|word| quote(&word.to_string_lossy())),
    );
    words.join(" ")
}

/// A word as a shell reads it.
pub(crate) fn quote(word: &str) -> String {
    if word.is_empty() || word.contains([' ', '\'', '"', '$', '*']) {
        format!("'{}'", word.replace('\'', r"'\''"))
    } else {
        word.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_is_shown_as_one_would_type_it() {
        let mut command = Command::new("false");
        command.env("FLAGS", "-C a").args(["--test", "*"]);
        let error = run(&mut command).unwrap_err().to_string();
        assert_eq!(
            error,
            "`FLAGS='-C a' false --test '*'` failed: exit status: 1"
        );
    }

    #[test]
    fn a_program_that_is_not_there_gives_no_answer() {
        assert_eq!(ask("agentguard-no-such-program", &[]), None);
        assert_eq!(ask("false", &[]), None);
        assert_eq!(ask("echo", &["yes"]).as_deref(), Some("yes\n"));
    }
}

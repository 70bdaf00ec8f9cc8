//! `agentguard policy check`

use std::path::Path;

use agentguard_policy::{Diagnostic, Severity};
use serde::Serialize;

use super::lines;
use crate::accounts;
use crate::cli::failure::{Failure, chain};
use crate::cli::output::{Output, counted, say};
use crate::config::{ConfigError, exposed, sources};

/// What a good policy amounts to.
#[derive(Serialize)]
struct Checked {
    version: String,
    files: Vec<String>,
    agents: usize,
    rules: usize,
    warnings: Vec<String>,
}

/// What is wrong with one that cannot be used.
#[derive(Serialize)]
struct Unusable<'a> {
    faults: Vec<Fault<'a>>,
}

/// One thing that is wrong. Lines and columns are from 1; 0 where the file as a whole is meant.
#[derive(Serialize)]
struct Fault<'a> {
    severity: String,
    path: &'a str,
    line: u32,
    column: u32,
    message: &'a str,
    hint: &'a str,
}

impl<'a> From<&'a Diagnostic> for Fault<'a> {
    fn from(told: &'a Diagnostic) -> Self {
        Self {
            severity: told.severity.to_string(),
            path: &told.path,
            line: told.line,
            column: told.column,
            message: &told.message,
            hint: &told.hint,
        }
    }
}

/// Errors are usage errors: the file is an argument, and it is wrong.
pub(super) fn check(file: &Path, out: &mut Output) -> Result<(), Failure> {
    let shown = file.display().to_string();
    let sources = sources::read(file, |_| Ok(())).map_err(|error| match error {
        // The file is named on the command line, not in the configuration.
        ConfigError::Unreadable { .. } => {
            Failure::usage(chain(&error)).hint("docs/policy.md has an example")
        }
        ConfigError::Wrong(_) => error.into(),
    })?;
    let policy = match sources.compile() {
        Ok(policy) => policy,
        Err(diagnostics) => {
            say(&lines(&diagnostics.to_string()));
            if !out.is_table() {
                let faults = diagnostics.iter().map(Fault::from).collect();
                out.value(&Unusable { faults }, String::new)?;
            }
            let summary = diagnostics.summary();
            return Err(Failure::usage(format!("{shown} cannot be used: {summary}")));
        }
    };
    // It may be meant for another host: what is wrong with it on this one is no fault of its own.
    let mut warnings: Vec<String> = policy.warnings().iter().map(ToString::to_string).collect();
    if let Err(unknown) = accounts::users(&policy) {
        warnings.extend(unknown.iter().map(|it| {
            let severity = Severity::Warning;
            Diagnostic {
                severity,
                ..it.clone()
            }
            .to_string()
        }));
    }
    // A person may check a file of their own.
    let owner = rustix::process::geteuid().as_raw();
    for document in sources.documents() {
        let path = &document.path;
        // The file itself by the name that the system knows; those that it includes are text in it.
        let at = if *path == shown {
            file
        } else {
            Path::new(path)
        };
        if let Err(exposed) = exposed::file("policy", at, owner) {
            warnings.push(format!(
                "{path}: warning: {}\n  hint: {}",
                exposed.sentence(),
                exposed.hint()
            ));
        }
    }
    for warning in &warnings {
        say(&lines(warning));
    }
    let checked = Checked {
        version: policy.version().to_owned(),
        files: sources
            .documents()
            .iter()
            .map(|document| document.path.clone())
            .collect(),
        agents: policy.agents().len(),
        rules: policy.rules().len(),
        warnings,
    };
    Ok(out.value(&checked, || {
        format!(
            "{shown} is good: version {}, {}, {}",
            checked.version,
            counted(checked.agents, "agent"),
            counted(checked.rules, "rule")
        )
    })?)
}

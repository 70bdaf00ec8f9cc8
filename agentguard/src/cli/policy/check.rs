//! `agentguard policy check`

use std::path::Path;

use agentguard_policy::{Diagnostic, Severity};
use serde::Serialize;

use super::lines;
use crate::accounts;
use crate::cli::failure::Failure;
use crate::cli::output::{Output, counted, say};
use crate::config::{exposed, sources};

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

/// One thing that is wrong.
#[derive(Serialize)]
struct Fault<'a> {
    severity: String,
    path: &'a str,
    /// From 1, as the column. Absent where the file as a whole is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<u32>,
    message: &'a str,
    hint: &'a str,
}

impl<'a> From<&'a Diagnostic> for Fault<'a> {
    fn from(told: &'a Diagnostic) -> Self {
        Self {
            severity: told.severity.to_string(),
            path: &told.path,
            line: (told.line > 0).then_some(told.line),
            column: (told.line > 0).then_some(told.column),
            message: &told.message,
            hint: &told.hint,
        }
    }
}

/// Says as data what is wrong, where data was asked for.
fn faults<'a>(
    found: impl IntoIterator<Item = &'a Diagnostic>,
    out: &mut Output,
) -> Result<(), Failure> {
    if out.is_table() {
        return Ok(());
    }
    let faults = found.into_iter().map(Fault::from).collect();
    Ok(out.value(&Unusable { faults }, String::new)?)
}

/// Errors are usage errors: the file is an argument, and it is wrong.
pub(super) fn check(file: &Path, out: &mut Output) -> Result<(), Failure> {
    let shown = file.display().to_string();
    let sources = match sources::read(file, |_| Ok(())) {
        Ok(sources) => sources,
        Err(error) => {
            faults(&error.faults(true), out)?;
            return Err(Failure::of_file(&error, true));
        }
    };
    let policy = match sources.compile() {
        Ok(policy) => policy,
        Err(diagnostics) => {
            say(&lines(&diagnostics.to_string()));
            faults(&diagnostics, out)?;
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

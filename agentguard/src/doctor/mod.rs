//! What this host has of what the guard needs, told without a daemon.
//!
//! [`facts::gather`] asks the system; [`checks::all`] judges what it was told, and is a pure
//! function, so that every host can be tested on one. Each check says what its result means for
//! those who rely on the guard, and how to get what is not there.
//!
//! **Invariant:** nothing on the host is changed by looking at it. The kernel's features are probed
//! with programs and maps that are gone with their descriptor.

mod checks;
mod facts;

use serde::Serialize;

use crate::cli::failure::Failure;
use crate::cli::output::{Output, Table, printable};
use crate::config::{ConfigError, Declared};

/// One thing that was looked at.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Check {
    /// A stable word for it.
    pub(crate) name: &'static str,
    /// How it is.
    pub(crate) level: Level,
    /// What was found.
    pub(crate) found: String,
    /// What that means, where it is not as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) meaning: Option<String>,
    /// How to get it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// The guard works, with less.
    Degraded,
    /// The guard does not start.
    Missing,
}

/// Looks at everything and says it. Fails if something that is needed is missing.
pub(crate) fn main(config: Result<Declared, ConfigError>, out: &mut Output) -> Result<(), Failure> {
    let checks = checks::all(&facts::gather(config));
    out.list(&checks, || table(&checks))?;
    if out.is_table() {
        out.text(&explanations(&checks))?;
    }
    let missing = checks.iter().filter(|c| c.level == Level::Missing).count();
    match missing {
        0 => Ok(()),
        1 => Err(Failure::refused("1 thing that the guard needs is missing")),
        n => Err(Failure::refused(format!(
            "{n} things that the guard needs are missing"
        ))),
    }
}

fn table(checks: &[Check]) -> Table {
    let mut table = Table::new(&["CHECK", "LEVEL", "FOUND"], 2);
    for check in checks {
        table.row(&[
            check.name.to_owned(),
            check.level.word().to_owned(),
            check.found.clone(),
        ]);
    }
    table
}

/// What the levels other than ok mean, below the table, where there is room for sentences.
fn explanations(checks: &[Check]) -> String {
    let mut out = String::new();
    for check in checks.iter().filter(|check| check.level != Level::Ok) {
        out.push_str(&format!("\n{} is {}", check.name, check.level.word()));
        if let Some(meaning) = &check.meaning {
            out.push_str(&format!(": {}", printable(meaning)));
        }
        out.push('\n');
        if let Some(hint) = &check.hint {
            for (index, line) in hint.lines().enumerate() {
                let lead = if index == 0 { "hint:" } else { "     " };
                out.push_str(&format!("  {lead} {}\n", printable(line)));
            }
        }
    }
    out
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Missing => "missing",
        }
    }
}

#[cfg(test)]
mod tests;

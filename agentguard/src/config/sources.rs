//! The files of a policy: the one that the configuration names, and what documents include.

use std::path::Path;

use agentguard_policy::{Document, Policy, Sources, Unreadable};

use super::exposed::Exposed;
use super::text::{self, Written};
use super::{ConfigError, Faults};
use crate::cli::failure::chain;

/// Reads a policy and all that it includes. `look` is asked about each included file before it is read.
///
/// # Errors
/// The file itself cannot be read. What is wrong with included ones is told when the policy is
/// compiled, where they are included.
pub(crate) fn read(
    path: &Path,
    mut look: impl FnMut(&Path) -> Result<(), Exposed>,
) -> Result<Sources, ConfigError> {
    let first = Document {
        path: path.display().to_string(),
        text: text::read(Written::Policy, path)?,
    };
    Ok(Sources::read(first, |path| {
        look(path).map_err(|exposed| Unreadable {
            why: exposed.sentence(),
            hint: exposed.hint(),
        })?;
        text::read(Written::Policy, path).map_err(unreadable)
    }))
}

/// The policy of these files, the first of which includes the others, if it can be read and is still of this version.
pub(crate) fn of_version(files: &[String], version: &str) -> Option<Policy> {
    let sources = read(Path::new(files.first()?), |_| Ok(())).ok()?;
    let policy = sources.compile().ok()?;
    (policy.version() == version).then_some(policy)
}

/// In the words of a message that names the file already.
pub(crate) fn unreadable(error: ConfigError) -> Unreadable {
    match error {
        ConfigError::Unreadable { source, .. } => Unreadable {
            why: chain(&source),
            hint: "a relative path counts from the directory of this document".to_owned(),
        },
        ConfigError::Wrong(Faults(faults)) => {
            let first = faults.into_iter().next();
            let (why, hint) = first.map_or_else(
                || ("it is no text".to_owned(), "name a YAML file".to_owned()),
                |it| {
                    let why = format!("line {}, column {}: {}", it.line, it.column, it.message);
                    (why, it.hint)
                },
            );
            Unreadable { why, hint }
        }
    }
}

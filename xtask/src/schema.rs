//! The published JSON Schemas: written from the types, so that they cannot say something else.

use std::fs;

use agentguard_model::Decision;
use anyhow::{Context as _, Result, bail};
use schemars::schema_for;
use serde_json::Value;

use crate::workspace::Workspace;

/// The NAME in `docs/schema/NAME.schema.json`, and what makes the schema of its type.
type Entry = (&'static str, fn() -> Value);

/// One line for each published schema.
const SCHEMAS: &[Entry] = &[
    ("decision", || schema_for!(Decision).into()),
    ("policy", agentguard_policy::schema),
];

/// Writes each schema where it changed, or with `check` only compares.
///
/// # Errors
/// A file cannot be read or written; with `check`, a committed one is not what its type says.
pub(crate) fn run(workspace: &Workspace, check: bool) -> Result<()> {
    let directory = workspace.root().join("docs/schema");
    let mut stale = Vec::new();
    for (name, schema) in SCHEMAS {
        let path = directory.join(format!("{name}.schema.json"));
        let mut text = serde_json::to_string_pretty(&schema())?;
        text.push('\n');
        if fs::read_to_string(&path).is_ok_and(|committed| committed == text) {
            eprintln!("schema: {name} is up to date");
        } else if check {
            stale.push(format!("docs/schema/{name}.schema.json"));
        } else {
            fs::create_dir_all(&directory)
                .and_then(|()| fs::write(&path, text))
                .with_context(|| format!("cannot write {}", path.display()))?;
            eprintln!("schema: wrote docs/schema/{name}.schema.json");
        }
    }
    if !stale.is_empty() {
        bail!(
            "not what the types say: {}\nhint: run `cargo xtask schema` and commit the result",
            stale.join(", ")
        );
    }
    Ok(())
}

//! The published JSON Schemas: written by the program from its own types, so that they cannot say
//! something else.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::workspace::Workspace;
use crate::{bpf, build};

/// The NAME in `docs/schema/NAME.schema.json`, as `agentguard schema` calls it.
const SCHEMAS: [&str; 7] = [
    "budget", "config", "decision", "limit", "policy", "prices", "tests",
];

/// Writes each schema where it changed, or with `check` only compares.
///
/// # Errors
/// The program cannot be built or does not answer, a file cannot be read or written; with `check`,
/// a committed one is not what its type says.
pub(crate) fn run(workspace: &Workspace, check: bool) -> Result<()> {
    bpf::build(workspace)?;
    build::everything(workspace)?;
    let directory = workspace.root().join("docs/schema");
    let mut stale = Vec::new();
    for name in SCHEMAS {
        let path = directory.join(format!("{name}.schema.json"));
        let text = schema(workspace, name)?;
        if fs::read(&path).is_ok_and(|committed| committed == text) {
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

fn schema(workspace: &Workspace, name: &str) -> Result<Vec<u8>> {
    let program = workspace.program("agentguard");
    let output = Command::new(&program)
        .args(["schema", name])
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!(
            "`agentguard schema {name}` failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output.stdout)
}

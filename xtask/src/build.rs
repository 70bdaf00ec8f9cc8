//! Compiles the gate and the program that loads it.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::workspace::Workspace;
use crate::{bpf, exec, setup};

/// Sets up, compiles the gate, then the `agentguard` program.
///
/// # Errors
/// A step failed.
pub(crate) fn build(workspace: &Workspace, release: bool) -> Result<()> {
    setup::run(workspace, false)?;
    bpf::build(workspace)?;
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--package", "agentguard"]);
    if release {
        cargo.arg("--release");
    }
    exec::run(&mut cargo)?;
    let profile = if release { "release" } else { "debug" };
    let program = workspace.target().join(profile).join("agentguard");
    if release {
        refuse_hook(&program)?;
    }
    println!("{}", program.display());
    Ok(())
}

/// What debug builds have so that tests can see a worker attack its host (the keeper's
/// `worker::hostile`).
const HOOK: &[u8] = b"AGENTGUARD_TEST_WORKER";

/// Makes sure that a program for production has no such thing.
fn refuse_hook(program: &Path) -> Result<()> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    ensure!(
        !bytes.windows(HOOK.len()).any(|window| window == HOOK),
        "{} has the tests' hook in its worker; hint: the release profile must not have debug-assertions",
        program.display()
    );
    Ok(())
}

/// Compiles every library, program and test of the workspace but the gate.
///
/// One selection of packages and targets for everything that runs afterwards (tests, `world`, the
/// daemon under test): another selection would be another set of features, and compile the
/// dependencies again.
///
/// # Errors
/// The compiler refuses the source.
pub(crate) fn everything(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.arg("build").args(SELECTION);
    exec::run(cargo.args(["--lib", "--bins", "--tests", "--examples"]))
}

/// The packages of every `cargo` call that compiles for this machine.
pub(crate) const SELECTION: [&str; 3] = ["--workspace", "--exclude", "agentguard-ebpf"];

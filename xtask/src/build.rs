//! Compiles the gate and the program that loads it.

use anyhow::Result;

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
    println!(
        "{}",
        workspace
            .target()
            .join(profile)
            .join("agentguard")
            .display()
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

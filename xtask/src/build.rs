//! Compiles the gate and the program that loads it.

pub(crate) mod trained;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::workspace::{PROFILES, Workspace};
use crate::{bpf, exec, setup};
use trained::Training;

/// How the program is compiled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// For who works on it.
    Debug,
    /// With optimisations.
    Release,
    /// With optimisations by what it does under a load.
    Trained,
}

/// Sets up, compiles the gate, then the `agentguard` program.
///
/// # Errors
/// A step failed.
pub(crate) fn build(workspace: &Workspace, kind: Kind) -> Result<()> {
    // The load comes from the tests' clients.
    setup::run(workspace, kind == Kind::Trained)?;
    bpf::build(workspace)?;
    let program = match kind {
        Kind::Debug => plain(workspace, false)?,
        Kind::Release => plain(workspace, true)?,
        Kind::Trained => trained::build(workspace, Training::Anew)?,
    };
    if kind != Kind::Debug {
        refuse_hook(&program)?;
    }
    println!("{}", program.display());
    Ok(())
}

/// The program as cargo makes it by itself.
fn plain(workspace: &Workspace, release: bool) -> Result<PathBuf> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--package", "agentguard"]);
    if release {
        cargo.arg("--release");
    }
    exec::run(&mut cargo)?;
    let profile = if release { "release" } else { "debug" };
    Ok(workspace.target().join(profile).join("agentguard"))
}

/// What debug builds have so that tests can see a worker attack its host (the keeper's
/// `worker::hostile`).
const HOOK: &[u8] = b"AGENTGUARD_TEST_WORKER";

/// What a program has that is compiled to be trained: the end of where its worker writes.
const COUNTS: &[u8] = b"/worker-%p.profraw";

/// Makes sure that a program for production has no such things.
fn refuse_hook(program: &Path) -> Result<()> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let has = |what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
    ensure!(
        !has(HOOK),
        "{} has the tests' hook in its worker; hint: the release profile must not have debug-assertions",
        program.display()
    );
    ensure!(
        !has(COUNTS),
        "the worker of {} may write what it counts; hint: without `{PROFILES}` in the environment",
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

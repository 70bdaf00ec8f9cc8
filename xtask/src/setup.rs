//! What the build needs: found, or installed.
//!
//! Three steps that do not mix: [`Facts::gather`] looks at the machine, [`Plan::new`] says what is
//! missing (pure, hence tested without a machine), [`run`] installs it and looks again. Everything
//! comes through apt, cargo and pip (and rustup on Ubuntu).
//!
//! Two toolchains can compile for the kernel without a compiler of our own:
//! - **Debian 12**: its security archive has a rustc with a prebuilt `core` for BPF, and the LLVM of
//!   the same major version for bpf-linker. Tested.
//! - **Ubuntu 24.04**: rustup's pinned nightly, rust-src and `-Z build-std`. Untested until a run is
//!   shown.

mod facts;
mod plan;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use facts::Facts;
pub(crate) use plan::{BpfToolchain, NIGHTLY, SYSTEM_RUSTC};

use crate::exec;
use crate::workspace::Workspace;
use plan::{Plan, Step};

/// Finds or installs what the build needs, with `tests` also what the tests need.
///
/// # Errors
/// Something is missing and cannot be installed here: the error names it.
pub(crate) fn run(workspace: &Workspace, tests: bool) -> Result<()> {
    let python = tests.then(|| [python(workspace), mitmproxy(workspace)]);
    let python = python
        .as_ref()
        .map(|both| both.each_ref().map(PathBuf::as_path));
    let node = tests.then(|| node(workspace));
    let facts = || Facts::gather(python, node.as_deref());
    let plan = Plan::new(&facts(), tests)?;
    if let Some(remark) = plan.remark {
        eprintln!("setup: {remark}");
    }
    if plan.steps.is_empty() {
        eprintln!("setup: everything is there");
        return Ok(());
    }
    for step in &plan.steps {
        eprintln!("setup: {step}");
        for mut command in step.commands(workspace) {
            exec::run(&mut command)?;
        }
    }
    let left = Plan::new(&facts(), tests)?.steps;
    if let Some(step) = left.first() {
        bail!("still missing after the installation: {step}");
    }
    Ok(())
}

/// The toolchain for the gate, without installing anything.
///
/// # Errors
/// What is missing, and the command that installs it.
pub(crate) fn bpf_toolchain() -> Result<BpfToolchain> {
    let plan = Plan::new(&Facts::gather(None, None), false)?;
    if let Some(step) = plan.steps.first() {
        bail!("cannot compile for the kernel: {step}\nhint: run `cargo xtask setup`");
    }
    Ok(plan.toolchain)
}

/// The Python environment of the tests' clients. `agentguard_tests::client` knows it too.
pub(crate) fn python(workspace: &Workspace) -> PathBuf {
    workspace.target().join("python")
}

/// The Python environment of mitmproxy, whose packages are not those of the clients. The world knows it too.
pub(crate) fn mitmproxy(workspace: &Workspace) -> PathBuf {
    workspace.target().join("mitmproxy")
}

/// Where the Node packages of the tests' clients are. `agentguard_tests::client` knows it too.
fn node(workspace: &Workspace) -> PathBuf {
    workspace.target().join("node")
}

impl Step {
    fn commands(&self, workspace: &Workspace) -> Vec<Command> {
        match self {
            Self::Apt(packages) => {
                let apt = || {
                    let mut apt = Command::new("apt-get");
                    apt.env("DEBIAN_FRONTEND", "noninteractive");
                    apt
                };
                let mut update = apt();
                update.args(["update", "-q"]);
                let mut install = apt();
                install
                    .args(["install", "-y", "-q", "--no-install-recommends"])
                    .args(packages);
                vec![update, install]
            }
            Self::CargoInstall {
                name,
                version,
                arguments,
                environment,
            } => {
                let mut cargo = Command::new("cargo");
                cargo
                    .args(["install", "--locked", "--force", "--version", version])
                    .args(*arguments)
                    .arg(name)
                    // A target directory of its own: this must not wait for, nor be mixed with, ours.
                    .env_remove("CARGO_TARGET_DIR")
                    .envs(environment.iter().copied());
                vec![cargo]
            }
            Self::Nightly => {
                let mut rustup = Command::new("rustup");
                rustup.args(["toolchain", "install", NIGHTLY, "--profile", "minimal"]);
                rustup.args(["--component", "rust-src"]);
                vec![rustup]
            }
            Self::NodePackages => {
                let directory = node(workspace);
                let mut clear = Command::new("rm");
                clear.arg("-rf").arg(&directory);
                let mut copy = Command::new("cp");
                copy.arg("-r")
                    .arg(workspace.root().join("tests/clients/node"))
                    .arg(&directory);
                let mut npm = Command::new("npm");
                npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
                    .current_dir(workspace.target());
                npm.arg("--prefix").arg(&directory);
                vec![clear, copy, npm]
            }
            Self::PythonEnvironment => environment(
                &python(workspace),
                &workspace.root().join("tests/clients/requirements.txt"),
            ),
            Self::MitmproxyEnvironment => environment(
                &mitmproxy(workspace),
                &workspace.root().join("tests/clients/mitmproxy.txt"),
            ),
        }
    }
}

/// A Python environment with these packages.
fn environment(directory: &Path, packages: &Path) -> Vec<Command> {
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "--clear"]).arg(directory);
    let mut pip = Command::new(directory.join("bin/python3"));
    pip.args(["-m", "pip", "install", "-q"])
        .args(["--disable-pip-version-check", "-r"])
        .arg(packages);
    vec![venv, pip]
}

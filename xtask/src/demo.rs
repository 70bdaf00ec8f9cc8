//! Shows the main job in under a minute after the build.

use std::process::Command;

use anyhow::Result;

use crate::workspace::Workspace;
use crate::{bpf, build, exec, setup};

/// Sets up and builds, then runs `world demo`: the tests package has the world to show it in.
///
/// # Errors
/// A step failed, or an outcome was not the expected one.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    setup::run(workspace, true)?;
    bpf::build(workspace)?;
    build::everything(workspace)?;
    exec::run(
        Command::new(workspace.program("world"))
            .arg("demo")
            .env("AGENTGUARD_BIN", workspace.program("agentguard")),
    )
}

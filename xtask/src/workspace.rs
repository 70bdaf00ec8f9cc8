//! Where things are.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// With it the daemon is compiled so that its worker may write in one more directory: of what is compiled to be trained.
pub(crate) const PROFILES: &str = "AGENTGUARD_PROFILES";

/// The workspace that this program was compiled in.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// Finds it by what cargo says at run time, so that a moved clone is still found.
    ///
    /// # Errors
    /// The directory is gone.
    pub(crate) fn find() -> Result<Self> {
        let package = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = package
            .parent()
            .context("the xtask package has no parent directory")?
            .canonicalize()
            .with_context(|| format!("{} is gone", package.display()))?;
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The target directory: always the workspace's own, whatever the caller's environment says,
    /// because the daemon embeds the gate from there.
    pub(crate) fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// A program of a `cargo build` with the dev profile.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.target().join("debug").join(name)
    }

    /// A `cargo` call at the root, in an environment as a person's shell would give it: what
    /// `cargo run` adds for us (`CARGO_PKG_*` and others) would make build scripts run again.
    ///
    /// Nor is [`PROFILES`] handed down.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        for (name, _) in env::vars_os() {
            let ours = name.to_str().is_some_and(|name| {
                name.starts_with("CARGO_PKG_")
                    || name.starts_with("CARGO_MANIFEST_")
                    || matches!(
                        name,
                        "CARGO" | "CARGO_BIN_NAME" | "CARGO_CRATE_NAME" | "LD_LIBRARY_PATH"
                    )
            });
            if ours {
                cargo.env_remove(name);
            }
        }
        cargo
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", self.target())
            .env_remove(PROFILES);
        cargo
    }
}

//! Compiles the gate for the kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::exec;
use crate::setup::{self, BpfToolchain, NIGHTLY};
use crate::workspace::Workspace;

const TARGET: &str = "bpfel-unknown-none";

/// BTF, so that maps and programs are typed in the kernel; debug information is what it is made of.
/// Version 3 of the instruction set (kernel 5.12 with its atomics) returns the value of an atomic add.
const FLAGS: &str = "-C linker=bpf-linker -C link-arg=--btf -C target-cpu=v3 -C debuginfo=2";

/// Compiles `agentguard-ebpf` to `target/bpf/agentguard.o` and returns that path. The file is
/// replaced atomically and only where it changed, so that what embeds it is rebuilt only then.
///
/// # Errors
/// The toolchain is missing something, which the error names; or the compiler refuses the source.
pub(crate) fn build(workspace: &Workspace) -> Result<PathBuf> {
    let target = workspace.target().join("ebpf");
    let mut cargo = match setup::bpf_toolchain()? {
        BpfToolchain::System => {
            let mut cargo = workspace.cargo();
            // aya-ebpf needs `asm_experimental_arch`, and the distribution's compiler is a stable one.
            cargo
                .env("RUSTC", setup::SYSTEM_RUSTC)
                .env("RUSTC_BOOTSTRAP", "1")
                .arg("build");
            cargo
        }
        BpfToolchain::Nightly => {
            let mut cargo = Command::new("rustup");
            cargo
                .current_dir(workspace.root())
                .env_remove("RUSTC")
                .env_remove("CARGO")
                .args(["run", NIGHTLY, "cargo", "build", "-Z", "build-std=core"]);
            cargo
        }
    };
    cargo
        .args(["--package", "agentguard-ebpf", "--target", TARGET])
        .args(["--release", "--quiet"])
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTFLAGS", FLAGS)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        // The workspace's release profile is made for the daemon.
        .env("CARGO_PROFILE_RELEASE_LTO", "true")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort");
    exec::run(&mut cargo)?;
    publish(
        &target.join(TARGET).join("release/agentguard-ebpf"),
        &workspace.target().join("bpf"),
    )
}

fn publish(built: &Path, directory: &Path) -> Result<PathBuf> {
    let object = directory.join("agentguard.o");
    let new = fs::read(built).with_context(|| format!("no object at {}", built.display()))?;
    if fs::read(&object).is_ok_and(|old| old == new) {
        return Ok(object);
    }
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let draft = directory.join(format!("agentguard.o.{}", std::process::id()));
    fs::write(&draft, new)
        .and_then(|()| fs::rename(&draft, &object))
        .with_context(|| format!("cannot write {}", object.display()))?;
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_replaced_only_where_it_changed() {
        let directory = std::env::temp_dir().join(format!("xtask-bpf-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let built = directory.join("built");
        let modified = |object: &PathBuf| fs::metadata(object).unwrap().modified().unwrap();

        fs::write(&built, b"one").unwrap();
        let object = publish(&built, &directory.join("bpf")).unwrap();
        let first = modified(&object);
        publish(&built, &directory.join("bpf")).unwrap();
        assert_eq!(modified(&object), first);

        fs::write(&built, b"two").unwrap();
        publish(&built, &directory.join("bpf")).unwrap();
        assert_eq!(fs::read(&object).unwrap(), b"two");
        assert_eq!(fs::read_dir(directory.join("bpf")).unwrap().count(), 1);

        fs::remove_dir_all(&directory).unwrap();
    }
}

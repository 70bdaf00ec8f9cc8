//! The program whose compiler knows what it does most: compiled so that it counts what it runs, put under a load in a
//! world of its own, and compiled again by what it has counted (`-Cprofile-generate` and `-Cprofile-use` of rustc).
//!
//! What no load goes through is compiled as something rare, so that the load has a part of everything that an agent does
//! often: requests over both versions of HTTP, new connections, contents of all sizes, calls of models and their
//! streams, WebSockets, names, and what is denied.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::exec;
use crate::workspace::{PROFILES, Workspace};

/// What the daemon is asked to do meanwhile: arguments of `world`.
const LOADS: &[&[&str]] = &[
    &[
        "bench-proxy",
        "--rounds",
        "1",
        "--peers",
        "haproxy",
        "inspect-h1",
        "inspect-h2",
        "inspect-new",
        "inspect-100k",
        "inspect-100m",
        "post",
        "websocket",
        "splice-h1",
    ],
    &["bench-dns"],
    &["bench-sse"],
    &["bench-soak", "--minutes", "2"],
];

/// Where all of this is.
struct Places {
    /// What each process has counted.
    counted: PathBuf,
    /// All of that, for the rustc that is there.
    profile: PathBuf,
    /// What counts is compiled there.
    counting: PathBuf,
    /// What is trained is compiled there.
    trained: PathBuf,
}

impl Places {
    fn of(workspace: &Workspace) -> Result<Self> {
        let all = workspace.target().join("trained");
        Ok(Self {
            counted: all.join("counted"),
            profile: all.join(format!("agentguard-{}.profdata", rustc("release: ")?)),
            counting: all.join("counting"),
            trained: all.join("build"),
        })
    }
}

/// Whose profile.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Training {
    /// A new one.
    Anew,
    /// The last one, also where the sources have changed since: what has changed is compiled without. A new one where
    /// there is none.
    AsBefore,
}

/// The trained program, for which everything has to be set up.
///
/// # Errors
/// A step failed, or the load has left no profile.
pub(crate) fn build(workspace: &Workspace, training: Training) -> Result<PathBuf> {
    let places = Places::of(workspace)?;
    if training == Training::Anew || !places.profile.exists() {
        train(workspace, &places)?;
    }
    let flag = format!("-Cprofile-use={}", places.profile.display());
    compile(workspace, &places.trained, &flag, &[])
}

fn train(workspace: &Workspace, places: &Places) -> Result<()> {
    let merger = merger()?;
    remove(&places.counted)?;
    // The worker, which is a user of its own, makes files there.
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&places.counted)
        .and_then(|()| fs::set_permissions(&places.counted, fs::Permissions::from_mode(0o1777)))
        .with_context(|| format!("cannot make {}", places.counted.display()))?;
    let flag = format!("-Cprofile-generate={}", places.counted.display());
    let variables = [
        (PROFILES, places.counted.as_path()),
        // Counted before anything is optimised over crates, and so compiled sooner.
        ("CARGO_PROFILE_RELEASE_LTO", Path::new("off")),
    ];
    let program = compile(workspace, &places.counting, &flag, &variables)?;
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "agentguard-tests"]);
    exec::run(cargo.arg("--bins"))?;
    for load in LOADS {
        let mut world = Command::new(workspace.target().join("release/world"));
        world.args(*load).env("AGENTGUARD_BIN", &program);
        eprintln!("trained: {}", load.join(" "));
        // Its figures are of a program that counts.
        exec::run(world.stdout(Stdio::null()))?;
    }
    let counted = counted(&places.counted)?;
    let draft = places.profile.with_extension("new");
    exec::run(
        Command::new(merger)
            .args(["merge", "--output"])
            .arg(&draft)
            .args(&counted),
    )?;
    // cargo does not know that the profile is another one.
    remove(&places.trained)?;
    fs::rename(&draft, &places.profile)
        .with_context(|| format!("cannot write {}", places.profile.display()))?;
    remove(&places.counted)
}

fn remove(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    Ok(())
}

/// What processes have counted, the worker's among them.
fn counted(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut of_a_worker = false;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let metadata = fs::metadata(&path)?;
        if metadata.is_file() && metadata.len() > 0 {
            of_a_worker |= metadata.uid() != 0;
            files.push(path);
        }
    }
    ensure!(
        of_a_worker,
        "no worker has written what it counted to {}; hint: each directory above has to let all users through",
        directory.display()
    );
    Ok(files)
}

/// Compiles the optimised program with a flag for all that runs on this machine's kind, and not for what only the
/// compilation runs.
fn compile(
    workspace: &Workspace,
    directory: &Path,
    flag: &str,
    variables: &[(&str, &Path)],
) -> Result<PathBuf> {
    let machine = rustc("host: ")?;
    let mut cargo = workspace.cargo();
    cargo
        .args(["build", "--release", "--package", "agentguard"])
        .args(["--target", &machine])
        .env("CARGO_TARGET_DIR", directory)
        // One flag, whatever is in it.
        .env("CARGO_ENCODED_RUSTFLAGS", flag)
        .env_remove("RUSTFLAGS")
        .envs(variables.iter().copied());
    exec::run(&mut cargo)?;
    Ok(directory.join(machine).join("release/agentguard"))
}

/// What rustc says of itself: `release: `, its version, or `host: `, the kind of this machine.
fn rustc(what: &str) -> Result<String> {
    let said = exec::ask("rustc", &["-vV"]).context("rustc does not say its version")?;
    let line = said.lines().find_map(|line| line.strip_prefix(what));
    let line = line.with_context(|| format!("rustc does not say `{what}`"))?;
    Ok(line.to_owned())
}

/// The program that makes one profile of many, of rustc's own LLVM: rustup has it.
fn merger() -> Result<PathBuf> {
    let root = exec::ask("rustc", &["--print", "sysroot"]).context("rustc has no sysroot")?;
    let merger = Path::new(root.trim())
        .join("lib/rustlib")
        .join(rustc("host: ")?)
        .join("bin/llvm-profdata");
    if !merger.exists() {
        exec::run(Command::new("rustup").args(["component", "add", "llvm-tools"]))
            .context("no `llvm-profdata` for this rustc; hint: it is in rustup's `llvm-tools`")?;
    }
    ensure!(merger.exists(), "no {}", merger.display());
    Ok(merger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_root_alone_has_counted_is_no_profile_of_a_worker() {
        let directory = std::env::temp_dir().join(format!("xtask-trained-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let error = |_: Vec<PathBuf>| panic!("a profile of nobody");
        let said = |counted: Result<Vec<PathBuf>>| counted.map_or_else(|e| e.to_string(), error);
        assert!(said(counted(&directory)).starts_with("no worker has written"));
        let keeper = directory.join("keeper.profraw");
        let worker = directory.join("worker.profraw");
        fs::write(&keeper, b"counts").unwrap();
        fs::write(&worker, b"").unwrap();
        std::os::unix::fs::chown(&worker, Some(64_242), None).unwrap();
        // An empty file is none.
        assert!(said(counted(&directory)).starts_with("no worker has written"));
        fs::write(&worker, b"counts").unwrap();
        let mut files = counted(&directory).unwrap();
        files.sort();
        assert_eq!(files, [keeper, worker]);
        fs::remove_dir_all(&directory).unwrap();
    }
}

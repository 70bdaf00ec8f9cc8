//! Where the processor's time goes while a bench case is measured: a flame graph of the guard's threads, their functions by
//! what they take, and the parts that these belong to.
//!
//! Frames are found by frame pointers, so that the program is compiled for it; what is inlined counts to whom it is inlined
//! into. The kernel's own frames are in it.

mod parts;

use std::fs::{self, File};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::workspace::Workspace;
use crate::{bpf, exec, setup};

/// What makes a picture of stacks.
const INFERNO: &str = "0.12.8";

/// The guard's threads that carry, decide and record.
const THREADS: &str = "event-loop,worker,record-write,record-sync,record-index";

/// All of the daemon's, and its programs' before they have a name.
const OF_A_START: &str =
    "agentguard,gate-load,exe,event-loop,worker,record-write,record-sync,record-index";

/// How often in a second, which is no multiple of what happens with the clock.
const SAMPLES: &str = "997";

/// How often the case is measured meanwhile.
const ROUNDS: &str = "5";

/// Measures a case of `bench proxy`, `dns` or `start` under perf(1), and writes `target/profile/CASE.svg`, `CASE.txt` and
/// `CASE.md`.
///
/// # Errors
/// A step failed, or there is no such case.
pub(crate) fn run(workspace: &Workspace, case: &str) -> Result<()> {
    let named = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    ensure!(
        !case.is_empty() && case.chars().all(named),
        "a case is one of `bench proxy`, such as `inspect-h1`, or `dns` or `start`"
    );
    setup::run(workspace, true)?;
    tools()?;
    bpf::build(workspace)?;
    let directory = workspace.target().join("profile");
    let mut cargo = workspace.cargo();
    cargo
        .args(["build", "--release", "--package", "agentguard"])
        .env("CARGO_TARGET_DIR", &directory)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Cforce-frame-pointers=yes")
        .env_remove("RUSTFLAGS");
    exec::run(&mut cargo)?;
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "agentguard-tests"]);
    exec::run(cargo.arg("--bins"))?;
    let (measures, threads) = match case {
        "dns" => (vec!["bench-dns"], THREADS),
        "start" => (vec!["bench-start"], OF_A_START),
        case => {
            let words = [
                "bench-proxy",
                "--peers",
                "haproxy",
                "--rounds",
                ROUNDS,
                case,
            ];
            (words.to_vec(), THREADS)
        }
    };
    let samples = directory.join(format!("{case}.perf"));
    let mut record = Command::new("perf");
    record
        .args(["record", "--quiet", "--all-cpus", "-g"])
        .args(["--freq", SAMPLES, "--output"])
        .arg(&samples)
        .arg("--")
        .arg(workspace.target().join("release/world"))
        .args(measures)
        .env("AGENTGUARD_BIN", directory.join("release/agentguard"))
        // Its figures are of a program that is looked at.
        .stdout(Stdio::null());
    exec::run(&mut record)?;
    let written = |extension: &str| directory.join(format!("{case}.{extension}"));
    let made = |program: &mut Command, extension: &str| -> Result<()> {
        let path = written(extension);
        let file =
            File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        exec::run(program.stdout(file))
    };
    let perf = |task: &str| {
        let mut perf = Command::new("perf");
        perf.args([task, "--comms", threads, "--input"])
            .arg(&samples)
            .stderr(Stdio::null());
        perf
    };
    let functions = [
        "--stdio",
        "--no-children",
        "--sort",
        "comm,sym",
        "-g",
        "none",
    ];
    made(perf("report").args(functions), "txt")?;
    made(&mut perf("script"), "stacks")?;
    made(
        Command::new("inferno-collapse-perf")
            .arg("--kernel")
            .arg(written("stacks")),
        "folded",
    )?;
    let folded = fs::read_to_string(written("folded"))?;
    fs::write(written("md"), parts::tables(&folded))?;
    let title = format!("agentguard, {case}");
    made(
        Command::new("inferno-flamegraph")
            .args(["--title", &title])
            .arg(written("folded")),
        "svg",
    )?;
    for extension in ["stacks", "folded", "perf"] {
        fs::remove_file(written(extension))?;
    }
    for extension in ["svg", "txt", "md"] {
        println!("{}", written(extension).display());
    }
    Ok(())
}

/// Finds or installs what only this needs.
fn tools() -> Result<()> {
    if exec::ask("perf", &["--version"]).is_none() {
        let mut apt = Command::new("apt-get");
        apt.args([
            "install",
            "-y",
            "-q",
            "--no-install-recommends",
            "linux-perf",
        ])
        .env("DEBIAN_FRONTEND", "noninteractive");
        exec::run(&mut apt)?;
    }
    if exec::ask("inferno-flamegraph", &["--version"]).is_none() {
        let mut cargo = Command::new("cargo");
        cargo
            .args(["install", "--locked", "--version", INFERNO, "inferno"])
            .env_remove("CARGO_TARGET_DIR");
        exec::run(&mut cargo)?;
    }
    Ok(())
}

//! What each group measures: the programs that print its samples, and how often.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::{Asked, Group, Samples};
use crate::build::trained::{self, Training};
use crate::workspace::Workspace;
use crate::{exec, setup};

/// The groups. Each comes with the work it measures.
pub(super) const GROUPS: &[Group] = &[
    Group {
        name: "budget",
        measure: budget,
        baselines: &["write_200_bytes", "redis_incr", "read_files", "listed"],
        always: true,
    },
    Group {
        name: "dns",
        measure: dns,
        baselines: &["unbound"],
        always: true,
    },
    Group {
        name: "gate",
        measure: gate,
        baselines: &["unguarded", "one_agent"],
        always: true,
    },
    Group {
        name: "inspection",
        measure: inspection,
        baselines: &["unguarded"],
        always: true,
    },
    Group {
        name: "policy",
        measure: policy,
        baselines: &["agent-governance-toolkit", "hundred_rules"],
        always: true,
    },
    Group {
        name: "protocol",
        measure: protocol,
        baselines: &["serde_json", "haproxy"],
        always: true,
    },
    Group {
        name: "proxy",
        measure: proxy,
        baselines: &["haproxy", "haproxy_tcp", "not_decoded", "not_kept"],
        always: true,
    },
    Group {
        name: "run",
        measure: run_a_command,
        baselines: &["unguarded"],
        always: true,
    },
    Group {
        name: "scale",
        measure: scale,
        baselines: &["haproxy", "one_agent"],
        always: true,
    },
    Group {
        name: "simulate",
        measure: simulate,
        baselines: &["ten_rules"],
        always: true,
    },
    Group {
        name: "soak",
        measure: soak,
        baselines: &[],
        always: false,
    },
    Group {
        name: "start",
        measure: start,
        baselines: &["haproxy"],
        always: true,
    },
];

/// TLS that ends at the guard, beside the same client without it.
fn inspection(workspace: &Workspace, asked: &Asked<'_>, samples: &mut Samples) -> Result<()> {
    world(workspace, asked, &["bench-inspection"], samples)
}

/// What connections through the proxy cost, beside other proxies that carry the same.
fn proxy(workspace: &Workspace, asked: &Asked<'_>, samples: &mut Samples) -> Result<()> {
    world(workspace, asked, &["bench-proxy"], samples)
}

/// The start of the daemon, beside that of another proxy.
fn start(workspace: &Workspace, asked: &Asked<'_>, samples: &mut Samples) -> Result<()> {
    world(workspace, asked, &["bench-start"], samples)
}

/// Answers of the resolver from its cache, beside another one's.
fn dns(workspace: &Workspace, asked: &Asked<'_>, samples: &mut Samples) -> Result<()> {
    world(workspace, asked, &["bench-dns"], samples)
}

/// The start of a command, beside the same without the guard; and that of another worker.
fn run_a_command(workspace: &Workspace, asked: &Asked<'_>, samples: &mut Samples) -> Result<()> {
    world(workspace, asked, &["bench-run"], samples)
}

/// What the kernel decides, beside the same client without the guard; and with many agents, beside a
/// guard with one.
fn gate(workspace: &Workspace, asked: &Asked<'_>, samples: &mut Samples) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "agentguard-keeper"]);
    exec::run(cargo.args(["--example", "crowd"]))?;
    let crowd = workspace.target().join("release/examples/crowd");
    world(
        workspace,
        asked,
        &["bench-gate", &crowd.display().to_string()],
        samples,
    )
}

/// Many connections, many agents, and more load than there are processors for: beside HAProxy, and beside one agent.
fn scale(workspace: &Workspace, asked: &Asked<'_>, samples: &mut Samples) -> Result<()> {
    world(workspace, asked, &["bench-scale"], samples)
}

/// Recorded decisions through a policy of many rules, beside one of few.
fn simulate(workspace: &Workspace, asked: &Asked<'_>, samples: &mut Samples) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "agentguard-record"]);
    exec::run(cargo.args(["--example", "fill"]))?;
    let fill = workspace.target().join("release/examples/fill");
    world(
        workspace,
        asked,
        &["bench-simulate", &fill.display().to_string()],
        samples,
    )
}

/// How often the subjects of [`policy`] are measured, each taking its turn at being first.
const POLICY_ROUNDS: usize = 7;

/// Where a group may write while it is measured, and what it removes: not among the reports.
fn scratch(workspace: &Workspace, group: &str) -> PathBuf {
    workspace.target().join(format!("bench-{group}"))
}

/// A decision of the policy, beside another engine that decides the same calls by equivalent rules; and with
/// many rules, beside a policy with a hundred.
fn policy(workspace: &Workspace, _: &Asked<'_>, samples: &mut Samples) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "agentguard-policy"]);
    exec::run(cargo.args(["--example", "decisions"]))?;
    let decisions = workspace.target().join("release/examples/decisions");
    let cases = scratch(workspace, "policy");
    if cases.exists() {
        fs::remove_dir_all(&cases)?;
    }
    exec::run(Command::new(&decisions).arg("describe").arg(&cases))?;
    for round in 0..POLICY_ROUNDS {
        for ours in [round % 2 == 0, round % 2 == 1] {
            let mut command = match ours {
                true => Command::new(&decisions),
                false => Command::new(setup::python(workspace).join("bin/python3")),
            };
            if ours {
                command.arg("measure");
            } else {
                let peer = workspace.root().join("tests/clients/policy_peer.py");
                // It says with each start that its package is to have another name.
                command.args(["-W", "ignore::DeprecationWarning"]);
                command.arg(peer).arg(&cases);
            }
            printed(&mut command, samples)?;
        }
    }
    Ok(())
}

/// How often the ledgers are measured.
const BUDGET_ROUNDS: usize = 7;

/// What it costs to reserve and to settle a call with five accounts, on one processor: in the ledger of one host beside a
/// write of as many bytes, and in the one that hosts share beside a round trip to the same server. And what forecasts cost of
/// accounts with a million calls, beside a list without them; with how long their ledger takes to open, beside a reading of
/// its files.
fn budget(workspace: &Workspace, _: &Asked<'_>, samples: &mut Samples) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "agentguard-budget"]);
    exec::run(cargo.args(["--example", "ledger"]))?;
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "agentguard-control"]);
    exec::run(cargo.args(["--example", "forecast"]))?;
    let forecast = workspace.target().join("release/examples/forecast");
    let ledger = workspace.target().join("release/examples/ledger");
    let directory = scratch(workspace, "budget");
    for _ in 0..BUDGET_ROUNDS {
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        // The thread that synchronises has the same processor.
        let mut embedded = Command::new("taskset");
        embedded.args(["--cpu-list", "0"]).arg(&ledger);
        printed(embedded.arg("embedded").arg(&directory), samples)?;
        printed(Command::new(&ledger).arg("redis"), samples)?;
    }
    fs::remove_dir_all(&directory)?;
    fs::create_dir_all(&directory)?;
    for task in ["charge", "ask"] {
        let mut command = Command::new(&forecast);
        printed(command.arg(task).arg(&directory), samples)?;
    }
    fs::remove_dir_all(&directory)?;
    Ok(())
}

/// How often the decoders are measured.
const PROTOCOL_ROUNDS: usize = 7;

/// What decoding costs, beside a common parser of the same documents; and what it adds to the events of a stream
/// on their whole way, beside what a proxy adds that ends TLS too and reads nothing.
fn protocol(workspace: &Workspace, asked: &Asked<'_>, samples: &mut Samples) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "agentguard-protocol"]);
    exec::run(cargo.args(["--example", "decoders"]))?;
    let decoders = workspace.target().join("release/examples/decoders");
    for _ in 0..PROTOCOL_ROUNDS {
        printed(&mut Command::new(&decoders), samples)?;
    }
    world(workspace, asked, &["bench-sse"], samples)
}

/// How long a soak goes on where nobody says.
const SOAK_MINUTES: u32 = 60;

/// A steady load for long, under which neither memory nor descriptors may grow.
fn soak(workspace: &Workspace, asked: &Asked<'_>, samples: &mut Samples) -> Result<()> {
    let minutes = asked.minutes.unwrap_or(SOAK_MINUTES).to_string();
    world(
        workspace,
        asked,
        &["bench-soak", "--minutes", &minutes],
        samples,
    )
}

/// What the optimised programs measure.
fn world(
    workspace: &Workspace,
    asked: &Asked<'_>,
    task: &[&str],
    samples: &mut Samples,
) -> Result<()> {
    let release = |package: &str| {
        let mut cargo = workspace.cargo();
        cargo.args(["build", "--release", "--package", package]);
        exec::run(cargo.arg("--bins"))
    };
    release("agentguard-tests")?;
    let programs = workspace.target().join("release");
    let agentguard = if asked.trained {
        trained::build(workspace, Training::AsBefore)?
    } else {
        release("agentguard")?;
        programs.join("agentguard")
    };
    printed(
        Command::new(programs.join("world"))
            .args(task)
            .env("AGENTGUARD_BIN", agentguard),
        samples,
    )
}

/// The samples that a program prints, one a line; also of one that fails, as far as it came.
fn printed(program: &mut Command, samples: &mut Samples) -> Result<()> {
    let output = program
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run `{}`", exec::line(program)))?;
    let status = output.status;
    for line in String::from_utf8(output.stdout)?.lines() {
        match serde_json::from_str(line) {
            Ok(sample) => samples.push(sample),
            // The last line of one that was ended may be a part of one.
            Err(_) if !status.success() => {}
            Err(error) => return Err(error).with_context(|| format!("no sample: {line}")),
        }
    }
    ensure!(
        status.success(),
        "`{}` ended with {status}",
        exec::line(program)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::reports;
    use super::*;

    #[test]
    fn no_group_removes_a_report_with_what_it_wrote_meanwhile() {
        let workspace = Workspace::find().unwrap();
        for group in GROUPS {
            let scratch = scratch(&workspace, group.name);
            assert!(!scratch.starts_with(reports(&workspace, None)));
        }
    }

    #[test]
    fn samples_of_a_program_that_fails_are_there_as_far_as_it_came() {
        let line = r#"{"case":"get","subject":"us","metric":"rate","unit":"1/s","value":2.0}"#;
        let said = |script: &str| {
            let mut samples = Samples::new();
            let mut program = Command::new("sh");
            let done = printed(program.args(["-c", script, "sh", line]), &mut samples);
            (samples.len(), done.map_err(|error| error.to_string()))
        };
        assert_eq!(said("echo \"$1\"; echo \"$1\""), (2, Ok(())));
        let (samples, done) = said("echo \"$1\"; printf '{\"case\"'; exit 3");
        assert_eq!(samples, 1);
        let error = done.unwrap_err();
        assert!(error.ends_with("ended with exit status: 3"), "{error}");
        // One that ends well says nothing else.
        let (_, done) = said("echo \"$1\"; echo noise");
        assert_eq!(done.unwrap_err(), "no sample: noise");
    }
}

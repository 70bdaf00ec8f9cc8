//! Measures, and writes `target/bench/report.json`, with the same as tables (`report.md`) and as a chart
//! (`report.svg`), and the machine (`machine.json`).
//!
//! Speed is judged as a ratio of two subjects in one run on one machine; absolute figures are
//! reported and never tested.

mod report;

use std::fmt;
use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::workspace::Workspace;
use crate::{bpf, exec, setup};

/// The groups, each a name and what measures it. Each comes with the work it measures.
const GROUPS: &[Group] = &[
    Group {
        name: "budget",
        measure: budget,
    },
    Group {
        name: "dns",
        measure: dns,
    },
    Group {
        name: "gate",
        measure: gate,
    },
    Group {
        name: "inspection",
        measure: inspection,
    },
    Group {
        name: "policy",
        measure: policy,
    },
    Group {
        name: "protocol",
        measure: protocol,
    },
    Group {
        name: "proxy",
        measure: proxy,
    },
    Group {
        name: "run",
        measure: run_a_command,
    },
    Group {
        name: "scale",
        measure: scale,
    },
    Group {
        name: "simulate",
        measure: simulate,
    },
    Group {
        name: "start",
        measure: start,
    },
];

struct Group {
    name: &'static str,
    measure: fn(&Workspace) -> Result<Vec<Line>>,
}

/// A group's name, and its figures.
type Figures = (&'static str, Vec<Line>);

/// One figure.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    /// What was done, such as `http1_get_1k`.
    pub(crate) case: String,
    /// Who did it: `agentguard` for ours.
    pub(crate) subject: String,
    /// What was measured, such as `latency_p50`.
    pub(crate) metric: String,
    /// In which unit, such as `us`.
    pub(crate) unit: String,
    /// Over the repetitions.
    pub(crate) median: f64,
    /// The smallest of them.
    pub(crate) min: f64,
    /// The largest of them.
    pub(crate) max: f64,
    /// The subject that this one is compared with.
    pub(crate) baseline: Option<String>,
    /// This median divided by the baseline's.
    pub(crate) ratio: Option<f64>,
}

/// There is no such group.
#[derive(Debug)]
pub(crate) struct UnknownGroup {
    asked: String,
    known: Vec<&'static str>,
}

impl fmt::Display for UnknownGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no bench group `{}`; there ", self.asked)?;
        match self.known.as_slice() {
            [] => write!(f, "are none yet"),
            known => write!(f, "are: {}", known.join(", ")),
        }
    }
}

impl std::error::Error for UnknownGroup {}

/// Measures one group or all of them, and writes the report.
///
/// # Errors
/// [`UnknownGroup`], or a measurement failed.
pub(crate) fn run(workspace: &Workspace, group: Option<&str>) -> Result<()> {
    setup::run(workspace, true)?;
    bpf::build(workspace)?;
    let groups = measure(workspace, GROUPS, group)?;
    let machine = report::Machine::look(workspace);
    let directory = workspace.target().join("bench");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let published = lines(&groups);
    let files = [
        ("report.json", json(&published)?),
        ("report.md", report::tables(&machine, &groups)),
        ("report.svg", report::chart(&groups)),
        ("machine.json", json(&machine)?),
    ];
    for (name, text) in files {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    eprintln!(
        "bench: {} figures in {}",
        published.len(),
        directory.display()
    );
    Ok(())
}

fn json(value: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// The figures of all groups, as they are published.
fn lines(groups: &[Figures]) -> Vec<&Line> {
    groups.iter().flat_map(|(_, lines)| lines).collect()
}

/// TLS that ends at the guard, beside the same client without it.
fn inspection(workspace: &Workspace) -> Result<Vec<Line>> {
    let samples = samples(workspace, &["bench-inspection"])?;
    Ok(summed_up(samples, &["unguarded"]))
}

/// What connections through the proxy cost, beside other proxies that carry the same.
fn proxy(workspace: &Workspace) -> Result<Vec<Line>> {
    let samples = samples(workspace, &["bench-proxy"])?;
    Ok(summed_up(samples, &["haproxy", "haproxy_tcp"]))
}

/// The start of the daemon, beside that of another proxy.
fn start(workspace: &Workspace) -> Result<Vec<Line>> {
    let samples = samples(workspace, &["bench-start"])?;
    Ok(summed_up(samples, &["haproxy"]))
}

/// Answers of the resolver from its cache, beside another one's.
fn dns(workspace: &Workspace) -> Result<Vec<Line>> {
    let samples = samples(workspace, &["bench-dns"])?;
    Ok(summed_up(samples, &["unbound"]))
}

/// The start of a command, beside the same without the guard; and that of another worker.
fn run_a_command(workspace: &Workspace) -> Result<Vec<Line>> {
    let samples = samples(workspace, &["bench-run"])?;
    Ok(summed_up(samples, &["unguarded"]))
}

/// What the kernel decides, beside the same client without the guard; and with many agents, beside a
/// guard with one.
fn gate(workspace: &Workspace) -> Result<Vec<Line>> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "agentguard-keeper"]);
    exec::run(cargo.args(["--example", "crowd"]))?;
    let crowd = workspace.target().join("release/examples/crowd");
    let samples = samples(workspace, &["bench-gate", &crowd.display().to_string()])?;
    Ok(summed_up(samples, &["unguarded", "one_agent"]))
}

/// Many connections, many agents, and more load than there are processors for: beside HAProxy, and beside one agent.
fn scale(workspace: &Workspace) -> Result<Vec<Line>> {
    let samples = samples(workspace, &["bench-scale"])?;
    Ok(summed_up(samples, &["haproxy", "one_agent"]))
}

/// Recorded decisions through a policy of many rules, beside one of few.
fn simulate(workspace: &Workspace) -> Result<Vec<Line>> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "agentguard-record"]);
    exec::run(cargo.args(["--example", "fill"]))?;
    let fill = workspace.target().join("release/examples/fill");
    let samples = samples(workspace, &["bench-simulate", &fill.display().to_string()])?;
    Ok(summed_up(samples, &["ten_rules"]))
}

/// How often the subjects of [`policy`] are measured, each taking its turn at being first.
const POLICY_ROUNDS: usize = 7;

/// A decision of the policy, beside another engine that decides the same calls by equivalent rules; and with
/// many rules, beside a policy with a hundred.
fn policy(workspace: &Workspace) -> Result<Vec<Line>> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "agentguard-policy"]);
    exec::run(cargo.args(["--example", "decisions"]))?;
    let decisions = workspace.target().join("release/examples/decisions");
    let cases = workspace.target().join("bench/policy");
    if cases.exists() {
        fs::remove_dir_all(&cases)?;
    }
    exec::run(Command::new(&decisions).arg("describe").arg(&cases))?;
    let mut samples = Vec::new();
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
            samples.extend(printed(&mut command)?);
        }
    }
    Ok(summed_up(
        samples,
        &["agent-governance-toolkit", "hundred_rules"],
    ))
}

/// How often the ledgers are measured.
const BUDGET_ROUNDS: usize = 7;

/// What it costs to reserve and to settle a call with five accounts, on one processor: in the ledger of one host beside a
/// write of as many bytes, and in the one that hosts share beside a round trip to the same server. And what forecasts cost of
/// accounts with a million calls, beside a list without them; with how long their ledger takes to open, beside a reading of
/// its files.
fn budget(workspace: &Workspace) -> Result<Vec<Line>> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "agentguard-budget"]);
    exec::run(cargo.args(["--example", "ledger"]))?;
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "agentguard-control"]);
    exec::run(cargo.args(["--example", "forecast"]))?;
    let forecast = workspace.target().join("release/examples/forecast");
    let ledger = workspace.target().join("release/examples/ledger");
    let directory = workspace.target().join("bench/budget");
    let mut samples = Vec::new();
    for _ in 0..BUDGET_ROUNDS {
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        // The thread that synchronises has the same processor.
        let mut embedded = Command::new("taskset");
        embedded.args(["--cpu-list", "0"]).arg(&ledger);
        samples.extend(printed(embedded.arg("embedded").arg(&directory))?);
        samples.extend(printed(Command::new(&ledger).arg("redis"))?);
    }
    fs::remove_dir_all(&directory)?;
    fs::create_dir_all(&directory)?;
    for task in ["charge", "ask"] {
        let mut command = Command::new(&forecast);
        samples.extend(printed(command.arg(task).arg(&directory))?);
    }
    fs::remove_dir_all(&directory)?;
    Ok(summed_up(
        samples,
        &["write_200_bytes", "redis_incr", "read_files", "listed"],
    ))
}

/// How often the decoders are measured.
const PROTOCOL_ROUNDS: usize = 7;

/// What decoding costs, beside a common parser of the same documents; and what it adds to the events of a stream
/// on their whole way, beside what a proxy adds that ends TLS too and reads nothing.
fn protocol(workspace: &Workspace) -> Result<Vec<Line>> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "agentguard-protocol"]);
    exec::run(cargo.args(["--example", "decoders"]))?;
    let decoders = workspace.target().join("release/examples/decoders");
    let mut samples = Vec::new();
    for _ in 0..PROTOCOL_ROUNDS {
        samples.extend(printed(&mut Command::new(&decoders))?);
    }
    samples.extend(self::samples(workspace, &["bench-sse"])?);
    Ok(summed_up(samples, &["serde_json", "haproxy"]))
}

/// What the optimised programs measure.
fn samples(workspace: &Workspace, task: &[&str]) -> Result<Vec<Sample>> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "agentguard"]);
    exec::run(cargo.args(["--package", "agentguard-tests", "--bins"]))?;
    let release = workspace.target().join("release");
    printed(
        Command::new(release.join("world"))
            .args(task)
            .env("AGENTGUARD_BIN", release.join("agentguard")),
    )
}

/// The samples that a program prints, one a line.
fn printed(program: &mut Command) -> Result<Vec<Sample>> {
    let output = program
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run `{}`", exec::line(program)))?;
    ensure!(
        output.status.success(),
        "`{}` ended with {}",
        exec::line(program),
        output.status
    );
    let samples = String::from_utf8(output.stdout)?;
    let samples = samples.lines().map(serde_json::from_str);
    Ok(samples.collect::<Result<_, _>>()?)
}

/// One measurement.
#[derive(Clone, Debug, Deserialize)]
struct Sample {
    case: String,
    subject: String,
    metric: String,
    unit: String,
    value: f64,
}

/// Samples of one thing as one figure, compared with the first baseline that has one.
fn summed_up(samples: Vec<Sample>, baselines: &[&str]) -> Vec<Line> {
    let mut figures: Vec<(Sample, Vec<f64>)> = Vec::new();
    for sample in samples {
        let same = |other: &Sample| {
            (&other.case, &other.subject, &other.metric)
                == (&sample.case, &sample.subject, &sample.metric)
        };
        match figures.iter_mut().find(|(first, _)| same(first)) {
            Some((_, values)) => values.push(sample.value),
            None => figures.push((sample.clone(), vec![sample.value])),
        }
    }
    for (_, values) in &mut figures {
        values.sort_by(f64::total_cmp);
    }
    let median = |values: &[f64]| values.get(values.len() / 2).copied().unwrap_or_default();
    let lines = figures.iter().map(|(of, values)| {
        let is_baseline = |subject: &str| baselines.contains(&subject);
        let other = figures.iter().find(|(other, _)| {
            !is_baseline(&of.subject)
                && is_baseline(&other.subject)
                && (&other.case, &other.metric) == (&of.case, &of.metric)
        });
        Line {
            case: of.case.clone(),
            subject: of.subject.clone(),
            metric: of.metric.clone(),
            unit: of.unit.clone(),
            median: median(values),
            min: values.first().copied().unwrap_or_default(),
            max: values.last().copied().unwrap_or_default(),
            baseline: other.map(|(other, _)| other.subject.clone()),
            ratio: other.map(|(_, others)| median(values) / median(others)),
        }
    });
    lines.collect()
}

fn measure(workspace: &Workspace, groups: &[Group], only: Option<&str>) -> Result<Vec<Figures>> {
    if let Some(asked) = only
        && !groups.iter().any(|group| group.name == asked)
    {
        return Err(UnknownGroup {
            asked: asked.to_owned(),
            known: groups.iter().map(|group| group.name).collect(),
        }
        .into());
    }
    let mut report = Vec::new();
    for group in groups {
        if only.is_none_or(|only| only == group.name) {
            eprintln!("bench: {}", group.name);
            let lines = (group.measure)(workspace);
            let lines = lines.with_context(|| format!("bench group {}", group.name))?;
            report.push((group.name, lines));
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(_: &Workspace) -> Result<Vec<Line>> {
        Ok(vec![Line {
            case: "connect".into(),
            subject: "agentguard".into(),
            metric: "latency_p50".into(),
            unit: "us".into(),
            median: 3.0,
            min: 2.0,
            max: 5.0,
            baseline: Some("direct".into()),
            ratio: Some(1.5),
        }])
    }

    const TWO: &[Group] = &[
        Group {
            name: "flow",
            measure: line,
        },
        Group {
            name: "names",
            measure: line,
        },
    ];

    #[test]
    fn a_report_line_has_the_published_fields() {
        let workspace = Workspace::find().unwrap();
        let report = measure(&workspace, TWO, Some("flow")).unwrap();
        assert_eq!(
            serde_json::to_value(lines(&report)).unwrap(),
            serde_json::json!([{
                "case": "connect", "subject": "agentguard", "metric": "latency_p50", "unit": "us",
                "median": 3.0, "min": 2.0, "max": 5.0, "baseline": "direct", "ratio": 1.5,
            }])
        );
        assert_eq!(measure(&workspace, TWO, None).unwrap().len(), 2);
    }

    #[test]
    fn samples_are_compared_with_the_same_of_the_baseline() {
        let sample = |subject: &str, value| Sample {
            case: "get".into(),
            subject: subject.into(),
            metric: "latency_p50".into(),
            unit: "us".into(),
            value,
        };
        let samples = [
            ("none", 2.0),
            ("us", 9.0),
            ("none", 4.0),
            ("us", 3.0),
            ("none", 3.0),
            ("us", 6.0),
        ];
        let samples = samples.map(|(subject, value)| sample(subject, value));
        let lines = summed_up(samples.to_vec(), &["none"]);
        let gist: Vec<_> = lines
            .iter()
            .map(|line| {
                (
                    line.subject.as_str(),
                    line.min,
                    line.median,
                    line.max,
                    line.ratio,
                )
            })
            .collect();
        assert_eq!(
            gist,
            [
                ("none", 2.0, 3.0, 4.0, None),
                ("us", 3.0, 6.0, 9.0, Some(2.0))
            ]
        );
    }

    #[test]
    fn an_unknown_group_names_the_known_ones() {
        let workspace = Workspace::find().unwrap();
        let error = measure(&workspace, TWO, Some("speed")).unwrap_err();
        assert_eq!(
            error.downcast_ref::<UnknownGroup>().unwrap().to_string(),
            "no bench group `speed`; there are: flow, names"
        );
        let error = measure(&workspace, &[], Some("speed")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no bench group `speed`; there are none yet"
        );
    }
}

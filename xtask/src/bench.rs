//! Measures, and writes `target/bench/report.json`, with the same as tables behind the targets (`report.md`), a chart of the
//! targets (`report.svg`) and the machine (`machine.json`); of one group in a directory of its name.
//!
//! Speed is judged as a ratio of two subjects in one run on one machine; absolute figures are
//! reported and never tested.

mod groups;
mod report;
mod targets;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::workspace::Workspace;
use crate::{bpf, setup};
use groups::GROUPS;

/// Whose figures are ours.
const OURS: &str = "agentguard";

/// What is measured of something.
struct Group {
    name: &'static str,
    measure: fn(&Workspace, &Asked<'_>, &mut Samples) -> Result<()>,
    /// Whom ours is compared with.
    baselines: &'static [&'static str],
    /// Whether it is measured where nobody names it.
    always: bool,
}

/// What is to be measured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked<'a> {
    /// This group alone.
    pub(crate) group: Option<&'a str>,
    /// How long the soak goes on. Without, it does where it is named.
    pub(crate) minutes: Option<u32>,
    /// Of the program of `build --trained`, and not as `build --release` makes it.
    pub(crate) trained: bool,
}

impl Asked<'_> {
    fn has(&self, group: &Group) -> bool {
        match self.group {
            Some(name) => name == group.name,
            None => group.always || self.minutes.is_some(),
        }
    }
}

/// What was measured of a group.
#[derive(Debug)]
struct Figures {
    group: &'static str,
    lines: Vec<Line>,
    /// Why there are no more of them.
    failed: Option<String>,
}

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

/// Measures one group or all of them, and writes the report: after each group, so that what was measured stays, whatever
/// becomes of the next.
///
/// # Errors
/// [`UnknownGroup`], or a measurement failed: once those of other groups are over and the report is written.
pub(crate) fn run(workspace: &Workspace, asked: &Asked<'_>) -> Result<()> {
    known(GROUPS, asked)?;
    setup::run(workspace, true)?;
    bpf::build(workspace)?;
    let machine = report::Machine::look(workspace, asked);
    let directory = reports(workspace, asked.group);
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let groups = measure(workspace, GROUPS, asked, |groups| {
        write(&directory, &machine, groups)
    })?;
    eprintln!(
        "bench: {} figures in {}; {}",
        lines(&groups).len(),
        directory.display(),
        targets::summary(&groups)
    );
    all_went_well(&groups)
}

/// Where the report of a group is, or of all of them: what was measured of all stays.
fn reports(workspace: &Workspace, group: Option<&str>) -> PathBuf {
    let mut directory = workspace.target().join("bench");
    directory.extend(group);
    directory
}

fn write(directory: &Path, machine: &report::Machine, groups: &[Figures]) -> Result<()> {
    let files = [
        ("report.json", json(&lines(groups))?),
        ("report.md", report::tables(machine, groups)),
        ("report.svg", report::chart(&targets::away(groups))),
        ("machine.json", json(machine)?),
    ];
    for (name, text) in files {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// # Errors
/// A group failed: which, and why.
fn all_went_well(groups: &[Figures]) -> Result<()> {
    let failed = groups.iter().filter_map(|figures| {
        let why = figures.failed.as_ref()?;
        Some(format!("{}: {why}", figures.group))
    });
    let failed: Vec<String> = failed.collect();
    ensure!(
        failed.is_empty(),
        "not all was measured: {}",
        failed.join("; ")
    );
    Ok(())
}

fn json(value: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// The figures of all groups, as they are published.
fn lines(groups: &[Figures]) -> Vec<&Line> {
    groups.iter().flat_map(|figures| &figures.lines).collect()
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

/// What was measured until now.
type Samples = Vec<Sample>;

/// Of two in the middle their mean.
fn median(sorted: &[f64]) -> f64 {
    let at = |place: usize| sorted.get(place).copied().unwrap_or_default();
    f64::midpoint(at(sorted.len().saturating_sub(1) / 2), at(sorted.len() / 2))
}

/// Samples of one thing as one figure, compared with the first baseline that has one.
fn summed_up(samples: Samples, baselines: &[&str]) -> Vec<Line> {
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

/// # Errors
/// [`UnknownGroup`], or minutes for what takes its own time.
fn known(groups: &[Group], asked: &Asked<'_>) -> Result<()> {
    let Some(name) = asked.group else {
        return Ok(());
    };
    let group = groups.iter().find(|group| group.name == name);
    let group = group.ok_or_else(|| UnknownGroup {
        asked: name.to_owned(),
        known: groups.iter().map(|group| group.name).collect(),
    })?;
    ensure!(
        asked.minutes.is_none() || !group.always,
        "`{name}` takes as long as it takes: minutes are for the soak"
    );
    Ok(())
}

/// Measures the groups that are asked for, one after the other, also behind one that fails; and has what there is `kept`
/// each time.
fn measure(
    workspace: &Workspace,
    groups: &[Group],
    asked: &Asked<'_>,
    mut kept: impl FnMut(&[Figures]) -> Result<()>,
) -> Result<Vec<Figures>> {
    let mut measured = Vec::new();
    for group in groups.iter().filter(|group| asked.has(group)) {
        eprintln!("bench: {}", group.name);
        let mut samples = Samples::new();
        let done = (group.measure)(workspace, asked, &mut samples);
        let failed = done.err().map(|error| format!("{error:#}"));
        if let Some(why) = &failed {
            eprintln!("bench: {} failed: {why}", group.name);
        }
        measured.push(Figures {
            group: group.name,
            lines: summed_up(samples, group.baselines),
            failed,
        });
        kept(&measured)?;
    }
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(_: &Workspace, _: &Asked<'_>, samples: &mut Samples) -> Result<()> {
        for (subject, value) in [("direct", 2.0), ("agentguard", 3.0)] {
            samples.push(Sample {
                case: "connect".into(),
                subject: subject.into(),
                metric: "latency_p50".into(),
                unit: "us".into(),
                value,
            });
        }
        Ok(())
    }

    fn broken(workspace: &Workspace, asked: &Asked<'_>, samples: &mut Samples) -> Result<()> {
        one(workspace, asked, samples)?;
        anyhow::bail!("a client ended")
    }

    fn minutes(_: &Workspace, asked: &Asked<'_>, samples: &mut Samples) -> Result<()> {
        samples.push(Sample {
            case: "soak".into(),
            subject: "agentguard".into(),
            metric: "minutes".into(),
            unit: "min".into(),
            value: asked.minutes.map_or(60.0, f64::from),
        });
        Ok(())
    }

    const fn group(
        name: &'static str,
        measure: fn(&Workspace, &Asked<'_>, &mut Samples) -> Result<()>,
        always: bool,
    ) -> Group {
        Group {
            name,
            measure,
            baselines: &["direct"],
            always,
        }
    }

    const SOME: &[Group] = &[
        group("flow", one, true),
        group("broken", broken, true),
        group("names", one, true),
        group("soak", minutes, false),
    ];

    fn measured(name: Option<&str>, minutes: Option<u32>) -> Vec<Figures> {
        let workspace = Workspace::find().unwrap();
        let asked = Asked {
            group: name,
            minutes,
            ..Asked::default()
        };
        measure(&workspace, SOME, &asked, |_| Ok(())).unwrap()
    }

    fn names(groups: &[Figures]) -> Vec<&str> {
        groups.iter().map(|figures| figures.group).collect()
    }

    #[test]
    fn a_report_line_has_the_published_fields() {
        let report = measured(Some("flow"), None);
        assert_eq!(
            serde_json::to_value(lines(&report)).unwrap(),
            serde_json::json!([
                {
                    "case": "connect", "subject": "direct", "metric": "latency_p50", "unit": "us",
                    "median": 2.0, "min": 2.0, "max": 2.0, "baseline": null, "ratio": null,
                },
                {
                    "case": "connect", "subject": "agentguard", "metric": "latency_p50", "unit": "us",
                    "median": 3.0, "min": 3.0, "max": 3.0, "baseline": "direct", "ratio": 1.5,
                },
            ])
        );
        assert!(all_went_well(&report).is_ok());
    }

    #[test]
    fn a_group_that_fails_takes_nothing_from_the_others_and_is_named_at_the_end() {
        let workspace = Workspace::find().unwrap();
        let mut kept = Vec::new();
        let groups = measure(&workspace, SOME, &Asked::default(), |groups| {
            kept.push(lines(groups).len());
            Ok(())
        });
        let groups = groups.unwrap();
        assert_eq!(names(&groups), ["flow", "broken", "names"]);
        // What it had measured until then is there, and each time all that there is was kept.
        assert_eq!(kept, [2, 4, 6]);
        assert_eq!(
            all_went_well(&groups).unwrap_err().to_string(),
            "not all was measured: broken: a client ended"
        );
    }

    #[test]
    fn a_soak_is_measured_where_it_is_named_or_its_minutes_are() {
        assert_eq!(names(&measured(Some("soak"), None)), ["soak"]);
        let with = measured(None, Some(5));
        assert_eq!(names(&with), ["flow", "broken", "names", "soak"]);
        assert_eq!(lines(&with).last().unwrap().median, 5.0);
        let asked = |group, minutes| Asked {
            group,
            minutes,
            ..Asked::default()
        };
        assert!(known(SOME, &asked(Some("soak"), Some(5))).is_ok());
        assert!(known(SOME, &asked(None, Some(5))).is_ok());
        let error = known(SOME, &asked(Some("flow"), Some(5))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`flow` takes as long as it takes: minutes are for the soak"
        );
    }

    #[test]
    fn all_groups_are_measured_but_the_soak() {
        let asked = Asked::default();
        let all = GROUPS.iter().filter(|group| asked.has(group));
        let all: Vec<_> = all.map(|group| group.name).collect();
        assert_eq!(
            all,
            [
                "budget",
                "dns",
                "gate",
                "inspection",
                "policy",
                "protocol",
                "proxy",
                "run",
                "scale",
                "simulate",
                "start"
            ]
        );
        let named = |name| GROUPS.iter().any(|group| group.name == name);
        assert!(named("soak"));
        for target in targets::TARGETS {
            assert!(named(target.group), "{}", target.group);
        }
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
        let asked = Asked {
            group: Some("speed"),
            minutes: None,
            ..Asked::default()
        };
        let error = known(SOME, &asked).unwrap_err();
        assert_eq!(
            error.downcast_ref::<UnknownGroup>().unwrap().to_string(),
            "no bench group `speed`; there are: flow, broken, names, soak"
        );
        let error = known(&[], &asked).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no bench group `speed`; there are none yet"
        );
    }
}

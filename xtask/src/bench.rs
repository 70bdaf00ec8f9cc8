//! Measures, and writes `target/bench/report.json`.
//!
//! Speed is judged as a ratio of two subjects in one run on one machine; absolute figures are
//! reported and never tested.

use std::fmt;
use std::fs;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::workspace::Workspace;

/// The groups, each a name and what measures it. None yet: each comes with the work it measures.
const GROUPS: &[Group] = &[];

struct Group {
    name: &'static str,
    measure: fn(&Workspace) -> Result<Vec<Line>>,
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

/// Measures one group or all of them, and writes the report.
///
/// # Errors
/// [`UnknownGroup`], or a measurement failed.
pub(crate) fn run(workspace: &Workspace, group: Option<&str>) -> Result<()> {
    let report = measure(workspace, GROUPS, group)?;
    let directory = workspace.target().join("bench");
    let path = directory.join("report.json");
    let mut text = serde_json::to_string_pretty(&report)?;
    text.push('\n');
    fs::create_dir_all(&directory)
        .and_then(|()| fs::write(&path, text))
        .with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("bench: {} figures in {}", report.len(), path.display());
    Ok(())
}

fn measure(workspace: &Workspace, groups: &[Group], only: Option<&str>) -> Result<Vec<Line>> {
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
            report.extend(lines.with_context(|| format!("bench group {}", group.name))?);
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
            serde_json::to_value(&report).unwrap(),
            serde_json::json!([{
                "case": "connect", "subject": "agentguard", "metric": "latency_p50", "unit": "us",
                "median": 3.0, "min": 2.0, "max": 5.0, "baseline": "direct", "ratio": 1.5,
            }])
        );
        assert_eq!(measure(&workspace, TWO, None).unwrap().len(), 2);
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

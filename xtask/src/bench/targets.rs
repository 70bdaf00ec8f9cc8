//! What is to be reached, and whether it is.
//!
//! A target is a ratio to what somebody else does in the same run, or a figure of ours where there is nobody. One that is
//! not met is no error: it is to be seen, and explained in `docs/performance.md`.

use std::fmt::Write as _;

use super::report::figure;
use super::{Figures, Line, OURS};

/// One of them.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) id: &'static str,
    pub(super) group: &'static str,
    pub(super) case: &'static str,
    pub(super) metric: &'static str,
    /// Whose figure ours is a multiple of; none: it is in the metric's unit.
    pub(super) of: Option<&'static str>,
    pub(super) bound: Bound,
}

/// What the figure has to be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// It is only to be told.
    Told,
}

use Bound::{AtLeast, AtMost, Told};

const fn target(
    id: &'static str,
    group: &'static str,
    [case, metric]: [&'static str; 2],
    of: &'static str,
    bound: Bound,
) -> Target {
    Target {
        id,
        group,
        case,
        metric,
        of: Some(of),
        bound,
    }
}

const fn own(
    id: &'static str,
    group: &'static str,
    [case, metric]: [&'static str; 2],
    bound: Bound,
) -> Target {
    Target {
        id,
        group,
        case,
        metric,
        of: None,
        bound,
    }
}

/// All of them, in the order in which they are told.
#[rustfmt::skip]
pub(super) const TARGETS: &[Target] = &[
    target("inspect-h1", "proxy", ["inspect-h1", "cpu_per_request"], "haproxy", AtMost(1.0)),
    target("inspect-h1", "proxy", ["inspect-h1", "requests_per_s"], "haproxy", AtLeast(1.0)),
    target("inspect-h1", "proxy", ["inspect-h1", "latency_p99"], "haproxy", AtMost(1.0)),
    target("inspect-h1", "proxy", ["inspect-h1", "requests_per_s"], "mitmproxy", AtLeast(60.0)),
    target("inspect-h2", "proxy", ["inspect-h2", "cpu_per_request"], "haproxy", AtMost(1.0)),
    target("inspect-h2", "proxy", ["inspect-h2", "requests_per_s"], "haproxy", AtLeast(1.0)),
    target("inspect-h2", "proxy", ["inspect-h2", "latency_p99"], "haproxy", AtMost(1.0)),
    target("inspect-h2", "proxy", ["inspect-h2", "requests_per_s"], "mitmproxy", AtLeast(60.0)),
    target("inspect-new", "proxy", ["inspect-new", "requests_per_s"], "haproxy", AtLeast(0.8)),
    target("splice", "proxy", ["splice", "throughput"], "haproxy_tcp", AtLeast(0.95)),
    target("splice", "proxy", ["splice", "cpu_per_gb"], "haproxy_tcp", AtMost(1.1)),
    target("direct", "gate", ["direct", "throughput"], "unguarded", AtLeast(0.97)),
    target("direct", "gate", ["connect", "connect_p50"], "unguarded", Told),
    target("latency", "proxy", ["latency", "latency_p50_added"], "haproxy", AtMost(1.5)),
    target("latency", "proxy", ["latency", "latency_p99_added"], "haproxy", AtMost(2.0)),
    target("sse", "protocol", ["sse", "first_event_added"], "haproxy", AtMost(2.0)),
    target("sse", "protocol", ["sse", "event_delay_added"], "haproxy", AtMost(2.0)),
    target("dns", "dns", ["dns", "requests_per_s"], "unbound", AtLeast(0.8)),
    target("dns", "dns", ["dns-pairs", "requests_per_s"], "unbound", AtLeast(0.8)),
    target("start", "start", ["start", "time_to_serve"], "haproxy", AtMost(3.0)),
    // 60 MB, of keeper and worker together; and 40 KB.
    own("memory", "proxy", ["idle", "resident"], AtMost(60e6 / 1024.0)),
    own("memory", "proxy", ["idle-connection", "memory_per_connection"], AtMost(40e3)),
];

/// What is to be said of one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reached {
    Met,
    NotMet,
    Told,
    NotMeasured,
}

impl Reached {
    const fn word(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::NotMet => "not met",
            Self::Told => "",
            Self::NotMeasured => "not measured",
        }
    }
}

impl Target {
    fn line<'f>(&self, groups: &'f [Figures], subject: &str) -> Option<&'f Line> {
        // What failed on its way has figures of some rounds, or of none: that is no measurement.
        let whole = |it: &&Figures| it.group == self.group && it.failed.is_none();
        let figures = groups.iter().find(whole)?;
        figures.lines.iter().find(|line| {
            (
                line.case.as_str(),
                line.metric.as_str(),
                line.subject.as_str(),
            ) == (self.case, self.metric, subject)
        })
    }

    /// Our figure, and the other's where there has to be one.
    fn measured<'f>(&self, groups: &'f [Figures]) -> Option<(&'f Line, Option<&'f Line>)> {
        let ours = self.line(groups, OURS)?;
        match self.of {
            Some(other) => Some((ours, Some(self.line(groups, other)?))),
            None => Some((ours, None)),
        }
    }

    fn reached(&self, groups: &[Figures]) -> Reached {
        let Some((ours, other)) = self.measured(groups) else {
            return Reached::NotMeasured;
        };
        // What is added may be less than nothing by chance: who adds more than nothing then has not met it, and who does not
        // has, which no quotient would say.
        let of = other.map_or(1.0, |other| other.median.max(0.0));
        let met = match self.bound {
            AtMost(most) => ours.median <= most * of,
            AtLeast(least) => ours.median >= least * of,
            Told => return Reached::Told,
        };
        match met {
            true => Reached::Met,
            false => Reached::NotMet,
        }
    }

    /// How far our figure is from the bound, as a multiple: 1 is at it, and what is more does not meet it. None: it is not
    /// measured, or only told, or no quotient says it.
    fn away(&self, groups: &[Figures]) -> Option<f64> {
        let (ours, other) = self.measured(groups)?;
        let figure = ours.median / other.map_or(1.0, |other| other.median);
        let away = match self.bound {
            AtMost(most) => figure / most,
            AtLeast(least) => least / figure,
            Told => return None,
        };
        (away.is_finite() && away > 0.0).then_some(away)
    }

    /// What is to be reached, of a figure in this unit.
    fn words(&self, unit: &str) -> String {
        let unit = match self.of {
            Some(other) => format!(" × {other}"),
            None if unit.is_empty() => String::new(),
            None => format!(" {unit}"),
        };
        match self.bound {
            AtMost(most) => format!("≤ {}{unit}", figure(most)),
            AtLeast(least) => format!("≥ {}{unit}", figure(least)),
            Told => format!("told,{unit}"),
        }
    }

    fn row(&self, groups: &[Figures]) -> [String; 5] {
        let (measured, unit) = match self.measured(groups) {
            None => (String::new(), ""),
            Some((ours, None)) => (spread(ours), ours.unit.as_str()),
            Some((ours, Some(other))) => {
                let [own, others] = [ours, other].map(spread);
                let ratio = figure(ours.median / other.median);
                (format!("{ratio}: {own} to {others} {}", ours.unit), "")
            }
        };
        let bound = self.words(unit);
        let what = format!("{}, {}", self.case, self.metric);
        let measured = match self.of {
            None if !measured.is_empty() => format!("{measured} {unit}"),
            _ => measured,
        };
        let reached = self.reached(groups).word().to_owned();
        [self.id.to_owned(), what, measured, bound, reached]
    }
}

/// The median, and the least and the most.
fn spread(line: &Line) -> String {
    let [median, min, max] = [line.median, line.min, line.max].map(figure);
    format!("{median} ({min}–{max})")
}

/// How far each is from what it is to be that was measured, and what that is.
pub(super) fn away(groups: &[Figures]) -> Vec<(String, f64)> {
    let away = TARGETS.iter().filter_map(|target| {
        let away = target.away(groups)?;
        let unit = target.measured(groups).map_or("", |(ours, _)| &ours.unit);
        let name = format!("{} {} {}", target.case, target.metric, target.words(unit));
        Some((name, away))
    });
    away.collect()
}

/// A row for each, also for those that were not measured.
pub(super) fn table(groups: &[Figures]) -> String {
    let mut text =
        "| id | case | measured | target | reached |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for target in TARGETS {
        // Writing to a string does not fail.
        let _ = writeln!(text, "| {} |", target.row(groups).join(" | "));
    }
    text
}

/// How many are met, in words.
pub(super) fn summary(groups: &[Figures]) -> String {
    let count = |what| {
        let all = TARGETS.iter().map(|target| target.reached(groups));
        all.filter(|reached| *reached == what).count()
    };
    format!(
        "{} targets met, {} not met, {} not measured",
        count(Reached::Met),
        count(Reached::NotMet),
        count(Reached::NotMeasured)
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::workspace::Workspace;

    fn line(case: &str, metric: &str, subject: &str, median: f64) -> Line {
        Line {
            case: case.into(),
            subject: subject.into(),
            metric: metric.into(),
            unit: "u".into(),
            median,
            min: median / 2.0,
            max: median * 2.0,
            baseline: None,
            ratio: None,
        }
    }

    fn groups(group: &'static str, lines: Vec<Line>) -> Vec<Figures> {
        vec![Figures {
            group,
            lines,
            failed: None,
        }]
    }

    fn rows(groups: &[Figures]) -> Vec<String> {
        let rows = table(groups);
        let rows = rows.lines().skip(2).map(str::to_owned);
        rows.filter(|row| !row.ends_with("| not measured |"))
            .collect()
    }

    #[test]
    fn a_target_is_met_by_our_figure_beside_the_one_it_names() {
        let of = |metric: &str, ours, haproxy, mitmproxy| {
            let line = |subject, median| line("inspect-h1", metric, subject, median);
            [
                line("mitmproxy", mitmproxy),
                line("haproxy", haproxy),
                line(OURS, ours),
            ]
        };
        let mut lines = Vec::from(of("cpu_per_request", 50.0, 50.0, 900.0));
        lines.extend(of("requests_per_s", 3_000.0, 4_000.0, 50.0));
        lines.extend(of("latency_p99", 51.0, 50.0, 9_000.0));
        let groups = groups("proxy", lines);
        assert_eq!(
            rows(&groups),
            [
                "| inspect-h1 | inspect-h1, cpu_per_request | 1.00: 50.0 (25.0–100) to 50.0 (25.0–100) u | ≤ 1.00 × haproxy | met |",
                "| inspect-h1 | inspect-h1, requests_per_s | 0.750: 3000 (1500–6000) to 4000 (2000–8000) u | ≥ 1.00 × haproxy | not met |",
                "| inspect-h1 | inspect-h1, latency_p99 | 1.02: 51.0 (25.5–102) to 50.0 (25.0–100) u | ≤ 1.00 × haproxy | not met |",
                "| inspect-h1 | inspect-h1, requests_per_s | 60.0: 3000 (1500–6000) to 50.0 (25.0–100) u | ≥ 60.0 × mitmproxy | met |",
            ]
        );
        let away = away(&groups);
        let away = away.iter().map(|(name, away)| (name.as_str(), *away));
        assert_eq!(
            away.collect::<Vec<_>>(),
            [
                ("inspect-h1 cpu_per_request ≤ 1.00 × haproxy", 1.0),
                ("inspect-h1 requests_per_s ≥ 1.00 × haproxy", 4.0 / 3.0),
                ("inspect-h1 latency_p99 ≤ 1.00 × haproxy", 1.02),
                ("inspect-h1 requests_per_s ≥ 60.0 × mitmproxy", 1.0),
            ]
        );
        let others = TARGETS.len() - 4;
        let summary = summary(&groups);
        assert_eq!(
            summary,
            format!("2 targets met, 2 not met, {others} not measured")
        );
    }

    #[test]
    fn what_is_nobodys_multiple_is_in_its_unit_and_what_is_only_told_has_no_bound() {
        let idle = groups("proxy", vec![line("idle", "resident", OURS, 58_594.0)]);
        let row = "| memory | idle, resident | 58594 (29297–117188) u | ≤ 58594 u | not met |";
        assert_eq!(rows(&idle), [row]);
        let subjects = [("unguarded", 16.0), (OURS, 21.0)];
        let lines = subjects.map(|(subject, us)| line("connect", "connect_p50", subject, us));
        let row = "| direct | connect, connect_p50 | 1.31: 21.0 (10.5–42.0) to 16.0 (8.00–32.0) u | told, × unguarded |  |";
        assert_eq!(rows(&groups("gate", Vec::from(lines))), [row]);
    }

    #[test]
    fn without_the_other_or_of_another_group_nothing_is_measured() {
        let ours = vec![line("start", "time_to_serve", OURS, 500.0)];
        assert_eq!(rows(&groups("start", ours)), [""; 0]);
        let both = |group| {
            let lines = [("haproxy", 100.0), (OURS, 300.0)];
            let lines = lines.map(|(subject, ms)| line("start", "time_to_serve", subject, ms));
            groups(group, Vec::from(lines))
        };
        assert_eq!(rows(&both("start")).len(), 1);
        assert_eq!(rows(&both("run")), [""; 0]);
        let mut failed = both("start");
        failed[0].failed = Some("a client ended".into());
        assert_eq!(rows(&failed), [""; 0]);
        // All are in the table all the same.
        assert_eq!(table(&[]).lines().count(), TARGETS.len() + 2);
    }

    #[test]
    fn more_than_nothing_is_not_met_where_the_other_added_less_than_nothing() {
        let added = |ours, haproxy| {
            let lines = [("haproxy", haproxy), (OURS, ours)];
            let lines =
                lines.map(|(subject, us)| line("latency", "latency_p50_added", subject, us));
            let groups = groups("proxy", Vec::from(lines));
            let target = TARGETS
                .iter()
                .find(|target| target.metric == "latency_p50_added");
            target.unwrap().reached(&groups)
        };
        assert_eq!(added(150.0, 100.0), Reached::Met);
        assert_eq!(added(151.0, 100.0), Reached::NotMet);
        assert_eq!(added(10.0, -10.0), Reached::NotMet);
        assert_eq!(added(-5.0, -10.0), Reached::Met);
    }

    /// What the sources of the measurements have, all of it.
    fn sources(directory: &Path, text: &mut String) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => sources(&path, text),
                false => *text += &fs::read_to_string(path).unwrap(),
            }
        }
    }

    #[test]
    fn what_targets_name_is_measured() {
        let workspace = Workspace::find().unwrap();
        let mut text = String::new();
        sources(&workspace.root().join("tests/src/bench"), &mut text);
        for target in TARGETS {
            for name in [target.case, target.metric].into_iter().chain(target.of) {
                assert!(text.contains(&format!("\"{name}\"")), "{name}");
            }
        }
    }
}

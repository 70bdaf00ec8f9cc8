//! The figures as people read them: tables in Markdown and a chart in SVG, and what machine they are of.

use std::fmt::Write as _;
use std::fs;
use std::iter;
use std::process::Command;

use serde::Serialize;

use super::{Asked, Figures, Line, OURS, targets};
use crate::setup;
use crate::workspace::Workspace;

/// What was measured on, and beside what.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    pub(super) kernel: String,
    pub(super) processor: String,
    pub(super) processors: usize,
    /// In MiB.
    pub(super) memory: u64,
    /// What was measured, and whether something in it had no commit yet.
    pub(super) commit: String,
    /// Ours, the programs beside us and those that send the load: name, and what it says of its version.
    pub(super) versions: Vec<(String, String)>,
}

impl Machine {
    /// Looks at this one. What is not there has no version.
    pub(super) fn look(workspace: &Workspace, asked: &Asked<'_>) -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let mitmdump = setup::mitmproxy(workspace).join("bin/mitmdump");
        let mitmdump = mitmdump.display().to_string();
        let programs = [
            ("rustc", "rustc", "--version"),
            ("openssl", "openssl", "version"),
            ("haproxy", "haproxy", "-v"),
            ("nginx", "nginx", "-v"),
            ("squid", "squid", "-v"),
            ("mitmproxy", mitmdump.as_str(), "--version"),
            ("unbound", "unbound", "-V"),
            ("redis", "redis-server", "--version"),
            ("h2load", "h2load", "--version"),
            ("dnsperf", "dnsperf", "-h"),
        ];
        let ours = match asked.trained {
            true => {
                "by the last profile of `build --trained`; examples (`policy`, `budget`, decoders) as `build --release`"
            }
            false => "as `build --release` makes it, as all examples",
        };
        let ours = ("agentguard".to_owned(), ours.to_owned());
        let others = programs.into_iter().filter_map(|(name, program, option)| {
            Some((name.to_owned(), version(program, option)?))
        });
        Self {
            kernel: kernel.trim().to_owned(),
            processor: model(&cpuinfo),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory: memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            commit: version_of(workspace),
            versions: iter::once(ours).chain(others).collect(),
        }
    }
}

/// The first line with a figure that a program says when it is asked for its version, on whichever stream.
fn version(program: &str, option: &str) -> Option<String> {
    let output = Command::new(program).arg(option).output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let mut lines = said.lines();
    let line = lines.find(|line| line.contains(|letter: char| letter.is_ascii_digit()))?;
    Some(line.trim().to_owned())
}

/// The commit of the working tree.
fn version_of(workspace: &Workspace) -> String {
    let mut git = Command::new("git");
    git.current_dir(workspace.root());
    let described = git.args(["describe", "--always", "--dirty", "--abbrev=8"]);
    let said = described.output().ok().filter(|it| it.status.success());
    let said = said.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned());
    said.unwrap_or_else(|| "unknown".to_owned())
}

/// All memory in `/proc/meminfo`, in MiB.
fn memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|it| it.strip_prefix("MemTotal:"));
    let kib = line.and_then(|it| it.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

/// The model of the first processor in `/proc/cpuinfo`.
fn model(cpuinfo: &str) -> String {
    let lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let mut models = lines.filter(|(name, _)| name.trim() == "model name");
    let model = models.next().map(|(_, model)| model.trim());
    model.unwrap_or("unknown").to_owned()
}

/// What the targets are and whether they are met; what failed; and tables by group: each line is what was measured of a
/// case, ours beside the others'.
pub(super) fn tables(machine: &Machine, groups: &[Figures]) -> String {
    let mut text = String::from("# Measurements\n\n");
    let processors = match machine.processors {
        1 => "1 processor".to_owned(),
        several => format!("{several} processors"),
    };
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "Linux {}, {processors} ({}), {} MiB; commit {}.",
        machine.kernel, machine.processor, machine.memory, machine.commit
    );
    for (name, version) in &machine.versions {
        let _ = writeln!(text, "- {name}: {version}");
    }
    text += "\n## targets\n\n";
    text += &targets::table(groups);
    for figures in groups {
        if let Some(why) = &figures.failed {
            let _ = writeln!(
                text,
                "\n**{} failed**, and is not complete: {why}",
                figures.group
            );
        }
    }
    text += "\nMedians, with the smallest and the largest in brackets; the ratio is that of ours to the baseline.\n";
    for Figures { group, lines, .. } in groups {
        let _ = write!(
            text,
            "\n## {group}\n\n\
             | case | what | with the guard | others | baseline | ratio |\n\
             | --- | --- | --- | --- | --- | --- |\n"
        );
        for (first, same) in rows(lines) {
            let ours = same.iter().find(|line| line.subject == OURS);
            let others = same.iter().filter(|line| line.subject != OURS);
            let others = others.map(|line| format!("{}: {}", line.subject, spread(line)));
            let others: Vec<String> = others.collect();
            let baseline = ours.and_then(|ours| ours.baseline.as_deref());
            let ratio = ours.and_then(|ours| ours.ratio);
            let cells = [
                first.case.clone(),
                format!("{}, {}", first.metric, first.unit),
                ours.map(|line| spread(line)).unwrap_or_default(),
                others.join("; "),
                baseline.unwrap_or_default().to_owned(),
                ratio.map(figure).unwrap_or_default(),
            ];
            let cells = cells.map(|cell| cell.replace('|', "\\|"));
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
    }
    text
}

/// Lines of one case and metric, in the order in which each came first.
fn rows(lines: &[Line]) -> Vec<(&Line, Vec<&Line>)> {
    let mut rows: Vec<(&Line, Vec<&Line>)> = Vec::new();
    for line in lines {
        let same = |(first, _): &&mut (&Line, Vec<&Line>)| {
            (&first.case, &first.metric) == (&line.case, &line.metric)
        };
        match rows.iter_mut().find(same) {
            Some((_, row)) => row.push(line),
            None => rows.push((line, vec![line])),
        }
    }
    rows
}

fn spread(line: &Line) -> String {
    let [median, min, max] = [line.median, line.min, line.max].map(figure);
    if min == max {
        return median;
    }
    format!("{median} ({min}–{max})")
}

/// Three figures, or all those before the point.
pub(super) fn figure(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// Height of a bar with what is between it and the next.
const ROW: f64 = 18.0;
/// Where bars begin, how long the longest are, and what is beside them for their figures.
const LEFT: f64 = 380.0;
const WIDTH: f64 = 480.0;
const RIGHT: f64 = 70.0;
/// What is above the first bar.
const TOP: f64 = 30.0;
/// How far the longest bar is. What exceeds it ends there, and its figure is beside it.
const MOST: f64 = 4.0;

/// A bar for each target that was measured: how far from it ours is. Up to the line at 1 it is met.
pub(super) fn chart(bars: &[(String, f64)]) -> String {
    #[expect(clippy::cast_precision_loss, reason = "some bars")]
    let rows = bars.len() as f64;
    let (width, height) = (LEFT + WIDTH + RIGHT, TOP + ROW * rows + 10.0);
    let one = LEFT + WIDTH / MOST;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"14\">distance from the target: met up to 1</text>\n"
    );
    let mut y = TOP;
    for (name, away) in bars {
        let long = (away.clamp(0.0, MOST) / MOST) * WIDTH;
        let (base, end) = (y + ROW - 6.0, LEFT + long + 4.0);
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{}</text>\
             <rect class=\"bar\" x=\"{LEFT}\" y=\"{}\" width=\"{long:.1}\" height=\"{}\" fill=\"#4878a8\"/>\
             <text x=\"{end:.1}\" y=\"{base}\">{}</text>",
            LEFT - 6.0,
            escaped(name),
            y + 2.0,
            ROW - 6.0,
            figure(*away)
        );
        y += ROW;
    }
    let _ = writeln!(
        text,
        "<line class=\"one\" x1=\"{one}\" y1=\"{}\" x2=\"{one}\" y2=\"{y}\" stroke=\"#c03030\"/>\n</svg>",
        TOP - 6.0
    );
    text
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(case: &str, subject: &str, median: f64, ratio: Option<f64>) -> Line {
        Line {
            case: case.into(),
            subject: subject.into(),
            metric: "cpu_per_request".into(),
            unit: "us".into(),
            median,
            min: median / 2.0,
            max: median * 2.0,
            baseline: ratio.map(|_| "haproxy".into()),
            ratio,
        }
    }

    fn figures() -> Vec<Figures> {
        let of = |case: &str, ours, theirs| {
            vec![
                line(case, "haproxy", theirs, None),
                line(case, OURS, ours, Some(ours / theirs)),
                line(case, "nginx", 4.0, Some(4.0 / theirs)),
            ]
        };
        let mut proxy = of("h1", 150.0, 50.0);
        proxy.extend(of("a<b", 600.0, 60.0));
        let figures = |group, lines| Figures {
            group,
            lines,
            failed: None,
        };
        vec![
            figures("proxy", proxy),
            figures("names", vec![line("dns", OURS, 0.25, None)]),
        ]
    }

    #[test]
    fn a_table_has_a_row_for_each_case_with_ours_beside_the_others() {
        let machine = Machine {
            kernel: "6.18.0".into(),
            processor: "A Processor".into(),
            processors: 2,
            memory: 4096,
            commit: "0123abcd".into(),
            versions: vec![("haproxy".into(), "HAProxy version 2.6".into())],
        };
        let mut figures = figures();
        let all = tables(&machine, &figures);
        // Behind the targets.
        let (targets, text) = all.split_once("\nMedians, ").unwrap();
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        let head = [
            "| case | what | with the guard | others | baseline | ratio |",
            "| --- | --- | --- | --- | --- | --- |",
        ];
        let what = "cpu_per_request, us";
        assert_eq!(
            rows,
            [
                head[0],
                head[1],
                &format!(
                    "| h1 | {what} | 150 (75.0–300) | haproxy: 50.0 (25.0–100); \
                     nginx: 4.00 (2.00–8.00) | haproxy | 3.00 |"
                ),
                &format!(
                    "| a<b | {what} | 600 (300–1200) | haproxy: 60.0 (30.0–120); \
                     nginx: 4.00 (2.00–8.00) | haproxy | 10.0 |"
                ),
                head[0],
                head[1],
                &format!("| dns | {what} | 0.250 (0.125–0.500) |  |  |  |"),
            ]
        );
        assert!(
            targets
                .contains("Linux 6.18.0, 2 processors (A Processor), 4096 MiB; commit 0123abcd.")
        );
        assert!(targets.contains("- haproxy: HAProxy version 2.6\n"));
        let order = ["## targets", "## proxy", "## names"].map(|head| all.find(head).unwrap());
        assert!(order.is_sorted());
        assert!(!targets.contains("failed"));
        figures[1].failed = Some("a client ended".into());
        let all = tables(&machine, &figures);
        let failed = "\n**names failed**, and is not complete: a client ended\n";
        assert!(all.contains(failed), "{all}");
    }

    #[test]
    fn the_chart_has_a_bar_for_each_target_and_a_line_at_one() {
        let bars = [("h1 time", 3.0), ("a<b ≤ 1.0", 10.0)];
        let text = chart(&bars.map(|(name, away)| (name.to_owned(), away)));
        let part = |line: &str, name: &str| {
            let (_, rest) = line.split_once(&format!(" {name}=\"")).unwrap();
            rest.split('"').next().unwrap().parse::<f64>().unwrap()
        };
        let bars: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("class=\"bar\""))
            .collect();
        assert_eq!(bars.len(), 2, "{text}");
        let one = text
            .lines()
            .find(|line| line.contains("class=\"one\""))
            .unwrap();
        let unit = part(one, "x1") - LEFT;
        assert!(part(one, "x2") - LEFT == unit && unit > 0.0);
        let long = |bar: &str| part(bar.split_once("<rect").unwrap().1, "width");
        assert_eq!(long(bars[0]), 3.0 * unit);
        // A longer one ends at the edge, and says what it is.
        assert_eq!(long(bars[1]), MOST * unit);
        assert!(bars[1].ends_with(">10.0</text>"), "{}", bars[1]);
        assert!(bars[1].contains("a&lt;b ≤ 1.0"));
    }

    #[test]
    fn the_processor_is_named_as_the_kernel_does() {
        let text = "processor\t: 0\nmodel name\t: A Processor\n\nmodel name\t: Another\n";
        assert_eq!(model(text), "A Processor");
        assert_eq!(model("processor : 0\n"), "unknown");
    }

    #[test]
    fn a_version_is_the_first_line_with_a_figure_and_of_nobody_none() {
        assert_eq!(version("agentguard-no-such-program", "-v"), None);
        assert_eq!(
            version("echo", "Version 1.2").as_deref(),
            Some("Version 1.2")
        );
        assert_eq!(version("echo", "nothing"), None);
    }
}

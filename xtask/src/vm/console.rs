//! What a machine said on its serial console.

use std::fmt;

/// What init begins its lines with.
const MARK: &str = "@@agentguard ";

/// A suite that has ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ended {
    /// [`super::suites::Suite::name`].
    pub(super) name: String,
    /// The test program's exit code.
    pub(super) code: i32,
    pub(super) seconds: f64,
    /// Tests that passed, by what the program says at its end.
    pub(super) passed: u32,
    /// What it said.
    pub(super) said: Vec<String>,
}

/// The console, read.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// What `uname -r` and `uname -v` say.
    pub(super) kernel: Option<(String, String)>,
    /// Seconds from the kernel's start to the first suite.
    pub(super) booted: Option<f64>,
    /// Its security modules, with commas between them.
    pub(super) lsm: Option<String>,
    /// Modules that could not be loaded.
    pub(super) without: Vec<String>,
    pub(super) suites: Vec<Ended>,
    /// Whether a warning (512) or an oops (128) has tainted the kernel.
    pub(super) tainted: Option<u32>,
    /// Whether it came to its end.
    pub(super) over: bool,
}

/// A line that is for us.
#[derive(Debug, PartialEq)]
pub(super) enum Word<'a> {
    Kernel(&'a str, &'a str),
    Lsm(&'a str),
    Booted(f64),
    Without(&'a str),
    Begin(&'a str, f64),
    End(&'a str, i32, f64),
    Tainted(u32),
    Over,
}

impl<'a> Word<'a> {
    /// What kernel or tests print may stand before it in the same line.
    pub(super) fn of(line: &'a str) -> Option<Self> {
        let (_, rest) = line.split_once(MARK)?;
        let (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let mut fields = rest.split(' ');
        Some(match word {
            "kernel" => {
                let (release, version) = rest.split_once(' ')?;
                Self::Kernel(release, version)
            }
            "lsm" => Self::Lsm(rest),
            "booted" => Self::Booted(rest.parse().ok()?),
            "without" => Self::Without(rest),
            "begin" => Self::Begin(fields.next()?, fields.next()?.parse().ok()?),
            "end" => Self::End(
                fields.next()?,
                fields.next()?.parse().ok()?,
                fields.next()?.parse().ok()?,
            ),
            "tainted" => Self::Tainted(rest.parse().ok()?),
            "over" => Self::Over,
            _ => return None,
        })
    }
}

impl Report {
    pub(super) fn read(lines: &[String]) -> Self {
        let mut report = Self::default();
        let mut running: Option<(&str, f64, Vec<String>)> = None;
        for line in lines {
            match Word::of(line) {
                None => {
                    if let Some((_, _, said)) = &mut running {
                        said.push(line.clone());
                    }
                }
                Some(Word::Kernel(release, version)) => {
                    report.kernel = Some((release.to_owned(), version.to_owned()));
                }
                Some(Word::Lsm(modules)) => report.lsm = Some(modules.to_owned()),
                Some(Word::Booted(seconds)) => report.booted = Some(seconds),
                Some(Word::Without(module)) => report.without.push(module.to_owned()),
                Some(Word::Begin(name, since)) => running = Some((name, since, Vec::new())),
                Some(Word::End(name, code, until)) => {
                    if let Some((began, since, said)) = running.take()
                        && began == name
                    {
                        report.suites.push(Ended {
                            name: name.to_owned(),
                            code,
                            seconds: until - since,
                            passed: said.iter().filter_map(|line| passed(line)).sum(),
                            said,
                        });
                    }
                }
                Some(Word::Tainted(taint)) => report.tainted = Some(taint),
                Some(Word::Over) => report.over = true,
            }
        }
        report
    }

    /// What went wrong, where these suites were to run, with LSM programs or without; nothing where all is
    /// well. A `chosen` few tests may all lie in other suites.
    pub(super) fn problems(&self, suites: &[String], lsm: bool, chosen: bool) -> Vec<String> {
        let mut problems = Vec::new();
        if self.booted.is_none() {
            problems.push("it did not boot".to_owned());
        }
        if let Some(modules) = &self.lsm
            && modules.split(',').any(|module| module == "bpf") != lsm
        {
            let which = if lsm { "misses" } else { "has" };
            problems.push(format!("it {which} bpf among the modules {modules}"));
        }
        for name in suites {
            match self.suites.iter().find(|ended| ended.name == *name) {
                None => problems.push(format!("{name} did not end")),
                Some(ended) if ended.code != 0 => {
                    problems.push(format!("{name} failed ({})", ended.code));
                }
                // A program that ends well without a word of tests has run none.
                Some(ended)
                    if (ended.passed == 0 && !chosen)
                        || !ended.said.iter().any(|line| passed(line).is_some()) =>
                {
                    problems.push(format!("{name} ran no tests"));
                }
                Some(_) => {}
            }
        }
        match self.tainted {
            None | Some(0) => {}
            Some(taint) => problems.push(format!(
                "the kernel had to warn of something (tainted {taint}): see the end of the log"
            )),
        }
        if !self.over {
            problems.push("it did not come to its end".to_owned());
        }
        problems
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "booted in {:.0} s", self.booted.unwrap_or_default())?;
        for ended in &self.suites {
            write!(
                f,
                ", {} {} passed in {:.0} s",
                ended.name, ended.passed, ended.seconds
            )?;
        }
        if !self.without.is_empty() {
            write!(f, "; without the modules {}", self.without.join(", "))?;
        }
        Ok(())
    }
}

impl Ended {
    /// What it says of its failures: at most so many lines.
    pub(super) fn failures(&self, limit: usize) -> &[String] {
        let from = self
            .said
            .iter()
            .position(|line| line == "failures:")
            .unwrap_or_else(|| self.said.len().saturating_sub(limit));
        let failures = self.said.get(from..).unwrap_or_default();
        failures.get(..limit).unwrap_or(failures)
    }
}

/// The number in `test result: ok. 7 passed; 0 failed; …`.
fn passed(line: &str) -> Option<u32> {
    let (_, counts) = line.split_once("test result: ")?.1.split_once(". ")?;
    counts.split_once(" passed")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
        [    0.0] Linux version 6.1.0\n\
        @@agentguard without smc\n\
        @@agentguard kernel 6.1.0-56-cloud-amd64 #1 SMP Debian 6.1.192-2 (2026-01-01)\n\
        @@agentguard lsm lockdown,capability,landlock,yama,bpf\n\
        @@agentguard booted 8.25\n\
        @@agentguard begin keeper:gate 8.30\n\
        test a ... ok\n\
        failures:\n\
        it is so\n\
        test result: FAILED. 6 passed; 1 failed; 0 ignored; 0 measured; 2 filtered out\n\
        [   40.2] something of the kernel's @@agentguard end keeper:gate 101 40.30\n\
        @@agentguard begin keeper:run 40.40\n\
        test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n\
        @@agentguard end keeper:run 0 50.40\n\
        @@agentguard tainted 0\n\
        @@agentguard over 50.50\n";

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_console_is_read() {
        let report = Report::read(&lines(LOG));
        let (release, version) = report.kernel.clone().unwrap();
        assert_eq!(release, "6.1.0-56-cloud-amd64");
        assert!(version.contains("Debian 6.1.192-2"), "{version}");
        let [gate, run] = &report.suites[..] else {
            panic!("{report:?}");
        };
        assert_eq!((gate.code, gate.passed), (101, 6));
        assert_eq!(gate.failures(2), ["failures:", "it is so"]);
        assert_eq!((run.code, run.passed, run.failures(5).len()), (0, 7, 1));
        assert_eq!(
            report.to_string(),
            "booted in 8 s, keeper:gate 6 passed in 32 s, keeper:run 7 passed in 10 s; \
             without the modules smc"
        );
        assert_eq!(
            report.problems(&names(&["keeper:gate", "keeper:run"]), true, false),
            ["keeper:gate failed (101)"]
        );
        assert!(
            report
                .problems(&names(&["keeper:run"]), true, false)
                .is_empty()
        );
    }

    #[test]
    fn what_is_missing_is_a_problem() {
        let expected = names(&["keeper:gate", "keeper:run"]);
        let cut = |at: &str| {
            Report::read(&lines(LOG.split_once(at).unwrap().0)).problems(&expected, true, false)
        };
        assert_eq!(
            cut("@@agentguard booted"),
            [
                "it did not boot",
                "keeper:gate did not end",
                "keeper:run did not end",
                "it did not come to its end"
            ]
        );
        assert_eq!(
            cut("@@agentguard end keeper:run"),
            [
                "keeper:gate failed (101)",
                "keeper:run did not end",
                "it did not come to its end"
            ]
        );
        let silent = LOG.replace("test result: ok.", "");
        let silent = Report::read(&lines(&silent)).problems(&names(&["keeper:run"]), true, false);
        assert_eq!(silent, ["keeper:run ran no tests"]);
        let none = Report::read(&lines(&LOG.replace("7 passed", "0 passed")));
        let run = names(&["keeper:run"]);
        assert_eq!(
            none.problems(&run, true, false),
            ["keeper:run ran no tests"]
        );
        assert!(none.problems(&run, true, true).is_empty());
        let other = report_without_bpf().problems(&run, true, false);
        assert_eq!(
            other,
            ["it misses bpf among the modules lockdown,capability,landlock,yama"]
        );
        assert!(report_without_bpf().problems(&run, false, false).is_empty());
        let same = Report::read(&lines(LOG)).problems(&run, false, false);
        assert!(same[0].starts_with("it has bpf"), "{same:?}");
        let warned = LOG.replace("tainted 0", "tainted 512");
        let warned = Report::read(&lines(&warned)).problems(&names(&["keeper:run"]), true, false);
        assert!(warned[0].contains("tainted 512"), "{warned:?}");
    }

    fn report_without_bpf() -> Report {
        Report::read(&lines(&LOG.replace(",bpf", "")))
    }

    #[test]
    fn words_that_make_no_sense_are_none() {
        for line in [
            "@@agentguard",
            "@@agentguard end x",
            "@@agentguard end x 0 soon",
            "@@agentguard booted",
            "agentguard over",
        ] {
            assert_eq!(Word::of(line), None, "{line}");
        }
        assert_eq!(Word::of("x@@agentguard over 3"), Some(Word::Over));
    }
}

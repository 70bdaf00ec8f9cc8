//! What runs on each kernel.

/// The programs that every root has; busybox has a smaller one for whatever else there is. They are the
/// distribution's: what comes first in a person's `PATH` may be anything.
pub(super) const PROGRAMS: [&str; 35] = [
    "bash", "cat", "chmod", "chown", "cp", "env", "false", "grep", "head", "id", "ip", "ls",
    "mkdir", "mount", "nice", "nohup", "python3", "readlink", "rm", "sed", "seq", "setarch",
    "setpriv", "setsid", "sh", "sleep", "stat", "stty", "tail", "touch", "true", "tty", "umount",
    "unshare", "yes",
];

/// An integration test of a package, and what it needs of the root it runs in. Everything is there
/// under the path that it has here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suite {
    /// The package's directory; the test runs there, as under cargo.
    pub(super) directory: &'static str,
    /// The test target's name.
    pub(super) test: &'static str,
    /// Programs and examples of the workspace.
    pub(super) built: &'static [Built],
    /// Files of the workspace.
    pub(super) files: &'static [&'static str],
    /// Programs in C.
    pub(super) sources: Option<Sources>,
    /// Tests whose names begin so are not for an emulated processor, and the host runs them: those that fill the
    /// gate's maps, up to millions of entries, since what a full map does is not another on another kernel; and
    /// those of terminals, signals and pipelines, which nothing has a part in that kernels have differently.
    pub(super) left_out: &'static [&'static str],
}

/// A directory of programs of one file each, which the suite would compile itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sources {
    pub(super) directory: &'static str,
    /// Where they are compiled to: a directory with nothing else in it.
    pub(super) programs: &'static str,
    /// What tells the suite where they are.
    pub(super) variable: &'static str,
}

/// A program that cargo builds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Built {
    /// In `target/debug`.
    Program(&'static str),
    /// In `target/debug/examples`.
    Example(&'static str),
}

pub(super) const SUITES: [Suite; 4] = [
    Suite {
        directory: "agentguard/keeper",
        test: GATE,
        left_out: &[
            "full::",
            "shared::",
            "connects::a_client_that_is_long_gone_",
        ],
        built: &[],
        files: &["agentguard/keeper/tests/gate/client.py"],
        sources: None,
    },
    Suite {
        directory: "agentguard/keeper",
        test: RUN,
        left_out: &["job_control::", "plain::"],
        built: &[Built::Example("run_client")],
        files: &["agentguard/keeper/tests/run/ways.py"],
        sources: None,
    },
    Suite {
        directory: "tests",
        test: ESCAPE,
        left_out: &[],
        built: &[Built::Program("agentguard")],
        files: &["tests/clients/puppet.py"],
        sources: Some(Sources {
            directory: "tests/escapes",
            programs: "target/vm/escapes",
            variable: "AGENTGUARD_ESCAPES",
        }),
        // Each part of the kernel that has a way out is there, so each way has to be seen open.
    },
    // The whole guard, with the clients that the tests bring themselves.
    Suite {
        directory: "tests",
        test: PATH,
        left_out: &[],
        built: &[Built::Program("agentguard")],
        files: &["tests/clients/puppet.py"],
        sources: None,
    },
];

/// How a kernel is started, and what runs then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Boot {
    /// What its machine is called beside the kernel.
    pub(super) name: &'static str,
    /// What is said to the kernel at its start.
    pub(super) command_line: &'static str,
    /// Whether it runs LSM programs then.
    pub(super) lsm: bool,
    /// The series that is started so; those that no other is for, where there is none.
    series: Option<&'static str>,
    /// Suites, by their tests' names, and those of their tests whose names contain one of these: all of a
    /// suite where there is none.
    parts: &'static [(&'static str, &'static [&'static str])],
}

/// Every security module that the gate may be an addition to, and the one that its programs are in.
const WITH_BPF: Boot = Boot {
    name: "",
    command_line: "lsm=landlock,lockdown,yama,bpf",
    lsm: true,
    series: None,
    parts: &[(GATE, &[]), (RUN, &[]), (ESCAPE, &[]), (PATH, &WHOLE)],
};

/// All machines together have twelve minutes. What is closed by LSM programs the gate's own tests try on each
/// kernel; every way out is tried once with them and once without, on a machine of its own: one that had
/// more than the others would run on alone in the end.
const BOOTS: [Boot; 5] = [
    Boot {
        series: Some("6.1"),
        parts: &[
            (GATE, &[]),
            (RUN, &[]),
            (
                PATH,
                &[TOLERANCE, UPGRADE, RESOURCES, WAITING, MANAGED, MANY],
            ),
        ],
        ..WITH_BPF
    },
    // As distributions start theirs whose default has no `bpf` (Debian's has): LSM programs are taken and
    // attached, and never called. Closed is then what the gate closes, and what `run` does, with the Landlock
    // of the older kernel.
    Boot {
        name: "without-bpf",
        command_line: "lsm=landlock,lockdown,yama,apparmor",
        lsm: false,
        series: Some("6.1"),
        parts: &[(GATE, &["lsm::what_runs_"]), (ESCAPE, &[])],
    },
    Boot {
        series: Some("6.12"),
        parts: &[
            (GATE, &[]),
            (RUN, &[]),
            (PATH, &[ADOPTION, QUARANTINE, RESOURCES, WAITING, MANY]),
        ],
        ..WITH_BPF
    },
    Boot {
        name: "escape",
        series: Some("6.12"),
        parts: &[(ESCAPE, &[])],
        ..WITH_BPF
    },
    WITH_BPF,
];

const RUN: &str = "run";
const ESCAPE: &str = "escape";
const PATH: &str = "path";

/// Of the path what leans on the kernel most, sockets that are found, ended and taken over: each daemon's
/// gate is verified anew, so the two kernels share them. Limits of resources are tried on both, which count
/// differently, and on no host that has the controllers in version 1.
const WHOLE: [&str; 8] = [
    ADOPTION, TOLERANCE, QUARANTINE, UPGRADE, RESOURCES, WAITING, MANAGED, MANY,
];
const ADOPTION: &str = "adoption::a_container_that_runs_";
const TOLERANCE: &str = "tolerated::connections_";
const UPGRADE: &str = "upgrade::an_upgrade_";
const QUARANTINE: &str = "quarantine::a_quarantine_holds_";
const RESOURCES: &str = "resources::limits_hold_";
const WAITING: &str = "resources::waiting::who_is_slowed_";
const MANAGED: &str = "resources::managed::under_a_";
/// Packets that are longer than IPv6 has room for, and the way from a pipe to a socket, are each kernel's own.
const MANY: &str = "untouched::many_bytes_";

impl Boot {
    /// How a kernel of this series is started.
    pub(super) fn of(series: &str) -> impl Iterator<Item = &'static Self> {
        let known = BOOTS.iter().any(|boot| boot.series == Some(series));
        let wanted = known.then(|| series.to_owned());
        BOOTS
            .iter()
            .filter(move |boot| boot.series == wanted.as_deref())
    }

    /// A machine's name, by that of its kernel.
    pub(super) fn machine(&self, kernel: &str) -> String {
        match self.name {
            "" => kernel.to_owned(),
            name => format!("{kernel}-{name}"),
        }
    }

    /// The suites that run, each with the words that choose its tests. Where a person has asked for tests,
    /// these run, whatever else would.
    pub(super) fn suites(&self, asked: &[String]) -> Vec<(Suite, Vec<String>)> {
        let all = SUITES.iter().copied();
        if !asked.is_empty() {
            return all.map(|suite| (suite, asked.to_vec())).collect();
        }
        let chosen = |suite: &Suite| {
            let mut parts = self.parts.iter();
            let (_, words) = parts.find(|(test, _)| *test == suite.test)?;
            Some(words.iter().map(|&word| word.to_owned()).collect())
        };
        all.filter_map(|suite| Some((suite, chosen(&suite)?)))
            .collect()
    }
}

/// The suite that has the test of [`INSTRUCTIONS`].
pub(super) const GATE: &str = "gate";

/// The test that loads the gate and prints what the verifier walked.
pub(super) const INSTRUCTIONS: &str = "keeping::every_program_is_verified_and_attached";

impl Suite {
    /// As `agentguard/keeper:gate`.
    pub(super) fn name(&self) -> String {
        format!("{}:{}", self.directory, self.test)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(series: &str) -> Vec<String> {
        let boots = Boot::of(series);
        boots.map(|boot| boot.machine(series)).collect()
    }

    #[test]
    fn every_kernel_is_started_with_lsm_programs_and_one_without_too() {
        assert_eq!(names("6.1"), ["6.1", "6.1-without-bpf"]);
        assert_eq!(names("6.12"), ["6.12", "6.12-escape"]);
        assert_eq!(names("6.6"), ["6.6"]);
        for boot in BOOTS {
            assert_eq!(boot.command_line.contains("bpf"), boot.lsm, "{boot:?}");
            // A part of a suite that is not there would not run, and nobody would say so.
            assert_eq!(boot.suites(&[]).len(), boot.parts.len(), "{boot:?}");
        }
    }

    #[test]
    fn every_suite_runs_on_each_series_whole_or_in_part() {
        for series in ["6.1", "6.12", "6.6"] {
            for suite in SUITES {
                let runs = Boot::of(series).any(|boot| {
                    let mut parts = boot.parts.iter();
                    parts.any(|(test, _)| *test == suite.test)
                });
                assert!(runs, "{} on {series}", suite.name());
            }
        }
    }

    #[test]
    fn what_a_person_asks_for_runs_in_every_suite() {
        let asked = ["datagrams".to_owned()];
        for boot in BOOTS {
            let suites = boot.suites(&asked);
            assert_eq!(suites.len(), SUITES.len());
            assert!(suites.iter().all(|(_, words)| *words == asked));
        }
    }
}

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
    /// Words that choose tests of it: those whose names contain one. All, where there is none.
    pub(super) only: &'static [&'static str],
    /// Tests whose names begin so are not for an emulated processor: they fill the gate's maps, millions of
    /// entries, and what a full map does is not another on another kernel. The host runs them.
    pub(super) left_out: &'static [&'static str],
    /// Variables.
    pub(super) environment: &'static [(&'static str, &'static str)],
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
        only: &[],
        left_out: &["full::", "shared::where_the_", "shared::agents_that_come"],
        built: &[],
        files: &["agentguard/keeper/tests/gate/client.py"],
        sources: None,
        environment: &[],
    },
    Suite {
        directory: "agentguard/keeper",
        test: "run",
        only: &[],
        left_out: &[],
        built: &[Built::Example("run_client")],
        files: &["agentguard/keeper/tests/run/ways.py"],
        sources: None,
        environment: &[],
    },
    Suite {
        directory: "tests",
        test: "escape",
        only: &[],
        left_out: &[],
        built: &[Built::Program("agentguard")],
        files: &["tests/clients/puppet.py"],
        sources: Some(Sources {
            directory: "tests/escapes",
            programs: "target/vm/escapes",
            variable: "AGENTGUARD_ESCAPES",
        }),
        // Each part of the kernel that has a way out is there, so each way has to be seen open.
        environment: &[("AGENTGUARD_ESCAPE_ALL_PARTS", "1")],
    },
    // The whole guard, with the clients that the tests bring themselves. Each daemon's gate is verified anew,
    // so only what leans on the kernel most: sockets that are found, ended and taken over.
    Suite {
        directory: "tests",
        test: "path",
        only: &[
            "adoption::a_container_that_runs_",
            "tolerated::connections_",
            "quarantine::a_quarantine_holds_",
            "upgrade::an_upgrade_",
        ],
        left_out: &[],
        built: &[Built::Program("agentguard")],
        files: &["tests/clients/puppet.py"],
        sources: None,
        environment: &[],
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
    /// The series that is started so; all where there is none.
    pub(super) series: Option<&'static str>,
    /// Suites, by their tests' names, and those of their tests whose names contain one of these; all of a
    /// suite, and all suites, where there is none.
    pub(super) parts: &'static [(&'static str, &'static [&'static str])],
}

pub(super) const BOOTS: [Boot; 2] = [
    // Every security module that the gate may be an addition to, and the one that its programs are in.
    Boot {
        name: "",
        command_line: "lsm=landlock,lockdown,yama,bpf",
        lsm: true,
        series: None,
        parts: &[],
    },
    // As distributions start theirs whose default has no `bpf` (Debian's has): LSM programs are taken and
    // attached, and never called. What is closed all the same, and how, is the same on every kernel but for
    // the Landlock of the series.
    Boot {
        name: "without-bpf",
        command_line: "lsm=landlock,lockdown,yama,apparmor",
        lsm: false,
        series: Some("6.1"),
        parts: &[(GATE, &["lsm::what_runs_"]), ("escape", &[])],
    },
];

impl Boot {
    /// Whether a kernel of this series is started so.
    pub(super) fn is_for(&self, series: &str) -> bool {
        self.series.is_none_or(|only| only == series)
    }

    /// A machine's name, by that of its kernel.
    pub(super) fn machine(&self, kernel: &str) -> String {
        match self.name {
            "" => kernel.to_owned(),
            name => format!("{kernel}-{name}"),
        }
    }

    /// The suites that run, each with the words that choose its tests. Where a person has asked for tests,
    /// `asked` chooses them alone.
    pub(super) fn suites(&self, asked: &[String]) -> Vec<(Suite, Vec<String>)> {
        let chosen = |suite: &Suite| {
            let mut parts = self.parts.iter();
            let part = parts.find(|(test, _)| *test == suite.test);
            part.map(|(_, words)| *words)
                .or(self.parts.is_empty().then_some(suite.only))
        };
        let words = |own: &[&str]| match asked {
            [] => own.iter().map(|&word| word.to_owned()).collect(),
            asked => asked.to_vec(),
        };
        let suites = SUITES.iter();
        suites
            .filter_map(|suite| Some((*suite, words(chosen(suite)?))))
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

    #[test]
    fn every_kernel_is_started_with_lsm_programs_and_one_without_too() {
        let started =
            |series| -> Vec<&Boot> { BOOTS.iter().filter(|boot| boot.is_for(series)).collect() };
        let [with] = started("6.12")[..] else {
            panic!("{:?}", started("6.12"));
        };
        assert!(with.lsm && with.command_line.contains("bpf"));
        assert_eq!(with.machine("6.12.1"), "6.12.1");
        assert_eq!(with.suites(&[]).len(), SUITES.len());
        let [_, without] = started("6.1")[..] else {
            panic!("{:?}", started("6.1"));
        };
        assert!(!without.lsm && !without.command_line.contains("bpf"));
        assert_eq!(without.machine("6.1.9"), "6.1.9-without-bpf");
    }

    #[test]
    fn a_suite_runs_whole_or_what_is_chosen_of_it() {
        let words = |boot: &Boot, asked: &[String]| -> Vec<(&str, Vec<String>)> {
            let suites = boot.suites(asked).into_iter();
            suites.map(|(suite, words)| (suite.test, words)).collect()
        };
        let without = words(&BOOTS[1], &[]);
        let lsm = vec!["lsm::what_runs_".to_owned()];
        assert_eq!(without, [(GATE, lsm), ("escape", Vec::new())]);
        let asked = ["datagrams".to_owned()];
        for (_, words) in words(&BOOTS[0], &asked) {
            assert_eq!(words, asked);
        }
        let with = words(&BOOTS[0], &[]);
        assert_eq!(with[0], (GATE, Vec::new()));
        assert!(!with[3].1.is_empty());
    }
}

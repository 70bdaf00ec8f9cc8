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

pub(super) const SUITES: [Suite; 3] = [
    Suite {
        directory: "agentguard/keeper",
        test: GATE,
        left_out: &["full::", "shared::where_the_", "shared::agents_that_come"],
        built: &[],
        files: &["agentguard/keeper/tests/gate/client.py"],
        sources: None,
        environment: &[],
    },
    Suite {
        directory: "agentguard/keeper",
        test: "run",
        left_out: &[],
        built: &[Built::Example("run_client")],
        files: &["agentguard/keeper/tests/run/ways.py"],
        sources: None,
        environment: &[],
    },
    Suite {
        directory: "tests",
        test: "escape",
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
];

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

//! What runs on each kernel.

/// The programs that every root has, beside busybox. They are the distribution's: what comes first in a
/// person's `PATH` may be anything.
pub(super) const PROGRAMS: [&str; 4] = ["sh", "bash", "ip", "python3"];

/// An integration test of a package, and what it needs of the root it runs in. Everything is there
/// under the path that it has here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suite {
    /// The package's directory; the test runs there, as under cargo.
    pub(super) directory: &'static str,
    /// The test target's name. A suite whose source is not there is told and left out.
    pub(super) test: &'static str,
    /// Programs of the distribution beside [`PROGRAMS`].
    pub(super) programs: &'static [&'static str],
    /// Programs and examples of the workspace.
    pub(super) built: &'static [Built],
    /// Files of the workspace.
    pub(super) files: &'static [&'static str],
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
        programs: &[],
        built: &[],
        files: &["agentguard/keeper/tests/gate/client.py"],
    },
    Suite {
        directory: "agentguard/keeper",
        test: "run",
        programs: &["unshare", "setpriv", "setsid"],
        built: &[Built::Example("run_client")],
        files: &[],
    },
    Suite {
        directory: "tests",
        test: "escape",
        programs: &["unshare", "setpriv"],
        built: &[Built::Program("agentguard"), Built::Program("escape")],
        files: &["tests/clients/puppet.py"],
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

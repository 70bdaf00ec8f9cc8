//! Tests on other kernels: `cargo xtask vm-test`, and the vm tier of `cargo xtask test`.
//!
//! A kernel of the distribution's archive (`kernels`), a root made of the tests and programs that are
//! here (`root`: archive, modules, suites), a machine of QEMU's that runs both (`machine`), and what it
//! says on its serial console (`console`). The machines run side by side. What the verifier walked in
//! each program is held against `docs/kernels.md` (`instructions`); of the machine's own kernel
//! ("host") nothing else is looked at here, because the other tiers run on it.

mod built;
mod console;
mod cpio;
mod instructions;
mod kernels;
mod machine;
mod modules;
mod root;
mod suites;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::recorded::Counts;
use crate::workspace::Workspace;
use crate::{bpf, exec, setup};
use built::Executables;
use console::{Report, Word};
use instructions::{Comparison, Table, Version};
use kernels::Kernel;
use suites::{Boot, GATE, INSTRUCTIONS, SUITES};

/// How long a machine may take for everything, in seconds. All run at once, so that this bounds the whole.
pub(crate) const LIMIT: u64 = 1800;

/// How long all of it is to take on two processors that nothing else needs, in seconds: what the continuous
/// integration has for it. It is told and not tested, since machines differ and are shared.
const SHARE: u64 = 720;

/// How many times longer than on a real processor tests wait for something there.
const PATIENCE: u32 = 6;

/// How many lines of a failure are shown; all of them are in the log.
const SHOWN: usize = 200;

/// A kernel to test on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Which {
    /// The machine's own.
    Host,
    /// The newest of a series, as 6.12, that the package archive has.
    Series(String),
}

impl FromStr for Which {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        match text.split_once('.') {
            Some((major, minor)) if number(major) && number(minor) => {
                Ok(Self::Series(text.to_owned()))
            }
            None if text == "host" => Ok(Self::Host),
            _ => bail!("`host`, or two numbers as 6.12"),
        }
    }
}

/// What is asked for.
#[derive(Debug, Default)]
pub(crate) struct Request<'a> {
    /// All of them where there is none.
    pub(crate) kernels: &'a [Which],
    /// Run only tests whose name contains one of these.
    pub(crate) filter: &'a [String],
    /// Write what the verifier walked, instead of comparing it.
    pub(crate) record: bool,
    /// What this machine cannot look at is a failure, and not skipped.
    pub(crate) require_all: bool,
    /// How many seconds a machine may take; [`LIMIT`] where it is not said.
    pub(crate) limit: Option<u64>,
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Ok,
    /// It did not run, and why.
    Skipped(String),
    Failed,
}

/// Sets up, builds and runs.
///
/// # Errors
/// A test failed, or something is missing.
pub(crate) fn run(workspace: &Workspace, request: &Request<'_>) -> Result<()> {
    setup::run(workspace, true)?;
    bpf::build(workspace)?;
    match tier(workspace, request)? {
        Outcome::Ok => Ok(()),
        Outcome::Skipped(why) => bail!("cannot test on other kernels: {why}"),
        Outcome::Failed => bail!("tests on other kernels failed"),
    }
}

/// Runs, where everything else is built already.
///
/// # Errors
/// It cannot be told how it ended.
pub(crate) fn tier(workspace: &Workspace, request: &Request<'_>) -> Result<Outcome> {
    let series: Vec<&str> = match request.kernels {
        [] => kernels::SERIES.to_vec(),
        some => some
            .iter()
            .filter_map(|which| match which {
                Which::Host => None,
                Which::Series(series) => Some(series.as_str()),
            })
            .collect(),
    };
    let cache = workspace.target().join("vm");
    let found = match available(&cache, &series) {
        Ok(kernels) => kernels,
        Err(error) => return Ok(Outcome::Skipped(format!("{error:#}"))),
    };
    let executables = Executables::build(workspace, &SUITES)?;
    root::compile(workspace, &SUITES)?;
    let began = Instant::now();
    let host = request.kernels.is_empty() || request.kernels.contains(&Which::Host);

    let mut verified = Vec::new();
    let mut failed = false;
    if host && selects_instructions(request.filter) {
        match host_counts(workspace, &executables, request.require_all)? {
            Some((version, counts)) => verified.push(Verified {
                version,
                counts,
                host: true,
            }),
            None => failed = true,
        }
    }
    let plan = Plan {
        workspace,
        cache: &cache,
        executables: &executables,
        filter: request.filter,
        limit: Duration::from_secs(request.limit.unwrap_or(LIMIT)),
    };
    let started = started(&found, request.filter);
    let machines: Vec<Result<Tested>> = thread::scope(|scope| {
        let plan = &plan;
        let start = |(kernel, boot)| scope.spawn(move || plan.test(kernel, boot));
        let machines: Vec<_> = started.iter().copied().map(start).collect();
        let ended = |machine: thread::ScopedJoinHandle<'_, _>| match machine.join() {
            Ok(tested) => tested,
            Err(_) => Err(anyhow!("the thread of a machine ended")),
        };
        machines.into_iter().map(ended).collect()
    });
    for ((kernel, boot), tested) in started.into_iter().zip(machines) {
        match tested {
            Ok(tested) => {
                failed |= !tested.ok;
                verified.extend(tested.verified);
            }
            Err(error) => {
                println!("{}: FAILED: {error:#}", boot.machine(&kernel.series));
                failed = true;
            }
        }
    }
    failed |= !instructions_hold(workspace, &verified, request.record)?;
    println!("vm: {} s of {SHARE}", began.elapsed().as_secs());
    Ok(if failed { Outcome::Failed } else { Outcome::Ok })
}

/// The machines: the kernels, each as often as it is started. Where a person has asked for tests, one of
/// those that are started alike runs them.
fn started<'k>(kernels: &'k [Kernel], filter: &[String]) -> Vec<(&'k Kernel, &'static Boot)> {
    let mut machines: Vec<(&Kernel, &Boot)> = Vec::new();
    for kernel in kernels {
        let mut command_lines = Vec::new();
        for boot in Boot::of(&kernel.series) {
            if filter.is_empty() || !command_lines.contains(&boot.command_line) {
                command_lines.push(boot.command_line);
                machines.push((kernel, boot));
            }
        }
    }
    machines
}

/// The kernels, where there is what runs them.
fn available(cache: &Path, series: &[&str]) -> Result<Vec<Kernel>> {
    if cfg!(not(target_arch = "x86_64")) {
        bail!("the kernels are for x86-64, and so are the tests then");
    }
    for program in [machine::QEMU, "busybox", "strip", "timeout"] {
        if exec::ask(program, &["--help"]).is_none() {
            bail!("no {program}");
        }
    }
    let fetch = |series: &&str| kernels::fetch(cache, series);
    series.iter().map(fetch).collect()
}

/// Whether the test that prints the instructions is among those that run.
fn selects_instructions(filter: &[String]) -> bool {
    filter.is_empty()
        || filter
            .iter()
            .any(|word| INSTRUCTIONS.contains(word.as_str()))
}

/// What came of one kernel.
struct Tested {
    ok: bool,
    verified: Option<Verified>,
}

/// What the verifier walked on a kernel.
struct Verified {
    version: Version,
    counts: Counts,
    host: bool,
}

/// What every machine runs.
struct Plan<'a> {
    workspace: &'a Workspace,
    /// Where it leaves its log.
    cache: &'a Path,
    executables: &'a Executables,
    filter: &'a [String],
    limit: Duration,
}

impl Plan<'_> {
    fn test(&self, kernel: &Kernel, boot: &Boot) -> Result<Tested> {
        let release = &boot.machine(&kernel.release);
        let root = self.cache.join(format!("{release}.cpio"));
        let log = self.cache.join(format!("{release}.log"));
        let suites = boot.suites(self.filter);
        root::write(self.workspace, kernel, &suites, self.executables, &root)?;
        let ran = machine::run(
            &kernel.image,
            boot.command_line,
            &root,
            &log,
            self.limit,
            |line| match Word::of(line) {
                Some(Word::Booted(seconds)) => println!("{release}: booted in {seconds:.0} s"),
                Some(Word::Begin(name, _)) => println!("{release}: {name} …"),
                Some(Word::End(name, code, _)) => println!("{release}: {name} ended with {code}"),
                _ => {}
            },
        );
        let _ = fs::remove_file(&root);
        let (lines, in_time) = ran?;
        let report = Report::read(&lines);
        let names: Vec<String> = suites.iter().map(|(suite, _)| suite.name()).collect();
        let mut problems = report.problems(&names, boot.lsm, !self.filter.is_empty());
        if !in_time {
            problems.push(format!("it was ended after {} s", self.limit.as_secs()));
        }
        show(release, &report, &lines, &problems, &log);
        let counts = instructions::read(&lines);
        // Where programs are not called, some are not loaded.
        let loaded = boot.lsm && suites.iter().any(|(suite, _)| suite.test == GATE);
        let wanted = loaded && problems.is_empty() && selects_instructions(self.filter);
        if wanted && counts.is_empty() {
            bail!("{INSTRUCTIONS} printed no instructions");
        }
        let verified = match &report.kernel {
            Some((release, version)) if boot.lsm && !counts.is_empty() => Some(Verified {
                version: Version::of(release, version),
                counts,
                host: false,
            }),
            _ => None,
        };
        Ok(Tested {
            ok: problems.is_empty(),
            verified,
        })
    }
}

fn show(release: &str, report: &Report, lines: &[String], problems: &[String], log: &Path) {
    if problems.is_empty() {
        println!("{release}: ok: {report}");
        return;
    }
    let failed = report.suites.iter().filter(|ended| ended.code != 0);
    for ended in failed {
        println!("{release}: {} says:", ended.name);
        for line in ended.failures(SHOWN) {
            println!("    {line}");
        }
    }
    if !report.over {
        println!("{release}: the console's last lines:");
        for line in lines.iter().skip(lines.len().saturating_sub(40)) {
            println!("    {line}");
        }
    }
    println!("{release}: FAILED: {}; {report}", problems.join("; "));
    println!("{release}: the console is in {}", log.display());
}

/// What the verifier of the running kernel walks; `None` where the test failed. Where it was skipped there
/// are no counts, which `require_all` takes for a failure.
fn host_counts(
    workspace: &Workspace,
    executables: &Executables,
    require_all: bool,
) -> Result<Option<(Version, Counts)>> {
    let gate = SUITES.iter().find(|suite| suite.test == GATE);
    let gate = gate.context("there is no suite of the gate")?;
    let mut test = Command::new(executables.test(gate)?);
    test.current_dir(workspace.root().join(gate.directory))
        .args(["--exact", INSTRUCTIONS, "--show-output"])
        .env_remove("AGENTGUARD_REQUIRE_ALL")
        .stdin(Stdio::null());
    if require_all {
        test.env("AGENTGUARD_REQUIRE_ALL", "1");
    }
    let output = test.output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<String> = said.lines().map(str::to_owned).collect();
    let unseen = require_all && instructions::read(&lines).is_empty();
    if !output.status.success() || unseen {
        println!("host: FAILED\n{said}");
        return Ok(None);
    }
    let [release, version] = ["-r", "-v"].map(|what| exec::ask("uname", &[what]));
    let (release, version) = release.zip(version).context("uname says nothing")?;
    Ok(Some((
        Version::of(release.trim(), version.trim()),
        instructions::read(&lines),
    )))
}

/// Compares with what is recorded, or records. Says what is to be said; whether all is well.
fn instructions_hold(workspace: &Workspace, verified: &[Verified], record: bool) -> Result<bool> {
    let path = workspace.root().join(instructions::FILE);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut table = Table::parse(&text)?;
    let mut hold = true;
    for Verified {
        version,
        counts,
        host,
    } in verified
    {
        let place = if *host { " (host)" } else { "" };
        if counts.is_empty() {
            println!("instructions on {version}{place}: not looked at, the test was skipped");
            continue;
        }
        if record {
            table.record(version.clone(), counts.clone());
            continue;
        }
        match table.compare(version, counts, *host) {
            Comparison::NotRecorded if *host => {
                println!(
                    "instructions on {version}{place}: not recorded; the other tiers run on it"
                );
            }
            Comparison::NotRecorded => {
                println!("instructions on {version}: FAILED: not recorded");
                hold = false;
            }
            Comparison::Compared(compared) => {
                for line in &compared.told {
                    println!("instructions on {version}{place}: fewer: {line}");
                }
                for line in &compared.wrong {
                    println!("instructions on {version}{place}: FAILED: {line}");
                }
                if compared.wrong.is_empty() {
                    println!(
                        "instructions on {version}{place}: {} programs as recorded",
                        counts.len()
                    );
                } else {
                    hold = false;
                }
            }
        }
    }
    if record {
        fs::write(&path, table.write(&text))
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("recorded in {}", path.display());
    } else if !hold {
        println!(
            "hint: if it has to be so, `cargo xtask vm-test --record` writes {}",
            instructions::FILE
        );
    }
    Ok(hold)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_the_hosts_or_of_a_series() {
        assert_eq!("host".parse::<Which>().unwrap(), Which::Host);
        assert_eq!(
            "6.12".parse::<Which>().unwrap(),
            Which::Series("6.12".into())
        );
        for wrong in ["", "6", "6.", "6.1.2", "6.x", "linux-6.1", "6.1-rc"] {
            assert!(wrong.parse::<Which>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_the_suites_are_made_of_is_there() {
        let workspace = Workspace::find().unwrap();
        for suite in SUITES {
            let tests = workspace.root().join(suite.directory).join("tests");
            let main = tests.join(suite.test).join("main.rs");
            assert!(main.is_file(), "{}", main.display());
            let sources = suite.sources.iter().map(|sources| sources.directory);
            for path in suite.files.iter().copied().chain(sources) {
                assert!(workspace.root().join(path).exists(), "{path}");
            }
        }
    }

    #[test]
    fn a_filter_that_leaves_out_the_test_of_the_instructions_is_known() {
        assert!(selects_instructions(&[]));
        assert!(selects_instructions(&["verified".into()]));
        assert!(!selects_instructions(&["datagrams".into()]));
    }
}

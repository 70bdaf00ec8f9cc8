//! The real daemon, in a world.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentguard_model::Decision;
use anyhow::{Context as _, Result, bail};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;
use serde_json::json;

use crate::process::{Invocation, Output, Process};
use crate::{World, address, leftover, patient, wait_until};

/// How long the daemon may take to be ready.
const READY: Duration = Duration::from_secs(20);

/// How long it may take to end: it drains.
const END: Duration = Duration::from_secs(20);

/// A uid that no system user has.
const WORKER: u32 = 64_242;

/// Where a client finds the daemon's configuration when no option says it.
const CONFIG_VARIABLE: &str = "AGENTGUARD_CONFIG";

/// A description of a daemon.
#[derive(Debug)]
pub struct GuardBuilder<'w> {
    world: &'w World,
    policy: String,
    settings: serde_json::Map<String, serde_json::Value>,
    environment: Vec<(String, String)>,
    covers: Vec<(PathBuf, PathBuf)>,
    program: Option<PathBuf>,
}

impl<'w> GuardBuilder<'w> {
    pub(crate) fn new(world: &'w World) -> Self {
        Self {
            world,
            policy: String::new(),
            settings: serde_json::Map::new(),
            environment: Vec::new(),
            covers: Vec::new(),
            program: None,
        }
    }

    /// Another program than `AGENTGUARD_BIN` or the workspace's.
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// Its policy, as YAML.
    #[must_use]
    pub fn policy(mut self, text: &str) -> Self {
        text.clone_into(&mut self.policy);
        self
    }

    /// A setting of the configuration, in place of the world's or beside them.
    #[must_use]
    pub fn setting(mut self, name: &str, value: serde_json::Value) -> Self {
        self.settings.insert(name.to_owned(), value);
        self
    }

    /// A variable of the daemon's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a file or directory in the place of one that the machine has: for the daemon, and for what
    /// it runs.
    #[must_use]
    pub fn cover(mut self, source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        self.covers.push((source.into(), target.into()));
        self
    }

    /// Writes the configuration, starts the daemon and waits until it says that it is ready.
    ///
    /// # Errors
    /// There is no program, or it is not ready in time: the error has what it said.
    pub fn start(self) -> Result<Guard<'w>> {
        let mut guard = self.prepare()?;
        guard.start()?;
        Ok(guard)
    }

    /// Writes the configuration and makes the directories, without starting it: for daemons that
    /// are expected to refuse.
    ///
    /// # Errors
    /// No program, or no cgroup v2.
    pub fn prepare(self) -> Result<Guard<'w>> {
        let program = self.program.map_or_else(program, Ok)?;
        let (directory, number) = (1..)
            .map(|number: u32| {
                (
                    self.world.directory().join(format!("guard-{number}")),
                    number,
                )
            })
            .find(|(directory, _)| !directory.exists())
            .context("no free number")?;
        let cgroups = leftover::cgroup_mount().context("cgroup v2 is not mounted")?;
        let tag = self.world.tag();
        let guard = Guard {
            world: self.world,
            program,
            cgroup: cgroups.join(format!("{}.{number}", tag.directory())),
            bpffs: directory.join("bpf"),
            directory,
            environment: self.environment,
            covers: self.covers,
            process: None,
            notifications: None,
        };
        for directory in [&guard.directory, &guard.bpffs] {
            fs::create_dir(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        mount("bpf", &guard.bpffs, "bpf", MountFlags::empty(), None)
            .with_context(|| format!("cannot mount a bpffs at {}", guard.bpffs.display()))?;

        let servers = address::NAME_SERVER;
        let servers = servers.map(|ip| std::net::SocketAddr::new(ip, 53).to_string());
        let mut settings = json!({
            "state_dir": guard.directory.join("state"),
            "runtime_dir": guard.directory.join("run"),
            "cgroup_root": guard.cgroup,
            "bpffs": guard.bpffs,
            "policy": "policy.yaml",
            "worker_user": WORKER.to_string(),
            "resolvers": servers,
        });
        if let Some(settings) = settings.as_object_mut() {
            settings.extend(self.settings);
        }
        // JSON is YAML.
        fs::write(guard.config(), format!("{settings:#}\n"))
            .and_then(|()| fs::write(guard.policy(), self.policy))
            .context("cannot write the configuration")?;
        Ok(guard)
    }
}

/// The program under test: `AGENTGUARD_BIN`, or the workspace's.
fn program() -> Result<PathBuf> {
    let program = std::env::var_os("AGENTGUARD_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/agentguard"),
        PathBuf::from,
    );
    program
        .canonicalize()
        .with_context(|| format!("no {}: run `cargo xtask build`", program.display()))
}

/// A daemon and all that it owns. Dropping it ends the daemon and its agents and removes the rest.
#[derive(Debug)]
pub struct Guard<'w> {
    world: &'w World,
    program: PathBuf,
    directory: PathBuf,
    cgroup: PathBuf,
    bpffs: PathBuf,
    environment: Vec<(String, String)>,
    covers: Vec<(PathBuf, PathBuf)>,
    process: Option<Process>,
    notifications: Option<UnixDatagram>,
}

impl Guard<'_> {
    /// The program under test.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.directory.join("config.yaml")
    }

    /// Its policy file, which a test may change before a reload.
    pub fn policy(&self) -> PathBuf {
        self.directory.join("policy.yaml")
    }

    /// Its state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// Where its sockets are.
    pub fn runtime_dir(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// Where its gate is pinned: a bpffs of its own.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The cgroup below which its agents are.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// What the daemon has said since it was last started.
    pub fn log(&self) -> String {
        self.process.as_ref().map_or_else(String::new, |process| {
            let mut log = process.stdout();
            // Writing to a string does not fail.
            let _ = write!(log, "{}", process.stderr());
            log
        })
    }

    /// The daemon's process id.
    ///
    /// # Errors
    /// It does not run.
    pub fn id(&self) -> Result<u32> {
        let process = self.process.as_ref().context("the daemon does not run")?;
        Ok(process.id())
    }

    /// Starts the daemon, again after [`Guard::stop`] or [`Guard::kill`], and waits until it is
    /// ready. Pins, cgroups and state are those it left.
    ///
    /// # Errors
    /// It runs already, or it is not ready in time: the error has what it said.
    pub fn start(&mut self) -> Result<()> {
        self.begin()?;
        self.notified("READY=1").map(drop)
    }

    /// Starts the daemon as [`Guard::start`] does, and does not wait for it.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn begin(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("the daemon runs already");
        }
        let path = self.directory.join("notify");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).context("cannot remove the old notification socket");
            }
            _ => {}
        }
        let socket = UnixDatagram::bind(&path).context("no notification socket")?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;

        let daemon = self.world.host().command(&self.program);
        let daemon = daemon
            .args(["daemon", "--config"])
            .arg(self.config())
            .env("NOTIFY_SOCKET", &path);
        let daemon = self
            .environment
            .iter()
            .fold(daemon, |daemon, (name, value)| daemon.env(name, value));
        let daemon = self.covers.iter().fold(daemon, |daemon, (source, target)| {
            daemon.cover(source, target)
        });
        self.process = Some(daemon.spawn()?);
        self.notifications = Some(socket);
        Ok(())
    }

    /// Waits until the daemon tells its service manager this (sd_notify(3)), and gives the lines that
    /// it has told up to it since the last time.
    ///
    /// # Errors
    /// It ends, or does not tell it in time: the error has what it said.
    pub fn notified(&mut self, last: &str) -> Result<Vec<String>> {
        let limit = patient(READY);
        let deadline = Instant::now() + limit;
        let mut told = Vec::new();
        let mut message = [0; 4096];
        loop {
            let socket = self.notifications.as_ref();
            match socket.context("it was not started")?.recv(&mut message) {
                Ok(length) => {
                    let message = message.get(..length).unwrap_or_default();
                    let message = String::from_utf8_lossy(message);
                    told.extend(message.lines().map(str::to_owned));
                    if told.iter().any(|line| line == last) {
                        return Ok(told);
                    }
                }
                // A socket with a time limit is interrupted by whatever stops this process for a
                // moment (signal(7)), also without a handler.
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error).context("cannot read the notification socket"),
            }
            let ended = match &mut self.process {
                Some(process) => process.ended()?,
                None => None,
            };
            if let Some(status) = ended {
                bail!("the daemon ended: {status}\n{}", self.log());
            }
            if Instant::now() >= deadline {
                bail!("no {last} within {limit:?}\n{}", self.log());
            }
        }
    }

    /// Ends the daemon as systemd does, with SIGTERM, and gives what it said and its exit status.
    /// What it has pinned stays.
    ///
    /// # Errors
    /// It does not run, or does not end in time.
    pub fn stop(&mut self) -> Result<Output> {
        let mut process = self.process.take().context("the daemon does not run")?;
        process.signal(Signal::TERM)?;
        process.wait(END)
    }

    /// Ends the daemon with SIGKILL.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the daemon does not run")?;
        process.signal(Signal::KILL)?;
        process.wait(END).map(drop)
    }

    /// Sends the daemon a signal, such as SIGHUP.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        let process = self.process.as_mut().context("the daemon does not run")?;
        process.signal(signal)
    }

    /// A call of the command line in the host, as its operator: `guard.cli().args(["status"])`.
    pub fn cli(&self) -> Invocation<'_> {
        let cli = self.world.host().command(&self.program);
        cli.env(CONFIG_VARIABLE, self.config())
    }

    /// `agentguard run --agent AGENT -- WORDS`, still to be run. The agent trusts the world's
    /// authority.
    pub fn agent<S: AsRef<OsStr>>(
        &self,
        agent: &str,
        words: impl IntoIterator<Item = S>,
    ) -> Invocation<'_> {
        let run = self.cli().args(["run", "--agent", agent, "--"]).args(words);
        let trust = self.world.trust().into_iter();
        trust.fold(run, |run, (name, file)| run.env(name, file))
    }

    /// Runs a program as an agent, to its end.
    ///
    /// # Errors
    /// It cannot be started or does not end in time. That it fails is not an error.
    pub fn run<S: AsRef<OsStr>>(
        &self,
        agent: &str,
        words: impl IntoIterator<Item = S>,
    ) -> Result<Output> {
        self.agent(agent, words).run()
    }

    /// A program in the host that moves into a cgroup before it starts: how something gets under
    /// the gate without `run`, and outlives the daemon.
    pub fn within<S: AsRef<OsStr>>(
        &self,
        cgroup: &Path,
        words: impl IntoIterator<Item = S>,
    ) -> Invocation<'_> {
        let host = self.world.host().command("sh");
        let join = r#"echo 0 > "$0/cgroup.procs" && exec "$@""#;
        let program = host.args(["-c", join]).arg(cgroup).args(words);
        let trust = self.world.trust().into_iter();
        trust.fold(program, |program, (name, file)| program.env(name, file))
    }

    /// The cgroup of an agent, made if it is not there yet, and under the gate.
    ///
    /// # Errors
    /// The daemon does not find it.
    pub fn agent_cgroup(&self, agent: &str) -> Result<PathBuf> {
        let cgroup = self.cgroup.join(agent);
        if let Err(error) = fs::create_dir(&cgroup) {
            // The guard made it for a run, and would remove it with that.
            fs::create_dir_all(cgroup.join("held")).context(error)?;
        }
        let path = cgroup.display().to_string();
        wait_until("the agent's cgroup is governed", READY, || {
            let show = self.cli().args(["agent", "show", agent, "-o", "json"]);
            let shown = show.run().ok()?;
            shown.stdout.contains(&path).then_some(())
        })?;
        Ok(cgroup)
    }

    /// Every decision so far, the newest last.
    ///
    /// # Errors
    /// The command fails, or prints what is no decision.
    pub fn verdicts(&self) -> Result<Vec<Decision>> {
        // The most that one question gets.
        let cli = self
            .cli()
            .args(["verdicts", "--limit", "10000", "-o", "jsonl"]);
        decisions(&cli.run()?.success()?.stdout)
    }

    /// Waits until the record has decisions that the test looks for, and gives what `found` made
    /// of them. Decisions of the kernel are recorded after their effect.
    ///
    /// # Errors
    /// They do not come; the error has all decisions and the daemon's log.
    pub fn wait_verdicts<T>(
        &self,
        what: &str,
        mut found: impl FnMut(&[Decision]) -> Option<T>,
    ) -> Result<T> {
        let mut last = Vec::new();
        let waited = wait_until(what, Duration::from_secs(5), || match self.verdicts() {
            Ok(decisions) => {
                let result = found(&decisions);
                last = decisions;
                result.map(Ok)
            }
            Err(error) => Some(Err(error)),
        });
        waited.and_then(|found| found).with_context(|| {
            let decisions: Vec<_> = last
                .iter()
                .map(|decision| serde_json::to_string(decision).unwrap_or_default())
                .collect();
            format!("decisions:\n{}\nlog:\n{}", decisions.join("\n"), self.log())
        })
    }

    fn clean(&mut self) -> Result<()> {
        let stopped = match self.process {
            Some(_) => self.stop().map(drop),
            None => Ok(()),
        };
        self.process = None;
        let agents = match self.cgroup.is_dir() {
            true => leftover::remove_cgroup(&self.cgroup),
            false => Ok(()),
        };
        let pins = unmount(&self.bpffs, UnmountFlags::DETACH)
            .with_context(|| format!("cannot unmount {}", self.bpffs.display()));
        stopped.and(agents).and(pins)
    }
}

/// Reads decisions, one a line, as `agentguard verdicts -o jsonl` prints them.
///
/// # Errors
/// A line is no decision.
pub fn decisions(lines: &str) -> Result<Vec<Decision>> {
    let decision =
        |line| serde_json::from_str(line).with_context(|| format!("not a decision: {line}"));
    lines.lines().map(decision).collect()
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
        if let Err(error) = self.clean() {
            eprintln!("cannot clean up the guard: {error:#}");
        }
    }
}

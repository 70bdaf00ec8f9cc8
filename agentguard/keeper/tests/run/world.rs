//! What the tests stand on: a keeper with a fake host, and a person at a terminal.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use agentguard_keeper::message;
use agentguard_keeper::packet::{self, Peer};
use agentguard_keeper::spawn::{
    self, Admission, Domain, Host, Overlay, Refusal, RunId, RunRequest, SeccompFilter,
};
use rustix::process::Pid;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

/// How long a test waits for something that must happen: so many times longer as `AGENTGUARD_PATIENCE`
/// says, on an emulated processor.
pub(crate) fn deadline() -> Duration {
    let patience = std::env::var("AGENTGUARD_PATIENCE");
    let times = patience.map_or(1, |times| times.parse().unwrap());
    Duration::from_secs(20) * times
}

/// Waits on a condition that nothing announces; polls the kernel instead of sleeping.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + deadline();
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        let pause = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 2_000_000,
        };
        let _ = rustix::event::poll(&mut [], Some(&pause));
    }
}

/// What one test's host gives every run.
#[derive(Default)]
pub(crate) struct Gives {
    pub(crate) refusal: Option<Refusal>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) defaults: Vec<(String, String)>,
    pub(crate) network: Option<File>,
    pub(crate) overlays: Vec<(PathBuf, PathBuf)>,
    pub(crate) mounts: Vec<fn() -> Overlay>,
    pub(crate) seccomp: Option<fn() -> SeccompFilter>,
    pub(crate) domain: Domain,
}

struct FakeHost {
    cgroup: PathBuf,
    gives: Gives,
    next: AtomicU64,
    finished: Mutex<BTreeSet<u64>>,
    changed: Condvar,
}

impl FakeHost {
    fn run_cgroup(&self, run: u64) -> PathBuf {
        self.cgroup.join(format!("run-{run}"))
    }
}

impl Host for FakeHost {
    fn admit(&self, request: &RunRequest, _: &Peer, _: u32) -> Result<Admission, Refusal> {
        if let Some(refusal) = &self.gives.refusal {
            return Err(refusal.clone());
        }
        assert_eq!(request.agent.as_str(), "coder");
        let run = self.next.fetch_add(1, Ordering::SeqCst);
        let cgroup = self.run_cgroup(run);
        fs::create_dir(&cgroup).unwrap();
        let mut overlays: Vec<Overlay> = self
            .gives
            .overlays
            .iter()
            .map(|(source, target)| {
                Overlay::new(File::open(source).unwrap().into(), target.clone())
            })
            .collect();
        overlays.extend(self.gives.mounts.iter().map(|make| make()));
        Ok(Admission {
            run: RunId(run),
            cgroup: File::open(&cgroup).unwrap().into(),
            network: self
                .gives
                .network
                .as_ref()
                .map(|file| file.try_clone().unwrap().into()),
            environment: self.gives.environment.clone(),
            defaults: self.gives.defaults.clone(),
            overlays,
            seccomp: self.gives.seccomp.map(|make| make()),
            domain: self.gives.domain,
            without_groups: Vec::new(),
        })
    }

    fn finished(&self, run: RunId) {
        assert!(
            self.finished.lock().unwrap().insert(run.0),
            "finished twice"
        );
        self.changed.notify_all();
    }
}

/// Says that a test is not run, where that is allowed.
fn skip(test: &str, why: &str) {
    assert!(
        std::env::var_os("AGENTGUARD_REQUIRE_ALL").is_none(),
        "{why}, and nothing may be skipped"
    );
    println!("skipped {test}: {why}");
    if let Some(file) = std::env::var_os("AGENTGUARD_SKIPPED") {
        let mut file = fs::OpenOptions::new().append(true).open(file).unwrap();
        writeln!(file, "{test}: {why}").unwrap();
    }
}

/// A keeper that serves `run` on a socket, in a cgroup of its own. Removes everything on drop.
pub(crate) struct Keeper {
    directory: tempfile::TempDir,
    host: Arc<FakeHost>,
}

impl Keeper {
    /// `None`, with a printed reason, where it cannot be.
    pub(crate) fn new(test: &str, gives: Gives) -> Option<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        if !rustix::process::geteuid().is_root() {
            skip(test, "needs root");
            return None;
        }
        let Some(mount) = agentguard_keeper::cgroup::mount() else {
            skip(test, "needs cgroup v2");
            return None;
        };
        default_signals();
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        // As the world of the end-to-end tests names its own, so that its sweep finds what a killed
        // test leaves.
        let cgroup = mount.join(format!("agentguard-test-{}-{number}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        let directory = tempfile::tempdir().unwrap();
        open_to_all(directory.path());
        let host = Arc::new(FakeHost {
            cgroup,
            gives,
            next: AtomicU64::new(0),
            finished: Mutex::default(),
            changed: Condvar::new(),
        });
        let keeper = Self { directory, host };
        let listener = packet::listen(&keeper.socket(), 0o666).unwrap();
        let host: Arc<dyn Host> = keeper.host.clone();
        // Ends with the test's process; a connection that comes later finds no socket.
        std::thread::spawn(move || {
            while let Ok(connection) = listener.accept() {
                let host = host.clone();
                std::thread::spawn(move || {
                    let peer = connection.peer().unwrap();
                    if let Ok(Some((message::Command::Run(request), fds))) = connection.recv() {
                        spawn::serve(connection, &request, fds, &peer, &host);
                    }
                });
            }
        });
        Some(keeper)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("keeper.sock")
    }

    /// A directory that every user may write to.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The words that begin a command line of `agentguard run` here.
    pub(crate) fn run(&self) -> String {
        format!(
            "{} {} --agent coder",
            // Tests put these words between quotes of their own.
            client().display().to_string().replace(' ', "\\ "),
            self.socket().display()
        )
    }

    /// A client that runs this command.
    pub(crate) fn client(&self, options: &[&str], command: &[&str]) -> Command {
        let mut client = Command::new(client());
        client
            .arg(self.socket())
            .args(["--agent", "coder"])
            .args(options)
            .arg("--")
            .args(command)
            .current_dir("/");
        client
    }

    /// Runs a command to its end and gives its code, stdout and stderr.
    pub(crate) fn output(
        &self,
        options: &[&str],
        command: &[&str],
    ) -> (Option<i32>, String, String) {
        let output = self
            .client(options, command)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    }

    /// The processes in the cgroup of a run.
    pub(crate) fn members(&self, run: u64) -> Vec<u32> {
        fs::read_to_string(self.host.run_cgroup(run).join("cgroup.procs"))
            .unwrap_or_default()
            .lines()
            .map(|line| line.parse().unwrap())
            .collect()
    }

    /// The monitor of a run.
    pub(crate) fn monitor(&self, run: u64) -> Pid {
        let found = self.members(run).into_iter().find(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm"));
            name.is_ok_and(|name| name == "agentguard-run\n")
        });
        Pid::from_raw(i32::try_from(found.unwrap()).unwrap()).unwrap()
    }

    /// Whether a process of any run is stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        let runs = 0..self.host.next.load(Ordering::SeqCst);
        runs.flat_map(|run| self.members(run))
            .any(|pid| state(pid) == Some('T'))
    }

    /// Waits until a program runs: a shell that is just about to execute it may swallow a signal.
    pub(crate) fn wait_running(&self, program: &str) {
        eventually(program, || {
            let runs = 0..self.host.next.load(Ordering::SeqCst);
            runs.flat_map(|run| self.members(run)).any(|pid| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm"));
                name.is_ok_and(|name| name.trim_end() == program)
            })
        });
    }

    pub(crate) fn wait_finished(&self, run: u64) {
        let finished = self.host.finished.lock().unwrap();
        let (_finished, result) = self
            .host
            .changed
            .wait_timeout_while(finished, deadline(), |finished| !finished.contains(&run))
            .unwrap();
        assert!(!result.timed_out(), "run {run} has not finished");
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = fs::write(self.host.cgroup.join("cgroup.kill"), "1");
        let deadline = Instant::now() + deadline();
        while Instant::now() < deadline {
            for run in 0..self.host.next.load(Ordering::SeqCst) {
                let _ = fs::remove_dir(self.host.run_cgroup(run));
            }
            if fs::remove_dir(&self.host.cgroup).is_ok() {
                break;
            }
            let pause = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 2_000_000,
            };
            let _ = rustix::event::poll(&mut [], Some(&pause));
        }
    }
}

/// Whoever started the tests may ignore some signals (nohup, or a script in the background), and
/// what is ignored stays so in every child: to a client's Ctrl-C above all.
fn default_signals() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: the default action runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
}

/// The client, where another user may execute it too.
pub(crate) fn client() -> &'static Path {
    static CLIENT: OnceLock<PathBuf> = OnceLock::new();
    CLIENT.get_or_init(|| {
        let mut path = std::env::current_exe().unwrap();
        path.pop();
        path.pop();
        path.push("examples/run_client");
        assert!(
            path.exists(),
            "build the client: cargo build --example run_client"
        );
        path
    })
}

/// A person at a terminal, with a program as the leader of its session.
pub(crate) struct Person {
    master: File,
    program: Child,
    seen: Arc<(Mutex<Seen>, Condvar)>,
}

#[derive(Default)]
struct Seen {
    text: String,
    /// How much of it has been expected already.
    read: usize,
    over: bool,
}

impl Person {
    /// At an interactive bash whose prompt is `ready> ` and which tells at once when a job stops.
    pub(crate) fn at_bash() -> Self {
        let mut person = Self::at(&["bash", "--norc", "--noprofile", "-i"]);
        person.types("bind 'set enable-bracketed-paste off'; set -b; PS1='rea''dy> '\n");
        person.sees("ready> ");
        person
    }

    pub(crate) fn at(program: &[&str]) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        let person_size = size(24, 80);
        rustix::termios::tcsetwinsize(&slave, person_size).unwrap();
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        let program = Command::new("setsid")
            .args(["--ctty", "--wait"])
            .args(program)
            .env("TERM", "dumb")
            .env("PS1", "$ ")
            .env_remove("PROMPT_COMMAND")
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .current_dir("/")
            .spawn()
            .unwrap();
        drop(slave);
        let seen: Arc<(Mutex<Seen>, Condvar)> = Arc::default();
        let writer = seen.clone();
        let mut reader = File::from(master.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let length = reader.read(&mut buffer).unwrap_or(0);
                let mut seen = writer.0.lock().unwrap();
                seen.text
                    .push_str(&String::from_utf8_lossy(&buffer[..length]));
                seen.over = length == 0;
                writer.1.notify_all();
                if seen.over {
                    break;
                }
            }
        });
        Self {
            master: master.into(),
            program,
            seen,
        }
    }

    pub(crate) fn types(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until this text appears after what was seen before.
    pub(crate) fn sees(&self, text: &str) {
        let seen = self.seen.0.lock().unwrap();
        let (mut seen, _result) = self
            .seen
            .1
            .wait_timeout_while(seen, deadline(), |seen| {
                !seen.text[seen.read..].contains(text) && !seen.over
            })
            .unwrap();
        let rest = &seen.text[seen.read..];
        let Some(at) = rest.find(text) else {
            panic!("never saw {text:?}, but {rest:?}, of {:?}", seen.text);
        };
        seen.read += at + text.len();
    }

    /// All that was ever seen.
    pub(crate) fn everything(&self) -> String {
        self.seen.0.lock().unwrap().text.clone()
    }

    pub(crate) fn resizes(&self, rows: u16, columns: u16) {
        rustix::termios::tcsetwinsize(&self.master, size(rows, columns)).unwrap();
    }

    /// Whether the terminal is as a shell expects it: line by line, with echo and signals.
    pub(crate) fn terminal_is_cooked(&self) -> bool {
        use rustix::termios::{LocalModes, OutputModes};
        let modes = rustix::termios::tcgetattr(&self.master).unwrap();
        modes.local_modes.contains(LocalModes::ISIG)
            && modes.output_modes.contains(OutputModes::OPOST)
    }

    pub(crate) fn foreground(&self) -> i32 {
        let group = rustix::termios::tcgetpgrp(&self.master).unwrap();
        group.as_raw_nonzero().get()
    }

    /// Closes the window.
    pub(crate) fn leaves(self) -> Child {
        let Self {
            master,
            mut program,
            seen,
        } = self;
        // The reader holds a copy of the master: the end comes when the program has gone.
        let _ = program.kill();
        drop(master);
        drop(seen);
        program
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// The state letter of a process in `/proc`; `None` if it is gone.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// A pipe whose write end goes to a command; for the condition that all its writers are gone.
pub(crate) fn pipe() -> (File, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    (File::from(OwnedFd::from(reader)), writer.into())
}

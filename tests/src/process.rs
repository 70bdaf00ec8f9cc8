//! Programs run inside a namespace.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::namespace::Namespace;
use crate::wait_until;

/// How long a program may run where the test does not say otherwise.
const LIMIT: Duration = Duration::from_secs(30);

/// How long we wait for the last output of a program that has ended: a grandchild that keeps the
/// pipe open must not hold the test.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How much of each stream is kept. What comes after is read and dropped.
const KEPT: usize = 64 << 20;

/// Binds files and directories over the machine's, in a mount namespace of the program's own.
/// (`ip netns exec` would do that too for `resolv.conf`, but it also hides everything mounted below
/// `/sys`.)
const COVERED: &str = r#"
while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit; shift 2; done
shift
exec "$@"
"#;

/// A program that is about to be run in a namespace.
#[derive(Debug)]
pub struct Invocation<'a> {
    namespace: &'a Namespace,
    words: Vec<OsString>,
    environment: Vec<(OsString, Option<OsString>)>,
    directory: Option<PathBuf>,
    /// What it sees, and in the place of what.
    covers: Vec<(PathBuf, PathBuf)>,
    input: Vec<u8>,
    limit: Duration,
}

impl<'a> Invocation<'a> {
    pub(crate) fn new(namespace: &'a Namespace, program: impl AsRef<OsStr>) -> Self {
        Self {
            namespace,
            words: vec![program.as_ref().to_owned()],
            environment: Vec::new(),
            directory: None,
            covers: Vec::new(),
            input: Vec::new(),
            limit: LIMIT,
        }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, word: impl AsRef<OsStr>) -> Self {
        self.words.push(word.as_ref().to_owned());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        let words = words.into_iter().map(|word| word.as_ref().to_owned());
        self.words.extend(words);
        self
    }

    /// A variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let value = Some(value.as_ref().to_owned());
        self.environment.push((name.as_ref().to_owned(), value));
        self
    }

    /// Not this variable.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), None));
        self
    }

    /// The working directory; otherwise the test's.
    #[must_use]
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// What it reads on standard input, which is closed afterwards; otherwise nothing.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// How long it may run; otherwise 30 s.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// With a file or directory in the place of one that the machine has.
    #[must_use]
    pub fn cover(mut self, source: &Path, target: &Path) -> Self {
        self.covers.push((source.to_owned(), target.to_owned()));
        self
    }

    /// Runs it to its end, whatever that is.
    ///
    /// # Errors
    /// It cannot be started, or does not end in time; then the error has what it printed.
    pub fn run(self) -> Result<Output> {
        let limit = self.limit;
        self.spawn()?.wait(limit)
    }

    /// Starts it. It leads a process group of its own, which is killed on drop.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(self) -> Result<Process> {
        let mut command = self.command();
        let line = self.to_string();
        let spawned = self.namespace.enter(|| command.spawn())?;
        let mut child = spawned.with_context(|| format!("cannot run `{line}`"))?;
        let (done, streams) = channel();
        let stdout = collect(child.stdout.take(), done.clone());
        let stderr = collect(child.stderr.take(), done);
        if let Some(mut stdin) = child.stdin.take() {
            let input = self.input;
            // It may end without reading it: then the pipe breaks, which is its own affair.
            thread::spawn(move || drop(stdin.write_all(&input)));
        }
        Ok(Process {
            line,
            child,
            ended: false,
            stdout,
            stderr,
            streams,
        })
    }

    fn command(&self) -> Command {
        let mut words = self.words.iter();
        let mut command = if self.covers.is_empty() {
            Command::new(words.next().map_or(OsStr::new(""), OsString::as_os_str))
        } else {
            let mut command = Command::new("unshare");
            command
                .args(["--mount", "--propagation", "slave", "--", "sh", "-c"])
                .args([COVERED, "sh"]);
            for (source, target) in &self.covers {
                command.args([source, target]);
            }
            command.arg("--");
            command
        };
        command.args(words);
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

impl fmt::Display for Invocation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self
            .words
            .iter()
            .map(|word| word.to_string_lossy())
            .collect();
        f.write_str(&words.join(" "))
    }
}

type Collected = Arc<Mutex<Vec<u8>>>;

/// Reads a stream to its end on a thread of its own, and lets go of `done` then.
fn collect(
    stream: Option<impl Read + Send + 'static>,
    done: std::sync::mpsc::Sender<()>,
) -> Collected {
    let collected = Collected::default();
    if let Some(mut stream) = stream {
        let into = Arc::clone(&collected);
        thread::spawn(move || {
            let mut piece = vec![0; 64 << 10];
            while let Ok(length @ 1..) = stream.read(&mut piece) {
                let mut into = into.lock().unwrap_or_else(PoisonError::into_inner);
                let room = KEPT.saturating_sub(into.len()).min(length);
                into.extend(piece.get(..room).unwrap_or_default());
            }
            drop(done);
        });
    }
    collected
}

fn text(collected: &Collected) -> String {
    let bytes = collected.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A program that runs.
#[derive(Debug)]
pub struct Process {
    line: String,
    child: Child,
    ended: bool,
    stdout: Collected,
    stderr: Collected,
    /// Disconnected when both streams have been read to their end; nothing is ever sent.
    streams: Receiver<()>,
}

impl Process {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// What it has said on standard error so far.
    pub fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// Its exit status, where it has ended. What it has printed by then has been read, unless others keep that open.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait().context("cannot ask for the status")?;
        if status.is_some() && !self.ended {
            self.ended = true;
            let _ = self.streams.recv_timeout(LAST_WORDS);
        }
        Ok(status)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.ended()?.is_some() {
            bail!("`{}` has ended", self.line);
        }
        kill_process(Pid::from_child(&self.child), signal)
            .with_context(|| format!("cannot signal `{}`", self.line))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It does not end in time, and is killed; the error has what it printed.
    pub fn wait(mut self, limit: Duration) -> Result<Output> {
        let waited = wait_until("its end", limit, || self.ended().transpose());
        let status = match waited {
            Ok(status) => status?,
            Err(_) => {
                self.kill();
                bail!(
                    "`{}` did not end within {limit:?}\n{}{}",
                    self.line,
                    self.stdout(),
                    self.stderr()
                );
            }
        };
        Ok(Output {
            line: self.line.clone(),
            status,
            stdout: self.stdout(),
            stderr: self.stderr(),
        })
    }

    fn kill(&mut self) {
        // Errors mean that nobody is left to be killed.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
        self.ended = true;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
        }
    }
}

/// How a program ended, and what it printed.
#[derive(Clone, Debug)]
pub struct Output {
    line: String,
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output; what is not UTF-8 is replaced.
    pub stdout: String,
    /// Its standard error; what is not UTF-8 is replaced.
    pub stderr: String,
}

impl Output {
    /// Its exit code, as a shell would tell it: 128 and the signal for one that was killed.
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .or_else(|| self.status.signal().map(|signal| 128 + signal))
            .unwrap_or(-1)
    }

    /// Itself, where it ended with 0.
    ///
    /// # Errors
    /// It did not; the error has what it printed.
    pub fn success(self) -> Result<Self> {
        if !self.status.success() {
            bail!("{self}");
        }
        Ok(self)
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}`: {}\nstdout: {}\nstderr: {}",
            self.line, self.status, self.stdout, self.stderr
        )
    }
}

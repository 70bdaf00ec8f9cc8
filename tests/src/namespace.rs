//! Network namespaces, and how to be in one.

use std::ffi::OsStr;
use std::fs::File;
use std::future::Future;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use crate::process::Invocation;
use crate::tag::{Tag, VARIABLE};

/// Where `ip netns` keeps them.
pub(crate) const DIRECTORY: &str = "/run/netns";

/// A network namespace with a name. Dropping it kills the processes inside and removes it.
#[derive(Debug)]
pub struct Namespace {
    tag: Tag,
    name: String,
    link: File,
    resolver: Option<PathBuf>,
}

impl Namespace {
    /// Makes one, with `lo` up.
    ///
    /// # Errors
    /// Not root, or no `ip` command.
    pub fn create(tag: Tag, role: &str) -> Result<Self> {
        // The first `ip netns add` on a machine mounts `/run/netns`, which must not happen twice.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let name = tag.namespace(role);
        {
            let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
            ip(&["netns", "add", &name], "")?;
        }
        let path = Path::new(DIRECTORY).join(&name);
        let link = match File::open(&path) {
            Ok(link) => link,
            Err(error) => {
                remove(&name)?;
                return Err(error).with_context(|| format!("cannot open {}", path.display()));
            }
        };
        let namespace = Self {
            tag,
            name,
            link,
            resolver: None,
        };
        namespace.ip("link set lo up\n")?;
        Ok(namespace)
    }

    /// Its name, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Programs started from now on have this file as `/etc/resolv.conf`.
    pub(crate) fn set_resolver(&mut self, file: PathBuf) {
        self.resolver = Some(file);
    }

    /// Does `work` on a thread of its own inside the namespace. What the thread opens or starts
    /// stays there; the caller never leaves where it is. A panic of `work` goes on in the caller.
    ///
    /// # Errors
    /// Not root any more.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.move_this_thread()?;
                    Ok(work())
                })
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    fn move_this_thread(&self) -> Result<()> {
        move_into_link_name_space(self.link.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter {}", self.name))
    }

    /// A program to be run inside, with the world's name servers.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Invocation<'_> {
        let command = Invocation::new(self, program)
            .env(VARIABLE, self.tag.directory())
            .env("LC_ALL", "C.UTF-8");
        // The person's own proxy settings would lead every client astray.
        let command = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"]
            .iter()
            .fold(command, |command, name| {
                command
                    .env_remove(name)
                    .env_remove(name.to_ascii_uppercase())
            });
        match &self.resolver {
            Some(file) => command.cover(file, Path::new("/etc/resolv.conf")),
            None => command,
        }
    }

    /// Runs lines of `ip -batch` inside, such as `addr add 192.0.2.1/24 dev lo`.
    ///
    /// # Errors
    /// `ip` refuses one of them.
    pub fn ip(&self, batch: &str) -> Result<()> {
        ip(&["-netns", &self.name, "-batch", "-"], batch)
    }

    /// The processes whose first thread is inside.
    ///
    /// # Errors
    /// `ip` does not say.
    pub fn processes(&self) -> Result<Vec<u32>> {
        processes(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("{error:#}");
        }
    }
}

/// Kills what is inside and removes the name. The namespace itself lives as long as somebody holds it.
pub(crate) fn remove(name: &str) -> Result<()> {
    for process in processes(name).unwrap_or_default() {
        let ours = process != std::process::id();
        if let (true, Some(process)) = (ours, i32::try_from(process).ok().and_then(Pid::from_raw)) {
            // An error means that it has ended by itself.
            let _ = kill_process(process, Signal::KILL);
        }
    }
    ip(&["netns", "delete", name], "")
}

fn processes(name: &str) -> Result<Vec<u32>> {
    let output = Command::new("ip")
        .args(["netns", "pids", name])
        .output()
        .context("cannot run `ip`")?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect())
}

fn ip(arguments: &[&str], input: &str) -> Result<()> {
    let mut ip = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run `ip`")?;
    if let Some(mut stdin) = ip.stdin.take() {
        stdin
            .write_all(input.as_bytes())
            .context("cannot write to `ip`")?;
    }
    let output = ip.wait_with_output().context("cannot wait for `ip`")?;
    if !output.status.success() {
        bail!(
            "`ip {}` failed: {}\n{input}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// A thread inside a namespace with a tokio runtime: the sockets of its tasks are the namespace's.
/// Dropping it ends its tasks and the thread.
#[derive(Debug)]
pub struct Runtime {
    handle: tokio::runtime::Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Runtime {
    /// Starts one.
    ///
    /// # Errors
    /// The thread cannot be started or cannot enter.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let link = namespace
            .link
            .try_clone()
            .context("cannot hold the namespace")?;
        let (ready, started) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new()
            .name(namespace.name.clone())
            .spawn(move || {
                let runtime =
                    move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Network))
                        .map_err(std::io::Error::from)
                        .and_then(|()| {
                            tokio::runtime::Builder::new_current_thread()
                                .enable_all()
                                .build()
                        });
                match runtime {
                    Ok(runtime) => {
                        let _ = ready.send(Ok(runtime.handle().clone()));
                        // Ends also when the sender is dropped.
                        let _ = runtime.block_on(stopped);
                        runtime.shutdown_timeout(Duration::from_secs(1));
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            })
            .context("cannot start a thread")?;
        let handle = started
            .recv()
            .context("the thread ended")?
            .with_context(|| format!("cannot start a runtime in {}", namespace.name))?;
        Ok(Self {
            handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Starts a task, which ends with the runtime at the latest.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(task);
    }

    /// Does `work` inside and waits for its result.
    ///
    /// # Errors
    /// The runtime has ended, or `work` panicked.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let (done, result) = mpsc::channel();
        self.handle.spawn(async move {
            let _ = done.send(work.await);
        });
        result.recv().context("the runtime ended")
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("a runtime's thread panicked");
        }
    }
}

//! The privileged half: start order, supervision, shutdown.
//!
//! One thread waits for signals and ticks once a second; one reads what the worker asks; one accepts
//! clients; each run has one. They share [`state::Keeper`] behind a lock that is never held while
//! waiting for anyone.

mod adoption;
mod authorities;
mod claim;
mod clients;
mod detach;
mod direct;
mod host;
mod link;
mod metrics;
mod outgoing;
mod policy;
mod profiles;
mod published;
mod quotas;
mod registry;
mod residents;
mod resources;
mod returned;
mod sandbox;
mod spent;
mod state;
mod taken;
mod told;
mod trust;

pub(crate) use detach::detach_all;
pub(crate) use policy::compile;

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agentguard_keeper::groups::{self, APPROVE, Groups, LetIn, READ, RUN};
use agentguard_keeper::packet::tell_senders;
use agentguard_keeper::signals::{Signal, Signals};
use agentguard_keeper::worker::mounts::{Directories, Mounts};
use agentguard_keeper::worker::{
    PROFILES, WorkerUser, give_back, keep_little, unmap_code, was_hostile,
};
use anyhow::{Context as _, bail, ensure};

use crate::config::{Config, exposed};
use claim::Claim;
use link::Worker;
use policy::{PolicyRead, PolicySource};
use state::Keeper;
use taken::Taken;

/// How often the kernel gets a sign of life.
const TICK: Duration = Duration::from_secs(1);
/// How long flows may go on after a request to stop.
const DRAIN: Duration = Duration::from_secs(10);
/// How long a worker may take to serve before it is replaced.
const START: Duration = Duration::from_secs(20);
/// How long a worker may take to take a policy.
const TAKE: Duration = Duration::from_secs(5);
/// How often it is looked whether a policy was read.
const READING: Duration = Duration::from_millis(20);
/// How long the first look at namespaces may keep the daemon from being ready.
const LOOK: Duration = Duration::from_secs(2);
/// The pause before a worker that keeps dying is started again, at most. One that lived for longer does
/// not keep dying.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The first pause.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// How many that die young one after the other are replaced at once all the same: agents wait meanwhile.
const AT_ONCE: u32 = 3;

/// The worker's directories in `state_dir`.
const WORKER_ROOMS: [&str; 3] = ["record", "names", "budget"];

/// What to do where a directory of the guard's cannot be written.
const WRITABLE: &str = "hint: its file system has to be writable (findmnt, df); or set `state_dir` and \
     `runtime_dir` to where it is";

/// What workers inherit beside the gate.
struct Sockets {
    /// Where questions are asked.
    control: OwnedFd,
    /// Where agents ask about tools on their own host.
    agents: OwnedFd,
    /// Where figures are asked for, if they are.
    metrics: Option<OwnedFd>,
}

/// The keeper's state, shared between its threads.
type Shared = Arc<Mutex<Keeper>>;

/// The lock. A thread that panicked while it held it left maps and memory apart at worst by one
/// entry; the gate refuses what it does not know, so the others go on.
fn lock(keeper: &Shared) -> MutexGuard<'_, Keeper> {
    keeper.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the daemon until it is told to stop.
pub(crate) fn run(config: Config) -> anyhow::Result<()> {
    keep_little();
    ensure!(
        rustix::process::geteuid().is_root(),
        "the daemon must be started as root; hint: it puts programs into the kernel and spawns agents"
    );
    // The modes below are meant as they stand, whatever the caller or the service manager hands down.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let signals = Signals::block()?;
    agentguard_keeper::limits::keep_own(config.worker.gid)?;
    exposed::file("configuration", &config.file, 0)?;
    if let Some(ledger) = config.ledger.as_ref().filter(|it| it.is_in_the_clear()) {
        tracing::warn!(
            "the Redis at {} is spoken to in the clear: whoever is on the way reads its password, and can change what was \
             used; hint: `tls: true`, unless only hosts that are trusted are on the way",
            ledger.address()
        );
    }
    if let Some(directory) = PROFILES {
        tracing::warn!(
            "this program was compiled to be trained: its worker writes to {directory}, too"
        );
    }
    let policy = PolicySource::of(&config).read()?;
    for warning in policy.policy.warnings() {
        tracing::warn!("{warning}");
    }
    direct::warn(&config.upstreams, &policy.policy);
    prepare_directories(&config)?;
    let claim = Claim::take(&config.paths)?;
    let paths = &config.paths;
    let sockets = [
        paths.control_socket(),
        paths.keeper_socket(),
        paths.agents_socket(),
    ];
    for socket in &sockets {
        claim.clear(socket)?;
    }
    // Looked up once: one that is made later counts from the next start on.
    let groups = Groups::look_up().context("cannot look for the guard's groups")?;
    let control = listen_stream(&config.paths.control_socket(), 0o600)?;
    // Everybody may connect, and who is no agent's hears nothing.
    let agents = listen_stream(&config.paths.agents_socket(), 0o666)?;
    let keeper_socket = config.paths.keeper_socket();
    let clients = agentguard_keeper::packet::listen(&keeper_socket, 0o600)
        .with_context(|| format!("cannot listen on {}", keeper_socket.display()))?;
    let asked = [
        (READ, groups.read),
        (APPROVE, groups.approve),
        (RUN, groups.run),
    ];
    let changed = [(RUN, groups.run), (APPROVE, groups.approve)];
    let unopened = [
        open_to(&config.paths.control_socket(), &asked)?,
        open_to(&keeper_socket, &changed)?,
    ];
    let mut unopened: Vec<String> = unopened.into_iter().flatten().collect();
    let (metrics, lack) = metrics::listen(&config, groups.read);
    unopened.extend(lack);
    let user = WorkerUser {
        uid: config.worker.uid,
        gid: config.worker.gid,
    };
    let mounts = worker_mounts(&config)?;
    let keeper: Shared = Arc::new(Mutex::new(Keeper::new(config, policy, groups, unopened)?));
    // At once, but beside what follows: agents decide how long the first look takes.
    residents::follow(&keeper)?;
    resources::follow(&keeper)?;
    clients::serve(clients, &keeper)?;
    let inherited = Sockets {
        control,
        agents,
        metrics,
    };
    supervise(&signals, &keeper, user, &mounts, &inherited)?;
    for socket in &sockets {
        if let Err(error) = claim.clear(socket) {
            tracing::warn!(error = format!("{error:#}"), "a socket stays");
        }
    }
    tracing::info!("stopped; the gate stays up, redirected flows are refused until a daemon runs");
    Ok(())
}

/// Reads the policy, on a thread of its own: the kernel's signs of life wait for no file system. `None`:
/// there is no thread; said in the log.
fn read_policy(keeper: &Shared) -> Option<mpsc::Receiver<anyhow::Result<PolicyRead>>> {
    let source = lock(keeper).policy_source();
    let (tell, told) = mpsc::channel();
    let read = move || {
        // Whoever asked may ask anew meanwhile.
        let _ = tell.send(source.read());
    };
    let started = std::thread::Builder::new()
        .name("policy".into())
        .spawn(read);
    match started {
        Ok(_) => Some(told),
        Err(error) => {
            tracing::error!(%error, "the policy is not read again");
            None
        }
    }
}

/// Keeps a worker running, and the kernel told that one does. One that cannot be started again is tried
/// again: the gate is kept meanwhile, and what needs a worker refused.
fn supervise(
    signals: &Signals,
    keeper: &Shared,
    user: WorkerUser,
    mounts: &Mounts,
    sockets: &Sockets,
) -> anyhow::Result<()> {
    let mut worker = Some(Worker::start(keeper, user, mounts, sockets)?);
    let mut announced = false;
    let mut reading: Option<mpsc::Receiver<anyhow::Result<PolicyRead>>> = None;
    let mut reloading: Option<Reloading> = None;
    let mut again = Again::default();
    let mut failing: Option<String> = None;
    loop {
        let mut idle = match worker {
            Some(_) => TICK,
            None => again.due_in().min(TICK),
        };
        if let Some(told) = &reading {
            match told.try_recv() {
                Ok(read) => {
                    reading = None;
                    let mut keeper = lock(keeper);
                    // Said in the log and in `status`.
                    let _ = keeper.reload(read);
                    reloading = announced.then(|| Reloading {
                        taken: keeper.taken(),
                        generation: keeper.generation(),
                        until: Instant::now() + TAKE,
                    });
                }
                Err(TryRecvError::Empty) => idle = idle.min(READING),
                Err(TryRecvError::Disconnected) => reading = None,
            }
        }
        match signals.wait(idle) {
            Some(Signal::Stop) => {
                notify(&[sd_notify::NotifyState::Stopping]);
                if let Some(mut worker) = worker {
                    worker.drain(keeper, DRAIN);
                }
                lock(keeper).write_down_quotas();
                return Ok(());
            }
            Some(Signal::Reload) => {
                // Before it serves there is nothing to announce anew.
                if announced {
                    notify(&[sd_notify::NotifyState::Reloading]);
                }
                reading = read_policy(keeper);
            }
            Some(Signal::Child) | None => {}
        }
        if let Some((status, age)) = worker.as_mut().and_then(Worker::ended) {
            worker = None;
            not_serving(keeper);
            if was_hostile(status) {
                tracing::error!(
                    "the worker made a system call that it never makes, and was ended for it: \
                     somebody may have taken it over; hint: the kernel's log has the call \
                     (`dmesg`, type 1326), and `agentguard verdicts` what it dealt with"
                );
            }
            tracing::error!(%status, "the worker ended; starting another");
            if !announced {
                bail!("the worker ended before it served ({status}); hint: its messages are above");
            }
            again.after(age);
        }
        if worker.is_none() && again.due_in().is_zero() {
            match Worker::start(keeper, user, mounts, sockets) {
                Ok(started) => worker = Some(started),
                Err(error) => {
                    not_serving(keeper);
                    again.after(Duration::ZERO);
                    tracing::error!(
                        error = format!("{error:#}"),
                        "no worker can be started; it is tried again, and what needs one is refused"
                    );
                }
            }
        }
        if reloading.take_if(|reloading| reloading.is_over()).is_some() {
            notify(&[sd_notify::NotifyState::Ready]);
        }
        if let Some(worker) = &mut worker {
            let serving = lock(keeper).serving();
            let looked = lock(keeper).residents().looked || worker.age() > LOOK;
            if serving && looked && !announced {
                announced = true;
                // The start is over.
                unmap_code();
                notify(&[sd_notify::NotifyState::Ready]);
                tracing::info!(policy = lock(keeper).policy().version(), "serving");
            }
            let late = !serving && worker.age() > START;
            if late || lock(keeper).worker_is_stuck() {
                tracing::error!("the worker does not get ready, or is stuck; starting another");
                worker.kill();
                continue;
            }
        }
        let ticked = lock(keeper).tick().err();
        let ticked = ticked.map(|error| format!("{error:#}"));
        if ticked != failing {
            match &ticked {
                Some(error) => tracing::warn!(error, "a periodic task fails"),
                None => tracing::info!("no periodic task fails any more"),
            }
            failing = ticked;
        }
        returned::close(keeper);
        state::end_spent(keeper);
        let ca = lock(keeper).ca();
        ca.forget();
        give_back();
    }
}

/// No worker serves.
fn not_serving(keeper: &Shared) {
    if let Err(error) = lock(keeper).set_serving(false) {
        // Direct flows stop with the last sign of life.
        tracing::error!(error = format!("{error:#}"), "cannot tell the gate");
    }
}

/// When a worker is started again: at once, and ever later those after [`AT_ONCE`] that died young.
#[derive(Debug, Default)]
struct Again {
    /// How many died young, one after the other.
    young: u32,
    due: Option<Instant>,
}

impl Again {
    /// One has ended, so long after its start.
    fn after(&mut self, age: Duration) {
        self.young = match age < LONGEST_PAUSE {
            true => self.young.saturating_add(1),
            false => 0,
        };
        self.due = Some(Instant::now() + pause(self.young));
    }

    /// How long it is until then.
    fn due_in(&self) -> Duration {
        self.due.map_or(Duration::ZERO, |due| {
            due.saturating_duration_since(Instant::now())
        })
    }
}

/// A reload that the service manager waits for.
struct Reloading {
    taken: Arc<Taken>,
    generation: u32,
    until: Instant,
}

impl Reloading {
    /// Whether the worker decides with the policy in force, or will not in time: `status` says so.
    fn is_over(&self) -> bool {
        self.taken.wait(self.generation, Duration::ZERO) || Instant::now() >= self.until
    }
}

/// How long the next worker waits after so many in a row that died young.
fn pause(young: u32) -> Duration {
    match young.checked_sub(AT_ONCE + 1) {
        None => Duration::ZERO,
        Some(doubled) => SHORTEST_PAUSE
            .saturating_mul(2_u32.saturating_pow(doubled))
            .min(LONGEST_PAUSE),
    }
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

/// The worker's part of the state is all of the guard's that it sees.
fn worker_mounts(config: &Config) -> anyhow::Result<Mounts> {
    let paths = &config.paths;
    let mut own: Vec<PathBuf> = WORKER_ROOMS.map(|room| paths.state_dir.join(room)).into();
    own.extend(PROFILES.map(PathBuf::from));
    let hidden = [&paths.state_dir, &paths.runtime_dir, &paths.bpffs].map(Clone::clone);
    Mounts::new(&Directories {
        own: &own,
        hidden: &hidden,
    })
    .context(
        "the worker has no mounts of its own; hint: the daemon needs CAP_SYS_ADMIN, and a kernel \
         from 5.12 on",
    )
}

/// State: the keeper's part is root's, the rest the worker's. Directories that others than root can change are
/// refused: they could put sockets and state of their own there.
fn prepare_directories(config: &Config) -> anyhow::Result<()> {
    let make = |path: &Path, mode: u32| {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(path)
            .with_context(|| format!("cannot make {}; {WRITABLE}", path.display()))
    };
    let state = &config.paths.state_dir;
    exposed::directory("state_dir", state)?;
    exposed::directory("runtime_dir", &config.paths.runtime_dir)?;
    make(state, 0o755)?;
    make(&state.join("keeper"), 0o700)?;
    for room in WORKER_ROOMS {
        let path = state.join(room);
        make(&path, 0o700)?;
        own(&path, config.worker.uid, config.worker.gid)?;
    }
    make(&config.paths.runtime_dir, 0o755)
}

/// Gives a directory and what is right in it to the worker: its user may have changed.
fn own(path: &Path, uid: u32, gid: u32) -> anyhow::Result<()> {
    let failed = || {
        format!(
            "cannot give {} to the worker's user; {WRITABLE}",
            path.display()
        )
    };
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).with_context(failed)?;
    for entry in fs::read_dir(path).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        std::os::unix::fs::lchown(entry.path(), Some(uid), Some(gid)).with_context(failed)?;
    }
    Ok(())
}

fn listen_stream(path: &Path, mode: u32) -> anyhow::Result<OwnedFd> {
    let failed = || format!("cannot listen on {}", path.display());
    let listener = UnixListener::bind(path).with_context(failed)?;
    tell_senders(listener.as_fd()).with_context(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(failed)?;
    listener.set_nonblocking(true).with_context(failed)?;
    Ok(listener.into())
}

/// Lets members of groups connect to a socket, those that the host has. Whom it lets in is looked at
/// again, where it is read from. Gives what the file system lacks for it, in a sentence.
fn open_to(path: &Path, groups: &[(&str, Option<u32>)]) -> anyhow::Result<Option<String>> {
    let there: Vec<_> = groups
        .iter()
        .filter_map(|(name, gid)| Some((*name, (*gid)?)))
        .collect();
    let numbers: Vec<u32> = there.iter().map(|(_, gid)| *gid).collect();
    let let_in = groups::let_in(path, &numbers)
        .with_context(|| format!("cannot let the guard's groups in to {}", path.display()))?;
    let lack = match (let_in, there.first()) {
        (LetIn::First, Some((name, _))) => format!(
            "the file system of {} has no access lists: of the guard's groups only {name} is let in",
            path.display()
        ),
        _ => return Ok(None),
    };
    tracing::warn!("{lack}");
    Ok(Some(lack))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::pause;

    #[test]
    fn a_worker_is_replaced_at_once_and_only_those_that_keep_dying_ever_later() {
        let pauses = [0, 1, 2, 3, 4, 5, 6, 10, 11, u32::MAX].map(pause);
        let expected = [0, 0, 0, 0, 50, 100, 200, 3200, 5000, 5000];
        assert_eq!(pauses, expected.map(Duration::from_millis));
    }
}

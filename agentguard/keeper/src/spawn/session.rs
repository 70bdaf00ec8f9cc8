//! One run from its request to its end, on a thread of its own: between the client and the monitor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::launch::{self, Monitor, Overlay, Place};
use super::message::{Ending, FromClient, RELAYED, Refusal, RunRequest, Stage, ToClient};
use super::plan::SpawnPlan;
use super::terminal::Pty;
use super::wire::{self, Received, Record};
use super::{Admission, Host};
use crate::packet::{Packet, PacketError, Peer};

/// What a run whose client is gone has to end by itself before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// Serves one `run`: checks the request, asks the host, starts the command and stays between it and
/// the client until it has ended. Blocks; call it on a thread of its own, not the main one (the
/// monitor forgets all memory but its thread's stack). The caller bounds how many there are.
///
/// If the client goes away before the command has ended, everything in the run's cgroup gets SIGHUP
/// and SIGCONT, and after 5 seconds it is killed. After a normal end, what the command left running
/// in the background goes on, governed, in the run's cgroup.
///
/// [`Host::finished`] is called exactly once for every admission.
pub fn serve(
    connection: Packet,
    request: &RunRequest,
    fds: Vec<OwnedFd>,
    peer: &Peer,
    host: &Arc<dyn Host>,
) {
    let plan = SpawnPlan::read(request, fds, peer).and_then(|plan| {
        let admission = host.admit(request, peer, plan.credentials.uid)?;
        Ok((plan, admission))
    });
    match plan {
        Ok((plan, admission)) => {
            run(&connection, plan, &admission);
            drop(connection);
            host.finished(admission.run);
        }
        Err(refusal) => {
            let _ = connection.send(&ToClient::Refused(refusal), &[]);
        }
    }
}

/// What `EAGAIN` of `clone3(2)` means.
pub const NO_MORE: &str = "the agent has as many processes as it may have (`resources: {pids: …}` in the policy), or the host has: end some, or allow more";

fn run(connection: &Packet, mut plan: SpawnPlan, admission: &Admission) {
    for (name, value) in &admission.environment {
        plan.set(name, value.as_bytes());
    }
    if let Err(refusal) = plan.credentials.give_up(&admission.without_groups) {
        let _ = connection.send(&ToClient::Refused(refusal), &[]);
        return;
    }
    let kept = set_defaults(&mut plan, admission);
    let monitor = match start(&plan, admission) {
        Ok((monitor, master)) => {
            let mut fds = vec![monitor.pidfd.as_fd()];
            fds.extend(master.as_ref().map(AsFd::as_fd));
            // If the client is already gone, `attend` will see it.
            let _ = connection.send(&ToClient::Started { kept }, &fds);
            monitor
        }
        Err(error) => {
            let mut refusal = Refusal::new(format!("cannot start the command: {error}"));
            if error.kind() == io::ErrorKind::WouldBlock {
                refusal = refusal.hint(NO_MORE);
            }
            let _ = connection.send(&ToClient::Refused(refusal), &[]);
            return;
        }
    };
    // Pipes and files of the client end when the command closes them, not when we do.
    drop(plan);
    let ending = attend(connection, &monitor);
    let told = match ending {
        Some(ending) => connection.send(&ToClient::Exited(ending), &[]),
        None => Ok(()),
    };
    if told.is_err() || ending.is_none_or(|ending| ending == Ending::Lost) {
        end_all(admission.cgroup.as_fd(), &monitor);
    }
    monitor.reap();
}

/// Sets what the caller has not set. Gives the names of those that it has set otherwise.
fn set_defaults(plan: &mut SpawnPlan, admission: &Admission) -> Vec<String> {
    let mut kept = Vec::new();
    for (name, value) in &admission.defaults {
        let Some(theirs) = plan.variable(name) else {
            plan.set(name, value.as_bytes());
            continue;
        };
        let overlaid = |overlay: &Overlay| overlay.target.as_os_str().as_bytes() == theirs;
        if theirs != value.as_bytes() && !admission.overlays.iter().any(overlaid) {
            kept.push(name.clone());
        }
    }
    kept
}

/// Starts the command. With the master, if it has a terminal, which then is the client's alone: when
/// the client closes it, the kernel hangs up.
fn start(plan: &SpawnPlan, admission: &Admission) -> io::Result<(Monitor, Option<OwnedFd>)> {
    let pty = plan
        .terminal
        .as_ref()
        .map(|wanted| Pty::open(plan.credentials.uid, wanted.size, &wanted.modes))
        .transpose()?;
    let place = Place {
        cgroup: admission.cgroup.as_fd(),
        network: admission.network.as_ref().map(AsFd::as_fd),
        overlays: &admission.overlays,
        seccomp: admission.seccomp.as_ref(),
        domain: admission.domain,
        terminal: pty.as_ref().map(|pty| pty.slave.as_fd()),
    };
    let monitor = launch::launch(plan, &place)?;
    Ok((monitor, pty.map(|pty| pty.master)))
}

/// Passes on what client and monitor say. Gives how the command ended; `None` once the client is gone.
fn attend(connection: &Packet, monitor: &Monitor) -> Option<Ending> {
    loop {
        let mut ready = [
            PollFd::from_borrowed_fd(connection.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(monitor.wire.as_fd(), PollFlags::IN),
        ];
        // Ends that are closed are ready too, so this cannot wait for ever.
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut ready, None)).ok()?;
        let [client, wire] = ready.map(|fd| !fd.revents().is_empty());
        if wire {
            match wire::receive(monitor.wire.as_fd()) {
                // What came before the end is still read in its order, so this is a kill.
                Received::End => return Some(Ending::Lost),
                Received::Nothing => {}
                Received::Record(record) => {
                    let ending = tell(connection, record).ok()?;
                    if ending.is_some() {
                        return ending;
                    }
                }
            }
        }
        if client {
            match connection.recv::<FromClient>() {
                Ok(Some((message, _))) => relay(monitor.wire.as_fd(), message),
                // A client that does not speak our language is as good as gone.
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

/// Tells the client what the monitor told us.
fn tell(connection: &Packet, record: Record) -> Result<Option<Ending>, PacketError> {
    match record {
        Record::Stopped(signal) => {
            // A client that was itself stopped does not read. It asks for nothing then, so what does
            // not fit its queue may be lost.
            connection.try_send(&ToClient::Stopped(signal))?;
        }
        Record::Failed(stage, errno) => {
            if let Some(stage) = Stage::from_number(stage) {
                connection.send(&ToClient::Failed { stage, errno }, &[])?;
            }
        }
        Record::Exited(code) => {
            return Ok(Some(Ending::Code(u8::try_from(code & 0xff).unwrap_or(255))));
        }
        Record::Killed(signal) => return Ok(Some(Ending::Signal(signal))),
        Record::Signal(_) | Record::Resume(_) => {}
    }
    Ok(None)
}

fn relay(monitor: BorrowedFd<'_>, message: FromClient) {
    match message {
        FromClient::Signal(signal) if RELAYED.contains(&signal) => {
            wire::send(monitor, Record::Signal(signal));
        }
        FromClient::Signal(_) => {}
        FromClient::Resume { foreground } => wire::send(monitor, Record::Resume(foreground)),
    }
}

/// Ends a run whose client is gone.
fn end_all(cgroup: BorrowedFd<'_>, monitor: &Monitor) {
    wire::send(monitor.wire.as_fd(), Record::Signal(libc::SIGHUP));
    wire::send(monitor.wire.as_fd(), Record::Signal(libc::SIGCONT));
    signal_all(cgroup, &[Signal::HUP, Signal::CONT]);
    if wait_until_empty(cgroup, Instant::now() + GRACE) {
        return;
    }
    let killed = rustix::fs::openat(
        cgroup,
        "cgroup.kill",
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .and_then(|file| rustix::io::write(&file, b"1"));
    if killed.is_err() {
        // A cgroup that was removed meanwhile has nobody left.
        signal_all(cgroup, &[Signal::KILL]);
    }
}

/// Sends signals to every process of a cgroup (not of its children). A pid that is listed both before
/// and after its pidfd was opened is that process and no other.
fn signal_all(cgroup: BorrowedFd<'_>, signals: &[Signal]) {
    let processes: Vec<(Pid, OwnedFd)> = members(cgroup)
        .into_iter()
        .filter_map(|pid| {
            let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
            Some((pid, pidfd))
        })
        .collect();
    let still = members(cgroup);
    for (pid, pidfd) in processes {
        if still.contains(&pid) {
            for signal in signals {
                let _ = rustix::process::pidfd_send_signal(&pidfd, *signal);
            }
        }
    }
}

fn members(cgroup: BorrowedFd<'_>) -> Vec<Pid> {
    read(cgroup, "cgroup.procs")
        .lines()
        .filter_map(|line| Pid::from_raw(line.parse().ok()?))
        .collect()
}

/// Waits until nobody is left in a cgroup and its children.
fn wait_until_empty(cgroup: BorrowedFd<'_>, deadline: Instant) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(events) = rustix::fs::openat(cgroup, "cgroup.events", flags, Mode::empty()) else {
        return true;
    };
    loop {
        let mut text = [0; 256];
        let length = rustix::io::pread(&events, &mut text, 0).unwrap_or(0);
        let text = text.get(..length).unwrap_or_default();
        if text.is_empty() || text.starts_with(b"populated 0") {
            return true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(left) = Timespec::try_from(left) else {
            return false;
        };
        // The file is readable at all times and exceptional when it has changed.
        let mut ready = [PollFd::from_borrowed_fd(events.as_fd(), PollFlags::PRI)];
        if rustix::event::poll(&mut ready, Some(&left)) == Ok(0) {
            return false;
        }
    }
}

/// A small file of a cgroup; empty if the cgroup is gone.
fn read(cgroup: BorrowedFd<'_>, name: &str) -> String {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::openat(cgroup, name, flags, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|file| io::read_to_string(std::fs::File::from(file)))
        .unwrap_or_default()
}

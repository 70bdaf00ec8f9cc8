//! A worker's process and what it asks for.

use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentguard_keeper::message::{ToKeeper, ToWorker};
use agentguard_keeper::packet::{Packet, Room};
use agentguard_keeper::worker::mounts::Mounts;
use agentguard_keeper::worker::{self, WorkerUser};
use anyhow::Context as _;

use super::outgoing::Outgoing;
use super::published::Request;
use super::{Shared, Sockets, authorities, lock, spent};

/// A worker.
pub(super) struct Worker {
    child: Child,
    outgoing: Arc<Outgoing>,
    started: Instant,
}

impl Worker {
    /// Starts one and tells it everything.
    pub(super) fn start(
        keeper: &Shared,
        user: WorkerUser,
        mounts: &Mounts,
        sockets: &Sockets,
    ) -> anyhow::Result<Self> {
        let (mut child, packet) = worker::start(user, mounts).context("cannot start the worker")?;
        match attend(keeper, Arc::new(packet), sockets) {
            Ok(outgoing) => Ok(Self {
                child,
                outgoing,
                started: Instant::now(),
            }),
            Err(error) => {
                // Nobody would tell it anything, nor look whether it has ended.
                let _ = child.kill();
                let _ = child.wait();
                Err(error.context("cannot attend to a worker"))
            }
        }
    }

    /// How it ended, if it did, and how long after its start.
    pub(super) fn ended(&mut self) -> Option<(ExitStatus, Duration)> {
        let status = self.child.try_wait().ok().flatten()?;
        Some((status, self.age()))
    }

    pub(super) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn kill(&mut self) {
        self.outgoing.close();
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, and ends it if it does not.
    pub(super) fn drain(&mut self, keeper: &Shared, within: Duration) {
        let asked = self.outgoing.tell(&ToWorker::Drain { within }, &[]);
        let until = Instant::now() + within + Duration::from_secs(2);
        if asked.is_ok() {
            // The queue is closed by the worker's end, which the listening thread sees; here the
            // process is waited for.
            let pidfd = rustix::process::Pid::from_child(&self.child);
            if let Ok(pidfd) =
                rustix::process::pidfd_open(pidfd, rustix::process::PidfdFlags::empty())
            {
                let left = until.saturating_duration_since(Instant::now());
                let timeout = rustix::time::Timespec {
                    tv_sec: i64::try_from(left.as_secs()).unwrap_or(0),
                    tv_nsec: left.subsec_nanos().into(),
                };
                let mut poll = [rustix::event::PollFd::new(
                    &pidfd,
                    rustix::event::PollFlags::IN,
                )];
                // Whether it ended in time or not, it ends below.
                let _ =
                    rustix::io::retry_on_intr(|| rustix::event::poll(&mut poll, Some(&timeout)));
            }
        }
        self.kill();
        // The state is dropped with the process.
        let _ = lock(keeper).set_serving(false);
    }
}

/// Listens to a worker and tells it everything.
fn attend(
    keeper: &Shared,
    packet: Arc<Packet>,
    sockets: &Sockets,
) -> anyhow::Result<Arc<Outgoing>> {
    let outgoing = Outgoing::start(packet.clone())?;
    let told = listen(keeper.clone(), packet, outgoing.clone())
        .and_then(|()| lock(keeper).welcome(outgoing.clone(), sockets));
    if told.is_err() {
        // Its thread ends with it.
        outgoing.close();
    }
    told.map(|()| outgoing)
}

/// Reads what a worker asks for until it is gone.
fn listen(keeper: Shared, packet: Arc<Packet>, outgoing: Arc<Outgoing>) -> anyhow::Result<()> {
    // Sending has a bound; receiving waits as long as the worker has nothing to ask.
    std::thread::Builder::new()
        .name("worker-link".into())
        .spawn(move || {
            // Without a reader the worker is of no use, however this ends.
            let _unread = Unread(keeper.clone(), outgoing.clone());
            let mut room = Room::default();
            loop {
                match packet.recv_in::<ToKeeper>(&mut room) {
                    Ok(Some((message, _))) => answer(&keeper, &outgoing, message),
                    Ok(None) => return,
                    Err(error) => {
                        // What cannot be read was refused; a faulty worker is found out by what it
                        // does not get.
                        tracing::warn!(%error, "the worker said something that is not a message");
                        if matches!(error, agentguard_keeper::packet::PacketError::Socket(_)) {
                            return;
                        }
                    }
                }
            }
        })?;
    Ok(())
}

/// Something is to be looked at, and announced, at once.
pub(super) fn wake_supervisor() {
    let _ =
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::CHILD);
}

/// Has the worker replaced when nobody reads what it asks for any more.
struct Unread(Shared, Arc<Outgoing>);

impl Drop for Unread {
    fn drop(&mut self) {
        lock(&self.0).give_up(&self.1);
    }
}

fn answer(keeper: &Shared, outgoing: &Outgoing, message: ToKeeper) {
    // Nothing else is a sign of life: what is asked for may come from a thread beside one that stands still.
    if matches!(message, ToKeeper::Alive | ToKeeper::Ready) {
        lock(keeper).alive();
    }
    match message {
        ToKeeper::Alive => {}
        ToKeeper::Look => {
            let hint = lock(keeper).hint();
            hint.give();
        }
        ToKeeper::Ready => {
            if let Err(error) = lock(keeper).set_serving(true) {
                tracing::error!(error = format!("{error:#}"), "cannot tell the gate");
            }
            wake_supervisor();
        }
        ToKeeper::Recording { possible } => {
            if let Err(error) = lock(keeper).set_recording(possible) {
                tracing::error!(error = format!("{error:#}"), "cannot tell the gate");
            }
        }
        ToKeeper::Taken { generation } => {
            let keeper = lock(keeper);
            // One that was never sent cannot be taken.
            keeper.taken().note(generation.min(keeper.generation()));
            wake_supervisor();
        }
        ToKeeper::Cut { number } => lock(keeper).cuts().note(number),
        ToKeeper::Spent { agent, budget } => spent::stop(keeper, agent, &budget),
        ToKeeper::Answered { number, answer } => lock(keeper).cuts().answer(number, answer),
        ToKeeper::Recorded { number } => {
            // It is recorded once more then.
            if let Err(error) = lock(keeper).recorded(number) {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "a recorded change stays noted"
                );
            }
        }
        ToKeeper::Publish {
            request,
            agent,
            name,
            virtual_addresses,
            real,
            ttl,
        } => {
            let asked = Request {
                agent,
                name,
                virtual_addresses,
                real,
                ttl,
            };
            let refused = lock(keeper)
                .publish(&asked)
                .err()
                .map(|error| error.to_string());
            if let Some(why) = &refused {
                tracing::warn!(name = %asked.name, agent = asked.agent.0, why, "not published");
            }
            let answer = ToWorker::Published { request, refused };
            if let Err(error) = outgoing.answer(&answer) {
                tracing::warn!(%error, "the worker does not listen");
            }
        }
        ToKeeper::Sign {
            request,
            agent,
            subject,
            public_key,
        } => {
            let leaf = authorities::sign(keeper, agent, &subject, &public_key);
            if let Err(error) = outgoing.answer(&ToWorker::Signed { request, leaf }) {
                tracing::warn!(%error, "the worker does not listen");
            }
        }
        ToKeeper::Whose { request, cgroup } => {
            let whose = lock(keeper).whose(&cgroup);
            if let Err(error) = outgoing.answer(&ToWorker::Belongs { request, whose }) {
                tracing::warn!(%error, "the worker does not listen");
            }
        }
        ToKeeper::Retire { address } => {
            if let Err(error) = lock(keeper).retire(address) {
                tracing::warn!(error = format!("{error:#}"), "cannot retire an address");
            }
        }
    }
}

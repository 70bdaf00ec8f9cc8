//! The keeper, as the worker speaks to it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use agentguard_keeper::message::{LeafSubject, SignedLeaf, ToKeeper, ToWorker};
use agentguard_keeper::packet::{Packet, Room};
use agentguard_model::{AgentId, HostName, Reason, ReasonCode};
use agentguard_proxy::{Leaf, Subject};
use tokio::sync::{mpsc, oneshot};

use super::published::{Addresses, Published};

/// Messages on their way to the keeper. When they are so many, whoever asks waits.
const ASKED: usize = 1024;
/// Messages from the keeper that were not looked at. When they are so many, the keeper waits.
const TOLD: usize = 1024;
/// How long an answer of the keeper is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A message with what came along.
pub(super) type Message = (ToWorker, Vec<OwnedFd>);

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Link {
    asked: mpsc::Sender<ToKeeper>,
    waiting: Arc<Waiting>,
    published: Arc<Published>,
}

/// What became of a request: done, with what was asked for, or why it was refused.
type Answer = Result<Given, String>;

/// What was asked for.
enum Given {
    Nothing,
    Leaf(SignedLeaf),
    /// Whose a cgroup is, and of which run.
    Whose(Option<(AgentId, u32)>),
}

#[derive(Default)]
struct Waiting {
    next: AtomicU64,
    answers: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
}

impl Waiting {
    fn answers(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// Two threads, since the socket blocks: one reads, one writes.
    pub(super) fn new(keeper: Packet) -> anyhow::Result<(Self, mpsc::Receiver<Message>)> {
        let keeper = Arc::new(keeper);
        let (asked, mut asks) = mpsc::channel::<ToKeeper>(ASKED);
        let (tells, told) = mpsc::channel(TOLD);
        let writer = keeper.clone();
        std::thread::Builder::new()
            .name("to-keeper".into())
            .spawn(move || {
                while let Some(message) = asks.blocking_recv() {
                    if let Err(error) = writer.send(&message, &[]) {
                        tracing::error!(%error, "the keeper does not listen");
                        return;
                    }
                }
            })?;
        std::thread::Builder::new()
            .name("from-keeper".into())
            .spawn(move || {
                let mut room = Room::default();
                // Ends with the keeper, or with what reads the channel.
                loop {
                    match keeper.recv_in::<ToWorker>(&mut room) {
                        Ok(Some(message)) => {
                            if tells.blocking_send(message).is_err() {
                                return;
                            }
                        }
                        Ok(None) => return,
                        Err(error) => {
                            tracing::error!(%error, "cannot understand the keeper");
                            return;
                        }
                    }
                }
            })?;
        let link = Self {
            asked,
            waiting: Arc::default(),
            published: Arc::default(),
        };
        Ok((link, told))
    }

    /// Says something.
    pub(super) async fn tell(&self, message: ToKeeper) {
        // Without a keeper the worker ends anyway.
        let _ = self.asked.send(message).await;
    }

    /// Says something that may be lost: where the queue is full, it is not said.
    pub(super) fn mention(&self, message: ToKeeper) {
        let _ = self.asked.try_send(message);
    }

    /// Has an address forgotten that is about to be given to another name, from a thread that may wait.
    pub(super) fn retire(&self, address: IpAddr) {
        self.published.forget();
        let _ = self.asked.blocking_send(ToKeeper::Retire { address });
        // What was asked for in between is done before it.
        self.published.forget();
    }

    /// The keeper has another policy, and what was published is as that says.
    pub(super) fn renewed(&self) {
        self.published.forget();
    }

    /// Has addresses published, and waits until the kernel knows, unless it knows already.
    pub(super) async fn publish(
        &self,
        agent: AgentId,
        name: &HostName,
        addresses: Addresses,
        ttl: Duration,
    ) -> Result<(), Reason> {
        let Some(asking) = self.published.lacks(agent, name, &addresses) else {
            return Ok(());
        };
        let Addresses {
            virtual_addresses,
            real,
        } = addresses;
        let asked = self.ask(|request| ToKeeper::Publish {
            request,
            agent,
            name: name.clone(),
            virtual_addresses,
            real,
            ttl,
        });
        match asked.await {
            Some(Ok(_)) => {
                asking.answered();
                Ok(())
            }
            Some(Err(why)) => Err(internal(format!(
                "The keeper does not publish {name}: {why}."
            ))),
            None => Err(internal(format!(
                "The keeper did not publish {name} in time."
            ))),
        }
    }

    /// Has a certificate signed.
    pub(super) async fn sign(
        &self,
        agent: AgentId,
        subject: &Subject,
        public_key: &[u8],
    ) -> Result<Leaf, Reason> {
        let (subject, what) = match subject {
            Subject::Name(name) => (LeafSubject::Name(name.clone()), name.to_string()),
            Subject::Ip(ip) => (LeafSubject::Ip(*ip), ip.to_string()),
        };
        let asked = self.ask(|request| ToKeeper::Sign {
            request,
            agent,
            subject,
            public_key: public_key.to_vec(),
        });
        match asked.await {
            Some(Ok(Given::Leaf(leaf))) => Ok(Leaf {
                certificate: leaf.certificate,
                not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(leaf.not_after),
            }),
            Some(Ok(_)) => Err(internal(format!(
                "The keeper answered without a certificate for {what}."
            ))),
            Some(Err(why)) => Err(internal(format!(
                "The keeper does not sign a certificate for {what}: {why}."
            ))),
            None => Err(internal(format!(
                "The keeper did not sign a certificate for {what} in time."
            ))),
        }
    }

    /// Whose a cgroup is, as `/proc/PID/cgroup` shows it: the agent, and the number of the run, or 0. `None`: nobody's,
    /// or the keeper did not say in time.
    pub(super) async fn whose(&self, cgroup: &str) -> Option<(AgentId, u32)> {
        let cgroup = cgroup.to_owned();
        let asked = self.ask(|request| ToKeeper::Whose { request, cgroup });
        match asked.await {
            Some(Ok(Given::Whose(whose))) => whose,
            _ => None,
        }
    }

    /// The keeper's answer to [`Self::whose`].
    pub(super) fn belongs(&self, request: u64, whose: Option<(AgentId, u32)>) {
        self.answered(request, Ok(Given::Whose(whose)));
    }

    /// Asks, and waits for the answer. `None`: there was none in time.
    async fn ask(&self, message: impl FnOnce(u64) -> ToKeeper) -> Option<Answer> {
        let request = self.waiting.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.waiting.answers().insert(request, answer);
        self.tell(message(request)).await;
        let result = tokio::time::timeout(PATIENCE, answered).await;
        self.waiting.answers().remove(&request);
        result.ok()?.ok()
    }

    /// The keeper's answer to [`Self::publish`].
    pub(super) fn published(&self, request: u64, refused: Option<String>) {
        self.answered(request, refused.map_or(Ok(Given::Nothing), Err));
    }

    /// The keeper's answer to [`Self::sign`].
    pub(super) fn signed(&self, request: u64, leaf: Result<SignedLeaf, String>) {
        self.answered(request, leaf.map(Given::Leaf));
    }

    fn answered(&self, request: u64, result: Answer) {
        if let Some(answer) = self.waiting.answers().remove(&request) {
            // Whoever asked may have given up.
            let _ = answer.send(result);
        }
    }
}

fn internal(why: String) -> Reason {
    Reason::new(ReasonCode::Internal, why)
}

//! What `status` and `agent list` show, kept up to date as the keeper tells.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentguard_control::api::{
    AgentStatus, GateStatus, GuardStatus, LeafStatus, Listener, Phase, PolicyStatus, ProgramStatus,
    Quarantine,
};
use agentguard_decision::Directory;
use agentguard_keeper::documents::Documents;
use agentguard_keeper::message::{self, Start, State};
use agentguard_keeper::namespace::Listening;
use agentguard_keeper::spawn::RunContext;
use agentguard_model::{Context, Labels, Mode, Users};
use agentguard_policy::Policy;
use jiff::Timestamp;
use tokio::sync::watch;

/// How long an address keeps its meaning after its last answer; a process older than that may hold
/// it still.
const HELD: Duration = Duration::from_secs(7 * 24 * 3600);

/// The values, each watched by the control API.
pub(super) struct Board {
    guard: watch::Sender<GuardStatus>,
    agents: watch::Sender<Vec<AgentStatus>>,
    governed: watch::Sender<Vec<String>>,
    /// Who may run what.
    users: watch::Sender<Arc<Users>>,
    /// The agents of the policy.
    declared: watch::Sender<Vec<(agentguard_model::AgentName, Labels, Mode)>>,
    /// When the oldest process that an agent can have was let in, seconds since the epoch.
    oldest: watch::Sender<Option<u64>>,
}

impl Board {
    pub(super) fn new(start: &Start) -> Self {
        let now = Timestamp::now();
        let guard = GuardStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            phase: Phase::Starting,
            keeper_pid: start.keeper,
            worker_pid: std::process::id(),
            started: now,
            gate: GateStatus {
                kernel: rustix::system::uname()
                    .release()
                    .to_string_lossy()
                    .into_owned(),
                ..GateStatus::default()
            },
            policy: PolicyStatus {
                version: String::new(),
                files: Vec::new(),
                loaded: now,
                refused: None,
            },
            listeners: Vec::new(),
            degraded: start.degraded.clone(),
            leaves: LeafStatus::default(),
        };
        Self {
            guard: watch::Sender::new(guard),
            agents: watch::Sender::new(Vec::new()),
            governed: watch::Sender::new(start.governed.clone()),
            users: watch::Sender::new(Arc::default()),
            declared: watch::Sender::new(Vec::new()),
            oldest: watch::Sender::new(None),
        }
    }

    pub(super) fn guard(&self) -> watch::Receiver<GuardStatus> {
        self.guard.subscribe()
    }

    pub(super) fn agents(&self) -> watch::Receiver<Vec<AgentStatus>> {
        self.agents.subscribe()
    }

    pub(super) fn governed(&self) -> watch::Receiver<Vec<String>> {
        self.governed.subscribe()
    }

    pub(super) fn users(&self) -> watch::Receiver<Arc<Users>> {
        self.users.subscribe()
    }

    /// Whether a process may live that was given an address a week ago.
    pub(super) fn long_lived(&self) -> bool {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        self.oldest
            .borrow()
            .is_some_and(|oldest| oldest.saturating_add(HELD.as_secs()) <= now)
    }

    pub(super) fn ready(&self) {
        self.guard.send_modify(|guard| guard.phase = Phase::Ready);
    }

    pub(super) fn draining(&self) {
        self.guard
            .send_modify(|guard| guard.phase = Phase::Draining);
    }

    /// A policy is in force.
    pub(super) fn policy(&self, policy: &Policy, sources: &Documents, users: Users) {
        self.users.send_replace(Arc::new(users));
        self.guard.send_modify(|guard| {
            policy.version().clone_into(&mut guard.policy.version);
            guard.policy.files = sources.iter().map(|(path, _)| path.clone()).collect();
            guard.policy.loaded = Timestamp::now();
        });
        let declared = policy
            .agents()
            .iter()
            .map(|agent| (agent.name.clone(), agent.labels.clone(), agent.mode))
            .collect();
        self.declared.send_replace(declared);
    }

    /// A network namespace is listened in.
    pub(super) fn listening(&self, listening: &Listening) -> std::io::Result<()> {
        let mut listener = Listener {
            netns: listening.netns,
            proxy: Vec::new(),
            resolver: Vec::new(),
        };
        for trio in [Some(&listening.v4), listening.v6.as_ref()]
            .into_iter()
            .flatten()
        {
            listener.proxy.push(address(&trio.proxy)?);
            listener.resolver.push(address(&trio.resolver_udp)?);
        }
        self.guard
            .send_modify(|guard| guard.listeners.push(listener));
        Ok(())
    }

    pub(super) fn not_listening(&self, netns: u64) {
        self.guard
            .send_modify(|guard| guard.listeners.retain(|listener| listener.netns != netns));
    }

    /// What the keeper knows.
    pub(super) fn state(&self, state: &State, directory: &Directory) {
        for agent in &state.agents {
            directory.agent(agent.id, agent.name.clone());
        }
        self.oldest.send_replace(state.oldest);
        self.guard.send_modify(|guard| {
            guard.gate.attached.clone_from(&state.attached);
            guard.gate.programs = state
                .programs
                .iter()
                .map(|(name, verified_instructions)| ProgramStatus {
                    name: name.clone(),
                    verified_instructions: *verified_instructions,
                })
                .collect();
            guard.policy.refused.clone_from(&state.policy_error);
            guard.leaves = LeafStatus {
                signed: state.leaves.signed,
                refused: state.leaves.refused,
            };
            if let Some(loaded) = i64::try_from(state.policy_loaded)
                .ok()
                .and_then(|seconds| Timestamp::from_second(seconds).ok())
            {
                guard.policy.loaded = loaded;
            }
        });
        self.governed.send_replace(state.attached.clone());
        let mut agents: Vec<AgentStatus> = self
            .declared
            .borrow()
            .iter()
            .map(|(name, labels, mode)| AgentStatus {
                name: name.clone(),
                id: None,
                labels: labels.clone(),
                mode: *mode,
                cgroups: Vec::new(),
                runs: 0,
                quarantine: None,
                warnings: Vec::new(),
            })
            .collect();
        for known in &state.agents {
            let index = match agents.iter().position(|agent| agent.name == known.name) {
                Some(index) => index,
                None => {
                    agents.push(AgentStatus {
                        name: known.name.clone(),
                        id: None,
                        labels: Labels::new(),
                        // Unknown to the policy: nothing is allowed, and that is enforced.
                        mode: Mode::Enforce,
                        cgroups: Vec::new(),
                        runs: 0,
                        quarantine: None,
                        warnings: Vec::new(),
                    });
                    agents.len() - 1
                }
            };
            if let Some(agent) = agents.get_mut(index) {
                agent.id = Some(known.id);
                agent.cgroups.clone_from(&known.cgroups);
                agent.runs = known.runs;
                agent.quarantine = known.quarantine.as_ref().map(quarantine);
                agent.warnings.clone_from(&known.warnings);
            }
        }
        agents.sort_by(|a, b| a.name.cmp(&b.name));
        self.agents.send_replace(agents);
    }
}

fn quarantine(told: &message::Quarantine) -> Quarantine {
    Quarantine {
        since: i64::try_from(told.since)
            .ok()
            .and_then(|seconds| Timestamp::from_second(seconds).ok())
            .unwrap_or(Timestamp::UNIX_EPOCH),
        uid: told.uid,
        reason: told.reason.clone(),
        frozen: told.frozen,
    }
}

fn address(socket: &std::os::fd::OwnedFd) -> std::io::Result<SocketAddr> {
    let address = rustix::net::getsockname(socket.as_fd())?;
    SocketAddr::try_from(address).map_err(|_| std::io::ErrorKind::InvalidData.into())
}

/// A run's context, as decisions hold it.
pub(super) fn context(run: RunContext) -> Context {
    Context {
        user: run.user,
        session: run.session,
        workflow: run.workflow,
        purpose: run.purpose,
        trace_id: run.trace_id,
    }
}

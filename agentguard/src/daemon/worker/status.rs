//! What `status` and `agent list` show, kept up to date as the keeper tells.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentguard_budget::prices::{Origin, Prices};
use agentguard_control::api::{
    AgentStatus, GateStatus, GuardStatus, LeafStatus, LedgerStatus, Listener, Phase, PolicyStatus,
    PricesStatus, ProgramStatus, Quarantine, QuotaStatus, QuotaUsed, SwitchStatus, TelemetryStatus,
};
use agentguard_decision::Directory;
use agentguard_keeper::documents::Documents;
use agentguard_keeper::message::{self, Start, State};
use agentguard_keeper::namespace::Listening;
use agentguard_keeper::spawn::RunContext;
use agentguard_model::{AgentId, AgentName, Context, Labels, Mode, ResourceUsage, Users};
use agentguard_policy::Policy;
use jiff::Timestamp;
use tokio::sync::watch;

use super::telemetry::KeeperFigures;

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
    declared: watch::Sender<Vec<(AgentName, Labels, Mode)>>,
    /// What the host lacks.
    degraded: Vec<String>,
    /// What of the keeper is told in figures.
    keeper: watch::Sender<KeeperFigures>,
    /// What agents take of the host.
    usage: watch::Sender<HashMap<AgentId, ResourceUsage>>,
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
            prices: PricesStatus::default(),
            listeners: Vec::new(),
            degraded: start.degraded.clone(),
            leaves: LeafStatus::default(),
            switches: Vec::new(),
            telemetry: None,
            ledger: LedgerStatus::default(),
        };
        Self {
            guard: watch::Sender::new(guard),
            degraded: start.degraded.clone(),
            agents: watch::Sender::new(Vec::new()),
            governed: watch::Sender::new(Vec::new()),
            users: watch::Sender::new(Arc::default()),
            declared: watch::Sender::new(Vec::new()),
            keeper: watch::Sender::new(KeeperFigures::default()),
            usage: watch::Sender::new(HashMap::new()),
            oldest: watch::Sender::new(None),
        }
    }

    pub(super) fn guard(&self) -> watch::Receiver<GuardStatus> {
        self.guard.subscribe()
    }

    pub(super) fn agents(&self) -> watch::Receiver<Vec<AgentStatus>> {
        self.agents.subscribe()
    }

    pub(super) fn keeper(&self) -> watch::Receiver<KeeperFigures> {
        self.keeper.subscribe()
    }

    /// How telemetry is doing.
    pub(super) fn telemetry(&self, telemetry: TelemetryStatus) {
        self.guard.send_if_modified(|guard| {
            let telemetry = Some(telemetry);
            let is_new = guard.telemetry != telemetry;
            guard.telemetry = telemetry;
            is_new
        });
    }

    /// How it is with where budgets are kept.
    pub(super) fn ledger(&self, ledger: LedgerStatus) {
        self.guard.send_if_modified(|guard| {
            let is_new = guard.ledger != ledger;
            guard.ledger = ledger;
            is_new
        });
    }

    pub(super) fn governed(&self) -> watch::Receiver<Vec<String>> {
        self.governed.subscribe()
    }

    /// Nobody below this cgroup may use the control socket, or they may again.
    pub(super) fn govern(&self, cgroup: String, governed: bool) {
        self.governed.send_modify(|all| match governed {
            true if all.contains(&cgroup) => {}
            true => all.push(cgroup),
            false => all.retain(|other| *other != cgroup),
        });
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

    /// The prices in force, with the operator's file, where there is one.
    pub(super) fn prices(&self, prices: &Prices, file: Option<&str>) {
        let built_in = Prices::built_in().list();
        let newest = built_in.iter().filter_map(|it| it.rate.as_of).max();
        let own = prices.list().iter().filter(|it| it.origin == Origin::File);
        let status = PricesStatus {
            file: file.map(str::to_owned),
            models: own.count(),
            built_in: newest.map(|day| day.to_string()),
        };
        self.guard.send_modify(|guard| guard.prices = status);
    }

    /// The switches of the policy in force, and what operators have set.
    pub(super) fn switches(&self, switches: Vec<SwitchStatus>) {
        self.guard.send_modify(|guard| guard.switches = switches);
    }

    /// The keeper does not say any more how it is. Holds until it does: [`Self::state`].
    pub(super) fn keeper_is_silent(&self) {
        self.guard.send_if_modified(|guard| {
            let silent = silent(guard.keeper_pid);
            let is_new = !guard.degraded.contains(&silent);
            if is_new {
                guard.degraded.insert(0, silent);
            }
            is_new
        });
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

    /// What agents take of the host, of some of them.
    pub(super) fn usage(&self, usage: Vec<(AgentId, ResourceUsage)>) {
        self.usage.send_modify(|all| all.extend(usage));
    }

    /// What the keeper knows.
    pub(super) fn state(&self, state: &State, directory: &Directory) {
        for agent in &state.agents {
            directory.agent(agent.id, agent.name.clone());
        }
        self.oldest.send_replace(state.oldest);
        self.keeper.send_replace(KeeperFigures {
            workers: state.workers,
            reloads: state.reloads,
        });
        self.guard.send_modify(|guard| {
            guard.gate.attached.clone_from(&state.attached);
            guard.gate.attached_more = state.attached_more;
            guard.gate.programs = state
                .programs
                .iter()
                .map(|(name, verified_instructions)| ProgramStatus {
                    name: name.clone(),
                    verified_instructions: *verified_instructions,
                })
                .collect();
            guard.degraded.clone_from(&self.degraded);
            if state.unlisted > 0 {
                guard.degraded.push(format!(
                    "{} more agents are governed, and listed without their cgroups and runs: there are \
                     too many at once",
                    state.unlisted
                ));
            }
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
        // A number stays an agent's when nothing of it is there any more.
        let before = self.agents.borrow();
        let numbered = before
            .iter()
            .filter_map(|agent| Some((agent.name.clone(), agent.id?)));
        let ids: HashMap<AgentName, AgentId> = numbered.collect();
        drop(before);
        let declared = self.declared.borrow();
        let mut agents: BTreeMap<AgentName, AgentStatus> = declared
            .iter()
            .map(|(name, labels, mode)| {
                let mut agent = unseen(name, labels.clone(), *mode);
                agent.id = ids.get(name).copied();
                (name.clone(), agent)
            })
            .collect();
        drop(declared);
        for known in &state.agents {
            // Unknown to the policy: nothing is allowed, and that is enforced.
            let unknown = || AgentStatus {
                undeclared: true,
                ..unseen(&known.name, Labels::new(), Mode::Enforce)
            };
            let agent = agents.entry(known.name.clone()).or_insert_with(unknown);
            agent.id = Some(known.id);
            agent.cgroups.clone_from(&known.cgroups);
            agent.runs = known.runs;
            agent.quarantine = known.quarantine.as_ref().map(quarantine);
            agent.quota = known.quota.as_ref().and_then(quota);
            agent.warnings.clone_from(&known.warnings);
            if !known.cgroups.is_empty() {
                agent.resources = self.usage.borrow().get(&known.id).cloned();
            }
        }
        self.agents.send_replace(agents.into_values().collect());
    }
}

/// The keeper has stopped, or hangs.
fn silent(keeper: u32) -> String {
    format!(
        "the keeper, process {keeper}, has said nothing for seconds: what is below is how it was before. \
         The gate goes on refusing; direct flows that begin now are refused too (daemon_lost), unless \
         their agent has `on_daemon_loss: keep`, and so are names that have to be put into the gate. \
         Nothing is run, quarantined, released, switched or reloaded. Let it go on if somebody stopped it (kill -CONT \
         {keeper}), or restart the daemon (systemctl restart agentguard)"
    )
}

/// What an agent may use. `None`: its times are none, which no keeper says.
fn quota(known: &message::QuotaState) -> Option<QuotaStatus> {
    let used = |used: &message::Used| QuotaUsed {
        limit: used.limit,
        used: used.used,
    };
    Some(QuotaStatus {
        every: known.every,
        since: Timestamp::from_second(known.since).ok()?,
        resets: known
            .resets
            .and_then(|resets| Timestamp::from_second(resets).ok()),
        bytes_out: known.bytes_out.as_ref().map(used),
        bytes_in: known.bytes_in.as_ref().map(used),
        connections: known.connections,
    })
}

/// An agent of which nothing is known yet.
fn unseen(name: &AgentName, labels: Labels, mode: Mode) -> AgentStatus {
    AgentStatus {
        name: name.clone(),
        id: None,
        labels,
        mode,
        undeclared: false,
        cgroups: Vec::new(),
        runs: 0,
        quarantine: None,
        resources: None,
        quota: None,
        warnings: Vec::new(),
    }
}

fn quarantine(told: &message::Quarantine) -> Quarantine {
    Quarantine {
        since: moment(told.since),
        uid: told.uid,
        reason: told.reason.clone(),
        frozen: told.frozen,
    }
}

/// A time that the keeper tells in seconds since the epoch.
pub(super) fn moment(seconds: u64) -> Timestamp {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .unwrap_or(Timestamp::UNIX_EPOCH)
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

#[cfg(test)]
mod tests {
    use agentguard_decision::Directory;
    use agentguard_keeper::groups::Groups;
    use agentguard_keeper::message::{AgentState, Start, State};
    use agentguard_model::record::RecordLimits;
    use agentguard_model::{AgentId, Telemetry, Users};
    use agentguard_policy::compile;

    use super::Board;

    fn known(name: &str, id: u32) -> AgentState {
        AgentState {
            name: name.parse().unwrap(),
            id: AgentId(id),
            cgroups: vec![format!("/agents/{name}")],
            runs: 1,
            quarantine: None,
            quota: None,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn an_agent_keeps_its_number_when_nothing_of_it_is_there_and_those_not_listed_are_told() {
        let board = Board::new(&Start {
            state_dir: "/".into(),
            resolvers: Vec::new(),
            upstreams: Vec::new(),
            groups: Groups::default(),
            degraded: vec!["no IPv6".to_owned()],
            keeper: 1,
            telemetry: Telemetry::default(),
            ledger: None,
            record: RecordLimits::default(),
        });
        let path = "policy.yaml".to_owned();
        let text = "version: 1\nagents: [{name: coder}, {name: helper}]\n".to_owned();
        let documents = [agentguard_policy::Document { path, text }];
        board.policy(&compile(&documents).unwrap(), &Vec::new(), Users::default());
        let directory = Directory::default();
        let (guard, agents) = (board.guard(), board.agents());
        let shown = || {
            let agents = agents.borrow();
            let each = agents
                .iter()
                .map(|it| (it.name.to_string(), it.id, it.runs));
            each.collect::<Vec<_>>()
        };
        let mut state = State {
            agents: vec![known("helper", 7), known("stranger", 9)],
            unlisted: 3,
            ..State::default()
        };
        board.state(&state, &directory);
        let named = |name: &str, id: Option<u32>, runs| (name.to_owned(), id.map(AgentId), runs);
        let (coder, helper) = (named("coder", None, 0), named("helper", Some(7), 1));
        assert_eq!(shown(), [coder, helper, named("stranger", Some(9), 1)]);
        let undeclared: Vec<bool> = agents.borrow().iter().map(|it| it.undeclared).collect();
        assert_eq!(undeclared, [false, false, true]);
        let degraded = guard.borrow().degraded.clone();
        assert_eq!(degraded.len(), 2, "{degraded:?}");
        assert!(degraded[1].starts_with("3 more agents are governed"));

        state.agents.clear();
        state.unlisted = 0;
        board.state(&state, &directory);
        let (coder, helper) = (named("coder", None, 0), named("helper", Some(7), 0));
        assert_eq!(shown(), [coder, helper]);
        assert_eq!(guard.borrow().degraded, ["no IPv6"]);
    }

    #[test]
    fn a_keeper_that_says_nothing_is_told_until_it_says_something() {
        let board = Board::new(&Start {
            state_dir: "/".into(),
            resolvers: Vec::new(),
            upstreams: Vec::new(),
            groups: Groups::default(),
            degraded: vec!["no IPv6".to_owned()],
            keeper: 4711,
            telemetry: Telemetry::default(),
            ledger: None,
            record: RecordLimits::default(),
        });
        let guard = board.guard();
        board.keeper_is_silent();
        board.keeper_is_silent();
        let degraded = guard.borrow().degraded.clone();
        assert_eq!(degraded.len(), 2, "{degraded:?}");
        assert!(degraded[0].contains("process 4711"), "{degraded:?}");
        assert!(degraded[0].contains("daemon_lost"), "{degraded:?}");
        board.state(&State::default(), &Directory::default());
        assert_eq!(guard.borrow().degraded, ["no IPv6"]);
    }
}

//! What the keeper holds, and what it does with it. One lock around all of it: nothing here waits
//! for an agent or the worker.

mod adopted;
mod budgets;
mod complaints;
mod left;
mod orders;
mod policy;
mod quarantine;
mod quotas;
mod residents;
mod resources;
mod root;
mod runs;
mod subtrees;
mod switches;
mod tell;
mod tools;
mod versions;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agentguard_common::ABI_VERSION;
use agentguard_common::map::{Listeners, Settings, listener_flag};
use agentguard_keeper::cgroup::{self, Cgroup};
use agentguard_keeper::documents::Handed;
use agentguard_keeper::gate::Gate;
use agentguard_keeper::groups::Groups;
use agentguard_keeper::home::NamespaceId;
use agentguard_keeper::message::{LeafSubject, Reloads};
use agentguard_keeper::namespace::{Isolated, Listening, Ports};
use agentguard_keeper::spawn::RunContext;
use agentguard_model::{AgentId, AgentName, Labels, Users};
use agentguard_policy::Policy;
use anyhow::Context as _;

pub(super) use orders::Asked;
pub(super) use quotas::end as end_spent;

use super::authorities::Authorities;
use super::outgoing::Outgoing;
use super::policy::PolicyRead;
use super::profiles::{NOTHING, Profiles};
use super::published::{PublishRefused, Published, Request};
use super::quotas::Quotas;
use super::registry::Registry;
use super::residents::{Hint, Looking, Residents};
use super::resources::Looking as LookingAtResources;
use super::returned::Waiting;
use super::sandbox::{self, Sandbox};
use super::taken::{Cuts, Taken};
use crate::config::Config;

/// How long a worker may give no sign of life before direct flows do not begin any more.
const QUIET: Duration = Duration::from_secs(4);

/// How long it may give none before it is replaced.
const SILENT: Duration = Duration::from_secs(20);

/// How long direct flows may start after the last sign of life.
const ALIVE_NS: u64 = 5_000_000_000;

/// Agents that are named in one answer, at most.
const TOLD: usize = 16;

/// The keeper.
pub(super) struct Keeper {
    config: Config,
    /// Where the cgroup hierarchy is mounted.
    mount: PathBuf,
    gate: Gate,
    ca: Arc<Authorities>,
    sandbox: Arc<Sandbox>,
    policy: Arc<Policy>,
    /// What the worker gets with the policy, with who may run what besides root.
    handed: Handed,
    generation: u32,
    policy_loaded: SystemTime,
    policy_error: Option<String>,
    /// What became of policies that were read anew.
    reloads: Reloads,
    /// Workers that were started.
    workers: u64,
    registry: Registry,
    quotas: Quotas,
    /// Agents whose bytes are gone, and whose flows are to be ended.
    spent: Vec<AgentId>,
    profiles: Profiles,
    published: Published,
    /// By cgroup id: what the gate's map of agents holds.
    subtrees: BTreeMap<u64, Subtree>,
    /// Adopted cgroups that are not governed now, and why: a sentence.
    ungoverned: BTreeMap<PathBuf, String>,
    /// Cgroups in which something may be open that is older than the gate on them.
    returned: Waiting,
    superseded: versions::Superseded,
    /// The gate on the root of all agents.
    root: root::Root,
    hinted: adopted::Hinted,
    /// What was wrong with cgroups at the last look.
    complaints: complaints::Complaints,
    /// What of a quarantine the kernel did not do, by agent.
    unheld: BTreeMap<AgentName, Vec<String>>,
    /// Whether the registry's file had everything when it was last written.
    is_written: bool,
    runs: HashMap<u32, Run>,
    /// Agents' own directories that were made for a run, and that no run of theirs needs: by cgroup id.
    made: BTreeMap<u64, AgentId>,
    host: Listening,
    /// The daemon's own network namespace.
    host_namespace: Option<NamespaceId>,
    /// The others that agents live in.
    residents: Residents,
    /// One look at them at a time.
    looking: Arc<Mutex<Looking>>,
    hint: Arc<Hint>,
    /// One look at what they take of the host at a time.
    looking_at_resources: Arc<Mutex<LookingAtResources>>,
    /// The limits that agents are not held to, and why.
    unbounded: BTreeMap<AgentId, Vec<String>>,
    /// The guard's groups.
    groups: Groups,
    /// What the file systems of the sockets lack, a sentence each.
    unopened: Vec<String>,
    worker: Option<Arc<Outgoing>>,
    /// Whether the worker does not do what it was told.
    stuck: Cell<bool>,
    /// When the worker last gave a sign of life.
    heard: Instant,
    serving: bool,
    /// Whether the worker can record.
    recording: bool,
    taken: Arc<Taken>,
    cuts: Arc<Cuts>,
}

/// A governed subtree.
#[derive(Clone)]
struct Subtree {
    path: PathBuf,
    agent: AgentId,
    run: u32,
    /// When it was let in, in seconds since the epoch.
    since: u64,
    /// Whether this daemon has put a gate of its own on it.
    attached: bool,
}

impl Subtree {
    fn new(path: PathBuf, agent: AgentId, run: u32) -> Self {
        Self {
            path,
            agent,
            run,
            since: epoch_seconds(SystemTime::now()),
            attached: false,
        }
    }
}

/// A run that has not ended.
struct Run {
    agent: AgentId,
    context: RunContext,
    labels: Labels,
    cgroup: PathBuf,
    /// Its id.
    id: u64,
    isolated: Option<Isolated>,
    /// Whether its first process is still there.
    main: bool,
}

/// A place to run a command.
pub(super) struct Prepared {
    pub(super) run: u32,
    pub(super) cgroup: Cgroup,
    pub(super) netns: Option<std::os::fd::OwnedFd>,
}
impl Keeper {
    /// Puts the gate up, with what an earlier daemon left.
    pub(super) fn new(
        config: Config,
        policy: PolicyRead,
        groups: Groups,
        unopened: Vec<String>,
    ) -> anyhow::Result<Self> {
        let mount = cgroup::mount()
            .context("cgroup v2 is not mounted; hint: mount -t cgroup2 none /sys/fs/cgroup")?;
        anyhow::ensure!(
            config.paths.cgroup_root.starts_with(&mount) && config.paths.cgroup_root != mount,
            "cgroup_root {} is not below {}, where cgroup v2 is mounted; hint: set `cgroup_root`",
            config.paths.cgroup_root.display(),
            mount.display()
        );
        root::refuse_another_gate(&config.paths)?;
        let ca = Arc::new(Authorities::open(&config.paths)?);
        let sandbox = Arc::new(Sandbox::open(&config, mount.clone())?);
        // First: that of a newer version is not read, and then nothing of the gate is touched.
        let registry = Registry::open(config.paths.state_dir.join("keeper/agents.json"))?;
        let quotas = Quotas::open(config.paths.state_dir.join("keeper/quotas.json"))?;
        let governed = registry.adopted().keys().chain([&config.paths.cgroup_root]);
        for path in governed {
            if let Some(own) = subtrees::holds_the_guard(&mount, path) {
                anyhow::bail!(
                    "{own}, which is an agent's, and the gate lets it do nothing there; hint: start it in another \
                     cgroup (`systemd-run --slice=system.slice …`, or write its shell's number to another cgroup.procs)"
                );
            }
        }
        let is_left = Gate::is_left(&config.paths.bpffs)?;
        let mut gate =
            Gate::load(&config.paths.bpffs).map_err(|error| unloaded(error.into(), is_left))?;
        let host = Listening::here(ports(&config))?;
        let last = gate.agents()?.iter().map(|(_, entry)| entry.profile).max();
        let published = Published::take_over(&mut gate)?;
        let mut keeper = Self {
            gate,
            ca,
            sandbox,
            policy: Arc::new(policy.policy),
            handed: policy.handed,
            generation: 0,
            policy_loaded: SystemTime::now(),
            policy_error: None,
            reloads: Reloads::default(),
            workers: 0,
            registry,
            quotas,
            spent: Vec::new(),
            profiles: Profiles::above(last.unwrap_or(NOTHING)),
            published,
            subtrees: BTreeMap::new(),
            ungoverned: BTreeMap::new(),
            returned: Waiting::default(),
            superseded: versions::Superseded::default(),
            root: root::Root::default(),
            hinted: adopted::Hinted::default(),
            complaints: complaints::Complaints::default(),
            unheld: BTreeMap::new(),
            is_written: true,
            runs: HashMap::new(),
            made: BTreeMap::new(),
            host,
            host_namespace: NamespaceId::here().ok(),
            residents: Residents::default(),
            looking: Arc::default(),
            hint: Arc::default(),
            looking_at_resources: Arc::default(),
            unbounded: BTreeMap::new(),
            groups,
            unopened,
            worker: None,
            stuck: Cell::new(false),
            heard: Instant::now(),
            serving: false,
            recording: true,
            taken: Arc::default(),
            cuts: Arc::default(),
            mount,
            config,
        };
        keeper.begin()?;
        Ok(keeper)
    }

    /// Everything in the maps first, the programs last: a process below the gate without an entry
    /// gets nothing, and one that is not known to LSM programs passes them.
    fn begin(&mut self) -> anyhow::Result<()> {
        Cgroup::create(&self.config.paths.cgroup_root)?;
        let named = self.policy.agents().iter().map(|agent| &agent.name);
        self.registry.number_all(named)?;
        let left = self.gate.agents()?;
        let others = self.gate.other_versions()?;
        self.note_superseded(&others);
        let mut complaints = complaints::Complaints::default();
        self.find_subtrees(&mut complaints);
        self.complaints.replace(complaints);
        let adopted = self.registry.adopted().clone();
        for (path, name) in &adopted {
            let id = self.registry.number(name)?;
            // What is not there, or cannot be opened, is told below.
            if let Ok(cgroup) = Cgroup::open(path) {
                self.subtrees
                    .insert(cgroup.id, Subtree::new(path.clone(), id, 0));
            }
        }
        self.find_left_runs();
        // What lives there already may hold addresses from long before this daemon.
        for subtree in self.subtrees.values_mut() {
            if runs::populated(&subtree.path) {
                subtree.since = 0;
            }
        }
        self.believe_the_kernel(&others)?;
        self.write_quotas()?;
        self.write_agents()?;
        self.hold_quarantines();
        for (id, _) in left {
            if !self.subtrees.contains_key(&id) {
                self.gate.remove_agent(id)?;
            }
        }
        self.forget_quotas()?;
        let listeners = listeners(&self.config, &self.host);
        self.gate.put_listeners(self.host.netns, &listeners)?;
        self.forget_earlier_namespaces()?;
        self.settings(0)?;
        self.write_sockets()?;
        self.gate.attach_lsm();
        self.sandbox.note_gate(self.gate.refuses_strange_sockets());
        for lack in self.gate.lsm_lacks() {
            tracing::warn!("{lack}");
        }
        self.hold_root()?;
        self.follow_adopted();
        self.supersede(&others);
        Ok(())
    }

    /// Which UNIX sockets are refused to agents, and which of them the policy opens to one.
    fn write_sockets(&mut self) -> anyhow::Result<()> {
        let refused = sandbox::refused_sockets(&self.config);
        self.gate.refuse_unix(refused.iter().map(String::as_str))?;
        let mut agents = Vec::new();
        for agent in self.policy.clone().agents() {
            // For each the whole map is read, and there may be thousands.
            if agent.sandbox.unmasked_paths.is_empty() {
                continue;
            }
            let id = self.registry.number(&agent.name)?.0;
            let open = agent.sandbox.unmasked_paths.iter();
            self.gate
                .open_unix(id, open.filter_map(|path| path.to_str()))?;
            agents.push(id);
        }
        self.gate.keep_open_unix(&agents)?;
        Ok(())
    }

    /// Once a second: a sign of life for the kernel, and what ended is cleared away.
    pub(super) fn tick(&mut self) -> anyhow::Result<()> {
        let alive = self.settings(self.alive_ns());
        // What fails keeps nobody from being governed, or quarantined.
        let held = self.hold_root();
        let followed = self.follow_cgroups();
        let devices = self.gate.look_for_devices();
        let metered = self.follow_quotas();
        self.hold_quarantines();
        self.forget_superseded();
        self.tell_state();
        alive?;
        held?;
        followed?;
        devices?;
        metered?;
        self.published.expire(&mut self.gate, Instant::now())?;
        self.clear_runs()
    }

    fn settings(&mut self, alive_ns: u64) -> anyhow::Result<()> {
        let alive_until_ns = match alive_ns {
            0 => 0,
            ns => monotonic_ns().saturating_add(ns),
        };
        self.gate.set(&Settings {
            alive_until_ns,
            abi_version: ABI_VERSION,
            generation: self.generation,
        })?;
        Ok(())
    }

    /// Publishes an answered name, if the policy has it so.
    pub(super) fn publish(&mut self, request: &Request) -> Result<(), PublishRefused> {
        let policy = self.policy.clone();
        let agent = self
            .registry
            .name(request.agent)
            .and_then(|name| policy.agent(name))
            .ok_or_else(|| PublishRefused::Name(request.name.clone()))?;
        self.published
            .publish(&mut self.gate, &policy, agent, request)
    }

    /// Forgets an address.
    pub(super) fn retire(&mut self, address: std::net::IpAddr) -> anyhow::Result<()> {
        Ok(self.published.retire(&mut self.gate, address)?)
    }

    /// The worker serves, or not any more.
    pub(super) fn set_serving(&mut self, serving: bool) -> anyhow::Result<()> {
        self.serving = serving;
        if !serving {
            if let Some(worker) = self.worker.take() {
                worker.close();
            }
            // With it ended all that it had under way.
            self.cuts.none_left();
            // The next one says so itself.
            self.recording = true;
        }
        self.settings(self.alive_ns())
    }

    /// The worker does not do what it was told: it is to be replaced.
    pub(super) fn give_up_worker(&self) {
        self.stuck.set(true);
    }

    /// As [`Self::give_up_worker`], if it is the one at the other end of this.
    pub(super) fn give_up(&self, outgoing: &Arc<Outgoing>) {
        let current = self.worker.as_ref();
        if current.is_some_and(|worker| Arc::ptr_eq(worker, outgoing)) {
            self.give_up_worker();
        }
    }

    /// Notes whether the worker can record: while it cannot, direct flows do not begin either.
    pub(super) fn set_recording(&mut self, recording: bool) -> anyhow::Result<()> {
        if self.recording != recording {
            tracing::warn!(recording, "direct flows follow the record");
        }
        self.recording = recording;
        self.settings(self.alive_ns())
    }

    fn alive_ns(&self) -> u64 {
        if self.serving && self.recording && self.heard.elapsed() < QUIET {
            ALIVE_NS
        } else {
            0
        }
    }

    /// The worker gave a sign of life.
    pub(super) fn alive(&mut self) {
        self.heard = Instant::now();
    }

    /// Whether the worker has to be replaced.
    pub(super) fn worker_is_stuck(&self) -> bool {
        let untold = self.worker.as_ref().is_some_and(|it| it.is_over());
        untold || self.stuck.get() || (self.serving && self.heard.elapsed() > SILENT)
    }

    pub(super) fn serving(&self) -> bool {
        self.serving
    }

    /// Whom the worker runs as.
    pub(super) fn worker_user(&self) -> &crate::config::Worker {
        &self.config.worker
    }

    /// What the worker decides with, to be waited for without the lock.
    pub(super) fn taken(&self) -> Arc<Taken> {
        self.taken.clone()
    }

    /// The guard's groups.
    pub(super) fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Who may run what besides root.
    pub(super) fn users(&self) -> &Users {
        &self.handed.users
    }

    /// The number of the policy in force.
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// The policy in force.
    pub(super) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// One look at namespaces at a time.
    pub(super) fn looking(&self) -> Arc<Mutex<Looking>> {
        self.looking.clone()
    }

    /// Has namespaces looked at.
    pub(super) fn hint(&self) -> Arc<Hint> {
        self.hint.clone()
    }

    /// Whether nothing may run or be adopted that is not held as it should be.
    pub(super) fn is_strict(&self) -> bool {
        self.config.run.strict
    }

    /// What runs are held to, to be used without the lock.
    pub(super) fn sandbox(&self) -> Arc<Sandbox> {
        self.sandbox.clone()
    }

    /// The certificate authorities, to be used without the lock.
    pub(super) fn ca(&self) -> Arc<Authorities> {
        self.ca.clone()
    }

    /// Whether the policy has an agent's connections to this inspected.
    pub(super) fn inspects(&self, agent: AgentId, subject: &LeafSubject) -> bool {
        if self.is_quarantined(agent) {
            return false;
        }
        let agent = self
            .registry
            .name(agent)
            .and_then(|name| self.policy.agent(name));
        agent.is_some_and(|agent| match subject {
            LeafSubject::Name(name) => self.policy.inspects_name(agent, name),
            LeafSubject::Ip(address) => self.policy.inspects_address(agent, *address),
        })
    }
}

/// Why the gate is not in the kernel. Where an earlier daemon left one its pins may be damaged, which the
/// kernel says in many ways.
fn unloaded(error: anyhow::Error, is_left: bool) -> anyhow::Error {
    let has_hint = error.chain().any(|it| it.to_string().contains("; hint: "));
    if has_hint || !is_left {
        return error;
    }
    error.context(
        "the gate that an earlier daemon left cannot be taken over; hint: if `agentguard doctor` finds nothing, \
         what is pinned may be damaged: `agentguard daemon --detach-all` opens the gate and removes that, and \
         the next start puts it up again",
    )
}

fn ports(config: &Config) -> Ports {
    Ports {
        proxy: config.proxy_port,
        resolver: config.resolver_port,
    }
}

fn listeners(config: &Config, listening: &Listening) -> Listeners {
    Listeners {
        proxy_port: config.proxy_port,
        resolver_port: config.resolver_port,
        flags: if listening.v6.is_some() {
            listener_flag::V6
        } else {
            0
        },
    }
}

/// Seconds since the epoch; 0 before it.
pub(super) fn epoch_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}

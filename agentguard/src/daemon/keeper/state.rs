//! What the keeper holds, and what it does with it. One lock around all of it: nothing here waits
//! for an agent or the worker.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use agentguard_common::ABI_VERSION;
use agentguard_common::map::{AgentEntry, Listeners, Settings, agent_flag, listener_flag, mode};
use agentguard_keeper::cgroup::{self, Cgroup};
use agentguard_keeper::documents::{self, Documents};
use agentguard_keeper::gate::Gate;
use agentguard_keeper::message::{AgentState, State, ToWorker};
use agentguard_keeper::namespace::{Isolated, Listening, Ports};
use agentguard_keeper::packet::Packet;
use agentguard_keeper::spawn::RunContext;
use agentguard_model::{AgentId, AgentName, Labels, Mode};
use agentguard_policy::{AgentPolicy, Document, Local, OnDaemonLoss, Policy};
use anyhow::{Context as _, bail, ensure};
use std::os::fd::AsFd as _;

use super::profiles::{NOTHING, Profiles};
use super::published::{PublishRefused, Published, Request};
use super::registry::Registry;
use crate::config::Config;

/// How long direct flows may start after the last sign of life.
const ALIVE_NS: u64 = 5_000_000_000;
/// Levels below `cgroup_root` that are searched for the policy's cgroup patterns.
const PATTERN_DEPTH: usize = 6;
/// Cgroups looked at in one search; beyond it the rest stays without an agent, and is refused.
const PATTERN_CGROUPS: usize = 20_000;

/// The keeper.
pub(super) struct Keeper {
    pub(super) config: Config,
    gate: Gate,
    policy: Arc<Policy>,
    sources: Documents,
    generation: u32,
    policy_loaded: SystemTime,
    policy_error: Option<String>,
    registry: Registry,
    profiles: Profiles,
    published: Published,
    /// By cgroup id: what the gate's map of agents holds.
    subtrees: BTreeMap<u64, Subtree>,
    runs: HashMap<u32, Run>,
    host: Listening,
    worker: Option<Arc<Packet>>,
    serving: bool,
}

/// A governed subtree.
struct Subtree {
    path: PathBuf,
    agent: AgentId,
    run: u32,
    /// When it was let in, in seconds since the epoch.
    since: u64,
}

impl Subtree {
    fn new(path: PathBuf, agent: AgentId, run: u32) -> Self {
        Self {
            path,
            agent,
            run,
            since: epoch_seconds(SystemTime::now()),
        }
    }
}

/// A run that has not ended.
struct Run {
    agent: AgentId,
    context: RunContext,
    labels: Labels,
    cgroup: PathBuf,
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
    pub(super) fn new(config: Config, sources: Documents, policy: Policy) -> anyhow::Result<Self> {
        let mut gate = Gate::load(&config.paths.bpffs)?;
        let host = Listening::here(ports(&config))?;
        let registry = Registry::open(config.paths.state_dir.join("keeper/agents.json"))?;
        let last = gate.agents()?.iter().map(|(_, entry)| entry.profile).max();
        let published = Published::take_over(&mut gate)?;
        let mut keeper = Self {
            gate,
            policy: Arc::new(policy),
            sources,
            generation: 0,
            policy_loaded: SystemTime::now(),
            policy_error: None,
            registry,
            profiles: Profiles::above(last.unwrap_or(NOTHING)),
            published,
            subtrees: BTreeMap::new(),
            runs: HashMap::new(),
            host,
            worker: None,
            serving: false,
            config,
        };
        keeper.begin()?;
        Ok(keeper)
    }

    /// Everything in the maps first, the programs last: a process below the gate without an entry
    /// gets nothing.
    fn begin(&mut self) -> anyhow::Result<()> {
        let root = Cgroup::create(&self.config.paths.cgroup_root)?;
        for policy in self.policy.clone().agents() {
            self.registry.number(&policy.name)?;
        }
        let left = self.gate.agents()?;
        self.find_subtrees();
        let adopted = self.registry.adopted().clone();
        for (path, name) in &adopted {
            let id = self.registry.number(name)?;
            match Cgroup::open(path) {
                Ok(cgroup) => {
                    self.subtrees
                        .insert(cgroup.id, Subtree::new(path.clone(), id, 0));
                }
                Err(error) => {
                    tracing::warn!(cgroup = %path.display(), %error, "an adopted cgroup is gone");
                    self.registry.forget(path)?;
                }
            }
        }
        self.write_agents()?;
        for (id, _) in left {
            if !self.subtrees.contains_key(&id) {
                self.gate.remove_agent(id)?;
            }
        }
        let listeners = listeners(&self.config, &self.host);
        self.gate.put_listeners(self.host.netns, &listeners)?;
        self.settings(0)?;
        let attachment = self.gate.attach(&root.path)?;
        tracing::info!(cgroup = %root.path.display(), ?attachment, "the gate is up");
        for path in adopted.keys() {
            if path.exists() {
                self.gate.attach(path)?;
            }
        }
        Ok(())
    }

    /// Gives cgroups below the root to the agents they belong to: the directory of an agent's own
    /// name, and what the policy's patterns match.
    fn find_subtrees(&mut self) {
        let root = self.config.paths.cgroup_root.clone();
        let policy = self.policy.clone();
        let mut waiting = vec![(root.clone(), 0usize)];
        let mut seen = 0;
        while let Some((directory, depth)) = waiting.pop() {
            for path in cgroup::children(&directory) {
                seen += 1;
                if seen > PATTERN_CGROUPS {
                    tracing::warn!(
                        limit = PATTERN_CGROUPS,
                        "too many cgroups to look at; the rest belongs to no agent"
                    );
                    return;
                }
                let agent = owner(&policy, &root, &path);
                if let Some(agent) = agent
                    && let Err(error) = self.own(&path, &agent.name)
                {
                    tracing::warn!(cgroup = %path.display(), error = format!("{error:#}"), "cannot govern");
                }
                if depth + 1 < PATTERN_DEPTH {
                    waiting.push((path, depth + 1));
                }
            }
        }
    }

    /// Notes a subtree; one that a run has already stays the run's.
    fn own(&mut self, path: &Path, name: &AgentName) -> anyhow::Result<()> {
        let cgroup = Cgroup::open(path)?;
        if self.subtrees.contains_key(&cgroup.id) {
            return Ok(());
        }
        let agent = self.registry.number(name)?;
        self.subtrees
            .insert(cgroup.id, Subtree::new(path.to_owned(), agent, 0));
        Ok(())
    }

    /// Writes every subtree's entry as the policy has it.
    fn write_agents(&mut self) -> anyhow::Result<()> {
        let policy = self.policy.clone();
        let mut profiles = Profiles::after(&self.profiles);
        for (id, subtree) in &self.subtrees {
            let agent = self
                .registry
                .name(subtree.agent)
                .and_then(|name| policy.agent(name));
            let entry = agent_entry(&mut profiles, &mut self.gate, &policy, agent, subtree)?;
            self.gate.put_agent(*id, &entry)?;
        }
        profiles.remove_others(&mut self.gate)?;
        self.profiles = profiles;
        Ok(())
    }

    /// Adds one subtree to the gate.
    fn enrol(&mut self, id: u64, subtree: Subtree) -> anyhow::Result<()> {
        let policy = self.policy.clone();
        let agent = self
            .registry
            .name(subtree.agent)
            .and_then(|name| policy.agent(name));
        let entry = agent_entry(&mut self.profiles, &mut self.gate, &policy, agent, &subtree)?;
        self.gate.put_agent(id, &entry)?;
        self.subtrees.insert(id, subtree);
        Ok(())
    }

    /// Reads the policy again. A bad one leaves the old one in force.
    pub(super) fn reload(&mut self) -> anyhow::Result<String> {
        match self.take_policy() {
            Ok(()) => {
                self.policy_error = None;
                let text = format!("policy {} is in force", self.policy.version());
                tracing::info!(version = self.policy.version(), "policy loaded");
                self.tell_state();
                Ok(text)
            }
            Err(error) => {
                self.policy_error = Some(format!("{error:#}"));
                tracing::error!(
                    error = format!("{error:#}"),
                    "policy not taken; the old one stays"
                );
                self.tell_state();
                Err(error)
            }
        }
    }

    fn take_policy(&mut self) -> anyhow::Result<()> {
        let (sources, policy) = read_policy(&self.config.paths.policy)?;
        for agent in policy.agents() {
            self.registry.number(&agent.name)?;
        }
        self.policy = Arc::new(policy);
        self.sources = sources;
        self.generation = self.generation.wrapping_add(1);
        self.policy_loaded = SystemTime::now();
        self.subtrees.retain(|_, subtree| subtree.path.exists());
        self.find_subtrees();
        self.write_agents()?;
        let policy = self.policy.clone();
        let registry = &self.registry;
        self.published.renew(&mut self.gate, &policy, |id| {
            registry.name(id).and_then(|name| policy.agent(name))
        })?;
        self.settings(if self.serving { ALIVE_NS } else { 0 })?;
        self.tell_policy();
        Ok(())
    }

    /// Once a second: a sign of life for the kernel, and what ended is cleared away.
    pub(super) fn tick(&mut self) -> anyhow::Result<()> {
        self.settings(if self.serving { ALIVE_NS } else { 0 })?;
        self.published.expire(&mut self.gate, Instant::now())?;
        self.clear_runs()?;
        let before: HashSet<u64> = self.subtrees.keys().copied().collect();
        self.find_subtrees();
        let new: Vec<u64> = self
            .subtrees
            .keys()
            .filter(|id| !before.contains(id))
            .copied()
            .collect();
        for id in new {
            if let Some(subtree) = self.subtrees.remove(&id) {
                self.enrol(id, subtree)?;
            }
        }
        self.tell_state();
        Ok(())
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

    /// A cgroup, and perhaps a namespace, for a command of an agent.
    pub(super) fn prepare(
        &mut self,
        name: &AgentName,
        context: RunContext,
        labels: Labels,
        isolate: bool,
    ) -> anyhow::Result<Prepared> {
        ensure!(self.serving, "the daemon is not ready yet");
        let agent = self.registry.number(name)?;
        let run = self.registry.next_run()?;
        let path = self
            .config
            .paths
            .cgroup_root
            .join(name.as_str())
            .join(format!("run-{run}"));
        let own = Cgroup::create(&self.config.paths.cgroup_root.join(name.as_str()))?;
        if !self.subtrees.contains_key(&own.id) {
            self.enrol(own.id, Subtree::new(own.path, agent, 0))?;
        }
        let cgroup = Cgroup::create(&path)?;
        let isolated = isolate
            .then(|| Isolated::new(ports(&self.config)))
            .transpose()?;
        let netns = match &isolated {
            Some(isolated) => {
                let listeners = listeners(&self.config, &isolated.listening);
                self.gate
                    .put_listeners(isolated.listening.netns, &listeners)?;
                Some(isolated.handle.try_clone()?)
            }
            None => None,
        };
        self.enrol(cgroup.id, Subtree::new(path.clone(), agent, run))?;
        let entry = Run {
            agent,
            context,
            labels,
            cgroup: path,
            isolated,
            main: true,
        };
        self.tell_run(run, &entry);
        self.runs.insert(run, entry);
        Ok(Prepared { run, cgroup, netns })
    }

    /// The command of a run is over; what it left behind may go on.
    pub(super) fn finished(&mut self, run: u32) {
        if let Some(run) = self.runs.get_mut(&run) {
            run.main = false;
        }
        if let Err(error) = self.clear_runs() {
            tracing::warn!(error = format!("{error:#}"), "cannot clear away a run");
        }
    }

    /// Removes the cgroups of runs in which nothing lives any more.
    fn clear_runs(&mut self) -> anyhow::Result<()> {
        let over: Vec<u32> = self
            .runs
            .iter()
            .filter(|(_, run)| !run.main && !populated(&run.cgroup))
            .map(|(number, _)| *number)
            .collect();
        for number in over {
            let Some(run) = self.runs.get(&number) else {
                continue;
            };
            // A process that is being reaped holds its cgroup for a moment longer.
            if cgroup::remove(&run.cgroup).is_err() {
                continue;
            }
            let Some(run) = self.runs.remove(&number) else {
                continue;
            };
            let ids: Vec<u64> = self
                .subtrees
                .iter()
                .filter(|(_, subtree)| subtree.path.starts_with(&run.cgroup))
                .map(|(id, _)| *id)
                .collect();
            for id in ids {
                self.gate.remove_agent(id)?;
                self.subtrees.remove(&id);
            }
            if let Some(isolated) = &run.isolated {
                let netns = isolated.listening.netns;
                self.gate.remove_listeners(netns)?;
                self.tell(&ToWorker::NoListeners { netns });
            }
            self.tell(&ToWorker::RunEnded { run: number });
        }
        Ok(())
    }

    /// Puts a cgroup that is there already under the gate.
    pub(super) fn adopt(&mut self, name: &AgentName, path: &Path) -> anyhow::Result<String> {
        if self.policy.agent(name).is_none() {
            bail!("the policy has no agent {name}; hint: add it under `agents:` and reload");
        }
        let path = std::fs::canonicalize(path)
            .with_context(|| format!("cannot find {}", path.display()))?;
        let cgroup = Cgroup::open(&path)
            .with_context(|| format!("{} is not a cgroup of version 2", path.display()))?;
        let id = self.registry.number(name)?;
        let below_root = path.starts_with(&self.config.paths.cgroup_root);
        if path == self.config.paths.cgroup_root {
            bail!("{} is the root of all agents", path.display());
        }
        if let Some(other) =
            self.registry.adopted().keys().find(|other| {
                **other != path && (path.starts_with(other) || other.starts_with(&path))
            })
        {
            bail!(
                "{} is under the gate already: two gates on one path do not work",
                other.display()
            );
        }
        if !below_root && self.config.paths.cgroup_root.starts_with(&path) {
            bail!(
                "{} holds the root of all agents: two gates on one path do not work",
                path.display()
            );
        }
        if let Some(subtree) = self.subtrees.get(&cgroup.id)
            && subtree.agent != id
        {
            bail!(
                "{} belongs to another agent; hint: remove that one first",
                path.display()
            );
        }
        self.enrol(cgroup.id, Subtree::new(path.clone(), id, 0))?;
        if !below_root {
            self.gate.attach(&path)?;
        }
        self.registry.adopt(&path, name)?;
        self.tell(&ToWorker::Agent {
            id,
            name: name.clone(),
        });
        self.tell_state();
        Ok(format!("{} is governed as {name}", path.display()))
    }

    /// Takes the gate off what [`Self::adopt`] put under it.
    pub(super) fn release(&mut self, name: &AgentName) -> anyhow::Result<String> {
        let paths: Vec<PathBuf> = self
            .registry
            .adopted()
            .iter()
            .filter(|(_, agent)| *agent == name)
            .map(|(path, _)| path.clone())
            .collect();
        if paths.is_empty() {
            bail!("no cgroup was added as {name}; hint: see `agentguard agent list`");
        }
        for path in &paths {
            let ids: Vec<u64> = self
                .subtrees
                .iter()
                .filter(|(_, subtree)| subtree.path == *path)
                .map(|(id, _)| *id)
                .collect();
            for id in ids {
                if !path.starts_with(&self.config.paths.cgroup_root) {
                    self.gate.detach(id)?;
                }
                self.gate.remove_agent(id)?;
                self.subtrees.remove(&id);
            }
            self.registry.forget(path)?;
        }
        self.tell_state();
        let left = if paths
            .iter()
            .any(|path| path.starts_with(&self.config.paths.cgroup_root))
        {
            "; what is below the root of all agents gets nothing now"
        } else {
            ", and is not governed any more"
        };
        Ok(format!(
            "{} cgroups belong to {name} no longer{left}",
            paths.len()
        ))
    }

    /// Whether a cgroup path, as `/proc/PID/cgroup` shows it, is under the gate.
    pub(super) fn governs(&self, path: &str) -> bool {
        self.governed()
            .iter()
            .any(|root| Path::new(path).starts_with(root))
    }

    /// The roots of what is under the gate, as `/proc/PID/cgroup` shows them.
    fn governed(&self) -> Vec<String> {
        let Some(mount) = cgroup::mount() else {
            return Vec::new();
        };
        std::iter::once(&self.config.paths.cgroup_root)
            .chain(self.registry.adopted().keys())
            .filter_map(|path| path.strip_prefix(&mount).ok())
            .map(|path| format!("/{}", path.display()))
            .collect()
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

    /// A new worker: tells it all.
    pub(super) fn welcome(
        &mut self,
        worker: Arc<Packet>,
        control: &impl std::os::fd::AsFd,
    ) -> anyhow::Result<()> {
        let view = self.gate.view_descriptors()?;
        let mut descriptors: Vec<_> = view.iter().map(|fd| fd.as_fd()).collect();
        descriptors.push(control.as_fd());
        let start = agentguard_keeper::message::Start {
            state_dir: self.config.paths.state_dir.clone(),
            resolvers: self.config.resolvers.clone(),
            governed: self.governed(),
            degraded: self.degraded(),
            keeper: std::process::id(),
        };
        worker.send(&ToWorker::Start(Box::new(start)), &descriptors)?;
        self.worker = Some(worker);
        let policy = self.policy.clone();
        let names: Vec<AgentName> = policy
            .agents()
            .iter()
            .map(|agent| agent.name.clone())
            .chain(self.registry.adopted().values().cloned())
            .collect();
        for name in names {
            let id = self.registry.number(&name)?;
            self.tell(&ToWorker::Agent { id, name });
        }
        self.tell_policy();
        for (number, run) in &self.runs {
            self.tell_run(*number, run);
        }
        self.tell_listeners(&self.host);
        self.tell_state();
        self.tell(&ToWorker::Serve);
        Ok(())
    }

    /// The worker serves, or not any more.
    pub(super) fn set_serving(&mut self, serving: bool) -> anyhow::Result<()> {
        self.serving = serving;
        if !serving {
            self.worker = None;
        }
        self.settings(if serving { ALIVE_NS } else { 0 })
    }

    pub(super) fn serving(&self) -> bool {
        self.serving
    }

    fn degraded(&self) -> Vec<String> {
        let mut degraded = Vec::new();
        if let Some(why) = self.gate.executables_unknown() {
            degraded.push(format!("the executable of a process is not known: {why}"));
        }
        if self.host.v6.is_none() {
            degraded.push("no IPv6: agents' IPv6 connections are refused".to_owned());
        }
        degraded
    }

    fn tell_policy(&self) {
        match documents::seal(&self.sources) {
            Ok(file) => self.tell_with(
                &ToWorker::Policy {
                    generation: self.generation,
                },
                &[file.as_fd()],
            ),
            Err(error) => tracing::error!(%error, "cannot hand the policy to the worker"),
        }
    }

    fn tell_run(&self, number: u32, run: &Run) {
        if let Some(name) = self.registry.name(run.agent) {
            self.tell(&ToWorker::Agent {
                id: run.agent,
                name: name.clone(),
            });
        }
        self.tell(&ToWorker::Run {
            run: number,
            agent: run.agent,
            context: run.context.clone(),
            labels: run.labels.clone(),
        });
        if let Some(isolated) = &run.isolated {
            self.tell_listeners(&isolated.listening);
        }
    }

    fn tell_listeners(&self, listening: &Listening) {
        self.tell_with(
            &ToWorker::Listeners {
                netns: listening.netns,
                v6: listening.v6.is_some(),
            },
            &listening.descriptors(),
        );
    }

    fn tell_state(&self) {
        let mut agents: BTreeMap<AgentId, AgentState> = BTreeMap::new();
        for subtree in self.subtrees.values() {
            let Some(name) = self.registry.name(subtree.agent) else {
                continue;
            };
            let agent = agents.entry(subtree.agent).or_insert_with(|| AgentState {
                name: name.clone(),
                id: subtree.agent,
                cgroups: Vec::new(),
                runs: 0,
            });
            // A packet is bounded; a run's cgroup is its agent's cgroup and its number.
            if subtree.run == 0 && agent.cgroups.len() < 16 {
                agent.cgroups.push(subtree.path.display().to_string());
            }
            agent.runs += u32::from(subtree.run != 0);
        }
        let state = State {
            agents: agents.into_values().take(MAX_TOLD).collect(),
            attached: self.governed(),
            programs: self
                .gate
                .programs()
                .iter()
                .map(|program| (program.name.to_owned(), program.verified_instructions))
                .collect(),
            policy_loaded: epoch_seconds(self.policy_loaded),
            oldest: self.oldest(),
            policy_error: self
                .policy_error
                .as_ref()
                .map(|error| error.chars().take(4096).collect()),
        };
        self.tell(&ToWorker::State(Box::new(state)));
    }

    /// An agent's own directory stays when its runs are gone: only what holds processes counts.
    fn oldest(&self) -> Option<u64> {
        self.subtrees
            .values()
            .filter(|subtree| populated(&subtree.path))
            .map(|subtree| subtree.since)
            .min()
    }

    fn tell(&self, message: &ToWorker) {
        self.tell_with(message, &[]);
    }

    /// A worker that does not listen is found dead or stuck by its supervisor; nobody waits here.
    fn tell_with(&self, message: &ToWorker, descriptors: &[std::os::fd::BorrowedFd<'_>]) {
        let Some(worker) = &self.worker else {
            return;
        };
        if let Err(error) = worker.send(message, descriptors) {
            tracing::warn!(%error, "the worker does not listen");
        }
    }

    /// The policy in force.
    pub(super) fn policy(&self) -> &Policy {
        &self.policy
    }
}

/// Agents told of in one state message, so that it fits a packet.
const MAX_TOLD: usize = 256;

/// Reads and compiles the policy.
pub(super) fn read_policy(path: &Path) -> anyhow::Result<(Documents, Policy)> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the policy {}", path.display()))?;
    let sources = vec![(path.display().to_string(), text)];
    let policy = compile(&sources)?;
    Ok((sources, policy))
}

/// Compiles documents.
pub(crate) fn compile(sources: &Documents) -> anyhow::Result<Policy> {
    let documents: Vec<Document> = sources
        .iter()
        .map(|(path, text)| Document {
            path: path.clone(),
            text: text.clone(),
        })
        .collect();
    Ok(agentguard_policy::compile(&documents)?)
}

/// The agent of a cgroup below the root: the one whose name its directory right below the root has,
/// else the first whose pattern matches.
fn owner<'a>(policy: &'a Policy, root: &Path, path: &Path) -> Option<&'a AgentPolicy> {
    if path.parent() == Some(root)
        && let Some(agent) = path
            .file_name()
            .and_then(|name| name.to_str()?.parse::<AgentName>().ok())
            .and_then(|name| policy.agent(&name))
    {
        return Some(agent);
    }
    let (root, path) = (root.to_str()?, path.to_str()?);
    policy.agents().iter().find(|agent| {
        agent
            .cgroups
            .iter()
            .any(|pattern| pattern.matches(root, path))
    })
}

fn agent_entry(
    profiles: &mut Profiles,
    gate: &mut Gate,
    policy: &Policy,
    agent: Option<&AgentPolicy>,
    subtree: &Subtree,
) -> anyhow::Result<AgentEntry> {
    let mut entry = AgentEntry {
        agent: subtree.agent.0,
        profile: NOTHING,
        run: subtree.run,
        mode: mode::ENFORCE,
        flags: 0,
        _pad: 0,
    };
    let Some(agent) = agent else {
        return Ok(entry);
    };
    entry.profile = profiles.profile(gate, policy, agent)?;
    entry.mode = match agent.mode {
        Mode::Enforce => mode::ENFORCE,
        Mode::Shadow => mode::SHADOW,
        Mode::Observe => mode::OBSERVE,
    };
    if agent.local == Local::Own {
        entry.flags |= agent_flag::LOCAL_OWN;
    }
    // Nobody could try the guard if the daemon's end stopped what it only watches.
    if agent.on_daemon_loss == OnDaemonLoss::Keep || agent.mode != Mode::Enforce {
        entry.flags |= agent_flag::KEEP_ON_LOSS;
    }
    Ok(entry)
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

fn populated(path: &Path) -> bool {
    Cgroup::open(path).is_ok_and(|cgroup| cgroup.populated())
}

fn epoch_seconds(time: SystemTime) -> u64 {
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

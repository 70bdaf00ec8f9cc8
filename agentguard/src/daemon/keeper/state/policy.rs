//! The policy: taken as a whole, or the old one stays.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use agentguard_common::map::UDP;
use agentguard_keeper::message::{Ended, ToWorker};
use agentguard_keeper::sockets::{Connection, OldSocket};
use agentguard_model::{AgentId, AgentName, Handling, HostName, Mode, Transport};
use agentguard_names::guard;
use agentguard_policy::{AgentPolicy, Circumstances, Facts, RulingOutcome, Seen};
use anyhow::Context as _;

use super::super::direct;
use super::super::policy::{PolicyRead, PolicySource};
use super::{Keeper, TOLD};

impl Keeper {
    /// Where the policy lies, to be read without the lock: its file system may take long.
    pub(in super::super) fn policy_source(&self) -> PolicySource {
        PolicySource::of(&self.config)
    }

    /// Puts a policy in force that was read anew. A bad one leaves the old one in force.
    pub(in super::super) fn reload(
        &mut self,
        read: anyhow::Result<PolicyRead>,
    ) -> anyhow::Result<String> {
        match read.and_then(|read| self.take_policy(read)) {
            Ok(()) => {
                self.policy_error = None;
                self.reloads.taken += 1;
                let mut text = format!("policy {} is in force", self.policy.version());
                tracing::info!(version = self.policy.version(), "policy loaded");
                if let Some(lost) = self.undeclared() {
                    tracing::warn!("{lost}");
                    text.push('\n');
                    text.push_str(&lost);
                }
                direct::warn(&self.config.upstreams, &self.policy);
                self.tell_state();
                Ok(text)
            }
            Err(error) => {
                self.policy_error = Some(format!("{error:#}"));
                self.reloads.refused += 1;
                tracing::error!(
                    error = format!("{error:#}"),
                    "policy not taken; the old one stays"
                );
                self.tell_state();
                Err(error)
            }
        }
    }

    /// The agents that the policy does not have and that have cgroups all the same: a sentence.
    fn undeclared(&self) -> Option<String> {
        let named = self.subtrees.values();
        let names: BTreeSet<&AgentName> = named
            .filter_map(|subtree| self.registry.name(subtree.agent))
            .filter(|name| self.policy.agent(name).is_none())
            .collect();
        if names.is_empty() {
            return None;
        }
        let shown: Vec<&str> = names.iter().take(TOLD).map(|name| name.as_str()).collect();
        let more = match names.len().saturating_sub(TOLD) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!(
            "not in it, though they have cgroups, and so given nothing: {}{more}",
            shown.join(", ")
        ))
    }

    fn take_policy(&mut self, read: PolicyRead) -> anyhow::Result<()> {
        let named = read.policy.agents().iter().map(|agent| &agent.name);
        self.registry.number_all(named)?;
        let before = std::mem::replace(&mut self.policy, Arc::new(read.policy));
        if let Err(error) = self.put_in_force() {
            self.policy = before;
            // Whose bytes were gone by the policy that was not taken.
            self.spent.clear();
            let restored = self
                .write_quotas()
                .and_then(|()| self.rewrite_agents())
                .and_then(|()| self.write_sockets());
            if let Err(error) = restored {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the kernel has parts of a policy that was not taken"
                );
            }
            return Err(error);
        }
        self.handed = read.handed;
        self.generation = self.generation.wrapping_add(1);
        self.policy_loaded = SystemTime::now();
        let policy = self.policy.clone();
        let registry = &self.registry;
        let renewed = self.published.renew(&mut self.gate, &policy, |id| {
            registry.name(id).and_then(|name| policy.agent(name))
        });
        self.settings(self.alive_ns())?;
        self.tell_policy();
        // The worker decides by what the kernel does, also where not every name could be written anew.
        renewed.context(
            "the new policy is in force, but not for every name that was answered; reload again",
        )
    }

    /// Has the kernel decide by the policy.
    fn put_in_force(&mut self) -> anyhow::Result<()> {
        // Before any agent is said to have one.
        self.write_quotas()?;
        self.follow_cgroups()?;
        self.write_sockets()?;
        // Last: once it is done the rules of the policy before are not in the kernel any more.
        self.write_agents()?;
        if let Err(error) = self.forget_quotas() {
            tracing::warn!(
                error = format!("{error:#}"),
                "quotas that no agent has any more stay in the kernel"
            );
        }
        Ok(())
    }

    /// The cgroups of each agent.
    pub(in super::super) fn agents_cgroups(&self) -> Vec<(AgentId, Vec<PathBuf>)> {
        let mut of: BTreeMap<AgentId, Vec<PathBuf>> = BTreeMap::new();
        for subtree in self.subtrees.values().filter(|subtree| subtree.run == 0) {
            of.entry(subtree.agent)
                .or_default()
                .push(subtree.path.clone());
        }
        of.into_iter().collect()
    }

    /// What the gate let go directly and may go so no more. What it does not know is left alone.
    pub(in super::super) fn ends(&self, connection: &Connection) -> Option<Ended> {
        let known = self.gate.passed(connection).ok()??;
        let id = AgentId(known.agent);
        let agent = self
            .registry
            .name(id)
            .and_then(|name| self.policy.agent(name));
        let host = self.published.name_of(id, known.dialled);
        let flow = Flow {
            ip: IpAddr::from(known.effective),
            port: known.dialled_port,
            udp: known.transport == UDP,
        };
        let goes_on = match &host {
            // Nobody knows any more what it stood for: it is from before a restart.
            None if known.dialled.is_virtual() => agent.is_some(),
            host => self.goes_directly(agent, host.as_ref(), flow),
        };
        (!goes_on).then(|| Ended {
            run: known.run,
            pid: known.pid,
            uid: known.uid,
            comm: text(&known.comm),
            host,
            ..flow.ended(id)
        })
    }

    /// As [`Self::ends`], of a socket of which the kernel lists alone where it leads. What stays within the host is
    /// left alone: the guard's own listeners are there.
    pub(in super::super) fn ends_unseen(&self, id: AgentId, told: &OldSocket) -> Option<Ended> {
        let agent = self
            .registry
            .name(id)
            .and_then(|name| self.policy.agent(name));
        let remote = told.remote?;
        let ip = remote.ip();
        if ip.is_loopback() || ip.is_unspecified() || ip == told.local.ip() {
            return None;
        }
        let flow = Flow {
            ip,
            port: remote.port(),
            udp: told.protocol == IPPROTO_UDP,
        };
        (!self.could_be_opened(id, agent, flow)).then(|| flow.ended(id))
    }

    /// Whether an agent that goes somewhere under no name that is known could go there anew, by the address or by
    /// a name that it was answered.
    fn could_be_opened(&self, id: AgentId, agent: Option<&AgentPolicy>, flow: Flow) -> bool {
        let names = self.published.names_at(id, flow.ip);
        self.goes_directly(agent, None, flow)
            || names
                .iter()
                .any(|name| self.goes_directly(agent, Some(name), flow))
    }

    /// An agent that the policy does not have goes nowhere.
    fn goes_directly(
        &self,
        agent: Option<&AgentPolicy>,
        host: Option<&HostName>,
        flow: Flow,
    ) -> bool {
        let Some(agent) = agent else {
            return false;
        };
        let facts = Facts {
            host,
            ip: Some(flow.ip),
            port: flow.port,
            transport: if flow.udp {
                Transport::Udp
            } else {
                Transport::Tcp
            },
            request: Seen::NotYet,
            circumstances: Circumstances::NOBODY,
        };
        let observing = agent.mode != Mode::Enforce;
        let is_closed = host.is_some_and(|name| {
            let ranges = self.policy.decide_name(agent, name).ranges;
            guard::closed(name, flow.ip, &ranges, observing).is_some()
        });
        match self.policy.decide(agent, &facts).outcome {
            _ if is_closed => false,
            RulingOutcome::Allow(Handling::Direct | Handling::Splice) => true,
            // What it asks or says is to be seen from now on. Where nothing is enforced nothing is broken for it.
            RulingOutcome::Allow(Handling::Inspect) | RulingOutcome::Undecided => observing,
            RulingOutcome::Deny => false,
        }
    }

    /// Has direct flows recorded that were ended.
    pub(in super::super) fn note_ended(&self, ended: Vec<Ended>) {
        for flow in ended {
            self.tell(&ToWorker::Ended(Box::new(flow)));
        }
    }
}

/// `netinet/in.h`.
const IPPROTO_UDP: u8 = 17;

/// Where a flow goes.
#[derive(Clone, Copy)]
struct Flow {
    ip: IpAddr,
    port: u16,
    udp: bool,
}

impl Flow {
    /// Of nobody that is known.
    fn ended(self, agent: AgentId) -> Ended {
        Ended {
            agent,
            run: 0,
            pid: 0,
            uid: 0,
            comm: String::new(),
            host: None,
            ip: self.ip,
            port: self.port,
            udp: self.udp,
        }
    }
}

/// A process's name: up to the first NUL.
fn text(comm: &[u8]) -> String {
    let name = comm.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

//! The policy: taken as a whole, or the old one stays.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use agentguard_model::AgentName;
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
            let restored = self.rewrite_agents().and_then(|()| self.write_sockets());
            if let Err(error) = restored {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the kernel has parts of a policy that was not taken"
                );
            }
            return Err(error);
        }
        self.sources = read.sources;
        self.users = Arc::new(read.users);
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
        self.follow_cgroups()?;
        self.write_sockets()?;
        // Last: once it is done the rules of the policy before are not in the kernel any more.
        self.write_agents()
    }
}

//! An agent as the policy knows it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use agentguard_model::{
    AgentName, Claim, ClaimSource, Handling, Labels, Mode, Quota, ResourceLimits,
};

use crate::document::{Local, NotUnderstood, OnAdoption, OnDaemonLoss, OnMissing};
use crate::index::Index;
use crate::pattern::CgroupPattern;
use crate::users::User;

/// An agent as the policy knows it.
#[derive(Clone, Debug)]
pub struct AgentPolicy {
    /// Its name.
    pub name: AgentName,
    /// Its labels.
    pub labels: Labels,
    /// The control groups that are this agent.
    pub cgroups: Vec<CgroupPattern>,
    /// Who may run it besides root, as the document names them: see [`crate::Policy::users`].
    pub(crate) users: Vec<User>,
    /// How far the policy goes for it.
    pub mode: Mode,
    /// What becomes of new `direct` flows while the daemon is gone.
    pub on_daemon_loss: OnDaemonLoss,
    /// What becomes of sockets that are open when a cgroup is added to it.
    pub on_adoption: OnAdoption,
    /// Which loopback ports it reaches without a rule.
    pub local: Local,
    /// How names that no rule matches are carried in `observe` and `shadow`.
    pub default_handling: Handling,
    /// What becomes of its calls of language models that cannot be read.
    pub not_understood: NotUnderstood,
    /// Where its requests may say whom they are for, the most trusted first.
    pub trusts: Vec<ClaimSource>,
    /// How much of the network it may use.
    pub quota: Option<Quota>,
    /// What `agentguard run` leaves open to it.
    pub sandbox: SandboxPolicy,
    /// What each of its cgroups may take of the host.
    pub resources: ResourcePolicy,
    /// The rules that are for it: those for everyone, and those for it and its likes.
    pub(crate) indexes: Vec<Arc<Index>>,
}

/// Agents for which rules are written together.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Group {
    pub(crate) name: String,
    /// All agents.
    pub(crate) everyone: bool,
    /// These.
    pub(crate) agents: BTreeSet<AgentName>,
    /// And those that have all of these, if there are any.
    pub(crate) labels: Vec<(String, String)>,
}

impl Group {
    pub(crate) fn has(&self, name: &AgentName, labels: &Labels) -> bool {
        self.everyone
            || self.agents.contains(name)
            || !self.labels.is_empty()
                && self
                    .labels
                    .iter()
                    .all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// What `agentguard run` leaves open to an agent.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SandboxPolicy {
    /// It may make namespaces, and mount in them.
    pub user_namespaces: bool,
    /// Absolute paths without `..` that it sees though they are masked to others.
    pub unmasked_paths: Vec<PathBuf>,
}

/// What each cgroup of an agent may take of the host.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ResourcePolicy {
    /// What the policy says. What is in force: [`AgentPolicy::limits`].
    pub limits: ResourceLimits,
    /// What becomes of runs where the host cannot set one of them.
    pub missing: OnMissing,
}

impl AgentPolicy {
    /// What each of its cgroups is held to. Nothing where nothing is enforced: a limit kills processes.
    #[must_use]
    pub fn limits(&self) -> ResourceLimits {
        match self.observes() {
            true => ResourceLimits::default(),
            false => self.resources.limits.clone(),
        }
    }

    /// Those claims of a request that are taken for true, the most trusted first.
    pub fn trusted<'c>(&self, claims: &'c [Claim]) -> impl Iterator<Item = &'c Claim> {
        self.trusts
            .iter()
            .flat_map(move |source| claims.iter().filter(move |claim| claim.source == *source))
    }

    /// Whether the policy refuses this agent only what it refuses in every mode.
    #[must_use]
    pub fn observes(&self) -> bool {
        self.mode != Mode::Enforce
    }
}

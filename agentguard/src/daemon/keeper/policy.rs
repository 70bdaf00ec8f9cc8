//! The policy as the keeper reads it: a document that only root can change, compiled, and possible on this host.

use std::path::PathBuf;

use agentguard_keeper::documents::Documents;
use agentguard_model::Users;
use agentguard_policy::{Document, Policy};

use crate::accounts;
use crate::config::text::{self, Written};
use crate::config::{Config, exposed};

/// A policy that may come into force.
pub(super) struct PolicyRead {
    pub(super) sources: Documents,
    pub(super) policy: Policy,
    /// Who may run its agents besides root.
    pub(super) users: Users,
}

/// Where a policy comes from.
#[derive(Clone, Debug)]
pub(super) struct PolicySource {
    path: PathBuf,
    /// What its patterns of cgroups are below.
    cgroup_root: PathBuf,
}

impl PolicySource {
    /// That of a configuration.
    pub(super) fn of(config: &Config) -> Self {
        Self {
            path: config.paths.policy.clone(),
            cgroup_root: config.paths.cgroup_root.clone(),
        }
    }

    /// Reads and compiles the policy, and looks its users up. One that others than root can change is refused.
    ///
    /// # Errors
    /// It cannot be read, or is no policy for this host.
    pub(super) fn read(&self) -> anyhow::Result<PolicyRead> {
        exposed::file("policy", &self.path, 0)?;
        let text = text::read(Written::Policy, &self.path)?;
        let sources = vec![(self.path.display().to_string(), text)];
        let policy = compile(&sources)?;
        self.check_cgroups(&policy)?;
        let users = accounts::users(&policy)?;
        Ok(PolicyRead {
            sources,
            policy,
            users,
        })
    }

    /// Patterns are looked for below the root of all agents, which has the gate. One for what lies
    /// elsewhere would govern nothing.
    fn check_cgroups(&self, policy: &Policy) -> anyhow::Result<()> {
        let root = self.cgroup_root.to_string_lossy();
        for agent in policy.agents() {
            let outside = agent.cgroups.iter().find(|it| !it.is_below(&root));
            if let Some(pattern) = outside {
                anyhow::bail!(
                    "{}: the cgroup `{pattern}` of agent {} is not below {root} (`cgroup_root`), and would not be \
                     governed; hint: put it there, or take it out and run `agentguard agent add {} --cgroup PATH` once",
                    self.path.display(),
                    agent.name,
                    agent.name,
                    pattern = pattern.as_str(),
                );
            }
        }
        Ok(())
    }
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

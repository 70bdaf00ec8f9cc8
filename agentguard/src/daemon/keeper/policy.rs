//! The policy as the keeper reads it: documents that only root can change, compiled, and possible on this host; and the
//! operator's prices in the same way.

use std::path::{Path, PathBuf};

use agentguard_budget::prices::Prices;
use agentguard_keeper::documents::{Documents, Handed};
use agentguard_policy::{Document, Policy};

use crate::accounts;
use crate::config::text::{self, Written};
use crate::config::{Config, ConfigError, Faults, exposed, sources};

/// A policy that may come into force.
pub(super) struct PolicyRead {
    pub(super) policy: Policy,
    /// What the worker gets of it.
    pub(super) handed: Handed,
}

/// Where a policy comes from.
#[derive(Clone, Debug)]
pub(super) struct PolicySource {
    path: PathBuf,
    /// What its patterns of cgroups are below.
    cgroup_root: PathBuf,
    /// The operator's prices.
    prices: Option<PathBuf>,
}

impl PolicySource {
    /// That of a configuration.
    pub(super) fn of(config: &Config) -> Self {
        Self {
            path: config.paths.policy.clone(),
            cgroup_root: config.paths.cgroup_root.clone(),
            prices: config.paths.prices.clone(),
        }
    }

    /// Reads and compiles the policy with all that it includes, and looks its users up. One that others than root can change,
    /// in any of its files, is refused.
    ///
    /// # Errors
    /// It cannot be read, or is no policy for this host.
    pub(super) fn read(&self) -> anyhow::Result<PolicyRead> {
        let look = |path: &Path| exposed::file("policy", path, 0);
        look(&self.path)?;
        let read = sources::read(&self.path, look)?;
        let policy = read.compile()?;
        self.check_cgroups(&policy)?;
        let users = accounts::users(&policy)?;
        let documents = read
            .documents()
            .iter()
            .map(|document| (document.path.clone(), document.text.clone()))
            .collect();
        let prices = self.prices.as_deref().map(prices).transpose()?;
        Ok(PolicyRead {
            policy,
            handed: Handed {
                documents,
                prices,
                users,
            },
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

/// Path and text of a file of prices that can be used and that only root can change.
fn prices(path: &Path) -> anyhow::Result<(String, String)> {
    exposed::file("prices", path, 0)?;
    let text = text::read(Written::Prices, path)?;
    let shown = path.display().to_string();
    Prices::with(&shown, &text).map_err(|faults| ConfigError::Wrong(Faults::from(faults.0)))?;
    Ok((shown, text))
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

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::PolicySource;

    #[test]
    fn what_a_policy_includes_is_read_each_time_and_only_from_files_that_root_alone_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (path, included) = (dir.path().join("policy.yaml"), dir.path().join("base.yaml"));
        fs::write(&path, "version: 1\ninclude: [base.yaml]\n").unwrap();
        fs::write(&included, "version: 1\nagents: [{name: coder}]\n").unwrap();
        let source = PolicySource {
            path: path.clone(),
            cgroup_root: "/sys/fs/cgroup/agentguard".into(),
            prices: None,
        };
        let names = || {
            let read = source.read().unwrap();
            let documents = read.handed.documents.iter();
            let files: Vec<_> = documents.map(|(path, _)| path.clone()).collect();
            assert_eq!(
                files,
                [path.to_str().unwrap(), included.to_str().unwrap()],
                "the worker and `policy show` get all of them"
            );
            let agents = read.policy.agents().iter();
            agents.map(|it| it.name.to_string()).collect::<Vec<_>>()
        };
        // Where a person runs the tests, the files are theirs.
        if !rustix::process::geteuid().is_root() {
            let refused = source.read().err().unwrap().to_string();
            assert!(refused.contains("belongs to user"), "{refused}");
            return;
        }
        assert_eq!(names(), ["coder"]);
        fs::write(&included, "version: 1\nagents: [{name: tester}]\n").unwrap();
        assert_eq!(names(), ["tester"]);

        fs::set_permissions(&included, Permissions::from_mode(0o666)).unwrap();
        let (first, other) = (path.display(), included.display());
        assert_eq!(
            source.read().err().unwrap().to_string(),
            format!(
                "{first}:2:11: error: cannot read `{other}`: the policy {other} can be written by everybody (mode 0666): \
                 whoever changes it opens the guard\n  hint: chmod o-w {other}, or put the policy where only root can write"
            )
        );
    }

    #[test]
    fn prices_are_read_with_the_policy_and_refused_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (policy, prices) = (
            dir.path().join("policy.yaml"),
            dir.path().join("prices.yaml"),
        );
        fs::write(&policy, "version: 1\n").unwrap();
        let source = PolicySource {
            path: policy,
            cgroup_root: "/sys/fs/cgroup/agentguard".into(),
            prices: Some(prices.clone()),
        };
        // Where a person runs the tests, the files are theirs.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let shown = prices.display();
        let refused = || {
            let error = source.read().err().unwrap();
            (
                super::super::told::faults(&error).unwrap(),
                error.to_string(),
            )
        };
        let absent = format!(
            "{shown}: error: cannot read the file of prices: No such file or directory\n  hint: docs/budgets.md has an \
             example; the configuration's `prices` names the file"
        );
        assert_eq!(refused().0, absent);
        let text = "version: 1\nmodels:\n  - {models: [own], input: 1, output: 2}\n";
        fs::write(&prices, text).unwrap();
        let handed = source.read().unwrap().handed.prices;
        assert_eq!(handed, Some((shown.to_string(), text.to_owned())));
        fs::write(
            &prices,
            "version: 1\nmodels:\n  - {models: [own], input: -1, output: 2}\n",
        )
        .unwrap();
        let wrong =
            format!("{shown}:3:28: error: `-1` is no price that a million tokens can have\n");
        assert!(refused().0.starts_with(&wrong), "{}", refused().0);
        fs::write(&prices, text).unwrap();
        fs::set_permissions(&prices, Permissions::from_mode(0o666)).unwrap();
        let open = format!("the prices {shown} can be written by everybody (mode 0666)");
        assert!(refused().1.starts_with(&open), "{}", refused().1);
    }
}

//! Taking the gate off everything: `agentguard daemon --detach-all`.
//!
//! Only while no daemon runs: it holds the same claim as a daemon, so none starts meanwhile either.
//! It is written down before it is done; the next daemon records it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use agentguard_keeper::cgroup;
use agentguard_keeper::gate::{Gate, mark};
use agentguard_keeper::message::Quarantine;
use agentguard_model::AgentName;
use anyhow::{Context as _, ensure};

use super::claim::Claim;
use super::registry::{By, Registry};
use super::resources;
use super::state::epoch_seconds;
use crate::config::Config;

/// Takes the gate off, and says what was done and what remains.
///
/// # Errors
/// Not root, a daemon runs, or it cannot be written down: nothing is done then. Or some of it cannot be
/// taken off.
pub(crate) fn detach_all(config: &Config) -> anyhow::Result<String> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the gate is root's; hint: run this as root"
    );
    let paths = &config.paths;
    super::prepare_directories(config)?;
    let _claim = Claim::take(paths).context(
        "the gate stays while a daemon uses it; hint: end the daemon first (systemctl stop agentguard)",
    )?;
    let mut registry = Registry::open(paths.state_dir.join("keeper/agents.json"))?;
    let links = Gate::pinned(&paths.bpffs)?;
    if links.is_empty() && !Gate::is_left(&paths.bpffs)? {
        return Ok(format!(
            "there is no gate under {}: nothing was done",
            paths.bpffs.display()
        ));
    }
    let by = By {
        uid: rustix::process::getuid().as_raw(),
        time: epoch_seconds(SystemTime::now()),
        agent: None,
    };
    registry.detached(by, u32::try_from(links.len()).unwrap_or(u32::MAX))?;
    let cgroups = Gate::detach_all(&paths.bpffs)?;
    let own = cgroup::children(&paths.cgroup_root);
    let bounded = registry.adopted().keys().chain(&own);
    let released = cgroup::mount().map_or(0, |mount| {
        resources::release(&mount, &paths.cgroup_root, bounded.map(PathBuf::as_path))
    });
    if let Err(error) = mark::remove(&paths.cgroup_root, &paths.bpffs) {
        // It says nothing without the pins.
        tracing::debug!(%error, "the mark of the gate stays");
    }
    Ok(told(
        cgroups.len(),
        registry.adopted().len(),
        released,
        registry.quarantined(),
    ))
}

fn told(
    cgroups: usize,
    adopted: usize,
    released: usize,
    quarantined: &BTreeMap<AgentName, Quarantine>,
) -> String {
    let mut lines = vec![format!(
        "the gate was taken off {}: what runs there reaches everything that this host reaches, and none \
         of it is recorded",
        match cgroups {
            1 => "1 cgroup".to_owned(),
            cgroups => format!("{cgroups} cgroups"),
        }
    )];
    if !quarantined.is_empty() {
        let listed: Vec<String> = quarantined
            .iter()
            .map(|(name, quarantine)| match quarantine.frozen {
                true => format!("{name} (its processes stay stopped)"),
                false => name.to_string(),
            })
            .collect();
        lines.push(format!(
            "quarantined agents are no longer cut off: {}",
            listed.join(", ")
        ));
    }
    if released > 0 {
        lines.push(match released {
            1 => "1 cgroup is held to no limits of the policy any more".to_owned(),
            more => format!("{more} cgroups are held to no limits of the policy any more"),
        });
    }
    lines.push(
        "what was sent through the proxy ends; runs of `run --isolate` have no way out as before"
            .to_owned(),
    );
    lines.push(match adopted {
        0 => "the next start of the daemon puts the gate up again, and records this".to_owned(),
        1 => "the next start of the daemon puts the gate up again, also on the cgroup that was added by \
              hand, and records this"
            .to_owned(),
        adopted => format!(
            "the next start of the daemon puts the gate up again, also on the {adopted} cgroups that were \
             added by hand, and records this"
        ),
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::{Quarantine, told};

    #[test]
    fn what_is_open_now_is_said_first_and_what_comes_back_last() {
        let coder = "coder".parse().unwrap();
        let quarantine = Quarantine {
            since: 0,
            uid: None,
            reason: None,
            frozen: true,
        };
        let told = told(2, 1, 3, &[(coder, quarantine)].into());
        let lines: Vec<&str> = told.lines().collect();
        assert!(lines[0].starts_with("the gate was taken off 2 cgroups"));
        assert_eq!(
            lines[1],
            "quarantined agents are no longer cut off: coder (its processes stay stopped)"
        );
        assert_eq!(
            lines[2],
            "3 cgroups are held to no limits of the policy any more"
        );
        assert!(lines[4].contains("also on the cgroup that was added by hand"));
    }
}

//! Agents that are stopped since a budget is spent.

use agentguard_model::budget::Reached;
use agentguard_model::{AgentId, AgentName};

use super::state::Keeper;
use super::{Shared, lock};

/// Quarantines an agent and stops its processes, if the policy says so of a budget that is spent, as the worker says. What
/// waits for the worker waits in a thread of its own: the worker's word is read in this one.
pub(super) fn stop(keeper: &Shared, agent: AgentId, budget: &str) {
    let held = lock(keeper);
    let Some(name) = meant(&held, agent, budget) else {
        return;
    };
    if held.is_stopped(&name) {
        return;
    }
    drop(held);
    let (keeper, budget) = (keeper.clone(), budget.to_owned());
    let stopping = std::thread::Builder::new().name("spent".into());
    let started = stopping.spawn(move || {
        let cut = {
            let mut keeper = lock(&keeper);
            // Meanwhile another call may have said it.
            if keeper.is_stopped(&name) {
                return;
            }
            // Who quarantined it before has said why.
            let reason = (!keeper.is_quarantined(agent))
                .then(|| format!("the budget `{budget}` is spent"));
            keeper.quarantine(&name, reason, true, 0)
        };
        let done = cut.and_then(|cut| cut.finish(|| lock(&keeper).give_up_worker()));
        match done {
            Ok(done) => tracing::warn!(agent = %name, %budget, "{done}"),
            Err(error) => tracing::error!(agent = %name, %budget, error = format!("{error:#}"), "an agent whose budget is spent is not stopped as a whole"),
        }
    });
    if let Err(error) = started {
        // The next call that is refused has it tried again.
        tracing::error!(%error, "an agent whose budget is spent is not stopped");
    }
}

/// The agent, if the policy in force has a budget that stops it.
fn meant(keeper: &Keeper, agent: AgentId, budget: &str) -> Option<AgentName> {
    let name = keeper.name_of(agent)?;
    let policy = keeper.policy();
    let known = policy.agent(&name)?;
    let rule = policy.budget(budget)?;
    let stops =
        rule.budget.reached == Reached::Freeze && rule.is_enforced(known) && rule.is_for(known);
    stops.then_some(name)
}

//! Agents that are stopped since a budget is spent.

use agentguard_keeper::message::MAX_REASON;
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
            let reason = why(&budget, keeper.reason_of(&name));
            keeper.quarantine(&name, Some(reason), true, None)
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

/// Why it is stopped, behind what somebody said who quarantined it before: as much of that as there is room for.
fn why(budget: &str, before: Option<&str>) -> String {
    let own = format!("the guard stopped its processes, since the budget `{budget}` is spent");
    let Some(before) = before else {
        return own;
    };
    let room = MAX_REASON.saturating_sub(own.chars().count() + 2);
    let before: String = before.chars().take(room).collect();
    format!("{before}; {own}")
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

#[cfg(test)]
mod tests {
    use super::{MAX_REASON, why};

    #[test]
    fn the_reason_names_the_guard_and_keeps_what_an_operator_said() {
        let own = why("day", None);
        assert_eq!(
            own,
            "the guard stopped its processes, since the budget `day` is spent"
        );
        assert_eq!(why("day", Some("ticket 42")), format!("ticket 42; {own}"));
        let long = why("day", Some(&"ä".repeat(MAX_REASON)));
        assert_eq!(long.chars().count(), MAX_REASON);
        assert!(long.ends_with(&own), "{long}");
    }
}

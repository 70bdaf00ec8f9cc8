//! What operators want of limits and breakers: that they count from the beginning, and that circuits are closed.

use agentguard_budget::Scope;
use agentguard_budget::limits::{Limits, Standing};
use agentguard_decision::{Change, Decider, Recorder};
use agentguard_keeper::message::LimitOrder;
use agentguard_model::budget::Dimension;

/// Does what an operator wants: it is recorded, then done. With what was done, for a person; or why nothing was.
pub(super) async fn obey<R: Recorder>(
    order: LimitOrder,
    uid: u32,
    decider: &Decider<R>,
) -> Result<String, String> {
    let limits = decider.limits();
    let (id, scope) = match order.account.split_once('/') {
        Some((id, scope)) => (id, Some(scope)),
        None => (order.account.as_str(), None),
    };
    let meant = meant(limits, id, scope)?;
    let text = said(id, scope, &meant);
    let why = order.reason.map(|reason| format!(": {reason}"));
    let recorded = decider.changed(Change {
        done: "limit_reset".to_owned(),
        message: format!("{text}, by uid {uid}{}", why.unwrap_or_default()),
        uid,
        agent: scope.and_then(agent),
    });
    recorded
        .await
        .map_err(|refused| format!("it cannot be recorded, so it is not done: {refused}"))?;
    limits.reset(id, scope);
    Ok(text)
}

/// The accounts that are meant.
fn meant(limits: &Limits, id: &str, scope: Option<&str>) -> Result<Vec<Standing>, String> {
    let list = "`agentguard limits list` has what was counted";
    let of = |it: &Standing| *it.id == *id;
    let mut all = limits.standing();
    all.retain(of);
    if all.iter().any(|it| it.kind == "depth") {
        return Err(format!(
            "`{}` counts calls that are under way, which are until they end: there is nothing to change of it",
            shown(id)
        ));
    }
    all.retain(|it| scope.is_none_or(|scope| scope == it.scope.as_str()));
    match (all.is_empty(), scope) {
        (false, _) => Ok(all),
        (true, None) => Err(format!(
            "nothing was counted by a limit or breaker `{}`, so that there is nothing to change; hint: {list}",
            shown(id)
        )),
        (true, Some(scope)) => Err(format!(
            "nothing was counted in the account `{}` of `{}`, so that there is nothing to change; hint: {list}",
            shown(scope),
            shown(id)
        )),
    }
}

fn said(id: &str, scope: Option<&str>, meant: &[Standing]) -> String {
    let circuits = meant.iter().all(|it| it.kind == "breaker");
    match (scope, meant.len(), circuits) {
        (Some(scope), _, true) => format!("the circuit {id}/{scope} is closed"),
        (Some(scope), _, false) => format!("{id}/{scope} counts from the beginning"),
        (None, 1, true) => format!("the circuit of {id} is closed"),
        (None, count, true) => format!("the {count} circuits of {id} are closed"),
        (None, 1, false) => format!("{id} counts from the beginning"),
        (None, count, false) => {
            format!("{id} counts from the beginning in all of its {count} accounts")
        }
    }
}

fn agent(scope: &str) -> Option<agentguard_model::AgentName> {
    Scope::from(scope).value(&Dimension::Agent)?.parse().ok()
}

/// What somebody wrote, where it may be anything.
fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests;

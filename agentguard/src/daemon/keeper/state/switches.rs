//! Switches of the policy: rules look at them, and operators set them while everything runs.
//!
//! On disk first, then the worker, which decides again on what is under way. The kernel knows none of it: what
//! a rule with a switch may match goes through the proxy.

use std::time::SystemTime;

use agentguard_keeper::message::{Switch, ToWorker};
use anyhow::anyhow;

use super::super::registry::By;
use super::orders::{self, Asked};
use super::{Keeper, epoch_seconds};

/// Characters of a name that is none, in the answer.
const SHOWN: usize = 40;

impl Keeper {
    /// Sets a switch that the policy declares; `None` leaves it to the policy again. `uid`: who orders it. With
    /// what the worker is to answer.
    ///
    /// # Errors
    /// There is no such switch, the reason is too long, too many are set, or it cannot be written down: then
    /// it is as before.
    pub(in super::super) fn switch(
        &mut self,
        name: &str,
        on: Option<bool>,
        reason: Option<String>,
        uid: u32,
    ) -> anyhow::Result<(String, Option<Asked>)> {
        let declared = self.policy.switches().get(name).copied();
        let before = self.registry.switches().get(name).cloned();
        // One that the policy does not declare any more can be forgotten, and not be set.
        if declared.is_none() && (before.is_none() || on.is_some()) {
            return Err(self.no_switch(name));
        }
        orders::bounded(reason.as_deref())?;
        let now = epoch_seconds(SystemTime::now());
        let set = on.map(|on| match &before {
            Some(before) if before.on == on => Switch {
                reason: reason.clone().or_else(|| before.reason.clone()),
                ..before.clone()
            },
            _ => Switch {
                on,
                since: now,
                uid,
                reason: reason.clone(),
            },
        });
        if set == before {
            // Told again: what the worker has may be older than what it was told last.
            let worker = self.tell_switch(name, set.as_ref());
            return Ok((already(name, declared, before.as_ref()), worker));
        }
        let by = By {
            uid,
            time: now,
            agent: None,
        };
        self.registry.switch(name, set.clone(), by, reason)?;
        let text = match (&set, declared) {
            (Some(set), _) => format!(
                "the switch {name} is {}; `agentguard policy switch {name} default` leaves it to the policy \
                 again",
                word(set.on)
            ),
            (None, Some(declared)) => format!(
                "the switch {name} is {}, as the policy declares it",
                word(declared)
            ),
            (None, None) => {
                format!("the switch {name}, which the policy does not declare, is forgotten")
            }
        };
        tracing::warn!(switch = name, ?on, uid, "a switch was set");
        let worker = self.tell_switch(name, set.as_ref());
        self.tell_last_deed();
        Ok((text, worker))
    }

    /// Tells a new worker what operators have set.
    pub(super) fn tell_switches(&self) {
        for (name, set) in self.registry.switches() {
            self.tell_switch(name, Some(set));
        }
    }

    fn tell_switch(&self, name: &str, set: Option<&Switch>) -> Option<Asked> {
        self.ask_worker(|number| ToWorker::Switch {
            number,
            name: name.to_owned(),
            set: set.cloned(),
        })
    }

    fn no_switch(&self, name: &str) -> anyhow::Error {
        let shown: String = name.chars().take(SHOWN).collect();
        let declared: Vec<&str> = self.policy.switches().keys().map(String::as_str).collect();
        if declared.is_empty() {
            return anyhow!(
                "the policy declares no switch {shown}, nor any other; hint: declare it there, \
                 `switches: {{NAME: false}}`, and reload"
            );
        }
        anyhow!(
            "the policy declares no switch {shown}; hint: it declares {}",
            declared.join(", ")
        )
    }
}

/// What is so already.
fn already(name: &str, declared: Option<bool>, set: Option<&Switch>) -> String {
    match (set, declared) {
        (Some(set), _) => format!(
            "the switch {name} is {} already, set {}",
            word(set.on),
            orders::told(set.since, Some(set.uid), set.reason.as_deref())
        ),
        (None, declared) => format!(
            "the switch {name} is {} already, as the policy declares it",
            word(declared.unwrap_or_default())
        ),
    }
}

const fn word(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

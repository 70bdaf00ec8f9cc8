//! Which of the recorded labels were the run's own: the record has them as they held, those of a run over those of its
//! agent. A run takes its own along to another policy, and what the policy gave it does not.

use agentguard_model::{Decision, Labels};

use super::Replay;
use super::recorded::Attempted;
use super::worlds::{Outcomes, Worlds, listed};
use crate::conditions::When;

/// The most labels of which both is tried: that they were the run's, and that they were the policy's.
const TRIED: usize = 4;

impl Replay<'_> {
    /// What the candidate says, whichever of the labels were the run's own, where that is not known.
    ///
    /// # Errors
    /// These are too many: why it cannot be told.
    pub(super) fn labellings(
        &self,
        decision: &Decision,
        worlds: &Worlds<'_>,
        attempted: &mut Attempted,
    ) -> Result<Outcomes, String> {
        let unsure = self.unsure(decision, worlds, attempted);
        let why = || {
            let each = unsure.iter();
            listed(
                each.map(|name| format!("whether label `{name}` was the run's own"))
                    .collect(),
            )
        };
        if unsure.len() > TRIED {
            return Err(why());
        }
        let mut outcomes = worlds.of(attempted);
        let recorded = attempted.labels().cloned().unwrap_or_default();
        for policys in 1..1_u32 << unsure.len() {
            if let Some(labels) = attempted.labels() {
                labels.clone_from(&recorded);
                for (n, name) in unsure.iter().enumerate() {
                    if policys & 1 << n != 0 {
                        labels.remove(name);
                    }
                }
            }
            let others = worlds.of(attempted);
            if outcomes.why.is_empty() {
                outcomes.why = others.why;
            }
            outcomes.said.extend(others.said);
        }
        if let Some(labels) = attempted.labels() {
            *labels = recorded;
        }
        if outcomes.why.is_empty() {
            outcomes.why = why();
        }
        Ok(outcomes)
    }

    /// The labels of which it matters whether they were the run's own, and is not known. What the policy of then did not
    /// give was the run's; what it gave may have been that of the run too.
    fn unsure(
        &self,
        decision: &Decision,
        worlds: &Worlds<'_>,
        attempted: &Attempted,
    ) -> Vec<String> {
        let Some(flow) = attempted.flow() else {
            return Vec::new();
        };
        let given = self.given(decision);
        let known = |name: &str, value: &String| {
            worlds.agent.labels.get(name) == Some(value)
                || given.is_some_and(|given| given.get(name) != Some(value))
        };
        let mut unsure = Vec::new();
        worlds.each(flow, |rule| {
            let looks = rule.conditions.when.iter().flat_map(When::labels);
            unsure.extend(looks.filter_map(|name| {
                let value = flow.around.labels.get(name)?;
                (!known(name, value)).then(|| name.clone())
            }));
        });
        unsure.sort_unstable();
        unsure.dedup();
        unsure
    }

    /// The labels that the policy that gave a decision gives its agent, if they are known.
    fn given(&self, decision: &Decision) -> Option<&Labels> {
        static NONE: Labels = Labels::new();
        let name = &decision.agent.as_ref()?.name;
        let version = &decision.policy_version;
        let policys = self.in_force.filter(|policy| policy.version() == version);
        if let Some(policy) = policys {
            let agent = policy.agent(name);
            return Some(agent.map_or(&NONE, |agent| &agent.labels));
        }
        let (_, agents) = self.labelled.as_ref().filter(|(of, _)| of == version)?;
        Some(agents.get(name).unwrap_or(&NONE))
    }
}

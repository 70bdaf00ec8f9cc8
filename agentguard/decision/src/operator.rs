//! What operators do to the guard itself.

use std::time::Instant;

use agentguard_model::{
    Action, ActionKind, Agent, AgentId, AgentName, Context, DecisionId, Layer, Mode, Reason,
    ReasonCode, Verdict,
};

use crate::decider::{Decider, Draft};
use crate::port::{RecordRefused, Recorder};

/// A change to the guard itself, which an operator has made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// What was done, in a word: [`Action::method`].
    pub done: String,
    /// What was done, by whom and why, in a sentence.
    pub message: String,
    /// The user id of who did it: the decision's user.
    pub uid: u32,
    /// The agent it was done to.
    pub agent: Option<AgentName>,
}

impl<R: Recorder> Decider<R> {
    /// An agent is quarantined, or not any more. What is under way for it is denied, then ended.
    pub fn quarantine(&self, agent: AgentId, quarantined: bool) {
        self.directory().quarantine(agent, quarantined);
        if quarantined {
            // First what can say why it ends.
            self.policies().decide_again();
            self.directory().cut(agent);
        }
    }

    /// Records what an operator has done. It is allowed: it was done.
    ///
    /// # Errors
    /// It could not be recorded.
    pub async fn changed(&self, change: Change) -> Result<DecisionId, RecordRefused> {
        let policy = self.policies().current();
        let action = Action {
            method: Some(change.done),
            ..Action::new(ActionKind::Administration)
        };
        let mut decision = self.decision(
            &policy,
            Draft {
                client: None,
                layer: Layer::Operator,
                action,
                verdict: Verdict::Allow,
                enforced: true,
                mode: Mode::Enforce,
                reason: Reason::new(ReasonCode::Operator, change.message),
                matched: Vec::new(),
                count: 1,
                started: Instant::now(),
            },
        );
        decision.agent = change.agent.map(|name| {
            let labels = policy.agent(&name).map(|agent| agent.labels.clone());
            Agent {
                name,
                labels: labels.unwrap_or_default(),
            }
        });
        decision.context.user = Some(Context::user_of(change.uid));
        self.recorder().write(decision).await
    }
}

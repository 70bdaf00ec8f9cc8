//! What agents met of their limits, on its way to the record.

use agentguard_decision::Decider;
use agentguard_model::{AgentId, ResourceEvent};

use super::Recorded;

/// Records it. It has happened, whatever becomes of the record.
pub(super) async fn note(agent: AgentId, event: ResourceEvent, decider: Decider<Recorded>) {
    if let Err(refused) = decider.met_limit(agent, event).await {
        tracing::warn!(%refused, "that an agent met a limit of its resources is not in the record");
    }
}

//! Runs, as the spawning half asks for them.

use agentguard_control::peer::Accepted;
use agentguard_keeper::packet::Peer;
use agentguard_keeper::spawn::{Admission, Host, Refusal, RunId, RunRequest};

use super::{Shared, clients, lock};

/// The keeper's answer to one client's `run`.
pub(super) struct RunHost {
    pub(super) keeper: Shared,
    /// When the client came.
    pub(super) accepted: Accepted,
}

impl Host for RunHost {
    fn admit(&self, request: &RunRequest, peer: &Peer) -> Result<Admission, Refusal> {
        let mut keeper = lock(&self.keeper);
        clients::authorise(&keeper, peer, self.accepted)
            .map_err(|refused| Refusal::new(refused.message).hint(refused.hint))?;
        if keeper.policy().agent(&request.agent).is_none() {
            return Err(
                Refusal::new(format!("the policy has no agent {}", request.agent))
                    .hint("add it under `agents:` and reload, or see `agentguard agent list`"),
            );
        }
        let prepared = keeper
            .prepare(
                &request.agent,
                request.context.clone(),
                request.labels.clone(),
                request.isolate,
            )
            .map_err(|error| Refusal::new(format!("{error:#}")))?;
        Ok(Admission {
            run: RunId(prepared.run.into()),
            cgroup: prepared.cgroup.directory.into(),
            network: prepared.netns,
            environment: Vec::new(),
            overlays: Vec::new(),
            seccomp: None,
        })
    }

    fn finished(&self, run: RunId) {
        // The number was a `u32` when it was given.
        if let Ok(run) = u32::try_from(run.0) {
            lock(&self.keeper).finished(run);
        }
    }
}

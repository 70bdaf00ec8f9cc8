//! Leaf certificates, for what the keeper's own policy has inspected.

use std::path::Path;
use std::time::SystemTime;

use agentguard_keeper::ca::Ca;
use agentguard_keeper::message::{LeafSubject, SignedLeaf};
use agentguard_model::AgentId;

use super::state::epoch_seconds;
use super::{Shared, lock};

/// Opens the authority, or makes it. It lies in the keeper's part of the state, which is root's alone
/// as all that is above it: the worker owns directories beside it, and can rename none.
pub(super) fn open(state_dir: &Path) -> anyhow::Result<Ca> {
    let name = rustix::system::uname();
    let host = name.nodename().to_string_lossy();
    Ca::open(&state_dir.join("keeper/ca"), &host, now()).map_err(|error| {
        let hint = error.hint();
        anyhow::Error::new(error).context(format!(
            "there is no certificate authority to inspect with; hint: {hint}"
        ))
    })
}

/// Signs a leaf. The lock is held while the policy is asked, and not while signing.
pub(super) fn sign(
    keeper: &Shared,
    agent: AgentId,
    subject: &LeafSubject,
    public_key: &[u8],
) -> Result<SignedLeaf, String> {
    let (ca, inspected) = {
        let keeper = lock(keeper);
        (keeper.ca(), keeper.inspects(agent, subject))
    };
    if !inspected {
        ca.count_refused();
        return Err(format!("the policy does not inspect {subject}"));
    }
    ca.sign(subject, public_key, now())
        .map_err(|error| error.to_string())
}

/// Drops authorities whose leaves have all expired.
pub(super) fn forget(keeper: &Shared) {
    let ca = lock(keeper).ca();
    if let Err(error) = ca.forget(now()) {
        tracing::warn!(
            error = format!("{:#}", anyhow::Error::new(error)),
            "an expired certificate authority stays for now"
        );
    }
}

/// The time, in seconds since the epoch.
pub(super) fn now() -> u64 {
    epoch_seconds(SystemTime::now())
}

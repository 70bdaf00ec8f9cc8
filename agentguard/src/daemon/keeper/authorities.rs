//! The certificate authorities at work: leaves for what the keeper's own policy has inspected, and
//! what agents trust.

use std::time::SystemTime;

use agentguard_keeper::ca::{Ca, CaError, SignError};
use agentguard_keeper::message::{AuthorityInfo, LeafCounts, LeafSubject, SignedLeaf};
use agentguard_model::AgentId;

use super::state::epoch_seconds;
use super::trust::{Files, Trust};
use super::{Shared, lock};
use crate::config::Paths;

/// The authorities, and the files in which agents find them. Used without the keeper's lock.
pub(super) struct Authorities {
    ca: Ca,
    files: Files,
}

impl Authorities {
    /// Opens them, or makes the first. They lie in the keeper's part of the state, which is root's
    /// alone as all that is above it: the worker owns directories beside it, and can rename none.
    pub(super) fn open(paths: &Paths) -> anyhow::Result<Self> {
        let name = rustix::system::uname();
        let host = name.nodename().to_string_lossy();
        let ca = Ca::open(&paths.state_dir.join("keeper/ca"), &host, now()).map_err(|error| {
            let hint = error.hint();
            anyhow::Error::new(error).context(format!(
                "there is no certificate authority to inspect with; hint: {hint}"
            ))
        })?;
        let authorities = Self {
            ca,
            files: Files::new(paths.runtime_dir.join("trust")),
        };
        authorities.renew_files();
        Ok(authorities)
    }

    /// Those that are valid, in the order in which they sign.
    pub(super) fn list(&self) -> Vec<AuthorityInfo> {
        self.ca.list(now())
    }

    /// What was signed and refused.
    pub(super) fn counts(&self) -> LeafCounts {
        self.ca.counts()
    }

    /// Makes the next one; see [`Ca::rotate`].
    pub(super) fn rotate(&self, at_once: bool) -> Result<(), CaError> {
        self.ca.rotate(at_once, now())?;
        self.renew_files();
        Ok(())
    }

    /// Drops those whose leaves have all expired.
    pub(super) fn forget(&self) {
        match self.ca.forget(now()) {
            Ok(true) => self.renew_files(),
            Ok(false) => {}
            Err(error) => tracing::warn!(
                error = format!("{:#}", anyhow::Error::new(error)),
                "an expired certificate authority stays for now"
            ),
        }
    }

    /// What an agent is given so that it trusts them.
    pub(super) fn trust(&self) -> anyhow::Result<Trust> {
        self.files.give(&self.ca.bundle(now()))
    }

    fn renew_files(&self) {
        if let Err(error) = self.files.renew(&self.ca.bundle(now())) {
            tracing::error!(
                error = format!("{error:#}"),
                "agents that run do not see the change of certificate authorities"
            );
        }
    }
}

/// Signs a leaf. The keeper's lock is held while the policy is asked, and not while signing.
pub(super) fn sign(
    keeper: &Shared,
    agent: AgentId,
    subject: &LeafSubject,
    public_key: &[u8],
) -> Result<SignedLeaf, String> {
    let authorities = lock(keeper).ca();
    let inspected = || lock(keeper).inspects(agent, subject);
    let result = authorities.ca.sign(subject, public_key, now(), inspected);
    match &result {
        Ok(_) => {}
        // A worker can bring about any number of these. `status` has their count.
        Err(error @ SignError::TooFast) => tracing::debug!(%error, "not signed"),
        Err(error) => tracing::warn!(%subject, agent = agent.0, %error, "not signed"),
    }
    result.map_err(|error| error.to_string())
}

/// The time, in seconds since the epoch.
fn now() -> u64 {
    epoch_seconds(SystemTime::now())
}

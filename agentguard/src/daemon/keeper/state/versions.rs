//! The gate of another version of agentguard, that was there when this one started: an upgrade, or the
//! way back.
//!
//! Its maps are not read, but for who is quarantined. Its programs decide until this version's stand in
//! their place, and its maps stay until what agents had open under it was ended: a daemon that is killed
//! in between finds them again, and so does the rest.

use agentguard_keeper::gate::OtherVersion;

use super::super::returned::{Returned, Why};
use super::Keeper;

/// What is still to be done about gates of other versions.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Superseded {
    /// Nothing.
    #[default]
    Gone,
    /// What was open under them is ended, then they go.
    There,
    /// They could not be removed: that was told, and is tried again.
    Stuck,
}

impl Keeper {
    /// This version's programs stand where those of others stood: what agents have open is ended, for
    /// nothing is known of it any more.
    pub(super) fn supersede(&mut self, others: &[OtherVersion]) {
        if others.is_empty() {
            return;
        }
        let versions: Vec<String> = others.iter().map(|other| other.abi.to_string()).collect();
        tracing::warn!(
            others = versions.join(", "),
            "the gate was of another version; what agents had open under it is closed"
        );
        for subtree in self.subtrees.values().filter(|it| it.run == 0) {
            self.returned.push(Returned {
                agent: subtree.agent,
                cgroup: subtree.path.clone(),
                why: Why::OtherVersion,
            });
        }
    }

    /// Notes at the start whether there are gates of other versions: until they are gone, what they say of
    /// quarantines may be believed by another start.
    pub(super) fn note_superseded(&mut self, others: &[OtherVersion]) {
        if !others.is_empty() {
            self.superseded = Superseded::There;
        }
    }

    /// Whether a daemon that starts now would find no other version's word on who is quarantined.
    pub(super) fn is_alone(&self) -> bool {
        self.superseded == Superseded::Gone
    }

    /// Removes gates of other versions, when nothing that was open under them is left to be ended.
    pub(super) fn forget_superseded(&mut self) {
        if self.superseded == Superseded::Gone || !self.returned.is_empty() {
            return;
        }
        match self.gate.forget_other_versions() {
            Ok(()) => {
                tracing::info!("nothing is left of the gate of another version");
                self.superseded = Superseded::Gone;
            }
            Err(error) => {
                if self.superseded != Superseded::Stuck {
                    tracing::error!(
                        error = format!("{:#}", anyhow::Error::new(error)),
                        "the gate of another version is not removed; it is tried again every second"
                    );
                }
                self.superseded = Superseded::Stuck;
            }
        }
    }
}

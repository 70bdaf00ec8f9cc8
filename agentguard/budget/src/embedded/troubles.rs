//! What is wrong with the ledger, in words.

use crate::embedded::replay::Damage;

/// What is wrong with a ledger that goes on all the same.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Troubles {
    /// What an earlier process left was not whole.
    pub damage: Option<Damage>,
    /// Why the last checkpoint could not be made. All that happens is in journals, which become more.
    pub checkpoint: Option<String>,
    /// Why the journal could not be synchronised the last time. It survives this process, and perhaps not the host.
    pub sync: Option<String>,
}

impl Troubles {
    /// A sentence for each, for whoever operates it.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        let checkpoint = self.checkpoint.as_ref().map(|why| {
            format!(
                "the ledger of budgets makes no checkpoint: {why}. Nothing is lost, but its journals grow until one can be \
                 made; it is tried again every five minutes. Look whether `state_dir` is full (df)"
            )
        });
        let sync = self.sync.as_ref().map(|why| {
            format!(
                "the ledger of budgets is not synchronised: {why}. What is used now may be forgotten if the host ends; look \
                 at the disk"
            )
        });
        let damage = self.damage.as_ref().map(ToString::to_string);
        [damage, checkpoint, sync].into_iter().flatten().collect()
    }
}

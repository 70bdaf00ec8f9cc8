//! The policy in force, and the few before it, which events from the kernel may still speak of.

use std::sync::Arc;

use agentguard_policy::{Policy, Switches};
use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::again::Changes;

/// Policies kept, the one in force among them. An event that was decided under an older one names
/// no rule.
const KEPT: usize = 8;

/// The policies. Read without a lock.
#[derive(Debug)]
pub struct Policies {
    current: Arc<ArcSwap<Policy>>,
    /// By number, newest first.
    numbered: ArcSwap<Vec<(u32, Arc<Policy>)>>,
    /// What operators have switched.
    switches: ArcSwap<Switches>,
    /// The number of the one in force, told after it is; again, when what is under way is to be decided again.
    generation: watch::Sender<u32>,
    /// The same, where it may also go another way than before.
    ways: watch::Sender<u32>,
}

impl Policies {
    /// Begins with one. `generation` counts loads and stands in the kernel's events.
    #[must_use]
    pub fn new(generation: u32, policy: Policy) -> Self {
        let policy = Arc::new(policy);
        Self {
            current: Arc::new(ArcSwap::new(policy.clone())),
            numbered: ArcSwap::from_pointee(vec![(generation, policy)]),
            switches: ArcSwap::default(),
            generation: watch::Sender::new(generation),
            ways: watch::Sender::new(generation),
        }
    }

    /// Puts one in force.
    pub fn put(&self, generation: u32, policy: Policy) {
        let policy = Arc::new(policy);
        self.numbered.rcu(|numbered| {
            std::iter::once((generation, policy.clone()))
                .chain(numbered.iter().cloned())
                .take(KEPT)
                .collect::<Vec<_>>()
        });
        self.current.store(policy);
        self.ways.send_replace(generation);
        self.generation.send_replace(generation);
    }

    /// What operators have switched from now on. What is under way is decided again.
    pub fn switch(&self, switches: Switches) {
        if **self.switches.load() != switches {
            self.switches.store(Arc::new(switches));
            self.touch();
        }
    }

    /// What operators have switched.
    pub(crate) fn switches(&self) -> Arc<Switches> {
        self.switches.load_full()
    }

    /// What is under way is to be decided again under the same one, and connections are to look up again where they
    /// go: something else has changed that rules depend on.
    pub fn touch(&self) {
        self.ways.send_modify(|_| {});
        self.decide_again();
    }

    /// What is under way is to be decided again. Connections go on where they go: what has changed concerns some of
    /// them alone, which end by their decisions, and nobody else is to notice.
    pub(crate) fn decide_again(&self) {
        self.generation.send_modify(|_| {});
    }

    /// Notices when another one is put in force, or what is under way is to be decided again.
    pub(crate) fn changes(&self) -> Changes {
        Changes::new(self.generation.subscribe())
    }

    /// Notices when it is to be looked up again where connections go.
    pub(crate) fn ways(&self) -> Changes {
        Changes::new(self.ways.subscribe())
    }

    /// The one in force.
    #[must_use]
    pub fn current(&self) -> Arc<Policy> {
        self.current.load_full()
    }

    /// The one in force, for those who look again and again.
    #[must_use]
    pub fn watch(&self) -> Arc<ArcSwap<Policy>> {
        self.current.clone()
    }

    /// The one with this number, if it is still kept.
    #[must_use]
    pub fn generation(&self, generation: u32) -> Option<Arc<Policy>> {
        self.numbered
            .load()
            .iter()
            .find(|(number, _)| *number == generation)
            .map(|(_, policy)| policy.clone())
    }
}

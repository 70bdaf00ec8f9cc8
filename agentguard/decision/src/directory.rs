//! Who is who: the numbers that the kernel tells, and what they stand for.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

use agentguard_model::{Agent, AgentId, AgentName, Context, Labels};
use agentguard_policy::Policy;
use tokio_util::sync::CancellationToken;

/// Agents and runs by their numbers. Looked at once per decision, changed when a run begins or
/// ends: a plain lock, held for a look-up.
#[derive(Debug, Default)]
pub struct Directory {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    agents: HashMap<AgentId, AgentName>,
    runs: HashMap<u32, Arc<Run>>,
    /// Those of them that are over, the first one first.
    over: VecDeque<u32>,
    quarantined: HashSet<AgentId>,
    /// Of each agent for which something was under way since it was last released.
    cuts: HashMap<AgentId, Cut>,
}

/// The end of what is under way for an agent.
#[derive(Clone, Debug, Default)]
pub struct Cut {
    /// Cancelled when it is quarantined. What is closed from then on is reset: an orderly close would
    /// still send what waits in the kernel.
    pub quarantined: CancellationToken,
    /// Cancelled behind that, when those that can say why they end have been told: whatever is still
    /// there ends.
    pub now: CancellationToken,
}

/// How many runs that are over are known. What comes of those before has no context.
const MAX_OVER: usize = 1024;

/// What is known of a run.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) context: Context,
    pub(crate) labels: Labels,
}

impl Directory {
    /// An agent has a number.
    pub fn agent(&self, id: AgentId, name: AgentName) {
        self.write(|inner| {
            inner.agents.insert(id, name);
        });
    }

    /// A run has begun.
    pub fn run(&self, number: u32, context: Context, labels: Labels) {
        self.write(|inner| {
            let run = Arc::new(Run { context, labels });
            inner.runs.insert(number, run);
            inner.over.retain(|over| *over != number);
        });
    }

    /// A run is over. What the kernel told of its last flows may not be read yet: it is known until [`MAX_OVER`] others
    /// have ended.
    pub fn run_ended(&self, number: u32) {
        self.write(|inner| {
            if !inner.runs.contains_key(&number) || inner.over.contains(&number) {
                return;
            }
            inner.over.push_back(number);
            if inner.over.len() > MAX_OVER
                && let Some(first) = inner.over.pop_front()
            {
                inner.runs.remove(&first);
            }
        });
    }

    /// What is known of a run that is under way, or was lately.
    pub(crate) fn run_of(&self, number: u32) -> Option<Arc<Run>> {
        self.read(|inner| inner.runs.get(&number).cloned())
    }

    /// An agent is quarantined, or not any more. Decisions from now on say so; what is under way hears
    /// of it with [`Self::cut`].
    pub(crate) fn quarantine(&self, id: AgentId, quarantined: bool) {
        self.write(|inner| {
            if quarantined {
                inner.quarantined.insert(id);
                if let Some(cut) = inner.cuts.get(&id) {
                    cut.quarantined.cancel();
                }
            } else {
                inner.quarantined.remove(&id);
                inner.cuts.remove(&id);
            }
        });
    }

    /// Ends what is under way for an agent.
    pub(crate) fn cut(&self, id: AgentId) {
        if let Some(cut) = self.read(|inner| inner.cuts.get(&id).cloned()) {
            cut.now.cancel();
        }
    }

    /// Whether an agent is quarantined.
    #[must_use]
    pub fn is_quarantined(&self, id: AgentId) -> bool {
        self.read(|inner| inner.quarantined.contains(&id))
    }

    /// How what is under way for an agent ends when it is quarantined; already, if it is.
    #[must_use]
    pub fn cut_of(&self, id: AgentId) -> Cut {
        if let Some(cut) = self.read(|inner| inner.cuts.get(&id).cloned()) {
            return cut;
        }
        self.write(|inner| {
            let cut = inner.cuts.entry(id).or_default();
            if inner.quarantined.contains(&id) {
                cut.quarantined.cancel();
                cut.now.cancel();
            }
            cut.clone()
        })
    }

    /// Looks at an agent: the name behind its number, and whether it is quarantined.
    pub(crate) fn look_at<T>(
        &self,
        id: AgentId,
        look: impl FnOnce(Option<&AgentName>, bool) -> T,
    ) -> T {
        self.read(|inner| look(inner.agents.get(&id), inner.quarantined.contains(&id)))
    }

    /// The name behind a number.
    #[must_use]
    pub fn name(&self, id: AgentId) -> Option<AgentName> {
        self.read(|inner| inner.agents.get(&id).cloned())
    }

    /// The agent as a decision names it, and on whose behalf it acts: the policy's labels with those
    /// of the run over them.
    #[must_use]
    pub fn describe(&self, id: AgentId, run: u32, policy: &Policy) -> (Option<Agent>, Context) {
        let (name, run) = self.read(|inner| {
            let (name, run) = (inner.agents.get(&id), inner.runs.get(&run));
            (name.cloned(), run.cloned())
        });
        let agent = name.map(|name| {
            let mut labels = policy
                .agent(&name)
                .map(|agent| agent.labels.clone())
                .unwrap_or_default();
            if let Some(run) = &run {
                labels.extend(run.labels.clone());
            }
            Agent { name, labels }
        });
        let context = run.map(|run| run.context.clone());
        (agent, context.unwrap_or_default())
    }

    /// Every agent.
    #[must_use]
    pub fn agents(&self) -> Vec<(AgentId, AgentName)> {
        self.read(|inner| {
            inner
                .agents
                .iter()
                .map(|(id, name)| (*id, name.clone()))
                .collect()
        })
    }

    fn read<T>(&self, look: impl FnOnce(&Inner) -> T) -> T {
        look(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.inner.write().unwrap_or_else(PoisonError::into_inner))
    }
}

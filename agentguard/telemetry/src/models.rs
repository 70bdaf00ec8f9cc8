//! Names of models that have a place in the figures.
//!
//! An agent names any model in its calls. Each name takes a place of the agent that first used it, and an agent has few: so
//! none crowds out what the others use.

use std::collections::{HashMap, HashSet};

use agentguard_model::AgentName;

use crate::catalogue::OTHER;
use crate::store::cut;

/// Names in all.
const NAMES: usize = 500;
/// Names that one agent has brought.
const NAMES_PER_AGENT: usize = 50;
/// Bytes of one.
const BYTES: usize = 100;

#[derive(Debug, Default)]
pub(crate) struct Models {
    known: HashSet<String>,
    brought: HashMap<Option<AgentName>, usize>,
}

impl Models {
    /// A model as the figures name it.
    pub(crate) fn name(&mut self, agent: Option<&AgentName>, model: &str) -> String {
        let model = cut(model, BYTES);
        if model.is_empty() || self.known.contains(model) {
            return model.to_owned();
        }
        let agent = agent.cloned();
        let brought = self.brought.get(&agent).copied().unwrap_or(0);
        if brought >= NAMES_PER_AGENT || self.known.len() >= NAMES {
            return OTHER.to_owned();
        }
        self.brought.insert(agent, brought + 1);
        self.known.insert(model.to_owned());
        model.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::{AgentName, Models, NAMES, NAMES_PER_AGENT};

    #[test]
    fn an_agent_that_names_a_thousand_models_takes_no_place_of_another() {
        let mut models = Models::default();
        let name = |n: usize| format!("a{n}").parse().unwrap();
        let (loud, quiet) = (name(0), name(1));
        let mut named = |agent: &AgentName, model: &str| models.name(Some(agent), model);
        let told = (0..1000).filter(|n| named(&loud, &format!("m-{n}")) != "_other");
        assert_eq!(told.count(), NAMES_PER_AGENT);
        assert_eq!(named(&quiet, "gpt-5"), "gpt-5");
        // What somebody has brought is for all.
        assert_eq!(named(&loud, "gpt-5"), "gpt-5");
        assert_eq!(named(&loud, ""), "");
        let many = (2..100).flat_map(|n| (0..50).map(move |m| (n, format!("x-{n}-{m}"))));
        let told = many
            .filter(|(n, model)| named(&name(*n), model) != "_other")
            .count();
        assert_eq!(told, NAMES - NAMES_PER_AGENT - 1);
    }
}

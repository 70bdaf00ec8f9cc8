//! What rules may look at beside a flow and its request.

use std::collections::BTreeMap;

use agentguard_model::{Context, Labels};
use jiff::Timestamp;

/// On whose behalf an agent acts, and what holds at that moment.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// What was said when its run began.
    pub context: &'a Context,
    /// The labels of its run, which stand over those of the agent.
    pub labels: &'a Labels,
    /// The number of its run; 0 for none.
    pub run: u32,
    /// The time.
    pub time: Timestamp,
    /// What operators have switched.
    pub switches: &'a Switches,
    /// That switches and the number of the run are not known, and what is assumed of conditions on those:
    /// that all of them turn out for what is attempted, or all against it. Absent on the data path.
    pub in_favour: Option<bool>,
}

/// The switches that an operator has set, by name. Others are as the policy declares them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Switches(BTreeMap<String, bool>);

static NO_CONTEXT: Context = Context {
    user: None,
    session: None,
    workflow: None,
    purpose: None,
    trace_id: None,
};
static NO_LABELS: Labels = Labels::new();
static NO_SWITCHES: Switches = Switches(BTreeMap::new());

impl Circumstances<'static> {
    /// Nobody's, in 1970: where no rule can look at them.
    pub const NOBODY: Self = Self {
        context: &NO_CONTEXT,
        labels: &NO_LABELS,
        run: 0,
        time: Timestamp::UNIX_EPOCH,
        switches: &NO_SWITCHES,
        in_favour: None,
    };
}

impl Switches {
    /// One that an operator has set.
    pub fn set(&mut self, name: impl Into<String>, on: bool) {
        self.0.insert(name.into(), on);
    }

    /// Whether an operator has set it, and how.
    #[must_use]
    pub fn is_on(&self, name: &str) -> Option<bool> {
        self.0.get(name).copied()
    }
}

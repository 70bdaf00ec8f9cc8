//! What operators have set of the policy's switches, as the keeper tells it.

use std::collections::{BTreeMap, BTreeSet};

use agentguard_control::api::{SwitchSet, SwitchStatus};
use agentguard_keeper::message::Switch;
use agentguard_policy::Switches;

use super::status::moment;

/// By name; also those that the policy in force does not declare.
#[derive(Debug, Default)]
pub(super) struct Set(BTreeMap<String, Switch>);

impl Set {
    /// One is as told from now on; `None`: as the policy declares it.
    pub(super) fn put(&mut self, name: String, set: Option<Switch>) {
        match set {
            Some(set) => self.0.insert(name, set),
            None => self.0.remove(&name),
        };
    }

    /// What decisions look at.
    pub(super) fn switches(&self) -> Switches {
        let mut switches = Switches::default();
        for (name, set) in &self.0 {
            switches.set(name, set.on);
        }
        switches
    }

    /// What operators are shown where the policy declares these.
    pub(super) fn shown(&self, declared: &BTreeMap<String, bool>) -> Vec<SwitchStatus> {
        let names: BTreeSet<&String> = declared.keys().chain(self.0.keys()).collect();
        let shown = names.into_iter().map(|name| {
            let set = self.0.get(name).map(|set| SwitchSet {
                on: set.on,
                since: moment(set.since),
                uid: set.uid,
                reason: set.reason.clone(),
            });
            SwitchStatus::new(name, declared.get(name).copied(), set)
        });
        shown.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Set, Switch};

    #[test]
    fn what_is_set_stands_over_what_is_declared_and_counts_for_nothing_where_it_is_not() {
        let set = |on| {
            Some(Switch {
                on,
                since: 1_800_000_000,
                uid: 7,
                reason: None,
            })
        };
        let mut all = Set::default();
        for (name, on) in [
            ("freeze", true),
            ("same", true),
            ("old", true),
            ("gone", true),
        ] {
            all.put(name.to_owned(), set(on));
        }
        all.put("gone".to_owned(), None);
        let declared = [("calm", false), ("freeze", false), ("same", true)];
        let declared = declared.map(|(name, on)| (name.to_owned(), on)).into();
        let shown = all.shown(&declared);
        let told: Vec<_> = shown
            .iter()
            .map(|it| (it.name.as_str(), it.on, it.declared, it.is_as_declared()))
            .collect();
        assert_eq!(
            told,
            [
                ("calm", Some(false), Some(false), true),
                ("freeze", Some(true), Some(false), false),
                ("old", None, None, false),
                ("same", Some(true), Some(true), true),
            ]
        );
        let freeze = shown[1].set.as_ref().unwrap();
        assert_eq!((freeze.uid, freeze.since.as_second()), (7, 1_800_000_000));
        assert_eq!(shown[0].set, None);
        let switches = all.switches();
        assert_eq!(switches.is_on("freeze"), Some(true));
        assert_eq!(
            (switches.is_on("gone"), switches.is_on("calm")),
            (None, None)
        );
    }
}

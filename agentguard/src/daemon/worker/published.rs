//! What the keeper has published, so that it is asked once for what a name is answered with again and again.
//!
//! Of virtual addresses alone: what stands at one stays in the gate until the keeper has another policy or the address
//! is given to another name, and both begin a new [`Epoch`]. A real address stands for its name for a time, and is
//! published each time. Were something taken for published that is not, the gate would deny the address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use agentguard_model::{AgentId, HostName};

/// Names of agents, at most. Beyond it all are forgotten, and the keeper is asked again.
const MOST: usize = 16_384;

/// What a name of an agent stands for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Addresses {
    pub(super) virtual_addresses: Vec<IpAddr>,
    pub(super) real: Vec<IpAddr>,
}

/// The time in which the keeper takes back nothing that it has published.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Epoch(u64);

/// The names that the gate has.
#[derive(Debug, Default)]
pub(super) struct Published {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    epoch: Epoch,
    names: HashMap<AgentId, HashMap<HostName, Addresses>>,
    count: usize,
}

impl Published {
    /// `None`: the keeper has published just that. Otherwise the epoch in which it is asked to.
    pub(super) fn lacks(
        &self,
        agent: AgentId,
        name: &HostName,
        addresses: &Addresses,
    ) -> Option<Epoch> {
        let table = self.table();
        let known = table.names.get(&agent).and_then(|of| of.get(name));
        (known != Some(addresses)).then_some(table.epoch)
    }

    /// The keeper was asked in that epoch, and has published it.
    pub(super) fn learn(
        &self,
        asked: Epoch,
        agent: AgentId,
        name: &HostName,
        addresses: Addresses,
    ) {
        let mut table = self.table();
        if table.epoch != asked || addresses.virtual_addresses.is_empty() {
            return;
        }
        let of = table.names.get(&agent);
        if !of.is_some_and(|of| of.contains_key(name)) {
            if table.count >= MOST {
                table.forget();
            }
            table.count += 1;
        }
        let of = table.names.entry(agent).or_default();
        of.insert(name.clone(), addresses);
    }

    /// The keeper may have taken something back, or will.
    pub(super) fn forget(&self) {
        let mut table = self.table();
        table.epoch.0 = table.epoch.0.wrapping_add(1);
        table.forget();
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn forget(&mut self) {
        self.names = HashMap::new();
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: AgentId = AgentId(1);

    fn name(text: &str) -> HostName {
        text.parse().unwrap()
    }

    fn addresses(virtual_addresses: &[&str], real: &[&str]) -> Addresses {
        let parsed = |all: &[&str]| all.iter().map(|it| it.parse().unwrap()).collect();
        Addresses {
            virtual_addresses: parsed(virtual_addresses),
            real: parsed(real),
        }
    }

    #[test]
    fn the_keeper_is_asked_once_for_the_same_name_agent_and_addresses() {
        let published = Published::default();
        let (a, at) = (
            name("a.example"),
            addresses(&["198.18.0.1"], &["192.0.2.1"]),
        );
        let epoch = published.lacks(ONE, &a, &at).unwrap();
        assert_eq!(
            published.lacks(ONE, &a, &at),
            Some(epoch),
            "asking is not having"
        );
        published.learn(epoch, ONE, &a, at.clone());
        assert_eq!(published.lacks(ONE, &a, &at), None);
        for (agent, name, at) in [
            (AgentId(2), &a, at),
            (
                ONE,
                &name("b.example"),
                addresses(&["198.18.0.1"], &["192.0.2.1"]),
            ),
            (ONE, &a, addresses(&["198.18.0.2"], &["192.0.2.1"])),
            (ONE, &a, addresses(&["198.18.0.1"], &["192.0.2.2"])),
            (ONE, &a, addresses(&["198.18.0.1"], &[])),
        ] {
            assert!(
                published.lacks(agent, name, &at).is_some(),
                "{agent:?} {name} {at:?}"
            );
        }
    }

    #[test]
    fn what_was_asked_for_before_something_was_taken_back_is_not_learnt() {
        let published = Published::default();
        let (a, at) = (
            name("a.example"),
            addresses(&["198.18.0.1"], &["192.0.2.1"]),
        );
        let early = published.lacks(ONE, &a, &at).unwrap();
        published.learn(early, ONE, &a, at.clone());
        published.forget();
        let late = published.lacks(ONE, &a, &at).unwrap();
        published.learn(early, ONE, &a, at.clone());
        assert_eq!(published.lacks(ONE, &a, &at), Some(late));
        published.learn(late, ONE, &a, at.clone());
        assert_eq!(published.lacks(ONE, &a, &at), None);
    }

    #[test]
    fn a_real_address_is_published_each_time_and_the_table_has_an_end() {
        let published = Published::default();
        let (a, real) = (name("a.example"), addresses(&[], &["192.0.2.1"]));
        let epoch = published.lacks(ONE, &a, &real).unwrap();
        published.learn(epoch, ONE, &a, real.clone());
        assert_eq!(published.lacks(ONE, &a, &real), Some(epoch));

        let at = addresses(&["198.18.0.1"], &[]);
        for number in 0..=MOST {
            published.learn(epoch, ONE, &name(&format!("{number}.example")), at.clone());
            published.learn(epoch, ONE, &name(&format!("{number}.example")), at.clone());
        }
        assert_eq!(published.table().count, 1);
        assert_eq!(
            published.lacks(ONE, &name(&format!("{MOST}.example")), &at),
            None
        );
        assert!(published.lacks(ONE, &name("0.example"), &at).is_some());
    }
}

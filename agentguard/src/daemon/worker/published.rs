//! What the keeper has published, so that it is asked once for what a name is answered with again and again.
//!
//! Of virtual addresses alone: what stands at one stays in the gate until the keeper has another policy or the address
//! is given to another name, and then all is forgotten. A real address stands for its name for a time, and is published
//! each time. Where it cannot be told what the keeper did last for a name (it refused, did not answer in time, or was
//! asked for two things at once), nothing is known, and it is asked again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use agentguard_model::{AgentId, HostName};

/// Names of one agent, and of all, at most. Beyond it those of the agent are forgotten, or all, and the keeper is asked
/// again.
const OF_AGENT: usize = 4_096;
const OF_ALL: usize = 65_536;

/// What a name of an agent stands for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Addresses {
    pub(super) virtual_addresses: Vec<IpAddr>,
    pub(super) real: Vec<IpAddr>,
}

/// The names that the gate has.
#[derive(Debug, Default)]
pub(super) struct Published {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    names: HashMap<AgentId, HashMap<HostName, Name>>,
    count: usize,
}

#[derive(Debug)]
struct Name {
    /// What was last asked for.
    addresses: Addresses,
    /// Whether the keeper has published that, and nothing else since.
    known: bool,
    /// How many wait for the keeper.
    asking: usize,
    /// Whether they ask for different addresses: which of them the gate has in the end is not known.
    differ: bool,
}

/// Somebody who asks the keeper. Dropped, nothing is known of what it did.
#[derive(Debug)]
#[must_use]
pub(super) struct Asking<'a> {
    published: &'a Published,
    agent: AgentId,
    name: &'a HostName,
    done: bool,
}

impl Published {
    /// `None`: the keeper has published just that.
    pub(super) fn lacks<'a>(
        &'a self,
        agent: AgentId,
        name: &'a HostName,
        addresses: &Addresses,
    ) -> Option<Asking<'a>> {
        let mut table = self.table();
        match table.name(agent, name) {
            Some(it) if it.known && it.addresses == *addresses => return None,
            Some(it) => {
                it.differ |= it.asking > 0 && it.addresses != *addresses;
                it.known = false;
                it.addresses.clone_from(addresses);
                it.asking += 1;
            }
            None => table.begin(agent, name, addresses),
        }
        Some(Asking {
            published: self,
            agent,
            name,
            done: false,
        })
    }

    /// The keeper may have taken something back, or will.
    pub(super) fn forget(&self) {
        self.table().forget();
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asking<'_> {
    /// The keeper has published it.
    pub(super) fn answered(mut self) {
        self.done = true;
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut table = self.published.table();
        let Some(name) = table.name(self.agent, self.name) else {
            return;
        };
        name.asking = name.asking.saturating_sub(1);
        let lasts = !name.addresses.virtual_addresses.is_empty();
        name.known |= self.done && !name.differ && lasts;
        if name.asking == 0 && !name.known {
            table.remove(self.agent, self.name);
        }
    }
}

impl Table {
    fn name(&mut self, agent: AgentId, name: &HostName) -> Option<&mut Name> {
        self.names.get_mut(&agent)?.get_mut(name)
    }

    fn begin(&mut self, agent: AgentId, name: &HostName, addresses: &Addresses) {
        if self.count >= OF_ALL {
            self.forget();
        }
        let of = self.names.entry(agent).or_default();
        if of.len() >= OF_AGENT {
            self.count = self.count.saturating_sub(of.len());
            forget(of);
            self.count = self.count.saturating_add(of.len());
        }
        let new = Name {
            addresses: addresses.clone(),
            known: false,
            asking: 1,
            differ: false,
        };
        of.insert(name.clone(), new);
        self.count += 1;
    }

    fn remove(&mut self, agent: AgentId, name: &HostName) {
        if let Entry::Occupied(mut of) = self.names.entry(agent)
            && of.get_mut().remove(name).is_some()
        {
            self.count = self.count.saturating_sub(1);
            if of.get().is_empty() {
                of.remove();
            }
        }
    }

    fn forget(&mut self) {
        self.names.values_mut().for_each(forget);
        self.names.retain(|_, of| !of.is_empty());
        self.names.shrink_to_fit();
        self.count = self.names.values().map(HashMap::len).sum();
    }
}

/// Forgets what the keeper has done. Who waits for it stays, and is not believed: what it is asked for may come behind
/// what others ask for from now on.
fn forget(names: &mut HashMap<HostName, Name>) {
    names.retain(|_, name| name.asking > 0);
    for name in names.values_mut() {
        name.known = false;
        name.differ = true;
    }
    names.shrink_to_fit();
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

    fn at(real: &str) -> Addresses {
        addresses(&["198.18.0.1"], &[real])
    }

    fn knows(published: &Published, agent: AgentId, name: &HostName, at: &Addresses) -> bool {
        published.lacks(agent, name, at).is_none()
    }

    #[test]
    fn the_keeper_is_asked_once_for_the_same_name_agent_and_addresses() {
        let published = Published::default();
        let (a, b, one) = (name("a.example"), name("b.example"), at("192.0.2.1"));
        drop(published.lacks(ONE, &a, &one));
        assert!(!knows(&published, ONE, &a, &one), "asking is not having");
        published.lacks(ONE, &a, &one).unwrap().answered();
        assert!(knows(&published, ONE, &a, &one));
        assert!(!knows(&published, AgentId(2), &a, &one));
        assert!(!knows(&published, ONE, &b, &one));
        assert!(knows(&published, ONE, &a, &one));
        for other in [
            addresses(&["198.18.0.2"], &["192.0.2.1"]),
            at("192.0.2.2"),
            addresses(&["198.18.0.1"], &[]),
        ] {
            if let Some(asking) = published.lacks(ONE, &a, &one) {
                asking.answered();
            }
            assert!(!knows(&published, ONE, &a, &other), "{other:?}");
        }
    }

    #[test]
    fn what_may_have_been_published_meanwhile_is_not_taken_for_what_was_before() {
        let published = Published::default();
        let (a, one, other) = (name("a.example"), at("192.0.2.1"), at("192.0.2.2"));
        published.lacks(ONE, &a, &one).unwrap().answered();
        // The keeper did not answer in time: it may have published the other one.
        drop(published.lacks(ONE, &a, &other));
        assert!(!knows(&published, ONE, &a, &one));
    }

    #[test]
    fn of_two_that_ask_for_different_addresses_at_once_nobody_knows_who_was_last() {
        let published = Published::default();
        let (a, one, other) = (name("a.example"), at("192.0.2.1"), at("192.0.2.2"));
        let first = published.lacks(ONE, &a, &one).unwrap();
        let second = published.lacks(ONE, &a, &other).unwrap();
        second.answered();
        let third = published.lacks(ONE, &a, &other).unwrap();
        first.answered();
        third.answered();
        for each in [&one, &other] {
            assert!(!knows(&published, ONE, &a, each), "{each:?}");
        }
        // Who asks for the same waits for the same.
        let first = published.lacks(ONE, &a, &one).unwrap();
        let second = published.lacks(ONE, &a, &one).unwrap();
        first.answered();
        assert!(knows(&published, ONE, &a, &one));
        drop(second);
        assert!(knows(&published, ONE, &a, &one));
    }

    #[test]
    fn what_was_asked_for_before_something_was_taken_back_is_not_learnt() {
        let published = Published::default();
        let (a, one) = (name("a.example"), at("192.0.2.1"));
        let b = name("b.example");
        published.lacks(ONE, &a, &one).unwrap().answered();
        published.lacks(ONE, &b, &one).unwrap().answered();
        let early = published.lacks(ONE, &a, &at("192.0.2.2")).unwrap();
        published.forget();
        assert!(!knows(&published, ONE, &b, &one));
        // What was asked for early can be done late.
        let late = published.lacks(ONE, &a, &one).unwrap();
        late.answered();
        assert!(!knows(&published, ONE, &a, &one));
        early.answered();
        assert!(!knows(&published, ONE, &a, &one));
        assert_eq!(published.table().count, 0);
        published.lacks(ONE, &a, &one).unwrap().answered();
        assert!(knows(&published, ONE, &a, &one));
    }

    #[test]
    fn a_real_address_is_published_each_time_and_the_tables_have_an_end() {
        let published = Published::default();
        let (a, real) = (name("a.example"), addresses(&[], &["192.0.2.1"]));
        published.lacks(ONE, &a, &real).unwrap().answered();
        assert!(!knows(&published, ONE, &a, &real));

        let (two, one) = (AgentId(2), at("192.0.2.1"));
        published.lacks(two, &a, &one).unwrap().answered();
        for number in 0..=OF_AGENT {
            let name = name(&format!("{number}.example"));
            published.lacks(ONE, &name, &one).unwrap().answered();
        }
        assert_eq!(published.table().count, 2);
        assert!(knows(&published, two, &a, &one), "another's names stay");
        assert!(knows(
            &published,
            ONE,
            &name(&format!("{OF_AGENT}.example")),
            &one
        ));
        assert!(!knows(&published, ONE, &name("0.example"), &one));

        for number in 0..OF_ALL {
            let agent = AgentId(10 + u32::try_from(number % 100).unwrap());
            let name = name(&format!("{number}.example"));
            published.lacks(agent, &name, &one).unwrap().answered();
        }
        let table = published.table();
        let held: usize = table.names.values().map(HashMap::len).sum();
        assert!(table.count == held && held < OF_ALL, "{held}");
    }
}

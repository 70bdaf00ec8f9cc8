//! Which name a real address was answered for, where names are answered with their own addresses.
//!
//! A virtual address says its name by itself; a real one means the name it was last answered for to
//! that agent, until its time to live is over. Two names on one address cannot be told apart this
//! way: the later answer wins, which is why virtual addresses are the default.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agentguard_model::{AgentId, HostName};
use agentguard_names::Names;

/// Addresses held. Beyond it, first those whose time is over go, then all: their next connection is
/// decided as one to a bare address.
const HELD: usize = 65_536;

/// The names behind addresses of both kinds. Cheap to clone.
#[derive(Clone)]
pub(super) struct NamesBehind {
    virtual_names: Names,
    real_names: Arc<RealNames>,
}

impl NamesBehind {
    pub(super) const fn new(virtual_names: Names, real_names: Arc<RealNames>) -> Self {
        Self {
            virtual_names,
            real_names,
        }
    }

    /// The name that an address stands for to an agent, or was answered for.
    pub(super) fn of(&self, agent: AgentId, address: IpAddr) -> Option<HostName> {
        let name = self.virtual_names.name_behind(address);
        name.or_else(|| self.real_names.name_behind(agent, address))
    }
}

/// Looked at once per connection to a real address; a plain lock.
#[derive(Default)]
pub(super) struct RealNames {
    held: Mutex<HashMap<(AgentId, IpAddr), (HostName, Instant)>>,
}

impl RealNames {
    /// These addresses were answered for this name.
    pub(super) fn answered(
        &self,
        agent: AgentId,
        name: &HostName,
        addresses: &[IpAddr],
        ttl: Duration,
    ) {
        let until = Instant::now() + ttl;
        let mut held = self.held();
        if held.len().saturating_add(addresses.len()) > HELD {
            let now = Instant::now();
            held.retain(|_, (_, until)| *until > now);
            if held.len().saturating_add(addresses.len()) > HELD {
                held.clear();
            }
        }
        for address in addresses {
            held.insert((agent, address.to_canonical()), (name.clone(), until));
        }
    }

    /// The name that an address was answered for.
    pub(super) fn name_behind(&self, agent: AgentId, address: IpAddr) -> Option<HostName> {
        let held = self.held();
        let (name, until) = held.get(&(agent, address.to_canonical()))?;
        (*until > Instant::now()).then(|| name.clone())
    }

    fn held(&self) -> MutexGuard<'_, HashMap<(AgentId, IpAddr), (HostName, Instant)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{HELD, RealNames};
    use agentguard_model::{AgentId, HostName};
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    fn name(text: &str) -> HostName {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_means_the_last_answer_to_that_agent_while_it_lives() {
        let names = RealNames::default();
        let long = Duration::from_secs(60);
        names.answered(AgentId(1), &name("a.example"), &[ADDRESS], long);
        names.answered(AgentId(1), &name("b.example"), &[ADDRESS], long);
        assert_eq!(
            names.name_behind(AgentId(1), ADDRESS),
            Some(name("b.example"))
        );
        assert_eq!(names.name_behind(AgentId(2), ADDRESS), None);
        names.answered(AgentId(1), &name("c.example"), &[ADDRESS], Duration::ZERO);
        assert_eq!(names.name_behind(AgentId(1), ADDRESS), None);
    }

    #[test]
    fn what_is_over_makes_place() {
        let names = RealNames::default();
        for number in 0..u32::try_from(HELD).unwrap() {
            let address = IpAddr::V4(Ipv4Addr::from(number));
            names.answered(AgentId(1), &name("a.example"), &[address], Duration::ZERO);
        }
        names.answered(
            AgentId(1),
            &name("b.example"),
            &[ADDRESS],
            Duration::from_secs(60),
        );
        assert_eq!(names.held().len(), 1);
    }
}

//! What the proxy asks of the rest.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Recorded;
use agentguard_decision::{Client, Decider};
use agentguard_keeper::gate::view::Listener;
use agentguard_model::{AgentId, HostName, Reason, Transport};
use agentguard_names::{Names, guard};
use agentguard_proxy::{Leaf, Origin, Port, Subject};

use super::gate::Gate;
use super::link::Link;
use super::real_names::NamesBehind;

/// The gate's origins and the resolver's names.
pub(super) struct ProxyPort {
    decider: Decider<Recorded>,
    gate: Arc<Gate>,
    names: Names,
    behind: NamesBehind,
    link: Link,
}

impl ProxyPort {
    pub(super) fn new(
        decider: Decider<Recorded>,
        gate: Arc<Gate>,
        names: Names,
        behind: NamesBehind,
        link: Link,
    ) -> Self {
        Self {
            decider,
            gate,
            names,
            behind,
            link,
        }
    }
}

impl Port for ProxyPort {
    fn origin(&self, netns: u64, peer: SocketAddr) -> Option<Origin> {
        let origin = self
            .gate
            .origin(Listener::Proxy, netns, peer, Transport::Tcp)?;
        let (agent, run) = Gate::owner(&origin);
        let destination = IpAddr::from(origin.destination);
        Some(Origin {
            client: Client {
                agent,
                run,
                process: self.gate.process(&origin),
            },
            destination: SocketAddr::new(destination, origin.port),
            name: self.name_behind(agent, destination),
        })
    }

    fn name_behind(&self, agent: AgentId, ip: IpAddr) -> Option<HostName> {
        self.behind.of(agent, ip)
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || ip.is_unspecified()
    }

    fn closed(&self, agent: AgentId, name: &HostName, ip: IpAddr) -> Option<Reason> {
        let ranges = self.decider.name(agent, name).ranges;
        guard::closed(name, ip, &ranges, self.decider.observes(agent))
    }

    async fn resolve(&self, agent: AgentId, name: &HostName) -> Result<Vec<IpAddr>, Reason> {
        let ruling = self.decider.name(agent, name);
        let observing = self.decider.observes(agent);
        self.names.resolve(name, &ruling.ranges, observing).await
    }

    async fn sign(
        &self,
        agent: AgentId,
        subject: &Subject,
        public_key: &[u8],
    ) -> Result<Leaf, Reason> {
        self.link.sign(agent, subject, public_key).await
    }
}

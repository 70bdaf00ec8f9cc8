//! What the resolver asks of the rest.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Recorded;
use agentguard_decision::{Decider, Recorder as _};
use agentguard_keeper::gate::view::Listener;
use agentguard_model::{AgentId, Bytes, DecisionId, HostName, Outcome, Reason, Transport, Verdict};
use agentguard_names::{Addresses, Answer, Answered, Client, Port, Published, Ruling};
use agentguard_policy::NameRuling;
use agentguard_proxy::Shared;

use super::gate::Gate;
use super::link::Link;
use super::published;
use super::real_names::RealNames;

/// The gate's clients, the policy, the record, the keeper, and who is reached through a proxy.
pub(super) struct NamesPort {
    decider: Decider<Recorded>,
    gate: Arc<Gate>,
    link: Link,
    real_names: Arc<RealNames>,
    upstreams: Arc<Shared<Recorded>>,
}

impl NamesPort {
    pub(super) fn new(
        decider: Decider<Recorded>,
        gate: Arc<Gate>,
        link: Link,
        real_names: Arc<RealNames>,
        upstreams: Arc<Shared<Recorded>>,
    ) -> Self {
        Self {
            decider,
            gate,
            link,
            real_names,
            upstreams,
        }
    }
}

impl Port for NamesPort {
    type Token = NameRuling;

    fn client(&self, netns: u64, peer: SocketAddr, transport: Transport) -> Option<Client> {
        let origin = self
            .gate
            .origin(Listener::Resolver, netns, peer, transport)?;
        let (agent, run) = Gate::owner(&origin);
        Some(Client {
            agent,
            run,
            process: self.gate.process(&origin),
            socket: origin.socket,
        })
    }

    fn ruling(&self, agent: AgentId, name: &HostName) -> Ruling<NameRuling> {
        let ruling = self.decider.name(agent, name);
        Ruling {
            allowed: ruling.allowed,
            reason: ruling.reason.clone(),
            addresses: match ruling.addresses {
                agentguard_policy::Addresses::Virtual => Addresses::Virtual,
                agentguard_policy::Addresses::Real => Addresses::Real,
            },
            ranges: ruling.ranges.clone(),
            observing: self.decider.observes(agent),
            elsewhere: self.upstreams.is_behind_proxy(name),
            token: ruling,
        }
    }

    async fn record(&self, answered: Answered<NameRuling>) -> Result<DecisionId, Reason> {
        let ruling = answered.ruling.as_ref().map(|ruling| &ruling.token);
        let denied_on_paper = ruling.is_some_and(|ruling| ruling.verdict == Verdict::Deny);
        let later = match (&answered.answer, &answered.unenforced) {
            (Answer::Refused, _) => None,
            (Answer::Denied(reason), _) => Some((Verdict::Deny, true, reason.clone())),
            (_, Some(reason)) => Some((Verdict::Deny, false, reason.clone())),
            // What is said of the name on paper is said whether there is one or not.
            (Answer::Unknown(_) | Answer::Failed(_), None) if denied_on_paper => None,
            (Answer::Unknown(reason) | Answer::Failed(reason), None) => {
                Some((Verdict::Allow, true, reason.clone()))
            }
            (Answer::Addresses(_) | Answer::Empty, None) => None,
        };
        let client = answered
            .client
            .as_ref()
            .map(|client| agentguard_decision::Client {
                agent: client.agent,
                run: client.run,
                process: client.process.clone(),
            });
        self.decider
            .name_answered(
                client.as_ref(),
                answered.name,
                &answered.types,
                answered.transport,
                ruling,
                later,
                answered.count,
                answered.started,
            )
            .await
    }

    fn together(&self, begins: impl FnOnce()) {
        self.decider.recorder().together(begins);
    }

    async fn publish(
        &self,
        agent: AgentId,
        name: &HostName,
        addresses: &Published,
    ) -> Result<(), Reason> {
        let virtual_addresses: Vec<IpAddr> = [
            addresses.virtual4.map(IpAddr::V4),
            addresses.virtual6.map(IpAddr::V6),
        ]
        .into_iter()
        .flatten()
        .collect();
        if virtual_addresses.is_empty() {
            self.real_names
                .answered(agent, name, &addresses.real, addresses.ttl);
        }
        let published = published::Addresses {
            virtual_addresses,
            real: addresses.real.clone(),
        };
        self.link
            .publish(agent, name, published, addresses.ttl)
            .await
    }

    fn unanswered(&self, id: DecisionId, reason: &Reason) {
        self.decider.recorder().outcome(
            id,
            Outcome {
                bytes: Bytes::default(),
                messages: None,
                duration_ms: 0,
                status: None,
                llm: None,
                tool: None,
                budget: Vec::new(),
                error: Some(reason.message.clone()),
            },
        );
    }
}

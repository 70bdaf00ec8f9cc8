//! What has to be known before there is a request: where TLS is to be terminated, and whether
//! addresses matter.

use std::net::IpAddr;

use agentguard_model::HostName;

use crate::agent::AgentPolicy;
use crate::decide::{Facts, is_special_behind};
use crate::policy::Policy;
use crate::rule::Seen;
use crate::special;

impl Policy {
    /// Whether TLS on a flow is to be terminated: an allowance in force that matches it, or would
    /// with the right request, says `handling: inspect`, and no denial in force matches whatever
    /// the request. Denials leave the flow of an observed agent as it is.
    ///
    /// [`Facts::request`] is ignored: this is asked before there is one. So is the address behind a name, which of them is
    /// dialled is not known before there is a request, either; but where the kernel lets it go there directly, or nothing may.
    #[must_use]
    pub fn inspects(&self, agent: &AgentPolicy, facts: &Facts<'_>) -> bool {
        let facts = Facts {
            request: Seen::NotYet,
            ..*facts
        };
        if is_special_behind(&facts) && !self.decide(agent, &facts).outcome.is_proxied() {
            return false;
        }
        let ip = facts.ip.filter(|_| facts.host.is_none());
        let ip = ip.map(special::canonical);
        let known = ip.filter(|ip| !special::is_virtual(*ip));
        if facts.host.is_none() && ip != known {
            // It stands for a name that was not answered.
            return false;
        }
        let facts = Facts { ip, ..facts };
        let found = self.find(agent, &facts, known);
        found.inspects()
            && (agent.observes() || found.denials.is_empty() || found.may_be_overruled())
    }

    /// Whether a certificate for a name can be needed on an agent's behalf: an allowance in force
    /// that says `handling: inspect` matches it, on some port.
    #[must_use]
    pub fn inspects_name(&self, agent: &AgentPolicy, name: &HostName) -> bool {
        self.inspects_destination(agent, Some(name), None)
    }

    /// As [`Self::inspects_name`], for an address that is dialled bare. A closed one (metadata,
    /// loopback) counts only where the rule names it.
    #[must_use]
    pub fn inspects_address(&self, agent: &AgentPolicy, ip: IpAddr) -> bool {
        let ip = special::canonical(ip);
        !special::is_virtual(ip) && self.inspects_destination(agent, None, Some(ip))
    }

    /// Whether an allowance in force for an agent says `handling: inspect`: only then does it have
    /// to trust the guard's certificates.
    #[must_use]
    pub fn inspects_anything(&self, agent: &AgentPolicy) -> bool {
        agent.indexes.iter().any(|index| index.inspects())
    }

    /// Whether the address behind a name matters to what the rules for an agent say: one denies an address, or opens one
    /// that is not public.
    #[must_use]
    pub fn looks_at_addresses(&self, agent: &AgentPolicy) -> bool {
        let mut indexes = agent.indexes.iter();
        indexes.any(|index| index.looks_at_addresses())
    }

    fn inspects_destination(
        &self,
        agent: &AgentPolicy,
        host: Option<&HostName>,
        ip: Option<IpAddr>,
    ) -> bool {
        let mut inspects = false;
        self.each(agent, host, ip, None, |_, rule| {
            inspects |= rule.inspects();
        });
        inspects
    }
}

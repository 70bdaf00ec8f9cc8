//! From which size on a request is another matter.

use crate::agent::AgentPolicy;
use crate::decide::Facts;
use crate::index::Asked;
use crate::policy::Policy;
use crate::rule::{Seen, bit};
use crate::special;
use crate::steps::Steps;

impl Policy {
    /// How much content a request may have until it has to be decided again: the least `body_over`,
    /// not below what it has already, of the denials that match it but for that. In force or on
    /// paper.
    #[must_use]
    pub fn body_limit(&self, agent: &AgentPolicy, facts: &Facts<'_>) -> Option<u64> {
        let Seen::Request(request) = &facts.request else {
            return None;
        };
        let ip = facts.ip.map(special::canonical);
        let ip = ip.filter(|ip| !special::is_virtual(*ip));
        let port = Some(facts.port);
        Asked::among(facts, |asked| {
            let mut limit: Option<u64> = None;
            // Where they do not suffice it is decided again, and denied for that.
            let steps = Steps::new();
            self.each_among(agent, facts.host, ip, port, asked, |_, rule| {
                if let Some(over) = rule.request.body_over
                    && over >= request.body
                    && rule.transports & bit(facts.transport) != 0
                    && rule.ports.contains(facts.port)
                    && rule
                        .request
                        .but_for_size(request, rule.allows(), &steps)
                        .unwrap_or(true)
                {
                    limit = Some(limit.map_or(over, |limit| limit.min(over)));
                }
            });
            (limit, steps.left())
        })
    }
}

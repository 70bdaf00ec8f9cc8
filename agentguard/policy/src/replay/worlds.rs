//! What a policy says in all the ways in which what is not recorded may have been.
//!
//! There are too many of these to be tried. But more denials never make it let more pass, and more
//! allowances never less: it is enough to try that all conditions on what is unknown turn out for the
//! request, and that all turn out against it.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agentguard_model::{AgentName, Handling, ReasonCode, Verdict};
use ipnet::IpNet;

use super::recorded::{Asked, Attempted};
use super::{By, Closed, State};
use crate::agent::AgentPolicy;
use crate::decide::{Ruling, RulingOutcome};
use crate::flow::Flow;
use crate::index::Position;
use crate::policy::Policy;
use crate::request::{Assumed, Request, Unknown};
use crate::rule::{Fit, Rule, Seen, bit};
use crate::special;

/// How many of the things that are not recorded a reason names.
const NAMED: usize = 3;

/// A candidate, for one agent.
pub(super) struct Worlds<'a> {
    pub(super) policy: &'a Policy,
    pub(super) agent: &'a AgentPolicy,
    pub(super) by_address: &'a [Position],
    pub(super) closed: Closed<'a>,
}

/// What it says in each of the worlds, the likeliest first.
pub(super) struct Outcomes {
    pub(super) said: Vec<Said>,
    /// What they differ by, if they differ.
    pub(super) why: String,
}

impl Outcomes {
    /// Whether the first ones differ, which are of one address.
    fn differ(&self, first: usize) -> bool {
        let mut states = self.said.iter().take(first).map(|said| said.state);
        let one = states.next();
        states.any(|state| one.is_some_and(|one| !one.is(state)))
    }
}

/// What it says in one of them.
pub(super) struct Said {
    pub(super) state: State,
    pub(super) by: By,
}

/// The denials by address of each agent, which may concern what is behind a name.
pub(super) fn denials_by_address(policy: &Policy) -> HashMap<AgentName, Vec<Position>> {
    let rules: Vec<(Position, &Rule)> = (0..)
        .zip(policy.compiled())
        .filter(|(_, rule)| !rule.allows() && !rule.cidrs.is_empty())
        .collect();
    if rules.is_empty() {
        return HashMap::new();
    }
    let of = |agent: &AgentPolicy| {
        let own = rules
            .iter()
            .filter(|(_, rule)| rule.agents.selects(&agent.name, &agent.labels));
        own.map(|(position, _)| *position).collect()
    };
    let agents = policy.agents().iter();
    agents
        .map(|agent| (agent.name.clone(), of(agent)))
        .collect()
}

impl Worlds<'_> {
    pub(super) fn of(&self, attempted: &Attempted) -> Outcomes {
        match attempted {
            Attempted::Name(name) => {
                let ruling = self.policy.decide_name(self.agent, name);
                Outcomes {
                    said: vec![Said {
                        state: State {
                            verdict: ruling.verdict,
                            enforced: ruling.enforced,
                        },
                        by: By::new(&ruling.reason, &ruling.matched),
                    }],
                    why: String::new(),
                }
            }
            Attempted::Datagram(flow) => self.anywhere(flow, &[Seen::NotYet]),
            Attempted::Unopened(flow)
                if !self.policy.inspects(self.agent, &flow.facts(Seen::NotYet)) =>
            {
                self.anywhere(flow, &[Seen::Never])
            }
            Attempted::Unopened(flow) | Attempted::Unseen(flow) => self.whatever_is_sent(flow),
            Attempted::Request(flow, asked)
                if asked.tls && !self.policy.inspects(self.agent, &flow.facts(Seen::NotYet)) =>
            {
                // A connection, and the address that is recorded is one for which the request was denied.
                let flow = Flow {
                    ip: flow.ip.filter(|_| flow.host.is_none()),
                    ..flow.clone()
                };
                self.anywhere(&flow, &[Seen::Never])
            }
            Attempted::Request(flow, asked) => self.request(flow, asked),
        }
    }

    /// A connection of which it is not known what was sent.
    fn whatever_is_sent(&self, flow: &Flow) -> Outcomes {
        let early = self.policy.decide(self.agent, &flow.facts(Seen::NotYet));
        let decided = !matches!(
            early.outcome,
            RulingOutcome::Undecided | RulingOutcome::Allow(Handling::Inspect)
        );
        if decided {
            return self.anywhere(flow, &[Seen::NotYet]);
        }
        let unknown = Unknown {
            everything: true,
            ..Unknown::default()
        };
        let [favour, against] = [true, false].map(|in_favour| {
            Seen::Request(Request {
                assumed: Some(Assumed {
                    unknown: &unknown,
                    in_favour,
                }),
                ..Request::new("", "")
            })
        });
        let worlds = [Seen::Never, favour, against];
        let mut outcomes = self.anywhere(flow, &worlds);
        let rule = early.matched.first().map_or("", |matched| &matched.rule);
        if outcomes.differ(worlds.len()) {
            outcomes.why =
                format!("what was sent was not recorded, and rule {rule} would look at it");
        }
        outcomes
    }

    fn request(&self, flow: &Flow, asked: &Asked) -> Outcomes {
        let seen = |in_favour, body| {
            Seen::Request(Request {
                query: asked.query.as_ref(),
                fields: asked.fields.as_ref(),
                body,
                assumed: Some(Assumed {
                    unknown: &asked.unknown,
                    in_favour,
                }),
                ..Request::new(&asked.method, &asked.path)
            })
        };
        let mut worlds = vec![seen(true, asked.body), seen(false, asked.body)];
        if !asked.whole {
            // It may have come to have more content than it had then.
            worlds.push(seen(false, u64::MAX));
        }
        let mut outcomes = self.anywhere(flow, &worlds);
        if outcomes.differ(worlds.len()) {
            let mut missing = self.missing(flow, asked);
            if let [_, then, more, ..] = outcomes.said.as_slice()
                && !asked.whole
                && !then.state.is(more.state)
            {
                missing.insert("how much content it came to have".to_owned());
            }
            let named: Vec<String> = missing.into_iter().take(NAMED).collect();
            outcomes.why = format!("not recorded: {}", named.join(", "));
        }
        outcomes
    }

    /// What the rules for a flow look at of a request, and the record does not have.
    fn missing(&self, flow: &Flow, asked: &Asked) -> BTreeSet<String> {
        let mut missing = BTreeSet::new();
        let ip = known(flow);
        let host = flow.host.as_ref();
        self.policy
            .each(self.agent, host, ip, Some(flow.port), |_, rule| {
                if rule.transports & bit(flow.transport) == 0 || !rule.ports.contains(flow.port) {
                    return;
                }
                let looks = &rule.request;
                let query = looks.query.iter().map(|(name, _)| name);
                for name in
                    query.filter(|name| asked.query.is_some() && asked.unknown.parameter(name))
                {
                    missing.insert(format!("parameter `{name}` of the query"));
                }
                let fields = looks.fields.iter().map(|(name, _)| name);
                for name in fields.filter(|name| asked.unknown.field(name)) {
                    missing.insert(format!("header `{name}`"));
                }
                if looks.body_over.is_some() && asked.unknown.body() {
                    missing.insert("how much content it had".to_owned());
                }
            });
        missing
    }

    /// What it says where these are seen, whatever the address behind the name.
    fn anywhere(&self, flow: &Flow, seen: &[Seen<'_>]) -> Outcomes {
        let mut outcomes = Outcomes {
            said: seen
                .iter()
                .map(|seen| Said::of(&self.policy.decide(self.agent, &flow.facts(*seen))))
                .collect(),
            why: String::new(),
        };
        // A connection goes to the address that is recorded beside its name; a request is decided for all
        // that the name has.
        let request = seen.iter().any(|seen| matches!(seen, Seen::Request(_)));
        if flow.host.is_none() || flow.ip.is_some() && !request {
            return outcomes;
        }
        for (n, seen) in seen.iter().enumerate() {
            let Some(here) = outcomes.said.get(n).map(|said| said.state) else {
                continue;
            };
            if let Some((said, rule)) = self.elsewhere(flow, *seen, here) {
                outcomes.why = format!(
                    "the address behind the name was not recorded, and rule {rule} denies by it"
                );
                outcomes.said.push(said);
            }
        }
        outcomes
    }

    /// What it says of an address for which it says something else, and the rule that is for that.
    fn elsewhere(&self, flow: &Flow, seen: Seen<'_>, here: State) -> Option<(Said, String)> {
        if !here.goes_on() {
            // A denial more changes nothing.
            return None;
        }
        let name = flow.host.as_ref()?;
        if self.by_address.is_empty() {
            return None;
        }
        let ranges = self.policy.decide_name(self.agent, name).ranges;
        let rules = self.by_address.iter();
        let rules = rules.filter_map(|position| self.policy.at(*position));
        for rule in rules {
            let noted = !rule.info.in_force() || self.agent.observes();
            if here.verdict == Verdict::Deny && noted
                || rule.fit(flow.port, flow.transport, seen) == Fit::No
            {
                continue;
            }
            for ip in rule.cidrs.iter().flat_map(within) {
                // No name leads to a closed address; the resolver sees to it.
                if (self.closed)(ip, &ranges, self.agent.observes()) {
                    continue;
                }
                let there = Flow {
                    ip: Some(ip),
                    ..flow.clone()
                };
                let said = Said::of(&self.policy.decide(self.agent, &there.facts(seen)));
                let hard = matches!(
                    said.by.reason,
                    ReasonCode::MetadataService | ReasonCode::LoopbackNotOwn
                );
                if !hard && !said.state.is(here) {
                    return Some((said, rule.info.id.clone()));
                }
            }
        }
        None
    }
}

impl Said {
    fn of(ruling: &Ruling) -> Self {
        Self {
            state: State {
                verdict: ruling.verdict,
                enforced: ruling.enforced,
            },
            by: By::new(&ruling.reason, &ruling.matched),
        }
    }
}

/// Some addresses of a range, spread so that one lies in no special range, unless all do: its first and
/// its last, and those in the middle of it, of its first half, of the first half of that, ….
fn within(net: &IpNet) -> impl Iterator<Item = IpAddr> + use<> {
    let (network, prefix) = (net.network(), u32::from(net.prefix_len()));
    let halves = (prefix + 1..=u32::from(net.max_prefix_len())).take(16);
    let halves = halves.map(move |end| match network {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() | 1 << (32 - end)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() | 1 << (128 - end)).into(),
    });
    [network, net.broadcast()].into_iter().chain(halves)
}

/// The address, unless it is one that the guard made up.
fn known(flow: &Flow) -> Option<IpAddr> {
    let ip = flow.ip.map(special::canonical);
    ip.filter(|ip| !special::is_virtual(*ip))
}

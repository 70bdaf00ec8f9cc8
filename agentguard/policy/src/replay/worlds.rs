//! What a policy says in all the ways in which what is not recorded may have been.
//!
//! There are too many of these to be tried. But more denials never make it let more pass, and more
//! allowances never less: it is enough to try that all conditions on what is unknown turn out for the
//! request, and that all turn out against it.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use agentguard_model::{AgentName, Handling, ReasonCode, Verdict};
use ipnet::IpNet;

use super::recorded::{Asked, Attempted};
use super::{By, Closed, State};
use crate::agent::AgentPolicy;
use crate::changes::Changes;
use crate::conditions::When;
use crate::decide::{Facts, Ruling, RulingOutcome};
use crate::document::NotUnderstood;
use crate::flow::Flow;
use crate::index::Position;
use crate::policy::Policy;
use crate::request::{Assumed, Request, Unknown};
use crate::rule::{Fit, Rule, Seen, bit};
use crate::sentence;
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
        let mut said = self.said.iter().take(first);
        let one = said.next();
        said.any(|said| one.is_some_and(|one| !one.is(said)))
    }
}

/// A way in which what is not recorded may have been.
#[derive(Clone, Copy)]
struct World<'a> {
    seen: Seen<'a>,
    /// As [`crate::Circumstances::in_favour`].
    in_favour: Option<bool>,
}

impl<'a> World<'a> {
    fn facts(&self, flow: &'a Flow) -> Facts<'a> {
        flow.facts_with(self.seen, self.in_favour)
    }
}

/// What it says in one of them.
pub(super) struct Said {
    pub(super) state: State,
    pub(super) by: By,
    /// As [`Ruling::changes`].
    pub(super) made: Vec<Arc<Changes>>,
    /// As [`Ruling::on_paper`].
    pub(super) on_paper: Vec<Arc<Changes>>,
    /// What is changed, as the sentence tells it.
    pub(super) told: Option<String>,
}

/// What was seen of a connection that showed no request.
pub(super) const fn unread(tls: bool) -> Seen<'static> {
    if tls { Seen::Tls } else { Seen::Never }
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
                        made: Vec::new(),
                        on_paper: Vec::new(),
                        told: None,
                    }],
                    why: String::new(),
                }
            }
            Attempted::Datagram(flow) => self.anywhere(flow, &self.both(flow, Seen::NotYet)),
            Attempted::Unopened(flow, tls) if !self.inspects(flow) => {
                self.anywhere(flow, &self.both(flow, unread(*tls)))
            }
            Attempted::Unopened(flow, _) | Attempted::Unseen(flow) => {
                self.or_unread(flow, self.whatever_is_sent(flow))
            }
            Attempted::Request(flow, asked) => {
                let early = self.both(flow, Seen::NotYet);
                let direct = |world: &World<'_>| {
                    let ruling = self.policy.decide(self.agent, &world.facts(flow));
                    ruling.outcome == RulingOutcome::Allow(Handling::Direct)
                };
                // Nobody sees what the kernel lets go alone.
                if early.iter().all(direct) {
                    return self.anywhere(flow, &early);
                }
                let outcomes = if asked.tls {
                    self.request_in_tls(flow, asked)
                } else {
                    self.request(flow, asked)
                };
                if asked.unknown.llm || asked.unknown.tool {
                    self.or_unread(flow, outcomes)
                } else {
                    outcomes
                }
            }
        }
    }

    /// What is sent may be a call of a language model that cannot be read, which the proxy denies whatever the
    /// rules say.
    fn or_unread(&self, flow: &Flow, mut outcomes: Outcomes) -> Outcomes {
        let host = flow.host.as_ref();
        let provider = host.and_then(|host| self.policy.provider(host));
        let mut servers = self.policy.tool_servers().iter();
        let server = host.is_some_and(|host| {
            servers.any(|server| server.hosts.iter().any(|it| it.matches(host)))
        });
        let early = self.policy.decide(self.agent, &flow.facts(Seen::NotYet));
        let looks = early.outcome != RulingOutcome::Allow(Handling::Direct);
        let denies = self.agent.not_understood == NotUnderstood::Deny;
        let mut said = outcomes.said.iter();
        if provider.is_none() && !server
            || !looks
            || !denies
            || !said.any(|said| said.state.goes_on())
        {
            return outcomes;
        }
        outcomes.said.push(Said {
            state: State {
                verdict: Verdict::Deny,
                enforced: !self.agent.observes(),
            },
            by: By {
                rule: None,
                reason: ReasonCode::NotUnderstood,
            },
            made: Vec::new(),
            on_paper: Vec::new(),
            told: None,
        });
        if outcomes.why.is_empty() {
            let what = "whether it is a call of a language model, or a message to a server of tools, that can be read";
            outcomes.why = listed(BTreeSet::from([what.to_owned()]));
        }
        outcomes
    }

    /// A request that came inside TLS, which is not opened by every policy, nor whatever a switch says.
    fn request_in_tls(&self, flow: &Flow, asked: &Asked) -> Outcomes {
        // A connection, and the address that is recorded is one for which the request was denied.
        let connection = Flow {
            ip: flow.ip.filter(|_| flow.host.is_none()),
            ..flow.clone()
        };
        let unopened = || self.anywhere(&connection, &self.both(&connection, Seen::Tls));
        let inspects = [true, false].map(|in_favour| self.inspects_where(flow, in_favour));
        match inspects {
            [true, true] => self.request(flow, asked),
            [false, false] => unopened(),
            _ => {
                let mut outcomes = self.request(flow, asked);
                outcomes.said.extend(unopened().said);
                if outcomes.why.is_empty() {
                    outcomes.why = listed(self.switches_and_sessions(flow));
                }
                outcomes
            }
        }
    }

    /// What of something attempted the record does not have, and a rule for it looks at.
    pub(super) fn unknown(&self, attempted: &Attempted) -> Option<String> {
        let mut missing = match attempted {
            Attempted::Name(_) => return None,
            Attempted::Datagram(flow) => self.missing(flow, None, false),
            Attempted::Unopened(flow, _) => self.missing(flow, None, self.inspects(flow)),
            Attempted::Unseen(flow) => self.missing(flow, None, true),
            Attempted::Request(flow, asked) => {
                let mut missing = self.missing(flow, Some(asked), false);
                self.each(flow, |rule| {
                    if rule.request.body_over.is_some() && !asked.whole {
                        missing.insert("how much content it came to have".to_owned());
                    }
                });
                missing
            }
        };
        let by_name = |flow: &Flow| flow.host.is_some() && !self.by_address.is_empty();
        if attempted.flow().is_some_and(by_name) {
            missing.insert("the address behind the name".to_owned());
        }
        (!missing.is_empty()).then(|| listed(missing))
    }

    /// Whether TLS may be opened.
    fn inspects(&self, flow: &Flow) -> bool {
        self.inspects_where(flow, true) || self.inspects_where(flow, false)
    }

    /// Whether TLS is opened, where switches and sessions turn out for it or against it.
    fn inspects_where(&self, flow: &Flow, in_favour: bool) -> bool {
        let facts = flow.facts_with(Seen::NotYet, Some(in_favour));
        self.policy.inspects(self.agent, &facts)
    }

    /// What was seen, in the worlds in which switches and sessions turn out for it and against it.
    fn both<'a>(&self, flow: &Flow, seen: Seen<'a>) -> Vec<World<'a>> {
        let depends = !self.switches_and_sessions(flow).is_empty();
        let ways = if depends {
            &[Some(true), Some(false)][..]
        } else {
            &[None]
        };
        let worlds = ways.iter().map(|in_favour| World {
            seen,
            in_favour: *in_favour,
        });
        worlds.collect()
    }

    /// A connection of which it is not known what was sent.
    fn whatever_is_sent(&self, flow: &Flow) -> Outcomes {
        let early = self.policy.decide(self.agent, &flow.facts(Seen::NotYet));
        let ways = self.both(flow, Seen::NotYet);
        let decided = !matches!(
            early.outcome,
            RulingOutcome::Undecided | RulingOutcome::Allow(Handling::Inspect)
        );
        // Who is only observed goes on early whatever comes, which may be denied on paper.
        let mut looks = false;
        self.each(flow, |rule| looks |= rule.needs_request());
        if decided && ways.len() == 1 && !(looks && self.agent.observes()) {
            return self.anywhere(flow, &ways);
        }
        let unknown = Unknown {
            everything: true,
            ..Unknown::default()
        };
        let requests = [true, false].map(|in_favour| World {
            seen: Seen::Request(Request {
                assumed: Some(Assumed {
                    unknown: &unknown,
                    in_favour,
                }),
                ..Request::new("", "")
            }),
            in_favour: Some(in_favour),
        });
        let mut worlds = self.both(flow, Seen::Never);
        worlds.extend(self.both(flow, Seen::Tls));
        worlds.extend(requests);
        let mut outcomes = self.anywhere(flow, &worlds);
        if outcomes.differ(worlds.len()) {
            let sent = "what was sent".to_owned();
            let mut missing = self.switches_and_sessions(flow);
            if missing.is_empty() {
                let rule = early.matched.first().map_or("", |matched| &matched.rule);
                outcomes.why =
                    format!("what was sent was not recorded, and rule {rule} would look at it");
                return outcomes;
            }
            missing.insert(sent);
            outcomes.why = listed(missing);
        }
        outcomes
    }

    fn request(&self, flow: &Flow, asked: &Asked) -> Outcomes {
        let seen = |in_favour, body| World {
            seen: Seen::Request(Request {
                query: asked.query.as_ref(),
                fields: asked.fields.as_ref(),
                body,
                websocket: asked.websocket,
                llm: asked.llm.as_ref(),
                opens_calls: asked.opens_calls,
                claims: &asked.claims,
                tool: asked.tool.as_ref(),
                assumed: Some(Assumed {
                    unknown: &asked.unknown,
                    in_favour,
                }),
                ..Request::new(&asked.method, &asked.path)
            }),
            in_favour: Some(in_favour),
        };
        let mut worlds = vec![seen(true, asked.body), seen(false, asked.body)];
        if !asked.whole {
            // It may have come to have more content than it had then.
            worlds.push(seen(false, u64::MAX));
        }
        let mut outcomes = self.anywhere(flow, &worlds);
        if outcomes.differ(worlds.len()) {
            let mut missing = self.missing(flow, Some(asked), false);
            if let [_, then, more, ..] = outcomes.said.as_slice()
                && !asked.whole
                && !then.state.is(more.state)
            {
                missing.insert("how much content it came to have".to_owned());
            }
            outcomes.why = listed(missing);
        }
        outcomes
    }

    /// The rules that may be for a flow, some of them twice: those by an address that is not known too.
    pub(super) fn each(&self, flow: &Flow, mut visit: impl FnMut(&Rule)) {
        let (host, ip) = (flow.host.as_ref(), known(flow));
        let mut visit = |rule: &Rule| {
            let port = rule.ports.contains(flow.port);
            if port && rule.transports & bit(flow.transport) != 0 {
                visit(rule);
            }
        };
        self.policy
            .each(self.agent, host, ip, Some(flow.port), |_, rule| visit(rule));
        if host.is_some() && ip.is_none() {
            let rules = self.by_address.iter();
            rules
                .filter_map(|position| self.policy.at(*position))
                .for_each(visit);
        }
    }

    /// What the rules for a flow look at beside it and its request, and the record does not have.
    fn switches_and_sessions(&self, flow: &Flow) -> BTreeSet<String> {
        let mut missing = BTreeSet::new();
        self.each(flow, |rule| {
            let when = rule.conditions.when.iter();
            for name in when.flat_map(When::switches) {
                missing.insert(format!("switch `{name}`"));
            }
            if rule.conditions.rollout.is_some() && flow.around.context.session.is_none() {
                missing.insert("which session it was".to_owned());
            }
        });
        missing
    }

    /// What the rules for a flow look at, and the record does not have. `sent`: of what was sent, it has
    /// nothing.
    fn missing(&self, flow: &Flow, asked: Option<&Asked>, sent: bool) -> BTreeSet<String> {
        let mut missing = self.switches_and_sessions(flow);
        self.each(flow, |rule| {
            if sent && rule.needs_request() {
                missing.insert("what was sent".to_owned());
            }
            let Some(asked) = asked else {
                return;
            };
            let (looks, when) = (&rule.request, rule.conditions.when.as_ref());
            let query = looks.query.iter().map(|(name, _)| name);
            let query = query.chain(when.iter().flat_map(|when| when.parameters()));
            for name in query.filter(|name| asked.query.is_some() && asked.unknown.parameter(name))
            {
                missing.insert(format!("parameter `{name}` of the query"));
            }
            let fields = looks.fields.iter().map(|(name, _)| name);
            let fields = fields.chain(when.iter().flat_map(|when| when.fields()));
            for name in fields.filter(|name| asked.unknown.field(name)) {
                missing.insert(format!("header `{name}`"));
            }
            let call = looks.llm.is_some() || when.is_some_and(When::needs_llm);
            if call && asked.unknown.llm() {
                missing.insert("whether it is a call of a language model, and which".to_owned());
            }
            let message = looks.tool.is_some() || when.is_some_and(When::needs_tool);
            if message && asked.unknown.tool() {
                missing
                    .insert("whether it is a message to a server of tools, and which".to_owned());
            }
            let arguments = looks.tool.iter().flat_map(|tool| &tool.arguments);
            let arguments = arguments.map(|(pointer, _)| pointer);
            let arguments = arguments.chain(when.iter().flat_map(|when| when.arguments()));
            let unknown = |it: &&String| asked.tool.is_some() && asked.unknown.argument(it);
            for pointer in arguments.filter(unknown) {
                missing.insert(format!("argument `{pointer}`"));
            }
            if looks.body_over.is_some() && asked.unknown.body() {
                missing.insert("how much content it had".to_owned());
            }
        });
        missing
    }

    /// What it says in these worlds, whatever the address behind the name.
    fn anywhere(&self, flow: &Flow, worlds: &[World<'_>]) -> Outcomes {
        let mut outcomes = Outcomes {
            said: worlds
                .iter()
                .map(|world| Said::of(self.policy.decide(self.agent, &world.facts(flow))))
                .collect(),
            why: String::new(),
        };
        if outcomes.differ(worlds.len()) {
            outcomes.why = listed(self.switches_and_sessions(flow));
        }
        // A connection goes to the address that is recorded beside its name; a request is decided for all
        // that the name has.
        let mut all = worlds.iter();
        let request = all.any(|world| matches!(world.seen, Seen::Request(_)));
        if flow.host.is_none() || flow.ip.is_some() && !request {
            return outcomes;
        }
        for (n, world) in worlds.iter().enumerate() {
            let Some(here) = outcomes.said.get(n).map(|said| said.state) else {
                continue;
            };
            if let Some((said, rule)) = self.elsewhere(flow, *world, here) {
                outcomes.why = format!(
                    "the address behind the name was not recorded, and rule {rule} denies by it"
                );
                outcomes.said.push(said);
            }
        }
        outcomes
    }

    /// What it says of an address for which it says something else, and the rule that is for that.
    fn elsewhere(&self, flow: &Flow, world: World<'_>, here: State) -> Option<(Said, String)> {
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
                || rule.fit(self.agent, &world.facts(flow)) == Fit::No
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
                let said = Said::of(self.policy.decide(self.agent, &world.facts(&there)));
                let hard = matches!(
                    said.by.reason,
                    ReasonCode::MetadataService
                        | ReasonCode::LoopbackNotOwn
                        | ReasonCode::Rebinding
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
    fn of(ruling: Ruling) -> Self {
        Self {
            state: State {
                verdict: ruling.verdict,
                enforced: ruling.enforced,
            },
            by: By::new(&ruling.reason, &ruling.matched),
            told: sentence::changes(&ruling.reason).map(str::to_owned),
            made: ruling.changes,
            on_paper: ruling.on_paper,
        }
    }

    /// Whether the same is said, done and changed.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.state.is(other.state) && self.made == other.made && self.on_paper == other.on_paper
    }
}

/// That these are not recorded.
pub(super) fn listed(missing: BTreeSet<String>) -> String {
    let named: Vec<String> = missing.into_iter().take(NAMED).collect();
    format!("not recorded: {}", named.join(", "))
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

//! One compiled rule and what it matches.

use std::net::IpAddr;
use std::sync::Arc;

use agentguard_common::map::{TCP, UDP};
use agentguard_model::special::is_opened;
use agentguard_model::{AgentName, Handling, HostName, Labels, Matched, Mode, Source, Transport};
use ipnet::IpNet;

use crate::agent::AgentPolicy;
use crate::agent::Group;
use crate::changes::Changes;
use crate::circumstances::Circumstances;
use crate::conditions::{Conditions, When};
use crate::decide::Facts;
use crate::document::{Addresses, LogLevel, RuleAction};
use crate::pattern::{HostPattern, Ports};
use crate::request::{Request, RequestMatch};
use crate::special;
use crate::steps::Steps;

/// The engine's name in [`Matched`].
const ENGINE: &str = "native";

/// What is known of a rule from outside: for the record, for `policy show` and for the kernel's
/// events, which carry its number.
#[derive(Clone, Debug)]
pub struct RuleInfo {
    /// Its number in the policy, from 1, in the order of the documents.
    pub number: u32,
    /// Its id.
    pub id: String,
    /// Where it stands.
    pub source: Source,
    /// What it says.
    pub action: RuleAction,
    /// How what it allows is carried.
    pub handling: Handling,
    /// How far it goes.
    pub mode: Mode,
    /// For how many of a hundred sessions it is in force; for all, if absent.
    pub rollout: Option<u8>,
    /// Its own sentence for the person who meets a denial.
    pub reason: Option<String>,
    /// At which level the daemon's log tells of what it decides; not at all, if absent.
    pub log: Option<LogLevel>,
}

impl RuleInfo {
    /// The rule as a decision lists it.
    #[must_use]
    pub fn matched(&self) -> Matched {
        Matched {
            engine: ENGINE.to_owned(),
            rule: self.id.clone(),
            source: self.source.clone(),
            on_paper: None,
        }
    }

    /// The same where it is not in force.
    pub(crate) fn matched_on_paper(&self) -> Matched {
        Matched {
            on_paper: Some(self.mode_on_paper()),
            ..self.matched()
        }
    }

    /// Its mode where it is not in force. One that is for other sessions is on paper as in shadow mode.
    pub(crate) const fn mode_on_paper(&self) -> Mode {
        match self.mode {
            Mode::Enforce | Mode::Shadow => Mode::Shadow,
            Mode::Observe => Mode::Observe,
        }
    }

    /// Whether it takes part in what happens, and not only in what is recorded.
    pub(crate) fn in_force(&self) -> bool {
        self.mode == Mode::Enforce
    }
}

/// Which agents a rule is for.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Selector {
    /// One of these, or of the groups; any, if absent.
    pub(crate) names: Option<Vec<AgentName>>,
    pub(crate) groups: Vec<Arc<Group>>,
    /// All of these.
    pub(crate) labels: Vec<(String, String)>,
}

impl Selector {
    pub(crate) fn is_everyone(&self) -> bool {
        self.names.is_none() && self.labels.is_empty()
    }

    /// How exactly it says for whom: by name and labels, by name, by groups or labels, not at all.
    pub(crate) fn specificity(&self) -> u32 {
        let named = self.names.as_ref().is_some_and(|names| !names.is_empty());
        if named && self.groups.is_empty() {
            2 + u32::from(!self.labels.is_empty())
        } else {
            u32::from(!self.is_everyone())
        }
    }

    pub(crate) fn selects(&self, name: &AgentName, labels: &Labels) -> bool {
        let named = |names: &Vec<_>| names.contains(name);
        (self.names.as_ref().is_none_or(named) || self.in_groups(name, labels))
            && self.wants(labels)
    }

    pub(crate) fn in_groups(&self, name: &AgentName, labels: &Labels) -> bool {
        self.groups.iter().any(|group| group.has(name, labels))
    }

    /// Whether an agent has the labels that it must have.
    pub(crate) fn wants(&self, labels: &Labels) -> bool {
        let mut wanted = self.labels.iter();
        wanted.all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// What a rule says of a request that may not have been seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fit {
    /// It matches.
    Yes,
    /// It matches if the request does.
    NeedsRequest,
    /// All else matches, and its expression cannot be evaluated: it denies.
    Failed,
    /// It does not match.
    No,
}

/// What has been seen of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Seen<'a> {
    /// Nothing yet; the bytes may still show one.
    NotYet,
    /// Nothing, and nothing will be: it is neither HTTP nor TLS.
    Never,
    /// Nothing of what is inside of TLS, and nothing will be: it is not opened.
    Tls,
    /// A request.
    Request(Request<'a>),
}

impl Seen<'_> {
    /// Whether no request is seen, and none will be.
    pub(crate) const fn is_none(&self) -> bool {
        matches!(self, Self::Never | Self::Tls)
    }
}

/// One compiled rule.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) info: RuleInfo,
    pub(crate) agents: Selector,
    /// Of more than one that match, the highest decides, where the strategy says so.
    pub(crate) priority: i32,
    pub(crate) hosts: Vec<HostPattern>,
    /// As they are written; then, of a denial, those of IPv6 that lead to them ([`special::ways_to`]).
    pub(crate) cidrs: Vec<IpNet>,
    /// How many of [`Self::cidrs`] are written.
    pub(crate) written: usize,
    pub(crate) ports: Ports,
    /// [`TCP`] and [`UDP`].
    pub(crate) transports: u8,
    pub(crate) request: RequestMatch,
    pub(crate) conditions: Conditions,
    /// What it changes in the requests that it allows.
    pub(crate) changes: Option<Arc<Changes>>,
    /// Whether contents of what it allows are kept.
    pub(crate) captures: bool,
    /// Whether it takes the calls that it denies out of a model's answer, and leaves the rest.
    pub(crate) cuts: bool,
    pub(crate) addresses: Option<Addresses>,
    pub(crate) ranges: Vec<IpNet>,
}

impl Rule {
    pub(crate) fn allows(&self) -> bool {
        matches!(self.info.action, RuleAction::Allow | RuleAction::Modify)
    }

    /// Whether it takes part in what happens here, and not only in what is recorded.
    pub(crate) fn in_force(&self, agent: &AgentName, circumstances: &Circumstances<'_>) -> bool {
        let Some(rollout) = self.conditions.rollout else {
            return self.info.in_force();
        };
        let includes = match circumstances.in_favour {
            Some(in_favour) if circumstances.context.session.is_none() => {
                self.allows() == in_favour
            }
            _ => rollout.includes(&self.info.id, agent, circumstances),
        };
        self.info.in_force() && includes
    }

    /// Whether it is in force and wants the requests that it allows seen, also inside TLS.
    pub(crate) fn inspects(&self) -> bool {
        self.allows() && self.info.in_force() && self.info.handling == Handling::Inspect
    }

    /// The ranges that the document names.
    pub(crate) fn written_ranges(&self) -> &[IpNet] {
        self.cidrs.get(..self.written).unwrap_or_default()
    }

    /// Whether it looks at the tools that a model asks to call.
    pub(crate) fn looks_at_tool_calls(&self) -> bool {
        let llm = self.request.llm.as_ref();
        llm.is_some_and(|llm| !llm.tool_calls.is_empty())
    }

    /// Whether it changes contents, or keeps them.
    pub(crate) fn needs_contents(&self) -> bool {
        let changes = self.changes.as_ref();
        self.captures || changes.is_some_and(|changes| changes.edits().is_some())
    }

    /// Whether it matches any destination.
    pub(crate) fn anywhere(&self) -> bool {
        self.hosts.is_empty() && self.cidrs.is_empty()
    }

    /// Whether it matches what shows no request, as far as that is about the request, or could where one is.
    pub(crate) fn unread(&self, seen: &Seen<'_>) -> Fit {
        if self.has_to_see() {
            return Fit::NeedsRequest;
        }
        self.request.unread(seen)
    }

    pub(crate) fn needs_request(&self) -> bool {
        !self.request.is_empty() || self.has_to_see()
    }

    /// Whether it needs a request for anything but what it matches in one.
    pub(crate) fn has_to_see(&self) -> bool {
        self.changes.is_some() || self.captures || self.conditions.needs_request()
    }

    /// Whether destination, port and transport are all that it depends on, so that the kernel can decide.
    pub(crate) fn is_static(&self) -> bool {
        let nothing_else = self.changes.is_none() && !self.captures;
        self.request.is_empty() && nothing_else && self.conditions.is_empty()
    }

    /// How much it says of requests: for how many parts of one it has a condition.
    pub(crate) fn specificity(&self) -> u32 {
        self.request.conditions()
    }

    pub(crate) fn matches_host(&self, name: &HostName) -> bool {
        self.hosts.iter().any(|pattern| pattern.matches(name))
    }

    pub(crate) fn matches_address(&self, ip: IpAddr) -> bool {
        self.cidrs.iter().any(|net| net.contains(&ip))
    }

    /// Whether it is for a destination, whatever it opens: a name by its hosts, a bare address by its ranges; a
    /// denial is for a name's resolved address by its ranges too.
    pub(crate) fn is_for(&self, host: Option<&HostName>, ip: Option<IpAddr>) -> bool {
        match (host, ip) {
            (Some(name), _) => {
                self.anywhere()
                    || self.matches_host(name)
                    || !self.allows() && ip.is_some_and(|ip| self.matches_address(ip))
            }
            (None, Some(ip)) => self.anywhere() || self.matches_address(ip),
            (None, None) => self.anywhere(),
        }
    }

    /// Whether it may lead to an address, as far as that is not public: an allowance does where it names a range for
    /// it. Behind a name everything that is not public is closed, and of what is dialled bare what is closed to all
    /// (metadata, loopback). Only a range that lies inside of a closed one opens it.
    pub(crate) fn opens(&self, host: Option<&HostName>, ip: Option<IpAddr>) -> bool {
        let Some(ip) = ip.filter(|_| self.allows()) else {
            return true;
        };
        if host.is_some() {
            return is_opened(ip, &self.ranges);
        }
        let Some((_, closed)) = special::hard(&IpNet::from(ip)) else {
            return true;
        };
        let named = self.cidrs.iter();
        named
            .filter(|net| closed.contains(*net))
            .any(|net| net.contains(&ip))
    }

    /// Whether it matches the rest of a flow, given that it matches its destination, if it is the only one.
    pub(crate) fn fit(&self, agent: &AgentPolicy, facts: &Facts<'_>) -> Fit {
        self.fit_within(agent, facts, &Steps::new())
    }

    /// The same, if its patterns and its expression take no more than these steps.
    pub(crate) fn fit_within(&self, agent: &AgentPolicy, facts: &Facts<'_>, steps: &Steps) -> Fit {
        if self.transports & bit(facts.transport) == 0 || !self.ports.contains(facts.port) {
            return Fit::No;
        }
        if self.is_static() {
            return Fit::Yes;
        }
        let conditions = &self.conditions;
        if !conditions.context(&facts.circumstances) || !conditions.times(&facts.circumstances) {
            return Fit::No;
        }
        match facts.request {
            Seen::NotYet if self.needs_request() => return Fit::NeedsRequest,
            Seen::Never | Seen::Tls if self.needs_request() => match self.unread(&facts.request) {
                Fit::Yes => {}
                fit => return fit,
            },
            Seen::Request(request) => match self.request.matches(&request, self.allows(), steps) {
                Some(true) => {}
                Some(false) => return self.at_worst(&request, facts, steps),
                None => return Fit::Failed,
            },
            _ => {}
        }
        if let Some(when) = conditions
            .when
            .as_ref()
            .filter(|when| when.is_unknown(facts))
        {
            return self.assumed(when, facts);
        }
        if self.is_for_calls_to_come(&facts.request) {
            return if self.allows() { Fit::Yes } else { Fit::No };
        }
        match self.when(agent, facts, steps) {
            Ok(true) => Fit::Yes,
            Ok(false) => Fit::No,
            Err(_) => Fit::Failed,
        }
    }
}

impl Rule {
    /// What is assumed of a rule whose conditions on a request do not hold: not to match. Where they may hold
    /// after all, its expression may fail, which is worse than an allowance that does not match.
    fn at_worst(&self, request: &Request<'_>, facts: &Facts<'_>, steps: &Steps) -> Fit {
        let when = self.conditions.when.as_ref();
        let fails = when.is_some_and(|when| when.needs_request() && when.is_unknown(facts));
        let Some(assumed) = request.assumed.filter(|it| !it.in_favour) else {
            return Fit::No;
        };
        let otherwise = Request {
            assumed: Some(assumed.turned_out()),
            ..*request
        };
        let matches = || {
            self.request
                .matches(&otherwise, true, steps)
                .unwrap_or(true)
        };
        if self.allows() && fails && matches() {
            Fit::Failed
        } else {
            Fit::No
        }
    }

    /// Whether it changes what it allows, or has it kept.
    pub(crate) fn obliges(&self) -> bool {
        self.changes.is_some() || self.captures
    }

    /// Whether a rule that obliges is about a request that it does not allow, in some reading: it obliges as a denial
    /// denies. What another rule allows does not pass without that for being written in another way.
    pub(crate) fn obliges_a_reading(
        &self,
        agent: &AgentPolicy,
        facts: &Facts<'_>,
        steps: &Steps,
    ) -> bool {
        let (true, Seen::Request(request)) = (self.obliges(), facts.request) else {
            return false;
        };
        let conditions = &self.conditions;
        // What is not known is assumed as it is of an allowance, and read as a denial reads it.
        let request = Request {
            assumed: request.assumed.map(|assumed| assumed.reversed()),
            ..request
        };
        let when = || {
            let unknown = conditions.when.as_ref().filter(|it| it.is_unknown(facts));
            match unknown {
                Some(when) => self.assumed(when, facts) == Fit::Yes,
                None => self.when(agent, facts, steps).unwrap_or(true),
            }
        };
        self.transports & bit(facts.transport) != 0
            && self.ports.contains(facts.port)
            && conditions.context(&facts.circumstances)
            && conditions.times(&facts.circumstances)
            // What cannot be told ends it.
            && self.request.matches(&request, false, steps).unwrap_or(true)
            && when()
    }

    /// Whether its expression looks at calls where a request only opens the connection for some.
    fn is_for_calls_to_come(&self, seen: &Seen<'_>) -> bool {
        let opens = matches!(seen, Seen::Request(request) if request.opens_calls);
        opens && self.conditions.when.as_ref().is_some_and(When::needs_llm)
    }

    /// Whether its expression holds. What depends on what was called, where an answer is fetched of which that is not known
    /// any more, does not, but in a denial of what the answer asks for: as of [`crate::llm::LlmMatch::asked_before`].
    ///
    /// # Errors
    /// As of [`Conditions::when`].
    pub(crate) fn when(
        &self,
        agent: &AgentPolicy,
        facts: &Facts<'_>,
        steps: &Steps,
    ) -> Result<bool, String> {
        let holds = self.conditions.when(agent, facts, steps)?;
        Ok(holds.unwrap_or_else(|| self.looks_at_tool_calls()))
    }

    /// What is assumed of an expression that looks at what nobody knows: that it turns out for what is
    /// attempted, or against it. An allowance that cannot be evaluated is worse than one that does not match.
    fn assumed(&self, when: &When, facts: &Facts<'_>) -> Fit {
        let in_favour = match facts.request {
            Seen::Request(request) => request.assumed.map(|assumed| assumed.in_favour),
            Seen::NotYet | Seen::Never | Seen::Tls => None,
        };
        let in_favour = in_favour.or(facts.circumstances.in_favour);
        match (self.allows(), in_favour.unwrap_or_default()) {
            (true, true) | (false, false) => Fit::Yes,
            (true, false) if when.needs_request() => Fit::Failed,
            _ => Fit::No,
        }
    }
}

/// A transport as a bit of the kernel's set.
pub(crate) const fn bit(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => TCP,
        Transport::Udp => UDP,
    }
}

//! The verdict on a flow or a request.
//!
//! The order is the order of authority: closed ranges, denials in force, what cannot be seen,
//! allowances; and last what the mode makes of it.

use std::net::IpAddr;
use std::sync::Arc;

use agentguard_model::special::{is_opened, special as special_range};
use agentguard_model::{
    Changed, Context, Handling, HostName, Matched, Mode, Reason, ReasonCode, Transport, Verdict,
};

use crate::agent::AgentPolicy;
use crate::changes::{Changes, digest};
use crate::circumstances::Circumstances;
use crate::found::{Few, Found, LISTED};
use crate::index::Position;
use crate::local;
use crate::policy::Policy;
use crate::rule::{RuleInfo, Seen};
use crate::sentence::{self, Attempt};
use crate::special;
use crate::steps::Steps;
use crate::unread::unless_unread;

/// A flow, or a request on it, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The name it goes to. Absent for an address that was dialled bare.
    pub host: Option<&'a HostName>,
    /// The address that was dialled bare; or, beside a name, the address it resolved to, where
    /// that is known. A virtual address is not one.
    pub ip: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// What carries it.
    pub transport: Transport,
    /// The request.
    pub request: Seen<'a>,
    /// On whose behalf, and when.
    pub circumstances: Circumstances<'a>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RulingOutcome {
    /// Let it go on, carried like this. [`Handling::Inspect`] for [`Seen::NotYet`]: every request
    /// will be allowed; with [`Seen::Never`] the flow is not.
    Allow(Handling),
    /// Refuse it.
    Deny,
    /// Look at the request first. Only for [`Seen::NotYet`].
    Undecided,
}

impl RulingOutcome {
    /// Whether it goes on, and through the proxy.
    pub(crate) const fn is_proxied(self) -> bool {
        matches!(
            self,
            Self::Undecided | Self::Allow(Handling::Splice | Handling::Inspect)
        )
    }
}

/// The verdict on a flow or a request.
#[derive(Clone, Debug)]
pub struct Ruling {
    /// What is to be done, after modes.
    pub outcome: RulingOutcome,
    /// What the policy says, before modes: for the record. [`Verdict::Allow`], [`Verdict::Modify`] or
    /// [`Verdict::Deny`]; for an undecided flow the latter, since nothing has allowed it yet.
    pub verdict: Verdict,
    /// Whether the verdict is what is done *because* the policy says so: false for everything in
    /// observe and shadow mode but what those refuse too.
    pub enforced: bool,
    /// The mode under which it was taken: the less strict of the agent's and the deciding rule's.
    pub mode: Mode,
    /// Why.
    pub reason: Reason,
    /// The rules that match, the deciding one first; at most eight of each kind.
    pub matched: Vec<Matched>,
    /// What is to be changed in the request before it is sent on, in this order.
    pub changes: Vec<Arc<Changes>>,
    /// What is not changed and would be in enforce mode, in this order.
    pub on_paper: Vec<Arc<Changes>>,
    /// Whether contents are to be kept.
    pub captures: bool,
    /// Where it denies tool calls that a model asks for: whether these are cut out of the answer, and the rest goes on.
    pub cuts: bool,
}

impl Ruling {
    /// The same where nothing is changed.
    fn put_on_paper(mut self) -> Self {
        self.changes.append(&mut self.on_paper);
        self.on_paper = std::mem::take(&mut self.changes);
        self.enforced = false;
        self
    }

    /// What rules change in what goes on, for the record.
    #[must_use]
    pub fn changed(&self) -> Option<Changed> {
        if !matches!(self.outcome, RulingOutcome::Allow(_)) {
            return None;
        }
        // What is denied on paper would not be changed in enforce mode.
        let on_paper = (self.verdict == Verdict::Modify).then_some(&self.on_paper);
        let changed = Changed {
            made: digest(&self.changes),
            on_paper: on_paper.and_then(|changes| digest(changes)),
        };
        (changed != Changed::default()).then_some(changed)
    }
}

/// Whether it is known that a flow goes to an address behind a name that is not public.
pub(crate) fn is_special_behind(facts: &Facts<'_>) -> bool {
    let ip = facts.ip.filter(|_| facts.host.is_some());
    ip.is_some_and(|ip| !is_opened(special::canonical(ip), &[]))
}

/// How many changes a sentence tells of, at most.
const TOLD: usize = 16;

/// What is changed, in words.
fn told(changes: &[Arc<Changes>]) -> String {
    let mut told: Vec<String> = changes.iter().flat_map(|it| it.told()).collect();
    let more = told.len().saturating_sub(TOLD);
    if more > 0 {
        told.truncate(TOLD);
        told.push(format!("and {more} more"));
    }
    told.join(", ")
}

impl Policy {
    /// Decides a flow or a request. No I/O; the work depends on the rules that can match alone.
    #[must_use]
    pub fn decide(&self, agent: &AgentPolicy, facts: &Facts<'_>) -> Ruling {
        let believed = believed(agent, facts);
        let facts = &match &believed {
            Some(context) => Facts {
                circumstances: Circumstances {
                    context,
                    ..facts.circumstances
                },
                ..*facts
            },
            None => *facts,
        };
        let ruling = self.unless_denied_at_name(agent, facts, self.by_rules(agent, facts));
        unless_unread(self, agent, facts, ruling)
    }

    /// Gives what is denied at a name that denial at its addresses, too: whether TLS is opened, and whether a request has
    /// to be seen, is decided before it is known which of them is dialled. Only where an address is not public do other
    /// rules allow it than its name. What goes directly is the kernel's, which knows the address.
    fn unless_denied_at_name(
        &self,
        agent: &AgentPolicy,
        facts: &Facts<'_>,
        ruling: Ruling,
    ) -> Ruling {
        if !ruling.outcome.is_proxied() || !is_special_behind(facts) {
            return ruling;
        }
        let at_name = self.by_rules(agent, &Facts { ip: None, ..*facts });
        match at_name.outcome {
            RulingOutcome::Deny => at_name,
            RulingOutcome::Allow(_) | RulingOutcome::Undecided => ruling,
        }
    }

    /// What the rules say.
    pub(crate) fn by_rules(&self, agent: &AgentPolicy, facts: &Facts<'_>) -> Ruling {
        let ip = facts.ip.map(special::canonical);
        let attempt = Attempt {
            agent: &agent.name,
            facts,
        };
        if let Some(ip) = ip
            && facts.host.is_none()
            && special::is_virtual(ip)
        {
            return denied(
                agent.mode,
                Reason::new(
                    ReasonCode::NameNotAnswered,
                    sentence::not_answered(&attempt),
                ),
            );
        }
        // The address behind a virtual one is not known here.
        let ip = ip.filter(|ip| !special::is_virtual(*ip));
        let found = self.find(agent, facts, ip);
        let closed = ip.and_then(|ip| special::hard(&ip.into()));
        if let Some((kind, _)) = closed
            && found.allowances.is_empty()
            && (found.unseen_allowances.is_empty() || facts.request.is_none())
        {
            let mut ruling = denied(
                agent.mode,
                Reason::new(kind.code(), sentence::closed(&attempt, kind)),
            );
            self.list(&mut ruling.matched, &[&found.denials, &found.paper_denials]);
            return ruling;
        }
        let observes = agent.observes();
        let may_be_overruled = facts.request == Seen::NotYet && found.may_be_overruled();
        if !observes && !found.denials.is_empty() && !may_be_overruled {
            return Ruling {
                mode: Mode::Enforce,
                enforced: true,
                outcome: RulingOutcome::Deny,
                cuts: !found.refuses,
                ..self.rule_denies(agent, &attempt, &found)
            };
        }
        match facts.request {
            Seen::NotYet if undecided(observes, &found) => self.undecided(agent, &attempt, &found),
            Seen::Never | Seen::Tls if !observes && !found.unseen_denials.is_empty() => {
                self.needs_inspection(&attempt, &found)
            }
            Seen::Never | Seen::Tls if !observes && found.inspects() => {
                self.not_understood(agent, &attempt, &found)
            }
            _ => {
                let is_closed = closed.is_some();
                let ruling = self.after_modes(agent, &attempt, &found, is_closed);
                self.unless_elsewhere(agent, &attempt, &found, ip, ruling)
            }
        }
    }

    /// Gives what nothing allows at the address behind its name, and something would at a public one, its reason.
    fn unless_elsewhere(
        &self,
        agent: &AgentPolicy,
        attempt: &Attempt<'_>,
        found: &Found,
        ip: Option<IpAddr>,
        mut ruling: Ruling,
    ) -> Ruling {
        let nothing_says = [
            &found.denials,
            &found.paper_denials,
            &found.allowances,
            &found.unseen_allowances,
        ];
        let behind = ip.filter(|_| {
            attempt.facts.host.is_some() && nothing_says.iter().all(|kind| kind.is_empty())
        });
        let Some((ip, (_, special))) = behind.and_then(|ip| Some((ip, special_range(ip)?))) else {
            return ruling;
        };
        let found = self.find(agent, attempt.facts, None);
        let seen = self.first(&found.allowances);
        if let Some(rule) = seen.or_else(|| self.first(&found.unseen_allowances)) {
            let message = sentence::not_there(attempt, ip, special, rule);
            ruling.reason = Reason::new(ReasonCode::Rebinding, message);
            ruling.matched.clear();
        }
        ruling
    }

    /// What the allowances and the mode make of a flow that no denial in force stops.
    fn after_modes(
        &self,
        agent: &AgentPolicy,
        attempt: &Attempt<'_>,
        found: &Found,
        closed: bool,
    ) -> Ruling {
        let observes = agent.observes();
        let on_paper = !found.denials.is_empty()
            || !found.paper_denials.is_empty()
            || attempt.facts.request.is_none() && found.has_unseen_denial();
        // Only an observed agent comes here with what is to be inspected and cannot be.
        let not_understood = attempt.facts.request.is_none() && found.inspects();
        let outcome = match found.handling {
            _ if not_understood => RulingOutcome::Allow(Handling::Splice),
            Some(handling) => RulingOutcome::Allow(handling),
            None if observes => unmatched(agent, attempt.facts, closed),
            None => RulingOutcome::Deny,
        };
        if outcome == RulingOutcome::Deny {
            return self.nothing_allows(agent, attempt, found);
        }
        if on_paper {
            let mut ruling = self.rule_denies(agent, attempt, found);
            ruling.outcome = outcome;
            ruling.enforced = false;
            ruling.captures = found.captures;
            if !observes {
                // What the other rules say is done, with what they change.
                let modifying = self.what_modifies(&found.modifying, attempt.facts);
                ruling.changes = self.changes(&modifying, attempt.facts);
                if !ruling.changes.is_empty() {
                    let told = told(&ruling.changes);
                    ruling.reason.message.push_str(&sentence::goes_on(&told));
                }
            }
            if observes {
                ruling.mode = agent.mode;
            } else if ruling.mode == Mode::Enforce {
                // It is in force for other sessions.
                ruling.mode = Mode::Shadow;
            }
            return ruling;
        }
        if not_understood {
            return Ruling {
                outcome,
                enforced: false,
                ..self.not_understood(agent, attempt, found)
            };
        }
        if found.handling.is_none() {
            return Ruling {
                outcome,
                enforced: false,
                ..self.nothing_allows(agent, attempt, found)
            };
        }
        let modifying = self.what_modifies(&found.modifying, attempt.facts);
        let on_paper = self.what_modifies(&found.paper_modifying, attempt.facts);
        if !modifying.is_empty() || !on_paper.is_empty() {
            return self.modifies(agent, attempt, found, [&modifying, &on_paper], outcome);
        }
        let mut matched = Vec::new();
        self.list(&mut matched, &[&found.allowances, &found.paper_allowances]);
        let message = sentence::allowed(attempt, self.first(&found.allowances));
        Ruling {
            outcome,
            verdict: Verdict::Allow,
            enforced: !observes,
            mode: agent.mode,
            reason: Reason::new(ReasonCode::RuleAllow, message),
            matched,
            changes: Vec::new(),
            on_paper: Vec::new(),
            captures: found.captures,
            cuts: false,
        }
    }

    /// Those of the rules that change something in what this is. In the order of the documents, and where there are ranks
    /// the highest first, as they were found.
    fn what_modifies(&self, positions: &[Position], facts: &Facts<'_>) -> Vec<Position> {
        let changes = |position: &Position| {
            let changes = self.at(*position).and_then(|rule| rule.changes.as_ref());
            changes.is_some_and(|it| changed(it, facts).is_some())
        };
        let mut positions: Vec<_> = positions.iter().copied().filter(changes).collect();
        if !self.strategy().ranks() {
            positions.sort_unstable();
            // One may be met in more than one way.
            positions.dedup();
        }
        positions
    }

    /// What these rules change in what this is, in the order in which it is made: where there are ranks the highest has the
    /// last word.
    fn changes(&self, positions: &[Position], facts: &Facts<'_>) -> Vec<Arc<Changes>> {
        let rules = positions.iter().filter_map(|position| self.at(*position));
        let changes = rules.filter_map(|rule| rule.changes.as_ref());
        let mut changes: Vec<_> = changes.filter_map(|it| changed(it, facts)).collect();
        if self.strategy().ranks() {
            changes.reverse();
        }
        changes
    }

    /// Rules allow it with changes, in force and on paper. Where an agent is only observed, none is made.
    fn modifies(
        &self,
        agent: &AgentPolicy,
        attempt: &Attempt<'_>,
        found: &Found,
        [in_force, on_paper]: [&[Position]; 2],
        outcome: RulingOutcome,
    ) -> Ruling {
        let changes = self.changes(in_force, attempt.facts);
        let beside = self.changes(on_paper, attempt.facts);
        let mut matched: Vec<Matched> = Vec::new();
        let listed = self.infos(in_force).map(RuleInfo::matched);
        matched.extend(listed.take(LISTED));
        let listed = self.infos(on_paper).map(RuleInfo::matched_on_paper);
        matched.extend(listed.take(LISTED));
        let mut few = Few::default();
        let modifying = in_force.iter().chain(on_paper);
        modifying.clone().for_each(|position| few.add(*position));
        self.list(
            &mut matched,
            &[
                &found.allowances.without(&few),
                &found.paper_allowances.without(&few),
            ],
        );
        // Which may be none of those that change it.
        let allows = |position: &&Position| {
            let mut allowances = found.allowances.iter().chain(found.paper_allowances.iter());
            allowances.any(|allowance| allowance == **position)
        };
        let first = match modifying.clone().find(allows) {
            Some(position) => self.at(*position).map(|rule| &rule.info),
            None => self.first(&found.allowances),
        };
        let told = match (in_force.is_empty(), on_paper.is_empty()) {
            (false, false) => sentence::also_on_paper(&told(&changes), &told(&beside)),
            (false, true) => told(&changes),
            (true, _) => told(&beside),
        };
        let message = sentence::modified(attempt, first, &told);
        let mode = match self.infos(on_paper).next() {
            Some(rule) if in_force.is_empty() && !agent.observes() => rule.mode_on_paper(),
            _ => agent.mode,
        };
        let ruling = Ruling {
            outcome,
            verdict: Verdict::Modify,
            enforced: true,
            mode,
            reason: Reason::new(ReasonCode::RuleModify, message),
            matched,
            changes,
            on_paper: beside,
            captures: found.captures,
            cuts: false,
        };
        match agent.observes() || in_force.is_empty() {
            true => ruling.put_on_paper(),
            false => ruling,
        }
    }

    fn infos<'a>(&'a self, positions: &'a [Position]) -> impl Iterator<Item = &'a RuleInfo> {
        let rules = positions.iter().filter_map(|position| self.at(*position));
        rules.map(|rule| &rule.info)
    }

    fn undecided(&self, agent: &AgentPolicy, attempt: &Attempt<'_>, found: &Found) -> Ruling {
        let kinds = [
            &found.unseen_denials,
            &found.unseen_paper_denials,
            &found.unseen_allowances,
        ];
        let first = kinds.iter().find_map(|kind| self.first(kind));
        let mut matched = Vec::new();
        self.list(&mut matched, &kinds);
        Ruling {
            outcome: RulingOutcome::Undecided,
            verdict: Verdict::Deny,
            enforced: !agent.observes(),
            mode: agent.mode,
            reason: Reason::new(
                ReasonCode::NeedsInspection,
                sentence::needs_inspection(attempt, first, found.inspects()),
            ),
            matched,
            changes: Vec::new(),
            on_paper: Vec::new(),
            captures: false,
            cuts: false,
        }
    }

    /// A denial by a rule, before modes; the mode is that of the deciding rule.
    fn rule_denies(&self, agent: &AgentPolicy, attempt: &Attempt<'_>, found: &Found) -> Ruling {
        let seen = [&found.denials, &found.paper_denials];
        let unseen = [&found.unseen_denials, &found.unseen_paper_denials];
        // One that says so comes before one that cannot say.
        let first = |kind: &&Few| {
            let says = kind.without(&found.failed);
            says.iter().next().or_else(|| kind.iter().next())
        };
        let position = seen.iter().find_map(first);
        let by = position.and_then(|it| self.at(it));
        let failed = position.filter(|it| found.failed.iter().any(|failed| failed == *it));
        let failed = by.filter(|_| failed.is_some());
        let failed = failed.and_then(|it| {
            let alone = it.when(agent, attempt.facts, &Steps::new());
            alone.err().or_else(|| found.exceeded.clone())
        });
        let by = by.map(|rule| &rule.info);
        let by_unseen = unseen.iter().find_map(|kind| self.first(kind));
        let (code, message) = match by {
            Some(rule) => match failed {
                Some(why) => (
                    ReasonCode::EngineError,
                    sentence::failed(attempt, rule, &why),
                ),
                None => (ReasonCode::RuleDeny, sentence::denied(attempt, by)),
            },
            None => (
                ReasonCode::NeedsInspection,
                sentence::needs_inspection(attempt, by_unseen, found.inspects()),
            ),
        };
        let mut matched = Vec::new();
        self.list(&mut matched, &seen);
        if by.is_none() {
            self.list(&mut matched, &unseen);
        }
        self.list(&mut matched, &[&found.allowances, &found.paper_allowances]);
        Ruling {
            outcome: RulingOutcome::Deny,
            verdict: Verdict::Deny,
            enforced: true,
            mode: by.or(by_unseen).map_or(Mode::Enforce, |rule| rule.mode),
            reason: Reason::new(code, message),
            matched,
            changes: Vec::new(),
            on_paper: Vec::new(),
            captures: false,
            cuts: false,
        }
    }

    /// A denial in force looks at a request, and none can be seen.
    fn needs_inspection(&self, attempt: &Attempt<'_>, found: &Found) -> Ruling {
        let by = self.first(&found.unseen_denials);
        let mut ruling = denied(
            Mode::Enforce,
            Reason::new(
                ReasonCode::NeedsInspection,
                sentence::needs_inspection(attempt, by, found.inspects()),
            ),
        );
        self.list(
            &mut ruling.matched,
            &[
                &found.unseen_denials,
                &found.paper_denials,
                &found.allowances,
            ],
        );
        ruling
    }

    /// An allowance in force says `inspect`, and no request can be seen. One that allows the flow
    /// without does not help: the most restrictive handling wins.
    fn not_understood(&self, agent: &AgentPolicy, attempt: &Attempt<'_>, found: &Found) -> Ruling {
        let message = match self.first(&found.inspecting) {
            Some(rule) => sentence::not_understood(attempt, rule),
            None => sentence::needs_inspection(attempt, self.first(&found.unseen_inspecting), true),
        };
        let mut ruling = denied(
            agent.mode,
            Reason::new(ReasonCode::NeedsInspection, message),
        );
        self.list(
            &mut ruling.matched,
            &[
                &found.inspecting,
                &found.unseen_inspecting,
                &found.paper_denials,
                &found.allowances.without(&found.inspecting),
            ],
        );
        ruling
    }

    /// No allowance in force matches.
    fn nothing_allows(&self, agent: &AgentPolicy, attempt: &Attempt<'_>, found: &Found) -> Ruling {
        let mut ruling = if !found.denials.is_empty() {
            self.rule_denies(agent, attempt, found)
        } else if let Some(unseen) = self.first(&found.unseen_allowances) {
            denied(
                agent.mode,
                Reason::new(
                    ReasonCode::NeedsInspection,
                    sentence::needs_inspection(attempt, Some(unseen), found.inspects()),
                ),
            )
        } else {
            let paper = self.first(&found.paper_allowances);
            denied(
                agent.mode,
                Reason::new(ReasonCode::NoRule, sentence::no_rule(attempt, paper)),
            )
        };
        ruling.mode = agent.mode;
        if ruling.matched.is_empty() {
            self.list(
                &mut ruling.matched,
                &[
                    &found.unseen_allowances,
                    &found.paper_denials,
                    &found.paper_allowances,
                ],
            );
        }
        ruling
    }

    /// Adds rules to a list, in the order of the kinds.
    pub(crate) fn list(&self, matched: &mut Vec<Matched>, kinds: &[&Few]) {
        for few in kinds {
            let rules = few.iter().filter_map(|position| self.at(position));
            matched.extend(rules.map(|rule| match few.on_paper {
                true => rule.info.matched_on_paper(),
                false => rule.info.matched(),
            }));
        }
    }

    pub(crate) fn first(&self, few: &Few) -> Option<&RuleInfo> {
        few.iter()
            .next()
            .and_then(|position| self.at(position))
            .map(|rule| &rule.info)
    }
}

/// Whether the request can change what is done or recorded, given that no denial in force that
/// does not look at it matches.
///
/// Agrees with the kernel's lines: see [`crate::kernel`].
pub(crate) fn undecided(observes: bool, found: &Found) -> bool {
    if !observes && found.handling.is_none() && found.unseen_handling.is_none() {
        // Nothing can allow it, whatever the request.
        return false;
    }
    found.has_unseen_denial()
        || found.may_be_overruled()
        || found.may_fail
        || found.unseen_handling > found.handling
}

/// Whom a request is for, as far as its agent's requests are believed, where that is more than its run says.
fn believed(agent: &AgentPolicy, facts: &Facts<'_>) -> Option<Context> {
    let Seen::Request(request) = facts.request else {
        return None;
    };
    if request.claims.is_empty() || agent.trusts.is_empty() {
        return None;
    }
    let mut context = facts.circumstances.context.clone();
    for claim in agent.trusted(request.claims) {
        context.fill(&claim.context);
    }
    Some(context)
}

/// What of some changes is made in what this is, if anything: contents are changed in calls alone, and a message to a tool
/// on the agent's own host has no fields.
fn changed(changes: &Arc<Changes>, facts: &Facts<'_>) -> Option<Arc<Changes>> {
    changes.made(facts.host != Some(local::place()), is_call(facts.request))
}

/// Whether a request is a call of a language model or of a tool, and not what goes before or beside calls.
fn is_call(request: Seen<'_>) -> bool {
    let Seen::Request(request) = request else {
        return false;
    };
    match (request.llm, request.tool) {
        (Some(_), _) => !request.opens_calls,
        (None, Some(tool)) => tool.name.is_some() || tool.not_understood.is_some(),
        (None, None) => false,
    }
}

/// How an observed agent's flow goes on where no rule in force allows it.
///
/// A name goes through the proxy. A bare address goes as it would have gone without the guard. A
/// datagram to a name has no way: the proxy takes none, and a virtual address leads nowhere.
fn unmatched(agent: &AgentPolicy, facts: &Facts<'_>, closed: bool) -> RulingOutcome {
    match (facts.host, facts.transport) {
        _ if closed => RulingOutcome::Deny,
        (Some(_), Transport::Tcp) => RulingOutcome::Allow(agent.default_handling),
        (Some(_), Transport::Udp) => RulingOutcome::Deny,
        (None, _) => RulingOutcome::Allow(Handling::Direct),
    }
}

/// A denial that holds in every mode.
fn denied(mode: Mode, reason: Reason) -> Ruling {
    Ruling {
        outcome: RulingOutcome::Deny,
        verdict: Verdict::Deny,
        enforced: true,
        mode,
        reason,
        matched: Vec::new(),
        changes: Vec::new(),
        on_paper: Vec::new(),
        captures: false,
        cuts: false,
    }
}

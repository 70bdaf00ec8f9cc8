//! policy → record → what to do.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentguard_budget::limits::{Limits, Ticket};
use agentguard_model::contents::Contents;
use agentguard_model::{
    Action, ActionKind, AgentId, Changed, ClaimSource, Decision, DecisionId, Demand, Handling,
    HostName, Layer, Mode, Outcome, Provider, Reason, ReasonCode, TraceParent, Transport, Verdict,
};
use agentguard_policy::{
    Addresses, AgentPolicy, Facts, NameRuling, Policy, Ruling, RulingOutcome, Seen, ToolServer,
};
use http::HeaderMap;
use jiff::Timestamp;
use ulid::Generator;

use crate::asked::{Asked, Spoken};
use crate::budgets::{Accounting, Charging, Held};
use crate::directory::Directory;
use crate::limits::{self, Limiting};
use crate::log::Log;
use crate::moment::Moment;
use crate::pins::{Pins, Unpinned};
use crate::policies::Policies;
use crate::port::{Aside, Client, Decided, Foreseen, Recorder, Says, Target};

/// Takes decisions and has them recorded. Cheap to clone.
#[derive(Debug)]
pub struct Decider<R> {
    policies: Arc<Policies>,
    directory: Arc<Directory>,
    recorder: Arc<R>,
    pins: Arc<dyn Pins>,
    accounting: Option<Arc<Accounting>>,
    limits: Limits,
    ids: Arc<Ids>,
    log: Arc<Log>,
}

/// Ids in the order in which they were given: within one millisecond each is the one before plus
/// one, so that the record can be read in the order of ids.
#[derive(Debug)]
struct Ids(Mutex<Generator>);

impl Ids {
    fn next(&self) -> DecisionId {
        let mut generator = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        DecisionId(match generator.generate() {
            Ok(id) => id,
            // 2^80 ids in a millisecond, or so: the next one begins the next millisecond.
            Err(overflow) => overflow.commit_overflow_increment(),
        })
    }
}

impl<R> Clone for Decider<R> {
    fn clone(&self) -> Self {
        Self {
            policies: self.policies.clone(),
            directory: self.directory.clone(),
            recorder: self.recorder.clone(),
            pins: self.pins.clone(),
            accounting: self.accounting.clone(),
            limits: self.limits.clone(),
            ids: self.ids.clone(),
            log: self.log.clone(),
        }
    }
}

/// A decision on its way to the record.
pub(crate) struct Draft<'a> {
    pub(crate) client: Option<&'a Client>,
    pub(crate) layer: Layer,
    pub(crate) action: Action,
    pub(crate) verdict: Verdict,
    pub(crate) enforced: bool,
    pub(crate) mode: Mode,
    pub(crate) reason: Reason,
    pub(crate) matched: Vec<agentguard_model::Matched>,
    pub(crate) count: u64,
    pub(crate) started: Instant,
}

/// What a decision has beside.
#[derive(Default)]
pub(crate) struct Beside {
    /// The trace that a request says it belongs to.
    pub(crate) trace: Option<TraceParent>,
    /// What rules change in it.
    pub(crate) changed: Option<Changed>,
    /// What it holds of its budgets.
    pub(crate) held: Option<Arc<Held>>,
    /// What limits are told at its end.
    pub(crate) ticket: Option<Arc<Ticket>>,
}

/// What a request has for budgets and limits.
struct Brings<'a> {
    /// What it may have a model read and write.
    demand: &'a Demand,
    /// Its content, where that is here to be read once more.
    says: Option<&'a dyn Says>,
    /// The number of its content.
    content: Option<u64>,
    /// Whether it goes with another message.
    is_beside: bool,
    /// How many bytes of content it has by itself, as far as that is known. None: it is a message of what has them.
    carries: Option<u64>,
}

impl<R: Recorder> Decider<R> {
    /// Puts the pieces together.
    #[must_use]
    pub fn new(policies: Arc<Policies>, directory: Arc<Directory>, recorder: Arc<R>) -> Self {
        Self {
            policies,
            directory,
            recorder,
            pins: Arc::new(Unpinned),
            accounting: None,
            limits: Limits::default(),
            ids: Arc::new(Ids(Mutex::new(Generator::new()))),
            log: Arc::default(),
        }
    }

    /// The same, which knows what servers' tools were first seen as. Without, nothing is known of them.
    #[must_use]
    pub fn pinning(self, pins: Arc<dyn Pins>) -> Self {
        Self { pins, ..self }
    }

    /// The same, which charges what it allows to budgets. Without, none limits anything.
    #[must_use]
    pub fn charging(self, accounting: Arc<Accounting>) -> Self {
        Self {
            accounting: Some(accounting),
            ..self
        }
    }

    pub(crate) fn accounting(&self) -> Option<&Accounting> {
        self.accounting.as_deref()
    }

    /// Where loops and runaways are counted.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn pins(&self) -> &Arc<dyn Pins> {
        &self.pins
    }

    /// What the bytes of a connection must show before it can be decided. Pure; records nothing.
    #[must_use]
    pub fn foresee(&self, client: &Client, target: &Target) -> Foreseen {
        let policy = self.policies.current();
        let ruling = match self.agent(&policy, client.agent) {
            Ok(agent) => {
                let moment = self.moment(client);
                policy.decide(agent, &moment.facts(target, Seen::NotYet))
            }
            Err(_) => return Foreseen::Deny,
        };
        match ruling.outcome {
            RulingOutcome::Allow(handling) => Foreseen::Allow(handling),
            RulingOutcome::Undecided => Foreseen::NeedsRequest,
            RulingOutcome::Deny => Foreseen::Deny,
        }
    }

    /// Whether TLS to a target is to be terminated, so that what is inside is decided request by
    /// request. Pure; records nothing.
    #[must_use]
    pub fn inspects(&self, client: &Client, target: &Target) -> bool {
        let policy = self.policies.current();
        let moment = self.moment(client);
        self.agent(&policy, client.agent)
            .is_ok_and(|agent| policy.inspects(agent, &moment.facts(target, Seen::NotYet)))
    }

    /// Decides and records a TCP connection whose bytes pass undecoded. One that is to be inspected
    /// is denied; an agent that is only observed goes on with it, spliced. `tls`: they are TLS.
    /// `behind` as for [`Self::request`].
    pub async fn connection(
        &self,
        client: &Client,
        target: &Target,
        behind: &[IpAddr],
        tls: bool,
    ) -> Decided {
        let spoken = if tls { Spoken::Tls } else { Spoken::Other };
        let none = Demand::default();
        let brings = Brings {
            demand: &none,
            says: None,
            content: None,
            is_beside: false,
            carries: Some(0),
        };
        self.decide(client, target, behind, spoken.seen(), brings)
            .await
    }

    /// Decides and records one HTTP request. `behind` are the addresses that a name may lead to: one
    /// that a rule denies it for is the target's.
    pub async fn request(
        &self,
        client: &Client,
        target: &Target,
        behind: &[IpAddr],
        asked: &Asked,
    ) -> Decided {
        self.request_saying(client, target, behind, asked, None)
            .await
    }

    /// The same of a request whose content is here, to be read once more where a budget needs it.
    pub async fn request_saying(
        &self,
        client: &Client,
        target: &Target,
        behind: &[IpAddr],
        asked: &Asked,
        says: Option<&dyn Says>,
    ) -> Decided {
        let seen = Seen::Request(asked.seen());
        let brings = Brings {
            demand: asked.demand(),
            says,
            content: asked.content(),
            is_beside: asked.is_beside(),
            carries: asked.carries(),
        };
        self.decide(client, target, behind, seen, brings).await
    }

    /// Records a denial that no rule gave: malformed input, names that disagree, a limit. An agent
    /// that is only observed goes on where the connection can be carried all the same.
    pub async fn refuse(
        &self,
        client: &Client,
        target: &Target,
        kind: ActionKind,
        reason: Reason,
    ) -> Decided {
        let started = Instant::now();
        let policy = self.policies.current();
        let mode = self
            .agent(&policy, client.agent)
            .map_or(Mode::Enforce, |agent| agent.mode);
        let carried = kind == ActionKind::Connect
            && matches!(
                reason.code,
                ReasonCode::NameMismatch | ReasonCode::TlsMalformed
            );
        let going = (carried && mode != Mode::Enforce).then_some(Handling::Splice);
        self.conclude(
            &policy,
            Draft {
                client: Some(client),
                layer: Layer::Proxy,
                action: action(kind, target),
                verdict: Verdict::Deny,
                enforced: going.is_none(),
                mode,
                reason,
                matched: Vec::new(),
                count: 1,
                started,
            },
            going,
        )
        .await
    }

    /// Records connections that were not looked at: of which nobody knows whose they are, or so many
    /// that only their number is known.
    pub async fn refuse_unseen(
        &self,
        client: Option<&Client>,
        reason: Reason,
        count: u64,
    ) -> Decided {
        let policy = self.policies.current();
        self.conclude(
            &policy,
            Draft {
                client,
                layer: Layer::Proxy,
                action: Action {
                    transport: Some(Transport::Tcp),
                    ..Action::new(ActionKind::Connect)
                },
                verdict: Verdict::Deny,
                enforced: true,
                mode: Mode::Enforce,
                reason,
                matched: Vec::new(),
                count,
                started: Instant::now(),
            },
            None,
        )
        .await
    }

    /// What the policy says of a name for an agent. Pure; records nothing.
    #[must_use]
    pub fn name(&self, agent: AgentId, name: &HostName) -> NameRuling {
        let policy = self.policies.current();
        match self.agent(&policy, agent) {
            Ok(agent) => policy.decide_name(agent, name),
            Err(reason) => NameRuling {
                allowed: false,
                verdict: Verdict::Deny,
                enforced: true,
                mode: Mode::Enforce,
                reason,
                matched: Vec::new(),
                addresses: Addresses::Virtual,
                ranges: Vec::new(),
            },
        }
    }

    /// Which provider of language models answers at a host, if one does. Pure; records nothing.
    #[must_use]
    pub fn provider(&self, host: &HostName) -> Option<Provider> {
        self.policies.current().provider(host).cloned()
    }

    /// Whether a rule looks at the tools that a model asks to call. Pure; records nothing.
    #[must_use]
    pub fn looks_at_tool_calls(&self) -> bool {
        self.policies.current().looks_at_tool_calls()
    }

    /// Whether a rule has tool calls cut out of answers. Pure; records nothing.
    #[must_use]
    pub fn cuts_tool_calls(&self) -> bool {
        self.policies.current().cuts_tool_calls()
    }

    /// Whether a rule changes contents, or keeps them, or a budget may lower a limit in them. Pure; records nothing.
    #[must_use]
    pub fn needs_contents(&self) -> bool {
        let policy = self.policies.current();
        policy.needs_contents() || policy.looks_at_usage()
    }

    /// Which server of tools answers at a path of a host, if one does. Pure; records nothing.
    #[must_use]
    pub fn tool_server(&self, host: &HostName, path: &str) -> Option<Arc<ToolServer>> {
        let policy = self.policies.current();
        policy.tool_server(host, path).map(Arc::clone)
    }

    /// The arguments of calls of tools that rules look at, by JSON Pointer. Pure; records nothing.
    #[must_use]
    pub fn looked_at_arguments(&self) -> Vec<String> {
        let policy = self.policies.current();
        policy.looked_at_arguments().map(str::to_owned).collect()
    }

    /// Of the tools of a server those of which some call would go on, sent as this request. Pure; records nothing.
    #[must_use]
    pub fn may_call(
        &self,
        client: &Client,
        target: &Target,
        asked: &Asked,
        server: &str,
        names: &[String],
    ) -> Vec<bool> {
        let policy = self.policies.current();
        let moment = self.moment(client);
        let facts = moment.facts(target, Seen::Request(asked.seen()));
        let agent = self.agent(&policy, client.agent);
        let may = |name: &String| {
            let agent = agent.as_ref();
            agent.is_ok_and(|agent| policy.may_call(agent, &facts, server, name))
        };
        names.iter().map(may).collect()
    }

    /// Whether an agent's denials are recorded only.
    #[must_use]
    pub fn observes(&self, agent: AgentId) -> bool {
        let policy = self.policies.current();
        self.agent(&policy, agent)
            .is_ok_and(|agent| agent.mode != Mode::Enforce)
    }

    /// Records what became of a query for a name: the ruling of [`Self::name`], or in its place a
    /// reason that came up later.
    ///
    /// # Errors
    /// Why it could not be recorded.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call in the wiring of the resolver"
    )]
    pub async fn name_answered(
        &self,
        client: Option<&Client>,
        name: Option<HostName>,
        types: &[String],
        transport: Transport,
        ruling: Option<&NameRuling>,
        later: Option<(Verdict, bool, Reason)>,
        count: u64,
        started: Instant,
    ) -> Result<DecisionId, Reason> {
        let policy = self.policies.current();
        let (verdict, enforced, reason) = match (later, ruling) {
            (Some(later), _) => later,
            (None, Some(ruling)) => (ruling.verdict, ruling.enforced, ruling.reason.clone()),
            (None, None) => (
                Verdict::Deny,
                true,
                Reason::new(ReasonCode::Internal, "The query was not looked at."),
            ),
        };
        let action = Action {
            transport: Some(transport),
            host: name,
            port: Some(53),
            method: (!types.is_empty()).then(|| types.join(",")),
            ..Action::new(ActionKind::DnsQuery)
        };
        let decision = self.decision(
            &policy,
            Draft {
                client,
                layer: Layer::Dns,
                action,
                verdict,
                enforced,
                mode: ruling.map_or(Mode::Enforce, |ruling| ruling.mode),
                reason,
                matched: ruling
                    .map(|ruling| ruling.matched.clone())
                    .unwrap_or_default(),
                count,
                started,
            },
        );
        self.recorder
            .write(decision)
            .await
            .map_err(|refused| refused.reason)
    }

    /// Notes what became of an allowed action.
    pub fn finished(&self, decided: &Decided, outcome: Outcome) {
        if let Some(ticket) = decided.ticket() {
            limits::ended(ticket, &outcome);
        }
        if let Some(id) = decided.id {
            self.recorder.outcome(id, outcome);
        }
    }

    /// Keeps contents of an allowed action, if they are to be kept.
    pub fn keep(&self, decided: &Decided, contents: Contents) {
        if let (Some(id), Some(agent)) = (decided.id, decided.keeps())
            && !contents.is_empty()
        {
            self.recorder.contents(id, agent, contents);
        }
    }

    /// The policies.
    #[must_use]
    pub fn policies(&self) -> &Arc<Policies> {
        &self.policies
    }

    /// Who is who.
    #[must_use]
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// Where decisions go.
    #[must_use]
    pub fn recorder(&self) -> &Arc<R> {
        &self.recorder
    }

    async fn decide(
        &self,
        client: &Client,
        target: &Target,
        behind: &[IpAddr],
        seen: Seen<'_>,
        brings: Brings<'_>,
    ) -> Decided {
        let started = Instant::now();
        let policy = self.policies.current();
        let (target, mut ruling) = self.rule_behind(&policy, client, target, behind, seen);
        let (mut held, mut spent) = (None, None);
        let (mut ticket, mut retry_after) = (None, None);
        if matches!(ruling.outcome, RulingOutcome::Allow(_)) {
            match self.limit(
                &policy,
                client,
                &target,
                seen,
                (brings.content, brings.is_beside),
            ) {
                Limiting::Passes(it, on_paper) => {
                    ticket = it;
                    ruling.matched.extend(on_paper);
                }
                Limiting::Refused(denial) => {
                    retry_after = denial.retry_after;
                    ruling = denial.ruling();
                }
            }
        }
        if matches!(ruling.outcome, RulingOutcome::Allow(_)) {
            let said = (brings.demand, brings.says, brings.carries);
            let charging = self.charge(&policy, client, &target, seen, said);
            match charging.await {
                Charging::Free => {}
                Charging::Held(it) => held = Some(it),
                Charging::Refused(mut denial) => {
                    // SDKs come again with what budgets refuse for a moment: that is no repetition.
                    if let Some(ticket) = ticket.take() {
                        ticket.give_back();
                    }
                    spent = denial.spent.take();
                    ruling = denial.ruling();
                }
            }
        }
        // Also one that nobody is told of: whoever refuses the call behind this gives it back.
        let held = (held, ticket);
        let concluding =
            self.conclude_charged(&policy, client, &target, seen, ruling, held, started);
        let decided = concluding.await.for_want_of(spent);
        decided.again_in(retry_after)
    }

    /// On whose behalf a client acts, and what holds now.
    pub(crate) fn moment(&self, client: &Client) -> Moment {
        let run = self.directory.run_of(client.run);
        Moment::new(run, client.run, self.policies.switches())
    }

    /// What a policy says. Pure.
    pub(crate) fn rule(
        &self,
        policy: &Policy,
        client: &Client,
        target: &Target,
        seen: Seen<'_>,
    ) -> Ruling {
        self.rule_over(Transport::Tcp, policy, client, target, seen)
    }

    /// The same, over any transport.
    pub(crate) fn rule_over(
        &self,
        transport: Transport,
        policy: &Policy,
        client: &Client,
        target: &Target,
        seen: Seen<'_>,
    ) -> Ruling {
        match self.agent(policy, client.agent) {
            Ok(agent) => {
                let moment = self.moment(client);
                let facts = Facts {
                    transport,
                    ..moment.facts(target, seen)
                };
                let ruling = policy.decide(agent, &facts);
                self.unless_held(policy, agent, seen, ruling)
            }
            Err(reason) => Ruling {
                outcome: RulingOutcome::Deny,
                verdict: Verdict::Deny,
                enforced: true,
                mode: Mode::Enforce,
                reason,
                matched: Vec::new(),
                changes: Vec::new(),
                on_paper: Vec::new(),
                captures: false,
                cuts: false,
            },
        }
    }

    /// Records what a policy said of an action of which everything is seen.
    pub(crate) async fn conclude_ruling(
        &self,
        policy: &Policy,
        client: &Client,
        target: &Target,
        seen: Seen<'_>,
        ruling: Ruling,
        started: Instant,
    ) -> Decided {
        let nothing = (None, None);
        self.conclude_charged(policy, client, target, seen, ruling, nothing, started)
            .await
    }

    /// The same, with what it holds of its budgets, and what limits are told at its end.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a decision, put together here alone"
    )]
    async fn conclude_charged(
        &self,
        policy: &Policy,
        client: &Client,
        target: &Target,
        seen: Seen<'_>,
        ruling: Ruling,
        (held, ticket): (Option<Arc<Held>>, Option<Arc<Ticket>>),
        started: Instant,
    ) -> Decided {
        let mut what = action(ActionKind::Connect, target);
        if let Seen::Request(request) = seen {
            what.kind = ActionKind::HttpRequest;
            what.method = Some(request.method.to_owned());
            what.path = Some(request.path.to_owned());
            what.query = request.query.map(|query| policy.recorded_query(query));
            what.headers = request
                .fields
                .map(|fields| policy.recorded_fields(fields))
                .unwrap_or_default();
            what.body = (request.body > 0).then_some(request.body);
            what.tls = request.tls;
            what.websocket = request.websocket;
            what.claims = request.claims.to_vec();
            let agent = self.agent(policy, client.agent);
            for claim in &mut what.claims {
                let trusts = |agent: &&AgentPolicy| agent.trusts.contains(&claim.source);
                claim.trusted = agent.as_ref().is_ok_and(trusts);
            }
            if let Some(llm) = request.llm {
                if !request.opens_calls {
                    what.kind = ActionKind::LlmCall;
                }
                what.llm = Some(llm.clone());
            }
            if let Some(tool) = request.tool {
                if tool.name.is_some() {
                    what.kind = ActionKind::ToolCall;
                }
                what.tool = Some(policy.recorded_tool(tool));
            }
        } else {
            what.tls = seen == Seen::Tls;
        }
        let going = match ruling.outcome {
            RulingOutcome::Allow(handling) => Some(handling),
            // Everything was seen: what is undecided now was not allowed.
            RulingOutcome::Deny | RulingOutcome::Undecided => None,
        };
        let trace = match seen {
            Seen::Request(request) => request.fields.and_then(trace_parent),
            _ => None,
        };
        let changed = ruling.changed();
        let concluded = self.conclude_with(
            policy,
            Draft {
                client: Some(client),
                layer: Layer::Proxy,
                action: what,
                verdict: ruling.verdict,
                enforced: ruling.enforced,
                mode: ruling.mode,
                reason: ruling.reason,
                matched: ruling.matched,
                count: 1,
                started,
            },
            going,
            Beside {
                trace,
                changed,
                held,
                ticket,
            },
        );
        let mut decided = concluded.await;
        if decided.allowed {
            decided.changes = ruling.changes.into();
            let keeps = ruling.captures.then(|| self.directory.name(client.agent));
            decided.keep(keeps.flatten());
        }
        // What could not be recorded is denied as a whole.
        decided.cuts = ruling.cuts && decided.id.is_some();
        decided
    }

    /// Records, and says what to do: what cannot be recorded is denied.
    pub(crate) async fn conclude(
        &self,
        policy: &Policy,
        draft: Draft<'_>,
        going: Option<Handling>,
    ) -> Decided {
        let nothing = Beside::default();
        self.conclude_with(policy, draft, going, nothing).await
    }

    /// The same, with more.
    pub(crate) async fn conclude_with(
        &self,
        policy: &Policy,
        draft: Draft<'_>,
        going: Option<Handling>,
        Beside {
            trace,
            changed,
            held,
            ticket,
        }: Beside,
    ) -> Decided {
        let started = draft.started;
        let allowed = going.is_some();
        let handling = going.unwrap_or(Handling::Splice);
        let reason = draft.reason.clone();
        let mut decision = self.decision(policy, draft);
        decision.trace_parent = trace;
        decision.changes = changed.map(Box::new);
        decision.budget = held.as_deref().map(Held::lines).unwrap_or_default();
        let agent = decision.agent.as_ref().map(|agent| &agent.name);
        let trusts = |own: &AgentPolicy| own.trusts.contains(&ClaimSource::Traceparent);
        if let Some(trace) = trace
            && agent
                .and_then(|name| policy.agent(name))
                .is_some_and(trusts)
        {
            // Each request may have another one: among the claims it would keep equal denials from being counted together.
            decision
                .context
                .trace_id
                .get_or_insert_with(|| trace.trace_id());
        }
        match self.recorder.write(decision).await {
            Ok(id) => Decided {
                id: Some(id),
                allowed,
                handling,
                reason,
                changes: Box::default(),
                aside: Aside::holding(held, ticket),
                cuts: false,
                started,
            },
            Err(refused) => Decided {
                id: None,
                allowed: false,
                handling,
                reason: refused.reason,
                changes: Box::default(),
                aside: None,
                cuts: false,
                started,
            },
        }
    }

    pub(crate) fn decision(&self, policy: &Policy, draft: Draft<'_>) -> Box<Decision> {
        // The time first: an id is never older than the time of its decision.
        let time = Timestamp::now();
        let id = self.ids.next();
        let (agent, mut context) = match draft.client {
            Some(client) => self.directory.describe(client.agent, client.run, policy),
            None => (None, agentguard_model::Context::default()),
        };
        let own = agent.as_ref().and_then(|agent| policy.agent(&agent.name));
        for claim in own.iter().flat_map(|own| own.trusted(&draft.action.claims)) {
            context.fill(&claim.context);
        }
        let decision = Box::new(Decision {
            id,
            time,
            agent,
            context,
            process: draft.client.map(|client| client.process.clone()),
            layer: draft.layer,
            action: draft.action,
            verdict: draft.verdict,
            enforced: draft.enforced,
            mode: draft.mode,
            reason: draft.reason,
            matched: draft.matched,
            changes: None,
            budget: Vec::new(),
            findings: Vec::new(),
            count: draft.count,
            last: None,
            latency_us: micros(draft.started.elapsed()),
            trace_parent: None,
            policy_version: policy.version().to_owned(),
            outcome: None,
        });
        if let Some(level) = policy.log_level(&decision.matched) {
            self.log.tell(level, &decision);
        }
        decision
    }

    pub(crate) fn agent<'a>(
        &self,
        policy: &'a Policy,
        id: AgentId,
    ) -> Result<&'a AgentPolicy, Reason> {
        let unknown = |name: &str| {
            Reason::new(
                ReasonCode::NoAgent,
                format!("The policy has no agent {name}, so nothing is allowed to it."),
            )
        };
        self.directory.look_at(id, |name, quarantined| {
            if quarantined {
                // Why is the operator's: agents read this.
                let message = "The agent is quarantined.";
                return Err(Reason::new(ReasonCode::Quarantined, message));
            }
            let name = name.ok_or_else(|| unknown(&format!("with the number {}", id.0)))?;
            policy.agent(name).ok_or_else(|| unknown(name.as_str()))
        })
    }
}

pub(crate) fn action(kind: ActionKind, target: &Target) -> Action {
    Action {
        transport: Some(Transport::Tcp),
        host: target.host.clone(),
        ip: target.ip.map(|ip: IpAddr| ip.to_canonical()),
        port: Some(target.port),
        ..Action::new(kind)
    }
}

/// The trace that a request says it belongs to. Of several fields none counts, nor one that is malformed
/// (W3C Trace Context, 3.2 and 4.3).
pub(crate) fn trace_parent(fields: &HeaderMap) -> Option<TraceParent> {
    let mut values = fields.get_all("traceparent").iter();
    let value = values.next()?;
    values.next().is_none().then_some(())?;
    value.to_str().ok()?.parse().ok()
}

fn micros(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}

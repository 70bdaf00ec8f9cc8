//! The record, and beside it a note of what passes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use agentguard_decision::{RecordRefused, Recorder};
use agentguard_model::contents::Contents;
use agentguard_model::{
    ActionKind, AgentName, Decision, DecisionId, HostName, Layer, Llm, Outcome, ReasonCode, Tool,
    TraceParent, Verdict,
};
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::Lost;

/// A record whose decisions and outcomes are counted too, where somebody counts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Watched<R> {
    record: R,
    feed: Option<Feed>,
}

impl<R> Watched<R> {
    /// Without a feed nothing is counted.
    pub const fn new(record: R, feed: Option<Feed>) -> Self {
        Self { record, feed }
    }

    /// The record itself.
    pub const fn record(&self) -> &R {
        &self.record
    }
}

impl<R: Recorder> Recorder for Watched<R> {
    async fn write(&self, decision: Box<Decision>) -> Result<DecisionId, RecordRefused> {
        let Some(feed) = &self.feed else {
            return self.record.write(decision).await;
        };
        let mut decided = Decided::of(&decision);
        let begun = Instant::now();
        let written = self.record.write(decision).await;
        decided.written = begun.elapsed();
        match &written {
            Ok(id) => decided.recorded = Some(*id),
            Err(refused) => decided.refused(refused.reason.code),
        }
        feed.tell(Note::Decided(Box::new(decided)));
        written
    }

    fn together<T>(&self, begins: impl FnOnce() -> T) -> T {
        self.record.together(begins)
    }

    fn outcome(&self, id: DecisionId, outcome: Outcome) {
        if let Some(feed) = &self.feed {
            feed.tell(Note::Ended(id, Box::new(outcome.clone())));
        }
        self.record.outcome(id, outcome);
    }

    fn contents(&self, id: DecisionId, agent: &AgentName, contents: Contents) {
        self.record.contents(id, agent, contents);
    }
}

/// Where notes go.
#[derive(Clone, Debug)]
pub struct Feed {
    notes: mpsc::Sender<Note>,
    lost: Arc<Lost>,
}

impl Feed {
    pub(crate) const fn new(notes: mpsc::Sender<Note>, lost: Arc<Lost>) -> Self {
        Self { notes, lost }
    }

    /// Never waits: what has no room is counted and lost.
    fn tell(&self, note: Note) {
        if self.notes.try_send(note).is_err() {
            self.lost.notes.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The engine of budgets, as decisions name it.
const BUDGETS: &str = "budget";

/// Something passed on its way to the record.
#[derive(Debug)]
pub(crate) enum Note {
    Decided(Box<Decided>),
    Ended(DecisionId, Box<Outcome>),
}

/// What is told of a decision.
#[derive(Clone, Debug)]
pub(crate) struct Decided {
    pub(crate) id: DecisionId,
    /// Under which it can be looked up; none: it could not be recorded.
    pub(crate) recorded: Option<DecisionId>,
    pub(crate) agent: Option<AgentName>,
    pub(crate) layer: Layer,
    pub(crate) kind: ActionKind,
    pub(crate) verdict: Verdict,
    pub(crate) enforced: bool,
    pub(crate) reason: ReasonCode,
    pub(crate) count: u64,
    pub(crate) latency: Duration,
    pub(crate) written: Duration,
    /// The budget that had too little left, where it was refused for that.
    pub(crate) budget: Option<String>,
    /// The limit or breaker that refused it, likewise.
    pub(crate) limit: Option<String>,
    /// Of a call of a language model or a tool.
    pub(crate) call: Option<Call>,
}

/// What is told of a call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) time: Timestamp,
    pub(crate) llm: Option<Llm>,
    pub(crate) tool: Option<Tool>,
    pub(crate) host: Option<HostName>,
    pub(crate) port: Option<u16>,
    pub(crate) rule: Option<String>,
    pub(crate) run_trace: Option<String>,
    pub(crate) parent: Option<TraceParent>,
}

impl Decided {
    pub(crate) fn of(decision: &Decision) -> Self {
        let action = &decision.action;
        let is_call =
            action.llm.is_some() || action.kind == ActionKind::ToolCall && action.tool.is_some();
        Self {
            id: decision.id,
            recorded: None,
            agent: decision.agent.as_ref().map(|agent| agent.name.clone()),
            layer: decision.layer,
            kind: action.kind,
            verdict: decision.verdict,
            enforced: decision.enforced,
            reason: decision.reason.code,
            count: decision.count.max(1),
            latency: Duration::from_micros(decision.latency_us),
            written: Duration::ZERO,
            budget: refusing(decision),
            limit: limiting(decision),
            call: is_call.then(|| Call {
                time: decision.time,
                llm: action.llm.clone(),
                tool: action.tool.clone(),
                host: action.host.clone(),
                port: action.port,
                rule: decision.matched.first().map(|matched| matched.rule.clone()),
                run_trace: decision.context.trace_id.clone(),
                parent: decision.trace_parent,
            }),
        }
    }

    /// What cannot be recorded is denied; but what the kernel or an operator did is done.
    fn refused(&mut self, code: ReasonCode) {
        if !matches!(self.layer, Layer::Kernel | Layer::Operator) {
            (self.verdict, self.enforced, self.reason) = (Verdict::Deny, true, code);
        }
    }

    /// Whether the action goes on, and will end.
    pub(crate) fn goes_on(&self) -> bool {
        self.verdict != Verdict::Deny || !self.enforced
    }
}

/// The budget for which an attempt was refused. What decides it is the reason: what is denied for another may have met
/// budgets, too.
fn refusing(decision: &Decision) -> Option<String> {
    let short = matches!(
        decision.reason.code,
        ReasonCode::BudgetExhausted | ReasonCode::BudgetHeld
    );
    let mut matched = decision.matched.iter();
    let budget = matched.find(|it| short && it.engine == BUDGETS)?;
    Some(budget.rule.clone())
}

/// The limit or breaker for which an attempt was refused, likewise.
fn limiting(decision: &Decision) -> Option<String> {
    let limited = matches!(
        decision.reason.code,
        ReasonCode::RateLimited
            | ReasonCode::RepeatedCall
            | ReasonCode::RetryStorm
            | ReasonCode::NoProgress
            | ReasonCode::ChainTooDeep
            | ReasonCode::CircuitOpen
    );
    let limit = decision.matched.first().filter(|_| limited)?;
    Some(limit.rule.clone())
}

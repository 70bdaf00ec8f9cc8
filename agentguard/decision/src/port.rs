//! What goes in and out of the pipeline, and what it asks of outer rooms.

use std::borrow::Cow;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use agentguard_budget::limits::Ticket;
use agentguard_model::budget::Spent;
use agentguard_model::contents::Contents;
use agentguard_model::{
    AgentId, AgentName, Decision, DecisionId, Handling, HostName, Outcome, Process, Reason,
};
use agentguard_policy::Changes;
use agentguard_protocol::json::edit::Edits;

use crate::budgets::Held;
use crate::limits;

/// Where decisions are recorded.
pub trait Recorder: Send + Sync + 'static {
    /// Writes a decision so that it survives the death of this process, and answers with the id
    /// under which it can be looked up: an identical denial that was aggregated answers with the
    /// id of the record that counts it.
    ///
    /// # Errors
    /// [`RecordRefused`] if it could not be written; the caller then denies.
    ///
    /// # Cancel safety
    /// A dropped future may or may not have written the decision; it never writes half of it.
    fn write(
        &self,
        decision: Box<Decision>,
    ) -> impl Future<Output = Result<DecisionId, RecordRefused>> + Send;

    /// Calls `begins`, in which writes may be begun on this thread, and none is waited for: they are seen to together when
    /// it returns, and end soon after. By itself a write is seen to where it is begun.
    fn together<T>(&self, begins: impl FnOnce() -> T) -> T {
        begins()
    }

    /// Notes what became of an allowed action. Never blocks; what cannot be kept is told as a gap.
    fn outcome(&self, id: DecisionId, outcome: Outcome);

    /// Keeps contents of what an agent was allowed, beside the record. Never blocks; what cannot be kept is counted.
    fn contents(&self, id: DecisionId, agent: &AgentName, contents: Contents);
}

/// What a call of a language model says, for who has to read it once more.
pub trait Says: Send + Sync {
    /// Its JSON without content codings, from the beginning, in pieces of any size; a part of it where it cannot be had as a
    /// whole.
    fn pieces(&self) -> Box<dyn Iterator<Item = Cow<'_, [u8]>> + Send + '_>;
}

/// A decision could not be recorded.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}", reason.message)]
pub struct RecordRefused {
    /// [`agentguard_model::ReasonCode::RecordFailed`] or
    /// [`agentguard_model::ReasonCode::RecordQuota`], with the sentence.
    pub reason: Reason,
}

/// Who acts, as the kernel told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Client {
    /// The agent.
    pub agent: AgentId,
    /// The number of the run, which has the context, or 0.
    pub run: u32,
    /// The process.
    pub process: Process,
}

impl Target {
    /// The same at this address.
    #[must_use]
    pub fn at(&self, ip: IpAddr) -> Self {
        Self {
            ip: Some(ip),
            ..self.clone()
        }
    }
}

/// Where an action goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// The name, where one is known.
    pub host: Option<HostName>,
    /// The address that was dialled, unless it was a virtual one.
    pub ip: Option<IpAddr>,
    /// The TCP port.
    pub port: u16,
}

/// What a connection's decision will need, before anything is recorded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Foreseen {
    /// Allowed whatever the bytes say, with this handling. With [`Handling::Inspect`] every request
    /// is allowed, and bytes that show none are denied.
    Allow(Handling),
    /// Denied whatever the bytes say.
    Deny,
    /// A rule looks at the request: the bytes must show one.
    NeedsRequest,
}

/// A decision that was taken and recorded.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The id to look it up by; absent only where the record refused.
    pub id: Option<DecisionId>,
    /// Whether to pass it on. True for a denial that is not enforced.
    pub allowed: bool,
    /// How to carry it, if allowed. Never [`Handling::Inspect`] for a connection whose bytes are
    /// not understood.
    pub handling: Handling,
    /// Why.
    pub reason: Reason,
    /// What is to be changed in the request before it is sent on, in this order.
    pub changes: Box<[Arc<Changes>]>,
    /// Where it denies tool calls that a model asks for: whether these are cut out of the answer, and the rest goes on.
    pub cuts: bool,
    /// What few of them have.
    pub aside: Option<Box<Aside>>,
    /// When the decision was taken, for [`Outcome::duration_ms`].
    pub started: Instant,
}

/// What a decision has beside, where it has anything.
#[derive(Clone, Debug, Default)]
pub struct Aside {
    /// Whose contents are to be kept, if they are.
    pub keeps: Option<AgentName>,
    /// What it holds of its budgets, if anything is charged for it.
    pub held: Option<Arc<Held>>,
    /// The account that has too little for it, where a budget denies it.
    pub spent: Option<Spent>,
    /// What limits and breakers are told at its end, if any are.
    pub ticket: Option<Arc<Ticket>>,
    /// In how many seconds its client may come again, where a limit or a breaker denies it and that is worth it.
    pub retry_after: Option<u64>,
}

impl Aside {
    /// Of what holds this, if it holds anything.
    pub(crate) fn holding(
        held: Option<Arc<Held>>,
        ticket: Option<Arc<Ticket>>,
    ) -> Option<Box<Self>> {
        (held.is_some() || ticket.is_some()).then(|| {
            Box::new(Self {
                held,
                ticket,
                ..Self::default()
            })
        })
    }
}

impl Decided {
    /// Whose contents are to be kept, if they are.
    #[must_use]
    pub fn keeps(&self) -> Option<&AgentName> {
        self.aside.as_ref()?.keeps.as_ref()
    }

    /// What it holds of its budgets, if anything is charged for it.
    #[must_use]
    pub fn held(&self) -> Option<&Arc<Held>> {
        self.aside.as_ref()?.held.as_ref()
    }

    /// The account that has too little for it, where a budget denies it.
    #[must_use]
    pub fn spent(&self) -> Option<&Spent> {
        self.aside.as_ref()?.spent.as_ref()
    }

    pub(crate) fn ticket(&self) -> Option<&Ticket> {
        self.aside.as_ref()?.ticket.as_deref()
    }

    /// In how many seconds its client may come again, where a limit or a breaker denies it and that is worth it.
    #[must_use]
    pub fn retry_after(&self) -> Option<u64> {
        self.aside.as_ref()?.retry_after
    }

    /// Its upstream has answered with this status.
    pub fn began(&self, status: u16) {
        if let Some(ticket) = self.ticket()
            && limits::began(status).is_some()
        {
            ticket.began();
        }
    }

    /// Its upstream broke off what it had begun.
    pub fn broke(&self) {
        if let Some(ticket) = self.ticket() {
            ticket.broke();
        }
    }

    /// How it ends is this side's doing, and says nothing of its upstream: its client broke off what it sent, or it cannot
    /// be carried here.
    pub fn says_nothing(&self) {
        if let Some(ticket) = self.ticket() {
            ticket.says_nothing();
        }
    }

    /// It is refused behind this, before anything of it was sent: it holds nothing any more, and rates and repetitions do
    /// not count it, so that it may come again.
    pub fn gives_back(&self) {
        if let Some(held) = self.held() {
            held.release();
        }
        if let Some(ticket) = self.ticket() {
            ticket.give_back();
        }
    }

    pub(crate) fn keep(&mut self, agent: Option<AgentName>) {
        if agent.is_some() {
            self.aside.get_or_insert_default().keeps = agent;
        }
    }

    /// The same, which this account has too little for.
    pub(crate) fn for_want_of(mut self, spent: Option<Box<Spent>>) -> Self {
        if let Some(spent) = spent {
            self.aside.get_or_insert_default().spent = Some(*spent);
        }
        self
    }

    /// The same, which may be tried again in so many seconds.
    pub(crate) fn again_in(mut self, seconds: Option<u64>) -> Self {
        if seconds.is_some() {
            self.aside.get_or_insert_default().retry_after = seconds;
        }
        self
    }

    /// What rules change in its content, in this order.
    pub fn edits(&self) -> impl Iterator<Item = &Edits> {
        self.changes.iter().filter_map(|changes| changes.edits())
    }
}

//! What the resolver needs of the rooms it does not know.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use agentguard_model::{AgentId, DecisionId, HostName, Process, Reason, Transport};
use ipnet::IpNet;

/// Who sent a query.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Client {
    /// The agent.
    pub agent: AgentId,
    /// The number of the run, or 0. Not looked at here; it has the context of the decision.
    pub run: u32,
    /// The process, as the kernel saw it when it sent.
    pub process: Process,
    /// The cookie of the socket it was sent from, or 0 where it is not known. Queries of one
    /// attempt share it.
    pub socket: u64,
}

/// What a name is answered with.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Addresses {
    /// Addresses that stand for the name.
    #[default]
    Virtual,
    /// The name's own addresses, for clients that refuse reserved ranges.
    Real,
}

/// What the policy says of a name.
#[derive(Clone, Debug)]
pub struct Ruling<T> {
    /// Whether it is answered: the verdict after modes.
    pub allowed: bool,
    /// Why. Its sentence goes into a refusal as RFC 8914 extra text.
    pub reason: Reason,
    /// What it is answered with.
    pub addresses: Addresses,
    /// Special ranges that the rules for this name permit on the resolved address. One counts only
    /// if it lies inside the special range it is about: see [`crate::guard`].
    pub ranges: Vec<IpNet>,
    /// Whether the agent's mode refuses nothing but what is refused in every mode. The rebinding
    /// guard then lets through what is not hard, and says so in [`Answered::unenforced`].
    pub observing: bool,
    /// Whether somebody else resolves it: a proxy of the operator's, through which it is reached. Where
    /// virtual addresses stand for it, upstream is not asked.
    pub elsewhere: bool,
    /// What the policy wants to see again in [`Port::record`]; not looked at here.
    pub token: T,
}

impl<T> Ruling<T> {
    /// Whether it is answered without being asked for.
    #[must_use]
    pub fn stands_alone(&self) -> bool {
        self.elsewhere && self.addresses == Addresses::Virtual
    }
}

/// What became of a query: the outcome of the *name*, which is the same for all record types of
/// one attempt.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// The policy refuses the name; the ruling has the reason. NXDOMAIN.
    Refused,
    /// The name has addresses that may be used: the real ones, after the guard; none where somebody
    /// else resolves it.
    Addresses(Vec<IpAddr>),
    /// The name exists and has no addresses, or the query asked for a record type of which an
    /// empty answer is the truth for a guarded agent. NODATA.
    Empty,
    /// The name does not exist, says upstream: `name_unknown`. NXDOMAIN. Verdict allow.
    Unknown(Reason),
    /// Upstream failed: `resolver_failed`. SERVFAIL. Verdict allow.
    Failed(Reason),
    /// The resolver itself refuses: `rebinding`, `virtual_addresses_exhausted`, `limit_reached`,
    /// `dns_malformed`, `dns_not_supported`, `origin_unknown`, `internal`. Verdict deny.
    Denied(Reason),
}

impl Answer {
    /// Whether the verdict is allow.
    #[must_use]
    pub const fn allows(&self) -> bool {
        match self {
            Self::Addresses(_) | Self::Empty | Self::Unknown(_) | Self::Failed(_) => true,
            Self::Refused | Self::Denied(_) => false,
        }
    }

    /// The reason that takes the place of the ruling's, if there is one.
    #[must_use]
    pub const fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Unknown(reason) | Self::Failed(reason) | Self::Denied(reason) => Some(reason),
            Self::Refused | Self::Addresses(_) | Self::Empty => None,
        }
    }
}

/// One attempt to resolve a name, for the record.
#[derive(Clone, Debug)]
pub struct Answered<T> {
    /// Who asked; nobody where the sender is not known to the gate.
    pub client: Option<Client>,
    /// Over what.
    pub transport: Transport,
    /// The name asked for; none where the message cannot be read or asks for no host name.
    pub name: Option<HostName>,
    /// The record types of the attempt known so far, as `A` or `TYPE65280`, in order of arrival.
    pub types: Vec<String>,
    /// What the policy said, where it was asked.
    pub ruling: Option<Ruling<T>>,
    /// What became of it.
    pub answer: Answer,
    /// What would have been refused, were the mode enforce.
    pub unenforced: Option<Reason>,
    /// How many queries this stands for: more than one only for queries over a limit.
    pub count: u64,
    /// When the query arrived.
    pub started: Instant,
}

/// The destinations that one agent may dial for a name from now on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Published {
    /// The virtual IPv4 address, where the name has a real IPv4 address and virtual ones are used.
    pub virtual4: Option<Ipv4Addr>,
    /// The virtual IPv6 address, likewise.
    pub virtual6: Option<Ipv6Addr>,
    /// The validated real addresses, IPv4 first. Without virtual ones these are what is dialled.
    pub real: Vec<IpAddr>,
    /// For how long the real addresses may be taken for this name's; at least as long as the
    /// longest TTL that is answered with them.
    pub ttl: Duration,
}

/// The rest of the worker, as the resolver sees it.
pub trait Port: Send + Sync + 'static {
    /// What the policy attaches to a ruling.
    type Token: Clone + Send + Sync + 'static;

    /// Who sends from `peer` in the network namespace `netns`. Asked once for each datagram and
    /// once for each TCP connection. A map look-up; it must not block.
    fn client(&self, netns: u64, peer: SocketAddr, transport: Transport) -> Option<Client>;

    /// What the policy says of `name` for `agent`. Pure.
    fn ruling(&self, agent: AgentId, name: &HostName) -> Ruling<Self::Token>;

    /// Records an attempt, before its answer leaves.
    ///
    /// # Errors
    /// The reason for which the record refuses; the query then gets SERVFAIL.
    fn record(
        &self,
        answered: Answered<Self::Token>,
    ) -> impl Future<Output = Result<DecisionId, Reason>> + Send;

    /// Calls `begins`, in which attempts may begin to be recorded on this thread, and none is waited for: together they cost
    /// less than one after the other.
    fn together(&self, begins: impl FnOnce()) {
        begins();
    }

    /// Makes the addresses mean the name for this agent; returns once the kernel knows.
    ///
    /// # Errors
    /// Why it could not; the query then gets SERVFAIL and [`Self::unanswered`] is called.
    fn publish(
        &self,
        agent: AgentId,
        name: &HostName,
        addresses: &Published,
    ) -> impl Future<Output = Result<(), Reason>> + Send;

    /// Says that an attempt that was recorded as allowed got no answer after all. Must not block.
    fn unanswered(&self, id: DecisionId, reason: &Reason);
}

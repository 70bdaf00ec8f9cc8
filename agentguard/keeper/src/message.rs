//! What the two halves say to each other, and what the command line asks of the keeper.
//!
//! One [`crate::packet::Packet`] each. The keeper trusts none of it: what the worker asks for is
//! checked against the keeper's own compiled policy, and what a client asks for against who the
//! kernel says it is.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use agentguard_model::ledger::SharedLedger;
use agentguard_model::record::RecordLimits;
use agentguard_model::{
    AgentId, AgentName, ConnectionRate, HostName, Labels, QuotaWindow, ResourceEvent,
    ResourceUsage, Telemetry, UpstreamEntry,
};
use serde::{Deserialize, Serialize};

use crate::groups::Groups;
use crate::home::Past;
use crate::sockets::OldSocket;
use crate::spawn::{RunContext, RunRequest};

/// Keeper to worker.
#[derive(Debug, Deserialize, Serialize)]
pub enum ToWorker {
    /// The first message. Descriptors: those of the gate's view, where figures are asked for if `telemetry` has that,
    /// then the control socket, then the one where agents ask.
    Start(Box<Start>),
    /// Listeners in a network namespace. Descriptors: as [`crate::namespace::Listening`] orders them.
    Listeners {
        /// Network namespace cookie.
        netns: u64,
        /// Whether the second half, on `::1`, is there.
        v6: bool,
    },
    /// The listeners of a network namespace are to be closed.
    NoListeners {
        /// Network namespace cookie.
        netns: u64,
    },
    /// A policy. Descriptor: its documents, and who may run its agents, see [`crate::documents`].
    Policy {
        /// Its number, which stands in the events of the gate.
        generation: u32,
    },
    /// An agent has a number.
    Agent {
        /// The number.
        id: AgentId,
        /// The agent.
        name: AgentName,
    },
    /// A run has begun.
    Run {
        /// Its number.
        run: u32,
        /// Whose it is.
        agent: AgentId,
        /// What its decisions say of who is behind them.
        context: RunContext,
        /// Labels in addition to the agent's.
        labels: Labels,
    },
    /// A run is over; its number is not used again while this keeper lives.
    RunEnded {
        /// Its number.
        run: u32,
    },
    /// An agent is quarantined, or not any more. What is under way for it ends at once; answered with
    /// [`ToKeeper::Cut`] once it has.
    Quarantine {
        /// A number to answer with.
        number: u32,
        /// The agent.
        agent: AgentId,
        /// It is.
        quarantined: bool,
    },
    /// Somebody changed the guard. It is to be recorded, and told with [`ToKeeper::Recorded`] when it is;
    /// until then it is told again to each new worker.
    Deed(Box<Deed>),
    /// What became of [`ToKeeper::Publish`].
    Published {
        /// The number of the request.
        request: u64,
        /// Why it was refused, if it was.
        refused: Option<String>,
    },
    /// What became of [`ToKeeper::Sign`].
    Signed {
        /// The number of the request.
        request: u64,
        /// The leaf, or why there is none.
        leaf: Result<SignedLeaf, String>,
    },
    /// Whether nobody below this cgroup may use the control socket. All that are governed have been told
    /// before [`Self::Serve`].
    Governed {
        /// The cgroup, as `/proc/PID/cgroup` shows it.
        cgroup: String,
        /// It is.
        governed: bool,
    },
    /// The state of the gate, for `status` and `agent list`.
    State(Box<State>),
    /// Everything that the worker needs before it serves has been said.
    Serve,
    /// Stop accepting, let flows end, exit.
    Drain {
        /// For how long.
        within: Duration,
    },
    /// Sockets that were open when their cgroup was adopted, and were closed: to be recorded.
    Closed {
        /// The agent.
        agent: AgentId,
        /// The sockets, at most [`CLOSED_AT_ONCE`].
        sockets: Vec<OldSocket>,
    },
    /// Connections that were there when their cgroup was adopted, and go on: to be recorded.
    Tolerated {
        /// The agent.
        agent: AgentId,
        /// The connections, at most [`CLOSED_AT_ONCE`].
        sockets: Vec<OldSocket>,
    },
    /// Connections to UNIX sockets of others that were there when a cgroup was adopted, and were closed: to be
    /// recorded.
    Shut {
        /// The agent.
        agent: AgentId,
        /// What the peers are called, at most [`CLOSED_AT_ONCE`].
        peers: Vec<String>,
    },
    /// What was open when a cgroup was adopted, sends past the gate and goes on: to be recorded.
    Past {
        /// The agent.
        agent: AgentId,
        /// What it is, a few at most.
        past: Vec<Past>,
    },
    /// How an operator has set a switch from now on. What is under way is decided again; answered with
    /// [`ToKeeper::Cut`] once nothing is decided by the old state any more.
    Switch {
        /// A number to answer with.
        number: u32,
        /// The switch.
        name: String,
        /// `None`: it is as the policy declares it.
        set: Option<Switch>,
    },
    /// A direct flow that the policy has come to deny, and that was ended: to be recorded.
    Ended(Box<Ended>),
    /// What an operator wants done with what tools were first seen as. To be recorded, done and answered with
    /// [`ToKeeper::Answered`].
    Tools {
        /// A number to answer with.
        number: u32,
        /// What is wanted.
        order: Box<ToolsOrder>,
        /// The user id of who orders it, in the initial user namespace.
        uid: u32,
    },
    /// What became of [`ToKeeper::Whose`].
    Belongs {
        /// The number of the request.
        request: u64,
        /// The agent, and the number of the run, or 0. `None`: it is no agent's.
        whose: Option<(AgentId, u32)>,
    },
    /// What agents take of the host now: those that were looked at. Said again every few seconds.
    Usage(Vec<(AgentId, ResourceUsage)>),
    /// An agent met a limit of what it may take of the host: to be recorded.
    Resource {
        /// The agent.
        agent: AgentId,
        /// What happened.
        event: ResourceEvent,
    },
    /// What an operator says that an account of a budget has used. To be recorded, done and answered with
    /// [`ToKeeper::Answered`].
    Budget {
        /// A number to answer with.
        number: u32,
        /// What is said.
        order: Box<BudgetOrder>,
        /// The user id of who says it, in the initial user namespace.
        uid: u32,
    },
    /// What an operator wants of limits and breakers. To be recorded, done and answered with [`ToKeeper::Answered`].
    Limits {
        /// A number to answer with.
        number: u32,
        /// What is wanted.
        order: Box<LimitOrder>,
        /// The user id of who wants it, in the initial user namespace.
        uid: u32,
    },
}

/// Sockets in one [`ToWorker::Closed`], so that it fits a packet.
pub const CLOSED_AT_ONCE: usize = 256;

/// The worker's settings.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Start {
    /// Where the worker keeps its state: the record and the names.
    pub state_dir: std::path::PathBuf,
    /// Upstream resolvers; none: those of the host.
    pub resolvers: Vec<std::net::SocketAddr>,
    /// Upstreams with authorities of their own.
    pub upstreams: Vec<UpstreamEntry>,
    /// The guard's groups: who besides root may use the control socket.
    pub groups: Groups,
    /// What this host or kernel lacks, and what that means.
    pub degraded: Vec<String>,
    /// The keeper's process id.
    pub keeper: u32,
    /// What is told to outside.
    pub telemetry: Telemetry,
    /// Where budgets are kept, if not on this host.
    pub ledger: Option<SharedLedger>,
    /// How much the record keeps.
    pub record: RecordLimits,
}

/// What the keeper knows of the gate.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct State {
    /// The agents that have a cgroup.
    pub agents: Vec<AgentState>,
    /// How many more have one: these are too many for one message.
    pub unlisted: usize,
    /// Cgroups that carry the gate, as many as have room in a message.
    pub attached: Vec<String>,
    /// How many more do.
    pub attached_more: usize,
    /// Programs, and the instructions that the verifier walked for each.
    pub programs: Vec<(String, Option<u32>)>,
    /// When the policy was loaded, in seconds since the epoch.
    pub policy_loaded: u64,
    /// What was wrong with the last policy that was not taken.
    pub policy_error: Option<String>,
    /// When the oldest cgroup was let in that may still hold a process, in seconds since the epoch.
    pub oldest: Option<u64>,
    /// Leaf certificates since the keeper's start.
    pub leaves: LeafCounts,
    /// Workers that were started, this one among them, since the keeper's start.
    pub workers: u64,
    /// Policies that were read anew since the keeper's start.
    pub reloads: Reloads,
}

/// What became of policies that were read anew.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Reloads {
    /// Put in force.
    pub taken: u64,
    /// Refused: the one before stayed in force.
    pub refused: u64,
}

/// How many leaf certificates were asked for, and what became of that.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct LeafCounts {
    /// Signed.
    pub signed: u64,
    /// Refused: the policy does not inspect that name, too many at once, a key of another kind.
    pub refused: u64,
}

/// What the keeper knows of an agent.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct AgentState {
    /// Its name.
    pub name: AgentName,
    /// Its number.
    pub id: AgentId,
    /// Its cgroups.
    pub cgroups: Vec<String>,
    /// Runs that have not ended.
    pub runs: u32,
    /// That nothing may leave it or reach it.
    pub quarantine: Option<Quarantine>,
    /// How much of the network it may use, and has used.
    pub quota: Option<QuotaState>,
    /// What of it the guard cannot hold, or not serve, a sentence each.
    pub warnings: Vec<String>,
}

/// How much of the network an agent may use, and has used.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct QuotaState {
    /// For how long bytes count.
    pub every: QuotaWindow,
    /// Since when they are counted, in seconds since the epoch.
    pub since: i64,
    /// When they are given anew, likewise.
    pub resets: Option<i64>,
    /// Bytes that left it.
    pub bytes_out: Option<Used>,
    /// Bytes that reached it.
    pub bytes_in: Option<Used>,
    /// How many connections may begin.
    pub connections: Option<ConnectionRate>,
}

/// How much of a limit is used: more than all of it where it is not enforced, or was more before.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Used {
    /// The limit.
    pub limit: u64,
    /// What is used of it.
    pub used: u64,
}

/// The characters of a [`Quarantine::reason`] or a [`Switch::reason`], at most.
pub const MAX_REASON: usize = 500;

/// That nothing may leave an agent or reach it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Quarantine {
    /// Since when, in seconds since the epoch.
    pub since: u64,
    /// The user id of who ordered it, in the initial user namespace. `None`: it was found in the
    /// kernel, and who ordered it was not written down; or the guard did it, and says so in the reason.
    pub uid: Option<u32>,
    /// Why, as they said: at most [`MAX_REASON`] characters. For operators; no agent is told.
    pub reason: Option<String>,
    /// Whether its processes are stopped.
    pub frozen: bool,
}

/// The switches that operators have set at once, at most: as many as a policy may declare. One more is
/// refused.
pub const MAX_SWITCHES: usize = 64;

/// That a switch of the policy is as an operator has set it, whatever the policy declares.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Switch {
    /// How it is.
    pub on: bool,
    /// Since when, in seconds since the epoch.
    pub since: u64,
    /// The user id of who set it, in the initial user namespace.
    pub uid: u32,
    /// Why, as they said: at most [`MAX_REASON`] characters. For operators; no agent is told.
    pub reason: Option<String>,
}

/// A change to the guard itself, for the record.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Deed {
    /// A number of its own, for good.
    pub number: u64,
    /// When it was done, in seconds since the epoch.
    pub time: u64,
    /// The user id of who ordered it, in the initial user namespace.
    pub uid: u32,
    /// The agent it was done to.
    pub agent: Option<AgentName>,
    /// What was done.
    pub done: Done,
}

/// What was done to the guard.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// An agent was quarantined.
    Quarantined {
        /// Why, as the operator said.
        reason: Option<String>,
        /// Whether its processes were stopped.
        frozen: bool,
    },
    /// An agent was released from quarantine.
    Released,
    /// A switch of the policy was set.
    Switched {
        /// The switch.
        name: String,
        /// How. `None`: it was left to the policy again.
        on: Option<bool>,
        /// Why, as the operator said.
        reason: Option<String>,
    },
    /// The gate was taken off everything while no daemon ran.
    Detached {
        /// How many cgroups carried it.
        cgroups: u32,
    },
    /// A cgroup that was there already was put under the gate.
    Adopted {
        /// Its directory.
        cgroup: String,
        /// Sockets that were open in it, and were closed.
        closed: u32,
        /// Connections that were there and go on.
        #[serde(default)]
        tolerated: u32,
        /// What is open in it that sends past the gate, and goes on.
        #[serde(default)]
        past: Vec<String>,
    },
}

/// Worker to keeper. Nothing of it changes the guard: a worker can quarantine nobody and set no switch.
#[derive(Debug, Deserialize, Serialize)]
pub enum ToKeeper {
    /// It serves.
    Ready,
    /// Whether it can record. What cannot be recorded must not begin, not even in the kernel.
    Recording {
        /// It can.
        possible: bool,
    },
    /// It decides with this policy from now on.
    Taken {
        /// The policy's number.
        generation: u32,
    },
    /// What was under way for the agent of [`ToWorker::Quarantine`] has ended, or [`ToWorker::Switch`] counts.
    Cut {
        /// The number.
        number: u32,
    },
    /// [`ToWorker::Deed`] is in the record.
    Recorded {
        /// Its number.
        number: u64,
    },
    /// A sign of life of all threads that carry connections, some times a second: without one for long, direct flows do
    /// not begin, and then the worker is replaced.
    Alive,
    /// The agent may dial these addresses for this name.
    Publish {
        /// A number to answer with.
        request: u64,
        /// The agent.
        agent: AgentId,
        /// The name.
        name: HostName,
        /// The virtual addresses answered.
        virtual_addresses: Vec<IpAddr>,
        /// The validated real ones.
        real: Vec<IpAddr>,
        /// How long real addresses that are answered themselves stay dialable.
        ttl: Duration,
    },
    /// An address stands for nothing any more, for no agent. Always taken.
    Retire {
        /// The address.
        address: IpAddr,
    },
    /// A certificate is needed for what an agent reaches. Signed only if the keeper's own policy has
    /// the agent's connections to it inspected.
    Sign {
        /// A number to answer with.
        request: u64,
        /// The agent.
        agent: AgentId,
        /// What the certificate is for.
        subject: LeafSubject,
        /// The worker's public key: a `SubjectPublicKeyInfo` in DER (RFC 5480), on P-256.
        public_key: Vec<u8>,
    },
    /// Whose is a cgroup? Asked of a process that connected to the socket where agents ask.
    Whose {
        /// A number to answer with.
        request: u64,
        /// The cgroup, as `/proc/PID/cgroup` shows it.
        cgroup: String,
    },
    /// The gate refused something in a network namespace or a cgroup that it does not know: the keeper
    /// may know it if it looks now.
    Look,
    /// What became of [`ToWorker::Tools`] and [`ToWorker::Budget`].
    Answered {
        /// The number.
        number: u32,
        /// What was done, or why nothing was.
        answer: Result<String, String>,
    },
    /// A budget is spent that has the agent stopped. Done only if the keeper's own policy says so of the agent.
    Spent {
        /// The agent.
        agent: AgentId,
        /// The budget's id.
        budget: String,
    },
}

/// What a leaf certificate is for.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum LeafSubject {
    /// A host name.
    Name(HostName),
    /// An address that is dialled without a name.
    Ip(IpAddr),
}

impl fmt::Display for LeafSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

/// A leaf certificate.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SignedLeaf {
    /// The certificate in DER. It is the whole chain: clients know its issuer.
    pub certificate: Vec<u8>,
    /// When it ends, in seconds since the epoch.
    pub not_after: u64,
}

/// A client of the keeper's own socket, first message. [`Command::Run`] begins a session.
#[derive(Debug, Deserialize, Serialize)]
pub enum Command {
    /// Run a command as an agent. Descriptors: see [`crate::spawn`].
    Run(Box<RunRequest>),
    /// Govern a cgroup that is there already.
    AddAgent {
        /// As this agent.
        name: AgentName,
        /// The cgroup's directory.
        cgroup: String,
    },
    /// Stop governing what [`Command::AddAgent`] put under the gate.
    RemoveAgent {
        /// The agent.
        name: AgentName,
        /// This cgroup's directory alone, which need not be there any more.
        cgroup: Option<String>,
    },
    /// Read the policy again.
    Reload,
    /// Tell the certificate authorities.
    Authorities,
    /// Make a new certificate authority.
    RotateAuthority {
        /// It signs from now on, not only after the overlap.
        at_once: bool,
    },
    /// Let nothing leave an agent or reach it, whatever the policy says, until it is released.
    Quarantine {
        /// The agent.
        name: AgentName,
        /// Why, for operators: at most [`MAX_REASON`] characters.
        reason: Option<String>,
        /// Stop its processes, too.
        freeze: bool,
    },
    /// End [`Command::Quarantine`].
    Release {
        /// The agent.
        name: AgentName,
    },
    /// Set a switch that the policy declares, or leave it to the policy again.
    Switch {
        /// The switch.
        name: String,
        /// How. `None`: as the policy declares it.
        on: Option<bool>,
        /// Why, for operators: at most [`MAX_REASON`] characters.
        reason: Option<String>,
    },
    /// Accept definitions of tools that changed, or forget what tools were first seen as.
    Tools(Box<ToolsOrder>),
    /// Say what an account of a budget has used.
    Budget(Box<BudgetOrder>),
    /// Have accounts of a limit count from the beginning, or close circuits.
    Limits(Box<LimitOrder>),
}

/// Which accounts of a limit are to count from the beginning, or which circuits of a breaker are to be closed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LimitOrder {
    /// The id of the limit or breaker, for all of its accounts; or that, `/` and the scope of one.
    pub account: String,
    /// Why, for operators: at most [`MAX_REASON`] characters.
    pub reason: Option<String>,
}

/// What an account of a budget is to count as having used.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct BudgetOrder {
    /// The account: the budget's id, and `/` and the scope where it has several.
    pub account: String,
    /// How much, as the policy writes limits. `None`: nothing.
    pub used: Option<String>,
    /// Why, for operators: at most [`MAX_REASON`] characters.
    pub reason: Option<String>,
}

/// What is wanted of the definitions of tools.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ToolsOrder {
    /// The server, as the policy calls it.
    pub server: String,
    /// The tool. `None`: all of the server.
    pub tool: Option<String>,
    /// What is to be done.
    pub what: ToolsDeed,
    /// Why, for operators: at most [`MAX_REASON`] characters.
    pub reason: Option<String>,
}

/// What is to be done with the definitions of tools.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum ToolsDeed {
    /// What was listed last is what the tools are compared with from now on.
    Accept {
        /// The digest of the definition that is meant. `None`: whichever it is.
        digest: Option<String>,
    },
    /// They are pinned anew to what is listed next.
    Forget,
}

/// A direct flow that was ended.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Ended {
    /// Whose.
    pub agent: AgentId,
    /// Of which run; 0: of none.
    pub run: u32,
    /// The process that dialled.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its name.
    pub comm: String,
    /// The name behind the address that was dialled.
    pub host: Option<HostName>,
    /// Where it went.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
    /// Whether over UDP; else over TCP.
    pub udp: bool,
}

/// The keeper's answer to everything but [`Command::Run`].
#[derive(Debug, Deserialize, Serialize)]
pub enum Answer {
    /// To [`Command::Authorities`]: those that are valid, in the order in which they sign.
    Authorities(Vec<AuthorityInfo>),
    /// Done.
    Done {
        /// What was done, for a person.
        text: String,
    },
    /// Not done, and nothing changed: a file that it rests on is wrong.
    Faulty {
        /// Everything that is wrong with it: `FILE:LINE:COLUMN: error: …` and hints, and in a last line what
        /// that means.
        text: String,
    },
    /// Not done, and nothing changed, unless the message says what did.
    Refused {
        /// Why.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
}

/// A certificate authority of this host. Times are in seconds since the epoch.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AuthorityInfo {
    /// Its place among them.
    pub state: AuthorityState,
    /// Its common name.
    pub subject: String,
    /// SHA-256 of the certificate in DER, 64 hexadecimal digits.
    pub fingerprint: String,
    /// From when it is valid.
    pub not_before: u64,
    /// Until when it is valid.
    pub not_after: u64,
    /// From when it signs.
    pub signs_from: u64,
    /// When another takes over, if one is there.
    pub signs_until: Option<u64>,
    /// The certificate in PEM.
    pub certificate: String,
}

/// The place of a certificate authority among those of this host.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthorityState {
    /// Signs no more, and has leaves that live.
    Previous,
    /// Signs.
    Current,
    /// Will sign.
    Next,
}

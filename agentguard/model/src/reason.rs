//! Why.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A stable code for why a verdict is what it is. Scripts rely on these; one is never reused.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReasonCode {
    /// A rule allows it.
    RuleAllow,
    /// A connection that was there when its cgroup was adopted, and goes on: nobody decided on it.
    Tolerated,
    /// Something that was open when its cgroup was adopted, sends past the gate and cannot be closed: it goes on.
    LeftOpen,
    /// A rule allows it, with changes.
    RuleModify,
    /// A rule denies it.
    RuleDeny,
    /// A rule that matches otherwise has an expression that cannot be evaluated.
    EngineError,
    /// No rule allows it.
    NoRule,
    /// The destination is a loopback port that the agent did not bind.
    LoopbackNotOwn,
    /// The destination is a socket of the guard itself.
    GuardSocket,
    /// A virtual address that was not answered to this agent.
    NameNotAnswered,
    /// The guard does not listen in this network namespace.
    NoListener,
    /// The agent is quarantined.
    Quarantined,
    /// Datagrams to a destination that only the proxy may decide.
    DatagramNotProxied,
    /// The daemon was gone.
    DaemonLost,
    /// A socket of a family, type or protocol that is not allowed.
    SocketNotAllowed,
    /// The process is under the gate and belongs to no agent.
    NoAgent,
    /// The agent has as much that is not accepted or answered as it may, or a kernel map was full.
    MapFull,
    /// An inbound flow that no rule allows.
    InboundNotAllowed,
    /// A packet whose headers cannot be read, or with options that are not allowed.
    PacketUnparsable,
    /// A packet of a socket the gate did not see being made or connected.
    SocketUnknown,
    /// A cloud metadata service.
    MetadataService,
    /// The name has no usable address of the family dialled.
    NoAddress,
    /// A datagram that a rule allows, in a network namespace with no way out.
    NoUplink,
    /// The socket is bound to a network device, and the guard is reached over loopback.
    BoundToDevice,
    /// A UNIX socket of a program outside the agent, which could do for it what it may not do itself.
    UnixSocketNotAllowed,
    /// A device whose packets no socket sends, or that works for the whole host.
    DeviceNotAllowed,
    /// A multicast group, which the kernel would tell the network of by itself.
    MulticastNotAllowed,
    /// A socket option that gives an address which is not this host's, or chooses among the sockets of a port.
    OptionNotAllowed,
    /// A process outside of the agent, which could do for it what it may not do itself.
    ProcessNotAllowed,
    /// The agent has used up the bytes of its quota.
    QuotaBytes,
    /// The agent begins more connections than its quota lets it.
    RateConnections,
    /// The name resolved to an address in a private, loopback, link-local or metadata range.
    Rebinding,
    /// The name does not exist.
    NameUnknown,
    /// The upstream resolver failed or did not answer in time.
    ResolverFailed,
    /// The DNS message cannot be read.
    DnsMalformed,
    /// The DNS query asks for something a guarded agent does not get (class, type, opcode).
    DnsNotSupported,
    /// No virtual address was free.
    VirtualAddressesExhausted,
    /// The connection's origin is unknown: it did not come through the gate.
    OriginUnknown,
    /// SNI, Host and the name behind the address disagree.
    NameMismatch,
    /// The policy changed after the connection was opened: a new one is looked up and decided anew.
    PolicyChanged,
    /// The first bytes are neither TLS nor HTTP, and a rule needs to see one of them.
    ProtocolUnknown,
    /// A protocol that the guard recognises and does not carry here, such as SOCKS4.
    ProtocolNotSupported,
    /// The TLS ClientHello cannot be read.
    TlsMalformed,
    /// The client broke off the TLS handshake with the guard: it does not trust the guard's CA, or
    /// knows the server's certificate beforehand.
    ClientDistrusts,
    /// The upstream's certificate cannot be verified.
    UpstreamUntrusted,
    /// The HTTP message cannot be read or is ambiguous.
    HttpMalformed,
    /// A call that has to be understood before it is decided, and cannot be.
    NotUnderstood,
    /// The definition of a tool is not the one that it was first seen with.
    ToolDefinitionChanged,
    /// The definition of a tool, which cannot be compared with the one that it was first seen with, or not be kept.
    ToolNotPinned,
    /// A session of a server of tools that another agent has begun.
    SessionNotOwn,
    /// What rules change in it cannot be changed.
    NotChanged,
    /// A rule looks at something that cannot be seen at the handling the policy asks for.
    NeedsInspection,
    /// The client did not send what is needed to decide in time.
    ClientTimeout,
    /// The upstream could not be reached.
    UpstreamUnreachable,
    /// A bound of the guard was reached.
    LimitReached,
    /// The record could not be written.
    RecordFailed,
    /// The agent has used up its share of the record.
    RecordQuota,
    /// A budget is spent.
    BudgetExhausted,
    /// What is left of a budget is held for calls that are under way.
    BudgetHeld,
    /// More in so short a time than a limit allows.
    RateLimited,
    /// What is used up cannot be written down.
    LedgerFailed,
    /// Processes of the agent were killed for want of memory.
    OutOfMemory,
    /// The agent has as many processes and threads as it may have.
    PidsLimit,
    /// The agent had used up its share of the processors, and was held up.
    CpuThrottled,
    /// An operator did it.
    Operator,
    /// An error inside the guard.
    Internal,
    /// So much of a budget is used that its policy has it told of, or calls slowed down.
    BudgetSoftLimit,
    /// A budget will be spent before its window ends, as it goes on.
    BudgetForecast,
    /// The same call, too often.
    RepeatedCall,
    /// Calls of the same model or tool failed one after the other, and were made again.
    RetryStorm,
    /// Calls in a row of which none brought anything new.
    NoProgress,
    /// Agents that call agents, too many at once.
    ChainTooDeep,
    /// What it is for failed too often, and is left alone for a time.
    CircuitOpen,
    /// The agent was above the memory that it may use without being slowed down.
    MemoryHigh,
    /// The agent waits for a resource of the host for much of its time.
    ResourcePressure,
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A code for machines and a sentence for the person who meets it.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct Reason {
    /// The code.
    pub code: ReasonCode,
    /// The sentence.
    pub message: String,
}

impl Reason {
    /// A reason.
    #[must_use]
    pub fn new(code: ReasonCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ReasonCode;

    #[test]
    fn codes_print_as_they_are_stored() {
        assert_eq!(ReasonCode::NoRule.to_string(), "no_rule");
    }
}

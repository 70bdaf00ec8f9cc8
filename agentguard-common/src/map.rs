//! Keys and values of every BPF map.
//!
//! Integers are in host order unless a field says otherwise. A field named `_pad` is written as
//! zero: the kernel compares keys by their bytes.

use crate::address::Address;

/// TCP in a transport bit set.
pub const TCP: u8 = 1;
/// UDP in a transport bit set.
pub const UDP: u8 = 2;

/// Cgroup levels that are searched for an agent, counted from the root: an agent's own cgroup is never
/// deeper.
pub const CGROUP_LEVELS: u8 = 12;

/// Port rules that one destination can carry. A policy that needs more for one destination gets a
/// last rule that sends the rest to the proxy, which knows all of them.
pub const PORT_RULES: usize = 8;

/// What the gate needs to know of itself. Array map `SETTINGS` with one entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Monotonic time (`CLOCK_MONOTONIC`, ns) until which `direct` flows of agents with
    /// `on_daemon_loss: deny` may start; the keeper pushes it forward while it lives.
    pub alive_until_ns: u64,
    /// [`crate::ABI_VERSION`] of the side that filled the maps.
    pub abi_version: u32,
    /// Counts policy loads; stands in every event, so that a rule number is read against the
    /// policy that gave it.
    pub generation: u32,
}

/// An agent. Hash map `AGENTS`, key: cgroup id (`u64`) of the top of the agent's subtree.
///
/// This layout is the same in all versions of the ABI, so that each finds in the maps of another who is
/// quarantined: what is new of an agent goes into a map of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct AgentEntry {
    /// The agent's number, never 0.
    pub agent: u32,
    /// The set of address rules that applies: the first half of a [`NetworkKey`].
    pub profile: u32,
    /// The number of the run that this subtree belongs to, or 0: what tells two sessions of one
    /// agent apart.
    pub run: u32,
    /// One of [`mode`].
    pub mode: u8,
    /// Bits of [`agent_flag`].
    pub flags: u8,
    /// Zero.
    pub _pad: u16,
}

/// Values of [`AgentEntry::mode`].
pub mod mode {
    /// What the policy denies is denied.
    pub const ENFORCE: u8 = 0;
    /// What the policy denies passes and is recorded as what would have been denied.
    pub const SHADOW: u8 = 1;
    /// As shadow; user space tells them apart.
    pub const OBSERVE: u8 = 2;
}

/// Bits of [`AgentEntry::flags`].
pub mod agent_flag {
    /// Nothing leaves and nothing enters.
    pub const QUARANTINED: u8 = 1;
    /// The agent reaches loopback ports that it bound itself.
    pub const LOCAL_OWN: u8 = 2;
    /// `direct` flows may start while the daemon is gone.
    pub const KEEP_ON_LOSS: u8 = 4;
    /// What it sends, receives and opens is held to its [`crate::quota::Quota`]; without one nothing passes.
    pub const METERED: u8 = 8;
}

/// Where the proxy and the resolver listen in one network namespace. Hash map `LISTENERS`,
/// key: network namespace cookie (`u64`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Listeners {
    /// Port of the proxy on `127.0.0.1` and, with [`listener_flag::V6`], on `::1`.
    pub proxy_port: u16,
    /// Port of the resolver, UDP and TCP, on the same addresses.
    pub resolver_port: u16,
    /// Bits of [`listener_flag`].
    pub flags: u32,
}

/// Bits of [`Listeners::flags`].
pub mod listener_flag {
    /// The listeners exist on `::1` too.
    pub const V6: u32 = 1;
    /// The namespace has no device but `lo`: what is allowed to go directly goes through the proxy.
    pub const NO_UPLINK: u32 = 2;
}

/// One line of a destination's verdicts: these ports, over these transports, get this effect.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PortRule {
    /// Number of the policy rule, for the record; 0 where no single rule decided.
    pub rule: u32,
    /// First port.
    pub first: u16,
    /// Last port, inclusive.
    pub last: u16,
    /// Bits [`TCP`] and [`UDP`]; 0 ends the list.
    pub transports: u8,
    /// One of [`effect`].
    pub effect: u8,
    /// Bits of [`port_rule_flag`].
    pub flags: u8,
    /// Zero.
    pub _pad: u8,
}

/// Values of [`PortRule::effect`].
pub mod effect {
    /// Refused.
    pub const DENY: u8 = 0;
    /// Allowed, decided by the kernel alone, no proxy hop.
    pub const DIRECT: u8 = 1;
    /// To the proxy, which decides the rest.
    pub const PROXY: u8 = 2;
}

/// Bits of [`PortRule::flags`].
pub mod port_rule_flag {
    /// A denial that holds in every mode (metadata services, and what an operator marked so).
    pub const HARD: u8 = 1;
    /// A denial by a rule in shadow or observe mode: recorded, not enforced. On
    /// [`super::effect::DIRECT`] it says that the flow is allowed, and that such a rule would have
    /// denied it.
    pub const SHADOW: u8 = 2;
}

/// The verdicts for one destination, first match wins; no match is a denial.
pub type PortRules = [PortRule; PORT_RULES];

/// A destination that was answered by name. Hash map `NAMES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct NameKey {
    /// The agent it was answered to.
    pub agent: u32,
    /// The address that was answered: virtual, or real for a name marked `addresses: real`.
    pub address: Address,
}

/// What an answered address stands for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NameEntry {
    /// A validated real address, for [`effect::DIRECT`] on a virtual address; else unspecified.
    pub real: Address,
    /// The verdicts.
    pub rules: PortRules,
}

/// A range of addresses in one profile. LPM trie `NETWORKS`; the prefix length counts the
/// profile's 32 bits too.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct NetworkKey {
    /// The profile.
    pub profile: u32,
    /// The network address.
    pub address: Address,
}

/// What a range of addresses gets. The longest prefix holds all rules that touch it, so that one
/// look-up is the whole answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NetworkEntry {
    /// The verdicts.
    pub rules: PortRules,
}

/// The client's end of a redirected connection or query, as the proxy or the resolver sees it. Hash
/// maps `ORIGINS` (to the proxy) and `QUERIES` (to the resolver): one port may lead to both at once. No
/// address family: a mapped connect is AF_INET6 for the client and AF_INET for the proxy.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct OriginKey {
    /// Network namespace cookie.
    pub netns: u64,
    /// The client's address.
    pub address: Address,
    /// The client's port.
    pub port: u16,
    /// [`TCP`] or [`UDP`].
    pub transport: u8,
    /// Zero.
    pub _pad: [u8; 5],
}

/// Where a redirected connection or query was meant to go, and whose it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Origin {
    /// When it was published, `CLOCK_MONOTONIC` ns.
    pub published_ns: u64,
    /// Socket cookie of the client's socket.
    pub socket: u64,
    /// The address the client dialled.
    pub destination: Address,
    /// The agent.
    pub agent: u32,
    /// Process id (thread group) in the initial pid namespace.
    pub pid: u32,
    /// User id in the initial user namespace.
    pub uid: u32,
    /// The policy generation under which the kernel let it through.
    pub generation: u32,
    /// The process's name, NUL-padded.
    pub comm: [u8; 16],
    /// The port the client dialled.
    pub port: u16,
    /// One of [`crate::event::reason`]: why the kernel sent it here.
    pub reason: u8,
    /// Zero.
    pub _pad: u8,
    /// The run, or 0.
    pub run: u32,
    /// The slot that the agent holds for it: [`SlotKey::slot`].
    pub slot: u32,
    /// Datagrams to the resolver from this port that it has not answered. While there is one the slot is held,
    /// for [`pending::QUERY_HELD_NS`] at most. Of a connection 0.
    pub unanswered: u32,
}

/// One of the places that an agent has for what was redirected and not accepted yet. Hash map `SLOTS`,
/// the value is the [`OriginKey`] that the place was taken for. It is held while that key's [`Origin`]
/// names it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct SlotKey {
    /// The agent.
    pub agent: u32,
    /// One of [`pending`] in the high half, the number of the slot in the low one.
    pub slot: u32,
}

/// What is redirected, and how many of each an agent may have that nobody has accepted. The bounds are
/// the agent's own: with them no agent can fill a map that others need.
pub mod pending {
    /// TCP to the proxy.
    pub const CONNECTION: u32 = 0;
    /// TCP to the resolver.
    pub const STREAM_QUERY: u32 = 1;
    /// UDP to the resolver.
    pub const QUERY: u32 = 2;
    /// How many kinds there are.
    pub const KINDS: usize = 3;

    /// Slots of an agent for a kind, a power of two. Twice the connections that a listener's accept queue
    /// holds, and twice the queries that [`ASKED_BYTES`] lets through unanswered: a worker that is late for longer
    /// than a slot is held finds the first ones with theirs gone, and they are asked again.
    #[inline(always)]
    #[must_use]
    pub const fn slots(kind: u32) -> u32 {
        match kind {
            CONNECTION => 2048,
            _ => 1024,
        }
    }

    /// How long a connection's slot is held that is neither accepted nor given up, in ns.
    pub const CONNECTION_HELD_NS: u64 = 120_000_000_000;
    /// How long a query's slot is held, in ns, that is not answered: it may have been lost.
    pub const QUERY_HELD_NS: u64 = 1_000_000_000;
    /// How long the origin of a query is kept where nobody needs its slot, in ns.
    pub const QUERY_KEPT_NS: u64 = 10_000_000_000;

    /// What an agent's unanswered datagrams to the resolver may take of its receive buffer, in bytes: 512 of the
    /// usual ones. They wait there with those of all other agents of the namespace. What is answered was read, and
    /// makes room for as much as the shortest takes; so whoever waits for answers may ask without end.
    pub const ASKED_BYTES: u64 = 512 * ANSWERED_BYTES;
    /// What an answer makes room for, in bytes.
    pub const ANSWERED_BYTES: u64 = buffered(0);
    /// How long a period lasts, in ns, after which what was asked in it is forgotten: some queries get no answer.
    pub const ASKED_NS: u64 = 250_000_000;
    /// The longest packet to the resolver, in bytes: more than it reads of one query.
    pub const LONGEST_QUERY: u32 = 4096 + 48;
    /// What is the length of a shorter packet here, in bytes: nearly all queries are shorter.
    const USUAL_QUERY: u32 = 128;

    /// What a packet takes of a receive buffer, in bytes, about: its own bytes in memory that is given out by
    /// powers of two, and what the kernel notes of it (`SKB_TRUESIZE`).
    #[inline(always)]
    #[must_use]
    pub const fn buffered(length: u32) -> u64 {
        let length = if length < USUAL_QUERY {
            USUAL_QUERY
        } else {
            length
        };
        1024 + 2 * length as u64
    }
}

/// What an agent has used of what all share. Hash map `BUDGETS`, key: agent (`u32`), or 0 for what
/// belongs to none. The keeper makes and removes it with the agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Budget {
    /// Where the ring buffer was when the agent's present share of it began.
    pub share_start: u64,
    /// Bytes written since then.
    pub share_used: u64,
    /// The next slot of each kind of [`pending`], counted on without end.
    pub next: [u64; pending::KINDS],
    /// When the agent's present period of [`pending::ASKED_NS`] began, by the monotonic clock, in ns.
    pub asked_since: u64,
    /// What its queries of the period take that are not answered, in bytes.
    pub asked: u64,
}

/// What the gate knows of a socket. Socket storage `SOCKETS`: freed with the socket, inherited by
/// accepted connections.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketEntry {
    /// The key of the socket's agent in `AGENTS`.
    pub cgroup: u64,
    /// Network namespace cookie.
    pub netns: u64,
    /// Cookie of the socket that this entry was made for. A connection accepted from it inherits
    /// the entry and has another cookie.
    pub socket: u64,
    /// The address that the process dialled.
    pub dialled: Address,
    /// The address that packets may go to after the verdict.
    pub effective: Address,
    /// The local address that a UDP socket was bound to; unspecified, that is none. No flag says whether there
    /// is one: flags are read and written again by packets that arrive meanwhile, and it would be lost.
    pub bound: Address,
    /// The last peer whose datagram was let in unasked: it may be answered.
    pub peer: Address,
    /// The agent.
    pub agent: u32,
    /// Process id (thread group) of the last caller of connect or sendmsg.
    pub pid: u32,
    /// User id of the same.
    pub uid: u32,
    /// Name of the same.
    pub comm: [u8; 16],
    /// Port that the process dialled.
    pub dialled_port: u16,
    /// Port that packets may go to.
    pub effective_port: u16,
    /// Port of [`Self::peer`].
    pub peer_port: u16,
    /// One of [`socket_state`].
    pub state: u8,
    /// Bits of [`socket_flag`].
    pub flags: u8,
    /// [`TCP`], [`UDP`], or 0 for another protocol that a rule allowed.
    pub transport: u8,
    /// One of [`crate::event::reason`], for a socket whose verdict was given.
    pub reason: u8,
    /// What is at [`Self::effective`]: of [`socket_class`].
    pub class: u8,
    /// Zero.
    pub _pad: u8,
    /// The policy rule of that verdict, or 0.
    pub rule: u32,
    /// The policy generation of that verdict.
    pub generation: u32,
    /// The run, or 0.
    pub run: u32,
    /// Zero.
    pub _end: u32,
    /// The seal on [`Self::effective`], its port and class ([`crate::seal`]), or 0.
    pub seal: u64,
    /// The seal on [`Self::peer`], its port and [`socket_flag::PEER_OWN`], or 0.
    pub peer_seal: u64,
}

/// What is where a socket's packets may go.
pub mod socket_class {
    /// Whatever the policy allows.
    pub const ALLOWED: u8 = 0;
    /// A port of the agent's own, while it is.
    pub const OWN: u8 = 1;
    /// The proxy or the resolver.
    pub const GUARD: u8 = 2;
    /// A bit: the flow was told of.
    pub const TOLD: u8 = 0x80;
}

/// The protocol of a UNIX socket that is never made: it asks whether LSM programs run.
pub const LSM_PROBE: u32 = 0x4147;

/// Bytes of a UNIX socket's name: `sun_path` (`linux/un.h`).
pub const UNIX_NAME: usize = 108;

/// Whose a UNIX socket is: the agent of the task that made it. Socket storage `UNIX_OWNERS`, absent
/// for what no agent made.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct UnixOwner {
    /// The agent.
    pub agent: u32,
}

/// The beginning of the names of UNIX sockets. LPM trie `UNIX_NAMES`; the prefix length counts the
/// agent's 32 bits too. The value is one of [`unix_name`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct UnixNameKey {
    /// The agent that this is for, or 0 for all.
    pub agent: u32,
    /// As it was given to `bind(2)`, padded with zeroes; an abstract name begins with a zero.
    pub name: [u8; UNIX_NAME],
}

/// Values of `UNIX_NAMES`. An agent's own line, however short, is before those for all; a socket that
/// the same agent made is always open to it.
pub mod unix_name {
    /// Sockets so named are refused.
    pub const DENY: u32 = 1;
    /// Sockets so named are let pass.
    pub const ALLOW: u32 = 2;
}

/// Values of [`SocketEntry::state`].
pub mod socket_state {
    /// Nothing dialled yet.
    pub const NEW: u8 = 0;
    /// A UDP `connect()`: nothing was sent, nothing is decided.
    pub const UNDECIDED: u8 = 1;
    /// Packets may go to the effective address.
    pub const PASS: u8 = 2;
    /// Redirected to the proxy.
    pub const PROXY: u8 = 3;
    /// Redirected to the resolver.
    pub const RESOLVER: u8 = 4;
}

/// Bits of [`SocketEntry::flags`].
pub mod socket_flag {
    /// The TCP peer has sent its FIN.
    pub const PEER_FINISHED: u8 = 4;
    /// [`super::SocketEntry::peer`] was a socket of the same agent when it sent.
    pub const PEER_OWN: u8 = 8;
}

/// Traffic of one agent on one processor. Per-CPU hash map `COUNTERS`, key: agent (`u32`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Bytes that left, IP headers included.
    pub sent_bytes: u64,
    /// Bytes that arrived, IP headers included.
    pub received_bytes: u64,
    /// Packets that were refused; calls that were refused are in the record.
    pub denied: u64,
}

/// Length of the buffer for an executable's path.
pub const EXE_LEN: usize = 256;

/// The executable of a governed process. LRU hash map `PROCESSES`, key: process id (`u32`).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Exe {
    /// The path given to `execve`, NUL-padded, cut at [`EXE_LEN`].
    pub path: [u8; EXE_LEN],
}

#[cfg(feature = "user")]
mod pod {
    macro_rules! pod {
        ($($t:ty),* $(,)?) => {
            // SAFETY: each type is `repr(C)` with explicit padding and holds only integers, so every
            // bit pattern is a value of it and no byte of it is uninitialised.
            $(unsafe impl aya::Pod for $t {})*
        };
    }
    pod!(
        super::Settings,
        super::AgentEntry,
        super::Listeners,
        super::NameKey,
        super::NameEntry,
        super::NetworkKey,
        super::NetworkEntry,
        super::OriginKey,
        super::Origin,
        super::SlotKey,
        super::Budget,
        super::Counters,
        super::SocketEntry,
        super::Exe,
        super::UnixNameKey,
        super::UnixOwner,
        crate::device::DeviceKey,
        crate::seal::SealKeys,
        crate::quota::Quota,
        crate::quota::Usage,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sum of the fields' sizes equals the size of the struct: no padding that nobody wrote.
    #[test]
    fn no_implicit_padding() {
        assert_eq!(size_of::<Settings>(), 16);
        assert_eq!(size_of::<AgentEntry>(), 16);
        assert_eq!(size_of::<Listeners>(), 8);
        assert_eq!(size_of::<PortRule>(), 12);
        assert_eq!(size_of::<NameKey>(), 20);
        assert_eq!(size_of::<NameEntry>(), 16 + 8 * 12);
        assert_eq!(size_of::<NetworkKey>(), 20);
        assert_eq!(size_of::<OriginKey>(), 32);
        assert_eq!(
            size_of::<Origin>(),
            8 + 8 + 16 + 16 + 16 + 2 + 1 + 1 + 3 * 4
        );
        assert_eq!(size_of::<SlotKey>(), 8);
        assert_eq!(size_of::<Budget>(), 16 + 3 * 8 + 16);
        assert_eq!(
            size_of::<SocketEntry>(),
            3 * 8 + 4 * 16 + 3 * 4 + 16 + 3 * 2 + 4 + 2 + 3 * 4 + 4 + 2 * 8
        );
        assert_eq!(size_of::<Counters>(), 24);
        assert_eq!(size_of::<UnixNameKey>(), 4 + 108);
        assert_eq!(size_of::<UnixOwner>(), 4);
        assert_eq!(size_of::<crate::quota::Quota>(), 4 * 8);
        assert_eq!(size_of::<crate::quota::Usage>(), 6 * 8);
    }
}

//! What the kernel tells user space, and the reasons it gives.

use crate::address::Address;
use crate::map::UNIX_NAME;

/// One thing that the gate saw. Ring buffer `EVENTS`.
///
/// Each processor numbers its events. A number that is missing means a lost event (the ring buffer
/// was full), and becomes a gap in the record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Event {
    /// Number of this event on this processor, from 1.
    pub sequence: u64,
    /// `CLOCK_MONOTONIC`, ns.
    pub time_ns: u64,
    /// Network namespace cookie, or 0 where the hook cannot know it.
    pub netns: u64,
    /// Socket cookie, or 0. For [`kind::PROCESS`]: the id of the other process.
    pub socket: u64,
    /// For [`kind::CLOSED`]: bytes the peer acknowledged.
    pub sent_bytes: u64,
    /// For [`kind::CLOSED`]: bytes received.
    pub received_bytes: u64,
    /// Processor.
    pub cpu: u32,
    /// The agent, or 0 where none could be found.
    pub agent: u32,
    /// Number of the policy rule that decided, or 0.
    pub rule: u32,
    /// Policy generation that the number belongs to.
    pub generation: u32,
    /// Process id (thread group), or 0 where the hook runs outside the process.
    pub pid: u32,
    /// User id of the same.
    pub uid: u32,
    /// For [`kind::CLOSED`]: smoothed round-trip time in µs.
    pub rtt_us: u32,
    /// Where it was going; for inbound flows where it came from.
    pub remote: Address,
    /// Name of the process, NUL-padded.
    pub comm: [u8; 16],
    /// Port of [`Self::remote`].
    pub remote_port: u16,
    /// Local port, or 0 where not known yet.
    pub local_port: u16,
    /// For [`kind::SOCKET`]: address family, socket type and protocol as given to `socket(2)`. For
    /// [`kind::DEVICE`]: the major and the minor number of a character device, and in place of a protocol
    /// which of [`crate::device::DYNAMIC`] it is, counted from 1, or 0.
    pub family: u16,
    /// See [`Self::family`].
    pub socket_type: u16,
    /// IP protocol number.
    pub protocol: u16,
    /// One of [`kind`].
    pub kind: u8,
    /// One of [`reason`].
    pub reason: u8,
    /// 1 if refused, 0 if it passed.
    pub denied: u8,
    /// Zero.
    pub _pad: [u8; 3],
    /// The run, or 0.
    pub run: u32,
}

/// An event about a UNIX socket, which has a name in place of an address. It is told apart by its
/// length.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UnixEvent {
    /// The event.
    pub event: Event,
    /// Bytes of [`Self::name`].
    pub length: u32,
    /// The name of the peer, as it was given to `bind(2)`, padded with zeroes.
    pub name: [u8; UNIX_NAME],
}

/// Values of [`Event::kind`].
pub mod kind {
    /// An outbound flow: a TCP connect, or the first datagram to a destination.
    pub const FLOW: u8 = 1;
    /// An inbound flow to an agent's socket.
    pub const INBOUND: u8 = 2;
    /// A socket that was refused at creation, or a UNIX socket whose peer is refused.
    pub const SOCKET: u8 = 3;
    /// The end of a direct TCP flow, with its byte counts.
    pub const CLOSED: u8 = 4;
    /// A device that was refused when it was opened.
    pub const DEVICE: u8 = 6;
    /// Another process that was asked for.
    pub const PROCESS: u8 = 5;
}

/// Why: the kernel's share of the reason codes. Values below [`reason::FIRST_DENIAL`] allow.
pub mod reason {
    /// No verdict was needed or given.
    pub const NONE: u8 = 0;
    /// A rule allows it.
    pub const RULE_ALLOW: u8 = 1;
    /// A loopback port that the same agent bound.
    pub const LOCAL: u8 = 2;
    /// A query to the resolver.
    pub const RESOLVER: u8 = 3;
    /// The proxy decides it.
    pub const PROXY: u8 = 4;
    /// A connection that was there when its cgroup was adopted: told by the keeper, which let it go on.
    pub const TOLERATED: u8 = 5;

    /// The first value that denies.
    pub const FIRST_DENIAL: u8 = 16;
    /// No rule allows it.
    pub const NO_RULE: u8 = 16;
    /// A rule denies it.
    pub const RULE_DENY: u8 = 17;
    /// A loopback port that another program bound.
    pub const LOOPBACK: u8 = 18;
    /// A socket of the guard itself.
    pub const GUARD: u8 = 19;
    /// A virtual address that was not answered to this agent.
    pub const NOT_ANSWERED: u8 = 20;
    /// No listener in this network namespace.
    pub const NO_LISTENER: u8 = 21;
    /// The agent is quarantined.
    pub const QUARANTINED: u8 = 22;
    /// A datagram to a destination that only the proxy may decide, and the proxy takes TCP only.
    pub const DATAGRAM: u8 = 23;
    /// A direct flow while the daemon is gone.
    pub const DAEMON_LOST: u8 = 24;
    /// A socket of a family, type or protocol that is not allowed.
    pub const SOCKET_TYPE: u8 = 25;
    /// A process under the gate that belongs to no agent.
    pub const NO_AGENT: u8 = 26;
    /// The agent has too much that nobody has accepted or read, or a map of the gate is full.
    pub const MAP_FULL: u8 = 27;
    /// An inbound flow that no rule allows.
    pub const INBOUND: u8 = 28;
    /// A packet whose headers cannot be read, or with options that are not allowed.
    pub const UNPARSABLE: u8 = 29;
    /// A packet of a socket that the gate did not see being made or connected.
    pub const UNKNOWN_SOCKET: u8 = 30;
    /// A cloud metadata service.
    pub const METADATA: u8 = 31;
    /// A direct flow to a name that has no real address of the dialled family.
    pub const NO_ADDRESS: u8 = 32;
    /// A flow over loopback of a socket that is bound to another device: it would leave the host.
    pub const DEVICE: u8 = 33;
    /// A datagram that may go directly, in a namespace with no way out.
    pub const NO_UPLINK: u8 = 34;
    /// A UNIX socket of a program outside the agent, which is on the list or abstract.
    pub const UNIX_SOCKET: u8 = 35;
    /// A socket that was open when its cgroup was adopted: told by the keeper, which closed it.
    pub const ADOPTED: u8 = 36;
    /// A device whose packets no socket sends, or that works for the whole host ([`crate::device`]).
    pub const DEVICE_FILE: u8 = 39;
    /// A multicast group is not joined: the kernel would tell the link, in a packet of no socket.
    pub const MULTICAST: u8 = 37;
    /// A socket option that gives an address which is not this host's, or chooses among the sockets of a
    /// port.
    pub const OPTION: u8 = 40;
    /// A process outside of the agent, which it does not look into or take over.
    pub const PROCESS: u8 = 38;
    /// The agent has sent as many bytes as its quota has.
    pub const QUOTA_SENT: u8 = 41;
    /// The agent has received as many bytes as its quota has.
    pub const QUOTA_RECEIVED: u8 = 42;
    /// The agent opens more connections than its quota lets it in this time.
    pub const CONNECTION_RATE: u8 = 43;
}

#[cfg(test)]
mod tests {
    use super::{Event, UnixEvent};

    #[test]
    fn no_implicit_padding() {
        assert_eq!(
            size_of::<Event>(),
            6 * 8 + 7 * 4 + 16 + 16 + 5 * 2 + 3 + 3 + 4
        );
        assert_eq!(size_of::<Event>() % 8, 0);
        assert_eq!(size_of::<UnixEvent>(), size_of::<Event>() + 4 + 108);
        assert_eq!(size_of::<UnixEvent>() % 8, 0);
    }
}

//! Fetches what the maps hold on a flow and asks for the verdict.

use agentguard_common::address::Address;
use agentguard_common::map::{
    AgentEntry, Listeners, NameEntry, NameKey, NetworkKey, PortRules, TCP,
};
use agentguard_common::verdict::{Flow, FlowVerdict, Matched, flow_verdict, match_port};
use aya_ebpf::bindings::{
    bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as Ends4,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as Ends6,
};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_ns, bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release,
};
use core::ffi::c_void;
use core::ptr;

use crate::event::settings;
use crate::maps::{LISTENERS, NAMES, NETWORK_KEY_BITS, NETWORKS, SOCKETS};

/// Decides where a flow of an agent may go.
///
/// # Safety
/// `ctx` is the context of a `cgroup_sock_addr` or `cgroup_skb` program.
#[inline(always)]
pub(crate) unsafe fn decide(
    ctx: *mut c_void,
    agent: &AgentEntry,
    netns: u64,
    destination: Address,
    port: u16,
    transport: u8,
) -> FlowVerdict {
    // SAFETY: here and below: entries are replaced whole by user space and never freed under a
    // running program.
    let listeners = unsafe { LISTENERS.get(netns) };
    // SAFETY: as above.
    let name = unsafe {
        NAMES.get(NameKey {
            agent: agent.agent,
            address: destination,
        })
    };
    let rules = match name {
        Some(entry) => Some(&entry.rules),
        None => NETWORKS
            .get(&Key::new(
                NETWORK_KEY_BITS,
                NetworkKey {
                    profile: agent.profile,
                    address: destination,
                },
            ))
            .map(|entry| &entry.rules),
    };
    // Packed as it comes: of parts that may be there or not LLVM makes registers that hold anything.
    let matched = rules.map_or(0, |rules| {
        // SAFETY: a reference to a map's value.
        unsafe { matched_port(rules, u32::from(port), u32::from(transport)) }
    });
    // The kernel takes "any" for loopback, of the same family.
    let (any, v4) = (destination.is_unspecified(), destination.is_v4());
    let from = if v4 {
        Address::LOOPBACK4
    } else {
        Address::LOOPBACK6
    };
    let at = if any { from } else { destination };
    let local = destination.is_loopback()
        // SAFETY: upheld by the caller.
        && unsafe { is_own(ctx, agent.agent, (&at, port), (&from, 0), transport) };
    // SAFETY: helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let asked = Asked {
        matched,
        destination,
        port,
        transport,
        local: u8::from(local),
        daemon_alive: u8::from(settings().is_some_and(|settings| now < settings.alive_until_ns)),
        _pad: [0; 3],
    };
    // SAFETY: references, or null.
    FlowVerdict::unpack(unsafe {
        verdict(
            agent,
            name.map_or(ptr::null(), ptr::from_ref),
            listeners.map_or(ptr::null(), ptr::from_ref),
            &raw const asked,
        )
    })
}

/// What is asked of [`verdict`] beside what the maps hold: numbers alone, since the verifier follows no
/// pointer in memory into a function.
#[repr(C)]
struct Asked {
    /// What [`matched_port`] gives, or 0.
    matched: u64,
    destination: Address,
    port: u16,
    transport: u8,
    local: u8,
    daemon_alive: u8,
    _pad: [u8; 3],
}

/// [`flow_verdict`], packed. A global function, as [`matched_port`] is and for the same reason.
///
/// # Safety
/// Each pointer is null or points to what it says.
#[inline(never)]
#[unsafe(no_mangle)]
unsafe extern "C" fn verdict(
    agent: *const AgentEntry,
    name: *const NameEntry,
    listeners: *const Listeners,
    asked: *const Asked,
) -> u64 {
    // SAFETY: upheld by the caller.
    let (Some(agent), Some(asked)) = (unsafe { (agent.as_ref(), asked.as_ref()) }) else {
        return 0;
    };
    flow_verdict(&Flow {
        agent,
        // SAFETY: upheld by the caller.
        listeners: unsafe { listeners.as_ref() },
        // SAFETY: upheld by the caller.
        name: unsafe { name.as_ref() },
        matched: Matched::unpack(asked.matched),
        local: asked.local != 0,
        daemon_alive: asked.daemon_alive != 0,
        destination: asked.destination,
        port: asked.port,
        transport: asked.transport,
    })
    .pack()
}

/// Whether the socket that a packet to `at` from `from` would reach is the agent's. The kernel looks
/// it up as it would for the packet, so that a port which another socket of the agent holds (the other
/// family's, another address's, one that does not listen any more) opens nobody else's. Without a
/// source port the answer is for a socket that takes packets from anywhere.
///
/// It holds at this moment: what was the agent's can be the host's at the next packet.
///
/// # Safety
/// `ctx` is the context of a program that may look sockets up.
#[inline(always)]
pub(crate) unsafe fn is_own(
    ctx: *mut c_void,
    agent: u32,
    at: (&Address, u16),
    from: (&Address, u16),
    transport: u8,
) -> bool {
    // SAFETY: all zeroes is a value of a union of integers.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let size = if at.0.is_v4() {
        tuple.__bindgen_anon_1.ipv4 = Ends4 {
            saddr: from.0.0[3],
            daddr: at.0.0[3],
            sport: from.1.to_be(),
            dport: at.1.to_be(),
        };
        TUPLE4
    } else {
        tuple.__bindgen_anon_1.ipv6 = Ends6 {
            saddr: from.0.0,
            daddr: at.0.0,
            sport: from.1.to_be(),
            dport: at.1.to_be(),
        };
        TUPLE6
    };
    // SAFETY: the tuple outlives the call; upheld by the caller. A socket that is found is released.
    unsafe {
        let socket = if transport == TCP {
            bpf_sk_lookup_tcp(ctx, &raw mut tuple, size, CURRENT_NETNS, 0)
        } else {
            bpf_sk_lookup_udp(ctx, &raw mut tuple, size, CURRENT_NETNS, 0)
        };
        if socket.is_null() {
            return false;
        }
        let owner = SOCKETS.get(socket.cast()).map_or(0, |entry| entry.agent);
        bpf_sk_release(socket.cast());
        owner == agent
    }
}

/// Sizes of the two kinds of `bpf_sock_tuple` that the helpers take.
const TUPLE4: u32 = 12;
const TUPLE6: u32 = 36;
/// `BPF_F_CURRENT_NETNS`: the namespace of the socket or packet at hand.
const CURRENT_NETNS: u64 = u64::MAX;

/// The real address behind a virtual one that was answered to an agent.
#[inline(always)]
pub(crate) fn real_address(agent: u32, address: Address) -> Option<Address> {
    // SAFETY: see `decide`.
    unsafe { NAMES.get(NameKey { agent, address }) }.map(|name| name.real)
}

/// [`match_port`], packed. A global function: the verifier looks at it once by itself, and its
/// callers go on with a number about which it knows nothing. Inlined, each way out of the loop would be
/// followed to the end of the program: eight times as many instructions to verify.
///
/// # Safety
/// `rules` is null or points to rules.
#[inline(never)]
#[unsafe(no_mangle)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a port has 16 bits, a transport 8"
)]
unsafe extern "C" fn matched_port(rules: *const PortRules, port: u32, transport: u32) -> u64 {
    // SAFETY: upheld by the caller.
    let Some(rules) = (unsafe { rules.as_ref() }) else {
        return 0;
    };
    Matched::pack(match_port(rules, port as u16, transport as u8))
}

//! Fetches what the maps hold on a flow and asks for the verdict.

use agentguard_common::address::Address;
use agentguard_common::map::{AgentEntry, NameKey, NetworkKey};
use agentguard_common::verdict::{Flow, FlowVerdict, flow_verdict};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;

use crate::event::settings;
use crate::maps::{LISTENERS, LOCAL_PORTS, NAMES, NETWORK_KEY_BITS, NETWORKS, local_port_key};

/// Decides where a flow of an agent may go.
#[inline(always)]
pub(crate) fn decide(
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
    let network = match name {
        Some(_) => None,
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
    let local =
        destination.is_loopback() && is_own(agent.agent, netns, destination, port, transport);
    // SAFETY: helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    flow_verdict(&Flow {
        agent,
        listeners,
        name,
        network,
        local,
        daemon_alive: settings().is_some_and(|settings| now < settings.alive_until_ns),
        destination,
        port,
        transport,
    })
}

/// Whether the agent bound a loopback port, to this address or to all.
#[inline(always)]
fn is_own(agent: u32, netns: u64, destination: Address, port: u16, transport: u8) -> bool {
    let wildcard4 = Address::from_v4_word(0);
    owner(netns, destination, port, transport) == agent
        || (destination.is_v4() && owner(netns, wildcard4, port, transport) == agent)
        || owner(netns, Address::UNSPECIFIED, port, transport) == agent
        || (destination.is_unspecified()
            && (owner(netns, Address::LOOPBACK4, port, transport) == agent
                || owner(netns, Address::LOOPBACK6, port, transport) == agent))
}

/// Who bound exactly this, or 0.
#[inline(always)]
fn owner(netns: u64, address: Address, port: u16, transport: u8) -> u32 {
    // SAFETY: see `decide`.
    match unsafe { LOCAL_PORTS.get(local_port_key(netns, address, port, transport)) } {
        Some(local) => local.agent,
        None => 0,
    }
}

/// The real address behind a virtual one that was answered to an agent.
#[inline(always)]
pub(crate) fn real_address(agent: u32, address: Address) -> Option<Address> {
    // SAFETY: see `decide`.
    unsafe { NAMES.get(NameKey { agent, address }) }.map(|name| name.real)
}

//! A gate with many agents, for measurements: `crowd CGROUP BPFFS COUNT`.
//!
//! Makes the cgroup and one below it for each agent, `agent-0` and on, each with address rules of its own,
//! which let it reach 203.0.113.0/24 and 2001:db8:113::/48 directly, and holds a name for each. Prints what the kernel needs for the maps, in
//! bytes: before the agents and with them. Stays until its standard input ends.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use agentguard_common::address::Address;
use agentguard_common::map::{
    AgentEntry, NameEntry, NameKey, PORT_RULES, PortRule, Settings, TCP, UDP, effect, mode,
};
use agentguard_keeper::cgroup::Cgroup;
use agentguard_keeper::gate::view::View;
use agentguard_keeper::gate::{Gate, Network};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [cgroup, bpffs, count] = arguments.as_slice() else {
        return Err("usage: crowd CGROUP BPFFS COUNT".into());
    };
    let (cgroup, bpffs) = (PathBuf::from(cgroup), PathBuf::from(bpffs));
    let count: u32 = count.parse()?;
    let mut rules = [PortRule::default(); PORT_RULES];
    if let Some(first) = rules.first_mut() {
        *first = PortRule {
            rule: 1,
            last: u16::MAX,
            transports: TCP | UDP,
            effect: effect::DIRECT,
            ..PortRule::default()
        };
    }

    let mut gate = Gate::load(&bpffs.join("crowd"))?;
    gate.set(&Settings {
        alive_until_ns: u64::MAX,
        abi_version: agentguard_common::ABI_VERSION,
        generation: 1,
    })?;
    let address: IpAddr = "203.0.113.0".parse()?;
    let networks = [(address, 24), ("2001:db8:113::".parse()?, 48)];
    let networks = networks.map(|(address, prefix)| Network {
        address,
        prefix,
        rules,
    });
    let root = Cgroup::create(&cgroup)?;
    let before = kernel_memory()?;
    for number in 0..count {
        let own = Cgroup::create(&root.path.join(format!("agent-{number}")))?;
        gate.put_networks(number + 1, &networks)?;
        let entry = AgentEntry {
            agent: number + 1,
            profile: number + 1,
            mode: mode::ENFORCE,
            ..AgentEntry::default()
        };
        gate.put_agent(own.id, &entry)?;
        let key = NameKey {
            agent: number + 1,
            address: Address::from("198.18.0.1".parse::<IpAddr>()?),
        };
        gate.put_name(
            &key,
            &NameEntry {
                real: Address::from(address),
                rules,
            },
        )?;
    }
    let with = kernel_memory()?;
    gate.attach_lsm();
    gate.attach(&root.path)?;
    println!("{before} {with}");
    // Somebody has to read what the kernel tells: a direct flow that cannot be told does not pass.
    let (_view, mut events) = View::new(gate.view_descriptors()?)?;
    std::thread::spawn(move || {
        loop {
            events.by_ref().for_each(drop);
            std::thread::park_timeout(Duration::from_millis(1));
        }
    });
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// What the kernel holds for the maps that we have open (`memlock` in `/proc/self/fdinfo`), in bytes.
fn kernel_memory() -> Result<u64, Box<dyn Error>> {
    let mut maps = HashMap::new();
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        // That of the directory itself is gone by now.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let field = |name: &str| {
            let mut lines = text.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            value.trim().parse::<u64>().ok()
        };
        if let (Some(id), Some(bytes)) = (field("map_id"), field("memlock")) {
            maps.insert(id, bytes);
        }
    }
    Ok(maps.values().sum())
}

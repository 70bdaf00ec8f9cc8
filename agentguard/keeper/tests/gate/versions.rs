//! Another version's gate is there: its maps have another layout and are pinned under another number.
//! Here they are this version's own, renamed: the programs that use them do not know the difference.

use std::fs;

use agentguard_common::ABI_VERSION;
use agentguard_common::map::agent_flag;
use agentguard_keeper::cgroup::Cgroup;
use agentguard_keeper::gate::{Attachment, Gate};

use crate::lsm::in_world_with_lsm;
use crate::world::{World, direct, in_world, server};

/// One that is older, and one that is newer: an upgrade, and the way back.
const OTHERS: [u32; 2] = [ABI_VERSION - 1, ABI_VERSION + 1];

fn rename(world: &World, abi: u32) {
    let pins = world.pins();
    fs::rename(
        pins.join(format!("v{ABI_VERSION}")),
        pins.join(format!("v{abi}")),
    )
    .unwrap();
}

#[test]
fn until_its_agents_are_written_the_other_version_decides_and_then_nothing_is_left_of_it() {
    in_world(|world| {
        for abi in OTHERS {
            let (_server, port) = server();
            let mut agent = world.agent(1);
            world.rule(&agent, &[("203.0.113.0/24", direct(3))]);
            let mut client = agent.client();
            let allowed = format!("tcp('203.0.113.1', {port})");
            client.does(&format!("old = {allowed}; old.sendall(b'a')"));
            agent.entry.flags |= agent_flag::QUARANTINED;
            world.gate.put_agent(agent.id, &agent.entry).unwrap();
            agent.entry.flags ^= agent_flag::QUARANTINED;
            let top = Cgroup::open(world.cgroup()).unwrap().id;
            let stranger = world.pins().join(format!("links/{top}/of_another_version"));
            fs::hard_link(world.pins().join(format!("links/{top}/egress")), &stranger).unwrap();

            rename(world, abi);
            world.gate = Gate::load(&world.pins()).unwrap();
            let others = world.gate.other_versions().unwrap();
            assert_eq!(others.iter().map(|it| it.abi).collect::<Vec<_>>(), [abi]);
            // Who is quarantined is known from there.
            let flags: Vec<(u64, u8)> = world
                .gate
                .agents_of(&others[0])
                .unwrap()
                .iter()
                .map(|(id, entry)| (*id, entry.flags & agent_flag::QUARANTINED))
                .collect();
            assert_eq!(flags, [(agent.id, agent_flag::QUARANTINED)]);
            assert_eq!(world.gate.agents().unwrap(), []);
            client.is_refused(&allowed);
            client.is_refused("socket.socket(AF_INET, SOCK_RAW, 1)");

            world.set_up();
            world.gate.put_agent(agent.id, &agent.entry).unwrap();
            world.rule(&agent, &[("203.0.113.0/24", direct(3))]);
            world.gate.attach_lsm();
            let cgroup = world.cgroup().to_owned();
            assert_eq!(world.gate.attach(&cgroup).unwrap(), Attachment::Replaced);
            world.gate.forget_other_versions().unwrap();
            assert_eq!(world.gate.other_versions().unwrap(), []);
            let left = fs::read_dir(world.pins()).unwrap().count();
            assert_eq!(left, 2, "links and maps");
            let links = fs::read_dir(world.pins().join(format!("links/{top}"))).unwrap();
            assert_eq!(links.count(), 16);
            client.does(&allowed);
            client.is_refused("tcp('192.0.2.1', 80)");
            world.gate.remove_agent(agent.id).unwrap();
            client.ends();
        }
    });
}

/// LSM programs let everybody pass whom their map does not have.
#[test]
fn lsm_programs_refuse_at_every_moment_of_an_upgrade() {
    in_world_with_lsm(|world| {
        for abi in OTHERS {
            let agent = world.agent(1);
            let mut client = agent.client();
            let refused = "socket.socket(17, SOCK_RAW, 0)";
            client.is_refused(refused);
            rename(world, abi);
            world.gate = Gate::load(&world.pins()).unwrap();
            client.is_refused(refused);
            world.gate.put_agent(agent.id, &agent.entry).unwrap();
            world.gate.attach_lsm();
            client.is_refused(refused);
            let cgroup = world.cgroup().to_owned();
            world.gate.attach(&cgroup).unwrap();
            world.gate.forget_other_versions().unwrap();
            client.is_refused(refused);
            let links = fs::read_dir(world.pins().join("links/lsm")).unwrap();
            assert_eq!(links.count(), world.gate.programs().len() - 18);
            client.ends();
        }
    });
}

//! Maps that have no room: what is not in them gets nothing, what is in them goes on, and whoever
//! writes is told which one it is. Origins and names are in `shared.rs`.

use std::net::{IpAddr, Ipv6Addr};
use std::thread;
use std::time::{Duration, Instant};

use agentguard_common::event::reason;
use agentguard_common::map::{
    AgentEntry, Budget, Counters, Listeners, NetworkKey, UnixNameKey, effect,
};
use agentguard_keeper::cgroup::{self, Cgroup};
use agentguard_keeper::gate::{GateError, Network};
use aya::Pod;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Map, MapData, MapError, PerCpuHashMap, PerCpuValues};

use crate::client::Client;
use crate::world::{World, accept, any, direct, in_world_of_its_own, server};

/// Keys that are nobody's begin here.
const NOBODY: u32 = 1_000_000;

/// One of the gate's maps.
fn map(world: &World, name: &str) -> Map {
    let version = format!("v{}", agentguard_common::ABI_VERSION);
    let path = world.pins().join(version).join(name);
    Map::from_map_data(MapData::from_pin(path).unwrap()).unwrap()
}

/// Has `insert` write one numbered entry after the other until there is no room, and gives the number
/// that found some.
///
/// Memory that is not at hand for a moment (`ENOMEM`, as of the gate's own writes) is no lack of room.
pub(crate) fn fill_with(mut insert: impl FnMut(u32) -> Result<(), MapError>) -> u32 {
    let begin = Instant::now();
    let mut count = 0;
    loop {
        match insert(count) {
            Ok(()) => count += 1,
            Err(MapError::SyscallError(error)) => match error.io_error.raw_os_error() {
                Some(libc::E2BIG) => return count,
                Some(libc::ENOMEM) if begin.elapsed() < Duration::from_secs(30) => {
                    thread::park_timeout(Duration::from_millis(2));
                }
                _ => unreachable!("entry {count}: {error}"),
            },
            Err(error) => unreachable!("entry {count}: {error}"),
        }
    }
}

/// Fills a map with what is nobody's, and gives the number of entries that found room.
fn fill<K: Pod + From<u32>, V: Pod>(world: &World, name: &str, value: V) -> u32 {
    let mut map = world.map::<K, V>(name);
    fill_with(|number| map.insert(K::from(NOBODY + number), value, 0))
}

fn fill_counters(world: &World) -> u32 {
    let mut map: PerCpuHashMap<_, u32, Counters> =
        PerCpuHashMap::try_from(map(world, "COUNTERS")).unwrap();
    let processors = aya::util::nr_cpus().unwrap();
    let zeroes = || PerCpuValues::try_from(vec![Counters::default(); processors]).unwrap();
    fill_with(|number| map.insert(NOBODY + number, zeroes(), 0))
}

/// Takes one entry out again.
fn make_room(world: &World, name: &str) {
    match name {
        "AGENTS" => {
            let mut map = world.map::<u64, AgentEntry>(name);
            map.remove(&u64::from(NOBODY)).unwrap();
        }
        "BUDGETS" => {
            let mut map = world.map::<u32, Budget>(name);
            map.remove(&NOBODY).unwrap();
        }
        _ => {
            let mut map: PerCpuHashMap<_, u32, Counters> =
                PerCpuHashMap::try_from(map(world, name)).unwrap();
            map.remove(&NOBODY).unwrap();
        }
    }
}

fn is_refused_as_nobody(world: &mut World, client: &mut Client) {
    world.events();
    client.is_refused("socket.socket()");
    let events = world.events();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((events[0].reason, events[0].denied), (reason::NO_AGENT, 1));
}

#[test]
fn an_agent_for_which_there_is_no_room_gets_nothing_until_there_is() {
    for name in ["AGENTS", "BUDGETS", "COUNTERS"] {
        in_world_of_its_own(|world| {
            let (server, port) = server();
            let known = world.agent(1);
            world.rule(&known, &[("::/0", direct(1))]);
            let mut client = known.client();
            let count = match name {
                "AGENTS" => fill::<u64, _>(world, name, AgentEntry::default()),
                "BUDGETS" => fill::<u32, _>(world, name, Budget::default()),
                _ => fill_counters(world),
            };
            assert!(count > 65_000, "{name} {count}");

            let late = Cgroup::create(&world.cgroup().join("late")).unwrap();
            let entry = AgentEntry {
                agent: 2,
                ..known.entry
            };
            let error = world.gate.put_agent(late.id, &entry).unwrap_err();
            assert!(
                matches!(error, GateError::Full(map) if map == name),
                "{error}"
            );
            let mut other = Client::inside(&late.path);
            is_refused_as_nobody(world, &mut other);
            client.does(&format!("s = tcp('192.0.2.1', {port})"));
            accept(&server);
            // Nor is anything kept for it.
            let budgets = world.map::<u32, Budget>("BUDGETS");
            assert!(budgets.get(&2, 0).is_err());
            let counters: PerCpuHashMap<_, u32, Counters> =
                PerCpuHashMap::try_from(map(world, "COUNTERS")).unwrap();
            assert!(counters.get(&2, 0).is_err());

            make_room(world, name);
            world.gate.put_agent(late.id, &entry).unwrap();
            other.does(&format!("s = tcp('192.0.2.1', {port})"));
            accept(&server);
            other.ends();
            world.gate.remove_agent(late.id).unwrap();
            cgroup::remove(&late.path).unwrap();
        });
    }
}

#[test]
fn where_the_listeners_are_full_those_that_are_known_are_served() {
    in_world_of_its_own(|world| {
        let agent = world.agent(1);
        world.rule(&agent, &[("::/0", any(effect::PROXY, 1))]);
        let mut client = agent.client();
        let count = fill::<u64, _>(world, "LISTENERS", Listeners::default());
        assert!(count > 16_000, "{count}");
        let error = world.gate.put_listeners(1, &Listeners::default());
        let error = error.unwrap_err();
        assert!(matches!(error, GateError::Full("LISTENERS")), "{error}");
        let proxy = crate::world::tcp(&world.listening.v4.proxy);
        client.does("s = tcp('192.0.2.1', 80)");
        accept(&proxy);
        // An agent of a namespace that is not in it reaches nothing.
        let netns = world.listening.netns;
        world.gate.remove_listeners(netns).unwrap();
        world.events();
        client.does("refused = socket.socket().connect_ex(('192.0.2.1', 80))");
        assert_eq!(client.number::<i32>("refused"), libc::EPERM);
        let events = world.events();
        assert_eq!(events[0].reason, reason::NO_LISTENER, "{events:?}");
    });
}

/// Addresses of their own, so many.
fn networks(count: u32) -> Vec<Network> {
    let address = |number| IpAddr::V6(Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(number)));
    let network = |number| Network {
        address: address(number),
        prefix: 128,
        rules: direct(1),
    };
    (0..count).map(network).collect()
}

#[test]
fn where_the_address_rules_are_full_those_that_are_there_hold_and_more_are_refused() {
    in_world_of_its_own(|world| {
        let (server, port) = server();
        let agent = world.agent(1);
        let denied = any(effect::DENY, 1);
        world.rule(&agent, &[("::/0", direct(1)), ("192.0.2.7/32", denied)]);
        let mut client = agent.client();
        let error = world.gate.put_networks(99, &networks(262_144)).unwrap_err();
        assert!(matches!(error, GateError::Full("NETWORKS")), "{error}");
        let error = world.gate.put_networks(2, &networks(10)).unwrap_err();
        assert!(matches!(error, GateError::Full("NETWORKS")), "{error}");
        client.does(&format!("s = tcp('192.0.2.1', {port})"));
        accept(&server);
        client.is_refused(&format!("tcp('192.0.2.7', {port})"));
        // One that is moved to rules of which some are missing reaches what is there, which the policy
        // gives it, and nothing else.
        let mut entry = agent.entry;
        entry.profile = 2;
        world.gate.put_agent(agent.id, &entry).unwrap();
        client.is_refused(&format!("tcp('192.0.2.1', {port})"));

        world.gate.put_networks(99, &[]).unwrap();
        world.gate.put_networks(2, &networks(10)).unwrap();
        let networks: LpmTrie<_, NetworkKey, agentguard_common::map::NetworkEntry> =
            LpmTrie::try_from(map(world, "NETWORKS")).unwrap();
        assert_eq!(networks.keys().count(), 2 + 10);
    });
}

#[test]
fn where_the_names_of_unix_sockets_are_full_those_that_are_refused_stay_so() {
    in_world_of_its_own(|world| {
        world.gate.refuse_unix(["/run/docker.sock"]).unwrap();
        let names = |world: &World| -> LpmTrie<MapData, UnixNameKey, u32> {
            LpmTrie::try_from(map(world, "UNIX_NAMES")).unwrap()
        };
        let before: Vec<_> = names(world).keys().map(Result::unwrap).collect();
        assert!(!before.is_empty());
        let many: Vec<String> = (0..40_000).map(|number| format!("/srv/{number}")).collect();
        let error = world.gate.refuse_unix(many.iter().map(String::as_str));
        let error = error.unwrap_err();
        assert!(matches!(error, GateError::Full("UNIX_NAMES")), "{error}");
        let error = world.gate.open_unix(1, ["/srv/a"]).unwrap_err();
        assert!(matches!(error, GateError::Full("UNIX_NAMES")), "{error}");
        for key in before {
            assert!(names(world).get(&key, 0).is_ok());
        }
        // With fewer there is room again.
        world.gate.refuse_unix(["/run/docker.sock"]).unwrap();
        world.gate.open_unix(1, ["/srv/a"]).unwrap();
    });
}

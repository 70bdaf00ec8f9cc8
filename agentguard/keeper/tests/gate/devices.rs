//! Which devices agents open.

use agentguard_common::device;
use agentguard_common::event::{kind, reason};
use agentguard_common::map::mode;

use crate::client::Client;
use crate::world::{absent, in_world};

/// In Python: opens a device by its numbers, from a node of its own. That is gone before, so that it does
/// not stay whatever becomes of the test: what has no name any more is opened by its descriptor.
fn open(major: u32, minor: u32) -> String {
    format!(
        "node = f'/tmp/agentguard-device-{{os.getpid()}}'; \
         os.mknod(node, 0o20600, os.makedev({major}, {minor})); \
         place = os.open(node, os.O_PATH); os.unlink(node); \
         dev = os.open(f'/proc/self/fd/{{place}}', os.O_RDWR)"
    )
}

/// `/dev/net/tun`.
const TUN: (u32, u32) = (10, 200);

/// The number that a driver's devices have on this host, if it is there.
fn major(driver: &str) -> Option<u32> {
    let devices = std::fs::read_to_string("/proc/devices").unwrap();
    let mut lines = devices.lines().map(|line| line.split_whitespace());
    lines.find_map(|mut words| {
        let number = words.next()?.parse().ok()?;
        (words.next()? == driver).then_some(number)
    })
}

#[test]
fn a_device_that_has_another_number_on_each_host_is_refused() {
    let Some(macvtap) = major("macvtap") else {
        absent("macvtap");
        return;
    };
    in_world(|world| {
        // Nobody has made such a device: without the gate its driver says so.
        let tap = open(macvtap, 7);
        let late = world.ungoverned("free");
        let mut free = Client::inside(&late.path);
        let answer = free.says(&format!("do {tap}"));
        assert!(["ENODEV", "ENXIO"].contains(&answer.as_str()), "{answer}");

        let agent = world.agent(1);
        let mut client = agent.client();
        client.is_refused(&tap);
        let events = world.events();
        assert_eq!(events.len(), 1, "{events:?}");
        let event = &events[0];
        assert_eq!(
            (event.kind, event.reason, event.denied),
            (kind::DEVICE, reason::DEVICE_FILE, 1)
        );
        let found = (u32::from(event.family), event.socket_type);
        assert_eq!(found, (macvtap, 7));
        let name = device::dynamic_name(event.protocol);
        assert_eq!(name, Some("/dev/tap (macvtap)"));
        // Looked at again it is the same.
        world.gate.look_for_devices().unwrap();
        client.is_refused(&tap);
    });
}

#[test]
fn a_device_whose_packets_no_socket_sends_is_refused() {
    in_world(|world| {
        let tun = open(TUN.0, TUN.1);
        let late = world.ungoverned("free");
        let mut free = Client::inside(&late.path);
        let answer = free.says(&format!("do {tun}"));
        // The numbers are taken everywhere; the driver may be missing.
        assert!(
            ["done", "ENODEV", "ENXIO"].contains(&answer.as_str()),
            "{answer}"
        );

        let mut agent = world.agent(1);
        let mut client = agent.client();
        client.is_refused(&tun);
        let events = world.events();
        assert_eq!(events.len(), 1, "{events:?}");
        let event = &events[0];
        assert_eq!(
            (event.kind, event.reason, event.denied),
            (kind::DEVICE, reason::DEVICE_FILE, 1)
        );
        assert_eq!((event.agent, event.pid), (1, client.pid()));
        let (major, minor) = (event.family.into(), event.socket_type.into());
        assert_eq!(device::name(major, minor), Some("/dev/net/tun"));

        // What programs need stays.
        for (major, minor) in [(1, 3), (1, 5), (1, 9)] {
            client.does(&open(major, minor));
        }
        assert_eq!(world.events().len(), 0);

        // Who only looks on says what it would have refused.
        agent.entry.mode = mode::OBSERVE;
        world.gate.put_agent(agent.id, &agent.entry).unwrap();
        assert_eq!(client.says(&format!("do {tun}")), answer);
        let events = world.events();
        assert_eq!((events.len(), events[0].denied), (1, 0));
    });
}

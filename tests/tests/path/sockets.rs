//! Agents get TCP and UDP over IP. Every other socket is refused when it is made, and recorded.

use agentguard_model::{ActionKind, ReasonCode, Verdict};
use serde_json::json;

use super::{agent, free, gist, mighty, world};

const POLICY: &str = "
version: 1
agents: [{name: coder}, {name: watched, mode: observe}]
rules:
  - id: all-addresses
    match: {cidr: [0.0.0.0/0, '::/0'], transport: [tcp, udp]}
    action: allow
    handling: direct
";

/// What a program may ask for that is neither: family, type, protocol and what it is.
const OTHERS: [(u32, u32, u32, &str); 9] = [
    (2, 3, 1, "raw ICMP"),
    (10, 3, 58, "raw ICMPv6"),
    (2, 3, 255, "raw IP with headers of one's own"),
    (2, 3, 17, "raw UDP"),
    (2, 2, 1, "ping"),
    (10, 2, 58, "ping over IPv6"),
    (2, 1, 132, "SCTP"),
    (2, 1, 262, "MPTCP"),
    (2, 2, 136, "UDP-Lite"),
];

#[test]
fn other_sockets_than_tcp_and_udp_are_refused_and_recorded() {
    let world = world("sockets");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut without = free(&world);
    // The group range of ping sockets is the namespace's own, and closed when it is made.
    without.gives(
        "open('/proc/sys/net/ipv4/ping_group_range', 'w').write('0 65535')",
        7,
    );
    let mut client = mighty(&world, &guard, "coder");
    let mut refused = Vec::new();
    for (family, kind, protocol, what) in OTHERS {
        let order = format!("make('s', {family}, {kind}, {protocol})");
        let found = without.ask(&order).unwrap();
        if found != "made" {
            // There is nothing to refuse: this kernel has it not.
            assert_eq!(found, json!({"error": "EPROTONOSUPPORT"}), "{what}");
            println!("this kernel has no {what} sockets");
            continue;
        }
        client.fails(&order, "EPERM");
        refused.push(format!("family {family} type {kind} protocol {protocol}"));
    }
    assert!(refused.len() >= 6, "{refused:?}");
    client.gives("make('s', 2, 1)", "made");
    client.gives("make('s', 10, 2)", "made");

    let decisions = guard
        .wait_verdicts("one decision for each", |decisions| {
            (decisions.len() >= refused.len()).then(|| decisions.to_vec())
        })
        .unwrap();
    let told: Vec<_> = decisions
        .iter()
        .map(|decision| decision.action.method.clone().unwrap_or_default())
        .collect();
    assert_eq!(told, refused);
    for decision in &decisions {
        let expected = (
            ActionKind::Socket,
            Verdict::Deny,
            ReasonCode::SocketNotAllowed,
            true,
        );
        assert_eq!(gist(decision), expected);
        assert_eq!(agent(decision), Some("coder"));
        assert_eq!(decision.count, 1);
    }
}

/// A raw socket made before would be the way around: the packets themselves are the proof.
#[test]
fn no_ping_leaves() {
    let world = world("ping");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let script = "(make('p', 2, 3, 1), kept['p'].sendto(\
                  bytes([8, 0, 0xf7, 0xff, 0, 0, 0, 0]), ('192.0.2.66', 0)))[1]";
    mighty(&world, &guard, "coder").fails(script, "EPERM");
    assert_eq!(world.canary().unwrap(), 0);
    free(&world).gives(script, 8);
    assert_eq!(world.canary().unwrap(), 1);
}

#[test]
fn in_observe_mode_they_work_and_are_recorded() {
    let world = world("sockets-observed");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = mighty(&world, &guard, "watched");
    client.gives("make('s', 2, 3, 1)", "made");
    let decision = guard
        .wait_verdicts("the socket", |decisions| decisions.first().cloned())
        .unwrap();
    let expected = (
        ActionKind::Socket,
        Verdict::Deny,
        ReasonCode::SocketNotAllowed,
        false,
    );
    assert_eq!(gist(&decision), expected);
}

/// What the kernel has no programs for is said, and nothing is claimed that is not there.
#[test]
fn status_lists_the_lsm_programs_or_says_what_is_open_without() {
    let world = world("lsm-status");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let answer = guard.cli().args(["status", "-o", "json"]).run().unwrap();
    let status: serde_json::Value =
        serde_json::from_str(&answer.success().unwrap().stdout).unwrap();
    let programs = status["gate"]["programs"].as_array().unwrap();
    let lsm = |program: &&serde_json::Value| {
        let name = program["name"].as_str().unwrap();
        name.starts_with("lsm_")
    };
    let running = programs.iter().filter(lsm).count();
    let degraded = status["degraded"].as_array().unwrap();
    let told = degraded
        .iter()
        .filter(|what| what.as_str().unwrap().starts_with("no LSM program"))
        .count();
    println!("{running} LSM programs; {degraded:?}");
    assert!(
        (running, told) == (10, 0) || (running, told) == (0, 3),
        "{running} {told}"
    );
}

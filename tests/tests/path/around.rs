//! Ways around a decision that was taken: other calls that dial, sockets that are used again, and
//! packets that say another way.

use agentguard_model::{ReasonCode, Verdict};
use agentguard_tests::{Guard, address};
use serde_json::json;

use super::{SITE, free, mighty, puppet, world};

const POLICY: &str = "
version: 1
agents: [{name: coder}]
rules:
  - id: direct
    match: {cidr: [203.0.113.16/32, '2001:db8:113::10/128'], port: [7], transport: [tcp, udp]}
    action: allow
    handling: direct
  - id: spliced
    match: {host: [api.example.com], port: [22]}
    action: allow
";

/// Loose source routing (RFC 791, 3.1) by way of the canary, and a new look-up of the route.
const DETOUR: &str = "(of('c').setsockopt(0, socket.IP_OPTIONS, \
                      bytes([131, 7, 4]) + socket.inet_aton('192.0.2.66') + bytes([0])), \
                      of('c').setsockopt(0, socket.IP_TOS, 8))[0]";

fn denied(guard: &Guard<'_>, code: ReasonCode) {
    guard
        .wait_verdicts(&format!("a denial for {code}"), |decisions| {
            let found = decisions
                .iter()
                .find(|decision| decision.verdict == Verdict::Deny && decision.reason.code == code);
            found.cloned()
        })
        .unwrap();
}

#[test]
fn data_in_the_syn_is_dialled_like_any_other() {
    let world = world("fast-open");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    let open = |address: &str, port: u16| {
        format!(
            "(make('c', 2, 1), of('c').settimeout(None), \
             of('c').sendto(b'hello', socket.MSG_FASTOPEN, ('{address}', {port})))[2]"
        )
    };
    client.fails(&open("192.0.2.66", 80), "EPERM");
    denied(&guard, ReasonCode::NoRule);
    assert_eq!(world.canary().unwrap(), 0);
    free(&world).fails(&open("192.0.2.66", 80), "ECONNREFUSED");
    assert!(world.canary().unwrap() > 0);
    // Where it is allowed it works, directly and through the proxy.
    let [four, _] = address::origin(0x10);
    client.gives(&open(&four.to_string(), 7), 5);
    client.gives("hear('c')", "hello");
    let found = client.ask(&format!("resolve('{SITE}', 4)")).unwrap();
    client.gives(&open(found[0].as_str().unwrap(), 22), 5);
    client.gives(
        "of('c').recv(27).decode()",
        agentguard_tests::origin::BANNER,
    );
    client.gives("hear('c')", "hello");
}

#[test]
fn a_socket_that_was_let_through_once_is_decided_anew_when_it_dials_again() {
    let world = world("again");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    let [four, _] = address::origin(0x10);
    client.gives(
        &format!("tcp('c', '{four}', 7)"),
        json!([four.to_string(), 7]),
    );
    client.gives("echo('c', 'hello')", "hello");
    // connect(2) to AF_UNSPEC: the socket is free again.
    let disconnect = "__import__('ctypes').CDLL(None).connect(of('c').fileno(), bytes(16), 16)";
    client.gives(disconnect, 0);
    client.fails("connect('c', '192.0.2.66', 80)", "EPERM");

    client.gives("udp('c', '0.0.0.0')", "made");
    client.gives(&format!("connect('c', '{four}', 7)"), "connected");
    client.gives("echo('c', 'hello')", "hello");
    // Another address in the call, on a connected socket, and back.
    client.fails("say_to('c', 'x', '192.0.2.66', 7)", "EPERM");
    client.gives("echo('c', 'again')", "again");
    client.gives("connect('c', '192.0.2.66', 7)", "connected");
    client.fails("say('c', 'x')", "EPERM");
    client.gives(disconnect, 0);
    client.fails("say_to('c', 'x', '192.0.2.66', 7)", "EPERM");
    client.gives(&format!("say_to('c', 'x', '{four}', 7)"), 1);
    assert_eq!(world.canary().unwrap(), 0);
}

/// Root of a container may set this option, and on an established connection no socket hook sees it: the
/// packets would go to the address in it.
#[test]
fn a_source_route_leads_no_packet_elsewhere() {
    let world = world("source-route");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let [four, _] = address::origin(0x10);
    let target = four.to_string();
    // What `run` starts may not even ask for it.
    puppet(&world, &guard, "coder").fails(&format!("(make('c', 2, 1), {DETOUR})[1]"), "EPERM");
    let mut client = mighty(&world, &guard, "coder");
    client.gives(&format!("tcp('c', '{target}', 7)"), json!([target, 7]));
    client.gives("echo('c', 'hello')", "hello");
    client.gives(DETOUR, json!(null));
    client.gives("say('c', 'a secret')", 8);
    denied(&guard, ReasonCode::PacketUnparsable);
    assert_eq!(world.canary().unwrap(), 0);
    // Through the proxy, and on an accepted connection.
    let found = client.ask(&format!("resolve('{SITE}', 4)")).unwrap();
    let dialled = found[0].as_str().unwrap();
    client.gives(&format!("tcp('c', '{dialled}', 22)"), json!([dialled, 22]));
    client.gives(
        "of('c').recv(27).decode()",
        agentguard_tests::origin::BANNER,
    );
    client.gives(DETOUR, json!(null));
    client.gives("say('c', 'a secret')", 8);
    client.gives("listen('l', '127.0.0.1', 8000)", 8000);
    client.gives("tcp('d', '127.0.0.1', 8000)", json!(["127.0.0.1", 8000]));
    client.gives("accept('l', 'c')", "127.0.0.1");
    client.gives(DETOUR, json!(null));
    client.gives("say('c', 'a secret')", 8);
    // From the beginning, and without a connection.
    client.gives("make('c', 2, 1)", "made");
    client.gives(DETOUR, json!(null));
    client.gives("of('c').settimeout(1)", json!(null));
    client.ask(&format!("connect('c', '{target}', 7)")).unwrap();
    client.gives("udp('c', '0.0.0.0')", "made");
    client.gives(DETOUR, json!(null));
    client.fails(&format!("say_to('c', 'a secret', '{target}', 7)"), "EPERM");
    client.gives(&format!("connect('c', '{target}', 7)"), "connected");
    client.fails("say('c', 'a secret')", "EPERM");
    assert_eq!(world.canary().unwrap(), 0);

    // Without the guard each of the two ways leads there.
    let mut without = free(&world);
    without.gives(&format!("tcp('c', '{target}', 7)"), json!([target, 7]));
    without.gives(DETOUR, json!(null));
    without.gives("say('c', 'a secret')", 8);
    assert!(world.canary().unwrap() > 0);
    without.gives("udp('u', '0.0.0.0')", "made");
    without.gives(&DETOUR.replace("'c'", "'u'"), json!(null));
    without.gives(&format!("say_to('u', 'a secret', '{target}', 7)"), 8);
    assert!(
        world
            .all_arrivals()
            .unwrap()
            .iter()
            .any(|(to, _)| Some(to.ip) == address::CANARY.first().copied() && to.protocol == 17)
    );
}

#[test]
fn a_datagram_that_is_cut_into_fragments_is_one_datagram() {
    let world = world("fragments");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    for target in address::origin(0x10) {
        client.gives(&format!("udp('u', '{target}')"), "made");
        client.gives(&format!("say_to('u', 'x' * 9000, '{target}', 7)"), 9000);
        client.gives("len(hear_from('u')[0])", 9000);
        client.gives(&format!("connect('u', '{target}', 7)"), "connected");
        client.gives("len(echo('u', 'y' * 9000))", 9000);
    }
    let canary = "say_to('u', 'x' * 9000, '2001:db8:113::66', 7)";
    client.fails(canary, "EPERM");
    assert_eq!(world.canary().unwrap(), 0);
}

/// Where the host lets sockets have any address (`ip_nonlocal_bind`), a server of the agent's own must
/// not take that for somebody whom it may answer. Nor may root of a container choose it (`IP_TRANSPARENT`).
#[test]
fn a_forged_sender_on_loopback_is_nobody_to_answer_to() {
    let world = world("forged");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = mighty(&world, &guard, "coder");
    client.gives("make('o', 2, 2)", "made");
    client.fails("of('o').setsockopt(0, socket.IP_TRANSPARENT, 1)", "EPERM");
    denied(&guard, ReasonCode::OptionNotAllowed);
    let may = "echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind";
    let host = world.host().command("sh").args(["-c", may]);
    host.run().unwrap().success().unwrap();
    let forge = |kind: u32, name: &str| {
        format!(
            "(make('{name}', 10, {kind}), of('{name}').settimeout(1), \
             of('{name}').bind(('2001:db8:113::66', 9)))[0]"
        )
    };
    client.gives("udp('l', '::')", "made");
    client.gives("of('l').settimeout(1)", json!(null));
    client.gives("of('l').bind(('::', 9000))", json!(null));
    client.gives(&forge(2, "f"), "made");
    client.gives("say_to('f', 'from nowhere', '::1', 9000)", 12);
    client.fails("hear_from('l')", "timeout");
    client.fails("say_to('l', 'a secret', '2001:db8:113::66', 9)", "EPERM");
    // Nor does a listener answer it.
    client.gives("listen('s', '::', 9001)", 9001);
    client.gives(&forge(1, "t"), "made");
    client.fails("connect('t', '::1', 9001)", "timeout");
    denied(&guard, ReasonCode::InboundNotAllowed);
    assert_eq!(world.canary().unwrap(), 0);

    // Its own address, and that of the host, are somebody's.
    for (from, to) in [("::1", "::1"), ("2001:db8:51::10", "2001:db8:51::10")] {
        let mut host = free(&world);
        host.gives("udp('u', '::')", "made");
        host.gives(&format!("of('u').bind(('{from}', 0))"), json!(null));
        host.gives(&format!("say_to('u', 'hello', '{to}', 9000)"), 5);
        let heard = client.ask("hear_from('l')").unwrap();
        assert_eq!(heard[0], "hello");
        client.gives(
            &format!("say_to('l', 'welcome', '{from}', {})", heard[2]),
            7,
        );
        assert_eq!(host.ask("hear_from('u')").unwrap()[0], "welcome");
        host.gives(&format!("tcp('c', '{to}', 9001)"), json!([to, 9001]));
        client.ask("accept('s', 'a')").unwrap();
    }
    // Without the guard the answers leave.
    client.gives("close('f')", "closed");
    let mut without = free(&world);
    without.gives("udp('l', '::')", "made");
    without.gives("of('l').bind(('::', 9002))", json!(null));
    without.gives(&forge(2, "f"), "made");
    without.gives("say_to('f', 'from nowhere', '::1', 9002)", 12);
    without.gives(
        "hear_from('l')",
        json!(["from nowhere", "2001:db8:113::66", 9]),
    );
    without.gives("say_to('l', 'a secret', '2001:db8:113::66', 9)", 8);
    assert!(world.canary().unwrap() > 0);
}

/// Any user may choose the sender of a datagram among the host's addresses (`IP_PKTINFO`), and by
/// that name the port of a service of the host's.
#[test]
fn a_service_of_the_hosts_is_not_reached_by_answering_in_its_name() {
    let world = world("pktinfo");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut host = free(&world);
    let mut client = puppet(&world, &guard, "coder");
    let name =
        |address: &str| format!("(0, 8, bytes(4) + socket.inet_aton('{address}') + bytes(4))");
    for puppet in [&mut host, &mut client] {
        puppet.gives("udp('l', '127.0.0.1')", "made");
        puppet.gives("of('l').settimeout(1)", json!(null));
    }
    host.gives("of('l').bind(('127.0.0.1', 5432))", json!(null));
    client.gives("of('l').bind(('127.0.0.1', 9000))", json!(null));
    client.gives("udp('f', '127.0.0.5')", "made");
    client.gives("of('f').bind(('127.0.0.5', 5432))", json!(null));
    let send = |name: String| format!("of('f').sendmsg([b'x'], [{name}], 0, ('127.0.0.1', 9000))");
    client.fails(&send(name("127.0.0.1")), "EPERM");
    client.fails("hear_from('l')", "timeout");
    client.fails("say_to('l', 'a secret', '127.0.0.1', 5432)", "EPERM");
    host.fails("hear_from('l')", "timeout");
    // Its own address may be said.
    client.gives(&send(name("127.0.0.5")), 1);
    client.gives("hear_from('l')", json!(["x", "127.0.0.5", 5432]));
    // Nor by having the resolver answer to it: a query for a name that is not there.
    let query = r"bytes([0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]) + b'\6secret\7example\0\0\1\0\1'";
    let ask = |name: String| format!("of('f').sendmsg([{query}], [{name}], 0, ('8.8.8.8', 53))");
    client.fails(&ask(name("127.0.0.1")), "EPERM");
    host.fails("hear_from('l')", "timeout");
    client.gives(&ask(name("127.0.0.5")), 32);
    client.gives("of('f').settimeout(5)", json!(null));
    client.gives("len(of('f').recv(512)) >= 32", true);
}

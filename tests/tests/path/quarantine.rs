//! Quarantine: an agent that is cut off in the middle of what it does, until it is released.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use agentguard_model::{ActionKind, Decision, Layer, ReasonCode, Verdict};
use agentguard_tests::origin::port;
use agentguard_tests::{Guard, Origin, Output, Puppet, World, address, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{SITE, agent, gist, mighty, world};

/// How long something may take that has to happen.
const SOON: Duration = Duration::from_secs(10);

const POLICY: &str = "
version: 1
agents: [{name: coder}, {name: helper}]
rules:
  - id: inspected
    match: {host: [api.example.com], port: [443], method: [GET, POST]}
    action: allow
    handling: inspect
  - id: spliced
    match: {host: [api.example.com], port: [80, 22, 3000]}
    action: allow
  - id: direct
    match: {cidr: [203.0.113.32/32, '2001:db8:113::20/128'], port: [7, 9]}
    action: allow
    handling: direct
  - id: datagrams
    match: {cidr: [203.0.113.32/32, '2001:db8:113::20/128'], port: [7], transport: [udp]}
    action: allow
    handling: direct
";

fn start(world: &World) -> Guard<'_> {
    let upstreams = json!([{ "host": ["*.example.com"], "ca": world.ca_file() }]);
    let guard = world.guard().policy(POLICY).setting("upstreams", upstreams);
    guard.start().unwrap()
}

/// A client that trusts what `run` makes it trust.
fn trusting(world: &World, guard: &Guard<'_>, options: &[&str]) -> Puppet {
    Puppet::start(world, |words| {
        let run = guard.cli().args(["run", "--agent", "coder"]);
        run.args(options).arg("--").args(words)
    })
    .unwrap()
}

fn say(guard: &Guard<'_>, words: &[&str]) -> Output {
    guard.cli().args(words).run().unwrap()
}

fn quarantine(guard: &Guard<'_>) -> Output {
    say(guard, &["agent", "quarantine", "coder"])
        .success()
        .unwrap()
}

fn release(guard: &Guard<'_>) {
    let released = say(guard, &["agent", "release", "coder"]);
    released.success().unwrap();
}

/// The sockets in the host that have an address of the other side, as a table of the kernel tells them.
fn connections(world: &World, ip: IpAddr) -> Vec<String> {
    let table = match ip {
        IpAddr::V4(_) => "/proc/thread-self/net/tcp",
        IpAddr::V6(_) => "/proc/thread-self/net/tcp6",
    };
    let text = world.host().enter(|| fs::read_to_string(table)).unwrap();
    let words = match ip {
        IpAddr::V4(ip) => vec![u32::from_ne_bytes(ip.octets())],
        IpAddr::V6(ip) => {
            let words = ip.octets();
            let words = words.chunks(4).map(|word| word.try_into().unwrap());
            words.map(u32::from_ne_bytes).collect()
        }
    };
    let shown: String = words.iter().map(|word| format!("{word:08X}")).collect();
    let remote = |line: &&str| {
        line.split_whitespace()
            .nth(2)
            .is_some_and(|it| it.starts_with(&shown))
    };
    let text = text.unwrap();
    text.lines().filter(remote).map(str::to_owned).collect()
}

fn grows(world: &World, ip: IpAddr) {
    let before = world.arrivals(ip).unwrap();
    wait_until("packets arrive", SOON, || {
        (world.arrivals(ip).unwrap() > before + 100).then_some(())
    })
    .unwrap();
}

fn denied(decision: &&Decision) -> bool {
    decision.reason.code == ReasonCode::Quarantined
}

#[test]
fn nothing_arrives_any_more_once_the_command_has_returned() {
    let [direct, direct6] = address::origin(0x20);
    let world = world("quarantine");
    cuts(&world, &[("direct", direct), ("direct6", direct6)], 4);
}

/// By itself: a site with both versions is asked over IPv4.
#[test]
fn nothing_arrives_any_more_of_what_is_inspected_over_ipv6() {
    let [_, site] = address::origin(0x10);
    let world = World::new("quarantine6")
        .origin(Origin::at(&[site]).site(SITE))
        .origin(Origin::at(&address::origin(0x20)))
        .start()
        .unwrap();
    cuts(&world, &[], 6);
}

/// Cuts an agent off that sends all it can: directly, and inspected over a version of IP.
fn cuts(world: &World, directs: &[(&str, IpAddr)], family: usize) {
    let guard = start(world);
    let mut client = trusting(world, &guard, &[]);
    let inspected = address::origin(0x10)[usize::from(family == 6)];
    let count = port::COUNT;
    for (name, ip) in directs {
        client.gives(
            &format!("tcp('{name}', '{ip}', {count})"),
            json!([ip.to_string(), count]),
        );
        client.gives(&format!("pour('{name}', bytes(1000))"), "begun");
    }
    let head =
        "POST /a HTTP/1.1\\r\\nHost: api.example.com\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n";
    let tls = format!("tls('inspected', '{SITE}', {family})");
    client.gives(&tls, "connected");
    client.ask(&format!("say('inspected', '{head}')")).unwrap();
    client.gives(
        "pour('inspected', b'3e8\\r\\n' + bytes(1000) + b'\\r\\n')",
        "begun",
    );
    let mut flows = directs.to_vec();
    flows.push(("inspected", inspected));
    for (_, ip) in &flows {
        grows(world, *ip);
    }

    let ordered = Instant::now();
    let said = quarantine(&guard);
    let returned = Instant::now();
    let arrivals = || -> Vec<u64> {
        let flows = flows.iter();
        flows.map(|(_, ip)| world.arrivals(*ip).unwrap()).collect()
    };
    let at_return = arrivals();
    assert!(said.stderr.starts_with("coder is quarantined; "), "{said}");
    for (what, ip) in &flows {
        let last = world.last_arrival(*ip).unwrap();
        println!(
            "{what} {ip}: the last packet {:?} after the order, the answer {:?} after it",
            last.saturating_duration_since(ordered),
            returned - ordered
        );
    }
    // There is no socket left that could send, also not later.
    for (_, ip) in &flows {
        assert_eq!(connections(world, *ip), [""; 0], "{ip}");
    }
    for (name, _) in &flows {
        let ended = wait_until("the end of the pouring", SOON, || {
            Some(client.ask(&format!("dry('{name}')")).unwrap()).filter(|it| !it.is_null())
        });
        // A TLS library may keep the number to itself.
        let ended = ended.unwrap();
        let expected = ended == "ECONNABORTED" || (*name == "inspected" && ended == "SSLEOFError");
        assert!(expected, "{name}: {ended}");
    }
    // What was on the wire already arrives still: of a pair of veths that is no more than the kernel queues
    // for the other end (net.core.netdev_max_backlog).
    let mut arrived = at_return.clone();
    let mut alike = 0;
    wait_until("the end of what was on the wire", SOON, || {
        let before = std::mem::replace(&mut arrived, arrivals());
        alike = if before == arrived { alike + 1 } else { 0 };
        (alike == 20).then_some(())
    })
    .unwrap();
    for (now, then) in arrived.iter().zip(&at_return) {
        assert!(now - then <= 1000, "{at_return:?} {arrived:?}");
    }
    for ip in address::origin(0x20) {
        client.fails(&format!("tcp('again', '{ip}', {count})"), "EPERM");
    }
    let decisions = guard
        .wait_verdicts("the end of the request", |decisions| {
            let requests = decisions.iter().filter(denied);
            let requests = requests.filter(|it| it.action.kind == ActionKind::HttpRequest);
            (requests.count() == 1).then(|| decisions.to_vec())
        })
        .unwrap();
    assert_eq!(arrivals(), arrived);
    let operator = decisions
        .iter()
        .find(|decision| decision.layer == Layer::Operator)
        .unwrap();
    assert_eq!(
        gist(operator),
        (
            ActionKind::Administration,
            Verdict::Allow,
            ReasonCode::Operator,
            true
        )
    );
    assert_eq!(operator.action.method.as_deref(), Some("quarantine"));
    assert_eq!(agent(operator), Some("coder"));
    assert_eq!(operator.reason.message, "coder was quarantined, by uid 0");

    let id = decisions.iter().find(denied).unwrap().id.to_string();
    let story = say(&guard, &["explain", &id]);
    assert!(
        story
            .stdout
            .contains("`agentguard agent release coder` undoes it"),
        "{story}"
    );
}

#[test]
fn every_kind_of_socket_is_ended_wherever_the_agent_has_gone_and_nobody_elses() {
    let world = world("quarantine-sockets");
    let guard = start(&world);
    let (plain, isolated) = (
        trusting(&world, &guard, &[]),
        trusting(&world, &guard, &["--isolate"]),
    );
    let mut other = mighty(&world, &guard, "helper");
    let [four, six] = address::origin(0x20);
    let mapped = format!("::ffff:{four}");
    let mut nested = mighty(&world, &guard, "coder");
    nested.gives(
        &format!(
            "[os.makedirs('{0}'), open('{0}/cgroup.procs', 'w').write('0')][1]",
            guard.cgroup().join("coder/deep/er").display()
        ),
        1,
    );
    // A namespace of its own, where the guard does not listen: what it has there is loopback.
    nested.gives("udp('here', '127.0.0.1')", "made");
    nested.gives("connect('here', '127.0.0.1', 9)", "connected");
    nested.gives("__import__('ctypes').CDLL(None).unshare(0x40000000)", 0);
    nested.gives("udp('there', '127.0.0.1')", "made");
    nested.gives("of('there').bind(('0.0.0.0', 0))", Value::Null);
    let mut plain = plain;
    for (number, ip) in [four.to_string(), six.to_string(), mapped]
        .iter()
        .enumerate()
    {
        plain.gives(&format!("tcp('t{number}', '{ip}', 7)"), json!([ip, 7]));
        plain.gives(&format!("udp('u{number}', '{ip}')"), "made");
        plain.gives(&format!("connect('u{number}', '{ip}', 7)"), "connected");
        plain.gives(&format!("echo('u{number}', 'x')"), "x");
    }
    plain.gives("listen('l', '127.0.0.1', 0) > 0", true);
    let mut isolated = isolated;
    isolated.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    isolated.gives(&format!("tcp('t', resolve('{SITE}', 4)[0], 22)[1]"), 22);
    other.gives(
        &format!("tcp('t', '{four}', 7)"),
        json!([four.to_string(), 7]),
    );

    quarantine(&guard);
    for number in 0..3 {
        plain.fails(&format!("hear('t{number}')"), "ECONNABORTED");
        plain.fails(&format!("hear('u{number}')"), "ECONNABORTED");
    }
    plain.fails("accept('l', 'a')", "EINVAL");
    isolated.fails("hear('t')", "ECONNABORTED");
    isolated.fails(&format!("resolve('{SITE}', 4)"), "EAI_AGAIN");
    nested.fails("hear('here')", "ECONNABORTED");
    nested.fails("hear('there')", "ECONNABORTED");
    other.gives("echo('t', 'still')", "still");
    other.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
}

#[test]
fn a_quarantine_holds_for_what_comes_and_over_reloads_and_restarts_until_released() {
    let world = world("quarantine-restart");
    let mut guard = start(&world);
    let said = say(&guard, &["agent", "quarantine", "nobody"]);
    assert_eq!(said.code(), 1, "{said}");
    assert!(
        said.stderr
            .contains("error: there is no agent nobody\nhint: "),
        "{said}"
    );
    let words = ["agent", "quarantine", "coder", "--reason", "ticket 42"];
    say(&guard, &words).success().unwrap();
    let again = quarantine(&guard);
    assert!(
        again.stderr.contains("is quarantined already, since "),
        "{again}"
    );
    assert!(again.stderr.contains(", by uid 0: ticket 42; "), "{again}");

    // It had no cgroup then.
    let refused = guard.run("coder", ["true"]).unwrap();
    assert_eq!(refused.code(), 1, "{refused}");
    assert!(
        refused
            .stderr
            .contains("error: coder is quarantined, since "),
        "{refused}"
    );
    assert!(
        refused
            .stderr
            .contains("by uid 0: ticket 42\nhint: `agentguard agent release coder` ends it"),
        "{refused}"
    );
    let mut client = mighty(&world, &guard, "coder");
    let [four, _] = address::origin(0x20);
    let dial = format!("tcp('c', '{four}', 7)");
    client.fails(&dial, "EPERM");

    let shown = say(&guard, &["agent", "show", "coder", "-o", "json"]);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    let since = shown["quarantine"]["since"].clone();
    assert_eq!(
        shown["quarantine"],
        json!({"since": since, "uid": 0, "reason": "ticket 42", "frozen": false})
    );
    for words in [["status"].as_slice(), &["agent", "show", "coder"]] {
        let told = say(&guard, words);
        assert!(told.stdout.contains("by uid 0: ticket 42"), "{told}");
    }
    let list = say(&guard, &["agent", "list"]);
    assert!(list.stdout.contains("coder   quarantined  0 "), "{list}");

    say(&guard, &["policy", "reload"]).success().unwrap();
    client.fails(&dial, "EPERM");
    guard.stop().unwrap();
    client.fails(&dial, "EPERM");
    guard.start().unwrap();
    client.fails(&dial, "EPERM");
    guard.kill().unwrap();
    guard.start().unwrap();
    client.fails(&dial, "EPERM");
    client.fails(&format!("resolve('{SITE}', 4)"), "EAI_AGAIN");
    assert_eq!(guard.run("coder", ["true"]).unwrap().code(), 1);
    assert_eq!(world.arrivals(four).unwrap(), 0);

    release(&guard);
    client.gives(&dial, json!([four.to_string(), 7]));
    client.gives("echo('c', 'back')", "back");
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    let again = say(&guard, &["agent", "release", "coder"]);
    assert!(
        again
            .success()
            .unwrap()
            .stderr
            .contains("coder is not quarantined")
    );
    guard.kill().unwrap();
    guard.start().unwrap();
    client.gives("echo('c', 'still')", "still");

    let done = guard
        .wait_verdicts("what was done", |decisions| {
            let operator = decisions.iter().filter(|it| it.layer == Layer::Operator);
            let done: Vec<_> = operator
                .map(|it| it.action.method.clone().unwrap())
                .collect();
            (done.len() >= 2).then_some(done)
        })
        .unwrap();
    assert_eq!(done, ["quarantine", "release"]);
}

#[test]
fn what_is_added_by_hand_is_not_let_go_while_it_is_quarantined() {
    let world = world("quarantine-adopted");
    let guard = start(&world);
    let cgroup = guard.cgroup().join("by-hand");
    fs::create_dir(&cgroup).unwrap();
    let path = cgroup.to_str().unwrap();
    quarantine(&guard);
    let add = say(&guard, &["agent", "add", "coder", "--cgroup", path]);
    add.success().unwrap();
    let mut client = Puppet::start(&world, |words| guard.within(&cgroup, words)).unwrap();
    let [four, _] = address::origin(0x20);
    client.fails(&format!("tcp('c', '{four}', 7)"), "EPERM");
    let removed = say(&guard, &["agent", "remove", "coder"]);
    assert_eq!(removed.code(), 1, "{removed}");
    assert!(
        removed.stderr.contains(
            "without the gate it would be free\nhint: `agentguard agent release coder` first"
        ),
        "{removed}"
    );
    release(&guard);
    client.gives(
        &format!("tcp('c', '{four}', 7)"),
        json!([four.to_string(), 7]),
    );
    say(&guard, &["agent", "remove", "coder"])
        .success()
        .unwrap();
}

#[test]
fn a_frozen_agent_stands_still_over_restarts_and_can_be_killed_or_thawed() {
    let world = world("quarantine-frozen");
    let mut guard = start(&world);
    let mut kept = mighty(&world, &guard, "coder");
    let mut run = trusting(&world, &guard, &[]);
    kept.gives("1 + 1", 2);
    run.gives("1 + 1", 2);
    let words = ["agent", "quarantine", "coder", "--freeze"];
    let said = say(&guard, &words).success().unwrap();
    assert!(said.stderr.contains("its processes are stopped"), "{said}");
    let frozen = |guard: &Guard<'_>| {
        let events = fs::read_to_string(guard.cgroup().join("coder/cgroup.events"));
        events.unwrap().contains("frozen 1")
    };
    wait_until("it stands still", SOON, || frozen(&guard).then_some(())).unwrap();
    // Their answers come when they are let go.
    kept.begin("'thawed'").unwrap();
    let told = say(&guard, &["agent", "show", "coder"]);
    assert!(told.stdout.contains("its processes stopped"), "{told}");

    // Whoever waits for the run goes away: it is killed as ever, and its place cleared.
    let places = || {
        let children = fs::read_dir(guard.cgroup().join("coder"))
            .unwrap()
            .flatten();
        let runs = children.filter(|it| it.file_name().to_string_lossy().starts_with("run-"));
        runs.count()
    };
    assert_eq!(places(), 1);
    run.process().signal(Signal::KILL).unwrap();
    wait_until("the frozen run is gone", Duration::from_secs(20), || {
        (places() == 0).then_some(())
    })
    .unwrap();

    guard.stop().unwrap();
    assert!(frozen(&guard));
    guard.start().unwrap();
    guard.kill().unwrap();
    guard.start().unwrap();
    assert!(frozen(&guard));
    release(&guard);
    wait_until("it goes on", SOON, || (!frozen(&guard)).then_some(())).unwrap();
    assert_eq!(kept.answer("thawed").unwrap(), json!("thawed"));
    kept.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
}

#[test]
fn the_gate_is_taken_off_only_while_no_daemon_runs_and_the_next_one_records_it() {
    let world = world("detach-all");
    let mut guard = start(&world);
    let mut client = mighty(&world, &guard, "coder");
    client.fails("tcp('c', '192.0.2.66', 80)", "EPERM");
    let said = say(&guard, &["daemon", "--detach-all"]);
    assert_eq!(said.code(), 1, "{said}");
    assert!(said.stderr.contains("hint: end the daemon first"), "{said}");
    client.fails("tcp('c', '192.0.2.66', 80)", "EPERM");
    guard.stop().unwrap();
    client.fails("tcp('c', '192.0.2.66', 80)", "EPERM");
    assert_eq!(world.canary().unwrap(), 0);

    let said = say(&guard, &["daemon", "--detach-all"]).success().unwrap();
    assert!(
        said.stderr.starts_with("the gate was taken off 1 cgroup: "),
        "{said}"
    );
    // The kernel takes the programs off in the background.
    wait_until("the gate is open", SOON, || {
        let told = client.ask("tcp('c', '192.0.2.66', 80)").unwrap();
        (told == json!({"error": "ECONNREFUSED"})).then_some(())
    })
    .unwrap();
    assert!(world.canary().unwrap() > 0);
    let again = say(&guard, &["daemon", "--detach-all"]).success().unwrap();
    assert!(again.stderr.contains("nothing was done"), "{again}");

    guard.start().unwrap();
    client.fails("tcp('c', '192.0.2.66', 80)", "EPERM");
    let told = guard
        .wait_verdicts("what was done", |decisions| {
            let mut operator = decisions.iter().filter(|it| it.layer == Layer::Operator);
            operator.next().cloned()
        })
        .unwrap();
    assert_eq!(told.action.method.as_deref(), Some("detach_all"));
    assert!(
        told.reason
            .message
            .starts_with("the gate was taken off everything (1 cgroups)"),
        "{told:?}"
    );
    assert_eq!(agent(&told), None);
}

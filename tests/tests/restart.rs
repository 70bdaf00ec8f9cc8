//! The daemon ends, is killed, stalls and comes back, while agents live on.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where it cannot go on, helpers included"
)]

use std::time::{Duration, Instant};

use agentguard_model::{ActionKind, Decision, Layer, ReasonCode, Verdict};
use agentguard_tests::{Guard, Origin, Puppet, World, address, origin::BANNER, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const SITE: &str = "api.example.com";

const POLICY: &str = "
version: 1
agents:
  - {name: coder}
  - {name: keeper, on_daemon_loss: keep}
  - {name: helper}
rules:
  - id: spliced
    match: {host: [api.example.com], port: [9, 22, 443]}
    action: allow
  - id: read
    match: {host: [api.example.com], port: [80], method: [GET]}
    action: allow
  - id: direct
    match: {host: [api.example.com], cidr: [203.0.113.16/32], port: [7], transport: [tcp, udp]}
    action: allow
    handling: direct
";

/// How long the daemon may take for what it does by itself.
const LIMIT: Duration = Duration::from_secs(15);

fn world(name: &str) -> World {
    World::new(name)
        .origin(Origin::at(&address::origin(0x10)).site(SITE))
        .start()
        .unwrap()
}

/// A client in an agent's cgroup that is nobody's child of ours: it outlives the daemon.
fn settled(world: &World, guard: &Guard<'_>, agent: &str) -> Puppet {
    let cgroup = guard.agent_cgroup(agent).unwrap();
    Puppet::start(world, |words| guard.within(&cgroup, words)).unwrap()
}

fn addresses(client: &mut Puppet) -> [String; 2] {
    [4, 6].map(|family| {
        let found = client.ask(&format!("resolve('{SITE}', {family})")).unwrap();
        found[0].as_str().unwrap().to_owned()
    })
}

fn status(guard: &Guard<'_>) -> Option<Value> {
    let status = guard.cli().args(["status", "-o", "json"]).run().ok()?;
    serde_json::from_str(&status.stdout).ok()
}

fn worker(guard: &Guard<'_>) -> i32 {
    let status = status(guard).unwrap();
    i32::try_from(status["worker_pid"].as_i64().unwrap()).unwrap()
}

fn signal(process: i32, signal: Signal) {
    kill_process(Pid::from_raw(process).unwrap(), signal).unwrap();
}

/// Stops a process, and waits until each of its threads stands still: the signal reaches one of them
/// first, and on a busy machine the others work on until that one has run.
fn stop(process: i32) {
    signal(process, Signal::STOP);
    wait_until("every thread stands still", LIMIT, || {
        let threads = std::fs::read_dir(format!("/proc/{process}/task")).ok()?;
        let stands = |thread: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(thread.ok()?.path().join("stat")).ok()?;
            // The state follows the name in parentheses (proc_pid_stat(5)).
            let (_, state) = stat.rsplit_once(") ")?;
            Some(state.starts_with('T'))
        };
        let mut threads = threads.map(stands);
        threads.all(|stands| stands == Some(true)).then_some(())
    })
    .unwrap();
}

/// Every decision that was there is there, unchanged but for what became of it.
fn keeps(after: &[Decision], before: &[Decision]) {
    for decision in before {
        let found = after.iter().find(|other| other.id == decision.id);
        assert!(found.is_some(), "lost: {decision:?}");
        let what = |decision: &Decision| (decision.time, decision.action.clone(), decision.verdict);
        assert_eq!(found.map(what), Some(what(decision)));
    }
}

#[test]
fn a_virtual_address_means_the_same_name_after_a_restart() {
    let world = world("restart");
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = settled(&world, &guard, "coder");
    let kept = addresses(&mut client);
    for address in &kept {
        client.gives(&format!("tcp('c', '{address}', 22)"), json!([address, 22]));
        client.gives("of('c').recv(27).decode()", BANNER);
        client.gives("close('c')", "closed");
    }
    let before = guard.verdicts().unwrap();

    let ended = guard.stop().unwrap();
    assert!(ended.status.success(), "{ended}");
    guard.start().unwrap();

    // The client asks nobody: it has the address.
    let queries = world.dns().count(SITE).unwrap();
    for address in &kept {
        client.gives(&format!("tcp('c', '{address}', 22)"), json!([address, 22]));
        client.gives("of('c').recv(27).decode()", BANNER);
        client.gives("close('c')", "closed");
        // A direct one too, also if it takes another way until the name is asked for again.
        client.gives(&format!("tcp('d', '{address}', 7)"), json!([address, 7]));
        client.gives("echo('d', 'hello')", "hello");
    }
    let after = guard
        .wait_verdicts("the decisions after the restart", |decisions| {
            let new = decisions.iter().filter(|decision| {
                decision.action.kind == ActionKind::Connect && decision.verdict == Verdict::Allow
            });
            (new.count() == 6).then(|| decisions.to_vec())
        })
        .unwrap();
    keeps(&after, &before);
    for decision in &after[before.len()..] {
        assert_eq!(decision.action.host.as_ref().unwrap().as_str(), SITE);
    }
    assert_eq!(addresses(&mut client), kept);
    assert!(world.dns().count(SITE).unwrap() >= queries);
}

#[test]
fn while_the_daemon_is_down_the_gate_stays_shut_and_direct_flows_do_as_the_policy_says() {
    let world = world("down");
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let mut stops = settled(&world, &guard, "coder");
    let mut goes_on = settled(&world, &guard, "keeper");
    let [four, _] = address::origin(0x10);
    let [virtual4, virtual6] = addresses(&mut stops);
    assert_eq!(
        addresses(&mut goes_on),
        [virtual4.clone(), virtual6.clone()]
    );
    // Established before.
    let open = format!("tcp('old', '{four}', 7)");
    stops.gives(&open, json!([four.to_string(), 7]));

    guard.stop().unwrap();

    for client in [&mut stops, &mut goes_on] {
        for address in [&virtual4, &virtual6] {
            client.fails(&format!("tcp('c', '{address}', 22)"), "ECONNREFUSED");
        }
        client.fails("tcp('c', '192.0.2.66', 80)", "EPERM");
        client.fails(&format!("resolve('{SITE}', 4)"), "EAI_AGAIN");
    }
    for address in [&virtual4, &virtual6, &four.to_string()] {
        stops.fails(&format!("tcp('c', '{address}', 7)"), "EPERM");
        stops.gives(&format!("udp('u', '{address}')"), "made");
        stops.fails(&format!("say_to('u', 'x', '{address}', 7)"), "EPERM");
        goes_on.gives(&format!("tcp('c', '{address}', 7)"), json!([address, 7]));
        goes_on.gives("echo('c', 'hello')", "hello");
        goes_on.gives(&format!("udp('u', '{address}')"), "made");
        goes_on.gives(&format!("say_to('u', 'x', '{address}', 7)"), 1);
        goes_on.gives("hear_from('u')", json!(["x", address, 7]));
    }
    stops.gives("echo('old', 'still here')", "still here");
    assert_eq!(world.canary().unwrap(), 0);

    guard.start().unwrap();
    for client in [&mut stops, &mut goes_on] {
        client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
        let dial = format!("tcp('c', '{four}', 7)");
        client.gives(&dial, json!([four.to_string(), 7]));
    }
    // What the kernel refused meanwhile was written down as soon as somebody could.
    let lost = guard
        .wait_verdicts("what happened meanwhile", |decisions| {
            let lost = decisions
                .iter()
                .filter(|decision| decision.reason.code == ReasonCode::DaemonLost);
            let lost: Vec<_> = lost.cloned().collect();
            (lost.iter().map(|decision| decision.count).sum::<u64>() >= 6).then_some(lost)
        })
        .unwrap();
    assert!(lost.iter().all(|decision| {
        let agent = decision.agent.as_ref().unwrap();
        agent.name.as_str() == "coder" && decision.enforced
    }));
}

#[test]
fn a_stopping_daemon_lets_an_answer_end() {
    let world = world("drain");
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = settled(&world, &guard, "coder");
    let order = format!("get('{SITE}', '/delay/1500')");
    client.begin(&order).unwrap();
    let origin = world.origin(SITE).unwrap();
    wait_until("the request at the origin", LIMIT, || {
        (origin.log().requests().unwrap().len() == 1).then_some(())
    })
    .unwrap();
    let ended = guard.stop().unwrap();
    assert!(ended.status.success(), "{ended}");
    assert_eq!(client.answer(&order).unwrap(), "HTTP/1.1 200 OK");
    guard.start().unwrap();
    let decisions = guard.verdicts().unwrap();
    let request = decisions
        .iter()
        .find(|decision| decision.action.kind == ActionKind::HttpRequest);
    let outcome = request.unwrap().outcome.as_ref().unwrap();
    assert_eq!(
        (outcome.status, outcome.error.as_deref()),
        (Some(200), None)
    );
}

#[test]
fn a_killed_worker_is_replaced_and_nothing_written_is_lost() {
    let world = world("worker");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = settled(&world, &guard, "coder");
    let [kept, _] = addresses(&mut client);
    for _ in 0..20 {
        client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
        client.fails("tcp('c', '192.0.2.66', 80)", "EPERM");
    }
    let whole = |decisions: &[Decision]| {
        let attempts: u64 = decisions
            .iter()
            .filter(|decision| decision.action.kind != ActionKind::DnsQuery)
            .map(|decision| decision.count)
            .sum();
        (attempts >= 40).then(|| decisions.to_vec())
    };
    let before = guard.wait_verdicts("40 attempts", whole).unwrap();
    let (keeper, old) = (guard.id().unwrap(), worker(&guard));

    signal(old, Signal::KILL);
    // The listeners are the keeper's: a connection made meanwhile waits, and is answered.
    client.gives(&format!("tcp('c', '{kept}', 22)"), json!([kept, 22]));
    client.gives("of('c').recv(27).decode()", BANNER);
    let new = wait_until("another worker", LIMIT, || {
        let new = status(&guard)?["worker_pid"].as_i64()?;
        (new != i64::from(old)).then_some(new)
    });
    new.unwrap();
    assert_eq!(guard.id().unwrap(), keeper);
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    client.fails("tcp('c', '192.0.2.66', 80)", "EPERM");
    let after = guard
        .wait_verdicts("the new attempts", |decisions| {
            let new = decisions
                .iter()
                .filter(|decision| !before.iter().any(|old| old.id == decision.id));
            let kinds: Vec<_> = new.map(|decision| decision.action.kind).collect();
            let connects = kinds.iter().filter(|kind| **kind == ActionKind::Connect);
            (connects.count() >= 2 && kinds.contains(&ActionKind::HttpRequest))
                .then(|| decisions.to_vec())
        })
        .unwrap();
    keeps(&after, &before);
    assert_eq!(world.canary().unwrap(), 0);
}

#[test]
fn after_a_killed_keeper_the_gate_stays_shut_until_a_daemon_runs_again() {
    let world = world("killed");
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = settled(&world, &guard, "coder");
    let [kept, _] = addresses(&mut client);
    let [four, _] = address::origin(0x10);
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    let before = guard.verdicts().unwrap();
    let worker = worker(&guard);

    guard.kill().unwrap();
    client.fails("tcp('c', '192.0.2.66', 80)", "EPERM");
    let gone = wait_until("the worker's end", LIMIT, || {
        let stat = std::fs::read_to_string(format!("/proc/{worker}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z "))
            .then_some(())
    });
    gone.unwrap();
    client.fails(&format!("tcp('c', '{kept}', 22)"), "ECONNREFUSED");
    // Direct flows end with the last sign of life.
    let order = format!("tcp('c', '{four}', 7)");
    let stopped = wait_until("the end of direct flows", LIMIT, || {
        (client.ask(&order).unwrap() == json!({"error": "EPERM"})).then_some(())
    });
    stopped.unwrap();
    assert_eq!(world.canary().unwrap(), 0);

    guard.start().unwrap();
    client.gives(&format!("tcp('c', '{kept}', 22)"), json!([kept, 22]));
    client.gives("of('c').recv(27).decode()", BANNER);
    client.gives(&order, json!([four.to_string(), 7]));
    client.fails("tcp('c', '192.0.2.66', 80)", "EPERM");
    let run = guard.run("coder", ["true"]).unwrap();
    assert_eq!(run.code(), 0, "{run}");
    keeps(&guard.verdicts().unwrap(), &before);
    assert_eq!(world.canary().unwrap(), 0);
}

/// Connections in the accept queue of the proxy.
fn waiting(world: &World, port: u16) -> usize {
    let ss = world.host().command("ss").args(["-Htln"]).run().unwrap();
    let listeners = ss.stdout.lines();
    let ours = listeners.filter(|line| line.contains(&format!(":{port} ")));
    let queued = ours.map(|line| line.split_whitespace().nth(1).unwrap());
    queued.map(|queued| queued.parse::<usize>().unwrap()).sum()
}

#[test]
fn a_client_that_is_gone_when_it_is_accepted_is_decided_rightly_and_its_bytes_arrive() {
    let world = world("late");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut coder = settled(&world, &guard, "coder");
    let mut helper = settled(&world, &guard, "helper");
    let [four, six] = addresses(&mut coder);
    addresses(&mut helper);
    let worker = worker(&guard);
    let before = guard.verdicts().unwrap();

    stop(worker);
    // To the port that counts; connect, send, close at once, over each family.
    for (client, address, size) in [(&mut coder, &four, 1000), (&mut helper, &six, 70)] {
        client.gives(&format!("tcp('c', '{address}', 9)"), json!([address, 9]));
        client.gives(&format!("say('c', 'x' * {size})"), size);
        client.gives("close('c')", "closed");
    }
    // And one that is to be refused by what it says.
    helper.gives(&format!("tcp('c', '{four}', 80)"), json!([four, 80]));
    let request = format!("DELETE /things/1 HTTP/1.1\\r\\nHost: {SITE}\\r\\n\\r\\n");
    helper.ask(&format!("say('c', '{request}')")).unwrap();
    helper.gives("close('c')", "closed");
    let queued = wait_until("three in the queue", LIMIT, || {
        (waiting(&world, 15001) == 3).then(Instant::now)
    });
    let Ok(queued) = queued else {
        panic!("{} in the queue", waiting(&world, 15001));
    };
    let late = queued + Duration::from_secs(3);
    let over = wait_until("three seconds later", LIMIT, || {
        (Instant::now() >= late).then_some(())
    });
    over.unwrap();
    assert_eq!(waiting(&world, 15001), 3);
    signal(worker, Signal::CONT);

    let origin = world.origin(SITE).unwrap();
    let received = wait_until("the bytes at the origin", LIMIT, || {
        let log = origin.log().connections().unwrap();
        let mut received: Vec<_> = log.iter().map(|flow| flow.received).collect();
        received.sort_unstable();
        (received == [70, 1000]).then_some(())
    });
    assert!(received.is_ok(), "{:?}", origin.log().connections());
    let decisions = guard
        .wait_verdicts("three decisions", |decisions| {
            let new = &decisions[before.len()..];
            let done = new.iter().filter(|decision| decision.outcome.is_some());
            (new.len() >= 3 && done.count() >= 2).then(|| new.to_vec())
        })
        .unwrap();
    assert_eq!(decisions.len(), 3, "{decisions:#?}");
    let gist = |decision: &Decision| {
        let sent = decision.outcome.as_ref().map(|outcome| outcome.bytes.sent);
        (
            decision.agent.as_ref().unwrap().name.to_string(),
            decision.action.kind,
            decision.action.port,
            decision.verdict,
            sent,
        )
    };
    let mut found: Vec<_> = decisions.iter().map(gist).collect();
    found.sort_by_key(|(agent, _, port, ..)| (agent.clone(), *port));
    use ActionKind::{Connect, HttpRequest};
    assert_eq!(
        found[0],
        (
            "coder".to_owned(),
            Connect,
            Some(9),
            Verdict::Allow,
            Some(1000)
        )
    );
    assert_eq!(
        found[1],
        (
            "helper".to_owned(),
            Connect,
            Some(9),
            Verdict::Allow,
            Some(70)
        )
    );
    let (agent, kind, port, verdict, _) = &found[2];
    assert_eq!(
        (agent.as_str(), *kind, *port, *verdict),
        ("helper", HttpRequest, Some(80), Verdict::Deny)
    );
    for decision in &decisions {
        assert_eq!(decision.action.host.as_ref().unwrap().as_str(), SITE);
        assert!(
            decision
                .process
                .as_ref()
                .unwrap()
                .comm
                .starts_with("python")
        );
    }
}

/// A worker that is there and does nothing is replaced too: it is noticed by the messages it leaves
/// unread.
/// Nothing is asked of it, and nobody tells it anything.
#[test]
fn while_a_worker_stands_still_no_direct_flow_begins_and_then_it_is_replaced() {
    let world = world("still");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = settled(&world, &guard, "coder");
    let [four, _] = address::origin(0x10);
    let order = format!("tcp('c', '{four}', 7)");
    client.gives(&order, json!([four.to_string(), 7]));
    let worker = worker(&guard);
    stop(worker);
    let stopped = wait_until("the end of direct flows", LIMIT, || {
        (client.ask(&order).unwrap() == json!({"error": "EPERM"})).then_some(())
    });
    stopped.unwrap();
    let again = wait_until("another worker's flows", Duration::from_secs(60), || {
        (client.ask(&order).unwrap() == json!([four.to_string(), 7])).then_some(())
    });
    again.unwrap();
    let replaced = status(&guard).unwrap()["worker_pid"].as_i64();
    assert_ne!(replaced, Some(i64::from(worker)));
}

/// Nobody renews the sign of life.
#[test]
fn while_the_keeper_stands_still_direct_flows_do_as_the_policy_says() {
    let world = world("halted");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut stops = settled(&world, &guard, "coder");
    let mut goes_on = settled(&world, &guard, "keeper");
    let [four, _] = address::origin(0x10);
    let order = format!("tcp('c', '{four}', 7)");
    let passes = json!([four.to_string(), 7]);
    stops.gives(&order, passes.clone());
    stops.gives("echo('c', 'hello')", "hello");
    let keeper = i32::try_from(guard.id().unwrap()).unwrap();

    stop(keeper);
    let stopped = wait_until("the end of direct flows", LIMIT, || {
        (stops.ask(&order).unwrap() == json!({"error": "EPERM"})).then_some(())
    });
    stopped.unwrap();
    goes_on.gives(&order, passes.clone());
    goes_on.gives("echo('c', 'hello')", "hello");
    for client in [&mut stops, &mut goes_on] {
        client.fails("tcp('d', '192.0.2.66', 80)", "EPERM");
    }
    let is_told = || {
        let degraded = status(&guard)?["degraded"].to_string();
        Some(degraded.contains(&format!("the keeper, process {keeper}, has said nothing")))
    };
    let told = wait_until("a status that says so", LIMIT, || {
        is_told().filter(|told| *told)
    });
    told.unwrap();

    signal(keeper, Signal::CONT);
    let over = wait_until("a status that says so no more", LIMIT, || {
        is_told().filter(|told| !told)
    });
    over.unwrap();
    let again = wait_until("direct flows again", LIMIT, || {
        (stops.ask(&order).unwrap() == passes).then_some(())
    });
    again.unwrap();
    assert_eq!(world.canary().unwrap(), 0);
}

#[test]
fn a_worker_that_stands_still_is_replaced() {
    let world = world("stuck");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let old = worker(&guard);
    signal(old, Signal::STOP);
    let gone = || !std::path::Path::new(&format!("/proc/{old}")).exists();
    let began = Instant::now();
    while !gone() && began.elapsed() < 4 * LIMIT {
        let reload = guard.cli().args(["policy", "reload"]).run().unwrap();
        assert!(reload.status.success(), "{reload}");
    }
    assert!(gone(), "{}", guard.log());
    let new = wait_until("another worker", LIMIT, || {
        status(&guard)?["worker_pid"].as_i64()
    });
    assert_ne!(new.unwrap(), i64::from(old));
    let client = guard
        .run("coder", ["curl", "-sS", "http://api.example.com/"])
        .unwrap();
    client.success().unwrap();
}

/// Asks for names and waits for no answer; prints how many queries were sent, and how many were refused.
const ASK: &str = r"
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sent = refused = 0
for number in range(600):
    head = number.to_bytes(2, 'big') + bytes([1, 0, 0, 1, 0, 0, 0, 0, 0, 0])
    try:
        client.sendto(head + b'\x03api\x07example\x03com\0\0\1\0\1', (sys.argv[1], 53))
        sent += 1
    except PermissionError:
        refused += 1
print(sent, refused)
";

#[test]
fn queries_that_nobody_answers_are_bounded_and_what_is_beyond_is_refused_and_told() {
    let world = world("asks");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let cgroup = guard.agent_cgroup("coder").unwrap();
    let worker = worker(&guard);
    stop(worker);
    let [server, _] = address::NAME_SERVER.map(|ip| ip.to_string());
    let asks = guard.within(&cgroup, ["python3", "-c", ASK, &server]);
    let asked = asks.run().unwrap();
    signal(worker, Signal::CONT);
    assert_eq!(asked.success().unwrap().stdout.trim(), "512 88");
    let refused = guard.wait_verdicts("the refusal is told", |all| {
        let refused = all.iter().find(|it| it.verdict == Verdict::Deny);
        refused.cloned()
    });
    let refused = refused.unwrap();
    let about = (refused.layer, refused.action.kind, refused.action.port);
    assert_eq!(about, (Layer::Kernel, ActionKind::Datagram, Some(53)));
    assert_eq!(refused.reason.code, ReasonCode::MapFull);
    let sentence = &refused.reason.message;
    assert!(
        sentence.contains("wait for an answer as may (512)"),
        "{sentence}"
    );
    let explain = guard.cli().args(["explain", &refused.id.to_string()]);
    let explained = explain.run().unwrap().success().unwrap();
    assert!(
        explained.stdout.contains("without waiting for answers"),
        "{explained}"
    );
    // Once they are answered it may ask again.
    wait_until("it may ask again", LIMIT, || {
        let asks = guard.within(&cgroup, ["getent", "ahosts", SITE]);
        asks.run().ok()?.success().ok()
    })
    .unwrap();
}

/// As docs/cli.md says it of a host that is to be without the guard.
#[test]
fn a_gate_whose_pins_are_removed_is_off() {
    let world = world("off");
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = settled(&world, &guard, "coder");
    guard.stop().unwrap();
    client.fails("tcp('c', '192.0.2.66', 80)", "EPERM");
    assert_eq!(world.canary().unwrap(), 0);
    // Here the directory is the mount itself, which stays, with files of the kernel's.
    let pins = std::fs::read_dir(guard.bpffs()).unwrap();
    let pins = pins.map(|pin| pin.unwrap().path());
    for pin in pins.filter(|pin| pin.is_dir()) {
        std::fs::remove_dir_all(pin).unwrap();
    }
    // The canary's host refuses by itself.
    let off = wait_until("the programs' end", LIMIT, || {
        let told = client.ask("tcp('c', '192.0.2.66', 80)").unwrap();
        (told == json!({"error": "ECONNREFUSED"})).then_some(())
    });
    off.unwrap();
    assert!(world.canary().unwrap() > 0);
}

/// The cgroups of runs that end while no daemon looks are removed by the next one.
#[test]
fn the_places_of_runs_that_outlived_their_daemon_are_cleared_away() {
    let world = world("places");
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let run = guard.agent("coder", ["sleep", "1000"]).spawn().unwrap();
    let runs = |guard: &Guard<'_>| {
        let found = std::fs::read_dir(guard.cgroup().join("coder"))
            .into_iter()
            .flatten();
        let paths = found.flatten().map(|entry| entry.path());
        let runs: Vec<_> = paths.filter(|path| path.is_dir()).collect();
        runs
    };
    let place = wait_until("the run's cgroup", LIMIT, || runs(&guard).pop()).unwrap();
    guard.kill().unwrap();
    std::fs::write(place.join("cgroup.kill"), "1").unwrap();
    drop(run);
    guard.start().unwrap();
    wait_until("its end", LIMIT, || (!place.exists()).then_some(())).unwrap();
}

//! Workloads that run already, and live in network namespaces of their own: `agent add` finds and closes
//! what they have open, and the guard listens where they are, for as long as they are there.

mod bounds;
mod daemons;
mod tolerated;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentguard_model::{ActionKind, Decision, Layer, ReasonCode};
use agentguard_tests::{Guard, Namespace, Output, Puppet, World, address, leftover, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{SITE, agent, world};
use crate::runtime::Runtime;

/// How long something may take that has to happen.
const SOON: Duration = Duration::from_secs(10);

const POLICY: &str = "
version: 1
agents: [{name: coder}, {name: helper}]
rules:
  - id: api
    match: {host: [api.example.com], port: [80]}
    action: allow
";

/// A cgroup of somebody else's, which the world removes.
fn foreign(world: &World) -> PathBuf {
    let mount = leftover::cgroup_mount().unwrap();
    let path = mount.join(format!("{}.foreign", world.tag().directory()));
    fs::create_dir(&path).unwrap();
    path
}

/// A namespace as container engines make them: behind the host, which forwards.
fn container(world: &World, number: u8) -> Namespace {
    let namespace = Namespace::create(world.tag(), &format!("c{number}")).unwrap();
    let net = format!("10.77.{number}");
    let net6 = format!("fd77:{number}:");
    let host = world.host();
    host.ip(&format!(
        "link add c{number} type veth peer name eth0 netns {}\n\
         link set c{number} up\n\
         addr add {net}.1/24 dev c{number}\n\
         addr add {net6}:1/64 dev c{number} nodad\n",
        namespace.name()
    ))
    .unwrap();
    let forward = || {
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
    };
    host.enter(forward).unwrap().unwrap();
    namespace
        .ip(&format!(
            "link set eth0 up\n\
             addr add {net}.2/24 dev eth0\nroute add default via {net}.1\n\
             addr add {net6}:2/64 dev eth0 nodad\nroute add default via {net6}:1\n"
        ))
        .unwrap();
    let [host, host6] = address::HOST;
    world
        .internet()
        .ip(&format!(
            "route add {net}.0/24 via {host}\nroute add {net6}:/64 via {host6}\n"
        ))
        .unwrap();
    namespace
}

/// A client in a cgroup and a namespace.
fn inside(world: &World, guard: &Guard<'_>, cgroup: &Path, namespace: &Namespace) -> Puppet {
    let enter = format!("--net=/run/netns/{}", namespace.name());
    Puppet::start(world, |words| {
        let enter = ["nsenter".into(), enter.into()];
        guard.within(cgroup, enter.into_iter().chain(words))
    })
    .unwrap()
}

fn say(guard: &Guard<'_>, words: &[&str]) -> Output {
    guard.cli().args(words).run().unwrap()
}

fn add(guard: &Guard<'_>, cgroup: &Path) -> Output {
    let path = cgroup.to_str().unwrap();
    say(guard, &["agent", "add", "coder", "--cgroup", path])
}

fn status(guard: &Guard<'_>) -> Value {
    let said = say(guard, &["status", "-o", "json"]).stdout;
    serde_json::from_str(&said).unwrap()
}

/// Network namespaces that the worker listens in.
fn listened_in(guard: &Guard<'_>) -> usize {
    let status = status(guard);
    status["listeners"].as_array().unwrap().len()
}

fn wait_listened_in(guard: &Guard<'_>, count: usize) {
    let found = wait_until("the listeners", SOON, || {
        (listened_in(guard) == count).then_some(())
    });
    assert!(
        found.is_ok(),
        "{} and not {count}\n{}",
        listened_in(guard),
        guard.log()
    );
}

fn warnings(guard: &Guard<'_>) -> Vec<String> {
    warnings_of(guard, "coder")
}

fn warnings_of(guard: &Guard<'_>, agent: &str) -> Vec<String> {
    let shown = say(guard, &["agent", "show", agent, "-o", "json"]).stdout;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let warnings = shown["warnings"].as_array().cloned().unwrap_or_default();
    warnings
        .iter()
        .map(|it| it.as_str().unwrap().to_owned())
        .collect()
}

fn wait_warning(guard: &Guard<'_>, part: &str) {
    wait_until("a warning", SOON, || {
        warnings(guard)
            .iter()
            .any(|it| it.contains(part))
            .then_some(())
    })
    .unwrap();
}

/// It reaches the site by its name over both versions of IP, and nothing else.
fn held(client: &mut Puppet) {
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    for family in [4, 6] {
        let at = format!("resolve('{SITE}', {family})[0]");
        let dialled = format!("tcp('c', {at}, 80)[1]");
        client.gives(&dialled, 80);
        client
            .ask("say('c', 'GET / HTTP/1.0\\r\\nHost: api.example.com\\r\\n\\r\\n')")
            .unwrap();
        client.gives("hear('c', 15)[9:]", "200 OK");
        client.fails(
            &format!("resolve('www.other.example', {family})"),
            "EAI_NONAME",
        );
    }
    let others = address::origin(0x20);
    for ip in address::CANARY.into_iter().chain(others) {
        client.fails(&format!("tcp('c', '{ip}', 7)"), "EPERM");
        client.gives(&format!("udp('u', '{ip}')"), "made");
        client.fails(&format!("say_to('u', 'x', '{ip}', 9)"), "EPERM");
    }
}

/// A socket that was closed; what the kernel still wanted to send for it is refused for the same reason.
fn unknown(decision: &&Decision) -> bool {
    decision.reason.code == ReasonCode::SocketUnknown
        && decision
            .reason
            .message
            .contains("open before its cgroup had this gate")
}

#[test]
fn a_container_that_runs_is_adopted_with_what_it_had_open() {
    let world = world("adopt");
    let cgroup = foreign(&world);
    let guard = world.guard().policy(POLICY).start().unwrap();
    let namespace = container(&world, 1);
    let mut client = inside(&world, &guard, &cgroup, &namespace);
    let [four, six] = address::origin(0x20);
    // Free as yet.
    for canary in address::CANARY {
        client.fails(&format!("tcp('c', '{canary}', 80)"), "ECONNREFUSED");
    }
    let before = world.canary().unwrap();
    assert!(before > 0);
    client.gives(
        &format!("tcp('old', '{four}', 7)"),
        json!([four.to_string(), 7]),
    );
    client.gives("echo('old', 'free')", "free");
    client.gives(
        &format!("tcp('old6', '{six}', 7)"),
        json!([six.to_string(), 7]),
    );
    client.gives("echo('old6', 'free')", "free");
    client.gives("udp('oldu6', '2001:db8:113::66')", "made");
    client.gives("connect('oldu6', '2001:db8:113::66', 9)", "connected");
    client.gives("udp('oldu', '192.0.2.66')", "made");
    client.gives("connect('oldu', '192.0.2.66', 9)", "connected");
    client.gives("listen('l', '0.0.0.0', 4000)", 4000);
    // One that its cgroup does not know, as an inherited one.
    let mut outside = inside(
        &world,
        &guard,
        &leftover::cgroup_mount().unwrap(),
        &namespace,
    );
    outside.gives(
        &format!("tcp('taken', '{four}', 7)"),
        json!([four.to_string(), 7]),
    );
    let join = format!("open('{}/cgroup.procs', 'w').write('0')", cgroup.display());
    outside.gives(&join, 1);
    outside.gives("echo('taken', 'free')", "free");

    let added = add(&guard, &cgroup).success().unwrap();
    let told = "is governed as coder; 6 open sockets were found in it and closed";
    assert!(added.stderr.contains(told), "{added}");
    // Root of the host, with a way out: the answer says what that means.
    assert!(
        added
            .stderr
            .contains("not contained: a process has CAP_NET_ADMIN"),
        "{added}"
    );
    for old in ["old", "old6", "oldu", "oldu6"] {
        client.fails(&format!("hear('{old}')"), "ECONNABORTED");
    }
    client.fails("accept('l', 'a')", "EINVAL");
    outside.fails("hear('taken')", "ECONNABORTED");
    // The first try: who adds it has waited for the listeners.
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    held(&mut client);
    assert_eq!(world.canary().unwrap(), before);
    let decisions = guard
        .wait_verdicts("what was closed", |decisions| {
            (decisions.iter().filter(unknown).count() == 6
                && decisions.iter().any(|it| it.layer == Layer::Operator))
            .then(|| decisions.to_vec())
        })
        .unwrap();
    let mut kinds: Vec<_> = decisions
        .iter()
        .filter(unknown)
        .map(|it| {
            assert_eq!(agent(it), Some("coder"));
            (it.action.kind, it.action.port)
        })
        .collect();
    kinds.sort_by_key(|(_, port)| *port);
    assert_eq!(
        kinds,
        [
            (ActionKind::Connect, Some(7)),
            (ActionKind::Connect, Some(7)),
            (ActionKind::Connect, Some(7)),
            (ActionKind::Datagram, Some(9)),
            (ActionKind::Datagram, Some(9)),
            (ActionKind::Inbound, Some(4000)),
        ]
    );
    let operator = decisions
        .iter()
        .find(|it| it.layer == Layer::Operator)
        .unwrap();
    assert_eq!(operator.action.method.as_deref(), Some("adopt"));
    assert!(
        operator
            .reason
            .message
            .ends_with("by uid 0, and 6 sockets that were open in it were closed")
    );

    // Again it closes nothing: what is open by now was decided.
    client.gives("listen('l', '127.0.0.1', 4001)", 4001);
    let again = add(&guard, &cgroup).success().unwrap();
    assert!(
        again
            .stderr
            .contains("is governed as coder, as it was before"),
        "{again}"
    );
    client.gives("of('l').getsockname()[1]", 4001);
    assert_eq!(listened_in(&guard), 2);
    say(&guard, &["agent", "remove", "coder"])
        .success()
        .unwrap();
    wait_listened_in(&guard, 1);
    client.fails("tcp('c', '192.0.2.66', 80)", "ECONNREFUSED");
}

#[test]
fn a_container_that_comes_to_an_agent_is_served_and_what_is_below_it_too() {
    let world = world("adopt-new");
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let payload = guard.agent_cgroup("coder").unwrap().join("payload/deep");
    fs::create_dir_all(&payload).unwrap();
    let namespace = container(&world, 1);
    let mut client = inside(&world, &guard, &payload, &namespace);
    let before = world.canary().unwrap();
    wait_until("an answer inside", SOON, || {
        let got = client.ask(&format!("get('{SITE}')")).unwrap();
        (got == "HTTP/1.1 200 OK").then_some(())
    })
    .unwrap();
    held(&mut client);
    // The worker is another one, then the daemon is.
    let worker = status(&guard)["worker_pid"].as_u64().unwrap();
    let worker = rustix::process::Pid::from_raw(worker.try_into().unwrap()).unwrap();
    rustix::process::kill_process(worker, Signal::KILL).unwrap();
    wait_until("another worker", SOON, || {
        let got = client.ask(&format!("get('{SITE}')")).unwrap();
        (got == "HTTP/1.1 200 OK").then_some(())
    })
    .unwrap();
    guard.kill().unwrap();
    for canary in address::CANARY {
        client.fails(&format!("tcp('c', '{canary}', 80)"), "EPERM");
    }
    guard.start().unwrap();
    held(&mut client);
    assert_eq!(world.canary().unwrap(), before);
}

/// Processes in namespaces of their own, with `lo` up.
fn crowd(guard: &Guard<'_>, cgroup: &Path, count: usize) -> agentguard_tests::Process {
    // All in one process group, which ends with the first.
    let script = format!(
        "for n in $(seq {count}); do unshare -n sh -c 'ip link set lo up && exec sleep 600' & done; wait"
    );
    let words = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", &script];
    guard.within(cgroup, words).spawn().unwrap()
}

fn empty(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.kill"), "1").unwrap();
}

fn descriptors(process: u64) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

#[test]
fn namespaces_come_and_go_without_a_trace_and_no_agent_gets_too_many() {
    let world = world("adopt-crowd");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let cgroup = guard.agent_cgroup("coder").unwrap();
    let keeper = u64::from(guard.id().unwrap());
    let worker = status(&guard)["worker_pid"].as_u64().unwrap();
    let count = || (descriptors(keeper), descriptors(worker));
    let before = count();
    for (crowded, listened) in [(50, 51), (70, 65)] {
        let processes = crowd(&guard, &cgroup, crowded);
        wait_listened_in(&guard, listened);
        assert!(descriptors(keeper) >= before.0 + 6 * (listened - 1));
        if crowded > 64 {
            wait_warning(&guard, "in 6 network namespaces the guard does not listen");
            let said = say(&guard, &["status"]).stdout;
            assert!(said.contains("at most 64 of an agent"), "{said}");
        } else {
            assert_eq!(
                warnings(&guard)
                    .iter()
                    .filter(|it| it.contains("at most"))
                    .count(),
                0
            );
        }
        empty(&cgroup);
        wait_listened_in(&guard, 1);
        let after = wait_until("what was open to be closed", SOON, || {
            (count() == before).then_some(())
        });
        assert!(after.is_ok(), "{before:?} became {:?}", count());
        drop(processes);
    }
}

#[test]
fn a_namespace_without_loopback_is_told_of_and_served_once_it_has_it() {
    let world = world("adopt-lo");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let cgroup = guard.agent_cgroup("coder").unwrap();
    let mut client = Puppet::start(&world, |words| {
        let unshare = ["unshare".into(), "-n".into()];
        guard.within(&cgroup, unshare.into_iter().chain(words))
    })
    .unwrap();
    client.fails(&format!("get('{SITE}')"), "EAI_AGAIN");
    wait_warning(
        &guard,
        "its loopback device is down; hint: ip link set lo up, inside it",
    );
    guard
        .wait_verdicts("the refusal", |decisions| {
            let refused = |it: &Decision| it.reason.code == ReasonCode::NoListener;
            decisions.iter().any(refused).then_some(())
        })
        .unwrap();
    client.gives("os.system('ip link set lo up')", 0);
    let begun = Instant::now();
    wait_until("an answer inside", SOON, || {
        let got = client.ask(&format!("get('{SITE}')")).unwrap();
        (got == "HTTP/1.1 200 OK").then_some(())
    })
    .unwrap();
    println!("served {:?} after it could be", begun.elapsed());
    wait_until("the warning's end", SOON, || {
        let told = warnings(&guard);
        let gone = !told.iter().any(|it| it.contains("loopback"));
        gone.then_some(())
    })
    .unwrap();
}

#[test]
fn what_can_get_around_the_gate_is_not_adopted_where_that_has_to_hold() {
    let world = world("adopt-strict");
    let cgroup = foreign(&world);
    let strict = json!({"strict": true});
    let guard = world
        .guard()
        .policy(POLICY)
        .setting("run", strict)
        .start()
        .unwrap();
    let mut mighty = Puppet::start(&world, |words| guard.within(&cgroup, words)).unwrap();
    mighty.fails("tcp('c', '192.0.2.66', 80)", "ECONNREFUSED");
    let refused = add(&guard, &cgroup);
    assert_eq!(refused.code(), 1, "{refused}");
    for says in [
        "is not contained, and `run` is strict: ",
        "CAP_NET_ADMIN in a network namespace with an uplink",
        "CAP_NET_RAW in a network namespace with an uplink",
        "CAP_SYS_ADMIN in the host's user namespace",
        "hint: start it without these capabilities",
    ] {
        assert!(refused.stderr.contains(says), "{refused}");
    }
    // Nothing has changed for it.
    mighty.fails("tcp('c', '192.0.2.66', 80)", "ECONNREFUSED");
    drop(mighty);
    wait_until("the end of it", SOON, || {
        let left = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
        left.is_empty().then_some(())
    })
    .unwrap();
    let mut humble = Puppet::start(&world, |words| {
        let drop = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"];
        let drop = drop.map(Into::into).into_iter();
        guard.within(&cgroup, drop.chain(words))
    })
    .unwrap();
    humble.fails("tcp('c', '192.0.2.66', 80)", "ECONNREFUSED");
    let added = add(&guard, &cgroup).success().unwrap();
    assert!(!added.stderr.contains("not contained"), "{added}");
    humble.fails("tcp('c', '192.0.2.66', 80)", "EPERM");
    humble.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    assert_eq!(warnings(&guard), Vec::<String>::new());
}

/// A container from a root file system of its own, as engines place it: the payload below the adopted cgroup,
/// in every namespace of its own.
#[test]
fn a_container_of_crun_is_governed_below_the_cgroup_that_was_added() {
    governed_below("adopt-crun", Runtime::Crun);
}

#[test]
fn a_container_of_podman_is_governed_below_the_cgroup_that_was_added() {
    governed_below("adopt-podman", Runtime::Podman);
}

fn governed_below(name: &str, runtime: Runtime) {
    if !runtime.is_there() {
        return;
    }
    let world = world(name);
    let cgroup = foreign(&world);
    let payload = cgroup.join("payload");
    fs::create_dir(&payload).unwrap();
    let guard = world.guard().policy(POLICY).start().unwrap();
    let namespace = container(&world, 1);
    let mut client = Puppet::start(&world, |words| {
        let words = runtime.words(&world, &namespace, &words);
        guard.within(&payload, words)
    })
    .unwrap();
    client.gives("os.getpid()", 1);
    // Engines keep the runtime and its monitor out of the container's cgroup.
    let inside = fs::read_to_string(payload.join("cgroup.procs")).unwrap();
    for process in inside.lines().filter(|process| is_engine(process)) {
        let outside = leftover::cgroup_mount().unwrap().join("cgroup.procs");
        fs::write(outside, process).unwrap();
    }
    client.gives("os.path.exists('/root-of-the-test')", true);
    for canary in address::CANARY {
        client.fails(&format!("tcp('c', '{canary}', 80)"), "ECONNREFUSED");
    }
    let before = world.canary().unwrap();
    for ip in address::origin(0x20) {
        client.gives(&format!("tcp('old{ip}', '{ip}', 7)[1]"), 7);
        client.gives(&format!("echo('old{ip}', 'free')"), "free");
    }

    let added = add(&guard, &cgroup).success().unwrap();
    assert!(
        added
            .stderr
            .contains("; 2 open sockets were found in it and closed"),
        "{added}"
    );
    assert!(!added.stderr.contains("not contained"), "{added}");
    for ip in address::origin(0x20) {
        client.fails(&format!("hear('old{ip}')"), "ECONNABORTED");
    }
    held(&mut client);
    assert_eq!(world.canary().unwrap(), before);
    guard
        .wait_verdicts("the allowed request", |decisions| {
            let request = |it: &&Decision| it.action.kind == ActionKind::HttpRequest;
            let request = decisions.iter().find(request)?;
            (agent(request) == Some("coder")).then_some(())
        })
        .unwrap();
}

/// Whether a process is in the host's PID namespace, not in the container's.
fn is_engine(process: &str) -> bool {
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/pid")).unwrap();
    namespace(process) == namespace("self")
}

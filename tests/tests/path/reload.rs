//! A policy that changes while agents run.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use agentguard_model::{ActionKind, Decision, ReasonCode, Verdict};
use agentguard_tests::{Guard, address, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{OTHER, SITE, puppet, world};

const FIRST: &str = "
version: 1
agents: [{name: coder}]
rules:
  - id: sites
    match: {host: [api.example.com, www.other.example], port: [22, 80]}
    action: allow
  - id: direct
    match: {host: [api.example.com], cidr: [203.0.113.48/32], port: [7], transport: [tcp, udp]}
    action: allow
    handling: direct
";

/// The same, less one site, one address, and more.
const SECOND: &str = "
version: 1
agents: [{name: coder}, {name: helper}]
rules:
  - id: sites
    match: {host: [api.example.com, www.other.example], port: [22, 80]}
    action: allow
  - id: direct
    match: {host: [api.example.com], cidr: [203.0.113.48/32], port: [7], transport: [tcp, udp]}
    action: allow
    handling: direct
  - id: not-any-more
    match: {host: [api.example.com], cidr: [203.0.113.48/32], transport: [tcp, udp]}
    action: deny
    reason: The contract has ended.
";

/// A name that resolves into a private range, which the first policy permits.
const INSIDE: &str = "
version: 1
agents: [{name: coder}]
rules:
  - id: inside
    match: {host: [inside.example.com], port: [7]}
    action: allow
    handling: direct
    resolved_ranges: [10.0.0.0/8]
";

#[test]
fn a_range_that_is_permitted_no_longer_is_closed_at_once_behind_an_address_answered_before() {
    let world = world("reload-range");
    world
        .internet()
        .ip("addr add 10.1.2.3/32 dev lo\n")
        .unwrap();
    let inside: std::net::IpAddr = "10.1.2.3".parse().unwrap();
    world
        .dns()
        .change(|zone| zone.address("inside.example.com", &[inside]));
    let guard = world.guard().policy(INSIDE).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    let found = client.ask("resolve('inside.example.com', 4)").unwrap();
    let dialled = found[0].as_str().unwrap().to_owned();
    // Nobody listens there, but it was reached.
    client.fails(&format!("tcp('c', '{dialled}', 7)"), "ECONNREFUSED");
    assert!(world.arrivals(inside).unwrap() > 0);
    let bound = world.internet().enter(|| TcpListener::bind((inside, 7)));
    let _listens = bound.unwrap().unwrap();
    client.gives(&format!("tcp('d', '{dialled}', 7)"), json!([dialled, 7]));
    client.gives("say('d', 'hello')", 5);
    let (narrower, _) = INSIDE.split_once("    resolved_ranges").unwrap();
    fs::write(guard.policy(), narrower).unwrap();
    let reload = guard.cli().args(["policy", "reload"]).run().unwrap();
    let reload = reload.success().unwrap();
    assert!(
        reload.stderr.contains("; it ends 1 direct flow"),
        "{reload}"
    );
    let arrived = world.arrivals(inside).unwrap();
    client.fails("say('d', 'still')", "ECONNABORTED");
    client.fails(&format!("tcp('c', '{dialled}', 7)"), "EPERM");
    assert_eq!(world.arrivals(inside).unwrap(), arrived);
    let ended = guard
        .wait_verdicts("the end", |decisions| {
            let is_ended = |it: &&Decision| it.reason.message.contains("while this was under way");
            decisions.iter().find(is_ended).cloned()
        })
        .unwrap();
    assert_eq!(ended.reason.code, ReasonCode::Rebinding, "{ended:?}");
    assert_eq!(ended.action.ip, Some(inside));
}

const BAD: &str = "
version: 1
agents: [{name: coder}]
rules:
  - id: sites
    match: {hosts: [api.example.com]}
    action: allow
";

fn status(guard: &Guard<'_>) -> Value {
    let status = guard.cli().args(["status", "-o", "json"]).run().unwrap();
    serde_json::from_str(&status.success().unwrap().stdout).unwrap()
}

fn version(guard: &Guard<'_>) -> String {
    status(guard)["policy"]["version"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn a_bad_policy_leaves_the_old_one_in_force_and_status_says_why() {
    let world = world("reload-bad");
    let mut guard = world.guard().policy(FIRST).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    let before = version(&guard);
    assert_eq!(status(&guard)["policy"].get("refused"), None);

    fs::write(guard.policy(), BAD).unwrap();
    let reload = guard.cli().args(["policy", "reload"]).run().unwrap();
    assert_eq!(reload.code(), 2, "{reload}");
    let place = format!(
        "{}:6:13: error: unknown key `hosts`",
        guard.policy().display()
    );
    assert!(reload.stderr.contains(&place), "{reload}");
    assert!(reload.stderr.contains("hint: "), "{reload}");
    let refused = |guard: &Guard<'_>| {
        let status = status(guard);
        let refused = status["policy"].get("refused")?.as_str()?.to_owned();
        Some(refused)
    };
    let told = wait_until("the refusal in status", Duration::from_secs(5), || {
        refused(&guard)
    });
    assert!(told.unwrap().contains(&place));
    let words = guard.cli().arg("status").run().unwrap();
    assert!(
        words
            .stdout
            .contains("a newer policy was not taken, and this one stayed in force"),
        "{words}"
    );
    assert_eq!(version(&guard), before);
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");

    // By signal it is the same, and a good one clears it.
    fs::write(guard.policy(), "version: 2\n").unwrap();
    guard.signal(Signal::HUP).unwrap();
    let told = wait_until("the next refusal", Duration::from_secs(5), || {
        refused(&guard).filter(|told| told.contains("policy.yaml:1:10: error:"))
    });
    told.unwrap();
    assert_eq!(version(&guard), before);
    fs::write(guard.policy(), FIRST.replace("sites", "places")).unwrap();
    guard.signal(Signal::HUP).unwrap();
    wait_until("no refusal", Duration::from_secs(5), || {
        refused(&guard).is_none().then_some(())
    })
    .unwrap();
    assert_ne!(version(&guard), before);
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
}

/// As systemd's `Type=notify-reload` waits for it.
#[test]
fn the_service_manager_is_told_of_a_reload_when_the_new_policy_decides() {
    let world = world("reload-told");
    let mut guard = world.guard().policy(FIRST).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    fs::write(guard.policy(), FIRST.replace("80", "8080")).unwrap();
    guard.signal(Signal::HUP).unwrap();
    let told = guard.notified("READY=1").unwrap();
    assert!(told.iter().any(|line| line == "RELOADING=1"), "{told:?}");
    client.fails(&format!("get('{SITE}')"), "EPERM");
    // One that is not taken is over at once.
    fs::write(guard.policy(), BAD).unwrap();
    guard.signal(Signal::HUP).unwrap();
    guard.notified("READY=1").unwrap();
}

/// Between one worker and the next the daemon waits, and is told meanwhile.
#[test]
fn a_reload_between_two_workers_is_not_lost() {
    let world = world("reload-between");
    let mut guard = world.guard().policy(FIRST).start().unwrap();
    let before = version(&guard);
    // The pause doubles with each worker that ends at once: this one takes seconds.
    for _ in 0..6 {
        let worker = wait_until("a worker", Duration::from_secs(20), || {
            let status = guard.cli().args(["status", "-o", "json"]).run().ok()?;
            let status: Value = serde_json::from_str(&status.stdout).ok()?;
            i32::try_from(status["worker_pid"].as_i64()?).ok()
        });
        let worker = Pid::from_raw(worker.unwrap()).unwrap();
        kill_process(worker, Signal::KILL).unwrap();
        let gone = || kill_process(worker, Signal::CONT).is_err().then_some(());
        wait_until("its end", Duration::from_secs(5), gone).unwrap();
    }
    fs::write(guard.policy(), FIRST.replace("sites", "places")).unwrap();
    guard.signal(Signal::HUP).unwrap();
    let taken = wait_until("the new policy", Duration::from_secs(20), || {
        let status = guard.cli().args(["status", "-o", "json"]).run().ok()?;
        let status: Value = serde_json::from_str(&status.stdout).ok()?;
        (status["policy"]["version"].as_str()? != before).then_some(())
    });
    taken.unwrap();
}

#[test]
fn a_denial_added_by_a_reload_holds_for_the_next_connect_and_the_next_name() {
    let world = world("reload-deny");
    let guard = world.guard().policy(FIRST).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    let found = client.ask(&format!("resolve('{SITE}', 4)")).unwrap();
    let dialled = found[0].as_str().unwrap().to_owned();
    let [four, _] = address::origin(0x30);
    client.gives(&format!("tcp('n', '{dialled}', 7)"), json!([dialled, 7]));
    client.gives("echo('n', 'hello')", "hello");
    client.gives(
        &format!("tcp('a', '{four}', 7)"),
        json!([four.to_string(), 7]),
    );
    client.gives(&format!("udp('u', '{dialled}')"), "made");
    client.gives(&format!("connect('u', '{dialled}', 7)"), "connected");
    client.gives("echo('u', 'hello')", "hello");
    client.gives(&format!("tcp('s', '{dialled}', 22)"), json!([dialled, 22]));
    client.gives(
        "of('s').recv(27).decode()",
        agentguard_tests::origin::BANNER,
    );

    let run = guard.run("helper", ["true"]).unwrap();
    assert_eq!(run.code(), 1, "{run}");
    assert!(
        run.stderr.contains("the policy has no agent helper"),
        "{run}"
    );
    fs::write(guard.policy(), SECOND).unwrap();
    let reload = guard.cli().args(["policy", "reload"]).run().unwrap();
    let reload = reload.success().unwrap();
    assert!(reload.stderr.contains("is in force"), "{reload}");

    // At once: nothing is waited for. The address that was answered before leads nowhere now.
    client.fails(&format!("tcp('c', '{dialled}', 7)"), "EPERM");
    client.fails(&format!("tcp('c', '{dialled}', 22)"), "EPERM");
    client.fails(&format!("tcp('c', '{four}', 7)"), "EPERM");
    client.fails(&format!("resolve('{SITE}', 4)"), "EAI_NONAME");
    client.gives(&format!("get('{OTHER}')"), "HTTP/1.1 200 OK");
    // What goes through the proxy ends, and what goes directly.
    client.fails("hear_all('s')", "ECONNRESET");
    assert!(
        reload.stderr.contains("; it ends 3 direct flows"),
        "{reload}"
    );
    for name in ["n", "a", "u"] {
        let echoed = client.ask(&format!("echo('{name}', 'still')")).unwrap();
        assert!(echoed["error"].is_string(), "{name}: {echoed}");
    }
    let decisions = guard
        .wait_verdicts("eight denials", |decisions| {
            let denied: Vec<_> = decisions
                .iter()
                .filter(|decision| decision.verdict == Verdict::Deny)
                .cloned()
                .collect();
            (denied.len() >= 8).then_some(denied)
        })
        .unwrap();
    assert_eq!(decisions.len(), 8, "{decisions:#?}");
    let after = version(&guard);
    for decision in &decisions {
        assert_eq!(decision.reason.code, ReasonCode::RuleDeny, "{decision:?}");
        let message = &decision.reason.message;
        assert!(message.starts_with("The contract has ended."), "{message}");
        assert_eq!(decision.matched[0].rule, "not-any-more");
        assert_eq!(decision.policy_version, after);
    }
    let names: Vec<_> = decisions
        .iter()
        .filter(|decision| decision.action.kind == ActionKind::DnsQuery)
        .collect();
    assert_eq!(names.len(), 1);
    guard.run("helper", ["true"]).unwrap().success().unwrap();

    // And back: the address means what it meant.
    fs::write(guard.policy(), FIRST).unwrap();
    let reload = guard.cli().args(["policy", "reload"]).run().unwrap();
    reload.success().unwrap();
    client.gives(&format!("tcp('c', '{dialled}', 7)"), json!([dialled, 7]));
    client.gives("echo('c', 'again')", "again");

    // What is to be looked into goes directly no more, and what it never asked about goes on.
    client.gives(&format!("udp('v', '{dialled}')"), "made");
    client.gives(&format!("connect('v', '{dialled}', 7)"), "connected");
    client.gives("echo('v', 'hello')", "hello");
    // One that only a thread has open cannot be taken from a process. It is known by where it leads.
    client.gives("alone('thread')", 0);
    let dial = format!("on('thread', lambda: tcp('t', '{dialled}', 7))");
    client.gives(&dial, json!([dialled, 7]));
    let echo = "on('thread', lambda: echo('t', 'still'))";
    fs::write(guard.policy(), format!("{FIRST}# The same.\n")).unwrap();
    let reload = guard.cli().args(["policy", "reload"]).run().unwrap();
    let reload = reload.success().unwrap();
    assert!(!reload.stderr.contains("it ends"), "{reload}");
    client.gives(echo, "still");
    let looks = "
  - id: looked-into
    match: {host: [api.example.com], port: [7]}
    action: allow
    handling: inspect
  - id: direct";
    fs::write(guard.policy(), FIRST.replace("\n  - id: direct", looks)).unwrap();
    let reload = guard.cli().args(["policy", "reload"]).run().unwrap();
    let reload = reload.success().unwrap();
    assert!(
        reload.stderr.contains("; it ends 2 direct flows"),
        "{reload}"
    );
    client.fails("say('c', 'still')", "ECONNABORTED");
    client.fails(echo, "ECONNABORTED");
    client.gives("echo('v', 'still')", "still");
    let ended = guard
        .wait_verdicts("its end", |decisions| {
            let of = |it: &&Decision| it.reason.code == ReasonCode::PolicyChanged;
            decisions.iter().find(of).cloned()
        })
        .unwrap();
    assert_eq!(ended.verdict, Verdict::Deny);

    // Nor does an agent keep anything that the policy has no more.
    fs::write(
        guard.policy(),
        FIRST.replace("{name: coder}", "{name: other}"),
    )
    .unwrap();
    let reload = guard.cli().args(["policy", "reload"]).run().unwrap();
    let reload = reload.success().unwrap();
    assert!(reload.stderr.contains("it ends 1 direct flow"), "{reload}");
    let echoed = client.ask("echo('v', 'still')").unwrap();
    assert!(echoed["error"].is_string(), "{echoed}");
}

/// A policy of two files, of which the second one has the rules.
const INCLUDING: &str = "
version: 1
include: [base/rules.yaml]
variables: {site: api.example.com}
agents: [{name: coder, labels: {team: web}}]
groups: [{name: web, labels: {team: web}}]
";

const INCLUDED: &str = "
version: 1
lists: {sites: [\"${site}\", www.other.example]}
rules:
  - id: sites
    groups: [web]
    match: {host: [\"@sites\"], port: [80]}
    action: allow
";

#[test]
fn a_policy_of_several_files_is_read_anew_as_a_whole() {
    let world = world("reload-include");
    let mut guard = world.guard().policy(INCLUDING).prepare().unwrap();
    let base = guard.policy().with_file_name("base");
    let included = base.join("rules.yaml");
    fs::create_dir(&base).unwrap();
    fs::write(&included, INCLUDED).unwrap();
    guard.start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    client.gives(&format!("get('{OTHER}')"), "HTTP/1.1 200 OK");
    let files = json!([guard.policy(), included]);
    assert_eq!(status(&guard)["policy"]["files"], files);
    let before = version(&guard);

    // A file that is away, or that others may write, leaves the old policy in force.
    let refused = |words: &str| {
        let reload = guard.cli().args(["policy", "reload"]).run().unwrap();
        assert_eq!(reload.code(), 2, "{reload}");
        let place = format!(
            "{}:3:11: error: cannot read `{}`",
            guard.policy().display(),
            included.display()
        );
        assert!(reload.stderr.contains(&place), "{reload}");
        assert!(reload.stderr.contains(words), "{reload}");
        assert_eq!(version(&guard), before);
    };
    fs::set_permissions(&included, fs::Permissions::from_mode(0o666)).unwrap();
    refused("can be written by everybody");
    fs::remove_file(&included).unwrap();
    refused("No such file or directory");
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");

    // The file that the configuration names stays as it is.
    let rule = "  - id: no-other\n    match: {host: [www.other.example]}\n    action: deny\n";
    fs::write(&included, format!("{INCLUDED}{rule}")).unwrap();
    let reload = guard.cli().args(["policy", "reload"]).run().unwrap();
    reload.success().unwrap();
    assert_ne!(version(&guard), before);
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    client.fails(&format!("resolve('{OTHER}', 4)"), "EAI_NONAME");
    let denied = guard
        .wait_verdicts("the denial", |decisions| {
            let denied = decisions.iter().find(|it| it.verdict == Verdict::Deny);
            denied.cloned()
        })
        .unwrap();
    assert_eq!(denied.matched[0].rule, "no-other");
    assert_eq!(
        denied.matched[0].source.file,
        included.display().to_string()
    );
    let explain = guard.cli().args(["explain", &denied.id.to_string()]).run();
    let explain = explain.unwrap().success().unwrap();
    assert!(explain.stdout.contains("|   - id: no-other"), "{explain}");
}

/// As `policy check` tells of it: everything at once, each in its place, and with the same exit code.
#[test]
fn a_policy_that_is_wrong_is_told_as_a_whole_and_the_old_one_stays() {
    let world = world("wrong");
    let guard = world.guard().policy(FIRST).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    let wrong = "version: 1\nagents: [{name: coder}]\nrules:\n  - {id: a, action: deny, port: 1}\n  - {id: b, action: allow, match: {host: [a..b]}}\n";
    fs::write(guard.policy(), wrong).unwrap();
    let told = guard.cli().args(["policy", "reload"]).run().unwrap();
    let path = guard.policy().display().to_string();
    assert_eq!(told.code(), 2, "{told}");
    let lines: Vec<&str> = told.stderr.lines().collect();
    assert!(
        lines[0].starts_with(&format!("{path}:4:27: error: unknown key `port`")),
        "{told}"
    );
    assert!(
        lines[2].starts_with(&format!("{path}:5:43: error: `a..b` is not a host name")),
        "{told}"
    );
    let stays = "error: the policy was not taken, and the one in force stays";
    assert_eq!(lines.last(), Some(&stays), "{told}");
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
}

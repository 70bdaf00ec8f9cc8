//! Quotas of agents, with curl: on direct flows and through the proxy, over reloads, over the death of the daemon and
//! over a gate that is put up anew.

use std::fs;
use std::time::{Duration, Instant};

use agentguard_model::{Decision, Layer, ReasonCode, Verdict};
use agentguard_tests::{Guard, Output, Puppet, World, wait_until};
use serde_json::{Value, json};

use super::{agent, world};

/// The site at its address, over HTTP.
const BYTES: &str = "http://203.0.113.16/bytes";

const POLICY: &str = "
version: 1
agents:
  - {name: free}
  - {name: down, quota: {bytes_in: 1MiB, every: lifetime}}
  - {name: up, quota: {bytes_out: 1MiB, every: lifetime}}
  - {name: fast, quota: {connections: {per_second: 1, burst: 3}}}
  - {name: through, quota: {bytes_in: 1MiB, every: lifetime}}
  - {name: watched, mode: shadow, quota: {bytes_in: 1MiB, every: lifetime}}
  - {name: eager, mode: observe, quota: {connections: {per_second: 1, burst: 1}}}
rules:
  - id: direct
    match: {cidr: [203.0.113.16/32], port: [7, 80]}
    action: allow
    handling: direct
  - id: proxied
    match: {host: [api.example.com], port: [80]}
    action: allow
";

/// How long the guard may take for what it does by itself.
const LIMIT: Duration = Duration::from_secs(15);

/// One call of curl for each of these URLs: what each printed, and its exit code.
fn curl(guard: &Guard<'_>, agent: &str, urls: &[String]) -> Vec<(String, i32)> {
    let each = "for url; do curl -sS -o /dev/null --max-time 20 -w '%{http_code} %{size_download}' \"$url\"; \
                echo \" $?\"; done";
    let words = ["sh", "-c", each, "sh"].into_iter().map(str::to_owned);
    let output = guard.run(agent, words.chain(urls.iter().cloned())).unwrap();
    let lines: Vec<_> = output
        .stdout
        .lines()
        .map(|line| {
            let (told, code) = line.rsplit_once(' ').unwrap();
            (told.to_owned(), code.parse().unwrap())
        })
        .collect();
    assert_eq!(lines.len(), urls.len(), "{output}");
    lines
}

fn bytes(count: u32) -> String {
    format!("{BYTES}/{count}")
}

fn size((told, _): &(String, i32)) -> u64 {
    told.split_once(' ').unwrap().1.parse().unwrap()
}

/// What `agent show` has of an agent's quota.
fn quota(guard: &Guard<'_>, agent: &str) -> Value {
    let show = guard.cli().args(["agent", "show", agent, "-o", "json"]);
    let shown = show.run().unwrap().success().unwrap();
    let mut shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    shown["quota"].take()
}

/// As [`quota`], once it says that so many bytes came in, or more.
fn quota_from(guard: &Guard<'_>, agent: &str, used: u64) -> Value {
    wait_until("the bytes are shown", LIMIT, || {
        let shown = quota(guard, agent);
        let is = shown["bytes_in"]["used"].as_u64()?;
        (is >= used).then_some(shown)
    })
    .unwrap()
}

/// The first denial of an agent for a reason, once it is recorded.
fn denial(guard: &Guard<'_>, name: &str, code: ReasonCode) -> Decision {
    let found = guard.wait_verdicts("the denial", |decisions| {
        let mut denials = decisions.iter().filter(|it| it.reason.code == code);
        denials.find(|it| agent(it) == Some(name)).cloned()
    });
    let found = found.unwrap();
    assert_eq!((found.layer, found.verdict), (Layer::Kernel, Verdict::Deny));
    found
}

fn reload(guard: &Guard<'_>, policy: &str) -> Output {
    fs::write(guard.policy(), policy).unwrap();
    let reload = guard.cli().args(["policy", "reload"]).run().unwrap();
    reload.success().unwrap()
}

#[test]
fn curl_is_stopped_by_the_bytes_that_it_may_receive_on_a_direct_flow() {
    let world = world("quota-in");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let three = [bytes(3_000_000)];
    assert_eq!(
        curl(&guard, "free", &three),
        [("200 3000000".to_owned(), 0)]
    );
    assert_eq!(quota(&guard, "free"), Value::Null);

    // What is open is ended with an error, and not left to wait.
    let begun = Instant::now();
    let stopped = curl(&guard, "down", &three);
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    assert_eq!(stopped[0].1, 56, "{stopped:?}");
    let first = size(&stopped[0]);
    assert!((300_000..1 << 20).contains(&first), "{first}");
    // Nor is anything begun: couldn't connect.
    let again = curl(&guard, "down", &[bytes(1), bytes(1)]);
    assert_eq!(again, [("000 0".to_owned(), 7), ("000 0".to_owned(), 7)]);

    let shown = quota_from(&guard, "down", 1_000_000);
    let used = shown["bytes_in"]["used"].as_u64().unwrap();
    assert!(used <= 1 << 20, "{shown}");
    assert_eq!(shown["every"], "lifetime");
    assert_eq!(shown["bytes_in"]["limit"], 1 << 20);
    assert_eq!(
        (&shown["resets"], &shown["bytes_out"]),
        (&Value::Null, &Value::Null)
    );
    // What is small enough fills it up meanwhile, and nothing goes beyond.
    let (used, show) = wait_until("the same to be shown", LIMIT, || {
        let used = || quota(&guard, "down")["bytes_in"]["used"].as_u64();
        let before = used()?;
        let show = guard.cli().args(["agent", "show", "down"]).run().ok()?;
        (used()? == before).then_some((before, show))
    })
    .unwrap();
    assert!(used <= 1 << 20, "{show}");
    let amount = match used >> 20 {
        0 => format!("{}.{} KiB", used >> 10, (used % 1024) * 10 / 1024),
        _ => "1.0 MiB".to_owned(),
    };
    let share = used * 100 / (1 << 20);
    let expected = format!("\nquota     bytes in: {amount} of 1.0 MiB used ({share}%)");
    assert!(show.stdout.contains(&expected), "{expected}{show}");

    let denial = denial(&guard, "down", ReasonCode::QuotaBytes);
    assert!(denial.enforced);
    let said =
        "The agent has received the 1MiB (`bytes_in`) that its quota lets it receive in all.";
    assert_eq!(denial.reason.message, said);
    let id = denial.id.to_string();
    let explain = guard.cli().args(["explain", &id]).run().unwrap();
    let explain = explain.success().unwrap();
    assert!(explain.stdout.contains(said), "{explain}");
    assert!(
        explain.stdout.contains("`agentguard agent show down`"),
        "{explain}"
    );
    // One for the flow, and one for each attempt since.
    let denials = guard.verdicts().unwrap();
    let denials = denials
        .iter()
        .filter(|it| it.reason.code == ReasonCode::QuotaBytes);
    assert_eq!(denials.map(|it| it.count).sum::<u64>(), 3);
    // Others go on.
    assert_eq!(
        curl(&guard, "free", &three),
        [("200 3000000".to_owned(), 0)]
    );
}

#[test]
fn curl_is_stopped_by_the_bytes_that_it_may_send_on_a_direct_flow() {
    let world = world("quota-out");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let file = world.directory().join("much");
    fs::write(&file, vec![b'x'; 3_000_000]).unwrap();
    let upload = |agent: &str| {
        let data = format!("@{}", file.display());
        let url = "http://203.0.113.16/upload";
        let words = [
            "curl",
            "-sS",
            "-o",
            "/dev/null",
            "--max-time",
            "20",
            "-w",
            "%{size_upload}",
        ];
        let words = words.map(str::to_owned);
        let more = ["-H", "Expect:", "--data-binary", &data, url].map(str::to_owned);
        guard.run(agent, words.into_iter().chain(more)).unwrap()
    };
    let received = || {
        let connections = world
            .origin(super::SITE)
            .unwrap()
            .log()
            .connections()
            .unwrap();
        connections.iter().map(|it| it.received).collect::<Vec<_>>()
    };
    let passed = upload("free").success().unwrap();
    assert_eq!(passed.stdout, "3000000");
    let stopped = upload("up");
    assert!(matches!(stopped.code(), 55 | 56), "{stopped}");
    let arrived = wait_until("both uploads have ended", LIMIT, || {
        let received = received();
        (received.len() == 2).then_some(received)
    });
    let arrived = arrived.unwrap();
    assert!(arrived[0] > 3_000_000, "{arrived:?}");
    assert!((300_000..1 << 20).contains(&arrived[1]), "{arrived:?}");
    assert!(denial(&guard, "up", ReasonCode::QuotaBytes).enforced);
}

#[test]
fn curl_is_stopped_by_the_rate_at_which_it_may_connect() {
    let world = world("quota-rate");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let many: Vec<String> = (0..8).map(bytes).collect();
    let all = curl(&guard, "free", &many);
    assert!(all.iter().all(|(_, code)| *code == 0), "{all:?}");
    let begun = Instant::now();
    let some = curl(&guard, "fast", &many);
    let passed = some.iter().filter(|(_, code)| *code == 0).count();
    assert!(passed >= 3, "{some:?}");
    assert!(passed as u64 <= 3 + begun.elapsed().as_secs(), "{some:?}");
    assert!(passed < 8, "{some:?}");
    assert!(
        some.iter().all(|(_, code)| matches!(code, 0 | 7)),
        "{some:?}"
    );
    let denial = denial(&guard, "fast", ReasonCode::RateConnections);
    assert!(denial.enforced && denial.matched.is_empty());
    let said =
        "The agent begins more connections than its quota lets it: 1 a second, and 3 at once.";
    assert_eq!(denial.reason.message, said);
    let shown = quota(&guard, "fast");
    assert_eq!(shown["connections"], json!({"per_second": 1, "burst": 3}));
    // Later there is room again.
    wait_until("there is room again", LIMIT, || {
        let one = curl(&guard, "fast", &many[..1]);
        (one[0].1 == 0).then_some(())
    })
    .unwrap();
}

#[test]
fn what_goes_through_the_proxy_counts_and_stops_without_harm_to_the_guard() {
    let world = world("quota-proxy");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let url = ["http://api.example.com/bytes/3000000".to_owned()];
    assert_eq!(curl(&guard, "free", &url), [("200 3000000".to_owned(), 0)]);
    let stopped = curl(&guard, "through", &url);
    assert!(stopped[0].1 != 0, "{stopped:?}");
    assert!(size(&stopped[0]) < 1 << 20, "{stopped:?}");
    let next = curl(&guard, "through", &url);
    assert_eq!(next[0].0, "000 0", "{next:?}");
    assert!(denial(&guard, "through", ReasonCode::QuotaBytes).enforced);
    // The guard learns of the end of what it carried, and nothing of it is left.
    guard
        .wait_verdicts("the end of the request", |decisions| {
            let ended = |it: &&Decision| agent(it) == Some("through") && it.outcome.is_some();
            decisions.iter().find(ended).map(drop)
        })
        .unwrap();
    assert_eq!(curl(&guard, "free", &url), [("200 3000000".to_owned(), 0)]);
}

#[test]
fn what_is_only_watched_passes_and_is_recorded() {
    let world = world("quota-shadow");
    let guard = world.guard().policy(POLICY).start().unwrap();
    for (agent, urls, code) in [
        ("watched", [3_000_000, 5], ReasonCode::QuotaBytes),
        ("eager", [5, 5], ReasonCode::RateConnections),
    ] {
        let passed = curl(&guard, agent, &urls.map(bytes));
        assert!(passed.iter().all(|(_, code)| *code == 0), "{passed:?}");
        assert!(!denial(&guard, agent, code).enforced, "{code}");
    }
    let shown = quota_from(&guard, "watched", 3_000_000);
    assert_eq!(shown["bytes_in"]["limit"], 1 << 20);
}

/// A client in an agent's cgroup that outlives the daemon, and what it takes.
fn settled(world: &World, guard: &Guard<'_>, agent: &str) -> Puppet {
    let cgroup = guard.agent_cgroup(agent).unwrap();
    Puppet::start(world, |words| guard.within(&cgroup, words)).unwrap()
}

#[test]
fn what_was_used_outlives_the_daemon_and_the_gate_and_a_new_limit_counts_at_once() {
    const KIND: &str = "
version: 1
agents:
  - {name: coder, on_daemon_loss: keep, quota: {bytes_out: 300KiB, every: lifetime}}
rules:
  - id: direct
    match: {cidr: [203.0.113.16/32], port: [7]}
    action: allow
    handling: direct
";
    let used = |guard: &Guard<'_>, least: u64| {
        wait_until("the bytes are shown", LIMIT, || {
            let used = quota(guard, "coder")["bytes_out"]["used"].as_u64()?;
            (used >= least).then_some(used)
        })
        .unwrap()
    };
    let world = world("quota-kill");
    let mut guard = world.guard().policy(KIND).start().unwrap();
    let mut client = settled(&world, &guard, "coder");
    let piece = "x".repeat(50_000);
    let dial = "tcp('c', '203.0.113.16', 7)";
    client.gives(dial, json!(["203.0.113.16", 7]));
    client.gives(&format!("echo('c', '{piece}')"), piece.as_str());
    let before = used(&guard, 50_000);

    // Killed, and the agent goes on meanwhile. What it uses then counts too.
    guard.kill().unwrap();
    client.gives(&format!("echo('c', '{piece}')"), piece.as_str());
    guard.start().unwrap();
    let after = used(&guard, before + 50_000);
    assert!(after < before + 60_000, "{before} {after}");

    // A daemon that is gone opens nothing: the limit holds without one.
    guard.kill().unwrap();
    client.gives(&format!("echo('c', '{piece}')"), piece.as_str());
    client.gives(&format!("echo('c', '{piece}')"), piece.as_str());
    client.gives("of('c').settimeout(2)", Value::Null);
    client.fails(&format!("echo('c', '{}')", "x".repeat(200_000)), "timeout");
    client.fails("tcp('d', '203.0.113.16', 7)", "EPERM");
    guard.start().unwrap();
    let spent = used(&guard, 290_000);
    assert!(spent <= 300 * 1024, "{spent}");
    client.fails("tcp('d', '203.0.113.16', 7)", "EPERM");

    // Nor does a gate that is put up anew begin anew.
    guard.stop().unwrap();
    let off = guard.cli().args(["daemon", "--detach-all"]).run().unwrap();
    off.success().unwrap();
    guard.start().unwrap();
    assert_eq!(used(&guard, 0), spent);
    let mut client = settled(&world, &guard, "coder");
    client.fails("tcp('d', '203.0.113.16', 7)", "EPERM");

    // More: what was used stays used.
    reload(&guard, &KIND.replace("300KiB", "400KiB"));
    client.gives("tcp('d', '203.0.113.16', 7)", json!(["203.0.113.16", 7]));
    client.gives(&format!("echo('d', '{piece}')"), piece.as_str());
    assert!(used(&guard, spent + 50_000) < spent + 60_000);
    // Less: what is open is ended, nothing begins.
    reload(&guard, &KIND.replace("300KiB", "64KiB"));
    wait_until("the flow is ended", LIMIT, || {
        let error = client.ask("echo('d', 'x')").unwrap();
        (error == json!({"error": "ECONNABORTED"}) || error == "").then_some(())
    })
    .unwrap();
    client.fails("tcp('e', '203.0.113.16', 7)", "EPERM");
    // None: it is not counted any more.
    let (head, tail) = KIND.split_once(", quota: {").unwrap();
    let none = format!("{head}{}", tail.split_once('}').unwrap().1);
    reload(&guard, &none);
    client.gives("tcp('e', '203.0.113.16', 7)", json!(["203.0.113.16", 7]));
    assert_eq!(quota(&guard, "coder"), Value::Null);
}

#[test]
fn bytes_are_given_anew_with_the_next_window() {
    const KIND: &str = "
version: 1
agents: [{name: coder, quota: {bytes_in: 1MiB, every: minute}}]
rules:
  - id: direct
    match: {cidr: [203.0.113.16/32], port: [80]}
    action: allow
    handling: direct
";
    let world = world("quota-minute");
    let guard = world.guard().policy(KIND).start().unwrap();
    // Not so late in a minute that the next begins while this looks at it.
    let early = || (jiff::Timestamp::now().as_second().rem_euclid(60) < 40).then_some(());
    wait_until("the beginning of a minute", Duration::from_secs(30), early).unwrap();
    let stopped = curl(&guard, "coder", &[bytes(3_000_000)]);
    assert_eq!(stopped[0].1, 56, "{stopped:?}");
    let shown = quota(&guard, "coder");
    let resets: jiff::Timestamp = shown["resets"].as_str().unwrap().parse().unwrap();
    let message = denial(&guard, "coder", ReasonCode::QuotaBytes)
        .reason
        .message;
    let end = format!("in a minute; there is more from {resets} on.");
    assert!(message.ends_with(&end), "{message} {end}");
    wait_until("the next minute", Duration::from_secs(75), || {
        let shown = quota(&guard, "coder");
        (shown["bytes_in"]["used"].as_u64()? < 1 << 19).then_some(())
    })
    .unwrap();
    assert!(jiff::Timestamp::now() >= resets);
    let passed = curl(&guard, "coder", &[bytes(500_000)]);
    assert_eq!(passed, [("200 500000".to_owned(), 0)]);
}

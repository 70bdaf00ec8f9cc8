//! Budgets of bytes, with curl: of requests and their answers, and of connections that nobody looks into.

use std::collections::BTreeMap;
use std::time::Duration;

use agentguard_model::budget::Unit;
use agentguard_model::{Decision, ReasonCode, Verdict};
use agentguard_tests::{Guard, wait_until};
use serde_json::Value;

use super::{SITE, agent, world};

const POLICY: &str = "
version: 1
agents:
  - {name: free}
  - {name: down, labels: {of: down}}
  - {name: up, labels: {of: up}}
  - {name: raw, labels: {of: raw}}
  - {name: told, labels: {of: told}}
rules:
  - id: site
    match: {host: [api.example.com], port: [80]}
    action: allow
  - id: lines
    match: {cidr: [203.0.113.16/32], port: [7]}
    action: allow
budgets:
  - {id: comes, unit: bytes_in, limit: 1MiB, window: lifetime, per: [agent], labels: {of: down}}
  - {id: leaves, unit: bytes_out, limit: 1MiB, window: lifetime, per: [agent], agents: [up, raw]}
  - {id: watched, unit: bytes_in, limit: 100KiB, window: lifetime, per: [label.of], labels: {of: told}, reached: alert}
";

const MIB: u64 = 1 << 20;

/// How long the guard may take for what it does by itself.
const LIMIT: Duration = Duration::from_secs(15);

/// A call of curl for each of these, with these words before it: its code and how many bytes came or left, and the exit code.
fn curl(guard: &Guard<'_>, agent: &str, counts: &str, calls: &[&[&str]]) -> Vec<(u16, u64, i32)> {
    let told = calls.iter().map(|words| {
        let form = format!("%{{http_code}} %{{{counts}}}");
        let fixed = [
            "curl",
            "-sS",
            "-o",
            "/dev/null",
            "--max-time",
            "20",
            "-w",
            &form,
        ];
        let words = fixed.iter().chain(words.iter()).map(|it| (*it).to_owned());
        let output = guard.run(agent, words).unwrap();
        let (code, size) = output.stdout.split_once(' ').unwrap();
        let exit = output.status.code().unwrap();
        (code.parse().unwrap(), size.trim().parse().unwrap(), exit)
    });
    told.collect()
}

/// What an account has used, once it holds nothing.
fn used(guard: &Guard<'_>, account: &str) -> u64 {
    wait_until("nothing to be held", LIMIT, || {
        let list = guard.cli().args(["budget", "list", "-o", "json"]);
        let list: Vec<Value> = serde_json::from_str(&list.run().ok()?.stdout).ok()?;
        let its = list.iter().find(|it| it["account"] == account)?;
        (its["held"] == 0).then(|| its["used"].as_u64())?
    })
    .unwrap()
}

/// What the outcomes of an agent's decisions were charged, by budget, with the bytes that they have.
fn settled(decisions: &[Decision], name: &str) -> BTreeMap<String, u64> {
    let mut settled = BTreeMap::new();
    for decision in decisions.iter().filter(|it| agent(it) == Some(name)) {
        for line in decision.outcome.iter().flat_map(|it| &it.budget) {
            *settled.entry(line.budget.clone()).or_default() += line.settled.unwrap();
        }
    }
    settled
}

#[test]
fn curl_receives_no_more_than_a_budget_of_bytes_has_and_is_told_of_it() {
    let world = world("bytes-in");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let url = |count: u64| format!("http://api.example.com/bytes/{count}");
    let (large, small) = (url(3_000_000), url(600_000));
    // Without a budget all of it comes.
    let free = curl(&guard, "free", "size_download", &[&[&large]]);
    assert_eq!(free, [(200, 3_000_000, 0)]);

    let down = curl(
        &guard,
        "down",
        "size_download",
        &[&[&small], &[&small], &[&small]],
    );
    assert_eq!(down[0], (200, 600_000, 0));
    // The second one is cut in its midst, and curl knows: less came than was announced.
    let (_, cut, exit) = down[1];
    assert!([18, 56].contains(&exit), "{down:?}");
    assert!(cut > 300_000 && 600_000 + cut <= MIB, "{down:?}");
    // Nothing is begun where nothing is left.
    assert_eq!((down[2].0, down[2].2), (429, 0), "{down:?}");
    let account = "comes/agent=down";
    assert_eq!(used(&guard, account), MIB, "to the byte");
    let denials = guard.wait_verdicts("the denial", |decisions| {
        let mut denied = decisions.iter().filter(|it| it.verdict == Verdict::Deny);
        let by = |it: &&Decision| agent(it) == Some("down");
        denied.find(by).cloned()
    });
    let denied = denials.unwrap();
    assert_eq!(denied.reason.code, ReasonCode::BudgetExhausted);
    assert_eq!(denied.matched[0].rule, "comes");
    assert!(denied.reason.message.contains("bytes in"), "{denied:?}");
    let decisions = guard.verdicts().unwrap();
    assert_eq!(settled(&decisions, "down")["comes"], MIB);

    // One that only tells goes on, and says so.
    let told = curl(&guard, "told", "size_download", &[&[&small], &[&small]]);
    assert_eq!(told, [(200, 600_000, 0), (200, 600_000, 0)]);
    assert_eq!(used(&guard, "watched/label.of=told"), 1_200_000);
    let over = guard.wait_verdicts("what is over", |decisions| {
        let mut lines = decisions.iter().flat_map(|it| &it.budget);
        lines.find(|it| it.budget == "watched" && it.over).cloned()
    });
    assert_eq!(over.unwrap().unit, Unit::BytesIn);
    // An operator gives more.
    let reset = guard
        .cli()
        .args(["budget", "reset", account])
        .run()
        .unwrap();
    reset.success().unwrap();
    let again = curl(&guard, "down", "size_download", &[&[&small]]);
    assert_eq!(again, [(200, 600_000, 0)]);
}

#[test]
fn curl_sends_no_more_than_a_budget_of_bytes_has() {
    let world = world("bytes-out");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let file = world.directory().join("sent");
    std::fs::write(&file, vec![b'x'; 700_000]).unwrap();
    let large = world.directory().join("large");
    std::fs::write(&large, vec![b'x'; 3_000_000]).unwrap();
    let [file, large] = [file, large].map(|it| format!("@{}", it.display()));
    let url = "http://api.example.com/echo";
    let post = ["--data-binary", &file, "-H", "Expect:", url];
    let chunked = [
        "--data-binary",
        &large,
        "-H",
        "Expect:",
        "-H",
        "Transfer-Encoding: chunked",
        url,
    ];
    let free = curl(&guard, "free", "size_upload", &[&chunked]);
    assert_eq!((free[0].0, free[0].2), (200, 0), "{free:?}");

    let up = curl(&guard, "up", "size_upload", &[&post, &post]);
    assert_eq!(up[0], (200, 700_000, 0));
    // What says that it is longer than what is left does not begin.
    assert_eq!(up[1].0, 429, "{up:?}");
    let account = "leaves/agent=up";
    let spent = used(&guard, account);
    // Its content, and its head.
    assert!((700_001..701_000).contains(&spent), "{spent}");
    let log = world.origin(SITE).unwrap().log();
    let arrived = log.requests().unwrap().len();
    assert_eq!(arrived, 2, "that of nobody's budget, and the first");
    // What does not say it is ended where nothing is left.
    let cut = curl(&guard, "up", "size_upload", &[&chunked]);
    assert_ne!((cut[0].0, cut[0].2), (200, 0), "{cut:?}");
    let spent = used(&guard, account);
    assert_eq!(spent, MIB, "to the byte");

    // Nor is what nobody looks into: not a byte more arrives than is left.
    let line = "head -c 3000000 /dev/zero | curl -sS --max-time 20 telnet://203.0.113.16:7 -o /dev/null; echo $?";
    let ended = guard.run("raw", ["sh", "-c", line]).unwrap();
    assert_ne!(ended.stdout.trim(), "0", "{ended}");
    let spent = used(&guard, "leaves/agent=raw");
    assert_eq!(spent, MIB, "to the byte");
}

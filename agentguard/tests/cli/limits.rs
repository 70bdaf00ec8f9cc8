//! `agentguard limits`

use agentguard_keeper::message::{Answer, Command as Request, LimitOrder};
use agentguard_keeper::packet;
use serde_json::Value;

use crate::world::{Bench, Served, agentguard};

#[test]
fn what_refuses_stands_first_and_what_is_new_is_not_listed() {
    let bench = Bench::new();
    let _served = Served::new(&bench);
    let config = bench.config();
    let said = agentguard(["limits", "list", "-o", "jsonl"])
        .with_config(&config)
        .run();
    let lines: Vec<Value> = said
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told: Vec<_> = lines
        .iter()
        .map(|it| {
            let word = |key: &str| it[key].as_str().unwrap_or_default().to_owned();
            (word("id"), word("kind"), word("scope"), word("state"))
        })
        .collect();
    let row = |id: &str, kind: &str, scope: &str, state: &str| {
        (
            id.to_owned(),
            kind.to_owned(),
            scope.to_owned(),
            state.to_owned(),
        )
    };
    assert_eq!(
        told,
        [
            row("burst", "rate", "agent=coder", "refuses"),
            row("upstreams", "breaker", "host=api.example.com:443", "open"),
            row("burst", "rate", "agent=other", "free"),
        ]
    );
    let wait = lines[0]["wait_ms"].as_u64().unwrap();
    assert!((3_500_000..=3_600_000).contains(&wait), "{wait}");
    let said = agentguard(["limits", "list", "--id", "upstreams"])
        .with_config(&config)
        .run();
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[1].starts_with("upstreams  breaker  host=api.example.com:443  open "));
}

#[test]
fn a_reset_is_ordered_of_the_keeper() {
    let bench = Bench::new();
    let config = bench.config();
    let listener = packet::listen(bench.path("keeper.sock").as_ref(), 0o600).unwrap();
    let keeper = std::thread::spawn(move || {
        let client = listener.accept().unwrap();
        let (request, _) = client.recv::<Request>().unwrap().unwrap();
        let text = "burst counts from the beginning".to_owned();
        client.send(&Answer::Done { text }, &[]).unwrap();
        request
    });
    let words = ["limits", "reset", "burst", "--reason", "ticket 42"];
    let said = "burst counts from the beginning\n";
    agentguard(words).with_config(&config).says("", said, 0);
    let order = LimitOrder {
        account: "burst".to_owned(),
        reason: Some("ticket 42".to_owned()),
    };
    let Request::Limits(asked) = keeper.join().unwrap() else {
        panic!("another order");
    };
    assert_eq!(*asked, order);
}

//! `agentguard limits`

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

//! Turns on one WebSocket, each of a model with a budget of its own: what one budget refuses or cuts leaves the connection to
//! the others.

use std::fs;
use std::path::{Path, PathBuf};

use agentguard_model::Verdict;
use agentguard_tests::{client, wait_until};
use anyhow::Result;
use serde_json::Value;

use crate::agents::{PATIENCE, POLICY, Stage, recorded};
use crate::inspected::inspected;
use crate::room::{LATE, Room};

fn budgets(limit: u64) -> String {
    format!(
        "
budgets:
  - {{ id: out, unit: output_tokens, limit: {limit}, window: day, per: [model] }}
"
    )
}

pub(crate) fn words(python: &Path, turns: &str) -> Vec<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/turns.py");
    let words = [python.to_owned(), script].into_iter();
    words.chain(turns.split(' ').map(PathBuf::from)).collect()
}

/// What of the models' budgets is used, once nothing is held.
fn used(room: &Room<'_>, scopes: &[&str]) -> Result<Vec<u64>> {
    wait_until("nothing to be held", LATE, || {
        let list = room.guard.cli().args(["budget", "list", "-o", "json"]);
        let list: Value = serde_json::from_str(&list.run().ok()?.stdout).ok()?;
        let of = |scope: &&str| {
            let accounts = list.as_array()?;
            let account = accounts.iter().find(|it| it["scope"] == **scope)?;
            (account["held"] == 0).then(|| account["used"].as_u64())?
        };
        scopes.iter().map(of).collect()
    })
}

#[test]
fn a_budget_that_is_spent_leaves_a_websocket_to_turns_of_others() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let stage = Stage::new("turns-spent", &python).unwrap();
    let room = stage.room(&budgets(300)).unwrap();
    let turns = "gpt-4.1-mini 400 gpt-4.1-mini 50 gpt-4o 50";
    let output = inspected(&room, &words(&python, turns)).run().unwrap();
    let output = output.success().unwrap();
    let told: Vec<_> = output.stdout.lines().collect();
    let expected = [
        "gpt-4.1-mini began",
        "gpt-4.1-mini response.incomplete None 300",
        "gpt-4.1-mini error budget_exhausted 0",
        "gpt-4o began",
        "gpt-4o response.completed None 50",
    ];
    assert_eq!(told, expected, "{output}");
    let scopes = ["model=gpt-4.1-mini", "model=gpt-4o"];
    assert_eq!(used(&room, &scopes).unwrap(), [300, 55]);
}

/// The limit is lowered while an answer comes.
#[test]
fn an_answer_that_is_cut_leaves_a_websocket_to_turns_of_others() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let stage = Stage::new("turns-cut", &python).unwrap();
    let room = stage.room(&budgets(20_000)).unwrap();
    let turns = "gpt-4.1-mini 1500~ gpt-4o 50";
    let running = inspected(&room, &words(&python, turns)).spawn().unwrap();
    wait_until("the answer", PATIENCE, || {
        running.stdout().contains("began").then_some(())
    })
    .unwrap();
    fs::write(room.guard.policy(), format!("{POLICY}{}", budgets(300))).unwrap();
    let reload = room.guard.cli().args(["policy", "reload"]);
    reload.run().unwrap().success().unwrap();
    let output = running.wait(PATIENCE).unwrap().success().unwrap();
    let told: Vec<_> = output.stdout.lines().collect();
    let [_, cut, _, whole] = told[..] else {
        panic!("{output}");
    };
    let came = cut.strip_prefix("gpt-4.1-mini error budget_exhausted ");
    let came: u64 = came.unwrap_or_else(|| panic!("{output}")).parse().unwrap();
    assert!((1..1500).contains(&came), "{output}");
    assert_eq!(whole, "gpt-4o response.completed None 50");
    // Its provider has written all of it, and bills that.
    let scopes = ["model=gpt-4.1-mini", "model=gpt-4o"];
    assert_eq!(used(&room, &scopes).unwrap(), [1505, 55]);
    let decisions = recorded(&room).unwrap();
    let denied = decisions.iter().filter(|it| it.verdict == Verdict::Deny);
    assert_eq!(denied.count(), 1, "{decisions:#?}");
}

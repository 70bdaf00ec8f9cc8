//! Real agents run into a hard cap in the middle of a turn: Claude Code, and Codex CLI over SSE and WebSocket.
//!
//! Each tells its user what is spent, and does not try for long: how often each does is told here.

use std::fs;

use agentguard_model::Verdict;
use agentguard_tests::{Output, client, wait_until};
use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::agents::{Agent, HTTPS, PATIENCE, POLICY, Stage, agent, call, recorded, turn};
use crate::room::{LATE, Room};

/// In whose budget it says why.
const REASON: &str = "Ask the platform team for more.";

/// One budget more.
fn capped(more: &str, limit: u64) -> String {
    format!(
        "{more}
budgets:
  - {{ id: out, unit: output_tokens, limit: {limit}, window: day, reason: {REASON} }}
"
    )
}

/// What became of a turn.
#[derive(Debug)]
struct Ended {
    /// How many answers the provider began, but for those that nothing was asked for.
    answered: usize,
    /// How many tokens it billed.
    billed: u64,
    /// How often a budget denied.
    denied: u64,
    used: u64,
    shown: String,
}

/// What became of it, once nothing is held.
fn ended(stage: &Stage, room: &Room<'_>, output: &Output) -> Result<Ended> {
    let used = wait_until("nothing to be held", LATE, || {
        let list = room
            .guard
            .cli()
            .args(["budget", "list", "-o", "json"])
            .run()
            .ok()?;
        let list: Value = serde_json::from_str(&list.stdout).ok()?;
        let account = list.get(0)?;
        (account["held"] == 0).then(|| account["used"].as_u64())
    })?;
    // What is cut is billed until the provider notices.
    let calls = wait_until("the provider's books", LATE, || {
        let mut calls = stage.calls();
        calls.retain(|it| it.usage != Some([0, 0]));
        (!calls.is_empty()).then_some(calls)
    })?;
    let decisions = recorded(room)?;
    let denied = decisions.iter().filter(|it| it.verdict == Verdict::Deny);
    Ok(Ended {
        answered: calls.len(),
        billed: calls.iter().map(|it| it.bill()[1]).sum(),
        denied: denied.map(|it| it.count).sum(),
        used: used.context("no number")?,
        shown: format!("{}{}", output.stdout, output.stderr),
    })
}

/// The agents, each with a rule more.
const AGENTS: [(&str, &str); 3] = [("claude", ""), ("codex", HTTPS), ("codex", "")];

#[test]
fn agents_whose_budget_ends_between_two_calls_of_a_turn_say_so_and_stop() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    for (program, more) in AGENTS {
        let stage = Stage::new("capped-between", &python).unwrap();
        let Some(agent) = agent(&stage.world, program).unwrap() else {
            return;
        };
        let room = stage.room(&capped(more, 520)).unwrap();
        let output = turn(&room, &agent, "write 500 words, then run the tool").unwrap();
        assert_eq!(output.code(), 1, "{output}");
        let ended = ended(&stage, &room, &output).unwrap();
        // The tool was used, and what came of it could not be told.
        assert_eq!((ended.answered, ended.denied), (1, 1), "{ended:?}");
        assert_eq!((ended.billed, ended.used), (505, 505), "{ended:?}");
        let spent = "budget `out` has used 505 output tokens of 520 output tokens";
        for text in [REASON, spent] {
            assert!(ended.shown.contains(text), "{program} {more}: {ended:?}");
        }
    }
}

#[test]
fn agents_whose_answer_ends_at_the_cap_say_so_and_stop() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    for (program, more) in AGENTS {
        let stage = Stage::new("capped-at", &python).unwrap();
        let Some(agent) = agent(&stage.world, program).unwrap() else {
            return;
        };
        let room = stage.room(&capped(more, 520)).unwrap();
        let output = turn(&room, &agent, "write 8000 words, then run the tool").unwrap();
        assert_eq!(output.code(), 1, "{output}");
        let ended = ended(&stage, &room, &output).unwrap();
        // Its provider ends it at the limit that was lowered. Claude Code asks for the rest then, once.
        let (denied, shown) = match program {
            "claude" => (1, REASON),
            _ => (0, "Incomplete response returned, reason: max_output_tokens"),
        };
        assert_eq!((ended.answered, ended.denied), (1, denied), "{ended:?}");
        assert_eq!((ended.billed, ended.used), (520, 520), "{ended:?}");
        assert!(ended.shown.contains(shown), "{program} {more}: {ended:?}");
    }
}

/// A model that hides nothing, without tools of its provider's: its answer is reserved in parts, and cut between them.
fn counted(agent: &mut Agent, program: &str) {
    if program == "claude" {
        agent.settings = &["--model", "claude-haiku-4-5"];
    } else {
        agent.model = Some("gpt-4.1-mini");
        agent.settings = &["-c", "web_search=\"disabled\""];
    }
}

#[test]
fn agents_whose_budget_ends_in_the_middle_of_an_answer_say_so_and_stop() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    for (program, more) in AGENTS {
        let stage = Stage::new("capped-cut", &python).unwrap();
        let Some(mut agent) = agent(&stage.world, program).unwrap() else {
            return;
        };
        counted(&mut agent, program);
        let (before, after) = (20_000, 1_000);
        let room = stage.room(&capped(more, before)).unwrap();
        let call = call(&room, &agent, "write 8000 words, then run the tool");
        let call = call.env("MAX_THINKING_TOKENS", "0").spawn().unwrap();
        wait_until("the answer", PATIENCE, || {
            let decisions = recorded(&room).ok()?;
            let begun = decisions.iter().find(|it| it.outcome.is_none())?;
            (begun.budget.first()?.reserved < after).then_some(())
        })
        .unwrap();
        fs::write(
            room.guard.policy(),
            format!("{POLICY}{}", capped(more, after)),
        )
        .unwrap();
        let reload = room.guard.cli().args(["policy", "reload"]);
        reload.run().unwrap().success().unwrap();
        let output = call.wait(PATIENCE).unwrap();
        assert_eq!(output.code(), 1, "{output}");
        let ended = ended(&stage, &room, &output).unwrap();
        assert!(ended.shown.contains(REASON), "{program}: {ended:?}");
        // It is cut, and what is tried again is refused, once.
        assert_eq!(ended.answered, 1, "{ended:?}");
        assert!((1..=2).contains(&ended.denied), "{ended:?}");
        let charged = ended.billed..=before;
        assert!(charged.contains(&ended.used), "{program}: {ended:?}");
    }
}

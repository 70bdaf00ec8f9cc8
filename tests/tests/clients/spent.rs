//! Budgets that are spent, with the SDKs of Bedrock, Cohere and Ollama, and OpenAI's and Anthropic's of Node: each tells
//! its user once, and does not try again.

use agentguard_model::{Decision, ReasonCode, Verdict};
use agentguard_tests::wait_until;
use anyhow::{Context as _, Result};

use crate::inspected::inspected;
use crate::providers::{BEDROCK, COHERE, OLLAMA, OPENAI};
use crate::room::{LATE, Room};
use crate::sdks::{ANTHROPIC, HAIKU, Sdk, open, world};

/// What is denied anew, once there is so much, and no more than that.
fn denied(room: &Room<'_>, count: u64) -> Result<Vec<Decision>> {
    let all = |denied: &[Decision]| denied.iter().map(|it| it.count).sum::<u64>();
    let (mut denied, mut seen) = (Vec::new(), 0);
    let waited = wait_until("the denials", LATE, || {
        denied = room.new_decisions().ok()?;
        seen = denied.len();
        denied.retain(|it| it.verdict == Verdict::Deny);
        (all(&denied) >= count).then_some(())
    });
    waited.with_context(|| format!("{denied:#?}"))?;
    assert_eq!(all(&denied), count, "{denied:#?}");
    room.settled(seen)?;
    Ok(denied)
}

#[test]
fn a_spent_budget_is_told_once_and_not_tried_again_by_further_sdks() {
    let world = world("spent").unwrap();
    let budgets = "
budgets:
  - { id: three, unit: calls, limit: 3, window: day, per: [host, model], reason: Ask the platform team for more. }
";
    let room = open(&world, budgets).unwrap();
    let older = "anthropic.claude-3-haiku-20240307-v1:0";
    for (sdk, status) in [
        (Sdk::python("bedrock", BEDROCK, HAIKU), " 400 "),
        (Sdk::python("invoke", BEDROCK, older), " 400 "),
        (Sdk::python("cohere", COHERE, "command-a-03-2025"), " 402 "),
        (Sdk::python("ollama", OLLAMA, "qwen3:8b"), " 429 "),
        (Sdk::node("openai", OPENAI, "gpt-4o"), " 429 "),
        (Sdk::node("responses", OPENAI, "gpt-4.1"), " 429 "),
        (
            Sdk::node("anthropic", ANTHROPIC, "claude-haiku-4-5"),
            " 429 ",
        ),
    ] {
        let arrived = || {
            world
                .origin(sdk.host)
                .unwrap()
                .log()
                .requests()
                .unwrap()
                .len()
        };
        let before = arrived();
        // Three go through as streams; then two more streams are refused, and two calls that are none.
        for (how, passes) in [("10 100 stream 5", 3), ("10 100 plain 2", 0)] {
            let Some(words) = sdk.words(how).unwrap() else {
                return;
            };
            let output = inspected(&room, &words).run().unwrap().success().unwrap();
            let told: Vec<&str> = output.stdout.lines().collect();
            assert_eq!(told.len(), passes + 2, "{sdk:?}: {output}");
            let (passed, refused) = told.split_at(passes);
            assert!(
                passed.iter().all(|it| it.starts_with("10 ")),
                "{sdk:?}: {told:#?}"
            );
            for line in refused {
                for text in [
                    status,
                    "`three`",
                    "3 calls of 3 calls",
                    "is reset at",
                    "Ask the platform team",
                ] {
                    assert!(line.contains(text), "{sdk:?}: {text}: {line}");
                }
                assert!(line.ends_with(" behind 0 words"), "{sdk:?}: {line}");
            }
            for denial in &denied(&room, 2).unwrap() {
                assert_eq!(denial.reason.code, ReasonCode::BudgetExhausted);
                assert_eq!(denial.matched[0].rule, "three");
            }
        }
        assert_eq!(arrived(), before + 3, "{sdk:?}");
    }
}

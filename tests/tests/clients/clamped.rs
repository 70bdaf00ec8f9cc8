//! Budgets that have less left than calls may use, with the SDKs of Cohere, Ollama, Google and AWS: a limit is lowered where
//! its provider has it, and a stream that comes to the end of a budget ends with its provider's own error, once.

use std::iter;
use std::time::Duration;

use agentguard_model::{Decision, ReasonCode, Verdict};
use agentguard_tests::World;
use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::budgets::{calls, line};
use crate::inspected::inspected;
use crate::providers::{BEDROCK, COHERE, GEMINI, OLLAMA, OPENAI};
use crate::sdks::{HAIKU, Sdk, open, world};

/// How long streams may take that wait for each other.
const PATIENCE: Duration = Duration::from_secs(120);

/// Claude 3 Haiku, as Bedrock calls it.
const OLDER: &str = "anthropic.claude-3-haiku-20240307-v1:0";

/// With which clients of Bedrock's sign nothing: an API key of its own.
const KEY: &str = "AWS_BEARER_TOKEN_BEDROCK";

const REASON: &str = "Ask the platform team for more.";

/// Each provider, with how an error in the middle of its stream is shown.
const PROVIDERS: [(Sdk, &str); 4] = [
    (
        Sdk::python("cohere", COHERE, "command-a-03-2025"),
        " ERROR ",
    ),
    (Sdk::python("ollama", OLLAMA, "qwen3:8b"), "ResponseError "),
    (
        Sdk::python("genai", GEMINI, "gemini-2.5-flash"),
        "ClientError 429 ",
    ),
    (Sdk::python("bedrock", BEDROCK, HAIKU), "EventStreamError "),
];

/// How many requests came to a provider.
fn arrived(world: &World, host: &str) -> Result<usize> {
    let requests = world.origin(host)?.log().requests()?;
    let hosts = requests.iter().map(|it| it.host.as_deref());
    Ok(hosts.filter(|it| *it == Some(host)).count())
}

/// How many words came of a call, each of which is a token to its provider.
fn delivered(line: &str) -> Result<u64> {
    let behind = line.rsplit_once(" behind ");
    let words = behind.map_or(line, |(_, words)| words);
    let (words, _) = words.split_once(' ').context("no words")?;
    Ok(words.parse()?)
}

/// Those decisions that are on calls to a provider.
fn of(decisions: &[Decision], sdk: Sdk) -> Vec<&Decision> {
    let host = |it: &&Decision| it.action.host.as_ref().map(|it| it.as_str() == sdk.host);
    let there = decisions.iter().filter(|it| host(it) == Some(true));
    there.collect()
}

/// That a call ended with this error, once, which says why.
fn is_error(line: &str, error: &str, budget: &str) {
    assert!(line.contains(&format!("budget `{budget}`")), "{line}");
    for text in [error, REASON, "agentguard explain"] {
        assert_eq!(line.matches(text).count(), 1, "{text}: {line}");
    }
}

#[test]
fn a_limit_is_lowered_where_each_provider_has_it() {
    let world = world("clamped").unwrap();
    let budgets = "
budgets:
  - { id: small, unit: output_tokens, limit: 100, window: day, per: [host, model] }
";
    let room = open(&world, budgets).unwrap();
    // Cohere counts two tokens more than it says words.
    for (api, host, models, field, ended, used) in [
        (
            "cohere",
            COHERE,
            ["command-a-03-2025", "command-r7b-12-2024"],
            "/max_tokens",
            "100 MAX_TOKENS 102",
            102,
        ),
        (
            "ollama",
            OLLAMA,
            ["qwen3:8b", "qwen3:4b"],
            "/options/num_predict",
            "100 length 100",
            100,
        ),
        (
            "genai",
            GEMINI,
            ["gemini-2.5-flash", "gemini-2.5-flash-lite"],
            "/generationConfig/maxOutputTokens",
            "100 MAX_TOKENS 100",
            100,
        ),
        (
            "bedrock",
            BEDROCK,
            [HAIKU, OLDER],
            "/inferenceConfig/maxTokens",
            "100 max_tokens 100",
            100,
        ),
    ] {
        for (model, form) in models.into_iter().zip(["plain", "stream"]) {
            let sdk = Sdk::python(api, host, model);
            let Some(words) = sdk.words(&format!("150 5000 {form} 1")).unwrap() else {
                return;
            };
            let call = inspected(&room, &words).env(KEY, "any");
            let output = call.run().unwrap().success().unwrap();
            assert_eq!(output.stdout.trim_end(), ended, "{output}");
            let mut arrived = world.origin(host).unwrap().log().requests().unwrap();
            arrived.retain(|it| it.host.as_deref() == Some(host));
            let asked: Value = serde_json::from_str(&arrived.last().unwrap().asked).unwrap();
            assert_eq!(
                asked.pointer(field),
                Some(&Value::from(100)),
                "{api} {form}: {asked}"
            );
            let [decision] = &calls(&room, 1).unwrap()[..] else {
                panic!("one call");
            };
            let asked = decision.action.llm.as_ref().unwrap();
            assert_eq!(asked.max_output_tokens, Some(5000), "as the agent had it");
            assert_eq!(decision.budget[0].clamped, Some(100), "{api} {form}");
            let small = line(decision, "small").unwrap();
            assert_eq!(
                (small.clamped, small.settled),
                (Some(100), Some(used)),
                "{api} {form}: {small:?}"
            );
        }
    }
    room.close().unwrap();
}

/// What is signed cannot be changed, so that nothing of it leaves.
#[test]
fn a_signed_call_whose_limit_would_be_lowered_is_refused() {
    let world = world("clamped-signed").unwrap();
    let budgets = "
budgets:
  - { id: small, unit: output_tokens, limit: 100, window: day, per: [model] }
";
    let room = open(&world, budgets).unwrap();
    for (api, model) in [("bedrock", HAIKU), ("invoke", OLDER)] {
        for form in ["plain", "stream"] {
            let words = Sdk::python(api, BEDROCK, model).words(&format!("150 5000 {form} 1"));
            let Some(words) = words.unwrap() else {
                return;
            };
            let before = arrived(&world, BEDROCK).unwrap();
            let output = inspected(&room, &words).run().unwrap().success().unwrap();
            for text in [
                "ServiceQuotaExceededException 400 ",
                "`small` of model=claude-",
                " has used 0 output tokens of 100 output tokens",
                "cannot be lowered to what is left: it is signed",
                " behind 0 words",
            ] {
                assert!(output.stdout.contains(text), "{text}: {output}");
            }
            assert_eq!(output.stdout.lines().count(), 1, "{output}");
            assert_eq!(arrived(&world, BEDROCK).unwrap(), before, "{api} {form}");
            // A rule allowed it, and nothing is charged for it.
            let [allowed, denied] = &calls(&room, 2).unwrap()[..] else {
                panic!("one call");
            };
            assert_eq!(allowed.verdict, Verdict::Allow);
            let outcome = allowed.outcome.as_ref().unwrap();
            assert_eq!(outcome.status, Some(400), "as its client was told");
            assert!(outcome.budget.is_empty(), "{outcome:?}");
            assert_eq!(
                (denied.verdict, denied.reason.code),
                (Verdict::Deny, ReasonCode::BudgetExhausted)
            );
            assert_eq!(denied.matched[0].rule, "small");
        }
        let words = Sdk::python(api, BEDROCK, model).words("50 100 stream 1");
        let output = inspected(&room, &words.unwrap().unwrap()).run().unwrap();
        assert_eq!(output.stdout.trim_end(), "50 end_turn 50", "{output}");
        calls(&room, 1).unwrap();
    }
    room.close().unwrap();
}

/// A provider that writes on is cut: where its tokens are counted at the limit, and where they are estimated at twice as many,
/// since an estimate alone ends nothing that the provider would.
#[test]
fn a_stream_that_keeps_to_no_limit_is_cut_all_the_same() {
    let world = world("clamped-regardless").unwrap();
    let budgets = format!(
        "
budgets:
  - {{ id: small, unit: output_tokens, limit: 400, window: day, per: [host], reason: {REASON} }}
"
    );
    let room = open(&world, &budgets).unwrap();
    let counted = (Sdk::python("openai", OPENAI, "gpt-4o"), "APIError ");
    let all = iter::once((counted, 350..=400)).chain(PROVIDERS.map(|it| (it, 400..=800)));
    let mut running = Vec::new();
    for ((sdk, error), fits) in all {
        let Some(words) = sdk.words("1500 400 regardless 2").unwrap() else {
            return;
        };
        let call = inspected(&room, &words).spawn().unwrap();
        running.push((sdk, call, error, fits));
    }
    let mut ended = Vec::new();
    for (sdk, call, error, fits) in running {
        let output = call.wait(PATIENCE).unwrap().success().unwrap();
        let told: Vec<&str> = output.stdout.lines().collect();
        let [cut, refused] = told[..] else {
            panic!("{sdk:?}: {output}");
        };
        is_error(cut, error, "small");
        assert!(fits.contains(&delivered(cut).unwrap()), "{sdk:?}: {cut}");
        // Nothing is left for the other one.
        assert_eq!(delivered(refused).unwrap(), 0, "{sdk:?}: {refused}");
        assert_eq!(arrived(&world, sdk.host).unwrap(), 1, "{sdk:?}");
        ended.push(sdk);
    }
    let decisions = calls(&room, 3 * ended.len()).unwrap();
    for sdk in ended {
        let of = of(&decisions, sdk);
        let [allowed, denied @ ..] = &of[..] else {
            panic!("{sdk:?}: {decisions:#?}");
        };
        let small = line(allowed, "small").unwrap();
        assert!(small.settled >= Some(400), "{sdk:?}: {small:?}");
        let denied: Vec<_> = denied
            .iter()
            .map(|it| (it.verdict, it.reason.code))
            .collect();
        assert_eq!(
            denied,
            [(Verdict::Deny, ReasonCode::BudgetExhausted); 2],
            "{sdk:?}"
        );
    }
    room.close().unwrap();
}

/// Two streams of each provider at once, which would write more than there is for both.
#[test]
fn streams_of_each_provider_are_cut_where_a_budget_ends() {
    let world = world("clamped-cut").unwrap();
    let budgets = format!(
        "
budgets:
  - {{ id: shared, unit: output_tokens, limit: 2200, window: day, per: [host], reason: {REASON} }}
"
    );
    let room = open(&world, &budgets).unwrap();
    let mut running = Vec::new();
    for (sdk, error) in PROVIDERS {
        // What is signed keeps its limit, which has to fit.
        let Some(words) = sdk.words("1500 1500 stream 2 2").unwrap() else {
            return;
        };
        let call = inspected(&room, &words).spawn().unwrap();
        running.push((sdk, call, error));
    }
    let mut ended = Vec::new();
    for (sdk, call, error) in running {
        let output = call.wait(PATIENCE).unwrap().success().unwrap();
        let told: Vec<String> = output.stdout.lines().map(str::to_owned).collect();
        assert_eq!(told.len(), 2, "{output}");
        ended.push((sdk, error, told));
    }
    let is_cut = |line: &&String| !line.starts_with("1500 ");
    let cuts = ended.iter().flat_map(|(.., told)| told.iter());
    let cuts = cuts.filter(is_cut).count();
    let decisions = calls(&room, 2 * ended.len() + cuts).unwrap();
    for (sdk, error, told) in &ended {
        let cut: Vec<_> = told.iter().filter(is_cut).collect();
        assert!(!cut.is_empty(), "{sdk:?}: {told:#?}");
        for line in &cut {
            is_error(line, error, "shared");
        }
        let delivered: u64 = told.iter().map(|it| delivered(it).unwrap()).sum();
        assert!((1500..=2200).contains(&delivered), "{sdk:?}: {told:#?}");
        let (mut used, mut denied) = (0, 0);
        for decision in of(&decisions, *sdk) {
            if decision.verdict == Verdict::Allow {
                used += line(decision, "shared").unwrap().settled.unwrap();
                continue;
            }
            let code = decision.reason.code;
            assert!(
                matches!(code, ReasonCode::BudgetExhausted | ReasonCode::BudgetHeld),
                "{code}"
            );
            let told = &decision.reason.message;
            assert!(told.contains("this was under way"), "{decision:#?}");
            assert_eq!(decision.matched[0].rule, "shared");
            denied += 1;
        }
        assert!(used >= delivered, "{sdk:?}: {used} {delivered}");
        assert_eq!(denied, cut.len(), "{sdk:?}");
        assert_eq!(
            arrived(&world, sdk.host).unwrap(),
            2,
            "none was tried again"
        );
    }
    room.close().unwrap();
}

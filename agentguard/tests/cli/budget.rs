//! `agentguard budget`

use serde_json::Value;

use crate::world::agentguard;

const LITELLM: &str = r#"{
    "sample_spec": {"litellm_provider": "…", "mode": "…"},
    "gpt-4o": {
        "litellm_provider": "openai", "mode": "chat", "max_input_tokens": 128000, "max_output_tokens": 16384,
        "input_cost_per_token": 2.5e-06, "output_cost_per_token": 1e-05, "cache_read_input_token_cost": 1.25e-06
    },
    "dall-e-3": {"litellm_provider": "openai", "mode": "image_generation"},
    "claude-haiku-4-5": {
        "litellm_provider": "anthropic", "mode": "chat", "max_input_tokens": 200000, "max_output_tokens": 64000,
        "input_cost_per_token": 1e-06, "output_cost_per_token": 5e-06
    }
}"#;

#[test]
fn a_list_of_prices_becomes_a_file_that_comes_before_what_is_built_in() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("list.json"), LITELLM).unwrap();
    let import = ["budget", "prices", "import", "--from", "litellm"];
    let list = at("list.json");
    let made = agentguard(
        import
            .into_iter()
            .chain([list.as_str(), "--provider", "openai"]),
    )
    .run();
    assert_eq!(
        (made.code, made.stderr.as_str()),
        (
            0,
            "left out: dall-e-3: its mode is not priced by the token: image_generation\n1 model, 1 left out\n"
        )
    );
    assert_eq!(
        made.stdout,
        "version: 1\nmodels:\n  - {\"models\":[\"gpt-4o\"],\"providers\":[\"openai\"],\"cache_read\":1.25,\"context\":128000,\"hidden\":\"never\",\"input\":2.5,\"max_output\":16384,\"output\":10,\"tokenizer\":\"o200k\"}\n"
    );
    let own = made.stdout.replace("\"input\":2.5", "\"input\":2.25");
    std::fs::write(at("prices.yaml"), own).unwrap();
    std::fs::write(at("config.yaml"), "prices: prices.yaml\n").unwrap();
    let shown = agentguard([
        "--config",
        &at("config.yaml"),
        "budget",
        "prices",
        "show",
        "openai/gpt-4o-2024-08-06",
    ])
    .run();
    assert_eq!(
        (shown.stdout.as_str(), shown.stderr.as_str()),
        (
            "model           openai/gpt-4o-2024-08-06\n\
             price of        gpt-4o\n\
             input           2.25\n\
             cache read      1.25\n\
             output          10\n\
             batch           × 1\n\
             flex            × 1\n\
             priority        × 1\n\
             context         128000\n\
             max output      16384\n\
             hidden          never\n",
            ""
        )
    );
    let listed = agentguard([
        "budget",
        "prices",
        "show",
        "--file",
        &at("prices.yaml"),
        "--provider",
        "openai",
        "-o",
        "json",
    ])
    .run();
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed[0]["origin"], "file");
    assert_eq!(listed[0]["input"], 2.25);
    assert_eq!(listed[1]["origin"], "built_in");
}

#[test]
fn a_model_without_a_price_is_told_as_unknown() {
    let said = agentguard(["budget", "prices", "show", "nobody-knows", "-o", "json"]).run();
    let said: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(
        (&said["known"], &said["name"]),
        (&Value::Bool(false), &Value::Null)
    );
    assert_eq!(
        (&said["output"], &said["hidden"]),
        (&Value::from(600.0), &Value::from("always"))
    );
    let table = agentguard(["budget", "prices", "show"]).run();
    assert!(table.stdout.starts_with("MODEL "), "{}", table.stdout);
    assert!(
        table.stdout.contains("claude-3-haiku  "),
        "{}",
        table.stdout
    );
}

#[test]
fn what_cannot_be_used_is_told_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("list.json"), LITELLM).unwrap();
    std::fs::write(
        at("bad.yaml"),
        "version: 1\nmodels:\n  - {models: [a], input: -1, output: 1}\n",
    )
    .unwrap();
    for (arguments, file, told) in [
        (
            &["show", "--file"][..],
            "bad.yaml",
            ":3:26: error: `-1` is no price that a million tokens can have\n  hint: write US dollars",
        ),
        (
            &["show", "--file"],
            "absent.yaml",
            "hint: docs/budgets.md has an example",
        ),
        (
            &["import", "--from", "models.dev"],
            "list.json",
            "it has not the form of models.dev's api.json\nhint: name a copy of https://models.dev/api.json, or say with --from",
        ),
        (
            &["import", "--from", "litellm"],
            "bad.yaml",
            "cannot be imported: it is no JSON",
        ),
        (
            &["import", "--provider", "nobody", "--from", "litellm"],
            "list.json",
            "has no model that can be taken\nhint: providers are named as in policies",
        ),
    ] {
        let file = at(file);
        let all = ["budget", "prices"]
            .into_iter()
            .chain(arguments.iter().copied());
        let said = agentguard(all.chain([file.as_str()])).run();
        assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(said.stderr.contains(told), "{}", said.stderr);
    }
}

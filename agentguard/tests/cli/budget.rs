//! `agentguard budget`

use agentguard_keeper::message::{Answer, BudgetOrder, Command as Request};
use agentguard_keeper::packet;
use serde_json::Value;

use crate::world::{Bench, Served, agentguard};

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
        "version: 1\nmodels:\n  - {\"models\":[\"gpt-4o\"],\"providers\":[\"openai\"],\"batch\":0.5,\"cache_read\":1.25,\"context\":128000,\"hidden\":\"never\",\"input\":2.5,\"max_output\":16384,\"output\":10,\"priority\":1.7,\"regional\":1,\"tokenizer\":\"o200k\"}\n"
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
             batch           × 0.5\n\
             flex            × 1\n\
             priority        × 1.7\n\
             regional        × 1\n\
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

#[test]
fn accounts_are_listed_and_shown_and_foretold() {
    let bench = Bench::new();
    let served = Served::new(&bench);
    let config = bench.config();
    agentguard(["budget", "list"]).with_config(&config).says(
        "\
ACCOUNT                    UNIT              USED   HELD   LIMIT  LEFT   %   RESETS  STATE
team/agent=coder,user=ada  micro_usd         $3.00  $0.25  $5.00  $1.75  65  -       open
team/agent=coder,user=bob  micro_usd         $1.00  $0.00  $5.00  $4.00  20  -       open
at-once                    concurrent_calls  0      0      4      4      0   -       unused
",
        "",
        0,
    );
    let list = [
        "budget", "list", "--agent", "coder", "--budget", "at-once", "-o", "jsonl",
    ];
    agentguard(list).with_config(&config).says(
        "{\"account\":\"at-once\",\"budget\":\"at-once\",\"unit\":\"concurrent_calls\",\"window\":\"lifetime\",\
         \"state\":\"unused\",\"limit\":4,\"used\":0,\"held\":0,\"left\":4,\"percent\":0,\"overshoot\":0}\n",
        "",
        0,
    );
    let show = ["budget", "show", "team/agent=coder,user=ada"];
    let shown = agentguard(show).with_config(&config).run();
    assert_eq!((shown.code, shown.stderr.as_str()), (0, ""));
    for line in [
        "budget    team for each agent and user, policy.yaml:23",
        "used      $3.00 of $5.00 (65 % of it is used and held)",
        "held      $0.25 for calls under way",
        "forecast  too little is known: nothing was used lately, or the window has just begun and too few ended before it",
    ] {
        assert!(
            shown.stdout.lines().any(|it| it == line),
            "{}",
            shown.stdout
        );
    }
    let shown = agentguard(show.iter().chain(&["-o", "json"]))
        .with_config(&config)
        .run();
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown["policy"]["mode"], "enforce");
    assert_eq!(
        (&shown["used"], &shown["held"]),
        (&3_000_000.into(), &250_000.into())
    );
    agentguard(["budget", "forecast", "at-once"])
        .with_config(&config)
        .says(
            "\
ACCOUNT  UNIT              USED  LIMIT  PER HOUR  EXHAUSTED  EARLIEST  LATEST  AT THE END  FROM
at-once  concurrent_calls  0     4      -         -          -         -       -           calls at the same time are not used up
",
            "",
            0,
        );
    let all = agentguard(["budget", "forecast", "-o", "json"])
        .with_config(&config)
        .run();
    let all: Value = serde_json::from_str(&all.stdout).unwrap();
    assert_eq!(all.as_array().unwrap().len(), 3);
    agentguard(["budget", "show", "team"]).with_config(&config).says(
        "",
        "error: `team` has an account for each agent and user\n\
         hint: did you mean `team/agent=coder,user=ada` or `team/agent=coder,user=bob`? `agentguard budget list` has all\n",
        1,
    );
    // Which ones are meant is said once.
    let usage = agentguard(["budget", "forecast", "team", "--agent", "coder"]).with_config(&config);
    assert_eq!(usage.run().code, 2);
    drop(served);
}

#[test]
fn what_counts_as_used_is_ordered_of_the_keeper() {
    let bench = Bench::new();
    let config = bench.config();
    let listener = packet::listen(bench.path("keeper.sock").as_ref(), 0o600).unwrap();
    let keeper = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for text in ["set", "reset"] {
            let client = listener.accept().unwrap();
            let (request, _) = client.recv::<Request>().unwrap().unwrap();
            let text = text.to_owned();
            client.send(&Answer::Done { text }, &[]).unwrap();
            asked.push(request);
        }
        asked
    });
    let account = "team/agent=coder,user=ada";
    let words = ["budget", "set", account, "$5", "--reason", "ticket 42"];
    agentguard(words).with_config(&config).says("", "set\n", 0);
    let words = ["budget", "reset", account, "-o", "json"];
    agentguard(words)
        .with_config(&config)
        .says("{\"done\":\"reset\"}\n", "", 0);
    let asked: Vec<BudgetOrder> = keeper
        .join()
        .unwrap()
        .into_iter()
        .map(|request| match request {
            Request::Budget(order) => *order,
            other => panic!("{other:?}"),
        })
        .collect();
    let order = |used: Option<&str>, reason: Option<&str>| BudgetOrder {
        account: account.to_owned(),
        used: used.map(str::to_owned),
        reason: reason.map(str::to_owned),
    };
    assert_eq!(
        asked,
        [order(Some("$5"), Some("ticket 42")), order(None, None)]
    );
}

use super::{MAX_MODELS, read};

/// What is said about a file with one model of these keys.
fn told(keys: &str) -> Vec<String> {
    let text = format!("version: 1\nmodels:\n  - {{{keys}}}\n");
    of(&text)
}

fn of(text: &str) -> Vec<String> {
    match read("p.yaml", text) {
        Ok(_) => Vec::new(),
        Err(found) => found.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn what_is_not_said_follows_from_what_is() {
    let text =
        "version: 1\nmodels:\n  - {models: [GPT-X], input: 2.50, output: 10, cache_write: 3}\n";
    let read = read("p.yaml", text).unwrap();
    let row = &read.models[0];
    assert_eq!(row.models, ["gpt-x"]);
    let parts = row.rate.parts;
    assert_eq!(parts.input.0, 2_500_000);
    assert_eq!(parts.cache_read, parts.input);
    assert_eq!(parts.cache_write.0, 3_000_000);
    assert_eq!(parts.cache_write_long, parts.cache_write);
    assert_eq!(parts.audio_output, parts.output);
}

#[test]
fn json_is_read_too() {
    let text =
        r#"{"version": 1, "models": [{"models": ["a"], "input": 0.000001, "output": 1e-1}]}"#;
    let read = read("p.json", text).unwrap();
    assert_eq!(read.models[0].rate.parts.input.0, 1);
    assert_eq!(read.models[0].rate.parts.output.0, 100_000);
}

#[test]
fn every_fault_has_its_place_and_what_to_do() {
    let price = "write US dollars for a million tokens, from 0 to 10000, with at most six decimal places: 2.50";
    let factor = "write what a price is multiplied by, above 0 and at most 20: 0.5";
    for (keys, expected) in [
        ("models: [a], input: 1, output: 1", String::new()),
        (
            "models: [a], input: -1, output: 1",
            format!("p.yaml:3:26: error: `-1` is no price that a million tokens can have\n  hint: {price}"),
        ),
        (
            "models: [a], input: 10000.000001, output: 1",
            format!("p.yaml:3:26: error: `10000.000001` is no price that a million tokens can have\n  hint: {price}"),
        ),
        (
            "models: [a], input: .nan, output: 1",
            format!("p.yaml:3:26: error: `.nan` is no price that a million tokens can have\n  hint: {price}"),
        ),
        (
            "models: [a], input: 0.0000001, output: 1",
            format!("p.yaml:3:26: error: `0.0000001` is no price that a million tokens can have\n  hint: {price}"),
        ),
        (
            "models: [a], input: 1, output: 1, batch: 0",
            format!("p.yaml:3:47: error: `batch` cannot be `0`\n  hint: {factor}"),
        ),
        (
            "models: [a], input: 1, output: 1, priority: 21",
            format!("p.yaml:3:50: error: `priority` cannot be `21`\n  hint: {factor}"),
        ),
        (
            "models: [a], input: 1, output: 1, context: 0",
            "p.yaml:3:49: error: `context` cannot be 0 tokens\n  hint: write a number from 1 to 100000000, or leave it out".into(),
        ),
        (
            "models: [a], input: 1, output: 1, as_of: yesterday",
            "p.yaml:3:47: error: `yesterday` is no day\n  hint: write it as 2026-11-28".into(),
        ),
        (
            "models: [], input: 1, output: 1",
            "p.yaml:3:14: error: `models` has 0 entries\n  hint: it has 1 to 32".into(),
        ),
        (
            "models: [\" a\"], input: 1, output: 1",
            "p.yaml:3:15: error: ` a` is no name\n  hint: write 1 to 200 bytes without space around them".into(),
        ),
        (
            "models: [\"*\"], input: 1, output: 1",
            "p.yaml:3:5: error: `*` without `providers` would be every model that is not known\n  hint: name the providers whose models all cost this".into(),
        ),
        (
            "models: [a, A], input: 1, output: 1",
            "p.yaml:3:5: error: `a` has a price already for the same provider\n  hint: keep one of them".into(),
        ),
        (
            "models: [a], input: 1, output: 1, long: [{above: 5, input: 1}]",
            "p.yaml:3:47: error: missing key `output`\n  hint: add `output: …` beside the keys that are there".into(),
        ),
        (
            "models: [a], inputs: 1, input: 1, output: 1",
            "p.yaml:3:19: error: unknown key `inputs`\n  hint: did you mean `input`?".into(),
        ),
    ] {
        let expected: Vec<_> = Some(expected).into_iter().filter(|it| !it.is_empty()).collect();
        assert_eq!(told(keys), expected, "{keys}");
    }
}

#[test]
fn versions_names_and_sizes_are_held_to() {
    let one = of("version: 2\n");
    assert_eq!(
        one,
        ["p.yaml:1:10: error: version 2 is not known\n  hint: write `version: 1`"]
    );
    let two = of("version: 1\nnames: [{name: a, model: b}, {name: A, model: c}]\n");
    assert_eq!(
        two,
        ["p.yaml:2:37: error: `a` is a model or a name already\n  hint: keep one of them"]
    );
    assert!(of("version: 1\n").is_empty());
    let mut many = "version: 1\nmodels:\n".to_owned();
    for n in 0..=MAX_MODELS {
        many.push_str(&format!("- {{models: [m{n}], input: 1, output: 1}}\n"));
    }
    let told = of(&many);
    let expected = "`models` has 8001 entries, and at most 8000 are read";
    assert!(told.len() == 1 && told[0].contains(expected), "{told:?}");
}

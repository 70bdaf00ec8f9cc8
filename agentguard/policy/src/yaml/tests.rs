use std::collections::BTreeMap;

use serde::Deserialize;

use super::{At, MAX_TEXT, parse, parse_all};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a configuration")]
struct Config {
    name: String,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    mode: Mode,
    #[serde(default)]
    places: Vec<At<String>>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    live: bool,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    Observe,
    Enforce,
}

#[test]
fn values_are_read_as_they_are_written() {
    let text = "name: 0123\nport: 443\nmode: enforce\nlive: true\nplaces:\n  - a\n  - &x \"b: c\"\n  - *x\nlabels: {tenant: 1.50, owner: 'null', team: no}\n";
    let config: Config = parse("c.yaml", text).unwrap();
    assert_eq!(config.name, "0123");
    assert_eq!(config.port, Some(443));
    assert_eq!(config.mode, Mode::Enforce);
    assert!(config.live);
    let places: Vec<_> = config
        .places
        .iter()
        .map(|at| (at.value.as_str(), at.place.line, at.place.column))
        .collect();
    assert_eq!(places, [("a", 6, 5), ("b: c", 7, 8), ("b: c", 7, 8)]);
    assert_eq!(config.labels["tenant"], "1.50");
    assert_eq!(config.labels["owner"], "null");
    assert_eq!(config.labels["team"], "no");
}

#[test]
fn every_error_says_where_and_what_to_do() {
    for (text, expected) in [
        (
            "nmae: a\n",
            &["c.yaml:1:1: error: unknown key `nmae`\n  hint: did you mean `name`?"][..],
        ),
        (
            "",
            &[
                "c.yaml:1:1: error: expected a configuration, found nothing\n  hint: say what it is to be, or leave it out",
            ],
        ),
        (
            "{}",
            &[
                "c.yaml:1:1: error: missing key `name`\n  hint: add `name: …` beside the keys that are there",
            ],
        ),
        (
            "name: a\nzzz: 1\n",
            &[
                "c.yaml:2:1: error: unknown key `zzz`\n  hint: the keys here are name, port, mode, places, labels, live",
            ],
        ),
        (
            "name: true\n",
            &[
                "c.yaml:1:7: error: expected text, found `true`\n  hint: put it in quotes if text is meant",
            ],
        ),
        (
            "name: [a]\n",
            &[
                "c.yaml:1:7: error: expected text, found a list\n  hint: write one text, without `-`, `[]` and keys",
            ],
        ),
        (
            "name: a\nport: 70000\n",
            &[
                "c.yaml:2:7: error: expected a whole number from 0 to 65535, found `70000`\n  hint: choose one that is in this range",
            ],
        ),
        // A number is named as it is written.
        (
            "name: a\nport: 99999999999999999999\n",
            &[
                "c.yaml:2:7: error: expected a whole number from 0 to 65535, found `99999999999999999999`\n  hint: choose one that is in this range",
            ],
        ),
        (
            "name: a\nport: 1.0\n",
            &[
                "c.yaml:2:7: error: expected a whole number from 0 to 65535, found `1.0`\n  hint: write its digits, without quotes and point",
            ],
        ),
        (
            "name: a\nlive: 0x1f\n",
            &[
                "c.yaml:2:7: error: expected true or false, found `0x1f`\n  hint: write `true` or `false`, without quotes",
            ],
        ),
        (
            "name: a\nplaces: one\n",
            &[
                "c.yaml:2:9: error: expected a list, found the text `one`\n  hint: write a list: [one]",
            ],
        ),
        (
            "name: a\nmode: Enforce\n",
            &["c.yaml:2:7: error: unknown value `Enforce`\n  hint: did you mean `enforce`?"],
        ),
        (
            "name: a\nname: b\n",
            &["c.yaml:2:1: error: duplicate key `name`\n  hint: it stands in line 1 already"],
        ),
        (
            "name: a\nlive: yes\nport: x\n",
            &[
                "c.yaml:2:7: error: expected true or false, found the text `yes`\n  hint: write `true` or `false`, without quotes",
                "c.yaml:3:7: error: expected a whole number from 0 to 65535, found the text `x`\n  hint: write its digits, without quotes and point",
            ],
        ),
        (
            "name: a\n---\nname: b\n",
            &[
                "c.yaml:2:1: error: a second document in one file; only one is read\n  hint: take the `---` out, or put what follows into a file of its own",
            ],
        ),
        (
            "name: !x a\n",
            &[
                "c.yaml:1:7: error: tags (`!…`) are not used here\n  hint: leave the tag out: the key says what its value is; a text that begins with `!` goes into quotes",
            ],
        ),
        (
            "? [a]\n: b\n",
            &[
                "c.yaml:1:3: error: a key must be text\n  hint: write one word before the colon: `key: value`",
            ],
        ),
    ] {
        let found: Vec<_> = parse_all::<Config>("c.yaml", text)
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn text_that_is_no_yaml_is_refused_with_its_place() {
    let found = parse::<Config>("c.yaml", "name: a\nport: [1\n").unwrap_err();
    assert!(found.message.starts_with("not valid YAML: "), "{found}");
    assert!(found.line >= 2, "{found}");
}

#[test]
fn a_tag_is_told_where_it_stands() {
    for (text, line, column) in [
        ("name: !!str a\n", 1, 7),
        ("name: &x !foo a\n", 1, 10),
        ("name: !foo &x a\n", 1, 7),
        ("name: !foo\n", 1, 7),
        ("labels: !foo\n\n  a: b\n", 1, 9),
        ("places: [a, !x b]\n", 1, 13),
        ("places: !<tag:x> [a]\n", 1, 9),
        ("é: !x\n  - a\n", 1, 4),
    ] {
        let all = parse_all::<Config>("c.yaml", text).unwrap_err();
        let mut tags = all.iter().filter(|it| it.message.starts_with("tags "));
        let found = tags.next().unwrap_or_else(|| panic!("{all}\nin {text}"));
        assert_eq!((found.line, found.column), (line, column), "{text}");
    }
    // What else is wrong is told as well.
    let text = "name: !!str a\nport: x\nplaces: !y [a]\n";
    let all = parse_all::<Config>("c.yaml", text).unwrap_err();
    let lines: Vec<_> = all.iter().map(|it| it.line).collect();
    assert_eq!(lines, [1, 2, 3], "{all}");
}

#[test]
fn what_is_too_long_or_too_deep_for_yaml_is_told_as_that() {
    let long = "k".repeat(200_000);
    for (text, told) in [
        (
            format!("name: a\nlabels:\n  {long}: b\n"),
            "c.yaml:3:3: error: a key is longer than 1024 characters\n  hint: no key is as long: see whether this is a value, or a quote is left over",
        ),
        (
            format!("name: a\nplaces: {}", "[".repeat(100_000)),
            "c.yaml:2:264: error: nested deeper than 64 levels\n  hint: see whether a bracket or an indent is left over: no document is as deep",
        ),
    ] {
        let found = parse::<Config>("c.yaml", &text).unwrap_err();
        assert_eq!(found.to_string(), told);
    }
}

#[test]
fn hostile_texts_cost_little() {
    let refused = |text: &str, message: &str| {
        let found = parse::<Config>("c.yaml", text).unwrap_err();
        assert!(found.message.contains(message), "{found}");
    };
    refused(&" ".repeat(MAX_TEXT + 1), "the limit is");
    refused(
        &format!("{}{}", "[".repeat(100), "]".repeat(100)),
        "nested deeper",
    );
    refused(&"- ".repeat(100), "nested deeper");
    let mut bomb = "name: a\nlabels:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..9 {
        let line: Vec<_> = std::iter::repeat_n(format!("*a{}", n - 1), 10).collect();
        bomb.push_str(&format!("  a{n}: &a{n} [{}]\n", line.join(", ")));
    }
    refused(&bomb, "more than 300000 values");
    refused("name: &a [*a]\n", "alias");
    let long = "x".repeat(500_000);
    refused(
        &format!("name: &a {long}\nplaces: [{}*a]\n", "*a , ".repeat(99)),
        "more than 16777216 bytes in what aliases stand for",
    );
    let keys: String = (0..1100).map(|n| format!("  k{n}: v\n")).collect();
    refused(&format!("name: a\nlabels:\n{keys}"), "more than 1000 keys");
    let many: String = (0..500).map(|n| format!("k{n}: v\n")).collect();
    let found = parse_all::<Config>("c.yaml", &many).unwrap_err();
    assert!(found.iter().count() <= super::MAX_DIAGNOSTICS * 2);
}

#[test]
fn a_list_does_not_stand_for_keys_and_values() {
    let found = parse::<Config>("c.yaml", "[a, 1]\n").unwrap_err();
    assert!(
        found.message.contains("list") || found.message.contains("sequence"),
        "{found}"
    );
    assert_eq!((found.line, found.column), (1, 1));
}

//! The example policies in `docs/policies`, through the validator and the engine that operators use: each compiles, and
//! does what the tests beside it say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::world::agentguard;

/// What a policy says that it is warned of, one a line; without it there is nothing.
const WARNS: &str = "# warns: ";
/// What begins the rules that wait for a part of the guard which is not there yet, up to the end of the file.
const LATER: &str = "# Later: ";

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policies")
}

/// The names of the policies, without `.yaml`, each with its text.
fn policies() -> BTreeMap<String, String> {
    let files = std::fs::read_dir(directory()).unwrap();
    let policies: BTreeMap<_, _> = files
        .filter_map(|file| {
            let path = file.unwrap().path();
            let name = path.file_name()?.to_str()?.strip_suffix(".yaml")?;
            let policy = !name.ends_with(".test");
            policy.then(|| (name.to_owned(), std::fs::read_to_string(&path).unwrap()))
        })
        .collect();
    assert!(policies.len() >= 10, "{:?}", policies.keys());
    policies
}

fn path(name: &str, ending: &str) -> String {
    let path = directory().join(format!("{name}{ending}"));
    path.to_str().unwrap().to_owned()
}

#[test]
fn each_example_policy_compiles_with_the_warnings_that_it_names() {
    for (name, text) in policies() {
        let said = agentguard(["policy", "check", &path(&name, ".yaml")]).run();
        assert_eq!(said.code, 0, "{name}: {}", said.stderr);
        let told = said.stderr.lines().filter_map(|line| {
            let (_, warning) = line.split_once(": warning: ")?;
            Some(warning)
        });
        let named: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix(WARNS))
            .collect();
        assert_eq!(told.collect::<Vec<_>>(), named, "{name}: {}", said.stderr);
        if named.is_empty() {
            assert_eq!(said.stderr, "", "{name}");
        }
    }
}

#[test]
fn each_example_policy_does_what_its_tests_say() {
    let mut wrong = Vec::new();
    for (name, text) in policies() {
        let tests = path(&name, ".test.yaml");
        if !Path::new(&tests).is_file() {
            wrong.push(format!(
                "{name} has no tests: {name}.test.yaml is not there"
            ));
            continue;
        }
        let said = agentguard(["policy", "test", &tests]).run();
        if said.code != 0 {
            wrong.push(format!("{}{}", said.stdout, said.stderr));
            continue;
        }
        let said = agentguard(["policy", "test", &tests, "-o", "json"]).run();
        let told: Value = serde_json::from_str(&said.stdout).unwrap();
        let results = told["results"].as_array().unwrap();
        let deciding: BTreeSet<_> = results
            .iter()
            .filter_map(|result| result["got"]["rule"].as_str())
            .collect();
        let untested = rules(&text).filter(|rule| !deciding.contains(rule));
        wrong.extend(untested.map(|rule| format!("{name}: rule {rule} decides no test")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The ids of a policy's rules, as this house writes them.
fn rules(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("  - id: "))
}

#[test]
fn tests_without_a_policy_are_found() {
    let policies = policies();
    for file in std::fs::read_dir(directory()).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        if let Some(of) = name.strip_suffix(".test.yaml") {
            assert!(policies.contains_key(of), "{name} is about no policy");
        }
    }
}

/// What cannot be run yet is named: in the file, in the table of `README.md`, and in this test's output.
#[test]
fn what_waits_for_a_later_part_is_in_the_table() {
    let page = std::fs::read_to_string(directory().join("README.md")).unwrap();
    let (examples, waiting) = page.split_once("\n## What waits").unwrap();
    let rows = |text: &str| -> Vec<Vec<String>> {
        let cells = |row: &str| row.split('|').map(|cell| cell.trim().to_owned()).collect();
        text.lines()
            .filter(|line| line.starts_with("| ") && !line.starts_with("| ---"))
            .skip(1)
            .map(cells)
            .collect()
    };
    let mut told: BTreeSet<(String, String)> = BTreeSet::new();
    for row in rows(waiting) {
        for rule in row[2].split(", ") {
            told.insert((row[1].clone(), rule.trim_matches('`').to_owned()));
            println!("skipped: {} {rule} waits for {}", row[1], row[3]);
        }
    }
    let mut written: BTreeSet<(String, String)> = BTreeSet::new();
    let mut listed: Vec<String> = Vec::new();
    for (name, text) in policies() {
        let at = text.find(LATER).unwrap_or(text.len());
        let later = text.split_at(at).1;
        for line in later.lines() {
            assert!(line.is_empty() || line.starts_with('#'), "{name}: {line}");
            let rule = line.trim_start_matches(['#', ' ']).strip_prefix("- id: ");
            written.extend(rule.map(|rule| (name.clone(), rule.to_owned())));
        }
        listed.push(format!("[{name}]({name}.yaml)"));
    }
    assert_eq!(told, written);
    let mut in_table: Vec<String> = rows(examples)
        .into_iter()
        .map(|row| row[1].clone())
        .collect();
    in_table.sort();
    assert_eq!(in_table, listed);
}

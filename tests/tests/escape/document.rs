//! The tables of `docs/threat-model.md` say what the suite expects, and name tests that there are.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use agentguard_tests::kernel::{KERNELS, lacks};

use crate::ways::{Adopted, OTHERS, Run, WAYS, Way};

/// Suites that run on each of [`KERNELS`] (`xtask/src/vm/suites.rs`).
const EVERYWHERE: [&str; 3] = [
    "agentguard/keeper/tests/gate/",
    "agentguard/keeper/tests/run/",
    "tests/tests/escape/",
];

/// Tests that need a kernel, and run on that of the machine alone.
const HERE: [&str; 2] = ["tests/tests/", "agentguard/keeper/tests/gate/full.rs"];

/// The workspace, if its sources are here.
fn sources() -> Option<PathBuf> {
    let workspace = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    if workspace.join("docs/threat-model.md").is_file() {
        return Some(workspace.to_owned());
    }
    // Where the suite runs on another kernel.
    let elsewhere = std::env::var_os("AGENTGUARD_ESCAPES").is_some();
    assert!(elsewhere, "no documentation in {}", workspace.display());
    None
}

/// The rows of every table below this heading, each as its cells.
fn rows(workspace: &Path, heading: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(workspace.join("docs/threat-model.md")).unwrap();
    let section = text.split("\n## ").find(|it| it.starts_with(heading));
    let lines = section.unwrap().lines();
    let tables = lines.filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let cells = |row: &str| row.split('|').map(|cell| cell.trim().to_owned()).collect();
    let rows: Vec<Vec<String>> = tables.map(cells).collect();
    // The head and the line below it.
    rows[2..].to_vec()
}

/// Every function without arguments in a test, with the file that it is in.
fn tests(workspace: &Path) -> BTreeMap<String, String> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                walk(&path, found);
            } else if path.extension().is_some_and(|it| it == "rs") {
                found.push(path);
            }
        }
    }
    let mut files = Vec::new();
    walk(&workspace.join("agentguard"), &mut files);
    walk(&workspace.join("tests"), &mut files);
    let mut tests = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let place = file.strip_prefix(workspace).unwrap().display().to_string();
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            let Some(name) = line
                .strip_prefix("async ")
                .unwrap_or(line)
                .strip_prefix("fn ")
            else {
                continue;
            };
            if let Some((name, _)) = name.split_once("()").filter(|_| is_test) {
                tests.insert(name.to_owned(), place.clone());
            }
            is_test = false;
        }
    }
    tests
}

/// The names in backquotes of a cell.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// On which kernels a way was seen: those that have the part of theirs that it needs.
fn kernels(way: &Way) -> String {
    let has = |kernel: &&&str| way.part.is_none_or(|part| lacks(kernel, part).is_none());
    let kernels: Vec<&str> = KERNELS.iter().filter(has).copied().collect();
    match kernels.len() == KERNELS.len() {
        true => "all".to_owned(),
        false => kernels.join(", "),
    }
}

/// A row for each way, no other, and in it what the suite expects of the way.
#[test]
fn the_threat_model_says_of_every_way_what_is_tested() {
    let Some(workspace) = sources() else {
        return;
    };
    let tests = tests(&workspace);
    let mut rows = rows(&workspace, "Ways out");
    let mut wrong = Vec::new();
    for way in WAYS.iter().chain(OTHERS) {
        let run = match way.run {
            Run::Closed => "closed",
            Run::Lsm => "LSM",
            Run::Scoped => "closed from 6.12 on, or with LSM",
            Run::NotTried => "",
        };
        let adopted = match way.adopted {
            Adopted::Closed => "closed",
            Adopted::Lsm => "LSM",
            Adopted::Open => "**open**",
            Adopted::NotTried => "",
        };
        let name = format!("`{}`", way.name);
        let kernels = kernels(way);
        let Some(at) = rows.iter().position(|row| row[0] == name) else {
            wrong.push(format!("without a row: {name}"));
            continue;
        };
        let row = rows.remove(at);
        if row.len() != 7 || [run, adopted, &kernels] != [&row[2], &row[3], &row[4]] {
            wrong.push(format!(
                "{name}: {run} | {adopted} | {kernels} is tested, not {row:?}"
            ));
            continue;
        }
        let named = quoted(&row[6]);
        let here = |test: &&str| tests.get(*test).is_some_and(|it| it.contains("/escape/"));
        if named.is_empty() || !named.iter().all(here) {
            wrong.push(format!("{name}: {} is no test of the suite", row[6]));
        }
        // What is tried in one go with the others says so, and what is not says which test it is.
        let together = WAYS.iter().any(|it| it.name == way.name);
        if together != named.contains(&"no_way_leads_out") {
            wrong.push(format!("{name} is tried by another test than {}", row[6]));
        }
    }
    wrong.extend(rows.iter().map(|row| format!("not tried: {}", row[0])));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is tested elsewhere names its tests, and on which kernels they run.
#[test]
fn the_threat_model_names_the_tests_of_what_is_tried_elsewhere() {
    let Some(workspace) = sources() else {
        return;
    };
    let tests = tests(&workspace);
    let mut wrong = Vec::new();
    for row in rows(&workspace, "Tested elsewhere") {
        let (what, kernels) = (&row[0], row[2].as_str());
        let named = quoted(row.last().unwrap());
        if row.len() != 4 || named.is_empty() {
            wrong.push(format!("{what} names no test"));
        }
        for test in named {
            let Some(file) = tests.get(test) else {
                wrong.push(format!("{what}: there is no test {test}"));
                continue;
            };
            let is_in = |places: &[&str]| places.iter().any(|place| file.starts_with(place));
            let runs = if test.starts_with("limits_hold_") {
                // Here most controllers belong to v1 of cgroups: it runs in the machines alone.
                "6.1, 6.12"
            } else if is_in(&HERE) && !file.contains("/escape/") {
                "6.18"
            } else if is_in(&EVERYWHERE) {
                "all"
            } else {
                "any"
            };
            if runs != kernels {
                wrong.push(format!("{what}: {test} runs on {runs}, not on {kernels}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

//! `agentguard policy test`

use std::path::{Path, PathBuf};

use agentguard_model::Verdict;
use agentguard_policy::table::{Expectation, Expected, Got, Near, TestResult, WrittenTable};
use serde::Serialize;

use super::show::handling;
use super::{closed, unusable};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, counted, printable};
use crate::config::text::{self, Written};
use crate::config::{ConfigError, sources};

/// What became of a file of tests.
#[derive(Serialize)]
struct Tested {
    file: String,
    policy: String,
    version: String,
    tests: usize,
    passed: usize,
    failed: usize,
    results: Vec<TestResult>,
}

/// Errors of the file and of its policy are usage errors; a test that fails is a refusal.
pub(super) fn test(file: &Path, policy: Option<&Path>, out: &mut Output) -> Result<(), Failure> {
    let path = file.display().to_string();
    let text = text::read(Written::Tests, file)?;
    let written = WrittenTable::parse(&path, &text).map_err(|found| unusable(&path, &found))?;
    let of = policy_file(file, policy, &written)?;
    let named = policy.is_none() && written.policy().is_some();
    let sources = match sources::read(&of, |_| Ok(())) {
        Ok(sources) => sources,
        // It has its place in the file, as all else that is wrong there.
        Err(error @ ConfigError::Unreadable { .. }) if named => {
            let found = written.without_policy(&sources::unreadable(error));
            return Err(unusable(&path, &found));
        }
        Err(error) => return Err(Failure::of_file(&error, true)),
    };
    let shown = of.display().to_string();
    let policy = sources
        .compile()
        .map_err(|found| unusable(&shown, &found))?;
    let table = written
        .check(&policy)
        .map_err(|found| unusable(&path, &found))?;
    let results = table.run(&policy, closed);
    let passed = results.iter().filter(|result| result.passed).count();
    let tested = Tested {
        file: path,
        policy: of.display().to_string(),
        version: policy.version().to_owned(),
        tests: results.len(),
        passed,
        failed: results.len() - passed,
        results,
    };
    out.value(&tested, || words(&tested))?;
    if tested.failed == 0 {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "{} of {} failed",
        tested.failed,
        counted(tested.tests, "test")
    )))
}

/// Which policy a file of tests is about.
fn policy_file(
    file: &Path,
    named: Option<&Path>,
    written: &WrittenTable,
) -> Result<PathBuf, Failure> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    if let Some(named) = written.policy() {
        return Ok(file.with_file_name("").join(named));
    }
    let name = file.file_name().and_then(|name| name.to_str());
    let beside = name.and_then(|name| {
        [".yaml", ".yml"].iter().find_map(|ending| {
            let stem = name.strip_suffix(ending)?.strip_suffix(".test")?;
            Some(format!("{stem}{ending}"))
        })
    });
    match beside {
        Some(beside) => Ok(file.with_file_name(beside)),
        None => Err(Failure::usage(format!(
            "{} does not say which policy it is about",
            file.display()
        ))
        .hint("write `policy: FILE` into it, name it NAME.test.yaml beside NAME.yaml, or give --policy")),
    }
}

fn words(tested: &Tested) -> String {
    let mut text = String::new();
    for result in tested.results.iter().filter(|result| !result.passed) {
        text.push_str(&failed(&tested.file, result));
        text.push('\n');
    }
    text.push_str(&format!(
        "{}, {} passed",
        counted(tested.tests, "test"),
        tested.passed
    ));
    text
}

/// A test that failed, on several lines.
fn failed(file: &str, result: &TestResult) -> String {
    let mut text = format!(
        "FAILED {}:{}: {}\n  expected  {}\n  got       {}\n            {}\n",
        printable(file),
        result.line,
        printable(&result.name),
        printable(&expected(&result.expected)),
        printable(&got(&result.got)),
        printable(&result.got.reason.message),
    );
    if result.got.unopened {
        text.push_str(
            "            The request is sent inside TLS, and no rule that allows it says `handling: inspect`: rules do not see it.\n",
        );
    }
    for (n, near) in result.near.iter().enumerate() {
        let title = if n == 0 { "nearest" } else { "" };
        text.push_str(&format!("  {title:<9} {}\n", printable(&nearest(near))));
    }
    text
}

fn expected(expected: &Expectation) -> String {
    let mut parts = Vec::new();
    parts.extend(
        expected
            .verdict
            .map(|verdict| verdict_word(verdict).to_owned()),
    );
    parts.extend(
        expected
            .enforced
            .map(|enforced| enforced_words(enforced).to_owned()),
    );
    parts.extend(
        expected
            .handling
            .map(|it| format!("handling {}", handling(it))),
    );
    parts.extend(expected.rule.as_ref().map(|rule| format!("by rule {rule}")));
    parts.extend(expected.reason.map(|code| format!("reason {code}")));
    parts.join(", ")
}

fn got(got: &Got) -> String {
    let mut parts = vec![
        verdict_word(got.verdict).to_owned(),
        enforced_words(got.enforced).to_owned(),
    ];
    parts.extend(got.handling.map(|it| format!("handling {}", handling(it))));
    if let (Some(rule), Some(source)) = (&got.rule, &got.source) {
        parts.push(format!("by rule {rule} ({}:{})", source.file, source.line));
    }
    parts.push(format!("reason {}", got.reason.code));
    parts.join(", ")
}

fn nearest(near: &Near) -> String {
    let action = match near.action {
        Verdict::Allow => "allows",
        Verdict::Modify => "modifies",
        _ => "denies",
    };
    let why = match near.failed.as_slice() {
        [] if near.needs_request => "matches if the request does, which is not seen".to_owned(),
        [] if near.overruled => "matches, and one of a higher rank decides".to_owned(),
        [] => "matches".to_owned(),
        failed => format!("but for its {}", failed.join(", ")),
    };
    format!(
        "{} ({}:{}) {action}: {why}",
        near.rule, near.source.file, near.source.line
    )
}

const fn verdict_word(verdict: Expected) -> &'static str {
    match verdict {
        Expected::Allow => "allow",
        Expected::Modify => "modify",
        Expected::Deny => "deny",
        Expected::NeedsRequest => "needs_request",
    }
}

const fn enforced_words(enforced: bool) -> &'static str {
    if enforced { "enforced" } else { "not enforced" }
}

//! The benches' worlds: each measures to its end, and says all that a report is made of. What it says is of a program
//! that is not optimised, once, and is looked at no further.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where it cannot go on, helpers included"
)]

use std::collections::BTreeSet;
use std::process::Command;

use agentguard_tests::client;
use serde_json::Value;

/// What was measured of whom, in one turn beside HAProxy.
fn measured(words: &[&str]) -> BTreeSet<(String, String)> {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_world"));
    let ran = bench.args(words).output().unwrap();
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{words:?}: {}: {errors}", ran.status);
    let samples = String::from_utf8(ran.stdout).unwrap();
    let samples = samples.lines().map(|line| {
        let sample: Value = serde_json::from_str(line).unwrap();
        let value = sample["value"].as_f64().unwrap();
        assert!(value.is_finite(), "{line}");
        ["subject", "metric"].map(|it| sample[it].as_str().unwrap().to_owned())
    });
    samples.map(|[subject, metric]| (subject, metric)).collect()
}

#[test]
fn requests_are_measured_through_the_guard_and_beside_it() {
    for program in ["haproxy", "nginx", "h2load"] {
        if client::find(program).unwrap().is_none() {
            return;
        }
    }
    let turn = ["bench-proxy", "--rounds", "1", "--peers", "haproxy"];
    let measured = measured(&[&turn[..], &["inspect-h1-c1"]].concat());
    for subject in ["agentguard", "haproxy"] {
        for metric in ["cpu_per_request", "latency_p99_added", "requests_per_s"] {
            let figure = (subject.to_owned(), metric.to_owned());
            assert!(measured.contains(&figure), "no {figure:?} in {measured:?}");
        }
    }
    let directly = ("unguarded".to_owned(), "requests_per_s".to_owned());
    assert!(measured.contains(&directly), "{measured:?}");
}

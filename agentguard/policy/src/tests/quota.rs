//! Quotas of agents.

use agentguard_model::{ConnectionRate, Quota, QuotaWindow};

use super::refusals::refused;
use super::{agent, policy};

/// A policy whose agent has this quota, from line 4 and column 12 on.
fn document(quota: &str) -> String {
    format!("version: 1\nagents:\n  - name: coder\n    quota: {quota}\n")
}

fn read(quota: &str) -> Option<Quota> {
    agent(&policy(&document(quota)), "coder").quota
}

const NONE: Quota = Quota {
    bytes_out: None,
    bytes_in: None,
    every: QuotaWindow::Lifetime,
    connections: None,
};

#[test]
fn quotas_are_read_as_they_are_written() {
    let rate = |per_second, burst| {
        let rate = ConnectionRate { per_second, burst };
        Some(rate)
    };
    for (text, quota) in [
        (
            "{bytes_out: 1 GiB, bytes_in: 20GiB, every: day, connections: {per_second: 5, burst: 50}}",
            Quota {
                bytes_out: Some(1 << 30),
                bytes_in: Some(20 << 30),
                every: QuotaWindow::Day,
                connections: rate(5, 50),
            },
        ),
        (
            "{bytes_out: 65536, every: minute}",
            Quota {
                bytes_out: Some(65536),
                every: QuotaWindow::Minute,
                ..NONE
            },
        ),
        (
            "{bytes_in: 1048576GiB, every: lifetime}",
            Quota {
                bytes_in: Some(1 << 50),
                ..NONE
            },
        ),
        (
            "{connections: {per_second: 7}}",
            Quota {
                connections: rate(7, 7),
                ..NONE
            },
        ),
        (
            "{connections: {per_second: 1000000, burst: 1}}",
            Quota {
                connections: rate(1_000_000, 1),
                ..NONE
            },
        ),
    ] {
        assert_eq!(read(text), Some(quota), "{text}");
    }
    let without = policy("version: 1\nagents: [{name: coder}]\n");
    assert_eq!(agent(&without, "coder").quota, None);
}

#[test]
fn what_limits_nothing_or_cannot_be_meant_is_refused() {
    for (text, expected) in [
        (
            "{}",
            vec![
                "p.yaml:4:12: error: `quota` limits nothing\n  hint: `bytes_out` or `bytes_in` with `every`, or `connections`; leave `quota` out for no limits",
            ],
        ),
        (
            "{bytes_out: 1GiB}",
            vec![
                "p.yaml:4:12: error: `quota` does not say for how long bytes count\n  hint: as `every: day`, or `every: lifetime`",
            ],
        ),
        (
            "{every: day, connections: {per_second: 1}}",
            vec![
                "p.yaml:4:20: error: `every` is for `bytes_out` and `bytes_in`, and there is neither\n  hint: connections have a rate, `per_second`: leave `every` out",
            ],
        ),
        (
            "{bytes_out: 1GB, bytes_in: -5, every: day}",
            vec![
                "p.yaml:4:24: error: `bytes_out: 1GB` is not a number of bytes\n  hint: like 65536, `64KiB` or `10MiB`",
                "p.yaml:4:39: error: `bytes_in: -5` is not a number of bytes\n  hint: like 65536, `64KiB` or `10MiB`",
            ],
        ),
        (
            "{bytes_out: 0, bytes_in: 63KiB, every: day}",
            vec![
                "p.yaml:4:24: error: `bytes_out: 0` is less than 64KiB, which serves no connection\n  hint: a rule with `action: deny` keeps an agent off, and `agentguard agent quarantine` cuts it off",
                "p.yaml:4:37: error: `bytes_in: 63KiB` is less than 64KiB, which serves no connection\n  hint: a rule with `action: deny` keeps an agent off, and `agentguard agent quarantine` cuts it off",
            ],
        ),
        (
            "{bytes_out: 1048577GiB, every: day}",
            vec![
                "p.yaml:4:24: error: `bytes_out: 1048577GiB` is more than 1048576GiB, the most that is counted\n  hint: leave it out for no limit",
            ],
        ),
        (
            "{bytes_out: 99999999999999999999, every: day}",
            vec![
                "p.yaml:4:24: error: `bytes_out: 99999999999999999999` is not a number of bytes\n  hint: like 65536, `64KiB` or `10MiB`",
            ],
        ),
        (
            "{bytes_out: 1GiB, every: dya}",
            vec![
                "p.yaml:4:37: error: unknown value `dya`\n  hint: it can be minute, hour, day, week, month, lifetime",
            ],
        ),
        (
            "{connections: {per_second: 0, burst: 1000001}}",
            vec![
                "p.yaml:4:39: error: `per_second: 0` is not a number from 1 to 1000000\n  hint: leave `connections` out for no limit; a rule with `action: deny` refuses all",
            ],
        ),
        (
            "{connections: {per_second: 1, burst: 1000001}}",
            vec![
                "p.yaml:4:49: error: `burst: 1000001` is not a number from 1 to 1000000\n  hint: leave `connections` out for no limit; a rule with `action: deny` refuses all",
            ],
        ),
        (
            "{connections: {burst: 3}}",
            vec![
                "p.yaml:4:26: error: missing key `per_second`\n  hint: add `per_second: …` beside the keys that are there",
            ],
        ),
        (
            "{bytes_ou: 1GiB, every: day}",
            vec!["p.yaml:4:13: error: unknown key `bytes_ou`\n  hint: did you mean `bytes_out`?"],
        ),
    ] {
        assert_eq!(refused(&document(text)), expected, "{text}");
    }
    for (text, at) in [
        ("{connections: {per_second: -1}}", "p.yaml:4:39: error: "),
        ("{connections: {per_second: 1.5}}", "p.yaml:4:39: error: "),
        ("{connections: 5}", "p.yaml:4:26: error: "),
        ("5", "p.yaml:4:12: error: "),
    ] {
        let found = refused(&document(text));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with(at) && found[0].contains("hint: "),
            "{found:?}"
        );
    }
}

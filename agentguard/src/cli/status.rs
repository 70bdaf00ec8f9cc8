//! `agentguard status`

use agentguard_control::api::{LeafStatus, LedgerStatus, Listener, Phase, Status, TelemetryStatus};
use agentguard_record::Notice;
use jiff::{Timestamp, Unit};

use super::Global;
use super::agent::{mode, quarantined};
use super::failure::Failure;
use super::output::{Output, counted, printable};
use super::policy::switch;
use super::verdicts::{gap_words, moment};

pub(super) fn main(global: &Global, out: &mut Output) -> Result<(), Failure> {
    let status = global.ask(async |mut client| Ok(client.status().await?))?;
    Ok(out.value(&status, || story(&status, Timestamp::now()))?)
}

fn story(status: &Status, now: Timestamp) -> String {
    let guard = &status.guard;
    let mut lines = vec![
        entry(
            "guard",
            &format!(
                "{}, version {}, up {} (since {})",
                phase(guard.phase),
                guard.version,
                span(guard.started, now),
                moment(guard.started)
            ),
        ),
        entry(
            "processes",
            &format!("keeper {}, worker {}", guard.keeper_pid, guard.worker_pid),
        ),
        entry("gate", &gate(status)),
        entry(
            "policy",
            &format!(
                "version {} from {}, in force since {}",
                guard.policy.version,
                guard.policy.files.join(", "),
                moment(guard.policy.loaded)
            ),
        ),
    ];
    if let Some(refused) = &guard.policy.refused {
        lines.push(entry(
            "",
            "a newer policy was not taken, and this one stayed in force:",
        ));
        lines.extend(refused.lines().map(|line| entry("", &format!("  {line}"))));
    }
    if let Some(file) = &guard.prices.file {
        let models = counted(guard.prices.models, "model");
        let built_in = guard.prices.built_in.as_deref().unwrap_or("no day");
        let line = format!("{models} from {file}, before those built in, of {built_in}");
        lines.push(entry("prices", &line));
    }
    lines.extend(ledger(&guard.ledger));
    let switches = guard.switches.iter().filter(|it| !it.is_as_declared());
    lines.extend(switches.map(|it| entry("switch", &switch::story(it))));
    if status.partial {
        lines.extend(degraded("record", status));
    } else {
        lines.extend(record(status));
    }
    if guard.leaves != LeafStatus::default() {
        lines.push(entry("leaves", &leaves(guard.leaves)));
    }
    if let Some(telemetry) = &guard.telemetry {
        lines.extend(self::telemetry(telemetry));
    }
    lines.extend(
        guard
            .listeners
            .iter()
            .map(|l| entry("listeners", &listener(l))),
    );
    for agent in &status.agents {
        lines.push(entry(
            "agent",
            &format!(
                "{} {}, {}, {}",
                agent.name,
                if agent.undeclared {
                    "without a policy, so that it gets nothing".to_owned()
                } else {
                    format!("in mode {}", mode(agent.mode))
                },
                counted(agent.cgroups.len(), "cgroup"),
                counted(agent.runs, "run")
            ),
        ));
        if let Some(quarantine) = &agent.quarantine {
            lines.push(entry("", &quarantined(quarantine)));
        }
        lines.extend(agent.warnings.iter().map(|what| entry("", what)));
    }
    if status.partial {
        lines.push(entry(
            "",
            "other agents, the record's figures and the rest are for root and whoever may read everything",
        ));
    }
    lines.extend(guard.degraded.iter().map(|what| entry("degraded", what)));
    lines.push(String::new());
    lines.push(if status.healthy() {
        "the daemon works as it should; for the host see `agentguard doctor`".into()
    } else {
        "not everything of the daemon works as it should".into()
    });
    lines.join("\n")
}

fn gate(status: &Status) -> String {
    let gate = &status.guard.gate;
    let programs = gate.programs.len();
    if status.partial {
        format!("{}; kernel {}", counted(programs, "program"), gate.kernel)
    } else if gate.attached.is_empty() {
        format!(
            "attached to nothing, so nothing is governed; kernel {}",
            gate.kernel
        )
    } else {
        let more = match gate.attached_more {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!(
            "{} attached to {}{more}; kernel {}",
            counted(programs, "program"),
            gate.attached.join(", "),
            gate.kernel
        )
    }
}

fn leaves(leaves: LeafStatus) -> String {
    format!(
        "{} signed for inspected connections, {} refused",
        counted(leaves.signed, "certificate"),
        leaves.refused
    )
}

fn telemetry(telemetry: &TelemetryStatus) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(place) = &telemetry.prometheus {
        lines.push(format!("figures for Prometheus at {place}"));
    }
    if let Some(collector) = &telemetry.otlp {
        let requests = counted(telemetry.sent, "request");
        let failed = telemetry.failed;
        lines.push(format!(
            "figures and spans to {collector}: {requests} taken, {failed} not"
        ));
    }
    if let Some(error) = &telemetry.error {
        lines.push(format!("the last request failed: {error}"));
    }
    if telemetry.lost_notes > 0 || telemetry.lost_spans > 0 {
        lines.push(format!(
            "no room for {} decisions and outcomes in the figures, and for {} calls among the spans",
            telemetry.lost_notes, telemetry.lost_spans
        ));
    }
    let labels = std::iter::once("telemetry").chain(std::iter::repeat(""));
    labels
        .zip(&lines)
        .map(|(label, line)| entry(label, line))
        .collect()
}

/// Where budgets are kept, where that is not this host in good order.
fn ledger(ledger: &LedgerStatus) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(redis) = &ledger.redis {
        lines.push(format!(
            "budgets are charged in the Redis at {}, under the prefix {}",
            redis.address, redis.prefix
        ));
        if let Some(since) = redis.away_since {
            let why = redis.away.as_deref().unwrap_or("nobody knows why");
            lines.push(format!(
                "it is away since {}: {why}; {}",
                moment(since),
                redis.on_loss
            ));
        }
        if redis.waiting > 0 || redis.dropped > 0 {
            lines.push(format!(
                "{} wait to be settled there, and of {} it is not told: they are charged in full",
                counted(redis.waiting, "call"),
                redis.dropped
            ));
        }
        if redis.leased > 0 || redis.spent_away > 0 {
            lines.push(format!(
                "of {} something is drawn in advance; {} times it was spent while Redis was away",
                counted(redis.leased, "account"),
                redis.spent_away
            ));
        }
    }
    lines.extend(ledger.problems.iter().cloned());
    let labels = std::iter::once("ledger").chain(std::iter::repeat(""));
    labels
        .zip(&lines)
        .map(|(label, line)| entry(label, line))
        .collect()
}

fn record(status: &Status) -> Vec<String> {
    let record = &status.record;
    let mut lines = vec![entry(
        "record",
        &format!(
            "{} entries in {}, {}; since the start {}, {} refused, {} over quota",
            record.entries,
            counted(record.segments, "segment"),
            counted(record.bytes, "byte"),
            counted(record.gaps, "gap"),
            counted(record.refused, "decision"),
            record.refused_by_quota
        ),
    )];
    lines.extend(degraded("", status));
    for damage in &record.damage {
        lines.push(entry(
            "",
            &format!(
                "damaged at {}:{}: {}",
                damage.file, damage.offset, damage.message
            ),
        ));
    }
    if record.contents_left_out > 0 {
        let left_out = counted(record.contents_left_out, "content");
        let line = format!(
            "since the start {left_out} that rules with `capture_body` keep were not kept: there were too many at once, or the disk refused them, which the log tells"
        );
        lines.push(entry("", &line));
    }
    for notice in &status.notices {
        lines.push(entry(
            "",
            &match notice {
                Notice::Gap(gap) => gap_words(gap),
                Notice::Note(note) => format!("note at {}: {}", moment(note.time), note.message),
            },
        ));
    }
    lines
}

fn degraded(label: &str, status: &Status) -> Option<String> {
    let degraded = status.record.degraded.as_ref()?;
    let words = format!(
        "degraded since {}: {}; what cannot be recorded is denied",
        moment(degraded.since),
        degraded.error
    );
    Some(entry(label, &words))
}

fn listener(listener: &Listener) -> String {
    let list = |addresses: &[std::net::SocketAddr]| {
        let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        shown.join(", ")
    };
    format!(
        "proxy {}, resolver {} in network namespace {}",
        list(&listener.proxy),
        list(&listener.resolver),
        listener.netns
    )
}

fn entry(label: &str, words: &str) -> String {
    format!("{label:<10} {}", printable(words))
        .trim_end()
        .to_owned()
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Ready => "ready",
        Phase::Draining => "stopping",
    }
}

/// Days, hours, minutes and seconds between two times.
fn span(from: Timestamp, to: Timestamp) -> String {
    (to - from)
        .round(
            jiff::SpanRound::new()
                .smallest(Unit::Second)
                .largest(Unit::Day)
                .days_are_24_hours(),
        )
        .map_or_else(|_| "?".into(), |span| format!("{span:#}"))
}

#[cfg(test)]
mod tests {
    use super::{LeafStatus, Status, story};

    fn status() -> Status {
        serde_json::from_value(serde_json::json!({
            "version": "0.1.0", "phase": "ready", "keeper_pid": 10, "worker_pid": 11,
            "started": "2026-01-01T00:00:00Z",
            "gate": {
                "attached": ["/sys/fs/cgroup/agentguard"],
                "programs": [{"name": "connect4", "verified_instructions": 900}, {"name": "connect6"}],
                "kernel": "6.12.0",
            },
            "policy": {
                "version": "0123456789ab", "files": ["/etc/agentguard/policy.yaml"],
                "loaded": "2026-01-01T00:00:01Z",
            },
            "listeners": [{
                "netns": 1, "proxy": ["127.0.0.1:15001", "[::1]:15001"], "resolver": ["127.0.0.1:15053"],
            }],
            "agents": [{"name": "coder", "mode": "enforce", "cgroups": ["/x"], "runs": 1}],
            "record": {
                "entries": 7, "segments": 1, "bytes": 4096, "last_fsync_age_ms": 3, "degraded": null,
                "refused": 0, "refused_by_quota": 0, "gaps": 0, "damage": [], "index_lag": 0,
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_guard_in_good_order() {
        assert_eq!(
            story(&status(), "2026-01-03T04:05:06.7Z".parse().unwrap()),
            "guard      ready, version 0.1.0, up 2d 4h 5m 7s (since 2026-01-01T00:00:00Z)\n\
             processes  keeper 10, worker 11\n\
             gate       2 programs attached to /sys/fs/cgroup/agentguard; kernel 6.12.0\n\
             policy     version 0123456789ab from /etc/agentguard/policy.yaml, in force since 2026-01-01T00:00:01Z\n\
             record     7 entries in 1 segment, 4096 bytes; since the start 0 gaps, 0 decisions refused, 0 over quota\n\
             listeners  proxy 127.0.0.1:15001, [::1]:15001, resolver 127.0.0.1:15053 in network namespace 1\n\
             agent      coder in mode enforce, 1 cgroup, 1 run\n\
             \n\
             the daemon works as it should; for the host see `agentguard doctor`"
        );
    }

    #[test]
    fn who_is_told_a_part_is_told_that_it_is_one() {
        let mut status = status();
        status.partial = true;
        status.guard.gate.attached.clear();
        status.guard.listeners.clear();
        let said = story(&status, "2026-01-01T00:00:10Z".parse().unwrap());
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[2], "gate       2 programs; kernel 6.12.0");
        assert_eq!(
            lines[4],
            "agent      coder in mode enforce, 1 cgroup, 1 run"
        );
        assert!(
            lines[5].contains("are for root and whoever may read everything"),
            "{said}"
        );
        assert!(
            said.ends_with("for the host see `agentguard doctor`"),
            "{said}"
        );
        status.record.degraded = Some(agentguard_record::Degraded {
            since: "2026-01-01T00:00:02Z".parse().unwrap(),
            error: "no space left on device".into(),
        });
        let said = story(&status, "2026-01-01T00:00:10Z".parse().unwrap());
        assert!(said.contains("record     degraded since"), "{said}");
        assert!(
            said.ends_with("not everything of the daemon works as it should"),
            "{said}"
        );
    }

    #[test]
    fn switches_that_are_not_as_declared_are_told_and_no_others() {
        let mut status = status();
        let set = serde_json::json!({"on": true, "since": "2026-01-01T00:00:02Z", "uid": 0});
        status.guard.switches = serde_json::from_value(serde_json::json!([
            {"name": "calm", "on": false, "declared": false},
            {"name": "freeze", "on": true, "declared": false, "set": set},
            {"name": "pinned", "on": true, "declared": true, "set": set},
        ]))
        .unwrap();
        let said = story(&status, "2026-01-01T00:00:10Z".parse().unwrap());
        let told: Vec<&str> = said.lines().filter(|it| it.starts_with("switch")).collect();
        assert_eq!(
            told,
            ["switch     freeze is on, declared off; set on since 2026-01-01T00:00:02Z by uid 0"]
        );
        assert!(status.healthy());
    }

    #[test]
    fn where_figures_go_and_what_is_lost_of_them_is_told() {
        let mut status = status();
        let telemetry = serde_json::json!({
            "prometheus": "127.0.0.1:9464", "otlp": "https://collector.example:4318", "sent": 1, "failed": 2,
            "error": "it hangs", "lost_notes": 3, "lost_spans": 4,
        });
        status.guard.telemetry = serde_json::from_value(telemetry).unwrap();
        let said = story(&status, "2026-01-01T00:00:10Z".parse().unwrap());
        let told = "telemetry  figures for Prometheus at 127.0.0.1:9464\n           \
             figures and spans to https://collector.example:4318: 1 request taken, 2 not\n           \
             the last request failed: it hangs\n           \
             no room for 3 decisions and outcomes in the figures, and for 4 calls among the spans\n";
        assert!(said.contains(told), "{said}");
        assert!(status.healthy());
    }

    #[test]
    fn how_it_is_with_the_ledger_is_told() {
        let mut status = status();
        let redis = serde_json::json!({
            "address": "redis.example:6379", "prefix": "production", "on_loss": "calls are refused meanwhile",
            "waiting": 2, "dropped": 1, "leased": 3, "spent_away": 4,
        });
        status.guard.ledger =
            serde_json::from_value(serde_json::json!({ "redis": redis })).unwrap();
        assert!(status.healthy());
        let redis = status.guard.ledger.redis.as_mut().unwrap();
        redis.away_since = Some("2026-01-01T00:00:05Z".parse().unwrap());
        redis.away = Some("connection refused".to_owned());
        status.guard.ledger.problems = vec!["it makes no checkpoint".to_owned()];
        assert!(!status.healthy());
        let said = story(&status, "2026-01-01T00:00:10Z".parse().unwrap());
        let told = "ledger     budgets are charged in the Redis at redis.example:6379, under the prefix production\n           \
             it is away since 2026-01-01T00:00:05Z: connection refused; calls are refused meanwhile\n           \
             2 calls wait to be settled there, and of 1 it is not told: they are charged in full\n           \
             of 3 accounts something is drawn in advance; 4 times it was spent while Redis was away\n           \
             it makes no checkpoint\n";
        assert!(said.contains(told), "{said}");
    }

    #[test]
    fn what_is_wrong_is_said_where_it_is_wrong() {
        let mut status = status();
        status.guard.gate.attached.clear();
        status.guard.policy.refused = Some("policy.yaml:3:1: error: x\n  hint: y".into());
        status.guard.degraded = vec!["no IPv6 on this host".into()];
        status.guard.leaves = LeafStatus {
            signed: 1,
            refused: 2,
        };
        status.record.degraded = Some(agentguard_record::Degraded {
            since: "2026-01-01T00:00:02Z".parse().unwrap(),
            error: "no space left on device".into(),
        });
        let said = story(&status, "2026-01-01T00:00:10Z".parse().unwrap());
        for part in [
            "up 10s ",
            "attached to nothing, so nothing is governed",
            "           a newer policy was not taken, and this one stayed in force:\n             policy.yaml:3:1: error: x\n               hint: y\n",
            "degraded since 2026-01-01T00:00:02Z: no space left on device; what cannot be recorded is denied",
            "leaves     1 certificate signed for inspected connections, 2 refused\n",
            "degraded   no IPv6 on this host",
            "\nnot everything of the daemon works as it should",
        ] {
            assert!(said.contains(part), "{part}\nin\n{said}");
        }
    }
}

//! Figures and spans, as those who run Prometheus and a collector see them: exactly what the record has.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use agentguard_tests::{Origin, Process, World, address, client, wait_until};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::inspected::inspected;
use crate::room::{AGENT, LATE, Room};
use crate::serving::serving;

const OPENAI: &str = "api.openai.com";
const LISTEN: &str = "127.0.0.1:9464";
const COLLECTOR: &str = "4318";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

const POLICY: &str = "
version: 1
agents:
  - name: coder
rules:
  - id: model-apis
    match: { host: [api.openai.com], port: [443], method: [GET, POST] }
    action: allow
    handling: inspect
  - id: no-such-models
    match: { host: [api.openai.com], llm: { model: [gpt-4*] } }
    action: deny
";

fn open<'w>(world: &'w World, listen: &str) -> Result<Room<'w>> {
    let upstreams = json!([{ "host": [OPENAI], "ca": world.ca_file() }]);
    let endpoint = format!("http://127.0.0.1:{COLLECTOR}");
    let telemetry = json!({
        "prometheus": { "listen": listen },
        "otlp": { "endpoint": endpoint, "interval": 1 },
    });
    let guard = world.guard().policy(POLICY).setting("upstreams", upstreams);
    Ok(Room::of(
        world,
        guard.setting("telemetry", telemetry).start()?,
    ))
}

fn world(name: &str) -> Result<World> {
    let origin = Origin::at(&address::origin(0x10));
    World::new(name).origin(origin.site(OPENAI)).start()
}

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("clients")
        .join(name)
}

/// Starts the collector, which may hang.
fn collector(world: &World, python: &Path, how: &[&str]) -> Result<Process> {
    let words = world.host().command(python).arg(script("otlp_receiver.py"));
    serving(words.arg(COLLECTOR).args(how))
}

/// What Prometheus would get.
fn scraped(world: &World) -> Result<String> {
    let url = format!("http://{LISTEN}/metrics");
    let curl = world.host().command("curl").args(["-sS", "--fail", &url]);
    Ok(curl.run()?.success()?.stdout)
}

/// The lines that begin so, without that.
fn series<'t>(text: &'t str, start: &str) -> Vec<&'t str> {
    let lines = text.lines();
    lines.filter_map(|line| line.strip_prefix(start)).collect()
}

/// What the record has, as the figures have it.
fn recorded(room: &Room<'_>) -> Result<Vec<String>> {
    let word = |value: Value| value.as_str().unwrap_or("?").to_owned();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for decision in room.guard.verdicts()? {
        let layer = word(serde_json::to_value(decision.layer)?);
        let kind = word(serde_json::to_value(decision.action.kind)?);
        let (verdict, enforced) = (decision.verdict, decision.enforced);
        let labels = format!(
            "{{layer=\"{layer}\",kind=\"{kind}\",verdict=\"{verdict}\",enforced=\"{enforced}\",reason=\"{}\"}}",
            decision.reason.code
        );
        *counts.entry(labels).or_default() += decision.count;
    }
    let mut lines: Vec<_> = counts
        .iter()
        .map(|(labels, count)| format!("{labels} {count}"))
        .collect();
    lines.sort();
    Ok(lines)
}

/// The call of a model by curl, with a trace that the agent names.
fn traced(room: &Room<'_>) -> Result<()> {
    let trace = format!("traceparent: {PARENT}");
    let call = r#"{"model":"gpt-5-mini","messages":[{"role":"user","content":"one two three"}]}"#;
    let url = format!("https://{OPENAI}/v1/chat/completions");
    let kind = "content-type: application/json";
    let key = "authorization: Bearer any";
    let words = [
        "curl", "-sS", "--fail", "-H", kind, "-H", key, "-H", &trace, "-d", call, &url,
    ];
    let rows = [
        format!("allow dns dns_query {OPENAI}:53 rule_allow"),
        format!("allow proxy llm_call {OPENAI}:443 POST /v1/chat/completions rule_allow"),
    ];
    room.call(inspected(room, &words), &rows)?
        .output
        .success()?;
    Ok(())
}

/// Lines of the collector: spans, or points of a figure.
fn told(collector: &Process) -> Vec<Value> {
    let text = collector.stdout();
    let lines = text.lines().filter(|line| line.starts_with('{'));
    lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// The last value of each series of a figure, by its attributes.
fn latest(told: &[Value], metric: &str) -> BTreeMap<String, Value> {
    let points = told.iter().filter(|it| it["metric"] == metric);
    points
        .map(|it| (it["attributes"].to_string(), it["value"].clone()))
        .collect()
}

#[test]
fn figures_and_spans_are_what_the_record_has_and_no_agent_reads_them() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("telemetry").unwrap();
    let room = open(&world, LISTEN).unwrap();
    traced(&room).unwrap();
    let sdk = script("openai_sdk.py");
    let words = [python.as_os_str(), sdk.as_os_str(), "forbidden".as_ref()];
    let rows = [
        format!("allow dns dns_query {OPENAI}:53 rule_allow"),
        format!("deny proxy llm_call {OPENAI}:443 POST /v1/chat/completions rule_deny"),
    ];
    room.call(inspected(&room, &words), &rows).unwrap();
    // What the host reads without ado is closed to an agent.
    let url = format!("http://{LISTEN}/metrics");
    let refused = [format!("deny kernel connect {LISTEN} loopback_not_own")];
    let ran = room.run(["curl", "-sS", &url], &refused).unwrap();
    assert_eq!(ran.output.code(), 7, "{}", ran.output);

    let expected = recorded(&room).unwrap();
    let text = wait_until("the figures", LATE, || {
        let text = scraped(&world).ok()?;
        let mut found = series(&text, "agentguard_decisions_total");
        found.sort_unstable();
        let called = text.contains("gen_ai_client_token_usage_sum");
        // The keeper tells of those once in a while.
        let signed = text.contains("agentguard_leaves_total{result=\"signed\"} 1\n");
        (found == expected && called && signed).then_some(text)
    });
    let text = text
        .with_context(|| format!("{expected:#?}\n{}", scraped(&world).unwrap_or_default()))
        .unwrap();
    let labels = "gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"openai\",gen_ai_request_model=\"gpt-5-mini\",gen_ai_response_model=";
    let usage = series(&text, "gen_ai_client_token_usage_sum");
    assert_eq!(usage.len(), 2, "{usage:?}");
    for (line, kind) in usage.iter().zip(["input", "output"]) {
        let start = format!("{{gen_ai_token_type=\"{kind}\",{labels}");
        assert!(line.starts_with(&start) && line.ends_with(" 3.0"), "{line}");
    }
    let durations = series(&text, "gen_ai_client_operation_duration_seconds_count");
    assert!(
        matches!(durations.as_slice(), [one] if one.ends_with(" 1")),
        "{durations:?}"
    );
    for line in [
        format!("agentguard_agent_tokens_total{{agent=\"{AGENT}\",gen_ai_token_type=\"input\"}} 3"),
        "agentguard_worker_starts_total 1".to_owned(),
        "agentguard_leaves_total{result=\"signed\"} 1".to_owned(),
        "agentguard_names_virtual_addresses 1.0".to_owned(),
        "agentguard_record_degraded 0.0".to_owned(),
        "agentguard_telemetry_lost_total{what=\"notes\"} 0".to_owned(),
        "agentguard_telemetry_lost_total{what=\"spans\"} 0".to_owned(),
    ] {
        assert!(text.lines().any(|it| it == line), "{line}\n{text}");
    }
    if let Some(promtool) = client::find("promtool").unwrap() {
        let check = world.host().command(promtool).args(["check", "metrics"]);
        let checked = check.input(text.clone()).run().unwrap();
        assert!(
            checked.code() == 0 && checked.stderr.is_empty(),
            "{checked}"
        );
    }
    spans(&world, &room, &python, &expected).unwrap();
    room.close().unwrap();
}

/// The collector was away all the time; what it was not told waits for it.
fn spans(world: &World, room: &Room<'_>, python: &Path, expected: &[String]) -> Result<()> {
    let failed = || status(room).filter(|it| it["failed"].as_u64() > Some(0));
    let status = wait_until("a failure", LATE, failed)?;
    ensure!(
        status
            .get("error")
            .and_then(Value::as_str)
            .is_some_and(|it| it.contains("cannot be reached")),
        "{status}"
    );
    let collector = collector(world, python, &[])?;
    // The pause between two attempts grows up to half a minute.
    let told = wait_until("the spans", Duration::from_secs(60), || {
        let told = told(&collector);
        let spans = told.iter().filter(|it| it["span"].is_string());
        let figures = latest(&told, "agentguard.decisions");
        (spans.count() == 2 && !figures.is_empty()).then_some(told)
    })?;
    let decisions = room.guard.verdicts()?;
    let span = |name: &str| {
        let span = told.iter().find(|it| it["span"] == name);
        span.with_context(|| format!("no span {name}: {told:#?}"))
    };
    let (allowed, denied) = (span("chat gpt-5-mini")?, span("chat gpt-4-forbidden")?);
    for (span, verdict, reason) in [
        (allowed, "allow", "rule_allow"),
        (denied, "deny", "rule_deny"),
    ] {
        let said = &span["attributes"];
        let id = said["agentguard.decision.id"].as_str().unwrap_or_default();
        let decision = decisions.iter().find(|it| it.id.to_string() == id);
        let decision = decision.with_context(|| format!("no decision {id}"))?;
        ensure!(
            span["trace"] == format!("{:032x}", decision.id.0.0),
            "{span}"
        );
        ensure!(
            said["agentguard.verdict"] == verdict
                && said["agentguard.reason"] == reason
                && said["agentguard.agent"] == AGENT
                && said["gen_ai.provider.name"] == "openai"
                && span["parent"] == "",
            "{span}"
        );
    }
    let said = &allowed["attributes"];
    ensure!(
        said["gen_ai.usage.input_tokens"] == 3 && said["gen_ai.usage.output_tokens"] == 3,
        "{said}"
    );
    let [trace, parent] = [PARENT.get(3..35), PARENT.get(36..52)];
    let link = json!([[trace, parent, { "agentguard.link.source": "agent" }]]);
    ensure!(
        allowed["links"] == link && denied["links"] == json!([]),
        "{told:#?}"
    );
    ensure!(denied["error"] == true && denied["nanos"] == 0, "{denied}");
    ensure!(
        denied.pointer("/attributes/error.type") == Some(&json!("rule_deny")),
        "{denied}"
    );
    // The same figures as Prometheus has.
    let counted = latest(&told, "agentguard.decisions").len();
    ensure!(counted == expected.len(), "{told:#?}\n{expected:#?}");
    let tokens = latest(&told, "gen_ai.client.token.usage");
    ensure!(
        tokens.values().all(|it| *it == json!([1, 3.0])),
        "{tokens:?}"
    );
    ensure!(
        told.iter()
            .all(|it| it["metric"].is_null() || it["service"] == "agentguard")
    );
    Ok(())
}

/// What `status` says of telemetry.
fn status(room: &Room<'_>) -> Option<Value> {
    let status = room.guard.cli().args(["status", "-o", "json"]).run().ok()?;
    let status: Value = serde_json::from_str(&status.stdout).ok()?;
    status.get("telemetry").cloned()
}

#[test]
fn a_collector_that_hangs_slows_no_agent_down() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("telemetry-hangs").unwrap();
    let _hangs = collector(&world, &python, &["hang"]).unwrap();
    let socket = world.directory().join("metrics.sock");
    let room = open(&world, socket.to_str().unwrap()).unwrap();
    let begun = Instant::now();
    let mut calls = 0;
    let mut slowest = Duration::ZERO;
    // Longer than a request to the collector may take.
    while begun.elapsed() < Duration::from_secs(15) {
        let call = Instant::now();
        traced(&room).unwrap();
        slowest = slowest.max(call.elapsed());
        calls += 1;
    }
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    let told = wait_until("a failure", LATE, || {
        status(&room).filter(|it| it["failed"].as_u64() > Some(0))
    });
    let told = told.unwrap();
    assert!(
        told["error"].as_str().unwrap().contains("does not answer"),
        "{told}"
    );
    assert_eq!(
        (&told["lost_notes"], &told["lost_spans"]),
        (&json!(0), &json!(0))
    );
    // Figures are there meanwhile, also at a socket.
    let path = socket.to_str().unwrap();
    let words = [
        "-sS",
        "--fail",
        "--unix-socket",
        path,
        "http://localhost/metrics",
    ];
    let line = format!(
        "agentguard_agent_tokens_total{{agent=\"{AGENT}\",gen_ai_token_type=\"output\"}} {}",
        3 * calls
    );
    wait_until("the figures", LATE, || {
        let text = world.host().command("curl").args(words).run().ok()?;
        text.stdout.lines().any(|it| it == line).then_some(())
    })
    .unwrap();
    room.close().unwrap();
}

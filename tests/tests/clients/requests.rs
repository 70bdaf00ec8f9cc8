//! Rules on what is asked for: the query, the header fields and the size.

use std::process::Command;

use agentguard_tests::World;
use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::inspected::inspected;
use crate::room::{Program, Room, SITE, world};

const POLICY: &str = "
version: 1
agents:
  - name: coder
rules:
  - id: read
    match:
      host: [api.example.com]
      port: [443]
      query: { Action: ['Get*', 'List*'] }
    action: allow
    handling: inspect
  - id: upload
    match: { host: [api.example.com], port: [443], method: [POST], header: { content-type: ['application/*'] } }
    action: allow
    handling: inspect
  - id: nothing-large
    match: { host: [api.example.com], body_over: 64KiB }
    action: deny
    reason: Nothing large is sent there.
";

fn open(world: &World) -> Result<Room<'_>> {
    let upstreams = json!([{ "host": ["*.example.com"], "ca": world.ca_file() }]);
    let guard = world.guard().policy(POLICY).setting("upstreams", upstreams);
    Ok(Room::of(world, guard.start()?))
}

fn row(verdict: &str, method: &str, path: &str, code: &str) -> String {
    format!("{verdict} proxy http_request {SITE}:443 {method} {path} {code}")
}

/// One world for each version: of more identical denials at once, the record has a count.
#[test]
fn curl_is_held_to_the_query_and_the_fields() {
    queries("--http1.1").unwrap();
    queries("--http2").unwrap();
}

fn queries(version: &str) -> Result<()> {
    let Some(curl) = Program::find("curl")? else {
        return Ok(());
    };
    let world = world("requests").start()?;
    let room = open(&world)?;
    let query = format!("allow dns dns_query {SITE}:53 rule_allow");
    let url = |query: &str| format!("https://{SITE}/api?{query}");
    let json = ["-H", "Content-Type: application/json", "-d", "{}"];
    for (query_text, fields, code) in [
        ("Action=GetItem&Signature=s3cret", &[][..], "rule_allow"),
        ("Action=PutItem", &[], "no_rule"),
        ("Action=GetItem&Action=PutItem", &[], "no_rule"),
        ("Action=PutItem", &json, "rule_allow"),
        ("Action=PutItem", &["-d", "a=b"], "rule_allow"),
        (
            "Action=PutItem",
            &["-H", "Content-Type: text/plain", "-d", "a"],
            "no_rule",
        ),
    ] {
        let url = url(query_text);
        let words = ["-sS", "--max-time", "10", "-w", "%{http_code}", version];
        let words = [&words[..], fields, &[&url]].concat();
        let method = if fields.is_empty() { "GET" } else { "POST" };
        let allowed = code == "rule_allow";
        let verdict = if allowed { "allow" } else { "deny" };
        let rows = [query.clone(), row(verdict, method, "/api", code)];
        let ran = room.call(inspected(&room, &curl.words(&words)), &rows);
        let ran = ran?;
        let output = ran.output.success()?;
        let status = if allowed { "200" } else { "403" };
        assert!(output.stdout.ends_with(status), "{words:?}: {output}");
        let action = &ran.decisions.last().context("no decision")?.action;
        let shown = query_text.replace("s3cret", "…");
        assert_eq!(action.query.as_deref(), Some(shown.as_str()));
        assert_eq!(action.headers.len(), usize::from(method == "POST"));
    }
    // What was allowed has arrived as it was asked for.
    let requests = world.origin(SITE)?.log().requests()?;
    assert_eq!(requests.len(), 3, "{requests:?}");
    let whole = "/api?Action=GetItem&Signature=s3cret";
    assert!(
        requests.iter().any(|r| r.target.ends_with(whole)),
        "{requests:?}"
    );
    room.close()
}

#[test]
fn curl_uploads_no_more_than_a_rule_lets_it() {
    uploads("--http1.1").unwrap();
    uploads("--http2").unwrap();
}

fn uploads(version: &str) -> Result<()> {
    let Some(curl) = Program::find("curl")? else {
        return Ok(());
    };
    let world = world("requests-size").start()?;
    let room = open(&world)?;
    let query = format!("allow dns dns_query {SITE}:53 rule_allow");
    let file = |name: &str, content: &[u8]| -> Result<String> {
        let path = world.directory().join(name);
        std::fs::write(&path, content)?;
        Ok(format!("@{}", path.display()))
    };
    let small = file("small", &vec![b'x'; 64 << 10])?;
    let large = file("large", &vec![b'x'; (64 << 10) + 1])?;
    let gzip = |size: usize| -> Result<String> {
        file("content", &vec![0; size])?;
        let content = world.directory().join("content");
        let packed = Command::new("gzip").arg("-9c").arg(content).output()?;
        ensure!(packed.status.success() && packed.stdout.len() < 1024);
        file(&format!("packed-{size}"), &packed.stdout)
    };
    let (fits, bomb) = (gzip(64 << 10)?, gzip((64 << 10) + 1)?);
    let coded = ["-H", "Content-Encoding: gzip"];
    let chunked = ["-H", "Transfer-Encoding: chunked"];
    let (allowed, denied) = ("rule_allow", "rule_deny");
    let chunked = if version == "--http1.1" {
        &chunked[..]
    } else {
        &["-H", "Content-Length:"]
    };
    for (file, fields, codes) in [
        (&small, &[][..], &[allowed][..]),
        (&small, chunked, &[allowed]),
        (&large, &[], &[denied]),
        (&large, chunked, &[allowed, denied]),
        (&fits, &coded, &[allowed]),
        (&bomb, &coded, &[allowed, denied]),
        (
            &small,
            &["-H", "Content-Encoding: compress"],
            &["needs_inspection"],
        ),
    ] {
        let words = ["-sS", "--max-time", "20", "-w", "%{http_code}", version];
        let json = ["-H", "Content-Type: application/octet-stream"];
        let to = ["--data-binary", file, "https://api.example.com/up"];
        let words = [&words[..], &json, fields, &to].concat();
        let verdict = |code: &str| if code == allowed { "allow" } else { "deny" };
        let rows = codes
            .iter()
            .map(|code| row(verdict(code), "POST", "/up", code));
        let rows: Vec<_> = rows.chain([query.clone()]).collect();
        let ran = room.call(inspected(&room, &curl.words(&words)), &rows);
        let output = ran?.output.success()?;
        let status = if codes == [allowed] { "200" } else { "403" };
        assert!(output.stdout.ends_with(status), "{words:?}: {output}");
        if codes.contains(&denied) {
            assert!(
                output.stdout.contains("Nothing large is sent there."),
                "{output}"
            );
        }
    }
    // Of what was cut at most so much has arrived, and of what was refused nothing.
    let requests = world.origin(SITE)?.log().requests()?;
    assert!(requests.iter().all(|r| r.body <= 64 << 10), "{requests:?}");
    assert!(requests.len() <= 5, "{requests:?}");
    room.close()
}

//! TLS that ends at the guard: real clients notice nothing but refusals that they understand.

use std::ffi::OsStr;

use agentguard_tests::{GuardBuilder, Invocation, World};
use anyhow::Result;
use serde_json::json;

use crate::room::{AGENT, Program, Room, SITE, node, python, ungoverned, world};

pub(crate) const POLICY: &str = "
version: 1
agents:
  - name: coder
rules:
  - id: read-and-post
    match: { host: [api.example.com, git.example.com], port: [443], method: [GET, HEAD, POST] }
    action: allow
    handling: inspect
  - id: no-secrets
    match: { host: [api.example.com], path: ['/secrets/**'] }
    action: deny
    reason: Secrets stay where they are.
  - id: others
    match: { host: [other.example.com], port: [443] }
    action: allow
";

const TOLD: &str = "\n%{http_code} %{http_version} %{num_connects}";

pub(crate) fn open(world: &World) -> Result<Room<'_>> {
    Ok(Room::of(world, guard(world).start()?))
}

/// A guard that inspects the site, still to be started.
pub(crate) fn guard(world: &World) -> GuardBuilder<'_> {
    let upstreams = json!([{ "host": ["*.example.com"], "ca": world.ca_file() }]);
    world.guard().policy(POLICY).setting("upstreams", upstreams)
}

/// Words as the agent, which trusts what `run` makes it trust.
pub(crate) fn inspected<'r, S: AsRef<OsStr>>(room: &'r Room<'_>, words: &[S]) -> Invocation<'r> {
    let run = ["run", "--agent", AGENT, "--"];
    room.guard.cli().args(run).args(words)
}

fn query() -> String {
    format!("allow dns dns_query {SITE}:53 rule_allow")
}

fn allowed(method: &str, path: &str) -> String {
    format!("allow proxy http_request {SITE}:443 {method} {path} rule_allow")
}

fn denied(method: &str, path: &str, code: &str) -> String {
    format!("deny proxy http_request {SITE}:443 {method} {path} {code}")
}

/// What the origin told, without what differs from one connection to the next.
pub(crate) fn told(stdout: &str) -> (serde_json::Value, String) {
    let (body, rest) = stdout.split_once('\n').unwrap_or_default();
    let mut body: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|_| body.into());
    if let Some(fields) = body.as_object_mut() {
        fields.remove("peer");
        fields.remove("local");
        // The upstream's side has a version of its own.
        if let Some(tls) = fields.get_mut("tls").and_then(|tls| tls.as_object_mut()) {
            tls.remove("version");
        }
    }
    (body, rest.to_owned())
}

#[test]
fn curl_is_served_inside_tls_as_without_the_guard() {
    let Some(curl) = Program::find("curl").unwrap() else {
        return;
    };
    let world = world("inspected").start().unwrap();
    let room = open(&world).unwrap();
    let cases: Vec<(&[&str], Vec<String>)> = vec![
        (&["https://api.example.com/h2"], vec![allowed("GET", "/h2")]),
        (
            &["--http1.1", "https://api.example.com/h1?a=b"],
            vec![allowed("GET", "/h1")],
        ),
        (
            &["--tls-max", "1.2", "https://api.example.com/old"],
            vec![allowed("GET", "/old")],
        ),
        (
            &["--no-alpn", "https://api.example.com/none"],
            vec![allowed("GET", "/none")],
        ),
        (
            &["-4", "-d", "a body", "https://api.example.com/post"],
            vec![allowed("POST", "/post")],
        ),
        (
            &[
                "-6",
                "--http1.1",
                "-d",
                "a body",
                "https://api.example.com/post",
            ],
            vec![allowed("POST", "/post")],
        ),
        (
            &["https://api.example.com/chunked/300000"],
            vec![allowed("GET", "/chunked/300000")],
        ),
        (
            &["--http1.1", "https://api.example.com/chunked/300000"],
            vec![allowed("GET", "/chunked/300000")],
        ),
        (
            &["https://api.example.com/sse/3"],
            vec![allowed("GET", "/sse/3")],
        ),
        // Requests on one connection.
        (
            &[
                "https://api.example.com/bytes/10",
                "https://api.example.com/bytes/20",
            ],
            vec![allowed("GET", "/bytes/10"), allowed("GET", "/bytes/20")],
        ),
    ];
    for (words, rows) in &cases {
        let words = [&["-sS", "--max-time", "10", "-w", TOLD], *words].concat();
        let free = ungoverned(&world, curl.words(&words)).unwrap();
        let free = free.success().unwrap();
        let rows = [&[query()], rows.as_slice()].concat();
        let ran = room.call(inspected(&room, &curl.words(&words)), &rows);
        let ran = ran.unwrap().by(&curl).unwrap();
        let output = ran.output.success().unwrap();
        assert_eq!(told(&output.stdout), told(&free.stdout), "{words:?}");
    }
    room.close().unwrap();
}

#[test]
fn what_no_rule_allows_inside_tls_is_refused_in_words_and_does_not_leave() {
    let Some(curl) = Program::find("curl").unwrap() else {
        return;
    };
    let world = world("inspected-denied").start().unwrap();
    let room = open(&world).unwrap();
    let cases: [(&[&str], String, &str); 5] = [
        (
            &["-X", "DELETE", "https://api.example.com/things/1"],
            denied("DELETE", "/things/1", "no_rule"),
            "no rule",
        ),
        (
            &[
                "--http1.1",
                "-X",
                "DELETE",
                "https://api.example.com/things/1",
            ],
            denied("DELETE", "/things/1", "no_rule"),
            "no rule",
        ),
        (
            &["https://api.example.com/secrets/1"],
            denied("GET", "/secrets/1", "rule_deny"),
            "Secrets stay where they are.",
        ),
        (
            &["--path-as-is", "https://api.example.com/x/../%73ecrets/1"],
            denied("GET", "/secrets/1", "rule_deny"),
            "Secrets stay where they are.",
        ),
        (
            &[
                "--http1.1",
                "-H",
                "Host: other.example.com",
                "https://api.example.com/",
            ],
            format!("deny proxy http_request {SITE}:443 name_mismatch"),
            "other.example.com",
        ),
    ];
    for (words, row, sentence) in &cases {
        let words = [&["-sS", "--max-time", "10", "-w", "%{http_code}"], *words].concat();
        let ran = room.call(
            inspected(&room, &curl.words(&words)),
            &[query(), row.clone()],
        );
        let output = ran.unwrap().output.success().unwrap();
        let code = if row.contains("name_mismatch") {
            "421"
        } else {
            "403"
        };
        assert!(output.stdout.ends_with(code), "{output}");
        assert!(output.stdout.contains("\"decision\":\""), "{output}");
        assert!(
            output
                .stdout
                .to_lowercase()
                .contains(&sentence.to_lowercase()),
            "{output}"
        );
    }
    let requests = world.origin(SITE).unwrap().log().requests().unwrap();
    assert!(requests.is_empty(), "{requests:?}");
    room.close().unwrap();
}

#[test]
fn a_client_that_does_not_trust_the_guard_fails_and_the_record_says_what_to_do() {
    let Some(curl) = Program::find("curl").unwrap() else {
        return;
    };
    let world = world("distrust").start().unwrap();
    let room = open(&world).unwrap();
    // It trusts the origin's authority alone.
    let words = ["-sS", "--max-time", "10", "https://api.example.com/"];
    let row = format!("deny proxy connect {SITE}:443 client_distrusts");
    let call = room.guard.agent(AGENT, curl.words(&words));
    let ran = room.call(call, &[query(), row]).unwrap();
    assert_eq!(ran.output.code(), 60, "{}", ran.output);
    let distrusted = ran.decisions.last().unwrap();
    let explain = room
        .guard
        .cli()
        .args(["explain", &distrusted.id.to_string()]);
    let explained = explain.run().unwrap().success().unwrap();
    assert!(
        explained.stdout.contains("agentguard ca export"),
        "{explained}"
    );
}

#[test]
fn an_upstream_that_nobody_vouches_for_is_refused_with_the_fix() {
    let Some(curl) = Program::find("curl").unwrap() else {
        return;
    };
    let world = world("untrusted").start().unwrap();
    // Without the world's authority in the configuration.
    let room = Room::of(&world, world.guard().policy(POLICY).start().unwrap());
    let words = ["-sS", "--max-time", "10", "https://api.example.com/"];
    let rows = [query(), allowed("GET", "/")];
    let call = inspected(&room, &curl.words(&words));
    let ran = room.call(call, &rows).unwrap();
    assert!(
        ran.output.stdout.contains("upstream_untrusted"),
        "{}",
        ran.output
    );
    assert!(ran.output.stdout.contains("`upstreams`"), "{}", ran.output);
}

#[test]
fn python_s_own_client_trusts_what_run_makes_it_trust() {
    let Some(python) = python().unwrap() else {
        return;
    };
    let world = world("inspected-python").start().unwrap();
    let room = open(&world).unwrap();
    let script = "
import json, urllib.request, urllib.error
with urllib.request.urlopen('https://api.example.com/py', timeout=10) as answer:
    print(answer.status, json.load(answer)['target'])
try:
    urllib.request.urlopen('https://api.example.com/secrets/2', timeout=10)
except urllib.error.HTTPError as error:
    print(error.code, json.load(error)['code'])
";
    let rows = [
        query(),
        query(),
        allowed("GET", "/py"),
        denied("GET", "/secrets/2", "rule_deny"),
    ];
    let call = inspected(&room, &python.words(&["-c", script]));
    let ran = room.call(call, &rows).unwrap();
    let output = ran.output.success().unwrap();
    assert_eq!(output.stdout, "200 /py\n403 rule_deny\n");
}

/// Its own trust, its own TLS, its own HTTP; `fetch` is another client than `https`.
const NODE: &str = r#"
const https = require('https');
const ask = (method, path) => new Promise(done => {
  const options = { agent: false, method };
  https.request('https://api.example.com' + path, options, reply => {
    let got = '';
    reply.on('data', data => got += data);
    reply.on('end', () => done([reply.statusCode, reply.headers['content-type'], got.length]));
  }).on('error', error => done([error.code])).end();
});
(async () => {
  const [status, , length] = await ask('GET', '/chunked/70000');
  console.log(status, length);
  const posted = await fetch('https://api.example.com/things', { method: 'POST', body: 'a body' });
  console.log(posted.status, (await posted.json()).body);
  const [code, type] = await ask('DELETE', '/things/1');
  console.log(code, type);
})();
"#;

#[test]
fn node_s_clients_are_served_and_refused_inside_tls() {
    let Some(node) = node().unwrap() else {
        return;
    };
    let world = world("inspected-node").start().unwrap();
    let room = open(&world).unwrap();
    let rows = [
        query(),
        query(),
        query(),
        allowed("GET", "/chunked/70000"),
        allowed("POST", "/things"),
        denied("DELETE", "/things/1", "no_rule"),
    ];
    let call = inspected(&room, &node.words(&["-e", NODE]));
    let output = room.call(call, &rows).unwrap().output.success().unwrap();
    assert_eq!(
        output.stdout,
        "200 70000\n200 a body\n403 application/problem+json\n"
    );
    let refused = "
        fetch('https://api.example.com/secrets/1').then(async reply =>
            console.log(reply.status, (await reply.json()).detail))";
    let rows = [query(), denied("GET", "/secrets/1", "rule_deny")];
    let call = inspected(&room, &node.words(&["-e", refused]));
    let output = room.call(call, &rows).unwrap().output.success().unwrap();
    assert_eq!(output.stdout, "403 Secrets stay where they are.\n");
    room.close().unwrap();
}

/// GnuTLS, which reads what the system trusts and no variable.
#[test]
fn wget_trusts_the_guard_by_the_system_s_bundle_and_says_that_it_was_refused() {
    let Some(wget) = Program::find("wget").unwrap() else {
        return;
    };
    let world = world("inspected-wget").start().unwrap();
    let room = open(&world).unwrap();
    let words = ["-nv", "-t", "1", "-T", "10", "-O", "-"];
    let allow = [&words[..], &["https://api.example.com/bytes/200000"]].concat();
    let rows = [query(), allowed("GET", "/bytes/200000")];
    let ran = room.call(inspected(&room, &wget.words(&allow)), &rows);
    let output = ran.unwrap().output.success().unwrap();
    assert_eq!(output.stdout.len(), 200_000);

    let refused: [(&[&str], String, &str); 2] = [
        (
            &["https://api.example.com/secrets/1"],
            denied("GET", "/secrets/1", "rule_deny"),
            "Secrets stay where they are.",
        ),
        (
            &["--method=DELETE", "https://api.example.com/things/1"],
            denied("DELETE", "/things/1", "no_rule"),
            "No rule allows coder to DELETE",
        ),
    ];
    for (what, row, sentence) in refused {
        let words = [&words[..], &["--content-on-error"], what].concat();
        let ran = room.call(inspected(&room, &wget.words(&words)), &[query(), row]);
        let output = ran.unwrap().output;
        // wget(1): the server has answered with an error.
        assert_eq!(output.code(), 8, "{output}");
        assert!(output.stderr.contains("ERROR 403: Forbidden"), "{output}");
        assert!(output.stdout.contains(sentence), "{output}");
    }
    room.close().unwrap();
}

#[test]
fn large_bodies_pass_in_both_directions() {
    let Some(curl) = Program::find("curl").unwrap() else {
        return;
    };
    const SIZE: u64 = 32 * 1024 * 1024;
    let world = world("inspected-large").start().unwrap();
    let room = open(&world).unwrap();
    let file = world.directory().join("large");
    std::fs::File::create(&file).unwrap().set_len(SIZE).unwrap();
    let upload = format!("@{}", file.display());
    for version in ["--http1.1", "--http2"] {
        let words = [
            "-sS",
            "--max-time",
            "60",
            version,
            "--data-binary",
            &upload,
            "https://api.example.com/up",
        ];
        let rows = [query(), allowed("POST", "/up")];
        let ran = room
            .call(inspected(&room, &curl.words(&words)), &rows)
            .unwrap();
        let told: serde_json::Value =
            serde_json::from_str(&ran.output.success().unwrap().stdout).unwrap();
        assert_eq!(told["body_bytes"], SIZE, "{version}");

        let url = format!("https://api.example.com/bytes/{SIZE}");
        let words = ["-sS", "--max-time", "60", version, "-w", "%{size_download}"];
        let words = [&words[..], &["-o", "/dev/null", &url]].concat();
        let rows = [query(), allowed("GET", &format!("/bytes/{SIZE}"))];
        let ran = room
            .call(inspected(&room, &curl.words(&words)), &rows)
            .unwrap();
        let output = ran.output.success().unwrap();
        assert_eq!(output.stdout, SIZE.to_string(), "{version}");
    }
}

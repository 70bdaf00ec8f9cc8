//! Calls of tools inside inspected TLS, by the MCP SDK on both sides: without sessions (2026-07-28), with them, and
//! over HTTP+SSE.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use agentguard_model::{ActionKind, Decision, Verdict};
use agentguard_tests::{Origin, Output, Process, World, address, client, wait_until};
use anyhow::{Context as _, Result, ensure};

use crate::inspected::inspected;
use crate::room::{LATE, Room, ungoverned};
use crate::serving::{certified, serving, trusting};

/// Where the servers are.
pub(crate) const HOST: &str = "mcp.example.com";

/// A stream whose client is gone ends with what the server sends next: its comments, which come every 15 s.
const PING: Duration = Duration::from_secs(40);

pub(crate) const REASON: &str = "Agents do not write.";

/// A world with a server of tools, which lives as long as its process.
pub(crate) fn world(name: &str, python: &Path) -> Result<(World, Process)> {
    let origin = Origin::at(&address::origin(0x10)).site(HOST);
    let world = World::new(name).origin(origin).start()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/mcp_server.py");
    let server = world.internet().command(python).arg(script).arg("8443");
    let server = serving(server.args(certified(&world, HOST)?))?;
    Ok((world, server))
}

pub(crate) fn open(world: &World) -> Result<Room<'_>> {
    let policy = format!(
        "
version: 1
tool_servers:
  - {{ name: files, api: mcp, hosts: [{HOST}], paths: [/mcp, /sse, '/messages/**'], list: allowed }}
agents:
  - name: coder
rules:
  - id: data
    match:
      host: [{HOST}]
      port: [8443]
      tool: {{ name: [read, slowly, fail, write], arguments: {{ /path: ['/data/*'] }} }}
    action: allow
    handling: inspect
  - id: no-writing
    match: {{ host: [{HOST}], tool: {{ name: [write] }} }}
    action: deny
    reason: {REASON}
"
    );
    trusting(world, HOST, &policy)
}

/// The words that have the SDK's client speak to the server, in one of its ways.
pub(crate) fn words(python: &Path, how: &str, what: &[&str]) -> Vec<OsString> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/mcp_sdk.py");
    let path = if how.starts_with("sse") { "sse" } else { "mcp" };
    let url = format!("https://{HOST}:8443/{path}");
    let words: [OsString; 4] = [python.into(), script.into(), how.into(), url.into()];
    let what = what.iter().map(OsString::from);
    words.into_iter().chain(what).collect()
}

pub(crate) fn governed(room: &Room<'_>, python: &Path, how: &str, what: &[&str]) -> Result<Output> {
    inspected(room, &words(python, how, what)).run()?.success()
}

/// The calls of tools in the record, once there are as many, with what came of those that were allowed.
pub(crate) fn calls(room: &Room<'_>, count: usize) -> Result<Vec<Decision>> {
    wait_until("the calls", LATE, || {
        let decisions = room.guard.verdicts().ok()?;
        let mut calls = decisions.into_iter();
        let calls: Vec<_> = calls
            .by_ref()
            .filter(|it| it.action.kind == ActionKind::ToolCall)
            .collect();
        let whole = |it: &Decision| it.verdict == Verdict::Deny || it.outcome.is_some();
        (calls.len() == count && calls.iter().all(whole)).then_some(calls)
    })
}

/// What a call was and what came of it.
pub(crate) fn told(decision: &Decision) -> String {
    let tool = decision.action.tool.clone().unwrap_or_default();
    let path = tool.values.first().map(|it| it.values.join(","));
    let outcome = decision.outcome.as_ref();
    let answer = outcome.and_then(|outcome| outcome.tool.as_ref());
    let results = answer.map(|answer| {
        assert_eq!(answer.not_understood, None);
        let results = answer.results.iter();
        let results: Vec<_> = results
            .map(|it| if it.is_error { "failed" } else { "done" })
            .collect();
        results.join(" ")
    });
    format!(
        "{} {} {} {}",
        tool.version.unwrap_or_default(),
        tool.name.unwrap_or_default(),
        path.unwrap_or_default(),
        results.unwrap_or_default()
    )
}

#[test]
fn tools_are_called_as_without_the_guard_and_each_call_is_recorded() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let (world, _server) = world("mcp", &python).unwrap();
    let room = open(&world).unwrap();
    let what = ["read=/data/a", "slowly=/data/b", "fail=/data/c"];
    for how in ["stateless", "session", "sse"] {
        let free = ungoverned(&world, words(&python, how, &what));
        let free = free.unwrap().success().unwrap();
        assert!(free.stdout.contains("what is in /data/a"), "{free}");
        let output = governed(&room, &python, how, &what).unwrap();
        assert_eq!(
            output.stdout,
            free.stdout,
            "{how}\n{output}\n{}",
            room.guard.log()
        );
    }
    let calls = calls(&room, 9).unwrap();
    let calls: Vec<_> = calls.iter().map(told).collect();
    assert_eq!(
        calls,
        [
            "2026-07-28 read /data/a done",
            "2026-07-28 slowly /data/b done",
            "2026-07-28 fail /data/c failed",
            "2025-11-25 read /data/a done",
            "2025-11-25 slowly /data/b done",
            "2025-11-25 fail /data/c failed",
            // These say no version, and what comes of them is told with the stream.
            " read /data/a ",
            " slowly /data/b ",
            " fail /data/c ",
        ]
    );
    let results = wait_until("the stream's outcome", PING, || {
        let decisions = room.guard.verdicts().ok()?;
        let mut streams = decisions.into_iter();
        let stream = streams.find(|it| it.action.path.as_deref() == Some("/sse"))?;
        Some(stream.outcome?.tool?.results.len())
    });
    // The answer to what opens the session, those to the calls, and whatever else the client asked for.
    assert!(results.unwrap() >= 4);
}

/// As clients speak it that are older than the server: in the words of each version, by which both go then.
#[test]
fn older_versions_are_spoken_as_without_the_guard_and_refused_in_their_words() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let (world, server) = world("mcp-older", &python).unwrap();
    let room = open(&world).unwrap();
    let ways = [
        ("sse=2024-11-05", "2024-11-05"),
        ("session=2024-11-05", "2024-11-05"),
        ("session=2025-03-26", "2025-03-26"),
        ("session=2025-06-18", "2025-06-18"),
    ];
    for (n, (how, version)) in ways.into_iter().enumerate() {
        let what = [
            "version",
            "slowly=/data/a",
            "list",
            "write=/data/a",
            "read=/data/b",
        ];
        let free = ungoverned(&world, words(&python, how, &what[..2])).unwrap();
        let free = free.success().unwrap();
        let told = format!("{version}\nFalse slowly /data/a\n");
        assert_eq!(free.stdout, told, "{how}\n{free}");
        let output = governed(&room, &python, how, &what).unwrap();
        let calls = calls(&room, 3 * (n + 1)).unwrap();
        let [slowly, write, read] = &calls[3 * n..] else {
            panic!("{calls:?}");
        };
        let lines: Vec<_> = output.stdout.lines().collect();
        let check = || -> Result<()> {
            ensure!(output.stdout.starts_with(&told));
            let [_, _, list, denied, last] = lines.as_slice() else {
                anyhow::bail!("{} lines", lines.len());
            };
            ensure!(*list == "['read', 'slowly', 'fail']", "{list}");
            ensure!(denied.contains(REASON), "{denied}");
            ensure!(denied.contains(&write.id.to_string()), "{denied}");
            ensure!(*last == "False what is in /data/b", "{last}");
            let verdicts = [slowly, write, read].map(|it| it.verdict);
            ensure!(verdicts == [Verdict::Allow, Verdict::Deny, Verdict::Allow]);
            // Who speaks of no version in its fields speaks the oldest, or goes by what its session began with.
            let said = read.action.tool.as_ref().and_then(|it| it.version.clone());
            ensure!(said.as_deref().is_none_or(|it| it == version), "{said:?}");
            ensure!(said.is_some() || version == "2024-11-05", "{said:?}");
            Ok(())
        };
        check()
            .with_context(|| format!("{how}\n{output}\n{}", room.guard.log()))
            .unwrap();
    }
    assert!(!server.stdout().contains("called write"));
}

/// What is denied is told to who called, and the client goes on.
#[test]
fn what_is_denied_is_an_error_that_the_client_shows_and_nothing_of_it_arrives() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let (world, server) = world("mcp-denied", &python).unwrap();
    let room = open(&world).unwrap();
    for (n, how) in ["stateless", "session"].into_iter().enumerate() {
        let what = [
            "list",
            "write=/data/a",
            "read=/etc/shadow",
            "secret",
            "read=/data/z",
        ];
        let output = governed(&room, &python, how, &what).unwrap();
        let lines: Vec<_> = output.stdout.lines().collect();
        let calls = calls(&room, 3 * (n + 1)).unwrap();
        let [write, shadow, read] = &calls[3 * n..] else {
            panic!("{calls:?}");
        };
        let check = || -> Result<()> {
            let [list, first, second, secret, last] = lines.as_slice() else {
                anyhow::bail!("{} lines", lines.len());
            };
            // `write` is denied whatever its arguments.
            ensure!(*list == "['read', 'slowly', 'fail']", "{list}");
            ensure!(first.starts_with(&format!("True {REASON}")), "{first}");
            ensure!(first.contains(&write.id.to_string()), "{first}");
            ensure!(second.starts_with("True No rule allows"), "{second}");
            ensure!(second.contains(&shadow.id.to_string()), "{second}");
            ensure!(secret.starts_with("MCPError No rule allows"), "{secret}");
            ensure!(*last == "False what is in /data/z", "{last}");
            ensure!(read.verdict == Verdict::Allow);
            Ok(())
        };
        check()
            .with_context(|| format!("{how}\n{output}\n{}", room.guard.log()))
            .unwrap();
    }
    let arrived = server.stdout();
    let mut arrived: Vec<_> = arrived
        .lines()
        .filter(|it| it.starts_with("called"))
        .collect();
    arrived.dedup();
    assert_eq!(arrived, ["called read /data/z"]);
}

/// The TypeScript SDK's server that has everything, and its client, with streams and progress: in the clear, and in TLS,
/// which something before the server ends. There the client trusts what `agentguard run` has it trust, and each call is read
/// inside.
#[test]
fn the_typescript_sdk_works_as_without_the_guard_but_for_what_is_denied() {
    const BEHIND: &str = "3001";
    let Some((node, packages)) = client::node_packages().unwrap() else {
        return;
    };
    for (name, scheme, port) in [
        ("mcp-node", "http", BEHIND),
        ("mcp-node-tls", "https", "8443"),
    ] {
        let origin = Origin::at(&address::origin(0x10)).site(HOST);
        let world = World::new(name).origin(origin).start().unwrap();
        let program = packages.join("@modelcontextprotocol/server-everything/dist/index.js");
        let server = world.internet().command(&node).arg(program);
        let server = server.arg("streamableHttp").env("PORT", BEHIND);
        let server = server.spawn().unwrap();
        let listens = || server.stderr().contains("listening").then_some(());
        wait_until("the server", LATE, listens).unwrap();
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
        let _front = (scheme == "https").then(|| {
            let front = world.internet().command(&node);
            let front = front
                .arg(scripts.join("tls_front.mjs"))
                .args([port, BEHIND]);
            serving(front.args(certified(&world, HOST).unwrap())).unwrap()
        });
        let policy = format!(
            "
version: 1
tool_servers:
  - {{ name: everything, api: mcp, hosts: [{HOST}], list: allowed }}
agents:
  - name: coder
rules:
  - id: some
    match: {{ host: [{HOST}], port: [{port}], tool: {{ name: [echo, get-sum, trigger-*] }} }}
    action: allow
    handling: inspect
"
        );
        let room = trusting(&world, HOST, &policy).unwrap();
        let script = scripts.join("mcp_sdk.mjs");
        let words = |what: &[&str]| -> Vec<OsString> {
            let url = format!("{scheme}://{HOST}:{port}/mcp");
            let words: [OsString; 4] = [
                (&node).into(),
                (&script).into(),
                (&packages).into(),
                url.into(),
            ];
            words
                .into_iter()
                .chain(what.iter().map(OsString::from))
                .collect()
        };
        let what = [
            "echo={\"message\":\"hi\"}",
            "get-sum={\"a\":1,\"b\":2}",
            "trigger-long-running-operation={\"duration\":1,\"steps\":2}",
        ];
        let free = ungoverned(&world, words(&what)).unwrap().success().unwrap();
        assert!(free.stdout.contains("Steps: 2. 1,2\n"), "{free}");
        let output = inspected(&room, &words(&what))
            .run()
            .unwrap()
            .success()
            .unwrap();
        assert_eq!(output.stdout, free.stdout, "{output}\n{}", room.guard.log());
        let calls = calls(&room, 3).unwrap();
        let told: Vec<_> = calls.iter().map(told).collect();
        assert!(told.iter().all(|it| it.ends_with(" done")), "{told:?}");
        let signed = room.guard.log().contains("a leaf was signed");
        assert_eq!(signed, scheme == "https", "{}", room.guard.log());

        let output = inspected(&room, &words(&["list", "get-env={}", "resource"]));
        let output = output.run().unwrap().success().unwrap();
        let lines: Vec<_> = output.stdout.lines().collect();
        assert_eq!(lines.len(), 3, "{output}\n{}", room.guard.log());
        assert_eq!(lines[0], "echo get-sum trigger-long-running-operation");
        assert!(
            lines[1].starts_with("get-env true No rule allows"),
            "{output}"
        );
        assert!(
            lines[2].starts_with("McpError 403 MCP error 403: No rule allows"),
            "{output}"
        );
    }
}

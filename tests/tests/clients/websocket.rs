//! Python's `websockets` and Node's own client inside inspected TLS.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use agentguard_model::{Decision, Messages, Verdict};
use agentguard_tests::{Process, World, client, wait_until};
use anyhow::{Context as _, Result, ensure};

use crate::inspected::inspected;
use crate::room::{LATE, Room, SITE, node, ungoverned, world};
use crate::serving::{certified, serving, trusting};

const PORT: &str = "8443";

const POLICY: &str = "
version: 1
agents:
  - name: coder
rules:
  - id: sockets
    match: { host: [api.example.com], port: [8443], method: [GET] }
    action: allow
    handling: inspect
  - id: no-secrets
    match: { host: [api.example.com], path: ['/secrets/**'] }
    action: deny
    reason: Secrets stay where they are.
";

/// One more rule.
const LATER: &str = "
  - id: closed
    match: { host: [api.example.com], path: [/echo] }
    action: deny
    reason: No more of this.
";

fn script(name: &str) -> OsString {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    clients.join(name).into()
}

/// The server, at the site's address.
fn serve(world: &World, python: &Path) -> Result<Process> {
    let words = [script("ws_server.py"), PORT.into()];
    let server = world.internet().command(python).args(words);
    serving(server.args(certified(world, SITE)?))
}

fn open(world: &World) -> Result<Room<'_>> {
    trusting(world, "*.example.com", POLICY)
}

fn query() -> String {
    format!("allow dns dns_query {SITE}:53 rule_allow")
}

fn row(verdict: &str, path: &str, code: &str) -> String {
    format!("{verdict} proxy http_request {SITE}:{PORT} GET {path} {code}")
}

fn words(python: &Path, what: &str) -> [OsString; 3] {
    [python.into(), script("ws.py"), what.into()]
}

/// How many messages went each way, by each allowed request, once that is known.
fn messages(room: &Room<'_>) -> Result<Vec<(u64, u64)>> {
    let counted = |decision: &Decision| {
        let Messages { sent, received } = decision.outcome.as_ref()?.messages?;
        Some((sent, received))
    };
    wait_until("the outcomes", LATE, || {
        let decisions = room.guard.verdicts().ok()?;
        let requests = decisions.iter().filter(|decision| {
            decision.action.path.is_some() && decision.verdict == Verdict::Allow
        });
        requests.map(counted).collect()
    })
}

#[test]
fn python_s_websockets_behaves_as_without_the_guard_and_understands_it() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("websocket").start().unwrap();
    let _server = serve(&world, &python).unwrap();
    let room = open(&world).unwrap();

    let words = |what| words(&python, what);
    let free = ungoverned(&world, words("same"))
        .unwrap()
        .success()
        .unwrap();
    assert!(free.stdout.starts_with("None\nstr 6 "), "{free}");
    assert!(free.stdout.contains("permessage-deflate"), "{free}");
    assert!(
        free.stdout.ends_with("one, and no more\n4001 enough\n"),
        "{free}"
    );
    let echo = row("allow", "/echo", "rule_allow");
    let close = row("allow", "/close", "rule_allow");
    let rows = [query(), query(), query(), echo.clone(), echo.clone(), close];
    let ran = room.call(inspected(&room, &words("same")), &rows).unwrap();
    let output = ran.output.success().unwrap();
    assert_eq!(output.stdout, free.stdout);
    assert_eq!(messages(&room).unwrap(), [(9, 9), (9, 9), (0, 1)]);

    let rows = [query(), row("deny", "/secrets/1", "rule_deny")];
    let ran = room
        .call(inspected(&room, &words("denied")), &rows)
        .unwrap();
    let output = ran.output.success().unwrap();
    assert!(output.stdout.contains("403"), "{output}");
    assert!(
        output.stdout.contains("Secrets stay where they are."),
        "{output}"
    );

    changed(&room, &words("changed"), &echo).unwrap();
    room.close().unwrap();
}

/// A socket that is open when a policy comes that denies it.
fn changed(room: &Room<'_>, words: &[OsString], echo: &str) -> Result<()> {
    let process = inspected(room, words).spawn()?;
    wait_until("the socket", LATE, || {
        process.stdout().contains("open").then_some(())
    })
    .with_context(|| process.stderr())?;
    fs::write(room.guard.policy(), format!("{}{LATER}", POLICY.trim_end()))?;
    room.guard
        .cli()
        .args(["policy", "reload"])
        .run()?
        .success()?;
    let output = process.wait(Duration::from_secs(20))?.success()?;
    let rows = [query(), echo.to_owned(), row("deny", "/echo", "rule_deny")];
    let decisions = room.rows(&rows)?;
    let denied = decisions.iter().find(|it| it.verdict == Verdict::Deny);
    let id = denied.context("no denial")?.id;
    let (_, told) = output
        .stdout
        .split_once("open\n")
        .context("it was not open")?;
    ensure!(
        told.starts_with("1008 ")
            && told.contains("No more of this.")
            && told.contains(&id.to_string()),
        "{output}"
    );
    Ok(())
}

const NODE: &str = r#"
const socket = new WebSocket('wss://api.example.com:8443/echo');
socket.binaryType = 'arraybuffer';
const messages = ['a text', 'x'.repeat(2000000), new Uint8Array(3000000).fill(7)];
const next = () => messages.length ? socket.send(messages.shift()) : socket.close(4000, 'bye');
socket.onopen = next;
socket.onmessage = ({ data }) => { console.log(typeof data, data.length ?? data.byteLength); next(); };
socket.onerror = () => console.log('error');
socket.onclose = ({ code, reason, wasClean }) => console.log(code, reason, wasClean);
"#;

#[test]
fn node_s_websocket_behaves_as_without_the_guard() {
    let (Some(node), Some(python)) = (node().unwrap(), client::python().unwrap()) else {
        return;
    };
    let world = world("websocket-node").start().unwrap();
    let _server = serve(&world, &python).unwrap();
    let room = open(&world).unwrap();
    let words = node.words(&["--experimental-websocket", "--no-warnings", "-e", NODE]);
    let free = ungoverned(&world, words.clone())
        .unwrap()
        .success()
        .unwrap();
    assert_eq!(
        free.stdout,
        "string 6\nstring 2000000\nobject 3000000\n4000 bye true\n"
    );
    let rows = [query(), row("allow", "/echo", "rule_allow")];
    let ran = room.call(inspected(&room, &words), &rows).unwrap();
    let output = ran.output.success().unwrap();
    assert_eq!(output.stdout, free.stdout);
    assert_eq!(messages(&room).unwrap(), [(3, 3)]);
    room.close().unwrap();
}

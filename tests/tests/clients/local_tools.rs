//! Tools on the agent's own host: servers of the Model Context Protocol that a client starts by `agentguard mcp wrap`.

use std::ffi::OsString;
use std::path::Path;

use agentguard_model::{ActionKind, Decision, Layer, Verdict};
use agentguard_tests::{Output, World, client, wait_until};
use anyhow::{Context as _, Result, ensure};

use crate::room::{AGENT, LATE, Room, world};

const POLICY: &str = "
version: 1
tool_servers:
  - { name: files, api: mcp_stdio, list: allowed }
  - { name: everything, api: mcp_stdio, list: allowed }
agents:
  - name: coder
rules:
  - id: data
    match: { tool: { server: [files], name: [read, write], arguments: { /path: ['/data/*'] } } }
    action: allow
  - id: no-writing
    match: { tool: { server: [files], name: [write] } }
    action: deny
    reason: Agents do not write.
  - id: some
    match: { tool: { server: [everything], name: [echo, get-sum] } }
    action: allow
";

fn open<'w>(world: &'w World) -> Result<Room<'w>> {
    Ok(Room::of(world, world.guard().policy(POLICY).start()?))
}

/// The words of a client that does all of this with a server, which it starts through the guard or as it is.
pub(crate) fn words(
    room: &Room<'_>,
    python: &Path,
    what: &[&str],
    server: Option<&str>,
    command: &[OsString],
) -> Vec<OsString> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/mcp_stdio.py");
    let mut words: Vec<OsString> = vec![python.into(), script.into()];
    words.extend(what.iter().map(OsString::from));
    words.push("--".into());
    if let Some(server) = server {
        words.extend([room.guard.program().into(), "--config".into()]);
        words.push(room.guard.config().into());
        words.extend(["mcp", "wrap", "--server", server, "--"].map(OsString::from));
    }
    words.extend(command.iter().cloned());
    words
}

pub(crate) fn files(python: &Path) -> Vec<OsString> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/mcp_stdio_server.py");
    vec![python.into(), script.into()]
}

pub(crate) fn governed(room: &Room<'_>, words: &[OsString]) -> Result<Output> {
    let run = ["run", "--agent", AGENT, "--purpose", "tests", "--"];
    room.guard.cli().args(run).args(words).run()?.success()
}

/// What was decided on tools, once there are so many calls, each with what came of it.
fn calls(room: &Room<'_>, count: usize) -> Result<Vec<Decision>> {
    wait_until("the calls", LATE, || {
        let decisions = room.guard.verdicts().ok()?.into_iter();
        let is_call = |it: &Decision| {
            let tool = it.action.tool.as_ref();
            tool.is_some_and(|tool| tool.name.is_some())
        };
        let calls: Vec<_> = decisions.filter(is_call).collect();
        let whole = |it: &Decision| it.verdict == Verdict::Deny || it.outcome.is_some();
        (calls.len() == count && calls.iter().all(whole)).then_some(calls)
    })
}

#[test]
fn a_client_calls_what_is_allowed_as_without_the_guard_and_is_told_of_the_rest() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("local-tools").start().unwrap();
    let room = open(&world).unwrap();
    let what = [
        "list",
        "read=/data/a",
        "read=/etc/shadow",
        "write=/data/b",
        "secret",
        "read=/data/c",
    ];
    let free = governed(&room, &words(&room, &python, &what, None, &files(&python))).unwrap();
    assert!(
        free.stdout.contains("read False what is in /etc/shadow"),
        "{free}"
    );
    let wrapped = words(&room, &python, &what, Some("files"), &files(&python));
    let output = governed(&room, &wrapped).unwrap();
    let calls = calls(&room, 4).unwrap();
    let check = || -> Result<()> {
        let lines: Vec<_> = output.stdout.lines().collect();
        let [list, read, shadow, write, secret, last] = lines.as_slice() else {
            anyhow::bail!("{} lines", lines.len());
        };
        // `write` is denied whatever its arguments.
        ensure!(*list == "read", "{list}");
        ensure!(*read == "read False what is in /data/a", "{read}");
        ensure!(shadow.starts_with("read True No rule allows coder to call read of files."));
        ensure!(
            write.starts_with("write True Agents do not write."),
            "{write}"
        );
        ensure!(secret.contains("No rule allows coder to send resources/read to files."));
        ensure!(*last == "read False what is in /data/c", "{last}");
        let [first, denied, forbidden, second] = calls.as_slice() else {
            anyhow::bail!("{} calls", calls.len());
        };
        ensure!(shadow.contains(&denied.id.to_string()), "{shadow}");
        ensure!(write.contains(&forbidden.id.to_string()), "{write}");
        for (call, verdict) in [
            (first, Verdict::Allow),
            (denied, Verdict::Deny),
            (second, Verdict::Allow),
        ] {
            ensure!(call.verdict == verdict, "{call:?}");
            ensure!(call.layer == Layer::Hook && call.action.kind == ActionKind::ToolCall);
            ensure!(
                call.agent
                    .as_ref()
                    .is_some_and(|it| it.name.as_str() == "coder")
            );
            ensure!(
                call.process
                    .as_ref()
                    .is_some_and(|it| it.comm == "agentguard")
            );
            ensure!(
                call.context.purpose.as_deref() == Some("tests"),
                "it is of a run"
            );
        }
        let outcome = first.outcome.as_ref().and_then(|it| it.tool.as_ref());
        ensure!(outcome.is_some_and(|it| it.results.len() == 1 && !it.results[0].is_error));
        Ok(())
    };
    check()
        .with_context(|| format!("{output}\n{}", room.guard.log()))
        .unwrap();
    let reached: Vec<_> = output
        .stderr
        .lines()
        .filter(|it| it.starts_with("called"))
        .collect();
    assert_eq!(
        reached,
        ["called read /data/a", "called read /data/c"],
        "{output}"
    );
    let explain = room.guard.cli().arg("explain").arg(calls[1].id.to_string());
    let explained = explain.run().unwrap().success().unwrap().stdout;
    assert!(
        explained.contains("a message on the agent's own host, tool read of files"),
        "{explained}"
    );
    assert!(explained.contains("data"), "{explained}");
}

/// What a rule changes in a call the server gets changed; what cannot be changed it does not get.
#[test]
fn a_call_goes_on_as_its_rule_changes_it() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("local-changed").start().unwrap();
    let changes = "
  - id: elsewhere
    match: { tool: { server: [files], name: [read], arguments: { /path: ['/data/a*'] } } }
    action: modify
    modify:
      json_patch:
        - { op: test, path: /path, value: /data/a }
        - { op: replace, path: /path, value: /data/other }
";
    let policy = format!("{POLICY}{changes}");
    let room = Room::of(&world, world.guard().policy(&policy).start().unwrap());
    let what = ["read=/data/a", "read=/data/ab", "read=/data/c"];
    let wrapped = words(&room, &python, &what, Some("files"), &files(&python));
    let output = governed(&room, &wrapped).unwrap();
    let lines: Vec<_> = output.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{output}\n{}", room.guard.log());
    assert_eq!(lines[0], "read False what is in /data/other", "{output}");
    assert!(
        lines[1].starts_with("read True What the policy changes in this cannot be changed"),
        "{output}"
    );
    assert_eq!(lines[2], "read False what is in /data/c", "{output}");
    let called = output.stderr.lines().filter(|it| it.starts_with("called"));
    let called: Vec<_> = called.collect();
    assert_eq!(called, ["called read /data/other", "called read /data/c"]);
}

/// The TypeScript SDK's server that has everything.
#[test]
fn the_typescript_sdks_server_works_behind_it() {
    let (Some(python), Some((node, packages))) =
        (client::python().unwrap(), client::node_packages().unwrap())
    else {
        return;
    };
    let world = world("local-everything").start().unwrap();
    let room = open(&world).unwrap();
    let program = packages.join("@modelcontextprotocol/server-everything/dist/index.js");
    let command: [OsString; 3] = [node.into(), program.into(), "stdio".into()];
    let what = [
        "list",
        "echo={\"message\":\"hi\"}",
        "get-sum={\"a\":1,\"b\":2}",
        "get-env={}",
    ];
    let wrapped = words(&room, &python, &what, Some("everything"), &command);
    let output = governed(&room, &wrapped).unwrap();
    let lines: Vec<_> = output.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{output}\n{}", room.guard.log());
    assert_eq!(lines[0], "echo get-sum", "{output}");
    assert_eq!(lines[1], "echo False Echo: hi", "{output}");
    assert!(lines[2].starts_with("get-sum False "), "{output}");
    assert!(
        lines[3].starts_with("get-env True No rule allows coder to call get-env"),
        "{output}"
    );
}

/// A server in a few words: it says which request it got.
const SERVER: &str = r#"while read -r line; do
  id=$(printf %s "$line" | sed 's/.*"id":\([0-9]*\).*/\1/')
  printf '{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"did %s"}]}}\n' "$id" "$id"
done"#;

/// While the daemon is gone nothing goes on, and what was begun before it went goes on with the next one.
#[test]
fn a_daemon_that_goes_and_comes_is_asked_again() {
    let world = world("local-restart").start().unwrap();
    let mut room = open(&world).unwrap();
    let cgroup = room.guard.agent_cgroup(AGENT).unwrap();
    let flags = world.directory().join("flags");
    std::fs::create_dir(&flags).unwrap();
    let said = |id: u32| {
        format!(
            r#"echo '{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"read","arguments":{{"path":"/data/a"}}}}}}'"#
        )
    };
    let once = |name: &str| {
        format!(
            "until [ -e {}/{name} ]; do sleep 0.05; done",
            flags.display()
        )
    };
    let client = [
        said(1),
        once("gone"),
        said(2),
        once("back"),
        said(3),
        once("done"),
    ]
    .join("; ");
    let wrap = format!(
        "{} --config {} mcp wrap --server files -- sh -c \"$SERVER\"",
        room.guard.program().display(),
        room.guard.config().display()
    );
    let script = format!("({client}) | {wrap}");
    let words = ["sh", "-c", script.as_str()];
    let agent = room.guard.within(&cgroup, words).env("SERVER", SERVER);
    let agent = agent.spawn().unwrap();
    let answers = |count: usize| {
        wait_until("the answer", LATE, || {
            let stdout = agent.stdout();
            let lines: Vec<String> = stdout.lines().map(str::to_owned).collect();
            (lines.len() == count).then_some(lines)
        })
        .with_context(|| format!("{}\n{}", agent.stdout(), agent.stderr()))
        .unwrap()
    };
    assert!(answers(1)[0].contains("did 1"), "{}", agent.stdout());
    room.guard.stop().unwrap();
    std::fs::write(flags.join("gone"), "").unwrap();
    let refused = answers(2).remove(1);
    assert!(refused.contains(r#""isError":true"#), "{refused}");
    assert!(refused.contains("daemon_lost"), "{refused}");
    room.guard.start().unwrap();
    std::fs::write(flags.join("back"), "").unwrap();
    assert!(answers(3)[2].contains("did 3"), "{}", agent.stdout());
    std::fs::write(flags.join("done"), "").unwrap();
    let output = agent.wait(LATE).unwrap();
    assert_eq!(output.code(), 0, "{output}");
    // The second one was never asked about.
    let verdicts = calls(&room, 2).unwrap();
    assert!(verdicts.iter().all(|it| it.verdict == Verdict::Allow));
}

/// Nobody but agents is answered, so that nothing goes on.
#[test]
fn outside_of_an_agent_nothing_is_decided_and_nothing_goes_on() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("local-outside").start().unwrap();
    let room = open(&world).unwrap();
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{"path":"/data/a"}}}"#;
    let wrap = room
        .guard
        .cli()
        .args(["mcp", "wrap", "--server", "files", "--"]);
    let output = wrap
        .args(files(&python))
        .input(format!("{call}\n"))
        .run()
        .unwrap();
    assert!(
        output.stdout.contains("the caller is no agent's"),
        "{output}"
    );
    assert!(!output.stderr.contains("called"), "{output}");
}

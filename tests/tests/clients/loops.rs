//! Loops and runaways: rows of failures, calls that bring nothing new, and chains of agents, on whichever way they go; and
//! operators who have them counted anew.

use std::path::Path;

use agentguard_model::{Decision, ReasonCode, Verdict};
use agentguard_tests::{Output, client, wait_until};
use anyhow::Result;
use serde_json::json;

use crate::agents::Stage;
use crate::inspected::inspected;
use crate::room::{LATE, Room, SITE, world};
use crate::serving::trusting;
use crate::{local_tools, mcp, turns};

/// Why limits have refused something, once there are so many refusals.
fn refused(room: &Room<'_>, count: u64) -> Result<Vec<(ReasonCode, String)>> {
    let denied = wait_until("the denials", LATE, || {
        let mut denied: Vec<Decision> = room.guard.verdicts().ok()?;
        denied.retain(|it| it.verdict == Verdict::Deny);
        let all: u64 = denied.iter().map(|it| it.count).sum();
        (all >= count).then_some(denied)
    })?;
    let told = denied
        .iter()
        .filter_map(|it| Some((it.reason.code, it.matched.first()?.rule.clone())));
    Ok(told.collect())
}

fn run(room: &Room<'_>, python: &Path, what: &str) -> Result<Output> {
    inspected(room, &turns::words(python, what))
        .run()?
        .success()
}

/// The ends of turns, without their words.
fn ends(output: &Output) -> Vec<String> {
    let lines = output.stdout.lines();
    let lines = lines.filter(|line| !line.ends_with("began"));
    let end = |line: &str| {
        line.split(' ')
            .skip(1)
            .take(2)
            .collect::<Vec<_>>()
            .join(" ")
    };
    lines.map(end).collect()
}

fn order(room: &Room<'_>, words: &[&str]) -> Result<Output> {
    room.guard.cli().args(words).run()
}

/// Its client is told so in the form of a turn; another model is another row, and an operator ends it.
#[test]
fn turns_on_a_websocket_that_fail_in_a_row_are_left_alone_until_an_operator_says_so() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let stage = Stage::new("loops-retries", &python).unwrap();
    let limits = "
limits:
  - { id: storm, retries: { failures: 2, within: 1h }, per: [agent] }
";
    let room = stage.room(limits).unwrap();
    let calls = |what: &str| ends(&run(&room, &python, what).unwrap());
    // One that goes well ends the row.
    let told = calls("gpt-4o fail gpt-4o 5 gpt-4o fail gpt-4o fail gpt-4o 5 gpt-4o-mini 5");
    assert_eq!(
        told,
        [
            "response.failed None",
            "response.completed None",
            "response.failed None",
            "response.failed None",
            "response.failed retry_storm",
            "response.completed None",
        ]
    );
    let expected = (ReasonCode::RetryStorm, "storm".to_owned());
    assert_eq!(refused(&room, 1).unwrap(), [expected]);
    let done = order(
        &room,
        &[
            "limits",
            "reset",
            "storm/agent=coder",
            "--reason",
            "ticket 42",
        ],
    )
    .unwrap();
    assert_eq!(done.code(), 0, "{done}");
    assert_eq!(calls("gpt-4o 5"), ["response.completed None"]);
    let recorded = room.guard.verdicts().unwrap();
    let mut deeds = recorded
        .iter()
        .filter(|it| it.action.method.as_deref() == Some("limit_reset"));
    let deed = deeds.next().unwrap();
    assert!(deed.reason.message.ends_with(": ticket 42"), "{deed:?}");
    assert_eq!(deed.agent.as_ref().unwrap().name.as_str(), "coder");
    assert_eq!(deed.context.uid(), Some(0));
    let none = order(&room, &["limits", "reset", "storm"]).unwrap();
    assert_eq!(none.code(), 1, "{none}");
    assert!(none.stderr.contains("nothing was counted"), "{none}");
}

/// The model asks for the same call of its tool each time.
#[test]
fn turns_on_a_websocket_that_bring_nothing_new_are_stopped() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let stage = Stage::new("loops-stuck", &python).unwrap();
    let limits = "
limits:
  - { id: stuck, no_progress: { calls: 2, within: 1h }, per: [agent], reason: Think of something else. }
";
    let room = stage.room(limits).unwrap();
    let output = run(&room, &python, &["gpt-4o 5"; 4].join(" ")).unwrap();
    let told = ends(&output);
    let whole = "response.completed None";
    assert_eq!(told, [whole, whole, whole, "error no_progress"], "{output}");
    let expected = (ReasonCode::NoProgress, "stuck".to_owned());
    assert_eq!(refused(&room, 1).unwrap(), [expected]);
}

/// Over MCP what a call brings is what its result says: what fails in a row is left alone, and what brings nothing new ends.
#[test]
fn calls_of_a_server_of_tools_that_fail_or_bring_nothing_new_are_stopped() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let host = mcp::HOST;
    let (world, _server) = mcp::world("loops-tools", &python).unwrap();
    let policy = format!(
        "
version: 1
tool_servers:
  - {{ name: files, api: mcp, hosts: [{host}], paths: [/mcp] }}
agents:
  - name: coder
rules:
  - {{ id: all, match: {{ host: [{host}], port: [8443] }}, action: allow, handling: inspect }}
limits:
  - {{ id: storm, retries: {{ failures: 2, within: 1h }}, per: [agent], reason: Leave it alone. }}
  - {{ id: stuck, no_progress: {{ calls: 3, within: 1h }}, per: [agent], reason: Think of something else. }}
"
    );
    let room = trusting(&world, host, &policy).unwrap();
    let what = [
        "fail=/data/a",
        "fail=/data/b",
        "fail=/data/c",
        "read=/data/a",
    ];
    let output = mcp::governed(&room, &python, "stateless", &what).unwrap();
    assert_eq!(
        output.stdout.matches("Leave it alone").count(),
        1,
        "{output}"
    );
    assert!(output.stdout.contains("what is in /data/a"), "{output}");
    let what = [
        "read=/data/a",
        "read=/data/a",
        "read=/data/a",
        "read=/data/a",
        "read=/data/b",
    ];
    let output = mcp::governed(&room, &python, "stateless", &what).unwrap();
    let stopped = output.stdout.matches("Think of something else.").count();
    assert_eq!(stopped, 1, "{output}");
    // Which is new.
    assert!(output.stdout.contains("what is in /data/b"), "{output}");
    let codes: Vec<_> = refused(&room, 2)
        .unwrap()
        .into_iter()
        .map(|it| it.0)
        .collect();
    assert_eq!(codes, [ReasonCode::RetryStorm, ReasonCode::NoProgress]);
}

/// Of tools on the agent's own host nobody tells the result: what was not called lately is new.
#[test]
fn calls_of_tools_on_the_agents_own_host_that_bring_nothing_new_are_stopped() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("loops-stdio").start().unwrap();
    let policy = "
version: 1
tool_servers:
  - { name: files, api: mcp_stdio }
  - { name: claude-code, api: hook }
agents:
  - name: coder
rules:
  - { id: all, match: { tool: { server: [files, claude-code] } }, action: allow }
limits:
  - { id: stuck, no_progress: { calls: 2, within: 1h }, tool: { server: [files] }, reason: Think of something else. }
  - { id: loops, repeats: { calls: 2, within: 1h }, tool: { server: [claude-code] }, reason: Not again. }
";
    let room = Room::of(&world, world.guard().policy(policy).start().unwrap());
    let what = [
        "read=/data/a",
        "read=/data/a",
        "read=/data/a",
        "read=/data/a",
        "read=/data/b",
    ];
    let files = local_tools::files(&python);
    let wrapped = local_tools::words(&room, &python, &what, Some("files"), &files);
    let output = local_tools::governed(&room, &wrapped).unwrap();
    let told: Vec<_> = output.stdout.lines().collect();
    let [.., before, stopped, new] = told.as_slice() else {
        panic!("{output}\n{}", room.guard.log());
    };
    assert_eq!(*before, "read False what is in /data/a", "{output}");
    assert!(stopped.contains("Think of something else."), "{output}");
    assert_eq!(*new, "read False what is in /data/b", "{output}");
    // As Claude Code asks before it uses a tool.
    let asks = |command: &str| {
        let asked = json!({ "session_id": "s", "hook_event_name": "PreToolUse", "tool_name": "Bash",
            "tool_input": { "command": command } });
        let program = room.guard.program().display().to_string();
        let config = room.guard.config().display().to_string();
        let words = [
            "run",
            "--agent",
            "coder",
            "--",
            &program,
            "--config",
            &config,
            "hook",
            "claude-code",
        ];
        let output = room.guard.cli().args(words).input(asked.to_string()).run();
        format!("{}", output.unwrap())
    };
    for (command, denied) in [("ls", false), ("ls", false), ("ls", true), ("pwd", false)] {
        let told = asks(command);
        assert_eq!(told.contains("Not again."), denied, "{command}: {told}");
        assert_eq!(told.contains("\"deny\""), denied, "{command}: {told}");
    }
    let codes: Vec<_> = refused(&room, 2).unwrap();
    let expected = [
        (ReasonCode::NoProgress, "stuck"),
        (ReasonCode::RepeatedCall, "loops"),
    ];
    assert_eq!(codes, expected.map(|(code, id)| (code, id.to_owned())));
}

/// Agents that wait for each other in one trace: one that is trusted with it says which.
#[test]
fn a_chain_of_agents_has_an_end() {
    let world = world("loops-depth").start().unwrap();
    let policy = format!(
        "
version: 1
tool_servers:
  - {{ name: planner, api: http, hosts: [{SITE}], tools: [{{ name: ask, method: [GET], path: '/delay/{{ms}}' }}] }}
agents:
  - {{ name: coder, trusts: [traceparent] }}
rules:
  - {{ id: all, match: {{ host: [{SITE}], port: [443] }}, action: allow, handling: inspect }}
limits:
  - {{ id: chains, depth: {{ calls: 2 }}, tool: {{ server: [planner] }}, reason: They go round in circles. }}
"
    );
    let upstreams = json!([{ "host": ["*.example.com"], "ca": world.ca_file() }]);
    let guard = world.guard().policy(&policy);
    let room = Room::of(
        &world,
        guard.setting("upstreams", upstreams).start().unwrap(),
    );
    let url = format!("https://{SITE}/delay/30000");
    let call = |trace: char| {
        let trace = format!(
            "traceparent: 00-{}-00f067aa0ba902b7-01",
            trace.to_string().repeat(32)
        );
        let words = ["curl", "-sS", "-i", "--max-time", "60", "-H", &trace, &url];
        inspected(&room, &words)
    };
    let under_way = |count: u64| {
        wait_until("the calls", LATE, || {
            let listed = order(&room, &["limits", "list", "-o", "json"]).ok()?.stdout;
            let listed: serde_json::Value = serde_json::from_str(&listed).ok()?;
            let deepest = listed.as_array()?.first()?["count"].as_u64()?;
            (deepest == count).then_some(())
        })
        .unwrap();
    };
    let first = call('a').spawn().unwrap();
    under_way(1);
    let second = call('a').spawn().unwrap();
    under_way(2);
    let third = call('a').run().unwrap();
    assert!(third.stdout.starts_with("HTTP/2 403"), "{third}");
    assert!(
        third.stdout.contains("They go round in circles."),
        "{third}"
    );
    // Another chain.
    let other = call('b').spawn().unwrap();
    wait_until("the other one's call", LATE, || {
        let passed = room.guard.verdicts().ok()?;
        let allowed = passed.iter().filter(|it| it.action.path.is_some());
        (allowed.filter(|it| it.verdict == Verdict::Allow).count() == 3).then_some(())
    })
    .unwrap();
    let refusal = order(&room, &["limits", "reset", "chains"]).unwrap();
    assert_eq!(refusal.code(), 1, "{refusal}");
    assert!(refusal.stderr.contains("under way"), "{refusal}");
    drop((first, second, other));
    let expected = (ReasonCode::ChainTooDeep, "chains".to_owned());
    assert_eq!(refused(&room, 1).unwrap(), [expected]);
}

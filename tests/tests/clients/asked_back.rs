//! What servers of tools ask of their clients in the midst of calls, by the MCP SDK on both sides, inside inspected TLS.

use agentguard_model::{Decision, Verdict};
use agentguard_tests::{World, client, wait_until};
use anyhow::Result;

use crate::mcp::{HOST, REASON, governed, words, world};
use crate::room::{LATE, Room, ungoverned};
use crate::serving::trusting;

/// What each of the two tools asks its client for.
const ASKED: [(&str, &str); 2] = [
    ("think", "sampling/createMessage"),
    ("confirm", "elicitation/create"),
];

/// Both tools may be called, and clients may answer what these rules say.
fn open<'w>(world: &'w World, answers: &str) -> Result<Room<'w>> {
    let policy = format!(
        "
version: 1
tool_servers:
  - {{ name: files, api: mcp, hosts: [{HOST}], paths: [/mcp, /sse, '/messages/**'], list: allowed }}
agents:
  - name: coder
rules:
  - id: tools
    match:
      host: [{HOST}]
      port: [8443]
      tool: {{ name: [think, confirm] }}
    action: allow
    handling: inspect
{answers}"
    );
    trusting(world, HOST, &policy)
}

/// The decisions on answers of the client's, once there are as many.
fn answers(room: &Room<'_>, count: usize) -> Result<Vec<Decision>> {
    let is = |it: &Decision| {
        let tool = it.action.tool.as_ref();
        tool.is_some_and(|tool| !tool.answers.is_empty())
    };
    wait_until("the answers", LATE, || {
        let mut decisions = room.guard.verdicts().ok()?;
        decisions.retain(is);
        (decisions.len() == count).then_some(decisions)
    })
}

#[test]
fn what_servers_ask_of_their_clients_is_answered_as_without_the_guard_where_rules_allow_it() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let (world, _server) = world("mcp-asked", &python).unwrap();
    let rule = format!(
        "  - id: answers
    match: {{ host: [{HOST}], port: [8443], tool: {{ method: [sampling/createMessage, elicitation/create] }} }}
    action: allow
    handling: inspect
"
    );
    let room = open(&world, &rule).unwrap();
    let what = ["think=/data/a", "confirm=/data/b"];
    let ways = ["session", "session=2025-06-18", "sse"];
    for (n, how) in ways.into_iter().enumerate() {
        let free = ungoverned(&world, words(&python, how, &what)).unwrap();
        let free = free.success().unwrap();
        let told =
            "sampled What of /data/a?\nFalse thought\nelicited Is it /data/b?\nFalse accept\n";
        assert_eq!(free.stdout, told, "{how}\n{free}");
        let output = governed(&room, &python, how, &what).unwrap();
        assert_eq!(output.stdout, told, "{how}\n{output}\n{}", room.guard.log());
        let answers = answers(&room, 2 * (n + 1)).unwrap();
        for (answer, (_, method)) in answers[2 * n..].iter().zip(ASKED) {
            let tool = answer.action.tool.as_ref().unwrap();
            assert_eq!(tool.answers, [method], "{how}");
            assert_eq!(answer.verdict, Verdict::Allow);
            assert_eq!(answer.matched[0].rule, "answers");
        }
    }
    // With what it came in: with the call that it was asked in, or with the stream of the session.
    let asked = wait_until("the questions", LATE, || {
        let decisions = room.guard.verdicts().ok()?;
        let told = decisions
            .into_iter()
            .filter(|it| it.action.path.as_deref() == Some("/mcp"))
            .filter_map(|it| it.outcome?.tool);
        let asked: Vec<_> = told.flat_map(|it| it.asked).collect();
        (asked.len() == 4).then_some(asked)
    });
    let [(_, sampling), (_, elicitation)] = ASKED;
    assert_eq!(
        asked.unwrap(),
        [sampling, elicitation, sampling, elicitation]
    );
}

#[test]
fn an_answer_that_is_denied_does_not_come_to_the_server_that_asked() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let (world, server) = world("mcp-unanswered", &python).unwrap();
    let rules = format!(
        "  - id: confirmations
    match: {{ host: [{HOST}], port: [8443], tool: {{ method: [elicitation/create] }} }}
    action: allow
    handling: inspect
  - id: no-sampling
    match: {{ host: [{HOST}], tool: {{ method: [sampling/createMessage] }} }}
    action: deny
    reason: {REASON}
"
    );
    let room = open(&world, &rules).unwrap();
    let what = ["confirm=/data/a", "think=/data/b", "confirm=/data/c"];
    for (n, how) in ["session", "sse"].into_iter().enumerate() {
        let output = governed(&room, &python, how, &what).unwrap();
        let lines: Vec<_> = output.stdout.lines().collect();
        let log = room.guard.log();
        let [_, first, sampled, unanswered, _, last] = lines.as_slice() else {
            panic!("{how}\n{output}\n{log}");
        };
        assert_eq!(
            (*first, *last),
            ("False accept", "False accept"),
            "{output}"
        );
        // Its model was asked, and nobody learns what it said.
        assert_eq!(*sampled, "sampled What of /data/b?");
        assert!(unanswered.starts_with("MCPError"), "{how}\n{output}\n{log}");
        let answers = answers(&room, 3 * (n + 1)).unwrap();
        let verdicts: Vec<_> = answers[3 * n..].iter().map(|it| it.verdict).collect();
        assert_eq!(verdicts, [Verdict::Allow, Verdict::Deny, Verdict::Allow]);
        let denied = &answers[3 * n + 1];
        assert_eq!(denied.matched[0].rule, "no-sampling");
        assert_eq!(denied.action.tool.as_ref().unwrap().answers, [ASKED[0].1]);
    }
    let arrived = server.stdout();
    let arrived: Vec<_> = arrived
        .lines()
        .filter(|it| it.starts_with("answered"))
        .collect();
    assert_eq!(arrived, ["answered accept"; 4]);
}

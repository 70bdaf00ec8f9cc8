//! Connections to upstreams, which the clients do not see.

use agentguard_tests::World;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::room::{AGENT, Program, Room, SITE, world};

const ANOTHER: &str = "another";

const POLICY: &str = "
version: 1
agents:
  - name: coder
  - name: another
rules:
  - id: inside
    match: { host: [api.example.com], port: [443], method: [GET] }
    action: allow
    handling: inspect
  - id: clear
    match: { host: [api.example.com], port: [80], method: [GET] }
    action: allow
";

fn open(world: &World) -> Result<Room<'_>> {
    let upstreams = json!([{ "host": ["*.example.com"], "ca": world.ca_file() }]);
    let guard = world.guard().policy(POLICY).setting("upstreams", upstreams);
    Ok(Room::of(world, guard.start()?))
}

/// Calls as an agent, in a run of its own, and says from where the origin saw it come.
fn peer(room: &Room<'_>, agent: &str, curl: &Program, words: &[&str]) -> Result<String> {
    let url = words.last().context("no words")?;
    let port = if url.starts_with("https") { 443 } else { 80 };
    let rows = [
        format!("allow dns dns_query {SITE}:53 rule_allow"),
        format!("allow proxy http_request {SITE}:{port} GET /who rule_allow"),
    ];
    let words = [&["-sS", "--max-time", "10"], words].concat();
    let run = ["run", "--agent", agent, "--"];
    let call = room.guard.cli().args(run).args(curl.words(&words));
    let ran = room.call(call, &rows)?;
    for decision in &ran.decisions {
        let whose = decision.agent.as_ref().map(|agent| agent.name.to_string());
        ensure!(whose.as_deref() == Some(agent), "{whose:?}");
    }
    let output = ran.output.success()?;
    let told: Value = serde_json::from_str(&output.stdout)?;
    let peer = told.get("peer").and_then(Value::as_str);
    Ok(peer.context("the origin does not say it")?.to_owned())
}

#[test]
fn an_upstream_connection_serves_one_agent_s_calls_one_after_the_other() {
    let Some(curl) = Program::find("curl").unwrap() else {
        return;
    };
    let world = world("pooled").start().unwrap();
    let room = open(&world).unwrap();
    for words in [
        &["https://api.example.com/who"][..],
        &["--http1.1", "https://api.example.com/who"],
        &["http://api.example.com/who"],
    ] {
        let ask = |agent| peer(&room, agent, &curl, words).unwrap();
        let (first, other) = (ask(AGENT), ask(ANOTHER));
        assert_eq!(ask(AGENT), first, "{words:?}");
        assert_eq!(ask(ANOTHER), other, "{words:?}");
        assert_ne!(first, other, "{words:?}");
    }
    room.close().unwrap();
}

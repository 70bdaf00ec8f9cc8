//! Real agents: Claude Code and Codex CLI run whole turns, with a call of a tool, against their providers.
//!
//! They know nothing of the guard but the variables that `run` sets, and get an API key that says nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentguard_model::contents::{Content, Contents, Kept};
use agentguard_model::{ActionKind, Decision, Layer, Verdict};
use agentguard_tests::{Invocation, Origin, Output, Process, World, address, client, wait_until};
use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::inspected::inspected;
use crate::room::{LATE, Room, all};
use crate::serving::serving;

const NAMES: [&str; 3] = ["api.openai.com", "chatgpt.com", "api.anthropic.com"];

/// How long an agent may take for a turn. Codex tries five times, longer and longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const POLICY: &str = "
version: 1
agents:
  - name: coder
rules:
  - id: providers
    match: { host: [api.openai.com, chatgpt.com, api.anthropic.com], port: [443] }
    action: allow
    handling: inspect
";

/// One more rule: over HTTPS alone.
pub(crate) const HTTPS: &str = "
  - id: no-websocket
    match: { host: [api.openai.com], protocol: [websocket] }
    action: deny
    reason: Calls go over HTTPS here.
";

const REASON: &str = "No shell for this model, says the security team.";

/// One more rule: no call that offers a shell.
const NO_SHELL: &str = "
  - id: no-shell
    match: { host: [api.openai.com, api.anthropic.com], llm: { tools: [exec_command, Bash] } }
    action: deny
    reason: No shell for this model, says the security team.
";

/// One more rule: no answer that asks for one.
const NO_CALLS: &str = "
  - id: no-calls
    match: { host: [api.openai.com, api.anthropic.com], llm: { tool_calls: [exec_command, Bash] } }
    action: deny
    reason: No shell for this model, says the security team.
";

/// The same, where the rest of the answer goes on.
const CUT: &str = "
    answer: cut
";

/// An agent, and where it keeps things.
pub(crate) struct Agent {
    program: PathBuf,
    /// Its own choice, if absent.
    pub(crate) model: Option<&'static str>,
    /// More words of its own.
    pub(crate) settings: &'static [&'static str],
    home: PathBuf,
}

/// A world with the providers in it.
pub(crate) struct Stage {
    pub(crate) world: World,
    server: Process,
}

impl Stage {
    pub(crate) fn new(name: &str, python: &Path) -> Result<Self> {
        let origin = Origin::at(&address::origin(0x10)).leave(443);
        let origin = NAMES.into_iter().fold(origin, Origin::site);
        let world = World::new(name).origin(origin).start()?;
        let (certificate, key) = world.ca().certify_pem(&NAMES.map(str::to_owned))?;
        let files = ["server.pem", "server-key.pem"].map(|name| world.directory().join(name));
        fs::write(&files[0], certificate)?;
        fs::write(&files[1], key)?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/agents_server.py");
        let server = world.internet().command(python);
        let server = serving(server.arg(script).arg("443").args(files))?;
        Ok(Self { world, server })
    }

    pub(crate) fn room(&self, more: &str) -> Result<Room<'_>> {
        let upstreams = json!([{ "host": NAMES, "ca": self.world.ca_file() }]);
        let guard = self.world.guard().policy(&format!("{POLICY}{more}"));
        let guard = guard.setting("upstreams", upstreams).start()?;
        Ok(Room::of(&self.world, guard))
    }

    /// What the provider says of the calls that arrived.
    pub(crate) fn calls(&self) -> Vec<Told> {
        let stdout = self.server.stdout();
        let lines = stdout.lines().filter(|line| line.starts_with('{'));
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

/// What a provider knows of a call.
#[derive(Debug, Deserialize)]
pub(crate) struct Told {
    pub(crate) transport: String,
    pub(crate) model: String,
    tools: Vec<String>,
    asked: Vec<String>,
    pub(crate) usage: Option<[u64; 2]>,
    /// Of a long text: input and output.
    billed: Option<[u64; 2]>,
    metadata: Option<Value>,
    max_tokens: Option<u64>,
}

impl Told {
    /// What it costs: input and output.
    pub(crate) fn bill(&self) -> [u64; 2] {
        self.billed.or(self.usage).unwrap_or_default()
    }
}

/// The words of one turn.
fn words(agent: &Agent, prompt: &str) -> Vec<String> {
    let program = agent.program.display().to_string();
    let mut words = vec![program.as_str()];
    if program.ends_with("claude") {
        words.extend(["-p", prompt, "--allowedTools", "Bash"]);
        words.extend(agent.settings);
    } else {
        words.extend(["exec", "--skip-git-repo-check"]);
        words.push("--dangerously-bypass-approvals-and-sandbox");
        words.extend(agent.model.iter().flat_map(|model| ["-m", model]));
        words.extend(agent.settings);
        words.push(prompt);
    }
    words.into_iter().map(str::to_owned).collect()
}

pub(crate) fn agent(world: &World, program: &str) -> Result<Option<Agent>> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "x64",
        _ => "arm64",
    };
    let path = match program {
        "codex" => ".bin/codex".to_owned(),
        _ => format!("@anthropic-ai/claude-code-linux-{arch}/claude"),
    };
    let Some(program) = client::node_package(&path)? else {
        return Ok(None);
    };
    let home = world.directory().join("home");
    fs::create_dir_all(&home)?;
    // Which has its tools as functions; newer models get one that runs scripts.
    let model = Some("gpt-5-mini");
    Ok(Some(Agent {
        program,
        model,
        settings: &[],
        home,
    }))
}

/// A turn as the agent, still to be begun.
pub(crate) fn call<'r>(room: &'r Room<'_>, agent: &Agent, prompt: &str) -> Invocation<'r> {
    inspected(room, &words(agent, prompt))
        .env("HOME", &agent.home)
        .env("OPENAI_API_KEY", "any")
        .env("ANTHROPIC_API_KEY", "any")
        .current_dir(&agent.home)
}

/// A turn as the agent, begun.
fn begin(room: &Room<'_>, agent: &Agent, prompt: &str) -> Result<Process> {
    call(room, agent, prompt).spawn()
}

pub(crate) fn turn(room: &Room<'_>, agent: &Agent, prompt: &str) -> Result<Output> {
    begin(room, agent, prompt)?.wait(PATIENCE)
}

/// The calls of language models in the record, by when they were decided.
pub(crate) fn recorded(room: &Room<'_>) -> Result<Vec<Decision>> {
    let mut decisions = all(&room.guard)?;
    decisions.retain(|it| it.action.kind == ActionKind::LlmCall);
    Ok(decisions)
}

/// As the provider tells it.
type Row = (String, Vec<String>, Vec<String>, Option<[u64; 2]>);

fn row(decision: &Decision) -> Option<Row> {
    let llm = decision.action.llm.as_ref()?;
    let said = decision.outcome.as_ref()?.llm.as_ref()?;
    let mut tools = llm.tools.clone();
    tools.sort();
    let usage = said
        .usage
        .and_then(|usage| Some([usage.input_tokens?, usage.output_tokens?]));
    let asked = said.tool_calls.iter();
    Some((
        llm.model.clone()?,
        tools,
        asked.map(|it| it.name.clone()).collect(),
        usage,
    ))
}

/// Waits until the record has all that the provider was asked for and has said, and nothing else.
fn same(stage: &Stage, room: &Room<'_>) -> Result<()> {
    let told = |row: &Told| {
        (
            row.model.clone(),
            row.tools.clone(),
            row.asked.clone(),
            row.usage,
        )
    };
    let sides = || -> Result<[Vec<Row>; 2]> {
        let mut there: Vec<Row> = stage.calls().iter().map(told).collect();
        let mut decisions = recorded(room)?;
        // What an answer was denied for is no call of its own.
        decisions.retain(|it| it.action.llm.as_ref().is_none_or(|llm| llm.asks.is_empty()));
        let mut here: Vec<Row> = decisions.iter().filter_map(row).collect();
        ensure!(decisions.len() == here.len(), "a call without its answer");
        there.sort();
        here.sort();
        Ok([there, here])
    };
    let agree = wait_until("the record", LATE, || {
        sides().is_ok_and(|[a, b]| a == b).then_some(())
    });
    agree.with_context(|| format!("{:#?}", sides()))
}

/// A turn with a call of the shell: it works, and the record has it, with this verdict on each call.
fn whole(
    stage: &Stage,
    room: &Room<'_>,
    agent: &Agent,
    transport: &str,
    verdict: Verdict,
) -> Result<()> {
    let output = turn(room, agent, "run the tool")?;
    ensure!(
        output.code() == 0 && output.stdout.contains("All done."),
        "{output}"
    );
    let calls = stage.calls();
    let of = |name: &str| calls.iter().filter(|it| it.transport == name).count();
    ensure!(
        of(transport) >= 2 && of(transport) == calls.len(),
        "{calls:#?}"
    );
    let asked = calls.iter().flat_map(|it| &it.asked).count();
    ensure!(asked == 1, "{calls:#?}");
    same(stage, room)?;
    let decisions = recorded(room)?;
    ensure!(decisions.iter().all(|it| it.verdict == verdict));
    Ok(())
}

#[test]
fn codex_runs_a_turn_over_websocket() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let stage = Stage::new("codex-ws", &python).unwrap();
    let Some(codex) = agent(&stage.world, "codex").unwrap() else {
        return;
    };
    let room = stage.room("").unwrap();
    whole(&stage, &room, &codex, "websocket", Verdict::Allow).unwrap();
}

/// In an item of the input, and in namespaces.
#[test]
fn the_tools_that_codex_offers_beside_the_others_are_in_the_record() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let stage = Stage::new("codex-tools", &python).unwrap();
    let Some(codex) = agent(&stage.world, "codex").unwrap() else {
        return;
    };
    let codex = Agent {
        model: None,
        ..codex
    };
    let room = stage.room("").unwrap();
    let output = turn(&room, &codex, "say hi").unwrap();
    assert!(output.stdout.contains("All done."), "{output}");
    same(&stage, &room).unwrap();
    let decisions = recorded(&room).unwrap();
    let mut offered = decisions.iter().filter_map(|it| it.action.llm.as_ref());
    assert!(offered.any(|llm| llm.tools.iter().any(|tool| tool == "exec")));
}

#[test]
fn codex_runs_a_turn_over_https_where_it_has_to() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let stage = Stage::new("codex-sse", &python).unwrap();
    let Some(codex) = agent(&stage.world, "codex").unwrap() else {
        return;
    };
    let room = stage.room(HTTPS).unwrap();
    whole(&stage, &room, &codex, "sse", Verdict::Allow).unwrap();
}

#[test]
fn claude_code_runs_a_turn() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let stage = Stage::new("claude", &python).unwrap();
    let Some(claude) = agent(&stage.world, "claude").unwrap() else {
        return;
    };
    let room = stage.room("").unwrap();
    whole(&stage, &room, &claude, "sse", Verdict::Allow).unwrap();
}

/// One more rule: what the provider is told of the user goes, and what is asked for is bounded.
const CHANGES: &str = "
  - id: not-who
    match: { host: [api.anthropic.com], llm: {} }
    action: modify
    modify: { redact: [/metadata/user_id], clamp: { /max_tokens: 1000 } }
    obligations: { capture_body: true }
    handling: inspect
  - id: whose
    match: { host: [api.openai.com], llm: {} }
    action: modify
    modify: { json_patch: [{ op: add, path: /metadata, value: { team: ours } }] }
    obligations: { capture_body: true }
    handling: inspect
";

#[test]
fn agents_run_turns_of_which_rules_change_each_call() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    for (program, more, transport) in [
        ("codex", "", "websocket"),
        ("codex", HTTPS, "sse"),
        ("claude", "", "sse"),
    ] {
        let stage = Stage::new("agents-other", &python).unwrap();
        let Some(agent) = agent(&stage.world, program).unwrap() else {
            return;
        };
        let more = format!("{more}{CHANGES}");
        let room = stage.room(&more).unwrap();
        whole(&stage, &room, &agent, transport, Verdict::Modify).unwrap();
        // What was sent is kept as it was sent, and what came back.
        let changed = match program {
            "claude" => r#""user_id":"[redacted]""#,
            _ => r#""metadata":{"team":"ours"}"#,
        };
        let mut said = String::new();
        for decision in recorded(&room).unwrap() {
            let id = decision.id.to_string();
            let explain = ["explain", &id, "--contents", "-o", "json"];
            let output = room.guard.cli().args(explain).run().unwrap();
            let kept: Contents = serde_json::from_str(&output.success().unwrap().stdout).unwrap();
            let text = |content: Option<Content>| match content.map(|it| it.kept) {
                Some(Kept::Text(text)) => text,
                other => panic!("{other:?}"),
            };
            let request = text(kept.request);
            // Where it is long, it ends before its end.
            let has = request.contains(changed) || request.len() > 60_000;
            assert!(has && !request.contains("user_0"), "{request}");
            said.push_str(&text(kept.response));
        }
        assert!(
            said.contains("completed") || said.contains("message_stop"),
            "{said}"
        );
        for call in stage.calls() {
            let metadata = call.metadata.as_ref();
            if program == "claude" {
                assert!(call.max_tokens.is_some_and(|most| most <= 1000), "{call:?}");
                let user = metadata.and_then(|it| it.get("user_id"));
                assert_eq!(user, Some(&json!("[redacted]")), "{call:?}");
            } else {
                assert_eq!(metadata, Some(&json!({ "team": "ours" })), "{call:?}");
            }
        }
    }
}

/// Their users read why.
#[test]
fn a_refused_call_is_an_error_that_agents_show() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    for (program, more) in [("codex", ""), ("codex", HTTPS), ("claude", "")] {
        let stage = Stage::new("agents-denied", &python).unwrap();
        let Some(agent) = agent(&stage.world, program).unwrap() else {
            return;
        };
        let room = stage.room(&format!("{more}{NO_SHELL}")).unwrap();
        let output = turn(&room, &agent, "run the tool").unwrap();
        let shown = format!("{}{}", output.stdout, output.stderr);
        assert!(shown.contains(REASON), "{output}");
        assert!(!shown.contains("All done."), "{output}");
        let mut by: BTreeMap<bool, usize> = BTreeMap::new();
        for decision in recorded(&room).unwrap() {
            *by.entry(decision.verdict == Verdict::Deny).or_default() += 1;
        }
        assert!(by[&true] >= 1, "{by:?}");
        assert!(
            stage
                .calls()
                .iter()
                .all(|it| !it.tools.contains(&"Bash".to_owned()))
        );
    }
}

/// In the middle of an answer.
#[test]
fn a_turn_that_the_policy_comes_to_deny_ends_in_an_error_that_agents_show() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    for (program, more) in [("codex", ""), ("codex", HTTPS), ("claude", "")] {
        let stage = Stage::new("agents-changed", &python).unwrap();
        let Some(agent) = agent(&stage.world, program).unwrap() else {
            return;
        };
        let room = stage.room(more).unwrap();
        let agent = begin(&room, &agent, "hold on").unwrap();
        let held = || {
            stage
                .calls()
                .iter()
                .any(|it| it.usage.is_none())
                .then_some(())
        };
        wait_until("the answer to begin", PATIENCE, held).unwrap();
        fs::write(room.guard.policy(), format!("{POLICY}{more}{NO_SHELL}")).unwrap();
        let reload = room.guard.cli().args(["policy", "reload"]);
        reload.run().unwrap().success().unwrap();
        let output = agent.wait(PATIENCE).unwrap();
        let shown = format!("{}{}", output.stdout, output.stderr);
        assert!(shown.contains(REASON), "{program} {more}: {output}");
    }
}

/// The model asks for a tool that it may not call: nothing of that reaches the agent.
#[test]
fn a_refused_tool_call_is_an_error_that_agents_show() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    for (program, more) in [("codex", ""), ("codex", HTTPS), ("claude", "")] {
        let stage = Stage::new("agents-asked", &python).unwrap();
        let Some(agent) = agent(&stage.world, program).unwrap() else {
            return;
        };
        let room = stage.room(&format!("{more}{NO_CALLS}")).unwrap();
        let output = turn(&room, &agent, "run the tool").unwrap();
        let shown = format!("{}{}", output.stdout, output.stderr);
        assert!(shown.contains(REASON), "{program} {more}: {output}");
        assert!(!shown.contains("from-the-tool"), "{output}");
        let decisions = recorded(&room).unwrap();
        let mut denials = decisions.iter().filter(|it| it.verdict == Verdict::Deny);
        let denied = denials.next().unwrap();
        assert_eq!(denied.action.llm.as_ref().unwrap().asks.len(), 1);
    }
}

/// The model asks for a tool that it may not call: the turn comes to its end without.
#[test]
fn agents_end_turns_of_which_a_tool_call_is_cut_out() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    for (program, more) in [("codex", ""), ("codex", HTTPS), ("claude", "")] {
        let stage = Stage::new("agents-cut", &python).unwrap();
        let Some(agent) = agent(&stage.world, program).unwrap() else {
            return;
        };
        let room = stage.room(&format!("{more}{NO_CALLS}{CUT}")).unwrap();
        let output = turn(&room, &agent, "run the tool").unwrap();
        assert_eq!(output.code(), 0, "{program} {more}: {output}");
        assert!(output.stdout.contains(REASON), "{program} {more}: {output}");
        let shown = format!("{}{}", output.stdout, output.stderr);
        assert!(!shown.contains("from-the-tool"), "{output}");
        same(&stage, &room).unwrap();
        let decisions = recorded(&room).unwrap();
        let mut denials = decisions.iter().filter(|it| it.verdict == Verdict::Deny);
        let denied = denials.next().unwrap();
        let asks = &denied.action.llm.as_ref().unwrap().asks;
        assert_eq!(asks.len(), 1);
        let answers = decisions
            .iter()
            .filter_map(|it| it.outcome.as_ref()?.llm.as_ref());
        let cut: Vec<&String> = answers.flat_map(|said| &said.cut).collect();
        assert_eq!(cut, asks.iter().collect::<Vec<_>>());
    }
}

/// One more rule, and who asks: the shell alone, for one command.
const HOOK: &str = "
  - id: one-command
    match: { tool: { server: [claude-code], name: [Bash], arguments: { /command: ['echo *'] } } }
    action: allow
tool_servers:
  - { name: claude-code, api: hook }
";

/// Another: not the shell.
const HOOK_DENIES: &str = "
  - id: no-shell-here
    match: { tool: { server: [claude-code], name: [Bash] } }
    action: deny
    reason: No shell for this model, says the security team.
tool_servers:
  - { name: claude-code, api: hook }
";

/// What Claude Code has written down of its sessions.
fn transcripts(agent: &Agent) -> String {
    let mut text = String::new();
    let mut waiting = vec![agent.home.join(".claude/projects")];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                text.push_str(&fs::read_to_string(path).unwrap_or_default());
            }
        }
    }
    text
}

/// Another: the shell, but not what the model has it do.
const HOOK_CHANGES: &str = "
  - id: another-command
    match: { tool: { server: [claude-code], name: [Bash] } }
    action: modify
    modify: { json_patch: [{ op: replace, path: /command, value: 'echo changed-by-the-rule' }] }
tool_servers:
  - { name: claude-code, api: hook }
";

/// Where the guard answers its hook over HTTP, beside it.
const HOOK_AT: &str = "127.0.0.1:8137";

/// The hook that Claude Code asks before it uses a tool: a command, or with `http` one that runs beside it.
fn hook(room: &Room<'_>, claude: &Agent, http: bool) -> Result<String> {
    let config = room.guard.config();
    let command = format!(
        "{} --config {} hook claude-code",
        room.guard.program().display(),
        config.display()
    );
    let hook = match http {
        false => json!({ "type": "command", "command": command, "onFailure": "block" }),
        true => {
            json!({ "type": "http", "url": format!("http://{HOOK_AT}/"), "onFailure": "block" })
        }
    };
    settings(claude, &hook)?;
    Ok(command)
}

/// Has Claude Code ask this hook.
fn settings(claude: &Agent, hook: &Value) -> Result<()> {
    let hooks = json!([{ "matcher": "*", "hooks": [hook] }]);
    let settings = json!({ "hooks": { "PreToolUse": hooks } });
    fs::create_dir_all(claude.home.join(".claude"))?;
    let file = claude.home.join(".claude/settings.json");
    Ok(fs::write(file, settings.to_string())?)
}

/// A turn of Claude Code, with a command beside it.
fn beside(room: &Room<'_>, claude: &Agent, command: &str) -> Result<Output> {
    let turn = words(claude, "run the tool");
    let script = format!("{command} & exec \"$@\"");
    let mut all = vec!["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()];
    all.extend(turn);
    let call = inspected(room, &all)
        .env("HOME", &claude.home)
        .env("ANTHROPIC_API_KEY", "any")
        .current_dir(&claude.home);
    call.spawn()?.wait(PATIENCE)
}

/// Before it uses a tool it asks by its hook.
#[test]
fn claude_code_uses_the_tools_that_its_hook_is_allowed_and_no_others() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let (printed, changed) = (Some("from-the-tool"), Some("changed-by-the-rule"));
    for (name, more, verdict, printed, http) in [
        ("claude-hook", HOOK, Verdict::Allow, printed, false),
        ("claude-no", HOOK_DENIES, Verdict::Deny, None, false),
        (
            "claude-other",
            HOOK_CHANGES,
            Verdict::Modify,
            changed,
            false,
        ),
        ("claude-http", HOOK, Verdict::Allow, printed, true),
        ("claude-http-no", HOOK_DENIES, Verdict::Deny, None, true),
        (
            "claude-http-other",
            HOOK_CHANGES,
            Verdict::Modify,
            changed,
            true,
        ),
    ] {
        let stage = Stage::new(name, &python).unwrap();
        let Some(claude) = agent(&stage.world, "claude").unwrap() else {
            return;
        };
        let room = stage.room(more).unwrap();
        let command = hook(&room, &claude, http).unwrap();
        let output = match http {
            false => turn(&room, &claude, "run the tool"),
            true => beside(&room, &claude, &format!("{command} --http {HOOK_AT}")),
        };
        let output = output.unwrap();
        assert!(output.stdout.contains("All done."), "{output}");
        let mut decisions = all(&room.guard).unwrap();
        decisions.retain(|it| it.layer == Layer::Hook);
        let [decision] = decisions.as_slice() else {
            panic!("{decisions:?}\n{output}\n{}", room.guard.log());
        };
        let tool = decision.action.tool.as_ref().unwrap();
        assert_eq!(tool.name.as_deref(), Some("Bash"));
        assert_eq!(decision.verdict, verdict);
        let told = transcripts(&claude);
        let denied = verdict == Verdict::Deny;
        assert_eq!(told.contains(REASON), denied, "{told}");
        assert_eq!(told.contains(&decision.id.to_string()), denied, "{told}");
        // What the shell printed.
        for text in ["from-the-tool", "changed-by-the-rule"] {
            let found = told.contains(&format!("\"stdout\":\"{text}"));
            assert_eq!(found, printed == Some(text), "{text}: {told}");
        }
    }
}

/// Nobody answers at its address, or its command is not there: with `onFailure` no tool is used, and without each is.
#[test]
fn claude_code_uses_no_tool_where_its_hook_fails_and_blocks() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let http = json!({ "type": "http", "url": format!("http://{HOOK_AT}/") });
    let command =
        json!({ "type": "command", "command": "/nonexistent/agentguard hook claude-code" });
    for (hook, blocks) in [
        (&http, true),
        (&http, false),
        (&command, true),
        (&command, false),
    ] {
        let stage = Stage::new("claude-none", &python).unwrap();
        let Some(claude) = agent(&stage.world, "claude").unwrap() else {
            return;
        };
        let room = stage.room(HOOK).unwrap();
        let mut hook = hook.clone();
        if blocks {
            hook["onFailure"] = json!("block");
        }
        settings(&claude, &hook).unwrap();
        let output = turn(&room, &claude, "run the tool").unwrap();
        let used = transcripts(&claude).contains("\"stdout\":\"from-the-tool");
        assert_eq!(used, !blocks, "{hook} {output}");
    }
}

//! Sessions in real time: Python's `openai` against a server of OpenAI's and Azure's Realtime.
//!
//! It knows nothing of the guard: it uses the providers' own names, and trusts what `run` makes it trust.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentguard_model::{ActionKind, Decision, LlmOperation, Verdict};
use agentguard_tests::{Origin, Output, Process, World, address, client, wait_until};
use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::inspected::inspected;
use crate::room::{LATE, Room, all, ungoverned};
use crate::serving::serving;

const NAMES: [&str; 2] = ["api.openai.com", "ours.openai.azure.com"];

const POLICY: &str = "
version: 1
agents:
  - name: coder
rules:
  - id: speech
    match:
      host: [api.openai.com, ours.openai.azure.com]
      port: [443]
      llm: { operation: [realtime, transcription], model: [gpt-realtime, whisper-1] }
    action: allow
    handling: inspect
  - id: no-shell
    match: { host: [api.openai.com, ours.openai.azure.com], llm: { tools: [shell] } }
    action: deny
    reason: No shell for this model, says the security team.
  - id: nothing-long
    match: { llm: { max_output_over: 4000 } }
    action: deny
";

const REASON: &str = "No shell for this model, says the security team.";

/// One more rule.
const LATER: &str = "
  - id: closed
    match: { host: [api.openai.com] }
    action: deny
    reason: No more of this.
";

/// A world with the providers in it.
struct Stage {
    world: World,
    server: Process,
    python: PathBuf,
}

/// What a provider knows of a response, or of what it has written down: of a tool call the name, and the digest of
/// its arguments.
#[derive(Debug, Deserialize)]
struct Told {
    model: String,
    tools: Vec<String>,
    most: Option<u64>,
    asked: Vec<[String; 2]>,
    usage: [u64; 2],
    by: String,
}

impl Stage {
    fn new(name: &str, python: PathBuf) -> Result<Self> {
        let origin = Origin::at(&address::origin(0x10)).leave(443);
        let origin = NAMES.into_iter().fold(origin, Origin::site);
        let world = World::new(name).origin(origin).start()?;
        let (certificate, key) = world.ca().certify_pem(&NAMES.map(str::to_owned))?;
        let files = ["server.pem", "server-key.pem"].map(|name| world.directory().join(name));
        fs::write(&files[0], certificate)?;
        fs::write(&files[1], key)?;
        let server = world.internet().command(&python);
        let server = server.arg(script("realtime_server.py")).arg("443");
        let server = serving(server.args(files))?;
        Ok(Self {
            world,
            server,
            python,
        })
    }

    fn room(&self) -> Result<Room<'_>> {
        self.room_with("")
    }

    fn room_with(&self, more: &str) -> Result<Room<'_>> {
        let upstreams = json!([{ "host": NAMES, "ca": self.world.ca_file() }]);
        let guard = self.world.guard().policy(&format!("{POLICY}{more}"));
        let guard = guard.setting("upstreams", upstreams).start()?;
        Ok(Room::of(&self.world, guard))
    }

    /// What the provider says of what it has answered.
    fn told(&self) -> Vec<Told> {
        let stdout = self.server.stdout();
        let lines = stdout.lines().filter(|line| line.starts_with('{'));
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    fn words(&self, what: &str) -> [PathBuf; 3] {
        let script = script("realtime_sdk.py");
        [self.python.clone(), script, what.into()]
    }

    fn run(&self, room: &Room<'_>, what: &str) -> Result<Output> {
        inspected(room, &self.words(what)).run()?.success()
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("clients")
        .join(name)
}

fn calls(room: &Room<'_>) -> Result<Vec<Decision>> {
    let mut decisions = all(&room.guard)?;
    decisions.retain(|it| it.action.kind == ActionKind::LlmCall);
    Ok(decisions)
}

/// As the provider tells it: model, tokens, and the tool calls with their arguments.
type Row = (String, [u64; 2], Vec<(String, Option<String>)>);

fn there(told: &Told) -> Row {
    let asked = told.asked.iter();
    let asked = asked.map(|[name, arguments]| (name.clone(), Some(arguments.clone())));
    (told.model.clone(), told.usage, asked.collect())
}

fn here(decision: &Decision) -> Option<Row> {
    let llm = decision.action.llm.as_ref()?;
    let said = decision.outcome.as_ref()?.llm.as_ref()?;
    let usage = said.usage?;
    let asked = said.tool_calls.iter();
    let asked = asked.map(|it| (it.name.clone(), it.arguments.clone()));
    Some((
        llm.model.clone()?,
        [usage.input_tokens?, usage.output_tokens?],
        asked.collect(),
    ))
}

/// Waits until the record has all that the provider has answered, and nothing else.
fn same(stage: &Stage, room: &Room<'_>) -> Result<Vec<Decision>> {
    let sides = || -> Result<[Vec<Row>; 2]> {
        let mut there: Vec<Row> = stage.told().iter().map(there).collect();
        let mut here: Vec<Row> = calls(room)?.iter().filter_map(here).collect();
        there.sort();
        here.sort();
        Ok([there, here])
    };
    let agree = wait_until("the record", LATE, || {
        sides().is_ok_and(|[a, b]| a == b).then_some(())
    });
    agree.with_context(|| format!("{:#?}", sides()))?;
    calls(room)
}

fn offers(decision: &Decision) -> (String, Option<u64>) {
    let llm = decision.action.llm.as_ref();
    let offers = llm.map(|llm| (llm.tools.join(","), llm.max_output_tokens));
    offers.unwrap_or_default()
}

#[test]
fn sessions_are_as_without_the_guard_and_recorded_token_for_token() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    for (what, before, stage) in [
        ("turns", 5, Stage::new("realtime", python.clone()).unwrap()),
        ("azure", 5, Stage::new("realtime-azure", python).unwrap()),
    ] {
        let room = stage.room().unwrap();
        let output = stage.run(&room, what).unwrap();
        let decisions = same(&stage, &room).unwrap();
        let told = stage.told();
        let by: Vec<_> = told.iter().map(|it| it.by.as_str()).collect();
        assert_eq!(by, ["client", "client", "ear", "ear"]);
        assert!(decisions.iter().all(|it| it.verdict == Verdict::Allow));
        for decision in &decisions {
            let llm = decision.action.llm.as_ref().unwrap();
            let operation = match llm.model.as_deref() {
                Some("whisper-1") => LlmOperation::Transcription,
                _ => LlmOperation::Realtime,
            };
            assert_eq!(llm.operation, operation);
            assert_eq!(llm.not_understood, None);
            assert_eq!(decision.outcome.as_ref().unwrap().error, None);
        }
        // The session, two responses, what writes down, and the session again.
        assert_eq!(decisions.len(), before, "{decisions:#?}");
        let offered: Vec<_> = decisions.iter().map(offers).collect();
        let look = ("look".to_owned(), Some(200));
        let none = String::new;
        assert_eq!(
            offered,
            [
                look.clone(),
                look.clone(),
                (none(), Some(50)),
                (none(), None),
                look
            ]
        );
        let asked = &told[0];
        assert_eq!((asked.tools.join(","), asked.most), offered[1]);
        let said = decisions[1].outcome.as_ref().unwrap();
        let said = said.llm.as_ref().unwrap();
        let usage = said.usage.unwrap();
        assert_eq!(usage.cache_read_tokens, Some(3));
        assert_eq!(usage.audio_input_tokens, Some(11));
        assert_eq!(usage.audio_output_tokens, Some(2));
        assert_eq!(said.model.as_deref(), Some("gpt-realtime-2025-08-28"));
        assert_eq!(said.finish_reason.as_deref(), Some("completed"));
        // Numbers of tokens go up with each answer.
        let numbers = |output: &Output| {
            let lines = output.stdout.lines();
            let lines = lines.filter(|line| !line.starts_with(char::is_numeric));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let free = ungoverned(&stage.world, stage.words(what)).unwrap();
        let free = free.success().unwrap();
        assert_eq!(numbers(&output), numbers(&free), "{output}\n{free}");
        assert!(!free.stdout.contains("error"), "{free}");
        let output = stage.run(&room, "asynchronous").unwrap();
        assert!(output.stdout.ends_with("response.done\n"), "{output}");
    }
}

/// With what the provider says that it has used, whoever asked for it, and nothing for what it might have made.
#[test]
fn a_session_is_charged_with_what_its_responses_use() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let stage = Stage::new("realtime-budget", python).unwrap();
    let budgets = "
budgets:
  - { id: all, unit: tokens, limit: 10000000, window: day }
  - { id: out, unit: output_tokens, limit: 1000000, window: day, per: [model] }
";
    let room = stage.room_with(budgets).unwrap();
    stage.run(&room, "turns").unwrap();
    same(&stage, &room).unwrap();
    let told = stage.told();
    let sum = |of: fn(&Told) -> u64| told.iter().map(of).sum::<u64>();
    let speech = told.iter().filter(|it| it.model.contains("gpt-realtime"));
    let expected = [
        sum(|it| it.usage[0] + it.usage[1]),
        speech.map(|it| it.usage[1]).sum(),
    ];
    let used = wait_until("nothing to be held", LATE, || {
        let list = room.guard.cli().args(["budget", "list", "-o", "json"]);
        let list: Value = serde_json::from_str(&list.run().ok()?.stdout).ok()?;
        let accounts = list.as_array()?;
        let used = |name: &str| {
            let account = accounts.iter().find(|it| it["account"] == name)?;
            (account["held"] == 0).then(|| account["used"].as_u64())?
        };
        Some([used("all")?, used("out/model=gpt-realtime")?])
    });
    assert_eq!(used.unwrap(), expected, "{told:#?}");
}

/// Then what was in force before is; what is given next is taken.
#[test]
fn an_update_that_the_server_does_not_take_is_no_end_of_a_session() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let stage = Stage::new("realtime-voice", python).unwrap();
    let room = stage.room().unwrap();
    let output = stage.run(&room, "voice").unwrap();
    assert!(output.stdout.contains("invalid_value first "), "{output}");
    assert!(output.stdout.contains("function_call look"), "{output}");
    let decisions = same(&stage, &room).unwrap();
    assert!(decisions.iter().all(|it| it.verdict == Verdict::Allow));
    let look = ("look".to_owned(), Some(200));
    let offered: Vec<_> = decisions.iter().map(offers).collect();
    assert_eq!(offered, [look.clone(), look.clone(), look]);
}

#[test]
fn what_is_denied_is_an_error_of_the_session_that_its_client_understands() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let stage = Stage::new("realtime-denied", python).unwrap();
    let room = stage.room().unwrap();
    let output = stage.run(&room, "shell").unwrap();
    let decisions = same(&stage, &room).unwrap();
    let denied: Vec<_> = decisions
        .iter()
        .filter(|it| it.verdict == Verdict::Deny)
        .collect();
    assert_eq!(denied.len(), 2, "{decisions:#?}");
    for (denial, event) in denied.iter().zip(["mine", "None"]) {
        let told = format!(
            "rule_deny {event} {REASON} (agentguard explain {})",
            denial.id
        );
        assert!(output.stdout.contains(&told), "{told}\n{output}");
    }
    assert!(output.stdout.contains("function_call look"), "{output}");
    // Nothing of what was refused has left.
    let mut offered = stage.told().into_iter().flat_map(|it| it.tools);
    assert!(offered.all(|tool| tool == "look"));

    let told = stage.told().len();
    let output = stage.run(&room, "model").unwrap();
    assert!(output.stdout.starts_with("403 {\"error\":"), "{output}");
    assert!(output.stdout.contains("\"code\":\"no_rule\""), "{output}");
    assert_eq!(stage.told().len(), told);
    let free = ungoverned(&stage.world, stage.words("model")).unwrap();
    assert_eq!(free.stdout, "session.created\n");
}

/// While it is open.
#[test]
fn a_session_that_comes_to_be_denied_ends_in_its_own_error() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let stage = Stage::new("realtime-changed", python).unwrap();
    let room = stage.room().unwrap();
    let output = changed(&stage, &room).unwrap();
    let (_, told) = output.stdout.split_once("open\n").unwrap();
    let mut lines = told.lines();
    assert_eq!(lines.next(), Some("error "), "{output}");
    let error = lines.next().unwrap();
    // The opening of the connection is denied as well as what the session was given.
    let decisions = all(&room.guard).unwrap();
    let denied = decisions.iter().filter(|it| it.verdict == Verdict::Deny);
    let mut ends = denied.map(|it| format!("(agentguard explain {})", it.id));
    let end = ends.find(|end| error.ends_with(end)).unwrap();
    let begin = "rule_deny None No more of this. ";
    assert!(error.starts_with(begin), "{output}");
    let closed = lines.next().unwrap();
    assert!(closed.starts_with("1008 No more of this. "), "{output}");
    assert!(closed.ends_with(&end), "{output}");
}

fn changed(stage: &Stage, room: &Room<'_>) -> Result<Output> {
    let process = inspected(room, &stage.words("changed")).spawn()?;
    wait_until("the session", LATE, || {
        process.stdout().contains("open").then_some(())
    })
    .with_context(|| process.stderr())?;
    fs::write(room.guard.policy(), format!("{}{LATER}", POLICY.trim_end()))?;
    let reload = room.guard.cli().args(["policy", "reload"]);
    reload.run()?.success()?;
    let output = process.wait(Duration::from_secs(20))?.success()?;
    ensure!(output.stdout.contains("open\n"), "{output}");
    Ok(output)
}

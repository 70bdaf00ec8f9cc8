//! What is asked over a real socket, with a real policy and a record in memory.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex};

use agentguard_decision::{Decider, Directory, Policies, RecordRefused, Recorder};
use agentguard_keeper::packet::tell_senders;
use agentguard_local::api::{Answer, MAX_LINE};
use agentguard_local::{Client, Port, Unanswered, serve};
use agentguard_model::contents::{Contents, Kept};
use agentguard_model::{
    AgentId, AgentName, Decision, DecisionId, Layer, Outcome, ReasonCode, Verdict,
};
use agentguard_policy::{Document, compile};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

const POLICY: &str = "
version: 1
tool_servers: [{name: files, api: mcp_stdio, list: allowed}]
agents: [{name: coder}]
rules:
  - {id: read, match: {tool: {server: [files], name: [read], arguments: {/path: ['/data/*']}}}, action: allow}
  - {id: resources, match: {tool: {server: [files], method: ['resources/*', elicitation/create]}}, action: allow}
  - id: post
    match: {tool: {server: [files], name: [post]}}
    action: modify
    modify: {redact: [/token], clamp: {/size: 10}}
    obligations: {capture_body: true}
";

#[derive(Default)]
struct Memory {
    decisions: Mutex<Vec<Decision>>,
    outcomes: Mutex<Vec<(DecisionId, Outcome)>>,
    contents: Mutex<Vec<(DecisionId, AgentName, Contents)>>,
}

impl Recorder for Memory {
    async fn write(&self, decision: Box<Decision>) -> Result<DecisionId, RecordRefused> {
        let id = decision.id;
        self.decisions.lock().unwrap().push(*decision);
        Ok(id)
    }

    fn outcome(&self, id: DecisionId, outcome: Outcome) {
        self.outcomes.lock().unwrap().push((id, outcome));
    }

    fn contents(&self, id: DecisionId, agent: &AgentName, contents: Contents) {
        let mut kept = self.contents.lock().unwrap();
        kept.push((id, agent.clone(), contents));
    }
}

/// Whoever connects is this one's.
struct Whose(Option<AgentId>);

impl Port for Whose {
    async fn whose(&self, cgroup: &str) -> Option<(AgentId, u32)> {
        assert!(cgroup.starts_with('/'), "{cgroup}");
        self.0.map(|agent| (agent, 0))
    }

    fn executable(&self, _pid: u32) -> Option<String> {
        None
    }
}

struct World {
    directory: tempfile::TempDir,
    memory: Arc<Memory>,
}

impl World {
    fn new(whose: Option<AgentId>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let document = Document {
            path: "policy.yaml".to_owned(),
            text: POLICY.to_owned(),
        };
        let agents = Directory::default();
        agents.agent(AgentId(1), "coder".parse().unwrap());
        let memory = Arc::<Memory>::default();
        let policies = Policies::new(1, compile(&[document]).unwrap());
        let decider = Decider::new(Arc::new(policies), Arc::new(agents), memory.clone());
        let listener = UnixListener::bind(directory.path().join("agents.sock")).unwrap();
        // As the keeper does, before anybody can connect.
        tell_senders(listener.as_fd()).unwrap();
        let shutdown = CancellationToken::new();
        tokio::spawn(serve(listener, decider, Whose(whose), shutdown));
        Self { directory, memory }
    }

    fn client(&self) -> Client {
        Client::new(&self.directory.path().join("agents.sock"), "files")
    }

    fn decisions(&self) -> Vec<Decision> {
        self.memory.decisions.lock().unwrap().clone()
    }

    fn outcomes(&self) -> Vec<(DecisionId, Outcome)> {
        self.memory.outcomes.lock().unwrap().clone()
    }
}

fn call(id: u32, path: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"read","arguments":{{"path":"{path}"}}}}}}"#
    )
}

fn instead(answer: &Answer) -> Value {
    serde_json::from_str(answer.instead.as_deref().unwrap()).unwrap()
}

/// What rules change is given back, and that is what is kept; what cannot be changed does not go on.
#[tokio::test]
async fn a_call_is_changed_as_its_rule_says() {
    let world = World::new(Some(AgentId(1)));
    let mut client = world.client();
    let call = |arguments: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"post","arguments":{arguments}}}}}"#
        )
    };
    let answer = client.sent(call(r#"{"Token":"t","size":11}"#).into());
    let answer = answer.await.unwrap();
    let changed = call(r#"{"Token":"[redacted]","size":10}"#);
    assert!(answer.allowed);
    assert_eq!(answer.changed.as_ref(), Some(&changed));
    let kept = world.memory.contents.lock().unwrap().clone();
    assert_eq!(kept.len(), 1);
    assert_eq!(Some(kept[0].0), answer.decision);
    let request = kept[0].2.request.as_ref().unwrap();
    assert_eq!(request.kept, Kept::Text(changed));
    let refused = client.sent(call(r#"{"size":"11"}"#).into()).await.unwrap();
    assert!(!refused.allowed && refused.changed.is_none());
    assert_eq!(refused.reason.code, ReasonCode::NotChanged);
    let said = instead(&refused).to_string();
    assert!(said.contains("`/size` is not a number"), "{said}");
    let decisions = world.decisions();
    let verdicts: Vec<_> = decisions.iter().map(|it| it.verdict).collect();
    assert_eq!(verdicts, [Verdict::Modify, Verdict::Modify, Verdict::Deny]);
    assert_eq!(Some(decisions[2].id), refused.decision);
    let (id, outcome) = &world.outcomes()[0];
    assert_eq!(*id, decisions[1].id);
    assert!(outcome.error.as_ref().unwrap().contains("is not a number"));
    assert_eq!(world.memory.contents.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_call_goes_on_and_what_comes_of_it_is_recorded() {
    let world = World::new(Some(AgentId(1)));
    let mut client = world.client();
    let answer = client.sent(call(1, "/data/a").into()).await.unwrap();
    assert!(answer.allowed && answer.instead.is_none(), "{answer:?}");
    let decisions = world.decisions();
    assert_eq!(
        (answer.decision, decisions.len()),
        (Some(decisions[0].id), 1)
    );
    assert_eq!(decisions[0].layer, Layer::Hook);
    let process = decisions[0].process.as_ref().unwrap();
    assert_eq!(process.pid, std::process::id());
    let asks = r#"{"jsonrpc":"2.0","id":9,"method":"sampling/createMessage","params":{}}"#;
    assert_eq!(client.came(asks.into()).await.unwrap().instead, None);
    let result = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError":true}}"#;
    assert_eq!(client.came(result.into()).await.unwrap().instead, None);
    let outcomes = world.outcomes();
    assert_eq!(outcomes[0].0, decisions[0].id);
    let told = outcomes[0].1.tool.as_ref().unwrap();
    assert!(told.results[0].is_error);
    assert_eq!(told.asked, ["sampling/createMessage"]);
}

#[tokio::test]
async fn what_is_denied_is_answered_in_the_servers_place() {
    let world = World::new(Some(AgentId(1)));
    let mut client = world.client();
    let answer = client.sent(call(7, "/etc/shadow").into()).await.unwrap();
    assert!(!answer.allowed);
    let told = instead(&answer);
    assert_eq!(
        (&told["id"], &told["result"]["isError"]),
        (&7.into(), &true.into())
    );
    let id = answer.decision.unwrap().to_string();
    assert_eq!(told["result"]["_meta"]["agentguard/decision"], id);
    // Nothing waits for what is no request.
    let notice = r#"{"jsonrpc":"2.0","method":"notifications/other"}"#;
    let answer = client.sent(notice.into()).await.unwrap();
    assert!(!answer.allowed && answer.instead.is_none(), "{answer:?}");
    // A client's answer to what the server asks is decided by what it answers.
    let sampled =
        r#"{"jsonrpc":"2.0","id":9,"result":{"role":"assistant","model":"m","content":{}}}"#;
    let elicited = r#"{"jsonrpc":"2.0","id":9,"result":{"action":"accept"}}"#;
    for (line, allowed) in [(sampled, false), (elicited, true)] {
        let answer = client.sent(line.into()).await.unwrap();
        assert_eq!((answer.allowed, answer.instead), (allowed, None));
    }
    // What cannot be read.
    let answer = client.sent("{".into()).await.unwrap();
    assert!(!answer.allowed);
    assert_eq!(
        answer.reason.message,
        "The message to a server of tools cannot be read: the JSON ends in the middle."
    );
    assert_eq!(instead(&answer)["id"], Value::Null);
}

#[tokio::test]
async fn of_a_batch_with_a_denial_nothing_goes_on() {
    let world = World::new(Some(AgentId(1)));
    let mut client = world.client();
    let batch = format!("[{},{}]", call(1, "/data/a"), call(2, "/etc/shadow"));
    let answer = client.sent(batch.into()).await.unwrap();
    assert!(!answer.allowed);
    let told = instead(&answer);
    assert_eq!(told.as_array().unwrap().len(), 2);
    let verdicts: Vec<_> = world.decisions().iter().map(|it| it.verdict).collect();
    assert_eq!(verdicts, [Verdict::Allow, Verdict::Deny]);
    let (first, outcome) = &world.outcomes()[0];
    assert_eq!(*first, world.decisions()[0].id);
    assert!(
        outcome
            .error
            .as_ref()
            .unwrap()
            .contains("another message of its batch")
    );
}

#[tokio::test]
async fn a_list_has_the_tools_that_may_be_called() {
    let world = World::new(Some(AgentId(1)));
    let mut client = world.client();
    let asks = r#"{"jsonrpc":"2.0","id":3,"method":"tools/list"}"#;
    assert!(client.sent(asks.into()).await.unwrap().allowed);
    let list = r#"{"jsonrpc":"2.0","id":3,"result":{"tools":[{"name":"read"},{"name":"write"}]}}"#;
    let came = client.came(list.into()).await.unwrap();
    let shown: Value = serde_json::from_str(&came.instead.unwrap()).unwrap();
    assert_eq!(
        shown["result"]["tools"],
        serde_json::json!([{"name": "read"}])
    );
    let told = world.outcomes()[0].1.tool.clone().unwrap();
    assert_eq!(
        (told.listed, told.left_out),
        (Some(2), vec!["write".to_owned()])
    );
    // One that cannot be read may list anything.
    let came = client.came(r#"{"id":1,"id":2}"#.into()).await.unwrap();
    assert!(came.instead.unwrap().contains("not_understood"));
}

#[tokio::test]
async fn what_is_too_long_is_refused_and_recorded() {
    let world = World::new(Some(AgentId(1)));
    let mut client = world.client();
    for (id, told) in [
        (None, Value::Null),
        (Some("7"), 7.into()),
        (Some(r#""a""#), "a".into()),
        // Nobody is to be told this.
        (Some("[1]"), Value::Null),
        (Some(r#"1,"id":2"#), Value::Null),
    ] {
        let answer = client.long(id).await.unwrap();
        assert!(!answer.allowed);
        assert_eq!(instead(&answer)["error"]["code"], 403);
        assert_eq!(instead(&answer)["id"], told);
    }
    // A shorter one that cannot be read has its id, too.
    let twice =
        r#"{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"a","name":"b"}}"#;
    let answer = client.sent(twice.into()).await.unwrap();
    assert_eq!(instead(&answer)["id"], 9);
    let count = world.decisions().len();
    let decision = &world.decisions()[0];
    assert_eq!(decision.reason.code, ReasonCode::NotUnderstood);
    // Who sends it all the same is not read.
    let long = vec![b' '; MAX_LINE + 1];
    assert!(client.sent(long.into()).await.is_err());
    assert_eq!(world.decisions().len(), count);
    let most = vec![b' '; MAX_LINE];
    assert!(!client.sent(most.into()).await.unwrap().allowed);
}

#[tokio::test]
async fn who_is_no_agents_hears_so_and_nothing_is_decided() {
    let world = World::new(None);
    let refused = world
        .client()
        .sent(call(1, "/data/a").into())
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, Unanswered::Refused(why) if why.contains("is no agent's")),
        "{refused}"
    );
    assert!(world.decisions().is_empty());
}

#[tokio::test]
async fn what_is_no_question_is_refused() {
    let world = World::new(Some(AgentId(1)));
    for (request, status) in [
        (
            "GET /v1/sent?server=files HTTP/1.1\r\nHost: a\r\n\r\n",
            "405",
        ),
        (
            "POST /v1/sent HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            "400",
        ),
        (
            "POST /v1/sent?server=A%20b HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            "400",
        ),
        (
            "POST /v1/verdicts?server=files HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            "404",
        ),
        (
            "POST /v1/sent?server=files HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "413",
        ),
        (
            "POST /v1/sent?server=files HTTP/1.1\r\nHost: a\r\nContent-Length: 4194305\r\n\r\n",
            "413",
        ),
    ] {
        let path = world.directory.path().join("agents.sock");
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {answer}"
        );
    }
    assert!(world.decisions().is_empty());
}

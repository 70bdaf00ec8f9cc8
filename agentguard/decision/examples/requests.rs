//! Decisions on requests, and what became of them, with a record that keeps nothing: `requests COUNT`.
//!
//! All of what stands between a request that was read and the record: the agent and its run, the policy, what the decision
//! says of it all. `cargo xtask instructions` counts what it takes.

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;

use agentguard_decision::{
    Asked, Client, Decider, Directory, Policies, RecordRefused, Recorder, Target,
};
use agentguard_model::contents::Contents;
use agentguard_model::{
    AgentId, AgentName, Bytes, Context, Decision, DecisionId, Labels, Outcome, Process,
};
use agentguard_policy::{Document, compile};
use http::{HeaderMap, HeaderValue, header};

/// Ten rules; the last but one is that for the requests.
const POLICY: &str = "
version: 1
agents: [{ name: coder, labels: { tenant: acme, team: web } }]
rules:
  - { id: names, match: { host: [\"*.example.org\"], port: [443] }, action: allow }
  - { id: code, match: { host: [code.example.com], port: [443] }, action: allow }
  - { id: files, match: { host: [files.example.com], path: [/public/**] }, action: allow }
  - { id: upload, match: { host: [files.example.com], method: [PUT] }, action: deny }
  - { id: net, match: { cidr: [192.0.2.0/24], port: [22] }, action: allow, handling: direct }
  - { id: bad-net, match: { cidr: [198.51.100.0/24] }, action: deny }
  - { id: never, match: { host: [bad.example.com] }, action: deny }
  - { id: admin, match: { host: [api.example.com], path: [/v1/admin/**] }, action: deny }
  - { id: read, match: { host: [api.example.com], method: [GET], path: [/v1/**] }, action: allow, handling: inspect }
  - { id: write, match: { host: [api.example.com], method: [POST], path: [/v1/items] }, action: allow, handling: inspect }
";

/// The number of the run.
const RUN: u32 = 3;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [count] = arguments.as_slice() else {
        return Err("usage: requests COUNT".into());
    };
    let count: u32 = count.parse()?;
    let document = Document {
        path: "policy.yaml".to_owned(),
        text: POLICY.to_owned(),
    };
    let policy = compile(&[document]).map_err(|found| found.to_string())?;
    let (client, target) = (client(), target()?);
    let directory = Directory::default();
    directory.agent(client.agent, "coder".parse()?);
    directory.run(RUN, Context::default(), Labels::new());
    let decider = Decider::new(
        Arc::new(Policies::new(1, policy)),
        Arc::new(directory),
        Arc::new(Nothing),
    );
    let fields = fields();
    for _ in 0..count {
        let asked = Asked::new("GET", "/v1/models", Some("limit=20"), fields.clone(), None);
        let asked = asked.inside_tls();
        let decided = decider
            .request(black_box(&client), &target, &[], &asked)
            .await;
        if !decided.allowed {
            return Err(decided.reason.message.into());
        }
        decider.finished(&decided, outcome());
    }
    Ok(())
}

fn client() -> Client {
    Client {
        agent: AgentId(1),
        run: RUN,
        process: Process {
            pid: 7,
            uid: 1000,
            comm: "python3".to_owned(),
            exe: Some("/usr/bin/python3.11".to_owned()),
        },
    }
}

fn target() -> Result<Target, Box<dyn Error>> {
    Ok(Target {
        host: Some("api.example.com".parse()?),
        ip: Some("203.0.113.80".parse()?),
        port: 443,
    })
}

fn fields() -> HeaderMap {
    let fields = [
        (header::HOST, "api.example.com"),
        (header::USER_AGENT, "python-httpx/0.28.1"),
        (header::ACCEPT, "application/json"),
        (header::ACCEPT_ENCODING, "gzip, deflate, br"),
        (header::AUTHORIZATION, "Bearer 0123456789abcdef"),
    ];
    let fields = fields.map(|(name, value)| (name, HeaderValue::from_static(value)));
    fields.into_iter().collect()
}

fn outcome() -> Outcome {
    Outcome {
        bytes: Bytes {
            sent: 800,
            received: 12_000,
        },
        messages: None,
        duration_ms: 90,
        status: Some(200),
        llm: None,
        tool: None,
        budget: Vec::new(),
        error: None,
    }
}

/// Keeps nothing.
struct Nothing;

impl Recorder for Nothing {
    async fn write(&self, decision: Box<Decision>) -> Result<DecisionId, RecordRefused> {
        Ok(black_box(decision).id)
    }

    fn outcome(&self, id: DecisionId, outcome: Outcome) {
        black_box((id, outcome));
    }

    fn contents(&self, _: DecisionId, _: &AgentName, _: Contents) {}
}

//! Tools on the agent's own host.

use std::future::ready;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use agentguard_budget::{Granted, HoldId, Ledger, More, Refused, Want};
use agentguard_model::budget::Budget;
use agentguard_model::{
    ActionKind, AgentId, Layer, Mode, ReasonCode, Tool, ToolDefinition, Verdict,
};
use agentguard_policy::{Document, compile};

use super::{Memory, client, last};
use crate::{Accounting, Decider, Directory, Policies};

const POLICY: &str = "
version: 1
tool_servers: [{name: files, api: mcp_stdio, list: allowed}, {name: own, api: hook}]
agents: [{name: coder}, {name: watched, mode: observe}]
rules:
  - {id: read, match: {tool: {server: [files], name: [read]}}, action: allow}
";

/// Has room for everything, and notes what was used.
#[derive(Default)]
struct Settled(Mutex<Vec<Option<Vec<u64>>>>);

type Answer<'a, T> = agentguard_budget::Asked<'a, T>;

impl Ledger for Settled {
    fn reserve<'a>(&'a self, want: &'a Want, _: i64) -> Answer<'a, Granted> {
        let held = want.charges.iter().map(|it| it.terms.amount(want.tokens));
        let granted = Granted {
            id: HoldId(1),
            tokens: want.tokens,
            room: u64::MAX,
            held: held.collect(),
            over: Vec::new(),
            deadline: None,
        };
        Box::pin(ready(Ok(granted)))
    }

    fn extend<'a>(&'a self, _: HoldId, _: More, _: &'a [Arc<Budget>], _: i64) -> Answer<'a, u64> {
        Box::pin(ready(Err(Refused::Settled)))
    }

    fn settle(&self, _: HoldId, used: Option<&[u64]>, _: i64) {
        self.0.lock().unwrap().push(used.map(<[u64]>::to_vec));
    }
}

/// What could not be recorded did not go, and has used nothing.
#[tokio::test]
async fn a_call_is_charged_once_it_is_recorded() {
    let ledger = Arc::new(Settled::default());
    let budgets = "budgets: [{id: few, unit: tool_calls, limit: 9, window: day}]\n";
    let decider = deciding(&format!("{POLICY}{budgets}"));
    let decider = decider.charging(Arc::new(Accounting::new(ledger.clone())));
    for (full, used) in [(false, 1), (true, 0)] {
        decider.recorder().full.store(full, Ordering::Relaxed);
        let decided = decider.local(&client(1), call("files", "read")).await;
        assert_eq!(decided.allowed, !full);
        drop(decided);
        let settled = ledger.0.lock().unwrap().pop();
        assert_eq!(settled, Some(Some(vec![used])), "{full}");
    }
}

fn decider() -> Decider<Memory> {
    deciding(POLICY)
}

fn deciding(text: &str) -> Decider<Memory> {
    let document = Document {
        path: "policy.yaml".to_owned(),
        text: text.to_owned(),
    };
    let directory = Directory::default();
    directory.agent(AgentId(1), "coder".parse().unwrap());
    directory.agent(AgentId(2), "watched".parse().unwrap());
    Decider::new(
        Arc::new(Policies::new(4, compile(&[document]).unwrap())),
        Arc::new(directory),
        Arc::new(Memory::default()),
    )
}

fn call(server: &str, name: &str) -> Tool {
    Tool {
        server: server.to_owned(),
        method: Some("tools/call".to_owned()),
        name: Some(name.to_owned()),
        ..Tool::default()
    }
}

#[tokio::test]
async fn what_is_called_is_decided_and_recorded_without_a_place_in_the_network() {
    let decider = decider();
    let decided = decider.local(&client(1), call("files", "read")).await;
    assert!(decided.allowed);
    let decision = last(&decider);
    assert_eq!(Some(decision.id), decided.id);
    assert_eq!(decision.layer, Layer::Hook);
    assert_eq!(decision.matched[0].rule, "read");
    let action = decision.action;
    assert_eq!(action.kind, ActionKind::ToolCall);
    assert_eq!(
        (action.host, action.port, action.transport),
        (None, None, None)
    );
    assert_eq!(action.tool.unwrap().name.unwrap(), "read");

    let denied = decider.local(&client(1), call("files", "write")).await;
    assert!(!denied.allowed);
    assert_eq!(denied.reason.code, ReasonCode::NoRule);
}

#[tokio::test]
async fn an_agent_that_is_observed_goes_on() {
    let decider = decider();
    let decided = decider.local(&client(2), call("files", "write")).await;
    assert!(decided.allowed);
    let decision = last(&decider);
    assert_eq!(decision.verdict, Verdict::Deny);
    assert_eq!((decision.enforced, decision.mode), (false, Mode::Observe));
}

#[tokio::test]
async fn a_server_that_the_policy_does_not_have_is_denied() {
    let decider = decider();
    for (agent, allowed) in [(1, false), (2, true)] {
        let decided = decider.local(&client(agent), call("other", "read")).await;
        assert_eq!(decided.allowed, allowed);
        assert_eq!(decided.reason.code, ReasonCode::NoRule);
    }
}

#[tokio::test]
async fn a_list_shows_what_may_be_called() {
    let decider = decider();
    assert!(decider.shows_a_part("files"));
    assert!(!decider.shows_a_part("own"));
    let listed = ["read", "write"].map(|name| ToolDefinition {
        name: name.to_owned(),
        text: "{}".to_owned(),
    });
    let by = client(1);
    let shown = decider.listed_locally(&by, "files", listed.into());
    assert_eq!(shown.await, [true, false]);
}

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use agentguard_model::{
    ActionKind, AgentId, ChangedPart, Decision, Layer, ReasonCode, Sight, Tool, ToolChange,
    ToolDefinition, Verdict,
};
use agentguard_policy::{Document, compile};

use super::{Memory, asked, client, target};
use crate::{Compared, Decider, Directory, Pins, Policies};

const POLICY: &str = r#"
version: 1
tool_servers:
  - { name: held, api: mcp, hosts: [held.example], pin: deny }
  - { name: told, api: mcp, hosts: [told.example] }
  - { name: unseen, api: mcp, hosts: [unseen.example], pin: off }
  - { name: near, api: mcp_stdio, pin: deny }
  - { name: planner, api: a2a, hosts: [planner.example], pin: deny }
  - { name: guide, api: a2a, hosts: [guide.example] }
agents:
  - { name: coder }
  - { name: watched, mode: observe }
rules:
  - { id: all, match: { host: ["*.example"], tool: {} }, action: allow, handling: inspect }
  - { id: near, match: { tool: { server: [near] } }, action: allow }
"#;

/// Every tool changes when it is compared.
#[derive(Debug, Default)]
struct Changing(AtomicBool);

impl Pins for Changing {
    fn is_held(&self, _: &str, _: &str) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn compare(&self, _: &str, listed: Vec<ToolDefinition>) -> Compared {
        let again = self.0.swap(true, Ordering::Relaxed);
        let part = |pointer: &str| ChangedPart {
            pointer: pointer.to_owned(),
            before: None,
            after: None,
        };
        let change = ToolChange {
            parts: ["/a", "/b", "/c", "/d"].map(part).into(),
            more: 2,
            ..ToolChange::default()
        };
        let sights = vec![
            Sight::Changed {
                change: Box::new(change),
                again
            };
            listed.len()
        ];
        Box::pin(std::future::ready(sights))
    }
}

fn decider() -> Decider<Memory> {
    let document = Document {
        path: "policy.yaml".to_owned(),
        text: POLICY.to_owned(),
    };
    let directory = Directory::default();
    directory.agent(AgentId(1), "coder".parse().unwrap());
    directory.agent(AgentId(2), "watched".parse().unwrap());
    let policies = Policies::new(1, compile(&[document]).unwrap());
    let decider = Decider::new(
        Arc::new(policies),
        Arc::new(directory),
        Arc::new(Memory::default()),
    );
    decider.pinning(Arc::new(Changing::default()))
}

fn tools(count: usize) -> Vec<ToolDefinition> {
    let tool = |n| ToolDefinition {
        name: format!("t{n}"),
        text: "{}".to_owned(),
    };
    (0..count).map(tool).collect()
}

fn recorded(decider: &Decider<Memory>) -> Vec<Decision> {
    decider.recorder().decisions.lock().unwrap().clone()
}

#[tokio::test]
async fn what_becomes_of_a_tool_that_changed_is_for_its_server_and_the_agents_mode_to_say() {
    for (agent, server, shown, said) in [
        (1, "held", false, Some((Verdict::Deny, true))),
        (2, "held", true, Some((Verdict::Deny, false))),
        (1, "told", true, Some((Verdict::Allow, true))),
        (1, "unseen", true, None),
    ] {
        let (decider, by) = (decider(), client(agent));
        let host = format!("{server}.example");
        let to = target(&host, 443);
        let request = asked("POST", "/");
        let listed = decider.listed(&by, &to, &request, server, tools(1));
        assert_eq!(listed.await, [shown], "{server}");
        let recorded = recorded(&decider);
        let first = recorded.first();
        assert_eq!(first.map(|it| (it.verdict, it.enforced)), said, "{server}");
        if let Some(first) = first {
            assert_eq!(first.action.kind, ActionKind::ToolDefinition);
            assert_eq!(first.reason.code, ReasonCode::ToolDefinitionChanged);
            assert_eq!(
                first.reason.message,
                format!(
                    "The tool t0 of {server} is not what it was first seen as: /a, /b, /c and 3 more changed."
                )
            );
        }
        // What goes on all the same is told once.
        decider.listed(&by, &to, &request, server, tools(1)).await;
        let before = recorded.len();
        let told = decider.recorder().decisions.lock().unwrap().len();
        assert_eq!(told > before, server == "held", "{server}");
        let call = asked("POST", "/").telling(vec![of(server)]);
        let decided = decider.request(&by, &to, &[], &call).await;
        assert_eq!(decided.allowed, shown, "{server}");
        let last = super::last(&decider);
        let denies = server == "held";
        assert_eq!(last.verdict == Verdict::Deny, denies, "{server}");
        assert_eq!(
            last.reason.code == ReasonCode::ToolDefinitionChanged,
            denies,
            "{server}"
        );
    }
}

#[tokio::test]
async fn of_many_tools_that_changed_the_first_are_told_one_by_one() {
    let (decider, by) = (decider(), client(1));
    let changes = decider.changes();
    let to = target("held.example", 443);
    let request = asked("POST", "/");
    let listed = decider.listed(&by, &to, &request, "held", tools(100));
    assert_eq!(listed.await, vec![false; 100]);
    let told = recorded(&decider);
    assert_eq!(told.len(), 17);
    assert_eq!(told.iter().map(|it| it.count).sum::<u64>(), 100);
    // What is under way is decided again, once: they are held from the first time on.
    assert!(changes.came());
    let changes = decider.changes();
    let again = decider.listed(&by, &to, &request, "held", tools(2));
    assert_eq!(again.await, [false, false]);
    assert!(!changes.came());
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_shown() {
    let (decider, by) = (decider(), client(1));
    decider.recorder().full.store(true, Ordering::Relaxed);
    let to = target("told.example", 443);
    let request = asked("POST", "/");
    let listed = decider.listed(&by, &to, &request, "told", tools(2));
    assert_eq!(listed.await, [false, false]);
    let unread = decider.list_unread(&by, &to, "told", "it is large");
    assert!(!unread.await.unwrap().allowed);
    assert!(
        decider
            .list_unread(&by, &to, "unseen", "it is large")
            .await
            .is_none()
    );
}

#[tokio::test]
async fn a_tool_on_the_agent_s_own_host_is_held_as_any_other() {
    let (decider, by) = (decider(), client(1));
    assert!(decider.local(&by, of("near")).await.allowed);
    assert_eq!(decider.listed_locally(&by, "near", tools(1)).await, [false]);
    let told = super::last(&decider);
    assert_eq!(told.action.kind, ActionKind::ToolDefinition);
    assert_eq!((told.layer, &told.action.host), (Layer::Hook, &None));
    let decided = decider.local(&by, of("near")).await;
    assert!(!decided.allowed);
    assert_eq!(decided.reason.code, ReasonCode::ToolDefinitionChanged);
}

#[tokio::test]
async fn nothing_is_asked_of_an_agent_whose_card_changed_but_for_its_card() {
    let call = |server: &str, name: &str| Tool {
        name: Some(name.to_owned()),
        ..of(server)
    };
    for (agent, server, goes_on) in [
        (1, "planner", false),
        (2, "planner", true),
        (1, "guide", true),
    ] {
        let (decider, by) = (decider(), client(agent));
        let to = target(&format!("{server}.example"), 443);
        let ask = async |tool: Tool| {
            let call = asked("POST", "/").telling(vec![tool]);
            decider.request(&by, &to, &[], &call).await
        };
        assert!(ask(call(server, "SendMessage")).await.allowed);
        let changes = decider.changes();
        let request = asked("GET", "/");
        let card = vec![ToolDefinition {
            name: "agent_card".to_owned(),
            text: "{}".to_owned(),
        }];
        let shown = decider.listed(&by, &to, &request, server, card);
        assert_eq!(shown.await, [goes_on], "{server}");
        // What is under way is decided again.
        assert!(changes.came());
        let unread = Tool {
            server: server.to_owned(),
            not_understood: Some("it is large".to_owned()),
            ..Tool::default()
        };
        for tool in [call(server, "SendMessage"), call(server, "GetTask"), unread] {
            let decided = ask(tool.clone()).await;
            // What cannot be read is denied in any case, by what the policy says of that.
            assert_eq!(
                decided.allowed,
                goes_on && tool.name.is_some() || agent == 2
            );
            if server == "planner" && tool.name.is_some() {
                let last = super::last(&decider);
                assert_eq!(last.verdict, Verdict::Deny);
                assert_eq!(last.reason.code, ReasonCode::ToolDefinitionChanged);
                assert!(
                    last.reason
                        .message
                        .contains("The card agent_card of planner")
                );
            }
        }
        let card = Tool {
            name: None,
            method: Some("tools/list".to_owned()),
            ..of(server)
        };
        for tool in [card, call(server, "GetExtendedAgentCard")] {
            assert!(ask(tool).await.allowed, "{server}");
        }
    }
}

fn of(server: &str) -> Tool {
    Tool {
        server: server.to_owned(),
        method: Some("tools/call".to_owned()),
        name: Some("t0".to_owned()),
        ..Tool::default()
    }
}

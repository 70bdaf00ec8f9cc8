//! Tools that are not what they were first seen as.

use std::fmt::Debug;
use std::future::{Future, ready};
use std::pin::Pin;
use std::time::Instant;

use agentguard_model::{
    Action, ActionKind, Handling, Layer, Mode, Reason, ReasonCode, Sight, Tool, ToolApi,
    ToolChange, ToolDefinition, Verdict,
};
use agentguard_policy::{AgentPolicy, Listing, Pinning, Policy, Ruling, RulingOutcome, Seen};
use agentguard_protocol::api::a2a::{CARDS, Operation};

use crate::asked::Asked;
use crate::decider::{Decider, Draft, action};
use crate::local::is_place;
use crate::port::{Client, Decided, Recorder, Target};

/// The method that lists tools.
const LIST: &str = "tools/list";

/// The tools of one list that have a decision each. What is said of those behind is one decision that counts them.
const TOLD: usize = 16;

/// The pointers that the sentence of a decision names. The decision has more.
const NAMED: usize = 3;

/// What the tools of servers were first seen as.
pub trait Pins: Debug + Send + Sync + 'static {
    /// Whether a tool was listed with another definition than it is pinned to, which nobody has accepted. Never blocks.
    fn is_held(&self, server: &str, tool: &str) -> bool;

    /// Compares what a server lists with what its tools are pinned to, and pins those that are seen for the first time:
    /// a sight for each, in their order.
    ///
    /// # Cancel safety
    /// A dropped future may have pinned tools.
    fn compare(&self, server: &str, listed: Vec<ToolDefinition>) -> Compared;
}

/// See [`Pins::compare`].
pub type Compared = Pin<Box<dyn Future<Output = Vec<Sight>> + Send>>;

/// No pins: each tool is what it was.
#[derive(Debug)]
pub struct Unpinned;

impl Pins for Unpinned {
    fn is_held(&self, _: &str, _: &str) -> bool {
        false
    }

    fn compare(&self, _: &str, listed: Vec<ToolDefinition>) -> Compared {
        Box::pin(ready(vec![Sight::Same; listed.len()]))
    }
}

/// What is done about a tool that is not what it was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Pinned {
    pin: Pinning,
    mode: Mode,
}

impl Pinned {
    /// Whether it is taken from agents.
    fn denies(self) -> bool {
        self.pin == Pinning::Deny && self.mode == Mode::Enforce
    }
}

impl<R: Recorder> Decider<R> {
    /// Which tools of a list an agent is shown, in their order: those of which the policy allows some call, where it wants
    /// that, and that are what they are pinned to, where it wants that. What is not is recorded.
    pub async fn listed(
        &self,
        client: &Client,
        target: &Target,
        asked: &Asked,
        server: &str,
        listed: Vec<ToolDefinition>,
    ) -> Vec<bool> {
        let policy = self.policies().current();
        let declared = policy.tool_server_named(server);
        let names: Vec<String> = listed.iter().map(|tool| tool.name.clone()).collect();
        let mut shown = match declared.map(|it| it.list) {
            Some(Listing::Allowed) => self.may_call(client, target, asked, server, &names),
            _ => vec![true; names.len()],
        };
        let pinned = self.pinned(&policy, client, server);
        if pinned.pin == Pinning::Off {
            return shown;
        }
        let is_card = declared.is_some_and(|it| it.api == ToolApi::A2a);
        let noun = if is_card { "card" } else { "tool" };
        let is_held = |name: &String| self.pins().is_held(server, name);
        let held: Vec<bool> = names.iter().map(is_held).collect();
        let sights = self.pins().compare(server, listed).await;
        let newly = |(name, was): (&String, bool)| !was && is_held(name);
        if names.iter().zip(held).any(newly) {
            // What is under way was allowed when the tool, or the agent, was another one.
            self.policies().decide_again();
        }
        let mut told = 0;
        let mut more = 0;
        let each = names.iter().zip(sights).zip(&mut shown);
        for ((name, sight), shown) in each {
            let (code, message, change) = match sight {
                Sight::First | Sight::Same => continue,
                Sight::Held => {
                    *shown &= !pinned.denies();
                    continue;
                }
                // It was told, and nothing is taken from anybody.
                Sight::Changed { again: true, .. } if pinned.pin == Pinning::Alert => continue,
                Sight::Changed { change, .. } => (
                    ReasonCode::ToolDefinitionChanged,
                    differs(noun, name, server, &change),
                    Some(change),
                ),
                Sight::NotPinned(why) => (
                    ReasonCode::ToolNotPinned,
                    format!(
                        "The {noun} {name} of {server} is not compared with what it was first seen as: {why}."
                    ),
                    None,
                ),
            };
            told += 1;
            if told > TOLD {
                more += 1;
                *shown &= !pinned.denies();
                continue;
            }
            let tool = Tool {
                name: (!name.is_empty()).then(|| name.chars().take(256).collect()),
                change,
                ..of(server)
            };
            let reason = Reason::new(code, message);
            let decided = self.tell(&policy, client, target, (tool, reason, 1), pinned);
            *shown &= decided.await.allowed;
        }
        if more > 0 {
            let message = format!(
                "So many tools of {server} are not what they were first seen as that these are counted only."
            );
            let reason = Reason::new(ReasonCode::ToolDefinitionChanged, message);
            let what = (of(server), reason, more);
            self.tell(&policy, client, target, what, pinned).await;
        }
        shown
    }

    /// Records that a list cannot be read, where the tools of its server are pinned. Whether it is passed on all the same;
    /// None: nobody wants to know.
    pub async fn list_unread(
        &self,
        client: &Client,
        target: &Target,
        server: &str,
        why: &str,
    ) -> Option<Decided> {
        let policy = self.policies().current();
        let pinned = self.pinned(&policy, client, server);
        if pinned.pin == Pinning::Off {
            return None;
        }
        let declared = policy.tool_server_named(server);
        let message = match declared.is_some_and(|it| it.api == ToolApi::A2a) {
            true => format!(
                "The card of {server} is not compared with what it was first seen as: {why}."
            ),
            false => format!(
                "The tools that {server} lists are not compared with what they were first seen as: {why}."
            ),
        };
        let tool = Tool {
            not_understood: Some(why.to_owned()),
            ..of(server)
        };
        let reason = Reason::new(ReasonCode::NotUnderstood, message);
        let told = self.tell(&policy, client, target, (tool, reason, 1), pinned);
        Some(told.await)
    }

    /// Whether agents are shown a part of a server's tools. Pure; records nothing.
    #[must_use]
    pub fn shows_a_part(&self, server: &str) -> bool {
        let policy = self.policies().current();
        let declared = policy.tool_server_named(server);
        declared.is_some_and(|it| it.list == Listing::Allowed)
    }

    /// A ruling, unless it lets a call of a tool go on that is held, or one to an agent whose card is.
    pub(crate) fn unless_held(
        &self,
        policy: &Policy,
        agent: &AgentPolicy,
        seen: Seen<'_>,
        mut ruling: Ruling,
    ) -> Ruling {
        let Seen::Request(request) = seen else {
            return ruling;
        };
        let (Some(tool), RulingOutcome::Allow(_)) = (request.tool, ruling.outcome) else {
            return ruling;
        };
        let declared = policy.tool_server_named(&tool.server);
        let denies = declared.is_some_and(|it| it.pin == Pinning::Deny);
        if !denies || ruling.verdict == Verdict::Deny {
            return ruling;
        }
        let is_agent = declared.is_some_and(|it| it.api == ToolApi::A2a);
        let Some(why) = self.held(tool, is_agent) else {
            return ruling;
        };
        let enforced = agent.mode == Mode::Enforce;
        if enforced {
            ruling.outcome = RulingOutcome::Deny;
            ruling.changes = Vec::new();
        }
        ruling.verdict = Verdict::Deny;
        ruling.enforced = enforced;
        ruling.mode = agent.mode;
        ruling.matched = Vec::new();
        ruling.reason = Reason::new(ReasonCode::ToolDefinitionChanged, why);
        ruling
    }

    /// Why a message does not go on, if it is a call of a tool that is held, or goes to an agent (`is_agent`) of which a card
    /// is: in a sentence. Whoever asks for a card goes on, and is shown none that is held.
    fn held(&self, tool: &Tool, is_agent: bool) -> Option<String> {
        let server = tool.server.as_str();
        let name = tool.name.as_deref();
        let is_held = |name: &str| self.pins().is_held(server, name);
        if !is_agent {
            let name = name.filter(|name| is_held(name))?;
            return Some(format!(
                "The tool {name} of {server} is not what it was first seen as: its definition changed, and an operator \
                 has to accept that."
            ));
        }
        let asks_for_card = tool.method.as_deref() == Some(LIST)
            || name == Some(Operation::GetExtendedAgentCard.name());
        if asks_for_card {
            return None;
        }
        let card = CARDS.into_iter().find(|card| is_held(card))?;
        Some(format!(
            "The card {card} of {server} is not what it was first seen as: it changed, and an operator has to accept \
             that before anything is asked of the agent."
        ))
    }

    fn pinned(&self, policy: &Policy, client: &Client, server: &str) -> Pinned {
        let declared = policy.tool_server_named(server);
        let agent = self.agent(policy, client.agent);
        Pinned {
            pin: declared.map_or(Pinning::Off, |it| it.pin),
            mode: agent.map_or(Mode::Enforce, |agent| agent.mode),
        }
    }

    /// Records what there is to say of a list, so many times, and says whether it goes on all the same.
    async fn tell(
        &self,
        policy: &Policy,
        client: &Client,
        target: &Target,
        (tool, reason, count): (Tool, Reason, u64),
        pinned: Pinned,
    ) -> Decided {
        let kind = ActionKind::ToolDefinition;
        let (layer, mut what) = match is_place(target) {
            true => (Layer::Hook, Action::new(kind)),
            false => (Layer::Proxy, action(kind, target)),
        };
        what.tool = Some(tool);
        let (verdict, enforced) = match pinned.pin {
            Pinning::Deny => (Verdict::Deny, pinned.denies()),
            Pinning::Alert | Pinning::Off => (Verdict::Allow, true),
        };
        let draft = Draft {
            client: Some(client),
            layer,
            action: what,
            verdict,
            enforced,
            mode: pinned.mode,
            reason,
            matched: Vec::new(),
            count,
            started: Instant::now(),
        };
        let going = (!pinned.denies()).then_some(Handling::Inspect);
        self.conclude(policy, draft, going).await
    }
}

fn of(server: &str) -> Tool {
    Tool {
        server: server.to_owned(),
        method: Some(LIST.to_owned()),
        ..Tool::default()
    }
}

/// In a sentence, what is not as it was.
fn differs(noun: &str, name: &str, server: &str, change: &ToolChange) -> String {
    let mut pointers: Vec<&str> = change.parts.iter().map(|it| it.pointer.as_str()).collect();
    let more = pointers.len().saturating_sub(NAMED);
    pointers.truncate(NAMED);
    let mut which = pointers.join(", ");
    let more = u64::try_from(more)
        .unwrap_or(u64::MAX)
        .saturating_add(change.more);
    if more > 0 {
        which.push_str(&format!(" and {more} more"));
    }
    format!("The {noun} {name} of {server} is not what it was first seen as: {which} changed.")
}

//! Messages to tools on the agent's own host, which the agent's host asks about itself.

use std::time::Instant;

use agentguard_model::{
    Action, ActionKind, Demand, Handling, Layer, Mode, Reason, ReasonCode, Tool, ToolDefinition,
    Verdict,
};
use agentguard_policy::{Request, Ruling, RulingOutcome, Seen, local};

use crate::asked::Asked;
use crate::budgets::Charging;
use crate::decider::{Beside, Decider, Draft};
use crate::limits::{Limiting, ended_unseen};
use crate::port::{Client, Decided, Recorder, Target};

/// Whether that is where something goes.
pub(crate) fn is_place(target: &Target) -> bool {
    target.host.as_ref() == Some(local::place())
}

/// Where tools on the agent's own host are, for rules.
fn place() -> Target {
    Target {
        host: Some(local::place().clone()),
        ip: None,
        port: local::PORT,
    }
}

impl<R: Recorder> Decider<R> {
    /// Decides and records a message to tools on the agent's own host. Denied where the policy declares no such server.
    pub async fn local(&self, client: &Client, tool: Tool) -> Decided {
        let started = Instant::now();
        let policy = self.policies().current();
        let mut ruling = if policy.local_server(&tool.server).is_some() {
            let request = Request {
                tool: Some(&tool),
                ..Request::new("", "")
            };
            self.rule(&policy, client, &place(), Seen::Request(request))
        } else {
            let agent = self.agent(&policy, client.agent);
            let mode = agent.map_or(Mode::Enforce, |agent| agent.mode);
            undeclared(&tool.server, mode)
        };
        let (mut held, mut spent) = (None, None);
        let (mut ticket, mut retry_after) = (None, None);
        if matches!(ruling.outcome, RulingOutcome::Allow(_)) {
            let request = Request {
                tool: Some(&tool),
                ..Request::new("", "")
            };
            match self.limit(
                &policy,
                client,
                &place(),
                Seen::Request(request),
                (None, false),
            ) {
                Limiting::Passes(it, on_paper) => {
                    ticket = it;
                    ruling.matched.extend(on_paper);
                }
                Limiting::Refused(denial) => {
                    retry_after = denial.retry_after;
                    ruling = denial.ruling();
                }
            }
        }
        if matches!(ruling.outcome, RulingOutcome::Allow(_)) {
            let request = Request {
                tool: Some(&tool),
                ..Request::new("", "")
            };
            let (seen, none) = (Seen::Request(request), Demand::default());
            match self
                .charge(&policy, client, &place(), seen, (&none, None, None))
                .await
            {
                Charging::Free => {}
                Charging::Held(it) => held = Some(it),
                Charging::Refused(mut denial) => {
                    if let Some(ticket) = ticket.take() {
                        ticket.give_back();
                    }
                    spent = denial.spent.take();
                    ruling = denial.ruling();
                }
            }
        }
        // Nobody tells what comes of it.
        if let Some(ticket) = &ticket {
            ended_unseen(ticket);
        }
        let going = match ruling.outcome {
            RulingOutcome::Allow(handling) => Some(handling),
            RulingOutcome::Deny | RulingOutcome::Undecided => None,
        };
        let changed = ruling.changed();
        let draft = Draft {
            client: Some(client),
            layer: Layer::Hook,
            action: Action {
                tool: Some(policy.recorded_tool(&tool)),
                ..Action::new(ActionKind::ToolCall)
            },
            verdict: ruling.verdict,
            enforced: ruling.enforced,
            mode: ruling.mode,
            reason: ruling.reason,
            matched: ruling.matched,
            count: 1,
            started,
        };
        let beside = Beside {
            changed,
            held,
            ..Beside::default()
        };
        let concluded = self.conclude_with(&policy, draft, going, beside);
        let mut decided = concluded.await;
        decided = decided.for_want_of(spent).again_in(retry_after);
        if decided.allowed {
            if let Some(held) = decided.held() {
                // Nobody tells what comes of it.
                held.leaves();
            }
            decided.changes = ruling.changes.into();
            let keeps = ruling.captures.then(|| self.directory().name(client.agent));
            decided.keep(keeps.flatten());
        }
        decided
    }

    /// Records the denial of a message to tools on the agent's own host that no rule gave, whatever the agent's mode: it
    /// is not whole, so that nothing can go on.
    pub async fn refuse_local(&self, client: &Client, tool: Tool, reason: Reason) -> Decided {
        let policy = self.policies().current();
        let draft = Draft {
            client: Some(client),
            layer: Layer::Hook,
            action: Action {
                tool: Some(policy.recorded_tool(&tool)),
                ..Action::new(ActionKind::ToolCall)
            },
            verdict: Verdict::Deny,
            enforced: true,
            mode: Mode::Enforce,
            reason,
            matched: Vec::new(),
            count: 1,
            started: Instant::now(),
        };
        self.conclude(&policy, draft, None).await
    }

    /// As [`Self::listed`], of a server on the agent's own host.
    pub async fn listed_locally(
        &self,
        client: &Client,
        server: &str,
        listed: Vec<ToolDefinition>,
    ) -> Vec<bool> {
        let (place, asked) = (place(), Asked::local());
        self.listed(client, &place, &asked, server, listed).await
    }

    /// As [`Self::list_unread`], of a server on the agent's own host.
    pub async fn list_unread_locally(
        &self,
        client: &Client,
        server: &str,
        why: &str,
    ) -> Option<Decided> {
        self.list_unread(client, &place(), server, why).await
    }
}

fn undeclared(server: &str, mode: Mode) -> Ruling {
    let message = format!(
        "The policy has no server of tools {} with `api: mcp_stdio` or `api: hook`, so nothing of it is allowed.",
        server.escape_debug()
    );
    Ruling {
        outcome: match mode {
            Mode::Enforce => RulingOutcome::Deny,
            Mode::Observe | Mode::Shadow => RulingOutcome::Allow(Handling::Splice),
        },
        verdict: Verdict::Deny,
        enforced: mode == Mode::Enforce,
        mode,
        reason: Reason::new(ReasonCode::NoRule, message),
        matched: Vec::new(),
        changes: Vec::new(),
        on_paper: Vec::new(),
        captures: false,
        cuts: false,
    }
}

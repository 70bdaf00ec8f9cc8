//! Calls that cannot be read, and what becomes of them.

use agentguard_model::{Reason, ReasonCode, Tool, Verdict};

use crate::agent::AgentPolicy;
use crate::decide::{Facts, Ruling, RulingOutcome};
use crate::document::NotUnderstood;
use crate::policy::Policy;
use crate::request::{Assumed, Request, Unknown};
use crate::rule::Seen;

/// Denies what cannot be read, where no rule would deny it if it could: the rules decide it otherwise, and are not to blame
/// for it.
pub(crate) fn unless_unread(
    policy: &Policy,
    agent: &AgentPolicy,
    facts: &Facts<'_>,
    ruling: Ruling,
) -> Ruling {
    let Seen::Request(request) = facts.request else {
        return ruling;
    };
    let Some(unread) = Unread::of(policy, &request) else {
        return unless_answer_unread(&request, ruling);
    };
    if agent.not_understood == NotUnderstood::Allow {
        return ruling;
    }
    let observes = agent.observes();
    let outcome = ruling.outcome;
    let denied = ruling.verdict == Verdict::Deny && (observes || outcome == RulingOutcome::Deny);
    if denied && let Some(denied) = Unread::denied_anyway(policy, agent, facts, ruling) {
        return denied;
    }
    Ruling {
        outcome: if observes {
            outcome
        } else {
            RulingOutcome::Deny
        },
        verdict: Verdict::Deny,
        enforced: !observes,
        mode: agent.mode,
        reason: Reason::new(
            ReasonCode::NotUnderstood,
            format!("The {} cannot be read: {}.", unread.what, unread.why),
        ),
        // No rule says so.
        matched: Vec::new(),
        changes: Vec::new(),
        on_paper: Vec::new(),
        captures: false,
        cuts: false,
    }
}

/// A call that cannot be read.
struct Unread<'a> {
    /// What it is, in words.
    what: &'static str,
    why: &'a str,
}

impl<'a> Unread<'a> {
    fn of(policy: &Policy, request: &Request<'a>) -> Option<Self> {
        let llm = request.llm.and_then(|llm| llm.not_understood.as_deref());
        if let Some(why) = llm {
            return Some(Self {
                what: "call of a language model",
                why,
            });
        }
        let tool = request.tool?;
        Some(Self {
            what: asked_of(policy, tool),
            why: tool.not_understood.as_deref()?,
        })
    }

    /// The denial that there would be, were what nobody can read what rules allow; none where it would go on then.
    fn denied_anyway(
        policy: &Policy,
        agent: &AgentPolicy,
        facts: &Facts<'_>,
        ruling: Ruling,
    ) -> Option<Ruling> {
        let Seen::Request(request) = facts.request else {
            return Some(ruling);
        };
        let by_rules = matches!(
            ruling.reason.code,
            ReasonCode::RuleDeny | ReasonCode::NoRule | ReasonCode::EngineError
        );
        // What is assumed already is for who assumes it to tell.
        if !by_rules || request.assumed.is_some() {
            return Some(ruling);
        }
        let unknown = Unknown {
            content: true,
            ..Unknown::default()
        };
        let request = Request {
            assumed: Some(Assumed {
                unknown: &unknown,
                in_favour: true,
            }),
            ..request
        };
        let facts = Facts {
            request: Seen::Request(request),
            ..*facts
        };
        let at_best = policy.by_rules(agent, &facts);
        let denied = at_best.verdict == Verdict::Deny && at_best.outcome == ruling.outcome;
        denied.then_some(Ruling {
            reason: at_best.reason,
            matched: at_best.matched,
            ..ruling
        })
    }
}

/// Says of an answer that a rule denies for the tools that it asks for if nobody knows which these are.
fn unless_answer_unread(request: &Request<'_>, mut ruling: Ruling) -> Ruling {
    let unread = request.llm.is_some_and(|llm| llm.asks_unread);
    if unread && ruling.verdict == Verdict::Deny && ruling.reason.code == ReasonCode::RuleDeny {
        let why = " It cannot be read which tools the answer asks to call, and it may be any.";
        ruling.reason.message.push_str(why);
    }
    ruling
}

/// What is asked of a server of tools, in words.
fn asked_of(policy: &Policy, tool: &Tool) -> &'static str {
    let server = policy.tool_server_named(&tool.server);
    match server.is_none_or(|server| server.api.is_mcp()) {
        true => "message to a server of tools",
        false => "call of a tool",
    }
}

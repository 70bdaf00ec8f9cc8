//! Requests of tests that the guard reads as calls, and of which the test does not say so.

use agentguard_protocol::llm::Route;
use http::Method;

use super::Attempt;
use crate::agent::AgentPolicy;
use crate::conditions::When;
use crate::flow::Flow;
use crate::policy::Policy;
use crate::request::Query;
use crate::rule::{Rule, Seen, bit};

/// What the guard reads a request as, in words, and how a test says it. None where no rule for the request tells it from
/// one that is no call.
pub(super) fn forgotten(
    policy: &Policy,
    agent: &AgentPolicy,
    attempt: &Attempt,
) -> Option<(String, &'static str)> {
    let Attempt::Request(flow, sent) = attempt else {
        return None;
    };
    if sent.llm.is_some() || sent.tool.is_some() || sent.method == "CONNECT" {
        return None;
    }
    // What is in TLS that nobody opens is not read.
    let Ok(Seen::Request(request)) = sent.seen(policy, agent, flow) else {
        return None;
    };
    let host = flow.host.as_ref()?;
    if let Some(server) = policy.tool_server(host, request.path) {
        let what = format!("a message to the server of tools `{}`", server.name);
        let hint = "`tool: {name: …}` says which tool is called, `tool: {method: …}` what else is asked, and `tool: {}` that it opens a stream";
        return looked_at(policy, agent, flow, looks_at_tools).then_some((what, hint));
    }
    let provider = policy.provider(host)?;
    let method = Method::from_bytes(sent.method.as_bytes()).ok()?;
    let route = Route::of(provider.api, request.path)?;
    let query = request.query.map(Query::as_str);
    let overridden = request
        .fields
        .is_some_and(|fields| route.is_overridden(fields, query));
    route.called(&method, sent.websocket, overridden)?;
    let what = format!("a call of a language model of `{}`", provider.name);
    let hint = "`llm: {operation: chat, model: …}` says which one, with `opens: true` for a request that opens a WebSocket for calls";
    looked_at(policy, agent, flow, looks_at_models).then_some((what, hint))
}

/// Whether one of the rules that may be for a flow looks at this.
fn looked_at(policy: &Policy, agent: &AgentPolicy, flow: &Flow, looks: fn(&Rule) -> bool) -> bool {
    let mut looked_at = false;
    let (host, port) = (flow.host.as_ref(), Some(flow.port));
    policy.each(agent, host, flow.ip, port, |_, rule| {
        let about = rule.ports.contains(flow.port) && rule.transports & bit(flow.transport) != 0;
        looked_at |= about && (looks(rule) || edits(rule));
    });
    looked_at
}

fn looks_at_models(rule: &Rule) -> bool {
    let when = rule.conditions.when.as_ref();
    rule.request.llm.is_some() || when.is_some_and(When::needs_llm)
}

fn looks_at_tools(rule: &Rule) -> bool {
    let when = rule.conditions.when.as_ref();
    rule.request.tool.is_some() || when.is_some_and(When::needs_tool)
}

/// Whether it changes contents, which it does in calls alone.
fn edits(rule: &Rule) -> bool {
    let changes = rule.changes.as_ref();
    changes.is_some_and(|changes| changes.edits().is_some())
}

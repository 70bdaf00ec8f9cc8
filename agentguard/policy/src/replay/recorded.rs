//! What the record has of what was attempted, and what it lacks.

use std::collections::{HashMap, HashSet};

use agentguard_model::{
    Action, ActionKind, COUNTED_TOGETHER, Claim, Decision, HostName, Labels, Layer, Llm, Provider,
    ReasonCode, Tool, ToolApi, Transport, Verdict,
};
use agentguard_protocol::llm::Route;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method};

use crate::circumstances::Switches;
use crate::flow::{Around, Flow};
use crate::local;
use crate::policy::Policy;
use crate::recorded::{CUT, is_cut};
use crate::request::{Query, Request, Unknown};
use crate::tool_servers::ToolServer;

/// Names are asked of the guard's resolver there, whatever the policy says.
const DNS: u16 = 53;

/// Something attempted, as far as it is recorded.
#[derive(Debug)]
pub(super) enum Attempted {
    /// A name was asked for.
    Name(HostName),
    /// A datagram.
    Datagram(Flow),
    /// A connection of which nobody saw what was sent.
    Unseen(Flow),
    /// A connection that showed no request, unless there is one in TLS that was not opened; whether it was
    /// TLS.
    Unopened(Flow, bool),
    /// A request.
    Request(Flow, Box<Asked>),
}

impl Attempted {
    /// Where it goes.
    pub(super) fn flow(&self) -> Option<&Flow> {
        match self {
            Self::Name(_) => None,
            Self::Datagram(flow)
            | Self::Unseen(flow)
            | Self::Unopened(flow, _)
            | Self::Request(flow, _) => Some(flow),
        }
    }

    /// The labels of the run.
    pub(super) fn labels(&mut self) -> Option<&mut Labels> {
        match self {
            Self::Name(_) => None,
            Self::Datagram(flow)
            | Self::Unseen(flow)
            | Self::Unopened(flow, _)
            | Self::Request(flow, _) => Some(&mut flow.around.labels),
        }
    }
}

/// A request, as far as it is recorded.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: Option<Query>,
    /// As [`crate::Request::fields`].
    pub(super) fields: Option<HeaderMap>,
    /// How much content it was known to have when it was decided.
    pub(super) body: u64,
    /// Whether it is known that it had no more in the end.
    pub(super) whole: bool,
    /// Whether it came inside TLS: then it would only be seen where that is opened.
    pub(super) tls: bool,
    /// Whether it opens a WebSocket.
    pub(super) websocket: bool,
    /// The call of a language model that it is for the candidate.
    pub(super) llm: Option<Llm>,
    /// As [`Request::opens_calls`].
    pub(super) opens_calls: bool,
    pub(super) claims: Vec<Claim>,
    pub(super) tool: Option<Tool>,
    pub(super) unknown: Unknown,
}

impl Asked {
    /// As rules see it, without what the record does not have.
    pub(super) fn request(&self) -> Request<'_> {
        Request {
            query: self.query.as_ref(),
            fields: self.fields.as_ref(),
            body: self.body,
            tls: self.tls,
            websocket: self.websocket,
            llm: self.llm.as_ref(),
            opens_calls: self.opens_calls,
            claims: &self.claims,
            tool: self.tool.as_ref(),
            ..Request::new(&self.method, &self.path)
        }
    }
}

/// Why a decision cannot be replayed.
#[derive(Debug)]
pub(super) enum Unread {
    /// The policy did not give it.
    NotThePolicys,
    /// The record does not have what it was about.
    CannotTell(String),
}

/// What was attempted. `looked_at`: the header fields that a policy looked at, by its version.
pub(super) fn attempted(
    decision: &Decision,
    policy: &Policy,
    looked_at: &HashMap<String, HashSet<HeaderName>>,
) -> Result<Attempted, Unread> {
    let action = &decision.action;
    if !is_the_policys(decision) {
        return Err(Unread::NotThePolicys);
    }
    if decision.reason.message.ends_with(COUNTED_TOGETHER) {
        let why = "it was counted together with others of its reason, whatever their destination";
        return Err(Unread::CannotTell(why.to_owned()));
    }
    if action.kind == ActionKind::DnsQuery {
        let name = action.host.clone().ok_or(Unread::NotThePolicys)?;
        return Ok(Attempted::Name(name));
    }
    let around = Around {
        context: decision.context.clone(),
        labels: labels(decision),
        time: decision.time,
        switches: Switches::default(),
    };
    let flow = match (action.port, action.transport) {
        _ if decision.layer == Layer::Hook => Flow {
            host: Some(local::place().clone()),
            ip: None,
            port: local::PORT,
            transport: Transport::Tcp,
            around,
        },
        (Some(port), Some(transport)) if action.host.is_some() || action.ip.is_some() => Flow {
            host: action.host.clone(),
            ip: action.ip,
            port,
            transport,
            around,
        },
        _ => {
            let why = "where it went was not recorded";
            return Err(Unread::CannotTell(why.to_owned()));
        }
    };
    if decision.layer == Layer::Kernel && is_the_kernels(decision, &flow) {
        return Err(Unread::NotThePolicys);
    }
    Ok(match action.kind {
        ActionKind::HttpRequest | ActionKind::LlmCall | ActionKind::ToolCall => {
            let known = looked_at.get(&decision.policy_version);
            let mut asked = asked(decision, known);
            (asked.llm, asked.unknown.llm) = call(decision, policy);
            message(decision, policy, &mut asked);
            Attempted::Request(flow, Box::new(asked))
        }
        _ if flow.transport == Transport::Udp => Attempted::Datagram(flow),
        _ if decision.layer == Layer::Proxy
            && matches!(
                decision.reason.code,
                ReasonCode::RuleAllow | ReasonCode::NeedsInspection
            ) =>
        {
            Attempted::Unopened(flow, action.tls)
        }
        _ => Attempted::Unseen(flow),
    })
}

/// The labels that held then, whether the policy gave them or the run had them.
fn labels(decision: &Decision) -> Labels {
    let agent = decision.agent.as_ref();
    agent.map(|agent| agent.labels.clone()).unwrap_or_default()
}

/// Whether rules speak of such actions, and one of them, or the want of one, gave the verdict.
fn is_the_policys(decision: &Decision) -> bool {
    use ActionKind as Kind;
    use ReasonCode as Code;
    let of_names = matches!(
        decision.reason.code,
        Code::RuleAllow
            | Code::RuleModify
            | Code::RuleDeny
            | Code::EngineError
            | Code::NoRule
            | Code::NoAgent
    );
    let of_flows = of_names
        || matches!(
            decision.reason.code,
            Code::MetadataService | Code::LoopbackNotOwn
        );
    let said = decision.verdict != Verdict::Escalate;
    said && decision.agent.is_some()
        && match (decision.layer, decision.action.kind) {
            (Layer::Dns, Kind::DnsQuery) => of_names,
            (Layer::Kernel, Kind::Connect | Kind::Datagram) => of_flows,
            (Layer::Proxy, Kind::Connect | Kind::HttpRequest | Kind::LlmCall | Kind::ToolCall) => {
                of_flows || decision.reason.code == Code::NeedsInspection
            }
            (Layer::Hook, Kind::ToolCall) => of_names,
            _ => false,
        }
}

/// Whether the gate lets it pass whatever the rules say: to the resolver, or to a port of the agent's
/// own.
fn is_the_kernels(decision: &Decision, flow: &Flow) -> bool {
    let own = flow.ip.is_some_and(|ip| ip.to_canonical().is_loopback())
        && decision.verdict == Verdict::Allow
        && decision.matched.is_empty();
    flow.port == DNS || own
}

fn asked(decision: &Decision, looked_at: Option<&HashSet<HeaderName>>) -> Asked {
    let action = &decision.action;
    let method = action.method.clone().unwrap_or_default();
    let mut unknown = Unknown {
        // What could not be measured counts as more than any size.
        body: decision.reason.code == ReasonCode::NeedsInspection,
        ..Unknown::default()
    };
    if let Some(text) = &action.query {
        hidden(text, &mut unknown);
    }
    // The request for a tunnel ends at the guard.
    let tunnel = method == "CONNECT";
    let mut fields = HeaderMap::new();
    let mut known = looked_at.cloned().unwrap_or_default();
    for (name, value) in &action.headers {
        let Ok(name) = HeaderName::try_from(name.as_str()) else {
            continue;
        };
        match HeaderValue::from_bytes(value.as_bytes()) {
            Ok(read) if is_as_sent(value) => {
                fields.insert(name.clone(), read);
                known.insert(name);
            }
            Ok(_) | Err(_) => {
                known.remove(&name);
            }
        }
    }
    unknown.fields_but = (!tunnel).then_some(known);
    Asked {
        path: action.path.clone().unwrap_or_default(),
        query: action.query.as_ref().map(Query::new),
        fields: (!tunnel).then_some(fields),
        body: action.body.unwrap_or(0),
        tls: action.tls,
        websocket: action.websocket,
        whole: tunnel || is_empty(action, decision),
        llm: None,
        opens_calls: action.kind == ActionKind::HttpRequest && action.llm.is_some(),
        claims: action.claims.clone(),
        tool: None,
        unknown,
        method,
    }
}

/// The call of a language model that a request is where a policy's providers are, and whether that is not known.
fn call(decision: &Decision, policy: &Policy) -> (Option<Llm>, bool) {
    let action = &decision.action;
    let provider = action.host.as_ref().and_then(|host| policy.provider(host));
    let Some(provider) = provider.filter(|provider| !is_no_call(action, provider)) else {
        return (None, false);
    };
    // Another provider may have another form, in which it is another call or none.
    let Some(llm) = action
        .llm
        .as_ref()
        .filter(|it| it.provider == provider.name)
    else {
        return (None, true);
    };
    (Some(llm.clone()), false)
}

/// Whether a request is known to be no call of a provider's. One without content is none, unless it stands on a WebSocket or
/// is one by where it goes alone, as that for the answer to an earlier one; and the request for a tunnel ends at the guard.
fn is_no_call(action: &Action, provider: &Provider) -> bool {
    let method = match action.method.as_deref() {
        _ if action.llm.is_some() || action.websocket => return false,
        Some("CONNECT") => return true,
        Some("GET") => Method::GET,
        Some("HEAD") => Method::HEAD,
        _ => return false,
    };
    let path = action.path.as_deref().unwrap_or_default();
    let route = Route::of(provider.api, path);
    // Of its fields not all are known: one may have named another method.
    !is_cut(path)
        && route
            .and_then(|it| it.called(&method, false, true))
            .is_none()
}

/// Notes the message to a server of tools that a request is where a policy has those, and what is not known of it.
fn message(decision: &Decision, policy: &Policy, asked: &mut Asked) {
    let action = &decision.action;
    let host = action.host.as_ref();
    let server = match (decision.layer, &action.tool) {
        (Layer::Hook, Some(tool)) => policy.local_server(&tool.server),
        _ => host.and_then(|host| policy.tool_server(host, &asked.path)),
    };
    // The request for a tunnel ends at the guard.
    let Some(server) = server.filter(|_| asked.method != "CONNECT") else {
        return;
    };
    let recorded = action.tool.as_ref();
    let recorded = recorded.filter(|tool| tool.server == server.name);
    let recorded = recorded.filter(|tool| is_still(tool, server, asked));
    let mcp = server.api == ToolApi::Mcp;
    asked.tool = match (recorded, asked.method.as_str()) {
        (Some(tool), _) => Some(tool.clone()),
        (None, "GET" | "HEAD" | "OPTIONS" | "DELETE") if mcp => Some(Tool {
            server: server.name.clone(),
            ..Tool::default()
        }),
        (None, _) => None,
    };
    asked.unknown.tool = asked.tool.is_none();
    // An argument that is not recorded was not looked at, or not there.
    let Some(tool) = asked.tool.as_ref().filter(|tool| tool.name.is_some()) else {
        return;
    };
    let known = tool.values.iter().filter(|it| {
        let mut values = it.values.iter();
        !is_cut(&it.pointer) && values.all(|value| value != CUT && !is_cut(value))
    });
    asked.unknown.arguments_but = Some(known.map(|it| it.pointer.clone()).collect());
}

/// Whether a request that was recorded as a message to a server would be the same by what a policy says of that.
fn is_still(tool: &Tool, server: &ToolServer, asked: &Asked) -> bool {
    if server.api != ToolApi::Http {
        return true;
    }
    let routed = server.route(&asked.method, &asked.path).ok();
    routed.is_some_and(|routed| tool.name.as_ref() == Some(&routed.name))
}

/// Whether a request is known to have had no content.
fn is_empty(action: &Action, decision: &Decision) -> bool {
    let outcome = decision.outcome.as_ref();
    let nothing_sent =
        outcome.is_some_and(|outcome| outcome.bytes.sent == 0 && outcome.messages.is_none());
    action.body.is_none() && nothing_sent
}

/// Notes what a query as it is recorded hides: see [`Query::redacted`].
fn hidden(text: &str, unknown: &mut Unknown) {
    for part in text.split('&') {
        unknown.query |= part == CUT || part.contains(';') && part.contains(CUT);
    }
    unknown.query |= is_cut(text);
    let query = Query::new(text);
    unknown.parameters = query
        .names_of(|value| value.contains(CUT))
        .map(str::to_owned)
        .collect();
}

/// Whether a header field is recorded as it was sent: as one line, and whole. Several are joined, and
/// secrets are left out.
fn is_as_sent(value: &str) -> bool {
    value != CUT
        && !is_cut(value)
        && !value.contains(", ")
        && !value.contains(char::REPLACEMENT_CHARACTER)
}

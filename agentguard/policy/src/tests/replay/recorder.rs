//! Somebody who attempts something, and somebody who records what becomes of it.

use std::net::IpAddr;

use agentguard_model::{
    Action, ActionKind, Agent, Context, Decision, DecisionId, Handling, HostName, Layer, Llm,
    Matched, Mode, Reason, ReasonCode, Tool, Transport, Verdict,
};
use jiff::Timestamp;
use ulid::Ulid;

use crate::tests::agent;
use crate::{Circumstances, Facts, Policy, Request, RulingOutcome, Seen, special};

/// A decision on nothing in particular.
pub(super) fn decision(layer: Layer, action: Action) -> Decision {
    Decision {
        id: DecisionId(Ulid::from_parts(1, 1)),
        time: Timestamp::UNIX_EPOCH,
        agent: Some(Agent {
            name: "coder".parse().unwrap(),
            labels: Default::default(),
        }),
        context: Context::default(),
        process: None,
        layer,
        action,
        verdict: Verdict::Deny,
        enforced: true,
        mode: Mode::Enforce,
        reason: Reason::new(ReasonCode::NoRule, "because"),
        matched: Vec::new(),
        changes: None,
        budget: Vec::new(),
        findings: Vec::new(),
        count: 1,
        last: None,
        latency_us: 1,
        trace_parent: None,
        policy_version: "of old".to_owned(),
        outcome: None,
    }
}

/// Somebody who records what happens under a policy, as the guard does.
pub(super) struct Recorder<'a> {
    pub(super) policy: &'a Policy,
}

impl Recorder<'_> {
    fn record(
        &self,
        circumstances: &Circumstances<'_>,
        (layer, action): (Layer, Action),
        (verdict, enforced, reason): (Verdict, bool, Reason),
        matched: Vec<Matched>,
    ) -> Decision {
        let mut labels = agent(self.policy, "coder").labels.clone();
        labels.extend(circumstances.labels.clone());
        Decision {
            agent: Some(Agent {
                name: "coder".parse().unwrap(),
                labels,
            }),
            verdict,
            enforced,
            reason,
            matched,
            policy_version: self.policy.version().to_owned(),
            context: circumstances.context.clone(),
            time: circumstances.time,
            ..decision(layer, action)
        }
    }

    pub(super) fn name(&self, name: &HostName) -> Decision {
        let ruling = self.policy.decide_name(agent(self.policy, "coder"), name);
        let action = Action {
            host: Some(name.clone()),
            port: Some(53),
            transport: Some(Transport::Udp),
            ..Action::new(ActionKind::DnsQuery)
        };
        let said = (ruling.verdict, ruling.enforced, ruling.reason);
        self.record(
            &Circumstances::NOBODY,
            (Layer::Dns, action),
            said,
            ruling.matched,
        )
    }

    /// A flow, by whoever decides it.
    pub(super) fn flow(&self, attempt: &Attempt<'_>) -> Decision {
        let agent = agent(self.policy, "coder");
        let facts = attempt.facts;
        let mut action = Action {
            host: facts.host.cloned(),
            ip: facts.ip.map(special::canonical),
            port: Some(facts.port),
            transport: Some(facts.transport),
            ..Action::new(match facts.transport {
                Transport::Tcp => ActionKind::Connect,
                Transport::Udp => ActionKind::Datagram,
            })
        };
        // The kernel knows the address, and what the policy says whatever is sent.
        let early = Facts {
            ip: facts.ip.or(attempt.behind),
            ..facts
        };
        let ruling = self.policy.decide(agent, &early);
        if matches!(
            ruling.outcome,
            RulingOutcome::Deny | RulingOutcome::Allow(Handling::Direct)
        ) {
            let enforced =
                ruling.verdict == Verdict::Allow || ruling.outcome == RulingOutcome::Deny;
            let said = (ruling.verdict, enforced, ruling.reason);
            let matched = ruling.matched.into_iter().take(1).collect();
            return self.record(&facts.circumstances, (Layer::Kernel, action), said, matched);
        }
        let unseen = Request::new("", "");
        let asked = match &attempt.sent {
            Sent::Clear(request) | Sent::Tls(request) => request,
            Sent::Opaque => &unseen,
        };
        // A call is one at a provider's.
        let provider = facts.host.and_then(|host| self.policy.provider(host));
        let call = asked.llm.filter(|_| asked.method != "GET");
        let call = call.zip(provider).map(|(llm, provider)| Llm {
            provider: provider.name.clone(),
            ..llm.clone()
        });
        let server = facts.host;
        let server = server.and_then(|host| self.policy.tool_server(host, asked.path));
        let opens = Tool::default();
        let message = match asked.method {
            "GET" => Some(&opens),
            _ => asked.tool,
        };
        let message = message.zip(server).map(|(tool, server)| Tool {
            server: server.name.clone(),
            ..tool.clone()
        });
        let as_read = |request| {
            let (llm, tool) = (call.as_ref(), message.as_ref());
            Seen::Request(Request {
                llm,
                tool,
                ..request
            })
        };
        let seen = match attempt.sent {
            Sent::Clear(request) => as_read(request),
            Sent::Tls(request) if self.policy.inspects(agent, &facts) => as_read(request),
            Sent::Tls(_) => Seen::Tls,
            Sent::Opaque => Seen::Never,
        };
        let facts = Facts {
            request: seen,
            ..facts
        };
        let mut ruling = self.policy.decide(agent, &facts);
        action.tls = seen == Seen::Tls;
        if let Seen::Request(request) = seen {
            action.kind = ActionKind::HttpRequest;
            action.method = Some(request.method.to_owned());
            action.path = Some(request.path.to_owned());
            action.query = request.query.map(|query| self.policy.recorded_query(query));
            let fields = request
                .fields
                .map(|fields| self.policy.recorded_fields(fields));
            action.headers = fields.unwrap_or_default();
            action.body = (request.body > 0).then_some(request.body);
            action.tls = matches!(attempt.sent, Sent::Tls(_));
            action.websocket = request.websocket;
            action.llm = request.llm.cloned();
            if action.llm.is_some() {
                action.kind = ActionKind::LlmCall;
            }
            action.tool = request.tool.map(|tool| self.policy.recorded_tool(tool));
            if request.tool.is_some_and(|tool| tool.name.is_some()) {
                action.kind = ActionKind::ToolCall;
            }
        }
        // An address behind the name for which a rule denies it is told, in force before on paper.
        if let (Some(ip), Some(_), None) = (attempt.behind, facts.host, facts.ip)
            && ruling.outcome != RulingOutcome::Deny
        {
            let ip = Some(ip);
            let there = self.policy.decide(agent, &Facts { ip, ..facts });
            let denied = there.outcome == RulingOutcome::Deny
                || there.verdict == Verdict::Deny && ruling.verdict != Verdict::Deny;
            if denied {
                action.ip = ip.map(special::canonical);
                let changes = ruling.changes;
                ruling = there;
                if ruling.outcome != RulingOutcome::Deny {
                    ruling.changes = changes;
                }
            }
        }
        let changes = ruling.changed().map(Box::new);
        let said = (ruling.verdict, ruling.enforced, ruling.reason);
        let decision = self.record(
            &facts.circumstances,
            (Layer::Proxy, action),
            said,
            ruling.matched,
        );
        Decision {
            changes,
            ..decision
        }
    }
}

/// What happens, whoever looks at it and whoever records it.
pub(super) struct Attempt<'a> {
    /// Before anything is sent.
    pub(super) facts: Facts<'a>,
    /// The address behind the name.
    pub(super) behind: Option<IpAddr>,
    pub(super) sent: Sent<'a>,
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sent<'a> {
    /// A request.
    Clear(Request<'a>),
    /// A request inside TLS.
    Tls(Request<'a>),
    /// What nobody understands.
    Opaque,
}

//! Calls of language models and of tools as spans.
//!
//! Each is the root of a trace of its own, whose id is that of the decision. What the agent wrote in `traceparent` is a link
//! from there, marked as the agent's word: were it the parent, an agent could put spans into anybody's trace, and have
//! a collector that samples by trace keep what it likes and drop what it does not.

use agentguard_model::{DecisionId, Outcome, TraceParent};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as Proto, Status};

use super::{SCHEMA, number, scope, text, texts};
use crate::store::cut;
use crate::tally::{Word, error_type, provider};
use crate::watched::{Call, Decided};

/// Bytes of a text that others wrote, at most; the rest is cut off.
const MAX_TEXT: usize = 256;

/// A call that has ended, or was refused.
#[derive(Clone, Debug)]
pub struct Span(pub(super) Proto);

#[cfg(test)]
impl Span {
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }
}

/// Of a call, with what came of it; of one that was refused, without. `None`: it is no call.
pub(crate) fn span(decided: &Decided, outcome: Option<&Outcome>) -> Option<Span> {
    let call = decided.call.as_ref()?;
    let (name, mut attributes) = match (&call.llm, &call.tool) {
        (Some(_), _) => model(call, outcome)?,
        (None, Some(tool)) => {
            let name = cut(tool.name.as_deref().unwrap_or_default(), MAX_TEXT);
            let attributes = vec![
                text("gen_ai.operation.name", "execute_tool"),
                text("gen_ai.tool.name", name),
                text("agentguard.tool.server", cut(&tool.server, MAX_TEXT)),
            ];
            (format!("execute_tool {name}"), attributes)
        }
        (None, None) => return None,
    };
    attributes.extend(common(decided, call, outcome));
    let denied = !decided.goes_on();
    let error = match outcome {
        Some(outcome) => error_type(outcome),
        None if denied => Some(Word(decided.reason).to_string()),
        None => None,
    };
    attributes.extend(error.clone().map(|error| text("error.type", error)));
    let start = nanos(call.time);
    let lasted = outcome.map_or(0, |outcome| outcome.duration_ms.saturating_mul(1_000_000));
    Some(Span(Proto {
        trace_id: decided.id.0.to_bytes().to_vec(),
        span_id: span_id(decided.id),
        name,
        kind: SpanKind::Client.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(lasted),
        attributes,
        links: call.parent.map(link).into_iter().collect(),
        status: error.map(|error| Status {
            message: said(outcome).unwrap_or(error),
            code: StatusCode::Error.into(),
        }),
        // Sampled (W3C Trace Context, level 1): all that are told are.
        flags: 1,
        ..Proto::default()
    }))
}

/// What a call of a language model is called, and what is known of it.
fn model(call: &Call, outcome: Option<&Outcome>) -> Option<(String, Vec<KeyValue>)> {
    let llm = call.llm.as_ref()?;
    let operation = Word(llm.operation).to_string();
    let asked = llm.model.as_deref().map(|model| cut(model, MAX_TEXT));
    let name = match asked {
        Some(model) => format!("{operation} {model}"),
        None => operation.clone(),
    };
    let mut attributes = vec![
        text("gen_ai.operation.name", operation),
        text("gen_ai.provider.name", provider(&llm.provider)),
    ];
    attributes.extend(asked.map(|model| text("gen_ai.request.model", model)));
    attributes.extend(
        llm.max_output_tokens
            .map(|most| number("gen_ai.request.max_tokens", most)),
    );
    let answer = outcome.and_then(|outcome| outcome.llm.as_ref());
    if let Some(answer) = answer {
        let model = answer.model.as_deref();
        attributes.extend(model.map(|model| text("gen_ai.response.model", cut(model, MAX_TEXT))));
        let finish = answer.finish_reason.as_deref();
        let finish = finish.map(|why| {
            texts(
                "gen_ai.response.finish_reasons",
                [cut(why, MAX_TEXT).to_owned()],
            )
        });
        attributes.extend(finish);
        let usage = answer.usage.unwrap_or_default();
        for (key, tokens) in [
            ("gen_ai.usage.input_tokens", usage.input_tokens),
            ("gen_ai.usage.output_tokens", usage.output_tokens),
            (
                "gen_ai.usage.cache_read.input_tokens",
                usage.cache_read_tokens,
            ),
            (
                "gen_ai.usage.cache_creation.input_tokens",
                usage.cache_write_tokens,
            ),
        ] {
            attributes.extend(tokens.map(|tokens| number(key, tokens)));
        }
    }
    Some((name, attributes))
}

/// What is known of every call.
fn common(decided: &Decided, call: &Call, outcome: Option<&Outcome>) -> Vec<KeyValue> {
    let mut attributes = Vec::new();
    attributes.extend(
        call.host
            .as_ref()
            .map(|host| text("server.address", host.as_str())),
    );
    attributes.extend(call.port.map(|port| number("server.port", port.into())));
    let status = outcome.and_then(|outcome| outcome.status);
    attributes.extend(status.map(|status| number("http.response.status_code", status.into())));
    let id = decided
        .recorded
        .map(|id| text("agentguard.decision.id", id.to_string()));
    attributes.extend(id);
    attributes.push(text(
        "agentguard.verdict",
        Word(decided.verdict).to_string(),
    ));
    attributes.push(text("agentguard.reason", Word(decided.reason).to_string()));
    attributes.push(text("agentguard.enforced", decided.enforced.to_string()));
    attributes.extend(
        call.rule
            .as_ref()
            .map(|rule| text("agentguard.rule", cut(rule, MAX_TEXT))),
    );
    let agent = decided
        .agent
        .as_ref()
        .map(|agent| text("agentguard.agent", agent.as_str()));
    attributes.extend(agent);
    attributes.extend(
        call.run_trace
            .as_ref()
            .map(|trace| text("agentguard.run.trace_id", trace.as_str())),
    );
    attributes
}

/// What went wrong, in a sentence of the proxy's or a word of the provider's.
fn said(outcome: Option<&Outcome>) -> Option<String> {
    let outcome = outcome?;
    let answer = outcome
        .llm
        .as_ref()
        .and_then(|answer| answer.error.as_ref());
    let said = answer.or(outcome.error.as_ref())?;
    Some(cut(said, MAX_TEXT).to_owned())
}

/// Whoever sends a `traceparent` may know the ids of others: it is told as theirs, and nothing follows from it.
fn link(parent: TraceParent) -> Link {
    Link {
        trace_id: parent.trace.to_vec(),
        span_id: parent.span.to_vec(),
        attributes: vec![text("agentguard.link.source", "agent")],
        flags: parent.flags.into(),
        ..Link::default()
    }
}

/// The random half of the decision's id; never all zero, which would be no id.
fn span_id(id: DecisionId) -> Vec<u8> {
    let [_, _, _, _, _, _, _, _, half @ ..] = id.0.to_bytes();
    let half = if half == [0; 8] { [1; 8] } else { half };
    half.to_vec()
}

fn nanos(time: jiff::Timestamp) -> u64 {
    u64::try_from(time.as_nanosecond()).unwrap_or(0)
}

pub(super) fn request(spans: Vec<Proto>, resource: Resource) -> ExportTraceServiceRequest {
    let scoped = ScopeSpans {
        scope: Some(scope()),
        spans,
        schema_url: SCHEMA.to_owned(),
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![scoped],
            schema_url: SCHEMA.to_owned(),
        }],
    }
}

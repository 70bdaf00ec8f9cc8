//! In which form a client is refused.

use agentguard_decision::{Decided, Recorder};
use agentguard_model::LlmApi;
use agentguard_protocol::api::a2a;
use agentguard_protocol::api::graphql::Asker;
use agentguard_protocol::mcp::Questions;
use agentguard_protocol::refusal::{self, Refusal};
use http::request::Parts;
use http::{Response, StatusCode, Version};
use http_body_util::{Either, Full};

use crate::http::body::Answer;
use crate::http::streams::Told;

/// What the client understands a refusal in.
#[derive(Clone)]
pub(crate) enum Tongue {
    Http,
    Grpc,
    Git,
    /// A provider's errors.
    Llm(LlmApi),
    /// Answers to what was asked of a server of tools.
    Mcp(Questions),
    /// The same, by the stream that its client reads.
    McpStream(Questions, Told),
    /// Errors of A2A over HTTP+JSON.
    A2a,
    /// Errors of GraphQL.
    Graphql(Asker),
}

impl Tongue {
    pub(super) fn of(parts: &Parts) -> Self {
        // gRPC runs over HTTP/2 alone.
        if parts.version == Version::HTTP_2 && refusal::is_grpc(&parts.headers) {
            Self::Grpc
        } else if refusal::is_git(&parts.uri) {
            Self::Git
        } else {
            Self::Http
        }
    }

    /// What waits for an answer of a server of tools.
    pub(super) const fn questions(&self) -> Option<&Questions> {
        match self {
            Self::Mcp(questions) | Self::McpStream(questions, _) => Some(questions),
            _ => None,
        }
    }

    /// As it is for a call of a language model. Clients of gRPC read no body.
    pub(super) fn or_llm(self, api: Option<LlmApi>) -> Self {
        match (self, api) {
            (Self::Grpc, _) => Self::Grpc,
            (tongue, None) => tongue,
            (_, Some(api)) => Self::Llm(api),
        }
    }

    pub(super) fn tell<R: Recorder>(&self, refusal: &Refusal<'_>) -> Response<Answer<R>> {
        let response = match self {
            Self::Http => refusal.response(),
            Self::Grpc => refusal.grpc_response(),
            Self::Git => refusal.text_response(),
            Self::Llm(api) => refusal.llm_response(*api),
            Self::Mcp(questions) => questions.refused(refusal),
            Self::McpStream(questions, stream) => stream
                .refused(questions, refusal)
                .unwrap_or_else(|| questions.refused(refusal)),
            Self::A2a => a2a::refused(refusal),
            Self::Graphql(asker) => asker.refused(refusal),
        };
        response.map(|body| Either::Right(Full::new(body)))
    }
}

/// A denial as its client understands it.
pub(super) fn refuse<R: Recorder>(
    decided: &Decided,
    status: StatusCode,
    tongue: &Tongue,
) -> Response<Answer<R>> {
    tongue.tell(&Refusal {
        status,
        reason: &decided.reason,
        decision: decided.id,
        spent: decided.spent(),
        retry_after: decided.retry_after(),
    })
}

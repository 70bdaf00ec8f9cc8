//! What a client of A2A over HTTP+JSON is told when it is refused.

use agentguard_model::{DecisionId, ReasonCode};
use bytes::Bytes;
use http::Response;
use serde::Serialize;

use crate::refusal::{Problem, Refusal, google_status};

/// A problem document with the error that A2A has (1.0, section 11.6): a `google.rpc.Status`.
#[derive(Serialize)]
struct Refused<'a> {
    #[serde(flatten)]
    problem: Problem<'a>,
    error: Status<'a>,
}

#[derive(Serialize)]
struct Status<'a> {
    code: u16,
    status: &'a str,
    message: &'a str,
    details: [ErrorInfo; 1],
}

/// Clients show the message of those errors alone whose reason they know (a2a-sdk 1.3, `_parse_rest_error`). A2A has none
/// for what is not allowed; that an operation is not there is what nobody tries again.
#[derive(Serialize)]
struct ErrorInfo {
    #[serde(rename = "@type")]
    r#type: &'static str,
    reason: &'static str,
    domain: &'static str,
    metadata: Metadata,
}

#[derive(Serialize)]
struct Metadata {
    reason: ReasonCode,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<DecisionId>,
}

/// A refusal of a request over HTTP+JSON.
#[must_use]
pub fn refused(refusal: &Refusal<'_>) -> Response<Bytes> {
    let message = refusal.message();
    let body = Refused {
        problem: refusal.problem(&message),
        error: Status {
            code: refusal.status().as_u16(),
            status: google_status(refusal.status()),
            message: &message,
            details: [ErrorInfo {
                r#type: "type.googleapis.com/google.rpc.ErrorInfo",
                reason: "UNSUPPORTED_OPERATION",
                domain: "a2a-protocol.org",
                metadata: Metadata {
                    reason: refusal.reason.code,
                    decision: refusal.decision,
                },
            }],
        },
    };
    // Plain strings and numbers always serialise.
    let body = serde_json::to_vec(&body).unwrap_or_default();
    refusal.with("application/problem+json", body)
}

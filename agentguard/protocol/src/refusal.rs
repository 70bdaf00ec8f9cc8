//! What an HTTP client is told when it is refused: a problem document (RFC 9457).

use agentguard_model::{DecisionId, Reason, ReasonCode};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, HeaderName, Response, StatusCode};
use serde::Serialize;

/// Carries the decision's id in every refusal, for clients that do not read bodies.
pub const DECISION_FIELD: HeaderName = HeaderName::from_static("x-agentguard-decision");

/// A refusal.
#[derive(Clone, Debug)]
pub struct Refusal<'a> {
    /// The status.
    pub status: StatusCode,
    /// Why.
    pub reason: &'a Reason,
    /// Where `agentguard explain` finds it; absent only where the record refused.
    pub decision: Option<DecisionId>,
}

/// What the SDKs of LLM APIs read before they try again (OpenAI's and Anthropic's: with 408, 409, 429
/// and 5xx they do, unless this says `false`).
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Whether the same request may fare better in a moment, with nobody doing anything about it.
const fn may_pass(code: ReasonCode) -> bool {
    matches!(
        code,
        ReasonCode::UpstreamUnreachable
            | ReasonCode::PolicyChanged
            | ReasonCode::ResolverFailed
            | ReasonCode::ClientTimeout
            | ReasonCode::LimitReached
            | ReasonCode::RecordFailed
            | ReasonCode::RecordQuota
    )
}

/// RFC 9457, 3.1: with no `type`, the title is the status phrase. `code`, `decision` and `message`
/// are extension members (3.2). `message` is for clients that show their user that member and no
/// other, as OpenAI's SDK does (3.57, `_make_status_error_from_response`).
#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: ReasonCode,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<DecisionId>,
    message: &'a str,
}

impl Refusal<'_> {
    /// The refusal as a response, with its length.
    #[must_use]
    pub fn response(&self) -> Response<Bytes> {
        let detail = &self.reason.message;
        let message = self
            .decision
            .map(|id| format!("{detail} (agentguard explain {id})"));
        let problem = Problem {
            title: self.status.canonical_reason().unwrap_or("Refused"),
            status: self.status.as_u16(),
            detail,
            code: self.reason.code,
            decision: self.decision,
            message: message.as_ref().unwrap_or(detail),
        };
        // Plain strings and numbers always serialise.
        let body = Bytes::from(serde_json::to_vec(&problem).unwrap_or_default());
        let length = HeaderValue::from(body.len());
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        let fields = response.headers_mut();
        fields.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        fields.insert(header::CONTENT_LENGTH, length);
        fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if !may_pass(self.reason.code) {
            fields.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if let Some(id) = self.decision
            && let Ok(id) = HeaderValue::from_str(&id.to_string())
        {
            fields.insert(DECISION_FIELD, id);
        }
        response
    }

    /// The refusal in the form of gRPC, "Trailers-Only": a status and a message in the fields, and no
    /// body.
    #[must_use]
    pub fn grpc_response(&self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        let fields = response.headers_mut();
        let kind = HeaderValue::from_static("application/grpc");
        fields.insert(header::CONTENT_TYPE, kind);
        fields.insert(
            HeaderName::from_static("grpc-status"),
            HeaderValue::from(u16::from(grpc_status(self.status))),
        );
        let mut message = self.reason.message.clone();
        if let Some(id) = self.decision {
            message.push_str(&format!(" (agentguard explain {id})"));
            if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
                fields.insert(DECISION_FIELD, id);
            }
        }
        if let Ok(message) = HeaderValue::from_str(&grpc_message(&message)) {
            fields.insert(HeaderName::from_static("grpc-message"), message);
        }
        response
    }

    /// The refusal as bytes of HTTP/1.1, for a connection that closes behind it.
    #[must_use]
    pub fn last_bytes(&self) -> Vec<u8> {
        let response = self.response();
        let phrase = self.status.canonical_reason().unwrap_or("Refused");
        let mut bytes = format!("HTTP/1.1 {} {phrase}\r\n", self.status.as_u16()).into_bytes();
        for (name, value) in response.headers() {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"connection: close\r\n\r\n");
        bytes.extend_from_slice(response.body());
        bytes
    }
}

/// Whether a request is a call of gRPC, whose clients read no body of an answer that is none.
#[must_use]
pub fn is_grpc(fields: &HeaderMap) -> bool {
    let kind = fields.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// A status in gRPC's numbers (its "HTTP to gRPC Status Code Mapping"), where the two agree.
const fn grpc_status(status: StatusCode) -> u8 {
    match status.as_u16() {
        // PERMISSION_DENIED
        403 | 421 => 7,
        // UNAVAILABLE
        429 | 502..=504 => 14,
        // INTERNAL
        _ => 13,
    }
}

/// `Percent-Encoded` of gRPC's protocol over HTTP/2.
fn grpc_message(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::new();
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            // A string takes everything.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use agentguard_model::{Reason, ReasonCode};
    use http::StatusCode;

    use super::{Refusal, is_grpc};

    #[test]
    fn a_call_of_grpc_is_refused_in_its_status() {
        let id = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
        let reason = Reason::new(ReasonCode::RuleDeny, "100 % nein, für\nalle");
        for (status, grpc) in [(403, "7"), (502, "14"), (400, "13")] {
            let refusal = Refusal {
                status: StatusCode::from_u16(status).unwrap(),
                reason: &reason,
                decision: Some(id),
            };
            let response = refusal.grpc_response();
            assert_eq!(response.status(), StatusCode::OK);
            assert!(is_grpc(response.headers()));
            assert_eq!(response.headers().get("grpc-status").unwrap(), grpc);
            assert_eq!(
                response.headers().get("grpc-message").unwrap(),
                "100 %25 nein, f%C3%BCr%0Aalle (agentguard explain 01ARZ3NDEKTSV4RRFFQ69G5FAV)"
            );
            assert!(response.body().is_empty());
        }
    }

    #[test]
    fn a_problem_document_rfc_9457_3() {
        let id = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
        let reason = Reason::new(ReasonCode::NoRule, "no rule allows \"it\"\n");
        let refusal = Refusal {
            status: StatusCode::FORBIDDEN,
            reason: &reason,
            decision: Some(id),
        };
        let body = r#"{"title":"Forbidden","status":403,"detail":"no rule allows \"it\"\n","code":"no_rule","decision":"01ARZ3NDEKTSV4RRFFQ69G5FAV","message":"no rule allows \"it\"\n (agentguard explain 01ARZ3NDEKTSV4RRFFQ69G5FAV)"}"#;
        assert_eq!(refusal.response().body(), body);
        let expected = format!(
            "HTTP/1.1 403 Forbidden\r\ncontent-type: application/problem+json\r\n\
             content-length: {}\r\ncache-control: no-store\r\n\
             x-should-retry: false\r\nx-agentguard-decision: 01ARZ3NDEKTSV4RRFFQ69G5FAV\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(String::from_utf8(refusal.last_bytes()).unwrap(), expected);

        let reason = Reason::new(ReasonCode::UpstreamUnreachable, "not now");
        let passing = Refusal {
            reason: &reason,
            ..refusal.clone()
        };
        assert!(!passing.response().headers().contains_key("x-should-retry"));

        let unrecorded = Refusal {
            decision: None,
            ..refusal
        };
        let body = r#"{"title":"Forbidden","status":403,"detail":"no rule allows \"it\"\n","code":"no_rule","message":"no rule allows \"it\"\n"}"#;
        assert_eq!(unrecorded.response().body(), body);
    }
}

//! What an HTTP client is told when it is refused: a problem document (RFC 9457), or what its protocol has
//! in place of one.

mod spent;
#[cfg(test)]
mod tests;

use agentguard_model::budget::Spent;
use agentguard_model::{DecisionId, LlmApi, Reason, ReasonCode};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, HeaderName, Response, StatusCode, Uri};
use serde::Serialize;

pub use self::spent::status;
use self::spent::{Code, GoogleDetail, waits};
use crate::eventstream;
use crate::llm::{Endpoint, Stream};

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
    /// The budget that has too little left, where it is one that refuses.
    pub spent: Option<&'a Spent>,
    /// In how many seconds it is worth to try again, where something else than a budget says so.
    pub retry_after: Option<u64>,
}

/// What the SDKs of LLM APIs read before they try again (OpenAI's and Anthropic's: with 408, 409, 429
/// and 5xx they do, unless this says `false`; with others, if it says `true`).
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
            | ReasonCode::BudgetHeld
            | ReasonCode::RateLimited
            | ReasonCode::RetryStorm
            | ReasonCode::CircuitOpen
            | ReasonCode::LedgerFailed
    )
}

/// RFC 9457, 3.1: with no `type`, the title is the status phrase. `code`, `decision`, `budget` and `message`
/// are extension members (3.2). `message` is for clients that show their user that member and no
/// other, as OpenAI's SDK does (3.57, `_make_status_error_from_response`).
#[derive(Serialize)]
pub(crate) struct Problem<'a> {
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: ReasonCode,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<DecisionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<&'a Spent>,
    message: &'a str,
}

/// The end of a stream of Responses that has failed.
#[derive(Serialize)]
struct FailedEvent<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_id: Option<&'a str>,
    response: FailedResponse<'a>,
    error: OpenaiFault<'a>,
}

#[derive(Serialize)]
struct FailedResponse<'a> {
    object: &'static str,
    status: &'static str,
    error: FailedError<'a>,
    output: [(); 0],
}

#[derive(Serialize)]
struct FailedError<'a> {
    code: &'static str,
    message: &'a str,
}

/// An error in band (`OpenAI`'s guide to Responses over WebSocket).
#[derive(Serialize)]
struct TurnError<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_id: Option<&'a str>,
    status: u16,
    error: OpenaiFault<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<spent::Headers>,
}

/// An error in a session of Realtime (`OpenAI`'s reference, "Server events").
#[derive(Serialize)]
struct SessionError<'a> {
    r#type: &'static str,
    event_id: String,
    error: SessionFault<'a>,
}

#[derive(Serialize)]
struct SessionFault<'a> {
    #[serde(flatten)]
    fault: OpenaiFault<'a>,
    event_id: Option<&'a str>,
}

/// An error as clients of `OpenAI`'s API read it (openai-python 2, `_make_status_error`).
#[derive(Serialize)]
struct OpenaiError<'a> {
    error: OpenaiFault<'a>,
}

#[derive(Serialize)]
struct OpenaiFault<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: Code,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<ReasonCode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resets_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<&'a Spent>,
}

/// An error as clients of Anthropic's API read it (its reference, "Errors").
#[derive(Serialize)]
struct AnthropicError<'a> {
    r#type: &'a str,
    error: AnthropicFault<'a>,
    request_id: Option<DecisionId>,
}

#[derive(Serialize)]
struct AnthropicFault<'a> {
    r#type: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<&'a Spent>,
}

/// An error as clients of Google's APIs read it (its "Errors", and google-genai 3, `APIError`).
#[derive(Serialize)]
struct GoogleError<'a> {
    error: GoogleFault<'a>,
}

#[derive(Serialize)]
struct GoogleFault<'a> {
    code: u16,
    message: &'a str,
    status: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<GoogleDetail<'a>>,
}

/// An error as clients of AWS's APIs read it (Smithy, "AWS `restJson1` protocol"), where its type is in a field; and
/// as those of Cohere's do (its reference, "Errors"), who go by the status.
#[derive(Serialize)]
struct MessageAlone<'a> {
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<&'a Spent>,
}

/// See [`MessageAlone`].
const AWS_ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// When to try again, in milliseconds (botocore 1.44, `standard.py`, which looks at no other field).
const AWS_RETRY_AFTER: HeaderName = HeaderName::from_static("x-amz-retry-after");

/// The end of a stream of Cohere's Chat that has failed (cohere-python 5, `ChatMessageEndEventDelta`, whose `error` is
/// the one that it has): what is no event of the API is none for its clients, and the stream would end without a word.
#[derive(Serialize)]
struct CohereEnd<'a> {
    r#type: &'static str,
    delta: CohereEndDelta<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<&'a Spent>,
}

#[derive(Serialize)]
struct CohereEndDelta<'a> {
    finish_reason: &'static str,
    error: &'a str,
}

/// An error as clients of Ollama's API read it (ollama-python, `ResponseError`).
#[derive(Serialize)]
struct OllamaError<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<&'a Spent>,
}

impl Refusal<'_> {
    /// The refusal of a call of a language model, as the provider would put it.
    #[must_use]
    pub fn llm_response(&self, api: LlmApi) -> Response<Bytes> {
        let message = self.message();
        let status = self.status_for(api);
        // Plain strings and numbers always serialise.
        let body = match api {
            LlmApi::Openai => serde_json::to_vec(&OpenaiError {
                error: self.openai_fault(&message),
            }),
            LlmApi::Anthropic => serde_json::to_vec(&AnthropicError {
                r#type: "error",
                error: AnthropicFault {
                    r#type: anthropic_type(self.status()),
                    message: &message,
                    budget: self.spent,
                },
                request_id: self.decision,
            }),
            LlmApi::Gemini => serde_json::to_vec(&GoogleError {
                error: GoogleFault {
                    code: self.status().as_u16(),
                    message: &message,
                    status: google_status(self.status()),
                    details: self.google_details(),
                },
            }),
            LlmApi::Ollama => serde_json::to_vec(&OllamaError {
                error: &message,
                budget: self.spent,
            }),
            LlmApi::Bedrock | LlmApi::Cohere => serde_json::to_vec(&MessageAlone {
                message: &message,
                budget: self.spent,
            }),
        };
        let mut response = self.with("application/json", body.unwrap_or_default());
        *response.status_mut() = status;
        match api {
            LlmApi::Bedrock => {
                let kind = HeaderValue::from_static(self.aws_type());
                response.headers_mut().insert(AWS_ERROR_TYPE, kind);
                if let Some(seconds) = self.retry_after() {
                    let milliseconds = HeaderValue::from(seconds.saturating_mul(1000));
                    response.headers_mut().insert(AWS_RETRY_AFTER, milliseconds);
                }
            }
            LlmApi::Openai => response.headers_mut().extend(self.for_codex(&message)),
            _ => {}
        }
        response
    }

    /// The end of a stream of answers that must not go on: what clients of this endpoint take for an error where events
    /// come in this. In a list it is an item, as Google's servers end theirs: see [`crate::json::Place::ends_with`].
    #[must_use]
    pub fn stream_event(&self, endpoint: Endpoint, stream: Stream) -> Vec<u8> {
        let body = |api| self.llm_response(api).into_body();
        match stream {
            Stream::Events => {}
            Stream::Lines => return [&body(endpoint.api())[..], b"\n"].concat(),
            Stream::Messages => return self.aws_exception(),
            Stream::List => return body(endpoint.api()).into(),
        }
        let (event, data) = match endpoint {
            Endpoint::Messages | Endpoint::MessagesTokens | Endpoint::PredictMessages { .. } => {
                ("event: error\n", body(LlmApi::Anthropic))
            }
            Endpoint::Responses => (
                "event: response.failed\n",
                self.failed_response(None).into(),
            ),
            Endpoint::CohereChat => ("event: message-end\n", self.cohere_end().into()),
            endpoint => ("", body(endpoint.api())),
        };
        [event.as_bytes(), b"data: ", &data, b"\n\n"].concat()
    }

    /// An exception in the middle of a stream of Bedrock's. SDKs show the message of one that the operation has, and none
    /// of its streams has one for what is not allowed.
    fn aws_exception(&self) -> Vec<u8> {
        let kind = match self.aws_type() {
            "ThrottlingException" => "throttlingException",
            "ServiceUnavailableException" => "serviceUnavailableException",
            "InternalServerException" => "internalServerException",
            _ => "validationException",
        };
        let headers = [
            (":exception-type", kind),
            (":content-type", "application/json"),
            (":message-type", "exception"),
        ];
        let body = self.llm_response(LlmApi::Bedrock).into_body();
        // A reason is no longer than a message may be.
        eventstream::message(&headers, &body).unwrap_or_default()
    }

    /// See [`CohereEnd`].
    fn cohere_end(&self) -> Vec<u8> {
        let event = CohereEnd {
            r#type: "message-end",
            delta: CohereEndDelta {
                finish_reason: "ERROR",
                error: &self.message(),
            },
            budget: self.spent,
        };
        // Plain strings and numbers always serialise.
        serde_json::to_vec(&event).unwrap_or_default()
    }

    /// Codex looks at the response's error: it shows the message of a prompt that is invalid, and tries again when the
    /// message of a rate limit says so; `OpenAI`'s SDKs look at `error` (openai-python 3, `_streaming.py`).
    fn failed_response(&self, lane: Option<&str>) -> Vec<u8> {
        let message = &self.message();
        let event = FailedEvent {
            r#type: "response.failed",
            stream_id: lane,
            response: FailedResponse {
                object: "response",
                status: "failed",
                error: FailedError {
                    code: self.failed_code(),
                    message,
                },
                output: [],
            },
            error: self.openai_fault(message),
        };
        // Plain strings and numbers always serialise.
        serde_json::to_vec(&event).unwrap_or_default()
    }

    fn openai_fault<'m>(&'m self, message: &'m str) -> OpenaiFault<'m> {
        OpenaiFault {
            message,
            r#type: self.openai_type(),
            param: None,
            code: self.openai_code(),
            reason: self.is_of_budget().then_some(self.reason.code),
            resets_at: self.resets_at(),
            budget: self.spent,
        }
    }

    /// The refusal of a call on a WebSocket of `OpenAI`'s Responses, as the event that is its answer: in its lane, where it
    /// names one.
    #[must_use]
    pub fn turn_event(&self, lane: Option<&str>) -> Vec<u8> {
        // Codex tries no error again that has a status of a client's fault, and does so a response that has failed.
        if waits(self.reason.code) {
            return self.failed_response(lane);
        }
        let message = self.message();
        let event = TurnError {
            r#type: "error",
            stream_id: lane,
            status: self.status().as_u16(),
            error: self.openai_fault(&message),
            headers: self.headers_for_codex(&message),
        };
        // Plain strings and numbers always serialise.
        serde_json::to_vec(&event).unwrap_or_default()
    }

    /// The refusal in a session of `OpenAI`'s Realtime, of the client's event with this id.
    #[must_use]
    pub fn session_event(&self, event: Option<&str>) -> Vec<u8> {
        let message = self.message();
        let id = self.decision.map(|id| id.to_string()).unwrap_or_default();
        let event = SessionError {
            r#type: "error",
            event_id: format!("event_{id}"),
            error: SessionFault {
                fault: self.openai_fault(&message),
                event_id: event,
            },
        };
        // Plain strings and numbers always serialise.
        serde_json::to_vec(&event).unwrap_or_default()
    }

    /// The refusal as a response, with its length.
    #[must_use]
    pub fn response(&self) -> Response<Bytes> {
        let message = self.message();
        // Plain strings and numbers always serialise.
        let body = serde_json::to_vec(&self.problem(&message)).unwrap_or_default();
        self.with("application/problem+json", body)
    }

    /// The problem that the refusal is.
    pub(crate) fn problem<'m>(&'m self, message: &'m str) -> Problem<'m> {
        Problem {
            title: self.status().canonical_reason().unwrap_or("Refused"),
            status: self.status().as_u16(),
            detail: &self.reason.message,
            code: self.reason.code,
            decision: self.decision,
            budget: self.spent,
            message,
        }
    }

    /// The refusal as a line of text, for clients that show their user text and nothing else.
    #[must_use]
    pub fn text_response(&self) -> Response<Bytes> {
        // It goes to a terminal as it is.
        let mut line = self.message().replace(char::is_control, " ");
        line.push('\n');
        self.with("text/plain; charset=utf-8", line.into_bytes())
    }

    /// Why, and where to read on.
    #[must_use]
    pub fn message(&self) -> String {
        let detail = self.detail();
        match self.decision {
            Some(id) => format!("{detail} (agentguard explain {id})"),
            None => detail.into_owned(),
        }
    }

    pub(crate) fn with(&self, kind: &'static str, body: Vec<u8>) -> Response<Bytes> {
        let length = HeaderValue::from(body.len());
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = self.status();
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        fields.insert(header::CONTENT_LENGTH, length);
        fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let again = match self.status() {
            // On another connection (RFC 9110, 15.5.20): theirs do not know of that.
            StatusCode::MISDIRECTED_REQUEST if self.reason.code == ReasonCode::PolicyChanged => {
                Some("true")
            }
            _ if may_pass(self.reason.code) => None,
            _ => Some("false"),
        };
        if let Some(again) = again {
            fields.insert(SHOULD_RETRY, HeaderValue::from_static(again));
        }
        if let Some(seconds) = self.retry_after() {
            fields.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
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
            HeaderValue::from(u16::from(self.grpc_status())),
        );
        if let Some(pushback) = self.grpc_pushback() {
            fields.insert(HeaderName::from_static("grpc-retry-pushback-ms"), pushback);
        }
        if let Some(id) = self.decision
            && let Ok(id) = HeaderValue::from_str(&id.to_string())
        {
            fields.insert(DECISION_FIELD, id);
        }
        if let Ok(message) = HeaderValue::from_str(&grpc_message(&self.message())) {
            fields.insert(HeaderName::from_static("grpc-message"), message);
        }
        response
    }

    /// The refusal as bytes of HTTP/1.1, for a connection that closes behind it.
    #[must_use]
    pub fn last_bytes(&self) -> Vec<u8> {
        let response = self.response();
        let phrase = self.status().canonical_reason().unwrap_or("Refused");
        let mut bytes = format!("HTTP/1.1 {} {phrase}\r\n", self.status().as_u16()).into_bytes();
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

/// What `OpenAI` calls an error of this status.
const fn openai_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        429 => "rate_limit_error",
        500..=599 => "server_error",
        _ => "invalid_request_error",
    }
}

/// What Anthropic calls an error of this status.
const fn anthropic_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        403 => "permission_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        500..=599 => "api_error",
        _ => "invalid_request_error",
    }
}

/// What Google's APIs call an error of this status (`google.rpc.Code`).
pub(crate) const fn google_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        403 | 421 => "PERMISSION_DENIED",
        408 | 504 => "DEADLINE_EXCEEDED",
        426 => "FAILED_PRECONDITION",
        429 => "RESOURCE_EXHAUSTED",
        502 | 503 => "UNAVAILABLE",
        500..=599 => "INTERNAL",
        _ => "INVALID_ARGUMENT",
    }
}

/// What Bedrock calls an error of this status (its API reference, "Errors").
const fn aws_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        403 | 421 => "AccessDeniedException",
        408 | 504 => "ModelTimeoutException",
        429 => "ThrottlingException",
        502 | 503 => "ServiceUnavailableException",
        500..=599 => "InternalServerException",
        _ => "ValidationException",
    }
}

/// Whether a request is a call of gRPC, whose clients read no body of an answer that is none.
#[must_use]
pub fn is_grpc(fields: &HeaderMap) -> bool {
    let kind = fields.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Whether a request is git's first to a repository. Of the errors it gets there, git shows those in
/// plain text (`show_http_message` of its `remote-curl.c`); it says nothing of what it accepts.
#[must_use]
pub fn is_git(target: &Uri) -> bool {
    let query = target.query().unwrap_or_default();
    let mut parameters = query.split('&');
    target.path().ends_with("/info/refs")
        && parameters.any(|parameter| parameter.starts_with("service=git-"))
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

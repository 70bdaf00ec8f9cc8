//! Refusals by budgets, limits and breakers: what tells a client that it is worth to wait, or that it is not.
//!
//! A budget that is spent is not tried again. What passes in a moment is, and then after that: more in a short time than is
//! allowed, what is held for calls that are under way, and what has failed too often.

use std::borrow::Cow;
use std::collections::BTreeMap;

use agentguard_model::budget::Spent;
use agentguard_model::{LlmApi, ReasonCode};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

use super::{Refusal, aws_type, grpc_status, openai_type};

/// In how many seconds a client is to try again where nobody knows: the shortest time that can be said, and about what a
/// call takes.
const RATE: u64 = 1;
const HELD: u64 = 5;

/// What Codex shows of a limit that is reached, behind a sentence of its own (its `UsageLimitReachedError`). Otherwise it
/// says of any other 429 that it has tried too often, and nothing of the message.
const CODEX: &str = "x-codex-promo-message";

/// Fields that an event has inside of it.
pub(super) type Headers = BTreeMap<&'static str, String>;

/// The code of an error of `OpenAI`'s.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Code {
    Own(ReasonCode),
    Theirs(&'static str),
}

/// What Google's errors say beside (`google.rpc`, "`error_details.proto`").
#[derive(Serialize)]
#[serde(tag = "@type")]
pub(super) enum GoogleDetail<'a> {
    #[serde(rename = "type.googleapis.com/google.rpc.ErrorInfo")]
    Info {
        reason: &'static str,
        domain: &'static str,
    },
    #[serde(rename = "type.googleapis.com/google.rpc.QuotaFailure")]
    Quota { violations: [Violation<'a>; 1] },
    #[serde(rename = "type.googleapis.com/google.rpc.RetryInfo")]
    Retry {
        #[serde(rename = "retryDelay")]
        delay: String,
    },
}

#[derive(Serialize)]
pub(super) struct Violation<'a> {
    subject: &'a str,
    description: String,
    #[serde(rename = "quotaId")]
    quota: &'a str,
    #[serde(rename = "quotaValue")]
    value: String,
}

/// With which status a call is refused for this: what a rule denies with 403.
#[must_use]
pub const fn status(code: ReasonCode) -> StatusCode {
    match code {
        ReasonCode::BudgetExhausted
        | ReasonCode::BudgetHeld
        | ReasonCode::RateLimited
        | ReasonCode::RetryStorm => StatusCode::TOO_MANY_REQUESTS,
        ReasonCode::LedgerFailed | ReasonCode::CircuitOpen => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::FORBIDDEN,
    }
}

/// Whether a budget is spent, so that nothing is won by waiting a moment.
pub(super) const fn is_spent(code: ReasonCode) -> bool {
    matches!(code, ReasonCode::BudgetExhausted)
}

/// Whether there is enough of a budget in a moment.
pub(super) const fn waits(code: ReasonCode) -> bool {
    matches!(
        code,
        ReasonCode::BudgetHeld | ReasonCode::RateLimited | ReasonCode::RetryStorm
    )
}

impl Refusal<'_> {
    /// Whether a budget refuses, or what is like one.
    pub(crate) const fn is_of_budget(&self) -> bool {
        is_spent(self.reason.code) || waits(self.reason.code)
    }

    /// The status: where a budget, a limit or a breaker refuses, or none of them can be asked, that of [`status`], whatever
    /// was thought to be one.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self.is_of_budget() || self.is_unavailable() {
            true => status(self.reason.code),
            false => self.status,
        }
    }

    /// Whether a breaker refuses.
    const fn is_open(&self) -> bool {
        matches!(self.reason.code, ReasonCode::CircuitOpen)
    }

    /// Whether it fails for now through nobody's fault who asks: a breaker refuses, or budgets cannot be looked at.
    const fn is_unavailable(&self) -> bool {
        self.is_open() || matches!(self.reason.code, ReasonCode::LedgerFailed)
    }

    /// Whether it is an answer like others to whoever asks a tool: what a rule or a budget says, and no failure.
    pub(crate) fn is_ruled(&self) -> bool {
        self.status() == StatusCode::FORBIDDEN || self.is_of_budget() || self.is_open()
    }

    /// In how many seconds it is worth to try again, where it is.
    pub(super) fn retry_after(&self) -> Option<u64> {
        let unknown = match self.reason.code {
            ReasonCode::RateLimited | ReasonCode::RetryStorm | ReasonCode::CircuitOpen => RATE,
            ReasonCode::BudgetHeld => HELD,
            _ => return None,
        };
        let known = self.spent.and_then(|spent| spent.retry_after);
        Some(self.retry_after.or(known).unwrap_or(unknown).max(1))
    }

    /// Why, with the budget and when to try again, as far as the reason does not say so.
    pub(super) fn detail(&self) -> Cow<'_, str> {
        let reason = self.reason.message.as_str();
        let mut more = String::new();
        if let Some(spent) = self.spent.map(Spent::to_string)
            && !reason.contains(&spent)
        {
            more = format!(": {spent}");
        }
        // In the words that Codex looks for (its `rate_limit_regex`).
        if let Some(seconds) = self.retry_after() {
            more.push_str(&format!("; try again in {seconds} s"));
        }
        match more.is_empty() {
            true => Cow::Borrowed(reason),
            false => Cow::Owned(format!("{}{more}", reason.trim_end_matches('.'))),
        }
    }

    /// The status for clients of an API, where those of it take that of others for one to be tried again.
    pub(super) const fn status_for(&self, api: LlmApi) -> StatusCode {
        match api {
            // botocore tries 429 again whatever the error is, in each of its modes (`_retry.json`, `standard.py`), and
            // 400 only with errors that are named there; this one's is `ServiceQuotaExceededException`.
            LlmApi::Bedrock if is_spent(self.reason.code) => StatusCode::BAD_REQUEST,
            // Cohere's SDK tries 429 again, too, and reads no field about it (`http_client.py`). This is what its API has
            // for a limit of what may be spent ("Errors").
            LlmApi::Cohere if is_spent(self.reason.code) => StatusCode::PAYMENT_REQUIRED,
            _ => self.status(),
        }
    }

    pub(super) const fn aws_type(&self) -> &'static str {
        match is_spent(self.reason.code) {
            true => "ServiceQuotaExceededException",
            false => aws_type(self.status()),
        }
    }

    /// What `OpenAI` calls it: SDKs go by status and fields, Codex by this.
    pub(super) const fn openai_type(&self) -> &'static str {
        match is_spent(self.reason.code) {
            true => "usage_limit_reached",
            false => openai_type(self.status()),
        }
    }

    /// What frameworks around its SDKs go by, which would try again else.
    pub(super) const fn openai_code(&self) -> Code {
        match self.reason.code {
            code if is_spent(code) => Code::Theirs("insufficient_quota"),
            code if waits(code) => Code::Theirs("rate_limit_exceeded"),
            code => Code::Own(code),
        }
    }

    /// The code of a response that has failed. Of a quota that is not sufficient Codex shows no message.
    pub(super) const fn failed_code(&self) -> &'static str {
        match waits(self.reason.code) {
            true => "rate_limit_exceeded",
            false if self.is_unavailable() => "server_error",
            false => "invalid_prompt",
        }
    }

    /// When a budget is reset, in seconds of the Unix time.
    pub(super) fn resets_at(&self) -> Option<i64> {
        let spent = self.spent.filter(|_| is_spent(self.reason.code))?;
        Some(spent.resets_at?.as_second())
    }

    /// See [`CODEX`].
    pub(super) fn for_codex(&self, message: &str) -> Option<(HeaderName, HeaderValue)> {
        let text = self.told_to_codex(message)?;
        let name = HeaderName::from_static(CODEX);
        Some((name, HeaderValue::from_str(&text).ok()?))
    }

    /// The same in an event on a WebSocket.
    pub(super) fn headers_for_codex(&self, message: &str) -> Option<Headers> {
        let text = self.told_to_codex(message)?;
        Some(BTreeMap::from([(CODEX, text)]))
    }

    /// Fields are ASCII.
    fn told_to_codex(&self, message: &str) -> Option<String> {
        let plain = |it: char| if matches!(it, ' '..='~') { it } else { '?' };
        is_spent(self.reason.code).then(|| message.chars().map(plain).collect())
    }

    pub(super) fn google_details(&self) -> Vec<GoogleDetail<'_>> {
        let reason = match self.reason.code {
            code if is_spent(code) => "QUOTA_EXHAUSTED",
            code if waits(code) => "RATE_LIMIT_EXCEEDED",
            _ => return Vec::new(),
        };
        let info = GoogleDetail::Info {
            reason,
            domain: "agentguard",
        };
        let quota = self.spent.map(|spent| GoogleDetail::Quota {
            violations: [Violation {
                subject: &spent.scope,
                description: spent.to_string(),
                quota: &spent.budget,
                value: spent.limit.to_string(),
            }],
        });
        let retry = self.retry_after().map(|seconds| GoogleDetail::Retry {
            delay: format!("{seconds}s"),
        });
        [Some(info), quota, retry].into_iter().flatten().collect()
    }

    pub(super) const fn grpc_status(&self) -> u8 {
        match self.is_of_budget() {
            // RESOURCE_EXHAUSTED
            true => 8,
            false => grpc_status(self.status()),
        }
    }

    /// When a client of gRPC is to try again; below nothing it is not to (gRFC A6, "Pushback").
    pub(super) fn grpc_pushback(&self) -> Option<HeaderValue> {
        if is_spent(self.reason.code) {
            return Some(HeaderValue::from_static("-1"));
        }
        let seconds = self.retry_after()?;
        Some(HeaderValue::from(seconds.saturating_mul(1000)))
    }
}

//! What a client of MCP is told when it is refused.

use agentguard_model::Tool;
use bytes::Bytes;
use http::{Response, StatusCode};

use super::{CALL, STATELESS};
use crate::json::Value;
use crate::refusal::Refusal;

/// The code of the errors of JSON-RPC in which requests are refused. It is none of those that JSON-RPC keeps for
/// itself and MCP (-32768 to -32000).
pub const REFUSED: i64 = 403;

/// The same where a budget refuses.
pub(super) const SPENT: i64 = 429;

/// What waits for an answer.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Questions {
    asked: Vec<Question>,
    /// Whether they came as a batch, and are answered as one.
    batch: bool,
    /// Whether clients read the content of the response: those of HTTP+SSE (2024-11-05) wait for an event.
    here: bool,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Question {
    /// As it is written in JSON.
    id: String,
    call: bool,
    stateless: bool,
}

impl Questions {
    /// Those of a request with these messages. `here`: clients read the content of its response.
    #[must_use]
    pub fn of(messages: &[Tool], batch: bool, here: bool) -> Self {
        let asked = messages.iter().filter(|tool| tool.method.is_some());
        let asked = asked.filter_map(|tool| {
            Some(Question {
                id: tool.id.clone()?,
                call: tool.method.as_deref() == Some(CALL),
                stateless: tool.version.as_deref() == Some(STATELESS),
            })
        });
        Self {
            asked: asked.collect(),
            batch,
            here,
        }
    }

    /// That of a message that cannot be read, which is told with an error. `id`: what its sender waits for, as it is
    /// written in JSON, if that is known.
    #[must_use]
    pub fn unread(id: Option<&str>) -> Self {
        let question = |id: &str| Question {
            id: id.to_owned(),
            call: false,
            stateless: false,
        };
        Self {
            asked: id.map(question).into_iter().collect(),
            batch: false,
            here: true,
        }
    }

    /// Whether nothing waits for an answer.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// Those of a request of JSON-RPC that is none of MCP: each is answered with an error.
    #[must_use]
    pub fn of_json_rpc(calls: &[Tool], batch: bool) -> Self {
        let mut questions = Self::of(calls, batch, true);
        for question in &mut questions.asked {
            question.call = false;
        }
        questions
    }

    /// A refusal as an answer to all of them.
    ///
    /// What a rule or a budget refuses is an answer like others, with the status 200: clients give their model the result of a
    /// call that failed, and an error of any other request to who asked for it. Of what has no id, and where the
    /// client looks at nothing else, the status says it (2025-06-18, "Sending Messages to the Server"); and whether it
    /// is worth to try again.
    #[must_use]
    pub fn refused(&self, refusal: &Refusal<'_>) -> Response<Bytes> {
        let answers = self.here && !self.asked.is_empty() && refusal.is_ruled();
        let told: Vec<String> = self
            .asked
            .iter()
            .map(|it| it.refused(refusal, answers))
            .collect();
        let body = match told.as_slice() {
            [] => error("null", refusal),
            [one] if !self.batch => one.clone(),
            all => format!("[{}]", all.join(",")),
        };
        let mut response = refusal.with("application/json", body.into_bytes());
        if answers {
            *response.status_mut() = StatusCode::OK;
        }
        response
    }

    /// The same as events of a stream, by which clients of HTTP+SSE (2024-11-05) have their answers, and the response to
    /// what they posted. What waits for no answer is told as a message of the server's log. None: no rule or budget refuses,
    /// but something failed.
    #[must_use]
    pub fn refused_by_events(&self, refusal: &Refusal<'_>) -> Option<(Bytes, Response<Bytes>)> {
        if !refusal.is_ruled() {
            return None;
        }
        let mut told: Vec<_> = self
            .asked
            .iter()
            .map(|it| it.refused(refusal, true))
            .collect();
        if told.is_empty() {
            told.push(logged(refusal));
        }
        let events: String = told
            .iter()
            .map(|it| format!("event: message\ndata: {it}\n\n"))
            .collect();
        let mut accepted = refusal.with("text/plain", b"Accepted".to_vec());
        *accepted.status_mut() = StatusCode::ACCEPTED;
        Some((events.into(), accepted))
    }
}

impl Question {
    fn refused(&self, refusal: &Refusal<'_>, answers: bool) -> String {
        if !self.call || !answers {
            return error(&self.id, refusal);
        }
        let complete = if self.stateless {
            r#""resultType":"complete","#
        } else {
            ""
        };
        let text = quoted(&refusal.message());
        let (reason, decision) = why(refusal);
        let budget = budget("agentguard/budget", refusal);
        let id = &self.id;
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{{complete}"content":[{{"type":"text","text":{text}}}],"isError":true,"_meta":{{"agentguard/reason":{reason},"agentguard/decision":{decision}{budget}}}}}}}"#
        )
    }
}

fn error(id: &str, refusal: &Refusal<'_>) -> String {
    let text = quoted(&refusal.message());
    let (reason, decision) = why(refusal);
    let code = if refusal.is_of_budget() {
        SPENT
    } else {
        REFUSED
    };
    let budget = budget("budget", refusal);
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{text},"data":{{"reason":{reason},"decision":{decision}{budget}}}}}}}"#
    )
}

/// A message of the log that clients show (2024-11-05, "Logging").
fn logged(refusal: &Refusal<'_>) -> String {
    let text = quoted(&refusal.message());
    let (reason, decision) = why(refusal);
    let budget = budget("budget", refusal);
    format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"error","logger":"agentguard","data":{{"message":{text},"reason":{reason},"decision":{decision}{budget}}}}}}}"#
    )
}

/// The budget that refuses as one more member of this name, where one does.
fn budget(name: &str, refusal: &Refusal<'_>) -> String {
    // Plain strings and numbers always serialise.
    let spent = refusal.spent.map(serde_json::to_string);
    let spent = spent.and_then(Result::ok);
    spent.map_or_else(String::new, |spent| format!(r#","{name}":{spent}"#))
}

/// Reason and decision as JSON.
fn why(refusal: &Refusal<'_>) -> (String, String) {
    // Plain strings always serialise.
    let reason = serde_json::to_string(&refusal.reason.code).unwrap_or_default();
    let decision = refusal.decision.map(|id| quoted(&id.to_string()));
    (reason, decision.unwrap_or_else(|| "null".to_owned()))
}

fn quoted(text: &str) -> String {
    Value::Text(text.into()).canonical()
}

//! The messages of one connection: each is decided as it is asked about, and what comes of those that went on is
//! recorded with their decisions.

use std::collections::HashMap;

use agentguard_decision::{Client, Decided, Decider, Recorder};
use agentguard_model::contents::Contents;
use agentguard_model::{Bytes, Outcome, Reason, ReasonCode, Tool, ToolAnswer, ToolResult};
use agentguard_protocol::content::Beginning;
use agentguard_protocol::json::Value;
use agentguard_protocol::json::edit::MAX_ADDED;
use agentguard_protocol::jsonrpc::{Outline, edit_each};
use agentguard_protocol::mcp::{
    AnswerReader, Claims, ListFilter, MessageReader, NotUnderstood, Questions, Sent, may_list,
};
use agentguard_protocol::refusal::Refusal;
use http::StatusCode;

use crate::api::{Answer, Came, MAX_LINE};

/// The most that a message may take while it is read ([`agentguard_protocol::json::Builder`]). What takes more is not
/// understood.
const MAX_KEPT: usize = 8 * 1024 * 1024;

/// The most requests of one connection of which the answers are waited for. What comes of further ones is not recorded.
const MAX_PENDING: usize = 256;

/// The most kinds of requests of a server that are told with one answer.
const MAX_ASKED: usize = 16;

/// What went on and is not answered.
#[derive(Debug, Default)]
pub(crate) struct Session {
    pending: HashMap<String, Pending>,
    /// What the server asked for since the last answer.
    asked: Vec<String>,
}

#[derive(Debug)]
struct Pending {
    decided: Decided,
    sent: usize,
}

impl Session {
    /// Decides a message on its way to a server.
    pub(crate) async fn sent<R: Recorder>(
        &mut self,
        decider: &Decider<R>,
        client: &Client,
        server: &str,
        line: &[u8],
    ) -> Answer {
        let Sent { messages, batch } = read(decider, server, line);
        let unread = messages.iter().any(|it| it.not_understood.is_some());
        let questions = match unread {
            true => Questions::unread(Outline::of(line).id()),
            false => Questions::of(&messages, batch, true),
        };
        let (mut allowed, mut denied) = (Vec::new(), None);
        for tool in messages {
            let id = tool.method.is_some().then(|| tool.id.clone()).flatten();
            let decided = decider.local(client, tool).await;
            if decided.allowed {
                allowed.push((id, decided));
            } else {
                denied.get_or_insert(decided);
            }
        }
        let (denied, why) = match denied {
            Some(denied) => {
                let why = "another message of its batch was denied, so that none was sent";
                (denied, why.to_owned())
            }
            None => match changed(allowed.iter().map(|(_, decided)| decided), line) {
                Ok(changed) => {
                    let said = changed.as_ref().map_or(line, |it| it.as_bytes());
                    for (_, decided) in &allowed {
                        keep(decider, decided, said);
                    }
                    let answer = self.goes_on(decider, allowed, line.len());
                    return Answer { changed, ..answer };
                }
                Err(why) => {
                    let why = format!("What the policy changes in this cannot be changed: {why}.");
                    let reason = Reason::new(ReasonCode::NotChanged, why.clone());
                    let tool = Tool {
                        server: server.to_owned(),
                        ..Tool::default()
                    };
                    (decider.refuse_local(client, tool, reason).await, why)
                }
            },
        };
        for (_, decided) in allowed {
            decider.finished(&decided, failed(&decided, &why));
        }
        refused(&denied, &questions, unread)
    }

    /// Refuses a message that is too long to be read. `id`: what its sender waits for, as it says.
    pub(crate) async fn long<R: Recorder>(
        &mut self,
        decider: &Decider<R>,
        client: &Client,
        server: &str,
        id: &[u8],
    ) -> Answer {
        let why = format!("a message of more than {} MiB is not read", MAX_LINE >> 20);
        let reason = Reason::new(
            ReasonCode::NotUnderstood,
            format!("It cannot be decided: {why}."),
        );
        let tool = unread(server, why);
        let decided = decider.refuse_local(client, tool, reason).await;
        // As the message that has nothing else.
        let asked = [br#"{"method":"","id":"#, id, b"}"].concat();
        refused(&decided, &Questions::unread(Outline::of(&asked).id()), true)
    }

    /// Looks at a message that came from a server, and says what is passed on in its place.
    pub(crate) async fn came<R: Recorder>(
        &mut self,
        decider: &Decider<R>,
        client: &Client,
        server: &str,
        line: &[u8],
    ) -> Came {
        let mut reader = AnswerReader::default();
        reader.whole(line);
        let mut told = reader.finish();
        let mut instead = None;
        if decider.shows_a_part(server) || may_list(line) {
            let mut filter = ListFilter::new(false);
            filter.push(line);
            match filter.finish() {
                Ok(mut list) => {
                    let listed = list.definitions();
                    let shown = decider.listed_locally(client, server, listed).await;
                    told.left_out = list.leave_out(&shown);
                    if !told.left_out.is_empty() {
                        instead = Some(String::from_utf8_lossy(&list.written()).into_owned());
                    }
                }
                Err(why) => instead = unread_list(decider, client, server, &why).await,
            }
        }
        self.tell(decider, told, line.len());
        Came { instead }
    }

    /// The connection is over: what is not answered stays so.
    pub(crate) fn end<R: Recorder>(self, decider: &Decider<R>) {
        for Pending { decided, .. } in self.pending.into_values() {
            let why = "the server did not answer before its client went away";
            decider.finished(&decided, failed(&decided, why));
        }
    }

    fn goes_on<R: Recorder>(
        &mut self,
        decider: &Decider<R>,
        allowed: Vec<(Option<String>, Decided)>,
        sent: usize,
    ) -> Answer {
        let mut first = None;
        for (id, decided) in allowed {
            first.get_or_insert_with(|| (decided.id, decided.reason.clone()));
            let waits = id.filter(|_| self.pending.len() < MAX_PENDING);
            let pending = Pending { decided, sent };
            match waits {
                Some(id) => {
                    if let Some(before) = self.pending.insert(id, pending) {
                        let why = "another request with its id was sent";
                        decider.finished(&before.decided, failed(&before.decided, why));
                    }
                }
                None => decider.finished(&pending.decided, outcome(&pending, 0, None)),
            }
        }
        // A message has a decision, and a batch is not empty.
        let (decision, reason) = first.unwrap_or_else(|| {
            let message = "Nothing was asked about.";
            (None, Reason::new(ReasonCode::Internal, message))
        });
        Answer {
            allowed: true,
            decision,
            reason,
            changed: None,
            instead: None,
        }
    }

    /// Records what came of requests that went on.
    fn tell<R: Recorder>(&mut self, decider: &Decider<R>, told: ToolAnswer, received: usize) {
        for method in told.asked {
            if self.asked.len() < MAX_ASKED && !self.asked.contains(&method) {
                self.asked.push(method);
            }
        }
        for result in told.results {
            let id = result.id.as_ref();
            let Some(pending) = id.and_then(|id| self.pending.remove(id)) else {
                continue;
            };
            let answer = ToolAnswer {
                results: vec![ToolResult { ..result }],
                asked: std::mem::take(&mut self.asked),
                listed: told.listed,
                left_out: told.left_out.clone(),
                not_understood: told.not_understood.clone(),
                ..ToolAnswer::default()
            };
            decider.finished(&pending.decided, outcome(&pending, received, Some(answer)));
        }
    }
}

/// What a client gets in the place of a message that may list any tool and cannot be read, if it is not passed on.
async fn unread_list<R: Recorder>(
    decider: &Decider<R>,
    client: &Client,
    server: &str,
    why: &NotUnderstood,
) -> Option<String> {
    let told = why.to_string();
    let told = decider.list_unread_locally(client, server, &told);
    match told.await {
        Some(decided) if !decided.allowed => Some(error(&decided.reason)),
        _ if decider.shows_a_part(server) => {
            let message =
                format!("A message of the server cannot be read, and may list any tool: {why}.");
            Some(error(&Reason::new(ReasonCode::NotUnderstood, message)))
        }
        _ => None,
    }
}

/// Keeps what is sent, where that is to be kept.
fn keep<R: Recorder>(decider: &Decider<R>, decided: &Decided, said: &[u8]) {
    if decided.keeps().is_some() {
        let mut request = Beginning::default();
        request.push(said);
        let contents = Contents {
            request: request.kept(),
            response: None,
        };
        decider.keep(decided, contents);
    }
}

/// A line as what was decided on each of its messages changes it; none where nothing is changed.
fn changed<'a>(
    decided: impl Iterator<Item = &'a Decided>,
    line: &[u8],
) -> Result<Option<String>, String> {
    let made: Vec<Vec<_>> = decided.map(|it| it.edits().collect()).collect();
    if made.iter().all(Vec::is_empty) {
        return Ok(None);
    }
    let document = Value::read(line, MAX_KEPT).map_err(|why| why.to_string());
    let mut document = document?;
    let within = ["params", "arguments"];
    let changed = edit_each(&mut document, &within, &made, &mut MAX_ADDED.clone());
    changed.map_err(|why| why.to_string())?;
    Ok(Some(document.written()))
}

/// What a line says. One that cannot be read is a message of which the server alone is known.
fn read<R: Recorder>(decider: &Decider<R>, server: &str, line: &[u8]) -> Sent {
    let pointers = decider.looked_at_arguments();
    let pointers: Vec<&str> = pointers.iter().map(String::as_str).collect();
    let mut reader = MessageReader::new(MAX_KEPT);
    let read = reader
        .push(line)
        .and_then(|()| reader.finish(server, &Claims::without_fields(), &pointers));
    read.unwrap_or_else(|why| Sent {
        messages: vec![unread(server, why.to_string())],
        batch: false,
    })
}

fn unread(server: &str, why: String) -> Tool {
    Tool {
        server: server.to_owned(),
        not_understood: Some(why),
        ..Tool::default()
    }
}

/// `unread`: nobody knows what waits for an answer, so that one without an id says it.
fn refused(denied: &Decided, questions: &Questions, unread: bool) -> Answer {
    let refusal = Refusal {
        status: StatusCode::FORBIDDEN,
        reason: &denied.reason,
        decision: denied.id,
        spent: denied.spent(),
        retry_after: denied.retry_after(),
    };
    let waits = unread || !questions.is_empty();
    let instead = waits.then(|| {
        let body = questions.refused(&refusal).into_body();
        String::from_utf8_lossy(&body).into_owned()
    });
    Answer {
        allowed: false,
        decision: denied.id,
        reason: denied.reason.clone(),
        changed: None,
        instead,
    }
}

/// An error that says to which request it belongs no more than what it stands for.
fn error(reason: &Reason) -> String {
    let refusal = Refusal {
        status: StatusCode::BAD_GATEWAY,
        reason,
        decision: None,
        spent: None,
        retry_after: None,
    };
    let body = Questions::default().refused(&refusal).into_body();
    String::from_utf8_lossy(&body).into_owned()
}

fn outcome(pending: &Pending, received: usize, tool: Option<ToolAnswer>) -> Outcome {
    let many = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    Outcome {
        bytes: Bytes {
            sent: many(pending.sent),
            received: many(received),
        },
        messages: None,
        duration_ms: lasted(&pending.decided),
        status: None,
        llm: None,
        tool: tool.map(Box::new),
        budget: Vec::new(),
        error: None,
    }
}

fn failed(decided: &Decided, why: &str) -> Outcome {
    Outcome {
        bytes: Bytes::default(),
        messages: None,
        duration_ms: lasted(decided),
        status: None,
        llm: None,
        tool: None,
        budget: Vec::new(),
        error: Some(why.to_owned()),
    }
}

fn lasted(decided: &Decided) -> u64 {
    u64::try_from(decided.started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

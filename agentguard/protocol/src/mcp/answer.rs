//! What a server answers, and asks.

use std::hash::{DefaultHasher, Hasher as _};

use agentguard_model::{ToolAnswer, ToolResult};

use super::{MAX_TOLD, NotUnderstood};
use crate::json::{Event, Kind, Part, Path, Scanner, Sink};
use crate::jsonrpc::MAX_WORD;

/// Reads an answer: [`Self::whole`] where it is one document, [`Self::data`] and [`Self::event_ends`] where it is a
/// stream of events. What is not understood passes; it is told in what [`Self::finish`] gives, and what comes behind
/// it in events of their own is read all the same. Keeps no more than what it tells.
#[derive(Debug, Default)]
pub struct AnswerReader {
    scanner: Scanner,
    told: Telling,
    fault: Option<NotUnderstood>,
    /// Whether this document, or the event that is being read, cannot be read.
    broken: Option<NotUnderstood>,
    /// Whether any of it came.
    begun: bool,
    events: bool,
}

impl AnswerReader {
    /// A piece of the one document that the answer is.
    pub fn whole(&mut self, bytes: &[u8]) {
        self.begun |= !bytes.is_empty();
        if self.broken.is_none()
            && let Err(fault) = self.scanner.push(bytes, &mut self.told)
        {
            self.broken = Some(fault.into());
        }
    }

    /// The rest cannot be read.
    pub fn give_up(&mut self, why: NotUnderstood) {
        self.fault.get_or_insert(why);
    }

    /// A piece of an event's data.
    pub fn data(&mut self, bytes: &[u8]) {
        self.events = true;
        self.whole(bytes);
    }

    /// An event of this type is over. Empty and `message` are messages; others are of the transport.
    pub fn event_ends(&mut self, kind: &[u8]) {
        self.events = true;
        let message = matches!(kind, b"" | b"message");
        self.document_ends(message);
    }

    /// What the results said up to here, as a number that is the same for the same: without what is around them, as the ids
    /// of requests. None before there was any.
    #[must_use]
    pub fn content(&self) -> Option<u64> {
        let content = &self.told.content;
        content.any.then(|| content.hasher.finish())
    }

    /// What came.
    #[must_use]
    pub fn finish(mut self) -> ToolAnswer {
        // An event that the end of its stream finds unfinished is none.
        if !self.events {
            self.document_ends(true);
        }
        let mut told = self.told.answer;
        told.not_understood = self.fault.map(|fault| fault.to_string());
        told
    }

    fn document_ends(&mut self, message: bool) {
        if std::mem::take(&mut self.begun) {
            let read = match self.broken.take() {
                Some(fault) => Err(fault),
                None => self
                    .scanner
                    .finish(&mut self.told)
                    .map_err(NotUnderstood::from),
            };
            let kept = match (read, self.told.fault.take()) {
                (Ok(()), None) => Ok(()),
                (Err(fault), _) | (Ok(()), Some(fault)) => Err(fault),
            };
            let told = std::mem::take(&mut self.told.pending);
            match kept {
                _ if !message => {}
                Ok(()) => {
                    for document in told {
                        if let Err(fault) = self.told.tell(document) {
                            self.fault.get_or_insert(fault);
                        }
                    }
                }
                Err(fault) => {
                    self.fault.get_or_insert(fault);
                }
            }
        }
        self.told.document = Document::default();
        self.scanner.begin_again();
    }
}

/// What one message says, until all of it is there: members have no order.
#[derive(Debug, Default)]
struct Document {
    id: Option<String>,
    method: Option<String>,
    result: bool,
    error: bool,
    code: Option<i64>,
    is_error: bool,
    incomplete: bool,
    /// Which requests a result has inside.
    asked: Vec<String>,
    listed: Option<u64>,
}

/// What results say.
#[derive(Debug, Default)]
struct Content {
    hasher: DefaultHasher,
    any: bool,
    /// Whether one is being read.
    inside: bool,
}

impl Content {
    /// Something in a message: `steps` lead from it to there, where it is not too deep for that.
    fn take(&mut self, steps: Option<&[Part<'_>]>, event: Event<'_>) {
        match steps {
            Some([Part::Key("result"), ..]) => self.inside = true,
            Some(_) => self.inside = false,
            None => {}
        }
        if !self.inside {
            return;
        }
        self.any = true;
        // Pieces of a string come as they arrive, and are one.
        if let Event::Text(piece) = event {
            return self.hasher.write(piece.as_bytes());
        }
        let (mark, said) = match event {
            Event::Begin(_) => (1, ""),
            Event::End(_) => (2, ""),
            Event::Number(number) => (3, number),
            Event::Bool(true) => (4, ""),
            Event::Bool(false) => (5, ""),
            Event::Null | Event::Text(_) => (6, ""),
        };
        // No text has this byte (RFC 3629, 1), so that what stands around a mark is not taken for it.
        self.hasher.write(&[0xff, mark]);
        if let Some([.., Part::Key(key)]) = steps
            && mark != 2
        {
            self.hasher.write(key.as_bytes());
            self.hasher.write(&[0xff]);
        }
        self.hasher.write(said.as_bytes());
    }
}

#[derive(Debug, Default)]
struct Telling {
    answer: ToolAnswer,
    content: Content,
    document: Document,
    /// Of this document: a batch has several.
    pending: Vec<Document>,
    word: String,
    long: bool,
    fault: Option<NotUnderstood>,
}

impl Telling {
    fn tell(&mut self, document: Document) -> Result<(), NotUnderstood> {
        let answer = &mut self.answer;
        // An answer has no method, and a request of the server neither result nor error.
        let asked = match document.method {
            Some(method) if document.id.is_some() => vec![method],
            Some(_) => return Ok(()),
            None => document.asked,
        };
        for method in asked {
            if answer.asked.contains(&method) {
                continue;
            }
            if answer.asked.len() >= MAX_TOLD {
                return Err(NotUnderstood::Told);
            }
            answer.asked.push(method);
        }
        if let Some(listed) = document.listed {
            let before = answer.listed.unwrap_or(0);
            answer.listed = Some(before.saturating_add(listed));
        }
        if document.result || document.error {
            if answer.results.len() >= MAX_TOLD {
                return Err(NotUnderstood::Told);
            }
            answer.results.push(ToolResult {
                id: document.id,
                error: document.error.then_some(document.code.unwrap_or(0)),
                is_error: document.is_error,
                incomplete: document.incomplete,
            });
        }
        Ok(())
    }

    fn word(&mut self) -> Option<String> {
        let word = std::mem::take(&mut self.word);
        (!std::mem::take(&mut self.long)).then_some(word)
    }

    fn push(&mut self, piece: &str) {
        self.long |= self.word.len() + piece.len() > MAX_WORD;
        if !self.long {
            self.word.push_str(piece);
        }
    }

    /// A part of a message: `steps` lead from it to there.
    fn part(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        use Part::{Item, Key};
        match (steps, event) {
            ([], Event::Begin(Kind::Object)) => self.document = Document::default(),
            ([], Event::End(Kind::Object)) => {
                let document = std::mem::take(&mut self.document);
                if self.pending.len() < MAX_TOLD {
                    self.pending.push(document);
                } else {
                    self.fault = Some(NotUnderstood::Told);
                }
            }
            ([Key("result")], Event::Begin(_) | Event::Null) => self.document.result = true,
            ([Key("error")], Event::Begin(_)) => self.document.error = true,
            ([Key("id")], Event::Number(number)) => {
                self.document.id = (number.len() <= MAX_WORD).then(|| number.to_owned());
            }
            ([Key("error"), Key("code")], Event::Number(number)) => {
                self.document.code = number.parse().ok();
            }
            ([Key("result"), Key("isError")], Event::Bool(is)) => self.document.is_error = is,
            ([Key("result"), Key("tools")], Event::Begin(Kind::Array)) => {
                self.document.listed = Some(0);
            }
            ([Key("result"), Key("tools"), Item(_)], Event::Begin(Kind::Object)) => {
                let listed = self.document.listed.get_or_insert(0);
                *listed = listed.saturating_add(1);
            }
            (
                [Key("id" | "method")]
                | [Key("result"), Key("resultType")]
                | [Key("result"), Key("inputRequests"), Key(_), Key("method")],
                event,
            ) => match event {
                Event::Begin(Kind::Text) => {
                    self.word.clear();
                    self.long = false;
                }
                Event::Text(piece) => self.push(piece),
                Event::End(Kind::Text) => self.word_ends(steps),
                _ => {}
            },
            _ => {}
        }
    }

    fn word_ends(&mut self, steps: &[Part<'_>]) {
        let word = self.word();
        let document = &mut self.document;
        match steps {
            // As it is written in JSON.
            [Part::Key("id")] => {
                document.id = word
                    .map(|id| crate::json::Value::Text(id.into()).canonical())
                    .filter(|id| id.len() <= MAX_WORD);
            }
            // One too long to be told is one all the same.
            [Part::Key("method")] => document.method = Some(word.unwrap_or_else(|| "…".to_owned())),
            [_, Part::Key("resultType")] => {
                document.incomplete = word.as_deref() == Some("input_required");
            }
            _ => match word {
                Some(word) if document.asked.len() < MAX_TOLD => {
                    if !document.asked.contains(&word) {
                        document.asked.push(word);
                    }
                }
                _ => self.fault = Some(NotUnderstood::Told),
            },
        }
    }
}

impl Sink for Telling {
    fn take(&mut self, path: &Path, event: Event<'_>) {
        let parts = path.parts();
        let steps = match parts.steps() {
            Some([Part::Item(_), rest @ ..]) => Some(rest),
            steps => steps,
        };
        self.content.take(steps, event);
        if let Some(steps) = steps {
            self.part(steps, event);
        }
    }
}

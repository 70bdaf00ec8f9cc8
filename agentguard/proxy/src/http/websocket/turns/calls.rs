//! The client's messages, each of which may be a call.

use std::future::pending;

use agentguard_decision::{Fingerprint, Recorder};
use agentguard_model::{ActionKind, Demand, Llm, ReasonCode};
use agentguard_protocol::llm::realtime::ClientReader;
use agentguard_protocol::llm::{NotUnderstood, Turn, TurnReader};
use agentguard_protocol::websocket::{Ends, Head, Opcode, masked_text_frame};
use bytes::BytesMut;
use tokio::time::{Instant, sleep_until};

use super::{Fate, Turns};
use crate::Port;
use crate::http::growth::Judge as _;
use crate::http::held::Kept;
use crate::http::websocket::Stopped;
use crate::http::websocket::hold::Hold;

/// Holds each message until it was read and decided.
pub(in crate::http::websocket) struct Calls<'a, R: Recorder, P: Port> {
    turns: &'a Turns<R, P>,
    message: Message,
    /// What is held of it.
    kept: Kept,
    /// What goes in the place of the last one, which is dropped.
    instead: Option<Vec<u8>>,
}

/// The message in hand.
enum Message {
    /// It is being read.
    Reading(Box<Reading>),
    /// It goes on; what is held of it first.
    Goes,
    /// It is refused, or there is none.
    Dropped,
}

/// Reads what the message says.
enum Reader {
    Turn(TurnReader),
    /// In a session.
    Event(ClientReader),
}

impl Reader {
    fn push(&mut self, bytes: &[u8]) -> Result<(), NotUnderstood> {
        match self {
            Self::Turn(reader) => reader.push(bytes),
            Self::Event(reader) => reader.push(bytes),
        }
    }
}

struct Reading {
    reader: Reader,
    size: u64,
    /// What it says; none where no rule changes contents, or keeps them.
    text: Option<Kept>,
    /// What it says, where that is to be known again.
    print: Option<Fingerprint>,
    /// What its client masks it with.
    mask: [u8; 4],
    /// Why it is not understood.
    fault: Option<String>,
    /// Whether no more of it is held.
    beyond: bool,
    /// When it has to be whole.
    until: Instant,
}

impl<'a, R: Recorder, P: Port> Calls<'a, R, P> {
    pub(in crate::http::websocket) fn new(turns: &'a Turns<R, P>) -> Self {
        Self {
            turns,
            message: Message::Dropped,
            kept: Kept::default(),
            instead: None,
        }
    }

    /// Decides the message in hand, of which nothing more is waited for.
    async fn decide(&mut self) -> Result<bool, Stopped> {
        let Message::Reading(reading) = std::mem::replace(&mut self.message, Message::Dropped)
        else {
            return Ok(false);
        };
        let Reading {
            reader,
            size,
            text,
            print,
            mask,
            fault,
            ..
        } = *reading;
        let content = print.map(|it| it.finish()).filter(|_| fault.is_none());
        let why = |why: NotUnderstood| why.to_string();
        let fate = match (reader, fault) {
            (Reader::Turn(reader), None) => {
                let turn = reader.finish().map_err(why);
                self.turn(turn, content, size, text).await?
            }
            (Reader::Turn(_), Some(fault)) => self.turn(Err(fault), None, size, text).await?,
            (Reader::Event(reader), None) => {
                let event = reader.finish().map_err(why);
                self.turns.event(event, size, text).await?
            }
            (Reader::Event(_), Some(fault)) => self.turns.event(Err(fault), size, text).await?,
        };
        match fate {
            Fate::Goes => {
                self.message = Message::Goes;
                Ok(true)
            }
            Fate::Instead(text) => {
                self.kept = Kept::default();
                // Masked as its client chose: it would choose how its own message looks, too.
                self.instead = Some(masked_text_frame(text.as_bytes(), mask));
                Ok(true)
            }
            Fate::Refused => {
                self.kept = Kept::default();
                Ok(false)
            }
        }
    }
}

impl<R: Recorder, P: Port> Calls<'_, R, P> {
    /// What becomes of a message on a connection of Responses.
    async fn turn(
        &self,
        read: Result<Turn, String>,
        content: Option<u64>,
        size: u64,
        text: Option<Kept>,
    ) -> Result<Fate, Stopped> {
        let unread = self.turns.unread.clone();
        let (mut user, mut lane, mut demand) = (None, None, Demand::default());
        let llm = match read {
            Ok(Turn::About) => {
                self.turns.talk();
                return Ok(Fate::Goes);
            }
            Ok(Turn::Steer) => {
                self.turns.steer();
                return Ok(Fate::Goes);
            }
            Ok(Turn::Call { call, lane: named }) => {
                let call = *call;
                (user, lane, demand) = (call.user, named, call.demand);
                Llm {
                    model: call.model,
                    stream: call.stream,
                    max_output_tokens: call.max_output_tokens,
                    tools: call.tools,
                    ..unread
                }
            }
            Err(why) => Llm {
                not_understood: Some(why),
                ..unread
            },
        };
        self.turns
            .decide((llm, demand, content), user, lane, size, text)
            .await
    }
}

impl<R: Recorder, P: Port> Hold for Calls<'_, R, P> {
    async fn begin(&mut self, head: &Head) -> Result<(), Stopped> {
        let binary = head.opcode == Opcode::Binary;
        self.message = Message::Reading(Box::new(Reading {
            reader: match self.turns.live {
                Some(_) => Reader::Event(ClientReader::default()),
                None => Reader::Turn(TurnReader::default()),
            },
            size: 0,
            text: self
                .turns
                .flow
                .guard
                .decider
                .needs_contents()
                .then(Kept::default),
            print: {
                let decider = &self.turns.flow.guard.decider;
                decider.knows_again().then(Fingerprint::default)
            },
            mask: head.mask.unwrap_or_default(),
            fault: binary.then(|| "it is no text".to_owned()),
            beyond: false,
            until: Instant::now() + self.turns.flow.guard.limits.call,
        }));
        Ok(())
    }

    fn is_ruled(&self) -> bool {
        true
    }

    async fn push(&mut self, plain: &[u8], ends: Ends) -> Result<bool, Stopped> {
        let Message::Reading(reading) = &mut self.message else {
            return Ok(matches!(self.message, Message::Goes));
        };
        reading.size += plain.len() as u64;
        if reading.fault.is_none() {
            reading.fault = reading.reader.push(plain).err().map(|why| why.to_string());
        }
        if let Some(print) = &mut reading.print {
            print.push(plain);
        }
        if let (Some(text), None) = (&mut reading.text, &reading.fault) {
            let flow = &self.turns.flow;
            let kept = text.push(plain, |memory| flow.room(memory));
            reading.fault = kept.err().map(str::to_owned);
        }
        if ends == Ends::Message || reading.beyond {
            return self.decide().await;
        }
        Ok(false)
    }

    async fn change(&mut self) {
        match &self.message {
            Message::Reading(reading) => sleep_until(reading.until).await,
            Message::Goes | Message::Dropped => pending().await,
        }
    }

    async fn ask_anew(&mut self) -> Result<(), Stopped> {
        let late = match &self.message {
            Message::Reading(reading) => reading.until <= Instant::now(),
            Message::Goes | Message::Dropped => false,
        };
        if !late {
            return Ok(());
        }
        let message = "the client did not send its call in time";
        let refused =
            self.turns
                .flow
                .refuse(ActionKind::LlmCall, ReasonCode::ClientTimeout, message);
        Err(Stopped::Denied(refused.await))
    }

    fn take(&mut self, frame: &mut BytesMut, _: bool, give: impl FnOnce(&[u8])) {
        match &mut self.message {
            Message::Goes if self.kept.is_empty() => give(frame),
            Message::Goes => {
                // It is given on at once: see `release`.
                let _ = self.kept.push(frame, |_| None);
            }
            Message::Reading(reading) => {
                let flow = &self.turns.flow;
                if let Err(why) = self.kept.push(frame, |memory| flow.room(memory)) {
                    reading.fault.get_or_insert(why.to_owned());
                    reading.beyond = true;
                }
            }
            Message::Dropped => {}
        }
        frame.clear();
    }

    fn release(&mut self) -> Option<(BytesMut, bool)> {
        if let Some(frame) = self.instead.take() {
            return Some((BytesMut::from(frame.as_slice()), false));
        }
        if !matches!(self.message, Message::Goes) {
            return None;
        }
        let piece = self.kept.pop()?;
        Some((piece, !self.kept.is_empty()))
    }

    fn parts(&mut self) {
        self.turns.client_parts();
    }
}

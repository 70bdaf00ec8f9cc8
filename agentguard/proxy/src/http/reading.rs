//! An answer that is read beside its way: an event stream, or what a language model says.

use std::ops::ControlFlow;

use agentguard_model::{LlmAnswer, ToolAnswer};
use agentguard_protocol::content::{Codings, Decoder, Undecodable};
use agentguard_protocol::llm::{self, Endpoint};
use agentguard_protocol::mcp;
use agentguard_protocol::sse::{Piece, Pieces};
use http::header::{self, HeaderMap};

use crate::decoders::Decoding;

/// The most bytes that are kept of a line that is no data.
const MAX_LINE: usize = 4 * 1024;

/// How much a coded answer may decode to: this, and for each byte of it [`RATIO`] more. Beyond it an event
/// stream is cut, and another answer is not read. Text in JSON comes to a tenth of that.
const MARGIN: u64 = 1024 * 1024;

/// See [`MARGIN`].
const RATIO: u64 = 256;

/// See [`Reading::at_once`].
const SLICE: usize = 4 * 1024;

/// Of whom an answer is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Answering {
    /// A language model.
    Llm(Endpoint),
    /// A server of tools.
    Tools,
}

/// What an answer has said.
pub(crate) enum Said {
    Llm(LlmAnswer),
    Tools(ToolAnswer),
}

impl Answering {
    /// An answer of which nothing is known, for this reason.
    pub(crate) fn unread(self, why: String) -> Said {
        let why = Some(why);
        match self {
            Self::Llm(_) => Said::Llm(LlmAnswer {
                not_understood: why,
                ..LlmAnswer::default()
            }),
            Self::Tools => Said::Tools(ToolAnswer {
                not_understood: why,
                ..ToolAnswer::default()
            }),
        }
    }
}

/// Who reads what is said.
enum Says {
    Llm(Box<llm::AnswerReader>),
    Tools(Box<mcp::AnswerReader>),
}

impl Says {
    fn of(answering: Answering) -> Self {
        match answering {
            Answering::Llm(endpoint) => Self::Llm(Box::new(llm::AnswerReader::new(endpoint))),
            Answering::Tools => Self::Tools(Box::default()),
        }
    }

    fn whole(&mut self, bytes: &[u8]) {
        match self {
            Self::Llm(reader) => reader.whole(bytes),
            Self::Tools(reader) => reader.whole(bytes),
        }
    }

    fn data(&mut self, bytes: &[u8]) {
        match self {
            Self::Llm(reader) => reader.data(bytes),
            Self::Tools(reader) => reader.data(bytes),
        }
    }

    fn event_ends(&mut self, kind: &[u8]) {
        match self {
            Self::Llm(reader) => reader.event_ends(),
            Self::Tools(reader) => reader.event_ends(kind),
        }
    }

    fn give_up(&mut self, why: Undecodable) {
        match self {
            Self::Llm(reader) => reader.give_up(why.into()),
            Self::Tools(reader) => reader.give_up(why.into()),
        }
    }

    fn finish(self) -> Said {
        match self {
            Self::Llm(reader) => Said::Llm(reader.finish()),
            Self::Tools(reader) => Said::Tools(reader.finish()),
        }
    }
}

/// Reads an answer. What passes is what came.
pub(crate) struct Reading {
    /// With the room that it takes; none where the answer is not coded.
    decoder: Option<(Box<Decoder>, Decoding)>,
    /// None where the answer is one document.
    events: Option<Pieces>,
    says: Option<Says>,
    /// Whether the rest passes unread.
    gave_up: bool,
}

impl Reading {
    /// For an answer with these fields, if somebody wants to know what is in it: it is an event stream, or the
    /// answer of `answering`.
    ///
    /// # Errors
    /// It is, and nobody can say: of another coding, of a type that is no text, or `room` has none for the
    /// decoder. It passes unread.
    pub(crate) fn of(
        fields: &HeaderMap,
        answering: Option<Answering>,
        room: impl FnOnce(usize) -> Option<Decoding>,
    ) -> Result<Option<Self>, String> {
        let kind = kind(fields);
        let events = kind.eq_ignore_ascii_case("text/event-stream");
        if !events {
            if answering.is_none() {
                return Ok(None);
            }
            if !is_json(kind) {
                return Err(format!("its type is `{}`", kind.escape_debug()));
            }
        }
        let codings = Codings::read(fields).map_err(|why| why.to_string())?;
        let decoder = if codings.is_identity() {
            None
        } else {
            let room = room(codings.memory());
            let room = room.ok_or("too much content is being unpacked at once")?;
            Some((Box::new(Decoder::new(&codings, MARGIN)), room))
        };
        Ok(Some(Self {
            decoder,
            events: events.then(|| Pieces::new(MAX_LINE)),
            says: answering.map(Says::of),
            gave_up: false,
        }))
    }

    /// Whether events are counted.
    pub(crate) const fn counts(&self) -> bool {
        self.events.is_some()
    }

    /// Reads the next bytes, and says how many events end with them.
    ///
    /// # Errors
    /// It is an event stream that cannot be decoded.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<u64, Undecodable> {
        if self.gave_up {
            return Ok(0);
        }
        let mut count = 0;
        let (events, says) = (&mut self.events, &mut self.says);
        let mut read = |bytes: &[u8]| {
            count += read(events.as_mut(), says.as_mut(), bytes);
            ControlFlow::Continue(())
        };
        let pushed = match &mut self.decoder {
            None => Ok(read(bytes)),
            Some((decoder, _)) => {
                decoder.allow_more(RATIO.saturating_mul(bytes.len() as u64));
                decoder.push(bytes, &mut read)
            }
        };
        debug_assert!(
            pushed.is_err() || pushed.is_ok_and(|flow| flow.is_continue()),
            "nothing stops it"
        );
        match pushed {
            Ok(_) => Ok(count),
            Err(why) => self.give_up(why).map(|()| count),
        }
    }

    /// Of so many bytes, how many are read at once: few may take long, and others come first.
    pub(crate) fn at_once(&self, bytes: usize) -> usize {
        match self.decoder {
            Some(_) if !self.gave_up => bytes.min(SLICE),
            _ => bytes,
        }
    }

    /// Says whether an event stream ended where its coding does.
    ///
    /// # Errors
    /// It did not.
    pub(crate) fn finish(&mut self) -> Result<(), Undecodable> {
        match &self.decoder {
            Some((decoder, _)) if !self.gave_up => match decoder.finish() {
                Ok(()) => Ok(()),
                Err(why) => self.give_up(why),
            },
            _ => Ok(()),
        }
    }

    /// What was said, up to here.
    pub(crate) fn answer(self) -> Option<Said> {
        self.says.map(Says::finish)
    }

    /// The rest cannot be decoded. What nobody counts on passes all the same.
    fn give_up(&mut self, why: Undecodable) -> Result<(), Undecodable> {
        self.gave_up = true;
        if let Some(says) = &mut self.says {
            says.give_up(why);
        }
        if self.events.is_some() {
            Err(why)
        } else {
            Ok(())
        }
    }
}

/// Reads what an answer says, and says how many events end with that.
fn read(events: Option<&mut Pieces>, mut says: Option<&mut Says>, bytes: &[u8]) -> u64 {
    let mut count = 0;
    match events {
        Some(events) => events.push(bytes, &mut |piece| match (piece, &mut says) {
            (Piece::Data(data), Some(says)) => says.data(data),
            (Piece::Data(_), None) => {}
            (Piece::End { kind, .. }, says) => {
                count += 1;
                if let Some(says) = says {
                    says.event_ends(kind);
                }
            }
        }),
        None => {
            if let Some(says) = says {
                says.whole(bytes);
            }
        }
    }
    count
}

/// The type (RFC 9110, 8.3.1), without its parameters.
pub(super) fn kind(fields: &HeaderMap) -> &str {
    let kind = fields.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim()
}

/// Whether a type is JSON, or may be.
pub(super) fn is_json(kind: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    kind.is_empty() || kind == "application/json" || kind.ends_with("+json")
}

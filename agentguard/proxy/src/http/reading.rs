//! An answer that is read beside its way: an event stream, or what a language model says.

use std::ops::ControlFlow;

use agentguard_decision::Decided;
use agentguard_protocol::content::{Codings, Decoder, Undecodable};
use agentguard_protocol::json::Place;
use agentguard_protocol::llm::{Stream, Written};
use agentguard_protocol::refusal::Refusal;
use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap};

use crate::decoders::Decoding;
use crate::http::framing::Framing;
use crate::http::says::{Answering, Said, Says};

/// How much a coded answer may decode to: this, and for each byte of it [`RATIO`] more. Beyond it an event
/// stream is cut, and another answer is not read. Text in JSON comes to a tenth of that.
const MARGIN: u64 = 1024 * 1024;

/// See [`MARGIN`].
const RATIO: u64 = 256;

/// See [`Reading::at_once`].
const SLICE: usize = 4 * 1024;

/// Reads an answer. What passes is what came.
pub(crate) struct Reading {
    /// With the room that it takes; none where the answer is not coded.
    decoder: Option<(Box<Decoder>, Decoding)>,
    framing: Framing,
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
        let lists = answering.is_some_and(Answering::lists);
        let framing = match Framing::of(kind, lists) {
            Some(framing) if framing.counts() || answering.is_some() => framing,
            None if answering.is_some() => {
                return Err(format!("its type is `{}`", kind.escape_debug()));
            }
            _ => return Ok(None),
        };
        let codings = Codings::of_text(fields).map_err(|why| why.to_string())?;
        let decoder = if codings.is_identity() {
            None
        } else {
            let room = room(codings.memory());
            let room = room.ok_or("too much content is being unpacked at once")?;
            Some((Box::new(Decoder::new(&codings, MARGIN)), room))
        };
        Ok(Some(Self {
            decoder,
            framing,
            says: answering.map(|it| Says::of(it, fields)),
            gave_up: false,
        }))
    }

    /// Whether events are counted.
    pub(crate) const fn counts(&self) -> bool {
        self.framing.counts()
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
        let (framing, says) = (&mut self.framing, &mut self.says);
        let mut read = |bytes: &[u8]| {
            count += framing.read(says.as_mut(), bytes);
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

    /// Whether nothing of another event has come since the last one ended.
    pub(crate) fn is_between(&self) -> bool {
        self.framing.is_between()
    }

    /// What has come, where something may be said behind it: see [`Framing::place`].
    pub(crate) fn place(&self) -> Option<Place> {
        self.framing.place()
    }

    /// Whether it is a list that is read item by item.
    pub(crate) const fn is_list(&self) -> bool {
        matches!(self.plain_stream(), Some(Stream::List))
    }

    /// In what it comes, where it is read event by event as it does.
    pub(crate) const fn plain_stream(&self) -> Option<Stream> {
        match self.decoder {
            Some(_) => None,
            None => self.framing.stream(),
        }
    }

    /// Of these bytes of a plain stream, how many come before the next place where an event may end, and with it.
    pub(crate) fn within(&self, bytes: &[u8]) -> usize {
        self.framing.within(bytes)
    }

    /// Whether no end of an event can be told any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.framing.is_lost()
    }

    /// What is in hand is over, with the answer.
    pub(crate) fn ends(&mut self) {
        if let Some(says) = &mut self.says {
            self.framing.ends(says);
        }
    }

    /// The tools that a language model has asked to call so far. None where that is not known.
    pub(crate) fn asks(&self) -> Option<Vec<String>> {
        self.says.as_ref()?.asks()
    }

    /// From now on what a language model writes is heard.
    pub(crate) fn hears_what_is_written(&mut self) {
        if let Some(Says::Llm(reader, _)) = &mut self.says {
            reader.hears_what_is_written();
        }
    }

    /// Gives what it has written since it was asked last, if anything.
    pub(crate) fn written(&mut self, hear: impl FnOnce(&Written)) {
        if let Some(Says::Llm(reader, _)) = &mut self.says {
            reader.written(hear);
        }
    }

    /// Whether all that it writes is heard.
    pub(crate) fn is_heard(&self) -> bool {
        matches!(&self.says, Some(Says::Llm(reader, _)) if reader.is_heard())
    }

    /// What a client is told last where it may have no more of a stream of a language model's: an error, in its
    /// provider's words. None where it would not be read as one: in a coding. `gone`: what the client has got.
    pub(crate) fn last_words(&self, denied: &Decided, gone: Place) -> Option<Bytes> {
        let (Some(stream), Some(Says::Llm(_, endpoint))) = (self.plain_stream(), &self.says) else {
            return None;
        };
        let refusal = Refusal {
            status: StatusCode::FORBIDDEN,
            reason: &denied.reason,
            decision: denied.id,
            spent: denied.spent(),
            retry_after: denied.retry_after(),
        };
        let event = refusal.stream_event(*endpoint, stream);
        Some(match stream {
            Stream::List => gone.ends_with(&event).into(),
            Stream::Events | Stream::Lines | Stream::Messages => event.into(),
        })
    }

    /// The rest cannot be decoded. What nobody counts on passes all the same.
    fn give_up(&mut self, why: Undecodable) -> Result<(), Undecodable> {
        self.gave_up = true;
        if let Some(says) = &mut self.says {
            says.give_up(why);
        }
        if self.counts() { Err(why) } else { Ok(()) }
    }
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

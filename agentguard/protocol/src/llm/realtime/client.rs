//! A client's events.

use super::offer::{Given, OfferSink};
use crate::json::{Event, Kind, Part, Path, Scanner, Sink};
use crate::llm::names::in_another_case;
use crate::llm::{NotUnderstood, Word};

/// What goes to the session that there is, and asks for nothing by itself.
const BESIDE: [&str; 8] = [
    "conversation.item.delete",
    "conversation.item.retrieve",
    "conversation.item.truncate",
    "input_audio_buffer.append",
    "input_audio_buffer.clear",
    "input_audio_buffer.commit",
    "output_audio_buffer.clear",
    "response.cancel",
];

/// The members at the top that are looked at.
const TOP: [&str; 5] = ["type", "event_id", "session", "response", "item"];

/// What an event is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Of {
    /// The session: `session.update`.
    Session,
    /// One response, which it asks for: `response.create`.
    Response,
    /// What the model hears or reads, or has said.
    Beside,
}

/// What a client's event says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientEvent {
    /// What it is about.
    pub of: Of,
    /// What it gives to that. Of [`Of::Beside`] at most tools that an item of the conversation brings.
    pub given: Given,
    /// The model that is to write down what is heard, if one is given to the session.
    pub transcriber: Option<String>,
    /// The event's id, if its client has given it one, of no more than [`crate::llm::MAX_WORD`] bytes.
    pub id: Option<String>,
}

/// Reads an event of a client's.
#[derive(Debug, Default)]
pub struct ClientReader {
    scanner: Scanner,
    sink: Box<EventSink>,
}

impl ClientReader {
    /// Reads on.
    ///
    /// # Errors
    /// Why the event is not understood. Nothing more is to be read then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), NotUnderstood> {
        self.scanner.push(bytes, &mut *self.sink)?;
        self.sink.fault().cloned().map_or(Ok(()), Err)
    }

    /// What it says, once it is whole.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(mut self) -> Result<ClientEvent, NotUnderstood> {
        self.scanner.finish(&mut *self.sink)?;
        self.sink.finish()
    }
}

/// The text that is being read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Field {
    Type,
    Id,
    SessionType,
    Transcriber,
}

#[derive(Debug, Default)]
struct EventSink {
    object: bool,
    kind: Option<String>,
    id: Option<String>,
    transcriber: Option<String>,
    /// Which of `session`, `response` and `item` it has.
    part: Option<String>,
    offer: OfferSink,
    word: Word,
    fault: Option<NotUnderstood>,
}

impl EventSink {
    fn fail(&mut self, fault: NotUnderstood) {
        self.fault.get_or_insert(fault);
    }

    fn fault(&self) -> Option<&NotUnderstood> {
        self.fault.as_ref().or(self.offer.fault())
    }

    /// Fails where a name is that of `known` but for its case. With what its value begins, that is.
    fn spelt(&mut self, known: &[&'static str], name: &str, event: Event<'_>) {
        if matches!(event, Event::Text(_) | Event::End(_)) {
            return;
        }
        if let Some(known) = in_another_case(known, name) {
            self.fail(NotUnderstood::Case(known));
        }
    }

    /// A member of the top.
    fn member(&mut self, name: &str, event: Event<'_>) {
        self.spelt(&TOP, name, event);
        match (name, event) {
            ("type", event) => self.text(Field::Type, event),
            ("event_id", Event::Null) | ("response", Event::Null) => {}
            ("event_id", event) => self.text(Field::Id, event),
            ("session" | "response" | "item", Event::Begin(Kind::Object)) => {
                self.begins(name);
            }
            ("session" | "response" | "item", Event::End(_)) => {}
            ("session", _) => self.fail(NotUnderstood::Wrong("session")),
            ("response", _) => self.fail(NotUnderstood::Wrong("response")),
            ("item", _) => self.fail(NotUnderstood::Wrong("item")),
            _ => {}
        }
    }

    /// What it gives is given to this.
    fn begins(&mut self, part: &str) {
        if self.part.replace(part.to_owned()).is_some() {
            self.fail(NotUnderstood::Message);
        }
    }

    /// A part of a session.
    fn session(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        use Part::Key;
        match steps {
            [Key("type")] => self.text(Field::SessionType, event),
            [
                Key("audio"),
                Key("input"),
                Key("transcription"),
                Key("model"),
            ]
            | [Key("input_audio_transcription"), Key("model")]
                if event != Event::Null =>
            {
                self.text(Field::Transcriber, event);
            }
            [Key(name)] => self.spelt(&["type", "audio", "input_audio_transcription"], name, event),
            [Key("audio"), Key(name)] => self.spelt(&["input"], name, event),
            [Key("audio"), Key("input"), Key(name)] => self.spelt(&["transcription"], name, event),
            [Key("audio"), Key("input"), Key("transcription"), Key(name)]
            | [Key("input_audio_transcription"), Key(name)] => self.spelt(&["model"], name, event),
            _ => {}
        }
        self.offer.met(steps, event);
    }

    fn text(&mut self, field: Field, event: Event<'_>) {
        match event {
            Event::Begin(Kind::Text) => self.word = Word::default(),
            Event::Text(piece) => self.word.push(piece),
            Event::End(Kind::Text) => self.text_ends(field),
            _ => self.fail(NotUnderstood::Wrong(match field {
                Field::Type | Field::SessionType => "type",
                Field::Id => "event_id",
                Field::Transcriber => "transcription",
            })),
        }
    }

    fn text_ends(&mut self, field: Field) {
        let long = self.word.long;
        let word = self.word.take();
        match field {
            Field::Type => self.kind = word,
            Field::Id => self.id = word,
            // Of the beta there is no other.
            Field::SessionType if word.as_deref() == Some("realtime") => {}
            Field::SessionType => self.fail(NotUnderstood::Session),
            Field::Transcriber if long => self.fail(NotUnderstood::Long("transcription")),
            Field::Transcriber => {
                let two = self.transcriber.is_some() && self.transcriber != word;
                if two || word.is_none() {
                    self.fail(NotUnderstood::Wrong("transcription"));
                }
                self.transcriber = word;
            }
        }
    }

    fn finish(self) -> Result<ClientEvent, NotUnderstood> {
        if let Some(fault) = self.fault() {
            return Err(fault.clone());
        }
        if !self.object {
            return Err(NotUnderstood::NoObject);
        }
        let kind = self.kind.as_deref().unwrap_or_default();
        let of = match (kind, self.part.as_deref()) {
            ("session.update", Some("session")) => Of::Session,
            ("response.create", Some("response") | None) => Of::Response,
            ("conversation.item.create", Some("item")) => Of::Beside,
            (beside, None) if BESIDE.contains(&beside) => Of::Beside,
            _ => return Err(NotUnderstood::Message),
        };
        let given = self.offer.finish()?;
        if of == Of::Response && given.model.is_some() {
            return Err(NotUnderstood::Wrong("model"));
        }
        Ok(ClientEvent {
            of,
            given,
            transcriber: self.transcriber,
            id: self.id,
        })
    }
}

impl Sink for EventSink {
    fn take(&mut self, path: &Path, event: Event<'_>) {
        use Part::Key;
        if self.fault.is_some() {
            return;
        }
        let parts = path.parts();
        let Some(steps) = parts.steps() else {
            return;
        };
        match steps {
            [] => self.object |= event == Event::Begin(Kind::Object),
            [Key(name)] => self.member(name, event),
            [Key("session"), rest @ ..] => self.session(rest, event),
            [Key("response"), rest @ ..] => self.offer.met(rest, event),
            [Key("item"), rest @ ..] => self.offer.met_in_item(rest, event),
            _ => {}
        }
    }
}

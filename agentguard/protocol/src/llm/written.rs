//! What a model has written, as it comes: the text of all its choices, the arguments of its tool calls, what it shows of its
//! reasoning, and what it refuses with. Budgets count tokens by it while a stream is under way. Names of tools are not in
//! it, nor is what the provider's tools have found.

mod places;
#[cfg(test)]
mod tests;

use self::places::{
    in_cohere, in_converse, in_gemini, in_messages, in_ollama, in_responses, is_arguments,
};
use crate::json::{Event, Kind, Part, Path, Sink};

/// The most bytes of text that are kept until somebody asks. Of what goes beyond there is the number alone.
pub const MAX_WRITTEN: usize = 64 * 1024;

/// What was written since somebody asked last.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Written {
    text: String,
    /// Where the pieces of it end. None is empty.
    ends: Vec<usize>,
    beyond: u64,
    media: u64,
}

impl Written {
    /// Its pieces, each of one choice, block or tool call. They are parts of what a model has written, and may end within
    /// a token.
    pub fn pieces(&self) -> impl Iterator<Item = &str> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        let pieces = begins.zip(&self.ends);
        pieces.filter_map(|(begin, end)| self.text.get(begin..*end))
    }

    /// How many bytes were written that are not among the pieces: beyond [`MAX_WRITTEN`], or told as a whole and never in
    /// pieces.
    #[must_use]
    pub const fn beyond(&self) -> u64 {
        self.beyond
    }

    /// How many bytes of sounds and pictures came, in base64.
    #[must_use]
    pub const fn media(&self) -> u64 {
        self.media
    }

    /// Whether nothing was written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ends.is_empty() && self.beyond == 0 && self.media == 0
    }

    fn push(&mut self, piece: &str, begins: bool) {
        if piece.is_empty() {
            return;
        }
        let room = MAX_WRITTEN.saturating_sub(self.text.len());
        // Once something did not fit, nothing stands behind the gap.
        let cut = match self.beyond {
            0 => piece.floor_char_boundary(room),
            _ => 0,
        };
        let kept = piece.get(..cut).unwrap_or_default();
        let rest = piece.len().saturating_sub(kept.len());
        self.beyond = self.beyond.saturating_add(rest as u64);
        if kept.is_empty() {
            return;
        }
        self.text.push_str(kept);
        match self.ends.last_mut() {
            Some(end) if !begins => *end = self.text.len(),
            _ => self.ends.push(self.text.len()),
        }
    }

    /// Forgets all, and keeps the room for more.
    fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
        self.beyond = 0;
        self.media = 0;
    }
}

/// The form in which an answer comes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Style {
    Chat,
    Responses,
    Messages,
    Gemini,
    Ollama,
    Converse,
    Cohere,
}

/// What a text is for what is counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Told {
    Text,
    Media,
    /// Of something that its pieces told before: of an item of Responses, or of a whole response.
    Item,
    Whole,
}

/// What was told of a response of several documents, so that what its pieces left out is not lost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    counted: u64,
    items: u64,
}

impl Tally {
    /// Takes what one document told: how many bytes nobody told before.
    fn over(&mut self, document: Document) -> u64 {
        let counted = self.counted.saturating_add(document.pieces);
        self.items = self.items.saturating_add(document.items);
        let most = self.items.max(document.whole);
        let missed = most.saturating_sub(counted);
        self.counted = counted.saturating_add(missed);
        missed
    }
}

/// How many bytes one document has told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Document {
    pieces: u64,
    items: u64,
    whole: u64,
}

/// Hears what is written in the documents of an answer.
#[derive(Debug)]
pub(super) struct Hearing {
    style: Style,
    written: Written,
    reading: Option<Told>,
    /// Whether what comes next begins a piece.
    begins: bool,
    /// Whose bytes those of the object that is read are: of the reader of answers, and this one's.
    raw: [bool; 2],
    /// How deep the object stands whose bytes are read here: texts in it are parts of them.
    object: Option<usize>,
    /// Bytes of a character that is not whole.
    cut: Vec<u8>,
    /// By which name a choice has told its reasoning: some servers do by two.
    reasoning: Option<&'static str>,
    document: Document,
    tally: Tally,
}

impl Hearing {
    pub(super) fn new(style: Style) -> Self {
        Self {
            style,
            written: Written::default(),
            reading: None,
            begins: true,
            raw: [false; 2],
            object: None,
            cut: Vec::new(),
            reasoning: None,
            document: Document::default(),
            tally: Tally::default(),
        }
    }

    /// A document is over.
    pub(super) fn document_ends(&mut self) {
        let missed = self.tally.over(std::mem::take(&mut self.document));
        self.written.beyond = self.written.beyond.saturating_add(missed);
        self.reading = None;
        self.object = None;
        self.reasoning = None;
    }

    /// What an event of a response has told, whose other events are heard elsewhere.
    pub(super) fn into_event(self) -> (Written, Document) {
        (self.written, self.document)
    }

    /// Gives what was written since this was asked last.
    pub(super) fn drain<T>(&mut self, hear: impl FnOnce(&Written) -> T) -> Option<T> {
        self.begins = true;
        drain(&mut self.written, hear)
    }

    fn text(&mut self, piece: &str) {
        let length = piece.len() as u64;
        let Document {
            pieces,
            items,
            whole,
        } = &mut self.document;
        let place = match self.reading {
            None => return,
            Some(Told::Text) => {
                self.written.push(piece, self.begins);
                self.begins &= piece.is_empty();
                pieces
            }
            Some(Told::Media) => &mut self.written.media,
            Some(Told::Item) => items,
            Some(Told::Whole) => whole,
        };
        *place = place.saturating_add(length);
    }

    fn begin(&mut self, told: Option<Told>) {
        self.reading = told;
        self.begins = true;
    }

    fn take(&mut self, path: &Path, event: Event<'_>) {
        if let Some(depth) = self.object {
            if matches!(event, Event::End(_)) && path.depth() == depth {
                (self.object, self.reading) = (None, None);
            }
            return;
        }
        match event {
            Event::Text(piece) => self.text(piece),
            Event::End(Kind::Text) => self.reading = None,
            Event::Begin(Kind::Text) => {
                let parts = path.parts();
                let told = parts.steps().and_then(|steps| self.told(steps));
                self.begin(told);
            }
            Event::Begin(Kind::Object) if self.style == Style::Chat => {
                if let Some([Part::Key("choices"), Part::Item(_)]) = path.parts().steps() {
                    self.reasoning = None;
                }
            }
            _ => {}
        }
    }

    /// What a text at this place is.
    fn told(&mut self, steps: &[Part<'_>]) -> Option<Told> {
        match self.style {
            Style::Chat => self.in_chat(steps),
            Style::Responses => in_responses(steps),
            Style::Messages => in_messages(steps),
            Style::Gemini => in_gemini(steps),
            Style::Ollama => in_ollama(steps),
            Style::Converse => in_converse(steps),
            Style::Cohere => in_cohere(steps),
        }
    }

    fn in_chat(&mut self, steps: &[Part<'_>]) -> Option<Told> {
        use Part::{Item, Key};
        let within = match steps {
            [Key("choices"), Item(_), Key("text")] => return Some(Told::Text),
            [
                Key("choices"),
                Item(_),
                Key("delta" | "message"),
                within @ ..,
            ] => within,
            _ => return None,
        };
        match within {
            [Key("content" | "refusal")]
            | [Key("content"), Item(_), Key("text" | "refusal")]
            | [
                Key("content"),
                Item(_),
                Key("thinking"),
                Item(_),
                Key("text"),
            ]
            | [Key("audio"), Key("transcript")]
            | [Key("function_call"), Key("arguments")]
            | [
                Key("tool_calls"),
                Item(_),
                Key("function"),
                Key("arguments"),
            ]
            | [Key("tool_calls"), Item(_), Key("custom"), Key("input")] => Some(Told::Text),
            [Key("audio"), Key("data")] => Some(Told::Media),
            [Key(name @ ("reasoning" | "reasoning_content"))] => {
                let name = match *name {
                    "reasoning" => "reasoning",
                    _ => "reasoning_content",
                };
                let told = self.reasoning.get_or_insert(name);
                (*told == name).then_some(Told::Text)
            }
            _ => None,
        }
    }

    /// The bytes of an object, which are what a model has written where they are arguments.
    fn bytes(&mut self, bytes: &[u8]) {
        self.cut.extend_from_slice(bytes);
        let held = std::mem::take(&mut self.cut);
        let whole = match std::str::from_utf8(&held) {
            Ok(_) => held.len(),
            Err(error) => error.valid_up_to(),
        };
        let (text, rest) = held.split_at_checked(whole).unwrap_or((&held, &[]));
        self.text(std::str::from_utf8(text).unwrap_or_default());
        // The scanner passes on no bytes that are not UTF-8.
        self.cut = rest.to_vec();
    }
}

/// Gives what is there, if anything is, and forgets it.
pub(super) fn drain<T>(written: &mut Written, hear: impl FnOnce(&Written) -> T) -> Option<T> {
    if written.is_empty() {
        return None;
    }
    let told = hear(written);
    written.clear();
    Some(told)
}

/// What was written in the responses of a WebSocket, by their events.
#[derive(Debug, Default)]
pub(super) struct Events {
    pub(super) written: Written,
    tally: Tally,
}

impl Events {
    /// Takes what one more event tells.
    pub(super) fn hear(&mut self, told: (Written, Document)) {
        let (event, document) = told;
        for piece in event.pieces() {
            self.written.push(piece, true);
        }
        let missed = self.tally.over(document);
        let own = &mut self.written;
        own.beyond = own
            .beyond
            .saturating_add(event.beyond.saturating_add(missed));
        own.media = own.media.saturating_add(event.media);
    }

    /// Another response begins.
    pub(super) fn begin(&mut self) {
        self.tally = Tally::default();
    }
}

/// Reads documents, and hears what is written in them.
pub(super) struct Both<'a, S: ?Sized> {
    pub(super) reader: &'a mut S,
    pub(super) hearing: &'a mut Hearing,
}

impl<S: Sink + ?Sized> Sink for Both<'_, S> {
    fn take(&mut self, path: &Path, event: Event<'_>) {
        self.hearing.take(path, event);
        self.reader.take(path, event);
    }

    fn wants_raw(&mut self, path: &Path) -> bool {
        let reader = self.reader.wants_raw(path);
        let parts = path.parts();
        let own = parts
            .steps()
            .is_some_and(|it| is_arguments(self.hearing.style, it));
        self.hearing.raw = [reader, own];
        if own {
            self.hearing.begin(Some(Told::Text));
            self.hearing.object = Some(path.depth());
            self.hearing.cut.clear();
        }
        reader || own
    }

    fn raw(&mut self, bytes: &[u8]) {
        let [reader, own] = self.hearing.raw;
        if reader {
            self.reader.raw(bytes);
        }
        if own {
            self.hearing.bytes(bytes);
        }
    }
}

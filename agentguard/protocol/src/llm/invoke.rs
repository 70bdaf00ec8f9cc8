//! Streams of Bedrock's Invoke: each event has a document of the model's own form, in base64.

use agentguard_model::{LlmAnswer, Usage};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::answer::{AnswerReader, Documents, Form, Reading, tokens};
use super::counts::{Counts, told};
use super::{NotUnderstood, Word};
use crate::json::{Event, Kind, Part, Path, Sink};

/// How many characters are decoded at once.
const BLOCK: usize = 4096;

/// The events.
#[derive(Debug)]
pub(super) struct Invoke {
    /// Of what is in them.
    pub(super) inner: AnswerReader,
    reading: Reading<Field>,
    /// Characters that are not decoded yet.
    block: Vec<u8>,
    /// Whether the text has come to its end, by its padding.
    padded: bool,
    any: bool,
    kind: String,
    failed: bool,
    /// The type of an error, and its message.
    error: [Option<String>; 2],
    fault: Option<NotUnderstood>,
}

#[derive(Clone, Copy, Debug)]
enum Field {
    Bytes,
    Message,
}

impl Invoke {
    /// `form`: of the model; none where it is not read.
    pub(super) fn new(form: Option<Form>) -> Self {
        let metered = Metered {
            form,
            counts: Counts::default(),
        };
        Self {
            inner: AnswerReader::of(Form::Metered(Box::new(metered))),
            reading: Reading::default(),
            block: Vec::new(),
            padded: false,
            any: false,
            kind: String::new(),
            failed: false,
            error: [None, None],
            fault: None,
        }
    }

    pub(super) fn finish(self) -> LlmAnswer {
        let [kind, message] = self.error;
        // Without an event there is nothing that ends in the middle.
        let mut answer = if self.any {
            self.inner.finish()
        } else {
            LlmAnswer::default()
        };
        answer.error = kind.or(message).or(answer.error);
        answer
    }

    fn bytes(&mut self, mut text: &[u8]) {
        while !text.is_empty() && self.fault.is_none() {
            let room = BLOCK.saturating_sub(self.block.len());
            let (more, rest) = text.split_at_checked(room).unwrap_or((text, &[]));
            self.block.extend_from_slice(more);
            text = rest;
            if self.block.len() == BLOCK {
                self.decode();
            }
        }
    }

    fn decode(&mut self) {
        let mut plain = [0; BLOCK];
        match STANDARD.decode_slice(&self.block, &mut plain) {
            Ok(length) if !self.padded || self.block.is_empty() => {
                self.padded |= length < self.block.len() / 4 * 3;
                self.any = true;
                self.inner.data(plain.get(..length).unwrap_or_default());
            }
            _ => self.fault = Some(NotUnderstood::Base64),
        }
        self.block.clear();
    }
}

impl Sink for Invoke {
    fn take(&mut self, path: &Path, event: Event<'_>) {
        use Part::Key;
        match event {
            Event::Begin(Kind::Text) => {
                let parts = path.parts();
                self.reading.begin(match parts.steps() {
                    Some([Key("bytes")]) => Some(Field::Bytes),
                    Some([Key("message" | "Message")]) => Some(Field::Message),
                    _ => None,
                });
                self.padded = false;
            }
            Event::Text(piece) => match self.reading.field {
                Some(Field::Bytes) => self.bytes(piece.as_bytes()),
                Some(Field::Message) => self.reading.word.push(piece),
                None => {}
            },
            Event::End(Kind::Text) => match self.reading.field.take() {
                Some(Field::Bytes) => {
                    self.decode();
                    self.inner.event_ends(&[]);
                }
                Some(Field::Message) => {
                    let [_, message] = &mut self.error;
                    *message = self.reading.word.take();
                }
                None => {}
            },
            _ => {}
        }
    }
}

impl Documents for Invoke {
    fn begins(&mut self, kind: &str, failed: bool) {
        let mut word = Word::default();
        word.push(kind);
        self.kind = word.take().unwrap_or_default();
        self.failed = failed;
    }

    fn over(&mut self, event: bool) -> Result<(), NotUnderstood> {
        let kind = std::mem::take(&mut self.kind);
        if event && std::mem::take(&mut self.failed) && !kind.is_empty() {
            let [failure, _] = &mut self.error;
            *failure = Some(kind);
        }
        self.fault.take().map_or(Ok(()), Err)
    }
}

/// Documents of a model, in the last of which Bedrock tells what it counted.
#[derive(Debug)]
pub(super) struct Metered {
    pub(super) form: Option<Form>,
    counts: Counts,
}

impl Metered {
    pub(super) fn finish(self) -> LlmAnswer {
        let read = self.form.is_some();
        let mut answer = self.form.map(Form::finish).unwrap_or_default();
        let is_whole = |it: &Usage| it.input_tokens.is_some() && it.output_tokens.is_some();
        let own = answer.usage;
        answer.usage = own.filter(is_whole).or(self.counts.usage()).or(own);
        if !read {
            answer.not_understood = Some(NotUnderstood::Form.to_string());
        }
        answer
    }
}

impl Sink for Metered {
    fn take(&mut self, path: &Path, event: Event<'_>) {
        use Part::Key;
        if matches!(event, Event::Number(_))
            && let Some([Key("amazon-bedrock-invocationMetrics"), Key(name)]) = path.parts().steps()
        {
            let counts = &mut self.counts;
            let place = match *name {
                "inputTokenCount" => &mut counts.input,
                "outputTokenCount" => &mut counts.output,
                "cacheReadInputTokenCount" => &mut counts.cache_read,
                "cacheWriteInputTokenCount" => &mut counts.cache_write,
                _ => return,
            };
            *place = told(tokens(event));
        }
        if let Some(form) = &mut self.form {
            form.documents().take(path, event);
        }
    }

    fn wants_raw(&mut self, path: &Path) -> bool {
        let form = self.form.as_mut();
        form.is_some_and(|form| form.documents().wants_raw(path))
    }

    fn raw(&mut self, bytes: &[u8]) {
        if let Some(form) = &mut self.form {
            form.documents().raw(bytes);
        }
    }
}

impl Documents for Metered {
    fn over(&mut self, event: bool) -> Result<(), NotUnderstood> {
        match &mut self.form {
            Some(form) => form.documents().over(event),
            None => Ok(()),
        }
    }
}

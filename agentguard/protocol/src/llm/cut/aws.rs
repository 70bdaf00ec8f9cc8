//! AWS's event streams, in whole messages: Bedrock's Converse, and Invoke with events of a model's own form.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::stream::document;
use super::{Cutter, Event, Fate, Uncut, object, text};
use crate::eventstream::{self, Message};
use crate::json::Value;

impl Cutter {
    /// The next messages of a stream, each of them whole, as they go on. None: as they came.
    ///
    /// # Errors
    /// A call cannot be cut out of them.
    pub fn event_stream(&mut self, messages: &[u8]) -> Result<Option<Vec<u8>>, Uncut> {
        let (mut changed, mut out) = (false, Vec::with_capacity(messages.len()));
        for message in eventstream::messages(messages)? {
            match self.aws_event(&message)? {
                None => out.extend_from_slice(message.bytes),
                Some(instead) => {
                    changed = true;
                    out.extend_from_slice(&instead);
                }
            }
        }
        Ok(changed.then_some(out))
    }

    /// What goes on in the place of a message, if it is not that.
    fn aws_event(&mut self, message: &Message<'_>) -> Result<Option<Vec<u8>>, Uncut> {
        // As answers are read: what says nothing of what it is, is an event.
        let head = &message.head;
        if matches!(head.message, Some("exception" | "error")) {
            return Ok(None);
        }
        let kind = head.event.unwrap_or_default();
        let Some(mut data) = document(message.payload)? else {
            return Ok(None);
        };
        let kind = kind.to_owned();
        if self.encoded {
            let Some(bytes) = data.get("bytes").and_then(Value::text) else {
                return Ok(None);
            };
            let bytes = STANDARD.decode(bytes).map_err(|_| Uncut::Form)?;
            let Some(inner) = document(&bytes)? else {
                return Ok(None);
            };
            data = inner;
        }
        let Fate::Instead(events) = self.event(Event {
            kind: if self.encoded {
                String::new()
            } else {
                kind.clone()
            },
            data,
        })?
        else {
            return Ok(None);
        };
        let mut out = Vec::new();
        for event in events {
            let mut written = event.data.written();
            if self.encoded {
                let bytes = STANDARD.encode(written);
                written = object([("bytes", text(&bytes))]).written();
            }
            let headers = [
                (
                    ":event-type",
                    if self.encoded { &kind } else { &event.kind }.as_str(),
                ),
                (":content-type", "application/json"),
                (":message-type", "event"),
            ];
            let message = eventstream::message(&headers, written.as_bytes());
            out.extend(message.ok_or(Uncut::Many)?);
        }
        Ok(Some(out))
    }
}

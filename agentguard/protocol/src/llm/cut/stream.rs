//! Events as they come on the wire, each whole.

use super::{Cutter, Event, Fate, MAX_EVENT, Uncut};
use crate::json::{Place, Value};
use crate::sse::Parser;

/// What some streams end with in place of a document.
const DONE: &[u8] = b"[DONE]";

impl Cutter {
    /// The next event of an event stream (WHATWG HTML, 9.2), with the lines that belong to it, as it goes on. None: as
    /// it came.
    ///
    /// # Errors
    /// A call cannot be cut out of it.
    pub fn sse(&mut self, lines: &[u8]) -> Result<Option<Vec<u8>>, Uncut> {
        self.in_its_form()?;
        let mut events = Vec::new();
        let mut parser = Parser::new(lines.len().saturating_add(1));
        let mut take = |event: crate::sse::Event<'_>| {
            let kind = String::from_utf8_lossy(event.kind).into_owned();
            events.push((kind, event.data.unwrap_or_default().to_owned()));
        };
        parser.push(lines, &mut take);
        // The last one may have no end: some clients take it all the same.
        parser.push(b"\n\n", &mut take);
        let (mut changed, mut out) = (false, others(lines));
        for (kind, data) in events {
            let Some(data) = document(&data)? else {
                line(&mut out, &kind, &data);
                continue;
            };
            let came = data.clone();
            match self.event(Event {
                kind: kind.clone(),
                data,
            })? {
                Fate::Goes => line(&mut out, &kind, came.written().as_bytes()),
                Fate::Instead(events) => {
                    changed = true;
                    for event in events {
                        line(&mut out, &event.kind, event.data.written().as_bytes());
                    }
                }
            }
        }
        Ok(changed.then_some(out))
    }

    /// The next document of a stream that has one in each message or line, as these go on. None: as it came.
    ///
    /// # Errors
    /// A call cannot be cut out of it.
    pub fn message(&mut self, message: &[u8]) -> Result<Option<Vec<String>>, Uncut> {
        self.in_its_form()?;
        let Some(data) = document(message)? else {
            return Ok(None);
        };
        let kind = String::new();
        Ok(match self.event(Event { kind, data })? {
            Fate::Goes => None,
            Fate::Instead(events) => Some(events.iter().map(|it| it.data.written()).collect()),
        })
    }

    /// The next items of a stream that is one list, with the brackets and commas that stand before and behind them, as
    /// these go on, and what of the list has gone with them. None: as they came. `gone`: what has gone of it before. `over`:
    /// the document ends with them.
    ///
    /// # Errors
    /// A call cannot be cut out of it.
    pub fn list(
        &mut self,
        items: &[u8],
        gone: Place,
        over: bool,
    ) -> Result<Option<(Vec<u8>, Place)>, Uncut> {
        self.in_its_form()?;
        let came = items.trim_ascii();
        let rest = match (gone, came.first()) {
            // Space behind the list.
            (Place::Over, _) => return Ok(None),
            (Place::Before, Some(b'[')) | (Place::Opened | Place::Behind, Some(b',')) => {
                came.get(1..).unwrap_or_default()
            }
            // One document that is no list.
            (Place::Before, _) => {
                let instead = self.message(items)?;
                return Ok(instead.map(|it| (it.concat().into_bytes(), Place::Over)));
            }
            _ => came,
        };
        let end: &[u8] = if over { b"" } else { b"]" };
        let Value::Array(all) = Value::read(&[b"[", rest, end].concat(), MAX_EVENT)? else {
            return Err(Uncut::Form);
        };
        // What stood before is gone, and with it the need for a comma.
        let mut changed = gone == Place::Opened && came.first() == Some(&b',');
        let mut written = Vec::new();
        for data in all {
            let came = data.clone();
            let kind = String::new();
            match self.event(Event { kind, data })? {
                Fate::Goes => written.push(came.written()),
                Fate::Instead(events) => {
                    changed = true;
                    written.extend(events.iter().map(|it| it.data.written()));
                }
            }
        }
        if !changed {
            return Ok(None);
        }
        let before = match gone {
            Place::Before => "[",
            Place::Behind if !written.is_empty() => ",",
            _ => "",
        };
        let goes = match (gone, over) {
            (_, true) => Place::Over,
            (Place::Before | Place::Opened, false) if written.is_empty() => Place::Opened,
            _ => Place::Behind,
        };
        let end = if over { "]" } else { "" };
        Ok(Some((
            [before, &written.join(","), end].concat().into_bytes(),
            goes,
        )))
    }
}

/// The document that an event has, if it has one.
pub(super) fn document(data: &[u8]) -> Result<Option<Value>, Uncut> {
    let data = data.trim_ascii();
    if data.is_empty() || data == DONE {
        return Ok(None);
    }
    Ok(Some(Value::read(data, MAX_EVENT)?))
}

/// Writes an event.
fn line(out: &mut Vec<u8>, kind: &str, data: &[u8]) {
    if !kind.is_empty() {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(kind.as_bytes());
        out.push(b'\n');
    }
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\n\n");
}

/// The lines that are neither an event's type nor its data: comments, ids, and how long to wait.
fn others(lines: &[u8]) -> Vec<u8> {
    let lines = lines.split(|byte| matches!(byte, b'\r' | b'\n'));
    let is_other = |line: &&[u8]| {
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        !line.is_empty() && !matches!(name, b"event" | b"data")
    };
    let mut others = Vec::new();
    for line in lines.filter(is_other) {
        others.extend_from_slice(line);
        others.push(b'\n');
    }
    others
}

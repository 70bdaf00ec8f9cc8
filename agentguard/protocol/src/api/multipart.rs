//! Forms in parts (RFC 7578), in pieces of any size. Of files the content is not kept.
//!
//! Stricter than the grammar where servers read two things: the boundary stands nowhere but where a part begins or
//! ends, nothing is before the first part or behind the last, and what says a part's name has one reading.

use super::urlencoded::{Field, is_plain, without_brackets};
use super::{MAX_FIELDS, NotUnderstood};
use crate::json::{NODE, Value};
use crate::media_type::{is_utf8, parameters};

/// The most bytes that the fields of a part have.
const MAX_HEAD: usize = 4 * 1024;

/// Reads a form.
#[derive(Debug)]
pub(super) struct Reader {
    /// The boundary, with its two hyphens.
    delimiter: Vec<u8>,
    limit: usize,
    used: usize,
    stage: Stage,
    /// What has come and was not taken.
    held: Vec<u8>,
    /// How many bytes of that were looked through.
    looked: usize,
    fields: Vec<Field>,
}

#[derive(Debug)]
enum Stage {
    /// Before the first boundary.
    Start,
    /// Behind a boundary: a part or the end.
    Behind,
    /// In the fields of a part.
    Head,
    /// In the content of a part.
    Content(Part),
    /// Behind the last part.
    End,
}

#[derive(Debug)]
struct Part {
    name: String,
    is: What,
}

#[derive(Debug)]
enum What {
    Text(Vec<u8>),
    File {
        name: String,
        kind: Option<String>,
        size: u64,
    },
}

fn parts(why: &'static str) -> NotUnderstood {
    NotUnderstood::Parts(why)
}

impl Reader {
    /// For a form with this boundary that takes no more than `limit` bytes when it is kept.
    pub(super) fn new(boundary: &str, limit: usize) -> Self {
        Self {
            delimiter: format!("--{boundary}").into_bytes(),
            limit,
            used: 0,
            stage: Stage::Start,
            held: Vec::new(),
            looked: 0,
            fields: Vec::new(),
        }
    }

    /// How much memory what was read takes.
    pub(super) const fn used(&self) -> usize {
        self.used
    }

    /// Reads on.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), NotUnderstood> {
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(bytes);
        let mut rest = held.as_slice();
        while let Some(taken) = self.step(rest)? {
            rest = rest.get(taken..).unwrap_or_default();
            self.looked = 0;
        }
        self.held = rest.to_vec();
        Ok(())
    }

    /// The fields, once all was read.
    pub(super) fn finish(self) -> Result<Vec<Field>, NotUnderstood> {
        match self.stage {
            Stage::End if matches!(self.held.as_slice(), b"" | b"\r\n") => Ok(self.fields),
            _ => Err(parts("it ends in the middle")),
        }
    }

    /// How much of what is here is taken; none where more has to come.
    fn step(&mut self, here: &[u8]) -> Result<Option<usize>, NotUnderstood> {
        match &mut self.stage {
            Stage::Start => {
                let known = here.len().min(self.delimiter.len());
                if here.get(..known) != self.delimiter.get(..known) {
                    return Err(parts("it does not begin with its boundary"));
                }
                if known < self.delimiter.len() {
                    return Ok(None);
                }
                self.stage = Stage::Behind;
                Ok(Some(known))
            }
            Stage::Behind => match here {
                [b'\r', b'\n', ..] => {
                    self.stage = Stage::Head;
                    Ok(Some(2))
                }
                [b'-', b'-', ..] => {
                    self.stage = Stage::End;
                    Ok(Some(2))
                }
                [] | [b'\r' | b'-'] => Ok(None),
                _ => Err(parts("its boundary stands where no part begins or ends")),
            },
            Stage::Head => {
                let from = self.looked.saturating_sub(3);
                let Some(end) = position(here, b"\r\n\r\n", from) else {
                    self.looked = here.len();
                    return match here.len() > MAX_HEAD {
                        true => Err(parts("the fields of a part are too long")),
                        false => Ok(None),
                    };
                };
                if end > MAX_HEAD - 3 {
                    return Err(parts("the fields of a part are too long"));
                }
                if self.fields.len() == MAX_FIELDS {
                    return Err(NotUnderstood::Fields);
                }
                let part = Part::read(here.get(..end).unwrap_or_default())?;
                self.count(NODE * 4 + end)?;
                self.stage = Stage::Content(part);
                Ok(Some(end + 4))
            }
            Stage::Content(_) => self.content(here),
            Stage::End => match here {
                b"" | b"\r" | b"\r\n" => Ok(None),
                _ => Err(parts("something stands behind its last part")),
            },
        }
    }

    fn content(&mut self, here: &[u8]) -> Result<Option<usize>, NotUnderstood> {
        let found = position(here, &self.delimiter, 0);
        // What may be the beginning of a boundary, with the end of the line before it, waits for the rest.
        let end = match found {
            Some(at) => at
                .checked_sub(2)
                .filter(|&end| here.get(end..at) == Some(b"\r\n"))
                .ok_or(parts("its boundary stands where no part begins or ends"))?,
            None => here.len().saturating_sub(self.delimiter.len() + 1),
        };
        let taken = here.get(..end).unwrap_or_default();
        let Stage::Content(part) = &mut self.stage else {
            return Ok(None);
        };
        let text = part.take(taken);
        if text {
            self.count(taken.len())?;
        }
        if found.is_none() {
            return Ok((end > 0).then_some(end));
        }
        if let Stage::Content(part) = std::mem::replace(&mut self.stage, Stage::Behind) {
            self.fields.push(part.finish()?);
        }
        Ok(Some(end + 2 + self.delimiter.len()))
    }

    fn count(&mut self, bytes: usize) -> Result<(), NotUnderstood> {
        self.used += bytes;
        if self.used > self.limit {
            return Err(NotUnderstood::Large);
        }
        Ok(())
    }
}

/// Where `what` stands first in a text, at `from` or behind.
fn position(text: &[u8], what: &[u8], from: usize) -> Option<usize> {
    let windows = text.get(from..)?.windows(what.len());
    let mut windows = windows.enumerate();
    let (at, _) = windows.find(|(_, window)| *window == what)?;
    Some(from + at)
}

impl Part {
    /// By its fields.
    fn read(head: &[u8]) -> Result<Self, NotUnderstood> {
        let head = std::str::from_utf8(head).map_err(|_| parts("a part's field is no UTF-8"))?;
        let (mut disposition, mut kind) = (None, None);
        for line in head.split("\r\n") {
            let odd = line.contains(|c: char| c.is_control() && c != '\t');
            let Some((name, value)) = line.split_once(':').filter(|_| !odd) else {
                return Err(parts("a part has a line that is no field"));
            };
            let value = value.trim_matches([' ', '\t']);
            let place = match name.to_ascii_lowercase().as_str() {
                "content-disposition" => &mut disposition,
                "content-type" => &mut kind,
                "content-length" => continue,
                "content-transfer-encoding" if is_plain_encoding(value) => continue,
                _ => return Err(parts("a part has a field that is not read")),
            };
            if place.replace(value).is_some() {
                return Err(parts("a part has a field twice"));
            }
        }
        let disposition = disposition.and_then(|it| it.split_once(';'));
        let Some((what, rest)) = disposition else {
            return Err(parts("a part does not say its name"));
        };
        if !what.trim_end().eq_ignore_ascii_case("form-data") {
            return Err(parts("a part is no field of a form"));
        }
        let said = parameters(rest).ok_or(parts("a part's name can be read in two ways"))?;
        let (mut name, mut file) = (None, None);
        for (parameter, value) in said {
            match parameter.as_str() {
                // In a name browsers escape quotes with `%`, and others do not.
                "name" if !value.contains('%') => name = Some(value),
                "filename" => file = Some(value),
                _ => return Err(parts("a part's name can be read in two ways")),
            }
        }
        // Which names may have brackets is known behind it all.
        let is_name = |name: &str| is_plain(without_brackets(name));
        let name = name.filter(|name| is_name(name) && !name.eq_ignore_ascii_case("_charset_"));
        let name = name.ok_or(NotUnderstood::Name("the form"))?;
        let is = match file {
            Some(file) => What::File {
                name: file,
                kind: kind.map(str::to_owned),
                size: 0,
            },
            None => {
                if !kind.is_none_or(is_of_utf8) {
                    return Err(NotUnderstood::Charset);
                }
                What::Text(Vec::new())
            }
        };
        Ok(Self { name, is })
    }

    /// Takes content. Whether it is kept.
    fn take(&mut self, bytes: &[u8]) -> bool {
        match &mut self.is {
            What::Text(text) => text.extend_from_slice(bytes),
            What::File { size, .. } => *size += bytes.len() as u64,
        }
        matches!(self.is, What::Text(_))
    }

    /// The field: a string, or of a file an object with `name`, `type` and `size`.
    fn finish(self) -> Result<Field, NotUnderstood> {
        let text = |text: String| Value::Text(text.into_boxed_str());
        let value = match self.is {
            What::Text(bytes) => {
                text(String::from_utf8(bytes).map_err(|_| NotUnderstood::NotUtf8("the form"))?)
            }
            // Some take one without a name for a text, and not for a file. Browsers send it of none, and empty.
            What::File { name, size, .. } if name.is_empty() && size > 0 => {
                return Err(parts("a part is a file without a name"));
            }
            What::File { name, kind, size } => {
                let mut members = vec![("name".into(), text(name))];
                members.extend(kind.map(|kind| ("type".into(), text(kind))));
                members.push(("size".into(), Value::Number(size.to_string().into())));
                Value::Object(members)
            }
        };
        Ok((self.name.into_boxed_str(), value))
    }
}

/// Whether what an encoding of a part says leaves the content as it is.
fn is_plain_encoding(value: &str) -> bool {
    ["7bit", "8bit", "binary"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(value))
}

/// Whether a type does not say that its text is something else than UTF-8.
fn is_of_utf8(kind: &str) -> bool {
    let Some((_, rest)) = kind.split_once(';') else {
        return true;
    };
    let read = parameters(rest);
    read.is_some_and(|read| {
        let mut charsets = read.iter().filter(|(name, _)| name == "charset");
        charsets.all(|(_, charset)| is_utf8(charset))
    })
}

//! A document that is kept, and its canonical form.

use std::fmt::Write as _;

use super::{Event, Fault, Kind, Part, Path, Scanner, Sink};

/// What a value counts for beside its text, in bytes: what it takes in a vector that grows.
pub const NODE: usize = 96;

/// A value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as it is written.
    Number(Box<str>),
    /// A string, without its escapes.
    Text(Box<str>),
    /// An array.
    Array(Vec<Value>),
    /// An object: its members in their order, none of them twice.
    Object(Vec<(Box<str>, Value)>),
}

/// In which order the members of an object are written.
#[derive(Clone, Copy)]
enum Members {
    AsTheyAre,
    /// By UTF-16 code units (RFC 8785, 3.2.3).
    Sorted,
}

impl Value {
    /// Reads a document that takes no more than `limit` bytes ([`Builder::new`]).
    ///
    /// # Errors
    /// It is none, or takes more.
    pub fn read(text: &[u8], limit: usize) -> Result<Self, Fault> {
        let mut reader = Reader::new(limit);
        reader.push(text)?;
        reader.finish()
    }

    /// The member of an object. None where it is no object, too.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.members()
            .iter()
            .find(|(own, _)| **own == *name)
            .map(|(_, value)| value)
    }

    /// The same, to be changed.
    #[must_use]
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Self> {
        let Self::Object(members) = self else {
            return None;
        };
        let member = members.iter_mut().find(|(own, _)| **own == *name);
        member.map(|(_, value)| value)
    }

    /// The members of an object; of anything else, none.
    #[must_use]
    pub fn members(&self) -> &[(Box<str>, Self)] {
        match self {
            Self::Object(members) => members,
            _ => &[],
        }
    }

    /// A string.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The canonical form (RFC 8785), but that numbers stay as they are written: what that form makes of them is
    /// the same for numbers that differ.
    #[must_use]
    pub fn canonical(&self) -> String {
        let mut text = String::new();
        self.write(&mut text, Members::Sorted);
        text
    }

    /// As a text without spaces, its members in their order.
    #[must_use]
    pub fn written(&self) -> String {
        let mut text = String::new();
        self.write(&mut text, Members::AsTheyAre);
        text
    }

    fn write(&self, out: &mut String, order: Members) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(true) => out.push_str("true"),
            Self::Bool(false) => out.push_str("false"),
            Self::Number(number) => out.push_str(number),
            Self::Text(text) => quoted(text, out),
            Self::Array(items) => {
                out.push('[');
                for (n, item) in items.iter().enumerate() {
                    if n > 0 {
                        out.push(',');
                    }
                    item.write(out, order);
                }
                out.push(']');
            }
            Self::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                if let Members::Sorted = order {
                    members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
                }
                out.push('{');
                for (n, (name, value)) in members.into_iter().enumerate() {
                    if n > 0 {
                        out.push(',');
                    }
                    quoted(name, out);
                    out.push(':');
                    value.write(out, order);
                }
                out.push('}');
            }
        }
    }
}

/// A string as RFC 8785, 3.2.2.2 has it.
fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            c if c < ' ' => {
                // A string takes everything.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Reads a document that comes in pieces, and keeps it.
#[derive(Debug)]
pub struct Reader {
    scanner: Scanner,
    whole: Builder,
}

impl Reader {
    /// For a document that takes no more than `limit` bytes ([`Builder::new`]).
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            scanner: Scanner::default(),
            whole: Builder::new(limit),
        }
    }

    /// Reads on.
    ///
    /// # Errors
    /// It is none, or takes more. Nothing more is to be read then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.scanner.push(bytes, &mut self.whole)?;
        self.whole.fault().map_or(Ok(()), Err)
    }

    /// How much memory what was read takes.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.whole.used()
    }

    /// The document, once all was read.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(mut self) -> Result<Value, Fault> {
        self.scanner.finish(&mut self.whole)?;
        self.whole.finish()
    }
}

/// Builds a value out of what a [`super::Scanner`] tells of it and its parts.
#[derive(Debug)]
pub struct Builder {
    limit: usize,
    used: usize,
    /// What is open: with the name under which it goes into what is open around it.
    open: Vec<(Option<Box<str>>, Value)>,
    /// The string that is being read.
    text: String,
    done: Option<Value>,
    fault: Option<Fault>,
}

impl Builder {
    /// For a value that takes no more than `limit` bytes: those of its names and strings, and [`NODE`] for each
    /// value.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self {
            limit,
            used: 0,
            open: Vec::new(),
            text: String::new(),
            done: None,
            fault: None,
        }
    }

    /// How much it takes by now, as it is counted.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.used
    }

    /// Why no value comes of it, if none does.
    #[must_use]
    pub const fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// The value, where it is whole.
    ///
    /// # Errors
    /// It is larger than the limit, or not whole.
    pub fn finish(self) -> Result<Value, Fault> {
        match (self.fault, self.done) {
            (Some(fault), _) => Err(fault),
            (None, Some(done)) => Ok(done),
            (None, None) => Err(Fault::Unfinished),
        }
    }

    fn plain(&mut self, path: &Path, value: Value) {
        let name = self.name(path);
        self.put(name, value);
    }

    /// The name of a member of what is open.
    fn name(&mut self, path: &Path) -> Option<Box<str>> {
        let inside = matches!(self.open.last(), Some((_, Value::Object(_))));
        match path.last() {
            Some(Part::Key(name)) if inside => {
                // Once as it begins, and once as a string ends.
                self.count(name.len());
                Some(name.into())
            }
            _ => None,
        }
    }

    fn put(&mut self, name: Option<Box<str>>, value: Value) {
        if self.fault.is_some() {
            return;
        }
        match (self.open.last_mut(), name) {
            (Some((_, Value::Object(members))), Some(name)) => members.push((name, value)),
            (Some((_, Value::Array(items))), _) => items.push(value),
            _ => self.done = Some(value),
        }
    }

    fn count(&mut self, bytes: usize) {
        self.used = self.used.saturating_add(bytes);
        if self.used > self.limit {
            self.fault = Some(Fault::Large);
            // Nothing of it is of use any more.
            self.open = Vec::new();
            self.text = String::new();
        }
    }
}

impl Sink for Builder {
    /// What is met. Everything behind the value that it began with is ignored.
    fn take(&mut self, path: &Path, event: Event<'_>) {
        if self.fault.is_some() || self.done.is_some() {
            return;
        }
        match event {
            Event::Begin(kind) => {
                let name = self.name(path);
                self.count(NODE);
                match kind {
                    Kind::Text => self.text.clear(),
                    Kind::Object => self.open.push((name, Value::Object(Vec::new()))),
                    Kind::Array => self.open.push((name, Value::Array(Vec::new()))),
                }
            }
            Event::Text(piece) => {
                self.count(piece.len());
                if self.fault.is_none() {
                    self.text.push_str(piece);
                }
            }
            Event::End(Kind::Text) => {
                let name = self.name(path);
                let text = std::mem::take(&mut self.text);
                self.put(name, Value::Text(text.into_boxed_str()));
            }
            Event::End(Kind::Object | Kind::Array) => {
                if let Some((name, value)) = self.open.pop() {
                    self.put(name, value);
                }
            }
            Event::Number(number) => {
                self.count(NODE + number.len());
                self.plain(path, Value::Number(number.into()));
            }
            Event::Bool(yes) => {
                self.count(NODE);
                self.plain(path, Value::Bool(yes));
            }
            Event::Null => {
                self.count(NODE);
                self.plain(path, Value::Null);
            }
        }
    }
}

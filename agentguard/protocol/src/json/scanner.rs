//! The scanner: one byte after the other, whatever comes in one piece.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, BuildHasherDefault, Hasher, RandomState};

use super::number::is_number;
use super::{Fault, MAX_DEPTH, MAX_NAME, MAX_NAMES, MAX_NUMBER, Path, Place};

/// What has more than one part.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// An object.
    Object,
    /// An array.
    Array,
    /// A string.
    Text,
}

/// What is met.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'a> {
    /// Something with parts begins.
    Begin(Kind),
    /// A piece of a string, without its escapes. A string may have any number of pieces, also none.
    Text(&'a str),
    /// A number, as it is written.
    Number(&'a str),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
    /// What began ends.
    End(Kind),
}

/// Who is told what a document has.
pub trait Sink {
    /// What is met, and where.
    fn take(&mut self, path: &Path, event: Event<'_>);

    /// Whether [`Self::raw`] gets the bytes of the object or array that begins here, as they are written. Not
    /// asked inside of one for which it was so.
    fn wants_raw(&mut self, _path: &Path) -> bool {
        false
    }

    /// The bytes, in any number of pieces.
    fn raw(&mut self, _bytes: &[u8]) {}
}

/// Reads one document.
#[derive(Debug)]
pub struct Scanner {
    state: State,
    /// The objects and arrays that are open; behind [`Self::depth`], what is used again.
    levels: Vec<Level>,
    depth: usize,
    path: Path,
    /// A number, a literal, the beginning of a character or of an escape, as far as it came.
    part: Vec<u8>,
    /// A name, as far as it came.
    name: String,
    /// How many names the open objects have.
    names: usize,
    /// Keyed by chance, so that nobody can choose names that are taken for one.
    hashes: RandomState,
    /// How many bytes were read before this piece.
    before: u64,
    /// At which depth that begins whose bytes are asked for.
    raw: Option<usize>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// A value comes, or the array ends that has just begun.
    Value {
        or_end: bool,
    },
    /// A name comes, or the object ends that has just begun.
    Name {
        or_end: bool,
    },
    Colon,
    /// `,` or the end of what is open; at the top, nothing.
    After,
    Text(Within),
    Number,
    Literal,
}

/// Where in a string.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Within {
    /// Whether it is a name.
    name: bool,
    escape: Escape,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Escape {
    None,
    /// Behind a `\`.
    Begun,
    /// In the digits behind `\u`, of a character whose first half was this.
    Digits(Option<u16>),
    /// Behind the first half of a pair: `\` comes.
    Half(u16),
    /// And then `u`.
    HalfBegun(u16),
}

#[derive(Debug, Default)]
struct Level {
    object: bool,
    /// Of an array, how many elements have begun.
    items: usize,
    /// Of an object, digests of the names so far.
    names: HashSet<u64, BuildHasherDefault<AsItIs>>,
}

/// Digests are not hashed again.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, digest: u64) {
        self.0 = digest;
    }
}

/// A set of more room is not kept for the next object.
const KEPT_ROOM: usize = 256;

impl Default for Scanner {
    fn default() -> Self {
        Self {
            state: State::Value { or_end: false },
            levels: Vec::new(),
            depth: 0,
            path: Path::default(),
            part: Vec::new(),
            name: String::new(),
            names: 0,
            hashes: RandomState::new(),
            before: 0,
            raw: None,
        }
    }
}

impl Scanner {
    /// Begins with another document.
    pub fn begin_again(&mut self) {
        while self.depth > 0 {
            self.leave_level();
        }
        self.state = State::Value { or_end: false };
        self.path.clear();
        self.part.clear();
        self.name.clear();
        self.before = 0;
        self.raw = None;
    }

    /// Reads on. After a fault nothing more is to be read but another document.
    ///
    /// # Errors
    /// It is not JSON, or more than is read.
    pub fn push(&mut self, bytes: &[u8], sink: &mut dyn Sink) -> Result<(), Fault> {
        let mut at = 0;
        let mut raw_from = 0;
        while let Some(&byte) = bytes.get(at) {
            let had = self.raw;
            let rest = bytes.get(at..).unwrap_or_default();
            let read = self.read(byte, rest, self.before + at as u64, sink)?;
            match (had, self.raw) {
                (None, Some(_)) => raw_from = at,
                (Some(_), None) => {
                    let end = at + read;
                    sink.raw(bytes.get(raw_from..end).unwrap_or_default());
                    self.close_raw(sink);
                }
                _ => {}
            }
            at += read;
        }
        if self.raw.is_some() {
            sink.raw(bytes.get(raw_from..).unwrap_or_default());
        }
        self.before += bytes.len() as u64;
        Ok(())
    }

    /// The document ends here.
    ///
    /// # Errors
    /// It does not.
    pub fn finish(&mut self, sink: &mut dyn Sink) -> Result<(), Fault> {
        match self.state {
            // A number at the top has nothing behind it that would end it.
            State::Number if self.depth == 0 => self.number_ends(self.before, sink),
            State::Literal if self.depth == 0 => self.literal_ends(self.before, sink),
            State::After if self.depth == 0 => Ok(()),
            _ => Err(Fault::Unfinished),
        }
    }

    /// Where in a list the document stands, if it is one and nothing of an item is under way. After a fault nobody knows.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        let level = self.depth.checked_sub(1).and_then(|at| self.levels.get(at));
        match (self.depth, self.state) {
            (0, State::Value { .. }) => Some(Place::Before),
            (0, State::After) => Some(Place::Over),
            (1, _) if level.is_none_or(|level| level.object) => None,
            (1, State::Value { or_end: true }) => Some(Place::Opened),
            (1, State::Value { or_end: false }) => Some(Place::Next),
            (1, State::After) => Some(Place::Behind),
            _ => None,
        }
    }

    /// Reads one byte, or more of what comes behind it. Says how many; none where the byte ends what came
    /// before, and is to be read again.
    fn read(
        &mut self,
        byte: u8,
        rest: &[u8],
        at: u64,
        sink: &mut dyn Sink,
    ) -> Result<usize, Fault> {
        match self.state {
            State::Text(within) => return self.text(within, byte, rest, at, sink),
            State::Number => {
                if matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E') {
                    if self.part.len() >= MAX_NUMBER {
                        return Err(Fault::Bound(at));
                    }
                    self.part.push(byte);
                    return Ok(1);
                }
                self.number_ends(at, sink)?;
                return Ok(0);
            }
            State::Literal => {
                if byte.is_ascii_lowercase() && self.part.len() < "false".len() {
                    self.part.push(byte);
                    return Ok(1);
                }
                self.literal_ends(at, sink)?;
                return Ok(0);
            }
            _ if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') => return Ok(1),
            State::Value { or_end: true } if byte == b']' => self.close(false, at, sink)?,
            State::Value { .. } => self.value(byte, at, sink)?,
            State::Name { or_end } => match byte {
                b'"' => {
                    self.name.clear();
                    self.state = State::Text(Within {
                        name: true,
                        escape: Escape::None,
                    });
                }
                b'}' if or_end => self.close(true, at, sink)?,
                _ => return Err(Fault::Syntax(at)),
            },
            State::Colon if byte == b':' => self.state = State::Value { or_end: false },
            State::Colon => return Err(Fault::Syntax(at)),
            State::After => self.after(byte, at, sink)?,
        }
        Ok(1)
    }

    fn value(&mut self, byte: u8, at: u64, sink: &mut dyn Sink) -> Result<(), Fault> {
        if let Some(level) = self.open_level()
            && !level.object
        {
            let item = level.items;
            level.items += 1;
            self.path.push_item(item);
        }
        match byte {
            b'{' | b'[' => self.open(byte == b'{', sink)?,
            b'"' => {
                sink.take(&self.path, Event::Begin(Kind::Text));
                self.state = State::Text(Within {
                    name: false,
                    escape: Escape::None,
                });
            }
            b'-' | b'0'..=b'9' => {
                self.part.push(byte);
                self.state = State::Number;
            }
            b't' | b'f' | b'n' => {
                self.part.push(byte);
                self.state = State::Literal;
            }
            _ => return Err(Fault::Syntax(at)),
        }
        Ok(())
    }

    fn after(&mut self, byte: u8, at: u64, sink: &mut dyn Sink) -> Result<(), Fault> {
        let Some(object) = self.open_level().map(|level| level.object) else {
            return Err(Fault::Syntax(at));
        };
        match (byte, object) {
            (b',', true) => self.state = State::Name { or_end: false },
            (b',', false) => self.state = State::Value { or_end: false },
            (b'}', true) | (b']', false) => self.close(object, at, sink)?,
            _ => return Err(Fault::Syntax(at)),
        }
        Ok(())
    }

    fn open_level(&mut self) -> Option<&mut Level> {
        self.levels.get_mut(self.depth.checked_sub(1)?)
    }

    fn open(&mut self, object: bool, sink: &mut dyn Sink) -> Result<(), Fault> {
        if self.depth >= MAX_DEPTH {
            return Err(Fault::Depth);
        }
        let kind = kind(object);
        sink.take(&self.path, Event::Begin(kind));
        if self.raw.is_none() && sink.wants_raw(&self.path) {
            self.raw = Some(self.depth);
        }
        self.depth += 1;
        if self.levels.len() < self.depth {
            self.levels.push(Level::default());
        }
        if let Some(level) = self.open_level() {
            level.object = object;
            level.items = 0;
        }
        self.state = if object {
            State::Name { or_end: true }
        } else {
            State::Value { or_end: true }
        };
        Ok(())
    }

    fn close(&mut self, object: bool, at: u64, sink: &mut dyn Sink) -> Result<(), Fault> {
        if self.open_level().is_none_or(|level| level.object != object) {
            return Err(Fault::Syntax(at));
        }
        self.leave_level();
        if self.raw == Some(self.depth) {
            // Its last byte is this one: whoever reads on tells of its end, behind its bytes.
            self.raw = None;
        } else {
            self.ended(Some(kind(object)), sink);
        }
        Ok(())
    }

    /// Tells of the end of what was asked for as bytes.
    fn close_raw(&mut self, sink: &mut dyn Sink) {
        let level = self.levels.get(self.depth);
        let object = level.is_some_and(|level| level.object);
        self.ended(Some(kind(object)), sink);
    }

    fn leave_level(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        if let Some(level) = self.levels.get_mut(self.depth) {
            self.names = self.names.saturating_sub(level.names.len());
            level.names.clear();
            level.names.shrink_to(KEPT_ROOM);
        }
    }

    /// A value is over.
    fn ended(&mut self, kind: Option<Kind>, sink: &mut dyn Sink) {
        if let Some(kind) = kind {
            sink.take(&self.path, Event::End(kind));
        }
        self.path.pop();
        self.state = State::After;
    }

    fn number_ends(&mut self, at: u64, sink: &mut dyn Sink) -> Result<(), Fault> {
        let number = std::str::from_utf8(&self.part).unwrap_or_default();
        if !is_number(number) {
            return Err(Fault::Syntax(at));
        }
        sink.take(&self.path, Event::Number(number));
        self.part.clear();
        self.ended(None, sink);
        Ok(())
    }

    fn literal_ends(&mut self, at: u64, sink: &mut dyn Sink) -> Result<(), Fault> {
        let event = match self.part.as_slice() {
            b"true" => Event::Bool(true),
            b"false" => Event::Bool(false),
            b"null" => Event::Null,
            _ => return Err(Fault::Syntax(at)),
        };
        sink.take(&self.path, event);
        self.part.clear();
        self.ended(None, sink);
        Ok(())
    }

    fn text(
        &mut self,
        within: Within,
        byte: u8,
        rest: &[u8],
        at: u64,
        sink: &mut dyn Sink,
    ) -> Result<usize, Fault> {
        let to = |escape| {
            State::Text(Within {
                escape,
                name: within.name,
            })
        };
        match within.escape {
            Escape::None => return self.plain(within, rest, at, sink),
            Escape::Begun => {
                let plain = match byte {
                    b'"' | b'\\' | b'/' => char::from(byte),
                    b'b' => '\u{8}',
                    b'f' => '\u{c}',
                    b'n' => '\n',
                    b'r' => '\r',
                    b't' => '\t',
                    b'u' => {
                        self.state = to(Escape::Digits(None));
                        return Ok(1);
                    }
                    _ => return Err(Fault::Syntax(at)),
                };
                self.state = to(Escape::None);
                self.character(within, plain, at, sink)?;
            }
            Escape::Digits(half) => {
                if !byte.is_ascii_hexdigit() {
                    return Err(Fault::Syntax(at));
                }
                self.part.push(byte);
                if self.part.len() == 4 {
                    let digits = std::str::from_utf8(&self.part).unwrap_or_default();
                    let unit = u16::from_str_radix(digits, 16).map_err(|_| Fault::Syntax(at))?;
                    self.part.clear();
                    self.state = to(Escape::None);
                    match (half, unit) {
                        (None, 0xd800..=0xdbff) => self.state = to(Escape::Half(unit)),
                        (half, unit) => {
                            let units = half.into_iter().chain([unit]);
                            let character = char::decode_utf16(units).next();
                            let character =
                                character.and_then(Result::ok).ok_or(Fault::Text(at))?;
                            self.character(within, character, at, sink)?;
                        }
                    }
                }
            }
            Escape::Half(half) if byte == b'\\' => self.state = to(Escape::HalfBegun(half)),
            Escape::HalfBegun(half) if byte == b'u' => self.state = to(Escape::Digits(Some(half))),
            Escape::Half(_) | Escape::HalfBegun(_) => return Err(Fault::Text(at)),
        }
        Ok(1)
    }

    /// Text up to the next escape, the end of the string or that of the piece.
    fn plain(
        &mut self,
        within: Within,
        rest: &[u8],
        at: u64,
        sink: &mut dyn Sink,
    ) -> Result<usize, Fault> {
        if !self.part.is_empty() {
            return self.split_character(within, rest, at, sink);
        }
        let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'));
        let run = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        if run.iter().any(|byte| *byte < 0x20) {
            return Err(Fault::Syntax(at));
        }
        let (whole, cut) = match std::str::from_utf8(run) {
            Ok(text) => (text, &[][..]),
            Err(error) if error.error_len().is_none() && end.is_none() => {
                let (whole, cut) = run
                    .split_at_checked(error.valid_up_to())
                    .unwrap_or((run, &[]));
                (std::str::from_utf8(whole).unwrap_or_default(), cut)
            }
            Err(_) => return Err(Fault::Text(at)),
        };
        self.told(within, whole, at, sink)?;
        self.part.extend_from_slice(cut);
        let Some(end) = end else {
            return Ok(rest.len());
        };
        if rest.get(end) == Some(&b'\\') {
            self.state = State::Text(Within {
                escape: Escape::Begun,
                ..within
            });
        } else {
            self.text_ends(within, at, sink)?;
        }
        Ok(end + 1)
    }

    /// The rest of a character that began in the piece before.
    fn split_character(
        &mut self,
        within: Within,
        rest: &[u8],
        at: u64,
        sink: &mut dyn Sink,
    ) -> Result<usize, Fault> {
        self.part.extend(rest.first());
        let mut room = [0; 4];
        let text = match std::str::from_utf8(&self.part) {
            Ok(text) => text
                .chars()
                .next()
                .unwrap_or_default()
                .encode_utf8(&mut room),
            Err(error) if error.error_len().is_none() && self.part.len() < 4 => return Ok(1),
            Err(_) => return Err(Fault::Text(at)),
        };
        self.part.clear();
        self.told(within, text, at, sink)?;
        Ok(1)
    }

    fn character(
        &mut self,
        within: Within,
        character: char,
        at: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), Fault> {
        self.told(within, character.encode_utf8(&mut [0; 4]), at, sink)
    }

    fn told(
        &mut self,
        within: Within,
        text: &str,
        at: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), Fault> {
        if !within.name {
            if !text.is_empty() {
                sink.take(&self.path, Event::Text(text));
            }
            return Ok(());
        }
        if self.name.len() + text.len() > MAX_NAME {
            return Err(Fault::Bound(at));
        }
        self.name.push_str(text);
        Ok(())
    }

    fn text_ends(&mut self, within: Within, at: u64, sink: &mut dyn Sink) -> Result<(), Fault> {
        if !within.name {
            self.ended(Some(Kind::Text), sink);
            return Ok(());
        }
        self.names += 1;
        if self.names > MAX_NAMES {
            return Err(Fault::Bound(at));
        }
        let digest = self.hashes.hash_one(self.name.as_bytes());
        if let Some(level) = self.open_level()
            && !level.names.insert(digest)
        {
            return Err(Fault::Twice(at));
        }
        self.path.push_key(&self.name);
        self.state = State::Colon;
        Ok(())
    }
}

const fn kind(object: bool) -> Kind {
    if object { Kind::Object } else { Kind::Array }
}

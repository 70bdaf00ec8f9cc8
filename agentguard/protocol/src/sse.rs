//! Event streams (WHATWG HTML, 9.2): event by event, or in pieces as they come.

/// An event as it is dispatched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Event<'a> {
    /// Its type. Empty for `message`.
    pub kind: &'a [u8],
    /// Its lines of data. None where they are longer than the parser's bound: then none is kept.
    pub data: Option<&'a [u8]>,
    /// The id that was given last, with this event or one before it.
    pub id: &'a [u8],
}

/// A piece of an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Piece<'a> {
    /// Some of its data; between two lines of it there is `\n`.
    Data(&'a [u8]),
    /// It is dispatched.
    End {
        /// Its type. Empty for `message`.
        kind: &'a [u8],
        /// The id that was given last, with this event or one before it.
        id: &'a [u8],
    },
}

/// Reads a stream in pieces of any size. Of an event it keeps as many bytes as its bound says, twice at
/// the most: of its data, and of the line it is in. An event that is longer is still one, without its
/// data; a longer line that is no data is ignored.
#[derive(Clone, Debug)]
pub struct Parser {
    pieces: Pieces,
    bound: usize,
    data: Vec<u8>,
    too_long: bool,
}

impl Parser {
    /// For events of which up to `bound` bytes are kept.
    #[must_use]
    pub const fn new(bound: usize) -> Self {
        Self {
            pieces: Pieces::new(bound),
            bound,
            data: Vec::new(),
            too_long: false,
        }
    }

    /// As [`Pieces::is_odd`].
    #[must_use]
    pub const fn is_odd(&self) -> bool {
        self.pieces.is_odd()
    }

    /// How long the server would have a client wait before it connects again, in ms.
    #[must_use]
    pub const fn retry(&self) -> Option<u64> {
        self.pieces.retry
    }

    /// Reads on, and gives each event to `take` with the byte that ends it. An event that the end of the
    /// stream finds unfinished is none.
    pub fn push(&mut self, bytes: &[u8], take: &mut dyn FnMut(Event<'_>)) {
        let Self {
            pieces,
            bound,
            data,
            too_long,
        } = self;
        pieces.push(bytes, &mut |piece| match piece {
            Piece::Data(piece) => {
                // One byte less than the bound, as it was when a line break was kept behind it.
                *too_long |= data.len() + piece.len() >= *bound;
                if *too_long {
                    data.clear();
                } else {
                    data.extend_from_slice(piece);
                }
            }
            Piece::End { kind, id } => {
                take(Event {
                    kind,
                    data: (!*too_long).then_some(data.as_slice()),
                    id,
                });
                data.clear();
                *too_long = false;
            }
        });
    }
}

/// Reads a stream and keeps no data of it: it is told as it comes.
#[derive(Clone, Debug)]
pub struct Pieces {
    /// The most bytes of a line that are kept, where it is no data.
    bound: usize,
    /// Whether a byte-order mark may still come.
    first_line: bool,
    /// Whether the byte before was a CR, of which an LF may be the second half.
    after_cr: bool,
    line: Line,
    /// The name of the line's field as far as it came, then its value, where that is kept.
    kept: Vec<u8>,
    kind: Vec<u8>,
    id: Vec<u8>,
    /// Whether the event has a line of data.
    has_data: bool,
    /// How long to wait before connecting again, in ms.
    retry: Option<u64>,
    /// See [`Self::is_odd`].
    odd: bool,
    /// The last two bytes of the value that is no data.
    last: [u8; 2],
}

/// Where in a line, and of which field.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Line {
    Name,
    /// `space`: one that comes next is not part of the value.
    Value {
        field: Field,
        space: bool,
    },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Field {
    Data,
    Event,
    Id,
    Retry,
    /// Comments among them: they have no name.
    Ignored,
}

impl Field {
    fn of(name: &[u8]) -> Self {
        match name {
            b"data" => Self::Data,
            b"event" => Self::Event,
            b"id" => Self::Id,
            b"retry" => Self::Retry,
            _ => Self::Ignored,
        }
    }
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A name that is longer, a mark before it counted, is none of those that mean something.
const MAX_NAME: usize = 8;

impl Pieces {
    /// For lines of which up to `bound` bytes are kept, where they are no data.
    #[must_use]
    pub const fn new(bound: usize) -> Self {
        Self {
            bound,
            first_line: true,
            after_cr: false,
            line: Line::Name,
            kept: Vec::new(),
            kind: Vec::new(),
            id: Vec::new(),
            has_data: false,
            retry: None,
            odd: false,
            last: [0; 2],
        }
    }

    /// Whether there was a line that is neither a comment nor a field as anybody names one: in small letters, digits,
    /// `-` and `_`; or one that is no data, and has what ends a line for who goes by other rules (Python's `splitlines`).
    /// It is ignored here; who reads streams in another way may find something in it.
    #[must_use]
    pub const fn is_odd(&self) -> bool {
        self.odd
    }

    /// Whether nothing of another event has come since the last one ended.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.line == Line::Name && self.kept.is_empty() && self.kind.is_empty() && !self.has_data
    }

    /// Reads on. An event that the end of the stream finds unfinished has no end.
    pub fn push(&mut self, mut bytes: &[u8], take: &mut dyn FnMut(Piece<'_>)) {
        if self.after_cr
            && let Some(rest) = bytes.strip_prefix(b"\n")
        {
            bytes = rest;
            self.after_cr = false;
        }
        while let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
            let (line, rest) = bytes.split_at(end);
            self.within(line, take);
            self.line_ends(take);
            bytes = match rest {
                [b'\r', b'\n', rest @ ..] => rest,
                [b'\r'] => {
                    self.after_cr = true;
                    return;
                }
                [_, rest @ ..] => rest,
                [] => rest,
            };
        }
        if !bytes.is_empty() {
            self.after_cr = false;
            self.within(bytes, take);
        }
    }

    /// A part of a line.
    fn within(&mut self, mut part: &[u8], take: &mut dyn FnMut(Piece<'_>)) {
        if self.line == Line::Name {
            let colon = part.iter().position(|byte| *byte == b':');
            let (name, value) = part.split_at(colon.unwrap_or(part.len()));
            let room = MAX_NAME.saturating_sub(self.kept.len());
            // One byte more than fits is enough to know that it is too long.
            let name = name.get(..=room).unwrap_or(name);
            self.kept.extend_from_slice(name);
            let Some(value) = value.strip_prefix(b":") else {
                return;
            };
            self.name_ends(take);
            part = value;
        }
        let Line::Value { field, space } = self.line else {
            return;
        };
        if space && !part.is_empty() {
            part = part.strip_prefix(b" ").unwrap_or(part);
            self.line = Line::Value {
                field,
                space: false,
            };
        }
        if field != Field::Data {
            self.looks_for_lines(part);
        }
        match field {
            Field::Data if part.is_empty() => {}
            Field::Data => take(Piece::Data(part)),
            Field::Ignored => {}
            Field::Event | Field::Id | Field::Retry => {
                if part.len() >= self.bound.saturating_sub(self.kept.len()) {
                    self.line = Line::Value {
                        field: Field::Ignored,
                        space: false,
                    };
                } else {
                    self.kept.extend_from_slice(part);
                }
            }
        }
    }

    /// Looks for what else ends lines: vertical tab, form feed, separators, and U+0085, U+2028 and U+2029.
    fn looks_for_lines(&mut self, part: &[u8]) {
        for byte in part {
            self.odd |= matches!(
                (self.last, *byte),
                (_, 0x0b | 0x0c | 0x1c..=0x1e) | ([_, 0xc2], 0x85) | ([0xe2, 0x80], 0xa8 | 0xa9)
            );
            self.last = [self.last[1], *byte];
        }
    }

    /// The name of a line's field is over.
    fn name_ends(&mut self, take: &mut dyn FnMut(Piece<'_>)) {
        let mut name = self.kept.as_slice();
        if std::mem::take(&mut self.first_line) {
            name = name.strip_prefix(BYTE_ORDER_MARK).unwrap_or(name);
        }
        let field = Field::of(name);
        let names = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        self.odd |= !name.iter().all(names);
        self.kept.clear();
        self.last = [0; 2];
        self.line = Line::Value { field, space: true };
        if field == Field::Data && std::mem::replace(&mut self.has_data, true) {
            take(Piece::Data(b"\n"));
        }
    }

    fn line_ends(&mut self, take: &mut dyn FnMut(Piece<'_>)) {
        if self.line == Line::Name {
            let mark = self.first_line && self.kept == BYTE_ORDER_MARK;
            if self.kept.is_empty() || mark {
                self.first_line = false;
                self.kept.clear();
                self.dispatch(take);
                return;
            }
            self.name_ends(take);
        }
        let value = &self.kept;
        match self.line {
            Line::Value {
                field: Field::Event,
                ..
            } => value.clone_into(&mut self.kind),
            Line::Value {
                field: Field::Id, ..
            } if !value.contains(&0) => {
                value.clone_into(&mut self.id);
            }
            Line::Value {
                field: Field::Retry,
                ..
            } if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                let number = std::str::from_utf8(value).ok();
                self.retry = number.and_then(|number| number.parse().ok());
            }
            _ => {}
        }
        self.kept.clear();
        self.line = Line::Name;
    }

    fn dispatch(&mut self, take: &mut dyn FnMut(Piece<'_>)) {
        // One without a line of data is none.
        if std::mem::take(&mut self.has_data) {
            take(Piece::End {
                kind: &self.kind,
                id: &self.id,
            });
        }
        self.kind.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, Parser};

    /// Type, data and id of each event.
    type Read = Vec<(String, Option<String>, String)>;

    fn read_in(pieces: usize, bound: usize, stream: &[u8]) -> (Read, Option<u64>) {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut parser = Parser::new(bound);
        let mut read = Vec::new();
        for piece in stream.chunks(pieces) {
            parser.push(piece, &mut |Event { kind, data, id }| {
                read.push((text(kind), data.map(text), text(id)));
            });
        }
        (read, parser.retry())
    }

    fn read(bound: usize, stream: &str) -> (Read, Option<u64>) {
        let whole = read_in(usize::MAX, bound, stream.as_bytes());
        for pieces in 1..4 {
            assert_eq!(
                read_in(pieces, bound, stream.as_bytes()),
                whole,
                "{stream:?}"
            );
        }
        whole
    }

    fn event(kind: &str, data: &str, id: &str) -> (String, Option<String>, String) {
        (kind.to_owned(), Some(data.to_owned()), id.to_owned())
    }

    #[test]
    fn what_the_specification_shows() {
        // WHATWG HTML, 9.2.6, and what it says of each.
        for (stream, events) in [
            (
                "data: YHOO\ndata: +2\ndata: 10\n\n",
                vec![event("", "YHOO\n+2\n10", "")],
            ),
            (
                ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n",
                vec![event("", "first event", "1"), event("", "second event", "")],
            ),
            (
                "data\n\ndata\ndata\n\ndata:",
                vec![event("", "", ""), event("", "\n", "")],
            ),
            (
                "data:test\n\ndata: test\n\n",
                vec![event("", "test", ""), event("", "test", "")],
            ),
            (
                "event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\n",
                vec![event("add", "73857293", ""), event("remove", "2153", "")],
            ),
        ] {
            assert_eq!(read(1024, stream).0, events, "{stream:?}");
            for ends in ["\r", "\r\n"] {
                assert_eq!(
                    read(1024, &stream.replace('\n', ends)).0,
                    events,
                    "{stream:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_event_and_what_is_ignored() {
        assert_eq!(read(1024, "\u{feff}data: a\n\n").0, [event("", "a", "")]);
        assert_eq!(read(1024, "\u{feff}\u{feff}data: a\n\n").0, []);
        assert_eq!(
            read(1024, "data: a\n\u{feff}data: b\n\n").0,
            [event("", "a", "")]
        );
        assert_eq!(
            read(1024, "event: a\n\nid: 1\n\ndata: b\n\n").0,
            [event("", "b", "1")]
        );
        assert_eq!(read(1024, "Data: a\ndata : b\n data: c\n\n").0, []);
        let (events, retry) = read(1024, "retry: 10\nretry: 1x\nretry:\nid: a\0b\ndata: a\n\n");
        assert_eq!((events, retry), (vec![event("", "a", "")], Some(10)));
    }

    #[test]
    fn a_line_of_another_form_is_odd() {
        for (stream, odd) in [
            (
                "\u{feff}data: a\n: b\n:\nid: 1\nretry: 1\nx-y_1: 2\nevent\n\n",
                false,
            ),
            ("{\"a\": 1}\n\n", true),
            ("data: a\n data: b\n\n", true),
            ("Data: a\n\n", true),
            ("data : a\n\n", true),
            ("data: a\n[1]\n", true),
            // Lines for who splits a text as Python does. In data they are JSON's.
            (": a\u{2028}data: b\n", true),
            ("id: a\u{85}data: b\n", true),
            ("event: a\u{b}data: b\n", true),
            ("x: a\u{1d}", true),
            ("data: a\u{2028}b\n: \u{e9}\u{2030}\n\n", false),
        ] {
            for pieces in [1, 2, usize::MAX] {
                let mut parser = super::Pieces::new(64);
                for piece in stream.as_bytes().chunks(pieces) {
                    parser.push(piece, &mut |_| {});
                }
                assert_eq!(parser.is_odd(), odd, "{stream:?}");
            }
        }
    }

    #[test]
    fn an_event_beyond_the_bound_is_one_without_its_data() {
        let too_long = |id: &str| (String::new(), None, id.to_owned());
        let long = "x".repeat(20);
        let lines = "data: 12345\n".repeat(4);
        let stream =
            format!("data: {long}\nid: 1\n\n{lines}\n: {long}\nid: {long}\ndata: next\n\n");
        let events = [too_long("1"), too_long("1"), event("", "next", "1")];
        assert_eq!(read(20, &stream).0, events);
    }

    #[test]
    fn an_event_is_there_with_the_byte_that_ends_it() {
        for ends in ["\n", "\r", "\r\n"] {
            let mut parser = Parser::new(1024);
            let mut count = 0;
            let stream = format!("data: a{ends}{ends}");
            let (before, last) = stream.split_at(7 + ends.len() + 1);
            parser.push(&before.as_bytes()[..before.len() - 1], &mut |_| {
                panic!("{ends:?}")
            });
            parser.push(&before.as_bytes()[before.len() - 1..], &mut |_| count += 1);
            assert_eq!(count, 1, "{ends:?}");
            parser.push(last.as_bytes(), &mut |_| panic!("{ends:?}"));
        }
    }
}

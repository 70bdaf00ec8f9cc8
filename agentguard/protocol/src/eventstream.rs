//! AWS's event streams (`application/vnd.amazon.eventstream`; Smithy, "Amazon Event Stream Specification"): messages
//! with headers and a payload, which is told as it comes.
//!
//! A message begins with its length, that of its headers and a checksum (CRC-32) of these two; behind its payload
//! there is one of all of it. Both are checked: the first before anything is kept, the second when the payload has
//! passed. What is kept is the headers, up to [`MAX_HEADERS`].

mod whole;

pub use whole::{Message, message, messages};

/// The most bytes that a message may have: 24 MiB of payload, as the specification allows, its headers and the rest.
/// None of them are kept.
pub const MAX_MESSAGE: u32 = 24 * 1024 * 1024 + MAX_HEADERS + PRELUDE + CHECKSUM;

/// The most bytes of headers. The specification allows 128 KiB; services send some hundred bytes.
pub const MAX_HEADERS: u32 = 16 * 1024;

/// Two lengths and a checksum.
const PRELUDE: u32 = 12;

const CHECKSUM: u32 = 4;

/// Why a stream is not read on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// A length that no message has, or none that is read.
    #[error(
        "a message of the event stream has a length that is none, or more than {MAX_MESSAGE} bytes"
    )]
    Length,
    /// [`MAX_HEADERS`].
    #[error("a message of the event stream has more than {MAX_HEADERS} bytes of headers")]
    Headers,
    /// A checksum is not that of what came.
    #[error("a checksum of the event stream is wrong")]
    Checksum,
    /// A header cannot be read, or one that says what the message is is there twice.
    #[error("a message of the event stream has a header that cannot be read")]
    Header,
    /// It ends before its last message does.
    #[error("the event stream ends in the middle of a message")]
    Unfinished,
}

/// What a message is, by its headers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Head<'a> {
    /// `:message-type`: `event`, `exception` or `error`.
    pub message: Option<&'a str>,
    /// `:event-type`.
    pub event: Option<&'a str>,
    /// `:exception-type`.
    pub exception: Option<&'a str>,
    /// `:error-code`, of an error that the service has no type for.
    pub error: Option<&'a str>,
}

/// A piece of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Piece<'a> {
    /// One begins.
    Head(Head<'a>),
    /// Some of its payload.
    Payload(&'a [u8]),
    /// It is over, and its checksum is right.
    End,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Prelude,
    /// So many bytes of headers, then of payload.
    Headers(u32, u32),
    /// So many more bytes of payload.
    Payload(u32),
    Checksum,
    Failed(Fault),
}

/// Reads a stream in pieces of any size.
#[derive(Clone, Debug)]
pub struct Reader {
    state: State,
    /// A prelude, headers or a checksum, as far as it came.
    kept: Vec<u8>,
    checksum: crc32fast::Hasher,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            state: State::Prelude,
            kept: Vec::new(),
            checksum: crc32fast::Hasher::new(),
        }
    }
}

impl Reader {
    /// Reads on.
    ///
    /// # Errors
    /// It is no event stream, or none that is read. Nothing behind that is read.
    pub fn push(&mut self, mut bytes: &[u8], take: &mut dyn FnMut(Piece<'_>)) -> Result<(), Fault> {
        if let State::Failed(fault) = self.state {
            return Err(fault);
        }
        while !bytes.is_empty() {
            if let Err(fault) = self.step(&mut bytes, take) {
                self.kept = Vec::new();
                self.state = State::Failed(fault);
                return Err(fault);
            }
        }
        Ok(())
    }

    /// The stream ends here.
    ///
    /// # Errors
    /// It does not, or it was not read to here.
    pub fn finish(&self) -> Result<(), Fault> {
        match self.state {
            State::Prelude if self.kept.is_empty() => Ok(()),
            State::Failed(fault) => Err(fault),
            _ => Err(Fault::Unfinished),
        }
    }

    /// Whether nothing of another message has come since the last one ended.
    #[must_use]
    pub const fn is_between(&self) -> bool {
        matches!(self.state, State::Prelude) && self.kept.is_empty()
    }

    /// How many bytes at least are missing of the message in hand, or of the next one: what is behind these may be of
    /// another. None where nothing more is read.
    #[must_use]
    pub fn missing(&self) -> Option<usize> {
        let (whole, kept) = match self.state {
            State::Prelude => (PRELUDE, self.kept.len()),
            State::Headers(headers, payload) => (headers + payload + CHECKSUM, self.kept.len()),
            State::Payload(left) => (left + CHECKSUM, 0),
            State::Checksum => (CHECKSUM, self.kept.len()),
            State::Failed(_) => return None,
        };
        let whole = usize::try_from(whole).unwrap_or(usize::MAX);
        Some(whole.saturating_sub(kept))
    }

    fn step(&mut self, bytes: &mut &[u8], take: &mut dyn FnMut(Piece<'_>)) -> Result<(), Fault> {
        match self.state {
            State::Prelude => {
                if !self.keep(PRELUDE, bytes) {
                    return Ok(());
                }
                let (headers, payload) = self.prelude()?;
                self.checksum.update(&self.kept);
                self.kept.clear();
                self.state = State::Headers(headers, payload);
                if headers == 0 {
                    self.headers_end(payload, take)?;
                }
            }
            State::Headers(headers, payload) => {
                if self.keep(headers, bytes) {
                    self.checksum.update(&self.kept);
                    self.headers_end(payload, take)?;
                }
            }
            State::Payload(left) => {
                let most = usize::try_from(left).unwrap_or(usize::MAX);
                let (piece, rest) = bytes.split_at_checked(most).unwrap_or((bytes, &[]));
                *bytes = rest;
                self.checksum.update(piece);
                take(Piece::Payload(piece));
                // A piece is at most what is left.
                let left = left.saturating_sub(u32::try_from(piece.len()).unwrap_or(u32::MAX));
                self.state = State::payload(left);
            }
            State::Checksum => {
                if !self.keep(CHECKSUM, bytes) {
                    return Ok(());
                }
                let told = number(&self.kept, 0);
                self.kept.clear();
                let checksum = std::mem::take(&mut self.checksum);
                if told != Some(checksum.finalize()) {
                    return Err(Fault::Checksum);
                }
                self.state = State::Prelude;
                take(Piece::End);
            }
            State::Failed(fault) => return Err(fault),
        }
        Ok(())
    }

    /// Keeps bytes until there are as many as `length`, and says whether there are.
    fn keep(&mut self, length: u32, bytes: &mut &[u8]) -> bool {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let missing = length.saturating_sub(self.kept.len());
        let (more, rest) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
        self.kept.extend_from_slice(more);
        *bytes = rest;
        self.kept.len() >= length
    }

    /// How many bytes of headers and of payload follow a prelude.
    fn prelude(&self) -> Result<(u32, u32), Fault> {
        let field = |at| number(&self.kept, at).ok_or(Fault::Length);
        let (total, headers, checksum) = (field(0)?, field(4)?, field(8)?);
        let lengths = self.kept.get(..8).unwrap_or_default();
        if crc32fast::hash(lengths) != checksum {
            return Err(Fault::Checksum);
        }
        if total > MAX_MESSAGE {
            return Err(Fault::Length);
        }
        if headers > MAX_HEADERS {
            return Err(Fault::Headers);
        }
        let content = total.checked_sub(PRELUDE + CHECKSUM).ok_or(Fault::Length)?;
        let payload = content.checked_sub(headers).ok_or(Fault::Length)?;
        Ok((headers, payload))
    }

    fn headers_end(&mut self, payload: u32, take: &mut dyn FnMut(Piece<'_>)) -> Result<(), Fault> {
        let head = head(&self.kept)?;
        take(Piece::Head(head));
        self.kept.clear();
        self.state = State::payload(payload);
        Ok(())
    }
}

impl State {
    const fn payload(left: u32) -> Self {
        if left == 0 {
            Self::Checksum
        } else {
            Self::Payload(left)
        }
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes))
}

/// The headers: each has the length of its name, its name, the number of its type, and a value of that type.
fn head(mut bytes: &[u8]) -> Result<Head<'_>, Fault> {
    let mut head = Head::default();
    while !bytes.is_empty() {
        let header = header(&mut bytes).ok_or(Fault::Header)?;
        let (name, value) = header;
        let place = match name {
            b":message-type" => &mut head.message,
            b":event-type" => &mut head.event,
            b":exception-type" => &mut head.exception,
            b":error-code" => &mut head.error,
            _ => continue,
        };
        let value = value.and_then(|value| std::str::from_utf8(value).ok());
        let value = value.ok_or(Fault::Header)?;
        if place.replace(value).is_some() {
            return Err(Fault::Header);
        }
    }
    Ok(head)
}

/// A name and a value, where that is a text.
type Header<'a> = (&'a [u8], Option<&'a [u8]>);

fn header<'a>(bytes: &mut &'a [u8]) -> Option<Header<'a>> {
    let mut some = |length: usize| {
        let (some, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        Some(some)
    };
    let &[length] = some(1)?.first_chunk()?;
    let name = some(usize::from(length))?;
    let &[kind] = some(1)?.first_chunk()?;
    let length = match kind {
        // True, and false.
        0 | 1 => 0,
        2 => 1,
        3 => 2,
        4 => 4,
        // A long number, and a time.
        5 | 8 => 8,
        // Bytes, and a text.
        6 | 7 => usize::from(u16::from_be_bytes(*some(2)?.first_chunk()?)),
        // A UUID.
        9 => 16,
        _ => return None,
    };
    let value = some(length)?;
    Some((name, (kind == 7).then_some(value)))
}

#[cfg(test)]
mod tests;

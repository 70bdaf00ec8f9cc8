//! Content codings (RFC 9110, 8.4): what a body says once they are taken off.
//!
//! [`Codings`] reads `Content-Encoding`; a [`Decoder`] takes the bytes as they come and hands out what they
//! decode to, in pieces of at most [`PIECE`] bytes, as soon as it is there: what a server has flushed is not
//! held back. Each coding keeps its window (32 KiB of gzip and deflate, 16 MiB of brotli, 8 MiB of zstd) and one
//! piece, however much comes out of it.

mod brotli;
mod deflate;
mod gzip;
mod kept;
mod meter;
#[cfg(test)]
mod tests;
mod zstd;

use std::fmt;
use std::ops::{ControlFlow, Range};

pub use kept::Beginning;
pub use meter::{Meter, Pushed, WORK};

use deflate::Doubt;
use http::HeaderMap;
use http::header;
use meter::{COST, SLICE};

use crate::media_type::is_text;

/// The most bytes that are handed out at once.
pub const PIECE: usize = 16 * 1024;

/// The most codings on top of each other. A body with more is not decoded.
pub const MAX_CODINGS: usize = 4;

/// The most bytes of a coding's name that an error repeats.
const MAX_NAME: usize = 40;

/// A coding that is understood.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950, or what some servers take it for: RFC 1951 alone.
    Deflate,
    /// RFC 7932.
    Brotli,
    /// RFC 8878, with windows of up to 8 MiB (RFC 9659).
    Zstd,
}

impl Coding {
    fn named(name: &str) -> Option<Self> {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        // RFC 9110, 8.4.1.3: `x-gzip` is the same.
        if is("gzip") || is("x-gzip") {
            Some(Self::Gzip)
        } else if is("deflate") {
            Some(Self::Deflate)
        } else if is("br") {
            Some(Self::Brotli)
        } else if is("zstd") {
            Some(Self::Zstd)
        } else {
            None
        }
    }
}

impl fmt::Display for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        })
    }
}

/// Why `Content-Encoding` names nothing that can be decoded.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotCodings {
    /// A coding that is not known here. Its name, shortened and escaped.
    #[error("the content coding `{0}` is not known: gzip, deflate, br and zstd are")]
    Unknown(String),
    /// [`is_text`].
    #[error("its type says that it is in another character set than UTF-8")]
    Charset,
    /// More than so many.
    #[error("the content is coded more than {}", Times(*.0))]
    TooMany(usize),
}

/// How often.
struct Times(usize);

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("once"),
            times => write!(f, "{times} times"),
        }
    }
}

/// The codings of a body, in the order in which they were applied.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Codings(Vec<Coding>);

impl Codings {
    /// As [`Self::read`], of content that is to be read as text.
    ///
    /// # Errors
    /// As there, or it is said to be no UTF-8.
    pub fn of_text(fields: &HeaderMap) -> Result<Self, NotCodings> {
        match is_text(fields) {
            true => Self::read(fields),
            false => Err(NotCodings::Charset),
        }
    }

    /// Reads `Content-Encoding` (RFC 9110, 8.4). `identity` is none; names have no case.
    ///
    /// # Errors
    /// [`NotCodings`] if a body that is so coded cannot be read.
    pub fn read(fields: &HeaderMap) -> Result<Self, NotCodings> {
        let mut codings = Vec::new();
        let values = fields.get_all(header::CONTENT_ENCODING);
        for name in values
            .iter()
            .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        {
            let name = name.trim_ascii();
            if name.is_empty() || name.eq_ignore_ascii_case(b"identity") {
                continue;
            }
            let coding = std::str::from_utf8(name).ok().and_then(Coding::named);
            let Some(coding) = coding else {
                let name = name.get(..MAX_NAME).unwrap_or(name);
                return Err(NotCodings::Unknown(name.escape_ascii().to_string()));
            };
            if codings.len() == MAX_CODINGS {
                return Err(NotCodings::TooMany(MAX_CODINGS));
            }
            codings.push(coding);
        }
        Ok(Self(codings))
    }

    /// Whether the body says what it says as it is.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes of memory a decoder may come to, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        let one = |coding| match coding {
            // A window, the tables and a piece.
            Coding::Gzip | Coding::Deflate => 64 << 10,
            Coding::Brotli => 16 << 20,
            Coding::Zstd => 8 << 20,
        };
        self.iter().map(one).sum()
    }

    /// One after the other, the first applied first.
    pub fn iter(&self) -> impl Iterator<Item = Coding> {
        self.0.iter().copied()
    }
}

impl FromIterator<Coding> for Codings {
    /// The first [`MAX_CODINGS`] of them.
    fn from_iter<T: IntoIterator<Item = Coding>>(codings: T) -> Self {
        Self(codings.into_iter().take(MAX_CODINGS).collect())
    }
}

/// Why content cannot be decoded. After it, a [`Decoder`] says nothing else any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Undecodable {
    /// The bytes are not of this coding.
    #[error("the content is not {0}: {1}")]
    Corrupt(Coding, &'static str),
    /// There is more behind what the coding says is the end.
    #[error("the {0} content is followed by something else")]
    Trailing(Coding),
    /// It ended too early.
    #[error("the {0} content ends in the middle")]
    Truncated(Coding),
    /// It decodes to more than was allowed.
    #[error("the {0} content decodes to more than is allowed")]
    TooLarge(Coding),
}

/// What a coding did with its input.
struct Step {
    read: usize,
    written: usize,
}

/// A coding being taken off.
enum Stage {
    Gzip(gzip::Gzip),
    Deflate(deflate::Deflate),
    Brotli(brotli::Brotli),
    Zstd(zstd::Zstd),
}

/// One coding, with room for a piece of what comes out of it.
struct Layer {
    coding: Coding,
    stage: Stage,
    piece: Box<[u8]>,
    /// Where in `piece` is what the next one has not taken yet.
    waits: Range<usize>,
    /// Whether the next one has more to give of what it has taken.
    behind: bool,
    /// How many bytes may still come out of it.
    allowed: u64,
    begun: bool,
}

impl Layer {
    fn new(coding: Coding, allowed: u64, doubt: Doubt) -> Self {
        Self {
            coding,
            stage: match coding {
                Coding::Gzip => Stage::Gzip(gzip::Gzip::default()),
                Coding::Deflate => Stage::Deflate(deflate::Deflate::new(doubt)),
                Coding::Brotli => Stage::Brotli(brotli::Brotli::default()),
                Coding::Zstd => Stage::Zstd(zstd::Zstd::default()),
            },
            piece: vec![0; PIECE].into_boxed_slice(),
            waits: 0..0,
            behind: false,
            allowed,
            begun: false,
        }
    }

    fn step(&mut self, input: &[u8]) -> Result<Step, Undecodable> {
        self.begun |= !input.is_empty();
        if !self.begun {
            return Ok(Step {
                read: 0,
                written: 0,
            });
        }
        let step = match &mut self.stage {
            Stage::Gzip(stage) => stage.step(input, &mut self.piece),
            Stage::Deflate(stage) => stage.step(input, &mut self.piece),
            Stage::Brotli(stage) => stage.step(input, &mut self.piece),
            Stage::Zstd(stage) => stage.step(input, &mut self.piece),
        }?;
        if step.read == 0 && step.written == 0 && !input.is_empty() {
            return Err(Undecodable::Corrupt(self.coding, "it leads nowhere"));
        }
        let left = self.allowed.checked_sub(step.written as u64);
        self.allowed = left.ok_or(Undecodable::TooLarge(self.coding))?;
        Ok(step)
    }

    fn is_complete(&self) -> bool {
        let ended = match &self.stage {
            Stage::Gzip(stage) => stage.is_complete(),
            Stage::Deflate(stage) => stage.is_complete(),
            Stage::Brotli(stage) => stage.is_complete(),
            Stage::Zstd(stage) => stage.is_complete(),
        };
        ended || !self.begun
    }
}

/// Takes codings off, piece by piece.
pub struct Decoder {
    /// The one that was applied last comes first.
    layers: Vec<Layer>,
    failed: Option<Undecodable>,
    /// Who takes the pieces wanted no more.
    stopped: bool,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let codings: Vec<Coding> = self.layers.iter().rev().map(|layer| layer.coding).collect();
        f.debug_struct("Decoder")
            .field("codings", &codings)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl Decoder {
    /// For a body that is so coded. `allowed` is how many bytes may come out of each of the codings, also
    /// of one that is decoded further: a bomb need not end in many bytes to take long.
    ///
    /// `deflate` that can be read in two ways is read as it is meant; a [`Meter`] does not read it.
    #[must_use]
    pub fn new(codings: &Codings, allowed: u64) -> Self {
        let layers = codings.0.iter().rev();
        Self {
            layers: layers
                .map(|coding| Layer::new(*coding, allowed, Doubt::Zlib))
                .collect(),
            failed: None,
            stopped: false,
        }
    }

    /// Lets so many bytes more come out of each of the codings. For streams that go on, and may the longer
    /// the more of them has come in.
    pub fn allow_more(&mut self, more: u64) {
        for layer in &mut self.layers {
            layer.allowed = layer.allowed.saturating_add(more);
        }
    }

    /// Begins to count anew: `allowed` bytes may come out of each of the codings from here on.
    pub fn allow(&mut self, allowed: u64) {
        for layer in &mut self.layers {
            layer.allowed = allowed;
        }
    }

    /// Takes the next bytes of the body, and gives what they decode to to `take`, in pieces of 1 to
    /// [`PIECE`] bytes. Where `take` breaks, the rest of `bytes` and all that come later are dropped.
    ///
    /// # Errors
    /// [`Undecodable`], again at each call. What was given out before is right.
    pub fn push(
        &mut self,
        bytes: &[u8],
        take: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Undecodable> {
        let mut rest = bytes;
        loop {
            let pushed = self.push_some(rest, take)?;
            rest = rest.get(pushed.taken..).unwrap_or_default();
            if self.stopped {
                return Ok(ControlFlow::Break(()));
            }
            if pushed.done {
                return Ok(ControlFlow::Continue(()));
            }
        }
    }

    /// The same until [`WORK`] was done. Bytes that were not taken are to be pushed again, also if they are none: where it
    /// is not done, there is more of what they decode to.
    ///
    /// # Errors
    /// As of [`Decoder::push`].
    pub fn push_some(
        &mut self,
        bytes: &[u8],
        take: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<Pushed, Undecodable> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let mut pushed = Pushed::all(bytes);
        if self.stopped {
            return Ok(pushed);
        }
        match run(&mut self.layers, bytes, &mut { WORK }, take) {
            Ok((taken, Run::Paused)) => {
                pushed = Pushed { taken, done: false };
            }
            Ok((_, run)) => self.stopped = run == Run::Broken,
            Err(failed) => {
                self.failed = Some(failed);
                return Err(failed);
            }
        }
        Ok(pushed)
    }

    /// Says whether the body was all there. One without a byte is (the answer to HEAD, a 304).
    ///
    /// # Errors
    /// [`Undecodable`]: what [`Decoder::push`] said, or that it ended too early. Nothing after `take` broke.
    pub fn finish(&self) -> Result<(), Undecodable> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let open = self.layers.iter().find(|layer| !layer.is_complete());
        match open {
            Some(layer) if !self.stopped => Err(Undecodable::Truncated(layer.coding)),
            _ => Ok(()),
        }
    }
}

/// How sending bytes through layers ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Run {
    /// All was taken, and has come out.
    Done,
    /// Enough was done at once.
    Paused,
    /// Who takes the pieces wants no more.
    Broken,
}

/// Sends bytes through the first layer, and each piece of what comes out through the others, for as much work as is
/// `left`. How many were taken, and how it ended.
fn run(
    layers: &mut [Layer],
    input: &[u8],
    left: &mut usize,
    take: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<(usize, Run), Undecodable> {
    let Some((layer, others)) = layers.split_first_mut() else {
        // No more than a piece of the layer before, or what nobody has coded.
        let flow = input.chunks(PIECE).try_for_each(take);
        let run = if flow.is_break() {
            Run::Broken
        } else {
            Run::Done
        };
        return Ok((input.len(), run));
    };
    let mut taken = 0;
    loop {
        if layer.behind || !layer.waits.is_empty() {
            let waits = layer.piece.get(layer.waits.clone()).unwrap_or_default();
            let (given, run) = run(others, waits, left, take)?;
            layer.waits.start += given;
            layer.behind = run == Run::Paused;
            if run != Run::Done {
                return Ok((taken, run));
            }
        }
        if *left == 0 {
            return Ok((taken, Run::Paused));
        }
        let rest = input.get(taken..).unwrap_or_default();
        let step = layer.step(rest.get(..SLICE).unwrap_or(rest))?;
        taken += step.read;
        *left = left.saturating_sub(step.written + COST * step.read);
        layer.waits = 0..step.written;
        if step.written == 0 && taken == input.len() {
            return Ok((taken, Run::Done));
        }
    }
}

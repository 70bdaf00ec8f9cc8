//! Tokens of a text that comes bit by bit.

use super::{Tokenizer, upper};

/// Bytes that are kept of a text in which no token ends for certain. A run of characters that is longer is counted as if
/// it ended there, so that keeping and looking at it stays cheap; no bytes of it are left out.
const KEPT: usize = 256;

/// What a character is worth where tokens are estimated, in twelfths of one.
const TWELFTHS: u64 = 12;

/// Counts the tokens of a text that comes in pieces, which may end anywhere.
///
/// With a [`Tokenizer`] the count is exact for text in which no run of letters, of other signs or of spaces is longer than
/// 256 bytes, whatever the pieces; such a run may count as up to [`OVER_A_RUN`](Self::OVER_A_RUN) tokens more or fewer
/// each 256 bytes. Without one it is an estimate, the same for all pieces: a token for three letters, digits or spaces,
/// for two other signs, and for each character beyond ASCII. [`Self::most`] is a bound in either case.
#[derive(Clone, Debug)]
pub struct Counter {
    bytes: u64,
    how: How,
}

#[derive(Clone, Debug)]
enum How {
    Exact {
        tokenizer: Tokenizer,
        /// Tokens that no more text can change.
        settled: u64,
        /// The text behind them.
        kept: String,
        /// Its tokens, if no more came.
        open: u64,
    },
    Estimate {
        twelfths: u64,
    },
}

impl Counter {
    /// How many tokens a run that is longer than 256 bytes may be off, for each 256 bytes.
    pub const OVER_A_RUN: u64 = 8;

    /// Of an empty text.
    #[must_use]
    pub const fn new(tokenizer: Option<Tokenizer>) -> Self {
        let how = match tokenizer {
            Some(tokenizer) => How::Exact {
                tokenizer,
                settled: 0,
                kept: String::new(),
                open: 0,
            },
            None => How::Estimate { twelfths: 0 },
        };
        Self { bytes: 0, how }
    }

    /// Whether it counts and does not estimate.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        matches!(self.how, How::Exact { .. })
    }

    /// More of the text.
    pub fn push(&mut self, text: &str) {
        self.bytes = self.bytes.saturating_add(length(text));
        match &mut self.how {
            How::Estimate { twelfths } => {
                let worth = text.bytes().map(worth).fold(0, u64::saturating_add);
                *twelfths = twelfths.saturating_add(worth);
            }
            How::Exact {
                tokenizer,
                settled,
                kept,
                open,
            } => {
                kept.push_str(text);
                let (tokens, rest) = settle(*tokenizer, kept);
                *settled = settled.saturating_add(tokens);
                kept.drain(..rest);
                *open = tokenizer.count(kept);
                if kept.len() > KEPT {
                    *settled = settled.saturating_add(std::mem::take(open));
                    kept.clear();
                }
            }
        }
    }

    /// The tokens of the text so far, as if it ended here.
    #[must_use]
    pub const fn count(&self) -> u64 {
        match &self.how {
            How::Exact { settled, open, .. } => settled.saturating_add(*open),
            How::Estimate { twelfths } => twelfths.div_ceil(TWELFTHS),
        }
    }

    /// The tokens of the text so far, at most.
    #[must_use]
    pub const fn most(&self) -> u64 {
        upper(self.bytes)
    }
}

/// The tokens that no more text changes, and where they end.
///
/// A text is split into words, runs of signs and runs of spaces, and each is made tokens of by itself. What comes later
/// may lengthen the last of them (`wor` `ld`), or join the last two (`don` `'` and `t`, which is one word with
/// [`Tokenizer::O200k`] and `don` `'t` with [`Tokenizer::Cl100k`]; with both, lines and spaces, when another line ends):
/// how the third from the end ends is settled by what is there of the last two.
fn settle(tokenizer: Tokenizer, text: &str) -> (u64, usize) {
    let tables = tokenizer.tables();
    let (mut tokens, mut end) = (0_u64, 0_usize);
    let mut last: [Option<&str>; 2] = [None, None];
    for piece in tables.split(text) {
        let [before, latest] = last;
        if let Some(before) = before {
            tokens = tokens.saturating_add(tables.bpe.count(before.as_bytes()) as u64);
            end += before.len();
        }
        last = [latest, Some(piece)];
    }
    (tokens, end)
}

/// What a byte is worth, in twelfths of a token. A character has its worth with its first byte.
const fn worth(byte: u8) -> u64 {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b' ' => TWELFTHS / 3,
        0..0x80 => TWELFTHS / 2,
        // The rest of a character.
        0x80..0xc0 => 0,
        0xc0..0xf0 => TWELFTHS,
        0xf0.. => 2 * TWELFTHS,
    }
}

fn length(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

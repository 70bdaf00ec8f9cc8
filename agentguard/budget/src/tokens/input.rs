//! Tokens of what a model reads, counted value by value, where its bytes alone are too many for what is left.

use super::{Counter, Tokenizer};

/// Tokens around each value of a call, at most: the signs and spaces that a provider writes around it where it makes a text
/// of it, as in JSON or in the types of TypeScript (`"`, `": `, `",` and the beginning of a line; `{` and `}`), and what the
/// tokens of two texts may be more once they stand behind each other.
const AROUND_A_VALUE: u64 = 4;

/// Bytes of one text that are counted at once. A longer one is divided: see [`Counter`].
const AT_ONCE: usize = 16 * 1024;

/// How many of one sign, or spaces and ends of lines, in a row are counted. Each that follows is taken for a token: to find
/// out which of the tokens that are long runs of them are the right ones takes many times as long as anything else.
const RUN: usize = 128;

/// What was counted of a call.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counted {
    /// Tokens of all texts, names and numbers, and of what stands around values, at most.
    pub tokens: u64,
    /// Bytes that are not in it, since they may be pictures. What is none is no more tokens than these.
    pub aside: u64,
}

/// Counts the values of a call by a [`Tokenizer`].
#[derive(Clone, Debug)]
pub struct InputCounter {
    tokenizer: Tokenizer,
    counted: Counted,
    /// The text that is being read, as far as it was not counted yet.
    text: String,
    /// What was counted of it, where it is longer than is counted at once.
    begun: Option<Counter>,
    /// The last byte of it, where any that is blank is a space, and how many of these there are in a row.
    last: u8,
    row: usize,
}

impl InputCounter {
    /// Of nothing.
    #[must_use]
    pub fn new(tokenizer: Tokenizer) -> Self {
        Self {
            tokenizer,
            counted: Counted::default(),
            text: String::new(),
            begun: None,
            last: 0,
            row: 0,
        }
    }

    /// A value begins, of this name in the object that it is in, if it is in one.
    pub fn value(&mut self, name: Option<&str>) {
        self.add(AROUND_A_VALUE);
        // As a text, so that one that is a long run costs no more than such a text.
        if let Some(name) = name {
            self.text(name);
            self.ends();
        }
    }

    /// A piece of a text.
    pub fn text(&mut self, piece: &str) {
        let mut from = 0;
        for (at, byte) in piece.bytes().enumerate() {
            let kind = match byte {
                b' ' | b'\t' | b'\r' | b'\n' => b' ',
                other => other,
            };
            if kind != self.last || !(kind.is_ascii_punctuation() || kind == b' ') {
                (self.last, self.row) = (kind, 1);
                continue;
            }
            self.row = self.row.saturating_add(1);
            if self.row > RUN {
                // A character of one byte, so that it may be left out.
                self.keep(piece.get(from..at).unwrap_or_default());
                from = at + 1;
                self.add(match self.row == RUN + 1 {
                    true => 1 + Counter::OVER_A_RUN,
                    false => 1,
                });
            }
        }
        self.keep(piece.get(from..).unwrap_or_default());
    }

    fn keep(&mut self, text: &str) {
        self.text.push_str(text);
        if self.text.len() >= AT_ONCE {
            let tokenizer = self.tokenizer;
            let counter = self
                .begun
                .get_or_insert_with(|| Counter::new(Some(tokenizer)));
            counter.push(&self.text);
            self.text.clear();
            // Where a run goes on behind it.
            self.add(Counter::OVER_A_RUN);
        }
    }

    /// The text is over.
    pub fn ends(&mut self) {
        let tokens = match self.begun.take() {
            None => self.tokenizer.count(&self.text),
            Some(mut counter) => {
                counter.push(&self.text);
                counter.count()
            }
        };
        self.text.clear();
        self.row = 0;
        self.add(tokens);
    }

    /// So many bytes that may be a picture.
    pub fn aside(&mut self, bytes: u64) {
        self.counted.aside = self.counted.aside.saturating_add(bytes);
    }

    /// What was counted so far: the text that is being read is in it as far as it is longer than is counted at once.
    #[must_use]
    pub fn counted(&self) -> Counted {
        let begun = self.begun.as_ref().map_or(0, Counter::count);
        Counted {
            tokens: self.counted.tokens.saturating_add(begun),
            ..self.counted
        }
    }

    fn add(&mut self, tokens: u64) {
        self.counted.tokens = self.counted.tokens.saturating_add(tokens);
    }
}

#[cfg(test)]
mod tests;

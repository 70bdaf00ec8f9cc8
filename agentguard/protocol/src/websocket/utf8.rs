//! UTF-8 that comes in pieces.

use super::Violation;

/// Reads a text, and keeps the character that a piece has cut: three bytes at the most.
#[derive(Clone, Debug, Default)]
pub(super) struct Utf8 {
    cut: Vec<u8>,
}

impl Utf8 {
    /// Reads on.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while !self.cut.is_empty()
            && let Some((byte, rest)) = bytes.split_first()
        {
            self.cut.push(*byte);
            bytes = rest;
            match std::str::from_utf8(&self.cut) {
                Ok(_) => self.cut.clear(),
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(Violation::NotUtf8),
            }
        }
        match std::str::from_utf8(bytes) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_none() => {
                let cut = bytes.get(error.valid_up_to()..).unwrap_or_default();
                self.cut.extend_from_slice(cut);
                Ok(())
            }
            Err(_) => Err(Violation::NotUtf8),
        }
    }

    /// Ends the text.
    pub(super) fn end(&mut self) -> Result<(), Violation> {
        if self.cut.is_empty() {
            Ok(())
        } else {
            Err(Violation::NotUtf8)
        }
    }
}

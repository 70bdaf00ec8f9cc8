//! `br` (RFC 7932). Windows beyond its 16 MiB, an extension of some encoders, are refused.

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};

use super::{Coding, Step, Undecodable};

/// A body of brotli.
pub(super) struct Brotli {
    state: Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>,
    ended: bool,
}

impl Default for Brotli {
    fn default() -> Self {
        let memory = StandardAlloc::default;
        Self {
            state: Box::new(BrotliState::new_strict(memory(), memory(), memory())),
            ended: false,
        }
    }
}

impl Brotli {
    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Undecodable> {
        if self.ended {
            return match input {
                [] => Ok(Step {
                    read: 0,
                    written: 0,
                }),
                _ => Err(Undecodable::Trailing(Coding::Brotli)),
            };
        }
        let (mut left, mut read) = (input.len(), 0);
        let (mut room, mut written) = (output.len(), 0);
        let result = BrotliDecompressStream(
            &mut left,
            &mut read,
            input,
            &mut room,
            &mut written,
            output,
            &mut 0,
            &mut self.state,
        );
        match result {
            BrotliResult::ResultSuccess => self.ended = true,
            BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
            BrotliResult::ResultFailure => {
                let what = "it cannot be decompressed";
                return Err(Undecodable::Corrupt(Coding::Brotli, what));
            }
        }
        Ok(Step { read, written })
    }

    pub(super) const fn is_complete(&self) -> bool {
        self.ended
    }
}

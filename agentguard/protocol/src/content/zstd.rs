//! `zstd` (RFC 8878): one frame after the other.

use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use super::{Coding, Step, Undecodable};

/// 8 MiB: what RFC 9659 lets a sender of content use. It bounds what a decoder keeps.
const WINDOW_LOG: u32 = 23;

/// A body of zstd.
#[derive(Default)]
pub(super) struct Zstd {
    /// None before the first byte.
    inner: Option<DCtx<'static>>,
    /// Whether a frame has been begun and not ended.
    in_frame: bool,
    /// Whether it may have more to give out without more input. It takes being asked in vain for an error.
    has_more: bool,
}

impl Zstd {
    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Undecodable> {
        let corrupt = |what| Undecodable::Corrupt(Coding::Zstd, what);
        if input.is_empty() && !self.has_more {
            return Ok(Step {
                read: 0,
                written: 0,
            });
        }
        let inner = match &mut self.inner {
            Some(inner) => inner,
            none => {
                let mut inner = DCtx::try_create().ok_or(corrupt("there is no memory for it"))?;
                inner
                    .set_parameter(DParameter::WindowLogMax(WINDOW_LOG))
                    .map_err(|code| corrupt(zstd_safe::get_error_name(code)))?;
                none.insert(inner)
            }
        };
        let room = output.len();
        let mut from = InBuffer::around(input);
        let mut to = OutBuffer::around(output);
        let hint = inner
            .decompress_stream(&mut to, &mut from)
            .map_err(|code| corrupt(zstd_safe::get_error_name(code)))?;
        // 0 where a frame has been decoded and given out as a whole.
        self.in_frame = hint != 0;
        self.has_more = self.in_frame && to.pos() == room;
        Ok(Step {
            read: from.pos(),
            written: to.pos(),
        })
    }

    pub(super) const fn is_complete(&self) -> bool {
        !self.in_frame
    }
}

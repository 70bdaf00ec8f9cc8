//! Where a head or a trailer section ends.

use crate::HttpMalformed;

/// Finds the empty line, so that no byte is looked at twice however the stream is
/// split, and refuses line ends and control characters that parsers read differently.
#[derive(Debug, Default)]
pub(super) struct Lines {
    at: usize,
    line: usize,
    cr: bool,
}

impl Lines {
    /// Looks at what is new in `bytes`, which begins where the section begins. Answers with the
    /// section's length, its empty line included, once it is whole.
    pub(super) fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, HttpMalformed> {
        loop {
            let rest = bytes.get(self.at..).unwrap_or_default();
            // Nearly all of it is of no concern here.
            if !self.cr {
                let plain = |byte: &u8| *byte >= b' ' && *byte != 0x7f;
                let run = rest
                    .iter()
                    .position(|byte| !plain(byte))
                    .unwrap_or(rest.len());
                if run > 0 {
                    self.at += run;
                    self.line += run;
                    continue;
                }
            }
            let Some(byte) = rest.first() else {
                return Ok(None);
            };
            self.at += 1;
            match (self.cr, *byte) {
                (true, b'\n') if self.line == 0 => return Ok(Some(self.at)),
                (true, b'\n') => {
                    self.cr = false;
                    self.line = 0;
                }
                (true, _) => return Err(HttpMalformed::BareCr),
                (false, b'\r') => self.cr = true,
                (false, b'\n') => return Err(HttpMalformed::BareLf),
                (false, b'\t') => self.line += 1,
                (false, control) => return Err(HttpMalformed::Control(control)),
            }
        }
    }
}

//! Messages on lines, with a bound.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, BufReader};

use agentguard_local::api::MAX_LINE;

/// What a line is.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Line {
    /// A message, without what ends its line.
    Message(Bytes),
    /// One that is longer than [`MAX_LINE`]. It was read to its end, and not kept.
    Long,
}

/// Reads lines.
pub(super) struct Lines<R>(BufReader<R>);

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn of(input: R) -> Self {
        Self(BufReader::new(input))
    }

    /// The next line that is not empty; none at the end. What the end finds without one is a line.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            match self.line().await? {
                Some(Line::Message(line)) if line.trim_ascii().is_empty() => {}
                line => return Ok(line),
            }
        }
    }

    async fn line(&mut self) -> io::Result<Option<Line>> {
        let (mut line, mut long) = (Vec::new(), false);
        loop {
            let (taken, ends) = piece(&mut self.0, |piece| {
                long |= line.len() + piece.len() > MAX_LINE;
                if long {
                    line = Vec::new();
                } else {
                    line.extend_from_slice(piece);
                }
            })
            .await?;
            if ends || taken == 0 {
                if taken == 0 && line.is_empty() && !long {
                    return Ok(None);
                }
                return Ok(Some(match long {
                    true => Line::Long,
                    false => Line::Message(line.into()),
                }));
            }
        }
    }
}

/// Takes what is there of a line, and gives how much that was and whether the line is over.
async fn piece<R: AsyncBufRead + Unpin>(
    input: &mut R,
    mut take: impl FnMut(&[u8]),
) -> io::Result<(usize, bool)> {
    let here = input.fill_buf().await?;
    let end = here.iter().position(|byte| *byte == b'\n');
    let (piece, used) = match end {
        Some(end) => (here.get(..end).unwrap_or_default(), end + 1),
        None => (here, here.len()),
    };
    take(piece);
    input.consume(used);
    Ok((used, end.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &[u8]) -> Vec<Line> {
        let mut lines = Lines::of(text);
        let mut read = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            read.push(line);
        }
        read
    }

    fn message(text: &[u8]) -> Line {
        Line::Message(Bytes::copy_from_slice(text))
    }

    #[tokio::test]
    async fn lines_are_messages_and_empty_ones_are_none() {
        let lines = read(b"{}\n\n \r\n[]\r\n{\"a\":1}").await;
        assert_eq!(
            lines,
            [message(b"{}"), message(b"[]\r"), message(b"{\"a\":1}")]
        );
        assert!(read(b"").await.is_empty());
    }

    #[tokio::test]
    async fn one_that_is_too_long_is_not_kept_and_the_next_one_is_read() {
        let mut text = vec![b'x'; MAX_LINE];
        text.extend_from_slice(b"\n");
        text.extend(std::iter::repeat_n(b'y', MAX_LINE + 1));
        text.extend_from_slice(b"\n{}\n");
        let lines = read(&text).await;
        assert!(matches!(&lines[0], Line::Message(line) if line.len() == MAX_LINE));
        assert_eq!(lines[1..], [Line::Long, message(b"{}")]);
    }
}

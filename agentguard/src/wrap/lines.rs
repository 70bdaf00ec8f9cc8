//! Messages on lines, with a bound.
//!
//! A line ends with LF, CR LF or CR. The protocol knows LF alone, and JSON takes a CR between two tokens for white space;
//! but what reads lines as text (Python's standard input, Node's `readline`) ends one there. A message that is decided as
//! one would be two to such a server, the second of which nobody has seen.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, BufReader};

use agentguard_local::api::MAX_LINE;
use agentguard_protocol::jsonrpc::Outline;

/// What a line is.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Line {
    /// A message, without what ends its line.
    Message(Bytes),
    /// One that is longer than the bound. It was read to its end, and not kept: the id of what it asks, if that is known.
    Long(Option<String>),
}

/// Reads lines.
pub(super) struct Lines<R> {
    input: BufReader<R>,
    /// The most bytes of one.
    bound: usize,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Lines of up to [`MAX_LINE`].
    pub(super) fn of(input: R) -> Self {
        Self::within(input, MAX_LINE)
    }

    /// Lines of up to `bound` bytes.
    pub(super) fn within(input: R, bound: usize) -> Self {
        let input = BufReader::new(input);
        Self { input, bound }
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
        let (mut line, mut long) = (Vec::new(), None::<Outline>);
        loop {
            let (taken, ends) = piece(&mut self.input, |piece| {
                if long.is_none() && line.len() + piece.len() > self.bound {
                    long = Some(Outline::of(&std::mem::take(&mut line)));
                }
                match &mut long {
                    Some(outline) => outline.push(piece),
                    None => line.extend_from_slice(piece),
                }
            })
            .await?;
            if ends || taken == 0 {
                if taken == 0 && line.is_empty() && long.is_none() {
                    return Ok(None);
                }
                return Ok(Some(match long {
                    Some(outline) => Line::Long(outline.id().map(str::to_owned)),
                    None => Line::Message(line.into()),
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
    let end = here.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
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
            [message(b"{}"), message(b"[]"), message(b"{\"a\":1}")]
        );
        assert!(read(b"").await.is_empty());
    }

    #[tokio::test]
    async fn what_some_servers_take_for_two_lines_is_two() {
        let lines = read(b"{\"a\":\r{\"method\":\"tools/call\"}\r}\n").await;
        let expected: [&[u8]; 3] = [b"{\"a\":", b"{\"method\":\"tools/call\"}", b"}"];
        assert_eq!(lines, expected.map(message));
    }

    #[tokio::test]
    async fn one_that_is_too_long_is_not_kept_and_the_next_one_is_read() {
        let mut text = vec![b'x'; MAX_LINE];
        text.extend_from_slice(b"\n");
        text.extend(std::iter::repeat_n(b'y', MAX_LINE + 1));
        text.extend_from_slice(b"\n{\"method\":\"a\",\"params\":[");
        text.extend(std::iter::repeat_n(b'1', MAX_LINE));
        text.extend_from_slice(b"],\"id\":\"b\"}\n{}\n");
        let lines = read(&text).await;
        assert!(matches!(&lines[0], Line::Message(line) if line.len() == MAX_LINE));
        let asked = Line::Long(Some("\"b\"".to_owned()));
        assert_eq!(lines[1..], [Line::Long(None), asked, message(b"{}")]);
    }
}

//! A stream that is there as a whole, message by message, and messages that are written.

use super::{CHECKSUM, Fault, Head, Piece, Reader, head, number};

/// The number of the type of a header that is a text.
const TEXT: u8 = 7;

/// A message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Message<'a> {
    /// All of it, as it came.
    pub bytes: &'a [u8],
    /// What it is.
    pub head: Head<'a>,
    /// What it says.
    pub payload: &'a [u8],
}

/// The messages of a stream.
///
/// # Errors
/// As those of [`Reader::push`] and [`Reader::finish`].
pub fn messages(stream: &[u8]) -> Result<Vec<Message<'_>>, Fault> {
    let mut reader = Reader::default();
    let mut count = 0_usize;
    reader.push(stream, &mut |piece| {
        count += usize::from(piece == Piece::End);
    })?;
    reader.finish()?;
    let (mut rest, mut messages) = (stream, Vec::with_capacity(count));
    while !rest.is_empty() {
        let (message, behind) = split(rest).ok_or(Fault::Length)?;
        messages.push(message?);
        rest = behind;
    }
    Ok(messages)
}

/// The first message, whose lengths and checksums are right, and what is behind it.
fn split(bytes: &[u8]) -> Option<(Result<Message<'_>, Fault>, &[u8])> {
    let length = |at| usize::try_from(number(bytes, at)?).ok();
    let (message, rest) = bytes.split_at_checked(length(0)?)?;
    let (headers, payload) = message
        .get(super::PRELUDE as usize..)?
        .split_at_checked(length(4)?)?;
    let payload = payload.get(..payload.len().checked_sub(CHECKSUM as usize)?)?;
    let read = head(headers).map(|head| Message {
        bytes: message,
        head,
        payload,
    });
    Some((read, rest))
}

/// A message with these headers, which are texts. None where it has more than fits in one.
#[must_use]
pub fn message(headers: &[(&str, &str)], payload: &[u8]) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    for (name, value) in headers {
        head.push(u8::try_from(name.len()).ok()?);
        head.extend_from_slice(name.as_bytes());
        head.push(TEXT);
        head.extend_from_slice(&u16::try_from(value.len()).ok()?.to_be_bytes());
        head.extend_from_slice(value.as_bytes());
    }
    let beside = (super::PRELUDE + CHECKSUM) as usize;
    let total = head.len() + payload.len() + beside;
    let total = u32::try_from(total)
        .ok()
        .filter(|it| *it <= super::MAX_MESSAGE)?;
    let mut message = Vec::from(total.to_be_bytes());
    message.extend_from_slice(&u32::try_from(head.len()).ok()?.to_be_bytes());
    message.extend_from_slice(&crc32fast::hash(&message).to_be_bytes());
    message.extend_from_slice(&head);
    message.extend_from_slice(payload);
    message.extend_from_slice(&crc32fast::hash(&message).to_be_bytes());
    Some(message)
}

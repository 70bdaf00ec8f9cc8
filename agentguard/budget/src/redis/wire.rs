//! What goes over the wire: RESP2, as Redis and those like it speak it to whoever asks for nothing else.
//!
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>. Of the library `redis` we would use as much as is here,
//! and it brings a licence that this program does not take (BSL-1.0, by way of a hash that we never compute).

/// Bytes of one text in an answer, at most: the answers of our script have a few words.
const MAX_TEXT: usize = 64 * 1024;
/// Items of one array, at most.
const MAX_ITEMS: usize = 4096;
/// Arrays inside of arrays, at most.
const MAX_DEPTH: usize = 4;

/// An answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Reply {
    /// `+OK`.
    Status(String),
    /// `-CODE words`.
    Error(String),
    Integer(i64),
    Text(Vec<u8>),
    Nothing,
    Array(Vec<Self>),
}

/// What was read is no answer.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("it does not speak the protocol of Redis: {0}")]
pub(super) struct NoReply(&'static str);

/// Appends a command: its name and what it is about.
pub(super) fn command<'a>(into: &mut Vec<u8>, words: impl ExactSizeIterator<Item = &'a [u8]>) {
    head(into, b'*', words.len());
    for word in words {
        head(into, b'$', word.len());
        into.extend_from_slice(word);
        into.extend_from_slice(b"\r\n");
    }
}

fn head(into: &mut Vec<u8>, kind: u8, length: usize) {
    into.push(kind);
    into.extend_from_slice(length.to_string().as_bytes());
    into.extend_from_slice(b"\r\n");
}

/// Reads one answer from the beginning of what has come. None: not all of it is there. Otherwise with how long it is.
///
/// # Errors
/// It is none, or larger than any that we ask for.
pub(super) fn reply(bytes: &[u8]) -> Result<Option<(Reply, usize)>, NoReply> {
    let mut rest = bytes;
    let reply = one(&mut rest, MAX_DEPTH)?;
    Ok(reply.map(|reply| (reply, bytes.len() - rest.len())))
}

fn one(rest: &mut &[u8], depth: usize) -> Result<Option<Reply>, NoReply> {
    let Some(line) = line(rest)? else {
        return Ok(None);
    };
    let Some((kind, text)) = line.split_first() else {
        return Err(NoReply("an empty line"));
    };
    Ok(match kind {
        b'+' => Some(Reply::Status(words(text))),
        b'-' => Some(Reply::Error(words(text))),
        b':' => Some(Reply::Integer(integer(text)?)),
        b'$' => {
            let Some(length) = length(text, MAX_TEXT)? else {
                return Ok(Some(Reply::Nothing));
            };
            let Some((text, after)) = rest.split_at_checked(length) else {
                return Ok(None);
            };
            let Some((end, after)) = after.split_at_checked(2) else {
                return Ok(None);
            };
            if end != b"\r\n" {
                return Err(NoReply("a text without its end"));
            }
            *rest = after;
            Some(Reply::Text(text.to_vec()))
        }
        b'*' => {
            let Some(length) = length(text, MAX_ITEMS)? else {
                return Ok(Some(Reply::Nothing));
            };
            let Some(depth) = depth.checked_sub(1) else {
                return Err(NoReply("arrays inside of arrays"));
            };
            let mut items = Vec::new();
            for _ in 0..length {
                match one(rest, depth)? {
                    Some(item) => items.push(item),
                    None => return Ok(None),
                }
            }
            Some(Reply::Array(items))
        }
        _ => return Err(NoReply("a line that begins with none of `+-:$*`")),
    })
}

/// The next line, without its end.
fn line<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, NoReply> {
    let Some(end) = rest.windows(2).position(|it| it == b"\r\n") else {
        return match rest.len() > MAX_TEXT {
            true => Err(NoReply("a line without an end")),
            false => Ok(None),
        };
    };
    let (line, after) = rest.split_at(end);
    *rest = after.get(2..).unwrap_or_default();
    Ok(Some(line))
}

fn integer(text: &[u8]) -> Result<i64, NoReply> {
    let text = std::str::from_utf8(text).map_err(|_| NoReply("a number that is none"))?;
    text.parse().map_err(|_| NoReply("a number that is none"))
}

/// None: `-1`, which stands for nothing.
fn length(text: &[u8], most: usize) -> Result<Option<usize>, NoReply> {
    match integer(text)? {
        -1 => Ok(None),
        length => match usize::try_from(length) {
            Ok(length) if length <= most => Ok(Some(length)),
            _ => Err(NoReply("a length that is too large")),
        },
    }
}

fn words(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Reply, command, reply};

    #[test]
    fn commands_and_replies_are_as_the_specification_has_them() {
        let mut bytes = Vec::new();
        let words: [&[u8]; 2] = [b"LLEN", b"my list"];
        command(&mut bytes, words.into_iter());
        assert_eq!(bytes, b"*2\r\n$4\r\nLLEN\r\n$7\r\nmy list\r\n");
        let cases: [(&[u8], Reply); 7] = [
            (b"+OK\r\n", Reply::Status("OK".into())),
            (b"-ERR no\r\n", Reply::Error("ERR no".into())),
            (b":-12\r\n", Reply::Integer(-12)),
            (b"$5\r\nhe\r\no\r\n", Reply::Text(b"he\r\no".to_vec())),
            (b"$-1\r\n", Reply::Nothing),
            (b"*-1\r\n", Reply::Nothing),
            (
                b"*2\r\n:1\r\n*1\r\n$0\r\n\r\n",
                Reply::Array(vec![
                    Reply::Integer(1),
                    Reply::Array(vec![Reply::Text(Vec::new())]),
                ]),
            ),
        ];
        for (bytes, wanted) in cases {
            assert_eq!(reply(bytes), Ok(Some((wanted.clone(), bytes.len()))));
            for length in 0..bytes.len() {
                assert_eq!(reply(&bytes[..length]), Ok(None), "{bytes:?} {length}");
            }
            let longer = [bytes, b"+more"].concat();
            assert_eq!(reply(&longer), Ok(Some((wanted, bytes.len()))));
        }
    }

    #[test]
    fn what_is_no_reply_is_told() {
        let deep = b"*1\r\n".repeat(5);
        let cases: [&[u8]; 7] = [
            b"HTTP/1.1 400\r\n",
            b"\r\n",
            b":x\r\n",
            b"$-2\r\n",
            b"$99999999\r\n",
            b"$1\r\nabc",
            &deep,
        ];
        for bytes in cases {
            assert!(reply(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some((_, length))) = reply(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}

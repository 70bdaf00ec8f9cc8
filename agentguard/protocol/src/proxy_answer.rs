//! What a proxy answers when it is asked for a tunnel (RFC 9110, 9.3.6).

use crate::tunnel::Progress;

/// Bytes of an answer's head, at most.
pub const MAX_ANSWER: usize = 16 * 1024;
/// Fields of it, at most.
const MAX_FIELDS: usize = 64;

/// Why an answer cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AnswerMalformed {
    /// It is no head of an HTTP/1 response, or one with more than 64 fields.
    #[error("its answer is not HTTP")]
    NotHttp,
    /// It goes on beyond [`MAX_ANSWER`].
    #[error("the head of its answer has more than {MAX_ANSWER} bytes")]
    TooLong,
}

/// Reads the head of a response from the start of a stream: its status. What is behind a head with a
/// status of 200 to 299 belongs to the tunnel, whatever its fields say of a body; the other fields
/// mean nothing here.
///
/// # Errors
/// [`AnswerMalformed`].
pub fn read_answer(bytes: &[u8]) -> Result<Progress<u16>, AnswerMalformed> {
    let head = bytes.get(..MAX_ANSWER).unwrap_or(bytes);
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(head) {
        Ok(httparse::Status::Complete(used)) => match response.code {
            Some(code) => Ok(Progress::Done(code, used)),
            None => Err(AnswerMalformed::NotHttp),
        },
        Ok(httparse::Status::Partial) if bytes.len() >= MAX_ANSWER => Err(AnswerMalformed::TooLong),
        Ok(httparse::Status::Partial) => Ok(Progress::NeedMore),
        Err(_) => Err(AnswerMalformed::NotHttp),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{AnswerMalformed, MAX_ANSWER, read_answer};
    use crate::tunnel::Progress;

    #[test]
    fn the_status_is_read_and_what_is_behind_the_head_is_left() {
        for (text, expected) in [
            (
                "HTTP/1.1 200 Connection established\r\n\r\n\x16\x03",
                Ok(Progress::Done(200, 39)),
            ),
            (
                "HTTP/1.0 200\r\nContent-Length: 9\r\n\r\nSSH-2.0",
                Ok(Progress::Done(200, 35)),
            ),
            (
                "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n",
                Ok(Progress::Done(407, 73)),
            ),
            ("HTTP/1.1 200 OK\r\n", Ok(Progress::NeedMore)),
            ("", Ok(Progress::NeedMore)),
            ("SSH-2.0-OpenSSH\r\n", Err(AnswerMalformed::NotHttp)),
            ("HTTP/2 200 OK\r\n\r\n", Err(AnswerMalformed::NotHttp)),
            ("HTTP/1.1 2000 OK\r\n\r\n", Err(AnswerMalformed::NotHttp)),
            ("\x15\x03\x01\x00\x02", Err(AnswerMalformed::NotHttp)),
        ] {
            assert_eq!(read_answer(text.as_bytes()), expected, "{text:?}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(MAX_ANSWER));
        assert_eq!(read_answer(long.as_bytes()), Err(AnswerMalformed::TooLong));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(65));
        assert_eq!(read_answer(many.as_bytes()), Err(AnswerMalformed::NotHttp));
    }

    proptest! {
        /// However it arrives: nothing but the whole head is taken, and it says the same.
        #[test]
        fn any_split_of_an_answer_reads_the_same(
            status in 100_u16..600,
            field in "[ -~]{0,60}",
            behind in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let head = format!("HTTP/1.1 {status} x\r\nA: {field}\r\n\r\n");
            let whole = [head.as_bytes(), &behind].concat();
            prop_assert_eq!(read_answer(&whole), Ok(Progress::Done(status, head.len())));
            for end in 0..head.len() {
                prop_assert_eq!(read_answer(&whole[..end]), Ok(Progress::NeedMore));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused_and_never_beyond_their_end(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            begins in any::<bool>(),
        ) {
            let first: &[u8] = if begins { b"HTTP/1.1 200 OK\r\n" } else { b"" };
            let bytes = [first, &bytes].concat();
            if let Ok(Progress::Done(_, used)) = read_answer(&bytes) {
                prop_assert!(used <= bytes.len());
            }
        }
    }
}

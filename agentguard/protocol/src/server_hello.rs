//! What a server answers to a ClientHello, as far as it matters for what the client may say next.

/// What the first handshake message is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// More bytes are needed.
    NeedMore,
    /// A HelloRetryRequest (RFC 8446, 4.1.4): the client says its hello again.
    Retry,
    /// Anything else.
    Other,
}

/// What a ServerHello has for its random number that asks for another hello (RFC 8446, 4.1.3).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const SERVER_HELLO: u8 = 2;

/// Reads the beginning of a server's stream, in pieces of any size. It keeps 43 bytes at the most.
#[derive(Clone, Debug, Default)]
pub struct AnswerReader {
    /// What there is of a record's head.
    head: Vec<u8>,
    /// What is left of a record.
    left: usize,
    /// The first message, up to its random number.
    message: Vec<u8>,
}

impl AnswerReader {
    /// Takes the next bytes. To be called no more after it gave anything but [`Answer::NeedMore`].
    pub fn push(&mut self, bytes: &[u8]) -> Answer {
        for byte in bytes {
            let answer = self.byte(*byte);
            if answer != Answer::NeedMore {
                return answer;
            }
        }
        Answer::NeedMore
    }

    fn byte(&mut self, byte: u8) -> Answer {
        if self.left == 0 {
            self.head.push(byte);
            if let [kind, _, _, high, low] = *self.head {
                self.left = usize::from(u16::from_be_bytes([high, low]));
                if !matches!(kind, CHANGE_CIPHER_SPEC | ALERT | HANDSHAKE) {
                    return Answer::Other;
                }
                if self.left == 0 {
                    self.head.clear();
                }
            }
            return Answer::NeedMore;
        }
        self.left -= 1;
        if self.head.first() == Some(&HANDSHAKE) {
            self.message.push(byte);
        }
        if self.left == 0 {
            self.head.clear();
        }
        // A type, a length of 3 bytes, a version of 2.
        match self.message.as_slice() {
            [] => Answer::NeedMore,
            [SERVER_HELLO, _, _, _, _, _, random @ ..] if random.len() >= RETRY.len() => {
                if *random == RETRY {
                    Answer::Retry
                } else {
                    Answer::Other
                }
            }
            [SERVER_HELLO, ..] => Answer::NeedMore,
            _ => Answer::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, AnswerReader, RETRY};

    fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 3, 3][..], &length, payload].concat()
    }

    fn hello(random: [u8; 32]) -> Vec<u8> {
        [&[2, 0, 0, 70, 3, 3][..], &random, &[0; 36]].concat()
    }

    #[test]
    fn a_retry_is_told_from_everything_else_in_records_of_any_shape() {
        let retry = hello(RETRY);
        let cut = [record(22, &retry[..10]), record(22, &retry[10..])].concat();
        let warned = [record(21, &[1, 112]), record(22, &retry)].concat();
        for (bytes, expected) in [
            (record(22, &retry), Answer::Retry),
            (cut, Answer::Retry),
            (warned, Answer::Retry),
            (record(22, &hello([7; 32])), Answer::Other),
            (record(22, &[11, 0, 0, 1, 0]), Answer::Other),
            (record(21, &[2, 40]), Answer::NeedMore),
            (b"HTTP/1.1 400 Bad Request".to_vec(), Answer::Other),
        ] {
            for size in [1, 5, 7, bytes.len()] {
                let mut reader = AnswerReader::default();
                let mut pieces = bytes.chunks(size);
                let answer = pieces.find_map(|piece| {
                    let answer = reader.push(piece);
                    (answer != Answer::NeedMore).then_some(answer)
                });
                assert_eq!(answer.unwrap_or(Answer::NeedMore), expected, "{bytes:x?}");
            }
        }
    }
}

//! A frame's head (RFC 6455, 5.2).

use super::{Side, Violation};

/// The most bytes of a head: two, a length of eight, a mask of four.
pub(super) const MAX_HEAD: usize = 14;

/// The most bytes of a control frame's payload.
pub(super) const MAX_CONTROL: usize = 125;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV2_AND_3: u8 = 0x30;
const MASKED: u8 = 0x80;

/// What a frame is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Opcode {
    /// The message goes on.
    Continuation,
    /// A message of text begins.
    Text,
    /// A message of bytes begins.
    Binary,
    /// Its sender sends no more.
    Close,
    /// It wants to know whether somebody is there.
    Ping,
    /// Somebody is.
    Pong,
}

impl Opcode {
    fn of(bits: u8) -> Result<Self, Violation> {
        match bits {
            0 => Ok(Self::Continuation),
            1 => Ok(Self::Text),
            2 => Ok(Self::Binary),
            8 => Ok(Self::Close),
            9 => Ok(Self::Ping),
            10 => Ok(Self::Pong),
            bits => Err(Violation::Opcode(bits)),
        }
    }

    /// Whether it may stand between the frames of a message.
    #[must_use]
    pub const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// What stands before a frame's payload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    /// Whether its message ends with it.
    pub fin: bool,
    /// Whether its message is deflated (RFC 7692, 6): RSV1 of the first frame.
    pub deflated: bool,
    /// What it is.
    pub opcode: Opcode,
    /// What its payload is masked with.
    pub mask: Option<[u8; 4]>,
    /// How long its payload is.
    pub length: u64,
}

impl Head {
    /// Reads a head of a frame of this side's, and says how many bytes it has. None if it is not whole.
    pub(super) fn read(bytes: &[u8], side: Side) -> Result<Option<(Self, usize)>, Violation> {
        let [first, second, rest @ ..] = bytes else {
            return Ok(None);
        };
        if first & RSV2_AND_3 != 0 {
            return Err(Violation::ReservedBit);
        }
        let opcode = Opcode::of(first & 0x0f)?;
        match (side, second & MASKED != 0) {
            (Side::Client, false) => return Err(Violation::NotMasked),
            (Side::Server, true) => return Err(Violation::Masked),
            _ => {}
        }
        let fin = first & FIN != 0;
        let short = second & !MASKED;
        if opcode.is_control() {
            if usize::from(short) > MAX_CONTROL {
                return Err(Violation::ControlTooLong);
            }
            if !fin {
                return Err(Violation::ControlFragmented);
            }
        }
        let Some((length, rest)) = length(short, rest)? else {
            return Ok(None);
        };
        let (mask, rest) = match side {
            Side::Server => (None, rest),
            Side::Client => match rest.split_first_chunk() {
                Some((mask, rest)) => (Some(*mask), rest),
                None => return Ok(None),
            },
        };
        let head = Self {
            fin,
            deflated: first & RSV1 != 0,
            opcode,
            mask,
            length,
        };
        Ok(Some((head, bytes.len() - rest.len())))
    }
}

/// A server's text, in one frame.
#[must_use]
pub fn text_frame(text: &[u8]) -> Vec<u8> {
    let mut frame = text_head(text.len(), 0);
    frame.extend_from_slice(text);
    frame
}

/// A client's text, in one frame.
#[must_use]
pub fn masked_text_frame(text: &[u8], key: [u8; 4]) -> Vec<u8> {
    let mut frame = text_head(text.len(), MASKED);
    frame.extend_from_slice(&key);
    let payload = frame.len();
    frame.extend_from_slice(text);
    if let Some(payload) = frame.get_mut(payload..) {
        mask(key, 0, payload);
    }
    frame
}

/// A head but for its mask.
fn text_head(length: usize, masked: u8) -> Vec<u8> {
    let mut head = vec![FIN | 1];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..=125), _) => head.push(masked | short),
        (_, Ok(length)) => {
            head.push(masked | 126);
            head.extend(length.to_be_bytes());
        }
        _ => {
            head.push(masked | 127);
            head.extend((length as u64).to_be_bytes());
        }
    }
    head
}

/// The length behind the first two bytes, which must be the shortest way to say it.
fn length(short: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, Violation> {
    let (length, rest, least) = match short {
        126 => match rest.split_first_chunk() {
            Some((bytes, rest)) => (u16::from_be_bytes(*bytes).into(), rest, 126),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((bytes, rest)) => (u64::from_be_bytes(*bytes), rest, 1 << 16),
            None => return Ok(None),
        },
        short => (short.into(), rest, 0),
    };
    if length < least {
        return Err(Violation::LengthNotMinimal);
    }
    if length >> 63 != 0 {
        return Err(Violation::LengthTooLong);
    }
    Ok(Some((length, rest)))
}

/// Takes a mask off, or puts it on, from this place of the payload on (RFC 6455, 5.3).
pub(super) fn mask(key: [u8; 4], place: u64, bytes: &mut [u8]) {
    let [low, ..] = place.to_le_bytes();
    let key = u32::from_le_bytes(key).rotate_right(u32::from(low % 4) * 8);
    let key = key.to_le_bytes();
    for chunk in bytes.chunks_mut(4) {
        for (byte, key) in chunk.iter_mut().zip(key) {
            *byte ^= key;
        }
    }
}

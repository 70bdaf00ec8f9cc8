//! Close frames (RFC 6455, 5.5.1 and 7.4).

use super::{Side, Violation, frame};

/// Its sender goes away.
pub const GOING_AWAY: u16 = 1001;
/// What was received is no WebSocket.
pub const PROTOCOL_ERROR: u16 = 1002;
/// A text was not UTF-8.
pub const INVALID_DATA: u16 = 1007;
/// A policy forbids it.
pub const POLICY_VIOLATION: u16 = 1008;
/// It cannot be carried on, for no fault of the receiver's.
pub const INTERNAL_ERROR: u16 = 1011;

/// The most bytes of a reason: a control frame has 125, and the code takes two.
pub const MAX_REASON: usize = 123;

/// Checks a Close frame's payload, and gives its code.
pub(super) fn read(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return match payload {
            [] => Ok(None),
            _ => Err(Violation::CloseLength),
        };
    };
    let code = u16::from_be_bytes(*code);
    // RFC 6455, 7.4, and IANA's registry: 1004 to 1006 and 1015 are never sent, 1012 to 1014 were added.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::CloseCode(code));
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(Some(code)),
        Err(_) => Err(Violation::NotUtf8),
    }
}

/// A Close frame of this side's, with as much of the sentence as there is room for, and all of what must
/// not be cut behind it.
#[must_use]
pub fn frame(side: Side, code: u16, sentence: &str, behind: &str) -> Vec<u8> {
    const CUT: &str = "…";
    let room = MAX_REASON.saturating_sub(behind.len());
    let mut reason = sentence.to_owned();
    if sentence.len() > room {
        let end = sentence.floor_char_boundary(room.saturating_sub(CUT.len()));
        reason.truncate(end);
        reason.push_str(CUT);
    }
    reason.push_str(behind);
    reason.truncate(reason.floor_char_boundary(MAX_REASON));
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.as_bytes());
    let length = u8::try_from(payload.len()).unwrap_or_default();
    match side {
        Side::Server => [&[0x88, length][..], &payload].concat(),
        Side::Client => {
            // Masks are against senders that choose what stands on the wire (RFC 6455, 10.3). Nobody
            // chooses this.
            const MASK: [u8; 4] = *b"mask";
            frame::mask(MASK, 0, &mut payload);
            [&[0x88, 0x80 | length][..], &MASK, &payload].concat()
        }
    }
}

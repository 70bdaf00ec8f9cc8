//! WebSocket (RFC 6455), as it is carried: what passes is what came, and only what one reading has.
//!
//! - [`Reader`] reads the frames of one side and refuses what the other side would have to.
//! - [`extensions`] says which extensions two sides may agree on: permessage-deflate alone (RFC 7692).
//! - [`Assembler`] puts a message together again, inflated, within a bound.
//! - [`close`] is how a connection is ended in words.

mod assembler;
pub mod close;
pub mod extensions;
mod frame;
mod reader;
#[cfg(test)]
mod tests;
mod utf8;

pub use assembler::{Assembler, Message};
pub use frame::{Head, Opcode, masked_text_frame, text_frame};
pub use reader::{Ends, Part, Reader};

/// Whose frames they are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// Its frames are masked.
    Client,
    /// Its frames are not.
    Server,
}

/// What is no WebSocket.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Violation {
    /// A client's frame has no mask (RFC 6455, 5.1).
    #[error("a frame of the client's is not masked (RFC 6455, 5.1)")]
    NotMasked,
    /// A server's frame has one.
    #[error("a frame of the server's is masked (RFC 6455, 5.1)")]
    Masked,
    /// A bit that no extension has given a meaning (RFC 6455, 5.2).
    #[error("a frame has a reserved bit set that nothing was agreed on for (RFC 6455, 5.2)")]
    ReservedBit,
    /// An opcode that has no meaning.
    #[error("the opcode {0} is reserved (RFC 6455, 5.2)")]
    Opcode(u8),
    /// A length in more bytes than it takes.
    #[error("a frame's length takes more bytes than it has to (RFC 6455, 5.2)")]
    LengthNotMinimal,
    /// A length of more than 63 bits.
    #[error("a frame's length has its highest bit set (RFC 6455, 5.2)")]
    LengthTooLong,
    /// A control frame with more than 125 bytes.
    #[error("a control frame is longer than 125 bytes (RFC 6455, 5.5)")]
    ControlTooLong,
    /// A control frame that is not the whole of its message.
    #[error("a control frame is fragmented (RFC 6455, 5.5)")]
    ControlFragmented,
    /// There is nothing to continue.
    #[error("a frame continues a message that was not begun (RFC 6455, 5.4)")]
    NothingToContinue,
    /// A message begins inside another one.
    #[error("a message begins before the one before it has ended (RFC 6455, 5.4)")]
    NotContinued,
    /// A Close frame with one byte.
    #[error("a Close frame has half a code (RFC 6455, 5.5.1)")]
    CloseLength,
    /// A Close frame with a code that nobody may send.
    #[error("a Close frame has the code {0}, which may not be sent (RFC 6455, 7.4)")]
    CloseCode(u16),
    /// A text, or a reason, is not UTF-8.
    #[error("a text is not UTF-8 (RFC 6455, 8.1)")]
    NotUtf8,
    /// A message that is said to be deflated is not.
    #[error("a message cannot be inflated (RFC 7692, 7.2.2)")]
    NotDeflated,
}

impl Violation {
    /// The code to close the connection with (RFC 6455, 7.4.1).
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::NotUtf8 => close::INVALID_DATA,
            _ => close::PROTOCOL_ERROR,
        }
    }
}

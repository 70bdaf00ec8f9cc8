//! The frames of one side.

use super::frame::{self, MAX_CONTROL, MAX_HEAD};
use super::utf8::Utf8;
use super::{Head, Opcode, Side, Violation, close};

/// What ends with a piece of a payload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ends {
    /// Nothing.
    Nothing,
    /// The frame. The message goes on.
    Frame,
    /// Frame and message.
    Message,
}

/// What is next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part<'a> {
    /// A control frame as a whole.
    Control {
        /// How many bytes it has.
        used: usize,
        /// Which it is.
        opcode: Opcode,
        /// Of a Close frame, if it has one.
        code: Option<u16>,
    },
    /// A frame of a message begins; pieces of its payload follow, one at least.
    Head {
        /// How many bytes it has.
        used: usize,
        /// What it says.
        head: Head,
    },
    /// A piece of a payload, or the end of an empty one.
    Payload {
        /// How many bytes it has.
        used: usize,
        /// What they say, without the mask.
        plain: &'a [u8],
        /// Whether something ends with it.
        ends: Ends,
    },
    /// Its sender has closed. What comes behind a Close frame means nothing (RFC 6455, 1.4).
    Ignored {
        /// How many bytes there are.
        used: usize,
    },
}

/// A frame of a message whose payload is being read.
#[derive(Debug)]
struct Frame {
    head: Head,
    read: u64,
}

/// A message that has been begun.
#[derive(Debug)]
struct Begun {
    /// Of a text that is not deflated. A deflated one is read by who inflates it.
    text: Option<Utf8>,
}

/// Reads the frames of one side, in pieces of any size. It keeps no payload; of a text, which must be
/// UTF-8, the character that a piece has cut.
#[derive(Debug)]
pub struct Reader {
    side: Side,
    /// Whether permessage-deflate was agreed on.
    deflate: bool,
    message: Option<Begun>,
    frame: Option<Frame>,
    closed: bool,
    plain: Vec<u8>,
}

impl Reader {
    /// How many bytes have to be there at once for [`Reader::next`] never to ask for more in vain.
    pub const MOST_NEEDED: usize = MAX_HEAD + MAX_CONTROL;

    /// Of this side, where deflated messages have or have not been agreed on.
    #[must_use]
    pub const fn new(side: Side, deflate: bool) -> Self {
        Self {
            side,
            deflate,
            message: None,
            frame: None,
            closed: false,
            plain: Vec::new(),
        }
    }

    /// Whether the side has sent a Close frame.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Says what the next bytes are. None: there are too few of them to say; have more, up to
    /// [`Reader::MOST_NEEDED`]. The bytes that are used are not to be given again.
    ///
    /// # Errors
    /// A [`Violation`]. The reader is of no use any more.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Option<Part<'_>>, Violation> {
        if self.closed {
            let used = bytes.len();
            return Ok((used > 0).then_some(Part::Ignored { used }));
        }
        if self.frame.is_some() {
            return self.payload(bytes);
        }
        let Some((head, used)) = Head::read(bytes, self.side)? else {
            return Ok(None);
        };
        if head.opcode.is_control() {
            return self.control(head, used, bytes);
        }
        self.begin(&head)?;
        self.frame = Some(Frame { head, read: 0 });
        Ok(Some(Part::Head { used, head }))
    }

    /// Checks that a frame fits where it stands (RFC 6455, 5.4; RFC 7692, 6.1).
    fn begin(&mut self, head: &Head) -> Result<(), Violation> {
        match (head.opcode, &self.message) {
            (Opcode::Continuation, None) => return Err(Violation::NothingToContinue),
            (Opcode::Continuation, Some(_)) if head.deflated => return Err(Violation::ReservedBit),
            (Opcode::Continuation, Some(_)) => return Ok(()),
            (_, Some(_)) => return Err(Violation::NotContinued),
            (_, None) => {}
        }
        if head.deflated && !self.deflate {
            return Err(Violation::ReservedBit);
        }
        let text = head.opcode == Opcode::Text && !head.deflated;
        self.message = Some(Begun {
            text: text.then(Utf8::default),
        });
        Ok(())
    }

    fn control(
        &mut self,
        head: Head,
        used: usize,
        bytes: &[u8],
    ) -> Result<Option<Part<'_>>, Violation> {
        if head.deflated {
            return Err(Violation::ReservedBit);
        }
        let length = usize::try_from(head.length).unwrap_or(usize::MAX);
        let Some(payload) = bytes.get(used..used.saturating_add(length)) else {
            return Ok(None);
        };
        let mut code = None;
        if head.opcode == Opcode::Close {
            let mut payload = payload.to_vec();
            if let Some(key) = head.mask {
                frame::mask(key, 0, &mut payload);
            }
            code = close::read(&payload)?;
            self.closed = true;
        }
        Ok(Some(Part::Control {
            used: used + length,
            opcode: head.opcode,
            code,
        }))
    }

    fn payload(&mut self, bytes: &[u8]) -> Result<Option<Part<'_>>, Violation> {
        let Some(frame) = &mut self.frame else {
            return Ok(None);
        };
        let left = frame.head.length - frame.read;
        let used = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        if used == 0 && left > 0 {
            return Ok(None);
        }
        self.plain.clear();
        self.plain
            .extend_from_slice(bytes.get(..used).unwrap_or_default());
        if let Some(key) = frame.head.mask {
            frame::mask(key, frame.read, &mut self.plain);
        }
        frame.read += used as u64;
        let ends = match (frame.read == frame.head.length, frame.head.fin) {
            (false, _) => Ends::Nothing,
            (true, false) => Ends::Frame,
            (true, true) => Ends::Message,
        };
        if let Some(text) = self.message.as_mut().and_then(|begun| begun.text.as_mut()) {
            text.push(&self.plain)?;
            if ends == Ends::Message {
                text.end()?;
            }
        }
        if ends != Ends::Nothing {
            self.frame = None;
        }
        if ends == Ends::Message {
            self.message = None;
        }
        Ok(Some(Part::Payload {
            used,
            plain: &self.plain,
            ends,
        }))
    }
}

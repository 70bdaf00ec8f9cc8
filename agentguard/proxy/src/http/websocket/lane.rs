//! One direction.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use agentguard_protocol::websocket::{Ends, Opcode, Part, Reader, Side};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::hold::Hold;
use super::{Closes, Stopped};
use crate::pump::Ended;

/// Where a direction is written to. It knows what it has taken also when the writing is given up in
/// the middle.
pub(super) struct Out<'a, W> {
    writer: W,
    pending: BytesMut,
    in_frame: bool,
    closed: bool,
    written: &'a AtomicU64,
}

impl<'a, W: AsyncWrite + Unpin> Out<'a, W> {
    /// `written` counts the bytes.
    pub(super) fn new(writer: W, written: &'a AtomicU64) -> Self {
        Self {
            writer,
            pending: BytesMut::new(),
            in_frame: false,
            closed: false,
            written,
        }
    }

    /// Whether the last frame that was begun has not been taken as a whole.
    pub(super) const fn is_in_frame(&self) -> bool {
        self.in_frame
    }

    /// Whether a Close frame has been taken.
    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// The writer, and what has been taken and not been written.
    pub(super) fn into_inner(self) -> (W, Vec<u8>) {
        (self.writer, self.pending.to_vec())
    }

    fn take(&mut self, bytes: &[u8], in_frame: bool) {
        self.pending.extend_from_slice(bytes);
        self.in_frame = in_frame;
    }

    async fn flush(&mut self) -> io::Result<()> {
        while self.pending.has_remaining() {
            match self.writer.write_buf(&mut self.pending).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => {
                    self.written.fetch_add(written as u64, Ordering::Relaxed);
                }
            }
        }
        self.writer.flush().await
    }
}

/// Reads the frames of one side and passes them on.
pub(super) struct Lane {
    side: Side,
    frames: Reader,
    /// What is held of what was read, at most; it is also how large a frame is passed on as a whole.
    buffer: usize,
    input: BytesMut,
    /// A frame, as far as it is there.
    frame: BytesMut,
    /// Whether that is passed on piece by piece.
    large: bool,
    /// Whether more of the frame in hand is to come.
    in_frame: bool,
    /// Whether the side's Close frame has been passed on.
    closed: bool,
}

impl Lane {
    /// From this side. `replay` is what has been read of it already.
    pub(super) fn new(side: Side, deflate: bool, buffer: usize, replay: &[u8]) -> Self {
        Self {
            side,
            frames: Reader::new(side, deflate),
            buffer: buffer.max(Reader::MOST_NEEDED),
            input: replay.into(),
            frame: BytesMut::new(),
            large: false,
            in_frame: false,
            closed: false,
        }
    }

    /// Passes on what comes, and counts the messages. It reads no further while it cannot write.
    pub(super) async fn run(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        out: &mut Out<'_, impl AsyncWrite + Unpin>,
        hold: &mut impl Hold,
        messages: &AtomicU64,
        closes: &Closes,
    ) -> Result<Ended, Stopped> {
        loop {
            while self.next(out, hold, messages).await? {
                while let Some((piece, more)) = hold.release() {
                    out.take(&piece, more || self.in_frame);
                    if let Err(error) = out.flush().await {
                        return Ok(Ended::WriteFailed(error));
                    }
                }
                // What may go does not wait for what a rule thinks of the rest.
                if (out.pending.len() >= self.buffer || hold.is_ruled())
                    && let Err(error) = out.flush().await
                {
                    return Ok(Ended::WriteFailed(error));
                }
            }
            if let Err(error) = out.flush().await {
                return Ok(Ended::WriteFailed(error));
            }
            if out.closed && !self.closed {
                self.closed = true;
                closes.one();
            }
            self.input
                .reserve(self.buffer.saturating_sub(self.input.len()).max(1));
            let read = tokio::select! {
                biased;
                read = reader.read_buf(&mut self.input) => read,
                () = hold.change() => {
                    hold.ask_anew().await?;
                    continue;
                }
            };
            match read {
                Ok(0) => {
                    hold.parts();
                    return Ok(match out.writer.shutdown().await {
                        Ok(()) => Ended::Finished,
                        Err(error) => Ended::WriteFailed(error),
                    });
                }
                Ok(_) => {}
                Err(error) => {
                    hold.parts();
                    return Ok(Ended::ReadFailed(error));
                }
            }
        }
    }

    /// Takes the next part of what has been read. False if there is none.
    async fn next(
        &mut self,
        out: &mut Out<'_, impl AsyncWrite + Unpin>,
        hold: &mut impl Hold,
        messages: &AtomicU64,
    ) -> Result<bool, Stopped> {
        while !out.closed
            && let Some(own) = hold.own()
        {
            out.take(&own, false);
        }
        let part = self.frames.next(&self.input);
        let part = part.map_err(|violation| Stopped::Malformed(self.side, violation))?;
        match part {
            None => return Ok(false),
            Some(Part::Ignored { used }) => self.input.advance(used),
            Some(Part::Control { used, opcode, .. }) => {
                // Between the frames of a message that is held it goes first, as it may.
                out.take(&self.input.split_to(used), false);
                if opcode == Opcode::Close {
                    out.closed = true;
                    hold.parts();
                }
            }
            Some(Part::Head { used, head }) => {
                if head.opcode != Opcode::Continuation {
                    hold.begin(&head).await?;
                }
                self.large = head.length > self.buffer as u64;
                self.frame.extend_from_slice(&self.input.split_to(used));
            }
            Some(Part::Payload { used, plain, ends }) => {
                let passes = hold.push(plain, ends).await?;
                self.frame.extend_from_slice(&self.input.split_to(used));
                let frame_ended = ends != Ends::Nothing;
                self.in_frame = !frame_ended;
                if frame_ended || self.large {
                    hold.take(&mut self.frame, passes, |bytes| {
                        out.take(bytes, !frame_ended);
                    });
                }
                if ends == Ends::Message && passes {
                    messages.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(true)
    }
}

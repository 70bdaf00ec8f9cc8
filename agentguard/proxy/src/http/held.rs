//! Content that was read before it was decided on, and is sent as it came.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};

use crate::decoders::Decoding;
use crate::http::body::{BodyFailed, Received, add};

/// The most bytes of content that are held, as they are sent. What has more is not understood.
pub(crate) const MAX_HELD: usize = 32 * 1024 * 1024;

/// What more than this is held in counts against the agent's memory (`decoders`), in pieces of [`ROOM`].
const FREE: usize = 16 * 1024;

/// See [`FREE`].
pub(crate) const ROOM: usize = 256 * 1024;

/// What comes in small pieces is put together to some of this size: each piece costs something, too.
const PIECE: usize = 64 * 1024;

/// Content, of which the beginning is here.
pub(crate) struct Held {
    pieces: VecDeque<BytesMut>,
    /// How many bytes those have.
    size: usize,
    trailers: Option<HeaderMap>,
    /// What has not come yet; none where all of it is here.
    rest: Option<Box<Received>>,
    /// The memory that it takes.
    rooms: Vec<Decoding>,
}

/// How holding ended.
pub(crate) enum Holding {
    /// All of it is here.
    Whole,
    /// There is more than is held: why it is not.
    Beyond(&'static str),
}

impl Held {
    /// Reads content up to its end, or to where no more is held, and gives each piece to `read`.
    ///
    /// # Errors
    /// Who sends it broke off.
    pub(crate) async fn read(
        mut body: Received,
        room: impl Fn(usize) -> Option<Decoding>,
        mut read: impl FnMut(&[u8]),
    ) -> Result<(Self, Holding), BodyFailed> {
        let mut held = Self {
            pieces: VecDeque::new(),
            size: 0,
            trailers: None,
            rest: None,
            rooms: Vec::new(),
        };
        while let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(data) => {
                    read(&data);
                    held.keep(&data);
                }
                Err(frame) => held.trailers = frame.into_trailers().ok(),
            }
            let beyond = if held.size > MAX_HELD {
                "its content is larger than 32 MiB"
            } else if !held.has_room(&room) {
                "too much content is being held at once"
            } else {
                continue;
            };
            held.rest = Some(Box::new(body));
            return Ok((held, Holding::Beyond(beyond)));
        }
        Ok((held, Holding::Whole))
    }

    fn keep(&mut self, mut data: &[u8]) {
        self.size += data.len();
        while !data.is_empty() {
            let filled = self.pieces.back().map_or(PIECE, BytesMut::len);
            if filled >= PIECE {
                self.pieces.push_back(BytesMut::new());
            }
            let Some(last) = self.pieces.back_mut() else {
                return;
            };
            let room = PIECE.saturating_sub(last.len());
            let (part, rest) = data.split_at(room.min(data.len()));
            last.extend_from_slice(part);
            data = rest;
        }
    }

    fn has_room(&mut self, room: &impl Fn(usize) -> Option<Decoding>) -> bool {
        while self.size > FREE && self.rooms.len() < self.size.div_ceil(ROOM) {
            let Some(more) = room(ROOM) else {
                return false;
            };
            self.rooms.push(more);
        }
        true
    }

    /// Other content in its place, in the memory that this one has.
    pub(crate) fn instead(self, content: BytesMut) -> Self {
        Self {
            size: content.len(),
            pieces: VecDeque::from([content]),
            trailers: None,
            rest: None,
            rooms: self.rooms,
        }
    }

    /// How many bytes are here.
    pub(crate) const fn size(&self) -> usize {
        self.size
    }
}

impl Body for Held {
    type Data = Bytes;
    type Error = BodyFailed;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        let this = self.get_mut();
        if let Some(piece) = this.pieces.pop_front() {
            this.size -= piece.len();
            this.rooms.truncate(this.size.div_ceil(ROOM));
            return Poll::Ready(Some(Ok(Frame::data(piece.freeze()))));
        }
        match &mut this.rest {
            Some(rest) => Pin::new(rest.as_mut()).poll_frame(cx),
            None => Poll::Ready(
                this.trailers
                    .take()
                    .map(|trailers| Ok(Frame::trailers(trailers))),
            ),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
            && self.trailers.is_none()
            && self.rest.as_ref().is_none_or(|rest| rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.as_ref();
        let mut hint = rest.map_or_else(|| SizeHint::with_exact(0), |rest| rest.size_hint());
        add(&mut hint, self.size);
        hint
    }
}

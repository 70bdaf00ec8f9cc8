//! Content that is read before it is decided on, and is sent as it came.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use agentguard_protocol::content::Pushed;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use tokio::task::yield_now;

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

/// Bytes that are held, in pieces that are counted.
#[derive(Default)]
pub(crate) struct Kept {
    pieces: VecDeque<BytesMut>,
    /// How many bytes those have.
    size: usize,
    /// The memory that it takes.
    rooms: Vec<Decoding>,
}

impl Kept {
    /// Keeps more.
    ///
    /// # Errors
    /// It is kept, and nothing more is to be: why.
    pub(crate) fn push(
        &mut self,
        data: &[u8],
        room: impl Fn(usize) -> Option<Decoding>,
    ) -> Result<(), &'static str> {
        self.append(data);
        if self.size > MAX_HELD {
            return Err("its content is larger than 32 MiB");
        }
        while self.size > FREE && self.rooms.len() < self.size.div_ceil(ROOM) {
            let more = room(ROOM).ok_or("too much content is being held at once")?;
            self.rooms.push(more);
        }
        Ok(())
    }

    fn append(&mut self, mut data: &[u8]) {
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

    /// What is held, in pieces.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(|piece| &piece[..])
    }

    /// The next piece, which is held no more.
    pub(crate) fn pop(&mut self) -> Option<BytesMut> {
        let piece = self.pieces.pop_front()?;
        self.size -= piece.len();
        self.rooms.truncate(self.size.div_ceil(ROOM));
        Some(piece)
    }

    /// How many bytes are here.
    pub(crate) const fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

/// Content, of which the beginning is here.
pub(crate) struct Held {
    kept: Kept,
    trailers: Option<HeaderMap>,
    /// What has not come yet; none where all of it is here.
    rest: Option<Box<Received>>,
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
        body: Received,
        room: impl Fn(usize) -> Option<Decoding>,
        read: impl FnMut(&[u8]),
    ) -> Result<(Self, Holding), BodyFailed> {
        Self::read_until(body, pending(), room, read).await
    }

    /// The same, for no longer than `late` says.
    ///
    /// # Errors
    /// Who sends it broke off.
    pub(crate) async fn read_until(
        body: Received,
        late: impl Future<Output = ()>,
        room: impl Fn(usize) -> Option<Decoding>,
        mut read: impl FnMut(&[u8]),
    ) -> Result<(Self, Holding), BodyFailed> {
        let read = |piece: &[u8]| {
            read(piece);
            Pushed::all(piece)
        };
        Self::read_in_turns(body, late, room, read).await
    }

    /// The same, where `read` says how much it has taken of a piece: others have their turn before it gets the rest.
    ///
    /// # Errors
    /// Who sends it broke off.
    pub(crate) async fn read_in_turns(
        mut body: Received,
        late: impl Future<Output = ()>,
        room: impl Fn(usize) -> Option<Decoding>,
        mut read: impl FnMut(&[u8]) -> Pushed,
    ) -> Result<(Self, Holding), BodyFailed> {
        let mut held = Self {
            kept: Kept::default(),
            trailers: None,
            rest: None,
        };
        let mut late = pin!(late);
        loop {
            let frame = tokio::select! {
                biased;
                frame = body.frame() => frame,
                () = &mut late => {
                    held.rest = Some(Box::new(body));
                    return Ok((held, Holding::Beyond("it did not come to its end in time")));
                }
            };
            let Some(frame) = frame else {
                break;
            };
            let kept = match frame?.into_data() {
                Ok(data) => {
                    let mut rest = &data[..];
                    loop {
                        let pushed = read(rest);
                        rest = rest.get(pushed.taken..).unwrap_or_default();
                        if pushed.done {
                            break;
                        }
                        yield_now().await;
                    }
                    held.kept.push(&data, &room)
                }
                Err(frame) => {
                    held.trailers = frame.into_trailers().ok();
                    Ok(())
                }
            };
            if let Err(beyond) = kept {
                held.rest = Some(Box::new(body));
                return Ok((held, Holding::Beyond(beyond)));
            }
        }
        Ok((held, Holding::Whole))
    }

    /// Other content in its place, in the memory that this one has.
    pub(crate) fn instead(self, content: BytesMut) -> Self {
        Self {
            kept: Kept {
                size: content.len(),
                pieces: VecDeque::from([content]),
                rooms: self.kept.rooms,
            },
            trailers: None,
            rest: None,
        }
    }

    /// How many bytes are here.
    pub(crate) const fn size(&self) -> usize {
        self.kept.size()
    }

    /// What is here.
    pub(crate) const fn kept(&self) -> &Kept {
        &self.kept
    }

    /// All that is here, in one piece.
    pub(crate) fn copied(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size());
        self.kept
            .pieces()
            .for_each(|piece| bytes.extend_from_slice(piece));
        bytes
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
        if let Some(piece) = this.kept.pop() {
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
        self.kept.is_empty()
            && self.trailers.is_none()
            && self.rest.as_ref().is_none_or(|rest| rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.as_ref();
        let mut hint = rest.map_or_else(|| SizeHint::with_exact(0), |rest| rest.size_hint());
        add(&mut hint, self.kept.size());
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::Write as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use agentguard_model::AgentId;
    use agentguard_protocol::content::{PIECE, WORK};
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http::{HeaderValue, header};

    use super::*;
    use crate::decoders::Decoders;
    use crate::http::unpacked::{Reads, Unpacked};

    const BOMB: usize = 64 << 20;

    struct Counts(usize);

    impl Reads for Counts {
        type Fault = Infallible;

        fn push(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
            self.0 += bytes.len();
            Ok(())
        }
    }

    #[tokio::test]
    async fn others_have_their_turn_while_few_bytes_come_to_very_many() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![0; BOMB]).unwrap();
        let bomb = encoder.finish().unwrap();
        let coding = HeaderValue::from_static("gzip");
        let fields = HeaderMap::from_iter([(header::CONTENT_ENCODING, coding)]);
        let decoders = Arc::<Decoders>::default();
        let room = |memory| decoders.take(AgentId(1), memory);
        let mut kept = Kept::default();
        kept.push(&bomb, room).unwrap();
        let body = Received::Held(Held {
            kept,
            trailers: None,
            rest: None,
        });
        let mut content = Unpacked::new(Counts(0), &fields, room);
        let turns = Arc::<AtomicUsize>::default();
        let others = Arc::clone(&turns);
        let other = tokio::spawn(async move {
            loop {
                others.fetch_add(1, Ordering::Relaxed);
                yield_now().await;
            }
        });
        let held = Held::read_in_turns(body, pending(), room, |piece| content.push(piece)).await;
        other.abort();
        let Ok((held, Holding::Whole)) = held else {
            panic!("it is not held");
        };
        assert_eq!(held.size(), bomb.len());
        assert_eq!(content.decoded, BOMB as u64);
        assert_eq!(content.finish().unwrap().0, BOMB);
        let turns = turns.load(Ordering::Relaxed);
        assert!(turns >= BOMB / (WORK + PIECE), "{turns}");
    }
}

//! What an upstream says before its answer (RFC 9110, 15.2), on its way to the client.
//!
//! 101 is no such thing here: it ends a protocol, and is checked as an answer. 100 is asked for by the
//! client and waited for by its body (HTTP/1) or said on like the others (HTTP/2).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use agentguard_protocol::fields::strip_hop_by_hop;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{HeaderMap, Response, StatusCode, header};

/// Bytes that informational responses to one request may have. What comes beyond it is dropped: a
/// client needs none of it.
const ROOM: usize = 16 * 1024;
/// What one counts at least, and each of its fields beside its bytes.
const OVERHEAD: usize = 32;

/// The informational responses to one request.
#[derive(Debug)]
pub(crate) struct Interims {
    state: Mutex<State>,
    waker: AtomicWaker,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Response<()>>,
    room: usize,
    /// Whether the answer itself is there.
    over: bool,
}

impl Default for Interims {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                room: ROOM,
                over: false,
            }),
            waker: AtomicWaker::new(),
        }
    }
}

impl Interims {
    /// Takes one from the upstream.
    pub(crate) fn put(&self, status: StatusCode, mut fields: HeaderMap) {
        if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        strip_hop_by_hop(&mut fields);
        for framing in [header::CONNECTION, header::TE, header::CONTENT_LENGTH] {
            // The first two may have been said anew; the last one has no meaning here (RFC 9110, 8.6).
            fields.remove(framing);
        }
        let size = |(name, value): (&header::HeaderName, &header::HeaderValue)| {
            OVERHEAD + name.as_str().len() + value.len()
        };
        let size = OVERHEAD + fields.iter().map(size).sum::<usize>();
        let mut state = self.state();
        let Some(room) = state.room.checked_sub(size) else {
            tracing::debug!(%status, "an informational response is dropped: there were too many");
            return;
        };
        state.room = room;
        let mut interim = Response::new(());
        *interim.status_mut() = status;
        *interim.headers_mut() = fields;
        state.waiting.push_back(interim);
        drop(state);
        self.waker.wake();
    }

    /// The next one; none once [`Self::over`] was said and all were taken.
    pub(crate) async fn next(&self) -> Option<Response<()>> {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            let mut state = self.state();
            match state.waiting.pop_front() {
                Some(interim) => Poll::Ready(Some(interim)),
                None if state.over => Poll::Ready(None),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Says that the answer itself is there.
    pub(crate) fn over(&self) {
        self.state().over = true;
        self.waker.wake();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An informational response as HTTP/1.1 writes it (RFC 9112, 2.1).
pub(crate) fn http1_bytes(interim: &Response<()>) -> Bytes {
    let status = interim.status();
    let phrase = status.canonical_reason().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {} {phrase}\r\n", status.as_str()).into_bytes();
    for (name, value) in interim.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.into()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::{Interims, ROOM, http1_bytes};

    fn put(interims: &Interims, status: u16, fields: &[(&'static str, &str)]) {
        let fields = fields
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let status = StatusCode::from_u16(status).unwrap();
        interims.put(status, HeaderMap::from_iter(fields));
    }

    #[tokio::test]
    async fn they_come_in_their_order_without_what_belongs_to_one_hop() {
        let interims = Interims::default();
        put(&interims, 102, &[]);
        let own = [
            ("link", "</a>"),
            ("connection", "x-own"),
            ("x-own", "1"),
            ("te", "trailers"),
            ("content-length", "7"),
        ];
        for status in [103, 101, 200] {
            put(&interims, status, &own);
        }
        interims.over();
        let first = interims.next().await.unwrap();
        assert_eq!(http1_bytes(&first), "HTTP/1.1 102 Processing\r\n\r\n");
        let second = interims.next().await.unwrap();
        let expected = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
        assert_eq!(http1_bytes(&second), expected);
        assert!(interims.next().await.is_none());
    }

    #[tokio::test]
    async fn there_is_room_for_so_much_of_them() {
        let interims = Interims::default();
        put(&interims, 103, &[("link", &"x".repeat(ROOM))]);
        for _ in 0..ROOM {
            put(&interims, 103, &[("link", "</a>")]);
        }
        interims.over();
        let mut bytes = 0;
        while let Some(interim) = interims.next().await {
            bytes += http1_bytes(&interim).len();
        }
        assert!((1_000..ROOM).contains(&bytes), "{bytes}");
    }
}

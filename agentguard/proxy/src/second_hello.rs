//! The second ClientHello of a spliced connection, where the server asks for one.
//!
//! A server of TLS 1.3 may answer a hello with HelloRetryRequest. The client says it again then, with other
//! key shares (RFC 8446, 4.1.2), and the server takes the name in it: it has to be the name that was
//! decided on. What the server says first is read beside its way; what the client says next, if that is
//! a handshake record, waits until that is known.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use agentguard_model::HostName;
use agentguard_protocol::client_hello::{HelloReader, Progress, TlsMalformed};
use agentguard_protocol::server_hello::{Answer, AnswerReader};
use bytes::{Buf, BytesMut};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use crate::connection::READ;
use crate::pump::Source;

const UNKNOWN: u8 = 0;
const ACCEPTED: u8 = 1;
const RETRY: u8 = 2;

/// What the two sides of a connection know of each other.
#[derive(Debug, Default)]
pub(crate) struct Hellos {
    answer: AtomicU8,
    answered: AtomicWaker,
    refused: Mutex<Option<Refused>>,
}

/// Why a second hello does not pass.
#[derive(Debug)]
pub(crate) enum Refused {
    Malformed(TlsMalformed),
    /// It has this name, or none.
    Name(Option<HostName>),
}

impl Hellos {
    /// Why the client's side was ended, if that was for its second hello.
    pub(crate) fn refused(self) -> Option<Refused> {
        self.refused
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, answer: u8) {
        self.answer.store(answer, Ordering::Release);
        self.answered.wake();
    }

    fn refuse(&self, why: Refused) -> io::Error {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused = Some(why);
        io::ErrorKind::InvalidData.into()
    }
}

/// The server's side.
pub(crate) struct Server<'a, R> {
    inner: R,
    hellos: &'a Hellos,
    reader: Option<AnswerReader>,
}

impl<'a, R> Server<'a, R> {
    pub(crate) fn new(inner: R, hellos: &'a Hellos) -> Self {
        Self {
            inner,
            hellos,
            reader: Some(AnswerReader::default()),
        }
    }
}

impl<R: Source> Source for Server<'_, R> {
    fn socket(&self) -> Option<&TcpStream> {
        match self.reader {
            Some(_) => None,
            None => self.inner.socket(),
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Server<'_, R> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut this.inner).poll_read(cx, buf));
        if let Some(reader) = &mut this.reader {
            let answer = match buf.filled().get(before..) {
                Some(bytes @ [_, ..]) => match reader.push(bytes) {
                    Answer::NeedMore => return Poll::Ready(read),
                    Answer::Retry => RETRY,
                    Answer::Other => ACCEPTED,
                },
                // It is gone, and asks for nothing any more.
                _ => ACCEPTED,
            };
            this.reader = None;
            this.hellos.answer(answer);
        }
        Poll::Ready(read)
    }
}

/// The client's side, behind its first hello.
pub(crate) struct Client<'a, R> {
    inner: R,
    hellos: &'a Hellos,
    name: Option<HostName>,
    /// What was read and has not passed; it begins with a record.
    input: BytesMut,
    /// What is left of a record that passes.
    passing: usize,
    second: Box<HelloReader>,
    /// How much of the input `second` has.
    pushed: usize,
    /// Whether everything passes from here on.
    settled: bool,
    ended: bool,
}

impl<'a, R> Client<'a, R> {
    /// `read` was read behind the first hello, which had this name.
    pub(crate) fn new(inner: R, read: &[u8], name: Option<HostName>, hellos: &'a Hellos) -> Self {
        Self {
            inner,
            hellos,
            name,
            input: BytesMut::from(read),
            passing: 0,
            second: Box::default(),
            pushed: 0,
            settled: false,
            ended: false,
        }
    }

    /// How much of the input may pass, with the answer that there is so far. None: more is to be
    /// read, or the answer waited for.
    fn passes(&mut self, answer: u8) -> io::Result<usize> {
        if self.settled || answer == ACCEPTED {
            self.settled = true;
            return Ok(self.input.len());
        }
        if self.passing == 0 {
            const HANDSHAKE: u8 = 22;
            match self.input.get(..5) {
                Some([HANDSHAKE, ..]) if answer == RETRY => return self.second_hello(),
                Some([HANDSHAKE, ..]) | None => return Ok(0),
                Some([.., high, low]) => {
                    self.passing = 5 + usize::from(u16::from_be_bytes([*high, *low]));
                }
                Some(_) => {}
            }
        }
        Ok(self.passing.min(self.input.len()))
    }

    fn second_hello(&mut self) -> io::Result<usize> {
        let rest = self.input.get(self.pushed..).unwrap_or_default();
        let progress = self.second.push(rest);
        self.pushed = self.input.len();
        match progress {
            Ok(Progress::NeedMore) => Ok(0),
            Ok(Progress::Hello(hello)) if hello.server_name == self.name => {
                self.settled = true;
                Ok(self.input.len())
            }
            Ok(Progress::Hello(hello)) => Err(self.hellos.refuse(Refused::Name(hello.server_name))),
            Err(why) => Err(self.hellos.refuse(Refused::Malformed(why))),
        }
    }
}

impl<R: Source> Source for Client<'_, R> {
    fn socket(&self) -> Option<&TcpStream> {
        match self.settled && self.input.is_empty() {
            true => self.inner.socket(),
            false => None,
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Client<'_, R> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.settled && this.input.is_empty() {
                return Pin::new(&mut this.inner).poll_read(cx, buf);
            }
            this.hellos.answered.register(cx.waker());
            let answer = this.hellos.answer.load(Ordering::Acquire);
            let passes = this.passes(answer)?.min(buf.remaining());
            if passes > 0 {
                buf.put_slice(this.input.get(..passes).unwrap_or_default());
                this.input.advance(passes);
                this.passing = this.passing.saturating_sub(passes);
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                // Of what was held nothing can come any more.
                return Poll::Ready(Ok(()));
            }
            if answer == UNKNOWN && this.input.len() >= READ {
                // Nobody says so much before the server has said anything.
                let why = Refused::Malformed(TlsMalformed::TooLong);
                return Poll::Ready(Err(this.hellos.refuse(why)));
            }
            this.input.reserve(READ);
            let inner = Pin::new(&mut this.inner);
            this.ended = ready!(poll_read_buf(inner, cx, &mut this.input))? == 0;
        }
    }
}

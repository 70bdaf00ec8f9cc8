//! One direction of a connection that is carried untouched.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, ready};

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::task::consume_budget;

use crate::pipes::Pipe;

/// From how many bytes at once on they go through a pipe, and below which they are copied again: less is copied sooner than
/// it is passed on.
const LARGE: usize = 16 * 1024;

/// What is read from.
pub(crate) trait Source: AsyncRead + Unpin {
    /// The socket behind it, where nobody has to see or to count what comes from now on.
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

/// What is written to.
pub(crate) trait Sink: AsyncWrite + Unpin {
    /// The socket behind it, where bytes go there as they are.
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

impl Source for ReadHalf<'_> {
    fn socket(&self) -> Option<&TcpStream> {
        Some(self.as_ref())
    }
}

impl Sink for WriteHalf<'_> {
    fn socket(&self) -> Option<&TcpStream> {
        Some(self.as_ref())
    }
}

impl<S: AsyncRead> Source for tokio::io::ReadHalf<S> {}
impl<S: AsyncWrite> Sink for tokio::io::WriteHalf<S> {}

impl<S: Source> Source for &mut S {
    fn socket(&self) -> Option<&TcpStream> {
        (**self).socket()
    }
}

impl<S: Sink> Sink for &mut S {
    fn socket(&self) -> Option<&TcpStream> {
        (**self).socket()
    }
}

/// How a direction ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The reader's end was passed on.
    Finished,
    /// The side that is read from is gone.
    ReadFailed(io::Error),
    /// The side that is written to is gone.
    WriteFailed(io::Error),
}

/// Carries what comes until it ends, behind what was `read` already. What comes is copied, through a buffer of `size` bytes;
/// many bytes from socket to socket go through a pipe instead. What has been written is counted.
pub(crate) async fn pump(
    from: impl Source,
    to: impl Sink,
    read: &[u8],
    size: usize,
    count: &AtomicU64,
) -> Ended {
    let mut pump = Pump {
        from,
        to,
        count,
        buffer: vec![0; size],
    };
    match pump.run(read).await {
        Ok(()) => Ended::Finished,
        Err(ended) => ended,
    }
}

struct Pump<'a, F, T> {
    from: F,
    to: T,
    count: &'a AtomicU64,
    buffer: Vec<u8>,
}

impl<F: Source, T: Sink> Pump<'_, F, T> {
    async fn run(&mut self, read: &[u8]) -> Result<(), Ended> {
        if !read.is_empty() {
            let written = self.to.write_all(read).await;
            written.map_err(Ended::WriteFailed)?;
            self.written(read.len());
        }
        loop {
            let came = self.from.read(&mut self.buffer).await;
            let came = came.map_err(Ended::ReadFailed)?;
            if came == 0 {
                return self.to.shutdown().await.map_err(Ended::WriteFailed);
            }
            self.copy(came).await?;
            if came >= LARGE {
                self.pass().await?;
            }
        }
    }

    /// Through a pipe, for as long as many bytes come at once.
    async fn pass(&mut self) -> Result<(), Ended> {
        while let Some(passed) = self.pass_once().await? {
            match passed {
                0 => match self.waits().await? {
                    // The next read finds it again.
                    Some(0) => return Ok(()),
                    Some(came) => self.copy(came).await?,
                    None => {}
                },
                1..LARGE => return Ok(()),
                LARGE.. => {}
            }
        }
        Ok(())
    }

    /// What there is now, through a pipe: how much that was. None: it does not go from socket to socket, or there is no pipe.
    async fn pass_once(&self) -> Result<Option<usize>, Ended> {
        let (Some(from), Some(to)) = (self.from.socket(), self.to.socket()) else {
            return Ok(None);
        };
        let Some(mut pipe) = Pipe::take() else {
            return Ok(None);
        };
        // Not by `try_io`, which would take it that there is nothing to read either.
        let filled = match pipe.fill(from) {
            Ok(filled) => filled,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) if is_not_of_the_socket(&error) => return Ok(None),
            Err(error) => return Err(Ended::ReadFailed(error)),
        };
        while !pipe.is_empty() {
            let emptied = to.async_io(Interest::WRITABLE, || pipe.empty(to)).await;
            self.written(emptied.map_err(Ended::WriteFailed)?);
        }
        pipe.give_back();
        // As much as a copy takes of it: who has much to pass lets others have their turn, and what has come to be denied is
        // cut off.
        for _ in 0..=filled / self.buffer.len().max(1) {
            consume_budget().await;
        }
        Ok(Some(filled))
    }

    /// Waits until there may be something. Some: so much there was already. That is read, since a pipe is given nothing of
    /// what lies behind urgent bytes (tcp(7)), and does not know an end from them; a read passes them over.
    async fn waits(&mut self) -> Result<Option<usize>, Ended> {
        let mut asked = false;
        poll_fn(|cx| {
            if let (true, Some(socket)) = (asked, self.from.socket()) {
                return socket.poll_read_ready(cx).map_ok(|()| None);
            }
            asked = true;
            let mut buffer = ReadBuf::new(&mut self.buffer);
            let read = ready!(Pin::new(&mut self.from).poll_read(cx, &mut buffer));
            Poll::Ready(read.map(|()| Some(buffer.filled().len())))
        })
        .await
        .map_err(Ended::ReadFailed)
    }

    /// Writes what was read into the buffer.
    async fn copy(&mut self, came: usize) -> Result<(), Ended> {
        let bytes = self.buffer.get(..came).unwrap_or_default();
        let written = self.to.write_all(bytes).await;
        written.map_err(Ended::WriteFailed)?;
        self.written(came);
        Ok(())
    }

    fn written(&self, bytes: usize) {
        self.count.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Whether nothing was taken of the socket, and nothing ails it: its bytes can be copied. A profile of system calls around
/// the worker's may refuse it, or there is no memory.
fn is_not_of_the_socket(error: &io::Error) -> bool {
    let errors = [Errno::PERM, Errno::NOSYS, Errno::INVAL, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|error| errors.contains(&error))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{self, ErrorKind};
    use std::pin::Pin;
    use std::rc::Rc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::{Context, Poll};
    use std::time::Duration;

    use socket2::SockRef;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
    use tokio::net::tcp::ReadHalf;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::yield_now;
    use tokio::time::timeout;

    use super::{Ended, LARGE, Source, pump};
    use crate::pipes::tests::ALONE;
    use crate::relay::reset;

    const BUFFER: usize = 2 * LARGE;

    /// A connection, and the one that it comes from.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (peer, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (accepted.unwrap().0, peer.unwrap())
    }

    /// So many bytes, of which no two stretches are alike.
    fn bytes(many: usize) -> Vec<u8> {
        let words = (0..many as u64).map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        words.flat_map(u64::to_le_bytes).take(many).collect()
    }

    /// Of what is read, how much was copied.
    struct Seen<'a> {
        inner: ReadHalf<'a>,
        copied: Rc<Cell<usize>>,
        /// Whether all of it has to be.
        all: bool,
    }

    impl AsyncRead for Seen<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let before = buf.filled().len();
            let read = Pin::new(&mut self.inner).poll_read(cx, buf);
            let copied = self.copied.get() + buf.filled().len() - before;
            self.copied.set(copied);
            read
        }
    }

    impl Source for Seen<'_> {
        fn socket(&self) -> Option<&TcpStream> {
            (!self.all).then(|| self.inner.socket()).flatten()
        }
    }

    /// What comes of `says` at the other end, what was copied of it, and how the way there ended.
    async fn pumped<S>(says: impl FnOnce(TcpStream) -> S, all: bool) -> (Vec<u8>, usize, Ended)
    where
        S: Future<Output = ()>,
    {
        let _alone = ALONE.lock().await;
        let (mut from, client) = connection().await;
        let (mut to, mut server) = connection().await;
        let (count, copied) = (AtomicU64::new(0), Rc::new(Cell::new(0)));
        let source = Seen {
            inner: from.split().0,
            copied: Rc::clone(&copied),
            all,
        };
        let mut came = Vec::new();
        let (ended, (), read) = tokio::join!(
            async {
                let ended = pump(source, to.split().1, b"first ", BUFFER, &count).await;
                // Also where it has failed.
                to.shutdown().await.unwrap();
                ended
            },
            says(client),
            server.read_to_end(&mut came),
        );
        read.unwrap();
        assert_eq!(count.load(Ordering::Relaxed), came.len() as u64);
        assert_eq!(came.drain(..6).as_slice(), b"first ");
        (came, copied.get(), ended)
    }

    #[tokio::test]
    async fn many_bytes_stay_in_the_kernel_and_few_are_copied() {
        let sent = bytes(16 << 20);
        let all = |client| async {
            let mut client: TcpStream = client;
            client.write_all(&sent).await.unwrap();
        };
        let (came, copied, ended) = pumped(all, false).await;
        assert!(came == sent);
        assert!(copied < sent.len() / 2, "{copied}");
        assert!(matches!(ended, Ended::Finished), "{ended:?}");
        // Where somebody has to see them they are copied.
        let (came, copied, _) = pumped(all, true).await;
        assert!(came == sent);
        assert_eq!(copied, sent.len());

        let few = |client| async {
            let mut client: TcpStream = client;
            for part in sent.chunks(1_000).take(500) {
                client.write_all(part).await.unwrap();
                // Each is read by itself.
                for _ in 0..10 {
                    yield_now().await;
                }
            }
        };
        let (came, copied, _) = pumped(few, false).await;
        assert!(came == sent[..500_000]);
        assert!(copied > came.len() / 2, "{copied}");
    }

    /// A pipe is given nothing of what lies behind one, and nobody is woken for what has come before.
    #[tokio::test]
    async fn an_urgent_byte_is_passed_over_as_a_read_does() {
        let sent = bytes(256 << 10);
        // So much is copied first, and then a pipe has as much as it goes on with.
        let (before, behind) = sent.split_at(BUFFER + LARGE);
        let _alone = ALONE.lock().await;
        for ends in [false, true] {
            let (mut from, mut client) = connection().await;
            let (mut to, mut server) = connection().await;
            client.write_all(before).await.unwrap();
            let urgent = SockRef::from(&client).send_out_of_band(b"!");
            assert_eq!(urgent.unwrap(), 1);
            client.write_all(behind).await.unwrap();
            if ends {
                client.shutdown().await.unwrap();
            }
            let count = AtomicU64::new(0);
            let going = async {
                let ended = pump(from.split().0, to.split().1, &[], BUFFER, &count).await;
                assert!(matches!(ended, Ended::Finished), "{ended:?}");
            };
            let arrives = async {
                let mut came = vec![0; sent.len()];
                let all = server.read_exact(&mut came);
                timeout(Duration::from_secs(10), all)
                    .await
                    .unwrap()
                    .unwrap();
                assert!(came == sent);
                drop(client);
                assert_eq!(server.read(&mut came).await.unwrap(), 0);
            };
            tokio::join!(going, arrives);
        }
    }

    #[tokio::test]
    async fn a_reset_is_told_from_an_end() {
        let sent = bytes(4 << 20);
        let breaks = |client| async {
            let mut client: TcpStream = client;
            client.write_all(&sent).await.unwrap();
            reset(client);
        };
        let (came, _, ended) = pumped(breaks, false).await;
        assert!(sent.starts_with(&came));
        let Ended::ReadFailed(error) = ended else {
            panic!("{ended:?}");
        };
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);

        // And on the other side.
        let _alone = ALONE.lock().await;
        let (mut from, mut client) = connection().await;
        let (mut to, mut server) = connection().await;
        let count = AtomicU64::new(0);
        let leaves = async {
            let mut part = vec![0; 1 << 20];
            server.read_exact(&mut part).await.unwrap();
            assert!(part == sent[..part.len()]);
            reset(server);
        };
        let going = async {
            let ended = pump(from.split().0, to.split().1, &[], BUFFER, &count).await;
            drop(from);
            ended
        };
        let writes = async { while client.write_all(&sent).await.is_ok() {} };
        let (ended, (), ()) = tokio::join!(going, writes, leaves);
        let Ended::WriteFailed(error) = ended else {
            panic!("{ended:?}");
        };
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn who_does_not_read_stops_who_writes() {
        let _alone = ALONE.lock().await;
        let sent = bytes(64 << 20);
        let (mut from, mut client) = connection().await;
        let (mut to, mut server) = connection().await;
        let count = AtomicU64::new(0);
        let going = pump(from.split().0, to.split().1, &[], BUFFER, &count);
        tokio::pin!(going);
        let mut written = 0;
        let mut still = 0;
        // What fits in between is taken, and no more.
        while still < 100 {
            tokio::select! {
                biased;
                ended = &mut going => panic!("{ended:?}"),
                more = client.write(&sent[written..]) => {
                    written += more.unwrap();
                    still = 0;
                    assert!(written < sent.len(), "nothing stops it");
                }
                () = yield_now() => still += 1,
            }
        }
        let read = async {
            client.shutdown().await.unwrap();
            let mut came = Vec::new();
            server.read_to_end(&mut came).await.unwrap();
            came
        };
        let (ended, came) = tokio::join!(going, read);
        assert!(matches!(ended, Ended::Finished), "{ended:?}");
        assert!(came == sent[..written]);
    }
}

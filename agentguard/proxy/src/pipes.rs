//! Pipes through which bytes go from one socket to another and stay in the kernel (splice(2)): what was received is
//! passed on as it lies there, and not copied to the worker and back.

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{io, mem};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::param::page_size;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// How many there are at most, of all threads: what finds none is copied. A pipe is taken while bytes are in it and no
/// longer, so that only what waits for a slow receiver keeps one.
const MOST: usize = 128;
/// How many places one has. Each is as large as a page, and holds one piece of what a socket has received: of small packets
/// less fits. All of them together are a quarter of what the kernel grants a user before its pipes are smaller (`pipe(7)`,
/// `pipe-user-pages-soft`).
const PLACES: usize = 32;

static MADE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// One that is empty, for who comes next.
    static KEPT: Cell<Option<Ends>> = const { Cell::new(None) };
}

/// Both ends of one.
struct Ends {
    reader: OwnedFd,
    writer: OwnedFd,
    _one: One,
}

impl Ends {
    /// None: there are as many as may be, or the system makes none of that size.
    fn make() -> Option<Self> {
        let one = One::more()?;
        let made = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK);
        let sized = made.and_then(|(reader, writer)| {
            // A smaller one would take a piece or two at a time.
            fcntl_setpipe_size(&writer, PLACES * page_size())?;
            Ok((reader, writer))
        });
        match sized {
            Ok((reader, writer)) => Some(Self {
                reader,
                writer,
                _one: one,
            }),
            Err(error) => {
                tracing::debug!(%error, "bytes are copied: there is no pipe");
                None
            }
        }
    }
}

/// One of [`MOST`].
struct One;

impl One {
    fn more() -> Option<Self> {
        let one_more = |made| (made < MOST).then_some(made + 1);
        let made = MADE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        made.ok().map(|_| Self)
    }
}

impl Drop for One {
    fn drop(&mut self) {
        MADE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One that somebody has for now. With bytes in it, it is closed when it is dropped, and they are gone.
pub(crate) struct Pipe {
    ends: Ends,
    holds: usize,
    /// Whether the last call gave a part of it to a socket whose peer had not ended by then, and what came of the rest is not
    /// known.
    broke_off: bool,
}

impl Pipe {
    /// An empty one. None: there are as many as may be, or the system makes none.
    pub(crate) fn take() -> Option<Self> {
        let ends = KEPT.take().or_else(Ends::make)?;
        Some(Self {
            ends,
            holds: 0,
            broke_off: false,
        })
    }

    /// The next one of this thread has it, if it is empty.
    pub(crate) fn give_back(self) {
        if self.is_empty() {
            KEPT.set(Some(self.ends));
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.holds == 0
    }

    /// Takes what a socket has, up to what fits. 0: perhaps it has ended; a read says so.
    ///
    /// # Errors
    /// `WouldBlock`: it has nothing, or there is no room. Otherwise what ails the socket.
    pub(crate) fn fill(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let size = PLACES * page_size();
        let filled = splice(socket, None, &self.ends.writer, None, size, FLAGS)?;
        self.holds += filled;
        Ok(filled)
    }

    /// Gives a socket what is in it, as far as that takes it.
    ///
    /// # Errors
    /// `WouldBlock`: it takes nothing now. Otherwise what ails the socket, as send(2) says it.
    pub(crate) fn empty(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let ended = has_ended(&socket);
        let emptied = splice(&self.ends.reader, None, socket, None, self.holds, FLAGS);
        // The kernel sends several times in one call. What befalls it in between it keeps to itself, and says how much went
        // before; from then on the socket is merely closed. Whose peer had ended by itself is that anyway.
        let broke_off = mem::replace(&mut self.broke_off, emptied.is_ok() && !ended);
        match emptied {
            Err(Errno::PIPE) if broke_off => Err(io::ErrorKind::ConnectionReset.into()),
            emptied => {
                let emptied = emptied?;
                self.holds = self.holds.saturating_sub(emptied);
                Ok(emptied)
            }
        }
    }
}

/// Whether the peer has ended its side (`POLLRDHUP`).
fn has_ended(socket: &impl AsFd) -> bool {
    let mut asked = [PollFd::new(socket, PollFlags::RDHUP)];
    poll(&mut asked, Some(&Timespec::default())) != Ok(0)
}

/// Neither end waits, whatever the sockets do.
const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use rustix::param::page_size;
    use tokio::sync::Mutex;

    use super::{MOST, PLACES, Pipe};

    /// Held by each test that has to have a pipe: one of them has all that there are.
    pub(crate) static ALONE: Mutex<()> = Mutex::const_new(());

    fn pair() -> (UnixStream, UnixStream) {
        let (one, other) = UnixStream::pair().unwrap();
        one.set_nonblocking(true).unwrap();
        other.set_nonblocking(true).unwrap();
        (one, other)
    }

    #[test]
    fn what_is_left_in_one_is_nobody_else_s() {
        let _alone = ALONE.blocking_lock();
        let (mut says, heard) = pair();
        let (to, mut hears) = pair();
        says.write_all(b"secret").unwrap();
        let mut pipe = Pipe::take().unwrap();
        assert_eq!(pipe.fill(&heard).unwrap(), 6);
        assert!(!pipe.is_empty());
        pipe.give_back();

        says.write_all(b"open").unwrap();
        let mut pipe = Pipe::take().unwrap();
        assert!(pipe.is_empty());
        assert_eq!(pipe.fill(&heard).unwrap(), 4);
        assert_eq!(pipe.empty(&to).unwrap(), 4);
        let mut came = [0; 16];
        assert_eq!(hears.read(&mut came).unwrap(), 4);
        assert!(came.starts_with(b"open"));

        // Neither end waits.
        let nothing = pipe.fill(&heard).unwrap_err();
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
        drop(says);
        assert_eq!(pipe.fill(&heard).unwrap(), 0);
        pipe.give_back();
    }

    /// As send(2) says it, though several are sent in one call and each but the first fails.
    #[test]
    fn a_peer_that_has_ended_is_not_taken_for_one_that_resets() {
        let _alone = ALONE.blocking_lock();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        to.set_nonblocking(true).unwrap();
        drop(listener.accept().unwrap());
        let mut pipe = Pipe::take().unwrap();
        for _ in 0..PLACES {
            let page = vec![7; page_size()];
            pipe.holds += rustix::io::write(&pipe.ends.writer, &page).unwrap();
        }
        assert!(pipe.empty(&to).unwrap() < PLACES * page_size());
        let error = pipe.empty(&to).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }

    #[test]
    fn there_are_no_more_than_so_many() {
        let _alone = ALONE.blocking_lock();
        let taken: Vec<Pipe> = std::iter::from_fn(Pipe::take).take(MOST + 1).collect();
        // Other tests may have some.
        assert!((1..=MOST).contains(&taken.len()));
        drop(taken);
        assert!(Pipe::take().is_some());
    }
}

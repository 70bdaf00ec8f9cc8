//! Typed packets over unix sockets: how the halves of the guard, and its clients, speak.
//!
//! `SOCK_SEQPACKET` keeps message boundaries, so a packet is one postcard message and nothing has to
//! be reassembled. Descriptors travel beside it (`SCM_RIGHTS`). Who is at the other end comes from
//! the kernel ([`Packet::peer`], [`Said::sender`]), never from a message. A packet is all or nothing: one that was cut
//! short, in bytes or descriptors, is an error and its descriptors are closed.
//!
//! **Invariant:** nothing a peer sends costs more than [`MAX_BYTES`] of memory and [`MAX_FDS`]
//! descriptors per call, every descriptor received is close-on-exec, and no call panics.

mod receive;

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use receive::{Received, receive, tell_senders};

/// The bytes of one packet, at most. A longer message is refused by [`Packet::send`], and by
/// [`Packet::recv`] as [`PacketError::Truncated`].
pub const MAX_BYTES: usize = 128 * 1024;

/// The descriptors of one packet, at most. More are refused by [`Packet::send`]; those that arrive
/// beyond it are closed and the packet is [`PacketError::Truncated`].
pub const MAX_FDS: usize = 16;

/// Connections that wait for `accept`; further ones block in `connect`.
const BACKLOG: i32 = 128;

/// `SO_PEERGROUPS` of `asm-generic/socket.h` (Linux 4.13), which libc does not name.
const SO_PEERGROUPS: libc::c_int = 59;

/// Why a packet could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The socket failed; [`io::ErrorKind::WouldBlock`] is the time limit of [`Packet::set_timeout`].
    #[error("the socket failed")]
    Socket(#[source] io::Error),
    /// What arrived was longer than [`MAX_BYTES`] or brought more than [`MAX_FDS`] descriptors.
    #[error("a packet is larger than {MAX_BYTES} bytes or carries more than {MAX_FDS} descriptors")]
    Truncated,
    /// The message to send is empty, longer than [`MAX_BYTES`] or has more than [`MAX_FDS`] descriptors.
    #[error("a message of {bytes} bytes and {fds} descriptors does not fit a packet")]
    DoesNotFit {
        /// Its length.
        bytes: usize,
        /// Its descriptors.
        fds: usize,
    },
    /// The bytes are not the message that was expected, or more than it.
    #[error("a packet is not the message that was expected")]
    Malformed(#[source] postcard::Error),
    /// The message was read, and bytes were left over.
    #[error("a packet has {0} bytes after its message")]
    Surplus(usize),
}

impl From<Errno> for PacketError {
    fn from(errno: Errno) -> Self {
        Self::Socket(errno.into())
    }
}

/// One end of a connection that carries typed packets.
#[derive(Debug)]
pub struct Packet {
    socket: OwnedFd,
}

/// Where packets are received, one after the other: [`MAX_BYTES`], which who receives many keeps.
#[derive(Debug, Default)]
pub struct Room(Vec<u8>);

impl Room {
    fn bytes(&mut self) -> &mut [u8] {
        if self.0.is_empty() {
            self.0 = vec![0; MAX_BYTES];
        }
        &mut self.0
    }
}

/// Who is at the other end, as the kernel says: the process that called `connect`, with the
/// credentials it had at that moment.
#[derive(Debug)]
pub struct Peer {
    /// Its process id in our pid namespace.
    pub pid: u32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
    /// That very process, from `SO_PEERPIDFD` (Linux 6.5). `None` on older kernels and when the
    /// process is gone: its `pid` may then already belong to another.
    pub pidfd: Option<OwnedFd>,
}

/// A message, and what came with it.
#[derive(Debug)]
pub struct Said<T> {
    /// The message.
    pub message: T,
    /// Its descriptors.
    pub fds: Vec<OwnedFd>,
    /// The process that sent it, in our pid namespace, which need not be the one that connected: a
    /// connection can be inherited and handed on. `None`: it has no number there, or this is no
    /// connection of a [`Listener`].
    pub sender: Option<u32>,
}

impl Packet {
    /// Sends one message with its descriptors; waits while the peer's queue is full.
    ///
    /// # Errors
    /// [`PacketError::DoesNotFit`], or [`PacketError::Socket`] (`EPIPE`, `ECONNRESET`: the peer is gone).
    pub fn send<T: Serialize + ?Sized>(
        &self,
        message: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), PacketError> {
        self.transmit(message, fds, SendFlags::empty())
    }

    fn transmit<T: Serialize + ?Sized>(
        &self,
        message: &T,
        fds: &[BorrowedFd<'_>],
        flags: SendFlags,
    ) -> Result<(), PacketError> {
        self.put(&encode(message, fds.len())?, fds, flags)
    }

    fn put(
        &self,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
        flags: SendFlags,
    ) -> Result<(), PacketError> {
        let too_much = PacketError::DoesNotFit {
            bytes: bytes.len(),
            fds: fds.len(),
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(too_much);
        }
        rustix::io::retry_on_intr(|| {
            net::sendmsg(
                &self.socket,
                &[IoSlice::new(bytes)],
                &mut control,
                SendFlags::NOSIGNAL | flags,
            )
        })?;
        Ok(())
    }

    /// Receives one message with its descriptors; waits until there is one. `None`: the peer closed.
    ///
    /// # Errors
    /// [`PacketError::Truncated`], [`PacketError::Malformed`], [`PacketError::Surplus`]: the peer is
    /// faulty or hostile, the packet is gone and its descriptors are closed. [`PacketError::Socket`].
    pub fn recv<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>, PacketError> {
        self.recv_in(&mut Room::default())
    }

    /// As [`Packet::recv`], for who receives many.
    ///
    /// # Errors
    /// As [`Packet::recv`].
    pub fn recv_in<T: DeserializeOwned>(
        &self,
        room: &mut Room,
    ) -> Result<Option<(T, Vec<OwnedFd>)>, PacketError> {
        let said = self.recv_into(room.bytes())?;
        Ok(said.map(|said| (said.message, said.fds)))
    }

    /// As [`Packet::recv`], with who sent it.
    ///
    /// # Errors
    /// As [`Packet::recv`].
    pub fn recv_said<T: DeserializeOwned>(&self) -> Result<Option<Said<T>>, PacketError> {
        self.recv_into(Room::default().bytes())
    }

    fn recv_into<T: DeserializeOwned>(
        &self,
        bytes: &mut [u8],
    ) -> Result<Option<Said<T>>, PacketError> {
        let received = match receive(self.socket.as_fd(), bytes) {
            // The peer closed and left packets of ours unread. That is told once, and before the
            // packets that it sent; these are still there.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                receive(self.socket.as_fd(), bytes)
            }
            result => result,
        }
        .map_err(PacketError::Socket)?;
        if received.cut || received.fds.len() > MAX_FDS {
            return Err(PacketError::Truncated);
        }
        let bytes = bytes.get(..received.bytes).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(None);
        }
        match postcard::take_from_bytes(bytes) {
            Ok((message, [])) => Ok(Some(Said {
                message,
                fds: received.fds,
                sender: received.sender,
            })),
            Ok((_, rest)) => Err(PacketError::Surplus(rest.len())),
            Err(error) => Err(PacketError::Malformed(error)),
        }
    }

    /// Sends one message without descriptors unless the peer's queue is full: `false`, and nothing
    /// was sent.
    ///
    /// # Errors
    /// As [`Packet::send`].
    pub fn try_send<T: Serialize + ?Sized>(&self, message: &T) -> Result<bool, PacketError> {
        match self.transmit(message, &[], SendFlags::DONTWAIT) {
            Ok(()) => Ok(true),
            Err(PacketError::Socket(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends a message that was prepared before, as [`Packet::send`].
    ///
    /// # Errors
    /// [`PacketError::Socket`].
    pub fn send_sealed(&self, sealed: &Sealed) -> Result<(), PacketError> {
        self.put(&sealed.bytes, &sealed.borrowed(), SendFlags::empty())
    }

    /// Sends a message that was prepared before, as [`Packet::try_send`].
    ///
    /// # Errors
    /// [`PacketError::Socket`].
    pub fn try_send_sealed(&self, sealed: &Sealed) -> Result<bool, PacketError> {
        match self.put(&sealed.bytes, &sealed.borrowed(), SendFlags::DONTWAIT) {
            Ok(()) => Ok(true),
            Err(PacketError::Socket(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Limits how long one `send` and one `recv` may wait; `None`: for ever, as from the start.
    ///
    /// # Errors
    /// What `setsockopt` answers, among it a limit of zero.
    pub fn set_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        for which in [net::sockopt::Timeout::Recv, net::sockopt::Timeout::Send] {
            net::sockopt::set_socket_timeout(&self.socket, which, limit)?;
        }
        Ok(())
    }

    /// Limits how long one `send` may wait; `None`: for ever, as from the start.
    ///
    /// # Errors
    /// As [`Packet::set_timeout`].
    pub fn set_send_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        Ok(net::sockopt::set_socket_timeout(
            &self.socket,
            net::sockopt::Timeout::Send,
            limit,
        )?)
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// What `getsockopt` answers; [`io::ErrorKind::NotFound`] for a peer outside our pid namespace,
    /// which has no process id here.
    pub fn peer(&self) -> io::Result<Peer> {
        let credentials: libc::ucred = self.option(libc::SO_PEERCRED)?;
        let pid = u32::try_from(credentials.pid).ok().filter(|pid| *pid > 0);
        let pidfd = self
            .option::<libc::c_int>(libc::SO_PEERPIDFD)
            .ok()
            .filter(|fd| *fd >= 0)
            // SAFETY: the kernel has just installed this descriptor for us (close-on-exec), and
            // nobody else knows its number.
            .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Peer {
            pid: pid.ok_or(io::ErrorKind::NotFound)?,
            uid: credentials.uid,
            gid: credentials.gid,
            groups: self.peer_groups()?,
            pidfd,
        })
    }

    fn peer_groups(&self) -> io::Result<Vec<u32>> {
        // The kernel allows 65536 groups; most processes have a handful.
        let mut groups: Vec<u32> = vec![0; 64];
        loop {
            let mut length = libc::socklen_t::try_from(size_of_val(groups.as_slice()))
                .map_err(io::Error::other)?;
            // SAFETY: `groups` is writable for `length` bytes, and the kernel writes at most that many.
            let result = unsafe {
                libc::getsockopt(
                    self.socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    SO_PEERGROUPS,
                    groups.as_mut_ptr().cast(),
                    &mut length,
                )
            };
            let count = usize::try_from(length).map_err(io::Error::other)? / size_of::<u32>();
            if result == 0 {
                groups.truncate(count);
                return Ok(groups);
            }
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
                return Err(error);
            }
            groups.resize(count, 0);
        }
    }

    /// Reads a socket option by hand: rustix has no `SO_PEERPIDFD`, and its `SO_PEERCRED` cannot
    /// express the pid 0 of a peer in a foreign pid namespace.
    fn option<T: Plain>(&self, name: libc::c_int) -> io::Result<T> {
        let mut value = MaybeUninit::<T>::zeroed();
        let mut length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or_default();
        // SAFETY: `value` is writable for `length` bytes, and the kernel writes at most that many.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                name,
                value.as_mut_ptr().cast(),
                &mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: every bit pattern, the zeros it began with included, is a valid `Plain`.
        Ok(unsafe { value.assume_init() })
    }
}

/// The bytes of a message that goes with so many descriptors.
fn encode<T: Serialize + ?Sized>(message: &T, fds: usize) -> Result<Vec<u8>, PacketError> {
    let bytes = postcard::to_stdvec(message).map_err(PacketError::Malformed)?;
    // An empty packet cannot be told from the end of the connection.
    if bytes.is_empty() || bytes.len() > MAX_BYTES || fds > MAX_FDS {
        return Err(PacketError::DoesNotFit {
            bytes: bytes.len(),
            fds,
        });
    }
    Ok(bytes)
}

/// A message that is ready to be sent, later and by somebody else, with descriptors of its own.
#[derive(Debug)]
pub struct Sealed {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Sealed {
    /// Prepares one. The descriptors are duplicated.
    ///
    /// # Errors
    /// [`PacketError::DoesNotFit`], or [`PacketError::Socket`]: there are no descriptors left.
    pub fn new<T: Serialize + ?Sized>(
        message: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Self, PacketError> {
        let bytes = encode(message, fds.len())?;
        let fds = fds.iter().map(BorrowedFd::try_clone_to_owned);
        Ok(Self {
            bytes,
            fds: fds.collect::<Result<_, _>>().map_err(PacketError::Socket)?,
        })
    }

    /// The length of its message.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn borrowed(&self) -> Vec<BorrowedFd<'_>> {
        self.fds.iter().map(AsFd::as_fd).collect()
    }
}

/// Plain integers, or a struct of them: valid with any bits.
trait Plain: Copy {}
impl Plain for libc::ucred {}
impl Plain for libc::c_int {}

/// For a socket that was inherited or received. It must be a unix `SOCK_SEQPACKET`.
impl From<OwnedFd> for Packet {
    fn from(socket: OwnedFd) -> Self {
        Self { socket }
    }
}

impl From<Packet> for OwnedFd {
    fn from(packet: Packet) -> Self {
        packet.socket
    }
}

impl AsFd for Packet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Two connected ends, close-on-exec.
///
/// # Errors
/// What `socketpair` answers.
pub fn pair() -> io::Result<(Packet, Packet)> {
    let (a, b) = net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    Ok((a.into(), b.into()))
}

/// Connects to a listener.
///
/// # Errors
/// What `connect` answers: [`io::ErrorKind::NotFound`] and [`io::ErrorKind::ConnectionRefused`] mean
/// that nobody listens there.
pub fn connect(path: &Path) -> io::Result<Packet> {
    let socket = socket()?;
    rustix::io::retry_on_intr(|| net::connect(&socket, &SocketAddrUnix::new(path)?))?;
    Ok(socket.into())
}

/// Listens at a path with these permission bits. A socket left there by a listener that is gone is
/// replaced; anything else stays.
///
/// # Errors
/// [`io::ErrorKind::AddrInUse`] if someone listens there, or something that is not a socket is there;
/// else what the system calls answer.
pub fn listen(path: &Path, mode: u32) -> io::Result<Listener> {
    let stale = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
        && connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if stale {
        std::fs::remove_file(path)?;
    }
    let socket = socket()?;
    tell_senders(socket.as_fd())?;
    // The inode that `bind` makes takes its mode from the socket's, less the umask: it is never, not
    // even for an instant, more open than asked for.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(mode))?;
    net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    net::listen(&socket, BACKLOG)?;
    Ok(Listener { socket })
}

fn socket() -> io::Result<OwnedFd> {
    Ok(net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// A socket that takes connections.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
}

impl Listener {
    /// Waits for the next connection.
    ///
    /// # Errors
    /// What `accept` answers; `EMFILE` and the like pass with time.
    pub fn accept(&self) -> io::Result<Packet> {
        let socket =
            rustix::io::retry_on_intr(|| net::accept_with(&self.socket, SocketFlags::CLOEXEC))?;
        Ok(socket.into())
    }
}

/// For a listener that was inherited.
impl From<OwnedFd> for Listener {
    fn from(socket: OwnedFd) -> Self {
        Self { socket }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests;

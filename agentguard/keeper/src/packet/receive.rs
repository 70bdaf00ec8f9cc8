//! Receiving with what the kernel says beside the bytes: descriptors, and who sent them.
//!
//! By hand, because rustix cannot express the process id 0 of a sender outside our pid namespace.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::MAX_FDS;

/// What one call received.
#[derive(Debug)]
pub struct Received {
    /// How many bytes; 0 at the end of the connection.
    pub bytes: usize,
    /// The process that sent them, in our pid namespace. `None`: it has no number there, or the socket
    /// was not told to ask ([`tell_senders`]).
    pub sender: Option<u32>,
    /// The descriptors that came with them, close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// Whether bytes or descriptors did not fit, and are gone.
    pub cut: bool,
}

/// Has [`receive`] on this socket, or on those that it accepts, tell who sent something. Bytes of two
/// senders are then never given as one piece (unix(7), `SO_PASSCRED`). A listener is told before
/// anybody can connect: what was sent earlier has no sender.
///
/// # Errors
/// What `setsockopt` answers.
pub fn tell_senders(socket: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_passcred(socket, true)?)
}

/// Room for what comes beside the bytes, aligned as `cmsghdr`.
#[repr(C)]
union Control {
    _align: libc::cmsghdr,
    bytes: [u8; ROOM],
}

/// Room for [`MAX_FDS`] descriptors and a sender.
const ROOM: usize = space(MAX_FDS * size_of::<RawFd>()) + space(size_of::<libc::ucred>());

/// `CMSG_SPACE`.
const fn space(bytes: usize) -> usize {
    (size_of::<libc::cmsghdr>() + bytes).next_multiple_of(align_of::<libc::cmsghdr>())
}

/// Receives once from a unix socket: a packet, or what of a stream is there. Waits as the socket does.
///
/// # Errors
/// What `recvmsg` answers.
pub fn receive(socket: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<Received> {
    let mut control = Control { bytes: [0; ROOM] };
    let mut piece = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    // SAFETY: `msghdr` is plain integers and pointers, for which zero is a value.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut piece;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = ROOM;
    let bytes = loop {
        // SAFETY: `header` points at `into` and `control` with their lengths, and both are writable
        // and outlive the call.
        let got =
            unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        match usize::try_from(got) {
            Ok(got) => break got,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    };
    let mut received = Received {
        bytes,
        sender: None,
        fds: Vec::new(),
        cut: header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
    };
    // SAFETY: the kernel has filled in `msg_control` and `msg_controllen`; the headers that these two
    // give lie within.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !next.is_null() {
        // SAFETY: `next` is a header in `control`, not null; the kernel wrote it whole.
        let (level, kind, length) =
            unsafe { ((*next).cmsg_level, (*next).cmsg_type, (*next).cmsg_len) };
        // SAFETY: as before; what is given is only an address.
        let data = unsafe { libc::CMSG_DATA(next) };
        let length = length.saturating_sub(data.addr() - next.addr());
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for number in 0..length / size_of::<RawFd>() {
                    // SAFETY: the message has `length` bytes at `data`, so this is inside it; it may
                    // not be aligned.
                    let fd = unsafe { data.cast::<RawFd>().add(number).read_unaligned() };
                    // SAFETY: the kernel has just installed this descriptor for us, and nobody else
                    // knows its number.
                    received.fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
                }
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if length >= size_of::<libc::ucred>() => {
                // SAFETY: the message has as many bytes at `data`, and any are a `ucred`.
                let sender = unsafe { data.cast::<libc::ucred>().read_unaligned() };
                received.sender = u32::try_from(sender.pid).ok().filter(|pid| *pid > 0);
            }
            _ => {}
        }
        // SAFETY: `next` is a header in the `control` of this `header`.
        next = unsafe { libc::CMSG_NXTHDR(&raw const header, next) };
    }
    Ok(received)
}

//! Established TCP connections that may go on when their cgroup is adopted.
//!
//! The gate knows a socket by its storage, and one that is older than the gate has none. So the socket is
//! fetched from a process that has it open (pidfd_getfd(2)), looked at, and handed to whoever writes that
//! storage. From then on it is any TCP socket of the agent's: the gate lets its connection pass, which
//! has begun, and decides on every other that it would begin, since each takes a SYN.
//!
//! What is not plainly such a connection is not taken: it is closed with the rest.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use agentguard_common::address::Address;
use agentguard_common::event::reason;
use agentguard_common::map::{SocketEntry, TCP};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::held::Holder;
use super::{Found, OldSocket, described};
use crate::namespace;

/// `net/tcp_states.h`: both sides can send, or ours still can.
const ESTABLISHED: u8 = 1;
const CLOSE_WAIT: u8 = 8;

const AF_INET: u8 = 2;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;

/// An established TCP connection, taken from a process that has it open.
#[derive(Debug)]
pub struct Connection {
    /// The very socket.
    pub socket: OwnedFd,
    /// What it is.
    pub told: OldSocket,
    /// The cookie of its network namespace.
    netns: u64,
    /// Its own.
    pub(crate) cookie: u64,
    is_as_listed: bool,
    /// Who has it open: process, user, name.
    pid: u32,
    uid: u32,
    comm: [u8; 16],
}

impl Connection {
    /// Whether its peer is told as the kernel lists it. That of one which dialled a virtual address under the gate
    /// is not.
    pub(super) fn is_as_listed(&self) -> bool {
        self.is_as_listed
    }

    /// What the gate is to know of it, for an agent whose key in `AGENTS` is `cgroup`: that it is a TCP
    /// socket which has dialled nothing under the gate, and why it is there.
    #[must_use]
    pub fn entry(&self, cgroup: u64, agent: u32) -> SocketEntry {
        let (dialled, dialled_port) = match self.told.remote {
            Some(remote) => (Address::from(remote.ip()), remote.port()),
            None => (Address::UNSPECIFIED, 0),
        };
        SocketEntry {
            cgroup,
            agent,
            netns: self.netns,
            socket: self.cookie,
            transport: TCP,
            reason: reason::TOLERATED,
            dialled,
            dialled_port,
            pid: self.pid,
            uid: self.uid,
            comm: self.comm,
            ..SocketEntry::default()
        }
    }
}

/// Whether the kernel listed a connection that may be taken: TCP, over which we can still send.
pub(super) fn is_connection(found: &Found, protocol: u8) -> bool {
    protocol == IPPROTO_TCP && matches!(found.state, ESTABLISHED | CLOSE_WAIT)
}

/// Whether the kernel listed a connection, or a UDP socket that is connected.
pub(super) fn is_connected(found: &Found, protocol: u8) -> bool {
    is_connection(found, protocol) || protocol == IPPROTO_UDP && found.state == ESTABLISHED
}

/// Takes a connection from a process that has it open.
///
/// # Errors
/// The process or its descriptor is gone, or is another socket by now, or is not what it was listed as.
pub(super) fn take(
    found: &Found,
    holder: Holder,
    family: u8,
    protocol: u8,
) -> io::Result<Connection> {
    let other = || io::Error::from(io::ErrorKind::NotFound);
    let told = described(&found.id, family, protocol).ok_or_else(other)?;
    let pid = thread_group(holder.thread)?;
    let socket = fetch_of(pid, holder.descriptor)?;
    let (Some(remote), true) = (told.remote, same(&socket, found)?) else {
        return Err(other());
    };
    let expected = if family == AF_INET {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let is = |option, value| integer(socket.as_fd(), option).map(|found| found == value);
    let peer = rustix::net::getpeername(&socket)?;
    let peer = peer.and_then(|it| SocketAddr::try_from(it).ok());
    let is_as_listed = peer.is_some_and(|peer| {
        peer.ip().to_canonical() == remote.ip() && peer.port() == remote.port()
    });
    // Multipath TCP has sockets of its own beneath, which nobody has open.
    let plain = is(libc::SO_PROTOCOL, protocol.into())? && is(libc::SO_DOMAIN, expected)?;
    let stands =
        protocol != IPPROTO_TCP || matches!(state(socket.as_fd())?, ESTABLISHED | CLOSE_WAIT);
    if !plain || !stands {
        return Err(other());
    }
    let owner = fs::metadata(format!("/proc/{pid}"))?;
    let mut comm = [0; 16];
    let name = fs::read(format!("/proc/{pid}/comm"))?;
    for (to, from) in comm.iter_mut().take(15).zip(name.trim_ascii_end()) {
        *to = *from;
    }
    Ok(Connection {
        netns: namespace::cookie(socket.as_fd()).map_err(io::Error::other)?,
        cookie: rustix::net::sockopt::socket_cookie(&socket)?,
        socket,
        told,
        is_as_listed,
        pid,
        uid: owner.uid(),
        comm,
    })
}

/// Fetches what a process has open. The numbers of descriptors are of a thread's table; only a process's first
/// thread can be asked. Where its table is another, what is fetched is something else, or nothing.
pub(super) fn fetch(holder: Holder) -> io::Result<OwnedFd> {
    fetch_of(thread_group(holder.thread)?, holder.descriptor)
}

fn fetch_of(pid: u32, descriptor: i32) -> io::Result<OwnedFd> {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = process.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let pidfd = pidfd_open(process, PidfdFlags::empty())?;
    Ok(pidfd_getfd(&pidfd, descriptor, PidfdGetfdFlags::empty())?)
}

/// Whether a socket is the one that was listed: by its cookie, which no other ever has.
fn same(socket: &OwnedFd, found: &Found) -> io::Result<bool> {
    let half = |at: usize| {
        let bytes = found.id.get(at..at + 4)?.try_into().ok()?;
        Some(u64::from(u32::from_ne_bytes(bytes)))
    };
    // `idiag_cookie` of `struct inet_diag_sockid`: the lower half first.
    let (Some(low), Some(high)) = (half(40), half(44)) else {
        return Ok(false);
    };
    // What is no socket at all has none.
    Ok(rustix::net::sockopt::socket_cookie(socket)? == low | high << 32)
}

/// The process of a thread.
fn thread_group(thread: u32) -> io::Result<u32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// An option of a socket that is a number.
fn integer(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<libc::c_int> {
    let mut value = [0; size_of::<libc::c_int>()];
    read(socket, libc::SOL_SOCKET, option, &mut value)?;
    Ok(libc::c_int::from_ne_bytes(value))
}

/// The state of a TCP socket: the first byte of `struct tcp_info`.
fn state(socket: BorrowedFd<'_>) -> io::Result<u8> {
    let mut value = [0; 1];
    read(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut value)?;
    Ok(value[0])
}

fn read(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &mut [u8],
) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: `value` is writable for `length` bytes, and the kernel writes at most that many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd as _;

    use super::*;
    use crate::sockets::ID;

    /// As sock_diag lists a socket of ours.
    fn listed(socket: &impl AsFd, local: SocketAddr, remote: SocketAddr) -> Found {
        let mut id = [0; ID];
        id[..2].copy_from_slice(&local.port().to_be_bytes());
        id[2..4].copy_from_slice(&remote.port().to_be_bytes());
        id[4..8].copy_from_slice(&[127, 0, 0, 1]);
        id[20..24].copy_from_slice(&[127, 0, 0, 1]);
        let cookie = rustix::net::sockopt::socket_cookie(socket).unwrap();
        id[40..48].copy_from_slice(&cookie.to_ne_bytes());
        Found {
            id,
            cgroup: 1,
            inode: 2,
            state: ESTABLISHED,
        }
    }

    #[test]
    fn a_connection_is_taken_only_if_it_is_the_one_that_was_listed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let client = TcpStream::connect(at).unwrap();
        let from = client.local_addr().unwrap();
        let (server, _) = listener.accept().unwrap();
        let thread = std::process::id();
        let holder = |descriptor| Holder { thread, descriptor };
        let found = listed(&client, from, at);
        let taken = take(&found, holder(client.as_raw_fd()), AF_INET, IPPROTO_TCP).unwrap();
        let entry = taken.entry(7, 3);
        assert_eq!((entry.cgroup, entry.agent, entry.transport), (7, 3, TCP));
        assert_eq!((entry.dialled_port, entry.pid), (at.port(), thread));
        assert_ne!((entry.netns, entry.socket), (0, 0));
        // Nothing is let go that begins: no destination is noted.
        assert_eq!((entry.state, entry.seal, entry.effective_port), (0, 0, 0));

        // Another socket in its place, what is no socket, a number that is free, a process that is gone.
        let null = fs::File::open("/dev/null").unwrap();
        for descriptor in [server.as_raw_fd(), null.as_raw_fd(), 1 << 20] {
            assert!(take(&found, holder(descriptor), AF_INET, IPPROTO_TCP).is_err());
        }
        let gone = Holder {
            thread: 1 << 23,
            descriptor: 0,
        };
        assert!(take(&found, gone, AF_INET, IPPROTO_TCP).is_err());
        // The very socket, but another family, a listener, and a datagram socket.
        assert!(take(&found, holder(client.as_raw_fd()), 10, IPPROTO_TCP).is_err());
        let listening = listed(&listener, at, from);
        assert!(
            take(
                &listening,
                holder(listener.as_raw_fd()),
                AF_INET,
                IPPROTO_TCP
            )
            .is_err()
        );
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.connect(at).unwrap();
        let datagrams = listed(&udp, from, at);
        assert!(take(&datagrams, holder(udp.as_raw_fd()), AF_INET, IPPROTO_TCP).is_err());
        // A datagram socket as one.
        take(&datagrams, holder(udp.as_raw_fd()), AF_INET, IPPROTO_UDP).unwrap();
        let elsewhere = listed(&client, from, from);
        let elsewhere = take(&elsewhere, holder(client.as_raw_fd()), AF_INET, IPPROTO_TCP).unwrap();
        assert!(taken.is_as_listed() && !elsewhere.is_as_listed());
        // It has ended meanwhile.
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(take(&found, holder(client.as_raw_fd()), AF_INET, IPPROTO_TCP).is_err());
    }

    #[test]
    fn only_tcp_that_is_established_is_a_connection() {
        let found = |state| Found {
            id: [0; ID],
            cgroup: 1,
            inode: 2,
            state,
        };
        for state in 0..=12 {
            let expected = state == ESTABLISHED || state == CLOSE_WAIT;
            assert_eq!(is_connection(&found(state), 6), expected, "{state}");
            assert!(!is_connection(&found(state), 17), "{state}");
        }
    }
}

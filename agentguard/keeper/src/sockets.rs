//! Ending an agent's sockets from outside, so that their owners see `ECONNABORTED` and not a silence.
//!
//! `SOCK_DESTROY` of sock_diag(7) (`net/ipv4/inet_diag.c`, `CONFIG_INET_DIAG_DESTROY`). A socket belongs
//! to the cgroup in which it was made, whoever holds it now; sock_diag tells that
//! (`INET_DIAG_CGROUP_ID`, Linux 5.8), and tells only of the network namespace that asks. So each
//! namespace is entered in which a process of the agent lives. A socket in a namespace that all of
//! them have left is not found; nor is one whose cgroup was removed. What is not found stays cut
//! off by the gate, and its owner waits.

mod held;
mod kept;
mod local;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};
use serde::{Deserialize, Serialize};

use crate::home::{self, Bounds, NamespaceId, Step, Walk};
use crate::namespace;
use held::Held;
pub use kept::Connection;
pub use local::{Shut, shut_local};

/// What of one agent is looked through.
const BOUNDS: Bounds = Bounds {
    cgroups: 20_000,
    threads: 200_000,
};
/// Namespaces that are entered.
const NAMESPACES: usize = 1024;
/// How long is looked for an agent's sockets.
const SEARCH: Duration = Duration::from_secs(10);
/// How long the kernel may take for one answer: it gives it within the call.
const PATIENCE: Duration = Duration::from_secs(5);

/// `linux/sock_diag.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// `linux/netlink.h`.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x001;
const NLM_F_ACK: u16 = 0x004;
const NLM_F_DUMP: u16 = 0x300;
/// `linux/inet_diag.h`.
const INET_DIAG_CGROUP_ID: u16 = 21;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Length of `struct inet_diag_sockid`: ports, addresses, device, cookie.
const ID: usize = 48;
/// Length of `struct inet_diag_msg`.
const MESSAGE: usize = 72;
/// Where the inode number is in it.
const INODE: usize = 68;
/// Length of a request: header and `struct inet_diag_req_v2`.
const REQUEST: usize = HEADER + 8 + ID;

/// What is looked through: `AF_*`, `IPPROTO_*`, and its name.
const KINDS: [(u8, u8, &str); 4] = [
    (2, 6, "TCP over IPv4"),
    (10, 6, "TCP over IPv6"),
    (2, 17, "UDP over IPv4"),
    (10, 17, "UDP over IPv6"),
];

/// Sockets that are told of one by one.
pub const TOLD: usize = 1024;

/// A socket that was there before.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct OldSocket {
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u8,
    /// Its own address.
    pub local: SocketAddr,
    /// Where it was connected to. `None`: it listened, or was not connected.
    pub remote: Option<SocketAddr>,
}

/// What became of an agent's sockets.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Destroyed {
    /// Sockets that were ended.
    pub sockets: usize,
    /// The first of them, at most [`TOLD`].
    pub told: Vec<OldSocket>,
    /// Connections that were let go on.
    pub kept: usize,
    /// The first of them, at most [`TOLD`].
    pub told_kept: Vec<OldSocket>,
    /// Those that were to be chosen from, and could not be taken from a process.
    pub unseen: usize,
    /// What could not be done, a sentence each, without repetition.
    pub failures: Vec<String>,
}

/// Ends the TCP and UDP sockets that were made in these cgroups or below them, in every network
/// namespace that a process there lives in, in those `beside`, and in the caller's.
#[must_use]
pub fn destroy(cgroups: &[PathBuf], beside: Vec<OwnedFd>) -> Destroyed {
    destroy_of(Home::default(), cgroups, beside, &Which::All)
}

/// As [`destroy`], and also those that a process there has open, wherever they were made: the gate knows
/// a socket by the cgroup that it was made in, and would not see them. What lies in the queue of a UNIX
/// socket or is registered with an io_uring is in no table of descriptors, and is not found.
#[must_use]
pub fn destroy_held(cgroups: &[PathBuf]) -> Destroyed {
    destroy_of(Home::with_held(), cgroups, Vec::new(), &Which::All)
}

/// As [`destroy_held`], but for established TCP connections whose socket was made in these cgroups and is
/// open in a process there: each is offered to `keep`, and goes on where that takes it. What was made
/// elsewhere is not offered, since the gate would not see it.
#[must_use]
pub fn destroy_held_except(cgroups: &[PathBuf], keep: Choice<'_>) -> Destroyed {
    destroy_of(Home::with_held(), cgroups, Vec::new(), &Which::Except(keep))
}

/// Ends those established TCP connections alone, of what [`destroy_held_except`] offers, of which `which` is
/// true.
#[must_use]
pub fn destroy_connections(cgroups: &[PathBuf], which: Choice<'_>) -> Destroyed {
    destroy_of(Home::with_held(), cgroups, Vec::new(), &Which::Only(which))
}

/// Ends those connections and connected UDP sockets that were made in these cgroups of which `which` is true. Those
/// that cannot be taken from a process are counted, and ended if `unseen` is true of what the kernel lists.
#[must_use]
pub fn destroy_connected(
    cgroups: &[PathBuf],
    which: Choice<'_>,
    unseen: &(dyn Fn(&OldSocket) -> bool + Sync),
) -> Destroyed {
    destroy_of(
        Home::with_held(),
        cgroups,
        Vec::new(),
        &Which::Connected { which, unseen },
    )
}

/// Decides on a connection.
pub type Choice<'a> = &'a (dyn Fn(&Connection) -> bool + Sync);

/// Which sockets are ended.
enum Which<'a> {
    All,
    Except(Choice<'a>),
    Only(Choice<'a>),
    /// Connected UDP sockets too, and what cannot be taken by what is listed.
    Connected {
        which: Choice<'a>,
        unseen: &'a (dyn Fn(&OldSocket) -> bool + Sync),
    },
}

/// What [`destroy_held`] would leave out of what a cgroup's processes have open, a reason each.
#[must_use]
pub fn unseen(cgroup: &Path) -> Vec<String> {
    let mut home = Home::with_held();
    home.add(vec![cgroup.to_owned()]);
    home.omitted.into_iter().collect()
}

fn destroy_of(
    mut home: Home,
    cgroups: &[PathBuf],
    beside: Vec<OwnedFd>,
    which: &Which<'_>,
) -> Destroyed {
    let mut destroyed = Destroyed::default();
    let here = File::open("/proc/thread-self/ns/net").map(OwnedFd::from);
    for namespace in here.into_iter().chain(beside) {
        if let Ok(id) = NamespaceId::of(&namespace) {
            home.namespaces.insert(id, namespace);
        }
    }
    home.add(cgroups.to_vec());
    for omitted in &home.omitted {
        destroyed.note(&format!("sockets may be left: {omitted}"));
    }
    for namespace in home.namespaces.values() {
        let ended = namespace::inside(namespace.as_fd(), || end_here(&home, which));
        match ended {
            Ok(ended) => {
                destroyed.sockets += ended.sockets;
                let room = TOLD.saturating_sub(destroyed.told.len());
                destroyed.told.extend(ended.told.into_iter().take(room));
                destroyed.kept += ended.kept;
                destroyed.unseen += ended.unseen;
                let room = TOLD.saturating_sub(destroyed.told_kept.len());
                let kept = ended.told_kept.into_iter().take(room);
                destroyed.told_kept.extend(kept);
                for failure in &ended.failures {
                    destroyed.note(failure);
                }
            }
            Err(error) => destroyed.note(&error.to_string()),
        }
    }
    destroyed
}

impl Destroyed {
    fn note(&mut self, failure: &str) {
        if !self.failures.iter().any(|noted| noted == failure) {
            self.failures.push(failure.to_owned());
        }
    }
}

/// Where an agent lives.
#[derive(Default)]
struct Home {
    /// Ids, which are inode numbers.
    cgroups: HashSet<u64>,
    namespaces: HashMap<NamespaceId, OwnedFd>,
    /// The sockets that threads have open, where they count.
    held: Option<Held>,
    /// What was not looked at, a reason each.
    omitted: BTreeSet<String>,
}

impl Home {
    fn with_held() -> Self {
        Self {
            held: Some(Held::default()),
            ..Self::default()
        }
    }

    /// Cgroups and what is below them. Each thread: it may have left its process's namespace, and share
    /// no descriptors with it.
    fn add(&mut self, tops: Vec<PathBuf>) {
        let mut walk = Walk::new(tops, BOUNDS);
        let finished = walk.advance(Instant::now() + SEARCH, |step| match step {
            Step::Cgroup(path) => {
                if let Ok(metadata) = fs::metadata(path) {
                    self.cgroups.insert(metadata.ino());
                }
            }
            Step::Thread(thread) => {
                if let Err(error) = self.add_namespace(thread) {
                    self.omit(format!("a thread's network namespace: {error}"));
                }
                if let Some(held) = &mut self.held {
                    held.add(thread);
                }
            }
        });
        if !finished {
            self.omit(format!("looking takes longer than {} s", SEARCH.as_secs()));
        }
        self.omitted.extend(walk.omitted().iter().cloned());
        let held = self.held.iter().flat_map(Held::omitted);
        self.omitted.extend(held);
    }

    fn has(&self, socket: &Found) -> bool {
        self.cgroups.contains(&socket.cgroup)
            || self
                .held
                .as_ref()
                .is_some_and(|held| held.has(socket.inode))
    }

    /// Takes a connection that was made here from a process that has it open.
    fn take(&self, socket: &Found, family: u8, protocol: u8) -> Option<Connection> {
        let holder = self.held.as_ref()?.holder(socket.inode)?;
        kept::take(socket, holder, family, protocol).ok()
    }

    /// Whether a socket is a connection that is chosen. What cannot be taken is not offered.
    fn chosen(
        &self,
        socket: &Found,
        family: u8,
        protocol: u8,
        choice: Choice<'_>,
    ) -> Option<OldSocket> {
        if !kept::is_connection(socket, protocol) || !self.cgroups.contains(&socket.cgroup) {
            return None;
        }
        let connection = self.take(socket, family, protocol)?;
        (connection.is_as_listed() && choice(&connection)).then_some(connection.told)
    }

    /// One that has ended has no namespace any more. A stranger who got its number has one without
    /// sockets of these cgroups.
    fn add_namespace(&mut self, thread: u32) -> io::Result<()> {
        let Some(id) = home::namespace_of(thread)? else {
            return Ok(());
        };
        if self.namespaces.contains_key(&id) {
            return Ok(());
        }
        if self.namespaces.len() >= NAMESPACES {
            self.omit(format!("more than {NAMESPACES} network namespaces"));
        } else if let Some(namespace) = home::open(thread, id)? {
            self.namespaces.insert(id, namespace);
        }
        Ok(())
    }

    fn omit(&mut self, what: String) {
        self.omitted.insert(what);
    }
}

/// Ends the sockets of an agent in the calling thread's namespace.
fn end_here(home: &Home, which: &Which<'_>) -> Destroyed {
    let mut destroyed = Destroyed::default();
    for (family, protocol, name) in KINDS {
        let ended = found(family, protocol, home).and_then(|found| {
            let socket = open()?;
            for it in found {
                match which {
                    Which::All => {}
                    Which::Except(keep) => {
                        if let Some(kept) = home.chosen(&it, family, protocol, *keep) {
                            destroyed.kept += 1;
                            if destroyed.told_kept.len() < TOLD {
                                destroyed.told_kept.push(kept);
                            }
                            continue;
                        }
                    }
                    Which::Only(which) => {
                        if home.chosen(&it, family, protocol, *which).is_none() {
                            continue;
                        }
                    }
                    Which::Connected { which, unseen } => {
                        let made_here = home.cgroups.contains(&it.cgroup);
                        if !made_here || !kept::is_connected(&it, protocol) {
                            continue;
                        }
                        let ends = if let Some(connection) = home.take(&it, family, protocol) {
                            which(&connection)
                        } else {
                            destroyed.unseen += 1;
                            described(&it.id, family, protocol).is_some_and(|told| unseen(&told))
                        };
                        if !ends {
                            continue;
                        }
                    }
                }
                match end(socket.as_fd(), family, protocol, &it.id) {
                    Ok(()) => {
                        destroyed.sockets += 1;
                        if destroyed.told.len() < TOLD {
                            destroyed.told.extend(described(&it.id, family, protocol));
                        }
                    }
                    // It is over already, or another socket of its port stands before it.
                    Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        if let Err(error) = ended {
            destroyed.note(&format!("sockets of {name} are not ended: {}", why(&error)));
        }
    }
    destroyed
}

fn why(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "the kernel cannot list them (CONFIG_INET_DIAG)".to_owned(),
        Some(libc::EOPNOTSUPP) => {
            "the kernel cannot end them (CONFIG_INET_DIAG_DESTROY)".to_owned()
        }
        _ => error.to_string(),
    }
}

fn open() -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    Ok(socket)
}

/// A socket that the kernel listed.
#[derive(Debug, Eq, PartialEq)]
struct Found {
    id: [u8; ID],
    cgroup: u64,
    /// 0: no process has it open.
    inode: u64,
    /// Of `net/tcp_states.h`.
    state: u8,
}

/// The addresses in a `struct inet_diag_sockid`: ports and addresses, all in network order.
fn described(id: &[u8; ID], family: u8, protocol: u8) -> Option<OldSocket> {
    let address = |port: usize, ip: usize| {
        let port = u16::from_be_bytes(id.get(port..port + 2)?.try_into().ok()?);
        let ip = id.get(ip..ip + 16)?;
        let ip = if family == 2 {
            IpAddr::from(*ip.first_chunk::<4>()?)
        } else {
            IpAddr::from(*ip.first_chunk::<16>()?)
        };
        Some(SocketAddr::new(ip.to_canonical(), port))
    };
    Some(OldSocket {
        protocol,
        local: address(0, 4)?,
        remote: address(2, 20).filter(|remote| remote.port() != 0),
    })
}

/// The sockets of an agent.
fn found(family: u8, protocol: u8, home: &Home) -> io::Result<Vec<Found>> {
    let socket = open()?;
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request = request(SOCK_DIAG_BY_FAMILY, flags, family, protocol, &[0; ID]);
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    let mut sockets = Vec::new();
    // The kernel fills at most this much at once (`netlink_dump`).
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let (length, _) = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())
        })?;
        let mut left = buffer.get(..length).unwrap_or_default();
        while let Some((kind, payload, rest)) = next_message(left) {
            left = rest;
            match kind {
                NLMSG_DONE => return Ok(sockets),
                NLMSG_ERROR => return Err(error_in(payload)),
                SOCK_DIAG_BY_FAMILY => {
                    if let Some(socket) = socket_in(payload)
                        && home.has(&socket)
                    {
                        sockets.push(socket);
                    }
                }
                _ => {}
            }
        }
    }
}

/// Ends one socket.
fn end(socket: BorrowedFd<'_>, family: u8, protocol: u8, id: &[u8; ID]) -> io::Result<()> {
    let request = request(
        SOCK_DESTROY,
        NLM_F_REQUEST | NLM_F_ACK,
        family,
        protocol,
        id,
    );
    rustix::net::send(socket, &request, SendFlags::empty())?;
    let mut answer = [0; 1024];
    let (length, _) =
        rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut answer, RecvFlags::empty()))?;
    match next_message(answer.get(..length).unwrap_or_default()) {
        Some((NLMSG_ERROR, payload, _)) if payload.get(..4) == Some(&[0; 4]) => Ok(()),
        Some((NLMSG_ERROR, payload, _)) => Err(error_in(payload)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`: every state, no extensions.
fn request(kind: u16, flags: u16, family: u8, protocol: u8, id: &[u8; ID]) -> Vec<u8> {
    const LENGTH: u32 = 72;
    const { assert!(LENGTH as usize == REQUEST) };
    let mut request = Vec::with_capacity(REQUEST);
    request.extend(LENGTH.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    // Number of the request, and our address: the kernel fills it in.
    request.extend([0; 8]);
    request.extend([family, protocol, 0, 0]);
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(id);
    request
}

/// The first message: its type, its payload, and what follows it. `None` at the end.
fn next_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(bytes.first_chunk().copied()?)).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let payload = bytes.get(HEADER..length)?;
    let next = length.next_multiple_of(4).min(bytes.len());
    Some((kind, payload, bytes.get(next..)?))
}

/// The error number that an answer of type `NLMSG_ERROR` begins with, negative.
fn error_in(payload: &[u8]) -> io::Error {
    match payload.first_chunk() {
        Some(number) => io::Error::from_raw_os_error(i32::from_ne_bytes(*number).wrapping_neg()),
        None => io::ErrorKind::InvalidData.into(),
    }
}

/// A socket (`struct inet_diag_msg`, then attributes). `None` for what belongs to no cgroup: half-open
/// and timed-out connections.
fn socket_in(payload: &[u8]) -> Option<Found> {
    let id = payload.get(4..4 + ID)?.try_into().ok()?;
    let inode = u32::from_ne_bytes(payload.get(INODE..INODE + 4)?.try_into().ok()?).into();
    let state = *payload.get(1)?;
    let mut left = payload.get(MESSAGE..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(left.first_chunk().copied()?));
        let kind = u16::from_ne_bytes(left.get(2..4)?.try_into().ok()?);
        let value = left.get(4..length)?;
        if kind == INET_DIAG_CGROUP_ID {
            let cgroup = u64::from_ne_bytes(value.try_into().ok()?);
            return Some(Found {
                id,
                cgroup,
                inode,
                state,
            });
        }
        left = left.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with one attribute of this type and value.
    fn answer(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut payload = vec![7; MESSAGE];
        payload.extend(8_u16.to_ne_bytes());
        payload.extend(1_u16.to_ne_bytes());
        payload.extend([0; 4]);
        payload.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
        payload.extend(kind.to_ne_bytes());
        payload.extend(value);
        payload
    }

    #[test]
    fn the_cgroup_is_found_behind_other_attributes_and_nothing_is_made_of_rubbish() {
        let told = answer(INET_DIAG_CGROUP_ID, &42_u64.to_ne_bytes());
        let found = Found {
            id: [7; ID],
            cgroup: 42,
            inode: 0x0707_0707,
            state: 7,
        };
        assert_eq!(socket_in(&told), Some(found));
        assert_eq!(socket_in(&answer(5, &[0; 8])), None);
        assert_eq!(socket_in(&answer(INET_DIAG_CGROUP_ID, &[0; 3])), None);
        for length in 0..told.len() {
            assert_eq!(socket_in(&told[..length]), None, "{length}");
        }
        // A length of zero must not go round for ever.
        let mut stuck = vec![0; MESSAGE];
        stuck.extend([0; 8]);
        assert_eq!(socket_in(&stuck), None);
    }

    #[test]
    fn messages_are_taken_apart_and_a_length_that_lies_ends_it() {
        let one = request(SOCK_DESTROY, NLM_F_REQUEST, 2, 6, &[1; ID]);
        assert_eq!(one.len(), REQUEST);
        let two = [one.clone(), one.clone()].concat();
        let (kind, payload, rest) = next_message(&two).unwrap();
        assert_eq!((kind, payload.len(), rest.len()), (SOCK_DESTROY, 56, 72));
        assert!(next_message(&rest[..71]).is_none());
        assert!(next_message(&[]).is_none());
        let mut short = one;
        short[..4].copy_from_slice(&3_u32.to_ne_bytes());
        assert!(next_message(&short).is_none());
    }
}

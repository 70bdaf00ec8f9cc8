//! Connections to daemons outside, over UNIX sockets, that are older than the gate.
//!
//! LSM programs are asked when such a socket is connected, and not again. So one that is open at an adoption is
//! fetched from a process that has it (pidfd_getfd(2)) and shut down, which is for everybody who has it: both
//! ends see the end of the connection. Datagram sockets are left: those programs are asked for each datagram.

use std::collections::BTreeSet;
use std::io;
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::net::SocketType;
use rustix::net::sockopt::{socket_peercred, socket_type};

use super::held::{Held, Holder};
use super::{BOUNDS, SEARCH, TOLD, kept};
use crate::home::{Step, Walk};

/// What became of them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Shut {
    /// Connections that were shut down.
    pub connections: usize,
    /// What the first of their peers are called, at most [`TOLD`]; an abstract name with an `@` before it.
    pub told: Vec<String>,
    /// What could not be done, a sentence each, without repetition.
    pub failures: BTreeSet<String>,
}

/// Shuts down what the processes of a cgroup and below it have connected to peers outside of which `refused` is
/// true: of the name that the peer was given by bind(2), which begins with a zero where it is abstract.
#[must_use]
pub fn shut_local(cgroup: &Path, refused: &dyn Fn(&[u8]) -> bool) -> Shut {
    let mut shut = Shut::default();
    let mut held = Held::default();
    let mut threads = BTreeSet::new();
    let mut walk = Walk::new(vec![PathBuf::from(cgroup)], BOUNDS);
    let finished = walk.advance(Instant::now() + SEARCH, |step| {
        if let Step::Thread(thread) = step {
            threads.insert(thread);
            held.add(thread);
        }
    });
    let left_out = walk.omitted().iter().cloned().chain(held.omitted());
    let late = (!finished).then(|| format!("looking takes longer than {} s", SEARCH.as_secs()));
    for omitted in left_out.chain(late) {
        shut.failures.insert(format!(
            "connections to local daemons may be left: {omitted}"
        ));
    }
    for (inode, holder) in held.all() {
        match is_local(holder).and_then(|local| match local {
            true => shut_one(inode, holder, &threads, refused),
            false => Ok(None),
        }) {
            Ok(Some(name)) => {
                shut.connections += 1;
                if shut.told.len() < TOLD {
                    shut.told.push(name);
                }
            }
            Ok(None) => {}
            // It was closed meanwhile.
            Err(error) if crate::home::is_over(&error) => {}
            Err(error) => {
                shut.failures.insert(format!(
                    "a UNIX socket cannot be looked at, and may lead to a local daemon: {error}"
                ));
            }
        }
    }
    shut
}

/// Whether a socket is of AF_UNIX.
fn is_local(holder: Holder) -> io::Result<bool> {
    let Holder { thread, descriptor } = holder;
    let mut name = [0; 32];
    let path = format!("/proc/{thread}/fd/{descriptor}");
    let length = rustix::fs::getxattr(path, "system.sockprotoname", &mut name)?;
    Ok(name
        .get(..length)
        .is_some_and(|name| name.starts_with(b"UNIX")))
}

/// Shuts one down, if that is to be done. With what its peer is called.
fn shut_one(
    inode: u64,
    holder: Holder,
    threads: &BTreeSet<u32>,
    refused: &dyn Fn(&[u8]) -> bool,
) -> io::Result<Option<String>> {
    let socket = kept::fetch(holder)?;
    // Its descriptor may be another's by now, or its thread's alone.
    if rustix::fs::fstat(&socket)?.st_ino != inode {
        return Err(io::Error::other("its descriptor is another in its process"));
    }
    if socket_type(&socket)? == SocketType::DGRAM {
        return Ok(None);
    }
    // Whatever its type, its address is a UNIX one.
    let socket = UnixStream::from(socket);
    let name = match socket.peer_addr() {
        Ok(peer) => name_of(&peer),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => None,
        Err(error) => return Err(error),
    };
    let Some(name) = name else {
        return Ok(None);
    };
    // Who listened there, when it began to.
    let own = socket_peercred(&socket)
        .is_ok_and(|it| threads.contains(&it.pid.as_raw_nonzero().get().cast_unsigned()));
    if own || !refused(&name) {
        return Ok(None);
    }
    socket.shutdown(Shutdown::Both)?;
    Ok(Some(shown(&name)))
}

/// The name that a socket was given. `None`: none.
fn name_of(address: &SocketAddr) -> Option<Vec<u8>> {
    if let Some(name) = address.as_abstract_name() {
        return Some([b"\0", name].concat());
    }
    let path = address.as_pathname()?;
    Some(path.as_os_str().as_bytes().to_vec())
}

fn shown(name: &[u8]) -> String {
    match name.split_first() {
        Some((0, name)) => format!("@{}", String::from_utf8_lossy(name)),
        _ => String::from_utf8_lossy(name).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsRawFd as _;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A socket of ours, as it is found.
    fn found(socket: &UnixStream) -> (u64, Holder) {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        let holder = Holder {
            thread: thread.cast_unsigned(),
            descriptor: socket.as_raw_fd(),
        };
        (rustix::fs::fstat(socket).unwrap().st_ino, holder)
    }

    #[test]
    fn a_connection_to_a_refused_peer_outside_ends_for_everybody_and_no_other_does() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("daemon");
        let listener = UnixListener::bind(&path).unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let (inode, holder) = found(&client);
        assert!(is_local(holder).unwrap());
        let name = path.to_str().unwrap().as_bytes();
        let refused = |asked: &[u8]| asked == name;
        let shut = |threads: &BTreeSet<u32>, refused: &dyn Fn(&[u8]) -> bool| {
            shut_one(inode, holder, threads, refused).unwrap()
        };
        let nobody = BTreeSet::new();
        // It is allowed, or the agent's own.
        assert_eq!(shut(&nobody, &|_| false), None);
        assert_eq!(shut(&BTreeSet::from([std::process::id()]), &refused), None);
        // The daemon's end of it, whose peer has no name.
        let (other, end) = found(&server);
        assert_eq!(shut_one(other, end, &nobody, &|_| true).unwrap(), None);
        // Another has its number.
        assert!(shut_one(other, holder, &nobody, &refused).is_err());
        client.write_all(b"x").unwrap();
        assert_eq!(shut(&nobody, &refused), path.to_str().map(str::to_owned));
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        assert!(client.write_all(b"x").is_err());
        // What was sent before arrives.
        let mut left = Vec::new();
        server.read_to_end(&mut left).unwrap();
        assert_eq!(left, b"x");
    }

    #[test]
    fn an_abstract_name_is_shown_as_it_is_written_elsewhere() {
        assert_eq!(shown(b"\0one"), "@one");
        assert_eq!(shown(b"/run/one"), "/run/one");
    }
}

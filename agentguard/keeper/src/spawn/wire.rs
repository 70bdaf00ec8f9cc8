//! Between the keeper and a command's monitor: records of three numbers, because the monitor may
//! not allocate.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// The bytes of a record.
pub(super) const LENGTH: usize = 12;

/// What a record means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Record {
    /// To the keeper: this stage failed with this errno.
    Failed(i32, i32),
    /// To the keeper: stopped by this signal.
    Stopped(i32),
    /// To the keeper: ended with this code.
    Exited(i32),
    /// To the keeper: ended by this signal.
    Killed(i32),
    /// To the monitor: send this signal to the command's group.
    Signal(i32),
    /// To the monitor: continue in the foreground (1) or background (0).
    Resume(bool),
}

impl Record {
    pub(super) const fn encode(self) -> [u8; LENGTH] {
        let (kind, a, b): (i32, i32, i32) = match self {
            Self::Failed(stage, errno) => (1, stage, errno),
            Self::Stopped(signal) => (2, signal, 0),
            Self::Exited(code) => (3, code, 0),
            Self::Killed(signal) => (4, signal, 0),
            Self::Signal(signal) => (5, signal, 0),
            Self::Resume(foreground) => (6, foreground as i32, 0),
        };
        let [k0, k1, k2, k3] = kind.to_ne_bytes();
        let [a0, a1, a2, a3] = a.to_ne_bytes();
        let [b0, b1, b2, b3] = b.to_ne_bytes();
        [k0, k1, k2, k3, a0, a1, a2, a3, b0, b1, b2, b3]
    }

    pub(super) const fn decode(bytes: [u8; LENGTH]) -> Option<Self> {
        let [k0, k1, k2, k3, a0, a1, a2, a3, b0, b1, b2, b3] = bytes;
        let a = i32::from_ne_bytes([a0, a1, a2, a3]);
        let b = i32::from_ne_bytes([b0, b1, b2, b3]);
        Some(match i32::from_ne_bytes([k0, k1, k2, k3]) {
            1 => Self::Failed(a, b),
            2 => Self::Stopped(a),
            3 => Self::Exited(a),
            4 => Self::Killed(a),
            5 => Self::Signal(a),
            6 => Self::Resume(a != 0),
            _ => return None,
        })
    }
}

/// The two ends.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// The keeper's side: sends without waiting. A monitor whose queue is full does not run (a hostile
/// command can stop it): the record is dropped.
pub(super) fn send(wire: BorrowedFd<'_>, record: Record) {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let _ = rustix::net::send(wire, &record.encode(), flags);
}

/// What the keeper's side reads.
pub(super) enum Received {
    /// A record.
    Record(Record),
    /// Nothing yet, or nothing that makes sense.
    Nothing,
    /// The monitor is gone.
    End,
}

/// The keeper's side: receives without waiting.
pub(super) fn receive(wire: BorrowedFd<'_>) -> Received {
    let mut bytes = [0; LENGTH];
    match rustix::net::recv(wire, &mut bytes, RecvFlags::DONTWAIT) {
        Ok((0, _)) => Received::End,
        Ok((LENGTH, _)) => Record::decode(bytes).map_or(Received::Nothing, Received::Record),
        // The monitor ended with records of ours unread. That is told once, and before its own last
        // records; these are still there.
        Err(Errno::CONNRESET) => Received::Nothing,
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Received::Nothing,
        Err(_) => Received::End,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_end_of_a_command_is_heard_though_its_monitor_left_a_record_unread() {
        let (ours, theirs) = pair().unwrap();
        send(ours.as_fd(), Record::Resume(true));
        send(theirs.as_fd(), Record::Exited(0));
        drop(theirs);
        let mut received = Vec::new();
        for _ in 0..3 {
            received.push(match receive(ours.as_fd()) {
                Received::Record(record) => Some(record),
                Received::Nothing => None,
                Received::End => break,
            });
        }
        assert_eq!(received, [None, Some(Record::Exited(0))]);
    }

    #[test]
    fn records_survive_the_wire_and_garbage_is_no_record() {
        for record in [
            Record::Failed(3, libc::EPERM),
            Record::Stopped(libc::SIGTSTP),
            Record::Exited(255),
            Record::Killed(libc::SIGKILL),
            Record::Signal(libc::SIGINT),
            Record::Resume(true),
            Record::Resume(false),
        ] {
            assert_eq!(Record::decode(record.encode()), Some(record));
        }
        assert_eq!(Record::decode([0; LENGTH]), None);
        assert_eq!(Record::decode([0xff; LENGTH]), None);
    }
}

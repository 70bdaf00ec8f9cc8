//! Which sockets threads have open.
//!
//! By their tables of descriptors, thread by thread, each table once.

use std::collections::HashMap;
use std::fs;
use std::io;

use crate::home::{Tables, is_over};

/// Sockets that are noted.
const SOCKETS: usize = 1_000_000;
/// Descriptors that are looked at.
const DESCRIPTORS: usize = 2_000_000;

/// Who has a socket open, and as which number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    pub(super) thread: u32,
    pub(super) descriptor: i32,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// By inode number: who has it open, the first that was found.
    sockets: HashMap<u64, Holder>,
    tables: Tables,
    descriptors: usize,
    cut_short: bool,
    unreadable: usize,
    /// Why the first of those was.
    why: Option<io::Error>,
}

impl Held {
    /// Whether a socket is among them. 0: it is in no table.
    pub(super) fn has(&self, inode: u64) -> bool {
        self.holder(inode).is_some()
    }

    /// All sockets by their inode numbers.
    pub(super) fn all(&self) -> impl Iterator<Item = (u64, Holder)> {
        self.sockets.iter().map(|(inode, holder)| (*inode, *holder))
    }

    /// Who has a socket open.
    pub(super) fn holder(&self, inode: u64) -> Option<Holder> {
        self.sockets.get(&inode).copied().filter(|_| inode != 0)
    }

    /// What was not looked at, a reason each.
    pub(super) fn omitted(&self) -> Vec<String> {
        let mut omitted = Vec::new();
        if self.cut_short {
            omitted.push(format!(
                "more than {DESCRIPTORS} descriptors, or {SOCKETS} sockets"
            ));
        }
        if let Some(why) = &self.why {
            omitted.push(format!(
                "the descriptors of {} threads cannot be read: {why}",
                self.unreadable
            ));
        }
        omitted
    }

    /// Takes in what a thread has open.
    pub(super) fn add(&mut self, thread: u32) {
        let Some(place) = self.tables.place(thread) else {
            return;
        };
        match self.take_in(thread) {
            Ok(()) => self.tables.note(place, thread),
            Err(error) if is_over(&error) => {}
            Err(error) => {
                self.unreadable += 1;
                self.why.get_or_insert(error);
            }
        }
    }

    fn take_in(&mut self, thread: u32) -> io::Result<()> {
        let mut failed = None;
        for descriptor in fs::read_dir(format!("/proc/{thread}/fd"))? {
            if self.descriptors >= DESCRIPTORS || self.sockets.len() >= SOCKETS {
                self.cut_short = true;
                break;
            }
            self.descriptors += 1;
            match descriptor.and_then(|it| Ok((fs::read_link(it.path())?, it.file_name()))) {
                Ok((what, number)) => {
                    let number = number.to_str().and_then(|number| number.parse().ok());
                    if let (Some(inode), Some(descriptor)) =
                        (what.to_str().and_then(socket), number)
                    {
                        self.sockets
                            .entry(inode)
                            .or_insert(Holder { thread, descriptor });
                    }
                }
                // It was closed meanwhile.
                Err(error) if is_over(&error) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// The inode number of a socket.
fn socket(what: &str) -> Option<u64> {
    what.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd as _;
    use std::sync::mpsc;

    use super::Held;

    fn number() -> u32 {
        let thread = rustix::thread::gettid();
        thread.as_raw_nonzero().get().cast_unsigned()
    }

    fn inode(socket: &UdpSocket) -> u64 {
        let path = format!("/proc/thread-self/fd/{}", socket.as_raw_fd());
        let what = std::fs::read_link(path).unwrap();
        super::socket(what.to_str().unwrap()).unwrap()
    }

    #[test]
    fn a_table_that_threads_share_is_looked_through_once_and_one_of_its_own_too() {
        let shared = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut held = Held::default();
        held.add(number());
        assert!(held.has(inode(&shared)) && !held.has(0));
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                tell.send((number(), 0)).unwrap();
                // SAFETY: the thread closes nothing that it did not open itself after this.
                unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FILES) }
                    .unwrap();
                let own = UdpSocket::bind("127.0.0.1:0").unwrap();
                tell.send((number(), inode(&own))).unwrap();
                let _ = ended.recv();
            });
            let (thread, _) = told.recv().unwrap();
            let (_, own) = told.recv().unwrap();
            assert!(!held.has(own));
            held.add(thread);
            assert!(held.has(own));
            assert_eq!(held.tables.count(), 2);
            let looked = held.descriptors;
            held.add(thread);
            held.add(number());
            assert_eq!(held.descriptors, looked);
            drop(end);
        });
        // Greater than any number that the kernel gives (`PID_MAX_LIMIT`).
        held.add(1 << 23);
        assert_eq!(held.omitted(), Vec::<String>::new());
    }
}

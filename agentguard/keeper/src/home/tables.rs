//! Threads' tables of descriptors, each once.
//!
//! A thread that called `unshare(CLONE_FILES)` has a table of its own, which `/proc/PID/fd` does not show. Most
//! threads share one; kcmp(2) says so. Where the kernel has no kcmp (`CONFIG_KCMP`) each thread's counts.

use std::cmp::Ordering;

/// `linux/kcmp.h`.
const KCMP_FILES: libc::c_int = 2;

/// Those that were looked through.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// A thread of each, in the order in which the kernel has the tables.
    known: Vec<u32>,
}

/// Where a table belongs that is not among them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place(usize);

impl Tables {
    /// Where a thread's table belongs. `None`: it was looked through.
    pub(crate) fn place(&self, thread: u32) -> Option<Place> {
        // A thread of the table may have ended, or left it: then the order is unknown, and the table is
        // looked through again at worst.
        let place = self
            .known
            .binary_search_by(|known| compare(*known, thread).unwrap_or(Ordering::Less));
        place.err().map(Place)
    }

    /// It was looked through, and no other since.
    pub(crate) fn note(&mut self, place: Place, thread: u32) {
        self.known.insert(place.0.min(self.known.len()), thread);
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.known.len()
    }
}

/// How two threads' tables stand to each other. `None`: that is not known.
fn compare(one: u32, other: u32) -> Option<Ordering> {
    // SAFETY: kcmp(2) of this type takes numbers only, and changes nothing.
    let result = unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_FILES, 0, 0) };
    match result {
        0 => Some(Ordering::Equal),
        1 => Some(Ordering::Less),
        2 => Some(Ordering::Greater),
        _ => None,
    }
}

//! Where the processes of cgroups live: their network namespaces, and what could lead out of those.
//!
//! Threads are looked at one by one: each may be in a namespace of its own, and a threaded cgroup has no
//! list of processes. What is read here the agents can change in the next moment: it decides where
//! the guard listens and what operators are warned of, and lets nothing through.
//!
//! Agents can also make it much: threads, cgroups, namespaces, routes, devices. So a [`Look`] is at one
//! agent, has bounds, stops when its time is over and goes on later from there, and says what it left
//! out. What is unknown is taken for what lets less through.

mod descriptors;
mod look;
mod tables;
mod walk;

pub use descriptors::{Known, Past};
pub use look::{Look, Seen};
pub(crate) use tables::Tables;
pub use walk::{Bounds, Step, Walk};

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;

/// Bytes that are read of a table of routes or devices: some 2,000 routes.
const TABLE: u64 = 256 * 1024;
const PAGE: usize = 4096;

/// Devices that some modules add to every namespace, and that carry nothing without another one.
const FALLBACKS: [&str; 9] = [
    "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0",
];

/// A namespace, by device and inode of its file. While somebody holds the namespace no other has
/// these numbers.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NamespaceId {
    device: u64,
    inode: u64,
}

impl NamespaceId {
    /// Of an open namespace.
    ///
    /// # Errors
    /// The descriptor cannot be looked at.
    pub fn of(namespace: &OwnedFd) -> io::Result<Self> {
        let found = rustix::fs::fstat(namespace)?;
        Ok(Self {
            device: found.st_dev,
            inode: found.st_ino,
        })
    }

    /// The network namespace of the calling thread.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn here() -> io::Result<Self> {
        Self::at("/proc/thread-self/ns/net")
    }

    fn at(path: &str) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
        })
    }
}

/// The network namespace of a thread. `None`: it has ended.
///
/// # Errors
/// It cannot be looked at.
pub fn namespace_of(thread: u32) -> io::Result<Option<NamespaceId>> {
    match NamespaceId::at(&format!("/proc/{thread}/ns/net")) {
        Ok(id) => Ok(Some(id)),
        Err(error) if is_over(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens the network namespace of a thread, if it is still this one. `None`: it is not.
///
/// # Errors
/// It cannot be opened.
pub fn open(thread: u32, id: NamespaceId) -> io::Result<Option<OwnedFd>> {
    let namespace: OwnedFd = match File::open(format!("/proc/{thread}/ns/net")) {
        Ok(file) => file.into(),
        Err(error) if is_over(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok((NamespaceId::of(&namespace)? == id).then_some(namespace))
}

/// What is known of a way out of a network namespace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WayOut {
    /// There is one.
    Open,
    /// There is none.
    None,
    /// The first [`TABLE`] bytes have none, and there are more; or nothing could be read.
    Unknown,
}

/// Whether a thread's network namespace has a route that does not stay on `lo`. `None`: the thread has
/// ended.
#[must_use]
pub fn route_out(thread: u32) -> Option<WayOut> {
    let out = |device: Option<&str>| device.is_some_and(|device| device != "lo");
    let v4 = look_for(thread, "net/route", 1, |line| {
        out(line.split_whitespace().next())
    })?;
    if v4 == WayOut::Open {
        return Some(v4);
    }
    // Without IPv6 there is no such file.
    let v6 = look_for(thread, "net/ipv6_route", 0, |line| {
        out(line.split_whitespace().last())
    });
    Some(match v6.unwrap_or(WayOut::None) {
        WayOut::None => v4,
        v6 => v6,
    })
}

/// Whether a thread's network namespace has a device that may lead out. `None`: the thread has ended.
fn uplink(thread: u32) -> Option<WayOut> {
    // Two lines of headings; then `name: counters`.
    look_for(thread, "net/dev", 2, |line| {
        line.split(':')
            .next()
            .map(str::trim)
            .is_some_and(|name| name != "lo" && !FALLBACKS.contains(&name))
    })
}

/// Looks for a line behind the headings of a file that an agent can make very long. `None`: it is not
/// there.
fn look_for(
    thread: u32,
    file: &str,
    headings: usize,
    is_it: impl Fn(&str) -> bool,
) -> Option<WayOut> {
    match File::open(format!("/proc/{thread}/{file}")) {
        Ok(file) => line_in(file, headings, is_it),
        Err(error) if is_over(&error) => None,
        Err(_) => Some(WayOut::Unknown),
    }
}

/// As [`look_for`], in what was opened.
fn line_in(file: impl Read, headings: usize, is_it: impl Fn(&str) -> bool) -> Option<WayOut> {
    // No buffer of more than a page: the kernel makes the text of one at once, and the first line
    // that counts is mostly among the first.
    let mut lines = BufReader::with_capacity(PAGE, file.take(TABLE));
    let mut read = 0;
    let mut line = Vec::new();
    for number in 0_usize.. {
        line.clear();
        match lines.read_until(b'\n', &mut line) {
            // Exactly so many may be all; that is not found out.
            Ok(0) if read >= TABLE => return Some(WayOut::Unknown),
            Ok(0) => return Some(WayOut::None),
            Ok(length) => read += u64::try_from(length).unwrap_or(TABLE),
            Err(error) if is_over(&error) => return None,
            Err(_) => return Some(WayOut::Unknown),
        }
        // One that the bound cuts is none: it may have lost its device.
        if line.pop() == Some(b'\n')
            && number >= headings
            && std::str::from_utf8(&line).is_ok_and(&is_it)
        {
            return Some(WayOut::Open);
        }
    }
    Some(WayOut::Unknown)
}

/// Whether an error says that a thread or cgroup is gone.
pub(crate) fn is_over(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::ENXIO)
    )
}

#[cfg(test)]
mod tests {
    use super::{NamespaceId, TABLE, WayOut, line_in, namespace_of, open, route_out, uplink};

    #[test]
    fn a_thread_is_told_by_its_own_namespace() {
        let thread = rustix::thread::gettid()
            .as_raw_nonzero()
            .get()
            .cast_unsigned();
        let here = NamespaceId::here().unwrap();
        assert_eq!(namespace_of(thread).unwrap(), Some(here));
        let opened = open(thread, here).unwrap().unwrap();
        assert_eq!(NamespaceId::of(&opened).unwrap(), here);
        let other = NamespaceId { inode: 1, ..here };
        assert!(open(thread, other).unwrap().is_none());
        assert!(uplink(thread).is_some());
        assert!(route_out(thread).is_some());
        // Greater than any number that the kernel gives (`PID_MAX_LIMIT`).
        assert_eq!(namespace_of(1 << 23).unwrap(), None);
        assert_eq!((uplink(1 << 23), route_out(1 << 23)), (None, None));
    }

    /// What would be read of a file.
    fn reading(text: &str) -> WayOut {
        let mut left = text.as_bytes();
        let found = line_in(&mut left, 1, |line| line.starts_with("eth")).unwrap();
        let read = text.len() - left.len();
        assert!(u64::try_from(read).unwrap() <= TABLE, "{read}");
        found
    }

    #[test]
    fn no_more_of_a_table_is_read_than_the_bound_and_nothing_is_made_of_the_rest() {
        let heading = "Iface Destination\n";
        assert_eq!(reading(""), WayOut::None);
        assert_eq!(reading("eth heading\n"), WayOut::None);
        assert_eq!(reading(&format!("{heading}lo 1\neth0 2\n")), WayOut::Open);
        assert_eq!(reading(&format!("{heading}lo 1\n")), WayOut::None);
        let many = format!("{heading}{}", "lo 127\n".repeat(1_000_000));
        assert_eq!(reading(&many), WayOut::Unknown);
        assert_eq!(reading(&format!("{many}eth0 2\n")), WayOut::Unknown);
        // The first is enough, however many follow.
        let first = format!("{heading}eth0 1\n{many}");
        assert_eq!(reading(&first), WayOut::Open);
        // No line at all, and one that the bound cuts.
        assert_eq!(reading(&"e".repeat(1_000_000)), WayOut::Unknown);
    }
}

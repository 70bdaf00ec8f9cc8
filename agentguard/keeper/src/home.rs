//! Where the processes of cgroups live: their network namespaces, and what could lead out of those.
//!
//! Threads are looked at one by one: each may be in a namespace of its own, and a threaded cgroup has no
//! list of processes. What is read here the agents can change in the next moment: it decides where
//! the guard listens and what operators are warned of, and lets nothing through.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Cgroups that are looked through at once.
const CGROUPS: usize = 20_000;
/// Threads that are looked at at once.
const THREADS: usize = 100_000;

/// `linux/capability.h`.
const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_NET_RAW: u64 = 1 << 13;
const CAP_SYS_ADMIN: u64 = 1 << 21;

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

/// How much one look may still take in.
#[derive(Debug)]
pub struct Bounds {
    cgroups: usize,
    threads: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            cgroups: CGROUPS,
            threads: THREADS,
        }
    }
}

impl Bounds {
    /// Whether something was left out.
    #[must_use]
    pub fn reached(&self) -> bool {
        self.cgroups == 0 || self.threads == 0
    }
}

/// Calls `each` with the number of every thread in a cgroup and below it.
pub fn threads(top: &Path, bounds: &mut Bounds, mut each: impl FnMut(u32)) {
    let mut waiting = vec![top.to_owned()];
    while let Some(path) = waiting.pop() {
        if bounds.reached() {
            return;
        }
        bounds.cgroups -= 1;
        // One that is gone has neither threads nor children.
        let list = fs::read_to_string(path.join("cgroup.threads")).unwrap_or_default();
        for thread in list.lines().filter_map(|line| line.parse().ok()) {
            if bounds.threads == 0 {
                return;
            }
            bounds.threads -= 1;
            each(thread);
        }
        waiting.extend(crate::cgroup::children(&path));
    }
}

/// The network namespace of a thread. `None`: it has ended.
#[must_use]
pub fn namespace_of(thread: u32) -> Option<NamespaceId> {
    NamespaceId::at(&format!("/proc/{thread}/ns/net")).ok()
}

/// Opens the network namespace of a thread, if it is still this one.
#[must_use]
pub fn open(thread: u32, id: NamespaceId) -> Option<OwnedFd> {
    let namespace = File::open(format!("/proc/{thread}/ns/net")).ok()?.into();
    (NamespaceId::of(&namespace).ok()? == id).then_some(namespace)
}

/// Whether a thread's network namespace has a route that does not stay on `lo`. `None`: the thread has
/// ended.
#[must_use]
pub fn has_route_out(thread: u32) -> Option<bool> {
    let v4 = fs::read_to_string(format!("/proc/{thread}/net/route")).ok()?;
    // Without IPv6 there is no such file.
    let v6 = fs::read_to_string(format!("/proc/{thread}/net/ipv6_route")).unwrap_or_default();
    let out = |device: Option<&str>| device.is_some_and(|device| device != "lo");
    let v4 = v4
        .lines()
        .skip(1)
        .any(|line| out(line.split_whitespace().next()));
    let v6 = v6.lines().any(|line| out(line.split_whitespace().last()));
    Some(v4 || v6)
}

/// What in a cgroup and below it can get around the gate, a sentence each: threads that hold, or could
/// take up, capabilities with which packets are sent that no socket of an agent sends.
#[must_use]
pub fn uncontained(top: &Path, bounds: &mut Bounds) -> Vec<String> {
    let own = fs::metadata("/proc/self/ns/user")
        .map(|found| found.ino())
        .ok();
    let mut found = BTreeSet::new();
    threads(top, bounds, |thread| {
        let capabilities = capabilities(thread).unwrap_or_default();
        if capabilities & (CAP_NET_ADMIN | CAP_NET_RAW) != 0 && has_uplink(thread).unwrap_or(false)
        {
            if capabilities & CAP_NET_ADMIN != 0 {
                found.insert(
                    "a process has CAP_NET_ADMIN in a network namespace with an uplink: it can forward, \
                     tunnel and rewrite packets that the gate does not see",
                );
            }
            if capabilities & CAP_NET_RAW != 0 {
                found.insert(
                    "a process has CAP_NET_RAW in a network namespace with an uplink: packet sockets \
                     send what the gate does not see",
                );
            }
        }
        let user = fs::metadata(format!("/proc/{thread}/ns/user")).map(|found| found.ino());
        if capabilities & CAP_SYS_ADMIN != 0 && user.ok() == own {
            found.insert(
                "a process has CAP_SYS_ADMIN in the host's user namespace: it can enter other namespaces \
                 and leave its cgroup",
            );
        }
    });
    found.into_iter().map(str::to_owned).collect()
}

/// The permitted capabilities of a thread: it can make any of them effective.
fn capabilities(thread: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapPrm:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Whether a thread's network namespace has a device that may lead out. `None`: the thread has ended.
fn has_uplink(thread: u32) -> Option<bool> {
    let devices = fs::read_to_string(format!("/proc/{thread}/net/dev")).ok()?;
    // Two lines of headings; then `name: counters`.
    Some(devices.lines().skip(2).any(|line| {
        line.split(':')
            .next()
            .map(str::trim)
            .is_some_and(|name| name != "lo" && !FALLBACKS.contains(&name))
    }))
}

#[cfg(test)]
mod tests {
    use super::{NamespaceId, capabilities, has_route_out, has_uplink, namespace_of, open};

    #[test]
    fn a_thread_is_told_by_its_own_namespace() {
        let thread = rustix::thread::gettid()
            .as_raw_nonzero()
            .get()
            .cast_unsigned();
        let here = NamespaceId::here().unwrap();
        assert_eq!(namespace_of(thread), Some(here));
        assert_eq!(NamespaceId::of(&open(thread, here).unwrap()).unwrap(), here);
        let other = NamespaceId { inode: 1, ..here };
        assert!(open(thread, other).is_none());
        assert!(capabilities(thread).is_some() && has_uplink(thread).is_some());
        assert!(has_route_out(thread).is_some());
        // Greater than any number that the kernel gives (`PID_MAX_LIMIT`).
        assert_eq!(namespace_of(1 << 23), None);
    }
}

//! What threads have open that sends past the gate: what is neither TCP nor UDP nor local, devices that agents do
//! not get, and io_urings with files of their own.
//!
//! No hook sees the use of these, only their making and opening, which was before a cgroup was adopted, or
//! elsewhere. They cannot be ended from outside either: so they are told.
//!
//! Nothing here waits for who has the file: no file is opened, and what a file system would have to ask its
//! server for is not asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::time::Instant;

use agentguard_common::device::{ANY_MINOR, DeviceKey, dynamic_name, name};
use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, getxattr, statx};
use serde::{Deserialize, Serialize};

use super::tables::{Place, Tables};
use super::{TABLE, is_over};

/// Descriptors of one agent that are looked at.
const DESCRIPTORS: usize = 1_000_000;
/// Kinds of sockets and devices that are told.
const TOLD: usize = 32;
/// How often a ring is asked that is busy just then.
const TRIES: usize = 8;

/// The name of a socket's protocol in the kernel (`net/socket.c`, `sockfs_xattr_get`).
const PROTOCOL: &str = "system.sockprotoname";
/// What `struct proto` has as a name, at most.
const PROTOCOL_BYTES: usize = 32;

/// What is held otherwise. TCP and UDP are ended, or let go on by the policy; the gate decides on the packets of
/// multipath TCP's subflows, which are TCP; UNIX sockets send nothing themselves. Netlink asks for its sender's
/// rights with each message.
const HELD: [&str; 9] = [
    "TCP",
    "TCPv6",
    "UDP",
    "UDPv6",
    "MPTCP",
    "MPTCPv6",
    "UNIX",
    "UNIX-STREAM",
    "NETLINK",
];

/// Other protocols over IP: the gate refuses the packets of sockets that were made in the cgroup.
const OVER_IP: [&str; 11] = [
    "RAW",
    "RAWv6",
    "PING",
    "PINGv6",
    "UDP-Lite",
    "UDPLITEv6",
    "UDPLite-v6",
    "SCTP",
    "SCTPv6",
    "DCCP",
    "DCCPv6",
];

/// What AF_XDP is called: its packets leave by poll(2) too, for which no LSM program is asked.
const XDP: &str = "XDP";

/// What is known of this host.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Whether LSM programs refuse what an agent sends over a socket that it cannot have made.
    pub refused: bool,
    /// Drivers that agents do not get and whose numbers this host gave out, as in the map `DEVICES`.
    pub devices: BTreeMap<DeviceKey, u32>,
}

/// Something that is open and sends past the gate.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Past {
    /// A socket, by the name of its protocol in the kernel.
    Socket(String),
    /// A device, as it lies in `/dev`.
    Device(String),
    /// An io_uring with registered files, of which nobody can see what they are.
    Ring,
}

impl Past {
    /// What it is.
    #[must_use]
    pub fn what(&self) -> String {
        match self {
            Self::Socket(name) => match name.as_str() {
                "PACKET" => "a packet socket (AF_PACKET)".to_owned(),
                "XDP" => "an AF_XDP socket".to_owned(),
                "AF_VSOCK" => "an AF_VSOCK socket".to_owned(),
                "RAW" | "RAWv6" => "a raw socket".to_owned(),
                other => format!("a socket of the kind {other}"),
            },
            Self::Device(name) => name.clone(),
            Self::Ring => "an io_uring with registered files".to_owned(),
        }
    }

    /// What it means, for a person.
    #[must_use]
    pub fn sentence(&self) -> String {
        let means = match self {
            Self::Socket(name) if OVER_IP.contains(&name.as_str()) => {
                "the gate does not see what it sends if it was made outside of the cgroup"
            }
            Self::Socket(_) => "the gate does not see what it sends",
            Self::Device(_) => "the gate does not see what it sends or does with it",
            Self::Ring => {
                "nobody can see which, and a socket from elsewhere among them sends past the gate"
            }
        };
        format!("a process has {} open: {means}", self.what())
    }
}

/// A look through tables of descriptors, which can be stopped and gone on with.
#[derive(Debug)]
pub(super) struct Descriptors {
    known: Known,
    tables: Tables,
    /// The one that is looked through.
    open: Option<Table>,
    looked: usize,
    found: BTreeSet<Past>,
    omitted: BTreeSet<String>,
}

#[derive(Debug)]
struct Table {
    thread: u32,
    place: Place,
    entries: fs::ReadDir,
}

impl Descriptors {
    pub(super) fn new(known: Known) -> Self {
        Self {
            known,
            tables: Tables::default(),
            open: None,
            looked: 0,
            found: BTreeSet::new(),
            omitted: BTreeSet::new(),
        }
    }

    /// What was found.
    pub(super) fn found(&self) -> &BTreeSet<Past> {
        &self.found
    }

    /// What was left out, a reason each.
    pub(super) fn omitted(&self) -> &BTreeSet<String> {
        &self.omitted
    }

    /// Whether there is more to look at.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Begins with a thread's table, if that was not looked through. To be called when none is open.
    pub(super) fn begin(&mut self, thread: u32) {
        let Some(place) = self.tables.place(thread) else {
            return;
        };
        match fs::read_dir(format!("/proc/{thread}/fd")) {
            Ok(entries) => {
                self.open = Some(Table {
                    thread,
                    place,
                    entries,
                });
            }
            Err(error) => self.unreadable(&error),
        }
    }

    /// Looks on until the end of the table, or until the time is over. `true`: it is at its end.
    pub(super) fn advance(&mut self, until: Instant) -> bool {
        while let Some(table) = &mut self.open {
            let thread = table.thread;
            match table.entries.next() {
                None => {
                    let place = table.place;
                    self.tables.note(place, thread);
                    self.open = None;
                }
                Some(Err(error)) => {
                    self.unreadable(&error);
                    self.open = None;
                }
                Some(Ok(_)) if self.looked >= DESCRIPTORS => {
                    self.omit(format!("more than {DESCRIPTORS} descriptors"));
                    self.open = None;
                }
                Some(Ok(entry)) => {
                    self.looked += 1;
                    let number = entry.file_name();
                    let number = number.to_str().and_then(|it| it.parse::<u32>().ok());
                    if let Some(number) = number {
                        match look_at(thread, number, &self.known) {
                            Ok(past) => self.find(past),
                            Err(error) => self.unreadable(&error),
                        }
                    }
                }
            }
            if Instant::now() >= until {
                return self.open.is_none();
            }
        }
        true
    }

    fn find(&mut self, past: Option<Past>) {
        let Some(past) = past else {
            return;
        };
        if self.found.len() < TOLD {
            self.found.insert(past);
        } else if !self.found.contains(&past) {
            self.omit(format!("more than {TOLD} kinds of sockets and devices"));
        }
    }

    fn unreadable(&mut self, error: &io::Error) {
        if !is_over(error) {
            self.omit(format!("what a thread has open: {error}"));
        }
    }

    fn omit(&mut self, what: String) {
        self.omitted.insert(what);
    }
}

/// What a descriptor is, if it sends past the gate.
fn look_at(thread: u32, number: u32, known: &Known) -> io::Result<Option<Past>> {
    let path = format!("/proc/{thread}/fd/{number}");
    // Names of what is in no file system have no slash before them.
    let what = fs::read_link(&path)?;
    let what = what.to_string_lossy();
    if what.starts_with('/') || what.starts_with("(unreachable)") {
        return device(&path, known);
    }
    if what.starts_with("socket:[") {
        let protocol = protocol(&path)?;
        return Ok(is_past(&protocol, known.refused).then_some(Past::Socket(protocol)));
    }
    if what == "anon_inode:[io_uring]" {
        return Ok(has_files(thread, number)?.then_some(Past::Ring));
    }
    Ok(None)
}

/// Whether a socket of this protocol sends past the gate.
fn is_past(protocol: &str, refused: bool) -> bool {
    !HELD.contains(&protocol) && (!refused || protocol == XDP)
}

fn protocol(path: &str) -> io::Result<String> {
    let mut name = [0; PROTOCOL_BYTES];
    let length = getxattr(path, PROTOCOL, &mut name)?;
    let name = name.get(..length).unwrap_or_default();
    let end = name.iter().position(|byte| *byte == 0);
    let name = name.get(..end.unwrap_or(length)).unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

fn device(path: &str, known: &Known) -> io::Result<Option<Past>> {
    // What the kernel knows by itself: a file system of the agent's own is not asked.
    let found = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE)?;
    if FileType::from_raw_mode(found.stx_mode.into()) != FileType::CharacterDevice {
        return Ok(None);
    }
    let (major, minor) = (found.stx_rdev_major, found.stx_rdev_minor);
    let given = [minor, ANY_MINOR].into_iter().find_map(|minor| {
        let place = known.devices.get(&DeviceKey { major, minor })?;
        dynamic_name(u16::try_from(*place).ok()?)
    });
    let device = name(major, minor).or(given);
    Ok(device.map(|device| Past::Device(device.to_owned())))
}

/// Whether files are registered with a ring. One that does not say so has some.
fn has_files(thread: u32, number: u32) -> io::Result<bool> {
    for _ in 0..TRIES {
        let mut text = String::new();
        File::open(format!("/proc/{thread}/fdinfo/{number}"))?
            .take(TABLE)
            .read_to_string(&mut text)?;
        // Told only where nobody uses the ring in that moment.
        if let Some(count) = registered(&text) {
            return Ok(count != 0);
        }
        std::thread::yield_now();
    }
    Ok(true)
}

/// How many files the text says are registered (`io_uring/fdinfo.c`).
fn registered(text: &str) -> Option<u64> {
    let count = text.lines().find_map(|it| it.strip_prefix("UserFiles:"))?;
    count.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
    use std::time::Duration;

    use super::*;

    fn look(known: Known) -> Descriptors {
        let mut descriptors = Descriptors::new(known);
        let thread = rustix::thread::gettid();
        descriptors.begin(thread.as_raw_nonzero().get().cast_unsigned());
        let mut goes = 0;
        // Stopped after each.
        while !descriptors.advance(Instant::now()) {
            goes += 1;
            assert!(goes <= DESCRIPTORS);
        }
        assert!(!descriptors.is_open());
        descriptors
    }

    fn socket(family: i32, kind: i32, protocol: i32) -> OwnedFd {
        // SAFETY: a system call on integers.
        let made = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
        assert!(made >= 0, "{}", io::Error::last_os_error());
        // SAFETY: the call made this descriptor, which nobody else knows.
        unsafe { OwnedFd::from_raw_fd(made) }
    }

    #[test]
    fn what_is_held_otherwise_is_not_told_and_nothing_is_opened() {
        let _tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _udp = std::net::UdpSocket::bind("[::1]:0").unwrap();
        let _pair = std::os::unix::net::UnixStream::pair().unwrap();
        let _netlink = socket(libc::AF_NETLINK, libc::SOCK_RAW, 0);
        let _null = File::open("/dev/null").unwrap();
        let looked = look(Known::default());
        assert_eq!(looked.omitted(), &BTreeSet::new());
        assert!(looked.looked >= 5, "{looked:?}");
        // Another test has a ring.
        let told = looked.found().iter().filter(|past| **past != Past::Ring);
        assert_eq!(told.collect::<Vec<_>>(), Vec::<&Past>::new());
        // Again it is not looked through.
        let mut again = looked;
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        again.begin(thread.cast_unsigned());
        assert!(!again.is_open() && again.advance(Instant::now() + Duration::from_secs(1)));
    }

    #[test]
    fn a_device_that_agents_do_not_get_is_told_whatever_number_it_has() {
        let null = File::open("/dev/null").unwrap();
        let path = format!("/proc/thread-self/fd/{}", null.as_raw_fd());
        assert_eq!(device(&path, &Known::default()).unwrap(), None);
        let known = |minor| Known {
            devices: BTreeMap::from([(DeviceKey { major: 1, minor }, 3)]),
            ..Known::default()
        };
        let tap = Past::Device("/dev/tap (macvtap)".to_owned());
        for minor in [3, ANY_MINOR] {
            assert_eq!(device(&path, &known(minor)).unwrap(), Some(tap.clone()));
        }
        assert_eq!(device(&path, &known(5)).unwrap(), None);
    }

    #[test]
    fn lsm_programs_refuse_what_sends_by_calls_that_they_are_asked_for() {
        for (protocol, without, with) in [
            ("TCP", false, false),
            ("UNIX-STREAM", false, false),
            ("RAW", true, false),
            ("PACKET", true, false),
            ("AF_VSOCK", true, false),
            ("XDP", true, true),
            // Nobody has looked at it.
            ("NEW", true, false),
        ] {
            assert_eq!(is_past(protocol, false), without, "{protocol}");
            assert_eq!(is_past(protocol, true), with, "{protocol}");
        }
    }

    /// `linux/io_uring.h`.
    const REGISTER_FILES: u32 = 2;
    const UNREGISTER_FILES: u32 = 3;

    fn register(ring: &OwnedFd, operation: u32, files: &[i32]) {
        let count = u32::try_from(files.len()).unwrap();
        let argument = match files {
            [] => std::ptr::null(),
            files => files.as_ptr(),
        };
        let number = libc::SYS_io_uring_register;
        // SAFETY: the kernel reads that many numbers, and keeps none of the memory.
        let done = unsafe { libc::syscall(number, ring.as_raw_fd(), operation, argument, count) };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
    }

    #[test]
    fn a_ring_is_told_while_it_has_files_of_its_own() {
        // `struct io_uring_params`: 120 bytes, into which the kernel writes.
        let mut parameters = [0_u32; 30];
        let number = libc::SYS_io_uring_setup;
        // SAFETY: the parameters live, and have the kernel's length.
        let made = unsafe { libc::syscall(number, 4, parameters.as_mut_ptr()) };
        let Ok(made @ 0..) = i32::try_from(made) else {
            println!("skipped: no io_uring here");
            return;
        };
        // SAFETY: the call made this descriptor, which nobody else knows.
        let ring = unsafe { OwnedFd::from_raw_fd(made) };
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        let look = || {
            let number = ring.as_raw_fd().cast_unsigned();
            look_at(thread.cast_unsigned(), number, &Known::default()).unwrap()
        };
        assert_eq!(look(), None);
        let null = File::open("/dev/null").unwrap();
        register(&ring, REGISTER_FILES, &[null.as_raw_fd()]);
        assert_eq!(look(), Some(Past::Ring));
        register(&ring, UNREGISTER_FILES, &[]);
        assert_eq!(look(), None);
    }

    #[test]
    fn a_ring_that_does_not_say_what_it_has_is_told() {
        assert_eq!(
            registered("SqMask:\t0x7\nUserFiles:\t0\nUserBufs:\t0\n"),
            Some(0)
        );
        assert_eq!(registered("UserFiles:\t2\n    0: /x\n"), Some(2));
        assert_eq!(registered("pos:\t0\nflags:\t02000002\n"), None);
        assert_eq!(registered("UserFiles:\tmany\n"), None);
    }
}

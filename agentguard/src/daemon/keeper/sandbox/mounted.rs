//! What is mounted on this host that a run must not see as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use agentguard_keeper::spawn::{Overlay, Source, mounts};
use anyhow::{Context as _, ensure};

use super::masks::open;

/// The keeper's mounts: `/proc/self/mountinfo` (proc(5)).
pub(super) struct Mounted(Vec<Mount>);

#[derive(Debug, Eq, PartialEq)]
struct Mount {
    /// What of the file system is mounted: `/` is all.
    part: PathBuf,
    place: PathBuf,
    kind: String,
    source: String,
}

impl Mounted {
    pub(super) fn read() -> anyhow::Result<Self> {
        let text = fs::read("/proc/self/mountinfo").context("cannot read the mounts")?;
        // Any user may have a path that is no text, with a file system of their own.
        let text = String::from_utf8_lossy(&text);
        Ok(Self(text.lines().filter_map(mount).collect()))
    }

    /// What is mounted below `/proc` (a container's masks, lxcfs), to lie over a new one as well. What
    /// mounts itself on demand is left out.
    pub(super) fn below_proc(&self) -> anyhow::Result<Vec<Overlay>> {
        let mut overlays = Vec::new();
        for target in self.places_below_proc() {
            if let Some(source) = there(target)? {
                overlays.push(Overlay {
                    source: Source::ReadOnly(source),
                    target: target.to_owned(),
                    optional: true,
                });
            }
        }
        Ok(overlays)
    }

    /// The kernel's own file systems at other places than `/proc` and `/sys`, as chroots have them: views of
    /// processes hide others' there too, if this host can make such (`hides`), and for root all of it is
    /// read-only.
    pub(super) fn elsewhere(&self, hides: bool, root: bool) -> anyhow::Result<Vec<Overlay>> {
        let mut overlays = Vec::new();
        for (place, whole_proc) in self.places_elsewhere() {
            ensure!(
                overlays.len() < MOST_ELSEWHERE,
                "more than {MOST_ELSEWHERE} file systems of the kernel's are mounted outside of /proc and /sys"
            );
            let source = match (whole_proc && hides, root) {
                (true, true) => Source::Mount(mounts::processes_to_read()?),
                (true, false) => Source::Mount(mounts::processes()?),
                (false, true) => match there(place)? {
                    Some(source) => Source::ReadOnlyTree(source),
                    None => continue,
                },
                (false, false) => continue,
            };
            overlays.push(Overlay {
                source,
                target: place.to_owned(),
                optional: true,
            });
        }
        Ok(overlays)
    }

    /// Where they are, and whether that is a whole view of processes. What is above comes first.
    fn places_elsewhere(&self) -> BTreeMap<&Path, bool> {
        let mounts = self.0.iter();
        let elsewhere = mounts.filter(|mount| {
            let usual = ["/proc", "/sys"].map(|usual| mount.place.starts_with(usual));
            KERNELS.contains(&mount.kind.as_str()) && !usual.contains(&true)
        });
        elsewhere
            .map(|mount| {
                let whole = mount.kind == "proc" && mount.part == Path::new("/");
                (mount.place.as_path(), whole)
            })
            .collect()
    }

    fn places_below_proc(&self) -> BTreeSet<&Path> {
        let mounts = self.0.iter();
        let below = mounts.filter(|mount| {
            mount.place != Path::new("/proc")
                && mount.place.starts_with("/proc")
                && !matches!(mount.kind.as_str(), "autofs" | "binfmt_misc")
        });
        below.map(|mount| mount.place.as_path()).collect()
    }

    /// Directories in which the name of whatever host somebody looks for is mounted (autofs with its map
    /// of hosts, or the programs that are usual in its place): the host's mounter would ask that
    /// host, on nobody's socket that the gate knows.
    pub(super) fn of_hosts(&self) -> Vec<PathBuf> {
        let automounts = self.0.iter().filter(|mount| mount.kind == "autofs");
        let of_hosts = automounts.filter(|mount| {
            let map = mount.source.rsplit('/').next().unwrap_or_default();
            matches!(map, "-hosts" | "auto.net" | "auto.smb") || mount.place == Path::new("/net")
        });
        of_hosts.map(|mount| mount.place.clone()).collect()
    }
}

/// `id parent device root PLACE options... - TYPE SOURCE ...`.
fn mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let mut before = before.split(' ').skip(3);
    Some(Mount {
        part: path(before.next()?),
        place: path(before.next()?),
        kind: after.next()?.to_owned(),
        source: after.next()?.to_owned(),
    })
}

/// A path as the kernel writes it (`seq_path`): blanks, line ends and backslashes as three octal digits.
fn path(written: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(written.len());
    let mut rest = written.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let escaped = match (first, behind) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                Some((a & 3) << 6 | (b & 7) << 3 | (c & 7))
            }
            _ => None,
        };
        bytes.push(escaped.unwrap_or(first));
        rest = behind
            .get(if escaped.is_some() { 3 } else { 0 }..)
            .unwrap_or_default();
    }
    OsString::from_vec(bytes).into()
}

/// Files of the kernel's that change the machine, by which its own programs are started outside of every
/// agent's cgroup (`kernel.modprobe`, `release_agent`, `uevent_helper`), or devices are written to: for
/// root to be read alone, as container runtimes have it. What the kernel shows of a process stays
/// writable.
pub(super) fn kernel_settings() -> anyhow::Result<Vec<Overlay>> {
    let mut overlays = Vec::new();
    for path in PROC {
        if let Some(source) = there(Path::new(path))? {
            overlays.push(Overlay::new(source, path.into()));
        }
    }
    if let Some(source) = there(Path::new(SYS))? {
        overlays.push(Overlay {
            source: Source::ReadOnlyTree(source),
            target: SYS.into(),
            optional: false,
        });
    }
    Ok(overlays)
}

const PROC: &[&str] = &[
    "/proc/acpi",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/mtrr",
    "/proc/scsi",
    "/proc/sys",
    "/proc/sysrq-trigger",
];
const SYS: &str = "/sys";

/// File systems in which the kernel is looked at and configured. Their files ask for the user, as those in
/// `/proc/sys` do.
const KERNELS: [&str; 13] = [
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "efivarfs",
    "proc",
    "pstore",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tracefs",
];

/// Of them, at most. A host with more refuses the run.
const MOST_ELSEWHERE: usize = 256;

/// A path of the host's, if it is there.
fn there(path: &Path) -> anyhow::Result<Option<std::os::fd::OwnedFd>> {
    match open(path) {
        Ok(fd) => Ok(Some(fd)),
        Err(error)
            if error
                .downcast_ref::<rustix::io::Errno>()
                .is_some_and(|errno| io::Error::from(*errno).kind() == io::ErrorKind::NotFound) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(text: &str) -> Mounted {
        Mounted(text.lines().filter_map(mount).collect())
    }

    #[test]
    fn the_mounts_below_proc_are_found() {
        let mounted = mounted(
            "22 1 0:20 / /proc rw - proc proc rw\n\
             23 22 0:21 / /proc/sys/fs/binfmt_misc rw shared:2 - autofs systemd-1 rw\n\
             24 22 0:5 /null /proc/kcore rw - tmpfs tmpfs rw\n\
             25 22 0:44 / /proc/meminfo rw - fuse.lxcfs lxcfs rw\n\
             26 1 0:45 / /process rw - tmpfs tmpfs rw\n",
        );
        let expected = ["/proc/kcore", "/proc/meminfo"].map(Path::new);
        assert!(mounted.places_below_proc().into_iter().eq(expected));
    }

    #[test]
    fn the_kernels_file_systems_are_found_at_other_places() {
        let mounted = mounted(
            "22 1 0:20 / /proc rw - proc proc rw\n\
             23 1 0:21 / /sys rw - sysfs sysfs rw\n\
             24 23 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
             25 22 0:23 / /proc/sys/fs/binfmt_misc rw - binfmt_misc binfmt_misc rw\n\
             40 1 0:20 / /srv/jail/proc rw - proc proc rw\n\
             41 1 0:20 /sys/net /srv/net rw - proc proc rw\n\
             42 1 0:21 / /srv/jail/sys rw - sysfs sysfs rw\n\
             43 1 0:22 / /system rw - cgroup2 none rw\n\
             44 1 8:1 / /processes rw - ext4 /dev/sda1 rw\n",
        );
        let expected = [
            ("/srv/jail/proc", true),
            ("/srv/jail/sys", false),
            ("/srv/net", false),
            ("/system", false),
        ];
        let expected = expected.map(|(path, whole)| (Path::new(path), whole));
        assert!(mounted.places_elsewhere().into_iter().eq(expected));
    }

    #[test]
    fn maps_of_hosts_are_found_and_no_others() {
        let mounted = mounted(
            "30 1 0:50 / /net rw,relatime shared:9 - autofs -hosts rw,fd=6,indirect\n\
             31 1 0:51 / /my\\040hosts rw - autofs -hosts rw,indirect\n\
             32 1 0:52 / /smb rw - autofs /etc/auto.smb rw,indirect\n\
             33 1 0:53 / /home rw - autofs /etc/auto.home rw,indirect\n\
             34 1 0:54 / /efi rw - autofs systemd-1 rw,direct\n\
             35 1 0:55 / /srv rw - nfs4 -hosts rw\n",
        );
        let expected = ["/net", "/my hosts", "/smb"].map(PathBuf::from);
        assert_eq!(mounted.of_hosts(), expected);
    }

    #[test]
    fn a_path_is_read_as_the_kernel_writes_it() {
        for (written, expected) in [
            ("/plain", "/plain"),
            ("/a\\040b\\011c\\012d\\134", "/a b\tc\nd\\"),
            ("/end\\04", "/end\\04"),
            ("/\\904", "/\\904"),
        ] {
            assert_eq!(path(written), Path::new(expected));
        }
    }
}

//! What is mounted on this host that a run must not see as it is.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use agentguard_keeper::spawn::{Overlay, Source};
use anyhow::Context as _;

use super::masks::open;

/// The keeper's mounts: `/proc/self/mountinfo` (proc(5)).
pub(super) struct Mounted(Vec<Mount>);

#[derive(Debug, Eq, PartialEq)]
struct Mount {
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
    Some(Mount {
        place: path(before.split(' ').nth(4)?),
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

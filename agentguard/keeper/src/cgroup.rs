//! Cgroups: where they are mounted, making and removing them.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;

use crate::gate::{self, GateError};

/// Magic number of the version 2 hierarchy, `statfs(2)`.
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// Where the version 2 hierarchy is mounted: also on hosts where it stands beside version 1.
/// `None` if it is not.
#[must_use]
pub fn mount() -> Option<PathBuf> {
    // Any user may have a path that is no text, with a file system of their own.
    let mounts = fs::read("/proc/self/mounts").ok()?;
    let mounts = String::from_utf8_lossy(&mounts);
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(at))
    })
}

/// The directory of this process's own cgroup, below where the hierarchy is mounted. `None`: it cannot be
/// read, or the process is in none.
#[must_use]
pub fn own(mount: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(mount.join(path))
}

/// A directory in the version 2 hierarchy, opened.
#[derive(Debug)]
pub struct Cgroup {
    /// The directory, for `CLONE_INTO_CGROUP`.
    pub directory: File,
    /// Its path.
    pub path: PathBuf,
    /// What the kernel's helpers call it.
    pub id: u64,
}

impl Cgroup {
    /// Opens one that is there.
    ///
    /// # Errors
    /// [`GateError::File`], [`GateError::NotCgroup`].
    pub fn open(path: &Path) -> Result<Self, GateError> {
        let failed = |source| GateError::File {
            what: "open",
            path: path.to_owned(),
            source,
        };
        let directory = File::open(path).map_err(failed)?;
        // Of version 1 are named like this, too; files are in the hierarchy as well.
        if gate::file_system(path)? != CGROUP2_MAGIC || !path.is_dir() {
            return Err(GateError::NotCgroup(path.to_owned()));
        }
        let id = gate::cgroup_id(&directory, path)?;
        Ok(Self {
            directory,
            path: path.to_owned(),
            id,
        })
    }

    /// Opens one, making it and what is missing above it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn create(path: &Path) -> Result<Self, GateError> {
        fs::create_dir_all(path).map_err(|source| GateError::File {
            what: "make",
            path: path.to_owned(),
            source,
        })?;
        Self::open(path)
    }

    /// Whether a process lives in it or below it. What cannot be read is taken for yes.
    #[must_use]
    pub fn populated(&self) -> bool {
        fs::read_to_string(self.path.join("cgroup.events")).map_or_else(
            |error| error.kind() != io::ErrorKind::NotFound,
            |text| text.contains("populated 1"),
        )
    }
}

/// The extended attribute in which [`note_run`] keeps its text.
const NOTE: &str = "trusted.agentguard.run";

/// The longest text of a note, in bytes: what an extended attribute holds (`XATTR_SIZE_MAX` of
/// `linux/limits.h`).
const LONGEST_NOTE: usize = 65_536;

/// Notes a text on a cgroup. It is there until the cgroup is removed, whoever ends meanwhile.
///
/// # Errors
/// The cgroup is gone, the text is too long, or there is no memory for it.
pub fn note_run(path: &Path, text: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::setxattr(path, NOTE, text, XattrFlags::empty())?)
}

/// The text that was noted on a cgroup.
///
/// # Errors
/// There is none (`ENODATA`), or the cgroup is gone.
pub fn noted_run(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = vec![0; LONGEST_NOTE];
    let length = rustix::fs::getxattr(path, NOTE, &mut text)?;
    text.truncate(length);
    Ok(text)
}

/// Bounds how deep and how many the cgroups below one may be (`cgroup.max.depth`,
/// `cgroup.max.descendants`): `mkdir(2)` fails with `EAGAIN` beyond. What was bounded before stays so.
///
/// # Errors
/// The cgroup is gone, or its files cannot be read or written.
pub fn bound(path: &Path, depth: u32, descendants: u32) -> io::Result<()> {
    for (name, most) in [
        ("cgroup.max.depth", depth),
        ("cgroup.max.descendants", descendants),
    ] {
        let file = path.join(name);
        if fs::read_to_string(&file)?.trim_end() == "max" {
            fs::write(&file, most.to_string())?;
        }
    }
    Ok(())
}

/// Stops every process in a cgroup and below it, or lets them go on (`cgroup.freeze`, Linux 5.2). Stopping
/// takes effect in a moment, not at once; it holds for processes that come later. A process that is
/// stopped like this can be killed.
///
/// # Errors
/// The cgroup is gone, or its file cannot be written.
pub fn freeze(path: &Path, frozen: bool) -> io::Result<()> {
    let value = if frozen { "1" } else { "0" };
    // Not created where it is not there: that would be no cgroup.
    let mut file = File::options()
        .write(true)
        .open(path.join("cgroup.freeze"))?;
    io::Write::write_all(&mut file, value.as_bytes())
}

/// Whether a cgroup is to be stopped, by its own file: not by that of one above it.
///
/// # Errors
/// The cgroup is gone, or its file cannot be read.
pub fn is_frozen(path: &Path) -> io::Result<bool> {
    let mut value = [0; 1];
    let mut file = File::open(path.join("cgroup.freeze"))?;
    let length = file.read(&mut value)?;
    Ok(length == 1 && value == *b"1")
}

/// Whether the cgroup with this id is at this path no more: there is none, or another one that was made
/// in its place. What only cannot be seen, as under a mount that covers the hierarchy, is not gone.
///
/// # Errors
/// It cannot be looked for.
pub fn is_gone(path: &Path, id: u64) -> Result<bool, GateError> {
    match fs::metadata(path) {
        // Ids are not given twice.
        Ok(found) if gate::file_system(path)? == CGROUP2_MAGIC => Ok(found.ino() != id),
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let there = path.ancestors().skip(1).find(|above| above.exists());
            let above = there.map(gate::file_system).transpose()?;
            Ok(above == Some(CGROUP2_MAGIC))
        }
        Err(source) => Err(GateError::File {
            what: "examine",
            path: path.to_owned(),
            source,
        }),
    }
}

/// Removes a cgroup and the empty ones below it. One with a process in it stays.
///
/// # Errors
/// The first directory's that could not be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    for child in children(path) {
        remove(&child)?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The cgroups right below one.
#[must_use]
pub fn children(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

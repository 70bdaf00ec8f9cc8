//! Whose gate is on a cgroup. Two on one would refuse each other's agents, for neither knows the other's
//! entries; so the topmost cgroup says where the gate on it is pinned.
//!
//! The mark is an extended attribute of the cgroup's directory: `trusted.*` is written and read with
//! CAP_SYS_ADMIN in the host's user namespace alone (`xattr(7)`), and goes with the cgroup.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// The attribute. Its value is the absolute path of the directory with the pins.
const NAME: &str = "trusted.agentguard";

/// Bytes of a path, at most (`PATH_MAX`).
const LONGEST: usize = 4096;

/// Marks a cgroup with where the gate on it is pinned.
///
/// # Errors
/// The kernel's: cgroups have no such attributes before Linux 4.6 and where they are not configured.
pub fn write(cgroup: &Path, pins: &Path) -> io::Result<()> {
    let value = pins.as_os_str().as_bytes();
    Ok(rustix::fs::setxattr(
        cgroup,
        NAME,
        value,
        XattrFlags::empty(),
    )?)
}

/// Takes the mark off, if it is this gate's.
///
/// # Errors
/// The kernel's. A cgroup that has none, or is not there, is none.
pub fn remove(cgroup: &Path, pins: &Path) -> io::Result<()> {
    if read(cgroup)?.is_none_or(|marked| !is_same(&marked, pins)) {
        return Ok(());
    }
    Ok(rustix::fs::removexattr(cgroup, NAME)?)
}

/// Where another gate is pinned that is on a cgroup: one that is marked, and whose links to this cgroup
/// are there. A mark that outlived its pins says nothing.
///
/// # Errors
/// The kernel's.
pub fn other(cgroup: &Path, pins: &Path) -> io::Result<Option<PathBuf>> {
    let Some(marked) = read(cgroup)? else {
        return Ok(None);
    };
    let id = fs::metadata(cgroup)?.ino();
    let is_pinned = fs::read_dir(marked.join("links").join(id.to_string()))
        .is_ok_and(|mut links| links.next().is_some());
    Ok((is_pinned && !is_same(&marked, pins)).then_some(marked))
}

/// `None`: there is no mark, or no cgroup.
fn read(cgroup: &Path) -> io::Result<Option<PathBuf>> {
    let mut value = vec![0; LONGEST];
    match rustix::fs::getxattr(cgroup, NAME, &mut value) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(PathBuf::from(OsString::from_vec(value))))
        }
        Err(Errno::NODATA | Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether both are one directory, however they are written.
fn is_same(one: &Path, other: &Path) -> bool {
    let directory = |path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    one == other
        || matches!((directory(one), directory(other)), (Ok(one), Ok(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use super::{other, remove, write};

    /// Any directory with attributes of this kind will do.
    #[test]
    fn a_mark_counts_while_its_pins_are_there_and_is_taken_off_by_its_own_gate() {
        let dir = tempfile::tempdir().unwrap();
        let [cgroup, mine, theirs] = ["cgroup", "mine", "theirs"].map(|it| dir.path().join(it));
        fs::create_dir(&cgroup).unwrap();
        fs::create_dir(&mine).unwrap();
        assert_eq!(other(&dir.path().join("none"), &mine).unwrap(), None);
        if write(&cgroup, &theirs).is_err() {
            // No root, or a file system without.
            return;
        }
        // Nothing is pinned there.
        assert_eq!(other(&cgroup, &mine).unwrap(), None);
        let id = fs::metadata(&cgroup).unwrap().ino();
        let links = theirs.join("links").join(id.to_string());
        fs::create_dir_all(links.join("egress")).unwrap();
        assert_eq!(other(&cgroup, &mine).unwrap(), Some(theirs.clone()));
        assert_eq!(other(&cgroup, &theirs.join(".")).unwrap(), None);
        remove(&cgroup, &mine).unwrap();
        assert_eq!(other(&cgroup, &mine).unwrap(), Some(theirs.clone()));
        remove(&cgroup, &theirs).unwrap();
        assert_eq!(other(&cgroup, &mine).unwrap(), None);
    }
}

//! The files that the log lies in.
//!
//! `seg-<number of its first entry, 20 digits>.log`, mode 0600: eight bytes that say what it is,
//! then frames. A segment is only ever appended to; the newest one is written, older ones are not.

use std::borrow::Cow;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What a segment begins with: a name and a version of the format.
pub(crate) const MAGIC: [u8; 8] = *b"AGLOG\0\0\x01";

/// Where the first frame of a segment begins.
pub(crate) const FIRST: u64 = MAGIC.len() as u64;

/// Where an entry lies.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Location {
    /// The number of the first entry of its segment.
    pub(crate) segment: u64,
    /// The offset of its frame in that file.
    pub(crate) offset: u64,
}

/// A place between two entries: where one ends and the next one begins.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Position {
    /// The number of the entry that begins there.
    pub(crate) number: u64,
    /// The segment it is in.
    pub(crate) segment: u64,
    /// The offset in that segment.
    pub(crate) offset: u64,
}

/// Something in the log that cannot be read.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    /// Where it begins.
    pub(crate) at: Location,
    /// The offset at which reading goes on.
    pub(crate) until: u64,
    /// The first and the last number that are missing, where that is known.
    pub(crate) missing: Option<(u64, u64)>,
    /// What it is, the beginning of a sentence that goes on with the place.
    pub(crate) what: Cow<'static, str>,
}

impl Broken {
    /// A stretch of bytes that are no entries.
    pub(crate) fn stretch(
        segment: u64,
        offset: u64,
        until: u64,
        missing: Option<(u64, u64)>,
    ) -> Self {
        Self {
            at: Location { segment, offset },
            until,
            missing,
            what: Cow::Borrowed("the log cannot be read"),
        }
    }

    /// A segment that does not begin like one.
    pub(crate) fn head(segment: u64) -> Self {
        Self {
            at: Location { segment, offset: 0 },
            until: FIRST,
            missing: None,
            what: Cow::Borrowed("the mark of a segment is not there"),
        }
    }

    /// How many entries are lost, where that is known.
    pub(crate) fn lost(&self) -> Option<u64> {
        let (from, to) = self.missing?;
        Some(to.saturating_sub(from).saturating_add(1))
    }
}

/// The path of a segment.
pub(crate) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("seg-{first:020}.log"))
}

/// Makes the record's directory, mode 0700, or takes the one that is there.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut permissions = dir.metadata()?.permissions();
    if permissions.mode() & 0o7777 != 0o700 {
        permissions.set_mode(0o700);
        std::fs::set_permissions(dir, permissions)?;
    }
    Ok(())
}

/// The segments in a directory, first numbers and lengths, in order. Other files are left alone.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<(u64, u64)>> {
    let mut found = Vec::new();
    for entry in dir.read_dir()? {
        let entry = entry?;
        let name = entry.file_name();
        let first = name
            .to_str()
            .and_then(|name| name.strip_prefix("seg-")?.strip_suffix(".log"))
            .filter(|digits| digits.len() == 20)
            .and_then(|digits| digits.parse().ok());
        if let Some(first) = first {
            found.push((first, entry.metadata()?.len()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Opens a file of the record for reading and writing, mode 0600, made if it is missing.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Makes an empty segment, safe from a power failure when this returns. Leaves nothing behind on
/// failure.
pub(crate) fn create(dir: &Path, first: u64) -> io::Result<File> {
    let path = path(dir, first);
    let file = open_file(&path)?;
    let made = file
        .set_len(0)
        .and_then(|()| file.write_all_at(&MAGIC, 0))
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_dir(dir));
    match made {
        Ok(()) => Ok(file),
        Err(error) => {
            // Without this a segment of no entries would stay; it would be taken up again at the
            // next attempt, so a failure here loses nothing.
            drop(std::fs::remove_file(&path));
            Err(error)
        }
    }
}

/// Makes the names in a directory safe from a power failure.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

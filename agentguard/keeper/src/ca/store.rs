//! The file that holds the authorities: keys, certificates and when each signs, replaced as a whole,
//! so that no crash leaves a key without its certificate.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::CaError;
use super::authority::{Authority, Flaw, Stored};
use super::schedule::Schedule;

/// The name of the file.
const FILE: &str = "authorities.json";

/// Bytes of the file, at most. Eight authorities need a fifth of it.
const MOST: u64 = 128 * 1024;

/// Permission bits that let others write to a file or directory.
const WRITABLE: u32 = 0o022;
/// Permission bits of everybody but the owner.
const OTHERS: u32 = 0o077;
/// In such a directory others cannot rename or remove what is not theirs.
const STICKY: u32 = 0o1000;

/// How others could come by the key or replace it.
#[derive(Debug)]
pub enum Fault {
    /// It belongs to somebody else.
    Owner {
        /// To this user.
        uid: u32,
    },
    /// Others may do too much with it.
    Mode {
        /// Its permission bits.
        mode: u32,
        /// Those that it may have.
        allowed: u32,
    },
    /// It is not of the right kind: a link, or a device.
    Kind,
}

impl Fault {
    /// What to do about it.
    pub(super) fn hint(&self, path: &str) -> String {
        let leaked =
            "if somebody may have read the key, run `agentguard ca rotate --now` afterwards";
        match self {
            Self::Owner { .. } => format!("chown root {path}; {leaked}"),
            Self::Mode { allowed, .. } if allowed & OTHERS == 0 => {
                format!("chmod go= {path}; {leaked}")
            }
            Self::Mode { .. } => format!("chmod go-w {path}; {leaked}"),
            Self::Kind => format!("put the real one at {path}: links are not followed there"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner { uid } => write!(f, "belongs to user {uid}"),
            Self::Mode { mode, .. } => write!(f, "is open to others, with mode {mode:04o}"),
            Self::Kind => f.write_str("is not of the kind that was made there"),
        }
    }
}

/// The directory with the file.
pub(super) struct Store {
    directory: PathBuf,
}

/// One authority in the file.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    signs_from: u64,
    authority: Stored,
}

impl Store {
    /// Makes the directory if it is missing, and checks that nobody else can reach into it or put
    /// another in its place.
    pub(super) fn open(directory: &Path) -> Result<Self, CaError> {
        let failed = |source| CaError::Directory {
            path: directory.display().to_string(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed)?;
        let found = fs::symlink_metadata(directory).map_err(failed)?;
        if !found.is_dir() {
            return Err(exposed(directory, Fault::Kind));
        }
        check(directory, &found, 0o700)?;
        let real = fs::canonicalize(directory).map_err(failed)?;
        for above in real.ancestors().skip(1) {
            let found = fs::metadata(above).map_err(failed)?;
            let mode = if found.mode() & STICKY == 0 {
                0o7777 & !WRITABLE
            } else {
                0o7777
            };
            check(above, &found, mode)?;
        }
        Ok(Self { directory: real })
    }

    /// The file's path, for messages.
    pub(super) fn path(&self) -> String {
        self.file().display().to_string()
    }

    fn file(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// What the file holds. `None`: there is no file.
    pub(super) fn read(&self) -> Result<Option<Schedule<Arc<Authority>>>, CaError> {
        let path = self.file();
        let unreadable = |source| CaError::Unreadable {
            path: self.path(),
            source,
        };
        let opened = fs::OpenOptions::new()
            .read(true)
            .custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK))
            .open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                return Err(exposed(&path, Fault::Kind));
            }
            Err(error) => return Err(unreadable(error)),
        };
        let found = file.metadata().map_err(unreadable)?;
        if !found.is_file() {
            return Err(exposed(&path, Fault::Kind));
        }
        check(&path, &found, 0o600)?;
        let mut bytes = Vec::new();
        file.take(MOST)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        parse(&bytes).map(Some).map_err(|source| CaError::Damaged {
            path: self.path(),
            source,
        })
    }

    /// Replaces the file. When this returns, the new one is on disk.
    pub(super) fn write(&self, schedule: &Schedule<Arc<Authority>>) -> Result<(), CaError> {
        let entries: Vec<Entry> = schedule
            .entries()
            .map(|(authority, signs_from)| Entry {
                signs_from,
                authority: authority.stored().clone(),
            })
            .collect();
        self.replace(&entries)
            .map_err(|source| CaError::Unwritable {
                path: self.path(),
                source,
            })
    }

    fn replace(&self, entries: &[Entry]) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(entries)?;
        let temporary = self.directory.join("authorities.new");
        // What a crash left there is not written to: it may have been opened by nobody knows whom.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, self.file())?;
        File::open(&self.directory)?.sync_all()
    }
}

fn parse(bytes: &[u8]) -> Result<Schedule<Arc<Authority>>, Flaw> {
    let entries: Vec<Entry> = serde_json::from_slice(bytes)?;
    let entries = entries
        .into_iter()
        .map(|entry| {
            let authority = Authority::restore(entry.authority)?;
            Ok((Arc::new(authority), entry.signs_from))
        })
        .collect::<Result<Vec<_>, Flaw>>()?;
    Schedule::restore(entries).ok_or(Flaw::Order)
}

/// Owned by us or root, and open to others no further than that.
fn check(path: &Path, found: &fs::Metadata, allowed: u32) -> Result<(), CaError> {
    let (uid, mode) = (found.uid(), found.mode() & 0o7777);
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        return Err(exposed(path, Fault::Owner { uid }));
    }
    if mode & OTHERS & !allowed != 0 {
        return Err(exposed(path, Fault::Mode { mode, allowed }));
    }
    Ok(())
}

fn exposed(path: &Path, fault: Fault) -> CaError {
    CaError::Exposed {
        path: path.display().to_string(),
        fault,
    }
}

fn flags(flags: OFlags) -> i32 {
    // The kernel takes them as an `int`.
    flags.bits().cast_signed()
}

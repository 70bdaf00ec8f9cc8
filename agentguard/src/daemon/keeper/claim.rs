//! One daemon at a time.
//!
//! Each lock is on something that only root can open: whoever can open it could hold the lock, and an
//! agent that outlives a daemon would keep the next one from starting.

use std::fs::{self, File, Permissions, TryLockError};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use agentguard_keeper::gate;
use anyhow::{Context as _, bail};

use crate::config::Paths;

/// How long a lock is waited for: a daemon that was killed may have passed it to a child between fork
/// and exec.
const LEAVING: Duration = Duration::from_secs(1);

/// The right to these sockets and to this gate, held until it is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    _sockets: File,
    _gate: File,
}

impl Claim {
    /// Makes sure that no other daemon uses the sockets, nor the gate with sockets of its own: two
    /// would write into the same maps.
    ///
    /// # Errors
    /// Another daemon runs, or there is no BPF file system.
    pub(super) fn take(paths: &Paths) -> anyhow::Result<Self> {
        let path = paths.runtime_dir.join("lock");
        let mut options = File::options();
        let sockets = options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .and_then(|file| {
                // An earlier version left it readable.
                file.set_permissions(Permissions::from_mode(0o600))?;
                Ok(file)
            })
            .with_context(|| format!("cannot write {}", path.display()))?;
        lock(&sockets, &paths.runtime_dir)?;
        gate::make_directory(&paths.bpffs)?;
        let directory = File::open(&paths.bpffs)
            .and_then(|directory| {
                directory.set_permissions(Permissions::from_mode(0o700))?;
                Ok(directory)
            })
            .with_context(|| format!("cannot open {}", paths.bpffs.display()))?;
        lock(&directory, &paths.bpffs)?;
        Ok(Self {
            _sockets: sockets,
            _gate: directory,
        })
    }

    /// Removes a socket that a daemon left which is gone.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(super) fn clear(&self, socket: &Path) -> anyhow::Result<()> {
        match fs::remove_file(socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", socket.display()))
            }
            _ => Ok(()),
        }
    }
}

fn lock(file: &File, what: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + LEAVING;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                thread::park_timeout(LEAVING / 100);
            }
            Err(TryLockError::WouldBlock) => bail!(
                "another daemon runs with {}; hint: see `agentguard status`",
                what.display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", what.display()));
            }
        }
    }
}

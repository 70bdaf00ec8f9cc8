//! What an agent may take of the host, and what it takes: the resource controllers of cgroup v2.
//!
//! - [`controllers`]: having a controller on where an agent's cgroup is, and why it cannot be had.
//! - [`limits`]: setting limits, and taking them back.
//! - [`usage`]: what is taken, and what happened.
//! - [`pressure`]: that an agent begins to wait for much of its time.
//!
//! Only files of cgroups are read and written here, each bounded. Writing a limit of memory below what is in use
//! takes as long as the kernel needs to take that back: nothing here is to be called under the keeper's lock,
//! unless it says so.
//!
//! A controller is never turned on below an agent's own cgroup: what runs there is charged to that cgroup as a
//! whole, and `pids.events` counts there on every kernel.

pub mod controllers;
pub mod limits;
pub mod pressure;
pub mod usage;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

/// Bytes of a cgroup's file that are read, at most: `io.stat` has a line for each device. What is beyond is left.
const MOST: u64 = 64 * 1024;

/// What a file of a cgroup has.
fn read(path: &Path) -> io::Result<String> {
    let mut text = Vec::new();
    File::open(path)?.take(MOST).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Writes to a file of a cgroup that is there: one that was made would be none.
fn write(path: &Path, value: &str) -> io::Result<()> {
    let mut file = File::options().write(true).truncate(true).open(path)?;
    file.write_all(value.as_bytes())
}

/// That a limit cannot be set.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lack {
    /// What cannot be, and why: a sentence.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

impl Lack {
    fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            hint: hint.into(),
        }
    }
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; hint: {}", self.what, self.hint)
    }
}

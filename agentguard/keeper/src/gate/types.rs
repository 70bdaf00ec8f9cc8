//! The kernel's own type information, to which programs are fitted as they are loaded.
//!
//! It is some megabytes, and takes a tenth of a start to read: beside what else a start does, on a thread of its own.

use std::thread::{self, JoinHandle};

use aya::{Btf, BtfError};

use super::lsm::{self, Offsets};

/// What the kernel says of its types.
pub struct Types {
    pub(super) btf: Result<Btf, BtfError>,
    /// Where members lie that programs on sockets of others look at; none where it does not say.
    pub(super) offsets: Option<Offsets>,
}

impl Types {
    /// Reads it. Where there is none, loading says so.
    #[must_use]
    pub fn read() -> Self {
        thread::scope(|scope| {
            let beside = thread::Builder::new().spawn_scoped(scope, lsm::find_offsets);
            let btf = Btf::from_sys_fs();
            let offsets = match beside {
                Ok(beside) => beside
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                // Where there are no threads left, it takes longer.
                Err(_) => lsm::find_offsets(),
            };
            Self { btf, offsets }
        })
    }
}

/// Types that are being read.
pub struct Reading(Option<JoinHandle<Types>>);

impl Reading {
    /// Begins to read them.
    #[must_use]
    pub fn begin() -> Self {
        let reads = thread::Builder::new().name("kernel-types".into());
        Self(reads.spawn(Types::read).ok())
    }

    /// Waits until they are read.
    #[must_use]
    pub fn wait(self) -> Types {
        match self.0 {
            Some(reads) => reads
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            None => Types::read(),
        }
    }
}

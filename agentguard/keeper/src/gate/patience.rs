//! Writes that are made again while the kernel has no memory at hand.
//!
//! The elements of the gate's maps are allocated as they are written, without waiting: from caches of each
//! processor, which are filled again a moment later by an interrupt or a worker thread
//! (`kernel/bpf/memalloc.c`), or by `GFP_NOWAIT`. Many that are written at once find such a cache empty,
//! mostly those with a part for each processor, and are told `ENOMEM` though there is memory.

use std::thread;
use std::time::Duration;

use aya::maps::MapError;

/// How often a write is made, at most.
const TRIES: u32 = 25;

/// Between two. The keeper is locked meanwhile, for a twentieth of a second at most.
const PAUSE: Duration = Duration::from_millis(2);

/// Who waits for the kernel's memory, and does not for write after write where there is none.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// The last write got none, however often it was made.
    spent: bool,
}

impl Patience {
    /// Makes a write, again where memory was not at hand.
    ///
    /// # Errors
    /// Those of the write; `ENOMEM` where there is none for a while.
    pub(super) fn write(
        &mut self,
        write: impl FnMut() -> Result<(), MapError>,
    ) -> Result<(), MapError> {
        // There is nothing that would wake us.
        self.write_with(write, || thread::park_timeout(PAUSE))
    }

    fn write_with(
        &mut self,
        mut write: impl FnMut() -> Result<(), MapError>,
        mut pause: impl FnMut(),
    ) -> Result<(), MapError> {
        let mut left = if self.spent { 1 } else { TRIES };
        loop {
            let written = write();
            let lacks_memory = written.as_ref().is_err_and(lacks_memory);
            left -= 1;
            if !lacks_memory || left == 0 {
                self.spent = lacks_memory;
                return written;
            }
            pause();
        }
    }
}

fn lacks_memory(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error)
        if error.io_error.raw_os_error() == Some(libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya::sys::SyscallError;
    use std::io;

    fn failed(errno: i32) -> Result<(), MapError> {
        Err(MapError::SyscallError(SyscallError {
            call: "bpf_map_update_elem",
            io_error: io::Error::from_raw_os_error(errno),
        }))
    }

    /// Writes that fail so often, and then succeed: what came of it, writes and pauses.
    fn after(patience: &mut Patience, failures: u32, errno: i32) -> (bool, u32, u32) {
        let (mut writes, mut pauses) = (0, 0);
        let result = patience.write_with(
            || {
                writes += 1;
                if writes <= failures {
                    failed(errno)
                } else {
                    Ok(())
                }
            },
            || pauses += 1,
        );
        (result.is_ok(), writes, pauses)
    }

    #[test]
    fn a_write_is_made_again_while_memory_is_not_at_hand_and_no_longer() {
        let mut patience = Patience::default();
        assert_eq!(after(&mut patience, 0, libc::ENOMEM), (true, 1, 0));
        assert_eq!(after(&mut patience, 3, libc::ENOMEM), (true, 4, 3));
        let last = TRIES - 1;
        assert_eq!(
            after(&mut patience, last, libc::ENOMEM),
            (true, TRIES, last)
        );
        assert_eq!(
            after(&mut patience, TRIES, libc::ENOMEM),
            (false, TRIES, last)
        );
    }

    #[test]
    fn where_there_is_none_the_next_write_does_not_wait_until_one_succeeds() {
        let mut patience = Patience::default();
        assert!(!after(&mut patience, TRIES, libc::ENOMEM).0);
        assert_eq!(after(&mut patience, 1, libc::ENOMEM), (false, 1, 0));
        assert_eq!(after(&mut patience, 0, libc::ENOMEM), (true, 1, 0));
        assert_eq!(after(&mut patience, 1, libc::ENOMEM), (true, 2, 1));
    }

    #[test]
    fn other_failures_are_told_at_once() {
        let mut patience = Patience::default();
        for errno in [libc::E2BIG, libc::ENOSPC, libc::EPERM, libc::EBUSY] {
            assert_eq!(after(&mut patience, 1, errno), (false, 1, 0));
        }
        let absent = patience.write_with(|| Err(MapError::KeyNotFound), || panic!("a pause"));
        assert!(absent.is_err());
    }
}

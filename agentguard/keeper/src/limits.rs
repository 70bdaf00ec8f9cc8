//! Resource limits of the keeper, which no command of an agent lowers.

use std::io;

use rustix::process::{Gid, Resource, getgid, getrlimit, setrlimit};
use rustix::thread::set_thread_res_gid;

/// Keeps this process's limits from others that are root without `CAP_SYS_RESOURCE`, as commands of agents
/// are: `prlimit(2)` serves them where all six of a process's numbers are theirs (`kernel/sys.c`,
/// `check_prlimit_permission`), and its saved group is `other` from now on. Takes off the limit on the size
/// of files, which would end the process by a signal. To be called before any other thread exists, which
/// inherits this.
///
/// # Errors
/// The system calls'. [`io::ErrorKind::InvalidInput`]: `other` is this process's own group.
pub fn keep_own(other: u32) -> io::Result<()> {
    let own = getgid();
    if other == own.as_raw() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    set_thread_res_gid(own, own, Gid::from_raw(other))?;
    let mut size = getrlimit(Resource::Fsize);
    (size.current, size.maximum) = (None, None);
    // Without the right to raise it, what the service manager says stays.
    let _ = setrlimit(Resource::Fsize, size);
    Ok(())
}

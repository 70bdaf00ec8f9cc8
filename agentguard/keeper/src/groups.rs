//! The guard's own groups, and the sockets that they are let in to.
//!
//! The file's mode and its access list are the first look; who may do what is decided by what the
//! kernel says of the process that connected, which is the same credentials. A membership that stands
//! in `/etc/group` and that the process does not have counts for neither.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, lchown};
use std::path::Path;

use rustix::fs::XattrFlags;
use serde::{Deserialize, Serialize};

use crate::spawn;

/// Members run those agents whose `users` list them, and read what concerns these.
pub const RUN: &str = "agentguard-run";

/// Members read everything.
pub const READ: &str = "agentguard-read";

/// Members read everything, quarantine agents and release them.
pub const APPROVE: &str = "agentguard-approve";

/// The numbers of the groups that the host has.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Groups {
    /// Of [`RUN`].
    pub run: Option<u32>,
    /// Of [`READ`].
    pub read: Option<u32>,
    /// Of [`APPROVE`].
    pub approve: Option<u32>,
}

impl Groups {
    /// Looks them up. Root's own group is none of the guard's, whatever its name.
    ///
    /// # Errors
    /// The group database's.
    pub fn look_up() -> io::Result<Self> {
        let number = |name| spawn::group(name).map(|gid| gid.filter(|gid| *gid != 0));
        Ok(Self {
            run: number(RUN)?,
            read: number(READ)?,
            approve: number(APPROVE)?,
        })
    }

    /// Those that the host has, with their names.
    pub fn all(self) -> impl Iterator<Item = (&'static str, u32)> {
        [(RUN, self.run), (READ, self.read), (APPROVE, self.approve)]
            .into_iter()
            .filter_map(|(name, gid)| Some((name, gid?)))
    }
}

/// Whom a socket lets in besides root.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LetIn {
    /// All that were named.
    All,
    /// The first of them alone: the file system has no access lists.
    First,
}

/// Lets root and these groups connect to a socket of root's, and nobody else.
///
/// # Errors
/// The file system's; the socket is then open to fewer than were named, never to others.
pub fn let_in(path: &Path, groups: &[u32]) -> io::Result<LetIn> {
    lchown(path, Some(0), Some(0))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let alone = |gid| {
        lchown(path, Some(0), Some(gid))?;
        std::fs::set_permissions(path, Permissions::from_mode(0o660))
    };
    match groups {
        [] => Ok(LetIn::All),
        [only] => alone(*only).map(|()| LetIn::All),
        [first, ..] => {
            let list = access_list(groups);
            match rustix::fs::lsetxattr(path, "system.posix_acl_access", &list, XattrFlags::empty())
            {
                Ok(()) => Ok(LetIn::All),
                Err(rustix::io::Errno::OPNOTSUPP) => alone(*first).map(|()| LetIn::First),
                Err(error) => Err(error.into()),
            }
        }
    }
}

/// An access list as the kernel's extended attribute has it (`linux/posix_acl_xattr.h`): reading and
/// writing for the owner and for these groups, nothing for others.
fn access_list(groups: &[u32]) -> Vec<u8> {
    const VERSION: u32 = 2;
    // `linux/posix_acl.h`.
    const USER_OBJ: u16 = 0x01;
    const GROUP_OBJ: u16 = 0x04;
    const GROUP: u16 = 0x08;
    const MASK: u16 = 0x10;
    const OTHER: u16 = 0x20;
    const READ_WRITE: u16 = 6;
    const NOBODY: u32 = u32::MAX;
    // The kernel wants them ascending, each once.
    let mut groups = groups.to_vec();
    groups.sort_unstable();
    groups.dedup();
    let mut entries = vec![(USER_OBJ, READ_WRITE, NOBODY), (GROUP_OBJ, 0, NOBODY)];
    entries.extend(groups.into_iter().map(|gid| (GROUP, READ_WRITE, gid)));
    entries.extend([(MASK, READ_WRITE, NOBODY), (OTHER, 0, NOBODY)]);
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::net::{UnixListener, UnixStream};

    /// Connects as a user of no name, in these groups.
    fn connects(path: &Path, gid: u32, groups: &[u32]) -> bool {
        let (path, groups) = (path.to_owned(), groups.to_vec());
        std::thread::spawn(move || {
            let groups: Vec<_> = groups
                .into_iter()
                .map(rustix::process::Gid::from_raw)
                .collect();
            let gid = rustix::process::Gid::from_raw(gid);
            let uid = rustix::process::Uid::from_raw(64_299);
            // The kernel's calls, which change this thread alone.
            rustix::thread::set_thread_groups(&groups).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            UnixStream::connect(path).is_ok()
        })
        .join()
        .unwrap()
    }

    #[test]
    fn a_socket_lets_in_the_groups_that_are_named_and_nobody_else() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let path = directory.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        let (one, two, three) = (64_301, 64_302, 64_303);
        for (named, groups) in [
            (&[][..], [false, false, false]),
            (&[two], [false, true, false]),
            (&[three, one], [true, false, true]),
            (&[two, one, two], [true, true, false]),
            (&[], [false, false, false]),
        ] {
            assert_eq!(let_in(&path, named).unwrap(), LetIn::All);
            for (gid, expected) in [one, two, three].into_iter().zip(groups) {
                assert_eq!(
                    connects(&path, 64_299, &[4, gid]),
                    expected,
                    "{gid} of {named:?}"
                );
                assert_eq!(connects(&path, gid, &[]), expected, "{gid} of {named:?}");
            }
            assert!(!connects(&path, 64_299, &[]), "{named:?}");
            assert!(!connects(&path, 0, &[]), "{named:?}");
        }
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }
}

//! Whose rights a command gets.
//!
//! A caller that runs as itself keeps the uid, gid and groups that the kernel attests for its
//! socket: never more than it has, and no user database is asked. Only where root names another user
//! does the database say which groups belong to it. The guard's own groups are always taken away: a
//! command must not be a client of its guard. So are those whose members are as good as root.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use super::message::Refusal;
use crate::packet::Peer;

/// Groups whose name begins so authorise clients of the guard.
const OWN_GROUPS: &[u8] = b"agentguard";

/// Groups that a command does not keep as supplementary ones: their members command a daemon of
/// root's that runs what they say outside of every cgroup, or read disks and memory themselves. The
/// daemons' sockets are masked too, but one that is made anew is not (see `docs/cli.md`).
const POWERFUL: [&[u8]; 10] = [
    b"docker",
    b"podman",
    b"lxd",
    b"incus",
    b"incus-admin",
    b"libvirt",
    b"snap_daemon",
    b"disk",
    b"kmem",
    b"shadow",
];

/// The bytes of one database entry, at most; a larger one is an error.
const MAX_ENTRY: usize = 1024 * 1024;

/// The groups of one user, at most: the kernel's own bound (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65536;

/// The identity of a command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Credentials {
    /// Real, effective, saved and file system user.
    pub(super) uid: u32,
    /// Real, effective, saved and file system group.
    pub(super) gid: u32,
    /// Supplementary groups.
    pub(super) groups: Vec<u32>,
    /// The environment variables that name the user, if it is another than the caller.
    pub(super) variables: Vec<(&'static str, CString)>,
}

impl Credentials {
    /// Takes groups away, by their numbers: those that stood for the guard's groups when it began, whatever
    /// the database says by now.
    ///
    /// # Errors
    /// One of them is the primary one.
    pub(super) fn give_up(&mut self, groups: &[u32]) -> Result<(), Refusal> {
        self.groups.retain(|gid| !groups.contains(gid));
        if groups.contains(&self.gid) {
            return Err(no_group_left());
        }
        Ok(())
    }
}

/// Decides as whom a command runs.
pub(super) fn credentials(peer: &Peer, user: Option<&str>) -> Result<Credentials, Refusal> {
    let unusable =
        |error: io::Error| Refusal::new(format!("cannot read the user database: {error}"));
    let Some(user) = user else {
        return own(peer).map_err(unusable)?.ok_or_else(no_group_left);
    };
    let account = find(user).map_err(unusable)?.ok_or_else(|| {
        Refusal::new(format!("there is no user `{user}` on this host"))
            .hint("give --user a name or a number from the user database")
    })?;
    // setresuid(2) takes the highest number for "as it is".
    if account.uid == u32::MAX || account.gid == u32::MAX {
        return Err(Refusal::new(format!(
            "`{user}` is no user: the number {} stands for none",
            u32::MAX
        )));
    }
    if account.uid == peer.uid {
        return own(peer).map_err(unusable)?.ok_or_else(no_group_left);
    }
    if peer.uid != 0 {
        return Err(
            Refusal::new(format!("only root may run a command as `{user}`"))
                .hint("leave out --user to run it as yourself"),
        );
    }
    let groups = group_list(&account.name, account.gid).map_err(unusable)?;
    let groups = without_own(groups).map_err(unusable)?;
    if is_own(account.gid).map_err(unusable)? {
        return Err(no_group_left());
    }
    Ok(Credentials {
        uid: account.uid,
        gid: account.gid,
        groups,
        variables: vec![
            ("USER", account.name.clone()),
            ("LOGNAME", account.name),
            ("HOME", account.home),
            ("SHELL", account.shell),
        ],
    })
}

fn no_group_left() -> Refusal {
    Refusal::new("the user's primary group is one of the guard's own")
        .hint("make it a supplementary group of the user")
}

/// The caller's own; `None` if nothing but a group of the guard would remain as primary group.
fn own(peer: &Peer) -> io::Result<Option<Credentials>> {
    // `sg agentguard-run` makes the guard's group the primary one: the database has the real one.
    let gid = if is_own(peer.gid)? {
        match by_uid(peer.uid)?.map(|account| account.gid) {
            Some(gid) if !is_own(gid)? => gid,
            _ => return Ok(None),
        }
    } else {
        peer.gid
    };
    Ok(Some(Credentials {
        uid: peer.uid,
        gid,
        groups: without_own(peer.groups.clone())?,
        variables: Vec::new(),
    }))
}

fn without_own(groups: Vec<u32>) -> io::Result<Vec<u32>> {
    let mut kept = Vec::with_capacity(groups.len());
    for gid in groups {
        let taken = is_named(gid, |name| {
            name.starts_with(OWN_GROUPS) || POWERFUL.contains(&name)
        });
        if !taken? {
            kept.push(gid);
        }
    }
    Ok(kept)
}

/// Whether a group authorises clients of the guard.
fn is_own(gid: u32) -> io::Result<bool> {
    is_named(gid, |name| name.starts_with(OWN_GROUPS))
}

/// Whether a group is in the database, under such a name.
fn is_named(gid: u32, such: impl Fn(&[u8]) -> bool) -> io::Result<bool> {
    let found = lookup(
        // SAFETY: `lookup` hands us storage of the right type and a buffer with its length.
        |entry, buffer, length, found| unsafe {
            libc::getgrgid_r(gid, entry, buffer, length, found)
        },
        |entry: &libc::group| {
            // SAFETY: a filled entry's name is a C string within its buffer.
            such(unsafe { CStr::from_ptr(entry.gr_name) }.to_bytes())
        },
    )?;
    Ok(found.unwrap_or(false))
}

/// The number of a group of this host, where there is one of that name.
///
/// # Errors
/// The databases'; [`io::ErrorKind::InvalidInput`] for a name with a NUL.
pub fn group(name: &str) -> io::Result<Option<u32>> {
    let name = CString::new(name)?;
    lookup(
        // SAFETY: `lookup` hands us storage of the right type and a buffer with its length; the name
        // is a C string.
        |entry, buffer, length, found| unsafe {
            libc::getgrnam_r(name.as_ptr(), entry, buffer, length, found)
        },
        |entry: &libc::group| entry.gr_gid,
    )
}

/// The number of a user of this host, where there is one of that name.
///
/// # Errors
/// The databases'; [`io::ErrorKind::InvalidInput`] for a name with a NUL.
pub fn user(name: &str) -> io::Result<Option<u32>> {
    let name = CString::new(name)?;
    lookup(
        // SAFETY: as in `group`.
        |entry, buffer, length, found| unsafe {
            libc::getpwnam_r(name.as_ptr(), entry, buffer, length, found)
        },
        |entry: &libc::passwd| entry.pw_uid,
    )
}

struct Account {
    uid: u32,
    gid: u32,
    name: CString,
    home: CString,
    shell: CString,
}

impl Account {
    fn read(entry: &libc::passwd) -> Self {
        let text = |text: *const libc::c_char| {
            if text.is_null() {
                CString::default()
            } else {
                // SAFETY: a filled entry's texts are C strings within its buffer.
                unsafe { CStr::from_ptr(text) }.to_owned()
            }
        };
        Self {
            uid: entry.pw_uid,
            gid: entry.pw_gid,
            name: text(entry.pw_name),
            home: text(entry.pw_dir),
            shell: text(entry.pw_shell),
        }
    }
}

/// By name, or by number.
fn find(user: &str) -> io::Result<Option<Account>> {
    let Ok(name) = CString::new(user) else {
        return Ok(None);
    };
    let found = lookup(
        // SAFETY: as above; `name` is a C string that outlives the call.
        |entry, buffer, length, found| unsafe {
            libc::getpwnam_r(name.as_ptr(), entry, buffer, length, found)
        },
        Account::read,
    )?;
    match (found, user.parse()) {
        (None, Ok(uid)) => by_uid(uid),
        (found, _) => Ok(found),
    }
}

fn by_uid(uid: u32) -> io::Result<Option<Account>> {
    lookup(
        // SAFETY: as above.
        |entry, buffer, length, found| unsafe {
            libc::getpwuid_r(uid, entry, buffer, length, found)
        },
        Account::read,
    )
}

/// Calls one of the `get*_r` functions with a buffer that grows until the entry fits, and reads the
/// entry while its buffer lives.
fn lookup<E, T>(
    call: impl Fn(*mut E, *mut libc::c_char, usize, *mut *mut E) -> libc::c_int,
    read: impl Fn(&E) -> T,
) -> io::Result<Option<T>> {
    let mut buffer: Vec<libc::c_char> = vec![0; 4096];
    loop {
        let mut entry = MaybeUninit::<E>::zeroed();
        let mut found = ptr::null_mut();
        let result = call(
            entry.as_mut_ptr(),
            buffer.as_mut_ptr(),
            buffer.len(),
            &raw mut found,
        );
        match result {
            // SAFETY: on success `found` is null or points at `entry`, which is then filled.
            0 => return Ok(unsafe { found.as_ref() }.map(read)),
            libc::ERANGE if buffer.len() < MAX_ENTRY => buffer.resize(buffer.len() * 4, 0),
            // What the databases answer for "there is none", besides 0 (getpwnam(3)).
            libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => return Ok(None),
            libc::EINTR => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn group_list(name: &CStr, gid: u32) -> io::Result<Vec<u32>> {
    let mut groups: Vec<u32> = vec![0; 64];
    loop {
        let mut count = libc::c_int::try_from(groups.len()).map_err(io::Error::other)?;
        // SAFETY: `groups` is writable for `count` entries, `name` is a C string.
        let result =
            unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
        let count = usize::try_from(count).map_err(io::Error::other)?;
        if result >= 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        if groups.len() >= MAX_GROUPS {
            return Err(io::Error::other(
                "a user has more groups than the kernel allows",
            ));
        }
        groups.resize(count.max(groups.len() * 2).min(MAX_GROUPS), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
        Peer {
            pid: 1,
            uid,
            gid,
            groups: groups.to_vec(),
            pidfd: None,
        }
    }

    #[test]
    fn a_caller_keeps_what_it_has_and_gets_nothing_from_the_database() {
        let own = credentials(&peer(1, 2, &[7, 8]), None).unwrap();
        assert_eq!(
            (own.uid, own.gid, own.groups.as_slice()),
            (1, 2, &[7, 8][..])
        );
        assert!(own.variables.is_empty());
        // Itself by name or number is no other user.
        for user in ["daemon", "1"] {
            assert_eq!(credentials(&peer(1, 2, &[7, 8]), Some(user)).unwrap(), own);
        }
    }

    #[test]
    fn a_group_whose_members_are_as_good_as_root_is_not_kept() {
        // Of Debian, Fedora and Alpine alike.
        let Ok(Some(disk)) = lookup(
            // SAFETY: as in `is_named`; the name is a C string.
            |entry, buffer, length, found| unsafe {
                libc::getgrnam_r(c"disk".as_ptr(), entry, buffer, length, found)
            },
            |entry: &libc::group| entry.gr_gid,
        ) else {
            return;
        };
        let own = credentials(&peer(1, 2, &[7, disk, 8]), None).unwrap();
        assert_eq!(own.groups, [7, 8]);
    }

    #[test]
    fn groups_are_given_up_by_their_numbers_and_the_primary_one_cannot_be() {
        let mut own = credentials(&peer(1, 2, &[7, 31, 8, 32]), None).unwrap();
        own.give_up(&[31, 32]).unwrap();
        assert_eq!(own.groups, [7, 8]);
        assert!(own.give_up(&[2]).is_err());
    }

    #[test]
    fn only_root_becomes_another_user() {
        let refusal = credentials(&peer(1, 1, &[]), Some("root")).unwrap_err();
        assert_eq!(refusal.message, "only root may run a command as `root`");
        for user in ["no-such-user", "", "a\0b", "4294967294", "-1"] {
            let refusal = credentials(&peer(0, 0, &[]), Some(user)).unwrap_err();
            assert!(refusal.message.starts_with("there is no user"), "{user:?}");
        }
        let daemon = credentials(&peer(0, 0, &[0]), Some("daemon")).unwrap();
        assert_eq!((daemon.uid, daemon.gid), (1, 1));
        assert!(!daemon.groups.contains(&0));
        let names: Vec<&str> = daemon.variables.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["USER", "LOGNAME", "HOME", "SHELL"]);
        assert_eq!(daemon.variables[0].1.as_c_str(), c"daemon");
    }
}

//! Who besides root can change what the guard rests on: its configuration, its policy, its directories.
//! Whoever can may open the guard, or stand in for it.

use std::fmt;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use agentguard_policy::{Diagnostic, Severity};

/// Write permission of everybody.
const EVERYBODY: u32 = 0o002;
/// Write permission of a group.
const GROUP: u32 = 0o020;
/// In such a directory nobody renames or removes what is another's.
const STICKY: u32 = 0o1000;

/// Somebody other than root can change something.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Exposed {
    /// What the guard rests on, as `policy` or `state_dir`, and where that is.
    what: &'static str,
    path: PathBuf,
    /// The file or the directory on the way to it that is open.
    open: PathBuf,
    how: How,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum How {
    /// It belongs to this user.
    Owner(u32),
    /// Others than root can write it; its permission bits.
    Mode(u32),
    /// Nobody can say: it cannot be looked at.
    Unknown(ErrorKind),
}

/// What is looked for.
#[derive(Clone, Copy)]
struct Rule {
    /// Who may own it, besides root.
    owner: u32,
    /// The permission bits that it may not have.
    bits: u32,
}

/// Looks at a file that only root may change: at itself, at links on the way and at each directory above.
/// A group that may write is the operator's choice. `owner`: whose it may be besides root's.
pub(crate) fn file(what: &'static str, path: &Path, owner: u32) -> Result<(), Exposed> {
    let bits = EVERYBODY;
    look(what, path, Rule { owner, bits })
}

/// Looks at a directory in the same way, whether or not it is there. No group but root's may write in it.
pub(crate) fn directory(what: &'static str, path: &Path) -> Result<(), Exposed> {
    let bits = EVERYBODY | GROUP;
    look(what, path, Rule { owner: 0, bits })
}

fn look(what: &'static str, path: &Path, rule: Rule) -> Result<(), Exposed> {
    let exposed = |open: &Path, how| Exposed {
        what,
        path: path.to_owned(),
        open: open.to_owned(),
        how,
    };
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // As it is written: who can replace a link on the way decides where it leads.
    each(&path, rule, false).map_err(|(open, how)| exposed(&open, how))?;
    // And where it comes out. What is not there yet is made, by root.
    let there = path
        .ancestors()
        .find_map(|it| fs::canonicalize(it).ok().map(|real| (it, real)));
    let Some((from, real)) = there else {
        return Ok(());
    };
    each(&real, rule, from == path).map_err(|(open, how)| exposed(&open, how))
}

/// Looks at a path and all above it. `is_itself`: the path is the one that is meant and no directory
/// above it, so that the sticky bit does not help.
fn each(path: &Path, rule: Rule, is_itself: bool) -> Result<(), (PathBuf, How)> {
    for (index, at) in path.ancestors().enumerate() {
        let found = match fs::symlink_metadata(at) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err((at.to_owned(), How::Unknown(error.kind()))),
        };
        if let Some(how) = open(&found, rule, is_itself && index == 0) {
            return Err((at.to_owned(), how));
        }
    }
    Ok(())
}

fn open(found: &Metadata, rule: Rule, is_itself: bool) -> Option<How> {
    if found.uid() != 0 && found.uid() != rule.owner {
        return Some(How::Owner(found.uid()));
    }
    // The mode of a link says nothing.
    if found.is_symlink() {
        return None;
    }
    let mode = found.mode() & 0o7777;
    let root_s_group = if found.gid() == 0 { GROUP } else { 0 };
    let is_open = mode & rule.bits & !root_s_group != 0;
    let is_sticky = found.is_dir() && mode & STICKY != 0 && !is_itself;
    (is_open && !is_sticky).then_some(How::Mode(mode))
}

impl Exposed {
    /// The same as a fault of the file, without a place in it.
    pub(crate) fn fault(&self) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            path: self.path.display().to_string(),
            line: 0,
            column: 0,
            message: self.sentence(),
            hint: self.hint(),
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> String {
        let open = self.open.display();
        let what = self.what;
        let elsewhere = format!("or put the {what} where only root can write");
        match self.how {
            How::Owner(_) => format!("chown root {open}, {elsewhere}"),
            How::Mode(mode) if mode & EVERYBODY != 0 => format!("chmod o-w {open}, {elsewhere}"),
            How::Mode(_) => format!("chmod g-w {open}, {elsewhere}"),
            How::Unknown(_) => format!("see who may change {open} (namei -l), {elsewhere}"),
        }
    }

    /// What is wrong, without what to do.
    pub(crate) fn sentence(&self) -> String {
        let (what, path, open) = (self.what, self.path.display(), self.open.display());
        let place = if self.open == self.path {
            format!("the {what} {path}")
        } else {
            format!("the {what} {path} depends on {open}, which")
        };
        let how = match self.how {
            How::Owner(uid) => format!("belongs to user {uid}"),
            How::Mode(mode) if mode & EVERYBODY != 0 => {
                format!("can be written by everybody (mode {mode:04o})")
            }
            How::Mode(mode) => format!("can be written by its group (mode {mode:04o})"),
            How::Unknown(kind) => format!("cannot be looked at ({kind})"),
        };
        format!("{place} {how}: whoever changes it opens the guard")
    }
}

impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; hint: {}", self.sentence(), self.hint())
    }
}

impl std::error::Error for Exposed {}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
    use std::path::Path;

    use super::{directory, file};

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn me() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    #[test]
    fn a_file_that_everybody_may_write_or_replace_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.yaml");
        fs::write(&path, "x").unwrap();
        assert_eq!(file("policy", &path, me()), Ok(()));
        mode(&path, 0o666);
        let told = file("policy", &path, me()).unwrap_err();
        let shown = path.display();
        assert_eq!(
            told.to_string(),
            format!(
                "the policy {shown} can be written by everybody (mode 0666): whoever changes it opens the \
                 guard; hint: chmod o-w {shown}, or put the policy where only root can write"
            )
        );
        mode(&path, 0o664);
        assert_eq!(file("policy", &path, me()), Ok(()));
        // Its own directory, and one above.
        mode(dir.path(), 0o777);
        let told = file("policy", &path, me()).unwrap_err().to_string();
        let above = format!("depends on {}, which can be written", dir.path().display());
        assert!(told.contains(&above), "{told}");
        // Nobody replaces another's file there.
        mode(dir.path(), 0o1777);
        assert_eq!(file("policy", &path, me()), Ok(()));
    }

    #[test]
    fn a_link_is_looked_at_where_it_is_and_where_it_leads() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::write(open.join("real"), "x").unwrap();
        let link = dir.path().join("policy.yaml");
        symlink(open.join("real"), &link).unwrap();
        assert_eq!(file("policy", &link, me()), Ok(()));
        mode(&open, 0o777);
        assert!(file("policy", &link, me()).is_err());
    }

    #[test]
    fn a_directory_is_no_other_s_and_the_sticky_bit_helps_above_it_only() {
        if me() != 0 {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        // Not there yet: what is above decides.
        assert_eq!(directory("state_dir", &state), Ok(()));
        mode(dir.path(), 0o1777);
        assert_eq!(directory("state_dir", &state), Ok(()));
        let told = directory("state_dir", dir.path()).unwrap_err().to_string();
        assert!(told.contains("by everybody (mode 1777)"), "{told}");
        mode(dir.path(), 0o755);
        chown(dir.path(), Some(12345), None).unwrap();
        let told = directory("runtime_dir", &state).unwrap_err().to_string();
        let says = format!(
            "depends on {}, which belongs to user 12345",
            dir.path().display()
        );
        assert!(told.contains(&says), "{told}");
        assert!(file("policy", &state, 12345).is_ok());
        chown(dir.path(), Some(0), Some(12345)).unwrap();
        mode(dir.path(), 0o775);
        let told = directory("state_dir", &state).unwrap_err().to_string();
        assert!(told.contains("by its group (mode 0775)"), "{told}");
    }
}

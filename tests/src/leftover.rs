//! What a killed test run leaves behind, and its removal.
//!
//! Everything that a world makes carries a [`Tag`]. A thing whose maker is gone is a leftover; what
//! belongs to a living process (another run at the same time) is left alone.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::namespace;
use crate::tag::{PREFIX, Tag, VARIABLE};
use crate::wait_until;

/// How long the kernel may take to end processes and empty a cgroup.
const LIMIT: Duration = Duration::from_secs(10);

/// Something that was left behind. Ordered as they have to be removed.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Leftover {
    /// A process that was started in a world.
    Process(u32),
    /// A cgroup.
    Cgroup(PathBuf),
    /// A mount, such as a bpffs and the pins in it.
    Mount(PathBuf),
    /// A network namespace.
    Namespace(String),
    /// A temporary directory.
    Directory(PathBuf),
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(id) => write!(f, "process {id}"),
            Self::Cgroup(path) => write!(f, "cgroup {}", path.display()),
            Self::Mount(path) => write!(f, "mount {}", path.display()),
            Self::Namespace(name) => write!(f, "network namespace {name}"),
            Self::Directory(path) => write!(f, "directory {}", path.display()),
        }
    }
}

/// What was left behind by runs that are gone.
///
/// # Errors
/// A directory of the kernel cannot be read.
pub fn find() -> Result<Vec<Leftover>> {
    matching(|tag| !tag.is_owned())
}

/// What there is of one world.
///
/// # Errors
/// As [`find`].
pub fn of(tag: Tag) -> Result<Vec<Leftover>> {
    matching(|other| other == tag)
}

/// Removes what was left behind by runs that are gone, and says what it was.
///
/// # Errors
/// Something cannot be removed.
pub fn sweep() -> Result<Vec<Leftover>> {
    remove_all(|tag| !tag.is_owned())
}

/// Removes what there is of one world.
pub(crate) fn remove(tag: Tag) -> Result<()> {
    remove_all(|other| other == tag).map(drop)
}

fn remove_all(which: impl Fn(Tag) -> bool) -> Result<Vec<Leftover>> {
    let found = matching(&which)?;
    for leftover in &found {
        // Two runs may sweep at once, and a process takes its mounts along: what counts is below.
        if let Err(error) = leftover.remove()
            && matching(&which)?.contains(leftover)
        {
            return Err(error.context(format!("cannot remove {leftover}")));
        }
    }
    match wait_until("everything is gone", LIMIT, || match matching(&which) {
        Ok(left) if left.is_empty() => Some(Ok(())),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    }) {
        Ok(done) => done?,
        Err(_) => {
            let left: Vec<_> = matching(&which)?.iter().map(Leftover::to_string).collect();
            bail!("still there: {}", left.join(", "));
        }
    }
    Ok(found)
}

impl Leftover {
    fn remove(&self) -> Result<()> {
        match self {
            Self::Process(id) => {
                let id = i32::try_from(*id).ok().and_then(Pid::from_raw);
                let id = id.context("a strange process id")?;
                kill_process(id, Signal::KILL).context("cannot kill it")
            }
            Self::Cgroup(path) => remove_cgroup(path),
            Self::Mount(path) => unmount(path, UnmountFlags::DETACH).context("cannot unmount it"),
            Self::Namespace(name) => namespace::remove(name),
            Self::Directory(path) => fs::remove_dir_all(path).context("cannot remove it"),
        }
    }
}

/// Kills what is in a cgroup and removes it with all below it.
pub(crate) fn remove_cgroup(path: &Path) -> Result<()> {
    fs::write(path.join("cgroup.kill"), "1")
        .with_context(|| format!("cannot kill what is in {}", path.display()))?;
    let empty = || {
        let events = fs::read_to_string(path.join("cgroup.events"));
        // No such file: somebody else has removed it.
        events.map_or(Some(()), |events| {
            events.contains("populated 0").then_some(())
        })
    };
    wait_until("the cgroup is empty", LIMIT, empty)?;
    remove_tree(path)
}

fn remove_tree(path: &Path) -> Result<()> {
    for child in list(path)? {
        if child.is_dir() {
            remove_tree(&child)?;
        }
    }
    fs::remove_dir(path).with_context(|| format!("cannot remove {}", path.display()))
}

fn matching(which: impl Fn(Tag) -> bool) -> Result<Vec<Leftover>> {
    let named = |path: &Path| {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        name.filter(|name| name.starts_with(PREFIX))
            .and_then(|name| Tag::within(&name))
            .is_some_and(&which)
    };
    let mut found: Vec<_> = processes(&which)?
        .into_iter()
        .map(Leftover::Process)
        .collect();
    if let Some(root) = cgroup_mount() {
        let cgroups = list(&root)?.into_iter().filter(|path| named(path));
        found.extend(cgroups.map(Leftover::Cgroup));
    }
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
    let mounts = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let mounts = mounts.filter(|path| Tag::within(path).is_some_and(&which));
    found.extend(mounts.map(|path| Leftover::Mount(path.into())));
    let directory = Path::new(namespace::DIRECTORY);
    if directory.is_dir() {
        for path in list(directory)? {
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned());
            if let Some(name) = name
                && Tag::of_namespace(&name).is_some_and(&which)
            {
                found.push(Leftover::Namespace(name));
            }
        }
    }
    let directories = list(&std::env::temp_dir())?;
    let directories = directories.into_iter().filter(|path| named(path));
    found.extend(directories.map(Leftover::Directory));
    found.sort();
    Ok(found)
}

/// Processes that carry a tag in their environment, command line or cgroup.
fn processes(which: impl Fn(Tag) -> bool) -> Result<Vec<u32>> {
    let mark = format!("{VARIABLE}={PREFIX}");
    let mut found = Vec::new();
    for path in list(Path::new("/proc"))? {
        let id = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        let Some(id) = id.filter(|id| *id != std::process::id()) else {
            continue;
        };
        // One that ends while we look has nothing to show.
        let read = |file: &str| {
            let text = fs::read(path.join(file)).unwrap_or_default();
            String::from_utf8_lossy(&text).into_owned()
        };
        let environment = read("environ");
        let marked = environment.split('\0').find(|line| line.starts_with(&mark));
        let tag = marked
            .and_then(Tag::within)
            .or_else(|| Tag::within(&read("cgroup")))
            .or_else(|| Tag::within(&read("cmdline")));
        if tag.is_some_and(&which) && !is_dead(&read("stat")) {
            found.push(id);
        }
    }
    Ok(found)
}

/// A zombie holds nothing any more: it waits for its parent.
fn is_dead(stat: &str) -> bool {
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    stat.is_empty() || state.starts_with(['Z', 'X'])
}

/// Where cgroup v2 is mounted: on a hybrid system not at `/sys/fs/cgroup`.
pub fn cgroup_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let path = fields.nth(1)?;
        (fields.next()? == "cgroup2").then(|| path.into())
    })
}

fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    Ok(entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zombie_and_a_process_that_is_gone_are_dead() {
        assert!(is_dead("12 (a (strange) name) Z 1 12"));
        assert!(is_dead(""));
        assert!(!is_dead("12 (Z) S 1 12"));
    }

    #[test]
    fn a_directory_of_a_dead_run_is_removed_and_one_of_a_living_run_is_not() {
        let gone: Tag = "4194305-1".parse().unwrap();
        let ours = Tag::next();
        let path = |tag: Tag| std::env::temp_dir().join(tag.directory());
        for tag in [gone, ours] {
            fs::create_dir_all(path(tag).join("guard-1")).unwrap();
        }
        sweep().unwrap();
        assert!(!path(gone).exists());
        assert_eq!(of(ours).unwrap(), [Leftover::Directory(path(ours))]);
        remove(ours).unwrap();
        assert!(of(ours).unwrap().is_empty());
    }
}

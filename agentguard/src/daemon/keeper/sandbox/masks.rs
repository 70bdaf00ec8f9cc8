//! Sockets of daemons that would do for an agent what it may not do itself, and how they are hidden
//! from it: by mounts in the run's own mount namespace.
//!
//! A directory is covered by an empty one, a file by an empty one that nobody may open. Where a
//! program of the agent's has to make sockets of its own (tmux, X, what lies in `XDG_RUNTIME_DIR`),
//! the empty directory is in memory, the run's own, and writable. Directories are masked where that
//! can be: a daemon that is started later is hidden too. A socket that lies among other things and is
//! made anew while a command runs is not hidden from that command: the kernel drops a mount with the
//! file that it covers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use agentguard_keeper::spawn::{Overlay, Source, mounts};
use anyhow::{Context as _, bail, ensure};
use rustix::fs::{Mode, OFlags};

use crate::config::Config;

/// What is masked on every host. Missing paths are skipped; a `*` in the last part stands for any run
/// of characters.
const MASKED: &[&str] = &[
    // Containers: whoever reaches one of these is root of the host.
    "/run/docker*.sock",
    "/run/docker",
    "/run/containerd",
    "/run/podman",
    "/run/crio",
    "/run/cri-dockerd.sock",
    "/run/buildkit",
    "/run/k3s",
    "/var/lib/lxd/unix.socket",
    "/var/lib/incus/unix.socket",
    "/var/snap/lxd/common/lxd/unix.socket",
    "/var/snap/docker/common/run/docker.sock",
    // Virtual machines.
    "/run/libvirt",
    // Services, and what is asked of them over D-Bus: systemd-run starts anything, anywhere.
    "/run/dbus",
    "/run/systemd/private",
    "/run/systemd/notify",
    "/run/systemd/io.systemd*",
    "/run/systemd/io.system.*",
    "/run/systemd/machine",
    "/run/systemd/userdb",
    "/run/udev/control",
    "/run/snapd*.socket",
    "/run/supervisor.sock",
    "/run/supervisor",
    // Name services: questions would leave the host by them, past the guard's resolver.
    "/run/systemd/resolve/io.systemd*",
    "/run/nscd",
    "/run/avahi-daemon",
];

/// What of other programs' is covered in ways of its own: sessions, tmux, screen and X, which run what is
/// typed into them from outside.
const SESSIONS: &[&str] = &[
    "/run/user",
    "/tmp/dbus-*",
    "/tmp/tmux-*",
    "/run/screen",
    "/tmp/.X11-unix",
];

/// All of that as patterns for the gate's LSM programs, which hold for adopted cgroups too and know
/// sockets by what their owners call them. The guard's control socket is not among it: it refuses governed
/// processes itself, and says so.
pub(in crate::daemon::keeper) fn refused_sockets(config: &Config) -> Vec<String> {
    let fixed = MASKED.iter().chain(SESSIONS).map(|&path| path.to_owned());
    let own = config.run.masked_paths.iter();
    // A path that is no text is the mask's alone.
    fixed
        .chain(own.filter_map(|path| path.to_str().map(str::to_owned)))
        .collect()
}

/// Paths of one pattern, and of all of them, at most. What has more refuses the run.
const MAX_FOUND: usize = 256;

/// The masks of all runs.
pub(super) struct Masks {
    /// An empty directory and a file that nobody may open.
    blank: PathBuf,
    /// As the configuration has them.
    patterns: Vec<PathBuf>,
    /// The guard's own: never unmasked.
    own: Vec<PathBuf>,
    /// Where tmux and X keep their sockets: `/tmp`.
    temporary: PathBuf,
}

/// What lies over a masked path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Cover {
    /// Nothing, read-only.
    Blank,
    /// An empty directory that everybody may write to.
    Shared,
    /// An empty directory of the user's.
    Own,
    /// A directory with one of the user's in it, named by its number.
    Users,
}

impl Masks {
    /// Makes the blanks.
    pub(super) fn open(config: &Config) -> anyhow::Result<Self> {
        let paths = &config.paths;
        let masks = Self {
            blank: paths.runtime_dir.join("blank"),
            patterns: MASKED
                .iter()
                .map(PathBuf::from)
                .chain(config.run.masked_paths.iter().cloned())
                .collect(),
            own: vec![paths.state_dir.clone(), paths.bpffs.clone()],
            temporary: "/tmp".into(),
        };
        masks
            .make_blanks()
            .with_context(|| format!("cannot make {}", masks.blank.display()))?;
        Ok(masks)
    }

    fn make_blanks(&self) -> io::Result<()> {
        super::super::trust::open_directory(&self.directory())?;
        let file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o000)
            .open(self.file())?;
        file.set_len(0)?;
        file.set_permissions(fs::Permissions::from_mode(0o000))
    }

    fn directory(&self) -> PathBuf {
        self.blank.join("directory")
    }

    fn file(&self) -> PathBuf {
        self.blank.join("file")
    }

    /// The mounts for a run as this user, in their order. Directories `on_demand` are masked as well.
    /// What lies at or below `unmasked` stays what it is, but for the guard's own.
    pub(super) fn overlays(
        &self,
        unmasked: &[PathBuf],
        on_demand: &[PathBuf],
        uid: u32,
    ) -> anyhow::Result<Vec<Overlay>> {
        let holes: BTreeSet<PathBuf> = unmasked
            .iter()
            .filter_map(|path| fs::canonicalize(path).ok())
            .collect();
        let mut overlays = Vec::new();
        let mut done: Option<PathBuf> = None;
        for (target, cover) in self.targets(&holes, on_demand, uid)? {
            // What lies in a directory that is covered is covered.
            if done.as_ref().is_some_and(|done| target.starts_with(done)) {
                continue;
            }
            let made = self.cover(&target, cover, &holes, uid);
            overlays.extend(made.with_context(|| format!("cannot mask {}", target.display()))?);
            done = Some(target);
        }
        // Last and whatever was covered before: what is left open of a covered directory may hold them.
        for path in &self.own {
            if let Some(target) = present(path)? {
                overlays.push(self.blank_over(&target)?);
            }
        }
        Ok(overlays)
    }

    /// What is there of all that is to be masked but the guard's own, without links, sorted.
    fn targets(
        &self,
        holes: &BTreeSet<PathBuf>,
        on_demand: &[PathBuf],
        uid: u32,
    ) -> anyhow::Result<BTreeMap<PathBuf, Cover>> {
        let tmux = self.temporary.join(format!("tmux-{uid}"));
        let screens = self.temporary.join(".X11-unix");
        let fixed = [
            (Path::new("/run/user"), Cover::Users),
            // tmux and screen run what is typed into them from outside.
            (tmux.as_path(), Cover::Own),
            (Path::new("/run/screen"), Cover::Shared),
            (screens.as_path(), Cover::Shared),
        ];
        let mut targets = BTreeMap::new();
        for pattern in &self.patterns {
            for path in matching(pattern)? {
                targets.insert(path, Cover::Blank);
            }
        }
        for (path, cover) in fixed {
            if let Some(path) = directory(path)? {
                targets.insert(path, cover);
            }
        }
        for path in on_demand {
            if let Some(path) = present(path)? {
                targets.insert(path, Cover::Blank);
            }
        }
        targets.retain(|path, _| !holes.iter().any(|hole| path.starts_with(hole)));
        ensure!(
            targets.len() <= MAX_FOUND,
            "more than {MAX_FOUND} paths are to be masked"
        );
        Ok(targets)
    }

    fn blank_over(&self, target: &Path) -> anyhow::Result<Overlay> {
        let blank = if target.is_dir() {
            self.directory()
        } else {
            self.file()
        };
        Ok(Overlay {
            source: Source::ReadOnly(open(&blank)?),
            target: target.to_owned(),
            optional: true,
        })
    }

    fn cover(
        &self,
        target: &Path,
        cover: Cover,
        holes: &BTreeSet<PathBuf>,
        uid: u32,
    ) -> anyhow::Result<Vec<Overlay>> {
        let holes: Vec<&PathBuf> = holes
            .iter()
            .filter(|hole| hole.starts_with(target))
            .collect();
        if cover == Cover::Blank && holes.is_empty() {
            return Ok(vec![self.blank_over(target)?]);
        }
        let mode = match cover {
            Cover::Shared => "1777",
            Cover::Own => "0700",
            Cover::Blank | Cover::Users => "0755",
        };
        let mount = mounts::empty(mode)?;
        match cover {
            Cover::Own => mounts::give(mount.as_fd(), Path::new("."), uid)?,
            Cover::Users => {
                let own = PathBuf::from(uid.to_string());
                mounts::make_directory(mount.as_fd(), &own, Mode::RWXU)?;
                mounts::give(mount.as_fd(), &own, uid)?;
            }
            Cover::Blank | Cover::Shared => {}
        }
        let mut through = Vec::new();
        for hole in holes {
            let inside = hole.strip_prefix(target)?;
            if hole.is_dir() {
                let mode = Mode::from_raw_mode(0o755);
                mounts::make_directory(mount.as_fd(), inside, mode)?;
            } else {
                mounts::make_file(mount.as_fd(), inside)?;
            }
            through.push(Overlay {
                source: Source::Writable(open(hole)?),
                target: hole.clone(),
                optional: true,
            });
        }
        let mut overlays = vec![Overlay {
            source: Source::Mount(mount),
            target: target.to_owned(),
            optional: true,
        }];
        overlays.extend(through);
        Ok(overlays)
    }
}

/// Without reading it, whatever it is.
pub(super) fn open(path: &Path) -> anyhow::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty());
    fd.with_context(|| format!("cannot open {}", path.display()))
}

/// The path without links; `None` if there is nothing.
fn present(path: &Path) -> anyhow::Result<Option<PathBuf>> {
    match fs::canonicalize(path) {
        Ok(path) => Ok(Some(path)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot look for {}", path.display())),
    }
}

/// As [`present`], if it is a directory and no link to one: in a directory that everybody may write
/// to, a link would have something else covered.
fn directory(path: &Path) -> anyhow::Result<Option<PathBuf>> {
    let there = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    if there { present(path) } else { Ok(None) }
}

/// What is there of a pattern, without links.
fn matching(pattern: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let name = pattern.file_name().and_then(|name| name.to_str());
    let (Some(name), Some(directory)) = (name, pattern.parent()) else {
        return Ok(present(pattern)?.into_iter().collect());
    };
    if !name.contains('*') {
        return Ok(present(pattern)?.into_iter().collect());
    }
    let Some(directory) = present(directory)? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(&directory)
        .with_context(|| format!("cannot look through {}", directory.display()))?
    {
        let entry = entry?;
        if entry
            .file_name()
            .to_str()
            .is_some_and(|found| fits(name, found))
        {
            found.extend(present(&entry.path())?);
        }
        if found.len() > MAX_FOUND {
            bail!(
                "{} stands for more than {MAX_FOUND} paths",
                pattern.display()
            );
        }
    }
    Ok(found)
}

/// Whether a name fits a pattern in which `*` stands for any run of characters, also none.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests;

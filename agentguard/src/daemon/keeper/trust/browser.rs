//! Chromium, and the browsers that are made of it, trust authorities that a managed policy names
//! (`CACertificates`, which versions of before 2024 do not know) beside those that they bring, and no
//! file or variable.
//!
//! A command sees a directory of ours in the place of the browser's: what the host has in it, and one
//! policy more. What the host has is mounted through onto a place that ours keeps for it, so it has
//! its owner, its mode and its contents of the moment; the host's own directory is not touched.
//!
//! Of policies in several files the browser takes each value from the last one by name. So ours
//! comes last, and has only this value, with what the operator's files say of it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use agentguard_keeper::spawn::Overlay;
use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustix::fs::OFlags;
use serde_json::{Value, json};

/// Where each browser looks for policies that its user cannot change.
const DIRECTORIES: [&str; 4] = [
    "/etc/chromium/policies/managed",
    "/etc/opt/chrome/policies/managed",
    "/etc/opt/chrome_for_testing/policies/managed",
    "/etc/opt/edge/policies/managed",
];

/// How many of its last directories are a browser's own.
const OWN: usize = 3;

/// The last of all names that people give their files.
const POLICY: &str = "~agentguard.json";

const AUTHORITIES: &str = "CACertificates";

/// What stands in a place that nothing is mounted on: in a command that began before the operator
/// wrote the file. As a policy it says nothing.
const PLACE: &[u8] = b"{}\n";

/// A directory with more in it is left alone.
const MOST_ENTRIES: usize = 256;

/// A policy of the operator's that is larger is not read.
const LARGEST_POLICY: u64 = 1 << 20;

/// The directories of policies, whether they exist or not.
pub(super) fn directories() -> Vec<PathBuf> {
    DIRECTORIES.iter().map(PathBuf::from).collect()
}

/// A directory of the host's that is covered by one of ours.
#[derive(Debug)]
pub(super) struct Cover {
    /// Ours.
    ours: PathBuf,
    /// The host's, without links.
    target: PathBuf,
    /// Where in them the policies are.
    policies: Vec<PathBuf>,
    /// What the host has in its one, but for what would be in the place of ours.
    entries: BTreeMap<OsString, Entry>,
}

/// What to cover so that these directories of policies have ours, with our directories below `ours`:
/// of each the deepest part that exists. The directory above a browser's own is not the browser's,
/// and is covered only where it is empty (`/etc/opt` often is). A browser that has neither is not
/// provided for.
pub(super) fn covers(directories: &[PathBuf], ours: &Path) -> Vec<Cover> {
    let mut targets = BTreeMap::<PathBuf, Vec<PathBuf>>::new();
    for (target, policies) in directories.iter().filter_map(|it| covered(it)) {
        targets.entry(target).or_default().push(policies);
    }
    let cover = |(target, policies)| match Cover::new(target, policies, ours) {
        Ok(cover) => Some(cover),
        Err(error) => {
            let error = format!("{error:#}");
            tracing::warn!(error, "agents' browsers do not trust the guard");
            None
        }
    };
    targets.into_iter().filter_map(cover).collect()
}

/// The part of a directory of policies that is there, and the rest of its path.
fn covered(directory: &Path) -> Option<(PathBuf, PathBuf)> {
    let parts = directory.ancestors().take(OWN + 1);
    let (level, target) = parts
        .enumerate()
        .find(|(_, part)| fs::symlink_metadata(part).is_ok())?;
    let target_path = fs::canonicalize(target).ok()?;
    let mut entries = fs::read_dir(&target_path).ok()?;
    if level == OWN && entries.next().is_some() {
        return None;
    }
    let rest = directory.strip_prefix(target).ok()?.to_owned();
    Some((target_path, rest))
}

/// What is in a directory of the host's.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Entry {
    /// Something that is mounted through.
    File,
    /// As [`Self::File`].
    Directory,
    /// It means the same in our directory.
    Link(PathBuf),
}

impl Cover {
    fn new(target: PathBuf, policies: Vec<PathBuf>, ours: &Path) -> anyhow::Result<Self> {
        let shown = target.display();
        let mut entries = entries(&target).with_context(|| format!("cannot list {shown}"))?;
        if entries.len() > MOST_ENTRIES {
            bail!("{shown} has more than {MOST_ENTRIES} entries");
        }
        entries.retain(|name, _| !is_ours(&policies, name));
        let name = target.to_string_lossy().replace('/', "-");
        Ok(Self {
            ours: ours.join(format!("browser{name}")),
            target,
            policies,
            entries,
        })
    }

    /// Brings our directory up to date with the host's and these authorities, in DER.
    pub(super) fn write(&self, authorities: &[Vec<u8>]) -> anyhow::Result<()> {
        make_directory(&self.ours)?;
        self.remove_others()
            .with_context(|| format!("cannot clean up {}", self.ours.display()))?;
        for (name, entry) in &self.entries {
            let place = self.ours.join(name);
            hold(&place, entry).with_context(|| format!("cannot make {}", place.display()))?;
        }
        let policy = policy(&self.theirs(), authorities);
        for policies in &self.policies {
            let mut directory = self.ours.clone();
            for part in policies {
                directory.push(part);
                make_directory(&directory)?;
            }
            // Not beside it, where the browser would read it half written.
            let temporary = self.ours.with_extension("new");
            super::replace_by(&directory.join(POLICY), &temporary, policy.as_bytes())?;
        }
        Ok(())
    }

    /// The mounts of a command, in their order.
    pub(super) fn overlays(&self) -> anyhow::Result<Vec<Overlay>> {
        let mut overlays = vec![overlay(&self.ours, &self.target)?];
        for (name, entry) in &self.entries {
            if !matches!(entry, Entry::Link(_)) {
                let path = self.target.join(name);
                overlays.push(overlay(&path, &path)?);
            }
        }
        Ok(overlays)
    }

    /// Removes what the host does not have any more, or has as something else. What a command has
    /// mounted there goes with it.
    fn remove_others(&self) -> io::Result<()> {
        for found in fs::read_dir(&self.ours)? {
            let found = found?;
            let (kind, name) = (found.file_type()?, found.file_name());
            let kept = match self.entries.get(&name) {
                Some(Entry::File) => kind.is_file(),
                Some(Entry::Directory) => kind.is_dir(),
                Some(Entry::Link(to)) => fs::read_link(found.path()).is_ok_and(|it| it == *to),
                None => is_ours(&self.policies, &name),
            };
            if kept {
                continue;
            }
            if kind.is_dir() {
                fs::remove_dir_all(found.path())?;
            } else {
                fs::remove_file(found.path())?;
            }
        }
        Ok(())
    }

    /// The authorities that the operator's policies name.
    fn theirs(&self) -> Vec<String> {
        if self.policies.iter().all(|rest| rest.as_os_str() != "") {
            // There is no directory of policies yet.
            return Vec::new();
        }
        let named = self.entries.keys().rev().find_map(|name| {
            let file = self.target.join(name);
            match read_policy(&file) {
                Ok(policy) => policy.get(AUTHORITIES).cloned(),
                Err(error) => {
                    tracing::warn!(
                        file = %file.display(),
                        %error,
                        "authorities that this policy names are not trusted by agents' browsers"
                    );
                    None
                }
            }
        });
        let listed = named.as_ref().and_then(Value::as_array);
        let texts = listed.into_iter().flatten().filter_map(Value::as_str);
        texts.map(str::to_owned).collect()
    }
}

/// Whether a name directly below a directory with policies in these places is one that we make.
fn is_ours(policies: &[PathBuf], name: &OsStr) -> bool {
    let first = |rest: &PathBuf| rest.iter().next().unwrap_or(POLICY.as_ref()) == name;
    policies.iter().any(first)
}

/// One more than the most, where there are more. Sockets and devices are no browser's configuration.
fn entries(directory: &Path) -> io::Result<BTreeMap<OsString, Entry>> {
    let mut entries = BTreeMap::new();
    for found in fs::read_dir(directory)?.take(MOST_ENTRIES + 1) {
        let found = found?;
        let (kind, name) = (found.file_type()?, found.file_name());
        let entry = if kind.is_file() {
            Entry::File
        } else if kind.is_dir() {
            Entry::Directory
        } else if kind.is_symlink() {
            Entry::Link(fs::read_link(found.path())?)
        } else {
            continue;
        };
        entries.insert(name, entry);
    }
    Ok(entries)
}

/// A file of the operator's, as the browser would read it. A directory says nothing.
fn read_policy(file: &Path) -> io::Result<Value> {
    let metadata = fs::metadata(file)?;
    if !metadata.is_file() {
        return Ok(Value::Null);
    }
    if metadata.len() > LARGEST_POLICY {
        return Err(io::Error::other("larger than 1 MiB"));
    }
    serde_json::from_slice(&fs::read(file)?).map_err(io::Error::other)
}

fn policy(theirs: &[String], ours: &[Vec<u8>]) -> String {
    let ours = ours.iter().map(|der| BASE64_STANDARD.encode(der));
    let all: Vec<String> = theirs.iter().cloned().chain(ours).collect();
    format!("{:#}\n", json!({ AUTHORITIES: all }))
}

/// Keeps a place for something of the host's.
fn hold(place: &Path, entry: &Entry) -> io::Result<()> {
    let made = match entry {
        Entry::File if place.exists() => Ok(()),
        Entry::File => fs::write(place, PLACE),
        Entry::Directory => fs::create_dir(place),
        Entry::Link(to) => symlink(to, place),
    };
    match made {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn make_directory(directory: &Path) -> anyhow::Result<()> {
    super::open_directory(directory).with_context(|| format!("cannot make {}", directory.display()))
}

/// Without reading it, whatever it is.
fn overlay(source: &Path, target: &Path) -> anyhow::Result<Overlay> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let opened = fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(source);
    let opened = opened.with_context(|| format!("cannot open {}", source.display()))?;
    Ok(Overlay::new(opened.into(), target.to_owned()))
}

#[cfg(test)]
mod tests;

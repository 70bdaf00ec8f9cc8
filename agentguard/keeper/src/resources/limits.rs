//! Limits of a cgroup: set, looked after, and taken back.
//!
//! What was set is noted on the cgroup itself, in an extended attribute that only the host's root writes: so it is
//! known what to take back, whatever became of the daemon meanwhile, and it goes with the cgroup. What a cgroup of
//! the guard's own had before was nothing, or an earlier policy's. One that was adopted is its owner's: what that
//! has set is kept where it is less, and is what is put back.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use agentguard_model::{BlockDevice, IoLimit, ResourceLimits};
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::controllers::{Controller, Tree};
use super::{Lack, read, write};

/// The period of `cpu.max`, in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;

/// The largest page of any machine, in bytes.
const LARGEST_PAGE: u64 = 64 * 1024;

/// The attribute of what was set.
const NOTE: &str = "trusted.agentguard.limits";

/// The longest note, in bytes (`XATTR_SIZE_MAX` of `linux/limits.h`).
const LONGEST: usize = 65_536;

/// What became of limits.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Held {
    /// What cannot be set.
    pub lacks: Vec<Lack>,
    /// What was set otherwise meanwhile, by somebody else, and is again as it should be: a sentence each.
    pub put_back: Vec<String>,
}

/// Has a cgroup held to limits, and takes back those that it was held to and is not any more. Where all is as it
/// should be nothing is written.
#[must_use]
pub fn hold(tree: &Tree, cgroup: &Path, limits: &ResourceLimits) -> Held {
    let mut held = Held::default();
    let (settings, lacks) = settings(limits);
    held.lacks.extend(lacks);
    // What it had before is read first: whoever sets something notes it before.
    let now: Vec<io::Result<String>> = settings.iter().map(|it| it.now(cgroup)).collect();
    let mut note = Note::of(cgroup);
    let adopted = !cgroup.starts_with(&tree.root);
    let missing = match settings.is_empty() {
        true => Vec::new(),
        false => tree.enable(cgroup, &Controller::needed(limits)),
    };
    for (setting, now) in settings.iter().zip(now) {
        if let Some((_, lack)) = missing.iter().find(|(it, _)| *it == setting.controller) {
            if !held.lacks.contains(lack) {
                held.lacks.push(lack.clone());
            }
            continue;
        }
        // It may be there only now.
        let now = now.or_else(|_| setting.now(cgroup));
        let told = now.and_then(|now| setting.hold(cgroup, &now, adopted, &mut note));
        match told {
            Ok(put_back) => held.put_back.extend(put_back),
            Err(error) => held.lacks.push(setting.lack(cgroup, &error)),
        }
    }
    let wanted = |key: &String| settings.iter().any(|it| it.key() == *key);
    let over: Vec<String> = note.set.keys().filter(|it| !wanted(it)).cloned().collect();
    for key in over {
        if let Some(entry) = note.set.get(&key).cloned() {
            match take_back(cgroup, &key, &entry) {
                Ok(()) => note.forget(cgroup, &key),
                Err(error) => held.lacks.push(Lack::new(
                    format!(
                        "the limit {key} of {} cannot be taken back: {error}",
                        cgroup.display()
                    ),
                    "see what the kernel says of it: dmesg",
                )),
            }
        }
    }
    held
}

/// Whether a cgroup is held to something.
#[must_use]
pub fn is_held(cgroup: &Path) -> bool {
    !Note::of(cgroup).set.is_empty()
}

/// Takes back all that a cgroup is held to. Only ever allows more, so it takes no time: it may be called under a
/// lock.
#[must_use]
pub fn release(tree: &Tree, cgroup: &Path) -> Held {
    hold(tree, cgroup, &ResourceLimits::default())
}

/// Whether a cgroup could be held to these limits, without changing anything. `Ok` also where that is only known
/// once it is tried.
#[must_use]
pub fn lacks(tree: &Tree, cgroup: &Path, limits: &ResourceLimits) -> Vec<Lack> {
    let (settings, mut lacks) = settings(limits);
    let ours = cgroup.starts_with(&tree.root);
    for setting in settings {
        if ours || setting.now(cgroup).is_ok() {
            continue;
        }
        let needed = std::iter::once(setting.controller).collect();
        let found = tree.enable(cgroup, &needed);
        for (_, lack) in found {
            if !lacks.contains(&lack) {
                lacks.push(lack);
            }
        }
    }
    lacks
}

/// One file of a cgroup, or one device's line of it.
struct Setting {
    controller: Controller,
    file: &'static str,
    /// Of `io.max`: `MAJOR:MINOR`.
    device: Option<String>,
    /// As the kernel shows it, without the device.
    value: String,
}

impl Setting {
    fn new(controller: Controller, file: &'static str, value: String) -> Self {
        Self {
            controller,
            file,
            device: None,
            value,
        }
    }

    /// What it is noted as.
    fn key(&self) -> String {
        match &self.device {
            Some(device) => format!("{} {device}", self.file),
            None => self.file.to_owned(),
        }
    }

    fn now(&self, cgroup: &Path) -> io::Result<String> {
        now(cgroup, self.file, self.device.as_deref())
    }

    /// Sets it, if it is otherwise. Gives what somebody else had set.
    fn hold(
        &self,
        cgroup: &Path,
        now: &str,
        adopted: bool,
        note: &mut Note,
    ) -> io::Result<Option<String>> {
        let key = self.key();
        let before = note.set.get(&key);
        let ours = before.filter(|it| it.set == now);
        let was = match (adopted, ours) {
            (false, _) => UNLIMITED.to_owned(),
            (true, Some(entry)) => entry.was.clone(),
            (true, None) => now.to_owned(),
        };
        let set = match adopted {
            true => stricter(&self.value, &was),
            false => self.value.clone(),
        };
        let others = before.is_some_and(|it| it.set == set) && ours.is_none() && now != set;
        if before.is_none_or(|it| it.set != set || it.was != was) {
            note.put(
                cgroup,
                &key,
                Entry {
                    was,
                    set: set.clone(),
                },
            );
        }
        if now == set {
            return Ok(None);
        }
        put(cgroup, self.file, self.device.as_deref(), &set)?;
        Ok(others.then(|| {
            format!(
                "{key} of {} was set to `{now}` by somebody else, and is `{set}` again",
                cgroup.display()
            )
        }))
    }

    fn lack(&self, cgroup: &Path, error: &io::Error) -> Lack {
        let (file, shown) = (self.file, cgroup.display());
        let device = self.device.as_deref().unwrap_or_default();
        match Errno::from_io_error(error) {
            Some(Errno::NOENT) if cgroup.is_dir() => Lack::new(
                format!(
                    "{shown} has no {file}, though it has the controller `{}`",
                    self.controller
                ),
                "this kernel is without it: CONFIG_CFS_BANDWIDTH is for cpu.max, CONFIG_BLK_DEV_THROTTLING for io.max",
            ),
            Some(Errno::NODEV | Errno::NXIO) if self.device.is_some() => Lack::new(
                format!(
                    "io.max of {shown} does not take the device {device}: there is none, or it is a partition"
                ),
                "name the whole device: `lsblk` shows it",
            ),
            _ => Lack::new(
                format!("cannot set {} of {shown}: {error}", self.key()),
                "the daemon needs the cgroup file system writable",
            ),
        }
    }
}

/// How a file says that there is no limit: `cpu.max` and `io.max` take it in the place of each number.
const UNLIMITED: &str = "max";

/// `io.max` of a device without limits.
const NO_IO: &str = "rbps=max wbps=max riops=max wiops=max";

fn now(cgroup: &Path, file: &str, device: Option<&str>) -> io::Result<String> {
    let text = read(&cgroup.join(file))?;
    let Some(device) = device else {
        return Ok(text.trim().to_owned());
    };
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let limits = lines
        .find(|(of, _)| *of == device)
        .map(|(_, limits)| limits);
    Ok(limits.unwrap_or(NO_IO).trim().to_owned())
}

fn put(cgroup: &Path, file: &str, device: Option<&str>, value: &str) -> io::Result<()> {
    let value = match device {
        Some(device) if value == UNLIMITED => format!("{device} {NO_IO}"),
        Some(device) => format!("{device} {value}"),
        None => value.to_owned(),
    };
    write(&cgroup.join(file), &value)
}

/// Puts back what was there before, unless somebody else has set it meanwhile.
fn take_back(cgroup: &Path, key: &str, entry: &Entry) -> io::Result<()> {
    let (file, device) = match key.split_once(' ') {
        Some((file, device)) => (file, Some(device)),
        None => (key, None),
    };
    match now(cgroup, file, device) {
        Ok(now) if now == entry.set && now != entry.was => put(cgroup, file, device, &entry.was),
        Ok(_) => Ok(()),
        // With the controller went the limit.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// What limits are, file by file, and what cannot be said to the kernel.
fn settings(limits: &ResourceLimits) -> (Vec<Setting>, Vec<Lack>) {
    let mut settings = Vec::new();
    let mut lacks = Vec::new();
    if let Some(cpu) = limits.cpu {
        let quota = u64::from(cpu.0) * (PERIOD / 1000);
        let value = format!("{quota} {PERIOD}");
        settings.push(Setting::new(Controller::Cpu, "cpu.max", value));
    }
    for (file, bytes) in [
        ("memory.high", limits.memory_high),
        ("memory.max", limits.memory),
    ] {
        if let Some(bytes) = bytes {
            // In whole pages, as the kernel keeps it.
            let value = (bytes - bytes % LARGEST_PAGE).to_string();
            settings.push(Setting::new(Controller::Memory, file, value));
        }
    }
    if let Some(pids) = limits.pids {
        settings.push(Setting::new(Controller::Pids, "pids.max", pids.to_string()));
    }
    for limit in &limits.io {
        match number(&limit.device) {
            Ok(device) => settings.push(Setting {
                device: Some(device),
                ..Setting::new(Controller::Io, "io.max", rates(limit))
            }),
            Err(lack) => lacks.push(lack),
        }
    }
    (settings, lacks)
}

fn rates(limit: &IoLimit) -> String {
    let shown = |rate: Option<u64>| rate.map_or_else(|| UNLIMITED.to_owned(), |it| it.to_string());
    format!(
        "rbps={} wbps={} riops={} wiops={}",
        shown(limit.read),
        shown(limit.write),
        shown(limit.read_ops),
        shown(limit.write_ops)
    )
}

/// `MAJOR:MINOR` of a device that is there.
fn number(device: &BlockDevice) -> Result<String, Lack> {
    const HINT: &str = "name a whole block device: `lsblk` shows those that there are";
    let number = match device {
        BlockDevice::Number { major, minor } => format!("{major}:{minor}"),
        BlockDevice::Node(path) => {
            let shown = path.display();
            let node = fs::metadata(path).map_err(|error| {
                Lack::new(format!("cannot limit the device {shown}: {error}"), HINT)
            })?;
            if !node.file_type().is_block_device() {
                return Err(Lack::new(format!("{shown} is no block device"), HINT));
            }
            let (major, minor) = (
                rustix::fs::major(node.rdev()),
                rustix::fs::minor(node.rdev()),
            );
            format!("{major}:{minor}")
        }
    };
    let partition = Path::new("/sys/dev/block").join(&number).join("partition");
    match partition.exists() {
        true => Err(Lack::new(
            format!("{device} is a partition, and the kernel limits whole devices"),
            HINT,
        )),
        false => Ok(number),
    }
}

/// What is limited more of each.
fn stricter(one: &str, other: &str) -> String {
    if other == UNLIMITED {
        return one.to_owned();
    }
    if one.contains('=') {
        let parts = one.split(' ').map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, UNLIMITED));
            let mut others = other.split(' ').filter_map(|it| it.split_once('='));
            let theirs = others
                .find(|(of, _)| *of == name)
                .map_or(UNLIMITED, |(_, it)| it);
            let less = if amount(theirs) < amount(value) {
                theirs
            } else {
                value
            };
            format!("{name}={less}")
        });
        return parts.collect::<Vec<_>>().join(" ");
    }
    // A quota is for a period; others have none.
    let share = |text: &str| {
        let (quota, period) = text.split_once(' ').unwrap_or((text, "1"));
        let period: u64 = period.parse().unwrap_or(1);
        u128::from(amount(quota)) * 1_000_000 / u128::from(period.max(1))
    };
    if share(other) < share(one) {
        other
    } else {
        one
    }
    .to_owned()
}

fn amount(text: &str) -> u64 {
    text.parse().unwrap_or(u64::MAX)
}

/// What was set on a cgroup.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Note {
    set: BTreeMap<String, Entry>,
}

/// One limit that was set.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Entry {
    /// What it was before.
    was: String,
    /// What it was set to.
    set: String,
}

impl Note {
    fn of(cgroup: &Path) -> Self {
        let mut text = vec![0; LONGEST];
        rustix::fs::getxattr(cgroup, NOTE, &mut text)
            .ok()
            .and_then(|length| serde_json::from_slice(text.get(..length)?).ok())
            .unwrap_or_default()
    }

    /// Before it is set.
    fn put(&mut self, cgroup: &Path, key: &str, entry: Entry) {
        self.set.insert(key.to_owned(), entry);
        self.save(cgroup);
    }

    /// After it was taken back.
    fn forget(&mut self, cgroup: &Path, key: &str) {
        self.set.remove(key);
        self.save(cgroup);
    }

    /// Limits hold without it, and are not known then to be the guard's.
    fn save(&self, cgroup: &Path) {
        let saved = serde_json::to_vec(self)
            .map_err(io::Error::from)
            .and_then(|text| {
                Ok(rustix::fs::setxattr(
                    cgroup,
                    NOTE,
                    &text,
                    XattrFlags::empty(),
                )?)
            });
        if let Err(error) = saved {
            tracing::warn!(cgroup = %cgroup.display(), %error, "what a cgroup was held to before is not noted, and will not be put back");
        }
    }
}

#[cfg(test)]
mod tests;

//! Controllers: which of them limits need, and having them on where an agent's cgroup is.
//!
//! A cgroup has a controller's files where the cgroup above it has the controller in its
//! `cgroup.subtree_control`, and can have it there where the one above that has. Of the cgroups on that path the guard
//! writes only those that are its own to manage: where a service manager runs, each cgroup has one writer (systemd's
//! `CGROUP_DELEGATION.md`).

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use agentguard_model::ResourceLimits;
use rustix::io::Errno;

use super::{Lack, read, write};

/// A controller.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Controller {
    /// Processor time.
    Cpu,
    /// Block devices.
    Io,
    /// Memory.
    Memory,
    /// Processes and threads.
    Pids,
}

impl Controller {
    /// All that limits can need.
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Io, Self::Memory, Self::Pids];

    /// As the kernel calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Io => "io",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }

    /// As version 1 calls it.
    const fn name_in_v1(self) -> &'static str {
        match self {
            Self::Io => "blkio",
            other => other.name(),
        }
    }

    /// Those that these limits need. What is written to devices is charged to who wrote it where memory is, too.
    #[must_use]
    pub fn needed(limits: &ResourceLimits) -> BTreeSet<Self> {
        let mut needed = BTreeSet::new();
        if limits.cpu.is_some() {
            needed.insert(Self::Cpu);
        }
        if limits.memory.is_some() || limits.memory_high.is_some() {
            needed.insert(Self::Memory);
        }
        if limits.pids.is_some() {
            needed.insert(Self::Pids);
        }
        if !limits.io.is_empty() {
            needed.extend([Self::Io, Self::Memory]);
        }
        needed
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The hierarchy, and what of it is the guard's to manage.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tree {
    /// Where cgroup v2 is mounted.
    pub mount: PathBuf,
    /// The root of all agents.
    pub root: PathBuf,
    /// From here on down to the agents the guard turns controllers on: this one or one above [`Self::root`].
    pub top: PathBuf,
    /// Whether a service manager manages what is above.
    pub managed: bool,
    /// `/proc/self/mounts`.
    pub mounts: String,
}

/// The attributes by which systemd tells that a cgroup and what is below it is another's to manage.
const DELEGATED: [&str; 2] = ["trusted.delegate", "user.delegate"];

/// There where systemd manages the host (`sd_booted(3)`).
const SYSTEMD: &str = "/run/systemd/system";

impl Tree {
    /// Looks at this host.
    #[must_use]
    pub fn of_host(mount: &Path, root: &Path) -> Self {
        let mounts = read(Path::new("/proc/self/mounts")).unwrap_or_default();
        let managed = Path::new(SYSTEMD).is_dir();
        Self::new(mount, root, managed, mounts)
    }

    fn new(mount: &Path, root: &Path, managed: bool, mounts: String) -> Self {
        let delegated = root
            .ancestors()
            .take_while(|it| it.starts_with(mount))
            .find(|it| is_delegated(it));
        let top = match delegated {
            Some(delegated) => delegated,
            // What the guard has made itself, or was given, is all that is its own.
            None if managed => root,
            None => mount,
        };
        Self {
            mount: mount.to_owned(),
            root: root.to_owned(),
            top: top.to_owned(),
            managed,
            mounts,
        }
    }

    /// The cgroups whose children have to have a controller so that this one has it, from the top.
    fn above(&self, cgroup: &Path) -> Vec<PathBuf> {
        let mut above: Vec<PathBuf> = cgroup
            .ancestors()
            .skip(1)
            .take_while(|it| it.starts_with(&self.mount))
            .map(Path::to_path_buf)
            .collect();
        above.reverse();
        above
    }

    /// Turns controllers on so that a cgroup has them: along the path from what is the guard's, for one below the
    /// root of all agents. Any other is its owner's, and is only looked at. Gives what cannot be had, and why.
    #[must_use]
    pub fn enable(&self, cgroup: &Path, needed: &BTreeSet<Controller>) -> Vec<(Controller, Lack)> {
        let ours = cgroup.starts_with(&self.root) && cgroup != self.root;
        let mut lacks = Vec::new();
        for &controller in needed {
            if let Err(lack) = self.enable_one(cgroup, controller, ours) {
                lacks.push((controller, lack));
            }
        }
        lacks
    }

    fn enable_one(&self, cgroup: &Path, controller: Controller, ours: bool) -> Result<(), Lack> {
        // Where it is there already nothing above needs to be looked at.
        if has(&cgroup.join("cgroup.controllers"), controller) == Some(true) {
            return Ok(());
        }
        for directory in self.above(cgroup) {
            if has(&directory.join("cgroup.controllers"), controller) != Some(true) {
                return Err(self.absent(&directory, controller, cgroup));
            }
            let control = directory.join("cgroup.subtree_control");
            if has(&control, controller) == Some(true) {
                continue;
            }
            if !ours || !directory.starts_with(&self.top) {
                return Err(self.not_ours(&directory, controller, cgroup, ours));
            }
            if let Err(error) = write(&control, &format!("+{controller}")) {
                return Err(refused(&directory, controller, &error));
            }
            tracing::info!(cgroup = %directory.display(), %controller, "a controller is turned on for what is below");
        }
        Ok(())
    }

    /// Whether a controller could be had for agents without turning anything on: for `doctor`.
    ///
    /// # Errors
    /// Why not.
    pub fn could_have(&self, controller: Controller) -> Result<(), Lack> {
        for directory in self.above(&self.root.join("agent")) {
            // The root is made at the daemon's start, and has what the one above gives to it.
            if directory == self.root && !directory.exists() {
                return Ok(());
            }
            if has(&directory.join("cgroup.controllers"), controller) != Some(true) {
                return Err(self.absent(&directory, controller, &self.root));
            }
            let on = has(&directory.join("cgroup.subtree_control"), controller) == Some(true);
            if !on && !directory.starts_with(&self.top) {
                return Err(self.not_ours(&directory, controller, &self.root, true));
            }
            if !on && directory != self.mount && populated(&directory) {
                return Err(busy(&directory, controller));
            }
            if !on {
                // What is below does not show it before that.
                return Ok(());
            }
        }
        Ok(())
    }

    fn absent(&self, directory: &Path, controller: Controller, cgroup: &Path) -> Lack {
        let cgroup = cgroup.display();
        if let Some(v1) = bound_to_v1(&self.mounts, controller) {
            return Lack::new(
                format!(
                    "the controller `{controller}` is not there for {cgroup}: on this host it is bound to cgroup v1 ({v1})"
                ),
                "boot with systemd.unified_cgroup_hierarchy=1, or cgroup_no_v1=all, so that cgroup v2 has it",
            );
        }
        let list = directory.join("cgroup.controllers");
        Lack::new(
            format!(
                "the controller `{controller}` is not there for {cgroup}: {} does not have it",
                list.display()
            ),
            if directory == self.mount {
                "/proc/cgroups shows what the kernel has: one that has it off needs another configuration, or to be booted without cgroup_disable; in a container, whoever runs it has to hand it down"
            } else {
                "whoever manages that cgroup has to turn it on in the one above"
            },
        )
    }

    fn not_ours(
        &self,
        directory: &Path,
        controller: Controller,
        cgroup: &Path,
        ours: bool,
    ) -> Lack {
        let what = format!(
            "the controller `{controller}` is not turned on for {}: {}/cgroup.subtree_control does not have it, and that cgroup is not the guard's to change",
            cgroup.display(),
            directory.display()
        );
        Lack::new(
            what,
            if !ours {
                "have its owner turn it on: for a unit of systemd, `Delegate=yes` in it, or limits there (`MemoryMax=`, `TasksMax=`, `CPUQuota=`, `IOReadBandwidthMax=`)"
            } else if self.managed {
                "`Delegate=cpu io memory pids` in agentguard.service has systemd turn these on (systemctl edit agentguard, then restart it); or set `cgroup_root` to a cgroup below one that is delegated"
            } else {
                "turn it on there: echo +CONTROLLER into that file"
            },
        )
    }
}

/// Whether a list of controllers has one. `None`: the list cannot be read.
fn has(list: &Path, controller: Controller) -> Option<bool> {
    let list = read(list).ok()?;
    Some(list.split_whitespace().any(|it| it == controller.name()))
}

fn is_delegated(cgroup: &Path) -> bool {
    DELEGATED.iter().any(|name| {
        let mut value = [0; 1];
        let length = rustix::fs::getxattr(cgroup, *name, &mut value);
        length == Ok(1) && value == *b"1"
    })
}

/// Whether processes live right in a cgroup.
fn populated(cgroup: &Path) -> bool {
    read(&cgroup.join("cgroup.procs")).is_ok_and(|list| !list.trim().is_empty())
}

/// Where version 1 has a controller, if it has.
fn bound_to_v1(mounts: &str, controller: Controller) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, at, kind, options) = (
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
        );
        let bound = options.split(',').any(|it| it == controller.name_in_v1());
        (kind == "cgroup" && bound).then_some(at)
    })
}

fn busy(directory: &Path, controller: Controller) -> Lack {
    let shown = directory.display();
    Lack::new(
        format!(
            "the controller `{controller}` cannot be turned on in {shown}: processes live right in it, and cgroup v2 turns controllers on only where they live in cgroups below"
        ),
        format!("move them to a cgroup below (cat {shown}/cgroup.procs lists them)"),
    )
}

fn refused(directory: &Path, controller: Controller, error: &io::Error) -> Lack {
    let shown = directory.display();
    match Errno::from_io_error(error) {
        Some(Errno::BUSY) => busy(directory, controller),
        Some(Errno::OPNOTSUPP) => Lack::new(
            format!(
                "the controller `{controller}` cannot be turned on in {shown}: it is a threaded cgroup, or in one"
            ),
            "set `cgroup_root` to a cgroup whose `cgroup.type` is `domain`",
        ),
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Lack::new(
            format!("the controller `{controller}` cannot be turned on in {shown}: {error}"),
            "in a container the daemon needs the cgroup file system writable, and a cgroup that was delegated to it",
        ),
        _ => Lack::new(
            format!("the controller `{controller}` cannot be turned on in {shown}: {error}"),
            "see what the kernel says of it: dmesg",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::{Controller, Tree};

    /// A directory that looks like the hierarchy.
    fn cgroup(path: &Path, controllers: &str, on: &str, procs: &str) {
        fs::create_dir_all(path).unwrap();
        for (name, text) in [
            ("cgroup.controllers", controllers),
            ("cgroup.subtree_control", on),
            ("cgroup.procs", procs),
        ] {
            fs::write(path.join(name), format!("{text}\n")).unwrap();
        }
    }

    fn told(tree: &Tree, cgroup: &Path) -> Vec<String> {
        let needed = BTreeSet::from([Controller::Memory]);
        let lacks = tree.enable(cgroup, &needed);
        lacks
            .into_iter()
            .map(|(_, lack)| lack.to_string())
            .collect()
    }

    #[test]
    fn a_controller_is_turned_on_from_what_is_the_guards_down_and_not_in_agents() {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path();
        let (slice, root) = (mount.join("slice"), mount.join("slice/agentguard"));
        let agent = root.join("coder");
        cgroup(mount, "cpu memory", "memory", "");
        cgroup(&slice, "memory", "", "");
        cgroup(&root, "memory", "", "");
        cgroup(&agent, "", "", "");
        let on = |path: &Path| fs::read_to_string(path.join("cgroup.subtree_control")).unwrap();
        let unmanaged = Tree::new(mount, &root, false, String::new());
        assert_eq!(unmanaged.top, mount);
        assert_eq!(told(&unmanaged, &agent), Vec::<String>::new());
        assert_eq!(
            (on(mount), on(&slice)),
            ("memory\n".into(), "+memory".into())
        );
        assert_eq!((on(&root), on(&agent)), ("+memory".into(), "\n".into()));

        // Where systemd manages what is above, it is looked at alone.
        cgroup(&slice, "memory", "", "");
        let managed = Tree::new(mount, &root, true, String::new());
        assert_eq!(managed.top, root);
        let told_of = told(&managed, &agent);
        assert!(
            told_of[0].contains("slice/cgroup.subtree_control does not have it"),
            "{told_of:?}"
        );
        assert!(
            told_of[0].contains("hint: `Delegate=cpu io memory pids`"),
            "{told_of:?}"
        );
        assert_eq!(on(&slice), "\n");
        let could = managed.could_have(Controller::Memory);
        assert!(
            could
                .unwrap_err()
                .what
                .contains("not the guard's to change")
        );
        cgroup(&slice, "memory", "memory", "");
        assert_eq!(managed.could_have(Controller::Memory), Ok(()));
        cgroup(&root, "memory", "", "4711");
        let busy = managed.could_have(Controller::Memory).unwrap_err();
        assert!(busy.what.contains("processes live right in it"), "{busy}");
    }

    #[test]
    fn a_controller_that_is_not_there_is_told_with_where_it_is_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let (mount, root) = (dir.path(), dir.path().join("agentguard"));
        let agent = root.join("coder");
        cgroup(mount, "hugetlb", "", "");
        cgroup(&root, "", "", "");
        cgroup(&agent, "", "", "");
        let v1 = "cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n";
        let tree = Tree::new(mount, &root, false, v1.to_owned());
        let shown = told(&tree, &agent);
        assert!(
            shown[0].contains("bound to cgroup v1 (/sys/fs/cgroup/memory); hint: boot with"),
            "{shown:?}"
        );
        let tree = Tree::new(mount, &root, false, String::new());
        let shown = told(&tree, &agent);
        assert!(
            shown[0].contains("cgroup.controllers does not have it; hint: /proc/cgroups"),
            "{shown:?}"
        );
    }

    #[test]
    fn nothing_is_turned_on_for_a_cgroup_that_is_anothers() {
        let dir = tempfile::tempdir().unwrap();
        let (mount, root) = (dir.path(), dir.path().join("agentguard"));
        let service = mount.join("my.service");
        cgroup(mount, "memory", "", "");
        cgroup(&root, "", "", "");
        cgroup(&service, "", "", "");
        let tree = Tree::new(mount, &root, false, String::new());
        let shown = told(&tree, &service);
        assert!(shown[0].contains("have its owner turn it on"), "{shown:?}");
        let on = fs::read_to_string(mount.join("cgroup.subtree_control")).unwrap();
        assert_eq!(on, "\n");
        // One that has it needs nothing.
        cgroup(&service, "memory", "", "");
        assert_eq!(told(&tree, &service), Vec::<String>::new());
    }
}

//! Attaching: programs → pinned links on a cgroup.

use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError};
use aya::programs::{CgroupAttachMode, CgroupSkbAttachType, Program};

use super::load::{CGROUP_PROGRAMS, make_directory};
use super::sys::{self, Access};
use super::{Gate, GateError};

/// What became of the programs of a cgroup.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Attachment {
    /// They were attached, or the last of them: what is open there may be older.
    Attached,
    /// All were there, from an earlier daemon, and were replaced in place.
    Replaced,
}

impl Gate {
    /// Puts the gate on a cgroup and everything below it.
    ///
    /// The agents' entries must be in place before: from here on a process below without one gets
    /// nothing.
    ///
    /// # Errors
    /// [`GateError`], the first; then all others are attached, and the call can be repeated.
    pub fn attach(&mut self, cgroup: &Path) -> Result<Attachment, GateError> {
        let file = File::open(cgroup).map_err(|source| GateError::File {
            what: "open",
            path: cgroup.to_owned(),
            source,
        })?;
        let id = cgroup_id(&file, cgroup)?;
        let links = self.links().join(id.to_string());
        make_directory(&links)?;
        let mut attachment = Attachment::Attached;
        let mut failed = None;
        for name in CGROUP_PROGRAMS {
            match self.attach_or_replace(name, &file, &links.join(name)) {
                Ok(last) => attachment = last,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(attachment), Err)
    }

    /// Whether every link of a cgroup's gate is pinned: somebody may have removed some.
    ///
    /// # Errors
    /// [`GateError::File`].
    pub fn is_whole(&self, cgroup: u64) -> Result<bool, GateError> {
        let pins = list(&self.links().join(cgroup.to_string()))?;
        let known = |pin: &fs::DirEntry| CGROUP_PROGRAMS.iter().any(|it| pin.file_name() == *it);
        Ok(pins.iter().filter(|pin| known(pin)).count() == CGROUP_PROGRAMS.len())
    }

    fn attach_or_replace(
        &mut self,
        name: &'static str,
        cgroup: &File,
        pin: &Path,
    ) -> Result<Attachment, GateError> {
        let program = self.program(name)?;
        if pin.exists() && replace(program, name, pin)? {
            return Ok(Attachment::Replaced);
        }
        attach_one(program, name, cgroup, pin)?;
        Ok(Attachment::Attached)
    }

    /// Takes the gate off a cgroup, by its id. When this returns no program of it is there: the kernel takes
    /// those whose pins are removed off later, in no order (`kernel/bpf/syscall.c`, `bpf_link_put`).
    ///
    /// # Errors
    /// [`GateError::File`]; then some programs may be gone: [`Self::attach`] puts them back. A cgroup that
    /// has no gate is none.
    pub fn detach(&mut self, cgroup: u64) -> Result<(), GateError> {
        let links = self.links().join(cgroup.to_string());
        // As they were put up, from the last one.
        for name in CGROUP_PROGRAMS.iter().rev() {
            detach_one(&links.join(name))?;
        }
        remove_directory(&links)
    }

    /// Forgets the links of removed cgroups that the kernel has let go of, among those that are not
    /// `governed`. It does so when the last of their sockets is gone (`kernel/bpf/cgroup.c`,
    /// `cgroup_bpf_release`): until then the programs go on, and refuse.
    ///
    /// # Errors
    /// [`GateError`].
    pub fn clear_removed(&mut self, governed: impl Fn(u64) -> bool) -> Result<(), GateError> {
        for id in self.attached()? {
            let links = self.links().join(id.to_string());
            if !governed(id) && !self.is_held(&links)? {
                remove_directory(&links)?;
            }
        }
        Ok(())
    }

    pub(super) fn program(&mut self, name: &'static str) -> Result<&mut Program, GateError> {
        let program = self.programs.ebpf.program_mut(name);
        program.ok_or(GateError::Missing(name))
    }

    /// Whether a link there belongs to a cgroup yet.
    fn is_held(&mut self, links: &Path) -> Result<bool, GateError> {
        for name in CGROUP_PROGRAMS {
            let pin = links.join(name);
            if pin.exists() && replace(self.program(name)?, name, &pin)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The ids of the cgroups that carry the gate, or did when they still existed.
    ///
    /// # Errors
    /// [`GateError::File`].
    pub fn attached(&self) -> Result<Vec<u64>, GateError> {
        attached(&self.links())
    }

    /// As [`Self::attached`], without loading the gate.
    ///
    /// # Errors
    /// [`GateError::File`].
    pub fn pinned(directory: &Path) -> Result<Vec<u64>, GateError> {
        attached(&directory.join("links"))
    }

    /// Whether anything of a gate is pinned.
    ///
    /// # Errors
    /// [`GateError::File`].
    pub fn is_left(directory: &Path) -> Result<bool, GateError> {
        Ok(!pins(directory)?.is_empty())
    }

    /// Takes the gate off everything and forgets what it knew. The one deliberate way to open it. Gives
    /// the ids of the cgroups that carried it. The directory itself stays: it is what a daemon locks.
    ///
    /// # Errors
    /// [`GateError::File`]; then some is left, and the call can be repeated.
    pub fn detach_all(directory: &Path) -> Result<Vec<u64>, GateError> {
        let cgroups = attached(&directory.join("links"))?;
        remove_directory(&directory.join("links"))?;
        for pins in pins(directory)? {
            remove_directory(&pins)?;
        }
        Ok(cgroups)
    }
}

/// The cgroups whose links are pinned there.
fn attached(links: &Path) -> Result<Vec<u64>, GateError> {
    let names = list(links)?.into_iter().map(|entry| entry.file_name());
    Ok(names
        .filter_map(|name| name.to_str()?.parse().ok())
        .collect())
}

/// The directories with pins. Where a BPF file system is mounted, the kernel has files of its own.
pub(super) fn pins(directory: &Path) -> Result<Vec<PathBuf>, GateError> {
    let entries = list(directory)?.into_iter();
    Ok(entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect())
}

/// What is in a directory. Not there is nothing.
pub(super) fn list(directory: &Path) -> Result<Vec<fs::DirEntry>, GateError> {
    let failed = |source| GateError::File {
        what: "list",
        path: directory.to_owned(),
        source,
    };
    match fs::read_dir(directory) {
        Ok(entries) => entries.collect::<Result<_, _>>().map_err(failed),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}

/// The id of a cgroup, which is what the kernel's helpers call it: its inode number.
///
/// # Errors
/// [`GateError::File`].
pub(crate) fn cgroup_id(file: &File, path: &Path) -> Result<u64, GateError> {
    file.metadata()
        .map(|metadata| metadata.ino())
        .map_err(|source| GateError::File {
            what: "examine",
            path: path.to_owned(),
            source,
        })
}

/// Puts a program behind the link that is pinned there. False if that link's cgroup is gone: the
/// pin is removed and a new link must be made.
pub(super) fn replace(
    program: &mut Program,
    name: &'static str,
    pin: &Path,
) -> Result<bool, GateError> {
    let failed = |what| {
        move |source| GateError::File {
            what,
            path: pin.to_owned(),
            source,
        }
    };
    let link: OwnedFd = sys::open_pinned(pin, Access::ReadWrite).map_err(failed("open"))?;
    let fd = program.fd().map_err(|source| GateError::Program {
        what: "use",
        program: name,
        source: Box::new(source),
    })?;
    match sys::update_link(link.as_fd(), fd.as_fd()) {
        Ok(()) => Ok(true),
        // The cgroup of the link was removed (kernel/bpf/cgroup.c, cgroup_bpf_replace).
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
            fs::remove_file(pin).map_err(failed("remove"))?;
            Ok(false)
        }
        Err(source) => Err(failed("replace the program of")(source)),
    }
}

/// Takes the program of a pinned link off its cgroup. Not there is as good.
fn detach_one(pin: &Path) -> Result<(), GateError> {
    let detached =
        sys::open_pinned(pin, Access::ReadWrite).and_then(|link| sys::detach_link(link.as_fd()));
    match detached {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(GateError::File {
            what: "remove the program of",
            path: pin.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Of `enum bpf_attach_type`.
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_CGROUP_SETSOCKOPT: u32 = 22;

/// One program on one cgroup, its link pinned.
fn attach_one(
    program: &mut Program,
    name: &'static str,
    cgroup: &File,
    pin: &Path,
) -> Result<(), GateError> {
    let unpinnable = match program {
        Program::CgroupDevice(_) => Some(BPF_CGROUP_DEVICE),
        Program::CgroupSockopt(_) => Some(BPF_CGROUP_SETSOCKOPT),
        _ => None,
    };
    if let Some(attach_type) = unpinnable {
        let program = program.fd().map_err(|source| GateError::Program {
            what: "use",
            program: name,
            source: Box::new(source),
        })?;
        return sys::attach_pinned(program.as_fd(), cgroup.as_fd(), attach_type, pin).map_err(
            |source| GateError::Sys {
                what: "make or pin a link",
                source,
            },
        );
    }
    let link = link(program, name, cgroup)?;
    link.pin(pin).map_err(|source| GateError::Sys {
        what: "pin a link",
        source: std::io::Error::other(source),
    })?;
    Ok(())
}

/// Links on cgroups are multi-attach whatever the mode says, and refuse any other mode's flag.
fn link(program: &mut Program, name: &'static str, cgroup: &File) -> Result<FdLink, GateError> {
    const MODE: CgroupAttachMode = CgroupAttachMode::Single;
    let link = match program {
        Program::CgroupSock(program) => program
            .attach(cgroup, MODE)
            .and_then(|id| program.take_link(id))
            .map(TryInto::try_into),
        Program::CgroupSockAddr(program) => program
            .attach(cgroup, MODE)
            .and_then(|id| program.take_link(id))
            .map(TryInto::try_into),
        Program::SockOps(program) => program
            .attach(cgroup, MODE)
            .and_then(|id| program.take_link(id))
            .map(TryInto::try_into),
        Program::CgroupSkb(program) => {
            let direction = if name == "egress" {
                CgroupSkbAttachType::Egress
            } else {
                CgroupSkbAttachType::Ingress
            };
            program
                .attach(cgroup, direction, MODE)
                .and_then(|id| program.take_link(id))
                .map(TryInto::try_into)
        }
        _ => return Err(GateError::Missing(name)),
    };
    link.map_err(|source| GateError::Program {
        what: "attach",
        program: name,
        source: Box::new(source),
    })?
    // The kernel is older than links on cgroups (5.7).
    .map_err(|source: LinkError| GateError::Sys {
        what: "make a link",
        source: std::io::Error::other(source),
    })
}

/// Removes a directory of pins, and the pins. Not there is as good.
pub(super) fn remove_directory(directory: &Path) -> Result<(), GateError> {
    match fs::remove_dir_all(directory) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(GateError::File {
            what: "remove",
            path: directory.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

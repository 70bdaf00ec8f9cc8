//! LSM programs: what no cgroup hook sees. Not every kernel has them; the gate holds without, and says
//! what is open then.
//!
//! They run for every task of the machine and let all pass but agents. Their links cannot be given
//! another program (`bpf_tracing_link_lops` in `kernel/bpf/syscall.c` has no update): the new link is made
//! before the old one goes, and both refuse the same.

use std::fs;
use std::io;
use std::path::Path;

use agentguard_common::map::LSM_PROBE;
use aya::maps::Array;
use aya::programs::links::FdLink;
use aya::programs::{Lsm, ProgramError};
use aya::{Btf, Ebpf};

use super::load::{chain, make_directory, retried};
use super::{GateError, btf};

/// Refuses families: program, hook.
const FAMILIES: (&str, &str) = ("lsm_socket_create", "socket_create");

/// Tell UNIX sockets apart. The first marks, the others refuse what is not marked.
const UNIX: [(&str, &str); 3] = [
    ("lsm_unix_create", "socket_post_create"),
    ("lsm_unix_connect", "unix_stream_connect"),
    ("lsm_unix_send", "unix_may_send"),
];

/// Refuse the sockets and the processes of others.
const FOREIGN: [(&str, &str); 6] = [
    ("lsm_foreign_send", "socket_sendmsg"),
    ("lsm_foreign_dial", "socket_connect"),
    ("lsm_foreign_listen", "socket_listen"),
    ("lsm_foreign_option", "socket_setsockopt"),
    ("lsm_foreign_receive", "file_receive"),
    ("lsm_foreign_process", "ptrace_access_check"),
];

/// What of those is asked when a socket is used to send, and by a process that is handed one.
pub(super) const USE: [&str; 3] = [
    "lsm_foreign_send",
    "lsm_foreign_dial",
    "lsm_foreign_receive",
];

/// The kernel's own type information.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Globals of the programs with the members whose offsets they hold.
const OFFSETS: [(&str, (&str, &str)); 16] = [
    ("SOCKET_SK", ("socket", "sk")),
    ("UNIX_SOCK_ADDR", ("unix_sock", "addr")),
    ("UNIX_ADDRESS_LEN", ("unix_address", "len")),
    ("UNIX_ADDRESS_NAME", ("unix_address", "name")),
    ("SOCKET_FILE", ("socket", "file")),
    ("SOCK_FAMILY", ("sock_common", "skc_family")),
    ("SOCK_TYPE", ("sock", "sk_type")),
    ("SOCK_PROTOCOL", ("sock", "sk_protocol")),
    ("SOCK_CGROUP", ("sock", "sk_cgrp_data")),
    ("CGROUP_KN", ("cgroup", "kn")),
    ("CGROUP_SELF", ("cgroup", "self")),
    ("CSS_PARENT", ("cgroup_subsys_state", "parent")),
    ("KERNFS_ID", ("kernfs_node", "id")),
    ("TASK_CGROUPS", ("task_struct", "cgroups")),
    ("TASK_TGID", ("task_struct", "tgid")),
    ("CSS_SET_CGROUP", ("css_set", "dfl_cgrp")),
];

/// What the programs are told of the kernel's structures: global, offset in bytes.
pub(super) type Offsets = [(&'static str, u64); 16];

/// What became of the programs.
#[derive(Debug, Default)]
pub(super) struct Attached {
    /// Those that run.
    pub(super) programs: Vec<&'static str>,
    /// What is open on this kernel, in sentences.
    pub(super) lacks: Vec<String>,
}

/// Where the members lie in this kernel, if it says so.
pub(super) fn find_offsets() -> Option<Offsets> {
    let information = fs::read(VMLINUX).ok()?;
    let found = btf::offsets(&information, OFFSETS.map(|(_, member)| member))?;
    let mut offsets = OFFSETS.map(|(global, _)| (global, 0));
    for ((_, offset), found) in offsets.iter_mut().zip(found) {
        *offset = found;
    }
    Some(offsets)
}

/// Attaches what this kernel takes. The links are pinned below `links`, over those of an earlier daemon.
pub(super) fn attach(ebpf: &mut Ebpf, btf: &Btf, offsets: bool, links: &Path) -> Attached {
    let mut attached = Attached::default();
    let families = make_directory(links)
        .map_err(|error| chain(&error))
        .and_then(|()| attach_families(ebpf, btf, links));
    match families {
        Ok(()) => attached.programs.push(FAMILIES.0),
        Err(why) => {
            // What holds for one hook holds for all.
            attached.lacks.push(families_open(&why));
            attached.lacks.push(unix_open(&why));
            attached.lacks.push(foreign_open(&why));
            return attached;
        }
    }
    if !offsets {
        let why = "its type information does not have the structures of sockets and tasks";
        attached.lacks.push(unix_open(why));
        attached.lacks.push(foreign_open(why));
        return attached;
    }
    attach_all(ebpf, btf, links, &UNIX, unix_open, &mut attached);
    attach_all(ebpf, btf, links, &FOREIGN, foreign_open, &mut attached);
    attached
}

/// Attaches programs of one purpose, up to the first that is not taken: what is open then is told.
fn attach_all(
    ebpf: &mut Ebpf,
    btf: &Btf,
    links: &Path,
    programs: &[(&'static str, &str)],
    open: fn(&str) -> String,
    attached: &mut Attached,
) {
    for (name, hook) in programs {
        let result = load(ebpf, name, hook, btf).and_then(|program| link(program, name, links));
        match result {
            Ok(()) => attached.programs.push(name),
            Err(why) => {
                attached.lacks.push(open(&why));
                return;
            }
        }
    }
}

fn families_open(why: &str) -> String {
    format!(
        "no LSM program on socket families ({why}): agents whose cgroup was adopted can make sockets that are neither IP nor UNIX, such as AF_VSOCK, AF_ALG, and as root AF_PACKET"
    )
}

fn unix_open(why: &str) -> String {
    format!(
        "no LSM programs on UNIX sockets ({why}): agents whose cgroup was adopted reach those of the host's daemons, such as Docker and D-Bus, as far as their permissions let them"
    )
}

fn foreign_open(why: &str) -> String {
    format!(
        "no LSM programs on sockets and processes of others ({why}): agents use sockets that another process hands them or that were brought into their cgroup, and adopted ones read and write other processes, as far as their permissions let them"
    )
}

/// A kernel that has LSM programs without `bpf` among its active modules loads and attaches them, and
/// never runs them: so a socket is asked for that is never made.
fn attach_families(ebpf: &mut Ebpf, btf: &Btf, links: &Path) -> Result<(), String> {
    let (name, hook) = FAMILIES;
    let program = load(ebpf, name, hook, btf)?;
    let fresh = attach_one(program)?;
    let protocol = i32::try_from(LSM_PROBE).unwrap_or(i32::MAX);
    // SAFETY: a system call on integers. UNIX sockets have no such protocol.
    let made = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, protocol) };
    if made >= 0 {
        // SAFETY: the call made this descriptor, which nobody else knows.
        unsafe { libc::close(made) };
    }
    let seen = ebpf
        .map("LSM_SEEN")
        .ok_or_else(|| GateError::Missing("LSM_SEEN").to_string())
        .and_then(|map| Array::<_, u32>::try_from(map).map_err(|error| chain(&error)))?
        .get(&0, 0)
        .map_err(|error| chain(&error))?;
    if seen == 0 {
        return Err("`bpf` is not among the kernel's active security modules".to_owned());
    }
    pin(fresh, name, links)
}

fn load<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
    hook: &str,
    btf: &Btf,
) -> Result<&'a mut Lsm, String> {
    let program: &mut Lsm = ebpf
        .program_mut(name)
        .ok_or_else(|| GateError::Missing(name).to_string())?
        .try_into()
        .map_err(|error: ProgramError| chain(&error))?;
    retried(|| program.load(hook, btf)).map_err(|error| {
        tracing::debug!(
            program = name,
            error = chain(&error),
            "an LSM program is not taken"
        );
        match error {
            // Without what the verifier says, which is long.
            ProgramError::LoadError { io_error, .. } => {
                format!("the kernel does not take it: {io_error}")
            }
            error => chain(&error),
        }
    })?;
    Ok(program)
}

fn attach_one(program: &mut Lsm) -> Result<FdLink, String> {
    program
        .attach()
        .and_then(|id| program.take_link(id))
        .map(FdLink::from)
        .map_err(|error| chain(&error))
}

fn link(program: &mut Lsm, name: &'static str, links: &Path) -> Result<(), String> {
    pin(attach_one(program)?, name, links)
}

/// Pins a link where that of an earlier daemon may be, which goes with its pin.
fn pin(link: FdLink, name: &'static str, links: &Path) -> Result<(), String> {
    // A BPF file system has no dots in its names.
    let fresh = links.join(format!("new_{name}"));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(chain(&error)),
        _ => {}
    }
    link.pin(&fresh).map_err(|error| chain(&error))?;
    fs::rename(&fresh, links.join(name)).map_err(|error| chain(&error))
}

//! Loading: object → maps (new, or those that are pinned) → verified programs.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::num::NonZero;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use agentguard_common::ABI_VERSION;
use agentguard_common::seal::SealKeys;
use aya::maps::{Array, Map, MapData};
use aya::programs::{Program, ProgramError, TracePoint};
use aya::{Btf, Ebpf, EbpfLoader};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::rand::GetRandomFlags;
use rustix::thread::UnshareFlags;

use super::devices::Devices;
use super::{Gate, GateError, ProgramStatus, log, lsm, versions};

/// Magic number of a BPF file system, `statfs(2)`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// How often a program is given to the kernel that was interrupted while it looked at it.
const LOAD_TRIES: u32 = 10;
/// Where trace events are described.
const TRACEFS: &str = "/sys/kernel/tracing";

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("AGENTGUARD_BPF_OBJECT"));

/// Maps that are pinned, so that they outlive the daemon. Socket storage lives as long as a map
/// does, so it is among them; counters of sequence numbers too, or every start would show a gap.
const PINNED: [&str; 19] = [
    "SETTINGS",
    "AGENTS",
    "LISTENERS",
    "NAMES",
    "NETWORKS",
    "ORIGINS",
    "QUERIES",
    "SLOTS",
    "BUDGETS",
    "QUOTAS",
    "USAGE",
    "COUNTERS",
    "PROCESSES",
    "EVENTS",
    "SEQUENCE",
    "SEAL_KEYS",
    "SOCKETS",
    "UNIX_NAMES",
    "UNIX_OWNERS",
];

/// Programs for a cgroup, in the order in which they are attached, while processes run there. First what
/// lets no packet of a socket pass that is not known; last what makes sockets known, for the others have to
/// see all that happens to those: a socket that was dialled in between is one from before the gate.
pub(super) const CGROUP_PROGRAMS: [&str; 16] = [
    "egress",
    "ingress",
    "device",
    "setsockopt",
    "post_bind4",
    "post_bind6",
    "stream_callbacks",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
    "sendmsg4",
    "sendmsg6",
    "connect4",
    "connect6",
    "sock_create",
];

/// Programs on trace events: program, event of the category `sched`.
const TRACEPOINTS: [(&str, &str); 2] = [
    ("process_exec", "sched_process_exec"),
    ("process_fork", "sched_process_fork"),
];

/// The loaded programs.
pub(super) struct Programs {
    pub(super) ebpf: Ebpf,
    status: Vec<ProgramStatus>,
    tracepoints: Result<(), String>,
    lsm: Lsm,
    _log: Option<log::Reader>,
}

/// What is known of the LSM programs.
enum Lsm {
    /// They are not attached yet: the kernel's type information, and whether the offsets are known.
    Ahead(Btf, bool),
    Attached(lsm::Attached),
}

impl Gate {
    /// Loads the gate, taking over the maps that an earlier daemon left pinned in `directory`.
    /// Nothing of it decides yet: what an earlier daemon attached does. Whom the maps have as agents is
    /// to be written first, then come [`Self::attach_lsm`] and [`Self::attach`].
    ///
    /// # Errors
    /// Any [`GateError`]; nothing that was pinned on a cgroup before is changed.
    pub fn load(directory: &Path) -> Result<Self, GateError> {
        Self::load_with(directory, log::from_environment()?)
    }

    /// As [`Self::load`], with debugging lines for `lines` whatever the environment says.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn load_with(directory: &Path, lines: Option<log::Sink>) -> Result<Self, GateError> {
        let maps = versions::maps(directory, ABI_VERSION);
        make_directory(&maps)?;
        let btf = Btf::from_sys_fs().map_err(GateError::NoBtf)?;
        let child_pid_offset = in_tracefs(|tracefs| tracefs.and_then(fork_child_pid_offset));
        let paths: Vec<(&str, PathBuf)> =
            PINNED.iter().map(|name| (*name, maps.join(name))).collect();
        let mut loader = EbpfLoader::new();
        loader.btf(Some(&btf));
        for (name, path) in &paths {
            loader.map_pin_path(name, path.as_path());
        }
        if let Some(offset) = &child_pid_offset {
            loader.override_global("FORK_CHILD_PID", offset, true);
        }
        let offsets = lsm::find_offsets();
        for (global, offset) in offsets.iter().flatten() {
            loader.override_global(global, offset, true);
        }
        let level = log::level(lines.is_some());
        loader.override_global("AYA_LOG_LEVEL", &level, true);
        let mut ebpf = loader
            .load(OBJECT)
            .map_err(|source| GateError::Load(Box::new(source)))?;
        load_programs(&mut ebpf, &CGROUP_PROGRAMS)?;
        let tracepoints = match child_pid_offset {
            None => Err("trace events cannot be read".to_owned()),
            Some(_) => in_tracefs(|_| attach_tracepoints(&mut ebpf)),
        };
        let log = lines
            .map(|lines| log::Reader::start(&mut ebpf, lines))
            .transpose()?;
        let status = status(&ebpf, &[]);
        let mut take = |name: &'static str| ebpf.take_map(name).ok_or(GateError::Missing(name));
        seal_keys(typed("SEAL_KEYS", take("SEAL_KEYS")?)?)?;
        let mut gate = Self {
            settings: typed("SETTINGS", take("SETTINGS")?)?,
            agents: typed("AGENTS", take("AGENTS")?)?,
            listeners: typed("LISTENERS", take("LISTENERS")?)?,
            names: typed("NAMES", take("NAMES")?)?,
            networks: typed("NETWORKS", take("NETWORKS")?)?,
            counters: typed("COUNTERS", take("COUNTERS")?)?,
            unix_names: typed("UNIX_NAMES", take("UNIX_NAMES")?)?,
            budgets: typed("BUDGETS", take("BUDGETS")?)?,
            quotas: typed("QUOTAS", take("QUOTAS")?)?,
            usage: typed("USAGE", take("USAGE")?)?,
            slots: typed("SLOTS", take("SLOTS")?)?,
            origins: typed("ORIGINS", take("ORIGINS")?)?,
            queries: typed("QUERIES", take("QUERIES")?)?,
            devices: Devices::new(typed("DEVICES", take("DEVICES")?)?),
            sockets: typed("SOCKETS", take("SOCKETS")?)?,
            patience: super::patience::Patience::default(),
            cgroups: BTreeMap::new(),
            holdings: HashMap::new(),
            ranges: HashMap::new(),
            programs: Programs {
                ebpf,
                status,
                tracepoints,
                lsm: Lsm::Ahead(btf, offsets.is_some()),
                _log: log,
            },
            directory: directory.to_owned(),
        };
        gate.look_for_devices()?;
        gate.take_over_agents()?;
        gate.take_over_networks()?;
        Ok(gate)
    }

    /// Attaches the LSM programs that this kernel takes, in the place of an earlier daemon's. They know
    /// agents by the map, and let everybody else pass: the agents' entries must be in place before.
    /// What cannot be attached is told by [`Self::lsm_lacks`]. Once; again it does nothing.
    pub fn attach_lsm(&mut self) {
        let Lsm::Ahead(btf, offsets) = &self.programs.lsm else {
            return;
        };
        let links = links(&self.directory).join("lsm");
        let attached = lsm::attach(&mut self.programs.ebpf, btf, *offsets, &links);
        self.programs.status = status(&self.programs.ebpf, &attached.programs);
        self.programs.lsm = Lsm::Attached(attached);
    }

    /// The programs of the gate; those of LSM once they are attached.
    #[must_use]
    pub fn programs(&self) -> &[ProgramStatus] {
        &self.programs.status
    }

    /// Why the executable of a process cannot be told, if it cannot.
    #[must_use]
    pub fn executables_unknown(&self) -> Option<&str> {
        self.programs.tracepoints.as_ref().err().map(String::as_str)
    }

    /// What is open because this kernel runs no LSM programs, or not all of them, in sentences. Known
    /// once they were to be attached.
    #[must_use]
    pub fn lsm_lacks(&self) -> &[String] {
        match &self.programs.lsm {
            Lsm::Ahead(..) => &[],
            Lsm::Attached(attached) => &attached.lacks,
        }
    }

    /// Whether LSM programs refuse what an agent sends or dials over a socket that it cannot have made.
    #[must_use]
    pub fn refuses_strange_sockets(&self) -> bool {
        let running = self.lsm_programs();
        lsm::USE.iter().all(|program| running.contains(program))
    }

    /// The LSM programs that run.
    pub(super) fn lsm_programs(&self) -> &[&'static str] {
        match &self.programs.lsm {
            Lsm::Ahead(..) => &[],
            Lsm::Attached(attached) => &attached.programs,
        }
    }

    /// Where a map is pinned.
    pub(super) fn pin_of(&self, map: &str) -> PathBuf {
        versions::maps(&self.directory, ABI_VERSION).join(map)
    }

    /// Where the gate is pinned.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the links of a cgroup are pinned.
    pub(super) fn links(&self) -> PathBuf {
        links(&self.directory)
    }
}

/// Fills in the keys of a new gate. They stay for as long as it does: with others, what is noted of the
/// sockets of agents would not be believed any more.
fn seal_keys(mut map: Array<MapData, SealKeys>) -> Result<(), GateError> {
    let there = map
        .get(&0, 0)
        .map_err(super::map_error("read", "SEAL_KEYS"))?;
    if there != SealKeys::default() {
        return Ok(());
    }
    let mut keys = SealKeys::default();
    for key in keys.0.as_flattened_mut() {
        let mut bytes = [0; size_of::<u64>()];
        let filled =
            rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|errno| {
                GateError::Sys {
                    what: "get random numbers",
                    source: errno.into(),
                }
            })?;
        // Calls for so little are never cut short (getrandom(2)).
        if filled != bytes.len() {
            return Err(GateError::Sys {
                what: "get random numbers",
                source: io::ErrorKind::UnexpectedEof.into(),
            });
        }
        *key = u64::from_ne_bytes(bytes);
    }
    map.set(0, keys, 0)
        .map_err(super::map_error("write", "SEAL_KEYS"))
}

fn links(directory: &Path) -> PathBuf {
    directory.join("links")
}

fn typed<T>(name: &'static str, map: Map) -> Result<T, GateError>
where
    T: TryFrom<Map, Error = aya::maps::MapError>,
{
    T::try_from(map).map_err(super::map_error("use", name))
}

/// The magic number of the file system that holds a path, `statfs(2)`; 0 for one that is none.
pub(crate) fn file_system(path: &Path) -> Result<u64, GateError> {
    let found = rustix::fs::statfs(path).map_err(|source| GateError::File {
        what: "examine",
        path: path.to_owned(),
        source: source.into(),
    })?;
    Ok(u64::try_from(found.f_type).unwrap_or_default())
}

/// Makes a directory for root alone, below an existing one that must be on a BPF file system.
///
/// # Errors
/// [`GateError::NotBpffs`]; it cannot be made.
pub fn make_directory(directory: &Path) -> Result<(), GateError> {
    let existing = directory
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(directory);
    if file_system(existing)? != BPF_FS_MAGIC {
        return Err(GateError::NotBpffs(directory.to_owned()));
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| GateError::File {
            what: "make",
            path: directory.to_owned(),
            source,
        })
}

/// Loads programs, as many at once as there are processors: most of a start is the kernel's verifier, which looks at each
/// by itself (`bpf_check`, without a lock for who has `CAP_BPF`).
///
/// # Errors
/// Those of the first in `names` that is not there, or cannot be loaded.
fn load_programs(ebpf: &mut Ebpf, names: &[&'static str]) -> Result<(), GateError> {
    let mut programs: HashMap<&str, &mut Program> = ebpf.programs_mut().collect();
    let mut waiting = Vec::with_capacity(names.len());
    for name in names {
        let program = programs.remove(name).ok_or(GateError::Missing(name))?;
        waiting.push((*name, program));
    }
    let waiting = Mutex::new(waiting.into_iter().enumerate());
    let failed = Mutex::new(BTreeMap::new());
    let load = || {
        let next = || lock(&waiting).next();
        while let Some((number, (name, program))) = next() {
            if let Err(error) = load_program(name, program) {
                lock(&failed).insert(number, error);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 1..threads.min(names.len()) {
            // Where there are no threads left, it takes longer.
            let thread = std::thread::Builder::new().name("gate-load".into());
            if thread.spawn_scoped(scope, load).is_err() {
                break;
            }
        }
        load();
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.into_values().next().map_or(Ok(()), Err)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn load_program(name: &'static str, program: &mut Program) -> Result<(), GateError> {
    let result = match program {
        Program::CgroupSock(program) => retried(|| program.load()),
        Program::CgroupSockAddr(program) => retried(|| program.load()),
        Program::CgroupSockopt(program) => retried(|| program.load()),
        Program::SockOps(program) => retried(|| program.load()),
        Program::CgroupSkb(program) => retried(|| program.load()),
        Program::CgroupDevice(program) => retried(|| program.load()),
        Program::TracePoint(program) => retried(|| program.load()),
        _ => return Err(GateError::Missing(name)),
    };
    result.map_err(|source| GateError::Program {
        what: "load",
        program: name,
        source: Box::new(source),
    })
}

/// Loads a program, again where a signal came while the verifier worked (`kernel/bpf/verifier.c`,
/// `do_check`).
pub(super) fn retried(
    mut load: impl FnMut() -> Result<(), ProgramError>,
) -> Result<(), ProgramError> {
    let mut tries = 1;
    loop {
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == io::ErrorKind::WouldBlock && tries < LOAD_TRIES => {}
            result => return result,
        }
        tries += 1;
    }
}

/// The tracepoints only tell which executable a process runs: without them that is unknown, and
/// the gate holds all the same.
fn attach_tracepoints(ebpf: &mut Ebpf) -> Result<(), String> {
    for (name, event) in TRACEPOINTS {
        let program = ebpf.program_mut(name);
        let program = program.ok_or_else(|| GateError::Missing(name).to_string())?;
        load_program(name, program).map_err(|error| chain(&error))?;
        let program: &mut TracePoint = program
            .try_into()
            .map_err(|error: ProgramError| chain(&error))?;
        program
            .attach("sched", event)
            .map_err(|error| chain(&error))?;
    }
    Ok(())
}

/// An error with its sources, for a sentence in a status.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Runs a function where trace events are readable: as things are if they are mounted, else in a
/// thread with a mount of its own, which ends with the thread.
fn in_tracefs<T: Send>(run: impl FnOnce(Option<&Path>) -> T + Send) -> T {
    let tracefs = Path::new(TRACEFS);
    if tracefs.join("events").exists() {
        return run(Some(tracefs));
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| run(mount_tracefs(tracefs).ok().map(|()| tracefs)));
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn mount_tracefs(at: &Path) -> rustix::io::Result<()> {
    // SAFETY: only this thread's mount namespace and file system attributes are taken apart; no
    // descriptor table is shared less than before.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    rustix::mount::mount("tracefs", at, "tracefs", MountFlags::empty(), None)
}

/// Offset of `child_pid` in the record of `sched_process_fork`, from its format file:
/// a line `field:pid_t child_pid; offset:44; size:4; signed:1;` with tabs between.
fn fork_child_pid_offset(tracefs: &Path) -> Option<u64> {
    let format = fs::read_to_string(tracefs.join("events/sched/sched_process_fork/format")).ok()?;
    offset_of(&format, "child_pid")
}

fn offset_of(format: &str, field: &str) -> Option<u64> {
    format
        .lines()
        .find(|line| {
            line.split(';')
                .next()
                .is_some_and(|declaration| declaration.ends_with(&format!(" {field}")))
        })?
        .split_once("offset:")?
        .1
        .split(';')
        .next()?
        .parse()
        .ok()
}

fn status(ebpf: &Ebpf, lsm: &[&'static str]) -> Vec<ProgramStatus> {
    let names = CGROUP_PROGRAMS
        .iter()
        .chain(TRACEPOINTS.iter().map(|(name, _)| name))
        .chain(lsm);
    names
        .filter_map(|name| {
            let info = ebpf.program(name)?.info().ok()?;
            Some(ProgramStatus {
                name,
                verified_instructions: info.verified_instruction_count(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::offset_of;

    #[test]
    fn offsets_are_read_from_a_format_file() {
        let format = "name: sched_process_fork\nformat:\n\
             \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
             \tfield:pid_t parent_pid;\toffset:24;\tsize:4;\tsigned:1;\n\
             \tfield:pid_t child_pid;\toffset:44;\tsize:4;\tsigned:1;\n";
        assert_eq!(offset_of(format, "child_pid"), Some(44));
        assert_eq!(offset_of(format, "pid"), None);
        assert_eq!(offset_of("", "child_pid"), None);
    }
}

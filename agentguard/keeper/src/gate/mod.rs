//! The kernel half of the guard: loaded, attached, pinned, and its maps behind typed methods.
//!
//! Everything is pinned under the configured bpffs directory: maps under `v<ABI>/`, links under
//! `links/<cgroup id>/`. The gate therefore outlives the daemon. A daemon that starts again finds
//! the maps with their contents and replaces the programs in place (`BPF_LINK_UPDATE`): at no time
//! is a cgroup without its programs, and never do two generations run side by side, since the
//! second would see the addresses that the first one rewrote. LSM programs rewrite nothing: of those
//! the new one is there before the old one goes, in `links/lsm/`. Maps of another ABI are left alone
//! until nothing uses them any more ([`Gate::forget_other_versions`]).
//!
//! [`Gate`] is the keeper's, with every right; [`view::View`] is what the worker gets: descriptors
//! that cannot write where a verdict is kept.

mod agents;
mod attach;
mod btf;
mod devices;
mod load;
mod log;
mod lsm;
pub mod mark;
mod networks;
mod patience;
mod quotas;
mod sys;
mod unix;
mod versions;
pub mod view;

use std::collections::{BTreeMap, HashMap as Known, HashSet};
use std::io;
use std::path::PathBuf;

use agentguard_common::event::reason;
use agentguard_common::map::{
    AgentEntry, Budget, Counters, Listeners, NameEntry, NameKey, NetworkEntry, NetworkKey, Origin,
    OriginKey, Settings, SlotKey, SocketEntry, UnixNameKey, socket_state,
};
use agentguard_common::quota::{Quota, Usage};
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuHashMap, SkStorage};
use aya::programs::ProgramError;
use aya::{BtfError, EbpfError};

pub use attach::Attachment;
pub(crate) use attach::cgroup_id;
pub(crate) use load::file_system;
pub use load::make_directory;
pub use log::Sink;
pub use networks::Network;
pub use versions::OtherVersion;

use crate::sockets::Connection;

/// Why the gate could not be loaded, attached or written.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The directory is not on a BPF file system.
    #[error(
        "{0} is not on a BPF file system; hint: mount -t bpf bpf /sys/fs/bpf, or set `bpffs` to where one is mounted"
    )]
    NotBpffs(PathBuf),
    /// The directory is not a cgroup of version 2.
    #[error(
        "{0} is not a cgroup of version 2; hint: `systemd-cgls` and `/proc/PID/cgroup` show them, below where cgroup2 is mounted"
    )]
    NotCgroup(PathBuf),
    /// A file operation failed.
    #[error("cannot {what} {path}")]
    File {
        /// The operation.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel has no type information to check the programs with.
    #[error("the kernel offers no BTF; hint: it needs CONFIG_DEBUG_INFO_BTF")]
    NoBtf(#[source] BtfError),
    /// The object could not be loaded: privilege, memory, or a map that was pinned by another
    /// version with other sizes.
    #[error("cannot load the gate into the kernel")]
    Load(#[source] Box<EbpfError>),
    /// The object is not the one that this program was built for.
    #[error("the gate has no {0}")]
    Missing(&'static str),
    /// The verifier refused a program, or it could not be attached.
    #[error("cannot {what} the gate's program {program}")]
    Program {
        /// The operation.
        what: &'static str,
        /// The program.
        program: &'static str,
        /// Why.
        #[source]
        source: Box<ProgramError>,
    },
    /// The environment asks for debugging lines in a way that is not known.
    #[error("{0} is neither `debug` nor `off`")]
    Log(&'static str),
    /// A raw system call failed.
    #[error("cannot {what}")]
    Sys {
        /// The operation.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A map has no room. What is not in it is refused.
    #[error(
        "the gate's map {0} is full, and what is not in it gets nothing; hint: there are more agents, \
         cgroups or rules at once than it has room for (docs/policy.md, \"Bounds\")"
    )]
    Full(&'static str),
    /// A map could not be read or written.
    #[error("cannot {what} the map {map}")]
    Map {
        /// The operation.
        what: &'static str,
        /// The map.
        map: &'static str,
        /// Why.
        #[source]
        source: Box<MapError>,
    },
}

/// A program of the gate, as the kernel has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProgramStatus {
    /// Its name.
    pub name: &'static str,
    /// Instructions that the verifier walked, where the kernel tells.
    pub verified_instructions: Option<u32>,
}

/// The gate, with every right.
pub struct Gate {
    programs: load::Programs,
    directory: PathBuf,
    settings: Array<MapData, Settings>,
    agents: HashMap<MapData, u64, AgentEntry>,
    listeners: HashMap<MapData, u64, Listeners>,
    names: HashMap<MapData, NameKey, NameEntry>,
    networks: LpmTrie<MapData, NetworkKey, NetworkEntry>,
    counters: PerCpuHashMap<MapData, u32, Counters>,
    unix_names: LpmTrie<MapData, UnixNameKey, u32>,
    budgets: HashMap<MapData, u32, Budget>,
    quotas: HashMap<MapData, u32, Quota>,
    usage: HashMap<MapData, u32, Usage>,
    slots: HashMap<MapData, SlotKey, OriginKey>,
    origins: HashMap<MapData, OriginKey, Origin>,
    queries: HashMap<MapData, OriginKey, Origin>,
    devices: devices::Devices,
    sockets: SkStorage<MapData, SocketEntry>,
    patience: patience::Patience,
    /// The agent of each cgroup in `agents`.
    cgroups: BTreeMap<u64, u32>,
    /// How many of those each agent has.
    holdings: Known<u32, usize>,
    /// The keys in `networks`, by profile.
    ranges: Known<u32, HashSet<networks::Range>>,
}

impl Gate {
    /// Writes the gate's settings.
    ///
    /// # Errors
    /// [`GateError::Map`].
    pub fn set(&mut self, settings: &Settings) -> Result<(), GateError> {
        self.settings
            .set(0, settings, 0)
            .map_err(map_error("write", "SETTINGS"))
    }

    /// What the gate knows of a cgroup's agent.
    ///
    /// # Errors
    /// [`GateError::Map`]. A cgroup that is not there is none.
    pub fn agent(&self, cgroup: u64) -> Result<Option<AgentEntry>, GateError> {
        match self.agents.get(&cgroup, 0) {
            Ok(entry) => Ok(Some(entry)),
            Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(None),
            Err(source) => Err(map_error("read", "AGENTS")(source)),
        }
    }

    /// Every cgroup that the gate takes for an agent's.
    ///
    /// # Errors
    /// [`GateError::Map`].
    pub fn agents(&self) -> Result<Vec<(u64, AgentEntry)>, GateError> {
        self.agents
            .iter()
            .collect::<Result<_, _>>()
            .map_err(map_error("read", "AGENTS"))
    }

    /// Tells where the proxy and the resolver listen in a network namespace.
    ///
    /// # Errors
    /// [`GateError::Map`].
    pub fn put_listeners(&mut self, netns: u64, listeners: &Listeners) -> Result<(), GateError> {
        self.patience
            .write(|| self.listeners.insert(netns, listeners, 0))
            .map_err(map_error("write", "LISTENERS"))
    }

    /// The network namespaces of [`Self::put_listeners`], also those of an earlier daemon.
    ///
    /// # Errors
    /// [`GateError::Map`].
    pub fn listeners(&self) -> Result<Vec<u64>, GateError> {
        self.listeners
            .keys()
            .map(|netns| netns.map_err(map_error("read", "LISTENERS")))
            .collect()
    }

    /// Forgets a network namespace.
    ///
    /// # Errors
    /// [`GateError::Map`]. A namespace that is not there is none.
    pub fn remove_listeners(&mut self, netns: u64) -> Result<(), GateError> {
        ignore_absent(self.listeners.remove(&netns), "LISTENERS")
    }

    /// Notes what an address stands for that was answered to an agent.
    ///
    /// # Errors
    /// [`GateError::Map`].
    pub fn put_name(&mut self, key: &NameKey, entry: &NameEntry) -> Result<(), GateError> {
        self.patience
            .write(|| self.names.insert(key, entry, 0))
            .map_err(map_error("write", "NAMES"))
    }

    /// Forgets an answered address.
    ///
    /// # Errors
    /// [`GateError::Map`]. An address that is not there is none.
    pub fn remove_name(&mut self, key: &NameKey) -> Result<(), GateError> {
        ignore_absent(self.names.remove(key), "NAMES")
    }

    /// Every answered address.
    ///
    /// # Errors
    /// [`GateError::Map`].
    pub fn names(&self) -> Result<Vec<NameKey>, GateError> {
        self.names
            .keys()
            .collect::<Result<_, _>>()
            .map_err(map_error("read", "NAMES"))
    }

    /// Makes an established TCP connection that is older than the gate known to it, as an agent's. What the
    /// gate decided on already, as the agent's, stays as it is. `false`: it is another agent's.
    ///
    /// # Errors
    /// [`GateError::Map`]: the gate goes on refusing it.
    pub fn keep_connection(
        &mut self,
        connection: &Connection,
        cgroup: u64,
        agent: u32,
    ) -> Result<bool, GateError> {
        match self.sockets.get(&connection.socket, 0) {
            Ok(known) if known.cgroup != cgroup => return Ok(false),
            Ok(known) if known.agent == agent && !is_undecided(&known, connection) => {
                return Ok(true);
            }
            Ok(_) | Err(MapError::KeyNotFound) => {}
            Err(source) => return Err(map_error("read", "SOCKETS")(source)),
        }
        self.sockets
            .insert(&connection.socket, connection.entry(cgroup, agent), 0)
            .map_err(map_error("write", "SOCKETS"))?;
        Ok(true)
    }

    /// Whether a connection goes on by [`Self::keep_connection`].
    ///
    /// # Errors
    /// [`GateError::Map`].
    pub fn keeps(&self, connection: &Connection) -> Result<bool, GateError> {
        match self.sockets.get(&connection.socket, 0) {
            Ok(known) => Ok(known.reason == reason::TOLERATED),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(source) => Err(map_error("read", "SOCKETS")(source)),
        }
    }

    /// What the gate knows of a socket that it let go directly by a verdict of its own; of no other.
    ///
    /// # Errors
    /// [`GateError::Map`].
    pub fn passed(&self, connection: &Connection) -> Result<Option<SocketEntry>, GateError> {
        match self.sockets.get(&connection.socket, 0) {
            // One that was accepted has the entry of the socket that listened.
            Ok(known) => Ok((known.state == socket_state::PASS
                && known.socket == connection.cookie
                && !matches!(
                    known.reason,
                    reason::TOLERATED | reason::LOCAL | reason::RESOLVER | reason::PROXY
                ))
            .then_some(known)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(map_error("read", "SOCKETS")(source)),
        }
    }

    /// Traffic of an agent, over all processors.
    ///
    /// # Errors
    /// [`GateError::Map`]. An agent without traffic has zeroes.
    pub fn counters(&self, agent: u32) -> Result<Counters, GateError> {
        view::sum(&self.counters, agent)
    }
}

/// Whether a connection was dialled by a socket that the gate knows, while it was not there.
fn is_undecided(known: &SocketEntry, connection: &Connection) -> bool {
    known.state == socket_state::NEW
        && known.reason != reason::TOLERATED
        && known.socket == connection.cookie
}

fn map_error(what: &'static str, map: &'static str) -> impl Fn(MapError) -> GateError {
    move |source| {
        if what == "write" && is_full(&source) {
            return GateError::Full(map);
        }
        GateError::Map {
            what,
            map,
            source: Box::new(source),
        }
    }
}

/// Whether a write failed for want of room: what hash maps and tries say then (`kernel/bpf/hashtab.c`,
/// `lpm_trie.c`).
fn is_full(error: &MapError) -> bool {
    let MapError::SyscallError(error) = error else {
        return false;
    };
    let code = error.io_error.raw_os_error();
    matches!(code, Some(libc::E2BIG | libc::ENOSPC))
}

fn ignore_absent(result: Result<(), MapError>, map: &'static str) -> Result<(), GateError> {
    match result {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) | Ok(()) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        Err(source) => Err(map_error("remove from", map)(source)),
    }
}

//! Gates of other versions: what an agentguard with another ABI left pinned beside this one.
//!
//! Its programs go on deciding, by its own maps, until those of this version stand in their place; it
//! does not matter which of the two is the newer one. Its maps are not read but for one flag: who is
//! quarantined. Then they go, and with them what its programs noted of sockets that are still open.

use std::fs;
use std::path::{Path, PathBuf};

use agentguard_common::ABI_VERSION;
use agentguard_common::map::AgentEntry;
use aya::maps::{HashMap, Map, MapData};

use super::attach::{list, pins, remove_directory, replace};
use super::load::CGROUP_PROGRAMS;
use super::sys::{self, Access};
use super::{Gate, GateError, map_error};

/// A gate of another version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OtherVersion {
    /// Its ABI.
    pub abi: u32,
    directory: PathBuf,
}

impl Gate {
    /// The versions whose maps are pinned beside this one's.
    ///
    /// # Errors
    /// [`GateError::File`].
    pub fn other_versions(&self) -> Result<Vec<OtherVersion>, GateError> {
        let pins = pins(self.directory())?.into_iter();
        Ok(pins
            .filter_map(|directory| {
                let abi = directory.file_name()?.to_str()?.strip_prefix('v')?;
                let abi = abi.parse().ok().filter(|abi| *abi != ABI_VERSION)?;
                Some(OtherVersion { abi, directory })
            })
            .collect())
    }

    /// Every cgroup that another version took for an agent's. `AGENTS` has had one layout since the first
    /// version, and [`AgentEntry`] says that it keeps it.
    ///
    /// # Errors
    /// [`GateError::Map`]: it cannot be read, or has another layout all the same.
    pub fn agents_of(&self, version: &OtherVersion) -> Result<Vec<(u64, AgentEntry)>, GateError> {
        let path = version.directory.join("AGENTS");
        let fd = match sys::open_pinned(&path, Access::ReadOnly) {
            Ok(fd) => fd,
            // It was not put up to the end, or is not there to the end any more.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => {
                return Err(GateError::File {
                    what: "open",
                    path,
                    source,
                });
            }
        };
        let agents: HashMap<MapData, u64, AgentEntry> = MapData::from_fd(fd)
            .and_then(Map::from_map_data)
            .and_then(HashMap::try_from)
            .map_err(map_error("use", "AGENTS"))?;
        agents
            .iter()
            .collect::<Result<_, _>>()
            .map_err(map_error("read", "AGENTS"))
    }

    /// Removes what other versions left: their programs, wherever they are still behind a link, and then
    /// their maps. To be called when this version's agents are written and its programs are attached:
    /// what its own are not put in the place of is open then.
    ///
    /// # Errors
    /// [`GateError`]; then the maps of the others stay, and the call can be repeated.
    pub fn forget_other_versions(&mut self) -> Result<(), GateError> {
        for cgroup in self.attached()? {
            let links = self.links().join(cgroup.to_string());
            self.forget_strangers(&links, &CGROUP_PROGRAMS)?;
            for name in CGROUP_PROGRAMS {
                let pin = links.join(name);
                if pin.exists() {
                    replace(self.program(name)?, name, &pin)?;
                }
            }
        }
        let running = self.lsm_programs().to_vec();
        self.forget_strangers(&self.links().join("lsm"), &running)?;
        for version in self.other_versions()? {
            remove_directory(&version.directory)?;
        }
        Ok(())
    }

    /// Removes the links to programs that this version does not have, or that the kernel did not take.
    fn forget_strangers(&self, links: &Path, known: &[&str]) -> Result<(), GateError> {
        for entry in list(links)? {
            if entry
                .file_name()
                .to_str()
                .is_some_and(|it| known.contains(&it))
            {
                continue;
            }
            let path = entry.path();
            fs::remove_file(&path).map_err(|source| GateError::File {
                what: "remove",
                path,
                source,
            })?;
        }
        Ok(())
    }
}

/// Where the maps of a version are pinned.
pub(super) fn maps(directory: &Path, abi: u32) -> PathBuf {
    directory.join(format!("v{abi}"))
}

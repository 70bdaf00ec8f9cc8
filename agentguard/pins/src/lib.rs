//! What the tools of servers were first seen as, and what became of that.
//!
//! A tool is pinned to the definition with which its server first listed it. Another one is noted beside that, and the
//! tool is held until an operator accepts the other one, or the pin is forgotten. What is done about a tool that is held is
//! the policy's to say, and not known here.
//!
//! A list in which a tool is missing says nothing of it: lists come in pages, and differ from client to client.
//!
//! **Invariant:** what was told as pinned is on disk. Definitions are a server's bytes: how many are kept, and how large,
//! is bounded, and what is beyond is said ([`Sight::NotPinned`]).

#![forbid(unsafe_code)]

mod change;
mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use agentguard_model::{
    PinAccepted, PinOther, Sight, ToolChange, ToolDefinition, ToolPin, ToolPinned,
};
use agentguard_protocol::mcp;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use store::OpenError;

use change::Change;
use store::Store;

/// The most tools of one server that are pinned. One more is not.
pub const MAX_OF_SERVER: usize = 512;

/// The most tools that are pinned in all. One more is not.
pub const MAX_PINS: usize = 8192;

/// The most bytes of definitions of one server that are kept. A tool that goes beyond is not pinned; of one that is,
/// another definition is known by its digest alone then, and cannot be accepted.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;

/// The pins. For threads that may wait for a disk, but for [`Self::is_held`].
#[derive(Debug)]
pub struct Pins {
    store: Store,
    table: RwLock<Table>,
    /// Whoever changes something has it from its first look to its last write.
    changing: Mutex<()>,
}

/// Server → tool → what is known of it.
type Table = BTreeMap<String, BTreeMap<String, Entry>>;

/// What is known of a tool, without the texts of its definitions.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Entry {
    /// The digest of the definition that it is pinned to.
    digest: String,
    size: u32,
    since: Timestamp,
    accepted: Option<PinAccepted>,
    other: Option<Other>,
}

/// Another definition than a tool is pinned to, which was listed last.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Other {
    digest: String,
    /// The bytes of its text, where that is kept.
    kept: Option<u32>,
    since: Timestamp,
    /// Whether the one that the tool is pinned to was listed again since.
    back: bool,
}

impl Entry {
    fn bytes(&self) -> usize {
        let other = self.other.as_ref().and_then(|other| other.kept);
        self.size as usize + other.unwrap_or(0) as usize
    }
}

/// Why a pin is not changed.
#[derive(Debug, thiserror::Error)]
pub enum NotChanged {
    /// Nothing of this server is pinned, or not this tool.
    #[error("nothing is pinned of {0}")]
    Unknown(String),
    /// The definition that was listed last is another one than was meant.
    #[error(
        "the tool {tool} was last listed as {last}, which is another definition than was named"
    )]
    Another {
        /// The tool.
        tool: String,
        /// The digest of that definition.
        last: String,
    },
    /// The text of the other definition is not there.
    #[error(
        "the definition with which the tool {0} was last listed was not kept: it did not fit, or could not be written"
    )]
    NotKept(String),
    /// It could not be written.
    #[error("the pins cannot be written: {0}")]
    Disk(String),
}

impl Pins {
    /// Opens what was pinned, or begins where there is nothing.
    ///
    /// # Errors
    /// It is there, and cannot be read.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let (store, entries) = Store::open(path)?;
        let mut table = Table::new();
        for (server, tool, entry) in entries {
            table.entry(server).or_default().insert(tool, entry);
        }
        Ok(Self {
            store,
            table: RwLock::new(table),
            changing: Mutex::new(()),
        })
    }

    /// Compares the tools that a server lists with what they are pinned to, and pins those that are seen for the first
    /// time. The answer has a sight for each definition, in their order.
    pub fn compare(&self, server: &str, listed: &[ToolDefinition], now: Timestamp) -> Vec<Sight> {
        let digests: Vec<String> = listed.iter().map(|it| mcp::digest(&it.text)).collect();
        let listed: Vec<(&ToolDefinition, &str)> = listed
            .iter()
            .zip(digests.iter().map(String::as_str))
            .collect();
        if let Some(sights) = self.all_alike(server, &listed) {
            return sights;
        }
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut change = Change::of(self, server);
        let mut sights: Vec<Sight> = listed
            .iter()
            .map(|(definition, digest)| change.sight(definition, digest, now))
            .collect();
        if let Err(why) = change.write() {
            for sight in &mut sights {
                if *sight == Sight::First {
                    *sight = Sight::NotPinned(format!("it cannot be written down: {why}"));
                }
            }
        }
        sights
    }

    /// The usual case, for which nothing is written: each tool is what it is pinned to, and none is held.
    fn all_alike(&self, server: &str, listed: &[(&ToolDefinition, &str)]) -> Option<Vec<Sight>> {
        let table = self.table();
        let own = table.get(server)?;
        let mut each = listed.iter();
        let alike = each.all(|(definition, digest)| {
            own.get(&definition.name)
                .is_some_and(|entry| entry.digest == *digest && entry.other.is_none())
        });
        alike.then(|| vec![Sight::Same; listed.len()])
    }

    /// Whether a tool was listed with another definition than it is pinned to, and nobody has accepted that. Names are
    /// compared in any case: some servers do not look at it.
    #[must_use]
    pub fn is_held(&self, server: &str, tool: &str) -> bool {
        let table = self.table();
        let Some(own) = table.get(server) else {
            return false;
        };
        let mut held = own.iter().filter(|(_, entry)| entry.other.is_some());
        let lower = tool.to_lowercase();
        held.any(|(name, _)| name.to_lowercase() == lower)
    }

    /// The tools that are held, one or all of a server, each with the digest of the definition with which it was listed
    /// last.
    ///
    /// # Errors
    /// [`NotChanged`]: nothing is pinned of that, or a definition cannot be accepted, as it was not kept, or since it is
    /// not the one that is meant (`digest`).
    pub fn held(
        &self,
        server: &str,
        tool: Option<&str>,
        digest: Option<&str>,
    ) -> Result<Vec<(String, String)>, NotChanged> {
        let mut held = Vec::new();
        for (tool, entry) in self.chosen(server, tool)? {
            let Some(other) = &entry.other else {
                continue;
            };
            let last = if other.back {
                &entry.digest
            } else {
                &other.digest
            };
            let last = last.clone();
            if digest.is_some_and(|digest| digest != last) {
                return Err(NotChanged::Another { tool, last });
            }
            if !other.back && other.kept.is_none() {
                return Err(NotChanged::NotKept(tool));
            }
            held.push((tool, last));
        }
        Ok(held)
    }

    /// Pins tools to the definitions with which they were listed last, which are these: as [`Self::held`] gives them.
    ///
    /// # Errors
    /// [`NotChanged`]: nothing is changed then.
    pub fn accept(
        &self,
        server: &str,
        tools: &[(String, String)],
        by: &PinAccepted,
    ) -> Result<(), NotChanged> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut change = Change::of(self, server);
        for (tool, digest) in tools {
            self.held(server, Some(tool), Some(digest))?;
            let entry = self
                .table()
                .get(server)
                .and_then(|own| own.get(tool))
                .cloned();
            let Some((entry, other)) = entry.and_then(|it| Some((it.clone(), it.other?))) else {
                continue;
            };
            let mut entry = Entry {
                accepted: Some(by.clone()),
                other: None,
                ..entry
            };
            if !other.back {
                let Some(text) = self.text(server, tool, Which::Other)? else {
                    return Err(NotChanged::NotKept(tool.clone()));
                };
                (entry.digest, entry.size, entry.since) = (other.digest, size(&text), by.time);
                change.texts.push((tool.clone(), Which::Pinned, Some(text)));
            }
            change.texts.push((tool.clone(), Which::Other, None));
            change.entries.insert(tool.clone(), Some(entry));
        }
        change.write().map_err(NotChanged::Disk)
    }

    /// The names of the tools that are pinned: one, or all of a server.
    ///
    /// # Errors
    /// [`NotChanged::Unknown`].
    pub fn names(&self, server: &str, tool: Option<&str>) -> Result<Vec<String>, NotChanged> {
        let chosen = self.chosen(server, tool)?.into_iter();
        Ok(chosen.map(|(name, _)| name).collect())
    }

    /// Forgets what tools are pinned to. Each is pinned anew when it is listed next.
    ///
    /// # Errors
    /// [`NotChanged`]: nothing is changed then.
    pub fn forget(&self, server: &str, tools: &[String]) -> Result<(), NotChanged> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut change = Change::of(self, server);
        for tool in tools {
            change.texts.push((tool.clone(), Which::Pinned, None));
            change.texts.push((tool.clone(), Which::Other, None));
            change.entries.insert(tool.clone(), None);
        }
        change.write().map_err(NotChanged::Disk)
    }

    /// What is pinned, by server and tool: all of it, or what is pinned of one server.
    #[must_use]
    pub fn list(&self, server: Option<&str>) -> Vec<ToolPin> {
        let table = self.table();
        let own = table
            .iter()
            .filter(|(name, _)| server.is_none_or(|it| it == *name));
        let all = own.flat_map(|(server, tools)| {
            tools
                .iter()
                .map(move |(tool, entry)| told(server, tool, entry))
        });
        all.collect()
    }

    /// What a tool is pinned to, with the other definition where there is one.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn show(&self, server: &str, tool: &str) -> Result<Option<ToolPinned>, NotChanged> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = self
            .table()
            .get(server)
            .and_then(|own| own.get(tool))
            .cloned();
        let Some(entry) = entry else {
            return Ok(None);
        };
        let definition = self.text(server, tool, Which::Pinned)?.unwrap_or_default();
        let other = self.text(server, tool, Which::Other)?;
        let change = other.as_deref().map(|other| changed(&definition, other));
        Ok(Some(ToolPinned {
            pin: told(server, tool, &entry),
            definition,
            other_definition: other,
            change,
        }))
    }

    /// The tools that are meant, with what is known of them.
    fn chosen(&self, server: &str, tool: Option<&str>) -> Result<Vec<(String, Entry)>, NotChanged> {
        let table = self.table();
        let own = table.get(server).map(|own| {
            let meant = own
                .iter()
                .filter(|(name, _)| tool.is_none_or(|it| it == *name));
            meant
                .map(|(name, entry)| (name.clone(), entry.clone()))
                .collect::<Vec<_>>()
        });
        own.filter(|own| !own.is_empty()).ok_or_else(|| {
            NotChanged::Unknown(match tool {
                Some(tool) => format!("a tool {tool} of the server {server}"),
                None => format!("the server {server}"),
            })
        })
    }

    fn text(&self, server: &str, tool: &str, which: Which) -> Result<Option<String>, NotChanged> {
        let text = self.store.text(server, tool, which);
        text.map_err(|error| NotChanged::Disk(error.to_string()))
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_to_change(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which of a tool's definitions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Which {
    Pinned,
    Other,
}

fn changed(before: &str, after: &str) -> ToolChange {
    let (parts, more) = mcp::parts(before, after);
    ToolChange {
        before: mcp::digest(before),
        after: mcp::digest(after),
        parts,
        more,
    }
}

fn told(server: &str, tool: &str, entry: &Entry) -> ToolPin {
    ToolPin {
        server: server.to_owned(),
        tool: tool.to_owned(),
        digest: entry.digest.clone(),
        since: entry.since,
        accepted: entry.accepted.clone(),
        other: entry.other.as_ref().map(|other| PinOther {
            digest: other.digest.clone(),
            since: other.since,
            kept: other.kept.is_some(),
            back: other.back,
        }),
    }
}

/// Definitions are bounded far below that.
fn size(text: &str) -> u32 {
    u32::try_from(text.len()).unwrap_or(u32::MAX)
}

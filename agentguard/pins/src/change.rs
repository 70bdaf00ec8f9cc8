//! A change of a server's pins: made in memory, written, and then in force.

use std::collections::BTreeMap;

use agentguard_model::{MAX_PINNED, MAX_PINNED_NAME, Sight, ToolDefinition};
use jiff::Timestamp;

use crate::store::Write;
use crate::{Entry, MAX_BYTES, MAX_OF_SERVER, MAX_PINS, Other, Pins, Which, changed, size};

/// What is about to be changed of a server's pins.
pub(crate) struct Change<'a> {
    pins: &'a Pins,
    server: &'a str,
    /// None: it is forgotten.
    pub(crate) entries: BTreeMap<String, Option<Entry>>,
    pub(crate) texts: Vec<(String, Which, Option<String>)>,
    /// How many tools are pinned in all, and of this server, and what of that is kept.
    all: usize,
    own: usize,
    bytes: usize,
}

impl<'a> Change<'a> {
    pub(crate) fn of(pins: &'a Pins, server: &'a str) -> Self {
        let table = pins.table();
        let own = table.get(server);
        Self {
            pins,
            server,
            entries: BTreeMap::new(),
            texts: Vec::new(),
            all: table.values().map(BTreeMap::len).sum(),
            own: own.map_or(0, BTreeMap::len),
            bytes: own.map_or(0, |own| own.values().map(Entry::bytes).sum()),
        }
    }

    /// Looks at one definition. Of two with one name in a list the first one counts as listed before the second.
    pub(crate) fn sight(&mut self, listed: &ToolDefinition, digest: &str, now: Timestamp) -> Sight {
        if let Some(why) = unfit(listed) {
            return Sight::NotPinned(why);
        }
        let noted = self.entries.get(&listed.name).cloned().flatten();
        let before = noted.or_else(|| {
            let table = self.pins.table();
            table.get(self.server)?.get(&listed.name).cloned()
        });
        match before {
            None => self.first(listed, digest, now),
            Some(entry) if entry.digest == digest => self.same(listed, entry),
            Some(entry) => self.changed(listed, entry, digest, now),
        }
    }

    fn first(&mut self, listed: &ToolDefinition, digest: &str, now: Timestamp) -> Sight {
        let why = if self.own >= MAX_OF_SERVER {
            format!("{MAX_OF_SERVER} tools of its server are pinned already")
        } else if self.all >= MAX_PINS {
            format!("{MAX_PINS} tools are pinned already")
        } else if self.bytes + listed.text.len() > MAX_BYTES {
            format!(
                "the definitions of its server take more than {} MiB",
                MAX_BYTES / 1024 / 1024
            )
        } else {
            self.own += 1;
            self.all += 1;
            self.bytes += listed.text.len();
            let entry = Entry {
                digest: digest.to_owned(),
                size: size(&listed.text),
                since: now,
                accepted: None,
                other: None,
            };
            self.put(listed, entry, Which::Pinned);
            return Sight::First;
        };
        Sight::NotPinned(why)
    }

    fn same(&mut self, listed: &ToolDefinition, mut entry: Entry) -> Sight {
        let Some(other) = &mut entry.other else {
            return Sight::Same;
        };
        if !other.back {
            other.back = true;
            self.entries.insert(listed.name.clone(), Some(entry));
        }
        Sight::Held
    }

    fn changed(
        &mut self,
        listed: &ToolDefinition,
        mut entry: Entry,
        digest: &str,
        now: Timestamp,
    ) -> Sight {
        let was = self.pinned_text(&listed.name);
        let mut change = changed(was.as_deref().unwrap_or_default(), &listed.text);
        change.before.clone_from(&entry.digest);
        let again = entry.other.as_ref().filter(|it| it.digest == digest);
        let (kept_before, since) = match again {
            Some(other) => (other.kept.is_some(), other.since),
            None => (false, now),
        };
        let is_new = again.is_none_or(|other| other.back);
        if kept_before {
            if is_new && let Some(other) = &mut entry.other {
                other.back = false;
                self.entries.insert(listed.name.clone(), Some(entry));
            }
            return Sight::Changed {
                change: Box::new(change),
                again: !is_new,
            };
        }
        self.bytes -= entry.bytes() - entry.size as usize;
        let fits = self.bytes + listed.text.len() <= MAX_BYTES;
        self.bytes += if fits { listed.text.len() } else { 0 };
        entry.other = Some(Other {
            digest: digest.to_owned(),
            kept: fits.then(|| size(&listed.text)),
            since,
            back: false,
        });
        if fits {
            self.put(listed, entry, Which::Other);
        } else {
            self.texts.push((listed.name.clone(), Which::Other, None));
            self.entries.insert(listed.name.clone(), Some(entry));
        }
        Sight::Changed {
            change: Box::new(change),
            again: !is_new,
        }
    }

    /// The text that a tool is pinned to, also where it is pinned by this very change.
    fn pinned_text(&self, tool: &str) -> Option<String> {
        let mut noted = self.texts.iter().rev();
        let noted = noted.find(|(name, which, _)| name == tool && *which == Which::Pinned);
        match noted {
            Some((_, _, text)) => text.clone(),
            None => self
                .pins
                .text(self.server, tool, Which::Pinned)
                .ok()
                .flatten(),
        }
    }

    fn put(&mut self, listed: &ToolDefinition, entry: Entry, which: Which) {
        let name = || listed.name.clone();
        self.entries.insert(name(), Some(entry));
        self.texts.push((name(), which, Some(listed.text.clone())));
    }

    /// Writes it down, then has it count.
    ///
    /// # Errors
    /// It is not on disk, and why. Then nothing counts of it, but that tools are held.
    pub(crate) fn write(self) -> Result<(), String> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let written = self.pins.store.write(&Write {
            server: self.server,
            entries: &self.entries,
            texts: &self.texts,
        });
        let mut table = self.pins.table_to_change();
        let own = table.entry(self.server.to_owned()).or_default();
        for (name, entry) in self.entries {
            match (entry, &written) {
                (Some(entry), Ok(())) => {
                    own.insert(name, entry);
                }
                (None, Ok(())) => {
                    own.remove(&name);
                }
                (Some(entry), Err(_)) => {
                    // What came of it is not kept, and said so.
                    if let (Some(before), Some(other)) = (own.get_mut(&name), entry.other) {
                        before.other = Some(Other {
                            kept: None,
                            ..other
                        });
                    }
                }
                (None, Err(_)) => {}
            }
        }
        if own.is_empty() {
            table.remove(self.server);
        }
        written.map_err(|error| error.to_string())
    }
}

/// Why a definition is never pinned, if it is not.
fn unfit(listed: &ToolDefinition) -> Option<String> {
    if listed.name.is_empty() {
        Some("it has no name".to_owned())
    } else if listed.name.len() > MAX_PINNED_NAME {
        Some(format!("its name is longer than {MAX_PINNED_NAME} bytes"))
    } else if listed.text.len() > MAX_PINNED {
        Some(format!(
            "its definition is larger than {} KiB",
            MAX_PINNED / 1024
        ))
    } else {
        None
    }
}

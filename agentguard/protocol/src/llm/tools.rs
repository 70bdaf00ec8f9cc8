//! The tool calls of an answer, put together.

use std::collections::{BTreeMap, BTreeSet};

use agentguard_model::AskedTool;
use sha2::{Digest as _, Sha256};

use super::responses::Item;
use super::{MAX_TOOL_CALLS, NotUnderstood};

/// Which tool call of an answer: that of which choice, and of those which.
pub(super) type Slot = (u64, u64);

/// Tool calls as they come, in any number of pieces.
#[derive(Debug, Default)]
pub(super) struct Tools {
    slots: BTreeMap<Slot, Tool>,
    /// Tools that belong to a set, by both names.
    of_sets: BTreeSet<String>,
}

/// A tool that belongs to a set (a namespace, a server, what a provider has of its own), by both names. Another one may have
/// its own name as well, and clients go by both.
pub(super) fn of_set(set: &str, name: &str) -> String {
    format!("{set}.{name}")
}

#[derive(Debug, Default)]
struct Tool {
    name: String,
    id: Option<String>,
    arguments: Sha256,
    /// Whether any of its arguments came.
    any: bool,
    /// Whether all of them did.
    whole: bool,
    /// Their digest, where they came in one piece.
    digest: Option<String>,
}

impl Tools {
    /// Notes name and id, as far as they are told.
    pub(super) fn named(
        &mut self,
        slot: Slot,
        name: Option<String>,
        id: Option<String>,
    ) -> Result<(), NotUnderstood> {
        let tool = self.slot(slot)?;
        if let Some(name) = name {
            // Some servers tell it again with each piece.
            if tool.name.is_empty() {
                tool.name = name;
            } else if tool.name != name {
                return Err(NotUnderstood::Names);
            }
        }
        if let Some(id) = id {
            tool.id.get_or_insert(id);
        }
        Ok(())
    }

    /// Notes the set that a tool belongs to which is called.
    pub(super) fn of_set(&mut self, set: Option<&str>, name: &str) -> Result<(), NotUnderstood> {
        let Some(set) = set else {
            return Ok(());
        };
        self.of_sets.insert(of_set(set, name));
        match self.of_sets.len() > MAX_TOOL_CALLS {
            true => Err(NotUnderstood::ToolCalls),
            false => Ok(()),
        }
    }

    /// More of its arguments.
    pub(super) fn arguments(&mut self, slot: Slot, piece: &[u8]) -> Result<(), NotUnderstood> {
        let tool = self.slot(slot)?;
        tool.any |= !piece.is_empty();
        tool.arguments.update(piece);
        Ok(())
    }

    /// A tool call that came in one piece.
    pub(super) fn put(&mut self, slot: Slot, asked: AskedTool) -> Result<(), NotUnderstood> {
        let tool = self.slot(slot)?;
        if !tool.name.is_empty() && tool.name != asked.name {
            return Err(NotUnderstood::Names);
        }
        tool.name = asked.name;
        tool.id = asked.id;
        tool.digest = asked.arguments;
        Ok(())
    }

    /// What an item of Responses asks for, if it asks for something.
    pub(super) fn item(&mut self, slot: Slot, item: Item) -> Result<(), NotUnderstood> {
        let set = item.set.clone();
        match item.asked(true)? {
            Some(asked) => {
                self.of_set(set.as_deref(), &asked.name)?;
                self.put(slot, asked)
            }
            None => Ok(()),
        }
    }

    /// The name of the tool call there, as far as it is known.
    pub(super) fn name(&self, slot: Slot) -> Option<&str> {
        self.slots.get(&slot).map(|tool| tool.name.as_str())
    }

    /// The id of the tool call there, as far as it is known.
    pub(super) fn id(&self, slot: Slot) -> Option<&str> {
        self.slots.get(&slot)?.id.as_deref()
    }

    /// Takes those of an answer that is told as a whole behind its pieces. One of which no piece told is another call,
    /// wherever it stands.
    pub(super) fn told_whole(&mut self, whole: Self) -> Result<(), NotUnderstood> {
        self.of_sets.extend(whole.of_sets);
        if self.of_sets.len() > MAX_TOOL_CALLS {
            return Err(NotUnderstood::ToolCalls);
        }
        for ((_, place), tool) in whole.slots {
            let same = |it: &Tool| {
                let differs = it.id.is_some() && tool.id.is_some() && it.id != tool.id;
                it.name == tool.name && !differs
            };
            if !self.slots.values().any(same) {
                // No piece has this choice.
                *self.slot((u64::MAX, place))? = tool;
            }
        }
        Ok(())
    }

    /// The digest of all its arguments, where it is known to be one.
    pub(super) fn argued(&mut self, slot: Slot, digest: String) {
        if let Some(tool) = self.slots.get_mut(&slot) {
            tool.digest = Some(digest);
        }
    }

    /// Its arguments are whole.
    pub(super) fn whole(&mut self, slot: Slot) {
        if let Some(tool) = self.slots.get_mut(&slot) {
            tool.whole = true;
        }
    }

    /// So are those of a choice.
    pub(super) fn all_whole(&mut self, choice: u64) {
        for (_, tool) in self.slots.range_mut((choice, 0)..=(choice, u64::MAX)) {
            tool.whole = true;
        }
    }

    /// Their names, as far as they are known; of those that belong to a set that with it, too.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.slots.values().map(|tool| tool.name.as_str());
        let names = names.filter(|name| !name.is_empty());
        names.chain(self.of_sets.iter().map(String::as_str))
    }

    /// In the order of their places.
    pub(super) fn into_asked(self) -> Vec<AskedTool> {
        let tools = self.slots.into_values();
        tools
            .map(|tool| AskedTool {
                name: tool.name,
                id: tool.id,
                arguments: tool
                    .digest
                    .or_else(|| tool.whole.then(|| digest(tool.any, tool.arguments))),
            })
            .collect()
    }

    fn slot(&mut self, slot: Slot) -> Result<&mut Tool, NotUnderstood> {
        if self.slots.len() >= MAX_TOOL_CALLS && !self.slots.contains_key(&slot) {
            return Err(NotUnderstood::ToolCalls);
        }
        Ok(self.slots.entry(slot).or_default())
    }
}

/// No arguments are an object without members, in whichever way they are written.
pub(super) fn digest(any: bool, arguments: Sha256) -> String {
    use std::fmt::Write as _;
    let digest = if any {
        arguments.finalize()
    } else {
        Sha256::digest(b"{}")
    };
    digest.iter().fold("sha256:".to_owned(), |mut text, byte| {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

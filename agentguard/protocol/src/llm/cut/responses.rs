//! `OpenAI`'s Responses, over HTTP and over WebSocket.

use std::collections::{BTreeMap, BTreeSet};

use super::super::responses::{APPROVAL, called};
use super::{Cuts, Event, Fate, Form, MAX_TOOL_CALLS, Uncut, items, number, object, set, text};
use crate::json::Value;

#[derive(Debug, Default)]
pub(super) struct Responses {
    /// What stands in the place of the items that were cut out.
    cut: BTreeMap<u64, Said>,
    /// Items of which the beginning has gone on.
    begun: BTreeSet<u64>,
}

/// A message in the place of an item.
#[derive(Clone, Debug)]
struct Said {
    id: String,
    /// That of the item.
    of: Option<String>,
    sentence: String,
}

impl Said {
    /// What stands in the place of an item, if it is to be cut out.
    fn instead(cuts: &Cuts, item: &Value) -> Result<Option<Self>, Uncut> {
        let word = |name| item.get(name).and_then(Value::text);
        let kind = word("type").unwrap_or_default();
        let Some(own) = called(kind) else {
            return Ok(None);
        };
        let named = matches!(own, "function" | "custom_tool" | "mcp");
        let name = word("name").filter(|_| named).unwrap_or(own);
        let set = word("namespace").or_else(|| word("server_label"));
        let Some(sentence) = cuts.of(name).or_else(|| cuts.of_set(set?, name)) else {
            return Ok(None);
        };
        if kind != APPROVAL && !RUN_BY_CLIENTS.contains(&own) {
            return Err(Uncut::Provider);
        }
        // The id of a message begins like this, and is the answer's own.
        let id = word("id").or_else(|| word("call_id")).unwrap_or_default();
        let id = id.split_once('_').map_or(id, |(_, id)| id);
        Ok(Some(Self {
            of: word("id").map(str::to_owned),
            id: format!("msg_{id}"),
            sentence: sentence.to_owned(),
        }))
    }

    fn part(&self, sentence: &str) -> Value {
        object([
            ("type", text("output_text")),
            ("text", text(sentence)),
            ("annotations", Value::Array(Vec::new())),
        ])
    }

    fn item(&self, done: bool) -> Value {
        let (status, content) = match done {
            true => ("completed", vec![self.part(&self.sentence)]),
            false => ("in_progress", Vec::new()),
        };
        object([
            ("id", text(&self.id)),
            ("type", text("message")),
            ("status", text(status)),
            ("role", text("assistant")),
            ("content", Value::Array(content)),
        ])
    }

    /// The events that tell of it, but for the last: in the place of the one that began the item.
    fn begun(&self, event: &Event) -> Vec<Event> {
        let begins = ("item", self.item(false));
        let part = || ("part", self.part(""));
        let whole = || ("part", self.part(&self.sentence));
        let sentence = || text(&self.sentence);
        let in_part = |kind, member| {
            let mut event = same(event, kind, member);
            set(&mut event.data, "item_id", text(&self.id));
            set(&mut event.data, "content_index", Value::Number("0".into()));
            event
        };
        vec![
            same(event, "response.output_item.added", begins),
            in_part("response.content_part.added", part()),
            in_part("response.output_text.delta", ("delta", sentence())),
            in_part("response.output_text.done", ("text", sentence())),
            in_part("response.content_part.done", whole()),
        ]
    }

    fn done(&self, event: &Event) -> Event {
        let ends = ("item", self.item(true));
        same(event, "response.output_item.done", ends)
    }
}

/// Kinds of calls that clients run, without `_call`. All others the provider has run when it tells of them.
const RUN_BY_CLIENTS: [&str; 6] = [
    "function",
    "custom_tool",
    "local_shell",
    "shell",
    "apply_patch",
    "computer",
];

/// Another event, at the place of one in the answer. They have its number, by which a client says how far it has read:
/// what comes behind keeps its own.
fn same(event: &Event, kind: &str, (name, member): (&str, Value)) -> Event {
    let mut members: Vec<(Box<str>, Value)> = vec![("type".into(), text(kind))];
    for own in ["sequence_number", "stream_id", "output_index"] {
        if let Some(value) = event.data.get(own) {
            members.push((own.into(), value.clone()));
        }
    }
    members.push((name.into(), member));
    Event {
        kind: match event.kind.is_empty() {
            true => String::new(),
            false => kind.to_owned(),
        },
        data: Value::Object(members),
    }
}

/// Cuts in the output of a response that is whole.
fn output(cuts: &Cuts, response: &mut Value) -> Result<bool, Uncut> {
    let mut changed = false;
    for item in items(response, "output") {
        if let Some(said) = Said::instead(cuts, item)? {
            *item = said.item(true);
            changed = true;
        }
    }
    Ok(changed)
}

impl Responses {
    /// Whether an event is more of an item that was cut out: by its place, or by its id.
    fn is_within(&self, event: &Value) -> bool {
        let index = number(event.get("output_index"));
        let id = event.get("item_id").and_then(Value::text);
        let mut cut = self.cut.values();
        match (index, id) {
            (Some(index), _) => self.cut.contains_key(&index),
            (None, Some(id)) => cut.any(|said| said.of.as_deref() == Some(id)),
            (None, None) => false,
        }
    }
}

impl Form for Responses {
    fn document(&mut self, cuts: &Cuts, document: &mut Value) -> Result<bool, Uncut> {
        output(cuts, document)
    }

    fn event(&mut self, cuts: &Cuts, mut event: Event) -> Result<Fate, Uncut> {
        let kind = event.kind().to_owned();
        let index = number(event.data.get("output_index"));
        let item = event.data.get("item").unwrap_or(&Value::Null);
        match (kind.as_str(), index) {
            ("response.output_item.added", index) => {
                let Some(said) = Said::instead(cuts, item)? else {
                    let index = index.unwrap_or_default();
                    self.cut.remove(&index);
                    if self.begun.len() < MAX_TOOL_CALLS {
                        self.begun.insert(index);
                    }
                    return Ok(Fate::Goes);
                };
                if self.cut.len() >= MAX_TOOL_CALLS {
                    return Err(Uncut::Many);
                }
                let events = said.begun(&event);
                self.cut.insert(index.unwrap_or_default(), said);
                Ok(Fate::Instead(events))
            }
            ("response.output_item.done", index) => {
                let Some(said) = Said::instead(cuts, item)? else {
                    return Ok(Fate::Goes);
                };
                if let Some(said) = self.cut.get(&index.unwrap_or_default()) {
                    return Ok(Fate::Instead(vec![said.done(&event)]));
                }
                if self.begun.contains(&index.unwrap_or_default()) {
                    return Err(Uncut::Begun);
                }
                // One of which no event told that it began.
                let mut events = said.begun(&event);
                events.push(said.done(&event));
                Ok(Fate::Instead(events))
            }
            _ if self.is_within(&event.data) => Ok(Fate::Instead(Vec::new())),
            _ => {
                let changed = match event.data.get_mut("response") {
                    Some(response) => output(cuts, response)?,
                    None => output(cuts, &mut event.data)?,
                };
                Ok(Fate::of(event, changed))
            }
        }
    }
}

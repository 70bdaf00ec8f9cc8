//! Anthropic's Messages.

use std::collections::BTreeSet;

use super::{Cuts, Event, Fate, Form, MAX_TOOL_CALLS, Uncut, items, number, object, stops, text};
use crate::json::Value;

#[derive(Debug, Default)]
pub(super) struct Messages {
    /// Which blocks were cut out, as long as no other one has begun at their place. A text has it.
    cut: BTreeSet<u64>,
    /// Whether one was.
    any: bool,
    /// Whether a call goes on.
    kept: bool,
}

/// What ends with tool calls, and what does without.
const STOPS: ([&str; 1], &str) = (["tool_use"], "end_turn");

impl Messages {
    /// What stands in the place of a block, if it is to be cut out.
    fn sentence<'a>(&mut self, cuts: &'a Cuts, block: &Value) -> Result<Option<&'a str>, Uncut> {
        let kind = block.get("type").and_then(Value::text).unwrap_or_default();
        if !kind.ends_with("tool_use") {
            return Ok(None);
        }
        let name = block.get("name").and_then(Value::text).unwrap_or_default();
        let set = block.get("toolset_name").or(block.get("server_name"));
        let set = set.and_then(Value::text);
        let sentence = cuts.of(name).or_else(|| cuts.of_set(set?, name));
        match kind {
            "tool_use" => self.kept |= sentence.is_none(),
            // The provider's own, and those of servers that it calls.
            _ if sentence.is_some() => return Err(Uncut::Provider),
            _ => {}
        }
        Ok(sentence)
    }

    /// Whether none of the calls is left.
    fn none_is_left(&self) -> bool {
        self.any && !self.kept
    }
}

impl Form for Messages {
    fn document(&mut self, cuts: &Cuts, document: &mut Value) -> Result<bool, Uncut> {
        for block in items(document, "content") {
            if let Some(sentence) = self.sentence(cuts, block)? {
                *block = object([("type", text("text")), ("text", text(sentence))]);
                self.any = true;
            }
        }
        if self.none_is_left() {
            let (with_calls, without) = STOPS;
            stops(document, "stop_reason", &with_calls, without);
        }
        Ok(self.any)
    }

    fn event(&mut self, cuts: &Cuts, mut event: Event) -> Result<Fate, Uncut> {
        let kind = event.kind().to_owned();
        let data = &mut event.data;
        let index = number(data.get("index")).unwrap_or_default();
        match kind.as_str() {
            "content_block_start" => {
                let block = data.get("content_block").unwrap_or(&Value::Null);
                let Some(sentence) = self.sentence(cuts, block)? else {
                    self.cut.remove(&index);
                    return Ok(Fate::Goes);
                };
                self.any = true;
                if self.cut.len() >= MAX_TOOL_CALLS {
                    return Err(Uncut::Many);
                }
                self.cut.insert(index);
                Ok(Fate::Instead(begun(&event, index, sentence)))
            }
            "content_block_delta" if self.cut.contains(&index) => Ok(Fate::Instead(Vec::new())),
            "message_delta" if self.none_is_left() => {
                let (with_calls, without) = STOPS;
                let delta = data.get_mut("delta");
                let changed =
                    delta.is_some_and(|it| stops(it, "stop_reason", &with_calls, without));
                Ok(Fate::of(event, changed))
            }
            _ => Ok(Fate::Goes),
        }
    }
}

/// The beginning of a block of text, in the place of that of a call.
fn begun(event: &Event, index: u64, sentence: &str) -> Vec<Event> {
    let block = object([("type", text("text")), ("text", text(""))]);
    let delta = object([("type", text("text_delta")), ("text", text(sentence))]);
    let index = || Value::Number(index.to_string().into());
    let kind = |kind: &str| match event.kind.is_empty() {
        true => String::new(),
        false => kind.to_owned(),
    };
    let (start, more) = ("content_block_start", "content_block_delta");
    vec![
        Event {
            kind: kind(start),
            data: object([
                ("type", text(start)),
                ("index", index()),
                ("content_block", block),
            ]),
        },
        Event {
            kind: kind(more),
            data: object([("type", text(more)), ("index", index()), ("delta", delta)]),
        },
    ]
}

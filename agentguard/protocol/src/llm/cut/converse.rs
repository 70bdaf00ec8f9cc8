//! Bedrock's Converse.

use std::collections::BTreeSet;

use super::{Cuts, Event, Fate, Form, MAX_TOOL_CALLS, Uncut, items, number, object, stops, text};
use crate::json::Value;

#[derive(Debug, Default)]
pub(super) struct Converse {
    /// Which blocks were cut out, as long as no other one has begun at their place. A text has it.
    cut: BTreeSet<u64>,
    /// Whether one was.
    any: bool,
    /// Whether a call goes on.
    kept: bool,
}

impl Converse {
    /// What stands in the place of a block, or of the beginning of one, if it is to be cut out.
    fn sentence<'a>(&mut self, cuts: &'a Cuts, block: &Value) -> Result<Option<&'a str>, Uncut> {
        let Some(call) = block.get("toolUse") else {
            return Ok(None);
        };
        let name = call.get("name").and_then(Value::text);
        let sentence = cuts.of(name.unwrap_or_default());
        // One that has a type is of a tool of the provider's.
        match call.get("type") {
            Some(_) if sentence.is_some() => return Err(Uncut::Provider),
            Some(_) => {}
            None => self.kept |= sentence.is_none(),
        }
        Ok(sentence)
    }

    fn stops(&self, object: &mut Value) -> bool {
        let none_is_left = self.any && !self.kept;
        none_is_left && stops(object, "stopReason", &["tool_use"], "end_turn")
    }
}

impl Form for Converse {
    fn document(&mut self, cuts: &Cuts, document: &mut Value) -> Result<bool, Uncut> {
        let output = document.get_mut("output");
        let message = output.and_then(|output| output.get_mut("message"));
        let content = message.map_or(&mut [][..], |message| items(message, "content"));
        for block in content {
            if let Some(sentence) = self.sentence(cuts, block)? {
                *block = object([("text", text(sentence))]);
                self.any = true;
            }
        }
        self.stops(document);
        Ok(self.any)
    }

    fn event(&mut self, cuts: &Cuts, mut event: Event) -> Result<Fate, Uncut> {
        let data = &mut event.data;
        let index = number(data.get("contentBlockIndex")).unwrap_or_default();
        match event.kind.as_str() {
            "contentBlockStart" => {
                let start = data.get("start").unwrap_or(&Value::Null);
                let Some(sentence) = self.sentence(cuts, start)? else {
                    self.cut.remove(&index);
                    return Ok(Fate::Goes);
                };
                self.any = true;
                if self.cut.len() >= MAX_TOOL_CALLS {
                    return Err(Uncut::Many);
                }
                self.cut.insert(index);
                // A block of text has no beginning of its own.
                let delta = object([("text", text(sentence))]);
                let index = Value::Number(index.to_string().into());
                Ok(Fate::Instead(vec![Event {
                    kind: "contentBlockDelta".to_owned(),
                    data: object([("contentBlockIndex", index), ("delta", delta)]),
                }]))
            }
            // What begins here without saying so is a text.
            "contentBlockDelta"
                if self.cut.contains(&index)
                    && data
                        .get("delta")
                        .is_some_and(|it| it.get("toolUse").is_some()) =>
            {
                Ok(Fate::Instead(Vec::new()))
            }
            "messageStop" => {
                let changed = self.stops(data);
                Ok(Fate::of(event, changed))
            }
            _ => Ok(Fate::Goes),
        }
    }
}

//! `OpenAI`'s Chat Completions, and those who speak them.

use std::collections::BTreeMap;

use super::{
    Cuts, Event, Fate, Form, MAX_TOOL_CALLS, Uncut, items, number, remove, say, set, stops,
};
use crate::json::Value;

#[derive(Debug, Default)]
pub(super) struct Chat {
    choices: BTreeMap<u64, Choice>,
}

#[derive(Debug, Default)]
struct Choice {
    /// The calls that came last at each place.
    places: BTreeMap<u64, Place>,
    /// How many there were.
    count: usize,
    /// How many go on.
    kept: u64,
    /// The first place behind those.
    next: u64,
    /// Of the one call that there could be before there could be more: whether it goes on.
    function: Option<bool>,
    /// Whether something was cut out.
    cut: bool,
    /// Whether something was said.
    said: bool,
}

/// A call.
#[derive(Debug)]
struct Place {
    id: Option<String>,
    /// Joined with those that came here before, as some clients do.
    name: String,
    /// Where it stands in what goes on. None: cut out.
    to: Option<u64>,
}

/// What ends with tool calls.
const WITH_CALLS: [&str; 2] = ["tool_calls", "function_call"];

impl Form for Chat {
    fn document(&mut self, cuts: &Cuts, document: &mut Value) -> Result<bool, Uncut> {
        let mut changed = false;
        for (position, choice) in items(document, "choices").iter_mut().enumerate() {
            // What is whole is read in the order of the list, whatever its places say.
            let whole = choice.get("message").is_some_and(is_there);
            let index = number(choice.get("index")).filter(|_| !whole);
            let index = index.unwrap_or(position as u64);
            if self.choices.len() >= MAX_TOOL_CALLS && !self.choices.contains_key(&index) {
                return Err(Uncut::Many);
            }
            let state = self.choices.entry(index).or_default();
            for (part, whole) in [("message", true), ("delta", false)] {
                if let Some(message) = choice.get_mut(part) {
                    changed |= state.message(cuts, message, whole)?;
                }
            }
            if state.cut && state.kept == 0 {
                changed |= stops(choice, "finish_reason", &WITH_CALLS, "stop");
            }
        }
        Ok(changed)
    }

    fn event(&mut self, cuts: &Cuts, mut event: Event) -> Result<Fate, Uncut> {
        let changed = self.document(cuts, &mut event.data)?;
        if changed && is_empty(&event.data) {
            return Ok(Fate::Instead(Vec::new()));
        }
        Ok(Fate::of(event, changed))
    }
}

impl Choice {
    /// Cuts in a message, or in more of one that is not whole.
    fn message(&mut self, cuts: &Cuts, message: &mut Value, whole: bool) -> Result<bool, Uncut> {
        let (mut changed, mut sentences) = (false, Vec::new());
        if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
            let mut kept = Vec::with_capacity(calls.len());
            for (position, mut call) in std::mem::take(calls).into_iter().enumerate() {
                let there = number(call.get("index"));
                let place = there.filter(|_| !whole).unwrap_or(position as u64);
                let id = call.get("id").and_then(Value::text);
                let (to, sentence) = self.place(cuts, place, id, name(&call))?;
                sentences.extend(sentence);
                let Some(to) = to else {
                    changed = true;
                    continue;
                };
                if self.cut && there.is_some_and(|there| there != to) {
                    changed = true;
                    set(&mut call, "index", Value::Number(to.to_string().into()));
                }
                kept.push(call);
            }
            *calls = kept;
            if changed && calls.is_empty() {
                remove(message, "tool_calls");
            }
        }
        if let Some(function) = message.get("function_call").filter(|it| is_there(it)) {
            let called = function.get("name").and_then(Value::text);
            let called = called.filter(|name| !name.is_empty());
            let sentence = called.and_then(|name| cuts.of(name)).map(str::to_owned);
            let goes = match self.function {
                Some(goes) => goes && sentence.is_none(),
                None if called.is_none() => return Err(Uncut::Nameless),
                None => sentence.is_none(),
            };
            if self.function.replace(goes).is_none() {
                self.kept += u64::from(goes);
                sentences.extend(sentence);
            }
            if !goes {
                self.cut = true;
                changed = true;
                remove(message, "function_call");
            }
        }
        for sentence in sentences {
            say(message, &sentence, self.said);
            self.said = true;
        }
        let content = message.get("content");
        self.said |= content.is_some_and(|it| is_there(it) && it.text() != Some(""));
        Ok(changed)
    }

    /// Where a call stands in what goes on, and what stands in its place if it is cut out now.
    fn place(
        &mut self,
        cuts: &Cuts,
        place: u64,
        id: Option<&str>,
        name: Option<&str>,
    ) -> Result<(Option<u64>, Option<String>), Uncut> {
        let name = name.filter(|name| !name.is_empty());
        let mut joined = String::new();
        if let Some(there) = self.places.get(&place) {
            // Some servers give all calls one place: each has an id of its own.
            let before = there.id.as_deref();
            let another = name.is_some() && id.is_some() && before.is_some() && before != id;
            if !another {
                return Ok((there.to, None));
            }
            joined.clone_from(&there.name);
        }
        joined.push_str(name.unwrap_or_default());
        if Some(joined.as_str()) != name && cuts.of(&joined).is_some() {
            return Err(Uncut::Still);
        }
        if self.count >= MAX_TOOL_CALLS {
            return Err(Uncut::Many);
        }
        self.count += 1;
        let sentence = cuts.of(name.ok_or(Uncut::Nameless)?).map(str::to_owned);
        self.cut |= sentence.is_some();
        // As long as nothing was cut out each stands where it stood.
        let to = if self.cut { self.next } else { place };
        let to = sentence.is_none().then_some(to);
        if let Some(to) = to {
            self.kept += 1;
            self.next = self.next.max(to.saturating_add(1));
        }
        let id = id.map(str::to_owned);
        let name = joined;
        self.places.insert(place, Place { id, name, to });
        Ok((to, sentence))
    }
}

/// The name of the tool that is called.
fn name(call: &Value) -> Option<&str> {
    let kinds = ["function", "custom"];
    let mut called = kinds.iter().filter_map(|kind| call.get(kind));
    called.find(|it| is_there(it))?.get("name")?.text()
}

fn is_there(value: &Value) -> bool {
    *value != Value::Null
}

/// Whether nothing is left that an event says.
fn is_empty(event: &Value) -> bool {
    let nothing = |value: Option<&Value>| value.is_none_or(|it| !is_there(it));
    let says_nothing = |choice: &Value| {
        let delta = choice.get("delta");
        let members = delta.map_or(&[][..], Value::members);
        nothing(choice.get("finish_reason"))
            && nothing(choice.get("message"))
            && members.iter().all(|(_, value)| !is_there(value))
    };
    let choices = match event.get("choices") {
        Some(Value::Array(choices)) => choices.as_slice(),
        _ => &[],
    };
    nothing(event.get("usage")) && choices.iter().all(says_nothing)
}

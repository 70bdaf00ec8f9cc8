//! What a rule changes in contents.

use agentguard_model::ToolApi;
use agentguard_protocol::json::edit::{Bounds, EACH, Edits, Operation};
use agentguard_protocol::json::{NODE, Pointer, Value};

use super::requests::no_variable;
use super::tool::{all_are, not_a_pointer};
use super::values::{empty, list};
use super::{Known, Report};
use crate::diagnostic::quoted;
use crate::document::{RawBounds, RawChanges, RawMatch, RawNumber, RawOp, RawOperation};
use crate::yaml::{At, Place};

/// The most changes to contents in one rule. More are refused.
const MAX_EDITS: usize = 64;

/// The most that a value of a patch may take ([`NODE`]).
const MAX_VALUE: usize = 64 * 1024;

/// What a rule changes in contents.
pub(super) fn edits(raw: &RawChanges, report: &mut Report) -> Edits {
    let edits = Edits {
        redact: list("redact", raw.redact.as_ref(), report, place),
        clamp: raw.clamp.as_ref().map_or_else(Vec::new, |raw| {
            if raw.value.is_empty() {
                empty("clamp", raw, report);
            }
            let entries = raw.value.iter();
            let read = entries.filter_map(|(text, bounds)| {
                let place = pointer(text, bounds.place, report)?;
                no_variable(text, bounds.place, report);
                Some((place, self::bounds(bounds, report)?))
            });
            read.collect()
        }),
        patch: raw.json_patch.as_ref().map_or_else(Vec::new, |raw| {
            if raw.value.is_empty() {
                empty("json_patch", raw, report);
            }
            let operations = raw.value.iter();
            let read = operations.filter_map(|raw| operation(raw, report));
            read.collect()
        }),
    };
    never_possible(raw, &edits, report);
    let count = edits.redact.len() + edits.clamp.len() + edits.patch.len();
    if let Some(first) = first_place(raw)
        && count > MAX_EDITS
    {
        let message = format!("a rule makes at most {MAX_EDITS} changes to contents");
        report.error(
            first,
            message,
            "`*` stands for each entry of a list; or make two rules of it",
        );
    }
    edits
}

/// Warns of changes after which nothing would be sent, or that are not what they seem.
fn never_possible(raw: &RawChanges, edits: &Edits, report: &mut Report) {
    let Some(at) = first_place(raw) else { return };
    let both = edits
        .clamp
        .iter()
        .find(|(place, _)| edits.redact.contains(place));
    if let Some((place, _)) = both {
        let message = format!(
            "`{place}` is put out and then bounded, which a text cannot be: nothing that has it would be sent"
        );
        report.warn(at, message, "leave it out of `redact` or of `clamp`");
    }
    let mut operations = edits.patch.iter().flat_map(Operation::places);
    let each = operations.find(|place| place.tokens().iter().any(|token| **token == *EACH));
    if let Some(place) = each {
        let message =
            format!("`*` in `{place}` is a name in a patch, and does not stand for each entry");
        report.warn(
            at,
            message,
            "`redact` and `clamp` know `*`; a patch names each entry by its number",
        );
    }
}

/// Where changes to contents stand, if there are any.
fn first_place(raw: &RawChanges) -> Option<Place> {
    let redact = raw.redact.as_ref().map(|it| it.place);
    let clamp = raw.clamp.as_ref().map(|it| it.place);
    redact
        .or(clamp)
        .or(raw.json_patch.as_ref().map(|it| it.place))
}

/// Refuses changes to contents that nobody reads, or that nobody can change.
pub(super) fn where_contents_are_read(
    raw: &RawChanges,
    matches: &RawMatch,
    known: &Known<'_>,
    report: &mut Report,
) {
    let Some(place) = first_place(raw) else {
        return;
    };
    let Some(tool) = matches.tool.as_ref().filter(|_| matches.llm.is_none()) else {
        if matches.llm.is_none() && !report.in_part {
            let message = "contents are changed where they are read: in calls of language models and of tools";
            let hint = "add `llm: {}` or `tool: {name: […]}` to `match`; what other APIs are asked is a call of a tool once `tool_servers` says how";
            report.error(place, message, hint);
        }
        return;
    };
    if tool.value.name.is_none() && tool.value.arguments.is_none() && !report.in_part {
        let message = "what is changed in calls of tools are their arguments, and this rule is not for calls alone";
        report.error(
            place,
            message,
            "add `name` to `tool`: `name: [\"*\"]` is any call",
        );
    }
    let unchangeable = |api| matches!(api, ToolApi::Grpc | ToolApi::Graphql);
    if let Some(first) = all_are(&tool.value, known, unchangeable) {
        let message = format!("of calls to `{first}` no arguments can be changed");
        let hint = "those of GraphQL stand in a document, and those of gRPC are not read: deny what must not be sent";
        report.error(place, message, hint);
    }
}

/// A place that is put out.
fn place(entry: &At<String>, report: &mut Report) -> Option<Pointer> {
    pointer(&entry.value, entry.place, report)
}

fn pointer(text: &str, place: Place, report: &mut Report) -> Option<Pointer> {
    if let Some((message, hint)) = not_a_pointer(text) {
        report.error(place, message, hint);
        return None;
    }
    let read = Pointer::parse(text);
    if let Err(why) = &read {
        let message = format!("`{}` is no JSON Pointer: {why}", quoted(text));
        report.error(place, message, "like `/messages/0/content`");
    }
    read.ok()
}

fn bounds(raw: &At<RawBounds>, report: &mut Report) -> Option<Bounds> {
    let (min, max) = match &raw.value {
        RawBounds::Most(most) => (None, Some(most)),
        RawBounds::Range(range) => (range.min.as_ref(), range.max.as_ref()),
    };
    let text = |number: &RawNumber| number.0.clone();
    let bounds = Bounds {
        least: min.map(text),
        most: max.map(text),
    };
    let wrong = match (min, max) {
        (None, None) => Some((
            "neither `min` nor `max`",
            "`{max: 4096}`, or the number alone",
        )),
        _ if bounds.hold_none() => {
            Some(("`min` is larger than `max`", "no number is within these"))
        }
        _ => None,
    };
    if let Some((message, hint)) = wrong {
        report.error(raw.place, message, hint);
        return None;
    }
    Some(bounds)
}

fn operation(raw: &At<RawOperation>, report: &mut Report) -> Option<Operation> {
    let (place, raw) = (raw.place, &raw.value);
    let at = pointer(&raw.path.value, raw.path.place, report)?;
    let from = match &raw.from {
        Some(from) => Some(pointer(&from.value, from.place, report)?),
        None => None,
    };
    let value = match &raw.value.0 {
        Some(value) => Some(self::value(value, place, report)?),
        None => None,
    };
    let (has_value, has_from) = (value.is_some(), from.is_some());
    let (operation, wants_value, wants_from) = match (raw.op, value, from) {
        (RawOp::Add, value, _) => (value.map(|it| Operation::Add(at, it)), true, false),
        (RawOp::Replace, value, _) => (value.map(|it| Operation::Replace(at, it)), true, false),
        (RawOp::Test, value, _) => (value.map(|it| Operation::Test(at, it)), true, false),
        (RawOp::Remove, ..) => (Some(Operation::Remove(at)), false, false),
        (RawOp::Move, _, from) => {
            if from.as_ref().is_some_and(|from| at.is_below(from)) {
                let message = "nothing is moved into itself";
                report.error(place, message, "`copy` leaves it where it is");
                return None;
            }
            (from.map(|it| Operation::Move(it, at)), false, true)
        }
        (RawOp::Copy, _, from) => (from.map(|it| Operation::Copy(it, at)), false, true),
    };
    for (key, has, wants) in [
        ("value", has_value, wants_value),
        ("from", has_from, wants_from),
    ] {
        let message = match (has, wants) {
            (false, true) => format!("this operation needs `{key}`"),
            (true, false) => format!("this operation has no `{key}`"),
            _ => continue,
        };
        let hint = "`value` goes with add, replace and test, `from` with move and copy (RFC 6902)";
        report.error(place, message, hint);
        return None;
    }
    operation
}

fn value(raw: &serde_json::Value, place: Place, report: &mut Report) -> Option<Value> {
    let read = Value::read(raw.to_string().as_bytes(), MAX_VALUE);
    if read.is_err() {
        let message = format!(
            "a value of a patch takes at most {MAX_VALUE} bytes: those of its names and texts, and {NODE} for each value"
        );
        report.error(place, message, "make it smaller");
    }
    read.ok()
}

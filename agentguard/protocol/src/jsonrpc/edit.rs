//! Changes to what goes with a message.

use crate::json::edit::{EACH, Edits, Impossible};
use crate::json::{Pointer, Value};

/// Changes each of the messages of a document, alone or in a batch, as `made` says of it. `room`: how much may be added to
/// all of them ([`Edits::apply_in`]).
///
/// # Errors
/// Not all of it can be changed, or they are not as many.
pub fn edit_each(
    document: &mut Value,
    within: &[&str],
    made: &[Vec<&Edits>],
    room: &mut usize,
) -> Result<(), Impossible> {
    let messages = match document {
        Value::Array(messages) => messages.as_mut_slice(),
        message => std::slice::from_mut(message),
    };
    if messages.len() != made.len() {
        return Err(Impossible::Messages);
    }
    let mut each = messages.iter_mut().zip(made);
    each.try_for_each(|(message, edits)| {
        let mut edits = edits.iter();
        edits.try_for_each(|edits| edit(message, within, edits, room))
    })
}

/// Changes what a message has at `within`, by the names of members from the outside in. Where nothing is, a patch begins
/// with an empty object.
///
/// # Errors
/// Not all of it can be changed.
fn edit(
    message: &mut Value,
    within: &[&str],
    edits: &Edits,
    room: &mut usize,
) -> Result<(), Impossible> {
    let Some((name, rest)) = within.split_first() else {
        // Servers take parameters by name and by position for the same.
        let by_name = |place: &&Pointer| {
            let first = place.tokens().first();
            first.is_some_and(|it| **it != *EACH && !it.bytes().all(|byte| byte.is_ascii_digit()))
        };
        if let (Value::Array(_), Some(place)) = (&*message, edits.places().find(by_name)) {
            return Err(Impossible::List(place.clone()));
        }
        return edits.apply_in(message, room);
    };
    let Value::Object(members) = message else {
        return Ok(());
    };
    let there = members.iter().any(|(own, _)| **own == **name);
    if !there && !edits.patch.is_empty() {
        members.push(((*name).into(), Value::Null));
    }
    let Some(inner) = message.get_mut(name) else {
        return Ok(());
    };
    if *inner == Value::Null && !edits.patch.is_empty() {
        *inner = Value::Object(Vec::new());
    }
    edit(inner, rest, edits, room)
}

#[cfg(test)]
mod tests {
    use super::edit;
    use crate::json::edit::{Edits, Operation};
    use crate::json::{Pointer, Value};

    #[test]
    fn what_a_message_has_is_changed_and_nothing_around_it() {
        let read = |text: &str| Value::read(text.as_bytes(), 1 << 16).unwrap();
        let at = |text| Pointer::parse(text).unwrap();
        let redacts = Edits {
            redact: vec![at("/id")],
            ..Edits::default()
        };
        let adds = Edits {
            patch: vec![Operation::Add(at("/id"), read("2"))],
            ..Edits::default()
        };
        for (edits, before, after) in [
            (
                &redacts,
                r#"{"id":1,"params":{"id":0,"arguments":{"id":1}}}"#,
                r#"{"id":1,"params":{"id":0,"arguments":{"id":"[redacted]"}}}"#,
            ),
            (&redacts, r#"{"id":1}"#, r#"{"id":1}"#),
            (
                &redacts,
                r#"{"params":{"arguments":null}}"#,
                r#"{"params":{"arguments":null}}"#,
            ),
            (
                &adds,
                r#"{"params":{"name":"x"}}"#,
                r#"{"params":{"name":"x","arguments":{"id":2}}}"#,
            ),
            (
                &adds,
                r#"{"params":{"arguments":null}}"#,
                r#"{"params":{"arguments":{"id":2}}}"#,
            ),
        ] {
            let mut message = read(before);
            edit(&mut message, &["params", "arguments"], edits, &mut 1000).unwrap();
            assert_eq!(message.written(), after);
        }
    }

    #[test]
    fn parameters_by_position_are_not_sent_past_what_names_them() {
        let at = |text| Pointer::parse(text).unwrap();
        for (place, params, fine) in [
            ("/token", r#"["t"]"#, false),
            ("/token", r#"{"token":"t"}"#, true),
            ("/0", r#"["t"]"#, true),
            ("/*", r#"["t"]"#, true),
        ] {
            let edits = Edits {
                redact: vec![at(place)],
                ..Edits::default()
            };
            let text = format!(r#"{{"params":{params}}}"#);
            let mut message = Value::read(text.as_bytes(), 1 << 16).unwrap();
            let changed = edit(&mut message, &["params"], &edits, &mut 1000);
            assert_eq!(changed.is_ok(), fine, "{place} {params}");
            assert_eq!(message.written().contains("[redacted]"), fine);
        }
    }
}

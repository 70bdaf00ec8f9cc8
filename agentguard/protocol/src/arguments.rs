//! The arguments of calls, as rules look at them.

use std::fmt::Write as _;

use agentguard_model::Argument;
use sha2::{Digest as _, Sha256};

use crate::json::{Value, same_name};

/// The most bytes that arguments may have which rules look at, as they are compared.
pub const MAX_VALUES: usize = 64 * 1024;

/// [`MAX_VALUES`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("arguments that rules look at have more than 64 KiB")]
pub struct TooLong;

/// The arguments that `pointers` point to (RFC 6901), in whatever case.
///
/// # Errors
/// [`TooLong`].
pub(crate) fn values(arguments: &Value, pointers: &[&str]) -> Result<Vec<Argument>, TooLong> {
    let mut found = Vec::new();
    let mut room = MAX_VALUES;
    for pointer in pointers {
        let tokens: Vec<String> = pointer
            .split('/')
            .skip(1)
            .map(|token| token.replace("~1", "/").replace("~0", "~"))
            .collect();
        find(arguments, &tokens, String::new(), &mut found, &mut room)?;
    }
    Ok(found)
}

fn find(
    value: &Value,
    tokens: &[String],
    at: String,
    found: &mut Vec<Argument>,
    room: &mut usize,
) -> Result<(), TooLong> {
    let mut use_up = |bytes: usize| {
        *room = room.checked_sub(bytes)?;
        Some(())
    };
    let Some((token, rest)) = tokens.split_first() else {
        if found.iter().any(|other| other.pointer == at) {
            return Ok(());
        }
        let mut values = Vec::new();
        let entries = match value {
            Value::Array(entries) => entries.as_slice(),
            other => std::slice::from_ref(other),
        };
        for entry in entries {
            let text = match entry {
                Value::Text(text) => text.to_string(),
                other => other.canonical(),
            };
            use_up(text.len() + size_of::<String>()).ok_or(TooLong)?;
            values.push(text);
        }
        use_up(at.len()).ok_or(TooLong)?;
        found.push(Argument {
            pointer: at,
            values,
        });
        return Ok(());
    };
    let step = |name: &str| format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                if same_name(name, token) {
                    find(value, rest, step(name), found, room)?;
                }
            }
        }
        // RFC 6901, 4: no leading zeros.
        Value::Array(items) if token == "0" || !token.starts_with(['0', '+']) => {
            let item = token.parse().ok().and_then(|n: usize| items.get(n));
            if let Some(item) = item {
                find(item, rest, step(token), found, room)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// `sha256:` and the hexadecimal digest of a text.
#[must_use]
pub fn digest(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().fold("sha256:".to_owned(), |mut text, byte| {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

//! Fields in queries, and in forms of one part (WHATWG URL, "application/x-www-form-urlencoded").
//!
//! `+` is a space. Stricter than most servers where they differ: see [`NotUnderstood`].

use percent_encoding::percent_decode;

use super::{MAX_FIELDS, NotUnderstood};
use crate::json::Value;

/// A field: its name, and its text.
pub(super) type Field = (Box<str>, Value);

/// The fields of a text. `what` it is: a query or a form, in words.
///
/// # Errors
/// Why it is not understood.
pub(super) fn fields(text: &[u8], what: &'static str) -> Result<Vec<Field>, NotUnderstood> {
    named(text, what, is_plain)
}

/// As [`fields`], also with names of lists as PHP and others have them, with `[]` behind them.
///
/// # Errors
/// As there.
pub(super) fn fields_or_lists(
    text: &[u8],
    what: &'static str,
) -> Result<Vec<Field>, NotUnderstood> {
    named(text, what, |name| is_plain(without_brackets(name)))
}

/// The name of a list without the `[]` behind it.
pub(super) fn without_brackets(name: &str) -> &str {
    name.strip_suffix("[]").unwrap_or(name)
}

fn named(
    text: &[u8],
    what: &'static str,
    is_name: impl Fn(&str) -> bool,
) -> Result<Vec<Field>, NotUnderstood> {
    if text.contains(&b';') {
        return Err(NotUnderstood::Semicolon(what));
    }
    let mut fields = Vec::new();
    for pair in text.split(|&b| b == b'&').filter(|pair| !pair.is_empty()) {
        if fields.len() == MAX_FIELDS {
            return Err(NotUnderstood::Fields);
        }
        let mut halves = pair.splitn(2, |&b| b == b'=');
        let name = decoded(halves.next().unwrap_or_default(), what)?;
        let value = decoded(halves.next().unwrap_or_default(), what)?;
        if !is_name(&name) {
            return Err(NotUnderstood::Name(what));
        }
        fields.push((name, Value::Text(value)));
    }
    Ok(fields)
}

/// Whether a field's name is read by all servers as it stands. PHP and others make lists and objects of brackets, and leave out what a
/// name begins with. Braces, quotes and `<` begin what is no form, but JSON or XML for who does not look at its type.
pub(super) fn is_plain(name: &str) -> bool {
    let odd = |c: char| c.is_control() || c.is_whitespace() || "[]{}\"<>".contains(c);
    !name.is_empty() && !name.contains(odd)
}

fn decoded(text: &[u8], what: &'static str) -> Result<Box<str>, NotUnderstood> {
    let mut escapes = text.split(|&b| b == b'%').skip(1);
    let digits = |rest: &[u8]| {
        let mut digits = rest.iter().take(2);
        rest.len() >= 2 && digits.all(u8::is_ascii_hexdigit)
    };
    if !escapes.all(digits) {
        return Err(NotUnderstood::Escape(what));
    }
    let spaced: Vec<u8> = text
        .iter()
        .map(|&b| if b == b'+' { b' ' } else { b })
        .collect();
    let decoded: Vec<u8> = percent_decode(&spaced).collect();
    let text = String::from_utf8(decoded).map_err(|_| NotUnderstood::NotUtf8(what))?;
    Ok(text.into_boxed_str())
}

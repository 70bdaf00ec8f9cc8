//! What is wrong with a text that is no YAML, or has more of it than is read here, and where.

use granit_parser::{ErrorKind, ScanError};

use super::Place;
use super::tree::{Fault, fault, place_of, too_deep};
use crate::diagnostic::quoted;

/// The longest key that YAML has, in characters (YAML 1.2.2, 7.4.2).
const MAX_KEY: usize = 1024;

/// What is wrong with a text that the parser refuses.
pub(super) fn syntax(text: &str, error: &ScanError) -> Fault {
    let place = place_of(error.marker());
    if *error.kind() == ErrorKind::RecursionLimitExceeded {
        return too_deep(place);
    }
    // The parser takes what is too long for no key at all, and stops at what follows from that.
    if let Some(place) = long_key(text, place) {
        return fault(
            place,
            &format!("a key is longer than {MAX_KEY} characters"),
            "no key is as long: see whether this is a value, or a quote is left over",
        );
    }
    Fault {
        place,
        message: format!("not valid YAML: {}", error.info()),
        hint: hint_on_syntax(text, place),
    }
}

/// Where the tag of a value stands that begins at a place: right before it, or before its anchor.
pub(super) fn tag_before(text: &str, value: Place) -> Option<Place> {
    let line = usize::try_from(value.line).ok()?.checked_sub(1)?;
    let column = usize::try_from(value.column).ok()?.checked_sub(1)?;
    let last = text.lines().nth(line)?;
    let end = last
        .char_indices()
        .nth(column)
        .map_or(last.len(), |it| it.0);
    // A value that is not there begins where its tag does, or behind it.
    let at = last.get(end..)?;
    if at.starts_with('!') {
        return Some(value);
    }
    let mut number = line;
    let mut before = last.get(..end)?;
    loop {
        let trimmed = before.trim_end();
        if trimmed.is_empty() {
            // The value begins on a line of its own, below the tag.
            number = number.checked_sub(1)?;
            before = text.lines().nth(number)?;
            continue;
        }
        let start = trimmed
            .rfind(|c: char| c.is_whitespace() || "[{,".contains(c))
            .map_or(0, |at| at + 1);
        let word = trimmed.get(start..)?;
        if word.starts_with('&') {
            before = trimmed.get(..start)?;
            continue;
        }
        let column = trimmed.get(..start)?.chars().count() + 1;
        let found = Place::at(u32::try_from(number + 1).ok()?, u32::try_from(column).ok()?);
        return word.starts_with('!').then_some(found);
    }
}

/// Where a key begins that is too long to be one, on the line that the parser stopped at.
fn long_key(text: &str, place: Place) -> Option<Place> {
    let line = usize::try_from(place.line).ok()?.checked_sub(1)?;
    let line = text.lines().nth(line)?;
    let key = line.trim_start_matches([' ', '-', '{', '[']);
    let (key_alone, _) = key.split_once(':')?;
    let is_long = key_alone.chars().count() > MAX_KEY && !key_alone.contains([',', '{', '[']);
    let column = line.chars().count() - key.chars().count() + 1;
    let column = u32::try_from(column).ok()?;
    is_long.then(|| Place::at(place.line, column))
}

/// What to do about a text that is no YAML.
fn hint_on_syntax(text: &str, place: Place) -> String {
    begins_with_at(text, place).unwrap_or_else(|| {
        "see the indent (spaces, never tabs), brackets and quotes here and in the line before; a \
         text with `: `, ` #` or one of `[]{}&*!|>%@` at its front goes into quotes"
            .to_owned()
    })
}

/// YAML keeps `@` at the beginning of a word for itself, so the name of a list wants quotes.
fn begins_with_at(text: &str, place: Place) -> Option<String> {
    let line = usize::try_from(place.line).ok()?.checked_sub(1)?;
    let column = usize::try_from(place.column).ok()?.checked_sub(1)?;
    let rest = text.lines().nth(line)?.chars().skip(column);
    let word: String = rest
        .take_while(|c| !c.is_whitespace() && !",]}\"".contains(*c))
        .take(40)
        .collect();
    word.starts_with('@')
        .then(|| format!("put it in quotes: \"{}\"", quoted(&word)))
}

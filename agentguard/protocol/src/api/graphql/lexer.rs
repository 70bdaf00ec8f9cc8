//! The words of a document (GraphQL, October 2021, 2.1).

use super::Fault;
use crate::jsonrpc::is_word;

/// A word.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Token {
    Name(String),
    /// Of integers and others, as it is written.
    Number(String),
    Text(String),
    /// `...`
    Spread,
    /// One of `! $ & ( ) : = @ [ ] { | }`.
    Mark(u8),
}

/// The most words of a document.
const MAX_TOKENS: usize = 64 * 1024;

/// All words of a document.
///
/// # Errors
/// [`Fault`].
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, Fault> {
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut tokens = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n', ',']);
        let Some(first) = rest.bytes().next() else {
            return Ok(tokens);
        };
        if first == b'#' {
            let end = rest.find(['\r', '\n']).unwrap_or(rest.len());
            rest = rest.split_at(end).1;
            continue;
        }
        if tokens.len() == MAX_TOKENS {
            return Err(Fault::Bound);
        }
        let (token, after) = token(first, rest)?;
        tokens.push(token);
        rest = after;
    }
}

fn token(first: u8, rest: &str) -> Result<(Token, &str), Fault> {
    let run = |allowed: fn(u8) -> bool| {
        let end = rest.bytes().position(|b| !allowed(b));
        rest.split_at(end.unwrap_or(rest.len()))
    };
    if b"!$&():=@[]{|}".contains(&first) {
        return Ok((Token::Mark(first), rest.split_at(1).1));
    }
    if let Some(after) = rest.strip_prefix("...") {
        return Ok((Token::Spread, after));
    }
    if let Some(after) = rest.strip_prefix("\"\"\"") {
        return block(after);
    }
    if let Some(after) = rest.strip_prefix('"') {
        return string(after);
    }
    if first.is_ascii_alphabetic() || first == b'_' {
        let (name, after) = run(|b| b.is_ascii_alphanumeric() || b == b'_');
        let name = is_word(name).then(|| name.to_owned()).ok_or(Fault::Bound)?;
        return Ok((Token::Name(name), after));
    }
    // Names do not follow numbers at once (2.9.1), so that whatever could be one belongs to the number.
    let (number, after) = run(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b));
    if !is_number(number) {
        return Err(Fault::Syntax);
    }
    Ok((Token::Number(number.to_owned()), after))
}

/// Whether a text is a number: as in JSON.
fn is_number(text: &str) -> bool {
    let begins = text.starts_with('-') || text.bytes().next().is_some_and(|b| b.is_ascii_digit());
    begins
        && text.len() <= crate::json::MAX_NUMBER
        && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// A string, behind its quote.
fn string(text: &str) -> Result<(Token, &str), Fault> {
    let mut escaped = false;
    let end = text.bytes().position(|b| {
        let ends = !escaped && b == b'"';
        escaped = !escaped && b == b'\\';
        ends
    });
    let (inner, after) = text.split_at(end.ok_or(Fault::Syntax)?);
    // Raw tabs and the like are characters here, and none in JSON; escapes are the same.
    let json = inner.replace('\t', "\\t");
    let read = serde_json::from_str(&format!("\"{json}\"")).map_err(|_| Fault::Syntax)?;
    Ok((Token::Text(read), after.split_at(1).1))
}

/// A block string, behind its quotes.
fn block(text: &str) -> Result<(Token, &str), Fault> {
    let mut raw = String::new();
    let mut rest = text;
    loop {
        let end = rest.find("\"\"\"").ok_or(Fault::Syntax)?;
        let (piece, after) = rest.split_at(end);
        let after = after.split_at(3).1;
        rest = after;
        if let Some(piece) = piece.strip_suffix('\\') {
            raw.push_str(piece);
            raw.push_str("\"\"\"");
            continue;
        }
        raw.push_str(piece);
        return Ok((Token::Text(dedented(&raw)), rest));
    }
}

/// What a block string stands for (2.9.4, "BlockStringValue").
fn dedented(raw: &str) -> String {
    let raw = raw.replace("\r\n", "\n").replace('\r', "\n");
    let lines: Vec<&str> = raw.split('\n').collect();
    let blank = |line: &str| line.trim_matches([' ', '\t']).is_empty();
    let indent = |line: &&str| line.len() - line.trim_start_matches([' ', '\t']).len();
    let others = lines.iter().skip(1).filter(|line| !blank(line));
    let common = others.map(indent).min().unwrap_or_default();
    let mut kept: Vec<&str> = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        let from = if n == 0 { 0 } else { common };
        kept.push(line.get(from..).unwrap_or_default());
    }
    let from = kept.iter().position(|line| !blank(line));
    let to = kept.iter().rposition(|line| !blank(line));
    let (Some(from), Some(to)) = (from, to) else {
        return String::new();
    };
    kept.get(from..=to).unwrap_or_default().join("\n")
}

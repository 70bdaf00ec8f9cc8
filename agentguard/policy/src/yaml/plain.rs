//! Words and numbers without quotes.

/// What a plain scalar stands for (YAML 1.2.2, core schema).
pub(super) enum Plain<'a> {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'a str),
}

pub(super) fn plain(text: &str) -> Plain<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Plain::Null,
        "true" | "True" | "TRUE" => return Plain::Bool(true),
        "false" | "False" | "FALSE" => return Plain::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix('+').unwrap_or(text);
    let unsigned = match digits.get(..2) {
        Some("0x") => u64::from_str_radix(digits.get(2..).unwrap_or_default(), 16),
        Some("0o") => u64::from_str_radix(digits.get(2..).unwrap_or_default(), 8),
        _ => digits.parse(),
    };
    if let Ok(number) = unsigned {
        return Plain::Unsigned(number);
    }
    if let Ok(number) = text.parse() {
        return Plain::Signed(number);
    }
    // Only what looks like a number: Rust reads `inf` and `nan` too.
    if text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c))
        && let Ok(number) = text.parse::<f64>()
        && number.is_finite()
    {
        return Plain::Float(number);
    }
    Plain::Text(text)
}

/// Whether it is a whole number as it is written, of whatever size.
pub(super) fn is_whole_number(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit())
}

//! Types of arguments that are sent as texts: in paths, queries and forms.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The type of an argument.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ArgumentType {
    /// A whole number of 64 bits, in decimal digits: `0`, `17`, `-3`.
    Integer,
    /// A number with or without a fraction that is the same once it is a floating-point number of 64 bits: `17`, `-0.5`,
    /// `12.50`.
    Number,
    /// `true` or `false`.
    Boolean,
    /// Any text.
    String,
}

impl ArgumentType {
    /// Whether a text is one, written as all servers read it: what some read as a number and others do not (`+5`, ` 5`,
    /// `05`, `0x5`, `5.`, `1e3`, `-0`, `TRUE`), or not as the same one, is none.
    #[must_use]
    pub fn fits(self, text: &str) -> bool {
        match self {
            Self::Integer => is_decimal(text, false) && text.parse::<i64>().is_ok(),
            Self::Number => is_decimal(text, true) && is_float(text),
            Self::Boolean => matches!(text, "true" | "false"),
            Self::String => true,
        }
    }

    /// How it is written, in words.
    #[must_use]
    pub const fn form(self) -> &'static str {
        match self {
            Self::Integer => {
                "decimal digits of at most 64 bits, without `+`, spaces, fractions and zeros in front"
            }
            Self::Number => {
                "decimal digits, with `.` before a fraction, that are the same in 64 bits of floating point, without `+`, spaces, exponents and zeros in front"
            }
            Self::Boolean => "`true` or `false`",
            Self::String => "a text, and no file",
        }
    }
}

impl fmt::Display for ArgumentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::String => "string",
        })
    }
}

/// Whether a text is a number as JSON has it (RFC 8259, 6), without an exponent, and no zero below zero.
fn is_decimal(text: &str, fraction: bool) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, behind) = match rest.split_once('.') {
        Some((whole, behind)) if fraction => (whole, Some(behind)),
        _ => (rest, None),
    };
    let is_zero = rest.bytes().all(|b| matches!(b, b'0' | b'.'));
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && behind.is_none_or(digits)
        && !(negative && is_zero)
}

/// Whether a decimal number is the one that a floating-point number of 64 bits is told as, so that no other number is
/// taken for it: all of at most 15 digits are, and all that programs write of such floats.
fn is_float(text: &str) -> bool {
    let bare = match text.split_once('.') {
        Some(_) => text.trim_end_matches('0').trim_end_matches('.'),
        None => text,
    };
    text.parse::<f64>().is_ok_and(|it| it.to_string() == bare)
}

#[cfg(test)]
mod tests {
    use super::ArgumentType::{Boolean, Integer, Number, String};

    #[test]
    fn what_servers_could_read_in_two_ways_is_of_no_type() {
        let cases = [
            (Integer, "0", true),
            (Integer, "-3", true),
            (Integer, "10", true),
            (Integer, "9223372036854775807", true),
            (Integer, "-9223372036854775808", true),
            (Integer, "9223372036854775808", false),
            (Integer, "-9223372036854775809", false),
            (Integer, "99999999999999999999999999", false),
            (Number, "0", true),
            (Number, "0.5", true),
            (Number, "-12.50", true),
            (Number, "123456789012345", true),
            (Number, "52.52000659999999", true),
            (Number, "0.30000000000000004", true),
            (Number, "9007199254740992", true),
            (Number, "9007199254740993", false),
            (Number, "10.00", true),
            (Number, "100", true),
            (Number, "10.000000000000000001", false),
            (Number, "0.1000000000000000055", false),
            (Number, "0.000000000000001", true),
            (Number, "0.1.2", false),
            (Number, ".5", false),
            (Number, "5.", false),
            (Number, "-.5", false),
            (Number, "-0.0", false),
            (Number, "00.5", false),
            (Boolean, "true", true),
            (Boolean, "false", true),
            (Boolean, "", false),
            (Boolean, "1", false),
            (Boolean, "TRUE", false),
            (Boolean, "True", false),
            (Boolean, "on", false),
            (Boolean, "true ", false),
            (String, "", true),
            (String, "abc", true),
        ];
        for (kind, text, fits) in cases {
            assert_eq!(kind.fits(text), fits, "{kind} {text:?}");
        }
        let none = [
            "",
            "-",
            "+5",
            " 5",
            "5 ",
            "5\n",
            "05",
            "-05",
            "0x5",
            "0b1",
            "0o7",
            "1_000",
            "1,000",
            "1e3",
            "1E3",
            "1e400",
            "-0",
            "--1",
            "5-",
            "abc",
            "NaN",
            "nan",
            "inf",
            "Infinity",
            "null",
            "\u{665}",
            "\u{2212}5",
            "\u{ff15}",
            "5\0",
            "[5]",
            "\"5\"",
            "true",
        ];
        for text in none {
            for kind in [Integer, Number] {
                assert!(!kind.fits(text), "{kind} {text:?}");
            }
        }
        assert!(!Integer.fits("5.0"));
        for (left, zeros) in [("1", 309), ("0.", 400)] {
            let text = format!("{left}{}1", "0".repeat(zeros));
            assert!(!Number.fits(&text), "{text}");
        }
    }
}

//! Types of arguments that are sent as texts: in paths, queries and forms.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most digits of a [`ArgumentType::Number`]: so many are the same in every floating-point number of 64 bits that a
/// server reads them into (IEEE 754, `DBL_DIG`).
const MAX_DIGITS: usize = 15;

/// The type of an argument.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ArgumentType {
    /// A whole number of 64 bits, in decimal digits: `0`, `17`, `-3`.
    Integer,
    /// A number of at most 15 digits, with or without a fraction: `17`, `-0.5`, `12.50`.
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
            Self::Number => {
                let digits = text.bytes().filter(u8::is_ascii_digit).count();
                is_decimal(text, true) && digits <= MAX_DIGITS
            }
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
                "at most 15 decimal digits, with a fraction behind `.` if it has one, without `+`, spaces, exponents and zeros in front"
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
            (Number, "1234567890123456", false),
            (Number, "0.00000000000001", true),
            (Number, "0.000000000000001", false),
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
    }
}

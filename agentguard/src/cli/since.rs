//! `--since`: a time, or how long ago.

use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};

/// A point in the past, as the operator wrote it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Since {
    /// So long before now.
    Ago(SignedDuration),
    /// This time.
    At(Timestamp),
}

impl Since {
    /// The time that is meant; the beginning of time where it would be before that.
    pub(crate) fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or(Timestamp::MIN),
            Self::At(time) => time,
        }
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = text.parse() {
            return Ok(Self::At(time));
        }
        ago(text).map(Self::Ago).ok_or_else(|| {
            "neither how long ago (90s, 10m, 3h, 2d, 1w) nor a time (2026-01-31T12:00:00Z)".into()
        })
    }
}

fn ago(text: &str) -> Option<SignedDuration> {
    let unit = text.chars().last()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        _ => return None,
    };
    let number = text.strip_suffix(unit)?;
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds = number.parse::<i64>().ok()?.checked_mul(seconds)?;
    Some(SignedDuration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::Since;
    use jiff::Timestamp;

    #[test]
    fn ages_and_times() {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        for (text, meant) in [
            ("10m", Some("2026-01-31T11:50:00Z")),
            ("90s", Some("2026-01-31T11:58:30Z")),
            ("2d", Some("2026-01-29T12:00:00Z")),
            ("1w", Some("2026-01-24T12:00:00Z")),
            ("2026-01-01T00:00:00Z", Some("2026-01-01T00:00:00Z")),
            ("2026-01-01T02:00:00+02:00", Some("2026-01-01T00:00:00Z")),
            ("9223372036854775807s", Some("-009999-01-02T01:59:59Z")),
            ("9223372036854775807w", None),
            ("10", None),
            ("-5m", None),
            ("m", None),
            ("yesterday", None),
            ("", None),
        ] {
            let got = text.parse::<Since>().map(|since| since.resolve(now));
            let meant = meant.map(|text| text.parse::<Timestamp>().unwrap());
            assert_eq!(got.ok(), meant, "{text}");
        }
    }
}

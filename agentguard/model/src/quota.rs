//! Quotas: how much of the network an agent may use, whatever it is used for.

use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much of the network an agent may use. The gate holds it to that, on whatever way its packets go.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Quota {
    /// Bytes that leave it in a window, headers of IP included.
    pub bytes_out: Option<u64>,
    /// Bytes that reach it in a window, likewise.
    pub bytes_in: Option<u64>,
    /// For how long bytes count.
    pub every: QuotaWindow,
    /// TCP connections, and flows of datagrams, that it begins.
    pub connections: Option<ConnectionRate>,
}

/// How many connections may begin.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct ConnectionRate {
    /// In a second, over time.
    pub per_second: u32,
    /// At once, after a time without any.
    pub burst: u32,
}

/// For how long bytes count. What has an end begins and ends by the clock, in UTC.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QuotaWindow {
    /// The minute of the clock.
    Minute,
    /// The hour of the clock.
    Hour,
    /// The day, from midnight.
    Day,
    /// The week, from Monday (ISO 8601).
    Week,
    /// The month, from the first.
    Month,
    /// For ever.
    Lifetime,
}

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const WEEK: i64 = 7 * DAY;
/// From the epoch, a Thursday, back to the Monday before it.
const MONDAY: i64 = 3 * DAY;

impl QuotaWindow {
    /// The window in which a moment lies: when it began, and when the next one begins. Neither: there is one for ever,
    /// or the moment is at an end of what a clock can say.
    #[must_use]
    pub fn around(self, moment: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let regular = |length: i64, shift: i64| {
            let into = moment.as_second().checked_add(shift)?.rem_euclid(length);
            let begin = moment.as_second().checked_sub(into)?;
            let end = begin.checked_add(length)?;
            Some((
                Timestamp::from_second(begin).ok()?,
                Timestamp::from_second(end).ok()?,
            ))
        };
        match self {
            Self::Minute => regular(MINUTE, 0),
            Self::Hour => regular(HOUR, 0),
            Self::Day => regular(DAY, 0),
            Self::Week => regular(WEEK, MONDAY),
            Self::Month => {
                let first = moment.to_zoned(TimeZone::UTC).date().first_of_month();
                let next = first.last_of_month().tomorrow().ok()?;
                let midnight = |date: jiff::civil::Date| date.to_zoned(TimeZone::UTC).ok();
                Some((midnight(first)?.timestamp(), midnight(next)?.timestamp()))
            }
            Self::Lifetime => None,
        }
    }
}

impl fmt::Display for QuotaWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

#[cfg(test)]
mod tests {
    use super::QuotaWindow::{self, Day, Hour, Lifetime, Minute, Month, Week};

    fn around(window: QuotaWindow, moment: &str) -> Option<[String; 2]> {
        let (begin, end) = window.around(moment.parse().unwrap())?;
        Some([begin.to_string(), end.to_string()])
    }

    #[test]
    fn windows_are_those_of_the_calendar() {
        for (window, moment, begin, end) in [
            (
                Minute,
                "2026-11-28T13:24:59.9Z",
                "2026-11-28T13:24:00Z",
                "2026-11-28T13:25:00Z",
            ),
            (
                Hour,
                "2026-11-28T13:00:00Z",
                "2026-11-28T13:00:00Z",
                "2026-11-28T14:00:00Z",
            ),
            (
                Day,
                "2026-11-28T23:59:59Z",
                "2026-11-28T00:00:00Z",
                "2026-11-29T00:00:00Z",
            ),
            // A Sunday, and the Monday after it.
            (
                Week,
                "2026-11-29T23:59:59Z",
                "2026-11-23T00:00:00Z",
                "2026-11-30T00:00:00Z",
            ),
            (
                Week,
                "2026-11-30T00:00:00Z",
                "2026-11-30T00:00:00Z",
                "2026-12-07T00:00:00Z",
            ),
            (
                Week,
                "1970-01-01T00:00:00Z",
                "1969-12-29T00:00:00Z",
                "1970-01-05T00:00:00Z",
            ),
            (
                Month,
                "2026-12-31T23:59:59Z",
                "2026-12-01T00:00:00Z",
                "2027-01-01T00:00:00Z",
            ),
            (
                Month,
                "2028-02-29T12:00:00Z",
                "2028-02-01T00:00:00Z",
                "2028-03-01T00:00:00Z",
            ),
        ] {
            assert_eq!(
                around(window, moment),
                Some([begin, end].map(str::to_owned)),
                "{moment}"
            );
        }
        assert_eq!(around(Lifetime, "2026-11-28T13:24:59Z"), None);
        // A clock at its end has no next month.
        assert_eq!(Month.around(jiff::Timestamp::MAX), None);
    }

    #[test]
    fn every_window_is_followed_by_the_next() {
        let mut moment: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for window in [Minute, Hour, Day, Week, Month] {
            for _ in 0..50 {
                let (begin, end) = window.around(moment).unwrap();
                assert!(begin <= moment && moment < end);
                assert_eq!(window.around(begin), Some((begin, end)));
                assert_eq!(window.around(end).unwrap().0, end);
                moment = end;
            }
        }
    }

    #[test]
    fn windows_print_as_they_are_written() {
        let written = [Minute, Hour, Day, Week, Month, Lifetime].map(|it| it.to_string());
        let names = ["minute", "hour", "day", "week", "month", "lifetime"];
        assert_eq!(written, names);
    }
}

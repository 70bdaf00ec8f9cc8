//! When a window begins and ends.

use std::time::Duration;

use agentguard_model::budget::{Budget, Window};
use jiff::civil::{DateTime, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _, Unit, Zoned};

/// From when, and until when, what is charged now counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Period {
    /// The beginning, in milliseconds of the Unix time; 0 where there is none.
    pub(crate) since: i64,
    /// The end, the same way. None: it does not end by the clock.
    pub(crate) until: Option<i64>,
}

impl Period {
    /// Without an end.
    pub(crate) const ENDLESS: Self = Self {
        since: 0,
        until: None,
    };

    pub(crate) fn holds(self, now: i64) -> bool {
        self.since <= now && self.until.is_none_or(|until| now < until)
    }

    /// Of a budget, at this time in milliseconds.
    ///
    /// Minutes and hours are those of UTC. Where a zone skips midnight the day begins with the first moment that it has.
    /// What cannot be computed (times beyond the year 9999, a zone that is none) is one period without
    /// an end: it limits more.
    pub(crate) fn of(budget: &Budget, now: i64) -> Self {
        let zone = budget.zone.as_deref();
        Self::computed(budget.window, zone, now).unwrap_or(Self::ENDLESS)
    }

    fn computed(window: Window, zone: Option<&str>, now: i64) -> Option<Self> {
        let unit = match window {
            Window::Sliding(_) | Window::Lifetime => return Some(Self::ENDLESS),
            Window::Minute => return Some(Self::whole(now, 60_000)),
            Window::Hour => return Some(Self::whole(now, 3_600_000)),
            Window::Day => Unit::Day,
            Window::Week => Unit::Week,
            Window::Month => Unit::Month,
        };
        let zone = match zone {
            None => TimeZone::UTC,
            Some(name) => TimeZone::get(name).ok()?,
        };
        let here = Timestamp::from_millisecond(now).ok()?.to_zoned(zone);
        let (begin, next) = match unit {
            Unit::Day => {
                let begin = here.start_of_day().ok()?;
                let next = begin.tomorrow().ok()?.start_of_day().ok()?;
                (begin, next)
            }
            Unit::Week => {
                let today = here.date();
                let back = today.weekday().since(Weekday::Monday);
                let monday = today.checked_sub(i64::from(back).days()).ok()?;
                let begin = starts(&here, monday.to_datetime(jiff::civil::Time::midnight()))?;
                let following = monday.checked_add(7.days()).ok()?;
                let next = starts(&here, following.to_datetime(jiff::civil::Time::midnight()))?;
                (begin, next)
            }
            _ => {
                let first = here.date().first_of_month();
                let begin = starts(&here, first.to_datetime(jiff::civil::Time::midnight()))?;
                let following = first.checked_add(1.month()).ok()?;
                let next = starts(&here, following.to_datetime(jiff::civil::Time::midnight()))?;
                (begin, next)
            }
        };
        let (since, until) = (
            begin.timestamp().as_millisecond(),
            next.timestamp().as_millisecond(),
        );
        (since <= now && now < until).then_some(Self {
            since,
            until: Some(until),
        })
    }

    fn whole(now: i64, length: i64) -> Self {
        let since = now.div_euclid(length).saturating_mul(length);
        Self {
            since,
            until: Some(since.saturating_add(length)),
        }
    }
}

/// When the window of a budget ends that is under way at this time, in milliseconds of the Unix time. None: it does not
/// end by the clock.
#[must_use]
pub fn ends(budget: &Budget, now: i64) -> Option<i64> {
    Period::of(budget, now).until
}

/// The first moment of a day, in the zone of `here`.
fn starts(here: &Zoned, midnight: DateTime) -> Option<Zoned> {
    let zoned = midnight.to_zoned(here.time_zone().clone()).ok()?;
    zoned.start_of_day().ok()
}

/// How a window is named where accounts are kept: another one is another account.
pub(crate) fn name(budget: &Budget) -> String {
    let zone = budget.zone.as_deref().unwrap_or("UTC");
    match budget.window {
        Window::Minute => "minute".to_owned(),
        Window::Hour => "hour".to_owned(),
        Window::Day => format!("day {zone}"),
        Window::Week => format!("week {zone}"),
        Window::Month => format!("month {zone}"),
        Window::Sliding(length) => format!("sliding {}", millis(length)),
        Window::Lifetime => "lifetime".to_owned(),
    }
}

/// Whether that is a budget's window, without making its name.
pub(crate) fn is_named(budget: &Budget, name: &str) -> bool {
    let zone = budget.zone.as_deref().unwrap_or("UTC");
    let zoned =
        |kind: &str| name.strip_prefix(kind).and_then(|it| it.strip_prefix(' ')) == Some(zone);
    match budget.window {
        Window::Minute => name == "minute",
        Window::Hour => name == "hour",
        Window::Day => zoned("day"),
        Window::Week => zoned("week"),
        Window::Month => zoned("month"),
        Window::Sliding(length) => {
            let named = name.strip_prefix("sliding ").map(str::parse::<i64>);
            named == Some(Ok(millis(length)))
        }
        Window::Lifetime => name == "lifetime",
    }
}

/// The window and the zone of a name that [`name`] has made. None: it has made none such.
pub(crate) fn read_name(name: &str) -> Option<(Window, Option<&str>)> {
    let (kind, rest) = match name.split_once(' ') {
        Some((kind, rest)) => (kind, Some(rest)),
        None => (name, None),
    };
    Some(match (kind, rest) {
        ("minute", None) => (Window::Minute, None),
        ("hour", None) => (Window::Hour, None),
        ("lifetime", None) => (Window::Lifetime, None),
        ("day", Some(zone)) => (Window::Day, Some(zone)),
        ("week", Some(zone)) => (Window::Week, Some(zone)),
        ("month", Some(zone)) => (Window::Month, Some(zone)),
        ("sliding", Some(length)) => {
            let length = Duration::from_millis(length.parse().ok()?);
            (Window::Sliding(length), None)
        }
        _ => return None,
    })
}

/// In milliseconds, at least one.
pub(crate) fn millis(length: Duration) -> i64 {
    i64::try_from(length.as_millis()).unwrap_or(i64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use agentguard_model::budget::{Budget, Reached, Unit, Window};
    use jiff::Timestamp;

    use super::Period;

    fn budget(window: Window, zone: Option<&str>) -> Budget {
        Budget {
            id: "a".into(),
            unit: Unit::Calls,
            limit: 1,
            window,
            zone: zone.map(Into::into),
            per: Box::default(),
            reached: Reached::Deny,
            on_loss: None,
        }
    }

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().expect("a time").as_millisecond()
    }

    #[test]
    fn windows_begin_where_the_calendar_says() {
        let cases = [
            (
                Window::Minute,
                None,
                "2026-11-28T10:20:30Z",
                "2026-11-28T10:20:00Z",
                "2026-11-28T10:21:00Z",
            ),
            (
                Window::Hour,
                None,
                "2026-11-28T10:20:30Z",
                "2026-11-28T10:00:00Z",
                "2026-11-28T11:00:00Z",
            ),
            (
                Window::Day,
                None,
                "2026-11-28T10:20:30Z",
                "2026-11-28T00:00:00Z",
                "2026-11-29T00:00:00Z",
            ),
            (
                Window::Day,
                Some("Europe/Berlin"),
                "2026-11-28T23:20:30Z",
                "2026-11-28T23:00:00Z",
                "2026-11-29T23:00:00Z",
            ),
            // 23 and 25 hours.
            (
                Window::Day,
                Some("Europe/Berlin"),
                "2026-03-29T10:00:00Z",
                "2026-03-28T23:00:00Z",
                "2026-03-29T22:00:00Z",
            ),
            (
                Window::Day,
                Some("Europe/Berlin"),
                "2026-10-25T10:00:00Z",
                "2026-10-24T22:00:00Z",
                "2026-10-25T23:00:00Z",
            ),
            // No midnight on that day.
            (
                Window::Day,
                Some("America/Asuncion"),
                "2024-10-06T10:00:00Z",
                "2024-10-06T04:00:00Z",
                "2024-10-07T03:00:00Z",
            ),
            (
                Window::Week,
                None,
                "2026-11-29T10:00:00Z",
                "2026-11-23T00:00:00Z",
                "2026-11-30T00:00:00Z",
            ),
            (
                Window::Week,
                None,
                "2026-11-23T00:00:00Z",
                "2026-11-23T00:00:00Z",
                "2026-11-30T00:00:00Z",
            ),
            // A week of 167 hours, and one of 169.
            (
                Window::Week,
                Some("Europe/Berlin"),
                "2026-03-29T10:00:00Z",
                "2026-03-22T23:00:00Z",
                "2026-03-29T22:00:00Z",
            ),
            (
                Window::Week,
                Some("Europe/Berlin"),
                "2026-10-25T22:59:59Z",
                "2026-10-18T22:00:00Z",
                "2026-10-25T23:00:00Z",
            ),
            // Months with an hour less, and with one more.
            (
                Window::Month,
                Some("Europe/Berlin"),
                "2026-03-31T21:59:59Z",
                "2026-02-28T23:00:00Z",
                "2026-03-31T22:00:00Z",
            ),
            (
                Window::Month,
                Some("America/New_York"),
                "2026-11-01T12:00:00Z",
                "2026-11-01T04:00:00Z",
                "2026-12-01T05:00:00Z",
            ),
            (
                Window::Month,
                Some("Asia/Tokyo"),
                "2026-01-31T15:00:00Z",
                "2026-01-31T15:00:00Z",
                "2026-02-28T15:00:00Z",
            ),
        ];
        for (window, zone, now, since, until) in cases {
            let period = Period::of(&budget(window, zone), at(now));
            let wanted = Period {
                since: at(since),
                until: Some(at(until)),
            };
            assert_eq!(period, wanted, "{window:?} {zone:?} {now}");
        }
    }

    #[test]
    fn each_moment_is_in_its_own_period() {
        let zones = [None, Some("Europe/Berlin"), Some("Australia/Lord_Howe")];
        let windows = [
            Window::Minute,
            Window::Hour,
            Window::Day,
            Window::Week,
            Window::Month,
        ];
        for zone in zones {
            for window in windows {
                let budget = budget(window, zone);
                let mut now = at("2026-01-01T00:00:00Z");
                while now < at("2027-01-01T00:00:00Z") {
                    let period = Period::of(&budget, now);
                    assert!(period.holds(now), "{window:?} {zone:?} {now}");
                    let until = period.until.expect("an end");
                    assert_eq!(Period::of(&budget, until - 1), period);
                    assert_eq!(
                        Period::of(&budget, until).since,
                        until,
                        "{window:?} {zone:?}"
                    );
                    now = until.min(now + 29 * 3_600_000);
                }
            }
        }
    }

    #[test]
    fn the_name_of_a_window_is_read_as_it_was_written() {
        let sliding = Window::Sliding(std::time::Duration::from_secs(90));
        for (window, zone) in [
            (Window::Minute, None),
            (Window::Hour, None),
            (Window::Day, Some("Europe/Berlin")),
            (Window::Week, Some("UTC")),
            (Window::Month, Some("Asia/Tokyo")),
            (sliding, None),
            (Window::Lifetime, None),
        ] {
            let name = super::name(&budget(window, zone));
            assert_eq!(super::read_name(&name), Some((window, zone)), "{name}");
        }
        for name in ["", "day", "minute UTC", "sliding x", "year UTC"] {
            assert_eq!(super::read_name(name), None, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_computed_does_not_end() {
        assert_eq!(
            Period::of(&budget(Window::Day, None), i64::MAX),
            Period::ENDLESS
        );
        let nowhere = budget(Window::Day, Some("Nowhere/Land"));
        assert_eq!(Period::of(&nowhere, 0), Period::ENDLESS);
    }
}

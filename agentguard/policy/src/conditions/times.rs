//! Windows of time: days of the week and hours, in a time zone.

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// The minutes of a day.
const DAY: u16 = 24 * 60;

/// When a rule holds. Whether clocks go forward or back is the zone's: a window from 02:00 to 03:00 is not
/// there on one day and there twice on another.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Times {
    days: Days,
    /// From one minute of the day up to another, which is not in it. The second is not above the first
    /// where the window goes on after midnight: that belongs to the day on which it began.
    hours: Vec<(u16, u16)>,
    zone: TimeZone,
}

/// Days of the week, Monday first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Days([bool; 7]);

/// As documents name them.
const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Days {
    pub(crate) const ALL: Self = Self([true; 7]);
    pub(crate) const NONE: Self = Self([false; 7]);

    /// Adds a day (`mon`) or a run of days (`mon-fri`, `sat-mon`); false where it is neither.
    pub(crate) fn add(&mut self, text: &str) -> bool {
        let number = |name: &str| NAMES.iter().position(|it| *it == name.trim());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (Some(first), Some(last)) = (number(first), number(last)) else {
            return false;
        };
        // To the end of the week and from its beginning, where it goes over that.
        let length = (last + 7 - first) % 7;
        for day in (0..=length).map(|n| (first + n) % 7) {
            if let Some(day) = self.0.get_mut(day) {
                *day = true;
            }
        }
        true
    }

    fn have(self, day: Weekday) -> bool {
        let number = usize::try_from(day.to_monday_zero_offset()).unwrap_or_default();
        self.0.get(number).copied().unwrap_or_default()
    }
}

/// `08:00-18:00`: from one minute of the day up to another.
pub(crate) fn hours(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (minute(first)?, minute(last)?);
    (first < DAY && first != last).then_some((first, last))
}

/// `HH:MM`, up to `24:00`.
fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let number = |text: &str| {
        let digits = text.len() == 2 && text.bytes().all(|it| it.is_ascii_digit());
        digits.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY).then_some(minute)
}

impl Times {
    /// No `hours`: all day.
    pub(crate) fn new(days: Days, hours: Vec<(u16, u16)>, zone: TimeZone) -> Self {
        Self { days, hours, zone }
    }

    /// Whether there is no moment at which they do not hold.
    pub(crate) fn are_always(&self) -> bool {
        self.days == Days::ALL && self.are_all_day()
    }

    /// Whether they hold on a day of theirs from its beginning to its end.
    pub(crate) fn are_all_day(&self) -> bool {
        let mut windows = Vec::new();
        for (first, last) in &self.hours {
            if first < last {
                windows.push((*first, *last));
            } else {
                // What is behind midnight is the next day's, of which it is a day only where all are.
                windows.push((*first, DAY));
                if self.days == Days::ALL {
                    windows.push((0, *last));
                }
            }
        }
        windows.sort_unstable();
        let ends = windows.into_iter().try_fold(0, |end, (first, last)| {
            (first <= end).then(|| last.max(end))
        });
        self.hours.is_empty() || ends == Some(DAY)
    }

    pub(crate) fn contain(&self, time: Timestamp) -> bool {
        let here = time.to_zoned(self.zone.clone());
        let minute =
            u16::from(here.hour().unsigned_abs()) * 60 + u16::from(here.minute().unsigned_abs());
        let today = self.days.have(here.weekday());
        if self.hours.is_empty() {
            return today;
        }
        self.hours.iter().any(|(first, last)| {
            if first < last {
                today && (*first..*last).contains(&minute)
            } else {
                today && minute >= *first
                    || self.days.have(here.weekday().previous()) && minute < *last
            }
        })
    }

    /// A moment after `time` up to which [`Self::contain`] says the same.
    pub(crate) fn next_change(&self, time: Timestamp) -> Timestamp {
        let here = time.to_zoned(self.zone.clone());
        let next = [here.date(), here.date().saturating_add(1.day())]
            .into_iter()
            .flat_map(|date| self.edges(date))
            .filter(|edge| *edge > time)
            .min();
        // There is a midnight tomorrow, but at the end of time.
        next.unwrap_or(Timestamp::MAX)
    }

    /// Where something may change on a day, also by clocks that are set.
    fn edges(&self, date: Date) -> Vec<Timestamp> {
        let minutes = self.hours.iter().flat_map(|(first, last)| [*first, *last]);
        // Where clocks are set back, a time of day comes twice.
        let at = |minute: u16| -> Option<[Timestamp; 2]> {
            let (hour, minute) = (minute % DAY / 60, minute % 60);
            let time =
                Time::new(i8::try_from(hour).ok()?, i8::try_from(minute).ok()?, 0, 0).ok()?;
            let there = self.zone.to_ambiguous_timestamp(date.to_datetime(time));
            Some([there.earlier().ok()?, there.later().ok()?])
        };
        let mut edges: Vec<_> = minutes.chain([0]).filter_map(at).flatten().collect();
        if let Ok(midnight) = date
            .to_datetime(Time::midnight())
            .to_zoned(self.zone.clone())
        {
            let mut set = self.zone.following(midnight.timestamp());
            edges.extend(set.next().map(|it| it.timestamp()));
        }
        edges
    }
}

#[cfg(test)]
mod tests {
    use super::{Days, Times, hours};
    use jiff::tz::TimeZone;
    use jiff::{Timestamp, ToSpan};
    use proptest::prelude::*;

    fn times(days: &str, windows: &[&str], zone: &str) -> Times {
        let mut of = Days::NONE;
        for day in days.split(',') {
            assert!(of.add(day), "{day}");
        }
        let windows = windows.iter().map(|it| hours(it).unwrap()).collect();
        Times::new(of, windows, TimeZone::get(zone).unwrap())
    }

    #[test]
    fn windows_are_those_of_their_zone_and_begin_on_their_day() {
        // 2026-06-05 is a Friday; Berlin is two hours ahead of UTC then.
        for (days, windows, zone, time, contained) in [
            (
                "mon-fri",
                &["08:00-18:00"][..],
                "Europe/Berlin",
                "2026-06-05T06:00:00Z",
                true,
            ),
            (
                "mon-fri",
                &["08:00-18:00"],
                "Europe/Berlin",
                "2026-06-05T05:59:59Z",
                false,
            ),
            (
                "mon-fri",
                &["08:00-18:00"],
                "Europe/Berlin",
                "2026-06-05T15:59:59Z",
                true,
            ),
            (
                "mon-fri",
                &["08:00-18:00"],
                "Europe/Berlin",
                "2026-06-05T16:00:00Z",
                false,
            ),
            (
                "mon-fri",
                &["08:00-18:00"],
                "Europe/Berlin",
                "2026-06-06T10:00:00Z",
                false,
            ),
            // In winter it is one hour.
            (
                "mon-fri",
                &["08:00-18:00"],
                "Europe/Berlin",
                "2026-12-04T06:30:00Z",
                false,
            ),
            ("fri", &["22:00-06:00"], "UTC", "2026-06-05T22:00:00Z", true),
            ("fri", &["22:00-06:00"], "UTC", "2026-06-06T05:59:00Z", true),
            (
                "fri",
                &["22:00-06:00"],
                "UTC",
                "2026-06-05T05:00:00Z",
                false,
            ),
            (
                "fri",
                &["22:00-06:00"],
                "UTC",
                "2026-06-06T22:00:00Z",
                false,
            ),
            ("sat-mon", &[], "UTC", "2026-06-07T12:00:00Z", true),
            ("sat-mon", &[], "UTC", "2026-06-09T00:00:00Z", false),
            ("fri", &["12:00-24:00"], "UTC", "2026-06-05T23:59:59Z", true),
            (
                "fri",
                &["12:00-24:00"],
                "UTC",
                "2026-06-06T00:00:00Z",
                false,
            ),
        ] {
            let time: Timestamp = time.parse().unwrap();
            let times = times(days, windows, zone);
            assert_eq!(
                times.contain(time),
                contained,
                "{days} {windows:?} {zone} {time}"
            );
        }
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for text in [
            "",
            "8:00-9:00",
            "08:00",
            "08:00-08:00",
            "24:00-08:00",
            "08:60-09:00",
            "08:00-24:01",
            "+8:00-09:00",
            "08:00-09:00-10:00",
        ] {
            assert_eq!(hours(text), None, "{text}");
        }
        for text in ["", "monday", "mon-", "fri-mo", "MON", "mon-tue-wed"] {
            assert!(!Days::NONE.clone().add(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_changes_before_the_next_change(
            seconds in 1_700_000_000i64..1_800_000_000, step in 0.0f64..1.0,
            zone in prop::sample::select(&["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"][..]),
            windows in prop::sample::subsequence(&["08:00-18:00", "22:00-06:00", "02:15-02:45", "23:00-24:00"][..], 0..4),
            days in prop::sample::select(&["mon-fri", "sat", "sun-mon"][..]),
        ) {
            let times = times(days, &windows, zone);
            let time = Timestamp::from_second(seconds).unwrap();
            let next = times.next_change(time);
            prop_assert!(next > time && next <= time + 25.hours());
            let length = next.as_second() - seconds;
            #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a day has few seconds")]
            let between = (length as f64 * step) as i64;
            let between = Timestamp::from_second(seconds + between.min(length - 1)).unwrap();
            prop_assert_eq!(times.contain(time), times.contain(between), "{} {} {}", time, between, next);
        }
    }
}

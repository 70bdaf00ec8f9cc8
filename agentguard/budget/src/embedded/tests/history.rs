//! What is kept of when something was used, in this window and in those that ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use agentguard_model::budget::{Budget, Dimension, Unit, Window};
use tempfile::TempDir;

use super::{NOW, budget, charge, killed, open, want};
use crate::Forecast;
use crate::embedded::Embedded;
use crate::forecast::{Basis, Counts, Course, Ended, Spread};
use crate::ledger::Ledger as _;
use crate::period::Period;
use crate::scope::Scope;

/// One call that uses so much of this budget, at this time.
fn uses(ledger: &Embedded, budget: &Arc<Budget>, agent: &str, used: u64, at: i64) {
    let one = ledger.reserves(&want(vec![charge(budget, agent, 0, 0)], 0, 0), at);
    ledger.settle(one.expect("room").id, Some(&[used]), at);
}

fn agent(name: &str) -> Scope {
    Scope::of([(&Dimension::Agent, name)])
}

#[test]
fn windows_that_ended_are_history_over_checkpoints_and_deaths() {
    const HOUR: i64 = 3_600_000;
    let mut directory = TempDir::new().expect("a directory");
    let mut ledger = open(directory.path(), NOW);
    let tokens = budget("t", Unit::Tokens, 1_000_000, Window::Hour);
    let wanted = |hours: i64| -> Vec<(i64, u64, u64)> {
        let of = |hour: i64| (NOW + hour * HOUR, 100 + hour.unsigned_abs(), 40);
        (0..hours).rev().map(of).collect()
    };
    for hour in 0..8 {
        let begin = NOW + hour * HOUR;
        // Half an hour in, and at the end.
        uses(
            &ledger,
            &tokens,
            "a",
            60 + hour.unsigned_abs(),
            begin + HOUR / 2,
        );
        uses(&ledger, &tokens, "b", 1, begin + HOUR / 2);
        uses(&ledger, &tokens, "a", 40, begin + HOUR - 1);
        let end = begin + HOUR;
        // Whatever happens between one hour and the next.
        match hour % 4 {
            0 => {
                ledger.shared.checkpoint(end).expect("a checkpoint");
                ledger.shared.checkpoint(end).expect("a checkpoint");
            }
            1 => {
                let next = killed(&directory);
                ledger = open(next.path(), end);
                directory = next;
            }
            2 => {
                ledger.shared.checkpoint(end).expect("a checkpoint");
                let next = killed(&directory);
                ledger = open(next.path(), end);
                directory = next;
            }
            _ => {}
        }
        let ended = ledger.ended(&tokens, &agent("a"), 100, end).expect("read");
        let found = ended.iter().map(|it| {
            assert_eq!(it.until, it.since + HOUR);
            assert_eq!(it.parts.len(), 48, "{it:?}");
            assert_eq!(it.parts[24] + it.parts[47], it.used);
            (it.since, it.used, it.parts[47])
        });
        assert_eq!(found.collect::<Vec<_>>(), wanted(hour + 1));
    }
    let now = NOW + 8 * HOUR;
    assert_eq!(
        ledger
            .ended(&tokens, &agent("a"), 3, now)
            .expect("read")
            .len(),
        3
    );
    assert_eq!(
        ledger.ended(&tokens, &agent("c"), 3, now).expect("read"),
        []
    );
    let day = budget("t", Unit::Tokens, 1_000_000, Window::Day);
    assert_eq!(ledger.ended(&day, &agent("a"), 3, now).expect("read"), []);
}

#[test]
fn what_a_window_held_when_the_process_died_is_added_to_it_after_its_end() {
    for checkpoint in [false, true] {
        let directory = TempDir::new().expect("a directory");
        let ledger = open(directory.path(), NOW);
        let tokens = budget("t", Unit::OutputTokens, 1000, Window::Hour);
        uses(&ledger, &tokens, "a", 30, NOW);
        ledger.shared.checkpoint(NOW).expect("a checkpoint");
        let want = want(vec![charge(&tokens, "a", 0, 1_000_000)], 50, 1);
        ledger.reserves(&want, NOW).expect("room");
        if checkpoint {
            ledger.shared.checkpoint(NOW).expect("a checkpoint");
        }
        let later = NOW + 2 * 3_600_000;
        let next = killed(&directory);
        // Twice: it is added once.
        for _ in 0..2 {
            let ledger = open(next.path(), later);
            let ended = ledger.ended(&tokens, &agent("a"), 9, later).expect("read");
            assert_eq!(ended.iter().map(|it| it.used).collect::<Vec<_>>(), [80]);
            assert!(ledger.accounts(later).is_empty());
        }
    }
}

#[test]
fn a_clock_that_goes_back_adds_to_what_is_history() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let tokens = budget("t", Unit::Tokens, 1000, Window::Hour);
    let next = NOW + 3_600_000;
    uses(&ledger, &tokens, "a", 30, NOW);
    for used in [5, 7] {
        ledger.shared.checkpoint(next).expect("a checkpoint");
        ledger.shared.checkpoint(next).expect("a checkpoint");
        uses(&ledger, &tokens, "a", used, NOW + 1);
    }
    ledger.shared.checkpoint(next).expect("a checkpoint");
    ledger.shared.checkpoint(next).expect("a checkpoint");
    let ended = ledger.ended(&tokens, &agent("a"), 9, next).expect("read");
    assert_eq!((ended.len(), ended[0].used, ended[0].parts[0]), (1, 42, 42));
}

#[test]
fn history_is_bounded() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let minutes = budget("m", Unit::Tokens, 1000, Window::Minute);
    let days = budget("d", Unit::Tokens, 1000, Window::Day);
    for minute in 0..300 {
        uses(&ledger, &minutes, "a", 1, NOW + minute * 60_000);
    }
    uses(&ledger, &days, "a", 1, NOW);
    let later = NOW + 24 * 3_600_000;
    ledger.shared.checkpoint(later).expect("a checkpoint");
    ledger.shared.checkpoint(later).expect("a checkpoint");
    let count = |budget, now| {
        ledger
            .ended(budget, &agent("a"), 1000, now)
            .expect("read")
            .len()
    };
    assert_eq!((count(&minutes, later), count(&days, later)), (300, 1));
    // Of minutes four hours.
    let store = &ledger.shared.store;
    store.sweep(NOW + 300 * 60_000).expect("swept");
    assert_eq!((count(&minutes, later), count(&days, later)), (240, 1));
    // The oldest go where there are too many: that day began before them.
    store.sweep_to(NOW + 300 * 60_000, 240).expect("swept");
    assert_eq!((count(&minutes, later), count(&days, later)), (217, 0));
    store.sweep(NOW + 401 * 86_400_000).expect("swept");
    assert_eq!(count(&minutes, later), 0);
}

#[test]
fn a_lifetime_is_told_in_minutes_and_then_in_hours() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let tokens = budget("t", Unit::Tokens, 1_000_000, Window::Lifetime);
    let spread = |now| {
        let course = ledger.course(&tokens, &agent("a"), now).expect("read");
        course.expect("a course").spread
    };
    let begins = NOW.div_euclid(60_000) * 60_000;
    for minute in 0..168 {
        uses(&ledger, &tokens, "a", 1, begins + minute * 60_000);
    }
    let minutes = spread(NOW + 168 * 60_000);
    assert_eq!((minutes.since, minutes.part), (begins, 60_000));
    assert_eq!(minutes.amounts, vec![1; 168]);
    for minute in 168..30 * 24 * 60 {
        if minute % 10 == 0 {
            uses(&ledger, &tokens, "a", 10, begins + minute * 60_000);
        }
    }
    let now = begins + 30 * 24 * 3_600_000;
    let hours = spread(now);
    assert_eq!(hours.part, 64 * 60_000);
    assert!(
        (168..=169).contains(&hours.amounts.len()),
        "{}",
        hours.amounts.len()
    );
    let inner = &hours.amounts[1..hours.amounts.len() - 1];
    assert!(inner.iter().all(|it| (60..=70).contains(it)), "{inner:?}");
    let course = ledger
        .course(&tokens, &agent("a"), now)
        .expect("read")
        .expect("a course");
    assert_eq!((course.used, course.begin), (168 + 4303 * 10, begins));
    let forecast = Forecast::of(&course).expect("a forecast");
    assert!(
        (59..=61).contains(&forecast.burn_rate.recent),
        "{forecast:?}"
    );
}

#[test]
fn a_budget_is_forecast_from_its_ledger() {
    const DAY: i64 = 86_400_000;
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let tokens = budget("t", Unit::Tokens, 1_000_000, Window::Day);
    let midnight = NOW.div_euclid(DAY) * DAY;
    for day in 0..6 {
        for hour in 9..17 {
            uses(
                &ledger,
                &tokens,
                "a",
                100,
                midnight + day * DAY + hour * 3_600_000,
            );
        }
        ledger
            .shared
            .checkpoint(midnight + (day + 1) * DAY)
            .expect("a checkpoint");
    }
    // At dawn of a day on which nothing was used.
    let now = midnight + 6 * DAY + 6 * 3_600_000;
    let course = ledger
        .course(&tokens, &agent("a"), now)
        .expect("read")
        .expect("a course");
    let forecast = Forecast::of(&course).expect("a forecast");
    assert_eq!(forecast.basis, Basis::Seasonal { windows: 5 });
    assert_eq!(forecast.at_end.expect("an end").expected, 800);
    let other = ledger
        .course(&tokens, &agent("b"), now)
        .expect("read")
        .expect("a course");
    assert_eq!(Forecast::of(&other), None);
    let calls = budget("c", Unit::ConcurrentCalls, 2, Window::Day);
    assert!(
        ledger
            .course(&calls, &agent("a"), now)
            .expect("read")
            .is_none()
    );
}

/// Since when, how much, when, and the windows that ended.
type Told = (i64, u64, Vec<(i64, u64)>, Vec<Ended>);

/// What a course says, but for parts in which nothing was used.
fn told(course: &Course) -> Told {
    let some = |amounts: &[u64]| {
        let end = amounts
            .iter()
            .rposition(|it| *it > 0)
            .map_or(0, |it| it + 1);
        amounts[..end].to_vec()
    };
    let parts = course.spread.parts().filter(|(_, amount)| *amount > 0);
    let ended = course.ended.iter().map(|it| Ended {
        parts: some(&it.parts),
        ..*it
    });
    let mut ended: Vec<_> = ended.collect();
    ended.sort_by_key(|it| it.since);
    (course.begin, course.used, parts.collect(), ended)
}

/// The course of an account by what it was charged, and nothing else: sums by the beginnings of windows and of their parts.
fn summed(budget: &Budget, charged: &[(i64, u64)], now: i64) -> Course {
    type Sums = BTreeMap<i64, u64>;
    const SLIDING: i64 = 120_000;
    let mut windows: BTreeMap<(i64, i64), Sums> = BTreeMap::new();
    let mut parts = Sums::new();
    for (at, used) in charged {
        let window = Period::of(budget, *at);
        if let Some(until) = window.until {
            let (since, part) = (window.since, (until - window.since + 47) / 48);
            let begins = since + (at - since) / part * part;
            let sums = windows.entry((since, until)).or_default();
            *sums.entry(begins).or_default() += used;
        }
        *parts.entry(at / SLIDING * SLIDING).or_default() += used;
    }
    let spread = |since: i64, part: i64, sums: &Sums| {
        let last = sums.last_key_value().map_or(since, |(begins, _)| *begins);
        let all = (0..=(last - since) / part).map(|number| since + number * part);
        let amounts = all.map(|begins| sums.get(&begins).copied().unwrap_or(0));
        let amounts = amounts.collect();
        Spread {
            since,
            part,
            amounts,
        }
    };
    let course = Course {
        limit: budget.limit,
        begin: charged[0].0,
        counts: Counts::For(60 * SLIDING),
        now,
        used: 0,
        held: 0,
        spread: Spread::default(),
        ended: Vec::new(),
    };
    let current = Period::of(budget, now);
    let Some(until) = current.until else {
        // A part counts until it has gone by as a whole; as many again are told.
        let oldest = now / SLIDING * SLIDING - 60 * SLIDING;
        let told: Sums = parts.split_off(&(oldest - 60 * SLIDING));
        return Course {
            used: told.range(oldest..).map(|(_, used)| used).sum(),
            spread: spread(*told.keys().next().expect("one"), SLIDING, &told),
            ..course
        };
    };
    let ended = |(since, until): (i64, i64), sums: &Sums| Ended {
        since,
        until,
        used: sums.values().sum(),
        parts: spread(since, (until - since + 47) / 48, sums).amounts,
    };
    let this = ended(
        (current.since, until),
        &windows.remove(&(current.since, until)).unwrap_or_default(),
    );
    Course {
        begin: this.since,
        counts: Counts::Until(until),
        used: this.used,
        spread: Spread {
            since: this.since,
            part: (until - this.since + 47) / 48,
            amounts: this.parts,
        },
        ended: windows.iter().map(|(at, sums)| ended(*at, sums)).collect(),
        ..course
    }
}

#[test]
fn a_ledger_tells_when_what_was_used_was_used() {
    let windows = [
        Window::Hour,
        Window::Day,
        Window::Week,
        Window::Month,
        Window::Sliding(std::time::Duration::from_secs(7200)),
    ];
    for window in windows {
        let directory = TempDir::new().expect("a directory");
        let ledger = open(directory.path(), NOW);
        let tokens = Arc::new(Budget {
            zone: Some("Europe/Berlin".into()),
            ..(*budget("t", Unit::Tokens, u64::MAX, window)).clone()
        });
        // Over some days, with a gap.
        let mut charged: BTreeMap<&str, Vec<(i64, u64)>> = BTreeMap::new();
        let mut at = NOW;
        for number in 0..600_u64 {
            at += 7 * 60_000 + i64::try_from(number % 13).expect("a number") * 61_000;
            if number == 300 {
                at += 3 * 86_400_000;
            }
            let name = if number % 3 == 0 { "a" } else { "b" };
            uses(&ledger, &tokens, name, number + 1, at);
            charged.entry(name).or_default().push((at, number + 1));
        }
        let now = at + 1;
        for (name, charged) in charged {
            let found = ledger
                .course(&tokens, &agent(name), now)
                .expect("read")
                .expect("a course");
            let wanted = summed(&tokens, &charged, now);
            assert_eq!(told(&found), told(&wanted), "{window:?} {name}");
            assert_eq!(
                (found.limit, found.counts, found.held),
                (u64::MAX, wanted.counts, 0)
            );
            let (found, wanted) = (Forecast::of(&found), Forecast::of(&wanted));
            assert!(wanted.is_some(), "{window:?}");
            assert_eq!(found, wanted, "{window:?} {name}");
        }
    }
}

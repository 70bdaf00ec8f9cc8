use proptest::prelude::*;

use super::{Basis, Counts, Course, Ended, Estimate, Forecast, PARTS, Spread};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
const HALF: i64 = HOUR / 2;
/// 2026-11-23T00:00:00Z, a Monday.
const MONDAY: i64 = 1_795_392_000_000;

/// Numbers that look like chance, the same for each seed.
struct Chance(u64);

impl Chance {
    /// Between 0 and 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// What some calls use, `rate` of them on the mean, each of some size.
    fn calls(&mut self, rate: f64) -> u64 {
        let (mut sum, mut product) = (0, self.next());
        while product > (-rate).exp() {
            product *= self.next();
            sum += super::number::amount(100.0 - 400.0 * self.next().ln());
        }
        sum
    }
}

fn count(amounts: &[u64]) -> i64 {
    i64::try_from(amounts.len()).expect("few")
}

/// A day from Monday, with what was used in its parts until `parts` of them are over.
fn day(number: i64, amounts: &[u64]) -> Course {
    let begin = MONDAY + number * DAY;
    Course {
        limit: u64::MAX,
        begin,
        counts: Counts::Until(begin + DAY),
        now: begin + count(amounts) * HALF,
        used: amounts.iter().sum(),
        held: 0,
        spread: Spread {
            since: begin,
            part: HALF,
            amounts: amounts.to_vec(),
        },
        ended: Vec::new(),
    }
}

fn ended(number: i64, parts: Vec<u64>) -> Ended {
    Ended {
        since: MONDAY + number * DAY,
        until: MONDAY + (number + 1) * DAY,
        used: parts.iter().sum(),
        parts,
    }
}

fn at_end(course: &Course) -> Estimate {
    let forecast = Forecast::of(course).expect("a forecast");
    forecast.at_end.expect("an end")
}

#[test]
fn nothing_is_said_where_nothing_can_be() {
    assert_eq!(Forecast::of(&day(0, &[0; 20])), None, "nothing was used");
    assert_eq!(Forecast::of(&day(0, &[7; 3])), None, "just begun");
    assert!(Forecast::of(&day(0, &[7; 4])).is_some());
    // Nobody knows whether there would have been something before the first call.
    let mut late = day(0, &[0; 20]);
    late.spread.amounts[18..].fill(5);
    late.used = 10;
    assert_eq!(Forecast::of(&late), None);
    // But once a day was seen as a whole.
    late.ended = vec![ended(-1, vec![1; PARTS])];
    assert!(Forecast::of(&late).is_some());
    let over = Course {
        now: MONDAY + DAY,
        ..day(0, &[7; 20])
    };
    assert_eq!(Forecast::of(&over), None, "over");
    let early = Course {
        now: MONDAY - 1,
        ..day(0, &[7; 20])
    };
    assert_eq!(Forecast::of(&early), None, "a clock that went back");
}

#[test]
fn an_even_rate_goes_on() {
    let course = Course {
        limit: 300,
        ..day(0, &[10; 24])
    };
    let forecast = Forecast::of(&course).expect("a forecast");
    assert_eq!(forecast.basis, Basis::Recent);
    assert_eq!(
        (forecast.burn_rate.recent, forecast.burn_rate.window),
        (20, 20)
    );
    let end = forecast.at_end.expect("an end");
    assert_eq!(end.expected, 480);
    assert!(
        end.low < 480 && end.high > 480 && end.high - end.low < 60,
        "{end:?}"
    );
    let reached = forecast.exhausted.expect("it is reached");
    assert_eq!(reached.at, Some(course.now + 3 * HOUR));
    assert!(reached.earliest > course.now + 2 * HOUR);
    assert!(reached.latest.expect("a time") < course.now + 4 * HOUR);
    let enough = Course {
        limit: 1000,
        ..course.clone()
    };
    assert_eq!(Forecast::of(&enough).expect("a forecast").exhausted, None);
    // What is held may be used, and then there is nothing left now.
    let held = Course {
        held: 60,
        ..course.clone()
    };
    let reached = Forecast::of(&held).expect("a forecast").exhausted;
    let reached = reached.expect("it is reached");
    assert_eq!(
        (reached.earliest, reached.at),
        (course.now, Some(course.now + 3 * HOUR))
    );
}

#[test]
fn a_sliding_window_forgets_what_it_gains() {
    let course = |limit, amounts: &[u64]| Course {
        limit,
        begin: MONDAY,
        counts: Counts::For(HOUR),
        now: MONDAY + count(amounts) * 60_000,
        used: amounts.iter().rev().take(60).sum(),
        held: 0,
        spread: Spread {
            since: MONDAY,
            part: 60_000,
            amounts: amounts.to_vec(),
        },
        ended: Vec::new(),
    };
    // It never has more than of an hour.
    let even = Forecast::of(&course(700, &[10; 100])).expect("a forecast");
    assert_eq!(even.at_end.expect("an end").expected, 600);
    assert_eq!(even.exhausted.and_then(|it| it.at), None);
    // Half an hour that goes on fills it.
    let rising = Forecast::of(&course(450, &[10; 30])).expect("a forecast");
    let reached = rising.exhausted.expect("it is reached");
    assert_eq!(reached.at, Some(MONDAY + 45 * 60_000));
}

#[test]
fn what_never_ends_is_told_no_further_than_it_was_seen() {
    let course = |limit| Course {
        limit,
        begin: MONDAY,
        counts: Counts::Always,
        now: MONDAY + 10 * HOUR,
        used: 100,
        held: 0,
        spread: Spread {
            since: MONDAY,
            part: HOUR,
            amounts: vec![10; 10],
        },
        ended: Vec::new(),
    };
    let near = Forecast::of(&course(200)).expect("a forecast");
    assert_eq!(near.at_end, None);
    let at = near.exhausted.and_then(|it| it.at).expect("a time");
    assert!((at - MONDAY - 20 * HOUR).abs() < HOUR, "{at}");
    let far = Forecast::of(&course(100_000)).expect("a forecast");
    assert_eq!(far.exhausted, None);
}

#[test]
fn time_passes_as_fast_as_ever() {
    let forecast = Forecast::of_time(60_000, 20_000, MONDAY, None);
    assert_eq!(
        forecast.exhausted.and_then(|it| it.at),
        Some(MONDAY + 40_000)
    );
    assert_eq!(forecast.burn_rate.recent, 3_600_000);
    let enough = Forecast::of_time(60_000, 20_000, MONDAY, Some(MONDAY + 10_000));
    assert_eq!(
        (enough.exhausted, enough.at_end.map(|it| it.expected)),
        (None, Some(30_000))
    );
    let far = Forecast::of_time(u64::MAX, 0, i64::MAX - 1, None);
    assert_eq!(far.exhausted.and_then(|it| it.at), Some(i64::MAX));
}

/// How much is used in a part, on the mean: between nine and five on working days.
fn working(number: i64, part: usize) -> f64 {
    match (number.rem_euclid(7), part) {
        (5 | 6, _) => 0.05,
        (_, 18..34) => 12.0,
        _ => 0.3,
    }
}

fn used_on(chance: &mut Chance, number: i64) -> Vec<u64> {
    // Days differ.
    let busy = 0.8 + 0.4 * chance.next();
    (0..PARTS)
        .map(|part| chance.calls(busy * working(number, part)))
        .collect()
}

#[test]
fn working_days_are_told_better_by_working_days() {
    let (mut naive, mut by_season, mut within, mut all) = (0.0, 0.0, 0, 0);
    for seed in 0..60 {
        let mut chance = Chance(seed);
        let past: Vec<Ended> = (-28..0)
            .map(|number| ended(number, used_on(&mut chance, number)))
            // Of days without a call there is no account.
            .filter(|it| it.used > 0)
            .collect();
        for number in 0..7 {
            let whole = used_on(&mut chance, number);
            for parts in [6, 16, 24, 40] {
                let mut course = day(number, &whole[..parts]);
                let truth = whole.iter().sum::<u64>() as f64;
                let off = |end: Estimate| (end.expected as f64 - truth).powi(2);
                let plain = match Forecast::of(&course) {
                    Some(forecast) => off(forecast.at_end.expect("an end")),
                    None => (course.used as f64 - truth).powi(2),
                };
                course.ended = past.clone();
                let forecast = Forecast::of(&course).expect("a forecast");
                assert!(
                    matches!(forecast.basis, Basis::Seasonal { windows: 3..=4 }),
                    "{forecast:?}"
                );
                let end = forecast.at_end.expect("an end");
                naive += plain;
                by_season += off(end);
                all += 1;
                let truth = whole.iter().sum::<u64>();
                within += usize::from((end.low..=end.high).contains(&truth));
            }
        }
    }
    let ratio = (by_season / naive).sqrt();
    assert!(ratio < 0.35, "{ratio}");
    let covered = 100 * within / all;
    assert!((68..=95).contains(&covered), "{covered} %");
}

#[test]
fn an_interval_has_the_truth_about_as_often_as_it_says() {
    let covered = |rate: f64, parts: usize, windows: i64| {
        let (mut within, mut all) = (0, 0);
        for seed in 0..250 {
            let mut chance = Chance(seed * 7919 + 1);
            let mut stationary =
                |parts: usize| -> Vec<u64> { (0..parts).map(|_| chance.calls(rate)).collect() };
            let past = (-windows..0).map(|number| ended(number, stationary(PARTS)));
            let past: Vec<Ended> = past.collect();
            let whole = stationary(PARTS);
            let course = Course {
                ended: past,
                ..day(0, &whole[..parts])
            };
            let Some(forecast) = Forecast::of(&course) else {
                continue;
            };
            let end = forecast.at_end.expect("an end");
            all += 1;
            within += usize::from((end.low..=end.high).contains(&whole.iter().sum()));
        }
        assert!(all > 200, "{all}");
        100 * within / all
    };
    // Rare and frequent calls, early and late; without earlier windows, with few, with enough, with many.
    for rate in [1.0, 5.0, 30.0] {
        for parts in [8, 24, 40] {
            for windows in [0, 2, 6, 28] {
                let covered = covered(rate, parts, windows);
                let told = format!("{rate} calls, {parts} parts, {windows} windows: {covered} %");
                assert!((68..=95).contains(&covered), "{told}");
            }
        }
    }
}

#[test]
fn a_rise_that_no_window_had_is_in_the_upper_bound() {
    // A job at night, where there never was one.
    let quiet: Vec<u64> = (0..PARTS)
        .map(|part| if part < 36 { 100 } else { 0 })
        .collect();
    let mut now = quiet[..44].to_vec();
    now[40..44].fill(1000);
    let course = Course {
        ended: (-8..0).map(|number| ended(number, quiet.clone())).collect(),
        ..day(0, &now)
    };
    let end = at_end(&course);
    assert!(end.high >= course.used + 4000, "{end:?}");
}

#[test]
fn an_earlier_first_use_makes_the_time_longer_that_is_known() {
    // Nobody knows what was before the first use: four parts, and 42 to come.
    let expected = |amounts: &[u64]| at_end(&day(0, amounts)).expected;
    let late = expected(&[0, 0, 1, 231_495, 0, 260_185]);
    assert_eq!(late, 491_681 + (491_681 * 42 + 2) / 4);
    // With a token more it is known that there was next to nothing in the two before them, and less is to come.
    let early = expected(&[1, 0, 1, 231_495, 0, 260_185]);
    assert_eq!(early, 491_682 + 491_682 * 42 / 6);
    // Within what was known, more is more.
    assert!(expected(&[0, 0, 2, 231_495, 0, 260_185]) > late);
    assert!(expected(&[0, 0, 1, 231_495, 1, 260_185]) > late);
    // Once an earlier window was seen, all of it was known before.
    let known = |amounts: &[u64]| {
        let past = vec![ended(-1, vec![0, 1])];
        let course = Course {
            ended: past,
            ..day(0, amounts)
        };
        at_end(&course).expected
    };
    let late = known(&[0, 0, 1, 231_495, 0, 260_185]);
    assert!(known(&[1, 0, 1, 231_495, 0, 260_185]) > late);
}

#[test]
fn the_first_use_for_a_quarter_of_a_window_is_the_rate_that_counts() {
    // Where the quarter says nothing, more time is looked at.
    let mut amounts = [0; 16];
    amounts[0] = 1600;
    assert_eq!(at_end(&day(0, &amounts)).expected, 1600 + 32 * 100);
    // Where it says something, it counts, however little that is.
    amounts[10] = 12;
    assert_eq!(at_end(&day(0, &amounts)).expected, 1612 + 32);
    amounts[11] = 12;
    assert_eq!(at_end(&day(0, &amounts)).expected, 1624 + 2 * 32);
}

#[test]
fn what_an_operator_says_counts_and_is_no_rate() {
    let said = Course {
        used: 10_000,
        ..day(0, &[10; 24])
    };
    assert_eq!(at_end(&said).expected, 10_240);
}

fn amounts() -> impl Strategy<Value = Vec<u64>> {
    proptest::collection::vec(prop_oneof![Just(0_u64), 0_u64..1_000_000], 4..PARTS)
}

fn courses() -> impl Strategy<Value = Course> {
    let past = proptest::collection::vec(
        (
            any::<bool>(),
            proptest::collection::vec(0_u64..1_000_000, 0..=PARTS),
        ),
        0..20,
    );
    (
        amounts(),
        past,
        0..HALF,
        0_u64..100_000_000,
        0_u64..1_000_000,
    )
        .prop_map(|(amounts, past, later, limit, held)| {
            let mut course = day(0, &amounts);
            course.now += later;
            course.limit = limit;
            course.held = held;
            let past = (1_i64..).zip(past).filter(|(_, (there, _))| *there);
            course.ended = past.map(|(back, (_, parts))| ended(-back, parts)).collect();
            course
        })
}

fn scaled(course: &Course, by: u64) -> Course {
    let all = |amounts: &[u64]| amounts.iter().map(|it| it * by).collect();
    Course {
        limit: course.limit * by,
        used: course.used * by,
        held: course.held * by,
        spread: Spread {
            amounts: all(&course.spread.amounts),
            ..course.spread
        },
        ended: course
            .ended
            .iter()
            .map(|it| Ended {
                used: it.used * by,
                parts: all(&it.parts),
                ..*it
            })
            .collect(),
        ..*course
    }
}

/// Any numbers at all.
fn wild() -> impl Strategy<Value = Course> {
    let number = || prop_oneof![any::<i64>(), -3_i64..3, MONDAY - DAY..MONDAY + DAY];
    let counts = prop_oneof![
        number().prop_map(Counts::Until),
        number().prop_map(Counts::For),
        Just(Counts::Always),
    ];
    let spread = (
        number(),
        number(),
        proptest::collection::vec(any::<u64>(), 0..200),
    )
        .prop_map(|(since, part, amounts)| Spread {
            since,
            part,
            amounts,
        });
    let past = (
        number(),
        number(),
        any::<u64>(),
        proptest::collection::vec(any::<u64>(), 0..60),
    );
    let past = past.prop_map(|(since, until, used, parts)| Ended {
        since,
        until,
        used,
        parts,
    });
    let numbers = (
        proptest::option::of(any::<u64>()),
        any::<u64>(),
        any::<u64>(),
    );
    let past = proptest::collection::vec(past, 0..8);
    (numbers, number(), counts, number(), spread, past).prop_map(
        |((limit, used, held), begin, counts, now, spread, ended)| Course {
            limit: limit.unwrap_or(u64::MAX),
            begin,
            counts,
            now,
            used,
            held,
            spread,
            ended,
        },
    )
}

/// What holds of any forecast.
fn is_sound(course: &Course) -> Result<(), TestCaseError> {
    let Some(forecast) = Forecast::of(course) else {
        return Ok(());
    };
    if let Some(end) = forecast.at_end {
        prop_assert!(
            end.low <= end.expected && end.expected <= end.high,
            "{end:?}"
        );
        if let Counts::Until(_) = course.counts {
            // As exactly as floating point has it.
            let nearly = course.used - course.used / 1_000_000_000_000;
            prop_assert!(end.low >= nearly, "{end:?}");
        }
    }
    if let Some(reached) = forecast.exhausted {
        prop_assert!(reached.earliest >= course.now, "{reached:?}");
        prop_assert!(
            reached.at.is_none_or(|at| at >= reached.earliest),
            "{reached:?}"
        );
        prop_assert!(
            reached.latest.is_none() || reached.at.is_some(),
            "{reached:?}"
        );
        prop_assert!(
            reached.latest.is_none_or(|it| Some(it) >= reached.at),
            "{reached:?}"
        );
    }
    Ok(())
}

proptest! {
    #[test]
    fn forecasts_are_sound(course in courses()) {
        is_sound(&course)?;
        // The limit is reached before the window ends exactly where more is expected than there is.
        if let Some(forecast) = Forecast::of(&course) {
            let (end, limit) = (forecast.at_end.expect("an end"), course.limit);
            let at = forecast.exhausted.and_then(|it| it.at);
            if end.expected != limit {
                prop_assert_eq!(at.is_some(), end.expected > limit, "{:?}", forecast);
            }
        }
    }

    #[test]
    fn whatever_it_is_given_it_says_something_sound_or_nothing(course in wild()) {
        is_sound(&course)?;
    }

    #[test]
    fn who_has_used_more_will_have_used_more(course in courses(), more in 0_u64..1_000_000, place: prop::sample::Index) {
        let Some(before) = Forecast::of(&course) else { return Ok(()) };
        let end = |forecast: &Forecast| forecast.at_end.expect("an end");
        let at = |forecast: &Forecast| forecast.exhausted.and_then(|it| it.at).unwrap_or(i64::MAX);
        // Of what nobody knows when it was.
        let level = Course { used: course.used + more, ..course };
        let after = Forecast::of(&level).expect("a forecast");
        prop_assert!(end(&after).expected >= end(&before).expected);
        prop_assert!(end(&after).low >= end(&before).low && end(&after).high >= end(&before).high);
        prop_assert!(at(&after) <= at(&before));
        // And lately, in what was looked at before, too. What is used before the first use makes the time longer that is
        // known, and the first use in a quarter of a window makes it the time that counts: then a little more may well be
        // a lower rate.
        let mut level = level;
        let amounts = &mut level.spread.amounts;
        let from = amounts.len().saturating_sub(12);
        let known = match level.ended.iter().any(|it| it.used > 0) {
            true => 0,
            false => amounts.iter().position(|it| *it > 0).unwrap_or(amounts.len()),
        };
        let from = from.max(known);
        let lately = &mut amounts[from..];
        if lately.iter().any(|it| *it > 0) {
            lately[place.index(lately.len())] += more;
            let after = Forecast::of(&level).expect("a forecast");
            prop_assert!(end(&after).expected >= end(&before).expected, "{:?} {:?}", before, after);
        }
    }

    #[test]
    fn it_is_the_same_in_any_unit(course in courses(), by in 2_u64..1000) {
        let (small, large) = (Forecast::of(&course), Forecast::of(&scaled(&course, by)));
        prop_assert_eq!(small.is_some(), large.is_some());
        if let (Some(small), Some(large)) = (small, large) {
            let (a, b) = (small.at_end.expect("an end"), large.at_end.expect("an end"));
            for (a, b) in [(a.low, b.low), (a.expected, b.expected), (a.high, b.high)] {
                // As far as the nearest integer goes.
                prop_assert!((a * by).abs_diff(b) <= by, "{} {}", a * by, b);
            }
            let at = |it: &Forecast| it.exhausted.and_then(|it| it.at).unwrap_or(0);
            prop_assert!(at(&small).abs_diff(at(&large)) <= 1);
        }
    }
}

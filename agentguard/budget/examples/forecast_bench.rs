//! What a forecast from the record costs: a million decisions of 90 days in 200 scopes, each with working days of its own.
//!
//! Prints each figure as a line of JSON: `case`, `subject`, `metric`, `unit`, `value`. `cargo xtask bench budget` runs it.

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use agentguard_budget::forecast::{Basis, Course, Record};
use agentguard_budget::{Forecast, Scope};
use agentguard_model::budget::{Dimension, Window};

/// Decisions that are read.
const DECISIONS: u64 = 1_000_000;
/// Scopes that they are of.
const SCOPES: u64 = 200;
/// Days over which they are spread.
const DAYS: i64 = 90;
/// How often it is measured.
const ROUNDS: usize = 5;
/// 2026-11-28T15:00:00Z: a Saturday, in the afternoon.
const NOW: i64 = 1_795_878_000_000;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

/// When, in which scope, and how much.
type Decision = (i64, usize, u64);

fn main() -> Result<(), Box<dyn Error>> {
    let scopes: Vec<Scope> = (0..SCOPES).map(scope).collect();
    let decisions = decisions()?;
    for (name, window) in [
        ("forecast", Window::Day),
        ("forecast-hour", Window::Hour),
        ("forecast-month", Window::Month),
        (
            "forecast-sliding",
            Window::Sliding(Duration::from_secs(86_400)),
        ),
    ] {
        for _ in 0..ROUNDS {
            measure(name, window, &scopes, &decisions)?;
        }
    }
    Ok(())
}

fn measure(
    name: &str,
    window: Window,
    scopes: &[Scope],
    decisions: &[Decision],
) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    let mut record = Record::new(window, Some("Europe/Berlin".into()), NOW);
    record.add(
        decisions
            .iter()
            .filter_map(|(at, scope, amount)| Some((*at, scopes.get(*scope)?, *amount))),
    );
    let courses = record.courses();
    let built = begun.elapsed();
    let begun = Instant::now();
    let mut forecasts = Vec::new();
    for course in courses.values() {
        let limited = Course {
            limit: Some(course.used.saturating_mul(2)),
            ..course.clone()
        };
        forecasts.extend(Forecast::of(black_box(&limited)));
    }
    let told = begun.elapsed();
    // What is measured is what is meant.
    let seasonal = forecasts
        .iter()
        .filter(|it| it.basis != Basis::Recent)
        .count();
    if forecasts.len() < scopes.len() / 2 || (name == "forecast" && seasonal == 0) {
        let said = forecasts.len();
        return Err(format!("{said} forecasts, {seasonal} of them seasonal").into());
    }
    let each = told.as_secs_f64() * 1e6 / courses.len().max(1) as f64;
    let figures = [
        ("build", "ms", built.as_secs_f64() * 1e3),
        ("forecast_all", "ms", told.as_secs_f64() * 1e3),
        ("forecast_one", "us", each),
    ];
    for (metric, unit, value) in figures {
        println!(
            r#"{{"case":"{name}","subject":"agentguard","metric":"{metric}","unit":"{unit}","value":{value}}}"#
        );
    }
    Ok(())
}

fn scope(number: u64) -> Scope {
    let (agent, user) = (
        format!("agent-{}", number % 40),
        format!("user-{}@example.com", number / 40),
    );
    Scope::of([
        (&Dimension::Agent, agent.as_str()),
        (&Dimension::User, user.as_str()),
    ])
}

/// In the order in which a record has them.
fn decisions() -> Result<Vec<Decision>, Box<dyn Error>> {
    let mut chance: u64 = 1;
    let mut next = |below: u64| {
        chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (chance >> 33) % below
    };
    let mut all = Vec::new();
    while (all.len() as u64) < DECISIONS {
        let day = i64::try_from(next(u64::try_from(DAYS)?))?;
        // Three of four in working hours.
        let hour = match next(4) {
            0 => next(24),
            _ => 8 + next(9),
        };
        let within = i64::try_from(hour * 3_600_000 + next(3_600_000))?;
        let at = NOW.div_euclid(DAY) * DAY - day * DAY + within;
        if at <= NOW {
            all.push((at, usize::try_from(next(SCOPES))?, 100 + next(20_000)));
        }
    }
    all.sort_unstable();
    Ok(all)
}

//! What forecasts cost, as the daemon makes them: `forecast charge DIRECTORY`, and then `forecast ask DIRECTORY`.
//!
//! The first charges a million calls of the last 90 days to the ledger of one host, each to four accounts: of 200 scopes by
//! day, hour, month and the last day, most of it in working hours. It ends as one that is killed. The second opens what it
//! left, as the daemon does that is started next, and makes the forecasts of all accounts of each budget as
//! `agentguard budget forecast` asks for them, beside the same list without forecasts.
//!
//! Prints each figure as a line of JSON: `case`, `subject`, `metric`, `unit`, `value`. `cargo xtask bench budget` runs both.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentguard_budget::{AnyLedger, Charge, Embedded, Ledger as _, Scope, Terms, Want};
use agentguard_control::budgets::{Books, BudgetAccounts, BudgetQuery, ForecastBasis, listed};
use agentguard_model::budget::Dimension;
use agentguard_policy::{Document, Policy, compile};
use jiff::Timestamp;
use serde_json::json;

/// Calls that are charged.
const CALLS: u64 = 1_000_000;
/// Scopes that they are of.
const SCOPES: u64 = 200;
/// Days over which they are spread, until now.
const DAYS: i64 = 90;
/// How often each list is made, and the ledger opened that was closed.
const ROUNDS: usize = 5;
/// Writes that are timed beside what is charged.
const WRITES: u32 = 200_000;
/// What the journal takes for a call and its settlement.
const WRITTEN: [u8; 200] = [0; 200];

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
const WEEK: i64 = 7 * DAY;

/// What is measured of each budget goes by its id.
const POLICY: &str = "\
version: 1
rules: []
budgets:
  - {id: forecast, unit: tokens, limit: 1000000, window: day, zone: Europe/Berlin, per: [agent, user], reached: alert}
  - {id: forecast-hour, unit: tokens, limit: 100000, window: hour, per: [agent, user], reached: alert}
  - {id: forecast-month, unit: tokens, limit: 20000000, window: month, zone: Europe/Berlin, per: [agent, user], reached: alert}
  - {id: forecast-sliding, unit: tokens, limit: 1000000, window: sliding, length: 24h, per: [agent, user], reached: alert}
";

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let policy = compile(&[Document {
        path: "policy.yaml".into(),
        text: POLICY.into(),
    }])
    .map_err(|error| error.to_string())?;
    match arguments.as_slice() {
        [task, directory] if task == "charge" => charge(&policy, Path::new(directory)),
        [task, directory] if task == "ask" => ask(&policy, Path::new(directory)),
        _ => Err("usage: forecast charge DIRECTORY | forecast ask DIRECTORY".into()),
    }
}

fn charge(policy: &Policy, directory: &Path) -> Outcome {
    let wants: Vec<Want> = (0..SCOPES).map(|number| want(policy, number)).collect();
    let path = directory.join("ledger");
    let until = Timestamp::now().as_millisecond();
    let mut at = until - DAYS * DAY;
    let mut calls = Calls::new(at, until);
    let mut times = Vec::with_capacity(usize::try_from(CALLS)?);
    while at < until {
        // Checkpoints are made by the real clock, and weeks go by in a second here: the ledger is opened anew each week, or more
        // windows would be open at the same time than there is room for.
        let ledger = Embedded::open(&path, Timestamp::from_millisecond(at)?)?;
        let next = until.min(at + WEEK);
        while at < next {
            for (at, number, used) in calls.hour(at, until) {
                let want = wants.get(number).ok_or("there is no such scope")?;
                let begun = Instant::now();
                let granted = ledger.reserves(want, at)?;
                ledger.settle(granted.id, Some(&[used; 4]), at);
                times.push(begun.elapsed());
            }
            at += HOUR;
        }
        if at >= until {
            // Nothing is written after this: as where the process is killed.
            std::mem::forget(ledger);
        }
    }
    figures("agentguard", &mut times);
    let mut file = File::create(directory.join("written"))?;
    let mut times = Vec::new();
    for _ in 0..WRITES {
        let begun = Instant::now();
        file.write_all(&WRITTEN)?;
        times.push(begun.elapsed());
    }
    figures("write_200_bytes", &mut times);
    Ok(())
}

fn ask(policy: &Policy, directory: &Path) -> Outcome {
    let path = directory.join("ledger");
    let (bytes, read) = read(&path)?;
    let before = resident()?;
    let (ledger, opened) = open(&path)?;
    let case = "forecast-open";
    sample(case, "read_files", "killed", "ms", ms(read));
    sample(case, "agentguard", "killed", "ms", ms(opened));
    sample(case, "agentguard", "on_disk", "MiB", bytes / MIB);
    drop(ledger);
    let mut last = None;
    for _ in 0..ROUNDS {
        drop(last.take());
        let (_, read) = self::read(&path)?;
        let (ledger, opened) = open(&path)?;
        sample(case, "read_files", "closed", "ms", ms(read));
        sample(case, "agentguard", "closed", "ms", ms(opened));
        last = Some(ledger);
    }
    let ledger = Arc::new(last.ok_or("there is no ledger")?);
    // What nothing is charged to in its window is not listed.
    let now = Timestamp::now().as_millisecond();
    for number in 0..SCOPES {
        let granted = ledger.reserves(&want(policy, number), now)?;
        ledger.settle(granted.id, Some(&[100; 4]), now);
    }
    for rule in policy.budgets() {
        if !ledger
            .ended(&rule.budget, &Scope::others(), 1, now)?
            .is_empty()
        {
            return Err("there were too many accounts".into());
        }
    }
    let ledger = AnyLedger::Embedded(ledger);
    for rule in policy.budgets() {
        let case = &*rule.budget.id;
        for _ in 0..ROUNDS {
            for (subject, forecast) in [("listed", false), ("agentguard", true)] {
                let query = BudgetQuery {
                    budget: Some(case.to_owned()),
                    forecast,
                    ..BudgetQuery::default()
                };
                let begun = Instant::now();
                let told = list(policy, &ledger, &query)?;
                let all = begun.elapsed();
                if forecast {
                    is_meant(case, &told)?;
                }
                sample(case, subject, "all", "ms", ms(all));
                let each = all.as_secs_f64() * 1e6 / told.accounts.len() as f64;
                sample(case, subject, "each", "us", each);
            }
        }
    }
    let memory = resident()? - before;
    sample("forecast-open", "agentguard", "memory", "MiB", memory / MIB);
    Ok(())
}

/// As the worker answers who asks it.
fn list(policy: &Policy, ledger: &AnyLedger, query: &BudgetQuery) -> Outcome<BudgetAccounts> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let now = Timestamp::now();
    let listed = runtime.block_on(listed(ledger, now));
    let told = listed.and_then(|listed| Books::of(policy, ledger, listed, now).list(query));
    told.map_err(|problem| problem.message.into())
}

/// What is measured is what is meant.
fn is_meant(case: &str, told: &BudgetAccounts) -> Outcome {
    let forecasts = || told.accounts.iter().filter_map(|it| it.forecast.as_ref());
    let seasonal = forecasts()
        .filter(|it| it.basis == ForecastBasis::Seasonal)
        .count();
    let (all, said) = (told.accounts.len(), forecasts().count());
    let is_seasonal = seasonal > said / 2 || !["forecast", "forecast-hour"].contains(&case);
    if all as u64 != SCOPES || said < all / 2 || !is_seasonal {
        return Err(format!(
            "{case}: {all} accounts, {said} forecasts, {seasonal} of them seasonal"
        )
        .into());
    }
    Ok(())
}

/// A call of one of the scopes, with the accounts that it is charged to.
fn want(policy: &Policy, number: u64) -> Want {
    let (agent, user) = (
        format!("agent-{}", number % 40),
        format!("user-{}@example.com", number / 40),
    );
    let scope = Scope::of([
        (&Dimension::Agent, agent.as_str()),
        (&Dimension::User, user.as_str()),
    ]);
    let charge = |budget: &Arc<_>| Charge {
        scope: scope.clone(),
        budget: Arc::clone(budget),
        terms: Terms {
            fixed: 1200,
            per_million: 1_000_000,
        },
        place: 0,
    };
    let rules = policy.budgets().iter();
    Want {
        charges: rules.map(|rule| charge(&rule.budget)).collect(),
        tokens: 4096,
        least: 1,
        most: 4096,
    }
}

/// Calls by chance, the same with each run but for the time of day that it begins at.
struct Calls {
    chance: u64,
    /// How many are due, and how many there are for an hour of weight 1.
    due: f64,
    rate: f64,
}

impl Calls {
    fn new(since: i64, until: i64) -> Self {
        let hours = (0..).map(|it| since + it * HOUR);
        let all: u32 = hours.take_while(|at| *at < until).map(weight).sum();
        Self {
            chance: 1,
            due: 0.5,
            rate: CALLS as f64 / f64::from(all),
        }
    }

    /// Those of an hour: when, in which scope, and how much. In their order.
    fn hour(&mut self, at: i64, until: i64) -> Vec<(i64, usize, u64)> {
        self.due += self.rate * f64::from(weight(at));
        let mut all = Vec::new();
        while self.due >= 1.0 {
            self.due -= 1.0;
            let (within, scope) = (self.next(3_600_000), self.next(SCOPES));
            let (Ok(within), Ok(scope)) = (i64::try_from(within), usize::try_from(scope)) else {
                continue;
            };
            all.push(((at + within).min(until), scope, 100 + self.next(20_000)));
        }
        all.sort_unstable();
        all
    }

    fn next(&mut self, below: u64) -> u64 {
        self.chance = self
            .chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 33) % below
    }
}

/// How much more there is in the hour that begins then: nine times as much from eight to five on working days.
fn weight(at: i64) -> u32 {
    let hour = at.rem_euclid(DAY) / HOUR;
    // The first day of the Unix time was a Thursday.
    let weekday = (at.div_euclid(DAY) + 3).rem_euclid(7);
    match weekday < 5 && (8..17).contains(&hour) {
        true => 9,
        false => 1,
    }
}

fn open(path: &Path) -> Outcome<(Embedded, Duration)> {
    let begun = Instant::now();
    let ledger = Embedded::open(path, Timestamp::now())?;
    Ok((ledger, begun.elapsed()))
}

/// How many bytes the files of a ledger have, and how long it takes to read them.
fn read(path: &Path) -> Outcome<(f64, Duration)> {
    let begun = Instant::now();
    let mut bytes = 0;
    for file in fs::read_dir(path)? {
        bytes += fs::read(file?.path())?.len();
    }
    Ok((bytes as f64, begun.elapsed()))
}

const MIB: f64 = 1_048_576.0;

/// The memory that this process has, in bytes.
fn resident() -> Outcome<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"));
    let kib = line.and_then(|it| it.trim().strip_suffix(" kB"));
    Ok(kib.ok_or("there is no VmRSS")?.parse::<f64>()? * 1024.0)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn figures(subject: &str, times: &mut [Duration]) {
    let case = "forecast-charge";
    let all: Duration = times.iter().sum();
    times.sort_unstable();
    for (metric, share) in [("p50", 50), ("p99", 99)] {
        let time = times.get(times.len() * share / 100).copied();
        let time = time.unwrap_or_default().as_secs_f64() * 1e6;
        sample(case, subject, metric, "us", time);
    }
    let each = all.as_secs_f64() * 1e6 / times.len() as f64;
    sample(case, subject, "mean", "us", each);
}

fn sample(case: &str, subject: &str, metric: &str, unit: &str, value: f64) {
    let line = json!({
        "case": case, "subject": subject, "metric": metric, "unit": unit, "value": value,
    });
    println!("{line}");
}

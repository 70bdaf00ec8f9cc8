//! An account, as it is told.

use agentguard_budget::forecast::{Basis, Ended};
use agentguard_budget::{Forecast, Scope};
use agentguard_model::budget::{Budget, Unit, Window};
use jiff::Timestamp;

use super::books::Found;
use super::{
    AccountState, BudgetAccount, BudgetAtEnd, BudgetExhausted, BudgetForecast, BudgetInPolicy,
    BudgetWindow, ForecastBasis,
};

/// As it is now.
pub(super) fn account(found: &Found<'_>, now: i64) -> BudgetAccount {
    let budget = found.rule.map(|rule| &*rule.budget);
    let state = found.state;
    let limit = budget.map(|budget| budget.limit);
    let (used, held) = state.map_or((0, 0), |it| (it.used, it.held));
    let taken = used.saturating_add(held);
    let unit = budget.map(|it| it.unit).or(state.map(|it| it.unit));
    let endless = |it: &i64| *it > 0;
    BudgetAccount {
        account: found.name(),
        budget: found.budget().to_owned(),
        scope: found
            .scope
            .as_ref()
            .map_or_else(String::new, Scope::to_string),
        // One of both is there.
        unit: unit.unwrap_or(Unit::Calls),
        window: match (budget, state) {
            (Some(budget), _) => window(budget),
            (None, Some(state)) => kept_window(&state.window),
            (None, None) => String::new(),
        },
        state: match (found.rule, state) {
            (None, _) => AccountState::LeftOver,
            (Some(_), Some(_)) => AccountState::Open,
            (Some(_), None) => AccountState::Unused,
        },
        limit,
        used,
        held,
        left: limit.map(|limit| limit.saturating_sub(taken)),
        percent: found.full().map(|full| full / 10_000),
        overshoot: state.map_or(0, |it| it.overshoot),
        since: state.map(|it| it.since).filter(endless).and_then(time),
        resets: match state {
            Some(state) => state.until.and_then(time),
            None => budget
                .and_then(|budget| agentguard_budget::ends(budget, now))
                .and_then(time),
        },
        policy: None,
        first: None,
        last: None,
        ended: Vec::new(),
        forecast: None,
        no_forecast: None,
    }
}

/// What is told where one account is shown.
pub(super) fn details(account: &mut BudgetAccount, found: &Found<'_>) {
    account.policy = found.rule.map(|rule| BudgetInPolicy {
        source: rule.source.clone(),
        mode: rule.mode,
        reached: rule.budget.reached,
        per: rule.budget.per.iter().map(ToString::to_string).collect(),
        reason: rule.reason.clone(),
    });
    if let Some(state) = found.state {
        // Time that somebody set back to nothing has no first call.
        account.first = (state.first > 0).then(|| time(state.first)).flatten();
        account.last = (state.last > 0).then(|| time(state.last)).flatten();
    }
}

pub(super) fn windows(ended: &[Ended]) -> Vec<BudgetWindow> {
    let told = |it: &Ended| {
        Some(BudgetWindow {
            since: time(it.since)?,
            until: time(it.until)?,
            used: it.used,
        })
    };
    ended.iter().filter_map(told).collect()
}

/// A limit that is reached behind the year 9999 is not reached.
pub(super) fn forecast(forecast: &Forecast) -> BudgetForecast {
    let (basis, windows) = match forecast.basis {
        Basis::Recent => (ForecastBasis::Recent, None),
        Basis::Seasonal { windows } => (ForecastBasis::Seasonal, Some(windows)),
        Basis::Clock => (ForecastBasis::Clock, None),
    };
    let exhausted = forecast.exhausted.and_then(|it| {
        Some(BudgetExhausted {
            earliest: time(it.earliest)?,
            at: it.at.and_then(time),
            latest: it.latest.and_then(time),
        })
    });
    BudgetForecast {
        burn_rate: forecast.burn_rate.recent,
        burn_rate_of_window: forecast.burn_rate.window,
        exhausted,
        at_end: forecast.at_end.map(|it| BudgetAtEnd {
            low: it.low,
            expected: it.expected,
            high: it.high,
        }),
        basis,
        windows,
        confidence: forecast.confidence,
    }
}

fn window(budget: &Budget) -> String {
    let zone = budget.zone.as_deref().unwrap_or("UTC");
    match budget.window {
        Window::Minute => "minute".to_owned(),
        Window::Hour => "hour".to_owned(),
        Window::Day => format!("day {zone}"),
        Window::Week => format!("week {zone}"),
        Window::Month => format!("month {zone}"),
        Window::Sliding(length) => format!("sliding {}s", length.as_secs()),
        Window::Lifetime => "lifetime".to_owned(),
    }
}

/// As the ledger has it, which counts in milliseconds.
fn kept_window(window: &str) -> String {
    let sliding = window.strip_prefix("sliding ");
    match sliding.and_then(|it| it.parse::<u64>().ok()) {
        Some(length) => format!("sliding {}s", length / 1000),
        None => window.to_owned(),
    }
}

fn time(milliseconds: i64) -> Option<Timestamp> {
    Timestamp::from_millisecond(milliseconds).ok()
}

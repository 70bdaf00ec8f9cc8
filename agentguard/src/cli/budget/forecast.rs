//! How long budgets last, for people.

use agentguard_control::budgets::{BudgetAccount, BudgetForecast, ForecastBasis};

use super::accounts::{NONE, short, time};
use crate::cli::output::{Table, counted};
use crate::cli::verdicts::moment;

pub(super) fn table(accounts: &[BudgetAccount]) -> Table {
    let header = &[
        "ACCOUNT",
        "UNIT",
        "USED",
        "LIMIT",
        "PER HOUR",
        "EXHAUSTED",
        "EARLIEST",
        "LATEST",
        "AT THE END",
        "FROM",
    ];
    let mut table = Table::new(header, 0);
    for it in accounts {
        let amount = |amount| short(it.unit, amount);
        let mut row = vec![
            it.account.clone(),
            it.unit.to_string(),
            amount(it.used),
            it.limit.map_or(NONE.to_owned(), amount),
        ];
        let Some(forecast) = &it.forecast else {
            row.extend(std::iter::repeat_n(NONE.to_owned(), 5));
            row.push(it.no_forecast.clone().unwrap_or_default());
            table.row(&row);
            continue;
        };
        let exhausted = forecast.exhausted.as_ref();
        row.extend([
            amount(forecast.burn_rate),
            match exhausted {
                None => "no".to_owned(),
                Some(it) => it.at.map_or("unlikely".to_owned(), moment),
            },
            time(exhausted.map(|it| it.earliest)),
            match exhausted {
                None => NONE.to_owned(),
                Some(it) => it.latest.map_or("never".to_owned(), moment),
            },
            match &forecast.at_end {
                None => NONE.to_owned(),
                Some(end) => format!(
                    "{} ({} to {})",
                    amount(end.expected),
                    amount(end.low),
                    amount(end.high)
                ),
            },
            basis(forecast),
        ]);
        table.row(&row);
    }
    table
}

/// In sentences; none where no forecast was asked for.
pub(super) fn words(it: &BudgetAccount) -> Vec<String> {
    let Some(forecast) = &it.forecast else {
        return it.no_forecast.iter().cloned().collect();
    };
    let amount = |amount| it.unit.amount(amount);
    let mut words = vec![format!(
        "{} in an hour lately, {} since the window began",
        amount(forecast.burn_rate),
        amount(forecast.burn_rate_of_window)
    )];
    words.push(match &forecast.exhausted {
        None => "not exhausted in this window, as far as can be said".to_owned(),
        Some(exhausted) => {
            let earliest = moment(exhausted.earliest);
            let latest = match exhausted.latest {
                Some(latest) => format!("not after {}", moment(latest)),
                None => "perhaps never".to_owned(),
            };
            match exhausted.at {
                Some(at) => format!(
                    "exhausted {}; probably not before {earliest}, and {latest}",
                    moment(at)
                ),
                None => format!("exhausted {earliest} at the earliest, and probably not at all"),
            }
        }
    });
    if let Some(end) = &forecast.at_end {
        words.push(format!(
            "{} at the end; probably {} to {}",
            amount(end.expected),
            amount(end.low),
            amount(end.high)
        ));
    }
    words.push(format!(
        "from {}; the truth is within it {} times of 100",
        basis(forecast),
        forecast.confidence
    ));
    words
}

fn basis(forecast: &BudgetForecast) -> String {
    match forecast.basis {
        ForecastBasis::Recent => "recent use".to_owned(),
        ForecastBasis::Seasonal => counted(forecast.windows.unwrap_or(0), "earlier window"),
        ForecastBasis::Clock => "the clock".to_owned(),
    }
}

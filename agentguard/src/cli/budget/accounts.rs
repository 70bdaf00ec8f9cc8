//! Accounts of budgets, for people.

use agentguard_control::budgets::{AccountState, BudgetAccount};
use agentguard_model::Mode;
use agentguard_model::budget::{Reached, Unit};
use jiff::Timestamp;

use super::forecast;
use crate::cli::output::{Table, printable};
use crate::cli::verdicts::moment;

/// In the place of what is not there.
pub(super) const NONE: &str = "-";

pub(super) fn table(accounts: &[BudgetAccount]) -> Table {
    let header = &[
        "ACCOUNT", "UNIT", "USED", "HELD", "LIMIT", "LEFT", "%", "RESETS", "STATE",
    ];
    let mut table = Table::new(header, 0);
    for it in accounts {
        let some = |amount: Option<u64>| amount.map_or(NONE.to_owned(), |it_| short(it.unit, it_));
        table.row(&[
            it.account.clone(),
            it.unit.to_string(),
            short(it.unit, it.used),
            short(it.unit, it.held),
            some(it.limit),
            some(it.left),
            it.percent
                .map_or(NONE.to_owned(), |percent| percent.to_string()),
            time(it.resets),
            state(it.state).to_owned(),
        ]);
    }
    table
}

/// How it is with an account, in a word or a few.
const fn state(state: AccountState) -> &'static str {
    match state {
        AccountState::Open => "open",
        AccountState::Unused => "unused",
        AccountState::LeftOver => "not in the policy",
    }
}

/// An amount beside its unit.
pub(super) fn short(unit: Unit, amount: u64) -> String {
    match unit {
        Unit::MicroUsd => unit.amount(amount),
        Unit::WallTime => unit.amount(amount).replace(' ', ""),
        _ => amount.to_string(),
    }
}

pub(super) fn time(time: Option<Timestamp>) -> String {
    time.map_or(NONE.to_owned(), moment)
}

/// One account, line by line.
pub(super) fn story(it: &BudgetAccount) -> String {
    let mut lines = Lines::default();
    lines.add("account", &it.account);
    lines.add("budget", &budget(it));
    lines.add("window", &window(it));
    let used = it.unit.amount(it.used);
    lines.add(
        "used",
        &match (it.limit, it.percent) {
            (Some(limit), Some(percent)) => {
                let limit = it.unit.amount(limit);
                format!("{used} of {limit} ({percent} % of it is used and held)")
            }
            _ => used,
        },
    );
    if it.held > 0 {
        let held = it.unit.amount(it.held);
        lines.add("held", &format!("{held} for calls under way"));
    }
    if let Some(left) = it.left {
        lines.add("left", &it.unit.amount(left));
    }
    if it.overshoot > 0 {
        let over = it.unit.amount(it.overshoot);
        lines.add(
            "overshoot",
            &format!("{over}: used beyond what was held for it"),
        );
    }
    if it.first.is_some() || it.last.is_some() {
        let (first, last) = (time(it.first), time(it.last));
        lines.add("charged", &format!("first {first}, last {last}"));
    }
    for line in forecast::words(it) {
        lines.add("forecast", &line);
    }
    for ended in &it.ended {
        let (since, until) = (moment(ended.since), moment(ended.until));
        let used = it.unit.amount(ended.used);
        lines.add("ended", &format!("{since} to {until}: {used}"));
    }
    lines.0
}

fn budget(it: &BudgetAccount) -> String {
    let Some(policy) = &it.policy else {
        return format!(
            "{}, which the policy does not have any more, or has with another unit or window",
            it.budget
        );
    };
    let per = match policy.per.as_slice() {
        [] => String::new(),
        per => format!(" for each {}", per.join(" and ")),
    };
    let source = &policy.source;
    let mut words = format!("{}{per}, {}:{}", it.budget, source.file, source.line);
    match policy.mode {
        Mode::Enforce => {}
        Mode::Observe => words.push_str(", in observe: nothing is refused for it"),
        Mode::Shadow => words.push_str(", in shadow: nothing is refused for it"),
    }
    match policy.reached {
        Reached::Deny => {}
        Reached::Alert => words.push_str(", alerts only"),
        Reached::Freeze => words.push_str(", stops the agent"),
    }
    words
}

fn window(it: &BudgetAccount) -> String {
    let mut words = it.window.clone();
    if let Some(since) = it.since {
        words.push_str(&format!(", since {}", moment(since)));
    }
    if let Some(resets) = it.resets {
        words.push_str(&format!(", until {}", moment(resets)));
    }
    if it.state == AccountState::Unused {
        words.push_str(", in which nothing was charged");
    }
    words
}

/// Words and what they are about.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, about: &str, words: &str) {
        let words = printable(words);
        self.0.push_str(&format!("{about:<9} {words}\n"));
    }
}

#[cfg(test)]
mod tests;

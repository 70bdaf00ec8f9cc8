//! The books of a storm, compared call by call and account by account.

use std::collections::BTreeMap;
use std::time::Duration;

use agentguard_model::budget::Unit;
use agentguard_model::{BudgetLine, Decision, Outcome};
use anyhow::{Context as _, Result};

use super::Storm;
use super::notes::{Bill, End, Note, Told, notes, recorded};
use super::plan::{Account, Call, GATHERED};
use super::store::Cut;

/// What is wrong, a line each.
#[derive(Default)]
pub(super) struct Faults(pub(super) Vec<String>);

impl Faults {
    pub(super) fn unless(&mut self, right: bool, told: impl FnOnce() -> String) {
        if !right {
            self.0.push(told());
        }
    }
}

/// What an account was charged with: for sure, and what may have been for calls of which nobody knows.
#[derive(Clone, Copy, Debug, Default)]
struct Charged {
    least: u64,
    most: u64,
}

impl Charged {
    const fn add(&mut self, other: Self) {
        self.least += other.least;
        self.most += other.most;
    }
}

/// All that is known of a call.
struct Sides<'a> {
    call: &'a Call,
    note: &'a Note,
    bill: Option<&'a Bill>,
    decision: Option<&'a Decision>,
    /// The daemon's end, in the wave in which it was killed.
    cut: Option<Cut>,
}

impl Sides<'_> {
    /// Whether its answer came whole, with its usage.
    fn is_complete(&self) -> bool {
        let whole = self.note.end == End::Done && self.note.error.is_none();
        // The daemon was killed between the last byte and its books: the record has it as broken off.
        let outcome = self.decision.and_then(|it| it.outcome.as_ref());
        let killed = self.call.wave == 0 && outcome.is_some_and(|it| it.error.is_some());
        whole && !killed && self.bill.is_some_and(|it| it.how == "done")
    }

    /// Whether its provider did not take it.
    fn is_refused(&self) -> bool {
        self.note.status == 429 || self.note.status == 503
    }

    /// What was billed, in the unit of an account.
    fn billed(&self, unit: Unit) -> u64 {
        let of = |it: &Bill| self.call.amount(unit, it.input, it.output);
        self.bill.map_or(0, of)
    }

    /// Compares, and says what an account was charged with for it.
    fn charged(&self, account: &Account, faults: &mut Faults) -> Charged {
        let billed = self.billed(account.unit);
        let who = || format!("call {} of {}", self.call.number, account.name);
        let outcome = self.decision.and_then(|it| it.outcome.as_ref());
        let Some(outcome) = outcome else {
            return self.unknown(account, billed);
        };
        let line = outcome.budget.iter().find(|it| is_of(it, account));
        let Some((line, settled)) = line.and_then(|it| Some((it, it.settled?))) else {
            // What did not leave is not charged, and not told of.
            let unsent = outcome.budget.is_empty() && self.bill.is_none();
            faults.unless(unsent, || {
                format!("{}: not charged: {outcome:?}, {:?}", who(), self.bill)
            });
            return self.untold(account, outcome, None, 0);
        };
        let told = |what: &str| format!("{}: {what}: {}", who(), self.told(billed, line, outcome));
        if self.is_complete() {
            faults.unless(settled == billed, || {
                told("complete, and not what was reported")
            });
            faults.unless(line.overshoot.is_none(), || {
                told("complete, and more than was reserved")
            });
        } else if self.is_refused() {
            faults.unless(settled == self.call.amount(account.unit, 0, 0), || {
                told("refused, and charged")
            });
        } else {
            let bound = self.call.bound(account.unit, line.clamped);
            faults.unless(billed <= settled, || told("billed more than charged"));
            faults.unless(settled <= bound, || {
                told(&format!("charged more than {bound}"))
            });
        }
        self.untold(account, outcome, Some(line), settled)
    }

    /// What an account was charged with for a call that is over: as was said, unless the ledger was not told before the
    /// daemon was killed; then all that the call held.
    fn untold(
        &self,
        account: &Account,
        outcome: &Outcome,
        line: Option<&BudgetLine>,
        settled: u64,
    ) -> Charged {
        let told = Charged {
            least: settled,
            most: settled,
        };
        let (Some(cut), Some(decision)) = (self.cut, self.decision) else {
            return told;
        };
        let lasted = Duration::from_millis(outcome.duration_ms);
        if !cut.may_hide(decision.time + lasted) {
            return told;
        }
        let reserved = line.map_or(0, |it| it.reserved);
        let bound = self
            .call
            .bound(account.unit, line.and_then(|it| it.clamped));
        Charged {
            least: settled.min(reserved),
            most: settled.max(bound),
        }
    }

    fn told(&self, billed: u64, line: &BudgetLine, outcome: &Outcome) -> String {
        let BudgetLine {
            reserved,
            settled,
            overshoot,
            clamped,
            ..
        } = line;
        let Self {
            call, note, bill, ..
        } = self;
        let how = bill.map(|it| &it.how);
        format!(
            "wave {}, {}, billed {billed} ({how:?}), reserved {reserved}, settled {settled:?}, over {overshoot:?}, clamped \
             {clamped:?}, {:?} behind {} words, record: {:?} after {} ms",
            call.wave, call.model.name, note.end, note.words, outcome.error, outcome.duration_ms
        )
    }

    /// The daemon was killed meanwhile: what it held is charged, if it went so far.
    fn unknown(&self, account: &Account, billed: u64) -> Charged {
        let clamped = self.decision.and_then(|it| it.budget.first()?.clamped);
        let away = self.cut.is_some_and(|it| it.away);
        // Where the ledger went away, the answer to who was refused for that may have been that it holds something.
        let reached = self.decision.is_some()
            || self.note.end == End::Lost
            || (away && self.note.status == 503);
        let most = if reached {
            self.call.bound(account.unit, clamped)
        } else {
            0
        };
        Charged {
            least: billed,
            most,
        }
    }
}

fn is_of(line: &BudgetLine, account: &Account) -> bool {
    account.name == format!("{}/{}", line.budget, line.scope)
}

/// Compares the books. `between`: the accounts between the waves.
pub(super) fn compare(
    storm: &Storm<'_>,
    between: &BTreeMap<String, Told>,
    told: &BTreeMap<String, Told>,
    faults: &mut Faults,
) -> Result<()> {
    let (notes, bills) = (notes(&storm.clients), storm.provider.bills());
    let (limits, record) = (storm.provider.limits(), recorded(&storm.guard)?);
    // In all, and since then.
    let mut charged: BTreeMap<Account, [Charged; 2]> = BTreeMap::new();
    let mut delivered: BTreeMap<Account, u64> = BTreeMap::new();
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for call in &storm.calls {
        let number = call.number;
        let sides = Sides {
            call,
            note: notes
                .get(&number)
                .with_context(|| format!("no note of {number}"))?,
            bill: bills.get(&number),
            decision: record.get(&number),
            cut: storm.cut.filter(|_| call.wave == 0),
        };
        let how = sides.bill.map_or("-", |it| &it.how);
        let want = match () {
            () if sides.note.is_for_want() => " for want",
            () if sides.note.is_for_ledger() => " without a ledger",
            () => "",
        };
        *ends
            .entry(format!("{:?}{want}, {how}", sides.note.end))
            .or_default() += 1;
        faults.unless(sides.bill.is_none() || sides.decision.is_some(), || {
            format!("call {number} went without a decision")
        });
        let limit = call.limit.unwrap_or(u64::MAX);
        faults.unless(limits.get(&number).is_none_or(|it| *it <= limit), || {
            format!("the limit of call {number} was made higher")
        });
        let open = sides.decision.is_some_and(|it| it.outcome.is_none());
        faults.unless(!open || call.wave == 0, || {
            format!("call {number} has no end in the record")
        });
        let unknown = sides.note.end == End::Lost && sides.decision.is_none();
        faults.unless(!unknown || call.wave == 0, || {
            format!("call {number} is not in the record: {:?}", sides.note)
        });
        if sides.is_complete() {
            let usage = sides.bill.map(|it| [Some(it.input), Some(it.output)]);
            faults.unless(usage == Some(sides.note.usage), || {
                format!("call {number}: {:?}", sides.note)
            });
        }
        for account in call.accounts() {
            *delivered.entry(account.clone()).or_default() +=
                call.amount(account.unit, 0, sides.note.words);
            let this = sides.charged(&account, faults);
            let [sum, since] = charged.entry(account).or_default();
            sum.add(this);
            if call.wave > 0 {
                since.add(this);
            }
        }
    }
    for (account, words) in delivered {
        let seen = matches!(account.unit, Unit::OutputTokens | Unit::MicroUsd);
        faults.unless(!seen || words <= account.limit, || {
            format!("{} delivered {words} of {}", account.name, account.limit)
        });
    }
    for (account, [Charged { least, most }, since]) in charged {
        let Some(it) = told.get(&account.name) else {
            // All that asked for it may have been refused, or waited for others when the daemon was killed.
            faults.unless(least == 0, || format!("no account {}", account.name));
            continue;
        };
        faults.unless(it.limit == account.limit, || format!("{it:?}"));
        faults.unless((least..=most).contains(&it.used), || {
            format!(
                "{}: used {}, and the calls make {least} to {most}",
                account.name, it.used
            )
        });
        // Nothing of this is a matter of opinion: no daemon was killed any more.
        let before = between.get(&account.name).map_or(0, |it| it.used);
        let now = it.used.saturating_sub(before);
        faults.unless(now == since.least && now == since.most, || {
            format!(
                "{}: used {now} since {before}, and the calls make {since:?}",
                account.name
            )
        });
    }
    let peak = storm.provider.peak();
    eprintln!("{ends:#?}, {peak} at once at most");
    // It was one: most were under way at the same time, and each kind of end has been there.
    let of = |kind: &str| -> usize {
        let its = ends.iter().filter(|(how, _)| how.starts_with(kind));
        its.map(|it| it.1).sum()
    };
    let shared = storm.cut.is_some();
    for (kind, least) in [
        ("Done, done", 80),
        ("Left", 5),
        ("Error, error", 3),
        ("Lost", 30),
        // Who waits for what others hold is refused when the ledger goes away.
        ("Refused for want", if shared { 1 } else { 20 }),
        ("Refused without a ledger", if shared { 5 } else { 0 }),
        ("Refused, refused", 5),
    ] {
        faults.unless(of(kind) >= least, || format!("no storm: {kind}"));
    }
    faults.unless(peak >= GATHERED, || format!("no storm: {peak} at once"));
    Ok(())
}

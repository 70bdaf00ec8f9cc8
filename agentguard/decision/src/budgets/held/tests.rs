use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agentguard_budget::prices::{Caches, Prices, Served};
use agentguard_budget::{
    Asked, Charge, Estimate, Granted, HoldId, Ledger, More, Refused, Scope, Terms, Want,
};
use agentguard_model::budget::{Budget, Reached, Unit, Window};
use agentguard_model::{OvershootCause, Usage};
use jiff::Timestamp;

use super::{Held, Pricing, Used};

const HOUR: i64 = 3_600_000;

/// A ledger that does not answer.
struct Away;

impl Ledger for Away {
    fn reserve<'a>(&'a self, _: &'a Want, _: i64) -> Asked<'a, Granted> {
        Box::pin(async { Err(Refused::Away("it is down".to_owned())) })
    }

    fn extend<'a>(&'a self, _: HoldId, _: More, _: &'a [Arc<Budget>], _: i64) -> Asked<'a, u64> {
        Box::pin(async { Err(Refused::LeaseSpent("it is down".to_owned())) })
    }

    fn settle(&self, _: HoldId, _: Option<&[u64]>, _: i64) {}
}

fn of(unit: Unit, hours: i64, reached: Reached) -> Arc<Budget> {
    Arc::new(Budget {
        id: unit.to_string().into(),
        unit,
        limit: u64::try_from(hours * HOUR).expect("a limit"),
        window: Window::Lifetime,
        zone: None,
        per: Box::default(),
        reached,
        on_loss: None,
    })
}

/// A call of tokens and of eight hours, the first of which began at this time.
fn held(began: i64) -> Held {
    let budgets = [
        of(Unit::Tokens, 1, Reached::Deny),
        of(Unit::WallTime, 8, Reached::Deny),
    ];
    let charge = |budget: Arc<Budget>| Charge {
        budget,
        scope: Scope::from(""),
        terms: Terms {
            fixed: 0,
            per_million: 0,
        },
        place: 0,
    };
    let want = Want {
        charges: budgets.into_iter().map(charge).collect(),
        tokens: 0,
        least: 0,
        most: 0,
    };
    let granted = Granted {
        id: HoldId(1),
        tokens: 0,
        room: 0,
        held: vec![0, 0],
        over: Vec::new(),
        deadline: Some(began + 8 * HOUR),
    };
    let ledger: Arc<dyn Ledger> = Arc::new(Away);
    Held::new(&ledger, want, granted, None)
}

#[test]
fn a_limit_of_time_that_is_changed_ends_a_call_at_another_time() {
    let tokens = of(Unit::Tokens, 1, Reached::Deny);
    for (hours, reached, ends) in [
        (8, Reached::Deny, Some((1, 8 * HOUR))),
        (1, Reached::Freeze, Some((1, HOUR))),
        (20, Reached::Deny, Some((1, 20 * HOUR))),
        (1, Reached::Alert, None),
    ] {
        let budgets = [Arc::clone(&tokens), of(Unit::WallTime, hours, reached)];
        assert_eq!(held(0).deadline_by(&budgets), ends, "{hours} {reached:?}");
    }
}

#[tokio::test]
async fn a_call_ends_with_its_time_though_its_ledger_does_not_answer() {
    let now = Timestamp::now().as_millisecond();
    let held = held(now - 2 * HOUR);
    let tokens = of(Unit::Tokens, 1, Reached::Deny);
    let by = |hours| {
        [
            Arc::clone(&tokens),
            of(Unit::WallTime, hours, Reached::Deny),
        ]
    };
    assert!(held.too_late(&by(8)).await.is_none());
    let refused = held.too_late(&by(1)).await;
    assert!(
        matches!(refused, Some(Refused::LeaseSpent(_))),
        "{refused:?}"
    );
}

#[test]
fn what_is_written_on_behind_what_was_seen_counts() {
    let writes = |sure: bool, limit, behind: u64| {
        let mut held = held(0);
        held.estimate = Some(Estimate {
            input: 0,
            output: limit,
            answers: 1,
            visible: true,
            hidden: false,
            counted: false,
        });
        let saw = |tokens| held.saw(tokens, if sure { tokens } else { 50 });
        saw(100);
        held.breaks();
        saw(100 + behind);
        held.may_have_written()
    };
    // All came within less than a second: as much may have come in the second behind it.
    assert_eq!(writes(true, 10_000, 0), 200);
    assert_eq!(writes(true, 10_000, 50), 300);
    assert_eq!(writes(true, 10_000, 900), 2000);
    assert_eq!(writes(true, 150, 0), 150);
    // Bytes of a sound are no tokens beyond the limit.
    assert_eq!(writes(false, 60, 900), 60);
    // Its provider did not keep to the limit; what is estimated only says nothing of that.
    assert_eq!(writes(true, 300, 900), 1000);
    assert_eq!(writes(false, 300, 900), 300);
}

/// However long it was read behind its end: its provider notices once it is not read any more.
#[test]
fn what_was_read_behind_the_end_does_not_shorten_what_may_come() {
    let mut held = held(0);
    held.estimate = Some(Estimate {
        input: 0,
        output: 10_000,
        answers: 1,
        visible: true,
        hidden: false,
        counted: false,
    });
    let began = Instant::now().checked_sub(Duration::from_secs(5)).unwrap();
    held.since.set(began).unwrap();
    held.saw(150, 150);
    held.breaks();
    held.saw(250, 250);
    // 50 in a second.
    let written = held.may_have_written();
    assert!((296..=300).contains(&written), "{written}");
}

/// What a call of tokens tells that may write so many, has reserved this, and comes to this end.
fn causes(reserved: u64, ends: impl FnOnce(&Held), how: Used<'_>) -> Vec<Option<OvershootCause>> {
    let mut held = held(0);
    held.estimate = Some(Estimate {
        input: 0,
        output: 1000,
        answers: 1,
        visible: true,
        hidden: false,
        counted: false,
    });
    for charge in &mut held.want.charges {
        charge.terms.per_million = u64::from(charge.budget.unit == Unit::Tokens) * 1_000_000;
    }
    held.tokens.store(reserved, Ordering::Release);
    held.amounts = Mutex::new(vec![reserved, 0]);
    ends(&held);
    let lines = held.settle(how);
    for line in lines {
        assert_eq!(
            line.overshoot.is_some(),
            line.overshoot_cause.is_some(),
            "{line:?}"
        );
    }
    lines.iter().map(|it| it.overshoot_cause).collect()
}

#[test]
fn more_than_was_reserved_has_its_cause() {
    let usage = Usage {
        input_tokens: Some(0),
        output_tokens: Some(900),
        ..Usage::default()
    };
    let seen = |held: &Held| held.saw(600, 600);
    let breaks = |held: &Held| {
        seen(held);
        held.breaks();
    };
    let unseen = |held: &Held| {
        breaks(held);
        held.unseen();
    };
    let (told, broken) = (Used::Reported(&usage), Used::Broken(&usage));
    // Of time nothing is held.
    let of = |cause| vec![cause, None];
    assert_eq!(causes(900, seen, told), of(None));
    assert_eq!(causes(256, seen, told), of(Some(OvershootCause::Reported)));
    let behind = of(Some(OvershootCause::WrittenBehind));
    assert_eq!(causes(256, breaks, told), behind);
    assert_eq!(causes(256, breaks, broken), behind);
    assert_eq!(causes(256, breaks, Used::Unknown), behind);
    let not_seen = of(Some(OvershootCause::Unseen));
    assert_eq!(causes(256, unseen, Used::Unknown), not_seen);
    assert_eq!(causes(256, unseen, broken), not_seen);
    let withheld = of(Some(OvershootCause::Withheld));
    assert_eq!(causes(256, seen, Used::Whole), withheld);
}

#[test]
fn what_another_call_costs_is_no_report_of_too_much() {
    let prices = Prices::built_in();
    let pricing = |model: &str| {
        let priced = prices.of("openai", model);
        Pricing::of(&priced, Served::default(), Caches::default())
    };
    let usage = Usage {
        input_tokens: Some(1000),
        output_tokens: Some(0),
        ..Usage::default()
    };
    for (also, cause) in [
        ("gpt-4o", Some(OvershootCause::OtherCall)),
        ("gpt-4o-mini", None),
    ] {
        let mut held = held(0);
        let paid = of(Unit::MicroUsd, 1, Reached::Deny);
        held.want.charges[0].budget = paid;
        held.amounts = Mutex::new(vec![150, 0]);
        held.pricing = Some(pricing("gpt-4o-mini"));
        held.may_cost(pricing(also));
        let line = &held.settle(Used::Reported(&usage))[0];
        assert_eq!(line.overshoot_cause, cause, "{line:?}");
        assert_eq!(line.price_of.as_deref(), Some("gpt-4o-mini"));
    }
}

use std::sync::Arc;

use agentguard_budget::{
    Asked, Charge, Estimate, Granted, HoldId, Ledger, More, Refused, Scope, Terms, Want,
};
use agentguard_model::budget::{Budget, Reached, Unit, Window};
use jiff::Timestamp;

use super::Held;

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
fn what_is_written_on_and_seen_counts_once() {
    let writes = |sure: bool, limit, behind: u64| {
        let mut held = held(0);
        held.estimate = Some(Estimate {
            input: 0,
            output: limit,
            answers: 1,
            visible: true,
        });
        let saw = |tokens| held.saw(tokens, if sure { tokens } else { 50 });
        saw(100);
        held.breaks();
        saw(100 + behind);
        held.may_have_written()
    };
    // All came within less than a second: as much may have come in the second behind it.
    assert_eq!(writes(true, 10_000, 0), 200);
    assert_eq!(writes(true, 10_000, 50), 250);
    assert_eq!(writes(true, 10_000, 900), 1100);
    assert_eq!(writes(true, 150, 0), 150);
    // Bytes of a sound are no tokens beyond the limit.
    assert_eq!(writes(false, 60, 900), 60);
    // Its provider did not keep to the limit; what is estimated only says nothing of that.
    assert_eq!(writes(true, 300, 900), 1000);
    assert_eq!(writes(false, 300, 900), 300);
}

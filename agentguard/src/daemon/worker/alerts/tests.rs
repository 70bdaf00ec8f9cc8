use std::sync::Arc;

use agentguard_budget::{AnyLedger, Charge, Embedded, Ledger as _, Listed, Scope, Terms, Want};
use agentguard_control::budgets::Books;
use agentguard_model::budget::Dimension;
use agentguard_policy::{Document, Policy, compile};
use jiff::Timestamp;
use tempfile::TempDir;

use super::{Known, Look};

const POLICY: &str = "\
version: 1
agents:
  - name: coder
rules: []
budgets:
  - { id: day, unit: calls, limit: 10, window: day, per: [agent], soft: { at: 50%, forecast: true } }
  - { id: plain, unit: calls, limit: 10, window: day }
";

fn policy() -> Policy {
    compile(&[Document {
        path: "policy.yaml".into(),
        text: POLICY.into(),
    }])
    .unwrap()
}

fn look(
    known: &mut Known,
    policy: &Policy,
    ledger: &Arc<Embedded>,
    foretells: bool,
    now: Timestamp,
) -> Look {
    let listed = Listed {
        states: ledger.accounts(now.as_millisecond()),
        ..Listed::default()
    };
    let ledger = AnyLedger::Embedded(ledger.clone());
    known.look(&Books::of(policy, &ledger, listed, now), foretells)
}

/// Charges so many calls to both budgets.
fn charge(ledger: &Embedded, policy: &Policy, calls: u64, now: Timestamp) {
    let now = now.as_millisecond();
    let charges = policy.budgets().iter().map(|rule| Charge {
        budget: rule.budget.clone(),
        scope: match rule.budget.per.is_empty() {
            true => Scope::all(),
            false => Scope::of([(&Dimension::Agent, "coder")]),
        },
        terms: Terms {
            fixed: calls,
            per_million: 0,
        },
        place: 0,
    });
    let want = Want {
        charges: charges.collect(),
        ..Want::default()
    };
    let granted = ledger.reserves(&want, now).unwrap();
    ledger.settle(granted.id, None, now);
}

#[test]
fn a_level_is_told_once_while_it_is_reached() {
    let directory = TempDir::new().unwrap();
    // Noon, so that no window ends meanwhile.
    let noon: Timestamp = "2026-11-28T12:00:00Z".parse().unwrap();
    let ledger = Arc::new(Embedded::open(directory.path(), noon).unwrap());
    let (policy, mut known) = (policy(), Known::default());
    let told = |known: &mut Known, at: Timestamp| {
        let look = look(known, &policy, &ledger, false, at);
        let told = look.reached.iter();
        told.map(|(level, new)| (level.budget.id.to_string(), level.state.used, *new))
            .collect::<Vec<_>>()
    };
    let again = self::policy();
    charge(&ledger, &again, 4, noon);
    assert_eq!(told(&mut known, noon), []);
    charge(&ledger, &again, 1, noon);
    assert_eq!(told(&mut known, noon), [("day".to_owned(), 5, true)]);
    assert_eq!(told(&mut known, noon), [("day".to_owned(), 5, false)]);
    let next: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
    assert_eq!(told(&mut known, next), [], "another window");
    charge(&ledger, &again, 6, next);
    assert_eq!(told(&mut known, next), [("day".to_owned(), 6, true)]);
}

#[test]
fn what_will_be_spent_is_told_once_in_a_window() {
    let directory = TempDir::new().unwrap();
    let begin: Timestamp = "2026-11-28T00:00:00Z".parse().unwrap();
    let ledger = Arc::new(Embedded::open(directory.path(), begin).unwrap());
    let (policy, mut known) = (policy(), Known::default());
    let at = |hours: i64| begin + jiff::SignedDuration::from_hours(hours);
    let foretold = |known: &mut Known, hours| {
        let look = look(known, &policy, &ledger, true, at(hours));
        look.foretold.len()
    };
    // One in two hours: ten are used by eight in the evening.
    for hours in [0, 2, 4] {
        charge(&ledger, &policy, 1, at(hours));
        assert!(foretold(&mut known, hours) <= 1);
    }
    let mut known = Known::default();
    assert_eq!(foretold(&mut known, 5), 1);
    assert_eq!(foretold(&mut known, 5), 0, "it was told");
    let look = look(&mut known, &policy, &ledger, false, at(5));
    assert!(look.foretold.is_empty() && look.reached.is_empty());
}

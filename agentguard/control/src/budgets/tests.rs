use std::sync::Arc;

use agentguard_budget::{
    AnyLedger, Charge, Embedded, HoldId, Listed, Options, Scope, Shared, Terms, Want,
};
use agentguard_model::budget::{Dimension, Unit};
use agentguard_policy::{Document, Policy, compile};
use jiff::Timestamp;
use tempfile::TempDir;

use super::{AccountState, Books, BudgetAccount, BudgetQuery, ForecastBasis, MAX_TOLD};
use crate::api::{Problem, ProblemCode};

const NOW: i64 = 1_795_860_000_000;
const HOUR: i64 = 3_600_000;

const POLICY: &str = "\
version: 1
agents:
  - name: coder
  - name: tester
rules: []
budgets:
  - { id: team-day, unit: micro_usd, limit: $5, window: day, per: [agent, user], reason: Ask Ada. }
  - { id: all, unit: tokens, limit: 1000, window: month, agents: [coder] }
  - { id: at-once, unit: concurrent_calls, limit: 4, window: lifetime, mode: shadow }
  - { id: time, unit: wall_time, limit: 1h, window: lifetime, per: [agent] }
  - { id: hour, unit: calls, limit: 100, window: hour, per: [model] }
";

/// The same without its first budget, and with another unit of the second.
const OTHER: &str = "\
version: 1
agents:
  - name: coder
rules: []
budgets:
  - { id: all, unit: calls, limit: 10, window: month }
";

struct World {
    _directory: TempDir,
    policy: Policy,
    ledger: Arc<Embedded>,
    any: AnyLedger,
}

fn policy(text: &str) -> Policy {
    let path = "policy.yaml".to_owned();
    let text = text.to_owned();
    compile(&[Document { path, text }]).unwrap()
}

fn time(now: i64) -> Timestamp {
    Timestamp::from_millisecond(now).unwrap()
}

impl World {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let ledger = Arc::new(Embedded::open(directory.path(), time(NOW)).unwrap());
        Self {
            _directory: directory,
            policy: policy(POLICY),
            any: AnyLedger::Embedded(ledger.clone()),
            ledger,
        }
    }

    fn books(&self, now: i64) -> Books<'_> {
        let listed = Listed {
            states: self.ledger.accounts(now),
            unread: 0,
        };
        Books::of(&self.policy, &self.any, listed, time(now))
    }

    /// A call that holds this much of an account.
    fn holds(&self, budget: &str, scope: &str, amount: u64, now: i64) -> HoldId {
        let budget = Arc::clone(&self.policy.budget(budget).unwrap().budget);
        let charge = Charge {
            budget,
            scope: Scope::from(scope),
            terms: Terms {
                fixed: amount,
                per_million: 0,
            },
            place: 0,
        };
        let want = Want {
            charges: vec![charge],
            ..Want::default()
        };
        self.ledger.reserves(&want, now).unwrap().id
    }

    fn uses(&self, budget: &str, scope: &str, amount: u64, now: i64) {
        use agentguard_budget::Ledger as _;
        let id = self.holds(budget, scope, amount, now);
        self.ledger.settle(id, Some(&[amount]), now);
    }

    fn refused(&self, name: &str) -> Problem {
        self.books(NOW).find(name).unwrap_err()
    }
}

fn names(accounts: &[BudgetAccount]) -> Vec<&str> {
    accounts.iter().map(|it| it.account.as_str()).collect()
}

fn of(budget: Option<&str>, agent: Option<&str>) -> BudgetQuery {
    BudgetQuery {
        budget: budget.map(str::to_owned),
        agent: agent.map(|it| it.parse().unwrap()),
        forecast: false,
    }
}

#[test]
fn accounts_are_listed_by_budget_and_the_fullest_first_also_where_there_is_none_yet() {
    let world = World::new();
    world.uses("team-day", "agent=coder,user=ada", 1_000_000, NOW);
    world.uses("team-day", "agent=tester,user=", 4_000_000, NOW);
    world.holds("team-day", "agent=coder,user=ada", 250_000, NOW);
    world.holds("at-once", "", 1, NOW);
    world.uses("time", "agent=coder", 0, NOW);
    let later = NOW + 90_000;
    let told = world.books(later).list(&BudgetQuery::default()).unwrap();
    assert_eq!(told.more, 0);
    assert_eq!(
        names(&told.accounts),
        [
            "team-day/agent=tester,user=",
            "team-day/agent=coder,user=ada",
            "all",
            "at-once",
            "time/agent=coder",
            "hour",
        ]
    );
    let [tester, coder, all, at_once, clock, hour] = told.accounts.as_slice() else {
        panic!("{told:?}");
    };
    assert_eq!(
        (
            coder.used,
            coder.held,
            coder.limit,
            coder.left,
            coder.percent
        ),
        (
            1_000_000,
            250_000,
            Some(5_000_000),
            Some(3_750_000),
            Some(25)
        )
    );
    assert_eq!(
        (coder.unit, coder.window.as_str()),
        (Unit::MicroUsd, "day UTC")
    );
    assert_eq!(coder.since.unwrap().to_string(), "2026-11-28T00:00:00Z");
    assert_eq!(coder.resets.unwrap().to_string(), "2026-11-29T00:00:00Z");
    assert_eq!(
        (tester.percent, tester.state),
        (Some(80), AccountState::Open)
    );
    assert_eq!(
        (all.state, all.left, all.percent),
        (AccountState::Unused, Some(1000), Some(0))
    );
    assert_eq!(all.resets.unwrap().to_string(), "2026-12-01T00:00:00Z");
    assert_eq!((at_once.used, at_once.held, at_once.left), (0, 1, Some(3)));
    assert_eq!((at_once.since, at_once.resets), (None, None));
    assert_eq!((clock.used, clock.window.as_str()), (90_000, "lifetime"));
    // Which account it will be nobody knows.
    assert_eq!(
        (hour.scope.as_str(), hour.state),
        ("", AccountState::Unused)
    );
}

#[test]
fn those_of_a_budget_or_an_agent_are_listed_alone() {
    let world = World::new();
    world.uses("team-day", "agent=coder,user=ada", 1, NOW);
    world.uses("team-day", "agent=tester,user=ada", 1, NOW);
    world.uses("team-day", "agent=gone,user=ada", 1, NOW);
    let list = |query: &BudgetQuery| world.books(NOW).list(query);
    let told = list(&of(Some("team-day"), Some("coder"))).unwrap();
    assert_eq!(names(&told.accounts), ["team-day/agent=coder,user=ada"]);
    // What names no agent may be charged by it, where the budget is for it.
    let told = list(&of(None, Some("tester"))).unwrap();
    assert_eq!(
        names(&told.accounts),
        ["team-day/agent=tester,user=ada", "at-once", "time", "hour"]
    );
    // One that the policy does not have any more is known by its accounts.
    let told = list(&of(None, Some("gone"))).unwrap();
    assert_eq!(names(&told.accounts), ["team-day/agent=gone,user=ada"]);
    let refused = list(&of(None, Some("nobody"))).unwrap_err();
    assert_eq!(refused.code, ProblemCode::NotFound);
    assert_eq!(
        refused.message,
        "the policy has no agent `nobody`, and no account names it"
    );
    let refused = list(&of(Some("team-dey"), None)).unwrap_err();
    assert_eq!(refused.message, "there is no budget `team-dey`");
    assert_eq!(
        refused.hint.unwrap(),
        "did you mean `team-day`? `agentguard budget list` has all"
    );
}

#[test]
fn what_the_policy_does_not_have_any_more_is_marked() {
    let mut world = World::new();
    world.uses("team-day", "agent=coder,user=ada", 1_000_000, NOW);
    world.uses("all", "", 700, NOW);
    world.uses("hour", "model=a", 1, NOW);
    world.policy = policy(OTHER);
    let told = world.books(NOW).list(&BudgetQuery::default()).unwrap();
    let told: Vec<_> = told
        .accounts
        .iter()
        .map(|it| (it.account.as_str(), it.unit, it.limit, it.used, it.state))
        .collect();
    assert_eq!(
        told,
        [
            ("all", Unit::Calls, Some(10), 0, AccountState::Unused),
            ("all", Unit::Tokens, None, 700, AccountState::LeftOver),
            ("hour/model=a", Unit::Calls, None, 1, AccountState::LeftOver),
            (
                "team-day/agent=coder,user=ada",
                Unit::MicroUsd,
                None,
                1_000_000,
                AccountState::LeftOver
            ),
        ]
    );
    let shown = world
        .books(NOW)
        .show("team-day/agent=coder,user=ada")
        .unwrap();
    assert_eq!((shown.used, shown.policy), (1_000_000, None));
    assert!(
        shown
            .no_forecast
            .unwrap()
            .contains("the policy does not have it")
    );
    // The policy's comes before what is left over.
    assert_eq!(world.books(NOW).show("all").unwrap().limit, Some(10));
    // What was left over is gone with its window.
    let told = world
        .books(NOW + 2 * HOUR)
        .list(&BudgetQuery::default())
        .unwrap();
    assert!(!names(&told.accounts).contains(&"hour/model=a"));
}

#[test]
fn one_account_is_shown_with_where_its_budget_stands_and_its_last_windows() {
    let world = World::new();
    for hours in 0..14 {
        let amount = 10 + u64::try_from(hours).unwrap();
        world.uses("hour", "model=a", amount, NOW + hours * HOUR);
    }
    let now = NOW + 13 * HOUR + 60_000;
    let shown = world.books(now).show("hour/model=a").unwrap();
    assert_eq!(
        (shown.used, shown.percent, shown.state),
        (23, Some(23), AccountState::Open)
    );
    assert_eq!(shown.first, Some(time(NOW + 13 * HOUR)));
    assert_eq!(shown.last, shown.first);
    let policy = shown.policy.unwrap();
    assert_eq!(
        (policy.source.line, policy.per.as_slice()),
        (11, ["model".to_owned()].as_slice())
    );
    let used: Vec<u64> = shown.ended.iter().map(|it| it.used).collect();
    assert_eq!(used, [22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11]);
    assert_eq!(shown.ended[0].until, time(NOW + 13 * HOUR));
    let forecast = shown.forecast.unwrap();
    assert_eq!(
        (forecast.basis, forecast.confidence),
        (ForecastBasis::Seasonal, 80)
    );
    assert!(
        forecast.at_end.unwrap().expected >= 23,
        "it is used already"
    );
    // In the next hour there is no account yet, and what was is known all the same.
    let shown = world.books(NOW + 14 * HOUR).show("hour/model=a").unwrap();
    assert_eq!(
        (shown.state, shown.used, shown.left),
        (AccountState::Unused, 0, Some(100))
    );
    assert_eq!(shown.ended[0].used, 23);
    let shown = world.books(NOW).show("team-day/agent=coder,user=ada");
    assert!(shown.is_err());
}

#[test]
fn where_nothing_can_be_foretold_it_is_said_why() {
    let world = World::new();
    world.holds("at-once", "", 1, NOW);
    world.uses("all", "", 1, NOW);
    let query = BudgetQuery {
        forecast: true,
        ..BudgetQuery::default()
    };
    let told = world.books(NOW).list(&query).unwrap();
    let why = |name: &str| {
        let it = told.accounts.iter().find(|it| it.account == name).unwrap();
        assert_eq!(it.forecast, None, "{name}");
        it.no_forecast.clone().unwrap()
    };
    assert_eq!(why("at-once"), "calls at the same time are not used up");
    assert_eq!(why("team-day"), "nothing was charged to the budget yet");
    assert!(why("all").starts_with("too little is known"));
    world.uses("time", "agent=coder", 0, NOW);
    let told = world.books(NOW + 600_000).list(&query).unwrap();
    let clock = told
        .accounts
        .iter()
        .find(|it| it.account == "time/agent=coder");
    let clock = clock.unwrap().forecast.as_ref().unwrap();
    let exhausted = clock.exhausted.as_ref().unwrap();
    assert_eq!(
        (clock.basis, exhausted.at),
        (ForecastBasis::Clock, Some(time(NOW + HOUR)))
    );
}

#[test]
fn an_account_that_is_not_there_is_told_with_those_that_may_be_meant() {
    let world = World::new();
    world.uses("team-day", "agent=coder,user=ada", 1, NOW);
    world.uses("team-day", "agent=coder,user=bob", 1, NOW);
    for (name, message, hint) in [
        (
            "team-day",
            "`team-day` has an account for each agent and user",
            "did you mean `team-day/agent=coder,user=ada` or `team-day/agent=coder,user=bob`? `agentguard budget list` has all",
        ),
        (
            "team-day/agent=coder,user=ado",
            "nothing was charged to `team-day/agent=coder,user=ado`",
            "did you mean `team-day/agent=coder,user=ada` or `team-day/agent=coder,user=bob`? `agentguard budget list` has all",
        ),
        (
            "hour/model=a",
            "nothing was charged to `hour/model=a` in the window that is under way, nor in an earlier one",
            "`agentguard budget list` has those that are there",
        ),
        (
            "al",
            "there is no account `al`",
            "did you mean `all`? `agentguard budget list` has all",
        ),
        (
            "\u{1b}[2J",
            "there is no account `\\u{1b}[2J`",
            "`agentguard budget list` has those that are there",
        ),
    ] {
        let refused = world.refused(name);
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (ProblemCode::NotFound, message)
        );
        assert_eq!(refused.hint.as_deref(), Some(hint), "{name}");
    }
    let refused = world.refused(&"a".repeat(5000));
    assert_eq!(refused.code, ProblemCode::BadRequest);
    assert!(world.refused(&"a".repeat(300)).message.len() < 120);
}

#[test]
fn of_too_many_accounts_the_fullest_are_listed_and_the_others_counted() {
    let world = World::new();
    // More than one budget may have.
    for n in 0..MAX_TOLD + 5 {
        match n % 2 {
            0 => world.uses("hour", &format!("model=m-{n}"), 2, NOW),
            _ if n == MAX_TOLD + 3 => world.uses("team-day", "agent=full,user=", 4_000_000, NOW),
            _ => world.uses("team-day", &format!("agent=a-{n},user="), 2, NOW),
        }
    }
    let told = world.books(NOW).list(&BudgetQuery::default()).unwrap();
    // Three budgets have none yet, each with a line.
    assert_eq!((told.accounts.len(), told.more), (MAX_TOLD, 5 + 3));
    assert_eq!(told.accounts[0].account, "team-day/agent=full,user=");
}

#[test]
fn a_query_is_read_as_it_is_written() {
    let query = BudgetQuery {
        forecast: true,
        ..of(Some("a&b c"), Some("coder"))
    };
    assert_eq!(BudgetQuery::parse(&query.to_query_string()).unwrap(), query);
    assert_eq!(BudgetQuery::parse("").unwrap(), BudgetQuery::default());
    for (text, why) in [
        ("budget=a&budget=b", "`budget` is given twice"),
        ("scope=a", "there is no parameter `scope`"),
        ("forecast=1", "`forecast` is `true` or `false`"),
        ("agent=No", "`No` is not an agent name"),
    ] {
        let problem = BudgetQuery::parse(text).unwrap_err();
        assert!(problem.message.contains(why), "{}", problem.message);
    }
    let dimension = Dimension::Agent;
    assert_eq!(
        Scope::of([(&dimension, "coder")]).value(&dimension),
        Some("coder")
    );
}

/// A Redis of which nobody answers; what it had said before is told as it was.
async fn away() -> AnyLedger {
    let nowhere = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = nowhere.local_addr().unwrap().to_string();
    drop(nowhere);
    let shared = Shared::open(Options::new(address, "tests")).await;
    AnyLedger::Shared(Arc::new(shared))
}

#[tokio::test]
async fn accounts_that_hosts_share_have_the_windows_that_are_kept_and_no_forecast() {
    let world = World::new();
    world.uses("hour", "model=a", 40, NOW - HOUR);
    world.uses("hour", "model=a", 7, NOW);
    world.uses("hour", "model=b", 3, NOW - 2 * HOUR);
    world.uses("time", "agent=coder", 0, NOW - HOUR);
    let listed = Listed {
        states: world.ledger.accounts(NOW),
        unread: 5,
    };
    let any = away().await;
    let books = Books::of(&world.policy, &any, listed, time(NOW));
    let shown = books.show("hour/model=a").unwrap();
    assert_eq!((shown.used, shown.state), (7, AccountState::Open));
    let ended: Vec<u64> = shown.ended.iter().map(|it| it.used).collect();
    assert_eq!(ended, [40]);
    assert_eq!(shown.forecast, None);
    assert!(shown.no_forecast.unwrap().contains("and not when"));
    // One that was charged in an earlier window only is there.
    let shown = books.show("hour/model=b").unwrap();
    assert_eq!((shown.used, shown.state), (0, AccountState::Unused));
    assert!(books.show("hour/model=c").is_err());
    // The clock is known.
    let shown = books.show("time/agent=coder").unwrap();
    assert_eq!(shown.forecast.unwrap().basis, ForecastBasis::Clock);
    let query = BudgetQuery {
        forecast: true,
        ..BudgetQuery::default()
    };
    let told = books.list(&query).unwrap();
    assert_eq!(told.unread, 5);
}

#[tokio::test]
async fn what_cannot_be_read_is_no_empty_list() {
    let refused = super::listed(&away().await, time(NOW)).await.unwrap_err();
    assert!(refused.message.contains("cannot be read"), "{refused:?}");
    assert!(refused.hint.unwrap().contains("agentguard status"));
}

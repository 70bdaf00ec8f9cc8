use agentguard_control::budgets::{
    AccountState, BudgetAccount, BudgetAtEnd, BudgetExhausted, BudgetForecast, BudgetInPolicy,
    BudgetWindow, ForecastBasis,
};
use agentguard_model::budget::{Reached, Unit};
use agentguard_model::{Mode, Source};
use jiff::Timestamp;

use super::{forecast, story, table};

fn at(hours: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + hours * 3600).unwrap()
}

fn account(name: &str, unit: Unit, used: u64, limit: Option<u64>) -> BudgetAccount {
    let (budget, scope) = name.split_once('/').unwrap_or((name, ""));
    BudgetAccount {
        account: name.to_owned(),
        budget: budget.to_owned(),
        scope: scope.to_owned(),
        unit,
        window: "day UTC".to_owned(),
        state: match limit {
            Some(_) => AccountState::Open,
            None => AccountState::LeftOver,
        },
        limit,
        used,
        held: 0,
        left: limit.map(|limit| limit - used),
        percent: limit.map(|limit| used * 100 / limit),
        overshoot: 0,
        since: Some(at(0)),
        resets: Some(at(24)),
        policy: None,
        first: None,
        last: None,
        ended: Vec::new(),
        forecast: None,
        no_forecast: None,
    }
}

fn foretold() -> BudgetForecast {
    BudgetForecast {
        burn_rate: 500_000,
        burn_rate_of_window: 250_000,
        exhausted: Some(BudgetExhausted {
            earliest: at(3),
            at: Some(at(4)),
            latest: None,
        }),
        at_end: Some(BudgetAtEnd {
            low: 3_000_000,
            expected: 6_000_000,
            high: 9_000_000,
        }),
        basis: ForecastBasis::Seasonal,
        windows: Some(12),
        confidence: 80,
    }
}

#[test]
fn accounts_are_listed_with_what_is_used_held_and_left() {
    let accounts = [
        BudgetAccount {
            held: 50_000,
            left: Some(1_950_000),
            ..account(
                "team/agent=coder",
                Unit::MicroUsd,
                3_000_000,
                Some(5_000_000),
            )
        },
        BudgetAccount {
            state: AccountState::Unused,
            ..account("all", Unit::Tokens, 0, Some(1000))
        },
        BudgetAccount {
            resets: None,
            ..account("time", Unit::WallTime, 90_000, Some(3_600_000))
        },
        account("old", Unit::Calls, 7, None),
    ];
    assert_eq!(
        table(&accounts).render(None),
        "\
ACCOUNT           UNIT       USED   HELD   LIMIT  LEFT   %   RESETS                STATE
team/agent=coder  micro_usd  $3.00  $0.05  $5.00  $1.95  60  2027-01-16T08:00:00Z  open
all               tokens     0      0      1000   1000   0   2027-01-16T08:00:00Z  unused
time              wall_time  90s    0s     3600s  3510s  2   -                     open
old               calls      7      0      -      -      -   2027-01-16T08:00:00Z  not in the policy
"
    );
}

#[test]
fn an_account_is_told_line_by_line_and_harmless_to_a_terminal() {
    let shown = BudgetAccount {
        held: 50_000,
        overshoot: 20_000,
        policy: Some(BudgetInPolicy {
            source: Source {
                file: "policy.yaml".to_owned(),
                line: 12,
            },
            mode: Mode::Shadow,
            reached: Reached::Alert,
            per: vec!["agent".to_owned(), "user".to_owned()],
            reason: None,
        }),
        first: Some(at(1)),
        last: Some(at(2)),
        ended: vec![BudgetWindow {
            since: at(-24),
            until: at(0),
            used: 4_800_000,
        }],
        forecast: Some(foretold()),
        ..account(
            "team/agent=coder,user=a\u{1b}",
            Unit::MicroUsd,
            3_000_000,
            Some(5_000_000),
        )
    };
    assert_eq!(
        story(&shown),
        "\
account   team/agent=coder,user=a\\u{1b}
budget    team for each agent and user, policy.yaml:12, in shadow: nothing is refused for it, alerts only
window    day UTC, since 2027-01-15T08:00:00Z, until 2027-01-16T08:00:00Z
used      $3.00 of $5.00 (60 % of it is used and held)
held      $0.05 for calls under way
left      $2.00
overshoot $0.02: used beyond what was held for it
charged   first 2027-01-15T09:00:00Z, last 2027-01-15T10:00:00Z
forecast  $0.50 in an hour lately, $0.25 since the window began
forecast  exhausted 2027-01-15T12:00:00Z; probably not before 2027-01-15T11:00:00Z, and perhaps never
forecast  $6.00 at the end; probably $3.00 to $9.00
forecast  from 12 earlier windows; the truth is within it 80 times of 100
ended     2027-01-14T08:00:00Z to 2027-01-15T08:00:00Z: $4.80
"
    );
    let old = story(&BudgetAccount {
        no_forecast: Some("nothing is charged to it".to_owned()),
        ..account("old", Unit::Calls, 7, None)
    });
    assert_eq!(
        old,
        "\
account   old
budget    old, which the policy does not have any more, or has with another unit or window
window    day UTC, since 2027-01-15T08:00:00Z, until 2027-01-16T08:00:00Z
used      7 calls
forecast  nothing is charged to it
"
    );
}

#[test]
fn forecasts_are_listed_and_where_there_is_none_why() {
    let accounts = [
        BudgetAccount {
            forecast: Some(foretold()),
            ..account("team", Unit::MicroUsd, 3_000_000, Some(5_000_000))
        },
        BudgetAccount {
            forecast: Some(BudgetForecast {
                exhausted: None,
                at_end: None,
                basis: ForecastBasis::Recent,
                windows: None,
                ..foretold()
            }),
            ..account("calls", Unit::Calls, 7, Some(10))
        },
        BudgetAccount {
            no_forecast: Some("too little is known".to_owned()),
            ..account("all", Unit::Tokens, 0, Some(1000))
        },
    ];
    assert_eq!(
        forecast::table(&accounts).render(None),
        "\
ACCOUNT  UNIT       USED   LIMIT  PER HOUR  EXHAUSTED             EARLIEST              LATEST  AT THE END              FROM
team     micro_usd  $3.00  $5.00  $0.50     2027-01-15T12:00:00Z  2027-01-15T11:00:00Z  never   $6.00 ($3.00 to $9.00)  12 earlier windows
calls    calls      7      10     500000    no                    -                     -       -                       recent use
all      tokens     0      1000   -         -                     -                     -       -                       too little is known
"
    );
}

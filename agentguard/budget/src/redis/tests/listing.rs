use std::sync::Arc;
use std::time::Duration;

use agentguard_model::budget::{Budget, Unit, Window};

use super::{NOW, Server, budget, charge, expire, one, open, options, settled, short, until, want};
use crate::charge::{Charge, Want};
use crate::embedded::{MAX_ACCOUNTS, State};
use crate::ledger::{Ledger as _, Refused};
use crate::redis::{Shared, account::Account};

async fn listed(shared: &Shared, now: i64) -> Vec<State> {
    let listed = shared.accounts(now).await.expect("a list");
    assert_eq!(listed.unread, 0);
    listed.states
}

async fn the_only(shared: &Shared, id: &str, now: i64) -> State {
    let mut all = listed(shared, now).await;
    all.retain(|it| &*it.budget == id);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn amounts(state: &State) -> (u64, u64) {
    (state.used, state.held)
}

#[tokio::test]
async fn accounts_of_all_hosts_are_listed_as_the_ledger_of_one_host_lists_them() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let (here, there) = (open(&options(&server)).await, open(&options(&server)).await);
    let sliding = Window::Sliding(Duration::from_secs(3600));
    let budgets = [
        budget("d%|y", Unit::Tokens, 1000, Window::Day),
        budget("hour", Unit::Tokens, 1000, sliding),
        budget("at-once", Unit::ConcurrentCalls, 99, Window::Lifetime),
        budget("places", Unit::Destinations, 9, Window::Month),
        budget("time", Unit::WallTime, 60_000, Window::Lifetime),
    ];
    let both = |agent: &str| -> Want {
        let of = |it: &Arc<Budget>| charge(it, agent, 10, 0);
        want(budgets.iter().map(of).collect(), 0, 0)
    };
    let directory = tempfile::TempDir::new().expect("a directory");
    let time = jiff::Timestamp::from_millisecond(NOW).expect("a time");
    let own = crate::embedded::Embedded::open(directory.path(), time).expect("a ledger");
    for (shared, agent) in [(&here, "a"), (&there, "b")] {
        let used = [7, 12, 0, 0, 0];
        let ended = shared.reserve(&both(agent), NOW).await.expect("room");
        shared.settle(ended.id, Some(&used), NOW);
        settled(shared).await;
        shared.reserve(&both(agent), NOW + 1).await.expect("room");
        let ended = own.reserves(&both(agent), NOW).expect("room");
        own.settle(ended.id, Some(&used), NOW);
        own.reserves(&both(agent), NOW + 1).expect("room");
    }
    let sorted = |mut all: Vec<State>| {
        all.sort_by_key(|it| (it.budget.to_string(), it.scope.to_string()));
        all
    };
    let wanted = sorted(own.accounts(NOW + 500));
    assert_eq!(wanted.len(), 10);
    for shared in [&here, &there] {
        assert_eq!(sorted(listed(shared, NOW + 500).await), wanted);
    }
}

#[tokio::test]
async fn what_an_operator_sets_counts_for_all_hosts_and_what_is_held_stays_held() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let (here, there) = (open(&options(&server)).await, open(&options(&server)).await);
    let tokens = budget("t", Unit::Tokens, 100, Window::Day);
    let hour = Window::Sliding(Duration::from_secs(3600));
    let hour = budget("h", Unit::Tokens, 100, hour);
    let both = |tokens_: u64| {
        let charges = vec![
            charge(&tokens, "a", 0, 1_000_000),
            charge(&hour, "a", 0, 1_000_000),
        ];
        want(charges, tokens_, tokens_)
    };
    let spent = here.reserve(&both(90), NOW).await.expect("room");
    here.settle(spent.id, Some(&[90, 90]), NOW);
    settled(&here).await;
    let under_way = here.reserve(&both(10), NOW).await.expect("room");
    short(there.reserve(&both(1), NOW).await);
    for id in ["t", "h"] {
        let state = the_only(&there, id, NOW).await;
        assert_eq!(amounts(&state), (90, 10));
        assert!(there.set(&state, 30, NOW + 5).await.expect("an answer"));
        let state = the_only(&here, id, NOW + 5).await;
        assert_eq!(amounts(&state), (30, 10));
        assert_eq!(state.last, NOW, "nobody has charged it");
    }
    // The next call of any host has what is left.
    assert_eq!(here.reserve(&both(60), NOW).await.expect("room").tokens, 60);
    short(there.reserve(&both(1), NOW).await);
    here.settle(under_way.id, Some(&[4, 4]), NOW);
    settled(&here).await;
    assert_eq!(amounts(&the_only(&there, "t", NOW).await), (34, 60));
    // One of another window is none.
    let state = the_only(&there, "t", NOW).await;
    let tomorrow = State {
        since: state.since + 86_400_000,
        until: state.until.map(|it| it + 86_400_000),
        ..state
    };
    assert!(!there.set(&tomorrow, 0, NOW).await.expect("an answer"));
}

#[tokio::test]
async fn time_begins_anew_and_places_are_forgotten() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let shared = open(&options(&server)).await;
    let time = budget("w", Unit::WallTime, 60_000, Window::Lifetime);
    let places = budget("p", Unit::Destinations, 2500, Window::Day);
    let to = |place| {
        let place = Charge {
            place,
            ..charge(&places, "a", 0, 0)
        };
        want(vec![place, charge(&time, "a", 0, 0)], 0, 0)
    };
    // More than go into one command of the script.
    for place in 0..2500 {
        shared.reserve(&to(place), NOW).await.expect("room");
    }
    short(shared.reserve(&to(2500), NOW).await);
    short(shared.reserve(&to(1), NOW + 60_000).await);
    let state = the_only(&shared, "w", NOW + 40_000).await;
    assert_eq!(state.used, 40_000);
    assert!(shared.set(&state, 50_000, NOW + 40_000).await.expect("one"));
    assert_eq!(the_only(&shared, "w", NOW + 41_000).await.used, 51_000);
    assert!(shared.set(&state, 0, NOW + 70_000).await.expect("one"));
    let state = the_only(&shared, "p", NOW).await;
    assert_eq!(state.used, 2500);
    assert!(shared.set(&state, 0, NOW + 70_000).await.expect("one"));
    assert_eq!(the_only(&shared, "p", NOW).await.used, 0);
    let begun = shared.reserve(&to(2500), NOW + 71_000).await.expect("room");
    assert_eq!(begun.deadline, Some(NOW + 131_000));
    assert_eq!(the_only(&shared, "p", NOW).await.used, 1);
}

#[tokio::test]
async fn a_host_that_comes_back_late_takes_nothing_off_what_an_operator_has_set() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let shared = open(&options(&server)).await;
    let tokens = budget("t", Unit::Tokens, 1000, Window::Day);
    let late = shared.reserve(&one(&tokens, 100), NOW).await.expect("room");
    expire(&server);
    // Whoever looks finds it charged.
    let state = the_only(&shared, "t", NOW).await;
    assert_eq!(amounts(&state), (100, 0));
    assert!(shared.set(&state, 50, NOW).await.expect("one"));
    shared.settle(late.id, Some(&[30]), NOW);
    settled(&shared).await;
    assert_eq!(amounts(&the_only(&shared, "t", NOW).await), (80, 0));
    // Without anybody's word it is corrected.
    let late = shared.reserve(&one(&tokens, 100), NOW).await.expect("room");
    expire(&server);
    assert_eq!(amounts(&the_only(&shared, "t", NOW).await), (180, 0));
    shared.settle(late.id, Some(&[30]), NOW);
    settled(&shared).await;
    assert_eq!(amounts(&the_only(&shared, "t", NOW).await), (110, 0));
}

#[tokio::test]
async fn an_account_that_is_charged_all_the_time_is_kept() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let shared = open(&options(&server)).await;
    let calls = budget("c", Unit::Tokens, 1000, Window::Lifetime);
    let call = async || {
        let one = shared.reserve(&one(&calls, 1), NOW).await.expect("room");
        shared.settle(one.id, Some(&[1]), NOW);
        settled(&shared).await;
    };
    call().await;
    let key = super::key(&server, &calls).expect("a key");
    // Almost forgotten, and told so long ago, but charged a moment ago.
    server.ask(&["HSET", &key, "t", "1"]);
    server.ask(&["PEXPIRE", &key, "60000"]);
    server.ask(&["ZADD", "{agentguard:tests}:l", "1", &key]);
    call().await;
    let super::Reply::Integer(left) = server.ask(&["PTTL", &key]) else {
        panic!("no time");
    };
    assert!(left > 80 * 86_400_000, "{left}");
    assert_eq!(the_only(&shared, "c", NOW).await.used, 2);
}

#[tokio::test]
async fn what_is_forgotten_is_not_listed_and_what_is_none_of_ours_is_told() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let shared = open(&options(&server)).await;
    assert_eq!(shared.accounts(NOW).await.expect("a list").states, []);
    let calls = budget("c", Unit::Calls, 1000, Window::Day);
    for agent in 0..700 {
        let agent = format!("a{agent}");
        let one = want(vec![charge(&calls, &agent, 1, 0)], 0, 0);
        let one = shared.reserve(&one, NOW).await.expect("room");
        shared.settle(one.id, Some(&[1]), NOW);
    }
    settled(&shared).await;
    let all = listed(&shared, NOW).await;
    assert_eq!(all.len(), 700);
    let mut scopes: Vec<_> = all.iter().map(|it| it.scope.to_string()).collect();
    scopes.sort();
    scopes.dedup();
    assert_eq!(scopes.len(), 700);
    let prefix = "{agentguard:tests}:";
    let first = Account::of(prefix, &all[0]);
    server.ask(&["DEL", &first.hash]);
    assert_eq!(listed(&shared, NOW).await.len(), 699);
    // And it is taken out of the list.
    let score = server.ask(&["ZSCORE", "{agentguard:tests}:l", &first.hash]);
    assert_eq!(score, super::Reply::Nothing);
    for stranger in ["x", "{agentguard:tests}:a|c|calls|day UTC|5|", "\u{1b}[31m"] {
        server.ask(&["ZADD", "{agentguard:tests}:l", "9e15", stranger]);
    }
    let listed = shared.accounts(NOW).await.expect("a list");
    assert_eq!((listed.states.len(), listed.unread), (699, 3));
    // All that share a time.
    for key in server.texts(&["ZRANGE", "{agentguard:tests}:l", "0", "-1"]) {
        server.ask(&["ZADD", "{agentguard:tests}:l", "9e15", &key]);
    }
    let listed = shared.accounts(NOW).await.expect("a list");
    assert_eq!((listed.states.len(), listed.unread), (699, 3));
}

#[tokio::test]
async fn calls_at_the_same_time_cannot_be_said_to_be_used() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let shared = open(&options(&server)).await;
    let calls = budget("c", Unit::ConcurrentCalls, 2, Window::Lifetime);
    let charges = vec![charge(&calls, "a", 1, 0)];
    let want = want(charges, 0, 0);
    shared.reserve(&want, NOW).await.expect("room");
    let account = listed(&shared, NOW).await.remove(0);
    assert!(shared.set(&account, 2, NOW).await.expect("one"));
    assert_eq!(listed(&shared, NOW).await, [account]);
    shared.reserve(&want, NOW).await.expect("room");
}

#[tokio::test]
async fn so_many_are_read_and_those_beside_are_counted() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let shared = open(&options(&server)).await;
    let calls = budget("c", Unit::Calls, 1000, Window::Lifetime);
    let one = shared.reserve(&one(&calls, 0), NOW).await.expect("room");
    shared.settle(one.id, Some(&[1]), NOW);
    settled(&shared).await;
    let key = super::key(&server, &calls).expect("a key");
    let most = MAX_ACCOUNTS + 300;
    for first in (0..most).step_by(1000) {
        let mut words = vec!["ZADD".to_owned(), "{agentguard:tests}:l".to_owned()];
        for number in first..(first + 1000).min(most) {
            words.extend(["9e14".to_owned(), format!("{key}{number}")]);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        server.ask(&words);
    }
    let listed = shared.accounts(NOW).await.expect("a list");
    assert_eq!(listed.states.len(), 1, "the others have no hash");
    assert!(listed.unread >= 300, "{}", listed.unread);
}

#[tokio::test]
async fn while_it_is_away_nobody_is_told_what_is_not_known() {
    let Some(mut server) = Server::start(&[]) else {
        return;
    };
    let shared = open(&options(&server)).await;
    let calls = budget("c", Unit::Calls, 1000, Window::Day);
    let one = shared.reserve(&one(&calls, 0), NOW).await.expect("room");
    shared.settle(one.id, Some(&[1]), NOW);
    settled(&shared).await;
    let state = the_only(&shared, "c", NOW).await;
    server.kill();
    until(&shared, "it is away", |it| it.away.is_some()).await;
    let refused = shared.accounts(NOW).await;
    assert!(matches!(refused, Err(Refused::Away(_))), "{refused:?}");
    let refused = shared.set(&state, 0, NOW).await;
    assert!(matches!(refused, Err(Refused::Away(_))), "{refused:?}");
}

#[test]
fn an_account_is_read_from_its_own_key() {
    let prefix = "{agentguard:tests}:";
    let account = |key: &str| Account::read(prefix, &format!("{prefix}{key}"));
    for key in [
        "a|t%25%7C|micro_usd|day Europe/Berlin|1795820400000|agent=a,user=b",
        "a|x|tokens|sliding 90000|0|",
        "a|x|wall_time|lifetime|0|(others)",
    ] {
        let (account, budget, scope) = account(key).expect("an account");
        assert_eq!(*account.hash, format!("{prefix}{key}"));
        assert!(key.ends_with(scope.as_str()), "{budget} {scope}");
    }
    for key in [
        "",
        "a|t|tokens|day UTC",
        "a|t|apples|day UTC|0|",
        "a|t|tokens|year|0|",
        // Not a beginning of a day.
        "a|t|tokens|day UTC|1|",
        "a|t|tokens|lifetime|0|agent=\u{e9}",
        "i|t|tokens|lifetime|0|",
    ] {
        assert!(account(key).is_none(), "{key}");
    }
}

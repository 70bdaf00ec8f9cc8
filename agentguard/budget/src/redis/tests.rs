mod listing;
mod notes;
mod reached;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentguard_model::budget::{Budget, Reached, Unit, WhenAway, Window};
use agentguard_model::ledger::OnLoss;
use jiff::Timestamp;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::link::Link;
use super::server::Server;
use super::wire::Reply;
use super::{Names, Options, Shared, script};
use crate::charge::{Charge, Granted, HoldId, More, Want};
use crate::embedded::Embedded;
use crate::ledger::{Ledger as _, Refused};
use crate::model::{NOW, Subject, budget, charge, follows, short, step, want};

/// So long that a busy machine is not taken for one that is away.
const PATIENT: Duration = Duration::from_secs(20);

fn options(server: &Server) -> Options {
    Options {
        timeout: PATIENT,
        ..Options::new(server.address(), "tests")
    }
}

async fn open(options: &Options) -> Shared {
    let shared = Shared::open(options.clone()).await;
    assert_eq!(shared.standing().away, None);
    shared
}

/// Waits until something is so.
async fn until(shared: &Shared, what: &str, is_so: impl Fn(&super::Standing) -> bool) {
    let mut attempts = shared.attempts.clone();
    let waits = attempts.wait_for(|_| is_so(&shared.standing()));
    let waited = tokio::time::timeout(PATIENT, waits).await;
    assert!(
        matches!(waited, Ok(Ok(_))),
        "{what}: {:?}",
        shared.standing()
    );
}

async fn settled(shared: &Shared) {
    until(shared, "all is settled", |it| {
        it.waiting == 0 && it.away.is_none()
    })
    .await;
}

/// The keys of the only account of a budget.
fn key(server: &Server, budget: &Budget) -> Option<String> {
    let pattern = format!("{{agentguard:tests}}:a|{}|*", budget.id);
    server.texts(&["KEYS", &pattern]).pop()
}

fn used_and_held(server: &Server, budget: &Budget) -> (u64, u64) {
    let read = |key: String| (server.number(&key, "u"), server.number(&key, "h"));
    key(server, budget).map_or((0, 0), read)
}

/// As if nobody had renewed anything for a long time.
fn expire(server: &Server) {
    for key in server.texts(&["KEYS", "{agentguard:tests}:i|*"]) {
        for hold in server.texts(&["ZRANGE", &key, "0", "-1"]) {
            server.ask(&["ZADD", &key, "XX", "1", &hold]);
        }
    }
}

fn one(budget: &Arc<Budget>, tokens: u64) -> Want {
    want(vec![charge(budget, "a", 0, 1_000_000)], tokens, 1)
}

#[test]
fn the_clock_ends_what_is_under_way_wherever_a_budget_limits() {
    for (reached, ends) in [
        (Reached::Deny, Some(NOW + 500)),
        (Reached::Freeze, Some(NOW + 500)),
        (Reached::Alert, None),
    ] {
        let time = budget("w", Unit::WallTime, 500, Window::Lifetime);
        let time = Arc::new(Budget {
            reached,
            ..(*time).clone()
        });
        let charges = [charge(&time, "a", 0, 0)];
        assert_eq!(super::deadline(&charges, &[NOW]), ends, "{reached:?}");
    }
}

/// A host, on a runtime of its own.
struct Host<'a> {
    server: &'a Server,
    runtime: &'a Runtime,
    shared: Option<Shared>,
}

impl<'a> Host<'a> {
    fn new(server: &'a Server, runtime: &'a Runtime) -> Self {
        server.ask(&["FLUSHALL"]);
        Self {
            server,
            runtime,
            shared: Some(runtime.block_on(open(&options(server)))),
        }
    }

    fn shared(&self) -> &Shared {
        self.shared.as_ref().expect("a host")
    }

    fn settled(&self) {
        self.runtime.block_on(settled(self.shared()));
    }
}

impl Subject for Host<'_> {
    fn reserve(&mut self, want: &Want, now: i64) -> Result<Granted, Refused> {
        // Else what was settled may not be there yet, as it is with one of one host.
        self.settled();
        self.runtime.block_on(self.shared().reserve(want, now))
    }

    fn extend(
        &mut self,
        id: HoldId,
        more: More,
        budgets: &[Arc<Budget>],
        now: i64,
    ) -> Result<u64, Refused> {
        self.settled();
        self.runtime
            .block_on(self.shared().extend(id, more, budgets, now))
    }

    fn settle(&mut self, id: HoldId, used: Option<&[u64]>, now: i64) {
        self.shared().settle(id, used, now);
    }

    fn pauses(&mut self) {
        self.server.ask(&["SCRIPT", "FLUSH"]);
    }

    fn dies(&mut self) {
        // What was settled before was settled.
        self.settled();
        self.shared = None;
        expire(self.server);
        self.shared = Some(self.runtime.block_on(open(&options(self.server))));
        // Whoever charges next finds it, some at a time.
        for key in self.server.texts(&["KEYS", "{agentguard:tests}:a|*"]) {
            let id = key.split('|').nth(1).expect("a budget").to_owned();
            let budget = budget(&id, Unit::Tokens, u64::MAX, Window::Day);
            for _ in 0..4 {
                let nothing = want(vec![charge(&budget, "a", 0, 0)], 0, 0);
                let granted = self.reserve(&nothing, NOW).expect("room");
                self.settle(granted.id, None, NOW);
            }
        }
    }

    fn used_and_held(&mut self, budget: &Budget) -> (u64, u64) {
        self.settled();
        used_and_held(self.server, budget)
    }
}

#[test]
fn it_does_what_a_simple_model_does() {
    let Some(server) = Server::start(&["--appendonly", "no"]) else {
        return;
    };
    let runtime = Runtime::new().expect("a runtime");
    let cases = ProptestConfig::with_cases(32);
    proptest!(cases, |(steps in proptest::collection::vec(step(), 1..40))| {
        follows(&mut Host::new(&server, &runtime), &steps)?;
    });
}

/// Budgets of all kinds, as they are charged.
fn kinds() -> Vec<Arc<Budget>> {
    let hour = Duration::from_secs(3600);
    let soft = |budget: Arc<Budget>| {
        Arc::new(Budget {
            reached: Reached::Alert,
            ..(*budget).clone()
        })
    };
    vec![
        budget("tokens", Unit::Tokens, 3000, Window::Hour),
        budget("money", Unit::MicroUsd, 2500, Window::Sliding(hour)),
        budget("calls", Unit::Calls, 12, Window::Lifetime),
        budget("open", Unit::ConcurrentCalls, 3, Window::Lifetime),
        budget("places", Unit::Destinations, 3, Window::Day),
        budget("time", Unit::WallTime, 5_000_000, Window::Day),
        soft(budget("soft", Unit::OutputTokens, 500, Window::Minute)),
        soft(budget("slow", Unit::WallTime, 60_000, Window::Hour)),
    ]
}

#[derive(Clone, Debug)]
enum Do {
    Begin(u8, u64, u64, (u64, u64), u64),
    More(usize, u64, Option<u64>),
    End(usize, Option<u64>),
    Wait(i64),
}

fn doing() -> impl Strategy<Value = Do> {
    prop_oneof![
        4 => (1_u8.., 0_u64..200, 0_u64..3_000_000, (0_u64..400, 0_u64..3000), 0_u64..5)
            .prop_map(|(which, fixed, rate, tokens, place)| Do::Begin(which, fixed, rate, tokens, place)),
        2 => (any::<usize>(), 1_u64..300, proptest::option::of(0_u64..3000))
            .prop_map(|(which, more, most)| Do::More(which, more, most)),
        4 => (any::<usize>(), proptest::option::of(0_u64..500)).prop_map(|(which, used)| Do::End(which, used)),
        2 => (-100_000_i64..1_500_000).prop_map(Do::Wait),
    ]
}

fn told(asked: Result<Granted, Refused>) -> (Option<HoldId>, String) {
    match asked {
        Ok(granted) => {
            let id = granted.id;
            let same = Granted {
                id: HoldId(0),
                ..granted
            };
            (Some(id), format!("{same:?}"))
        }
        Err(refused) => (None, format!("{refused:?}")),
    }
}

/// Every unit and window, with a clock that moves, also back: both ledgers say the same.
#[test]
fn it_says_what_the_ledger_of_one_host_says() {
    let Some(server) = Server::start(&["--appendonly", "no"]) else {
        return;
    };
    let runtime = Runtime::new().expect("a runtime");
    let cases = ProptestConfig::with_cases(48);
    proptest!(cases, |(steps in proptest::collection::vec(doing(), 1..50))| {
        let mut host = Host::new(&server, &runtime);
        let directory = TempDir::new().expect("a directory");
        let start = Timestamp::from_millisecond(NOW).expect("a time");
        let one = Embedded::open(directory.path(), start).expect("a ledger");
        let kinds = kinds();
        let (mut now, mut open) = (NOW, Vec::new());
        for step in steps {
            match step {
                Do::Begin(which, fixed, rate, (tokens, most), place) => {
                    let chosen = kinds.iter().enumerate().filter(|(bit, _)| which & (1 << bit) != 0);
                    let charges = chosen.map(|(_, budget)| {
                        let (fixed, rate) = match budget.unit {
                            Unit::Calls | Unit::ConcurrentCalls => (1, 0),
                            _ => (fixed, rate),
                        };
                        Charge { place, ..charge(budget, "a", fixed, rate) }
                    });
                    let want = Want { most, ..want(charges.collect(), tokens, tokens / 4) };
                    let (ours, shared) = told(host.reserve(&want, now));
                    let (its, embedded) = told(one.reserves(&want, now));
                    prop_assert_eq!(shared, embedded);
                    let budgets: Vec<_> = want.charges.iter().map(|it| it.budget.clone()).collect();
                    open.extend(ours.zip(its).map(|(ours, its)| (ours, its, budgets)));
                }
                Do::More(which, tokens, most) if !open.is_empty() => {
                    let more = More { tokens, most };
                    let (ours, its, budgets) = &open[which % open.len()];
                    let shared = format!("{:?}", host.extend(*ours, more, budgets, now));
                    let embedded = format!("{:?}", one.extends(*its, more, budgets, now));
                    prop_assert_eq!(shared, embedded);
                }
                Do::End(which, used) if !open.is_empty() => {
                    let (ours, its, budgets) = open.swap_remove(which % open.len());
                    let used = used.map(|used| vec![used; budgets.len()]);
                    host.settle(ours, used.as_deref(), now);
                    one.settle(its, used.as_deref(), now);
                }
                Do::Wait(time) => now += time,
                Do::More(..) | Do::End(..) => {}
            }
        }
        host.settled();
        for account in one.accounts(now) {
            let (id, since) = (&account.budget, account.since);
            let pattern = format!("{{agentguard:tests}}:a|{id}|*|{since}|*");
            let Some(key) = server.texts(&["KEYS", &pattern]).pop() else {
                // Nothing but calls that were refused.
                prop_assert_eq!((account.last, account.held), (0, 0), "{}", id);
                continue;
            };
            prop_assert_eq!(server.number(&key, "h"), account.held, "{}", id);
            prop_assert_eq!(server.number(&key, "o"), account.overshoot, "{}", id);
            if !matches!(account.unit, Unit::WallTime) && !account.window.starts_with("sliding") {
                prop_assert_eq!(server.number(&key, "u"), account.used, "{}", id);
            }
        }
    });
}

#[tokio::test]
async fn a_reservation_is_one_round_trip_and_scripts_may_be_forgotten() {
    let Some(server) = Server::start(&["--appendonly", "no"]) else {
        return;
    };
    let shared = open(&options(&server)).await;
    let budgets: Vec<_> = (0..5)
        .map(|it| budget(&format!("b{it}"), Unit::Tokens, 1_000_000, Window::Day))
        .collect();
    let charges = |tokens| {
        let charges = budgets.iter().map(|it| charge(it, "a", 1, 1_000_000));
        want(charges.collect(), tokens, 1)
    };
    settled(&shared).await;
    server.ask(&["CONFIG", "RESETSTAT"]);
    for _ in 0..20 {
        shared.reserve(&charges(10), NOW).await.expect("room");
    }
    let Reply::Text(text) = server.ask(&["INFO", "commandstats"]) else {
        panic!("no text");
    };
    let text = String::from_utf8(text).expect("text");
    assert!(text.contains("cmdstat_evalsha:calls=20,"), "{text}");
    assert!(!text.contains("cmdstat_eval:"), "{text}");
    server.ask(&["SCRIPT", "FLUSH"]);
    shared.reserve(&charges(10), NOW).await.expect("room");
    assert_eq!(used_and_held(&server, &budgets[0]), (0, 21 * 11));
}

#[tokio::test]
async fn the_hold_of_a_host_that_died_is_charged_once_and_corrected_when_it_comes_back() {
    let Some(server) = Server::start(&["--appendonly", "no"]) else {
        return;
    };
    let tokens = budget("t", Unit::Tokens, 100, Window::Day);
    let (dead, alive) = (open(&options(&server)).await, open(&options(&server)).await);
    let held = dead.reserve(&one(&tokens, 90), NOW).await.expect("room");
    let none = short(
        alive
            .reserve(&want(vec![charge(&tokens, "a", 20, 0)], 0, 0), NOW)
            .await,
    );
    assert_eq!(
        (none.balance.used, none.balance.held, none.may_pass()),
        (0, 90, true)
    );
    expire(&server);
    for _ in 0..3 {
        let none = short(
            alive
                .reserve(&want(vec![charge(&tokens, "a", 20, 0)], 0, 0), NOW)
                .await,
        );
        assert_eq!(
            (none.balance.used, none.balance.held, none.may_pass()),
            (90, 0, false)
        );
    }
    // It was not dead: it goes on, and says what it has used.
    let budgets = [tokens.clone()];
    assert_eq!(
        dead.extend(held.id, 20.into(), &budgets, NOW)
            .await
            .expect("room"),
        10
    );
    assert_eq!(used_and_held(&server, &tokens), (0, 100));
    expire(&server);
    short(alive.reserve(&one(&tokens, 1), NOW).await);
    assert_eq!(used_and_held(&server, &tokens), (100, 0));
    dead.settle(held.id, Some(&[7]), NOW);
    settled(&dead).await;
    assert_eq!(used_and_held(&server, &tokens), (7, 0));
}

#[tokio::test]
async fn what_is_written_while_a_call_waits_is_charged_if_its_host_dies() {
    let Some(server) = Server::start(&["--appendonly", "no"]) else {
        return;
    };
    let tokens = budget("t", Unit::Tokens, 100, Window::Day);
    let budgets = [tokens.clone()];
    let (dead, alive) = (open(&options(&server)).await, open(&options(&server)).await);
    let waits = dead.reserve(&one(&tokens, 40), NOW).await.expect("room");
    let other = alive.reserve(&one(&tokens, 60), NOW).await.expect("room");
    let more = More {
        tokens: 10,
        most: Some(5000),
    };
    let none = short(dead.extend(waits.id, more, &budgets, NOW).await);
    assert!(none.may_pass(), "{none:?}");
    // Nothing of it is held from others.
    assert_eq!(used_and_held(&server, &tokens), (0, 100));
    alive.settle(other.id, Some(&[0]), NOW);
    settled(&alive).await;
    let takes = alive.reserve(&one(&tokens, 60), NOW).await.expect("room");
    expire(&server);
    short(alive.reserve(&one(&tokens, 1), NOW).await);
    let key = key(&server, &tokens).expect("an account");
    let over = || server.number(&key, "o");
    assert_eq!((used_and_held(&server, &tokens), over()), ((5060, 0), 4960));
    // Neither was dead.
    alive.settle(takes.id, Some(&[20]), NOW);
    settled(&alive).await;
    assert_eq!((used_and_held(&server, &tokens), over()), ((5020, 0), 4960));
    let got = dead.extend(waits.id, more, &budgets, NOW).await;
    assert_eq!(got.expect("room"), 10);
    assert_eq!((used_and_held(&server, &tokens), over()), ((20, 50), 0));
    // It does not wait any more, so that it owes what it holds, and what its provider writes until it notices.
    expire(&server);
    let whole = want(vec![charge(&tokens, "a", 100, 0)], 0, 0);
    short(alive.reserve(&whole, NOW).await);
    assert_eq!(
        (used_and_held(&server, &tokens), over()),
        ((20 + 50 + 1024, 0), 1024)
    );
    dead.settle(waits.id, Some(&[45]), NOW);
    settled(&dead).await;
    assert_eq!((used_and_held(&server, &tokens), over()), ((65, 0), 0));
    // Nothing of it stays.
    assert_eq!(server.texts(&["HKEYS", &key]).len(), 7);
}

#[tokio::test]
async fn what_is_under_way_is_renewed() {
    let Some(server) = Server::start(&["--appendonly", "no"]) else {
        return;
    };
    let tokens = budget("t", Unit::Tokens, 100, Window::Day);
    let quick = Options {
        lease: Duration::from_secs(3),
        ..options(&server)
    };
    let (shared, other) = (open(&quick).await, open(&options(&server)).await);
    shared.reserve(&one(&tokens, 60), NOW).await.expect("room");
    let index = server
        .texts(&["KEYS", "{agentguard:tests}:i|t|*"])
        .pop()
        .expect("an index");
    let expires = || server.texts(&["ZRANGE", &index, "0", "-1", "WITHSCORES"])[1].clone();
    let first = expires();
    let deadline = std::time::Instant::now() + PATIENT;
    while expires() == first {
        assert!(std::time::Instant::now() < deadline, "it is not renewed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        short(
            other
                .reserve(&want(vec![charge(&tokens, "a", 50, 0)], 0, 0), NOW)
                .await
        )
        .balance
        .held,
        60
    );
    // Nobody renews it any more.
    drop(shared);
    loop {
        let none = short(
            other
                .reserve(&want(vec![charge(&tokens, "a", 50, 0)], 0, 0), NOW)
                .await,
        );
        if none.balance.used == 60 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{none:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_redis_that_forgets_is_told_what_is_under_way_and_charged_what_is_over() {
    let Some(mut server) = Server::start(&["--appendonly", "no"]) else {
        return;
    };
    let tokens = budget("t", Unit::Tokens, 100, Window::Day);
    let budgets = [tokens.clone()];
    let shared = open(&options(&server)).await;
    let over = shared.reserve(&one(&tokens, 30), NOW).await.expect("room");
    let open_one = shared.reserve(&one(&tokens, 40), NOW).await.expect("room");
    server.kill();
    shared.settle(over.id, Some(&[25]), NOW);
    until(&shared, "it is away", |it| it.away.is_some()).await;
    server.again();
    settled(&shared).await;
    assert_eq!(used_and_held(&server, &tokens), (25, 40));
    // Behind its back, too.
    server.ask(&["FLUSHALL"]);
    assert_eq!(
        shared
            .extend(open_one.id, 100.into(), &budgets, NOW)
            .await
            .expect("room"),
        60
    );
    shared.settle(open_one.id, Some(&[50]), NOW);
    settled(&shared).await;
    assert_eq!(used_and_held(&server, &tokens), (50, 0));
}

#[tokio::test]
async fn a_redis_that_keeps_what_it_has_is_right_over_its_restart() {
    let arguments = ["--appendonly", "yes", "--appendfsync", "always"];
    let Some(mut server) = Server::start(&arguments) else {
        return;
    };
    let tokens = budget("t", Unit::Tokens, 1000, Window::Day);
    let shared = open(&options(&server)).await;
    let mut open_ones = Vec::new();
    let mut used = 0;
    for round in 0..4_u64 {
        for _ in 0..5 {
            open_ones.push(
                shared
                    .reserve(&one(&tokens, 20), NOW)
                    .await
                    .expect("room")
                    .id,
            );
        }
        server.kill();
        for id in open_ones.drain(..3) {
            shared.settle(id, Some(&[round + 1]), NOW);
            used += round + 1;
        }
        until(&shared, "it is away", |it| it.away.is_some()).await;
        server.again();
        settled(&shared).await;
        let held = 20 * u64::try_from(open_ones.len()).expect("few");
        assert_eq!(used_and_held(&server, &tokens), (used, held));
    }
}

#[tokio::test]
async fn what_is_sent_twice_or_too_late_counts_once_or_not() {
    let Some(server) = Server::start(&["--appendonly", "no"]) else {
        return;
    };
    let options = options(&server);
    let names = Names::new("tests");
    let tokens = budget("t", Unit::Tokens, 100, Window::Day);
    let link = Link::open(&options, &server.address(), 3)
        .await
        .expect("a connection");
    let run = |operation| {
        let link = &link;
        async move { link.run(&operation).await.expect("an answer") }
    };
    let asked = one(&tokens, 40);
    let account = super::account::Accounts::default().of(&names.prefix, &asked.charges[0], NOW);
    let charges = [(account.clone(), &asked.charges[0])];
    let reserve = |generation, hold| {
        let times = (NOW, Options::LEASE);
        script::reserve((&names, generation), hold, (40, 1, 0), &charges, times)
    };
    let first = script::reserved(&run(reserve(2, 1)).await).expect("read");
    assert!(
        matches!(first, script::Reserved::Granted { tokens: 40, .. }),
        "{first:?}"
    );
    script::done(&run(script::fence(&names, 3)).await).expect("done");
    let late = script::reserved(&run(reserve(2, 2)).await).expect("read");
    assert!(matches!(late, script::Reserved::Late), "{late:?}");
    let settlement = script::Settlement {
        sequence: 1,
        hold: 1,
        at: NOW,
        gives_back: false,
        parts: vec![script::Spent {
            account: account.clone(),
            held: 40,
            covered: 0,
            used: Some(15),
        }],
    };
    for _ in 0..3 {
        let settle = script::settle((&names, 3), std::slice::from_ref(&settlement), NOW);
        script::done(&run(settle).await).expect("done");
        assert_eq!(used_and_held(&server, &tokens), (15, 0));
    }
}

#[tokio::test]
async fn while_it_is_away_calls_are_refused_and_nothing_stays_held() {
    let Some(server) = Server::start(&["--appendonly", "no"]) else {
        return;
    };
    let tokens = budget("t", Unit::Tokens, 100, Window::Day);
    let quick = Options {
        timeout: Duration::from_millis(500),
        ..options(&server)
    };
    let shared = open(&quick).await;
    let held = shared.reserve(&one(&tokens, 10), NOW).await.expect("room");
    server.stops();
    // These are in its socket, and it executes them once it goes on.
    let asked = one(&tokens, 10);
    let (one_more, another) =
        tokio::join!(shared.reserve(&asked, NOW), shared.reserve(&asked, NOW));
    for refused in [one_more, another] {
        assert!(matches!(refused, Err(Refused::Away(_))), "{refused:?}");
    }
    let (_, why) = shared.standing().away.expect("away");
    assert!(why.contains("no answer within 500 ms"), "{why}");
    let refused = shared
        .extend(held.id, 5.into(), std::slice::from_ref(&tokens), NOW)
        .await;
    assert!(matches!(refused, Err(Refused::Away(_))), "{refused:?}");
    server.goes_on();
    settled(&shared).await;
    assert_eq!(used_and_held(&server, &tokens), (0, 10));
    shared.settle(held.id, Some(&[4]), NOW);
    settled(&shared).await;
    assert_eq!(used_and_held(&server, &tokens), (4, 0));
}

#[tokio::test]
async fn a_caller_that_does_not_wait_holds_nothing() {
    let Some(server) = Server::start(&["--appendonly", "no"]) else {
        return;
    };
    let tokens = budget("t", Unit::Tokens, 100, Window::Day);
    let shared = open(&options(&server)).await;
    server.stops();
    let asked = one(&tokens, 10);
    let reserve = shared.reserve(&asked, NOW);
    assert!(
        tokio::time::timeout(Duration::from_millis(50), reserve)
            .await
            .is_err()
    );
    server.goes_on();
    settled(&shared).await;
    assert_eq!(used_and_held(&server, &tokens), (0, 0));
}

#[tokio::test]
async fn time_that_is_over_ends_what_is_under_way_also_while_it_is_away() {
    let Some(server) = Server::start(&["--appendonly", "no"]) else {
        return;
    };
    let tokens = budget("t", Unit::Tokens, 5, Window::Day);
    let time = budget("w", Unit::WallTime, 10_000, Window::Lifetime);
    let leased = Options {
        timeout: Duration::from_millis(500),
        on_loss: OnLoss::Lease(10),
        ..options(&server)
    };
    let shared = open(&leased).await;
    let charges = vec![charge(&tokens, "a", 5, 1_000_000), charge(&time, "a", 0, 0)];
    let spent = shared.reserve(&want(charges, 0, 0), NOW).await;
    let spent = spent.expect("room").id;
    let both = [tokens, Arc::clone(&time)];
    let early = short(shared.extend(spent, 1.into(), &both, NOW + 9_999).await);
    assert_eq!(early.charge, 0);
    let late = short(shared.extend(spent, 1.into(), &both, NOW + 10_000).await);
    assert_eq!(late.charge, 1);
    let charged = vec![charge(&time, "a", 0, 0)];
    let one = shared.reserve(&want(charged, 0, 0), NOW).await;
    let one = one.expect("time").id;
    server.stops();
    let only = [time];
    let more = shared.extend(one, 1.into(), &only, NOW + 9_999).await;
    assert_eq!(more.expect("time"), 1);
    assert!(shared.standing().away.is_some());
    let late = short(shared.extend(one, 1.into(), &only, NOW + 10_000).await);
    assert_eq!((late.charge, late.balance.used), (0, 10_000));
    // Nobody has charged the account for long, so that nothing is drawn of it any more.
    shared.settle(spent, None, NOW + 3_600_000);
    shared.inner.gives_back_old();
    let (hold, _) = shared.inner.goes_on(HoldId(one.0)).expect("a call");
    let known = shared.inner.leases_know(&hold.parts[0].account);
    assert!(!known);
    let more = shared.extend(one, 1.into(), &only, NOW + 9_999).await;
    assert_eq!(more.expect("time"), 1);
    let late = short(shared.extend(one, 1.into(), &only, NOW + 10_000).await);
    assert_eq!((late.charge, late.balance.used), (0, 10_000));
    server.goes_on();
}

#[tokio::test]
async fn what_was_drawn_in_advance_is_spent_while_it_is_away_and_no_more() {
    let Some(server) = Server::start(&["--appendonly", "no"]) else {
        return;
    };
    let tokens = budget("t", Unit::Tokens, 1000, Window::Day);
    let calls = budget("c", Unit::ConcurrentCalls, 50, Window::Lifetime);
    let leased = Options {
        timeout: Duration::from_millis(500),
        on_loss: OnLoss::Lease(10),
        ..options(&server)
    };
    let (shared, other) = (open(&leased).await, open(&options(&server)).await);
    let both = |amount| {
        let charges = vec![
            charge(&tokens, "a", 0, 1_000_000),
            charge(&calls, "a", 1, 0),
        ];
        want(charges, amount, amount)
    };
    let first = shared.reserve(&both(40), NOW).await.expect("room");
    until(&shared, "it is drawn", |it| it.leased == 2).await;
    assert_eq!(used_and_held(&server, &tokens), (0, 140));
    server.stops();
    let budgets = [tokens.clone(), calls.clone()];
    // The first finds that it is away.
    let second = shared.reserve(&both(30), NOW).await.expect("drawn");
    assert!(shared.standing().away.is_some());
    assert_eq!(
        shared
            .extend(first.id, 20.into(), &budgets, NOW)
            .await
            .expect("drawn"),
        20
    );
    let third = shared.reserve(&both(51), NOW).await;
    assert!(matches!(third, Err(Refused::LeaseSpent(_))), "{third:?}");
    let third = shared.reserve(&both(45), NOW).await.expect("drawn");
    let none = shared.reserve(&both(10), NOW).await;
    assert!(
        matches!(&none, Err(refused @ Refused::LeaseSpent(_)) if refused.to_string().contains("drawn in advance")),
        "{none:?}"
    );
    // What is over gives back what it has not used.
    shared.settle(second.id, Some(&[5, 1]), NOW);
    let fourth = shared.reserve(&both(30), NOW).await.expect("given back");
    // What nobody has charged yet has nothing drawn.
    let strange = budget("s", Unit::Tokens, 1000, Window::Day);
    let refused = shared.reserve(&one(&strange, 1), NOW).await;
    assert!(
        matches!(refused, Err(Refused::LeaseSpent(_))),
        "{refused:?}"
    );
    assert_eq!(shared.standing().spent_away, 4);
    server.goes_on();
    settled(&shared).await;
    until(&shared, "it is drawn anew", |it| {
        it.leased == 2 && it.waiting == 0
    })
    .await;
    assert_eq!(used_and_held(&server, &tokens), (5, 60 + 45 + 30 + 100));
    assert_eq!(used_and_held(&server, &calls).1, 3 + 5);
    for id in [first.id, third.id, fourth.id] {
        shared.settle(id, Some(&[10, 1]), NOW);
    }
    settled(&shared).await;
    assert!(shared.close(PATIENT).await);
    assert_eq!(used_and_held(&server, &tokens), (35, 0));
    assert_eq!(used_and_held(&server, &calls).1, 0);
    other
        .reserve(&one(&tokens, 965), NOW)
        .await
        .expect("all of it");
}

/// On hosts that are configured for either.
#[tokio::test]
async fn a_budget_says_itself_what_becomes_of_calls_while_it_is_away() {
    for on_loss in [OnLoss::Deny, OnLoss::Lease(5)] {
        let Some(mut server) = Server::start(&["--appendonly", "no"]) else {
            return;
        };
        let of = |id: &str, on_loss| {
            Arc::new(Budget {
                on_loss,
                ..(*budget(id, Unit::Tokens, 1000, Window::Day)).clone()
            })
        };
        let lease = of("lease", Some(WhenAway::Lease));
        let deny = of("deny", Some(WhenAway::Deny));
        let plain = of("plain", None);
        let host = Options {
            on_loss,
            ..options(&server)
        };
        let shared = open(&host).await;
        let by = |budgets: &[&Arc<Budget>]| {
            let charges = budgets.iter().map(|it| charge(it, "a", 0, 1_000_000));
            want(charges.collect(), 10, 10)
        };
        let (leases, denies) = (by(&[&lease]), by(&[&lease, &deny]));
        let own = shared.reserve(&leases, NOW).await.expect("room");
        let both = shared.reserve(&denies, NOW).await.expect("room");
        let host = shared.reserve(&by(&[&plain]), NOW).await.expect("room");
        let drawn = if on_loss == OnLoss::Deny { 1 } else { 2 };
        until(&shared, "it is drawn", |it| it.leased == drawn).await;
        // Each 10 that are held, and of one budget five percent.
        assert_eq!(used_and_held(&server, &lease), (0, 10 + 10 + 50));
        assert_eq!(used_and_held(&server, &deny), (0, 10));
        server.kill();
        until(&shared, "it is away", |it| it.away.is_some()).await;
        let more = |id, budgets: [Arc<Budget>; 1]| {
            let shared = &shared;
            async move { shared.extend(id, 10.into(), &budgets, NOW).await }
        };
        shared.reserve(&leases, NOW).await.expect("drawn");
        assert_eq!(more(own.id, [lease.clone()]).await.expect("drawn"), 10);
        let refused = shared.reserve(&denies, NOW).await;
        assert!(matches!(refused, Err(Refused::Away(_))), "{refused:?}");
        let budgets = [lease.clone(), deny.clone()];
        let refused = shared.extend(both.id, 10.into(), &budgets, NOW).await;
        assert!(matches!(refused, Err(Refused::Away(_))), "{refused:?}");
        let goes_on = more(host.id, [plain.clone()]).await.is_ok();
        assert_eq!(goes_on, on_loss != OnLoss::Deny);
    }
}

#[tokio::test]
async fn a_host_that_dies_with_what_it_has_drawn_has_used_it() {
    let Some(server) = Server::start(&["--appendonly", "no"]) else {
        return;
    };
    let tokens = budget("t", Unit::Tokens, 1000, Window::Day);
    let leased = Options {
        on_loss: OnLoss::Lease(10),
        ..options(&server)
    };
    let (shared, other) = (open(&leased).await, open(&options(&server)).await);
    let done = shared.reserve(&one(&tokens, 40), NOW).await.expect("room");
    shared.settle(done.id, Some(&[3]), NOW);
    until(&shared, "it is drawn", |it| {
        it.leased == 1 && it.waiting == 0
    })
    .await;
    drop(shared);
    expire(&server);
    other.reserve(&one(&tokens, 1), NOW).await.expect("room");
    assert_eq!(used_and_held(&server, &tokens), (103, 1));
}

#[tokio::test]
async fn one_that_takes_no_writes_is_away() {
    let Some(server) = Server::start(&["--appendonly", "no"]) else {
        return;
    };
    let tokens = budget("t", Unit::Tokens, 100, Window::Day);
    let shared = open(&options(&server)).await;
    server.ask(&["REPLICAOF", "127.0.0.1", "1"]);
    let refused = shared.reserve(&one(&tokens, 10), NOW).await;
    assert!(
        matches!(&refused, Err(Refused::Away(why)) if why.contains("READONLY")),
        "{refused:?}"
    );
    server.ask(&["REPLICAOF", "NO", "ONE"]);
    settled(&shared).await;
    shared.reserve(&one(&tokens, 10), NOW).await.expect("room");
    assert_eq!(used_and_held(&server, &tokens), (0, 10));
}

#[tokio::test]
async fn amounts_are_exact_below_two_to_the_fifty_third() {
    let Some(server) = Server::start(&["--appendonly", "no"]) else {
        return;
    };
    let shared = open(&options(&server)).await;
    let most = (1_u64 << 53) - 1;
    let money = budget("m", Unit::MicroUsd, u64::MAX, Window::Lifetime);
    let of = |fixed, rate, tokens| want(vec![charge(&money, "a", fixed, rate)], tokens, tokens);
    for fixed in [most + 1, u64::MAX] {
        short(shared.reserve(&of(fixed, 0, 0), NOW).await);
    }
    short(shared.reserve(&of(0, u64::MAX, 1), NOW).await);
    let nearly = shared
        .reserve(&of(most - 2, 0, 0), NOW)
        .await
        .expect("room");
    let last = shared
        .reserve(&of(0, 1, 2_000_000), NOW)
        .await
        .expect("room");
    assert_eq!(last.held, [2]);
    short(shared.reserve(&of(0, 1, 1), NOW).await);
    assert_eq!(used_and_held(&server, &money), (0, most));
    shared.settle(nearly.id, Some(&[most - 3]), NOW);
    shared.settle(last.id, Some(&[1]), NOW);
    settled(&shared).await;
    assert_eq!(used_and_held(&server, &money), (most - 2, 0));
    // Absurd usage is charged as far as one can count, and nothing is left then.
    let one = shared.reserve(&of(1, 0, 0), NOW).await.expect("room");
    shared.settle(one.id, Some(&[u64::MAX]), NOW);
    settled(&shared).await;
    assert_eq!(used_and_held(&server, &money), (most, 0));
    short(shared.reserve(&of(1, 0, 0), NOW).await);
}

static ROUNDS: AtomicU64 = AtomicU64::new(0);

/// What a script computes is what we compute, also where numbers are large.
#[test]
fn the_arithmetic_is_ours() {
    let Some(server) = Server::start(&["--appendonly", "no"]) else {
        return;
    };
    let runtime = Runtime::new().expect("a runtime");
    let shared = runtime.block_on(open(&options(&server)));
    let large = || prop_oneof![0_u64..2_000_000, 0_u64..1 << 36, 0_u64..1 << 50];
    let cases = ProptestConfig::with_cases(256);
    proptest!(cases, |(fixed in large(), rate in large(), limit in large(), tokens in large())| {
        let round = ROUNDS.fetch_add(1, Ordering::Relaxed);
        let money = budget(&format!("m{round}"), Unit::MicroUsd, limit, Window::Lifetime);
        let terms = charge(&money, "a", fixed, rate);
        let room = terms.terms.tokens(limit);
        let got = runtime.block_on(shared.reserve(&want(vec![terms.clone()], tokens, 0), NOW));
        match room {
            None => _ = short(got),
            Some(room) => {
                let got = got.expect("room");
                let room = if room == u64::MAX { room } else { room.min(1 << 50) };
                prop_assert_eq!((got.room, got.tokens), (room, tokens.min(room)));
                prop_assert_eq!(server.number(&key(&server, &money).expect("a key"), "h"), terms.terms.amount(got.tokens));
            }
        }
    });
}

/// Nobody has to ask for it.
#[tokio::test]
async fn that_it_has_gone_is_known_at_once() {
    let Some(mut server) = Server::start(&["--appendonly", "no"]) else {
        return;
    };
    // So long that nothing is renewed meanwhile.
    let rarely = Options {
        lease: Duration::from_secs(3600),
        ..options(&server)
    };
    let shared = open(&rarely).await;
    server.kill();
    until(&shared, "it is away", |it| it.away.is_some()).await;
    server.again();
    settled(&shared).await;
}

/// What it keeps for the time when Redis is away is no reason to refuse while it is there.
#[tokio::test]
async fn a_host_spends_what_it_has_drawn_before_it_is_short() {
    let Some(server) = Server::start(&["--appendonly", "no"]) else {
        return;
    };
    let leases = Options {
        on_loss: OnLoss::Lease(50),
        ..options(&server)
    };
    let shared = open(&leases).await;
    let tokens = budget("t", Unit::Tokens, 100, Window::Day);
    let all = |amount| want(vec![charge(&tokens, "a", 0, 1_000_000)], amount, amount);
    let first = shared.reserve(&all(10), NOW).await.expect("room");
    until(&shared, "it is drawn", |it| it.leased == 1).await;
    assert_eq!(used_and_held(&server, &tokens), (0, 60));
    let refused = short(shared.reserve(&all(85), NOW).await);
    assert!(refused.may_pass(), "{refused:?}");
    settled(&shared).await;
    let second = shared.reserve(&all(85), NOW).await.expect("given back");
    settled(&shared).await;
    assert_eq!(used_and_held(&server, &tokens), (0, 95));
    // Where a call goes on, too.
    shared.settle(second.id, Some(&[20]), NOW);
    settled(&shared).await;
    let budgets = [tokens.clone()];
    let more = shared.extend(first.id, 70.into(), &budgets, NOW).await;
    assert_eq!(more.expect("room"), 70);
    assert_eq!(used_and_held(&server, &tokens), (20, 80));
}

mod history;
mod left;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use agentguard_model::budget::{Budget, Reached, Unit, Window};
use jiff::Timestamp;
use proptest::prelude::*;
use tempfile::TempDir;

use super::Embedded;
use crate::charge::{Charge, Granted, HoldId, More, Want};
use crate::ledger::{Ledger as _, Refused};
use crate::model::{NOW, Subject, budget, charge, follows, short, step, want};

fn open(directory: &Path, now: i64) -> Embedded {
    let now = Timestamp::from_millisecond(now).expect("a time");
    Embedded::open(directory, now).expect("a ledger")
}

/// The directory as another process would find it, had this one been killed now.
fn killed(directory: &TempDir) -> TempDir {
    let copy = TempDir::new().expect("a directory");
    for file in fs::read_dir(directory.path()).expect("files") {
        let file = file.expect("a file");
        fs::copy(file.path(), copy.path().join(file.file_name())).expect("a copy");
    }
    copy
}

fn used_and_held(ledger: &Embedded, now: i64) -> Vec<(String, u64, u64)> {
    let mut all: Vec<_> = ledger
        .accounts(now)
        .into_iter()
        .filter(|it| it.used + it.held > 0)
        .map(|it| {
            (
                format!("{} {} {}", it.budget, it.scope, it.since),
                it.used,
                it.held,
            )
        })
        .collect();
    all.sort();
    all
}

#[test]
fn a_call_is_charged_to_all_of_its_accounts_or_to_none() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let (wide, narrow) = (
        budget("wide", Unit::Tokens, 1000, Window::Day),
        budget("narrow", Unit::OutputTokens, 100, Window::Day),
    );
    let both = |tokens, least| {
        let charges = vec![
            charge(&wide, "a", 50, 1_000_000),
            charge(&narrow, "a", 0, 1_000_000),
        ];
        want(charges, tokens, least)
    };
    let first = ledger.reserves(&both(60, 1), NOW).expect("room");
    assert_eq!((first.tokens, first.room), (60, 100));
    assert_eq!(first.held, [110, 60]);
    // 40 are left in the narrow one.
    let second = ledger.reserves(&both(60, 1), NOW).expect("room");
    assert_eq!((second.tokens, second.room), (40, 40));
    let none = short(ledger.reserves(&both(1, 1), NOW));
    assert_eq!((none.charge, none.balance.held, none.needed), (1, 100, 1));
    assert!(none.may_pass(), "those under way may use less");
    let before = used_and_held(&ledger, NOW);
    ledger.settle(first.id, Some(&[70, 20]), NOW);
    // Once only.
    ledger.settle(first.id, Some(&[1000, 1000]), NOW);
    let after = used_and_held(&ledger, NOW);
    assert_ne!(before, after);
    assert_eq!(
        after,
        [
            ("narrow agent=a 1795824000000".to_owned(), 20, 40),
            ("wide agent=a 1795824000000".to_owned(), 70, 90),
        ]
    );
}

#[test]
fn what_is_held_when_the_process_is_killed_is_used_in_full_and_once() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let tokens = budget("t", Unit::OutputTokens, 1000, Window::Day);
    let of = |agent| want(vec![charge(&tokens, agent, 0, 1_000_000)], 100, 1);
    let done = ledger.reserves(&of("done"), NOW).expect("room");
    ledger.settle(done.id, Some(&[7]), NOW);
    let open_one = ledger.reserves(&of("open"), NOW).expect("room");
    let more = ledger
        .extends(open_one.id, 50.into(), std::slice::from_ref(&tokens), NOW)
        .expect("room");
    assert_eq!(more, 50);
    let before_checkpoint = killed(&directory);
    ledger.shared.checkpoint(NOW).expect("a checkpoint");
    let after_checkpoint = killed(&directory);
    ledger
        .extends(open_one.id, 25.into(), std::slice::from_ref(&tokens), NOW)
        .expect("room");
    let later = killed(&directory);
    ledger.settle(open_one.id, Some(&[3]), NOW);
    let settled = killed(&directory);
    let finds = |directory: &TempDir, used: u64| {
        // Twice: what was settled at the first start stays so.
        for _ in 0..2 {
            let found = used_and_held(&open(directory.path(), NOW), NOW);
            let wanted = [
                ("t agent=done 1795824000000".to_owned(), 7, 0),
                ("t agent=open 1795824000000".to_owned(), used, 0),
            ];
            assert_eq!(found, wanted);
        }
    };
    finds(&before_checkpoint, 150);
    finds(&after_checkpoint, 150);
    finds(&later, 175);
    finds(&settled, 3);
    drop(ledger);
    finds(&directory, 3);
}

/// What calls may have written while they wait.
#[test]
fn what_is_written_while_a_call_waits_is_charged_if_the_process_is_killed() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let tokens = budget("t", Unit::OutputTokens, 100, Window::Day);
    let money = budget("m", Unit::MicroUsd, 10_000, Window::Day);
    let budgets = [tokens.clone(), money.clone()];
    let of = |wanted| {
        let charges = vec![
            charge(&tokens, "a", 0, 1_000_000),
            charge(&money, "a", 7, 2_000_000),
        ];
        ledger.reserves(&want(charges, wanted, 1), NOW)
    };
    let (waits, other) = (of(40).expect("room"), of(60).expect("room"));
    let more = More {
        tokens: 10,
        most: Some(5000),
    };
    let wrote = || ledger.shared.lock().journal.length();
    let none = short(ledger.extends(waits.id, more, &budgets, NOW));
    assert!(none.may_pass(), "{none:?}");
    // Noted once.
    let length = wrote();
    short(ledger.extends(waits.id, more, &budgets, NOW));
    assert_eq!(wrote(), length);
    let finds = |directory: &TempDir, used: [u64; 2]| {
        for _ in 0..2 {
            let found = open(directory.path(), NOW);
            let [money, tokens] = ["m", "t"].map(|budget| {
                let accounts = found.accounts(NOW).into_iter();
                let mut its = accounts.filter(|it| &*it.budget == budget);
                its.next().expect("an account")
            });
            assert_eq!([tokens.used, money.used], used);
            assert_eq!(tokens.overshoot > 0, tokens.used > 100);
            assert_eq!([tokens.held, money.held], [0, 0]);
        }
    };
    // The other one had 60, and does not wait.
    finds(&killed(&directory), [5060, 10_007 + 127]);
    // The database does not have it, and the next journal has.
    ledger.shared.checkpoint(NOW).expect("a checkpoint");
    finds(&killed(&directory), [5060, 10_007 + 127]);
    ledger.settle(other.id, Some(&[20, 47]), NOW);
    finds(&killed(&directory), [5020, 10_007 + 47]);
    // Who only asks for the time does not say that it goes on.
    ledger
        .extends(waits.id, 1.into(), &budgets, NOW)
        .expect("room");
    finds(&killed(&directory), [5020, 10_007 + 47]);
    assert_eq!(
        ledger.extends(waits.id, more, &budgets, NOW).expect("room"),
        10
    );
    // It goes on, and its provider until it notices.
    finds(&killed(&directory), [51 + 1024 + 20, 109 + 2048 + 47]);
    ledger.settle(waits.id, Some(&[45, 97]), NOW);
    finds(&killed(&directory), [65, 144]);
}

/// What providers write until they notice that nobody reads.
#[test]
fn what_is_written_behind_what_is_reserved_is_charged_if_the_process_is_killed() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let tokens = budget("t", Unit::OutputTokens, 10_000, Window::Day);
    let begins = |reserved, most| {
        let wants = Want {
            most,
            ..want(vec![charge(&tokens, "a", 0, 1_000_000)], reserved, 1)
        };
        ledger.reserves(&wants, NOW).expect("room").id
    };
    let finds = |used| {
        let found = open(killed(&directory).path(), NOW).accounts(NOW).remove(0);
        assert_eq!((found.used, found.held), (used, 0));
    };
    let id = begins(256, 3000);
    assert_eq!(ledger.accounts(NOW)[0].held, 256, "from nobody");
    finds(256 + 1024);
    ledger.shared.checkpoint(NOW).expect("a checkpoint");
    finds(256 + 1024);
    let goes_on = |more: u64| {
        let more = More {
            tokens: more,
            most: Some(3000),
        };
        let got = ledger.extends(id, more, std::slice::from_ref(&tokens), NOW);
        assert_eq!(got.expect("room"), more.tokens);
    };
    goes_on(1024);
    finds(1280 + 1024);
    // No more than it may.
    goes_on(1024);
    finds(3000);
    goes_on(696);
    finds(3000);
    ledger.settle(id, Some(&[2000]), NOW);
    finds(2000);
    // What has all of its limit, and what is not counted.
    begins(300, 300);
    begins(100, 0);
    finds(2400);
}

#[test]
fn a_journal_that_ends_in_the_middle_counts_as_far_as_it_is_whole() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let calls = budget("c", Unit::Calls, 1000, Window::Day);
    for _ in 0..3 {
        let one = ledger.reserves(&want(vec![charge(&calls, "a", 1, 0)], 0, 0), NOW);
        ledger.settle(one.expect("room").id, None, NOW);
    }
    let copy = killed(&directory);
    drop(ledger);
    let journal = fs::read_dir(copy.path())
        .expect("files")
        .map(|it| it.expect("a file").path())
        .find(|path| path.to_string_lossy().contains("journal."))
        .expect("a journal");
    let whole = fs::read(&journal).expect("a journal");
    let mut seen = Vec::new();
    for length in 0..=whole.len() {
        let cut = killed(&copy);
        let place = cut.path().join(journal.file_name().expect("a name"));
        fs::write(&place, &whole[..length]).expect("written");
        let ledger = open(cut.path(), NOW);
        let used = ledger.accounts(NOW).iter().map(|it| it.used).sum::<u64>();
        seen.push(used);
    }
    assert!(seen.is_sorted(), "{seen:?}");
    assert_eq!((seen.first(), seen.last()), (Some(&0), Some(&3)));
}

#[test]
fn more_than_was_held_is_charged_and_told() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let tokens = budget("t", Unit::OutputTokens, 100, Window::Day);
    let of = || want(vec![charge(&tokens, "a", 0, 1_000_000)], 10, 1);
    let one = ledger.reserves(&of(), NOW).expect("room");
    ledger.settle(one.id, Some(&[130]), NOW);
    let account = &ledger.accounts(NOW)[0];
    assert_eq!((account.used, account.overshoot), (130, 120));
    let none = short(ledger.reserves(&of(), NOW));
    assert_eq!(none.balance.left(), 0);
    assert!(!none.may_pass());
}

#[test]
fn windows_end_and_come_back_with_the_clock() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let calls = budget("c", Unit::Calls, 1, Window::Hour);
    let of = || want(vec![charge(&calls, "a", 1, 0)], 0, 0);
    let one = ledger.reserves(&of(), NOW).expect("room");
    let none = short(ledger.reserves(&of(), NOW));
    assert_eq!(none.balance.resets, Some(NOW + 3_600_000));
    let next = NOW + 3_600_000;
    let two = ledger.reserves(&of(), next).expect("another window");
    // What began in a window is settled there.
    ledger.settle(one.id, Some(&[1]), next);
    ledger.settle(two.id, Some(&[0]), next);
    ledger
        .reserves(&of(), next)
        .expect("the one settled as none");
    // The clock goes back, and finds the hour as it was left.
    short(ledger.reserves(&of(), NOW + 1));
    ledger.shared.checkpoint(next).expect("a checkpoint");
    assert!(ledger.accounts(next).iter().all(|it| it.since == next));
}

#[test]
fn a_sliding_window_forgets_part_by_part_and_never_too_early() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let hour = std::time::Duration::from_secs(3600);
    let calls = budget("c", Unit::Calls, 60, Window::Sliding(hour));
    let of = || want(vec![charge(&calls, "a", 1, 0)], 0, 0);
    let mut passed: Vec<i64> = Vec::new();
    for second in (0..4 * 3600).step_by(20) {
        let now = NOW + second * 1000;
        match ledger.reserves(&of(), now) {
            Ok(granted) => {
                ledger.settle(granted.id, Some(&[1]), now);
                passed.push(second);
            }
            Err(Refused::Short(short)) => {
                let again = short.balance.resets.expect("a time");
                assert!(again > now && again <= now + 3_660_000);
            }
            Err(other) => panic!("{other}"),
        }
    }
    for (place, begin) in passed.iter().enumerate() {
        let within = passed[place..].iter().take_while(|it| **it < begin + 3600);
        assert!(within.count() <= 60, "behind {begin}");
    }
    // As many as there may be: the hours are not halved either.
    assert!(passed.len() >= 4 * 60 - 8, "{}", passed.len());
    // A clock that jumps ahead and back again forgets nothing.
    let now = NOW + 4 * 3_600_000;
    let used = ledger.accounts(now)[0].used;
    let ahead = ledger.reserves(&of(), now + 30 * 86_400_000).expect("room");
    ledger.settle(ahead.id, Some(&[1]), now + 30 * 86_400_000);
    assert_eq!(ledger.accounts(now)[0].used, used + 1);
}

#[test]
fn places_count_once_and_time_from_the_first_call() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let places = budget("p", Unit::Destinations, 2, Window::Day);
    let time = budget("w", Unit::WallTime, 60_000, Window::Lifetime);
    let to = |place, now| {
        let place = Charge {
            place,
            ..charge(&places, "a", 0, 0)
        };
        let charges = vec![place, charge(&time, "a", 0, 0)];
        ledger.reserves(&want(charges, 0, 0), now)
    };
    let first = to(1, NOW).expect("room");
    assert_eq!(first.deadline, Some(NOW + 60_000));
    ledger.settle(first.id, None, NOW);
    to(2, NOW + 1).expect("room");
    to(1, NOW + 2).expect("known");
    assert_eq!(short(to(3, NOW + 3)).charge, 0);
    assert_eq!(short(to(1, NOW + 60_000)).charge, 1);
    // What an operator says counts, and survives.
    let account = ledger
        .accounts(NOW)
        .into_iter()
        .find(|it| &*it.budget == "w");
    assert!(
        ledger
            .set(&account.expect("one"), 0, NOW + 70_000)
            .expect("written")
    );
    let copy = killed(&directory);
    let again = open(copy.path(), NOW + 70_000);
    let charges = vec![charge(&time, "a", 0, 0)];
    let begun = again.reserves(&want(charges, 0, 0), NOW + 71_000);
    assert_eq!(begun.expect("room").deadline, Some(NOW + 131_000));
}

#[test]
fn time_that_is_over_is_told_before_what_is_used_up() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let tokens = budget("t", Unit::Tokens, 5, Window::Day);
    let time = budget("w", Unit::WallTime, 500, Window::Lifetime);
    let charges = vec![charge(&tokens, "a", 5, 1_000_000), charge(&time, "a", 0, 0)];
    let one = ledger.reserves(&want(charges, 0, 0), NOW).expect("room");
    let budgets = [tokens, time];
    assert_eq!(
        short(ledger.extends(one.id, 1.into(), &budgets, NOW)).charge,
        0
    );
    let late = ledger.extends(one.id, 1.into(), &budgets, NOW + 500);
    assert_eq!(short(late).charge, 1);
}

#[test]
fn calls_at_the_same_time_are_given_back() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let calls = budget("c", Unit::ConcurrentCalls, 2, Window::Lifetime);
    let of = || want(vec![charge(&calls, "a", 1, 0)], 0, 0);
    let one = ledger.reserves(&of(), NOW).expect("room");
    let _two = ledger.reserves(&of(), NOW).expect("room");
    assert!(short(ledger.reserves(&of(), NOW)).may_pass());
    ledger.settle(one.id, None, NOW);
    ledger.reserves(&of(), NOW).expect("room again");
    let copy = killed(&directory);
    let again = open(copy.path(), NOW);
    again.reserves(&of(), NOW).expect("nobody holds them");
}

#[test]
fn calls_at_the_same_time_cannot_be_said_to_be_used() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let calls = budget("c", Unit::ConcurrentCalls, 2, Window::Lifetime);
    let of = || want(vec![charge(&calls, "a", 1, 0)], 0, 0);
    ledger.reserves(&of(), NOW).expect("room");
    let account = ledger.accounts(NOW).remove(0);
    assert!(ledger.set(&account, 2, NOW).expect("written"));
    assert_eq!(ledger.accounts(NOW), [account]);
    ledger.reserves(&of(), NOW).expect("room");
    short(ledger.reserves(&of(), NOW));
}

#[test]
fn soft_budgets_tell_and_let_pass_and_limits_change_under_way() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let soft = Arc::new(Budget {
        reached: Reached::Alert,
        ..(*budget("s", Unit::Calls, 1, Window::Day)).clone()
    });
    let of = || want(vec![charge(&soft, "a", 1, 0)], 0, 0);
    assert_eq!(
        ledger.reserves(&of(), NOW).expect("passes").over,
        [0_usize; 0]
    );
    assert_eq!(ledger.reserves(&of(), NOW).expect("passes").over, [0]);
    let tokens = budget("t", Unit::OutputTokens, 1000, Window::Day);
    let held = ledger
        .reserves(&want(vec![charge(&tokens, "a", 0, 1_000_000)], 100, 1), NOW)
        .expect("room");
    let lower = budget("t", Unit::OutputTokens, 120, Window::Day);
    assert_eq!(
        ledger
            .extends(held.id, 100.into(), std::slice::from_ref(&lower), NOW)
            .expect("room"),
        20
    );
    let refused = ledger.extends(held.id, 100.into(), &[lower], NOW);
    assert!(matches!(refused, Err(Refused::Short(_))), "{refused:?}");
    ledger.settle(held.id, None, NOW);
    let refused = ledger.extends(held.id, 1.into(), &[tokens], NOW);
    assert!(matches!(refused, Err(Refused::Settled)), "{refused:?}");
}

#[test]
fn accounts_beyond_the_bound_are_one() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let calls = budget("c", Unit::Calls, 5, Window::Day);
    for number in 0..super::books::MAX_OF_ONE {
        let agent = format!("a{number}");
        let one = ledger.reserves(&want(vec![charge(&calls, &agent, 1, 0)], 0, 0), NOW);
        ledger.settle(one.expect("room").id, None, NOW);
    }
    let more = |agent| ledger.reserves(&want(vec![charge(&calls, agent, 1, 0)], 0, 0), NOW);
    for _ in 0..5 {
        more("x").expect("room");
    }
    short(more("y"));
    more("a1").expect("its own");
    // Another budget has accounts of its own all the same.
    let other = budget("d", Unit::Calls, 1, Window::Day);
    for agent in ["x", "y", "z"] {
        let want = want(vec![charge(&other, agent, 1, 0)], 0, 0);
        ledger.reserves(&want, NOW).expect("its own");
    }
}

#[test]
fn windows_that_are_over_take_no_place() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let calls = budget("c", Unit::Calls, 5, Window::Day);
    let begins = |agent: &str, now| {
        let one = ledger.reserves(&want(vec![charge(&calls, agent, 1, 0)], 0, 0), now);
        ledger.settle(one.expect("room").id, None, now);
    };
    for number in 0..super::books::MAX_OF_ONE {
        begins(&format!("a{number}"), NOW);
    }
    let named = |now| {
        let all = ledger.accounts(now).into_iter();
        let later = all.filter(|it| it.holds(now));
        later.map(|it| it.scope.to_string()).collect::<Vec<_>>()
    };
    begins("x", NOW);
    assert!(!named(NOW).contains(&"agent=x".to_owned()));
    // No checkpoint was made since.
    let tomorrow = NOW + 86_400_000;
    begins("x", tomorrow);
    assert_eq!(named(tomorrow), ["agent=x"]);
    // They are taken out once, and counted once.
    ledger.shared.checkpoint(tomorrow).expect("a checkpoint");
    ledger.shared.checkpoint(tomorrow).expect("a checkpoint");
    assert_eq!(ledger.accounts(tomorrow).len(), 1);
    for number in 1..super::books::MAX_OF_ONE {
        begins(&format!("a{number}"), tomorrow);
    }
    begins("y", tomorrow);
    assert!(!named(tomorrow).contains(&"agent=y".to_owned()));
}

#[test]
fn what_costs_nothing_in_the_end_takes_no_place() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let tokens = budget("t", Unit::Tokens, 10, Window::Day);
    let of = |model: &str| want(vec![charge(&tokens, model, 5, 0)], 0, 0);
    for number in 0..super::books::MAX_OF_ONE {
        let one = ledger
            .reserves(&of(&format!("m{number}")), NOW)
            .expect("room");
        ledger.settle(one.id, Some(&[0]), NOW);
    }
    let used = ledger.reserves(&of("real"), NOW).expect("room");
    ledger.settle(used.id, Some(&[7]), NOW);
    let names = |ledger: &Embedded| {
        let all = ledger.accounts(NOW).into_iter();
        all.map(|it| it.scope.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&ledger).len(), 1);
    short(ledger.reserves(&of("real"), NOW));
    drop(ledger);
    // The next start has what was charged.
    let ledger = open(directory.path(), NOW);
    let used: u64 = ledger.accounts(NOW).iter().map(|it| it.used).sum();
    assert_eq!(used, 7);
    short(ledger.reserves(&of("real"), NOW));
}

#[test]
fn what_a_call_is_charged_to_is_not_closed_by_that_call() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let (wide, models) = (
        budget("wide", Unit::Tokens, 10, Window::Day),
        budget("models", Unit::Tokens, 1000, Window::Day),
    );
    let nothing = |charged| {
        let one = ledger.reserves(&want(vec![charged], 0, 0), NOW);
        ledger.settle(one.expect("room").id, Some(&[0]), NOW);
    };
    nothing(charge(&wide, "a", 5, 0));
    for number in 0..super::books::MAX_OF_ONE {
        nothing(charge(&models, &format!("m{number}"), 5, 0));
    }
    let both = |model| {
        let charges = vec![charge(&wide, "a", 5, 0), charge(&models, model, 5, 0)];
        ledger.reserves(&want(charges, 0, 0), NOW)
    };
    let first = both("new").expect("room");
    assert_eq!(first.held, [5, 5]);
    let held = [
        ("models agent=new 1795824000000".to_owned(), 0, 5),
        ("wide agent=a 1795824000000".to_owned(), 0, 5),
    ];
    assert_eq!(used_and_held(&ledger, NOW), held);
    both("newer").expect("room");
    assert_eq!(short(both("newest")).charge, 0);
    ledger.settle(first.id, Some(&[4, 3]), NOW);
    // Numbers of closed accounts are no other accounts' until the journal is another one.
    let numbers = |ledger: &Embedded| ledger.shared.lock().books.numbers();
    let many = numbers(&ledger);
    assert_eq!(many, super::books::MAX_OF_ONE + 4);
    let wanted = [
        ("models agent=new 1795824000000".to_owned(), 3, 0),
        ("models agent=newer 1795824000000".to_owned(), 5, 0),
        ("wide agent=a 1795824000000".to_owned(), 9, 0),
    ];
    let found = open(killed(&directory).path(), NOW);
    assert_eq!(used_and_held(&found, NOW), wanted);
    ledger.shared.checkpoint(NOW).expect("a checkpoint");
    nothing(charge(&models, "another", 5, 0));
    assert_eq!(numbers(&ledger), many);
}

#[test]
fn what_is_refused_opens_no_account() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let all = budget("all", Unit::Calls, 0, Window::Day);
    let each = budget("each", Unit::Calls, 5, Window::Day);
    let charges = vec![charge(&each, "a", 1, 0), charge(&all, "", 1, 0)];
    short(ledger.reserves(&want(charges, 0, 0), NOW));
    assert_eq!(ledger.accounts(NOW), []);
}

#[test]
fn what_has_no_end_is_forgotten_after_ninety_days_without_a_call() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let life = budget("l", Unit::Calls, 1, Window::Lifetime);
    let of = || want(vec![charge(&life, "a", 1, 0)], 0, 0);
    let one = ledger.reserves(&of(), NOW).expect("room");
    ledger.settle(one.id, None, NOW);
    for (later, open) in [(0, 1), (super::FORGOTTEN, 1), (super::FORGOTTEN + 1, 0)] {
        let now = NOW + later;
        ledger.shared.checkpoint(now).expect("a checkpoint");
        assert_eq!(ledger.accounts(now).len(), open, "{later}");
    }
}

/// A ledger, and the directory that it lives in.
struct Living {
    directory: TempDir,
    ledger: Embedded,
}

impl Living {
    fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let ledger = open(directory.path(), NOW);
        Self { directory, ledger }
    }
}

impl Subject for Living {
    fn reserve(&mut self, want: &Want, now: i64) -> Result<Granted, Refused> {
        self.ledger.reserves(want, now)
    }

    fn extend(
        &mut self,
        id: HoldId,
        more: More,
        budgets: &[Arc<Budget>],
        now: i64,
    ) -> Result<u64, Refused> {
        self.ledger.extends(id, more, budgets, now)
    }

    fn settle(&mut self, id: HoldId, used: Option<&[u64]>, now: i64) {
        self.ledger.settle(id, used, now);
    }

    fn pauses(&mut self) {
        self.ledger.shared.checkpoint(NOW).expect("a checkpoint");
    }

    fn dies(&mut self) {
        let next = killed(&self.directory);
        self.ledger = open(next.path(), NOW);
        self.directory = next;
    }

    fn used_and_held(&mut self, budget: &Budget) -> (u64, u64) {
        let accounts = self.ledger.accounts(NOW);
        let its = accounts.iter().find(|it| it.budget == budget.id);
        its.map_or((0, 0), |it| (it.used, it.held))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever calls begin, go on and end, and whenever the process dies.
    #[test]
    fn a_ledger_does_what_a_simple_model_does(steps in proptest::collection::vec(step(), 1..60)) {
        follows(&mut Living::new(), &steps)?;
    }
}

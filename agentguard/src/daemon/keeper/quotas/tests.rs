use agentguard_common::quota::{Quota as Marks, UNLIMITED, Usage};
use agentguard_model::{AgentName, ConnectionRate, Quota, QuotaWindow};
use jiff::Timestamp;
use proptest::prelude::*;

use super::Quotas;

const KIB: u64 = 1024;

fn coder() -> AgentName {
    "coder".parse().unwrap()
}

fn at(text: &str) -> Timestamp {
    format!("2026-11-{text}Z").parse().unwrap()
}

const fn quota(out: u64, every: QuotaWindow) -> Quota {
    Quota {
        bytes_out: Some(out),
        bytes_in: None,
        every,
        connections: None,
    }
}

const fn usage(born_ns: u64, sent: u64) -> Usage {
    Usage {
        born_ns,
        sent,
        received: 0,
        opened_until_ns: 0,
        told_sent: 0,
        told_received: 0,
    }
}

/// A file of its own, and who keeps it.
fn kept() -> (tempfile::TempDir, Quotas) {
    let directory = tempfile::tempdir().unwrap();
    let quotas = reopened(&directory);
    (directory, quotas)
}

fn reopened(directory: &tempfile::TempDir) -> Quotas {
    Quotas::open(directory.path().join("quotas.json")).unwrap()
}

fn used(quotas: &Quotas, quota: &Quota) -> u64 {
    let state = quotas.state(&coder(), quota).unwrap();
    state.bytes_out.unwrap().used
}

#[test]
fn the_kernel_may_count_as_far_as_the_limit_is_and_further_in_the_next_window() {
    let (_directory, mut quotas) = kept();
    let quota = quota(100 * KIB, QuotaWindow::Day);
    let mut follow = |sent, time| {
        let (marks, changed) = quotas.follow(&coder(), &quota, &usage(1, sent), at(time));
        (marks.sent_until, changed)
    };
    assert_eq!(follow(0, "28T10:00:00"), (100 * KIB, true));
    assert_eq!(follow(30 * KIB, "28T11:00:00"), (100 * KIB, false));
    assert_eq!(follow(100 * KIB, "28T23:59:59"), (100 * KIB, false));
    // What was counted stays, and the mark moves on.
    assert_eq!(follow(100 * KIB, "29T00:00:00"), (200 * KIB, true));
    assert_eq!(follow(150 * KIB, "29T00:00:01"), (200 * KIB, false));
    let state = quotas.state(&coder(), &quota).unwrap();
    assert_eq!(state.bytes_out.unwrap().used, 50 * KIB);
    assert_eq!(state.bytes_in, None);
    assert_eq!(state.since, at("29T00:00:00").as_second());
    assert_eq!(state.resets, Some(at("30T00:00:00").as_second()));
}

#[test]
fn what_has_no_limit_has_no_mark_and_a_rate_is_never_more_than_it_says() {
    let (_directory, mut quotas) = kept();
    let quota = Quota {
        bytes_out: None,
        connections: Some(ConnectionRate {
            per_second: 3,
            burst: 5,
        }),
        ..quota(0, QuotaWindow::Lifetime)
    };
    let (marks, _) = quotas.follow(&coder(), &quota, &usage(1, 7), at("28T10:00:00"));
    assert_eq!(
        marks,
        Marks {
            sent_until: UNLIMITED,
            received_until: UNLIMITED,
            interval_ns: 333_333_334,
            depth_ns: 5 * 333_333_334,
        }
    );
}

#[test]
fn a_limit_that_changes_keeps_what_was_used() {
    let (_directory, mut quotas) = kept();
    let mut until = |limit, every, sent, time| {
        let quota = quota(limit, every);
        let (marks, _) = quotas.follow(&coder(), &quota, &usage(1, sent), at(time));
        (marks.sent_until, used(&quotas, &quota))
    };
    let day = QuotaWindow::Day;
    assert_eq!(until(100, day, 60, "28T10:00:00"), (100, 60));
    assert_eq!(until(500, day, 60, "28T10:00:00"), (500, 60));
    // Nothing is left, and nothing is owed.
    assert_eq!(until(50, day, 60, "28T10:00:00"), (60, 60));
    assert_eq!(until(100, day, 60, "28T10:00:00"), (100, 60));
    // Nor is another kind of window a new beginning; the next one of that kind is.
    assert_eq!(until(100, QuotaWindow::Hour, 60, "28T10:30:00"), (100, 60));
    assert_eq!(
        until(100, QuotaWindow::Lifetime, 70, "28T10:40:00"),
        (100, 70)
    );
    assert_eq!(
        until(100, QuotaWindow::Lifetime, 70, "30T10:40:00"),
        (100, 70)
    );
    assert_eq!(until(100, QuotaWindow::Hour, 70, "30T10:59:59"), (100, 70));
    assert_eq!(until(100, QuotaWindow::Hour, 70, "30T11:00:00"), (170, 0));
}

#[test]
fn a_clock_that_is_set_back_gives_nothing_anew_and_one_that_is_set_forward_holds_nobody_up() {
    let (_directory, mut quotas) = kept();
    let quota = quota(100, QuotaWindow::Day);
    let mut until = |sent, time| {
        let (marks, _) = quotas.follow(&coder(), &quota, &usage(1, sent), at(time));
        (marks.sent_until, used(&quotas, &quota))
    };
    assert_eq!(until(80, "20T10:00:00"), (100, 80));
    assert_eq!(until(80, "19T10:00:00"), (100, 80));
    assert_eq!(until(90, "19T12:00:00"), (100, 90));
    // The day that it was set back to ends as any other.
    assert_eq!(until(90, "20T00:00:00"), (190, 0));
    assert_eq!(until(100, "29T10:00:00"), (200, 0));
    assert_eq!(until(150, "20T10:00:00"), (200, 50));
    assert_eq!(until(150, "21T00:00:00"), (250, 0));
}

#[test]
fn a_daemon_that_was_killed_finds_all_that_the_kernel_counted() {
    let (directory, mut quotas) = kept();
    let quota = quota(100 * KIB, QuotaWindow::Day);
    quotas.follow(&coder(), &quota, &usage(1, 10 * KIB), at("28T10:00:00"));
    quotas.write().unwrap();
    quotas.follow(&coder(), &quota, &usage(1, 20 * KIB), at("28T10:00:03"));
    drop(quotas);
    // The kernel went on meanwhile.
    let mut quotas = reopened(&directory);
    let (marks, changed) = quotas.follow(&coder(), &quota, &usage(1, 45 * KIB), at("28T10:01:00"));
    assert_eq!((marks.sent_until, changed), (100 * KIB, false));
    assert_eq!(used(&quotas, &quota), 45 * KIB);
}

#[test]
fn after_a_start_of_the_host_what_was_written_down_still_counts() {
    let (directory, mut quotas) = kept();
    let quota = quota(100 * KIB, QuotaWindow::Lifetime);
    quotas.follow(&coder(), &quota, &usage(1, 30 * KIB), at("28T10:00:00"));
    quotas.write().unwrap();
    // Entries of the kernel's are new, and have counted more already or less.
    for (born, counted, all) in [(2, 0, 30), (3, 50, 80), (4, 5, 85)] {
        let mut quotas = reopened(&directory);
        let usage = usage(born, counted * KIB);
        let (marks, changed) = quotas.follow(&coder(), &quota, &usage, at("29T10:00:00"));
        assert!(changed);
        assert_eq!(marks.sent_until, counted * KIB + (100 - all) * KIB);
        assert_eq!(used(&quotas, &quota), all * KIB);
        quotas.write().unwrap();
    }
}

#[test]
fn flows_are_ended_once_for_each_time_that_the_bytes_are_gone() {
    let (_directory, mut quotas) = kept();
    let mut ends = |limit, sent, time| {
        let quota = quota(limit, QuotaWindow::Day);
        let (marks, _) = quotas.follow(&coder(), &quota, &usage(1, sent), at(time));
        quotas.is_to_end(&coder(), &marks, &usage(1, sent))
    };
    let limit = 100 * KIB;
    assert!(!ends(limit, 0, "28T10:00:00"));
    assert!(!ends(limit, 96 * KIB, "28T10:00:00"));
    assert!(ends(limit, 96 * KIB + 1, "28T10:00:00"));
    assert!(!ends(limit, 100 * KIB, "28T10:00:00"));
    assert!(!ends(2 * limit, 101 * KIB, "28T10:00:00"));
    assert!(ends(limit, 101 * KIB, "28T10:00:00"));
    assert!(!ends(limit, 101 * KIB, "29T10:00:00"));
    assert!(ends(limit, 201 * KIB, "29T10:00:00"));
}

#[test]
fn flows_are_ended_where_a_packet_was_refused_that_is_larger_than_what_is_left() {
    let (_directory, mut quotas) = kept();
    let quota = quota(100 * KIB, QuotaWindow::Day);
    let mut counts = usage(1, 50 * KIB);
    counts.told_sent = UNLIMITED;
    counts.told_received = UNLIMITED;
    let time = at("28T10:00:00");
    let (marks, _) = quotas.follow(&coder(), &quota, &counts, time);
    assert!(!quotas.is_to_end(&coder(), &marks, &counts));
    counts.told_sent = marks.sent_until;
    assert!(quotas.is_to_end(&coder(), &marks, &counts));
    assert!(!quotas.is_to_end(&coder(), &marks, &counts));
}

#[test]
fn who_has_no_quota_any_more_is_forgotten() {
    let (directory, mut quotas) = kept();
    let quota = quota(100, QuotaWindow::Day);
    quotas.follow(&coder(), &quota, &usage(1, 30), at("28T10:00:00"));
    quotas.keep(|_| true);
    assert_eq!(used(&quotas, &quota), 30);
    quotas.keep(|_| false);
    assert_eq!(quotas.state(&coder(), &quota), None);
    quotas.write().unwrap();
    assert_eq!(reopened(&directory).state(&coder(), &quota), None);
}

#[test]
fn what_cannot_be_read_is_not_taken_for_nothing() {
    let (directory, _) = kept();
    let path = directory.path().join("quotas.json");
    for (text, said) in [
        ("{", "is damaged; hint: put a copy of it from a backup"),
        (
            r#"{"version":1,"accounts":{"a":{}}}"#,
            "is damaged; hint: put a copy of it from a backup",
        ),
        (
            r#"{"version":2,"accounts":{}}"#,
            "is of version 2, and this agentguard knows versions up to 1",
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = Quotas::open(path.clone()).err().unwrap();
        assert!(error.to_string().contains(said), "{error:#}");
    }
    // A directory that is gone is told with what that means.
    std::fs::remove_file(&path).unwrap();
    let mut quotas = reopened(&directory);
    drop(directory);
    quotas.follow(
        &coder(),
        &quota(100, QuotaWindow::Day),
        &usage(1, 30),
        at("28T10:00:00"),
    );
    let error = quotas.write().unwrap_err();
    assert!(
        error.to_string().contains("; hint: until it can be"),
        "{error:#}"
    );
}

/// What happens to an account.
#[derive(Clone, Debug)]
enum Event {
    /// The kernel lets so many bytes pass, as far as they go.
    Sends(u64),
    /// A look is taken, so many seconds later.
    Looks(u32),
    /// The limit is another one.
    Limit(u64),
    /// The daemon is killed and started again.
    Killed,
    /// It is stopped, and the host is started anew.
    Rebooted,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        (0..5000_u64).prop_map(Event::Sends),
        (0..3000_u32).prop_map(Event::Looks),
        (1..20_000_u64).prop_map(Event::Limit),
        Just(Event::Killed),
        Just(Event::Rebooted),
    ];
    prop::collection::vec(event, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens in between: what the kernel lets pass in an hour is what is shown, and never beyond the
    /// largest limit of that hour.
    #[test]
    fn a_window_never_has_more_than_its_limit(events in events()) {
        let (directory, mut quotas) = kept();
        let mut limit = 10_000;
        let (mut born, mut counted) = (1, 0);
        let mut now = at("28T10:00:00");
        let (mut in_window, mut largest) = (0, limit);
        let look = |quotas: &mut Quotas, limit, born, counted, now| {
            let quota = quota(limit, QuotaWindow::Hour);
            let (marks, _) = quotas.follow(&coder(), &quota, &usage(born, counted), now);
            (marks.sent_until, used(quotas, &quota))
        };
        let (mut until, _) = look(&mut quotas, limit, born, counted, now);
        quotas.write().unwrap();
        for event in events {
            match event {
                Event::Sends(bytes) if counted + bytes <= until => {
                    counted += bytes;
                    in_window += bytes;
                }
                Event::Sends(_) => {}
                Event::Looks(seconds) => {
                    let before = QuotaWindow::Hour.around(now);
                    now = now.checked_add(jiff::SignedDuration::from_secs(seconds.into())).unwrap();
                    if QuotaWindow::Hour.around(now) != before {
                        (in_window, largest) = (0, limit);
                    }
                }
                Event::Limit(other) => {
                    limit = other;
                    largest = largest.max(limit);
                }
                Event::Killed => quotas = reopened(&directory),
                Event::Rebooted => {
                    look(&mut quotas, limit, born, counted, now);
                    quotas.write().unwrap();
                    quotas = reopened(&directory);
                    (born, counted) = (born + 1, 0);
                    until = 0;
                }
            }
            // A look follows whatever the daemon does; what is sent it sees later.
            if !matches!(event, Event::Sends(_)) {
                let is_new = born;
                let (mark, shown) = look(&mut quotas, limit, born, counted, now);
                until = mark;
                prop_assert_eq!(shown, in_window, "{}", is_new);
                if matches!(event, Event::Rebooted | Event::Looks(_)) {
                    quotas.write().unwrap();
                }
            }
            prop_assert!(in_window <= largest);
        }
    }
}

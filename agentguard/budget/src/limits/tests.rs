use std::sync::Arc;
use std::time::Duration;

use agentguard_model::budget::Dimension;
use agentguard_model::limit::{Breaker, Circuit, Limit, LimitKind, Rate};

use super::circuit::CircuitState;
use super::{
    Admitted, Ask, By, Call, LEAST_ACCOUNTS, Limits, MAX_ACCOUNTS, MAX_CALLS, PART, Refused,
    StandingState, Went,
};
use crate::scope::Scope;

const SECOND: u64 = 1_000_000_000;

fn limit(id: &str, kind: LimitKind) -> By {
    By::Limit(Arc::new(Limit {
        id: id.into(),
        kind,
        per: [Dimension::Agent].into(),
    }))
}

fn rate(id: &str, calls: u32, every: u64, burst: u32) -> By {
    let every = Duration::from_secs(every);
    limit(
        id,
        LimitKind::Rate(Rate {
            calls,
            every,
            burst,
        }),
    )
}

fn ask(by: &By, agent: &str) -> Ask {
    Ask {
        by: by.clone(),
        scope: Scope::of([(&Dimension::Agent, agent)]),
        on_paper: false,
    }
}

fn at(limits: &Limits, by: &By, call: Call, now: u64) -> Result<Admitted, Refused> {
    limits.admit_at(vec![ask(by, "a")], call, 1, now * SECOND)
}

fn wait(refused: Result<Admitted, Refused>) -> Option<Duration> {
    refused.unwrap_err().wait
}

fn tool(call: u64) -> Call {
    Call {
        same: Some(call),
        tool: Some(call),
        target: 7,
        ..Call::default()
    }
}

#[test]
fn a_call_is_counted_by_all_or_by_none() {
    let limits = Limits::default();
    let (many, few) = (rate("many", 10, 60, 3), rate("few", 1, 60, 1));
    let both = || vec![ask(&many, "a"), ask(&few, "a")];
    let now = SECOND;
    assert!(limits.admit_at(both(), Call::default(), 2, now).is_ok());
    // The second refuses: the first, which would admit two more, has counted none of these.
    for _ in 0..5 {
        let refused = limits
            .admit_at(both(), Call::default(), 2, now)
            .unwrap_err();
        assert_eq!(
            (refused.place, refused.wait),
            (1, Some(Duration::from_secs(60)))
        );
        assert_eq!(refused.scope.as_str(), "agent=a");
    }
    for _ in 0..2 {
        assert!(
            limits
                .admit_at(vec![ask(&many, "a")], Call::default(), 2, now)
                .is_ok()
        );
    }
    let refused = limits.admit_at(vec![ask(&many, "a")], Call::default(), 2, now);
    assert_eq!(wait(refused), Some(Duration::from_secs(6)));
    // Another account has its own.
    assert!(
        limits
            .admit_at(vec![ask(&few, "b")], Call::default(), 2, now)
            .is_ok()
    );
    // Of two that refuse, the one counts that does so for longer.
    let refused = limits
        .admit_at(both(), Call::default(), 2, now)
        .unwrap_err();
    assert_eq!(refused.wait, Some(Duration::from_secs(60)));
}

#[test]
fn what_does_not_go_on_is_given_back() {
    let limits = Limits::default();
    let loops = LimitKind::Repeats {
        calls: 1,
        within: Duration::from_secs(60),
    };
    let (few, loops) = (rate("few", 1, 60, 1), limit("loops", loops));
    let all = || vec![ask(&few, "a"), ask(&loops, "a")];
    for _ in 0..3 {
        let admitted = limits.admit_at(all(), tool(1), 2, SECOND).unwrap();
        assert!(admitted.ticket.is_idle());
        admitted.ticket.give_back();
        // Once.
        admitted.ticket.give_back();
    }
    assert!(limits.admit_at(all(), tool(1), 2, SECOND).is_ok());
    assert!(limits.admit_at(all(), tool(2), 2, SECOND).is_err());
    assert!(at(&limits, &loops, tool(1), 1).is_err());
}

#[test]
fn what_is_on_paper_refuses_nothing_and_says_so() {
    let limits = Limits::default();
    let few = rate("few", 1, 60, 1);
    let on_paper = || {
        vec![Ask {
            on_paper: true,
            ..ask(&few, "a")
        }]
    };
    let first = limits
        .admit_at(on_paper(), Call::default(), 1, SECOND)
        .unwrap();
    assert!(first.on_paper.is_empty());
    let second = limits
        .admit_at(on_paper(), Call::default(), 1, SECOND)
        .unwrap();
    assert_eq!(second.on_paper, [0]);
}

#[test]
fn the_same_call_is_stopped_and_others_are_not() {
    let limits = Limits::default();
    let kind = LimitKind::Repeats {
        calls: 3,
        within: Duration::from_secs(60),
    };
    let by = limit("loops", kind);
    for now in 1..4 {
        assert!(at(&limits, &by, tool(1), now).is_ok());
        assert!(at(&limits, &by, tool(100 + now), now).is_ok());
        // What is not known is no repetition.
        assert!(at(&limits, &by, Call::default(), now).is_ok());
    }
    let refused = at(&limits, &by, tool(1), 4);
    assert_eq!(wait(refused), Some(Duration::from_secs(17)));
    assert!(at(&limits, &by, tool(1), 21).is_ok());
    // Others in great number do not have it forgotten.
    for call in 0..4 * MAX_CALLS as u64 {
        assert!(at(&limits, &by, tool(1000 + call), 22).is_ok());
    }
    assert!(at(&limits, &by, tool(1), 22).is_err());
}

#[test]
fn failures_in_a_row_have_to_wait_and_a_success_ends_the_row() {
    let limits = Limits::default();
    let kind = LimitKind::Retries {
        failures: 2,
        within: Duration::from_secs(30),
    };
    let by = limit("storm", kind);
    let ends = |now: u64, went| {
        let admitted = at(&limits, &by, tool(now), now).unwrap();
        admitted.ticket.ended_at(went, &[], now * SECOND);
    };
    ends(1, Went::Failed);
    ends(2, Went::Well);
    ends(3, Went::PutOff);
    // Nobody knows how it went: it ends no row.
    ends(4, Went::Unknown);
    ends(5, Went::Failed);
    let refused = at(&limits, &by, tool(1), 6);
    assert_eq!(wait(refused), Some(Duration::from_secs(29)));
    // Another tool goes on.
    let other = Call {
        target: 8,
        ..tool(1)
    };
    assert!(at(&limits, &by, other, 6).is_ok());
    // Then the row begins anew.
    ends(35, Went::Failed);
    assert!(at(&limits, &by, tool(1), 36).is_ok());
}

#[test]
fn a_session_that_brings_nothing_new_is_stopped_until_it_does_or_waits() {
    let limits = Limits::default();
    let kind = LimitKind::NoProgress {
        calls: 3,
        within: Duration::from_secs(60),
    };
    let by = limit("stuck", kind);
    let step = |now: u64, call, news: &[u64]| {
        let admitted = at(&limits, &by, call, now)?;
        admitted.ticket.ended_at(Went::Well, news, now * SECOND);
        Ok::<_, Refused>(())
    };
    // Two calls by turns, with the same results: each is new once.
    for (now, call) in [(1, 1), (2, 2), (3, 1), (4, 2), (5, 1)] {
        step(now, tool(call), &[10 + call]).unwrap();
    }
    let refused = step(6, tool(2), &[12]).unwrap_err();
    assert_eq!(refused.wait, Some(Duration::from_secs(59)));
    // Neither does a call of a model go on.
    assert!(step(6, Call::default(), &[]).is_err());
    // Something else does.
    step(7, tool(3), &[13]).unwrap();
    step(8, tool(1), &[11]).unwrap();
    // The same call with another result is progress.
    step(9, tool(1), &[14]).unwrap();
    for now in 10..13 {
        step(now, tool(1), &[14]).unwrap();
    }
    assert!(step(13, tool(1), &[14]).is_err());
    step(13 + 60, tool(1), &[14]).unwrap();
}

#[test]
fn a_chain_has_so_many_calls_and_agents_at_once() {
    let limits = Limits::default();
    let kind = LimitKind::Depth {
        calls: 4,
        agents: 2,
    };
    let by = limit("chains", kind);
    let call = |chain, agent| Call {
        chain,
        agent,
        ..Call::default()
    };
    let first = at(&limits, &by, call(1, 1), 1).unwrap();
    let _second = at(&limits, &by, call(1, 2), 1).unwrap();
    // A third agent is one too many, in this chain.
    assert_eq!(at(&limits, &by, call(1, 3), 1).unwrap_err().wait, None);
    let _other = at(&limits, &by, call(2, 3), 1).unwrap();
    // Two agents that call each other without an end.
    let _third = at(&limits, &by, call(1, 1), 1).unwrap();
    let _fourth = at(&limits, &by, call(1, 2), 1).unwrap();
    assert!(at(&limits, &by, call(1, 1), 1).is_err());
    drop(first);
    assert!(at(&limits, &by, call(1, 1), 1).is_ok());
}

fn breaker(failures: u32, of: u32, probes: u32) -> By {
    By::Breaker(Arc::new(Breaker {
        id: "upstreams".into(),
        circuit: Circuit::Upstream,
        failures,
        of,
        within: Duration::from_secs(60),
        wait: Duration::from_secs(10),
        probes,
        per: [].into(),
    }))
}

fn circuit(limits: &Limits) -> CircuitState {
    match limits.0.books().accounts.values().next().unwrap() {
        (_, super::Account::Circuit(circuit)) => circuit.state(0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_circuit_opens_is_tried_and_closes() {
    let limits = Limits::default();
    let by = breaker(2, 3, 2);
    let ends = |now: u64, went| {
        let admitted = at(&limits, &by, Call::default(), now).unwrap();
        admitted.ticket.ended_at(went, &[], now * SECOND);
    };
    let under_way = at(&limits, &by, Call::default(), 1).unwrap();
    ends(1, Went::Failed);
    ends(2, Went::Well);
    // One that was put off says nothing of the other side.
    ends(2, Went::PutOff);
    assert_eq!(circuit(&limits), CircuitState::Closed(1));
    ends(3, Went::Failed);
    assert_eq!(
        wait(at(&limits, &by, Call::default(), 4)),
        Some(Duration::from_secs(9))
    );
    // What began before, and ends now, neither closes it nor keeps it open.
    under_way.ticket.ended_at(Went::Well, &[], 5 * SECOND);
    assert!(at(&limits, &by, Call::default(), 12).is_err());
    // Two try it, and no more.
    let one = at(&limits, &by, Call::default(), 13).unwrap();
    let two = at(&limits, &by, Call::default(), 13).unwrap();
    assert_eq!(circuit(&limits), CircuitState::HalfOpen);
    assert_eq!(
        wait(at(&limits, &by, Call::default(), 13)),
        Some(Duration::from_secs(1))
    );
    one.ticket.ended_at(Went::Failed, &[], 14 * SECOND);
    // The other one, which tried it at that time, does not count for the next.
    assert!(at(&limits, &by, Call::default(), 23).is_err());
    let again = at(&limits, &by, Call::default(), 24).unwrap();
    two.ticket.ended_at(Went::Well, &[], 24 * SECOND);
    again.ticket.ended_at(Went::Well, &[], 24 * SECOND);
    assert_eq!(circuit(&limits), CircuitState::HalfOpen);
    // One whose client went away makes room for another.
    drop(at(&limits, &by, Call::default(), 25).unwrap());
    ends(26, Went::Well);
    assert_eq!(circuit(&limits), CircuitState::Closed(0));
    assert!(at(&limits, &by, Call::default(), 26).is_ok());
}

#[test]
fn a_trial_that_never_ends_keeps_no_circuit_open() {
    let limits = Limits::default();
    let by = breaker(1, 1, 1);
    let first = at(&limits, &by, Call::default(), 1).unwrap();
    first.ticket.ended_at(Went::Failed, &[], SECOND);
    let hung = at(&limits, &by, Call::default(), 11).unwrap();
    assert_eq!(
        wait(at(&limits, &by, Call::default(), 12)),
        Some(Duration::from_secs(1))
    );
    let again = at(&limits, &by, Call::default(), 21).unwrap();
    assert!(at(&limits, &by, Call::default(), 22).is_err());
    // What hung says nothing, once its client has gone away.
    drop(hung);
    again.ticket.ended_at(Went::Well, &[], 22 * SECOND);
    assert_eq!(circuit(&limits), CircuitState::Closed(0));
}

#[test]
fn a_circuit_closes_where_answers_take_longer_than_it_waits() {
    let limits = Limits::default();
    let by = breaker(1, 1, 1);
    let first = at(&limits, &by, Call::default(), 1).unwrap();
    first.ticket.ended_at(Went::Failed, &[], SECOND);
    // Each takes 25 s; another tries it every 10 s meanwhile.
    let slow = at(&limits, &by, Call::default(), 11).unwrap();
    let _second = at(&limits, &by, Call::default(), 21).unwrap();
    let _third = at(&limits, &by, Call::default(), 31).unwrap();
    slow.ticket.ended_at(Went::Well, &[], 36 * SECOND);
    assert_eq!(circuit(&limits), CircuitState::Closed(0));
}

#[test]
fn what_began_before_a_circuit_opened_does_not_open_it_again_once_it_is_closed() {
    let limits = Limits::default();
    let by = breaker(1, 1, 1);
    let old = at(&limits, &by, Call::default(), 1).unwrap();
    let first = at(&limits, &by, Call::default(), 1).unwrap();
    first.ticket.ended_at(Went::Failed, &[], SECOND);
    let trial = at(&limits, &by, Call::default(), 11).unwrap();
    trial.ticket.ended_at(Went::Well, &[], 12 * SECOND);
    assert_eq!(circuit(&limits), CircuitState::Closed(0));
    old.ticket.ended_at(Went::Failed, &[], 13 * SECOND);
    assert_eq!(circuit(&limits), CircuitState::Closed(0));
    // One that began since does.
    let new = at(&limits, &by, Call::default(), 14).unwrap();
    new.ticket.ended_at(Went::Failed, &[], 15 * SECOND);
    assert_eq!(circuit(&limits), CircuitState::Open(25 * SECOND));
}

#[test]
fn failures_of_long_ago_and_among_many_calls_do_not_count() {
    let limits = Limits::default();
    let by = breaker(2, 3, 1);
    let ends = |now: u64, went| {
        let admitted = at(&limits, &by, Call::default(), now).unwrap();
        admitted.ticket.ended_at(went, &[], now * SECOND);
    };
    ends(1, Went::Failed);
    ends(62, Went::Failed);
    for now in 63..66 {
        ends(now, Went::Well);
    }
    ends(66, Went::Failed);
    assert_eq!(circuit(&limits), CircuitState::Closed(1));
}

#[test]
fn what_breaks_off_has_failed_whatever_was_said_before() {
    let limits = Limits::default();
    let by = breaker(1, 1, 1);
    let admitted = at(&limits, &by, Call::default(), 1).unwrap();
    admitted.ticket.broke();
    admitted.ticket.ended_at(Went::Well, &[], SECOND);
    assert!(at(&limits, &by, Call::default(), 2).is_err());
}

#[test]
fn what_this_side_breaks_off_says_nothing() {
    let limits = Limits::default();
    let by = breaker(1, 1, 1);
    let admitted = at(&limits, &by, Call::default(), 1).unwrap();
    admitted.ticket.says_nothing();
    admitted.ticket.ended_at(Went::Failed, &[], SECOND);
    assert_eq!(circuit(&limits), CircuitState::Closed(0));
}

#[test]
fn nobody_gets_rid_of_what_was_counted_by_having_more_accounts() {
    let limits = Limits::default();
    let few = rate("few", 1, 3600, 1);
    let many = MAX_ACCOUNTS / LEAST_ACCOUNTS;
    let by = |owner: u32, agent: &str, now: u64| {
        let call = Call {
            owner,
            ..Call::default()
        };
        limits.admit_at(vec![ask(&few, agent)], call, many, now * SECOND)
    };
    let part = LEAST_ACCOUNTS / PART;
    assert!(by(1, "mine", 1).is_ok());
    for number in 1..part {
        assert!(by(1, &number.to_string(), 1).is_ok());
    }
    // There is no room for more of this agent's: the next are one together, and those that are there stay.
    assert!(by(1, "one more", 2).is_ok());
    let refused = by(1, "another", 2).unwrap_err();
    assert_eq!(refused.scope.as_str(), "(others of agent 1)");
    assert!(by(1, "mine", 2).is_err());
    // There is for another's, and none makes less of that by being refused.
    for number in 0..2 * LEAST_ACCOUNTS {
        assert!(by(1, &format!("refused {number}"), 2).is_err());
    }
    assert!(by(2, "of two", 2).is_ok());
    assert!(by(2, "of two", 2).is_err());
    // Where there is none for anybody, an agent has all its others together, and none of another's.
    for owner in 2..20 {
        for number in 0..part {
            let _ = by(owner, &format!("{owner} {number}"), 2);
        }
    }
    assert!(by(20, "new", 2).is_ok());
    assert!(by(21, "new", 2).is_ok());
    assert!(by(21, "newer", 2).is_err());
    // Another limit has room of its own.
    let other = rate("other", 1, 3600, 1);
    let asks = vec![ask(&other, "another")];
    let admitted = limits.admit_at(asks, Call::default(), many, 2 * SECOND);
    assert!(admitted.is_ok());
    // Once they are as new ones, they are forgotten, and there is room.
    assert!(by(1, "another", 3603).is_ok());
    assert!(limits.0.books().accounts.len() <= 3);
}

#[test]
fn what_counts_first_after_a_sweep_is_not_forgotten_with_the_next() {
    let limits = Limits::default();
    let few = rate("few", 1, 3600, 1);
    let many = MAX_ACCOUNTS / LEAST_ACCOUNTS;
    let admit = |agent: &str, now: u64| {
        limits.admit_at(vec![ask(&few, agent)], Call::default(), many, now * SECOND)
    };
    for number in 0..LEAST_ACCOUNTS / PART {
        assert!(admit(&number.to_string(), 1).is_ok());
    }
    // All are as new ones: the sweep that makes room forgets the limit itself, and this one counts by it.
    assert!(admit("mine", 3602).is_ok());
    limits.0.books().sweep(3602 * SECOND);
    assert!(admit("mine", 3603).is_err());
}

#[test]
fn a_limit_that_is_changed_counts_what_was_counted() {
    let limits = Limits::default();
    let (strict, loose) = (rate("a", 1, 60, 1), rate("a", 2, 60, 2));
    assert!(at(&limits, &strict, Call::default(), 1).is_ok());
    assert!(at(&limits, &strict, Call::default(), 1).is_err());
    assert_eq!(
        wait(at(&limits, &loose, Call::default(), 1)),
        Some(Duration::from_secs(30))
    );
}

#[test]
fn what_is_loosened_blocks_for_no_longer_than_it_could_by_itself() {
    let limits = Limits::default();
    let (strict, loose) = (rate("a", 1, 86_400, 1), rate("a", 60, 60, 10));
    assert!(at(&limits, &strict, Call::default(), 1).is_ok());
    assert_eq!(
        wait(at(&limits, &loose, Call::default(), 1)),
        Some(Duration::from_secs(1))
    );
    assert!(at(&limits, &loose, Call::default(), 2).is_ok());
    // The same of a circuit that was open for long.
    let open_for = |seconds| {
        By::Breaker(Arc::new(Breaker {
            id: "up".into(),
            circuit: Circuit::Upstream,
            failures: 1,
            of: 1,
            within: Duration::from_secs(60),
            wait: Duration::from_secs(seconds),
            probes: 1,
            per: [].into(),
        }))
    };
    let failed = at(&limits, &open_for(86_400), Call::default(), 1).unwrap();
    failed.ticket.ended_at(Went::Failed, &[], SECOND);
    assert!(at(&limits, &open_for(86_400), Call::default(), 2).is_err());
    let refused = at(&limits, &open_for(10), Call::default(), 3);
    assert_eq!(wait(refused), Some(Duration::from_secs(10)));
    assert!(at(&limits, &open_for(10), Call::default(), 13).is_ok());
}

#[test]
fn what_is_counted_is_told() {
    let limits = Limits::default();
    let by = rate("few", 1, 3600, 1);
    let _ = limits
        .admit(vec![ask(&by, "a")], Call::default(), 1)
        .unwrap();
    let standing = limits.standing();
    assert_eq!(standing.len(), 1);
    assert_eq!((&*standing[0].id, standing[0].kind), ("few", "rate"));
    assert!(matches!(standing[0].state, StandingState::Waits(_)));
}

/// Each of one limit, or one alone; what other limits have counted stays.
#[test]
fn an_operator_has_accounts_count_from_the_beginning() {
    let limits = Limits::default();
    let [burst, other] = ["burst", "other"].map(|id| rate(id, 1, 3600, 1));
    let admit = |by: &By, agent: &str| {
        let asks = vec![ask(by, agent)];
        limits.admit_at(asks, Call::default(), 2, SECOND).is_ok()
    };
    let all = [(&burst, "a"), (&burst, "b"), (&other, "a")];
    let admits = || all.map(|(by, agent)| admit(by, agent));
    assert_eq!(admits(), [true; 3]);
    assert_eq!(admits(), [false; 3]);
    assert_eq!(limits.reset("burst", Some("agent=a")), 1);
    assert_eq!(admits(), [true, false, false]);
    assert_eq!(limits.reset("burst", None), 2);
    assert_eq!(admits(), [true, true, false]);
    assert_eq!(limits.reset("burst", Some("agent=c")), 0);
    assert_eq!(limits.reset("another", None), 0);
}

/// What was under way says nothing of a circuit that an operator has closed.
#[test]
fn an_operator_closes_a_circuit() {
    let limits = Limits::default();
    let by = By::Breaker(Arc::new(Breaker {
        id: "up".into(),
        circuit: Circuit::Upstream,
        per: [].into(),
        failures: 1,
        of: 1,
        within: Duration::from_secs(60),
        wait: Duration::from_secs(3600),
        probes: 1,
    }));
    let late = at(&limits, &by, Call::default(), 1).unwrap();
    let fails = at(&limits, &by, Call::default(), 1).unwrap();
    fails.ticket.ended_at(Went::Failed, &[], 2 * SECOND);
    assert!(at(&limits, &by, Call::default(), 3).is_err());
    assert_eq!(limits.reset("up", None), 1);
    late.ticket.ended_at(Went::Failed, &[], 4 * SECOND);
    let goes = at(&limits, &by, Call::default(), 5).unwrap();
    // It opens again as ever.
    goes.ticket.ended_at(Went::Failed, &[], 6 * SECOND);
    assert!(at(&limits, &by, Call::default(), 7).is_err());
}

/// Calls that are under way are.
#[test]
fn a_chain_is_not_reset() {
    let limits = Limits::default();
    let by = limit(
        "deep",
        LimitKind::Depth {
            calls: 1,
            agents: 1,
        },
    );
    let under_way = at(&limits, &by, Call::default(), 1).unwrap();
    assert_eq!(limits.reset("deep", None), 0);
    assert!(at(&limits, &by, Call::default(), 2).is_err());
    drop(under_way);
    assert!(at(&limits, &by, Call::default(), 3).is_ok());
}

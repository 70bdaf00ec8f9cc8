use std::sync::atomic::{AtomicUsize, Ordering};

use std::future::poll_fn;

use super::*;

const HEAVY: AgentId = AgentId(1);
const LIGHT: AgentId = AgentId(2);

/// How many tasks the heavy one has.
const TASKS: usize = 200;

/// How many steps of it are a slice, where each takes as long as is assumed.
fn slice() -> usize {
    usize::try_from(SLICE.as_nanos() / STEP.as_nanos()).unwrap()
}

/// Takes a step of a loop, and is ready for the next one.
async fn step() {
    let begun = Instant::now();
    while begun.elapsed() < STEP {}
    again().await;
}

/// Comes once more behind all that is ready.
async fn again() {
    let mut come = false;
    poll_fn(|cx| match mem::replace(&mut come, true) {
        true => Poll::Ready(()),
        false => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

/// Two agents, one of which has very much more to do: the most steps of that one between two of the other one.
async fn most_between(heavy: fn(&'static AtomicUsize) -> JoinHandle<()>, fair: bool) -> usize {
    let taken: &AtomicUsize = Box::leak(Box::default());
    let heavy: Vec<_> = (0..TASKS).map(|_| heavy(taken)).collect();
    let light = async {
        let mut most = 0;
        for _ in 0..20 {
            let before = taken.load(Ordering::Relaxed);
            again().await;
            most = most.max(taken.load(Ordering::Relaxed) - before);
        }
        most
    };
    let light = match fair {
        true => tokio::spawn(Fair::new(LIGHT, None, light)),
        false => tokio::spawn(light),
    };
    let most = light.await.unwrap();
    heavy.iter().for_each(JoinHandle::abort);
    most
}

async fn busy(taken: &AtomicUsize) {
    loop {
        taken.fetch_add(1, Ordering::Relaxed);
        step().await;
    }
}

#[tokio::test]
async fn who_has_little_to_do_does_not_wait_behind_who_has_much() {
    let unfair = most_between(|taken| tokio::spawn(busy(taken)), false).await;
    assert_eq!(unfair, TASKS);
    let fair = most_between(
        |taken| tokio::spawn(Fair::new(HEAVY, None, busy(taken))),
        true,
    )
    .await;
    // What is let go is a slice, and what comes to be ready may be the rest of one.
    assert!((1..=2 * slice() + 2).contains(&fair), "{fair}");
}

#[tokio::test]
async fn what_a_task_begins_is_of_its_agent() {
    let heavy = |taken: &'static AtomicUsize| {
        let begins = async move {
            let begun = spawn(busy(taken));
            // An agent's, whoever waits for it.
            let _ = begun.await;
        };
        tokio::spawn(Fair::new(HEAVY, None, begins))
    };
    let fair = most_between(heavy, true).await;
    assert!((1..=2 * slice() + 2).contains(&fair), "{fair}");
}

#[tokio::test]
async fn who_is_alone_waits_for_nobody() {
    let taken: &AtomicUsize = Box::leak(Box::default());
    let tasks = (0..TASKS).map(|_| {
        tokio::spawn(Fair::new(HEAVY, None, async {
            for _ in 0..3 {
                taken.fetch_add(1, Ordering::Relaxed);
                step().await;
            }
        }))
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(taken.load(Ordering::Relaxed), 3 * TASKS);
    let rounds = HERE.with(Arc::clone);
    let state = rounds.state();
    assert_eq!((state.round, state.shares.len()), (0, 0));
}

/// Also where some of those that wait are dropped, and where some panic.
#[tokio::test]
async fn all_that_wait_come_in_order() {
    let other = tokio::spawn(Fair::new(LIGHT, None, std::future::pending::<()>()));
    tokio::spawn(again()).await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let tasks: Vec<_> = (0..TASKS)
        .map(|number| {
            let order = Arc::clone(&order);
            tokio::spawn(Fair::new(HEAVY, None, async move {
                order.lock().unwrap().push(number);
                step().await;
                assert_ne!(number % 5, 1, "as it should");
            }))
        })
        .collect();
    // All have asked by then, and the first ones have had a turn.
    tokio::spawn(again()).await.unwrap();
    let gone = |number: usize| number.is_multiple_of(3) && number > 4 * slice();
    for (number, task) in tasks.iter().enumerate() {
        if gone(number) {
            task.abort();
        }
    }
    for (number, task) in tasks.into_iter().enumerate() {
        let ended = task.await;
        match (gone(number), number % 5) {
            (true, _) => assert!(ended.unwrap_err().is_cancelled()),
            (false, 1) => assert!(ended.unwrap_err().is_panic()),
            (false, _) => ended.unwrap(),
        }
        assert_eq!(WHOSE.get(), None);
    }
    let expected: Vec<usize> = (0..TASKS).filter(|number| !gone(*number)).collect();
    assert_eq!(*order.lock().unwrap(), expected);
    other.abort();
    assert!(other.await.unwrap_err().is_cancelled());
    let rounds = HERE.with(Arc::clone);
    let state = rounds.state();
    assert!(state.round > 0);
    // Who has had too much is remembered.
    assert!(state.shares.values().all(|share| share.tasks == 0));
    assert_eq!(state.waiting.len(), 0);
    assert!(!state.under_way);
}

/// Two agents of one task each, of which the heavy one has had its slice.
fn after_a_slice() -> State {
    let mut state = State::default();
    for agent in [HEAVY, LIGHT] {
        state.share(agent).tasks += 1;
    }
    assert!(comes(&mut state, HEAVY, &mut None));
    state.took(HEAVY, SLICE);
    state
}

fn comes(state: &mut State, agent: AgentId, ticket: &mut Option<u64>) -> bool {
    matches!(state.asks(agent, ticket, Waker::noop()), Turn::Comes { .. })
}

#[test]
fn who_waits_has_one_place_and_keeps_it_whoever_wakes_it() {
    let mut state = after_a_slice();
    let (mut first, mut second) = (None, None);
    for _ in 0..3 {
        assert!(!comes(&mut state, HEAVY, &mut first));
        assert!(!comes(&mut state, HEAVY, &mut second));
    }
    assert!(comes(&mut state, LIGHT, &mut None));
    assert_eq!(state.shares[&HEAVY].waiting.len(), 2);
    assert_eq!(state.waiting, [HEAVY]);
    state.share(HEAVY).step = SLICE;
    assert_eq!(state.next_round().len(), 1);
    assert!(!comes(&mut state, HEAVY, &mut second));
    assert!(comes(&mut state, HEAVY, &mut first));
    // Nobody who has just come overtakes it, though there is room.
    assert!(!comes(&mut state, HEAVY, &mut None));
    assert_eq!(state.next_round().len(), 1);
    assert!(comes(&mut state, HEAVY, &mut second));
}

#[test]
fn what_was_too_much_is_taken_off_the_next_rounds() {
    let mut state = after_a_slice();
    state.took(HEAVY, SLICE * 3);
    let mut ticket = None;
    assert!(!comes(&mut state, HEAVY, &mut ticket));
    for _ in 0..3 {
        assert_eq!(state.next_round().len(), 0);
        assert!(state.under_way);
        assert!(!comes(&mut state, HEAVY, &mut ticket));
    }
    assert_eq!(state.next_round().len(), 1);
    assert!(!state.under_way);
    assert!(comes(&mut state, HEAVY, &mut ticket));
    // And nothing of what was left is kept.
    state.round += 1_000_000;
    assert_eq!(state.shares[&HEAVY].used_in(state.round), Duration::ZERO);
}

#[test]
fn as_many_are_let_go_as_are_a_slice_by_what_they_took_and_never_none() {
    let mut state = after_a_slice();
    let steps = |state: &State| state.shares[&HEAVY].steps(state.round + 1);
    // It was one step of a slice, among those that are assumed.
    assert_eq!(steps(&state), 3);
    for (step, let_go) in [(SLICE * 20, 1), (SLICE / 4, 4), (SLICE / 10_000, MOST)] {
        state.share(HEAVY).step = step;
        assert_eq!(steps(&state), let_go);
    }
    // On the mean of the last ones.
    for _ in 0..100 {
        state.took(HEAVY, SLICE / 8);
    }
    state.share(HEAVY).used = Duration::ZERO;
    assert!((7..=9).contains(&steps(&state)), "{}", steps(&state));
}

#[test]
fn what_is_cut_off_does_not_wait() {
    for cut in 0..2 {
        let mut state = after_a_slice();
        let cuts = Cuts::default();
        state.share(HEAVY).cuts = Some(cuts.clone());
        let (mut one, mut other) = (None, None);
        assert!(!comes(&mut state, HEAVY, &mut one));
        assert!(!comes(&mut state, HEAVY, &mut other));
        cuts[cut].cancel();
        assert!(comes(&mut state, HEAVY, &mut one));
        assert!(comes(&mut state, HEAVY, &mut None));
        // Who is not woken by that is by the next round, whatever was too much.
        state.took(HEAVY, SLICE * 100);
        assert_eq!(state.next_round().len(), 1);
        assert_eq!(state.shares[&HEAVY].coming, 1);
        assert!(comes(&mut state, HEAVY, &mut other));
        assert_eq!(state.shares[&HEAVY].coming, 0);
    }
}

/// All that waited are gone before their turn, and the agent comes again.
#[tokio::test]
async fn an_agent_that_goes_while_it_waits_has_no_second_place() {
    // Of no other test: all loops are looked at.
    const AGENT: AgentId = AgentId(3);
    let other = tokio::spawn(Fair::new(LIGHT, None, std::future::pending::<()>()));
    tokio::spawn(again()).await.unwrap();
    let rounds = HERE.with(Arc::clone);
    rounds.state().share(AGENT);
    rounds.state().took(AGENT, SLICE * 1_000);
    let waits = tokio::spawn(Fair::new(AGENT, None, async { lags() }));
    tokio::spawn(again()).await.unwrap();
    waits.abort();
    assert!(waits.await.unwrap_err().is_cancelled());
    assert_eq!(rounds.state().waiting, [AGENT]);
    let comes = tokio::spawn(Fair::new(AGENT, None, async { lags() }));
    tokio::spawn(again()).await.unwrap();
    assert_eq!(rounds.state().waiting, [AGENT]);
    // It has had its turn, and nothing of it waits.
    assert!(!comes.await.unwrap());
    assert!(!lags(), "of nobody");
    other.abort();
    assert!(other.await.unwrap_err().is_cancelled());
    let state = rounds.state();
    let mut shares = state.shares.values();
    assert!(shares.all(|share| (share.tasks, share.coming, share.waiting.len()) == (0, 0, 0)));
}

/// One connection for each long step is no way to more.
#[tokio::test]
async fn what_was_too_much_is_remembered_behind_the_last_task() {
    const AGENT: AgentId = AgentId(6);
    let other = tokio::spawn(Fair::new(LIGHT, None, std::future::pending::<()>()));
    tokio::spawn(again()).await.unwrap();
    let long = || {
        tokio::spawn(Fair::new(AGENT, None, async {
            let begun = Instant::now();
            while begun.elapsed() < SLICE * 8 {}
        }))
    };
    long().await.unwrap();
    let rounds = HERE.with(Arc::clone);
    let before = rounds.state().round;
    long().await.unwrap();
    assert!(rounds.state().round >= before + 7);
    other.abort();
}

#[tokio::test]
async fn whether_anything_of_an_agent_waits_is_seen_by_its_tasks() {
    const AGENT: AgentId = AgentId(4);
    let other = tokio::spawn(Fair::new(AgentId(5), None, async {
        again().await;
        lags()
    }));
    let heavy = (0..TASKS).map(|_| {
        tokio::spawn(Fair::new(AGENT, None, async {
            step().await;
            lags()
        }))
    });
    let heavy: Vec<_> = heavy.collect();
    assert!(!other.await.unwrap());
    let mut lagged = 0;
    for task in heavy {
        lagged += usize::from(task.await.unwrap());
    }
    assert!((1..TASKS).contains(&lagged), "{lagged}");
}

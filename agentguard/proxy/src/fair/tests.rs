use std::sync::atomic::{AtomicUsize, Ordering};

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
        true => tokio::spawn(Fair::new(LIGHT, light)),
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
    let fair = most_between(|taken| tokio::spawn(Fair::new(HEAVY, busy(taken))), true).await;
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
        tokio::spawn(Fair::new(HEAVY, begins))
    };
    let fair = most_between(heavy, true).await;
    assert!((1..=2 * slice() + 2).contains(&fair), "{fair}");
}

#[tokio::test]
async fn who_is_alone_waits_for_nobody() {
    let taken: &AtomicUsize = Box::leak(Box::default());
    let tasks = (0..TASKS).map(|_| {
        tokio::spawn(Fair::new(HEAVY, async {
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
    let other = tokio::spawn(Fair::new(LIGHT, std::future::pending::<()>()));
    tokio::spawn(again()).await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let tasks: Vec<_> = (0..TASKS)
        .map(|number| {
            let order = Arc::clone(&order);
            tokio::spawn(Fair::new(HEAVY, async move {
                order.lock().unwrap().push(number);
                step().await;
                assert_ne!(number % 5, 1, "as it should");
            }))
        })
        .collect();
    // All have asked by then, and the first ones have had a turn.
    tokio::spawn(again()).await.unwrap();
    let gone = |number: usize| number % 3 == 0 && number > 4 * slice();
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
    assert_eq!(state.shares.len(), 0);
}

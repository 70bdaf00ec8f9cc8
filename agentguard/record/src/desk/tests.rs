use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use agentguard_decision::RecordRefused;
use agentguard_model::DecisionId;
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::sync::oneshot::Receiver;

use super::*;
use crate::aggregate::Aggregator;
use crate::counts::Counts;
use crate::grown;
use crate::queue::{Pending, not_carried_out};
use crate::quota::Quotas;
use crate::record::Options;
use crate::segment::{self, Position};
use crate::shared::Shared;
use crate::sync::Syncer;

/// How long it takes at most until somebody has written who was called. A tick would take longer.
const SOON: Duration = Duration::from_millis(500);

fn writer(dir: &Path) -> Writer {
    let at = Position {
        number: 1,
        segment: 1,
        offset: segment::FIRST,
    };
    let options = Options::default();
    let shared = Arc::new(Shared::new(dir.to_owned(), BTreeMap::new(), at));
    Writer {
        syncer: Arc::new(Syncer::new(Arc::clone(&shared), options.sync_interval)),
        shared,
        grows: grown::grows().0,
        counts: Counts::open(dir).unwrap().0,
        segment: Arc::new(segment::create(dir, 1).unwrap()),
        at,
        aggregator: Aggregator::new(options.identical_per_second),
        quotas: Quotas::new(options.quota, Instant::now()),
        kept: Pending::default(),
        agent: None,
        dirty_tail: false,
        must_rotate: false,
        slow_until: None,
        options,
    }
}

fn desk() -> (Arc<Desk>, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let desk = Arc::new(Desk::new(Some(writer(dir.path()))));
    (desk, dir)
}

/// The record's own thread; how many wait for its end.
fn runs(desk: &Arc<Desk>) -> thread::JoinHandle<usize> {
    let desk = Arc::clone(desk);
    thread::spawn(move || desk.run().len())
}

type Reply = Receiver<Result<DecisionId, RecordRefused>>;

/// Brings the `n`-th allow.
fn bring(desk: &Desk, n: u64) -> Result<Reply, Closed> {
    let allow = format!(
        r#"{{"id":"01JD6Z7Q00000000000{n:07}","time":"2026-11-22T04:08:03Z","context":{{}},"layer":"proxy",
        "action":{{"kind":"connect"}},"verdict":"allow","enforced":true,"mode":"enforce",
        "reason":{{"code":"rule_allow","message":"m"}},"count":1,"latency_us":1,"policy_version":"0"}}"#
    );
    let decision = serde_json::from_str(&allow).unwrap();
    let (sender, reply) = oneshot::channel();
    let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let _place = place;
    desk.write(decision, Ack { sender, _place })?;
    Ok(reply)
}

fn keep(desk: &Desk, id: DecisionId) {
    let entry = not_carried_out(id, "a test");
    desk.keep(Kept {
        entry,
        _place: None,
    })
    .unwrap();
}

/// Waits until there is something, [`SOON`] at most.
fn soon<T>(mut there: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + SOON;
    loop {
        if let Some(it) = there() {
            return it;
        }
        assert!(Instant::now() < until, "nobody has written it");
        thread::park_timeout(Duration::from_millis(1));
    }
}

/// Waits for the answer.
fn answered(reply: &mut Reply) -> bool {
    soon(|| match reply.try_recv() {
        Ok(reply) => Some(reply.is_ok()),
        Err(oneshot::error::TryRecvError::Closed) => Some(false),
        Err(oneshot::error::TryRecvError::Empty) => None,
    })
}

/// What is brought while somebody writes: whoever is told brings one more.
struct Brings(Arc<Desk>, Mutex<Option<Reply>>);

impl Wake for Brings {
    fn wake(self: Arc<Self>) {
        *self.1.lock().unwrap() = Some(bring(&self.0, 2).unwrap());
    }
}

/// Has the second one brought in the middle of the write of the first one; the answers to both.
fn one_beside_the_other(desk: &Arc<Desk>, slow: bool) -> [Reply; 2] {
    let first = {
        // Nobody can write yet.
        let mut held = desk.writer.lock().unwrap();
        let first = bring(desk, 1).unwrap();
        if slow {
            held.as_mut().unwrap().slow_until = Some(Instant::now() + SOON * 4);
        }
        first
    };
    let brings = Arc::new(Brings(Arc::clone(desk), Mutex::default()));
    let waker = Waker::from(Arc::clone(&brings));
    let mut first = std::pin::pin!(first);
    let polled = first.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    // As one who comes to write, for nothing of its own.
    desk.write_now();
    let second = match slow {
        // The thread was called.
        true => soon(|| brings.1.lock().unwrap().take()),
        false => brings.1.lock().unwrap().take().unwrap(),
    };
    let Poll::Ready(reply) = first.poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it was told of an answer that is not there");
    };
    let (sender, again) = oneshot::channel();
    sender.send(reply.unwrap()).unwrap();
    [again, second]
}

#[test]
fn who_writes_sees_to_what_comes_meanwhile() {
    let (desk, _dir) = desk();
    let [mut first, mut second] = one_beside_the_other(&desk, false);
    // There is no thread that could have.
    assert!(first.try_recv().unwrap().is_ok());
    assert!(second.try_recv().unwrap().is_ok());
}

#[test]
fn the_thread_writes_while_the_disk_is_slow_and_sees_to_what_comes_meanwhile() {
    let (desk, _dir) = desk();
    let thread = runs(&desk);
    for mut reply in one_beside_the_other(&desk, true) {
        assert!(answered(&mut reply));
    }
    desk.end(None);
    assert_eq!(thread.join().unwrap(), 0);
    assert!(bring(&desk, 3).is_err());
}

#[test]
fn nobody_who_brings_something_waits_for_what_may_take_long() {
    let reasons: [fn(&mut Writer); 6] = [
        |writer| writer.dirty_tail = true,
        |writer| writer.must_rotate = true,
        |writer| writer.at.offset = writer.options.segment_bytes,
        |writer| writer.slow_until = Some(Instant::now() + SOON),
        |writer| {
            *lock(&writer.shared.write_failing) = Some(crate::status::Degraded {
                since: jiff::Timestamp::now(),
                error: "full".to_owned(),
            });
        },
        |writer| writer.syncer.begins(Instant::now().checked_sub(SOON)),
    ];
    for (number, makes_slow) in reasons.into_iter().enumerate() {
        let (desk, _dir) = desk();
        makes_slow(desk.writer.lock().unwrap().as_mut().unwrap());
        let _reply = bring(&desk, 1).unwrap();
        assert_eq!(desk.waiting(), (1, 0), "{number}");
        assert_eq!(lock(&desk.inbox).call, Call::Now, "{number}");
    }
    let (desk, _dir) = desk();
    let _reply = bring(&desk, 1).unwrap();
    assert_eq!(desk.waiting(), (0, 0));
}

#[test]
fn who_brings_something_makes_no_new_segment() {
    let (desk, dir) = desk();
    desk.writer
        .lock()
        .unwrap()
        .as_mut()
        .unwrap()
        .options
        .segment_bytes = segment::FIRST + 1;
    assert!(bring(&desk, 1).unwrap().try_recv().unwrap().is_ok());
    let segments = || segment::list(dir.path()).unwrap().len();
    assert_eq!(segments(), 1);
    // The next one is the thread's.
    let mut reply = bring(&desk, 2).unwrap();
    assert_eq!((segments(), desk.waiting()), (1, (1, 0)));
    let thread = runs(&desk);
    assert!(answered(&mut reply));
    assert_eq!(segments(), 2);
    desk.end(None);
    thread.join().unwrap();
}

#[test]
fn what_is_brought_together_is_written_then() {
    let (desk, _dir) = desk();
    let (other, _other_dir) = self::desk();
    let (mut replies, waited) = desk.together(|| {
        let replies = [1, 2].map(|n| bring(&desk, n).unwrap());
        // Nobody else's decisions wait for that: neither another thread's nor another record's.
        let mut elsewhere = bring(&other, 3).unwrap();
        assert!(elsewhere.try_recv().unwrap().is_ok());
        (replies, desk.waiting())
    });
    assert_eq!(waited, (2, 0));
    for reply in &mut replies {
        assert!(reply.try_recv().unwrap().is_ok());
    }
    // Also where it ends with a panic, and nothing is left of it for what comes next.
    let mut reply = None;
    let brings = AssertUnwindSafe(|| {
        desk.together(|| {
            reply = Some(bring(&desk, 4).unwrap());
            panic!("a test");
        })
    });
    assert!(catch_unwind(brings).is_err());
    assert!(reply.unwrap().try_recv().unwrap().is_ok());
    assert!(bring(&desk, 5).unwrap().try_recv().unwrap().is_ok());
}

#[test]
fn what_became_of_a_decision_stands_behind_it() {
    let (desk, dir) = desk();
    let held = desk.writer.lock().unwrap();
    let many = u64::try_from(BATCH + FEW).unwrap();
    let replies: Vec<_> = (0..many).map(|n| bring(&desk, n).unwrap()).collect();
    let last = "01JD6Z7Q00000000000".to_owned() + &format!("{:07}", many - 1);
    keep(&desk, DecisionId(last.parse().unwrap()));
    drop(held);
    desk.end(None);
    assert_eq!(desk.run().len(), 0);
    assert_eq!(replies.len(), BATCH + FEW);
    for mut reply in replies {
        assert!(reply.try_recv().unwrap().is_ok());
    }
    let log = std::fs::read(segment::path(dir.path(), 1)).unwrap();
    let log = String::from_utf8_lossy(&log);
    let (decision, outcome) = (log.find(&last).unwrap(), log.rfind(&last).unwrap());
    assert!(log[decision..outcome].contains("rule_allow"));
    assert!(log[outcome..].contains("a test"));
}

#[test]
fn outcomes_have_their_turn_however_many_decisions_come() {
    let (desk, _dir) = desk();
    let held = desk.writer.lock().unwrap();
    let many = u64::try_from(BATCH + FEW).unwrap();
    let replies: Vec<_> = (0..many).map(|n| bring(&desk, n).unwrap()).collect();
    let id = DecisionId("01JD6Z7Q000000000000000001".parse().unwrap());
    for _ in 0..LOTS {
        keep(&desk, id);
    }
    drop(held);
    let mut held = desk.writer.lock().unwrap();
    let writer = held.as_mut().unwrap();
    // Who brings something takes a few, and the thread all.
    assert_eq!(desk.take(writer, FEW).len(), FEW);
    assert_eq!(writer.kept.0.len(), 0);
    assert_eq!(desk.take(writer, BATCH).len(), BATCH);
    assert_eq!(writer.kept.0.len(), LOTS);
    drop(replies);
}

#[test]
fn a_writer_that_died_is_told_soon_and_holds_nobody() {
    let (desk, _dir) = desk();
    let thread = runs(&desk);
    let dies = {
        let desk = Arc::clone(&desk);
        thread::spawn(move || {
            let _held = desk.writer.lock().unwrap();
            panic!("as it should");
        })
    };
    dies.join().unwrap_err();
    if let Ok(mut reply) = bring(&desk, 1) {
        assert!(!answered(&mut reply));
    }
    thread.join().unwrap();
    assert!(bring(&desk, 2).is_err());
    // Who asks for the end now is told that it is over.
    let (sender, mut closed) = oneshot::channel();
    desk.end(Some(sender));
    assert!(
        closed
            .try_recv()
            .is_err_and(|error| error == oneshot::error::TryRecvError::Closed)
    );
}

#[test]
fn entries_that_nobody_waits_for_are_gathered_and_written() {
    let (desk, _dir) = desk();
    let over = Arc::new(AtomicBool::new(false));
    let thread = {
        let (desk, over) = (Arc::clone(&desk), Arc::clone(&over));
        thread::spawn(move || {
            drop(desk.run());
            over.store(true, Ordering::Relaxed);
        })
    };
    keep(
        &desk,
        DecisionId("01JD6Z7Q000000000000000001".parse().unwrap()),
    );
    let number = || desk.writer.lock().unwrap().as_ref().unwrap().at.number;
    soon(|| (number() == 2).then_some(()));
    assert!(!over.load(Ordering::Relaxed));
    desk.end(None);
    thread.join().unwrap();
}

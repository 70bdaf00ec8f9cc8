//! `kill -9`: what was acknowledged is there, and so is every count.

use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::task::{Context, Waker};

use agentguard_decision::Recorder;
use agentguard_model::{DecisionId, Verdict};
use agentguard_record::{NoteKind, Notice, Options, Record};

use crate::scene::{
    decision, everything, generous, newest, open, sum, until_indexed, write_allows,
};

/// The directory that the child writes to; the test below is a child only if this is set.
const CHILD: &str = "RECORD_TEST_CHILD_DIR";

/// Writes decisions as fast as it can and says each that was acknowledged, until it is killed.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD) else {
        return;
    };
    let options = Options {
        segment_bytes: 64 * 1024,
        ..generous()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let record = Record::open(Path::new(&dir), options).unwrap();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let record = record.clone();
            runtime.spawn(async move {
                for number in 0_u64.. {
                    let verdict = match number % 8 {
                        0 => Verdict::Modify,
                        1..4 => Verdict::Allow,
                        _ => Verdict::Deny,
                    };
                    let decision = decision("a", verdict, writer);
                    let id = record.write(decision).await.unwrap();
                    // One write, so that lines are whole.
                    let line = format!("\nacked {id}\n");
                    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        runtime.block_on(writer).unwrap();
    }
}

/// Kills a child, whatever becomes of the test.
struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Lets a child write until it has said so many lines, kills it in the middle, and gives all that
/// it has said.
fn killed_after(dir: &Path, lines: usize) -> Vec<DecisionId> {
    let mut child = Kill(
        Command::new(std::env::current_exe().unwrap())
            .args(["crash::child", "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut acked = Vec::new();
    for line in BufReader::new(child.0.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(id) = line.strip_prefix("acked ")
            && id.len() == 26
        {
            acked.push(id.parse().unwrap());
            if acked.len() == lines {
                child.0.kill().unwrap();
            }
        }
    }
    assert!(acked.len() >= lines, "the child ended by itself");
    acked
}

#[tokio::test]
async fn what_was_acknowledged_before_a_kill_is_there_and_so_is_every_count() {
    let dir = tempfile::tempdir().unwrap();
    let mut acked = Vec::new();
    for lines in [1, 700, 3_000] {
        acked.extend(killed_after(dir.path(), lines));
        let record = open(dir.path());
        for id in &acked {
            assert!(record.find(*id).await.unwrap().is_some(), "{id} is lost");
        }
        let found = everything(&record).await;
        // Besides what was acknowledged there may be what was written and not acknowledged: at
        // most one attempt of each of the eight writers in each of the three lives.
        let attempts = acked.len() as u64;
        let sum = sum(&found);
        assert!(sum >= attempts, "{sum} of {attempts} attempts");
        assert!(sum <= attempts + 3 * 8, "{sum} for {attempts} attempts");
        assert!(found.iter().any(|decision| decision.count > 1) || lines == 1);
        until_indexed(&record).await;
        assert_eq!(everything(&record).await, found);
        assert_eq!(record.status().damage, []);
        record.close().await;
    }
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let record = open(dir.path());
    let ids = write_allows(&record, "a", 5).await;
    record.close().await;
    let path = dir.path().join("seg-00000000000000000001.log");
    let whole = std::fs::read(&path).unwrap();
    // The last entry lacks its end; then: there is the beginning of another one; then: zeroes, as
    // a power failure leaves them.
    let mut half = whole.clone();
    half.extend_from_slice(&whole[8..30]);
    let mut zeroes = whole.clone();
    zeroes.resize(whole.len() + 5000, 0);
    for (bytes, kept) in [
        (whole[..whole.len() - 3].to_vec(), 4),
        (half, 5),
        (zeroes, 5),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let record = open(dir.path());
        let found = everything(&record).await;
        assert_eq!(
            found.iter().map(|decision| decision.id).collect::<Vec<_>>(),
            ids[..kept]
        );
        let new = record.write(crate::scene::allow("a")).await.unwrap();
        record.close().await;
        let record = open(dir.path());
        assert!(record.find(new).await.unwrap().is_some());
        let notices = record.notices(10).await.unwrap();
        assert!(
            matches!(notices.as_slice(), [Notice::Note(note)]
                if note.kind == NoteKind::TornTail && note.message.contains("seg-0")),
            "{notices:?}"
        );
        assert_eq!(record.status().damage, []);
        record.close().await;
    }
}

#[tokio::test]
async fn an_acknowledged_escalation_is_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let record = open(dir.path());
    assert_eq!(record.status().last_fsync_age_ms, None);
    let escalated = decision("a", Verdict::Escalate, 1);
    record.write(escalated).await.unwrap();
    assert!(record.status().last_fsync_age_ms.is_some());
}

#[tokio::test]
async fn an_allow_is_made_safe_soon() {
    let dir = tempfile::tempdir().unwrap();
    let record = open(dir.path());
    record.write(crate::scene::allow("a")).await.unwrap();
    crate::scene::until("a sync", async || {
        record.status().last_fsync_age_ms.is_some()
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_no_allow_that_looks_carried_out() {
    let dir = tempfile::tempdir().unwrap();
    let record = open(dir.path());
    let id = loop {
        // It waits for the disk: an allow is mostly written before anybody can go away.
        let mut abandoned = crate::scene::allow("a");
        abandoned.verdict = Verdict::Modify;
        let id = abandoned.id;
        let mut write = std::pin::pin!(record.write(abandoned));
        let mut context = Context::from_waker(Waker::noop());
        // Now and then the disk is so quick that nothing is left to be abandoned.
        if write.as_mut().poll(&mut context).is_pending() {
            break id;
        }
    };
    crate::scene::until("the record says what became of it", async || {
        let found = record.find(id).await.unwrap();
        found.is_some_and(|decision| {
            let outcome = decision.outcome;
            outcome.is_some_and(|outcome| outcome.error.unwrap().contains("not carried out"))
        })
    })
    .await;
}

#[tokio::test]
async fn who_brings_a_decision_writes_it() {
    let dir = tempfile::tempdir().unwrap();
    let record = open(dir.path());
    // Now and then the record's own thread is at it.
    let at_once = (0..100).any(|_| {
        let mut write = std::pin::pin!(record.write(crate::scene::allow("a")));
        let mut context = Context::from_waker(Waker::noop());
        write.as_mut().poll(&mut context).is_ready()
    });
    assert!(at_once);
}

#[tokio::test]
async fn dropping_the_record_flushes_it() {
    let dir = tempfile::tempdir().unwrap();
    let record = open(dir.path());
    for _ in 0..30 {
        record.write(crate::scene::deny("a", 1)).await.unwrap();
    }
    drop(record);
    let mut reopened = None;
    crate::scene::until("the directory is free", async || {
        reopened = Record::open(dir.path(), generous()).ok();
        reopened.is_some()
    })
    .await;
    let record = reopened.unwrap();
    assert_eq!(sum(&everything(&record).await), 30);
}

#[tokio::test]
async fn a_record_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let record = open(dir.path());
    let error = Record::open(dir.path(), generous()).unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
    record.close().await;
    assert!(record.write(crate::scene::allow("a")).await.is_err());
    let other = open(dir.path());
    assert_eq!(other.query(newest(1)).await.unwrap(), []);
}

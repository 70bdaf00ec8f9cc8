//! What is noted on this host while Redis is away, and told by another process when this one has died.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agentguard_model::budget::{Budget, Unit, Window};
use agentguard_model::ledger::OnLoss;
use tempfile::TempDir;
use tokio::time::sleep;

use super::{PATIENT, Server, expire, key, one, open, options, settled, until, used_and_held};
use crate::charge::More;
use crate::ledger::{Ledger as _, Refused};
use crate::model::{NOW, budget};
use crate::redis::{Options, Shared};

fn noting(server: &Server, directory: &TempDir) -> Options {
    Options {
        notes: Some(directory.path().join("notes")),
        lease: Duration::from_secs(3),
        ..options(server)
    }
}

/// How many bytes are noted, of all processes.
fn noted(options: &Options) -> u64 {
    let directory = options.notes.as_deref().expect("a directory");
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    let sizes = entries.map(|entry| entry.and_then(|it| it.metadata()).map_or(0, |it| it.len()));
    sizes.sum()
}

/// As if its process had died: it gives nothing back, and says nothing any more.
async fn dies(shared: Shared) {
    let inner = Arc::downgrade(&shared.inner);
    drop(shared);
    while inner.strong_count() > 0 {
        sleep(Duration::from_millis(1)).await;
    }
}

/// Waits until these are used and held.
async fn until_has(server: &Server, budget: &Budget, has: (u64, u64)) {
    let waits = async {
        while used_and_held(server, budget) != has {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENT, waits).await;
    assert!(waited.is_ok(), "{:?}", used_and_held(server, budget));
}

/// The files of a directory, by their names.
fn files(directory: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(directory).expect("a directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .map(|path| (path.clone(), fs::read(path).expect("a file")))
        .collect()
}

#[tokio::test]
async fn what_a_call_may_owe_that_waits_for_an_absent_redis_is_charged_if_its_host_dies() {
    for keeps in [true, false] {
        let appends = if keeps { "yes" } else { "no" };
        let Some(mut server) = Server::start(&["--appendonly", appends, "--appendfsync", "always"])
        else {
            return;
        };
        let directory = TempDir::new().expect("a directory");
        let tokens = budget("t", Unit::Tokens, 10_000, Window::Day);
        let budgets = [tokens.clone()];
        let noting = noting(&server, &directory);
        let dead = open(&noting).await;
        let waits = dead.reserve(&one(&tokens, 40), NOW).await.expect("room");
        let ends = dead.reserve(&one(&tokens, 50), NOW).await.expect("room");
        let rests = dead.reserve(&one(&tokens, 60), NOW).await.expect("room");
        server.kill();
        let more = More {
            tokens: 10,
            most: Some(5000),
        };
        for id in [waits.id, waits.id, ends.id] {
            let away = dead.extend(id, more, &budgets, NOW).await;
            assert!(matches!(away, Err(Refused::Away(_))), "{away:?}");
        }
        dead.settle(ends.id, Some(&[7]), NOW);
        let once = noted(&noting);
        let again = dead.extend(waits.id, more, &budgets, NOW).await;
        assert!(matches!(again, Err(Refused::Away(_))), "{again:?}");
        assert_eq!(noted(&noting), once, "it asks again and again");
        dies(dead).await;
        let left = files(noting.notes.as_deref().expect("a directory"));

        server.again();
        let next = open(&noting).await;
        let held = if keeps { 60 } else { 0 };
        until_has(&server, &tokens, (5000 + 7, held)).await;
        let key = key(&server, &tokens).expect("an account");
        assert_eq!(server.number(&key, "o"), 4960);
        until(&next, "it is forgotten", |_| noted(&noting) == 0).await;
        dies(next).await;
        // As if it had died before it could forget them.
        for (path, content) in left {
            fs::write(path, content).expect("a file");
        }
        let next = open(&noting).await;
        until(&next, "it is forgotten", |_| noted(&noting) == 0).await;
        assert_eq!(used_and_held(&server, &tokens), (5007, held));
        // What did not wait is charged as it was reserved.
        expire(&server);
        next.reserve(&one(&tokens, 1), NOW).await.expect("room");
        assert_eq!(used_and_held(&server, &tokens), (5007 + held, 1));
        drop(rests);
    }
}

#[tokio::test]
async fn what_was_noted_and_could_be_told_counts_once() {
    let arguments = ["--appendonly", "yes", "--appendfsync", "always"];
    let Some(mut server) = Server::start(&arguments) else {
        return;
    };
    let directory = TempDir::new().expect("a directory");
    let tokens = budget("t", Unit::Tokens, 10_000, Window::Day);
    let budgets = [tokens.clone()];
    let noting = noting(&server, &directory);
    let shared = open(&noting).await;
    let waits = shared.reserve(&one(&tokens, 40), NOW).await.expect("room");
    let ends = shared.reserve(&one(&tokens, 50), NOW).await.expect("room");
    server.kill();
    let more = More {
        tokens: 10,
        most: Some(5000),
    };
    let away = shared.extend(waits.id, more, &budgets, NOW).await;
    assert!(matches!(away, Err(Refused::Away(_))), "{away:?}");
    shared.settle(ends.id, Some(&[7]), NOW);
    assert!(noted(&noting) > 0);
    let left = files(noting.notes.as_deref().expect("a directory"));
    server.again();
    until(&shared, "it is forgotten", |it| {
        it.away.is_none() && noted(&noting) == 0
    })
    .await;
    // Another process of this host leaves alone what is somebody's.
    let beside = open(&noting).await;
    let got = shared.extend(waits.id, more, &budgets, NOW).await;
    assert_eq!(got.expect("room"), 10);
    assert_eq!(used_and_held(&server, &tokens), (7, 50));
    shared.settle(waits.id, Some(&[45]), NOW);
    settled(&shared).await;
    assert_eq!(used_and_held(&server, &tokens), (52, 0));
    dies(shared).await;
    dies(beside).await;
    let notes = noting.notes.as_deref().expect("a directory");
    assert_eq!(files(notes).len(), 0, "nothing stays");
    // As if it had died before it could forget them.
    for (path, content) in left {
        fs::write(path, content).expect("a file");
    }
    let next = open(&noting).await;
    until(&next, "it is forgotten", |_| noted(&noting) == 0).await;
    assert_eq!(used_and_held(&server, &tokens), (52, 0));
}

/// What was drawn in advance is charged in full, and what was spent of it not beside that.
#[tokio::test]
async fn of_what_was_spent_in_advance_the_rest_is_noted() {
    let arguments = ["--appendonly", "yes", "--appendfsync", "always"];
    let Some(mut server) = Server::start(&arguments) else {
        return;
    };
    let directory = TempDir::new().expect("a directory");
    let tokens = budget("t", Unit::Tokens, 10_000, Window::Day);
    let budgets = [tokens.clone()];
    let leased = Options {
        on_loss: OnLoss::Lease(1),
        ..noting(&server, &directory)
    };
    let dead = open(&leased).await;
    let held = dead.reserve(&one(&tokens, 40), NOW).await.expect("room");
    until(&dead, "it is drawn", |it| it.leased == 1).await;
    server.kill();
    let mut begins = one(&tokens, 30);
    begins.most = 400;
    let begun = dead.reserve(&begins, NOW).await.expect("drawn");
    let more = More {
        tokens: 20,
        most: Some(20),
    };
    let got = dead.extend(held.id, more, &budgets, NOW).await;
    assert_eq!(got.expect("drawn"), 20);
    // 10 more than it held, of which all was drawn.
    dead.settle(held.id, Some(&[70]), NOW);
    dies(dead).await;
    server.again();
    let next = open(&noting(&server, &directory)).await;
    until(&next, "it is forgotten", |_| noted(&leased) == 0).await;
    // Of the first 50 without what was drawn; of the second nothing but what it may owe beyond its 30, in what was drawn.
    let beyond = begun.room.min(400) - 30;
    until_has(&server, &tokens, (50 + beyond, 100)).await;
    expire(&server);
    next.reserve(&one(&tokens, 1), NOW).await.expect("room");
    assert_eq!(used_and_held(&server, &tokens), (150 + beyond, 1));
}

#[tokio::test]
async fn what_cannot_be_read_or_written_is_told_and_the_rest_counts() {
    let arguments = ["--appendonly", "yes", "--appendfsync", "always"];
    let Some(mut server) = Server::start(&arguments) else {
        return;
    };
    let directory = TempDir::new().expect("a directory");
    let tokens = budget("t", Unit::Tokens, 100, Window::Day);
    let noting = noting(&server, &directory);
    let dead = open(&noting).await;
    let ends = dead.reserve(&one(&tokens, 50), NOW).await.expect("room");
    server.kill();
    dead.settle(ends.id, Some(&[7]), NOW);
    until(&dead, "it is away", |it| it.away.is_some()).await;
    dies(dead).await;
    for (path, mut content) in files(noting.notes.as_deref().expect("a directory")) {
        content.splice(..0, b"no line\n".to_owned());
        content.extend(b"{\"sequence\":9,\"ho");
        fs::write(path, content).expect("a file");
    }
    server.again();
    let next = open(&noting).await;
    until(&next, "it is told", |_| noted(&noting) == 0).await;
    assert_eq!(used_and_held(&server, &tokens), (7, 0));
    until(&next, "it is said", |_| !next.troubles().is_empty()).await;
    let troubles = next.troubles();
    assert!(
        troubles[0].starts_with("2 notes of an earlier process"),
        "{troubles:?}"
    );
    dies(next).await;

    let nowhere = Options {
        notes: Some("/proc/nowhere".into()),
        ..noting
    };
    let shared = open(&nowhere).await;
    let ends = shared.reserve(&one(&tokens, 50), NOW).await.expect("room");
    server.kill();
    until(&shared, "it is away", |it| it.away.is_some()).await;
    shared.settle(ends.id, Some(&[7]), NOW);
    let troubles = shared.troubles();
    assert!(troubles[0].contains("is not noted: "), "{troubles:?}");
    server.again();
    settled(&shared).await;
    until(&shared, "it is over", |_| shared.troubles().is_empty()).await;
    assert_eq!(used_and_held(&server, &tokens), (14, 0));
}

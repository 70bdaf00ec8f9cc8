//! What is noted on this host while Redis is away, and told by another process when this one has died.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agentguard_model::budget::{Budget, Unit, Window};
use agentguard_model::ledger::OnLoss;
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::time::sleep;

use super::{PATIENT, Server, expire, key, one, open, options, settled, until, used_and_held};
use crate::charge::More;
use crate::ledger::{Ledger as _, Refused};
use crate::model::budget;
use crate::redis::link::Link;
use crate::redis::{Options, Shared, given_up};

/// A Redis that keeps each write before it answers, a directory, and a budget of so much. None: there is no Redis.
fn scene(limit: u64) -> Option<(Server, TempDir, Arc<Budget>)> {
    let server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"])?;
    let directory = TempDir::new().expect("a directory");
    let tokens = budget("t", Unit::Tokens, limit, Window::Lifetime);
    Some((server, directory, tokens))
}

fn noting(server: &Server, directory: &TempDir) -> Options {
    Options {
        notes: Some(directory.path().to_owned()),
        lease: Duration::from_secs(3),
        ..options(server)
    }
}

/// What is noted long ago is not told.
fn now() -> i64 {
    Timestamp::now().as_millisecond()
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
        let tokens = budget("t", Unit::Tokens, 10_000, Window::Lifetime);
        let budgets = [tokens.clone()];
        let noting = noting(&server, &directory);
        let dead = open(&noting).await;
        let waits = dead.reserve(&one(&tokens, 40), now()).await.expect("room");
        let ends = dead.reserve(&one(&tokens, 50), now()).await.expect("room");
        let rests = dead.reserve(&one(&tokens, 60), now()).await.expect("room");
        server.kill();
        let more = More {
            tokens: 10,
            most: Some(5000),
        };
        for id in [waits.id, waits.id, ends.id] {
            let away = dead.extend(id, more, &budgets, now()).await;
            assert!(matches!(away, Err(Refused::Away(_))), "{away:?}");
        }
        dead.settle(ends.id, Some(&[7]), now());
        let once = noted(&noting);
        let again = dead.extend(waits.id, more, &budgets, now()).await;
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
        next.reserve(&one(&tokens, 1), now()).await.expect("room");
        assert_eq!(used_and_held(&server, &tokens), (5007 + held, 1));
        drop(rests);
    }
}

#[tokio::test]
async fn what_was_noted_and_could_be_told_counts_once() {
    let Some((mut server, directory, tokens)) = scene(10_000) else {
        return;
    };
    let budgets = [tokens.clone()];
    let noting = noting(&server, &directory);
    let shared = open(&noting).await;
    let waits = shared
        .reserve(&one(&tokens, 40), now())
        .await
        .expect("room");
    let ends = shared
        .reserve(&one(&tokens, 50), now())
        .await
        .expect("room");
    server.kill();
    let more = More {
        tokens: 10,
        most: Some(5000),
    };
    let away = shared.extend(waits.id, more, &budgets, now()).await;
    assert!(matches!(away, Err(Refused::Away(_))), "{away:?}");
    shared.settle(ends.id, Some(&[7]), now());
    assert!(noted(&noting) > 0);
    let left = files(noting.notes.as_deref().expect("a directory"));
    server.again();
    until(&shared, "it is forgotten", |it| {
        it.away.is_none() && noted(&noting) == 0
    })
    .await;
    // Another process of this host leaves alone what is somebody's.
    let beside = open(&noting).await;
    let got = shared.extend(waits.id, more, &budgets, now()).await;
    assert_eq!(got.expect("room"), 10);
    assert_eq!(used_and_held(&server, &tokens), (7, 50));
    shared.settle(waits.id, Some(&[45]), now());
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
    let Some((mut server, directory, tokens)) = scene(10_000) else {
        return;
    };
    let budgets = [tokens.clone()];
    let leased = Options {
        on_loss: OnLoss::Lease(1),
        ..noting(&server, &directory)
    };
    let dead = open(&leased).await;
    let held = dead.reserve(&one(&tokens, 40), now()).await.expect("room");
    until(&dead, "it is drawn", |it| it.leased == 1).await;
    server.kill();
    let mut begins = one(&tokens, 30);
    begins.most = 400;
    let begun = dead.reserve(&begins, now()).await.expect("drawn");
    let more = More {
        tokens: 20,
        most: Some(20),
    };
    let got = dead.extend(held.id, more, &budgets, now()).await;
    assert_eq!(got.expect("drawn"), 20);
    // 10 more than it held, of which all was drawn.
    dead.settle(held.id, Some(&[70]), now());
    dies(dead).await;
    server.again();
    let next = open(&noting(&server, &directory)).await;
    until(&next, "it is forgotten", |_| noted(&leased) == 0).await;
    // Of the first 50 without what was drawn; of the second nothing but what it may owe beyond its 30, in what was drawn.
    let beyond = begun.room.min(400) - 30;
    until_has(&server, &tokens, (50 + beyond, 100)).await;
    expire(&server);
    next.reserve(&one(&tokens, 1), now()).await.expect("room");
    assert_eq!(used_and_held(&server, &tokens), (150 + beyond, 1));
}

#[tokio::test]
async fn what_cannot_be_read_or_written_is_told_and_the_rest_counts() {
    let Some((mut server, directory, tokens)) = scene(100) else {
        return;
    };
    let noting = noting(&server, &directory);
    let dead = open(&noting).await;
    let ends = dead.reserve(&one(&tokens, 50), now()).await.expect("room");
    server.kill();
    dead.settle(ends.id, Some(&[7]), now());
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
        troubles[0].starts_with("2 notes of earlier processes"),
        "{troubles:?}"
    );
    dies(next).await;

    let nowhere = Options {
        notes: Some(directory.path().join("nowhere")),
        ..noting
    };
    let shared = open(&nowhere).await;
    let ends = shared
        .reserve(&one(&tokens, 50), now())
        .await
        .expect("room");
    server.kill();
    until(&shared, "it is away", |it| it.away.is_some()).await;
    shared.settle(ends.id, Some(&[7]), now());
    let troubles = shared.troubles();
    assert!(troubles[0].contains("is not noted: "), "{troubles:?}");
    fs::create_dir(directory.path().join("nowhere")).expect("a directory");
    server.again();
    settled(&shared).await;
    until(&shared, "it is over", |_| shared.troubles().is_empty()).await;
    assert_eq!(used_and_held(&server, &tokens), (14, 0));
}

/// What was drawn is charged in full where nobody can give it back, and what was spent of it nowhere else.
#[tokio::test]
async fn what_was_drawn_is_not_given_back_by_notes() {
    let Some((mut server, directory, tokens)) = scene(10_000) else {
        return;
    };
    let leased = Options {
        on_loss: OnLoss::Lease(1),
        ..noting(&server, &directory)
    };
    let ends = open(&leased).await;
    let held = ends.reserve(&one(&tokens, 40), now()).await.expect("room");
    until(&ends, "it is drawn", |it| it.leased == 1).await;
    server.kill();
    until(&ends, "it is away", |it| it.away.is_some()).await;
    let begun = ends.reserve(&one(&tokens, 30), now()).await.expect("drawn");
    ends.settle(begun.id, Some(&[25]), now());
    ends.settle(held.id, Some(&[40]), now());
    // As a worker does that is replaced, also where it cannot tell anybody.
    assert!(!ends.close(Duration::from_millis(10)).await);
    dies(ends).await;
    server.again();
    let next = open(&noting(&server, &directory)).await;
    until(&next, "it is forgotten", |_| noted(&leased) == 0).await;
    until_has(&server, &tokens, (40, 100)).await;
    expire(&server);
    next.reserve(&one(&tokens, 1), now()).await.expect("room");
    assert_eq!(used_and_held(&server, &tokens), (140, 1));
}

/// It was charged by whoever came by, and Redis may not know that any more.
#[tokio::test]
async fn what_is_old_or_of_another_ledger_is_not_told() {
    let Some((mut server, directory, tokens)) = scene(10_000) else {
        return;
    };
    let noting = noting(&server, &directory);
    let other = Options {
        prefix: "others".to_owned(),
        ..noting.clone()
    };
    let (dead, strange) = (open(&noting).await, open(&other).await);
    let old = now() - 24 * 3_600_000;
    let hold = dead.reserve(&one(&tokens, 40), old).await.expect("room");
    let its = strange.reserve(&one(&tokens, 50), now()).await;
    let its = its.expect("room");
    server.kill();
    for (shared, id, at) in [(&dead, hold.id, old), (&strange, its.id, now())] {
        until(shared, "it is away", |it| it.away.is_some()).await;
        shared.settle(id, Some(&[7]), at);
    }
    let both = noted(&noting);
    dies(dead).await;
    dies(strange).await;
    server.again();
    let next = open(&noting).await;
    until(&next, "it is told", |_| noted(&noting) < both).await;
    assert_eq!(used_and_held(&server, &tokens), (0, 40));
    let troubles = next.troubles();
    assert!(
        troubles[0].starts_with("1 notes of earlier"),
        "{troubles:?}"
    );
    let others = open(&other).await;
    until(&others, "it is told", |_| noted(&noting) == 0).await;
    assert!(others.troubles().is_empty(), "{:?}", others.troubles());
}

/// A connection that is lost before all was told: what is noted is what is so then.
#[tokio::test]
async fn what_changes_before_all_is_told_is_noted_anew() {
    let (Some((mut server, directory, tokens)), Some((beside, ..))) = (scene(10_000), scene(0))
    else {
        return;
    };
    let leased = Options {
        on_loss: OnLoss::Lease(1),
        ..noting(&server, &directory)
    };
    let shared = open(&leased).await;
    let held = shared
        .reserve(&one(&tokens, 40), now())
        .await
        .expect("room");
    until(&shared, "it is drawn", |it| it.leased == 1).await;
    server.kill();
    until(&shared, "it is away", |it| it.away.is_some()).await;
    let begun = shared
        .reserve(&one(&tokens, 30), now())
        .await
        .expect("drawn");
    let more = More {
        tokens: 500,
        most: Some(600),
    };
    let budgets = [tokens.clone()];
    let spent = shared.extend(held.id, more, &budgets, now()).await;
    assert_eq!(spent.expect("drawn"), 70);
    let inner = &shared.inner;
    let lines = || String::from_utf8(files(directory.path()).remove(0).1).expect("a text");
    assert!(lines().contains("\"held\":40,\"used\":530"), "{}", lines());
    // It comes back, and is lost at once: what was drawn is to be given back, and is not yet.
    let link = Link::open(&options(&beside), &beside.address(), 99).await;
    let link = Arc::new(link.expect("a connection"));
    inner.comes_back(&link);
    inner.lost(&link, &given_up());
    let line = lines();
    assert_eq!(line.lines().count(), 2, "{line}");
    assert!(line.contains("\"held\":40,\"used\":530"), "{line}");
    assert!(line.contains("\"held\":0,\"used\":0"), "{line}");
    // It comes back, what was drawn may have been given back, and it is lost before all is told.
    inner.comes_back(&link);
    let (given, _) = inner.unsettled(&link);
    assert!(given.iter().all(|it| it.gives_back) && given.len() == 1);
    inner.lost(&link, &given_up());
    let line = lines();
    assert!(line.contains("\"held\":110,\"used\":600"), "{line}");
    assert!(line.contains("\"held\":30,\"used\":30"), "{line}");
    assert!(inner.unsettled(&link).0.is_empty());
    // What changes behind its back while it is told is told once more.
    inner.comes_back(&link);
    drop(inner.held());
    let spent = inner.extends_away(begun.id, more, &budgets, now());
    assert!(matches!(spent, Err(Refused::LeaseSpent(_))), "{spent:?}");
    inner.knows_all(&link);
    assert!(inner.has_untold() && noted(&leased) > 0);
    drop(inner.held());
    inner.knows_all(&link);
    assert!(!inner.has_untold() && noted(&leased) == 0);
}

//! Answers without an end.

use std::io::Write;
use std::time::Duration;

use agentguard_control::api::{Line, ProblemCode, VerdictQuery};
use agentguard_model::{ActionKind, Verdict};

use crate::world::{RUNNERS, World, become_user, decision, own_cgroup, users};

#[tokio::test]
async fn a_follower_gets_the_past_it_asked_for_then_what_comes_and_then_the_end() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for host in ["a.example", "b.example"] {
        let new = decision("coder", Verdict::Allow, ActionKind::Connect, host);
        ids.push(world.write(new).await);
    }
    let query = VerdictQuery {
        agent: Some("coder".parse().unwrap()),
        limit: Some(1),
        ..VerdictQuery::default()
    };
    let mut follow = world.client().await.follow(&query).await.unwrap();
    let mut next = async || match follow.next().await.unwrap() {
        Some(Line::Decision(decision)) => Some(decision.id),
        Some(other) => panic!("{other:?}"),
        None => None,
    };
    assert_eq!(next().await, Some(ids[1]));
    let others = decision("tester", Verdict::Allow, ActionKind::Connect, "c.example");
    world.write(others).await;
    let new = decision("coder", Verdict::Allow, ActionKind::Connect, "d.example");
    let id = world.write(new).await;
    assert_eq!(next().await, Some(id));
    world.shutdown.cancel();
    assert_eq!(next().await, None);
    tokio::time::timeout(Duration::from_secs(10), world.server)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_slow_follower_loses_nothing() {
    let world = World::new().await;
    let mut follow = world
        .client()
        .await
        .follow(&VerdictQuery::default())
        .await
        .unwrap();
    // More than the sockets' buffers and one page hold, all written before the first is read.
    let mut written = Vec::new();
    for n in 0..2000 {
        let host = format!("h{n}.example");
        let mut new = decision("coder", Verdict::Allow, ActionKind::Connect, &host);
        new.action.path = Some("x".repeat(1000));
        written.push(new.id);
        world.write(new).await;
    }
    for id in written {
        match follow.next().await.unwrap() {
            Some(Line::Decision(decision)) => assert_eq!(decision.id, id),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_follower_hears_a_heartbeat() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::new().await;
    let mut stream = tokio::net::UnixStream::connect(world.socket())
        .await
        .unwrap();
    stream
        .write_all(b"GET /v1/verdicts?follow=true HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let began = tokio::time::Instant::now();
    let mut got = Vec::new();
    // Two heartbeats as chunks of one byte.
    while String::from_utf8_lossy(&got).matches("1\r\n\n\r\n").count() < 2 {
        let mut buffer = [0; 1024];
        let n = stream.read(&mut buffer).await.unwrap();
        assert!(n > 0, "it ended");
        got.extend_from_slice(&buffer[..n]);
    }
    assert!(began.elapsed() >= Duration::from_secs(30));
    assert!(String::from_utf8_lossy(&got).contains("application/x-ndjson"));
}

#[tokio::test]
async fn who_comes_to_be_governed_follows_no_longer() {
    let world = World::new().await;
    let mut follow = (world.client().await.follow(&VerdictQuery::default()).await).unwrap();
    let new = |host| decision("coder", Verdict::Allow, ActionKind::Connect, host);
    let id = world.write(new("a.example")).await;
    match follow.next().await.unwrap() {
        Some(Line::Decision(decision)) => assert_eq!(decision.id, id),
        other => panic!("{other:?}"),
    }
    world.governed.send_replace(vec![own_cgroup()]);
    world.write(new("b.example")).await;
    match follow.next().await.unwrap() {
        Some(Line::Refused(problem)) => {
            assert_eq!(problem.code, ProblemCode::Forbidden);
            let why = "an agent may not ask its own guard";
            assert!(problem.message.contains(why), "{problem:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(follow.next().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn who_comes_to_be_governed_does_not_wait_for_a_decision_to_hear_so() {
    let world = World::new().await;
    let mut follow = (world.client().await.follow(&VerdictQuery::default()).await).unwrap();
    world.governed.send_replace(vec![own_cgroup()]);
    let minute = Duration::from_secs(60);
    let last = tokio::time::timeout(minute, follow.next()).await.unwrap();
    assert!(matches!(last, Ok(Some(Line::Refused(_)))), "{last:?}");
    assert_eq!(follow.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_followed_answer_ends_to_tell_of_an_agent_that_is_the_users_no_more() {
    let world = World::new().await;
    world
        .users
        .send_replace(users(&[("coder", &[7]), ("secret", &[8])]));
    let socket = world.socket();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let follower = std::thread::spawn(move || {
        become_user(7, 7, &[RUNNERS]);
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stream
            .write_all(b"GET /v1/verdicts?follow=true HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        let mut head = true;
        for line in std::io::BufRead::lines(std::io::BufReader::new(stream)) {
            let Ok(line) = line else { return };
            // After the head, empty lines are those of chunks.
            if line.starts_with('{') || (head && line.is_empty()) {
                head = false;
                tell.send(line).unwrap();
            }
        }
    });
    let mut next = async || told.recv().await.unwrap();
    // The head's end: it follows from here on.
    assert_eq!(next().await, "");
    let write = async |agent: &str, host: &str| {
        let one = decision(agent, Verdict::Deny, ActionKind::Connect, host);
        world.write(one).await
    };
    write("secret", "one.example").await;
    write("coder", "two.example").await;
    let line = next().await;
    assert!(line.contains("two.example"), "{line}");
    // Another agent becomes its own, and the first another's.
    world
        .users
        .send_replace(users(&[("coder", &[8]), ("secret", &[7])]));
    write("coder", "three.example").await;
    write("secret", "four.example").await;
    let line = next().await;
    assert!(line.contains("four.example"), "{line}");
    world.shutdown.cancel();
    while told.recv().await.is_some() {}
    follower.join().unwrap();
}

//! Who may ask, and that nobody keeps another from it.

use std::time::Duration;

use agentguard_control::ClientError;
use agentguard_control::api::ProblemCode;

use crate::world::{
    APPROVERS, NOBODY, READERS, RUNNERS, World, ask_as, become_user, own_cgroup, read,
};

#[tokio::test]
async fn root_inside_an_agent_is_refused_every_question() {
    let world = World::new().await;
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap();
    world.governed.send_replace(vec![own.to_owned()]);
    for route in ["/v1/status", "/v1/verdicts?follow=true", "/v1/nonsense"] {
        let request = format!("GET {route} HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = world.raw(Box::leak(request.into_boxed_str())).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        assert!(
            answer.contains("an agent may not ask its own guard"),
            "{answer}"
        );
    }
    let Err(ClientError::Refused(problem)) = world.client().await.status().await else {
        panic!("it answered");
    };
    assert_eq!(problem.code, ProblemCode::Forbidden);
    world
        .governed
        .send_replace(vec!["/agentguard-test-of-nobody".into()]);
    assert!(world.client().await.status().await.is_ok());
}

#[tokio::test]
async fn who_comes_to_be_governed_is_refused_on_the_connection_that_it_has() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::new().await;
    let mut stream = tokio::net::UnixStream::connect(world.socket())
        .await
        .unwrap();
    let ask = b"GET /v1/agents HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200");
    world.governed.send_replace(vec![own_cgroup()]);
    stream.write_all(ask).await.unwrap();
    let mut rest = String::new();
    let end = Duration::from_secs(20);
    // It is refused, and the connection ends: what is asked behind that is not heard.
    tokio::time::timeout(end, stream.read_to_string(&mut rest))
        .await
        .unwrap()
        .unwrap();
    let (_, refusal) = rest.split_once("HTTP/1.1 403").unwrap();
    assert!(refusal.contains("\"code\":\"forbidden\""), "{refusal}");
    let why = "an agent may not ask its own guard";
    assert!(refusal.contains(why), "{refusal}");
}

#[tokio::test]
async fn other_users_are_served_as_members_of_the_groups_that_may_read() {
    let world = World::new().await;
    for (gid, groups) in [(NOBODY, &[][..]), (NOBODY, &[4, 64_309])] {
        let answer = ask_as(&world, (NOBODY, gid), groups, "/v1/status").await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        let told = "only root and members of agentguard-run, agentguard-read, agentguard-approve may use the guard, and this is user 65534";
        assert!(answer.contains(told), "{answer}");
        assert!(answer.contains("become a member of"), "{answer}");
    }
    for (gid, groups) in [
        (READERS, &[][..]),
        (NOBODY, &[4, READERS]),
        (APPROVERS, &[]),
        (NOBODY, &[APPROVERS, 4]),
        (RUNNERS, &[READERS]),
    ] {
        let (status, answer) = read(&ask_as(&world, (NOBODY, gid), groups, "/v1/status").await);
        assert_eq!(status, 200);
        assert_eq!(answer["agents"][0]["name"], "coder", "{answer}");
        assert!(answer.get("partial").is_none(), "{answer}");
    }
    // A member that is an agent is an agent, whatever its groups.
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::"));
    world.governed.send_replace(vec![own.unwrap().to_owned()]);
    for gid in [RUNNERS, READERS, APPROVERS] {
        let others = &[RUNNERS, READERS, APPROVERS];
        let answer = ask_as(&world, (NOBODY, gid), others, "/v1/agents").await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        assert!(
            answer.contains("an agent may not ask its own guard"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn one_user_does_not_keep_the_others_from_asking() {
    let world = World::new().await;
    let socket = world.socket();
    let (ready, waiting) = std::sync::mpsc::channel();
    let (done, end) = std::sync::mpsc::channel::<()>();
    let crowd = std::thread::spawn(move || {
        become_user(7, 7, &[RUNNERS]);
        let open: Vec<_> = (0..200)
            .map(|_| std::os::unix::net::UnixStream::connect(&socket).unwrap())
            .collect();
        ready.send(()).unwrap();
        let _ = end.recv();
        drop(open);
    });
    tokio::task::spawn_blocking(move || waiting.recv().unwrap())
        .await
        .unwrap();
    let answer = ask_as(&world, (8, 8), &[READERS], "/v1/status").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(done);
    crowd.join().unwrap();
}

#[tokio::test]
async fn other_users_do_not_keep_root_from_asking() {
    let world = World::new().await;
    let socket = world.socket();
    let (ready, waiting) = std::sync::mpsc::channel();
    let (done, end) = std::sync::mpsc::channel::<()>();
    let crowd = std::thread::spawn(move || {
        let nobody = rustix::process::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        // Far more than there are seats, and they say nothing.
        let open: Vec<_> = (0..200)
            .map(|_| std::os::unix::net::UnixStream::connect(&socket).unwrap())
            .collect();
        ready.send(()).unwrap();
        let _ = end.recv();
        drop(open);
    });
    tokio::task::spawn_blocking(move || waiting.recv().unwrap())
        .await
        .unwrap();
    assert!(world.client().await.status().await.is_ok());
    drop(done);
    crowd.join().unwrap();
}

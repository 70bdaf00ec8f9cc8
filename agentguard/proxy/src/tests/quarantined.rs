//! An agent that is cut off while something of it is under way.

use std::time::Duration;

use agentguard_model::{AgentId, Decision, ReasonCode, Verdict};
use http::{Method, Version};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::http::{OK, get, read_response};
use super::inspect::{NAME, client, request};
use super::{
    Rules, World, assert_reset, by_name, codes, read_all, read_some, read_until, soon, websocket,
    write,
};

const MINE: AgentId = AgentId(1);

/// Quarantines the agent, and waits until nothing is under way for it.
async fn cut(world: &World) {
    world.decider.quarantine(MINE, true);
    soon(world.shared.cut(MINE)).await;
}

/// The allowance, and the denial that ended it, which its outcome names.
fn ended(decisions: &[Decision]) {
    let denied = (Verdict::Deny, ReasonCode::Quarantined);
    assert_eq!(
        codes(decisions),
        [(Verdict::Allow, ReasonCode::RuleAllow), denied]
    );
    let outcome = decisions[0].outcome.as_ref().unwrap();
    let error = outcome.error.as_ref().unwrap();
    assert!(error.contains(&decisions[1].id.to_string()), "{error}");
    let message = &decisions[1].reason.message;
    assert_eq!(message, "The agent is quarantined. (this was under way)");
}

/// An upload that has begun.
async fn uploading(world: &World) -> (TcpStream, TcpStream) {
    let mut client = world.connect().await;
    let head = "POST /ok HTTP/1.1\r\nHost: api.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    write(&mut client, [head, "3\r\none\r\n"].concat()).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "one\r\n").await;
    (client, upstream)
}

#[tokio::test]
async fn what_is_under_way_ends_on_both_sides_and_says_why() {
    let begun = websocket::ask("");
    for (begin, last) in [("\0hello\r\n\r\n", false), (begun.as_str(), true)] {
        let world = by_name(Rules::Allow).build().await;
        let mut client = world.connect().await;
        write(&mut client, begin).await;
        let mut upstream = world.accept().await;
        read_until(&mut upstream, "\r\n\r\n").await;
        if last {
            write(&mut upstream, websocket::SWITCH).await;
            read_until(&mut client, "\r\n\r\n").await;
        }
        cut(&world).await;
        assert_reset(&mut upstream).await;
        let _ = read_all(&mut client).await;
        ended(&world.end().await);
    }
}

#[tokio::test]
async fn an_upload_ends_and_another_agents_goes_on() {
    let world = by_name(Rules::Inspect).build().await;
    let (_client, mut upstream) = uploading(&world).await;
    world.comes_from(2);
    let (mut other, mut beside) = uploading(&world).await;
    cut(&world).await;
    assert_reset(&mut upstream).await;
    write(&mut other, "3\r\ntwo\r\n0\r\n\r\n").await;
    read_until(&mut beside, "two\r\n0\r\n\r\n").await;
    write(&mut beside, OK).await;
    assert_eq!(read_response(&mut other).await.1, "ok");
    drop((other, beside));
    let decisions = world.end().await;
    let (mine, others): (Vec<_>, Vec<_>) = decisions
        .into_iter()
        .partition(|it| it.agent.as_ref().unwrap().name.as_str() == "tester");
    ended(&mine);
    assert_eq!(codes(&others), [(Verdict::Allow, ReasonCode::RuleAllow)]);
}

/// It was sent before the order, for the guard; on the wire it would be behind it.
#[tokio::test]
async fn what_waits_in_the_kernel_for_a_slow_upstream_is_dropped() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    let mut upstream = {
        write(&mut client, "\0hello").await;
        world.accept().await
    };
    read_some(&mut upstream, 6).await;
    let piece = [0; 0x10000];
    let full = async {
        loop {
            let said = tokio::io::AsyncWriteExt::write_all(&mut client, &piece);
            let late = tokio::time::timeout(Duration::from_millis(500), said).await;
            if late.is_err() {
                return;
            }
        }
    };
    soon(full).await;
    cut(&world).await;
    assert_reset(&mut upstream).await;
    drop(client);
    ended(&world.end().await);
}

#[tokio::test]
async fn a_full_disk_does_not_keep_it_going() {
    let world = by_name(Rules::Inspect).build().await;
    let (mut client, mut upstream) = uploading(&world).await;
    let disk = world.log.disk.write().await;
    cut(&world).await;
    assert_reset(&mut upstream).await;
    let _ = read_all(&mut client).await;
    drop(disk);
}

#[tokio::test]
async fn connections_that_wait_are_closed_too() {
    let world = by_name(Rules::Requests).build().await;
    // One of a client between two requests, with its upstream; one that has not said anything; and
    // an upstream that waits for the next client.
    let mut idle = world.connect().await;
    write(&mut idle, get("/ok")).await;
    let mut first = world.accept().await;
    read_until(&mut first, "\r\n\r\n").await;
    write(&mut first, OK).await;
    read_response(&mut idle).await;
    let mut over = world.connect().await;
    let last = "GET /ok HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n\r\n";
    write(&mut over, last).await;
    let mut second = world.accept().await;
    read_until(&mut second, "\r\n\r\n").await;
    write(&mut second, OK).await;
    read_all(&mut over).await.unwrap();
    let mut silent = world.looked_up(3).await;
    cut(&world).await;
    for upstream in [&mut first, &mut second] {
        assert_reset(upstream).await;
    }
    for client in [&mut idle, &mut silent] {
        let _ = read_all(client).await;
    }
    let decisions = world.end().await;
    assert!(decisions.iter().all(|it| it.verdict == Verdict::Allow));
}

#[tokio::test]
async fn another_agent_s_quarantine_is_not_noticed() {
    let world = by_name(Rules::Requests).build().await;
    let mut client = world.connect().await;
    write(&mut client, get("/ok")).await;
    let mut upstream = world.accept().await;
    for quarantined in [true, false] {
        read_until(&mut upstream, "\r\n\r\n").await;
        write(&mut upstream, OK).await;
        assert_eq!(read_response(&mut client).await.1, "ok");
        world.decider.quarantine(AgentId(2), quarantined);
        write(&mut client, get("/ok")).await;
    }
    read_until(&mut upstream, "\r\n\r\n").await;
    write(&mut upstream, OK).await;
    assert_eq!(read_response(&mut client).await.1, "ok");
    drop((client, upstream));
    let allowed = (Verdict::Allow, ReasonCode::RuleAllow);
    assert_eq!(codes(&world.end().await), [allowed; 3]);
}

#[tokio::test]
async fn what_comes_meanwhile_is_refused_until_the_agent_is_released() {
    let world = by_name(Rules::Requests).build().await;
    world.decider.quarantine(MINE, true);
    let mut client = world.connect().await;
    write(&mut client, get("/ok")).await;
    let (head, body) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert!(body.contains("The agent is quarantined."), "{body}");
    soon(world.shared.cut(MINE)).await;
    world.decider.quarantine(MINE, false);
    let mut client = world.connect().await;
    write(&mut client, get("/ok")).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    write(&mut upstream, OK).await;
    assert_eq!(read_response(&mut client).await.1, "ok");
    drop((client, upstream));
    let denied = (Verdict::Deny, ReasonCode::Quarantined);
    let allowed = (Verdict::Allow, ReasonCode::RuleAllow);
    assert_eq!(codes(&world.end().await), [denied, allowed]);
}

/// A connection of HTTP/2 has a task of its own, which would see what is under way to its end.
#[tokio::test]
async fn http2_inside_tls_sends_nothing_more_either() {
    let world = by_name(Rules::Inspect).build().await;
    let config = world.upstreams.server(NAME, &["h2"]);
    let serving = async {
        let stream = world.accept().await;
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        let mut stream = acceptor.accept(stream).await.unwrap();
        // The preface and the request; it is not answered.
        let mut seen = vec![0; 24];
        stream.read_exact(&mut seen).await.unwrap();
        assert!(seen.starts_with(b"PRI * HTTP/2.0"));
        stream
    };
    let asking = async {
        let stream = client(&world, world.authority.roots(), &["h2"])
            .await
            .unwrap();
        let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.unwrap();
        tokio::spawn(connection);
        let asked = sender.send_request(request(Version::HTTP_2, Method::POST, "/ok", "body"));
        tokio::spawn(asked);
        sender
    };
    let (stream, _sender) = soon(async { tokio::join!(serving, asking) }).await;
    world.given(1).await;
    cut(&world).await;
    let (mut tcp, _) = stream.into_inner();
    assert_reset(&mut tcp).await;
    ended(
        &world
            .until(|it| it.len() == 2 && it[0].outcome.is_some())
            .await,
    );
}

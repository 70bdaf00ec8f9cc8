//! Upstream connections that outlive the client connection they were opened for.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agentguard_model::{ReasonCode, Verdict};
use http::{Method, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::http::{OK, get, read_response};
use super::inspect::{NAME, client, request, serve_one};
use super::{
    Plan, Rules, World, assert_reset, by_address, by_name, codes, read_all, read_until, soon, write,
};
use crate::Limits;
use crate::relay::reset;

/// A request that ends its connection.
const LAST: &str = "GET /ok HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n\r\n";

/// Longer than what should not happen takes to happen.
const MOMENT: Duration = Duration::from_millis(100);

/// Asks on a client connection of its own, which is answered on `upstream`.
async fn ask(world: &World, upstream: &mut TcpStream) {
    let mut client = world.connect().await;
    write(&mut client, LAST).await;
    answer(&mut client, upstream, OK).await;
}

/// Asks on a client connection of its own, for which the guard opens an upstream connection.
async fn ask_anew(world: &World, answered: &str) -> TcpStream {
    let mut client = world.connect().await;
    write(&mut client, LAST).await;
    let mut upstream = world.accept().await;
    answer(&mut client, &mut upstream, answered).await;
    upstream
}

async fn answer(client: &mut TcpStream, upstream: &mut TcpStream, answered: &str) {
    let head = read_until(upstream, "\r\n\r\n").await;
    assert!(head.starts_with("GET /ok HTTP/1.1\r\n"), "{head}");
    write(upstream, answered).await;
    let text = String::from_utf8(read_all(client).await.unwrap()).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
}

#[tokio::test]
async fn the_agent_s_next_client_connection_goes_on_where_the_last_one_ended() {
    for plan in [by_name(Rules::Requests), by_address(Rules::Allow)] {
        let world = plan.build().await;
        let mut upstream = ask_anew(&world, OK).await;
        ask(&world, &mut upstream).await;
        ask(&world, &mut upstream).await;
        let decisions = world.end().await;
        assert_eq!(decisions.len(), 3);
        assert!(decisions.iter().all(|d| d.verdict == Verdict::Allow));
    }
}

#[tokio::test]
async fn two_agents_never_share_one() {
    let world = by_name(Rules::Requests).build().await;
    let mut first = ask_anew(&world, OK).await;
    world.comes_from(2);
    let mut second = ask_anew(&world, OK).await;
    // Each finds its own again.
    ask(&world, &mut second).await;
    world.comes_from(1);
    ask(&world, &mut first).await;
    let decisions = world.end().await;
    let agents: Vec<&str> = decisions
        .iter()
        .map(|d| d.agent.as_ref().unwrap().name.as_str())
        .collect();
    assert_eq!(agents, ["tester", "another", "another", "tester"]);
}

/// Another one would wake its own loop at each step.
#[tokio::test]
async fn the_one_on_the_client_s_own_loop_is_taken_first() {
    let plan = Plan {
        loops: 2,
        ..by_name(Rules::Requests)
    };
    let world = plan.build().await;
    let mut both = Vec::new();
    for carried in [[1, 0], [1, 1]] {
        let mut client = world.connect().await;
        write(&mut client, get("/ok")).await;
        let mut upstream = world.accept().await;
        read_until(&mut upstream, "\r\n\r\n").await;
        write(&mut upstream, OK).await;
        read_response(&mut client).await;
        assert_eq!(world.shared.loops.carried(), carried);
        both.push((client, upstream));
    }
    let (second, _newest) = both.pop().unwrap();
    let (first, mut upstream) = both.pop().unwrap();
    for (client, carried) in [(first, [0, 1]), (second, [0, 0])] {
        drop(client);
        let gone = async {
            while world.shared.loops.carried() != carried {
                yield_now().await;
            }
        };
        soon(gone).await;
    }
    // Who comes is carried by the first of them.
    ask(&world, &mut upstream).await;
    world.end().await;
}

/// One that is taken has no second user.
#[tokio::test]
async fn two_client_connections_at_once_have_one_each() {
    let world = by_name(Rules::Requests).build().await;
    let mut first = ask_anew(&world, OK).await;
    let mut busy = world.connect().await;
    write(&mut busy, get("/ok")).await;
    read_until(&mut first, "\r\n\r\n").await;
    let mut second = ask_anew(&world, OK).await;
    write(&mut first, OK).await;
    read_response(&mut busy).await;
    // Its client could still ask for more.
    ask(&world, &mut second).await;
    world.end().await;
}

#[tokio::test]
async fn it_serves_nobody_who_may_not_go_to_its_address() {
    let world = by_name(Rules::Requests).build().await;
    let mut upstream = ask_anew(&world, OK).await;
    let elsewhere = IpAddr::from([127, 0, 0, 2]);
    *world.outside.addresses.lock().unwrap() = Ok(vec![elsewhere]);
    let mut client = world.connect().await;
    write(&mut client, LAST).await;
    let (head, _) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    drop(client);
    // It still waits for who may.
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    *world.outside.addresses.lock().unwrap() = Ok(vec![elsewhere, here]);
    ask(&world, &mut upstream).await;
    // Under a policy that denies what it served, nobody is.
    world.change(Rules::Deny);
    let mut client = world.connect().await;
    write(&mut client, LAST).await;
    let (head, _) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    drop(client);
    world.end().await;
}

/// The address is known as if it had been dialled.
#[tokio::test]
async fn what_is_under_way_on_it_ends_when_its_address_may_not_be_used_any_more() {
    let world = by_name(Rules::Requests).build().await;
    let mut upstream = ask_anew(&world, OK).await;
    let mut client = world.connect().await;
    write(&mut client, get("/ok")).await;
    read_until(&mut upstream, "\r\n\r\n").await;
    write(&mut upstream, "HTTP/1.1 200 OK\r\n\r\ndata").await;
    read_until(&mut client, "data").await;
    world.closed.store(true, Ordering::Relaxed);
    world.change(Rules::Requests);
    assert_reset(&mut client).await;
    let decisions = world.end().await;
    assert_eq!(
        codes(&decisions)[2..],
        [(Verdict::Deny, ReasonCode::Rebinding)]
    );
}

/// NTLM and Negotiate speak for whoever is next on the connection.
#[tokio::test]
async fn one_that_authentication_was_bound_to_ends_with_its_client() {
    let asks = "HTTP/1.1 200 OK\r\nWWW-Authenticate: Negotiate, Basic realm=\"x\"\r\n\
                Content-Length: 2\r\n\r\nok";
    let says = "GET /ok HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n\
                Authorization: NTLM TlRMTVNTUAAB\r\n\r\n";
    for (request, answered) in [(LAST, asks), (says, OK)] {
        let world = by_name(Rules::Requests).build().await;
        let mut client = world.connect().await;
        write(&mut client, request).await;
        let mut upstream = world.accept().await;
        answer(&mut client, &mut upstream, answered).await;
        assert_eq!(read_all(&mut upstream).await.unwrap(), b"");
        ask_anew(&world, OK).await;
        world.end().await;
    }
}

#[tokio::test]
async fn one_with_an_answer_that_nobody_read_to_its_end_ends_with_its_client() {
    let world = by_name(Rules::Requests).build().await;
    let mut client = world.connect().await;
    write(&mut client, get("/ok")).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    write(
        &mut upstream,
        "HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\npart",
    )
    .await;
    read_until(&mut client, "part").await;
    reset(client);
    // The guard sees it when there is more to pass on.
    let mut ended = [0];
    while timeout(MOMENT, upstream.read(&mut ended)).await.is_err() {
        write(&mut upstream, "more").await;
    }
    ask_anew(&world, OK).await;
    world.end().await;
}

#[tokio::test]
async fn one_that_the_upstream_has_closed_is_replaced_unnoticed() {
    let world = by_name(Rules::Requests).build().await;
    for _ in 0..3 {
        drop(ask_anew(&world, OK).await);
    }
    let decisions = world.end().await;
    assert_eq!(decisions.len(), 3);
}

/// What may have been seen is not sent twice.
#[tokio::test]
async fn a_request_on_one_that_breaks_off_is_not_sent_again() {
    let world = by_name(Rules::Requests).build().await;
    let mut upstream = ask_anew(&world, OK).await;
    let mut client = world.connect().await;
    write(&mut client, LAST).await;
    read_until(&mut upstream, "\r\n\r\n").await;
    drop(upstream);
    let (head, _) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    timeout(MOMENT, world.upstream.accept()).await.unwrap_err();
    drop(client);
    world.end().await;
}

#[tokio::test]
async fn it_waits_for_so_long_and_never_longer_than_the_upstream() {
    let short = Plan {
        limits: Limits {
            upstream_idle: Duration::from_millis(50),
            ..Limits::default()
        },
        ..by_name(Rules::Requests)
    };
    let world = short.build().await;
    let mut upstream = ask_anew(&world, OK).await;
    assert_eq!(read_all(&mut upstream).await.unwrap(), b"");
    world.end().await;

    let world = by_name(Rules::Requests).build().await;
    let closes = "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 2\r\n\r\nok";
    let mut upstream = ask_anew(&world, closes).await;
    assert_eq!(read_all(&mut upstream).await.unwrap(), b"");
    world.end().await;
}

#[tokio::test]
async fn too_many_wait_for_nobody_and_the_oldest_goes() {
    let few = |alike, all| Plan {
        limits: Limits {
            upstreams_idle_alike: alike,
            upstreams_idle: all,
            ..Limits::default()
        },
        ..by_name(Rules::Requests)
    };
    // Of one agent at one place.
    let world = few(1, 9).build().await;
    let mut busy = world.connect().await;
    write(&mut busy, LAST).await;
    let mut younger = world.accept().await;
    let mut older = ask_anew(&world, OK).await;
    answer(&mut busy, &mut younger, OK).await;
    assert_eq!(read_all(&mut older).await.unwrap(), b"");
    ask(&world, &mut younger).await;
    world.end().await;

    // Of all agents.
    let world = few(9, 1).build().await;
    let mut older = ask_anew(&world, OK).await;
    world.comes_from(2);
    let mut younger = ask_anew(&world, OK).await;
    assert_eq!(read_all(&mut older).await.unwrap(), b"");
    ask(&world, &mut younger).await;
    world.end().await;
}

#[tokio::test]
async fn those_that_wait_end_at_shutdown_and_hold_nothing_up() {
    let world = by_name(Rules::Requests).build().await;
    let mut upstream = ask_anew(&world, OK).await;
    world.shutdown.cancel();
    assert_eq!(read_all(&mut upstream).await.unwrap(), b"");
    world.end().await;
}

/// What one client connection inside TLS is answered, and what is spoken on it.
async fn ask_inside(world: &World, protocols: &[&str]) -> String {
    let stream = client(world, world.authority.roots(), protocols)
        .await
        .unwrap();
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(stream);
    let (response, driver) = if h2 {
        let (mut sender, driver) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        let driver = tokio::spawn(async { drop(driver.await) });
        let asked = request(Version::HTTP_2, Method::GET, "/ok", "");
        (soon(sender.send_request(asked)).await.unwrap(), driver)
    } else {
        let (mut sender, driver) = http1::handshake(io).await.unwrap();
        let driver = tokio::spawn(async { drop(driver.await) });
        let asked = request(Version::HTTP_11, Method::GET, "/ok", "");
        (soon(sender.send_request(asked)).await.unwrap(), driver)
    };
    assert_eq!(response.status(), StatusCode::OK);
    let body = soon(response.into_body().collect()).await.unwrap();
    soon(driver).await.unwrap();
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn inside_tls_it_serves_those_whom_the_upstream_would_answer_the_same() {
    let world = by_name(Rules::Inspect).build().await;
    let config = world.upstreams.server(NAME, &["h2", "http/1.1"]);
    let anew = async |protocols: &[&str]| {
        let accept = async {
            let stream = world.accept().await;
            tokio::spawn(serve_one(stream, Arc::clone(&config)));
        };
        tokio::join!(ask_inside(&world, protocols), accept).0
    };
    // Nothing accepts where one that waits is found.
    let again = async |protocols: &[&str]| soon(ask_inside(&world, protocols)).await;
    let both = &["h2", "http/1.1"];
    assert!(anew(&["http/1.1"]).await.contains("HTTP/1.1"));
    assert!(again(&["http/1.1"]).await.contains("HTTP/1.1"));
    // The upstream prefers HTTP/2, and was not asked.
    assert!(anew(both).await.contains("HTTP/2.0"));
    assert!(again(both).await.contains("HTTP/2.0"));
    assert!(again(&["h2"]).await.contains("HTTP/2.0"));
    // Each still has its own.
    assert!(again(&["http/1.1"]).await.contains("HTTP/1.1"));
    world.comes_from(2);
    assert!(anew(both).await.contains("HTTP/2.0"));
    timeout(MOMENT, world.upstream.accept()).await.unwrap_err();
    world.end().await;
}

#[tokio::test]
async fn inside_tls_one_that_the_upstream_has_closed_is_replaced_unnoticed() {
    let world = by_name(Rules::Inspect).build().await;
    for protocols in [&["h2"], &["http/1.1"]] {
        let config = world.upstreams.server(NAME, protocols);
        for _ in 0..2 {
            let mut served = None;
            let accept = async {
                let stream = world.accept().await;
                served = Some(tokio::spawn(serve_one(stream, Arc::clone(&config))));
            };
            tokio::join!(ask_inside(&world, protocols), accept);
            let served = served.unwrap();
            served.abort();
            soon(served).await.unwrap_err();
        }
    }
    world.end().await;
}

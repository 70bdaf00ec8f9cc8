//! Plain HTTP, request by request.

use agentguard_model::{ActionKind, ReasonCode, Verdict};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::websocket::{SWITCH, frame, masked};
use super::{
    DENIED, Rules, World, allowed, by_address, by_name, read_all, read_some, read_until, soon,
    write,
};

pub(super) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

pub(super) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: api.example\r\n\r\n")
}

/// A response's head and its body, by its length.
pub(super) async fn read_response(stream: &mut TcpStream) -> (String, String) {
    let head = read_until(stream, "\r\n\r\n").await;
    if head
        .to_ascii_lowercase()
        .contains("\r\ntransfer-encoding: chunked\r\n")
    {
        let mut body = Vec::new();
        loop {
            let size = read_until(stream, "\r\n").await;
            let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
            let chunk = read_some(stream, size + 2).await;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return (head, String::from_utf8(body).unwrap());
            }
        }
    }
    let length = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length: ")?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let body = String::from_utf8(read_some(stream, length).await).unwrap();
    (head, body)
}

async fn exchange(
    world: &World,
    client: &mut TcpStream,
    upstream: &mut Option<TcpStream>,
    path: &str,
) {
    write(client, get(path)).await;
    if upstream.is_none() {
        *upstream = Some(world.accept().await);
    }
    let upstream = upstream.as_mut().unwrap();
    let head = read_until(upstream, "\r\n\r\n").await;
    assert!(
        head.starts_with(&format!("GET {path} HTTP/1.1\r\n")),
        "{head}"
    );
    write(upstream, OK).await;
    assert_eq!(read_response(client).await.1, "ok");
}

#[tokio::test]
async fn each_request_of_a_connection_is_decided() {
    let world = by_name(Rules::Requests).build().await;
    let mut client = world.connect().await;
    let mut upstream = None;
    exchange(&world, &mut client, &mut upstream, "/ok/1").await;
    write(&mut client, get("/no")).await;
    let (head, body) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{head}");
    // The connection goes on, to the same upstream connection.
    exchange(&world, &mut client, &mut upstream, "/ok/2").await;
    drop((client, upstream));
    let decisions = world.end().await;
    assert_eq!(allowed(&decisions), [true, false, true]);
    assert!(
        decisions
            .iter()
            .all(|d| d.action.kind == ActionKind::HttpRequest && !d.action.tls)
    );
    let id = decisions[1].id.to_string();
    assert!(
        head.contains(&format!("x-agentguard-decision: {id}\r\n")),
        "{head}"
    );
    assert!(
        head.contains("content-type: application/problem+json\r\n"),
        "{head}"
    );
    assert!(body.contains(&format!("\"decision\":\"{id}\"")), "{body}");
    assert_eq!(decisions[1].action.path.as_deref(), Some("/no"));
    let outcome = decisions[0].outcome.as_ref().unwrap();
    assert_eq!((outcome.status, outcome.bytes.received), (Some(200), 2));
}

#[tokio::test]
async fn the_path_that_was_decided_is_the_path_that_is_sent() {
    let world = by_name(Rules::Requests).build().await;
    let mut client = world.connect().await;
    write(&mut client, get("/no/%2e%2E/ok//a?b=/../c")).await;
    let mut upstream = world.accept().await;
    let head = read_until(&mut upstream, "\r\n\r\n").await;
    assert!(head.starts_with("GET /ok/a?b=/../c HTTP/1.1\r\n"), "{head}");
    write(&mut upstream, OK).await;
    read_response(&mut client).await;
    write(&mut client, get("/ok/../no")).await;
    assert!(
        read_response(&mut client)
            .await
            .0
            .starts_with("HTTP/1.1 403")
    );
}

#[tokio::test]
async fn one_hop_s_fields_stay_on_it_and_the_others_keep_their_case() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    let request = "GET / HTTP/1.1\r\nHost: api.example\r\nX-Mixed-Case: Value\r\n\
                   Connection: keep-alive, X-Hop, Upgrade, HTTP2-Settings\r\nX-Hop: 1\r\n\
                   Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nKeep-Alive: 5\r\n\r\n";
    write(&mut client, request).await;
    let mut upstream = world.accept().await;
    let head = read_until(&mut upstream, "\r\n\r\n").await;
    assert_eq!(
        head,
        "GET / HTTP/1.1\r\nHost: api.example\r\nX-Mixed-Case: Value\r\n\r\n"
    );
    let response = "HTTP/1.1 200 OK\r\nX-Other-Case: Value\r\nKeep-Alive: timeout=5\r\n\
                    Content-Length: 0\r\n\r\n";
    write(&mut upstream, response).await;
    let (head, _) = read_response(&mut client).await;
    assert_eq!(
        head,
        "HTTP/1.1 200 OK\r\nX-Other-Case: Value\r\nContent-Length: 0\r\n\r\n"
    );
    // The gate waited for the answer to `Upgrade` and goes on.
    write(&mut client, get("/next")).await;
    read_until(&mut upstream, "\r\n\r\n").await;
}

#[tokio::test]
async fn a_request_is_sent_on_as_the_policy_changes_it() {
    let world = by_name(Rules::Changed).build().await;
    let mut client = world.connect().await;
    let fields = "Cookie: a=1\r\ncookie: b=2\r\nX-Agent: me\r\nx-agent: me too\r\nX-Kept: yes\r\n";
    let request = format!("GET /a HTTP/1.1\r\nHost: api.example\r\n{fields}\r\n");
    write(&mut client, request).await;
    let mut upstream = world.accept().await;
    let head = read_until(&mut upstream, "\r\n\r\n")
        .await
        .to_ascii_lowercase();
    assert!(
        !head.contains("cookie") && head.contains("x-kept: yes\r\n"),
        "{head}"
    );
    assert_eq!(head.matches("x-agent").count(), 1, "{head}");
    assert!(head.contains("x-agent: tester\r\n"), "{head}");
    write(&mut upstream, OK).await;
    assert_eq!(read_response(&mut client).await.1, "ok");
    drop((client, upstream));
    let decisions = world.end().await;
    assert_eq!(decisions[0].verdict, Verdict::Modify);
    assert_eq!(decisions[0].reason.code, ReasonCode::RuleModify);
    let told = &decisions[0].reason.message;
    let changes = "/a, without `cookie`, with another `x-agent`.";
    assert!(
        told.starts_with("Rule changed allows tester to GET api.example:"),
        "{told}"
    );
    assert!(told.ends_with(changes), "{told}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let world = by_name(Rules::Requests).build().await;
    let mut client = world.connect().await;
    let all = [
        get("/ok/1"),
        get("/no"),
        get("/ok/2"),
        "GET /\n\r\n".to_owned(),
    ]
    .concat();
    write(&mut client, all).await;
    let mut upstream = world.accept().await;
    for path in ["/ok/1", "/ok/2"] {
        let head = read_until(&mut upstream, "\r\n\r\n").await;
        assert!(head.starts_with(&format!("GET {path} ")), "{head}");
        write(&mut upstream, OK).await;
    }
    for status in ["200", "403", "200", "400"] {
        let (head, _) = read_response(&mut client).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
    assert_eq!(read_all(&mut client).await.unwrap(), b"");
    drop((client, upstream));
    let decisions = world.end().await;
    assert_eq!(allowed(&decisions), [true, false, true, false]);
    assert_eq!(decisions[3].reason.code, ReasonCode::HttpMalformed);
}

#[tokio::test]
async fn bodies_stream_both_ways_with_their_trailers() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    write(
        &mut client,
        "POST /x HTTP/1.1\r\nHost: api.example\r\nTE: trailers\r\nConnection: TE\r\n\
         Trailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n",
    )
    .await;
    let mut upstream = world.accept().await;
    let head = read_until(&mut upstream, "\r\n\r\n")
        .await
        .to_ascii_lowercase();
    assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    assert!(head.contains("te: trailers\r\n"), "{head}");
    assert_eq!(read_until(&mut upstream, "one\r\n").await, "3\r\none\r\n");
    // The answer begins before the request has ended.
    write(
        &mut upstream,
        "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
    )
    .await;
    read_until(&mut client, "first\r\n").await;
    write(&mut client, "3;ext=1\r\ntwo\r\n0\r\nX-Sum: 6\r\n\r\n").await;
    let rest = read_until(&mut upstream, "\r\n\r\n")
        .await
        .to_ascii_lowercase();
    assert_eq!(rest, "3\r\ntwo\r\n0\r\nx-sum: 6\r\n\r\n");
    write(&mut upstream, "4\r\nlast\r\n0\r\nX-Sum: 9\r\n\r\n").await;
    let rest = read_until(&mut client, "\r\n\r\n")
        .await
        .to_ascii_lowercase();
    assert_eq!(rest, "4\r\nlast\r\n0\r\nx-sum: 9\r\n\r\n");
    drop((client, upstream));
    let decisions = world.end().await;
    let bytes = decisions[0].outcome.as_ref().unwrap().bytes;
    assert_eq!((bytes.sent, bytes.received), (6, 9));
}

#[tokio::test]
async fn a_field_that_is_changed_does_not_come_in_a_trailer() {
    let world = by_name(Rules::Changed).build().await;
    let mut client = world.connect().await;
    write(
        &mut client,
        "POST /x HTTP/1.1\r\nHost: api.example\r\nTE: trailers\r\nConnection: TE\r\n\
         Trailer: cookie, x-agent, x-sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n",
    )
    .await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "one\r\n").await;
    write(
        &mut client,
        "0\r\nCookie: a=b\r\nX-Agent: other\r\nX-Sum: 6\r\n\r\n",
    )
    .await;
    let rest = read_until(&mut upstream, "\r\n\r\n").await;
    assert_eq!(rest.to_ascii_lowercase(), "0\r\nx-sum: 6\r\n\r\n");
    write(&mut upstream, OK).await;
    assert_eq!(read_response(&mut client).await.1, "ok");
    drop((client, upstream));
    world.end().await;
}

#[tokio::test]
async fn a_body_broken_in_the_middle_ends_the_request_and_is_told_once() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    let head = "POST / HTTP/1.1\r\nHost: api.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    write(&mut client, format!("{head}3\r\none\r\n")).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "one\r\n").await;
    write(&mut client, "3\ntwo\r\n0\r\n\r\n").await;
    let (head, body) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    let upstream_rest = read_all(&mut upstream).await.unwrap_or_default();
    assert_eq!(upstream_rest, b"", "the body must not look complete");
    drop(client);
    let decisions = world.end().await;
    assert_eq!(allowed(&decisions), [true]);
    let outcome = decisions[0].outcome.as_ref().unwrap();
    assert_eq!(outcome.status, Some(400));
    assert!(
        outcome.error.as_ref().unwrap().contains("chunk"),
        "{outcome:?}"
    );
    assert!(body.contains(&decisions[0].id.to_string()));
}

#[tokio::test]
async fn expect_is_answered_by_the_upstream_rfc_9110_10_1_1() {
    let head = "POST / HTTP/1.1\r\nHost: api.example\r\nExpect: 100-continue\r\n\
                Content-Length: 4\r\n\r\n";
    // Refused: the client never sends its body.
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    write(&mut client, head).await;
    let mut upstream = world.accept().await;
    assert_eq!(read_until(&mut upstream, "\r\n\r\n").await, head);
    write(
        &mut upstream,
        "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    let (answer, _) = read_response(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    // Accepted: 100 comes only once the upstream said so.
    let mut client = world.connect().await;
    write(&mut client, head).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    write(&mut upstream, "HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(
        read_until(&mut client, "\r\n\r\n").await,
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    write(&mut client, "body").await;
    assert_eq!(read_some(&mut upstream, 4).await, b"body");
    write(&mut upstream, OK).await;
    assert_eq!(read_response(&mut client).await.1, "ok");
}

#[tokio::test]
async fn an_upstream_that_ignores_expect_gets_the_body_after_a_while() {
    let mut plan = by_name(Rules::Allow);
    plan.limits.expect_continue = std::time::Duration::from_millis(20);
    let world = plan.build().await;
    let mut client = world.connect().await;
    write(
        &mut client,
        "POST / HTTP/1.1\r\nHost: api.example\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
    )
    .await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    read_until(&mut client, "100 Continue\r\n\r\n").await;
    write(&mut client, "body").await;
    assert_eq!(read_some(&mut upstream, 4).await, b"body");
}

#[tokio::test]
async fn responses_without_a_body_rfc_9112_6_3() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    let mut upstream = None;
    for (method, response) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n"),
    ] {
        let request = format!("{method} / HTTP/1.1\r\nHost: api.example\r\n\r\n");
        write(&mut client, request).await;
        if upstream.is_none() {
            upstream = Some(world.accept().await);
        }
        let upstream = upstream.as_mut().unwrap();
        read_until(upstream, "\r\n\r\n").await;
        let hints = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n";
        write(upstream, [hints, response].concat()).await;
        for expected in [hints, response] {
            assert_eq!(read_until(&mut client, "\r\n\r\n").await, expected);
        }
    }
    // The connection is still in step.
    exchange(&world, &mut client, &mut upstream, "/last").await;
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_ends_so_or_in_chunks() {
    let world = by_name(Rules::Allow).build().await;
    for (version, expected) in [("1.0", "all of it"), ("1.1", "9\r\nall of it\r\n0\r\n\r\n")] {
        let mut client = world.connect().await;
        write(
            &mut client,
            format!("GET / HTTP/{version}\r\nHost: api.example\r\n\r\n"),
        )
        .await;
        let mut upstream = world.accept().await;
        read_until(&mut upstream, "\r\n\r\n").await;
        write(&mut upstream, "HTTP/1.1 200 OK\r\n\r\nall of it").await;
        drop(upstream);
        read_until(&mut client, "\r\n\r\n").await;
        assert_eq!(
            read_some(&mut client, expected.len()).await,
            expected.as_bytes()
        );
    }
}

#[tokio::test]
async fn a_request_of_http_1_0_without_host_gets_the_name_behind_the_address() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    write(&mut client, "GET / HTTP/1.0\r\n\r\n").await;
    let mut upstream = world.accept().await;
    let head = read_until(&mut upstream, "\r\n\r\n").await;
    assert_eq!(
        head,
        format!(
            "GET / HTTP/1.1\r\nhost: api.example:{}\r\n\r\n",
            world.port()
        )
    );
}

#[tokio::test]
async fn a_kept_connection_that_the_upstream_closed_is_opened_anew() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    for path in ["/1", "/2", "/3"] {
        let mut upstream = None;
        exchange(&world, &mut client, &mut upstream, path).await;
        drop(upstream);
    }
    drop(client);
    assert_eq!(allowed(&world.end().await), [true; 3]);
}

#[tokio::test]
async fn an_upstream_that_breaks_off_breaks_the_answer_off() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    write(&mut client, get("/")).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    write(
        &mut upstream,
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
    )
    .await;
    read_until(&mut client, "half").await;
    drop(upstream);
    super::assert_reset(&mut client).await;
    let decisions = world.end().await;
    assert!(decisions[0].outcome.as_ref().unwrap().error.is_some());
}

#[tokio::test]
async fn a_connection_speaks_websocket_after_101_and_only_then() {
    let ask = "GET /ok HTTP/1.1\r\nHost: api.example\r\nConnection: Upgrade\r\n\
               Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let world = by_name(Rules::Requests).build().await;
    let mut client = world.connect().await;
    let early = masked(0x81, "early");
    write(&mut client, [ask.as_bytes(), &early].concat()).await;
    let mut upstream = world.accept().await;
    let head = read_until(&mut upstream, "\r\n\r\n")
        .await
        .to_ascii_lowercase();
    assert!(head.contains("upgrade: websocket\r\n"), "{head}");
    assert!(head.contains("connection: upgrade\r\n"), "{head}");
    let hello = frame(0x81, "hello");
    write(&mut upstream, [SWITCH.as_bytes(), &hello].concat()).await;
    let head = read_until(&mut client, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(read_some(&mut client, hello.len()).await, hello);
    assert_eq!(read_some(&mut upstream, early.len()).await, early);
    let (ping, pong) = (masked(0x89, "ping"), frame(0x8a, "pong"));
    for _ in 0..3 {
        write(&mut client, &ping).await;
        assert_eq!(read_some(&mut upstream, ping.len()).await, ping);
        write(&mut upstream, &pong).await;
        assert_eq!(read_some(&mut client, pong.len()).await, pong);
    }
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut upstream).await.unwrap(), b"");
    drop((client, upstream));
    let decisions = world.end().await;
    assert_eq!(allowed(&decisions), [true]);
    let outcome = decisions[0].outcome.as_ref().unwrap();
    assert_eq!(outcome.status, Some(101));
    assert_eq!((outcome.bytes.sent, outcome.bytes.received), (41, 25));
}

#[tokio::test]
async fn what_follows_a_refused_upgrade_is_a_request_again() {
    let ask = "GET /ok HTTP/1.1\r\nHost: api.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let world = by_name(Rules::Requests).build().await;
    let mut client = world.connect().await;
    write(&mut client, format!("{ask}{}", get("/no"))).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    write(&mut upstream, OK).await;
    assert_eq!(read_response(&mut client).await.1, "ok");
    assert!(
        read_response(&mut client)
            .await
            .0
            .starts_with("HTTP/1.1 403 ")
    );
    drop((client, upstream));
    assert_eq!(allowed(&world.end().await), [true, false]);
}

#[tokio::test]
async fn a_client_that_posts_and_leaves_is_still_delivered() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    let post = "POST / HTTP/1.1\r\nHost: api.example\r\nContent-Length: 4\r\n\r\nbody";
    write(&mut client, post).await;
    drop(client);
    let mut upstream = world.accept().await;
    assert_eq!(read_until(&mut upstream, "body").await, post);
    write(&mut upstream, OK).await;
    let decisions = world.until(|d| d.iter().any(|d| d.outcome.is_some())).await;
    assert_eq!(decisions[0].outcome.as_ref().unwrap().bytes.sent, 4);
}

#[tokio::test]
async fn an_unread_answer_stops_the_upstream() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    write(&mut client, get("/")).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    const LENGTH: usize = 256 * 1024 * 1024;
    write(
        &mut upstream,
        format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"),
    )
    .await;
    let block = vec![7; 64 * 1024];
    let mut taken = 0;
    // Until the sockets' buffers are full; then nobody takes any more.
    while let Ok(Ok(written)) = tokio::time::timeout(
        std::time::Duration::from_millis(300),
        upstream.write(&block),
    )
    .await
    {
        taken += written;
        assert!(taken < LENGTH / 2, "nothing stops the upstream");
    }
    read_until(&mut client, "\r\n\r\n").await;
    read_some(&mut client, taken).await;
}

#[tokio::test]
async fn a_head_that_does_not_end_is_answered_408_and_an_idle_connection_closed() {
    let mut plan = by_name(Rules::Allow);
    plan.limits.head = std::time::Duration::from_millis(50);
    plan.limits.keep_alive = std::time::Duration::from_millis(50);
    let world = plan.build().await;
    let mut slow = world.connect().await;
    write(&mut slow, "GET / HTTP/1.1\r\nHost: ").await;
    assert!(
        read_response(&mut slow)
            .await
            .0
            .starts_with("HTTP/1.1 408 ")
    );
    let mut idle = world.connect().await;
    let mut upstream = None;
    exchange(&world, &mut idle, &mut upstream, "/").await;
    assert_eq!(read_all(&mut idle).await.unwrap(), b"");
    drop((slow, idle));
    let decisions = world.end().await;
    assert_eq!(allowed(&decisions), [false, true]);
    assert_eq!(decisions[0].reason.code, ReasonCode::ClientTimeout);
}

#[tokio::test]
async fn behind_a_bare_address_a_name_selects_nothing() {
    let world = by_address(Rules::Allow).build().await;
    let mut client = world.connect().await;
    let mut upstream = None;
    exchange(&world, &mut client, &mut upstream, "/1").await;
    write(&mut client, "GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n").await;
    assert!(
        read_response(&mut client)
            .await
            .0
            .starts_with("HTTP/1.1 421 ")
    );
    drop((client, upstream));
    let decisions = world.end().await;
    assert_eq!(decisions[0].action.host, None);
    assert_eq!(allowed(&decisions), [true, false]);
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_shutdown() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    let mut upstream = None;
    exchange(&world, &mut client, &mut upstream, "/1").await;
    world.shutdown.cancel();
    assert_eq!(soon(read_all(&mut client)).await.unwrap(), b"");
    drop(client);
    assert_eq!(allowed(&world.end().await), [true]);
}

/// A denial by address is about the address behind the name too, also where it looks at requests.
#[tokio::test]
async fn a_request_is_denied_by_the_address_behind_the_name() {
    let mut plan = by_name(Rules::ButPostToOneAddress);
    plan.addresses = Ok(vec![DENIED.parse().unwrap()]);
    let world = plan.build().await;
    let there = TcpListener::bind((DENIED, world.port())).await.unwrap();
    let post = "POST / HTTP/1.1\r\nHost: api.example\r\nContent-Length: 0\r\n\r\n";
    let mut client = world.connect().await;
    // Nobody was dialled yet, and then somebody was.
    write(&mut client, post).await;
    let (head, _) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    write(&mut client, get("/")).await;
    let (mut upstream, _) = soon(there.accept()).await.unwrap();
    read_until(&mut upstream, "\r\n\r\n").await;
    write(&mut upstream, OK).await;
    assert_eq!(read_response(&mut client).await.1, "ok");
    write(&mut client, post).await;
    let (head, _) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    drop((client, upstream));
    let decisions = world.end().await;
    assert_eq!(allowed(&decisions), [false, true, false]);
    assert_eq!(decisions[2].reason.code, ReasonCode::RuleDeny);
    assert_eq!(decisions[2].action.ip, Some(DENIED.parse().unwrap()));
    assert_eq!(decisions[1].action.ip, None);
}

/// Where a name leads to more than one address, the one that was dialled may be gone for the next request: what is denied
/// at another one does not go there then.
#[tokio::test]
async fn what_follows_on_a_connection_is_decided_at_every_address_again() {
    let mut plan = by_name(Rules::ButPostToOneAddress);
    plan.addresses = Ok(vec!["127.0.0.1".parse().unwrap(), DENIED.parse().unwrap()]);
    let world = plan.build().await;
    let mut client = world.connect().await;
    write(&mut client, "GET /a HTTP/1.1\r\nHost: api.example\r\n\r\n").await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    let last = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    write(&mut upstream, last).await;
    drop(upstream);
    let (head, _) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let post = "POST /a HTTP/1.1\r\nHost: api.example\r\nContent-Length: 0\r\n\r\n";
    write(&mut client, post).await;
    let (head, _) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    drop(client);
    let decisions = world.end().await;
    let denied = decisions.last().unwrap();
    assert_eq!(denied.matched[0].rule, "bad");
    assert_eq!(denied.action.ip, Some(DENIED.parse().unwrap()));
}

//! Agents that believe to speak to a proxy.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use agentguard_model::{ActionKind, Decision, ReasonCode, Verdict};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::http::{OK, get, read_response};
use super::{
    Rules, World, assert_reset, beyond, by_name, codes, read_all, read_some, read_until, soon,
    write,
};

const ALLOWED: (Verdict, ReasonCode) = (Verdict::Allow, ReasonCode::RuleAllow);

async fn open(world: &World, to: &str) -> (TcpStream, String) {
    let mut client = world.connect().await;
    write(
        &mut client,
        format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: x\r\n\r\n"),
    )
    .await;
    let head = read_until(&mut client, "\r\n\r\n").await;
    (client, head)
}

/// Kind, host, method and path.
fn places(decisions: &[Decision]) -> Vec<(ActionKind, String, String)> {
    let words = |decision: &Decision| {
        let action = &decision.action;
        let host = action.host.as_ref().map(ToString::to_string);
        let asked = [action.method.as_deref(), action.path.as_deref()];
        let asked: Vec<_> = asked.into_iter().flatten().collect();
        (action.kind, host.unwrap_or_default(), asked.join(" "))
    };
    decisions.iter().map(words).collect()
}

fn asked(to: &str) -> (ActionKind, String, String) {
    let asked = format!("CONNECT {to}");
    (ActionKind::HttpRequest, "api.example".to_owned(), asked)
}

fn went(host: &str) -> (ActionKind, String, String) {
    (ActionKind::Connect, host.to_owned(), String::new())
}

#[tokio::test]
async fn a_tunnel_leads_where_its_name_is_found_and_not_to_the_proxy() {
    // The second is an address that stands for the name.
    for host in ["inner.example", "198.18.0.9"] {
        let world = beyond(Rules::Allow).build().await;
        let to = format!("{host}:{}", world.port());
        let (mut client, head) = open(&world, &to).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        write(&mut client, "\0hello").await;
        let mut upstream = world.accept().await;
        assert_eq!(read_some(&mut upstream, 6).await, b"\0hello");
        write(&mut upstream, "world").await;
        assert_eq!(read_some(&mut client, 5).await, b"world");
        client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut upstream).await.unwrap(), b"");
        drop((client, upstream));
        let decisions = world.end().await;
        assert_eq!(codes(&decisions), [ALLOWED, ALLOWED]);
        assert_eq!(places(&decisions), [asked(&to), went("inner.example")]);
        let outcome = decisions[1].outcome.as_ref().unwrap();
        assert_eq!((outcome.bytes.sent, outcome.bytes.received), (6, 5));
    }
}

#[tokio::test]
async fn each_request_inside_is_decided_on_its_own_host() {
    let world = beyond(Rules::Proxy).build().await;
    let to = format!("inner.example:{}", world.port());
    let (mut client, head) = open(&world, &to).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let ask = |path| get(path).replace("api.example", "inner.example");
    write(&mut client, ask("/no")).await;
    assert!(
        read_response(&mut client)
            .await
            .0
            .starts_with("HTTP/1.1 403 ")
    );
    write(&mut client, ask("/ok")).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    write(&mut upstream, OK).await;
    assert_eq!(read_response(&mut client).await.1, "ok");
    drop((client, upstream));
    let decisions = world.end().await;
    let denied = (Verdict::Deny, ReasonCode::NoRule);
    assert_eq!(codes(&decisions), [ALLOWED, denied, ALLOWED]);
    let inside = |asked: &str| {
        let host = "inner.example".to_owned();
        (ActionKind::HttpRequest, host, asked.to_owned())
    };
    assert_eq!(
        places(&decisions),
        [asked(&to), inside("GET /no"), inside("GET /ok")]
    );
}

#[tokio::test]
async fn what_comes_with_the_request_is_inside() {
    let world = beyond(Rules::Allow).build().await;
    let mut client = world.connect().await;
    let port = world.port();
    let ask = format!("CONNECT inner.example:{port} HTTP/1.1\r\nHost: x\r\n\r\n\0early");
    write(&mut client, ask).await;
    let mut upstream = world.accept().await;
    assert_eq!(read_some(&mut upstream, 6).await, b"\0early");
}

#[tokio::test]
async fn a_tunnel_that_no_rule_allows_is_refused_in_words() {
    let port = 7;
    for (rules, to, expected) in [
        // Neither the proxy …
        (
            Rules::Requests,
            format!("inner.example:{port}"),
            vec![(Verdict::Deny, ReasonCode::NoRule)],
        ),
        // … nor what is behind it.
        (
            Rules::Proxy,
            format!("other.example:{port}"),
            vec![ALLOWED, (Verdict::Deny, ReasonCode::NoRule)],
        ),
        (
            Rules::Proxy,
            format!("192.0.2.1:{port}"),
            vec![ALLOWED, (Verdict::Deny, ReasonCode::NoRule)],
        ),
        // The guard's own loopback is no agent's, whatever the rules say of it.
        (
            Rules::Allow,
            format!("127.0.0.1:{port}"),
            vec![ALLOWED, (Verdict::Deny, ReasonCode::LoopbackNotOwn)],
        ),
        (
            Rules::Allow,
            format!("[::ffff:127.0.0.1]:{port}"),
            vec![ALLOWED, (Verdict::Deny, ReasonCode::LoopbackNotOwn)],
        ),
        (
            Rules::Allow,
            format!("[::]:{port}"),
            vec![ALLOWED, (Verdict::Deny, ReasonCode::LoopbackNotOwn)],
        ),
    ] {
        let world = beyond(rules).build().await;
        let (mut client, head) = open(&world, &to).await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{to}: {head}");
        let body = String::from_utf8(read_all(&mut client).await.unwrap()).unwrap();
        drop(client);
        let decisions = world.end().await;
        assert_eq!(codes(&decisions), expected, "{to}");
        let denied = decisions.last().unwrap();
        assert!(body.contains(&denied.id.to_string()), "{body}");
    }
}

#[tokio::test]
async fn what_is_no_request_for_a_tunnel_is_refused() {
    for ask in [
        "CONNECT inner.example HTTP/1.1\r\nHost: x\r\n\r\n",
        "CONNECT inner.example:7 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n",
        "CONNECT inner.example:7 HTTP/1.1\nHost: x\n\n",
        "CONNECT user@inner.example:7 HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let world = beyond(Rules::Allow).build().await;
        let mut client = world.connect().await;
        write(&mut client, ask).await;
        let (head, _) = read_response(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{ask:?}: {head}");
        drop(client);
        let malformed = (Verdict::Deny, ReasonCode::HttpMalformed);
        assert_eq!(codes(&world.end().await), [malformed], "{ask:?}");
    }
}

#[tokio::test]
async fn a_tunnel_is_asked_for_at_the_start_of_a_connection_or_not_at_all() {
    let world = beyond(Rules::Requests).build().await;
    let mut client = world.connect().await;
    let ask = "CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n\r\n";
    write(&mut client, format!("{}{ask}", get("/no"))).await;
    for status in ["403", "501"] {
        let (head, _) = read_response(&mut client).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
    drop(client);
    let decisions = world.end().await;
    assert_eq!(
        codes(&decisions),
        [
            (Verdict::Deny, ReasonCode::NoRule),
            (Verdict::Deny, ReasonCode::ProtocolNotSupported)
        ]
    );
}

/// A name as SOCKS5 writes it, and a port.
fn socks_request(host: &str, port: u16) -> Vec<u8> {
    let length = u8::try_from(host.len()).unwrap();
    [
        &[5, 1, 0, 3, length],
        host.as_bytes(),
        &port.to_be_bytes()[..],
    ]
    .concat()
}

#[tokio::test]
async fn socks_leads_to_the_same_places() {
    let world = beyond(Rules::Allow).build().await;
    let mut client = world.connect().await;
    write(&mut client, [5, 2, 0, 2]).await;
    assert_eq!(read_some(&mut client, 2).await, [5, 0]);
    write(&mut client, socks_request("inner.example", world.port())).await;
    assert_eq!(
        read_some(&mut client, 10).await,
        [5, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    );
    write(&mut client, "\0hello").await;
    let mut upstream = world.accept().await;
    assert_eq!(read_some(&mut upstream, 6).await, b"\0hello");
    let to = format!("inner.example:{}", world.port());
    drop((client, upstream));
    let decisions = world.end().await;
    assert_eq!(codes(&decisions), [ALLOWED, ALLOWED]);
    assert_eq!(places(&decisions), [asked(&to), went("inner.example")]);
}

#[tokio::test]
async fn what_socks_may_not_do_is_answered_in_its_codes() {
    let denied = vec![ALLOWED, (Verdict::Deny, ReasonCode::NoRule)];
    let unsupported = vec![(Verdict::Deny, ReasonCode::ProtocolNotSupported)];
    let bind = vec![5, 2, 0, 1, 192, 0, 2, 1, 0, 7];
    for (greeting, request, reply, expected) in [
        (vec![5, 1, 0], socks_request("other.example", 7), 2, denied),
        (vec![5, 1, 0], bind, 7, unsupported.clone()),
        (vec![5, 1, 2], Vec::new(), 0xff, unsupported),
    ] {
        let world = beyond(Rules::Proxy).build().await;
        let mut client = world.connect().await;
        write(&mut client, &greeting).await;
        if !request.is_empty() {
            assert_eq!(read_some(&mut client, 2).await, [5, 0]);
            write(&mut client, &request).await;
        }
        let told = read_all(&mut client).await.unwrap();
        assert_eq!(told.get(..2).unwrap(), [5, reply], "{request:?}");
        drop(client);
        assert_eq!(codes(&world.end().await), expected, "{request:?}");
    }
}

#[tokio::test]
async fn no_tunnel_leads_through_a_tunnel() {
    let nested = [
        b"CONNECT x.example:7 HTTP/1.1\r\nHost: x\r\n\r\n",
        &[5, 1, 0][..],
    ];
    for inside in [nested[0], nested[1], &[4, 1, 0, 7, 192, 0, 2, 1, 0]] {
        let world = beyond(Rules::Allow).build().await;
        let to = format!("inner.example:{}", world.port());
        let (mut client, _) = open(&world, &to).await;
        write(&mut client, inside).await;
        // In words where HTTP has some.
        let _ = read_all(&mut client).await;
        drop(client);
        let decisions = world.end().await;
        let refused = (Verdict::Deny, ReasonCode::ProtocolNotSupported);
        assert_eq!(codes(&decisions), [ALLOWED, refused], "{inside:?}");
    }
}

#[tokio::test]
async fn a_tunnel_to_a_name_without_an_address_is_told_so() {
    let world = beyond(Rules::Allow).build().await;
    let to = format!("nowhere.example:{}", world.port());
    let (client, head) = open(&world, &to).await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    drop(client);
    let decisions = world.end().await;
    assert_eq!(codes(&decisions), [ALLOWED, ALLOWED]);
    let outcome = decisions[1].outcome.as_ref().unwrap();
    assert_eq!(outcome.error.as_deref(), Some("there is no such name"));
}

#[tokio::test]
async fn a_tunnel_ends_when_its_proxy_is_denied() {
    let world = beyond(Rules::Allow).build().await;
    let to = format!("inner.example:{}", world.port());
    let (mut client, _) = open(&world, &to).await;
    write(&mut client, "\0hello").await;
    let mut upstream = world.accept().await;
    assert_eq!(read_some(&mut upstream, 6).await, b"\0hello");
    world.change(Rules::Inner);
    assert_eq!(read_all(&mut upstream).await.unwrap(), b"");
    let _ = soon(client.shutdown()).await;
    let decisions = world.end().await;
    assert_eq!(decisions.len(), 3, "{decisions:#?}");
    assert_eq!(places(&decisions)[2], asked(&to));
    assert_eq!(decisions[2].verdict, Verdict::Deny);
}

#[tokio::test]
async fn who_leaves_before_saying_where_to_go_is_recorded() {
    for said in [
        &b"\x05\x01"[..],
        b"\x05\x01\x00\x05",
        b"CONNECT inner.example:1 HT",
    ] {
        let world = beyond(Rules::Allow).build().await;
        let mut client = world.connect().await;
        write(&mut client, said).await;
        client.shutdown().await.unwrap();
        let _ = read_all(&mut client).await;
        let left = (Verdict::Deny, ReasonCode::ClientTimeout);
        assert_eq!(codes(&world.end().await), [left], "{said:?}");
    }
}

#[tokio::test]
async fn socks_of_version_4_is_refused() {
    let world = beyond(Rules::Allow).build().await;
    let mut client = world.connect().await;
    write(&mut client, [4, 1, 0, 80, 192, 0, 2, 1, 0]).await;
    assert_reset(&mut client).await;
    let refused = (Verdict::Deny, ReasonCode::ProtocolNotSupported);
    assert_eq!(codes(&world.end().await), [refused]);
}

#[tokio::test]
async fn no_tunnel_leads_to_this_host_s_loopback_by_a_name_either() {
    let world = by_name(Rules::Allow).build().await;
    let (client, head) = open(&world, &format!("inner.example:{}", world.port())).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    drop(client);
    let denied = (Verdict::Deny, ReasonCode::LoopbackNotOwn);
    assert_eq!(codes(&world.end().await), [ALLOWED, denied]);
}

/// Else a query would leave that the guard's resolver never sees.
#[tokio::test]
async fn no_tunnel_leads_to_a_resolver() {
    for to in ["inner.example:53", "192.0.2.53:53"] {
        let world = beyond(Rules::Allow).build().await;
        let (client, head) = open(&world, to).await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        drop(client);
        let denied = (Verdict::Deny, ReasonCode::ProtocolNotSupported);
        assert_eq!(codes(&world.end().await), [ALLOWED, denied]);
    }
}

/// Also where the policy has changed since, and its name leads elsewhere by then.
#[tokio::test]
async fn a_tunnel_leads_to_no_loopback_that_its_name_has_later() {
    let mut plan = by_name(Rules::Allow);
    plan.addresses = Ok(vec![IpAddr::from([127, 0, 0, 2])]);
    let world = plan.build().await;
    let to = format!("inner.example:{}", world.port());
    let (mut client, head) = open(&world, &to).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    *world.outside.addresses.lock().unwrap() = Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    world.policies.touch();
    write(
        &mut client,
        get("/ok").replace("api.example", "inner.example"),
    )
    .await;
    let (head, _) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    let accepted = timeout(Duration::ZERO, world.upstream.accept()).await;
    assert!(accepted.is_err(), "it leads to the guard's own");
    drop(client);
    let decisions = world.end().await;
    let outcome = decisions.last().unwrap().outcome.as_ref().unwrap();
    let error = outcome.error.as_deref().unwrap();
    assert!(error.contains("this host's own"), "{error}");
}

/// The proxy that was asked for it is never dialled.
#[tokio::test]
async fn a_tunnel_ends_when_an_address_of_its_proxy_is_denied() {
    let world = beyond(Rules::Allow).build().await;
    let to = format!("inner.example:{}", world.port());
    let (mut client, head) = open(&world, &to).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    write(
        &mut client,
        get("/ok").replace("api.example", "inner.example"),
    )
    .await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    world.change(Rules::ButTunnels);
    // An end, or a reset.
    let left = soon(read_all(&mut client)).await.unwrap_or_default();
    assert_eq!(left, b"");
    drop(upstream);
    let decisions = world.end().await;
    let denied = decisions.iter().find(|it| it.verdict == Verdict::Deny);
    let denied = denied.expect("the tunnel is denied");
    assert_eq!(denied.reason.code, ReasonCode::RuleDeny);
    assert_eq!(denied.action.method.as_deref(), Some("CONNECT"));
}

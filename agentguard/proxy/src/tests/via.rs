//! Upstreams behind an HTTP proxy, which is where the other tests have the upstream.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use agentguard_model::{ProxyCredentials, ProxyHost, UpstreamEntry, UpstreamProxy, Verdict};
use http::{Method, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::authority::Authority;
use super::http::{OK, get, read_response};
use super::inspect::{NAME, client, request, serve_one};
use super::upstreams::unknown;
use super::{
    Plan, Rules, World, assert_reset, by_name, read_all, read_some, read_until, soon, write,
};
use crate::Limits;

const ESTABLISHED: &str = "HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n";

fn proxied(entry: &mut UpstreamEntry, _: &Authority) {
    entry.proxy = Some(UpstreamProxy {
        host: ProxyHost::Ip(Ipv4Addr::LOCALHOST.into()),
        port: 0,
        credentials: None,
    });
}

fn with_credentials(entry: &mut UpstreamEntry, upstreams: &Authority) {
    proxied(entry, upstreams);
    let credentials = ProxyCredentials("Basic c2VjcmV0OnNlY3JldA==".to_owned());
    entry.proxy.as_mut().unwrap().credentials = Some(credentials);
}

/// A world whose guard resolves no name.
fn behind(rules: Rules) -> Plan {
    Plan {
        addresses: unknown(),
        entry: proxied,
        ..by_name(rules)
    }
}

/// The guard's next connection to the proxy, and what it asks for.
async fn asked(world: &World) -> (TcpStream, String) {
    let mut stream = world.accept().await;
    let head = read_until(&mut stream, "\r\n\r\n").await;
    (stream, head)
}

fn connect(world: &World, host: &str) -> String {
    let to = format!("{host}:{}", world.port());
    format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n")
}

#[tokio::test]
async fn what_is_spliced_runs_through_a_tunnel_to_the_name() {
    let world = behind(Rules::Allow).build().await;
    let mut client = world.connect().await;
    write(&mut client, "\0hello").await;
    let (mut proxy, head) = asked(&world).await;
    assert_eq!(head, connect(&world, NAME));
    // What is behind the head is the tunnel's, in one piece with it or not.
    write(&mut proxy, format!("{ESTABLISHED}first")).await;
    assert_eq!(read_some(&mut client, 5).await, b"first");
    assert_eq!(read_some(&mut proxy, 6).await, b"\0hello");
    // Nobody knows an address that a rule could be about.
    world.change(Rules::ButOneAddress);
    write(&mut client, "more").await;
    assert_eq!(read_some(&mut proxy, 4).await, b"more");
    world.change(Rules::Deny);
    assert_reset(&mut client).await;
    let decisions = world.end().await;
    assert_eq!(decisions[0].verdict, Verdict::Allow);
    assert!(
        decisions
            .iter()
            .all(|decision| decision.action.ip.is_none())
    );
}

#[tokio::test]
async fn the_answer_may_come_in_pieces_and_behind_interim_ones() {
    let world = behind(Rules::Allow).build().await;
    let mut client = world.connect().await;
    write(&mut client, "\0hello").await;
    let (mut proxy, _) = asked(&world).await;
    for piece in [
        "HTTP/1.1 100 Continue\r\n\r",
        "\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 ",
        "OK\r\n\r\nfirst",
    ] {
        write(&mut proxy, piece).await;
        // The guard sees it before there is more.
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(read_some(&mut client, 5).await, b"first");
    drop((client, proxy));
    world.end().await;
}

#[tokio::test]
async fn http_in_the_clear_runs_through_one_tunnel_after_the_other_client() {
    let world = behind(Rules::Requests).build().await;
    let mut client = world.connect().await;
    write(
        &mut client,
        get("/ok").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"),
    )
    .await;
    let (mut proxy, head) = asked(&world).await;
    assert_eq!(head, connect(&world, NAME));
    write(&mut proxy, ESTABLISHED).await;
    let head = read_until(&mut proxy, "\r\n\r\n").await;
    assert!(head.starts_with("GET /ok HTTP/1.1\r\n"), "{head}");
    write(&mut proxy, OK).await;
    let text = String::from_utf8(read_all(&mut client).await.unwrap()).unwrap();
    assert!(text.ends_with("ok"), "{text}");
    // The tunnel waits for the agent's next client connection, as any connection to an upstream does.
    let mut client = world.connect().await;
    write(&mut client, get("/ok/2")).await;
    let head = read_until(&mut proxy, "\r\n\r\n").await;
    assert!(head.starts_with("GET /ok/2 HTTP/1.1\r\n"), "{head}");
    write(&mut proxy, OK).await;
    assert_eq!(read_response(&mut client).await.1, "ok");
    drop(client);
    world.end().await;
}

#[tokio::test]
async fn tls_inside_is_verified_for_the_name_as_ever() {
    for (name, expected) in [
        (NAME, StatusCode::OK),
        ("other.example", StatusCode::BAD_GATEWAY),
    ] {
        let world = behind(Rules::Inspect).build().await;
        let config = world.upstreams.server(name, &["http/1.1"]);
        let talking = async {
            let stream = client(&world, world.authority.roots(), &["http/1.1"]).await;
            let io = TokioIo::new(stream.unwrap());
            let (mut sender, driver) = http1::handshake(io).await.unwrap();
            tokio::spawn(driver);
            let asked = request(Version::HTTP_11, Method::GET, "/ok", "");
            let response = soon(sender.send_request(asked)).await.unwrap();
            let status = response.status();
            let body = soon(response.into_body().collect()).await.unwrap();
            (status, String::from_utf8(body.to_bytes().to_vec()).unwrap())
        };
        let proxy = async {
            let (mut stream, head) = asked(&world).await;
            assert_eq!(head, connect(&world, NAME));
            write(&mut stream, ESTABLISHED).await;
            // A guard that refuses leaves.
            let config = Arc::clone(&config);
            tokio::spawn(async { tokio::spawn(serve_one(stream, config)).await.ok() });
        };
        let ((status, text), ()) = tokio::join!(talking, proxy);
        assert_eq!(status, expected, "{text}");
        let untrusted = text.contains("upstream_untrusted");
        assert_eq!(untrusted, expected != StatusCode::OK, "{text}");
    }
}

#[tokio::test]
async fn an_address_of_the_entry_is_where_the_proxy_goes() {
    let plan = Plan {
        entry: |entry, upstreams| {
            proxied(entry, upstreams);
            entry.address = Some((Ipv4Addr::new(192, 0, 2, 7).into(), None));
        },
        ..behind(Rules::Allow)
    };
    let world = plan.build().await;
    let mut client = world.connect().await;
    write(&mut client, "\0hello").await;
    let (proxy, head) = asked(&world).await;
    assert_eq!(head, connect(&world, "192.0.2.7"));
    drop((client, proxy));
    world.end().await;
}

#[tokio::test]
async fn credentials_are_shown_to_the_proxy_and_to_nobody_else() {
    let plan = Plan {
        entry: with_credentials,
        ..behind(Rules::Requests)
    };
    let world = plan.build().await;
    let mut client = world.connect().await;
    write(&mut client, get("/ok")).await;
    let (mut proxy, head) = asked(&world).await;
    let shown = "Proxy-Authorization: Basic c2VjcmV0OnNlY3JldA==\r\n";
    assert!(head.contains(shown), "{head}");
    write(&mut proxy, ESTABLISHED).await;
    let head = read_until(&mut proxy, "\r\n\r\n").await;
    assert!(!head.to_lowercase().contains("proxy"), "{head}");
    write(&mut proxy, OK).await;
    read_response(&mut client).await;
    drop(client);
    world.end().await;
}

/// Which proxy, what it said, what to do.
#[tokio::test]
async fn a_proxy_that_refuses_is_a_reason_that_says_what_to_do() {
    let plain = proxied as fn(&mut UpstreamEntry, &Authority);
    for (entry, answer, says) in [
        (
            plain,
            "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 2\r\n\r\nno",
            "wants credentials (407): name a file with them as `proxy_credentials`",
        ),
        (
            with_credentials,
            "HTTP/1.1 407 Again\r\n\r\n",
            "does not take the credentials in `proxy_credentials` (407)",
        ),
        (
            plain,
            "HTTP/1.0 403 No\r\n\r\n",
            "refuses to go there (403)",
        ),
        (plain, "HTTP/1.1 503 Later\r\n\r\n", "cannot go there (503)"),
        (
            plain,
            "HTTP/1.1 302 Found\r\n\r\n",
            "answered 302 to CONNECT",
        ),
        (plain, "HTTP/1.1 101 Other\r\n\r\n", "broke off"),
        (
            plain,
            "SSH-2.0-OpenSSH\r\n",
            "is it an HTTP proxy, and not behind TLS?",
        ),
        (plain, "", "broke off"),
    ] {
        let plan = Plan {
            entry,
            ..behind(Rules::Requests)
        };
        let world = plan.build().await;
        let mut client = world.connect().await;
        write(&mut client, get("/ok")).await;
        let (mut proxy, _) = asked(&world).await;
        write(&mut proxy, answer).await;
        drop(proxy);
        let (head, body) = read_response(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        let to = format!(
            "no tunnel to {NAME}:{0} through the proxy http://127.0.0.1:{0}: ",
            world.port()
        );
        assert!(body.contains(&to) && body.contains(says), "{body}");
        assert!(!body.contains("c2VjcmV0"), "{body}");
        drop(client);
        let error = world.end().await.remove(0).outcome.unwrap().error;
        assert!(error.unwrap().contains(says));
    }
}

#[tokio::test]
async fn a_proxy_that_is_gone_or_silent_is_named() {
    let plan = |rules| Plan {
        entry: |entry, upstreams| {
            proxied(entry, upstreams);
            // Nothing has this address.
            let proxy = entry.proxy.as_mut().unwrap();
            proxy.host = ProxyHost::Ip(Ipv4Addr::new(127, 0, 0, 55).into());
        },
        ..behind(rules)
    };
    let world = plan(Rules::Requests).build().await;
    let mut client = world.connect().await;
    write(&mut client, get("/ok")).await;
    let (_, body) = read_response(&mut client).await;
    let says = format!(
        "the proxy http://127.0.0.55:{}: it cannot be reached: ",
        world.port()
    );
    assert!(body.contains(&says), "{body}");
    drop(client);
    world.end().await;

    // Where there is nobody to tell, the record says it.
    let world = plan(Rules::Allow).build().await;
    let mut client = world.connect().await;
    write(&mut client, "\0hello").await;
    assert_reset(&mut client).await;
    let error = world.end().await.remove(0).outcome.unwrap().error.unwrap();
    assert!(error.contains("127.0.0.55"), "{error}");

    let plan = Plan {
        limits: Limits {
            dial: Duration::from_millis(100),
            ..Limits::default()
        },
        ..behind(Rules::Requests)
    };
    let world = plan.build().await;
    let mut client = world.connect().await;
    write(&mut client, get("/ok")).await;
    let _held = asked(&world).await;
    let (_, body) = read_response(&mut client).await;
    let says = format!(
        "the proxy http://127.0.0.1:{0} gave no answer for {NAME}:{0}",
        world.port()
    );
    assert!(body.contains(&says), "{body}");
    world.end().await;
}

#[tokio::test]
async fn a_proxy_is_found_by_this_host_s_resolver() {
    for (name, found) in [("localhost", true), ("no-such-proxy.invalid", false)] {
        let plan = Plan {
            entry: match found {
                true => |entry: &mut UpstreamEntry, upstreams: &Authority| {
                    proxied(entry, upstreams);
                    let proxy = entry.proxy.as_mut().unwrap();
                    proxy.host = ProxyHost::Name("localhost".parse().unwrap());
                },
                false => |entry: &mut UpstreamEntry, upstreams: &Authority| {
                    proxied(entry, upstreams);
                    let proxy = entry.proxy.as_mut().unwrap();
                    proxy.host = ProxyHost::Name("no-such-proxy.invalid".parse().unwrap());
                },
            },
            ..behind(Rules::Requests)
        };
        let world = plan.build().await;
        let mut client = world.connect().await;
        write(&mut client, get("/ok")).await;
        if found {
            let (mut proxy, _) = asked(&world).await;
            write(&mut proxy, ESTABLISHED).await;
            read_until(&mut proxy, "\r\n\r\n").await;
            write(&mut proxy, OK).await;
            assert_eq!(read_response(&mut client).await.1, "ok");
        } else {
            let (_, body) = read_response(&mut client).await;
            let says = format!("{name}:{}: its name cannot be resolved", world.port());
            assert!(body.contains(&says), "{body}");
        }
        drop(client);
        world.end().await;
    }
}

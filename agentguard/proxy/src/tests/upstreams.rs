//! Upstreams that are reached and verified as an entry says.

use agentguard_model::{Decision, Reason, ReasonCode, UpstreamEntry, Verdict};
use http::{Method, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::authority::Authority;
use super::inspect::{NAME, client, request, serve_one};
use super::{Plan, Rules, World, assert_reset, by_name, read_some, silent, soon, write};
use crate::Limits;

/// What a request inside TLS is answered, where the upstream is this one.
async fn answered(world: &World, config: Arc<ServerConfig>) -> (StatusCode, String) {
    let talking = async {
        let stream = client(world, world.authority.roots(), &["http/1.1"]).await;
        let io = TokioIo::new(stream.unwrap());
        let (mut sender, driver) = http1::handshake(io).await.unwrap();
        tokio::spawn(driver);
        let asked = request(Version::HTTP_11, Method::GET, "/ok", "");
        let response = soon(sender.send_request(asked)).await.unwrap();
        let status = response.status();
        let body = soon(response.into_body().collect()).await.unwrap();
        let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
        (status, text)
    };
    // A guard whose connection turns out closed before anything was sent tries another.
    let upstream = async {
        loop {
            let serving = serve_one(world.accept().await, Arc::clone(&config));
            // A guard that is refused, or refuses, leaves.
            tokio::spawn(async { tokio::spawn(serving).await.ok() });
        }
    };
    tokio::select! {
        answered = talking => answered,
        () = upstream => unreachable!("it accepts for ever"),
    }
}

pub(super) fn unknown() -> Result<Vec<IpAddr>, Reason> {
    let code = ReasonCode::NameUnknown;
    Err(Reason::new(code, "there is no such name"))
}

#[tokio::test]
async fn what_is_inspected_waits_until_certificates_and_keys_are_read() {
    let plan = Plan {
        trusts: false,
        ..by_name(Rules::Inspect)
    };
    let world = plan.build().await;
    let config = world.upstreams.server(NAME, &["http/1.1"]);
    let mut resolved = world.resolved.subscribe();
    let read = async {
        resolved.wait_for(|count| *count == 1).await.unwrap();
        let shared = world.shared.clone();
        let reading = tokio::task::spawn_blocking(move || shared.trust(&[]));
        reading.await.unwrap().unwrap();
    };
    let (answered, ()) = tokio::join!(answered(&world, config), soon(read));
    assert_eq!(answered.0, StatusCode::OK, "{answered:?}");
    let decisions = world.end().await;
    assert!(decisions.iter().all(|it| it.verdict == Verdict::Allow));
}

#[tokio::test]
async fn an_address_of_an_entry_stands_in_for_those_of_the_name() {
    let plan = Plan {
        addresses: unknown(),
        entry: |entry, _| entry.address = Some((Ipv4Addr::LOCALHOST.into(), None)),
        ..by_name(Rules::Allow)
    };
    let world = plan.build().await;
    let mut client = world.connect().await;
    write(&mut client, "\0hello").await;
    let mut upstream = world.accept().await;
    assert_eq!(read_some(&mut upstream, 6).await, b"\0hello");
    // The policy is asked about the name: the operator vouches for the address.
    world.change(Rules::ButOneAddress);
    write(&mut client, "more").await;
    assert_eq!(read_some(&mut upstream, 4).await, b"more");
    world.change(Rules::Deny);
    assert_reset(&mut client).await;
    let decisions = world.end().await;
    assert_eq!(decisions[0].verdict, Verdict::Allow);
    assert_eq!(decisions[0].action.ip, None);
}

#[tokio::test]
async fn a_server_name_of_an_entry_is_the_one_that_is_verified() {
    let plan = || Plan {
        entry: |entry, _| entry.server_name = Some("inner.example".parse().unwrap()),
        ..by_name(Rules::Inspect)
    };
    let world = plan().build().await;
    let config = world.upstreams.server("inner.example", &["http/1.1"]);
    let (status, text) = answered(&world, config).await;
    assert_eq!(status, StatusCode::OK);
    // What is asked for inside is what the client asked for.
    assert!(text.starts_with(&format!("GET /ok {NAME} ")), "{text}");
    let world = plan().build().await;
    let config = world.upstreams.server(NAME, &["http/1.1"]);
    let (status, text) = answered(&world, config).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(text.contains("upstream_untrusted"), "{text}");
}

#[tokio::test]
async fn an_identity_of_an_entry_is_shown_to_who_asks() {
    let known = Plan {
        entry: |entry, upstreams| entry.identity = Some(upstreams.identity("guard.example")),
        ..by_name(Rules::Inspect)
    };
    for (plan, expected) in [
        (known, StatusCode::OK),
        (by_name(Rules::Inspect), StatusCode::BAD_GATEWAY),
    ] {
        let world = plan.build().await;
        let config = world.upstreams.strict_server(NAME, &["http/1.1"]);
        let (status, text) = answered(&world, config).await;
        assert_eq!(status, expected, "{text}");
    }
}

/// Whoever the upstream is, it is not who it should be: a reason, and the fix.
#[tokio::test]
async fn an_upstream_that_cannot_be_verified_is_answered_for() {
    let world = by_name(Rules::Inspect).build().await;
    let another = Authority::new("somebody else");
    let protocols = &["http/1.1"];
    for (what, config) in [
        ("expired", world.upstreams.server_between(NAME, 2020, 2021)),
        (
            "not yet valid",
            world.upstreams.server_between(NAME, 2090, 2091),
        ),
        (
            "for another name",
            world.upstreams.server("other.example", protocols),
        ),
        ("of another authority", another.server(NAME, protocols)),
    ] {
        let (status, text) = answered(&world, config).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{what}: {text}");
        assert!(text.contains("upstream_untrusted"), "{what}: {text}");
        assert!(text.contains("`upstreams`"), "{what}: {text}");
    }
    let decisions = world.end().await;
    assert_eq!(decisions.len(), 4);
    let told = |decision: &Decision| {
        let outcome = decision.outcome.as_ref().unwrap();
        (outcome.status, outcome.bytes.sent)
    };
    assert!(
        decisions
            .iter()
            .all(|decision| told(decision) == (Some(502), 0))
    );
}

#[tokio::test]
async fn a_certificate_that_was_revoked_is_refused_and_so_is_what_an_old_list_says_nothing_of() {
    fn until(until: i32) -> Plan {
        let entry: fn(&mut UpstreamEntry, &Authority) = match until {
            2090 => |entry, upstreams| entry.revocations = vec![upstreams.revocations(&[7], 2090)],
            _ => |entry, upstreams| entry.revocations = vec![upstreams.revocations(&[7], 2021)],
        };
        Plan {
            entry,
            ..by_name(Rules::Inspect)
        }
    }
    for (plan, serial, told) in [
        (until(2090), 8, None),
        (until(2090), 7, Some("its authority has revoked it")),
        (until(2021), 8, Some("that `crl` names")),
        (by_name(Rules::Inspect), 7, None),
    ] {
        let world = plan.build().await;
        let config = world.upstreams.server_numbered(NAME, serial);
        let (status, text) = answered(&world, config).await;
        match told {
            None => assert_eq!(status, StatusCode::OK, "{text}"),
            Some(told) => {
                assert_eq!(status, StatusCode::BAD_GATEWAY, "{text}");
                assert!(text.contains("upstream_untrusted"), "{text}");
                assert!(text.contains(told), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn the_second_connection_does_not_wait_for_a_dead_address() {
    let (dead, _hold) = silent().await;
    let stagger = Duration::from_secs(2);
    let plan = Plan {
        addresses: Ok(vec![dead.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST)]),
        upstream_port: dead.port(),
        limits: Limits {
            dial_stagger: stagger,
            ..Limits::default()
        },
        ..by_name(Rules::Allow)
    };
    let world = plan.build().await;
    for waits in [true, false] {
        let begun = Instant::now();
        let mut client = world.connect().await;
        write(&mut client, "\0hello").await;
        let mut upstream = world.accept().await;
        assert_eq!(read_some(&mut upstream, 6).await, b"\0hello");
        assert_eq!(begun.elapsed() >= stagger, waits);
    }
    world.end().await;
}

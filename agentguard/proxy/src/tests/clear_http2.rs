//! HTTP/2 in the clear, by clients that know it (RFC 9113, 3.3).

use agentguard_model::{ReasonCode, Verdict};
use http::{Method, StatusCode, Version};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::inspect::{NAME, answer, request, text};
use super::{Rules, World, by_name, codes, read_until, soon, write};

type Body = http_body_util::Full<bytes::Bytes>;

async fn client(world: &World) -> SendRequest<Body> {
    let io = TokioIo::new(world.connect().await);
    let (sender, driver) = handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(driver);
    sender
}

async fn ask(
    sender: &mut SendRequest<Body>,
    target: &str,
) -> (StatusCode, String, Option<http::HeaderMap>) {
    let mut asked = request(Version::HTTP_2, Method::GET, "/", "");
    *asked.uri_mut() = target.parse().unwrap();
    text(soon(sender.send_request(asked)).await.unwrap()).await
}

#[tokio::test]
async fn each_request_is_decided_and_what_is_allowed_is_carried_as_it_came() {
    let world = by_name(Rules::Requests).build().await;
    let mut sender = client(&world).await;
    let port = world.port();
    let denied = ask(&mut sender, &format!("http://{NAME}:{port}/no")).await;
    assert_eq!(denied.0, StatusCode::FORBIDDEN);
    let other = ask(&mut sender, &format!("http://other.example:{port}/ok")).await;
    assert_eq!(other.0, StatusCode::MISDIRECTED_REQUEST);
    let scheme = ask(&mut sender, &format!("https://{NAME}:{port}/ok")).await;
    assert_eq!(scheme.0, StatusCode::BAD_REQUEST);
    let serving = async {
        let io = TokioIo::new(world.accept().await);
        tokio::spawn(async move {
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(io, service_fn(answer)).await;
        });
    };
    let target = format!("http://{NAME}:{port}/ok");
    let (allowed, ()) = tokio::join!(ask(&mut sender, &target), serving);
    assert_eq!(allowed.0, StatusCode::OK);
    let said = format!("GET /ok {NAME}:{port} 0 HTTP/2.0 ");
    assert_eq!(allowed.1, said);
    assert_eq!(allowed.2.unwrap().get("x-answered").unwrap(), "yes");
    drop(sender);
    let expected = [
        (Verdict::Deny, ReasonCode::NoRule),
        (Verdict::Deny, ReasonCode::NameMismatch),
        (Verdict::Deny, ReasonCode::HttpMalformed),
        (Verdict::Allow, ReasonCode::RuleAllow),
    ];
    assert_eq!(codes(&world.end().await), expected);
}

#[tokio::test]
async fn an_upstream_that_does_not_know_it_is_a_502() {
    let world = by_name(Rules::Requests).build().await;
    let mut sender = client(&world).await;
    let serving = async {
        let mut upstream = world.accept().await;
        read_until(&mut upstream, "SM\r\n\r\n").await;
        write(&mut upstream, "HTTP/1.1 400 Bad Request\r\n\r\n").await;
    };
    let target = format!("http://{NAME}:{}/ok", world.port());
    let (answer, ()) = tokio::join!(ask(&mut sender, &target), serving);
    assert_eq!(answer.0, StatusCode::BAD_GATEWAY);
    drop(sender);
    let allowed = (Verdict::Allow, ReasonCode::RuleAllow);
    assert_eq!(codes(&world.end().await), [allowed]);
}

/// Whoever is not served HTTP/1 either.
#[tokio::test]
async fn what_only_begins_like_it_is_refused_and_recorded() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    write(
        &mut client,
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    )
    .await;
    let _ = super::read_all(&mut client).await;
    drop(client);
    let malformed = (Verdict::Deny, ReasonCode::HttpMalformed);
    assert_eq!(codes(&world.end().await), [malformed]);
}

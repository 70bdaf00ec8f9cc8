//! Streams of HTTP/2 that are reset, and whose fault that is.

use std::sync::Arc;

use agentguard_model::{ReasonCode, Verdict};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Method, Response, Version};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use super::inspect::{NAME, client, request};
use super::{Rules, by_name, codes, soon};

/// The client is told the upstream's reason, and is not blamed for it.
#[tokio::test]
async fn an_upstream_that_resets_a_stream_is_not_the_client_s_fault() {
    let world = by_name(Rules::Inspect).build().await;
    let config = world.upstreams.server(NAME, &["h2"]);
    let shaking = client(&world, world.authority.roots(), &["h2"]);
    let upstream = async { TlsAcceptor::from(config).accept(world.accept().await).await };
    let (stream, upstream) = tokio::join!(shaking, upstream);
    let begun = Arc::new(Notify::new());
    let broken = Arc::clone(&begun);
    let breaking = service_fn(move |_| {
        let broken = Arc::clone(&broken);
        let reset = async move {
            broken.notified().await;
            Err(h2::Error::from(h2::Reason::PROTOCOL_ERROR))
        };
        let said = stream::once(async { Ok(Frame::data(Bytes::from("begun"))) });
        let said = StreamBody::new(Box::pin(said.chain(stream::once(reset))));
        async { Ok::<_, h2::Error>(Response::new(said)) }
    });
    let serving = tokio::spawn(async move {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let io = TokioIo::new(upstream.unwrap());
        let _ = builder.serve_connection(io, breaking).await;
    });
    let io = TokioIo::new(stream.unwrap());
    let (mut sender, driver) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(driver);
    let asked = request(Version::HTTP_2, Method::GET, "/ok", "");
    let answer = soon(sender.send_request(asked)).await.unwrap();
    begun.notify_one();
    let error = soon(answer.into_body().collect()).await.unwrap_err();
    assert!(format!("{error:?}").contains("PROTOCOL_ERROR"), "{error:?}");
    drop(sender);
    let decisions = world.end().await;
    let allowed = (Verdict::Allow, ReasonCode::RuleAllow);
    assert_eq!(codes(&decisions), [allowed]);
    let outcome = decisions[0].outcome.as_ref().unwrap();
    let error = outcome.error.as_ref().unwrap();
    assert!(error.contains("the upstream broke off"), "{error}");
    serving.abort();
}

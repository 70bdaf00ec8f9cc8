use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentguard_decision::{RecordRefused, Recorder};
use agentguard_model::contents::Contents;
use agentguard_model::{AgentName, Decision, DecisionId, Endpoint, Header, Otlp, Outcome};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use prost::Message as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::send;
use crate::tally::tests::{call, decision, outcome};
use crate::{Spans, Watched, parts};

#[derive(Clone)]
struct Nothing;

impl Recorder for Nothing {
    async fn write(&self, decision: Box<Decision>) -> Result<DecisionId, RecordRefused> {
        Ok(decision.id)
    }

    fn outcome(&self, _: DecisionId, _: Outcome) {}

    fn contents(&self, _: DecisionId, _: &AgentName, _: Contents) {}
}

/// What came to a collector: path, a header field, and content.
type Came = Arc<Mutex<Vec<(String, String, Bytes)>>>;

/// Answers each request with the next status; with the last one from then on.
async fn collector(
    listener: TcpListener,
    statuses: Vec<u16>,
    came: Came,
    tls: Option<TlsAcceptor>,
) {
    let statuses = Arc::new(Mutex::new(statuses));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (came, statuses) = (came.clone(), statuses.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (came, statuses) = (came.clone(), statuses.clone());
            async move {
                let path = request.uri().path().to_owned();
                let field = request
                    .headers()
                    .get("authorization")
                    .map(|it| it.to_str().unwrap().to_owned());
                assert_eq!(request.headers()["content-type"], "application/x-protobuf");
                let content = request.into_body().collect().await?.to_bytes();
                came.lock()
                    .unwrap()
                    .push((path, field.unwrap_or_default(), content));
                let mut statuses = statuses.lock().unwrap();
                let status = if statuses.len() > 1 {
                    statuses.remove(0)
                } else {
                    statuses[0]
                };
                let mut response = Response::new(Full::new(Bytes::new()));
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                Ok::<_, hyper::Error>(response)
            }
        });
        match &tls {
            Some(tls) => {
                // A client that does not trust it goes away.
                if let Ok(stream) = tls.accept(stream).await {
                    tokio::spawn(
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                    );
                }
            }
            None => {
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        }
    }
}

fn otlp(port: u16, interval: Duration) -> Otlp {
    Otlp {
        endpoint: Endpoint {
            tls: false,
            host: "127.0.0.1".to_owned(),
            port,
            path: "/in".to_owned(),
        },
        headers: vec![Header {
            name: "authorization".to_owned(),
            value: "Bearer x".to_owned(),
        }],
        certificates: Vec::new(),
        interval,
        resource: BTreeMap::from([
            ("host.name".to_owned(), "h".to_owned()),
            ("a".to_owned(), "b".to_owned()),
        ]),
    }
}

async fn until<T>(mut found: impl FnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = found() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(30), looking)
        .await
        .expect("it does not come")
}

fn said(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let value = |it: &KeyValue| match it.value.as_ref().unwrap().value.as_ref().unwrap() {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes
        .iter()
        .map(|it| (it.key.clone(), value(it)))
        .collect()
}

#[tokio::test]
async fn spans_wait_for_a_collector_that_fails_for_a_while_and_figures_are_sums_that_need_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let said_so = otlp(
        listener.local_addr().unwrap().port(),
        Duration::from_secs(600),
    );
    let came = Came::default();
    tokio::spawn(collector(listener, vec![503, 200], came.clone(), None));
    let (feed, figures, counting, spans) = parts(true);
    let over = CancellationToken::new();
    tokio::spawn(counting.run(over.clone()));
    let client = Client::new(&said_so, &[]).unwrap();
    let sending = tokio::spawn(send(said_so, client, figures.clone(), spans, over.clone()));
    let watched = Watched::new(Nothing, Some(feed));
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut allowed = call("gpt-5");
    allowed["trace_parent"] = json!(parent);
    allowed["context"] = json!({"trace_id": "ab"});
    let id = watched
        .write(decision(0x0123_4567, &allowed))
        .await
        .unwrap();
    let usage = json!({"input_tokens": 100, "output_tokens": 7, "cache_read_tokens": 3});
    let answer = json!({"status": 200, "llm": {"model": "gpt-5-1", "usage": usage, "finish_reason": "stop"}});
    watched.outcome(id, outcome(&answer));
    let tries = || {
        let came = came.lock().unwrap();
        let spans = came.iter().filter(|(path, ..)| path == "/in/v1/traces");
        let spans: Vec<_> = spans.cloned().collect();
        (spans.len() == 2).then_some(spans)
    };
    let tries = until(tries).await;
    assert_eq!(tries[0], tries[1]);
    assert_eq!(tries[0].1, "Bearer x");
    let request = ExportTraceServiceRequest::decode(tries[0].2.clone()).unwrap();
    let resource = said(
        &request.resource_spans[0]
            .resource
            .as_ref()
            .unwrap()
            .attributes,
    );
    let own = |key: &str| resource[key].as_str();
    assert_eq!(
        (own("service.name"), own("host.name"), own("a")),
        ("agentguard", "h", "b")
    );
    let spans = &request.resource_spans[0].scope_spans[0].spans;
    let [span] = spans.as_slice() else {
        panic!("{spans:?}");
    };
    assert_eq!(span.name, "chat gpt-5");
    assert_eq!(span.trace_id, id.0.to_bytes());
    assert_eq!((span.span_id.len(), span.parent_span_id.len()), (8, 0));
    assert_eq!(
        span.end_time_unix_nano - span.start_time_unix_nano,
        1_500_000_000
    );
    assert!(span.status.is_none());
    let link = &span.links[0];
    assert_eq!((link.trace_id[0], link.span_id[0]), (0x0a, 0xb7));
    assert_eq!(said(&link.attributes)["agentguard.link.source"], "agent");
    let attributes = said(&span.attributes);
    for (key, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "azure.ai.openai"),
        ("gen_ai.request.model", "gpt-5"),
        ("gen_ai.request.max_tokens", "99"),
        ("gen_ai.response.model", "gpt-5-1"),
        ("gen_ai.usage.input_tokens", "100"),
        ("gen_ai.usage.output_tokens", "7"),
        ("gen_ai.usage.cache_read.input_tokens", "3"),
        ("server.address", "api.openai.com"),
        ("http.response.status_code", "200"),
        ("agentguard.decision.id", &id.to_string()),
        ("agentguard.verdict", "allow"),
        ("agentguard.reason", "rule_allow"),
        ("agentguard.agent", "coder"),
        ("agentguard.run.trace_id", "ab"),
    ] {
        assert_eq!(
            attributes.get(key).map(String::as_str),
            Some(value),
            "{key}: {attributes:?}"
        );
    }
    assert!(!attributes.contains_key("error.type"));
    until(|| (figures.health().sent == 1).then_some(())).await;
    let health = figures.health();
    assert_eq!(
        (health.failed, health.lost_spans, health.error),
        (1, 0, None)
    );
    // The last figures come when it ends.
    over.cancel();
    sending.await.unwrap();
    let came = came.lock().unwrap();
    let (path, _, content) = came.last().unwrap();
    assert_eq!(path, "/in/v1/metrics");
    let request = ExportMetricsServiceRequest::decode(content.clone()).unwrap();
    let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
    let tokens = metrics
        .iter()
        .find(|it| it.name == "gen_ai.client.token.usage")
        .unwrap();
    let Some(Data::Histogram(tokens)) = &tokens.data else {
        panic!("{tokens:?}");
    };
    let sums: Vec<_> = tokens
        .data_points
        .iter()
        .map(|it| (it.sum, it.count))
        .collect();
    assert_eq!(sums, [(Some(100.0), 1), (Some(7.0), 1)]);
    let point = &tokens.data_points[0];
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    assert_eq!(said(&point.attributes)["gen_ai.token.type"], "input");
    let decisions = metrics
        .iter()
        .find(|it| it.name == "agentguard.decisions")
        .unwrap();
    assert!(
        matches!(&decisions.data, Some(Data::Sum(sum)) if sum.is_monotonic && sum.aggregation_temporality == 2)
    );
}

#[tokio::test]
async fn what_a_collector_refuses_for_good_is_lost_and_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let said_so = otlp(
        listener.local_addr().unwrap().port(),
        Duration::from_secs(600),
    );
    let came = Came::default();
    tokio::spawn(collector(listener, vec![400], came.clone(), None));
    let (_, figures, _, _) = parts(true);
    let (sender, made) = tokio::sync::mpsc::channel(8);
    let denied = json!({"verdict": "deny", "reason": {"code": "rule_deny", "message": "m"}});
    let mut changes = call("m");
    changes
        .as_object_mut()
        .unwrap()
        .extend(denied.as_object().unwrap().clone());
    let decided = crate::watched::Decided::of(&decision(9, &changes));
    let span = super::spans::span(&decided, None).unwrap();
    assert_eq!(said(&span.0.attributes)["error.type"], "rule_deny");
    assert_eq!(span.0.start_time_unix_nano, span.0.end_time_unix_nano);
    sender.send(span).await.unwrap();
    let client = Client::new(&said_so, &[]).unwrap();
    let over = CancellationToken::new();
    tokio::spawn(send(
        said_so,
        client,
        figures.clone(),
        Spans(made),
        over.clone(),
    ));
    until(|| (figures.health().lost_spans == 1).then_some(())).await;
    let told = figures.health().error.unwrap();
    assert!(told.contains("400"), "{told}");
    over.cancel();
}

#[tokio::test]
async fn a_collector_is_verified_and_one_that_is_not_trusted_gets_nothing() {
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![own.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut said_so = otlp(
        listener.local_addr().unwrap().port(),
        Duration::from_secs(600),
    );
    said_so.endpoint.tls = true;
    let came = Came::default();
    tokio::spawn(collector(
        listener,
        vec![200],
        came.clone(),
        Some(TlsAcceptor::from(Arc::new(config))),
    ));
    let request = ExportTraceServiceRequest::default();
    let stranger = Client::new(&said_so, &[]).unwrap();
    let failed = stranger.traces(&request).await.unwrap_err();
    assert!(
        failed.to_string().contains("certificate") && failed.later,
        "{failed}"
    );
    assert!(came.lock().unwrap().is_empty());
    let system = [CertificateDer::from(own.der().to_vec())];
    assert_eq!(
        Client::new(&said_so, &system)
            .unwrap()
            .traces(&request)
            .await
            .unwrap(),
        0
    );
    said_so.certificates = vec![own.der().to_vec()];
    assert_eq!(
        Client::new(&said_so, &[])
            .unwrap()
            .traces(&request)
            .await
            .unwrap(),
        0
    );
    assert_eq!(came.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_hangs_is_given_up_and_the_queue_of_spans_has_a_bound() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let said_so = otlp(
        listener.local_addr().unwrap().port(),
        Duration::from_secs(600),
    );
    let client = Client::new(&said_so, &[]).unwrap();
    let begun = tokio::time::Instant::now();
    let failed = client
        .traces(&ExportTraceServiceRequest::default())
        .await
        .unwrap_err();
    assert!(
        failed.to_string().contains("does not answer") && failed.later,
        "{failed}"
    );
    assert_eq!(begun.elapsed(), super::client::REQUEST);
}

/// A call of a tool that this server declares, as it is written.
fn tool(name: &str) -> serde_json::Value {
    json!({
        "action": {
            "kind": "tool_call", "host": "mcp.example.com", "port": 8443,
            "tool": {"server": "files", "name": name, "method": "tools/call", "id": "7"},
        },
        "matched": [{"engine": "rules", "rule": "read-files", "source": {"file": "p", "line": 1}}],
    })
}

#[test]
fn a_call_of_a_tool_is_a_span() {
    let span = |changes: &serde_json::Value, outcome: Option<&Outcome>| {
        let decided = crate::watched::Decided::of(&decision(9, changes));
        super::spans::span(&decided, outcome).map(|span| span.0)
    };
    let well = json!({"status": 200, "tool": {"results": [{"id": "7", "is_error": false}]}});
    let made = span(&tool("read"), Some(&outcome(&well))).unwrap();
    assert_eq!(made.name, "execute_tool read");
    assert_eq!(
        made.end_time_unix_nano - made.start_time_unix_nano,
        1_500_000_000
    );
    assert!(made.status.is_none(), "{made:?}");
    let attributes = said(&made.attributes);
    for (key, value) in [
        ("gen_ai.operation.name", "execute_tool"),
        ("gen_ai.tool.name", "read"),
        ("agentguard.tool.server", "files"),
        ("server.address", "mcp.example.com"),
        ("server.port", "8443"),
        ("http.response.status_code", "200"),
        ("agentguard.verdict", "allow"),
        ("agentguard.rule", "read-files"),
        ("agentguard.agent", "coder"),
    ] {
        let said = attributes.get(key).map(String::as_str);
        assert_eq!(said, Some(value), "{key}: {attributes:?}");
    }
    // Arguments are nobody's but the record's.
    assert!(!attributes.keys().any(|key| key.contains("argument")));

    // One that was refused has not lasted.
    let mut denied = tool("write");
    let denial = json!({"verdict": "deny", "reason": {"code": "no_rule", "message": "m"}});
    let denied_map = denied.as_object_mut().unwrap();
    denied_map.extend(denial.as_object().unwrap().clone());
    let made = span(&denied, None).unwrap();
    assert_eq!(made.name, "execute_tool write");
    assert_eq!(made.start_time_unix_nano, made.end_time_unix_nano);
    assert_eq!(said(&made.attributes)["error.type"], "no_rule");
    assert_eq!(made.status.unwrap().code, 2);

    // What its server says that failed.
    for result in [
        json!({"id": "7", "is_error": true}),
        json!({"id": "7", "error": -32602}),
    ] {
        let failed = json!({"status": 200, "tool": {"results": [result]}});
        let made = span(&tool("read"), Some(&outcome(&failed))).unwrap();
        assert_eq!(said(&made.attributes)["error.type"], "tool_error");
        assert_eq!(made.status.unwrap().code, 2);
    }

    // A name is its server's, or its client's, and is cut.
    let made = span(&tool(&"n".repeat(1000)), None).unwrap();
    assert_eq!(made.name.len(), "execute_tool ".len() + 256);

    // What is no call of a tool is none.
    let list = json!({"action": {"kind": "http_request", "host": "mcp.example.com",
        "tool": {"server": "files", "method": "tools/list", "id": "1"}}});
    assert!(span(&list, None).is_none());
}

//! `/metrics`, for Prometheus.
//!
//! HTTP/1.1, `GET` or `HEAD` of that one path, and nothing of what is sent matters but `Accept`. A few connections at
//! once and a few seconds for each: whoever can reach it cannot make it cost more.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::Figures;
use crate::catalogue::{Kind, underscored};
use crate::store::{Store, Value};

/// Connections at once. Further ones wait in the socket's queue.
const CONNECTIONS: usize = 4;
/// How long a connection may last, and one request of it be on its way.
const LASTS: Duration = Duration::from_secs(15);
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(5);
/// How long nothing is accepted after a failure.
const PAUSE: Duration = Duration::from_millis(100);

/// Content of `OpenMetrics` (1.0.0), as the library writes it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where Prometheus finds it.
pub enum Listening {
    /// At an address.
    Tcp(TcpListener),
    /// At a socket in the file system; asked of each client is whether it may read.
    Unix(UnixListener, Arc<dyn Fn(&UnixStream) -> bool + Send + Sync>),
}

/// Serves until told to stop.
pub async fn serve(listening: Listening, figures: Figures, shutdown: CancellationToken) {
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    let accepting = async {
        loop {
            let Ok(seat) = Arc::clone(&seats).acquire_owned().await else {
                return;
            };
            let (figures, accepted) = (figures.clone(), listening.accept().await);
            match accepted {
                Ok(Some(Stream::Tcp(stream))) => {
                    tokio::spawn(async move {
                        connection(stream, figures).await;
                        drop(seat);
                    });
                }
                Ok(Some(Stream::Unix(stream))) => {
                    tokio::spawn(async move {
                        connection(stream, figures).await;
                        drop(seat);
                    });
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "a client of the metrics was not accepted");
                    sleep(PAUSE).await;
                }
            }
        }
    };
    shutdown.run_until_cancelled(accepting).await;
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(UnixStream),
}

impl Listening {
    /// The next client; none, if it may not read.
    async fn accept(&self) -> std::io::Result<Option<Stream>> {
        match self {
            Self::Tcp(listener) => Ok(Some(Stream::Tcp(listener.accept().await?.0))),
            Self::Unix(listener, may_read) => {
                let (stream, _) = listener.accept().await?;
                Ok(may_read(&stream).then_some(Stream::Unix(stream)))
            }
        }
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin, figures: Figures) {
    let service = service_fn(|request| {
        let answer = answer(&request, &figures);
        async { Ok::<_, Infallible>(answer) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    // What ends it, ends it.
    drop(timeout(LASTS, serving).await);
}

fn answer(request: &Request<Incoming>, figures: &Figures) -> Response<Full<Bytes>> {
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            let open = wants_open_metrics(request.headers());
            match encode(figures, open) {
                Ok(text) => {
                    let kind = if open {
                        OPEN_METRICS
                    } else {
                        prometheus_text::CONTENT_TYPE
                    };
                    (StatusCode::OK, HeaderValue::from_static(kind), text)
                }
                Err(fmt::Error) => (StatusCode::INTERNAL_SERVER_ERROR, plain, String::new()),
            }
        }
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, plain, "GET\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, plain, "/metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

/// Prometheus puts what it likes best first; whoever names neither gets the older one.
fn wants_open_metrics(fields: &HeaderMap) -> bool {
    let accepted = fields.get_all(header::ACCEPT).iter();
    accepted
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("application/openmetrics-text"))
}

/// All figures as text.
pub(crate) fn encode(figures: &Figures, open_metrics: bool) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Now(figures.now())));
    let mut text = String::new();
    match open_metrics {
        true => text::encode(&mut text, &registry)?,
        false => prometheus_text::encode(&mut text, &registry)?,
    }
    Ok(text)
}

/// The figures at a moment.
#[derive(Debug)]
struct Now(Store);

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in self.0.families() {
            let metric = family.metric;
            let unit = match metric.unit {
                "s" => Some(Unit::Seconds),
                "By" => Some(Unit::Bytes),
                _ => None,
            };
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram(_) => MetricType::Histogram,
            };
            let name = metric.family();
            let mut encoder = encoder.encode_descriptor(&name, metric.help, unit.as_ref(), kind)?;
            for (values, value) in &family.series {
                let labels = metric.labels.iter().map(|label| underscored(label.name));
                let labels: Vec<_> = labels
                    .zip(values.clone())
                    .filter(|(_, value)| !value.is_empty())
                    .collect();
                match labels.is_empty() {
                    true => series(&mut encoder, value)?,
                    false => series(&mut encoder.encode_family(&labels)?, value)?,
                }
            }
        }
        Ok(())
    }
}

fn series(encoder: &mut MetricEncoder<'_>, value: &Value) -> fmt::Result {
    match value {
        Value::Count(count) => encoder.encode_counter::<NoLabelSet, u64, f64>(count, None),
        Value::Level(level) => encoder.encode_gauge(level),
        Value::Spread(spread) => {
            let bounds = spread.bounds.iter().copied().chain([f64::INFINITY]);
            let buckets: Vec<_> = bounds.zip(spread.counts.iter().copied()).collect();
            encoder.encode_histogram::<NoLabelSet>(spread.sum, spread.count, &buckets, None)
        }
    }
}

#[cfg(test)]
mod tests;

//! One request to the collector: a connection of its own, bounded in time and size.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use agentguard_model::{Endpoint, Otlp};
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long a request may take in all, from the look-up of the name on.
pub(super) const REQUEST: Duration = Duration::from_secs(10);
/// The most that is read of an answer.
const MAX_ANSWER: usize = 64 * 1024;

/// Knows where the collector is, and how to speak to it.
pub struct Client {
    endpoint: Endpoint,
    fields: HeaderMap,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// The collector did not take it.
#[derive(Debug)]
pub(super) struct Failed {
    why: String,
    /// Whether it may later.
    pub(super) later: bool,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Failed {
    fn later(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            later: true,
        }
    }
}

impl Client {
    /// For a collector that is certified by one of `system` or of its own authorities.
    ///
    /// # Errors
    /// A certificate cannot be an authority, a name cannot be verified, a field cannot be sent.
    pub fn new(otlp: &Otlp, system: &[CertificateDer<'static>]) -> Result<Self, String> {
        let mut fields = HeaderMap::new();
        for field in &otlp.headers {
            let name: HeaderName = field
                .name
                .parse()
                .map_err(|_| "a header's name is none".to_owned())?;
            let mut value = HeaderValue::try_from(&field.value)
                .map_err(|_| format!("the value of {name} is none"))?;
            value.set_sensitive(true);
            fields.append(name, value);
        }
        Ok(Self {
            tls: otlp.endpoint.tls.then(|| tls(otlp, system)).transpose()?,
            endpoint: otlp.endpoint.clone(),
            fields,
        })
    }

    pub(super) async fn metrics(
        &self,
        request: &ExportMetricsServiceRequest,
    ) -> Result<(), Failed> {
        let answer = self.post("/v1/metrics", request.encode_to_vec()).await?;
        let said = ExportMetricsServiceResponse::decode(answer).unwrap_or_default();
        match said.partial_success {
            Some(partial) if partial.rejected_data_points > 0 => Err(Failed {
                why: format!(
                    "the collector rejected {} of the figures",
                    partial.rejected_data_points
                ),
                later: false,
            }),
            _ => Ok(()),
        }
    }

    /// How many spans were rejected.
    pub(super) async fn traces(&self, request: &ExportTraceServiceRequest) -> Result<u64, Failed> {
        let answer = self.post("/v1/traces", request.encode_to_vec()).await?;
        let said = ExportTraceServiceResponse::decode(answer).unwrap_or_default();
        let rejected = said
            .partial_success
            .map_or(0, |partial| partial.rejected_spans);
        Ok(u64::try_from(rejected).unwrap_or(0))
    }

    async fn post(&self, path: &str, content: Vec<u8>) -> Result<Bytes, Failed> {
        let posting = self.exchange(path, content);
        let late = || {
            Failed::later(format!(
                "{} does not answer within {REQUEST:?}",
                self.endpoint
            ))
        };
        timeout(REQUEST, posting)
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    async fn exchange(&self, path: &str, content: Vec<u8>) -> Result<Bytes, Failed> {
        let broken = |error: io::Error| {
            Failed::later(format!("{} cannot be reached: {error}", self.endpoint))
        };
        let place = (self.endpoint.host.as_str(), self.endpoint.port);
        let stream = TcpStream::connect(place).await.map_err(broken)?;
        match &self.tls {
            Some((connector, name)) => {
                let stream = connector
                    .connect(name.clone(), stream)
                    .await
                    .map_err(broken)?;
                self.over(stream, path, content).await
            }
            None => self.over(stream, path, content).await,
        }
    }

    async fn over<S>(&self, stream: S, path: &str, content: Vec<u8>) -> Result<Bytes, Failed>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let broken =
            |error: &dyn Error| Failed::later(format!("{} broke off: {error}", self.endpoint));
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| broken(&error))?;
        let request = self.request(path, content).map_err(|error| Failed {
            why: error.to_string(),
            later: false,
        })?;
        let exchange = async {
            let response = sender
                .send_request(request)
                .await
                .map_err(|error| broken(&error))?;
            let status = response.status();
            let content = Limited::new(response.into_body(), MAX_ANSWER)
                .collect()
                .await;
            let content = content.map_err(|error| broken(error.as_ref()))?.to_bytes();
            judge(status, content, &self.endpoint)
        };
        let mut exchange = std::pin::pin!(exchange);
        let mut connection = std::pin::pin!(connection);
        // Driven here and not by a task: it ends with the request, whatever the other side does.
        tokio::select! {
            biased;
            answer = &mut exchange => answer,
            _ = &mut connection => exchange.await,
        }
    }

    fn request(&self, path: &str, content: Vec<u8>) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::post(format!("{}{path}", self.endpoint.path));
        if let Some(fields) = request.headers_mut() {
            fields.extend(self.fields.clone());
        }
        request
            .header(header::HOST, self.endpoint.authority())
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header(
                header::USER_AGENT,
                concat!("agentguard/", env!("CARGO_PKG_VERSION")),
            )
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::from(content)))
    }
}

/// What the collector makes of it (OTLP 1.5, "OTLP/HTTP Response"): which failures pass is a list there.
fn judge(status: StatusCode, content: Bytes, endpoint: &Endpoint) -> Result<Bytes, Failed> {
    if status.is_success() {
        return Ok(content);
    }
    let later = matches!(status.as_u16(), 429 | 502..=504);
    Err(Failed {
        why: format!("{endpoint} answers {status}"),
        later,
    })
}

fn tls(
    otlp: &Otlp,
    system: &[CertificateDer<'static>],
) -> Result<(TlsConnector, ServerName<'static>), String> {
    let mut roots = RootCertStore::empty();
    // A system's store has certificates that cannot be used; the others are.
    roots.add_parsable_certificates(system.iter().cloned());
    for certificate in &otlp.certificates {
        let added = roots.add(CertificateDer::from(certificate.clone()));
        added.map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name =
        ServerName::try_from(otlp.endpoint.host.clone()).map_err(|error| error.to_string())?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

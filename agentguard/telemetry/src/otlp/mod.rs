//! OTLP over HTTP with Protobuf: figures at intervals, spans as they come.
//!
//! One task sends, one request at a time, each bounded in time. Spans wait in a queue with a bound and are tried again where the
//! collector says that it may take them later; figures are sums since the start, so that the next ones say what those
//! that were lost would have said.

pub mod client;
mod metrics;
pub mod spans;

use std::collections::VecDeque;
use std::time::Duration;

use agentguard_model::Otlp;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::{Figures, SPANS, Spans};
use client::{Client, Failed};
use spans::Span;

/// Spans in one request, at most.
const BATCH: usize = 256;
/// How long spans are gathered before they are sent.
const GATHER: Duration = Duration::from_secs(2);
/// The first pause after a failure, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long the last figures and spans may take when the guard stops.
const LAST: Duration = Duration::from_secs(2);

/// The version of the conventions whose words are used.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";

/// Sends until told to stop, and then once more.
pub async fn send(
    otlp: Otlp,
    client: Client,
    figures: Figures,
    spans: Spans,
    shutdown: CancellationToken,
) {
    let mut sender = Sender {
        resource: resource(&otlp),
        client,
        figures,
        waiting: VecDeque::new(),
        pause: Duration::ZERO,
    };
    let sending = sender.send(otlp.interval, spans);
    shutdown.run_until_cancelled(sending).await;
    // What takes longer is lost with the process.
    drop(timeout(LAST, sender.last()).await);
}

struct Sender {
    resource: Resource,
    client: Client,
    figures: Figures,
    /// Spans that were taken out of their queue and not sent, at most [`SPANS`].
    waiting: VecDeque<Span>,
    /// How long the collector is left alone after a failure.
    pause: Duration,
}

impl Sender {
    async fn send(&mut self, interval: Duration, Spans(mut spans): Spans) {
        let mut due = interval_at(Instant::now() + interval, interval);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = due.tick() => self.metrics().await,
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    let sent = self.spans().await;
                    next = match self.waiting.is_empty() {
                        true => None,
                        false if sent => Some(Instant::now()),
                        false => Some(Instant::now() + self.pause),
                    };
                }
                // Where there is no room they wait in their queue, and are counted there.
                Some(span) = spans.recv(), if self.waiting.len() < SPANS => {
                    self.waiting.push_back(span);
                    next.get_or_insert_with(|| Instant::now() + GATHER);
                }
                else => return,
            }
        }
    }

    async fn last(&mut self) {
        self.metrics().await;
        while !self.waiting.is_empty() && self.spans().await {}
    }

    async fn metrics(&mut self) {
        let request = metrics::request(&self.figures.now(), self.resource.clone());
        let sent = self.client.metrics(&request).await;
        if let Err(failed) = &sent {
            tracing::debug!(%failed, "the collector does not take the figures");
        }
        let told = sent.map_err(|failed| failed.to_string());
        self.figures.note_sent(
            |inner| &inner.metrics,
            told.as_ref().map(|_| ()).map_err(String::as_str),
        );
    }

    /// Sends the oldest spans, and says whether they are off the queue.
    async fn spans(&mut self) -> bool {
        let count = self.waiting.len().min(BATCH);
        let batch = self
            .waiting
            .iter()
            .take(count)
            .map(|span| span.0.clone())
            .collect();
        let request = spans::request(batch, self.resource.clone());
        let sent = self.client.traces(&request).await;
        let told = sent.as_ref().map(|_| ()).map_err(ToString::to_string);
        self.figures.note_sent(
            |inner| &inner.spans,
            told.as_ref().copied().map_err(String::as_str),
        );
        let lost = match sent {
            Ok(rejected) => {
                self.pause = Duration::ZERO;
                rejected.min(count as u64)
            }
            Err(Failed { later: true, .. }) => {
                self.pause = self.pause.saturating_mul(2).clamp(PAUSES.0, PAUSES.1);
                return false;
            }
            Err(_) => count as u64,
        };
        self.waiting.drain(..count);
        self.figures.lost_spans(lost);
        true
    }
}

/// What is said of this guard.
fn resource(otlp: &Otlp) -> Resource {
    let own = [
        ("service.name", "agentguard".to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("host.name", host_name()),
    ];
    let own = own
        .into_iter()
        .filter(|(key, _)| !otlp.resource.contains_key(*key));
    let own = own.map(|(key, value)| text(key, value));
    let said = otlp
        .resource
        .iter()
        .map(|(key, value)| text(key, value.clone()));
    Resource {
        attributes: own.chain(said).collect(),
        ..Resource::default()
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "agentguard".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn number(key: &str, value: u64) -> KeyValue {
    attribute(
        key,
        Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)),
    )
}

fn texts(key: &str, values: impl IntoIterator<Item = String>) -> KeyValue {
    let values = values.into_iter().map(|value| AnyValue {
        value: Some(Value::StringValue(value)),
    });
    attribute(
        key,
        Value::ArrayValue(ArrayValue {
            values: values.collect(),
        }),
    )
}

#[cfg(test)]
mod tests;

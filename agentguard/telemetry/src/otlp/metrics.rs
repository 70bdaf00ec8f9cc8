//! The figures as OTLP has them: sums since a start.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::{SCHEMA, scope, text};
use crate::catalogue::{Kind, Since};
use crate::store::{Family, Store, Value};

pub(super) fn request(store: &Store, resource: Resource) -> ExportMetricsServiceRequest {
    let now = nanos(SystemTime::now());
    let filled = store.families().filter(|family| !family.series.is_empty());
    let scoped = ScopeMetrics {
        scope: Some(scope()),
        metrics: filled
            .map(|family| metric(family, nanos(store.started), now))
            .collect(),
        schema_url: SCHEMA.to_owned(),
    };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource),
            scope_metrics: vec![scoped],
            schema_url: SCHEMA.to_owned(),
        }],
    }
}

pub(super) fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn metric(family: &Family, started: u64, now: u64) -> Metric {
    let metric = family.metric;
    // 0: nobody knows.
    let since = match metric.since {
        Since::Worker => started,
        Since::Before => 0,
    };
    let attributes = |values: &[String]| -> Vec<KeyValue> {
        let labels = metric.labels.iter().zip(values);
        let there = labels.filter(|(_, value)| !value.is_empty());
        there
            .map(|(label, value)| text(label.name, value.as_str()))
            .collect()
    };
    let numbers = || {
        let points = family.series.iter().filter_map(|(values, value)| {
            let value = match value {
                Value::Count(count) => Number::AsInt(i64::try_from(*count).unwrap_or(i64::MAX)),
                Value::Level(level) => Number::AsDouble(*level),
                Value::Spread(_) => return None,
            };
            Some(NumberDataPoint {
                attributes: attributes(values),
                start_time_unix_nano: since,
                time_unix_nano: now,
                value: Some(value),
                ..NumberDataPoint::default()
            })
        });
        points.collect()
    };
    let cumulative = AggregationTemporality::Cumulative.into();
    let data = match metric.kind {
        Kind::Counter => Data::Sum(Sum {
            data_points: numbers(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        Kind::Gauge => Data::Gauge(Gauge {
            data_points: numbers(),
        }),
        Kind::Histogram(bounds) => {
            let points = family.series.iter().filter_map(|(values, value)| {
                let Value::Spread(spread) = value else {
                    return None;
                };
                Some(HistogramDataPoint {
                    attributes: attributes(values),
                    start_time_unix_nano: since,
                    time_unix_nano: now,
                    count: spread.count,
                    sum: Some(spread.sum),
                    bucket_counts: spread.counts.clone(),
                    explicit_bounds: bounds.to_vec(),
                    ..HistogramDataPoint::default()
                })
            });
            Data::Histogram(Histogram {
                data_points: points.collect(),
                aggregation_temporality: cumulative,
            })
        }
    };
    Metric {
        name: metric.name.to_owned(),
        description: metric.help.to_owned(),
        unit: metric.unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

//! What is counted: series by figure and labels.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::catalogue::{Id, Kind, MAX_SERIES, METRICS, Metric, OTHER, metric};

/// Bytes of a label's value, at most; the rest is cut off.
const MAX_VALUE: usize = 128;

/// All series.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(crate) started: SystemTime,
    families: Vec<Family>,
}

/// The series of one figure.
#[derive(Clone, Debug)]
pub(crate) struct Family {
    pub(crate) metric: &'static Metric,
    /// By the values of the labels, in the figure's order. An empty value is a label that is not there.
    pub(crate) series: BTreeMap<Vec<String>, Value>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Count(u64),
    Level(f64),
    Spread(Spread),
}

/// How values are distributed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) bounds: &'static [f64],
    /// For each bound how many were at most that and above the one before; the last is for the rest.
    pub(crate) counts: Vec<u64>,
    pub(crate) count: u64,
    pub(crate) sum: f64,
}

impl Store {
    pub(crate) fn new() -> Self {
        let family = |metric| Family {
            metric,
            series: BTreeMap::new(),
        };
        Self {
            started: SystemTime::now(),
            families: METRICS.iter().map(family).collect(),
        }
    }

    pub(crate) fn families(&self) -> impl Iterator<Item = &Family> {
        self.families.iter()
    }

    /// So many more.
    pub(crate) fn add(&mut self, id: Id, labels: &[&str], more: u64) {
        if let Some(Value::Count(count)) = self.entry(id, labels) {
            *count = count.saturating_add(more);
        }
    }

    /// So much now.
    #[expect(
        clippy::cast_precision_loss,
        reason = "figures, whose last digits nobody sees"
    )]
    pub(crate) fn level(&mut self, id: Id, labels: &[&str], now: u64) {
        if let Some(Value::Level(level)) = self.entry(id, labels) {
            *level = now as f64;
        }
    }

    /// So many microseconds now, told in seconds.
    pub(crate) fn time(&mut self, id: Id, labels: &[&str], us: u64) {
        if let Some(Value::Level(level)) = self.entry(id, labels) {
            *level = Duration::from_micros(us).as_secs_f64();
        }
    }

    /// One more value.
    pub(crate) fn observe(&mut self, id: Id, labels: &[&str], value: f64, times: u64) {
        if let Some(Value::Spread(spread)) = self.entry(id, labels) {
            spread.observe(value, times);
        }
    }

    /// The series of these labels; where there is no room for another, the one for all others.
    fn entry(&mut self, id: Id, labels: &[&str]) -> Option<&mut Value> {
        let family = self.families.get_mut(id as usize)?;
        let metric = metric(id)?;
        debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
        let mut key: Vec<String> = labels
            .iter()
            .map(|value| cut(value, MAX_VALUE).to_owned())
            .collect();
        if family.series.len() >= MAX_SERIES && !family.series.contains_key(&key) {
            for (value, label) in key.iter_mut().zip(metric.labels) {
                if label.open {
                    OTHER.clone_into(value);
                }
            }
        }
        Some(
            family
                .series
                .entry(key)
                .or_insert_with(|| match metric.kind {
                    Kind::Counter => Value::Count(0),
                    Kind::Gauge => Value::Level(0.0),
                    Kind::Histogram(bounds) => Value::Spread(Spread {
                        bounds,
                        counts: vec![0; bounds.len() + 1],
                        count: 0,
                        sum: 0.0,
                    }),
                }),
        )
    }
}

impl Spread {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a count of attempts, whose last digits nobody sees"
    )]
    fn observe(&mut self, value: f64, times: u64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(place) {
            *count = count.saturating_add(times);
        }
        self.count = self.count.saturating_add(times);
        self.sum += value * times as f64;
    }
}

/// The beginning of a text, so many bytes at most.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Store, Value};
    use crate::catalogue::{Id, MAX_SERIES};

    fn series(store: &Store, id: Id) -> &super::Family {
        store.families().nth(id as usize).unwrap()
    }

    #[test]
    fn a_figure_has_a_bound_beyond_which_what_is_open_in_its_labels_is_other() {
        let mut store = Store::new();
        for n in 0..2 * MAX_SERIES {
            store.add(Id::AgentTokens, &[&format!("agent-{n}"), "input"], 3);
        }
        store.add(Id::AgentTokens, &["late", "output"], 5);
        // One that has a series goes on counting in it.
        store.add(Id::AgentTokens, &["agent-0", "input"], 4);
        let family = series(&store, Id::AgentTokens);
        assert_eq!(family.series.len(), MAX_SERIES + 2);
        let count =
            |agent: &str, kind: &str| family.series.get(&vec![agent.to_owned(), kind.to_owned()]);
        assert_eq!(
            count("_other", "input"),
            Some(&Value::Count(3 * MAX_SERIES as u64))
        );
        assert_eq!(count("_other", "output"), Some(&Value::Count(5)));
        assert_eq!(count("agent-0", "input"), Some(&Value::Count(7)));
        assert_eq!(count("late", "output"), None);
    }

    #[test]
    fn a_value_counts_where_it_is_at_most_the_bound_and_is_cut_where_it_is_long() {
        let mut store = Store::new();
        let long = "ü".repeat(100);
        for (value, times) in [(0.5, 1), (1.0, 2), (1.1, 1), (1e9, 4)] {
            store.observe(Id::Tokens, &["input", "chat", "p", &long, ""], value, times);
        }
        let family = series(&store, Id::Tokens);
        let (key, value) = family.series.first_key_value().unwrap();
        assert_eq!(key[3], "ü".repeat(64));
        let Value::Spread(spread) = value else {
            panic!("{value:?}");
        };
        assert_eq!(
            (spread.counts[0], spread.counts[1], spread.counts[14]),
            (3, 1, 4)
        );
        assert_eq!(spread.count, 8);
        assert!((spread.sum - (0.5 + 2.0 + 1.1 + 4e9)).abs() < 1e-3);
    }
}

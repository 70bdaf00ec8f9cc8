use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use agentguard_model::{AgentName, Decision, DecisionId, ReasonCode, Verdict};
use jiff::Timestamp;
use proptest::prelude::*;
use ulid::Ulid;

use super::{Admission, Aggregator, Key};
use crate::entry::Count;

fn key(number: u16) -> Key {
    Key::Identical {
        agent: None,
        digest: number.into(),
    }
}

fn named(agent: &str, number: u16) -> Key {
    Key::Identical {
        agent: Some(name(agent)),
        digest: number.into(),
    }
}

fn name(text: &str) -> AgentName {
    text.parse().unwrap()
}

/// A log that only knows counts.
struct Log {
    aggregator: Aggregator,
    counts: HashMap<DecisionId, u64>,
    entries: u64,
    ids: u64,
}

impl Log {
    fn new(identical_per_second: u32) -> Self {
        Self {
            aggregator: Aggregator::new(identical_per_second),
            counts: HashMap::new(),
            entries: 0,
            ids: 0,
        }
    }

    fn attempt(&mut self, key: &Key, now: Instant) {
        let time = Timestamp::UNIX_EPOCH;
        let admission = self.aggregator.attempt(key, 1, time, now);
        if let Admission::Alone | Admission::Opens = admission {
            self.ids += 1;
            self.entries += 1;
            let id = DecisionId(Ulid::from_parts(0, u128::from(self.ids)));
            self.counts.insert(id, 1);
            if admission == Admission::Opens {
                let count = Count {
                    id,
                    count: 1,
                    last: time,
                };
                self.aggregator.open(key, count, 0, now);
            }
        }
    }

    fn flush(&mut self, now: Instant) {
        for update in self.aggregator.due(now) {
            self.entries += 1;
            self.counts.insert(update.count.id, update.count.count);
            self.aggregator.written(&update, now);
        }
    }

    fn touches(&self) -> usize {
        self.aggregator.by_touch.values().map(BTreeMap::len).sum()
    }

    fn sum(&self) -> u64 {
        self.counts.values().sum()
    }
}

#[test]
fn the_first_ten_of_a_second_are_written_and_the_rest_is_counted() {
    let mut log = Log::new(10);
    let begin = Instant::now();
    for _ in 0..100 {
        log.attempt(&key(1), begin);
    }
    assert_eq!((log.entries, log.sum()), (11, 11));
    log.flush(begin + Duration::from_secs(1));
    assert_eq!((log.entries, log.sum()), (12, 100));
    // The next second is quiet: the aggregate is closed, and later attempts stand alone.
    log.flush(begin + Duration::from_secs(2));
    log.attempt(&key(1), begin + Duration::from_millis(2_100));
    assert_eq!(log.sum(), 101);
    assert_eq!(log.counts.len(), 12);
}

#[test]
fn a_storm_costs_an_entry_a_second_and_a_record_a_minute() {
    let mut log = Log::new(10);
    let begin = Instant::now();
    for tick in 0..60_000 {
        let now = begin + Duration::from_millis(tick * 10);
        log.attempt(&key(1), now);
        if tick % 100 == 99 {
            log.flush(now);
        }
    }
    log.aggregator.close();
    log.flush(begin + Duration::from_secs(1_000));
    assert_eq!(log.sum(), 60_000);
    assert!(log.entries < 600 + 11 * 12, "{}", log.entries);
    assert!(log.counts.len() >= 10 * 11, "{}", log.counts.len());
}

#[test]
fn a_full_table_flushes_what_it_forgets() {
    let mut log = Log::new(0);
    log.aggregator.limit = 4;
    let begin = Instant::now();
    for round in 0..3 {
        for port in 0..20 {
            for _ in 0..=round {
                log.attempt(&key(port), begin);
            }
        }
    }
    assert!(log.aggregator.states.len() <= 4);
    assert_eq!(log.aggregator.states.len(), log.touches());
    log.aggregator.close();
    log.flush(begin);
    assert_eq!(log.sum(), 20 * (1 + 2 + 3));
    assert!(log.aggregator.is_closed());
}

#[test]
fn an_agent_that_never_says_the_same_twice_makes_no_other_forgotten() {
    let mut log = Log::new(0);
    log.aggregator.limit = 100;
    let begin = Instant::now();
    for number in 0..50 {
        log.attempt(&named("quiet", number), begin);
    }
    for number in 0..10_000 {
        log.attempt(&named("loud", number), begin);
    }
    assert_eq!(log.aggregator.states.len(), 100);
    assert_eq!(log.touches(), 100);
    let written = log.counts.len();
    for number in 0..50 {
        log.attempt(&named("quiet", number), begin);
    }
    assert_eq!(log.counts.len(), written, "one was forgotten");
    log.aggregator.close();
    log.flush(begin);
    assert_eq!(log.sum(), 10_000 + 2 * 50);
}

/// Over the share nothing that is written is paid for: the record of a reason has to last.
#[test]
fn what_an_agent_varies_does_not_make_its_reasons_forgotten() {
    let mut log = Log::new(10);
    log.aggregator.limit = 100;
    let begin = Instant::now();
    let reason = Key::Reason {
        agent: Some(name("loud")),
        verdict: Verdict::Deny,
        code: ReasonCode::NoRule,
        enforced: true,
    };
    log.attempt(&reason, begin);
    let written = log.counts.len();
    for number in 0..10_000 {
        let admission =
            log.aggregator
                .attempt(&named("loud", number), 1, Timestamp::UNIX_EPOCH, begin);
        assert_eq!(admission, Admission::Alone);
    }
    log.attempt(&reason, begin);
    assert_eq!(log.counts.len(), written);
}

fn denial() -> Decision {
    serde_json::from_str(
        r#"{"id":"01JD6Z7Q0000000000000000AB","time":"2026-11-22T04:08:03Z",
        "agent":{"name":"a"},"context":{},"layer":"proxy",
        "action":{"kind":"http_request","host":"api.example","port":443,"method":"GET",
        "path":"/"},"verdict":"deny","enforced":true,"mode":"enforce",
        "reason":{"code":"no_rule","message":"m"},"count":1,"latency_us":1,
        "policy_version":"0"}"#,
    )
    .unwrap()
}

#[test]
fn what_is_each_attempts_own_makes_no_difference() {
    let aggregator = Aggregator::new(10);
    let mut other = denial();
    other.id = DecisionId(Ulid::from_parts(1, 1));
    other.time = Timestamp::UNIX_EPOCH;
    other.process = serde_json::from_str(r#"{"pid":7,"uid":8,"comm":"curl"}"#).unwrap();
    other.context.trace_id = Some("0af7651916cd43dd8448eb211c80319c".to_owned());
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    other.trace_parent = Some(parent.parse().unwrap());
    other.latency_us = 99;
    assert_eq!(
        aggregator.identical(&denial()),
        aggregator.identical(&other)
    );
}

#[test]
fn digests_cannot_be_told_from_outside() {
    let one = Aggregator::new(10).identical(&denial());
    assert_ne!(one, Aggregator::new(10).identical(&denial()));
}

proptest! {
    /// Whatever the attempts, the flushes and the evictions: the counts add up to the attempts.
    #[test]
    fn the_sum_of_counts_is_the_number_of_attempts(
        steps in prop::collection::vec((0_u16..12, 0_u64..700, any::<bool>()), 1..400),
        identical in 0_u32..5,
        limit in 1_usize..8,
    ) {
        let mut log = Log::new(identical);
        log.aggregator.limit = limit;
        let mut now = Instant::now();
        for (port, ms, flush) in &steps {
            now += Duration::from_millis(*ms);
            log.attempt(&key(*port), now);
            if *flush {
                log.flush(now);
            }
        }
        log.aggregator.close();
        log.flush(now);
        prop_assert_eq!(log.sum(), steps.len() as u64);
        prop_assert!(log.aggregator.is_closed());
    }
}

//! Identical denials become one record with a count.
//!
//! Attempts on one key are counted in periods. The first few of a period are written one by one;
//! the next one opens an aggregate, a whole decision in the log, and those behind it only raise its
//! count. It stays open while every period is busy and its lifetime lasts, so that a record speaks
//! of a minute at most and a storm costs one entry a second.
//!
//! Plain state: no I/O, and time comes from outside. The writer says what it managed to write, and
//! takes back ([`Aggregator::discard`], [`Aggregator::restore`]) what it did not.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentguard_model::{
    ActionKind, AgentName, Decision, DecisionId, HostName, ReasonCode, Transport, Verdict,
};
use jiff::Timestamp;

use crate::entry::Count;

/// How many keys are remembered. The one that was touched longest ago is closed (its count is
/// flushed) for a new one.
const KEYS: usize = 4096;

/// What makes denials identical.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Key {
    /// Within the agent's share: agent, destination and reason.
    Destination {
        agent: Option<AgentName>,
        kind: ActionKind,
        transport: Option<Transport>,
        host: Option<HostName>,
        ip: Option<IpAddr>,
        port: Option<u16>,
        code: ReasonCode,
        enforced: bool,
    },
    /// Over it: agent and reason.
    Reason {
        agent: Option<AgentName>,
        verdict: Verdict,
        code: ReasonCode,
        enforced: bool,
    },
}

impl Key {
    /// The key of a denial within its agent's share.
    pub(crate) fn destination(decision: &Decision) -> Self {
        let action = &decision.action;
        Self::Destination {
            agent: decision.agent.as_ref().map(|agent| agent.name.clone()),
            kind: action.kind,
            transport: action.transport,
            host: action.host.clone(),
            ip: action.ip,
            port: action.port,
            code: decision.reason.code,
            enforced: decision.enforced,
        }
    }

    /// The key of a denial of an agent that is over its share.
    pub(crate) fn reason(decision: &Decision) -> Self {
        Self::Reason {
            agent: decision.agent.as_ref().map(|agent| agent.name.clone()),
            verdict: decision.verdict,
            code: decision.reason.code,
            enforced: decision.enforced,
        }
    }
}

/// How a key is counted.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// How long a period is; also how often a count is written to the log.
    period: Duration,
    /// How many attempts of a period are written one by one.
    alone: u64,
    /// How long an aggregate may stay open.
    lifetime: Duration,
}

/// What to do with an attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Admission {
    /// Write it.
    Alone,
    /// Write it, and call [`Aggregator::open`]: it can stand for those that follow.
    Opens,
    /// It was counted under an earlier record.
    Counted {
        /// What that record's count was before and is now.
        before: Count,
        now: Count,
        /// The slot in which it is kept.
        slot: u32,
    },
}

/// An aggregate whose count may still rise, or has to be flushed for the last time.
#[derive(Clone, Copy, Debug)]
struct Open {
    count: Count,
    slot: u32,
    since: Instant,
    /// The count that the log has.
    written: u64,
    flushed: Instant,
}

#[derive(Debug)]
struct State {
    period: Instant,
    seen: u64,
    open: Option<Open>,
    touched: u64,
}

/// A count to be written to the log.
#[derive(Clone, Debug)]
pub(crate) struct Update {
    pub(crate) count: Count,
    pub(crate) slot: u32,
    /// The key, if it stays open; else this is its last flush and the slot becomes free.
    key: Option<Arc<Key>>,
}

impl Update {
    /// Whether this is the last one.
    pub(crate) fn closes(&self) -> bool {
        self.key.is_none()
    }
}

/// All keys that were attempted lately.
#[derive(Debug)]
pub(crate) struct Aggregator {
    destination: Pace,
    reason: Pace,
    states: HashMap<Arc<Key>, State>,
    by_touch: BTreeMap<u64, Arc<Key>>,
    touches: u64,
    closing: Vec<Open>,
    limit: usize,
}

impl Aggregator {
    /// `identical_per_second` attempts on a destination are written one by one each second.
    pub(crate) fn new(identical_per_second: u32) -> Self {
        Self {
            destination: Pace {
                period: Duration::from_secs(1),
                alone: u64::from(identical_per_second),
                lifetime: Duration::from_secs(60),
            },
            // Without a share, an agent must cost next to nothing: with some 40 reasons, at most
            // 40 entries a minute.
            reason: Pace {
                period: Duration::from_secs(60),
                alone: 0,
                lifetime: Duration::from_secs(600),
            },
            states: HashMap::new(),
            by_touch: BTreeMap::new(),
            touches: 0,
            closing: Vec::new(),
            limit: KEYS,
        }
    }

    /// Counts `count` attempts on a key, the last of them at `time`.
    pub(crate) fn attempt(
        &mut self,
        key: &Key,
        count: u64,
        time: Timestamp,
        now: Instant,
    ) -> Admission {
        let pace = self.pace(key);
        self.touches += 1;
        let touch = self.touches;
        if !self.states.contains_key(key) {
            if self.states.len() >= self.limit {
                self.evict();
            }
            let key = Arc::new(key.clone());
            self.by_touch.insert(touch, Arc::clone(&key));
            let state = State {
                period: now,
                seen: 0,
                open: None,
                touched: touch,
            };
            self.states.insert(key, state);
        }
        let Some(state) = self.states.get_mut(key) else {
            return Admission::Alone;
        };
        if let Some(key) = self.by_touch.remove(&state.touched) {
            self.by_touch.insert(touch, key);
        }
        state.touched = touch;
        self.closing.extend(state.roll(pace, now));
        state.seen = state.seen.saturating_add(count);
        match &mut state.open {
            Some(open) => {
                let before = open.count;
                open.count.count = before.count.saturating_add(count);
                open.count.last = before.last.max(time);
                Admission::Counted {
                    before,
                    now: open.count,
                    slot: open.slot,
                }
            }
            None if state.seen > pace.alone => Admission::Opens,
            None => Admission::Alone,
        }
    }

    /// The decision `id`, which is about to be written, stands for what follows on this key.
    pub(crate) fn open(&mut self, key: &Key, count: Count, slot: u32, now: Instant) {
        if let Some(state) = self.states.get_mut(key) {
            state.open = Some(Open {
                count,
                slot,
                since: now,
                written: count.count,
                flushed: now,
            });
        }
    }

    /// Takes over a count that a dead process left: it is flushed, and then closed.
    pub(crate) fn resume(&mut self, count: Count, slot: u32, now: Instant) {
        self.closing.push(Open {
            count,
            slot,
            since: now,
            written: 0,
            flushed: now,
        });
    }

    /// Takes back an aggregate whose decision could not be written; its slot, for giving back.
    pub(crate) fn discard(&mut self, key: &Key, id: DecisionId) -> Option<u32> {
        if let Some(state) = self.states.get_mut(key)
            && let Some(open) = state.open.take_if(|open| open.count.id == id)
        {
            return Some(open.slot);
        }
        let at = self.closing.iter().position(|open| open.count.id == id)?;
        Some(self.closing.swap_remove(at).slot)
    }

    /// Takes back attempts whose count could not be kept.
    pub(crate) fn restore(&mut self, key: &Key, before: Count) {
        let open = self
            .states
            .get_mut(key)
            .and_then(|state| state.open.as_mut());
        if let Some(open) = open
            .into_iter()
            .chain(&mut self.closing)
            .find(|open| open.count.id == before.id)
        {
            open.count = before;
        }
    }

    /// The counts that the log should get now. To be called about once a second; each is told again
    /// until [`Aggregator::written`] says that it is in the log.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Update> {
        let mut updates = Vec::new();
        let mut idle = Vec::new();
        for (key, state) in &mut self.states {
            let pace = match **key {
                Key::Destination { .. } => self.destination,
                Key::Reason { .. } => self.reason,
            };
            self.closing.extend(state.roll(pace, now));
            match &state.open {
                Some(open)
                    if open.count.count > open.written
                        && now.saturating_duration_since(open.flushed) >= pace.period =>
                {
                    updates.push(Update {
                        count: open.count,
                        slot: open.slot,
                        key: Some(Arc::clone(key)),
                    });
                }
                None if state.seen == 0 => idle.push((Arc::clone(key), state.touched)),
                _ => {}
            }
        }
        for (key, touched) in idle {
            self.states.remove(&key);
            self.by_touch.remove(&touched);
        }
        updates.extend(self.closing.iter().map(|open| Update {
            count: open.count,
            slot: open.slot,
            key: None,
        }));
        updates
    }

    /// An update is in the log. What it counted beyond what was attempted since stays due.
    pub(crate) fn written(&mut self, update: &Update, now: Instant) {
        match &update.key {
            Some(key) => {
                let open = self
                    .states
                    .get_mut(key)
                    .and_then(|state| state.open.as_mut());
                if let Some(open) = open.filter(|open| open.count.id == update.count.id) {
                    open.written = update.count.count;
                    open.flushed = now;
                }
            }
            None => self.closing.retain(|open| open.count.id != update.count.id),
        }
    }

    /// Closes all aggregates, for a shutdown.
    pub(crate) fn close(&mut self) {
        let open = self.states.drain().filter_map(|(_, state)| state.open);
        self.closing.extend(open);
        self.by_touch.clear();
    }

    /// Whether nothing is left to be flushed.
    pub(crate) fn is_closed(&self) -> bool {
        self.states.is_empty() && self.closing.is_empty()
    }

    fn pace(&self, key: &Key) -> Pace {
        match key {
            Key::Destination { .. } => self.destination,
            Key::Reason { .. } => self.reason,
        }
    }

    fn evict(&mut self) {
        if let Some((_, key)) = self.by_touch.pop_first()
            && let Some(state) = self.states.remove(&key)
        {
            self.closing.extend(state.open);
        }
    }
}

impl State {
    /// Begins a new period if the last one is over; an aggregate that this closes.
    fn roll(&mut self, pace: Pace, now: Instant) -> Option<Open> {
        let passed = now.saturating_duration_since(self.period);
        if passed < pace.period {
            return None;
        }
        let busy = self.seen > pace.alone && passed < 2 * pace.period;
        self.period = now;
        self.seen = 0;
        self.open
            .take_if(|open| !busy || now.saturating_duration_since(open.since) >= pace.lifetime)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::{Duration, Instant};

    use agentguard_model::{ActionKind, DecisionId, ReasonCode};
    use jiff::Timestamp;
    use proptest::prelude::*;
    use ulid::Ulid;

    use super::{Admission, Aggregator, Key};
    use crate::entry::Count;

    fn key(port: u16) -> Key {
        Key::Destination {
            agent: None,
            kind: ActionKind::Connect,
            transport: None,
            host: None,
            ip: None,
            port: Some(port),
            code: ReasonCode::NoRule,
            enforced: true,
        }
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
        assert_eq!(log.aggregator.states.len(), log.aggregator.by_touch.len());
        log.aggregator.close();
        log.flush(begin);
        assert_eq!(log.sum(), 20 * (1 + 2 + 3));
        assert!(log.aggregator.is_closed());
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
}

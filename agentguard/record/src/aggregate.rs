//! Identical denials become one record with a count.
//!
//! Identical is what the record says the same of ([`Aggregator::identical`]): whoever looks up the
//! one that was written reads what each of the clients was told. An agent over its share of the
//! record is the exception: what it is denied is counted by reason ([`Key::reason`]).
//!
//! Attempts on one key are counted in periods. The first few of a period are written one by one;
//! the next one opens an aggregate, a whole decision in the log, and those behind it only raise its
//! count. It stays open while every period is busy and its lifetime lasts, so that a record speaks
//! of a minute at most and a storm costs one entry a second.
//!
//! What an agent cannot bring about by never saying the same twice:
//!
//! - a log without bound: each denial that is written is taken from its share ([`crate::quota`]),
//!   also the one that opens an aggregate. The counts of an aggregate are not: one of some hundred
//!   bytes a second, for a minute. Eleven denials of some hundred bytes each have to be written to
//!   open one, so what an agent writes in all comes to two or three times its share of bytes. Over
//!   the share, each reason costs about an entry a minute.
//! - memory without bound: a key is an agent's name and 16 bytes, and there are [`KEYS`] of them.
//! - that others are forgotten: a full table forgets a key of the agent that has the most. One with
//!   no more than its part (the table by the number of agents in it) loses none.
//!
//! Plain state: no I/O, and time comes from outside. The writer says what it managed to write, and
//! takes back ([`Aggregator::discard`], [`Aggregator::restore`]) what it did not.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentguard_model::{AgentName, Context, Decision, DecisionId, ReasonCode, Verdict};
use jiff::Timestamp;

use crate::entry::Count;

/// How many keys are remembered. For a new one, one of the agent that has the most is closed (its
/// count is flushed): the one that was touched longest ago.
const KEYS: usize = 4096;

/// What makes denials identical.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Key {
    /// Within the agent's share: the agent, and a digest of all that the record says.
    Identical {
        agent: Option<AgentName>,
        digest: u128,
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
    /// The key of a denial of an agent that is over its share.
    pub(crate) fn reason(decision: &Decision) -> Self {
        Self::Reason {
            agent: decision.agent.as_ref().map(|agent| agent.name.clone()),
            verdict: decision.verdict,
            code: decision.reason.code,
            enforced: decision.enforced,
        }
    }

    const fn agent(&self) -> &Option<AgentName> {
        match self {
            Self::Identical { agent, .. } | Self::Reason { agent, .. } => agent,
        }
    }
}

/// What the record says of a denial, without what is each attempt's own: id, time, process, trace
/// and how long it took.
fn said(decision: &Decision) -> impl Hash {
    // Field by field, so that whoever adds one has to say here which of the two it is.
    let Decision {
        id: _,
        time: _,
        agent,
        context:
            Context {
                user,
                session,
                workflow,
                purpose,
                trace_id: _,
            },
        process: _,
        layer,
        action,
        verdict,
        enforced,
        mode,
        reason,
        matched,
        changes,
        budget,
        findings,
        count: _,
        last: _,
        latency_us: _,
        trace_parent: _,
        policy_version,
        outcome: _,
    } = decision;
    // So is the id of a message to a server of tools.
    let mut action = Cow::Borrowed(action);
    if action.tool.as_ref().is_some_and(|tool| tool.id.is_some())
        && let Some(tool) = &mut action.to_mut().tool
    {
        tool.id = None;
    }
    (
        (agent, user, session, workflow, purpose),
        (layer, action, verdict, enforced, mode, reason),
        (matched, changes, budget, findings, policy_version),
    )
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
    touched: Touch,
}

/// The order in which an agent's keys are forgotten: first those of what is identical, since the
/// agent makes as many of them as it likes, and each from the one that was touched longest ago.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Touch {
    by_reason: bool,
    at: u64,
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
    /// Keys the digests. No agent knows it, so none can look for two denials with one digest.
    secret: RandomState,
    identical: Pace,
    reason: Pace,
    states: HashMap<Arc<Key>, State>,
    /// The same keys, by agent. An agent without any is not in it.
    by_touch: HashMap<Option<AgentName>, BTreeMap<Touch, Arc<Key>>>,
    touches: u64,
    closing: Vec<Open>,
    limit: usize,
}

impl Aggregator {
    /// `identical_per_second` identical attempts are written one by one each second.
    pub(crate) fn new(identical_per_second: u32) -> Self {
        Self {
            secret: RandomState::new(),
            identical: Pace {
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
            by_touch: HashMap::new(),
            touches: 0,
            closing: Vec::new(),
            limit: KEYS,
        }
    }

    /// The key of a denial within its agent's share.
    pub(crate) fn identical(&self, decision: &Decision) -> Key {
        let said = said(decision);
        // Two hashes of 64 bits under one secret key, which differ in what is hashed first.
        let half = |which: bool| u128::from(self.secret.hash_one((which, &said)));
        Key::Identical {
            agent: decision.agent.as_ref().map(|agent| agent.name.clone()),
            digest: half(false) << 64 | half(true),
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
        let touch = Touch {
            by_reason: matches!(key, Key::Reason { .. }),
            at: self.touches,
        };
        if !self.states.contains_key(key) {
            if self.states.len() >= self.limit {
                self.evict(key.agent());
            }
            let key = Arc::new(key.clone());
            let touches = self.by_touch.entry(key.agent().clone()).or_default();
            touches.insert(touch, Arc::clone(&key));
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
        if let Some(touches) = self.by_touch.get_mut(key.agent())
            && let Some(key) = touches.remove(&state.touched)
        {
            touches.insert(touch, key);
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
                Key::Identical { .. } => self.identical,
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
            self.untouch(&key, touched);
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
            Key::Identical { .. } => self.identical,
            Key::Reason { .. } => self.reason,
        }
    }

    /// Forgets a key of the agent that has the most of them; of several such, of `newcomer`.
    fn evict(&mut self, newcomer: &Option<AgentName>) {
        let most = self
            .by_touch
            .iter()
            .max_by_key(|(agent, touches)| (touches.len(), *agent == newcomer));
        let Some((touched, key)) = most.and_then(|(_, touches)| touches.first_key_value()) else {
            return;
        };
        let (touched, key) = (*touched, Arc::clone(key));
        self.untouch(&key, touched);
        if let Some(state) = self.states.remove(&key) {
            self.closing.extend(state.open);
        }
    }

    fn untouch(&mut self, key: &Key, touched: Touch) {
        if let Some(touches) = self.by_touch.get_mut(key.agent()) {
            touches.remove(&touched);
            if touches.is_empty() {
                self.by_touch.remove(key.agent());
            }
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
mod tests;

//! Whether a decision becomes an entry, a count under an earlier one, or a refusal.

use std::sync::atomic::Ordering;
use std::time::Instant;

use agentguard_decision::RecordRefused;
use agentguard_model::{
    ActionKind, COUNTED_TOGETHER, Decision, Layer, Reason, ReasonCode, Verdict,
};
use jiff::Timestamp;

use super::{Batch, Raised, Writer};
use crate::aggregate::{Admission, Key};
use crate::entry::{Count, Entry};
use crate::frame;
use crate::index::Row;
use crate::queue::{Ack, Answer};

/// No less than most decisions take as JSON, in bytes.
const USUAL: usize = 1024;

/// What an allow is charged for the outcome that follows it, in bytes.
const OUTCOME: u64 = 256;

impl Writer {
    /// Decides whether a decision is an entry, a count or neither.
    pub(super) fn admit(
        &mut self,
        mut decision: Box<Decision>,
        ack: Ack,
        now: Instant,
        batch: &mut Batch,
    ) {
        decision.count = decision.count.max(1);
        let deny = decision.verdict == Verdict::Deny;
        let answer = Answer {
            goes_on: (!deny).then_some(decision.id),
            attempts: decision.count,
            reply: Ok(decision.id),
            ack,
        };
        // What operators do is always written out: it is no agent's doing.
        let exempt = decision.action.kind == ActionKind::Administration;
        let key = (deny && !exempt).then(|| self.aggregator.identical(&decision));
        let mut opens = false;
        if let Some(key) = &key {
            let count = decision.count;
            match self.aggregator.attempt(key, count, last(&decision), now) {
                Admission::Alone => {}
                Admission::Opens => opens = true,
                Admission::Counted { before, now, slot } => {
                    raise(batch, key.clone(), (before, now, slot), answer);
                    return;
                }
            }
        }
        let (decision, payload) = match encode(decision) {
            Ok(encoded) => encoded,
            Err(reason) => return answer.fail(&reason, &self.shared),
        };
        let agent = decision.agent.as_ref().map(|agent| &agent.name);
        let bytes = payload.len() as u64 + if deny { 0 } else { OUTCOME };
        if !exempt && !self.quotas.take(agent, bytes, now) {
            return self.over_quota(decision, answer, now, batch);
        }
        if let Some(key) = key.filter(|_| opens) {
            // Without a slot it stands alone, and so will the next one.
            self.open(key, &decision, now, batch);
        }
        let row = Row::decision(&decision, &mut self.agent);
        batch.push(&payload, row, self.at.number);
        if matches!(decision.verdict, Verdict::Modify | Verdict::Escalate) {
            batch.waiting.push(answer);
        } else {
            batch.answers.push(answer);
        }
    }

    /// An agent is over its share: what it is denied is counted by reason, what it would be allowed
    /// is refused and counted as a denial for that reason.
    fn over_quota(
        &mut self,
        mut decision: Box<Decision>,
        mut answer: Answer,
        now: Instant,
        batch: &mut Batch,
    ) {
        if decision.verdict == Verdict::Deny {
            decision.reason.message.push_str(COUNTED_TOGETHER);
        } else if decision.layer == Layer::Kernel {
            // It has been carried out: what is told is what was.
            decision.reason = Reason::new(
                ReasonCode::RecordQuota,
                "the kernel let it pass, by a rule; counted together with others, to any destination: \
                 the agent is over its share of the record",
            );
            answer.goes_on = None;
        } else {
            let reason = Reason::new(
                ReasonCode::RecordQuota,
                "the agent is over its share of the record: it does more in a second or in a day \
                 than may be recorded for it, and what cannot be recorded is denied",
            );
            self.shared.refused_by_quota.fetch_add(1, Ordering::Relaxed);
            decision.verdict = Verdict::Deny;
            decision.enforced = true;
            decision.reason = reason.clone();
            answer.goes_on = None;
            answer.reply = Err(RecordRefused { reason });
        }
        let key = Key::reason(&decision);
        let count = decision.count;
        match self.aggregator.attempt(&key, count, last(&decision), now) {
            Admission::Counted { before, now, slot } => {
                raise(batch, key, (before, now, slot), answer);
            }
            Admission::Alone | Admission::Opens => {
                let (decision, payload) = match encode(decision) {
                    Ok(encoded) => encoded,
                    Err(reason) => return answer.fail(&reason, &self.shared),
                };
                if !self.open(key, &decision, now, batch) {
                    let reason = Reason::new(
                        ReasonCode::RecordQuota,
                        "the agent is over its share of the record, and there is no room to count \
                         this",
                    );
                    return answer.fail(&reason, &self.shared);
                }
                let row = Row::decision(&decision, &mut self.agent);
                batch.push(&payload, row, self.at.number);
                batch.answers.push(answer);
            }
        }
    }

    /// Makes a decision of this batch the one that stands for those that follow; whether there was
    /// a slot.
    fn open(&mut self, key: Key, decision: &Decision, now: Instant, batch: &mut Batch) -> bool {
        let Some(slot) = self.counts.take() else {
            return false;
        };
        let count = Count {
            id: decision.id,
            count: decision.count,
            last: last(decision),
        };
        self.aggregator.open(&key, count, slot, now);
        batch.opened.push((key, decision.id));
        true
    }
}

fn raise(batch: &mut Batch, key: Key, counted: (Count, Count, u32), mut answer: Answer) {
    let (before, now, slot) = counted;
    if answer.reply.is_ok() {
        answer.reply = Ok(now.id);
    }
    batch.slots.insert(slot, now);
    batch.raised.push(Raised {
        key,
        before,
        answer,
    });
}

fn last(decision: &Decision) -> Timestamp {
    decision.last.unwrap_or(decision.time)
}

fn encode(decision: Box<Decision>) -> Result<(Box<Decision>, Vec<u8>), Reason> {
    let entry = Entry::Decision(decision);
    let mut payload = Vec::with_capacity(USUAL);
    let written = serde_json::to_writer(&mut payload, &entry);
    let Entry::Decision(decision) = entry else {
        return Err(Reason::new(ReasonCode::Internal, "not a decision"));
    };
    match written {
        Ok(()) if payload.len() <= frame::MAX_PAYLOAD => Ok((decision, payload)),
        Ok(()) => Err(Reason::new(
            ReasonCode::RecordFailed,
            format!(
                "the decision has {} bytes, and a record holds {} at most",
                payload.len(),
                frame::MAX_PAYLOAD
            ),
        )),
        Err(error) => Err(Reason::new(
            ReasonCode::RecordFailed,
            format!("the decision cannot be written as JSON: {error}"),
        )),
    }
}

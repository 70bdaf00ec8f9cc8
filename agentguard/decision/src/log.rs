//! What rules have told in the daemon's log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentguard_model::Decision;
use agentguard_policy::LogLevel;

/// How many lines there are in a second, at most. What is beyond is counted, and the next line says so:
/// the record has all of it.
const LINES: u32 = 20;

/// Tells of decisions, not too often.
#[derive(Debug, Default)]
pub(crate) struct Log(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    /// When the second began that is counted.
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Log {
    /// Tells of a decision at a level.
    pub(crate) fn tell(&self, level: LogLevel, decision: &Decision) {
        let Some(left_out) = self.room(Instant::now()) else {
            return;
        };
        let agent = decision
            .agent
            .as_ref()
            .map_or("-", |agent| agent.name.as_str());
        let rule = decision
            .matched
            .first()
            .map_or("-", |rule| rule.rule.as_str());
        let (id, verdict, enforced) = (decision.id, decision.verdict, decision.enforced);
        let verdict = tracing::field::display(verdict);
        let said = &decision.reason.message;
        match level {
            LogLevel::Info => {
                tracing::info!(agent, rule, verdict, enforced, %id, left_out, "{said}");
            }
            LogLevel::Warn => {
                tracing::warn!(agent, rule, verdict, enforced, %id, left_out, "{said}");
            }
            LogLevel::Error => {
                tracing::error!(agent, rule, verdict, enforced, %id, left_out, "{said}");
            }
        }
    }

    /// How many were left out since the last line, if there is room for another.
    fn room(&self, now: Instant) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |since: Instant| now.duration_since(since) >= Duration::from_secs(1);
        if told.since.is_none_or(is_old) {
            told.since = Some(now);
            told.lines = 0;
        }
        if told.lines == LINES {
            told.left_out += 1;
            return None;
        }
        told.lines += 1;
        Some(std::mem::take(&mut told.left_out))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{LINES, Log};

    #[test]
    fn what_is_left_out_is_counted() {
        let log = Log::default();
        let now = Instant::now();
        for _ in 0..LINES {
            assert_eq!(log.room(now), Some(0));
        }
        assert_eq!((log.room(now), log.room(now)), (None, None));
        assert_eq!(log.room(now + Duration::from_millis(999)), None);
        let later = now + Duration::from_secs(1);
        assert_eq!((log.room(later), log.room(later)), (Some(3), Some(0)));
    }
}

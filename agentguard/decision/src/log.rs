//! What rules have told in the daemon's log.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentguard_model::{AgentName, Decision};
use agentguard_policy::LogLevel;

/// How many lines there are about one agent in a second, at most, so that none keeps another's from being
/// told. What is beyond is counted, and the next line says so: the record has all of it.
const LINES: u32 = 20;

/// How many there are about all.
const ALL: usize = 200;

/// Tells of decisions, not too often.
#[derive(Debug, Default)]
pub(crate) struct Log(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    /// When the second began that is counted.
    since: Option<Instant>,
    lines: usize,
    left_out: u64,
    /// Of each that has a line.
    by_agent: HashMap<Option<AgentName>, u32>,
}

impl Log {
    /// Tells of a decision at a level.
    pub(crate) fn tell(&self, level: LogLevel, decision: &Decision) {
        let agent = decision.agent.as_ref().map(|agent| &agent.name);
        let Some(left_out) = self.room(agent, Instant::now()) else {
            return;
        };
        let agent = agent.map_or("-", |name| name.as_str());
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
    fn room(&self, agent: Option<&AgentName>, now: Instant) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |since: Instant| now.duration_since(since) >= Duration::from_secs(1);
        if told.since.is_none_or(is_old) {
            told.since = Some(now);
            told.lines = 0;
            told.by_agent.clear();
        }
        let own = told.by_agent.get(&agent.cloned()).copied().unwrap_or(0);
        if own == LINES || told.lines == ALL {
            told.left_out += 1;
            return None;
        }
        told.by_agent.insert(agent.cloned(), own + 1);
        told.lines += 1;
        Some(std::mem::take(&mut told.left_out))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{ALL, LINES, Log};

    #[test]
    fn what_is_left_out_is_counted_and_no_agent_is_kept_from_being_told() {
        let log = Log::default();
        let now = Instant::now();
        let name = |n: usize| format!("a{n}").parse().unwrap();
        let (loud, quiet) = (name(0), name(1));
        for _ in 0..LINES {
            assert_eq!(log.room(Some(&loud), now), Some(0));
        }
        assert_eq!(log.room(Some(&loud), now), None);
        assert_eq!(log.room(Some(&loud), now), None);
        assert_eq!(log.room(Some(&quiet), now), Some(2));
        assert_eq!(log.room(None, now), Some(0));
        let late = now + Duration::from_millis(999);
        assert_eq!(log.room(Some(&loud), late), None);
        let later = now + Duration::from_secs(1);
        assert_eq!(log.room(Some(&loud), later), Some(1));
        assert_eq!(log.room(Some(&loud), later), Some(0));
        // All of them together are bounded too.
        let told = (2..2 * ALL).filter(|n| log.room(Some(&name(*n)), later).is_some());
        assert_eq!(told.count(), ALL - 2);
    }
}

//! What accounts of limits keep: small, and bounded each.

use std::collections::{HashMap, VecDeque};

use agentguard_model::limit::Rate;

use super::gcra::Gcra;

/// How many different calls an account of `repeats` knows. Beyond that the one is forgotten of which the least is known:
/// so a loop of more different calls is not seen, and a call that was repeated is not forgotten for others.
pub const MAX_CALLS: usize = 256;

/// How many models and tools an account of `retries` knows. Beyond that the one with the fewest failures is forgotten.
pub const MAX_TARGETS: usize = 64;

/// How many of the last calls, and of what came of them, an account of `no_progress` knows.
pub const MAX_STEPS: usize = 256;

/// How many chains are told apart in an account of `depth`. What would be one more counts as one with all that are.
pub const MAX_CHAINS: usize = 256;

/// The calls that were made lately, each with its rate.
#[derive(Debug, Default)]
pub(super) struct Repeats(Vec<(u64, Gcra)>);

impl Repeats {
    /// Counts a call by this rate from now on.
    pub(super) fn fit(&mut self, call: u64, rate: Rate, now: u64) {
        if let Some((_, gcra)) = self.0.iter_mut().find(|(it, _)| *it == call) {
            gcra.fit(rate, now);
        }
    }

    pub(super) fn admits(&self, call: u64, rate: Rate, now: u64) -> Result<(), u64> {
        let known = self.0.iter().find(|(it, _)| *it == call);
        known.map_or(Ok(()), |(_, gcra)| gcra.admits(rate, now))
    }

    pub(super) fn admit(&mut self, call: u64, rate: Rate, now: u64) {
        if let Some((_, gcra)) = self.0.iter_mut().find(|(it, _)| *it == call) {
            return gcra.admit(rate, now);
        }
        if self.0.len() >= MAX_CALLS {
            self.0.retain(|(_, gcra)| gcra.over() > now);
        }
        if self.0.len() >= MAX_CALLS {
            let entries = self.0.iter().enumerate();
            let least = entries.min_by_key(|(_, (_, gcra))| gcra.over());
            if let Some((place, _)) = least {
                self.0.swap_remove(place);
            }
        }
        let mut gcra = Gcra::default();
        gcra.admit(rate, now);
        self.0.push((call, gcra));
    }

    pub(super) fn give_back(&mut self, call: u64, rate: Rate) {
        if let Some((_, gcra)) = self.0.iter_mut().find(|(it, _)| *it == call) {
            gcra.give_back(rate);
        }
    }

    /// For how long the call is refused that is for the longest.
    pub(super) fn longest(&self, rate: Rate, now: u64) -> Option<u64> {
        let waits = self.0.iter();
        waits.filter_map(|(_, it)| it.admits(rate, now).err()).max()
    }

    /// From when on it is as if nothing had come.
    pub(super) fn over(&self) -> u64 {
        self.0.iter().map(|(_, it)| it.over()).max().unwrap_or(0)
    }
}

/// The models and tools that failed, each with how often it did in a row, and when last.
#[derive(Debug, Default)]
pub(super) struct Retries(Vec<(u64, u32, u64)>);

impl Retries {
    pub(super) fn admits(
        &self,
        target: u64,
        failures: u32,
        within: u64,
        now: u64,
    ) -> Result<(), u64> {
        let known = self.0.iter().find(|(it, ..)| *it == target);
        match known {
            Some((_, count, last)) if *count >= failures => {
                match last.saturating_add(within).saturating_sub(now) {
                    0 => Ok(()),
                    wait => Err(wait),
                }
            }
            _ => Ok(()),
        }
    }

    /// It failed.
    pub(super) fn fail(&mut self, target: u64, within: u64, now: u64) {
        // Rows that are over are forgotten: they would keep the place of one that goes on.
        self.0
            .retain(|(.., last)| now < last.saturating_add(within));
        if let Some((_, count, last)) = self.0.iter_mut().find(|(it, ..)| *it == target) {
            *count = count.saturating_add(1);
            *last = now;
            return;
        }
        if self.0.len() >= MAX_TARGETS {
            let entries = self.0.iter().enumerate();
            let least = entries.min_by_key(|(_, (_, count, last))| (*count, *last));
            if let Some((place, _)) = least {
                self.0.swap_remove(place);
            }
        }
        self.0.push((target, 1, now));
    }

    /// It went well.
    pub(super) fn succeed(&mut self, target: u64) {
        self.0.retain(|(it, ..)| *it != target);
    }

    /// For how long the one is refused that is for the longest.
    pub(super) fn longest(&self, failures: u32, within: u64, now: u64) -> Option<u64> {
        let targets = self.0.iter().map(|(target, ..)| *target);
        let waits = targets.filter_map(|it| self.admits(it, failures, within, now).err());
        waits.max()
    }

    pub(super) fn over(&self, within: u64) -> u64 {
        let last = self.0.iter().map(|(.., last)| *last).max();
        last.map_or(0, |it| it.saturating_add(within))
    }
}

/// The last of something, each once.
#[derive(Debug, Default)]
struct Ring(VecDeque<u64>);

impl Ring {
    fn has(&self, it: u64) -> bool {
        self.0.contains(&it)
    }

    /// Whether it was not there.
    fn add(&mut self, it: u64) -> bool {
        if self.has(it) {
            return false;
        }
        if self.0.len() >= MAX_STEPS {
            self.0.pop_front();
        }
        self.0.push_back(it);
        true
    }
}

/// What was called lately, what came of it, and how many calls in a row brought nothing new.
#[derive(Debug, Default)]
pub(super) struct Progress {
    calls: Ring,
    news: Ring,
    stale: u32,
    last: u64,
}

impl Progress {
    /// `tool`: the call of a tool that it is. One that was not made lately is new by itself.
    pub(super) fn admits(
        &self,
        tool: Option<u64>,
        calls: u32,
        within: u64,
        now: u64,
    ) -> Result<(), u64> {
        let is_new = tool.is_some_and(|it| !self.calls.has(it));
        let wait = self.last.saturating_add(within).saturating_sub(now);
        match self.stale < calls || is_new || wait == 0 {
            true => Ok(()),
            false => Err(wait),
        }
    }

    pub(super) fn admit(&mut self, tool: Option<u64>, within: u64, now: u64) {
        if now >= self.last.saturating_add(within) {
            self.stale = 0;
        }
        self.last = now;
        if let Some(tool) = tool
            && self.calls.add(tool)
        {
            self.stale = 0;
        }
    }

    /// What came of a call, if anything is known of it.
    pub(super) fn came(&mut self, news: &[u64]) {
        if news.is_empty() {
            return;
        }
        let mut any = false;
        for it in news {
            any |= self.news.add(*it);
        }
        self.stale = if any { 0 } else { self.stale.saturating_add(1) };
    }

    pub(super) const fn stale(&self) -> u32 {
        self.stale
    }

    pub(super) const fn over(&self, within: u64) -> u64 {
        self.last.saturating_add(within)
    }
}

/// The calls of agents that are under way: by chain, who makes them, and how many.
#[derive(Debug, Default)]
pub(super) struct Depth(HashMap<u64, Vec<(u64, u32)>>);

/// The chain of what is not told apart.
const OTHERS: u64 = 0;

impl Depth {
    /// The chain that it counts as.
    pub(super) fn chain(&self, chain: u64) -> u64 {
        match self.0.len() < MAX_CHAINS || self.0.contains_key(&chain) {
            true => chain,
            false => OTHERS,
        }
    }

    pub(super) fn admits(&self, chain: u64, agent: u64, calls: u32, agents: u32) -> bool {
        let Some(under_way) = self.0.get(&chain) else {
            return true;
        };
        let count: u64 = under_way.iter().map(|(_, it)| u64::from(*it)).sum();
        let is_in = under_way.iter().any(|(it, _)| *it == agent);
        let who = under_way.len() + usize::from(!is_in);
        count < u64::from(calls) && who <= usize::try_from(agents).unwrap_or(usize::MAX)
    }

    pub(super) fn begin(&mut self, chain: u64, agent: u64) {
        let under_way = self.0.entry(chain).or_default();
        match under_way.iter_mut().find(|(it, _)| *it == agent) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => under_way.push((agent, 1)),
        }
    }

    pub(super) fn end(&mut self, chain: u64, agent: u64) {
        let Some(under_way) = self.0.get_mut(&chain) else {
            return;
        };
        for (it, count) in under_way.iter_mut() {
            if *it == agent {
                *count = count.saturating_sub(1);
            }
        }
        under_way.retain(|(_, count)| *count > 0);
        if under_way.is_empty() {
            self.0.remove(&chain);
        }
    }

    /// The most calls under way in one chain.
    pub(super) fn deepest(&self) -> u64 {
        let count = |it: &Vec<(u64, u32)>| it.iter().map(|(_, it)| u64::from(*it)).sum();
        self.0.values().map(count).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_TARGETS, Retries};

    #[test]
    fn rows_that_are_over_keep_no_place() {
        let mut retries = Retries::default();
        // Twice each, long ago: more than the two that fail now.
        for target in 0..MAX_TARGETS as u64 {
            retries.fail(target, 10, 1);
            retries.fail(target, 10, 1);
        }
        for now in 11..14 {
            retries.fail(1000, 10, now);
            retries.fail(1001, 10, now);
        }
        assert!(retries.admits(1000, 3, 10, 14).is_err());
        assert!(retries.admits(1001, 3, 10, 14).is_err());
        assert_eq!(retries.0.len(), 2);
    }
}

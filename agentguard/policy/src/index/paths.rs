//! The rules for one destination by what the paths begin with that they are about.
//!
//! A path is looked up in all of its readings (`readings`), whether a rule allows or denies, so that no rule is passed
//! over that matches in one of them. What is passed over would not have matched, but its patterns would have taken
//! steps. So it is counted how many these may be at most ([`Asked::spared`]): where the others leave fewer, all rules
//! are gone through, and what exceeds the steps of a decision does so with the index and without.

use std::cell::{Cell, OnceCell};

use crate::decide::Facts;
use crate::index::Position;
use crate::pattern::{FOUND, beginnings};
use crate::readings::Readings;
use crate::rule::{Rule, Seen};

/// Rules with more paths are not passed over: the index has no more entries than that for each of its rules.
pub(super) const MOST: usize = 8;

/// Rules for one destination.
#[derive(Debug, Default)]
pub(super) struct ByPath {
    /// Those that may match whatever a path begins with, in order.
    anyway: Vec<Position>,
    /// What paths begin with, in order, each with a rule that is about such.
    beginnings: Vec<(u64, Position)>,
    /// What it takes to see that a path in one reading is none of an allowance's.
    sent: Work,
    /// The same, for what looks at each of the readings.
    read: Work,
}

/// What patterns look at, at most, to see that they do not match.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    patterns: usize,
    segments: usize,
}

impl Work {
    /// How many steps it takes for a text of so many bytes.
    fn steps(self, bytes: usize) -> u64 {
        let found = self.patterns.saturating_mul(bytes / FOUND);
        u64::try_from(self.segments.saturating_add(found)).unwrap_or(u64::MAX)
    }
}

impl ByPath {
    /// Those of a policy's rules, with no more than `most` entries. Nothing where that may not be enough, or where it would
    /// not spare half of them.
    pub(super) fn new(rules: &[Rule], positions: &[Position], most: usize) -> Option<Self> {
        let of = |position: Position| rules.get(usize::try_from(position).ok()?);
        // Before anything is made of them: many destinations can have lists that differ, for which there is no room.
        let paths = |&position: &Position| of(position).map_or(0, |rule| rule.request.paths.len());
        let entries = positions.iter().map(paths).filter(|paths| *paths <= MOST);
        if entries.sum::<usize>() > most {
            return None;
        }
        let mut by_path = Self::default();
        for &position in positions {
            by_path.add(position, of(position)?);
        }
        let of_use = by_path.anyway.len() <= positions.len() / 2;
        if !of_use {
            return None;
        }
        by_path.beginnings.sort_unstable();
        by_path.beginnings.dedup();
        by_path.beginnings.shrink_to_fit();
        by_path.anyway.shrink_to_fit();
        Some(by_path)
    }

    fn add(&mut self, position: Position, rule: &Rule) {
        let paths = &rule.request.paths;
        let beginnings = paths.iter().map_while(|path| path.beginning());
        if paths.is_empty() || paths.len() > MOST || beginnings.clone().count() < paths.len() {
            self.anyway.push(position);
            return;
        }
        for beginning in beginnings {
            self.beginnings.push((beginning.hash, position));
            let takes = |work: &mut Work| {
                work.patterns += 1;
                work.segments += beginning.segments;
            };
            takes(if rule.allows() {
                &mut self.sent
            } else {
                &mut self.read
            });
            if rule.obliges() {
                // It is looked at once more, as a denial.
                takes(&mut self.read);
            }
        }
    }

    /// Those of one beginning, if there are some.
    fn of(&self, hash: u64) -> Option<&[(u64, Position)]> {
        let from = self.beginnings.partition_point(|(it, _)| *it < hash);
        let here = self.beginnings.get(from..)?;
        let here = here.get(..here.partition_point(|(it, _)| *it == hash))?;
        (!here.is_empty()).then_some(here)
    }

    pub(super) fn len(&self) -> usize {
        self.beginnings.len()
    }

    /// Calls `visit` once with each of the rules that a request's path leaves.
    pub(super) fn visit(&self, asked: &Asked<'_>, mut visit: impl FnMut(Position)) {
        self.anyway.iter().for_each(|position| visit(*position));
        let path = asked.looked_up();
        let mut lists = path.beginnings.iter().filter_map(|hash| self.of(*hash));
        let first = lists.next().unwrap_or_default();
        match lists.next() {
            None => first.iter().for_each(|(_, position)| visit(*position)),
            // A rule whose paths begin with one another stands in several.
            Some(second) => {
                let all = [first, second].into_iter().chain(lists).flatten();
                let mut all: Vec<Position> = all.map(|(_, position)| *position).collect();
                all.sort_unstable();
                all.dedup();
                all.into_iter().for_each(visit);
            }
        }
        let read = self.read.steps(path.bytes).saturating_mul(path.readings);
        asked.spare(read.saturating_add(self.sent.steps(path.bytes)));
    }
}

/// What is asked about: a request's path.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    path: &'a str,
    looked_up: OnceCell<LookedUp>,
    spared: Cell<u64>,
}

/// A path in all of its readings.
#[derive(Debug)]
struct LookedUp {
    /// What it begins with, each once.
    beginnings: Vec<u64>,
    /// How many readings there are.
    readings: u64,
    /// How long the longest is.
    bytes: usize,
}

impl<'a> Asked<'a> {
    /// Nothing where no request is seen, or where conditions on what is unknown of it turn out one way, so that rules
    /// match whatever the path.
    fn of(facts: &Facts<'a>) -> Option<Self> {
        match facts.request {
            Seen::Request(request) if request.assumed.is_none() => Some(Self {
                path: request.path,
                looked_up: OnceCell::new(),
                spared: Cell::new(0),
            }),
            _ => None,
        }
    }

    /// What `pass` finds among the rules that may match the path, if it says that more steps are left than were spared,
    /// and else what it finds among all.
    pub(crate) fn among<T>(facts: &Facts<'_>, pass: impl Fn(Option<&Asked<'_>>) -> (T, u64)) -> T {
        if let Some(asked) = Asked::of(facts) {
            let (found, left) = pass(Some(&asked));
            let spared = asked.spared.get();
            if spared == 0 || spared < left {
                return found;
            }
        }
        pass(None).0
    }

    fn looked_up(&self) -> &LookedUp {
        self.looked_up.get_or_init(|| {
            let others = Readings::of(self.path);
            let mut found = LookedUp {
                beginnings: Vec::new(),
                readings: 0,
                bytes: 0,
            };
            for reading in std::iter::once(self.path).chain(others.all()) {
                found.readings += 1;
                found.bytes = found.bytes.max(reading.len());
                // What does not begin with it is matched by none.
                if let Some(path) = reading.strip_prefix('/') {
                    found.beginnings.extend(beginnings(path));
                }
            }
            found.beginnings.sort_unstable();
            found.beginnings.dedup();
            found
        })
    }

    /// Notes how many steps those would have taken at most that are passed over.
    fn spare(&self, steps: u64) {
        self.spared.set(self.spared.get().saturating_add(steps));
    }
}

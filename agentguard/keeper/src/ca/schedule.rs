//! Which authority signs when. Pure: the time is passed in, in seconds since the epoch.
//!
//! Each authority signs from its own time until that of the one after it. What is exported is all of
//! them; so a new one is trusted before it signs, and an old one as long as a leaf of it can live.

use std::cmp::Ordering;

use super::{CaError, OVERLAP, leaf};
use crate::message::AuthorityState;

/// Authorities at once. More would have to be made within a day.
pub(super) const MOST: usize = 8;

/// Authorities in the order in which they sign. There is always one.
#[derive(Clone)]
pub(super) struct Schedule<A> {
    first: Entry<A>,
    /// None of them signs earlier than the one before it.
    later: Vec<Entry<A>>,
}

#[derive(Clone)]
struct Entry<A> {
    authority: A,
    signs_from: u64,
}

/// An authority in its place.
pub(super) struct Term<'a, A> {
    pub(super) authority: &'a A,
    pub(super) state: AuthorityState,
    pub(super) signs_from: u64,
    /// When the one after it takes over.
    pub(super) signs_until: Option<u64>,
}

impl<A> Schedule<A> {
    /// One authority, which signs from now on.
    pub(super) fn new(authority: A, now: u64) -> Self {
        Self {
            first: Entry {
                authority,
                signs_from: now,
            },
            later: Vec::new(),
        }
    }

    /// Authorities with the times from which they sign. `None`: there are none, or out of order.
    pub(super) fn restore(entries: impl IntoIterator<Item = (A, u64)>) -> Option<Self> {
        let mut entries = entries.into_iter().map(|(authority, signs_from)| Entry {
            authority,
            signs_from,
        });
        let first = entries.next()?;
        let later: Vec<_> = entries.collect();
        let mut last = first.signs_from;
        let ordered = later
            .iter()
            .all(|entry| std::mem::replace(&mut last, entry.signs_from) <= entry.signs_from);
        ordered.then_some(Self { first, later })
    }

    /// What [`Self::restore`] takes.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&A, u64)> {
        std::iter::once(&self.first)
            .chain(&self.later)
            .map(|entry| (&entry.authority, entry.signs_from))
    }

    /// The authority that signs now. The first one also does before its time: the clock was set back.
    pub(super) fn signer(&self, now: u64) -> &A {
        self.later
            .iter()
            .rev()
            .find(|entry| entry.signs_from <= now)
            .map_or(&self.first.authority, |entry| &entry.authority)
    }

    /// All of them, in their order.
    pub(super) fn terms(&self, now: u64) -> impl Iterator<Item = Term<'_, A>> {
        // How many signed before the one that signs now.
        let before = self
            .later
            .iter()
            .filter(|entry| entry.signs_from <= now)
            .count();
        let successors = self.later.iter().map(|entry| Some(entry.signs_from));
        self.entries()
            .zip(successors.chain([None]))
            .enumerate()
            .map(
                move |(position, ((authority, signs_from), signs_until))| Term {
                    authority,
                    state: match position.cmp(&before) {
                        Ordering::Less => AuthorityState::Previous,
                        Ordering::Equal => AuthorityState::Current,
                        Ordering::Greater => AuthorityState::Next,
                    },
                    signs_from,
                    signs_until,
                },
            )
    }

    /// Adds the next authority, or has one that waits take over now.
    pub(super) fn rotate(
        &mut self,
        now: u64,
        at_once: bool,
        make: impl FnOnce() -> Result<A, CaError>,
    ) -> Result<(), CaError> {
        let waits = self.later.last().map(|entry| entry.signs_from);
        match waits.filter(|signs_from| *signs_from > now) {
            Some(_) if at_once => {
                for entry in &mut self.later {
                    entry.signs_from = entry.signs_from.min(now);
                }
            }
            Some(signs_from) => {
                return Err(CaError::Pending {
                    minutes: (signs_from - now).div_ceil(60),
                });
            }
            None if self.later.len() + 1 >= MOST => return Err(CaError::TooMany),
            None => {
                let wait = if at_once { 0 } else { OVERLAP };
                self.later.push(Entry {
                    authority: make()?,
                    signs_from: now.saturating_add(wait),
                });
            }
        }
        Ok(())
    }

    /// Drops those whose last leaf has expired. Whether there were any.
    pub(super) fn forget(&mut self, now: u64) -> bool {
        let expired = self
            .later
            .iter()
            .take_while(|successor| successor.signs_from.saturating_add(leaf::LIFE) < now)
            .count();
        for entry in self.later.drain(..expired) {
            self.first = entry;
        }
        expired > 0
    }
}

#[cfg(test)]
mod tests {
    use super::{AuthorityState, CaError, MOST, OVERLAP, Schedule, leaf};
    use proptest::prelude::*;

    const HOUR: u64 = 3600;
    const START: u64 = 1_800_000_000;

    /// Names and states, and who signs.
    fn shown(schedule: &Schedule<char>, hour: u64) -> String {
        let now = START + hour * HOUR;
        let terms = schedule.terms(now).map(|term| {
            let mark = match term.state {
                AuthorityState::Previous => '<',
                AuthorityState::Current => '=',
                AuthorityState::Next => '>',
            };
            format!("{mark}{}", term.authority)
        });
        let terms: String = terms.collect();
        assert!(
            terms.contains(&format!("={}", schedule.signer(now))),
            "{terms}"
        );
        terms
    }

    #[test]
    fn the_life_of_three_authorities() {
        let mut schedule = Schedule::new('a', START);
        // At an hour, this is done, and that is how it stands.
        for (hour, action, stands) in [
            (0, "", "=a"),
            (10, "rotate", "=a>b"),
            (11, "rotate", "pending"),
            (33, "", "=a>b"),
            (34, "", "<a=b"),
            (58, "", "<a=b"),
            (59, "", "=b"),
            (60, "now", "<b=c"),
            (61, "rotate", "<b=c>d"),
            (62, "now", "<b<c=d"),
            (84, "", "<b<c=d"),
            (85, "", "<c=d"),
            (87, "", "=d"),
            // The clock is set back: it goes on, and what was dropped stays so.
            (1, "", "=d"),
        ] {
            let now = START + hour * HOUR;
            schedule.forget(now);
            let newest = schedule.entries().map(|(name, _)| *name).max().unwrap();
            let next = char::from(u8::try_from(newest).unwrap() + 1);
            let rotated = match action {
                "" => Ok(()),
                action => schedule.rotate(now, action == "now", || Ok(next)),
            };
            let stood = match rotated {
                Ok(()) => shown(&schedule, hour),
                Err(CaError::Pending { minutes }) => {
                    assert_eq!(minutes, 23 * 60);
                    "pending".to_owned()
                }
                Err(error) => error.to_string(),
            };
            assert_eq!(stood, stands, "at hour {hour}");
        }
    }

    #[test]
    fn only_ordered_authorities_are_restored_and_as_they_were() {
        assert!(Schedule::<char>::restore([]).is_none());
        assert!(Schedule::restore([('a', 2), ('b', 1)]).is_none());
        assert!(Schedule::restore([('a', 0), ('b', 3), ('c', 2)]).is_none());
        let entries = [('a', 0), ('b', 3), ('c', 3)];
        let schedule = Schedule::restore(entries).unwrap();
        assert!(
            schedule
                .entries()
                .map(|(name, time)| (*name, time))
                .eq(entries)
        );
    }

    #[derive(Clone, Debug)]
    enum Step {
        Pass(u64),
        Rotate(bool),
        Sign,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0..30 * HOUR).prop_map(Step::Pass),
            2 => any::<bool>().prop_map(Step::Rotate),
            3 => Just(Step::Sign),
        ];
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn every_living_leaf_is_trusted_and_every_signer_was_announced(steps in steps()) {
            let mut now = START;
            let mut made = 0_u32;
            let mut schedule = Schedule::new(made, now);
            // By authority: since when it is exported, and whether it was asked to sign at once.
            let mut exported = vec![(now, true)];
            let mut leaves = Vec::new();
            for step in steps {
                match step {
                    Step::Pass(seconds) => now += seconds,
                    Step::Rotate(at_once) => {
                        let waits = schedule.terms(now).any(|term| term.state == AuthorityState::Next);
                        let full = schedule.entries().count() >= MOST;
                        let result = schedule.rotate(now, at_once, || {
                            made += 1;
                            Ok(made)
                        });
                        match result {
                            Ok(()) if waits => exported.last_mut().unwrap().1 = true,
                            Ok(()) => exported.push((now, at_once)),
                            Err(CaError::Pending { .. }) => prop_assert!(waits && !at_once),
                            Err(CaError::TooMany) => prop_assert!(full && !waits),
                            Err(error) => prop_assert!(false, "{error}"),
                        }
                    }
                    Step::Sign => leaves.push((*schedule.signer(now), now + leaf::LIFE)),
                }
                schedule.forget(now);
                let signer = *schedule.signer(now);
                let (since, at_once) = exported[usize::try_from(signer).unwrap()];
                prop_assert!(at_once || since + OVERLAP <= now);
                let known: Vec<u32> = schedule.entries().map(|(name, _)| *name).collect();
                prop_assert!(known.is_sorted() && known.len() <= MOST);
                for (authority, not_after) in &leaves {
                    prop_assert!(*not_after < now || known.contains(authority));
                }
                let states: Vec<_> = schedule.terms(now).map(|term| term.state).collect();
                let current = states.iter().filter(|state| **state == AuthorityState::Current);
                prop_assert_eq!(current.count(), 1);
                let restored = Schedule::restore(schedule.entries().map(|(name, time)| (*name, time)));
                prop_assert!(restored.is_some_and(|restored| *restored.signer(now) == signer));
            }
        }
    }
}

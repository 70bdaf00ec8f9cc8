//! How much there may be at once, in all and of one agent: queries, or connections.
//!
//! What is beyond that is refused, and is one of a few refusals that wait for the record, of which no
//! agent has all. What finds no place among those either is dropped and counted; whoever has such a
//! place records the counts before leaving it. So nobody waits, however much an agent asks.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentguard_model::AgentId;

use super::Sender;

/// Refusals that wait for the record at once.
const REFUSALS: usize = 64;
/// Of them of one agent.
const REFUSALS_PER_AGENT: usize = 8;

/// What is under way.
#[derive(Debug)]
pub(crate) struct Load {
    all: usize,
    per_agent: usize,
    under_way: Mutex<UnderWay>,
}

/// Senders who are no agent share what an agent has.
type Holder = Option<AgentId>;

#[derive(Debug, Default)]
struct UnderWay {
    working: usize,
    refusing: usize,
    holders: HashMap<Holder, Held>,
    dropped: BTreeMap<Holder, Dropped>,
}

#[derive(Debug, Default)]
struct Held {
    working: usize,
    refusing: usize,
}

/// What was dropped and is not in the record.
#[derive(Debug)]
pub(crate) struct Dropped {
    /// Whose the last of it was.
    pub(crate) sender: Sender,
    pub(crate) count: u64,
}

/// What may be done with one more.
#[derive(Debug)]
pub(crate) enum Admission {
    /// It may go on; it counts until this is dropped.
    Work(Working),
    /// It must be refused and recorded.
    Refuse(Refusing),
    /// It must be dropped; it has been counted.
    Drop,
}

#[derive(Debug)]
pub(crate) struct Working(Arc<Load>, Holder);

/// A place to be refused in, until it is dropped.
#[derive(Debug)]
pub(crate) struct Refusing(Option<(Arc<Load>, Holder)>);

impl Load {
    /// So much in all, and so much of one agent.
    pub(crate) fn new(all: usize, per_agent: usize) -> Arc<Self> {
        Arc::new(Self {
            all,
            per_agent,
            under_way: Mutex::default(),
        })
    }

    pub(crate) fn admit(self: &Arc<Self>, sender: &Sender) -> Admission {
        let holder = sender.client.as_ref().map(|client| client.agent);
        let mut under_way = self.under_way();
        let UnderWay {
            working,
            refusing,
            holders,
            ..
        } = &mut *under_way;
        let held = holders.entry(holder).or_default();
        if held.working < self.per_agent && *working < self.all {
            held.working += 1;
            *working += 1;
            return Admission::Work(Working(Arc::clone(self), holder));
        }
        if held.refusing < REFUSALS_PER_AGENT && *refusing < REFUSALS {
            held.refusing += 1;
            *refusing += 1;
            return Admission::Refuse(Refusing(Some((Arc::clone(self), holder))));
        }
        under_way.forget_idle(holder);
        let dropped = under_way.dropped.entry(holder).or_insert_with(|| Dropped {
            sender: sender.clone(),
            count: 0,
        });
        dropped.sender.clone_from(sender);
        dropped.count += 1;
        Admission::Drop
    }

    /// How much was dropped and is not in the record.
    pub(crate) fn unrecorded(&self) -> u64 {
        let under_way = self.under_way();
        under_way.dropped.values().map(|it| it.count).sum()
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        (self.under_way.lock()).unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    fn leave_work(&mut self, holder: Holder) {
        self.working = self.working.saturating_sub(1);
        if let Some(held) = self.holders.get_mut(&holder) {
            held.working = held.working.saturating_sub(1);
        }
        self.forget_idle(holder);
    }

    fn leave_refusal(&mut self, holder: Holder) {
        self.refusing = self.refusing.saturating_sub(1);
        if let Some(held) = self.holders.get_mut(&holder) {
            held.refusing = held.refusing.saturating_sub(1);
        }
        self.forget_idle(holder);
    }

    fn forget_idle(&mut self, holder: Holder) {
        let held = self.holders.get(&holder);
        if held.is_some_and(|held| held.working == 0 && held.refusing == 0) {
            self.holders.remove(&holder);
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.under_way().leave_work(self.1);
    }
}

impl Refusing {
    /// Leaves the place, or keeps it to record what found none. Somebody who has a place sees to that:
    /// it is counted only while all places are taken that it could have.
    pub(crate) fn leave(mut self) -> Option<(Self, Dropped)> {
        let (load, holder) = self.0.take()?;
        let mut under_way = load.under_way();
        // Its own agent's first: another agent's flood is not its business alone.
        let own = under_way.dropped.remove(&holder);
        let dropped = own.or_else(|| Some(under_way.dropped.pop_first()?.1));
        if dropped.is_none() {
            under_way.leave_refusal(holder);
        }
        drop(under_way);
        let dropped = dropped?;
        Some((Self(Some((load, holder))), dropped))
    }
}

impl Drop for Refusing {
    fn drop(&mut self) {
        if let Some((load, holder)) = self.0.take() {
            load.under_way().leave_refusal(holder);
        }
    }
}

#[cfg(test)]
mod tests {
    use agentguard_model::{Process, Transport};

    use super::*;
    use crate::port::Client;

    fn of(agent: u32) -> Sender {
        Sender {
            netns: 1,
            peer: ([127, 0, 0, 1], 4000).into(),
            transport: Transport::Tcp,
            client: Some(Client {
                agent: AgentId(agent),
                run: 0,
                process: Process {
                    pid: 1,
                    uid: 1000,
                    comm: "curl".to_owned(),
                    exe: None,
                },
                socket: 0,
            }),
        }
    }

    fn idle(load: &Load) -> bool {
        let under_way = load.under_way();
        under_way.holders.is_empty() && under_way.working == 0 && under_way.refusing == 0
    }

    #[test]
    fn one_agent_is_bounded_and_another_does_not_feel_it() {
        let load = Load::new(100, 2);
        let (one, two) = (of(1), of(2));
        let working: Vec<_> = (0..2).map(|_| load.admit(&one)).collect();
        assert!(working.iter().all(|a| matches!(a, Admission::Work(_))));
        let mut refusing: Vec<_> = (0..REFUSALS_PER_AGENT).map(|_| load.admit(&one)).collect();
        assert!(refusing.iter().all(|a| matches!(a, Admission::Refuse(_))));
        for _ in 0..5 {
            assert!(matches!(load.admit(&one), Admission::Drop));
        }
        assert!(matches!(load.admit(&two), Admission::Work(_)));
        let Some(Admission::Refuse(last)) = refusing.pop() else {
            panic!("the last was refused");
        };
        let (last, dropped) = last.leave().unwrap();
        assert_eq!((dropped.count, load.unrecorded()), (5, 0));
        assert!(last.leave().is_none());
        drop((working, refusing));
        assert!(idle(&load), "nothing is kept of the idle");
    }

    #[test]
    fn what_finds_no_place_is_counted_by_whoever_has_one() {
        let load = Load::new(1, 1);
        let working = load.admit(&of(0));
        let agents = u32::try_from(REFUSALS / REFUSALS_PER_AGENT).unwrap();
        let mut refusing: Vec<_> = (1..=agents)
            .flat_map(|agent| (0..REFUSALS_PER_AGENT).map(move |_| agent))
            .map(|agent| load.admit(&of(agent)))
            .collect();
        assert!(refusing.iter().all(|a| matches!(a, Admission::Refuse(_))));
        // Agents of which none is refused.
        let (first, second) = (agents + 1, agents + 2);
        for agent in [second, first, first] {
            assert!(matches!(load.admit(&of(agent)), Admission::Drop));
        }
        assert_eq!(load.unrecorded(), 3);
        let Some(Admission::Refuse(place)) = refusing.pop() else {
            panic!("the last was refused");
        };
        let mut told = Vec::new();
        let mut left = place.leave();
        while let Some((place, dropped)) = left {
            told.push((dropped.sender.client.unwrap().agent.0, dropped.count));
            left = place.leave();
        }
        assert_eq!(
            (told, load.unrecorded()),
            (vec![(first, 2), (second, 1)], 0)
        );
        drop((working, refusing));
        assert!(idle(&load), "nothing is kept of the idle");
    }
}

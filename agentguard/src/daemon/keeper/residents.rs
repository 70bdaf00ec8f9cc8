//! Network namespaces that agents' processes live in: the guard listens in each, for as long as one of
//! them does.
//!
//! A look goes through the threads of all governed cgroups, without the keeper's lock; one look at a time.
//! It is taken once a second, when a cgroup is adopted, and when the gate refuses something in a
//! namespace that it does not know. Until the guard listens there, what needs it is refused.
//!
//! Each agent has bounds of its own, and each look has a time that the agents share in small slices: one
//! that is much to look at is looked at over several looks, and the others in each. Nothing is closed
//! for an agent that was not looked through to the end.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentguard_keeper::home::{self, Known, Look, NamespaceId, Past, Seen, WayOut};
use agentguard_keeper::namespace::{Listening, NamespaceError, Ports, listen_inside};
use agentguard_model::AgentId;

use super::link::wake_supervisor;
use super::{Shared, lock};

/// How often is looked.
const LOOK: Duration = Duration::from_secs(1);
/// The time between two looks at least.
const REST: Duration = Duration::from_millis(50);
/// What a look takes of the time until the next, at most: a quarter of a processor.
const SHARE: u32 = 4;
/// How long a look may take; then it is gone on with in the next.
const BUDGET: Duration = Duration::from_millis(200);
/// How long is looked at one agent before it is the next one's turn.
const SLICE: Duration = Duration::from_millis(5);
/// How long an agent may be looked at before operators are told.
const LONG: Duration = Duration::from_secs(10);
/// How long who adopts a workload waits for the look at it.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How often is looked at what processes hold.
const INSPECT: Duration = Duration::from_secs(10);
/// Namespaces of one agent that are listened in.
pub(super) const PER_AGENT: usize = 64;
/// Namespaces that are listened in, where there are descriptors for so many.
const IN_ALL: usize = 4096;
/// Descriptors that a namespace may take: eight of six listeners, and as many again for what goes through them.
const DESCRIPTORS: u64 = 24;

/// A namespace that is listened in.
#[derive(Debug)]
pub(super) struct Resident {
    /// Whose bound it counts for.
    pub(super) agent: AgentId,
    /// Who was seen to live in it, and not seen to have left.
    pub(super) lives: BTreeSet<AgentId>,
    pub(super) listening: Listening,
    /// Whether the kernel knows it as one with a way out.
    pub(super) route_out: bool,
}

/// What the last looks found.
#[derive(Debug, Default)]
pub(super) struct Residents {
    pub(super) open: HashMap<NamespaceId, Resident>,
    /// Where the guard cannot listen: whose it is, and why.
    pub(super) closed: HashMap<NamespaceId, (AgentId, String)>,
    /// Namespaces beyond the bounds.
    pub(super) beyond: BTreeMap<AgentId, usize>,
    /// Namespaces of whose routes too many were there to find one that leads out.
    pub(super) unread: BTreeMap<AgentId, usize>,
    /// What was not looked at.
    pub(super) incomplete: BTreeMap<AgentId, Vec<String>>,
    /// What can get around the gate.
    pub(super) uncontained: BTreeMap<AgentId, Vec<String>>,
    /// What of that is something that is open.
    pub(super) past: BTreeMap<AgentId, Vec<Past>>,
    /// Whether there was a first look.
    pub(super) looked: bool,
}

impl Residents {
    /// What operators should know of an agent.
    pub(super) fn warnings(&self, agent: AgentId) -> Vec<String> {
        let mut warnings = Vec::new();
        for what in self.uncontained.get(&agent).into_iter().flatten() {
            warnings.push(format!("not contained: {what}"));
        }
        if let Some(omitted) = self.incomplete.get(&agent) {
            warnings.push(format!(
                "not looked through to the end: {}; the guard goes on listening where it does, may be \
                 missing elsewhere, and more may not be contained",
                omitted.join("; ")
            ));
        }
        if let Some(unread) = self.unread.get(&agent) {
            warnings.push(format!(
                "in {} there are too many routes to find one that leads out: direct flows go through the \
                 proxy or are refused",
                namespaces(*unread)
            ));
        }
        let closed = self.closed.values().filter(|(whose, _)| *whose == agent);
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, why) in closed {
            *reasons.entry(why).or_default() += 1;
        }
        for (why, count) in reasons.into_iter().take(4) {
            warnings.push(format!(
                "in {} the guard does not listen, and what needs it is refused: {why}",
                namespaces(count)
            ));
        }
        if let Some(beyond) = self.beyond.get(&agent) {
            warnings.push(format!(
                "in {} the guard does not listen, and what needs it is refused: it listens in at most \
                 {} of an agent, and {} in all",
                namespaces(*beyond),
                per_agent(limit()),
                limit()
            ));
        }
        warnings
    }
}

impl Residents {
    /// Forgets agents that are not governed any more.
    pub(super) fn forget_others(&mut self, there: impl Fn(&AgentId) -> bool) {
        self.closed.retain(|_, (agent, _)| there(agent));
        for counts in [&mut self.beyond, &mut self.unread] {
            counts.retain(|agent, _| there(agent));
        }
        for reasons in [&mut self.incomplete, &mut self.uncontained] {
            reasons.retain(|agent, _| there(agent));
        }
        self.past.retain(|agent, _| there(agent));
    }
}

fn namespaces(count: usize) -> String {
    if count == 1 {
        "a network namespace".to_owned()
    } else {
        format!("{count} network namespaces")
    }
}

/// Namespaces that are listened in, by what descriptors this process may have.
fn limit() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let most = files.map_or(u64::MAX, |files| files / DESCRIPTORS);
    usize::try_from(most).map_or(IN_ALL, |most| most.min(IN_ALL))
}

/// How many of them one agent gets, so that it leaves some for others.
pub(super) fn per_agent(limit: usize) -> usize {
    PER_AGENT.min((limit / 4).max(1))
}

/// Wakes the thread of [`follow`].
#[derive(Debug, Default)]
pub(super) struct Hint {
    given: Mutex<bool>,
    changed: Condvar,
}

impl Hint {
    /// A look is worth it.
    pub(super) fn give(&self) {
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits for one. `false`: it is time anyway.
    fn wait(&self, limit: Duration) -> bool {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(given, limit, |given| !*given);
        let (mut given, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *given)
    }
}

/// Who is where, and what is to be looked for.
pub(super) struct Homes {
    /// Cgroups, none below another of the same agent.
    pub(super) cgroups: BTreeMap<AgentId, Vec<PathBuf>>,
    /// Those with a cgroup that was adopted: what their processes have open may be older than the gate.
    pub(super) adopted: BTreeSet<AgentId>,
    /// What is known of what processes have open.
    pub(super) known: Known,
    pub(super) ports: Ports,
}

/// What a look found of one agent.
pub(super) struct Found {
    pub(super) agent: AgentId,
    pub(super) namespaces: BTreeMap<NamespaceId, Seen>,
    /// Whether it was looked at to the end.
    pub(super) finished: bool,
    /// What was left out.
    pub(super) omitted: Vec<String>,
    /// `None`: that was not looked for, or not to the end.
    pub(super) uncontained: Option<Vec<String>>,
    /// What of that is something that is open.
    pub(super) past: Vec<Past>,
}

impl Found {
    /// Whether the agent lives nowhere else.
    pub(super) fn is_all(&self) -> bool {
        self.finished && self.omitted.is_empty()
    }
}

/// What became of a namespace that was not listened in.
pub(super) type Opened = (
    NamespaceId,
    AgentId,
    WayOut,
    Result<Listening, NamespaceError>,
);

/// Looks from now on, on a thread of its own.
pub(super) fn follow(keeper: &Shared) -> std::io::Result<()> {
    let keeper = keeper.clone();
    let hint = lock(&keeper).hint();
    std::thread::Builder::new()
        .name("namespaces".into())
        .spawn(move || {
            let mut first = true;
            loop {
                let begun = Instant::now();
                let unfinished = look(&keeper, None);
                let took = begun.elapsed();
                if std::mem::take(&mut first) {
                    wake_supervisor();
                }
                // A hint that came meanwhile is taken up after it.
                let rest = (took * (SHARE - 1)).clamp(REST, LOOK);
                std::thread::park_timeout(rest);
                let idle = if unfinished { Duration::ZERO } else { LOOK };
                let hinted = hint.wait(idle.saturating_sub(rest));
                // The cgroup may be as new as the namespace; every second that is seen to elsewhere.
                if hinted && let Err(error) = lock(&keeper).follow_subtrees() {
                    // Told by who does it every second.
                    tracing::debug!(error = format!("{error:#}"), "cannot follow the cgroups");
                }
            }
        })?;
    Ok(())
}

/// Looks at one agent from the beginning, also at what its processes hold, before it looks on at others;
/// to the end, or as long as is waited for it.
pub(super) fn look_at(keeper: &Shared, agent: AgentId) {
    let until = Instant::now() + PATIENCE;
    let looking = lock(keeper).looking();
    let held = |looking: &Mutex<Looking>| {
        let looking = looking.lock().unwrap_or_else(PoisonError::into_inner);
        looking.queue.iter().any(|(whose, _)| *whose == agent)
    };
    looking
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .begin_again(agent);
    loop {
        look(keeper, Some(agent));
        if !held(&looking) {
            return;
        }
        if Instant::now() >= until {
            lock(keeper).note_long(agent, PATIENCE);
            return;
        }
    }
}

/// Listens in every namespace that an agent's process lives in, and nowhere else. `true`: there is more to
/// look at than there was time.
fn look(keeper: &Shared, first: Option<AgentId>) -> bool {
    let looking: Arc<Mutex<Looking>> = lock(keeper).looking();
    let mut looking = looking.lock().unwrap_or_else(PoisonError::into_inner);
    let homes = lock(keeper).homes();
    let found = looking.turn(&homes, first, BUDGET);
    let strange = {
        let mut keeper = lock(keeper);
        keeper.note(&homes, &found);
        keeper.strange(&found, limit())
    };
    let opened = strange
        .into_iter()
        .filter_map(|(id, agent, seen)| {
            let listening = match home::open(seen.thread, id) {
                Ok(Some(namespace)) => listen_inside(namespace.as_fd(), homes.ports),
                // The thread has ended: then there is perhaps nobody left.
                Ok(None) => return None,
                Err(source) => Err(NamespaceError::Sys {
                    what: "open a thread's network namespace",
                    source,
                }),
            };
            Some((id, agent, seen.route_out, listening))
        })
        .collect();
    lock(keeper).settle(opened);
    !looking.queue.is_empty()
}

/// What looks go on with.
#[derive(Debug, Default)]
pub(super) struct Looking {
    /// Whom there was not enough time for, longest first.
    queue: VecDeque<(AgentId, Look)>,
    /// When it was last looked at what an agent's processes hold.
    inspected: HashMap<AgentId, Instant>,
}

impl Looking {
    /// What is known of an agent by now may be too old.
    fn begin_again(&mut self, agent: AgentId) {
        self.queue.retain(|(whose, _)| *whose != agent);
        self.inspected.remove(&agent);
    }

    /// Looks at everybody in turn, for as long as there is time, and at `first` for half of it.
    fn turn(&mut self, homes: &Homes, first: Option<AgentId>, budget: Duration) -> Vec<Found> {
        let until = Instant::now() + budget;
        self.expect(homes);
        if let Some(first) = first
            && let Some(place) = self.queue.iter().position(|(whose, _)| *whose == first)
            && let Some(look) = self.queue.remove(place)
        {
            self.queue.push_front(look);
        }
        let mut found = Vec::new();
        let mut begun = BTreeSet::new();
        while let Some((agent, mut look)) = self.queue.pop_front() {
            let slice = if begun.is_empty() && Some(agent) == first {
                budget / 2
            } else {
                SLICE.min(budget)
            };
            begun.insert(agent);
            if look.advance(Instant::now() + slice) {
                found.push(Found::new(agent, &look, true));
            } else {
                self.queue.push_back((agent, look));
            }
            if Instant::now() >= until {
                break;
            }
        }
        let unfinished = self.queue.iter().filter(|(agent, _)| begun.contains(agent));
        found.extend(unfinished.map(|(agent, look)| Found::new(*agent, look, false)));
        found
    }

    /// Queues everybody who is not, behind those who are.
    fn expect(&mut self, homes: &Homes) {
        let there = |agent: &AgentId| homes.cgroups.contains_key(agent);
        self.queue.retain(|(agent, _)| there(agent));
        self.inspected.retain(|agent, _| there(agent));
        let queued: BTreeSet<AgentId> = self.queue.iter().map(|(agent, _)| *agent).collect();
        for (agent, cgroups) in &homes.cgroups {
            if queued.contains(agent) {
                continue;
            }
            let last = self.inspected.get(agent);
            let inspect = last.is_none_or(|when| when.elapsed() > INSPECT);
            if inspect {
                self.inspected.insert(*agent, Instant::now());
            }
            let mut look = Look::new(cgroups.clone(), inspect);
            if homes.adopted.contains(agent) {
                look = look.with_descriptors(homes.known.clone());
            }
            self.queue.push_back((*agent, look));
        }
    }
}

impl Found {
    fn new(agent: AgentId, look: &Look, finished: bool) -> Self {
        let mut omitted = look.omitted();
        if !finished && look.age() > LONG {
            omitted.push(too_long(LONG));
        }
        Self {
            agent,
            namespaces: look.namespaces().clone(),
            finished,
            omitted,
            uncontained: look.uncontained().filter(|_| finished),
            past: look.past(),
        }
    }
}

/// Why a look is not at its end.
pub(super) fn too_long(limit: Duration) -> String {
    format!("looking takes longer than {} s", limit.as_secs())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    use super::{AgentId, Homes, Known, Looking, PER_AGENT, Ports, Residents};

    #[test]
    fn operators_are_told_what_is_not_held_and_not_served() {
        let mut residents = Residents::default();
        let (one, other) = (AgentId(1), AgentId(2));
        residents.beyond.insert(one, 3);
        residents.uncontained.insert(one, vec!["why".to_owned()]);
        let told = residents.warnings(one);
        assert_eq!(told[0], "not contained: why");
        assert!(told[1].starts_with("in 3 network namespaces the guard does not listen"));
        assert!(told[1].contains(&format!("at most {PER_AGENT} of an agent")));
        assert!(residents.warnings(other).is_empty());
    }

    /// Directories that look like cgroups, without a thread.
    fn cgroups(top: &Path, count: usize) {
        for number in 0..count {
            let path = top.join(number.to_string());
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("cgroup.threads"), "").unwrap();
        }
        fs::write(top.join("cgroup.threads"), "").unwrap();
    }

    #[test]
    fn one_that_is_much_to_look_at_keeps_nobody_waiting_and_is_seen_to_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let homes = [(1, 1000), (2, 1), (3, 1), (4, 5000)].map(|(agent, count)| {
            let top = directory.path().join(format!("agent-{agent}"));
            cgroups(&top, count);
            (AgentId(agent), vec![top])
        });
        let homes = Homes {
            cgroups: BTreeMap::from(homes),
            adopted: BTreeSet::from([AgentId(1), AgentId(3)]),
            known: Known::default(),
            ports: Ports {
                proxy: 1,
                resolver: 2,
            },
        };
        let mut looking = Looking::default();
        let (mut seen, mut turns) = (BTreeMap::new(), 0);
        // Less than the slice: the two are stopped in each.
        while seen.len() < 4 {
            let before = seen.len();
            for found in looking.turn(&homes, None, Duration::from_millis(1)) {
                if found.finished {
                    seen.entry(found.agent).or_insert((turns, found.omitted));
                } else {
                    assert!(!found.is_all());
                }
            }
            turns += 1;
            assert!(turns < 100_000, "{before}");
        }
        let turn = |agent| seen[&AgentId(agent)].0;
        assert!(turn(2) <= 4 && turn(3) <= 4, "{seen:?}");
        assert!(turn(1) > turn(2) && turn(4) > turn(3), "{seen:?}");
        assert!(seen[&AgentId(1)].1.is_empty());
        // Beyond a bound it is looked at no further, and that is told.
        assert_eq!(seen[&AgentId(4)].1, ["more than 4096 cgroups"]);
        // Who has left is forgotten.
        let nobody = Homes {
            cgroups: BTreeMap::new(),
            ..homes
        };
        assert!(looking.turn(&nobody, None, Duration::ZERO).is_empty());
        assert!(looking.queue.is_empty() && looking.inspected.is_empty());
    }

    #[test]
    fn who_adopts_is_served_before_others_and_from_the_beginning() {
        let directory = tempfile::tempdir().unwrap();
        cgroups(directory.path(), 3);
        let homes = Homes {
            cgroups: (1..50)
                .map(|agent| (AgentId(agent), vec![directory.path().to_owned()]))
                .collect(),
            adopted: BTreeSet::new(),
            known: Known::default(),
            ports: Ports {
                proxy: 1,
                resolver: 2,
            },
        };
        let mut looking = Looking::default();
        let first = |looking: &mut Looking| {
            let found = looking.turn(&homes, Some(AgentId(40)), Duration::ZERO);
            found[0].agent
        };
        assert_eq!(first(&mut looking), AgentId(40));
        looking.begin_again(AgentId(40));
        assert!(!looking.queue.iter().any(|(agent, _)| agent.0 == 40));
        assert_eq!(first(&mut looking), AgentId(40));
    }
}

//! What agents may take of the host: limits are held, what is taken is told, and what happened is recorded.
//!
//! A look goes through the cgroups of all agents, on a thread of its own and without the keeper's lock, since the
//! kernel takes its time to take memory back. One look at a time, so that nobody sets what another takes back. It is
//! taken every few seconds, when a policy came into force, and when a cgroup was added or removed. A run's own cgroup
//! is held to its limits before anything runs in it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentguard_keeper::resources::controllers::Tree;
use agentguard_keeper::resources::pressure::Episodes;
use agentguard_keeper::resources::usage::{self, Counts, Due};
use agentguard_keeper::resources::{Lack, limits};
use agentguard_model::{AgentId, ResourceEvent, ResourceLimits, ResourceUsage};

use super::{Shared, lock};

/// How often is looked.
const EVERY: Duration = Duration::from_secs(2);
/// How long a look may take; then it is gone on with after a pause.
const BUDGET: Duration = Duration::from_millis(200);
/// That pause.
const REST: Duration = Duration::from_millis(100);
/// How long who changed something waits for the look at it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Cgroups of one agent whose use is told and in which is looked for what happened. All are held to limits.
const TOLD_CGROUPS: usize = 64;
/// Sentences about one agent.
const TOLD_LACKS: usize = 4;
/// How often is recorded that an agent met its limits, at most: it can do so all the time.
const EVENTS: Duration = Duration::from_secs(10);
/// How often is recorded that it was held up, or slowed down for its memory, at most: who uses all it may always is.
const THROTTLING: Duration = Duration::from_secs(60);

/// An agent, and what it is held to.
#[derive(Clone, Debug)]
pub(super) struct Bounded {
    pub(super) agent: AgentId,
    /// `None`: the policy does not have it, and it stays held to what it is.
    pub(super) limits: Option<ResourceLimits>,
    /// Its cgroups, none that is a run's.
    pub(super) cgroups: Vec<PathBuf>,
}

/// What a look found of an agent.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) agent: AgentId,
    pub(super) usage: ResourceUsage,
    /// The limits that it is not held to, and why: a sentence each.
    pub(super) lacks: Vec<String>,
}

/// What looks go on with.
#[derive(Debug, Default)]
pub(super) struct Looking {
    queue: VecDeque<Bounded>,
    /// When all were queued.
    begun: Option<Instant>,
    /// Cgroups that were held to limits.
    held: HashSet<PathBuf>,
    /// When something was last recorded of an agent.
    recorded: HashMap<AgentId, Recorded>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Recorded {
    events: Option<Instant>,
    throttling: Option<Instant>,
    high: Option<Instant>,
    episodes: Episodes,
}

impl Recorded {
    /// Whether something that was recorded keeps more from being recorded.
    fn is_recent(&self) -> bool {
        let is_new = |last: &Option<Instant>| last.is_some_and(|it| it.elapsed() < THROTTLING);
        [self.events, self.throttling, self.high].iter().any(is_new)
            || self.episodes.is_recent(Instant::now())
    }
}

/// Looks from now on, on a thread of its own.
pub(super) fn follow(keeper: &Shared) -> std::io::Result<()> {
    let keeper = keeper.clone();
    std::thread::Builder::new()
        .name("resources".into())
        .spawn(move || {
            loop {
                let unfinished = look(&keeper, false, BUDGET);
                std::thread::park_timeout(if unfinished { REST } else { EVERY });
            }
        })?;
    Ok(())
}

/// Looks at all agents now, for as long as somebody waits for it: something was changed.
pub(super) fn look_now(keeper: &Shared) {
    let until = Instant::now() + PATIENCE;
    let mut anew = true;
    while look(keeper, std::mem::take(&mut anew), BUDGET) {
        if Instant::now() >= until {
            tracing::warn!("limits of resources are still being set; it goes on");
            return;
        }
    }
}

/// `anew`: from the first agent on. `true`: there is more to look at than there was time.
fn look(keeper: &Shared, anew: bool, budget: Duration) -> bool {
    let looking: Arc<Mutex<Looking>> = lock(keeper).looking_at_resources();
    let mut looking = looking.lock().unwrap_or_else(PoisonError::into_inner);
    let tree = tree(keeper);
    let due = looking.begun.is_none_or(|begun| begun.elapsed() >= EVERY);
    if anew || looking.queue.is_empty() && due {
        let bounded = lock(keeper).bounded();
        looking.begin(bounded, &tree);
    }
    let until = Instant::now() + budget;
    let mut taken = Vec::new();
    while let Some(bounded) = looking.queue.pop_front() {
        taken.push(looking.see_to(keeper, &tree, &bounded));
        if Instant::now() >= until {
            break;
        }
    }
    let is_over = looking.queue.is_empty();
    lock(keeper).note_resources(taken);
    !is_over
}

/// What is whose to manage. It can change while the daemon runs.
fn tree(keeper: &Shared) -> Tree {
    let (mount, root) = lock(keeper).hierarchy();
    Tree::of_host(&mount, &root)
}

impl Looking {
    /// Queues everybody, and takes limits back where nobody is any more.
    fn begin(&mut self, bounded: Vec<Bounded>, tree: &Tree) {
        let there: HashSet<&PathBuf> = bounded.iter().flat_map(|it| &it.cgroups).collect();
        let left: Vec<PathBuf> = self
            .held
            .iter()
            .filter(|it| !there.contains(it))
            .cloned()
            .collect();
        for cgroup in left {
            self.held.remove(&cgroup);
            if cgroup.exists() {
                for lack in limits::release(tree, &cgroup).lacks {
                    tracing::warn!("{lack}");
                }
            }
        }
        // An agent whose last run ended begins the next one within that time.
        let there: HashSet<AgentId> = bounded.iter().map(|it| it.agent).collect();
        self.recorded
            .retain(|agent, it| there.contains(agent) || it.is_recent());
        self.queue = bounded.into();
        self.begun = Some(Instant::now());
    }

    fn see_to(&mut self, keeper: &Shared, tree: &Tree, bounded: &Bounded) -> Taken {
        let agent = bounded.agent;
        let mut taken = Taken {
            agent,
            usage: ResourceUsage::default(),
            lacks: Vec::new(),
        };
        let mut more = 0;
        for cgroup in &bounded.cgroups {
            let Some(limits) = &bounded.limits else {
                continue;
            };
            let held = limits::hold(tree, cgroup, limits);
            if !limits.is_empty() {
                self.held.insert(cgroup.clone());
            }
            for what in held.put_back {
                tracing::warn!("{what}");
            }
            // One that has gone meanwhile lacks nothing.
            for lack in held.lacks.iter().filter(|_| cgroup.exists()) {
                let told = format!("not held to its limits: {lack}");
                if taken.lacks.contains(&told) {
                    continue;
                }
                if taken.lacks.len() < TOLD_LACKS {
                    taken.lacks.push(told);
                } else {
                    more += 1;
                }
            }
        }
        if more > 0 {
            taken
                .lacks
                .push(format!("not held to {more} more of its limits"));
        }
        let recorded = self.recorded.entry(agent).or_default();
        let is_due =
            |last: Option<Instant>, every| last.is_none_or(|it: Instant| it.elapsed() >= every);
        let events = is_due(recorded.events, EVENTS);
        let due = Due {
            throttling: is_due(recorded.throttling, THROTTLING),
            high: is_due(recorded.high, THROTTLING),
        };
        for cgroup in bounded.cgroups.iter().take(TOLD_CGROUPS) {
            let usage = usage::of(cgroup);
            taken.usage.add(&usage);
            let Some(told) = Counts::told(cgroup) else {
                // What happened before it was an agent's is nobody's to tell.
                Counts::of(&usage).note(cgroup);
                continue;
            };
            if !events {
                continue;
            }
            for event in lock(keeper).tell_resources(agent, cgroup, told, &usage, due) {
                let now = Some(Instant::now());
                recorded.events = now;
                match event {
                    ResourceEvent::CpuThrottled { .. } => recorded.throttling = now,
                    ResourceEvent::MemoryHigh { .. } => recorded.high = now,
                    _ => {}
                }
            }
        }
        let now = Instant::now();
        for (awaited, pressure) in recorded.episodes.due(&taken.usage.pressure, now) {
            if lock(keeper).tell_pressure(agent, awaited, pressure) {
                recorded.episodes.told(awaited, now);
            }
        }
        taken
    }
}

/// Holds an agent's own cgroup to its limits, before something runs in it. Gives what it cannot be held to.
///
/// Not under the lock: what runs there already may have to give memory back.
pub(super) fn begin(
    mount: &Path,
    root: &Path,
    cgroup: &Path,
    limits: &ResourceLimits,
) -> Vec<Lack> {
    if limits.is_empty() {
        return Vec::new();
    }
    let tree = Tree::of_host(mount, root);
    let held = limits::hold(&tree, cgroup, limits);
    if Counts::told(cgroup).is_none() {
        Counts::of(&usage::of(cgroup)).note(cgroup);
    }
    held.lacks
}

/// What limits could not be set on a cgroup that is there already, for who wants to add it.
pub(super) fn lacks(keeper: &Shared, cgroup: &Path, limits: &ResourceLimits) -> Vec<Lack> {
    limits::lacks(&tree(keeper), cgroup, limits)
}

/// Takes limits back from cgroups, and says how many had some.
pub(super) fn release<'a>(
    mount: &Path,
    root: &Path,
    cgroups: impl Iterator<Item = &'a Path>,
) -> usize {
    let tree = Tree::of_host(mount, root);
    let mut released = 0;
    for cgroup in cgroups.filter(|it| limits::is_held(it)) {
        released += 1;
        for lack in limits::release(&tree, cgroup).lacks {
            tracing::warn!("{lack}");
        }
    }
    released
}

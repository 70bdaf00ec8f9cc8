//! Network namespaces that agents' processes live in: the guard listens in each, for as long as one of
//! them does.
//!
//! A look goes through the threads of all governed cgroups, without the keeper's lock; one look at a time.
//! It is taken once a second, when a cgroup is adopted, and when the gate refuses something in a
//! namespace that it does not know. Until the guard listens there, what needs it is refused.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentguard_keeper::home::{self, Bounds, NamespaceId};
use agentguard_keeper::namespace::{Listening, NamespaceError, Ports, listen_inside};
use agentguard_model::AgentId;

use super::{Shared, lock};

/// How often is looked.
const LOOK: Duration = Duration::from_secs(1);
/// The time between two looks at least.
const REST: Duration = Duration::from_millis(50);
/// How often is looked at what processes hold.
const INSPECT: Duration = Duration::from_secs(10);
/// Namespaces of one agent that are listened in.
pub(super) const PER_AGENT: usize = 64;
/// Namespaces that are listened in, where there are descriptors for so many.
const IN_ALL: usize = 4096;
/// Descriptors that a namespace may take: six listeners, and as many again for what goes through them.
const DESCRIPTORS: u64 = 24;

/// A namespace that is listened in.
#[derive(Debug)]
pub(super) struct Resident {
    pub(super) agent: AgentId,
    pub(super) listening: Listening,
    /// Whether the kernel knows it as one with a way out.
    pub(super) route_out: bool,
}

/// What the last look found.
#[derive(Debug, Default)]
pub(super) struct Residents {
    pub(super) open: HashMap<NamespaceId, Resident>,
    /// Where the guard cannot listen: whose it is, and why.
    pub(super) closed: HashMap<NamespaceId, (AgentId, String)>,
    /// Namespaces beyond the bounds.
    pub(super) beyond: BTreeMap<AgentId, usize>,
    /// What can get around the gate.
    pub(super) uncontained: BTreeMap<AgentId, Vec<String>>,
    inspected: Option<Instant>,
}

impl Residents {
    /// What operators should know of an agent.
    pub(super) fn warnings(&self, agent: AgentId) -> Vec<String> {
        let mut warnings = Vec::new();
        for what in self.uncontained.get(&agent).into_iter().flatten() {
            warnings.push(format!("not contained: {what}"));
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
                 {PER_AGENT} of an agent, and {} in all",
                namespaces(*beyond),
                limit()
            ));
        }
        warnings
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
    pub(super) cgroups: Vec<(AgentId, PathBuf)>,
    pub(super) ports: Ports,
}

/// What a look found.
pub(super) struct Found {
    /// With one of its threads, and whose that is.
    pub(super) namespaces: BTreeMap<NamespaceId, (AgentId, u32)>,
    pub(super) uncontained: Option<BTreeMap<AgentId, Vec<String>>>,
}

/// What became of a namespace that was not listened in.
pub(super) type Opened = (
    NamespaceId,
    AgentId,
    bool,
    Result<Listening, NamespaceError>,
);

/// Looks from now on, on a thread of its own.
pub(super) fn follow(keeper: &Shared) -> std::io::Result<()> {
    let keeper = keeper.clone();
    let hint = lock(&keeper).hint();
    std::thread::Builder::new()
        .name("namespaces".into())
        .spawn(move || {
            loop {
                let hinted = hint.wait(LOOK);
                // The cgroup may be as new as the namespace; every second that is seen to elsewhere.
                if hinted && let Err(error) = lock(&keeper).follow_subtrees() {
                    tracing::warn!(error = format!("{error:#}"), "cannot follow the cgroups");
                }
                look(&keeper);
                // A hint that comes meanwhile is taken up after it.
                std::thread::park_timeout(REST);
            }
        })?;
    Ok(())
}

/// Listens in every namespace that an agent's process lives in, and nowhere else.
pub(super) fn look(keeper: &Shared) {
    let looking: Arc<Mutex<()>> = lock(keeper).looking();
    let _one = looking.lock().unwrap_or_else(PoisonError::into_inner);
    let (homes, inspect) = {
        let mut keeper = lock(keeper);
        (keeper.homes(), keeper.residents().is_inspection_due())
    };
    let mut found = go_through(&homes);
    if inspect {
        found.uncontained = Some(uncontained(&homes));
    }
    let strange = lock(keeper).strange(&found, limit());
    let opened = strange
        .into_iter()
        .filter_map(|(id, agent, thread)| {
            // Both fail where the thread has ended: then there is perhaps nobody left.
            let namespace = home::open(thread, id)?;
            let route_out = home::has_route_out(thread)?;
            let listening = listen_inside(namespace.as_fd(), homes.ports);
            Some((id, agent, route_out, listening))
        })
        .collect();
    lock(keeper).settle(found, opened);
}

impl Residents {
    fn is_inspection_due(&mut self) -> bool {
        let due = self.inspected.is_none_or(|when| when.elapsed() > INSPECT);
        if due {
            self.inspected = Some(Instant::now());
        }
        due
    }

    /// The next look is at what processes hold, too.
    pub(super) fn inspect_next(&mut self) {
        self.inspected = None;
    }
}

fn go_through(homes: &Homes) -> Found {
    let mut bounds = Bounds::default();
    let mut namespaces = BTreeMap::new();
    for (agent, cgroup) in &homes.cgroups {
        home::threads(cgroup, &mut bounds, |thread| {
            if let Some(id) = home::namespace_of(thread) {
                namespaces.entry(id).or_insert((*agent, thread));
            }
        });
    }
    if bounds.reached() {
        tracing::warn!("there are more cgroups or threads than are looked through for namespaces");
    }
    Found {
        namespaces,
        uncontained: None,
    }
}

fn uncontained(homes: &Homes) -> BTreeMap<AgentId, Vec<String>> {
    let mut bounds = Bounds::default();
    let mut all: BTreeMap<AgentId, Vec<String>> = BTreeMap::new();
    for (agent, cgroup) in &homes.cgroups {
        for what in home::uncontained(cgroup, &mut bounds) {
            let told = all.entry(*agent).or_default();
            if !told.contains(&what) {
                told.push(what);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::{AgentId, PER_AGENT, Residents};

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
}

//! Answering queries: by id, by what a decision says.
//!
//! A reader takes what the index knows and reads the log from where the index ends, so that what
//! was acknowledged is found at once. Nothing here waits for the writer or makes it wait. All of it
//! blocks on the disk: callers in async code go through [`crate::Record`].

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use agentguard_model::{ActionKind, AgentName, Decision, DecisionId, Verdict};
use jiff::Timestamp;
use ulid::Ulid;

use crate::entry::{Count, Entry, Notice};
use crate::frame;
use crate::index::{Filter, Snapshot};
use crate::segment::{self, Broken, Location, Position};
use crate::shared::Shared;
use crate::walk::{Met, start, walk};

/// How many decisions one query gives at most, whatever it asks for; with [`Query::before`] it goes
/// on from there.
pub const MAX_LIMIT: usize = 10_000;

/// Which decisions to give.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Of this agent.
    pub agent: Option<AgentName>,
    /// With this verdict.
    pub verdict: Option<Verdict>,
    /// On this kind of action.
    pub kind: Option<ActionKind>,
    /// Taken at this time or later.
    pub since: Option<Timestamp>,
    /// Older than this one: for going on where an earlier answer began.
    pub before: Option<DecisionId>,
    /// The newest so many, [`MAX_LIMIT`] at most. 0 gives none; a follower then begins now.
    pub limit: usize,
    /// Those alone that this lets through, which is asked of each as it is read.
    pub only: Option<Only>,
}

/// Lets some decisions through: what of the record somebody may read.
#[derive(Clone)]
pub struct Only(Arc<dyn Fn(&Decision) -> bool + Send + Sync>);

impl Only {
    /// Those of which `which` is true.
    pub fn new(which: impl Fn(&Decision) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(which))
    }
}

impl fmt::Debug for Only {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Only")
    }
}

impl Query {
    /// Whether a decision is among them, `before` and `limit` aside.
    pub(crate) fn matches(&self, decision: &Decision) -> bool {
        let agent = decision.agent.as_ref().map(|agent| &agent.name);
        self.agent.as_ref().is_none_or(|name| agent == Some(name))
            && self
                .verdict
                .is_none_or(|verdict| decision.verdict == verdict)
            && self.kind.is_none_or(|kind| decision.action.kind == kind)
            && self.since.is_none_or(|since| decision.time >= since)
            && self.only.as_ref().is_none_or(|only| (only.0)(decision))
    }

    fn is_before(&self, id: DecisionId) -> bool {
        self.before.is_none_or(|before| id < before)
    }
}

/// The record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The segments cannot be read.
    #[error("cannot read the segments under {dir}")]
    Segments {
        /// The record's directory.
        dir: String,
        /// What the file system says.
        #[source]
        source: io::Error,
    },
    /// The thread that was reading died.
    #[error("the reading thread died")]
    Died,
}

impl ReadError {
    pub(crate) fn segments(shared: &Shared, source: io::Error) -> Self {
        Self::Segments {
            dir: shared.dir.display().to_string(),
            source,
        }
    }
}

/// Reads entries at known places, a few files held open.
struct Entries<'a> {
    shared: &'a Shared,
    files: HashMap<u64, File>,
}

/// How many files a reader holds open.
const FILES: usize = 16;

impl<'a> Entries<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            files: HashMap::new(),
        }
    }

    /// The entry at a place; `None` if retention has deleted it or it is damaged, which is then
    /// known to the status.
    fn at(&mut self, at: Location) -> io::Result<Option<Entry>> {
        if !self.files.contains_key(&at.segment) {
            let file = match File::open(segment::path(&self.shared.dir, at.segment)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if self.shared.has(at.segment) {
                        self.shared.tell_damage(&Broken {
                            at: Location { offset: 0, ..at },
                            until: 0,
                            missing: None,
                            what: Cow::Borrowed(
                                "the file is gone, and not by retention, and reading fails",
                            ),
                        });
                    }
                    return Ok(None);
                }
                other => other?,
            };
            if self.files.len() >= FILES {
                self.files.clear();
            }
            self.files.insert(at.segment, file);
        }
        let Some(file) = self.files.get(&at.segment) else {
            return Ok(None);
        };
        let entry = frame::read_at(file, at.offset)?
            .and_then(|(_, payload)| serde_json::from_slice(&payload).ok());
        if entry.is_none() {
            self.shared.tell_damage(&Broken {
                at,
                until: at.offset,
                missing: None,
                what: Cow::Borrowed("an entry that was there when it was indexed cannot be read"),
            });
        }
        Ok(entry)
    }

    /// A decision with what the index knows became of it.
    fn decision(
        &mut self,
        snapshot: &Snapshot,
        id: DecisionId,
        at: Location,
    ) -> io::Result<Option<Box<Decision>>> {
        let Some(Entry::Decision(mut decision)) = self.at(at)? else {
            return Ok(None);
        };
        if decision.id != id {
            return Ok(None);
        }
        for at in snapshot.updates(id) {
            if let Some(entry) = self.at(at)? {
                merge(&mut decision, &entry);
            }
        }
        Ok(Some(decision))
    }
}

/// Adds what a later entry says to the decision it speaks of.
pub(crate) fn merge(decision: &mut Decision, entry: &Entry) {
    match entry {
        Entry::Outcome { id, outcome } if *id == decision.id => {
            decision.outcome = Some(outcome.as_ref().clone());
        }
        Entry::Aggregate(count) if count.id == decision.id => merge_count(decision, count),
        _ => {}
    }
}

fn merge_count(decision: &mut Decision, count: &Count) {
    if count.count > decision.count {
        decision.count = count.count;
        decision.last = Some(count.last);
    }
}

/// Reads with the index; if that breaks meanwhile, once more without it.
fn with_index<T>(
    shared: &Shared,
    read: impl Fn(Option<&Snapshot>, Position) -> io::Result<T>,
) -> io::Result<T> {
    if let Some(snapshot) = shared.index().and_then(|index| index.snapshot()) {
        let at = snapshot.position().unwrap_or_else(|| start(shared));
        let answer = read(Some(&snapshot), at);
        if !snapshot.is_unreadable() {
            return answer;
        }
        shared.break_index();
    }
    read(None, start(shared))
}

/// The decisions that a query asks for, up to a place in the log, the newest last.
pub(crate) fn query(shared: &Shared, query: &Query, to: Position) -> io::Result<Vec<Decision>> {
    with_index(shared, |snapshot, at| {
        query_from(shared, query, snapshot, at, to)
    })
}

fn query_from(
    shared: &Shared,
    query: &Query,
    snapshot: Option<&Snapshot>,
    at: Position,
    to: Position,
) -> io::Result<Vec<Decision>> {
    let limit = query.limit.min(MAX_LIMIT);
    if limit == 0 {
        return Ok(Vec::new());
    }
    let counts = shared.counts();
    let mut found = BTreeMap::new();
    if let Some(snapshot) = snapshot {
        from_index(shared, query, snapshot, (limit, to), &mut found)?;
    }
    walk(shared, at, to, |met| {
        match met {
            Met::Entry { entry, .. } => match entry {
                Entry::Decision(decision) => {
                    if query.matches(&decision) && query.is_before(decision.id) {
                        found.insert(decision.id, decision);
                        if found.len() > limit {
                            found.pop_first();
                        }
                    }
                }
                Entry::Outcome { id, .. } | Entry::Aggregate(Count { id, .. }) => {
                    if let Some(decision) = found.get_mut(&id) {
                        merge(decision, &entry);
                    }
                }
                Entry::Gap(_) | Entry::Note(_) => {}
            },
            Met::Broken(broken) => shared.tell_damage(&broken),
            Met::Deleted { .. } => {}
        }
        ControlFlow::Continue(())
    })?;
    let mut decisions: Vec<_> = found.into_values().map(|decision| *decision).collect();
    for decision in &mut decisions {
        if let Some(count) = counts.get(&decision.id) {
            merge_count(decision, count);
        }
    }
    Ok(decisions)
}

fn from_index(
    shared: &Shared,
    query: &Query,
    snapshot: &Snapshot,
    (limit, to): (usize, Position),
    found: &mut BTreeMap<DecisionId, Box<Decision>>,
) -> io::Result<()> {
    let mut entries = Entries::new(shared);
    let mut filter = Filter {
        agent: query.agent.clone(),
        verdict: query.verdict,
        kind: query.kind,
        from: query.since.map_or(Ulid::nil(), |since| {
            let since = since.duration_since(Timestamp::UNIX_EPOCH);
            let ms = u64::try_from(since.as_millis()).unwrap_or(0);
            Ulid::from_parts(ms, 0)
        }),
        before: query.before.map_or(Ulid::max(), |before| before.0),
    };
    while found.len() < limit {
        let rows = snapshot.newest(&filter, limit - found.len());
        let Some((oldest, _)) = rows.last() else {
            break;
        };
        filter.before = oldest.0;
        // The index may have been brought up to date since `to` was taken.
        let end = Location {
            segment: to.segment,
            offset: to.offset,
        };
        for (id, at) in rows.into_iter().filter(|(_, at)| *at < end) {
            if let Some(decision) = entries.decision(snapshot, id, at)?
                && query.matches(&decision)
            {
                found.insert(id, decision);
            }
        }
    }
    Ok(())
}

/// A decision with everything that is known of it.
pub(crate) fn find(shared: &Shared, id: DecisionId) -> io::Result<Option<Decision>> {
    with_index(shared, |snapshot, at| find_from(shared, id, snapshot, at))
}

fn find_from(
    shared: &Shared,
    id: DecisionId,
    snapshot: Option<&Snapshot>,
    at: Position,
) -> io::Result<Option<Decision>> {
    let counts = shared.counts();
    let to = shared.position();
    let mut found = match snapshot {
        Some(snapshot) => match snapshot.find(id) {
            Some(at) => Entries::new(shared).decision(snapshot, id, at)?,
            None => None,
        },
        None => None,
    };
    walk(shared, at, to, |met| {
        match met {
            Met::Entry { entry, .. } => match (&mut found, entry) {
                (None, Entry::Decision(decision)) if decision.id == id => found = Some(decision),
                (Some(decision), entry) => merge(decision, &entry),
                _ => {}
            },
            Met::Broken(broken) => shared.tell_damage(&broken),
            Met::Deleted { .. } => {}
        }
        ControlFlow::Continue(())
    })?;
    if let Some(decision) = &mut found
        && let Some(count) = counts.get(&id)
    {
        merge_count(decision, count);
    }
    Ok(found.map(|decision| *decision))
}

/// The newest gaps and notes, the newest last.
pub(crate) fn notices(shared: &Shared, limit: usize) -> io::Result<Vec<Notice>> {
    let limit = limit.min(MAX_LIMIT);
    with_index(shared, |snapshot, at| {
        notices_from(shared, limit, snapshot, at)
    })
}

fn notices_from(
    shared: &Shared,
    limit: usize,
    snapshot: Option<&Snapshot>,
    at: Position,
) -> io::Result<Vec<Notice>> {
    let to = shared.position();
    let mut notices = std::collections::VecDeque::new();
    let mut entries = Entries::new(shared);
    for at in snapshot.iter().flat_map(|index| index.notices(limit)) {
        notices.extend(entries.at(at)?.and_then(notice));
    }
    walk(shared, at, to, |met| {
        if let Met::Entry { entry, .. } = met {
            notices.extend(notice(entry));
            if notices.len() > limit {
                notices.pop_front();
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok(notices.into())
}

fn notice(entry: Entry) -> Option<Notice> {
    match entry {
        Entry::Gap(gap) => Some(Notice::Gap(gap)),
        Entry::Note(note) => Some(Notice::Note(note)),
        _ => None,
    }
}

//! The index: where in the log a decision lies, and what a query can ask for without reading it.
//!
//! It holds nothing that the log does not; it may be deleted at any time.
//!
//! Rows keep names (verdict, kind) rather than numbers, so that they mean the same to any version.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use agentguard_model::{ActionKind, AgentName, Decision, DecisionId, Verdict};
use redb::backends::FileBackend;
use redb::{
    Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable,
    TableDefinition,
};
use ulid::Ulid;

use crate::entry::Gist;
use crate::frame;
use crate::segment::{self, Broken, Location, Position};

type Place = (u64, u64);

/// id → segment, offset, verdict, kind, agent (empty if there is none).
const DECISIONS: TableDefinition<'_, u128, (u64, u64, &str, &str, &str)> =
    TableDefinition::new("decisions");
/// (agent, id) → segment, offset, verdict, kind.
const BY_AGENT: TableDefinition<'_, (&str, u128), (u64, u64, &str, &str)> =
    TableDefinition::new("by_agent");
/// (id, 0 for a count or 1 for an outcome) → segment, offset of the latest.
const UPDATES: TableDefinition<'_, (u128, u8), Place> = TableDefinition::new("updates");
/// Number of a gap or note → segment, offset.
const NOTICES: TableDefinition<'_, u64, Place> = TableDefinition::new("notices");
/// (segment, offset) of damage → where reading goes on, first and last missing number (0 and 0 if
/// unknown), what it is.
const BROKEN: TableDefinition<'_, Place, (u64, u64, u64, &str)> = TableDefinition::new("broken");
/// `position`: (number, segment, offset) up to where the log is indexed; `last`: (segment, offset,
/// CRC32C of the payload) of the last entry before it; `version`: (1, 0, 0).
const META: TableDefinition<'_, &str, (u64, u64, u64)> = TableDefinition::new("meta");

const VERSION: (u64, u64, u64) = (1, 0, 0);

/// How many rows that are still valid a pruning looks at before it believes that the rest is too.
const PRUNE_AHEAD: usize = 1024;

/// The index.
#[derive(Debug)]
pub(crate) struct Index {
    db: Database,
}

/// What a query can ask the index for.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    pub(crate) agent: Option<AgentName>,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) kind: Option<ActionKind>,
    /// From this id on.
    pub(crate) from: Ulid,
    /// Below this id.
    pub(crate) before: Ulid,
}

/// What is to be added to the index in one step.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// Where each is, its number, and what it is.
    rows: Vec<(Location, u64, Row)>,
    broken: Vec<Broken>,
    /// The last entry, and the CRC32C of its payload.
    last: Option<(Location, u32)>,
}

/// What the index has of an entry.
#[derive(Debug)]
pub(crate) enum Row {
    Decision {
        id: u128,
        verdict: Verdict,
        kind: ActionKind,
        agent: Option<Arc<AgentName>>,
    },
    Update {
        id: u128,
        which: u8,
    },
    /// A gap or a note, which has no id but its number.
    Notice,
}

impl Row {
    /// Of a decision. `agent`: whose decision was written last, which many others are.
    pub(crate) fn decision(decision: &Decision, agent: &mut Option<Arc<AgentName>>) -> Self {
        let name = decision.agent.as_ref().map(|agent| &agent.name);
        if agent.as_deref() != name {
            *agent = name.cloned().map(Arc::new);
        }
        Self::Decision {
            id: decision.id.0.into(),
            verdict: decision.verdict,
            kind: decision.action.kind,
            agent: agent.clone(),
        }
    }

    /// Of a count.
    pub(crate) fn aggregate(id: DecisionId) -> Self {
        let id = id.0.into();
        Self::Update { id, which: 0 }
    }

    /// Of what became of a decision.
    pub(crate) fn outcome(id: DecisionId) -> Self {
        let id = id.0.into();
        Self::Update { id, which: 1 }
    }
}

impl From<Gist> for Row {
    fn from(gist: Gist) -> Self {
        match gist {
            Gist::Decision(decision) => Self::Decision {
                id: decision.id.0.into(),
                verdict: decision.verdict,
                kind: decision.kind(),
                agent: decision.agent().cloned().map(Arc::new),
            },
            Gist::Aggregate { id } => Self::aggregate(id),
            Gist::Outcome { id } => Self::outcome(id),
            Gist::Gap(_) | Gist::Note(_) => Self::Notice,
        }
    }
}

impl Rows {
    pub(crate) const fn new() -> Self {
        Self {
            rows: Vec::new(),
            broken: Vec::new(),
            last: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len() + self.broken.len()
    }

    /// Adds damage.
    pub(crate) fn broken(&mut self, broken: Broken) {
        self.broken.push(broken);
    }

    /// Adds an entry: where it is, its number, and the CRC32C of its payload.
    pub(crate) fn add(&mut self, at: Location, number: u64, checksum: u32, row: Row) {
        self.last = Some((at, checksum));
        self.rows.push((at, number, row));
    }

    /// Adds what comes behind.
    pub(crate) fn append(&mut self, mut behind: Self) {
        self.rows.append(&mut behind.rows);
        self.broken.append(&mut behind.broken);
        self.last = behind.last.or(self.last);
    }
}

fn kind_name(kind: ActionKind) -> String {
    serde_json::to_value(kind)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

impl Index {
    /// Opens an index, or makes an empty one. Errors are whatever redb says.
    pub(crate) fn open(path: &Path) -> Result<Self, redb::Error> {
        let file = segment::open_file(path)?;
        let db = Database::builder()
            .set_cache_size(32 << 20)
            .create_with_backend(FileBackend::new(file)?)?;
        let txn = db.begin_write()?;
        {
            txn.open_table(DECISIONS)?;
            txn.open_table(BY_AGENT)?;
            txn.open_table(UPDATES)?;
            txn.open_table(NOTICES)?;
            txn.open_table(BROKEN)?;
            let mut meta = txn.open_table(META)?;
            let version = meta.get("version")?.map(|version| version.value());
            match version {
                Some(version) if version != VERSION => {
                    return Err(redb::Error::Corrupted("another version".to_owned()));
                }
                Some(_) => {}
                None => drop(meta.insert("version", VERSION)?),
            }
        }
        txn.commit()?;
        Ok(Self { db })
    }

    /// Whether this is an index of the log under `dir`: what it indexed last is still there.
    pub(crate) fn is_of(&self, dir: &Path) -> bool {
        let Some(snapshot) = self.snapshot() else {
            return false;
        };
        match snapshot.meta("last") {
            None => snapshot.meta("position").is_none(),
            Some((segment, offset, crc)) => File::open(segment::path(dir, segment))
                .and_then(|file| frame::read_at(&file, offset))
                .is_ok_and(|frame| {
                    frame.is_some_and(|(_, payload)| u64::from(crc32c::crc32c(&payload)) == crc)
                }),
        }
    }

    /// The index as it is now; `None` if it cannot be read.
    pub(crate) fn snapshot(&self) -> Option<Snapshot> {
        match self.db.begin_read() {
            Ok(txn) => Some(Snapshot {
                txn,
                updates: OnceCell::new(),
                unreadable: Cell::new(false),
            }),
            Err(error) => {
                tracing::warn!(%error, "the record's index cannot be read");
                None
            }
        }
    }

    /// Adds rows; the log is then indexed up to `position`. What is not `durable` may be gone after
    /// a crash, together with the position.
    pub(crate) fn add(
        &self,
        rows: &Rows,
        position: Position,
        durable: bool,
    ) -> Result<(), redb::Error> {
        let mut txn = self.db.begin_write()?;
        if !durable {
            txn.set_durability(Durability::None)?;
        }
        {
            let mut decisions = txn.open_table(DECISIONS)?;
            let mut by_agent = txn.open_table(BY_AGENT)?;
            let mut updates = txn.open_table(UPDATES)?;
            let mut notices = txn.open_table(NOTICES)?;
            for (at, number, row) in &rows.rows {
                let place @ (segment, offset) = (at.segment, at.offset);
                match row {
                    Row::Decision {
                        id,
                        verdict,
                        kind,
                        agent,
                    } => {
                        let (verdict, kind) = (&*verdict.to_string(), &*kind_name(*kind));
                        let agent = agent.as_deref().map(AgentName::as_str);
                        let name = agent.unwrap_or("");
                        decisions.insert(id, (segment, offset, verdict, kind, name))?;
                        if let Some(agent) = agent {
                            by_agent.insert((agent, *id), (segment, offset, verdict, kind))?;
                        }
                    }
                    Row::Update { id, which } => {
                        updates.insert((*id, *which), place)?;
                    }
                    Row::Notice => {
                        notices.insert(number, place)?;
                    }
                }
            }
            let mut table = txn.open_table(BROKEN)?;
            for broken in &rows.broken {
                let (from, to) = broken.missing.unwrap_or_default();
                let place = (broken.at.segment, broken.at.offset);
                table.insert(place, (broken.until, from, to, &*broken.what))?;
            }
            let mut meta = txn.open_table(META)?;
            meta.insert(
                "position",
                (position.number, position.segment, position.offset),
            )?;
            if let Some((at, crc)) = rows.last {
                meta.insert("last", (at.segment, at.offset, u64::from(crc)))?;
            }
        }
        txn.commit()?;
        Ok(())
    }

    /// Drops the rows of segments before `oldest`. Ids follow time and so do segments, with few
    /// exceptions: a row that this leaves behind points to a file that is gone, and readers pass
    /// over it.
    pub(crate) fn prune(&self, oldest: u64) -> Result<(), redb::Error> {
        let txn = self.db.begin_write()?;
        {
            let mut decisions = txn.open_table(DECISIONS)?;
            let mut by_agent = txn.open_table(BY_AGENT)?;
            let mut updates = txn.open_table(UPDATES)?;
            let mut notices = txn.open_table(NOTICES)?;
            let mut gone = Vec::new();
            let mut ahead = 0;
            for row in decisions.iter()? {
                let (id, row) = row?;
                let (segment, _, _, _, agent) = row.value();
                if segment < oldest {
                    gone.push((id.value(), agent.to_owned()));
                    ahead = 0;
                } else {
                    ahead += 1;
                    if ahead >= PRUNE_AHEAD {
                        break;
                    }
                }
            }
            for (id, agent) in &gone {
                decisions.remove(id)?;
                by_agent.remove((&**agent, *id))?;
                updates.remove((*id, 0))?;
                updates.remove((*id, 1))?;
            }
            // Updates of decisions that no index row knew.
            if let Some(newest) = gone.last().map(|(id, _)| *id) {
                updates.retain_in((0, 0)..(newest, 0), |_, (segment, _)| segment >= oldest)?;
            }
            notices.retain(|_, (segment, _)| segment >= oldest)?;
            let mut broken = txn.open_table(BROKEN)?;
            broken.retain(|(segment, _), _| segment >= oldest)?;
        }
        txn.commit()?;
        Ok(())
    }
}

/// The index at one moment. Where it cannot be read it gives no rows, and says so afterwards.
pub(crate) struct Snapshot {
    txn: ReadTransaction,
    updates: OnceCell<ReadOnlyTable<(u128, u8), Place>>,
    unreadable: Cell<bool>,
}

impl Snapshot {
    /// Whether something that was asked for could not be read.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.unreadable.get()
    }

    fn meta(&self, key: &str) -> Option<(u64, u64, u64)> {
        self.read(|txn| {
            let table = txn.open_table(META)?;
            Ok(table.get(key)?.map(|value| value.value()))
        })
        .flatten()
    }

    /// Up to where the log is indexed.
    pub(crate) fn position(&self) -> Option<Position> {
        let (number, segment, offset) = self.meta("position")?;
        Some(Position {
            number,
            segment,
            offset,
        })
    }

    /// Where a decision lies.
    pub(crate) fn find(&self, id: DecisionId) -> Option<Location> {
        self.read(|txn| {
            let table = txn.open_table(DECISIONS)?;
            let row = table.get(u128::from(id.0))?;
            Ok(row.map(|row| {
                let (segment, offset, ..) = row.value();
                Location { segment, offset }
            }))
        })
        .flatten()
    }

    /// Where the latest count and the latest outcome of a decision lie.
    pub(crate) fn updates(&self, id: DecisionId) -> Vec<Location> {
        let id = u128::from(id.0);
        self.read(|txn| {
            // Asked of each decision of a page.
            let table = match self.updates.get() {
                Some(table) => table,
                None => {
                    let table = txn.open_table(UPDATES)?;
                    self.updates.get_or_init(|| table)
                }
            };
            table
                .range((id, 0)..=(id, u8::MAX))?
                .map(|row| Ok(place(row?.1.value())))
                .collect()
        })
        .unwrap_or_default()
    }

    /// The newest gaps and notes, the newest last.
    pub(crate) fn notices(&self, limit: usize) -> Vec<Location> {
        let mut found: Vec<_> = self
            .read(|txn| {
                let table = txn.open_table(NOTICES)?;
                table
                    .iter()?
                    .rev()
                    .take(limit)
                    .map(|row| Ok(place(row?.1.value())))
                    .collect()
            })
            .unwrap_or_default();
        found.reverse();
        found
    }

    /// The damage that was found.
    pub(crate) fn broken(&self) -> Vec<Broken> {
        self.read(|txn| {
            let table = txn.open_table(BROKEN)?;
            let mut found = Vec::new();
            for row in table.iter()? {
                let (at, row) = row?;
                let (until, from, to, what) = row.value();
                found.push(Broken {
                    at: place(at.value()),
                    until,
                    missing: (from > 0).then_some((from, to)),
                    what: Cow::Owned(what.to_owned()),
                });
            }
            Ok(found)
        })
        .unwrap_or_default()
    }

    /// The newest decisions that a filter lets pass, newest first.
    pub(crate) fn newest(&self, filter: &Filter, limit: usize) -> Vec<(DecisionId, Location)> {
        let verdict = filter.verdict.map(|verdict| verdict.to_string());
        let kind = filter.kind.map(kind_name);
        let passes = |row_verdict: &str, row_kind: &str| {
            verdict.as_deref().is_none_or(|v| v == row_verdict)
                && kind.as_deref().is_none_or(|k| k == row_kind)
        };
        let (from, before) = (u128::from(filter.from), u128::from(filter.before));
        if from >= before {
            return Vec::new();
        }
        let found =
            |id: u128, segment, offset| (DecisionId(Ulid::from(id)), Location { segment, offset });
        self.read(|txn| {
            let mut rows = Vec::new();
            if let Some(agent) = &filter.agent {
                let table = txn.open_table(BY_AGENT)?;
                let agent = agent.as_str();
                for row in table.range((agent, from)..(agent, before))?.rev() {
                    let (key, row) = row?;
                    let (segment, offset, verdict, kind) = row.value();
                    if passes(verdict, kind) {
                        rows.push(found(key.value().1, segment, offset));
                        if rows.len() >= limit {
                            break;
                        }
                    }
                }
            } else {
                let table = txn.open_table(DECISIONS)?;
                for row in table.range(from..before)?.rev() {
                    let (key, row) = row?;
                    let (segment, offset, verdict, kind, _) = row.value();
                    if passes(verdict, kind) {
                        rows.push(found(key.value(), segment, offset));
                        if rows.len() >= limit {
                            break;
                        }
                    }
                }
            }
            Ok(rows)
        })
        .unwrap_or_default()
    }

    fn read<T>(&self, what: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>) -> Option<T> {
        what(&self.txn)
            .inspect_err(|error| {
                tracing::warn!(%error, "the record's index cannot be read");
                self.unreadable.set(true);
            })
            .ok()
    }
}

fn place((segment, offset): Place) -> Location {
    Location { segment, offset }
}

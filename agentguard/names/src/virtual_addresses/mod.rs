//! The addresses that stand for names.
//!
//! Each name that is answered gets one IPv4 address of `198.18.0.0/15` and one IPv6 address of
//! `fd41:6775:6172:6400::/64`. Whoever dials one of them means the name, tomorrow and after a
//! restart too; so an allocation is on disk before anyone hears of it, and an address is free for
//! another name only [`HOLD`] after it was last answered, and only if nobody who was given it
//! lives. IPv6 addresses are counted upwards and never used twice.
//!
//! - One thread owns the database and commits; whatever waits when it begins goes into one durable
//!   commit. Reading is a look-up in memory.
//! - "Last answered" is written once per [`GRANULARITY`] and name, *before* the answer of which it
//!   tells; so what is on disk is never older than that, one commit serves thousands of answers,
//!   and a crash cannot shorten a hold (which is longer by the same amount).
//! - As many names as there are IPv4 addresses. When they are used up: [`Refused::Exhausted`].
//!   One agent may bring in a quarter of them, so that none uses them up for the others.
//!
//! **Invariant:** what [`VirtualAddresses::answer`] returns is on disk, and names nothing else.

mod pool;
mod store;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use agentguard_model::{AgentId, HostName};
use tokio::sync::{mpsc, oneshot};

use pool::Pool;
pub use store::OpenError;
use store::Store;

/// How long after its last answer an address means its name at least.
pub const HOLD: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How much older than the truth the "last answered" on disk may be.
pub const GRANULARITY: Duration = Duration::from_secs(60 * 60);

/// Requests that wait for the owner of the database. When it is full, the caller waits; callers are
/// bounded by the resolver's queries in flight.
const QUEUE: usize = 1024;
/// Requests in one commit. The rest waits for the next one.
const BATCH: usize = 256;
/// Seconds between two attempts to read a database again that could not be written.
const REOPEN_PAUSE: u64 = 1;

/// The addresses of one name.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Pair {
    /// The IPv4 address.
    pub v4: Ipv4Addr,
    /// The IPv6 address.
    pub v6: Ipv6Addr,
}

/// The IPv4 addresses that are given out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Range {
    /// The first address, given out or not.
    pub first: Ipv4Addr,
    /// The last.
    pub last: Ipv4Addr,
}

impl Default for Range {
    /// `198.18.0.0/15` without its first 256 addresses, which are the guard's own.
    fn default() -> Self {
        Self {
            first: Ipv4Addr::new(198, 18, 1, 0),
            last: Ipv4Addr::new(198, 19, 255, 255),
        }
    }
}

/// Tells the time. Injected, so that a week can pass in a test.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Whether a flow or a process that was given these addresses for this name lives. Asked by the
/// owner thread when addresses run out, before one is taken from its name.
pub type InUse = Arc<dyn Fn(&HostName, Pair) -> bool + Send + Sync>;

/// What the allocation needs from outside.
#[derive(Clone)]
pub struct Options {
    /// The IPv4 addresses. Fixed for the life of a database.
    pub range: Range,
    /// Names that one agent may bring in: those it was the first to be answered with. When they are
    /// used up, it gets no new names until one of them is free.
    pub names_per_agent: u32,
    /// The time.
    pub clock: Clock,
    /// What lives.
    pub in_use: InUse,
}

impl Options {
    /// The whole range, a quarter of it for one agent, the system's clock.
    #[must_use]
    pub fn new(in_use: InUse) -> Self {
        Self {
            range: Range::default(),
            names_per_agent: 32_768,
            clock: Arc::new(SystemTime::now),
            in_use,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("range", &self.range)
            .field("names_per_agent", &self.names_per_agent)
            .finish_non_exhaustive()
    }
}

/// Why a name gets no virtual addresses.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    /// Every address means a name that is still held.
    #[error(
        "all {0} virtual addresses are in use; the oldest are free 7 days after their last answer"
    )]
    Exhausted(u32),
    /// The agent's share is used up.
    #[error(
        "the agent has been given addresses for {0} names, which is its share; the oldest are free 7 days after their last answer"
    )]
    ShareUsed(u32),
    /// The database cannot be written.
    #[error("virtual addresses cannot be stored: {0}")]
    Storage(String),
    /// The owner of the database is gone.
    #[error("the allocation of virtual addresses has ended")]
    Closed,
}

/// The virtual addresses of all names. Cheap to clone; the database closes with the last clone.
#[derive(Clone)]
pub struct VirtualAddresses {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
}

struct Shared {
    names: RwLock<Names>,
    clock: Clock,
    path: PathBuf,
}

/// What is committed.
#[derive(Default)]
struct Names {
    by_name: HashMap<HostName, Arc<Held>>,
    by_v4: HashMap<Ipv4Addr, Arc<Held>>,
    by_v6: HashMap<Ipv6Addr, Arc<Held>>,
}

/// One name with its addresses.
struct Held {
    name: HostName,
    pair: Pair,
    /// The agent that brought the name in.
    owner: u32,
    /// "Last answered" as it stands on disk, in seconds since 1970.
    stored: AtomicU64,
}

type Reply = oneshot::Sender<Result<Pair, Refused>>;

struct Request {
    name: HostName,
    agent: AgentId,
    reply: Reply,
}

impl VirtualAddresses {
    /// Opens the database at `path`, or begins one if there is no such file, and starts its owner
    /// thread. Blocks; reads everything.
    ///
    /// # Errors
    /// A database that cannot be read in full is an error, never a new beginning: agents may hold
    /// addresses of it.
    pub fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        let store = Store::open(path, options.range)?;
        let mut names = Names::default();
        let (held, pool) = Pool::load(&store, options.range)?;
        for held in held {
            names.insert(held);
        }
        let shared = Arc::new(Shared {
            names: RwLock::new(names),
            clock: Arc::clone(&options.clock),
            path: path.to_owned(),
        });
        let (requests, waiting) = mpsc::channel(QUEUE);
        let owner = Owner {
            store: Some(store),
            pool,
            options,
            shared: Arc::clone(&shared),
            reopen_after: 0,
        };
        std::thread::Builder::new()
            .name("virtual-addr".to_owned())
            .spawn(move || owner.run(waiting))
            .map_err(|source| OpenError::Io {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self { shared, requests })
    }

    /// The addresses with which `name` is answered to `agent`; they mean it for [`HOLD`] from now.
    /// On disk when this returns.
    ///
    /// # Errors
    /// See [`Refused`]; nothing was given out then.
    ///
    /// # Cancel safety
    /// If dropped, the addresses may have been allocated all the same; the next call returns them.
    pub async fn answer(&self, name: &HostName, agent: AgentId) -> Result<Pair, Refused> {
        if let Some(pair) = self.shared.fresh(name) {
            return Ok(pair);
        }
        let (reply, replied) = oneshot::channel();
        self.requests
            .send(Request {
                name: name.clone(),
                agent,
                reply,
            })
            .await
            .map_err(|_| Refused::Closed)?;
        replied.await.map_err(|_| Refused::Closed)?
    }

    /// The name that a virtual address means.
    #[must_use]
    pub fn name_behind(&self, ip: IpAddr) -> Option<HostName> {
        let names = self.shared.read();
        let held = match ip.to_canonical() {
            IpAddr::V4(v4) => names.by_v4.get(&v4),
            IpAddr::V6(v6) => names.by_v6.get(&v6),
        };
        held.map(|held| held.name.clone())
    }

    /// The addresses that a name has, whether or not they are still held.
    #[must_use]
    pub fn pair(&self, name: &HostName) -> Option<Pair> {
        self.shared.read().by_name.get(name).map(|held| held.pair)
    }

    /// How many names have addresses.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.read().by_name.len()
    }

    /// Whether no name has addresses.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for VirtualAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtualAddresses")
            .field("path", &self.shared.path)
            .finish_non_exhaustive()
    }
}

impl Names {
    fn insert(&mut self, held: Arc<Held>) {
        self.by_v4.insert(held.pair.v4, Arc::clone(&held));
        self.by_v6.insert(held.pair.v6, Arc::clone(&held));
        self.by_name.insert(held.name.clone(), held);
    }

    fn remove(&mut self, held: &Held) {
        self.by_v4.remove(&held.pair.v4);
        self.by_v6.remove(&held.pair.v6);
        self.by_name.remove(&held.name);
    }
}

impl Shared {
    // A panic while the lock is held can only come from allocation failure between whole
    // insertions; the tables stay usable.
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Names> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Names> {
        self.names.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds since 1970.
    fn now(&self) -> u64 {
        (self.clock)()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    }

    fn held(&self, name: &HostName) -> Option<Arc<Held>> {
        self.read().by_name.get(name).cloned()
    }

    /// The addresses of a name whose "last answered" on disk is young enough.
    fn fresh(&self, name: &HostName) -> Option<Pair> {
        let names = self.read();
        let held = names.by_name.get(name)?;
        let stored = held.stored.load(Ordering::Relaxed);
        (self.now().saturating_sub(stored) < GRANULARITY.as_secs()).then_some(held.pair)
    }
}

/// The thread that owns the database.
struct Owner {
    /// None after a commit that failed: what is on disk is then unknown until it is read again.
    store: Option<Store>,
    pool: Pool,
    options: Options,
    shared: Arc<Shared>,
    /// When to try the disk again, in seconds since 1970.
    reopen_after: u64,
}

impl Owner {
    fn run(mut self, mut waiting: mpsc::Receiver<Request>) {
        let mut batch = Vec::with_capacity(BATCH);
        while waiting.blocking_recv_many(&mut batch, BATCH) > 0 {
            self.serve(std::mem::take(&mut batch));
        }
    }

    /// Allocates for a batch, commits once, then makes it visible and replies.
    fn serve(&mut self, batch: Vec<Request>) {
        let now = self.shared.now();
        let asked: HashSet<HostName> = batch.iter().map(|request| request.name.clone()).collect();
        let mut results = Vec::with_capacity(batch.len());
        let outcome = self.decide(batch, &asked, now, &mut results);
        if let Err(why) = &outcome {
            tracing::error!(path = %self.shared.path.display(), %why, "virtual addresses cannot be stored");
            self.store = None;
            self.reopen_after = now.saturating_add(REOPEN_PAUSE);
        }
        for (reply, result) in results {
            let result = match &outcome {
                Ok(()) => result,
                Err(why) => result.and(Err(Refused::Storage(why.clone()))),
            };
            // A receiver that is gone does not want to know any more.
            let _ = reply.send(result);
        }
    }

    /// Fills `results`; they hold if the whole of it succeeds.
    fn decide(
        &mut self,
        batch: Vec<Request>,
        asked: &HashSet<HostName>,
        now: u64,
        results: &mut Vec<(Reply, Result<Pair, Refused>)>,
    ) -> Result<(), String> {
        let reopened = self.reopen(now);
        let mut new: HashMap<HostName, Arc<Held>> = HashMap::new();
        let mut known: Vec<Arc<Held>> = Vec::new();
        for request in batch {
            let result = match (&reopened, self.shared.held(&request.name)) {
                (Err(why), _) => Err(Refused::Storage(why.clone())),
                (Ok(()), Some(held)) => {
                    let pair = held.pair;
                    known.push(held);
                    Ok(pair)
                }
                (Ok(()), None) => match new.get(&request.name) {
                    Some(held) => Ok(held.pair),
                    None => self.allocate(&request, asked, now)?.map(|held| {
                        let pair = held.pair;
                        new.insert(request.name, held);
                        pair
                    }),
                },
            };
            results.push((request.reply, result));
        }
        if new.is_empty() && known.is_empty() {
            return Ok(());
        }
        if let Some(store) = &self.store {
            let rows = new.values().chain(&known).map(AsRef::as_ref);
            store
                .commit(rows, now, &self.pool)
                .map_err(|error| error.to_string())?;
        }
        for held in known {
            held.stored.fetch_max(now, Ordering::Relaxed);
        }
        let mut names = self.shared.write();
        for held in new.into_values() {
            names.insert(held);
        }
        Ok(())
    }

    /// Reads the database again after a commit that failed. What was answered is in it; what the
    /// failed commit left there, if anything, is taken as it stands.
    fn reopen(&mut self, now: u64) -> Result<(), String> {
        if self.store.is_some() {
            return Ok(());
        }
        if now < self.reopen_after {
            return Err("the last attempt to write failed".to_owned());
        }
        self.reopen_after = now.saturating_add(REOPEN_PAUSE);
        let attempt = || -> Result<_, OpenError> {
            let store = Store::reopen(&self.shared.path, self.options.range)?;
            let (held, pool) = Pool::load(&store, self.options.range)?;
            Ok((store, held, pool))
        };
        let (store, held, pool) = attempt().map_err(|error| error.to_string())?;
        let mut names = Names::default();
        for held in held {
            names.insert(held);
        }
        let mut current = self.shared.write();
        let kept = |held: &Arc<Held>| {
            let on_disk = names.by_name.get(&held.name);
            on_disk.is_some_and(|on_disk| on_disk.pair == held.pair)
        };
        if !current.by_name.values().all(kept) {
            return Err("the database was replaced by another one".to_owned());
        }
        *current = names;
        self.pool = pool;
        self.store = Some(store);
        Ok(())
    }

    /// The outer error is the disk's, the inner one the caller's.
    fn allocate(
        &mut self,
        request: &Request,
        asked: &HashSet<HostName>,
        now: u64,
    ) -> Result<Result<Arc<Held>, Refused>, String> {
        let agent = request.agent.0;
        let share = self.options.names_per_agent;
        if self.pool.names_of(agent) >= share {
            self.reclaim(asked, now)?;
            if self.pool.names_of(agent) >= share {
                return Ok(Err(Refused::ShareUsed(share)));
            }
        }
        let pair = match self.pool.take(agent) {
            Some(pair) => Some(pair),
            None => {
                self.reclaim(asked, now)?;
                self.pool.take(agent)
            }
        };
        Ok(match pair {
            Some(pair) => Ok(self.held(request, pair, now)),
            None => Err(Refused::Exhausted(self.pool.capacity())),
        })
    }

    fn held(&self, request: &Request, pair: Pair, now: u64) -> Arc<Held> {
        Arc::new(Held {
            name: request.name.clone(),
            pair,
            owner: request.agent.0,
            stored: AtomicU64::new(now),
        })
    }

    /// Takes the addresses of names that nobody was answered with for [`HOLD`], that nothing alive
    /// was given and that nobody asks for now, the oldest first. At most [`pool::RECLAIM_BATCH`] at
    /// a time, and after a search that found none not again for [`pool::RECLAIM_PAUSE`] seconds: to
    /// look through all names for every query would be a gift to whoever used them up.
    fn reclaim(&mut self, asked: &HashSet<HostName>, now: u64) -> Result<(), String> {
        let Some(store) = self.store.as_ref().filter(|_| self.pool.may_reclaim(now)) else {
            return Ok(());
        };
        let hold = (HOLD + GRANULARITY).as_secs();
        let mut old: Vec<Arc<Held>> = self
            .shared
            .read()
            .by_name
            .values()
            .filter(|held| now.saturating_sub(held.stored.load(Ordering::Relaxed)) > hold)
            .filter(|held| !asked.contains(&held.name))
            .cloned()
            .collect();
        old.sort_by_key(|held| held.stored.load(Ordering::Relaxed));
        old.retain(|held| !(self.options.in_use)(&held.name, held.pair));
        old.truncate(pool::RECLAIM_BATCH);
        if old.is_empty() {
            self.pool.pause_reclaim(now);
            return Ok(());
        }
        store
            .remove(old.iter().map(|held| &held.name))
            .map_err(|error| error.to_string())?;
        let mut names = self.shared.write();
        for held in old {
            names.remove(&held);
            self.pool.give_back(&held);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

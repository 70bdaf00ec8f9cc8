//! Limits of loops and runaways, and circuit breakers: what was counted, and what may go on.
//!
//! In memory alone: a limit is about minutes, and a daemon that starts anew counts from the beginning. All that a call is
//! counted by is asked first, and counts it only where all admit it.
//!
//! **Bounded:** there are at most [`MAX_ACCOUNTS`] accounts, of each limit its part. Those that are as new ones are
//! forgotten once there is no room; where there is still none, what would be one more is counted together with all others
//! of its limit that the same agent would make. No account is forgotten for another one, so that nobody gets rid of what was
//! counted by making more; one agent makes at most a part of them, and what is refused makes none, so that nobody takes the
//! place of others.

mod circuit;
mod gcra;
mod kept;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agentguard_model::limit::{Breaker, Limit, LimitKind, Rate};

use self::circuit::Circuit;
use self::gcra::{Gcra, nanoseconds};
use self::kept::{Depth, Progress, Repeats, Retries};
use crate::scope::Scope;

pub use self::circuit::CircuitState;
pub use self::kept::{MAX_CALLS, MAX_CHAINS, MAX_STEPS, MAX_TARGETS};

/// How many accounts there are at most, of all limits and breakers together. See the room's story for what is beyond.
pub const MAX_ACCOUNTS: usize = 16_384;

/// The fewest that a limit may have of them.
const LEAST_ACCOUNTS: usize = 64;

/// One agent's calls make at most one part in so many of a limit's accounts.
const PART: usize = 8;

/// How often accounts that are as new ones are looked for where there is no room, at most, in nanoseconds.
const SWEEP: u64 = 1_000_000_000;

/// Where limits count.
#[derive(Clone, Debug)]
pub struct Limits(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    books: Mutex<Books>,
    started: Instant,
}

/// A limit that a call is counted by.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The limit or breaker.
    pub by: By,
    /// Which of its accounts.
    pub scope: Scope,
    /// Whether it refuses nothing.
    pub on_paper: bool,
}

/// What counts.
#[derive(Clone, Debug)]
pub enum By {
    /// A limit.
    Limit(Arc<Limit>),
    /// A breaker.
    Breaker(Arc<Breaker>),
}

/// A call, as limits see it: in numbers that are the same for the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    /// What is called with what; none where that is not known.
    pub same: Option<u64>,
    /// The same, of a call of a tool alone.
    pub tool: Option<u64>,
    /// The model or the tool, and where.
    pub target: u64,
    /// The trace that it belongs to, or whose it is where none is known.
    pub chain: u64,
    /// Who calls: an agent in one of its runs.
    pub agent: u64,
    /// The number of the agent, in whichever run.
    pub owner: u32,
}

/// Why a call does not go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// Which of those that were asked refuses it.
    pub place: usize,
    /// The account.
    pub scope: Scope,
    /// In which time it may go; none where nobody knows.
    pub wait: Option<Duration>,
    /// Those that refuse it on paper.
    pub on_paper: Vec<usize>,
}

/// How a call went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Went {
    /// It was answered.
    Well,
    /// Whom it is for has failed.
    Failed,
    /// It failed, and that says nothing of whom it is for: a rate limit of its provider's, a tool that says that it failed.
    PutOff,
    /// Nobody knows.
    Unknown,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    id: Arc<str>,
    kind: &'static str,
    scope: Scope,
}

/// A limit or a breaker, by its id and its word in a policy.
type Of = (Arc<str>, &'static str);

#[derive(Debug)]
enum Account {
    Rate(Gcra),
    Repeats(Repeats),
    Retries(Retries),
    Progress(Progress),
    Depth(Depth),
    Circuit(Circuit),
}

#[derive(Debug, Default)]
struct Books {
    /// Each with whose call made it.
    accounts: HashMap<Key, (u32, Account)>,
    /// How many accounts a limit has, by whose calls made them.
    counts: HashMap<Of, HashMap<u32, usize>>,
    /// Until when each account is another than a new one was said when it was last counted in, by what counts there.
    bys: HashMap<Of, By>,
    swept: u64,
}

/// A call that is under way: what has to be told once it is over.
#[derive(Debug)]
pub struct Ticket {
    shared: Arc<Shared>,
    entries: Vec<Entry>,
    call: Call,
    /// It began well, which circuits were told.
    began: AtomicBool,
    /// Where it goes has broken off.
    broke: AtomicBool,
    /// How it ends says nothing of where it goes.
    unsaid: AtomicBool,
    /// What came of it was told.
    told: AtomicBool,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    by: By,
    /// The time of a circuit that it began in.
    time: Option<u64>,
    /// The chain that it counts as.
    chain: u64,
}

/// What a call was admitted with.
#[derive(Debug)]
pub struct Admitted {
    /// To be told what comes of it.
    pub ticket: Ticket,
    /// Those that refuse it on paper.
    pub on_paper: Vec<usize>,
}

/// An account, as an operator sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Standing {
    /// The limit or breaker.
    pub id: Arc<str>,
    /// Its word in a policy.
    pub kind: &'static str,
    /// Which of its accounts.
    pub scope: Scope,
    /// How it is.
    pub state: StandingState,
}

/// How an account is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StandingState {
    /// What comes goes on.
    Free,
    /// So many calls in a row brought nothing new, or are under way in one chain, and whether one like them would be refused.
    Counts {
        /// How many.
        count: u64,
        /// Whether one more is refused.
        refuses: bool,
    },
    /// Something is refused for this time: of several, what is for the longest.
    Waits(Duration),
    /// Of a circuit.
    Circuit(CircuitState),
}

impl Default for Limits {
    fn default() -> Self {
        Self(Arc::new(Shared {
            books: Mutex::default(),
            started: Instant::now(),
        }))
    }
}

impl Shared {
    fn now(&self) -> u64 {
        // From 1 on: at 0 an account is as a new one.
        nanoseconds(self.started.elapsed()).saturating_add(1)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Limits {
    /// Counts a call by all that are asked, where all admit it. `limits`: how many the policy has.
    ///
    /// # Errors
    /// One refuses it: of several the one that does so for the longest.
    pub fn admit(&self, asks: Vec<Ask>, call: Call, limits: usize) -> Result<Admitted, Refused> {
        let now = self.0.now();
        self.admit_at(asks, call, limits, now)
    }

    fn admit_at(
        &self,
        asks: Vec<Ask>,
        call: Call,
        limits: usize,
        now: u64,
    ) -> Result<Admitted, Refused> {
        let share = (MAX_ACCOUNTS / limits.max(1)).max(LEAST_ACCOUNTS);
        let mut books = self.0.books();
        let mut refused: Option<Refused> = None;
        let mut on_paper = Vec::new();
        let mut entries = Vec::with_capacity(asks.len());
        for (place, ask) in asks.into_iter().enumerate() {
            let key = books.key(&ask, call.owner, share, now);
            if let Err(wait) = books.admits(&key, &ask.by, &call, now) {
                let wait = wait.map(Duration::from_nanos);
                if ask.on_paper {
                    on_paper.push(place);
                } else if refused.as_ref().is_none_or(|it| is_longer(wait, it.wait)) {
                    refused = Some(Refused {
                        place,
                        scope: key.scope.clone(),
                        wait,
                        on_paper: Vec::new(),
                    });
                }
            }
            entries.push(Entry {
                key,
                by: ask.by,
                time: None,
                chain: call.chain,
            });
        }
        if let Some(refused) = refused {
            return Err(Refused {
                on_paper,
                ..refused
            });
        }
        for entry in &mut entries {
            books.count(entry, &call, now);
        }
        drop(books);
        Ok(Admitted {
            ticket: Ticket {
                shared: Arc::clone(&self.0),
                entries,
                call,
                began: AtomicBool::new(false),
                broke: AtomicBool::new(false),
                unsaid: AtomicBool::new(false),
                told: AtomicBool::new(false),
            },
            on_paper,
        })
    }

    /// All accounts that are another than new ones.
    #[must_use]
    pub fn standing(&self) -> Vec<Standing> {
        self.standing_at(self.0.now())
    }

    fn standing_at(&self, now: u64) -> Vec<Standing> {
        let books = self.0.books();
        let of = |(key, (_, account)): (&Key, &(u32, Account))| {
            let by = books.bys.get(&(Arc::clone(&key.id), key.kind))?;
            let standing = Standing {
                id: Arc::clone(&key.id),
                kind: key.kind,
                scope: key.scope.clone(),
                state: account.standing(by, now),
            };
            (account.over(by) > now).then_some(standing)
        };
        let mut standing: Vec<_> = books.accounts.iter().filter_map(of).collect();
        standing.sort_by(|one, other| (&one.id, &one.scope).cmp(&(&other.id, &other.scope)));
        standing
    }
}

impl Limits {
    /// Has the accounts of a limit count from the beginning, and closes the circuits of a breaker: of this id those in this
    /// scope, or all. Calls that are under way in a chain (`depth`) stay counted, since they are. Gives how many accounts it
    /// was.
    pub fn reset(&self, id: &str, scope: Option<&str>) -> usize {
        let mut books = self.0.books();
        let accounts = books.accounts.iter_mut();
        let mut count = 0;
        for (key, (_, account)) in accounts {
            let is_meant = *key.id == *id && scope.is_none_or(|it| it == key.scope.as_str());
            if is_meant && account.reset() {
                count += 1;
            }
        }
        count
    }
}

/// A time that nobody knows is the longest.
fn is_longer(one: Option<Duration>, other: Option<Duration>) -> bool {
    match (one, other) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(one), Some(other)) => one > other,
    }
}

impl By {
    fn id(&self) -> &Arc<str> {
        match self {
            Self::Limit(limit) => &limit.id,
            Self::Breaker(breaker) => &breaker.id,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Limit(limit) => limit.kind.word(),
            Self::Breaker(_) => "breaker",
        }
    }

    /// Whether it looks at what came of a call.
    fn is_told(&self) -> bool {
        match self {
            Self::Breaker(_) => true,
            Self::Limit(limit) => match limit.kind {
                LimitKind::Rate(_) | LimitKind::Repeats { .. } => false,
                LimitKind::Retries { .. }
                | LimitKind::NoProgress { .. }
                | LimitKind::Depth { .. } => true,
            },
        }
    }

    fn fresh(&self) -> Account {
        match self {
            Self::Breaker(_) => Account::Circuit(Circuit::default()),
            Self::Limit(limit) => match limit.kind {
                LimitKind::Rate(_) => Account::Rate(Gcra::default()),
                LimitKind::Repeats { .. } => Account::Repeats(Repeats::default()),
                LimitKind::Retries { .. } => Account::Retries(Retries::default()),
                LimitKind::NoProgress { .. } => Account::Progress(Progress::default()),
                LimitKind::Depth { .. } => Account::Depth(Depth::default()),
            },
        }
    }

    fn within(&self) -> u64 {
        match self {
            Self::Breaker(_) => 0,
            Self::Limit(limit) => match limit.kind {
                LimitKind::Repeats { within, .. }
                | LimitKind::Retries { within, .. }
                | LimitKind::NoProgress { within, .. } => nanoseconds(within),
                LimitKind::Rate(_) | LimitKind::Depth { .. } => 0,
            },
        }
    }
}

/// A call that is repeated may come so often: all at once, and then evenly.
const fn repeated(calls: u32, within: Duration) -> Rate {
    Rate {
        calls,
        every: within,
        burst: calls,
    }
}

impl Books {
    /// The account of what asks. It may not be there yet: what is refused makes none.
    fn key(&mut self, ask: &Ask, owner: u32, share: usize, now: u64) -> Key {
        let (id, kind) = (Arc::clone(ask.by.id()), ask.by.kind());
        let of = (Arc::clone(&id), kind);
        let mut key = Key {
            id,
            kind,
            scope: ask.scope.clone(),
        };
        if self.accounts.contains_key(&key) {
            // What a reload has changed holds for what was counted, too.
            self.bys.insert(of, ask.by.clone());
            return key;
        }
        if !self.has_room(&of, owner, share) && now >= self.swept.saturating_add(SWEEP) {
            self.sweep(now);
        }
        if !self.has_room(&of, owner, share) {
            key.scope = Scope::others_of(owner);
        }
        key
    }

    fn has_room(&self, of: &Of, owner: u32, share: usize) -> bool {
        let counted = self.counts.get(of);
        let all: usize = counted.map_or(0, |it| it.values().sum());
        let own = counted.and_then(|it| it.get(&owner)).copied().unwrap_or(0);
        all < share && own < share / PART && self.accounts.len() < MAX_ACCOUNTS
    }

    /// Forgets the accounts that are as new ones.
    fn sweep(&mut self, now: u64) {
        self.swept = now;
        let (bys, counts) = (&self.bys, &mut self.counts);
        self.accounts.retain(|key, (owner, account)| {
            let of = (Arc::clone(&key.id), key.kind);
            let keeps = bys.get(&of).is_some_and(|by| account.over(by) > now);
            let count = counts.get_mut(&of).and_then(|it| it.get_mut(owner));
            if !keeps && let Some(count) = count {
                *count = count.saturating_sub(1);
            }
            keeps
        });
        counts.retain(|_, owners| {
            owners.retain(|_, count| *count > 0);
            !owners.is_empty()
        });
        self.bys.retain(|of, _| counts.contains_key(of));
    }

    /// Whether an account admits a call.
    ///
    /// # Errors
    /// In how many nanoseconds it does, where that is known.
    fn admits(&mut self, key: &Key, by: &By, call: &Call, now: u64) -> Result<(), Option<u64>> {
        let Some((_, account)) = self.accounts.get_mut(key) else {
            return Ok(());
        };
        account.fit(by, call, now);
        let admits = match (account, by) {
            (Account::Circuit(circuit), By::Breaker(breaker)) => circuit.admits(breaker, now),
            (account, By::Limit(limit)) => match (account, limit.kind) {
                (Account::Rate(gcra), LimitKind::Rate(rate)) => gcra.admits(rate, now),
                (Account::Repeats(repeats), LimitKind::Repeats { calls, within }) => {
                    let rate = repeated(calls, within);
                    call.same
                        .map_or(Ok(()), |same| repeats.admits(same, rate, now))
                }
                (Account::Retries(retries), LimitKind::Retries { failures, within }) => {
                    retries.admits(call.target, failures, nanoseconds(within), now)
                }
                (Account::Progress(progress), LimitKind::NoProgress { calls, within }) => {
                    progress.admits(call.tool, calls, nanoseconds(within), now)
                }
                (Account::Depth(depth), LimitKind::Depth { calls, agents }) => {
                    let chain = depth.chain(call.chain);
                    return match depth.admits(chain, call.agent, calls, agents) {
                        true => Ok(()),
                        false => Err(None),
                    };
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        };
        admits.map_err(Some)
    }

    /// Counts a call, in an account that is there then.
    fn count(&mut self, entry: &mut Entry, call: &Call, now: u64) {
        let of = (Arc::clone(&entry.key.id), entry.key.kind);
        self.bys.insert(of.clone(), entry.by.clone());
        let counts = &mut self.counts;
        let place = self.accounts.entry(entry.key.clone());
        let (_, account) = place.or_insert_with(|| {
            *counts.entry(of).or_default().entry(call.owner).or_default() += 1;
            (call.owner, entry.by.fresh())
        });
        match (account, &entry.by) {
            (Account::Circuit(circuit), By::Breaker(breaker)) => {
                entry.time = circuit.begin(breaker, now);
            }
            (account, By::Limit(limit)) => match (account, limit.kind) {
                (Account::Rate(gcra), LimitKind::Rate(rate)) => gcra.admit(rate, now),
                (Account::Repeats(repeats), LimitKind::Repeats { calls, within }) => {
                    if let Some(same) = call.same {
                        repeats.admit(same, repeated(calls, within), now);
                    }
                }
                (Account::Progress(progress), LimitKind::NoProgress { within, .. }) => {
                    progress.admit(call.tool, nanoseconds(within), now);
                }
                (Account::Depth(depth), LimitKind::Depth { .. }) => {
                    entry.chain = depth.chain(call.chain);
                    depth.begin(entry.chain, call.agent);
                }
                _ => {}
            },
            _ => {}
        }
    }

    fn give_back(&mut self, entry: &Entry, call: &Call) {
        let (Some((_, account)), By::Limit(limit)) = (self.accounts.get_mut(&entry.key), &entry.by)
        else {
            return;
        };
        match (account, limit.kind) {
            (Account::Rate(gcra), LimitKind::Rate(rate)) => gcra.give_back(rate),
            (Account::Repeats(repeats), LimitKind::Repeats { calls, within }) => {
                if let Some(same) = call.same {
                    repeats.give_back(same, repeated(calls, within));
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, entry: &Entry, call: &Call, went: Went, news: &[u64], now: u64) {
        let Some((_, account)) = self.accounts.get_mut(&entry.key) else {
            return;
        };
        match (account, &entry.by) {
            (Account::Circuit(circuit), By::Breaker(breaker)) => {
                let failed = match went {
                    Went::Well => Some(false),
                    Went::Failed => Some(true),
                    Went::PutOff | Went::Unknown => None,
                };
                circuit.end(breaker, entry.time, failed, now);
            }
            (Account::Retries(retries), by) => match went {
                Went::Well => retries.succeed(call.target),
                Went::Failed | Went::PutOff => retries.fail(call.target, by.within(), now),
                Went::Unknown => {}
            },
            (Account::Progress(progress), _) => progress.came(news),
            (Account::Depth(depth), _) => depth.end(entry.chain, call.agent),
            _ => {}
        }
    }
}

impl Account {
    /// Forgets what was counted. False: it is not for that.
    fn reset(&mut self) -> bool {
        match self {
            Self::Rate(gcra) => *gcra = Gcra::default(),
            Self::Repeats(repeats) => *repeats = Repeats::default(),
            Self::Retries(retries) => *retries = Retries::default(),
            Self::Progress(progress) => *progress = Progress::default(),
            Self::Circuit(circuit) => circuit.close(),
            Self::Depth(_) => return false,
        }
        true
    }

    /// Makes of what was counted before a reload no more than what can be counted now.
    fn fit(&mut self, by: &By, call: &Call, now: u64) {
        match (self, by) {
            (Self::Circuit(circuit), By::Breaker(breaker)) => circuit.fit(breaker, now),
            (account, By::Limit(limit)) => match (account, limit.kind) {
                (Self::Rate(gcra), LimitKind::Rate(rate)) => gcra.fit(rate, now),
                (Self::Repeats(repeats), LimitKind::Repeats { calls, within }) => {
                    if let Some(same) = call.same {
                        repeats.fit(same, repeated(calls, within), now);
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// From when on it is as a new one.
    fn over(&self, by: &By) -> u64 {
        match self {
            Self::Rate(gcra) => gcra.over(),
            Self::Repeats(repeats) => repeats.over(),
            Self::Retries(retries) => retries.over(by.within()),
            Self::Progress(progress) => progress.over(by.within()),
            Self::Depth(depth) => match depth.deepest() {
                0 => 0,
                _ => u64::MAX,
            },
            Self::Circuit(circuit) => match by {
                By::Breaker(breaker) => circuit.over(breaker),
                By::Limit(_) => 0,
            },
        }
    }

    fn standing(&self, by: &By, now: u64) -> StandingState {
        let By::Limit(limit) = by else {
            return match self {
                Self::Circuit(circuit) => StandingState::Circuit(circuit.state(now)),
                _ => StandingState::Free,
            };
        };
        let wait = match (self, limit.kind) {
            (Self::Rate(gcra), LimitKind::Rate(rate)) => gcra.admits(rate, now).err(),
            (Self::Repeats(repeats), LimitKind::Repeats { calls, within }) => {
                repeats.longest(repeated(calls, within), now)
            }
            (Self::Retries(retries), LimitKind::Retries { failures, within }) => {
                retries.longest(failures, nanoseconds(within), now)
            }
            (Self::Progress(progress), LimitKind::NoProgress { calls, within }) => {
                let admits = progress.admits(None, calls, nanoseconds(within), now);
                return StandingState::Counts {
                    count: u64::from(progress.stale()),
                    refuses: admits.is_err(),
                };
            }
            (Self::Depth(depth), LimitKind::Depth { calls, .. }) => {
                let count = depth.deepest();
                return StandingState::Counts {
                    count,
                    refuses: count >= u64::from(calls),
                };
            }
            _ => None,
        };
        wait.map_or(StandingState::Free, |wait| {
            StandingState::Waits(Duration::from_nanos(wait))
        })
    }
}

impl Ticket {
    /// Whether nothing has to be told of it: it is counted by nothing that looks at what comes of it.
    fn is_idle(&self) -> bool {
        !self.entries.iter().any(|it| it.by.is_told())
    }

    /// It does not go on: something else refuses it. Rates and repetitions count it no more; nothing came of it.
    pub fn give_back(&self) {
        if self.told.swap(true, Ordering::AcqRel) {
            return;
        }
        let now = self.shared.now();
        let mut books = self.shared.books();
        for entry in &self.entries {
            books.give_back(entry, &self.call);
            books.end(entry, &self.call, Went::Unknown, &[], now);
        }
    }

    /// The call.
    #[must_use]
    pub const fn call(&self) -> &Call {
        &self.call
    }

    /// It began well: a circuit need not wait for its end, which may be far away. Should it fail after that, that counts, too.
    pub fn began(&self) {
        let now = self.shared.now();
        if self.is_idle() || self.began.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut books = self.shared.books();
        for entry in &self.entries {
            if matches!(entry.by, By::Breaker(_)) {
                books.end(entry, &self.call, Went::Well, &[], now);
            }
        }
    }

    /// Where it goes has broken off.
    pub fn broke(&self) {
        self.broke.store(true, Ordering::Release);
    }

    /// How it ends is this side's doing: its client broke off what it sent, or it cannot be carried here. Whatever it is
    /// answered with says nothing of where it goes.
    pub fn says_nothing(&self) {
        self.unsaid.store(true, Ordering::Release);
    }

    /// It is over, and went so; `news` is what it brought, in numbers, where anything is known of that. What is told first
    /// counts.
    pub fn ended(&self, went: Went, news: &[u64]) {
        let now = self.shared.now();
        self.ended_at(went, news, now);
    }

    fn ended_at(&self, went: Went, news: &[u64], now: u64) {
        if self.is_idle() || self.told.swap(true, Ordering::AcqRel) {
            return;
        }
        let went = match went {
            _ if self.unsaid.load(Ordering::Acquire) => Went::Unknown,
            Went::PutOff => Went::PutOff,
            _ if self.broke.load(Ordering::Acquire) => Went::Failed,
            went => went,
        };
        let mut books = self.shared.books();
        let began = self.began.load(Ordering::Acquire);
        for entry in &self.entries {
            let circuit = matches!(entry.by, By::Breaker(_));
            if circuit && began && went != Went::Failed {
                continue;
            }
            books.end(entry, &self.call, went, news, now);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.ended(Went::Unknown, &[]);
    }
}

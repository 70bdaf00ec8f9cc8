//! Bytes that a request or connection carries, where budgets count them.
//!
//! What is known to leave is reserved with the rest of the call. What comes behind that moves once it is reserved, a part
//! at a time: who carries bytes asks [`Grant::poll_room`], and who watches over the action ([`Decider::bytes_spent`])
//! reserves more, or denies it. So never more passes than was reserved. A part that is wanted in another window than what
//! is held is reserved there, and what has passed is charged: a connection may outlast many windows.

use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Instant;

use agentguard_budget::{Charge, Granted, HoldId, Ledger, Refused, Terms, Want, ends};
use agentguard_model::BudgetLine;
use agentguard_model::budget::{Budget, Reached, Unit};
use agentguard_policy::{BudgetRule, Request, Seen};
use futures_util::task::AtomicWaker;
use jiff::Timestamp;
use tokio::sync::Notify;

use super::{AGAIN, Accounting, Denial, Held, PATIENCE, denial, is_away, line, may_pass};
use crate::asked::Spoken;
use crate::decider::Decider;
use crate::port::{Client, Decided, Recorder, Target};

/// How many bytes are reserved at a time, at most: what an action holds, and does not use, while it is under way.
const PART: u64 = 64 * 1024;

/// And at least, where less is left for several.
const LEAST_PART: u64 = 1024;

/// Of how many equal actions what is left has room for one part each.
const SHARE: u64 = 16;

/// For how long parts are added to what is held before that is charged, in milliseconds: a sliding window is to know when
/// they passed.
const TOGETHER: i64 = 60_000;

/// Whether bytes leave or come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// From the agent.
    Out,
    /// To the agent.
    In,
}

impl Way {
    const fn unit(self) -> Unit {
        match self {
            Self::Out => Unit::BytesOut,
            Self::In => Unit::BytesIn,
        }
    }
}

/// How many bytes the head of a request is: as it would be sent in HTTP/1, without the words around it.
fn head_of(request: &Request<'_>) -> u64 {
    let fields = request.fields.into_iter().flat_map(http::HeaderMap::iter);
    // `: ` and the end of the line.
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + 4);
    let query = request.query.map_or(0, |it| it.as_str().len() + 1);
    let head = request.method.len() + request.path.len() + query + fields.sum::<usize>();
    head as u64
}

/// The bytes of one action, both ways.
#[derive(Debug, Default)]
pub struct Passing {
    out: Option<Arc<Grant>>,
    back: Option<Arc<Grant>>,
    /// How many bytes its head is.
    head: u64,
    /// More is wanted, some way.
    wanted: Arc<Notify>,
}

/// The bytes of one action that go one way, and what is reserved for them.
pub struct Grant {
    ledger: Arc<dyn Ledger>,
    want: Want,
    hold: Mutex<Hold>,
    /// For how many there was room when it was held last.
    room: AtomicU64,
    /// How many may pass in all.
    granted: AtomicU64,
    /// How many have passed.
    passed: AtomicU64,
    /// Whether somebody waits for room.
    wants: AtomicBool,
    waits: AtomicWaker,
    wanted: Arc<Notify>,
}

/// What is held of the accounts.
struct Hold {
    /// None: it was charged, and the next part is not reserved yet.
    id: Option<HoldId>,
    /// How many bytes were charged before.
    before: u64,
    /// Until when parts are added to it, in milliseconds of the Unix time.
    until: i64,
    /// The charges that have more than their budgets allow, which only tell of it.
    exceeds: Vec<usize>,
    /// Nothing passes any more.
    over: bool,
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grant")
            .field("granted", &self.granted)
            .field("passed", &self.passed)
            .finish_non_exhaustive()
    }
}

impl Passing {
    /// Reserves what is known to pass (of a request its head, and what it announces), and a byte where nothing is. What is
    /// refused has reserved nothing.
    pub(super) async fn begins(
        accounting: &Accounting,
        charged: Vec<(&BudgetRule, Charge)>,
        request: &Request<'_>,
        content: Option<u64>,
    ) -> Result<Self, Denial> {
        let head = head_of(request);
        let known = content.unwrap_or_default().saturating_add(head);
        let mut passing = Self {
            head,
            ..Self::default()
        };
        for (way, first) in [(Way::Out, known), (Way::In, 1)] {
            let its = charged
                .iter()
                .filter(|(rule, _)| rule.budget.unit == way.unit());
            let (rules, charges): (Vec<&BudgetRule>, Vec<Charge>) =
                its.map(|(rule, charge)| (*rule, charge.clone())).unzip();
            if charges.is_empty() {
                continue;
            }
            // Where nothing limits what may be announced, no more is held than is on its way.
            let mut reached = charges.iter().map(|it| it.budget.reached);
            let first = match reached.any(Reached::limits) {
                true => first.max(1),
                false => first.clamp(1, PART),
            };
            let want = Want {
                charges,
                tokens: first,
                least: first,
                most: 0,
            };
            match all(accounting, &want).await {
                Ok(granted) => {
                    let grant = Grant::new(accounting, want, granted, &passing.wanted);
                    passing.put(way, grant);
                }
                Err(refused) => {
                    let rule = |place: usize| rules.get(place).copied();
                    let denied = denial(refused, rule, &want);
                    passing.ends();
                    return Err(denied);
                }
            }
        }
        Ok(passing)
    }

    /// It leaves, with its head.
    pub(super) fn leaves(&self) {
        if let Some(grant) = self.grant(Way::Out) {
            grant.passes(self.head);
        }
    }

    fn put(&mut self, way: Way, grant: Grant) {
        let place = match way {
            Way::Out => &mut self.out,
            Way::In => &mut self.back,
        };
        *place = Some(Arc::new(grant));
    }

    /// What goes this way, where budgets count that.
    #[must_use]
    pub const fn grant(&self, way: Way) -> Option<&Arc<Grant>> {
        match way {
            Way::Out => self.out.as_ref(),
            Way::In => self.back.as_ref(),
        }
    }

    fn grants(&self) -> impl Iterator<Item = &Arc<Grant>> {
        self.out.iter().chain(&self.back)
    }

    /// What is reserved, for the record.
    pub(super) fn lines(&self) -> impl Iterator<Item = BudgetLine> {
        self.grants().flat_map(|grant| grant.lines())
    }

    /// It is over, and has used what has passed. Counts once. Answers with what becomes of it.
    pub(super) fn settle(&self) -> Vec<BudgetLine> {
        let lines = self.grants().flat_map(|grant| {
            let passed = grant.settle();
            grant.lines().map(move |line| BudgetLine {
                settled: Some(passed),
                ..line
            })
        });
        lines.collect()
    }

    /// It did not begin.
    pub(super) fn ends(&self) {
        for grant in self.grants() {
            grant.passed.store(0, Ordering::Release);
            grant.settle();
            grant.granted.store(0, Ordering::Release);
        }
    }

    /// A way of which more is wanted than was reserved.
    async fn wanting(&self) -> &Arc<Grant> {
        loop {
            let wanted = self.wanted.notified();
            if let Some(grant) = self.grants().find(|grant| grant.is_wanting()) {
                return grant;
            }
            wanted.await;
        }
    }
}

impl Grant {
    fn new(accounting: &Accounting, want: Want, granted: Granted, wanted: &Arc<Notify>) -> Self {
        Self {
            ledger: Arc::clone(&accounting.ledger),
            hold: Mutex::new(Hold {
                id: Some(granted.id),
                before: 0,
                until: until(&want.charges, Timestamp::now().as_millisecond()),
                exceeds: granted.over,
                over: false,
            }),
            want,
            room: AtomicU64::new(granted.room),
            granted: AtomicU64::new(granted.tokens),
            passed: AtomicU64::new(0),
            wants: AtomicBool::new(false),
            waits: AtomicWaker::new(),
            wanted: Arc::clone(wanted),
        }
    }

    /// For how many bytes there is room, once there is any: never behind [`Held::settle_passing`]. One at a time asks this.
    pub fn poll_room(&self, cx: &Context<'_>) -> Poll<u64> {
        let mut room = self.left();
        if room == 0 {
            self.waits.register(cx.waker());
            self.wants.store(true, Ordering::Release);
            self.wanted.notify_one();
            // It may have come before anybody waited.
            room = self.left();
        }
        match room {
            0 => Poll::Pending,
            room => {
                self.unwanted();
                Poll::Ready(room)
            }
        }
    }

    /// Nobody waits for room any more.
    pub fn unwanted(&self) {
        self.wants.store(false, Ordering::Release);
    }

    /// Whether there is any by now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.left() > 0
    }

    /// So many have passed, for which there was room.
    pub fn passes(&self, bytes: u64) {
        self.passed.fetch_add(bytes, Ordering::AcqRel);
    }

    fn left(&self) -> u64 {
        let passed = self.passed.load(Ordering::Acquire);
        self.granted.load(Ordering::Acquire).saturating_sub(passed)
    }

    fn is_wanting(&self) -> bool {
        let wants = self.wants.load(Ordering::Acquire) && self.left() == 0;
        wants && !self.hold().over
    }

    fn hold(&self) -> MutexGuard<'_, Hold> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves a part more, or what there is of it: with what is held, or in another window.
    ///
    /// # Cancel safety
    /// A dropped future may have reserved what nobody gives back: see [`Ledger::reserve`].
    async fn more(&self, budgets: &[Arc<Budget>]) -> Result<(), Refused> {
        let now = Timestamp::now().as_millisecond();
        let held = {
            let mut hold = self.hold();
            if now >= hold.until {
                self.charge(&mut hold);
            }
            hold.id
        };
        let room = self.room.load(Ordering::Acquire);
        let part = (room / SHARE).clamp(LEAST_PART, PART);
        let tokens = match held {
            Some(id) => {
                let extended = self.ledger.extend(id, part.into(), budgets, now).await;
                extended.map_err(|refused| self.beside_own(refused))?
            }
            None => self.anew(budgets, part, now).await?,
        };
        // There is no more of what can be counted.
        if tokens == 0 {
            return Err(Refused::Settled);
        }
        self.granted.fetch_add(tokens, Ordering::AcqRel);
        self.unwanted();
        self.waits.wake();
        Ok(())
    }

    /// What it holds itself comes back to nobody while it goes on: for itself that is used.
    fn beside_own(&self, refused: Refused) -> Refused {
        let Refused::Short(mut short) = refused else {
            return refused;
        };
        let own = self.granted.load(Ordering::Acquire) - self.hold().before;
        let own = own.min(short.balance.held);
        short.balance.held -= own;
        short.balance.used = short.balance.used.saturating_add(own);
        Refused::Short(short)
    }

    /// Reserves a part where nothing is held.
    async fn anew(&self, budgets: &[Arc<Budget>], part: u64, now: i64) -> Result<u64, Refused> {
        let charges = self.want.charges.iter().zip(budgets);
        let charges = charges.map(|(charge, budget)| Charge {
            budget: Arc::clone(budget),
            ..charge.clone()
        });
        let want = Want {
            charges: charges.collect(),
            tokens: part,
            least: 1,
            most: 0,
        };
        let granted = self.ledger.reserve(&want, now).await?;
        let mut hold = self.hold();
        if hold.over || hold.id.is_some() {
            let nothing = vec![0; want.charges.len()];
            self.ledger.settle(granted.id, Some(&nothing), now);
            return Err(Refused::Settled);
        }
        hold.id = Some(granted.id);
        hold.until = until(&want.charges, now);
        hold.exceeds.extend(granted.over);
        self.room.store(granted.room, Ordering::Release);
        Ok(granted.tokens)
    }

    /// Charges what has passed of what is held, which is over.
    fn charge(&self, hold: &mut Hold) {
        if let Some(id) = hold.id.take() {
            let passed = self.passed.load(Ordering::Acquire);
            let used = vec![passed.saturating_sub(hold.before); self.want.charges.len()];
            hold.before = passed;
            let now = Timestamp::now().as_millisecond();
            self.ledger.settle(id, Some(&used), now);
        }
    }

    /// What is reserved: the same of each of its accounts.
    fn lines(&self) -> impl Iterator<Item = BudgetLine> {
        let reserved = self.granted.load(Ordering::Acquire);
        let exceeds = self.hold().exceeds.clone();
        let charges = self.want.charges.iter().enumerate();
        charges.map(move |(place, charge)| BudgetLine {
            over: exceeds.contains(&place),
            ..line(charge, reserved)
        })
    }

    /// As if what is held had been held for long.
    #[cfg(test)]
    pub(crate) fn ages(&self) {
        self.hold().until = 0;
    }

    /// It is over: so many have passed.
    fn settle(&self) -> u64 {
        let mut hold = self.hold();
        self.charge(&mut hold);
        hold.over = true;
        self.passed.load(Ordering::Acquire)
    }
}

impl Drop for Grant {
    /// One whose call was given up before it was let out.
    fn drop(&mut self) {
        self.settle();
    }
}

/// Until when parts are added to what is held from this moment on.
fn until(charges: &[Charge], now: i64) -> i64 {
    let ends = charges.iter().filter_map(|it| ends(&it.budget, now));
    ends.fold(now.saturating_add(TOGETHER), i64::min)
}

/// Reserves a part more. What was begun ends, also where nobody waits for it any more: it may hold something by then.
async fn more(grant: &Arc<Grant>, budgets: &[Arc<Budget>]) -> Result<(), Refused> {
    let (grant, budgets) = (Arc::clone(grant), budgets.to_vec());
    let asking = tokio::spawn(async move { grant.more(&budgets).await });
    // It is not ended by anybody.
    asking.await.unwrap_or(Err(Refused::Settled))
}

/// Reserves all of it, and waits for a moment where others hold what is left.
async fn all(accounting: &Accounting, want: &Want) -> Result<Granted, Refused> {
    let patience = Instant::now() + PATIENCE;
    loop {
        let now = Timestamp::now().as_millisecond();
        let reserved = accounting.ledger.reserve(want, now).await;
        if Instant::now() >= patience || !may_pass(&reserved) {
            return reserved;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// What a byte is charged with.
pub(super) const TERMS: Terms = Terms {
    fixed: 0,
    per_million: 1_000_000,
};

impl<R: Recorder> Decider<R> {
    /// Reserves more for the bytes of an action that is under way, as it wants more, until there is no more. Then records
    /// that denial and gives it; never before. `ruled` is told of it before it is recorded, and says whether nothing else
    /// has denied it.
    ///
    /// # Cancel safety
    /// A dropped future may have recorded the denial.
    pub async fn bytes_spent(
        &self,
        client: &Client,
        target: &Target,
        spoken: Spoken<'_>,
        held: Weak<Held>,
        ruled: impl Fn() -> bool,
    ) -> Decided {
        let passing = held.upgrade().and_then(|held| held.passing().cloned());
        match passing {
            // Mostly nothing is counted, and a future is as large as all that it may do.
            None => pending().await,
            Some(passing) => {
                let about = (client, target, spoken.seen());
                Box::pin(self.bytes_spent_of(&passing, about, ruled)).await
            }
        }
    }

    async fn bytes_spent_of(
        &self,
        passing: &Passing,
        about: (&Client, &Target, Seen<'_>),
        ruled: impl Fn() -> bool,
    ) -> Decided {
        loop {
            let grant = passing.wanting().await;
            let started = Instant::now();
            let policy = self.policies().current();
            let budgets = self.budgets_now(&policy, about.0, &grant.want);
            let patience = started + PATIENCE;
            let refused = loop {
                let more = more(grant, &budgets).await;
                if !grant.is_wanting() {
                    break None;
                }
                let passes = more.is_ok() || may_pass(&more) || is_away(&more);
                match more {
                    Err(refused) if !passes || Instant::now() >= patience => break Some(refused),
                    Err(_) => tokio::time::sleep(AGAIN).await,
                    Ok(()) => {}
                }
            };
            if let Some(refused) = refused {
                if !ruled() {
                    return pending().await;
                }
                let cut = self.cut(&policy, about, &grant.want, Some(refused), started);
                return Box::pin(cut).await;
            }
        }
    }
}

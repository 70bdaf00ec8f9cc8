//! What agents have used of their quotas, over restarts of the daemon and of the host.
//!
//! The kernel counts on without end. An account is what the counts were at some moment, and how much of the window
//! was used then: what was counted since is added when somebody looks, and what the kernel is told is how far it may
//! count. So nothing that was used is forgotten by a limit that changes, nor while no daemon runs.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentguard_common::quota::{self, UNLIMITED, Usage};
use agentguard_keeper::message::{QuotaState, Used};
use agentguard_model::{AgentName, Quota, QuotaWindow};
use anyhow::{Context as _, bail};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How much of what agents use may be forgotten where the host ends without a word.
pub(super) const WRITTEN_EVERY: Duration = Duration::from_secs(5);

/// The version of the file.
const VERSION: u32 = 1;

const SECOND_NS: u64 = 1_000_000_000;

/// One JSON file, replaced as a whole.
pub(super) struct Quotas {
    path: PathBuf,
    accounts: BTreeMap<AgentName, Account>,
    /// Whether the file does not have all of it.
    unwritten: bool,
    written: Instant,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    accounts: BTreeMap<AgentName, Account>,
}

/// What the file says of itself, whatever else is in it.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

/// What an agent has used.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Account {
    /// When the window began.
    since: Timestamp,
    /// Which kind of window it is.
    every: QuotaWindow,
    /// The entry of the kernel's that was counted in.
    born_ns: u64,
    sent: Spent,
    received: Spent,
    /// The marks at which the agent's flows were ended.
    #[serde(skip)]
    ended: Option<(u64, u64)>,
}

/// What was used in one direction.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Spent {
    /// What the kernel had counted by then.
    counted: u64,
    /// Bytes of the window that were used by then.
    used: u64,
}

impl Spent {
    /// The kernel has counted this by now. Less than before is a packet that was counted for a moment and did not
    /// pass: what follows makes up for it.
    fn follow(&mut self, counted: u64) {
        let more = counted.saturating_sub(self.counted);
        self.used = self.used.saturating_add(more);
        self.counted = self.counted.max(counted);
    }

    /// How far the kernel may count.
    fn until(&self, limit: Option<u64>) -> u64 {
        limit.map_or(UNLIMITED, |limit| {
            let left = limit.saturating_sub(self.used);
            self.counted.saturating_add(left).min(UNLIMITED - 1)
        })
    }
}

impl Account {
    fn new(every: QuotaWindow, now: Timestamp) -> Self {
        Self {
            since: begin(every, now),
            every,
            born_ns: 0,
            sent: Spent::default(),
            received: Spent::default(),
            ended: None,
        }
    }

    /// The kernel has counted this by now.
    fn follow(&mut self, usage: &Usage) {
        if self.born_ns != usage.born_ns {
            // An entry of its own, which began at nothing: the host was started anew, or the gate.
            self.born_ns = usage.born_ns;
            self.sent.counted = 0;
            self.received.counted = 0;
        }
        self.sent.follow(usage.sent);
        self.received.follow(usage.received);
    }

    /// It is now that late: whether that is another window than before. A clock that is set back, or another kind of
    /// window, gives nothing back of what was used.
    fn turn(&mut self, every: QuotaWindow, now: Timestamp) -> bool {
        if every == QuotaWindow::Lifetime && self.every == every {
            return false;
        }
        let since = begin(every, now);
        if since == self.since && every == self.every {
            return false;
        }
        if every == self.every && since > self.since {
            self.sent.used = 0;
            self.received.used = 0;
        }
        self.since = since;
        self.every = every;
        true
    }

    /// What the kernel holds the agent to.
    fn marks(&self, quota: &Quota) -> quota::Quota {
        let (interval_ns, depth_ns) = quota.connections.map_or((0, 0), |rate| {
            // Rounded up: never more than the rate.
            let interval = SECOND_NS.div_ceil(u64::from(rate.per_second.max(1)));
            (interval, interval.saturating_mul(rate.burst.into()))
        });
        quota::Quota {
            sent_until: self.sent.until(quota.bytes_out),
            received_until: self.received.until(quota.bytes_in),
            interval_ns,
            depth_ns,
        }
    }
}

/// When the window began in which a moment lies.
fn begin(every: QuotaWindow, now: Timestamp) -> Timestamp {
    every.around(now).map_or(now, |(begin, _)| begin)
}

impl Quotas {
    /// Reads the file, or begins one.
    pub(super) fn open(path: PathBuf) -> anyhow::Result<Self> {
        let accounts = match fs::read(&path) {
            Ok(bytes) => parse(&path, &bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        Ok(Self {
            path,
            accounts,
            unwritten: false,
            written: Instant::now(),
        })
    }

    /// Adds what the kernel has counted, and begins the window that it is time for. Gives what the kernel is to hold
    /// the agent to, and whether that may be something else than before.
    pub(super) fn follow(
        &mut self,
        name: &AgentName,
        quota: &Quota,
        usage: &Usage,
        now: Timestamp,
    ) -> (quota::Quota, bool) {
        let is_new = !self.accounts.contains_key(name);
        let account = self.accounts.entry(name.clone());
        let account = account.or_insert_with(|| Account::new(quota.every, now));
        let before = (account.sent, account.received);
        let is_another = account.born_ns != usage.born_ns;
        account.follow(usage);
        let turned = account.turn(quota.every, now);
        let changed = is_new || turned || is_another;
        self.unwritten |= changed || before != (account.sent, account.received);
        (account.marks(quota), changed)
    }

    /// Whether an agent's bytes are gone, and its flows were not ended for that. Once for each time that they are.
    pub(super) fn is_to_end(
        &mut self,
        name: &AgentName,
        marks: &quota::Quota,
        usage: &Usage,
    ) -> bool {
        let Some(account) = self.accounts.get_mut(name) else {
            return false;
        };
        // What was refused may be larger than what is left.
        let told = marks.is_told(usage.told_sent, usage.told_received);
        let refused = told.0 || told.1;
        if !refused && marks.has_bytes(account.sent.counted, account.received.counted) {
            account.ended = None;
            return false;
        }
        let marks = Some((marks.sent_until, marks.received_until));
        let is_new = account.ended != marks;
        account.ended = marks;
        is_new
    }

    /// Forgets those of other agents than these.
    pub(super) fn keep(&mut self, is_metered: impl Fn(&AgentName) -> bool) {
        let before = self.accounts.len();
        self.accounts.retain(|name, _| is_metered(name));
        self.unwritten |= self.accounts.len() != before;
    }

    /// What an agent has used, as far as somebody has looked.
    pub(super) fn state(&self, name: &AgentName, quota: &Quota) -> Option<QuotaState> {
        let account = self.accounts.get(name)?;
        let used = |limit: Option<u64>, spent: &Spent| {
            limit.map(|limit| Used {
                limit,
                used: spent.used,
            })
        };
        let resets = quota.every.around(account.since).map(|(_, end)| end);
        Some(QuotaState {
            every: quota.every,
            since: account.since.as_second(),
            resets: resets.map(Timestamp::as_second),
            bytes_out: used(quota.bytes_out, &account.sent),
            bytes_in: used(quota.bytes_in, &account.received),
            connections: quota.connections,
        })
    }

    /// Writes what the file does not have, if that was not done lately.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write_lately(&mut self) -> anyhow::Result<()> {
        if self.written.elapsed() < WRITTEN_EVERY {
            return Ok(());
        }
        self.write()
    }

    /// Writes what the file does not have.
    ///
    /// # Errors
    /// It cannot be written. It is tried again where it is asked for again.
    pub(super) fn write(&mut self) -> anyhow::Result<()> {
        if !self.unwritten {
            return Ok(());
        }
        // Also where it fails: a disk that is full is not asked each second.
        self.written = Instant::now();
        self.save()?;
        self.unwritten = false;
        Ok(())
    }

    fn save(&self) -> anyhow::Result<()> {
        let failed = || {
            format!(
                "cannot write {}; hint: until it can be, a restart of the host forgets what agents use of their \
                 quotas from now on: see whether its disk is full or read-only (df, findmnt)",
                self.path.display()
            )
        };
        let directory = self.path.parent().with_context(failed)?;
        let temporary = self.path.with_extension("new");
        let contents = serde_json::json!({ "version": VERSION, "accounts": self.accounts });
        let mut file = fs::File::create(&temporary).with_context(failed)?;
        serde_json::to_writer(&mut file, &contents).with_context(failed)?;
        file.flush().with_context(failed)?;
        file.sync_all().with_context(failed)?;
        fs::rename(&temporary, &self.path).with_context(failed)?;
        fs::File::open(directory)
            .and_then(|directory| directory.sync_all())
            .with_context(failed)
    }
}

fn parse(path: &Path, bytes: &[u8]) -> anyhow::Result<BTreeMap<AgentName, Account>> {
    let shown = path.display();
    let damaged = || {
        format!(
            "{shown} is damaged; hint: put a copy of it from a backup in its place, or move it away: then the bytes \
             of all quotas are given anew"
        )
    };
    let head: Head = serde_json::from_slice(bytes).with_context(damaged)?;
    if head.version > VERSION {
        bail!(
            "{shown} is of version {}, and this agentguard knows versions up to {VERSION}; hint: a newer agentguard \
             wrote it: start that one, or move it away: then the bytes of all quotas are given anew",
            head.version
        );
    }
    let contents: Contents = serde_json::from_slice(bytes).with_context(damaged)?;
    Ok(contents.accounts)
}

#[cfg(test)]
mod tests;

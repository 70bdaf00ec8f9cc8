//! What the daemon knows beside decisions, as it is when somebody looks.

use std::sync::atomic::{AtomicU64, Ordering};

use agentguard_model::ResourceUsage;

use crate::catalogue::Id;
use crate::store::Store;
use crate::{Inner, Sent};

/// The accounts of budgets that are told: three figures of each.
pub const MAX_ACCOUNTS: usize = 500;

/// What the daemon knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vitals {
    /// The program's version.
    pub version: String,
    /// The policy in force.
    pub policy: String,
    /// Since when it is, in seconds since the epoch.
    pub policy_loaded: u64,
    /// Policies that were taken and refused, since the keeper's start.
    pub reloads: (u64, u64),
    /// Workers that the keeper has started.
    pub worker_starts: u64,
    /// Leaves that were signed and refused, since the keeper's start.
    pub leaves: (u64, u64),
    /// The agents.
    pub agents: Vec<AgentVitals>,
    /// The fullest accounts of budgets, the fullest first: at most [`MAX_ACCOUNTS`] are told.
    pub budgets: Vec<BudgetVitals>,
    /// How many accounts there are.
    pub budget_accounts: u64,
    /// Where budgets are kept.
    pub ledger: LedgerVitals,
    /// Client connections in the proxy.
    pub proxied: u64,
    /// Direct flows.
    pub direct: u64,
    /// Names with a virtual address.
    pub virtual_addresses: u64,
    /// Decisions that wait for the record.
    pub record_waiting: u64,
    /// Its entries.
    pub record_entries: u64,
    /// Its bytes.
    pub record_bytes: u64,
    /// What its index lacks.
    pub record_index_lag: u64,
    /// Whether it cannot be written.
    pub record_degraded: bool,
    /// Its gaps, and how much they say is lost.
    pub record_gaps: (u64, u64),
    /// Refused since they could not be recorded, and since an agent was over its share.
    pub record_refused: (u64, u64),
}

/// What the daemon knows of an agent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentVitals {
    /// Its name.
    pub name: String,
    /// Whether it is quarantined.
    pub quarantined: bool,
    /// Its runs.
    pub runs: u64,
    /// Bytes that left and arrived, and packets that were refused, as the kernel counts.
    pub traffic: Option<(u64, u64, u64)>,
    /// What it takes of the host, if something runs as it.
    pub resources: Option<ResourceUsage>,
}

/// What the daemon knows of an account of a budget. Amounts are in its unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BudgetVitals {
    /// The budget's id.
    pub budget: String,
    /// Which of its accounts; empty where it has one.
    pub scope: String,
    /// The unit.
    pub unit: String,
    /// What was used.
    pub used: u64,
    /// What is held for calls under way.
    pub held: u64,
    /// How much there is in a window.
    pub limit: u64,
}

/// How it is with where budgets are kept. What is of a Redis is 0 where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LedgerVitals {
    /// Whether the Redis is away.
    pub away: bool,
    /// What is wrong with that of the host.
    pub problems: u64,
    /// Calls that are over, and that the Redis does not know of.
    pub waiting: u64,
    /// Those that it will not be told of.
    pub dropped: u64,
    /// Accounts of which something is drawn in advance.
    pub leased: u64,
    /// How often something of that was spent.
    pub spent_away: u64,
}

/// Puts what the daemon knows into a copy of the figures.
pub(crate) fn put(store: &mut Store, vitals: &Vitals) {
    let agents = &vitals.agents;
    let many = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    store.level(Id::BuildInfo, &[&vitals.version], 1);
    store.level(Id::PolicyInfo, &[&vitals.policy], 1);
    store.level(Id::PolicyLoaded, &[], vitals.policy_loaded);
    for (id, (good, bad), [first, second]) in [
        (Id::Reloads, vitals.reloads, ["taken", "refused"]),
        (Id::Leaves, vitals.leaves, ["signed", "refused"]),
        (
            Id::RecordRefused,
            vitals.record_refused,
            ["failed", "quota"],
        ),
    ] {
        store.add(id, &[first], good);
        store.add(id, &[second], bad);
    }
    store.add(Id::WorkerStarts, &[], vitals.worker_starts);
    store.level(Id::FlowsOpen, &["proxied"], vitals.proxied);
    store.level(Id::FlowsOpen, &["direct"], vitals.direct);
    store.level(Id::Agents, &[], many(agents.len()));
    store.level(
        Id::Quarantined,
        &[],
        many(agents.iter().filter(|agent| agent.quarantined).count()),
    );
    store.level(Id::Runs, &[], agents.iter().map(|agent| agent.runs).sum());
    for agent in agents {
        if let Some((sent, received, denied)) = agent.traffic {
            store.add(Id::AgentBytes, &[&agent.name, "sent"], sent);
            store.add(Id::AgentBytes, &[&agent.name, "received"], received);
            store.add(Id::AgentPacketsDenied, &[&agent.name], denied);
        }
        if let Some(taken) = &agent.resources {
            let name = [agent.name.as_str()];
            store.time(Id::AgentCpu, &name, taken.cpu.used_us);
            store.time(Id::AgentThrottled, &name, taken.cpu.throttled_us);
            if let Some(memory) = &taken.memory {
                store.level(Id::AgentMemory, &name, memory.current);
                store.level(Id::AgentAboveHigh, &name, memory.above_high);
                store.level(Id::AgentKills, &name, memory.oom_kills);
            }
            if let Some(pids) = &taken.pids {
                store.level(Id::AgentTasks, &name, pids.current);
                store.level(Id::AgentTasksRefused, &name, pids.refused);
            }
            if let Some(io) = &taken.io {
                store.level(Id::AgentDevices, &[&agent.name, "read"], io.read);
                store.level(Id::AgentDevices, &[&agent.name, "written"], io.written);
            }
            let pressure = &taken.pressure;
            for (resource, pressure) in [
                ("cpu", pressure.cpu),
                ("memory", pressure.memory),
                ("io", pressure.io),
            ] {
                if let Some(pressure) = pressure {
                    let labels = [&*agent.name, resource];
                    store.time(Id::AgentWaiting, &labels, pressure.some_us);
                }
            }
        }
    }
    // The fullest last: of two long scopes that are the same as labels, which are cut, the fuller one is told.
    for account in vitals.budgets.iter().take(MAX_ACCOUNTS).rev() {
        let labels = [&*account.budget, &*account.scope, &*account.unit];
        store.level(Id::BudgetUsed, &labels, account.used);
        store.level(Id::BudgetHeld, &labels, account.held);
        store.level(Id::BudgetLimit, &labels, account.limit);
    }
    store.level(Id::BudgetAccounts, &[], vitals.budget_accounts);
    let ledger = &vitals.ledger;
    store.level(Id::LedgerAway, &[], u64::from(ledger.away));
    store.level(Id::LedgerProblems, &[], ledger.problems);
    store.level(Id::LedgerWaiting, &[], ledger.waiting);
    store.level(Id::LedgerLeased, &[], ledger.leased);
    store.add(Id::LedgerDropped, &[], ledger.dropped);
    store.add(Id::LedgerSpentAway, &[], ledger.spent_away);
    store.level(Id::VirtualAddresses, &[], vitals.virtual_addresses);
    store.level(Id::RecordWaiting, &[], vitals.record_waiting);
    store.level(Id::RecordEntries, &[], vitals.record_entries);
    store.level(Id::RecordSize, &[], vitals.record_bytes);
    store.level(Id::RecordIndexLag, &[], vitals.record_index_lag);
    store.level(Id::RecordDegraded, &[], u64::from(vitals.record_degraded));
    let (gaps, lost) = vitals.record_gaps;
    store.add(Id::RecordGaps, &[], gaps);
    store.add(Id::RecordLost, &[], lost);
}

/// Puts what telemetry knows of itself there.
pub(crate) fn put_own(store: &mut Store, inner: &Inner) {
    let told = |count: &AtomicU64| count.load(Ordering::Relaxed);
    for (what, lost) in [
        ("notes", &inner.lost.notes),
        ("calls", &inner.lost.calls),
        ("spans", &inner.lost.spans),
    ] {
        store.add(Id::Lost, &[what], told(lost));
    }
    for (signal, Sent { taken, failed }) in [("metrics", &inner.metrics), ("traces", &inner.spans)]
    {
        store.add(Id::Exports, &[signal, "taken"], told(taken));
        store.add(Id::Exports, &[signal, "failed"], told(failed));
    }
}

//! Every figure: its name, what it counts, and by what. `docs/telemetry.md` has the same table, which a test holds
//! against this one.
//!
//! A name here is that of OpenTelemetry. Prometheus' is made of it: dots are underscores, seconds and bytes stand
//! behind the name, and `_total` behind what only rises.

/// The sets of labels of one figure, at most. Of those that come later the open labels are [`OTHER`].
pub const MAX_SERIES: usize = 1000;

/// What stands for what has no room any more.
pub const OTHER: &str = "_other";

/// What kind of figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only rises, but for a restart.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How often a value was at most this large.
    Histogram(&'static [f64]),
}

/// Since when a counter counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Since {
    /// The worker's start.
    Worker,
    /// An earlier moment: the keeper's start, or when the gate was made.
    Before,
}

/// A label.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Label {
    /// Its name in OpenTelemetry.
    pub name: &'static str,
    /// Whether its values are not a list of this program's.
    pub open: bool,
}

/// A figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// Which one.
    pub(crate) id: Id,
    /// Its name in OpenTelemetry.
    pub name: &'static str,
    /// What kind.
    pub kind: Kind,
    /// Its unit (UCUM): `s`, `By`, or a word in braces.
    pub unit: &'static str,
    /// What it says.
    pub help: &'static str,
    /// By what.
    pub labels: &'static [Label],
    /// Since when.
    pub since: Since,
}

const fn closed(name: &'static str) -> Label {
    Label { name, open: false }
}

const fn open(name: &'static str) -> Label {
    Label { name, open: true }
}

/// From ten microseconds to five seconds.
const SHORT: &[f64] = &[
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025,
    0.05, 0.1, 0.5, 1.0, 5.0,
];

/// As the conventions for `gen_ai.client.operation.duration` advise.
const OPERATION: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
];

/// As the conventions for `gen_ai.client.token.usage` advise.
const TOKENS: &[f64] = &[
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// Which figure: its place in [`METRICS`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Id {
    Decisions,
    AgentDecisions,
    DecisionDuration,
    RecordWriteDuration,
    Bytes,
    Tokens,
    OperationDuration,
    AgentTokens,
    BudgetRefusals,
    BudgetUsed,
    BudgetHeld,
    BudgetLimit,
    BudgetAccounts,
    LedgerAway,
    LedgerProblems,
    LedgerWaiting,
    LedgerLeased,
    LedgerDropped,
    LedgerSpentAway,
    LimitRefusals,
    FlowsOpen,
    Agents,
    Quarantined,
    Runs,
    AgentBytes,
    AgentPacketsDenied,
    AgentCpu,
    AgentThrottled,
    AgentMemory,
    AgentAboveHigh,
    AgentKills,
    AgentTasks,
    AgentTasksRefused,
    AgentDevices,
    AgentWaiting,
    RecordWaiting,
    RecordEntries,
    RecordSize,
    RecordIndexLag,
    RecordDegraded,
    RecordGaps,
    RecordLost,
    RecordRefused,
    VirtualAddresses,
    Leaves,
    WorkerStarts,
    Reloads,
    PolicyLoaded,
    PolicyInfo,
    BuildInfo,
    Lost,
    Exports,
}

macro_rules! metric {
    ($id:ident, $name:literal, $kind:expr, $unit:literal, [$($label:expr),*], $since:ident, $help:literal) => {
        Metric {
            id: Id::$id, name: $name, kind: $kind, unit: $unit, help: $help, labels: &[$($label),*], since: Since::$since,
        }
    };
}

/// All of them.
pub static METRICS: &[Metric] = &[
    metric!(
        Decisions,
        "agentguard.decisions",
        Kind::Counter,
        "{decision}",
        [
            closed("layer"),
            closed("kind"),
            closed("verdict"),
            closed("enforced"),
            closed("reason")
        ],
        Worker,
        "Attempts that were decided, by where, what they were, and why"
    ),
    metric!(
        AgentDecisions,
        "agentguard.agent.decisions",
        Kind::Counter,
        "{decision}",
        [open("agent"), closed("verdict"), closed("enforced")],
        Worker,
        "Attempts of each agent that were decided"
    ),
    metric!(
        DecisionDuration,
        "agentguard.decision.duration",
        Kind::Histogram(SHORT),
        "s",
        [closed("layer")],
        Worker,
        "How long a decision took, without its way to the record"
    ),
    metric!(
        RecordWriteDuration,
        "agentguard.record.write.duration",
        Kind::Histogram(SHORT),
        "s",
        [],
        Worker,
        "How long a decision waited for the record"
    ),
    metric!(
        Bytes,
        "agentguard.payload",
        Kind::Counter,
        "By",
        [closed("direction")],
        Worker,
        "Payload of allowed actions that have ended"
    ),
    metric!(
        Tokens,
        "gen_ai.client.token.usage",
        Kind::Histogram(TOKENS),
        "{token}",
        [
            closed("gen_ai.token.type"),
            closed("gen_ai.operation.name"),
            open("gen_ai.provider.name"),
            open("gen_ai.request.model"),
            open("gen_ai.response.model")
        ],
        Worker,
        "Tokens of calls of language models, as their providers report them"
    ),
    metric!(
        OperationDuration,
        "gen_ai.client.operation.duration",
        Kind::Histogram(OPERATION),
        "s",
        [
            closed("gen_ai.operation.name"),
            open("gen_ai.provider.name"),
            open("gen_ai.request.model"),
            open("gen_ai.response.model"),
            open("error.type")
        ],
        Worker,
        "How long allowed calls of language models took"
    ),
    metric!(
        AgentTokens,
        "agentguard.agent.tokens",
        Kind::Counter,
        "{token}",
        [open("agent"), closed("gen_ai.token.type")],
        Worker,
        "Tokens of each agent's calls of language models, as their providers report them"
    ),
    metric!(
        BudgetRefusals,
        "agentguard.budget.refusals",
        Kind::Counter,
        "{attempt}",
        [open("budget")],
        Worker,
        "Attempts that were refused, or cut while they were under way, because an account of this budget had too little left"
    ),
    metric!(
        BudgetUsed,
        "agentguard.budget.used",
        Kind::Gauge,
        "1",
        [open("budget"), open("scope"), closed("unit")],
        Worker,
        "What an account of a budget has used in its window, in the unit; of the fullest accounts"
    ),
    metric!(
        BudgetHeld,
        "agentguard.budget.held",
        Kind::Gauge,
        "1",
        [open("budget"), open("scope"), closed("unit")],
        Worker,
        "What an account of a budget holds for calls under way, in the unit; of the same accounts"
    ),
    metric!(
        BudgetLimit,
        "agentguard.budget.limit",
        Kind::Gauge,
        "1",
        [open("budget"), open("scope"), closed("unit")],
        Worker,
        "How much an account of a budget has in a window, in the unit; of the same accounts"
    ),
    metric!(
        BudgetAccounts,
        "agentguard.budget.accounts",
        Kind::Gauge,
        "{account}",
        [],
        Worker,
        "Accounts of the policy's budgets whose window is under way"
    ),
    metric!(
        LedgerAway,
        "agentguard.ledger.away",
        Kind::Gauge,
        "1",
        [],
        Worker,
        "1 while the Redis in which hosts share their budgets does not answer"
    ),
    metric!(
        LedgerProblems,
        "agentguard.ledger.problems",
        Kind::Gauge,
        "{problem}",
        [],
        Worker,
        "What is wrong with the ledger of this host, though it goes on: `agentguard status` says it"
    ),
    metric!(
        LedgerWaiting,
        "agentguard.ledger.waiting",
        Kind::Gauge,
        "{call}",
        [],
        Worker,
        "Calls that are over, and that the Redis does not know of yet"
    ),
    metric!(
        LedgerLeased,
        "agentguard.ledger.leased",
        Kind::Gauge,
        "{account}",
        [],
        Worker,
        "Accounts of which this host has drawn something in advance from the Redis"
    ),
    metric!(
        LedgerDropped,
        "agentguard.ledger.dropped",
        Kind::Counter,
        "{call}",
        [],
        Worker,
        "Calls of which the Redis is not told how much they used, since too many waited: they are charged in full"
    ),
    metric!(
        LedgerSpentAway,
        "agentguard.ledger.spent_away",
        Kind::Counter,
        "{time}",
        [],
        Worker,
        "How often calls began or went on with what was drawn in advance, while the Redis was away"
    ),
    metric!(
        LimitRefusals,
        "agentguard.limit.refusals",
        Kind::Counter,
        "{attempt}",
        [open("limit")],
        Worker,
        "Attempts that were refused by this limit or breaker"
    ),
    metric!(
        FlowsOpen,
        "agentguard.flows.open",
        Kind::Gauge,
        "{flow}",
        [closed("path")],
        Worker,
        "Flows that are under way: through the proxy, or directly"
    ),
    metric!(
        Agents,
        "agentguard.agents",
        Kind::Gauge,
        "{agent}",
        [],
        Worker,
        "Agents that the policy declares or that have a cgroup"
    ),
    metric!(
        Quarantined,
        "agentguard.agents.quarantined",
        Kind::Gauge,
        "{agent}",
        [],
        Worker,
        "Agents that are quarantined"
    ),
    metric!(
        Runs,
        "agentguard.runs",
        Kind::Gauge,
        "{run}",
        [],
        Worker,
        "Runs that have not ended"
    ),
    metric!(
        AgentBytes,
        "agentguard.agent.traffic",
        Kind::Counter,
        "By",
        [open("agent"), closed("direction")],
        Before,
        "What passed the gate in the kernel, headers of IP included"
    ),
    metric!(
        AgentPacketsDenied,
        "agentguard.agent.packets.denied",
        Kind::Counter,
        "{packet}",
        [open("agent")],
        Before,
        "Packets that the gate in the kernel dropped"
    ),
    metric!(
        AgentCpu,
        "agentguard.agent.cpu.time",
        Kind::Gauge,
        "s",
        [open("agent")],
        Before,
        "Processor time that each agent's cgroups have used since they were made"
    ),
    metric!(
        AgentThrottled,
        "agentguard.agent.cpu.throttled",
        Kind::Gauge,
        "s",
        [open("agent")],
        Before,
        "How long threads in each agent's cgroups were held up by their limit of processor time, since these were made"
    ),
    metric!(
        AgentMemory,
        "agentguard.agent.memory",
        Kind::Gauge,
        "By",
        [open("agent")],
        Worker,
        "Memory that each agent's cgroups use, where the host tells"
    ),
    metric!(
        AgentAboveHigh,
        "agentguard.agent.memory.slowed",
        Kind::Gauge,
        "{time}",
        [open("agent")],
        Before,
        "How often each agent's cgroups were slowed down above `memory.high`, since these were made, where the host tells"
    ),
    metric!(
        AgentKills,
        "agentguard.agent.memory.kills",
        Kind::Gauge,
        "{process}",
        [open("agent")],
        Before,
        "Processes in each agent's cgroups that the kernel killed for want of memory, since these were made, where the host tells"
    ),
    metric!(
        AgentTasks,
        "agentguard.agent.tasks",
        Kind::Gauge,
        "{task}",
        [open("agent")],
        Worker,
        "Processes and threads in each agent's cgroups, where the host tells"
    ),
    metric!(
        AgentTasksRefused,
        "agentguard.agent.tasks.refused",
        Kind::Gauge,
        "{time}",
        [open("agent")],
        Before,
        "How often the kernel refused each agent's cgroups another process or thread, since these were made, where the host tells"
    ),
    metric!(
        AgentDevices,
        "agentguard.agent.devices",
        Kind::Gauge,
        "By",
        [open("agent"), closed("direction")],
        Before,
        "What each agent's cgroups read from and wrote to block devices, since these were made, where the host tells"
    ),
    metric!(
        AgentWaiting,
        "agentguard.agent.waiting",
        Kind::Gauge,
        "s",
        [open("agent"), closed("resource")],
        Before,
        "How long something in each agent's cgroups waited for this resource (`some` of PSI), since these were made, where the kernel tells"
    ),
    metric!(
        RecordWaiting,
        "agentguard.record.waiting",
        Kind::Gauge,
        "{decision}",
        [],
        Worker,
        "Decisions that wait for the record"
    ),
    metric!(
        RecordEntries,
        "agentguard.record.entries",
        Kind::Gauge,
        "{entry}",
        [],
        Worker,
        "Entries that the record holds"
    ),
    metric!(
        RecordSize,
        "agentguard.record.size",
        Kind::Gauge,
        "By",
        [],
        Worker,
        "Size of the record without its index"
    ),
    metric!(
        RecordIndexLag,
        "agentguard.record.index.lag",
        Kind::Gauge,
        "{entry}",
        [],
        Worker,
        "Entries that the index does not have yet"
    ),
    metric!(
        RecordDegraded,
        "agentguard.record.degraded",
        Kind::Gauge,
        "1",
        [],
        Worker,
        "1 while decisions cannot be recorded or not made safe, and are denied"
    ),
    metric!(
        RecordGaps,
        "agentguard.record.gaps",
        Kind::Counter,
        "{gap}",
        [],
        Worker,
        "Gaps that were recorded: something is missing in the record, and it says so"
    ),
    metric!(
        RecordLost,
        "agentguard.record.lost",
        Kind::Counter,
        "{item}",
        [],
        Worker,
        "Decisions of the kernel, outcomes and entries that these gaps say are missing, as far as that is known"
    ),
    metric!(
        RecordRefused,
        "agentguard.record.refused",
        Kind::Counter,
        "{decision}",
        [closed("cause")],
        Worker,
        "Attempts that were refused because they could not be recorded, or their agent was over its share"
    ),
    metric!(
        VirtualAddresses,
        "agentguard.names.virtual_addresses",
        Kind::Gauge,
        "{address}",
        [],
        Worker,
        "Names that have a virtual address"
    ),
    metric!(
        Leaves,
        "agentguard.leaves",
        Kind::Counter,
        "{certificate}",
        [closed("result")],
        Before,
        "Leaf certificates that were asked for"
    ),
    metric!(
        WorkerStarts,
        "agentguard.worker.starts",
        Kind::Counter,
        "{start}",
        [],
        Before,
        "Workers that the keeper has started; each one after the first took the place of one that ended"
    ),
    metric!(
        Reloads,
        "agentguard.policy.reloads",
        Kind::Counter,
        "{reload}",
        [closed("result")],
        Before,
        "Policies that were read anew, and what became of them"
    ),
    metric!(
        PolicyLoaded,
        "agentguard.policy.loaded.timestamp",
        Kind::Gauge,
        "s",
        [],
        Worker,
        "When the policy came into force, since the epoch"
    ),
    metric!(
        PolicyInfo,
        "agentguard.policy.info",
        Kind::Gauge,
        "1",
        [open("version")],
        Worker,
        "1 for the policy in force"
    ),
    metric!(
        BuildInfo,
        "agentguard.build.info",
        Kind::Gauge,
        "1",
        [open("version")],
        Worker,
        "1 for the program's version"
    ),
    metric!(
        Lost,
        "agentguard.telemetry.lost",
        Kind::Counter,
        "{item}",
        [closed("what")],
        Worker,
        "What telemetry had no room for: decisions and outcomes that are not counted here, calls and spans that are not told"
    ),
    metric!(
        Exports,
        "agentguard.telemetry.exports",
        Kind::Counter,
        "{request}",
        [closed("signal"), closed("result")],
        Worker,
        "Requests to the collector"
    ),
];

/// Of an id.
pub(crate) fn metric(id: Id) -> Option<&'static Metric> {
    METRICS.get(id as usize)
}

impl Metric {
    /// The name that Prometheus gets, without what stands behind it: unit, and `_total`.
    #[must_use]
    pub fn family(&self) -> String {
        underscored(self.name)
    }

    /// The name in Prometheus.
    #[must_use]
    pub fn in_prometheus(&self) -> String {
        let unit = match self.unit {
            "s" => "_seconds",
            "By" => "_bytes",
            _ => "",
        };
        let total = match self.kind {
            Kind::Counter => "_total",
            Kind::Gauge | Kind::Histogram(_) => "",
        };
        format!("{}{unit}{total}", self.family())
    }
}

/// A name of OpenTelemetry, as Prometheus writes it.
pub(crate) fn underscored(name: &str) -> String {
    name.replace('.', "_")
}

#[cfg(test)]
mod tests {
    use super::METRICS;

    #[test]
    fn each_figure_is_in_its_place() {
        for (place, metric) in METRICS.iter().enumerate() {
            assert_eq!(metric.id as usize, place, "{}", metric.name);
        }
    }

    #[test]
    fn the_documentation_has_every_figure_as_it_is() {
        let docs = include_str!("../../../docs/telemetry.md");
        for metric in METRICS {
            let labels: Vec<_> = metric
                .labels
                .iter()
                .map(|label| format!("`{}`", label.name))
                .collect();
            let labels = if labels.is_empty() {
                "none".to_owned()
            } else {
                labels.join(", ")
            };
            let row = format!(
                "| `{}` | `{}` | {labels} | {} |",
                metric.in_prometheus(),
                metric.name,
                metric.help
            );
            assert!(
                docs.lines().any(|line| line == row),
                "docs/telemetry.md lacks the line\n{row}"
            );
        }
        let rows = docs
            .lines()
            .filter(|line| line.starts_with("| `agentguard_") || line.starts_with("| `gen_ai_"));
        assert_eq!(rows.count(), METRICS.len());
    }
}

//! What travels over the control socket: plain data, one JSON shape per route.
//!
//! | route | answer |
//! | --- | --- |
//! | `GET /v1/verdicts?agent=&verdict=&kind=&since=&before=&limit=` | [`Verdicts`] |
//! | the same with `follow=true` | one [`Line`] per line; an empty line is a heartbeat |
//! | `GET /v1/verdicts/{id}` | a [`Decision`] |
//! | `GET /v1/verdicts/{id}/contents` | [`agentguard_model::contents::Contents`] |
//! | `GET /v1/agents` | [`Agents`] |
//! | `GET /v1/agents/{name}` | an [`AgentStatus`] |
//! | `GET /v1/policy` | a [`PolicyView`] |
//! | `GET /v1/budgets?budget=&agent=&forecast=` | [`crate::budgets::BudgetAccounts`] |
//! | `GET /v1/budgets/account?name=` | a [`crate::budgets::BudgetAccount`] |
//! | `GET /v1/limits` | [`crate::limits::LimitAccounts`] |
//! | `GET /v1/status` | a [`Status`] |
//!
//! Whatever is refused answers with a [`Problem`] and an HTTP status that fits.

use std::net::SocketAddr;

use agentguard_model::{
    ActionKind, AgentId, AgentName, ConnectionRate, Decision, DecisionId, Handling,
    InvalidDecisionId, InvalidName, Labels, Mode, QuotaWindow, ResourceUsage, Source, Verdict,
};
use agentguard_record::{Gap, Notice};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The decisions one query answers with when it names no limit.
pub const DEFAULT_LIMIT: u32 = 100;

/// The decisions one query answers with at most. More is refused with a hint to narrow it or to
/// follow, which has no limit.
pub const MAX_LIMIT: u32 = 10_000;

/// The gaps and notes in a [`Status`], at most; older ones are in the record.
pub const NOTICES: usize = 10;

/// Which decisions.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct VerdictQuery {
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
    /// The newest so many, [`DEFAULT_LIMIT`] if absent, at most [`MAX_LIMIT`]. While following: how
    /// many of the past to begin with, none if absent.
    pub limit: Option<u32>,
    /// Go on with new ones as they are recorded.
    pub follow: bool,
}

/// The answer to a [`VerdictQuery`] that does not follow.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Verdicts {
    /// The decisions, newest last.
    pub decisions: Vec<Decision>,
}

/// One line of the answer to a [`VerdictQuery`] that follows.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A decision was recorded. Its outcome comes later and is not told here.
    Decision(Box<Decision>),
    /// A decision that was told before stands for more attempts by now.
    Counted(Box<Decision>),
    /// Something is missing here: it was lost, or deleted before a slow reader came to it.
    Gap(Gap),
    /// Who follows may not any more. Nothing comes after this.
    Refused(Problem),
}

/// Why a request was refused.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Problem {
    /// A stable word for programs.
    pub code: ProblemCode,
    /// What happened, for a person.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The stable word of a [`Problem`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemCode {
    /// The peer may not speak to this socket.
    Forbidden,
    /// There is no such route, agent or decision.
    NotFound,
    /// The request cannot be understood.
    BadRequest,
    /// Only `GET` is served here: changes go to the keeper.
    MethodNotAllowed,
    /// The guard failed to answer.
    Internal,
}

/// All agents.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Agents {
    /// Sorted by name.
    pub agents: Vec<AgentStatus>,
}

/// One agent as the guard governs it now.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AgentStatus {
    /// Its name.
    pub name: AgentName,
    /// Its number, under which the kernel knows it. Absent for an agent that nothing ran as yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<AgentId>,
    /// Its labels.
    #[serde(default)]
    pub labels: Labels,
    /// How far the policy goes for it.
    pub mode: Mode,
    /// Whether the policy in force does not have it: then it gets nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undeclared: bool,
    /// The cgroups that are governed under this name. Empty: the policy knows the agent and nothing
    /// runs as it.
    #[serde(default)]
    pub cgroups: Vec<String>,
    /// Runs of `agentguard run` that have not ended.
    #[serde(default)]
    pub runs: u32,
    /// That nothing leaves it and nothing reaches it, whatever the policy says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Quarantine>,
    /// What it takes of the host's processors, memory, processes and devices, as of a few seconds ago. Absent where
    /// nothing runs as it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceUsage>,
    /// How much of the network it may use, and has used. Absent where the policy has no limits for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaStatus>,
    /// What of it the guard cannot hold, or not serve, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// How much of the network an agent may use, and has used.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct QuotaStatus {
    /// For how long bytes count.
    pub every: QuotaWindow,
    /// Since when they are counted.
    pub since: Timestamp,
    /// When they are given anew. Absent where that is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets: Option<Timestamp>,
    /// Bytes that left it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_out: Option<QuotaUsed>,
    /// Bytes that reached it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_in: Option<QuotaUsed>,
    /// How many connections may begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<ConnectionRate>,
}

/// How much of a limit is used.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct QuotaUsed {
    /// The limit, in bytes.
    pub limit: u64,
    /// What was used of it, in bytes. More than the limit where that is not enforced, or was larger before.
    pub used: u64,
}

/// That nothing leaves an agent and nothing reaches it, until an operator releases it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Quarantine {
    /// Since when.
    pub since: Timestamp,
    /// The user id of who ordered it. Absent where that was not written down, and where the guard did it, as `reason` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Why, as they said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether its processes are stopped.
    #[serde(default)]
    pub frozen: bool,
}

/// Where the proxy and the resolver listen in one network namespace.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Listener {
    /// The namespace's cookie.
    pub netns: u64,
    /// The proxy's addresses.
    pub proxy: Vec<SocketAddr>,
    /// The resolver's addresses, UDP and TCP.
    pub resolver: Vec<SocketAddr>,
}

/// The guard itself, as the worker knows it. The wiring fills it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct GuardStatus {
    /// The program's version.
    pub version: String,
    /// Whether it is starting, serving or going away.
    pub phase: Phase,
    /// Process id of the keeper.
    pub keeper_pid: u32,
    /// Process id of the worker.
    pub worker_pid: u32,
    /// When the worker began.
    pub started: Timestamp,
    /// The gate in the kernel.
    pub gate: GateStatus,
    /// Where the policy in force comes from.
    pub policy: PolicyStatus,
    /// Where the prices of language models come from.
    #[serde(default)]
    pub prices: PricesStatus,
    /// The listeners, one entry for each network namespace.
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// What this host lacks, and what that means: a sentence each.
    #[serde(default)]
    pub degraded: Vec<String>,
    /// Leaf certificates for inspected connections.
    #[serde(default)]
    pub leaves: LeafStatus,
    /// The switches that the policy declares, and those that operators have set, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub switches: Vec<SwitchStatus>,
    /// What is told to outside, in figures and traces. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<TelemetryStatus>,
    /// Where budgets are kept, and how it is with that.
    #[serde(default)]
    pub ledger: LedgerStatus,
}

/// Where budgets are kept, and how it is with that.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct LedgerStatus {
    /// The Redis that hosts share. Absent: they are kept on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisStatus>,
    /// What is wrong with that of this host, though it goes on: a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// How it is with the Redis that hosts share.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct RedisStatus {
    /// Host and port.
    pub address: String,
    /// What its keys begin with.
    pub prefix: String,
    /// What becomes of calls while it is away, in a sentence.
    pub on_loss: String,
    /// Since when it is away. Absent: it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away_since: Option<Timestamp>,
    /// Why it is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<String>,
    /// Calls that are over, and that it does not know of yet.
    pub waiting: usize,
    /// Those that it is not told of, since too many waited: they are charged in full.
    pub dropped: u64,
    /// Accounts of which something is drawn in advance.
    pub leased: usize,
    /// How often calls began, or went on, with what was drawn in advance, since the worker's start.
    pub spent_away: u64,
}

impl LedgerStatus {
    /// Whether nothing is wrong with it.
    #[must_use]
    pub fn healthy(&self) -> bool {
        let redis = self.redis.as_ref();
        self.problems.is_empty() && redis.is_none_or(|it| it.away_since.is_none())
    }
}

/// Where the prices of language models come from.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct PricesStatus {
    /// The operator's file, which comes before what is built in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The models in it.
    #[serde(default)]
    pub models: usize,
    /// The newest day of the prices that are built in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_in: Option<String>,
}

/// How telemetry is doing, since the worker's start.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct TelemetryStatus {
    /// Where Prometheus finds figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<String>,
    /// Where figures and spans are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otlp: Option<String>,
    /// Requests that the collector took.
    pub sent: u64,
    /// Requests that it did not take.
    pub failed: u64,
    /// Why the last one failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Decisions and outcomes that are missing in the figures: there was no room for them.
    pub lost_notes: u64,
    /// Calls that are told in no span.
    pub lost_spans: u64,
}

/// A switch that rules may look at.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SwitchStatus {
    /// Its name.
    pub name: String,
    /// How it is. Absent: the policy does not declare it, so that it counts for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<bool>,
    /// How the policy declares it. Absent: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared: Option<bool>,
    /// How an operator has set it. Absent: it is as declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<SwitchSet>,
}

/// How an operator has set a switch.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SwitchSet {
    /// On or off.
    pub on: bool,
    /// Since when.
    pub since: Timestamp,
    /// The user id of who set it.
    pub uid: u32,
    /// Why, as they said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl SwitchStatus {
    /// One that the policy declares like this, and that somebody has set like that.
    #[must_use]
    pub fn new(name: impl Into<String>, declared: Option<bool>, set: Option<SwitchSet>) -> Self {
        Self {
            name: name.into(),
            on: declared.map(|declared| set.as_ref().map_or(declared, |set| set.on)),
            declared,
            set,
        }
    }

    /// Whether it is as the policy says: not one that an operator has set to something else, nor one that
    /// counts for nothing.
    #[must_use]
    pub fn is_as_declared(&self) -> bool {
        self.declared.is_some() && self.on == self.declared
    }
}

/// Leaf certificates since the keeper's start.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct LeafStatus {
    /// Signed by the keeper.
    pub signed: u64,
    /// Refused by the keeper: its policy does not inspect that name, or too many were asked for.
    pub refused: u64,
}

/// What the guard is doing.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Not all parts are up.
    Starting,
    /// All parts are up.
    Ready,
    /// No new flows; old ones are being finished.
    Draining,
}

/// The gate in the kernel.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct GateStatus {
    /// The cgroups that it is attached to: the topmost governed ones. Empty: nothing is governed.
    pub attached: Vec<String>,
    /// How many more it is attached to: these are too many to be listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attached_more: usize,
    /// Its programs.
    pub programs: Vec<ProgramStatus>,
    /// The kernel's release.
    pub kernel: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// One program of the gate.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ProgramStatus {
    /// Its name.
    pub name: String,
    /// The instructions that the verifier walked, where the kernel tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_instructions: Option<u32>,
}

/// Where the policy in force comes from, and how the last attempt to replace it went.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PolicyStatus {
    /// The first 12 hexadecimal digits of the documents' SHA-256.
    pub version: String,
    /// The files it was read from.
    pub files: Vec<String>,
    /// When it came into force.
    pub loaded: Timestamp,
    /// What was wrong with the last one that was not taken. The policy in force is then the one
    /// before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Everything about the guard's health.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// The guard itself.
    #[serde(flatten)]
    pub guard: GuardStatus,
    /// The agents.
    pub agents: Vec<AgentStatus>,
    /// The record.
    pub record: agentguard_record::Status,
    /// What the record says of its own completeness: the newest [`NOTICES`] gaps and notes, newest
    /// last.
    #[serde(default)]
    pub notices: Vec<Notice>,
    /// That this is what somebody who may run some agents is told: other agents, listeners, leaves, and
    /// the record's figures and notices are left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

impl Status {
    /// Whether everything works as it should.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.guard.phase == Phase::Ready
            && (self.partial || !self.guard.gate.attached.is_empty())
            && self.guard.policy.refused.is_none()
            && self.guard.degraded.is_empty()
            && self.guard.ledger.healthy()
            && self.record.degraded.is_none()
            && self.record.damage.is_empty()
    }
}

/// The policy in force.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PolicyView {
    /// Where it comes from.
    #[serde(flatten)]
    pub status: PolicyStatus,
    /// The agents it knows.
    pub agents: Vec<PolicyAgent>,
    /// Its rules, in the order of the documents.
    pub rules: Vec<PolicyRule>,
    /// The header fields that its rules look at, which the record has of requests. Sorted.
    #[serde(default)]
    pub recorded_headers: Vec<String>,
    /// The switches that it declares, and those that operators have set, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub switches: Vec<SwitchStatus>,
    /// What the compiler found worth saying.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// An agent as the policy describes it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PolicyAgent {
    /// Its name.
    pub name: AgentName,
    /// Its labels.
    #[serde(default)]
    pub labels: Labels,
    /// How far the policy goes for it.
    pub mode: Mode,
    /// The users that may run it besides root, by number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<u32>,
}

/// A rule of the policy.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PolicyRule {
    /// Its number, which stands in the kernel's events.
    pub number: u32,
    /// Its id.
    pub id: String,
    /// Where it stands.
    pub source: Source,
    /// What it says: allow or deny.
    pub action: Verdict,
    /// How what it allows is carried. A denial has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handling: Option<Handling>,
    /// How far it goes.
    pub mode: Mode,
    /// For how many of a hundred sessions it is in force; for all, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<u8>,
    /// Its own sentence for the person who meets a denial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl VerdictQuery {
    /// Reads a query string.
    ///
    /// # Errors
    /// A [`Problem`] for an unknown or repeated parameter, a value that is not of its kind, or a
    /// limit beyond [`MAX_LIMIT`].
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let mut query = Self::default();
        let mut seen: Vec<String> = Vec::new();
        for (key, value) in form_urlencoded::parse(text.as_bytes()) {
            if seen.iter().any(|k| *k == key) {
                return Err(Problem::bad_request(format!("`{key}` is given twice")));
            }
            match &*key {
                "agent" => query.agent = Some(value.parse().map_err(|error| refused(&error))?),
                "verdict" => query.verdict = Some(word(&key, &value)?),
                "kind" => query.kind = Some(word(&key, &value)?),
                "since" => {
                    query.since = Some(value.parse().map_err(|error| {
                        Problem::bad_request(format!(
                            "`since` is not a time as RFC 3339 has it: {error}"
                        ))
                    })?);
                }
                "before" => {
                    query.before = Some(value.parse().map_err(|error: InvalidDecisionId| {
                        Problem::bad_request(error.to_string())
                    })?);
                }
                "limit" => query.limit = Some(limit(&value)?),
                "follow" => query.follow = word(&key, &value)?,
                _ => {
                    return Err(Problem::bad_request(format!(
                        "there is no parameter `{}`",
                        key.chars().take(40).collect::<String>()
                    ))
                    .hint("agent, verdict, kind, since, before, limit and follow are there"));
                }
            }
            seen.push(key.into_owned());
        }
        Ok(query)
    }

    /// The query string that [`Self::parse`] reads back.
    #[must_use]
    pub fn to_query_string(&self) -> String {
        let mut out = form_urlencoded::Serializer::new(String::new());
        if let Some(agent) = &self.agent {
            out.append_pair("agent", agent.as_str());
        }
        if let Some(verdict) = self.verdict {
            out.append_pair("verdict", &verdict.to_string());
        }
        if let Some(kind) = self.kind {
            out.append_pair("kind", &spelled(kind));
        }
        if let Some(since) = self.since {
            out.append_pair("since", &since.to_string());
        }
        if let Some(before) = self.before {
            out.append_pair("before", &before.to_string());
        }
        if let Some(limit) = self.limit {
            out.append_pair("limit", &limit.to_string());
        }
        if self.follow {
            out.append_pair("follow", "true");
        }
        out.finish()
    }
}

impl Problem {
    /// A problem without a hint.
    #[must_use]
    pub fn new(code: ProblemCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
        }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(ProblemCode::BadRequest, message)
    }
}

/// The word that an action's kind is written as, in JSON and on the command line.
#[must_use]
pub fn spelled(kind: ActionKind) -> String {
    match serde_json::to_value(kind) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

fn refused(error: &InvalidName) -> Problem {
    Problem::bad_request(error.to_string())
}

fn word<T: serde::de::DeserializeOwned>(key: &str, value: &str) -> Result<T, Problem> {
    let json = match value {
        "true" => serde_json::Value::Bool(true),
        "false" => serde_json::Value::Bool(false),
        _ => serde_json::Value::String(value.chars().take(80).collect()),
    };
    serde_json::from_value(json)
        .map_err(|error| Problem::bad_request(format!("`{key}` cannot be read: {error}")))
}

fn limit(value: &str) -> Result<u32, Problem> {
    value
        .parse()
        .ok()
        .filter(|limit| (1..=MAX_LIMIT).contains(limit))
        .ok_or_else(|| {
            Problem::bad_request(format!("`limit` is not a number from 1 to {MAX_LIMIT}"))
                .hint("narrow the query by agent, verdict, kind or since, or follow")
        })
}

#[cfg(test)]
mod tests {
    use super::{ProblemCode, VerdictQuery};
    use agentguard_model::{ActionKind, Verdict};

    #[test]
    fn a_query_survives_the_wire() {
        let query = VerdictQuery {
            agent: Some("coder".parse().unwrap()),
            verdict: Some(Verdict::Deny),
            kind: Some(ActionKind::HttpRequest),
            since: Some("2026-01-02T03:04:05.678Z".parse().unwrap()),
            before: Some("01JD6Z7Q0000000000000000AB".parse().unwrap()),
            limit: Some(7),
            follow: true,
        };
        assert_eq!(VerdictQuery::parse(&query.to_query_string()), Ok(query));
        assert_eq!(VerdictQuery::parse(""), Ok(VerdictQuery::default()));
    }

    #[test]
    fn what_cannot_be_understood_is_refused_and_named() {
        for (text, says) in [
            ("agent=No", "`No` is not an agent name"),
            (
                "verdict=maybe",
                "`verdict` cannot be read: unknown variant `maybe`",
            ),
            ("kind=dns", "`kind` cannot be read: unknown variant `dns`"),
            ("since=10m", "`since` is not a time"),
            ("before=1", "`1` is not a decision id"),
            ("limit=0", "from 1 to 10000"),
            ("limit=10001", "from 1 to 10000"),
            ("limit=-1", "from 1 to 10000"),
            ("follow=1", "`follow` cannot be read"),
            ("agent=a&agent=b", "`agent` is given twice"),
            ("agnet=a", "there is no parameter `agnet`"),
        ] {
            let problem = VerdictQuery::parse(text).unwrap_err();
            assert_eq!(problem.code, ProblemCode::BadRequest, "{text}");
            assert!(
                problem.message.contains(says),
                "{text}: {}",
                problem.message
            );
        }
    }
}

//! A policy document as it is written. Raw: [`crate::load`] turns it into rules that cannot be wrong.

mod budget;
mod changes;
mod limit;
mod llm;
mod quota;
mod resources;
mod tool;

use std::collections::BTreeMap;

use agentguard_model::{Handling, Mode, Verdict};
use schemars::JsonSchema;
use serde::Deserialize;

pub(crate) use budget::{RawBudget, RawCharged, RawChargedTool, RawSoft, RawWindow};
pub(crate) use changes::{RawBounds, RawChanges, RawNumber, RawOp, RawOperation};
pub(crate) use limit::{RawBreaker, RawCircuit, RawCounted, RawDepth, RawLimit};
pub use llm::NotUnderstood;
pub(crate) use llm::{RawLlm, RawProvider};
pub(crate) use quota::RawQuota;
pub use resources::OnMissing;
pub(crate) use resources::{RawIo, RawResources};
pub use tool::{Listing, Pinning};
pub(crate) use tool::{RawRoute, RawTool, RawToolServer};

use crate::protocols::Protocol;
use crate::strategy::Strategy;
use crate::yaml::At;

/// The JSON Schema of a policy document, version 1.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(RawDocument).into()
}

/// A policy document. Several of them make one policy; `defaults` may stand in one of them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a policy document")]
#[schemars(rename = "Policy")]
pub(crate) struct RawDocument {
    /// The version of the document's form: 1.
    #[schemars(range(min = 1, max = 1))]
    pub(crate) version: At<u64>,
    /// Other documents of the same policy: paths from the directory of this one, or absolute ones.
    #[serde(default)]
    pub(crate) include: Option<At<Vec<At<String>>>>,
    /// Which of the rules that match decides. `deny_overrides` if absent; it may stand in one document.
    #[serde(default)]
    pub(crate) strategy: Option<At<Strategy>>,
    /// Switches that operators can set while the policy is in force, each with how it is unless they do.
    /// Expressions look at them: `switches.NAME`.
    #[serde(default)]
    pub(crate) switches: BTreeMap<String, At<bool>>,
    /// What holds where an agent does not say otherwise.
    #[serde(default)]
    pub(crate) defaults: Option<At<RawDefaults>>,
    /// Texts by name. `${name}` stands for one in the labels and cgroups of agents, in lists, groups
    /// and rules; `$${` for the text `${`. A name is a letter a-z and up to 31 of a-z 0-9 _.
    #[serde(default)]
    #[expect(
        dead_code,
        reason = "the loader reads it from the tree, before the document; this is its form"
    )]
    #[schemars(with = "BTreeMap<String, RawText>")]
    pub(crate) variables: BTreeMap<String, At<String>>,
    /// Lists by name, as of variables. `"@name"` stands for one's entries in the lists of rules and groups
    /// and in other lists; `@@` at the beginning of an entry for the text `@`.
    #[serde(default)]
    #[expect(
        dead_code,
        reason = "the loader reads it from the tree, before the document; this is its form"
    )]
    #[schemars(with = "BTreeMap<String, Vec<RawText>>")]
    pub(crate) lists: BTreeMap<String, At<Vec<At<String>>>>,
    /// Providers of language models, beside those that are built in: who answers where.
    #[serde(default)]
    pub(crate) providers: Vec<At<RawProvider>>,
    /// Servers of tools: who answers where.
    #[serde(default)]
    pub(crate) tool_servers: Vec<At<RawToolServer>>,
    /// The governed workloads.
    #[serde(default)]
    pub(crate) agents: Vec<At<RawAgent>>,
    /// Agents for which rules are written together.
    #[serde(default)]
    pub(crate) groups: Vec<At<RawGroup>>,
    /// How much they may use: tokens, money, calls.
    #[serde(default)]
    pub(crate) budgets: Vec<At<RawBudget>>,
    /// What stops loops and runaways: rates, repetition, storms of retries, chains of agents, no progress.
    #[serde(default)]
    pub(crate) limits: Vec<At<RawLimit>>,
    /// What is left alone for a time once it has failed too often.
    #[serde(default)]
    pub(crate) breakers: Vec<At<RawBreaker>>,
    /// What they may do. Without a rule that allows it, nothing.
    #[serde(default)]
    pub(crate) rules: Vec<At<RawRule>>,
}

/// What holds where an agent does not say otherwise.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "Defaults")]
pub(crate) struct RawDefaults {
    /// How far the policy goes. `enforce` if absent.
    #[serde(default)]
    pub(crate) mode: Option<Mode>,
    /// How names that no rule matches are carried in `observe` and `shadow`: `direct` or `splice`.
    /// `splice` if absent.
    #[serde(default)]
    pub(crate) default_handling: Option<At<Handling>>,
    /// What becomes of calls of language models that cannot be read. `deny` if absent.
    #[serde(default)]
    pub(crate) not_understood: Option<NotUnderstood>,
    /// What rules say that do not say otherwise.
    #[serde(default)]
    pub(crate) rule: Option<At<RawRuleDefaults>>,
}

/// What rules say that do not say otherwise. A denial never becomes narrower by it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "RuleDefaults")]
pub(crate) struct RawRuleDefaults {
    /// How what rules allow is carried; not for a rule over UDP, unless it is `direct`.
    #[serde(default)]
    pub(crate) handling: Option<Handling>,
    /// The ports of rules that allow.
    #[serde(default)]
    #[schemars(with = "Option<Vec<RawPort>>")]
    pub(crate) port: Option<At<Vec<At<String>>>>,
    /// The transports of rules that allow a destination and look at no request.
    #[serde(default)]
    pub(crate) transport: Option<At<Vec<At<RawTransport>>>>,
    /// How far rules go, denials too.
    #[serde(default)]
    pub(crate) mode: Option<At<Mode>>,
}

/// A governed workload.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an agent")]
#[schemars(rename = "Agent")]
pub(crate) struct RawAgent {
    /// Its name: 1 to 63 characters a-z 0-9 . _ -, the first a letter or digit.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9._-]{0,62}$"))]
    pub(crate) name: At<String>,
    /// Control groups that are this agent: relative to `cgroup_root`, or absolute. `*` stands for
    /// any run of characters within a segment, `**` for any number of segments.
    #[serde(default)]
    pub(crate) cgroup: Option<At<Vec<At<String>>>>,
    /// Who may run this agent besides root, as members of the group `agentguard-run`: names or numbers
    /// of users of this host, at most 64. Root alone, if absent.
    #[serde(default)]
    #[schemars(with = "Option<Vec<RawUser>>")]
    pub(crate) users: Option<At<Vec<At<String>>>>,
    /// Labels: tenant, owner, workflow, purpose, …
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// How far the policy goes for this agent.
    #[serde(default)]
    pub(crate) mode: Option<Mode>,
    /// What becomes of new `direct` flows while the daemon is gone. `deny` if absent.
    #[serde(default)]
    pub(crate) on_daemon_loss: Option<OnDaemonLoss>,
    /// What becomes of sockets that are open when a cgroup is added to this agent. `close` if absent.
    #[serde(default)]
    pub(crate) on_adoption: Option<OnAdoption>,
    /// Which loopback ports it reaches without a rule. `own` if absent.
    #[serde(default)]
    pub(crate) local: Option<Local>,
    /// How names that no rule matches are carried in `observe` and `shadow`: `direct` or `splice`.
    #[serde(default)]
    pub(crate) default_handling: Option<At<Handling>>,
    /// What becomes of its calls of language models that cannot be read.
    #[serde(default)]
    pub(crate) not_understood: Option<NotUnderstood>,
    /// Where requests may say whom they are for, so that it is taken for true where the run does not say: the first
    /// of these comes first. None, if absent.
    #[serde(default)]
    pub(crate) trusts: Vec<agentguard_model::ClaimSource>,
    /// How much of the network it may use. Without limits, if absent.
    #[serde(default)]
    pub(crate) quota: Option<At<RawQuota>>,
    /// What `agentguard run` leaves open to this agent that it closes to others.
    #[serde(default)]
    pub(crate) sandbox: Option<RawSandbox>,
    /// What each of its cgroups may take of the host's processors, memory, processes and devices, at most.
    /// No limit, if absent.
    #[serde(default)]
    pub(crate) resources: Option<At<RawResources>>,
}

/// What `agentguard run` leaves open to an agent.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "Sandbox")]
pub(crate) struct RawSandbox {
    /// Whether it may make namespaces, and mount in them, as programs with a sandbox of their own
    /// do. `deny` if absent.
    #[serde(default)]
    pub(crate) user_namespaces: Option<Permission>,
    /// Paths, sockets of daemons above all, that it sees though they are masked to others.
    #[serde(default)]
    pub(crate) unmasked_paths: Option<At<Vec<At<String>>>>,
}

/// Agents for which rules are written together: those named, and those that have all the labels.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a group")]
#[schemars(rename = "Group")]
pub(crate) struct RawGroup {
    /// Its name: 1 to 63 characters a-z 0-9 . _ -, the first a letter or digit.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9._-]{0,62}$"))]
    pub(crate) name: At<String>,
    /// Agents by name; `*` stands for all of them.
    #[serde(default)]
    pub(crate) agents: Option<At<Vec<At<String>>>>,
    /// And the agents that have all of these labels.
    #[serde(default)]
    pub(crate) labels: Option<At<BTreeMap<String, String>>>,
}

/// Whether an agent may do something.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Permission {
    /// It may.
    Allow,
    /// It may not.
    #[default]
    Deny,
}

/// What becomes of new `direct` flows while the daemon is gone.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum OnDaemonLoss {
    /// They are refused.
    #[default]
    Deny,
    /// They go on.
    Keep,
}

/// What becomes of sockets that are open when a cgroup is adopted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum OnAdoption {
    /// They are closed.
    #[default]
    Close,
    /// Established TCP connections go on until they end. All others are closed.
    Tolerate,
}

/// Which loopback ports an agent reaches without a rule.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Local {
    /// Those that it bound itself.
    #[default]
    Own,
    /// None.
    None,
}

/// Which addresses a name is answered with.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Addresses {
    /// One of the guard's own that stands for the name.
    #[default]
    Virtual,
    /// The name's own, for clients that refuse reserved ranges.
    Real,
}

/// What becomes of an answer in which a model asks for a tool call that is denied.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RawAnswer {
    /// It is refused, or ends before the call.
    #[default]
    Refuse,
    /// The call is cut out of it, and a sentence stands in its place.
    Cut,
}

/// What a rule says.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum RuleAction {
    /// It may.
    Allow,
    /// It may not.
    Deny,
    /// It may, with changes.
    Modify,
    /// A person decides.
    Escalate,
}

impl RuleAction {
    /// The verdict that it gives.
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Allow => Verdict::Allow,
            Self::Deny => Verdict::Deny,
            Self::Modify => Verdict::Modify,
            Self::Escalate => Verdict::Escalate,
        }
    }
}

/// One rule.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a rule")]
#[schemars(rename = "Rule")]
pub(crate) struct RawRule {
    /// Its id, unique in the policy.
    #[schemars(regex(pattern = r"^[a-z0-9._-]{1,64}$"))]
    pub(crate) id: At<String>,
    /// The agents it is for, by name; `*` stands for all of them.
    #[serde(default)]
    pub(crate) agents: Option<At<Vec<At<String>>>>,
    /// The groups it is for, by name, beside the `agents`.
    #[serde(default)]
    pub(crate) groups: Option<At<Vec<At<String>>>>,
    /// The agents it is for, by labels: all of these. With `agents` or `groups` beside it, both must hold.
    #[serde(default)]
    pub(crate) labels: Option<At<BTreeMap<String, String>>>,
    /// What it matches. Everything, if absent.
    #[serde(default, rename = "match")]
    pub(crate) matches: Option<RawMatch>,
    /// Where it stands with `strategy: priority_first_match`: the highest comes first. 0 if absent.
    #[serde(default)]
    pub(crate) priority: Option<At<i32>>,
    /// What must hold beside, in the Common Expression Language.
    #[serde(default)]
    pub(crate) when: Option<At<String>>,
    /// For which part of the sessions it is in force; for the others it is on paper.
    #[serde(default)]
    pub(crate) rollout: Option<At<RawRollout>>,
    /// What it says.
    // Required: one that is wrong leaves the rest of the rule to be judged, so that the loader misses it.
    #[schemars(with = "RuleAction", required)]
    pub(crate) action: Option<RuleAction>,
    /// What is changed in the requests that it allows, with `action: modify`.
    #[serde(default)]
    pub(crate) modify: Option<At<RawChanges>>,
    /// What becomes of an answer in which a model asks for a call that `tool_calls` denies. `refuse` if absent.
    #[serde(default)]
    pub(crate) answer: Option<At<RawAnswer>>,
    /// What is to be done beside.
    #[serde(default)]
    pub(crate) obligations: Option<At<RawObligations>>,
    /// How what it allows is carried: `direct`, `splice`, or `inspect`, which terminates TLS so that
    /// every request is decided. `splice` if absent; `direct` for a rule over UDP alone.
    #[serde(default)]
    pub(crate) handling: Option<At<Handling>>,
    /// Which addresses its hosts are answered with. `virtual` if absent.
    #[serde(default)]
    pub(crate) addresses: Option<At<Addresses>>,
    /// Private, loopback, link-local and metadata ranges to which the names it allows may lead, for what
    /// this rule allows.
    #[serde(default)]
    pub(crate) resolved_ranges: Option<At<Vec<At<String>>>>,
    /// How far this rule goes. `enforce` if absent.
    #[serde(default)]
    pub(crate) mode: Option<Mode>,
    /// A sentence for the person who meets a denial.
    #[serde(default)]
    pub(crate) reason: Option<At<String>>,
}

/// What a rule matches. All conditions that are given must hold, except that `host` and `cidr` are
/// alternatives.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "Match")]
pub(crate) struct RawMatch {
    /// Names: exact, or `*.example.org` for all names below `example.org`.
    #[serde(default)]
    pub(crate) host: Option<At<Vec<At<String>>>>,
    /// Addresses that are dialled bare.
    #[serde(default)]
    pub(crate) cidr: Option<At<Vec<At<String>>>>,
    /// Ports, and ranges like `8000-8100`. All, if absent.
    #[serde(default)]
    #[schemars(with = "Option<Vec<RawPort>>")]
    pub(crate) port: Option<At<Vec<At<String>>>>,
    /// Transports. If absent, `tcp` for a rule that allows or that looks at a request, else both.
    #[serde(default)]
    pub(crate) transport: Option<At<Vec<At<RawTransport>>>>,
    /// What is spoken. Over TCP alone.
    #[serde(default)]
    pub(crate) protocol: Option<At<Vec<At<Protocol>>>>,
    /// HTTP methods.
    #[serde(default)]
    pub(crate) method: Option<At<Vec<At<String>>>>,
    /// HTTP paths. `*` stands for any run of characters within a segment, `**` for any number of
    /// segments.
    #[serde(default)]
    pub(crate) path: Option<At<Vec<At<String>>>>,
    /// Parameters of the query, each with the values that it may have; `*` stands for any run of
    /// characters. All of the parameters must be there.
    #[serde(default)]
    pub(crate) query: Option<RawNamed>,
    /// Header fields, each with the values that it may have; `*` stands for any run of characters.
    /// All of the fields must be there.
    #[serde(default)]
    pub(crate) header: Option<RawNamed>,
    /// The users on whose behalf: `*` stands for any run of characters. A run without one does not match.
    #[serde(default)]
    pub(crate) user: Option<At<Vec<At<String>>>>,
    /// The sessions.
    #[serde(default)]
    pub(crate) session: Option<At<Vec<At<String>>>>,
    /// The workflows.
    #[serde(default)]
    pub(crate) workflow: Option<At<Vec<At<String>>>>,
    /// The purposes.
    #[serde(default)]
    pub(crate) purpose: Option<At<Vec<At<String>>>>,
    /// When.
    #[serde(default)]
    pub(crate) time: Option<At<RawTime>>,
    /// Calls of language models.
    #[serde(default)]
    pub(crate) llm: Option<At<RawLlm>>,
    /// Messages to servers of tools: calls, and what goes with them.
    #[serde(default)]
    pub(crate) tool: Option<At<RawTool>>,
    /// Classes of data that is sent. Not in this version.
    #[serde(default)]
    pub(crate) data_class: Option<At<Vec<At<String>>>>,
    /// A risk score above this. Not in this version.
    #[serde(default)]
    pub(crate) risk_over: Option<At<u64>>,
    /// A request with more content than this, in bytes or with `KiB`, `MiB`, `GiB` or `TiB`. For denials.
    #[serde(default)]
    #[schemars(with = "Option<RawSize>")]
    pub(crate) body_over: Option<At<String>>,
}

/// What is to be done beside what a rule says.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "Obligations")]
pub(crate) struct RawObligations {
    /// Whom to alert. Not in this version.
    #[serde(default)]
    pub(crate) alert: Option<At<String>>,
    /// At which level the daemon's log tells of what the rule decides.
    #[serde(default)]
    pub(crate) log: Option<LogLevel>,
    /// Whether the contents of what it allows are kept: the beginning of the request's and of the answer's.
    #[serde(default)]
    pub(crate) capture_body: Option<At<bool>>,
    /// By which class its rate is limited. Not in this version.
    #[serde(default)]
    pub(crate) rate_class: Option<At<String>>,
}

impl RawObligations {
    /// Whether it obliges to nothing.
    pub(crate) const fn is_empty(&self) -> bool {
        self.alert.is_none()
            && self.log.is_none()
            && self.capture_body.is_none()
            && self.rate_class.is_none()
    }
}

/// A level of the daemon's log.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// For those who look.
    Info,
    /// For those who are on call by day.
    Warn,
    /// For those who are woken.
    Error,
}

/// For which part of the sessions a rule is in force.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "Rollout")]
pub(crate) struct RawRollout {
    /// How many in a hundred. The same session always is, or is not, among them.
    #[schemars(range(max = 100))]
    pub(crate) percent: At<u64>,
}

/// When a rule matches.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "Time")]
pub(crate) struct RawTime {
    /// Days and runs of days: `mon`, `mon-fri`. All, if absent.
    #[serde(default)]
    pub(crate) days: Option<At<Vec<At<String>>>>,
    /// Windows like `08:00-18:00`; `22:00-06:00` belongs to the day on which it begins. All day, if absent.
    #[serde(default)]
    pub(crate) hours: Option<At<Vec<At<String>>>>,
    /// The time zone, as IANA names it: `Europe/Berlin`. UTC, if absent.
    #[serde(default)]
    pub(crate) zone: Option<At<String>>,
}

/// Patterns of values, by name.
pub(crate) type RawNamed = At<BTreeMap<String, At<Vec<At<String>>>>>;

/// A text, or a number as it is spelt, for the schema.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "Text")]
#[expect(
    dead_code,
    reason = "it only describes what the loader reads from text"
)]
enum RawText {
    /// A text.
    Text(#[schemars(length(min = 1))] String),
    /// A number.
    Number(f64),
}

/// A number of bytes, for the schema.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "Size")]
#[expect(
    dead_code,
    reason = "it only describes what the loader reads from text"
)]
pub(crate) enum RawSize {
    /// In bytes.
    Bytes(u64),
    /// With its unit.
    Text(#[schemars(regex(pattern = r"^[0-9]+ ?(B|KiB|MiB|GiB|TiB)?$|\$\{"))] String),
}

/// A user of the host, for the schema.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "User")]
#[expect(
    dead_code,
    reason = "it only describes what the loader reads from text"
)]
enum RawUser {
    /// By number.
    Number(#[schemars(range(max = 4_294_967_294u32))] u32),
    /// By name.
    Name(#[schemars(length(min = 1, max = 255))] String),
}

/// A port or a range of ports, for the schema.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "Port")]
#[expect(
    dead_code,
    reason = "it only describes what the loader reads from text"
)]
enum RawPort {
    /// A port.
    One(#[schemars(range(min = 1, max = 65535))] u16),
    /// `first-last`, a named list, or what a variable makes one of these.
    Range(#[schemars(regex(pattern = r"^[0-9]{1,5}(-[0-9]{1,5})?$|^@|\$\{"))] String),
}

/// What carries a flow, as a document writes it.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Transport")]
pub(crate) enum RawTransport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

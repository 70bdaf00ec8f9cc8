//! A policy document as it is written. Raw: [`crate::load`] turns it into rules that cannot be wrong.

use std::collections::BTreeMap;

use agentguard_model::{Handling, Mode};
use schemars::JsonSchema;
use serde::Deserialize;

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
    /// What holds where an agent does not say otherwise.
    #[serde(default)]
    pub(crate) defaults: Option<At<RawDefaults>>,
    /// The governed workloads.
    #[serde(default)]
    pub(crate) agents: Vec<At<RawAgent>>,
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
    /// What `agentguard run` leaves open to this agent that it closes to others.
    #[serde(default)]
    pub(crate) sandbox: Option<RawSandbox>,
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

/// What a rule says.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum RuleAction {
    /// It may.
    Allow,
    /// It may not, whatever another rule says.
    Deny,
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
    /// The agents it is for, by labels: all of these. Absent, with `agents` absent: all agents.
    #[serde(default)]
    pub(crate) labels: Option<At<BTreeMap<String, String>>>,
    /// What it matches. Everything, if absent.
    #[serde(default, rename = "match")]
    pub(crate) matches: Option<RawMatch>,
    /// What it says.
    pub(crate) action: RuleAction,
    /// How what it allows is carried: `direct`, `splice`, or `inspect`, which terminates TLS so that
    /// every request is decided. `splice` if absent; `direct` for a rule over UDP alone.
    #[serde(default)]
    pub(crate) handling: Option<At<Handling>>,
    /// Which addresses its hosts are answered with. `virtual` if absent.
    #[serde(default)]
    pub(crate) addresses: Option<At<Addresses>>,
    /// Private, loopback, link-local and metadata ranges into which the names it allows may
    /// resolve.
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
    /// A request with more content than this, in bytes or with `KiB`, `MiB` or `GiB`. For denials.
    #[serde(default)]
    #[schemars(with = "Option<RawSize>")]
    pub(crate) body_over: Option<At<String>>,
}

/// Patterns of values, by name.
pub(crate) type RawNamed = At<BTreeMap<String, At<Vec<At<String>>>>>;

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
    Text(#[schemars(regex(pattern = r"^[0-9]+ ?(B|KiB|MiB|GiB)?$"))] String),
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
    /// `first-last`.
    Range(#[schemars(regex(pattern = r"^[0-9]{1,5}(-[0-9]{1,5})?$"))] String),
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

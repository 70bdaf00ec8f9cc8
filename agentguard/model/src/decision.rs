//! The unit of record and of `explain`.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use ulid::{ULID_LEN, Ulid};

use crate::budget::Unit;
use crate::{
    Action, Agent, Bytes, Context, LlmAnswer, Messages, Mode, Process, Reason, ToolAnswer,
    TraceParent,
};

/// The id of a decision: a ULID, so that ids sort by time. 26 characters of Crockford's base 32.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[serde(try_from = "String")]
pub struct DecisionId(pub Ulid);

impl Serialize for DecisionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.array_to_str(&mut [0; ULID_LEN]))
    }
}

/// The text is not a decision id.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is not a decision id: 26 characters as `agentguard verdicts` prints them")]
pub struct InvalidDecisionId(String);

impl FromStr for DecisionId {
    type Err = InvalidDecisionId;

    fn from_str(text: &str) -> Result<Self, InvalidDecisionId> {
        Ulid::from_string(text)
            .map(Self)
            .map_err(|_| InvalidDecisionId(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for DecisionId {
    type Error = InvalidDecisionId;

    fn try_from(text: String) -> Result<Self, InvalidDecisionId> {
        text.parse()
    }
}

impl From<DecisionId> for String {
    fn from(id: DecisionId) -> Self {
        id.0.to_string()
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl JsonSchema for DecisionId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "DecisionId".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[0-7][0-9A-HJKMNP-TV-Z]{25}$" })
    }
}

/// What is done.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It goes on.
    Allow,
    /// It is refused.
    Deny,
    /// It goes on, changed.
    Modify,
    /// It is held for a person or stronger authentication.
    Escalate,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Where the decision was taken.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// In the kernel.
    Kernel,
    /// In the resolver.
    Dns,
    /// In the proxy.
    Proxy,
    /// In a hook of the agent's own.
    Hook,
    /// By an operator, who changed the guard itself.
    Operator,
}

/// Where a rule stands.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct Source {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
}

/// A rule that contributed.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct Matched {
    /// The engine.
    pub engine: String,
    /// The rule's id.
    pub rule: String,
    /// Where it stands.
    pub source: Source,
    /// The mode that keeps it on paper, where one does; `shadow` where its `rollout` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_paper: Option<Mode>,
}

/// What rules change in what goes on, as digests that are equal where the same is changed in the same order: `sha256:` and
/// hexadecimal digits. The values that rules set are not in them: they may be secrets, and where few are possible a digest
/// gives them away, salted or not, to whoever may read it.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct Changed {
    /// Of what is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<String>,
    /// Of what is not, and would be in enforce mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_paper: Option<String>,
}

/// A budget that contributed.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct BudgetLine {
    /// The budget, by its id.
    pub budget: String,
    /// Which of its accounts: `agent=coder,user=ada`. Empty where it has one for all.
    pub scope: String,
    /// In which unit.
    pub unit: Unit,
    /// How much was reserved; in an outcome, in all.
    pub reserved: u64,
    /// How much was used in the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<u64>,
    /// What of that is more than was reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overshoot: Option<u64>,
    /// To how many tokens of output the call's own limit was lowered, since no more was left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clamped: Option<u64>,
    /// Whether it has more than the budget allows, which only tells of it (`reached: alert`), or is on paper.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub over: bool,
    /// The model by whose price money is counted; where the model is not known, that it is counted by the dearest prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_of: Option<String>,
    /// Why more was used than was reserved, where more was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overshoot_cause: Option<OvershootCause>,
    /// Whether all that the call may write was reserved, or what it was lowered to, since some of that may not be shown as
    /// it is written: the model may reason, or the provider has tools of its own, or the call could not be read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
    /// Whether its input was counted by its model's own tokenizer, since it had too little room by its bytes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub counted: bool,
}

/// Why more was used of a budget than was reserved.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OvershootCause {
    /// Its provider reports more than was reserved: it read more than that was taken for, or did not keep to the limit of
    /// what it may write.
    Reported,
    /// Its provider wrote on behind a cut, a client that went away, or a connection that broke, until it noticed. How much
    /// is reported, was counted, or is estimated from its pace.
    WrittenBehind,
    /// What its provider wrote on could not be looked at, so that it is charged with all that it may have written.
    Unseen,
    /// Its answer was there as a whole when too little was left for it: nothing of it was passed on.
    Withheld,
    /// Its answer may be that to another call, which costs more.
    OtherCall,
}

/// What a detector found.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct Finding {
    /// Which detector.
    pub detector: String,
    /// Of which class.
    pub class: String,
    /// Where.
    #[serde(rename = "where")]
    pub place: String,
}

/// How the sentence of a denial ends that stands for all of an agent's with that reason, whatever their
/// destination: the agent is over its share of the record.
pub const COUNTED_TOGETHER: &str = " (counted together with others of this reason, to any destination: the agent is over its share of the record)";

/// Action, context, verdict, and everything that contributed.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Decision {
    /// Its id.
    pub id: DecisionId,
    /// When it was taken (RFC 3339, UTC).
    #[schemars(with = "String")]
    pub time: Timestamp,
    /// For whom. Absent where the kernel could not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent>,
    /// On whose behalf.
    pub context: Context,
    /// By which process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Where it was taken.
    pub layer: Layer,
    /// On what.
    pub action: Action,
    /// What it says.
    pub verdict: Verdict,
    /// Whether it was carried out; false in observe and shadow mode.
    pub enforced: bool,
    /// Under which mode.
    pub mode: Mode,
    /// Why.
    pub reason: Reason,
    /// By which rules.
    #[serde(default)]
    pub matched: Vec<Matched>,
    /// What rules change, where any do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Box<Changed>>,
    /// Under which budgets.
    #[serde(default)]
    pub budget: Vec<BudgetLine>,
    /// After which findings.
    #[serde(default)]
    pub findings: Vec<Finding>,
    /// How many identical attempts this record stands for.
    pub count: u64,
    /// When the last of them was, where there is more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub last: Option<Timestamp>,
    /// How long the decision took, in µs.
    pub latency_us: u64,
    /// The trace that the request itself says it belongs to (W3C `traceparent`), as the agent wrote it: it may be
    /// anybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_parent: Option<TraceParent>,
    /// Under which policy: the first 12 hexadecimal digits of its documents' SHA-256.
    pub policy_version: String,
    /// What became of it, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// What became of an allowed action.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Outcome {
    /// How much was moved.
    pub bytes: Bytes,
    /// How many messages, where they were read one by one: those of WebSocket, and the events of an
    /// event stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Messages>,
    /// From the decision to the end, in ms.
    pub duration_ms: u64,
    /// The HTTP status that the agent got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What came of a call of a language model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub llm: Option<LlmAnswer>,
    /// What came of a message to a server of tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<Box<ToolAnswer>>,
    /// What it used of its budgets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budget: Vec<BudgetLine>,
    /// What went wrong, where something did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

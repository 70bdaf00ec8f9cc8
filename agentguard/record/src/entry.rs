//! What an entry of the log says.

use agentguard_model::{ActionKind, AgentName, Decision, DecisionId, Outcome, Verdict};
use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// The payload of one entry, as JSON: an object with one key, which tells what it is.
///
/// JSON escapes control characters, so a payload holds no byte below 0x20, and no payload, whatever
/// an agent puts into it, can hold what looks like the head of a frame (see [`crate::frame`]).
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Entry {
    /// A whole decision.
    Decision(Box<Decision>),
    /// What became of a decision's action. The latest for an id holds.
    Outcome {
        /// Of which decision.
        id: DecisionId,
        /// What became of it.
        #[serde(flatten)]
        outcome: Box<Outcome>,
    },
    /// How many attempts a decision stands for by now. Totals, not increments: the highest holds.
    Aggregate(Count),
    /// Something is missing.
    Gap(Gap),
    /// Something happened to the log itself.
    Note(Note),
}

/// What the index needs of an entry. Reading the rest of it takes several times as long.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Gist {
    Decision(DecisionGist),
    Outcome { id: DecisionId },
    Aggregate { id: DecisionId },
    Gap(IgnoredAny),
    Note(IgnoredAny),
}

/// See [`Gist`].
#[derive(Debug, Deserialize)]
pub(crate) struct DecisionGist {
    pub(crate) id: DecisionId,
    agent: Option<AgentGist>,
    action: ActionGist,
    pub(crate) verdict: Verdict,
}

#[derive(Debug, Deserialize)]
struct AgentGist {
    name: AgentName,
}

#[derive(Debug, Deserialize)]
struct ActionGist {
    kind: ActionKind,
}

impl DecisionGist {
    /// For whom it was taken.
    pub(crate) fn agent(&self) -> Option<&AgentName> {
        Some(&self.agent.as_ref()?.name)
    }

    /// On what kind of action.
    pub(crate) const fn kind(&self) -> ActionKind {
        self.action.kind
    }
}

/// How many attempts a record stands for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Count {
    /// Which record.
    pub(crate) id: DecisionId,
    /// How many, the first one included.
    pub(crate) count: u64,
    /// When the last of them was.
    pub(crate) last: Timestamp,
}

/// Something is missing from the record, and that is known.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Gap {
    /// Who lost it: `kernel/cpu3`, `record`, `outcome`, ….
    pub source: String,
    /// How much was lost: events, attempts or entries, as the source counts. 0 where unknown.
    pub lost: u64,
    /// The first sequence number that is missing, as the source counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// The last sequence number that is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    /// When it was noticed.
    pub time: Timestamp,
    /// What happened, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What a note is about.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoteKind {
    /// The log ended in half an entry, which was cut off.
    TornTail,
    /// Bytes in the middle of the log cannot be read.
    Damage,
    /// Entries could not be written for a while; none was lost.
    WriteFailed,
    /// The disk took an entry, but could not say that it is safe from a power failure.
    SyncFailed,
    /// Old segments were deleted to stay within the bound.
    Retention,
}

/// Something happened to the log itself.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Note {
    /// When.
    pub time: Timestamp,
    /// About what.
    pub kind: NoteKind,
    /// In a sentence.
    pub message: String,
}

impl Note {
    pub(crate) fn now(kind: NoteKind, message: String) -> Self {
        Self {
            time: Timestamp::now(),
            kind,
            message,
        }
    }
}

/// What the record says about its own completeness.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// Something is missing.
    Gap(Gap),
    /// Something happened to the log.
    Note(Note),
}

#[cfg(test)]
mod tests {
    use super::Entry;

    /// The stored form of a full decision. If this test fails, old logs can no longer be read, or
    /// scripts break: change the code, not the text.
    const GOLDEN: &str = r#"{"decision":{"id":"01JD6Z7Q0000000000000000AB","time":"2026-11-22T04:08:03.123456789Z","agent":{"name":"coder","labels":{"owner":"ann","tenant":"acme"}},"context":{"user":"ann","session":"s-1","workflow":"build","purpose":"test","trace_id":"0af7651916cd43dd8448eb211c80319c"},"process":{"pid":42,"uid":1000,"comm":"curl","exe":"/usr/bin/curl"},"layer":"proxy","action":{"kind":"tool_call","transport":"tcp","host":"api.example","ip":"2001:db8::1","port":443,"method":"POST","path":"/v1/x","tool":{"server":"files","name":"read"},"llm":{"provider":"acme","operation":"chat","model":"m-1"},"bytes":{"sent":1,"received":2}},"verdict":"deny","enforced":true,"mode":"enforce","reason":{"code":"rule_deny","message":"rule `no-files` denies it"},"matched":[{"engine":"native","rule":"no-files","source":{"file":"policy.yaml","line":7}}],"budget":[{"budget":"day","scope":"agent=coder","unit":"micro_usd","reserved":5,"settled":3}],"findings":[{"detector":"secrets","class":"aws_key","where":"body.args.key"}],"count":3,"last":"2026-11-22T04:08:04Z","latency_us":87,"policy_version":"0123456789ab","outcome":{"bytes":{"sent":1,"received":2},"duration_ms":12,"status":403,"error":"refused"}}}"#;

    #[test]
    fn the_stored_form_is_stable() {
        let entry: Entry = serde_json::from_str(GOLDEN).unwrap();
        assert_eq!(serde_json::to_string(&entry).unwrap(), GOLDEN);
        for text in [
            r#"{"outcome":{"id":"01JD6Z7Q0000000000000000AB","bytes":{"sent":1,"received":2},"duration_ms":12,"status":200}}"#,
            r#"{"aggregate":{"id":"01JD6Z7Q0000000000000000AB","count":12,"last":"2026-11-22T04:08:04Z"}}"#,
            r#"{"gap":{"source":"kernel/cpu1","lost":3,"from":7,"to":9,"time":"2026-11-22T04:08:04Z"}}"#,
            r#"{"note":{"time":"2026-11-22T04:08:04Z","kind":"torn_tail","message":"m"}}"#,
        ] {
            let entry: Entry = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&entry).unwrap(), text);
        }
    }

    #[test]
    fn a_payload_never_holds_a_control_byte() {
        let Entry::Decision(mut decision) = serde_json::from_str::<Entry>(GOLDEN).unwrap() else {
            panic!("not a decision");
        };
        decision.action.path = Some((0..=0x1f_u8).map(char::from).collect());
        let bytes = serde_json::to_vec(&Entry::Decision(decision)).unwrap();
        assert!(bytes.iter().all(|b| *b >= 0x20));
    }
}

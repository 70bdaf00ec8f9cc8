//! What a document says of changes to what is allowed, as it is written.

use std::collections::BTreeMap;
use std::fmt;

use agentguard_protocol::json::Value;
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Number;

use crate::yaml::{At, NUMBER};

/// What one number may take while it is read, as [`Value::read`] counts.
const MAX_HELD: usize = 4096;

/// What is changed in a request.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "Changes")]
pub(crate) struct RawChanges {
    /// Its header fields.
    #[serde(default)]
    pub(crate) headers: Option<At<RawHeaderChanges>>,
    /// Values of its content that are put out, by JSON Pointer: from the top of a call of a language model,
    /// from the arguments of a call of a tool. `*` stands for every entry of a list or an object.
    #[serde(default)]
    pub(crate) redact: Option<At<Vec<At<String>>>>,
    /// Numbers of its content, likewise, and how large they may be.
    #[serde(default)]
    pub(crate) clamp: Option<At<BTreeMap<String, At<RawBounds>>>>,
    /// A JSON Patch (RFC 6902) of its content.
    #[serde(default)]
    pub(crate) json_patch: Option<At<Vec<At<RawOperation>>>>,
}

/// What is changed in the header fields of a request.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "HeaderChanges")]
pub(crate) struct RawHeaderChanges {
    /// Fields that are taken out.
    #[serde(default)]
    pub(crate) drop: Option<At<Vec<At<String>>>>,
    /// Fields that it has then, whatever it had, each with its value.
    #[serde(default)]
    pub(crate) set: Option<At<BTreeMap<String, At<String>>>>,
}

/// How large a number may be.
#[derive(Debug, JsonSchema)]
#[schemars(untagged, rename = "Bounds")]
pub(crate) enum RawBounds {
    /// No larger than this.
    Most(RawNumber),
    /// Within these.
    Range(RawRange),
}

/// How small and how large a number may be.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`min` and `max`")]
#[schemars(rename = "Range")]
pub(crate) struct RawRange {
    /// No smaller than this.
    #[serde(default)]
    pub(crate) min: Option<RawNumber>,
    /// No larger than this.
    #[serde(default)]
    pub(crate) max: Option<RawNumber>,
}

/// A number, as JSON writes it.
#[derive(Debug, JsonSchema)]
pub(crate) struct RawNumber(#[schemars(with = "f64")] pub(crate) Box<str>);

/// One change of a JSON Patch.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an operation of JSON Patch")]
#[schemars(rename = "PatchOperation")]
pub(crate) struct RawOperation {
    /// What is done.
    pub(crate) op: RawOp,
    /// Where, by JSON Pointer.
    pub(crate) path: At<String>,
    /// From where, with `move` and `copy`.
    #[serde(default)]
    pub(crate) from: Option<At<String>>,
    /// The value, with `add`, `replace` and `test`.
    #[serde(default)]
    pub(crate) value: RawValue,
}

/// What an operation does (RFC 6902, 4).
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "PatchOp")]
pub(crate) enum RawOp {
    /// Adds a member or an entry.
    Add,
    /// Takes one out.
    Remove,
    /// Puts another in its place.
    Replace,
    /// Takes one out and adds it somewhere else.
    Move,
    /// Adds what is somewhere else.
    Copy,
    /// Says what has to be there.
    Test,
}

/// Any value, or none.
#[derive(Debug, Default, JsonSchema)]
pub(crate) struct RawValue(
    #[schemars(with = "serde_json::Value")] pub(crate) Option<serde_json::Value>,
);

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Without an `Option` around it, so that `null` is a value.
        serde_json::Value::deserialize(deserializer).map(|value| Self(Some(value)))
    }
}

/// What reads a number, and what else may stand there.
struct NumberOr<T> {
    expected: &'static str,
    number: fn(Box<str>) -> T,
    range: Option<fn(RawRange) -> T>,
}

impl<'de, T> Visitor<'de> for NumberOr<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        Ok((self.number)(number.to_string().into()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        Ok((self.number)(number.to_string().into()))
    }

    /// One as it is written ([`NUMBER`]), which may not be as JSON writes it: `.5`.
    fn visit_bytes<E: Error>(self, text: &[u8]) -> Result<T, E> {
        if let Ok(Value::Number(number)) = Value::read(text, MAX_HELD) {
            return Ok((self.number)(number));
        }
        let text = String::from_utf8_lossy(text);
        let number = text.parse().ok().and_then(Number::from_f64);
        match number {
            Some(number) => Ok((self.number)(number.to_string().into())),
            None => Err(E::invalid_value(Unexpected::Str(&text), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        let Some(range) = self.range else {
            return Err(A::Error::invalid_type(Unexpected::Map, &self));
        };
        RawRange::deserialize(MapAccessDeserializer::new(map)).map(range)
    }
}

impl<'de> Deserialize<'de> for RawNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = NumberOr {
            expected: "a number",
            number: Self,
            range: None,
        };
        deserializer.deserialize_tuple_struct(NUMBER, 1, number)
    }
}

impl<'de> Deserialize<'de> for RawBounds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bounds = NumberOr {
            expected: "a number, or `min` and `max`",
            number: |number| Self::Most(RawNumber(number)),
            range: Some(Self::Range),
        };
        deserializer.deserialize_tuple_struct(NUMBER, 1, bounds)
    }
}

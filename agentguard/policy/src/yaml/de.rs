//! From a tree to the type asked for, with serde; errors say where and what to do.

use std::collections::HashSet;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, EnumAccess, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::plain::{Plain, is_whole_number, plain};
use super::tree::{Node, Value};
use super::{AT, NUMBER, Place, READ_THE_SCHEMA};
use crate::diagnostic::{nearest, quoted};

/// What does not fit, and where.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) hint: String,
    /// Where, once it has passed a node; and the node to take out so that the rest can be read.
    at: Option<(Place, usize)>,
    /// What would fit, if a value of another kind or size stands there.
    expected: Option<Box<str>>,
    /// The key that is missing, if that is what is wrong.
    missing: Option<&'static str>,
    /// Whether a key is not known where it stands.
    unknown: bool,
    /// The missing key was there and was taken out for what was wrong with it.
    consequence: bool,
}

impl Fault {
    fn new(message: String, hint: impl Into<String>) -> Self {
        Self {
            message,
            hint: hint.into(),
            at: None,
            expected: None,
            missing: None,
            unknown: false,
            consequence: false,
        }
    }

    fn at(self, place: Place, culprit: usize) -> Self {
        Self {
            at: self.at.or(Some((place, culprit))),
            ..self
        }
    }

    /// The same of a number, which is named as it is written: what it was read as may look otherwise.
    fn of_number(self, text: &str) -> Self {
        let (None, Some(expected)) = (self.at, self.expected.as_deref()) else {
            return self;
        };
        let is_range = expected.starts_with("a whole number from");
        let hint = match is_whole_number(text) {
            true if is_range => "choose one that is in this range",
            true if expected != "a whole number" => self.hint.as_str(),
            true if text.starts_with('-') => "choose one that is 0 or more",
            true => "choose a smaller one",
            false => self.hint.as_str(),
        };
        Self {
            message: format!("expected {expected}, found `{}`", quoted(text)),
            hint: hint.to_owned(),
            ..self
        }
    }

    /// Where it is, and the node to take out.
    pub(super) fn place_and_culprit(&self, root: &Node) -> (Place, usize) {
        self.at.unwrap_or((root.place, root.id))
    }

    /// Whether it only follows from what was reported before.
    pub(super) const fn is_consequence(&self) -> bool {
        self.consequence
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string(), READ_THE_SCHEMA)
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = describe(expected);
        let hint = how_to_write(&expected, found);
        let message = format!("expected {expected}, found {}", Found(found));
        Self {
            expected: Some(expected.into()),
            ..Self::new(message, hint)
        }
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        let expected = describe(expected);
        Self::new(
            format!("expected {expected}, found {length}"),
            READ_THE_SCHEMA,
        )
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self {
            unknown: true,
            ..Self::new(
                format!("unknown key `{}`", quoted(field)),
                did_you_mean(field, expected, "the keys here are"),
            )
        }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(
            format!("unknown value `{}`", quoted(variant)),
            did_you_mean(variant, expected, "it can be"),
        )
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            missing: Some(field),
            ..Self::new(
                format!("missing key `{field}`"),
                format!("add `{field}: …` beside the keys that are there"),
            )
        }
    }
}

fn did_you_mean(text: &str, candidates: &[&'static str], else_say: &str) -> String {
    nearest(text, candidates.iter().copied()).map_or_else(
        || match candidates {
            [] => "there are none here".to_owned(),
            _ => format!("{else_say} {}", candidates.join(", ")),
        },
        |near| format!("did you mean `{near}`?"),
    )
}

/// How what is expected is written, where something else was found.
fn how_to_write(expected: &str, found: Unexpected<'_>) -> String {
    let expects = |what: &str| expected.starts_with(what);
    let hint = match found {
        Unexpected::Str(text) if expects("a list") => {
            let plain = text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && !text.contains([':', '#', ',', ']']);
            return if plain {
                format!("write a list: [{}]", quoted(text))
            } else {
                format!("write a list: [\"{}\"]", quoted(text))
            };
        }
        Unexpected::Unit => "say what it is to be, or leave it out",
        _ if expects("a list") => "write a list: `[a, b]`, or one `- a` in each line",
        Unexpected::Bool(_) | Unexpected::Float(_) if expects("text") => {
            "put it in quotes if text is meant"
        }
        _ if expects("text") => "write one text, without `-`, `[]` and keys",
        _ if expects("a number") => "write its digits, without quotes: `4096`, `0.5`",
        _ if expects("a whole number") => "write its digits, without quotes and point",
        _ if expects("true or false") => "write `true` or `false`, without quotes",
        Unexpected::Map | Unexpected::Enum => READ_THE_SCHEMA,
        Unexpected::Seq => "write its keys, each in a line of its own, without `-` and `[]`",
        _ => "write its keys below it, each in a line of its own: `key: value`",
    };
    hint.to_owned()
}

/// What serde expects, in an operator's words.
fn describe(expected: &dyn Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "u8" => "a whole number from 0 to 255".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" => "a whole number from 0 to 4294967295".to_owned(),
        "i32" => "a whole number from -2147483648 to 2147483647".to_owned(),
        "u64" | "usize" => "a whole number".to_owned(),
        "a string" => "text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "keys and values".to_owned(),
        "a boolean" => "true or false".to_owned(),
        _ => text,
    }
}

struct Found<'a>(Unexpected<'a>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Unexpected::Str(text) => write!(f, "the text `{}`", quoted(text)),
            Unexpected::Unit => f.write_str("nothing"),
            Unexpected::Seq => f.write_str("a list"),
            Unexpected::Map => f.write_str("keys and values"),
            Unexpected::Bool(value) => write!(f, "`{value}`"),
            Unexpected::Unsigned(value) => write!(f, "`{value}`"),
            Unexpected::Signed(value) => write!(f, "`{value}`"),
            Unexpected::Float(value) => write!(f, "`{value}`"),
            other => other.fmt(f),
        }
    }
}

/// Reads one node.
#[derive(Clone, Copy)]
pub(super) struct NodeDeserializer<'a> {
    node: &'a Node,
    removed: &'a HashSet<usize>,
    /// The keys that are known in it, where it is to have some.
    keys: &'static [&'static str],
    /// The key under which it stands, and those that are known beside that.
    above: Option<(&'a str, &'static [&'static str])>,
}

impl Node {
    /// What is read where text is wanted: words and numbers as they are spelt.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, plain: true }
                if matches!(plain(text), Plain::Null | Plain::Bool(_)) =>
            {
                None
            }
            Value::Scalar { text, .. } => Some(text),
            Value::Sequence(_) | Value::Mapping(_) => None,
        }
    }
}

impl<'a> NodeDeserializer<'a> {
    pub(super) const fn new(node: &'a Node, removed: &'a HashSet<usize>) -> Self {
        Self {
            node,
            removed,
            keys: &[],
            above: None,
        }
    }

    fn child(self, node: &'a Node) -> Self {
        Self { node, ..self }
    }

    fn placed<T>(self, result: Result<T, Fault>) -> Result<T, Fault> {
        result.map_err(|fault| fault.at(self.node.place, self.node.id))
    }

    /// Hands the node to the visitor as what it is.
    fn as_it_is<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let result = match &self.node.value {
            Value::Scalar { text, plain: true } => match plain(text) {
                Plain::Null => visitor.visit_unit(),
                Plain::Bool(value) => visitor.visit_bool(value),
                Plain::Unsigned(value) => number(text, visitor.visit_u64(value)),
                Plain::Signed(value) => number(text, visitor.visit_i64(value)),
                Plain::Float(value) => number(text, visitor.visit_f64(value)),
                Plain::Text(value) => visitor.visit_str(value),
            },
            Value::Scalar { text, plain: false } => visitor.visit_str(text),
            Value::Sequence(items) => visitor.visit_seq(Items {
                of: self,
                rest: items.iter(),
            }),
            Value::Mapping(entries) => visitor
                .visit_map(Entries {
                    of: self,
                    rest: entries.iter(),
                    value: None,
                })
                .map_err(|fault| self.missing(fault)),
        };
        self.placed(result)
    }

    /// Marks a missing key that is missing only because it was taken out.
    fn missing(self, fault: Fault) -> Fault {
        let (None, Some(key), Value::Mapping(entries)) =
            (fault.at, fault.missing, &self.node.value)
        else {
            return fault;
        };
        let taken_out = entries
            .iter()
            .any(|(k, value)| k.text == key && self.removed.contains(&value.id));
        // A key that was misspelt and taken out may be the one that is missing.
        let misspelt = entries.iter().any(|(k, value)| {
            self.removed.contains(&value.id) && nearest(&k.text, [key]).is_some()
        });
        Fault {
            consequence: taken_out || misspelt,
            ..fault
        }
    }
}

impl<'de> de::Deserializer<'de> for NodeDeserializer<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.as_it_is(visitor)
    }

    /// Text, quoted or not; what would be a number is text too, spelt as it is written.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Scalar { text, plain: true }
                if matches!(
                    plain(text),
                    Plain::Unsigned(_) | Plain::Signed(_) | Plain::Float(_)
                ) =>
            {
                self.placed(visitor.visit_str(text))
            }
            _ => self.as_it_is(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            // It could be read as "all" or as "none", and is what is left of a list whose entries are comments.
            Value::Scalar { text, plain: true } if matches!(plain(text), Plain::Null) => {
                let hint = "leave the key out, or say what it is to be";
                self.placed(Err(Fault::new("nothing stands here".to_owned(), hint)))
            }
            _ => self.placed(visitor.visit_some(self)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.placed(visitor.visit_newtype_struct(self))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if name == AT {
            return self.placed(visitor.visit_seq(AtParts {
                node: self,
                next: 0,
            }));
        }
        match &self.node.value {
            Value::Scalar { text, plain: true }
                if name == NUMBER && matches!(plain(text), Plain::Float(_)) =>
            {
                self.placed(number(text, visitor.visit_bytes(text.as_bytes())))
            }
            _ => self.as_it_is(visitor),
        }
    }

    /// Keys and values, never a list of values in the order of the fields, which serde would take.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        keys: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if matches!(self.node.value, Value::Sequence(_)) {
            let fault = <Fault as de::Error>::invalid_type(Unexpected::Seq, &visitor);
            return self.placed(Err(fault));
        }
        Self { keys, ..self }.as_it_is(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let result = match &self.node.value {
            Value::Scalar { text, .. } => visitor.visit_enum(Variant {
                text,
                content: None,
            }),
            Value::Mapping(entries) => match entries.as_slice() {
                [(key, content)] => visitor.visit_enum(Variant {
                    text: &key.text,
                    content: Some(self.child(content)),
                }),
                _ => Err(expected_one_of(variants, "keys and values")),
            },
            Value::Sequence(_) => Err(expected_one_of(variants, "a list")),
        };
        self.placed(result)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        seq tuple map identifier
    }
}

fn number<T>(text: &str, read: Result<T, Fault>) -> Result<T, Fault> {
    read.map_err(|fault| fault.of_number(text))
}

fn expected_one_of(variants: &[&str], found: &str) -> Fault {
    Fault::new(
        format!("expected one of {}, found {found}", variants.join(", ")),
        "write one of these words alone",
    )
}

/// The five parts of an [`super::At`].
struct AtParts<'a> {
    node: NodeDeserializer<'a>,
    next: u8,
}

impl<'de> SeqAccess<'de> for AtParts<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let node = self.node.node;
        self.next += 1;
        let number = match self.next {
            1 => node.place.line,
            2 => node.place.column,
            3 => node.last_line,
            4 => node.place.origin,
            5 => u32::from(node.bare),
            6 => return seed.deserialize(self.node).map(Some),
            _ => return Ok(None),
        };
        seed.deserialize(number.into_deserializer()).map(Some)
    }
}

struct Items<'a> {
    of: NodeDeserializer<'a>,
    rest: std::slice::Iter<'a, Node>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let removed = self.of.removed;
        self.rest
            .find(|node| !removed.contains(&node.id))
            .map(|node| seed.deserialize(self.of.child(node)))
            .transpose()
    }
}

struct Entries<'a> {
    of: NodeDeserializer<'a>,
    rest: std::slice::Iter<'a, (super::tree::Key, Node)>,
    value: Option<(&'a str, &'a Node)>,
}

impl Entries<'_> {
    /// The same of a key that is known one level further up: it says where it goes.
    fn misplaced(&self, key: &str, fault: Fault) -> Fault {
        match self.of.above {
            Some((of, beside)) if fault.unknown && beside.contains(&key) => Fault {
                hint: format!("`{key}` stands beside `{of}`, and not in it"),
                ..fault
            },
            _ => fault,
        }
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        let removed = self.of.removed;
        let Some((key, value)) = self.rest.find(|(_, value)| !removed.contains(&value.id)) else {
            return Ok(None);
        };
        self.value = Some((&key.text, value));
        let text: StrDeserializer<'_, Fault> = key.text.as_str().into_deserializer();
        seed.deserialize(text)
            .map(Some)
            .map_err(|fault| self.misplaced(&key.text, fault).at(key.place, value.id))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        match self.value.take() {
            Some((key, node)) => seed.deserialize(NodeDeserializer {
                keys: &[],
                above: Some((key, self.of.keys)),
                ..self.of.child(node)
            }),
            None => Err(de::Error::custom("a value without its key")),
        }
    }
}

struct Variant<'a> {
    text: &'a str,
    content: Option<NodeDeserializer<'a>>,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let text: StrDeserializer<'_, Fault> = self.text.into_deserializer();
        let variant = seed.deserialize(text)?;
        Ok((variant, self))
    }
}

impl Variant<'_> {
    fn without_content(&self) -> Fault {
        Fault::new(
            format!(
                "`{}` stands alone here; it needs a value",
                quoted(self.text)
            ),
            format!("write `{}: …`", quoted(self.text)),
        )
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.content {
            None => Ok(()),
            Some(content) => Err(Fault::new(
                format!("`{}` takes no value", quoted(self.text)),
                format!("write `{}` alone, without a colon", quoted(self.text)),
            )
            .at(content.node.place, content.node.id)),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        match self.content {
            Some(content) => seed.deserialize(content),
            None => Err(self.without_content()),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Fault> {
        match self.content {
            Some(content) => content.as_it_is(visitor),
            None => Err(self.without_content()),
        }
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.content {
            Some(content) => content.as_it_is(visitor),
            None => Err(self.without_content()),
        }
    }
}

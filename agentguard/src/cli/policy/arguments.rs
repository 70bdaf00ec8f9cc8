//! The arguments that an operation of an OpenAPI document has in its path, its query and its forms: which are lists, and of
//! which types they are.

use std::collections::{BTreeMap, BTreeSet};

use agentguard_model::ArgumentType;
use serde_json::{Map, Value};

/// How many references lead to what is meant, at most.
const MAX_REFERENCES: usize = 8;

/// Of how many schemas an argument is made, at most. One that is made of more has no type.
const MAX_SCHEMAS: usize = 64;

/// An argument, at one of the places where it may stand.
pub(super) struct Argument {
    name: String,
    place: Place,
    /// It is sent once for each of its values.
    is_list: bool,
    /// Of a list that of its entries.
    kind: Option<ArgumentType>,
}

#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
enum Place {
    Path,
    Query,
    Form,
    Json,
}

/// Those of an operation, at all of their places.
pub(super) fn arguments(
    document: &Value,
    item: &Map<String, Value>,
    operation: &Value,
) -> Vec<Argument> {
    // What an operation says of a parameter counts before what its path says of it.
    let mut parameters: BTreeMap<(Place, &str), &Value> = BTreeMap::new();
    let within = [item.get("parameters"), operation.get("parameters")];
    let within = within.into_iter().flatten().filter_map(Value::as_array);
    for parameter in within.flatten() {
        let parameter = found(document, parameter);
        let place = match parameter.get("in").and_then(Value::as_str) {
            Some("path") => Place::Path,
            Some("query") => Place::Query,
            _ => continue,
        };
        if let Some(name) = parameter.get("name").and_then(Value::as_str) {
            parameters.insert((place, name), parameter);
        }
    }
    let parameters = parameters.into_iter();
    let mut arguments: Vec<Argument> = parameters
        .map(|((place, name), said)| {
            let schema = said.get("schema");
            Argument::new(document, name, place, schema, Some(said))
        })
        .collect();
    let body = operation
        .get("requestBody")
        .map(|body| found(document, body));
    let content = body.and_then(|body| body.get("content"));
    for (kind, place) in [
        ("application/x-www-form-urlencoded", Place::Form),
        ("multipart/form-data", Place::Form),
        ("application/json", Place::Json),
    ] {
        let Some(form) = content.and_then(|content| content.get(kind)) else {
            continue;
        };
        let schema = form.get("schema").map(|schema| found(document, schema));
        let properties = schema.and_then(|schema| schema.get("properties"));
        for (name, schema) in properties.and_then(Value::as_object).into_iter().flatten() {
            let said = form.get("encoding").and_then(|it| it.get(name));
            arguments.push(Argument::new(document, name, place, Some(schema), said));
        }
    }
    arguments
}

/// The names of those that are sent once for each of their values: arrays in the query, and in forms, as they are sent
/// unless a document says otherwise (OpenAPI 3.1, 4.8.12.2 and 4.8.15).
pub(super) fn lists(arguments: &[Argument]) -> BTreeSet<String> {
    let lists = arguments
        .iter()
        .filter(|it| it.is_list && matches!(it.place, Place::Query | Place::Form));
    lists.map(|it| it.name.clone()).collect()
}

/// The types of those that may be sent as texts, and are none: by name, without brackets. Where a document does not say
/// the same of one at all of its places, it has none.
pub(super) fn types(arguments: &[Argument]) -> BTreeMap<String, ArgumentType> {
    let mut kinds: BTreeMap<&str, (bool, Option<ArgumentType>)> = BTreeMap::new();
    // A type is one in JSON, too, but what is in JSON alone has one there already.
    let (in_json, as_texts): (Vec<&Argument>, Vec<&Argument>) =
        arguments.iter().partition(|it| it.place == Place::Json);
    for argument in &as_texts {
        kinds.insert(argument.bare(), (argument.is_list, argument.kind));
    }
    for argument in as_texts.into_iter().chain(in_json) {
        if let Some((is_list, kind)) = kinds.get_mut(argument.bare()) {
            let same = (*is_list, *kind) == (argument.is_list, argument.kind);
            *kind = kind.filter(|_| same);
        }
    }
    let kinds = kinds.into_iter();
    kinds
        .filter_map(|(name, (_, kind))| Some((name.to_owned(), kind?)))
        .filter(|(_, kind)| *kind != ArgumentType::String)
        .collect()
}

impl Argument {
    /// `said`: what a document says of how it is sent, beside its schema.
    fn new(
        document: &Value,
        name: &str,
        place: Place,
        schema: Option<&Value>,
        said: Option<&Value>,
    ) -> Self {
        let said = |key: &str| said.and_then(|said| said.get(key));
        let style = said("style").and_then(Value::as_str);
        let plain = match place {
            Place::Path => "simple",
            Place::Query | Place::Form | Place::Json => "form",
        };
        let is_plain = style.is_none_or(|style| style == plain);
        // Some send nothing, or the word `null`, for it.
        let leeway = said("allowEmptyValue") == Some(&Value::Bool(true));
        let schema = schema.map(|schema| found(document, schema));
        let mut room = MAX_SCHEMAS;
        let mut words = Words::default();
        if let Some(schema) = schema {
            words.read(document, schema, &mut room);
        }
        let exploded = said("explode") != Some(&Value::Bool(false));
        let is_list = words.is_array() && is_plain && exploded && place != Place::Path;
        let of_one = |words: &Words<'_>| words.kind(place == Place::Json);
        let kind = match words.items {
            _ if !is_plain || leeway => None,
            Some(items) if is_list && words.types.len() == 1 && !words.is_open => {
                let mut of_items = Words::default();
                of_items.read(document, found(document, items), &mut room);
                of_one(&of_items).filter(|_| !(place == Place::Json && words.is_nullable))
            }
            _ => of_one(&words),
        };
        Self {
            name: name.to_owned(),
            place,
            is_list,
            kind,
        }
    }

    fn bare(&self) -> &str {
        self.name.strip_suffix("[]").unwrap_or(&self.name)
    }
}

/// What a schema says of a value, as far as that has to do with its type.
#[derive(Default)]
struct Words<'d> {
    /// Which types it may be of, but for `null`.
    types: BTreeSet<&'d str>,
    /// It may be something of which no type is known.
    is_open: bool,
    is_nullable: bool,
    items: Option<&'d Value>,
}

impl<'d> Words<'d> {
    /// `room`: how many schemas may still be looked at. They may be made of themselves.
    fn read(&mut self, document: &'d Value, schema: &'d Value, room: &mut usize) {
        let Some(left) = room.checked_sub(1) else {
            self.is_open = true;
            return;
        };
        *room = left;
        let named = match schema.get("type") {
            Some(Value::String(kind)) => vec![kind.as_str()],
            Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        self.is_nullable |=
            named.contains(&"null") || schema.get("nullable") == Some(&Value::Bool(true));
        self.items = self.items.or(schema.get("items"));
        // Numbers beyond 64 bits, or of more digits than a float has.
        let format = schema.get("format").and_then(Value::as_str);
        if matches!(format, Some("uint64" | "decimal" | "decimal128")) {
            self.is_open = true;
        }
        let parts = |key: &str| schema.get(key).and_then(Value::as_array);
        if !named.is_empty() {
            self.types
                .extend(named.into_iter().filter(|kind| *kind != "null"));
        } else if let Some(parts) = ["oneOf", "anyOf"].into_iter().find_map(parts) {
            for part in parts {
                self.read(document, found(document, part), room);
            }
        } else if let Some(parts) = parts("allOf") {
            // All hold together: each that says a type says the same one.
            let mut says = false;
            for part in parts.iter().map(|part| found(document, part)) {
                let mut words = Words::default();
                words.read(document, part, room);
                self.is_nullable |= words.is_nullable;
                self.items = self.items.or(words.items);
                says |= !words.types.is_empty() && !words.is_open;
                self.types.extend(words.types);
            }
            self.is_open |= !says;
        } else {
            self.is_open = true;
        }
    }

    fn is_array(&self) -> bool {
        self.types.contains("array")
    }

    /// The one type of what is of one. `in_json`: what may be `null` there is of none.
    fn kind(&self, in_json: bool) -> Option<ArgumentType> {
        let types: Vec<&str> = self.types.iter().copied().collect();
        match types.as_slice() {
            _ if self.is_open || in_json && self.is_nullable => None,
            ["integer"] => Some(ArgumentType::Integer),
            ["number"] | ["integer", "number"] => Some(ArgumentType::Number),
            ["boolean"] => Some(ArgumentType::Boolean),
            ["string"] => Some(ArgumentType::String),
            _ => None,
        }
    }
}

/// What a value is, where it stands elsewhere in the same document (`$ref`); itself, where it cannot be found.
fn found<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    let mut value = value;
    // They may lead around in a circle.
    for _ in 0..MAX_REFERENCES {
        let reference = value.get("$ref").and_then(Value::as_str);
        let Some(pointer) = reference.and_then(|it| it.strip_prefix('#')) else {
            return value;
        };
        let Some(there) = document.pointer(pointer) else {
            return value;
        };
        value = there;
    }
    value
}

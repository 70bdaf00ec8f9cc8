//! Requests of HTTP as calls: the arguments are the parameters of the path, the fields of the query, and those of the
//! content.

use std::collections::{HashMap, HashSet};

use ::http::HeaderMap;
use agentguard_model::{ArgumentType, Tool};

use super::media::Media;
use super::urlencoded::{Field, fields_or_lists, without_brackets};
use super::{NotUnderstood, call, multipart};
use crate::json::{Reader, Value, same_name};

/// Fields that have some servers go by another method, or another path, than that of the request.
const OVERRIDES: [&str; 7] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-original-uri",
    "x-override-url",
    "x-rewrite-url",
];

/// One of them that is there, with `_` for `-` too: what is handed on by CGI tells them not apart (RFC 3875, 4.1.18).
pub(super) fn overridden(fields: &HeaderMap) -> Option<&'static str> {
    let mut overrides = OVERRIDES.into_iter();
    overrides.find(|known| {
        let mut names = fields.keys();
        names.any(|name| name.as_str().replace('_', "-") == **known)
    })
}

/// An argument that has some servers go by another method.
pub(super) const METHOD: &str = "_method";

/// How the parameters begin that have Google's servers take a method, or fields, from a query (Closure's
/// `goog.net.rpc.HttpCors`).
const OF_QUERY: &str = "$http";

/// What has some servers go by another method or path, or take other content, where an argument has this name.
pub(super) fn overrides(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let of_field = name.replace('_', "-");
    let known = OVERRIDES.into_iter().find(|known| **known == of_field);
    // With the last two Google's servers take the content and its type from a query.
    let of_query = || [METHOD, "$req", "$ct"].into_iter().find(|it| *it == name);
    let google_s = || name.starts_with(OF_QUERY).then_some("$httpMethod");
    known.or_else(of_query).or_else(google_s)
}

/// The same of a query, as it is sent. Some take `;` for what is between its fields.
pub(super) fn query_overrides(query: &str) -> Option<&'static str> {
    let mut names = query.split(['&', ';']).map(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        percent_encoding::percent_decode_str(name).decode_utf8_lossy()
    });
    names.find_map(|name| overrides(&name))
}

/// Whether some servers may go by another method, or another path, than that of a request with these fields and this query.
#[must_use]
pub fn names_another_method(fields: &HeaderMap, query: Option<&str>) -> bool {
    query_overrides(query.unwrap_or_default()).is_some() || overridden(fields).is_some()
}

/// Reads the content of a request: none, JSON, a form.
#[derive(Debug)]
pub struct ContentReader {
    form: Result<Form, NotUnderstood>,
    /// Whether anything was read.
    begun: bool,
}

#[derive(Debug)]
enum Form {
    Json(Box<Reader>),
    Fields { text: Vec<u8>, limit: usize },
    Parts(multipart::Reader),
}

/// Where a call goes.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The server's name.
    pub server: &'a str,
    /// The tool.
    pub name: &'a str,
    /// The parameters that its path has, decoded.
    pub parameters: &'a [(String, String)],
    /// The query, as it is sent.
    pub query: Option<&'a str>,
    /// The fields of queries and forms that are lists, as they are written, also with `[]`: they may be there several times.
    pub lists: &'a [String],
    /// The types of arguments, by name; those of lists for their entries.
    pub types: &'a [(String, ArgumentType)],
}

impl ContentReader {
    /// For content with these fields that takes no more than `limit` bytes when it is kept.
    #[must_use]
    pub fn new(fields: &HeaderMap, limit: usize) -> Self {
        let form = match overridden(fields) {
            Some(name) => Err(NotUnderstood::Override(name)),
            None => Media::read(fields).map(|media| match media {
                Media::Json => Form::Json(Box::new(Reader::new(limit))),
                Media::Fields => Form::Fields {
                    text: Vec::new(),
                    limit,
                },
                Media::Parts(boundary) => Form::Parts(multipart::Reader::new(&boundary, limit)),
            }),
        };
        Self { form, begun: false }
    }

    /// Reads on.
    ///
    /// # Errors
    /// Why it is not understood. Nothing more is to be read then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), NotUnderstood> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.begun = true;
        match &mut self.form {
            Err(why) => Err(why.clone()),
            Ok(Form::Json(reader)) => Ok(reader.push(bytes)?),
            Ok(Form::Fields { text, limit }) => {
                if text.len() + bytes.len() > *limit {
                    return Err(NotUnderstood::Large);
                }
                text.extend_from_slice(bytes);
                Ok(())
            }
            Ok(Form::Parts(parts)) => parts.push(bytes),
        }
    }

    /// How much memory what was read takes.
    #[must_use]
    pub const fn used(&self) -> usize {
        match &self.form {
            Err(_) => 0,
            Ok(Form::Json(reader)) => reader.used(),
            Ok(Form::Fields { text, .. }) => text.len(),
            Ok(Form::Parts(parts)) => parts.used(),
        }
    }

    /// The JSON that it is, once all was read.
    ///
    /// # Errors
    /// As [`Self::push`]; it is something else.
    pub(super) fn json(self) -> Result<Value, NotUnderstood> {
        match self.form? {
            Form::Json(reader) => Ok(reader.finish()?),
            Form::Fields { .. } | Form::Parts(_) => Err(NotUnderstood::Type),
        }
    }

    /// The call, once all was read. Those arguments are told that `pointers` point to (RFC 6901), in whatever case. A text
    /// that has a type is a value of JSON, as what comes in JSON is.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(self, place: Place<'_>, pointers: &[&str]) -> Result<Tool, NotUnderstood> {
        let content = match self.form {
            Err(why @ NotUnderstood::Override(_)) => return Err(why),
            _ if !self.begun => Vec::new(),
            Err(why) => return Err(why),
            Ok(Form::Json(reader)) => match reader.finish()? {
                Value::Object(members) => typed(members, &place, Origin::Json)?,
                _ => return Err(NotUnderstood::NoObject),
            },
            Ok(Form::Fields { text, .. }) => {
                let fields = fields_or_lists(&text, "the form")?;
                let fields = gathered(fields, place.lists, "the form")?;
                typed(fields, &place, Origin::Text)?
            }
            Ok(Form::Parts(parts)) => {
                let fields = gathered(parts.finish()?, place.lists, "the form")?;
                typed(fields, &place, Origin::Text)?
            }
        };
        let query = place.query.unwrap_or_default();
        if let Some(name) = query_overrides(query) {
            return Err(NotUnderstood::Override(name));
        }
        let query = fields_or_lists(query.as_bytes(), "the query")?;
        let query = gathered(query, place.lists, "the query")?;
        let query = typed(query, &place, Origin::Text)?;
        let path = place.parameters.iter();
        let path = path.map(|(name, value)| {
            let value = Value::Text(value.as_str().into());
            (name.as_str().into(), value)
        });
        let path = typed(path.collect(), &place, Origin::Text)?;
        let arguments = together(path.into_iter().chain(query).chain(content))?;
        call(place.server, place.name, &arguments, pointers)
    }
}

/// Whether content with these fields is read as JSON, and not as a form.
#[must_use]
pub fn is_json(fields: &HeaderMap) -> bool {
    matches!(Media::read(fields), Ok(Media::Json))
}

/// The names of the arguments that a query has; none where it cannot be read.
#[must_use]
pub fn names(query: &str) -> Vec<String> {
    let fields = fields_or_lists(query.as_bytes(), "the query").unwrap_or_default();
    let names = fields
        .iter()
        .map(|(name, _)| without_brackets(name).to_owned());
    names.collect()
}

/// Fields of which those that are lists are one each, by their names without brackets. `what` they stand in, in words.
fn gathered(
    fields: Vec<Field>,
    lists: &[String],
    what: &'static str,
) -> Result<Vec<Field>, NotUnderstood> {
    let mut gathered: Vec<Field> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (name, value) in fields {
        let Some(list) = lists.iter().find(|list| ***list == *name) else {
            if name.ends_with("[]") {
                return Err(NotUnderstood::Name(what));
            }
            gathered.push((name, value));
            continue;
        };
        let place = *places.entry(list).or_insert_with(|| {
            gathered.push((without_brackets(list).into(), Value::Array(Vec::new())));
            gathered.len() - 1
        });
        if let Some((_, Value::Array(values))) = gathered.get_mut(place) {
            values.push(value);
        }
    }
    Ok(gathered)
}

/// How arguments are sent.
#[derive(Clone, Copy)]
enum Origin {
    /// All as texts.
    Text,
    /// As values of JSON, which have types of their own.
    Json,
}

/// Arguments as values of the types that they have. Some servers do not look at the case of names.
fn typed(
    mut fields: Vec<Field>,
    place: &Place<'_>,
    origin: Origin,
) -> Result<Vec<Field>, NotUnderstood> {
    if place.types.is_empty() {
        return Ok(fields);
    }
    for (name, value) in &mut fields {
        let mut types = place.types.iter();
        let Some((of, kind)) = types.find(|(it, _)| same_name(it, name)) else {
            continue;
        };
        let mut lists = place.lists.iter();
        let is_list = lists.any(|it| same_name(without_brackets(it), name));
        let fits = match value {
            Value::Array(entries) if is_list => {
                let mut entries = entries.iter_mut();
                entries.all(|entry| becomes(entry, *kind, origin))
            }
            other => becomes(other, *kind, origin),
        };
        if !fits {
            return Err(NotUnderstood::Mistyped {
                name: of.as_str().into(),
                kind: *kind,
            });
        }
    }
    Ok(fields)
}

/// Makes a value one of this type. Whether it is one.
fn becomes(value: &mut Value, kind: ArgumentType, origin: Origin) -> bool {
    let typed = match (&*value, kind, origin) {
        (Value::Text(_), ArgumentType::String, _) | (Value::Bool(_), ArgumentType::Boolean, _) => {
            return true;
        }
        (Value::Number(text), ArgumentType::Number, Origin::Json) if !kind.fits(text) => {
            match without_exponent(text) {
                Some(plain) => Value::Number(plain.into()),
                None => return false,
            }
        }
        (Value::Number(text), ArgumentType::Integer | ArgumentType::Number, _) => {
            return kind.fits(text);
        }
        (Value::Text(text), _, Origin::Text) if !kind.fits(text) => return false,
        (Value::Text(text), ArgumentType::Boolean, Origin::Text) => Value::Bool(**text == *"true"),
        (Value::Text(text), _, Origin::Text) => Value::Number(text.clone()),
        _ => return false,
    };
    *value = typed;
    true
}

/// The most bytes of a number without its exponent. Of few bytes some would make hundreds, in lists that are as long as
/// content may be; a number beyond is of no type.
const MAX_PLAIN: usize = 64;

/// A number of JSON with an exponent, as programs write small and large ones, without it: where it is the one that a
/// floating-point number of 64 bits is told as, so that no other number is taken for it.
fn without_exponent(text: &str) -> Option<String> {
    /// Its digits, without zeros around them, and the place of the first one.
    fn digits(text: &str) -> Option<(String, i64)> {
        let (mantissa, exponent) = text.split_once(['e', 'E'])?;
        let (whole, behind) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = [whole.trim_start_matches('-'), behind].concat();
        let leading = all.len() - all.trim_start_matches('0').len();
        let first = whole.trim_start_matches('-').len().checked_sub(leading);
        let first = match first {
            Some(first) => i64::try_from(first).ok()?,
            None => -i64::try_from(leading - whole.trim_start_matches('-').len()).ok()?,
        };
        let place = exponent.parse::<i64>().ok()?.checked_add(first)?;
        Some((all.trim_matches('0').to_owned(), place))
    }
    let number: f64 = text.parse().ok()?;
    let (told, read) = (digits(&format!("{number:e}"))?, digits(text)?);
    if !number.is_finite() || told.0.is_empty() || told != read {
        return None;
    }
    let plain = number.to_string();
    (plain.len() <= MAX_PLAIN).then_some(plain)
}

/// Arguments of which none is there twice.
fn together(fields: impl Iterator<Item = Field>) -> Result<Value, NotUnderstood> {
    let fields: Vec<Field> = fields.collect();
    let mut names = HashSet::new();
    for (name, _) in &fields {
        if let Some(name) = overrides(name) {
            return Err(NotUnderstood::Override(name));
        }
        // Some read the others in the character set that it names (HTML, 4.10.5.1.1).
        if name.eq_ignore_ascii_case("_charset_") {
            return Err(NotUnderstood::Charset);
        }
        if !names.insert(name) {
            return Err(NotUnderstood::Twice);
        }
    }
    Ok(Value::Object(fields))
}

//! What is changed in a document before it is sent on.
//!
//! A place that is put out or bounded is found in whatever case its names are written, since some servers take one for
//! the other; `*` stands for each entry there. What adds to a document says where exactly (RFC 6902).

mod decimal;

use std::cmp::Ordering;

use self::decimal::compare;
use super::pointer::{find_mut, index};
use super::{MAX_DEPTH, NODE, Pointer, Value, same_name};

/// What stands in the place of what was put out.
pub const REDACTED: &str = "[redacted]";

/// What stands for each entry of an array, or each member of an object.
pub const EACH: &str = "*";

/// The most that changes may add to a document: see [`NODE`].
pub const MAX_ADDED: usize = 1024 * 1024;

/// Changes to a document, made in the order in which they stand here.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Edits {
    /// What is put out: a text stands in its place, [`REDACTED`]. Where nothing is, nothing is put out.
    pub redact: Vec<Pointer>,
    /// Numbers, and how large they may be. Where nothing is, nothing is bounded.
    pub clamp: Vec<(Pointer, Bounds)>,
    /// A patch (RFC 6902), all of which has to be possible.
    pub patch: Vec<Operation>,
}

/// How small and how large a number may be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// No smaller than this, as JSON writes it.
    pub least: Option<Box<str>>,
    /// No larger than this.
    pub most: Option<Box<str>>,
}

/// One change of a patch (RFC 6902, 4).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Operation {
    /// A member that is there then, whatever was; or one more entry of an array, before the one at this place, or
    /// (`-`) behind all.
    Add(Pointer, Value),
    /// It goes.
    Remove(Pointer),
    /// Another value in its place.
    Replace(Pointer, Value),
    /// The first goes, and is added in the place of the second.
    Move(Pointer, Pointer),
    /// What the first is, is added in the place of the second.
    Copy(Pointer, Pointer),
    /// It has to be this.
    Test(Pointer, Value),
}

/// Why a document cannot be changed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Impossible {
    /// What is to be a number is none.
    #[error("`{0}` is not a number")]
    NoNumber(Pointer),
    /// What a patch speaks of is not there.
    #[error("there is no `{0}`")]
    Nothing(Pointer),
    /// A patch says what has to be there, and it is not.
    #[error("`{0}` is not what it has to be")]
    Differs(Pointer),
    /// Behind a document's own end.
    #[error("there is no place `{0}`")]
    NoPlace(Pointer),
    /// [`MAX_ADDED`].
    #[error("more than 1 MiB would be added")]
    Large,
    /// [`MAX_DEPTH`].
    #[error("it would be nested deeper than {MAX_DEPTH}")]
    Deep,
    /// A list stands where names are meant.
    #[error("its parameters are a list, which has no `{0}`")]
    List(Pointer),
    /// Of a batch.
    #[error("it has not one message for each that was decided on")]
    Messages,
}

impl Edits {
    /// Whether nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.redact.is_empty() && self.clamp.is_empty() && self.patch.is_empty()
    }

    /// The places that it speaks of.
    pub fn places(&self) -> impl Iterator<Item = &Pointer> {
        let patch = self.patch.iter().flat_map(Operation::places);
        let clamp = self.clamp.iter().map(|(place, _)| place);
        self.redact.iter().chain(clamp).chain(patch)
    }

    /// Changes a document, to which [`MAX_ADDED`] may be added.
    ///
    /// # Errors
    /// As [`Self::apply_in`].
    pub fn apply(&self, document: &mut Value) -> Result<(), Impossible> {
        let mut room = MAX_ADDED;
        self.apply_in(document, &mut room)
    }

    /// Changes what stands at these places of a document, where anything does; and around that what is put out and bounded
    /// alone. Else the document.
    ///
    /// # Errors
    /// As [`Self::apply_in`].
    pub fn apply_inside(
        &self,
        document: &mut Value,
        inside: &[Pointer],
        room: &mut usize,
    ) -> Result<(), Impossible> {
        let (mut any, mut done) = (false, Ok(()));
        for place in inside {
            each(document, place.tokens(), &mut |value| {
                any = true;
                done = self.apply_in(value, room);
                done.is_ok()
            });
            done.clone()?;
        }
        if !any {
            return self.apply_in(document, room);
        }
        let around = Self {
            patch: Vec::new(),
            ..self.clone()
        };
        around.apply_in(document, room)
    }

    /// Changes a document, to which so much may be added, as a [`super::Builder`] counts it.
    ///
    /// # Errors
    /// Not all of it can be changed; the document is of no use any more.
    pub fn apply_in(&self, document: &mut Value, room: &mut usize) -> Result<(), Impossible> {
        for place in &self.redact {
            each(document, place.tokens(), &mut |value| {
                *value = Value::Text(REDACTED.into());
                true
            });
        }
        for (place, bounds) in &self.clamp {
            let all = each(document, place.tokens(), &mut |value| bounds.hold(value));
            if !all {
                return Err(Impossible::NoNumber(place.clone()));
            }
        }
        let mut operations = self.patch.iter();
        operations.try_for_each(|operation| operation.apply(document, room))
    }
}

/// Does something to all that is at a place, until it says that it cannot. Whether it could.
fn each(
    value: &mut Value,
    tokens: &[Box<str>],
    change: &mut impl FnMut(&mut Value) -> bool,
) -> bool {
    let Some((token, rest)) = tokens.split_first() else {
        return change(value);
    };
    let all = **token == *EACH;
    match value {
        Value::Object(members) => {
            let mut members = members.iter_mut();
            members.all(|(name, value)| {
                let meant = all || same_name(name, token);
                !meant || each(value, rest, change)
            })
        }
        Value::Array(items) if all => {
            let mut items = items.iter_mut();
            items.all(|value| each(value, rest, change))
        }
        Value::Array(items) => {
            let item = index(token).and_then(|n| items.get_mut(n));
            item.is_none_or(|value| each(value, rest, change))
        }
        _ => true,
    }
}

impl Bounds {
    /// Whether no number is within them: the least is larger than the most.
    #[must_use]
    pub fn hold_none(&self) -> bool {
        let pair = self.least.as_deref().zip(self.most.as_deref());
        pair.is_some_and(|(least, most)| compare(least, most) == Ordering::Greater)
    }

    /// Makes a number hold. `null` is none, and says no more than what is not there.
    fn hold(&self, value: &mut Value) -> bool {
        let number = match value {
            Value::Number(number) => number,
            Value::Null => return true,
            _ => return false,
        };
        let beyond = |bound: &Option<Box<str>>, order| {
            let bound = bound.clone();
            bound.filter(|bound| compare(number, bound) == order)
        };
        let bound = beyond(&self.most, Ordering::Greater);
        if let Some(bound) = bound.or_else(|| beyond(&self.least, Ordering::Less)) {
            *number = bound;
        }
        true
    }
}

impl Operation {
    /// The places that it speaks of.
    #[must_use]
    pub fn places(&self) -> Vec<&Pointer> {
        match self {
            Self::Move(from, to) | Self::Copy(from, to) => vec![from, to],
            Self::Add(at, _) | Self::Remove(at) | Self::Replace(at, _) | Self::Test(at, _) => {
                vec![at]
            }
        }
    }

    fn apply(&self, document: &mut Value, room: &mut usize) -> Result<(), Impossible> {
        let nothing = |at: &Pointer| Impossible::Nothing(at.clone());
        match self {
            Self::Add(at, value) => add(document, at, value.clone(), room),
            Self::Remove(at) => remove(document, at).map(drop),
            Self::Replace(at, value) => {
                fits(at, value, room)?;
                *at.find_mut(document).ok_or_else(|| nothing(at))? = value.clone();
                Ok(())
            }
            Self::Move(from, to) => {
                let value = remove(document, from)?;
                // It was there before, so that nothing is added.
                let mut own = usize::MAX;
                add(document, to, value, &mut own)
            }
            Self::Copy(from, to) => {
                let value = from.find(document).ok_or_else(|| nothing(from))?.clone();
                add(document, to, value, room)
            }
            Self::Test(at, value) => {
                let found = at.find(document).ok_or_else(|| nothing(at))?;
                match equal(found, value) {
                    true => Ok(()),
                    false => Err(Impossible::Differs(at.clone())),
                }
            }
        }
    }
}

/// Whether a value may be added at a place.
fn fits(at: &Pointer, value: &Value, room: &mut usize) -> Result<(), Impossible> {
    *room = room.checked_sub(size(value)).ok_or(Impossible::Large)?;
    match at.tokens().len() + depth(value) <= MAX_DEPTH {
        true => Ok(()),
        false => Err(Impossible::Deep),
    }
}

fn add(
    document: &mut Value,
    at: &Pointer,
    value: Value,
    room: &mut usize,
) -> Result<(), Impossible> {
    fits(at, &value, room)?;
    let no_place = || Impossible::NoPlace(at.clone());
    let Some((last, around)) = around(document, at) else {
        return match at.tokens() {
            [] => {
                *document = value;
                Ok(())
            }
            _ => Err(no_place()),
        };
    };
    match around {
        Value::Object(members) => {
            match members.iter_mut().find(|(name, _)| **name == *last) {
                Some((_, there)) => *there = value,
                None => members.push((last.into(), value)),
            }
            Ok(())
        }
        Value::Array(items) => {
            let place = match last {
                "-" => Some(items.len()),
                token => index(token).filter(|place| *place <= items.len()),
            };
            items.insert(place.ok_or_else(no_place)?, value);
            Ok(())
        }
        _ => Err(no_place()),
    }
}

fn remove(document: &mut Value, at: &Pointer) -> Result<Value, Impossible> {
    let nothing = || Impossible::Nothing(at.clone());
    let (last, around) = around(document, at).ok_or_else(nothing)?;
    match around {
        Value::Object(members) => {
            let place = members.iter().position(|(name, _)| **name == *last);
            Ok(members.remove(place.ok_or_else(nothing)?).1)
        }
        Value::Array(items) => {
            let place = index(last).filter(|place| *place < items.len());
            Ok(items.remove(place.ok_or_else(nothing)?))
        }
        _ => Err(nothing()),
    }
}

/// What a place is in, and under which name.
fn around<'a, 'b>(document: &'a mut Value, at: &'b Pointer) -> Option<(&'b str, &'a mut Value)> {
    let (last, around) = at.tokens().split_last()?;
    Some((last, find_mut(around, document)?))
}

/// Whether two values are equal (RFC 6902, 4.6).
fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => compare(one, other) == Ordering::Equal,
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
        }
        (Value::Object(one), Value::Object(_)) => {
            let mut members = one.iter();
            one.len() == other.members().len()
                && members.all(|(name, value)| other.get(name).is_some_and(|it| equal(value, it)))
        }
        (one, other) => one == other,
    }
}

/// What a value takes, as a [`super::Builder`] counts it.
fn size(value: &Value) -> usize {
    let inside: usize = match value {
        Value::Null | Value::Bool(_) => 0,
        Value::Number(text) | Value::Text(text) => text.len(),
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(members) => {
            let members = members.iter();
            members.map(|(name, value)| name.len() + size(value)).sum()
        }
    };
    NODE + inside
}

/// How many objects and arrays are nested in a value.
fn depth(value: &Value) -> usize {
    let inside = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(members) => members.iter().map(|(_, value)| depth(value)).max(),
        _ => return 0,
    };
    1 + inside.unwrap_or(0)
}

#[cfg(test)]
mod tests;

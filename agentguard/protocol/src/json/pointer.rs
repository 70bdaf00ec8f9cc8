//! Where a value stands in a document: JSON Pointer (RFC 6901).

use std::fmt;

use super::{MAX_DEPTH, Value};

/// A place in a document.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pointer(Vec<Box<str>>);

/// Why a text points nowhere.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoPointer {
    /// Anything but the whole document begins with a slash.
    #[error("it does not begin with `/`")]
    Slash,
    /// A tilde that is not escaped.
    #[error("`~` stands alone in it")]
    Tilde,
    /// [`MAX_DEPTH`].
    #[error("it points deeper than {MAX_DEPTH}")]
    Depth,
}

impl Pointer {
    /// Reads one. The empty one is the whole document.
    ///
    /// # Errors
    /// [`NoPointer`].
    pub fn parse(text: &str) -> Result<Self, NoPointer> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let rest = text.strip_prefix('/').ok_or(NoPointer::Slash)?;
        let mut tildes = text.split('~').skip(1);
        if !tildes.all(|rest| rest.starts_with(['0', '1'])) {
            return Err(NoPointer::Tilde);
        }
        let token = |token: &str| token.replace("~1", "/").replace("~0", "~").into();
        let tokens: Vec<_> = rest.split('/').map(token).collect();
        match tokens.len() <= MAX_DEPTH {
            true => Ok(Self(tokens)),
            false => Err(NoPointer::Depth),
        }
    }

    /// Its parts, from the outside in, without their escapes.
    #[must_use]
    pub fn tokens(&self) -> &[Box<str>] {
        &self.0
    }

    /// Whether it points to something inside of what `other` points to.
    #[must_use]
    pub fn is_below(&self, other: &Self) -> bool {
        self.0.len() > other.0.len() && self.0.starts_with(&other.0)
    }

    /// What it points to. Names are those that are written (RFC 6901, 4).
    #[must_use]
    pub fn find<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        let mut tokens = self.0.iter();
        tokens.try_fold(document, |value, token| match value {
            Value::Object(_) => value.get(token),
            Value::Array(items) => items.get(index(token)?),
            _ => None,
        })
    }

    /// The same, to be changed.
    #[must_use]
    pub fn find_mut<'a>(&self, document: &'a mut Value) -> Option<&'a mut Value> {
        find_mut(&self.0, document)
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tokens = self.0.iter();
        tokens.try_for_each(|token| write!(f, "/{}", token.replace('~', "~0").replace('/', "~1")))
    }
}

/// What the parts of a pointer lead to.
pub(super) fn find_mut<'a>(tokens: &[Box<str>], document: &'a mut Value) -> Option<&'a mut Value> {
    tokens
        .iter()
        .try_fold(document, |value, token| match value {
            Value::Object(_) => value.get_mut(token),
            Value::Array(items) => items.get_mut(index(token)?),
            _ => None,
        })
}

/// The place in an array that a part of a pointer is: digits without leading zeros (RFC 6901, 4).
#[must_use]
pub(super) fn index(token: &str) -> Option<usize> {
    let plain = token == "0" || !token.starts_with('0');
    let digits = token.bytes().all(|byte| byte.is_ascii_digit());
    (plain && digits).then(|| token.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::{NoPointer, Pointer, index};
    use crate::json::{MAX_DEPTH, Value};

    /// The examples of RFC 6901, 5.
    #[test]
    fn it_finds_what_the_rfc_says() {
        let document = r#"{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2,"e^f":3,"g|h":4,"i\\j":5,"k\"l":6," ":7,"m~n":8}"#;
        let document = Value::read(document.as_bytes(), 1 << 16).unwrap();
        for (pointer, value) in [
            ("/foo/0", "\"bar\""),
            ("/", "0"),
            ("/a~1b", "1"),
            ("/c%d", "2"),
            ("/e^f", "3"),
            ("/g|h", "4"),
            ("/i\\j", "5"),
            ("/k\"l", "6"),
            ("/ ", "7"),
            ("/m~0n", "8"),
        ] {
            let read = Pointer::parse(pointer).unwrap();
            assert_eq!(read.to_string(), pointer);
            let found = read.find(&document).map(Value::canonical);
            assert_eq!(found.as_deref(), Some(value), "{pointer}");
            let mut own = document.clone();
            let found = read.find_mut(&mut own).map(|it| it.canonical());
            assert_eq!(found.as_deref(), Some(value), "{pointer}");
        }
        assert_eq!(Pointer::parse("").unwrap().find(&document), Some(&document));
        for nowhere in ["/foo/2", "/foo/00", "/foo/+1", "/foo/-", "/FOO", "/foo/0/x"] {
            let read = Pointer::parse(nowhere).unwrap();
            assert_eq!(read.find(&document), None, "{nowhere}");
        }
    }

    #[test]
    fn what_is_none_is_told() {
        assert_eq!(Pointer::parse("foo"), Err(NoPointer::Slash));
        for text in ["/a~", "/~2", "/~/a"] {
            assert_eq!(Pointer::parse(text), Err(NoPointer::Tilde), "{text}");
        }
        let deep = "/a".repeat(MAX_DEPTH);
        assert!(Pointer::parse(&deep).is_ok());
        assert_eq!(Pointer::parse(&(deep + "/a")), Err(NoPointer::Depth));
        assert_eq!((index("7"), index("07"), index("")), (Some(7), None, None));
    }

    #[test]
    fn what_is_inside_is_below() {
        let read = |text| Pointer::parse(text).unwrap();
        assert!(read("/a/b").is_below(&read("/a")));
        assert!(!read("/a").is_below(&read("/a")));
        assert!(!read("/ab").is_below(&read("/a")));
    }
}

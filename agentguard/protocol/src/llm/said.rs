//! All that a call says, for who counts it: each value of its JSON by itself, whatever its form.
//!
//! Nothing is left out, names of members and numbers included: what a provider makes of them is its own matter. Only
//! what may be a picture is told of apart, by its length, since no model reads the bytes of one as text.

use super::names::bare_in;
use crate::json::{Event, Fault, Kind, Part, Path, Scanner, Sink};

/// What is met in a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Said<'a> {
    /// A value begins, which has this name in the object that it is in.
    Value(Option<&'a str>),
    /// A piece of a text, without its escapes; or a number, `true`, `false` or `null`, as it is written.
    Text(&'a str),
    /// That text is over.
    End,
    /// So many bytes of a text that may be a picture. It has pieces, and no end.
    Aside(u64),
}

/// Reads it in pieces of any size, and keeps nothing of it.
#[derive(Debug, Default)]
pub struct SaidReader {
    scanner: Scanner,
    /// Whether the text that is being read may be a picture.
    aside: bool,
}

/// Members that have a picture's bytes in themselves in the form of some provider (see `demand`), by their bare names. It
/// may be something else: whoever counts takes that for the more.
const MAY_BE_PICTURES: [&str; 4] = ["data", "bytes", "url", "imageurl"];

impl SaidReader {
    /// Reads on.
    ///
    /// # Errors
    /// It is not JSON, or goes beyond what is read of it. Nothing more is to be read then.
    pub fn push(&mut self, bytes: &[u8], tell: &mut dyn FnMut(Said<'_>)) -> Result<(), Fault> {
        let aside = &mut self.aside;
        self.scanner.push(bytes, &mut Teller { aside, tell })
    }

    /// All was read.
    ///
    /// # Errors
    /// As [`Self::push`]; there was not all of it.
    pub fn finish(mut self, tell: &mut dyn FnMut(Said<'_>)) -> Result<(), Fault> {
        let aside = &mut self.aside;
        self.scanner.finish(&mut Teller { aside, tell })
    }
}

struct Teller<'a> {
    aside: &'a mut bool,
    tell: &'a mut dyn FnMut(Said<'_>),
}

impl Teller<'_> {
    fn whole(&mut self, name: Option<&str>, text: &str) {
        (self.tell)(Said::Value(name));
        (self.tell)(Said::Text(text));
        (self.tell)(Said::End);
    }
}

impl Sink for Teller<'_> {
    fn take(&mut self, path: &Path, event: Event<'_>) {
        let name = match path.last() {
            Some(Part::Key(name)) => Some(name),
            _ => None,
        };
        match event {
            Event::Begin(kind) => {
                *self.aside = kind == Kind::Text && name.is_some_and(may_be_picture);
                (self.tell)(Said::Value(name));
            }
            Event::Text(piece) if *self.aside => (self.tell)(Said::Aside(piece.len() as u64)),
            Event::Text(piece) => (self.tell)(Said::Text(piece)),
            Event::End(Kind::Text) if !*self.aside => (self.tell)(Said::End),
            Event::End(_) => {}
            Event::Number(number) => self.whole(name, number),
            Event::Bool(true) => self.whole(name, "true"),
            Event::Bool(false) => self.whole(name, "false"),
            Event::Null => self.whole(name, "null"),
        }
    }
}

fn may_be_picture(name: &str) -> bool {
    let mut place = [0; _];
    MAY_BE_PICTURES.contains(&bare_in(name, &mut place))
}

#[cfg(test)]
mod tests;

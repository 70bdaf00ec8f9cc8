//! Where in a document a value stands.

/// How deep a path is told. What is deeper has no parts: nobody asks for it.
const TOLD: usize = 14;

/// One step of a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part<'a> {
    /// A member of an object.
    Key(&'a str),
    /// An element of an array, from 0.
    Item(usize),
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Where in [`Path::names`] the name begins; it ends where the next one begins.
    Key(usize),
    Item(usize),
}

/// The steps from the top of a document to a value.
#[derive(Debug, Default)]
pub struct Path {
    names: String,
    steps: Vec<Step>,
}

impl Path {
    /// Its steps, where they are not too many for anybody to ask for.
    #[must_use]
    pub fn parts(&self) -> Parts<'_> {
        let mut parts = Parts {
            parts: [Part::Item(0); TOLD],
            length: 0,
        };
        if self.steps.len() > TOLD {
            // One more than there is room for: no slice.
            parts.length = TOLD + 1;
            return parts;
        }
        let mut end = self.names.len();
        for (step, part) in self.steps.iter().zip(&mut parts.parts).rev() {
            *part = match *step {
                Step::Key(begin) => {
                    let name = self.names.get(begin..end).unwrap_or_default();
                    end = begin;
                    Part::Key(name)
                }
                Step::Item(index) => Part::Item(index),
            };
        }
        parts.length = self.steps.len();
        parts
    }

    /// The last step, however deep it is; none at the top.
    #[must_use]
    pub fn last(&self) -> Option<Part<'_>> {
        Some(match *self.steps.last()? {
            Step::Key(begin) => Part::Key(self.names.get(begin..).unwrap_or_default()),
            Step::Item(index) => Part::Item(index),
        })
    }

    /// How many steps there are.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.steps.len()
    }

    pub(super) fn push_key(&mut self, name: &str) {
        self.steps.push(Step::Key(self.names.len()));
        self.names.push_str(name);
    }

    pub(super) fn push_item(&mut self, index: usize) {
        self.steps.push(Step::Item(index));
    }

    pub(super) fn pop(&mut self) {
        if let Some(Step::Key(begin)) = self.steps.pop() {
            self.names.truncate(begin);
        }
    }

    pub(super) fn clear(&mut self) {
        self.names.clear();
        self.steps.clear();
    }
}

/// The steps of a path in one place.
#[derive(Debug)]
pub struct Parts<'a> {
    parts: [Part<'a>; TOLD],
    length: usize,
}

impl<'a> Parts<'a> {
    /// The steps; none, where the path is too deep.
    #[must_use]
    pub fn steps(&self) -> Option<&[Part<'a>]> {
        self.parts.get(..self.length)
    }
}

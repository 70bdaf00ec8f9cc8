//! The documents of a policy: the first one, and what documents include.
//!
//! This room reads no files. [`Sources::read`] says which, follows what they include, and is handed
//! the one who reads; [`compile`] takes documents that include each other only if all are there.

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

use crate::diagnostic::{Diagnostic, Diagnostics, Severity, quoted};
use crate::load::MAX_STRING;
use crate::policy::compile_with;
use crate::yaml::{self, MAX_TEXT, Node, Place, Value};
use crate::{Document, Policy};

/// The most documents of a policy. More are refused.
pub const MAX_DOCUMENTS: usize = 64;

/// The most documents of which each includes the next. More are refused.
const MAX_DEPTH: usize = 16;

/// Documents as they were read, and what could not be.
#[derive(Clone, Debug)]
pub struct Sources {
    documents: Vec<Document>,
    /// What is wrong with what they include.
    found: Vec<Diagnostic>,
}

/// Why a document cannot be had.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unreadable {
    /// What is wrong, without the document's name.
    pub why: String,
    /// What to do about it.
    pub hint: String,
}

impl Sources {
    /// Follows what a document includes. `read` is asked for each other document once, by its path: as it is written,
    /// from the directory of the document that includes it. An included document comes behind the one that includes it.
    ///
    /// What cannot be read is kept for [`Self::compile`]. At most [`MAX_DOCUMENTS`] and [`MAX_TEXT`] are read.
    #[must_use]
    pub fn read(first: Document, read: impl FnMut(&Path) -> Result<String, Unreadable>) -> Self {
        let mut reading = Reading {
            read,
            bytes: first.text.len(),
            known: HashMap::from([(place_of(Path::new(&first.path)), State::Open)]),
            full: false,
            sources: Self {
                documents: Vec::new(),
                found: Vec::new(),
            },
        };
        reading.document(first, 1);
        reading.sources
    }

    /// What was read, in order.
    #[must_use]
    pub fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// Compiles what was read into one policy.
    ///
    /// # Errors
    /// Everything that is wrong with the documents and with what they include, with its place and a hint.
    pub fn compile(&self) -> Result<Policy, Diagnostics> {
        compile_with(&self.documents, &self.found)
    }
}

/// What has become of a document.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// What it includes is being read.
    Open,
    /// It was read, or could not be.
    Done,
}

struct Reading<R> {
    read: R,
    bytes: usize,
    /// The documents by where they are.
    known: HashMap<String, State>,
    /// A bound was reached and told; nothing more is read.
    full: bool,
    sources: Sources,
}

impl<R: FnMut(&Path) -> Result<String, Unreadable>> Reading<R> {
    /// Takes a document and reads what it includes. `depth`: how many documents lead to it, with itself.
    fn document(&mut self, document: Document, depth: usize) {
        let path = document.path.clone();
        let includes = includes(&document);
        self.sources.documents.push(document);
        let mut named: HashSet<String> = HashSet::new();
        for (text, place) in includes {
            if self.full {
                return;
            }
            let mut wrong = |message: String, hint: &str| {
                self.sources.found.push(Diagnostic {
                    severity: Severity::Error,
                    path: path.clone(),
                    line: place.line,
                    column: place.column,
                    message,
                    hint: hint.to_owned(),
                });
            };
            let shown = quoted(&text);
            if text.is_empty() || text.len() > MAX_STRING || text.contains('\0') {
                wrong(
                    format!("`{shown}` is not the path of a document"),
                    "name a file, from the directory of this one or with a `/` at the front",
                );
                continue;
            }
            let included = included(&path, &text);
            if !named.insert(included.clone()) {
                wrong(format!("`{shown}` is included twice here"), "once suffices");
                continue;
            }
            match self.known.get(&included) {
                Some(State::Open) => {
                    wrong(
                        format!("`{shown}` includes this document in turn, or is this document"),
                        "put what both need into a third document",
                    );
                    continue;
                }
                Some(State::Done) => continue,
                None => {}
            }
            if depth >= MAX_DEPTH {
                wrong(
                    format!("more than {MAX_DEPTH} documents, each of which includes the next"),
                    "include this one further up",
                );
                continue;
            }
            if self.known.len() >= MAX_DOCUMENTS {
                wrong(
                    format!("more than {MAX_DOCUMENTS} documents"),
                    "put several into one",
                );
                self.full = true;
                return;
            }
            self.known.insert(included.clone(), State::Open);
            match (self.read)(Path::new(&included)) {
                Ok(text) if text.len() > MAX_TEXT.saturating_sub(self.bytes) => {
                    wrong(
                        format!("with `{shown}` the policy has more than {MAX_TEXT} bytes"),
                        "name long lists once, under `lists`",
                    );
                    self.full = true;
                    return;
                }
                Ok(text) => {
                    self.bytes += text.len();
                    let path = included.clone();
                    self.document(Document { path, text }, depth + 1);
                }
                Err(Unreadable { why, hint }) => {
                    wrong(format!("cannot read `{}`: {why}", quoted(&included)), &hint);
                }
            }
            self.known.insert(included, State::Done);
        }
    }
}

/// What a document says that it includes, as far as that is text.
fn includes(document: &Document) -> Vec<(String, Place)> {
    // What is wrong with its form is told when it is compiled.
    let (tree, _) = yaml::tree(&document.path, &document.text);
    let Some(Value::Mapping(entries)) = tree.map(|tree| tree.root.value) else {
        return Vec::new();
    };
    let value = entries
        .into_iter()
        .find_map(|(key, node)| (key.text == "include").then_some(node.value));
    let Some(Value::Sequence(items)) = value else {
        return Vec::new();
    };
    let text = |node: &Node| node.text().map(|text| (text.to_owned(), node.place));
    items.iter().filter_map(text).collect()
}

/// Where a document is that another one includes.
pub(crate) fn included(by: &str, path: &str) -> String {
    let directory = Path::new(by).parent().unwrap_or(Path::new(""));
    place_of(&directory.join(path))
}

/// A path without `.`, and without `..` where something is before it. By the text alone: this room
/// looks at no links, and the file that is read is the one at this path.
pub(crate) fn place_of(path: &Path) -> String {
    let mut place = PathBuf::new();
    for part in path.components() {
        match (part, place.components().next_back()) {
            (Component::CurDir, _) | (Component::ParentDir, Some(Component::RootDir)) => {}
            (Component::ParentDir, Some(Component::Normal(_))) => {
                place.pop();
            }
            (part, _) => place.push(part),
        }
    }
    place.to_string_lossy().into_owned()
}

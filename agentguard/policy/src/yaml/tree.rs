//! From text to a tree in which every node knows its place.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Span};

use super::syntax::{syntax, tag_before};
use super::{MAX_TEXT, Place};
use crate::diagnostic::quoted;

/// The deepest nesting. A deeper node is refused.
const MAX_DEPTH: usize = 64;

/// The most nodes, keys not counted, after aliases are expanded. A text with more is refused.
const MAX_NODES: usize = 300_000;

/// A text as a tree.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) root: Node,
    /// The highest number of a node: what is put in later gets higher ones.
    pub(crate) last_id: usize,
}

/// The most bytes of text in the copies that aliases stand for. A text with more is refused.
const MAX_COPIED: usize = 16 * 1024 * 1024;

/// One value in the text.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Its number in this tree.
    pub(crate) id: usize,
    /// Where it begins.
    pub(crate) place: Place,
    /// The line where it ends.
    pub(crate) last_line: u32,
    /// Whether it is written as a list without entries, or as no keys.
    pub(crate) bare: bool,
    /// What it is.
    pub(crate) value: Value,
}

impl Node {
    /// How many entries the list has that stands under a key; none, where there is no list.
    pub(crate) fn entries_of(&self, key: &str) -> usize {
        let Value::Mapping(entries) = &self.value else {
            return 0;
        };
        match entries.iter().find(|(it, _)| it.text == key) {
            Some((
                _,
                Node {
                    value: Value::Sequence(items),
                    ..
                },
            )) => items.len(),
            _ => 0,
        }
    }
}

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Text; plain if it was not quoted, and may then stand for something other than text.
    Scalar { text: String, plain: bool },
    /// A list.
    Sequence(Vec<Node>),
    /// Keys and their values.
    Mapping(Vec<(Key, Node)>),
}

/// The key of a mapping's entry.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) place: Place,
}

/// Something wrong with the text.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) place: Place,
    pub(super) message: String,
    pub(super) hint: String,
}

/// The tree, if the text is YAML and within the bounds, and what is wrong with it.
pub(super) fn build(text: &str) -> (Option<Tree>, Vec<Fault>) {
    if text.len() > MAX_TEXT {
        let fault = Fault {
            place: Place::default(),
            message: format!("the file has {} bytes; the limit is {MAX_TEXT}", text.len()),
            hint: "put a part of it into a file of its own".to_owned(),
        };
        return (None, vec![fault]);
    }
    let mut builder = Builder::default();
    match builder.run(text) {
        Ok(root) => {
            let last_id = builder.nodes;
            (root.map(|root| Tree { root, last_id }), builder.faults)
        }
        Err(fault) => {
            builder.faults.push(fault);
            (None, builder.faults)
        }
    }
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
    nodes: usize,
    /// Finished anchored nodes and how many nodes each holds.
    anchors: HashMap<usize, (Node, usize)>,
    /// Nodes in the copies of [`Self::anchors`]; they count against [`MAX_NODES`] of their own,
    /// since an anchor inside an anchor is kept twice.
    kept: usize,
    /// Bytes of text in the copies that aliases stand for.
    copied: usize,
    faults: Vec<Fault>,
}

/// A list or mapping whose end has not been seen.
struct Open {
    node: Node,
    anchor: usize,
    /// How many nodes there were when it began.
    nodes_before: usize,
    /// A key that waits for its value.
    key: Option<Key>,
    /// What a merge key stands for.
    merged: Vec<(Key, Node)>,
}

impl Open {
    /// Adds what a merge key stands for, as far as it is not there.
    fn merge(&mut self) {
        let Value::Mapping(entries) = &mut self.node.value else {
            return;
        };
        for (key, node) in self.merged.drain(..) {
            if entries.iter().all(|(other, _)| other.text != key.text) {
                entries.push((key, node));
            }
        }
    }
}

impl Builder {
    fn run(&mut self, text: &str) -> Result<Option<Node>, Fault> {
        for item in Parser::new_from_str(text) {
            let (event, span) = item.map_err(|error| syntax(text, &error))?;
            if is_tagged(&event) {
                // What it stands before is read as if it were not there, so that the rest is told as well.
                let place = place_of(&span.start);
                self.faults.push(fault(
                    tag_before(text, place).unwrap_or(place),
                    "tags (`!…`) are not used here",
                    "leave the tag out: the key says what its value is; a text that begins with `!` goes into quotes",
                ));
            }
            self.event(event, span)?;
        }
        // An empty file is a document that says nothing.
        Ok(Some(self.root.take().unwrap_or_else(|| Node {
            id: 0,
            place: Place::at(1, 1),
            last_line: 1,
            bare: false,
            value: Value::Scalar {
                text: String::new(),
                plain: true,
            },
        })))
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Fault> {
        let place = place_of(&span.start);
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(fault(
                        place,
                        "a second document in one file; only one is read",
                        "take the `---` out, or put what follows into a file of its own",
                    ));
                }
            }
            Event::Scalar(text, style, anchor, _) => {
                let plain = matches!(style, ScalarStyle::Plain);
                if self.key_is_due() {
                    self.key(text.into_owned(), place);
                    return Ok(());
                }
                let value = Value::Scalar {
                    text: text.into_owned(),
                    plain,
                };
                let node = self.node(place, value)?;
                let node = Node {
                    last_line: place_of(&span.end).line,
                    ..node
                };
                self.finish(node, anchor, 1)?;
            }
            Event::SequenceStart(_, anchor, _) => {
                self.begin(place, anchor, Value::Sequence(Vec::new()))?;
            }
            Event::MappingStart(_, anchor, _) => {
                self.begin(place, anchor, Value::Mapping(Vec::new()))?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(mut open) = self.open.pop() {
                    open.merge();
                    let nodes = self.nodes - open.nodes_before;
                    let node = Node {
                        last_line: last_line(&open.node),
                        bare: is_empty(&open.node.value),
                        ..open.node
                    };
                    self.finish(node, open.anchor, nodes)?;
                }
            }
            Event::Alias(anchor) => self.alias(anchor, place)?,
            _ => {}
        }
        Ok(())
    }

    fn key_is_due(&self) -> bool {
        self.open
            .last()
            .is_some_and(|open| open.key.is_none() && matches!(open.node.value, Value::Mapping(_)))
    }

    fn key(&mut self, text: String, place: Place) {
        if text == MERGE {
            self.faults.push(fault(
                place,
                "merge keys (`<<`) are not used here",
                "an alias (`*name`) can stand for a whole value",
            ));
        }
        if let Some(open) = self.open.last_mut() {
            open.key = Some(Key { text, place });
        }
    }

    fn node(&mut self, place: Place, value: Value) -> Result<Node, Fault> {
        self.count(1, place)?;
        Ok(Node {
            id: self.nodes,
            place,
            last_line: place.line,
            bare: false,
            value,
        })
    }

    fn count(&mut self, more: usize, place: Place) -> Result<(), Fault> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > MAX_NODES {
            return Err(fault(
                place,
                &format!("more than {MAX_NODES} values, with aliases expanded"),
                "use fewer aliases",
            ));
        }
        Ok(())
    }

    fn begin(&mut self, place: Place, anchor: usize, value: Value) -> Result<(), Fault> {
        if self.key_is_due() {
            return Err(fault(place, "a key must be text", KEYS));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(place));
        }
        let nodes_before = self.nodes;
        let node = self.node(place, value)?;
        self.open.push(Open {
            node,
            anchor,
            nodes_before,
            key: None,
            merged: Vec::new(),
        });
        Ok(())
    }

    fn alias(&mut self, anchor: usize, place: Place) -> Result<(), Fault> {
        if self.key_is_due() {
            return Err(fault(place, "a key must be text", KEYS));
        }
        let Some(nodes) = self.anchors.get(&anchor).map(|(_, nodes)| *nodes) else {
            return Err(fault(
                place,
                "an alias to a value that holds the alias itself",
                "write the value out",
            ));
        };
        // The copy has as many levels as the original, which were counted where it stood.
        let first = self.nodes;
        self.count(nodes, place)?;
        if let Some((node, _)) = self.anchors.get(&anchor) {
            self.copied = self.copied.saturating_add(length(node));
            if self.copied > MAX_COPIED {
                return Err(fault(
                    place,
                    &format!("more than {MAX_COPIED} bytes in what aliases stand for"),
                    "use fewer aliases",
                ));
            }
            let mut copy = node.clone();
            if self.open.len() + depth(&copy) > MAX_DEPTH {
                return Err(fault(
                    place,
                    &format!("nested deeper than {MAX_DEPTH} levels, with aliases expanded"),
                    "use aliases for values without aliases in them",
                ));
            }
            let mut next = first;
            renumber(&mut copy, &mut next);
            self.finish(copy, 0, nodes)?;
        }
        Ok(())
    }

    /// Puts a finished node where it belongs.
    fn finish(&mut self, node: Node, anchor: usize, nodes: usize) -> Result<(), Fault> {
        if anchor != 0 {
            self.kept = self.kept.saturating_add(nodes);
            if self.kept > MAX_NODES {
                return Err(fault(
                    node.place,
                    &format!("more than {MAX_NODES} values under anchors"),
                    "take anchors out that no alias names",
                ));
            }
            self.anchors.insert(anchor, (node.clone(), nodes));
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.node.value {
            Value::Sequence(items) => items.push(node),
            Value::Mapping(entries) => {
                let Some(key) = open.key.take() else {
                    return Err(fault(node.place, "a key must be text", KEYS));
                };
                // Linear: no mapping in these files is meant to have many keys.
                if entries.len() > 1000 {
                    return Err(fault(
                        key.place,
                        "more than 1000 keys in one mapping",
                        "spread them over documents that `include` puts together",
                    ));
                }
                if key.text == MERGE {
                    // What it stands for is read, so that the rest is told as well, and nothing for missing.
                    if let Value::Mapping(merged) = node.value {
                        open.merged = merged;
                    }
                    return Ok(());
                }
                match entries.iter().find(|(other, _)| other.text == key.text) {
                    Some((first, _)) => self.faults.push(Fault {
                        place: key.place,
                        message: format!("duplicate key `{}`", quoted(&key.text)),
                        hint: format!("it stands in line {} already", first.place.line),
                    }),
                    None => entries.push((key, node)),
                }
            }
            Value::Scalar { .. } => {}
        }
        Ok(())
    }
}

/// The key that has another mapping's entries put in.
const MERGE: &str = "<<";

/// What a key is.
const KEYS: &str = "write one word before the colon: `key: value`";

pub(super) fn fault(place: Place, message: &str, hint: &str) -> Fault {
    Fault {
        place,
        message: message.to_owned(),
        hint: hint.to_owned(),
    }
}

pub(super) fn place_of(marker: &granit_parser::Marker) -> Place {
    Place::at(
        u32::try_from(marker.line()).unwrap_or(u32::MAX),
        u32::try_from(marker.col())
            .unwrap_or(u32::MAX)
            .saturating_add(1),
    )
}

/// Brackets are read ahead, so that the parser's own bound may come first.
pub(super) fn too_deep(place: Place) -> Fault {
    fault(
        place,
        &format!("nested deeper than {MAX_DEPTH} levels"),
        "see whether a bracket or an indent is left over: no document is as deep",
    )
}

fn is_tagged(event: &Event<'_>) -> bool {
    match event {
        Event::Scalar(_, _, _, tag)
        | Event::SequenceStart(_, _, tag)
        | Event::MappingStart(_, _, tag) => tag.is_some(),
        _ => false,
    }
}

/// The end of a list or mapping: that of its last part. The parser's own end is the next token.
fn last_line(node: &Node) -> u32 {
    let last = match &node.value {
        Value::Scalar { .. } => None,
        Value::Sequence(items) => items.last(),
        Value::Mapping(entries) => entries.last().map(|(_, value)| value),
    };
    last.map_or(node.place.line, |last| last.last_line.max(node.place.line))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Scalar { .. } => false,
        Value::Sequence(items) => items.is_empty(),
        Value::Mapping(entries) => entries.is_empty(),
    }
}

fn depth(node: &Node) -> usize {
    let below = match &node.value {
        Value::Scalar { .. } => None,
        Value::Sequence(items) => items.iter().map(depth).max(),
        Value::Mapping(entries) => entries.iter().map(|(_, value)| depth(value)).max(),
    };
    1 + below.unwrap_or(0)
}

/// The bytes of all text in a node.
fn length(node: &Node) -> usize {
    match &node.value {
        Value::Scalar { text, .. } => text.len(),
        Value::Sequence(items) => items.iter().map(length).sum(),
        Value::Mapping(entries) => entries
            .iter()
            .map(|(key, value)| key.text.len() + length(value))
            .sum(),
    }
}

fn renumber(node: &mut Node, next: &mut usize) {
    *next += 1;
    node.id = *next;
    match &mut node.value {
        Value::Scalar { .. } => {}
        Value::Sequence(items) => items.iter_mut().for_each(|item| renumber(item, next)),
        Value::Mapping(entries) => entries
            .iter_mut()
            .for_each(|(_, value)| renumber(value, next)),
    }
}

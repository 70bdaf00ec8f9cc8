//! Reading the log in order, past whatever is broken in it.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use serde::de::DeserializeOwned;

use crate::entry::Entry;
use crate::frame::{self, Scanner, Step};
use crate::segment::{self, Broken, Location, Position};
use crate::shared::Shared;

/// What a walk comes across. `E` is what is read of an entry: all of it, or less.
#[derive(Debug)]
pub(crate) enum Met<'a, E = Entry> {
    /// An entry, and its payload for a checksum.
    Entry {
        at: Location,
        number: u64,
        entry: E,
        payload: &'a [u8],
    },
    /// Something that cannot be read.
    Broken(Broken),
    /// Entries that retention has deleted.
    Deleted { from: u64, to: u64 },
}

/// Reads the log from one place to another in order, until `visit` breaks; where it stopped, or
/// `to`.
/// Memory: one entry and one chunk.
pub(crate) fn walk<E: DeserializeOwned>(
    shared: &Shared,
    from: Position,
    to: Position,
    mut visit: impl FnMut(Met<'_, E>) -> ControlFlow<()>,
) -> io::Result<Position> {
    // The index may already know more than what a reader asked for.
    if from >= to {
        return Ok(to);
    }
    let segments = shared.segments();
    let mut at = from;
    for (first, length) in segments.range(from.segment..=to.segment) {
        let first = *first;
        let (offset, number) = if first == at.segment {
            (at.offset, at.number)
        } else {
            if first > at.number {
                let (from, to) = (at.number, first - 1);
                // Retention deletes from the front; anything else that is missing should be there.
                let met = if first <= start(shared).number {
                    Met::Deleted { from, to }
                } else {
                    Met::Broken(Broken {
                        at: Location {
                            segment: first,
                            offset: 0,
                        },
                        until: 0,
                        missing: Some((from, to)),
                        what: Cow::Borrowed("a segment is missing before the one that goes on"),
                    })
                };
                at = Position {
                    number: first,
                    segment: first,
                    offset: segment::FIRST,
                };
                if visit(met).is_break() {
                    return Ok(at);
                }
            }
            (segment::FIRST, first)
        };
        at = Position {
            number,
            segment: first,
            offset,
        };
        let end = if first == to.segment {
            to.offset
        } else {
            *length
        };
        let path = segment::path(&shared.dir, first);
        let file = match File::open(&path) {
            // Deleted since the segments were listed: the next one tells how much is gone. Its
            // number is the next after the last that was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if shared.segments().contains_key(&first) {
                    return Err(error);
                }
                continue;
            }
            other => other?,
        };
        if offset == segment::FIRST
            && !begins_well(&file)?
            && visit(Met::Broken(Broken::head(first))).is_break()
        {
            return Ok(at);
        }
        let mut scanner = Scanner::new(&file, offset, end, number);
        while let Some(step) = scanner.next()? {
            let flow = match step {
                Step::Entry {
                    offset,
                    number,
                    payload,
                } => {
                    let at = Location {
                        segment: first,
                        offset,
                    };
                    match serde_json::from_slice(payload) {
                        Ok(entry) => visit(Met::Entry {
                            at,
                            number,
                            entry,
                            payload,
                        }),
                        Err(_) => visit(Met::Broken(Broken {
                            at,
                            until: offset.saturating_add((frame::HEAD + payload.len()) as u64),
                            missing: None,
                            what: Cow::Borrowed(
                                "an entry is whole but says nothing this version understands",
                            ),
                        })),
                    }
                }
                Step::Damage {
                    offset,
                    until,
                    missing,
                } => visit(Met::Broken(Broken::stretch(first, offset, until, missing))),
            };
            at.offset = scanner.offset();
            at.number = scanner.expected();
            if flow.is_break() {
                return Ok(at);
            }
        }
    }
    Ok(to)
}

fn begins_well(file: &File) -> io::Result<bool> {
    let mut magic = segment::MAGIC;
    magic.fill(0);
    match file.read_exact_at(&mut magic, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        other => other.map(|()| magic == segment::MAGIC),
    }
}

/// The start of the log, as far as it is there.
pub(crate) fn start(shared: &Shared) -> Position {
    let first = shared
        .segments()
        .first_key_value()
        .map_or(1, |(first, _)| *first);
    Position {
        number: first,
        segment: first,
        offset: segment::FIRST,
    }
}

//! Of what an answer consists: one document, or many in one of the forms in which streams come. A list whose items come
//! one by one is a stream as well, though all of it is one document.

use agentguard_protocol::eventstream;
use agentguard_protocol::json::Place;
use agentguard_protocol::llm::{NotUnderstood, Stream};
use agentguard_protocol::sse::{Piece, Pieces};

use crate::http::reading::is_json;
use crate::http::says::Says;

/// The most bytes that are kept of a line that is no data.
const MAX_LINE: usize = 4 * 1024;

/// The form.
pub(super) enum Framing {
    /// One document of JSON.
    Document,
    /// One that is a list, whose items come one by one.
    List {
        /// Where it stands, if that is between items.
        place: Option<Place>,
        /// Whether nothing behind what has come can be read.
        lost: bool,
    },
    /// An event stream, whose events are counted.
    Events(Pieces),
    /// A document in each line.
    Lines {
        /// Whether the last line has ended.
        between: bool,
    },
    /// AWS's event stream.
    Messages(eventstream::Reader),
}

impl Framing {
    /// The form of an answer of this type. None where nobody can say. `list`: what is JSON is a list whose items come one
    /// by one.
    pub(super) fn of(kind: &str, list: bool) -> Option<Self> {
        let kind = kind.to_ascii_lowercase();
        Some(match kind.as_str() {
            "text/event-stream" => Self::Events(Pieces::new(MAX_LINE)),
            "application/x-ndjson" | "application/ndjson" | "application/stream+json" => {
                Self::Lines { between: true }
            }
            "application/vnd.amazon.eventstream" => Self::Messages(eventstream::Reader::default()),
            kind if is_json(kind) && list => Self::List {
                place: Some(Place::Before),
                lost: false,
            },
            kind if is_json(kind) => Self::Document,
            _ => return None,
        })
    }

    /// Whether it consists of events that are counted.
    pub(super) const fn counts(&self) -> bool {
        matches!(self, Self::Events(_))
    }

    /// In what documents come one after the other. None where it is one.
    pub(super) const fn stream(&self) -> Option<Stream> {
        match self {
            Self::Document => None,
            Self::List { .. } => Some(Stream::List),
            Self::Events(_) => Some(Stream::Events),
            Self::Lines { .. } => Some(Stream::Lines),
            Self::Messages(_) => Some(Stream::Messages),
        }
    }

    /// Whether nothing of another one has come since the last one ended.
    pub(super) fn is_between(&self) -> bool {
        match self {
            Self::Events(events) => events.is_between(),
            Self::Lines { between } => *between,
            Self::Messages(messages) => messages.is_between(),
            // Its bracket and commas belong to what comes behind them.
            Self::List { place, .. } => matches!(place, Some(Place::Behind | Place::Over)),
            Self::Document => false,
        }
    }

    /// Where a list would stand if all that came were passed on; the same of other streams, where something may be said
    /// behind what came. None in the middle of a document.
    pub(super) fn place(&self) -> Option<Place> {
        match self {
            Self::List { place, .. } => *place,
            _ => self.is_between().then_some(Place::Behind),
        }
    }

    /// Of these bytes, how many come before the next place where a document may end, and with it.
    pub(super) fn within(&self, bytes: &[u8]) -> usize {
        let end = match self {
            Self::Messages(messages) => messages.missing(),
            Self::List { .. } => {
                let ends = |byte: &u8| matches!(byte, b'}' | b']');
                bytes.iter().position(ends).map(|end| end + 1)
            }
            Self::Document | Self::Events(_) | Self::Lines { .. } => {
                let breaks = |byte: &u8| matches!(byte, b'\r' | b'\n');
                bytes.iter().position(breaks).map(|end| end + 1)
            }
        };
        end.map_or(bytes.len(), |end| end.min(bytes.len()))
    }

    /// Whether no end of a document can be told any more.
    pub(super) fn is_lost(&self) -> bool {
        match self {
            Self::Messages(messages) => messages.missing().is_none(),
            Self::List { lost, .. } => *lost,
            Self::Document | Self::Events(_) | Self::Lines { .. } => false,
        }
    }

    /// What is in hand is over, with the answer.
    pub(super) fn ends(&self, says: &mut Says) {
        match self {
            // One that has not all of its bytes is none.
            Self::Messages(messages) => {
                if let Err(fault) = messages.finish() {
                    says.malformed(fault.into());
                }
            }
            Self::Document | Self::List { .. } => says.ends(false),
            Self::Events(_) | Self::Lines { .. } => says.ends(true),
        }
    }

    /// Reads what an answer says, and says how many events that are counted end with that.
    pub(super) fn read(&mut self, mut says: Option<&mut Says>, bytes: &[u8]) -> u64 {
        let mut count = 0;
        match self {
            Self::Events(events) => {
                events.push(bytes, &mut |piece| match (piece, &mut says) {
                    (Piece::Data(data), Some(says)) => says.data(data),
                    (Piece::Data(_), None) => {}
                    (Piece::End { kind, .. }, says) => {
                        count += 1;
                        if let Some(says) = says {
                            says.event_ends(kind);
                        }
                    }
                });
                if let (true, Some(says)) = (events.is_odd(), says) {
                    says.malformed(NotUnderstood::Line);
                }
            }
            Self::Lines { between } => {
                *between = bytes.last().map_or(*between, |last| *last == b'\n');
                if let Some(says) = says {
                    says.lines(bytes);
                }
            }
            Self::Messages(messages) => {
                if let Some(says) = says {
                    let read = messages.push(bytes, &mut |piece| match piece {
                        eventstream::Piece::Head(head) => says.event_begins(&head),
                        eventstream::Piece::Payload(payload) => says.data(payload),
                        eventstream::Piece::End => says.event_ends(&[]),
                    });
                    if let Err(fault) = read {
                        says.malformed(fault.into());
                    }
                }
            }
            Self::Document => {
                if let Some(says) = says {
                    says.whole(bytes);
                }
            }
            Self::List { place, lost } => {
                if let Some(says) = says {
                    says.whole(bytes);
                    (*place, *lost) = says.place();
                }
            }
        }
        count
    }
}

//! Of what an answer consists: one document, or many in one of the forms in which streams come.

use agentguard_protocol::eventstream;
use agentguard_protocol::llm::NotUnderstood;
use agentguard_protocol::sse::{Piece, Pieces};

use crate::http::says::Says;

/// The most bytes that are kept of a line that is no data.
const MAX_LINE: usize = 4 * 1024;

/// The form.
pub(super) enum Framing {
    /// One document of JSON.
    Document,
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
    /// The form of an answer of this type. None where nobody can say.
    pub(super) fn of(kind: &str) -> Option<Self> {
        let kind = kind.to_ascii_lowercase();
        Some(match kind.as_str() {
            "text/event-stream" => Self::Events(Pieces::new(MAX_LINE)),
            "application/x-ndjson" | "application/ndjson" | "application/stream+json" => {
                Self::Lines { between: true }
            }
            "application/vnd.amazon.eventstream" => Self::Messages(eventstream::Reader::default()),
            "" | "application/json" => Self::Document,
            kind if kind.ends_with("+json") => Self::Document,
            _ => return None,
        })
    }

    /// Whether it consists of events that are counted.
    pub(super) const fn counts(&self) -> bool {
        matches!(self, Self::Events(_))
    }

    /// Whether it consists of documents that come one after the other.
    pub(super) const fn is_stream(&self) -> bool {
        matches!(self, Self::Events(_) | Self::Lines { .. })
    }

    /// Whether nothing of another one has come since the last one ended.
    pub(super) fn is_between(&self) -> bool {
        match self {
            Self::Events(events) => events.is_between(),
            Self::Lines { between } => *between,
            Self::Document | Self::Messages(_) => false,
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
        }
        count
    }
}

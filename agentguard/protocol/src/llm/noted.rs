//! What is sent to where an answer is, and changes nothing but what is noted there.

use super::NotUnderstood;
use super::call::{Asks, Call};
use crate::json::{Event, Kind, Part, Path, Sink};

/// Content that has `metadata` and nothing else: `OpenAI`'s Chat Completions take that for one that is kept, and tell the
/// whole answer again. It asks for nothing. Any other may be a call of another server's, which is not read.
#[derive(Debug, Default)]
pub(super) struct Noted {
    notes: bool,
    fault: Option<NotUnderstood>,
}

impl Sink for Noted {
    fn take(&mut self, path: &Path, event: Event<'_>) {
        let parts = path.parts();
        let fault = match (parts.steps(), event) {
            (Some([]), Event::Begin(Kind::Object) | Event::End(Kind::Object)) => return,
            (Some([]), _) => NotUnderstood::NoObject,
            (
                Some([Part::Key("metadata")]),
                Event::Begin(Kind::Object) | Event::End(Kind::Object) | Event::Null,
            ) => {
                self.notes = true;
                return;
            }
            (Some([Part::Key("metadata")]), _) => NotUnderstood::Wrong("metadata"),
            // What is deeper than is told stands in something that was told.
            (Some([Part::Key("metadata"), ..]) | None, _) => return,
            (Some(_), _) => NotUnderstood::Form,
        };
        self.fault.get_or_insert(fault);
    }
}

impl Asks for Noted {
    fn fault(&self) -> Option<&NotUnderstood> {
        self.fault.as_ref()
    }

    fn finish(self: Box<Self>) -> Result<Call, NotUnderstood> {
        match self.fault {
            Some(fault) => Err(fault),
            None if self.notes => Ok(Call::default()),
            None => Err(NotUnderstood::Form),
        }
    }
}

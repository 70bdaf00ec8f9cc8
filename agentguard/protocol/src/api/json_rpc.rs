//! JSON-RPC 2.0: each request is a call of the tool that its method names, with its parameters as arguments.

use ::http::HeaderMap;

use super::{NotUnderstood, call};
use crate::json::{Reader, Value};
use crate::jsonrpc::{self, Kind};
use crate::mcp::Sent;
use crate::media_type::is_text;

/// Reads the content of a request.
#[derive(Debug)]
pub struct CallReader {
    reader: Reader,
    fault: Option<NotUnderstood>,
}

impl CallReader {
    /// For content with these fields that takes no more than `limit` bytes when it is kept ([`Reader::new`]).
    #[must_use]
    pub fn new(fields: &HeaderMap, limit: usize) -> Self {
        Self {
            reader: Reader::new(limit),
            fault: (!is_text(fields)).then_some(NotUnderstood::Charset),
        }
    }

    /// Reads on.
    ///
    /// # Errors
    /// Why it is not understood. Nothing more is to be read then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), NotUnderstood> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        Ok(self.reader.push(bytes)?)
    }

    /// How much memory what was read takes.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.reader.used()
    }

    /// The calls, once all was read: sent to the server of this name. Those arguments are told that `pointers` point
    /// to (RFC 6901), in whatever case; of a list of parameters `/0` is the first.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(self, server: &str, pointers: &[&str]) -> Result<Sent, NotUnderstood> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let document = self.reader.finish()?;
        let (read, batch) = jsonrpc::messages(&document)?;
        let none = Value::Object(Vec::new());
        let mut messages = Vec::new();
        for message in read {
            let Kind::Call { method, params } = message.kind else {
                return Err(NotUnderstood::Answer);
            };
            let mut tool = call(server, method, params.unwrap_or(&none), pointers)?;
            tool.id = message.id;
            messages.push(tool);
        }
        Ok(Sent { messages, batch })
    }
}

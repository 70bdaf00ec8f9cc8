//! The card of an agent, as it is compared.

use crate::api::NotUnderstood;
use crate::json::{Reader, Value};
use crate::jsonrpc::{self, Kind};

/// The most that a card may take while it is read ([`Reader::new`]). One that takes more is not understood.
pub const MAX_CARD: usize = 8 * 1024 * 1024;

/// Reads an answer with a card.
#[derive(Debug)]
pub struct CardReader {
    reader: Reader,
    in_result: bool,
    begun: bool,
    fault: Option<NotUnderstood>,
}

impl CardReader {
    /// For an answer that is a card, or one of JSON-RPC that has it as its result.
    #[must_use]
    pub fn new(in_result: bool) -> Self {
        Self {
            reader: Reader::new(MAX_CARD),
            in_result,
            begun: false,
            fault: None,
        }
    }

    /// Reads on.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.fault.is_none() {
            self.begun |= !bytes.is_empty();
            self.fault = self.reader.push(bytes).err().map(NotUnderstood::from);
        }
    }

    /// The card in its canonical form, once all was read, but for its signatures: they are of what else it has, and some
    /// servers sign anew for each request. None: there is none, in an answer without content, or an error of
    /// JSON-RPC.
    ///
    /// # Errors
    /// It cannot be read in one way only.
    pub fn finish(self) -> Result<Option<String>, NotUnderstood> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if !self.begun {
            return Ok(None);
        }
        let document = self.reader.finish()?;
        if !self.in_result {
            return Ok(Some(unsigned(document).canonical()));
        }
        let (messages, batch) = jsonrpc::messages(&document)?;
        match messages.as_slice() {
            [message] if !batch => match message.kind {
                Kind::Result(card) => Ok(Some(unsigned(card.clone()).canonical())),
                Kind::Error => Ok(None),
                Kind::Call { .. } => Err(NotUnderstood::Form("A2A in an answer")),
            },
            _ => Err(NotUnderstood::Batch),
        }
    }
}

fn unsigned(mut card: Value) -> Value {
    if let Value::Object(members) = &mut card {
        members.retain(|(name, _)| **name != *"signatures");
    }
    card
}

//! Messages of a client on a WebSocket of `OpenAI`'s Responses: a call in each, one after the other.

use super::call::{Asks as _, CallSink};
use super::{Call, Endpoint, NotUnderstood};
use crate::json::Scanner;

/// What is said of a call that is under way, and is none itself.
const ABOUT: [&str; 4] = [
    "response.cancel",
    "response.interrupt",
    "response.processed",
    "response.steer",
];

/// What a client's message is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Turn {
    /// A call: `response.create`, with the members of the body of `POST /responses`. Its answer comes as a stream.
    Call(Call),
    /// Something about the call that is under way. It names neither a model nor tools.
    About,
}

/// Reads a message.
#[derive(Debug)]
pub struct TurnReader {
    scanner: Scanner,
    sink: Box<CallSink>,
}

impl Default for TurnReader {
    fn default() -> Self {
        Self {
            scanner: Scanner::default(),
            sink: Box::new(CallSink::message(Endpoint::Responses)),
        }
    }
}

impl TurnReader {
    /// Reads on.
    ///
    /// # Errors
    /// Why the message is not understood. Nothing more is to be read then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), NotUnderstood> {
        self.scanner.push(bytes, &mut *self.sink)?;
        self.sink.fault().cloned().map_or(Ok(()), Err)
    }

    /// What it is, once it is whole.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(mut self) -> Result<Turn, NotUnderstood> {
        self.scanner.finish(&mut *self.sink)?;
        let message = self.sink.message_type();
        let call = self.sink.finish()?;
        match message.as_deref() {
            Some("response.create") => Ok(Turn::Call(Call {
                stream: true,
                ..call
            })),
            Some(about) if ABOUT.contains(&about) && call == Call::default() => Ok(Turn::About),
            _ => Err(NotUnderstood::Message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{NotUnderstood, Turn, TurnReader};
    use crate::llm::Call;

    fn turn(text: &str) -> Result<Turn, NotUnderstood> {
        let in_pieces = |size: usize| {
            let mut reader = TurnReader::default();
            for piece in text.as_bytes().chunks(size) {
                reader.push(piece)?;
            }
            reader.finish()
        };
        let whole = in_pieces(usize::MAX);
        let split = in_pieces(1);
        assert_eq!(split.is_ok(), whole.is_ok());
        if whole.is_ok() {
            assert_eq!(split, whole);
        }
        whole
    }

    #[test]
    fn a_call_is_read_as_the_body_of_a_request() {
        let said = turn(
            r#"{"input":[{"type":"additional_tools","tools":[{"type":"function","name":"late"}]},
                {"type":"message","content":[{"type":"input_text","text":"{\"tools\":[{\"name\":\"no\"}]}"}]}],
                "generate":false,"previous_response_id":"resp_1","tools":[{"type":"web_search"},
                {"type":"namespace","name":"mcp","tools":[{"type":"function","name":"inner"}]}],
                "max_output_tokens":7,"model":"gpt-5","type":"response.create"}"#,
        );
        let tools = ["late", "web_search", "inner", "mcp"].map(str::to_owned);
        let call = Call {
            model: Some("gpt-5".to_owned()),
            stream: true,
            max_output_tokens: Some(7),
            tools: tools.into(),
            user: None,
        };
        assert_eq!(said, Ok(Turn::Call(call)));
    }

    #[test]
    fn what_is_about_a_call_names_no_model_and_no_tools() {
        for text in [
            r#"{"type":"response.cancel"}"#,
            r#"{"type":"response.interrupt","discard_partial_items":true}"#,
            r#"{"type":"response.processed","response_id":"resp_1"}"#,
            r#"{"type":"response.steer","input":[{"type":"message","role":"user","content":"x"}]}"#,
        ] {
            assert_eq!(turn(text), Ok(Turn::About), "{text}");
        }
        for text in [
            r#"{"type":"response.steer","model":"gpt-5"}"#,
            r#"{"type":"response.steer","tools":[{"type":"web_search"}]}"#,
            r#"{"type":"response.steer","input":[{"type":"additional_tools","tools":[{"type":"web_search"}]}]}"#,
        ] {
            assert_eq!(turn(text), Err(NotUnderstood::Message), "{text}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_not_read() {
        let message = NotUnderstood::Message;
        for (text, why) in [
            (r#"{"model":"gpt-5"}"#, message.clone()),
            (r#"{"type":"","model":"gpt-5"}"#, message.clone()),
            (r#"{"type":"session.update","session":{}}"#, message.clone()),
            (r#"{"type":"Response.Create","model":"gpt-5"}"#, message),
            (
                r#"{"type":7,"model":"gpt-5"}"#,
                NotUnderstood::Wrong("type"),
            ),
            (
                r#"{"Type":"response.create","type":"response.steer"}"#,
                NotUnderstood::Case("type"),
            ),
            (
                r#"{"type":"response.create","response":{"model":"gpt-6"},"model":"gpt-5"}"#,
                NotUnderstood::Wrong("response"),
            ),
            (
                r#"{"type":"response.create","input":[{"Tools":[{"name":"x"}]}]}"#,
                NotUnderstood::Case("tools"),
            ),
            ("[]", NotUnderstood::NoObject),
        ] {
            assert_eq!(turn(text), Err(why), "{text}");
        }
        let twice = turn(r#"{"type":"response.create","type":"response.steer"}"#);
        assert!(matches!(twice, Err(NotUnderstood::Json(_))), "{twice:?}");
    }
}

//! A WebSocket of `OpenAI`'s Responses: messages of a client, a call in each, and the events of a server.
//!
//! Calls may name a lane (`stream_id`), and the events of their answers name it then. In a lane answers come one after
//! the other, in the order of the calls; those of several lanes come at the same time.

use agentguard_model::{Demand, LlmAnswer};

use super::answer::{Answer, Progress, Start, add};
use super::call::{Asks as _, CallSink, Envelope};
use super::responses::{Document, DocumentSink};
use super::written::{self, Both, Events, Hearing, Style, Written};
use super::{Call, Endpoint, NotUnderstood};
use crate::json::Scanner;

/// What is said of a call that is under way, and is none itself.
const ABOUT: [&str; 4] = [
    "response.cancel",
    "response.inject",
    "response.interrupt",
    "response.processed",
];

/// What a client's message is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Turn {
    /// `response.create`.
    Call {
        /// With the members of the body of `POST /responses`. Its answer comes as a stream.
        call: Box<Call>,
        /// The lane that it comes in, where it names one.
        lane: Option<String>,
    },
    /// More for an answer that is under way, which the server may go on to in a response of its own: as that call, and
    /// without another one. It names neither a model nor tools.
    Steer,
    /// Something else about a call that is under way. It names neither a model nor tools.
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
        let Envelope { kind, lane } = self.sink.envelope();
        let call = self.sink.finish()?;
        call.names_one(call.model.as_deref())?;
        // What it gives to the call that is under way is none of its own.
        let demand = Demand::default();
        let asks = Call {
            demand,
            ..call.clone()
        };
        let about = asks == Call::default();
        match kind.as_deref() {
            Some("response.create") => Ok(Turn::Call {
                call: Box::new(Call {
                    stream: true,
                    ..call
                }),
                lane,
            }),
            Some("response.steer") if about => Ok(Turn::Steer),
            Some(kind) if about && ABOUT.contains(&kind) => Ok(Turn::About),
            _ => Err(NotUnderstood::Message),
        }
    }
}

/// Reads an event of a server's.
#[derive(Debug, Default)]
pub struct EventReader {
    scanner: Scanner,
    start: Start,
    sink: Box<DocumentSink>,
    hearing: Option<Box<Hearing>>,
}

/// What an event says.
#[derive(Debug)]
pub struct TurnEvent {
    /// The lane that it is in, where it names one.
    pub lane: Option<String>,
    /// The id of the response that it is of, where it names that.
    pub response: Option<String>,
    /// Whether an answer begins or ends with it.
    pub progress: Progress,
    /// Whether an answer begins with it, or something is told of what one puts out, or of its tokens.
    pub is_of_answer: bool,
    /// Whether it is an error, which may be about something else than an answer.
    pub is_error: bool,
    document: Box<Document>,
    /// What the model has written, where that is heard.
    written: Option<(Written, written::Document)>,
}

impl TurnEvent {
    /// Whether it tells something of an answer, or of a response. Others are about the connection.
    #[must_use]
    pub const fn is_told(&self) -> bool {
        let within = matches!(self.progress, Progress::Within);
        self.is_of_answer || self.response.is_some() || !within
    }
}

impl EventReader {
    /// One that hears what the model writes: see [`TurnAnswer::written`].
    #[must_use]
    pub fn hearing() -> Self {
        Self {
            hearing: Some(Box::new(Hearing::new(Style::Responses))),
            ..Self::default()
        }
    }

    /// Reads on.
    ///
    /// # Errors
    /// Why the event is not understood. Nothing more is to be read then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), NotUnderstood> {
        let bytes = self.start.begin(bytes);
        self.read(&bytes)
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), NotUnderstood> {
        let reader = &mut *self.sink;
        match self.hearing.as_deref_mut() {
            None => self.scanner.push(bytes, reader)?,
            Some(hearing) => self.scanner.push(bytes, &mut Both { reader, hearing })?,
        }
        Ok(())
    }

    /// What it says, once it is whole; none where it is empty.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(mut self) -> Result<Option<TurnEvent>, NotUnderstood> {
        let Some(rest) = self.start.end() else {
            return Ok(None);
        };
        self.read(&rest)?;
        self.scanner.finish(&mut *self.sink)?;
        let mut document = self.sink.finish()?;
        if let Some(fault) = document.odd_lane.take() {
            return Err(fault);
        }
        if !document.object {
            return Err(NotUnderstood::NoObject);
        }
        Ok(Some(TurnEvent {
            lane: document.lane.take(),
            response: document.response.take(),
            progress: document.progress(),
            is_of_answer: document.is_of_answer(),
            is_error: document.is_error(),
            document: Box::new(document),
            written: self.hearing.map(|it| it.into_event()),
        }))
    }
}

/// What came of a call: of several responses, where these stand for it, together.
#[derive(Debug, Default)]
pub struct TurnAnswer {
    /// Of those before the last.
    told: LlmAnswer,
    answer: Answer,
    /// Whether the last one is over.
    over: bool,
    written: Events,
    fault: Option<NotUnderstood>,
}

impl TurnAnswer {
    /// Takes what an event says of it.
    pub fn hear(&mut self, mut event: TurnEvent) {
        if self.over {
            self.written.begin();
        }
        if let Some(written) = event.written.take() {
            self.written.hear(written);
        }
        if self.fault.is_some() {
            return;
        }
        let over = std::mem::replace(&mut self.over, event.progress == Progress::Over);
        let before = match over {
            true => add(&mut self.told, std::mem::take(&mut self.answer).finish()),
            false => Ok(()),
        };
        let heard = before.and_then(|()| event.document.tell(&mut self.answer, true));
        self.fault = heard.err();
    }

    /// Gives what the model has written since this was asked last, where its events were read by one that hears it
    /// ([`EventReader::hearing`]).
    pub fn written<T>(&mut self, hear: impl FnOnce(&Written) -> T) -> Option<T> {
        written::drain(&mut self.written.written, hear)
    }

    /// The rest cannot be read.
    pub fn give_up(&mut self, why: NotUnderstood) {
        self.fault.get_or_insert(why);
    }

    /// The tools that the model has asked to call so far, in the last of them.
    ///
    /// # Errors
    /// Why that is not known.
    pub fn asks(&self) -> Result<Vec<String>, NotUnderstood> {
        match &self.fault {
            Some(fault) => Err(fault.clone()),
            None => Ok(self.answer.tools.names().map(str::to_owned).collect()),
        }
    }

    /// What came of it.
    #[must_use]
    pub fn finish(mut self) -> LlmAnswer {
        let rest = add(&mut self.told, self.answer.finish());
        let fault = self.fault.or(rest.err());
        self.told.not_understood = fault.map(|fault| fault.to_string());
        self.told
    }
}

#[cfg(test)]
mod tests {
    use agentguard_model::Demand;
    use serde_json::{Value, json};

    use super::{EventReader, NotUnderstood, Turn, TurnAnswer, TurnEvent, TurnReader};
    use crate::llm::{Call, Progress};

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
                "max_output_tokens":7,"model":"gpt-5","type":"response.create","stream_id":"a"}"#,
        );
        let tools = ["late", "web_search", "inner", "mcp"].map(str::to_owned);
        let call = Call {
            model: Some("gpt-5".to_owned()),
            stream: true,
            max_output_tokens: Some(7),
            tools: tools.into(),
            user: None,
            beside: None,
            demand: Demand {
                silent: true,
                serves_tools: true,
                refers: true,
                parts: 6,
                ..Demand::default()
            },
        };
        let (call, lane) = (Box::new(call), Some("a".to_owned()));
        assert_eq!(said, Ok(Turn::Call { call, lane }));
    }

    /// What a server might take for something else is a call that writes.
    #[test]
    fn a_call_that_writes_nothing_says_so_once_and_clearly() {
        let silent = |member: &str| {
            let call = format!(r#"{{"type":"response.create","model":"gpt-5",{member}}}"#);
            match turn(&call) {
                Ok(Turn::Call { call, .. }) => call.demand.silent,
                other => panic!("{other:?}"),
            }
        };
        assert!(silent(r#""generate":false"#));
        for member in [
            r#""generate":true"#,
            r#""generate":null"#,
            r#""generate":"false""#,
            r#""Generate":false"#,
            r#""generate":[false]"#,
            r#""generate":false,"Generate":true"#,
            r#""GENERATE":true,"generate":false"#,
        ] {
            assert!(!silent(member), "{member}");
        }
        let mut reader = crate::llm::CallReader::new(crate::llm::Endpoint::Responses);
        reader
            .push(br#"{"model":"gpt-5","generate":false}"#)
            .unwrap();
        assert!(!reader.finish().unwrap().demand.silent);
    }

    #[test]
    fn what_is_about_a_call_names_no_model_and_no_tools() {
        for text in [
            r#"{"type":"response.cancel"}"#,
            r#"{"type":"response.interrupt","discard_partial_items":true}"#,
            r#"{"type":"response.processed","response_id":"resp_1"}"#,
            r#"{"type":"response.inject","response_id":"resp_1","input":[{"type":"function_call_output","output":"x"}]}"#,
        ] {
            assert_eq!(turn(text), Ok(Turn::About), "{text}");
        }
        let steer =
            r#"{"type":"response.steer","input":[{"type":"message","role":"user","content":"x"}]}"#;
        assert_eq!(turn(steer), Ok(Turn::Steer));
        for text in [
            r#"{"type":"response.steer","model":"gpt-5"}"#,
            r#"{"type":"response.steer","tools":[{"type":"web_search"}]}"#,
            r#"{"type":"response.steer","input":[{"type":"additional_tools","tools":[{"type":"web_search"}]}]}"#,
            r#"{"type":"response.inject","input":[{"type":"tool_search_output","tools":[{"type":"web_search"}]}]}"#,
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
                r#"{"type":"response.create","stream_id":7}"#,
                NotUnderstood::Wrong("stream_id"),
            ),
            (
                r#"{"type":"response.create","Stream_Id":"a"}"#,
                NotUnderstood::Case("stream_id"),
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
    fn event(text: &str) -> Result<Option<TurnEvent>, NotUnderstood> {
        let mut reader = EventReader::default();
        for piece in text.as_bytes().chunks(3) {
            reader.push(piece)?;
        }
        reader.finish()
    }

    fn read(value: &Value) -> TurnEvent {
        event(&value.to_string()).unwrap().unwrap()
    }

    #[test]
    fn an_event_says_whose_it_is_and_how_far_that_has_come() {
        let kinds = [
            ("codex.rate_limits", Progress::Within, false),
            ("response.created", Progress::Begun, true),
            ("response.in_progress", Progress::Within, false),
            ("response.output_item.added", Progress::Within, true),
            ("response.steer.accepted", Progress::Within, false),
            ("response.completed", Progress::Over, false),
            ("response.incomplete", Progress::Over, false),
            ("error", Progress::Over, false),
            ("response.failed", Progress::Over, false),
        ];
        for (kind, progress, is_of_answer) in kinds {
            let event = read(
                &json!({ "type": kind, "status": 400, "error": { "code": "x" },
                "stream_id": "a", "response": { "id": "resp_1", "stream_id": "b" } }),
            );
            assert_eq!(event.lane.as_deref(), Some("a"), "{kind}");
            assert_eq!(event.response.as_deref(), Some("resp_1"), "{kind}");
            let read = (event.progress, event.is_of_answer);
            assert_eq!(read, (progress, is_of_answer), "{kind}");
        }
        let delta = json!({ "type": "response.output_text.delta", "output_index": 0, "delta": "x",
            "response_id": "resp_2", "stream_id": null, "item": { "id": "no" } });
        let delta = read(&delta);
        assert_eq!((delta.lane, delta.is_of_answer), (None, true));
        assert_eq!(delta.response.as_deref(), Some("resp_2"));
        let item = json!({ "type": "function_call", "name": "look" });
        for (usage, output, is_of_answer) in [
            (json!(null), json!([]), false),
            (json!({ "input_tokens": 7 }), json!([]), true),
            (json!(null), json!([item]), true),
        ] {
            let response = json!({ "usage": usage, "output": output });
            let event = read(&json!({ "type": "response.completed", "response": response }));
            assert_eq!(event.is_of_answer, is_of_answer, "{usage} {output}");
        }
        assert!(event("").unwrap().is_none());
        assert!(event(" [DONE]").unwrap().is_none());
        let long = format!(r#"{{"stream_id":"{}"}}"#, "a".repeat(257));
        for (text, why) in [
            (r#"{"stream_id":7}"#, NotUnderstood::Wrong("stream_id")),
            (r#"{"stream_id":["a"]}"#, NotUnderstood::Wrong("stream_id")),
            (&long, NotUnderstood::Long("stream_id")),
            (r#"[{"type":"response.created"}]"#, NotUnderstood::NoObject),
        ] {
            assert_eq!(event(text).err(), Some(why), "{text}");
        }
        assert!(event(r#"{"stream_id":"a","stream_id":"b"}"#).is_err());
        assert!(event("{").is_err());
    }

    #[test]
    fn several_responses_are_told_together() {
        let mut answer = TurnAnswer::default();
        for (name, tokens) in [("look", 7), ("shell", 8)] {
            let item = json!({ "type": "function_call", "call_id": name, "name": name });
            answer.hear(read(
                &json!({ "type": "response.output_item.done", "output_index": 0, "item": item }),
            ));
            let response = json!({ "status": "completed", "usage": { "input_tokens": tokens } });
            answer.hear(read(
                &json!({ "type": "response.completed", "response": response }),
            ));
        }
        assert_eq!(answer.asks().unwrap(), ["shell"]);
        let said = answer.finish();
        assert_eq!(said.usage.unwrap().input_tokens, Some(15));
        assert_eq!(said.tool_calls.len(), 2);
        assert_eq!(said.finish_reason.as_deref(), Some("completed"));
    }
}

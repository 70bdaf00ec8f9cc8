use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{MAX_WRITTEN, Written};
use crate::eventstream::Head;
use crate::llm::{AnswerReader, Endpoint, EventReader, InvokeForm, TurnAnswer};
use crate::sse::{Piece, Pieces};

/// What was heard: the pieces, and how much was not among them.
#[derive(Debug, Default, Eq, PartialEq)]
struct Heard {
    pieces: Vec<String>,
    beyond: u64,
    media: u64,
}

impl Heard {
    fn add(&mut self, written: &Written) {
        self.pieces.extend(written.pieces().map(str::to_owned));
        self.beyond += written.beyond();
        self.media += written.media();
    }
}

fn pieces(texts: &[&str]) -> Heard {
    Heard {
        pieces: texts.iter().map(|it| (*it).to_owned()).collect(),
        ..Heard::default()
    }
}

/// A stream of these events, in any pieces alike.
fn events(endpoint: Endpoint, events: &[Value]) -> Heard {
    let stream: String = events
        .iter()
        .map(|event| {
            let kind = event["type"].as_str().unwrap_or("message");
            format!("event: {kind}\ndata: {event}\n\n")
        })
        .collect();
    let in_pieces = |size: usize| {
        let (mut reader, mut pieces) = (AnswerReader::new(endpoint), Pieces::new(64));
        reader.hears_what_is_written();
        let mut heard = Heard::default();
        for piece in stream.as_bytes().chunks(size) {
            pieces.push(piece, &mut |piece| match piece {
                Piece::Data(data) => reader.data(data),
                Piece::End { kind, .. } => {
                    reader.event_ends(kind);
                    reader.written(|written| heard.add(written));
                }
            });
        }
        assert!(reader.is_heard());
        heard
    };
    let whole = in_pieces(usize::MAX);
    for size in [1, 2, 7] {
        assert_eq!(in_pieces(size), whole);
    }
    whole
}

/// One document, in any pieces alike.
fn document(endpoint: Endpoint, document: &Value) -> Heard {
    let text = document.to_string();
    let in_pieces = |size: usize| {
        let mut reader = AnswerReader::new(endpoint);
        reader.hears_what_is_written();
        text.as_bytes().chunks(size).for_each(|it| reader.whole(it));
        reader.whole_ends();
        let mut heard = Heard::default();
        reader.written(|written| heard.add(written));
        heard
    };
    let whole = in_pieces(usize::MAX);
    for size in [1, 2, 7] {
        assert_eq!(in_pieces(size), whole);
    }
    whole
}

#[test]
fn chat_completions_of_all_choices() {
    let delta = |index: u32, delta: Value| json!({ "choices": [{ "index": index, "delta": delta }], "model": "m" });
    let call = |arguments: &str| json!({ "tool_calls": [{ "index": 0, "function": { "name": "look", "arguments": arguments } }] });
    let heard = events(
        Endpoint::ChatCompletions,
        &[
            delta(0, json!({ "role": "assistant", "content": "" })),
            delta(0, json!({ "content": "Grüße" })),
            delta(
                1,
                json!({ "reasoning": "hm", "reasoning_content": "hm", "reasoning_details": [{ "text": "hm" }] }),
            ),
            delta(0, json!({ "refusal": "no" })),
            delta(1, call("{\"a\"")),
            delta(1, call(":1}")),
            json!({ "choices": [], "usage": { "completion_tokens": 7 } }),
        ],
    );
    assert_eq!(heard, pieces(&["Grüße", "hm", "no", "{\"a\"", ":1}"]));
    let message = json!({ "choices": [{ "message": { "content": "a\n", "audio": { "data": "AAAA", "transcript": "b" },
        "tool_calls": [{ "function": { "name": "look", "arguments": "{}" } }] } }, { "text": "c" }] });
    let heard = document(Endpoint::ChatCompletions, &message);
    assert_eq!(heard.media, 4);
    let mut texts = heard.pieces;
    texts.sort_unstable();
    assert_eq!(texts, ["a\n", "b", "c", "{}"]);
}

#[test]
fn responses_by_their_pieces_and_what_these_leave_out() {
    let message = |text: &str| json!({ "type": "message", "content": [{ "type": "output_text", "text": text }] });
    let done = |index: u32, item: &Value| json!({ "type": "response.output_item.done", "output_index": index, "item": item });
    let delta = |kind: &str, delta: &str| json!({ "delta": delta, "type": format!("response.{kind}.delta"), "output_index": 0 });
    let (one, other) = (message("abc"), message("defg"));
    let call = json!({ "type": "computer_call", "action": { "type": "type", "text": "hijkl" } });
    let mut told = vec![
        delta("reasoning_summary_text", "hm"),
        delta("output_text", "a"),
        delta("output_text", "bc"),
        json!({ "type": "response.output_text.done", "text": "abc", "output_index": 0 }),
        done(0, &one),
        delta("function_call_arguments", "{}"),
    ];
    assert_eq!(
        events(Endpoint::Responses, &told),
        pieces(&["hm", "a", "bc", "{}"])
    );
    // Seven bytes were told in pieces. Of the items there are 3, 4 and 9, the last of which has a type of its own in it.
    told.push(done(1, &other));
    told.push(done(2, &call));
    let heard = events(Endpoint::Responses, &told);
    assert_eq!(heard.beyond, 16 - 7);
    told.push(json!({ "type": "response.completed", "response": { "output": [one, other, call, message("mn")] } }));
    let heard = events(Endpoint::Responses, &told);
    assert_eq!(heard.beyond, 18 - 7);

    let whole = json!({ "object": "response", "output": [message("abc"),
        { "type": "image_generation_call", "result": "AAAA" }] });
    let heard = document(Endpoint::Responses, &whole);
    assert_eq!((heard.pieces, heard.media), (vec!["abc".to_owned()], 4));
}

#[test]
fn turns_on_a_websocket() {
    let mut answer = TurnAnswer::default();
    let mut heard = Heard::default();
    let mut hear = |event: Value, hearing: bool| {
        let mut reader = match hearing {
            true => EventReader::hearing(),
            false => EventReader::default(),
        };
        for piece in event.to_string().as_bytes().chunks(3) {
            reader.push(piece).unwrap();
        }
        answer.hear(reader.finish().unwrap().unwrap());
        answer.written(|written| heard.add(written)).is_some()
    };
    let delta = json!({ "type": "response.output_text.delta", "delta": "abc" });
    let output =
        json!([{ "type": "message", "content": [{ "type": "output_text", "text": "abc" }] }]);
    let over = json!({ "type": "response.completed", "response": { "output": output } });
    assert!(!hear(delta.clone(), false));
    assert!(hear(delta, true));
    assert!(!hear(over.clone(), true));
    // The next response of it has told nothing yet.
    assert!(!hear(json!({ "type": "response.created" }), true));
    assert!(hear(over, true));
    assert_eq!(
        heard,
        Heard {
            beyond: 3,
            ..pieces(&["abc"])
        }
    );
}

#[test]
fn messages_with_what_is_thought() {
    let block =
        |block: Value| json!({ "type": "content_block_start", "index": 0, "content_block": block });
    let delta = |delta: Value| json!({ "type": "content_block_delta", "index": 0, "delta": delta });
    let heard = events(
        Endpoint::Messages,
        &[
            json!({ "type": "message_start", "message": { "content": [], "model": "m" } }),
            block(json!({ "type": "thinking", "thinking": "" })),
            delta(json!({ "type": "thinking_delta", "thinking": "hm" })),
            delta(json!({ "type": "signature_delta", "signature": "AAAA" })),
            block(json!({ "type": "tool_use", "name": "look", "input": {} })),
            delta(json!({ "type": "input_json_delta", "partial_json": "{\"a\":" })),
            block(json!({ "type": "text", "text": "a" })),
            delta(json!({ "type": "text_delta", "text": "b" })),
        ],
    );
    assert_eq!(heard, pieces(&["hm", "{\"a\":", "a", "b"]));
    let message = json!({ "content": [{ "type": "text", "text": "a" },
        { "type": "tool_use", "name": "look", "input": { "ü": ["ß"] } }] });
    let heard = document(Endpoint::Messages, &message);
    assert_eq!(heard, pieces(&["a", "{\"ü\":[\"ß\"]}"]));
}

#[test]
fn gemini_cohere_and_ollama() {
    let part = |parts: Value| json!({ "candidates": [{ "content": { "parts": parts } }] });
    let gemini = Endpoint::GenerateContent { stream: true };
    let heard = events(
        gemini,
        &[
            part(json!([{ "text": "hm", "thought": true }])),
            part(
                json!([{ "text": "a" }, { "functionCall": { "args": { "b": 1 }, "name": "look" } }]),
            ),
            part(
                json!([{ "executableCode": { "code": "c" } }, { "codeExecutionResult": { "output": "no" } }]),
            ),
            part(json!([{ "inlineData": { "data": "AAAA" } }])),
        ],
    );
    assert_eq!(
        heard,
        Heard {
            media: 4,
            ..pieces(&["hm", "a", "{\"b\":1}", "c"])
        }
    );
    let listed = json!([
        part(json!([{ "text": "a" }])),
        part(json!([{ "text": "b" }]))
    ]);
    assert_eq!(document(gemini, &listed), pieces(&["a", "b"]));

    let heard = events(
        Endpoint::CohereChat,
        &[
            json!({ "type": "tool-plan-delta", "delta": { "message": { "tool_plan": "p" } } }),
            json!({ "type": "tool-call-delta", "delta": { "message": { "tool_calls": { "function": { "arguments": "{}" } } } } }),
            json!({ "type": "content-delta", "delta": { "message": { "content": { "text": "a" } } } }),
        ],
    );
    assert_eq!(heard, pieces(&["p", "{}", "a"]));
    let first =
        json!({ "text": "a", "tool_calls": [{ "name": "look", "parameters": { "q": 1 } }] });
    let mut heard = document(Endpoint::CohereChat, &first).pieces;
    heard.sort_unstable();
    assert_eq!(heard, ["a", "{\"q\":1}"]);

    let lines = concat!(
        r#"{"message":{"thinking":"hm","content":""}}"#,
        "\n",
        r#"{"message":{"content":"a","tool_calls":[{"function":{"name":"look","arguments":{"b":1}}}]}}"#,
        "\n",
        r#"{"response":"c","done":true}"#,
        "\n"
    );
    for size in [1, 5, 1000] {
        let mut reader = AnswerReader::new(Endpoint::OllamaChat);
        reader.hears_what_is_written();
        let mut text = String::new();
        for piece in lines.as_bytes().chunks(size) {
            reader.lines(piece);
            reader.written(|written| written.pieces().for_each(|it| text.push_str(it)));
        }
        assert_eq!(text, r#"hma{"b":1}c"#);
    }
}

#[test]
fn streams_of_bedrock() {
    let hear = |endpoint: Endpoint, kind: &str, payloads: &[Value]| {
        let mut reader = AnswerReader::new(endpoint);
        reader.hears_what_is_written();
        let mut heard = Heard::default();
        for payload in payloads {
            let event = Some(kind);
            reader.event_begins(&Head {
                event,
                ..Head::default()
            });
            for piece in payload.to_string().as_bytes().chunks(5) {
                reader.data(piece);
            }
            reader.event_ends(&[]);
            reader.written(|written| heard.add(written));
        }
        assert!(reader.is_heard());
        heard
    };
    let converse = Endpoint::Converse { stream: true };
    let delta = |delta: Value| json!({ "contentBlockIndex": 0, "delta": delta });
    let heard = hear(
        converse,
        "contentBlockDelta",
        &[
            delta(json!({ "reasoningContent": { "text": "hm" } })),
            delta(json!({ "text": "a" })),
            delta(json!({ "toolUse": { "input": "{}" } })),
        ],
    );
    assert_eq!(heard, pieces(&["hm", "a", "{}"]));
    let whole = json!({ "output": { "message": { "content": [{ "text": "a" },
        { "toolUse": { "input": { "b": 1 } } }] } } });
    let heard = document(Endpoint::Converse { stream: false }, &whole);
    assert_eq!(heard, pieces(&["a", "{\"b\":1}"]));

    let inside = json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": "abc" } });
    let payload = json!({ "bytes": STANDARD.encode(inside.to_string()) });
    let invoke = |form| Endpoint::Invoke { stream: true, form };
    let heard = hear(invoke(InvokeForm::Messages), "chunk", &[payload]);
    assert_eq!(heard, pieces(&["abc"]));
    let mut other = AnswerReader::new(invoke(InvokeForm::Other));
    other.hears_what_is_written();
    assert!(!other.is_heard());
}

#[test]
fn nobody_who_does_not_ask_is_told() {
    let mut reader = AnswerReader::new(Endpoint::Messages);
    reader.whole(br#"{"content":[{"type":"text","text":"a"}]}"#);
    reader.whole_ends();
    assert_eq!(reader.written(|_| ()), None);
    assert!(!reader.is_heard());
    // Behind a fault nothing is known any more.
    let mut reader = AnswerReader::new(Endpoint::Messages);
    reader.hears_what_is_written();
    reader.whole(br#"{"content":[{"type":"text","text":"a"}],]"#);
    assert!(!reader.is_heard());
}

#[test]
fn what_is_kept_until_it_is_asked_for_has_an_end() {
    let long = "ü".repeat(MAX_WRITTEN);
    let message = json!({ "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": long },
        { "type": "text", "text": "b" }] });
    let heard = document(Endpoint::Messages, &message);
    let kept: usize = heard.pieces.iter().map(String::len).sum();
    // A character is not cut in two.
    assert_eq!(kept, MAX_WRITTEN - 1);
    assert_eq!(heard.beyond, 1 + long.len() as u64 + 1 - kept as u64);
}

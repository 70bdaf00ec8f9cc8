//! Calls and answers as agents send and get them: a call of some 200 KB with 24 tools, an answer of 1,000 words that
//! asks for one.

use std::io::Write as _;

use agentguard_protocol::eventstream;
use agentguard_protocol::llm::Endpoint;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

/// How many tools a call offers.
pub(crate) const TOOLS: usize = 24;

pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) endpoint: Endpoint,
    pub(crate) body: Vec<u8>,
}

/// In which form the events of an answer come.
#[derive(Clone, Copy)]
pub(crate) enum Framing {
    /// An event stream.
    Events,
    /// A document in each line.
    Lines,
    /// AWS's event stream.
    Messages,
}

pub(crate) struct Answer {
    pub(crate) name: &'static str,
    pub(crate) endpoint: Endpoint,
    pub(crate) framing: Framing,
    /// Each with what is around its document.
    pub(crate) events: Vec<Vec<u8>>,
}

impl Answer {
    /// The documents in its events.
    pub(crate) fn documents(&self) -> Vec<&[u8]> {
        let data = self.events.iter().filter_map(|event| match self.framing {
            Framing::Events => {
                let start = event.windows(6).position(|it| it == b"data: ")?;
                let data = event.get(start + 6..)?.trim_ascii();
                (data != b"[DONE]").then_some(data)
            }
            Framing::Lines => Some(event.trim_ascii()),
            Framing::Messages => eventstream::messages(event)
                .ok()?
                .first()
                .map(|it| it.payload),
        });
        data.collect()
    }
}

pub(crate) fn said(nth: usize) -> String {
    let line = "The function \"read\" returns what is there:\\n\\tlet it = x[0];\n";
    format!("{nth} {}", line.repeat(50))
}

pub(crate) fn schema() -> Value {
    json!({ "type": "object", "properties": { "path": { "type": "string", "description": "Where it is." },
        "limit": { "type": "integer", "minimum": 0 } }, "required": ["path"] })
}

fn tools(tool: impl Fn(String) -> Value) -> Value {
    (0..TOOLS).map(|nth| tool(format!("tool_{nth}"))).collect()
}

fn messages() -> Value {
    let message = |nth: usize| {
        let role = if nth.is_multiple_of(2) {
            "user"
        } else {
            "assistant"
        };
        json!({ "role": role, "content": [{ "type": "text", "text": said(nth) }] })
    };
    (0..60).map(message).collect()
}

pub(crate) fn functions() -> Value {
    tools(
        |name| json!({ "type": "function", "name": name, "description": "Does it.", "parameters": schema() }),
    )
}

pub(crate) fn calls() -> Vec<Call> {
    let chat = json!({ "model": "gpt-5", "stream": true, "messages": messages(), "max_tokens": 4096,
        "tools": tools(|name| json!({ "type": "function", "function": { "name": name, "parameters": schema() } })) });
    let responses =
        json!({ "model": "gpt-5", "stream": true, "input": messages(), "tools": functions() });
    let anthropic = json!({ "model": "claude-sonnet-5", "stream": true, "max_tokens": 4096, "messages": messages(),
        "tools": tools(|name| json!({ "name": name, "description": "Does it.", "input_schema": schema() })) });
    let call = |name, endpoint, body: Value| Call {
        name,
        endpoint,
        body: body.to_string().into_bytes(),
    };
    vec![
        call("call_chat", Endpoint::ChatCompletions, chat),
        call("call_responses", Endpoint::Responses, responses),
        call("call_messages", Endpoint::Messages, anthropic),
    ]
}

/// A call on a WebSocket.
pub(crate) fn turn() -> Vec<u8> {
    let turn = json!({ "type": "response.create", "model": "gpt-5", "input": messages(), "tools": functions() });
    turn.to_string().into_bytes()
}

fn named(event: &Value) -> Vec<u8> {
    let name = event["type"].as_str().unwrap_or_default();
    format!("event: {name}\ndata: {event}\n\n").into_bytes()
}

pub(crate) fn answers() -> Vec<Answer> {
    vec![
        Answer {
            name: "answer_chat",
            endpoint: Endpoint::ChatCompletions,
            framing: Framing::Events,
            events: chat(),
        },
        Answer {
            name: "answer_responses",
            endpoint: Endpoint::Responses,
            framing: Framing::Events,
            events: responses(),
        },
        Answer {
            name: "answer_messages",
            endpoint: Endpoint::Messages,
            framing: Framing::Events,
            events: anthropic(),
        },
        Answer {
            name: "answer_gemini",
            endpoint: Endpoint::GenerateContent { stream: true },
            framing: Framing::Events,
            events: gemini(),
        },
        Answer {
            name: "answer_ollama",
            endpoint: Endpoint::OllamaChat,
            framing: Framing::Lines,
            events: ollama(),
        },
        Answer {
            name: "answer_cohere",
            endpoint: Endpoint::CohereChat,
            framing: Framing::Events,
            events: cohere(),
        },
        Answer {
            name: "answer_converse",
            endpoint: Endpoint::Converse { stream: true },
            framing: Framing::Messages,
            events: converse(),
        },
    ]
}

const WORDS: usize = 1000;

fn chat() -> Vec<Vec<u8>> {
    let chunk = |delta: Value, finish: Value| {
        let choice =
            json!({ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish });
        json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_767_225_600, "model": "gpt-5",
            "choices": [choice], "usage": null })
    };
    let mut events: Vec<Value> = (0..WORDS)
        .map(|_| chunk(json!({ "content": "word " }), Value::Null))
        .collect();
    let call = json!({ "index": 0, "id": "c1", "type": "function", "function": { "name": "tool_1", "arguments": "" } });
    events.push(chunk(json!({ "tool_calls": [call] }), Value::Null));
    let more = json!({ "index": 0, "function": { "arguments": "{\"path\":\"x\"}" } });
    events.push(chunk(json!({ "tool_calls": [more] }), Value::Null));
    events.push(chunk(json!({}), json!("tool_calls")));
    events.push(json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "gpt-5", "choices": [],
        "usage": { "prompt_tokens": 40_000, "completion_tokens": 1010 } }));
    let mut events: Vec<Vec<u8>> = events
        .iter()
        .map(|event| format!("data: {event}\n\n").into_bytes())
        .collect();
    events.push(b"data: [DONE]\n\n".to_vec());
    events
}

fn responses() -> Vec<Vec<u8>> {
    let response = |status: &str, usage: Value| json!({ "id": "resp_1", "object": "response", "model": "gpt-5", "status": status, "usage": usage });
    let mut events = vec![
        json!({ "type": "response.created", "response": response("in_progress", Value::Null) }),
    ];
    events.extend((0..WORDS).map(|nth| {
        json!({ "type": "response.output_text.delta", "sequence_number": nth, "item_id": "msg_1", "output_index": 0,
            "content_index": 0, "delta": "word ", "logprobs": [] })
    }));
    let item = json!({ "type": "function_call", "id": "fc_1", "call_id": "c1", "name": "tool_1", "arguments": "{\"path\":\"x\"}" });
    events.push(json!({ "type": "response.output_item.done", "output_index": 1, "item": item }));
    let usage = json!({ "input_tokens": 40_000, "output_tokens": 1010 });
    events.push(json!({ "type": "response.completed", "response": response("completed", usage) }));
    events.iter().map(named).collect()
}

fn anthropic() -> Vec<Vec<u8>> {
    let message = json!({ "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5", "content": [],
        "usage": { "input_tokens": 40_000, "output_tokens": 1 } });
    let mut events = vec![json!({ "type": "message_start", "message": message })];
    events.push(json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }));
    events.extend((0..WORDS).map(|_| {
        json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": "word " } })
    }));
    events.push(json!({ "type": "content_block_stop", "index": 0 }));
    let tool = json!({ "type": "tool_use", "id": "t1", "name": "tool_1", "input": {} });
    events.push(json!({ "type": "content_block_start", "index": 1, "content_block": tool }));
    events.push(json!({ "type": "content_block_delta", "index": 1,
        "delta": { "type": "input_json_delta", "partial_json": "{\"path\":\"x\"}" } }));
    events.push(json!({ "type": "content_block_stop", "index": 1 }));
    events.push(json!({ "type": "message_delta", "delta": { "stop_reason": "tool_use" }, "usage": { "output_tokens": 1010 } }));
    events.push(json!({ "type": "message_stop" }));
    events.iter().map(named).collect()
}

fn gemini() -> Vec<Vec<u8>> {
    let chunk = |part: Value, finish: Value, answered: u64| {
        let content = json!({ "role": "model", "parts": [part] });
        json!({ "candidates": [{ "content": content, "finishReason": finish, "index": 0 }], "modelVersion": "gemini-3",
            "usageMetadata": { "promptTokenCount": 40_000, "candidatesTokenCount": answered } })
    };
    let mut events: Vec<Value> = (0..WORDS)
        .map(|_| chunk(json!({ "text": "word " }), Value::Null, 1))
        .collect();
    let call = json!({ "functionCall": { "name": "tool_1", "args": { "path": "x" } } });
    events.push(chunk(call, json!("STOP"), 1010));
    let line = |event: &Value| format!("data: {event}\n\n").into_bytes();
    events.iter().map(line).collect()
}

fn ollama() -> Vec<Vec<u8>> {
    let chunk = |message: Value| json!({ "model": "qwen3", "created_at": "2026-01-01T00:00:00Z", "message": message, "done": false });
    let mut events: Vec<Value> = (0..WORDS)
        .map(|_| chunk(json!({ "role": "assistant", "content": "word " })))
        .collect();
    let call = json!({ "function": { "name": "tool_1", "arguments": { "path": "x" } } });
    events.push(chunk(
        json!({ "role": "assistant", "content": "", "tool_calls": [call] }),
    ));
    events.push(
        json!({ "model": "qwen3", "message": { "role": "assistant", "content": "" }, "done": true,
        "done_reason": "stop", "prompt_eval_count": 40_000, "eval_count": 1010 }),
    );
    let line = |event: &Value| format!("{event}\n").into_bytes();
    events.iter().map(line).collect()
}

fn cohere() -> Vec<Vec<u8>> {
    let said = |text: &str| json!({ "message": { "content": { "text": text } } });
    let mut events = vec![
        json!({ "type": "message-start", "id": "m1", "delta": { "message": { "role": "assistant" } } }),
    ];
    events.extend(
        (0..WORDS).map(|_| json!({ "type": "content-delta", "index": 0, "delta": said("word ") })),
    );
    let called = |function: Value| json!({ "message": { "tool_calls": { "id": "t1", "type": "function", "function": function } } });
    events.push(json!({ "type": "tool-call-start", "index": 0, "delta": called(json!({ "name": "tool_1", "arguments": "" })) }));
    events.push(json!({ "type": "tool-call-delta", "index": 0, "delta": called(json!({ "arguments": "{\"path\":\"x\"}" })) }));
    events.push(json!({ "type": "tool-call-end", "index": 0 }));
    events.push(
        json!({ "type": "message-end", "delta": { "finish_reason": "TOOL_CALL",
        "usage": { "tokens": { "input_tokens": 40_000, "output_tokens": 1010 } } } }),
    );
    events.iter().map(named).collect()
}

fn converse() -> Vec<Vec<u8>> {
    let mut events = vec![("messageStart", json!({ "role": "assistant" }))];
    events.extend((0..WORDS).map(|_| {
        let delta = json!({ "contentBlockIndex": 0, "delta": { "text": "word " } });
        ("contentBlockDelta", delta)
    }));
    let tool = json!({ "toolUse": { "toolUseId": "t1", "name": "tool_1" } });
    let input = json!({ "toolUse": { "input": "{\"path\":\"x\"}" } });
    events.extend([
        (
            "contentBlockStart",
            json!({ "contentBlockIndex": 1, "start": tool }),
        ),
        (
            "contentBlockDelta",
            json!({ "contentBlockIndex": 1, "delta": input }),
        ),
        ("contentBlockStop", json!({ "contentBlockIndex": 1 })),
        ("messageStop", json!({ "stopReason": "tool_use" })),
        (
            "metadata",
            json!({ "usage": { "inputTokens": 40_000, "outputTokens": 1010 } }),
        ),
    ]);
    let message = |(kind, payload): &(&str, Value)| {
        let headers = [
            (":event-type", *kind),
            (":content-type", "application/json"),
            (":message-type", "event"),
        ];
        eventstream::message(&headers, payload.to_string().as_bytes()).unwrap_or_default()
    };
    events.iter().map(message).collect()
}

/// A client's frame.
pub(crate) fn masked(payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [9, 8, 7, 6];
    let mut frame = vec![0x82, 0x80 | 126];
    frame.extend(
        u16::try_from(payload.len())
            .unwrap_or(u16::MAX)
            .to_be_bytes(),
    );
    frame.extend(MASK);
    let masked = payload.iter().zip(MASK.iter().cycle());
    frame.extend(masked.map(|(byte, key)| byte ^ key));
    frame
}

pub(crate) fn packed(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

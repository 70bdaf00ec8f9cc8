//! Mistral: Chat Completions in its own shape. A tool call comes whole in one chunk, whose id has nine letters; what was
//! counted comes with the last chunk, whoever asks.

use serde_json::{Value, json};

use super::openai::{chat_tool, data, said_in_chat};
use super::{Content, Said};

const CREATED: u64 = 1_767_225_600;

pub(super) fn answer(asked: &Value, stream: bool) -> Content {
    let said = said_in_chat(asked);
    let object = |kind: &str, choice: &Value| {
        json!({
            "id": "cmpl-e5cc70bb28c444948073e77776eb30ef",
            "object": kind,
            "created": CREATED,
            "model": asked["model"],
            "choices": [choice],
        })
    };
    let (finish, calls) = match chat_tool(asked) {
        Some(name) => {
            let arguments = json!({ "said": said.text() }).to_string();
            let call = json!({ "id": "Xk3pQ9aZb", "function": { "name": name, "arguments": arguments }, "index": 0 });
            ("tool_calls", Some(json!([call])))
        }
        None if said.cut => ("length", None),
        None => ("stop", None),
    };
    if !stream {
        let message = match calls {
            Some(calls) => json!({ "role": "assistant", "tool_calls": calls, "content": "" }),
            None => json!({ "role": "assistant", "tool_calls": null, "content": said.text() }),
        };
        let choice = json!({ "index": 0, "message": message, "finish_reason": finish });
        let mut whole = object("chat.completion", &choice);
        whole["usage"] = usage(&said);
        return Content::Json(whole);
    }
    let mut deltas = vec![json!({ "role": "assistant", "content": "" })];
    match calls {
        Some(calls) => deltas.push(json!({ "content": "", "tool_calls": calls })),
        None => deltas.extend(said.words.iter().map(|word| json!({ "content": word }))),
    }
    let last = deltas.len() - 1;
    let chunks = deltas.into_iter().enumerate().map(|(at, delta)| {
        let finish = (at == last).then_some(finish);
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
        let mut chunk = object("chat.completion.chunk", &choice);
        chunk["p"] = "abcdefgh".into();
        if at == last {
            chunk["usage"] = usage(&said);
        }
        data(&chunk)
    });
    Content::Events(chunks.chain(["data: [DONE]\n\n".into()]).collect())
}

/// A word of what is read is cached.
fn usage(said: &Said) -> Value {
    json!({
        "prompt_tokens": said.input_tokens,
        "total_tokens": said.input_tokens + said.output_tokens(),
        "completion_tokens": said.output_tokens(),
        "num_cached_tokens": 1,
        "prompt_tokens_details": { "cached_tokens": 1 },
    })
}

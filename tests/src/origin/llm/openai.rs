//! OpenAI: Chat Completions, Responses, embeddings, the list of models.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

use super::{Api, Content, Fault, Said, called, mistral, named, words};

/// The clock of the models, in seconds since 1970.
const CREATED: u64 = 1_767_225_600;

/// `deployment`: the one of Azure's that the path names, which is what is called then.
pub(super) fn answer(
    api: Api,
    deployment: Option<&str>,
    fields: &HeaderMap,
    body: &[u8],
) -> Result<Content, Fault> {
    let authorization = fields.get(header::AUTHORIZATION);
    let token = authorization.is_some_and(|value| value.as_bytes().starts_with(b"Bearer "));
    let key = deployment.is_some() && fields.contains_key("api-key");
    if !token && !key {
        let message = "You didn't provide an API key. You need to provide your API key in an \
                       Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).";
        return Err(refuse(StatusCode::UNAUTHORIZED, None, None, message));
    }
    if api == Api::Models {
        let models = ["gpt-5-mini", "text-embedding-3-small"].map(
            |id| json!({ "id": id, "object": "model", "created": CREATED, "owned_by": "openai" }),
        );
        return Ok(Content::Json(json!({ "object": "list", "data": models })));
    }
    let mut asked: Value = serde_json::from_slice(body).map_err(|_| {
        let message = "We could not parse the JSON body of your request.";
        refuse(StatusCode::BAD_REQUEST, None, None, message)
    })?;
    if let Some(name) = deployment {
        asked["model"] = name.into();
    }
    let model = asked["model"].as_str().ok_or_else(|| lacks("model"))?;
    if !["gpt-", "text-embedding-", "mistral-"]
        .iter()
        .any(|family| model.starts_with(family))
    {
        let message =
            format!("The model `{model}` does not exist or you do not have access to it.");
        let code = Some("model_not_found");
        return Err(refuse(StatusCode::NOT_FOUND, None, code, &message));
    }
    let needed = match api {
        Api::ChatCompletions => "messages",
        Api::Completions => "prompt",
        _ => "input",
    };
    if asked[needed].is_null() {
        return Err(lacks(needed));
    }
    let stream = asked["stream"] == true;
    let of_mistral = api == Api::ChatCompletions && model.starts_with("mistral-");
    Ok(match api {
        _ if of_mistral => mistral::answer(&asked, stream),
        Api::Completions if stream => Content::Events(completion_events(&asked)),
        Api::Completions => Content::Json(completion(&asked)),
        Api::ChatCompletions if stream => Content::Events(chat_events(&asked)),
        Api::ChatCompletions => Content::Json(chat(&asked)),
        Api::Responses if stream => Content::Events(response_events(&asked)),
        Api::Responses => Content::Json(response(&asked)),
        _ => Content::Json(embeddings(&asked)),
    })
}

fn refuse(status: StatusCode, param: Option<&str>, code: Option<&str>, message: &str) -> Fault {
    let told = json!({ "error": {
        "message": message,
        "type": "invalid_request_error",
        "param": param,
        "code": code,
    }});
    Fault { status, told }
}

fn lacks(param: &str) -> Fault {
    let message = format!("Missing required parameter: '{param}'.");
    let code = Some("missing_required_parameter");
    refuse(StatusCode::BAD_REQUEST, Some(param), code, &message)
}

/// An event that has only data.
pub(super) fn data(value: &Value) -> Bytes {
    format!("data: {value}\n\n").into()
}

pub(super) fn said_in_chat(asked: &Value) -> Said {
    let limits = [&asked["max_completion_tokens"], &asked["max_tokens"]];
    Said::on(&asked["messages"], &Value::Null, &limits)
}

fn chat_usage(said: &Said) -> Value {
    json!({
        "prompt_tokens": said.input_tokens,
        "completion_tokens": said.output_tokens(),
        "total_tokens": said.input_tokens + said.output_tokens(),
        "prompt_tokens_details": { "cached_tokens": 0, "audio_tokens": 0 },
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    })
}

/// The tool that is called: one that is offered, as long as none has answered.
pub(super) fn chat_tool(asked: &Value) -> Option<&str> {
    let mut messages = asked["messages"].as_array().into_iter().flatten();
    let answered = messages.any(|message| message["role"] == "tool");
    called(&asked["tools"][0]["function"]).filter(|_| !answered)
}

fn chat_finish(asked: &Value, said: &Said) -> &'static str {
    match chat_tool(asked) {
        Some(_) => "tool_calls",
        None if said.cut => "length",
        None => "stop",
    }
}

fn chat_call(name: &str, arguments: &str) -> Value {
    json!({ "id": "call_1", "type": "function", "function": { "name": name, "arguments": arguments } })
}

fn chat(asked: &Value) -> Value {
    let said = said_in_chat(asked);
    let mut message = json!({
        "role": "assistant",
        "content": said.text(),
        "refusal": null,
        "annotations": [],
    });
    if let (Some(name), Some(message)) = (chat_tool(asked), message.as_object_mut()) {
        let arguments = json!({ "said": said.text() }).to_string();
        message.insert("content".to_owned(), Value::Null);
        message.insert(
            "tool_calls".to_owned(),
            json!([chat_call(name, &arguments)]),
        );
    }
    json!({
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": CREATED,
        "model": asked["model"],
        "choices": [{
            "index": 0,
            "message": message,
            "logprobs": null,
            "finish_reason": chat_finish(asked, &said),
        }],
        "usage": chat_usage(&said),
        "service_tier": "default",
        "system_fingerprint": null,
    })
}

fn chat_events(asked: &Value) -> Vec<Bytes> {
    let said = said_in_chat(asked);
    let with_usage = asked["stream_options"]["include_usage"] == true;
    let chunk = |choices: Value, usage: Value| {
        let mut chunk = json!({
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": asked["model"],
            "service_tier": "default",
            "system_fingerprint": null,
            "choices": choices,
        });
        if let (true, Some(chunk)) = (with_usage, chunk.as_object_mut()) {
            chunk.insert("usage".to_owned(), usage);
        }
        data(&chunk)
    };
    let choice = |delta: Value, finish: Option<&str>| {
        let choice =
            json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }]);
        chunk(choice, Value::Null)
    };
    let role = json!({ "role": "assistant", "content": "", "refusal": null });
    let mut events = vec![choice(role, None)];
    match chat_tool(asked) {
        Some(name) => {
            let mut call = chat_call(name, "");
            call["index"] = json!(0);
            events.push(choice(json!({ "tool_calls": [call] }), None));
            let arguments = json!({ "said": said.text() }).to_string();
            events.extend(words(&arguments).into_iter().map(|piece| {
                let more = json!({ "index": 0, "function": { "arguments": piece } });
                choice(json!({ "tool_calls": [more] }), None)
            }));
        }
        None => {
            let words = said.words.iter();
            events.extend(words.map(|word| choice(json!({ "content": word }), None)));
        }
    }
    events.push(choice(json!({}), Some(chat_finish(asked, &said))));
    if with_usage {
        events.push(chunk(json!([]), chat_usage(&said)));
    }
    events.push("data: [DONE]\n\n".into());
    events
}

/// The prompt of Completions as what the user says.
fn said_in_completion(asked: &Value) -> Said {
    let prompt = json!([{ "role": "user", "content": asked["prompt"] }]);
    Said::on(&prompt, &Value::Null, &[&asked["max_tokens"]])
}

fn completion_object(asked: &Value, choices: &Value) -> Value {
    json!({
        "id": "cmpl-1",
        "object": "text_completion",
        "created": CREATED,
        "model": asked["model"],
        "choices": choices,
    })
}

fn completion_choice(text: &str, finish: Option<&str>) -> Value {
    json!([{ "index": 0, "text": text, "logprobs": null, "finish_reason": finish }])
}

fn completion_usage(said: &Said) -> Value {
    json!({
        "prompt_tokens": said.input_tokens,
        "completion_tokens": said.output_tokens(),
        "total_tokens": said.input_tokens + said.output_tokens(),
    })
}

const fn completion_finish(said: &Said) -> &'static str {
    if said.cut { "length" } else { "stop" }
}

fn completion(asked: &Value) -> Value {
    let said = said_in_completion(asked);
    let choice = completion_choice(&said.text(), Some(completion_finish(&said)));
    let mut completion = completion_object(asked, &choice);
    completion["usage"] = completion_usage(&said);
    completion
}

fn completion_events(asked: &Value) -> Vec<Bytes> {
    let said = said_in_completion(asked);
    let last = said.words.len().saturating_sub(1);
    let words = said.words.iter().enumerate();
    let mut events: Vec<Bytes> = words
        .map(|(at, word)| {
            let finish = (at == last).then(|| completion_finish(&said));
            data(&completion_object(asked, &completion_choice(word, finish)))
        })
        .collect();
    if asked["stream_options"]["include_usage"] == true {
        let mut usage = completion_object(asked, &json!([]));
        usage["usage"] = completion_usage(&said);
        events.push(data(&usage));
    }
    events.push("data: [DONE]\n\n".into());
    events
}

fn said_in_response(asked: &Value) -> Said {
    // A bare string is what the user says.
    let messages = match &asked["input"] {
        Value::String(text) => json!([{ "role": "user", "content": text }]),
        messages => messages.clone(),
    };
    Said::on(
        &messages,
        &asked["instructions"],
        &[&asked["max_output_tokens"]],
    )
}

/// A response with this in it; usage comes with the end.
fn response_object(asked: &Value, status: &str, output: &[Value], usage: &Value) -> Value {
    let incomplete = (status == "incomplete").then(|| json!({ "reason": "max_output_tokens" }));
    json!({
        "id": "resp_1",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "background": false,
        "error": null,
        "incomplete_details": incomplete,
        "instructions": asked["instructions"],
        "max_output_tokens": asked["max_output_tokens"],
        "model": asked["model"],
        "output": output,
        "parallel_tool_calls": true,
        "previous_response_id": asked["previous_response_id"],
        "reasoning": { "effort": null, "summary": null },
        "store": true,
        "temperature": 1.0,
        "text": { "format": { "type": "text" } },
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage,
        "user": null,
        "metadata": {},
    })
}

fn response_item(status: &str, content: &[Value]) -> Value {
    json!({
        "id": "msg_1",
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    })
}

fn response_part(text: &str) -> Value {
    json!({ "type": "output_text", "annotations": [], "logprobs": [], "text": text })
}

/// As [`chat_tool`].
fn response_tool(asked: &Value) -> Option<&str> {
    let mut items = asked["input"].as_array().into_iter().flatten();
    let answered = items.any(|item| item["type"] == "function_call_output");
    called(&asked["tools"][0]).filter(|_| !answered)
}

fn response_call(status: &str, name: &str, arguments: &str) -> Value {
    json!({
        "id": "fc_1",
        "type": "function_call",
        "status": status,
        "call_id": "call_1",
        "name": name,
        "arguments": arguments,
    })
}

/// The response at its end, and the item in it.
fn response_end(asked: &Value, said: &Said) -> (Value, Value) {
    let status = if said.cut { "incomplete" } else { "completed" };
    let item = match response_tool(asked) {
        Some(name) => {
            let arguments = json!({ "said": said.text() }).to_string();
            response_call(status, name, &arguments)
        }
        None => response_item(status, &[response_part(&said.text())]),
    };
    let usage = json!({
        "input_tokens": said.input_tokens,
        "input_tokens_details": { "cached_tokens": 0 },
        "output_tokens": said.output_tokens(),
        "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": said.input_tokens + said.output_tokens(),
    });
    (
        response_object(asked, status, std::slice::from_ref(&item), &usage),
        item,
    )
}

fn response(asked: &Value) -> Value {
    response_end(asked, &said_in_response(asked)).0
}

fn response_events(asked: &Value) -> Vec<Bytes> {
    let said = said_in_response(asked);
    let (end, item) = response_end(asked, &said);
    let begin = response_object(asked, "in_progress", &[], &Value::Null);
    let tool = response_tool(asked);
    let begun = match tool {
        Some(name) => response_call("in_progress", name, ""),
        None => response_item("in_progress", &[]),
    };
    let in_item = |mut event: Value, of_part: bool| {
        if let Some(event) = event.as_object_mut() {
            event.insert("output_index".to_owned(), json!(0));
            if of_part {
                event.insert("item_id".to_owned(), begun["id"].clone());
                if tool.is_none() {
                    event.insert("content_index".to_owned(), json!(0));
                }
            }
        }
        event
    };
    let mut events = vec![
        json!({ "type": "response.created", "response": begin }),
        json!({ "type": "response.in_progress", "response": begin }),
        in_item(
            json!({ "type": "response.output_item.added", "item": begun }),
            false,
        ),
    ];
    match tool {
        Some(_) => {
            let arguments = item["arguments"].as_str().unwrap_or_default();
            events.extend(words(arguments).into_iter().map(|piece| {
                let kind = "response.function_call_arguments.delta";
                in_item(json!({ "type": kind, "delta": piece }), true)
            }));
            let kind = "response.function_call_arguments.done";
            events.push(in_item(
                json!({ "type": kind, "arguments": arguments }),
                true,
            ));
        }
        None => {
            let part =
                |kind: &str, part: Value| in_item(json!({ "type": kind, "part": part }), true);
            events.push(part("response.content_part.added", response_part("")));
            events.extend(said.words.iter().map(|word| {
                let kind = "response.output_text.delta";
                in_item(json!({ "type": kind, "delta": word, "logprobs": [] }), true)
            }));
            let text = said.text();
            let kind = "response.output_text.done";
            let done = json!({ "type": kind, "text": text, "logprobs": [] });
            events.push(in_item(done, true));
            events.push(part("response.content_part.done", response_part(&text)));
        }
    }
    let ending = format!("response.{}", end["status"].as_str().unwrap_or_default());
    events.extend([
        in_item(
            json!({ "type": "response.output_item.done", "item": item }),
            false,
        ),
        json!({ "type": ending, "response": end }),
    ]);
    let numbered = events.into_iter().enumerate().map(|(number, mut event)| {
        if let Some(event) = event.as_object_mut() {
            event.insert("sequence_number".to_owned(), json!(number));
        }
        named(&event)
    });
    numbered.collect()
}

/// Vectors of three numbers: how many bytes a text has, how many words, and a half.
fn embeddings(asked: &Value) -> Value {
    let texts: Vec<&str> = match &asked["input"] {
        Value::String(text) => vec![text],
        Value::Array(texts) => texts.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let in_base64 = asked["encoding_format"] == "base64";
    let vector = |text: &str| {
        let count = |count: usize| f32::from(u16::try_from(count).unwrap_or(u16::MAX));
        let numbers = [count(text.len()), count(words(text).len()), 0.5];
        if in_base64 {
            json!(BASE64_STANDARD.encode(numbers.map(f32::to_le_bytes).concat()))
        } else {
            json!(numbers)
        }
    };
    let data: Vec<_> = (0..)
        .zip(&texts)
        .map(|(index, text)| {
            json!({ "object": "embedding", "index": index, "embedding": vector(text) })
        })
        .collect();
    let tokens: usize = texts.iter().map(|text| words(text).len()).sum();
    json!({
        "object": "list",
        "data": data,
        "model": asked["model"],
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    })
}

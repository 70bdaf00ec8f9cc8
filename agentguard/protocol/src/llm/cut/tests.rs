use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{AnswerReader, Endpoint, InvokeForm, NotUnderstood};
use super::{Cutter, Uncut};
use crate::eventstream;
use crate::json::Value as Tree;
use crate::sse::Parser;

const SENTENCE: &str = "cut (agentguard explain 01)";

fn cutter(endpoint: Endpoint) -> Cutter {
    let mut cutter = Cutter::new(endpoint);
    cutter.cut("bash".to_owned(), SENTENCE.to_owned());
    cutter
}

fn document(endpoint: Endpoint, document: &Value) -> Result<Value, Uncut> {
    let tree = Tree::read(document.to_string().as_bytes(), 1 << 20).unwrap();
    let written = cutter(endpoint).document(tree)?;
    Ok(written.map_or_else(|| document.clone(), |it| it.parse().unwrap()))
}

/// The events that come of these, one by one, with their types.
fn stream(endpoint: Endpoint, events: &[Value]) -> Result<Vec<(String, Value)>, Uncut> {
    let mut cutter = cutter(endpoint);
    let mut out = Vec::new();
    for event in events {
        let kind = event["type"].as_str();
        let kind = kind.map_or(String::new(), |kind| format!("event: {kind}\n"));
        let bytes = format!("{kind}data: {event}\n\n");
        let went = cutter.sse(bytes.as_bytes())?;
        let went = went.unwrap_or_else(|| bytes.into_bytes());
        Parser::new(1 << 20).push(&went, &mut |event| {
            let kind = String::from_utf8(event.kind.to_owned()).unwrap();
            let data: Value = serde_json::from_slice(event.data.unwrap()).unwrap();
            out.push((kind, data));
        });
    }
    let mut reader = AnswerReader::new(endpoint);
    for (_, data) in &out {
        reader.data(data.to_string().as_bytes());
        reader.event_ends(&[]);
    }
    let asks = reader.asks().unwrap();
    assert!(!asks.iter().any(|tool| tool == "bash"), "{asks:?}");
    Ok(out)
}

/// The data of those alone; each has the type of its data, if it has one.
fn data(endpoint: Endpoint, events: &[Value]) -> Vec<Value> {
    let events = stream(endpoint, events).unwrap().into_iter();
    let events = events.map(|(kind, data)| {
        assert_eq!(kind, data["type"].as_str().unwrap_or_default());
        data
    });
    events.collect()
}

fn chat_call(index: u64, name: &str) -> Value {
    json!({"index": index, "id": format!("call_{index}"), "type": "function",
        "function": {"name": name, "arguments": ""}})
}

fn chat_event(delta: &Value, finish: Option<&str>) -> Value {
    json!({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
}

#[test]
fn what_is_not_cut_goes_as_it_came() {
    let events = [
        chat_event(&json!({"role": "assistant", "content": "I look."}), None),
        chat_event(&json!({"tool_calls": [chat_call(0, "read")]}), None),
        chat_event(&json!({}), Some("tool_calls")),
    ];
    for event in &events {
        let bytes = format!(": a comment\r\ndata: {event}\r\n\r\n");
        let went = cutter(Endpoint::ChatCompletions).sse(bytes.as_bytes());
        assert_eq!(went, Ok(None));
    }
    let done = cutter(Endpoint::ChatCompletions).sse(b"data: [DONE]\n\n");
    assert_eq!(done, Ok(None));
}

#[test]
fn chat_one_of_two_calls_of_a_stream() {
    let more = |index: u64, text: &str| {
        let function = json!({"arguments": text});
        chat_event(
            &json!({"tool_calls": [{"index": index, "function": function}]}),
            None,
        )
    };
    let events = [
        chat_event(&json!({"role": "assistant", "content": "I look."}), None),
        chat_event(&json!({"tool_calls": [chat_call(0, "bash")]}), None),
        more(0, "{\"command\":"),
        chat_event(&json!({"tool_calls": [chat_call(1, "read")]}), None),
        more(1, "{}"),
        more(0, "\"ls\"}"),
        chat_event(&json!({}), Some("tool_calls")),
    ];
    let mut moved = chat_call(0, "read");
    moved["id"] = json!("call_1");
    assert_eq!(
        data(Endpoint::ChatCompletions, &events),
        [
            events[0].clone(),
            chat_event(&json!({"content": format!("\n\n{SENTENCE}")}), None),
            chat_event(&json!({"tool_calls": [moved]}), None),
            more(0, "{}"),
            events[6].clone(),
        ]
    );
}

#[test]
fn chat_the_only_call_of_a_stream() {
    let events = [
        chat_event(
            &json!({"role": "assistant", "content": null, "tool_calls": [chat_call(0, "bash")]}),
            None,
        ),
        chat_event(
            &json!({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
            None,
        ),
        chat_event(&json!({}), Some("tool_calls")),
        json!({"id": "c", "choices": [], "usage": {"completion_tokens": 3}}),
    ];
    assert_eq!(
        data(Endpoint::ChatCompletions, &events),
        [
            chat_event(&json!({"role": "assistant", "content": SENTENCE}), None),
            chat_event(&json!({}), Some("stop")),
            events[3].clone(),
        ]
    );
}

#[test]
fn chat_documents() {
    let answer = |message: &Value, finish: &str| json!({"choices": [{"index": 0, "message": message, "finish_reason": finish}]});
    let cut = |came: &Value| document(Endpoint::ChatCompletions, came).unwrap();
    let call = |name: &str| json!({"id": "c", "type": "function", "function": {"name": name, "arguments": "{}"}});
    assert_eq!(
        cut(&answer(
            &json!({"role": "assistant", "content": null, "tool_calls": [call("bash")]}),
            "tool_calls"
        )),
        answer(&json!({"role": "assistant", "content": SENTENCE}), "stop")
    );
    assert_eq!(
        cut(&answer(
            &json!({"content": "I look.", "tool_calls": [call("bash"), call("read")]}),
            "tool_calls"
        )),
        answer(
            &json!({"content": format!("I look.\n\n{SENTENCE}"), "tool_calls": [call("read")]}),
            "tool_calls"
        )
    );
    // As it was before, and with content in parts.
    let parts = json!([{"type": "text", "text": "I look."}]);
    let function = json!({"name": "bash", "arguments": "{}"});
    let said = json!([{"type": "text", "text": "I look."}, {"type": "text", "text": SENTENCE}]);
    assert_eq!(
        cut(&answer(
            &json!({"content": parts, "function_call": function}),
            "function_call"
        )),
        answer(&json!({"content": said}), "stop")
    );
    let untouched = answer(
        &json!({"content": null, "tool_calls": [call("read")]}),
        "tool_calls",
    );
    assert_eq!(cut(&untouched), untouched);
}

#[test]
fn each_choice_of_a_chat_by_itself() {
    let choice = |index: u64, message: Value, finish: &str| json!({"index": index, "message": message, "finish_reason": finish});
    let bash = json!({"content": null, "tool_calls": [chat_call(0, "bash")]});
    let read = json!({"content": null, "tool_calls": [chat_call(0, "read")]});
    let came =
        json!({"choices": [choice(0, bash, "tool_calls"), choice(1, read.clone(), "tool_calls")]});
    let went = document(Endpoint::ChatCompletions, &came).unwrap();
    let text = json!({"content": SENTENCE});
    assert_eq!(
        went,
        json!({"choices": [choice(0, text, "stop"), choice(1, read, "tool_calls")]})
    );
}

#[test]
fn a_call_without_a_name_is_not_cut() {
    let more = json!({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]});
    let events = [chat_event(&more, None)];
    assert_eq!(
        stream(Endpoint::ChatCompletions, &events),
        Err(Uncut::Nameless)
    );
}

#[test]
fn messages_streams() {
    let block = |index: u64, name: &str| {
        json!({"type": "content_block_start", "index": index,
            "content_block": {"type": "tool_use", "id": "toolu_1", "name": name, "input": {}}})
    };
    let more = |index: u64| {
        json!({"type": "content_block_delta", "index": index,
            "delta": {"type": "input_json_delta", "partial_json": "{}"}})
    };
    let stop = |index: u64| json!({"type": "content_block_stop", "index": index});
    let ends = |reason: &str| json!({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 9}});
    let text = [
        json!({"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": SENTENCE}}),
    ];
    let [text, said] = text;
    let events = [
        json!({"type": "message_start", "message": {"content": []}}),
        block(1, "bash"),
        more(1),
        stop(1),
    ];
    let start = events[0].clone();
    let alone = [&events[..], &[ends("tool_use")]].concat();
    assert_eq!(
        data(Endpoint::Messages, &alone),
        [
            start.clone(),
            text.clone(),
            said.clone(),
            stop(1),
            ends("end_turn")
        ]
    );
    let others = [block(2, "read"), more(2), stop(2), ends("tool_use")];
    assert_eq!(
        data(Endpoint::Messages, &[&events[..], &others[..]].concat()),
        [&[start, text, said, stop(1)][..], &others[..]].concat()
    );
}

#[test]
fn messages_documents() {
    let call = |name: &str| json!({"type": "tool_use", "id": "t", "name": name, "input": {"a": 1}});
    let said = |text: &str| json!({"type": "text", "text": text});
    let came = json!({"content": [said("I look."), call("bash")], "stop_reason": "tool_use"});
    let went = json!({"content": [said("I look."), said(SENTENCE)], "stop_reason": "end_turn"});
    for endpoint in [
        Endpoint::Messages,
        Endpoint::PredictMessages { stream: false },
        Endpoint::Invoke {
            stream: false,
            form: InvokeForm::Messages,
        },
    ] {
        assert_eq!(document(endpoint, &came), Ok(went.clone()));
    }
    let came = json!({"content": [call("bash"), call("read")], "stop_reason": "tool_use"});
    let went = json!({"content": [said(SENTENCE), call("read")], "stop_reason": "tool_use"});
    assert_eq!(document(Endpoint::Messages, &came), Ok(went));
}

#[test]
fn a_tool_of_a_set_is_cut_by_both_names() {
    let message = |set: &str, name: &str| json!({"content": [{"type": "tool_use", "id": "t", "name": name, "toolset_name": set, "input": {}}]});
    let response = |set: &str, name: &str| json!({"output": [{"type": "function_call", "id": "fc_1", "call_id": "c", "name": name, "namespace": set, "arguments": "{}"}]});
    for (set, name) in [("computer", "bash"), ("files", "delete")] {
        let (message, response) = (message(set, name), response(set, name));
        for (endpoint, answer) in [
            (Endpoint::Messages, message),
            (Endpoint::Responses, response),
        ] {
            let mut cutter = cutter(endpoint);
            cutter.cut("files.delete".to_owned(), SENTENCE.to_owned());
            let tree = Tree::read(answer.to_string().as_bytes(), 1 << 20).unwrap();
            let written = cutter.document(tree).unwrap().unwrap();
            assert!(
                written.contains(SENTENCE) && !written.contains(name),
                "{written}"
            );
        }
    }
}

#[test]
fn what_the_provider_has_run_is_not_cut() {
    let messages =
        json!({"content": [{"type": "server_tool_use", "id": "s", "name": "bash", "input": {}}]});
    assert_eq!(
        document(Endpoint::Messages, &messages),
        Err(Uncut::Provider)
    );
    let responses = json!({"output": [{"type": "mcp_call", "id": "m", "name": "bash"}]});
    assert_eq!(
        document(Endpoint::Responses, &responses),
        Err(Uncut::Provider)
    );
    let invoke = Endpoint::Invoke {
        stream: false,
        form: InvokeForm::Other,
    };
    assert_eq!(document(invoke, &json!({})), Err(Uncut::Form));
}

fn item(name: &str, status: &str) -> Value {
    json!({"type": "function_call", "id": "fc_7", "call_id": "call_7", "name": name,
        "arguments": "{}", "status": status})
}

#[test]
fn responses_streams() {
    let added = |index: u64, item: &Value| json!({"type": "response.output_item.added", "sequence_number": 3, "output_index": index, "item": item});
    let done = |index: u64, item: &Value| json!({"type": "response.output_item.done", "sequence_number": 6, "output_index": index, "item": item});
    let more = |kind: &str, index: u64| json!({"type": kind, "sequence_number": 4, "output_index": index, "item_id": "fc_7"});
    let completed = |output: Value| json!({"type": "response.completed", "sequence_number": 9, "response": {"status": "completed", "output": output}});
    let (delta, args) = (
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
    );
    let (bash, read) = (item("bash", "completed"), item("read", "completed"));
    let events = [
        json!({"type": "response.created", "sequence_number": 0, "response": {"output": []}}),
        added(0, &item("bash", "in_progress")),
        more(delta, 0),
        more(args, 0),
        done(0, &bash),
        added(1, &item("read", "in_progress")),
        more(args, 1),
        done(1, &read),
        completed(json!([bash, read.clone()])),
    ];
    let message = |status: &str, content: Value| json!({"id": "msg_7", "type": "message", "status": status, "role": "assistant", "content": content});
    let part = |text: &str| json!({"type": "output_text", "text": text, "annotations": []});
    let whole = message("completed", json!([part(SENTENCE)]));
    let of = |kind: &str, member: &str, value: Value| {
        json!({"type": kind, "sequence_number": 3, "output_index": 0, "item_id": "msg_7",
            "content_index": 0, member: value})
    };
    let expected = [
        &[
            events[0].clone(),
            added(0, &message("in_progress", json!([]))),
            of("response.content_part.added", "part", part("")),
            of("response.output_text.delta", "delta", json!(SENTENCE)),
            of("response.output_text.done", "text", json!(SENTENCE)),
            of("response.content_part.done", "part", part(SENTENCE)),
            done(0, &whole),
        ],
        &events[5..8],
        &[completed(json!([whole, read]))],
    ]
    .concat();
    assert_eq!(data(Endpoint::Responses, &events), expected);
    // On a WebSocket each is a message.
    let mut cutter = cutter(Endpoint::Responses);
    let mut went = Vec::new();
    for event in &events {
        let message = event.to_string();
        let instead = cutter.message(message.as_bytes()).unwrap();
        went.extend(instead.unwrap_or_else(|| vec![message]));
    }
    let went: Vec<Value> = went.iter().map(|it| it.parse().unwrap()).collect();
    assert_eq!(went, expected);
}

#[test]
fn responses_documents() {
    let shell = json!({"type": "local_shell_call", "id": "lsh_1", "call_id": "c", "action": {}});
    let read = item("read", "completed");
    let came = json!({"status": "completed", "output": [item("bash", "completed"), read, shell]});
    let went = document(Endpoint::Responses, &came).unwrap();
    assert_eq!(went["output"][0]["content"][0]["text"], json!(SENTENCE));
    assert_eq!(went["output"][1], came["output"][1]);
    assert_eq!(went["output"][2], came["output"][2]);
    let mut cutter = cutter(Endpoint::Responses);
    cutter.cut("local_shell".to_owned(), SENTENCE.to_owned());
    let tree = Tree::read(came.to_string().as_bytes(), 1 << 20).unwrap();
    let went: Value = cutter.document(tree).unwrap().unwrap().parse().unwrap();
    assert_eq!(went["output"][2]["id"], json!("msg_1"));
}

#[test]
fn gemini() {
    let call = |name: &str| json!({"functionCall": {"name": name, "args": {"a": 1}}, "thoughtSignature": "c2ln"});
    let said = json!({"text": SENTENCE});
    let answer = |parts: Value| json!({"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}]});
    let endpoint = Endpoint::GenerateContent { stream: true };
    let (came, went) = (
        answer(json!([call("bash"), call("read")])),
        answer(json!([said, call("read")])),
    );
    assert_eq!(document(endpoint, &came), Ok(went.clone()));
    assert_eq!(
        document(endpoint, &json!([came, answer(json!([]))])),
        Ok(json!([went, answer(json!([]))]))
    );
    // Of which more comes without a name.
    let begun = json!({"functionCall": {"name": "bash", "willContinue": true}});
    let more = json!({"functionCall": {"partialArgs": [{"jsonPath": "$.a"}]}});
    let events = [
        answer(json!([begun])),
        answer(json!([more.clone()])),
        answer(json!([call("read"), more])),
    ];
    assert_eq!(
        data(endpoint, &events),
        [
            answer(json!([said])),
            json!({"candidates": [{"finishReason": "STOP"}]}),
            answer(json!([call("read"), more])),
        ]
    );
}

#[test]
fn ollama() {
    let call = |name: &str| json!({"function": {"name": name, "arguments": {"a": 1}}});
    let came = json!({"message": {"role": "assistant", "content": "", "tool_calls": [call("bash"), call("read")]}, "done": false});
    let went = json!({"message": {"role": "assistant", "content": SENTENCE, "tool_calls": [call("read")]}, "done": false});
    assert_eq!(document(Endpoint::OllamaChat, &came), Ok(went.clone()));
    let mut cutter = cutter(Endpoint::OllamaChat);
    let line = cutter.message(format!("{came}\n").as_bytes()).unwrap();
    assert_eq!(
        line.unwrap()
            .iter()
            .map(|it| it.parse().unwrap())
            .collect::<Vec<Value>>(),
        [went]
    );
}

#[test]
fn cohere() {
    let start = |index: u64, name: &str| {
        json!({"type": "tool-call-start", "index": index,
            "delta": {"message": {"tool_calls": {"id": "t", "function": {"name": name, "arguments": ""}}}}})
    };
    let more = |index: u64| json!({"type": "tool-call-delta", "index": index, "delta": {"message": {"tool_calls": {"function": {"arguments": "{}"}}}}});
    let end = |index: u64| json!({"type": "tool-call-end", "index": index});
    let over = |reason: &str| json!({"type": "message-end", "delta": {"finish_reason": reason}});
    let events = [start(0, "bash"), more(0), end(0), over("TOOL_CALL")];
    let content = |kind: &str, content: Value| json!({"type": kind, "index": 0, "delta": {"message": {"content": content}}});
    assert_eq!(
        data(Endpoint::CohereChat, &events),
        [
            content("content-start", json!({"type": "text", "text": ""})),
            content("content-delta", json!({"text": SENTENCE})),
            json!({"type": "content-end", "index": 0}),
            over("COMPLETE"),
        ]
    );
    let call = |name: &str| json!({"id": "t", "type": "function", "function": {"name": name, "arguments": "{}"}});
    let came = json!({"message": {"tool_calls": [call("bash")], "tool_plan": "p"}, "finish_reason": "TOOL_CALL"});
    let went = json!({"message": {"tool_plan": "p", "content": [{"type": "text", "text": SENTENCE}]}, "finish_reason": "COMPLETE"});
    assert_eq!(document(Endpoint::CohereChat, &came), Ok(went));
    let before = json!({"text": "", "tool_calls": [{"name": "bash", "parameters": {}}]});
    assert_eq!(document(Endpoint::CohereChat, &before), Err(Uncut::Form));
}

#[test]
fn converse_documents() {
    let call = |name: &str| json!({"toolUse": {"toolUseId": "t", "name": name, "input": {}}});
    let said = json!({"text": SENTENCE});
    let answer = |content: Value, reason: &str| json!({"output": {"message": {"role": "assistant", "content": content}}, "stopReason": reason});
    let endpoint = Endpoint::Converse { stream: false };
    assert_eq!(
        document(endpoint, &answer(json!([call("bash")]), "tool_use")),
        Ok(answer(json!([said]), "end_turn"))
    );
    assert_eq!(
        document(
            endpoint,
            &answer(json!([call("bash"), call("read")]), "tool_use")
        ),
        Ok(answer(json!([said, call("read")]), "tool_use"))
    );
}

/// The stream of these, and what comes of it.
fn event_stream(endpoint: Endpoint, events: &[(&str, Value)]) -> Vec<(String, Value)> {
    let message = |(kind, data): &(&str, Value)| {
        let headers = [(":event-type", *kind), (":message-type", "event")];
        eventstream::message(&headers, data.to_string().as_bytes()).unwrap()
    };
    let came: Vec<u8> = events.iter().flat_map(message).collect();
    let went = cutter(endpoint).event_stream(&came).unwrap();
    let went = went.unwrap_or(came);
    let messages = eventstream::messages(&went).unwrap().into_iter();
    let messages = messages.map(|it| {
        let data = serde_json::from_slice(it.payload).unwrap();
        (it.head.event.unwrap().to_owned(), data)
    });
    messages.collect()
}

#[test]
fn converse_streams() {
    let start = |index: u64, name: &str| {
        let call = json!({"toolUse": {"toolUseId": "t", "name": name}});
        let data = json!({"contentBlockIndex": index, "start": call});
        ("contentBlockStart", data)
    };
    let delta = |index: u64, delta: Value| {
        let data = json!({"contentBlockIndex": index, "delta": delta});
        ("contentBlockDelta", data)
    };
    let more = |index| delta(index, json!({"toolUse": {"input": "{}"}}));
    let stop = |index: u64| ("contentBlockStop", json!({"contentBlockIndex": index}));
    let over = |reason: &str| ("messageStop", json!({"stopReason": reason}));
    let endpoint = Endpoint::Converse { stream: true };
    let events = [start(0, "bash"), more(0), stop(0), over("tool_use")];
    let said = delta(0, json!({"text": SENTENCE}));
    let expected = [said, stop(0), over("end_turn")];
    let expected: Vec<_> = expected.map(|(kind, data)| (kind.to_owned(), data)).into();
    assert_eq!(event_stream(endpoint, &events), expected);
    let events = [start(0, "read"), more(0), stop(0), over("tool_use")];
    let expected: Vec<_> = events
        .clone()
        .map(|(kind, data)| (kind.to_owned(), data))
        .into();
    assert_eq!(event_stream(endpoint, &events), expected);
}

#[test]
fn invoke_streams() {
    let chunk = |data: &Value| {
        let bytes = STANDARD.encode(data.to_string());
        ("chunk", json!({"bytes": bytes}))
    };
    let call = json!({"type": "content_block_start", "index": 0,
        "content_block": {"type": "tool_use", "id": "t", "name": "bash", "input": {}}});
    let stop = json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}});
    let endpoint = Endpoint::Invoke {
        stream: true,
        form: InvokeForm::Messages,
    };
    let went = event_stream(endpoint, &[chunk(&call), chunk(&stop)]);
    let went = went.iter().map(|(kind, data)| {
        assert_eq!(kind, "chunk");
        let bytes = STANDARD.decode(data["bytes"].as_str().unwrap()).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    });
    let went: Vec<Value> = went.collect();
    assert_eq!(
        went[0]["content_block"],
        json!({"type": "text", "text": ""})
    );
    assert_eq!(went[1]["delta"]["text"], json!(SENTENCE));
    assert_eq!(went[2]["delta"]["stop_reason"], json!("end_turn"));
}

/// What has an event inside of it, encoded, is looked into where it comes in messages of AWS's alone.
#[test]
fn what_is_encoded_passes_in_messages_alone() {
    let form = InvokeForm::Messages;
    let endpoint = Endpoint::Invoke { stream: true, form };
    let call = json!({"type": "content_block_start", "index": 0,
        "content_block": {"type": "tool_use", "id": "t", "name": "bash", "input": {}}});
    let chunk = json!({"bytes": STANDARD.encode(call.to_string())});
    let event = format!("data: {chunk}\n\n");
    assert_eq!(cutter(endpoint).sse(event.as_bytes()), Err(Uncut::Form));
    let line = chunk.to_string();
    assert_eq!(cutter(endpoint).message(line.as_bytes()), Err(Uncut::Form));
    assert_eq!(document(endpoint, &chunk), Err(Uncut::Form));
}

/// What a model does in a stream of a chat.
#[derive(Clone, Debug)]
enum Does {
    Says(String),
    Begins(&'static str),
    GoesOn(u64),
}

fn does() -> impl Strategy<Value = Vec<Does>> {
    let name = prop::sample::select(vec!["bash", "read", "write"]);
    let one = prop_oneof![
        "[a-z]{0,3}".prop_map(Does::Says),
        name.prop_map(Does::Begins),
        (0..4u64).prop_map(Does::GoesOn),
    ];
    prop::collection::vec(one, 0..12)
}

proptest! {
    /// Calls that are left have all of their arguments, and count from 0 without a gap; nothing is left of the others.
    #[test]
    fn chats_are_left_whole(does in does(), both in any::<bool>()) {
        let mut begun: Vec<(u64, &str, String)> = Vec::new();
        let mut events = Vec::new();
        for it in does {
            match it {
                Does::Says(text) => events.push(chat_event(&json!({"content": text}), None)),
                Does::Begins(name) => {
                    let index = begun.len() as u64;
                    begun.push((index, name, String::new()));
                    let call = json!({"tool_calls": [chat_call(index, name)]});
                    events.push(chat_event(&call, None));
                }
                Does::GoesOn(index) => {
                    let Some((.., arguments)) = begun.iter_mut().find(|it| it.0 == index) else {
                        continue;
                    };
                    let more = events.len().to_string();
                    arguments.push_str(&more);
                    let call = json!({"index": index, "function": {"arguments": more}});
                    events.push(chat_event(&json!({"tool_calls": [call]}), None));
                }
            }
        }
        let mut cutter = cutter(Endpoint::ChatCompletions);
        if both {
            cutter.cut("write".to_owned(), SENTENCE.to_owned());
        }
        let mut left: Vec<(String, String)> = Vec::new();
        for event in &events {
            let message = event.to_string();
            let instead = cutter.message(message.as_bytes()).unwrap();
            for event in instead.unwrap_or_else(|| vec![message]) {
                let event: Value = event.parse().unwrap();
                let calls = event["choices"][0]["delta"]["tool_calls"].as_array().cloned();
                for call in calls.unwrap_or_default() {
                    let index = usize::try_from(call["index"].as_u64().unwrap()).unwrap();
                    if let Some(name) = call["function"]["name"].as_str() {
                        prop_assert_eq!(index, left.len());
                        left.push((name.to_owned(), String::new()));
                    }
                    left[index].1.push_str(call["function"]["arguments"].as_str().unwrap());
                }
            }
        }
        begun.retain(|(_, name, _)| *name != "bash" && !(both && *name == "write"));
        let begun = begun.into_iter().map(|(_, name, arguments)| (name.to_owned(), arguments));
        prop_assert_eq!(left, begun.collect::<Vec<_>>());
    }
}

/// Some servers give all calls one place, and each an id.
#[test]
fn calls_at_one_place_are_told_apart_by_their_ids() {
    let call = |id: &str, name: &str| json!({"index": 0, "id": id, "type": "function", "function": {"name": name, "arguments": "{}"}});
    let answer = |calls: &[Value], finish: &str| {
        let message = json!({"role": "assistant", "content": "", "tool_calls": calls});
        json!({"choices": [{"index": 0, "message": message, "finish_reason": finish}]})
    };
    let (bash, read, write) = (call("a", "bash"), call("b", "read"), call("c", "write"));
    let endpoint = Endpoint::ChatCompletions;
    for calls in [[bash.clone(), read.clone()], [read.clone(), bash.clone()]] {
        let came = answer(&calls, "tool_calls");
        let mut reader = AnswerReader::new(endpoint);
        reader.whole(came.to_string().as_bytes());
        reader.whole_ends();
        assert_eq!(reader.asks().unwrap().len(), 2);
        let went = document(endpoint, &came).unwrap();
        let left = &went["choices"][0]["message"]["tool_calls"];
        assert_eq!(*left, json!([read]));
    }
    let events =
        [&read, &bash, &write].map(|call| chat_event(&json!({"tool_calls": [call]}), None));
    let mut moved = write.clone();
    moved["index"] = json!(1);
    assert_eq!(
        data(endpoint, &events),
        [
            events[0].clone(),
            chat_event(&json!({"content": SENTENCE}), None),
            chat_event(&json!({"tool_calls": [moved]}), None),
        ]
    );
    // Without anything to cut they stay where they are, and are known.
    let events = [&read, &write].map(|call| chat_event(&json!({"tool_calls": [call]}), None));
    assert_eq!(data(endpoint, &events), events);
    // So is what some clients make of them.
    let asks = answered(endpoint, &events).unwrap();
    assert_eq!(asks, ["read", "write", "readwrite"]);
}

/// What an answer asks for, event by event.
fn answered(endpoint: Endpoint, events: &[Value]) -> Result<Vec<String>, NotUnderstood> {
    let mut reader = AnswerReader::new(endpoint);
    for event in events {
        reader.data(event.to_string().as_bytes());
        reader.event_ends(&[]);
    }
    reader.asks()
}

/// Wherever a client may find a call it is seen, or the answer cannot be read; and nothing of it is left behind.
#[test]
fn calls_in_odd_places_are_seen_and_not_passed_on() {
    let long = "b".repeat(257);
    let function = |name: &str| json!({"name": name, "arguments": "{}"});
    let gemini = |call: &str| json!({"candidates": [{"content": {"parts": [{call: {"name": "bash", "args": {}}}]}}]});
    let use_of = |name: &str| json!({"type": "tool_use", "id": "t", "name": name, "input": {}});
    let read = item("read", "completed");
    let response = |output: Value| json!({"type": "response.completed", "response": {"status": "completed", "output": output}});
    let of = |kind: &str, index: u64, item: &Value| json!({"type": kind, "output_index": index, "item": item});
    let cohere =
        |call: Value| json!({"event_type": "stream-end", "response": {"tool_calls": [call]}});
    let streaming = Endpoint::GenerateContent { stream: true };
    for (endpoint, events) in [
        (streaming, vec![gemini("function_call")]),
        (
            Endpoint::Messages,
            vec![json!({"type": "message_start", "message": {"content": [use_of("bash")]}})],
        ),
        (
            Endpoint::Messages,
            vec![json!({"type": "message", "content": [use_of("bash")]})],
        ),
        (
            Endpoint::Responses,
            vec![json!({"object": "response", "output": [item("bash", "completed")]})],
        ),
        // Beside one that was told before.
        (
            Endpoint::Responses,
            vec![
                of("response.output_item.done", 0, &read),
                response(
                    json!([read, {"type": "function_call", "id": "fc_8", "call_id": "call_8", "name": "bash", "arguments": "{}"}]),
                ),
            ],
        ),
        (
            Endpoint::Responses,
            vec![of(
                "response.output_item.added",
                0,
                &json!({"type": "mcp_approval_request", "id": "mcpr_1", "name": "bash", "arguments": "{}"}),
            )],
        ),
        (
            Endpoint::CohereChat,
            vec![cohere(json!({"name": "bash", "parameters": {}}))],
        ),
        (
            Endpoint::CohereChat,
            vec![
                json!({"event_type": "tool-calls-chunk", "tool_call_delta": {"index": 0, "name": "bash"}}),
            ],
        ),
        (
            Endpoint::CohereChat,
            vec![
                json!({"event_type": "tool-call-start", "index": 0, "delta": {"message": {"tool_calls": {"id": "t", "function": function("bash")}}}}),
            ],
        ),
        (
            Endpoint::ChatCompletions,
            vec![chat_event(
                &json!({"tool_calls": [chat_call(0, "bash")], "function_call": function("read")}),
                None,
            )],
        ),
    ] {
        let asks = answered(endpoint, &events).unwrap();
        assert!(asks.iter().any(|tool| tool == "bash"), "{events:?}");
        if let Ok(went) = stream(endpoint, &events) {
            let went = format!("{went:?}");
            assert!(!went.contains("\"bash\""), "{went}");
        }
    }
    // Of a name that is not kept nobody knows which tool it is.
    for (endpoint, event) in [
        (
            Endpoint::ChatCompletions,
            chat_event(&json!({"tool_calls": [chat_call(0, &long)]}), None),
        ),
        (
            Endpoint::Messages,
            json!({"type": "content_block_start", "index": 0, "content_block": use_of(&long)}),
        ),
        (
            Endpoint::Responses,
            of("response.output_item.added", 0, &item(&long, "in_progress")),
        ),
        (
            Endpoint::Responses,
            of("response.output_item.added", 0, &item("", "in_progress")),
        ),
        (
            streaming,
            json!({"candidates": [{"content": {"parts": [{"functionCall": {"name": long}}]}}]}),
        ),
        (
            Endpoint::OllamaChat,
            json!({"message": {"tool_calls": [{"function": {"name": long, "arguments": {}}}]}}),
        ),
        (
            Endpoint::CohereChat,
            json!({"type": "tool-call-start", "index": 0, "delta": {"message": {"tool_calls": {"function": function(&long)}}}}),
        ),
    ] {
        assert!(
            answered(endpoint, std::slice::from_ref(&event)).is_err(),
            "{event}"
        );
    }
}

/// Where a reader found a call that is cut and the form does not, nothing passes.
/// What stands in two places that clients look at is not understood, whichever of them they take.
#[test]
fn a_call_that_is_told_in_two_places_is_not_understood() {
    let look = json!({"name": "look", "arguments": "{}"});
    let bash = json!({"name": "bash", "arguments": "{}"});
    let call = item("bash", "completed");
    let done = "response.output_item.done";
    let message = json!({"type": "message"});
    let block = json!({"type": "tool_use", "id": "t", "name": "bash", "input": {}});
    let text = json!([{"type": "text"}]);
    let start = json!({"message": {"tool_calls": {"function": bash}}});
    for (endpoint, event) in [
        (
            Endpoint::ChatCompletions,
            json!({"choices": [{"message": {"tool_calls": [{"function": bash, "custom": look}]}}]}),
        ),
        (
            Endpoint::Responses,
            json!({"type": done, "item": call, "response": {"output": [message]}}),
        ),
        (
            Endpoint::Responses,
            json!({"type": done, "item": call, "response": {"item": message}}),
        ),
        (
            Endpoint::Messages,
            json!({"type": "content_block_start", "index": 0, "content_block": block, "content": text}),
        ),
        (
            Endpoint::Messages,
            json!({"type": "content_block_start", "index": 0, "content_block": block, "message": {"content": text}}),
        ),
        (
            Endpoint::Messages,
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "t"}}),
        ),
        (
            Endpoint::CohereChat,
            json!({"type": "tool-call-start", "event_type": "x", "index": 0, "delta": start}),
        ),
        (
            Endpoint::CohereChat,
            json!({"message": {"tool_calls": [{"function": bash, "name": "look"}]}}),
        ),
        (
            Endpoint::CohereChat,
            json!({"type": "tool-call-start", "index": 0, "delta": start, "tool_calls": [look]}),
        ),
        (
            Endpoint::OllamaChat,
            json!({"message": {"tool_calls": [{"function": {"arguments": {}}}]}}),
        ),
    ] {
        let asks = answered(endpoint, std::slice::from_ref(&event));
        assert!(
            asks.is_err() || asks.is_ok_and(|asks| asks.iter().any(|it| it == "bash")),
            "{event}"
        );
    }
    for beside in [
        r#""content":[{"type":"text"}]"#,
        r#""message":{"content":[{"type":"text"}]}"#,
    ] {
        let event = format!(
            r#"{{"type":"content_block_start","index":0,"content_block":{block},{beside}}}"#
        );
        let mut reader = AnswerReader::new(Endpoint::Messages);
        reader.data(event.as_bytes());
        reader.event_ends(&[]);
        assert!(reader.asks().is_err(), "{event}");
    }
    let event = json!({"contentBlockIndex": 0, "start": {"toolUse": {"name": "bash"}},
        "output": {"message": {"content": [{"toolUse": {"name": "look"}}]}}});
    let mut reader = AnswerReader::new(Endpoint::Converse { stream: true });
    reader.event_begins(&eventstream::Head {
        event: Some("contentBlockStart"),
        ..eventstream::Head::default()
    });
    reader.data(event.to_string().as_bytes());
    reader.event_ends(&[]);
    assert!(reader.asks().is_err());
}

/// Some clients join the names that come at one place, whatever the ids beside them.
#[test]
fn names_that_some_clients_join_are_asked_about_joined() {
    let piece = |id: &str, name: &str| {
        let call = json!({"index": 0, "id": id, "function": {"name": name, "arguments": ""}});
        chat_event(&json!({"tool_calls": [call]}), None)
    };
    let events = [piece("a", "ba"), piece("b", "sh")];
    let asks = answered(Endpoint::ChatCompletions, &events).unwrap();
    assert_eq!(asks, ["ba", "sh", "bash"]);
    assert_eq!(
        stream(Endpoint::ChatCompletions, &events),
        Err(Uncut::Still)
    );
}

/// The provider's own tools are called by their type, whatever name stands beside.
#[test]
fn a_tool_of_the_provider_s_has_no_name_but_its_type() {
    let item = json!({"type": "local_shell_call", "id": "l", "call_id": "c", "name": "look", "action": {}});
    let event = json!({"type": "response.output_item.done", "output_index": 0, "item": item});
    assert_eq!(
        answered(Endpoint::Responses, &[event]).unwrap(),
        ["local_shell"]
    );
}

/// Some clients take the type of an event from beside its data.
#[test]
fn a_type_that_stands_beside_the_data_alone_counts() {
    let block = json!({"index": 0, "content_block": {"type": "tool_use", "id": "t", "name": "bash", "input": {}}});
    let added = json!({"output_index": 0, "item": item("bash", "in_progress")});
    for (endpoint, kind, data) in [
        (Endpoint::Messages, "content_block_start", block),
        (Endpoint::Responses, "response.output_item.added", added),
    ] {
        let event = format!("event: {kind}\ndata: {data}\n\n");
        let mut reader = AnswerReader::new(endpoint);
        reader.data(data.to_string().as_bytes());
        reader.event_ends(kind.as_bytes());
        assert_eq!(reader.asks().unwrap(), ["bash"]);
        let went = cutter(endpoint).sse(event.as_bytes()).unwrap().unwrap();
        let went = String::from_utf8(went).unwrap();
        assert!(!went.contains("bash"), "{went}");
    }
}

#[test]
fn what_goes_as_it_came_has_nothing_that_is_cut() {
    let event = json!({"output": {"message": {"content": [{"toolUse": {"toolUseId": "t", "name": "bash", "input": {}}}]}}});
    for headers in [
        &[(":event-type", "metadata"), (":message-type", "event")][..],
        &[(":event-type", "metadata")],
    ] {
        let message = eventstream::message(headers, event.to_string().as_bytes()).unwrap();
        let went = cutter(Endpoint::Converse { stream: true }).event_stream(&message);
        assert_eq!(went, Err(Uncut::Still));
    }
    // One that does not say what it is, is an event.
    let start =
        json!({"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": "t", "name": "bash"}}});
    for kind in [
        &[(":event-type", "contentBlockStart")][..],
        &[
            (":event-type", "contentBlockStart"),
            (":message-type", "EVENT"),
        ],
    ] {
        let message = eventstream::message(kind, start.to_string().as_bytes()).unwrap();
        let went = cutter(Endpoint::Converse { stream: true }).event_stream(&message);
        assert!(went.unwrap().is_some());
    }
}

/// Of calls that are asked for together the first has a signature, which has to come back.
#[test]
fn the_signature_of_a_call_of_gemini_s_goes_to_the_next() {
    let endpoint = Endpoint::GenerateContent { stream: true };
    let call = |name: &str| json!({"functionCall": {"name": name, "args": {}}});
    let signed = |name: &str| json!({"functionCall": {"name": name, "args": {}}, "thoughtSignature": "c2ln"});
    let answer = |parts: Value| json!({"candidates": [{"content": {"parts": parts}}]});
    let said = json!({"text": SENTENCE});
    let came = answer(json!([signed("bash"), call("read"), call("write")]));
    let went = answer(json!([said, signed("read"), call("write")]));
    assert_eq!(document(endpoint, &came), Ok(went));
    let events = [
        answer(json!([signed("bash")])),
        answer(json!([call("read")])),
    ];
    let went = [answer(json!([said])), answer(json!([signed("read")]))];
    assert_eq!(data(endpoint, &events), went);
}

/// A place is used again by some servers: what was cut out there takes nothing of the next one along.
#[test]
fn a_place_is_used_again() {
    let block =
        |block: Value| json!({"type": "content_block_start", "index": 0, "content_block": block});
    let more = json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}});
    let events = [
        block(json!({"type": "tool_use", "id": "t", "name": "bash", "input": {}})),
        block(json!({"type": "text", "text": ""})),
        more.clone(),
    ];
    assert_eq!(data(Endpoint::Messages, &events)[3..], [more]);
}

/// More of an item is known by its id as well.
#[test]
fn more_of_an_item_has_no_place() {
    let added = json!({"type": "response.output_item.added", "item": item("bash", "in_progress")});
    let more = json!({"type": "response.function_call_arguments.delta", "item_id": "fc_7", "delta": "SECRET"});
    let went = data(Endpoint::Responses, &[added, more]);
    assert!(!format!("{went:?}").contains("SECRET"));
}

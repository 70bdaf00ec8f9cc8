use agentguard_model::{Demand, LlmAnswer, Usage};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    ClientEvent, ClientReader, Given, Heard, Limit, Of, Offer, Replies, ServerReader, Session,
    model_of,
};
use crate::llm::{Call, NotUnderstood};

/// Reads an event, in any pieces alike.
fn client(text: &str) -> Result<ClientEvent, NotUnderstood> {
    let in_pieces = |size: usize| {
        let mut reader = ClientReader::default();
        for piece in text.as_bytes().chunks(size) {
            reader.push(piece)?;
        }
        reader.finish()
    };
    let whole = in_pieces(usize::MAX);
    let split = in_pieces(1);
    assert_eq!(split.is_ok(), whole.is_ok(), "{text}");
    if whole.is_ok() {
        assert_eq!(split, whole);
    }
    whole
}

fn server(event: &Value) -> Heard {
    let text = event.to_string();
    let mut reader = ServerReader::default();
    for piece in text.as_bytes().chunks(7) {
        reader.push(piece).unwrap();
    }
    reader.finish().unwrap()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn the_model_is_asked_for_in_the_query() {
    let model = |name: &str| Ok(Some(name.to_owned()));
    for (query, expected) in [
        ("model=gpt-realtime", model("gpt-realtime")),
        ("model=a%2Db+c", model("a-b c")),
        (
            "api-version=2025-04-01-preview&deployment=ours&api-key=x",
            model("ours"),
        ),
        ("", Ok(None)),
        ("model=", Err(NotUnderstood::Wrong("model"))),
        ("model=a&model=a", Err(NotUnderstood::Wrong("model"))),
        ("model=a&deployment=b", Err(NotUnderstood::Wrong("model"))),
        ("model=%ff", Err(NotUnderstood::Parameter)),
        ("Model=a", Err(NotUnderstood::Parameter)),
        ("call_id=rtc_1", Err(NotUnderstood::Parameter)),
        ("intent=transcription", Err(NotUnderstood::Parameter)),
    ] {
        assert_eq!(model_of(query), expected, "{query}");
    }
    let long = format!("model={}", "x".repeat(257));
    assert_eq!(model_of(&long), Err(NotUnderstood::Long("model")));
}

/// As the generally available API has it, and as the beta had it.
#[test]
fn a_session_is_given_tools_and_a_limit() {
    let function = json!({ "type": "function", "name": "look", "description": "It looks.",
        "parameters": { "type": "object", "properties": { "name": { "type": "string" } } } });
    let mcp =
        json!({ "type": "mcp", "server_label": "files", "server_url": "https://mcp.example" });
    let event = json!({ "event_id": "event_7", "type": "session.update", "session": {
        "type": "realtime", "model": "gpt-realtime", "instructions": "\"tools\": []",
        "tools": [function, mcp], "tool_choice": "auto", "max_output_tokens": 200,
        "audio": { "input": { "transcription": { "model": "whisper-1" }, "turn_detection": { "type": "server_vad" } } } } });
    let given = Given {
        model: Some("gpt-realtime".to_owned()),
        tools: names(&["look", "files", "mcp"]),
        all: true,
        limit: Some(Limit::Tokens(200)),
        user: None,
        demand: Demand {
            serves_tools: true,
            parts: 3,
            ..Demand::default()
        },
    };
    let read = ClientEvent {
        of: Of::Session,
        given,
        transcriber: Some("whisper-1".to_owned()),
        id: Some("event_7".to_owned()),
    };
    assert_eq!(client(&event.to_string()), Ok(read));

    let beta = json!({ "session": { "modalities": ["text"], "tools": [function],
        "max_response_output_tokens": "inf", "input_audio_transcription": { "model": "whisper-1" },
        "turn_detection": null }, "type": "session.update" });
    let read = client(&beta.to_string()).unwrap();
    assert_eq!(read.given.tools, ["look"]);
    assert_eq!(read.given.limit, Some(Limit::Endless));
    assert_eq!(read.transcriber.as_deref(), Some("whisper-1"));

    for (session, all, limit) in [
        (json!({}), false, None),
        (json!({ "tools": null }), false, None),
        (json!({ "tools": [] }), true, None),
        (
            json!({ "max_output_tokens": null }),
            false,
            Some(Limit::Endless),
        ),
        (
            json!({ "max_output_tokens": 1, "max_response_output_tokens": 2 }),
            false,
            Some(Limit::Tokens(2)),
        ),
    ] {
        let event = json!({ "type": "session.update", "session": session });
        let given = client(&event.to_string()).unwrap().given;
        assert_eq!((given.all, given.limit), (all, limit), "{event}");
    }
}

#[test]
fn a_response_may_be_given_what_is_its_own() {
    let bare = client(r#"{"type":"response.create"}"#).unwrap();
    assert_eq!((bare.of, bare.given), (Of::Response, Given::default()));
    let null = client(r#"{"type":"response.create","response":null}"#);
    assert_eq!(null.unwrap().of, Of::Response);
    let event = json!({ "type": "response.create", "response": { "conversation": "none",
        "tools": [{ "type": "function", "name": "own" }], "max_output_tokens": 9,
        "input": [{ "type": "mcp_list_tools", "server_label": "files",
            "tools": [{ "name": "read", "input_schema": {} }] }] } });
    let given = client(&event.to_string()).unwrap().given;
    let tools = given.tools.iter().map(String::as_str);
    assert_eq!(
        tools.collect::<std::collections::BTreeSet<_>>(),
        ["own", "read"].into()
    );
    assert_eq!((given.all, given.limit), (true, Some(Limit::Tokens(9))));
    let item = json!({ "type": "conversation.item.create", "item": { "type": "mcp_list_tools",
        "server_label": "files", "tools": [{ "name": "read", "input_schema": {} }] } });
    let read = client(&item.to_string()).unwrap();
    assert_eq!((read.of, read.given.tools), (Of::Beside, names(&["read"])));
}

#[test]
fn what_asks_for_nothing_goes_to_the_session_that_there_is() {
    for text in [
        r#"{"type":"input_audio_buffer.append","audio":"AAAA"}"#,
        r#"{"type":"input_audio_buffer.commit","event_id":null}"#,
        r#"{"type":"input_audio_buffer.clear"}"#,
        r#"{"type":"output_audio_buffer.clear"}"#,
        r#"{"type":"response.cancel","response_id":"resp_1"}"#,
        r#"{"type":"conversation.item.delete","item_id":"item_1"}"#,
        r#"{"type":"conversation.item.retrieve","item_id":"item_1"}"#,
        r#"{"type":"conversation.item.truncate","item_id":"item_1","content_index":0,"audio_end_ms":7}"#,
        r#"{"type":"conversation.item.create","item":{"type":"function_call_output","call_id":"c1","output":"{\"tools\":1}"}}"#,
        r#"{"item":{"type":"message","role":"user","content":[{"type":"input_text","text":"hi"}]},"type":"conversation.item.create"}"#,
    ] {
        let read = client(text).unwrap();
        assert_eq!(
            (read.of, read.given),
            (Of::Beside, Given::default()),
            "{text}"
        );
    }
}

#[test]
fn an_event_that_could_be_read_in_two_ways_is_not_read() {
    let message = NotUnderstood::Message;
    for (text, why) in [
        ("{}", message.clone()),
        (
            r#"{"type":"session.updated","session":{}}"#,
            message.clone(),
        ),
        (r#"{"type":"session.update"}"#, message.clone()),
        (
            r#"{"type":"transcription_session.update","session":{}}"#,
            message.clone(),
        ),
        (r#"{"type":"Session.Update","session":{}}"#, message.clone()),
        (
            r#"{"type":"response.cancel","response":{}}"#,
            message.clone(),
        ),
        (
            r#"{"type":"input_audio_buffer.append","session":{"tools":[]}}"#,
            message.clone(),
        ),
        (
            r#"{"type":"response.create","session":{},"response":{}}"#,
            message.clone(),
        ),
        (r#"{"type":"conversation.item.create"}"#, message),
        (
            r#"{"type":"session.update","session":[]}"#,
            NotUnderstood::Wrong("session"),
        ),
        (
            r#"{"type":"session.update","session":null}"#,
            NotUnderstood::Wrong("session"),
        ),
        (
            r#"{"type":"response.create","response":"x"}"#,
            NotUnderstood::Wrong("response"),
        ),
        (
            r#"{"type":"response.create","response":{"model":"x"}}"#,
            NotUnderstood::Wrong("model"),
        ),
        (r#"{"type":7}"#, NotUnderstood::Wrong("type")),
        (
            r#"{"type":"session.update","session":{"type":"transcription"}}"#,
            NotUnderstood::Session,
        ),
        (
            r#"{"type":"session.update","session":{"type":""}}"#,
            NotUnderstood::Session,
        ),
        (
            r#"{"type":"session.update","Session":{}}"#,
            NotUnderstood::Case("session"),
        ),
        (
            r#"{"type":"session.update","session":{"Tools":[]}}"#,
            NotUnderstood::Case("tools"),
        ),
        (
            r#"{"type":"session.update","session":{"Max_Response_Output_Tokens":1}}"#,
            NotUnderstood::Case("max_response_output_tokens"),
        ),
        (
            r#"{"type":"session.update","session":{"audio":{"Input":{}}}}"#,
            NotUnderstood::Case("input"),
        ),
        (
            r#"{"type":"session.update","session":{"max_output_tokens":"info"}}"#,
            NotUnderstood::Wrong("max_output_tokens"),
        ),
        (
            r#"{"type":"session.update","session":{"max_output_tokens":1.5}}"#,
            NotUnderstood::Wrong("max_output_tokens"),
        ),
        (
            r#"{"type":"session.update","session":{"tools":[{"name":"a","function":{"name":"b"}}]}}"#,
            NotUnderstood::Wrong("tools"),
        ),
        (
            r#"{"type":"conversation.item.create","item":{"Tools":[]}}"#,
            NotUnderstood::Case("tools"),
        ),
        (
            r#"{"type":"session.update","session":{"audio":{"input":{"transcription":{"model":"a"}}},"input_audio_transcription":{"model":"b"}}}"#,
            NotUnderstood::Wrong("transcription"),
        ),
        ("[]", NotUnderstood::NoObject),
    ] {
        assert_eq!(client(text), Err(why), "{text}");
    }
    for text in [
        r#"{"type":"response.create","type":"response.cancel"}"#,
        r#"{"type":"session.update","session":{"tools":[],"tools":[{"name":"x"}]}}"#,
        r#"{"type":"response.create""#,
    ] {
        let read = client(text);
        assert!(matches!(read, Err(NotUnderstood::Json(_))), "{read:?}");
    }
}

fn given(tools: Option<&[&str]>, limit: Option<u64>) -> Given {
    Given {
        tools: names(tools.unwrap_or_default()),
        all: tools.is_some(),
        limit: limit.map(Limit::Tokens),
        ..Given::default()
    }
}

fn offer(tools: &[&str], limit: Option<u64>) -> Offer {
    Offer {
        tools: names(tools),
        limit: limit.map_or(Limit::Endless, Limit::Tokens),
    }
}

#[test]
fn what_a_session_offers_is_never_thought_to_be_less() {
    let mut session = Session::new(Some("gpt-realtime".to_owned()));
    assert_eq!(session.offers(), offer(&[], None));
    assert!(session.is_awaited());
    session.told(Ok(given(Some(&["there"]), None)), false);
    let first = given(Some(&["look"]), Some(50));
    let call = session.call(&first).unwrap();
    let expected = Call {
        model: Some("gpt-realtime".to_owned()),
        stream: true,
        max_output_tokens: Some(50),
        tools: names(&["look"]),
        user: None,
        beside: None,
        demand: Demand {
            refers: true,
            parts: 1,
            ..Demand::default()
        },
    };
    assert_eq!(call, expected);
    session.sent_update(&first).unwrap();
    assert!(session.is_awaited());
    // The server may not have taken it.
    assert_eq!(session.offers(), offer(&["there", "look"], None));
    let own = session.call(&given(None, Some(9))).unwrap();
    assert_eq!(own.tools, ["there", "look"]);
    assert_eq!(own.max_output_tokens, Some(9));
    session.told(Ok(given(Some(&["look"]), Some(50))), true);
    assert!(session.is_settled());
    assert_eq!(session.offers(), offer(&["look"], Some(50)));

    assert!(!session.is_awaited());
    // One that is not taken counts on.
    session
        .sent_update(&given(Some(&["shell"]), Some(60)))
        .unwrap();
    session
        .sent_update(&given(Some(&["other"]), Some(7)))
        .unwrap();
    session.failed();
    assert!(session.is_awaited());
    session.told(Ok(given(Some(&["other"]), Some(7))), true);
    assert!(!session.is_awaited() && !session.is_settled());
    assert_eq!(session.offers(), offer(&["other", "shell"], Some(60)));
    assert!(offer(&["shell"], Some(50)).is_within(&session.offers()));
    assert!(!offer(&["shell"], None).is_within(&session.offers()));
    assert!(!offer(&["look"], Some(5)).is_within(&session.offers()));
    session.told(Ok(given(Some(&["other"]), Some(7))), true);
    assert_eq!(session.offers(), offer(&["other"], Some(7)));

    // What stands in the conversation stays.
    session.sent_item(&names(&["read"])).unwrap();
    let none = session.call(&given(Some(&[]), None)).unwrap();
    assert_eq!(none.tools, ["read"]);

    session.told(Err(NotUnderstood::Offered), true);
    assert_eq!(session.call(&Given::default()), Err(NotUnderstood::Offered));
}

#[test]
fn what_a_session_was_ever_given_counts_for_what_it_may_use() {
    let mut session = Session::new(None);
    let asks = |session: &Session| {
        let demand = session.call(&Given::default()).unwrap().demand;
        (demand.reasons, demand.serves_tools)
    };
    assert_eq!(asks(&session), (None, false));
    let reasons =
        r#"{"type":"session.update","session":{"type":"realtime","reasoning":{"effort":"low"}}}"#;
    session
        .sent_update(&client(reasons).unwrap().given)
        .unwrap();
    assert_eq!(asks(&session), (Some(true), false));
    session.told(Ok(given(Some(&[]), None)), true);
    assert_eq!(asks(&session), (Some(true), false));
    session.sent_item(&names(&["files"])).unwrap();
    assert_eq!(asks(&session), (Some(true), true));
}

#[test]
fn what_is_known_of_a_session_has_an_end() {
    let many = |from: usize| Given {
        tools: (from..from + 600)
            .map(|nth| format!("tool_{nth}"))
            .collect(),
        all: true,
        ..Given::default()
    };
    let mut session = Session::new(None);
    session.sent_update(&many(0)).unwrap();
    assert_eq!(session.sent_update(&many(600)), Err(NotUnderstood::Offered));
    assert_eq!(session.offers().tools.len(), 600);
    session.sent_item(&many(0).tools).unwrap();
    let items = session.sent_item(&many(600).tools);
    assert_eq!(items, Err(NotUnderstood::Offered));
    session.sent_unknown(NotUnderstood::Offered);
    assert!(session.call(&Given::default()).is_err());
}

#[test]
fn a_model_that_an_update_names_counts_once_it_was_taken() {
    let named = |name: &str| Given {
        model: Some(name.to_owned()),
        ..Given::default()
    };
    let mut session = Session::new(None);
    let model = |session: &Session, given: &Given| session.call(given).unwrap().model;
    assert_eq!(model(&session, &named("small")).as_deref(), Some("small"));
    session.sent_update(&named("small")).unwrap();
    assert_eq!(model(&session, &Given::default()), None);
    let wrong = Err(NotUnderstood::Wrong("model"));
    assert_eq!(session.call(&named("large")), wrong);
    session.told(Ok(given(Some(&[]), None)), true);
    assert_eq!(model(&session, &Given::default()).as_deref(), Some("small"));
    assert_eq!(session.call(&named("large")), wrong);
    assert!(session.call(&named("small")).is_ok());
}

fn told(replies: Replies) -> LlmAnswer {
    replies.finish()
}

fn hear(replies: &mut Replies, event: &Value) {
    match server(event) {
        Heard::Reply(reply) => replies.hear(*reply, Some("gpt-realtime-2025-08-28")),
        other => panic!("{other:?}"),
    }
}

fn digest(text: &str) -> String {
    let digest = Sha256::digest(text);
    let digits = digest.iter().map(|byte| format!("{byte:02x}"));
    format!("sha256:{}", digits.collect::<String>())
}

/// The events of a response that calls a function.
fn events(id: &str, input: u64) -> Vec<Value> {
    let arguments = r#"{"place":"here"}"#;
    let item = |arguments: &str, status: &str| {
        json!({ "id": "item_1", "object": "realtime.item", "type": "function_call", "status": status,
        "name": "look", "call_id": "call_1", "arguments": arguments })
    };
    let usage = json!({ "total_tokens": input + 5, "input_tokens": input, "output_tokens": 5,
        "input_token_details": { "text_tokens": input - 1, "audio_tokens": 1, "cached_tokens": 2,
            "cached_tokens_details": { "text_tokens": 2 } },
        "output_token_details": { "text_tokens": 5, "audio_tokens": 0 } });
    let delta = |piece: &str| {
        json!({ "type": "response.function_call_arguments.delta", "event_id": "e3",
        "response_id": id, "item_id": "item_1", "output_index": 0, "call_id": "call_1", "delta": piece })
    };
    vec![
        json!({ "type": "response.created", "event_id": "e1", "response": { "object": "realtime.response",
            "id": id, "status": "in_progress", "status_details": null, "output": [], "usage": null } }),
        json!({ "type": "response.output_item.added", "event_id": "e2", "response_id": id,
            "output_index": 0, "item": item("", "in_progress") }),
        delta(&arguments[..6]),
        delta(&arguments[6..]),
        json!({ "type": "response.function_call_arguments.done", "event_id": "e4", "response_id": id,
            "item_id": "item_1", "output_index": 0, "call_id": "call_1", "name": "look", "arguments": arguments }),
        json!({ "type": "response.output_item.done", "event_id": "e5", "response_id": id,
            "output_index": 0, "item": item(arguments, "completed") }),
        json!({ "type": "response.done", "event_id": "e6", "response": { "object": "realtime.response",
            "id": id, "status": "completed", "status_details": null,
            "output": [item(arguments, "completed")], "usage": usage } }),
    ]
}

/// However far it came, and whatever is left out of it.
#[test]
fn tool_calls_and_tokens_of_a_response_are_told() {
    let all = events("resp_1", 10);
    for (skipped, called, whole) in [
        (vec![], true, true),
        (vec![1, 2, 3, 4, 5], true, true),
        (vec![1, 4], true, true),
        (vec![5, 6], true, true),
        (vec![1, 2, 3, 5, 6], true, true),
        (vec![2, 3, 4, 5, 6], true, false),
        (vec![1, 2, 3, 4, 5, 6], false, false),
    ] {
        let mut replies = Replies::default();
        for (nth, event) in all.iter().enumerate() {
            if !skipped.contains(&nth) {
                hear(&mut replies, event);
            }
        }
        let said = told(replies);
        assert_eq!(said.model.as_deref(), Some("gpt-realtime-2025-08-28"));
        let calls: Vec<_> = said.tool_calls.iter().collect();
        assert_eq!(calls.len(), usize::from(called), "{skipped:?}");
        if let [call] = calls[..] {
            assert_eq!(call.name, "look");
            assert_eq!(call.id.as_deref(), Some("call_1"));
            let arguments = whole.then(|| digest(r#"{"place":"here"}"#));
            assert_eq!(call.arguments, arguments, "{skipped:?}");
        }
        let done = !skipped.contains(&6);
        assert_eq!(said.finish_reason.as_deref(), done.then_some("completed"));
        let usage = Usage {
            input_tokens: Some(10),
            cache_read_tokens: Some(2),
            audio_input_tokens: Some(1),
            output_tokens: Some(5),
            audio_output_tokens: Some(0),
            ..Usage::default()
        };
        assert_eq!(said.usage, done.then_some(usage));
        assert_eq!(said.not_understood, None);
    }
}

/// In any order in which the events of each keep theirs.
#[test]
fn responses_of_one_session_are_told_together() {
    let (one, two) = (events("resp_1", 10), events("resp_2", 20));
    let mut seed = 1_u64;
    for _ in 0..50 {
        let mut replies = Replies::default();
        let (mut one, mut two) = (one.iter().peekable(), two.iter().peekable());
        while one.peek().is_some() || two.peek().is_some() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let first = two.peek().is_none() || one.peek().is_some() && seed >> 63 == 0;
            let next = if first { one.next() } else { two.next() };
            hear(&mut replies, next.unwrap());
        }
        assert_eq!(replies.asks(), Ok(Vec::new()));
        let said = told(replies);
        let usage = said.usage.unwrap();
        assert_eq!(
            (usage.input_tokens, usage.output_tokens),
            (Some(30), Some(10))
        );
        assert_eq!(usage.cache_read_tokens, Some(4));
        assert_eq!(usage.audio_input_tokens, Some(2));
        assert_eq!(said.tool_calls.len(), 2);
    }
}

/// What began under one decision may end under the next.
#[test]
fn responses_go_on_where_they_belong_to_another_decision() {
    let (mut before, mut after) = (Replies::default(), Replies::default());
    let events = events("resp_1", 10);
    for event in &events[..4] {
        hear(&mut before, event);
    }
    after.take_over(&mut before);
    assert!(after.is_under_way("resp_1") && !before.is_under_way("resp_1"));
    for event in &events[4..] {
        hear(&mut after, event);
    }
    assert_eq!(told(before), LlmAnswer::default());
    let said = told(after);
    assert_eq!((said.tool_calls.len(), said.usage.is_some()), (1, true));
}

#[test]
fn tools_that_are_asked_for_are_known_while_the_response_is_under_way() {
    let mut replies = Replies::default();
    for event in &events("resp_1", 10)[..2] {
        hear(&mut replies, event);
    }
    assert_eq!(replies.asks(), Ok(names(&["look"])));
    replies.give_up(NotUnderstood::Pending);
    assert_eq!(replies.asks(), Err(NotUnderstood::Pending));
    assert!(told(replies).not_understood.is_some());
}

#[test]
fn a_response_says_why_it_came_to_no_end() {
    let done = |status: &str, details: Value| {
        let mut replies = Replies::default();
        hear(
            &mut replies,
            &json!({ "type": "response.done", "response": { "id": "r", "status": status, "status_details": details } }),
        );
        let said = told(replies);
        (said.finish_reason.unwrap(), said.error)
    };
    let some = |text: &str| text.to_owned();
    assert_eq!(
        done(
            "cancelled",
            json!({ "type": "cancelled", "reason": "turn_detected" })
        ),
        (some("turn_detected"), None)
    );
    assert_eq!(
        done(
            "incomplete",
            json!({ "type": "incomplete", "reason": "max_output_tokens" })
        ),
        (some("max_output_tokens"), None)
    );
    let error = json!({ "type": "server_error", "code": "overloaded", "message": "later" });
    assert_eq!(
        done("failed", json!({ "type": "failed", "error": error })),
        (some("failed"), Some(some("overloaded")))
    );
}

#[test]
fn no_client_has_replies_without_an_end() {
    let mut replies = Replies::default();
    for nth in 0..200 {
        for event in &events(&format!("resp_{nth}"), 10)[..6] {
            hear(&mut replies, event);
        }
    }
    let said = told(replies);
    assert_eq!(said.tool_calls.len(), crate::llm::MAX_TOOL_CALLS);
    assert!(said.not_understood.is_some());
}

#[test]
fn other_events_of_a_server_are_told_apart() {
    let created = json!({ "type": "session.created", "session": { "type": "realtime", "object": "realtime.session",
        "id": "sess_1", "model": "gpt-realtime-2025-08-28", "tools": [], "max_output_tokens": "inf",
        "audio": { "input": { "transcription": null } } } });
    match server(&created) {
        Heard::Session {
            told,
            updated: false,
        } => {
            let told = told.unwrap();
            assert_eq!(told.model.as_deref(), Some("gpt-realtime-2025-08-28"));
            assert_eq!((told.all, told.limit), (true, Some(Limit::Endless)));
        }
        other => panic!("{other:?}"),
    }
    let updated = json!({ "type": "session.updated", "session": { "tools": [{}] } });
    assert!(matches!(
        server(&updated),
        Heard::Session {
            told: Err(_),
            updated: true
        }
    ));
    let error = json!({ "type": "error", "event_id": "e", "error": { "type": "invalid_request_error",
        "code": "invalid_value", "message": "no", "param": null, "event_id": "event_7" } });
    match server(&error) {
        Heard::Error { event, error } => {
            assert_eq!(
                (event.as_deref(), error.as_str()),
                (Some("event_7"), "invalid_value")
            );
        }
        other => panic!("{other:?}"),
    }
    let transcribed = json!({ "type": "conversation.item.input_audio_transcription.completed",
        "item_id": "item_1", "transcript": "hi", "usage": { "type": "tokens", "input_tokens": 3, "output_tokens": 4 } });
    match server(&transcribed) {
        Heard::Transcribed(Some(usage)) => {
            assert_eq!(
                (usage.input_tokens, usage.output_tokens),
                (Some(3), Some(4))
            );
        }
        other => panic!("{other:?}"),
    }
    for kind in [
        "rate_limits.updated",
        "conversation.item.added",
        "input_audio_buffer.speech_started",
    ] {
        assert!(
            matches!(server(&json!({ "type": kind })), Heard::Other),
            "{kind}"
        );
    }
}

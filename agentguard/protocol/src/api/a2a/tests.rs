//! Calls of agents in each version and binding, and what is none.

mod answers;

use ::http::{HeaderMap, HeaderValue, Method, header};
use agentguard_model::Tool;
use proptest::prelude::*;

use super::{CallReader, CardReader, Operation, Place, Route, VERSION, card_name, is_of_before};
use crate::api::NotUnderstood as No;
use crate::json::Value;
use crate::jsonrpc;

const POINTERS: [&str; 7] = [
    "/message/parts/0/text",
    "/message/taskId",
    "/id",
    "/taskId",
    "/url",
    "/historyLength",
    "/message/metadata/task_id",
];

fn fields(more: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    let json = HeaderValue::from_static("application/json");
    fields.insert(header::CONTENT_TYPE, json);
    for (name, value) in more {
        fields.insert(*name, HeaderValue::from_static(value));
    }
    fields
}

fn read(method: &Method, target: &str, pieces: &[&[u8]]) -> Result<String, No> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let route = Route::read(method, path)?;
    let mut reader = CallReader::new(&fields(&[]), 64 * 1024);
    for piece in pieces {
        reader.push(piece)?;
    }
    let place = Place {
        server: "planner",
        method,
        route: &route,
        query: Some(query),
    };
    let tool = reader.finish(place, &POINTERS)?;
    assert_eq!(tool.server, "planner");
    let id = tool.id.map(|id| format!("{id} ")).unwrap_or_default();
    let what = tool.name.or(tool.method).unwrap();
    let values = tool.values.iter();
    let values = values.map(|it| format!(" {}={}", it.pointer, it.values.join(",")));
    Ok(format!("{id}{what}{}", values.collect::<String>()))
}

/// The same in one piece, in two, and byte by byte: which fault is seen first may depend on the pieces.
fn one(method: &str, target: &str, content: &str) -> Result<String, No> {
    let method: Method = method.parse().unwrap();
    let content = content.as_bytes();
    let whole = read(&method, target, &[content]);
    for at in 0..content.len() {
        let (one, two) = content.split_at(at);
        let told = read(&method, target, &[one, two]);
        assert_eq!(told.ok(), whole.clone().ok(), "at {at}");
    }
    let bytes: Vec<&[u8]> = content.chunks(1).collect();
    assert_eq!(read(&method, target, &bytes).ok(), whole.clone().ok());
    whole
}

fn rpc(method: &str, params: &str) -> Result<String, No> {
    let content = format!(r#"{{"jsonrpc":"2.0","id":"a","method":"{method}","params":{params}}}"#);
    one("POST", "/agents/planner", &content)
}

#[test]
fn methods_of_each_version_are_the_same_operations() {
    let cases = [
        ("SendMessage", ["message/send", "tasks/send"].as_slice()),
        (
            "SendStreamingMessage",
            &["message/stream", "tasks/sendSubscribe"],
        ),
        ("GetTask", &["tasks/get"]),
        ("ListTasks", &["tasks/list"]),
        ("CancelTask", &["tasks/cancel"]),
        ("SubscribeToTask", &["tasks/resubscribe"]),
        (
            "CreateTaskPushNotificationConfig",
            &[
                "tasks/pushNotificationConfig/set",
                "tasks/pushNotification/set",
            ],
        ),
        (
            "GetTaskPushNotificationConfig",
            &[
                "tasks/pushNotificationConfig/get",
                "tasks/pushNotification/get",
            ],
        ),
        (
            "ListTaskPushNotificationConfigs",
            &["tasks/pushNotificationConfig/list"],
        ),
        (
            "DeleteTaskPushNotificationConfig",
            &["tasks/pushNotificationConfig/delete"],
        ),
        (
            "GetExtendedAgentCard",
            &[
                "agent/getAuthenticatedExtendedCard",
                "agent/authenticatedExtendedCard",
            ],
        ),
    ];
    for (name, older) in cases {
        for method in older.iter().chain([&name]) {
            let told = rpc(method, r#"{"id":"t1"}"#);
            assert_eq!(told, Ok(format!("\"a\" {name} /id=t1")), "{method}");
        }
        assert_eq!(Operation::of_method(name).unwrap().name(), name);
    }
    for method in [
        "sendMessage",
        "message/Send",
        "tools/call",
        "a2a.SendMessage",
    ] {
        assert_eq!(rpc(method, "{}"), Err(No::Operation), "{method}");
    }
}

#[test]
fn a_message_has_its_arguments_at_the_same_place_in_each_version_and_binding() {
    let today = r#"{"message":{"messageId":"m","role":"ROLE_USER","parts":[{"text":"hello"}]}}"#;
    let before = r#"{"message":{"messageId":"m","role":"user","kind":"message","parts":[{"kind":"text","text":"hello"}]}}"#;
    let rest_before =
        r#"{"message":{"messageId":"m","role":"ROLE_USER","content":[{"text":"hello"}]}}"#;
    let protobuf = r#"{"request":{"message_id":"m","role":"ROLE_USER","content":[{"text":"hello"}]},"configuration":{"history_length":1}}"#;
    let told = |text: &str| Ok(format!("{text} /message/parts/0/text=hello"));
    assert_eq!(rpc("SendMessage", today), told("\"a\" SendMessage"));
    assert_eq!(rpc("message/send", before), told("\"a\" SendMessage"));
    for path in [
        "/message:send",
        "/v1/message:send",
        "/agents/a/v1/message:send",
    ] {
        for content in [today, before, rest_before, protobuf] {
            assert_eq!(one("POST", path, content), told("SendMessage"), "{path}");
        }
    }
    let streamed = one("POST", "/tenant/message:stream", today);
    assert_eq!(streamed, told("SendStreamingMessage"));
    for (content, of_before) in [(today, false), (rest_before, true), (protobuf, true)] {
        let content = Value::read(content.as_bytes(), 4096).unwrap();
        assert_eq!(is_of_before(&content), of_before);
    }
}

#[test]
fn requests_of_http_are_operations_by_method_and_path() {
    let cases = [
        ("GET", "/tasks", "ListTasks"),
        ("GET", "/v1/tasks?contextId=c", "ListTasks"),
        (
            "GET",
            "/tasks/t1?historyLength=2",
            "GetTask /id=t1 /historyLength=2",
        ),
        ("GET", "/x/v1/tasks/t1", "GetTask /id=t1"),
        ("POST", "/tasks/t1:cancel", "CancelTask /id=t1"),
        ("POST", "/v1/tasks/t1:subscribe", "SubscribeToTask /id=t1"),
        ("GET", "/tasks/t1:subscribe", "SubscribeToTask /id=t1"),
        (
            "GET",
            "/tasks/t1/pushNotificationConfigs",
            "ListTaskPushNotificationConfigs /taskId=t1",
        ),
        (
            "POST",
            "/tasks/t1/pushNotificationConfigs",
            "CreateTaskPushNotificationConfig /taskId=t1",
        ),
        (
            "GET",
            "/tasks/t1/pushNotificationConfigs/p1",
            "GetTaskPushNotificationConfig /id=p1 /taskId=t1",
        ),
        (
            "DELETE",
            "/v1/tasks/t1/pushNotificationConfigs/p1",
            "DeleteTaskPushNotificationConfig /id=p1 /taskId=t1",
        ),
        ("GET", "/extendedAgentCard", "GetExtendedAgentCard"),
        ("GET", "/v1/card", "GetExtendedAgentCard"),
        (
            "GET",
            "/agent/authenticatedExtendedCard",
            "GetExtendedAgentCard",
        ),
        ("GET", "/.well-known/agent-card.json", "tools/list"),
        ("HEAD", "/agents/a/.well-known/agent.json", "tools/list"),
    ];
    for (method, target, told) in cases {
        assert_eq!(one(method, target, "").as_deref(), Ok(told), "{target}");
    }
    // Clients repeat in the content what stands in the path.
    let repeated = one("POST", "/tasks/t1:cancel", r#"{"id":"t1","metadata":{}}"#);
    assert_eq!(repeated.as_deref(), Ok("CancelTask /id=t1"));
    let more = one(
        "POST",
        "/tasks/t1/pushNotificationConfigs",
        r#"{"taskId":"t1","url":"https://h"}"#,
    );
    assert_eq!(
        more.as_deref(),
        Ok("CreateTaskPushNotificationConfig /taskId=t1 /url=https://h")
    );
}

#[test]
fn what_some_servers_take_for_another_operation_is_not_understood() {
    let rpc = r#"{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{}}"#;
    let cases = [
        // Not as it is, but as some read it.
        ("POST", "/message%3Asend", rpc, No::Operations),
        ("POST", "/Message:send", rpc, No::Operations),
        ("POST", "/message:send/", rpc, No::Operations),
        ("POST", "/x%2Fmessage:send", rpc, No::Operations),
        ("POST", "/message:send%3Bx", rpc, No::Operations),
        ("POST", "/tasks%2F%2Ft1:cancel", rpc, No::Operations),
        ("POST", "/tasks/%3Bx/t1:cancel", rpc, No::Operations),
        ("GET", "/tasks/", "", No::Operations),
        ("GET", "/TASKS/t1", "", No::Operations),
        ("GET", "/tasks/t1%3Asubscribe", "", No::Operations),
        // Two as it is.
        ("GET", "/tasks/tasks", "", No::Operations),
        (
            "GET",
            "/tasks/tasks/pushNotificationConfigs",
            "",
            No::Operations,
        ),
        ("GET", "/tasks/extendedAgentCard", "", No::Operations),
        // None.
        ("GET", "/", "", No::Operation),
        ("GET", "/tasks/a:b", "", No::Operation),
        ("GET", "/tasks/a:b:subscribe", "", No::Operation),
        ("GET", "/message:send", "", No::Operation),
        ("PUT", "/tasks/t1:cancel", "", No::Operation),
        ("HEAD", "/tasks/t1", "", No::Operation),
        ("DELETE", "/tasks/t1", "", No::Operation),
        ("GET", "/.well-known/agent-card.json", rpc, No::Content),
        ("GET", "/tasks/t1", "{}", No::Content),
        // Content that is a request by itself.
        ("POST", "/message:send", rpc, No::Operations),
        (
            "POST",
            "/tasks/t1:cancel",
            r#"{"Method":"SendMessage"}"#,
            No::Operations,
        ),
        // Two arguments.
        ("POST", "/tasks/t1:cancel", r#"{"id":"t2"}"#, No::Twice),
        ("POST", "/tasks/t1:cancel", r#"{"ID":"t1"}"#, No::Twice),
        ("POST", "/tasks/t1:cancel?id=t1", "", No::Twice),
        ("GET", "/tasks?_method=POST", "", No::Override("_method")),
        ("POST", "/message:send", "[]", No::NoObject),
    ];
    for (method, target, content, why) in cases {
        assert_eq!(
            one(method, target, content),
            Err(why),
            "{method} {target} {content}"
        );
    }
    let long = format!("/tasks/{}", "t".repeat(257));
    assert_eq!(one("GET", &long, ""), Err(No::Operation));
    let overridden = fields(&[("x-http-method-override", "DELETE")]);
    let mut reader = CallReader::new(&overridden, 1024);
    let why = No::Override("x-http-method-override");
    assert_eq!(reader.push(b"{}"), Err(why));
}

#[test]
fn a_request_of_json_rpc_is_one_with_an_id_and_nothing_beside() {
    let cases = [
        (
            r#"[{"jsonrpc":"2.0","id":1,"method":"GetTask"}]"#,
            No::Batch,
        ),
        (
            r#"[{"jsonrpc":"2.0","id":1,"method":"GetTask"},{"jsonrpc":"2.0","id":2,"method":"GetTask"}]"#,
            No::Batch,
        ),
        (r#"{"jsonrpc":"2.0","method":"GetTask"}"#, No::Envelope),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"GetTask","message":{"parts":[]}}"#,
            No::Envelope,
        ),
        (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, No::Answer),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"GetTask","params":["t1"]}"#,
            No::NoObject,
        ),
        (
            r#"{"id":1,"method":"GetTask"}"#,
            No::JsonRpc(jsonrpc::Fault::Version),
        ),
        ("", No::NoObject),
    ];
    for (content, why) in cases {
        assert_eq!(one("POST", "/", content), Err(why), "{content}");
    }
    let bare = one(
        "POST",
        "/",
        r#"{"jsonrpc":"2.0","id":1,"method":"ListTasks"}"#,
    );
    assert_eq!(bare.as_deref(), Ok("1 ListTasks"));
}

#[test]
fn members_have_one_spelling_but_in_what_applications_say() {
    let wrong = [
        (r#"{"message":{"task_id":"t"}}"#, "taskId"),
        (r#"{"message":{"Task_Id":"t"}}"#, "taskId"),
        (r#"{"history_length":1}"#, "historyLength"),
        (
            r#"{"configuration":{"task_push_notification_config":{}}}"#,
            "taskPushNotificationConfig",
        ),
        (
            r#"{"message":{"parts":[{"media_type":"text/plain"}]}}"#,
            "mediaType",
        ),
    ];
    for (params, known) in wrong {
        assert_eq!(
            rpc("SendMessage", params),
            Err(No::Spelling(known)),
            "{params}"
        );
        let rest = one("POST", "/message:send", params);
        assert_eq!(rest, Err(No::Spelling(known)), "{params}");
    }
    let free =
        r#"{"message":{"taskId":"t","metadata":{"task_id":"x"},"parts":[{"data":{"task_id":1}}]}}"#;
    let told = "\"a\" SendMessage /message/taskId=t /message/metadata/task_id=x";
    assert_eq!(rpc("SendMessage", free).as_deref(), Ok(told));
    let rest = |content| one("POST", "/message:send", content);
    let both = r#"{"message":{"content":[],"parts":[]}}"#;
    assert_eq!(rest(both), Err(No::Spelling("parts")));
    // As 0.3 has it over HTTP, which is known by what else is there.
    let before = r#"{"request":{"task_id":"t","content":[],"metadata":{"task_id":"x"}}}"#;
    let told = "SendMessage /message/taskId=t /message/metadata/task_id=x";
    assert_eq!(rest(before).as_deref(), Ok(told));
    for (content, known) in [
        (r#"{"request":{"content":[]},"message":{}}"#, "message"),
        (r#"{"request":{"content":[]},"Message":{}}"#, "message"),
        (
            r#"{"request":{"content":[],"task_id":"a","taskId":"b"}}"#,
            "taskId",
        ),
        (
            r#"{"request":{"content":[],"task_id":"a","Task_Id":"b"}}"#,
            "taskId",
        ),
    ] {
        assert_eq!(rest(content), Err(No::Spelling(known)), "{content}");
        assert!(rpc("SendMessage", content).is_ok() || content.contains('_'));
    }
}

fn card(in_result: bool, answer: &str) -> Result<Option<String>, No> {
    let told = |pieces: &[&[u8]]| {
        let mut reader = CardReader::new(in_result);
        pieces.iter().for_each(|piece| reader.push(piece));
        reader.finish()
    };
    let whole = told(&[answer.as_bytes()]);
    let bytes: Vec<&[u8]> = answer.as_bytes().chunks(1).collect();
    assert_eq!(told(&bytes).ok(), whole.clone().ok());
    whole
}

#[test]
fn a_card_is_the_document_or_the_result_of_an_answer() {
    let bare = r#"{"version":"1", "name":"planner"}"#;
    let canonical = Some(r#"{"name":"planner","version":"1"}"#.to_owned());
    assert_eq!(card(false, bare), Ok(canonical.clone()));
    let signed = r#"{"name":"planner","signatures":[{"signature":"x"}],"version":"1"}"#;
    assert_eq!(card(false, signed), Ok(canonical.clone()));
    for it in [bare, signed] {
        let answer = format!(r#"{{"jsonrpc":"2.0","id":"x","result":{it}}}"#);
        assert_eq!(card(true, &answer), Ok(canonical.clone()));
    }
    // All of a document is compared, whatever it looks like.
    let answer = format!(r#"{{"jsonrpc":"2.0","id":"x","result":{bare}}}"#);
    let all = card(false, &answer).unwrap().unwrap();
    assert!(all.contains(r#""jsonrpc":"2.0""#), "{all}");
    let error = r#"{"jsonrpc":"2.0","id":"x","error":{"code":-32007,"message":"none"}}"#;
    assert_eq!(card(true, error), Ok(None));
    assert_eq!(card(true, ""), Ok(None));
    let wrong = [
        (false, r#"{"name":"a","name":"b"}"#),
        (false, "data: {}"),
        (true, bare),
        (true, r#"{"jsonrpc":"2.0","id":1,"result":{},"Result":{}}"#),
        (true, r#"[{"jsonrpc":"2.0","id":1,"result":{}}]"#),
        (true, r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#),
    ];
    for (in_result, answer) in wrong {
        assert!(card(in_result, answer).is_err(), "{answer}");
    }
}

#[test]
fn a_card_is_pinned_by_what_was_asked_for() {
    let call = |name: Option<&str>, version: Option<&str>| Tool {
        name: name.map(str::to_owned),
        version: version.map(str::to_owned),
        ..Tool::default()
    };
    let extended = Some("GetExtendedAgentCard");
    for (name, version, expected) in [
        (None, None, "agent_card"),
        (None, Some("1.0"), "agent_card"),
        (extended, Some("1.0"), "extended_agent_card"),
        (extended, Some("1.2"), "extended_agent_card"),
        (extended, Some("0.3"), "extended_agent_card_0.x"),
        (extended, None, "extended_agent_card_0.x"),
    ] {
        assert_eq!(card_name(&call(name, version)), expected);
    }
    let version = |values: &[&'static str]| {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append(VERSION, HeaderValue::from_static(value));
        }
        super::version(&fields)
    };
    assert_eq!(version(&[" 1.0 "]).as_deref(), Some("1.0"));
    assert_eq!(version(&[]), None);
    assert_eq!(version(&["1.0", "0.3"]), None);
    assert_eq!(version(&[""]), None);
}

const TARGETS: [(&str, &str); 9] = [
    ("POST", "/x/message:send"),
    ("POST", "/v1/message:stream"),
    ("GET", "/tasks"),
    ("GET", "/tasks/t1"),
    ("POST", "/tasks/t1:cancel"),
    ("GET", "/tasks/t1:subscribe"),
    ("POST", "/tasks/t1/pushNotificationConfigs"),
    ("GET", "/tasks/t1/pushNotificationConfigs/p1"),
    ("GET", "/extendedAgentCard"),
];

fn operation(method: &Method, path: &str) -> Option<String> {
    match Route::read(method, path).ok()? {
        Route::Rest { operation, .. } => Some(operation.name().to_owned()),
        other => Some(format!("{other:?}")),
    }
}

proptest! {
    /// However a path is written so that some servers read it as this one, it is this operation or none.
    #[test]
    fn another_spelling_of_a_path_is_no_other_operation(
        which in 0..TARGETS.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..3_usize), 1..4),
        end in prop::sample::select(vec!["", "/", ";x", "%3Bx", "//"]),
    ) {
        let (method, path) = TARGETS[which];
        let method: Method = method.parse().unwrap();
        let meant = operation(&method, path);
        let mut parts: Vec<String> = path.chars().map(String::from).collect();
        for (at, how) in changes {
            let part = &mut parts[at.index(path.len())];
            let byte = *part.as_bytes().first().unwrap();
            match how {
                0 => *part = part.to_ascii_uppercase(),
                1 if part.len() == 1 => *part = format!("%{byte:02X}"),
                _ => {}
            }
        }
        let written = parts.concat() + end;
        let read = operation(&method, &written);
        prop_assert!(read.is_none() || read == meant, "{written}: {read:?}");
    }

    /// Whatever content comes, in however many pieces.
    #[test]
    fn whatever_is_sent_is_read_alike_in_any_pieces(
        which in 0..TARGETS.len(),
        content in r#"[\[\]{}:,"a-z_ 0-9]{0,60}"#,
        at in any::<prop::sample::Index>(),
    ) {
        let (method, path) = TARGETS[which];
        let method: Method = method.parse().unwrap();
        let whole = read(&method, path, &[content.as_bytes()]);
        let (one, two) = content.as_bytes().split_at(at.index(content.len() + 1));
        prop_assert_eq!(read(&method, path, &[one, two]).ok(), whole.ok());
    }
}

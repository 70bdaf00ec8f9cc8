//! Answers and events in each version and binding, and what is none.

use agentguard_model::{AgentAnswer, ToolAnswer};
use proptest::prelude::*;

use crate::api::a2a::{AnswerReader, Answered, Operation};
use crate::sse::{Piece, Pieces};

const SEND: Operation = Operation::SendMessage;
const STREAM: Operation = Operation::SendStreamingMessage;

fn read(operation: Operation, in_result: bool, events: bool, pieces: &[&[u8]]) -> ToolAnswer {
    let mut reader = AnswerReader::new(Answered {
        operation,
        in_result,
    });
    let mut stream = Pieces::new(64);
    for piece in pieces {
        match events {
            true => stream.push(piece, &mut |piece| match piece {
                Piece::Data(data) => reader.data(data),
                Piece::End { .. } => reader.event_ends(),
            }),
            false => reader.whole(piece),
        }
    }
    reader.finish()
}

/// An answer in few words, the same in any pieces.
fn told(operation: Operation, in_result: bool, events: bool, content: &str) -> String {
    let whole = read(operation, in_result, events, &[content.as_bytes()]);
    // Where a fault is seen may depend on the pieces.
    let alike = |pieces: &[&[u8]]| {
        let mut read = read(operation, in_result, events, pieces);
        assert_eq!(
            read.not_understood.is_some(),
            whole.not_understood.is_some()
        );
        read.not_understood.clone_from(&whole.not_understood);
        assert_eq!(read, whole);
    };
    let bytes: Vec<&[u8]> = content.as_bytes().chunks(1).collect();
    alike(&bytes);
    for at in 0..content.len() {
        let (one, two) = content.as_bytes().split_at(at);
        alike(&[one, two]);
    }
    let result = whole.results.iter().map(|it| {
        let id = it.id.as_deref().unwrap_or("-");
        let error = it
            .error
            .map_or_else(String::new, |code| format!(" error {code}"));
        let failed = if it.is_error { " failed" } else { "" };
        let more = if it.incomplete { " more" } else { "" };
        format!("{id}{error}{failed}{more}")
    });
    let mut words: Vec<String> = result.collect();
    if let Some(agent) = whole.agent {
        let AgentAnswer {
            task,
            context,
            state,
            reason,
            messages,
            artifacts,
            updates,
            listed,
        } = *agent;
        let texts = [task, context, state, reason];
        words.extend(texts.map(|it| it.unwrap_or_else(|| "-".to_owned())));
        words.push(format!("{messages} {artifacts} {updates}"));
        words.extend(listed.map(|it| format!("listed {it}")));
    }
    words.extend(whole.not_understood.map(|why| format!("unread: {why}")));
    words.join(", ")
}

/// As the result of JSON-RPC.
fn result(payload: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":"q","result":{payload}}}"#)
}

#[test]
fn messages_and_tasks_are_told_alike_in_each_version_and_binding() {
    let task = r#""id":"t","contextId":"c","artifacts":[{"artifactId":"a","parts":[]},{}],"history":[{"messageId":"m","taskId":"x"}],"metadata":{"id":"y","contextId":"z"}"#;
    let cases = [
        (r#"{"message":{"messageId":"m","contextId":"c","role":"ROLE_AGENT","parts":[]}}"#.to_owned(), "-, c, -, -, 1 0 0"),
        (r#"{"kind":"message","messageId":"m","contextId":"c","taskId":"t","parts":[{"kind":"text","text":"x"}]}"#.to_owned(), "t, c, -, -, 1 0 0"),
        (r#"{"message":{"message_id":"m","context_id":"c","content":[]}}"#.to_owned(), "-, c, -, -, 1 0 0"),
        (format!(r#"{{"task":{{{task},"status":{{"state":"TASK_STATE_COMPLETED","message":{{"taskId":"w"}}}}}}}}"#), "t, c, TASK_STATE_COMPLETED, -, 0 2 0"),
        (format!(r#"{{"kind":"task",{task},"status":{{"state":"completed"}}}}"#), "t, c, TASK_STATE_COMPLETED, -, 0 2 0"),
        (format!(r#"{{{task},"status":{{"state":3}}}}"#), "t, c, TASK_STATE_COMPLETED, -, 0 2 0"),
        (format!(r#"{{"task":{{{task},"status":{{"state":"TASK_STATE_CANCELLED"}}}}}}"#), "t, c, TASK_STATE_CANCELED, -, 0 2 0"),
        (format!(r#"{{{task},"status":{{"state":"paused"}}}}"#), "t, c, paused, -, 0 2 0"),
    ];
    for (payload, expected) in cases {
        let of_rpc = told(SEND, true, false, &result(&payload));
        assert_eq!(of_rpc, format!("\"q\", {expected}"), "{payload}");
        let of_http = told(SEND, false, false, &payload);
        assert_eq!(of_http, format!("-, {expected}"), "{payload}");
    }
    for (state, marks) in [
        ("failed", " failed"),
        ("TASK_STATE_REJECTED", " failed"),
        ("input-required", " more"),
        ("TASK_STATE_AUTH_REQUIRED", " more"),
        ("working", ""),
    ] {
        let payload = format!(r#"{{"id":"t","status":{{"state":"{state}"}}}}"#);
        let told = told(Operation::GetTask, false, false, &payload);
        assert!(told.starts_with(&format!("-{marks}, t, ")), "{told}");
    }
}

#[test]
fn a_stream_is_told_by_what_came_of_its_task() {
    let one = [
        r#"{"task":{"id":"t","contextId":"c","status":{"state":"TASK_STATE_SUBMITTED"}}}"#,
        r#"{"statusUpdate":{"taskId":"t","contextId":"c","status":{"state":"TASK_STATE_WORKING"}}}"#,
        r#"{"artifactUpdate":{"taskId":"t","artifact":{"artifactId":"a","parts":[]}}}"#,
        r#"{"artifactUpdate":{"taskId":"t","artifact":{"artifactId":"a"},"append":true,"lastChunk":true}}"#,
        r#"{"statusUpdate":{"taskId":"t","status":{"state":"TASK_STATE_COMPLETED"}}}"#,
    ];
    let before = [
        r#"{"kind":"task","id":"t","contextId":"c","status":{"state":"submitted"}}"#,
        r#"{"kind":"status-update","taskId":"t","contextId":"c","status":{"state":"working"},"final":false}"#,
        r#"{"kind":"artifact-update","taskId":"t","artifact":{"artifactId":"a","parts":[]}}"#,
        r#"{"kind":"artifact-update","taskId":"t","artifact":{"artifactId":"a"},"append":true}"#,
        r#"{"kind":"status-update","taskId":"t","status":{"state":"completed"},"final":true}"#,
    ];
    let expected = "t, c, TASK_STATE_COMPLETED, -, 0 2 2";
    for events in [one, before] {
        let event = |it: &&str| format!("data: {it}\n\n");
        let stream: String = events.iter().map(event).collect();
        assert_eq!(told(STREAM, false, true, &stream), format!("-, {expected}"));
        let event = |it: &&str| format!("id: 1\r\nevent: x\r\ndata: {}\r\n\r\n", result(it));
        let stream: String = events.iter().map(event).collect();
        assert_eq!(
            told(STREAM, true, true, &stream),
            format!("\"q\", {expected}")
        );
        // It broke off where nobody knows what becomes of the task.
        let cut = stream.len() - 20;
        let partial = told(STREAM, true, true, stream.get(..cut).unwrap());
        assert_eq!(
            partial,
            "\"q\", t, c, TASK_STATE_WORKING, -, 0 2 1, unread: the stream ends in the middle of an event"
        );
    }
    // Events have no number, and what cannot be read is told beside the rest.
    let many = "data: {\"message\":{\"messageId\":\"m\"}}\n\n".repeat(1000);
    let many = format!("data: {{\"a\":1,\"a\":2}}\n\n: a comment\n\n{many}");
    let read = read(STREAM, false, true, &[many.as_bytes()]);
    assert_eq!(
        (read.results.len(), read.agent.unwrap().messages),
        (1, 1000)
    );
    assert!(read.not_understood.is_some());
}

#[test]
fn errors_are_told_with_their_reasons() {
    let details = r#"[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"TASK_NOT_FOUND","domain":"a2a-protocol.org"},{"reason":"OTHER"}]"#;
    for (in_result, content, expected) in [
        (true, format!(r#"{{"jsonrpc":"2.0","id":7,"error":{{"code":-32001,"message":"no","data":{details}}}}}"#), "7 error -32001, -, -, -, TASK_NOT_FOUND, 0 0 0"),
        (true, r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}"#.to_owned(), "- error -32700"),
        (false, format!(r#"{{"error":{{"code":404,"status":"NOT_FOUND","message":"no","details":{details}}}}}"#), "- error 404, -, -, -, TASK_NOT_FOUND, 0 0 0"),
        (false, r#"{"type":"https://a2a-protocol.org/errors/task-not-found","title":"no","status":404}"#.to_owned(), "- error 404, -, -, -, https://a2a-protocol.org/errors/task-not-found, 0 0 0"),
        (true, r#"{"type":"about:blank","title":"no","status":401}"#.to_owned(), "- error 401, -, -, -, about:blank, 0 0 0"),
        (false, r#"{"error":"no"}"#.to_owned(), "- error 0"),
    ] {
        assert_eq!(told(SEND, in_result, false, &content), expected, "{content}");
    }
    // One that ends a stream stands beside what came of it.
    let stream = format!(
        "data: {}\n\ndata: {}\n\n",
        result(r#"{"taskId":"t","status":{"state":"working"}}"#),
        r#"{"jsonrpc":"2.0","id":"q","error":{"code":-32603,"message":"no"}}"#
    );
    assert_eq!(
        told(STREAM, true, true, &stream),
        "\"q\" error -32603, t, -, TASK_STATE_WORKING, -, 0 0 1"
    );
}

#[test]
fn what_else_is_answered_has_nothing_but_its_end() {
    let tasks =
        r#"{"tasks":[{"id":"a","status":{"state":"working"}},{"id":"b"}],"nextPageToken":""}"#;
    assert_eq!(
        told(Operation::ListTasks, false, false, tasks),
        "-, -, -, -, -, 0 0 0, listed 2"
    );
    let config = r#"{"taskId":"t","id":"p","url":"https://a.example"}"#;
    let operation = Operation::CreateTaskPushNotificationConfig;
    assert_eq!(told(operation, true, false, &result(config)), "\"q\"");
    assert_eq!(told(operation, true, false, &result("null")), "\"q\"");
    assert_eq!(told(operation, false, false, ""), "");
    for (content, why) in [
        ("[]", "it is a batch, and A2A has none"),
        (r#"{"id":"a","id":"b"}"#, "twice"),
        (r#"{"task":{"id":"t""#, "ends"),
        ("<html>", ""),
    ] {
        let told = told(SEND, true, false, content);
        assert!(told.starts_with("unread: ") && told.contains(why), "{told}");
    }
    // What is too long to be told is there all the same.
    let long = format!(r#"{{"id":"{}","contextId":"a\u0007b"}}"#, "x".repeat(300));
    assert_eq!(
        told(Operation::GetTask, false, false, &long),
        "-, …, …, -, -, 0 0 0"
    );
}

proptest! {
    /// Whatever is answered, in however many pieces.
    #[test]
    fn whatever_is_answered_is_read_alike_in_any_pieces(
        words in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", ":", ",", "\"task\"", "\"status\"", "\"state\"", "\"id\"", "\"result\"", "\"error\"",
            "\"code\"", "3", "\"x\"", "null", "\n\n", "data: ", "\"message\"", "\"artifacts\"", "é",
        ]), 0..30),
        at in any::<prop::sample::Index>(),
        in_result in any::<bool>(),
        events in any::<bool>(),
    ) {
        let content = words.concat();
        let content = content.as_bytes();
        let whole = read(STREAM, in_result, events, &[content]);
        let (one, two) = content.split_at(at.index(content.len() + 1));
        let parts = read(STREAM, in_result, events, &[one, two]);
        prop_assert!(whole.results.len() <= 1);
        prop_assert_eq!(&whole.agent, &parts.agent);
        prop_assert_eq!(whole.not_understood.is_some(), parts.not_understood.is_some());
    }
}

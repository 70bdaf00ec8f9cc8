use agentguard_model::{Reason, ReasonCode, Tool, ToolAnswer, ToolResult};
use http::HeaderMap;
use proptest::prelude::*;

use super::{AnswerReader, Claims, MessageReader, NotUnderstood, Questions, Sent};
use crate::refusal::Refusal;
use crate::{json, jsonrpc};

const LIMIT: usize = 1 << 20;

fn fields(said: &[(&'static str, &str)]) -> HeaderMap {
    let said = said.iter();
    said.map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
        .collect()
}

fn read_in(
    pieces: usize,
    text: &str,
    said: &[(&'static str, &str)],
    pointers: &[&str],
) -> Result<Sent, NotUnderstood> {
    let claims = Claims::read(&fields(said))?;
    let mut reader = MessageReader::new(LIMIT);
    for piece in text.as_bytes().chunks(pieces) {
        reader.push(piece)?;
    }
    reader.finish("files", &claims, pointers)
}

fn one(
    text: &str,
    said: &[(&'static str, &str)],
    pointers: &[&str],
) -> Result<Tool, NotUnderstood> {
    let sent = read_in(7, text, said, pointers)?;
    assert!(!sent.batch);
    let [tool] = <[Tool; 1]>::try_from(sent.messages).unwrap();
    Ok(tool)
}

fn call(params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#)
}

#[test]
fn a_call_with_its_arguments() {
    let text = call(r#"{"arguments":{"b":[1,"x"],"a":"\u0061"},"name":"read","_meta":{}}"#);
    for pieces in [1, 2, 1000] {
        let sent = read_in(
            pieces,
            &text,
            &[("mcp-protocol-version", "2025-06-18")],
            &[],
        )
        .unwrap();
        let tool = &sent.messages[0];
        assert_eq!(tool.server, "files");
        assert_eq!(tool.method.as_deref(), Some("tools/call"));
        assert_eq!(tool.name.as_deref(), Some("read"));
        assert_eq!(tool.id.as_deref(), Some("1"));
        assert_eq!(tool.version.as_deref(), Some("2025-06-18"));
        // `printf '{"a":"a","b":[1,"x"]}' | sha256sum`
        assert_eq!(
            tool.arguments.as_deref(),
            Some("sha256:341fa2a8c5fcd1ada00959687565d16daff045394861d21509766d82cb1540d2")
        );
    }
    let without = one(&call(r#"{"name":"read"}"#), &[], &[]).unwrap();
    let none = one(&call(r#"{"name":"read","arguments":{}}"#), &[], &[]).unwrap();
    assert_eq!(without, none);
}

#[test]
fn the_arguments_that_rules_look_at() {
    let text = call(
        r#"{"name":"t","arguments":{"path":"/a","Path":"/b","n":1.0,"list":["x",{"k":null}],
            "deep":{"a/b":{"m~n":true}},"none":[]}}"#,
    );
    for (pointer, expected) in [
        ("/path", vec![("/path", vec!["/a"]), ("/Path", vec!["/b"])]),
        ("/N", vec![("/n", vec!["1.0"])]),
        ("/list", vec![("/list", vec!["x", r#"{"k":null}"#])]),
        ("/list/0", vec![("/list/0", vec!["x"])]),
        ("/list/00", vec![]),
        ("/list/+0", vec![]),
        ("/list/2", vec![]),
        ("/list/-", vec![]),
        ("/deep/a~1b/m~0n", vec![("/deep/a~1b/m~0n", vec!["true"])]),
        ("/none", vec![("/none", vec![])]),
        ("/other", vec![]),
        ("/path/x", vec![]),
    ] {
        let tool = one(&text, &[], &[pointer, pointer]).unwrap();
        let values = tool.values.iter();
        let values: Vec<_> = values
            .map(|it| {
                let values = it.values.iter().map(String::as_str);
                (it.pointer.as_str(), values.collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(values, expected, "{pointer}");
    }
    let long = call(&format!(
        r#"{{"name":"t","arguments":{{"path":"{}"}}}}"#,
        "x".repeat(40 * 1024)
    ));
    assert!(one(&long, &[], &["/path"]).is_ok());
    // The whole of them, and what is in them.
    assert_eq!(
        one(&long, &[], &["/path", ""]),
        Err(NotUnderstood::Values(crate::arguments::TooLong))
    );
}

#[test]
fn what_else_clients_send() {
    let tool = one(
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        &[],
        &[],
    )
    .unwrap();
    assert_eq!(tool.method.as_deref(), Some("notifications/initialized"));
    assert_eq!((tool.id, tool.name), (None, None));
    for (result, answers) in [
        ("{}", &[][..]),
        (r#"{"_meta":{}}"#, &[]),
        (
            r#"{"role":"assistant","content":{},"model":"m"}"#,
            &["sampling/createMessage"],
        ),
        (r#"{"action":"decline"}"#, &["elicitation/create"]),
        (r#"{"roots":[]}"#, &["roots/list"]),
        (
            r#"{"roots":[],"action":"accept"}"#,
            &["elicitation/create", "roots/list"],
        ),
        (
            r#"{"other":1}"#,
            &["sampling/createMessage", "elicitation/create", "roots/list"],
        ),
        (
            "null",
            &["sampling/createMessage", "elicitation/create", "roots/list"],
        ),
    ] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":"a","result":{result}}}"#);
        let tool = one(&text, &[], &[]).unwrap();
        assert_eq!(
            (tool.answers.as_slice(), tool.method),
            (to_owned(answers).as_slice(), None)
        );
    }
    let error = r#"{"jsonrpc":"2.0","id":"a","error":{"code":-32601,"message":"no"}}"#;
    assert!(one(error, &[], &[]).unwrap().answers.is_empty());
    let again = call(r#"{"name":"t","inputResponses":{"a":{"action":"accept"},"b":{"roots":[]}}}"#);
    let answers = one(&again, &[], &[]).unwrap().answers;
    assert_eq!(answers, ["elicitation/create", "roots/list"]);
}

fn to_owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn a_batch_has_all_its_messages() {
    let text = format!("[{},{}]", call(r#"{"name":"a"}"#), call(r#"{"name":"b"}"#));
    let sent = read_in(3, &text, &[], &[]).unwrap();
    let names: Vec<_> = sent.messages.iter().map(|it| it.name.as_deref()).collect();
    assert!(sent.batch);
    assert_eq!(names, [Some("a"), Some("b")]);
}

#[test]
fn what_servers_may_read_in_another_way_is_not_read() {
    use NotUnderstood as No;
    for (text, why) in [
        (
            call(r#"{"name":"a","name":"b"}"#),
            No::Json(json::Fault::Twice(70)),
        ),
        (call(r#"{"Name":"b","name":"a"}"#), No::Case("name")),
        (
            call(r#"{"name":"a","Arguments":{}}"#),
            No::Case("arguments"),
        ),
        (call(r#"{"arguments":{}}"#), No::Wrong("name")),
        (call(r#"{"name":["a"]}"#), No::Wrong("name")),
        (call(r#"{"name":""}"#), No::Wrong("name")),
        (call(r#"{"name":"a\u0000"}"#), No::Wrong("name")),
        (
            call(r#"{"name":"a","arguments":[]}"#),
            No::Wrong("arguments"),
        ),
        (
            call(r#"{"name":"a","arguments":"{}"}"#),
            No::Wrong("arguments"),
        ),
        (call(r#"{"name":"a","_meta":[]}"#), No::Wrong("_meta")),
        (
            call(r#"{"name":"a","inputResponses":[]}"#),
            No::Wrong("inputResponses"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"Tools/Call"}"#.to_owned(),
            No::Case("tools/call"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"Method":"tools/call"}"#.to_owned(),
            No::JsonRpc(jsonrpc::Fault::Case("method")),
        ),
        ("[]".to_owned(), No::JsonRpc(jsonrpc::Fault::EmptyBatch)),
        ("{}{}".to_owned(), No::Json(json::Fault::Syntax(2))),
        (String::new(), No::Json(json::Fault::Unfinished)),
        (
            "{\"jsonrpc\":\"2.0\",\"id\":\"\u{1}\"}".to_owned(),
            No::Json(json::Fault::Syntax(23)),
        ),
        ("[".repeat(200), No::Json(json::Fault::Depth)),
        (
            format!("[{}0]", "0,".repeat(20_000)),
            No::Json(json::Fault::Large),
        ),
    ] {
        assert_eq!(one(&text, &[], &[]), Err(why), "{text}");
    }
    let mut reader = MessageReader::new(LIMIT);
    let invalid = b"{\"jsonrpc\":\"2.0\",\"id\":\"\xff\"}";
    assert!(matches!(
        reader.push(invalid),
        Err(No::Json(json::Fault::Text(_)))
    ));
}

#[test]
fn fields_and_content_say_the_same() {
    use NotUnderstood as No;
    const VERSION: (&str, &str) = ("mcp-protocol-version", "2026-07-28");
    const METHOD: (&str, &str) = ("mcp-method", "tools/call");
    const NAME: (&str, &str) = ("mcp-name", "a");
    let stateless = |name: &str| {
        call(&format!(
            r#"{{"name":"{name}","_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}}"#
        ))
    };
    let tool = one(&stateless("a"), &[VERSION, METHOD, NAME], &[]).unwrap();
    assert_eq!(tool.version.as_deref(), Some("2026-07-28"));
    let coded = ("mcp-name", "=?base64?aMOpbGxv?=");
    assert!(one(&stateless("h\u{e9}llo"), &[VERSION, METHOD, coded], &[]).is_ok());
    let older = call(r#"{"name":"a"}"#);
    for (text, said, why) in [
        (
            stateless("b"),
            vec![VERSION, METHOD, NAME],
            No::Disagree("mcp-name"),
        ),
        (
            stateless("a"),
            vec![VERSION, ("mcp-method", "tools/list"), NAME],
            No::Disagree("mcp-method"),
        ),
        (
            stateless("a"),
            vec![VERSION, NAME],
            No::Missing("mcp-method"),
        ),
        (
            stateless("a"),
            vec![VERSION, METHOD],
            No::Missing("mcp-name"),
        ),
        (
            stateless("a"),
            vec![METHOD, NAME],
            No::Missing("mcp-protocol-version"),
        ),
        (
            stateless("a"),
            vec![("mcp-protocol-version", "2025-11-25"), METHOD, NAME],
            No::Disagree("mcp-protocol-version"),
        ),
        (
            older.clone(),
            vec![VERSION, METHOD, NAME],
            No::Disagree("mcp-protocol-version"),
        ),
        (
            stateless("a"),
            vec![VERSION, METHOD, ("mcp-name", "=?base64?!?=")],
            No::Field("mcp-name"),
        ),
        (
            stateless("a"),
            vec![VERSION, METHOD, METHOD, NAME],
            No::Field("mcp-method"),
        ),
        (
            format!("[{}]", stateless("a")),
            vec![VERSION, METHOD, NAME],
            No::Gone("batches"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.to_owned(),
            vec![VERSION],
            No::Gone("answers of clients"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.to_owned(),
            vec![METHOD],
            No::Disagree("mcp-method"),
        ),
        // Older versions do not ask for the fields, but nobody is to be led by one that says something else.
        (
            older.clone(),
            vec![("mcp-name", "b")],
            No::Disagree("mcp-name"),
        ),
        (
            older.clone(),
            vec![("mcp-protocol-version", "2099-01-01")],
            No::Version,
        ),
        (
            older.clone(),
            vec![("mcp-session-id", "a"), ("mcp-session-id", "b")],
            No::Field("mcp-session-id"),
        ),
        (
            call(
                r#"{"name":"a","_meta":{"io.modelcontextprotocol/protocolVersion":"2099-01-01"}}"#,
            ),
            vec![],
            No::Version,
        ),
    ] {
        assert_eq!(one(&text, &said, &[]), Err(why), "{text} {said:?}");
    }
    assert!(
        one(
            &older,
            &[("mcp-protocol-version", "2024-11-05"), METHOD, NAME],
            &[]
        )
        .is_ok()
    );
}

#[test]
fn over_standard_input_no_field_is_missing() {
    let text =
        call(r#"{"name":"a","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#);
    let mut reader = MessageReader::new(LIMIT);
    reader.push(text.as_bytes()).unwrap();
    let sent = reader
        .finish("files", &Claims::without_fields(), &[])
        .unwrap();
    assert_eq!(sent.messages[0].version.as_deref(), Some("2026-07-28"));
    assert_eq!(sent.messages[0].name.as_deref(), Some("a"));
}

fn answered_in(pieces: usize, text: &str) -> ToolAnswer {
    let mut reader = AnswerReader::default();
    for piece in text.as_bytes().chunks(pieces) {
        reader.whole(piece);
    }
    reader.finish()
}

#[test]
fn what_comes_of_a_call() {
    let result = |id: &str| ToolResult {
        id: Some(id.to_owned()),
        ..ToolResult::default()
    };
    for (text, expected) in [
        (
            r#"{"result":{"content":[{"type":"text","text":"x"}],"isError":true},"id":1,"jsonrpc":"2.0"}"#,
            ToolResult {
                is_error: true,
                ..result("1")
            },
        ),
        (
            r#"{"jsonrpc":"2.0","id":"\"a","error":{"code":-32602,"message":"no"}}"#,
            ToolResult {
                error: Some(-32602),
                ..result(r#""\"a""#)
            },
        ),
        (
            r#"{"jsonrpc":"2.0","id":3,"result":{"content":[{"isError":true,"id":9}]}}"#,
            result("3"),
        ),
    ] {
        for pieces in [1, 5, 1000] {
            let told = answered_in(pieces, text);
            assert_eq!(told.results, std::slice::from_ref(&expected), "{text}");
            assert_eq!(told.not_understood, None);
        }
    }
    let more = answered_in(
        4,
        r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":
            {"a":{"method":"elicitation/create","params":{}},"b":{"method":"sampling/createMessage"}}}}"#,
    );
    assert!(more.results[0].incomplete);
    assert_eq!(more.asked, ["elicitation/create", "sampling/createMessage"]);
    let list = answered_in(
        4,
        r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a","inputSchema":{"tools":[{}]}},{"name":"b"}]}}"#,
    );
    assert_eq!(list.listed, Some(2));
    let batch = answered_in(
        4,
        r#"[{"jsonrpc":"2.0","id":1,"result":{}},{"jsonrpc":"2.0","id":2,"result":{}}]"#,
    );
    assert_eq!(batch.results, [result("1"), result("2")]);
    assert!(answered_in(4, "").results.is_empty());
    for broken in ["{", r#"{"id":1,"id":2,"result":{}}"#, "no"] {
        let told = answered_in(4, broken);
        assert!(
            told.not_understood.is_some() && told.results.is_empty(),
            "{broken}"
        );
    }
}

#[test]
fn a_stream_has_events_of_its_own() {
    let mut reader = AnswerReader::default();
    for (kind, data) in [
        ("endpoint", "/messages?session=1"),
        ("", ""),
        (
            "message",
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#,
        ),
        (
            "",
            r#"{"jsonrpc":"2.0","id":0,"method":"sampling/createMessage","params":{}}"#,
        ),
        (
            "",
            r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{}}"#,
        ),
        ("", "{broken"),
        ("message", r#"{"jsonrpc":"2.0","id":7,"result":{}}"#),
    ] {
        reader.data(data.as_bytes());
        reader.event_ends(kind.as_bytes());
    }
    reader.data(br#"{"jsonrpc":"2.0","id":8,"#);
    let told = reader.finish();
    assert_eq!(told.asked, ["sampling/createMessage"]);
    let ids: Vec<_> = told.results.iter().map(|it| it.id.as_deref()).collect();
    assert_eq!(ids, [Some("7")]);
    assert!(told.not_understood.is_some());

    let mut reader = AnswerReader::default();
    for _ in 0..200 {
        reader.data(br#"{"jsonrpc":"2.0","id":8,"result":{}}"#);
        reader.event_ends(b"");
    }
    let told = reader.finish();
    assert_eq!(told.results.len(), super::MAX_TOLD);
    assert_eq!(told.not_understood, Some(NotUnderstood::Told.to_string()));
}

fn scalar() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        ".{0,8}".prop_map(serde_json::Value::from),
        Just(serde_json::Value::Null),
    ]
}

proptest! {
    /// Whichever pieces it comes in, and however a client writes it down, a call is the same; and another one is another.
    #[test]
    fn a_call_is_one_however_it_is_written(
        arguments in prop::collection::btree_map("[a-z~/]{1,4}", scalar(), 0..6),
        pieces in 1usize..40,
    ) {
        let straight = serde_json::to_string(&arguments).unwrap();
        let members = arguments.iter().rev();
        let reversed: Vec<String> = members
            .map(|(name, value)| format!("{} : {value}", serde_json::Value::from(name.as_str())))
            .collect();
        let reversed = format!("{{ {} }}", reversed.join(" , "));
        let read = |arguments: &str, pieces| {
            let text = call(&format!(r#"{{"name":"t","arguments":{arguments}}}"#));
            read_in(pieces, &text, &[], &["/a"]).unwrap()
        };
        let whole = read(&straight, 1 << 20);
        prop_assert_eq!(&whole, &read(&straight, pieces));
        prop_assert_eq!(&whole.messages[0].arguments, &read(&reversed, pieces).messages[0].arguments);
        let mut other = arguments;
        other.insert("other!".to_owned(), 1.into());
        let other = serde_json::to_string(&other).unwrap();
        prop_assert_ne!(&whole.messages[0].arguments, &read(&other, pieces).messages[0].arguments);
    }
}

#[test]
fn a_refusal_answers_what_was_asked() {
    let reason = Reason::new(ReasonCode::RuleDeny, "not \"that\"\n");
    let id = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let refusal = Refusal {
        status: http::StatusCode::FORBIDDEN,
        reason: &reason,
        decision: Some(id.parse().unwrap()),
        spent: None,
        retry_after: None,
    };
    let told = format!(r#""not \"that\"\n (agentguard explain {id})""#);
    let error = |of: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":{of},"error":{{"code":403,"message":{told},"data":{{"reason":"rule_deny","decision":"{id}"}}}}}}"#
        )
    };
    let result = |of: &str, complete: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":{of},"result":{{{complete}"content":[{{"type":"text","text":{told}}}],"isError":true,"_meta":{{"agentguard/reason":"rule_deny","agentguard/decision":"{id}"}}}}}}"#
        )
    };
    let asks = |id: &str, method: &str, version: &str| Tool {
        id: Some(id.to_owned()),
        method: Some(method.to_owned()),
        version: Some(version.to_owned()),
        ..Tool::default()
    };
    let call = asks("7", "tools/call", "2025-06-18");
    let stateless = asks("\"x\"", "tools/call", "2026-07-28");
    let read = asks("8", "resources/read", "2025-06-18");
    let says = Tool {
        method: Some("notifications/cancelled".to_owned()),
        ..Tool::default()
    };
    let answers = Tool {
        id: Some("3".to_owned()),
        ..Tool::default()
    };
    for (messages, batch, here, status, body) in [
        (vec![call.clone()], false, true, 200, result("7", "")),
        (
            vec![stateless],
            false,
            true,
            200,
            result("\"x\"", r#""resultType":"complete","#),
        ),
        (vec![read.clone()], false, true, 200, error("8")),
        (vec![call.clone()], false, false, 403, error("7")),
        (vec![says.clone()], false, true, 403, error("null")),
        (vec![answers], false, true, 403, error("null")),
        (vec![], false, true, 403, error("null")),
        (
            vec![call.clone(), says.clone(), read.clone()],
            true,
            true,
            200,
            format!("[{},{}]", result("7", ""), error("8")),
        ),
        (
            vec![call.clone()],
            true,
            true,
            200,
            format!("[{}]", result("7", "")),
        ),
    ] {
        let response = Questions::of(&messages, batch, here).refused(&refusal);
        assert_eq!(response.status(), status, "{body}");
        assert_eq!(response.body(), &body);
        assert_eq!(response.headers()["x-agentguard-decision"], id);
        serde_json::from_slice::<serde_json::Value>(response.body()).unwrap();
    }
    // By a stream each has an event of its own, and who waits for nothing a message of the log.
    let message = |of: &str| format!("event: message\ndata: {of}\n\n");
    let log = format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"error","logger":"agentguard","data":{{"message":{told},"reason":"rule_deny","decision":"{id}"}}}}}}"#
    );
    for (messages, expected) in [
        (vec![call.clone()], message(&result("7", ""))),
        (
            vec![call.clone(), says.clone(), read],
            message(&result("7", "")) + &message(&error("8")),
        ),
        (vec![says], message(&log)),
    ] {
        let questions = Questions::of(&messages, false, false);
        let (events, response) = questions.refused_by_events(&refusal).unwrap();
        assert_eq!(events, expected);
        assert_eq!(response.status(), http::StatusCode::ACCEPTED);
        assert_eq!(response.headers()["x-agentguard-decision"], id);
    }
    let unreachable = Refusal {
        status: http::StatusCode::BAD_GATEWAY,
        ..refusal
    };
    let questions = Questions::of(&[call], false, true);
    assert!(questions.refused_by_events(&unreachable).is_none());
    let response = questions.refused(&unreachable);
    assert_eq!(response.status(), http::StatusCode::BAD_GATEWAY);
    assert_eq!(response.body(), &error("7"));
}

#[test]
fn results_are_the_same_whatever_stands_around_them_and_in_whatever_pieces_they_come() {
    let content = |text: &str, size: usize| {
        let mut reader = AnswerReader::default();
        text.as_bytes()
            .chunks(size)
            .for_each(|piece| reader.whole(piece));
        reader.content()
    };
    let answer =
        |id: u32, result: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
    let result = r#"{"content":[{"type":"text","text":"41 of 100"}],"isError":false}"#;
    let first = content(&answer(9, result), 1000);
    assert!(first.is_some());
    for size in [1, 2, 5, 17] {
        assert_eq!(content(&answer(10, result), size), first);
    }
    assert_eq!(content(&format!("[{}]", answer(10, result)), 3), first);
    for other in [
        r#"{"content":[{"type":"text","text":"42 of 100"}],"isError":false}"#,
        r#"{"content":[{"type":"text","text":"41 of 100"}],"isError":true}"#,
        r#"{"content":[{"type":"text"},{"text":"41 of 100"}],"isError":false}"#,
        r#"{"content":[{"kind":"text","text":"41 of 100"}],"isError":false}"#,
        r#"{"content":[{"type":"text","text":"41 of 100","n":1}],"isError":false}"#,
        r#"{"content":[{"type":"text","text":["41 of ","100"]}],"isError":false}"#,
    ] {
        assert_ne!(content(&answer(9, other), 1000), first, "{other}");
    }
    let error = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"no"}}"#;
    assert_eq!(content(error, 1000), None);
}

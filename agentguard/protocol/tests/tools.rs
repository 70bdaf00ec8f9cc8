//! Targets of what reads messages to servers of tools: any split of the same bytes gives the same.

use std::time::Duration;

use agentguard_model::ArgumentType;
use agentguard_model::Tool;
use agentguard_protocol::api::http::{ContentReader, Place};
use agentguard_protocol::api::json_rpc::CallReader;
use agentguard_protocol::api::{a2a, graphql};
use agentguard_protocol::jsonrpc::Outline;
use agentguard_protocol::mcp::{
    AnswerReader, Claims, ListFilter, MAX_PARTS, MessageReader, Sent, may_list, parts,
};
use agentguard_protocol::sse::{Piece, Pieces};
use http::{HeaderMap, HeaderValue, header};

/// How long each target runs under `cargo test`.
const MOMENT: Duration = Duration::from_secs(2);

/// The rest of an input, and where its first byte cuts that in two.
fn cut(input: &[u8]) -> Option<(&[u8], [&[u8]; 2])> {
    let (at, bytes) = input.split_first()?;
    let (one, two) = bytes.split_at(usize::from(*at) * bytes.len() / 256);
    Some((bytes, [one, two]))
}

/// What is sent, or that it is not understood: which fault is seen first may depend on the pieces.
fn message(pieces: &[&[u8]]) -> Option<String> {
    sent(pieces).map(|sent| format!("{sent:?}"))
}

fn sent(pieces: &[&[u8]]) -> Option<Sent> {
    const LIMIT: usize = 64 * 1024;
    let mut reader = MessageReader::new(LIMIT);
    for piece in pieces {
        reader.push(piece).ok()?;
    }
    assert!(reader.used() <= LIMIT);
    let sent = reader.finish("server", &Claims::default(), &["/a", "/b/0", ""]);
    sent.ok()
}

#[test]
fn mcp_message() {
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let Some((bytes, split)) = cut(input) else {
            return;
        };
        let whole = message(&[bytes]);
        assert_eq!(whole, message(&split));
        let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(whole, message(&pieces));
        // Who waits for it, which is looked for where it cannot be read, is who waits where it can.
        let mut outline = Outline::default();
        split.iter().for_each(|piece| outline.push(piece));
        if let Some(Sent { messages, batch }) = sent(&[bytes]) {
            let asks = messages.first().filter(|it| !batch && it.method.is_some());
            let id = asks.and_then(|it| it.id.as_deref());
            let waits = id.filter(|id| *id != "null");
            assert!(outline.id().is_none() || outline.id() == waits);
            // A name that is written with escapes is not looked for.
            assert!(outline.id() == waits || bytes.contains(&b'\\'));
        }
    });
}

/// What comes of it, but for where a fault is.
fn answer(events: bool, pieces: &[&[u8]]) -> String {
    let mut reader = AnswerReader::default();
    let mut stream = Pieces::new(64);
    for piece in pieces {
        if events {
            stream.push(piece, &mut |piece| match piece {
                Piece::Data(data) => reader.data(data),
                Piece::End { kind, .. } => reader.event_ends(kind),
            });
        } else {
            reader.whole(piece);
        }
    }
    let mut told = reader.finish();
    assert!(told.results.len() <= agentguard_protocol::mcp::MAX_TOLD);
    told.not_understood = told.not_understood.map(|_| String::new());
    format!("{told:?}")
}

#[test]
fn mcp_answer() {
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let Some((bytes, split)) = cut(input) else {
            return;
        };
        for events in [false, true] {
            let whole = answer(events, &[bytes]);
            assert_eq!(whole, answer(events, &split));
            let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(whole, answer(events, &pieces));
        }
    });
}

const TYPES: [&str; 3] = [
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=b",
];

/// What a request of HTTP is, with the query by the first line of an input, or that it is not understood.
fn request(kind: &str, query: &str, pieces: &[&[u8]]) -> Option<String> {
    const LIMIT: usize = 64 * 1024;
    let kind = HeaderValue::from_str(kind).ok()?;
    let fields = HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]);
    let mut reader = ContentReader::new(&fields, LIMIT);
    for piece in pieces {
        reader.push(piece).ok()?;
    }
    assert!(reader.used() <= LIMIT);
    let types = [
        ("id", ArgumentType::Integer),
        ("n", ArgumentType::Number),
        ("flag", ArgumentType::Boolean),
        ("list", ArgumentType::Integer),
    ];
    let types = types.map(|(name, kind)| (name.to_owned(), kind));
    let place = Place {
        server: "server",
        name: "tool",
        parameters: &[("id".to_owned(), "7".to_owned())],
        query: Some(query),
        lists: &["list".to_owned()],
        types: &types,
    };
    let pointers = ["/a", "/b/0", "/id", "/a/name", "/n", "/flag", "/list"];
    let tool = reader.finish(place, &pointers).ok();
    // What has a type is of it, whatever is sent and however its name is written.
    for argument in tool.iter().flat_map(|tool| &tool.values) {
        let name = argument.pointer.trim_start_matches('/');
        let kind = types.iter().find(|(it, _)| it.eq_ignore_ascii_case(name));
        let mut values = argument.values.iter();
        assert!(kind.is_none_or(|(_, kind)| values.all(|it| kind.fits(it))));
    }
    // What is in the path is there once, whatever is sent.
    let of_path = |tool: &Tool| tool.values.iter().filter(|it| it.pointer == "/id").count();
    assert!(tool.as_ref().is_none_or(|tool| of_path(tool) == 1));
    tool.map(|tool| format!("{tool:?}"))
}

#[test]
fn http_call() {
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let Some((which, rest)) = input.split_first() else {
            return;
        };
        let Some((bytes, split)) = cut(rest) else {
            return;
        };
        let kind = TYPES[usize::from(*which) % TYPES.len()];
        let query = String::from_utf8_lossy(bytes);
        let query = query.lines().next().unwrap_or_default();
        for query in ["", query] {
            let whole = request(kind, query, &[bytes]);
            assert_eq!(whole, request(kind, query, &split));
            let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(whole, request(kind, query, &pieces));
        }
    });
}

/// What a request to an agent is, with method and path by the first line of an input, or that it is not understood.
fn to_agent(head: &str, pieces: &[&[u8]]) -> Option<String> {
    const LIMIT: usize = 64 * 1024;
    let (method, target) = head.split_once(' ')?;
    let method = method.parse().ok()?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let route = a2a::Route::read(&method, path).ok()?;
    let mut reader = a2a::CallReader::new(&HeaderMap::new(), LIMIT);
    for piece in pieces {
        reader.push(piece).ok()?;
    }
    assert!(reader.used() <= LIMIT);
    let place = a2a::Place {
        server: "server",
        method: &method,
        route: &route,
        query: Some(query),
    };
    let tool = reader
        .finish(place, &["/id", "/message/parts/0/text", ""])
        .ok()?;
    // A call has a name that is known, whatever is sent.
    let known = |name: &String| a2a::Operation::of_method(name).is_some();
    assert!(tool.name.as_ref().is_none_or(known));
    Some(format!("{tool:?}"))
}

#[test]
fn a2a_call() {
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let Some((bytes, _)) = cut(input) else {
            return;
        };
        let mut lines = bytes.splitn(2, |&b| b == b'\n');
        let head = str::from_utf8(lines.next().unwrap_or_default());
        let (Ok(head), Some(content)) = (head, lines.next()) else {
            return;
        };
        let at = usize::from(input.first().copied().unwrap_or_default());
        let (one, two) = content.split_at(at * content.len() / 256);
        let whole = to_agent(head, &[content]);
        assert_eq!(whole, to_agent(head, &[one, two]));
        let pieces: Vec<&[u8]> = content.chunks(1).collect();
        assert_eq!(whole, to_agent(head, &pieces));
    });
}

/// What an agent answers, but for where a fault is. The operation is the one with this number.
fn of_agent(which: u8, events: bool, pieces: &[&[u8]]) -> String {
    let name = a2a::Operation::names().nth(usize::from(which / 2) % 11);
    let operation = name.and_then(a2a::Operation::of_method);
    let operation = operation.unwrap_or(a2a::Operation::SendMessage);
    let mut reader = a2a::AnswerReader::new(a2a::Answered {
        operation,
        in_result: which.is_multiple_of(2),
    });
    let mut stream = Pieces::new(64);
    for piece in pieces {
        if events {
            stream.push(piece, &mut |piece| match piece {
                Piece::Data(data) => reader.data(data),
                Piece::End { .. } => reader.event_ends(),
            });
        } else {
            reader.whole(piece);
        }
    }
    let mut told = reader.finish();
    assert!(told.results.len() <= 1);
    if let Some(agent) = &told.agent {
        let texts = [&agent.task, &agent.context, &agent.state, &agent.reason];
        assert!(texts.into_iter().flatten().all(|text| text.len() <= 256));
    }
    told.not_understood = told.not_understood.map(|_| String::new());
    format!("{told:?}")
}

#[test]
fn a2a_answer() {
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let Some((which, rest)) = input.split_first() else {
            return;
        };
        let Some((bytes, split)) = cut(rest) else {
            return;
        };
        for events in [false, true] {
            let whole = of_agent(*which, events, &[bytes]);
            assert_eq!(whole, of_agent(*which, events, &split));
            let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(whole, of_agent(*which, events, &pieces));
        }
    });
}

/// The card that an answer has, or that it cannot be read.
fn card(in_result: bool, pieces: &[&[u8]]) -> Option<Option<String>> {
    let mut reader = a2a::CardReader::new(in_result);
    pieces.iter().for_each(|piece| reader.push(piece));
    reader.finish().ok()
}

#[test]
fn a2a_card() {
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let Some((bytes, split)) = cut(input) else {
            return;
        };
        for in_result in [false, true] {
            let whole = card(in_result, &[bytes]);
            assert_eq!(whole, card(in_result, &split));
            let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(whole, card(in_result, &pieces));
        }
    });
}

/// What calls of JSON-RPC are, or that they are not understood.
fn calls(pieces: &[&[u8]]) -> Option<String> {
    let mut reader = CallReader::new(&HeaderMap::new(), 64 * 1024);
    for piece in pieces {
        reader.push(piece).ok()?;
    }
    let sent = reader.finish("server", &["/0", "/a"]).ok();
    sent.map(|sent| format!("{sent:?}"))
}

#[test]
fn json_rpc_call() {
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let Some((bytes, split)) = cut(input) else {
            return;
        };
        let whole = calls(&[bytes]);
        assert_eq!(whole, calls(&split));
        let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(whole, calls(&pieces));
    });
}

/// What calls of GraphQL are, or that they are not understood.
fn operations(pieces: &[&[u8]]) -> Option<String> {
    let kind = HeaderValue::from_static(TYPES[0]);
    let fields = HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]);
    let mut reader = graphql::CallReader::new(&fields, 64 * 1024);
    for piece in pieces {
        reader.push(piece).ok()?;
    }
    let sent = reader.finish("server", &["/a", "/b/0"]).ok();
    sent.map(|sent| format!("{sent:?}"))
}

#[test]
fn graphql_call() {
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let Some((bytes, split)) = cut(input) else {
            return;
        };
        let whole = operations(&[bytes]);
        assert_eq!(whole, operations(&split));
        let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(whole, operations(&pieces));
        // A document that is not inside of anything: chance makes few that are.
        let text = String::from_utf8_lossy(bytes);
        let request = serde_json::json!({ "query": text, "variables": {"a": 1} });
        let _ = operations(&[request.to_string().as_bytes()]);
    });
}

/// An answer with a list that was held, written anew with its first tool left out; or that it cannot be read.
fn list(events: bool, pieces: &[&[u8]]) -> Option<String> {
    let mut held = ListFilter::new(events);
    for piece in pieces {
        held.push(piece);
    }
    let mut list = held.finish().ok()?;
    let definitions = list.definitions();
    assert!(definitions.is_empty() || may_list(&pieces.concat()));
    let mut before = "";
    for one in &definitions {
        let (told, _) = parts(&one.text, &one.text);
        assert!(told.is_empty());
        assert!(parts(before, &one.text).0.len() <= MAX_PARTS);
        before = &one.text;
    }
    let shown: Vec<bool> = (0..definitions.len()).map(|n| n > 0).collect();
    let left_out = list.leave_out(&shown);
    let left = list.definitions();
    assert!(left.iter().all(|it| !it.name.is_empty()));
    assert!(left.len() < definitions.len().max(1));
    let written = list.written();
    let again = {
        let mut held = ListFilter::new(events);
        held.push(&written);
        held.finish().map(|mut list| list.definitions())
    };
    // What is written is read as what it says.
    assert_eq!(again.ok(), Some(left));
    Some(format!("{definitions:?} {left_out:?} {written:?}"))
}

#[test]
fn mcp_list() {
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let Some((bytes, split)) = cut(input) else {
            return;
        };
        for events in [false, true] {
            let whole = list(events, &[bytes]);
            assert_eq!(whole, list(events, &split));
            let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(whole, list(events, &pieces));
        }
    });
}

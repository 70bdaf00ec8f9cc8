//! Messages to servers of tools and to agents, and what these answer.

use std::hint::black_box;

use agentguard_protocol::api::http::{ContentReader, Place};
use agentguard_protocol::api::{a2a, graphql, json_rpc};
use agentguard_protocol::mcp::{AnswerReader, Claims, ListFilter, MessageReader};
use agentguard_protocol::sse::{Piece, Pieces};
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};

use crate::{Outcome, PIECE, megabytes, sample, throughput, timed, wire};

/// The most memory that a message may take.
const LIMIT: usize = 16 * 1024 * 1024;

pub(crate) fn measure() -> Outcome {
    mcp_call()?;
    mcp_answer()?;
    mcp_list()?;
    rpc_call()?;
    graphql_call()?;
    http_calls()?;
    a2a_call()?;
    a2a_answer()
}

/// Some 50 KB, as of a file that is written.
fn arguments() -> Value {
    json!({ "path": "/srv/a", "content": wire::said(1).repeat(16), "mode": 420 })
}

fn bytes(document: &Value) -> Vec<u8> {
    document.to_string().into_bytes()
}

fn of_type(kind: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))])
}

fn expect(read: bool, what: &str) -> Outcome {
    match read {
        true => Ok(()),
        false => Err(format!("{what}: not read as it is written").into()),
    }
}

fn mcp_call() -> Outcome {
    let call = mcp_call_bytes();
    let seconds = timed(|| read_mcp_call_once(&call))?;
    throughput("mcp_call", &[&call], call.len(), seconds)
}

pub(crate) fn mcp_call_bytes() -> Vec<u8> {
    bytes(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": { "name": "write", "arguments": arguments() } }))
}

pub(crate) fn read_mcp_call_once(call: &[u8]) -> Outcome {
    let mut reader = MessageReader::new(LIMIT);
    for piece in call.chunks(PIECE) {
        reader.push(piece)?;
    }
    let claims = Claims {
        none: true,
        ..Claims::default()
    };
    let sent = reader.finish("server", &claims, &["/path"])?;
    let name = sent.messages.first().and_then(|it| it.name.as_deref());
    expect(name == Some("write"), "mcp_call")
}

fn mcp_answer() -> Outcome {
    let content = json!([{ "type": "text", "text": wire::said(1).repeat(16) }]);
    let answer = bytes(&json!({ "jsonrpc": "2.0", "id": 1, "result": { "content": content } }));
    let seconds = timed(|| {
        let mut reader = AnswerReader::default();
        for piece in answer.chunks(PIECE) {
            reader.whole(piece);
        }
        let told = reader.finish();
        expect(told.not_understood.is_none(), "mcp_answer")
    })?;
    throughput("mcp_answer", &[&answer], answer.len(), seconds)
}

/// Held, looked at, and written anew without its first tool.
fn mcp_list() -> Outcome {
    let tool = |nth: usize| json!({ "name": format!("tool_{nth}"), "description": wire::said(nth), "inputSchema": wire::schema() });
    let tools: Value = (0..wire::TOOLS).map(tool).collect();
    let list = bytes(&json!({ "jsonrpc": "2.0", "id": 1, "result": { "tools": tools } }));
    let shown: Vec<bool> = (0..wire::TOOLS).map(|nth| nth > 0).collect();
    let seconds = timed(|| {
        let mut filter = ListFilter::new(false);
        for piece in list.chunks(PIECE) {
            filter.push(piece);
        }
        let mut held = filter.finish()?;
        black_box(held.leave_out(&shown));
        expect(held.written().len() < list.len(), "mcp_list")
    })?;
    throughput("mcp_list", &[&list], list.len(), seconds)
}

fn rpc_call() -> Outcome {
    let call =
        bytes(&json!({ "jsonrpc": "2.0", "id": 1, "method": "write", "params": arguments() }));
    let seconds = timed(|| {
        let mut reader = json_rpc::CallReader::new(&HeaderMap::new(), LIMIT);
        for piece in call.chunks(PIECE) {
            reader.push(piece)?;
        }
        black_box(reader.finish("server", &["/path"])?);
        Ok(())
    })?;
    throughput("json_rpc_call", &[&call], call.len(), seconds)
}

fn graphql_call() -> Outcome {
    let fields =
        "title body author { login name } comments(first: 20) { nodes { body } } ".repeat(100);
    let query = format!("query Issues($of: Issues!) {{ issues(of: $of) {{ {fields} }} }}");
    let call = bytes(&json!({ "query": query, "variables": { "of": arguments() } }));
    let kind = of_type("application/json");
    let seconds = timed(|| {
        let mut reader = graphql::CallReader::new(&kind, LIMIT);
        for piece in call.chunks(PIECE) {
            reader.push(piece)?;
        }
        black_box(reader.finish("server", &["/of/path"])?);
        Ok(())
    })?;
    throughput("graphql_call", &[&call], call.len(), seconds)
}

fn http_calls() -> Outcome {
    let text = wire::said(1).repeat(16);
    let form = format!(
        "path=%2Fsrv%2Fa&content={}",
        text.replace(['\n', '"', '&', '%', '+', ';'], "%0A")
    );
    let part = |name: &str, value: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let multipart = [
        part("path", "/srv/a"),
        part("content", &text),
        "--b--\r\n".to_owned(),
    ]
    .concat();
    for (case, kind, content) in [
        ("http_json", "application/json", bytes(&arguments())),
        (
            "http_form",
            "application/x-www-form-urlencoded",
            form.into_bytes(),
        ),
        (
            "http_multipart",
            "multipart/form-data; boundary=b",
            multipart.into_bytes(),
        ),
    ] {
        let fields = of_type(kind);
        let seconds = timed(|| {
            let mut reader = ContentReader::new(&fields, LIMIT);
            for piece in content.chunks(PIECE) {
                reader.push(piece)?;
            }
            let place = Place {
                server: "server",
                name: "write",
                parameters: &[],
                query: None,
                lists: &[],
                types: &[],
            };
            let tool = reader.finish(place, &["/path"])?;
            expect(tool.values.len() == 1, case)
        })?;
        match case {
            "http_json" => throughput(case, &[&content], content.len(), seconds)?,
            _ => {
                let rate = megabytes(content.len(), seconds)?;
                sample(case, "agentguard", "throughput", "MB/s", rate);
            }
        }
    }
    Ok(())
}

fn message() -> Value {
    json!({ "messageId": "m1", "role": "ROLE_USER", "parts": [{ "text": wire::said(1).repeat(16) }] })
}

fn a2a_call() -> Outcome {
    let call = bytes(
        &json!({ "jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": { "message": message() } }),
    );
    let route = a2a::Route::read(&Method::POST, "/a2a")?;
    let seconds = timed(|| {
        let mut reader = a2a::CallReader::new(&HeaderMap::new(), LIMIT);
        for piece in call.chunks(PIECE) {
            reader.push(piece)?;
        }
        let place = a2a::Place {
            server: "server",
            method: &Method::POST,
            route: &route,
            query: None,
        };
        let tool = reader.finish(place, &["/message/role"])?;
        expect(tool.values.len() == 1, "a2a_call")
    })?;
    throughput("a2a_call", &[&call], call.len(), seconds)
}

/// Events of a task that works.
fn a2a_answer() -> Outcome {
    const EVENTS: u32 = 1000;
    let event = |state: &str| {
        let status = json!({ "state": state, "timestamp": "2026-01-01T00:00:00Z" });
        let update = json!({ "taskId": "t1", "contextId": "c1", "status": status });
        json!({ "jsonrpc": "2.0", "id": 1, "result": { "statusUpdate": update } })
    };
    let mut documents = vec![bytes(&event("TASK_STATE_WORKING")); EVENTS as usize - 1];
    documents.push(bytes(&event("TASK_STATE_COMPLETED")));
    let events: Vec<Vec<u8>> = documents
        .iter()
        .map(|it| [b"data: ".as_slice(), it, b"\n\n"].concat())
        .collect();
    let seconds = timed(|| {
        let mut reader = a2a::AnswerReader::new(a2a::Answered {
            operation: a2a::Operation::SendStreamingMessage,
            in_result: true,
        });
        let mut stream = Pieces::new(4096);
        for event in &events {
            stream.push(event, &mut |piece| match piece {
                Piece::Data(data) => reader.data(data),
                Piece::End { .. } => reader.event_ends(),
            });
        }
        let told = reader.finish();
        let state = told.agent.and_then(|it| it.state);
        expect(
            state.is_some() && told.not_understood.is_none(),
            "a2a_answer",
        )
    })?;
    let documents: Vec<&[u8]> = documents.iter().map(Vec::as_slice).collect();
    let size = events.iter().map(Vec::len).sum();
    throughput("a2a_answer", &documents, size, seconds)?;
    let each = seconds / f64::from(EVENTS) * 1e9;
    sample("a2a_answer", "agentguard", "event", "ns", each);
    Ok(())
}

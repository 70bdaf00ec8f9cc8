//! One thing again and again, and nothing beside it: what counts instructions runs this twice, once with twice as many,
//! and takes the difference.

use std::hint::black_box;

use agentguard_protocol::client_hello::{HelloReader, Progress};
use agentguard_protocol::fields::strip_hop_by_hop;
use agentguard_protocol::http1::{Gate, Position};
use agentguard_protocol::persistence::binds_connection;
use agentguard_protocol::request::{Request, Scheme};
use agentguard_protocol::sse::{Piece, Pieces};
use http::request::Parts;

use crate::{Outcome, read_answer_once, read_call_once, tools, wire};

/// As a client of an API sends them on one connection.
const HEAD: &[u8] = b"GET /v1/models/large?limit=20 HTTP/1.1\r\nHost: api.example.com\r\n\
    User-Agent: python-httpx/0.28.1\r\nAccept: application/json\r\nAccept-Encoding: gzip, deflate, br\r\n\
    Authorization: Bearer 0123456789abcdef0123456789abcdef\r\nConnection: keep-alive\r\n\r\n";

/// Of a real client; the byte before it says where the fuzz target cuts it in two.
const HELLO: &[u8] = include_bytes!("../../tests/__fuzz__/client_hello/corpus/h2_and_http1");

/// Of a stream of which nobody knows what it says.
const EVENT: &[u8] = b"event: tick\nid: 17\ndata: {\"now\": 1767225600}\n\n";

pub(crate) fn run(operation: &str, count: usize) -> Outcome {
    match operation {
        "http1_gate" => http1_gate(count),
        "http1_meaning" => http1_meaning(count),
        "client_hello" => client_hello(count),
        "event" => events(count),
        "mcp_call" => {
            let call = tools::mcp_call_bytes();
            times(count, || tools::read_mcp_call_once(&call))
        }
        "call_messages" => {
            let call = wire::calls().into_iter().find(|it| it.name == operation);
            let call = call.ok_or("no such call")?;
            times(count, || read_call_once(&call))
        }
        "answer_messages" => {
            let answer = wire::answers().into_iter().find(|it| it.name == operation);
            let answer = answer.ok_or("no such answer")?;
            times(count, || read_answer_once(&answer))
        }
        other => Err(format!("no operation `{other}`").into()),
    }
}

fn times(count: usize, mut work: impl FnMut() -> Outcome) -> Outcome {
    (0..count).try_for_each(|_| work())
}

/// Requests on one connection.
fn http1_gate(count: usize) -> Outcome {
    let mut gate = Gate::default();
    times(count, || {
        gate.push(black_box(HEAD));
        let passed = gate.passed().split();
        match passed.len() == HEAD.len() && gate.position() == Position::BetweenRequests {
            true => Ok(()),
            false => Err("a head did not pass".into()),
        }
    })
}

/// What is read of a head that has been parsed, and what of it is passed on. The copy of the head is in it.
fn http1_meaning(count: usize) -> Outcome {
    let parts = parsed()?;
    times(count, || {
        let mut parts = black_box(&parts).clone();
        let meaning = Request::read(&parts, Scheme::Https)?;
        let bound = binds_connection(&parts.headers);
        strip_hop_by_hop(&mut parts.headers);
        match bound || parts.headers.contains_key("connection") {
            true => Err("not read as it is written".into()),
            false => {
                black_box(meaning.target());
                Ok(())
            }
        }
    })
}

/// [`HEAD`] as a parser reads it.
fn parsed() -> Result<Parts, Box<dyn std::error::Error>> {
    let text = std::str::from_utf8(HEAD)?;
    let mut lines = text.trim_end().split("\r\n");
    let target = lines.next().and_then(|line| line.split(' ').nth(1));
    let mut request = http::Request::get(target.ok_or("no target")?);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        request = request.header(name, value);
    }
    Ok(request.body(())?.into_parts().0)
}

fn client_hello(count: usize) -> Outcome {
    let (_, hello) = HELLO.split_first().ok_or("no hello")?;
    times(count, || {
        match HelloReader::default().push(black_box(hello))? {
            Progress::Hello(hello) if hello.server_name.is_some() => {
                black_box(hello);
                Ok(())
            }
            other => Err(format!("{other:?}").into()),
        }
    })
}

/// Each a write of its server's.
fn events(count: usize) -> Outcome {
    let mut pieces = Pieces::new(4096);
    let mut ended = 0;
    times(count, || {
        pieces.push(black_box(EVENT), &mut |piece| {
            ended += usize::from(matches!(piece, Piece::End { .. }));
        });
        Ok(())
    })?;
    match ended == count {
        true => Ok(()),
        false => Err(format!("{ended} events of {count}").into()),
    }
}

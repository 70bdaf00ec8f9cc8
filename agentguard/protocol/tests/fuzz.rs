//! What hostile bytes are read by: any bytes are read or refused, in any pieces alike, without a
//! panic and within the bounds.
//!
//! Under `cargo test` each target reads its corpus (`tests/__fuzz__/NAME/corpus`) and random bytes for a
//! moment; `cargo bolero test NAME` goes on for as long as one likes.

use std::ops::ControlFlow;
use std::time::Duration;

use agentguard_model::CanonicalPath;
use agentguard_protocol::authority::Authority;
use agentguard_protocol::client_hello::{HelloReader, Progress};
use agentguard_protocol::content::{Coding, Codings, Decoder, PIECE, Undecodable};
use agentguard_protocol::first_bytes::{FirstBytes, MOST_NEEDED, classify};
use agentguard_protocol::http1::Gate;
use agentguard_protocol::proxy_answer::{MAX_ANSWER, read_answer};
use agentguard_protocol::sse;
use agentguard_protocol::tunnel::{self, read_connect, read_socks_greeting, read_socks_request};
use agentguard_protocol::websocket::extensions::Offers;
use agentguard_protocol::websocket::{Assembler, Ends, Part, Reader, Side};

/// How long each target runs under `cargo test`.
const MOMENT: Duration = Duration::from_secs(2);

/// Cuts an input in two, where its first byte says.
fn cut(input: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let Some((at, bytes)) = input.split_first() else {
        return (&[], &[], &[]);
    };
    let (one, two) = bytes.split_at(usize::from(*at) * bytes.len() / 256);
    (bytes, one, two)
}

fn hello(pieces: &[&[u8]]) -> String {
    let mut reader = HelloReader::default();
    for piece in pieces {
        match reader.push(piece) {
            Ok(Progress::NeedMore) => {}
            Ok(Progress::Hello(hello)) => return format!("{hello:?}"),
            // Which of two faults is seen first may depend on the pieces.
            Err(_) => return "refused".to_owned(),
        }
    }
    "more".to_owned()
}

#[test]
fn client_hello() {
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let (bytes, one, two) = cut(input);
        assert_eq!(hello(&[bytes]), hello(&[one, two]));
    });
}

/// What has passed, and why the rest has not.
fn gate(pieces: &[&[u8]]) -> (Vec<u8>, String) {
    let mut gate = Gate::default();
    let mut passed = Vec::new();
    for piece in pieces {
        gate.push(piece);
        passed.extend_from_slice(&gate.passed().split());
    }
    gate.end();
    passed.extend_from_slice(&gate.passed().split());
    (passed, format!("{:?}", gate.refused()))
}

#[test]
fn http1_gate() {
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let (bytes, one, two) = cut(input);
        let whole = gate(&[bytes]);
        assert_eq!(whole, gate(&[one, two]));
        // Nothing is changed but for empty lines, which are left out.
        let mut left = bytes.iter();
        for passed in &whole.0 {
            let found = left.find(|byte| !matches!(byte, b'\r' | b'\n') || *byte == passed);
            assert_eq!(found, Some(passed));
        }
    });
}

#[test]
fn canonical_path() {
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let Ok(text) = std::str::from_utf8(input) else {
            return;
        };
        let Ok(path) = CanonicalPath::parse(text) else {
            return;
        };
        // It is the one spelling, and leads nowhere up.
        let again = CanonicalPath::parse(path.as_str()).unwrap();
        assert_eq!(again, path);
        assert!(
            path.as_str()
                .split('/')
                .all(|part| part != ".." && part != ".")
        );
        assert!(path.as_str().starts_with('/'));
    });
}

#[test]
fn tunnels() {
    fn used<T, E>(read: &Result<tunnel::Progress<T>, E>) -> usize {
        match read {
            Ok(tunnel::Progress::Done(_, used)) => *used,
            _ => 0,
        }
    }
    bolero::check!()
        .with_test_time(MOMENT)
        .for_each(|input: &[u8]| {
            let connect = [b"CONNECT ", input].concat();
            assert!(used(&read_connect(&connect)) <= connect.len());
            assert!(used(&read_socks_greeting(input)) <= input.len());
            assert!(used(&read_socks_request(input)) <= input.len());
        });
}

#[test]
fn first_bytes() {
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let (bytes, one, _) = cut(input);
        let (whole, part) = (classify(bytes), classify(one));
        let open = |it| [FirstBytes::NeedMore, FirstBytes::Line].contains(&it);
        assert!(open(part) || part == whole);
        assert!(whole != FirstBytes::NeedMore || bytes.len() < MOST_NEEDED);
    });
}

#[test]
fn authority() {
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let Ok(text) = std::str::from_utf8(input) else {
            return;
        };
        if let Ok(authority) = Authority::parse(text) {
            let normal = authority.normal(80);
            assert_eq!(Authority::parse(&normal).unwrap().normal(80), normal);
        }
    });
}

/// What came out, within a bound, and how it ended.
fn decoded(codings: &Codings, pieces: &[&[u8]]) -> (Vec<u8>, Result<(), Undecodable>) {
    const ALLOWED: u64 = 1 << 20;
    let mut decoder = Decoder::new(codings, ALLOWED);
    let mut text = Vec::new();
    for piece in pieces {
        let pushed = decoder.push(piece, &mut |piece| {
            assert!((1..=PIECE).contains(&piece.len()));
            text.extend_from_slice(piece);
            ControlFlow::Continue(())
        });
        // What was broken stays so.
        assert!(pushed.is_ok() || decoder.finish() == pushed.map(|_| ()));
    }
    assert!(text.len() as u64 <= ALLOWED);
    (text, decoder.finish())
}

#[test]
fn content() {
    const ALL: [Coding; 4] = [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd];
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let (bytes, ..) = cut(input);
        // One or two codings, by two digits of the first byte.
        let Some((which, bytes)) = bytes.split_first() else {
            return;
        };
        let digit = |shift: u8| ALL.get(usize::from(which >> shift & 7)).copied();
        let codings: Codings = [digit(0), digit(3)].into_iter().flatten().collect();
        let (one, two) = bytes.split_at(usize::from(input[0]) * bytes.len() / 256);
        let (whole, ended) = decoded(&codings, &[bytes]);
        let (parts, parts_ended) = decoded(&codings, &[one, two]);
        assert_eq!(ended.is_ok(), parts_ended.is_ok());
        // How much comes out before an error may depend on the pieces.
        let common = whole.len().min(parts.len());
        assert_eq!(whole.get(..common), parts.get(..common));
        assert!(ended.is_err() || whole.len() == parts.len());
    });
}

/// Messages' sizes, and what they say where that was kept.
type Messages = Vec<(u64, Option<Vec<u8>>)>;

/// What the messages are, and why there are no more.
fn messages(side: Side, pieces: &[&[u8]]) -> (Messages, String) {
    const KEPT: usize = 1024;
    let mut reader = Reader::new(side, true);
    let mut assembler = Assembler::new(KEPT, true);
    let mut have = Vec::new();
    let mut messages = Vec::new();
    for piece in pieces {
        have.extend_from_slice(piece);
        loop {
            let part = match reader.next(&have) {
                Ok(Some(part)) => part,
                Ok(None) => break,
                Err(violation) => return (messages, violation.to_string()),
            };
            let used = match part {
                Part::Control { used, .. } | Part::Ignored { used } => used,
                Part::Head { used, head } => {
                    if head.opcode != agentguard_protocol::websocket::Opcode::Continuation {
                        assembler.begin(&head);
                    }
                    used
                }
                Part::Payload { used, plain, ends } => {
                    let pushed = assembler.push(plain);
                    let ended = match ends {
                        Ends::Message => pushed.and_then(|()| assembler.end()),
                        _ => pushed,
                    };
                    if ended.is_err() {
                        // Which of two faults is seen first may depend on the pieces.
                        return (messages, "assembling".to_owned());
                    }
                    let message = assembler.message();
                    let kept = message.content.map(<[u8]>::to_vec);
                    assert!(
                        kept.as_ref()
                            .is_none_or(|kept| kept.len() as u64 == message.size)
                    );
                    assert!(kept.is_some() || message.size > KEPT as u64);
                    if ends == Ends::Message {
                        messages.push((message.size, kept));
                    }
                    used
                }
            };
            assert!(used <= have.len());
            have.drain(..used);
        }
        assert!(have.len() < Reader::MOST_NEEDED);
    }
    (messages, String::new())
}

#[test]
fn websocket() {
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let (bytes, one, two) = cut(input);
        // A client's bit of the second byte says whose frames they are.
        let side = match bytes.get(1) {
            Some(byte) if byte & 0x80 != 0 => Side::Client,
            _ => Side::Server,
        };
        assert_eq!(messages(side, &[bytes]), messages(side, &[one, two]));
    });
}

#[test]
fn websocket_extensions() {
    bolero::check!()
        .with_test_time(MOMENT)
        .for_each(|input: &[u8]| {
            let Ok(value) = http::HeaderValue::from_bytes(input) else {
                return;
            };
            let field = (http::header::SEC_WEBSOCKET_EXTENSIONS, value);
            let mut fields: http::HeaderMap = [field].into_iter().collect();
            if let Ok(offers) = Offers::read(&fields) {
                // What is offered on is read as the same, and nothing else.
                offers.write(&mut fields);
                assert_eq!(Offers::read(&fields), Ok(offers));
            }
        });
}

/// Each event's type, data and id.
type Events = Vec<(Vec<u8>, Option<Vec<u8>>, Vec<u8>)>;

/// What the events are.
fn events(pieces: &[&[u8]]) -> Events {
    const BOUND: usize = 32;
    let mut parser = sse::Parser::new(BOUND);
    let mut events = Vec::new();
    for piece in pieces {
        parser.push(piece, &mut |event| {
            let data = event.data.map(<[u8]>::to_vec);
            assert!(data.as_ref().is_none_or(|data| data.len() < BOUND));
            assert!(event.id.len() < BOUND && event.kind.len() < BOUND);
            events.push((event.kind.to_vec(), data, event.id.to_vec()));
        });
    }
    events
}

#[test]
fn event_stream() {
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let (bytes, one, two) = cut(input);
        let whole = events(&[bytes]);
        assert_eq!(whole, events(&[one, two]));
        let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(whole, events(&pieces));
    });
}

#[test]
fn proxy_answer() {
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let (bytes, one, _) = cut(input);
        let whole = read_answer(bytes);
        if let Ok(tunnel::Progress::Done(_, used)) = whole {
            assert!(used <= bytes.len().min(MAX_ANSWER));
        }
        // What is known from a part stays so.
        let part = read_answer(one);
        assert!(part == whole || part == Ok(tunnel::Progress::NeedMore));
    });
}

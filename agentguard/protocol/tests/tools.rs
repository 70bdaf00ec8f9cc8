//! Targets of what reads messages to servers of tools: any split of the same bytes gives the same.

use std::time::Duration;

use agentguard_protocol::mcp::{
    AnswerReader, Claims, ListFilter, MAX_PARTS, MessageReader, may_list, parts,
};
use agentguard_protocol::sse::{Piece, Pieces};

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
    const LIMIT: usize = 64 * 1024;
    let mut reader = MessageReader::new(LIMIT);
    for piece in pieces {
        reader.push(piece).ok()?;
    }
    assert!(reader.used() <= LIMIT);
    let sent = reader.finish("server", &Claims::default(), &["/a", "/b/0", ""]);
    sent.ok().map(|sent| format!("{sent:?}"))
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

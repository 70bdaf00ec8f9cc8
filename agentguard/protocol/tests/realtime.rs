//! Targets of what reads sessions in real time: any split of the same bytes gives the same, and whatever both sides say
//! in whatever order, a session is not thought to offer less than it may.

use std::time::Duration;

use agentguard_protocol::llm::MAX_TOOL_CALLS;
use agentguard_protocol::llm::realtime::{
    ClientReader, Heard, Of, Offer, Replies, ServerReader, Session, model_of,
};

/// How long each target runs under `cargo test`.
const MOMENT: Duration = Duration::from_secs(2);

/// The bytes behind the first one, and where that cuts them in two.
fn cut(input: &[u8]) -> Option<(&[u8], [&[u8]; 2])> {
    let (at, bytes) = input.split_first()?;
    let (one, two) = bytes.split_at(usize::from(*at) * bytes.len() / 256);
    Some((bytes, [one, two]))
}

/// What an event is, or that it is not understood: which fault is seen first may depend on the pieces.
fn client(pieces: &[&[u8]]) -> Option<String> {
    let mut reader = ClientReader::default();
    for piece in pieces {
        reader.push(piece).ok()?;
    }
    reader.finish().ok().map(|event| format!("{event:?}"))
}

#[test]
fn realtime_client() {
    bolero::check!()
        .with_test_time(MOMENT)
        .for_each(|input: &[u8]| {
            let Some((bytes, split)) = cut(input) else {
                return;
            };
            let whole = client(&[bytes]);
            assert_eq!(whole, client(&split));
            let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(whole, client(&pieces));
            if let Ok(query) = std::str::from_utf8(bytes) {
                let model = model_of(query);
                assert!(!model.is_ok_and(|model| model.is_some_and(|model| model.is_empty())));
            }
        });
}

fn heard(pieces: &[&[u8]]) -> Option<Heard> {
    let mut reader = ServerReader::default();
    for piece in pieces {
        reader.push(piece).ok()?;
    }
    reader.finish().ok()
}

/// Lines are events.
#[test]
fn realtime_server() {
    bolero::check!()
        .with_test_time(MOMENT)
        .for_each(|input: &[u8]| {
            let Some((bytes, split)) = cut(input) else {
                return;
            };
            let told = |heard: Option<Heard>| heard.map(|it| format!("{it:?}"));
            assert_eq!(told(heard(&[bytes])), told(heard(&split)));
            let mut replies = Replies::default();
            for line in bytes.split(|byte| *byte == b'\n') {
                let pieces: Vec<&[u8]> = line.chunks(1).collect();
                let whole = heard(&[line]);
                assert_eq!(format!("{whole:?}"), format!("{:?}", heard(&pieces)));
                match whole {
                    Some(Heard::Reply(reply)) => replies.hear(*reply, Some("m")),
                    Some(Heard::Transcribed(usage)) => replies.transcribed(usage),
                    _ => {}
                }
            }
            assert!(replies.finish().tool_calls.len() <= MAX_TOOL_CALLS);
        });
}

/// Lines are events of either side: those of the client that a server has not answered are as it pleases in force.
#[test]
fn realtime_session() {
    bolero::check!()
        .with_test_time(MOMENT)
        .for_each(|input: &[u8]| {
            let mut session = Session::new(Some("m".to_owned()));
            let mut waiting: Vec<Offer> = Vec::new();
            for line in input.split(|byte| *byte == b'\n') {
                let mut reader = ClientReader::default();
                let event = reader.push(line).and_then(|()| reader.finish());
                if let Ok(event) = event
                    && event.of == Of::Session
                    && session.call(&event.given).is_ok()
                    && let Ok(offer) = session.offer(&event.given)
                {
                    session.sent_update(&event.given).unwrap();
                    waiting.push(offer);
                }
                match heard(&[line]) {
                    Some(Heard::Session { told, updated }) => {
                        session.told(told, updated);
                        if session.is_settled() {
                            waiting.clear();
                        }
                    }
                    Some(Heard::Error { .. }) => session.failed(),
                    _ => {}
                }
                let offers = session.offers();
                assert!(session.known().is_within(&offers));
                assert!(waiting.iter().all(|offer| offer.is_within(&offers)));
            }
        });
}

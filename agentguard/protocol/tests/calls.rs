//! Targets of what reads calls of language models: any split of the same bytes gives the same.

use std::collections::BTreeSet;
use std::time::Duration;

use agentguard_protocol::llm::{
    AnswerReader, CallReader, Cutter, Endpoint, EventReader, InvokeForm, TurnAnswer, TurnReader,
};
use agentguard_protocol::sse::{Piece, Pieces};
use agentguard_protocol::{eventstream, json};

/// How long each target runs under `cargo test`.
const MOMENT: Duration = Duration::from_secs(2);

/// New ones come last: inputs name them by number.
const ENDPOINTS: [Endpoint; 22] = [
    Endpoint::ChatCompletions,
    Endpoint::Completions,
    Endpoint::Embeddings,
    Endpoint::Responses,
    Endpoint::ResponsesTokens,
    Endpoint::Messages,
    Endpoint::MessagesTokens,
    Endpoint::GenerateContent { stream: true },
    Endpoint::ContentTokens,
    Endpoint::EmbedContent,
    Endpoint::PredictMessages { stream: true },
    Endpoint::OllamaChat,
    Endpoint::OllamaGenerate,
    Endpoint::OllamaEmbed,
    Endpoint::Converse { stream: true },
    Endpoint::BedrockTokens,
    Endpoint::Invoke {
        stream: true,
        form: InvokeForm::Messages,
    },
    Endpoint::Invoke {
        stream: false,
        form: InvokeForm::Chat,
    },
    Endpoint::CohereChat,
    Endpoint::CohereEmbed,
    Endpoint::MessageBatches,
    Endpoint::CohereGenerate,
];

type Input<'a> = (Endpoint, &'a [u8], [&'a [u8]; 2]);

/// An endpoint by the first byte of an input; the rest, and where its second byte cuts that in two.
fn input(input: &[u8]) -> Option<Input<'_>> {
    let [which, at, bytes @ ..] = input else {
        return None;
    };
    let endpoint = ENDPOINTS.get(usize::from(*which) % ENDPOINTS.len())?;
    let (one, two) = bytes.split_at(usize::from(*at) * bytes.len() / 256);
    Some((*endpoint, bytes, [one, two]))
}

/// What a document is, written down again.
#[derive(Default)]
struct Seen(Vec<String>);

impl json::Sink for Seen {
    fn take(&mut self, path: &json::Path, event: json::Event<'_>) {
        // Pieces of one string are one.
        if let (json::Event::Text(text), Some(last)) = (event, self.0.last_mut())
            && last.starts_with('"')
        {
            last.push_str(text);
            return;
        }
        self.0.push(match event {
            json::Event::Text(text) => format!("\"{text}"),
            event => format!("{:?} {event:?}", path.parts().steps()),
        });
    }
}

fn document(pieces: &[&[u8]]) -> Option<Vec<String>> {
    let mut scanner = json::Scanner::default();
    let mut seen = Seen::default();
    let pushed = pieces
        .iter()
        .try_for_each(|piece| scanner.push(piece, &mut seen));
    pushed.and_then(|()| scanner.finish(&mut seen)).ok()?;
    Some(seen.0)
}

#[test]
fn json_document() {
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let Some((_, bytes, split)) = self::input(input) else {
            return;
        };
        let whole = document(&[bytes]);
        assert_eq!(whole, document(&split));
        let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(whole, document(&pieces));
        // What is read, others read too.
        if whole.is_some() {
            serde_json::from_slice::<serde::de::IgnoredAny>(bytes).unwrap();
        }
    });
}

/// What a call asks for, or that it is not understood: which fault is seen first may depend on the pieces.
fn call(endpoint: Endpoint, pieces: &[&[u8]]) -> Option<String> {
    let mut reader = CallReader::new(endpoint);
    for piece in pieces {
        reader.push(piece).ok()?;
    }
    reader.finish().ok().map(|call| format!("{call:?}"))
}

#[test]
fn llm_call() {
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let Some((endpoint, bytes, split)) = self::input(input) else {
            return;
        };
        let whole = call(endpoint, &[bytes]);
        assert_eq!(whole, call(endpoint, &split));
        let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(whole, call(endpoint, &pieces));
    });
}

/// Random bytes alone come to no call: each endpoint has an input in the corpus that is one, which others begin with.
#[test]
fn each_endpoint_has_a_call_in_the_corpus() {
    let corpus = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/__fuzz__/llm_call/corpus"
    );
    let mut missing = ENDPOINTS.to_vec();
    for entry in std::fs::read_dir(corpus).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let (endpoint, bytes, _) = input(&bytes).unwrap();
        if call(endpoint, &[bytes]).is_some() {
            missing.retain(|it| *it != endpoint);
        }
    }
    assert_eq!(missing, []);
}

/// What a message on a WebSocket is, or that it is not understood.
fn turn(pieces: &[&[u8]]) -> Option<String> {
    let mut reader = TurnReader::default();
    for piece in pieces {
        reader.push(piece).ok()?;
    }
    reader.finish().ok().map(|turn| format!("{turn:?}"))
}

/// What an event on one says, or that it is not understood.
fn turn_event(pieces: &[&[u8]]) -> Option<String> {
    let mut reader = EventReader::hearing();
    for piece in pieces {
        reader.push(piece).ok()?;
    }
    let event = reader.finish().ok()??;
    let told = format!("{:?} {:?}", event.lane, event.response);
    let mut answer = TurnAnswer::default();
    answer.hear(event);
    let written = answer.written(agentguard_protocol::llm::Written::clone);
    let asks = answer.asks().ok();
    let mut said = answer.finish();
    said.not_understood = said.not_understood.map(|_| String::new());
    Some(format!("{told} {asks:?} {written:?} {said:?}"))
}

#[test]
fn llm_turn() {
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let Some((_, bytes, split)) = self::input(input) else {
            return;
        };
        let whole = turn(&[bytes]);
        assert_eq!(whole, turn(&split));
        let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(whole, turn(&pieces));
        let event = turn_event(&[bytes]);
        assert_eq!(event, turn_event(&split));
        assert_eq!(event, turn_event(&pieces));
    });
}

/// In what an answer comes.
#[derive(Clone, Copy, Debug)]
enum Framing {
    Document,
    Events,
    Lines,
    Messages,
}

/// What a model has written: its text, and how many bytes there are beside.
#[derive(Debug, Default)]
struct Heard(String, u64, u64);

impl Heard {
    fn drain(&mut self, reader: &mut AnswerReader) {
        reader.written(|written| {
            written.pieces().for_each(|piece| self.0.push_str(piece));
            self.1 += written.beyond();
            self.2 += written.media();
        });
    }
}

/// What comes of it, but for where a fault is.
fn answer(endpoint: Endpoint, framing: Framing, pieces: &[&[u8]]) -> String {
    let mut reader = AnswerReader::new(endpoint);
    reader.hears_what_is_written();
    let mut heard = Heard::default();
    let mut stream = Pieces::new(64);
    let mut messages = eventstream::Reader::default();
    for piece in pieces {
        match framing {
            Framing::Document => reader.whole(piece),
            Framing::Events => stream.push(piece, &mut |piece| match piece {
                Piece::Data(data) => reader.data(data),
                Piece::End { kind, .. } => reader.event_ends(kind),
            }),
            Framing::Lines => reader.lines(piece),
            Framing::Messages => {
                let read = messages.push(piece, &mut |piece| match piece {
                    eventstream::Piece::Head(head) => reader.event_begins(&head),
                    eventstream::Piece::Payload(payload) => reader.data(payload),
                    eventstream::Piece::End => reader.event_ends(&[]),
                });
                if let Err(fault) = read {
                    reader.give_up(fault.into());
                }
            }
        }
        heard.drain(&mut reader);
    }
    if matches!(framing, Framing::Document) {
        reader.whole_ends();
        heard.drain(&mut reader);
    }
    // How much is heard before a fault may depend on the pieces.
    let heard = reader.is_heard().then_some(heard);
    let mut told = reader.finish();
    assert!(told.tool_calls.len() <= agentguard_protocol::llm::MAX_TOOL_CALLS);
    told.not_understood = told.not_understood.map(|_| String::new());
    format!("{told:?} {heard:?}")
}

#[test]
fn llm_answer() {
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let Some((endpoint, bytes, split)) = self::input(input) else {
            return;
        };
        for framing in [
            Framing::Document,
            Framing::Events,
            Framing::Lines,
            Framing::Messages,
        ] {
            let whole = answer(endpoint, framing, &[bytes]);
            assert_eq!(whole, answer(endpoint, framing, &split));
            let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(whole, answer(endpoint, framing, &pieces));
        }
    });
}

/// The tools that the answer is known to ask for.
fn names(reader: &AnswerReader) -> Option<BTreeSet<String>> {
    Some(reader.asks().ok()?.into_iter().collect())
}

fn cut_out(cutter: &mut Cutter, tool: &str) {
    cutter.cut(tool.to_owned(), "cut".to_owned());
}

/// A stream of events as it is passed on, with what was denied of it: every second name. None where it is refused.
fn without(endpoint: Endpoint, bytes: &[u8]) -> Option<(Vec<u8>, BTreeSet<String>)> {
    let (mut reader, mut pieces) = (AnswerReader::new(endpoint), Pieces::new(64));
    let mut cutter = Cutter::new(endpoint);
    let (mut known, mut denied) = (BTreeSet::new(), BTreeSet::new());
    let (mut out, mut event) = (Vec::new(), Vec::new());
    for byte in bytes {
        event.push(*byte);
        pieces.push(&[*byte], &mut |piece| match piece {
            Piece::Data(data) => reader.data(data),
            Piece::End { kind, .. } => reader.event_ends(kind),
        });
        if !pieces.is_between() {
            continue;
        }
        for name in names(&reader)? {
            if known.insert(name.clone()) && known.len() % 2 == 1 {
                cut_out(&mut cutter, &name);
                denied.insert(name);
            }
        }
        match cutter.sse(&event).ok()? {
            Some(instead) => out.extend(instead),
            None => out.extend_from_slice(&event),
        }
        event.clear();
    }
    Some((out, denied))
}

/// As [`without`], of a stream that is one list: what is passed on is one as well, wherever it ends between two items.
fn without_in_list(endpoint: Endpoint, bytes: &[u8]) -> Option<(Vec<u8>, BTreeSet<String>)> {
    let mut reader = AnswerReader::new(endpoint);
    let mut cutter = Cutter::new(endpoint);
    let (mut known, mut denied) = (BTreeSet::new(), BTreeSet::new());
    let (mut out, mut item, mut gone) = (Vec::new(), Vec::new(), json::Place::Before);
    for byte in bytes {
        item.push(*byte);
        reader.whole(&[*byte]);
        let place = match reader.place() {
            _ if reader.is_lost() => return None,
            Some(place @ (json::Place::Behind | json::Place::Over)) => place,
            _ => continue,
        };
        for name in names(&reader)? {
            if known.insert(name.clone()) && known.len() % 2 == 1 {
                cut_out(&mut cutter, &name);
                denied.insert(name);
            }
        }
        let over = place == json::Place::Over;
        gone = match cutter.list(&item, gone, over).ok()? {
            Some((instead, gone)) => {
                out.extend(instead);
                gone
            }
            None => {
                out.extend_from_slice(&item);
                place
            }
        };
        item.clear();
        let ended = [out.as_slice(), &gone.ends_with(b"{}")].concat();
        assert!(
            document(&[&ended]).is_some(),
            "{}",
            String::from_utf8_lossy(&ended)
        );
    }
    (gone == json::Place::Over).then_some((out, denied))
}

#[test]
fn llm_cut() {
    bolero::check!().with_test_time(MOMENT).for_each(|input| {
        let Some((endpoint, bytes, _)) = self::input(input) else {
            return;
        };
        if let Some((went, denied)) = without(endpoint, bytes) {
            let asked = |bytes: &[u8]| {
                let (mut reader, mut pieces) = (AnswerReader::new(endpoint), Pieces::new(64));
                pieces.push(bytes, &mut |piece| match piece {
                    Piece::Data(data) => reader.data(data),
                    Piece::End { kind, .. } => reader.event_ends(kind),
                });
                names(&reader)
            };
            let (came, went) = (asked(bytes).unwrap(), asked(&went).unwrap());
            assert!(went.is_disjoint(&denied), "{went:?} {denied:?}");
            assert!(came.difference(&denied).eq(went.iter()));
        }
        if endpoint.streams_list()
            && let Some((went, denied)) = without_in_list(endpoint, bytes)
        {
            let asked = |bytes: &[u8]| {
                let mut reader = AnswerReader::new(endpoint);
                reader.whole(bytes);
                reader.whole_ends();
                names(&reader)
            };
            let (came, went) = (asked(bytes).unwrap(), asked(&went).unwrap());
            assert!(came.difference(&denied).eq(went.iter()));
        }
        let mut reader = AnswerReader::new(endpoint);
        reader.whole(bytes);
        reader.whole_ends();
        let (Some(came), Ok(document)) = (names(&reader), json::Value::read(bytes, 1 << 20)) else {
            return;
        };
        let mut cutter = Cutter::new(endpoint);
        let denied: BTreeSet<String> = came.iter().step_by(2).cloned().collect();
        denied.iter().for_each(|tool| cut_out(&mut cutter, tool));
        if let Ok(Some(written)) = cutter.document(document) {
            let mut reader = AnswerReader::new(endpoint);
            reader.whole(written.as_bytes());
            reader.whole_ends();
            let went = names(&reader).unwrap();
            assert!(came.difference(&denied).eq(went.iter()));
        }
        // No message of it is one that stops the reader.
        let _ = cutter.event_stream(bytes);
    });
}

/// What a stream of AWS's says, and how it ends. Payloads in one piece.
fn messages(pieces: &[&[u8]]) -> (Vec<String>, Result<(), eventstream::Fault>) {
    let mut reader = eventstream::Reader::default();
    let mut told: Vec<String> = Vec::new();
    for piece in pieces {
        let read = reader.push(piece, &mut |piece| match (piece, told.last_mut()) {
            (eventstream::Piece::Payload(payload), Some(last)) => {
                payload.iter().for_each(|byte| last.push(char::from(*byte)));
            }
            (piece, _) => told.push(format!("{piece:?}")),
        });
        if read.is_err() {
            return (told, read);
        }
    }
    (told, reader.finish())
}

/// With the checksums that its lengths ask for: no fuzzer finds those.
fn with_checksums(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    let checksum = crc32fast::hash(bytes.get(..8)?);
    bytes
        .get_mut(8..12)?
        .copy_from_slice(&checksum.to_be_bytes());
    let total = u32::from_be_bytes(*bytes.first_chunk()?);
    let end = usize::try_from(total).ok()?.checked_sub(4)?;
    let checksum = crc32fast::hash(bytes.get(..end)?);
    bytes
        .get_mut(end..end + 4)?
        .copy_from_slice(&checksum.to_be_bytes());
    Some(bytes)
}

#[test]
fn aws_event_stream() {
    bolero::check!()
        .with_test_time(MOMENT)
        .for_each(|input: &[u8]| {
            let right = with_checksums(input);
            for bytes in [Some(input), right.as_deref()].into_iter().flatten() {
                let whole = messages(&[bytes]);
                let (one, two) = bytes.split_at(bytes.len() / 3);
                assert_eq!(whole, messages(&[one, two]));
                let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
                assert_eq!(whole, messages(&pieces));
            }
        });
}

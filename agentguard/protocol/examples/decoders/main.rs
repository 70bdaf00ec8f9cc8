//! What decoding costs: `decoders`, and `decoders repeat OPERATION COUNT`.
//!
//! Prints each figure as a line of JSON: `case`, `subject`, `metric`, `unit`, `value`. Each case is decoded whole and in
//! pieces as a socket gives them; beside it a common parser reads the same documents into values, where the bytes are
//! some. `cargo xtask bench protocol` runs it. `repeat` does one thing so many times, for `cargo xtask instructions`.

mod memory;
mod repeated;
mod session;
mod tools;
mod wire;

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use agentguard_protocol::content::{Codings, Decoder};
use agentguard_protocol::eventstream;
use agentguard_protocol::llm::{AnswerReader, CallReader, TurnReader};
use agentguard_protocol::sse::{Piece, Pieces};
use agentguard_protocol::websocket::{Part, Reader, Side};
use http::{HeaderMap, HeaderValue, header};
use serde_json::json;

use wire::{Answer, Call, Framing};

/// How much comes at once.
const PIECE: usize = 16 * 1024;

/// How long a case is measured.
const MOMENT: Duration = Duration::from_millis(250);

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => measure(),
        [task, operation, count] if task == "repeat" => repeated::run(operation, count.parse()?),
        _ => Err("usage: decoders | decoders repeat OPERATION COUNT".into()),
    }
}

fn measure() -> Outcome {
    for call in wire::calls() {
        read_call(&call)?;
    }
    for answer in wire::answers() {
        read_answer(&answer)?;
    }
    turn()?;
    session::measure()?;
    tools::measure()?;
    events()?;
    frames()?;
    gzip()
}

fn sample(case: &str, subject: &str, metric: &str, unit: &str, value: f64) {
    let line = json!({
        "case": case, "subject": subject, "metric": metric, "unit": unit, "value": value,
    });
    println!("{line}");
}

/// How long one of `work` takes, in s: the mean of as many as fit into [`MOMENT`].
fn timed(mut work: impl FnMut() -> Outcome) -> Result<f64, Box<dyn Error>> {
    work()?;
    let begun = Instant::now();
    let mut count = 0_u32;
    while begun.elapsed() < MOMENT {
        work()?;
        count += 1;
    }
    Ok(begun.elapsed().as_secs_f64() / f64::from(count))
}

fn megabytes(bytes: usize, seconds: f64) -> Result<f64, Box<dyn Error>> {
    Ok(f64::from(u32::try_from(bytes)?) / 1e6 / seconds)
}

/// Bytes that are one document, and the common parser beside.
fn throughput(case: &str, documents: &[&[u8]], bytes: usize, ours: f64) -> Outcome {
    sample(
        case,
        "agentguard",
        "throughput",
        "MB/s",
        megabytes(bytes, ours)?,
    );
    let theirs = timed(|| {
        for document in documents {
            black_box(serde_json::from_slice::<serde_json::Value>(document)?);
        }
        Ok(())
    })?;
    let theirs = megabytes(bytes, theirs)?;
    sample(case, "serde_json", "throughput", "MB/s", theirs);
    Ok(())
}

fn read_call(call: &Call) -> Outcome {
    let seconds = timed(|| read_call_once(call))?;
    throughput(call.name, &[&call.body], call.body.len(), seconds)
}

fn read_call_once(call: &Call) -> Outcome {
    let mut reader = CallReader::new(call.endpoint);
    for piece in call.body.chunks(PIECE) {
        reader.push(piece)?;
    }
    let read = reader.finish()?;
    if read.tools.len() != wire::TOOLS {
        return Err(format!("{}: {} tools", call.name, read.tools.len()).into());
    }
    black_box(read);
    Ok(())
}

fn turn() -> Outcome {
    let body = wire::turn();
    let seconds = timed(|| {
        let mut reader = TurnReader::default();
        for piece in body.chunks(PIECE) {
            reader.push(piece)?;
        }
        black_box(reader.finish()?);
        Ok(())
    })?;
    throughput("turn", &[&body], body.len(), seconds)
}

/// A stream as it is read in the proxy.
struct Stream {
    framing: Framing,
    events: Pieces,
    messages: eventstream::Reader,
    answer: AnswerReader,
}

impl Stream {
    fn new(answer: &Answer) -> Self {
        Self {
            framing: answer.framing,
            events: Pieces::new(4096),
            messages: eventstream::Reader::default(),
            answer: AnswerReader::new(answer.endpoint),
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Outcome {
        let answer = &mut self.answer;
        match self.framing {
            Framing::Events => self.events.push(bytes, &mut |piece| match piece {
                Piece::Data(data) => answer.data(data),
                Piece::End { kind, .. } => answer.event_ends(kind),
            }),
            Framing::Lines => answer.lines(bytes),
            Framing::Messages => self.messages.push(bytes, &mut |piece| match piece {
                eventstream::Piece::Head(head) => answer.event_begins(&head),
                eventstream::Piece::Payload(payload) => answer.data(payload),
                eventstream::Piece::End => answer.event_ends(&[]),
            })?,
        }
        Ok(())
    }
}

fn read_answer(answer: &Answer) -> Outcome {
    let seconds = timed(|| read_answer_once(answer))?;
    let bytes: usize = answer.events.iter().map(Vec::len).sum();
    throughput(answer.name, &answer.documents(), bytes, seconds)?;
    let count = f64::from(u32::try_from(answer.events.len())?);
    let each = seconds / count * 1e9;
    sample(answer.name, "agentguard", "event", "ns", each);

    // What one stream takes while it is open, at the most.
    let before = memory::live();
    let mut stream = Stream::new(answer);
    memory::forget_most();
    for event in &answer.events {
        stream.push(event)?;
    }
    let most = memory::most().saturating_sub(before) + size_of::<Stream>();
    let kibibytes = f64::from(u32::try_from(most)?) / 1024.0;
    sample(answer.name, "agentguard", "memory", "KiB", kibibytes);
    drop(black_box(stream));
    Ok(())
}

fn read_answer_once(answer: &Answer) -> Outcome {
    let mut stream = Stream::new(answer);
    // Each event is a write of its server's.
    for event in &answer.events {
        stream.push(event)?;
    }
    let told = stream.answer.finish();
    if told.not_understood.is_some() || told.tool_calls.len() != 1 || told.usage.is_none() {
        return Err(format!("{}: {told:?}", answer.name).into());
    }
    black_box(told);
    Ok(())
}

/// Event streams of which nobody knows what they say.
fn events() -> Outcome {
    let event = b"event: tick\nid: 17\ndata: {\"now\": 1767225600}\n\n";
    let bytes = event.repeat(2000);
    let seconds = timed(|| {
        let mut pieces = Pieces::new(4096);
        let mut count = 0;
        for piece in bytes.chunks(PIECE) {
            pieces.push(piece, &mut |piece| {
                count += usize::from(matches!(piece, Piece::End { .. }));
            });
        }
        match count {
            2000 => Ok(()),
            other => Err(format!("{other} events").into()),
        }
    })?;
    let rate = megabytes(bytes.len(), seconds)?;
    sample("event_stream", "agentguard", "throughput", "MB/s", rate);
    sample(
        "event_stream",
        "agentguard",
        "event",
        "ns",
        seconds / 2000.0 * 1e9,
    );
    Ok(())
}

/// A client's frames of a kilobyte.
fn frames() -> Outcome {
    let frame = wire::masked(&[b'x'; 1024]);
    let bytes = frame.repeat(1000);
    let seconds = timed(|| {
        let mut reader = Reader::new(Side::Client, false);
        let mut rest = bytes.as_slice();
        while let Some(part) = reader.next(rest)? {
            let used = match part {
                Part::Control { used, .. }
                | Part::Head { used, .. }
                | Part::Payload { used, .. }
                | Part::Ignored { used } => used,
            };
            rest = rest.get(used..).unwrap_or_default();
        }
        Ok(())
    })?;
    let rate = megabytes(bytes.len(), seconds)?;
    sample("websocket", "agentguard", "throughput", "MB/s", rate);
    Ok(())
}

/// A coded call, by what it decodes to.
fn gzip() -> Outcome {
    let Some(call) = wire::calls().into_iter().next() else {
        return Err("no call".into());
    };
    let packed = wire::packed(&call.body)?;
    let coding = HeaderValue::from_static("gzip");
    let fields = HeaderMap::from_iter([(header::CONTENT_ENCODING, coding)]);
    let codings = Codings::read(&fields)?;
    let seconds = timed(|| {
        let mut size = 0;
        let mut decoder = Decoder::new(&codings, u64::MAX);
        let _ = decoder.push(&packed, &mut |bytes| {
            size += bytes.len();
            std::ops::ControlFlow::Continue(())
        })?;
        match size == call.body.len() {
            true => Ok(()),
            false => Err(format!("{size} bytes").into()),
        }
    })?;
    let rate = megabytes(call.body.len(), seconds)?;
    sample("gzip", "agentguard", "throughput", "MB/s", rate);
    Ok(())
}

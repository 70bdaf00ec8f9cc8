//! HTTP at an origin: the path says how it behaves.
//!
//! | path | answer |
//! | --- | --- |
//! | `/` and whatever is not below | what arrived, as JSON, once the body is there |
//! | `/status/CODE` | that status, with the JSON |
//! | `/bytes/N` | N bytes with a length |
//! | `/chunked/N` | N bytes without one |
//! | `/sse/N` | N server-sent events, 10 ms apart; in gzip for a client that accepts it |
//! | `/trickle/N` | N bytes, one every 10 ms |
//! | `/delay/MS` | the JSON, that much later |
//! | `/reset/N` | N bytes of more, then a reset |
//! | `/truncate/N` | N bytes of more, then a plain end |
//! | `/hangup` | none: the connection ends |
//! | `/early` | 413 before the body is read |
//! | `/files/PATH` | a file, where the origin has some; its `index.html` for a directory |
//!
//! With the query `?h3`, an answer says that the origin speaks HTTP/3 too, which nobody does there.
//!
//! With the field `x-answer`, a type and bytes in hexadecimal behind it, the answer is these bytes, of that type.
//!
//! The endpoints of LLM APIs have paths of their own below `/v1/`, and stream at the pace of `/sse`.
//! With the field `x-hold`, the second half of a stream's events waits until another request has
//! arrived: a client that sends one when it has read the first event shows that events come singly.
//! With the field `x-stamp`, a comment before each event says when it was sent: nanoseconds of the
//! monotonic clock, which the processes of one machine have in common.

use std::io::{Error, Write as _};
use std::net::SocketAddr;
use std::path::{Component, Path};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::Stream;
use futures_util::stream;
use http::{Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::json;
use socket2::Socket;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::llm;
use super::log::{self, Request};
use super::{Shared, Tls};

/// The size of a piece of a body.
const PIECE: usize = 8 << 10;

/// The pace of `/sse` and `/trickle`.
const PACE: Duration = Duration::from_millis(10);

/// How much of a request's body is told back.
const TOLD: usize = 4 << 10;

type Body = UnsyncBoxBody<Bytes, Error>;

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(super) struct Client {
    local: SocketAddr,
    peer: SocketAddr,
    tls: Option<Tls>,
}

impl Client {
    pub(super) fn plain(local: SocketAddr, peer: SocketAddr) -> Self {
        Self {
            local,
            peer,
            tls: None,
        }
    }

    pub(super) fn secure(local: SocketAddr, peer: SocketAddr, tls: Tls) -> Self {
        Self {
            local,
            peer,
            tls: Some(tls),
        }
    }
}

/// The means to end a connection with a reset in place of an end of data.
#[derive(Debug)]
pub(super) struct Abort(Socket);

impl Abort {
    pub(super) fn of(stream: &TcpStream) -> Result<Self, Error> {
        use std::os::fd::AsFd as _;
        Ok(Self(stream.as_fd().try_clone_to_owned()?.into()))
    }

    /// Whenever the last descriptor is closed now, the kernel sends RST (`SO_LINGER` of zero).
    pub(super) fn reset_on_close(&self) -> Result<(), Error> {
        self.0.set_linger(Some(Duration::ZERO))
    }
}

/// Whether a connection in the clear begins as one of HTTP/2 (RFC 9113, 3.3).
pub(super) async fn begins_http2(stream: &TcpStream) -> Result<bool, Error> {
    const PREFACE: &[u8] = b"PRI";
    let mut first = [0; PREFACE.len()];
    loop {
        let length = stream.peek(&mut first).await?;
        let seen = first.get(..length).unwrap_or_default();
        if length == 0 || length == PREFACE.len() || !PREFACE.starts_with(seen) {
            return Ok(seen == PREFACE);
        }
        tokio::time::sleep(PACE).await;
    }
}

pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    h2: bool,
    client: Client,
    abort: Abort,
    shared: Arc<Shared>,
) -> Result<(), Error> {
    let abort = Arc::new(abort);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let h3 = request.uri().query() == Some("h3");
        let head = request.method() == http::Method::HEAD;
        let answer = answer(
            request,
            client.clone(),
            Arc::clone(&abort),
            Arc::clone(&shared),
        );
        async move {
            let mut response = answer.await?;
            if h3 {
                let elsewhere = header::HeaderValue::from_static("h3=\":443\"");
                response.headers_mut().insert(header::ALT_SVC, elsewhere);
            }
            if head {
                without_content(&mut response);
            }
            Ok::<_, Error>(response)
        }
    });
    let stream = TokioIo::new(stream);
    if h2 {
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .serve_connection(stream, service)
            .await
            .map_err(Error::other)
    } else {
        http1::Builder::new()
            .timer(TokioTimer::new())
            .half_close(true)
            .serve_connection(stream, service)
            .await
            .map_err(Error::other)
    }
}

/// An answer to HEAD. In HTTP/2 nobody else would leave the content away.
fn without_content(response: &mut Response<Body>) {
    let content = std::mem::replace(response.body_mut(), full(Vec::new()));
    if let Some(length) = content.size_hint().exact() {
        let length = header::HeaderValue::from(length);
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length);
    }
}

async fn answer(
    request: hyper::Request<Incoming>,
    client: Client,
    abort: Arc<Abort>,
    shared: Arc<Shared>,
) -> Result<Response<Body>, Error> {
    let seen = seen(&request, &client);
    let arrived = shared.log.request(seen.clone());
    let path = request.uri().path().to_owned();
    let mut words = path.trim_start_matches('/').splitn(2, '/');
    let kind = words.next().unwrap_or_default();
    let rest = words.next().unwrap_or_default();
    let number = rest.parse::<usize>().unwrap_or(0);
    let pace = Pace::of(&seen, &shared);
    let api = llm::Api::of(request.method(), &path);
    let (head, body) = request.into_parts();

    if kind == "early" {
        return respond(StatusCode::PAYLOAD_TOO_LARGE, text("too much\n".to_owned()));
    }
    if let Some(field) = seen.header("x-answer") {
        read(body, &arrived, 0).await?;
        return bytes_of(field);
    }
    if let Some(api) = api {
        let asked = read(body, &arrived, llm::LONGEST).await?;
        arrived.asks(&asked);
        let pace = pace.asked(&asked);
        return speak(api.answer(&head.uri, &head.headers, &asked), pace);
    }
    let told = read(body, &arrived, TOLD).await?;
    match kind {
        "hangup" => Err(Error::other("asked to hang up")),
        "bytes" => respond(StatusCode::OK, full(vec![b'x'; number.min(64 << 20)])),
        "chunked" => respond(StatusCode::OK, streamed(pieces(number))),
        "sse" => {
            let accepted = seen.header("accept-encoding").unwrap_or_default();
            let gzip = accepted.contains("gzip");
            let events = events(number, pace);
            let events = if gzip { gzipped(events) } else { events };
            let mut response = respond(StatusCode::OK, streamed(events))?;
            let fields = response.headers_mut();
            let kind = header::HeaderValue::from_static("text/event-stream");
            fields.insert(header::CONTENT_TYPE, kind);
            if gzip {
                let coding = header::HeaderValue::from_static("gzip");
                fields.insert(header::CONTENT_ENCODING, coding);
            }
            Ok(response)
        }
        "trickle" => respond(
            StatusCode::OK,
            streamed(paced(number, Pace::default(), |_| "x".into())),
        ),
        "reset" | "truncate" => {
            let reset = (kind == "reset").then_some(abort);
            let mut response = respond(StatusCode::OK, streamed(cut(number, reset)))?;
            let length = header::HeaderValue::from(number + PIECE);
            response
                .headers_mut()
                .insert(header::CONTENT_LENGTH, length);
            Ok(response)
        }
        "files" => file(shared.files.as_deref(), rest).await,
        "delay" => {
            let delay = u64::try_from(number).map_err(Error::other)?;
            tokio::time::sleep(Duration::from_millis(delay)).await;
            respond(StatusCode::OK, echo(&seen, &told, &arrived))
        }
        "status" => {
            let status = rest.parse().unwrap_or(StatusCode::BAD_REQUEST);
            respond(status, echo(&seen, &told, &arrived))
        }
        _ => respond(StatusCode::OK, echo(&seen, &told, &arrived)),
    }
}

/// The answer that a field says: its type, and its bytes in hexadecimal.
fn bytes_of(field: &str) -> Result<Response<Body>, Error> {
    let (kind, digits) = field.rsplit_once(' ').unwrap_or(("", field));
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let pairs = digits.as_bytes().chunks(2).map(|pair| match *pair {
        [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
        _ => None,
    });
    let content: Option<Vec<u8>> = pairs.collect();
    let content = content.ok_or_else(|| Error::other("x-answer is not hexadecimal"))?;
    let mut response = respond(StatusCode::OK, full(content))?;
    let kind = header::HeaderValue::from_str(kind).map_err(Error::other)?;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// What an LLM API answers.
fn speak(answer: llm::Answer, pace: Pace) -> Result<Response<Body>, Error> {
    let (kind, body) = match answer.content {
        llm::Content::Json(value) => ("application/json", text(value.to_string())),
        llm::Content::Events(events) => {
            ("text/event-stream; charset=utf-8", in_pieces(events, pace))
        }
        llm::Content::Stream(kind, pieces) => (kind, in_pieces(pieces, pace)),
    };
    let mut response = respond(answer.status, body)?;
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    fields.insert(answer.number, header::HeaderValue::from_static("req_1"));
    for (name, value) in answer.fields {
        let value = header::HeaderValue::from_str(&value).map_err(Error::other)?;
        fields.insert(name, value);
    }
    Ok(response)
}

fn in_pieces(pieces: Vec<Bytes>, pace: Pace) -> Body {
    let count = pieces.len();
    let piece = move |number: usize| pieces.get(number).cloned().unwrap_or_default();
    streamed(paced(count, pace, piece))
}

fn seen(request: &hyper::Request<Incoming>, client: &Client) -> Request {
    let fields = request.headers().iter();
    let value =
        |value: &header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Request {
        local: client.local,
        peer: client.peer,
        tls: client.tls.clone(),
        version: format!("{:?}", request.version()),
        method: request.method().to_string(),
        target: request.uri().to_string(),
        host: request
            .uri()
            .authority()
            .map(ToString::to_string)
            .or_else(|| request.headers().get(header::HOST).map(value)),
        headers: fields
            .map(|(name, field)| (name.to_string(), value(field)))
            .collect(),
        body: 0,
        asked: String::new(),
    }
}

/// Reads a body to its end, counting, and gives its beginning.
async fn read(mut body: Incoming, arrived: &log::Body, keep: usize) -> Result<Vec<u8>, Error> {
    let mut told = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(Error::other)?;
        if let Some(data) = frame.data_ref() {
            arrived.received(data.len());
            let room = keep.saturating_sub(told.len()).min(data.len());
            told.extend(data.get(..room).unwrap_or_default());
        }
    }
    Ok(told)
}

fn echo(seen: &Request, told: &[u8], arrived: &log::Body) -> Body {
    let headers: Vec<_> = seen
        .headers
        .iter()
        .map(|(name, value)| json!([name, value]))
        .collect();
    let tls = seen.tls.as_ref();
    let told = json!({
        "local": seen.local.to_string(),
        "peer": seen.peer.to_string(),
        "tls": tls.map(|tls| json!({"version": tls.version, "sni": tls.sni, "alpn": tls.alpn})),
        "version": seen.version,
        "method": seen.method,
        "target": seen.target,
        "host": seen.host,
        "headers": headers,
        "body": String::from_utf8_lossy(told),
        "body_bytes": arrived.bytes(),
    });
    text(format!("{told}\n"))
}

async fn file(directory: Option<&Path>, path: &str) -> Result<Response<Body>, Error> {
    let index = if path.ends_with('/') {
        "index.html"
    } else {
        ""
    };
    let path = format!("{path}{index}");
    let path = Path::new(&path);
    let plain = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let Some(directory) = directory.filter(|_| plain) else {
        return respond(StatusCode::NOT_FOUND, text("no such file\n".to_owned()));
    };
    let Ok(content) = tokio::fs::read(directory.join(path)).await else {
        return respond(StatusCode::NOT_FOUND, text("no such file\n".to_owned()));
    };
    let mut response = respond(StatusCode::OK, full(content))?;
    if path
        .extension()
        .is_some_and(|extension| extension == "html")
    {
        let kind = header::HeaderValue::from_static("text/html");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    Ok(response)
}

fn respond(status: StatusCode, body: Body) -> Result<Response<Body>, Error> {
    Response::builder()
        .status(status)
        .body(body)
        .map_err(Error::other)
}

fn text(text: String) -> Body {
    full(text.into_bytes())
}

fn full(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes))
        .map_err(|never| match never {})
        .boxed_unsync()
}

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

fn streamed(pieces: Pieces) -> Body {
    use futures_util::StreamExt as _;
    StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync()
}

fn pieces(bytes: usize) -> Pieces {
    Box::pin(stream::unfold(bytes, async |left| {
        let now = left.min(PIECE);
        (now > 0).then(|| (Ok(Bytes::from(vec![b'x'; now])), left - now))
    }))
}

/// What the second half of a stream waits for.
struct Hold(watch::Receiver<u64>);

impl Hold {
    fn of(seen: &Request, shared: &Shared) -> Option<Self> {
        seen.header("x-hold").map(|_| Self(shared.log.arrivals()))
    }

    async fn end(mut self) -> Result<(), Error> {
        self.0.changed().await.map_err(Error::other)
    }
}

/// How the pieces of a stream follow each other.
#[derive(Default)]
struct Pace {
    hold: Option<Hold>,
    stamped: bool,
    slow: bool,
}

/// How a prompt begins that asks for a slow answer.
const SLOWLY: &[u8] = b"\"slowly ";

impl Pace {
    fn of(seen: &Request, shared: &Shared) -> Self {
        Self {
            hold: Hold::of(seen, shared),
            stamped: seen.header("x-stamp").is_some(),
            slow: false,
        }
    }

    /// The same, of a call of a model: five times as slow where its prompt says so.
    fn asked(self, asked: &[u8]) -> Self {
        let slow = asked.windows(SLOWLY.len()).any(|it| it == SLOWLY);
        Self { slow, ..self }
    }
}

fn paced(count: usize, pace: Pace, piece: impl Fn(usize) -> Bytes + Send + 'static) -> Pieces {
    let stamped = pace.stamped;
    let wait = PACE * if pace.slow { 5 } else { 1 };
    let begin = (0, pace.hold, piece);
    Box::pin(stream::try_unfold(
        begin,
        move |(done, mut hold, piece)| async move {
            if done == count {
                return Ok(None);
            }
            tokio::time::sleep(wait).await;
            if let Some(hold) = hold.take_if(|_| done >= count / 2) {
                hold.end().await?;
            }
            let mut next = piece(done);
            if stamped {
                next = [stamp().as_bytes(), &next].concat().into();
            }
            Ok(Some((next, (done + 1, hold, piece))))
        },
    ))
}

/// When it is, as a comment of server-sent events.
fn stamp() -> String {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    format!(": {}\n", now.tv_sec * 1_000_000_000 + now.tv_nsec)
}

fn events(count: usize, pace: Pace) -> Pieces {
    paced(count, pace, |number| {
        Bytes::from(format!("id: {number}\ndata: event {number}\n\n"))
    })
}

/// The same in gzip, each piece flushed.
fn gzipped(pieces: Pieces) -> Pieces {
    use futures_util::StreamExt as _;
    let encoder = GzEncoder::new(Vec::new(), Compression::default());
    Box::pin(stream::try_unfold(
        Some((pieces, encoder)),
        async move |begun| {
            let Some((mut pieces, mut encoder)) = begun else {
                return Ok(None);
            };
            let Some(piece) = pieces.next().await else {
                return Ok(Some((Bytes::from(encoder.finish()?), None)));
            };
            encoder.write_all(&piece?)?;
            encoder.flush()?;
            let coded = std::mem::take(encoder.get_mut());
            Ok(Some((Bytes::from(coded), Some((pieces, encoder)))))
        },
    ))
}

/// Some bytes, then an error: hyper closes the connection, which is then a reset or not.
fn cut(bytes: usize, reset: Option<Arc<Abort>>) -> Pieces {
    use futures_util::StreamExt as _;
    let end = stream::once(async move {
        // What was written before must be on its way, or the reset would overtake it.
        tokio::time::sleep(PACE).await;
        if let Some(abort) = reset {
            abort.reset_on_close()?;
        }
        Err(Error::other("asked to stop in the middle"))
    });
    Box::pin(pieces(bytes).chain(end))
}

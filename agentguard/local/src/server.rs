//! Answers agents.

use std::convert::Infallible;
use std::future::Future;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentguard_control::heard::Heard;
use agentguard_control::peer::{Accepted, Asker};
use agentguard_control::seats::{Seat, Seats};
use agentguard_control::sparing::Sparing;
use agentguard_decision::{Client, Decider, Recorder};
use agentguard_keeper::packet::tell_senders;
use agentguard_model::{AgentId, Process};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{CAME, LONG, MAX_LINE, MAX_NAME, Problem, SENT};
use crate::room::{Rooms, room};
use crate::session::Session;

/// Connections at once of which it is not known yet whose they are, or that are refused, and of one user's. Further ones
/// are closed.
const UNPLACED: usize = 128;
const UNPLACED_OF_ONE: usize = 32;

/// Connections of all agents that are open at once, and of one of them. Further ones are refused.
const CONNECTIONS: usize = 256;
const CONNECTIONS_OF_ONE: usize = 32;

/// Bytes of a request's head, at most, and its fields; more are answered 431 and closed.
const MAX_HEAD: usize = 8 * 1024;
const MAX_HEADERS: usize = 16;

/// How long the content of a question may take, and the wait for room for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it is believed whose a cgroup is.
const PLACED: Duration = Duration::from_secs(1);

/// How long the connections may take to end when the guard stops; then they are dropped.
const GRACE: Duration = Duration::from_secs(1);

/// How long to wait after a failed `accept` (too many open files), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Lines about those who may not ask: anybody can connect as often as it likes.
static REFUSED: Sparing = Sparing::new();

/// What is asked of outer rooms.
pub trait Port: Send + Sync + 'static {
    /// Whose a cgroup is, as `/proc/PID/cgroup` shows it: the agent, and the number of the run, or 0. `None`: nobody's.
    fn whose(&self, cgroup: &str) -> impl Future<Output = Option<(AgentId, u32)>> + Send;

    /// The path that a process was executed from, where the kernel saw the execution.
    fn executable(&self, pid: u32) -> Option<String>;
}

struct Serving<R: Recorder, P> {
    decider: Decider<R>,
    port: P,
    rooms: Rooms,
    seats: Arc<Seats>,
}

/// Serves connections until `shutdown`, then ends them within a second.
///
/// Whose process is at the other end is looked at for each question: it can be moved. One that is no agent's is told so
/// with status 403.
///
/// # Cancel safety
/// A dropped future stops accepting; connections go on until `shutdown`.
pub async fn serve<R: Recorder, P: Port>(
    listener: UnixListener,
    decider: Decider<R>,
    port: P,
    shutdown: CancellationToken,
) {
    // Without it nobody's sender is known, and everybody is refused.
    if let Err(error) = tell_senders(listener.as_fd()) {
        tracing::error!(%error, "cannot learn who asks about local tools");
    }
    let serving = Arc::new(Serving {
        decider,
        port,
        rooms: Rooms::default(),
        seats: Seats::new(CONNECTIONS, CONNECTIONS_OF_ONE),
    });
    let unplaced = Seats::new(UNPLACED, UNPLACED_OF_ONE);
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let peer = stream.peer_cred().ok();
                let Some(seat) = peer.and_then(|peer| unplaced.take(peer.uid())) else {
                    continue;
                };
                let (serving, shutdown) = (Arc::clone(&serving), shutdown.clone());
                let accepted = Accepted::now();
                tasks.spawn(async move {
                    let placed = Asked::of(&stream, accepted, &serving).await;
                    connection(stream, placed, seat, serving, shutdown).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept questions about local tools");
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    tasks.close();
    tasks.wait().await;
}

/// Who asks, as the kernel says it.
struct Asked {
    asker: Arc<Asker>,
    place: Place,
}

/// Whose a cgroup is, and since when that is known.
#[derive(Clone)]
struct Place {
    cgroup: String,
    agent: AgentId,
    run: u32,
    since: Instant,
}

impl Asked {
    async fn of<R: Recorder, P: Port>(
        stream: &UnixStream,
        accepted: Accepted,
        serving: &Serving<R, P>,
    ) -> Result<Self, String> {
        let socket = stream.as_fd().try_clone_to_owned();
        let socket = socket.map_err(|error| format!("cannot look at the connection: {error}"))?;
        let asker = blocking(move || Asker::of(socket, accepted).map_err(|it| it.to_string()));
        let asker = Arc::new(asker.await?);
        let place = place(&asker, None, serving).await?;
        Ok(Self { asker, place })
    }

    /// Who asks now.
    async fn client<R: Recorder, P: Port>(
        &mut self,
        serving: &Serving<R, P>,
    ) -> Result<Client, String> {
        let before = self.place.clone();
        self.place = place(&self.asker, Some(before), serving).await?;
        let (pid, uid) = self.asker.process();
        let comm = blocking(move || Ok(std::fs::read_to_string(format!("/proc/{pid}/comm"))));
        let comm = comm.await?.unwrap_or_default();
        Ok(Client {
            agent: self.place.agent,
            run: self.place.run,
            process: Process {
                pid,
                uid,
                comm: comm.trim_end().to_owned(),
                exe: serving.port.executable(pid),
            },
        })
    }
}

/// Whose the process at the other end is.
async fn place<R: Recorder, P: Port>(
    asker: &Arc<Asker>,
    before: Option<Place>,
    serving: &Serving<R, P>,
) -> Result<Place, String> {
    let looked = Arc::clone(asker);
    let cgroup = blocking(move || looked.cgroup().map_err(|it| it.to_string())).await?;
    if let Some(before) = before
        && before.cgroup == cgroup
        && before.since.elapsed() < PLACED
    {
        return Ok(before);
    }
    match serving.port.whose(&cgroup).await {
        Some((agent, run)) => Ok(Place {
            cgroup,
            agent,
            run,
            since: Instant::now(),
        }),
        None => Err(format!(
            "the caller is no agent's (cgroup {cgroup}), and agents alone ask here: start it with `agentguard run`"
        )),
    }
}

/// Looks at a process where blocking is allowed: this reads `/proc`.
async fn blocking<T: Send + 'static>(
    look: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let looked = tokio::task::spawn_blocking(look).await;
    looked.unwrap_or_else(|died| Err(format!("cannot look at the caller: {died}")))
}

async fn connection<R: Recorder, P: Port>(
    stream: UnixStream,
    placed: Result<Asked, String>,
    unplaced: Seat,
    serving: Arc<Serving<R, P>>,
    shutdown: CancellationToken,
) {
    let seat = match &placed {
        Ok(asked) => serving.seats.take(asked.place.agent.0),
        Err(_) => None,
    };
    // Whoever is refused keeps the place of those that are not known yet.
    let _unplaced = seat.is_none().then_some(unplaced);
    let placed = match (placed, &seat) {
        (Ok(_), None) => Err("the agent asks over too many connections at once".to_owned()),
        (placed, _) => placed,
    };
    if let Err(refused) = &placed
        && let Some(left_out) = REFUSED.turn()
    {
        tracing::warn!(refused, left_out, "refused a question about local tools");
    }
    let is_placed = placed.is_ok();
    let asker = placed.as_ref().ok().map(|asked| Arc::clone(&asked.asker));
    let stream = Heard::new(stream, asker);
    // One question after the other: HTTP/1.1 answers in order, and this is locked for each.
    let talk = Arc::new(Mutex::new((placed, Session::default())));
    let service = service_fn(|request| {
        let (talk, serving) = (Arc::clone(&talk), Arc::clone(&serving));
        async move {
            let mut talk = talk.lock().await;
            let (placed, session) = &mut *talk;
            Ok::<_, Infallible>(match placed {
                Ok(asked) => answer(request, asked, session, &serving).await,
                Err(why) => refuse(StatusCode::FORBIDDEN, why.clone()),
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // A client asks again when there is something to ask, however long that takes; its places are counted.
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .keep_alive(is_placed)
        .serve_connection(TokioIo::new(stream), service);
    let connection = std::pin::pin!(connection);
    ended(connection, is_placed, &shutdown).await;
    let session = std::mem::take(&mut talk.lock().await.1);
    session.end(&serving.decider);
}

/// Drives a connection to its end. One that is only refused has no time to be silent.
async fn ended<F, E>(
    mut connection: std::pin::Pin<&mut F>,
    is_placed: bool,
    shutdown: &CancellationToken,
) where
    F: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let told = |result: Result<(), E>| {
        if let Err(error) = result {
            tracing::debug!(%error, "a connection about local tools ended early");
        }
    };
    if !is_placed {
        if let Ok(result) = timeout(GRACE, connection).await {
            told(result);
        }
        return;
    }
    tokio::select! {
        result = connection.as_mut() => told(result),
        () = shutdown.cancelled() => {
            if let Ok(result) = timeout(GRACE, connection).await {
                told(result);
            }
        }
    }
}

async fn answer<R: Recorder, P: Port>(
    request: Request<Incoming>,
    asked: &mut Asked,
    session: &mut Session,
    serving: &Serving<R, P>,
) -> Response<Full<Bytes>> {
    if request.method() != Method::POST {
        let why = "this socket answers POST alone";
        return refuse(StatusCode::METHOD_NOT_ALLOWED, why.to_owned());
    }
    let (parts, body) = request.into_parts();
    let server = parts.uri.query().and_then(|it| it.strip_prefix("server="));
    let Some(server) = server.filter(|name| is_name(name)) else {
        let why = "say which server: `?server=NAME`, 1 to 63 characters a-z 0-9 . _ -";
        return refuse(StatusCode::BAD_REQUEST, why.to_owned());
    };
    let size = body.size_hint().exact();
    let size = size.and_then(|size| usize::try_from(size).ok());
    let Some(size) = size.filter(|size| *size <= MAX_LINE) else {
        let why = format!("a question has up to {MAX_LINE} bytes, and says how many");
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, why);
    };
    let own = serving.rooms.of(asked.place.agent);
    let Ok(Some(_room)) = timeout(PATIENCE, room(&own, size)).await else {
        let why = "the agent asks too much at once".to_owned();
        return refuse(StatusCode::TOO_MANY_REQUESTS, why);
    };
    let line = match timeout(PATIENCE, Limited::new(body, MAX_LINE).collect()).await {
        Ok(Ok(line)) => line.to_bytes(),
        Ok(Err(error)) => return refuse(StatusCode::BAD_REQUEST, error.to_string()),
        Err(_) => {
            let why = "the question did not come to its end in time".to_owned();
            return refuse(StatusCode::REQUEST_TIMEOUT, why);
        }
    };
    // Behind the content, so that it is known who sent it.
    let client = match asked.client(serving).await {
        Ok(client) => client,
        Err(why) => return refuse(StatusCode::FORBIDDEN, why),
    };
    let decider = &serving.decider;
    match parts.uri.path() {
        SENT => json(&session.sent(decider, &client, server, &line).await),
        LONG => json(&session.long(decider, &client, server, &line).await),
        CAME => json(&session.came(decider, &client, server, &line).await),
        _ => refuse(StatusCode::NOT_FOUND, "there is no such route".to_owned()),
    }
}

/// Whether it is a name that a server of tools can have.
fn is_name(text: &str) -> bool {
    let fits =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(fits)
}

fn json<T: Serialize>(value: &T) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(bytes) => respond(StatusCode::OK, bytes),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// This is the last answer on its connection.
fn refuse(status: StatusCode, message: String) -> Response<Full<Bytes>> {
    // Plain strings always serialise.
    let bytes = serde_json::to_vec(&Problem { message }).unwrap_or_default();
    let mut response = respond(status, bytes);
    let fields = response.headers_mut();
    fields.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn respond(status: StatusCode, bytes: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(bytes)));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

//! Serves the control socket: HTTP/1.1 and JSON, reads only.

use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use agentguard_budget::AnyLedger;
use agentguard_budget::limits::Limits;
use agentguard_keeper::groups::{APPROVE, Groups, READ};
use agentguard_keeper::packet::tell_senders;
use agentguard_model::{AgentName, Decision, InvalidDecisionId, Users};
use agentguard_pins::Pins;
use agentguard_policy::{Policy, RuleAction, RuleInfo};
use agentguard_record::{Followed, Query, ReadError, Record};
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{
    AgentStatus, Agents, DEFAULT_LIMIT, GuardStatus, Line, NOTICES, PolicyAgent, PolicyRule,
    PolicyView, Problem, ProblemCode, Status, VerdictQuery, Verdicts,
};
use crate::budgets;
use crate::heard::Heard;
use crate::limits;
use crate::peer::{Accepted, Asker, Refusal, Rights};
use crate::scope::{Own, Scope};
use crate::seats::Seats;
use crate::sparing::Sparing;
use crate::tools::{self, ToolQuery};

/// How often a followed answer shows that it is alive, with an empty line.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(15);

/// Connections of root that are served at once. Further ones wait in the listener's queue.
const CONNECTIONS: usize = 64;

/// Connections of other users that are open at once, those that are refused among them. Further ones
/// are closed: nobody keeps root from asking.
const CONNECTIONS_OF_OTHERS: usize = 64;

/// Of these, those of one user.
const CONNECTIONS_OF_ONE: usize = 16;

/// Connections at once of those who may ask nothing, until they have heard so; further ones are closed.
const CONNECTIONS_REFUSED: usize = 16;

/// Bytes of a request's head, at most; a longer one is answered 431 and closed.
const MAX_HEAD: usize = 16 * 1024;

/// Header fields of a request, at most; more are answered 431 and closed.
const MAX_HEADERS: usize = 32;

/// How long a request's head may take, and a connection may be idle before it; then it is closed.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// How long the connections may take to end when the guard stops; then they are dropped.
const GRACE: Duration = Duration::from_secs(2);

/// How long to wait after a failed `accept` (too many open files), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Lines about those who may not ask: an agent can connect as often as it likes.
static REFUSED: Sparing = Sparing::new();
/// About those who may ask no longer.
static REFUSED_LATER: Sparing = Sparing::new();
/// About those who may follow no longer.
static FOLLOWS_NO_LONGER: Sparing = Sparing::new();

/// Where the answers come from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The record.
    pub record: Record,
    /// What the tools of servers were first seen as.
    pub pins: Arc<Pins>,
    /// What was used of budgets.
    pub ledger: AnyLedger,
    /// What limits have counted.
    pub limits: Limits,
    /// The policy in force.
    pub policy: Arc<ArcSwap<Policy>>,
    /// The agents, sorted by name.
    pub agents: watch::Receiver<Vec<AgentStatus>>,
    /// The guard.
    pub guard: watch::Receiver<GuardStatus>,
    /// The governed cgroups as `/proc/PID/cgroup` writes them (absolute within the hierarchy): a
    /// process in one of these or below is served nothing, and while there is none nobody is.
    pub governed: watch::Receiver<Vec<String>>,
    /// The guard's groups: who besides root may ask.
    pub groups: Groups,
    /// Who may run what, and so what members of `agentguard-run` are told.
    pub users: watch::Receiver<Arc<Users>>,
}

/// Serves connections until `shutdown`, then ends them within two seconds.
///
/// The peer of each is judged before anything it sends is read, and again for each request and each
/// piece of a followed answer: it can come to be governed while it is connected. One that may not ask is
/// told why, with status 403 or in a last line, and its connection is closed.
///
/// # Cancel safety
/// A dropped future stops accepting; connections go on until `shutdown`.
pub async fn serve(listener: UnixListener, sources: Sources, shutdown: CancellationToken) {
    // Without it nobody's sender is known, and everybody is refused.
    if let Err(error) = tell_senders(listener.as_fd()) {
        tracing::error!(%error, "cannot learn who sends on the control socket");
    }
    let sources = Arc::new(sources);
    let roots = Arc::new(Semaphore::new(CONNECTIONS));
    let others = Seats::new(CONNECTIONS_OF_OTHERS, CONNECTIONS_OF_ONE);
    let refused = Seats::new(CONNECTIONS_REFUSED, CONNECTIONS_REFUSED);
    let tasks = TaskTracker::new();
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let permit = Arc::clone(&roots).acquire_owned().await.ok()?;
            Some((listener.accept().await, permit))
        };
        let (accepted, permit) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accepted => match accepted {
                Some(accepted) => accepted,
                None => break,
            },
        };
        match accepted {
            Ok((stream, _)) => {
                let Ok(peer) = stream.peer_cred() else {
                    continue;
                };
                let (permit, seat) = if peer.uid() == 0 {
                    (Some(permit), None)
                } else {
                    drop(permit);
                    let Some(seat) = others.take(peer.uid()) else {
                        continue;
                    };
                    (None, Some(seat))
                };
                let refused = Arc::clone(&refused);
                let (sources, shutdown) = (Arc::clone(&sources), shutdown.clone());
                let accepted = Accepted::now();
                tasks.spawn(async move {
                    let admitted = admit(&stream, accepted, &sources).await;
                    if let Err(refusal) = &admitted
                        && let Some(left_out) = REFUSED.turn()
                    {
                        tracing::warn!(%refusal, left_out, "refused a client of the control socket");
                    }
                    // Whoever may nothing, agents of root's among them, keeps no place of those who may.
                    let mut place = (permit, seat);
                    if admitted.is_err() {
                        place = (None, None);
                        let Some(seat) = refused.take(peer.uid()) else {
                            return;
                        };
                        place.1 = Some(seat);
                    }
                    let _place = place;
                    connection(stream, admitted, sources, shutdown).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the control socket");
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

async fn connection(
    stream: UnixStream,
    admitted: Result<Arc<Asker>, Refusal>,
    sources: Arc<Sources>,
    shutdown: CancellationToken,
) {
    let stream = Heard::new(stream, admitted.as_ref().ok().cloned());
    let admitted = Arc::new(admitted);
    let service = service_fn(|request| {
        let (admitted, sources, shutdown) = (
            Arc::clone(&admitted),
            Arc::clone(&sources),
            shutdown.clone(),
        );
        async move {
            Ok::<_, Infallible>(match &*admitted {
                Ok(asker) => match judge(asker, &sources).await {
                    Ok(rights) => {
                        let scope = scope(rights, &sources);
                        answer(request, asker, &scope, &sources, shutdown).await
                    }
                    Err(refusal) => {
                        if let Some(left_out) = REFUSED_LATER.turn() {
                            tracing::warn!(%refusal, left_out, "refused a client of the control socket that was let in before");
                        }
                        forbid(&refusal)
                    }
                },
                Err(refusal) => forbid(refusal),
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .keep_alive(admitted.is_ok())
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(GRACE, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a control connection ended early");
    }
}

/// How much a peer is told.
fn scope(rights: Rights, sources: &Sources) -> Scope {
    if rights.read {
        Scope::All
    } else {
        Scope::Own(Own {
            uid: rights.uid,
            users: sources.users.clone(),
        })
    }
}

/// Who has connected, if it may ask at all.
async fn admit(
    stream: &UnixStream,
    accepted: Accepted,
    sources: &Sources,
) -> Result<Arc<Asker>, Refusal> {
    let socket = stream
        .as_fd()
        .try_clone_to_owned()
        .map_err(Refusal::Unknown)?;
    let asker = blocking(move || Asker::of(socket, accepted)).await?;
    let asker = Arc::new(asker);
    judge(&asker, sources).await?;
    Ok(asker)
}

/// What a peer may do now.
async fn judge(asker: &Arc<Asker>, sources: &Sources) -> Result<Rights, Refusal> {
    let asker = Arc::clone(asker);
    let governed = sources.governed.borrow().clone();
    let groups = sources.groups;
    blocking(move || asker.judge(&governed, &groups)).await
}

/// Looks at a process where blocking is allowed: this reads `/proc`.
async fn blocking<T: Send + 'static>(
    look: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(look)
        .await
        .unwrap_or_else(|died| Err(Refusal::Unknown(io::Error::other(died))))
}

fn forbidden(refusal: &Refusal) -> Problem {
    Problem::new(ProblemCode::Forbidden, refusal.to_string()).hint(refusal.hint())
}

/// Refuses a peer: this is the last answer on its connection.
fn forbid(refusal: &Refusal) -> Response<Body> {
    let mut response = refuse(&forbidden(refusal));
    (response.headers_mut()).insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

async fn answer(
    request: Request<Incoming>,
    asker: &Arc<Asker>,
    scope: &Scope,
    sources: &Arc<Sources>,
    shutdown: CancellationToken,
) -> Response<Body> {
    if request.method() != Method::GET {
        return refuse(
            &Problem::new(
                ProblemCode::MethodNotAllowed,
                "this socket only answers questions",
            )
            .hint("changes are made through the keeper: agentguard agent add, policy reload"),
        );
    }
    let query = request.uri().query().unwrap_or_default();
    let path: Vec<&str> = request.uri().path().split('/').skip(1).collect();
    let result = match path.as_slice() {
        ["v1", "verdicts"] => match VerdictQuery::parse(query) {
            Ok(query) if !query.agent.as_ref().is_none_or(|name| scope.has_agent(name)) => {
                Err(no_agent(query.agent.as_ref().map_or("", AgentName::as_str)))
            }
            Ok(query) if query.follow => Ok(follow(&query, asker, scope, sources, shutdown)),
            Ok(query) => verdicts(&query, scope, sources).await,
            Err(problem) => Err(problem),
        },
        ["v1", "verdicts", id] => decision(id, scope, sources).await,
        ["v1", "verdicts", id, "contents"] => contents(id, scope, sources).await,
        ["v1", "agents"] => Ok(json(&Agents {
            agents: scope.agents(&sources.agents.borrow()),
        })),
        ["v1", "agents", name] => agent(name, scope, sources),
        ["v1", "policy"] => match scope {
            Scope::All => Ok(json(&policy(sources))),
            Scope::Own(own) => Err(Problem::new(
                ProblemCode::Forbidden,
                format!(
                    "the policy speaks of all agents, and user {} may read of some",
                    own.uid
                ),
            )
            .hint(format!(
                "ask root, or a member of {READ} or {APPROVE}; `agentguard explain ID` has the rules behind a decision"
            ))),
        },
        ["v1", "tools", ..] if !matches!(scope, Scope::All) => Err(Problem::new(
            ProblemCode::Forbidden,
            "the tools of servers are those of all agents",
        )
        .hint(format!("ask root, or a member of {READ} or {APPROVE}"))),
        ["v1", "tools"] => {
            ToolQuery::parse(query).map(|query| json(&tools::list(&sources.pins, &query)))
        }
        ["v1", "tools", "definition"] => match ToolQuery::parse(query) {
            Ok(query) => tools::show(&sources.pins, query).await.map(|it| json(&it)),
            Err(problem) => Err(problem),
        },
        ["v1", "budgets", ..] if !matches!(scope, Scope::All) => Err(Problem::new(
            ProblemCode::Forbidden,
            "the accounts of budgets are those of all agents",
        )
        .hint(format!("ask root, or a member of {READ} or {APPROVE}"))),
        ["v1", "budgets"] => {
            let listed = budgets::list(&sources.ledger, sources.policy.load_full(), query);
            listed.await.map(|it| json(&it))
        }
        ["v1", "budgets", "account"] => {
            let shown = budgets::show(&sources.ledger, sources.policy.load_full(), query);
            shown.await.map(|it| json(&it))
        }
        ["v1", "limits"] if !matches!(scope, Scope::All) => Err(Problem::new(
            ProblemCode::Forbidden,
            "the accounts of limits are those of all agents",
        )
        .hint(format!("ask root, or a member of {READ} or {APPROVE}"))),
        ["v1", "limits"] => Ok(json(&limits::list(&sources.limits))),
        ["v1", "status"] => status(scope, sources).await,
        _ => Err(
            Problem::new(ProblemCode::NotFound, "there is no such route")
                .hint("verdicts, agents, policy, tools, budgets, limits and status are there, under /v1"),
        ),
    };
    result.unwrap_or_else(|problem| refuse(&problem))
}

async fn verdicts(
    query: &VerdictQuery,
    scope: &Scope,
    sources: &Sources,
) -> Result<Response<Body>, Problem> {
    let decisions = sources
        .record
        .query(scope.narrow(selection(query, DEFAULT_LIMIT), false))
        .await
        .map_err(|error| unreadable(&error))?;
    Ok(json(&Verdicts { decisions }))
}

async fn decision(id: &str, scope: &Scope, sources: &Sources) -> Result<Response<Body>, Problem> {
    Ok(json(&found(id, scope, sources).await?))
}

/// What was kept of what passed under a decision. It has what agents and their users said, whoever they are.
async fn contents(id: &str, scope: &Scope, sources: &Sources) -> Result<Response<Body>, Problem> {
    let decision = found(id, scope, sources).await?;
    if !matches!(scope, Scope::All) {
        return Err(Problem::new(
            ProblemCode::Forbidden,
            "contents are for those who may read everything",
        )
        .hint(format!("ask root, or a member of {READ} or {APPROVE}")));
    }
    let agent = decision.agent.as_ref().map(|agent| &agent.name);
    let kept = match agent {
        Some(agent) => sources.record.contents(decision.id, agent).await,
        None => Ok(None),
    };
    match kept.map_err(|error| unreadable(&error))? {
        Some(contents) => Ok(json(&contents)),
        None => Err(Problem::new(
            ProblemCode::NotFound,
            format!("no contents are kept of {}", decision.id),
        )
        .hint("they are kept where a rule with `capture_body` has allowed it, once it is over, and until newer ones need the room")),
    }
}

/// The decision of this id, if it is one that may be told.
async fn found(id: &str, scope: &Scope, sources: &Sources) -> Result<Decision, Problem> {
    let id = id
        .parse()
        .map_err(|error: InvalidDecisionId| Problem::bad_request(error.to_string()))?;
    match sources.record.find(id).await.map_err(|error| unreadable(&error))? {
        Some(decision) if scope.has(&decision) => Ok(decision),
        _ => Err(
            Problem::new(ProblemCode::NotFound, format!("there is no decision {id}")).hint(
                "old decisions are deleted when the record reaches its bound; `agentguard verdicts` lists those that are there",
            ),
        ),
    }
}

fn agent(name: &str, scope: &Scope, sources: &Sources) -> Result<Response<Body>, Problem> {
    let agents = sources.agents.borrow();
    match agents.iter().find(|agent| agent.name.as_str() == name) {
        Some(agent) if scope.has_agent(&agent.name) => Ok(json(&scope.agent(agent))),
        _ => Err(no_agent(name)),
    }
}

/// Said of an agent that is not there, and of one that this peer is not told of.
fn no_agent(name: &str) -> Problem {
    let shown: String = name.chars().take(63).collect();
    Problem::new(
        ProblemCode::NotFound,
        format!("there is no agent `{shown}`"),
    )
    .hint("`agentguard agent list` lists those that are there")
}

async fn status(scope: &Scope, sources: &Sources) -> Result<Response<Body>, Problem> {
    let mut guard = sources.guard.borrow().clone();
    // Whoever asks how the guard is doing is told what is wrong with the record, beside all else.
    let notices = match sources.record.notices(NOTICES).await {
        Ok(notices) => notices,
        Err(error) => {
            let problem = unreadable(&error);
            guard.degraded.push(format!(
                "the record cannot be read, and past decisions are not shown: {}; if its directory was \
                 removed, restart the daemon (systemctl restart agentguard)",
                problem.message
            ));
            Vec::new()
        }
    };
    let status = Status {
        guard,
        agents: sources.agents.borrow().clone(),
        record: sources.record.status(),
        notices,
        partial: false,
    };
    Ok(json(&scope.status(status)))
}

fn policy(sources: &Sources) -> PolicyView {
    let policy = sources.policy.load();
    let mut status = sources.guard.borrow().policy.clone();
    // What decides is what is told; the status may be about to follow.
    policy.version().clone_into(&mut status.version);
    let users = sources.users.borrow();
    PolicyView {
        status,
        agents: policy
            .agents()
            .iter()
            .map(|agent| PolicyAgent {
                name: agent.name.clone(),
                labels: agent.labels.clone(),
                mode: agent.mode,
                users: users.of(&agent.name).collect(),
            })
            .collect(),
        rules: policy.rules().map(rule).collect(),
        recorded_headers: policy.looked_at_fields(),
        switches: sources.guard.borrow().switches.clone(),
        warnings: policy.warnings().iter().map(ToString::to_string).collect(),
    }
}

fn rule(rule: &RuleInfo) -> PolicyRule {
    PolicyRule {
        number: rule.number,
        id: rule.id.clone(),
        source: rule.source.clone(),
        action: rule.action.verdict(),
        handling: matches!(rule.action, RuleAction::Allow | RuleAction::Modify)
            .then_some(rule.handling),
        mode: rule.mode,
        rollout: rule.rollout,
        reason: rule.reason.clone(),
    }
}

/// An answer without an end, but for a reader that comes to be governed. The record is read at the
/// reader's pace: one that is slow lags behind, holds one page of decisions here, and loses nothing but
/// what retention deletes meanwhile, which it is told.
fn follow(
    query: &VerdictQuery,
    asker: &Arc<Asker>,
    scope: &Scope,
    sources: &Arc<Sources>,
    shutdown: CancellationToken,
) -> Response<Body> {
    let of_gaps = scope.clone();
    let lines = sources
        .record
        .follow(scope.narrow(selection(query, 0), true))
        .map(move |followed| match followed {
            Followed::Decision(decision) => Line::Decision(decision),
            Followed::Counted(decision) => Line::Counted(decision),
            Followed::Gap(gap) => Line::Gap(of_gaps.gap(gap)),
        });
    let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (asker, sources) = (Arc::clone(asker), Arc::clone(sources));
    let frames = futures_util::stream::unfold(Some((Box::pin(lines), heartbeat)), move |going| {
        let (asker, sources) = (Arc::clone(&asker), Arc::clone(&sources));
        let shutdown = shutdown.clone();
        async move {
            let (mut lines, mut heartbeat) = going?;
            let bytes = tokio::select! {
                () = shutdown.cancelled() => return None,
                line = lines.next() => line_bytes(&line?),
                _ = heartbeat.tick() => Bytes::from_static(b"\n"),
            };
            if let Err(refusal) = judge(&asker, &sources).await {
                if let Some(left_out) = FOLLOWS_NO_LONGER.turn() {
                    tracing::warn!(%refusal, left_out, "a client of the control socket follows no longer");
                }
                let last = line_bytes(&Line::Refused(forbidden(&refusal)));
                return Some((Ok(Frame::data(last)), None));
            }
            Some((Ok(Frame::data(bytes)), Some((lines, heartbeat))))
        }
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    response
}

fn line_bytes(line: &Line) -> Bytes {
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}

fn selection(query: &VerdictQuery, default_limit: u32) -> Query {
    let limit = query.limit.unwrap_or(default_limit);
    Query {
        agent: query.agent.clone(),
        verdict: query.verdict,
        kind: query.kind,
        since: query.since,
        before: query.before,
        limit: usize::try_from(limit).unwrap_or(usize::MAX),
        only: None,
    }
}

fn unreadable(error: &ReadError) -> Problem {
    tracing::error!(
        error = error as &dyn std::error::Error,
        "cannot read the record"
    );
    Problem::new(ProblemCode::Internal, error.to_string())
        .hint("`agentguard status` says how the record is doing")
}

fn json<T: Serialize>(value: &T) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => respond(StatusCode::OK, bytes),
        Err(error) => refuse(&Problem::new(ProblemCode::Internal, error.to_string())),
    }
}

fn refuse(problem: &Problem) -> Response<Body> {
    let status = match problem.code {
        ProblemCode::Forbidden => StatusCode::FORBIDDEN,
        ProblemCode::NotFound => StatusCode::NOT_FOUND,
        ProblemCode::BadRequest => StatusCode::BAD_REQUEST,
        ProblemCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ProblemCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    respond(status, serde_json::to_vec(problem).unwrap_or_default())
}

fn respond(status: StatusCode, bytes: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(bytes)).boxed_unsync());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

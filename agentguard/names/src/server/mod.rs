//! DNS service for agents: from a message to its answer.
//!
//! The order is that of authority: who asks, may it be asked at all, what does the policy say of
//! the name, what does upstream say, may the addresses be dialled. Then the decision is recorded,
//! then the kernel is told what the addresses mean, then the answer leaves.
//!
//! How refusals look, and why:
//! - A name outside the policy gets NXDOMAIN with an SOA of ours and, for clients with EDNS, the
//!   reason and the decision's id (RFC 8914 "Prohibited"). REFUSED and SERVFAIL make libc try again
//!   for ten seconds and tell the user of a temporary failure.
//! - An allowed name asked for TXT, MX, SRV, … gets NODATA, recorded as refused: clients that look
//!   for SRV first go on to A and AAAA, whereas NOTIMP or SERVFAIL ends them in a fault of the
//!   server. Types of which an agent's view truly has none (CNAME, NS, SOA, CAA, DS, …) get NODATA,
//!   recorded as allowed.
//! - What is a fault and may pass (upstream, record, limits, no virtual address left) gets
//!   SERVFAIL.
//!
//! **Invariant:** every query that can be read leads to exactly one decision, its own or that of
//! its attempt.

mod answer;
mod attempt;
mod load;
mod message;
mod tcp;
mod udp;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentguard_model::{DecisionId, HostName, Reason, ReasonCode, Transport};
use hickory_proto::op::ResponseCode;

use crate::names::Names;
use crate::port::{Answer, Answered, Client, Port, Ruling};
use attempt::{Attempt, Attempts, Key, Origin};
use load::{Admission, Dropped, Load, Refusing};
use message::{Question, Read, Reply, read, type_name};

pub use udp::readers;

/// How the service behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// TTL of virtual addresses. Short, so that a changed policy is soon asked again.
    pub ttl: Duration,
    /// The longest TTL of real addresses; the least is 1 s.
    pub max_real_ttl: Duration,
    /// For how long a client may believe that something does not exist. Shorter than [`Self::ttl`]:
    /// a name that was just allowed should work soon.
    pub negative_ttl: Duration,
    /// How long queries join an attempt.
    pub attempt_window: Duration,
    /// Attempts remembered. Beyond, the oldest is forgotten; if it is then retransmitted, it is
    /// recorded twice.
    pub attempts: usize,
    /// Queries of one agent under way, as many as the gate lets through over UDP without an answer
    /// (`agentguard_common::map::pending::ASKED_BYTES`). Beyond: SERVFAIL and `limit_reached`.
    pub in_flight_per_agent: usize,
    /// Datagrams of one socket under way. Beyond, none is read until one is done; what the
    /// socket's buffer cannot hold is lost and sent again by its client.
    pub udp_in_flight: usize,
    /// TCP connections of one listener. Beyond, a new one is closed, with `limit_reached`.
    pub tcp_connections: usize,
    /// TCP connections of one agent on one listener. Beyond, a new one is closed, with
    /// `limit_reached`.
    pub tcp_connections_per_agent: usize,
    /// Queries of one connection under way. Beyond, no more is read from it.
    pub tcp_pipeline: usize,
    /// How long a TCP connection may be idle, may take to send a message, or to take one.
    pub tcp_idle: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(60),
            max_real_ttl: Duration::from_secs(300),
            negative_ttl: Duration::from_secs(10),
            attempt_window: Duration::from_secs(5),
            attempts: 65_536,
            in_flight_per_agent: 512,
            udp_in_flight: 8192,
            tcp_connections: 256,
            tcp_connections_per_agent: 32,
            tcp_pipeline: 16,
            tcp_idle: Duration::from_secs(10),
        }
    }
}

/// The service. Cheap to clone; one serves all sockets.
pub struct Server<P: Port> {
    shared: Arc<Shared<P>>,
}

struct Shared<P> {
    names: Names,
    port: Arc<P>,
    options: Options,
    attempts: Attempts,
    load: Arc<Load>,
}

impl<P: Port> Clone for Server<P> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

/// Where a message came from.
#[derive(Clone, Debug)]
struct Sender {
    netns: u64,
    peer: SocketAddr,
    transport: Transport,
    client: Option<Client>,
}

/// One query on its way.
struct Asking<'a, T> {
    sender: &'a Sender,
    client: &'a Client,
    question: &'a Question,
    name: &'a HostName,
    ruling: &'a Ruling<T>,
    attempt: &'a Attempt,
    started: Instant,
}

impl<P: Port> Server<P> {
    /// A service with nothing to serve yet.
    #[must_use]
    pub fn new(names: Names, port: Arc<P>, options: Options) -> Self {
        Self {
            shared: Arc::new(Shared {
                attempts: Attempts::new(options.attempt_window, options.attempts),
                load: Load::new(usize::MAX, options.in_flight_per_agent),
                names,
                port,
                options,
            }),
        }
    }

    /// Answers one message from `peer` in the namespace `netns`. `None` where it deserves no
    /// answer.
    ///
    /// # Cancel safety
    /// If dropped, the decision may be recorded or not; a retransmission joins its attempt.
    pub async fn answer(
        &self,
        netns: u64,
        peer: SocketAddr,
        transport: Transport,
        bytes: &[u8],
    ) -> Option<Vec<u8>> {
        let client = self.shared.port.client(netns, peer, transport);
        let sender = Sender {
            netns,
            peer,
            transport,
            client,
        };
        self.handle(&sender, bytes).await
    }

    async fn handle(&self, sender: &Sender, bytes: &[u8]) -> Option<Vec<u8>> {
        let started = Instant::now();
        match self.shared.load.admit(sender) {
            Admission::Work(_working) => self.decide(sender, bytes, started).await,
            Admission::Refuse(refusing) => self.over_limit(sender, bytes, started, refusing).await,
            Admission::Drop => None,
        }
    }

    async fn decide(&self, sender: &Sender, bytes: &[u8], started: Instant) -> Option<Vec<u8>> {
        let question = match read(bytes, sender.transport) {
            Read::Question(question) => question,
            Read::Refused {
                reason,
                reply,
                record_type,
                name,
            } => {
                let answered = Answered {
                    name,
                    types: record_type.map(type_name).into_iter().collect(),
                    ..self.denied(sender, reason, started)
                };
                self.note(answered).await;
                return reply;
            }
        };
        let Some(client) = &sender.client else {
            let reason = Reason::new(
                ReasonCode::OriginUnknown,
                "the query did not come through the gate",
            );
            let reply = Reply::code(ResponseCode::Refused);
            return self
                .turn_down(sender, &question, reply, reason, started)
                .await;
        };
        let Some(name) = question.host() else {
            let reason = Reason::new(
                ReasonCode::DnsNotSupported,
                "the name asked for is no host name",
            );
            let reply = Reply::no_name(self.negative_ttl());
            return self
                .turn_down(sender, &question, reply, reason, started)
                .await;
        };
        let key = Key {
            agent: client.agent,
            origin: match client.socket {
                0 => Origin::Peer {
                    netns: sender.netns,
                    peer: sender.peer,
                },
                cookie => Origin::Socket(cookie),
            },
            name,
        };
        let attempt = self
            .shared
            .attempts
            .join(&key, question.record_type(), question.id);
        let ruling = self.shared.port.ruling(client.agent, &key.name);
        let asking = Asking {
            sender,
            client,
            question: &question,
            name: &key.name,
            ruling: &ruling,
            attempt: &attempt,
            started,
        };
        let reply = if ruling.allowed {
            self.allowed(&asking).await
        } else {
            let reply = Reply::no_name(self.negative_ttl());
            self.refuse(&asking, Answer::Refused, reply, &ruling.reason)
                .await
        };
        reply.write(&question, sender.transport)
    }

    /// Records a denial and gives the answer its reason. A denial stands whether or not it could be
    /// recorded.
    async fn refuse(
        &self,
        asking: &Asking<'_, P::Token>,
        answer: Answer,
        reply: Reply,
        reason: &Reason,
    ) -> Reply {
        let id = self.settle(asking, answer, None).await.ok();
        reply.because(reason.code, told(reason, id))
    }

    /// The decision of the attempt with this verdict, recorded by whoever comes first.
    async fn settle(
        &self,
        asking: &Asking<'_, P::Token>,
        answer: Answer,
        unenforced: Option<Reason>,
    ) -> Result<DecisionId, Reason> {
        let decision = asking.attempt.decision(answer.allows());
        let record = || {
            self.shared.port.record(Answered {
                client: Some(asking.client.clone()),
                transport: asking.sender.transport,
                name: Some(asking.name.clone()),
                types: asking.attempt.types().into_iter().map(type_name).collect(),
                ruling: Some(asking.ruling.clone()),
                answer,
                unenforced,
                count: 1,
                started: asking.started,
            })
        };
        decision.get_or_try_init(record).await.copied()
    }

    /// Refuses a readable query that never reaches the policy.
    async fn turn_down(
        &self,
        sender: &Sender,
        question: &Question,
        reply: Reply,
        reason: Reason,
        started: Instant,
    ) -> Option<Vec<u8>> {
        let answered = Answered {
            name: question.host(),
            types: vec![type_name(question.record_type())],
            ..self.denied(sender, reason.clone(), started)
        };
        let id = self.note(answered).await;
        reply
            .because(reason.code, told(&reason, id))
            .write(question, sender.transport)
    }

    /// Refuses a query beyond the agent's share, and records those that were dropped meanwhile.
    async fn over_limit(
        &self,
        sender: &Sender,
        bytes: &[u8],
        started: Instant,
        refusing: Refusing,
    ) -> Option<Vec<u8>> {
        let limit = self.shared.options.in_flight_per_agent;
        let reason = Reason::new(
            ReasonCode::LimitReached,
            format!("more than {limit} DNS queries of the agent are under way"),
        );
        let reply = match read(bytes, sender.transport) {
            Read::Question(question) => {
                let reply = Reply::code(ResponseCode::ServFail);
                self.turn_down(sender, &question, reply, reason.clone(), started)
                    .await
            }
            Read::Refused { reply, .. } => {
                self.note(self.denied(sender, reason.clone(), started))
                    .await;
                reply
            }
        };
        self.leave(refusing, &reason, started).await;
        reply
    }

    /// Leaves the place of a refusal that is recorded, after recording what found none.
    async fn leave(&self, mut refusing: Refusing, reason: &Reason, started: Instant) {
        while let Some((kept, Dropped { sender, count })) = refusing.leave() {
            refusing = kept;
            let denied = self.denied(&sender, reason.clone(), started);
            self.note(Answered { count, ..denied }).await;
        }
    }

    /// A denial of this room's own, without a name yet.
    fn denied(&self, sender: &Sender, reason: Reason, started: Instant) -> Answered<P::Token> {
        Answered {
            client: sender.client.clone(),
            transport: sender.transport,
            name: None,
            types: Vec::new(),
            ruling: None,
            answer: Answer::Denied(reason),
            unenforced: None,
            count: 1,
            started,
        }
    }

    /// Records a denial that is carried out whatever the record says.
    async fn note(&self, answered: Answered<P::Token>) -> Option<DecisionId> {
        self.shared.port.record(answered).await.ok()
    }

    fn negative_ttl(&self) -> u32 {
        seconds(self.shared.options.negative_ttl)
    }
}

/// What a client is told of a reason.
fn told(reason: &Reason, id: Option<DecisionId>) -> String {
    match id {
        Some(id) => format!("agentguard: {} decision {id}", reason.message),
        None => format!("agentguard: {}", reason.message),
    }
}

/// SERVFAIL with the reason: something of ours failed, and the client may try again.
fn fault(reason: &Reason) -> Reply {
    Reply::code(ResponseCode::ServFail).because(reason.code, told(reason, None))
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;

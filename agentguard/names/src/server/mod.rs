//! DNS service for agents: from a message to its answer.
//!
//! The order is that of authority: who asks, may it be asked at all, what does the policy say of the name,
//! what does upstream say, may the addresses be dialled. Then the decision is recorded, then
//! the kernel is told what the addresses mean, then the answer leaves.
//!
//! How refusals look, and why:
//! - A name outside the policy gets NXDOMAIN with an SOA of ours and, for clients with EDNS, the reason
//!   and the decision's id (RFC 8914 "Prohibited"). REFUSED and SERVFAIL make libc try again for
//!   ten seconds and tell the user of a temporary failure.
//! - An allowed name asked for TXT, MX, SRV, … gets NODATA, recorded as refused: clients that look for SRV first go on
//!   to A and AAAA, whereas NOTIMP or SERVFAIL ends them in a fault of the server. Types of
//!   which an agent's view truly has none (CNAME, NS, SOA, CAA, DS, …) get NODATA, recorded as allowed.
//! - What is a fault and may pass (upstream, record, limits, no virtual address left) gets SERVFAIL.
//!
//! **Invariant:** every query that can be read leads to exactly one decision, its own or that of its attempt.

mod attempt;
mod load;
mod message;
mod tcp;
mod udp;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentguard_model::{DecisionId, HostName, Reason, ReasonCode, Transport};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, HTTPS, SVCB};
use hickory_proto::rr::{RData, RecordType};

use crate::names::{Found, Names, Said};
use crate::port::{Addresses, Answer, Answered, Client, Port, Published, Ruling};
use crate::upstream::{Failure, Wanted};
use crate::virtual_addresses::Refused;
use attempt::{Attempt, Attempts, Key, Origin};
use load::{Admission, Load, Refusing};
use message::{Question, Read, Reply, read, type_name};

/// How the service behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// TTL of virtual addresses. Short, so that a changed policy is soon asked again.
    pub ttl: Duration,
    /// The longest TTL of real addresses; the least is 1 s.
    pub max_real_ttl: Duration,
    /// For how long a client may believe that something does not exist. Shorter than [`Self::ttl`]: a
    /// name that was just allowed should work soon.
    pub negative_ttl: Duration,
    /// How long queries join an attempt.
    pub attempt_window: Duration,
    /// Attempts remembered. Beyond, the oldest is forgotten; if it is then retransmitted, it is recorded twice.
    pub attempts: usize,
    /// Queries of one agent under way. Beyond: SERVFAIL and `limit_reached`.
    pub in_flight_per_agent: usize,
    /// Datagrams of one socket under way. Beyond, none is read until one is done; what the
    /// socket's buffer cannot hold is lost and sent again by its client.
    pub udp_in_flight: usize,
    /// TCP connections of one listener. Beyond, none is accepted until one ends.
    pub tcp_connections: usize,
    /// TCP connections of one agent on one listener. Beyond, a new one is closed at once, with `limit_reached`.
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
            in_flight_per_agent: 64,
            udp_in_flight: 1024,
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
                load: Load::new(options.in_flight_per_agent),
                names,
                port,
                options,
            }),
        }
    }

    /// Answers one message from `peer` in the namespace `netns`. `None` where it deserves no answer.
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
        let agent = sender.client.as_ref().map(|client| client.agent);
        match self.shared.load.admit(agent) {
            Admission::Work(_working) => self.decide(sender, bytes, started).await,
            Admission::Refuse(refusing) => self.over_limit(sender, bytes, started, &refusing).await,
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

    /// The answer for a name that the policy allows.
    async fn allowed(&self, asking: &Asking<'_, P::Token>) -> Reply {
        match asking.question.record_type() {
            RecordType::A => self.addresses(asking, Wanted::A).await,
            RecordType::AAAA => self.addresses(asking, Wanted::Aaaa).await,
            RecordType::HTTPS => self.services(asking, Wanted::Https).await,
            RecordType::SVCB => self.services(asking, Wanted::Svcb).await,
            RecordType::ANY => {
                let reason = unsupported("ANY");
                let reply = Reply::any(self.negative_ttl());
                self.refuse(asking, Answer::Denied(reason.clone()), reply, &reason)
                    .await
            }
            RecordType::CNAME
            | RecordType::DNAME
            | RecordType::NS
            | RecordType::SOA
            | RecordType::PTR
            | RecordType::CAA
            | RecordType::DS
            | RecordType::DNSKEY
            | RecordType::RRSIG
            | RecordType::NSEC
            | RecordType::NSEC3
            | RecordType::NSEC3PARAM
            | RecordType::CDS
            | RecordType::CDNSKEY
            | RecordType::CSYNC => match self.settle(asking, Answer::Empty, None).await {
                Ok(_) => Reply::no_data(self.negative_ttl()),
                Err(reason) => fault(&reason),
            },
            other => {
                let reason = unsupported(&type_name(other));
                let reply = Reply::no_data(self.negative_ttl());
                self.refuse(asking, Answer::Denied(reason.clone()), reply, &reason)
                    .await
            }
        }
    }

    async fn addresses(&self, asking: &Asking<'_, P::Token>, wanted: Wanted) -> Reply {
        let found = self.find(asking, Some(wanted)).await;
        let answer = found.answer(asking.name);
        if !matches!(answer, Answer::Addresses(_)) {
            return self.conclude(asking, answer).await;
        }
        let published = match self.published(asking, &found).await {
            Ok(published) => published,
            Err(reason) => {
                return self.conclude(asking, Answer::Denied(reason)).await;
            }
        };
        let id = match self
            .settle(asking, answer, found.unenforced(asking.name))
            .await
        {
            Ok(id) => id,
            Err(reason) => return fault(&reason),
        };
        if let Err(reason) = self.publish(asking, &published).await {
            self.shared.port.unanswered(id, &reason);
            return fault(&reason);
        }
        let ttl = seconds(match asking.ruling.addresses {
            Addresses::Virtual => self.shared.options.ttl,
            Addresses::Real => self.real_ttl(&found),
        });
        let (said, answered) = match wanted {
            Wanted::Aaaa => (&found.said6, published.dialled(false)),
            _ => (&found.said4, published.dialled(true)),
        };
        match said {
            _ if !answered.is_empty() => {
                Reply::records(answered.into_iter().map(|ip| (ttl, data(ip))).collect())
            }
            Said::Failed(_) | Said::Busy | Said::Late => Reply::code(ResponseCode::ServFail),
            Said::Records | Said::NoData | Said::NoName => Reply::no_data(self.negative_ttl()),
        }
    }

    /// HTTPS and SVCB: only where the name's addresses may be dialled, so that the verdict does
    /// not depend on what was asked for first.
    async fn services(&self, asking: &Asking<'_, P::Token>, wanted: Wanted) -> Reply {
        let upstream = &self.shared.names.upstream;
        let (found, known) = tokio::join!(
            self.find(asking, None),
            upstream.lookup(asking.name, wanted)
        );
        let answer = found.answer(asking.name);
        if !answer.allows() {
            return self.conclude(asking, answer).await;
        }
        if let Err(reason) = self
            .settle(asking, answer, found.unenforced(asking.name))
            .await
        {
            return fault(&reason);
        }
        let records = match &known.result {
            Ok(records) => records,
            Err(Failure::NoData) => return Reply::no_data(self.negative_ttl()),
            Err(Failure::NoName) => return Reply::no_name(self.negative_ttl()),
            Err(Failure::Busy | Failure::Failed(_)) => {
                return Reply::code(ResponseCode::ServFail);
            }
        };
        let ttl = seconds(known.ttl().min(self.shared.options.ttl));
        if records.services.is_empty() {
            return Reply::no_data(self.negative_ttl());
        }
        let data = |record: &SVCB| match wanted {
            Wanted::Https => (ttl, RData::HTTPS(HTTPS(record.clone()))),
            _ => (ttl, RData::SVCB(record.clone())),
        };
        Reply::records(records.services.iter().map(data).collect())
    }

    async fn find(&self, asking: &Asking<'_, P::Token>, wanted: Option<Wanted>) -> Found {
        let ruling = asking.ruling;
        self.shared
            .names
            .find(asking.name, wanted, &ruling.ranges, ruling.observing)
            .await
    }

    /// What the agent may dial from now on; allocates, durably.
    async fn published(
        &self,
        asking: &Asking<'_, P::Token>,
        found: &Found,
    ) -> Result<Published, Reason> {
        let mut published = Published {
            virtual4: None,
            virtual6: None,
            real: found.fine(),
            ttl: self.real_ttl(found),
        };
        if asking.ruling.addresses == Addresses::Real {
            return Ok(published);
        }
        let pair = self
            .shared
            .names
            .virtual_addresses
            .answer(asking.name, asking.client.agent)
            .await
            .map_err(|refused| {
                let code = match refused {
                    Refused::Exhausted(_) | Refused::ShareUsed(_) => {
                        ReasonCode::VirtualAddressesExhausted
                    }
                    Refused::Storage(_) | Refused::Closed => ReasonCode::Internal,
                };
                Reason::new(code, refused.to_string())
            })?;
        published.virtual4 = (!found.fine4.is_empty()).then_some(pair.v4);
        published.virtual6 = (!found.fine6.is_empty()).then_some(pair.v6);
        published.ttl = published.ttl.max(self.shared.options.ttl);
        Ok(published)
    }

    /// Tells the kernel, once for all queries of an attempt that found the same.
    async fn publish(
        &self,
        asking: &Asking<'_, P::Token>,
        published: &Published,
    ) -> Result<(), Reason> {
        let tell = || async {
            let (agent, name) = (asking.client.agent, asking.name);
            let told = self.shared.port.publish(agent, name, published).await;
            told.map(|()| published.clone())
        };
        let told = asking.attempt.published.get_or_try_init(tell).await?;
        if !told.covers(published) {
            tell().await?;
        }
        Ok(())
    }

    /// Records what became of a name and answers with a refusal or with nothing.
    async fn conclude(&self, asking: &Asking<'_, P::Token>, answer: Answer) -> Reply {
        let negative = self.negative_ttl();
        let (reply, reason) = match &answer {
            Answer::Denied(reason) => {
                let reply = match reason.code {
                    ReasonCode::Rebinding => Reply::no_name(negative),
                    _ => Reply::code(ResponseCode::ServFail),
                };
                let reason = reason.clone();
                return self.refuse(asking, answer, reply, &reason).await;
            }
            Answer::Unknown(_) => (Reply::no_name(negative), None),
            Answer::Failed(reason) => (Reply::code(ResponseCode::ServFail), Some(reason.clone())),
            Answer::Empty | Answer::Addresses(_) | Answer::Refused => {
                (Reply::no_data(negative), None)
            }
        };
        match self.settle(asking, answer, None).await {
            Ok(id) => match reason {
                Some(reason) => reply.because(reason.code, told(&reason, Some(id))),
                None => reply,
            },
            Err(reason) => fault(&reason),
        }
    }

    /// Records a denial and gives the answer its reason. A denial stands whether or not it could be recorded.
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
        refusing: &Refusing,
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
        loop {
            let count = refusing.take_dropped();
            if count == 0 {
                return reply;
            }
            self.note(Answered {
                count,
                ..self.denied(sender, reason.clone(), started)
            })
            .await;
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

    fn real_ttl(&self, found: &Found) -> Duration {
        let bound = self.shared.options.max_real_ttl;
        found.ttl.min(bound).max(Duration::from_secs(1))
    }
}

impl Published {
    /// Whether virtual addresses stand for the name.
    #[must_use]
    pub const fn is_virtual(&self) -> bool {
        self.virtual4.is_some() || self.virtual6.is_some()
    }

    /// The addresses of one family that the agent is answered with.
    fn dialled(&self, v4: bool) -> Vec<IpAddr> {
        let mut dialled: Vec<IpAddr> = if self.is_virtual() {
            let (virtual4, virtual6) =
                (self.virtual4.map(IpAddr::V4), self.virtual6.map(IpAddr::V6));
            virtual4.into_iter().chain(virtual6).collect()
        } else {
            self.real.clone()
        };
        dialled.retain(|ip| ip.is_ipv4() == v4);
        dialled
    }

    /// Whether who knows this knows `other` too.
    fn covers(&self, other: &Self) -> bool {
        (self.virtual4, self.virtual6) == (other.virtual4, other.virtual6)
            && self.real == other.real
    }
}

const fn data(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

fn unsupported(record_type: &str) -> Reason {
    Reason::new(
        ReasonCode::DnsNotSupported,
        format!("{record_type} records are not given to agents"),
    )
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

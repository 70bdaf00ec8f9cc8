//! The authoritative name server of the world.
//!
//! Answers every name over UDP and TCP: what the [`Zone`] has, or NXDOMAIN with an SOA record, so
//! that it can stand in for the whole DNS. Misbehaves on request, and counts what it is asked.

mod zone;

use std::io::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use hickory_proto::op::{Edns, Message, MessageType, Metadata, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

pub use zone::{Fault, Zone};

use crate::namespace::Runtime;

/// How many queries are kept. Later ones are still answered; [`Server::queries`] then fails.
const KEPT: usize = 1 << 16;

/// The largest answer over UDP to a client that does not say more (RFC 1035, 2.3.4).
const PLAIN_UDP: u16 = 512;

/// A query that arrived.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Query {
    /// The name as it was asked, lower case, without the last dot.
    pub name: String,
    /// The type, such as `AAAA`.
    pub kind: String,
    /// Whether it came over TCP.
    pub tcp: bool,
    /// Who asked.
    pub peer: SocketAddr,
}

#[derive(Debug, Default)]
struct Log {
    queries: Vec<Query>,
    overflow: bool,
}

/// The name server. It ends with the runtime it was started on.
#[derive(Clone, Debug)]
pub struct Server {
    zone: Arc<Mutex<Zone>>,
    log: Arc<Mutex<Log>>,
}

impl Server {
    pub(crate) fn start(runtime: &Runtime, addresses: &[IpAddr], zone: Zone) -> Result<Self> {
        let server = Self {
            zone: Arc::new(Mutex::new(zone)),
            log: Arc::default(),
        };
        for &address in addresses {
            let bound = runtime.run(async move {
                let udp = UdpSocket::bind((address, 53)).await?;
                Ok::<_, Error>((udp, TcpListener::bind((address, 53)).await?))
            })?;
            let (udp, tcp) = bound.with_context(|| format!("no name server on {address}"))?;
            runtime.spawn(server.clone().serve_udp(Arc::new(udp)));
            runtime.spawn(server.clone().serve_tcp(tcp));
        }
        Ok(server)
    }

    /// Changes the zone while it is served.
    pub fn change(&self, change: impl FnOnce(Zone) -> Zone) {
        let mut zone = self.zone.lock().unwrap_or_else(PoisonError::into_inner);
        *zone = change(std::mem::take(&mut *zone));
    }

    /// What it has been asked, in order.
    ///
    /// # Errors
    /// It was more than is kept.
    pub fn queries(&self) -> Result<Vec<Query>> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.overflow {
            bail!("more than {KEPT} queries");
        }
        Ok(log.queries.clone())
    }

    /// How often it has been asked for this name, whatever the type.
    ///
    /// # Errors
    /// As [`Server::queries`].
    pub fn count(&self, name: &str) -> Result<usize> {
        let queries = self.queries()?;
        Ok(queries.iter().filter(|query| query.name == name).count())
    }

    async fn serve_udp(self, socket: Arc<UdpSocket>) {
        let mut buffer = [0; 4096];
        loop {
            let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
                continue;
            };
            let Some(query) = parse(buffer.get(..length)) else {
                continue;
            };
            let (server, socket) = (self.clone(), Arc::clone(&socket));
            tokio::spawn(async move {
                let limit = query.edns.as_ref().map_or(PLAIN_UDP, Edns::max_payload);
                if let Some(answer) = server.answer(&query, peer, Some(limit)).await {
                    let _ = socket.send_to(&answer, peer).await;
                }
            });
        }
    }

    async fn serve_tcp(self, listener: TcpListener) {
        loop {
            let Ok((stream, peer)) = listener.accept().await else {
                continue;
            };
            let server = self.clone();
            // The client's end of the connection is the client's affair.
            tokio::spawn(async move { drop(server.converse(stream, peer).await) });
        }
    }

    async fn converse(&self, mut stream: TcpStream, peer: SocketAddr) -> Result<(), Error> {
        loop {
            let mut query = vec![0; usize::from(stream.read_u16().await?)];
            stream.read_exact(&mut query).await?;
            let Some(query) = parse(Some(&query)) else {
                return Ok(());
            };
            if let Some(answer) = self.answer(&query, peer, None).await {
                let length = u16::try_from(answer.len()).map_err(Error::other)?;
                stream.write_u16(length).await?;
                stream.write_all(&answer).await?;
            }
        }
    }

    /// `limit` is there for UDP: what is longer is cut to nothing, with the TC bit.
    async fn answer(
        &self,
        query: &Message,
        peer: SocketAddr,
        limit: Option<u16>,
    ) -> Option<Vec<u8>> {
        let question = query.queries.first()?;
        let name = zone::normal(&question.name().to_ascii());
        self.note(Query {
            name: name.clone(),
            kind: question.query_type().to_string(),
            tcp: limit.is_none(),
            peer,
        });
        let answer = {
            let mut zone = self.zone.lock().unwrap_or_else(PoisonError::into_inner);
            zone.look_up(&name, question.query_type())
        };

        let mut message = Message::query();
        message.metadata = Metadata::response_from_request(&query.metadata);
        message.metadata.authoritative = true;
        message.metadata.recursion_available = true;
        message.metadata.response_code = answer.code;
        message.add_query(question.clone());
        message.add_answers(answer.records);
        message.add_authorities(answer.authority);
        if let Some(edns) = &query.edns {
            let mut ours = Edns::new();
            ours.set_max_payload(edns.max_payload());
            message.set_edns(ours);
        }
        match answer.fault {
            None => {}
            Some(Fault::Silence) => return None,
            Some(Fault::Delay(delay)) => tokio::time::sleep(delay).await,
            Some(Fault::WrongId) => message.metadata.id = message.metadata.id.wrapping_add(1),
            Some(Fault::ServerFailure) => {
                message.answers.clear();
                message.metadata.response_code = ResponseCode::ServFail;
            }
            Some(Fault::Truncated) if limit.is_some() => truncate(&mut message),
            Some(Fault::Truncated) => {}
            Some(Fault::WrongQuestion) => {
                for question in &mut message.queries {
                    question.set_query_type(RecordType::NULL);
                }
            }
            Some(Fault::Garbage) => return Some(b"this is not a DNS message".to_vec()),
        }
        let bytes = message.to_vec().ok()?;
        if limit.is_some_and(|limit| bytes.len() > usize::from(limit)) {
            truncate(&mut message);
            return message.to_vec().ok();
        }
        Some(bytes)
    }

    fn note(&self, query: Query) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.queries.len() < KEPT {
            log.queries.push(query);
        } else {
            log.overflow = true;
        }
    }
}

fn truncate(message: &mut Message) {
    message.answers.clear();
    message.authorities.clear();
    message.metadata.truncation = true;
}

fn parse(bytes: Option<&[u8]>) -> Option<Message> {
    let message = Message::from_vec(bytes?).ok()?;
    (message.metadata.message_type == MessageType::Query).then_some(message)
}

//! Answers to queries for one name, out of the cache: `answers DIRECTORY COUNT`.
//!
//! A name server on loopback is asked for it once. Each query is one of a new attempt, and with that a decision, which is
//! kept nowhere here. `cargo xtask instructions` counts what they take.

use std::error::Error;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use agentguard_model::{AgentId, DecisionId, HostName, Process, Reason, ReasonCode, Transport};
use agentguard_names::virtual_addresses::{self, VirtualAddresses};
use agentguard_names::{
    Addresses, Answered, Client, Names, Options, Port, Published, Ruling, Server, Upstream,
    upstream,
};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;

const NETNS: u64 = 4_026_531_840;
const NAME: &str = "api.example.com.";
const TTL: u32 = 3600;
/// Attempts that are remembered: few, so that each query has one forgotten, however slow they are.
const ATTEMPTS: usize = 64;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, count] = arguments.as_slice() else {
        return Err("usage: answers DIRECTORY COUNT".into());
    };
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let config = upstream::Config::new(vec![socket.local_addr()?]);
    tokio::spawn(async move { serve(&socket).await.map_err(|error| error.to_string()) });
    let options = virtual_addresses::Options::new(Arc::new(|_, _| true));
    let addresses = VirtualAddresses::open(&Path::new(directory).join("names"), options)?;
    let options = Options {
        attempts: ATTEMPTS,
        ..Options::default()
    };
    let names = Names::new(addresses, Upstream::new(config)?);
    let server = Server::new(names, Arc::new(Anything), options);
    for n in 0..count.parse()? {
        ask(&server, n).await?;
    }
    Ok(())
}

async fn ask(server: &Server<Anything>, n: u16) -> Outcome {
    let mut query = Message::new(n, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(NAME)?, RecordType::A));
    let peer = SocketAddr::from(([127, 0, 0, 1], 40_000));
    let answer = server
        .answer(NETNS, peer, Transport::Udp, &query.to_vec()?)
        .await
        .ok_or("no answer")?;
    match Message::from_vec(&answer)?.answers.len() {
        1 => Ok(()),
        other => Err(format!("{other} addresses").into()),
    }
}

/// A name server that has one address of each kind for every name.
async fn serve(socket: &UdpSocket) -> Outcome {
    let mut buffer = [0; 1232];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await?;
        let query = Message::from_vec(buffer.get(..length).unwrap_or_default())?;
        let question = query.queries.first().ok_or("no question")?;
        let address = match question.query_type() {
            RecordType::A => RData::from(std::net::IpAddr::from(Ipv4Addr::new(203, 0, 113, 7))),
            _ => RData::from(std::net::IpAddr::from(Ipv6Addr::new(
                0x2001, 0xdb8, 0, 0, 0, 0, 0, 7,
            ))),
        };
        let mut answer = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
        answer.metadata.recursion_available = true;
        answer.add_query(question.clone());
        answer.add_answer(Record::from_rdata(question.name().clone(), TTL, address));
        socket.send_to(&answer.to_vec()?, peer).await?;
    }
}

/// Allows every name to one agent, and keeps nothing.
struct Anything;

impl Port for Anything {
    type Token = ();

    fn client(&self, _: u64, _: SocketAddr, _: Transport) -> Option<Client> {
        Some(Client {
            agent: AgentId(7),
            run: 0,
            process: Process {
                pid: 1,
                uid: 1000,
                comm: "curl".to_owned(),
                exe: None,
            },
            socket: 1,
        })
    }

    fn ruling(&self, _: AgentId, _: &HostName) -> Ruling<()> {
        Ruling {
            allowed: true,
            reason: Reason::new(ReasonCode::RuleAllow, "Rule api allows it."),
            addresses: Addresses::Virtual,
            ranges: Vec::new(),
            observing: false,
            elsewhere: false,
            token: (),
        }
    }

    async fn record(&self, _: Answered<()>) -> Result<DecisionId, Reason> {
        Ok(DecisionId(ulid::Ulid::from(1)))
    }

    async fn publish(&self, _: AgentId, _: &HostName, _: &Published) -> Result<(), Reason> {
        Ok(())
    }

    fn unanswered(&self, _: DecisionId, _: &Reason) {}
}

//! A small world around the service: name servers on loopback, a port that remembers, a client.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentguard_model::{AgentId, DecisionId, HostName, Process, Reason, ReasonCode, Transport};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Notify, Semaphore};

use crate::port::{Addresses, Answered, Client, Port, Published, Ruling};
use crate::server::{Options, Server};
use crate::upstream::{Config, Upstream};
use crate::virtual_addresses::{self, Range, VirtualAddresses};
use crate::{Answer, Names};

pub(super) const NETNS: u64 = 4_026_531_840;
pub(super) const AGENT: AgentId = AgentId(7);
/// Another agent, which asks from [`OTHERS_ADDRESS`]. Its records never wait.
pub(super) const OTHER: AgentId = AgentId(8);
pub(super) const OTHERS_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// What a name server does with a question.
#[derive(Clone)]
pub(super) enum Script {
    /// These records, with this TTL.
    Records(u32, Vec<RData>),
    /// Records of several names, for chains.
    Chain(Vec<Record>),
    /// No such type, with an SOA of this TTL.
    NoData(u32),
    /// No such name, with an SOA of this TTL.
    NoName(u32),
    /// Another response code.
    Code(ResponseCode),
    /// TC over UDP, these over TCP.
    OverTcp(Vec<RData>),
    /// Nothing at all.
    Silent,
    /// As the inner one, when a permit is there.
    Held(Arc<Semaphore>, Box<Script>),
}

/// A name server. A name that is not scripted does not exist; a type that is not is empty.
#[derive(Clone)]
pub(super) struct NameServer {
    pub(super) address: SocketAddr,
    zone: Arc<Mutex<HashMap<(String, RecordType), Script>>>,
    asked: Arc<Mutex<BTreeMap<(String, String), u32>>>,
}

impl NameServer {
    pub(super) async fn start() -> Self {
        // The same port for both transports; another program may have one of them.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (Arc::new(udp), tcp);
            }
        };
        let this = Self {
            address: udp.local_addr().unwrap(),
            zone: Arc::default(),
            asked: Arc::default(),
        };
        let server = this.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, peer) = udp.recv_from(&mut buffer).await.unwrap();
                let query = Message::from_vec(&buffer[..length]).unwrap();
                let (server, udp) = (server.clone(), Arc::clone(&udp));
                tokio::spawn(async move {
                    if let Some(answer) = server.answer(&query, false).await {
                        udp.send_to(&answer.to_vec().unwrap(), peer).await.unwrap();
                    }
                });
            }
        });
        let server = this.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let server = server.clone();
                tokio::spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut query = vec![0; usize::from(length)];
                        stream.read_exact(&mut query).await.unwrap();
                        let query = Message::from_vec(&query).unwrap();
                        if let Some(answer) = server.answer(&query, true).await {
                            let bytes = answer.to_vec().unwrap();
                            let length = u16::try_from(bytes.len()).unwrap();
                            stream.write_u16(length).await.unwrap();
                            stream.write_all(&bytes).await.unwrap();
                        }
                    }
                });
            }
        });
        this
    }

    pub(super) fn script(&self, name: &str, record_type: RecordType, script: Script) -> &Self {
        let key = (name.to_owned(), record_type);
        self.zone.lock().unwrap().insert(key, script);
        self
    }

    /// Gives a name these addresses, A and AAAA by what they are.
    pub(super) fn host(&self, name: &str, addresses: &[&str]) -> &Self {
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses
            .iter()
            .map(|text| text.parse::<IpAddr>().unwrap())
            .partition(IpAddr::is_ipv4);
        for (record_type, addresses) in [(RecordType::A, v4), (RecordType::AAAA, v6)] {
            let script = if addresses.is_empty() {
                Script::NoData(60)
            } else {
                Script::Records(3600, addresses.into_iter().map(RData::from).collect())
            };
            self.script(name, record_type, script);
        }
        self
    }

    /// How often it was asked.
    pub(super) fn asked(&self, name: &str, record_type: RecordType) -> u32 {
        let key = (name.to_owned(), record_type.to_string());
        self.asked.lock().unwrap().get(&key).copied().unwrap_or(0)
    }

    pub(super) fn asked_in_all(&self) -> u32 {
        self.asked.lock().unwrap().values().sum()
    }

    async fn answer(&self, query: &Message, tcp: bool) -> Option<Message> {
        let question = query.queries[0].clone();
        let name = question.name().to_ascii().to_ascii_lowercase();
        let name = name.trim_end_matches('.').to_owned();
        let key = (name.clone(), question.query_type().to_string());
        *self.asked.lock().unwrap().entry(key).or_default() += 1;
        let script = {
            let zone = self.zone.lock().unwrap();
            let known = zone.keys().any(|(known, _)| *known == name);
            match zone.get(&(name, question.query_type())) {
                Some(script) => script.clone(),
                None if known => Script::NoData(60),
                None => Script::NoName(60),
            }
        };
        self.play(query, &question, script, tcp).await
    }

    async fn play(
        &self,
        query: &Message,
        question: &Query,
        mut script: Script,
        tcp: bool,
    ) -> Option<Message> {
        while let Script::Held(gate, inner) = script {
            gate.acquire().await.unwrap().forget();
            script = *inner;
        }
        let mut answer = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
        answer.metadata.recursion_desired = true;
        answer.metadata.recursion_available = true;
        answer.add_query(question.clone());
        let owner = question.name();
        let record = |ttl, data| Record::from_rdata(owner.clone(), ttl, data);
        let soa = |ttl| {
            let soa = SOA::new(owner.clone(), owner.clone(), 1, 2, 3, 4, ttl);
            Record::from_rdata(owner.clone(), ttl, RData::SOA(soa))
        };
        match script {
            Script::Records(ttl, data) => {
                answer.add_answers(data.into_iter().map(|data| record(ttl, data)));
            }
            Script::Chain(records) => {
                answer.add_answers(records);
            }
            Script::NoData(ttl) => {
                answer.add_authority(soa(ttl));
            }
            Script::NoName(ttl) => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                answer.add_authority(soa(ttl));
            }
            Script::Code(code) => answer.metadata.response_code = code,
            Script::OverTcp(_) if !tcp => answer.metadata.truncation = true,
            Script::OverTcp(data) => {
                answer.add_answers(data.into_iter().map(|data| record(3600, data)));
            }
            Script::Silent | Script::Held(..) => return None,
        }
        Some(answer)
    }
}

pub(super) fn alias(from: &str, to: &str, ttl: u32) -> Record {
    let [from, to] = [from, to].map(|text| Name::from_ascii(format!("{text}.")).unwrap());
    Record::from_rdata(from, ttl, RData::CNAME(CNAME(to)))
}

/// How the port rules on one name.
#[derive(Clone)]
pub(super) struct Rule {
    pub(super) allowed: bool,
    pub(super) addresses: Addresses,
    pub(super) ranges: Vec<&'static str>,
    pub(super) observing: bool,
    pub(super) elsewhere: bool,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            allowed: true,
            addresses: Addresses::Virtual,
            ranges: Vec::new(),
            observing: false,
            elsewhere: false,
        }
    }
}

/// A port that allows `*.example` unless told otherwise, and remembers.
#[derive(Default)]
pub(super) struct Desk {
    rules: Mutex<HashMap<String, Rule>>,
    /// The next ruling on this name takes its thread until it is told to go on, or for too long.
    pub(super) at_work: Mutex<Option<(&'static str, std::sync::mpsc::Receiver<()>)>>,
    pub(super) recorded: Mutex<Vec<(DecisionId, Answered<()>)>>,
    pub(super) published: Mutex<Vec<(HostName, Published)>>,
    pub(super) unanswered: Mutex<Vec<(DecisionId, Reason)>>,
    /// What happened, in order: `record a.example`, `publish a.example`.
    pub(super) order: Mutex<Vec<String>>,
    pub(super) refuse_record: AtomicBool,
    pub(super) refuse_publish: AtomicBool,
    /// While set, records wait for a permit.
    pub(super) slow_record: Mutex<Option<Arc<Semaphore>>>,
    pub(super) recording: AtomicU32,
    /// The next call that begins some together panics at its end.
    pub(super) panics: AtomicBool,
    /// How many records were begun in each call that begins some together.
    pub(super) together: Mutex<Vec<u32>>,
    pub(super) something: Notify,
}

impl Desk {
    pub(super) fn rule(&self, name: &str, rule: Rule) {
        self.rules.lock().unwrap().insert(name.to_owned(), rule);
    }

    /// The answers recorded, oldest first.
    pub(super) fn answers(&self) -> Vec<Answer> {
        let recorded = self.recorded.lock().unwrap();
        recorded.iter().map(|(_, a)| a.answer.clone()).collect()
    }

    /// The reason codes of what was recorded; none for an answer with the ruling's own reason.
    pub(super) fn codes(&self) -> Vec<Option<ReasonCode>> {
        let code = |answer: &Answer| answer.reason().map(|reason| reason.code);
        self.answers().iter().map(code).collect()
    }

    pub(super) async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let wait = async {
            loop {
                let something = self.something.notified();
                if condition(self) {
                    return;
                }
                something.await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
        assert!(waited.is_ok(), "never: {what}");
    }
}

impl Port for Desk {
    type Token = ();

    /// The port number tells the agent: below 1000 nobody, else `AGENT` or, by its address, `OTHER`;
    /// the socket's cookie is the port.
    fn client(&self, netns: u64, peer: SocketAddr, _: Transport) -> Option<Client> {
        assert_eq!(netns, NETNS);
        (peer.port() >= 1000).then(|| Client {
            run: 0,
            agent: if peer.ip() == OTHERS_ADDRESS {
                OTHER
            } else {
                AGENT
            },
            process: Process {
                pid: 1,
                uid: 1000,
                comm: "curl".to_owned(),
                exe: None,
            },
            socket: u64::from(peer.port()),
        })
    }

    fn ruling(&self, agent: AgentId, name: &HostName) -> Ruling<()> {
        assert!([AGENT, OTHER].contains(&agent));
        let at_work = self
            .at_work
            .lock()
            .unwrap()
            .take_if(|(it, _)| *it == name.as_str());
        if let Some((_, goes_on)) = at_work {
            let _ = goes_on.recv_timeout(Duration::from_secs(10));
        }
        let rule = self.rules.lock().unwrap().get(name.as_str()).cloned();
        let rule = rule.unwrap_or_else(|| Rule {
            allowed: name.as_str().ends_with(".example"),
            ..Rule::default()
        });
        Ruling {
            allowed: rule.allowed,
            reason: Reason::new(
                if rule.allowed {
                    ReasonCode::RuleAllow
                } else {
                    ReasonCode::NoRule
                },
                format!("no rule allows {name}"),
            ),
            addresses: rule.addresses,
            ranges: rule
                .ranges
                .iter()
                .map(|text| text.parse().unwrap())
                .collect(),
            observing: rule.observing,
            elsewhere: rule.elsewhere,
            token: (),
        }
    }

    async fn record(&self, answered: Answered<()>) -> Result<DecisionId, Reason> {
        self.recording.fetch_add(1, Ordering::SeqCst);
        self.something.notify_waiters();
        let gate = self.slow_record.lock().unwrap().clone();
        let client = answered.client.as_ref();
        if let Some(gate) = gate
            && client.is_none_or(|client| client.agent != OTHER)
        {
            gate.acquire().await.unwrap().forget();
        }
        if self.refuse_record.load(Ordering::SeqCst) {
            return Err(Reason::new(ReasonCode::RecordFailed, "the disk is full"));
        }
        let mut recorded = self.recorded.lock().unwrap();
        let number = u128::try_from(recorded.len()).unwrap() + 1;
        let id = DecisionId(ulid::Ulid::from(number));
        let name = answered.name.as_ref().map(ToString::to_string);
        self.order
            .lock()
            .unwrap()
            .push(format!("record {}", name.unwrap_or_default()));
        recorded.push((id, answered));
        drop(recorded);
        self.something.notify_waiters();
        Ok(id)
    }

    fn together(&self, begins: impl FnOnce()) {
        let before = self.recording.load(Ordering::SeqCst);
        begins();
        let begun = self.recording.load(Ordering::SeqCst) - before;
        self.together.lock().unwrap().push(begun);
        assert!(!self.panics.swap(false, Ordering::SeqCst), "a test");
    }

    async fn publish(
        &self,
        _: AgentId,
        name: &HostName,
        addresses: &Published,
    ) -> Result<(), Reason> {
        if self.refuse_publish.load(Ordering::SeqCst) {
            return Err(Reason::new(ReasonCode::MapFull, "the map is full"));
        }
        let published = (name.clone(), addresses.clone());
        self.published.lock().unwrap().push(published);
        self.order.lock().unwrap().push(format!("publish {name}"));
        Ok(())
    }

    fn unanswered(&self, id: DecisionId, reason: &Reason) {
        self.unanswered.lock().unwrap().push((id, reason.clone()));
    }
}

/// The service with all around it.
pub(super) struct World {
    pub(super) upstream: NameServer,
    pub(super) desk: Arc<Desk>,
    pub(super) names: Names,
    pub(super) server: Server<Desk>,
    _directory: tempfile::TempDir,
}

impl World {
    pub(super) async fn new() -> Self {
        Self::with(Options::default(), Range::default(), &[]).await
    }

    /// A world in which upstream may take ten minutes.
    pub(super) async fn patient() -> Self {
        let upstream = NameServer::start().await;
        let mut config = Config::new(vec![upstream.address]);
        config.server_timeout = Duration::from_secs(300);
        config.deadline = Duration::from_secs(600);
        Self::around(upstream, config, Options::default(), Range::default())
    }

    /// `before`: name servers that are asked before the world's own.
    pub(super) async fn with(options: Options, range: Range, before: &[SocketAddr]) -> Self {
        let upstream = NameServer::start().await;
        let mut config = Config::new([before, &[upstream.address]].concat());
        config.server_timeout = Duration::from_millis(200);
        config.deadline = Duration::from_secs(2);
        Self::around(upstream, config, options, range)
    }

    fn around(upstream: NameServer, config: Config, options: Options, range: Range) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut storage = virtual_addresses::Options::new(Arc::new(|_, _| true));
        storage.range = range;
        let addresses = VirtualAddresses::open(&directory.path().join("va.redb"), storage).unwrap();
        let names = Names::new(addresses, Upstream::new(config).unwrap());
        let desk = Arc::new(Desk::default());
        Self {
            server: Server::new(names.clone(), Arc::clone(&desk), options),
            upstream,
            desk,
            names,
            _directory: directory,
        }
    }

    /// Asks once, from a socket of its own.
    pub(super) async fn ask(&self, name: &str, record_type: RecordType) -> Seen {
        static PORT: AtomicU32 = AtomicU32::new(20_000);
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(port).unwrap();
        self.ask_from(port, 77, name, record_type).await.unwrap()
    }

    /// Asks from this port under this DNS id, with EDNS.
    pub(super) async fn ask_from(
        &self,
        port: u16,
        id: u16,
        name: &str,
        record_type: RecordType,
    ) -> Option<Seen> {
        let bytes = query(id, name, record_type, Some(1232));
        let peer = SocketAddr::from(([127, 0, 0, 1], port));
        let answer = self
            .server
            .answer(NETNS, peer, Transport::Udp, &bytes)
            .await?;
        Some(Seen::read(&answer, id))
    }
}

pub(super) fn query(id: u16, name: &str, record_type: RecordType, edns: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii(format!("{name}.")).unwrap();
    message.add_query(Query::query(name, record_type));
    if let Some(size) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

/// An answer as a client sees it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) code: ResponseCode,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) records: Vec<RData>,
    pub(super) ttls: Vec<u32>,
    /// The negative TTL, where there is an SOA.
    pub(super) negative: Option<u32>,
    /// The extended error.
    pub(super) extended: Option<(u16, String)>,
}

impl Seen {
    pub(super) fn read(bytes: &[u8], id: u16) -> Self {
        let message = Message::from_vec(bytes).unwrap();
        assert_eq!(message.metadata.id, id);
        assert_eq!(message.metadata.message_type, MessageType::Response);
        let extended = message
            .edns
            .as_ref()
            .and_then(|edns| edns.option(15.into()));
        Self {
            code: message.metadata.response_code,
            addresses: message
                .answers
                .iter()
                .filter_map(|r| r.data.ip_addr())
                .collect(),
            records: message.answers.iter().map(|r| r.data.clone()).collect(),
            ttls: message.answers.iter().map(|r| r.ttl).collect(),
            negative: message.authorities.iter().find_map(|r| match &r.data {
                RData::SOA(soa) => Some(soa.minimum),
                _ => None,
            }),
            extended: extended.map(|option| match option {
                EdnsOption::Unknown(15, data) => {
                    let code = u16::from_be_bytes([data[0], data[1]]);
                    (code, String::from_utf8(data[2..].to_vec()).unwrap())
                }
                other => panic!("{other:?}"),
            }),
        }
    }

    /// NOERROR, no records, an SOA.
    pub(super) fn is_no_data(&self) -> bool {
        self.code == ResponseCode::NoError && self.records.is_empty() && self.negative.is_some()
    }
}

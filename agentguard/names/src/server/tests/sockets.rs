//! The service on real sockets.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::world::{Desk, OTHERS_ADDRESS, Rule, Seen};
use super::*;

/// The world, served on both transports.
struct Served {
    world: World,
    udp: SocketAddr,
    tcp: SocketAddr,
    shutdown: CancellationToken,
    tasks: [JoinHandle<()>; 2],
}

impl Served {
    async fn new(options: Options) -> Self {
        Self::read_by(2, options).await
    }

    async fn read_by(readers: usize, options: Options) -> Self {
        let world = World::with(options, Range::default(), &[]).await;
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.set_nonblocking(true).unwrap();
        let sockets = (0..readers).map(|_| UdpSocket::from_std(udp.try_clone().unwrap()).unwrap());
        let sockets = sockets.collect();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shutdown = CancellationToken::new();
        Self {
            udp: udp.local_addr().unwrap(),
            tcp: tcp.local_addr().unwrap(),
            tasks: [
                tokio::spawn(world.server.clone().udp(sockets, NETNS, shutdown.clone())),
                tokio::spawn(world.server.clone().tcp(tcp, NETNS, shutdown.clone())),
            ],
            shutdown,
            world,
        }
    }

    async fn client(&self) -> UdpSocket {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(self.udp).await.unwrap();
        client
    }

    async fn end(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            in_time(task).await.unwrap();
        }
    }
}

async fn in_time<F: Future>(future: F) -> F::Output {
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, future).await.expect("in time")
}

async fn ask(client: &UdpSocket, id: u16, name: &str) {
    let query = query(id, name, RecordType::A, None);
    client.send(&query).await.unwrap();
}

async fn hear(client: &UdpSocket, id: u16) -> Seen {
    let mut buffer = [0; 1500];
    let length = in_time(client.recv(&mut buffer)).await.unwrap();
    Seen::read(&buffer[..length], id)
}

async fn send(stream: &mut TcpStream, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap();
    stream.write_all(&length.to_be_bytes()).await.unwrap();
    stream.write_all(message).await.unwrap();
}

async fn receive(stream: &mut TcpStream) -> Vec<u8> {
    let length = in_time(stream.read_u16()).await.unwrap();
    let mut message = vec![0; usize::from(length)];
    in_time(stream.read_exact(&mut message)).await.unwrap();
    message
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    // A reset is an end too.
    in_time(stream.read_u8()).await.is_err()
}

#[tokio::test]
async fn a_datagram_is_answered_where_it_came_from() {
    let served = Served::new(Options::default()).await;
    served.world.upstream.host("a.example", &["203.0.113.1"]);
    let client = served.client().await;
    for (id, name, code) in [
        (1, "a.example", ResponseCode::NoError),
        (2, "evil.test", ResponseCode::NXDomain),
    ] {
        ask(&client, id, name).await;
        assert_eq!(hear(&client, id).await.code, code);
    }
    served.end().await;
}

/// What is known is answered by who reads, and what has to be waited for is not waited for there.
#[tokio::test]
async fn datagrams_are_answered_as_they_are_done() {
    let served = Served::new(Options::default()).await;
    let gate = Arc::new(Semaphore::new(0));
    let records = Script::Records(60, vec![RData::A(A::new(203, 0, 113, 1))]);
    let held = Script::Held(Arc::clone(&gate), Box::new(records));
    let upstream = &served.world.upstream;
    upstream.script("slow.example", RecordType::A, held);
    upstream.host("fast.example", &["203.0.113.2"]);
    let client = served.client().await;
    let address = async |id| {
        let seen = hear(&client, id).await;
        assert_eq!(seen.code, ResponseCode::NoError);
        assert_eq!(seen.addresses.len(), 1);
    };
    ask(&client, 1, "slow.example").await;
    // Of these the first is looked up, and the second is known.
    for id in [2, 3] {
        ask(&client, id, "fast.example").await;
        address(id).await;
    }
    gate.add_permits(10);
    address(1).await;
    ask(&client, 4, "slow.example").await;
    address(4).await;
    served.end().await;
}

/// Whoever is at work on one answer, the next one does not wait for it: another reader has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_datagram_does_not_wait_for_the_answer_to_another() {
    let served = Served::new(Options::default()).await;
    let (goes_on, waits) = std::sync::mpsc::channel();
    *served.world.desk.at_work.lock().unwrap() = Some(("long.test", waits));
    let client = served.client().await;
    for (id, name) in [(1, "long.test"), (2, "evil.test")] {
        ask(&client, id, name).await;
    }
    assert_eq!(hear(&client, 2).await.code, ResponseCode::NXDomain);
    goes_on.send(()).unwrap();
    assert_eq!(hear(&client, 1).await.code, ResponseCode::NXDomain);
    served.end().await;
}

/// Those that are there while nobody is free for them are recorded together, up to so many.
#[tokio::test]
async fn datagrams_that_have_come_meanwhile_are_recorded_together() {
    let served = Served::read_by(1, Options::default()).await;
    let client = served.client().await;
    for id in 0..20 {
        ask(&client, id, "evil.test").await;
    }
    let mut heard = BTreeSet::new();
    let mut buffer = [0; 1500];
    for _ in 0..20 {
        in_time(client.recv(&mut buffer)).await.unwrap();
        let id = u16::from_be_bytes([buffer[0], buffer[1]]);
        assert_eq!(Seen::read(&buffer, id).code, ResponseCode::NXDomain);
        heard.insert(id);
    }
    assert_eq!(heard, (0..20).collect());
    assert_eq!(*served.world.desk.together.lock().unwrap(), [8, 8, 4]);
    served.end().await;
}

#[tokio::test]
async fn a_datagram_that_has_us_panic_ends_nothing_for_others() {
    let served = Served::new(Options::default()).await;
    let panics = Rule {
        ranges: vec!["no range"],
        ..Rule::default()
    };
    served.world.desk.rule("panics.example", panics);
    let client = served.client().await;
    for (id, name) in [(1, "panics.example"), (2, "evil.test")] {
        ask(&client, id, name).await;
    }
    assert_eq!(hear(&client, 2).await.code, ResponseCode::NXDomain);
    served.end().await;
}

#[tokio::test]
async fn a_record_that_has_us_panic_ends_nothing_for_others() {
    let served = Served::read_by(1, Options::default()).await;
    let client = served.client().await;
    served.world.desk.panics.store(true, Ordering::SeqCst);
    for id in [1, 2] {
        ask(&client, id, "evil.test").await;
        assert_eq!(hear(&client, id).await.code, ResponseCode::NXDomain);
    }
    assert!(!served.world.desk.panics.load(Ordering::SeqCst));
    served.end().await;
}

#[tokio::test]
async fn queries_on_one_connection_are_answered_as_they_are_done() {
    let served = Served::new(Options::default()).await;
    let gate = Arc::new(Semaphore::new(0));
    let records = Script::Records(60, vec![RData::A(A::new(203, 0, 113, 1))]);
    let held = Script::Held(Arc::clone(&gate), Box::new(records));
    served
        .world
        .upstream
        .script("slow.example", RecordType::A, held);
    served.world.upstream.host("fast.example", &["203.0.113.2"]);
    let mut stream = TcpStream::connect(served.tcp).await.unwrap();
    // Both in one segment, and the second one before the first is answered (RFC 7766 §6.2.1.1).
    let both: Vec<u8> = [
        query(1, "slow.example", RecordType::A, None),
        query(2, "fast.example", RecordType::A, None),
    ]
    .into_iter()
    .flat_map(|message| {
        let length = u16::try_from(message.len()).unwrap();
        [length.to_be_bytes().to_vec(), message].concat()
    })
    .collect();
    stream.write_all(&both).await.unwrap();
    assert_eq!(
        Seen::read(&receive(&mut stream).await, 2).addresses.len(),
        1
    );
    gate.add_permits(10);
    assert_eq!(
        Seen::read(&receive(&mut stream).await, 1).addresses.len(),
        1
    );
    // A client that closes its half still gets what it asked for.
    send(&mut stream, &query(3, "evil.test", RecordType::A, None)).await;
    stream.shutdown().await.unwrap();
    assert_eq!(
        Seen::read(&receive(&mut stream).await, 3).code,
        ResponseCode::NXDomain
    );
    assert!(is_closed(&mut stream).await);
    let transports: Vec<_> = {
        let recorded = served.world.desk.recorded.lock().unwrap();
        recorded
            .iter()
            .map(|(_, answered)| answered.transport)
            .collect()
    };
    assert_eq!(transports, [Transport::Tcp; 3]);
    served.end().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_is_recorded_all_the_same() {
    let served = Served::new(Options::default()).await;
    let gate = Arc::new(Semaphore::new(0));
    *served.world.desk.slow_record.lock().unwrap() = Some(Arc::clone(&gate));
    let mut stream = TcpStream::connect(served.tcp).await.unwrap();
    send(&mut stream, &query(1, "evil.test", RecordType::A, None)).await;
    let desk = &served.world.desk;
    desk.until("a record begins", |desk| {
        desk.recording.load(Ordering::SeqCst) == 1
    })
    .await;
    drop(stream);
    gate.add_permits(1);
    desk.until("it is recorded", |desk| desk.answers().len() == 1)
        .await;
    served.end().await;
}

#[tokio::test]
async fn idle_slow_and_greedy_connections_end() {
    let options = Options {
        tcp_idle: Duration::from_millis(100),
        tcp_connections_per_agent: 2,
        ..Options::default()
    };
    let served = Served::new(options).await;
    let mut idle = TcpStream::connect(served.tcp).await.unwrap();
    let mut slow = TcpStream::connect(served.tcp).await.unwrap();
    slow.write_all(&[0, 40, 1, 2]).await.unwrap();
    assert!(is_closed(&mut idle).await, "nothing was sent");
    assert!(is_closed(&mut slow).await, "half a message was sent");
    let mut long = TcpStream::connect(served.tcp).await.unwrap();
    long.write_all(&60_000_u16.to_be_bytes()).await.unwrap();
    assert!(is_closed(&mut long).await, "no query is that long");
    served.end().await;
}

#[tokio::test]
async fn connections_of_one_agent_are_bounded() {
    let options = Options {
        tcp_connections_per_agent: 2,
        ..Options::default()
    };
    let served = Served::new(options).await;
    let mut open = Vec::new();
    for id in 1..=2 {
        let mut stream = TcpStream::connect(served.tcp).await.unwrap();
        send(&mut stream, &query(id, "evil.test", RecordType::A, None)).await;
        receive(&mut stream).await;
        open.push(stream);
    }
    let mut third = TcpStream::connect(served.tcp).await.unwrap();
    assert!(is_closed(&mut third).await);
    let last = served.world.desk.codes().pop().unwrap();
    assert_eq!(last, Some(ReasonCode::LimitReached));
    drop(open);
    // The places are free again as soon as the server has seen the end of the connections.
    in_time(async {
        loop {
            let mut stream = TcpStream::connect(served.tcp).await.unwrap();
            let message = query(9, "evil.test", RecordType::A, None);
            let length = u16::try_from(message.len()).unwrap();
            let framed = [&length.to_be_bytes()[..], &message].concat();
            if stream.write_all(&framed).await.is_ok() && stream.read_u16().await.is_ok() {
                break;
            }
        }
    })
    .await;
    served.end().await;
}

#[tokio::test]
async fn refusals_that_wait_for_the_record_are_bounded_and_no_other_agent_waits_for_them() {
    let options = Options {
        tcp_connections: 16,
        tcp_connections_per_agent: 2,
        ..Options::default()
    };
    let served = Served::new(options).await;
    let desk = &served.world.desk;
    let gate = Arc::new(Semaphore::new(0));
    *desk.slow_record.lock().unwrap() = Some(Arc::clone(&gate));
    // Two that say nothing, and eight refusals that wait for the record.
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(TcpStream::connect(served.tcp).await.unwrap());
    }
    desk.until("eight records", |desk| {
        desk.recording.load(Ordering::SeqCst) == 8
    })
    .await;
    for beyond in 0..40 {
        let mut stream = TcpStream::connect(served.tcp).await.unwrap();
        assert!(is_closed(&mut stream).await, "{beyond}");
    }
    let other = TcpSocket::new_v4().unwrap();
    other.bind((OTHERS_ADDRESS, 0).into()).unwrap();
    let mut other = in_time(other.connect(served.tcp)).await.unwrap();
    send(&mut other, &query(1, "evil.test", RecordType::A, None)).await;
    let answer = Seen::read(&receive(&mut other).await, 1);
    assert_eq!(answer.code, ResponseCode::NXDomain);
    assert_eq!(desk.recording.load(Ordering::SeqCst), 9, "they still wait");
    gate.add_permits(100);
    // All are in the record: each refusal, and what was beyond them as a count.
    let refused = |desk: &Desk| -> u64 {
        let recorded = desk.recorded.lock().unwrap();
        let refused = recorded.iter().map(|(_, answered)| answered);
        let refused = refused.filter(|answered| {
            (answered.answer.reason()).is_some_and(|it| it.code == ReasonCode::LimitReached)
        });
        assert!(
            refused
                .clone()
                .all(|it| it.client.as_ref().unwrap().agent == AGENT)
        );
        refused.map(|answered| answered.count).sum()
    };
    desk.until("all are counted", |desk| refused(desk) == 48)
        .await;
    for mut refused in open.drain(2..) {
        assert!(is_closed(&mut refused).await);
    }
    served.end().await;
}

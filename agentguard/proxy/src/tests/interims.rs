//! What an upstream says before its answer (RFC 9110, 15.2).

use tokio::net::TcpStream;

use super::http::{OK, get, read_response};
use super::{Rules, by_name, read_all, read_until, write};

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b>\r\n\
                     Connection: x-own\r\nX-Own: 1\r\n\r\n";
/// As the client gets it.
const TOLD: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nlink: </b>\r\n\r\n";

async fn assert_read(client: &mut TcpStream, expected: &str) {
    for part in expected.split_inclusive("\r\n\r\n") {
        assert_eq!(read_until(client, "\r\n\r\n").await, part);
    }
}

#[tokio::test]
async fn they_come_when_they_come_and_before_the_answer() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    // The second one waits for its turn.
    write(&mut client, [get("/1"), get("/2")].concat()).await;
    let mut upstream = world.accept().await;
    for _ in 0..2 {
        read_until(&mut upstream, "\r\n\r\n").await;
        write(&mut upstream, "HTTP/1.1 102 Processing\r\n\r\n").await;
        assert_read(&mut client, "HTTP/1.1 102 Processing\r\n\r\n").await;
        // Together with the answer.
        write(&mut upstream, [HINTS, HINTS, OK].concat()).await;
        assert_read(&mut client, &[TOLD, TOLD].concat()).await;
        assert_eq!(read_response(&mut client).await.1, "ok");
    }
}

#[tokio::test]
async fn one_comes_before_the_answer_to_its_own_request() {
    const LENGTH: usize = 4 * 1024 * 1024;
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    write(&mut client, [get("/1"), get("/2")].concat()).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    // More than the sockets hold: the client begins to read when all else has been said.
    let large = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n");
    let answering = async {
        write(&mut upstream, large.as_bytes()).await;
        write(&mut upstream, vec![b'x'; LENGTH]).await;
        read_until(&mut upstream, "\r\n\r\n").await;
        write(&mut upstream, [HINTS, OK].concat()).await;
    };
    let reading = async {
        assert_eq!(read_response(&mut client).await.1.len(), LENGTH);
        assert_read(&mut client, TOLD).await;
        assert_eq!(read_response(&mut client).await.1, "ok");
    };
    tokio::join!(answering, reading);
}

#[tokio::test]
async fn a_body_is_asked_for_among_them() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    let head =
        "POST / HTTP/1.1\r\nHost: api.example\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    write(&mut client, head).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    write(&mut upstream, HINTS).await;
    assert_read(&mut client, TOLD).await;
    write(&mut upstream, "HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_read(&mut client, "HTTP/1.1 100 Continue\r\n\r\n").await;
    write(&mut client, "body").await;
    read_until(&mut upstream, "body").await;
    write(&mut upstream, [HINTS, OK].concat()).await;
    assert_read(&mut client, TOLD).await;
    assert_eq!(read_response(&mut client).await.1, "ok");
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_none() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    write(&mut client, "GET / HTTP/1.0\r\nHost: api.example\r\n\r\n").await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    write(&mut upstream, [HINTS, OK].concat()).await;
    let answer = String::from_utf8(read_all(&mut client).await.unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
}

//! What two readers could read in two ways, which is how requests are smuggled.

use agentguard_model::{ReasonCode, Verdict};
use tokio::io::AsyncWriteExt;

use super::http::{get, read_response};
use super::{Rules, allowed, by_name, codes, read_until, write};

#[tokio::test]
async fn what_has_two_readings_is_refused_and_never_reaches_the_upstream() {
    let host = "Host: api.example\r\n";
    for (request, status, code) in [
        (
            format!(
                "POST /ok HTTP/1.1\r\n{host}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            400,
            ReasonCode::HttpMalformed,
        ),
        (
            "GET /ok HTTP/1.1\r\n\r\n".to_owned(),
            400,
            ReasonCode::HttpMalformed,
        ),
        (
            format!("GET /ok HTTP/1.1\r\n{host}{host}\r\n"),
            400,
            ReasonCode::HttpMalformed,
        ),
        (get("/ok/..%2fno"), 400, ReasonCode::HttpMalformed),
        // What a lenient server could take for a request.
        (
            get("/ok").replace("GET", "get"),
            400,
            ReasonCode::HttpMalformed,
        ),
        (
            get("/ok").replace("GET ", "GET\t"),
            400,
            ReasonCode::HttpMalformed,
        ),
        (format!(" {}", get("/ok")), 400, ReasonCode::HttpMalformed),
        (
            "\r\nconnect x.example:443 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            400,
            ReasonCode::HttpMalformed,
        ),
        // And empty lines, which every server skips, hide nothing.
        (
            format!("\r\n\n{}", get("/no")),
            400,
            ReasonCode::HttpMalformed,
        ),
        (
            "\r\nGET /ok HTTP/1.1\r\nHost: other.example\r\n\r\n".to_owned(),
            421,
            ReasonCode::NameMismatch,
        ),
        (
            format!("GET /ok HTTP/1.1\r\n{host}Expect: wonders\r\n\r\n"),
            417,
            ReasonCode::HttpMalformed,
        ),
        (
            "GET /ok HTTP/1.1\r\nHost: other.example\r\n\r\n".to_owned(),
            421,
            ReasonCode::NameMismatch,
        ),
        (
            "GET /ok HTTP/1.1\r\nHost: api.example:1\r\n\r\n".to_owned(),
            421,
            ReasonCode::NameMismatch,
        ),
        (
            "GET http://other.example/ok HTTP/1.1\r\nHost: api.example\r\n\r\n".to_owned(),
            400,
            ReasonCode::HttpMalformed,
        ),
        (
            format!(
                "GET /ok HTTP/1.1\r\n{host}X: {}\r\n\r\n",
                "x".repeat(70_000)
            ),
            431,
            ReasonCode::HttpMalformed,
        ),
        (
            "GET /ok HTTP/1.1\r\nHost".to_owned(),
            400,
            ReasonCode::HttpMalformed,
        ),
    ] {
        let world = by_name(Rules::Allow).build().await;
        let mut client = world.connect().await;
        write(&mut client, &request).await;
        client.shutdown().await.unwrap();
        let (head, body) = read_response(&mut client).await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request:.80} {head}"
        );
        drop(client);
        let decisions = world.end().await;
        assert_eq!(codes(&decisions), [(Verdict::Deny, code)], "{request:.80}");
        assert!(body.contains(&decisions[0].id.to_string()), "{body}");
    }
}

const UNASKED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n";

#[tokio::test]
async fn a_response_with_two_readings_is_a_bad_gateway() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        UNASKED,
        "nonsense\r\n\r\n",
        "",
    ] {
        let world = by_name(Rules::Allow).build().await;
        let mut client = world.connect().await;
        write(&mut client, get("/")).await;
        let mut upstream = world.accept().await;
        read_until(&mut upstream, "\r\n\r\n").await;
        write(&mut upstream, response).await;
        drop(upstream);
        let (head, _) = read_response(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{response:?} {head}");
        drop(client);
        let decisions = world.end().await;
        assert_eq!(allowed(&decisions), [true]);
        let outcome = decisions[0].outcome.as_ref().unwrap();
        assert_eq!(outcome.status, Some(502));
        let error = outcome.error.as_ref().unwrap();
        assert_eq!(
            error.contains("which nobody asked for"),
            response == UNASKED,
            "{error}"
        );
    }
}

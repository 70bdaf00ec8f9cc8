//! Events that are posted, each answered as it would be on standard output.
//!
//! Only an answer of status 2xx denies (Claude Code, "HTTP response handling"), so that what cannot be read or asked about
//! is denied in one. The process is the agent's own, and asks as the agent that it runs as.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use agentguard_local::Client;
use agentguard_local::api::MAX_LINE;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{sleep, timeout};

use super::{Verdict, decide, undecided};
use crate::cli::failure::Failure;

/// Connections at once. Further ones wait.
const CONNECTIONS: usize = 32;

/// How long a head, and the content of an event, may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait after a failed `accept` (too many open files), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers events until it is ended from outside. `server`: whom the policy knows the tools by; `socket`: where agents ask.
///
/// # Errors
/// It cannot listen there.
pub(super) async fn serve(
    at: SocketAddr,
    server: String,
    socket: PathBuf,
) -> Result<ExitCode, Failure> {
    if !at.ip().is_loopback() {
        return Err(failed(format!(
            "{at} is no address of loopback: a hook is for the agent's own host, like 127.0.0.1:8137"
        )));
    }
    let cannot = |error| failed(format!("cannot answer at {at}: {error}"));
    let listener = TcpListener::bind(at).await.map_err(cannot)?;
    let at = listener.local_addr().map_err(cannot)?;
    // Whoever does not read it can still post.
    let _ = writeln!(std::io::stdout(), "http://{at}/");
    answers(listener, server, socket).await;
    Ok(ExitCode::SUCCESS)
}

/// Answers what comes in at a listener.
async fn answers(listener: TcpListener, server: String, socket: PathBuf) {
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    let asked = Arc::new((server, socket));
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let asked = Arc::clone(&asked);
        tokio::spawn(async move {
            let (server, socket) = &*asked;
            let client = Mutex::new(Client::new(socket, server));
            let service = service_fn(|request| async {
                let mut client = client.lock().await;
                Ok::<_, Infallible>(answer(request, &mut client).await)
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), service);
            // Who broke off gets no answer.
            let _ = connection.await;
            drop(seat);
        });
    }
}

fn failed(text: String) -> Failure {
    Failure::Said { text, code: 2 }
}

async fn answer(request: Request<Incoming>, client: &mut Client) -> Response<Full<Bytes>> {
    if request.method() != Method::POST {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        let fields = response.headers_mut();
        fields.insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let event = Limited::new(request.into_body(), MAX_LINE).collect();
    let decided = match timeout(PATIENCE, event).await {
        Ok(Ok(event)) => decide(client, &event.to_bytes()).await,
        Ok(Err(error)) => Err(format!("the event cannot be read: {error}")),
        Err(_) => Err("the event did not come to its end in time".to_owned()),
    };
    let verdict = decided.unwrap_or_else(|why| Verdict::Denied(undecided(&why)));
    let said = verdict.answer();
    let mut response = Response::new(Full::from(said.unwrap_or_default()));
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    /// What is answered to a request where the guard is gone.
    async fn answered(request: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let nobody = Path::new("/nonexistent/agents.sock").to_owned();
        tokio::spawn(answers(listener, "claude-code".to_owned(), nobody));
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn post(event: &str) -> String {
        let length = event.len();
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{event}"
        )
    }

    #[tokio::test]
    async fn what_cannot_be_decided_is_denied() {
        let bash = r#"{"hook_event_name":"PreToolUse","tool_name":"Bash","tool_input":{}}"#;
        for (event, why) in [(bash, "cannot be asked"), ("no", "none that can be read")] {
            let answer = answered(&post(event)).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            let (_, content) = answer.split_once("\r\n\r\n").unwrap();
            let content: Value = serde_json::from_str(content).unwrap();
            let output = &content["hookSpecificOutput"];
            assert_eq!(output["permissionDecision"], "deny");
            let reason = output["permissionDecisionReason"].as_str().unwrap();
            assert!(reason.contains(why), "{reason}");
        }
    }

    #[tokio::test]
    async fn nothing_is_said_of_what_is_no_use_of_a_tool() {
        let answer = answered(&post(r#"{"hook_event_name":"PostToolUse"}"#)).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        let answer = answered("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    }

    #[tokio::test]
    async fn it_answers_on_loopback_alone() {
        for at in ["0.0.0.0:0", "192.0.2.1:0", "[::]:0"] {
            let served = serve(at.parse().unwrap(), String::new(), PathBuf::new()).await;
            assert!(served.unwrap_err().text().contains("loopback"), "{at}");
        }
    }
}

//! Whose budget a call is charged to: a client may say whose it is, and is believed where the policy says so.

use std::sync::Arc;

use agentguard_budget::{Asked, Embedded, Granted, HoldId, Ledger, More, Want};
use agentguard_decision::Accounting;
use agentguard_model::budget::Budget;
use agentguard_model::{Decision, ReasonCode, Verdict};
use jiff::Timestamp;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::calls::sized;
use super::http::read_response;
use super::turns::{event, open, passes, read_event};
use super::websocket::masked;
use super::{Rules, World, by_name, read_some, read_until, write};

/// The ledger of a host, in a directory of its own, which goes after it.
struct OwnLedger {
    ledger: Embedded,
    _directory: TempDir,
}

impl Ledger for OwnLedger {
    fn reserve<'a>(&'a self, want: &'a Want, now: i64) -> Asked<'a, Granted> {
        self.ledger.reserve(want, now)
    }

    fn extend<'a>(
        &'a self,
        id: HoldId,
        more: More,
        budgets: &'a [Arc<Budget>],
        now: i64,
    ) -> Asked<'a, u64> {
        self.ledger.extend(id, more, budgets, now)
    }

    fn settle(&self, id: HoldId, used: Option<&[u64]>, now: i64) {
        self.ledger.settle(id, used, now);
    }
}

pub(super) fn accounting() -> Accounting {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Embedded::open(directory.path(), Timestamp::now()).unwrap();
    Accounting::new(Arc::new(OwnLedger {
        ledger,
        _directory: directory,
    }))
}

/// Sends a request, and answers it where it comes through. Whether it did, and what the client is told.
async fn sends(world: &World, request: &[u8], answer: &str) -> (bool, String) {
    let mut client: TcpStream = world.connect().await;
    write(&mut client, request).await;
    let answers = async {
        let mut upstream = world.accept().await;
        let head = read_until(&mut upstream, "\r\n\r\n").await;
        let head = head.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap();
        let length = length.split("\r\n").next().unwrap();
        read_some(&mut upstream, length.parse().unwrap()).await;
        let fields = "Content-Type: application/json\r\nContent-Length:";
        let answer = format!(
            "HTTP/1.1 200 OK\r\n{fields} {}\r\n\r\n{answer}",
            answer.len()
        );
        write(&mut upstream, answer).await;
        upstream
    };
    let (upstream, (_, told)) = tokio::select! {
        told = read_response(&mut client) => (None, told),
        upstream = answers => (Some(upstream), read_response(&mut client).await),
    };
    let passed = upstream.is_some();
    drop((upstream, client));
    (passed, told)
}

/// A call that says that it is this user's, in its content and in its `baggage`.
async fn calls(world: &World, content: Option<&str>, baggage: Option<&str>) -> (bool, String) {
    let body = match content {
        Some(user) => json!({ "model": "small", "user": user }),
        None => json!({ "model": "small" }),
    };
    let baggage = baggage.map(|user| format!("Baggage: user.id={user}\r\n"));
    let request = sized(body.to_string().as_bytes(), &baggage.unwrap_or_default());
    let answer = json!({ "model": "small", "choices": [], "usage": { "prompt_tokens": 1, "completion_tokens": 1 } });
    sends(world, &request, &answer.to_string()).await
}

/// Of each decision whether it was allowed, and the account that it was charged to.
fn charged(decisions: &[Decision], budget: &str) -> Vec<(bool, Option<String>)> {
    let charged = decisions.iter().map(|it| {
        let outcome = it.outcome.as_ref();
        let lines = outcome.map(|it| it.budget.as_slice()).unwrap_or_default();
        let line = lines.iter().find(|it| it.budget == budget);
        if it.verdict == Verdict::Deny {
            assert_eq!(it.reason.code, ReasonCode::BudgetExhausted, "{it:#?}");
        }
        (
            it.verdict == Verdict::Allow,
            line.map(|it| it.scope.clone()),
        )
    });
    charged.collect()
}

fn to(account: &str) -> (bool, Option<String>) {
    (true, Some(account.to_owned()))
}

const REFUSED: (bool, Option<String>) = (false, None);

/// Else each call would have an account of its own, by naming another user.
#[tokio::test]
async fn who_is_not_trusted_shares_one_account_whatever_user_it_names() {
    let world = by_name(Rules::Accounts).build().await;
    assert!(calls(&world, Some("ann"), None).await.0);
    for (content, baggage) in [
        (Some("bob"), None),
        (None, Some("cy")),
        (Some("di"), Some("di")),
        (None, None),
    ] {
        let (passed, told) = calls(&world, content, baggage).await;
        assert!(!passed, "{content:?} {baggage:?}");
        assert!(told.contains("budget `calls`"), "{told}");
        assert!(!told.contains("user=ann"), "{told}");
    }
    let decisions = world.end().await;
    let expected = [to("user="), REFUSED, REFUSED, REFUSED, REFUSED];
    assert_eq!(charged(&decisions, "calls"), expected);
    // What was claimed is told, and that nobody believed it.
    let claims = &decisions[1].action.claims;
    assert_eq!(claims[0].context.user.as_deref(), Some("bob"));
    assert!(!claims[0].trusted);
}

#[tokio::test]
async fn the_user_of_a_trusted_call_has_an_account() {
    let world = by_name(Rules::AccountsByCalls).build().await;
    assert!(calls(&world, Some("ann"), None).await.0);
    assert!(calls(&world, Some("bob"), None).await.0);
    let (passed, told) = calls(&world, Some("ann"), None).await;
    assert!(!passed);
    assert!(told.contains("user=ann"), "{told}");
    // What is not trusted neither names another account nor adds to what is.
    assert!(!calls(&world, Some("ann"), Some("cy")).await.0);
    assert!(calls(&world, None, Some("cy")).await.0);
    assert!(!calls(&world, None, Some("di")).await.0);
    let decisions = world.end().await;
    let expected = [
        to("user=ann"),
        to("user=bob"),
        REFUSED,
        REFUSED,
        to("user="),
        REFUSED,
    ];
    assert_eq!(charged(&decisions, "calls"), expected);
}

#[tokio::test]
async fn of_two_trusted_sources_the_first_says_whose_account_it_is() {
    let world = by_name(Rules::AccountsByBaggage).build().await;
    assert!(calls(&world, Some("ann"), Some("bob")).await.0);
    assert!(!calls(&world, Some("cy"), Some("bob")).await.0);
    assert!(calls(&world, Some("cy"), None).await.0);
    let decisions = world.end().await;
    let expected = [to("user=bob"), REFUSED, to("user=cy")];
    assert_eq!(charged(&decisions, "calls"), expected);
}

/// A call of a tool in this session.
async fn uses(world: &World, session: &str) -> (bool, String) {
    let body =
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{}}}"#;
    let request = format!(
        "POST /mcp HTTP/1.1\r\nHost: api.example\r\nContent-Type: application/json\r\n\
         Mcp-Session-Id: {session}\r\nBaggage: session.id={session}-b\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#;
    sends(world, request.as_bytes(), answer).await
}

#[tokio::test]
async fn a_session_has_an_account_where_it_is_trusted() {
    let world = by_name(Rules::Accounts).build().await;
    assert!(uses(&world, "s-1").await.0);
    assert!(!uses(&world, "s-2").await.0);
    let decisions = world.end().await;
    assert_eq!(charged(&decisions, "tools"), [to("session="), REFUSED]);

    let world = by_name(Rules::AccountsBySessions).build().await;
    assert!(uses(&world, "s-1").await.0);
    assert!(uses(&world, "s-2").await.0);
    assert!(!uses(&world, "s-1").await.0);
    let decisions = world.end().await;
    let expected = [to("session=s-1"), to("session=s-2"), REFUSED];
    assert_eq!(charged(&decisions, "tools"), expected);
}

/// Each call on a connection says for itself whose it is.
#[tokio::test]
async fn calls_on_a_websocket_are_charged_to_whom_they_name_where_they_are_trusted() {
    for (rules, passes_twice) in [(Rules::Accounts, false), (Rules::AccountsByCalls, true)] {
        let world = by_name(rules).build().await;
        let (mut client, mut upstream) = open(&world).await;
        for (user, goes) in [("ann", true), ("bob", passes_twice), ("ann", false)] {
            let call =
                json!({ "type": "response.create", "model": "small", "input": "hi", "user": user });
            let call = masked(0x81, call.to_string());
            write(&mut client, &call).await;
            if !goes {
                let told = read_event(&mut client).await.to_string();
                assert!(told.contains("budget `calls`"), "{told}");
                continue;
            }
            passes(&mut upstream, &call).await;
            let usage = json!({ "input_tokens": 1, "output_tokens": 1 });
            let response = json!({ "model": "small", "status": "completed", "usage": usage });
            for kind in ["response.created", "response.completed"] {
                let said = event(&json!({ "type": kind, "response": response }));
                write(&mut upstream, &said).await;
                passes(&mut client, &said).await;
            }
        }
        drop((client, upstream));
        let decisions = world.end().await;
        let second = match passes_twice {
            true => [to("user=ann"), to("user=bob"), REFUSED],
            false => [to("user="), REFUSED, REFUSED],
        };
        assert_eq!(charged(&decisions[1..], "calls"), second);
    }
}

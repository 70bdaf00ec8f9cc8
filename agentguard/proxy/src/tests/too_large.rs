//! What is too large to be read: each bound has its verdict, and the record says which it was.

use agentguard_model::{ActionKind, AgentId, Decision, ReasonCode, Verdict};
use futures_util::FutureExt as _;
use serde_json::{Value, json};

use super::asked_tools::{called, whole};
use super::calls::{packed, sized};
use super::http::read_response;
use super::turns::{open, passes, read_event};
use super::websocket::masked;
use super::{Rules, World, by_name, codes, read_some, read_until, write};

const ALLOWED: (Verdict, ReasonCode) = (Verdict::Allow, ReasonCode::RuleAllow);
const REFUSED: (Verdict, ReasonCode) = (Verdict::Deny, ReasonCode::NotUnderstood);
const DENIED: (Verdict, ReasonCode) = (Verdict::Deny, ReasonCode::RuleDeny);

/// What is held of a call, or of an answer.
const MOST: usize = 32 << 20;

/// What is cut.
const MOST_CUT: usize = 8 << 20;

/// How much of one agent's is held at once.
const SHARE: usize = 128 << 20;

/// A text that has all its bytes but those of `around`.
fn filled(around: &str, size: usize) -> Vec<u8> {
    let mut text = around.as_bytes().to_vec();
    let at = around.find('~').unwrap();
    let fill = vec![b'w'; size + 1 - text.len()];
    text.splice(at..=at, fill);
    text
}

fn call(size: usize) -> Vec<u8> {
    filled(
        r#"{"model":"small","messages":[{"role":"user","content":"~"}]}"#,
        size,
    )
}

fn message(size: usize) -> Vec<u8> {
    filled(
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{"a":"~"}}}"#,
        size,
    )
}

fn to(path: &str, body: &[u8]) -> Vec<u8> {
    let request = sized(&[], "Content-Type: application/json\r\n");
    let request = String::from_utf8(request).unwrap();
    let length = format!("Content-Length: {}", body.len());
    let head = request
        .replace("/v1/chat/completions", path)
        .replace("Content-Length: 0", &length);
    [head.as_bytes(), body].concat()
}

/// Why what is in the one decision was not understood.
fn why(decisions: &[Decision]) -> &str {
    let [decision] = decisions else {
        panic!("{decisions:#?}");
    };
    let action = &decision.action;
    let of_call = action.llm.as_ref().map(|it| &it.not_understood);
    let of_tool = action.tool.as_ref().map(|it| &it.not_understood);
    of_call.or(of_tool).unwrap().as_deref().unwrap()
}

/// It is refused, and nothing of it leaves.
async fn refused(world: World, request: &[u8], because: &str) -> String {
    let mut client = world.connect().await;
    write(&mut client, request).await;
    let (head, answer) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert!(answer.contains(because), "{answer}");
    assert!(world.upstream.accept().now_or_never().is_none(), "dialled");
    drop(client);
    let decisions = world.end().await;
    assert_eq!(codes(&decisions), [REFUSED]);
    assert_eq!(why(&decisions), because);
    assert!(answer.contains(&decisions[0].id.to_string()), "{answer}");
    answer
}

/// It comes to its upstream as it was sent.
async fn passed(world: World, request: &[u8], body: &[u8], because: Option<&str>) {
    let mut client = world.connect().await;
    let came = async {
        let mut upstream = world.accept().await;
        read_until(&mut upstream, "\r\n\r\n").await;
        (read_some(&mut upstream, body.len()).await, upstream)
    };
    // What comes behind what is held is not read before its beginning leaves.
    let ((), (got, mut upstream)) = tokio::join!(write(&mut client, request), came);
    assert!(got == body);
    write(
        &mut upstream,
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    )
    .await;
    assert_eq!(read_response(&mut client).await.1, "{}");
    drop((client, upstream));
    let decisions = world.end().await;
    assert_eq!(codes(&decisions), [ALLOWED]);
    match because {
        Some(because) => assert_eq!(why(&decisions), because),
        None => assert_eq!(
            decisions[0].action.llm.as_ref().unwrap().not_understood,
            None
        ),
    }
    assert!(decisions[0].action.body >= Some(body.len().min(MOST) as u64));
}

const LARGE: &str = "its content is larger than 32 MiB";

#[tokio::test]
async fn a_call_is_read_up_to_32_mib() {
    let body = call(MOST);
    let world = by_name(Rules::Calls).build().await;
    passed(world, &sized(&body, ""), &body, None).await;

    let body = call(MOST + 1);
    let world = by_name(Rules::CallsUnread).build().await;
    refused(world, &sized(&body, ""), LARGE).await;

    // Where the rules decide, with all that comes behind what was held.
    let body = call(MOST + (4 << 20));
    let world = by_name(Rules::CallsUnreadAllowed).build().await;
    passed(world, &sized(&body, ""), &body, Some(LARGE)).await;
}

#[tokio::test]
async fn a_message_to_tools_is_held_up_to_32_mib() {
    for path in ["/mcp", "/rpc", "/graphql"] {
        let body = filled("~", MOST + 1);
        let world = by_name(Rules::CallsUnreadAllowed).build().await;
        passed(world, &to(path, &body), &body, Some(LARGE)).await;
    }
    let body = message(MOST + 1);
    let world = by_name(Rules::CallsUnread).build().await;
    let answer = refused(world, &to("/mcp", &body), LARGE).await;
    assert!(answer.starts_with(r#"{"jsonrpc":"2.0","#), "{answer}");
}

#[tokio::test]
async fn a_packed_call_is_read_up_to_128_mib() {
    let because = "the gzip content decodes to more than is allowed";
    let body = packed(&call(SHARE + 1));
    let request = sized(&body, "Content-Encoding: gzip\r\n");
    let world = by_name(Rules::CallsUnread).build().await;
    refused(world, &request, because).await;
}

/// What one agent's calls hold together counts against its share, from 16 KiB on.
#[tokio::test]
async fn a_call_is_not_read_while_too_much_of_its_agent_s_is_held() {
    let because = "too much content is being held at once";
    for (rules, agent, passes) in [
        (Rules::CallsUnread, 1, false),
        (Rules::CallsUnreadAllowed, 1, true),
        // Another agent's is not in its way.
        (Rules::Calls, 2, true),
    ] {
        let world = by_name(rules).build().await;
        let full = world.shared.decoders.take(AgentId(agent), SHARE - 1000);
        assert!(full.is_some());
        let body = call(20_000);
        let request = sized(&body, "");
        match passes {
            true => passed(world, &request, &body, (agent == 1).then_some(because)).await,
            false => _ = refused(world, &request, because).await,
        }
        drop(full);
    }
    let world = by_name(Rules::CallsUnread).build().await;
    let full = world.shared.decoders.take(AgentId(1), SHARE - 1000);
    let body = message(20_000);
    refused(world, &to("/mcp", &body), because).await;
    drop(full);
    // What is small is read all the same.
    let world = by_name(Rules::Calls).build().await;
    let full = world.shared.decoders.take(AgentId(1), SHARE - 1000);
    let body = call(10_000);
    passed(world, &sized(&body, ""), &body, None).await;
    drop(full);
}

/// What a call is told of an answer, which is this document, and what was decided.
async fn answered(rules: Rules, full: bool, answer: &[u8]) -> (String, String, Vec<Decision>) {
    let world = by_name(rules).build().await;
    let (mut client, mut upstream) = called(&world, false).await;
    let taken = full.then(|| world.shared.decoders.take(AgentId(1), SHARE - 1000));
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        answer.len()
    );
    let ((), told) = tokio::join!(
        write(&mut upstream, [head.as_bytes(), answer].concat()),
        read_response(&mut client)
    );
    drop((client, upstream, taken));
    (told.0, told.1, world.end().await)
}

/// A whole answer that asks for this tool.
fn answer(tool: &str, size: usize) -> Vec<u8> {
    let mut answer: Value = serde_json::from_str(&whole(tool)).unwrap();
    answer["choices"][0]["message"]["content"] = json!("~");
    filled(&answer.to_string(), size)
}

/// It may ask for any tool; and so may one for which there is no room.
#[tokio::test]
async fn a_whole_answer_that_rules_look_into_is_read_up_to_32_mib() {
    let fits = answer("look", MOST);
    let (head, told, decisions) = answered(Rules::CallsAsked, false, &fits).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(told.as_bytes() == fits);
    assert_eq!(codes(&decisions), [ALLOWED]);
    for (full, size) in [(false, MOST + 1), (true, 20_000)] {
        let large = answer("look", size);
        let (head, told, decisions) = answered(Rules::CallsAsked, full, &large).await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        assert!(
            told.starts_with(r#"{"error":{"message":"No shell. It cannot be read which tools"#),
            "{told}"
        );
        assert_eq!(codes(&decisions), [ALLOWED, DENIED]);
        assert!(decisions[1].action.llm.as_ref().unwrap().asks_unread);
        let outcome = decisions[0].outcome.as_ref().unwrap();
        let error = outcome.error.as_deref().unwrap();
        assert!(error.starts_with("ended by decision "), "{error}");
    }
    // Where no rule looks, it is read beside its way, and passes.
    let large = answer("shell", MOST + 1);
    let (_, told, decisions) = answered(Rules::CallsUnread, false, &large).await;
    assert!(told.as_bytes() == large);
    assert_eq!(codes(&decisions), [ALLOWED]);
}

#[tokio::test]
async fn a_whole_answer_is_cut_up_to_8_mib_and_refused_beyond() {
    let fits = answer("shell", MOST_CUT);
    let (head, told, decisions) = answered(Rules::CallsCut, false, &fits).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(told.contains("No shell.") && !told.contains("tool_calls\":["));
    assert_eq!(codes(&decisions), [ALLOWED, DENIED]);
    let outcome = decisions[0].outcome.as_ref().unwrap();
    assert_eq!(outcome.llm.as_ref().unwrap().cut, ["shell"]);

    let large = answer("shell", MOST_CUT + 1);
    let (head, told, decisions) = answered(Rules::CallsCut, false, &large).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    let because = "No shell. It cannot be cut out of the answer: there is too much of it.";
    assert!(told.contains(because), "{told}");
    assert_eq!(codes(&decisions), [ALLOWED, DENIED]);
    assert_eq!(decisions[1].action.llm.as_ref().unwrap().asks, ["shell"]);
    let outcome = decisions[0].outcome.as_ref().unwrap();
    assert!(outcome.error.is_some(), "{outcome:?}");
    assert!(outcome.llm.as_ref().unwrap().cut.is_empty(), "{outcome:?}");
}

#[tokio::test]
async fn a_message_on_a_websocket_is_read_up_to_32_mib() {
    let call = r#"{"type":"response.create","model":"small","input":"~"}"#;
    // What comes last of it, in one read, does not count.
    let message = masked(0x81, filled(call, MOST + (1 << 20)));
    for (rules, code) in [
        (Rules::CallsUnread, REFUSED),
        (Rules::CallsUnreadAllowed, ALLOWED),
    ] {
        let world = by_name(rules).build().await;
        let (mut client, mut upstream) = open(&world).await;
        if code == ALLOWED {
            let (sends, gets) = (
                write(&mut client, &message),
                passes(&mut upstream, &message),
            );
            tokio::join!(sends, gets);
        } else {
            write(&mut client, &message).await;
            let told = read_event(&mut client).await;
            assert_eq!(told["error"]["code"], "not_understood");
            let told = told["error"]["message"].as_str().unwrap();
            assert!(told.contains("larger than 32 MiB"), "{told}");
        }
        drop((client, upstream));
        let decisions = world.end().await;
        assert_eq!(codes(&decisions), [ALLOWED, code]);
        assert_eq!(decisions[1].action.kind, ActionKind::LlmCall);
        let why = &decisions[1].action.llm.as_ref().unwrap().not_understood;
        assert_eq!(why.as_deref(), Some(LARGE));
    }
}

//! Calls that are counted, since their bytes are too many for a budget: wherever they are held.

use agentguard_model::{Decision, Verdict};
use serde_json::json;

use super::calls::{packed, sized};
use super::turns::{open, passes};
use super::websocket::masked;
use super::{Rules, World, by_name, read_some, read_until, write};

/// How many words the calls have, each of which is a token and five bytes: as many bytes as are no more than 100,000
/// tokens, and more pieces than one.
const WORDS: u64 = 24_000;

fn said() -> String {
    "word ".repeat(24_000)
}

/// What the first call has reserved, which was allowed.
async fn reserved(world: World) -> u64 {
    let decisions = world.end().await;
    let is_call = |it: &&Decision| it.action.llm.is_some() && !it.budget.is_empty();
    let call = decisions.iter().find(is_call).expect("a call");
    assert_eq!(call.verdict, Verdict::Allow);
    let line = call.budget.iter().find(|it| it.budget == "cached").unwrap();
    assert!(line.counted, "{line:?}");
    // What it writes has nothing to do with it.
    assert!(
        call.budget
            .iter()
            .all(|it| it.counted == (it.budget == "cached"))
    );
    line.reserved
}

#[tokio::test]
async fn a_request_is_counted_whether_it_is_coded_or_not() {
    let messages = json!([{ "role": "user", "content": said() }]);
    let plain = json!({ "model": "gpt-4o", "max_tokens": 100, "messages": messages });
    let plain = plain.to_string().into_bytes();
    for (body, coding) in [
        (plain.clone(), ""),
        (packed(&plain), "Content-Encoding: gzip\r\n"),
    ] {
        let world = by_name(Rules::CallsKinds).build().await;
        let mut client = world.connect().await;
        write(&mut client, sized(&body, coding)).await;
        let mut upstream = world.accept().await;
        read_until(&mut upstream, "\r\n\r\n").await;
        // It is sent as it came all the same.
        assert!(
            read_some(&mut upstream, body.len()).await == body,
            "{coding}"
        );
        drop((client, upstream));
        let reserved = reserved(world).await;
        assert!(
            (WORDS..WORDS + 3_000).contains(&reserved),
            "{coding}: {reserved}"
        );
    }
}

#[tokio::test]
async fn a_turn_on_a_websocket_is_counted() {
    let world = by_name(Rules::CallsKinds).build().await;
    let (mut client, mut upstream) = open(&world).await;
    let call = json!({ "type": "response.create", "model": "gpt-4o", "input": said() });
    let call = masked(0x81, call.to_string());
    write(&mut client, &call).await;
    passes(&mut upstream, &call).await;
    drop((client, upstream));
    let reserved = reserved(world).await;
    assert!((WORDS..WORDS + 3_000).contains(&reserved), "{reserved}");
}

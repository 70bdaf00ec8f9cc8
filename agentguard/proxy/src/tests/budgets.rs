//! What calls are charged with whose answers end before their end.

use std::future::poll_fn;
use std::time::Duration;

use agentguard_model::budget::Unit;
use agentguard_model::{BudgetLine, Decision, OvershootCause, ReasonCode, Verdict};
use h2::Reason;
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::asked_tools::{STREAM, chunk};
use super::calls::sized;
use super::http::read_response;
use super::inspect::NAME;
use super::websocket::{closed, masked};
use super::{Rules, World, by_name, read_some, read_until, soon, turns, write};

/// A call of a model whose tokens are counted, of which the upstream has got all. It may write so many.
async fn called(world: &World, limit: u64) -> (TcpStream, TcpStream) {
    let (client, upstream, _) = calls(world, &json!({ "max_tokens": limit })).await;
    (client, upstream)
}

/// The same with these members, and what the upstream has got.
async fn calls(world: &World, members: &Value) -> (TcpStream, TcpStream, Value) {
    let mut client = world.connect().await;
    let messages = json!([{ "role": "user", "content": "x" }]);
    let mut body = json!({ "model": "gpt-4o", "stream": true, "messages": messages });
    let call = body.as_object_mut().unwrap();
    call.extend(members.as_object().unwrap().clone());
    let body = body.to_string();
    write(&mut client, sized(body.as_bytes(), "")).await;
    let mut upstream = world.accept().await;
    let head = read_until(&mut upstream, "\r\n\r\n").await;
    let length = head.to_ascii_lowercase();
    let length = length.split("content-length: ").nth(1).unwrap();
    let length = length.split("\r\n").next().unwrap().parse().unwrap();
    let got = read_some(&mut upstream, length).await;
    (client, upstream, serde_json::from_slice(&got).unwrap())
}

/// So many tokens, each in an event of its own.
fn words(count: usize) -> String {
    let word = json!({ "choices": [{ "index": 0, "delta": { "content": " one" } }] });
    chunk(&format!("data: {word}\n\n")).repeat(count)
}

/// The end, with the tokens that are billed.
fn end(tokens: u64) -> String {
    let stop = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] });
    let usage =
        json!({ "choices": [], "usage": { "prompt_tokens": 9, "completion_tokens": tokens } });
    let events = format!("data: {stop}\n\ndata: {usage}\n\ndata: [DONE]\n\n");
    chunk(&events) + "0\r\n\r\n"
}

/// What has become of the first call.
async fn charged(world: &World) -> BudgetLine {
    let ended = |decisions: &[Decision]| {
        let call = decisions.iter().find(|it| it.verdict == Verdict::Allow)?;
        Some(call.outcome.as_ref()?.budget[0].clone())
    };
    let waiting = async {
        loop {
            let decisions = world.log.decisions.lock().unwrap().clone();
            if let Some(line) = ended(&decisions) {
                return line;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(waiting).await
}

/// What has become of the first call, whose stream its provider keeps alive until then: that is how it is found that
/// nobody is there. The stream has no end.
async fn charged_while_alive(world: &World, upstream: &mut TcpStream) -> BudgetLine {
    let alive = async {
        loop {
            // Nobody need read it any more.
            let _ = upstream.write_all(chunk(": on\n\n").as_bytes()).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        line = charged(world) => line,
        () = alive => unreachable!("it goes on until the call is charged"),
    }
}

#[tokio::test]
async fn what_was_written_already_is_charged_to_who_goes_away() {
    let world = by_name(Rules::CallsMany).build().await;
    let (mut client, mut upstream) = called(&world, 64_000).await;
    write(&mut upstream, format!("{STREAM}{}", words(1))).await;
    read_until(&mut client, "\n\n\r\n").await;
    // It is on its way when the client has gone.
    write(&mut upstream, words(3000)).await;
    drop(client);
    let line = charged(&world).await;
    let settled = line.settled.unwrap();
    assert!((3001..=6002).contains(&settled), "{line:?}");
    // Nobody reads any more, so that its provider stops.
    let over = async {
        while let Ok(count) = upstream.read(&mut [0; 64]).await
            && count > 0
        {}
    };
    soon(over).await;
    world.end().await;
}

#[tokio::test]
async fn who_goes_away_before_the_end_that_is_on_its_way_pays_what_is_reported() {
    let world = by_name(Rules::CallsMany).build().await;
    let (mut client, mut upstream) = called(&world, 64_000).await;
    write(&mut upstream, format!("{STREAM}{}", words(1))).await;
    read_until(&mut client, "\n\n\r\n").await;
    drop(client);
    write(&mut upstream, words(2000) + &end(2007)).await;
    assert_eq!(charged(&world).await.settled, Some(2007));
    let decisions = world.end().await;
    let error = decisions[0].outcome.as_ref().unwrap().error.clone();
    assert!(error.unwrap().contains("the client went away"));
}

/// Many clients close behind the last event, and before the end of the stream.
#[tokio::test]
async fn who_goes_away_behind_the_last_event_pays_what_is_reported() {
    for (answers, settled) in [(1, 2007), (2, 10_000)] {
        let world = by_name(Rules::CallsMany).build().await;
        // What it thinks cannot be counted, so that all that it may write is reserved.
        let members =
            json!({ "max_completion_tokens": 5000, "reasoning_effort": "high", "n": answers });
        let (mut client, mut upstream, _) = calls(&world, &members).await;
        let end = end(2007);
        let events = end.strip_suffix("0\r\n\r\n").unwrap();
        write(&mut upstream, format!("{STREAM}{}{events}", words(3))).await;
        read_until(&mut client, "[DONE]\n\n\r\n").await;
        drop(client);
        let line = charged_while_alive(&world, &mut upstream).await;
        // Of several answers one may be over, and the others go on.
        assert_eq!(line.settled, Some(settled), "{line:?}");
        let decisions = world.end().await;
        let error = decisions[0].outcome.as_ref().unwrap().error.clone();
        assert!(error.unwrap().contains("the client went away"));
    }
}

/// Some providers tell in each event what was used so far.
#[tokio::test]
async fn what_was_told_of_usage_long_before_the_end_is_not_all() {
    let world = by_name(Rules::CallsMany).build().await;
    let (mut client, mut upstream) = called(&world, 64_000).await;
    let event = |finish: Option<&str>, more: &str| {
        let delta = json!({ "content": " one" });
        let mut event =
            json!({ "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] });
        if !more.is_empty() {
            event["usage"] = serde_json::from_str(more).unwrap();
        }
        chunk(&format!("data: {event}\n\n"))
    };
    let begun = event(None, r#"{ "prompt_tokens": 9, "completion_tokens": 1 }"#);
    let all = format!("{STREAM}{begun}{}{}", words(200), event(Some("stop"), ""));
    write(&mut upstream, all).await;
    read_until(&mut client, "\"stop\"").await;
    drop(client);
    let line = charged_while_alive(&world, &mut upstream).await;
    let settled = line.settled.unwrap();
    // What it had reserved: a part, and one more.
    assert!((202..=1280).contains(&settled), "{settled}");
    drop(upstream);
    world.end().await;
}

/// A provider whose last word is less than what it has written is not believed, though its answer has come to its end.
#[tokio::test]
async fn what_is_told_of_usage_is_not_believed_where_much_more_was_seen() {
    let usage = |tokens: i64| {
        let usage = json!({ "prompt_tokens": 9, "completion_tokens": tokens });
        let event = json!({ "choices": [], "usage": usage });
        chunk(&format!("data: {event}\n\n"))
    };
    let stop = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] });
    let stop = chunk(&format!("data: {stop}\n\n"));
    let none = String::new();
    for (what, before, behind, is) in [
        ("negative", usage(1), usage(-200), 200..=1280),
        ("shrinking", usage(200), usage(3), 200..=1280),
        ("absent", usage(1), none.clone(), 200..=1280),
        ("true", usage(1), usage(200), 200..=200),
        // The two counts may differ a little.
        ("near", none, usage(120), 120..=120),
    ] {
        let world = by_name(Rules::CallsKnown).build().await;
        let (mut client, mut upstream) = called(&world, 64_000).await;
        let end = chunk("data: [DONE]\n\n") + "0\r\n\r\n";
        let all = format!("{STREAM}{before}{}{stop}{behind}{end}", words(200));
        write(&mut upstream, all).await;
        read_until(&mut client, "0\r\n\r\n").await;
        let settled = charged(&world).await.settled.unwrap();
        assert!(is.contains(&settled), "{what}: {settled}");
        world.end().await;
    }
}

/// What was written behind the limit is not delivered, and charged.
#[tokio::test]
async fn what_a_provider_writes_behind_a_cut_is_charged() {
    let world = by_name(Rules::CallsFew).build().await;
    let (mut client, mut upstream) = called(&world, 64_000).await;
    write(&mut upstream, format!("{STREAM}{}", words(900))).await;
    let told = read_until(&mut client, "0\r\n\r\n").await;
    let delivered = told.matches(" one").count();
    assert!(delivered <= 300, "{delivered}");
    // What it holds itself it need not wait for.
    assert!(told.contains("budget_exhausted"), "{told}");
    let line = charged(&world).await;
    let settled = line.settled.unwrap();
    assert!((900..=1800).contains(&settled), "{line:?}");
    assert_eq!(line.overshoot, Some(settled - line.reserved));
    let cause = line.overshoot_cause;
    assert_eq!(cause, Some(OvershootCause::WrittenBehind), "{line:?}");
    assert!(!line.hidden, "{line:?}");
    world.end().await;
}

/// What a budget of bytes cuts was written, and is billed, all the same.
#[tokio::test]
async fn what_a_provider_writes_behind_the_last_byte_is_charged() {
    let world = by_name(Rules::CallsCarried).build().await;
    let (mut client, mut upstream) = called(&world, 64_000).await;
    write(
        &mut upstream,
        format!("{STREAM}{}{}", words(900), end(1_900)),
    )
    .await;
    let told = read_until(&mut client, "0\r\n\r\n").await;
    let delivered = told.matches(" one").count();
    assert!((1..300).contains(&delivered), "{delivered}");
    assert!(told.contains("budget_exhausted"), "{told}");
    let line = charged(&world).await;
    assert_eq!((line.budget.as_str(), line.settled), ("out", Some(1_900)));
    let decisions = world.end().await;
    let outcome = decisions[0].outcome.as_ref().unwrap();
    let comes = outcome.budget.iter().find(|it| it.budget == "comes");
    assert_eq!(comes.unwrap().settled, Some(8_000));
}

/// A provider that does not keep to the limit that it was given.
#[tokio::test]
async fn what_is_reported_beyond_what_was_reserved_says_so() {
    let world = by_name(Rules::CallsMany).build().await;
    let (mut client, mut upstream) = called(&world, 100).await;
    write(&mut upstream, format!("{STREAM}{}{}", words(3), end(150))).await;
    read_until(&mut client, "0\r\n\r\n").await;
    let line = charged(&world).await;
    assert_eq!((line.reserved, line.settled), (100, Some(150)), "{line:?}");
    assert_eq!(line.overshoot, Some(50), "{line:?}");
    assert_eq!(line.overshoot_cause, Some(OvershootCause::Reported));
    world.end().await;
}

/// Of a model whose tokens nobody can count they are estimated, by a third too many here: its provider ends it at the limit,
/// so that no more than that is reserved.
#[tokio::test]
async fn no_more_than_the_limit_is_reserved_for_what_is_estimated() {
    let world = by_name(Rules::CallsMany).build().await;
    let members = json!({ "model": "claude-3-haiku", "max_tokens": 320 });
    let (mut client, mut upstream, _) = calls(&world, &members).await;
    // All at once: 250 tokens, which are taken for 333.
    let said = json!({ "choices": [{ "index": 0, "delta": { "content": " one".repeat(250) } }] });
    let said = chunk(&format!("data: {said}\n\n"));
    write(&mut upstream, format!("{STREAM}{said}{}", end(250))).await;
    read_until(&mut client, "[DONE]").await;
    let line = charged(&world).await;
    assert_eq!((line.reserved, line.settled), (320, Some(250)), "{line:?}");
    world.end().await;
}

/// What may not be shown is reserved as a whole, and the record says so; what is seen as it is written is not.
#[tokio::test]
async fn a_call_whose_output_may_be_hidden_is_marked() {
    for (members, reserved, hidden) in [
        (
            json!({ "max_completion_tokens": 5000, "reasoning_effort": "high" }),
            5000,
            true,
        ),
        (json!({ "max_completion_tokens": 5000 }), 256, false),
        // One document is reserved as a whole as well, and all of it is seen.
        (
            json!({ "max_completion_tokens": 5000, "stream": false }),
            5000,
            false,
        ),
    ] {
        let world = by_name(Rules::CallsMany).build().await;
        let sides = calls(&world, &members).await;
        drop(sides);
        let decisions = world.end().await;
        let line = &decisions[0].budget[0];
        assert_eq!(
            (line.reserved, line.hidden),
            (reserved, hidden),
            "{members}"
        );
        assert_eq!(
            (line.overshoot_cause, line.clamped),
            (None, None),
            "{line:?}"
        );
    }
}

/// In HTTP/2, where the connection carries others' streams as well: this one alone is reset.
#[tokio::test]
async fn what_was_written_already_is_charged_to_who_resets_a_stream() {
    let world = by_name(Rules::CallsMany).build().await;
    let (mut client, driver) = h2::client::handshake(world.connect().await).await.unwrap();
    tokio::spawn(driver);
    let target = format!("http://{NAME}:{}/v1/chat/completions", world.port());
    let request = Request::post(target).body(()).unwrap();
    let (answer, mut body) = client.send_request(request, false).unwrap();
    let call = json!({ "model": "gpt-4o", "stream": true, "max_tokens": 64000, "messages": [] });
    body.send_data(call.to_string().into(), true).unwrap();
    let mut upstream = h2::server::handshake(world.accept().await).await.unwrap();
    let (_, mut respond) = soon(upstream.accept()).await.unwrap().unwrap();
    tokio::spawn(async move { while upstream.accept().await.is_some() {} });
    let head = Response::builder().header("content-type", "text/event-stream");
    let mut writing = respond
        .send_response(head.body(()).unwrap(), false)
        .unwrap();
    let word = json!({ "choices": [{ "index": 0, "delta": { "content": " one" } }] });
    let word = format!("data: {word}\n\n");
    writing.send_data(word.clone().into(), false).unwrap();
    let mut read = soon(answer).await.unwrap().into_body();
    soon(read.data()).await.unwrap().unwrap();
    writing.send_data(word.repeat(600).into(), false).unwrap();
    drop((read, body));
    let reset = soon(poll_fn(|cx| writing.poll_reset(cx))).await.unwrap();
    assert_eq!(reset, Reason::CANCEL);
    let line = charged(&world).await;
    assert!((601..=1202).contains(&line.settled.unwrap()), "{line:?}");
    drop(client);
    world.end().await;
}

/// Usage that a client does not ask for is asked for, counts, and does not come to it.
#[tokio::test]
async fn a_stream_without_usage_is_charged_with_what_its_provider_reports() {
    for (asks, goes) in [(None, true), (Some(false), true), (Some(true), false)] {
        let world = by_name(Rules::CallsKnown).build().await;
        let members = match asks {
            None => json!({ "max_tokens": 500 }),
            Some(asks) => json!({ "stream_options": { "include_usage": asks } }),
        };
        let (mut client, mut upstream, got) = calls(&world, &members).await;
        assert_eq!(got["stream_options"]["include_usage"], true);
        write(&mut upstream, format!("{STREAM}{}{}", words(3), end(5))).await;
        let told = read_until(&mut client, "0\r\n\r\n").await;
        assert_eq!(told.contains("completion_tokens"), !goes, "{told}");
        assert!(
            told.contains("\"stop\"") && told.contains("[DONE]"),
            "{told}"
        );
        assert_eq!(told.matches(" one").count(), 3);
        assert_eq!(charged(&world).await.settled, Some(5));
        world.end().await;
    }
}

/// Whom nobody knows to take it is not asked.
#[tokio::test]
async fn a_provider_that_may_refuse_it_is_not_asked_for_usage() {
    let world = by_name(Rules::CallsMany).build().await;
    let (_client, _upstream, got) = calls(&world, &json!({})).await;
    assert_eq!(got.get("stream_options"), None);
}

/// Behind `response.steer` an answer may be another one to the call before, which may have a dearer model.
#[tokio::test]
async fn an_answer_that_may_be_for_two_calls_costs_what_the_dearer_does() {
    for (before, costs) in [("gpt-4o", 2500), ("gpt-4o-mini", 150)] {
        let world = by_name(Rules::CallsPaid).build().await;
        let (mut client, mut upstream) = turns::open(&world).await;
        let steer = masked(0x81, r#"{"type":"response.steer","input":[]}"#);
        let answer = |id: &str| {
            let made = |status: &str, usage: Value| {
                let kind = format!("response.{status}");
                turns::event(
                    &json!({ "type": kind, "response": { "id": id, "model": "gpt", "status": status, "usage": usage } }),
                )
            };
            let usage = json!({ "input_tokens": 1000, "output_tokens": 0 });
            [made("created", Value::Null), made("completed", usage)]
        };
        for (model, id) in [(before, "r1"), ("gpt-4o-mini", "r2")] {
            let call = turns::create(model, "look");
            write(&mut client, &call).await;
            turns::passes(&mut upstream, &call).await;
            for event in answer(id) {
                write(&mut upstream, &event).await;
                turns::passes(&mut client, &event).await;
            }
            write(&mut client, &steer).await;
            turns::passes(&mut upstream, &steer).await;
        }
        drop((client, upstream));
        let decisions = world.end().await;
        let paid = decisions
            .iter()
            .filter_map(|it| it.outcome.as_ref()?.budget.first()?.settled);
        assert_eq!(paid.collect::<Vec<_>>(), [costs; 2], "{before}");
    }
}

/// The record says by whose price money is counted, and that it is the dearest where nobody knows the model.
#[tokio::test]
async fn the_record_says_by_whose_price_money_is_counted() {
    let mut reserved = Vec::new();
    for (model, of) in [
        ("gpt-4o-2024-08-06", "gpt-4o"),
        (
            "nobody-knows-it",
            "unknown model, at the dearest price of each kind of token",
        ),
    ] {
        let world = by_name(Rules::CallsPaid).build().await;
        let members = json!({ "model": model, "max_tokens": 1000, "stream": false });
        let sides = calls(&world, &members).await;
        drop(sides);
        let decisions = world.end().await;
        let line = &decisions[0].budget[0];
        assert_eq!(line.price_of.as_deref(), Some(of), "{line:?}");
        reserved.push(line.reserved);
        let settled = &decisions[0].outcome.as_ref().unwrap().budget[0];
        // Nobody has said what it used.
        assert_eq!(settled.settled, Some(line.reserved), "{settled:?}");
        assert_eq!(settled.price_of, line.price_of);
    }
    // $10 and $600 for a million tokens of output, beside what is read.
    let [known, unknown] = reserved[..] else {
        panic!("two calls")
    };
    assert!((10_000..50_000).contains(&known), "{known}");
    assert!(unknown >= 600_000, "{unknown}");
}

/// What is read from a cache and what is reasoned have budgets of their own.
#[tokio::test]
async fn tokens_of_caches_and_of_reasoning_are_charged_as_reported() {
    let world = by_name(Rules::CallsKinds).build().await;
    let both = json!({ "prompt_tokens": 1000, "completion_tokens": 700,
        "prompt_tokens_details": { "cached_tokens": 600 },
        "completion_tokens_details": { "reasoning_tokens": 450 } });
    // What is not told of is none, where the whole is told.
    let neither = json!({ "prompt_tokens": 1000, "completion_tokens": 700 });
    for (usage, cached, reasoned) in [(both, 600, 450), (neither, 0, 0)] {
        let members = json!({ "max_completion_tokens": 5000, "reasoning_effort": "high" });
        let (mut client, mut upstream, got) = calls(&world, &members).await;
        assert_eq!(got["max_completion_tokens"], 5000);
        let stop = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] });
        let usage = json!({ "choices": [], "usage": usage });
        let events = format!("data: {stop}\n\ndata: {usage}\n\ndata: [DONE]\n\n");
        let answer = format!("{STREAM}{}{}0\r\n\r\n", words(3), chunk(&events));
        write(&mut upstream, answer).await;
        read_until(&mut client, "0\r\n\r\n").await;
        drop((client, upstream));
        let ended = |decisions: &[Decision]| decisions.iter().all(|it| it.outcome.is_some());
        let decisions = world.until(ended).await;
        let decision = decisions.last().unwrap();
        let begun: Vec<_> = decision.budget.iter().map(|it| it.hidden).collect();
        // How much of its input is cached has nothing to do with what it writes.
        assert_eq!(begun, [false, true], "{decision:?}");
        let lines = &decision.outcome.as_ref().unwrap().budget;
        let settled = lines
            .iter()
            .map(|it| (it.budget.as_str(), it.settled.unwrap(), it.overshoot));
        let expected = [("cached", cached, None), ("reasoned", reasoned, None)];
        assert_eq!(settled.collect::<Vec<_>>(), expected);
        assert_eq!(lines[1].reserved, 5000);
        assert!(lines[0].reserved >= 1000, "{:?}", lines[0]);
    }
    // 450 of 8,000 are used: it is the budget of reasoning that lowers the limit.
    let members = json!({ "max_completion_tokens": 9000, "reasoning_effort": "high" });
    let (client, upstream, got) = calls(&world, &members).await;
    assert_eq!(got["max_completion_tokens"], 8000 - 450);
    drop((client, upstream));
    world.end().await;
}

/// Where time is over, what is under way is ended in its provider's words, and nothing else begins.
#[tokio::test]
async fn what_is_under_way_ends_with_its_time() {
    let world = by_name(Rules::CallsTimed).build().await;
    let (mut client, mut upstream) = called(&world, 64_000).await;
    write(&mut upstream, format!("{STREAM}{}", words(1))).await;
    let told = read_until(&mut client, "0\r\n\r\n").await;
    assert!(told.contains("budget_exhausted"), "{told}");
    let over = async {
        while let Ok(count) = upstream.read(&mut [0; 64]).await
            && count > 0
        {}
    };
    soon(over).await;
    assert_eq!(charged(&world).await.unit, Unit::WallTime);
    let decisions = world.end().await;
    let cut = &decisions[1];
    assert_eq!(cut.reason.code, ReasonCode::BudgetExhausted);
    assert!(cut.reason.message.contains("under way"), "{cut:?}");
    assert_eq!(cut.matched[0].rule, "time");

    let world = by_name(Rules::CallsTimed).build().await;
    let (mut client, mut upstream) = turns::open(&world).await;
    let call = turns::create("gpt-4o", "look");
    write(&mut client, &call).await;
    turns::passes(&mut upstream, &call).await;
    let error = turns::read_event(&mut client).await;
    assert_eq!(error["error"]["reason"], "budget_exhausted", "{error}");
    closed(&mut client).await;
    world.end().await;
}

/// Who calls one model by many names has one budget for it.
#[tokio::test]
async fn a_model_is_one_account_by_whichever_name_it_is_called() {
    let world = by_name(Rules::CallsEach).build().await;
    for name in [
        "gpt-4o",
        "GPT-4o",
        "openai/gpt-4o-2024-08-06",
        "gpt-4o-latest",
    ] {
        calls(&world, &json!({ "model": name, "max_tokens": 9 })).await;
    }
    for name in ["of-our-own", "of-others"] {
        calls(&world, &json!({ "model": name, "max_tokens": 9 })).await;
    }
    let decisions = world.log.decisions.lock().unwrap().clone();
    let charges = decisions.iter().flat_map(|it| &it.budget);
    let scopes = charges.map(|it| it.scope.as_str());
    let mut expected = vec!["model=gpt-4o"; 4];
    expected.extend(["model=of-our-own", "model=of-others"]);
    assert_eq!(scopes.collect::<Vec<_>>(), expected);
    // The record has the name as it was called by.
    let named = |it: &Decision| it.action.llm.as_ref()?.model.clone();
    let mut names = decisions.iter().filter_map(named);
    assert!(names.any(|it| it == "openai/gpt-4o-2024-08-06"));
}

/// A call that is signed cannot have another limit: where others hold what it needs, it may come again in a moment.
#[tokio::test]
async fn what_cannot_be_lowered_is_told_whether_to_come_again() {
    let world = by_name(Rules::CallsFew).build().await;
    let first = called(&world, 280).await;
    let signed = async |limit: u64| {
        let mut client = world.connect().await;
        let body =
            json!({ "model": "gpt-4o", "stream": true, "max_tokens": limit, "messages": [] });
        let body = body.to_string();
        let fields = "Signature-Input: a=()\r\n";
        write(&mut client, sized(body.as_bytes(), fields)).await;
        read_response(&mut client).await
    };
    let (head, told) = signed(200).await;
    assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
    assert!(
        head.to_ascii_lowercase().contains("retry-after: "),
        "{head}"
    );
    assert!(
        told.contains("budget_held") && told.contains("it is signed"),
        "{told}"
    );
    // More than there ever is.
    let (head, told) = signed(301).await;
    assert!(
        head.to_ascii_lowercase().contains("x-should-retry: false"),
        "{head}"
    );
    assert!(told.contains("budget_exhausted"), "{told}");
    drop(first);
    // Both were allowed by a rule, and their outcome has the status that they were refused with.
    let decisions = world.end().await;
    let outcomes = decisions.iter().filter_map(|it| it.outcome.as_ref());
    let stopped = outcomes.filter(|it| {
        let error = it.error.as_deref();
        error.is_some_and(|error| error.contains("it is signed"))
    });
    let told: Vec<_> = stopped.map(|it| it.status).collect();
    assert_eq!(told, [Some(429), Some(429)], "{decisions:#?}");
}

/// SDKs come again with what is refused by a budget: limits are not to take that for a loop.
#[tokio::test]
async fn what_cannot_be_lowered_is_no_repetition() {
    let world = by_name(Rules::CallsFewOnce).build().await;
    let body = json!({ "model": "gpt-4o", "stream": true, "max_tokens": 301, "messages": [] });
    let request = sized(body.to_string().as_bytes(), "Signature-Input: a=()\r\n");
    for _ in 0..3 {
        let mut client = world.connect().await;
        write(&mut client, &request).await;
        let (head, told) = read_response(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
        assert!(told.contains("budget_exhausted"), "{told}");
    }
    // What goes is one.
    let (first, _upstream) = called(&world, 20).await;
    let mut again = world.connect().await;
    let messages = json!([{ "role": "user", "content": "x" }]);
    let body = json!({ "model": "gpt-4o", "stream": true, "messages": messages, "max_tokens": 20 });
    write(&mut again, sized(body.to_string().as_bytes(), "")).await;
    let (_, told) = read_response(&mut again).await;
    assert!(told.contains("repeated_call"), "{told}");
    drop(first);
}

/// One is more than its rate takes: the others are not sent either, and not counted.
#[tokio::test]
async fn what_is_not_sent_of_a_batch_is_not_counted() {
    let world = by_name(Rules::CallsFewOnce).build().await;
    let batch = |names: &[&str]| {
        let call = |name: &&str| {
            let params = json!({ "name": name, "arguments": {} });
            json!({ "jsonrpc": "2.0", "id": name, "method": "tools/call", "params": params })
        };
        let calls: Vec<Value> = names.iter().map(call).collect();
        let body = Value::Array(calls).to_string();
        format!(
            "POST /mcp HTTP/1.1\r\nHost: api.example\r\nContent-Type: application/json\r\n\
             MCP-Protocol-Version: 2025-03-26\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    for _ in 0..2 {
        let mut client = world.connect().await;
        write(&mut client, batch(&["a", "b", "c"])).await;
        let (_, told) = read_response(&mut client).await;
        assert!(told.contains("rate_limited"), "{told}");
    }
    let mut client = world.connect().await;
    write(&mut client, batch(&["a", "b"])).await;
    read_until(&mut world.accept().await, "\r\n\r\n").await;
}

/// On a WebSocket a provider refuses a call in an event, and does not bill it; but a client cannot have an error end a call
/// that goes on.
#[tokio::test]
async fn a_call_that_is_refused_in_an_event_is_charged_nothing() {
    let error = |kind: &str| json!({ "type": "error", "status": 400, "error": { "type": kind } });
    let refused = error("invalid_request_error");
    let created = json!({ "type": "response.created", "response": { "id": "r", "model": "gpt" } });
    for (about, events, charged) in [
        (false, vec![&refused], false),
        (false, vec![&error("server_error")], true),
        (false, vec![&created, &refused], true),
        (true, vec![&refused], true),
    ] {
        let world = by_name(Rules::CallsMany).build().await;
        let (mut client, mut upstream) = turns::open(&world).await;
        let call = json!({ "type": "response.create", "model": "gpt-4o", "max_output_tokens": 50 });
        let call = masked(0x81, call.to_string());
        write(&mut client, &call).await;
        turns::passes(&mut upstream, &call).await;
        if about {
            let cancel = masked(0x81, r#"{"type":"response.cancel"}"#);
            write(&mut client, &cancel).await;
            turns::passes(&mut upstream, &cancel).await;
        }
        for event in &events {
            let event = turns::event(event);
            write(&mut upstream, &event).await;
            turns::passes(&mut client, &event).await;
        }
        drop((client, upstream));
        let decisions = world.end().await;
        let outcomes = decisions.iter().filter_map(|it| it.outcome.as_ref());
        let settled = outcomes.flat_map(|it| &it.budget).map(|it| it.settled);
        let expected = Some(if charged { 50 } else { 0 });
        assert_eq!(
            settled.collect::<Vec<_>>(),
            [expected],
            "{about} {events:?}"
        );
    }
}

/// What only prepares a connection writes nothing.
#[tokio::test]
async fn a_call_that_writes_nothing_reserves_nothing_of_it() {
    let world = by_name(Rules::CallsMany).build().await;
    let (mut client, mut upstream) = turns::open(&world).await;
    let call = json!({ "type": "response.create", "model": "gpt-4o", "generate": false });
    let call = masked(0x81, call.to_string());
    write(&mut client, &call).await;
    turns::passes(&mut upstream, &call).await;
    drop((client, upstream));
    let decisions = world.end().await;
    let reserved = decisions
        .iter()
        .flat_map(|it| &it.budget)
        .map(|it| it.reserved);
    assert_eq!(reserved.collect::<Vec<_>>(), [0]);
}

/// A limit that an API would refuse is not added: the call is told that too little is left.
#[tokio::test]
async fn an_api_that_takes_no_limit_gets_none() {
    let world = by_name(Rules::CallsFew).build().await;
    let body = json!({ "model": "gpt-4o", "input": "x" }).to_string();
    let mut client = world.connect().await;
    let head = format!(
        "POST /v1/responses/compact HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    write(&mut client, head + &body).await;
    let (head, told) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
    assert!(told.contains("budget_exhausted"), "{told}");
    assert!(told.contains("takes no limit of output"), "{told}");
}

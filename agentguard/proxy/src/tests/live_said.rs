//! What comes of sessions of Realtime and of responses in them.

use std::time::Duration;

use agentguard_model::contents::Kept;
use agentguard_model::{LlmOperation, ReasonCode, Verdict};
use serde_json::json;

use super::live::{
    ALLOW, audio, calls, error, goes, input, open, refused, response, said, says, silent, update,
    updated,
};
use super::turns::{event, passes, read_event};
use super::websocket::{closed, masked};
use super::write;
use super::{Rules, by_name, codes};

/// The server answers in the order of what it was asked, and says which of them fails.
#[tokio::test]
async fn responses_belong_to_what_asked_for_them() {
    let world = by_name(Rules::Calls).build().await;
    let (mut client, mut upstream) = open(&world).await;
    goes(&mut client, &mut upstream, &audio()).await;
    let create = |id: &str| json!({ "type": "response.create", "event_id": id });
    for id in ["e1", "e2", "e3"] {
        goes(&mut client, &mut upstream, &create(id)).await;
    }
    let failed = json!({ "type": "error", "error": { "event_id": "e1",
        "code": "conversation_already_has_active_response" } });
    says(&mut upstream, &mut client, &failed).await;
    let (two, three) = (response("r2", 2, "two"), response("r3", 3, "three"));
    for event in [&two[0], &three[0], &three[1], &two[1], &two[2], &three[2]] {
        says(&mut upstream, &mut client, event).await;
    }
    for event in response("r4", 4, "four") {
        says(&mut upstream, &mut client, &event).await;
    }
    drop((client, upstream));
    let decisions = world.end().await;
    let calls = calls(&decisions);
    let session = said(calls[0]);
    assert_eq!(session.tool_calls[0].name, "four");
    assert_eq!(
        said(calls[1]).error.as_deref(),
        Some("conversation_already_has_active_response")
    );
    assert_eq!(said(calls[2]).tool_calls[0].name, "two");
    assert_eq!(input(calls[2]), Some(2));
    assert_eq!(said(calls[3]).tool_calls[0].name, "three");
    for call in calls {
        assert_eq!(error(call), None);
    }
}

#[tokio::test]
async fn the_model_that_writes_down_what_is_heard_is_decided_too() {
    let world = by_name(Rules::Live).build().await;
    let (mut client, mut upstream) = open(&world).await;
    let with = |model: &str| {
        let mut update = update(&["look"], 50);
        update["session"]["audio"] = json!({ "input": { "transcription": { "model": model } } });
        update
    };
    let refused = refused(&mut client, &with("other")).await;
    assert_eq!(refused["error"]["code"], "no_rule");
    goes(&mut client, &mut upstream, &with("scribe")).await;
    says(&mut upstream, &mut client, &updated(&["look"], 50)).await;
    let written = json!({ "type": "conversation.item.input_audio_transcription.completed",
        "usage": { "type": "tokens", "input_tokens": 3, "output_tokens": 4 } });
    for _ in 0..2 {
        says(&mut upstream, &mut client, &written).await;
    }
    drop((client, upstream));
    let decisions = world.end().await;
    let no_rule = (Verdict::Deny, ReasonCode::NoRule);
    assert_eq!(codes(&decisions), [ALLOW, no_rule, ALLOW, ALLOW]);
    let scribe = &decisions[2];
    let llm = scribe.action.llm.as_ref().unwrap();
    assert_eq!(llm.model.as_deref(), Some("scribe"));
    assert_eq!(llm.operation, LlmOperation::Transcription);
    let usage = said(scribe).usage.unwrap();
    assert_eq!(
        (usage.input_tokens, usage.output_tokens),
        (Some(6), Some(8))
    );
}

/// A server that does not say what the session is is not waited for without an end.
#[tokio::test]
async fn a_silent_server_is_waited_for_once() {
    let world = by_name(Rules::Calls).build().await;
    let (mut client, mut upstream) = silent(&world).await;
    let first = masked(0x81, audio().to_string());
    write(&mut client, &first).await;
    super::settled().await;
    let mut byte = [0];
    assert!(upstream.try_read(&mut byte).is_err(), "it has left");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(6)).await;
    tokio::time::resume();
    passes(&mut upstream, &first).await;
    goes(&mut client, &mut upstream, &audio()).await;
    goes(
        &mut client,
        &mut upstream,
        &json!({ "type": "response.create" }),
    )
    .await;
    drop((client, upstream));
    assert_eq!(codes(&world.end().await), [ALLOW; 3]);
}

#[tokio::test]
async fn contents_of_a_session_are_kept_and_not_changed() {
    let world = by_name(Rules::LiveKept).build().await;
    let (mut client, mut upstream) = open(&world).await;
    let update = update(&[], 50);
    goes(&mut client, &mut upstream, &update).await;
    let updated = updated(&[], 50);
    says(&mut upstream, &mut client, &updated).await;
    goes(&mut client, &mut upstream, &audio()).await;
    let create = json!({ "type": "response.create" });
    goes(&mut client, &mut upstream, &create).await;
    let response = response("r1", 7, "look");
    for event in &response {
        says(&mut upstream, &mut client, event).await;
    }
    drop((client, upstream));
    let log = world.log.clone();
    let decisions = world.end().await;
    let kept = log.contents.lock().unwrap().clone();
    let of = |at: usize| {
        let mut own = kept.iter().filter(|(id, _)| *id == decisions[at].id);
        let (_, contents) = own.next().unwrap();
        [&contents.request, &contents.response].map(|it| match &it.as_ref().unwrap().kept {
            Kept::Text(text) => text.clone(),
            Kept::Base64(_) => panic!("no text"),
        })
    };
    assert_eq!(of(1), [format!("{update}{}", audio()), updated.to_string()]);
    let all = response.map(|it| it.to_string()).concat();
    assert_eq!(of(2), [create.to_string(), all]);

    let world = by_name(Rules::Edited).build().await;
    let (mut client, upstream) = open(&world).await;
    let refused = refused(&mut client, &update).await;
    assert_eq!(refused["error"]["code"], "not_changed");
    drop((client, upstream));
    world.end().await;
}

#[tokio::test]
async fn a_response_ends_before_the_event_that_asks_for_what_it_may_not() {
    for asked in [false, true] {
        let world = by_name(Rules::CallsAsked).build().await;
        let (mut client, mut upstream) = open(&world).await;
        let first = match asked {
            true => json!({ "type": "response.create" }),
            false => audio(),
        };
        goes(&mut client, &mut upstream, &first).await;
        for event in response("r1", 7, "look") {
            says(&mut upstream, &mut client, &event).await;
        }
        goes(&mut client, &mut upstream, &first).await;
        let [created, asks, _] = response("r2", 8, "shell");
        says(&mut upstream, &mut client, &created).await;
        write(&mut upstream, event(&asks)).await;
        let ended = read_event(&mut client).await;
        assert_eq!(ended["error"]["code"], "rule_deny", "{ended}");
        let (code, _) = closed(&mut client).await;
        assert_eq!(code, 1008);
        drop((client, upstream));
        let decisions = world.end().await;
        let last = decisions.last().unwrap();
        assert_eq!(last.action.llm.as_ref().unwrap().asks, ["shell"]);
        let calls = calls(&decisions);
        let ended = calls[usize::from(asked)];
        assert!(error(ended).unwrap().starts_with("ended by decision "));
    }
}

/// Of what cannot be read nobody knows what it asks for, nor whose it is.
#[tokio::test]
async fn a_server_that_cannot_be_understood_may_ask_for_anything() {
    let world = by_name(Rules::CallsAsked).build().await;
    let (mut client, mut upstream) = open(&world).await;
    let create = json!({ "type": "response.create" });
    goes(&mut client, &mut upstream, &create).await;
    let twice = r#"{"type":"response.created","type":"response.done"}"#;
    write(&mut upstream, super::websocket::frame(0x81, twice)).await;
    let ended = read_event(&mut client).await;
    assert_eq!(ended["error"]["code"], "rule_deny", "{ended}");
    drop((client, upstream));
    let decisions = world.end().await;
    assert!(decisions[2].action.llm.as_ref().unwrap().asks_unread);
    assert!(said(&decisions[1]).not_understood.is_some());
}

#[tokio::test]
async fn one_client_has_no_end_of_responses_under_way_and_may_update_for_ever() {
    let world = by_name(Rules::Calls).build().await;
    let (mut client, mut upstream) = open(&world).await;
    for nth in 0..40 {
        let tool = format!("tool_{nth}");
        goes(&mut client, &mut upstream, &update(&[&tool], 50)).await;
    }
    for nth in 0..40 {
        let tool = format!("tool_{nth}");
        says(&mut upstream, &mut client, &updated(&[&tool], 50)).await;
    }
    let create = json!({ "type": "response.create" });
    for _ in 0..16 {
        goes(&mut client, &mut upstream, &create).await;
    }
    let refused = refused(&mut client, &create).await;
    assert_eq!(refused["error"]["code"], "limit_reached");
    let (code, _) = closed(&mut client).await;
    assert_eq!(code, 1008);
    drop((client, upstream));
    let decisions = world.end().await;
    let tools = |at: usize| decisions[at].action.llm.as_ref().unwrap().tools.len();
    assert_eq!([tools(1), tools(16), tools(17), tools(18)], [1, 1, 17, 1]);
    assert_eq!(
        decisions.last().unwrap().reason.code,
        ReasonCode::LimitReached
    );
    assert_eq!(
        decisions[41].action.llm.as_ref().unwrap().tools,
        ["tool_39"]
    );
}

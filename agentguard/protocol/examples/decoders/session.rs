//! A session in real time: an update by its client, and a response of many events.

use std::hint::black_box;

use agentguard_protocol::llm::realtime::{ClientReader, Heard, Replies, ServerReader};
use serde_json::{Value, json};

use crate::{Outcome, memory, sample, throughput, timed, wire};

const PIECES: usize = 1000;

fn update() -> Vec<u8> {
    let session = json!({ "type": "realtime", "instructions": wire::said(1).repeat(20), "tools": wire::functions(),
        "max_output_tokens": 4096 });
    let update = json!({ "type": "session.update", "event_id": "e1", "session": session });
    update.to_string().into_bytes()
}

fn response() -> Vec<Vec<u8>> {
    let response = |status: &str, output: Value, usage: Value| json!({ "id": "resp_1", "object": "realtime.response", "status": status, "output": output, "usage": usage });
    let mut events = vec![
        json!({ "type": "response.created", "response": response("in_progress", json!([]), Value::Null) }),
    ];
    events.extend((0..PIECES).map(|nth| {
        json!({ "type": "response.output_audio.delta", "event_id": format!("event_{nth}"), "response_id": "resp_1",
            "item_id": "item_1", "output_index": 0, "content_index": 0, "delta": "UklGRiQAAABXQVZFZm10IBAAAAABAAEA".repeat(40) })
    }));
    let item = json!({ "id": "item_2", "type": "function_call", "call_id": "c1", "name": "tool_1", "arguments": "{\"path\":\"x\"}" });
    events.push(json!({ "type": "response.output_item.done", "response_id": "resp_1", "output_index": 1, "item": item }));
    let usage = json!({ "input_tokens": 40_000, "output_tokens": 1010 });
    events.push(
        json!({ "type": "response.done", "response": response("completed", json!([item]), usage) }),
    );
    let written = |event: &Value| event.to_string().into_bytes();
    events.iter().map(written).collect()
}

fn hear(replies: &mut Replies, event: &[u8]) -> Outcome {
    let mut reader = ServerReader::default();
    reader.push(event)?;
    if let Heard::Reply(reply) = reader.finish()? {
        replies.hear(*reply, Some("gpt-realtime"));
    }
    Ok(())
}

pub(crate) fn measure() -> Outcome {
    let update = update();
    let seconds = timed(|| {
        let mut reader = ClientReader::default();
        reader.push(&update)?;
        let event = reader.finish()?;
        match event.given.tools.len() {
            wire::TOOLS => Ok(()),
            other => Err(format!("{other} tools").into()),
        }
    })?;
    throughput("realtime_update", &[&update], update.len(), seconds)?;

    let events = response();
    let seconds = timed(|| {
        let mut replies = Replies::default();
        for event in &events {
            hear(&mut replies, event)?;
        }
        let told = replies.finish();
        if told.tool_calls.len() != 1 || told.usage.is_none() {
            return Err(format!("{told:?}").into());
        }
        black_box(told);
        Ok(())
    })?;
    let documents: Vec<&[u8]> = events.iter().map(Vec::as_slice).collect();
    let bytes = events.iter().map(Vec::len).sum();
    throughput("realtime_response", &documents, bytes, seconds)?;
    let each = seconds / f64::from(u32::try_from(events.len())?) * 1e9;
    sample("realtime_response", "agentguard", "event", "ns", each);

    let before = memory::live();
    let mut replies = Replies::default();
    memory::forget_most();
    for event in &events {
        hear(&mut replies, event)?;
    }
    let most = memory::most().saturating_sub(before) + size_of::<Replies>();
    let kibibytes = f64::from(u32::try_from(most)?) / 1024.0;
    sample(
        "realtime_response",
        "agentguard",
        "memory",
        "KiB",
        kibibytes,
    );
    drop(black_box(replies));
    Ok(())
}

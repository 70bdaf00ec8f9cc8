//! An event stream in a content coding, inside inspected TLS.

use std::path::Path;

use agentguard_model::Decision;
use agentguard_tests::{client, wait_until};

use crate::inspected::{inspected, open};
use crate::room::{LATE, SITE, ungoverned, world};

/// Over HTTP/1.1, where the second request has a connection of its own, and over HTTP/2.
#[test]
fn coded_events_come_singly_and_are_counted() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("events").start().unwrap();
    let room = open(&world).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/events.py");
    let words = [python, script];
    let free = ungoverned(&world, &words).unwrap().success().unwrap();
    assert!(
        free.stdout.starts_with("HTTP/1.1 gzip\ndata: event 0\n"),
        "{free}"
    );
    let query = format!("allow dns dns_query {SITE}:53 rule_allow");
    let request = |path: &str| format!("allow proxy http_request {SITE}:443 GET {path} rule_allow");
    let [events, other] = [request("/sse/6"), request("/bytes/5")];
    let rows = [
        query.clone(),
        query.clone(),
        query,
        events.clone(),
        other.clone(),
        events,
        other,
    ];
    let ran = room.call(inspected(&room, &words), &rows).unwrap();
    let output = ran.output.success().unwrap();
    assert_eq!(output.stdout, free.stdout);
    let counted = |decision: &&Decision| decision.action.path.as_deref() == Some("/sse/6");
    let received = wait_until("the outcomes", LATE, || {
        let decisions = room.guard.verdicts().ok()?;
        let events = decisions.iter().filter(counted);
        let outcomes = events.map(|decision| decision.outcome.clone());
        outcomes.collect::<Option<Vec<_>>>()
    });
    for outcome in received.unwrap() {
        assert_eq!(outcome.error, None);
        assert_eq!(outcome.messages.unwrap().received, 6, "{outcome:?}");
    }
    room.close().unwrap();
}

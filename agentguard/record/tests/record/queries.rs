//! Queries, look-ups, and many writers at once.

use std::collections::HashSet;

use agentguard_decision::Recorder;
use agentguard_model::{ActionKind, Bytes, DecisionId, Outcome, Verdict};
use agentguard_record::{MAX_LIMIT, Query};
use jiff::{Timestamp, ToSpan};
use ulid::Ulid;

use crate::scene::{allow, decision, deny, everything, newest, open, until_indexed};

#[tokio::test]
async fn filters_give_the_newest_with_the_newest_last_from_log_and_index_alike() {
    let dir = tempfile::tempdir().unwrap();
    let record = open(dir.path());
    let begin = Timestamp::from_second(1_700_000_000).unwrap();
    let mut written = Vec::new();
    for number in 0..200_u16 {
        let agent = ["a", "b"][usize::from(number % 2)];
        let verdict = [Verdict::Allow, Verdict::Deny, Verdict::Modify][usize::from(number % 3)];
        let mut decision = decision(agent, verdict, number);
        decision.time = begin + i64::from(number).seconds();
        let ms = u64::try_from(decision.time.as_millisecond()).unwrap();
        decision.id = DecisionId(Ulid::from_parts(ms, u128::from(number)));
        if number % 5 == 0 {
            decision.action.kind = ActionKind::HttpRequest;
        }
        record.write(decision.clone()).await.unwrap();
        written.push(*decision);
    }
    let queries = [
        newest(7),
        newest(500),
        Query {
            agent: Some("b".parse().unwrap()),
            ..newest(9)
        },
        Query {
            agent: Some("c".parse().unwrap()),
            ..newest(9)
        },
        Query {
            verdict: Some(Verdict::Deny),
            kind: Some(ActionKind::HttpRequest),
            ..newest(9)
        },
        Query {
            agent: Some("a".parse().unwrap()),
            verdict: Some(Verdict::Allow),
            since: Some(begin + 100.seconds()),
            ..newest(500)
        },
        Query {
            since: Some(begin + 150.seconds() + 1.nanosecond()),
            before: Some(written[180].id),
            ..newest(500)
        },
        Query {
            since: Some(begin + 500.seconds()),
            ..newest(9)
        },
    ];
    for indexed in [false, true] {
        if indexed {
            until_indexed(&record).await;
        }
        for query in &queries {
            let mut expected: Vec<_> = written
                .iter()
                .filter(|d| {
                    let agent = d.agent.as_ref().map(|agent| &agent.name);
                    query.agent.as_ref().is_none_or(|name| agent == Some(name))
                        && query.verdict.is_none_or(|verdict| verdict == d.verdict)
                        && query.kind.is_none_or(|kind| kind == d.action.kind)
                        && query.since.is_none_or(|since| d.time >= since)
                        && query.before.is_none_or(|before| d.id < before)
                })
                .cloned()
                .collect();
            expected.drain(..expected.len().saturating_sub(query.limit));
            let found = record.query(query.clone()).await.unwrap();
            assert_eq!(found, expected, "{query:?}");
        }
    }
}

#[tokio::test]
async fn a_decision_is_found_with_its_outcome_at_once_and_later() {
    let dir = tempfile::tempdir().unwrap();
    let record = open(dir.path());
    let written = allow("a");
    let id = record.write(written.clone()).await.unwrap();
    assert_eq!(id, written.id);
    assert_eq!(record.find(id).await.unwrap(), Some(*written.clone()));
    let outcome = Outcome {
        bytes: Bytes {
            sent: 10,
            received: 20,
        },
        messages: None,
        duration_ms: 5,
        status: Some(200),
        llm: None,
        tool: None,
        budget: Vec::new(),
        error: None,
    };
    record.outcome(id, outcome.clone());
    let mut expected = *written;
    expected.outcome = Some(outcome);
    crate::scene::until("the outcome is there", async || {
        record.find(id).await.unwrap().as_ref() == Some(&expected)
    })
    .await;
    until_indexed(&record).await;
    assert_eq!(record.find(id).await.unwrap().as_ref(), Some(&expected));
    assert_eq!(record.query(newest(1)).await.unwrap(), [expected]);
    let unknown = DecisionId(Ulid::generate());
    assert_eq!(record.find(unknown).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_and_readers_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let record = open(dir.path());
    let writers: Vec<_> = (0..16_u16)
        .map(|writer| {
            let record = record.clone();
            tokio::spawn(async move {
                let mut ids = Vec::new();
                for number in 0..250 {
                    let id = if number % 2 == 0 {
                        record.write(allow("a")).await.unwrap()
                    } else {
                        record.write(deny("a", writer)).await.unwrap()
                    };
                    // Whatever the state of the index, what was acknowledged is found.
                    if number % 50 == 0 {
                        assert!(record.find(id).await.unwrap().is_some());
                    }
                    ids.push(id);
                }
                ids
            })
        })
        .collect();
    let mut ids = HashSet::new();
    for writer in writers {
        ids.extend(writer.await.unwrap());
    }
    let found = everything(&record).await;
    assert_eq!(crate::scene::sum(&found), 16 * 250);
    let found: HashSet<_> = found.iter().map(|decision| decision.id).collect();
    assert_eq!(found, ids);
    assert_eq!(record.status().refused, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_entries_are_answered_in_pages() {
    let dir = tempfile::tempdir().unwrap();
    let record = open(dir.path());
    for _ in 0..100 {
        let writes = (0..1_000).map(|number| {
            let agent = if number == 500 { "rare" } else { "common" };
            record.write(allow(agent))
        });
        for written in futures_util::future::join_all(writes).await {
            written.unwrap();
        }
    }
    until_indexed(&record).await;
    let status = record.status();
    assert_eq!(status.entries, 100_000);
    // However much is asked for, an answer is bounded.
    let page = record.query(newest(usize::MAX)).await.unwrap();
    assert_eq!(page.len(), MAX_LIMIT);
    let rare = Query {
        agent: Some("rare".parse().unwrap()),
        ..newest(1_000)
    };
    assert_eq!(record.query(rare).await.unwrap().len(), 100);
    assert_eq!(everything(&record).await.len(), 100_000);
}

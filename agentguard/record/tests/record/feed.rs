//! The live feed.

use std::collections::HashSet;
use std::pin::pin;
use std::time::Duration;

use agentguard_decision::Recorder;
use agentguard_model::Verdict;
use agentguard_record::{Followed, Gap, Options, Query, Record};
use futures_util::StreamExt;
use jiff::Timestamp;

use crate::scene::{allow, deny, generous, newest, open, until_indexed, write_allows};

async fn next(stream: &mut (impl StreamExt<Item = Followed> + Unpin)) -> Followed {
    tokio::time::timeout(Duration::from_secs(10), stream.next())
        .await
        .expect("something to follow")
        .expect("the feed goes on")
}

#[tokio::test]
async fn history_then_live_each_once_and_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let record = open(dir.path());
    let mut ids = write_allows(&record, "a", 20).await;
    let mut feed = pin!(record.follow(newest(100)));
    let mut got = Vec::new();
    for round in 0..3 {
        ids.extend(write_allows(&record, "a", 5).await);
        while got.len() < 20 + 5 * (round + 1) {
            match next(&mut feed).await {
                Followed::Decision(decision) => got.push(decision.id),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(got.iter().collect::<HashSet<_>>(), ids.iter().collect());
    assert_eq!(got.len(), ids.len());
    record.close().await;
    assert_eq!(feed.next().await, None);
}

#[tokio::test]
async fn what_is_indexed_before_the_history_is_read_is_not_told_twice() {
    let dir = tempfile::tempdir().unwrap();
    let record = open(dir.path());
    let mut ids = write_allows(&record, "a", 5).await;
    let mut feed = pin!(record.follow(newest(100)));
    ids.extend(write_allows(&record, "a", 5).await);
    until_indexed(&record).await;
    ids.extend(write_allows(&record, "a", 5).await);
    let mut got = Vec::new();
    while got.last() != ids.last() {
        match next(&mut feed).await {
            Followed::Decision(decision) => got.push(decision.id),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(got, ids);
}

#[tokio::test]
async fn from_now_with_a_filter() {
    let dir = tempfile::tempdir().unwrap();
    let record = open(dir.path());
    write_allows(&record, "a", 5).await;
    let query = Query {
        agent: Some("b".parse().unwrap()),
        verdict: Some(Verdict::Deny),
        ..Query::default()
    };
    let mut feed = pin!(record.follow(query));
    write_allows(&record, "a", 5).await;
    write_allows(&record, "b", 5).await;
    record.write(deny("a", 1)).await.unwrap();
    let id = record.write(deny("b", 1)).await.unwrap();
    let Followed::Decision(decision) = next(&mut feed).await else {
        panic!("not a decision");
    };
    assert_eq!(decision.id, id);
    let gap = Gap {
        source: "kernel/cpu0".to_owned(),
        lost: 3,
        from: Some(7),
        to: Some(9),
        time: Timestamp::now(),
        message: None,
    };
    record.gap(gap.clone());
    assert_eq!(next(&mut feed).await, Followed::Gap(gap));
}

#[tokio::test]
async fn a_count_that_rises_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let record = open(dir.path());
    let mut feed = pin!(record.follow(newest(100)));
    for _ in 0..100 {
        record.write(deny("a", 1)).await.unwrap();
    }
    let mut highest = std::collections::HashMap::new();
    while highest.values().sum::<u64>() < 100 {
        match next(&mut feed).await {
            Followed::Decision(decision) | Followed::Counted(decision) => {
                highest.insert(decision.id, decision.count);
            }
            Followed::Gap(gap) => panic!("{gap:?}"),
        }
    }
    assert_eq!(highest.values().sum::<u64>(), 100);
}

#[tokio::test]
async fn a_follower_that_is_too_slow_for_retention_is_told_what_it_missed() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 4096,
        max_bytes: Some(20_000),
        ..generous()
    };
    let record = Record::open(dir.path(), options).unwrap();
    let mut feed = pin!(record.follow(newest(10)));
    let first = record.write(allow("a")).await.unwrap();
    assert!(matches!(next(&mut feed).await, Followed::Decision(d) if d.id == first));
    let ids = write_allows(&record, "a", 200).await;
    let (mut got, mut lost) = (0, 0);
    loop {
        match next(&mut feed).await {
            Followed::Decision(decision) => {
                got += 1;
                if decision.id == ids[199] {
                    break;
                }
            }
            Followed::Gap(gap) => lost += gap.lost,
            Followed::Counted(decision) => panic!("{decision:?}"),
        }
    }
    // What is lost is counted in entries: decisions, and the notes about what was deleted.
    assert!(lost > 0 && got < 200);
    assert!(got + lost >= 200, "{got} and {lost}");
    assert_eq!(record.status().damage, []);
}

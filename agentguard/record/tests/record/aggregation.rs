//! Identical denials, shares, and the sum of counts.

use std::collections::HashSet;

use agentguard_decision::Recorder;
use agentguard_model::{ActionKind, Decision, Layer, Matched, ReasonCode, Source, Verdict};
use agentguard_record::{Notice, Options, Query, Quota, Record};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::scene::{again, allow, decision, deny, everything, generous, open, sum};

#[tokio::test]
async fn identical_denials_become_one_record_whose_id_the_caller_gets() {
    let dir = tempfile::tempdir().unwrap();
    let record = open(dir.path());
    let mut ids = HashSet::new();
    for _ in 0..500 {
        ids.insert(record.write(deny("a", 1)).await.unwrap());
    }
    let found = everything(&record).await;
    assert_eq!(sum(&found), 500);
    assert_eq!(found.len(), ids.len());
    assert!(ids.len() < 100, "{} records for 500 attempts", ids.len());
    let counted = found.iter().max_by_key(|decision| decision.count).unwrap();
    assert!(counted.last.unwrap() > counted.time);
    assert_eq!(record.find(counted.id).await.unwrap().unwrap(), *counted);
    record.close().await;
    let record = open(dir.path());
    assert_eq!(sum(&everything(&record).await), 500);
}

/// A refused request, which said this to its client.
fn request(agent: &str, path: &str, message: &str) -> Box<Decision> {
    let mut denied = deny(agent, 443);
    denied.action.kind = ActionKind::HttpRequest;
    denied.action.method = Some("GET".to_owned());
    denied.action.path = Some(path.to_owned());
    denied.reason.message = message.to_owned();
    denied
}

/// What a client is told with an id is what the id's record says.
#[tokio::test]
async fn the_record_of_a_refused_request_says_what_its_client_was_told() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        identical_per_second: 0,
        ..generous()
    };
    let record = Record::open(dir.path(), options).unwrap();
    let rule = |id: &str| Matched {
        engine: "native".to_owned(),
        rule: id.to_owned(),
        source: Source {
            file: "policy.yaml".to_owned(),
            line: 1,
        },
        on_paper: None,
    };
    let mut requests = Vec::new();
    for path in 0..20 {
        for message in ["a", "b", "c"] {
            requests.push(request("a", &format!("/{path}"), message));
        }
    }
    let changed = |change: &dyn Fn(&mut Decision)| {
        let mut denied = request("a", "/0", "a");
        change(&mut denied);
        denied
    };
    requests.extend([
        changed(&|it| it.action.method = Some("PUT".to_owned())),
        changed(&|it| it.action.query = Some("a=1".to_owned())),
        changed(&|it| it.action.query = Some("a=2".to_owned())),
        changed(&|it| {
            let headers = &mut it.action.headers;
            headers.insert("x-a".to_owned(), "1".to_owned());
        }),
        changed(&|it| it.action.body = Some(5)),
        changed(&|it| it.matched = vec![rule("one")]),
        changed(&|it| it.matched = vec![rule("one"), rule("two")]),
        changed(&|it| it.context.user = Some("ann".to_owned())),
        changed(&|it| it.policy_version = "ba9876543210".to_owned()),
    ]);
    let mut ids = HashSet::new();
    for _ in 0..3 {
        for denied in &requests {
            let id = record.write(again(denied)).await.unwrap();
            ids.insert(id);
            let found = record.find(id).await.unwrap().unwrap();
            let told = |it: &Decision| {
                let (action, reason) = (it.action.clone(), it.reason.clone());
                (action, reason, it.matched.clone(), it.context.clone())
            };
            assert_eq!(told(&found), told(denied));
            assert_eq!(found.policy_version, denied.policy_version);
        }
    }
    assert_eq!(ids.len(), requests.len());
    assert_eq!(sum(&everything(&record).await), 3 * requests.len() as u64);
}

/// Paths are an agent's to invent. Within its share each is recorded; over it they are counted by
/// reason.
#[tokio::test]
async fn a_storm_of_other_paths_is_bounded_by_the_agents_share() {
    let dir = tempfile::tempdir().unwrap();
    let record = Record::open(dir.path(), small_share()).unwrap();
    let storm = (0..3_000).map(|path| record.write(request("loud", &format!("/{path}"), "no")));
    let ids = futures_util::future::try_join_all(storm).await.unwrap();
    let ids: HashSet<_> = ids.into_iter().collect();
    assert!((6..60).contains(&ids.len()), "{} records", ids.len());
    let found = everything(&record).await;
    assert_eq!(found.len(), ids.len());
    assert_eq!(sum(&found), 3_000);
}

#[tokio::test]
async fn what_differs_in_agent_destination_reason_or_effect_is_not_counted_together() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        identical_per_second: 0,
        ..generous()
    };
    let record = Record::open(dir.path(), options).unwrap();
    let mut other_reason = deny("a", 1);
    other_reason.reason.code = ReasonCode::RuleDeny;
    let mut not_enforced = deny("a", 1);
    not_enforced.enforced = false;
    let mut no_agent = deny("a", 1);
    no_agent.agent = None;
    let mut ids = HashSet::new();
    for denial in [
        deny("a", 1),
        deny("a", 2),
        deny("b", 1),
        other_reason,
        not_enforced,
        no_agent,
    ] {
        ids.insert(record.write(denial).await.unwrap());
    }
    assert_eq!(ids.len(), 6);
    assert!(ids.contains(&record.write(deny("b", 1)).await.unwrap()));
}

#[test]
fn the_sum_of_counts_is_the_number_of_attempts_also_after_restarts() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let config = Config {
        cases: 24,
        failure_persistence: None,
        ..Config::default()
    };
    // Runs of denials (agent, port, how many), with a restart before some.
    let runs = prop::collection::vec((0..3_u8, 0..4_u16, 1..60_usize, any::<bool>()), 1..12);
    let quota = (1..20_u32, 300..20_000_u64);
    TestRunner::new(config)
        .run(&(runs, quota), |(runs, (burst, bytes_per_day))| {
            runtime.block_on(async {
                let dir = tempfile::tempdir().unwrap();
                let options = Options {
                    segment_bytes: 4096,
                    identical_per_second: 3,
                    quota: Quota {
                        entries_per_second: 1,
                        burst,
                        bytes_per_day,
                    },
                    ..Options::default()
                };
                let mut record = Record::open(dir.path(), options.clone()).unwrap();
                let mut attempts = 0;
                for (agent, port, number, restart) in runs {
                    if restart {
                        record.close().await;
                        record = Record::open(dir.path(), options.clone()).unwrap();
                    }
                    let agent = format!("agent-{agent}");
                    let writes = (0..number).map(|_| record.write(deny(&agent, port)));
                    for written in futures_util::future::join_all(writes).await {
                        written.unwrap();
                        attempts += 1;
                    }
                }
                assert_eq!(sum(&everything(&record).await), attempts);
                record.close().await;
                let record = Record::open(dir.path(), options).unwrap();
                assert_eq!(sum(&everything(&record).await), attempts);
            });
            Ok(())
        })
        .unwrap();
}

/// Five entries at once.
fn small_share() -> Options {
    Options {
        quota: Quota {
            entries_per_second: 1,
            burst: 5,
            bytes_per_day: 1 << 30,
        },
        ..Options::default()
    }
}

/// What the kernel let pass has passed: over the share it is counted together, as what it was.
#[tokio::test]
async fn what_the_kernel_let_pass_is_never_recorded_as_refused() {
    let dir = tempfile::tempdir().unwrap();
    let record = Record::open(dir.path(), small_share()).unwrap();
    for _ in 0..50 {
        let mut passed = allow("loud");
        passed.layer = Layer::Kernel;
        record.write(passed).await.unwrap();
        record.write(deny("loud", 80)).await.unwrap();
    }
    let all = everything(&record).await;
    let sum = |verdict| {
        let such = all.iter().filter(|decision| decision.verdict == verdict);
        such.map(|decision| decision.count).sum::<u64>()
    };
    assert_eq!((sum(Verdict::Allow), sum(Verdict::Deny)), (50, 50));
}

#[tokio::test]
async fn an_agent_over_its_share_is_refused_and_counted_and_another_is_not_affected() {
    let dir = tempfile::tempdir().unwrap();
    let record = Record::open(dir.path(), small_share()).unwrap();
    let (mut allowed, mut refused) = (0, 0);
    for _ in 0..100 {
        match record.write(allow("loud")).await {
            Ok(_) => allowed += 1,
            Err(error) => {
                assert_eq!(error.reason.code, ReasonCode::RecordQuota);
                refused += 1;
            }
        }
    }
    assert!(allowed < 30, "{allowed}");
    // Denials to a hundred destinations are counted together.
    let mut ids = HashSet::new();
    for port in 0..100 {
        ids.insert(record.write(deny("loud", port)).await.unwrap());
    }
    assert!(ids.len() < 30, "{}", ids.len());
    for _ in 0..5 {
        record.write(allow("quiet")).await.unwrap();
    }
    assert_eq!(record.status().refused_by_quota, refused);
    let found = everything(&record).await;
    assert_eq!(sum(&found), 100 + 100 + 5);
    let quota = found
        .iter()
        .filter(|decision| decision.reason.code == ReasonCode::RecordQuota);
    let (records, attempts) = quota.fold((0, 0), |(records, attempts), decision| {
        assert_eq!(decision.verdict, Verdict::Deny);
        (records + 1, attempts + decision.count)
    });
    assert_eq!((records, attempts), (1, refused));
}

#[tokio::test]
async fn what_operators_do_is_recorded_whatever_the_share() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        identical_per_second: 0,
        quota: Quota {
            entries_per_second: 1,
            burst: 1,
            bytes_per_day: 1,
        },
        ..Options::default()
    };
    let record = Record::open(dir.path(), options).unwrap();
    for verdict in [Verdict::Allow, Verdict::Deny] {
        for _ in 0..20 {
            let mut act = decision("a", verdict, 1);
            act.action.kind = ActionKind::Administration;
            act.agent = None;
            record.write(act).await.unwrap();
        }
    }
    let found = everything(&record).await;
    assert_eq!((found.len(), sum(&found)), (40, 40));
}

#[tokio::test]
async fn a_decision_that_is_too_large_is_refused_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let record = open(dir.path());
    let mut large = allow("a");
    large.action.path = Some("x".repeat(2 << 20));
    let error = record.write(large).await.unwrap_err();
    assert_eq!(error.reason.code, ReasonCode::RecordFailed);
    record.write(allow("a")).await.unwrap();
    record.close().await;
    let record = open(dir.path());
    assert_eq!(everything(&record).await.len(), 1);
    let notices = record.notices(10).await.unwrap();
    assert!(
        matches!(notices.as_slice(), [Notice::Gap(gap)] if gap.lost == 1),
        "{notices:?}"
    );
    assert_eq!(record.query(Query::default()).await.unwrap(), []);
}

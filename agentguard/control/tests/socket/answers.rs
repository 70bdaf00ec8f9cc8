//! What is answered.

use agentguard_control::api::{ProblemCode, VerdictQuery};
use agentguard_control::{Client, ClientError};
use agentguard_decision::Recorder;
use agentguard_model::contents::{Content, Contents, Kept};
use agentguard_model::{ActionKind, DecisionId, Mode, Verdict};
use ulid::Ulid;

use crate::world::{World, agent_status, decision, guard_status};

#[tokio::test]
async fn verdicts_are_filtered_and_the_newest_are_given_newest_last() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for (agent, verdict, kind, host) in [
        ("coder", Verdict::Allow, ActionKind::Connect, "a.example"),
        ("coder", Verdict::Deny, ActionKind::Connect, "b.example"),
        ("coder", Verdict::Deny, ActionKind::DnsQuery, "c.example"),
        ("tester", Verdict::Deny, ActionKind::Connect, "d.example"),
    ] {
        ids.push(world.write(decision(agent, verdict, kind, host)).await);
    }
    let mut client = world.client().await;
    let all = VerdictQuery::default();
    for (query, expected) in [
        (all.clone(), vec![0, 1, 2, 3]),
        (
            VerdictQuery {
                limit: Some(2),
                ..all.clone()
            },
            vec![2, 3],
        ),
        (
            VerdictQuery {
                before: Some(ids[2]),
                limit: Some(1),
                ..all.clone()
            },
            vec![1],
        ),
        (
            VerdictQuery {
                agent: Some("coder".parse().unwrap()),
                verdict: Some(Verdict::Deny),
                ..all.clone()
            },
            vec![1, 2],
        ),
        (
            VerdictQuery {
                kind: Some(ActionKind::DnsQuery),
                ..all.clone()
            },
            vec![2],
        ),
        (
            VerdictQuery {
                since: Some("2200-01-01T00:00:00Z".parse().unwrap()),
                ..all.clone()
            },
            vec![],
        ),
    ] {
        let got: Vec<DecisionId> = client
            .verdicts(&query)
            .await
            .unwrap()
            .iter()
            .map(|decision| decision.id)
            .collect();
        let expected: Vec<DecisionId> = expected.into_iter().map(|n: usize| ids[n]).collect();
        assert_eq!(got, expected, "{query:?}");
    }
}

#[tokio::test]
async fn what_was_kept_of_contents_is_told_to_those_who_may_read() {
    let world = World::new().await;
    let of = |agent| decision(agent, Verdict::Allow, ActionKind::LlmCall, "a.example");
    let id = world.write(of("coder")).await;
    let other = world.write(of("coder")).await;
    let contents = Contents {
        request: Some(Content {
            kept: Kept::Text("hello".to_owned()),
            size: 5,
            cut: false,
        }),
        response: None,
    };
    let coder = "coder".parse().unwrap();
    Recorder::contents(&world.record, id, &coder, contents.clone());
    world.record.close().await;
    let mut client = world.client().await;
    assert_eq!(client.contents(id).await.unwrap(), contents);
    for nothing in [other, DecisionId(Ulid(1))] {
        match client.contents(nothing).await {
            Err(ClientError::Refused(problem)) => {
                assert_eq!(problem.code, ProblemCode::NotFound);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn one_decision_is_found_by_its_id_and_no_other() {
    let world = World::new().await;
    let id = world
        .write(decision(
            "coder",
            Verdict::Deny,
            ActionKind::Connect,
            "a.example",
        ))
        .await;
    let mut client = world.client().await;
    let found = client.decision(id).await.unwrap();
    assert_eq!((found.id, found.action.port), (id, Some(443)));
    let Err(ClientError::Refused(problem)) = client.decision(DecisionId(Ulid::nil())).await else {
        panic!("found what is not there");
    };
    assert_eq!(problem.code, ProblemCode::NotFound);
    assert!(problem.hint.is_some());
}

#[tokio::test]
async fn agents_policy_and_status_are_those_of_the_wiring() {
    let world = World::new().await;
    let mut client = world.client().await;
    assert_eq!(client.agents().await.unwrap(), [agent_status()]);
    let coder = "coder".parse().unwrap();
    assert_eq!(client.agent(&coder).await.unwrap(), agent_status());
    world.agents.send_modify(|agents| agents[0].runs = 7);
    assert_eq!(client.agent(&coder).await.unwrap().runs, 7);
    let Err(ClientError::Refused(problem)) = client.agent(&"ghost".parse().unwrap()).await else {
        panic!("found what is not there");
    };
    assert_eq!(problem.message, "there is no agent `ghost`");

    let policy = client.policy().await.unwrap();
    assert_eq!(policy.status.version.len(), 12);
    assert_ne!(policy.status.version, "not yet told");
    let rules: Vec<(&str, Verdict, u32)> = policy
        .rules
        .iter()
        .map(|rule| (rule.id.as_str(), rule.action, rule.source.line))
        .collect();
    assert_eq!(
        rules,
        [
            ("docs", Verdict::Allow, 7),
            ("no-deletes", Verdict::Deny, 12)
        ]
    );
    assert_eq!(
        policy.rules[1].reason.as_deref(),
        Some("nothing is deleted here")
    );
    assert_eq!(policy.agents[0].mode, Mode::Shadow);

    let status = client.status().await.unwrap();
    assert!(status.healthy());
    assert_eq!(status.guard, guard_status());
    assert_eq!(status.record.degraded, None);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_the_server_goes_on() {
    let world = World::new().await;
    let long: &'static str = Box::leak(
        format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(40_000)).into_boxed_str(),
    );
    for (request, status, says) in [
        (
            "GET /v1/verdicts?agnet=x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "400",
            "there is no parameter `agnet`",
        ),
        (
            "GET /v1/verdicts/nonsense HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "400",
            "`nonsense` is not a decision id",
        ),
        (
            "GET /v2/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "404",
            "there is no such route",
        ),
        (
            "DELETE /v1/agents/coder HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "405",
            "changes are made through the keeper",
        ),
        (
            "GET /v1/tools?name=x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "400",
            "there is no parameter `name`",
        ),
        (
            "GET /v1/tools/definition?server=a&tool=b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "404",
            "nothing is pinned of a tool `b` of a server `a`",
        ),
        ("\u{0}\u{1}\r\n\r\n", "400", ""),
        (long, "4", ""),
    ] {
        let answer = world.raw(request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        assert!(answer.contains(says), "{answer}");
    }
    assert_eq!(world.client().await.agents().await.unwrap().len(), 1);
}

#[tokio::test]
async fn without_a_daemon_the_client_says_how_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let missing = Client::connect(&path).await.unwrap_err();
    // A socket that was left behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let stale = Client::connect(&path).await.unwrap_err();
    for error in [missing, stale] {
        assert_eq!(
            error.to_string(),
            format!("no daemon at {}", path.display())
        );
        let hint = error.hint().unwrap();
        assert!(hint.starts_with("start one with `systemctl start agentguard` or"));
    }
}

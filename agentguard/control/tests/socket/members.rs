//! What members of `agentguard-run` are told.

use agentguard_control::api::{AgentStatus, Quarantine, SwitchSet, SwitchStatus};
use agentguard_model::{ActionKind, Decision, Layer, Process, Verdict};
use jiff::Timestamp;

use crate::world::{RUNNERS, World, agent_status, ask_as, decision, read, users};

/// A decision of a run of `coder` on somebody's behalf.
fn said(user: &str) -> Decision {
    let mut decision = decision("coder", Verdict::Deny, ActionKind::Connect, "a.example");
    decision.context.user = Some(user.to_owned());
    decision
}

#[tokio::test]
async fn who_may_run_some_agents_is_told_of_these_as_if_there_were_no_others() {
    let world = World::new().await;
    let quarantine = Quarantine {
        since: Timestamp::UNIX_EPOCH,
        uid: Some(0),
        reason: Some("for operators".into()),
        frozen: false,
    };
    let agents = ["coder", "secret"].map(|name| AgentStatus {
        name: name.parse().unwrap(),
        quarantine: Some(quarantine.clone()),
        cgroups: vec![format!("/sys/fs/cgroup/other/{name}")],
        ..agent_status()
    });
    world.agents.send_replace(agents.to_vec());
    world.guard.send_modify(|guard| {
        guard.gate.attached = ["coder", "secret"]
            .map(|name| format!("/sys/fs/cgroup/other/{name}"))
            .to_vec();
        guard.policy.refused = Some("p.yaml:7:1: error: agent `secret`".into());
        let set = SwitchSet {
            on: true,
            since: Timestamp::UNIX_EPOCH,
            uid: 0,
            reason: Some("for operators".into()),
        };
        guard.switches = vec![SwitchStatus::new("freeze", Some(false), Some(set))];
    });
    world
        .users
        .send_replace(users(&[("coder", &[7]), ("secret", &[8])]));
    let mut ids = Vec::new();
    for agent in ["coder", "secret", "coder", "secret"] {
        let one = decision(agent, Verdict::Deny, ActionKind::Connect, "a.example");
        ids.push(world.write(one).await.to_string());
    }
    let mut deed = decision("coder", Verdict::Allow, ActionKind::Administration, "x");
    deed.layer = Layer::Operator;
    ids.push(world.write(deed).await.to_string());
    let mut nobodys = decision("coder", Verdict::Allow, ActionKind::Connect, "x");
    nobodys.agent = None;
    ids.push(world.write(nobodys).await.to_string());

    let ask = async |route: &str| {
        let answer = ask_as(&world, (7, 7), &[4, RUNNERS], route).await;
        assert!(!answer.contains("secret"), "{route}: {answer}");
        assert!(!answer.contains("for operators"), "{route}: {answer}");
        read(&answer)
    };
    let (status, answer) = ask("/v1/verdicts").await;
    let given: Vec<_> = answer["decisions"].as_array().unwrap().iter().collect();
    let given: Vec<_> = given.iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!(
        (status, given),
        (200, vec![ids[0].as_str(), ids[2].as_str()])
    );
    let (status, answer) = ask("/v1/verdicts?limit=1").await;
    assert_eq!(
        (status, &answer["decisions"][0]["id"]),
        (200, &ids[2].as_str().into())
    );
    let (_, answer) = ask("/v1/agents").await;
    assert_eq!(answer["agents"].as_array().unwrap().len(), 1);
    // What it takes is of all its runs together.
    assert!(answer["agents"][0].get("resources").is_none());
    assert_eq!(ask("/v1/agents/coder").await.0, 200);
    let (status, answer) = ask("/v1/status").await;
    assert_eq!((status, &answer["partial"]), (200, &true.into()));
    assert_eq!(
        answer["gate"]["attached"],
        serde_json::json!(["/sys/fs/cgroup/other/coder"])
    );
    assert_eq!(answer["record"]["entries"], 0);
    for path in [
        "/v1/policy",
        "/v1/tools",
        "/v1/tools/definition?server=a&tool=b",
        "/v1/budgets",
        "/v1/budgets?agent=coder",
        "/v1/budgets/account?name=team",
    ] {
        let (status, answer) = ask(path).await;
        assert_eq!(
            (status, &answer["code"]),
            (403, &"forbidden".into()),
            "{path}"
        );
    }

    // What passed is for those who may read everything, and what is another's is not even there.
    let contents = |n: usize| format!("/v1/verdicts/{}/contents", ids[n]);
    assert_eq!(ask(&contents(0)).await.1["code"], "forbidden");
    assert_eq!(ask(&contents(1)).await.1["code"], "not_found");

    // What is another's, what is an operator's and what is nobody's is not there.
    for (n, id) in ids.iter().enumerate() {
        let (status, answer) = ask(&format!("/v1/verdicts/{id}")).await;
        assert_eq!(status, if n == 0 || n == 2 { 200 } else { 404 }, "{n}");
        if status == 404 {
            let nowhere = id.replace(|_: char| true, "0");
            let (_, other) = ask(&format!("/v1/verdicts/{nowhere}")).await;
            assert_eq!(
                answer.to_string().replace(id, "ID"),
                other.to_string().replace(&nowhere, "ID")
            );
            assert_eq!(answer["code"], "not_found");
        }
    }
    for route in [
        "/v1/agents/NAME",
        "/v1/verdicts?agent=NAME",
        "/v1/verdicts?agent=NAME&follow=true",
    ] {
        let of = async |name: &str| {
            let answer = ask_as(&world, (7, RUNNERS), &[], &route.replace("NAME", name)).await;
            let (status, answer) = read(&answer);
            (status, answer.to_string().replace(name, "NAME"))
        };
        let (status, answer) = of("secret").await;
        assert_eq!(
            (status, &answer),
            (404, &of("nobody-knows").await.1),
            "{route}"
        );
    }
    // Who may run nothing is told of nothing.
    let (status, answer) = read(&ask_as(&world, (9, 9), &[RUNNERS], "/v1/verdicts").await);
    assert_eq!(
        (status, answer),
        (200, serde_json::json!({"decisions": []}))
    );
    let (_, answer) = read(&ask_as(&world, (9, 9), &[RUNNERS], "/v1/agents").await);
    assert_eq!(answer, serde_json::json!({"agents": []}));
    // And who is listed but no member is refused.
    let (status, answer) = read(&ask_as(&world, (7, 7), &[4], "/v1/verdicts").await);
    assert_eq!((status, &answer["code"]), (403, &"forbidden".into()));
}

#[tokio::test]
async fn users_of_one_agent_do_not_read_what_the_others_ran() {
    let world = World::new().await;
    world.users.send_replace(users(&[("coder", &[7, 8])]));
    let process = |uid| {
        let mut decision = decision("coder", Verdict::Deny, ActionKind::Connect, "a.example");
        decision.process = Some(Process {
            pid: 1,
            uid,
            comm: "x".into(),
            exe: None,
        });
        decision
    };
    // By 7, by 8, by root, by a process of each without a run, and by nobody knows whom.
    let mut ids = Vec::new();
    for one in [
        said("uid 7"),
        said("uid 8"),
        process(7),
        process(8),
        process(0),
        decision("coder", Verdict::Deny, ActionKind::Connect, "a.example"),
        said("uid none"),
        Decision {
            process: process(0).process,
            ..said("night shift")
        },
    ] {
        ids.push(world.write(one).await.to_string());
    }
    let of = async |uid| {
        let answer = ask_as(&world, (uid, RUNNERS), &[], "/v1/verdicts").await;
        let (_, answer) = read(&answer);
        let given = answer["decisions"].as_array().unwrap().clone();
        let given = given.iter().map(|it| it["id"].as_str().unwrap().to_owned());
        given
            .map(|id| ids.iter().position(|it| *it == id).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(of(7).await, [0, 2, 4]);
    assert_eq!(of(8).await, [1, 3, 4]);
    // The only user of an agent reads all of it but what another one ran, who was listed then.
    world.users.send_replace(users(&[("coder", &[7])]));
    assert_eq!(of(7).await, [0, 2, 3, 4, 5, 6, 7]);
    assert!(of(8).await.is_empty());
}

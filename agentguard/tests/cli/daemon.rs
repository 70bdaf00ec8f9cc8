//! What asks a daemon.

use std::io::Read as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use agentguard_keeper::message::{Answer, AuthorityInfo, AuthorityState, Command as Request};
use agentguard_keeper::packet;
use agentguard_model::{ActionKind, Verdict};

use crate::world::{Bench, Served, agentguard, decision};

#[test]
fn without_a_daemon_every_command_says_how_to_start_one() {
    let bench = Bench::new();
    let config = bench.config();
    let control = format!(
        "error: no daemon at {}\nhint: start one with `agentguard daemon --config {config}`; if it runs with another configuration, name that with --config\n",
        bench.path("control.sock")
    );
    let keeper = control.replace("control.sock", "keeper.sock");
    for arguments in [
        &["verdicts"][..],
        &["verdicts", "--follow"],
        &["explain", "01JD6Z7Q0000000000000000AB"],
        &["agent", "list"],
        &["agent", "show", "coder"],
        &["policy", "show"],
        &["policy", "switch"],
        &["tools", "list"],
        &["tools", "diff", "files", "read"],
        &["status"],
    ] {
        agentguard(arguments)
            .with_config(&config)
            .says("", &control, 1);
    }
    for arguments in [
        &["agent", "add", "coder", "--cgroup", "/"][..],
        &["agent", "remove", "coder"],
        &["agent", "quarantine", "coder"],
        &["agent", "release", "coder"],
        &["policy", "reload"],
        &["policy", "switch", "freeze", "on"],
        &["tools", "accept", "files"],
        &["tools", "forget", "files", "read"],
        &["run", "--agent", "coder", "--", "true"],
    ] {
        agentguard(arguments)
            .with_config(&config)
            .says("", &keeper, 1);
    }
    // The option names it as the variable does.
    agentguard(["--config", &config, "status"]).says("", &control, 1);
}

#[test]
fn verdicts_and_explain() {
    let bench = Bench::new();
    let served = Served::new(&bench);
    let config = bench.config();
    let first = decision(Verdict::Allow, ActionKind::Connect, "docs.example");
    let mut second = decision(Verdict::Deny, ActionKind::HttpRequest, "api.example");
    second.action.method = Some("DELETE".into());
    second.action.path = Some("/v1/\u{1b}[2J".into());
    let ids = [served.write(first), served.write(second)];

    agentguard(["verdicts"]).with_config(&config).says(
        &format!(
            "\
TIME                  AGENT  VERDICT  KIND          DESTINATION                          REASON   ID
2026-11-22T04:08:03Z  coder  allow    connect       docs.example:443                     no_rule  {}
2026-11-22T04:08:03Z  coder  deny     http_request  DELETE api.example:443/v1/\\u{{1b}}[2J  no_rule  {}
",
            ids[0], ids[1]
        ),
        "",
        0,
    );
    let denied = agentguard(["verdicts", "--verdict", "deny", "-o", "jsonl"])
        .with_config(&config)
        .run();
    let line: agentguard_model::Decision = serde_json::from_str(&denied.stdout).unwrap();
    assert_eq!((line.id, denied.stdout.lines().count()), (ids[1], 1));
    let newest = agentguard(["verdicts", "--limit", "1"])
        .with_config(&config)
        .run();
    assert_eq!(
        newest.stderr,
        "these are the newest 1; --limit shows more, --since and --agent narrow\n"
    );
    agentguard(["verdicts", "--agent", "nobody", "-o", "json"])
        .with_config(&config)
        .says(
            "[]\n",
            "no agent of the policy is named nobody; `agentguard agent list` shows those that are\n",
            0,
        );
    agentguard([
        "verdicts", "--agent", "coder", "--kind", "datagram", "-o", "json",
    ])
    .with_config(&config)
    .says("[]\n", "", 0);

    let story = agentguard(["explain", &ids[1].to_string()])
        .with_config(&config)
        .run();
    assert_eq!((story.code, story.stderr.as_str()), (0, ""));
    assert!(
        story
            .stdout
            .starts_with("coder was refused: DELETE api.example:443/v1/\\u{1b}[2J\n"),
        "{}",
        story.stdout
    );
    assert!(
        story
            .stdout
            .contains("is in force now, and may decide otherwise")
    );
    agentguard(["explain", "01JD6Z7Q0000000000000000ZZ"])
        .with_config(&config)
        .says(
            "",
            "error: there is no decision 01JD6Z7Q0000000000000000ZZ\nhint: old decisions are deleted when the record reaches its bound; `agentguard verdicts` lists those that are there\n",
            1,
        );
}

#[test]
fn following_streams_and_ends_with_its_reader() {
    use std::io::BufRead as _;
    let bench = Bench::new();
    let served = Served::new(&bench);
    served.write(decision(Verdict::Allow, ActionKind::Connect, "a.example"));
    let mut child = agentguard(["verdicts", "--follow", "--limit", "1", "-o", "jsonl"])
        .with_config(&bench.config())
        .command()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || {
        let line = lines.next().unwrap().unwrap();
        let decision: agentguard_model::Decision = serde_json::from_str(&line).unwrap();
        decision.id
    };
    next();
    let id = served.write(decision(Verdict::Allow, ActionKind::Connect, "b.example"));
    assert_eq!(next(), id);
    drop(lines);
    // It notices at the next line; a child of another test's, until it executes, reads there too.
    let end = Instant::now() + Duration::from_secs(20);
    let code = loop {
        served.write(decision(Verdict::Allow, ActionKind::Connect, "c.example"));
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        assert!(Instant::now() < end, "it goes on without a reader");
    };
    let mut told = String::new();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut told).unwrap();
    assert_eq!((code, told.as_str()), (Some(0), ""));
}

#[test]
fn agents_policy_and_status() {
    let bench = Bench::new();
    let _served = Served::new(&bench);
    let config = bench.config();
    agentguard(["agent", "list"]).with_config(&config).says(
        "NAME   MODE     RUNS  CGROUPS                          LABELS\n\
         coder  enforce  1     /sys/fs/cgroup/agentguard/coder  tenant=acme\n",
        "",
        0,
    );
    agentguard(["agent", "show", "ghost"]).with_config(&config).says(
        "",
        "error: there is no agent `ghost`\nhint: `agentguard agent list` lists those that are there\n",
        1,
    );
    let shown = agentguard(["policy", "show"]).with_config(&config).run();
    let (head, tail) = shown.stdout.split_once('\n').unwrap();
    assert!(head.starts_with("version   ") && head.len() == 22, "{head}");
    assert_eq!(
        tail,
        "from      policy.yaml\n\
         loaded    1970-01-01T00:00:00Z\n\
         \n\
         AGENT  MODE     USERS  LABELS\n\
         coder  enforce  -      tenant=acme\n\
         \n\
         RULE        ACTION  HANDLING  MODE     SOURCE\n\
         docs        allow   splice    enforce  policy.yaml:6\n\
         no-deletes  deny    -         enforce  policy.yaml:11\n\
         some-day    allow   splice    shadow   policy.yaml:16\n"
    );
    let switches = ["policy", "switch"];
    agentguard(switches).with_config(&config).says(
        "NAME    STATE  DECLARED  SET BY  SINCE\n\
         calm    off    off       -       -\n\
         freeze  on     off       uid 7   1970-01-01T00:00:00Z\n",
        "",
        0,
    );
    let switches = ["policy", "switch", "-o", "jsonl"];
    agentguard(switches).with_config(&config).says(
        "{\"name\":\"calm\",\"on\":false,\"declared\":false}\n\
         {\"name\":\"freeze\",\"on\":true,\"declared\":false,\"set\":{\"on\":true,\
         \"since\":\"1970-01-01T00:00:00Z\",\"uid\":7,\"reason\":\"ticket 42\"}}\n",
        "",
        0,
    );
    let status = agentguard(["status"]).with_config(&config).run();
    assert_eq!((status.code, status.stderr.as_str()), (0, ""));
    assert!(
        status.stdout.contains(
            "\nswitch     freeze is on, declared off; set on since 1970-01-01T00:00:00Z by uid 7: ticket 42\n"
        ),
        "{}",
        status.stdout
    );
    assert!(
        status
            .stdout
            .starts_with("guard      ready, version 0.0.0, up "),
        "{}",
        status.stdout
    );
    assert!(
        status
            .stdout
            .ends_with("\nthe daemon works as it should; for the host see `agentguard doctor`\n"),
        "{}",
        status.stdout
    );
}

/// Two authorities, the second of which waits.
fn authorities() -> Vec<AuthorityInfo> {
    let authority = |state, number: u64| AuthorityInfo {
        state,
        subject: format!("AgentGuard CA host {number}"),
        fingerprint: format!("{number:064x}"),
        not_before: 1_800_000_000,
        not_after: 2_115_360_000,
        signs_from: 1_800_000_000 + number * 86_400,
        signs_until: (number == 0).then_some(1_800_086_400),
        certificate: format!("-----BEGIN CERTIFICATE-----\n{number}\n-----END CERTIFICATE-----\n"),
    };
    vec![
        authority(AuthorityState::Current, 0),
        authority(AuthorityState::Next, 1),
    ]
}

#[test]
fn authorities_are_shown_exported_and_rotated() {
    const PEM: &str = "-----BEGIN CERTIFICATE-----\n0\n-----END CERTIFICATE-----\n\
                       -----BEGIN CERTIFICATE-----\n1\n-----END CERTIFICATE-----\n";
    let bench = Bench::new();
    let config = bench.config();
    let listener = packet::listen(bench.path("keeper.sock").as_ref(), 0o600).unwrap();
    let keeper = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for _ in 0..6 {
            let client = listener.accept().unwrap();
            let (request, _) = client.recv::<Request>().unwrap().unwrap();
            let answer = match request {
                Request::RotateAuthority { at_once: true } => Answer::Done { text: "?".into() },
                _ => Answer::Authorities(authorities()),
            };
            client.send(&answer, &[]).unwrap();
            asked.push(request);
        }
        asked
    });
    let call = |arguments: &[&str]| agentguard(arguments).with_config(&config);
    let table = format!(
        "STATE    SUBJECT               SIGNS FROM            SIGNS UNTIL           VALID UNTIL           SHA256\n\
         current  AgentGuard CA host 0  2027-01-15T08:00:00Z  2027-01-16T08:00:00Z  2037-01-12T08:00:00Z  {:064x}\n\
         next     AgentGuard CA host 1  2027-01-16T08:00:00Z  -                     2037-01-12T08:00:00Z  {:064x}\n",
        0, 1
    );
    call(&["ca", "show"]).says(&table, "", 0);
    let json = call(&["ca", "show", "-o", "json"]).run();
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(
        json[1],
        serde_json::json!({
            "state": "next",
            "subject": "AgentGuard CA host 1",
            "sha256": format!("{:064x}", 1),
            "not_before": "2027-01-15T08:00:00Z",
            "not_after": "2037-01-12T08:00:00Z",
            "signs_from": "2027-01-16T08:00:00Z",
            "signs_until": null,
        })
    );
    call(&["ca", "export"]).says(PEM, "", 0);
    let file = bench.path("ca.pem");
    call(&["ca", "export", "--out", &file]).says("", &format!("written to {file}\n"), 0);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), PEM);
    call(&["ca", "rotate"]).says(
        &table,
        "a new certificate authority was made; have it trusted before it signs: agentguard ca export\n",
        0,
    );
    call(&["ca", "rotate", "--now"]).says(
        "",
        "error: the daemon gave an answer out of turn\nhint: use the `agentguard` of the same version as the daemon\n",
        1,
    );
    let asked = keeper.join().unwrap();
    assert!(
        asked[..4]
            .iter()
            .all(|asked| matches!(asked, Request::Authorities))
    );
    assert!(matches!(
        asked[4..],
        [
            Request::RotateAuthority { at_once: false },
            Request::RotateAuthority { at_once: true }
        ]
    ));
}

#[test]
fn changes_go_to_the_keeper_and_its_answer_is_passed_on() {
    let bench = Bench::new();
    let config = bench.config();
    let listener = packet::listen(bench.path("keeper.sock").as_ref(), 0o600).unwrap();
    let keeper = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for answer in [
            Answer::Done {
                text: "policy 0123456789ab is in force".into(),
            },
            Answer::Done {
                text: "again".into(),
            },
            Answer::Done {
                text: "coder is quarantined\nbut".into(),
            },
            Answer::Done {
                text: "coder is released".into(),
            },
            Answer::Done {
                text: "the switch freeze is on".into(),
            },
            Answer::Done {
                text: "the switch freeze is off".into(),
            },
            Answer::Refused {
                message: "the cgroup holds the daemon itself".into(),
                hint: Some("name a cgroup of its own".into()),
            },
        ] {
            let client = listener.accept().unwrap();
            let (request, fds) = client.recv::<Request>().unwrap().unwrap();
            assert!(fds.is_empty());
            client.send(&answer, &[]).unwrap();
            asked.push(request);
        }
        // The last one is left without an answer.
        drop(listener.accept().unwrap());
        asked
    });
    agentguard(["policy", "reload"]).with_config(&config).says(
        "",
        "policy 0123456789ab is in force\n",
        0,
    );
    agentguard(["policy", "reload", "-o", "jsonl"])
        .with_config(&config)
        .says("{\"done\":\"again\"}\n", "", 0);
    let words = [
        "agent",
        "quarantine",
        "coder",
        "--reason",
        "ticket 42",
        "--freeze",
    ];
    agentguard(words)
        .with_config(&config)
        .says("", "coder is quarantined\nbut\n", 0);
    agentguard(["agent", "release", "coder"])
        .with_config(&config)
        .says("", "coder is released\n", 0);
    let words = ["policy", "switch", "freeze", "on", "--reason", "ticket 42"];
    agentguard(words)
        .with_config(&config)
        .says("", "the switch freeze is on\n", 0);
    let words = ["policy", "switch", "freeze", "default", "-o", "json"];
    agentguard(words)
        .with_config(&config)
        .says("{\"done\":\"the switch freeze is off\"}\n", "", 0);
    let cgroup = bench.path("a/../cgroup");
    std::fs::create_dir_all(bench.path("a")).unwrap();
    std::fs::create_dir_all(bench.path("cgroup")).unwrap();
    agentguard(["agent", "add", "coder", "--cgroup", &cgroup])
        .with_config(&config)
        .says(
            "",
            "error: the cgroup holds the daemon itself\nhint: name a cgroup of its own\n",
            1,
        );
    let lost = agentguard(["agent", "remove", "coder"])
        .with_config(&config)
        .run();
    assert_eq!(lost.code, 1);
    assert!(
        lost.stderr
            .starts_with("error: the connection to the daemon at "),
        "{}",
        lost.stderr
    );
    let asked = keeper.join().unwrap();
    assert!(matches!(asked[0], Request::Reload));
    match &asked[2] {
        Request::Quarantine {
            name,
            reason: Some(reason),
            freeze: true,
        } => assert_eq!((name.as_str(), reason.as_str()), ("coder", "ticket 42")),
        other => panic!("{other:?}"),
    }
    assert!(matches!(&asked[3], Request::Release { name } if name.as_str() == "coder"));
    match [&asked[4], &asked[5]] {
        [
            Request::Switch {
                name,
                on: Some(true),
                reason: Some(reason),
            },
            Request::Switch {
                name: same,
                on: None,
                reason: None,
            },
        ] => assert_eq!([name, reason, same], ["freeze", "ticket 42", "freeze"]),
        other => panic!("{other:?}"),
    }
    match &asked[6] {
        Request::AddAgent { name, cgroup } => {
            assert_eq!(name.as_str(), "coder");
            assert_eq!(*cgroup, bench.path("cgroup"));
        }
        other => panic!("{other:?}"),
    }
    agentguard(["agent", "add", "coder", "--cgroup", &bench.path("none")])
        .with_config(&config)
        .says(
            "",
            &format!(
                "error: cannot find the cgroup {}: No such file or directory\nhint: name its directory, as /sys/fs/cgroup/system.slice/my.service\n",
                bench.path("none")
            ),
            1,
        );
}

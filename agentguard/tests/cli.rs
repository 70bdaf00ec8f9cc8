//! The command line as scripts and people see it: whole outputs, and exit codes.
//!
//! What needs an answer asks a control socket that this process serves, with a real record and a
//! real policy, or a keeper of a few lines.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod world;

use std::io::Read as _;
use std::process::Stdio;

use agentguard_keeper::message::{Answer, AuthorityInfo, AuthorityState, Command as Request};
use agentguard_keeper::packet;
use agentguard_model::{ActionKind, Verdict};

use world::{Bench, Served, agentguard, decision};

#[test]
fn help() {
    agentguard(["-h"]).says(
        "\
Governs what AI agents send to the network

Usage: agentguard [OPTIONS] <COMMAND>

Commands:
  daemon    Run the guard, in the foreground
  run       Run a command as an agent
  agent     List, show, add and remove agents
  verdicts  List decisions, newest last
  explain   Say why a decision was taken, and what would change it
  policy    Check a policy, show the one in force, load it anew
  ca        Show, export and rotate the certificate authority behind inspection
  status    Say how the guard is doing
  doctor    Say what this host has of what the guard needs; works without a daemon

Options:
      --config <FILE>  The configuration [default: /etc/agentguard/config.yaml] [env:
                       AGENTGUARD_CONFIG]
  -o, --output <FORM>  The form of the output [default: table] [possible values: table, json, jsonl]
  -h, --help           Print help (see more with '--help')
  -V, --version        Print version

Exit codes: 0 done, 1 refused or failed, 2 usage or configuration error; run returns the code of its
command
",
        "",
        0,
    );
}

#[test]
fn help_of_a_command() {
    agentguard(["verdicts", "-h"]).says(
        "\
List decisions, newest last

Usage: agentguard verdicts [OPTIONS]

Options:
      --agent <NAME>       Of this agent
      --config <FILE>      The configuration [default: /etc/agentguard/config.yaml] [env:
                           AGENTGUARD_CONFIG]
  -o, --output <FORM>      The form of the output [default: table] [possible values: table, json,
                           jsonl]
      --verdict <VERDICT>  With this verdict [possible values: allow, deny, modify, escalate]
      --kind <KIND>        On this kind of action [possible values: connect, datagram, inbound,
                           socket, dns_query, http_request, llm_call, tool_call, administration]
      --since <WHEN>       Not older than this: 90s, 10m, 3h, 2d, 1w, or a time such as
                           2026-01-31T12:00:00Z
      --limit <N>          The newest so many, at most 10000 [default: 100; with --follow 0]
      --follow             Go on with new ones as they are recorded
  -h, --help               Print help (see more with '--help')
",
        "",
        0,
    );
}

#[test]
fn usage_errors() {
    for (arguments, told) in [
        (
            &["verdict"][..],
            "error: unrecognized subcommand 'verdict'\n\n  tip: a similar subcommand exists: 'verdicts'\n\nUsage: agentguard [OPTIONS] <COMMAND>\n\nFor more information, try '--help'.\n",
        ),
        (
            &["verdicts", "--kind", "dns"],
            "error: invalid value 'dns' for '--kind <KIND>'\n  [possible values: connect, datagram, inbound, socket, dns_query, http_request, llm_call, tool_call, administration]\n\n  tip: a similar value exists: 'dns_query'\n\nFor more information, try '--help'.\n",
        ),
        (
            &["verdicts", "--limit", "0"],
            "error: invalid value '0' for '--limit <N>': 0 is not in 1..=10000\n\nFor more information, try '--help'.\n",
        ),
        (
            &["verdicts", "--since", "yesterday"],
            "error: invalid value 'yesterday' for '--since <WHEN>': neither how long ago (90s, 10m, 3h, 2d, 1w) nor a time (2026-01-31T12:00:00Z)\n\nFor more information, try '--help'.\n",
        ),
        (
            &["verdicts", "--agent", "Not A Name"],
            "error: invalid value 'Not A Name' for '--agent <NAME>': `Not A Name` is not an agent name: 1 to 63 characters a-z 0-9 . _ -, the first a letter or digit\n\nFor more information, try '--help'.\n",
        ),
        (
            &["verdicts", "--follow", "-o", "json"],
            "error: --follow has no end, and one JSON document would have to\nhint: use -o jsonl: one document a line\n",
        ),
        (
            &["explain", "nonsense"],
            "error: invalid value 'nonsense' for '<DECISION_ID>': `nonsense` is not a decision id: 26 characters as `agentguard verdicts` prints them\n\nFor more information, try '--help'.\n",
        ),
        (
            &["agent", "add", "coder"],
            "error: the following required arguments were not provided:\n  --cgroup <PATH>\n\nUsage: agentguard agent add --cgroup <PATH> <NAME>\n\nFor more information, try '--help'.\n",
        ),
        (
            &["run", "--agent", "coder"],
            "error: the following required arguments were not provided:\n  <COMMAND>...\n\nUsage: agentguard run --agent <NAME> <COMMAND>...\n\nFor more information, try '--help'.\n",
        ),
    ] {
        agentguard(arguments).says("", told, 2);
    }
    let bare = agentguard::<[&str; 0]>([]).run();
    assert_eq!(bare.code, 2);
    assert!(bare.stderr.contains("Usage: agentguard"), "{}", bare.stderr);
}

#[test]
fn a_bad_configuration_is_told_with_its_place_and_exit_code_2() {
    let bench = Bench::new();
    bench.write(
        "config.yaml",
        "state_dir: /x\nproxy_prot: 1\nresolvers: [1.2.3.4]\n",
    );
    let config = bench.path("config.yaml");
    // A fault of the form hides what the values are: it may have been their key.
    let told = format!(
        "{config}:2:1: error: unknown key `proxy_prot`\n  hint: did you mean `proxy_port`?\n"
    );
    agentguard(["--config", &config, "verdicts"]).says("", &told, 2);
    agentguard(["daemon", "--config", &config]).says("", &told, 2);
    agentguard(["status"])
        .with_config(&config)
        .says("", &told, 2);

    let missing = bench.path("missing.yaml");
    agentguard(["daemon", "--config", &missing]).says(
        "",
        &format!(
            "error: cannot read the configuration {missing}: No such file or directory\nhint: docs/configuration.md has an example; name another file with --config or AGENTGUARD_CONFIG\n"
        ),
        2,
    );
}

#[test]
fn a_variable_that_names_nothing_is_told_by_its_name() {
    agentguard(["status"]).with_config("").says(
        "",
        "error: AGENTGUARD_CONFIG is empty\nhint: name a file in it, or unset it for the default\n",
        2,
    );
    // The command line goes first.
    let bench = Bench::new();
    let missing = bench.path("missing.yaml");
    let said = agentguard(["status", "--config", &missing])
        .with_config("")
        .run();
    assert!(said.stderr.contains(&missing), "{}", said.stderr);
}

#[test]
fn a_label_has_one_value() {
    agentguard([
        "run", "--agent", "coder", "--label", "a=1", "--label", "b=1", "--label", "a=2", "true",
    ])
    .says(
        "",
        "error: the label `a` is given twice\nhint: give each label once\n",
        2,
    );
}

#[test]
fn the_daemon_needs_its_worker_s_user() {
    let bench = Bench::new();
    bench.write("config.yaml", "# who\nworker_user: nobody-has-this-name\n");
    let config = bench.path("config.yaml");
    agentguard(["daemon", "--config", &config]).says(
        "",
        &format!(
            "{config}:2:14: error: the worker's user `nobody-has-this-name` does not exist\n  hint: create a user for it: useradd --system --user-group --no-create-home --shell /usr/sbin/nologin nobody-has-this-name\n"
        ),
        2,
    );
}

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
        &["status"],
    ] {
        agentguard(arguments)
            .with_config(&config)
            .says("", &control, 1);
    }
    for arguments in [
        &["agent", "add", "coder", "--cgroup", "/"][..],
        &["agent", "remove", "coder"],
        &["policy", "reload"],
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
fn a_policy_is_checked_without_a_daemon() {
    let bench = Bench::new();
    bench.write("good.yaml", world::POLICY);
    let good = bench.path("good.yaml");
    let version = {
        let checked = agentguard(["policy", "check", &good, "-o", "json"]).run();
        assert_eq!((checked.code, checked.stderr.as_str()), (0, ""));
        let json: serde_json::Value = serde_json::from_str(&checked.stdout).unwrap();
        assert_eq!((&json["agents"], &json["rules"]), (&1.into(), &2.into()));
        json["version"].as_str().unwrap().to_owned()
    };
    agentguard(["policy", "check", &good]).says(
        &format!("{good} is good: version {version}, 1 agent, 2 rules\n"),
        "",
        0,
    );

    bench.write(
        "bad.yaml",
        "version: 1\nagents:\n  - name: coder\nrules:\n  - id: a\n    action: alow\n  - id: b\n    mathc: {}\n    action: deny\n",
    );
    let bad = bench.path("bad.yaml");
    agentguard(["policy", "check", &bad]).says(
        "",
        &format!(
            "{bad}:6:13: error: unknown value `alow`\n  hint: did you mean `allow`?\n{bad}:8:5: error: unknown key `mathc`\n  hint: did you mean `match`?\nerror: {bad} cannot be used: 2 faults\n"
        ),
        2,
    );

    let missing = bench.path("missing.yaml");
    agentguard(["policy", "check", &missing]).says(
        "",
        &format!(
            "error: cannot read the policy {missing}: No such file or directory\nhint: docs/policy.md has an example\n"
        ),
        2,
    );
}

#[test]
fn warnings_do_not_make_a_policy_bad() {
    let bench = Bench::new();
    bench.write(
        "policy.yaml",
        "version: 1\nrules:\n  - id: a\n    match: {host: [x.example]}\n    action: allow\n",
    );
    let path = bench.path("policy.yaml");
    let checked = agentguard(["policy", "check", &path]).run();
    assert_eq!(checked.code, 0, "{}", checked.stderr);
    assert!(
        checked.stdout.ends_with(", 0 agents, 1 rule\n"),
        "{}",
        checked.stdout
    );
    assert_eq!(
        checked.stderr,
        format!(
            "{path}:3:5: warning: there are rules, but no agents\n  hint: an agent is declared under `agents`\n"
        )
    );
}

#[test]
fn schemas_are_the_published_ones() {
    for (name, published) in [
        (
            "config",
            include_str!("../../docs/schema/config.schema.json"),
        ),
        (
            "policy",
            include_str!("../../docs/schema/policy.schema.json"),
        ),
        (
            "decision",
            include_str!("../../docs/schema/decision.schema.json"),
        ),
    ] {
        let printed = agentguard(["schema", name]).run();
        assert_eq!(printed.code, 0);
        // If this fails: agentguard schema config > docs/schema/config.schema.json, and for the
        // others: cargo xtask schema
        let published: serde_json::Value = serde_json::from_str(published).unwrap();
        let printed: serde_json::Value = serde_json::from_str(&printed.stdout).unwrap();
        assert_eq!(printed, published, "{name}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let mut child = agentguard(["schema", "decision"])
        .command()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut told = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut told)
        .unwrap();
    assert_eq!(told, "");
    assert!(child.wait().unwrap().success());
}

#[test]
fn doctor_answers_in_json_and_says_by_its_code_whether_all_is_there() {
    let bench = Bench::new();
    bench.write("policy.yaml", world::POLICY);
    let config = bench.config();
    let doctor = agentguard(["doctor", "-o", "json"])
        .with_config(&config)
        .run();
    let checks: Vec<serde_json::Value> = serde_json::from_str(&doctor.stdout).unwrap();
    let level = |name: &str| {
        let check = checks.iter().find(|check| check["name"] == name).unwrap();
        check["level"].as_str().unwrap().to_owned()
    };
    assert_eq!(level("config"), "ok");
    assert_eq!(level("policy"), "ok");
    // The bench's paths are on no such mounts.
    assert_eq!(level("cgroup"), "missing");
    assert_eq!(level("bpffs"), "missing");
    assert_eq!(doctor.code, 1);
    let missing = checks
        .iter()
        .filter(|check| check["level"] == "missing")
        .count();
    assert_eq!(
        doctor.stderr,
        format!("error: {missing} things that the guard needs are missing\n")
    );
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
    // It notices at the next line.
    served.write(decision(Verdict::Allow, ActionKind::Connect, "c.example"));
    let mut told = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut told)
        .unwrap();
    assert_eq!((child.wait().unwrap().code(), told.as_str()), (Some(0), ""));
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
         AGENT  MODE     LABELS\n\
         coder  enforce  tenant=acme\n\
         \n\
         RULE        ACTION  HANDLING  MODE     SOURCE\n\
         docs        allow   splice    enforce  policy.yaml:6\n\
         no-deletes  deny    -         enforce  policy.yaml:11\n"
    );
    let status = agentguard(["status"]).with_config(&config).run();
    assert_eq!((status.code, status.stderr.as_str()), (0, ""));
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

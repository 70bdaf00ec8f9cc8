//! What needs files alone: the configuration, the policy, the schemas, what a host has.

use crate::world::{Bench, POLICY, agentguard};

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
fn a_policy_is_checked_without_a_daemon() {
    let bench = Bench::new();
    bench.write("good.yaml", POLICY);
    let good = bench.path("good.yaml");
    let (version, warned) = {
        let checked = agentguard(["policy", "check", &good, "-o", "json"]).run();
        assert_eq!(checked.code, 0);
        // What it denies by request is not to be seen in TLS.
        assert!(
            checked
                .stderr
                .contains("warning: rule `no-deletes` has to see"),
            "{}",
            checked.stderr
        );
        let json: serde_json::Value = serde_json::from_str(&checked.stdout).unwrap();
        assert_eq!((&json["agents"], &json["rules"]), (&1.into(), &3.into()));
        (json["version"].as_str().unwrap().to_owned(), checked.stderr)
    };
    agentguard(["policy", "check", &good]).says(
        &format!("{good} is good: version {version}, 1 agent, 3 rules\n"),
        &warned,
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
            "{bad}:6:13: error: unknown value `alow`\n  hint: did you mean `allow`?\n{bad}:8:5: error: unknown key `mathc`\n  hint: did you mean `match`?\nerror: {bad} cannot be used: 2 errors\n"
        ),
        2,
    );

    let told = agentguard(["policy", "check", &bad, "-o", "json"]).run();
    assert_eq!(told.code, 2);
    let json: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(
        json["faults"][0],
        serde_json::json!({
            "severity": "error", "path": bad, "line": 6, "column": 13,
            "message": "unknown value `alow`", "hint": "did you mean `allow`?",
        })
    );
    assert_eq!(json["faults"].as_array().unwrap().len(), 2);

    let missing = bench.path("missing.yaml");
    agentguard(["policy", "check", &missing]).says(
        "",
        &format!(
            "error: cannot read the policy {missing}: No such file or directory\nhint: docs/policy.md has an example\n"
        ),
        2,
    );
}

/// Programs get what is wrong as data whatever it is, and no place where there is none.
#[test]
fn a_policy_that_cannot_be_read_has_its_fault_as_data_and_a_hint_that_fits() {
    let bench = Bench::new();
    let faults = |path: &str| {
        let told = agentguard(["policy", "check", path, "-o", "json"]).run();
        assert_eq!(told.code, 2, "{}", told.stderr);
        let json: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
        (json["faults"].clone(), told.stderr)
    };
    std::fs::create_dir(bench.path("directory")).unwrap();
    let pipe = bench.path("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    for (name, why, hint) in [
        (
            "directory",
            "Is a directory",
            "it is a directory; name a file in it",
        ),
        (
            "pipe",
            "it is a pipe",
            "name a regular file: it is read again and again, and a pipe has its text once",
        ),
        (
            "missing",
            "No such file or directory",
            "docs/policy.md has an example",
        ),
    ] {
        let path = bench.path(name);
        let (told, words) = faults(&path);
        assert_eq!(
            told,
            serde_json::json!([{
                "severity": "error", "path": path,
                "message": format!("cannot read the policy: {why}"), "hint": hint,
            }])
        );
        assert_eq!(
            words,
            format!("error: cannot read the policy {path}: {why}\nhint: {hint}\n")
        );
    }
    let path = bench.path("latin.yaml");
    std::fs::write(&path, b"version: 1\n# \xe9\n").unwrap();
    let (told, words) = faults(&path);
    assert_eq!(
        (&told[0]["line"], &told[0]["column"]),
        (&2.into(), &3.into())
    );
    assert!(words.contains(&format!("{path}:2:3: error: ")), "{words}");
    std::fs::write(&path, " ".repeat(2 << 20)).unwrap();
    let (told, _) = faults(&path);
    assert!(told[0].get("line").is_none(), "{told}");
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
fn a_policy_for_another_hosts_users_is_good_and_this_host_is_named() {
    let bench = Bench::new();
    bench.write(
        "policy.yaml",
        "version: 1\nagents:\n  - name: coder\n    users: [root, 4294967294, nobody-of-this-host]\n",
    );
    let path = bench.path("policy.yaml");
    let checked = agentguard(["policy", "check", &path]).run();
    assert_eq!(checked.code, 0, "{}", checked.stderr);
    assert_eq!(
        checked.stderr,
        format!(
            "{path}:4:31: warning: there is no user `nobody-of-this-host` on this host\n  hint: add the user, or take it out of `users`; a number is not looked up\n"
        )
    );
}

#[test]
fn a_policy_that_everybody_may_write_is_warned_of() {
    let bench = Bench::new();
    bench.write("policy.yaml", POLICY);
    let path = bench.path("policy.yaml");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(&path, mode).unwrap();
    let checked = agentguard(["policy", "check", &path]).run();
    assert_eq!(checked.code, 0, "{}", checked.stderr);
    let says =
        format!("{path}: warning: the policy {path} can be written by everybody (mode 0666)");
    assert!(checked.stderr.contains(&says), "{}", checked.stderr);
    let config = bench.config();
    let doctor = agentguard(["doctor"]).with_config(&config).run();
    assert!(
        doctor.stdout.contains("ownership is missing"),
        "{}",
        doctor.stdout
    );
}

#[test]
fn what_a_policy_includes_is_checked_with_it() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("base")).unwrap();
    bench.write(
        "policy.yaml",
        "version: 1\ninclude: [base/names.yaml]\nagents: [{name: coder}]\nrules:\n  - {id: a, match: {host: [\"@docs\"]}, action: allow}\n",
    );
    bench.write(
        "base/names.yaml",
        "version: 1\nlists: {docs: [docs.example]}\n",
    );
    let (path, names) = (bench.path("policy.yaml"), bench.path("base/names.yaml"));
    let checked = agentguard(["policy", "check", &path, "-o", "json"]).run();
    assert_eq!((checked.code, checked.stderr.as_str()), (0, ""));
    let json: serde_json::Value = serde_json::from_str(&checked.stdout).unwrap();
    assert_eq!(json["files"], serde_json::json!([path, names]));
    assert_eq!(
        (&json["rules"], &json["warnings"]),
        (&1.into(), &serde_json::json!([]))
    );

    // Whoever may write an included file may open the guard.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(&names, mode).unwrap();
    let told = format!("the policy {names} can be written by everybody (mode 0666)");
    let checked = agentguard(["policy", "check", &path]).run();
    assert_eq!(checked.code, 0, "{}", checked.stderr);
    assert!(
        checked
            .stderr
            .contains(&format!("{names}: warning: {told}")),
        "{}",
        checked.stderr
    );
    let doctor = agentguard(["doctor"]).with_config(&bench.config()).run();
    assert!(doctor.stdout.contains(&told), "{}", doctor.stdout);

    bench.write(
        "base/names.yaml",
        "version: 1\nlists: {docs: [docs.example, \"\"]}\n",
    );
    agentguard(["policy", "check", &path]).says(
        "",
        &format!("{names}:2:30: error: an empty entry\n  hint: take it out, or write what is meant\nerror: {path} cannot be used: 1 error\n"),
        2,
    );
    std::fs::write(&names, b"version: 1\n\xff").unwrap();
    agentguard(["policy", "check", &path]).says(
        "",
        &format!(
            "{path}:2:11: error: cannot read `{names}`: line 2, column 1: the policy is not UTF-8: byte 0xff\n  hint: save the file as UTF-8\nerror: {path} cannot be used: 1 error\n"
        ),
        2,
    );
    std::fs::remove_file(&names).unwrap();
    let told = format!(
        "{path}:2:11: error: cannot read `{names}`: No such file or directory\n  hint: a relative path counts from the directory of this document\n"
    );
    agentguard(["policy", "check", &path]).says(
        "",
        &format!("{told}error: {path} cannot be used: 1 error\n"),
        2,
    );
    let doctor = agentguard(["doctor"]).with_config(&bench.config()).run();
    assert!(doctor.stdout.contains("cannot read `"), "{}", doctor.stdout);
}

#[test]
fn schemas_are_the_published_ones() {
    for (name, published) in [
        (
            "config",
            include_str!("../../../docs/schema/config.schema.json"),
        ),
        (
            "policy",
            include_str!("../../../docs/schema/policy.schema.json"),
        ),
        (
            "prices",
            include_str!("../../../docs/schema/prices.schema.json"),
        ),
        (
            "tests",
            include_str!("../../../docs/schema/tests.schema.json"),
        ),
        (
            "decision",
            include_str!("../../../docs/schema/decision.schema.json"),
        ),
        (
            "budget",
            include_str!("../../../docs/schema/budget.schema.json"),
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
fn doctor_answers_in_json_and_says_by_its_code_whether_all_is_there() {
    let bench = Bench::new();
    bench.write("policy.yaml", POLICY);
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

/// The hook with which tests have the worker attack its host. `cargo xtask build --release` looks for it
/// too.
#[test]
fn a_production_build_has_no_hook_in_its_worker() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_agentguard")).unwrap();
    let name = b"AGENTGUARD_TEST_WORKER";
    let found = program.windows(name.len()).any(|window| window == name);
    assert_eq!(found, cfg!(debug_assertions));
}

const TESTS: &str = "\
version: 1
tests:
  - name: pages can be read
    agent: coder
    host: docs.example
    port: 443
    expect: {verdict: allow, rule: docs, handling: splice}
  - name: nothing is deleted
    agent: coder
    host: docs.example
    port: 80
    request: {method: DELETE, path: /a}
    expect: allow
";

/// [`POLICY`] without what makes the flow depend on its requests.
const DOCS: &str = "\
version: 1
agents: [{name: coder}]
rules:
  - {id: docs, match: {host: [docs.example], port: [443]}, action: allow}
  - {id: no-deletes, match: {host: [docs.example], port: [80], method: [DELETE]}, action: deny}
";

#[test]
fn tests_of_a_policy_run_without_a_daemon() {
    let bench = Bench::new();
    bench.write("docs.yaml", DOCS);
    bench.write("docs.test.yaml", TESTS);
    let (policy, tests) = (bench.path("docs.yaml"), bench.path("docs.test.yaml"));
    agentguard(["policy", "test", &tests]).says(
        &format!(
            "\
FAILED {tests}:8: nothing is deleted
  expected  allow
  got       deny, enforced, by rule no-deletes ({policy}:5), reason rule_deny
            Rule no-deletes forbids coder to DELETE docs.example:80/a.
  nearest   no-deletes ({policy}:5) denies: matches
            docs ({policy}:4) allows: but for its port [443]

2 tests, 1 passed
"
        ),
        "error: 1 of 2 tests failed\n",
        1,
    );
    let said = agentguard(["policy", "test", &tests, "-o", "json"]).run();
    assert_eq!(said.code, 1);
    let json: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(
        (&json["tests"], &json["passed"], &json["failed"]),
        (&2.into(), &1.into(), &1.into())
    );
    let failed = &json["results"][1];
    assert_eq!(failed["expected"], serde_json::json!({"verdict": "allow"}));
    assert_eq!(failed["got"]["rule"], "no-deletes");
    assert_eq!(
        failed["near"][1]["failed"],
        serde_json::json!(["port [443]"])
    );

    // Of another policy, where a request on port 80 is allowed and none to delete is denied.
    bench.write(
        "other.yaml",
        &DOCS
            .replace("port: [443]", "port: [80, 443]")
            .replace("DELETE", "PUT"),
    );
    let other = bench.path("other.yaml");
    agentguard(["policy", "test", &tests, "--policy", &other]).says("2 tests, 2 passed\n", "", 0);
    bench.write("named.yaml", &format!("{TESTS}policy: other.yaml\n"));
    agentguard(["policy", "test", &bench.path("named.yaml")]).says("2 tests, 2 passed\n", "", 0);
}

#[test]
fn tests_that_cannot_be_used_are_told_with_their_places() {
    let bench = Bench::new();
    bench.write("docs.yaml", DOCS);
    bench.write(
        "docs.test.yaml",
        &TESTS
            .replace("agent: coder", "agent: codr")
            .replace("rule: docs", "rule: dogs"),
    );
    let tests = bench.path("docs.test.yaml");
    let codr = "error: the policy has no agent `codr`\n  hint: did you mean `coder`?";
    agentguard(["policy", "test", &tests]).says(
        "",
        &format!(
            "{tests}:4:12: {codr}\n{tests}:7:36: error: the policy has no rule `dogs`\n  hint: did you mean `docs`?\n{tests}:9:12: {codr}\nerror: {tests} cannot be used: 3 errors\n"
        ),
        2,
    );
    // A policy that is wrong, that is not there, or that nobody names.
    bench.write("bad.yaml", "version: 1\nrules: [{id: a, action: alow}]\n");
    let bad = bench.path("bad.yaml");
    agentguard(["policy", "test", &tests, "--policy", &bad]).says(
        "",
        &format!(
            "{bad}:2:25: error: unknown value `alow`\n  hint: did you mean `allow`?\nerror: {bad} cannot be used: 1 error\n"
        ),
        2,
    );
    bench.write("lone.test.yaml", TESTS);
    let (lone, absent) = (bench.path("lone.test.yaml"), bench.path("lone.yaml"));
    agentguard(["policy", "test", &lone]).says(
        "",
        &format!("error: cannot read the policy {absent}: No such file or directory\nhint: docs/policy.md has an example\n"),
        2,
    );
    // One that is named and not there hides nothing else.
    bench.write(
        "off.yaml",
        &format!(
            "{}policy: no.yaml\n",
            TESTS.replace("agent: coder", "agnt: coder")
        ),
    );
    let off = bench.path("off.yaml");
    let said = agentguard(["policy", "test", &off]).run();
    let lines: Vec<_> = said.stderr.lines().collect();
    assert_eq!(said.code, 2);
    let misspelt = format!("{off}:4:5: error: unknown key `agnt`");
    assert_eq!(lines[0], misspelt, "{}", said.stderr);
    let last = lines.len() - 3;
    assert!(
        lines[last].starts_with(&format!("{off}:")),
        "{}",
        said.stderr
    );
    assert!(
        lines[last].ends_with(":9: error: cannot read `no.yaml`: No such file or directory"),
        "{}",
        said.stderr
    );
    bench.write("tests.yaml", TESTS);
    let tests = bench.path("tests.yaml");
    agentguard(["policy", "test", &tests]).says(
        "",
        &format!(
            "error: {tests} does not say which policy it is about\nhint: write `policy: FILE` into it, name it NAME.test.yaml beside NAME.yaml, or give --policy\n"
        ),
        2,
    );
    let missing = bench.path("missing.test.yaml");
    agentguard(["policy", "test", &missing]).says(
        "",
        &format!(
            "error: cannot read the file of tests {missing}: No such file or directory\nhint: docs/policy.md has an example\n"
        ),
        2,
    );
}

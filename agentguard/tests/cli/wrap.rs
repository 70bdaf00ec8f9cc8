//! `mcp wrap` where nobody decides: nothing goes on, and the server is started and ended as without it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const CALL: &str =
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{}}}"#;

/// Starts it before a shell that does this, in a directory where no daemon is.
fn wrap(script: &str) -> (tempfile::TempDir, Child) {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.yaml");
    std::fs::write(
        &config,
        format!("runtime_dir: {}\n", directory.path().display()),
    )
    .unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_agentguard"))
        .arg("--config")
        .arg(config)
        .args([
            "mcp", "wrap", "--server", "files", "--", "/bin/sh", "-c", script,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    (directory, child)
}

fn given(mut child: Child, input: &str) -> Output {
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn without_a_daemon_each_request_is_refused_and_nothing_arrives() {
    let (_directory, child) = wrap("while read -r line; do echo \"arrived $line\" >&2; done");
    let list = r#"{"jsonrpc":"2.0","id":"a","method":"tools/list"}"#;
    let notice = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let output = given(child, &format!("{CALL}\n{notice}\n{list}\nno\n"));
    let stdout = String::from_utf8(output.stdout).unwrap();
    let told: Vec<Value> = stdout
        .lines()
        .map(|it| serde_json::from_str(it).unwrap())
        .collect();
    assert_eq!(told.len(), 3, "{stdout}");
    assert_eq!(told[0]["result"]["isError"], true);
    assert_eq!(
        told[0]["result"]["_meta"]["agentguard/reason"],
        "daemon_lost"
    );
    assert_eq!(
        (&told[1]["id"], &told[1]["error"]["code"]),
        (&"a".into(), &403.into())
    );
    assert_eq!(told[2]["id"], Value::Null);
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success());
}

#[test]
fn what_a_server_says_is_not_passed_on_without_a_daemon() {
    let answer = r#"{"jsonrpc":"2.0","id":5,"result":{}}"#;
    let (_directory, child) = wrap(&format!("echo '{answer}'; echo words >&2; exit 7"));
    let output = child.wait_with_output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&told["id"], &told["error"]["code"]),
        (&5.into(), &403.into())
    );
    assert_eq!(output.stderr, b"words\n");
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn the_end_of_its_input_is_the_end_of_the_servers() {
    let (_directory, child) = wrap("cat >/dev/null; exit 3");
    assert_eq!(given(child, "").status.code(), Some(3));
}

#[test]
fn signals_go_on_to_the_server() {
    let (_directory, mut child) =
        wrap("trap 'exit 9' TERM; echo ready >&2; while :; do sleep 0.05; done");
    let mut ready = String::new();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    stderr.read_line(&mut ready).unwrap();
    assert_eq!(ready, "ready\n");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = child.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(9), None));
}

#[test]
fn a_hook_denies_without_a_daemon_and_what_it_cannot_read() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.yaml");
    std::fs::write(
        &config,
        format!("runtime_dir: {}\n", directory.path().display()),
    )
    .unwrap();
    let answered = |config: &std::path::Path, event: &str| {
        let child = Command::new(env!("CARGO_BIN_EXE_agentguard"))
            .arg("--config")
            .arg(config)
            .args(["hook", "claude-code"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = given(child, event);
        let stderr = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), output.stdout.len(), stderr)
    };
    let event =
        r#"{"hook_event_name":"PreToolUse","tool_name":"Bash","tool_input":{"command":"ls"}}"#;
    for (event, words) in [
        (event, "cannot be asked"),
        ("no", "can be read"),
        ("", "can be read"),
    ] {
        let (code, said, stderr) = answered(&config, event);
        assert_eq!((code, said), (Some(2), 0), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
    // Without what it is to ask by, too.
    let (code, _, stderr) = answered(&directory.path().join("none"), "");
    assert_eq!(code, Some(2), "{stderr}");
    let other = r#"{"hook_event_name":"PostToolUse","tool_name":"Bash"}"#;
    assert_eq!(answered(&config, other), (Some(0), 0, String::new()));
}

#[test]
fn a_server_that_cannot_be_started_is_told() {
    for (arguments, code, words) in [
        (
            &["--", "/nonexistent/server"][..],
            127,
            "cannot run /nonexistent/server",
        ),
        (
            &["--server", "files", "--", "/dev/null"],
            126,
            "cannot run /dev/null",
        ),
        (
            &["--", "/bin/No Name"],
            2,
            "`No Name` is not a name of a server of tools",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_agentguard"))
            .args(["mcp", "wrap"])
            .args(arguments)
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
}

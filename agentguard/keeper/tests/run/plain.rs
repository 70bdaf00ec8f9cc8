//! Without a terminal: what goes in, what comes out, how it ends.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Stdio;

use agentguard_keeper::spawn::Refusal;
use agentguard_keeper::spawn::message::ToClient;
use rustix::process::{Pid, Signal};

use crate::world::{Gives, Keeper, eventually, pipe, state};

#[test]
fn the_exit_code_and_both_outputs_are_the_commands_own() {
    let Some(keeper) = Keeper::new("plain", Gives::default()) else {
        return;
    };
    for (script, expected) in [
        (
            "echo out; echo err >&2; exit 7",
            (Some(7), "out\n", "err\n"),
        ),
        ("exit 0", (Some(0), "", "")),
        ("exit 255", (Some(255), "", "")),
    ] {
        let (code, out, err) = keeper.output(&[], &["sh", "-c", script]);
        assert_eq!((code, out.as_str(), err.as_str()), expected, "{script}");
    }
}

#[test]
fn a_command_that_cannot_be_run_ends_as_in_a_shell() {
    let Some(keeper) = Keeper::new("not run", Gives::default()) else {
        return;
    };
    let script = keeper.directory().join("script");
    std::fs::write(&script, "echo from a script; exit 3\n").unwrap();
    let script = script.to_str().unwrap().to_owned();
    for (command, code, error) in [
        (
            "no-such-command",
            127,
            "error: cannot run `no-such-command`: No such file or directory\n",
        ),
        (
            "/etc/passwd",
            126,
            "error: cannot run `/etc/passwd`: Permission denied\n",
        ),
        ("/etc", 126, "error: cannot run `/etc`: Permission denied\n"),
    ] {
        let (found, out, err) = keeper.output(&[], &[command]);
        assert_eq!((found, out.as_str(), err.as_str()), (Some(code), "", error));
    }
    // A script without an interpreter line is a shell script, as execvp has it.
    std::process::Command::new("chmod")
        .args(["+x", &script])
        .status()
        .unwrap();
    let (code, out, _) = keeper.output(&[], &[&script]);
    assert_eq!((code, out.as_str()), (Some(3), "from a script\n"));
}

/// A user whose `PATH` is somebody else's, such as root's.
#[test]
fn a_directory_that_cannot_be_searched_has_no_command() {
    let Some(keeper) = Keeper::new("search", Gives::default()) else {
        return;
    };
    let closed = tempfile::tempdir().unwrap();
    std::fs::set_permissions(closed.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let path = format!("{}:/usr/bin:/bin", closed.path().display());
    for (command, expected) in [("no-such-command", 127), ("true", 0)] {
        let output = keeper
            .client(&["--user", "daemon"], &[command])
            .current_dir("/")
            .env("PATH", &path)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(expected), "{output:?}");
    }
}

#[test]
fn a_refusal_and_a_missing_daemon_are_told_with_what_to_do() {
    let gives = Gives {
        refusal: Some(Refusal::new("user 7 may not run `coder`").hint("ask for it")),
        ..Gives::default()
    };
    let Some(keeper) = Keeper::new("refusal", gives) else {
        return;
    };
    let (code, _, err) = keeper.output(&[], &["true"]);
    assert_eq!(code, Some(1));
    assert_eq!(err, "error: user 7 may not run `coder`\nhint: ask for it\n");
    let (code, _, err) = keeper.output(&["--user", "no-such-user"], &["true"]);
    assert_eq!(code, Some(1));
    assert!(
        err.starts_with("error: there is no user `no-such-user`"),
        "{err}"
    );
    std::fs::remove_file(keeper.socket()).unwrap();
    let (code, _, err) = keeper.output(&[], &["true"]);
    assert_eq!(code, Some(1));
    let expected = format!(
        "error: no daemon at {}\nhint: start one\n",
        keeper.socket().display()
    );
    assert_eq!(err, expected);
}

#[test]
fn proxies_are_removed_and_told_and_the_rest_of_the_environment_arrives() {
    let gives = Gives {
        environment: vec![("CA".to_owned(), "ours".to_owned())],
        ..Gives::default()
    };
    let Some(keeper) = Keeper::new("environment", gives) else {
        return;
    };
    let output = keeper
        .client(&[], &["env"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("A", "b\nc")
        .env("CA", "theirs")
        .env("https_proxy", "http://proxy.example")
        .env("HTTP_PROXY", "x")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "A=b\nc\nPATH=/usr/bin:/bin\nCA=ours\n");
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "agentguard: removed HTTP_PROXY, https_proxy from the environment: traffic is governed without a proxy\n"
    );
}

#[test]
fn large_arguments_and_a_long_stream_pass() {
    let Some(keeper) = Keeper::new("large", Gives::default()) else {
        return;
    };
    let argument = "x".repeat(100_000);
    let arguments = [argument.as_str(); 10];
    let mut command = vec!["sh", "-c", "echo $#; wc -c", "sh"];
    command.extend(arguments);
    let mut client = keeper
        .client(&[], &command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = client.stdin.take().unwrap();
    stdin.write_all(&vec![b'y'; 1_000_000]).unwrap();
    drop(stdin);
    let output = client.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "10\n1000000\n");
}

#[test]
fn pipelines_end_as_they_do_without_a_guard() {
    let Some(keeper) = Keeper::new("pipelines", Gives::default()) else {
        return;
    };
    let run = keeper.run();
    for (script, expected) in [
        (format!("{run} yes | head -1"), "y\n"),
        (format!("yes | {run} head -1"), "y\n"),
        (format!("echo a | {run} cat | {run} tr a b"), "b\n"),
        // SIGPIPE is deadly, as a shell's child expects.
        (
            format!("{run} yes | head -1 >/dev/null; echo ${{PIPESTATUS[0]}}"),
            "141\n",
        ),
    ] {
        let output = std::process::Command::new("bash")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            expected,
            "{script}"
        );
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{script}");
    }
}

/// A command that answers SIGUSR1 and SIGHUP, and what it says.
struct Answering {
    client: std::process::Child,
    stdout: std::process::ChildStdout,
}

impl Answering {
    fn start(mut client: std::process::Command) -> Self {
        let mut client = client
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = client.stdout.take().unwrap();
        let mut answering = Self { client, stdout };
        answering.says("ready\n");
        answering
    }

    fn says(&mut self, text: &str) {
        let mut bytes = vec![0; text.len()];
        self.stdout.read_exact(&mut bytes).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), text);
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.client), signal).unwrap();
    }

    fn ends_by_sigterm(mut self) {
        self.signal(Signal::TERM);
        let status = self.client.wait().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGTERM));
    }
}

const ANSWERING: [&str; 3] = [
    "bash",
    "-c",
    "trap 'echo one' USR1; trap 'echo hup' HUP; echo ready; while :; do sleep 0.01; done",
];

#[test]
fn signals_are_relayed_and_the_client_ends_by_the_commands_signal() {
    let Some(keeper) = Keeper::new("signals", Gives::default()) else {
        return;
    };
    // A job of its own, as a shell starts it: only in a group that is not orphaned does SIGTSTP stop.
    let mut client = keeper.client(&[], &ANSWERING);
    client.process_group(0);
    let mut answering = Answering::start(client);
    answering.signal(Signal::USR1);
    answering.says("one\n");
    answering.signal(Signal::HUP);
    answering.says("hup\n");
    // Stopped and continued with it.
    answering.signal(Signal::TSTP);
    eventually("the client stops", || {
        state(answering.client.id()) == Some('T')
    });
    let stopped = keeper
        .members(0)
        .into_iter()
        .any(|pid| state(pid) == Some('T'));
    assert!(stopped);
    answering.signal(Signal::CONT);
    answering.signal(Signal::USR1);
    answering.says("one\n");
    answering.ends_by_sigterm();
    keeper.wait_finished(0);
}

#[test]
fn a_client_without_a_shell_that_could_continue_it_is_not_stopped() {
    let Some(keeper) = Keeper::new("orphaned", Gives::default()) else {
        return;
    };
    // The leader of a session has no parent in it: its group is orphaned.
    let client = keeper.client(&[], &ANSWERING);
    let mut leader = std::process::Command::new("setsid");
    leader.arg(client.get_program()).args(client.get_args());
    leader.current_dir("/");
    let mut answering = Answering::start(leader);
    answering.signal(Signal::TSTP);
    answering.signal(Signal::USR1);
    answering.says("one\n");
    answering.ends_by_sigterm();
    keeper.wait_finished(0);
}

#[test]
fn a_daemon_that_does_not_answer_cannot_hold_the_user() {
    let Some(keeper) = Keeper::new("silent", Gives::default()) else {
        return;
    };
    let path = keeper.directory().join("silent.sock");
    let listener = agentguard_keeper::packet::listen(&path, 0o666).unwrap();
    let mut client = std::process::Command::new(crate::world::client())
        .args([path.to_str().unwrap(), "--agent", "coder", "true"])
        .spawn()
        .unwrap();
    // It has asked, so it receives signals.
    let connection = listener.accept().unwrap();
    let asked = connection.recv::<agentguard_keeper::message::Command>();
    assert!(asked.unwrap().is_some());
    rustix::process::kill_process(Pid::from_child(&client), Signal::INT).unwrap();
    assert_eq!(client.wait().unwrap().signal(), Some(libc::SIGINT));
}

#[test]
fn a_daemon_that_goes_away_leaves_the_client_with_the_command() {
    let Some(keeper) = Keeper::new("daemon gone", Gives::default()) else {
        return;
    };
    let path = keeper.directory().join("passing.sock");
    let listener = agentguard_keeper::packet::listen(&path, 0o666).unwrap();
    let client = std::process::Command::new(crate::world::client())
        .args([path.to_str().unwrap(), "--agent", "coder", "true"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut command = std::process::Command::new("cat")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let connection = listener.accept().unwrap();
    let asked = connection.recv::<agentguard_keeper::message::Command>();
    assert!(asked.unwrap().is_some());
    let flags = rustix::process::PidfdFlags::empty();
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&command), flags).unwrap();
    connection
        .send(&ToClient::Started { kept: Vec::new() }, &[pidfd.as_fd()])
        .unwrap();
    drop(connection);
    // It waits on, for as long as the command lives.
    eventually("the client waits", || state(client.id()) == Some('S'));
    drop(command.stdin.take());
    command.wait().unwrap();
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "error: the daemon went away while the command ran: how it ended is not known\n"
    );
}

#[test]
fn a_killed_monitor_ends_the_run() {
    let Some(keeper) = Keeper::new("killed monitor", Gives::default()) else {
        return;
    };
    let mut client = keeper
        .client(&[], &["sh", "-c", "trap '' HUP; echo ready; sleep 1000"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    client
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    let monitor = keeper.monitor(0);
    rustix::process::kill_process(monitor, Signal::KILL).unwrap();
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "error: the command's monitor was killed, and the command with it\n"
    );
    keeper.wait_finished(0);
    eventually("the run's cgroup empties", || keeper.members(0).is_empty());
}

#[test]
fn what_was_ignored_stays_ignored() {
    let Some(keeper) = Keeper::new("ignored", Gives::default()) else {
        return;
    };
    let run = keeper.run();
    let show = "grep SigIgn /proc/self/status";
    for (script, expected) in [
        (format!("{run} {show}"), "SigIgn:\t0000000000000000\n"),
        (
            format!("trap '' HUP INT; {run} {show}"),
            "SigIgn:\t0000000000000003\n",
        ),
    ] {
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            expected,
            "{script}"
        );
    }
}

#[test]
fn a_killed_client_takes_its_command_along_even_a_stubborn_one() {
    let Some(keeper) = Keeper::new("killed client", Gives::default()) else {
        return;
    };
    for (run, script) in [
        (0, "echo ready; sleep 1000 & wait"),
        (1, "trap '' HUP; echo ready; kill -STOP $$"),
    ] {
        let (mut reader, writer) = pipe();
        let mut client = keeper
            .client(&[], &["sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(writer)
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        reader.read_exact(&mut ready).unwrap();
        assert!(keeper.members(run).len() >= 2);
        client.kill().unwrap();
        client.wait().unwrap();
        keeper.wait_finished(run);
        eventually("the run's cgroup empties", || {
            keeper.members(run).is_empty()
        });
    }
}

#[test]
fn background_processes_outlive_the_command() {
    let Some(keeper) = Keeper::new("background", Gives::default()) else {
        return;
    };
    let script = "sleep 1000 >/dev/null 2>&1 & echo $!";
    let (code, out, _) = keeper.output(&[], &["sh", "-c", script]);
    assert_eq!(code, Some(0));
    keeper.wait_finished(0);
    let sleeper: u32 = out.trim().parse().unwrap();
    assert_eq!(keeper.members(0), [sleeper]);
}

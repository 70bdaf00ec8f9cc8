//! What a command has, and what it has not.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use agentguard_keeper::spawn::{Instruction, SeccompFilter};

use crate::world::{Gives, Keeper};

#[test]
fn a_user_gets_its_own_rights_and_no_capability() {
    let Some(keeper) = Keeper::new("credentials", Gives::default()) else {
        return;
    };
    let show = "id -u; id -g; id -G; echo $HOME $USER; umask; grep -E '^(NoNewPrivs|Cap(Inh|Prm|Eff|Bnd|Amb))' /proc/self/status; ls /proc/self/fd | wc -l; cat /proc/self/oom_score_adj";
    let mut client = keeper.client(&["--user", "daemon"], &["sh", "-c", show]);
    let output = client.stdin(Stdio::null()).output().unwrap();
    let none = "0000000000000000";
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!(
            "1\n1\n1\n/usr/sbin daemon\n0022\nCapInh:\t{none}\nCapPrm:\t{none}\nCapEff:\t{none}\nCapBnd:\t{none}\nCapAmb:\t{none}\nNoNewPrivs:\t1\n4\n{}",
            fs::read_to_string("/proc/self/oom_score_adj").unwrap()
        )
    );
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn a_caller_that_is_not_root_runs_as_itself_with_its_own_limits() {
    let Some(keeper) = Keeper::new("caller", Gives::default()) else {
        return;
    };
    // The client must be reachable for the user.
    let client = keeper.directory().join("client");
    fs::copy(crate::world::client(), &client).unwrap();
    let script = format!(
        "ulimit -Sn 222; ulimit -Hn 333; umask 027; cd /tmp; exec nice -n 7 {} {} --agent coder -- sh -c 'id -u; id -G; ulimit -Hn; ulimit -Sn; nice; umask; pwd'",
        client.display(),
        keeper.socket().display()
    );
    let output = Command::new("setpriv")
        .args([
            "--reuid=1",
            "--regid=1",
            "--groups=1,33,44",
            "bash",
            "-c",
            &script,
        ])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "1\n1 33 44\n333\n222\n7\n0027\n/tmp\n"
    );
    let script = format!(
        "{} {} --agent coder --user root -- id",
        client.display(),
        keeper.socket().display()
    );
    let output = Command::new("setpriv")
        .args([
            "--reuid=1",
            "--regid=1",
            "--clear-groups",
            "sh",
            "-c",
            &script,
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        output
            .stderr
            .starts_with(b"error: only root may run a command as `root`\n")
    );
}

#[test]
fn root_keeps_what_administration_needs_and_nothing_that_leads_out() {
    let Some(keeper) = Keeper::new("root", Gives::default()) else {
        return;
    };
    let show = "grep CapEff /proc/self/status; unshare -n true 2>/dev/null || echo no namespaces";
    let (code, out, _) = keeper.output(&[], &["sh", "-c", show]);
    assert_eq!(code, Some(0));
    assert_eq!(out, "CapEff:\t00000000800405fb\nno namespaces\n");
}

#[test]
fn a_directory_that_the_user_may_not_enter_is_told() {
    let Some(keeper) = Keeper::new("directory", Gives::default()) else {
        return;
    };
    let closed = tempfile::tempdir().unwrap();
    let only_root = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(closed.path(), only_root).unwrap();
    let output = keeper
        .client(&["--user", "daemon"], &["pwd"])
        .current_dir(closed.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(
        err.starts_with("error: cannot enter the current directory: Permission denied\nhint: "),
        "{err}"
    );
}

#[test]
fn the_command_and_its_children_are_in_the_runs_cgroup() {
    let Some(keeper) = Keeper::new("cgroup", Gives::default()) else {
        return;
    };
    let (_, out, _) = keeper.output(&[], &["sh", "-c", "(cat /proc/self/cgroup)"]);
    let line = out.lines().find(|line| line.starts_with("0::")).unwrap();
    assert!(line.ends_with("/run-0"), "{line}");
}

#[test]
fn the_network_namespace_of_the_admission_is_entered() {
    let (Some(_), Ok(mut sleeper)) = (
        Keeper::new("namespace", Gives::default()),
        Command::new("unshare")
            .args(["-n", "sh", "-c", "echo ready; read x"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn(),
    ) else {
        return;
    };
    let mut ready = [0; 6];
    std::io::Read::read_exact(sleeper.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let network = File::open(format!("/proc/{}/ns/net", sleeper.id())).unwrap();
    drop(sleeper.stdin.take());
    sleeper.wait().unwrap();
    let inode = network.metadata().unwrap().ino();
    let gives = Gives {
        network: Some(network),
        ..Gives::default()
    };
    let keeper = Keeper::new("namespace", gives).unwrap();
    let (_, out, _) = keeper.output(&[], &["readlink", "/proc/self/ns/net"]);
    assert_eq!(out, format!("net:[{inode}]\n"));
}

#[test]
fn an_overlay_is_seen_by_the_command_alone_and_cannot_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let (source, target) = (
        directory.path().join("source"),
        directory.path().join("target"),
    );
    fs::write(&source, "ours").unwrap();
    fs::write(&target, "theirs").unwrap();
    let gives = Gives {
        overlays: vec![(source.clone(), target.clone())],
        ..Gives::default()
    };
    let Some(keeper) = Keeper::new("overlay", gives) else {
        return;
    };
    let script = format!(
        "cat {0}; echo x 2>/dev/null > {0} || echo refused",
        target.display()
    );
    let (_, out, err) = keeper.output(&[], &["bash", "-c", &script]);
    assert_eq!(out, "oursrefused\n", "{err}");
    assert_eq!(fs::read_to_string(&target).unwrap(), "theirs");
    assert_eq!(fs::read_to_string(&source).unwrap(), "ours");
}

#[test]
fn a_default_is_set_where_the_caller_has_not_and_said_where_it_differs() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name| directory.path().join(name);
    let (source, target) = (path("source"), path("target"));
    fs::write(&source, "ours").unwrap();
    fs::write(&target, "theirs").unwrap();
    let names = ["UNSET", "SAME", "COVERED", "OTHER", "EMPTY"];
    let gives = Gives {
        defaults: names
            .map(|name| (name.to_owned(), "/ours".to_owned()))
            .into(),
        overlays: vec![(source, target.clone())],
        ..Gives::default()
    };
    let Some(keeper) = Keeper::new("defaults", gives) else {
        return;
    };
    let script = r#"printf '%s ' "$UNSET" "$SAME" "$COVERED" "$OTHER" "[$EMPTY]""#;
    let output = keeper
        .client(&[], &["bash", "-c", script])
        .env("SAME", "/ours")
        .env("COVERED", &target)
        .env("OTHER", "/other")
        .env("EMPTY", "")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(out, format!("/ours /ours {} /other [] ", target.display()));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "agentguard: left OTHER, EMPTY as set: connections are inspected, so what is named there must hold the guard's certificate authority (see `agentguard ca export`)\n"
    );
}

/// `mkdir` and `mkdirat` answer EPERM, everything else passes (x86-64 and aarch64 numbers).
fn no_directories() -> SeccompFilter {
    let step = |code, jump_true, jump_false, operand| Instruction {
        code,
        jump_true,
        jump_false,
        operand,
    };
    let number = |number: libc::c_long| u32::try_from(number).unwrap();
    SeccompFilter::new(&[
        step(0x20, 0, 0, 0),
        step(0x15, 1, 0, number(libc::SYS_mkdirat)),
        step(0x15, 0, 1, 83),
        step(0x06, 0, 0, 0x0005_0001),
        step(0x06, 0, 0, 0x7fff_0000),
    ])
    .unwrap()
}

#[test]
fn the_system_call_filter_of_the_admission_is_in_force() {
    let gives = Gives {
        seccomp: Some(no_directories),
        ..Gives::default()
    };
    let Some(keeper) = Keeper::new("seccomp", gives) else {
        return;
    };
    let directory = keeper.directory().join("new");
    let (code, _, err) = keeper.output(&[], &["mkdir", directory.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(err.contains("Operation not permitted"), "{err}");
    assert!(!directory.exists());
}

#[test]
fn the_monitor_has_forgotten_the_keepers_memory() {
    let Some(keeper) = Keeper::new("memory", Gives::default()) else {
        return;
    };
    // In the memory of this process, which is the keeper's here, but not in the program's text.
    let secret: Vec<u8> = (0..64_u8).map(|n| n.wrapping_mul(37) ^ 0xa5).collect();
    let copies: Vec<Vec<u8>> = (0..50).map(|_| secret.repeat(100)).collect();
    let holds = |pid: u32| {
        let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        fs::read_to_string(format!("/proc/{pid}/maps"))
            .unwrap()
            .lines()
            .filter_map(|line| {
                let (range, rest) = line.split_once(' ')?;
                let (start, end) = range.split_once('-')?;
                let start = u64::from_str_radix(start, 16).ok()?;
                let end = u64::from_str_radix(end, 16).ok()?;
                rest.starts_with('r').then_some((start, end))
            })
            .any(|(start, end)| {
                let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
                let read = std::os::unix::fs::FileExt::read_at(&memory, &mut bytes, start);
                read.is_ok_and(|length| {
                    bytes[..length]
                        .windows(secret.len())
                        .any(|window| window == secret)
                })
            })
    };
    let mut client = keeper
        .client(&[], &["sh", "-c", "echo ready; read x"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(client.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let monitor = keeper.monitor(0).as_raw_nonzero().get().unsigned_abs();
    assert!(holds(std::process::id()));
    // It runs beside the command: it may not be done yet.
    crate::world::eventually("the monitor forgets", || !holds(monitor));
    // And it still does its work.
    drop(client.stdin.take());
    assert_eq!(client.wait().unwrap().code(), Some(1));
    assert_eq!(copies.len(), 50);
}

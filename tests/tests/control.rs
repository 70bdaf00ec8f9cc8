//! Who may ask the guard, with the program's own commands run as other users.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where it cannot go on, helpers included"
)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use agentguard_tests::{Guard, Output, World};

/// No user and no group of any host.
const USER: &str = "64299";
const READERS: u32 = 64_301;

const POLICY: &str = "version: 1\nagents: [{name: coder}]\nrules: []\n";

/// A command of the program's, by a user with these groups.
fn ask(world: &World, guard: &Guard<'_>, groups: &str, command: &[&str]) -> Output {
    let program = std::env::var_os("AGENTGUARD_BIN").unwrap_or_else(|| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/../target/debug/agentguard").into()
    });
    // Where another user can execute it.
    let copy = world.directory().join("agentguard");
    if !copy.exists() {
        fs::copy(program, &copy).unwrap();
    }
    let call = world.host().command("setpriv");
    let call = call
        .args(["--reuid", USER, "--regid", USER, groups])
        .arg("--");
    let call = call.arg(copy).args(["--config"]).arg(guard.config());
    call.args(command).run().unwrap()
}

#[test]
fn members_of_agentguard_read_ask_everything_and_change_nothing() {
    let world = World::new("readers").start().unwrap();
    let groups = world.directory().join("group");
    let mut text = fs::read_to_string("/etc/group").unwrap();
    text += &format!("agentguard-read:x:{READERS}:\n");
    fs::write(&groups, text).unwrap();
    fs::set_permissions(&groups, fs::Permissions::from_mode(0o644)).unwrap();
    let guard = world.guard().policy(POLICY).cover(&groups, "/etc/group");
    let guard = guard.start().unwrap();
    let socket = fs::metadata(guard.runtime_dir().join("control.sock")).unwrap();
    assert_eq!((socket.mode() & 0o777, socket.gid()), (0o660, READERS));

    let member = format!("--groups={READERS}");
    for command in [
        &["status"][..],
        &["verdicts"],
        &["agent", "list"],
        &["policy", "show"],
    ] {
        let told = ask(&world, &guard, &member, command);
        assert_eq!(told.code(), 0, "{told}");
        let told = ask(&world, &guard, "--clear-groups", command);
        assert_eq!(told.code(), 1, "{told}");
        assert!(told.stderr.contains("not allowed to open"), "{told}");
        assert!(told.stderr.contains("agentguard-read"), "{told}");
    }
    // To change something, or to run an agent, takes root.
    for command in [
        &["policy", "reload"][..],
        &["ca", "rotate"],
        &["agent", "remove", "coder"],
        &["run", "--agent", "coder", "--", "true"],
    ] {
        let told = ask(&world, &guard, &member, command);
        assert_eq!(told.code(), 1, "{told}");
        let why = ["not allowed", "you may not use the daemon"];
        let said = why.iter().any(|why| told.stderr.contains(why));
        assert!(said && told.stderr.contains("hint: "), "{told}");
    }
    // As an agent, the same user with the same group is nobody.
    let cgroup = guard.agent_cgroup("coder").unwrap();
    let copy = world.directory().join("agentguard");
    let config = guard.config();
    let words = ["setpriv", "--reuid", USER, "--regid", USER, &member, "--"];
    let words = words.map(std::ffi::OsString::from).into_iter();
    let words = words.chain([
        copy.into(),
        "--config".into(),
        config.into(),
        "status".into(),
    ]);
    let told = guard.within(&cgroup, words).run().unwrap();
    assert_eq!(told.code(), 1, "{told}");
    let why = "an agent may not ask its own guard";
    assert!(told.stderr.contains(why), "{told}");
}

#[test]
fn without_the_group_only_root_asks() {
    let world = World::new("no-readers").start().unwrap();
    let guard = world.guard().policy(POLICY).start().unwrap();
    let socket = fs::metadata(guard.runtime_dir().join("control.sock")).unwrap();
    assert_eq!((socket.mode() & 0o777, socket.gid()), (0o600, 0));
    let told = ask(&world, &guard, &format!("--groups={READERS}"), &["status"]);
    assert_eq!(told.code(), 1, "{told}");
    assert!(told.stderr.contains("not allowed to open"), "{told}");
}

//! `agent remove` where not all of it can be done.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use agentguard_tests::{Guard, Output, Puppet, World, leftover, wait_until};

use super::world;

/// How long something may take that has to happen.
const SOON: Duration = Duration::from_secs(10);

const POLICY: &str = "
version: 1
agents: [{name: coder}]
";

const CANARY: &str = "tcp('c', '192.0.2.66', 80)";

fn say(guard: &Guard<'_>, words: &[&str]) -> Output {
    guard.cli().args(words).run().unwrap()
}

fn remove(guard: &Guard<'_>) -> Output {
    say(guard, &["agent", "remove", "coder"])
}

/// Three cgroups that are the agent's, and a client in each.
fn adopted(world: &World, guard: &Guard<'_>) -> [(PathBuf, Puppet); 3] {
    ["one", "two", "three"].map(|kind| {
        let mount = leftover::cgroup_mount().unwrap();
        let cgroup = mount.join(format!("{}.{kind}", world.tag().directory()));
        fs::create_dir(&cgroup).unwrap();
        let path = cgroup.to_str().unwrap();
        let added = say(guard, &["agent", "add", "coder", "--cgroup", path]);
        added.success().unwrap();
        let mut client = Puppet::start(world, |words| guard.within(&cgroup, words)).unwrap();
        client.fails(CANARY, "EPERM");
        (cgroup, client)
    })
}

fn wait_free(client: &mut Puppet) {
    // The kernel takes the programs off in the background.
    wait_until("it is free", SOON, || {
        let told = client.ask(CANARY).unwrap();
        (told["error"] == "ECONNREFUSED").then_some(())
    })
    .unwrap();
}

#[test]
fn what_cannot_be_removed_is_told_with_what_was_and_is_governed_on() {
    let world = world("removed");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let [mut first, mut held, mut last] = adopted(&world, &guard);
    // A program's pin that the daemon cannot remove, because something is mounted on it.
    let id = fs::metadata(&held.0).unwrap().ino();
    let pin = guard.bpffs().join(format!("links/{id}/egress"));
    let daemon = guard.id().unwrap().to_string();
    let enter = || world.host().command("nsenter").args(["-m", "-t", &daemon]);
    let cover = enter().args(["mount", "--bind", "/dev/full"]).arg(&pin);
    cover.run().unwrap().success().unwrap();

    for again in [false, true] {
        let said = remove(&guard);
        assert_eq!(said.code(), 1, "{said}");
        let listed = |part: &str| said.stderr.contains(part);
        let not = format!("not removed, and governed on: {}: ", held.0.display());
        assert!(listed(&not), "{said}");
        assert!(listed("cannot remove ") && listed("hint: give the command again"));
        for (cgroup, client) in [&mut first, &mut last] {
            // What is done is done.
            assert_eq!(listed(cgroup.to_str().unwrap()), !again, "{said}");
            wait_free(client);
        }
        assert_eq!(listed("no longer governed as coder: "), !again, "{said}");
        held.1.fails(CANARY, "EPERM");
        let links = fs::read_dir(pin.parent().unwrap()).unwrap();
        assert_eq!(links.count(), 16, "all programs are there again");
        let shown = say(&guard, &["agent", "show", "coder"]).stdout;
        assert!(shown.contains(held.0.to_str().unwrap()), "{shown}");
        assert!(!shown.contains(first.0.to_str().unwrap()), "{shown}");
    }

    enter().arg("umount").arg(&pin).run().unwrap();
    remove(&guard).success().unwrap();
    wait_free(&mut held.1);
}

#[test]
fn what_cannot_be_written_down_is_not_removed() {
    let world = world("removed-unwritten");
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let mut adopted = adopted(&world, &guard);
    let temporary = guard.state_dir().join("keeper/agents.new");
    // Nothing is written meanwhile.
    wait_until("the adoptions are recorded", SOON, || {
        let written = fs::read_to_string(temporary.with_extension("json")).ok()?;
        (!written.contains("deeds")).then_some(())
    })
    .unwrap();
    fs::create_dir(&temporary).unwrap();
    let said = remove(&guard);
    assert_eq!(said.code(), 1, "{said}");
    assert!(said.stderr.contains("cannot write "), "{said}");
    for (_, client) in &mut adopted {
        client.fails(CANARY, "EPERM");
    }
    fs::remove_dir(&temporary).unwrap();
    remove(&guard).success().unwrap();
    guard.kill().unwrap();
    guard.start().unwrap();
    for (_, client) in &mut adopted {
        wait_free(client);
    }
}

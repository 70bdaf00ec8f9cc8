//! Adopted cgroups that are removed and made again, as service managers do with each start, and
//! quarantines that the kernel did not take at first.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentguard_tests::{Guard, Output, Puppet, World, leftover, wait_until};
use serde_json::Value;

use super::{SITE, world};

/// How long something may take that has to happen.
const SOON: Duration = Duration::from_secs(10);

const POLICY: &str = "
version: 1
agents: [{name: coder}, {name: helper}]
rules:
  - id: api
    match: {host: [api.example.com], port: [80]}
    action: allow
";

const CANARY: &str = "tcp('c', '192.0.2.66', 80)";

/// A cgroup of somebody else's, which the world removes.
fn foreign(world: &World, kind: &str) -> PathBuf {
    let mount = leftover::cgroup_mount().unwrap();
    mount.join(format!("{}.{kind}", world.tag().directory()))
}

fn say(guard: &Guard<'_>, words: &[&str]) -> Output {
    guard.cli().args(words).run().unwrap()
}

fn add(guard: &Guard<'_>, agent: &str, cgroup: &Path) {
    let path = cgroup.to_str().unwrap();
    let added = say(guard, &["agent", "add", agent, "--cgroup", path]);
    added.success().unwrap();
}

fn inside(world: &World, guard: &Guard<'_>, cgroup: &Path) -> Puppet {
    Puppet::start(world, |words| guard.within(cgroup, words)).unwrap()
}

/// Its processes have been ended.
fn remove(cgroup: &Path) {
    wait_until("the cgroup to be empty", SOON, || {
        fs::remove_dir(cgroup).ok()
    })
    .unwrap();
}

fn warnings(guard: &Guard<'_>, agent: &str) -> String {
    let shown = say(guard, &["agent", "show", agent, "-o", "json"]).stdout;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    shown["warnings"].to_string()
}

fn wait_warning(guard: &Guard<'_>, agent: &str, part: &str, there: bool) {
    wait_until("what is told of the agent", SOON, || {
        (warnings(guard, agent).contains(part) == there).then_some(())
    })
    .unwrap();
}

fn wait_governed(client: &mut Puppet) {
    wait_until("the new cgroup to be governed", SOON, || {
        let told = client.ask(CANARY).unwrap();
        (told["error"] == "EPERM").then_some(())
    })
    .unwrap();
}

#[test]
fn an_adopted_cgroup_that_is_made_again_is_governed_again_and_stays_quarantined() {
    let world = world("returned");
    let (plain, cut) = (foreign(&world, "plain"), foreign(&world, "cut"));
    let guard = world.guard().policy(POLICY).start().unwrap();
    for (agent, cgroup) in [("coder", &plain), ("helper", &cut)] {
        fs::create_dir(cgroup).unwrap();
        add(&guard, agent, cgroup);
        inside(&world, &guard, cgroup).fails(CANARY, "EPERM");
    }
    say(&guard, &["agent", "quarantine", "helper"])
        .success()
        .unwrap();
    for cgroup in [&plain, &cut] {
        remove(cgroup);
    }
    for agent in ["coder", "helper"] {
        wait_warning(&guard, agent, "is not there now", true);
    }
    for told in [
        say(&guard, &["agent", "list"]).stderr,
        say(&guard, &["status"]).stdout,
    ] {
        let path = plain.to_str().unwrap();
        assert!(
            told.contains(path) && told.contains("is not there now"),
            "{told}"
        );
    }

    // Once slowly, once faster than anybody looks.
    for _ in 0..2 {
        for cgroup in [&plain, &cut] {
            fs::create_dir(cgroup).unwrap();
        }
        let mut client = inside(&world, &guard, &plain);
        wait_governed(&mut client);
        client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
        let mut helper = inside(&world, &guard, &cut);
        wait_governed(&mut helper);
        let canary = world.canary().unwrap();
        helper.fails(&format!("resolve('{SITE}', 4)"), "EAI_AGAIN");
        for client in [&mut client, &mut helper] {
            client.fails(CANARY, "EPERM");
        }
        assert_eq!(world.canary().unwrap(), canary);
        for agent in ["coder", "helper"] {
            wait_warning(&guard, agent, "is not there now", false);
        }
        drop((client, helper));
        for cgroup in [&plain, &cut] {
            remove(cgroup);
        }
    }
    // What is gone can be taken off the list, and then nobody governs what is made there.
    let remove = |path| say(&guard, &["agent", "remove", "coder", "--cgroup", path]);
    let told = remove(cut.to_str().unwrap());
    assert_eq!(told.code(), 1, "{told}");
    assert!(told.stderr.contains("was not added as coder"), "{told}");
    remove(plain.to_str().unwrap()).success().unwrap();
    wait_warning(&guard, "coder", "is not there now", false);
    fs::create_dir(&plain).unwrap();
    fs::create_dir(&cut).unwrap();
    wait_governed(&mut inside(&world, &guard, &cut));
    inside(&world, &guard, &plain).fails(CANARY, "ECONNREFUSED");
}

#[test]
fn what_is_made_again_while_no_daemon_runs_or_comes_after_its_start_is_governed() {
    let world = world("returned-late");
    let (plain, cut) = (foreign(&world, "plain"), foreign(&world, "cut"));
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    for (agent, cgroup) in [("coder", &plain), ("helper", &cut)] {
        fs::create_dir(cgroup).unwrap();
        add(&guard, agent, cgroup);
    }
    say(&guard, &["agent", "quarantine", "helper"])
        .success()
        .unwrap();
    guard.stop().unwrap();
    remove(&plain);
    remove(&cut);
    fs::create_dir(&cut).unwrap();
    let mut helper = inside(&world, &guard, &cut);
    // Nobody governs it, so the next daemon has something to do.
    helper.fails(CANARY, "ECONNREFUSED");

    guard.start().unwrap();
    helper.fails(CANARY, "EPERM");
    helper.fails(&format!("resolve('{SITE}', 4)"), "EAI_AGAIN");
    wait_warning(&guard, "coder", "is not there now", true);
    // One more start does not forget it either.
    guard.kill().unwrap();
    guard.start().unwrap();
    helper.fails(CANARY, "EPERM");
    fs::create_dir(&plain).unwrap();
    let mut client = inside(&world, &guard, &plain);
    wait_governed(&mut client);
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    say(&guard, &["agent", "release", "helper"])
        .success()
        .unwrap();
    helper.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    helper.fails(CANARY, "EPERM");
}

fn is_frozen(cgroup: &Path) -> bool {
    let value = fs::read_to_string(cgroup.join("cgroup.freeze")).unwrap();
    value.trim() == "1"
}

/// What the daemon cannot write to is covered for it alone by a device that takes nothing.
#[test]
fn what_a_quarantine_could_not_stop_is_told_and_stopped_as_soon_as_it_can_be_and_let_go_on_likewise()
 {
    let world = world("returned-frozen");
    let cgroup = foreign(&world, "stopped");
    fs::create_dir(&cgroup).unwrap();
    let file = cgroup.join("cgroup.freeze");
    let guard = world.guard().policy(POLICY).cover("/dev/full", &file);
    let guard = guard.start().unwrap();
    add(&guard, "coder", &cgroup);
    let mut client = inside(&world, &guard, &cgroup);
    let uncover = |guard: &Guard<'_>, cover: bool| {
        let daemon = guard.id().unwrap().to_string();
        let enter = world.host().command("nsenter").args(["-m", "-t", &daemon]);
        let enter = match cover {
            true => enter.args(["mount", "--bind", "/dev/full"]),
            false => enter.arg("umount"),
        };
        enter.arg(&file).run().unwrap().success().unwrap();
    };

    let said = say(&guard, &["agent", "quarantine", "coder", "--freeze"]);
    assert_eq!(said.code(), 1, "{said}");
    for told in [
        "error: coder is quarantined; ",
        "not done yet, and tried again every second: cannot stop the processes of ",
        "hint: `agentguard agent show coder` tells",
    ] {
        assert!(said.stderr.contains(told), "{said}");
    }
    assert!(!is_frozen(&cgroup));
    client.fails(CANARY, "EPERM");
    wait_warning(&guard, "coder", "cannot stop the processes of", true);
    uncover(&guard, false);
    wait_until("it is stopped", SOON, || is_frozen(&cgroup).then_some(())).unwrap();
    wait_warning(&guard, "coder", "cannot stop the processes of", false);

    uncover(&guard, true);
    client.begin("'thawed'").unwrap();
    for _ in 0..2 {
        let said = say(&guard, &["agent", "release", "coder"]);
        assert_eq!(said.code(), 1, "{said}");
        assert!(
            said.stderr.contains("is released, but not everywhere yet"),
            "{said}"
        );
        assert!(is_frozen(&cgroup));
    }
    uncover(&guard, false);
    assert_eq!(client.answer("thawed").unwrap(), "thawed");
    wait_warning(&guard, "coder", "cannot let go on", false);
}

#[test]
fn a_release_lets_go_on_what_belongs_to_nobody_any_more() {
    let world = world("returned-thawed");
    let policy = POLICY.replace("{name: coder}", "{name: coder, cgroup: ['jobs/*']}");
    let mut guard = world.guard().policy(&policy).start().unwrap();
    let cgroup = guard.cgroup().join("jobs/one");
    fs::create_dir_all(&cgroup).unwrap();
    wait_until("it is the agent's", SOON, || {
        let shown = say(&guard, &["agent", "show", "coder"]).stdout;
        shown.contains("jobs/one").then_some(())
    })
    .unwrap();
    say(&guard, &["agent", "quarantine", "coder", "--freeze"])
        .success()
        .unwrap();
    assert!(is_frozen(&cgroup));
    guard.stop().unwrap();
    fs::write(guard.policy(), POLICY).unwrap();
    guard.start().unwrap();
    assert!(is_frozen(&cgroup));
    say(&guard, &["agent", "release", "coder"])
        .success()
        .unwrap();
    assert!(!is_frozen(&cgroup));
}

//! Agents that are much to look at: what is not looked at is told, and hurts nobody else.

use std::fs;
use std::path::{Path, PathBuf};

use agentguard_tests::{Puppet, address, leftover, wait_until};
use serde_json::json;

use super::{
    POLICY, SITE, SOON, add, container, crowd, empty, foreign, inside, listened_in, say, status,
    wait_listened_in, wait_warning, warnings, warnings_of, world,
};

/// More cgroups than are looked through of one agent.
const CGROUPS: usize = 4200;

/// Makes very many, and gives the one that is listed last, which is not looked at.
fn many(cgroup: &Path) -> PathBuf {
    for number in 0..CGROUPS {
        fs::create_dir(cgroup.join(format!("many-{number}"))).unwrap();
    }
    let listed = fs::read_dir(cgroup).unwrap().map(Result::unwrap);
    let children = listed.filter(|it| it.file_type().unwrap().is_dir());
    children.last().unwrap().path()
}

fn remove(cgroup: &Path) {
    for number in 0..CGROUPS {
        let _ = fs::remove_dir(cgroup.join(format!("many-{number}")));
    }
}

#[test]
fn one_that_is_not_looked_through_to_the_end_keeps_its_listeners_and_others_get_theirs() {
    let world = world("adopt-bounds");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let (coder, helper) = (
        guard.agent_cgroup("coder").unwrap(),
        guard.agent_cgroup("helper").unwrap(),
    );
    let namespaces = [1, 2].map(|number| container(&world, number));
    let mut client = inside(&world, &guard, &coder, &namespaces[0]);
    let mut other = inside(&world, &guard, &helper, &namespaces[1]);
    client.gives("1", 1);
    other.gives("1", 1);
    wait_listened_in(&guard, 3);
    let last = many(&coder);
    let told = "not looked through to the end: more than 4096 cgroups";
    wait_warning(&guard, told);
    let said = say(&guard, &["status"]).stdout;
    assert!(said.contains(told), "{said}");
    assert_eq!(warnings_of(&guard, "helper").concat().find("through"), None);
    // From here on nobody sees it in its namespace.
    fs::write(last.join("cgroup.procs"), client.id().to_string()).unwrap();
    for _ in 0..3 {
        fs::create_dir_all(helper.join("crowd")).unwrap();
        let processes = crowd(&guard, &helper.join("crowd"), 2);
        wait_listened_in(&guard, 5);
        empty(&helper.join("crowd"));
        wait_listened_in(&guard, 3);
        drop(processes);
    }
    for client in [&mut client, &mut other] {
        client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
        client.fails("tcp('c', '192.0.2.66', 80)", "EPERM");
    }
    // Everything there again: nothing is left of it.
    fs::write(coder.join("cgroup.procs"), client.id().to_string()).unwrap();
    remove(&coder);
    wait_until("the warning's end", SOON, || {
        let gone = !warnings(&guard).iter().any(|it| it.contains(told));
        gone.then_some(())
    })
    .unwrap();
    drop(client);
    wait_listened_in(&guard, 2);
    other.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
}

#[test]
fn a_crowd_of_namespaces_is_bounded_for_its_agent_alone() {
    let world = world("adopt-crowded");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let cgroup = guard.agent_cgroup("coder").unwrap();
    let helper = guard.agent_cgroup("helper").unwrap();
    let namespaces = [1, 2].map(|number| container(&world, number));
    let mut other = inside(&world, &guard, &helper, &namespaces[0]);
    other.gives("1", 1);
    let processes = crowd(&guard, &cgroup, 270);
    wait_until("that they are too many", 3 * SOON, || {
        let told = "not looked through to the end: more than 256 network namespaces";
        warnings(&guard)
            .iter()
            .any(|it| it.contains(told))
            .then_some(())
    })
    .unwrap();
    wait_listened_in(&guard, 1 + 1 + 64);
    let mut new = inside(&world, &guard, &helper, &namespaces[1]);
    wait_listened_in(&guard, 1 + 2 + 64);
    for client in [&mut other, &mut new] {
        client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    }
    empty(&cgroup);
    wait_listened_in(&guard, 3);
    drop(processes);
}

#[test]
fn routes_without_end_are_not_read_to_their_end_and_lead_nowhere_directly() {
    let world = world("adopt-routes");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let (coder, helper) = (
        guard.agent_cgroup("coder").unwrap(),
        guard.agent_cgroup("helper").unwrap(),
    );
    let mut client = Puppet::start(&world, |words| {
        let unshare = ["unshare".into(), "-n".into()];
        guard.within(&coder, unshare.into_iter().chain(words))
    })
    .unwrap();
    let batch = world.directory().join("routes");
    let routes = (0..6000).map(|number| {
        let (third, fourth) = (number / 250, number % 250);
        format!(
            "route add 10.9.{third}.{fourth}/32 dev lo\nroute add fd00::{number:x}/128 dev lo\n"
        )
    });
    fs::write(&batch, routes.collect::<String>()).unwrap();
    let order = format!(
        "os.system('ip link set lo up && ip -batch {}')",
        batch.display()
    );
    client.gives(&order, 0);
    wait_warning(
        &guard,
        "in a network namespace there are too many routes to find one that leads out",
    );
    wait_listened_in(&guard, 2);
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    // With a way out in front of as many it is found: they cost nobody anything.
    let namespace = container(&world, 1);
    let mut other = inside(&world, &guard, &helper, &namespace);
    other.gives(&order, 0);
    wait_listened_in(&guard, 3);
    other.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    let told = warnings_of(&guard, "helper").concat();
    assert!(!told.contains("routes"), "{told}");
}

#[test]
fn what_was_not_looked_through_to_the_end_is_adopted_with_a_word_or_not_at_all() {
    let world = world("adopt-omitted");
    let cgroup = foreign(&world);
    let client = |guard: &agentguard_tests::Guard<'_>| {
        Puppet::start(&world, |words| {
            let drop = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"];
            let drop = drop.map(Into::into).into_iter();
            guard.within(&cgroup, drop.chain(words))
        })
        .unwrap()
    };
    let told = "not looked through to the end";
    let guard = world
        .guard()
        .policy(POLICY)
        .setting("run", json!({"strict": true}))
        .start()
        .unwrap();
    let mut humble = client(&guard);
    humble.fails("tcp('c', '192.0.2.66', 80)", "ECONNREFUSED");
    many(&cgroup);
    let refused = add(&guard, &cgroup);
    assert_eq!(refused.code(), 1, "{refused}");
    let says = "was not looked through to the end, and `run` is strict: more than 4096 cgroups";
    assert!(refused.stderr.contains(says), "{refused}");
    // Nothing has changed for it.
    humble.fails("tcp('c', '192.0.2.66', 80)", "ECONNREFUSED");
    assert_eq!(status(&guard)["listeners"].as_array().unwrap().len(), 1);
    remove(&cgroup);
    let added = add(&guard, &cgroup).success().unwrap();
    assert!(!added.stderr.contains(told), "{added}");
    humble.fails("tcp('c', '192.0.2.66', 80)", "EPERM");
    drop(humble);
    drop(guard);

    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut humble = client(&guard);
    many(&cgroup);
    let added = add(&guard, &cgroup).success().unwrap();
    let says = "not looked through to the end: more than 4096 cgroups";
    assert!(added.stderr.contains(says), "{added}");
    humble.fails("tcp('c', '192.0.2.66', 80)", "EPERM");
    assert_eq!(listened_in(&guard), 1);
    remove(&cgroup);
}

#[test]
fn a_connection_that_one_thread_alone_has_open_is_closed_too() {
    let world = world("adopt-thread");
    let cgroup = foreign(&world);
    let guard = world.guard().policy(POLICY).start().unwrap();
    let outside = leftover::cgroup_mount().unwrap();
    let namespace = container(&world, 1);
    let mut client = inside(&world, &guard, &outside, &namespace);
    let [four, _] = address::origin(0x20);
    client.gives("alone('thread')", 0);
    client.gives(
        &format!("on('thread', lambda: tcp('taken', '{four}', 7))"),
        json!([four.to_string(), 7]),
    );
    let echo = "on('thread', lambda: echo('taken', 'free'))";
    client.gives(echo, "free");
    // It brings a socket that its new cgroup does not know, and that its process does not have.
    let join = format!("open('{}/cgroup.procs', 'w').write('0')", cgroup.display());
    client.gives(&join, 1);
    client.gives(echo, "free");
    let added = add(&guard, &cgroup).success().unwrap();
    assert!(
        added
            .stderr
            .contains("; 1 open socket was found in it and closed"),
        "{added}"
    );
    assert!(!added.stderr.contains("sockets may be left"), "{added}");
    client.fails("on('thread', lambda: hear('taken'))", "ECONNABORTED");
}

#[test]
fn an_uplink_by_the_name_of_a_device_that_carries_nothing_is_one_all_the_same() {
    let world = world("adopt-uplink");
    let cgroup = foreign(&world);
    let guard = world.guard().policy(POLICY).start().unwrap();
    let namespace = container(&world, 1);
    namespace
        .ip("link set eth0 down\nlink set eth0 name ip_vti0\nlink set ip_vti0 up\nroute add default via 10.77.1.1\n")
        .unwrap();
    let mut client = inside(&world, &guard, &cgroup, &namespace);
    client.gives("1", 1);
    let added = add(&guard, &cgroup).success().unwrap();
    let told = "not contained: a process has CAP_NET_ADMIN in a network namespace with an uplink";
    assert!(added.stderr.contains(told), "{added}");
}

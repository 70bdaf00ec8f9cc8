//! Connections to local daemons that a workload has when it is adopted: those to daemons that agents do not
//! reach are closed, whether or not LSM programs run, which are asked only when one is connected.

use std::fs;
use std::path::Path;

use agentguard_model::ReasonCode;
use agentguard_tests::Puppet;
use serde_json::json;

use super::{POLICY, add, foreign, world};

/// Listens at a path of the file system.
fn serve(server: &mut Puppet, name: &str, path: &Path) {
    let path = path.display();
    server.gives(&format!("make('{name}', 1, 1)"), "made");
    server.gives(&format!("of('{name}').bind('{path}')"), json!(null));
    server.gives(&format!("of('{name}').listen(8)"), json!(null));
}

fn dial(client: &mut Puppet, name: &str, path: &Path) {
    client.gives(&format!("make('{name}', 1, 1)"), "made");
    let dial = format!("of('{name}').connect('{}')", path.display());
    client.gives(&dial, json!(null));
}

#[test]
fn a_connection_to_a_daemon_that_agents_do_not_reach_ends_with_the_adoption() {
    let world = world("adopt-daemons");
    let cgroup = foreign(&world);
    let directory = world.directory().join("daemons");
    fs::create_dir(&directory).unwrap();
    let place = |name: &str| directory.join(name);
    let masked = json!({"masked_paths": [place("docker"), place("own")]});
    let guard = world
        .guard()
        .policy(POLICY)
        .setting("run", masked)
        .start()
        .unwrap();
    let mut daemon = super::super::free(&world);
    let mut client = Puppet::start(&world, |words| guard.within(&cgroup, words)).unwrap();
    serve(&mut daemon, "docker", &place("docker"));
    serve(&mut daemon, "database", &place("database"));
    serve(&mut client, "own", &place("own"));
    for name in ["docker", "database", "own"] {
        dial(&mut client, &format!("to-{name}"), &place(name));
    }
    for server in ["docker", "database"] {
        daemon.gives(&format!("accept('{server}', 'from-{server}')"), json!(null));
    }
    client.gives("say('to-docker', 'GET /')", 5);
    daemon.gives("hear('from-docker')", "GET /");

    let added = add(&guard, &cgroup).success().unwrap();
    let told = "; 1 connection to a UNIX socket that agents do not reach was closed";
    assert!(added.stderr.contains(told), "{added}");
    client.fails("say('to-docker', 'POST /')", "EPIPE");
    client.gives("hear('to-docker')", "");
    daemon.gives("hear('from-docker')", "");
    // Its own, and what is not refused, goes on.
    client.gives("say('to-own', 'x')", 1);
    client.gives("say('to-database', 'select 1')", 8);
    daemon.gives("hear('from-database')", "select 1");
    let docker = place("docker").display().to_string();
    guard
        .wait_verdicts("what was closed", |decisions| {
            let mut closed = decisions
                .iter()
                .filter(|it| it.reason.code == ReasonCode::UnixSocketNotAllowed);
            let path = closed.next()?.action.path.clone();
            (path.as_ref() == Some(&docker)).then_some(())
        })
        .unwrap();
}

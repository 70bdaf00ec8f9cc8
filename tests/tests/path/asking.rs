//! What an agent may not ask: also not over a connection to the guard that it has from a time, or from
//! somebody, when it was none.

use std::fs;
use std::path::Path;

use agentguard_tests::{Guard, Puppet, leftover};

use super::{free, world};

const POLICY: &str = "
version: 1
agents:
  - {name: coder}
rules: []
";

/// What an agent is told that asks.
const WHY: &str = "an agent may not ask its own guard";

/// Has a client connect to a socket of the guard's.
fn open(client: &mut Puppet, guard: &Guard<'_>, name: &str, kind: &str, socket: &str) {
    let path = guard.runtime_dir().join(socket);
    let order = format!(
        "(make('{name}', socket.AF_UNIX, socket.SOCK_{kind}), of('{name}').connect('{}'))[1]",
        path.display()
    );
    client.gives(&order, serde_json::Value::Null);
}

/// Has a client connect and ask; `f` follows.
fn connect(client: &mut Puppet, guard: &Guard<'_>) {
    open(client, guard, "c", "STREAM", "control.sock");
    open(client, guard, "f", "STREAM", "control.sock");
    client.ask(&request("c", "/v1/agents")).unwrap();
    client.gives("hear('c')[:12]", "HTTP/1.1 200");
    client
        .ask(&request("f", "/v1/verdicts?follow=true"))
        .unwrap();
    client.gives("hear('f')[:12]", "HTTP/1.1 200");
}

/// Has a client connect to the keeper, who waits five seconds for what it wants.
fn connect_to_the_keeper(client: &mut Puppet, guard: &Guard<'_>) {
    open(client, guard, "k", "SEQPACKET", "keeper.sock");
}

fn request(name: &str, route: &str) -> String {
    format!("say('{name}', 'GET {route} HTTP/1.1\\r\\nHost: guard\\r\\n\\r\\n')")
}

/// Neither is of use to it.
fn refused(client: &mut Puppet, guard: &Guard<'_>) {
    client.ask(&request("c", "/v1/agents")).unwrap();
    let told = client.ask("hear_all('c')").unwrap();
    let told = told.as_str().unwrap();
    assert!(told.starts_with("HTTP/1.1 403 "), "{told}");
    assert!(told.contains(WHY), "{told}");
    // There is something to be told.
    let words = ["curl", "-sS", "--max-time", "5", "http://192.0.2.66/"];
    assert_ne!(guard.run("coder", words).unwrap().code(), 0);
    let told = client.ask("hear_all('f')").unwrap();
    let told = told.as_str().unwrap();
    assert!(!told.contains("\"decision\""), "{told}");
    assert!(
        told.contains("{\"refused\":{\"code\":\"forbidden\""),
        "{told}"
    );
    assert!(told.contains(WHY), "{told}");
}

fn join(cgroup: &Path) -> String {
    format!("open('{}/cgroup.procs', 'w').write('0')", cgroup.display())
}

#[test]
fn who_is_moved_to_an_agent_asks_no_longer() {
    let world = world("asking-moved");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = free(&world);
    connect(&mut client, &guard);
    let cgroup = guard.agent_cgroup("coder").unwrap();
    connect_to_the_keeper(&mut client, &guard);
    client.gives(&join(&cgroup), 1);
    // The command to load the policy again.
    let told = client.ask("(of('k').send(bytes([3])), hear('k'))[1]");
    let told = told.unwrap();
    assert!(told.as_str().unwrap().contains(WHY), "{told}");
    refused(&mut client, &guard);
}

#[test]
fn who_is_adopted_asks_no_longer() {
    let world = world("asking-adopted");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mount = leftover::cgroup_mount().unwrap();
    let cgroup = mount.join(format!("{}.foreign", world.tag().directory()));
    fs::create_dir(&cgroup).unwrap();
    let mut client = Puppet::start(&world, |words| guard.within(&cgroup, words)).unwrap();
    connect(&mut client, &guard);
    let add = ["agent", "add", "coder", "--cgroup"];
    let add = guard.cli().args(add).arg(&cgroup);
    add.run().unwrap().success().unwrap();
    refused(&mut client, &guard);
}

/// What an agent reads that sends this (for printf) over a socket of another process's, its input.
fn handed(maker: &mut Puppet, cgroup: &Path, name: &str, bytes: &str) -> String {
    let shell = format!(
        "echo 0 >{}/cgroup.procs; printf '{bytes}' >&0; timeout 20 cat",
        cgroup.display()
    );
    // A socket with a timeout does not block, and `cat` would not wait for what is not there yet.
    let order = format!(
        "(of('{name}').settimeout(None), __import__('subprocess').run(['sh', '-c', {shell:?}], \
         stdin=of('{name}'), stdout=-1).stdout.decode(errors='replace'))[1]"
    );
    maker.ask(&order).unwrap().as_str().unwrap().to_owned()
}

#[test]
fn who_is_handed_a_connection_is_not_taken_for_who_made_it() {
    let world = world("asking-handed");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = free(&world);
    connect(&mut client, &guard);
    let cgroup = guard.agent_cgroup("coder").unwrap();
    let why = format!("over a connection that process {} made", client.id());
    let ask = r"GET /v1/agents HTTP/1.1\r\nHost: guard\r\n\r\n";
    let told = handed(&mut client, &cgroup, "c", ask);
    assert!(told.starts_with("HTTP/1.1 403 "), "{told}");
    assert!(told.contains(&why), "{told}");
    connect_to_the_keeper(&mut client, &guard);
    let told = handed(&mut client, &cgroup, "k", r"\003");
    assert!(told.contains(&why), "{told}");
    // It is no agent itself, and asks anew.
    connect(&mut client, &guard);
}

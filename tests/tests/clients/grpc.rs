//! gRPC inside inspected TLS, by Python's `grpcio`: its own TLS, its own HTTP/2, its own resolver.

use std::ffi::OsString;
use std::path::Path;

use agentguard_model::Verdict;
use agentguard_tests::{Origin, Output, Process, World, address, client, wait_until};
use anyhow::{Result, ensure};

use crate::inspected::inspected;
use crate::room::{LATE, Ran, Room, row, ungoverned};
use crate::serving::{certified, serving, trusting};

pub(crate) const HOST: &str = "grpc.example.com";

/// Where the server listens.
pub(crate) const PORT: u16 = 50_051;

/// Where nobody does.
const ABSENT: u16 = 50_052;

const REASON: &str = "Secrets stay where they are.";

/// A world with a gRPC server, which lives as long as its process.
pub(crate) fn world(name: &str, python: &Path) -> Result<(World, Process)> {
    let origin = Origin::at(&address::origin(0x10)).site(HOST);
    let world = World::new(name).origin(origin).start()?;
    let words = words(python, "serve", &format!("[::]:{PORT}"));
    let server = world.internet().command(python).args(&words[1..]);
    let server = serving(server.args(certified(&world, HOST)?))?;
    Ok((world, server))
}

pub(crate) fn words(python: &Path, what: &str, target: &str) -> [OsString; 4] {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/grpc_calls.py");
    [python.into(), script.into(), what.into(), target.into()]
}

fn open(world: &World) -> Result<Room<'_>> {
    let policy = format!(
        "
version: 1
agents:
  - name: coder
rules:
  - id: calls
    match: {{ host: [{HOST}], port: [{PORT}, {ABSENT}], method: [POST] }}
    action: allow
    handling: inspect
  - id: no-secrets
    match: {{ host: [{HOST}], path: ['/test.Secret/**'] }}
    action: deny
    reason: {REASON}
"
    );
    trusting(world, HOST, &policy)
}

pub(crate) fn free(world: &World, python: &Path, what: &str, port: u16) -> Result<Output> {
    ungoverned(world, words(python, what, &format!("{HOST}:{port}")))?.success()
}

/// Some calls as the agent, whose requests have to be these.
fn governed(
    room: &Room<'_>,
    python: &Path,
    what: &str,
    port: u16,
    requests: &[String],
) -> Result<Ran> {
    let words = words(python, what, &format!("{HOST}:{port}"));
    let query = format!("allow dns dns_query {HOST}:53 rule_allow");
    let rows = [&[query], requests].concat();
    let ran = room.call(inspected(room, &words), &rows)?;
    ensure!(ran.output.status.success(), "{}", ran.output);
    Ok(ran)
}

fn request(verdict: &str, port: u16, path: &str, code: &str) -> String {
    format!("{verdict} proxy http_request {HOST}:{port} POST {path} {code}")
}

#[test]
fn calls_of_every_kind_are_answered_as_without_the_guard() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let (world, _server) = world("grpc", &python).unwrap();
    let room = open(&world).unwrap();
    let before = free(&world, &python, "allowed", PORT).unwrap();
    // Among it every status that is in the script.
    for part in [
        "('x-trailer', 'last')",
        "('x-client', 'ours')",
        "FAILED_PRECONDITION 'nicht so, 100 %: für niemanden'",
        "UNIMPLEMENTED",
    ] {
        assert!(before.stdout.contains(part), "{before}");
    }
    let requests: Vec<_> = [
        "Unary", "Unary", "Unary", "Stream", "Collect", "Chat", "Fail", "Unknown",
    ]
    .map(|method| request("allow", PORT, &format!("/test.Echo/{method}"), "rule_allow"))
    .to_vec();
    let output = governed(&room, &python, "allowed", PORT, &requests)
        .unwrap()
        .output;
    assert_eq!(output.stdout, before.stdout);
    room.close().unwrap();
}

#[test]
fn a_deadline_passes_for_the_client_and_reaches_the_server() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let (world, _server) = world("grpc-late", &python).unwrap();
    let room = open(&world).unwrap();
    let requests = ["Slow", "Cancelled"]
        .map(|method| request("allow", PORT, &format!("/test.Echo/{method}"), "rule_allow"));
    let output = governed(&room, &python, "late", PORT, &requests)
        .unwrap()
        .output;
    let before = free(&world, &python, "late", PORT).unwrap();
    assert!(output.stdout.contains("DEADLINE_EXCEEDED"), "{output}");
    assert!(output.stdout.contains("b'cancelled'"), "{output}");
    assert_eq!(output.stdout, before.stdout);
    room.close().unwrap();
}

#[test]
fn a_denied_call_of_any_kind_is_told_why_in_its_status() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let (world, server) = world("grpc-denied", &python).unwrap();
    let called = || server.stdout().matches("/test.Secret/").count();
    let before = free(&world, &python, "denied", PORT).unwrap();
    assert!(!before.stdout.contains("DENIED"), "{before}");
    wait_until("the calls", LATE, || (called() == 4).then_some(())).unwrap();
    let room = open(&world).unwrap();
    let requests = ["Unary", "Stream", "Collect", "Chat"]
        .map(|method| request("deny", PORT, &format!("/test.Secret/{method}"), "rule_deny"));
    let ran = governed(&room, &python, "denied", PORT, &requests).unwrap();
    let denials = ran.decisions.iter();
    let denials = denials.filter(|it| it.verdict == Verdict::Deny);
    for (denial, line) in denials.zip(ran.output.stdout.lines()) {
        let id = denial.id;
        let told = format!("StatusCode.PERMISSION_DENIED '{REASON} (agentguard explain {id})'");
        assert!(line.contains(&told), "{told}\n{}", ran.output);
    }
    assert_eq!(ran.output.stdout.lines().count(), 4, "{}", ran.output);
    room.close().unwrap();
    assert_eq!(called(), 4);
}

#[test]
fn a_denied_name_is_unavailable_because_it_does_not_resolve() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let (world, _server) = world("grpc-name", &python).unwrap();
    let room = open(&world).unwrap();
    let words = words(&python, "absent", "elsewhere.example.com:443");
    let output = inspected(&room, &words).run().unwrap().success().unwrap();
    assert!(output.stdout.contains("StatusCode.UNAVAILABLE"), "{output}");
    assert!(output.stdout.contains("Domain name not found"), "{output}");
    let row_of_it = "deny dns dns_query elsewhere.example.com:53 no_rule";
    let decisions = room.settled(1).unwrap();
    assert!(decisions.iter().all(|it| row(it).starts_with(row_of_it)));
}

#[test]
fn a_server_that_is_not_there_is_unavailable() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let (world, _server) = world("grpc-absent", &python).unwrap();
    let room = open(&world).unwrap();
    let before = free(&world, &python, "absent", ABSENT).unwrap();
    assert!(before.stdout.contains("StatusCode.UNAVAILABLE"), "{before}");
    let requests = [request("allow", ABSENT, "/test.Echo/Unary", "rule_allow")];
    let output = governed(&room, &python, "absent", ABSENT, &requests)
        .unwrap()
        .output;
    let told = "StatusCode.UNAVAILABLE 'the upstream cannot be reached: ";
    assert!(output.stdout.contains(told), "{output}");
    room.close().unwrap();
}

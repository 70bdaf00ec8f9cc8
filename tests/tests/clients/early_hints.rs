//! What a server says before its answer (103, RFC 8297), inside inspected TLS.

use std::ffi::OsString;
use std::path::Path;

use agentguard_tests::{Origin, Process, World, address};
use anyhow::Result;

use crate::inspected::inspected;
use crate::room::{Program, Room, node, ungoverned};
use crate::serving::{certified, serving, trusting};

const HOST: &str = "hints.example.com";

/// Where the server listens.
const PORT: u16 = 8443;

/// Node's arguments.
fn script(node: &Program, what: &str) -> [OsString; 3] {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/early_hints.js");
    [(&node.path).into(), script.into(), what.into()]
}

/// A world with such a server, which lives as long as its process.
fn world(name: &str, node: &Program) -> Result<(World, Process)> {
    let origin = Origin::at(&address::origin(0x10)).site(HOST);
    let world = World::new(name).origin(origin).start()?;
    let [program, words @ ..] = script(node, "serve");
    let server = world.internet().command(program).args(words);
    let server = server.arg(PORT.to_string()).args(certified(&world, HOST)?);
    let server = serving(server)?;
    Ok((world, server))
}

fn open(world: &World) -> Result<Room<'_>> {
    let policy = format!(
        "
version: 1
agents:
  - name: coder
rules:
  - id: pages
    match: {{ host: [{HOST}], port: [{PORT}], method: [GET] }}
    action: allow
    handling: inspect
"
    );
    trusting(world, HOST, &policy)
}

#[test]
fn curl_and_node_hear_it_as_without_the_guard() {
    let (Some(node), Some(curl)) = (node().unwrap(), Program::find("curl").unwrap()) else {
        return;
    };
    let (world, _server) = world("hints", &node).unwrap();
    let room = open(&world).unwrap();
    let url = format!("https://{HOST}:{PORT}/page");
    let query = format!("allow dns dns_query {HOST}:53 rule_allow");
    let request = format!("allow proxy http_request {HOST}:{PORT} GET /page rule_allow");

    let listen = [&script(&node, "listen")[..], &[url.clone().into()]].concat();
    let free = ungoverned(&world, &listen).unwrap().success().unwrap();
    for version in ["http1", "http2"] {
        let said = free.stdout.lines().filter(|line| line.starts_with(version));
        let hints = said.clone().filter(|line| line.contains("rel=preload"));
        assert_eq!(
            (hints.count(), said.count()),
            (2, 4 - usize::from(version == "http1"))
        );
    }
    let rows = [
        query.clone(),
        request.clone(),
        query.clone(),
        request.clone(),
    ];
    let ran = room.call(inspected(&room, &listen), &rows).unwrap();
    assert_eq!(ran.output.success().unwrap().stdout, free.stdout);

    for version in ["--http1.1", "--http2"] {
        let words = ["-sSi", "--max-time", "10", version, &url];
        let words = curl.words(&words);
        let free = ungoverned(&world, &words).unwrap().success().unwrap();
        assert_eq!(free.stdout.matches(" 103").count(), 2, "{free}");
        let rows = [query.clone(), request.clone()];
        let ran = room.call(inspected(&room, &words), &rows).unwrap();
        let governed = ran.output.success().unwrap();
        // Names of fields have no case (RFC 9110, 5.1), and `connection` and its like are for one hop.
        let said = |stdout: &str| {
            let lines = stdout.lines().map(str::to_lowercase);
            let lines = lines.filter(|line| {
                !line.starts_with("connection:") && !line.starts_with("keep-alive:")
            });
            lines.collect::<Vec<_>>()
        };
        assert_eq!(said(&governed.stdout), said(&free.stdout));
    }
    room.close().unwrap();
}

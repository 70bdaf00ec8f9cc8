//! A host that reaches the outside through an HTTP proxy only, which is a real one.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use agentguard_tests::{Process, World, wait_until};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::inspected::inspected;
use crate::room::{AGENT, FOUR, LATE, Program, Room, SITE, world};

const SPLICED: &str = "git.example.com";
const PORT: u16 = 8888;

const POLICY: &str = "
version: 1
agents:
  - name: coder
rules:
  - id: inside
    match: { host: [api.example.com], port: [443], method: [GET] }
    action: allow
    handling: inspect
  - id: clear
    match: { host: [api.example.com], port: [80], method: [GET] }
    action: allow
  - id: spliced
    match: { host: [git.example.com], port: [443] }
    action: allow
  - id: direct
    match: { host: [four.example.com], port: [7] }
    action: allow
    handling: direct
";

/// Starts the proxy on the host, with some settings more.
fn start(world: &World, program: &Program, settings: &str) -> Result<Process> {
    let file = world.directory().join("tinyproxy.conf");
    let text =
        format!("Port {PORT}\nListen 127.0.0.1\nMaxClients 20\nLogLevel Connect\n{settings}\n");
    fs::write(&file, text).context("cannot write the proxy's configuration")?;
    let call = world
        .host()
        .command(program.words(&[]).first().context("no program")?);
    let process = call.arg("-d").arg("-c").arg(&file).spawn()?;
    wait_until("the proxy", LATE, || {
        let dial = || std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, PORT));
        world.host().enter(dial).ok()?.ok()
    })?;
    Ok(process)
}

/// A guard that can resolve nothing, behind the proxy.
fn open(world: &World, credentials: Option<PathBuf>) -> Result<Room<'_>> {
    let proxy = format!("http://127.0.0.1:{PORT}");
    let mut entry = json!({ "host": ["*"], "ca": world.ca_file(), "proxy": proxy });
    if let (Some(path), Some(entry)) = (credentials, entry.as_object_mut()) {
        entry.insert("proxy_credentials".to_owned(), json!(path));
    }
    let guard = world.guard().policy(POLICY);
    let guard = guard.setting("upstreams", json!([entry]));
    let guard = guard.setting("resolvers", json!(["127.0.0.1:9"]));
    Ok(Room::of(world, guard.start()?))
}

fn query(name: &str) -> String {
    format!("allow dns dns_query {name}:53 rule_allow")
}

fn got(port: u16) -> String {
    format!("allow proxy http_request {SITE}:{port} GET /through rule_allow")
}

#[test]
fn curl_goes_out_through_a_proxy_that_it_does_not_know_of() {
    let (Some(curl), Some(tinyproxy)) = (
        Program::find("curl").unwrap(),
        Program::find("tinyproxy").unwrap(),
    ) else {
        return;
    };
    let world = world("via").start().unwrap();
    let credentials = world.directory().join("credentials");
    fs::write(&credentials, "guard:sesame\n").unwrap();
    fs::set_permissions(&credentials, fs::Permissions::from_mode(0o600)).unwrap();
    let proxy = start(&world, &tinyproxy, "BasicAuth guard sesame").unwrap();
    let room = open(&world, Some(credentials)).unwrap();
    for (words, row) in [
        (&["https://api.example.com/through"][..], got(443)),
        (&["--http1.1", "https://api.example.com/through"], got(443)),
        (&["http://api.example.com/through"], got(80)),
    ] {
        let words = [&["-sS", "--max-time", "10"], words].concat();
        let call = inspected(&room, &curl.words(&words));
        let ran = room.call(call, &[query(SITE), row]).unwrap();
        let output = ran.by(&curl).unwrap().output.success().unwrap();
        let told: Value = serde_json::from_str(&output.stdout).unwrap();
        assert!(told["target"].as_str().unwrap().ends_with("/through"));
    }
    let words = ["-sS", "--max-time", "10", "https://git.example.com/through"];
    let row = format!("allow proxy connect {SPLICED}:443 rule_allow");
    let call = room.guard.agent(AGENT, curl.words(&words));
    let ran = room.call(call, &[query(SPLICED), row]).unwrap();
    let told: Value = serde_json::from_str(&ran.output.success().unwrap().stdout).unwrap();
    assert_eq!(told["tls"]["sni"], SPLICED);
    // Nobody knows at which address it was.
    assert!(
        ran.decisions
            .iter()
            .all(|decision| decision.action.ip.is_none())
    );
    // What the kernel lets go by itself does not go through a proxy.
    let dial = format!("exec 3<>/dev/tcp/{FOUR}/7");
    let denied = format!("deny kernel connect {FOUR}:7 no_address");
    let rows = [query(FOUR), denied.clone(), denied];
    let ran = room.run(["bash", "-c", &dial], &rows).unwrap();
    assert_eq!(ran.output.code(), 1, "{}", ran.output);
    let log = proxy.stdout();
    for to in [
        "api.example.com:443",
        "api.example.com:80",
        "git.example.com:443",
    ] {
        assert!(log.contains(&format!("CONNECT {to} ")), "{log}");
    }
    // What the proxy is shown is nobody's to see.
    let status = room
        .guard
        .cli()
        .args(["status", "-o", "json"])
        .run()
        .unwrap();
    for told in [status.success().unwrap().stdout, room.guard.log()] {
        assert!(
            !told.contains("sesame") && !told.contains("Z3VhcmQ6c2VzYW1l"),
            "{told}"
        );
    }
    room.close().unwrap();
}

#[test]
fn a_proxy_that_refuses_or_is_gone_is_told_in_words() {
    let (Some(curl), Some(tinyproxy)) = (
        Program::find("curl").unwrap(),
        Program::find("tinyproxy").unwrap(),
    ) else {
        return;
    };
    let world = world("via-no").start().unwrap();
    let room = open(&world, None).unwrap();
    let words = ["-sS", "--max-time", "20", "https://api.example.com/through"];
    for (settings, says) in [
        (Some("BasicAuth guard sesame"), "`proxy_credentials`"),
        (Some("ConnectPort 563"), "refuses to go there (403)"),
        (None, "cannot be reached"),
    ] {
        let proxy = settings.map(|settings| start(&world, &tinyproxy, settings).unwrap());
        let call = inspected(&room, &curl.words(&words));
        let ran = room.call(call, &[query(SITE), got(443)]).unwrap();
        let output = ran.output.success().unwrap();
        assert!(output.stdout.contains(says), "{output}");
        assert!(output.stdout.contains("http://127.0.0.1:8888"), "{output}");
        // It ends with its handle.
        drop(proxy);
    }
    room.close().unwrap();
    let requests = world.origin(SITE).unwrap().log().requests().unwrap();
    assert!(requests.is_empty(), "{requests:?}");
}

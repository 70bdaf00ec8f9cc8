//! Clients that were told to use a proxy.

use agentguard_model::Verdict;
use agentguard_tests::{World, address};
use anyhow::Result;
use serde_json::json;

use crate::inspected::{inspected, told};
use crate::room::{Program, Room, SITE, python, ungoverned, world};

const PROXY: &str = "proxy.example.com";

const POLICY: &str = "
version: 1
agents:
  - name: coder
rules:
  - id: proxy
    match: { host: [proxy.example.com], port: [1080, 3128], method: [CONNECT] }
    action: allow
  - id: read
    match: { host: [api.example.com], port: [443], method: [GET] }
    action: allow
    handling: inspect
  - id: raw
    match: { host: [api.example.com], port: [22] }
    action: allow
";

/// A world with a proxy's name, where nothing listens.
fn open(world: &World) -> Result<Room<'_>> {
    let upstreams = json!([{ "host": ["*.example.com"], "ca": world.ca_file() }]);
    let guard = world.guard().policy(POLICY).setting("upstreams", upstreams);
    Ok(Room::of(world, guard.start()?))
}

fn proxied(name: &str) -> Result<World> {
    let here = address::origin(0x10);
    let world = world(name).zone(|zone| zone.address(PROXY, &here));
    world.start()
}

fn query(name: &str) -> String {
    format!("allow dns dns_query {name}:53 rule_allow")
}

fn asked(port: u16, to: &str) -> String {
    format!("allow proxy http_request {PROXY}:{port} CONNECT {to} rule_allow")
}

fn went(path: &str) -> String {
    format!("allow proxy http_request {SITE}:443 GET {path} rule_allow")
}

#[test]
fn curl_is_inspected_behind_the_proxy_that_it_believes_in() {
    let Some(curl) = Program::find("curl").unwrap() else {
        return;
    };
    let world = proxied("proxied").unwrap();
    let room = open(&world).unwrap();
    let url = "https://api.example.com/through";
    let http = "http://proxy.example.com:3128";
    let by_name = "proxy.example.com:1080";
    let to = format!("{SITE}:443");
    let free = ungoverned(&world, curl.words(&["-sS", url])).unwrap();
    let free = told(&free.success().unwrap().stdout);
    for (words, rows) in [
        (
            &["-x", http][..],
            vec![query(PROXY), asked(3128, &to), went("/through")],
        ),
        (
            &["--http1.1", "-x", http],
            vec![query(PROXY), asked(3128, &to), went("/through")],
        ),
        (
            &["--socks5-hostname", by_name],
            vec![query(PROXY), asked(1080, &to), went("/through")],
        ),
    ] {
        let words = [&["-sS", "--max-time", "10", url], words].concat();
        let ran = room.call(inspected(&room, &curl.words(&words)), &rows);
        let output = ran.unwrap().by(&curl).unwrap().output.success().unwrap();
        let (mut governed, mut free) = (told(&output.stdout), free.clone());
        if words.contains(&"--http1.1") {
            for told in [&mut governed, &mut free] {
                told.0["tls"].take();
                told.0["version"].take();
                told.0["target"].take();
                told.0["headers"].take();
            }
        }
        assert_eq!(governed, free, "{words:?}");
    }

    // Resolved by the client: what it asks for is an address that stands for the name.
    let words = ["-sS", "--max-time", "10", "-4", "--socks5", by_name, url];
    let call = inspected(&room, &curl.words(&words)).run().unwrap();
    assert_eq!(told(&call.success().unwrap().stdout), free);
    let decisions = room.settled(4).unwrap();
    let hosts: Vec<_> = decisions
        .iter()
        .map(|decision| decision.action.host.as_ref().unwrap().to_string())
        .collect();
    assert_eq!(hosts.iter().filter(|host| *host == SITE).count(), 2);
    assert!(decisions.iter().all(|d| d.verdict == Verdict::Allow));
    room.close().unwrap();
}

#[test]
fn what_no_rule_allows_behind_a_proxy_is_refused_in_its_words() {
    let Some(curl) = Program::find("curl").unwrap() else {
        return;
    };
    let world = proxied("proxied-no").unwrap();
    let room = open(&world).unwrap();
    let http = "http://proxy.example.com:3128";
    let elsewhere = "elsewhere.example.net:443";
    for (words, code, says, rows) in [
        (
            &["-x", http, "https://elsewhere.example.net/"][..],
            56,
            "403",
            vec![
                query(PROXY),
                asked(3128, elsewhere),
                format!("deny proxy connect {elsewhere} no_rule"),
            ],
        ),
        (
            &[
                "--socks5-hostname",
                "proxy.example.com:1080",
                "https://elsewhere.example.net/",
            ],
            97,
            "complete SOCKS5 connection",
            vec![
                query(PROXY),
                asked(1080, elsewhere),
                format!("deny proxy connect {elsewhere} no_rule"),
            ],
        ),
        // Inside, each request is decided as ever.
        (
            &["-f", "-x", http, "-d", "x", "https://api.example.com/post"],
            22,
            "403",
            vec![
                query(PROXY),
                asked(3128, "api.example.com:443"),
                format!("deny proxy http_request {SITE}:443 POST /post no_rule"),
            ],
        ),
    ] {
        let words = [&["-sS", "--max-time", "10"], words].concat();
        let ran = room.call(inspected(&room, &curl.words(&words)), &rows);
        let output = ran.unwrap().by(&curl).unwrap().output;
        assert_eq!(output.code(), code, "{output}");
        assert!(output.stderr.contains(says), "{output}");
    }
    room.close().unwrap();
    assert_eq!(world.canary().unwrap(), 0);
}

#[test]
fn python_s_own_client_is_led_by_its_variable() {
    let Some(python) = python().unwrap() else {
        return;
    };
    let world = proxied("proxied-python").unwrap();
    let room = open(&world).unwrap();
    let script = "import os, urllib.request
os.environ['https_proxy'] = 'http://proxy.example.com:3128'
print(urllib.request.urlopen('https://api.example.com/bytes/5').read().decode())";
    let rows = [
        query(PROXY),
        asked(3128, "api.example.com:443"),
        went("/bytes/5"),
    ];
    let ran = room.call(inspected(&room, &python.words(&["-c", script])), &rows);
    let output = ran.unwrap().by(&python).unwrap().output.success().unwrap();
    assert_eq!(output.stdout, "xxxxx\n");
    room.close().unwrap();
}

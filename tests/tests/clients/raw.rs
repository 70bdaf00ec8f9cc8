//! Protocols without a shape that the guard knows, among them those where the server speaks first,
//! as in SSH; with the resolvers of glibc and musl.

use agentguard_tests::origin::{BANNER, port};
use agentguard_tests::{address, client, wait_until};
use anyhow::{Result, ensure};

use crate::room::{FOUR, LATE, PASTE, Program, Room, SITE, SIX, ungoverned, world};

/// Runs words that print what the server says first, without and with the guard.
fn greeted(room: &Room<'_>, program: &Program, words: &[&str], site: &str) -> Result<()> {
    let free = ungoverned(room.world, program.words(words))?.success()?;
    ensure!(free.stdout.starts_with(BANNER), "{free}");
    let rows = [
        format!("allow dns dns_query {site}:53 rule_allow"),
        format!("allow proxy connect {site}:{} rule_allow", port::BANNER),
    ];
    let ran = room.run(program.words(words), &rows)?;
    let governed = ran.by(program)?.output.success()?;
    ensure!(governed.stdout == free.stdout, "{governed}\n{free}");
    Ok(())
}

/// Runs words that are denied, after showing that they arrive without the guard.
fn denied(
    room: &Room<'_>,
    program: &Program,
    words: &[&str],
    says: &str,
    rows: &[String],
) -> Result<()> {
    let connections = || -> Result<usize> {
        let (here, there) = (room.world.origin(SITE)?, room.world.origin(PASTE)?);
        Ok(here.log().connections()?.len() + there.log().connections()?.len())
    };
    let before = connections()?;
    ungoverned(room.world, program.words(words))?;
    wait_until("an arrival without the guard", LATE, || {
        (connections().ok()? == before + 1).then_some(())
    })?;
    let ran = room.run(program.words(words), rows)?;
    let output = ran.by(program)?.output;
    ensure!(!output.status.success(), "{output}");
    ensure!(output.stderr.contains(says), "{output}");
    ensure!(connections()? == before + 1, "arrived: {output}");
    Ok(())
}

#[test]
fn bash_socat_and_nc_are_greeted_by_a_server_that_speaks_first() {
    let world = world("greeted").start().unwrap();
    let room = Room::open(&world).unwrap();
    let by_name = vec![format!("deny dns dns_query {PASTE}:53 rule_deny")];
    let by_address = vec!["deny kernel connect 203.0.113.16:22 no_rule".to_owned()];
    if let Some(bash) = Program::find("bash").unwrap() {
        let dial = |host: &str| {
            format!("exec 3<>/dev/tcp/{host}/22 && read -r line <&3 && echo \"$line\"")
        };
        for site in [SITE, FOUR, SIX] {
            greeted(&room, &bash, &["-c", &dial(site)], site).unwrap();
        }
        let says = "Name or service not known";
        denied(&room, &bash, &["-c", &dial(PASTE)], says, &by_name).unwrap();
        let says = "Operation not permitted";
        denied(
            &room,
            &bash,
            &["-c", &dial("203.0.113.16")],
            says,
            &by_address,
        )
        .unwrap();
    }
    if let Some(socat) = Program::find("socat").unwrap() {
        // Nothing is sent: the banner comes, and then the end of the connection.
        greeted(
            &room,
            &socat,
            &["-T2", "-", "TCP4:api.example.com:22"],
            SITE,
        )
        .unwrap();
        greeted(
            &room,
            &socat,
            &["-T2", "-", "TCP6:api.example.com:22"],
            SITE,
        )
        .unwrap();
        let says = "Name or service not known";
        let words = ["-", "TCP:www.paste.example:22"];
        denied(&room, &socat, &words, says, &by_name).unwrap();
        let says = "Operation not permitted";
        let words = ["-", "TCP:203.0.113.16:22"];
        denied(&room, &socat, &words, says, &by_address).unwrap();
    }
    if let Some(nc) = Program::find("nc").unwrap() {
        greeted(&room, &nc, &["-N", SITE, "22"], SITE).unwrap();
        let says = "Name or service not known";
        denied(&room, &nc, &["-N", PASTE, "22"], says, &by_name).unwrap();
        let says = "Operation not permitted";
        denied(
            &room,
            &nc,
            &["-v", "-N", "203.0.113.16", "22"],
            says,
            &by_address,
        )
        .unwrap();
    }
    room.close().unwrap();
}

#[test]
fn a_client_with_the_resolver_of_musl() {
    let world = world("musl").start().unwrap();
    let Some(fetch) = client::musl_fetch(world.directory()).unwrap() else {
        return;
    };
    let fetch = Program::at(fetch).unwrap();
    let room = Room::open(&world).unwrap();
    let text = "GET /bytes/1000 HTTP/1.0\r\nHost: api.example.com\r\n\r\n";
    let body = |text: &str| text.split("\r\n\r\n").nth(1).map(str::to_owned);
    for site in [SITE, FOUR, SIX] {
        greeted(&room, &fetch, &[site, "22", "hello\n"], site).unwrap();
    }
    let words = [SITE, "80", text];
    let free = ungoverned(&world, fetch.words(&words)).unwrap();
    let rows = [
        format!("allow dns dns_query {SITE}:53 rule_allow"),
        format!("allow proxy http_request {SITE}:80 GET /bytes/1000 rule_allow"),
    ];
    let ran = room.run(fetch.words(&words), &rows).unwrap();
    let output = ran.by(&fetch).unwrap().output;
    assert_eq!(body(&output.success().unwrap().stdout), body(&free.stdout));

    let rows = [format!("deny dns dns_query {PASTE}:53 rule_deny")];
    let says = "Name does not resolve";
    denied(&room, &fetch, &[PASTE, "22", "x"], says, &rows).unwrap();
    let rows = ["deny kernel connect 203.0.113.16:22 no_rule".to_owned()];
    let says = "Operation not permitted";
    denied(&room, &fetch, &["203.0.113.16", "22", "x"], says, &rows).unwrap();
    let rows = ["deny kernel connect [2001:db8:113::10]:22 no_rule".to_owned()];
    denied(&room, &fetch, &["2001:db8:113::10", "22", "x"], says, &rows).unwrap();
    // A port that no rule allows is refused for each address of the name.
    let rows = [
        format!("allow dns dns_query {SITE}:53 rule_allow"),
        format!("deny kernel connect {SITE}:13 no_rule"),
        format!("deny kernel connect {SITE}:13 no_rule"),
    ];
    denied(&room, &fetch, &[SITE, "13", "x"], says, &rows).unwrap();
    room.close().unwrap();
    let [canary, _] = address::CANARY;
    assert_eq!(world.arrivals(canary).unwrap(), 0);
}

//! curl: TLS spliced, plain HTTP decided by request, and every way to be refused.

use crate::room::{ELSEWHERE, FOUR, PASTE, Program, Room, SITE, SIX, ungoverned, world};

const TOLD: &str = "\n%{http_code} %{http_version} %{num_connects}";

/// What the origin told, without what differs from one connection to the next.
fn told(stdout: &str) -> (serde_json::Value, String) {
    let (body, rest) = stdout.split_once('\n').unwrap_or_default();
    let mut body: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|_| body.into());
    if let Some(fields) = body.as_object_mut() {
        fields.remove("peer");
        fields.remove("local");
    }
    (body, rest.to_owned())
}

#[test]
fn curl_is_served_as_without_the_guard_with_one_query_and_one_connection_or_request() {
    let Some(curl) = Program::find("curl").unwrap() else {
        return;
    };
    let world = world("curl").start().unwrap();
    let room = Room::open(&world).unwrap();
    let tls = |site: &str| {
        vec![
            format!("allow dns dns_query {site}:53 rule_allow"),
            format!("allow proxy connect {site}:443 rule_allow"),
        ]
    };
    let plain = |site: &str, method: &str, path: &str| {
        vec![
            format!("allow dns dns_query {site}:53 rule_allow"),
            format!("allow proxy http_request {site}:80 {method} {path} rule_allow"),
        ]
    };
    let two = [
        format!("allow dns dns_query {SITE}:53 rule_allow"),
        format!("allow proxy http_request {SITE}:80 GET /bytes/10 rule_allow"),
        format!("allow proxy http_request {SITE}:80 GET /bytes/20 rule_allow"),
    ];
    let cases: Vec<(&[&str], Vec<String>)> = vec![
        (&["https://api.example.com/h2"], tls(SITE)),
        (&["--http1.1", "https://api.example.com/h1"], tls(SITE)),
        (&["--tls-max", "1.2", "https://api.example.com/"], tls(SITE)),
        (&["-4", "https://api.example.com/"], tls(SITE)),
        (&["-6", "https://api.example.com/"], tls(SITE)),
        (&["https://four.example.com/"], tls(FOUR)),
        (&["https://six.example.com/"], tls(SIX)),
        // What goes inside TLS is not looked at yet.
        (&["-d", "a body", "https://api.example.com/post"], tls(SITE)),
        (&["http://api.example.com/a"], plain(SITE, "GET", "/a")),
        (&["http://api.example.com/a?b=c"], plain(SITE, "GET", "/a")),
        (&["-4", "http://api.example.com/"], plain(SITE, "GET", "/")),
        (&["-6", "http://api.example.com/"], plain(SITE, "GET", "/")),
        (&["http://four.example.com/"], plain(FOUR, "GET", "/")),
        (&["http://six.example.com/"], plain(SIX, "GET", "/")),
        (&["-0", "http://api.example.com/"], plain(SITE, "GET", "/")),
        (
            &["-I", "http://api.example.com/bytes/9"],
            plain(SITE, "HEAD", "/bytes/9"),
        ),
        (
            &["http://api.example.com/chunked/300000"],
            plain(SITE, "GET", "/chunked/300000"),
        ),
        // HTTP/2 in the clear.
        (
            &["--http2-prior-knowledge", "http://api.example.com/a?b=c"],
            plain(SITE, "GET", "/a"),
        ),
        // Two requests on one connection.
        (
            &[
                "http://api.example.com/bytes/10",
                "http://api.example.com/bytes/20",
            ],
            two.to_vec(),
        ),
    ];
    for (words, rows) in &cases {
        let words = [&["-sS", "--max-time", "10", "-w", TOLD], *words].concat();
        let free = ungoverned(&world, curl.words(&words)).unwrap();
        let free = free.success().unwrap();
        let ran = room.run(curl.words(&words), rows).unwrap();
        let ran = ran.by(&curl).unwrap();
        let output = ran.output.success().unwrap();
        if words.contains(&"-I") {
            // The origin's date is all that may differ.
            let fixed = |text: &str| -> Vec<String> {
                let lines = text.lines().filter(|line| !line.starts_with("date"));
                lines.map(str::to_owned).collect()
            };
            assert_eq!(fixed(&output.stdout), fixed(&free.stdout), "{words:?}");
        } else {
            let (mut governed, mut free) = (told(&output.stdout), told(&free.stdout));
            if words.contains(&"-0") {
                // A proxy speaks its own version to the origin (RFC 9110, 2.5).
                governed.0["version"] = free.0["version"].take();
                free.0["version"] = governed.0["version"].clone();
            }
            assert_eq!(governed, free, "{words:?}");
        }
    }
    room.close().unwrap();
    assert_eq!(world.canary().unwrap(), 0);
}

#[test]
fn curl_is_refused_by_name_by_rule_and_by_address_and_nothing_leaves() {
    let Some(curl) = Program::find("curl").unwrap() else {
        return;
    };
    let world = world("curl-denied").start().unwrap();
    let room = Room::open(&world).unwrap();
    let query = format!("allow dns dns_query {SITE}:53 rule_allow");
    let pinned = format!("{SITE}:443:203.0.113.16");
    let elsewhere = format!("https://{ELSEWHERE}/");
    // Arguments, curl's exit code, a part of what it says, rows.
    type Case<'a> = (&'a str, Vec<&'a str>, i32, &'a str, Vec<String>);
    let cases: Vec<Case<'_>> = vec![
        (
            "a name that a rule denies",
            vec!["https://www.paste.example/"],
            6,
            "Could not resolve host: www.paste.example",
            vec![format!("deny dns dns_query {PASTE}:53 rule_deny")],
        ),
        (
            "a name outside the policy",
            vec![&elsewhere],
            6,
            "Could not resolve host",
            vec![format!("deny dns dns_query {ELSEWHERE}:53 no_rule")],
        ),
        (
            "a method that no rule allows",
            vec!["--fail", "-X", "DELETE", "http://api.example.com/things/1"],
            22,
            "403",
            vec![
                query.clone(),
                format!("deny proxy http_request {SITE}:80 DELETE /things/1 no_rule"),
            ],
        ),
        (
            "a method that no rule allows, by HTTP/2 in the clear",
            vec![
                "--http2-prior-knowledge",
                "--fail",
                "-X",
                "DELETE",
                "http://api.example.com/things/2",
            ],
            22,
            "403",
            vec![
                query.clone(),
                format!("deny proxy http_request {SITE}:80 DELETE /things/2 no_rule"),
            ],
        ),
        (
            "a bare address",
            vec!["http://203.0.113.16/"],
            7,
            "Failed to connect",
            vec!["deny kernel connect 203.0.113.16:80 no_rule".to_owned()],
        ),
        (
            "a bare address of IPv6",
            vec!["http://[2001:db8:113::10]/"],
            7,
            "Failed to connect",
            vec!["deny kernel connect [2001:db8:113::10]:80 no_rule".to_owned()],
        ),
        (
            "an allowed name that was resolved by other means",
            vec!["--resolve", &pinned, "https://api.example.com/"],
            7,
            "Failed to connect",
            vec!["deny kernel connect 203.0.113.16:443 no_rule".to_owned()],
        ),
        (
            "another name in TLS than the one behind the address",
            vec![
                "--connect-to",
                "www.paste.example:443:api.example.com:443",
                "https://www.paste.example/",
            ],
            35,
            "",
            vec![
                query.clone(),
                format!("deny proxy connect {SITE}:443 name_mismatch"),
            ],
        ),
        (
            "another name in Host than the one behind the address",
            vec![
                "--fail",
                "--connect-to",
                "www.paste.example:80:api.example.com:80",
                "http://www.paste.example/",
            ],
            22,
            "421",
            vec![
                query.clone(),
                format!("deny proxy http_request {SITE}:80 name_mismatch"),
            ],
        ),
        (
            "a port that no rule allows",
            vec!["-4", "--http0.9", "http://api.example.com:13/"],
            7,
            "Failed to connect",
            vec![query, format!("deny kernel connect {SITE}:13 no_rule")],
        ),
    ];
    // Without the guard each of them arrives.
    let arrived = || -> usize {
        [SITE, PASTE]
            .iter()
            .map(|site| world.origin(site).unwrap().log().connections().unwrap())
            .map(|connections| connections.len())
            .sum()
    };
    let flags = ["-sS", "-k", "--max-time", "10"];
    for (what, words, ..) in &cases {
        let before = arrived();
        let words = [&flags[..], words].concat();
        let free = ungoverned(&world, curl.words(&words)).unwrap();
        assert!(free.status.success(), "{what}: {free}");
        assert_eq!(arrived(), before + 1, "{what}");
    }
    let before = arrived();
    for (what, words, code, says, rows) in &cases {
        let words = [&flags[..], words].concat();
        let ran = room.run(curl.words(&words), rows).unwrap();
        let ran = ran.by(&curl).unwrap();
        assert_eq!(ran.output.code(), *code, "{what}: {}", ran.output);
        assert!(ran.output.stderr.contains(says), "{what}: {}", ran.output);
    }
    room.close().unwrap();
    assert_eq!(arrived(), before);
    assert_eq!(world.canary().unwrap(), 0);
}

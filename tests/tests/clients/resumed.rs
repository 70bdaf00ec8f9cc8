//! TLS sessions that clients go on with in their next connection.

use agentguard_tests::Invocation;
use anyhow::{Context as _, Result};

use crate::inspected::{inspected, open};
use crate::room::{Program, SITE, ungoverned, world};

fn rows(paths: &[&str]) -> Vec<String> {
    let request = |path| format!("allow proxy http_request {SITE}:443 GET {path} rule_allow");
    let query = format!("allow dns dns_query {SITE}:53 rule_allow");
    let requests = paths.iter().map(request);
    requests.chain([query]).collect()
}

#[test]
fn curl_offers_its_session_and_is_served_as_without_the_guard() {
    let Some(curl) = Program::find("curl").unwrap() else {
        return;
    };
    let world = world("resumed-curl").start().unwrap();
    let room = open(&world).unwrap();
    for version in ["--tlsv1.3", "--tls-max"] {
        let version = match version {
            "--tls-max" => &["--tls-max", "1.2"][..],
            version => &[version],
        };
        let words = ["-sSv", "--http1.1", "--max-time", "10"];
        let told = [
            "-H",
            "Connection: close",
            "-w",
            "%{http_code} %{num_connects}\n",
        ];
        let urls = [
            "https://api.example.com/bytes/10",
            "https://api.example.com/bytes/20",
        ];
        let words = [&words[..], version, &told, &urls].concat();
        let free = ungoverned(&world, curl.words(&words)).unwrap();
        let free = free.success().unwrap();
        // Each on a connection of its own.
        let expected = format!("{}200 1\n{}200 1\n", "x".repeat(10), "x".repeat(20));
        assert_eq!(free.stdout, expected, "{free}");
        let reuses = |said: &str| {
            let wordings = ["reusing session", "re-using session"];
            let counts = wordings.map(|wording| said.matches(wording).count());
            counts.iter().sum::<usize>()
        };
        assert_eq!(reuses(&free.stderr), 1, "{free}");

        let call = inspected(&room, &curl.words(&words));
        let ran = room.call(call, &rows(&["/bytes/10", "/bytes/20"]));
        let output = ran.unwrap().output.success().unwrap();
        assert_eq!(output.stdout, free.stdout);
        assert_eq!(reuses(&output.stderr), 1, "{output}");
    }
    room.close().unwrap();
}

/// What `s_client` says of the handshake, and the answer's status.
fn spoken(call: Invocation<'_>) -> Result<[String; 3]> {
    let request = format!("GET /bytes/10 HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n");
    let output = call.input(request).run()?.success()?;
    let line = |begins: &[&str]| {
        let mut lines = output.stdout.lines().map(str::trim);
        let found = lines.find(|line| begins.iter().any(|begin| line.starts_with(begin)));
        found.map(str::to_owned).with_context(|| output.to_string())
    };
    Ok([
        line(&["New, ", "Reused, "])?,
        line(&["Verify return code"])?,
        line(&["HTTP/1.1 "])?,
    ])
}

#[test]
fn openssl_s_session_is_resumed_by_the_guard_as_by_the_server() {
    let Some(openssl) = Program::find("openssl").unwrap() else {
        return;
    };
    let world = world("resumed-openssl").start().unwrap();
    let room = open(&world).unwrap();
    for version in ["-tls1_3", "-tls1_2"] {
        let mut said = Vec::new();
        for governed in [false, true] {
            let file = format!("session{version}-{governed}");
            let file = world.directory().join(file);
            let file = file.to_str().unwrap();
            for session in ["-sess_out", "-sess_in"] {
                let words = ["s_client", "-connect", "api.example.com:443", "-ign_eof"];
                let options = ["-servername", SITE, version, session, file];
                let words = [&words[..], &options].concat();
                let words = openssl.words(&words);
                let call = if governed {
                    inspected(&room, &words)
                } else {
                    let call = world.host().command(words[0]).args(&words[1..]);
                    call.env("SSL_CERT_FILE", world.ca_file())
                };
                said.push(spoken(call).unwrap());
                if governed {
                    room.rows(&rows(&["/bytes/10"])).unwrap();
                }
            }
        }
        let [free, governed] = [&said[..2], &said[2..]];
        assert!(free[0][0].starts_with("New, "), "{free:#?}");
        assert!(free[1][0].starts_with("Reused, "), "{free:#?}");
        assert_eq!(free[1][1], "Verify return code: 0 (ok)");
        assert_eq!(free[1][2], "HTTP/1.1 200 OK");
        assert_eq!(governed, free, "{version}");
    }
    room.close().unwrap();
}

//! wget and busybox's: other libraries for TLS, no happy eyeballs.

use crate::room::{ELSEWHERE, PASTE, Program, Room, SITE, ungoverned, world};

#[test]
fn wget_is_served_as_without_the_guard_and_refused_in_words() {
    let Some(wget) = Program::find("wget").unwrap() else {
        return;
    };
    let world = world("wget").start().unwrap();
    let room = Room::open(&world).unwrap();
    let ca = format!("--ca-certificate={}", world.ca_file().display());
    let flags = ["-nv", "-t", "1", "-T", "10", "-O", "-", &ca];
    let query = format!("allow dns dns_query {SITE}:53 rule_allow");
    for (url, row) in [
        (
            "https://api.example.com/bytes/200000",
            format!("allow proxy connect {SITE}:443 rule_allow"),
        ),
        (
            "http://api.example.com/chunked/200000",
            format!("allow proxy http_request {SITE}:80 GET /chunked/200000 rule_allow"),
        ),
    ] {
        let words = [&flags[..], &[url]].concat();
        let free = ungoverned(&world, wget.words(&words)).unwrap();
        let free = free.success().unwrap();
        assert_eq!(free.stdout.len(), 200_000);
        let ran = room.run(wget.words(&words), &[query.clone(), row]).unwrap();
        let output = ran.by(&wget).unwrap().output;
        assert_eq!(output.success().unwrap().stdout, free.stdout, "{url}");
    }

    let elsewhere = format!("http://{ELSEWHERE}/");
    // wget(1): 4 is a failure of the network, 8 an error of the server.
    let cases: [(&[&str], i32, &str, Vec<String>); 4] = [
        (
            &["https://www.paste.example/"],
            4,
            "unable to resolve host address",
            vec![format!("deny dns dns_query {PASTE}:53 rule_deny")],
        ),
        (
            &[&elsewhere],
            4,
            "unable to resolve host address",
            vec![format!("deny dns dns_query {ELSEWHERE}:53 no_rule")],
        ),
        (
            &["--post-data=x", "http://api.example.com/things"],
            8,
            "403",
            vec![
                query,
                format!("deny proxy http_request {SITE}:80 POST /things no_rule"),
            ],
        ),
        (
            &["http://203.0.113.16/"],
            4,
            "Operation not permitted",
            vec!["deny kernel connect 203.0.113.16:80 no_rule".to_owned()],
        ),
    ];
    let requests = || world.origin(SITE).unwrap().log().requests().unwrap().len();
    let before = requests();
    for (words, code, says, rows) in &cases {
        let words = [&flags[..], &["--no-check-certificate"], words].concat();
        let ran = room.run(wget.words(&words), rows).unwrap();
        let output = ran.by(&wget).unwrap().output;
        assert_eq!(output.code(), *code, "{output}");
        assert!(output.stderr.contains(says), "{output}");
    }
    assert_eq!(requests(), before);
    room.close().unwrap();
    for (words, ..) in &cases {
        let words = [&flags[..], &["--no-check-certificate"], words].concat();
        let free = ungoverned(&world, wget.words(&words)).unwrap();
        assert!(free.status.success(), "without the guard: {free}");
    }
}

#[test]
fn the_wget_of_busybox_too() {
    let Some(busybox) = Program::find("busybox").unwrap() else {
        return;
    };
    let world = world("busybox").start().unwrap();
    let room = Room::open(&world).unwrap();
    let words = |url| {
        let words: Vec<String> = ["wget", "-q", "-O", "-", url].map(str::to_owned).to_vec();
        [vec![busybox.path.to_str().unwrap().to_owned()], words].concat()
    };
    let url = "http://api.example.com/bytes/100000";
    let free = ungoverned(&world, words(url)).unwrap().success().unwrap();
    let ran = room
        .run(
            words(url),
            &[
                format!("allow dns dns_query {SITE}:53 rule_allow"),
                format!("allow proxy http_request {SITE}:80 GET /bytes/100000 rule_allow"),
            ],
        )
        .unwrap();
    let output = ran.by(&busybox).unwrap().output;
    assert_eq!(output.success().unwrap().stdout, free.stdout);

    for (url, says, row) in [
        (
            "http://www.paste.example/",
            "bad address 'www.paste.example'",
            format!("deny dns dns_query {PASTE}:53 rule_deny"),
        ),
        (
            "http://203.0.113.16/",
            "can't connect to remote host (203.0.113.16): Operation not permitted",
            "deny kernel connect 203.0.113.16:80 no_rule".to_owned(),
        ),
    ] {
        assert!(ungoverned(&world, words(url)).unwrap().status.success());
        let output = room.run(words(url), &[row]).unwrap().output;
        assert_eq!(output.code(), 1, "{output}");
        assert!(output.stderr.contains(says), "{output}");
    }
    room.close().unwrap();
}

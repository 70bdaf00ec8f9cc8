//! The world itself: real clients reach its servers, what arrives is counted, nothing is left.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use agentguard_tests::dns::Fault;
use agentguard_tests::origin::{BANNER, port};
use agentguard_tests::{Origin, Output, Tag, World, WorldBuilder, address, client, leftover};
use anyhow::{Context as _, Result, ensure};

const SITE: &str = "api.example.com";

fn one_site(name: &str) -> WorldBuilder {
    World::new(name).origin(Origin::at(&address::origin(0x10)).site(SITE))
}

/// Runs `curl` in the host with these arguments and gives its output, whatever its end.
fn curl(world: &World, words: &[&str]) -> Result<Output> {
    let curl = world
        .host()
        .command("curl")
        .args(["-sS", "--max-time", "10"]);
    let curl = curl.args(["--cacert".as_ref(), world.ca_file().as_os_str()]);
    curl.args(words).run()
}

#[test]
fn curl_reaches_the_origin_over_every_family_and_version() {
    let world = one_site("curl").start().unwrap();
    if client::find("curl").unwrap().is_none() {
        return;
    }
    let [four, six] = address::origin(0x10);
    let cases = [
        (
            vec!["-4", "https://api.example.com/a"],
            "TLSv1_3",
            "HTTP/2.0",
            four,
        ),
        (
            vec!["-6", "https://api.example.com/b"],
            "TLSv1_3",
            "HTTP/2.0",
            six,
        ),
        (
            vec!["-4", "--tls-max", "1.2", "https://api.example.com/c"],
            "TLSv1_2",
            "HTTP/2.0",
            four,
        ),
        (
            vec!["-6", "--tlsv1.3", "--http1.1", "https://api.example.com/d"],
            "TLSv1_3",
            "HTTP/1.1",
            six,
        ),
        (vec!["-4", "http://api.example.com/e"], "", "HTTP/1.1", four),
        (vec!["-6", "http://api.example.com/f"], "", "HTTP/1.1", six),
    ];
    for (words, tls, version, local) in &cases {
        let output = curl(&world, words).unwrap().success().unwrap();
        let told: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        let requests = world.origin(SITE).unwrap().log().requests().unwrap();
        let request = requests.last().unwrap();
        assert_eq!(request.version, *version, "{words:?}");
        assert_eq!(told["version"], *version, "{words:?}");
        let agreed = request.tls.as_ref().map_or("", |tls| tls.version.as_str());
        assert_eq!(agreed, *tls, "{words:?}");
        assert_eq!(request.local.ip(), *local, "{words:?}");
        assert_eq!(request.host.as_deref(), Some(SITE), "{words:?}");
        if let Some(tls) = &request.tls {
            assert_eq!(tls.sni.as_deref(), Some(SITE));
        }
    }
    let requests = world.origin(SITE).unwrap().log().requests().unwrap();
    assert_eq!(requests.len(), cases.len());
}

#[test]
fn a_body_is_counted_and_told_back() {
    let world = one_site("bodies").start().unwrap();
    let output = curl(&world, &["-d", "hello", "https://api.example.com/echo"]).unwrap();
    let told: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(told["body"], "hello");
    let request = &world.origin(SITE).unwrap().log().requests().unwrap()[0];
    assert_eq!((request.method.as_str(), request.body), ("POST", 5));
    assert_eq!(request.header("content-length"), Some("5"));
    let connection = &world.origin(SITE).unwrap().log().connections().unwrap()[0];
    assert!(
        connection.received > 200,
        "a handshake and a request: {connection:?}"
    );
}

#[test]
fn other_clients_reach_it_too() {
    let world = one_site("clients").start().unwrap();
    let ca = world.ca_file().to_str().unwrap().to_owned();
    let node = format!("require('https').get('https://{SITE}/', r => r.pipe(process.stdout))");
    let python = format!(
        "import asyncio, ssl\n\
         async def main():\n\
         \x20   context = ssl.create_default_context(cafile='{ca}')\n\
         \x20   r, w = await asyncio.open_connection('{SITE}', 443, ssl=context)\n\
         \x20   w.write(b'GET / HTTP/1.1\\r\\nHost: {SITE}\\r\\nConnection: close\\r\\n\\r\\n')\n\
         \x20   print((await r.read()).decode())\n\
         asyncio.run(main())"
    );
    let https = format!("https://{SITE}/");
    let plain = format!("http://{SITE}/");
    let cases: [(&str, Vec<&str>); 5] = [
        ("wget", vec!["-qO-", &https]),
        ("busybox", vec!["wget", "-qO-", &plain]),
        ("node", vec!["-e", &node]),
        ("python3", vec!["-c", &python]),
        ("curl", vec!["-sS", &https]),
    ];
    for (program, words) in cases {
        if client::find(program).unwrap().is_none() {
            continue;
        }
        let mut call = world.host().command(program).args(words);
        if program == "wget" {
            call = call.arg("--ca-certificate").arg(&ca);
        }
        for (name, file) in world.trust() {
            call = call.env(name, file);
        }
        let output = call.run().unwrap().success().unwrap();
        assert!(output.stdout.contains("\"method\":\"GET\""), "{output}");
    }
}

#[test]
fn git_clones_over_https() {
    let Some(git) = client::find("git").unwrap() else {
        return;
    };
    // Made before the world, so that nothing is in it yet: a repository as a plain file server has it.
    let source = std::env::temp_dir().join(Tag::next().directory());
    let run = |words: &[&str]| {
        let output = Command::new(&git)
            .args(["-c", "user.name=a", "-c", "user.email=a@example.com"])
            .args(words)
            .current_dir(&source)
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
    };
    fs::create_dir(&source).unwrap();
    run(&["init", "-q"]);
    run(&["commit", "-q", "--allow-empty", "-m", "first"]);
    run(&["update-server-info"]);

    let origin = Origin::at(&address::origin(0x10)).site("git.example.com");
    let world = World::new("git")
        .origin(origin.files(&source))
        .start()
        .unwrap();
    let clone = world.host().command(&git);
    let clone = clone.args(["clone", "-q", "https://git.example.com/files/.git", "clone"]);
    let clone = world
        .trust()
        .into_iter()
        .fold(clone, |clone, (name, file)| clone.env(name, file));
    clone
        .current_dir(world.directory())
        .run()
        .unwrap()
        .success()
        .unwrap();
    assert!(world.directory().join("clone/.git/HEAD").exists());
    fs::remove_dir_all(&source).unwrap();
}

#[test]
fn a_musl_client_and_raw_protocols() {
    let world = one_site("raw").start().unwrap();
    let Some(fetch) = client::musl_fetch(world.directory()).unwrap() else {
        return;
    };
    let ask = |port: u16, line: &str| {
        let call = world.host().command(&fetch);
        call.args([SITE, &port.to_string(), line]).run().unwrap()
    };
    assert_eq!(ask(port::ECHO, "hello").stdout, "hello");
    assert_eq!(ask(port::BANNER, "hello").stdout, format!("{BANNER}hello"));
    assert_eq!(ask(port::COUNT, "12345").stdout, "received 5 bytes\n");
    assert_eq!(ask(port::FAREWELL, "12345").stdout, "farewell\n");
    let connections = world.origin(SITE).unwrap().log().connections().unwrap();
    let received: Vec<_> = connections
        .iter()
        .map(|it| (it.local.port(), it.received))
        .collect();
    assert_eq!(
        received,
        [
            (port::ECHO, 5),
            (port::BANNER, 5),
            (port::COUNT, 5),
            (port::FAREWELL, 5)
        ]
    );

    let call = world
        .host()
        .command(&fetch)
        .args(["no.example.com", "7", "x"]);
    assert_eq!(call.run().unwrap().code(), 2);
}

#[test]
fn datagrams_are_echoed() {
    let world = one_site("udp").start().unwrap();
    for address in address::origin(0x10) {
        let echoed = world.host().enter(|| {
            let any = if address.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            let socket = std::net::UdpSocket::bind(any)?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            socket.connect((address, port::ECHO))?;
            socket.send(b"ping")?;
            let mut buffer = [0; 16];
            let length = socket.recv(&mut buffer)?;
            Ok::<_, std::io::Error>(buffer[..length].to_vec())
        });
        assert_eq!(echoed.unwrap().unwrap(), b"ping", "{address}");
    }
    let log = world.origin(SITE).unwrap().log().connections().unwrap();
    assert!(
        log.iter()
            .all(|it| it.udp && it.received == 4 && it.sent == 4),
        "{log:?}"
    );
}

#[test]
fn the_origin_misbehaves_on_request() {
    let world = one_site("misbehaviour").start().unwrap();
    // curl's exit codes: 0 done, 18 partial file, 28 timed out, 52 nothing, 56 receive error.
    let cases = [
        ("bytes/100000", 0, Some(100_000)),
        ("chunked/100000", 0, Some(100_000)),
        ("trickle/5", 0, Some(5)),
        ("truncate/1000", 18, Some(1000)),
        ("reset/1000", 56, None),
        ("hangup", 52, Some(0)),
    ];
    for (path, code, length) in cases {
        let output = curl(&world, &[&format!("http://{SITE}/{path}")]).unwrap();
        assert_eq!(output.code(), code, "{output}");
        if let Some(length) = length {
            assert_eq!(output.stdout.len(), length, "{path}");
        }
    }
    let output = curl(&world, &[&format!("https://{SITE}/sse/3")]).unwrap();
    assert_eq!(output.stdout.matches("data: event").count(), 3, "{output}");

    // Nobody sends the request that the other half waits for.
    let held = ["-N", "--max-time", "2", "-H", "x-hold: yes"];
    let held = [&held[..], &["http://api.example.com/sse/4"]].concat();
    let output = curl(&world, &held).unwrap();
    assert_eq!(output.code(), 28, "{output}");
    assert_eq!(output.stdout.matches("data: event").count(), 2, "{output}");

    let status = ["-o", "/dev/null", "-w", "%{http_code}"];
    let early = [&status[..], &["-d", "x", "http://api.example.com/early"]].concat();
    assert_eq!(curl(&world, &early).unwrap().stdout, "413");
    let teapot = [&status[..], &["https://api.example.com/status/418"]].concat();
    assert_eq!(curl(&world, &teapot).unwrap().stdout, "418");

    let slow = ["--max-time", "0.2", "http://api.example.com/delay/60000"];
    assert_eq!(curl(&world, &slow).unwrap().code(), 28);
}

#[test]
fn a_reset_in_the_middle_is_a_reset_on_the_wire() {
    let world = one_site("reset").start().unwrap();
    let [address, _] = address::origin(0x10);
    let ended = world.host().enter(|| {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect((address, port::RESET))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"x")?;
        stream.read(&mut [0; 1])
    });
    let error = ended.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn two_sites_of_one_address_have_a_certificate_each() {
    let origin = Origin::at(&address::origin(0x10)).site("a.example.com");
    let origin = origin.site("b.example.com").expired_site("old.example.com");
    let world = World::new("sites").origin(origin).start().unwrap();
    for site in ["a.example.com", "b.example.com"] {
        let url = format!("https://{site}/");
        curl(&world, &[&url]).unwrap().success().unwrap();
    }
    // 60: the certificate is not accepted.
    let to = "b.example.com:443:203.0.113.16";
    let wrong = [
        "--connect-to",
        "c.example.com:443:b.example.com:443",
        "--resolve",
        to,
    ];
    let wrong = [&wrong[..], &["https://c.example.com/"]].concat();
    assert_eq!(curl(&world, &wrong).unwrap().code(), 60);
    assert_eq!(
        curl(&world, &["https://old.example.com/"]).unwrap().code(),
        60
    );
}

#[test]
fn the_name_server_answers_dig() {
    let [four, six] = address::origin(0x10);
    let world = one_site("dig")
        .zone(|zone| {
            zone.alias("www.example.com", SITE)
                .unwrap()
                .text("txt.example.com", "a text")
                .https(SITE, &[four, six])
                .address(
                    "many.example.com",
                    &(1..=100).map(|n| address::origin(n)[0]).collect::<Vec<_>>(),
                )
                .fault("broken.example.com", Fault::ServerFailure)
                .fault("cut.example.com", Fault::Truncated)
                .address("cut.example.com", &[four])
                .fault("silent.example.com", Fault::Silence)
                .fault("forged.example.com", Fault::WrongId)
        })
        .start()
        .unwrap();
    if client::find("dig").unwrap().is_none() {
        return;
    }
    let dig = |words: &[&str]| {
        let dig = world.host().command("dig").args(["+tries=1", "+time=1"]);
        dig.args(words).run().unwrap().stdout
    };
    assert_eq!(dig(&["+short", SITE]), "203.0.113.16\n");
    assert_eq!(
        dig(&["+short", SITE, "AAAA", "@2001:db8:113::53"]),
        "2001:db8:113::10\n"
    );
    assert_eq!(dig(&["+short", "+tcp", SITE]), "203.0.113.16\n");
    assert_eq!(
        dig(&["+short", "www.example.com"]),
        "api.example.com.\n203.0.113.16\n"
    );
    assert_eq!(dig(&["+short", "txt.example.com", "TXT"]), "\"a text\"\n");
    let https = dig(&["+short", SITE, "HTTPS"]);
    assert!(
        https.contains("alpn=\"h3,h2\"") && https.contains("ech="),
        "{https}"
    );
    assert!(dig(&["no.example.com"]).contains("status: NXDOMAIN"));
    assert!(dig(&["broken.example.com"]).contains("status: SERVFAIL"));
    // Both are asked again over TCP: one because it is long, the other because we say so.
    assert_eq!(dig(&["+short", "many.example.com"]).lines().count(), 100);
    assert_eq!(dig(&["+short", "cut.example.com"]), "203.0.113.16\n");
    assert!(dig(&["silent.example.com"]).contains("no servers could be reached"));
    assert!(!dig(&["forged.example.com"]).contains("status:"));

    assert_eq!(world.dns().count("www.example.com").unwrap(), 1);
    let queries = world.dns().queries().unwrap();
    let cut: Vec<_> = queries
        .iter()
        .filter(|query| query.name == "cut.example.com")
        .collect();
    assert_eq!(
        cut.iter().map(|query| query.tcp).collect::<Vec<_>>(),
        [false, true]
    );

    world.dns().change(|zone| zone.without(SITE));
    assert!(dig(&[SITE]).contains("status: NXDOMAIN"));
}

#[test]
fn the_wire_counts_what_nobody_answers() {
    let world = one_site("canary").start().unwrap();
    assert_eq!(world.canary().unwrap(), 0);

    // 7: could not connect. Refused at once, since the address exists.
    assert_eq!(curl(&world, &["http://192.0.2.66/"]).unwrap().code(), 7);
    assert_eq!(world.canary().unwrap(), 1);
    assert_eq!(
        curl(&world, &["http://[2001:db8:113::66]/"])
            .unwrap()
            .code(),
        7
    );
    assert_eq!(world.canary().unwrap(), 2);

    let private = "10.1.2.3".parse().unwrap();
    let sent = world.host().enter(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..100 {
            socket.send_to(b"x", (private, 9)).unwrap();
        }
    });
    sent.unwrap();
    assert_eq!(world.arrivals(private).unwrap(), 100);
    assert_eq!(world.canary().unwrap(), 2);
}

#[test]
fn two_worlds_at_once_do_not_see_each_other() {
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| one_site("one").start().unwrap());
        let two = scope.spawn(|| one_site("two").start().unwrap());
        (one.join().unwrap(), two.join().unwrap())
    });
    curl(&one, &["-4", "https://api.example.com/only-one"])
        .unwrap()
        .success()
        .unwrap();
    let requests = |world: &World| world.origin(SITE).unwrap().log().requests().unwrap().len();
    assert_eq!((requests(&one), requests(&two)), (1, 0));
    let [origin, _] = address::origin(0x10);
    assert!(one.arrivals(origin).unwrap() > 0);
    assert_eq!(two.arrivals(origin).unwrap(), 0);
    // Each has a CA of its own.
    let stranger = two.host().command("curl").args(["-sS", "--cacert"]);
    let stranger = stranger.arg(one.ca_file()).arg("https://api.example.com/");
    assert_eq!(stranger.run().unwrap().code(), 60);
}

/// Makes everything that a test can leave beside a world, and gives the stray process's id.
fn leave_things(world: &World) -> Result<u32> {
    let sleeper = world.host().command("sleep").arg("1000").spawn()?;
    let id = sleeper.id();
    // It is not to be ended by its own drop.
    std::mem::forget(sleeper);
    let cgroup = leftover::cgroup_mount().context("no cgroup v2")?;
    let cgroup = cgroup.join(format!("{}.1", world.tag().directory()));
    fs::create_dir_all(cgroup.join("agent/child"))?;
    fs::write(cgroup.join("agent/child/cgroup.procs"), id.to_string())?;
    let mount = world.directory().join("bpf");
    fs::create_dir(&mount)?;
    let mounted = Command::new("mount")
        .args(["-t", "bpf", "bpf"])
        .arg(&mount)
        .status()?;
    ensure!(mounted.success(), "no bpffs");
    Ok(id)
}

#[test]
fn everything_is_removed_after_a_panic() {
    let mut seen = None;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let world = one_site("panic").start().unwrap();
        let stray = leave_things(&world).unwrap();
        // Two namespaces, a directory, a process, a cgroup, a mount.
        assert_eq!(leftover::of(world.tag()).unwrap().len(), 6);
        seen = Some((world.tag(), stray));
        panic!("as tests do");
    }));
    let message = panicked.unwrap_err();
    assert_eq!(message.downcast_ref::<&str>(), Some(&"as tests do"));
    let (tag, stray) = seen.unwrap();
    assert_eq!(leftover::of(tag).unwrap(), []);
    let status = fs::read_to_string(format!("/proc/{stray}/stat")).unwrap_or_default();
    assert!(status.is_empty() || status.contains(") Z "), "{status}");
}

#[test]
fn the_next_world_removes_what_a_killed_run_left() {
    let gone: Tag = "4194305-2".parse().unwrap();
    let name = gone.namespace("host");
    let added = Command::new("ip").args(["netns", "add", &name]).status();
    assert!(added.unwrap().success());
    let directory = std::env::temp_dir().join(gone.directory());
    fs::create_dir(&directory).unwrap();
    let cgroup = leftover::cgroup_mount().unwrap().join(gone.directory());
    fs::create_dir_all(cgroup.join("agent")).unwrap();

    let world = one_site("sweep").start().unwrap();
    for path in [Path::new("/run/netns").join(&name), directory, cgroup] {
        assert!(!path.exists(), "{}", path.display());
    }
    assert!(!leftover::of(world.tag()).unwrap().is_empty());
}

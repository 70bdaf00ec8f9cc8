//! `agentguard run --isolate`: a namespace without a way out, where allowed names work all the same.

use std::ffi::OsStr;

use agentguard_model::{ActionKind, Layer};
use agentguard_tests::Invocation;

use crate::room::{AGENT, PASTE, Program, Room, SITE, python, ungoverned, world};

fn isolated<'r, S: AsRef<OsStr>>(
    room: &'r Room<'_>,
    words: impl IntoIterator<Item = S>,
) -> Invocation<'r> {
    let run = room.guard.cli();
    let run = run.args(["run", "--agent", AGENT, "--isolate", "--"]);
    let trust = room.world.trust().into_iter();
    trust.fold(run.args(words), |run, (name, file)| run.env(name, file))
}

const RESOLVE: &str = "
import socket
for family in [socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6]:
    found = socket.getaddrinfo('api.example.com', 22, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
    with socket.create_connection(found[0][4][:2]) as s:
        print(len(found), s.makefile().readline().strip())
";

const ESCAPE: &str = "
import socket
def attempt(work, *words):
    try:
        work(*words)
        print('done')
    except OSError as error:
        print(type(error).__name__)
def send(family, where):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.sendto(b'x', where)
def dial(family, where):
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.connect(where)
        s.sendall(b'x')
        s.recv(1)
for family, where in [(socket.AF_INET, '192.0.2.66'), (socket.AF_INET6, '2001:db8:113::66'), (socket.AF_INET6, '::ffff:192.0.2.66')]:
    attempt(send, family, (where, 7))
    attempt(dial, family, (where, 22))
attempt(socket.getaddrinfo, 'www.paste.example', 22)
";

#[test]
fn allowed_names_work_in_an_isolated_namespace_and_nothing_else_leaves() {
    let world = world("isolated").start().unwrap();
    let room = Room::open(&world).unwrap();
    let query = format!("allow dns dns_query {SITE}:53 rule_allow");
    if let Some(curl) = Program::find("curl").unwrap() {
        for (url, row) in [
            (
                "https://api.example.com/bytes/50000",
                format!("allow proxy connect {SITE}:443 rule_allow"),
            ),
            (
                "http://api.example.com/bytes/50000",
                format!("allow proxy http_request {SITE}:80 GET /bytes/50000 rule_allow"),
            ),
        ] {
            let words = ["-sS", "--max-time", "10", url];
            let free = ungoverned(&world, curl.words(&words)).unwrap();
            let call = isolated(&room, curl.words(&words));
            let ran = room.call(call, &[query.clone(), row]).unwrap();
            let output = ran.by(&curl).unwrap().output;
            assert_eq!(output.success().unwrap().stdout, free.stdout);
        }
        let words = ["-sS", "--max-time", "10", "http://203.0.113.16/"];
        let row = "deny kernel connect 203.0.113.16:80 no_rule";
        let ran = room
            .call(isolated(&room, curl.words(&words)), &[row])
            .unwrap();
        assert_eq!(ran.output.code(), 7, "{}", ran.output);
    }
    if let Some(dig) = Program::find("dig").unwrap() {
        for words in [vec!["+short", SITE], vec!["+short", "+tcp", SITE]] {
            let call = isolated(&room, dig.words(&words));
            let ran = room.call(call, &[&query]).unwrap();
            let output = ran.output.success().unwrap();
            assert!(output.stdout.starts_with("198.1"), "{output}");
        }
        let words = ["+tries=1", "@192.0.2.66", PASTE];
        let row = format!("deny dns dns_query {PASTE}:53 rule_deny");
        let ran = room
            .call(isolated(&room, dig.words(&words)), &[row])
            .unwrap();
        assert!(ran.output.stdout.contains("NXDOMAIN"), "{}", ran.output);
    }
    assert_eq!(world.canary().unwrap(), 0);
    if let Some(python) = python().unwrap() {
        let words = ["-c", RESOLVE];
        let free = ungoverned(&world, python.words(&words)).unwrap();
        let connect = format!("allow proxy connect {SITE}:22 rule_allow");
        let rows = [vec![query; 3], vec![connect; 3]].concat();
        let ran = room
            .call(isolated(&room, python.words(&words)), &rows)
            .unwrap();
        let output = ran.by(&python).unwrap().output;
        assert_eq!(output.success().unwrap().stdout, free.stdout);

        let words = ["-c", ESCAPE];
        let mut rows = vec![format!("deny dns dns_query {PASTE}:53 rule_deny")];
        for ip in ["192.0.2.66", "[2001:db8:113::66]", "192.0.2.66"] {
            rows.push(format!("deny kernel datagram {ip}:7 no_rule"));
            rows.push(format!("deny kernel connect {ip}:22 no_rule"));
        }
        let ran = room
            .call(isolated(&room, python.words(&words)), &rows)
            .unwrap();
        let output = ran.by(&python).unwrap().output;
        let said = format!("{}gaierror\n", "PermissionError\n".repeat(6));
        assert_eq!(output.success().unwrap().stdout, said);
        assert_eq!(world.canary().unwrap(), 0);
        let free = ungoverned(&world, python.words(&words)).unwrap();
        assert!(free.stdout.starts_with("done\n"), "{free}");
        assert!(world.canary().unwrap() > 0, "without the guard");
    }
    room.close().unwrap();
}

/// No route leads out of an isolated namespace, so that what a rule would let go directly goes
/// through the proxy.
#[test]
fn what_is_direct_elsewhere_goes_through_the_proxy_here() {
    let world = world("enclosed").start().unwrap();
    let policy = "
version: 1
agents: [{ name: coder }]
rules:
  - id: direct
    match: { host: [api.example.com], port: [443] }
    action: allow
    handling: direct
";
    let guard = world.guard().policy(policy).start().unwrap();
    let Some(curl) = Program::find("curl").unwrap() else {
        return;
    };
    let words = curl.words(&[
        "-sS",
        "--max-time",
        "10",
        "https://api.example.com/bytes/500",
    ]);
    let run = |isolate: &[&str]| {
        let run = guard.cli().args(["run", "--agent", AGENT]).args(isolate);
        let trust = world.trust().into_iter();
        let run = trust.fold(run.arg("--").args(&words), |run, (name, file)| {
            run.env(name, file)
        });
        run.run().unwrap().success().unwrap().stdout
    };
    let direct = run(&[]);
    assert_eq!(run(&["--isolate"]), direct);
    let layers = guard
        .wait_verdicts("both connections", |decisions| {
            let connects = decisions
                .iter()
                .filter(|d| d.action.kind == ActionKind::Connect);
            let layers: Vec<Layer> = connects.map(|d| d.layer).collect();
            (layers.len() >= 2).then_some(layers)
        })
        .unwrap();
    assert_eq!(layers, [Layer::Kernel, Layer::Proxy]);
}

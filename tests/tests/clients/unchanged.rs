//! What goes through inspected TLS, in both directions, is what goes without the guard: each client's
//! requests as they arrive with all their fields, and the answers as it sees them.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use agentguard_model::ActionKind;
use agentguard_tests::{Invocation, Output, World, client, wait_until};
use anyhow::{Context as _, Result, ensure};

use crate::inspected::{inspected, open};
use crate::room::{LATE, Program, Room, SITE, node, row, world};

/// What each client asks for: with a length and without, as it comes, with a body, without one to
/// the answer, and what is not there.
const ASKED: [(&str, &str); 6] = [
    ("GET", "/bytes/2000"),
    ("GET", "/chunked/70000"),
    ("GET", "/sse/3"),
    ("POST", "/bytes/8"),
    ("HEAD", "/bytes/9"),
    ("GET", "/files/none?a=b&c=%20d"),
];

const NODE: &str = r#"
const https = require('https');
const agent = new https.Agent({ keepAlive: true });
const show = (who, status, fields, body) =>
  console.log(who, status, JSON.stringify(fields.filter(([name]) => name.toLowerCase() !== 'date')), body);
const ask = (method, url) => new Promise((done, failed) => {
  const options = { agent, method, headers: { 'X-Case': 'Kept', Cookie: 'a=b; c=d' } };
  https.request(url, options, reply => {
    let got = '';
    const raw = reply.rawHeaders;
    const fields = raw.flatMap((name, at) => at % 2 ? [] : [[name, raw[at + 1]]]);
    reply.on('data', data => got += data);
    reply.on('end', () => done(show('https', reply.statusCode, fields, got)));
  }).on('error', failed).end(method === 'POST' ? 'a body' : undefined);
});
(async () => {
  for (let at = 1; at + 1 < process.argv.length; at += 2) {
    const [method, url] = [process.argv[at], process.argv[at + 1]];
    await ask(method, url);
    const body = method === 'POST' ? 'a body' : undefined;
    const reply = await fetch(url, { method, body, headers: { 'X-Case': 'Kept' } });
    show('fetch', reply.status, [...reply.headers], await reply.text());
  }
  agent.destroy();
})();
"#;

const PYTHON: &str = r#"
import sys
import httpx, requests

def show(answer):
    fields = [(name, value) for name, value in answer.headers.items() if name.lower() != "date"]
    print(answer.status_code, fields, answer.content)

fields = {"X-Case": "Kept", "Cookie": "a=b; c=d"}
with requests.Session() as one, httpx.Client(http2=True) as two, httpx.Client() as three:
    for method, url in zip(sys.argv[1::2], sys.argv[2::2]):
        body = "a body" if method == "POST" else None
        show(one.request(method, url, data=body, headers=fields))
        for other in (two, three):
            show(other.request(method, url, content=body, headers=fields))
"#;

/// The arguments that name what is asked for.
fn asked() -> Vec<OsString> {
    let words = ASKED.map(|(method, path)| [method.into(), format!("https://{SITE}{path}").into()]);
    words.concat()
}

/// What arrived, without what differs from one connection to the next: `connection` is for one hop, and
/// fields of different names have no order (RFC 9110, 5.3 and 7.6.1).
pub(crate) fn arrived(world: &World, site: &str) -> Result<Vec<String>> {
    let requests = world.origin(site)?.log().requests()?;
    let requests = requests.into_iter().map(|it| {
        let (method, target, host, mut fields) = (it.method, it.target, it.host, it.headers);
        fields.retain(|(name, _)| name != "connection");
        fields.sort();
        let (version, body) = (it.version, it.body);
        format!("{version} {method} {target} {host:?} {fields:?} {body}")
    });
    Ok(requests.collect())
}

/// Runs a client without and with the guard, and compares what arrived. Says what it printed.
fn unchanged(
    room: &Room<'_>,
    free: Invocation<'_>,
    governed: &[OsString],
    times: usize,
) -> Result<[Output; 2]> {
    let before = arrived(room.world, SITE)?.len();
    let free = free.run()?.success()?;
    let without = arrived(room.world, SITE)?.split_off(before);
    ensure!(without.len() == times * ASKED.len(), "{without:#?}");
    let before = arrived(room.world, SITE)?.len();
    let output = inspected(room, governed).run()?.success()?;
    let with = arrived(room.world, SITE)?.split_off(before);
    ensure!(with == without, "without: {without:#?}\nwith: {with:#?}");
    recorded(room, times)?;
    Ok([free, output])
}

/// Waits until the record has what was asked for as often, and otherwise only queries.
fn recorded(room: &Room<'_>, times: usize) -> Result<()> {
    let requests = ASKED.map(|(method, path)| {
        let path = path.split('?').next().unwrap_or_default();
        format!("allow proxy http_request {SITE}:443 {method} {path} rule_allow")
    });
    let mut expected: Vec<_> = std::iter::repeat_n(requests, times).flatten().collect();
    expected.sort();
    let mut rows = Vec::new();
    let waited = wait_until("the record", LATE, || {
        let decisions = room.new_decisions().ok()?;
        let others = decisions
            .iter()
            .filter(|it| it.action.kind != ActionKind::DnsQuery);
        rows = others.map(row).collect();
        rows.sort();
        (rows == expected).then_some(decisions.len())
    });
    let count = waited.with_context(|| format!("expected: {expected:#?}\nfound: {rows:#?}"))?;
    room.settled(count).map(drop)
}

/// A client that trusts what variables say.
fn free<'w>(world: &'w World, words: &[OsString]) -> Invocation<'w> {
    let mut words = words.iter();
    let call = world
        .host()
        .command(words.next().map_or(OsStr::new(""), OsString::as_os_str));
    let call = call.args(words);
    let trust = world.trust().into_iter();
    trust.fold(call, |call, (name, file)| call.env(name, file))
}

fn words<S: AsRef<OsStr>>(program: &Path, words: &[S]) -> Vec<OsString> {
    let words = words.iter().map(|word| word.as_ref().to_owned());
    [program.into()].into_iter().chain(words).collect()
}

#[test]
fn node_s_clients_send_and_receive_the_same() {
    let Some(node) = node().unwrap() else {
        return;
    };
    let world = world("unchanged-node").start().unwrap();
    let room = open(&world).unwrap();
    let words = [words(&node.path, &["-e", NODE]), asked()].concat();
    let [free, output] = unchanged(&room, free(&world, &words), &words, 2).unwrap();
    assert_eq!(output.stdout, free.stdout);
    room.close().unwrap();
}

#[test]
fn requests_and_httpx_send_and_receive_the_same() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("unchanged-python").start().unwrap();
    let room = open(&world).unwrap();
    let words = [words(&python, &["-c", PYTHON]), asked()].concat();
    let [free, output] = unchanged(&room, free(&world, &words), &words, 3).unwrap();
    assert_eq!(output.stdout, free.stdout);
    room.close().unwrap();
}

#[test]
fn curl_sends_and_receives_the_same() {
    let Some(curl) = Program::find("curl").unwrap() else {
        return;
    };
    let world = world("unchanged-curl").start().unwrap();
    let room = open(&world).unwrap();
    for version in ["--http1.1", "--http2"] {
        let mut all = vec![OsString::from(&curl.path)];
        for (number, (method, path)) in ASKED.iter().enumerate() {
            let next = if number > 0 { &["--next"][..] } else { &[] };
            let kind = match *method {
                "POST" => &["-d", "a body"][..],
                "HEAD" => &["-I"],
                _ => &[],
            };
            let url = format!("https://{SITE}{path}");
            let options = [
                "-sSi",
                "--max-time",
                "10",
                version,
                "-H",
                "X-Case: Kept",
                &url,
            ];
            let all_of_it = [next, &options, kind].concat();
            all.extend(all_of_it.iter().map(OsString::from));
        }
        let [free, output] = unchanged(&room, free(&world, &all), &all, 1).unwrap();
        let fixed = |output: &Output| -> Vec<String> {
            let lines = output.stdout.lines();
            let lines = lines.filter(|line| !line.starts_with("date:"));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(fixed(&output), fixed(&free));
    }
    room.close().unwrap();
}

#[test]
fn wget_sends_and_receives_the_same() {
    let Some(wget) = Program::find("wget").unwrap() else {
        return;
    };
    let world = world("unchanged-wget").start().unwrap();
    let room = open(&world).unwrap();
    // One method for all that a call asks for, and HEAD under the name of another option.
    let ca = format!("--ca-certificate={}", world.ca_file().display());
    let mut calls = Vec::new();
    for (method, path) in ASKED {
        let url = format!("https://{SITE}{path}");
        let kind = match method {
            "POST" => "--post-data=a body",
            "HEAD" => "--spider",
            _ => "--content-on-error",
        };
        let options = ["-S", "-nv", "-t", "1", "-T", "10", "-O", "-", kind, &url];
        calls.push(options.map(str::to_owned));
    }
    let run = |governed: bool| -> Result<(Vec<String>, Vec<String>)> {
        let before = arrived(&world, SITE)?.len();
        let mut said = Vec::new();
        for options in &calls {
            let options = words(&wget.path, options);
            let output = if governed {
                inspected(&room, &options).run()?
            } else {
                free(&world, &options).arg(&ca).run()?
            };
            said.push(format!("{} {}", output.code(), output.stdout));
            let lines = output.stderr.lines().filter(|line| line.starts_with("  "));
            let lines = lines.filter(|line| !line.trim().to_lowercase().starts_with("date:"));
            said.extend(lines.map(str::to_owned));
        }
        Ok((arrived(&world, SITE)?.split_off(before), said))
    };
    let free = run(false).unwrap();
    assert_eq!(free.0.len(), ASKED.len(), "{free:#?}");
    assert!(
        free.1.iter().any(|line| line.contains("HTTP/1.1 404")),
        "{free:#?}"
    );
    assert_eq!(run(true).unwrap(), free);
    recorded(&room, 1).unwrap();
    room.close().unwrap();
}

#[test]
fn java_s_client_sends_and_receives_the_same() {
    let (Some(java), Some(keytool)) = (
        Program::find("java").unwrap(),
        Program::find("keytool").unwrap(),
    ) else {
        return;
    };
    let world = world("unchanged-java").start().unwrap();
    let room = open(&world).unwrap();
    // Without the guard nothing makes Java trust the world's authority.
    let store = world.directory().join("store");
    let import = [
        "-importcert",
        "-noprompt",
        "-storepass",
        "changeit",
        "-keystore",
    ];
    let import = world.host().command(&keytool.path).args(import).arg(&store);
    let import = import.arg("-file").arg(world.ca_file());
    import.run().unwrap().success().unwrap();
    let trust = format!("-Djavax.net.ssl.trustStore={}", store.display());
    let client = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/Fetch.java");
    let governed = [words(&java.path, &[client, "--fields"]), asked()].concat();
    let password = "-Djavax.net.ssl.trustStorePassword=changeit";
    let alone = words(&java.path, &[&trust, password, client, "--fields"]);
    let alone = [alone, asked()].concat();
    let [free, output] = unchanged(&room, free(&world, &alone), &governed, 1).unwrap();
    assert!(free.stdout.contains("content-length"), "{free}");
    assert_eq!(output.stdout, free.stdout);
    room.close().unwrap();
}

//! Node: libuv's threads, its own resolver (c-ares) beside libc's.

use crate::room::{AGENT, PASTE, Room, SITE, node, ungoverned, world};

/// Each prints lines in the order of its steps, whatever happens.
const ALLOWED: &str = r#"
const net = require('net'), http = require('http'), https = require('https'), dns = require('dns');
const raw = host => new Promise(done => {
  const socket = net.connect(22, host);
  let got = '';
  socket.on('data', data => { if (!got) socket.end('hello\n'); got += data; });
  socket.on('close', () => done(got));
  socket.on('error', error => done(error.code));
});
const get = (web, url) => new Promise(done => {
  web.get(url, { agent: false }, reply => {
    let length = 0;
    reply.on('data', data => length += data.length);
    reply.on('end', () => done(reply.statusCode + ' ' + length));
  }).on('error', error => done(error.code));
});
(async () => {
  console.log(await raw('api.example.com'));
  console.log(await get(http, 'http://api.example.com/bytes/70000'));
  console.log(await get(https, 'https://api.example.com/chunked/70000'));
  console.log((await dns.promises.lookup('four.example.com')).family);
  console.log((await dns.promises.resolve4('four.example.com')).length);
})();
"#;

const DENIED: &str = r#"
const net = require('net'), http = require('http'), dns = require('dns'), dgram = require('dgram');
const raw = (host, port) => new Promise(done => {
  const socket = net.connect(port, host);
  socket.on('connect', () => { socket.destroy(); done('connected'); });
  socket.on('error', error => done(error.code));
});
const post = url => new Promise(done => {
  const request = http.request(url, { method: 'POST', agent: false }, reply => {
    let got = '';
    reply.on('data', data => got += data);
    reply.on('end', () => done(reply.statusCode + ' ' + reply.headers['content-type']));
  });
  request.on('error', error => done(error.code));
  request.end('body');
});
const send = () => new Promise(done => {
  const socket = dgram.createSocket('udp4');
  socket.send('x', 7, '203.0.113.16', error => { socket.close(); done(error ? error.code : 'sent'); });
});
const failed = promise => promise.then(() => 'resolved', error => error.code);
(async () => {
  console.log(await raw('www.paste.example', 22));
  console.log(await raw('203.0.113.16', 22));
  console.log(await failed(dns.promises.lookup('www.paste.example')));
  console.log(await failed(dns.promises.resolve4('www.paste.example')));
  console.log(await post('http://api.example.com/things'));
  console.log(await send());
})();
"#;

#[test]
fn node_reaches_what_is_allowed_with_either_resolver() {
    let Some(node) = node().unwrap() else {
        return;
    };
    let world = world("node").start().unwrap();
    let room = Room::open(&world).unwrap();
    let words = ["-e", ALLOWED];
    let free = ungoverned(&world, node.words(&words)).unwrap();
    let free = free.success().unwrap();
    assert!(
        free.stdout.ends_with("200 70000\n200 70000\n4\n1\n"),
        "{free}"
    );
    let query = format!("allow dns dns_query {SITE}:53 rule_allow");
    let four = "allow dns dns_query four.example.com:53 rule_allow".to_owned();
    let rows = [
        query.clone(),
        format!("allow proxy connect {SITE}:22 rule_allow"),
        query.clone(),
        format!("allow proxy http_request {SITE}:80 GET /bytes/70000 rule_allow"),
        query,
        format!("allow proxy connect {SITE}:443 rule_allow"),
        four.clone(),
        four,
    ];
    let ran = room.run(node.words(&words), &rows).unwrap();
    for decision in &ran.decisions {
        let process = decision.process.as_ref().unwrap();
        assert_eq!(process.exe.as_deref(), node.path.to_str());
        // A thread of the pool has a name of its own in newer versions.
        assert!(
            ["node", "libuv-worker"].contains(&process.comm.as_str()),
            "{process:?}"
        );
    }
    assert_eq!(ran.output.success().unwrap().stdout, free.stdout);
    room.close().unwrap();
}

#[test]
fn node_sees_the_errors_that_it_knows() {
    let Some(node) = node().unwrap() else {
        return;
    };
    let world = world("node-denied").start().unwrap();
    let words = ["-e", DENIED];
    let free = ungoverned(&world, node.words(&words)).unwrap();
    assert_eq!(
        free.success().unwrap().stdout,
        "connected\nconnected\nresolved\nresolved\n200 undefined\nsent\n"
    );
    let room = Room::open(&world).unwrap();
    let arrived = || {
        let servers = [SITE, PASTE].map(|site| world.origin(site).unwrap().log());
        servers.map(|log| {
            (
                log.connections().unwrap().len(),
                log.requests().unwrap().len(),
            )
        })
    };
    let before = arrived();
    let paste = format!("deny dns dns_query {PASTE}:53 rule_deny");
    let rows = [
        paste.clone(),
        paste.clone(),
        paste,
        "deny kernel connect 203.0.113.16:22 no_rule".to_owned(),
        format!("allow dns dns_query {SITE}:53 rule_allow"),
        format!("deny proxy http_request {SITE}:80 POST /things no_rule"),
        "deny kernel datagram 203.0.113.16:7 no_rule".to_owned(),
    ];
    let ran = room.run(node.words(&words), &rows).unwrap();
    assert_eq!(
        ran.output.success().unwrap().stdout,
        "ENOTFOUND\nEPERM\nENOTFOUND\nENOTFOUND\n403 application/problem+json\nEPERM\n"
    );
    assert!(
        ran.decisions
            .iter()
            .all(|it| it.agent.as_ref().unwrap().name.as_str() == AGENT)
    );
    assert_eq!(arrived(), before);
    room.close().unwrap();
}

//! Python: asyncio, datagrams, and addresses in every form that a socket takes.

use crate::room::{FOUR, PASTE, Room, SITE, SIX, python, ungoverned, world};

const ASYNC: &str = r#"
import asyncio, ssl

async def raw(host, port):
    reader, writer = await asyncio.open_connection(host, port)
    greeting = await reader.readline()
    writer.write(b"hello\n")
    echo = await reader.readline()
    writer.write_eof()
    rest = await reader.read()
    writer.close()
    return greeting, echo, rest

async def tls(host):
    context = ssl.create_default_context()
    reader, writer = await asyncio.open_connection(host, 443, ssl=context)
    writer.write(b"GET /bytes/50000 HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % host.encode())
    got = await reader.read()
    writer.close()
    return len(got.split(b"\r\n\r\n", 1)[1])

class Datagrams(asyncio.DatagramProtocol):
    def __init__(self):
        self.got = asyncio.get_running_loop().create_future()
    def datagram_received(self, data, peer):
        self.got.set_result(data)
    def error_received(self, error):
        self.got.set_result(type(error).__name__)

async def datagram(host):
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Datagrams, remote_addr=(host, 7))
    transport.sendto(b"ping")
    got = await asyncio.wait_for(protocol.got, 5)
    transport.close()
    return got

async def attempt(work):
    try:
        print(await work)
    except Exception as error:
        print(type(error).__name__)
"#;

const ASYNC_ALLOWED: &str = "
async def main():
    for host in ['api.example.com', 'four.example.com', 'six.example.com']:
        await attempt(raw(host, 22))
    await attempt(tls('api.example.com'))
    await attempt(datagram('udp.example.com'))
asyncio.run(main())
";

const ASYNC_DENIED: &str = "
async def main():
    await attempt(raw('www.paste.example', 22))
    await attempt(raw('203.0.113.16', 22))
    await attempt(raw('2001:db8:113::10', 22))
    await attempt(datagram('203.0.113.16'))
    await attempt(datagram('2001:db8:113::10'))
asyncio.run(main())
";

#[test]
fn asyncio_streams_and_datagrams_pass_where_a_rule_says_so() {
    let Some(python) = python().unwrap() else {
        return;
    };
    let world = world("asyncio").start().unwrap();
    let room = Room::open(&world).unwrap();
    let code = format!("{ASYNC}{ASYNC_ALLOWED}");
    let words = ["-c", &code];
    let free = ungoverned(&world, python.words(&words)).unwrap();
    let free = free.success().unwrap();
    assert!(free.stdout.ends_with("50000\nb'ping'\n"), "{free}");
    let mut rows: Vec<String> = [SITE, FOUR, SIX]
        .iter()
        .flat_map(|site| {
            [
                format!("allow dns dns_query {site}:53 rule_allow"),
                format!("allow proxy connect {site}:22 rule_allow"),
            ]
        })
        .collect();
    rows.extend([
        format!("allow dns dns_query {SITE}:53 rule_allow"),
        format!("allow proxy connect {SITE}:443 rule_allow"),
        "allow dns dns_query udp.example.com:53 rule_allow".to_owned(),
        "allow kernel datagram udp.example.com:7 rule_allow".to_owned(),
    ]);
    let ran = room.run(python.words(&words), &rows).unwrap();
    let output = ran.by(&python).unwrap().output;
    assert_eq!(output.success().unwrap().stdout, free.stdout);
    room.close().unwrap();
}

#[test]
fn asyncio_gets_errors_that_it_knows() {
    let Some(python) = python().unwrap() else {
        return;
    };
    let world = world("asyncio-denied").start().unwrap();
    let code = format!("{ASYNC}{ASYNC_DENIED}");
    let words = ["-c", &code];
    let arrived = || {
        let servers = [SITE, PASTE].map(|site| world.origin(site).unwrap().log());
        servers.map(|log| log.connections().unwrap().len())
    };
    let free = ungoverned(&world, python.words(&words)).unwrap();
    assert!(free.stdout.ends_with("b'ping'\nb'ping'\n"), "{free}");
    let before = arrived();
    assert_eq!(before, [4, 1], "without the guard");
    let room = Room::open(&world).unwrap();
    let rows = [
        format!("deny dns dns_query {PASTE}:53 rule_deny"),
        "deny kernel connect 203.0.113.16:22 no_rule".to_owned(),
        "deny kernel connect [2001:db8:113::10]:22 no_rule".to_owned(),
        "deny kernel datagram 203.0.113.16:7 no_rule".to_owned(),
        "deny kernel datagram [2001:db8:113::10]:7 no_rule".to_owned(),
    ];
    let ran = room.run(python.words(&words), &rows).unwrap();
    let output = ran.by(&python).unwrap().output;
    assert_eq!(
        output.success().unwrap().stdout,
        "gaierror\nPermissionError\nPermissionError\nPermissionError\nPermissionError\n"
    );
    assert_eq!(arrived(), before);
    room.close().unwrap();
}

const MAPPED: &str = r#"
import socket, sys

def greeting(family, address):
    try:
        with socket.socket(family, socket.SOCK_STREAM) as s:
            s.connect((address, 22))
            return s.makefile().readline().strip(), s.getpeername()[:2] == (address, 22)
    except OSError as error:
        return error.strerror

def datagram(family, address):
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.settimeout(5)
            s.sendto(b"ping", (address, 7))
            data, peer = s.recvfrom(100)
            return data, peer[:2] == (address, 7)
    except OSError as error:
        return error.strerror

def address(name, family):
    return socket.getaddrinfo(name, 22, family, socket.SOCK_STREAM)[0][4][0]
"#;

#[test]
fn a_name_s_address_works_in_its_mapped_form_too() {
    let Some(python) = python().unwrap() else {
        return;
    };
    let world = world("mapped").start().unwrap();
    let room = Room::open(&world).unwrap();
    let code = format!(
        "{MAPPED}
four = address('api.example.com', socket.AF_INET)
print(greeting(socket.AF_INET, four))
print(greeting(socket.AF_INET6, '::ffff:' + four))
print(greeting(socket.AF_INET6, address('api.example.com', socket.AF_INET6)))
udp = address('udp.example.com', socket.AF_INET)
print(datagram(socket.AF_INET6, '::ffff:' + udp))
"
    );
    let words = ["-c", &code];
    let free = ungoverned(&world, python.words(&words)).unwrap();
    let free = free.success().unwrap();
    let greeted = "('SSH-2.0-AgentGuard_Origin', True)\n";
    assert_eq!(
        free.stdout,
        format!("{}(b'ping', True)\n", greeted.repeat(3))
    );
    let query = format!("allow dns dns_query {SITE}:53 rule_allow");
    let connect = format!("allow proxy connect {SITE}:22 rule_allow");
    let rows = [
        query.clone(),
        query,
        connect.clone(),
        connect.clone(),
        connect,
        "allow dns dns_query udp.example.com:53 rule_allow".to_owned(),
        "allow kernel datagram udp.example.com:7 rule_allow".to_owned(),
    ];
    let ran = room.run(python.words(&words), &rows).unwrap();
    let output = ran.by(&python).unwrap().output;
    assert_eq!(output.success().unwrap().stdout, free.stdout);
    room.close().unwrap();
}

#[test]
fn a_bare_address_is_denied_in_every_form_and_so_is_a_guessed_virtual_one() {
    let Some(python) = python().unwrap() else {
        return;
    };
    let world = world("bare").start().unwrap();
    let room = Room::open(&world).unwrap();
    let code = format!(
        "{MAPPED}
for where in ['203.0.113.16', '192.0.2.66']:
    print(greeting(socket.AF_INET, where))
    print(greeting(socket.AF_INET6, '::ffff:' + where))
    print(datagram(socket.AF_INET, where))
    print(datagram(socket.AF_INET6, '::ffff:' + where))
print(greeting(socket.AF_INET6, '2001:db8:113::10'))
print(datagram(socket.AF_INET6, '2001:db8:113::10'))
"
    );
    let words = ["-c", &code];
    let free = ungoverned(&world, python.words(&words)).unwrap();
    let arrived = world.canary().unwrap();
    assert!(arrived >= 4, "without the guard: {arrived} packets, {free}");
    assert!(free.stdout.contains("(b'ping', True)"), "{free}");
    let connections = || {
        world
            .origin(SITE)
            .unwrap()
            .log()
            .connections()
            .unwrap()
            .len()
    };
    let before = connections();
    let mut rows = Vec::new();
    for ip in ["203.0.113.16", "192.0.2.66"] {
        let connect = format!("deny kernel connect {ip}:22 no_rule");
        let datagram = format!("deny kernel datagram {ip}:7 no_rule");
        rows.extend([connect.clone(), connect, datagram.clone(), datagram]);
    }
    rows.extend([
        "deny kernel connect [2001:db8:113::10]:22 no_rule".to_owned(),
        "deny kernel datagram [2001:db8:113::10]:7 no_rule".to_owned(),
    ]);
    let ran = room.run(python.words(&words), &rows).unwrap();
    let output = ran.by(&python).unwrap().output;
    let said = "Operation not permitted\n".repeat(10);
    assert_eq!(output.success().unwrap().stdout, said);
    assert_eq!((connections(), world.canary().unwrap()), (before, arrived));

    // A virtual address that was never answered to this agent stands for nothing.
    let code = format!(
        "{MAPPED}
print(greeting(socket.AF_INET, '198.19.200.200'))
print(greeting(socket.AF_INET6, '::ffff:198.19.200.200'))
"
    );
    let row = "deny kernel connect -:22 name_not_answered";
    let ran = room.run(python.words(&["-c", &code]), &[row, row]).unwrap();
    let said = "Operation not permitted\n".repeat(2);
    assert_eq!(ran.output.success().unwrap().stdout, said);
    room.close().unwrap();
}

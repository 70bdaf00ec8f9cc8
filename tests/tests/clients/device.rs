//! Sockets that are bound to a source address, or to a network device: to the latter a loopback
//! address is nothing special, and what the gate leads to the guard must not leave the host.

use crate::room::{AGENT, Room, SITE, python, row, ungoverned, world};

const SOCKETS: &str = r#"
import socket, struct
QUERY = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06secret\x07example\x03com\x00\x00\x01\x00\x01"
UPLINK = socket.if_nametoindex("uplink")
FOUR, SIX = socket.AF_INET, socket.AF_INET6
STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
IP_UNICAST_IF, IPV6_UNICAST_IF = 50, 76

def address(family):
    return socket.getaddrinfo("api.example.com", 22, family, STREAM)[0][4][0]

def made(family, kind):
    s = socket.socket(family, kind)
    s.settimeout(0.5)
    return s

def bind_to_device(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"uplink\0")
    return s

def attempt(work, *words):
    try:
        print(work(*words))
    except OSError as error:
        print(type(error).__name__)
"#;

const BOUND_TO_DEVICE: &str = r#"
def dial(family, ip):
    bind_to_device(made(family, STREAM)).connect((ip, 22))

def fast_open(family, ip):
    bind_to_device(made(family, STREAM)).sendto(b"secret", socket.MSG_FASTOPEN, (ip, 22))

def send(family, ip):
    bind_to_device(made(family, DGRAM)).sendto(QUERY, (ip, 53))

def connect_and_send(family, ip):
    s = bind_to_device(made(family, DGRAM))
    s.connect((ip, 53))
    s.send(QUERY)

def late(family, ip):
    s = made(family, DGRAM)
    s.connect((ip, 53))
    bind_to_device(s).send(QUERY)

def with_information(family, ip):
    if family == FOUR:
        where = (socket.IPPROTO_IP, 8, struct.pack("=i8x", UPLINK))
    else:
        where = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("=16xi", UPLINK))
    made(family, DGRAM).sendmsg([QUERY], [where], 0, (ip, 53))

def by_option(family, ip):
    s = made(family, DGRAM)
    level, option = (0, IP_UNICAST_IF) if family == FOUR else (41, IPV6_UNICAST_IF)
    s.setsockopt(level, option, struct.pack("!i", UPLINK))
    s.sendto(QUERY, (ip, 53))

for family, canary in [(FOUR, "192.0.2.66"), (SIX, "2001:db8:113::66")]:
    for work in [dial, fast_open]:
        attempt(work, family, address(family))
    for work in [send, connect_and_send, with_information, by_option]:
        attempt(work, family, canary)
# In IPv4 the kernel itself does not let a loopback source address leave.
attempt(late, SIX, "2001:db8:113::66")
"#;

/// How often each family does it.
const STREAMS: usize = 2;
const DATAGRAMS: usize = 4;

#[test]
fn nothing_that_is_led_to_the_guard_leaves_by_another_device() {
    let Some(python) = python().unwrap() else {
        return;
    };
    let world = world("device").start().unwrap();
    let mut room = Room::open(&world).unwrap();
    let code = format!("{SOCKETS}{BOUND_TO_DEVICE}");
    let mut rows = vec![format!("allow dns dns_query {SITE}:53 rule_allow"); 2 * STREAMS];
    for ip in ["192.0.2.66", "[2001:db8:113::66]"] {
        let stream = format!("deny kernel connect {SITE}:22 bound_to_device");
        let datagram = format!("deny kernel datagram {ip}:53 bound_to_device");
        rows.extend(vec![stream; STREAMS]);
        rows.extend(vec![datagram; DATAGRAMS]);
    }
    rows.push("deny kernel datagram [2001:db8:113::66]:53 bound_to_device".to_owned());
    let ran = room.run(python.words(&["-c", &code]), &rows).unwrap();
    let output = ran.by(&python).unwrap().output.success().unwrap();
    let said = "PermissionError\n".repeat(2 * (STREAMS + DATAGRAMS) + 1);
    assert_eq!(output.stdout, said);
    let loopback = || -> Vec<_> {
        let arrivals = world.all_arrivals().unwrap().into_iter();
        arrivals
            .filter(|(to, _)| to.ip.to_canonical().is_loopback())
            .collect()
    };
    assert_eq!(loopback(), []);

    // A connection that is bound later stands still; nothing of it leaves either.
    let code = format!(
        "{SOCKETS}
s = made(SIX, STREAM)
s.connect((address(SIX), 22))
print(s.recv(7))
print(bind_to_device(s).send(b'secret'))
attempt(s.recv, 100)
"
    );
    let output = room.guard.run(AGENT, python.words(&["-c", &code]));
    let output = output.unwrap().success().unwrap();
    assert!(output.stdout.starts_with("b'SSH-2.0'\n6\n"), "{output}");
    room.guard
        .wait_verdicts("the packet's denial", |_| {
            let new = room.new_decisions().ok()?;
            let denied = format!("deny kernel connect {SITE}:22 bound_to_device");
            let found = new.iter().any(|it| row(it).starts_with(&denied));
            found.then_some(())
        })
        .unwrap();
    assert_eq!(loopback(), []);
    assert_eq!(world.canary().unwrap(), 0);

    // Without the guard they leave: for a loopback address too, since nothing holds it here.
    let code = format!(
        "{SOCKETS}
s = bind_to_device(made(FOUR, DGRAM))
s.sendto(QUERY, ('127.0.0.1', 15053))
s.sendto(QUERY, ('192.0.2.66', 53))
"
    );
    ungoverned(&world, python.words(&["-c", &code]))
        .unwrap()
        .success()
        .unwrap();
    assert_eq!(loopback().len(), 1, "without the guard");
    assert!(world.canary().unwrap() > 0, "without the guard");
    // An orderly end would wait for the connection that stands still.
    room.guard.kill().unwrap();
}

#[test]
fn a_source_address_of_the_client_s_own_changes_nothing() {
    let Some(python) = python().unwrap() else {
        return;
    };
    let world = world("source").start().unwrap();
    let room = Room::open(&world).unwrap();
    let code = format!(
        "{SOCKETS}
def greeting(family, source):
    s = made(family, STREAM)
    s.settimeout(5)
    s.bind((source, 0))
    s.connect((address(family), 22))
    return s.recv(7), s.getsockname()[0] == source

for family, source in [(FOUR, '198.51.100.10'), (SIX, '2001:db8:51::10')]:
    attempt(greeting, family, source)
"
    );
    let words = ["-c", &code];
    let free = ungoverned(&world, python.words(&words)).unwrap();
    assert_eq!(free.stdout, "(b'SSH-2.0', True)\n".repeat(2), "{free}");
    let rows = [
        vec![format!("allow dns dns_query {SITE}:53 rule_allow"); 2],
        vec![format!("allow proxy connect {SITE}:22 rule_allow"); 2],
    ];
    let ran = room.run(python.words(&words), &rows.concat()).unwrap();
    let output = ran.by(&python).unwrap().output.success().unwrap();
    assert_eq!(output.stdout, free.stdout);
    room.close().unwrap();
}

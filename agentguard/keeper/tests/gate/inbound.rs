//! What comes from another machine.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use agentguard_common::event::{kind, reason};
use agentguard_common::map::{UDP, effect, mode};

use crate::world::{World, eventually, in_world, ip, ports};

/// This world's address on the cable, and the other machine's.
const NEAR: &str = "10.9.0.1";
const FAR: &str = "10.9.0.2";
/// The same of IPv6.
const NEAR6: &str = "fd09::1";
const FAR6: &str = "fd09::2";

/// Another machine: a namespace that lives as long as a process in it.
struct Machine(Child);

impl Machine {
    /// On a cable to this world.
    fn new() -> Self {
        let mut child = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It answers from its namespace.
        writeln!(child.stdin.as_mut().unwrap(), "here").unwrap();
        let mut answer = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut answer)
            .unwrap();
        assert_eq!(answer, "here\n");
        let machine = Self(child);
        ip(&format!(
            "link add near type veth peer name far netns {}
            addr add {NEAR}/24 dev near
            addr add {NEAR6}/64 dev near nodad
            link set near up",
            machine.0.id()
        ));
        machine.runs("ip", &["addr", "add", &format!("{FAR}/24"), "dev", "far"]);
        let far6 = format!("{FAR6}/64");
        machine.runs("ip", &["addr", "add", &far6, "dev", "far", "nodad"]);
        machine.runs("ip", &["link", "set", "far", "up"]);
        machine
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.0.id()))
            .arg(program)
            .args(arguments);
        command
    }

    fn runs(&self, program: &str, arguments: &[&str]) {
        assert!(self.command(program, arguments).status().unwrap().success());
    }

    /// Runs a line of Python to its end and says whether it succeeded.
    fn python(&self, line: &str) -> bool {
        let line = format!("import socket; socket.setdefaulttimeout(1); {line}");
        let mut python = self.command("python3", &["-c", &line]);
        python.stderr(Stdio::null()).status().unwrap().success()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn is_told(world: &mut World, far: &str, port: u16, protocol: u16, denied: u8) {
    let mut events = Vec::new();
    eventually("an inbound flow is told", || {
        events.extend(world.events());
        !events.is_empty()
    });
    let event = &events[0];
    assert_eq!((event.kind, event.reason), (kind::INBOUND, reason::INBOUND));
    assert_eq!(std::net::IpAddr::from(event.remote).to_string(), far);
    assert_eq!((event.local_port, event.protocol), (port, protocol));
    assert_eq!((event.agent, event.denied), (1, denied));
}

#[test]
fn an_agents_servers_are_out_of_the_networks_reach() {
    in_world(|world| {
        let machine = Machine::new();
        let mut agent = world.agent(1);
        let mut client = agent.client();
        for (near, far, any) in [(NEAR, FAR, "0.0.0.0"), (NEAR6, FAR6, "::")] {
            let family = if any == "::" { "AF_INET6" } else { "AF_INET" };
            client.does(&format!("l = listener('{any}')"));
            client.does(&format!(
                "u = socket.socket({family}, SOCK_DGRAM); u.bind(('{any}', 0)); u.settimeout(5)"
            ));
            let stream: u16 = client.number("port(l)");
            let datagram: u16 = client.number("port(u)");
            let connect = format!("socket.create_connection(('{near}', {stream}))");
            let send = format!(
                "socket.socket(socket.{family}, socket.SOCK_DGRAM).sendto(b'x', ('{near}', {datagram}))"
            );

            assert!(!machine.python(&connect));
            is_told(world, far, stream, 6, 1);
            assert!(machine.python(&send));
            is_told(world, far, datagram, 17, 1);
            assert_eq!(client.says("u.setblocking(False) or heard(u)"), "EAGAIN");

            agent.entry.mode = mode::OBSERVE;
            world.gate.put_agent(agent.id, &agent.entry).unwrap();
            assert!(machine.python(&connect));
            is_told(world, far, stream, 6, 0);
            assert!(machine.python(&send));
            client.does("u.settimeout(5)");
            let heard = client.says("heard(u)");
            assert!(heard.starts_with(&format!("x {far} ")), "{heard}");
            is_told(world, far, datagram, 17, 0);
            agent.entry.mode = mode::ENFORCE;
            world.gate.put_agent(agent.id, &agent.entry).unwrap();
            assert_eq!(world.events().len(), 0);
        }
    });
}

/// One that an agent may talk to over UDP may answer, also when another was asked since.
#[test]
fn who_may_be_asked_may_answer() {
    in_world(|world| {
        let machine = Machine::new();
        let agent = world.agent(1);
        let rules = ports(effect::DIRECT, 1, UDP, 7000, 7000);
        let ranges = [("10.9.0.0/24", rules), ("fd09::/64", rules)];
        world.rule(&agent, &ranges);
        let mut client = agent.client();
        for (near, far, any) in [(NEAR, FAR, "0.0.0.0"), (NEAR6, FAR6, "::")] {
            let family = if any == "::" { "AF_INET6" } else { "AF_INET" };
            client.does(&format!(
                "u = socket.socket({family}, SOCK_DGRAM); u.bind(('{any}', 0)); u.settimeout(5)"
            ));
            let port: u16 = client.number("port(u)");
            for from in [7000, 7001] {
                assert!(machine.python(&format!(
                    "s = socket.socket(socket.{family}, socket.SOCK_DGRAM); s.bind(('{far}', {from})); \
                     s.sendto(b'x', ('{near}', {port}))"
                )));
            }
            assert_eq!(client.says("heard(u)"), format!("x {far} 7000"));
            is_told(world, far, port, 17, 1);
            assert_eq!(client.says("u.setblocking(False) or heard(u)"), "EAGAIN");
        }
    });
}

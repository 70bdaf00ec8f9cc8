//! Ways in which somebody else has a part: servers that are asked from outside, and sockets that are
//! older than the agent.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use agentguard_tests::{Process, World, address, wait_until};
use rustix::process::Signal;

use crate::bench::{self, AGENT, Bench, Setting};

/// How long a server may take to listen, and an answer to arrive.
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn marked(bench: &Bench<'_>, mark: &str) -> bool {
    bench.world.marks().unwrap().contains_key(mark)
}

/// Who asks from the internet gets an answer from no agent.
#[test]
fn no_server_answers_the_network() {
    let Some(programs) = bench::programs() else {
        return;
    };
    let world = bench::world("listen");
    let bench = Bench::new(&world, &programs);
    let settings = [
        Setting::Free,
        Setting::Run,
        Setting::RunRoot,
        Setting::Adopted,
    ];
    for setting in settings {
        for host in address::HOST {
            let mut servers = SERVERS.map(|name| Server::start(&bench, setting, name, host));
            // A server that is out of reach says so by silence, and the silences need not come in turn.
            let answered = thread::scope(|scope| {
                let asking = servers.each_ref().map(|server| {
                    let (world, name, to) = (&world, server.name, server.address);
                    scope.spawn(move || ask(world, name, to))
                });
                asking.map(|asked| asked.join().unwrap())
            });
            // The next ones have the same ports. Who has answered has ended by itself.
            for server in &mut servers {
                let _ = server.process.signal(Signal::TERM);
            }
            for (server, answered) in servers.into_iter().zip(answered) {
                server.process.wait(LIMIT).unwrap();
                let seen = marked(&bench, &server.mark);
                let free = setting == Setting::Free;
                let name = server.name;
                assert_eq!((answered, seen), (free, free), "{name} {setting:?} {host}");
            }
        }
    }
}

/// A stream's, one that has its port from the kernel, and one of datagrams.
const SERVERS: [&str; 3] = ["listen", "listen-autobind", "listen-udp"];

/// A server of an agent's, which listens.
struct Server {
    name: &'static str,
    address: SocketAddr,
    mark: String,
    process: Process,
}

impl Server {
    fn start(bench: &Bench<'_>, setting: Setting, name: &'static str, host: IpAddr) -> Self {
        let six = u8::from(host.is_ipv6());
        let mark = format!("escape{name}x{six}x{}", setting.letter()).replace('-', "");
        let words = words(bench, name, &host.to_string(), &mark);
        let process = bench.invocation(setting, words).spawn().unwrap();
        let port = wait_until("the server listens", LIMIT, || {
            process.stdout().trim().parse().ok()
        });
        let port = port.unwrap_or_else(|_| panic!("{name} {setting:?}: {}", process.stderr()));
        Self {
            name,
            address: SocketAddr::new(host, port),
            mark,
            process,
        }
    }
}

/// Whether a server of this name answers who asks from the internet.
fn ask(world: &World, name: &str, to: SocketAddr) -> bool {
    let asked = world.internet().enter(|| match name {
        "listen-udp" => ask_datagram(to),
        _ => ask_stream(to),
    });
    matches!(asked.unwrap(), Ok(1..))
}

fn ask_stream(to: SocketAddr) -> std::io::Result<usize> {
    let mut client = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
    client.set_read_timeout(Some(Duration::from_secs(2)))?;
    client.read(&mut [0; 64])
}

fn ask_datagram(to: SocketAddr) -> std::io::Result<usize> {
    let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let client = UdpSocket::bind(any)?;
    client.connect(to)?;
    client.set_read_timeout(Some(Duration::from_secs(2)))?;
    client.send(b"is anybody there?")?;
    client.recv(&mut [0; 64])
}

pub(crate) fn words(bench: &Bench<'_>, name: &str, to: &str, mark: &str) -> Vec<OsString> {
    let program = bench.program(name).into_os_string();
    vec![program, to.into(), "9".into(), mark.into()]
}

/// A workload that runs already sends nothing over the sockets that it has, once it is adopted.
#[test]
fn no_older_socket_sends() {
    let Some(programs) = bench::programs() else {
        return;
    };
    let world = bench::world("older");
    let bench = Bench::new(&world, &programs);
    let origins = address::origin(0x10);
    let mut number = 0;
    for name in ["old-tcp", "old-udp"] {
        for (canary, origin) in address::CANARY.into_iter().zip(origins) {
            // TCP has to be connected to somebody: the site, on a port that no rule allows.
            let to = if name == "old-tcp" { origin } else { canary };
            let port = if name == "old-tcp" { "80" } else { "9" };
            for adopted in [false, true] {
                number += 1;
                let cgroup = bench.outside(number);
                let go = world.directory().join(format!("go-{number}"));
                let mark = format!("escapeold{number}x");
                let host = bench.guard.within(
                    &cgroup,
                    [
                        bench.program(name).as_os_str(),
                        to.to_string().as_ref(),
                        port.as_ref(),
                        mark.as_ref(),
                    ],
                );
                let process = host.env("ESCAPE_GO", &go).spawn().unwrap();
                wait_until("it is connected", LIMIT, || {
                    process.stdout().contains("ready").then_some(())
                })
                .unwrap();
                if adopted {
                    let add = bench.guard.cli().args(["agent", "add", AGENT, "--cgroup"]);
                    add.arg(&cgroup).run().unwrap().success().unwrap();
                }
                fs::write(&go, "").unwrap();
                let output = process.wait(LIMIT).unwrap();
                // What a TCP socket could not send it sends again, and again is refused.
                assert_eq!(marked(&bench, &mark), !adopted, "{name} {to} {output}");
                if adopted {
                    let remove = bench.guard.cli().args(["agent", "remove", AGENT]);
                    remove.run().unwrap().success().unwrap();
                }
            }
        }
    }
}

/// What an operator moves into an agent's cgroup keeps the sockets that it has, which are nobody's: no
/// cgroup's program sees their packets. Only LSM programs know who sends.
#[test]
fn a_moved_process_sends_nothing_over_its_sockets_where_lsm_programs_run() {
    let Some(programs) = bench::programs() else {
        return;
    };
    let world = bench::world("moved");
    let bench = Bench::new(&world, &programs);
    let lsm = bench.lsm();
    for canary in address::CANARY {
        for moved in [false, true] {
            let mark = format!(
                "escapemoved{}x{}",
                u8::from(canary.is_ipv6()),
                u8::from(moved)
            );
            let host = bench.world.host().command(bench.program("moved"));
            let host = host.args([&canary.to_string(), "9", mark.as_str()]);
            let host = match moved {
                true => host.env("ESCAPE_CGROUP", &bench.cgroup),
                false => host,
            };
            let output = host.run().unwrap();
            let open = !(moved && lsm);
            assert_eq!(marked(&bench, &mark), open, "{moved} LSM {lsm}: {output}");
            // It was moved, and it is the sending that was refused.
            let refused = output.stderr.starts_with("send(") && output.stderr.contains(": EPERM");
            let expected = if open { (0, false) } else { (1, true) };
            assert_eq!((output.code(), refused), expected, "{output}");
        }
    }
}

/// A socket that the caller of `run` has open is not the command's.
#[test]
fn no_socket_is_inherited() {
    let Some(programs) = bench::programs() else {
        return;
    };
    let world = bench::world("inherited");
    let bench = Bench::new(&world, &programs);
    for canary in address::CANARY {
        let six = u8::from(canary.is_ipv6());
        let to = canary.to_string();
        for setting in [Setting::Free, Setting::Run, Setting::RunRoot] {
            let mark = format!("escapeinherited{six}x{}", setting.letter());
            let mut words = words(&bench, "inherited", &to, &mark);
            let again = words.clone();
            let run: &[&str] = match setting {
                Setting::Run => &["run", "--agent", AGENT, "--user", bench::USER, "--"],
                _ => &["run", "--agent", AGENT, "--"],
            };
            if setting != Setting::Free {
                words.push(bench.guard.program().into());
                words.extend(run.iter().map(OsString::from));
                words.extend(again);
            }
            let host = bench.world.host().command(&words[0]).args(&words[1..]);
            let output = host
                .env("AGENTGUARD_CONFIG", bench.guard.config())
                .run()
                .unwrap();
            let free = setting == Setting::Free;
            assert_eq!(marked(&bench, &mark), free, "{setting:?} {output}");
            // The command was run, and there was no such descriptor.
            let none = output.stderr.contains("send(") && output.stderr.contains(": EBADF");
            let expected = if free { (0, false) } else { (1, true) };
            assert_eq!((output.code(), none), expected, "{setting:?} {output}");
        }
    }
}

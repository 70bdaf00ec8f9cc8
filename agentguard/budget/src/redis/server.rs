//! Debian's `redis-server`, as tests start it.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::wire::{self, Reply};

/// One that runs, on a port of its own on loopback.
pub(super) struct Server {
    child: Child,
    pub(super) port: u16,
    directory: TempDir,
    arguments: Vec<String>,
}

impl Server {
    /// Starts one that forgets all when it ends, with more arguments. None: there is none on this machine, which was told
    /// as a test that is skipped.
    pub(super) fn start(arguments: &[&str]) -> Option<Self> {
        let found = std::env::var_os("PATH").is_some_and(|path| {
            std::env::split_paths(&path).any(|it| it.join("redis-server").is_file())
        });
        if !found {
            skip("no redis-server for the ledger that hosts share");
            return None;
        }
        let directory = TempDir::new().expect("a directory");
        // Another may take the port before it does; then there is another.
        for _ in 0..5 {
            let free = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
            let port = free.local_addr().expect("an address").port();
            drop(free);
            let arguments: Vec<String> = arguments.iter().map(|it| (*it).to_owned()).collect();
            let mut child = run(port, directory.path(), &arguments);
            if answers(port, &mut child) {
                return Some(Self {
                    child,
                    port,
                    directory,
                    arguments,
                });
            }
            end(&mut child);
        }
        panic!("redis-server does not start");
    }

    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What it answers.
    pub(super) fn ask(&self, words: &[&str]) -> Reply {
        asked(self.port, words).expect("an answer")
    }

    pub(super) fn texts(&self, words: &[&str]) -> Vec<String> {
        let Reply::Array(items) = self.ask(words) else {
            panic!("no list");
        };
        let text = |item: Reply| match item {
            Reply::Text(text) => String::from_utf8(text).expect("text"),
            Reply::Nothing => String::new(),
            other => panic!("{other:?}"),
        };
        items.into_iter().map(text).collect()
    }

    pub(super) fn number(&self, key: &str, field: &str) -> u64 {
        match self.ask(&["HGET", key, field]) {
            Reply::Text(text) => String::from_utf8(text)
                .expect("text")
                .parse()
                .expect("a number"),
            _ => 0,
        }
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) {
        end(&mut self.child);
    }

    /// Starts it again, with what it has kept.
    pub(super) fn again(&mut self) {
        self.child = run(self.port, self.directory.path(), &self.arguments);
        assert!(
            answers(self.port, &mut self.child),
            "it does not start again"
        );
    }

    /// It hears and answers nothing, and goes on after that.
    pub(super) fn stops(&self) {
        self.signal(Signal::STOP);
    }

    pub(super) fn goes_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("its process");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn run(port: u16, directory: &Path, arguments: &[String]) -> Child {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join("log"))
        .expect("a log");
    let port = port.to_string();
    Command::new("redis-server")
        .args(["--port", &port, "--bind", "127.0.0.1", "--save", ""])
        .args(["--daemonize", "no", "--protected-mode", "no", "--dir"])
        .arg(directory)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server")
}

fn answers(port: u16, child: &mut Child) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if child.try_wait().expect("its state").is_some() {
            return false;
        }
        // One that wants a password says so, and is there.
        match asked(port, &["PING"]) {
            Some(Reply::Error(text)) if text.starts_with("LOADING") => {}
            Some(_) => return true,
            None => {}
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    false
}

fn asked(port: u16, words: &[&str]) -> Option<Reply> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .ok()?;
    let mut bytes = Vec::new();
    let words: Vec<&[u8]> = words.iter().map(|it| it.as_bytes()).collect();
    wire::command(&mut bytes, words.into_iter());
    stream.write_all(&bytes).ok()?;
    let mut came = Vec::new();
    let mut some = [0; 4096];
    loop {
        if let Some((reply, _)) = wire::reply(&came).ok()? {
            return Some(reply);
        }
        match stream.read(&mut some).ok()? {
            0 => return None,
            length => came.extend_from_slice(&some[..length]),
        }
    }
}

fn end(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

fn skip(why: &str) {
    assert!(
        std::env::var_os("AGENTGUARD_REQUIRE_ALL").is_none(),
        "{why}, and nothing may be skipped: run `cargo xtask setup --tests`"
    );
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
    if let Some(file) = std::env::var_os("AGENTGUARD_SKIPPED") {
        let file = OpenOptions::new().create(true).append(true).open(file);
        writeln!(file.expect("a file"), "{why}").expect("written");
    }
}

//! Where the ways are tried: a world, a daemon, a deputy, and the programs.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use agentguard_tests::{
    Guard, Invocation, Origin, Output, Process, World, address, client, wait_until,
};

use crate::ways::DAEMONS;

/// The agent that tries.
pub(crate) const AGENT: &str = "coder";

/// What it may: one site, and a service of that site's address directly.
const POLICY: &str = "
version: 1
agents: [{name: coder}]
rules:
  - id: site
    match: {host: [api.example.com], port: [443]}
    action: allow
  - id: echo
    match: {cidr: [203.0.113.16/32, '2001:db8:113::10/128'], port: [7], transport: [tcp, udp]}
    action: allow
    handling: direct
";

/// How long all the ways of one setting may take together.
const LIMIT: Duration = Duration::from_secs(280);

/// The user that is not root.
pub(crate) const USER: &str = "1000";

/// Under what the ways are tried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Setting {
    /// Nobody governs it.
    Free,
    /// `agentguard run` with a user that is not root.
    Run,
    /// `agentguard run` of root.
    RunRoot,
    /// In an agent's cgroup, root, with every capability.
    Adopted,
}

impl Setting {
    pub(crate) fn letter(self) -> char {
        match self {
            Self::Free => 'f',
            Self::Run => 'u',
            Self::RunRoot => 'r',
            Self::Adopted => 'a',
        }
    }
}

/// The programs, compiled once for all tests; none where there is no compiler, which is told.
pub(crate) fn programs() -> Option<PathBuf> {
    static PROGRAMS: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAMS
        .get_or_init(|| match std::env::var_os("AGENTGUARD_ESCAPES") {
            Some(path) => Some(path.into()),
            None => client::find("cc").unwrap().map(|path| compile(&path)),
        })
        .clone()
}

fn compile(compiler: &Path) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = here.join("../target/escapes");
    fs::create_dir_all(&target).unwrap();
    for entry in fs::read_dir(here.join("escapes")).unwrap() {
        let source = entry.unwrap().path();
        if source.extension().is_none_or(|extension| extension != "c") {
            continue;
        }
        let program = target.join(source.file_stem().unwrap());
        // Another run may compile at the same time.
        let draft = program.with_extension(std::process::id().to_string());
        let compiled = Command::new(compiler)
            .args(["-std=gnu17", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .args([&draft, &source])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&compiled.stderr);
        assert!(compiled.status.success(), "{}: {said}", source.display());
        fs::rename(draft, program).unwrap();
    }
    target.canonicalize().unwrap()
}

/// A world with one site.
pub(crate) fn world(name: &str) -> World {
    World::new(name)
        .origin(Origin::at(&address::origin(0x10)).site("api.example.com"))
        .start()
        .unwrap()
}

/// All that is needed to try.
pub(crate) struct Bench<'w> {
    pub(crate) world: &'w World,
    pub(crate) guard: Guard<'w>,
    pub(crate) cgroup: PathBuf,
    programs: PathBuf,
    run: PathBuf,
    elsewhere: PathBuf,
    deputy: Vec<(String, String)>,
    _deputies: RefCell<Vec<Process>>,
}

impl<'w> Bench<'w> {
    pub(crate) fn new(world: &'w World, compiled: &Path) -> Self {
        // Where every user may execute them.
        let programs = world.directory().join("escapes");
        fs::create_dir(&programs).unwrap();
        for entry in fs::read_dir(compiled).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), programs.join(entry.file_name())).unwrap();
        }
        // The host's /run, with the daemons' sockets in it.
        let run = world.directory().join("host-run");
        for socket in DAEMONS {
            let directory = run.join(socket);
            fs::create_dir_all(directory.parent().unwrap()).unwrap();
        }
        let mut builder = Command::new("chown");
        let owned = builder.args(["-R", USER]).arg(&run).status().unwrap();
        assert!(owned.success());
        // Everybody may ping, as distributions have it.
        let may = r#"echo "0 2147483647" > /proc/sys/net/ipv4/ping_group_range"#;
        let host = world.host().command("sh").args(["-c", may]);
        host.run().unwrap().success().unwrap();
        let guard = world
            .guard()
            .policy(POLICY)
            .cover(&run, "/run")
            .start()
            .unwrap();
        let cgroup = guard.agent_cgroup(AGENT).unwrap();
        let name = guard.cgroup().file_name().unwrap().to_str().unwrap();
        let elsewhere = guard.cgroup().with_file_name(format!("{name}.elsewhere"));
        fs::create_dir(&elsewhere).unwrap();
        let mut bench = Self {
            world,
            guard,
            cgroup,
            programs,
            run,
            elsewhere,
            deputy: Vec::new(),
            _deputies: RefCell::default(),
        };
        bench.appoint();
        bench
    }

    /// Starts the deputy, and one in the internet whose namespace can be entered.
    fn appoint(&mut self) {
        let shared = self.world.directory().join("shared");
        fs::create_dir(&shared).unwrap();
        rustix::fs::chmod(&shared, rustix::fs::Mode::from_raw_mode(0o777)).unwrap();
        // It calls them as the daemons do.
        let sockets = DAEMONS.map(|socket| format!("/run/{socket}"));
        let deputy = self.world.host().command("sh");
        let deputy = deputy
            .args(["-c", r#"sleep 600 | "$0" "$@""#])
            .arg(self.program("deputy"))
            .args(["192.0.2.1", "9"])
            .arg(&shared)
            .args(sockets)
            .arg(shared.join("socket"))
            .cover(&self.run, Path::new("/run"))
            .env("ESCAPE_UID", USER)
            .spawn()
            .unwrap();
        let said = wait_until("the deputy is ready", LIMIT, || {
            let said = deputy.stdout();
            said.ends_with("ready\n").then_some(said)
        });
        let said = said.unwrap_or_else(|_| panic!("no deputy: {}", deputy.stderr()));
        for line in said.lines() {
            if let Some((name, value)) = line.split_once('=') {
                self.deputy.push((name.to_owned(), value.to_owned()));
            }
        }
        let paths = DAEMONS.map(|socket| format!("/run/{socket}")).join(":");
        self.deputy.push(("DEPUTY_UNIX".to_owned(), paths));
        let socket = shared.join("socket").display().to_string();
        self.deputy.push(("DEPUTY_SHARED".to_owned(), socket));
        let there = self.world.internet().command("sleep").arg("600");
        let there = there.spawn().unwrap();
        let netns = format!("/proc/{}/ns/net", there.id());
        self.deputy.push(("ESCAPE_NETNS".to_owned(), netns));
        self._deputies.borrow_mut().extend([deputy, there]);
    }

    /// A cgroup that is not below the gate's, made now and removed with the bench.
    pub(crate) fn outside(&self, number: u32) -> PathBuf {
        let cgroup = self.elsewhere.join(number.to_string());
        fs::create_dir(&cgroup).unwrap();
        cgroup
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// These words in a setting, still to be run.
    pub(crate) fn invocation(&self, setting: Setting, words: Vec<OsString>) -> Invocation<'_> {
        let invocation = match setting {
            Setting::Free => {
                let host = self.world.host().command(&words[0]);
                host.args(&words[1..]).cover(&self.run, Path::new("/run"))
            }
            Setting::Run => {
                let run = ["run", "--agent", AGENT, "--user", USER, "--"];
                self.guard.cli().args(run).args(words)
            }
            Setting::RunRoot => self.guard.agent(AGENT, words),
            Setting::Adopted => self
                .guard
                .within(&self.cgroup, words)
                .cover(&self.run, Path::new("/run")),
        };
        let [allowed, allowed6] = address::origin(0x10);
        let variables = self.deputy.iter();
        variables
            .fold(invocation, |invocation, (name, value)| {
                invocation.env(name, value)
            })
            .env("ESCAPE_ELSEWHERE", &self.elsewhere)
            .env("ESCAPE_ALLOWED", allowed.to_string())
            .env("ESCAPE_ALLOWED6", allowed6.to_string())
            .limit(LIMIT)
    }

    /// These words in a cgroup, with what there is to be told of the deputy.
    pub(crate) fn within(&self, cgroup: &Path, words: Vec<OsString>) -> Invocation<'_> {
        let invocation = self.guard.within(cgroup, words);
        let variables = self.deputy.iter();
        variables.fold(invocation, |invocation, (name, value)| {
            invocation.env(name, value)
        })
    }

    pub(crate) fn run(&self, setting: Setting, words: Vec<OsString>) -> Output {
        self.invocation(setting, words).run().unwrap()
    }

    /// Whether the kernel took the LSM programs.
    pub(crate) fn lsm(&self) -> bool {
        let status = self.guard.cli().args(["status", "-o", "json"]);
        let status = status.run().unwrap().success().unwrap();
        status.stdout.contains("\"lsm_socket_create\"")
    }
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        for process in self._deputies.borrow_mut().drain(..) {
            drop(process);
        }
        // What has moved there ends by itself, or with the world.
        let _ = fs::write(self.elsewhere.join("cgroup.kill"), "1");
        let _ = wait_until("nobody is elsewhere", Duration::from_secs(5), || {
            for entry in fs::read_dir(&self.elsewhere)
                .into_iter()
                .flatten()
                .flatten()
            {
                let _ = fs::remove_dir(entry.path());
            }
            fs::remove_dir(&self.elsewhere).is_ok().then_some(())
        });
    }
}

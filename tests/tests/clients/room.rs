//! What the clients' tests share: a world with some sites, a guard, and exact looks at what each
//! run adds to the record.

use std::cell::Cell;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use agentguard_model::{ActionKind, Decision};
use agentguard_tests::{
    Guard, Invocation, Origin, Output, World, WorldBuilder, address, client, decisions, wait_until,
};
use anyhow::{Context as _, Result, bail, ensure};
use std::time::Duration;

/// The agent.
pub(crate) const AGENT: &str = "coder";

/// A name that the agent may use.
pub(crate) const SITE: &str = "api.example.com";

/// Names like it, with addresses of one family only.
pub(crate) const FOUR: &str = "four.example.com";
/// As [`FOUR`], for IPv6.
pub(crate) const SIX: &str = "six.example.com";

/// A name that a rule denies. It lives at an origin of its own.
pub(crate) const PASTE: &str = "www.paste.example";

/// A name that no rule knows, at the same origin.
pub(crate) const ELSEWHERE: &str = "elsewhere.example.net";

/// Where `git daemon` listens.
pub(crate) const GIT: u16 = 9418;

const POLICY: &str = "
version: 1
agents:
  - name: coder
rules:
  - id: tls
    match: { host: ['*.example.com'], port: [443] }
    action: allow
  - id: read-only
    match: { host: ['*.example.com'], port: [80], method: [GET, HEAD] }
    action: allow
  - id: raw
    match: { host: ['*.example.com'], port: [7, 22, 9418] }
    action: allow
  - id: datagrams
    match: { host: [udp.example.com], port: [7], transport: [udp] }
    action: allow
  - id: no-paste-sites
    match: { host: ['*.paste.example'] }
    action: deny
    reason: Nothing is to be published.
";

/// How long the record of a run may be late, on a busy machine.
pub(crate) const LATE: Duration = Duration::from_secs(10);

/// A world with all of these sites.
pub(crate) fn world(name: &str) -> WorldBuilder {
    let here = Origin::at(&address::origin(0x10));
    sites(name, here)
}

/// A world whose allowed origin has files too.
pub(crate) fn world_with_files(name: &str, files: &Path) -> WorldBuilder {
    let here = Origin::at(&address::origin(0x10)).files(files);
    sites(name, here)
}

fn sites(name: &str, here: Origin) -> WorldBuilder {
    let [four, six] = address::origin(0x10);
    let here = [SITE, FOUR, SIX, "git.example.com", "udp.example.com"]
        .iter()
        .fold(here, |here, site| here.site(site));
    let there = Origin::at(&address::origin(0x20));
    World::new(name)
        .origin(here)
        .origin(there.site(PASTE).site(ELSEWHERE))
        .zone(|zone| {
            zone.address(FOUR, &[four])
                .address(SIX, &[six])
                .text(SITE, "a text")
        })
}

/// A guard, and how far its record has been read.
pub(crate) struct Room<'w> {
    pub(crate) world: &'w World,
    pub(crate) guard: Guard<'w>,
    seen: Cell<usize>,
}

/// What a run of a client came to.
pub(crate) struct Ran {
    pub(crate) output: Output,
    /// What it added to the record.
    pub(crate) decisions: Vec<Decision>,
}

impl<'w> Room<'w> {
    /// Starts the guard with the clients' policy.
    pub(crate) fn open(world: &'w World) -> Result<Self> {
        Ok(Self::of(world, world.guard().policy(POLICY).start()?))
    }

    /// With a guard that was started already.
    pub(crate) fn of(world: &'w World, guard: Guard<'w>) -> Self {
        Self {
            world,
            guard,
            seen: Cell::new(0),
        }
    }

    /// Runs words as the agent, and waits until the record has exactly these rows more.
    pub(crate) fn run<S: AsRef<OsStr>>(
        &self,
        words: impl IntoIterator<Item = S>,
        rows: &[impl AsRef<str>],
    ) -> Result<Ran> {
        self.call(self.guard.agent(AGENT, words), rows)
    }

    /// As [`Room::run`], for a call that is put together already.
    pub(crate) fn call(&self, call: Invocation<'_>, rows: &[impl AsRef<str>]) -> Result<Ran> {
        let line = call.to_string();
        let output = call.run()?;
        let decisions = self
            .rows(rows)
            .with_context(|| format!("`{line}`\n{output}"))?;
        Ok(Ran { output, decisions })
    }

    /// Waits until the record has exactly these rows more, in any order.
    pub(crate) fn rows(&self, rows: &[impl AsRef<str>]) -> Result<Vec<Decision>> {
        let mut expected: Vec<_> = rows.iter().map(|row| row.as_ref().to_owned()).collect();
        expected.sort();
        let mut found = Vec::new();
        let waited = wait_until("the rows", LATE, || {
            match self.new_decisions() {
                Ok(new) => found = new,
                Err(error) => return Some(Err(error)),
            }
            let mut rows: Vec<_> = found.iter().map(row).collect();
            rows.sort();
            (rows == expected).then_some(Ok(()))
        });
        if let Err(error) = waited.and_then(|waited| waited) {
            let rows: Vec<_> = found.iter().map(row).collect();
            bail!(
                "{error:#}\nexpected:\n  {}\nfound:\n  {}\nlog:\n{}",
                expected.join("\n  "),
                rows.join("\n  "),
                self.guard.log()
            );
        }
        self.seen.set(self.seen.get() + found.len());
        Ok(found)
    }

    /// Waits until the record has so many decisions more, whatever they are.
    pub(crate) fn settled(&self, count: usize) -> Result<Vec<Decision>> {
        let found = wait_until("the decisions", LATE, || match self.new_decisions() {
            Ok(new) => (new.len() >= count).then_some(Ok(new)),
            Err(error) => Some(Err(error)),
        })??;
        self.seen.set(self.seen.get() + found.len());
        Ok(found)
    }

    /// What the record has beyond what has been looked at.
    pub(crate) fn new_decisions(&self) -> Result<Vec<Decision>> {
        let mut all = all(&self.guard)?;
        ensure!(
            all.len() >= self.seen.get(),
            "the record has become shorter"
        );
        Ok(all.split_off(self.seen.get()))
    }

    /// Shows that nothing came after the rows that were waited for: one more denial of the kernel,
    /// whose events keep their order, has to be the only thing that is new.
    pub(crate) fn close(&self) -> Result<()> {
        let [canary, _] = address::CANARY;
        let dial = format!("exec 3<>/dev/tcp/{canary}/9");
        let fence = [format!("deny kernel connect {canary}:9 no_rule")];
        let ran = self.run(["bash", "-c", &dial], &fence)?;
        ensure!(ran.output.code() == 1, "{}", ran.output);
        Ok(())
    }
}

/// Runs words in a world's host without any guard; the world's authority is trusted.
pub(crate) fn ungoverned<S: AsRef<OsStr>>(
    world: &World,
    words: impl IntoIterator<Item = S>,
) -> Result<Output> {
    let mut words = words.into_iter();
    let program = words.next().context("no program")?;
    let call = world.host().command(program).args(words);
    let trust = world.trust().into_iter();
    trust
        .fold(call, |call, (name, file)| call.env(name, file))
        .run()
}

impl Ran {
    /// Itself, where all decisions name this program as the kernel saw it.
    pub(crate) fn by(self, program: &Program) -> Result<Self> {
        let Program { path, comm } = program;
        for decision in &self.decisions {
            let process = decision.process.as_ref();
            let process = process.with_context(|| format!("no process: {}", row(decision)))?;
            ensure!(
                process.comm == *comm
                    && process.exe.as_deref() == path.to_str()
                    && process.uid == 0,
                "{comm} {path:?} is not the process of `{}`: {process:?}",
                row(decision)
            );
            let agent = decision.agent.as_ref().map(|agent| agent.name.to_string());
            ensure!(agent.as_deref() == Some(AGENT), "{agent:?}");
        }
        Ok(self)
    }
}

/// Every decision in the record.
pub(crate) fn all(guard: &Guard<'_>) -> Result<Vec<Decision>> {
    let cli = guard.cli();
    let verdicts = cli.args(["verdicts", "-o", "jsonl", "--limit", "10000"]);
    decisions(&verdicts.run()?.success()?.stdout)
}

/// A decision in one line: `deny kernel connect 192.0.2.66:80 no_rule`, with method and path of
/// an HTTP request before the reason, and what is unusual at the end.
pub(crate) fn row(decision: &Decision) -> String {
    let word = |value: serde_json::Result<serde_json::Value>| {
        let value = value.unwrap_or_default();
        value.as_str().unwrap_or("?").to_owned()
    };
    let action = &decision.action;
    let mut words = vec![
        decision.verdict.to_string(),
        word(serde_json::to_value(decision.layer)),
        word(serde_json::to_value(action.kind)),
    ];
    let place = match (&action.host, action.ip) {
        (Some(host), _) => host.to_string(),
        (None, Some(ip)) if ip.is_ipv6() => format!("[{ip}]"),
        (None, Some(ip)) => ip.to_string(),
        (None, None) => "-".to_owned(),
    };
    let port = action.port.map(|port| format!(":{port}"));
    words.push(place + &port.unwrap_or_default());
    if action.kind != ActionKind::DnsQuery {
        words.extend(action.method.clone());
        words.extend(action.path.clone());
    }
    words.push(decision.reason.code.to_string());
    if !decision.enforced {
        words.push("(not enforced)".to_owned());
    }
    if decision.count != 1 {
        words.push(format!("×{}", decision.count));
    }
    words.join(" ")
}

/// A client: how it is called, and what the kernel calls it.
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) comm: String,
}

impl Program {
    /// Finds it; none where it is missing and may be.
    pub(crate) fn find(name: &str) -> Result<Option<Self>> {
        client::find(name)?.map(Self::at).transpose()
    }

    /// An interpreter, which may hide behind a script: asked with `question` where it really is.
    pub(crate) fn ask(name: &str, question: &str) -> Result<Option<Self>> {
        let Some(path) = client::find(name)? else {
            return Ok(None);
        };
        let asked = std::process::Command::new(path)
            .arg(question.split_once(' ').context("no flag")?.0)
            .arg(question.split_once(' ').context("no code")?.1)
            .output()?;
        let path = String::from_utf8(asked.stdout)?;
        Self::at(PathBuf::from(path.trim())).map(Some)
    }

    /// A program by its path, which is also what the kernel calls it: links stay links.
    pub(crate) fn at(path: PathBuf) -> Result<Self> {
        let name = path.file_name().context("no file name")?;
        // The kernel keeps 15 bytes.
        let comm = name.to_string_lossy().chars().take(15).collect();
        Ok(Self { path, comm })
    }

    /// Its words: the path, and these.
    pub(crate) fn words<'s>(&'s self, words: &'s [&'s str]) -> Vec<&'s OsStr> {
        let words = words.iter().map(OsStr::new);
        [self.path.as_os_str()].into_iter().chain(words).collect()
    }
}

/// The Python interpreter itself.
pub(crate) fn python() -> Result<Option<Program>> {
    Program::ask("python3", "-c import sys; print(sys.executable)")
}

/// The Node interpreter itself.
pub(crate) fn node() -> Result<Option<Program>> {
    Program::ask("node", "-p process.execPath")
}

//! Debian's Redis, in which hosts share their budgets.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where it cannot go on, helpers included"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use agentguard_tests::{Invocation, Process, World, wait_until};
use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::room::LATE;

const PORT: u16 = 6399;
/// Where it is for daemons, and where for us.
const DAEMONS: &str = "127.0.0.1";
const OURS: &str = "127.0.0.2";
const PASSWORD: &str = "open sesame";
const PREFIX: &str = "tests";

/// All that is held expires so many milliseconds earlier. `KEYS[1]` is the list of accounts; every other sorted set has what
/// is held of one of them, by when that expires.
const EARLIER: &str = "
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do
  if key ~= KEYS[1] and redis.call('TYPE', key).ok == 'zset' then
    for _, hold in ipairs(redis.call('ZRANGE', key, 0, -1)) do
      redis.call('ZINCRBY', key, -tonumber(ARGV[2]), hold)
    end
  end
end
return 'done'";

/// What keeps it busy for some milliseconds.
const BUSY: &str = "for _ = 1, 3000000 do end";

/// A Redis on the world's host, which keeps each write before it answers.
pub(crate) struct Redis<'w> {
    world: &'w World,
    directory: PathBuf,
    process: Option<Process>,
}

impl<'w> Redis<'w> {
    /// One that does not run yet.
    pub(crate) fn new(world: &'w World) -> Self {
        let directory = world.directory().join("redis");
        fs::create_dir(&directory).unwrap();
        let password = world.directory().join("redis-password");
        fs::write(&password, format!("{PASSWORD}\n")).unwrap();
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
        Self {
            world,
            directory,
            process: None,
        }
    }

    pub(crate) fn start(&mut self) {
        let server = self.world.host().command("redis-server");
        let port = PORT.to_string();
        let server = server
            .args(["--port", &port, "--bind", DAEMONS, OURS, "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "always"])
            .args(["--requirepass", PASSWORD, "--dir"])
            .arg(&self.directory)
            .limit(Duration::from_secs(600));
        self.process = Some(server.spawn().unwrap());
        wait_until("Redis", LATE, || {
            let said = self.process.as_ref()?.stdout();
            said.contains("Ready to accept connections").then_some(())
        })
        .unwrap();
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.signal(Signal::KILL).unwrap();
        process.wait(LATE).unwrap();
    }

    /// It hears and answers nothing, or goes on.
    pub(crate) fn signal(&mut self, signal: Signal) {
        self.process.as_mut().unwrap().signal(signal).unwrap();
    }

    /// For all that is held this time goes by at once.
    pub(crate) fn goes_by(&self, time: Duration) -> Result<()> {
        let keys = format!("{{agentguard:{PREFIX}}}:");
        let (list, time) = (format!("{keys}l"), time.as_millis().to_string());
        let told = self.client(&["EVAL", EARLIER, "1", &list, &keys, &time]);
        let told = told.run()?.success()?;
        ensure!(told.stdout == "done\n", "{told}");
        Ok(())
    }

    /// Ends the connections of daemons so often, ten times a second. It is busy meanwhile, so that it does what waits in one
    /// go, and what it was told before that end it has done and does not answer.
    pub(crate) fn cuts(&self, times: u64) -> Result<()> {
        let (often, times) = ((3 * times).to_string(), times.to_string());
        let busy = self.client(&["-i", "0.01", "-r", &often, "EVAL", BUSY, "0"]);
        let busy = busy.spawn()?;
        let daemons = format!("{DAEMONS}:{PORT}");
        let told = self.client(&[
            "-i", "0.1", "-r", &times, "CLIENT", "KILL", "LADDR", &daemons,
        ]);
        let told = told.run()?.success()?;
        let cut: u64 = told
            .stdout
            .lines()
            .filter_map(|it| it.parse::<u64>().ok())
            .sum();
        ensure!(cut > 0, "{told}");
        busy.wait(LATE)?.success().map(drop)
    }

    /// Its command line client.
    fn client(&self, words: &[&str]) -> Invocation<'w> {
        let client = self.world.host().command("redis-cli");
        let client = client.args(["--no-auth-warning", "-a", PASSWORD, "-h", OURS]);
        client.args(["-p", &PORT.to_string()]).args(words)
    }
}

/// The configuration of a daemon that uses it, with more of its own.
pub(crate) fn ledger(world: &World, more: &Value) -> Result<Value> {
    let mut redis = json!({
        "address": format!("{DAEMONS}:{PORT}"),
        "prefix": PREFIX,
        "password_file": world.directory().join("redis-password"),
        "timeout_ms": 1000,
    });
    let more = more.as_object().context("an object")?.clone();
    redis.as_object_mut().context("an object")?.extend(more);
    Ok(json!({ "redis": redis }))
}

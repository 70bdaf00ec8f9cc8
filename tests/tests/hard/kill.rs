//! The keeper, its worker, or both are killed at moments that chance has chosen, while agents try to get
//! out without a pause and others do their work.
//!
//! `AGENTGUARD_KILL_CYCLES` says how often, `AGENTGUARD_KILL_SEED` repeats the moments of another run.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agentguard_tests::{Destination, Guard, Process, Puppet, World, address, leftover, wait_until};
use rustix::process::Signal;
use serde_json::json;

use crate::{LIMIT, SITE, program, settled, signal, status, world};

/// Enough to find what happens now and then; 200 for a proof.
const CYCLES: u32 = 15;

/// A kill comes so long after the last thing that happened, at most.
const WINDOW: u64 = 300;

const POLICY: &str = "
version: 1
agents:
  - {name: leaker}
  - {name: helper}
rules:
  - id: site
    match: {host: [api.example.com], port: [80], method: [GET]}
    action: allow
  - id: echo
    agents: [helper]
    match: {cidr: [203.0.113.16/32, '2001:db8:113::10/128'], port: [7]}
    action: allow
    handling: direct
  - id: looked-at
    match: {cidr: [192.0.2.77/32, '2001:db8:113::77/128'], port: [80], method: [GET]}
    action: allow
";

/// Where the proxy decides by what is said, and nothing is said that it allows.
const LOOKED_AT: [&str; 2] = ["192.0.2.77", "2001:db8:113::77"];

/// The kinds of attempts of `leak`, as it marks them; what is dialled over TCP is known by where it goes.
const KINDS: [&str; 10] = ["u0", "u1", "o0", "o1", "c0", "c1", "d0", "d1", "p0", "p1"];

/// xorshift64*: chance that can be had again.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    /// A moment within so many milliseconds: there is nothing to wait for, that is the point.
    fn wait(&mut self, most: u64) {
        thread::park_timeout(Duration::from_micros(self.below(most * 1000)));
    }
}

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

fn leak(program: &Path, mark: &str, rounds: u32) -> Vec<OsString> {
    let [four, six] = address::CANARY.map(|ip| ip.to_string());
    let servers = address::NAME_SERVER.map(|ip| ip.to_string());
    let rounds = rounds.to_string();
    let words = [
        &four,
        "9",
        mark,
        &rounds,
        &six,
        &servers[0],
        &servers[1],
        LOOKED_AT[0],
        LOOKED_AT[1],
    ];
    let words = words.map(OsString::from);
    std::iter::once(program.into()).chain(words).collect()
}

/// Rounds that a leaker has said it has done.
fn rounds(process: &Process) -> u64 {
    let said = process.stdout();
    let mut numbers = said.lines().rev().filter_map(|line| line.parse().ok());
    numbers.next().unwrap_or(0)
}

/// What nobody may send, of all that has arrived: for none of the destinations that are for the worker
/// and the helper alone.
fn strangers(world: &World) -> Vec<(Destination, u64)> {
    let site = address::origin(0x10);
    let all = world.all_arrivals().unwrap().into_iter();
    all.filter(|(to, _)| {
        let known = match to.port {
            Some(7) => to.protocol == 6 && site.contains(&to.ip),
            Some(80) => to.protocol == 6 && site.contains(&to.ip),
            Some(53) => address::NAME_SERVER.contains(&to.ip),
            // An answer for a worker that was killed meanwhile finds nobody (RFC 1122, 3.2.2.1).
            None if to.protocol == 1 => address::NAME_SERVER.contains(&to.ip),
            _ => false,
        };
        // The kernels' own talk (ICMPv6, behind an option where groups are joined), and answers.
        let multicast = to.ip.is_multicast() && matches!(to.protocol, 0 | 58);
        !(known || multicast || to.protocol == 58 || address::HOST.contains(&to.ip))
    })
    .collect()
}

fn marked(world: &World, mark: &str) -> BTreeSet<String> {
    let marks = world.marks().unwrap().into_keys();
    marks
        .filter_map(|found| Some(found.strip_prefix(mark)?.to_owned()))
        .collect()
}

/// Every way of the leaker's leads out where nobody is governed, or the rest shows nothing.
fn leaks_freely(world: &World, program: &Path) {
    let words = leak(program, "escapefree", 3);
    let free = world.host().command(&words[0]).args(&words[1..]);
    free.run().unwrap().success().unwrap();
    // What is said over TCP to where nobody listens does not leave: the SYN does.
    let marks = marked(world, "escapefree");
    let datagrams = KINDS.iter().filter(|kind| !kind.starts_with('p'));
    for kind in datagrams {
        assert!(marks.contains(*kind), "{kind} of {marks:?}");
    }
    let mut dialled = address::CANARY.to_vec();
    dialled.extend(LOOKED_AT.map(|ip| ip.parse::<IpAddr>().unwrap()));
    let found = strangers(world);
    for ip in dialled {
        let dialled = |to: &Destination| to.protocol == 6 && to.ip == ip;
        assert!(found.iter().any(|(to, _)| dialled(to)), "{ip}: {found:?}");
    }
}

/// The workers of a keeper: its children beside the monitors of runs.
fn workers(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let id: Option<u32> = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The state and the parent follow the name in parentheses (proc_pid_stat(5)).
        let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let mut fields = fields.split(' ');
        let dead = matches!(fields.next(), Some("Z" | "X"));
        let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let works = line.starts_with("agentguard-worker");
        if works && !dead && fields.next() == Some(&parent.to_string()) {
            found.extend(id);
        }
    }
    found
}

fn alive(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    !(state.is_empty() || state.starts_with(['Z', 'X']))
}

fn listed(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            let below = listed(&entry.path()).into_iter();
            found.extend(below.map(|below| format!("{name}/{below}")));
        } else {
            found.insert(name);
        }
    }
    found
}

/// What is killed in a cycle.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Worker,
    /// The worker, and the one that takes its place, before it serves.
    WorkerTwice,
    Keeper,
    /// First the worker.
    Both,
    /// The keeper, and the one that takes its place, before it is ready.
    Starting,
}

const VICTIMS: [Victim; 5] = [
    Victim::Worker,
    Victim::WorkerTwice,
    Victim::Keeper,
    Victim::Both,
    Victim::Starting,
];

/// Kills a keeper; the workers that it leaves end by themselves.
fn kill_keeper(guard: &mut Guard<'_>) {
    let left = workers(guard.id().unwrap());
    guard.kill().unwrap();
    let ended = wait_until("the end of the workers without a keeper", LIMIT, || {
        left.iter().all(|worker| !alive(*worker)).then_some(())
    });
    ended.unwrap();
}

/// Kills a keeper's worker, and gives the next one.
fn kill_workers(keeper: u32) -> u32 {
    let killed = workers(keeper);
    killed.iter().for_each(|id| signal(*id, Signal::KILL));
    let next = wait_until("another worker", LIMIT, || {
        let mut now = workers(keeper).into_iter();
        now.find(|id| !killed.contains(id))
    });
    next.unwrap()
}

fn kill(guard: &mut Guard<'_>, victim: Victim, chance: &mut Chance) {
    chance.wait(WINDOW);
    let keeper = guard.id().unwrap();
    match victim {
        Victim::Worker | Victim::WorkerTwice => {
            let next = kill_workers(keeper);
            if matches!(victim, Victim::WorkerTwice) {
                chance.wait(WINDOW);
                signal(next, Signal::KILL);
            }
        }
        Victim::Keeper | Victim::Both => {
            if matches!(victim, Victim::Both) {
                let killed = workers(keeper).into_iter();
                killed.for_each(|id| signal(id, Signal::KILL));
                chance.wait(20);
            }
            kill_keeper(guard);
            chance.wait(100);
            guard.start().unwrap();
        }
        Victim::Starting => {
            kill_keeper(guard);
            guard.begin().unwrap();
            chance.wait(WINDOW);
            kill_keeper(guard);
            guard.start().unwrap();
        }
    }
}

/// The helper's next request and its next direct flows, whatever became of those before. The request is to
/// an address that it has kept: of queries the kernel drops some where others ask without a pause.
fn recovers(helper: &mut Puppet, kept: &str) -> Duration {
    let began = Instant::now();
    let request = format!("GET / HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n");
    let request: String = request.bytes().map(|byte| format!("{byte:02x}")).collect();
    let talk = format!("talk('{kept}', 80, '{request}')");
    let answered = wait_until("a request is answered", LIMIT, || {
        let answer = helper.ask(&talk).unwrap();
        let answer = answer.get(0)?.as_str()?;
        answer.starts_with("HTTP/1.1 200 OK").then_some(())
    });
    answered.unwrap();
    for ip in address::origin(0x10) {
        let dial = format!("tcp('d', '{ip}', 7)");
        let echoed = wait_until("a direct flow passes", LIMIT, || {
            let dialled = helper.ask(&dial).unwrap() == json!([ip.to_string(), 7]);
            (dialled && helper.ask("echo('d', 'hello')").unwrap() == "hello").then_some(())
        });
        echoed.unwrap();
    }
    began.elapsed()
}

#[test]
fn nothing_leaks_while_the_guard_is_killed_at_any_moment() {
    let cycles = setting("AGENTGUARD_KILL_CYCLES").unwrap_or(CYCLES);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed =
        setting("AGENTGUARD_KILL_SEED").unwrap_or(now.as_secs() << 20 | now.subsec_micros() as u64);
    println!("AGENTGUARD_KILL_CYCLES={cycles} AGENTGUARD_KILL_SEED={seed}");
    let mut chance = Chance(seed | 1);
    let world = world("kill");
    let Some(program) = program(&world, "leak") else {
        return;
    };
    leaks_freely(&world, &program);
    let free = strangers(&world);

    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let mut helper = settled(&world, &guard, "helper");
    let kept = helper.ask(&format!("resolve('{SITE}', 4)")).unwrap();
    let kept = kept[0].as_str().unwrap().to_owned();
    let cgroup = guard.agent_cgroup("leaker").unwrap();
    let nice = |words: Vec<OsString>| {
        let nice = ["nice", "-n", "19"].map(OsString::from).into_iter();
        nice.chain(words).collect::<Vec<_>>()
    };
    let adopted = guard.within(&cgroup, nice(leak(&program, "escapeadopted", 0)));
    let mut adopted = adopted.spawn().unwrap();
    // A cgroup of somebody else's, beside the guard's, which the world removes.
    let foreign = format!("{}.foreign", world.tag().directory());
    let foreign = leftover::cgroup_mount().unwrap().join(foreign);
    fs::create_dir(&foreign).unwrap();
    let add = ["agent", "add", "leaker", "--cgroup"];
    let add = guard.cli().args(add).arg(&foreign);
    add.run().unwrap().success().unwrap();
    let outside = guard.within(&foreign, nice(leak(&program, "escapeoutside", 0)));
    let mut outside = outside.spawn().unwrap();
    let run = ["run", "--agent", "leaker", "--user", "1000", "--"];
    let run = guard
        .cli()
        .args(run)
        .args(nice(leak(&program, "escaperun", 0)));
    let mut run = run.spawn().unwrap();
    // Runs that begin at every moment, and are refused or governed.
    let again = format!(
        r#"while :; do "$0" run --agent leaker -- {} >/dev/null 2>&1 && echo "$((n += 1))"; done"#,
        leak(&program, "escapeagain", 1)
            .iter()
            .map(|word| word.to_str().unwrap())
            .collect::<Vec<_>>()
            .join(" "),
    );
    let again = world
        .host()
        .command("sh")
        .args(["-c", &again])
        .arg(guard.program());
    let mut again = again
        .env("AGENTGUARD_CONFIG", guard.config())
        .spawn()
        .unwrap();
    wait_until("all of them work", LIMIT, || {
        [&adopted, &outside, &run, &again]
            .iter()
            .all(|one| rounds(one) > 0)
            .then_some(())
    })
    .unwrap();
    recovers(&mut helper, &kept);
    let pins = listed(guard.bpffs());
    let before = [&adopted, &outside, &run, &again].map(rounds);

    let mut slowest = Duration::ZERO;
    let mut counts = [0; VICTIMS.len()];
    for cycle in 0..cycles {
        // Each of them as often as the others.
        let which = cycle as usize % VICTIMS.len();
        let victim = VICTIMS[which];
        counts[which] += 1;
        let began = Instant::now();
        kill(&mut guard, victim, &mut chance);
        let ended = began.elapsed();
        let back = recovers(&mut helper, &kept);
        println!("cycle {cycle}: {victim:?}, ended after {ended:?}, back {back:?} later");
        slowest = slowest.max(back);
        let out = strangers(&world);
        assert_eq!(out, free, "cycle {cycle}, {victim:?}, seed {seed}");
        assert_eq!(listed(guard.bpffs()), pins, "cycle {cycle}, {victim:?}");
        assert!(cgroup.is_dir());
    }
    let after = [&adopted, &outside, &run, &again].map(rounds);
    println!("{VICTIMS:?}: {counts:?}; rounds {before:?} to {after:?}; back within {slowest:?}");
    // Nobody has ended, and nobody has stood still.
    for process in [&mut adopted, &mut outside, &mut run, &mut again] {
        assert!(process.ended().unwrap().is_none(), "{}", process.stderr());
    }
    for (before, after) in before.into_iter().zip(after) {
        assert!(after > before, "{before} {after}");
    }
    for mark in ["escapeadopted", "escapeoutside", "escaperun", "escapeagain"] {
        assert_eq!(marked(&world, mark), BTreeSet::new(), "{mark}, seed {seed}");
    }
    drop((adopted, outside, run, again));
    // Whoever has run a command is gone, and so is the keeper that knew: the command is not.
    fs::write(cgroup.join("cgroup.kill"), "1").unwrap();
    wait_until("names are answered", LIMIT, || {
        let answer = helper.ask(&format!("get('{SITE}')")).unwrap();
        (answer == "HTTP/1.1 200 OK").then_some(())
    })
    .unwrap();
    // One worker, and nothing of the runs that have ended.
    assert_eq!(workers(guard.id().unwrap()).len(), 1);
    assert!(status(&guard).is_some());
    wait_until("the runs' places are cleared away", LIMIT, || {
        let found = fs::read_dir(&cgroup).unwrap().flatten();
        let left = found.filter(|entry| entry.path().is_dir()).count();
        (left == 0).then_some(())
    })
    .unwrap();
}

//! An agent asks for more than there is: nothing of it passes, what is lost is known, and others are
//! served.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use agentguard_tests::{Guard, Process, Puppet, address, decisions, patient, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{LIMIT, SITE, program, settled, signal, worker, world};

const POLICY: &str = "
version: 1
agents:
  - {name: flooder}
  - {name: helper}
rules:
  - id: site
    agents: [helper]
    match: {host: [api.example.com], port: [80], method: [GET]}
    action: allow
  - id: echo
    agents: [helper]
    match: {cidr: [203.0.113.16/32], port: [7]}
    action: allow
    handling: direct
  - id: looked-at
    match: {cidr: [192.0.2.77/32], port: [80], method: [GET]}
    action: allow
";

/// Where the proxy decides by what is said.
const LOOKED_AT: &str = "192.0.2.77";

/// How many processors there are: one more attempt on each shows what was lost there before.
fn processors() -> u64 {
    std::thread::available_parallelism().unwrap().get() as u64
}

struct Flood<'a> {
    guard: &'a Guard<'a>,
    program: &'a Path,
    cgroup: std::path::PathBuf,
}

impl Flood<'_> {
    /// So many attempts of a kind (see `flood.c`), as the least of the machine's programs.
    fn begin(&self, kind: &str, to: &str, port: u16, attempts: u64) -> Process {
        let program = self.program.display().to_string();
        let (port, attempts) = (port.to_string(), attempts.to_string());
        let processes = processors().to_string();
        let words = [
            "nice",
            "-n",
            "19",
            &program,
            to,
            &port,
            "escapeflood",
            kind,
            &attempts,
            &processes,
        ];
        let flood = self.guard.within(&self.cgroup, words.map(OsString::from));
        flood.limit(Duration::from_secs(120)).spawn().unwrap()
    }
}

/// What the flood says at its end: how many attempts the kernel took, and how many it refused.
fn ended(flood: Process) -> (u64, u64) {
    let output = flood.wait(Duration::from_secs(120)).unwrap();
    let output = output.success().unwrap();
    let (taken, refused) = output.stdout.trim().split_once(' ').unwrap();
    (taken.parse().unwrap(), refused.parse().unwrap())
}

/// Every gap in the record: how much was lost of what source. The log holds JSON between its heads.
fn lost(guard: &Guard<'_>) -> u64 {
    const BEGIN: &[u8] = br#"{"gap":"#;
    let mut lost = 0;
    for entry in fs::read_dir(guard.state_dir().join("record")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let log = fs::read(&path).unwrap();
        for at in 0..log.len() {
            let Some(rest) = log.get(at..).filter(|rest| rest.starts_with(BEGIN)) else {
                continue;
            };
            let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<Value>();
            let gap = values.next().unwrap().unwrap();
            lost += gap["gap"]["lost"].as_u64().unwrap();
        }
    }
    lost
}

/// Denied attempts of the flooding agent in the record.
fn denied(guard: &Guard<'_>) -> u64 {
    let cli = guard.cli();
    let cli = cli.args([
        "verdicts", "--agent", "flooder", "-o", "jsonl", "--limit", "10000",
    ]);
    let told = cli.run().unwrap().success().unwrap();
    let all = decisions(&told.stdout).unwrap();
    all.iter().map(|decision| decision.count).sum()
}

/// One request through the proxy and one direct flow, which are not tried again.
fn is_served(helper: &mut Puppet) {
    helper.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    passes(helper);
}

fn passes(helper: &mut Puppet) {
    let [four, _] = address::origin(0x10);
    let dial = format!("tcp('d', '{four}', 7)");
    helper.gives(&dial, json!([four.to_string(), 7]));
    helper.gives("echo('d', 'hello')", "hello");
}

/// How long a helper is served in without a flood: the slowest of some times.
fn undisturbed(helper: &mut Puppet) -> Duration {
    let times = (0..10).map(|_| {
        let begun = Instant::now();
        is_served(helper);
        begun.elapsed()
    });
    times.max().unwrap()
}

/// How long it may take beside a flood: so many times as long, and what a machine of two processors may have
/// others do for once.
fn beside(undisturbed: Duration, once: Duration) -> Duration {
    patient(undisturbed * 20 + once)
}

/// Counts and gaps are the attempts, once the last ones have told what was lost before them: one more on
/// each processor as long as that may be lost itself, while the reader has not caught up. Gives how many
/// attempts there were then.
fn adds_up(flood: &Flood<'_>, attempts: u64) -> u64 {
    let [canary, _] = address::CANARY.map(|ip| ip.to_string());
    let (last, mut attempts) = (processors(), attempts);
    let mut found = (0, 0);
    let added = wait_until("counts and gaps add up", LIMIT, || {
        let more = flood.begin("connect", &canary, 9, last);
        assert_eq!(ended(more), (0, last));
        attempts += last;
        let soon = wait_until("this one is told", Duration::from_secs(3), || {
            found = (denied(flood.guard), lost(flood.guard));
            (found.0 + found.1 == attempts).then_some(())
        });
        soon.ok()
    });
    let (told, lost) = found;
    let log = flood.guard.log();
    assert!(
        added.is_ok(),
        "{told} told, {lost} lost, of {attempts}: {log}"
    );
    println!("{told} told and {lost} lost of {attempts}");
    attempts
}

#[test]
fn a_flood_of_refusals_is_counted_and_stops_nobody_else() {
    let world = world("flood");
    let Some(program) = program(&world, "flood") else {
        return;
    };
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut helper = settled(&world, &guard, "helper");
    is_served(&mut helper);
    let cgroup = guard.agent_cgroup("flooder").unwrap();
    let flood = Flood {
        guard: &guard,
        program: &program,
        cgroup,
    };
    let [canary, _] = address::CANARY.map(|ip| ip.to_string());

    let bound = beside(undisturbed(&mut helper), Duration::from_secs(1));
    let attempts = 2_000_000;
    let began = Instant::now();
    let mut flooding = flood.begin("connect", &canary, 9, attempts);
    let (mut served, mut slowest) = (0, Duration::ZERO);
    while flooding.ended().unwrap().is_none() {
        let begun = Instant::now();
        is_served(&mut helper);
        slowest = slowest.max(begun.elapsed());
        served += 1;
    }
    let took = began.elapsed();
    println!("served {served} times meanwhile, in {slowest:?} at most; the flood took {took:?}");
    assert!(slowest <= bound, "{slowest:?}, not {bound:?}");
    assert_eq!(ended(flooding), (0, attempts));
    let attempts = adds_up(&flood, attempts);

    // Nobody reads.
    let reader = worker(&guard).unwrap();
    signal(reader, Signal::STOP);
    // More than there is room for.
    let more = 8_000;
    assert_eq!(ended(flood.begin("connect", &canary, 9, more)), (0, more));
    passes(&mut helper);
    signal(reader, Signal::CONT);
    adds_up(&flood, attempts + more);
    assert!(lost(&guard) > 0);
    assert_eq!(world.canary().unwrap(), 0);
}

#[test]
fn an_agent_that_hammers_the_proxy_and_the_resolver_is_not_alone() {
    let world = world("hammer");
    let Some(program) = program(&world, "flood") else {
        return;
    };
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut helper = settled(&world, &guard, "helper");
    is_served(&mut helper);
    let cgroup = guard.agent_cgroup("flooder").unwrap();
    let flood = Flood {
        guard: &guard,
        program: &program,
        cgroup,
    };
    let [server, _] = address::NAME_SERVER.map(|ip| ip.to_string());
    // Of the queries of a flood the kernel drops some, and of anybody's beside it: a client asks again after a
    // second, and may so for some.
    let bound = beside(undisturbed(&mut helper), Duration::from_secs(8));
    for (kind, to, port, attempts) in [
        ("stream", LOOKED_AT, 80, 5_000),
        ("dns", &server, 53, 100_000),
    ] {
        let mut flooding = flood.begin(kind, to, port, attempts);
        let (mut served, mut slowest) = (0, Duration::ZERO);
        while flooding.ended().unwrap().is_none() || served < 3 {
            let begun = Instant::now();
            let get = format!("get('{SITE}')");
            wait_until("a request is answered", LIMIT, || {
                (helper.ask(&get).unwrap() == "HTTP/1.1 200 OK").then_some(())
            })
            .unwrap();
            passes(&mut helper);
            slowest = slowest.max(begun.elapsed());
            served += 1;
        }
        let ended = ended(flooding);
        println!("served {served} times beside {kind}, in {slowest:?} at most: {ended:?}");
        assert!(slowest <= bound, "{kind}: {slowest:?}, not {bound:?}");
    }
    assert_eq!(world.arrivals(LOOKED_AT.parse().unwrap()).unwrap(), 0);
    let marks = world.marks().unwrap();
    assert!(marks.is_empty(), "{marks:?}");
}

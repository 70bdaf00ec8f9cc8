//! What a workload has open besides TCP and UDP when it is adopted: the gate refuses what is IP, and of what it
//! does not see the answer, `agent show` and the record tell. A strict guard does not adopt it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use agentguard_model::{Decision, ReasonCode};
use agentguard_tests::{Guard, Process, address, kernel, wait_until};
use serde_json::{Value, json};

use crate::bench::{self, AGENT, Bench};
use crate::ways::{Adopted, Families, OTHERS, Way};

/// How long something may take that has to happen.
const LIMIT: Duration = Duration::from_secs(20);

/// The ways, and what is told of each that the gate does not see.
const TOLD: [(&str, &str); 5] = [
    ("old-ping", "a socket of the kind PING"),
    ("old-raw", "a raw socket"),
    ("old-packet", "a packet socket (AF_PACKET)"),
    ("old-vsock", "an AF_VSOCK socket"),
    ("old-tun", "/dev/net/tun"),
];

/// Starts a way in a cgroup, up to where it has what it needs. `None`: this kernel has no such thing.
fn begin(bench: &Bench<'_>, way: &Way, six: bool, cgroup: &Path, mark: &str) -> Option<Process> {
    let canary = address::CANARY[usize::from(six)];
    let go = bench.world.directory().join(mark);
    let words = crate::asked::words(bench, way.name, &canary.to_string(), mark);
    let process = bench.within(cgroup, words).env("ESCAPE_GO", &go);
    let mut process = process.spawn().unwrap();
    wait_until("it is ready, or is over", LIMIT, || {
        let ready = process.stdout().contains("ready");
        (ready || process.ended().unwrap().is_some()).then_some(())
    })
    .unwrap();
    if process.stdout().contains("ready") {
        return Some(process);
    }
    let output = process.wait(LIMIT).unwrap();
    assert!(
        way.part.is_some() && output.code() == 3,
        "{} {output}",
        way.name
    );
    kernel::absent(way.name, way.part.unwrap_or_default()).unwrap();
    None
}

/// Lets it send. Whether that was seen.
fn end(bench: &Bench<'_>, process: Process, mark: &str) -> (bool, String) {
    fs::write(bench.world.directory().join(mark), "").unwrap();
    let output = process.wait(LIMIT).unwrap();
    (crate::asked::marked(bench, mark), output.to_string())
}

fn agent(guard: &Guard<'_>, words: &[&str], cgroup: &Path) -> agentguard_tests::Output {
    let agent = guard.cli().args(["agent"]).args(words).args([AGENT]);
    agent.arg("--cgroup").arg(cgroup).run().unwrap()
}

#[test]
fn what_is_open_besides_tcp_and_udp_is_refused_or_told() {
    let Some(programs) = bench::programs() else {
        return;
    };
    let world = bench::world("older-others");
    let bench = Bench::new(&world, &programs);
    let lsm = bench.lsm();
    let mut number = 0;
    for (name, told) in TOLD {
        let way = OTHERS.iter().find(|way| way.name == name).unwrap();
        let closed = match way.adopted {
            Adopted::Closed => true,
            Adopted::Lsm => lsm,
            Adopted::Open | Adopted::NotTried => false,
        };
        for six in [false, true] {
            if six && way.families == Families::Four {
                continue;
            }
            for adopted in [false, true] {
                number += 1;
                let cgroup = bench.outside(number);
                let mark = format!("escapeolder{number}x");
                let Some(process) = begin(&bench, way, six, &cgroup, &mark) else {
                    continue;
                };
                if !adopted {
                    let (seen, said) = end(&bench, process, &mark);
                    assert!(seen, "{name} proves nothing: {said}");
                    continue;
                }
                let added = agent(&bench.guard, &["add"], &cgroup).success().unwrap();
                // What LSM programs refuse is not told, except what they are not asked for.
                let tells = !lsm || way.adopted == Adopted::Open;
                let warning = format!("not contained: a process has {told}");
                let said = added.stderr.contains(&warning);
                assert_eq!(said, tells, "{name} {added}");
                let shown = bench.guard.cli().args(["agent", "show", AGENT]);
                let shown = shown.run().unwrap().success().unwrap();
                assert_eq!(shown.stdout.contains(&warning), tells, "{name} {shown}");
                if tells {
                    let left = |it: &&Decision| {
                        it.reason.code == ReasonCode::LeftOpen
                            && it
                                .action
                                .method
                                .as_deref()
                                .is_some_and(|it| it.starts_with(told))
                    };
                    bench
                        .guard
                        .wait_verdicts("what is left open", |decisions| {
                            decisions.iter().find(left).map(|_| ())
                        })
                        .unwrap();
                }
                let (seen, said) = end(&bench, process, &mark);
                assert_eq!(seen, !closed, "{name} adopted, LSM {lsm}: {said}");
                agent(&bench.guard, &["remove"], &cgroup).success().unwrap();
            }
        }
    }
}

/// It is not adopted where that has to hold, and nothing has changed for it.
#[test]
fn a_strict_guard_adopts_nothing_that_has_a_way_past_the_gate_open() {
    let Some(programs) = bench::programs() else {
        return;
    };
    let world = bench::world("older-strict");
    let mut bench = Bench::new(&world, &programs);
    let lsm = bench.lsm();
    bench.guard.stop().unwrap().success().unwrap();
    let file = bench.guard.config();
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["run"] = json!({"strict": true});
    fs::write(&file, config.to_string()).unwrap();
    bench.guard.start().unwrap();
    for (number, (name, told)) in (1_u32..).zip(TOLD) {
        let way = OTHERS.iter().find(|way| way.name == name).unwrap();
        if lsm && way.adopted != Adopted::Open {
            continue;
        }
        let cgroup = bench.outside(number);
        let mark = format!("escapestrict{number}x");
        let Some(process) = begin(&bench, way, false, &cgroup, &mark) else {
            continue;
        };
        let refused = agent(&bench.guard, &["add"], &cgroup);
        assert_eq!(refused.code(), 1, "{name} {refused}");
        for says in [
            "is not contained, and `run` is strict: a process has ",
            told,
            "and without what it has open there",
        ] {
            assert!(refused.stderr.contains(says), "{name} {refused}");
        }
        let (seen, said) = end(&bench, process, &mark);
        assert!(seen, "{name} {said}");
    }
}

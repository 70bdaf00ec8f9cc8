//! Whose a process is: by its cgroup, nested ones included, and nobody's without one.

use std::fs;

use agentguard_model::{ActionKind, Layer, ReasonCode, Verdict};
use agentguard_tests::{Puppet, address, leftover};

use super::{SITE, agent, free, gist, puppet, world};

const POLICY: &str = "
version: 1
agents: [{name: coder}]
rules:
  - id: api
    match: {host: [api.example.com], port: [80]}
    action: allow
";

#[test]
fn a_cgroup_that_the_agent_makes_below_its_own_is_the_agents_too() {
    let world = world("nested");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    let mount = leftover::cgroup_mount().unwrap();
    let mount = mount.to_str().unwrap();
    // Two levels down, as a build tool or a container runtime would go.
    client.gives(
        &format!(
            "(lambda own: (os.makedirs(own + '/inner/most'), \
             open(own + '/inner/most/cgroup.procs', 'w').write('0'))[1])\
             ('{mount}' + [l[3:].strip() for l in open('/proc/self/cgroup') if l.startswith('0::')][0])"
        ),
        1,
    );
    let inside = client
        .ask("[l[3:].strip() for l in open('/proc/self/cgroup') if l.startswith('0::')][0]")
        .unwrap();
    let inside = inside.as_str().unwrap();
    assert!(inside.ends_with("/inner/most"), "{inside}");

    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    client.fails("tcp('c', '192.0.2.66', 80)", "EPERM");
    client.fails("tcp('c', '2001:db8:113::66', 80)", "EPERM");
    let decisions = guard
        .wait_verdicts("both refusals", |decisions| {
            let denied = |decision: &&agentguard_model::Decision| decision.verdict == Verdict::Deny;
            (decisions.iter().filter(denied).count() == 2).then(|| decisions.to_vec())
        })
        .unwrap();
    assert!(
        decisions
            .iter()
            .all(|decision| agent(decision) == Some("coder")),
        "{decisions:?}"
    );
    let request = decisions
        .iter()
        .find(|decision| decision.action.kind == ActionKind::HttpRequest)
        .unwrap();
    assert_eq!(request.verdict, Verdict::Allow);
    assert_eq!(world.canary().unwrap(), 0);

    // The canary is there to be reached: without the guard the packets arrive.
    free(&world).fails("tcp('c', '192.0.2.66', 80)", "ECONNREFUSED");
    assert!(world.canary().unwrap() > 0);
}

#[test]
fn a_process_below_the_root_that_is_no_agents_gets_nothing() {
    // A guard for each: the record counts what it has seen of the same a moment ago.
    for below in [false, true] {
        let world = world("nobody");
        let guard = world.guard().policy(POLICY).start().unwrap();
        let mut cgroup = guard.cgroup().to_owned();
        if below {
            cgroup = cgroup.join("stray");
            fs::create_dir(&cgroup).unwrap();
        }
        let mut client = Puppet::start(&world, |words| guard.within(&cgroup, words)).unwrap();
        client.fails("make('s', socket.AF_INET, socket.SOCK_STREAM)", "EPERM");
        let decisions = guard
            .wait_verdicts("the refusal", |decisions| {
                (!decisions.is_empty()).then(|| decisions.to_vec())
            })
            .unwrap();
        let [first, ..] = decisions.as_slice() else {
            panic!("no decision");
        };
        assert_eq!(
            gist(first),
            (ActionKind::Socket, Verdict::Deny, ReasonCode::NoAgent, true)
        );
        assert_eq!(first.layer, Layer::Kernel);
        assert_eq!(agent(first), None);
        let process = first.process.as_ref().unwrap();
        assert_eq!((process.uid, process.comm.starts_with("python")), (0, true));
        assert_eq!(
            first.action.method.as_deref(),
            Some("family 2 type 1 protocol 6")
        );
        // What has no socket has no names either.
        client.fails(&format!("resolve('{SITE}', 4)"), "EAI_NONAME");
        client.fails("udp('u', '::1')", "EPERM");
        assert_eq!(world.arrivals(address::origin(0x10)[0]).unwrap(), 0);
        free(&world).gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    }
}

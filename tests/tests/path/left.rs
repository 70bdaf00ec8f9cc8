//! Runs that outlive their daemon: the next one knows who is behind them.

use std::time::Duration;

use agentguard_model::{Decision, Verdict};
use agentguard_tests::{Guard, Puppet, World, wait_until};
use serde_json::Value;

use super::{OTHER, SITE, world};

const POLICY: &str = "
version: 1
agents: [{name: coder}]
rules:
  - id: sites
    match: {host: [api.example.com], port: [80]}
    action: allow
  - id: not-for-releases
    match: {host: [api.example.com], transport: [tcp], workflow: [release]}
    action: deny
  - id: for-nights
    match: {host: [www.other.example], port: [80], session: [s1], purpose: [backup]}
    when: agent.labels.shift == 'night'
    action: allow
";

fn run(world: &World, guard: &Guard<'_>, more: &[&str]) -> Puppet {
    Puppet::start(world, |words| {
        let run = guard.cli().args(["run", "--agent", "coder"]).args(more);
        run.args(["--"]).args(words)
    })
    .unwrap()
}

fn last(guard: &Guard<'_>) -> Decision {
    guard.verdicts().unwrap().pop().unwrap()
}

fn ask(client: &mut Puppet, site: &str) -> bool {
    let told = client.ask(&format!("get('{site}')")).unwrap();
    told == "HTTP/1.1 200 OK"
}

#[test]
fn a_run_is_who_it_was_after_its_daemon_ended_and_was_killed() {
    let world = world("left");
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let mut release = run(&world, &guard, &["--workflow", "release"]);
    let mut night = run(
        &world,
        &guard,
        &[
            "--session",
            "s1",
            "--purpose",
            "backup",
            "--label",
            "shift=night",
        ],
    );
    let mut plain = run(&world, &guard, &[]);
    for restart in ["none", "ended", "killed"] {
        match restart {
            "ended" => drop(guard.stop().unwrap()),
            "killed" => guard.kill().unwrap(),
            _ => {}
        }
        if restart != "none" {
            guard.start().unwrap();
        }
        assert!(!ask(&mut release, SITE), "{restart}");
        let denied = last(&guard);
        assert_eq!(denied.verdict, Verdict::Deny, "{restart}");
        assert_eq!(denied.context.workflow.as_deref(), Some("release"));
        assert_eq!(denied.matched[0].rule, "not-for-releases", "{restart}");

        assert!(ask(&mut night, OTHER), "{restart}");
        let allowed = last(&guard);
        assert_eq!(allowed.context.session.as_deref(), Some("s1"));
        assert_eq!(allowed.agent.unwrap().labels["shift"], "night");

        assert!(ask(&mut plain, SITE), "{restart}");
        assert!(!ask(&mut plain, OTHER), "{restart}");
        let runs = wait_until("three runs", Duration::from_secs(5), || {
            let show = guard.cli().args(["agent", "show", "coder", "-o", "json"]);
            let shown = show.run().unwrap().success().unwrap();
            let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
            (shown["runs"] == 3).then_some(())
        });
        runs.unwrap();
    }
}

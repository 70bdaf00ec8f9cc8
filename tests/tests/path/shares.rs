//! The share of the record that each agent has, as the configuration says: what is over it is refused, and nobody else
//! is.

use agentguard_model::ReasonCode;
use agentguard_tests::{Guard, Output};
use serde_json::json;

use super::{SITE, agent, world};

const POLICY: &str = "
version: 1
agents: [{name: loud}, {name: quiet}]
rules:
  - id: requests
    match: {host: [api.example.com], port: [80]}
    action: allow
";

/// How many decisions an agent has at once here: a name and a request each time.
const AT_ONCE: usize = 6;

#[test]
fn an_agent_over_its_share_of_the_record_is_refused_and_no_other_is() {
    let world = world("shares");
    let share = json!({"agent_share": {"per_second": 1, "at_once": AT_ONCE}});
    let guard = world.guard().policy(POLICY).setting("record", share);
    let guard = guard.start().unwrap();
    let urls: Vec<String> = (0..4 * AT_ONCE)
        .map(|number| format!("http://{SITE}/bytes/{}", number % 3))
        .collect();
    let asked = |name| asked(&guard, name, &urls);
    let loud = asked("loud");
    let statuses: Vec<&str> = loud.stdout.lines().collect();
    assert_eq!(statuses.first(), Some(&"200"), "{loud:?}");
    assert_eq!(statuses.last(), Some(&"403"), "{loud:?}");
    let allowed = statuses.iter().filter(|it| **it == "200").count();
    assert!(allowed <= AT_ONCE, "{loud:?}");
    // The other one has a share of its own.
    let quiet = asked("quiet");
    assert_eq!(quiet.stdout.lines().next(), Some("200"), "{quiet:?}");
    let refused = guard.verdicts().unwrap().into_iter().find(|decision| {
        agent(decision) == Some("loud") && decision.reason.code == ReasonCode::RecordQuota
    });
    assert!(refused.is_some(), "{:?}", guard.verdicts());
}

/// One after the other on one connection; the statuses.
fn asked(guard: &Guard<'_>, name: &str, urls: &[String]) -> Output {
    let fixed = ["curl", "-sS", "--max-time", "20", "-w", "%{http_code}\n"];
    let fixed = fixed.map(str::to_owned);
    let each = urls
        .iter()
        .flat_map(|url| ["-o", "/dev/null", url].map(str::to_owned));
    let run = guard.cli().args(["run", "--agent", name, "--"]);
    run.args(fixed.into_iter().chain(each)).run().unwrap()
}

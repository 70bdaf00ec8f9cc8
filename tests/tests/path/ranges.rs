//! Addresses that are not public, behind names: closed but to the rule that names them.

use std::net::IpAddr;

use agentguard_model::{Decision, ReasonCode};
use agentguard_tests::{Origin, World, address};

use super::SITE;

const INSIDE: &str = "inside.example.com";

/// Every name on port 80, and what may lead inside: one path, and with the switch another port.
const POLICY: &str = "
version: 1
agents: [{name: coder}]
switches: {maintenance: false}
rules:
  - {id: web, match: {host: ['*.example.com'], port: [80, 8080]}, action: allow}
  - id: page
    match: {host: [inside.example.com], port: [80], path: [/in]}
    action: allow
    resolved_ranges: [10.1.0.0/16]
  - id: maintenance
    match: {host: [inside.example.com], port: [8080]}
    when: switches.maintenance
    action: allow
    resolved_ranges: [10.1.0.0/16]
";

#[test]
fn a_range_is_open_to_what_the_rule_that_names_it_allows_alone() {
    let inside: IpAddr = "10.1.2.3".parse().unwrap();
    let world = World::new("ranges")
        .origin(Origin::at(&address::origin(0x10)).site(SITE))
        .origin(Origin::at(&[inside]).site(INSIDE))
        .start()
        .unwrap();
    let guard = world.guard().policy(POLICY).start().unwrap();
    let asks = |urls: &[&str]| {
        let written = ["-s", "-w", "%{http_code} "];
        let urls = urls.iter().flat_map(|url| ["-o", "/dev/null", url]);
        let words = ["curl"].into_iter().chain(written).chain(urls);
        guard.agent("coder", words).run().unwrap()
    };
    // One connection of the client's: what one request may is no other's.
    let urls = [
        "http://inside.example.com/in",
        "http://inside.example.com/out",
        "http://inside.example.com/in",
    ];
    let said = asks(&urls);
    assert_eq!(said.stdout, "200 403 200 ", "{said}");
    let rebinding = guard
        .wait_verdicts("the denial", |decisions| {
            let is_it = |it: &&Decision| it.reason.code == ReasonCode::Rebinding;
            decisions.iter().find(is_it).cloned()
        })
        .unwrap();
    assert_eq!(rebinding.action.path.as_deref(), Some("/out"));
    assert_eq!(rebinding.action.ip, Some(inside), "{rebinding:?}");
    let told = "at 10.1.2.3, a private address: rule web does not list it in `resolved_ranges`.";
    assert!(rebinding.reason.message.ends_with(told), "{rebinding:?}");
    let id = rebinding.id.to_string();
    let explained = guard.cli().args(["explain", &id]).run().unwrap();
    let explained = explained.success().unwrap();
    assert!(explained.stdout.contains("resolved_ranges"), "{explained}");

    // A rule that is off opens nothing to the others.
    let said = asks(&["http://inside.example.com:8080/in"]);
    assert_eq!(said.stdout, "403 ", "{said}");
    let said = asks(&["http://api.example.com/out"]);
    assert_eq!(said.stdout, "200 ", "{said}");
    let switch = [
        "policy",
        "switch",
        "maintenance",
        "on",
        "--reason",
        "a test",
    ];
    guard.cli().args(switch).run().unwrap().success().unwrap();
    // Nobody listens there, which is not the guard's doing.
    let said = asks(&["http://inside.example.com:8080/in"]);
    assert_eq!(said.stdout, "502 ", "{said}");
}

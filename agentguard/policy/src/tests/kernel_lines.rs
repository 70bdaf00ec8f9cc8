//! The kernel's lines, as they are.

use std::fmt::Write;

use agentguard_common::map::{PortRules, TCP, UDP, effect, port_rule_flag};

use super::{agent, host, policy};
use crate::Policy;

/// Lines as "transports ports effect rule", until the first empty one.
fn shown(policy: &Policy, lines: &PortRules) -> Vec<String> {
    lines
        .iter()
        .take_while(|line| line.transports != 0)
        .map(|line| {
            let mut text = match line.transports {
                TCP => "tcp",
                UDP => "udp",
                _ => "both",
            }
            .to_owned();
            write!(text, " {}-{} ", line.first, line.last).unwrap();
            text.push_str(match line.effect {
                effect::DENY => "deny",
                effect::DIRECT => "direct",
                effect::PROXY => "proxy",
                _ => "?",
            });
            if line.flags & port_rule_flag::SHADOW != 0 {
                text.push_str(" shadow");
            }
            if line.flags & port_rule_flag::HARD != 0 {
                text.push_str(" hard");
            }
            if let Some(rule) = policy.rule(line.rule) {
                write!(text, " {}", rule.id).unwrap();
            }
            text
        })
        .collect()
}

fn with(rules: &str) -> Policy {
    policy(&format!(
        "version: 1\nagents: [{{name: coder}}, {{name: learner, mode: observe}}]\nrules:\n{rules}"
    ))
}

const OVERLAPS: &str = r#"
  - {id: all, match: {host: [a.example], port: ["1000-2000"]}, action: allow, handling: direct}
  - {id: udp, match: {host: [a.example], port: [1500], transport: [udp]}, action: allow}
  - {id: looked-at, match: {host: [a.example], port: [1200], method: [GET]}, action: allow}
  - {id: not, match: {host: ["*.example"], port: ["1900-3000"]}, action: deny}
  - {id: paper, match: {host: [a.example], port: [1999, 1001]}, action: deny, mode: shadow}
"#;

#[test]
fn overlaps_are_flattened() {
    let policy = with(OVERLAPS);
    let lines = |who| {
        let lines = policy.name_rules(agent(&policy, who), &host("a.example"));
        shown(&policy, &lines)
    };
    assert_eq!(
        lines("coder"),
        [
            "tcp 1000-1000 direct all",
            "tcp 1001-1001 direct shadow paper",
            "tcp 1002-1199 direct all",
            "tcp 1200-1200 proxy looked-at",
            "tcp 1201-1899 direct all",
            "both 1900-3000 deny not",
            "udp 1500-1500 direct udp",
        ]
    );
    // Denials are told apart from what no rule matches; with more than eight lines, the proxy is
    // asked about the rest.
    assert_eq!(
        lines("learner"),
        [
            "udp 1001-1001 deny paper",
            "udp 1500-1500 direct udp",
            "udp 1900-3000 deny not",
            "tcp 1000-1000 direct all",
            "tcp 1001-1001 direct shadow paper",
            "tcp 1002-1199 direct all",
            "tcp 1200-1200 proxy looked-at",
            "tcp 0-65535 proxy",
        ]
    );
}

#[test]
fn more_lines_than_the_kernel_has_go_to_the_proxy() {
    let mut rules = String::new();
    for n in 0..7 {
        writeln!(
            rules,
            "  - {{id: t{n}, match: {{host: [a.example], port: [{}]}}, action: allow, handling: direct}}",
            1000 + 10 * n
        )
        .unwrap();
    }
    rules.push_str(
        "  - {id: u, match: {host: [a.example], port: [7, 9], transport: [udp]}, action: allow}\n",
    );
    let few = with(&rules);
    let lines = shown(
        &few,
        &few.name_rules(agent(&few, "coder"), &host("a.example")),
    );
    assert_eq!(
        lines,
        [
            "udp 7-7 direct u",
            "udp 9-9 direct u",
            "tcp 1000-1000 direct t0",
            "tcp 1010-1010 direct t1",
            "tcp 1020-1020 direct t2",
            "tcp 1030-1030 direct t3",
            "tcp 1040-1040 direct t4",
            "tcp 0-65535 proxy",
        ]
    );
    // Denials need no line in enforce mode, so they give way first.
    rules = rules.replace("port: [7, 9]", "port: [7]");
    rules.push_str("  - {id: no, match: {host: [a.example], port: [5]}, action: deny}\n");
    let denied = with(&rules);
    let lines = shown(
        &denied,
        &denied.name_rules(agent(&denied, "coder"), &host("a.example")),
    );
    assert_eq!(lines.len(), 8);
    assert!(
        lines.iter().all(|line| line.contains("direct")),
        "{lines:?}"
    );
}

#[test]
fn what_an_address_behind_a_name_may_deny_is_not_direct_before_it_is_known() {
    let policy = with(
        r#"
  - {id: db, match: {host: [db.example], port: [5432]}, action: allow, handling: direct}
  - {id: time, match: {host: [db.example], port: [123], transport: [udp]}, action: allow}
  - {id: closed-net, match: {cidr: ["192.0.2.128/25"]}, action: deny}
"#,
    );
    let coder = agent(&policy, "coder");
    let name = host("db.example");
    assert_eq!(
        shown(&policy, &policy.name_rules(coder, &name)),
        ["tcp 5432-5432 proxy db"]
    );
    let at = |ip: &str| {
        shown(
            &policy,
            &policy.name_rules_at(coder, &name, ip.parse().unwrap()),
        )
    };
    assert_eq!(
        at("192.0.2.1"),
        ["tcp 5432-5432 direct db", "udp 123-123 direct time"]
    );
    assert_eq!(at("192.0.2.200"), ["both 0-65535 deny closed-net"]);
    // Nothing is enforced for the learner, so its datagrams go on.
    assert_eq!(
        shown(
            &policy,
            &policy.name_rules(agent(&policy, "learner"), &name)
        ),
        ["tcp 5432-5432 proxy db", "udp 123-123 direct time"]
    );
}

#[test]
fn every_range_carries_all_rules_that_touch_it() {
    let policy = with(
        r#"
  - {id: wide, match: {cidr: ["10.0.0.0/8"], port: [22]}, action: allow, handling: direct}
  - {id: narrow, match: {cidr: ["10.1.0.0/16"], port: [443]}, action: allow}
  - {id: anywhere, match: {port: [9418]}, action: allow, handling: direct}
  - {id: metadata, match: {cidr: ["169.254.169.254/32"], port: [80]}, action: allow}
  - {id: own-db, match: {cidr: ["127.0.0.1/32"], port: [5432]}, action: allow, handling: direct}
"#,
    );
    let nets = policy.network_rules(agent(&policy, "coder"));
    let at = |net: &str| {
        let net = net.parse().unwrap();
        let (_, lines) = nets.iter().find(|(n, _)| *n == net).unwrap();
        shown(&policy, lines)
    };
    let anywhere = "tcp 9418-9418 direct anywhere";
    assert_eq!(at("0.0.0.0/0"), [anywhere]);
    assert_eq!(at("::/0"), [anywhere]);
    assert_eq!(at("10.0.0.0/8"), ["tcp 22-22 direct wide", anywhere]);
    assert_eq!(
        at("10.1.0.0/16"),
        [
            "tcp 22-22 direct wide",
            "tcp 443-443 proxy narrow",
            anywhere
        ]
    );
    assert_eq!(
        at("169.254.169.254/32"),
        ["tcp 80-80 proxy metadata", "both 0-65535 deny hard"]
    );
    assert_eq!(at("fd00:ec2::254/128"), ["both 0-65535 deny hard"]);
    assert_eq!(at("127.0.0.0/8"), [""; 0]);
    assert_eq!(at("127.0.0.1/32"), ["tcp 5432-5432 direct own-db"]);
}

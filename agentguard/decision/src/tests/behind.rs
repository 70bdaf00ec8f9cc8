//! What holds at an address behind a name: the rules that match there decide, and nothing else is changed.

use std::net::IpAddr;
use std::sync::Arc;

use agentguard_model::{Mode, ReasonCode, Verdict};
use agentguard_policy::{Document, Ruling, RulingOutcome, Seen, compile};
use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

use super::{Memory, asked, client, decider, last, target};
use crate::{Decided, Decider, Foreseen, Policies, Target};

fn of(rules: &str) -> Decider<Memory> {
    let strategy = match rules.contains("priority:") {
        true => "strategy: priority_first_match\n",
        false => "",
    };
    let text = format!("version: 1\n{strategy}agents: [{{name: coder}}]\nrules:\n{rules}");
    let path = "policy.yaml".to_owned();
    let policy = compile(&[Document { path, text }]).unwrap_or_else(|it| panic!("{it}"));
    Decider::new(
        Arc::new(Policies::new(6, policy)),
        Arc::clone(decider().directory()),
        Arc::new(Memory::default()),
    )
}

async fn decided(decider: &Decider<Memory>, method: &str, path: &str, behind: &[&str]) -> Decided {
    let behind: Vec<IpAddr> = behind.iter().map(|ip| ip.parse().unwrap()).collect();
    let (target, asked) = (target("a.example.com", 443), asked(method, path));
    decider.request(&client(1), &target, &behind, &asked).await
}

/// What is left of a cookie.
fn cookie(decided: &Decided) -> bool {
    let mut fields = HeaderMap::new();
    fields.insert("cookie", HeaderValue::from_static("a=1"));
    decided.changes.iter().for_each(|it| it.apply(&mut fields));
    fields.contains_key("cookie")
}

/// Also where what stands above it looks at the request, so that it was not decided when the address was chosen.
#[tokio::test]
async fn a_denial_of_an_address_holds_below_what_looks_at_requests() {
    for first in [
        "action: allow, handling: inspect",
        "action: modify, modify: {headers: {drop: [cookie]}}, handling: inspect",
    ] {
        let decider = of(&format!(
            "  - {{id: first, match: {{host: [a.example.com], path: [/y]}}, {first}, priority: 9}}\n  - {{id: net, match: {{cidr: [203.0.113.0/24]}}, action: deny, priority: 5}}\n  - {{id: rest, match: {{host: [a.example.com]}}, action: allow, handling: inspect, priority: 1}}\n"
        ));
        for (path, ip, rule) in [
            ("/x", "203.0.113.1", "net"),
            ("/x", "192.0.2.1", "rest"),
            ("/y", "203.0.113.1", "first"),
        ] {
            let decided = decided(&decider, "GET", path, &[ip]).await;
            assert_eq!(decided.allowed, rule != "net", "{first} {path} {ip}");
            assert_eq!(last(&decider).matched[0].rule, rule, "{first} {path} {ip}");
        }
        // One of several is enough.
        let behind = ["192.0.2.1", "203.0.113.1"];
        assert!(!decided(&decider, "GET", "/x", &behind).await.allowed);
        // So it is for what is no request.
        let behind = ["203.0.113.1".parse().unwrap()];
        let target = target("a.example.com", 443);
        let decided = decider.connection(&client(1), &target, &behind, true).await;
        assert!(!decided.allowed);
    }
}

/// A rule without a range for it is not above others at an address that is not public.
#[tokio::test]
async fn what_does_not_lead_to_an_address_is_above_nothing_there() {
    let ranked = "  - {id: out, match: {host: [a.example.com]}, action: allow, handling: inspect, priority: 9}\n  - {id: no, match: {host: [a.example.com], method: [DELETE]}, action: deny, priority: 5}\n  - {id: in, match: {host: [a.example.com]}, action: allow, handling: inspect, resolved_ranges: [10.0.0.0/8], priority: 1}\n";
    let decider = of(ranked);
    for (method, ip, rule) in [
        ("DELETE", "10.1.2.3", "no"),
        ("GET", "10.1.2.3", "in"),
        ("DELETE", "192.0.2.1", "out"),
    ] {
        let decided = decided(&decider, method, "/", &[ip]).await;
        assert_eq!(decided.allowed, rule != "no", "{method} {ip}");
        assert_eq!(last(&decider).matched[0].rule, rule, "{method} {ip}");
    }
}

/// What leads to an address changes what goes there, and nothing else does.
#[tokio::test]
async fn what_is_changed_at_an_address_is_what_leads_there() {
    let changes = "action: modify, modify: {headers: {drop: [cookie]}}, handling: inspect";
    let allow = "action: allow, handling: inspect";
    let (out, into) = (
        "match: {host: [a.example.com]}",
        "match: {host: [a.example.com]}, resolved_ranges: [10.0.0.0/8]",
    );
    let paper =
        "  - {id: soon, match: {cidr: [10.0.0.0/8], method: [GET]}, action: deny, mode: shadow}\n";
    for (rules, method, outside, inside) in [
        // The one that changes does not lead inside.
        (
            format!("  - {{id: m, {out}, {changes}}}\n  - {{id: a, {into}, {allow}}}\n"),
            "GET",
            true,
            false,
        ),
        (
            format!("  - {{id: m, {out}, {changes}}}\n  - {{id: a, {into}, {allow}}}\n{paper}"),
            "GET",
            true,
            false,
        ),
        (
            format!("  - {{id: m, {out}, {changes}}}\n  - {{id: a, {into}, {allow}}}\n{paper}"),
            "POST",
            true,
            false,
        ),
        // It does, beside one that does not.
        (
            format!("  - {{id: m, {into}, {changes}}}\n  - {{id: a, {out}, {allow}}}\n"),
            "GET",
            true,
            true,
        ),
        (
            format!("  - {{id: m, {into}, {changes}}}\n  - {{id: a, {out}, {allow}}}\n{paper}"),
            "GET",
            true,
            true,
        ),
        // And below it, where it is alone inside.
        (
            format!(
                "  - {{id: a, {out}, {allow}, priority: 9}}\n  - {{id: m, {into}, {changes}, priority: 1}}\n"
            ),
            "GET",
            false,
            true,
        ),
    ] {
        let decider = of(&rules);
        for (ip, changed) in [("192.0.2.1", outside), ("10.1.2.3", inside)] {
            let decided = decided(&decider, method, "/", &[ip]).await;
            assert!(decided.allowed, "{rules} {ip}");
            assert_eq!(!cookie(&decided), changed, "{rules} {ip}");
            let decision = last(&decider);
            let says = decision.reason.message.contains("without `cookie`");
            assert_eq!(says, changed, "{rules} {ip}: {decision:?}");
            let on_paper = decision.verdict == Verdict::Deny;
            assert_eq!(on_paper, decision.mode == Mode::Shadow);
            assert_eq!(
                decision.verdict == Verdict::Modify,
                changed && !on_paper,
                "{rules} {ip}"
            );
        }
    }
}

/// It is not known which of them is dialled.
#[tokio::test]
async fn what_differs_between_the_addresses_of_a_name_goes_to_none() {
    let decider = of(
        "  - {id: m, match: {host: [a.example.com]}, action: modify, modify: {headers: {drop: [cookie]}}, handling: inspect}\n  - {id: a, match: {host: [a.example.com]}, action: allow, handling: inspect, resolved_ranges: [10.0.0.0/8]}\n",
    );
    let both = decided(&decider, "GET", "/", &["192.0.2.1", "10.1.2.3"]).await;
    assert!(!both.allowed);
    let decision = last(&decider);
    assert_eq!(decision.reason.code, ReasonCode::NotChanged);
    assert_eq!(decision.action.ip, Some("10.1.2.3".parse().unwrap()));
    let one = decided(&decider, "GET", "/", &["192.0.2.1", "192.0.2.2"]).await;
    assert!(one.allowed && !cookie(&one));
    // On paper it is told beforehand.
    let decider = of(
        "  - {id: m, match: {host: [a.example.com]}, action: modify, modify: {headers: {drop: [cookie]}}, handling: inspect, mode: shadow}\n  - {id: a, match: {host: [a.example.com]}, action: allow, handling: inspect}\n  - {id: b, match: {host: [a.example.com]}, action: allow, handling: inspect, resolved_ranges: [10.0.0.0/8]}\n",
    );
    let both = decided(&decider, "GET", "/", &["192.0.2.1", "10.1.2.3"]).await;
    assert!(both.allowed && cookie(&both));
    let decision = last(&decider);
    assert_eq!(
        (
            decision.verdict,
            decision.enforced,
            decision.mode,
            decision.reason.code
        ),
        (Verdict::Deny, false, Mode::Shadow, ReasonCode::NotChanged)
    );
}

/// What differs on paper alone between two addresses is no reason not to look at the third one.
#[tokio::test]
async fn what_differs_on_paper_hides_nothing_in_force() {
    let soon = "  - {id: soon, match: {host: [a.example.com]}, action: modify, modify: {headers: {drop: [x-a]}}, handling: inspect, mode: shadow, resolved_ranges: [10.1.0.0/16]}\n";
    let all = "  - {id: all, match: {host: [a.example.com]}, action: allow, handling: inspect, resolved_ranges: [10.0.0.0/8]}\n";
    let behind = ["10.1.0.1", "10.2.0.1", "10.3.0.1"];
    for (bad, code) in [
        (
            "match: {cidr: [10.3.0.0/16], method: [POST]}, action: deny",
            ReasonCode::RuleDeny,
        ),
        (
            "match: {host: [a.example.com]}, action: modify, modify: {headers: {drop: [cookie]}}, handling: inspect, resolved_ranges: [10.3.0.0/16]",
            ReasonCode::NotChanged,
        ),
    ] {
        let decider = of(&format!("{soon}{all}  - {{id: bad, {bad}}}\n"));
        let decided = decided(&decider, "POST", "/x", &behind).await;
        assert!(!decided.allowed, "{bad}");
        assert_eq!(decided.reason.code, code, "{bad}");
        let two = super::behind::decided(&decider, "POST", "/x", &behind[..2]).await;
        assert!(two.allowed, "{bad}");
        assert_eq!(last(&decider).reason.code, ReasonCode::NotChanged, "{bad}");
        assert!(!last(&decider).enforced, "{bad}");
    }
}

/// One of a few rules, which meet each other in what they are for.
fn rule() -> impl Strategy<Value = String> {
    let matched = prop::sample::select(vec![
        "host: [a.example.com]",
        "host: ['*.example.com']",
        "cidr: [203.0.113.0/24]",
        "cidr: [10.0.0.0/8]",
        "cidr: [10.1.0.0/16], host: [a.example.com]",
    ]);
    let more = prop::sample::select(vec!["", ", path: [/x]", ", method: [GET]", ", port: [443]"]);
    let does = prop::sample::select(vec![
        "action: allow, handling: inspect",
        "action: allow",
        "action: modify, modify: {headers: {drop: [cookie]}}, handling: inspect",
        "action: modify, modify: {headers: {set: {x-a: b}}}, handling: inspect",
        "action: modify, modify: {headers: {drop: [cookie]}}, handling: inspect, mode: shadow",
        "action: deny",
        "action: deny, mode: shadow",
    ]);
    let ranges = prop::sample::select(vec![
        "",
        ", resolved_ranges: [10.0.0.0/8]",
        ", resolved_ranges: [10.1.0.0/16]",
    ]);
    (matched, more, does, ranges, 0..9_u8).prop_map(|(matched, more, does, ranges, rank)| {
        let leads = !does.contains("deny") && matched.starts_with("host");
        let ranges = if leads { ranges } else { "" };
        format!("match: {{{matched}{more}}}, {does}{ranges}, priority: {rank}")
    })
}

/// A policy of some of them, or none where they cannot be together.
fn decider_of(strategy: &str, rules: &[String]) -> Option<Decider<Memory>> {
    let ranked = strategy == "priority_first_match";
    let rules = rules.iter().enumerate().map(|(n, rule)| {
        let rule = match ranked {
            true => rule.as_str(),
            false => rule.rsplit_once(", priority").map_or("", |(rule, _)| rule),
        };
        format!("  - {{id: r{n}, {rule}}}\n")
    });
    let rules: String = rules.collect();
    let text =
        format!("version: 1\nstrategy: {strategy}\nagents: [{{name: coder}}]\nrules:\n{rules}");
    let path = "policy.yaml".to_owned();
    let policy = compile(&[Document { path, text }]).ok()?;
    Some(Decider::new(
        Arc::new(Policies::new(6, policy)),
        Arc::clone(decider().directory()),
        Arc::new(Memory::default()),
    ))
}

proptest! {
    /// What is decided on a request to a name that leads to one address is what the policy says of it there.
    #[test]
    fn what_holds_of_a_request_is_what_holds_at_its_address(
        strategy in prop::sample::select(vec!["deny_overrides", "priority_first_match", "most_specific_wins"]),
        rules in prop::collection::vec(rule(), 1..5),
        method in prop::sample::select(vec!["GET", "POST"]),
        path in prop::sample::select(vec!["/x", "/y"]),
        ip in prop::sample::select(vec!["192.0.2.1", "203.0.113.1", "10.1.2.3", "10.2.3.4"]),
    ) {
        let Some(decider) = decider_of(strategy, &rules) else {
            return Ok(());
        };
        let (named, asked) = (target("a.example.com", 443), asked(method, path));
        let policy = decider.policies().current();
        let there = named.at(ip.parse().unwrap());
        if decider.foresee(&client(1), &there) == Foreseen::Deny {
            // No connection is opened to it.
            return Ok(());
        }
        let says = |target| {
            let seen = Seen::Request(asked.seen());
            decider.rule(&policy, &client(1), target, seen)
        };
        let (at_name, expected) = (says(&named), says(&there));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let decided = runtime.block_on(decider.request(&client(1), &named, &[ip.parse().unwrap()], &asked));
        // What is not allowed to the name leads nowhere.
        let expected = match at_name.outcome {
            RulingOutcome::Allow(_) => expected,
            _ => at_name,
        };
        let allows = matches!(expected.outcome, RulingOutcome::Allow(_));
        prop_assert_eq!(decided.allowed, allows, "{:?}", rules);
        let decision = last(&decider);
        prop_assert_eq!(decision.verdict, expected.verdict, "{:?}", &rules);
        prop_assert_eq!(&decision.matched, &expected.matched, "{:?}", &rules);
        let changes = if allows { expected.changes } else { Vec::new() };
        prop_assert_eq!(decided.changes.to_vec(), changes, "{:?}", rules);
    }
    /// Of several addresses, of which nobody knows which one is dialled, whatever order they are told in.
    #[test]
    fn what_passes_is_allowed_and_changed_alike_at_every_address(
        strategy in prop::sample::select(vec!["deny_overrides", "priority_first_match", "most_specific_wins"]),
        rules in prop::collection::vec(rule(), 1..6),
        method in prop::sample::select(vec!["GET", "POST"]),
        path in prop::sample::select(vec!["/x", "/y"]),
        ips in prop::sample::subsequence(vec!["192.0.2.1", "203.0.113.1", "10.1.2.3", "10.2.3.4"], 2..=4).prop_shuffle(),
    ) {
        let Some(decider) = decider_of(strategy, &rules) else {
            return Ok(());
        };
        let (named, asked) = (target("a.example.com", 443), asked(method, path));
        let policy = decider.policies().current();
        let ips = ips.iter().map(|ip| ip.parse().unwrap());
        // No connection is opened to the others.
        let opens = |ip: &IpAddr| decider.foresee(&client(1), &named.at(*ip)) != Foreseen::Deny;
        let ips: Vec<IpAddr> = ips.filter(opens).collect();
        let says = |target: &Target| {
            let seen = Seen::Request(asked.seen());
            decider.rule(&policy, &client(1), target, seen)
        };
        let here = says(&named);
        let there: Vec<_> = ips.iter().map(|ip| says(&named.at(*ip))).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let decided = runtime.block_on(decider.request(&client(1), &named, &ips, &asked));
        let allows = |it: &Ruling| matches!(it.outcome, RulingOutcome::Allow(_));
        let alike = there.windows(2).all(|two| two[0].changes == two[1].changes);
        let passes = allows(&here) && there.iter().all(allows) && alike;
        prop_assert_eq!(decided.allowed, passes, "{:?} {:?}", rules, ips);
        if let (true, Some(first)) = (passes, there.first()) {
            prop_assert_eq!(decided.changes.to_vec(), first.changes.clone(), "{:?} {:?}", rules, ips);
            // A denial on paper at one of them is told.
            if there.iter().any(|it| it.verdict == Verdict::Deny) {
                prop_assert_eq!(last(&decider).verdict, Verdict::Deny, "{:?} {:?}", rules, ips);
            }
        }
    }
}

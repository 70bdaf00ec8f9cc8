//! Rules about what is spoken: TLS alone, no WebSockets, nothing that is read.

use agentguard_model::{Decision, ReasonCode, Verdict};
use agentguard_tests::Puppet;

use super::{OTHER, SITE, puppet, world};

const POLICY: &str = "
version: 1
agents: [{name: coder}]
rules:
  - id: only-tls
    match: {host: [api.example.com], port: [443], protocol: [tls]}
    action: allow
  - id: web
    match: {host: [api.example.com], port: [80]}
    action: allow
  - id: no-sockets
    match: {host: [api.example.com], port: [80], protocol: [websocket]}
    action: deny
  - id: raw
    match: {host: [www.other.example], port: [443], protocol: [other]}
    action: allow
";

/// Sends a text and no more, and gives what comes back.
fn talk(client: &mut Puppet, site: &str, port: u16, text: &str) -> String {
    let bytes: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    let order = format!("talk(resolve('{site}', 4)[0], {port}, '{bytes}', True)");
    client.ask(&order).unwrap().to_string()
}

/// The last decision on a connection or a request to a site.
fn last(decisions: &[Decision], site: &str) -> (Verdict, ReasonCode, Option<String>) {
    let mut to = decisions.iter().rev().filter(|decision| {
        let host = decision.action.host.as_ref();
        host.is_some_and(|host| host.as_str() == site) && decision.action.port != Some(53)
    });
    let decision = to.next().unwrap();
    let rule = decision.matched.first().map(|matched| matched.rule.clone());
    (decision.verdict, decision.reason.code, rule)
}

#[test]
fn a_rule_about_what_is_spoken_passes_that_and_nothing_else() {
    let world = world("protocol");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    let rule = |name: &str| Some(name.to_owned());
    let get = format!("GET /a HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n");
    let socket = format!(
        "GET / HTTP/1.1\r\nHost: {SITE}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );

    // Whether the client trusts the site is another matter.
    client.ask(&format!("tls('a', '{SITE}')")).unwrap();
    let decisions = guard.verdicts().unwrap();
    let allowed = (Verdict::Allow, ReasonCode::RuleAllow, rule("only-tls"));
    assert_eq!(last(&decisions, SITE), allowed);
    assert!(decisions.last().unwrap().action.tls, "{decisions:#?}");

    // A channel of its own, and HTTP in the clear, where TLS is meant.
    for text in ["\x01\x02 a channel\n", &get] {
        talk(&mut client, SITE, 443, text);
        let (verdict, code, _) = last(&guard.verdicts().unwrap(), SITE);
        assert_eq!((verdict, code), (Verdict::Deny, ReasonCode::NoRule));
    }

    let told = talk(&mut client, SITE, 80, &get);
    assert!(told.contains("200 OK"), "{told}");
    let told = talk(&mut client, SITE, 80, &socket);
    assert!(told.contains("403 Forbidden"), "{told}");
    let decisions = guard.verdicts().unwrap();
    let denied = (Verdict::Deny, ReasonCode::RuleDeny, rule("no-sockets"));
    assert_eq!(last(&decisions, SITE), denied);
    assert!(decisions.last().unwrap().action.websocket);

    client.ask(&format!("tls('b', '{OTHER}')")).unwrap();
    let (verdict, code, _) = last(&guard.verdicts().unwrap(), OTHER);
    assert_eq!((verdict, code), (Verdict::Deny, ReasonCode::NoRule));
    talk(&mut client, OTHER, 443, "\x01\x02 a channel\n");
    let allowed = (Verdict::Allow, ReasonCode::RuleAllow, rule("raw"));
    assert_eq!(last(&guard.verdicts().unwrap(), OTHER), allowed);
}

//! Budgets of destinations: two places are all that an agent may go to, and what would be a third is refused before
//! anything arrives there, whatever goes there.

use std::net::SocketAddr;
use std::time::Duration;

use agentguard_model::{Decision, ReasonCode, Verdict};
use agentguard_tests::origin::port;
use agentguard_tests::{Guard, Output, World, wait_until};
use serde_json::{Value, json};

use super::{OTHER, SITE, agent, world};

const POLICY: &str = "
version: 1
agents: [{name: plain}, {name: inspected}, {name: sealed}, {name: raw}, {name: by-address}, {name: next-door}]
rules:
  - id: requests
    match: {host: [api.example.com, www.other.example], port: [80]}
    action: allow
  - id: inspected
    match: {host: [api.example.com, www.other.example], port: [443]}
    action: allow
    handling: inspect
  - id: sealed
    match: {host: [third.example], port: [443]}
    action: allow
  - id: lines
    match: {host: [api.example.com, www.other.example], port: [7]}
    action: allow
  - id: addresses
    match: {cidr: [203.0.113.48/32], port: [7]}
    action: allow
budgets:
  - {id: places, unit: destinations, limit: 2, window: lifetime, per: [agent], reason: Two are enough.}
";

/// A site whose TLS passes as it is.
const SEALED: &str = "third.example";

/// An address of the same machine, which no name leads to.
const ADDRESS: &str = "203.0.113.48";

/// How long the guard may take for what it does by itself.
const LIMIT: Duration = Duration::from_secs(15);

/// A place, and in which form it is spoken to.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// HTTP in the clear.
    Plain(&'static str),
    /// HTTP in TLS, whoever ends that.
    Tls(&'static str),
    /// Bytes that nobody knows.
    Raw(&'static str),
}

use Place::{Plain, Raw, Tls};

impl Place {
    const fn host(self) -> &'static str {
        match self {
            Plain(host) | Tls(host) | Raw(host) => host,
        }
    }

    const fn port(self) -> u16 {
        match self {
            Plain(_) => port::HTTP,
            Tls(_) => port::HTTPS,
            Raw(_) => port::ECHO,
        }
    }

    /// An agent goes there.
    fn visited(self, guard: &Guard<'_>, agent: &str) -> Output {
        let told = "%{http_code}";
        let host = self.host();
        let curl = |url: String, more: &str| {
            let fixed = ["curl", "-sS", "--max-time", "20", "-w", told];
            let words = fixed.into_iter().chain(more.split_whitespace());
            words.map(str::to_owned).chain([url]).collect()
        };
        let words: Vec<String> = match self {
            Plain(host) => curl(format!("http://{host}/bytes/3"), ""),
            // Only the site itself has shown who it is.
            Tls(SEALED) => curl(format!("https://{host}/bytes/3"), "-k"),
            Tls(_) => curl(format!("https://{host}/bytes/3"), ""),
            Raw(_) => {
                let line = format!(
                    "exec 3<>/dev/tcp/{host}/7 && echo sent >&3 && read -r -t 20 line <&3 && echo \"$line\""
                );
                ["bash", "-c", &line].map(str::to_owned).into()
            }
        };
        let run = guard.cli().args(["run", "--agent", agent, "--"]);
        run.args(words).run().unwrap()
    }

    /// An agent is let through.
    fn is_open(self, guard: &Guard<'_>, agent: &str) {
        let output = self.visited(guard, agent);
        let said = match self {
            Plain(_) | Tls(_) => "xxx200",
            Raw(_) => "sent\n",
        };
        assert_eq!(output.stdout, said, "{agent} {self:?}: {output}");
    }

    /// An agent is refused, in words where it understands any.
    fn is_closed(self, guard: &Guard<'_>, agent: &str) {
        let output = self.visited(guard, agent);
        let who = || format!("{agent} {self:?}: {output}");
        match self {
            Plain(_) | Tls(OTHER) => {
                assert!(output.stdout.ends_with("429"), "{}", who());
                for text in ["places", "Two are enough."] {
                    assert!(output.stdout.contains(text), "{}", who());
                }
            }
            Tls(_) => {
                // No connection was there: an alert, or its end.
                assert!([35, 56].contains(&output.code()), "{}", who());
                assert_eq!(output.stdout, "000", "{}", who());
            }
            Raw(_) => {
                assert_ne!(output.code(), 0, "{}", who());
                assert_eq!(output.stdout, "", "{}", who());
            }
        }
    }

    /// How many requests have arrived there; of bytes that nobody knows, how many connections.
    fn arrived(self, world: &World) -> usize {
        let name = match self.host() {
            ADDRESS => SEALED,
            host => host,
        };
        let log = world.origin(name).unwrap().log();
        let there = |local: SocketAddr| local.port() == self.port();
        match self {
            Plain(_) | Tls(_) => {
                let requests = log.requests().unwrap();
                requests.iter().filter(|it| there(it.local)).count()
            }
            Raw(_) => {
                let connections = log.connections().unwrap();
                connections.iter().filter(|it| there(it.local)).count()
            }
        }
    }
}

/// A guard that trusts the world's sites.
fn guard(world: &World) -> Guard<'_> {
    let upstreams = json!([{ "host": [SITE, OTHER], "ca": world.ca_file() }]);
    let guard = world.guard().policy(POLICY).setting("upstreams", upstreams);
    guard.start().unwrap()
}

/// What an agent has used of its budget, once it holds nothing.
fn used(guard: &Guard<'_>, agent: &str) -> u64 {
    let account = format!("places/agent={agent}");
    wait_until("nothing to be held", LIMIT, || {
        let list = guard.cli().args(["budget", "list", "-o", "json"]);
        let list: Vec<Value> = serde_json::from_str(&list.run().ok()?.stdout).ok()?;
        let its = list.iter().find(|it| it["account"] == *account)?;
        (its["held"] == 0).then(|| its["used"].as_u64())?
    })
    .unwrap()
}

#[test]
fn a_third_place_is_refused_and_nothing_arrives_there_in_whatever_form() {
    let world = world("places");
    let guard = guard(&world);
    let cases = [
        ("plain", [Tls(SITE), Raw(SITE)], Plain(OTHER)),
        ("inspected", [Raw(SITE), Plain(SITE)], Tls(OTHER)),
        ("sealed", [Plain(SITE), Tls(SITE)], Tls(SEALED)),
        ("raw", [Plain(SITE), Tls(SITE)], Raw(OTHER)),
        ("by-address", [Tls(SITE), Raw(SITE)], Raw(ADDRESS)),
    ];
    for (name, [first, second], third) in cases {
        for place in [first, second, first] {
            place.is_open(&guard, name);
        }
        third.is_closed(&guard, name);
        for place in [second, first] {
            place.is_open(&guard, name);
        }
        third.is_closed(&guard, name);
        assert_eq!(used(&guard, name), 2, "{name}");
    }
    // Not one packet was sent. Where TLS is opened, the guard has shaken hands to learn what the site speaks, and no more.
    let sites = [OTHER, SEALED].map(|site| world.origin(site).unwrap());
    let theirs = |ip| sites.iter().any(|site| site.addresses().contains(&ip));
    let mut packets = world.all_arrivals().unwrap();
    packets.retain(|(to, _)| theirs(to.ip));
    for (to, count) in packets {
        let shaken = sites[0].addresses().contains(&to.ip) && to.port == Some(port::HTTPS);
        assert!(shaken, "{count} packets to {to:?}");
    }
    for site in sites {
        let requests = site.log().requests().unwrap();
        assert!(requests.is_empty(), "{requests:#?}");
    }
    let denied = guard.wait_verdicts("the denials", |decisions| {
        let denied = decisions.iter().filter(|it| it.verdict == Verdict::Deny);
        let denied: Vec<Decision> = denied.cloned().collect();
        let count: u64 = denied.iter().map(|it| it.count).sum();
        (count >= 10).then_some(denied)
    });
    for denial in denied.unwrap() {
        let (_, _, third) = cases
            .iter()
            .find(|(name, ..)| agent(&denial) == Some(name))
            .unwrap();
        assert_eq!(denial.reason.code, ReasonCode::BudgetExhausted);
        assert_eq!(denial.matched[0].rule, "places");
        assert_eq!(denial.action.port, Some(third.port()), "{denial:?}");
        let message = &denial.reason.message;
        assert!(message.contains("Two are enough."), "{message}");
    }

    // Where those are forgotten that were counted, each goes where it was refused.
    for (name, [first, _], third) in cases {
        let account = format!("places/agent={name}");
        let reset = guard.cli().args(["budget", "reset", &account]).run();
        reset.unwrap().success().unwrap();
        let before = third.arrived(&world);
        third.is_open(&guard, name);
        assert_eq!(third.arrived(&world), before + 1, "{name}");
        first.is_open(&guard, name);
        assert_eq!(used(&guard, name), 2, "{name}");
    }
}

#[test]
fn a_third_port_of_a_name_is_a_third_place() {
    let world = world("ports");
    let guard = guard(&world);
    let name = "next-door";
    for place in [Tls(SITE), Raw(SITE), Raw(SITE), Tls(SITE)] {
        place.is_open(&guard, name);
    }
    Plain(SITE).is_closed(&guard, name);
    let connections = world.origin(SITE).unwrap().log().connections().unwrap();
    let mut ports = connections.iter().map(|it| it.local.port());
    assert!(ports.all(|it| it != port::HTTP), "{connections:#?}");
    assert_eq!(used(&guard, name), 2);
}

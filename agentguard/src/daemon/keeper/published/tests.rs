//! Whatever a worker says, the gate's map never allows more than the policy.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use agentguard_common::address::Address;
use agentguard_common::map::{
    AgentEntry, Listeners, NameEntry, NameKey, TCP, UDP, listener_flag, mode,
};
use agentguard_common::verdict::{Effect, Flow, flow_verdict, match_port};
use agentguard_keeper::gate::GateError;
use agentguard_model::{AgentId, Handling, HostName, Mode, Transport};
use agentguard_names::guard;
use agentguard_policy::{
    AgentPolicy, Circumstances, Document, Facts, Policy, RulingOutcome, Seen, compile,
};
use proptest::prelude::*;

use super::{LONGEST, NameMap, PER_NAME, PublishRefused, Published, Request};

/// The gate's map, without a gate. With `true` it takes nothing more.
#[derive(Default)]
struct Map(HashMap<NameKey, NameEntry>, bool);

impl NameMap for Map {
    fn names(&self) -> Result<Vec<NameKey>, GateError> {
        Ok(self.0.keys().copied().collect())
    }

    fn put_name(&mut self, key: &NameKey, entry: &NameEntry) -> Result<(), GateError> {
        if self.1 {
            return Err(GateError::Full("NAMES"));
        }
        self.0.insert(*key, *entry);
        Ok(())
    }

    fn remove_name(&mut self, key: &NameKey) -> Result<(), GateError> {
        self.0.remove(key);
        Ok(())
    }
}

#[test]
fn a_worker_that_was_taken_over_cannot_ask_without_bound() {
    let mut request = Request {
        agent: AgentId(1),
        name: "a.example".parse().unwrap(),
        virtual_addresses: Vec::new(),
        real: vec![IpAddr::V4(Ipv4Addr::LOCALHOST); PER_NAME],
        ttl: Duration::MAX,
    };
    assert!(request.check_size().is_ok());
    assert_eq!(request.lifetime(), LONGEST);
    assert!(Instant::now().checked_add(request.lifetime()).is_some());
    request.real.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let refused = request.check_size();
    assert!(
        matches!(refused, Err(PublishRefused::TooMany(_))),
        "{refused:?}"
    );
    request.virtual_addresses = std::mem::take(&mut request.real);
    assert!(request.check_size().is_err());
}

#[test]
fn what_cannot_be_written_anew_is_forgotten_and_keeps_no_rule_from_before() {
    let (mut map, mut published) = (Map::default(), Published::default());
    let before = policy(0, "enforce");
    for (number, name) in ["a.example", "x.b.example"].into_iter().enumerate() {
        let request = Request {
            agent: AgentId(1),
            name: name.parse().unwrap(),
            virtual_addresses: addresses(&VIRTUAL[number..=number]),
            real: addresses(&REAL[..1]),
            ttl: Duration::from_secs(60),
        };
        let coder = agent(&before, AgentId(1)).unwrap();
        published
            .publish(&mut map, &before, coder, &request)
            .unwrap();
    }
    assert_eq!(map.0.len(), 2);
    map.1 = true;
    let after = policy(2, "enforce");
    let renewed = published.renew(&mut map, &after, |id| agent(&after, id));
    assert!(matches!(renewed, Err(GateError::Full(_))), "{renewed:?}");
    assert!(map.0.is_empty());
    map.1 = false;
    published
        .renew(&mut map, &after, |id| agent(&after, id))
        .unwrap();
}

/// Number 1 is `coder`, number 2 `helper`; the others are nobody's.
const AGENTS: [&str; 2] = ["coder", "helper"];

/// What differs between them is who may, how, and where to.
const RULES: [&str; 4] = [
    "
  - id: direct
    match: {host: [a.example, '*.b.example'], port: [22, 443], transport: [tcp, udp]}
    action: allow
    handling: direct
  - id: not-there
    match: {cidr: [192.0.2.64/26]}
    action: deny
",
    "
  - id: real
    agents: [coder]
    match: {host: [a.example], port: [22]}
    action: allow
    handling: direct
    addresses: real
  - id: inside
    match: {host: [x.b.example], port: [443]}
    action: allow
    handling: direct
    resolved_ranges: [10.0.0.0/8]
",
    "
  - id: inspected
    match: {host: [a.example], port: [443]}
    action: allow
    handling: inspect
  - id: never
    match: {host: ['*.b.example']}
    action: deny
  - id: some
    match: {host: ['*.b.example'], cidr: [2001:db8::/32], port: [22]}
    action: allow
    handling: direct
",
    "
  []
",
];
const MODES: [&str; 3] = ["enforce", "shadow", "observe"];
const NAMES: [&str; 4] = ["a.example", "x.b.example", "b.example", "c.test"];
const VIRTUAL: [&str; 4] = [
    "198.18.0.9",
    "198.19.255.254",
    "fd41:6775:6172:6400::9",
    // Is none.
    "192.0.2.1",
];
const REAL: [&str; 12] = [
    "192.0.2.1",
    "192.0.2.65",
    "2001:db8::1",
    "::ffff:192.0.2.1",
    "10.1.2.3",
    "127.0.0.1",
    "::1",
    "169.254.169.254",
    "64:ff9b::169.254.169.254",
    "0.0.0.0",
    "198.18.0.9",
    "fd00::1",
];
const PORTS: [u16; 5] = [22, 53, 80, 443, 65535];

fn policy(rules: usize, mode: &str) -> Policy {
    let mut text = "version: 1\nagents:\n".to_owned();
    for agent in AGENTS {
        text += &format!("  - {{name: {agent}, mode: {mode}}}\n");
    }
    text += "rules:";
    text += RULES[rules];
    let document = Document {
        path: "policy.yaml".into(),
        text,
    };
    compile(&[document]).unwrap()
}

fn agent(policy: &Policy, id: AgentId) -> Option<&AgentPolicy> {
    let index = usize::try_from(id.0).unwrap().checked_sub(1)?;
    policy.agent(&AGENTS.get(index)?.parse().unwrap())
}

/// What a worker can say, and what happens meanwhile.
#[derive(Clone, Debug)]
enum Step {
    Publish {
        agent: u32,
        name: &'static str,
        virtual_addresses: Vec<&'static str>,
        real: Vec<&'static str>,
        ttl: u64,
    },
    Retire(&'static str),
    /// Real addresses' time is over.
    Expire,
    /// Another policy is in force.
    Renew(usize, &'static str),
    /// Another daemon takes over.
    TakeOver,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let some =
        |from: &'static [&'static str]| prop::collection::vec(prop::sample::select(from), 0..3);
    let publish = (
        0u32..4,
        prop::sample::select(&NAMES[..]),
        some(&VIRTUAL),
        some(&REAL),
        prop_oneof![Just(0), Just(60), Just(u64::MAX)],
    );
    let publish = publish.prop_map(
        |(agent, name, virtual_addresses, real, ttl)| Step::Publish {
            agent,
            name,
            virtual_addresses,
            real,
            ttl,
        },
    );
    let address = prop_oneof![
        prop::sample::select(&VIRTUAL[..]),
        prop::sample::select(&REAL[..])
    ];
    let policy = (0..RULES.len(), prop::sample::select(&MODES[..]));
    let step = prop_oneof![
        12 => publish,
        2 => address.prop_map(Step::Retire),
        1 => Just(Step::Expire),
        2 => policy.prop_map(|(rules, mode)| Step::Renew(rules, mode)),
        1 => Just(Step::TakeOver),
    ];
    prop::collection::vec(step, 1..12)
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// What the kernel lets pass without asking anybody, somebody may reach by a name that the policy
/// allows them: there, directly, and not through what the rebinding guard keeps closed.
fn check(map: &Map, policy: &Policy) -> Result<(), TestCaseError> {
    for (key, entry) in &map.0 {
        let dialled = IpAddr::from(key.address);
        for (port, transport) in PORTS
            .into_iter()
            .flat_map(|port| [(port, Transport::Tcp), (port, Transport::Udp)])
        {
            // The kernel does not know of agents that are gone from the policy, and denies.
            let Some(agent) = agent(policy, AgentId(key.agent)) else {
                continue;
            };
            let kernel = match transport {
                Transport::Tcp => TCP,
                Transport::Udp => UDP,
            };
            let verdict = flow_verdict(&Flow {
                agent: &AgentEntry {
                    agent: key.agent,
                    profile: 1,
                    mode: match agent.mode {
                        Mode::Enforce => mode::ENFORCE,
                        Mode::Shadow => mode::SHADOW,
                        Mode::Observe => mode::OBSERVE,
                    },
                    ..AgentEntry::default()
                },
                listeners: Some(&Listeners {
                    proxy_port: 15001,
                    resolver_port: 15053,
                    flags: listener_flag::V6,
                }),
                name: Some(entry),
                matched: match_port(&entry.rules, port, kernel),
                local: false,
                daemon_alive: true,
                destination: key.address,
                port,
                transport: kernel,
            });
            let reached = match verdict.effect {
                Effect::Deny | Effect::Proxy | Effect::Resolver => continue,
                Effect::Pass => dialled,
                Effect::Real => IpAddr::from(entry.real),
            };
            let allowed = NAMES.iter().any(|name| {
                let name: HostName = name.parse().unwrap();
                let ruling = policy.decide_name(agent, &name);
                let observing = agent.mode != Mode::Enforce;
                let open = guard::examine([reached], &ruling.ranges, observing);
                let facts = Facts {
                    host: Some(&name),
                    ip: Some(reached),
                    port,
                    transport,
                    request: Seen::NotYet,
                    circumstances: Circumstances::NOBODY,
                };
                let outcome = policy.decide(agent, &facts).outcome;
                ruling.allowed
                    && open.denied.is_empty()
                    && outcome == RulingOutcome::Allow(Handling::Direct)
            });
            prop_assert!(allowed, "{key:?} {port} {transport:?} reaches {reached}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn whatever_a_worker_says_the_map_allows_no_more_than_the_policy(
        rules in 0..RULES.len(), mode in prop::sample::select(&MODES[..]), steps in steps(),
    ) {
        let mut policy = policy(rules, mode);
        let mut map = Map::default();
        let mut published = Published::default();
        for step in steps {
            match &step {
                Step::Publish { agent: number, name, virtual_addresses, real, ttl } => {
                    let request = Request {
                        agent: AgentId(*number),
                        name: name.parse().unwrap(),
                        virtual_addresses: addresses(virtual_addresses),
                        real: addresses(real),
                        ttl: Duration::from_secs(*ttl),
                    };
                    let Some(agent) = agent(&policy, request.agent) else {
                        continue;
                    };
                    let before = map.0.clone();
                    let result = published.publish(&mut map, &policy, agent, &request);
                    // All of it or nothing.
                    prop_assert!(result.is_ok() || map.0 == before, "{step:?}");
                    prop_assert!(
                        result.is_err() || policy.decide_name(agent, &request.name).allowed,
                        "{step:?}"
                    );
                }
                Step::Retire(address) => {
                    let address: IpAddr = address.parse().unwrap();
                    published.retire(&mut map, address).unwrap();
                    let stays = map.0.keys().any(|key| key.address == Address::from(address));
                    prop_assert!(!stays);
                }
                Step::Expire => {
                    let later = Instant::now() + LONGEST + Duration::from_secs(1);
                    let known: Vec<_> = published.entries.keys().copied().collect();
                    published.expire(&mut map, later).unwrap();
                    // What was dialled there is still known by its name.
                    for key in known {
                        let name = published.name_of(AgentId(key.agent), key.address);
                        let there = published.names_at(AgentId(key.agent), key.address.into());
                        prop_assert!(name.is_some_and(|it| key.address.is_virtual() || there.contains(&it)));
                    }
                    let stays = map.0.keys().any(|key| !key.address.is_virtual());
                    prop_assert!(!stays);
                }
                Step::Renew(rules, mode) => {
                    policy = self::policy(*rules, mode);
                    published.renew(&mut map, &policy, |id| agent(&policy, id)).unwrap();
                }
                Step::TakeOver => published = Published::take_over(&mut map).unwrap(),
            }
            check(&map, &policy)?;
        }
    }
}

//! Kernel and user space, index and plain scan, one order of rules and another: they agree.

use std::net::IpAddr;

use agentguard_common::address::Address;
use agentguard_common::event::reason;
use agentguard_common::map::{
    AgentEntry, Listeners, NameEntry, PortRules, TCP, UDP, effect, listener_flag, mode,
};
use agentguard_common::verdict::{Effect, Flow, FlowVerdict, flow_verdict, match_port};
use agentguard_model::{Handling, HostName, Mode, ReasonCode, Transport, Verdict};
use ipnet::IpNet;
use proptest::prelude::*;

use super::random::{
    ADDRESSES, CONDITIONS, MODES, NAMES, STRATEGIES, TRIED_PORTS, any_rules, call, circumstances,
    compiled, compiled_with, message, numbered, transports,
};
use super::{agent, host};
use crate::rule::{Fit, Rule};
use crate::special;
use crate::strategy::Towards;
use crate::{AgentPolicy, Facts, Policy, Query, Request, RulingOutcome, Seen};

fn kernel(
    agent: &AgentPolicy,
    name: Option<&NameEntry>,
    network: Option<&PortRules>,
    destination: IpAddr,
    port: u16,
    transport: Transport,
) -> FlowVerdict {
    let entry = AgentEntry {
        agent: 1,
        profile: 1,
        mode: match agent.mode {
            Mode::Enforce => mode::ENFORCE,
            Mode::Shadow => mode::SHADOW,
            Mode::Observe => mode::OBSERVE,
        },
        ..AgentEntry::default()
    };
    let listeners = Listeners {
        proxy_port: 15001,
        resolver_port: 15053,
        flags: listener_flag::V6,
    };
    let transport = match transport {
        Transport::Tcp => TCP,
        Transport::Udp => UDP,
    };
    let rules = name.map(|name| &name.rules).or(network);
    flow_verdict(&Flow {
        agent: &entry,
        listeners: Some(&listeners),
        name,
        matched: rules.and_then(|rules| match_port(rules, port, transport)),
        local: false,
        daemon_alive: true,
        destination: destination.into(),
        port,
        transport,
    })
}

/// As the kernel's trie: one tree of 128 bits, in which IPv4 is mapped.
fn longest_prefix(nets: &[(IpNet, PortRules)], ip: IpAddr) -> Option<&PortRules> {
    let octets = Address::from(ip).octets();
    nets.iter()
        .filter_map(|(net, rules)| {
            let length = match net {
                IpNet::V4(v4) => u32::from(v4.prefix_len()) + 96,
                IpNet::V6(v6) => u32::from(v6.prefix_len()),
            };
            let differ = u128::from_be_bytes(octets)
                ^ u128::from_be_bytes(Address::from(net.network()).octets());
            (differ.leading_zeros() >= length).then_some((length, rules))
        })
        .max_by_key(|(length, _)| *length)
        .map(|(_, rules)| rules)
}

fn is_full(rules: &PortRules) -> bool {
    rules.iter().all(|rule| rule.transports != 0)
}

/// What the kernel does is what the policy says, or it asks the proxy.
fn check_agreement(
    policy: &Policy,
    agent: &AgentPolicy,
    facts: &Facts<'_>,
    kernel: FlowVerdict,
    stricter_datagrams: bool,
) -> Result<(), TestCaseError> {
    let ruling = policy.decide(agent, facts);
    let context = format!("{facts:?}\n{kernel:?}\n{ruling:?}");
    match kernel.effect {
        Effect::Deny if stricter_datagrams && facts.transport == Transport::Udp => {}
        Effect::Deny => prop_assert_eq!(ruling.outcome, RulingOutcome::Deny, "{}", context),
        Effect::Pass | Effect::Real => {
            prop_assert_eq!(
                ruling.outcome,
                RulingOutcome::Allow(Handling::Direct),
                "{}",
                context
            );
            prop_assert_eq!(
                kernel.reason >= reason::FIRST_DENIAL,
                ruling.verdict == Verdict::Deny,
                "{}",
                context
            );
        }
        Effect::Proxy => prop_assert_eq!(facts.transport, Transport::Tcp, "{}", context),
        Effect::Resolver => prop_assert!(false, "not tried here: {}", context),
    }
    let told = matches!(kernel.reason, reason::RULE_ALLOW | reason::RULE_DENY);
    if told && kernel.rule != 0 {
        let id = &policy.rule(kernel.rule).unwrap().id;
        prop_assert!(
            ruling.matched.iter().any(|matched| matched.rule == *id)
                // A denial above it depends on what the kernel does not know, and comes to the same.
                || policy.strategy().ranks() && kernel.effect == Effect::Deny,
            "{}",
            context
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_kernel_agrees_on_bare_addresses(
        rules in any_rules(), mode in prop::sample::select(&MODES[..]),
        strategy in prop::sample::select(&STRATEGIES[..]),
        ip in prop::sample::select(&ADDRESSES[..]),
        port in prop::sample::select(&TRIED_PORTS[..]), transport in transports(), circumstances in circumstances(),
    ) {
        let policy = compiled_with(&numbered(&rules), mode, strategy);
        let agent = agent(&policy, "coder");
        let ip: IpAddr = ip.parse().unwrap();
        let nets = policy.network_rules(agent);
        let network = longest_prefix(&nets, ip);
        let full = network.is_some_and(is_full);
        let facts = Facts { host: None, ip: Some(ip), port, transport, request: Seen::NotYet, circumstances };
        let verdict = kernel(agent, None, network, ip, port, transport);
        check_agreement(&policy, agent, &facts, verdict, full)?;
        prop_assert!(!policy.inspects(agent, &facts) || verdict.effect == Effect::Proxy);
    }

    #[test]
    fn the_kernel_agrees_on_names(
        rules in any_rules(), mode in prop::sample::select(&MODES[..]),
        strategy in prop::sample::select(&STRATEGIES[..]),
        name in prop::sample::select(&NAMES[..]),
        real in prop::option::weighted(0.5, prop::sample::select(&ADDRESSES[..])),
        port in prop::sample::select(&TRIED_PORTS[..]), transport in transports(), circumstances in circumstances(),
    ) {
        let policy = compiled_with(&numbered(&rules), mode, strategy);
        let agent = agent(&policy, "coder");
        let name = host(name);
        let real: Option<IpAddr> = real.map(|ip| ip.parse().unwrap());
        let lines = match real {
            Some(real) => policy.name_rules_at(agent, &name, real),
            None => policy.name_rules(agent, &name),
        };
        let virtual4: IpAddr = "198.18.0.9".parse().unwrap();
        let virtual6: IpAddr = "fd41:6775:6172:6400::9".parse().unwrap();
        let shown = real.unwrap_or("192.0.2.80".parse().unwrap());
        let dialled = if special::canonical(shown).is_ipv4() { virtual4 } else { virtual6 };
        let entry = NameEntry { real: shown.into(), rules: lines };
        let verdict = kernel(agent, Some(&entry), None, dialled, port, transport);
        // No name leads to an unspecified address; the resolver sees to it.
        prop_assume!(verdict.reason != reason::NO_ADDRESS);
        let facts = Facts { host: Some(&name), ip: real, port, transport, request: Seen::NotYet, circumstances };
        let unknown_address = real.is_none() && rules.iter().any(|r| r.contains("cidr"));
        check_agreement(&policy, agent, &facts, verdict, is_full(&lines) || unknown_address)?;
        prop_assert!(!policy.inspects(agent, &facts) || verdict.effect == Effect::Proxy);
        if let (None, Effect::Real) = (real, verdict.effect) && !agent.observes() {
            // Whatever the address turns out to be, no denial is passed by.
            for ip in ADDRESSES.iter().map(|ip| ip.parse::<IpAddr>().unwrap()) {
                let ruling = policy.decide(agent, &Facts { ip: Some(ip), ..facts });
                // Where it is published, its address is known, and what is not public may be opened to none of them.
                let closed = agentguard_model::special::special(special::canonical(ip)).is_some();
                prop_assert!(closed || ruling.outcome != RulingOutcome::Deny, "{ip} {ruling:?}");
            }
        }
    }

    #[test]
    fn the_index_finds_what_a_scan_finds(
        rules in any_rules(), name in prop::option::of(prop::sample::select(&NAMES[..])),
        ip in prop::option::of(prop::sample::select(&ADDRESSES[..])),
        port in prop::sample::select(&TRIED_PORTS[..]), transport in transports(), circumstances in circumstances(),
        request: bool, get: bool, path in prop::sample::select(&["/a", "/a/b", "/b", "*"][..]),
        query in prop::sample::select(&["", "a=b", "a=x", "a=c1;a=x"][..]), body in 9u64..12, (llm, tool) in (call(), message()),
    ) {
        let policy = compiled(&numbered(&rules), "enforce");
        let agent = agent(&policy, "coder");
        let name = name.map(host);
        let ip = ip.map(|ip| special::canonical(ip.parse().unwrap()));
        let query = Query::new(query);
        let request = if request {
            let request = Request::new(if get { "GET" } else { "PUT" }, path);
            Seen::Request(Request { query: Some(&query), body, llm, tool, ..request })
        } else {
            Seen::NotYet
        };
        let facts = Facts { host: name.as_ref(), ip, port, transport, request, circumstances };
        let found = policy.find(agent, &facts, ip);
        let mut by_index: Vec<u32> = [
            found.denials, found.unseen_denials, found.paper_denials, found.unseen_paper_denials,
            found.allowances, found.unseen_allowances, found.paper_allowances,
        ].iter().flat_map(|few| few.iter().collect::<Vec<_>>()).collect();
        by_index.sort_unstable();
        // What would be changed is among the denials too where it was not seen.
        by_index.dedup();
        let by_scan: Vec<u32> = (0..).zip(policy.compiled()).filter(|(_, rule)| {
            rule.is_for(facts.host, ip) && rule.opens(facts.host, ip)
                && match rule.fit(agent, &facts) {
                    Fit::Yes => true,
                    Fit::NeedsRequest => {
                        !rule.allows()
                            || rule.changes.is_some()
                            || rule.in_force(&agent.name, &circumstances)
                    }
                    Fit::Failed => !rule.allows() || rule.in_force(&agent.name, &circumstances),
                    Fit::No => false,
                }
        }).map(|(n, _)| n).collect();
        prop_assert_eq!(by_index, by_scan);
    }

    #[test]
    fn the_order_of_rules_does_not_matter(
        rules in any_rules(), mode in prop::sample::select(&MODES[..]),
        shuffled in any::<prop::sample::Index>(),
        name in prop::option::of(prop::sample::select(&NAMES[..])),
        ip in prop::sample::select(&ADDRESSES[..]),
        port in prop::sample::select(&TRIED_PORTS[..]), transport in transports(), circumstances in circumstances(),
    ) {
        let mut order = numbered(&rules);
        let one = compiled(&order, mode);
        if !order.is_empty() {
            let middle = shuffled.index(order.len());
            order.rotate_left(middle);
            order[middle..].reverse();
        }
        let other = compiled(&order, mode);
        let name = name.map(host);
        let ip = Some(ip.parse().unwrap());
        for request in [Seen::NotYet, Seen::Never, Seen::Tls, Seen::Request(Request::new("GET", "/a/b"))] {
            let facts = Facts { host: name.as_ref(), ip, port, transport, request, circumstances };
            let [a, b] = [&one, &other].map(|policy| {
                let ruling = policy.decide(agent(policy, "coder"), &facts);
                (ruling.outcome, ruling.verdict, ruling.enforced, ruling.reason.code)
            });
            prop_assert_eq!(a, b);
        }
        if let Some(name) = &name {
            let [a, b] = [&one, &other].map(|policy| {
                let ruling = policy.decide_name(agent(policy, "coder"), name);
                (ruling.allowed, ruling.verdict, ruling.enforced, ruling.addresses, ruling.ranges)
            });
            prop_assert_eq!(a, b);
        }
    }

    #[test]
    fn what_is_decided_early_stays_decided(
        rules in any_rules(), mode in prop::sample::select(&MODES[..]),
        strategy in prop::sample::select(&STRATEGIES[..]),
        name in prop::option::of(prop::sample::select(&NAMES[..])),
        ip in prop::sample::select(&ADDRESSES[..]),
        port in prop::sample::select(&TRIED_PORTS[..]), circumstances in circumstances(), (llm, tool) in (call(), message()),
    ) {
        let policy = compiled_with(&numbered(&rules), mode, strategy);
        let agent = agent(&policy, "coder");
        let name = name.map(host);
        let flow = Facts {
            host: name.as_ref(),
            ip: Some(ip.parse().unwrap()),
            port,
            transport: Transport::Tcp,
            request: Seen::NotYet, circumstances };
        let early = policy.decide(agent, &flow);
        for (method, websocket) in [("GET", false), ("GET", true), ("PUT", false)] {
            for path in ["/a/b", "/b"] {
                let small = Request { websocket, llm, tool, ..Request::new(method, path) };
                let seen = Facts { request: Seen::Request(small), ..flow };
                let late = policy.decide(agent, &seen);
                prop_assert_ne!(late.outcome, RulingOutcome::Undecided);
                if early.outcome != RulingOutcome::Undecided {
                    prop_assert_eq!(early.outcome, late.outcome);
                    prop_assert_eq!(early.verdict, late.verdict);
                }
                // Up to its limit it stays what it was; from there on it is asked again.
                let limit = policy.body_limit(agent, &seen);
                let with = |body| {
                    let request = Seen::Request(Request { body, ..small });
                    policy.decide(agent, &Facts { request, ..flow })
                };
                let full = with(limit.unwrap_or(u64::MAX));
                prop_assert_eq!((full.outcome, full.verdict), (late.outcome, late.verdict));
                // Then a denial comes of it, unless that depends on more.
                let plain = !rules.iter().any(|it| CONDITIONS.iter().any(|of| it.contains(of)));
                if let Some(limit) = limit
                    && strategy == "deny_overrides"
                    && plain
                {
                    prop_assert_eq!(with(limit + 1).verdict, Verdict::Deny);
                }
            }
        }
        for request in [Seen::Never, Seen::Tls] {
            let unread = policy.decide(agent, &Facts { request, ..flow });
            prop_assert_ne!(unread.outcome, RulingOutcome::Undecided);
            // What goes on early, looked at by nobody, goes on whatever comes.
            if early.outcome == RulingOutcome::Allow(Handling::Splice) {
                prop_assert_eq!(unread.outcome, early.outcome);
            }
        }
    }

    #[test]
    fn the_highest_rank_decides(
        rules in any_rules(), name in prop::option::of(prop::sample::select(&NAMES[..])),
        ip in prop::sample::select(&["10.1.2.3", "10.9.9.9", "192.0.2.1", "2001:db8::1"][..]),
        port in prop::sample::select(&TRIED_PORTS[..]), transport in transports(), circumstances in circumstances(),
        get: bool, path in prop::sample::select(&["/a/b", "/b"][..]), body in 9u64..12, (llm, tool) in (call(), message()),
        strategy in prop::sample::select(&STRATEGIES[1..]),
    ) {
        let policy = compiled_with(&numbered(&rules), "enforce", strategy);
        let agent = agent(&policy, "coder");
        let name = name.map(host);
        let ip = Some(ip.parse().unwrap());
        let request = Request { body, llm, tool, ..Request::new(if get { "GET" } else { "PUT" }, path) };
        let request = Seen::Request(request);
        let facts = Facts { host: name.as_ref(), ip, port, transport, request, circumstances };
        let towards = Towards::of(facts.host, ip);
        let met: Vec<_> = (0..).zip(policy.compiled()).filter(|(_, rule)| {
            rule.in_force(&agent.name, &circumstances)
                && rule.is_for(facts.host, ip) && rule.opens(facts.host, ip)
                && matches!(rule.fit(agent, &facts), Fit::Yes | Fit::Failed)
        }).map(|(n, rule)| (policy.strategy().rank(n, rule, towards), rule)).collect();
        let top = met.iter().map(|(rank, _)| *rank).max();
        let allowed = top.is_some()
            && met.iter().filter(|(rank, _)| Some(*rank) == top).all(|(_, rule)| rule.allows() && rule.fit(agent, &facts) == Fit::Yes);
        let ruling = policy.decide(agent, &facts);
        prop_assert_eq!(ruling.outcome != RulingOutcome::Deny, allowed, "{:?}", ruling);
        if let Some((_, rule)) = met.iter().find(|(rank, _)| Some(*rank) == top) {
            prop_assert!(ruling.matched.iter().any(|it| it.rule == rule.info.id), "{:?}", ruling);
        }
    }

    #[test]
    fn what_is_to_be_inspected_never_passes_unseen(
        rules in any_rules(), mode in prop::sample::select(&MODES[..]),
        name in prop::option::of(prop::sample::select(&NAMES[..])),
        ip in prop::sample::select(&ADDRESSES[..]),
        port in prop::sample::select(&TRIED_PORTS[..]), transport in transports(), circumstances in circumstances(),
    ) {
        let policy = compiled(&numbered(&rules), mode);
        let agent = agent(&policy, "coder");
        let name = name.map(host);
        let ip: IpAddr = ip.parse().unwrap();
        // Where a name leads is not known yet.
        let canonical = name.is_none().then_some(special::canonical(ip));
        let flow = Facts {
            host: name.as_ref(),
            ip: canonical,
            port,
            transport,
            request: Seen::NotYet, circumstances };
        let inspects = policy.inspects(agent, &flow);
        let matching = |rule: &&Rule, fits: fn(Fit) -> bool| {
            rule.in_force(&agent.name, &circumstances)
                && rule.is_for(flow.host, canonical) && rule.opens(flow.host, canonical)
                && fits(rule.fit(agent, &flow))
        };
        let wanted = policy.compiled().iter().any(|rule| {
            rule.allows() && rule.info.handling == Handling::Inspect
                && matching(&rule, |fit| matches!(fit, Fit::Yes | Fit::NeedsRequest))
        });
        let denied = !agent.observes() && policy.compiled().iter().any(|rule| {
            !rule.allows() && matching(&rule, |fit| fit == Fit::Yes)
                || matching(&rule, |fit| fit == Fit::Failed)
        });
        prop_assert_eq!(inspects, wanted && !denied);
        if !inspects {
            return Ok(());
        }
        prop_assert!(policy.inspects_anything(agent));
        match &name {
            Some(name) => prop_assert!(policy.inspects_name(agent, name)),
            None => prop_assert!(policy.inspects_address(agent, ip)),
        }
        let early = policy.decide(agent, &flow);
        prop_assert!(
            matches!(early.outcome, RulingOutcome::Undecided | RulingOutcome::Allow(Handling::Inspect)),
            "{:?}", early
        );
        // In TLS that is not opened there may be what the rule is about.
        let unseen = policy.decide(agent, &Facts { request: Seen::Tls, ..flow });
        prop_assert_eq!(unseen.verdict, Verdict::Deny);
        prop_assert_eq!(unseen.enforced, unseen.outcome == RulingOutcome::Deny);
        let closed = unseen.reason.code == ReasonCode::MetadataService
            || unseen.reason.code == ReasonCode::LoopbackNotOwn;
        if !agent.observes() || closed {
            prop_assert_eq!(unseen.outcome, RulingOutcome::Deny, "{:?}", unseen);
        } else {
            prop_assert_eq!(unseen.outcome, RulingOutcome::Allow(Handling::Splice), "{:?}", unseen);
        }
    }

    #[test]
    fn what_is_denied_at_a_name_is_denied_wherever_it_leads(
        rules in any_rules(), mode in prop::sample::select(&MODES[..]),
        strategy in prop::sample::select(&STRATEGIES[..]),
        name in prop::sample::select(&NAMES[..]), ip in prop::sample::select(&ADDRESSES[..]),
        port in prop::sample::select(&TRIED_PORTS[..]), circumstances in circumstances(), (llm, tool) in (call(), message()),
    ) {
        let policy = compiled_with(&numbered(&rules), mode, strategy);
        let agent = agent(&policy, "coder");
        let name = host(name);
        let at_name = Facts {
            host: Some(&name), ip: None, port, transport: Transport::Tcp, request: Seen::NotYet, circumstances,
        };
        let there = Facts { ip: Some(ip.parse().unwrap()), ..at_name };
        let direct = RulingOutcome::Allow(Handling::Direct);
        let early = policy.decide(agent, &there).outcome;
        if early == direct {
            prop_assert!(!policy.inspects(agent, &there) || policy.inspects(agent, &at_name));
        } else if early != RulingOutcome::Deny {
            prop_assert_eq!(policy.inspects(agent, &there), policy.inspects(agent, &at_name));
        }
        let request = Request { llm, tool, ..Request::new("GET", "/a/b") };
        for request in [Seen::NotYet, Seen::Never, Seen::Tls, Seen::Request(request)] {
            let [at_name, there] = [at_name, there].map(|facts| {
                policy.decide(agent, &Facts { request, ..facts }).outcome
            });
            if at_name == RulingOutcome::Deny {
                prop_assert!(there == RulingOutcome::Deny || there == direct, "{request:?} {there:?}");
            }
        }
    }

    #[test]
    fn a_name_is_answered_where_a_port_of_it_can_be_reached(
        rules in any_rules(), name in prop::sample::select(&NAMES[..]), transport in transports(), circumstances in circumstances(),
        port in prop::sample::select(&TRIED_PORTS[..]),
        strategy in prop::sample::select(&STRATEGIES[..]),
    ) {
        let policy = compiled_with(&numbered(&rules), "enforce", strategy);
        let agent = agent(&policy, "coder");
        let name: HostName = host(name);
        let facts = Facts { host: Some(&name), ip: None, port, transport, request: Seen::NotYet, circumstances };
        let reached = policy.decide(agent, &facts).outcome != RulingOutcome::Deny;
        let ruling = policy.decide_name(agent, &name);
        if reached {
            prop_assert!(ruling.allowed);
        }
        if !ruling.allowed {
            let lines = policy.name_rules(agent, &name);
            prop_assert!(lines.iter().all(|line| line.effect == effect::DENY));
        }
    }
}

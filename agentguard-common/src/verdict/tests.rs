use super::{Effect, FlowVerdict, Matched, match_port};
use crate::address::Address;
use crate::event::reason;
use crate::map::{
    AgentEntry, Listeners, NameEntry, PORT_RULES, PortRule, PortRules, TCP, UDP, agent_flag,
    effect, listener_flag, mode, port_rule_flag,
};
use core::net::IpAddr;
use proptest::prelude::*;

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn rules(first: PortRule) -> PortRules {
    let mut rules = [PortRule::default(); PORT_RULES];
    rules[0] = first;
    rules
}

const fn rule(effect: u8) -> PortRule {
    PortRule {
        rule: 7,
        first: 443,
        last: 443,
        transports: TCP | UDP,
        effect,
        flags: 0,
        _pad: 0,
    }
}

/// A flow and what the maps hold on it.
struct Flow<'a> {
    agent: &'a AgentEntry,
    listeners: Option<&'a Listeners>,
    name: Option<&'a NameEntry>,
    network: Option<&'a PortRules>,
    local: bool,
    daemon_alive: bool,
    destination: Address,
    port: u16,
    transport: u8,
}

/// The verdict, by the rules that a hook would look at.
fn flow_verdict(flow: &Flow<'_>) -> FlowVerdict {
    let rules = flow.name.map(|name| &name.rules).or(flow.network);
    let matched = rules.and_then(|rules| match_port(rules, flow.port, flow.transport));
    assert_eq!(Matched::unpack(Matched::pack(matched)), matched);
    let verdict = super::flow_verdict(&super::Flow {
        agent: flow.agent,
        listeners: flow.listeners,
        name: flow.name,
        matched,
        local: flow.local,
        daemon_alive: flow.daemon_alive,
        destination: flow.destination,
        port: flow.port,
        transport: flow.transport,
    });
    assert_eq!(FlowVerdict::unpack(verdict.pack()), verdict);
    verdict
}

const LISTENERS: Listeners = Listeners {
    proxy_port: 15001,
    resolver_port: 15053,
    flags: listener_flag::V6,
};
const ENFORCED: AgentEntry = AgentEntry {
    agent: 1,
    profile: 1,
    run: 0,
    mode: mode::ENFORCE,
    flags: agent_flag::LOCAL_OWN,
    _pad: 0,
};

fn flow<'a>(agent: &'a AgentEntry, destination: &str, port: u16) -> Flow<'a> {
    Flow {
        agent,
        listeners: Some(&LISTENERS),
        name: None,
        network: None,
        local: false,
        daemon_alive: true,
        destination: address(destination),
        port,
        transport: TCP,
    }
}

#[track_caller]
fn assert_verdict(flow: &Flow<'_>, effect: Effect, reason: u8) {
    let FlowVerdict {
        effect: e,
        reason: r,
        ..
    } = flow_verdict(flow);
    assert_eq!((e, r), (effect, reason));
}

#[test]
fn unknown_destinations_are_denied() {
    assert_verdict(
        &flow(&ENFORCED, "192.0.2.1", 443),
        Effect::Deny,
        reason::NO_RULE,
    );
    assert_verdict(
        &flow(&ENFORCED, "2001:db8::1", 443),
        Effect::Deny,
        reason::NO_RULE,
    );
    assert_verdict(
        &flow(&ENFORCED, "198.18.0.9", 443),
        Effect::Deny,
        reason::NOT_ANSWERED,
    );
}

#[test]
fn every_resolver_is_ours() {
    for transport in [TCP, UDP] {
        let mut f = flow(&ENFORCED, "192.0.2.53", 53);
        f.transport = transport;
        assert_verdict(&f, Effect::Resolver, reason::RESOLVER);
        f.listeners = None;
        assert_verdict(&f, Effect::Deny, reason::NO_LISTENER);
    }
}

#[test]
fn v6_needs_a_v6_listener() {
    let only_v4 = Listeners {
        flags: 0,
        ..LISTENERS
    };
    let mut f = flow(&ENFORCED, "2001:db8::53", 53);
    f.listeners = Some(&only_v4);
    assert_verdict(&f, Effect::Deny, reason::NO_LISTENER);
}

#[test]
fn loopback_is_for_its_owner() {
    let mut f = flow(&ENFORCED, "127.0.0.1", 8000);
    assert_verdict(&f, Effect::Deny, reason::LOOPBACK);
    f.local = true;
    assert_verdict(&f, Effect::Pass, reason::LOCAL);
    let none = AgentEntry {
        flags: 0,
        ..ENFORCED
    };
    f.agent = &none;
    assert_verdict(&f, Effect::Deny, reason::LOOPBACK);
}

#[test]
fn the_guards_own_ports_are_never_dialled() {
    let all = rules(PortRule {
        first: 0,
        last: u16::MAX,
        ..rule(effect::DIRECT)
    });
    for port in [LISTENERS.proxy_port, LISTENERS.resolver_port] {
        let mut f = flow(&ENFORCED, "127.0.0.1", port);
        f.network = Some(&all);
        f.local = true;
        assert_verdict(&f, Effect::Deny, reason::GUARD);
    }
}

#[test]
fn observing_refuses_only_the_stated_list() {
    let observing = AgentEntry {
        mode: mode::OBSERVE,
        ..ENFORCED
    };
    assert_verdict(
        &flow(&observing, "192.0.2.1", 443),
        Effect::Pass,
        reason::NO_RULE,
    );
    assert_verdict(
        &flow(&observing, "127.0.0.1", 6379),
        Effect::Deny,
        reason::LOOPBACK,
    );
    assert_verdict(
        &flow(&observing, "198.18.0.9", 443),
        Effect::Deny,
        reason::NOT_ANSWERED,
    );
    let metadata = rules(PortRule {
        flags: port_rule_flag::HARD,
        ..rule(effect::DENY)
    });
    let mut f = flow(&observing, "169.254.169.254", 443);
    f.network = Some(&metadata);
    assert_verdict(&f, Effect::Deny, reason::METADATA);
    let denied = rules(rule(effect::DENY));
    f.network = Some(&denied);
    assert_verdict(&f, Effect::Pass, reason::RULE_DENY);
    let name = NameEntry {
        real: Address::UNSPECIFIED,
        rules: denied,
    };
    let mut f = flow(&observing, "198.18.0.9", 443);
    f.name = Some(&name);
    assert_verdict(&f, Effect::Proxy, reason::RULE_DENY);
    f.port = 22;
    assert_verdict(&f, Effect::Proxy, reason::NO_RULE);
}

#[test]
fn a_shadow_rule_denies_on_paper_only() {
    let shadow = rules(PortRule {
        flags: port_rule_flag::SHADOW,
        ..rule(effect::DENY)
    });
    let mut f = flow(&ENFORCED, "192.0.2.1", 443);
    f.network = Some(&shadow);
    assert_verdict(&f, Effect::Pass, reason::RULE_DENY);
    let allowed_else = rules(PortRule {
        flags: port_rule_flag::SHADOW,
        ..rule(effect::DIRECT)
    });
    f.network = Some(&allowed_else);
    assert_verdict(&f, Effect::Pass, reason::RULE_DENY);
    f.daemon_alive = false;
    assert_verdict(&f, Effect::Deny, reason::DAEMON_LOST);
}

#[test]
fn a_datagram_to_a_name_is_never_sent_to_the_proxy() {
    let name = NameEntry {
        real: address("192.0.2.80"),
        rules: rules(PortRule {
            flags: port_rule_flag::SHADOW,
            ..rule(effect::DENY)
        }),
    };
    for destination in ["198.18.0.9", "192.0.2.80"] {
        let mut f = flow(&ENFORCED, destination, 443);
        f.name = Some(&name);
        assert_verdict(&f, Effect::Proxy, reason::RULE_DENY);
        f.transport = UDP;
        assert_verdict(&f, Effect::Deny, reason::RULE_DENY);
    }
}

#[test]
fn direct_names_go_to_the_real_address_of_their_family() {
    let mut name = NameEntry {
        real: address("192.0.2.80"),
        rules: rules(rule(effect::DIRECT)),
    };
    let name_v4 = name;
    let mut f = flow(&ENFORCED, "198.18.0.9", 443);
    f.name = Some(&name_v4);
    assert_verdict(&f, Effect::Real, reason::RULE_ALLOW);
    name.real = address("2001:db8::80");
    f.name = Some(&name);
    assert_verdict(&f, Effect::Deny, reason::NO_ADDRESS);
}

#[test]
fn the_daemons_loss_stops_direct_flows_unless_kept() {
    let direct = rules(rule(effect::DIRECT));
    let keep = AgentEntry {
        flags: agent_flag::KEEP_ON_LOSS,
        ..ENFORCED
    };
    let mut f = flow(&ENFORCED, "192.0.2.1", 443);
    f.network = Some(&direct);
    f.daemon_alive = false;
    assert_verdict(&f, Effect::Deny, reason::DAEMON_LOST);
    f.agent = &keep;
    assert_verdict(&f, Effect::Pass, reason::RULE_ALLOW);
}

#[test]
fn without_an_uplink_what_is_direct_goes_through_the_proxy() {
    let enclosed = Listeners {
        flags: listener_flag::V6 | listener_flag::NO_UPLINK,
        ..LISTENERS
    };
    let direct = rules(rule(effect::DIRECT));
    let mut f = flow(&ENFORCED, "192.0.2.1", 443);
    f.network = Some(&direct);
    f.listeners = Some(&enclosed);
    assert_verdict(&f, Effect::Proxy, reason::PROXY);
    f.transport = UDP;
    assert_verdict(&f, Effect::Deny, reason::NO_UPLINK);
    let name = NameEntry {
        real: address("192.0.2.80"),
        rules: direct,
    };
    let mut f = flow(&ENFORCED, "198.18.0.9", 443);
    f.name = Some(&name);
    f.listeners = Some(&enclosed);
    assert_verdict(&f, Effect::Proxy, reason::PROXY);
    let mut f = flow(&ENFORCED, "127.0.0.1", 8000);
    f.local = true;
    f.listeners = Some(&enclosed);
    assert_verdict(&f, Effect::Pass, reason::LOCAL);
    let observing = AgentEntry {
        mode: mode::OBSERVE,
        ..ENFORCED
    };
    let mut f = flow(&observing, "192.0.2.1", 443);
    f.listeners = Some(&enclosed);
    assert_verdict(&f, Effect::Proxy, reason::NO_RULE);
}

#[test]
fn datagrams_are_not_proxied() {
    let proxied = rules(rule(effect::PROXY));
    let mut f = flow(&ENFORCED, "192.0.2.1", 443);
    f.network = Some(&proxied);
    assert_verdict(&f, Effect::Proxy, reason::PROXY);
    f.transport = UDP;
    assert_verdict(&f, Effect::Deny, reason::DATAGRAM);
}

prop_compose! {
    fn any_rule()(
        rule in 0u32..9, first in 0u16..600, length in 0u16..600, transports in 0u8..4,
        effect in 0u8..4, flags in 0u8..4,
    ) -> PortRule {
        PortRule { rule, first, last: first + length, transports, effect, flags, _pad: 0 }
    }
}

fn any_rules() -> impl Strategy<Value = PortRules> {
    prop::array::uniform8(any_rule())
}

fn any_destination() -> impl Strategy<Value = Address> {
    prop_oneof![
        any::<[u8; 16]>().prop_map(Address::from_octets),
        any::<[u8; 4]>().prop_map(|o| Address::from(IpAddr::from(o))),
        (0u8..2, any::<[u8; 2]>()).prop_map(|(low, [a, b])| Address::from(IpAddr::from([
            198,
            18 + low,
            a,
            b
        ]))),
        Just(Address::LOOPBACK4),
        Just(Address::LOOPBACK6),
        Just(Address::UNSPECIFIED),
    ]
}

proptest! {
    /// Whatever the maps hold, the invariants of the gate do.
    #[test]
    fn invariants(
        destination in any_destination(),
        port in prop_oneof![0u16..1300, Just(15001u16), Just(15053)],
        udp: bool, local: bool, daemon_alive: bool, listeners: bool,
        agent_mode in 0u8..3, flags in 0u8..8,
        real in any_destination(),
        name in prop::option::of(any_rules()),
        network in prop::option::of(any_rules()),
    ) {
        let agent = AgentEntry { agent: 1, profile: 1, run: 0, mode: agent_mode, flags, _pad: 0 };
        let name = name.map(|rules| NameEntry { real, rules });
        let flow = Flow {
            agent: &agent,
            listeners: listeners.then_some(&LISTENERS),
            name: name.as_ref(),
            network: network.as_ref(),
            local,
            daemon_alive,
            destination,
            port,
            transport: if udp { UDP } else { TCP },
        };
        let verdict = flow_verdict(&flow);
        let denied = verdict.effect == Effect::Deny;
        let reason_denies = verdict.reason >= reason::FIRST_DENIAL;
        if denied {
            prop_assert!(reason_denies);
        }
        if agent_mode == mode::ENFORCE && reason_denies && !denied {
            prop_assert_eq!(verdict.reason, reason::RULE_DENY, "only a shadow rule passes");
        }
        if flags & agent_flag::QUARANTINED != 0 {
            prop_assert_eq!(verdict.reason, reason::QUARANTINED);
        }
        if matches!(verdict.effect, Effect::Proxy | Effect::Resolver) {
            prop_assert!(listeners);
        }
        if verdict.effect == Effect::Pass {
            prop_assert!(!destination.is_virtual() || name.is_some());
            prop_assert!(port != 53);
            prop_assert!(
                !(listeners && destination.is_loopback() && (port == 15001 || port == 15053))
            );
        }
        if verdict.effect == Effect::Real {
            prop_assert!(destination.is_virtual());
            prop_assert_eq!(real.is_v4(), destination.is_v4());
        }
        if udp {
            prop_assert!(verdict.effect != Effect::Proxy);
        }
        if name.is_none() && network.is_none() && agent_mode == mode::ENFORCE && port != 53 && !local {
            prop_assert!(denied, "absent knowledge denies");
        }
    }
}

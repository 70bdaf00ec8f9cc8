//! Profiles: the address rules of agents.

use agentguard_common::event::reason;
use agentguard_common::map::PortRules;

use crate::world::{direct, in_world, server};

#[test]
fn new_rules_take_the_place_of_the_old_ones() {
    in_world(|world| {
        let (_server, port) = server();
        let agent = world.agent(1);
        let other = world.agent(2);
        let mut client = agent.client();
        world.rule(
            &agent,
            &[("192.0.2.0/24", direct(1)), ("2001:db8::/32", direct(2))],
        );
        world.rule(&other, &[("192.0.2.0/24", direct(3))]);
        client.does(&format!("tcp('192.0.2.1', {port})"));
        client.does(&format!("tcp('2001:db8::1', {port})"));

        world.rule(
            &agent,
            &[("203.0.113.0/24", direct(4)), ("2001:db8::/32", direct(5))],
        );
        client.is_refused(&format!("tcp('192.0.2.1', {port})"));
        client.does(&format!("tcp('203.0.113.1', {port})"));
        client.does(&format!("tcp('2001:db8::1', {port})"));
        let flows = world
            .events()
            .into_iter()
            .filter(|event| event.kind == agentguard_common::event::kind::FLOW);
        let rules: Vec<u32> = flows.map(|event| event.rule).collect();
        assert_eq!(rules, [1, 2, 0, 4, 5]);

        // Another profile is another set.
        let mut other_client = other.client();
        other_client.does(&format!("tcp('192.0.2.1', {port})"));
        world.gate.keep_networks(&[agent.entry.profile]).unwrap();
        other_client.is_refused(&format!("tcp('192.0.2.1', {port})"));
        client.does(&format!("tcp('203.0.113.1', {port})"));
        world.gate.put_networks(agent.entry.profile, &[]).unwrap();
        client.is_refused(&format!("tcp('203.0.113.1', {port})"));
    });
}

/// IPv4 is a part of IPv6 here: a rule for all of IPv6 needs an entry that keeps it out of IPv4.
#[test]
fn an_empty_entry_for_ipv4_shadows_one_for_all_of_ipv6() {
    in_world(|world| {
        let (_server, port) = server();
        let agent = world.agent(1);
        let mut client = agent.client();
        world.rule(&agent, &[("::/0", direct(1))]);
        client.does(&format!("tcp('192.0.2.1', {port})"));

        world.rule(
            &agent,
            &[("::/0", direct(1)), ("0.0.0.0/0", PortRules::default())],
        );
        world.events();
        client.is_refused(&format!("tcp('192.0.2.1', {port})"));
        client.is_refused(&format!("tcp('::ffff:192.0.2.1', {port})"));
        let refused = world.events();
        let reasons = refused.iter().filter(|event| event.denied == 1);
        assert!(reasons.clone().all(|event| event.reason == reason::NO_RULE));
        assert_eq!(reasons.count(), 2);
        client.does(&format!("tcp('2001:db8::1', {port})"));
    });
}

/// Agents with equal rules share them, and a reload moves each of them with one write.
#[test]
fn an_agent_is_moved_to_another_set_with_one_write() {
    in_world(|world| {
        let (_server, port) = server();
        let mut agent = world.agent(1);
        let other = world.agent(2);
        world.rule(&other, &[("192.0.2.0/24", direct(3))]);
        let mut client = agent.client();
        client.does("s = socket.socket()");
        client.is_refused(&format!("tcp('192.0.2.1', {port})"));
        agent.entry.profile = other.entry.profile;
        world.gate.put_agent(agent.id, &agent.entry).unwrap();
        client.does(&format!("s.connect(('192.0.2.1', {port}))"));
    });
}

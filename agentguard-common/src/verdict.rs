//! What becomes of a flow, as a function of what the maps say.
//!
//! The kernel side fetches, calls [`flow_verdict`], and applies. The order of the checks is the
//! order of their authority: nothing a later check finds can undo an earlier denial.

use crate::address::Address;
use crate::event::reason;
use crate::map::{
    AgentEntry, Listeners, NameEntry, PortRules, TCP, agent_flag, effect, listener_flag, mode,
    port_rule_flag,
};

/// The DNS port (RFC 1035 §4.2). Whatever resolver an agent names, it gets ours.
pub const DNS_PORT: u16 = 53;

/// A flow as the kernel hook sees it, and what the maps hold on it.
#[derive(Clone, Copy)]
pub struct Flow<'a> {
    /// The agent's entry.
    pub agent: &'a AgentEntry,
    /// The listeners of the socket's network namespace.
    pub listeners: Option<&'a Listeners>,
    /// The entry of the destination among the names answered to this agent.
    pub name: Option<&'a NameEntry>,
    /// What [`match_port`] finds in the name's rules, or without one in those of the longest prefix
    /// of the agent's profile that holds the destination.
    pub matched: Option<Matched>,
    /// Whether the same agent bound the destination, where that is on loopback.
    pub local: bool,
    /// Whether the daemon is known to live.
    pub daemon_alive: bool,
    /// Where it goes.
    pub destination: Address,
    /// To which port.
    pub port: u16,
    /// [`crate::map::TCP`] or [`crate::map::UDP`].
    pub transport: u8,
}

/// What to do with a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Effect {
    /// Refuse it.
    Deny = 0,
    /// Let it go where it goes.
    Pass = 1,
    /// Send it to the proxy.
    Proxy = 2,
    /// Send it to the resolver.
    Resolver = 3,
    /// Send it to the name's real address.
    Real = 4,
}

/// What to do with a flow, and why.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FlowVerdict {
    /// What to do.
    pub effect: Effect,
    /// One of [`crate::event::reason`]. A reason that denies beside an effect that does not deny
    /// says that the denial is not enforced.
    pub reason: u8,
    /// The policy rule that decided, or 0.
    pub rule: u32,
}

impl FlowVerdict {
    #[inline(always)]
    const fn new(effect: Effect, reason: u8, rule: u32) -> Self {
        Self {
            effect,
            reason,
            rule,
        }
    }

    #[inline(always)]
    const fn deny(reason: u8) -> Self {
        Self::new(Effect::Deny, reason, 0)
    }

    /// In one word: what a function that the verifier looks at by itself can give.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        (self.reason as u64) << 40 | (self.effect as u64) << 32 | self.rule as u64
    }

    /// What [`Self::pack`] packed; anything else denies.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "each part is cut out")]
    pub const fn unpack(word: u64) -> Self {
        let effect = match (word >> 32) as u8 {
            1 => Effect::Pass,
            2 => Effect::Proxy,
            3 => Effect::Resolver,
            4 => Effect::Real,
            _ => Effect::Deny,
        };
        Self::new(effect, (word >> 40) as u8, word as u32)
    }
}

/// Decides a flow. Absent knowledge denies.
#[inline(always)]
#[must_use]
pub fn flow_verdict(flow: &Flow<'_>) -> FlowVerdict {
    let verdict = decide(flow);
    let leaves = matches!(verdict.effect, Effect::Pass | Effect::Real);
    match flow.listeners {
        Some(ours)
            if leaves
                && ours.flags & listener_flag::NO_UPLINK != 0
                && !flow.destination.is_loopback() =>
        {
            without_uplink(flow, verdict)
        }
        _ => verdict,
    }
}

/// What may go directly, where nothing goes out but through the proxy: TCP goes through the proxy.
#[inline(always)]
fn without_uplink(flow: &Flow<'_>, verdict: FlowVerdict) -> FlowVerdict {
    if flow.transport != TCP {
        return FlowVerdict::new(Effect::Deny, reason::NO_UPLINK, verdict.rule);
    }
    let why = match verdict.reason {
        reason::RULE_ALLOW => reason::PROXY,
        denied_on_paper => denied_on_paper,
    };
    to_listener(flow, Effect::Proxy, why, verdict.rule)
}

#[inline(always)]
fn decide(flow: &Flow<'_>) -> FlowVerdict {
    if flow.agent.flags & agent_flag::QUARANTINED != 0 {
        return FlowVerdict::deny(reason::QUARANTINED);
    }
    let loopback = flow.destination.is_loopback();
    if let (true, Some(ours)) = (loopback, flow.listeners)
        && (flow.port == ours.proxy_port || flow.port == ours.resolver_port)
    {
        return FlowVerdict::deny(reason::GUARD);
    }
    if flow.port == DNS_PORT {
        return to_listener(flow, Effect::Resolver, reason::RESOLVER, 0);
    }
    if loopback && flow.local && flow.agent.flags & agent_flag::LOCAL_OWN != 0 {
        return FlowVerdict::new(Effect::Pass, reason::LOCAL, 0);
    }
    if let Some(name) = flow.name {
        return match flow.matched {
            Some(rule) if rule.effect == effect::DIRECT => direct_by_name(flow, name, rule),
            Some(rule) => by_rule(flow, rule),
            // Nobody may try the guard in observe mode if names that no rule knows stop working.
            None if observing(flow) && flow.transport == TCP => {
                to_listener(flow, Effect::Proxy, reason::NO_RULE, 0)
            }
            None => FlowVerdict::deny(reason::NO_RULE),
        };
    }
    if flow.destination.is_virtual() {
        return FlowVerdict::deny(reason::NOT_ANSWERED);
    }
    match flow.matched {
        Some(rule) => by_rule(flow, rule),
        None if loopback => FlowVerdict::deny(reason::LOOPBACK),
        None if observing(flow) => FlowVerdict::new(Effect::Pass, reason::NO_RULE, 0),
        None => FlowVerdict::deny(reason::NO_RULE),
    }
}

/// Whether denials of this agent that are not hard are recorded only.
#[inline(always)]
fn observing(flow: &Flow<'_>) -> bool {
    flow.agent.mode == mode::SHADOW || flow.agent.mode == mode::OBSERVE
}

/// The first rule for a port and a transport.
#[inline(always)]
#[must_use]
pub fn match_port(rules: &PortRules, port: u16, transport: u8) -> Option<Matched> {
    for rule in rules {
        if rule.transports == 0 {
            return None;
        }
        if rule.transports & transport != 0 && rule.first <= port && port <= rule.last {
            return Some(Matched {
                rule: rule.rule,
                effect: rule.effect,
                flags: rule.flags,
            });
        }
    }
    None
}

/// What [`match_port`] found, by value: the verifier loses track of references into a map that
/// live across a loop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Matched {
    /// [`crate::map::PortRule::rule`].
    pub rule: u32,
    /// [`crate::map::PortRule::effect`].
    pub effect: u8,
    /// [`crate::map::PortRule::flags`].
    pub flags: u8,
}

impl Matched {
    /// Set in [`Self::pack`] of something.
    const SOME: u64 = 1 << 63;

    /// In one word: what a function that the verifier looks at by itself can give.
    #[inline(always)]
    #[must_use]
    pub fn pack(matched: Option<Self>) -> u64 {
        match matched {
            Some(found) => {
                Self::SOME
                    | u64::from(found.flags) << 40
                    | u64::from(found.effect) << 32
                    | u64::from(found.rule)
            }
            None => 0,
        }
    }

    /// What [`Self::pack`] packed.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "each part is cut out")]
    pub const fn unpack(word: u64) -> Option<Self> {
        if word & Self::SOME == 0 {
            return None;
        }
        Some(Self {
            rule: word as u32,
            effect: (word >> 32) as u8,
            flags: (word >> 40) as u8,
        })
    }
}

#[inline(always)]
fn by_rule(flow: &Flow<'_>, matched: Matched) -> FlowVerdict {
    match matched.effect {
        effect::DIRECT => direct(flow, Effect::Pass, matched),
        effect::PROXY if flow.transport == TCP => {
            to_listener(flow, Effect::Proxy, reason::PROXY, matched.rule)
        }
        effect::PROXY => FlowVerdict::new(Effect::Deny, reason::DATAGRAM, matched.rule),
        _ if matched.flags & port_rule_flag::HARD != 0 => {
            FlowVerdict::new(Effect::Deny, reason::METADATA, matched.rule)
        }
        _ if observing(flow) || matched.flags & port_rule_flag::SHADOW != 0 => {
            // What was answered by name passes the proxy, as it does where no rule matches; a
            // virtual address leads nowhere by itself, and the proxy takes no datagrams.
            match (flow.name.is_some(), flow.transport) {
                (true, TCP) => to_listener(flow, Effect::Proxy, reason::RULE_DENY, matched.rule),
                (true, _) => FlowVerdict::new(Effect::Deny, reason::RULE_DENY, matched.rule),
                (false, _) => FlowVerdict::new(Effect::Pass, reason::RULE_DENY, matched.rule),
            }
        }
        _ => FlowVerdict::new(Effect::Deny, reason::RULE_DENY, matched.rule),
    }
}

/// A direct flow to an answered address: a virtual one is replaced by the real one of its family.
#[inline(always)]
fn direct_by_name(flow: &Flow<'_>, name: &NameEntry, matched: Matched) -> FlowVerdict {
    if !flow.destination.is_virtual() {
        return direct(flow, Effect::Pass, matched);
    }
    if name.real.is_unspecified() || name.real.is_v4() != flow.destination.is_v4() {
        return FlowVerdict::new(Effect::Deny, reason::NO_ADDRESS, matched.rule);
    }
    direct(flow, Effect::Real, matched)
}

#[inline(always)]
fn direct(flow: &Flow<'_>, effect: Effect, matched: Matched) -> FlowVerdict {
    if !flow.daemon_alive && flow.agent.flags & agent_flag::KEEP_ON_LOSS == 0 {
        return FlowVerdict::new(Effect::Deny, reason::DAEMON_LOST, matched.rule);
    }
    let why = if matched.flags & port_rule_flag::SHADOW != 0 {
        reason::RULE_DENY
    } else {
        reason::RULE_ALLOW
    };
    FlowVerdict::new(effect, why, matched.rule)
}

/// To a listener of ours, where there is one of the flow's family.
#[inline(always)]
fn to_listener(flow: &Flow<'_>, effect: Effect, why: u8, rule: u32) -> FlowVerdict {
    match flow.listeners {
        Some(ours) if flow.destination.is_v4() || ours.flags & listener_flag::V6 != 0 => {
            FlowVerdict::new(effect, why, rule)
        }
        _ => FlowVerdict::new(Effect::Deny, reason::NO_LISTENER, rule),
    }
}

#[cfg(test)]
mod tests;

//! The path of an agent's traffic through the gate, with real sockets: whose it is, where it may go,
//! what is written of it, and how an operator changes that while it runs.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where it cannot go on, helpers included"
)]

mod adopted;
mod adoption;
mod agents;
mod around;
mod asking;
mod byte_budgets;
mod datagrams;
mod direct;
mod frozen;
mod itself;
mod left;
mod loopback;
mod membership;
mod modes;
mod places;
mod protocol;
mod quarantine;
mod quotas;
mod ranges;
mod reload;
mod removed;
mod resources;
mod returned;
mod root;
mod runtime;
mod sandbox;
mod shares;
mod sockets;
mod switches;
mod trial;
mod untouched;
mod upgrade;

use agentguard_model::{ActionKind, Decision, ReasonCode, Verdict};
use agentguard_tests::{Guard, Origin, Puppet, World, address};

/// A site that the tests' policies allow.
pub(crate) const SITE: &str = "api.example.com";

/// A site that they do not.
pub(crate) const OTHER: &str = "www.other.example";

/// A world with both, and a third one that is dialled by its address, 203.0.113.48.
pub(crate) fn world(name: &str) -> World {
    World::new(name)
        .origin(Origin::at(&address::origin(0x10)).site(SITE))
        .origin(Origin::at(&address::origin(0x20)).site(OTHER))
        .origin(Origin::at(&address::origin(0x30)).site("third.example"))
        .start()
        .unwrap()
}

/// A client that `agentguard run` started.
pub(crate) fn puppet(world: &World, guard: &Guard<'_>, agent: &str) -> Puppet {
    Puppet::start(world, |words| guard.agent(agent, words)).unwrap()
}

/// A client that has every capability, as root of a container may: what `run` starts has not, and
/// would be refused without the gate.
pub(crate) fn mighty(world: &World, guard: &Guard<'_>, agent: &str) -> Puppet {
    let cgroup = guard.agent_cgroup(agent).unwrap();
    Puppet::start(world, |words| guard.within(&cgroup, words)).unwrap()
}

/// A client in the host that nobody governs.
pub(crate) fn free(world: &World) -> Puppet {
    Puppet::start(world, |words| {
        let mut words = words.into_iter();
        let program = words.next().unwrap();
        world.host().command(program).args(words)
    })
    .unwrap()
}

/// What a decision is about, in a form that a test can list.
pub(crate) fn gist(decision: &Decision) -> (ActionKind, Verdict, ReasonCode, bool) {
    (
        decision.action.kind,
        decision.verdict,
        decision.reason.code,
        decision.enforced,
    )
}

/// The agent's name, or none.
pub(crate) fn agent(decision: &Decision) -> Option<&str> {
    decision.agent.as_ref().map(|agent| agent.name.as_str())
}

//! What was open when its cgroup was adopted, and was closed or goes on: one decision each.

use super::Recorded;
use agentguard_common::event::{Event, kind, reason};
use agentguard_decision::{Client, Decider, Target};
use agentguard_keeper::home::Past;
use agentguard_keeper::message::Ended;
use agentguard_keeper::sockets::OldSocket;
use agentguard_model::{ActionKind, AgentId, Process};
use agentguard_names::guard;

/// `linux/socket.h`, `linux/net.h`.
const AF_UNIX: u16 = 1;
const SOCK_STREAM: u16 = 1;

/// Records them. What the record does not take it says itself, and the adoption is told with the number
/// of all of them.
pub(super) async fn note(
    agent: AgentId,
    sockets: Vec<OldSocket>,
    tolerated: bool,
    decider: Decider<Recorded>,
) {
    for socket in sockets {
        if let Err(refused) = decider
            .kernel(&event(agent, &socket, tolerated), None, None, None)
            .await
        {
            tracing::warn!(%refused, "a socket that was open when its cgroup was adopted is not in the record");
        }
    }
}

/// Records connections to UNIX sockets of others that were closed, by the peers' names.
pub(super) async fn note_shut(agent: AgentId, peers: Vec<String>, decider: Decider<Recorded>) {
    let event = Event {
        kind: kind::SOCKET,
        reason: reason::UNIX_SOCKET,
        denied: 1,
        agent: agent.0,
        family: AF_UNIX,
        socket_type: SOCK_STREAM,
        ..Event::default()
    };
    for peer in peers {
        if let Err(refused) = decider.kernel(&event, None, Some(peer), None).await {
            tracing::warn!(%refused, "a connection that was open when its cgroup was adopted is not in the record");
        }
    }
}

/// Records what goes on past the gate, since nobody can close it.
pub(super) async fn note_past(agent: AgentId, past: Vec<Past>, decider: Decider<Recorded>) {
    for past in past {
        let kind = match past {
            Past::Device(_) => ActionKind::Device,
            Past::Socket(_) | Past::Ring => ActionKind::Socket,
        };
        let noted = decider.left_open(agent, kind, past.what(), past.sentence());
        if let Err(refused) = noted.await {
            tracing::warn!(%refused, "what goes on past the gate is not in the record");
        }
    }
}

/// Records a direct flow that was ended by a new policy.
pub(super) async fn note_ended(ended: Ended, decider: Decider<Recorded>) {
    let client = Client {
        agent: ended.agent,
        run: ended.run,
        process: Process {
            pid: ended.pid,
            uid: ended.uid,
            comm: ended.comm,
            exe: None,
        },
    };
    let target = Target {
        host: ended.host,
        ip: Some(ended.ip),
        port: ended.port,
    };
    let closed = target.host.as_ref().and_then(|name| {
        let ranges = decider.name(client.agent, name).ranges;
        guard::closed(name, ended.ip, &ranges, decider.observes(client.agent))
    });
    decider.ended(&client, &target, ended.udp, closed).await;
}

/// As the gate would tell of it.
fn event(agent: AgentId, socket: &OldSocket, tolerated: bool) -> Event {
    let remote = socket.remote;
    Event {
        kind: if remote.is_some() {
            kind::FLOW
        } else {
            kind::INBOUND
        },
        reason: if tolerated {
            reason::TOLERATED
        } else {
            reason::ADOPTED
        },
        denied: u8::from(!tolerated),
        agent: agent.0,
        protocol: socket.protocol.into(),
        remote: remote.unwrap_or(socket.local).ip().into(),
        remote_port: remote.map_or(0, |remote| remote.port()),
        local_port: socket.local.port(),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::{AgentId, OldSocket, event, kind, reason};

    #[test]
    fn a_connection_is_told_by_where_it_went_and_a_listener_by_its_port() {
        let mut socket = OldSocket {
            protocol: 6,
            local: "192.0.2.1:4000".parse().unwrap(),
            remote: Some("203.0.113.9:443".parse().unwrap()),
        };
        let told = event(AgentId(3), &socket, false);
        assert_eq!(
            (told.kind, told.remote_port, told.agent),
            (kind::FLOW, 443, 3)
        );
        let kept = event(AgentId(3), &socket, true);
        assert_eq!((kept.reason, kept.denied), (reason::TOLERATED, 0));
        socket.remote = None;
        let told = event(AgentId(3), &socket, false);
        assert_eq!((told.kind, told.local_port), (kind::INBOUND, 4000));
    }
}

//! What the kernel decided, as decisions: recorded after their effect.

use std::time::Instant;

use agentguard_common::device;
use agentguard_common::event::{Event, kind, reason};
use agentguard_model::{
    Action, ActionKind, AgentId, Bytes, DecisionId, HostName, Layer, Mode, Outcome, Process, Quota,
    Reason, ReasonCode, Transport, Verdict,
};
use agentguard_policy::{Facts, Policy, Ruling, Seen};
use jiff::{SignedDuration, Timestamp};

use crate::decider::{Decider, Draft};
use crate::port::{Client, RecordRefused, Recorder, Target};

impl<R: Recorder> Decider<R> {
    /// Records a verdict of the gate. `host`: the name behind the address, where it is a virtual
    /// one; `unix`: what the owner of a UNIX socket called it; `exe`: the executable, where the kernel
    /// saw it.
    ///
    /// # Errors
    /// [`RecordRefused`]: the effect is there all the same; the caller tells a gap.
    pub async fn kernel(
        &self,
        event: &Event,
        host: Option<HostName>,
        unix: Option<String>,
        exe: Option<String>,
    ) -> Result<DecisionId, RecordRefused> {
        let started = Instant::now();
        let current = self.policies().current();
        let client = Client {
            agent: AgentId(event.agent),
            run: event.run,
            process: Process {
                pid: event.pid,
                uid: event.uid,
                comm: text(&event.comm),
                exe,
            },
        };
        // A number of a policy that is not kept any more names no rule.
        let rule = self
            .policies()
            .generation(event.generation)
            .and_then(|policy| policy.rule(event.rule).cloned());
        let name = self.directory().name(client.agent);
        let agent = name.and_then(|name| current.agent(&name));
        let mode = agent.map_or(Mode::Enforce, |agent| agent.mode);
        let quota = agent.and_then(|agent| agent.quota);
        let time = happened(event, Timestamp::now());
        let denies = event.reason >= reason::FIRST_DENIAL;
        let mode = match &rule {
            // A rule on paper, which lets pass whatever the agent's mode is.
            Some(rule) if denies && event.denied == 0 && mode == Mode::Enforce => rule.mode,
            _ => mode,
        };
        let action = action(event, host, unix);
        let on_paper = self.on_paper(event, &client, &action, &current);
        let (message, matched) = match (rule, on_paper) {
            (Some(rule), _) => {
                let own = rule.reason.as_ref().filter(|_| denies).cloned();
                let message = own.unwrap_or_else(|| sentence(event, &action));
                (message, vec![rule.matched()])
            }
            (None, Some(ruling)) => (ruling.reason.message, ruling.matched),
            (None, None) => {
                let of_quota = quota.and_then(|quota| over(event.reason, &quota, time));
                let sentence = of_quota.unwrap_or_else(|| sentence(event, &action));
                (sentence, Vec::new())
            }
        };
        let draft = Draft {
            client: (event.agent != 0 || event.pid != 0).then_some(&client),
            layer: Layer::Kernel,
            action,
            verdict: if denies {
                Verdict::Deny
            } else {
                Verdict::Allow
            },
            enforced: !denies || event.denied != 0,
            mode,
            reason: Reason::new(code(event.reason), message),
            matched,
            count: 1,
            started,
        };
        let mut decision = self.decision(&current, draft);
        decision.time = time;
        self.recorder().write(decision).await
    }

    /// What the policy says of a flow that no rule in force allows, where one on paper would: the gate
    /// knows nothing of those. Only of the policy under which the verdict fell, while that is in force.
    fn on_paper(
        &self,
        event: &Event,
        client: &Client,
        action: &Action,
        current: &Policy,
    ) -> Option<Ruling> {
        if event.reason != reason::NO_RULE || action.host.is_none() && action.ip.is_none() {
            return None;
        }
        let policy = self.policies().generation(event.generation)?;
        let agent = self.agent(&policy, client.agent).ok()?;
        let target = Target {
            host: action.host.clone(),
            ip: action.ip,
            port: action.port?,
        };
        let moment = self.moment(client);
        let facts = Facts {
            transport: action.transport?,
            ..moment.facts(&target, Seen::NotYet)
        };
        let ruling = policy.decide(agent, &facts);
        let grants = ruling.reason.code == ReasonCode::NoRule && !ruling.matched.is_empty();
        (grants && policy.version() == current.version()).then_some(ruling)
    }

    /// Records what an agent has open that sends past the gate and cannot be closed. `what` it is, and a
    /// sentence.
    ///
    /// # Errors
    /// [`RecordRefused`]: it goes on all the same.
    pub async fn left_open(
        &self,
        agent: AgentId,
        kind: ActionKind,
        what: String,
        sentence: String,
    ) -> Result<DecisionId, RecordRefused> {
        let started = Instant::now();
        let current = self.policies().current();
        let client = Client {
            agent,
            run: 0,
            process: Process {
                pid: 0,
                uid: 0,
                comm: String::new(),
                exe: None,
            },
        };
        let mode = self
            .directory()
            .name(agent)
            .and_then(|name| current.agent(&name).map(|agent| agent.mode))
            .unwrap_or(Mode::Enforce);
        let draft = Draft {
            client: Some(&client),
            layer: Layer::Kernel,
            action: Action {
                method: Some(what),
                ..Action::new(kind)
            },
            verdict: Verdict::Allow,
            enforced: true,
            mode,
            reason: Reason::new(ReasonCode::LeftOpen, format!("{sentence}.")),
            matched: Vec::new(),
            count: 1,
            started,
        };
        let decision = self.decision(&current, draft);
        self.recorder().write(decision).await
    }

    /// Notes the end of a direct flow.
    pub fn kernel_closed(&self, id: DecisionId, event: &Event, since: Instant) {
        let outcome = Outcome {
            bytes: Bytes {
                sent: event.sent_bytes,
                received: event.received_bytes,
            },
            messages: None,
            duration_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
            status: None,
            llm: None,
            tool: None,
            budget: Vec::new(),
            error: None,
        };
        self.recorder().outcome(id, outcome);
    }
}

fn action(event: &Event, host: Option<HostName>, unix: Option<String>) -> Action {
    let transport = match event.protocol {
        6 => Some(Transport::Tcp),
        17 => Some(Transport::Udp),
        _ => None,
    };
    let remote = std::net::IpAddr::from(event.remote);
    let kind = match (event.kind, transport) {
        (kind::SOCKET, _) => ActionKind::Socket,
        (kind::DEVICE, _) => ActionKind::Device,
        (kind::PROCESS, _) => ActionKind::Process,
        (kind::INBOUND, _) => ActionKind::Inbound,
        (_, Some(Transport::Udp)) => ActionKind::Datagram,
        _ => ActionKind::Connect,
    };
    if kind == ActionKind::Process {
        return Action {
            method: Some(format!("process {}", event.socket)),
            ..Action::new(kind)
        };
    }
    if kind == ActionKind::Socket {
        return Action {
            method: Some(format!(
                "family {} type {} protocol {}",
                event.family, event.socket_type, event.protocol
            )),
            path: unix,
            ..Action::new(kind)
        };
    }
    if kind == ActionKind::Device {
        let (major, minor) = (event.family, event.socket_type);
        return Action {
            method: Some(format!("character device {major}:{minor}")),
            path: device::dynamic_name(event.protocol)
                .or_else(|| device::name(major.into(), minor.into()))
                .map(str::to_owned),
            ..Action::new(kind)
        };
    }
    Action {
        transport,
        // A virtual address means nothing to a reader of the record.
        ip: (!event.remote.is_virtual()).then_some(remote),
        port: Some(if kind == ActionKind::Inbound {
            event.local_port
        } else {
            event.remote_port
        }),
        host,
        ..Action::new(kind)
    }
}

/// When an event happened: events that waited in the ring buffer, as while no daemon ran, are older
/// than their record.
fn happened(event: &Event, now: Timestamp) -> Timestamp {
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let since_boot = i128::from(clock.tv_sec) * 1_000_000_000 + i128::from(clock.tv_nsec);
    let age = since_boot - i128::from(event.time_ns);
    match i64::try_from(age) {
        Ok(age) if age > 0 && event.time_ns != 0 => now
            .checked_sub(SignedDuration::from_nanos(age))
            .unwrap_or(now),
        _ => now,
    }
}

/// The stable code of a reason of the gate.
fn code(why: u8) -> ReasonCode {
    match why {
        reason::RULE_ALLOW | reason::LOCAL | reason::RESOLVER | reason::PROXY => {
            ReasonCode::RuleAllow
        }
        reason::TOLERATED => ReasonCode::Tolerated,
        reason::NO_RULE => ReasonCode::NoRule,
        reason::RULE_DENY => ReasonCode::RuleDeny,
        reason::LOOPBACK => ReasonCode::LoopbackNotOwn,
        reason::GUARD => ReasonCode::GuardSocket,
        reason::NOT_ANSWERED => ReasonCode::NameNotAnswered,
        reason::NO_LISTENER => ReasonCode::NoListener,
        reason::QUARANTINED => ReasonCode::Quarantined,
        reason::DATAGRAM => ReasonCode::DatagramNotProxied,
        reason::DAEMON_LOST => ReasonCode::DaemonLost,
        reason::SOCKET_TYPE => ReasonCode::SocketNotAllowed,
        reason::NO_AGENT => ReasonCode::NoAgent,
        reason::MAP_FULL => ReasonCode::MapFull,
        reason::INBOUND => ReasonCode::InboundNotAllowed,
        reason::UNPARSABLE => ReasonCode::PacketUnparsable,
        reason::UNKNOWN_SOCKET | reason::ADOPTED => ReasonCode::SocketUnknown,
        reason::METADATA => ReasonCode::MetadataService,
        reason::NO_ADDRESS => ReasonCode::NoAddress,
        reason::NO_UPLINK => ReasonCode::NoUplink,
        reason::DEVICE => ReasonCode::BoundToDevice,
        reason::UNIX_SOCKET => ReasonCode::UnixSocketNotAllowed,
        reason::DEVICE_FILE => ReasonCode::DeviceNotAllowed,
        reason::PROCESS => ReasonCode::ProcessNotAllowed,
        reason::MULTICAST => ReasonCode::MulticastNotAllowed,
        reason::OPTION => ReasonCode::OptionNotAllowed,
        reason::QUOTA_SENT | reason::QUOTA_RECEIVED => ReasonCode::QuotaBytes,
        reason::CONNECTION_RATE => ReasonCode::RateConnections,
        _ => ReasonCode::Internal,
    }
}

/// What of a quota is used up, and when there is more of it: nothing for what is about none of its limits. The same
/// for all that is refused in a window, so that it is one record.
fn over(why: u8, quota: &Quota, time: Timestamp) -> Option<String> {
    let bytes = |limit: Option<u64>, done: &str, does: &str, key: &str| {
        let limit = size(limit?);
        let until = match quota.every.around(time) {
            Some((_, next)) => format!("in a {}; there is more from {next} on", quota.every),
            None => "in all".to_owned(),
        };
        Some(format!(
            "The agent has {done} the {limit} (`{key}`) that its quota lets it {does} {until}."
        ))
    };
    match why {
        reason::QUOTA_SENT => bytes(quota.bytes_out, "sent", "send", "bytes_out"),
        reason::QUOTA_RECEIVED => bytes(quota.bytes_in, "received", "receive", "bytes_in"),
        reason::CONNECTION_RATE => {
            let rate = quota.connections?;
            Some(format!(
                "The agent begins more connections than its quota lets it: {} a second, and {} at once.",
                rate.per_second, rate.burst
            ))
        }
        _ => None,
    }
}

/// A number of bytes as it is written in a policy: in the largest unit of which it is a whole number.
fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.iter().find(|(shift, _)| {
        let rest = bytes & ((1 << shift) - 1);
        bytes > 0 && rest == 0
    });
    match unit {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

/// The sentence for the person who meets it.
fn sentence(event: &Event, action: &Action) -> String {
    let place = match (&action.host, action.ip) {
        (Some(host), _) => format!("{host}:{}", event.remote_port),
        (None, Some(ip)) => std::net::SocketAddr::new(ip, event.remote_port).to_string(),
        (None, None) => {
            let ip = std::net::IpAddr::from(event.remote);
            std::net::SocketAddr::new(ip, event.remote_port).to_string()
        }
    };
    match event.reason {
        reason::RULE_ALLOW | reason::LOCAL | reason::RESOLVER | reason::PROXY => {
            format!("A rule allows {place}.")
        }
        reason::TOLERATED => {
            "The connection was there when the cgroup was adopted, and goes on until it ends: the policy tolerates that, and nobody decided on it."
                .to_owned()
        }
        reason::NO_RULE => format!("No rule allows {place}."),
        reason::RULE_DENY => format!("A rule denies {place}."),
        reason::LOOPBACK => {
            format!("{place} is a local port that this agent did not open, and no rule allows it.")
        }
        reason::GUARD => format!("{place} is a port of the guard itself."),
        reason::NOT_ANSWERED => format!(
            "{place} stands for no name that this agent resolved; it has to resolve the name itself."
        ),
        reason::NO_LISTENER => "The guard does not listen in this network namespace.".to_owned(),
        reason::QUARANTINED => "The agent is quarantined.".to_owned(),
        reason::DATAGRAM => format!(
            "{place} is decided by the proxy, which takes TCP only; a rule with `transport: [udp]` and `handling: direct` would allow datagrams."
        ),
        reason::DAEMON_LOST => {
            "The daemon was not running or could not record, and this agent's direct flows stop with it.".to_owned()
        }
        reason::SOCKET_TYPE => {
            "Agents get UNIX sockets, and TCP and UDP over IP, and no other kind.".to_owned()
        }
        reason::UNIX_SOCKET => match action.path.as_deref() {
            Some(name) if !name.is_empty() => format!(
                "{name} is a UNIX socket of a program outside this agent, which it does not talk to."
            ),
            _ => "This is a UNIX socket of a program outside the agent, which it does not talk to.".to_owned(),
        },
        reason::DEVICE_FILE => format!(
            "{} sends past every socket, or works for the whole host; agents do not get it.",
            action.path.as_deref().unwrap_or("The device")
        ),
        reason::NO_AGENT => "The process is under the gate and belongs to no agent.".to_owned(),
        reason::MAP_FULL if action.transport == Some(Transport::Udp) => {
            "As many of this agent's queries for names wait for an answer as may (512), the datagram is longer than a \
             query, or a map of the gate is full."
                .to_owned()
        }
        reason::MAP_FULL => {
            "So much of this agent's waits to be accepted or read that no more has room, or a map of the \
             gate is full."
                .to_owned()
        }
        reason::INBOUND => format!("No rule lets {place} reach a port of this agent."),
        reason::UNPARSABLE => {
            "A packet was neither plain TCP nor plain UDP, or had options that agents do not get."
                .to_owned()
        }
        reason::UNKNOWN_SOCKET => {
            "The socket was made or connected where the gate did not see it.".to_owned()
        }
        reason::ADOPTED => {
            "The socket was open before its cgroup had this gate, and was closed.".to_owned()
        }
        reason::PROCESS => format!(
            "Process {} is outside of this agent, which does not look into it or take it over.",
            event.socket
        ),
        reason::MULTICAST => {
            "Agents join no multicast group and choose no sources: the kernel would tell the network by itself."
                .to_owned()
        }
        reason::OPTION => {
            "Agents set no socket option that gives an address which is not this host's (IP_FREEBIND, IP_TRANSPARENT), or that chooses among the sockets of a port (SO_ATTACH_REUSEPORT_CBPF)."
                .to_owned()
        }
        // The quota was another one by the time that this was read.
        reason::QUOTA_SENT => "The agent has sent as many bytes as its quota let it.".to_owned(),
        reason::QUOTA_RECEIVED => {
            "The agent has received as many bytes as its quota let it.".to_owned()
        }
        reason::CONNECTION_RATE => {
            "The agent began more connections than its quota let it.".to_owned()
        }
        reason::METADATA => format!("{place} is a metadata service."),
        reason::NO_UPLINK => format!(
            "A rule allows datagrams to {place}, but nothing leaves an isolated run except through the proxy, which takes TCP only."
        ),
        reason::NO_ADDRESS => {
            format!("{place} has no address of the family that was dialled.")
        }
        reason::DEVICE => format!(
            "{place} is reached over loopback, and the socket is bound to another network device."
        ),
        other => format!("The gate gave a reason that this program does not know ({other})."),
    }
}

/// NUL-padded text, as far as it is text.
fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

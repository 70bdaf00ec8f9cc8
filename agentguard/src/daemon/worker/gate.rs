//! The gate's view, shared between the resolver and the proxy.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use agentguard_common::address::Address;
use agentguard_common::map::{Origin, OriginKey, TCP, UDP};
use agentguard_keeper::gate::view::{Listener, View};
use agentguard_model::{AgentId, Process, Transport};

/// Look-ups are one system call each, under a lock that nobody waits in.
pub(super) struct Gate {
    view: Mutex<View>,
}

impl Gate {
    pub(super) fn new(view: View) -> Self {
        Self {
            view: Mutex::new(view),
        }
    }

    /// Where a redirected socket was to go. A TCP connection's is forgotten: it is accepted once.
    pub(super) fn origin(
        &self,
        listener: Listener,
        netns: u64,
        peer: SocketAddr,
        transport: Transport,
    ) -> Option<Origin> {
        let key = OriginKey {
            netns,
            address: Address::from(peer.ip()),
            port: peer.port(),
            transport: match transport {
                Transport::Tcp => TCP,
                Transport::Udp => UDP,
            },
            _pad: [0; 5],
        };
        let mut view = self.view();
        let origin = match view.origin(listener, &key) {
            Ok(origin) => origin?,
            Err(error) => {
                tracing::error!(%error, "cannot read an original destination");
                return None;
            }
        };
        if transport == Transport::Tcp
            && let Err(error) = view.forget_origin(listener, &key, &origin)
        {
            tracing::warn!(%error, "cannot forget an original destination");
        }
        Some(origin)
    }

    /// The process behind an origin.
    pub(super) fn process(&self, origin: &Origin) -> Process {
        let comm = origin
            .comm
            .split(|byte| *byte == 0)
            .next()
            .map(|name| String::from_utf8_lossy(name).into_owned());
        Process {
            pid: origin.pid,
            uid: origin.uid,
            comm: comm.unwrap_or_default(),
            exe: self.executable(origin.pid),
        }
    }

    /// The path that a process was executed from.
    pub(super) fn executable(&self, pid: u32) -> Option<String> {
        self.view().executable(pid)
    }

    /// What an agent has sent and received, and the packets of its that were refused; `None`: nobody can say.
    pub(super) fn traffic(&self, agent: AgentId) -> Option<(u64, u64, u64)> {
        let counters = self.view().counters(agent.0).ok()?;
        Some((
            counters.sent_bytes,
            counters.received_bytes,
            counters.denied,
        ))
    }

    /// The agent of an origin, and its run.
    pub(super) fn owner(origin: &Origin) -> (AgentId, u32) {
        (AgentId(origin.agent), origin.run)
    }

    /// Forgets what nobody will accept any more.
    pub(super) fn sweep(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        match self
            .view()
            .sweep_origins(seconds.saturating_mul(1_000_000_000))
        {
            Ok(0) => {}
            Ok(count) => {
                tracing::debug!(count, "forgot original destinations that nobody accepted");
            }
            Err(error) => tracing::warn!(%error, "cannot sweep original destinations"),
        }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Tools on agents' own hosts: whose a question is, and who answers.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use agentguard_decision::Decider;
use agentguard_local::Port;
use agentguard_model::AgentId;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Recorded;
use super::gate::Gate;
use super::link::Link;

struct LocalPort {
    gate: Arc<Gate>,
    link: Link,
}

impl Port for LocalPort {
    async fn whose(&self, cgroup: &str) -> Option<(AgentId, u32)> {
        self.link.whose(cgroup).await
    }

    fn executable(&self, pid: u32) -> Option<String> {
        self.gate.executable(pid)
    }
}

/// Answers agents on this listener until `shutdown`.
pub(super) fn serve(
    listener: OwnedFd,
    decider: &Decider<Recorded>,
    gate: &Arc<Gate>,
    link: &Link,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let listener = UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let port = LocalPort {
        gate: gate.clone(),
        link: link.clone(),
    };
    let serving = agentguard_local::serve(listener, decider.clone(), port, shutdown.clone());
    tasks.spawn(serving);
    Ok(())
}

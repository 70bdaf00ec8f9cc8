//! Figures and traces: where they come from in this process, and where they go.

use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agentguard_budget::AnyLedger;
use agentguard_control::api::{AgentStatus, GuardStatus, TelemetryStatus};
use agentguard_control::peer::judge_stream;
use agentguard_decision::Policies;
use agentguard_keeper::groups::Groups;
use agentguard_keeper::message::Reloads;
use agentguard_model::Telemetry;
use agentguard_names::Names;
use agentguard_proxy::Shared;
use agentguard_record::Record;
use agentguard_telemetry::otlp::client::Client;
use agentguard_telemetry::prometheus::{self, Listening};
use agentguard_telemetry::{AgentVitals, Counting, Feed, Figures, Spans, Vitals, otlp, parts};
use anyhow::Context as _;
use rustix::net::AddressFamily;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Recorded;
use super::budgets;
use super::gate::Gate;
use super::ledger;

/// How long the last figures may take when the worker stops.
const LAST: Duration = Duration::from_secs(3);

/// What the keeper tells that figures are made of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeeperFigures {
    pub(super) workers: u64,
    pub(super) reloads: Reloads,
}

/// What figures are asked of.
pub(super) struct Asked {
    pub(super) record: Record,
    pub(super) policies: Arc<Policies>,
    pub(super) ledger: AnyLedger,
    pub(super) budgets: budgets::Figures,
    pub(super) guard: watch::Receiver<GuardStatus>,
    pub(super) agents: watch::Receiver<Vec<AgentStatus>>,
    pub(super) keeper: watch::Receiver<KeeperFigures>,
    pub(super) gate: Arc<Gate>,
    pub(super) upstreams: Arc<Shared<Recorded>>,
    pub(super) names: Names,
    /// Direct flows that are under way.
    pub(super) direct: Arc<AtomicUsize>,
}

/// Telemetry, where the configuration asks for it.
pub(super) struct Telling {
    said: Telemetry,
    figures: Figures,
    /// Until it is started.
    start: Option<(Counting, Spans)>,
    listener: Option<OwnedFd>,
    tasks: TaskTracker,
    over: CancellationToken,
}

impl Telling {
    /// Nothing, where nothing is asked for. Gives what the record is to be wrapped in, too.
    pub(super) fn new(said: &Telemetry, listener: Option<OwnedFd>) -> (Option<Self>, Option<Feed>) {
        if said.prometheus.is_none() && said.otlp.is_none() {
            return (None, None);
        }
        let (feed, figures, counting, spans) = parts(said.otlp.is_some());
        let telling = Self {
            said: said.clone(),
            figures,
            start: Some((counting, spans)),
            listener,
            tasks: TaskTracker::new(),
            over: CancellationToken::new(),
        };
        (Some(telling), Some(feed))
    }

    /// Counts, serves and sends from now on.
    pub(super) fn start(
        &mut self,
        asked: Asked,
        governed: watch::Receiver<Vec<String>>,
        groups: Groups,
    ) -> anyhow::Result<()> {
        let Some((counting, spans)) = self.start.take() else {
            return Ok(());
        };
        self.figures.asks(Arc::new(move || asked.vitals()));
        self.tasks.spawn(counting.run(self.over.clone()));
        if let Some(listener) = self.listener.take() {
            let listening = listening(listener, governed, groups)
                .context("cannot answer where figures are asked for")?;
            let serving = prometheus::serve(listening, self.figures.clone(), self.over.clone());
            self.tasks.spawn(serving);
        }
        if let Some(otlp) = self.said.otlp.clone() {
            let (figures, over) = (self.figures.clone(), self.over.clone());
            self.tasks.spawn(send(otlp, figures, spans, over));
        }
        Ok(())
    }

    /// How it is doing, for `status`.
    pub(super) fn status(&self) -> TelemetryStatus {
        let health = self.figures.health();
        let otlp = self.said.otlp.as_ref();
        TelemetryStatus {
            prometheus: self.said.prometheus.clone(),
            otlp: otlp.map(|otlp| otlp.endpoint.to_string()),
            sent: health.sent,
            failed: health.failed,
            error: health.error,
            lost_notes: health.lost_notes,
            lost_spans: health.lost_spans,
        }
    }

    /// Ends it. What is left is sent once more, if that is quick.
    pub(super) async fn end(self) {
        self.over.cancel();
        self.tasks.close();
        drop(tokio::time::timeout(LAST, self.tasks.wait()).await);
    }
}

/// Of either kind; who may ask at a socket in the file system is looked at as at the control socket.
fn listening(
    listener: OwnedFd,
    governed: watch::Receiver<Vec<String>>,
    groups: Groups,
) -> anyhow::Result<Listening> {
    let address = rustix::net::getsockname(listener.as_fd())?;
    if address.address_family() != AddressFamily::UNIX {
        let listener = TcpListener::from(listener);
        listener.set_nonblocking(true)?;
        return Ok(Listening::Tcp(tokio::net::TcpListener::from_std(listener)?));
    }
    let listener = UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    let may_read = move |stream: &tokio::net::UnixStream| {
        let Ok(stream) = stream.as_fd().try_clone_to_owned() else {
            return false;
        };
        match judge_stream(stream, &governed.borrow(), &groups) {
            Ok(rights) => rights.read,
            Err(refusal) => {
                tracing::debug!(%refusal, "somebody may not read the figures");
                false
            }
        }
    };
    let listener = tokio::net::UnixListener::from_std(listener)?;
    Ok(Listening::Unix(listener, Arc::new(may_read)))
}

/// Sends to a collector. One that cannot be spoken to is told in the log, and the guard goes on.
async fn send(
    said: agentguard_model::Otlp,
    figures: Figures,
    spans: Spans,
    over: CancellationToken,
) {
    let prepared = tokio::task::spawn_blocking(move || {
        // Some hundred files, only where they are needed.
        let system = match said.endpoint.tls {
            true => rustls_native_certs::load_native_certs().certs,
            false => Vec::new(),
        };
        Client::new(&said, &system).map(|client| (client, said))
    });
    match prepared.await {
        Ok(Ok((client, said))) => otlp::send(said, client, figures, spans, over).await,
        Ok(Err(why)) => tracing::error!(why, "nothing is sent to the collector"),
        Err(error) => tracing::error!(%error, "nothing is sent to the collector"),
    }
}

impl Asked {
    fn vitals(&self) -> Vitals {
        let many = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let record = self.record.status();
        let guard = self.guard.borrow().clone();
        let keeper = *self.keeper.borrow();
        let agents = self.agents.borrow().clone();
        let (budgets, accounts) = self.budgets.vitals(&self.policies.current());
        Vitals {
            budgets,
            budget_accounts: accounts,
            ledger: ledger::vitals(&self.ledger),
            policy: guard.policy.version,
            policy_loaded: u64::try_from(guard.policy.loaded.as_second()).unwrap_or(0),
            reloads: (keeper.reloads.taken, keeper.reloads.refused),
            worker_starts: keeper.workers,
            leaves: (guard.leaves.signed, guard.leaves.refused),
            agents: agents.iter().map(|agent| self.agent(agent)).collect(),
            proxied: many(self.upstreams.clients()),
            direct: many(self.direct.load(Ordering::Relaxed)),
            virtual_addresses: many(self.names.addressed()),
            record_waiting: many(self.record.waiting()),
            record_entries: record.entries,
            record_bytes: record.bytes,
            record_index_lag: record.index_lag,
            record_degraded: record.degraded.is_some(),
            record_gaps: (record.gaps, record.lost),
            record_refused: (record.refused, record.refused_by_quota),
            version: guard.version,
        }
    }

    fn agent(&self, agent: &AgentStatus) -> AgentVitals {
        AgentVitals {
            name: agent.name.to_string(),
            quarantined: agent.quarantine.is_some(),
            runs: agent.runs.into(),
            traffic: agent.id.and_then(|id| self.gate.traffic(id)),
            resources: agent.resources.clone(),
        }
    }
}

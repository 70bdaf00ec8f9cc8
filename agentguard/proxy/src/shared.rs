//! What all listeners share.

use std::sync::Arc;

use agentguard_decision::Recorder;
use agentguard_model::{AgentId, HostName};
use rustls::pki_types::CertificateDer;

use crate::carried::Carried;
use crate::decoders::Decoders;
use crate::event_loops::EventLoops;
use crate::health::Health;
use crate::http::{Pool, Sessions, Streams};
use crate::{Limits, Tls};

/// Threads, TLS, bounds, the upstream connections that wait (an agent can come in at several listeners), and
/// which addresses are ill.
pub struct Shared<R: Recorder> {
    pub(crate) loops: EventLoops,
    pub(crate) tls: Arc<Tls>,
    pub(crate) limits: Limits,
    pub(crate) pool: Arc<Pool<R>>,
    pub(crate) health: Arc<Health>,
    pub(crate) decoders: Arc<Decoders>,
    pub(crate) carried: Arc<Carried>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) streams: Arc<Streams>,
}

impl<R: Recorder> Shared<R> {
    /// For as many listeners as there will be, whose connections are carried by `loops`.
    #[must_use]
    pub fn new(tls: Tls, limits: Limits, loops: EventLoops) -> Self {
        Self {
            loops,
            tls: Arc::new(tls),
            pool: Arc::new(Pool::new(&limits)),
            health: Arc::new(Health::new(limits.ill)),
            decoders: Arc::default(),
            carried: Arc::default(),
            sessions: Arc::default(),
            streams: Arc::default(),
            limits,
        }
    }

    /// Upstreams have to be certified by one of `system`, or as their entry says. Until this is told
    /// connections that are inspected wait. Blocks: a key is made, hundreds of certificates are read.
    ///
    /// # Errors
    /// No key can be made, or a certificate or a key of an entry cannot be read.
    pub fn trust(&self, system: &[CertificateDer<'static>]) -> Result<(), String> {
        self.tls.trust(system)
    }

    /// Waits until nothing is under way for an agent, on either side. It ends by itself only once that is
    /// quarantined.
    pub async fn cut(&self, agent: AgentId) {
        self.carried.none(agent).await;
    }

    /// Ends once each thread that carries connections has had a turn: one that stands still keeps it waiting.
    pub fn turn(&self) -> impl Future<Output = ()> + Send + use<R> {
        self.loops.turn()
    }

    /// How many connections of clients are carried.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.carried.clients()
    }

    /// How many connections of clients are carried that do not rest, and so keep more than they have to.
    #[must_use]
    pub fn awake(&self) -> usize {
        self.carried.awake()
    }

    /// Whether a name is reached through an HTTP proxy, which resolves it.
    #[must_use]
    pub fn is_behind_proxy(&self, name: &HostName) -> bool {
        self.tls.upstreams.is_behind_proxy(name)
    }
}

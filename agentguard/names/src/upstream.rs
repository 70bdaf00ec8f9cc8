//! Asking the configured name servers.
//!
//! One hickory resolver for each server, so that a server that is silent or answers SERVFAIL is
//! followed by the next one, as clients expect of a list of servers; the one that answered last is
//! asked first. UDP, and TCP where an answer is truncated; CNAME chains are followed.
//!
//! - What is kept of an answer is small and counted: addresses and stripped HTTPS records, at most
//!   [`MAX_RECORDS`]. So the cache is bounded in bytes, not only in entries.
//! - Positive answers live for their TTL, negative ones for the SOA's (RFC 2308), failures for a
//!   few seconds (RFC 9520), each below a configured bound.
//! - One question is under way once, whoever waits for it; a question whose askers are gone
//!   is still finished, so that its answer serves the next one.
//!
//! **Invariant:** nothing here looks at what an address is; [`crate::guard`] does.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentguard_model::HostName;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{HTTPS, SVCB};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use quick_cache::sync::Cache;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::service;

/// Records kept of one answer. What a server sends beyond is dropped.
pub const MAX_RECORDS: usize = 16;
/// CNAMEs followed within one answer.
const MAX_CHAIN: usize = 16;

/// How upstream is asked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name servers, in order of preference. At most four are used, as more cannot be asked
    /// within [`Self::deadline`].
    pub servers: Vec<SocketAddr>,
    /// How long one server may take, retransmission included.
    pub server_timeout: Duration,
    /// How long all of them may take. Below the 5 s after which glibc and musl ask again.
    pub deadline: Duration,
    /// Answers in the cache. When it is full the least used one goes and is asked for again.
    pub cache_entries: usize,
    /// The longest life of an answer.
    pub max_ttl: Duration,
    /// The longest life of "no such name" and "no such record".
    pub max_negative_ttl: Duration,
    /// The life of a failure (RFC 9520: at least 1 s).
    pub failure_ttl: Duration,
    /// Questions under way. Beyond, one that is not under way yet fails with `limit_reached`. A name has two, and a query
    /// is answered by the first that finds something: who asks for names of silent servers can have more than it has queries.
    pub in_flight: usize,
}

impl Config {
    /// The defaults for these servers.
    #[must_use]
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            server_timeout: Duration::from_millis(1500),
            deadline: Duration::from_millis(4500),
            cache_entries: 16_384,
            max_ttl: Duration::from_secs(3600),
            max_negative_ttl: Duration::from_secs(300),
            failure_ttl: Duration::from_secs(2),
            in_flight: 4096,
        }
    }
}

/// Why upstream cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The list is empty.
    #[error("no name server is configured; set `resolvers` or give the host an /etc/resolv.conf")]
    NoServers,
    /// A resolver could not be made.
    #[error("name server {server}: {what}")]
    Server {
        /// For this server.
        server: SocketAddr,
        /// Why.
        what: String,
    },
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Wanted {
    A,
    Aaaa,
    Https,
    Svcb,
}

impl Wanted {
    const fn record_type(self) -> RecordType {
        match self {
            Self::A => RecordType::A,
            Self::Aaaa => RecordType::AAAA,
            Self::Https => RecordType::HTTPS,
            Self::Svcb => RecordType::SVCB,
        }
    }
}

/// Records of one type for a name, at the end of its chain.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    pub(crate) addresses: Vec<IpAddr>,
    /// Stripped; none where nothing useful was left of those there are.
    pub(crate) services: Vec<SVCB>,
}

/// Why there are none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Failure {
    /// The name exists; this type does not.
    NoData,
    /// The name does not exist.
    NoName,
    /// Too many questions are under way.
    Busy,
    /// No server gave an answer that can be used.
    Failed(String),
}

/// What is known, and until when.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) result: Result<Arc<Records>, Failure>,
    pub(crate) expires: Instant,
}

impl Known {
    /// How long it may still be told.
    pub(crate) fn ttl(&self) -> Duration {
        self.expires.saturating_duration_since(Instant::now())
    }
}

type Key = (HostName, Wanted);

/// The name servers, and what they said. Cheap to clone.
#[derive(Clone)]
pub struct Upstream {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    /// Where questions are asked: whoever asks first may be busy with something else.
    runtime: Handle,
    servers: Vec<(SocketAddr, TokioResolver)>,
    /// The server that answered last.
    preferred: AtomicUsize,
    cache: Cache<Key, Known>,
    flights: Mutex<HashMap<Key, watch::Receiver<Option<Known>>>>,
    permits: Arc<Semaphore>,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

impl Upstream {
    /// Sets up the resolvers; asks nothing yet. What is asked is asked on the runtime that calls this.
    ///
    /// # Errors
    /// See [`SetupError`].
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn new(config: Config) -> Result<Self, SetupError> {
        let servers = config
            .servers
            .iter()
            .take(4)
            .map(|server| Ok((*server, resolver(*server, config.server_timeout)?)))
            .collect::<Result<Vec<_>, SetupError>>()?;
        if servers.is_empty() {
            return Err(SetupError::NoServers);
        }
        Ok(Self {
            inner: Arc::new(Inner {
                runtime: Handle::current(),
                servers,
                preferred: AtomicUsize::new(0),
                cache: Cache::new(config.cache_entries),
                flights: Mutex::default(),
                permits: Arc::new(Semaphore::new(config.in_flight)),
                config,
            }),
        })
    }

    /// What the servers say, or said not long ago.
    ///
    /// # Cancel safety
    /// If dropped, the question goes on and its answer is cached.
    pub(crate) async fn lookup(&self, name: &HostName, wanted: Wanted) -> Known {
        let key = (name.clone(), wanted);
        if let Some(known) = self.inner.cache.get(&key) {
            if known.expires > Instant::now() {
                return known;
            }
            self.inner
                .cache
                .remove_if(&key, |cached| cached.expires <= Instant::now());
        }
        let mut flight = match self.join(key) {
            Ok(flight) => flight,
            Err(busy) => return busy,
        };
        match flight.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(known)) => known.clone(),
            // The task that asked is gone without a word: it panicked, or the runtime shuts down.
            _ => self.failed("the question was abandoned".to_owned()),
        }
    }

    /// The flight of a question; a new one if none is under way.
    fn join(&self, key: Key) -> Result<watch::Receiver<Option<Known>>, Known> {
        let mut flights = self.inner.flights();
        if let Some(flight) = flights.get(&key) {
            return Ok(flight.clone());
        }
        let Ok(permit) = Arc::clone(&self.inner.permits).try_acquire_owned() else {
            return Err(Known {
                result: Err(Failure::Busy),
                expires: Instant::now(),
            });
        };
        let (landed, flight) = watch::channel(None);
        flights.insert(key.clone(), flight.clone());
        let this = self.clone();
        self.inner.runtime.spawn(async move {
            let _permit = permit;
            // Removes the flight also if asking panics.
            let landing = Landing {
                inner: Arc::clone(&this.inner),
                key,
            };
            let known = this.ask(&landing.key.0, landing.key.1).await;
            this.inner.cache.insert(landing.key.clone(), known.clone());
            drop(landing);
            landed.send_replace(Some(known));
        });
        Ok(flight)
    }

    async fn ask(&self, name: &HostName, wanted: Wanted) -> Known {
        let Ok(question) = Name::from_ascii(format!("{name}.")) else {
            return self.failed("the name cannot be asked for".to_owned());
        };
        let count = self.inner.servers.len();
        let first = self.inner.preferred.load(Ordering::Relaxed);
        let deadline = Instant::now() + self.inner.config.deadline;
        let mut why = String::new();
        for index in (0..count).map(|step| (first + step) % count) {
            let Some((server, resolver)) = self.inner.servers.get(index) else {
                continue;
            };
            // Twice the timeout: one retransmission.
            let until = deadline.min(Instant::now() + self.inner.config.server_timeout * 2);
            let lookup = resolver.lookup(question.clone(), wanted.record_type());
            let said = match tokio::time::timeout_at(until, lookup).await {
                Ok(said) => self.understand(said, &question, wanted),
                Err(_) => Err("no answer in time".to_owned()),
            };
            match said {
                Ok(known) => {
                    self.inner.preferred.store(index, Ordering::Relaxed);
                    return known;
                }
                Err(what) => {
                    tracing::debug!(%server, %name, %what, "a name server failed");
                    why = format!("{server}: {what}");
                }
            }
        }
        self.failed(why)
    }

    /// What an answer means; the error is this server's failure.
    fn understand(
        &self,
        said: Result<Lookup, NetError>,
        question: &Name,
        wanted: Wanted,
    ) -> Result<Known, String> {
        match said {
            Ok(lookup) => Ok(self.found(&lookup, question, wanted)),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
                ResponseCode::NXDomain => Ok(self.negative(Failure::NoName, none.negative_ttl)),
                ResponseCode::NoError => Ok(self.negative(Failure::NoData, none.negative_ttl)),
                code => Err(code.to_string()),
            },
            Err(NetError::Dns(DnsError::ResponseCode(code))) => Err(code.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Walks the chain from the question and takes what stands at its end, and nothing else that
    /// an answer may carry.
    fn found(&self, lookup: &Lookup, question: &Name, wanted: Wanted) -> Known {
        let mut owner = question;
        let mut ttl = u32::MAX;
        for _ in 0..MAX_CHAIN {
            let alias = lookup
                .answers()
                .iter()
                .find_map(|record| match &record.data {
                    RData::CNAME(target) if record.name == *owner => Some((&target.0, record.ttl)),
                    _ => None,
                });
            let Some((target, alias_ttl)) = alias else {
                break;
            };
            owner = target;
            ttl = ttl.min(alias_ttl);
        }
        let mut records = Records::default();
        let mut any = false;
        for record in lookup.answers() {
            if record.name != *owner || record.dns_class != DNSClass::IN {
                continue;
            }
            if records.addresses.len() + records.services.len() == MAX_RECORDS {
                break;
            }
            match (&record.data, wanted) {
                (RData::A(a), Wanted::A) => records.addresses.push(IpAddr::V4(a.0)),
                (RData::AAAA(aaaa), Wanted::Aaaa) => records.addresses.push(IpAddr::V6(aaaa.0)),
                (RData::HTTPS(HTTPS(svcb)), Wanted::Https) | (RData::SVCB(svcb), Wanted::Svcb) => {
                    records.services.extend(service::strip(svcb, question));
                }
                _ => continue,
            }
            any = true;
            ttl = ttl.min(record.ttl);
        }
        if !any {
            return self.negative(Failure::NoData, None);
        }
        let life = Duration::from_secs(u64::from(ttl)).min(self.inner.config.max_ttl);
        Known {
            result: Ok(Arc::new(records)),
            expires: Instant::now() + life,
        }
    }

    /// Without an SOA a negative answer is not kept (RFC 2308 §5).
    fn negative(&self, failure: Failure, ttl: Option<u32>) -> Known {
        let life = Duration::from_secs(u64::from(ttl.unwrap_or(0)));
        Known {
            result: Err(failure),
            expires: Instant::now() + life.min(self.inner.config.max_negative_ttl),
        }
    }

    fn failed(&self, why: String) -> Known {
        Known {
            result: Err(Failure::Failed(why)),
            expires: Instant::now() + self.inner.config.failure_ttl,
        }
    }
}

impl Inner {
    // Only whole insertions and removals happen under the lock.
    fn flights(&self) -> MutexGuard<'_, HashMap<Key, watch::Receiver<Option<Known>>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a flight when dropped.
struct Landing {
    inner: Arc<Inner>,
    key: Key,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.inner.flights().remove(&self.key);
    }
}

fn resolver(server: SocketAddr, timeout: Duration) -> Result<TokioResolver, SetupError> {
    let connections = [ProtocolConfig::Udp, ProtocolConfig::Tcp]
        .map(|protocol| {
            let mut connection = ConnectionConfig::new(protocol);
            connection.port = server.port();
            connection
        })
        .to_vec();
    let mut options = ResolverOpts::default();
    options.timeout = timeout;
    options.attempts = 1;
    options.num_concurrent_reqs = 1;
    options.edns0 = true;
    // The names of agents are the policy's, not those of the host's file.
    options.use_hosts_file = ResolveHosts::Never;
    // Answers are kept here, reduced to what is needed.
    options.cache_size = 0;
    options.preserve_intermediates = true;
    let config = ResolverConfig::from_parts(
        None,
        Vec::new(),
        vec![NameServerConfig::new(server.ip(), true, connections)],
    );
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build().map_err(|error| SetupError::Server {
        server,
        what: error.to_string(),
    })
}

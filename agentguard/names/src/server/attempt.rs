//! Which queries are one attempt.
//!
//! One `getaddrinfo` sends A and AAAA from one socket, musl sends each query to every name server
//! it knows, and everybody sends again what got no answer. All of these are one attempt to resolve
//! one name, and get one decision. An attempt is told by who asks (the socket's cookie; where that
//! is unknown, network namespace, address and port) and the name. In it, another record type joins,
//! and the same record type under the same DNS id is a retransmission; the same type under another
//! id is somebody asking anew, and begins the next attempt.
//!
//! A client that opens a socket for each query (`single-request-reopen`, TCP after truncation, Go)
//! makes an attempt with each.
//!
//! **Invariant:** one attempt has at most one decision that allows and one that denies.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentguard_model::{AgentId, DecisionId, HostName};
use hickory_proto::rr::RecordType;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::port::Published;

/// Record types in one attempt. The next one begins a new attempt; no client asks for as many.
const MAX_TYPES: usize = 8;

/// Where a query comes from, as far as attempts go.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Origin {
    Socket(u64),
    Peer { netns: u64, peer: SocketAddr },
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Key {
    pub(crate) agent: AgentId,
    pub(crate) origin: Origin,
    pub(crate) name: HostName,
}

/// One attempt.
#[derive(Debug)]
pub(crate) struct Attempt {
    began: Instant,
    queries: Mutex<Vec<(RecordType, u16)>>,
    allowed: OnceCell<DecisionId>,
    denied: OnceCell<DecisionId>,
    /// What the kernel was told in the course of it.
    pub(crate) published: OnceCell<Published>,
}

impl Attempt {
    fn new(record_type: RecordType, id: u16) -> Self {
        Self {
            began: Instant::now(),
            queries: Mutex::new(vec![(record_type, id)]),
            allowed: OnceCell::new(),
            denied: OnceCell::new(),
            published: OnceCell::new(),
        }
    }

    /// The decision with this verdict: whoever comes first makes it, the others wait for it. Two
    /// verdicts in one attempt are rare (a policy that changed in between; a TXT query beside an
    /// A query), and each must be in the record.
    pub(crate) const fn decision(&self, allows: bool) -> &OnceCell<DecisionId> {
        if allows { &self.allowed } else { &self.denied }
    }

    /// The record types asked for so far.
    pub(crate) fn types(&self) -> Vec<RecordType> {
        self.queries().iter().map(|(kind, _)| *kind).collect()
    }

    fn admit(&self, record_type: RecordType, id: u16, window: Duration) -> bool {
        if self.began.elapsed() >= window {
            return false;
        }
        let mut queries = self.queries();
        match queries.iter().find(|(kind, _)| *kind == record_type) {
            Some((_, known)) => *known == id,
            None if queries.len() == MAX_TYPES => false,
            None => {
                queries.push((record_type, id));
                true
            }
        }
    }

    fn queries(&self) -> MutexGuard<'_, Vec<(RecordType, u16)>> {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The attempts of the last seconds.
#[derive(Debug)]
pub(crate) struct Attempts {
    window: Duration,
    /// When it is reached, the oldest attempt is forgotten; a late retransmission of it is then
    /// decided and recorded once more.
    capacity: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    attempts: HashMap<Key, Arc<Attempt>>,
    /// In order of beginning. An entry whose attempt was replaced since is skipped.
    order: VecDeque<(Key, Arc<Attempt>)>,
}

impl Attempts {
    pub(crate) fn new(window: Duration, capacity: usize) -> Self {
        Self {
            window,
            capacity: capacity.max(1),
            table: Mutex::default(),
        }
    }

    /// The attempt that a query belongs to.
    pub(crate) fn join(&self, key: &Key, record_type: RecordType, id: u16) -> Arc<Attempt> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        while table.order.len() >= self.capacity
            || (table.order.front()).is_some_and(|(_, old)| old.began.elapsed() >= self.window)
        {
            let Some((old_key, old)) = table.order.pop_front() else {
                break;
            };
            if (table.attempts.get(&old_key)).is_some_and(|current| Arc::ptr_eq(current, &old)) {
                table.attempts.remove(&old_key);
            }
        }
        if let Some(attempt) = table.attempts.get(key)
            && attempt.admit(record_type, id, self.window)
        {
            return Arc::clone(attempt);
        }
        let attempt = Arc::new(Attempt::new(record_type, id));
        table.attempts.insert(key.clone(), Arc::clone(&attempt));
        table.order.push_back((key.clone(), Arc::clone(&attempt)));
        attempt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(socket: u64, name: &str) -> Key {
        Key {
            agent: AgentId(1),
            origin: Origin::Socket(socket),
            name: name.parse().unwrap(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_joins_and_what_begins_anew() {
        let attempts = Attempts::new(Duration::from_secs(5), 16);
        let first = attempts.join(&key(1, "a.example"), RecordType::A, 7);
        let same = |record_type, id| {
            Arc::ptr_eq(
                &first,
                &attempts.join(&key(1, "a.example"), record_type, id),
            )
        };
        assert!(same(RecordType::AAAA, 8), "another type joins");
        assert!(same(RecordType::A, 7), "a retransmission joins");
        assert!(same(RecordType::AAAA, 8));
        tokio::time::advance(Duration::from_millis(4999)).await;
        assert!(same(RecordType::A, 7), "within the window");
        for other in [key(2, "a.example"), key(1, "b.example")] {
            assert!(!Arc::ptr_eq(
                &first,
                &attempts.join(&other, RecordType::A, 7)
            ));
        }
        let anew = attempts.join(&key(1, "a.example"), RecordType::A, 9);
        assert!(!Arc::ptr_eq(&first, &anew), "another id is another attempt");
        assert_eq!(first.types(), [RecordType::A, RecordType::AAAA]);
        tokio::time::advance(Duration::from_secs(5)).await;
        let late = attempts.join(&key(1, "a.example"), RecordType::A, 9);
        assert!(!Arc::ptr_eq(&anew, &late), "the window is over");
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_forgets_the_oldest_and_the_expired() {
        let attempts = Attempts::new(Duration::from_secs(5), 3);
        let oldest = attempts.join(&key(1, "a.example"), RecordType::A, 1);
        for socket in 2..=4 {
            attempts.join(&key(socket, "a.example"), RecordType::A, 1);
        }
        assert_eq!(attempts.table.lock().unwrap().attempts.len(), 3);
        let again = attempts.join(&key(1, "a.example"), RecordType::A, 1);
        assert!(!Arc::ptr_eq(&oldest, &again));
        tokio::time::advance(Duration::from_secs(6)).await;
        attempts.join(&key(9, "a.example"), RecordType::A, 1);
        let table = attempts.table.lock().unwrap();
        assert_eq!((table.attempts.len(), table.order.len()), (1, 1));
    }
}

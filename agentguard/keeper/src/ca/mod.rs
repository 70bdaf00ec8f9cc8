//! The certificate authority behind inspection: made and kept here, never seen by the worker.
//!
//! The worker terminates TLS with keys of its own and asks for a certificate for each name; what it
//! gets lives for a day. [`Ca`] signs, rotates and remembers; `authority` is one certificate with its
//! key, `leaf` what is signed with it, `schedule` which authority signs when, `store` the file, and
//! `bucket` how much a worker may ask for.
//!
//! **Invariant:** a private key is in this process and in one file that only root can reach; a leaf
//! is for one name or one address that the policy has inspected, for a P-256 key, and outlives
//! neither a day nor its authority.

mod authority;
mod bucket;
mod leaf;
mod schedule;
mod store;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::message::{AuthorityInfo, LeafCounts, LeafSubject, SignedLeaf};
use authority::Authority;
use bucket::Bucket;
use leaf::LeafKey;
use schedule::Schedule;
use store::Store;

pub use authority::Flaw;
pub use leaf::SignError;
pub use store::Fault;

/// How long before it signs a new authority is exported, in seconds: the time that images and
/// processes have to learn of it.
pub const OVERLAP: u64 = 24 * 3600;

/// Why there is no authority to sign with, or it was not changed.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The directory cannot be made or looked at.
    #[error("cannot use the directory {path}")]
    Directory {
        /// The directory.
        path: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Somebody but root could read the key, or put another in its place.
    #[error("the key of the certificate authority is not safe: {path} {fault}")]
    Exposed {
        /// The file, the directory, or a directory above it.
        path: String,
        /// What is wrong with it.
        fault: Fault,
    },
    /// The file is there and cannot be read.
    #[error("cannot read the certificate authority {path}")]
    Unreadable {
        /// The file.
        path: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The file's contents are not what was written.
    #[error("the certificate authority {path} is damaged")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        #[source]
        source: Flaw,
    },
    /// The authority that signs is not valid any more.
    #[error("the certificate authority in {path} expired {days} days ago: {subject}")]
    Expired {
        /// The file.
        path: String,
        /// Its common name.
        subject: String,
        /// Whole days since it was valid.
        days: u64,
    },
    /// The file cannot be written.
    #[error("cannot write the certificate authority {path}")]
    Unwritable {
        /// The file.
        path: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// No key or certificate could be made.
    #[error("cannot make a certificate authority")]
    Make(#[from] rcgen::Error),
    /// A next authority waits for its time already.
    #[error("a new certificate authority is there already and signs in {minutes} minutes")]
    Pending {
        /// Until then.
        minutes: u64,
    },
    /// Each of them has leaves that live.
    #[error("there are {} certificate authorities already", schedule::MOST)]
    TooMany,
}

impl CaError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        let anew = |path: &str| {
            format!(
                "move {path} away and start again: a new authority is made, which everything that trusted the old one must be given"
            )
        };
        match self {
            Self::Directory { path, .. } => format!("see that root can make and read {path}"),
            Self::Exposed { path, fault } => fault.hint(path),
            Self::Unreadable { path, .. } => {
                format!("see that root can read {path}, or put it back from a backup")
            }
            Self::Damaged { path, .. } => {
                format!("put it back from a backup, or {}", anew(path))
            }
            Self::Expired { path, .. } => {
                format!("set the clock if it is wrong, or {}", anew(path))
            }
            Self::Unwritable { .. } => "see that its disk has room and can be written".to_owned(),
            Self::Make(_) => "this should not happen: please report it".to_owned(),
            Self::Pending { .. } => "`agentguard ca rotate --now` has it sign at once".to_owned(),
            Self::TooMany => {
                "wait until the leaves of the oldest have expired: see `agentguard ca show`"
                    .to_owned()
            }
        }
    }
}

/// The authorities of this host. All methods can be called from any thread; none waits for another
/// that signs. Times are in seconds since the epoch.
pub struct Ca {
    store: Store,
    host: String,
    schedule: Mutex<Schedule<Arc<Authority>>>,
    bucket: Mutex<Bucket>,
    signed: AtomicU64,
    refused: AtomicU64,
}

impl Ca {
    /// Opens what is in `directory`, or makes the first authority there, with `host` in its name.
    ///
    /// # Errors
    /// [`CaError`]: nothing is signed with a key that others could know, or with one that the clients
    /// do not trust any more.
    pub fn open(directory: &Path, host: &str, now: u64) -> Result<Self, CaError> {
        let store = Store::open(directory)?;
        let mut schedule = match store.read()? {
            Some(schedule) => schedule,
            None => {
                let first = Schedule::new(Arc::new(Authority::make(host, now)?), now);
                store.write(&first)?;
                tracing::info!(
                    subject = first.signer(now).subject(),
                    fingerprint = first.signer(now).fingerprint(),
                    "a certificate authority was made"
                );
                first
            }
        };
        let signer = schedule.signer(now);
        if signer.not_after() <= now {
            return Err(CaError::Expired {
                path: store.path(),
                subject: signer.subject().to_owned(),
                days: (now - signer.not_after()) / (24 * 3600),
            });
        }
        // Not before: a clock that is years ahead must cost no key.
        if schedule.forget(now) {
            store.write(&schedule)?;
        }
        Ok(Self {
            store,
            host: host.to_owned(),
            schedule: Mutex::new(schedule),
            bucket: Mutex::new(Bucket::full(Instant::now())),
            signed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// Signs a leaf for a public key, a `SubjectPublicKeyInfo` in DER, if `inspected` says that the
    /// policy has it so. That is not asked for what is refused anyway, and with nothing locked.
    ///
    /// # Errors
    /// [`SignError`]. Counted, as are those that were signed.
    pub fn sign(
        &self,
        subject: &LeafSubject,
        public_key: &[u8],
        now: u64,
        inspected: impl FnOnce() -> bool,
    ) -> Result<SignedLeaf, SignError> {
        let result = self.try_sign(subject, public_key, now, inspected);
        let count = match result {
            Ok(_) => &self.signed,
            Err(_) => &self.refused,
        };
        count.fetch_add(1, Ordering::Relaxed);
        result
    }

    fn try_sign(
        &self,
        subject: &LeafSubject,
        public_key: &[u8],
        now: u64,
        inspected: impl FnOnce() -> bool,
    ) -> Result<SignedLeaf, SignError> {
        if !lock(&self.bucket).take(Instant::now()) {
            return Err(SignError::TooFast);
        }
        let key = LeafKey::read(public_key)?;
        if !inspected() {
            return Err(SignError::NotInspected(subject.clone()));
        }
        let authority = lock(&self.schedule).signer(now).clone();
        let leaf = authority.sign(subject, &key, now)?;
        tracing::info!(
            %subject,
            authority = authority.subject(),
            not_after = leaf.not_after,
            "a leaf was signed"
        );
        Ok(leaf)
    }

    /// What was signed and refused since the start.
    #[must_use]
    pub fn counts(&self) -> LeafCounts {
        LeafCounts {
            signed: self.signed.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Makes the next authority, which signs after [`OVERLAP`]; `at_once`: from now on, and so does
    /// one that waits for its time. What it replaces is exported until its last leaf has expired.
    ///
    /// # Errors
    /// [`CaError::Pending`], [`CaError::TooMany`], or what making and writing say; nothing changed.
    pub fn rotate(&self, at_once: bool, now: u64) -> Result<(), CaError> {
        let mut schedule = lock(&self.schedule);
        let mut changed = schedule.clone();
        changed.rotate(now, at_once, || {
            Ok(Arc::new(Authority::make(&self.host, now)?))
        })?;
        self.store.write(&changed)?;
        *schedule = changed;
        if let Some((newest, signs_from)) = schedule.entries().last() {
            tracing::info!(
                subject = newest.subject(),
                fingerprint = newest.fingerprint(),
                signs_from,
                "the certificate authority is rotated"
            );
        }
        Ok(())
    }

    /// Drops authorities of which no leaf lives any more, with their keys. Whether there were any.
    ///
    /// # Errors
    /// [`CaError::Unwritable`]: they stay until this is called again.
    pub fn forget(&self, now: u64) -> Result<bool, CaError> {
        let mut schedule = lock(&self.schedule);
        let mut changed = schedule.clone();
        let dropped = changed.forget(now);
        if dropped {
            self.store.write(&changed)?;
            *schedule = changed;
            tracing::info!("a certificate authority whose leaves have expired was dropped");
        }
        Ok(dropped)
    }

    /// The authorities whose leaves are or will be in use, in the order in which they sign.
    #[must_use]
    pub fn list(&self, now: u64) -> Vec<AuthorityInfo> {
        lock(&self.schedule)
            .terms(now)
            .filter(|term| term.authority.not_after() > now)
            .map(|term| AuthorityInfo {
                state: term.state,
                subject: term.authority.subject().to_owned(),
                fingerprint: term.authority.fingerprint().to_owned(),
                not_before: term.authority.not_before(),
                not_after: term.authority.not_after(),
                signs_from: term.signs_from,
                signs_until: term.signs_until,
                certificate: term.authority.pem().to_owned(),
            })
            .collect()
    }

    /// Their certificates in PEM, one after the other.
    #[must_use]
    pub fn bundle(&self, now: u64) -> String {
        self.list(now)
            .into_iter()
            .map(|authority| authority.certificate)
            .collect()
    }
}

/// A thread that panicked with the lock held left a whole value: each is replaced at once.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

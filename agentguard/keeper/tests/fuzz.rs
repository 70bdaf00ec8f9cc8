//! What the keeper reads from its worker and its clients, and the worker from its keeper: any bytes are
//! read or refused, without a panic, and what was read is written as it was.
//!
//! Under `cargo test` each target reads its corpus (`tests/__fuzz__/NAME/corpus`) and random bytes for a
//! moment; `cargo bolero test NAME` goes on for as long as one likes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::fmt::Debug;
use std::time::Duration;

use agentguard_keeper::ca::Ca;
use agentguard_keeper::message::{Command, LeafSubject, ToKeeper, ToWorker};
use agentguard_keeper::packet::{self, MAX_BYTES, Packet, PacketError};
use agentguard_keeper::spawn::message::{FromClient, ToClient};
use rustix::net::{SendFlags, SocketFlags, SocketType};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How long each target runs under `cargo test`.
const MOMENT: Duration = Duration::from_secs(2);

/// Sends these bytes through a socket, as a peer would that has no types, and reads them as a message.
fn received<T: DeserializeOwned>(bytes: &[u8]) -> Result<Option<T>, PacketError> {
    let (peer, own) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    rustix::net::send(&peer, bytes, SendFlags::NOSIGNAL).unwrap();
    let message = Packet::from(own).recv::<T>()?;
    Ok(message.map(|(message, _)| message))
}

/// Reads bytes; what was a message is sent on by one end and is the same at the other.
fn read<T: DeserializeOwned + Serialize + Debug>(bytes: &[u8]) {
    let bytes = bytes.get(..MAX_BYTES).unwrap_or(bytes);
    let Ok(Some(message)) = received::<T>(bytes) else {
        return;
    };
    let (one, other) = packet::pair().unwrap();
    match one.send(&message, &[]) {
        Ok(()) => {
            let (again, _) = other.recv::<T>().unwrap().unwrap();
            assert_eq!(format!("{message:?}"), format!("{again:?}"));
        }
        // Lists are counted in fewer bytes than the elements take.
        Err(PacketError::DoesNotFit { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn to_keeper() {
    bolero::check!()
        .with_test_time(MOMENT)
        .for_each(read::<ToKeeper>);
}

#[test]
fn to_worker() {
    bolero::check!()
        .with_test_time(MOMENT)
        .for_each(read::<ToWorker>);
}

#[test]
fn command() {
    bolero::check!()
        .with_test_time(MOMENT)
        .for_each(read::<Command>);
}

#[test]
fn from_client() {
    bolero::check!()
        .with_test_time(MOMENT)
        .for_each(|bytes: &[u8]| {
            read::<FromClient>(bytes);
            read::<ToClient>(bytes);
        });
}

/// What the worker wants signed: a key of the one kind that is, or nothing is signed.
#[test]
fn public_key() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(
        directory.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    let ca = Ca::open(&directory.path().join("ca"), "host", 1_800_000_000).unwrap();
    let subject = LeafSubject::Name("a.example".parse().unwrap());
    let mut now = 1_800_000_000;
    bolero::check!()
        .with_test_time(MOMENT)
        .with_max_len(512)
        .for_each(move |bytes: &[u8]| {
            // No rate is to hide the reader.
            now += 1;
            let Ok(leaf) = ca.sign(&subject, bytes, now, || true) else {
                return;
            };
            assert_eq!(bytes.len(), 91, "a P-256 key in DER");
            assert!(leaf.not_after > now);
            assert!(leaf.certificate.windows(91).any(|window| window == bytes));
        });
}

/// Each corpus begins with what is said in earnest.
#[test]
fn the_corpora_hold_messages() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/__fuzz__");
    let read = |name: &str| std::fs::read(format!("{corpus}/{name}")).unwrap();
    for name in ["publish", "sign", "retire", "taken", "recording"] {
        let bytes = read(&format!("to_keeper/corpus/{name}"));
        received::<ToKeeper>(&bytes).unwrap().unwrap();
    }
    for name in ["published", "signed", "policy", "state"] {
        let bytes = read(&format!("to_worker/corpus/{name}"));
        received::<ToWorker>(&bytes).unwrap().unwrap();
    }
    for name in ["run", "add", "rotate"] {
        let bytes = read(&format!("command/corpus/{name}"));
        received::<Command>(&bytes).unwrap().unwrap();
    }
    for name in ["signal", "resume"] {
        let bytes = read(&format!("from_client/corpus/{name}"));
        received::<FromClient>(&bytes).unwrap().unwrap();
    }
}

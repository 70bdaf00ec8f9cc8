//! What the keeper reads from its worker and its clients, and the worker from its keeper: any bytes are
//! read or refused, without a panic, and what was read is written as it was.
//!
//! Under `cargo test` each target reads its corpus (`tests/__fuzz__/NAME/corpus`) and random bytes for a
//! moment; `cargo bolero test NAME` goes on for as long as one likes. Random bytes seldom get far into a
//! message, so messages are made up too ([`random`]), sent as they are, and read with bytes of theirs changed.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

#[path = "fuzz/memory.rs"]
mod memory;
#[path = "fuzz/random.rs"]
mod random;

use std::fmt::Debug;
use std::os::fd::AsFd as _;
use std::time::Duration;

use agentguard_keeper::ca::Ca;
use agentguard_keeper::message::{Answer, Command, LeafSubject, ToKeeper, ToWorker};
use agentguard_keeper::packet::{self, MAX_BYTES, Packet, PacketError};
use agentguard_keeper::spawn::message::{FromClient, ToClient};
use rustix::net::{SendFlags, SocketFlags, SocketType};
use serde::Serialize;
use serde::de::DeserializeOwned;

use random::Random;

/// How long each target runs under `cargo test`.
const MOMENT: Duration = Duration::from_secs(2);

/// Messages of a type that are made up.
const MADE: usize = 4_000;

/// How often bytes of each are changed.
const CHANGED: usize = 4;

/// Memory that the reading of one packet may take, in bytes. For each byte the 24 of an empty string, in
/// lists that double as they grow and are there twice while they are moved; and a mebibyte for a list whose
/// length is a lie, before its elements are missed (`size_hint::cautious` of serde).
const MEMORY: usize = 3 * 24 * MAX_BYTES + (2 << 20);

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
    let own = Packet::from(own);
    let (taken, message) = memory::most(|| own.recv::<T>());
    assert!(taken <= MEMORY, "{taken} bytes for {}", bytes.len());
    Ok(message?.map(|(message, _)| message))
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

/// Messages of a type that are made up: what one end says is what the other hears, descriptors included;
/// and what is not what anybody said, but nearly, is read or refused. Every variant comes.
fn made_up<T: DeserializeOwned + Serialize>(seed: u64) {
    let mut random = Random::new(seed);
    let mut made = 0;
    let (one, other) = packet::pair().unwrap();
    for _ in 0..MADE {
        let Some(message) = random.value::<T>() else {
            continue;
        };
        let bytes = postcard::to_stdvec(&message).unwrap();
        let count = random.below(packet::MAX_FDS + 1);
        match one.send(&message, &vec![one.as_fd(); count]) {
            Ok(()) => {}
            Err(PacketError::DoesNotFit { .. }) if bytes.len() > MAX_BYTES => continue,
            Err(error) => panic!("{error}"),
        }
        let (again, descriptors) = other.recv::<T>().unwrap().unwrap();
        assert_eq!(postcard::to_stdvec(&again).unwrap(), bytes);
        assert_eq!(descriptors.len(), count);
        for _ in 0..CHANGED {
            // An answer of an error is as good; a panic or too much memory is not.
            let _ = received::<T>(&changed(&bytes, &mut random));
        }
        made += 1;
    }
    assert!(made > MADE / 4, "{made} of {MADE}");
    assert_eq!(random.missed(), [""; 0]);
}

/// With some bytes that are others, missing, or too many; a length may become any.
fn changed(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len() + 1);
        match random.below(5) {
            0 => bytes.truncate(at),
            1 => {
                bytes.insert(at, random.next().to_le_bytes()[0]);
            }
            // The longest length that there is.
            2 => {
                let after = bytes.split_off(at);
                bytes.extend([0xff; 9]);
                bytes.push(1);
                bytes.extend(after);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= random.next().to_le_bytes()[0];
                }
            }
        }
    }
    bytes
}

#[test]
fn every_message_of_either_side_is_read_as_it_was_said() {
    made_up::<ToKeeper>(1);
    made_up::<ToWorker>(2);
    made_up::<Command>(3);
    made_up::<Answer>(4);
    made_up::<FromClient>(5);
    made_up::<ToClient>(6);
}

/// The most that a packet can have read: a list of as many empty strings as it has bytes. And lists that
/// say they are longer than memory.
#[test]
fn what_a_packet_takes_of_memory_has_a_bound() {
    let many = postcard::to_stdvec(&vec![""; MAX_BYTES - 3]).unwrap();
    assert_eq!(many.len(), MAX_BYTES);
    let strings = received::<Vec<String>>(&many).unwrap().unwrap();
    assert_eq!(strings.len(), MAX_BYTES - 3);
    let endless = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    for nested in [1, 2, 1000] {
        let bytes = endless.repeat(nested);
        assert!(received::<Vec<Vec<String>>>(&bytes).is_err());
        assert!(received::<Vec<u8>>(&bytes).is_err());
    }
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
    for name in [
        "publish",
        "sign",
        "retire",
        "taken",
        "recording",
        "answered",
        "whose",
    ] {
        let bytes = read(&format!("to_keeper/corpus/{name}"));
        received::<ToKeeper>(&bytes).expect(name).expect(name);
    }
    for name in [
        "published",
        "signed",
        "policy",
        "state",
        "switch",
        "ended",
        "tools",
        "belongs",
    ] {
        let bytes = read(&format!("to_worker/corpus/{name}"));
        received::<ToWorker>(&bytes).expect(name).expect(name);
    }
    for name in ["run", "add", "rotate", "switch", "tools"] {
        let bytes = read(&format!("command/corpus/{name}"));
        received::<Command>(&bytes).expect(name).expect(name);
    }
    for name in ["signal", "resume"] {
        let bytes = read(&format!("from_client/corpus/{name}"));
        received::<FromClient>(&bytes).expect(name).expect(name);
    }
}

//! TLS, spliced.

use std::sync::Arc;

use agentguard_model::{ReasonCode, Verdict};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::AsyncWriteExt;

use super::{Plan, Rules, by_address, by_name, codes, read_all, read_some, soon, write};

const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];
const DECODE_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 50];
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

pub(super) fn hello(name: &str) -> Vec<u8> {
    let config = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same hello with each byte in a record of its own: a hello of 15 KiB comes to 90.
fn in_tiny_records(hello: &[u8]) -> Vec<u8> {
    hello[5..]
        .iter()
        .flat_map(|byte| [22, 3, 1, 0, 1, *byte])
        .collect()
}

#[tokio::test]
async fn a_hello_for_the_name_behind_the_address_passes_untouched() {
    let world = by_name(Rules::Allow).build().await;
    let tiny = in_tiny_records(&hello("api.example"));
    for bytes in [hello("API.example"), tiny, hello("192.0.2.1")] {
        let mut client = world.connect().await;
        // Byte by byte, each in a segment of its own.
        client.set_nodelay(true).unwrap();
        let sending = async {
            for byte in &bytes {
                write(&mut client, [*byte]).await;
                tokio::task::yield_now().await;
            }
            client
        };
        let (mut client, mut upstream) = tokio::join!(sending, world.accept());
        assert_eq!(read_some(&mut upstream, bytes.len()).await, bytes);
        write(&mut upstream, "answer").await;
        assert_eq!(read_some(&mut client, 6).await, b"answer");
    }
    let decisions = world.end().await;
    assert_eq!(
        codes(&decisions),
        [(Verdict::Allow, decisions[0].reason.code); 3]
    );
}

/// Sends `bytes` and answers with what came back before the end.
async fn refused(plan: Plan, bytes: &[u8]) -> (Vec<u8>, ReasonCode) {
    let world = plan.build().await;
    let mut client = world.connect().await;
    write(&mut client, bytes).await;
    let answer = read_all(&mut client).await.unwrap();
    client.shutdown().await.ok();
    let decisions = world.end().await;
    assert_eq!(decisions.len(), 1, "{decisions:#?}");
    assert_eq!(decisions[0].verdict, Verdict::Deny);
    (answer, decisions[0].reason.code)
}

#[tokio::test]
async fn refusals_are_alerts() {
    let mut broken = hello("api.example");
    broken[43] = 0xff;
    let address = {
        // An address as server name, which rustls would not send.
        let mut bytes = hello("abcdefghi");
        let at = bytes.windows(9).position(|w| w == b"abcdefghi").unwrap();
        bytes[at..at + 9].copy_from_slice(b"192.0.2.1");
        bytes
    };
    for (plan, bytes, alert, code) in [
        (
            by_name(Rules::Allow),
            hello("other.example"),
            UNRECOGNIZED_NAME,
            ReasonCode::NameMismatch,
        ),
        (
            by_name(Rules::Deny),
            hello("api.example"),
            ACCESS_DENIED,
            ReasonCode::NoRule,
        ),
        (
            by_name(Rules::Requests),
            hello("api.example"),
            ACCESS_DENIED,
            ReasonCode::NeedsInspection,
        ),
        (
            by_name(Rules::Allow),
            broken,
            DECODE_ERROR,
            ReasonCode::TlsMalformed,
        ),
        (
            by_name(Rules::Allow),
            address,
            DECODE_ERROR,
            ReasonCode::TlsMalformed,
        ),
    ] {
        assert_eq!(refused(plan, &bytes).await, (alert.to_vec(), code));
    }
}

#[tokio::test]
async fn the_sentence_names_both_names() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    write(&mut client, hello("other.example")).await;
    read_all(&mut client).await.unwrap();
    drop(client);
    let message = world.end().await[0].reason.message.clone();
    assert!(message.contains("other.example"), "{message}");
    assert!(message.contains("api.example"), "{message}");
}

#[tokio::test]
async fn a_claimed_name_selects_nothing_behind_a_bare_address() {
    let world = by_address(Rules::Allow).build().await;
    let mut client = world.connect().await;
    let bytes = hello("anything.example");
    write(&mut client, &bytes).await;
    let mut upstream = world.accept().await;
    assert_eq!(read_some(&mut upstream, bytes.len()).await, bytes);
    drop((client, upstream));
    let decisions = world.end().await;
    assert_eq!(decisions[0].action.host, None);
    assert_eq!(decisions[0].action.ip, Some("127.0.0.1".parse().unwrap()));
}

#[tokio::test]
async fn a_hello_that_never_ends_times_out_once() {
    let mut plan = by_name(Rules::Allow);
    plan.limits.head = std::time::Duration::from_millis(50);
    let world = plan.build().await;
    let mut client = world.connect().await;
    write(&mut client, &hello("api.example")[..50]).await;
    super::assert_reset(&mut client).await;
    assert_eq!(
        codes(&world.end().await),
        [(Verdict::Deny, ReasonCode::ClientTimeout)]
    );
}

#[tokio::test]
async fn an_endless_hello_is_refused_at_its_bound() {
    let mut record = vec![22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
    record.resize(5 + 0x4000, 0);
    let mut next = vec![22, 3, 1, 0x40, 0];
    next.resize(5 + 0x4000, 0);
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    write(&mut client, &record).await;
    for _ in 0..8 {
        soon(client.write_all(&next)).await.ok();
    }
    client.shutdown().await.ok();
    read_all(&mut client).await.ok();
    assert_eq!(
        codes(&world.end().await),
        [(Verdict::Deny, ReasonCode::TlsMalformed)]
    );
}

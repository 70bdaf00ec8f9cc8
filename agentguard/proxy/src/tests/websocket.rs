//! WebSocket after its handshake.

use std::time::Duration;

use agentguard_model::{Decision, Messages, ReasonCode, Verdict};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Rules, World, assert_reset, by_name, codes, read_all, read_some, read_until, write};

/// A handshake with these offers.
pub(super) fn ask(extensions: &str) -> String {
    let extensions = match extensions {
        "" => String::new(),
        offers => format!("Sec-WebSocket-Extensions: {offers}\r\n"),
    };
    format!(
        "GET /ok HTTP/1.1\r\nHost: api.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\n{extensions}\r\n"
    )
}

pub(super) const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// A server's frame.
pub(super) fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(u8::try_from(length).unwrap()),
        length @ 126..0x1_0000 => {
            bytes.push(126);
            bytes.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            bytes.push(127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// A client's frame.
pub(super) fn masked(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    const MASK: [u8; 4] = [9, 8, 7, 6];
    let payload = payload.as_ref();
    let mut bytes = frame(first, payload);
    bytes.truncate(bytes.len() - payload.len());
    bytes[1] |= 0x80;
    bytes.extend_from_slice(&MASK);
    bytes.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    bytes
}

/// Both ends of a connection that speaks WebSocket.
async fn open(world: &World) -> (TcpStream, TcpStream) {
    open_with(world, "").await
}

/// As [`open`], with an extension, if one is named.
async fn open_with(world: &World, extension: &str) -> (TcpStream, TcpStream) {
    let mut client = world.connect().await;
    write(&mut client, ask(extension)).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    let switch = match extension {
        "" => SWITCH.to_owned(),
        _ => {
            let field = format!("\r\nSec-WebSocket-Extensions: {extension}\r\n\r\n");
            SWITCH.replace("\r\n\r\n", &field)
        }
    };
    write(&mut upstream, switch).await;
    read_until(&mut client, "\r\n\r\n").await;
    (client, upstream)
}

async fn world() -> World {
    by_name(Rules::Requests).build().await
}

/// Reads a Close frame of a server's, and the end behind it.
pub(super) async fn closed(client: &mut TcpStream) -> (u16, String) {
    let bytes = read_all(client).await.unwrap();
    let (head, payload) = bytes.split_first_chunk().unwrap();
    let length = u8::try_from(payload.len()).unwrap();
    assert_eq!(*head, [0x88, length], "{bytes:x?}");
    let (code, reason) = payload.split_first_chunk().unwrap();
    (
        u16::from_be_bytes(*code),
        String::from_utf8(reason.to_vec()).unwrap(),
    )
}

/// Reads a Close frame of the guard's to the upstream.
async fn closed_upstream(upstream: &mut TcpStream) -> (u16, String) {
    let bytes = read_all(upstream).await.unwrap();
    let (head, rest) = bytes.split_first_chunk().unwrap();
    let (mask, payload) = rest.split_first_chunk::<4>().unwrap();
    let length = u8::try_from(payload.len()).unwrap();
    assert_eq!(*head, [0x88, 0x80 | length], "{bytes:x?}");
    let plain: Vec<u8> = payload
        .iter()
        .zip(mask.iter().cycle())
        .map(|(b, k)| b ^ k)
        .collect();
    let (code, reason) = plain.split_first_chunk().unwrap();
    (
        u16::from_be_bytes(*code),
        String::from_utf8(reason.to_vec()).unwrap(),
    )
}

fn messages(decision: &Decision) -> (u64, u64) {
    let outcome = decision.outcome.as_ref().unwrap();
    let Messages { sent, received } = outcome.messages.unwrap();
    (sent, received)
}

fn error(decision: &Decision) -> &str {
    let outcome = decision.outcome.as_ref().unwrap();
    outcome.error.as_deref().unwrap_or_default()
}

#[tokio::test]
async fn only_what_can_be_read_is_offered_on_and_nothing_else_may_be_accepted() {
    let world = world().await;
    let mut client = world.connect().await;
    write(
        &mut client,
        ask("mux, permessage-deflate; client_max_window_bits"),
    )
    .await;
    let mut upstream = world.accept().await;
    let head = read_until(&mut upstream, "\r\n\r\n")
        .await
        .to_ascii_lowercase();
    let offer = "\r\nsec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n";
    assert!(head.contains(offer), "{head}");
    let switch = SWITCH.replace("\r\n\r\n", "\r\nSec-WebSocket-Extensions: mux\r\n\r\n");
    write(&mut upstream, switch).await;
    let (head, body) = super::http::read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    assert!(body.contains("accepts what was not offered"), "{body}");
    drop((client, upstream));
    let decisions = world.end().await;
    assert!(
        error(&decisions[0]).contains("not offered"),
        "{decisions:#?}"
    );
}

#[tokio::test]
async fn frames_pass_as_they_come_and_messages_are_counted() {
    let world = world().await;
    let (mut client, mut upstream) = open(&world).await;
    let up = [
        masked(0x01, "one "),
        masked(0x89, "?"),
        masked(0x80, "message"),
        masked(0x82, ""),
    ];
    for frame in &up {
        write(&mut client, frame).await;
        assert_eq!(read_some(&mut upstream, frame.len()).await, *frame);
    }
    let down = [frame(0x8a, "?"), frame(0x81, "ü"), frame(0x82, [7; 40_000])];
    for frame in &down {
        write(&mut upstream, frame).await;
        assert_eq!(read_some(&mut client, frame.len()).await, *frame);
    }
    // One that does not end passes as far as it is there.
    let large = frame(0x82, vec![1; 10 << 20]);
    let (part, rest) = large.split_at(1 << 20);
    write(&mut upstream, part).await;
    assert_eq!(read_some(&mut client, part.len()).await, part);
    let (read, ()) = tokio::join!(
        read_some(&mut client, rest.len()),
        write(&mut upstream, rest)
    );
    assert_eq!(read, rest);
    // The server answers a Close frame, and closes.
    let close = masked(0x88, b"\x0f\xa0bye");
    write(&mut client, &close).await;
    assert_eq!(read_some(&mut upstream, close.len()).await, close);
    let close = frame(0x88, b"\x0f\xa0bye");
    write(&mut upstream, &close).await;
    upstream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap(), close);
    drop(client);
    assert_eq!(read_all(&mut upstream).await.unwrap(), b"");
    drop(upstream);
    let decisions = world.end().await;
    assert_eq!(messages(&decisions[0]), (2, 3));
    assert_eq!(error(&decisions[0]), "");
}

#[tokio::test]
async fn what_a_client_sends_that_is_no_websocket_is_refused_and_said() {
    for (bytes, code, why) in [
        (frame(0x81, "a"), 1002, "not masked"),
        (masked(0xc1, "a"), 1002, "reserved bit"),
        (masked(0x81, b"\xff"), 1007, "not UTF-8"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), 1002, "opcode 7"),
    ] {
        let world = world().await;
        let (mut client, mut upstream) = open(&world).await;
        let before = masked(0x81, "before");
        write(&mut client, [&before[..], &bytes].concat()).await;
        let (told, reason) = closed(&mut client).await;
        assert_eq!(told, code);
        drop(client);
        assert_eq!(read_some(&mut upstream, before.len()).await, before);
        assert_eq!(closed_upstream(&mut upstream).await, (1001, String::new()));
        drop(upstream);
        let decisions = world.end().await;
        let malformed = (Verdict::Deny, ReasonCode::HttpMalformed);
        assert_eq!(
            codes(&decisions),
            [(Verdict::Allow, ReasonCode::RuleAllow), malformed]
        );
        assert!(decisions[1].reason.message.contains(why), "{decisions:#?}");
        let id = decisions[1].id.to_string();
        assert!(
            reason.ends_with(&format!(" (agentguard explain {id})")),
            "{reason}"
        );
        assert!(error(&decisions[0]).contains(&id), "{decisions:#?}");
        assert_eq!(messages(&decisions[0]).0, 1);
    }
}

#[tokio::test]
async fn what_an_upstream_sends_that_is_no_websocket_ends_it() {
    let world = world().await;
    let (mut client, mut upstream) = open(&world).await;
    write(&mut upstream, masked(0x81, "a")).await;
    let (code, reason) = closed(&mut client).await;
    assert_eq!(code, 1011);
    assert_eq!(closed_upstream(&mut upstream).await.0, 1002);
    drop((client, upstream));
    let decisions = world.end().await;
    assert_eq!(codes(&decisions), [(Verdict::Allow, ReasonCode::RuleAllow)]);
    assert!(error(&decisions[0]).contains("masked"), "{decisions:#?}");
    assert!(reason.contains(&decisions[0].id.to_string()), "{reason}");
}

#[tokio::test]
async fn in_the_middle_of_a_frame_nothing_can_be_said() {
    let world = world().await;
    let (mut client, mut upstream) = open(&world).await;
    let large = frame(0x82, vec![1; 1 << 20]);
    let part = &large[..100_000];
    write(&mut upstream, part).await;
    assert_eq!(read_some(&mut client, part.len()).await, part);
    world.change(Rules::Deny);
    assert_reset(&mut client).await;
    drop(upstream);
    let decisions = world.end().await;
    assert_eq!(decisions.len(), 2);
    assert!(error(&decisions[0]).contains(&decisions[1].id.to_string()));
}

#[tokio::test]
async fn an_unread_side_stops_the_other() {
    let world = world().await;
    let (mut client, mut upstream) = open(&world).await;
    let block = frame(0x82, vec![7; 64 * 1024]);
    const MOST: usize = 128 * 1024 * 1024;
    let mut taken = 0;
    // Until the sockets' buffers are full; then nobody takes any more.
    while let Ok(Ok(written)) =
        tokio::time::timeout(Duration::from_millis(300), upstream.write_all(&block))
            .await
            .map(|written| written.map(|()| block.len()))
    {
        taken += written;
        assert!(taken < MOST, "nothing stops the upstream");
    }
    assert_eq!(read_some(&mut client, block.len()).await, block);
}

/// Each message counts by itself, and the one that is too large does not leave.
#[tokio::test]
async fn a_message_that_a_rule_finds_too_large_ends_the_connection_before_it_leaves() {
    let world = by_name(Rules::Sized).build().await;
    let (mut client, mut upstream) = open(&world).await;
    let most = [
        &masked(0x02, [1; 125])[..],
        &masked(0x00, [1; 125]).repeat(7),
    ]
    .concat();
    let whole = [&most[..], &masked(0x80, "")].concat();
    for _ in 0..2 {
        write(&mut client, &whole).await;
        assert_eq!(read_some(&mut upstream, whole.len()).await, whole);
    }
    // Of the server's there is no rule.
    let large = frame(0x82, vec![1; 2000]);
    write(&mut upstream, &large).await;
    assert_eq!(read_some(&mut client, large.len()).await, large);
    write(&mut client, [&most[..], &masked(0x80, "x")].concat()).await;
    let (code, reason) = closed(&mut client).await;
    assert_eq!(code, 1008);
    assert!(reason.starts_with("Not so much."), "{reason}");
    assert_eq!(closed_upstream(&mut upstream).await.0, 1001);
    let decisions = world.end().await;
    assert_eq!(
        codes(&decisions),
        [
            (Verdict::Allow, ReasonCode::RuleAllow),
            (Verdict::Deny, ReasonCode::RuleDeny)
        ]
    );
    assert_eq!(decisions[1].action.body, Some(1001));
    assert!(reason.contains(&decisions[1].id.to_string()), "{reason}");
    assert_eq!(messages(&decisions[0]), (2, 1));
    assert!(error(&decisions[0]).contains(&decisions[1].id.to_string()));
}

/// What a packed message has said before the rule came is not known, and it does not wait for more of it.
#[tokio::test]
async fn a_packed_message_that_is_under_way_when_a_rule_on_sizes_comes_does_not_go_on() {
    let world = by_name(Rules::Allow).build().await;
    let (mut client, mut upstream) = open_with(&world, "permessage-deflate").await;
    let begun = masked(0x42, [1; 100]);
    write(&mut client, &begun).await;
    assert_eq!(read_some(&mut upstream, begun.len()).await, begun);
    world.change(Rules::Sized);
    let (code, reason) = closed(&mut client).await;
    assert_eq!(code, 1008);
    assert!(reason.contains("has to see how much"), "{reason}");
    assert_eq!(closed_upstream(&mut upstream).await.0, 1001);
    let decisions = world.end().await;
    assert_eq!(decisions[1].reason.code, ReasonCode::NeedsInspection);
}

/// What one that is not packed has said is known.
#[tokio::test]
async fn a_message_that_is_under_way_when_a_rule_on_sizes_comes_counts_from_its_beginning() {
    for (more, closes) in [(900, false), (901, true)] {
        let world = by_name(Rules::Allow).build().await;
        let (mut client, mut upstream) = open(&world).await;
        let begun = masked(0x02, [1; 100]);
        write(&mut client, &begun).await;
        assert_eq!(read_some(&mut upstream, begun.len()).await, begun);
        world.change(Rules::Sized);
        let rest = [
            &masked(0x00, [1; 100]).repeat(8)[..],
            &masked(0x80, vec![1; more - 800]),
        ]
        .concat();
        write(&mut client, &rest).await;
        if closes {
            assert_eq!(closed(&mut client).await.0, 1008);
            let decisions = world.end().await;
            assert_eq!(decisions[1].reason.code, ReasonCode::RuleDeny);
            assert_eq!(decisions[1].action.body, Some(1001));
        } else {
            assert_eq!(read_some(&mut upstream, rest.len()).await, rest);
            drop((client, upstream));
            let allowed = (Verdict::Allow, ReasonCode::RuleAllow);
            assert_eq!(codes(&world.end().await), [allowed]);
        }
    }
}

/// One that has said too much already does not wait for more.
#[tokio::test]
async fn a_message_that_is_too_large_when_a_rule_on_sizes_comes_is_ended_at_once() {
    let world = by_name(Rules::Allow).build().await;
    let (mut client, mut upstream) = open(&world).await;
    let begun = [masked(0x02, [1; 125]), masked(0x00, [1; 125]).repeat(9)].concat();
    write(&mut client, &begun).await;
    assert_eq!(read_some(&mut upstream, begun.len()).await, begun);
    world.change(Rules::Sized);
    let (code, reason) = closed(&mut client).await;
    assert_eq!(code, 1008);
    assert!(reason.starts_with("Not so much."), "{reason}");
    assert_eq!(closed_upstream(&mut upstream).await.0, 1001);
    let decisions = world.end().await;
    assert_eq!(decisions[1].action.body, Some(1250));
}

/// What comes while the rule is asked does not make it forgotten.
#[tokio::test]
async fn a_message_does_not_go_on_while_its_denial_is_recorded_or_behind_it() {
    let world = by_name(Rules::Allow).build().await;
    let (mut client, mut upstream) = open(&world).await;
    let begun = [masked(0x02, [1; 125]), masked(0x00, [1; 125]).repeat(9)].concat();
    write(&mut client, &begun).await;
    assert_eq!(read_some(&mut upstream, begun.len()).await, begun);
    {
        let _disk = world.log.disk.write().await;
        world.change(Rules::Sized);
        world.given(2).await;
        write(&mut client, masked(0x00, [1; 100])).await;
        let moved = tokio::time::timeout(Duration::from_millis(200), upstream.read_u8()).await;
        assert!(moved.is_err(), "{moved:?}");
    }
    assert_eq!(closed(&mut client).await.0, 1008);
    assert_eq!(closed_upstream(&mut upstream).await.0, 1001);
    let denied = (Verdict::Deny, ReasonCode::RuleDeny);
    let allowed = (Verdict::Allow, ReasonCode::RuleAllow);
    assert_eq!(codes(&world.end().await), [allowed, denied]);
}

/// A denial on paper lets it go on, and one in force does not, however large it is by then.
#[tokio::test]
async fn a_rule_on_sizes_that_is_enforced_later_ends_a_message_that_has_passed_it() {
    let world = by_name(Rules::SizedOnPaper).build().await;
    let (mut client, mut upstream) = open(&world).await;
    let begun = [
        &masked(0x02, [1; 125])[..],
        &masked(0x00, [1; 125]).repeat(9),
    ]
    .concat();
    write(&mut client, &begun).await;
    assert_eq!(read_some(&mut upstream, begun.len()).await, begun);
    world.change(Rules::Sized);
    write(&mut client, masked(0x00, [1; 100])).await;
    assert_eq!(closed(&mut client).await.0, 1008);
    assert_eq!(closed_upstream(&mut upstream).await.0, 1001);
    let denied = (Verdict::Deny, ReasonCode::RuleDeny);
    let allowed = (Verdict::Allow, ReasonCode::RuleAllow);
    assert_eq!(codes(&world.end().await), [allowed, denied, denied]);
}

#[tokio::test]
async fn a_rule_on_paper_ends_no_message_that_is_under_way() {
    let world = by_name(Rules::Allow).build().await;
    let (mut client, mut upstream) = open_with(&world, "permessage-deflate").await;
    let begun = masked(0x42, [1; 100]);
    write(&mut client, &begun).await;
    assert_eq!(read_some(&mut upstream, begun.len()).await, begun);
    world.change(Rules::SizedOnPaper);
    let rest = masked(0x80, [1; 100]);
    write(&mut client, &rest).await;
    assert_eq!(read_some(&mut upstream, rest.len()).await, rest);
    drop((client, upstream));
    let unread = (Verdict::Deny, ReasonCode::NeedsInspection);
    let allowed = (Verdict::Allow, ReasonCode::RuleAllow);
    let decisions = world.end().await;
    assert_eq!(codes(&decisions), [allowed, unread]);
    assert!(!decisions[1].enforced);
}

//! Connections that nothing here understands.

use std::io::ErrorKind;

use agentguard_model::{AgentId, Decision, Reason, ReasonCode, Verdict};
use futures_util::FutureExt;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{
    DENIED, Rules, allowed, assert_reset, by_address, by_name, codes, read_all, read_some,
    read_until, soon, write,
};
use crate::Limits;

#[tokio::test]
async fn an_upstream_that_speaks_first_is_heard() {
    for plan in [by_name(Rules::Allow), by_address(Rules::Allow)] {
        let world = plan.build().await;
        let mut client = world.connect().await;
        let mut upstream = world.accept().await;
        write(&mut upstream, "220 mail.example ESMTP\r\n").await;
        assert_eq!(
            read_until(&mut client, "\n").await,
            "220 mail.example ESMTP\r\n"
        );
        write(&mut client, "QUIT\r\n").await;
        assert_eq!(read_until(&mut upstream, "\n").await, "QUIT\r\n");
        drop((client, upstream));
        let decisions = world.end().await;
        assert_eq!(allowed(&decisions), [true]);
        let bytes = decisions[0].outcome.as_ref().unwrap().bytes;
        assert_eq!((bytes.sent, bytes.received), (6, 24));
    }
}

#[tokio::test]
async fn each_end_of_stream_is_passed_on_alone() {
    let world = by_name(Rules::Allow).build().await;
    // The client ends first and still hears.
    let mut client = world.connect().await;
    write(&mut client, "*1\r\n").await;
    client.shutdown().await.unwrap();
    let mut upstream = world.accept().await;
    assert_eq!(read_all(&mut upstream).await.unwrap(), b"*1\r\n");
    write(&mut upstream, "+OK\r\n").await;
    drop(upstream);
    assert_eq!(read_all(&mut client).await.unwrap(), b"+OK\r\n");
    // The upstream ends first and still hears.
    let mut client = world.connect().await;
    write(&mut client, "*2\r\n").await;
    let mut upstream = world.accept().await;
    assert_eq!(read_some(&mut upstream, 4).await, b"*2\r\n");
    upstream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap(), b"");
    write(&mut client, "more").await;
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut upstream).await.unwrap(), b"more");
    drop((client, upstream));
    let decisions = world.end().await;
    assert_eq!(allowed(&decisions), [true, true]);
    assert!(
        decisions
            .iter()
            .all(|d| d.outcome.as_ref().unwrap().error.is_none())
    );
}

#[tokio::test]
async fn a_client_that_sends_and_leaves_is_still_delivered() {
    let world = by_name(Rules::Allow).build().await;
    let sent = vec![b'*'; 300_000];
    let mut client = world.connect().await;
    write(&mut client, &sent).await;
    drop(client);
    let mut upstream = world.accept().await;
    assert_eq!(read_all(&mut upstream).await.unwrap(), sent);
    drop(upstream);
    let decisions = world.end().await;
    assert_eq!(decisions[0].outcome.as_ref().unwrap().bytes.sent, 300_000);
}

#[tokio::test]
async fn a_client_that_connects_and_ends_without_a_byte_counts_once() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    client.shutdown().await.unwrap();
    let mut upstream = world.accept().await;
    assert_eq!(read_all(&mut upstream).await.unwrap(), b"");
    drop((client, upstream));
    assert_eq!(allowed(&world.end().await), [true]);
}

#[tokio::test]
async fn a_reset_of_one_side_resets_the_other() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    write(&mut client, "*1\r\n").await;
    let mut upstream = world.accept().await;
    read_some(&mut upstream, 4).await;
    upstream.set_zero_linger().unwrap();
    drop(upstream);
    assert_reset(&mut client).await;

    let mut client = world.connect().await;
    write(&mut client, "*1\r\n").await;
    let mut upstream = world.accept().await;
    read_some(&mut upstream, 4).await;
    client.set_zero_linger().unwrap();
    drop(client);
    assert_reset(&mut upstream).await;

    let decisions = world.end().await;
    let errors: Vec<_> = decisions
        .iter()
        .map(|d| d.outcome.as_ref().unwrap().error.clone().unwrap())
        .collect();
    assert!(errors[0].starts_with("the upstream is gone"), "{errors:?}");
    assert!(errors[1].starts_with("the client is gone"), "{errors:?}");
}

#[tokio::test]
async fn a_denied_connection_is_reset_and_its_upstream_never_hears_of_it() {
    for (rules, code) in [
        (Rules::Deny, ReasonCode::NoRule),
        (Rules::Requests, ReasonCode::NeedsInspection),
    ] {
        let world = by_name(rules).build().await;
        let mut client = world.connect().await;
        write(&mut client, "*1\r\n").await;
        assert_reset(&mut client).await;
        assert!(world.upstream.accept().now_or_never().is_none());
        assert_eq!(codes(&world.end().await), [(Verdict::Deny, code)]);
    }
}

#[tokio::test]
async fn a_rule_that_looks_at_requests_waits_for_one_and_no_longer() {
    let mut plan = by_name(Rules::Requests);
    plan.limits.head = std::time::Duration::from_millis(50);
    let world = plan.build().await;
    // Silent, ended, and stuck in what could still become a request.
    let mut silent = world.connect().await;
    assert_reset(&mut silent).await;
    let mut ended = world.connect().await;
    ended.shutdown().await.unwrap();
    assert_reset(&mut ended).await;
    let mut stuck = world.connect().await;
    write(&mut stuck, "GE").await;
    assert_reset(&mut stuck).await;
    let expected = [(Verdict::Deny, ReasonCode::ClientTimeout); 3];
    assert_eq!(codes(&world.end().await), expected);
}

#[tokio::test]
async fn bytes_that_trickle_towards_a_request_do_not_become_raw() {
    let mut plan = by_name(Rules::Allow);
    plan.limits.head = std::time::Duration::from_millis(50);
    let world = plan.build().await;
    let mut client = world.connect().await;
    write(&mut client, "GE").await;
    assert_reset(&mut client).await;
    let expected = [(Verdict::Deny, ReasonCode::ClientTimeout)];
    assert_eq!(codes(&world.end().await), expected);
}

#[tokio::test]
async fn an_unknown_origin_is_reset() {
    let mut plan = by_name(Rules::Allow);
    plan.origin_known = false;
    let world = plan.build().await;
    let mut client = world.connect().await;
    assert_reset(&mut client).await;
    let decisions = world.end().await;
    let expected = [(Verdict::Deny, ReasonCode::OriginUnknown)];
    assert_eq!(codes(&decisions), expected);
    // All of these say the same, and are counted together.
    assert_eq!(
        decisions[0].reason.message,
        "a connection from 127.0.0.1 did not come through the gate"
    );
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_resets_the_client_and_is_told() {
    let mut no_address = by_name(Rules::Allow);
    no_address.addresses = Err(Reason::new(ReasonCode::Rebinding, "it is private"));
    let mut gone = by_name(Rules::Allow);
    // Nobody listens on this address at the upstream's port.
    gone.addresses = Ok(vec!["127.255.255.1".parse().unwrap()]);
    for (plan, error) in [(no_address, "it is private"), (gone, "refused")] {
        let world = plan.build().await;
        let mut client = world.connect().await;
        write(&mut client, "*1\r\n").await;
        assert_reset(&mut client).await;
        let decisions = world.end().await;
        assert_eq!(allowed(&decisions), [true]);
        let told = decisions[0]
            .outcome
            .as_ref()
            .unwrap()
            .error
            .clone()
            .unwrap();
        assert!(told.contains(error), "{told}");
    }
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_refuses() {
    let mut plan = by_name(Rules::Allow);
    plan.addresses = Ok(vec![
        "127.255.255.1".parse().unwrap(),
        "127.0.0.1".parse().unwrap(),
    ]);
    let world = plan.build().await;
    let mut client = world.connect().await;
    write(&mut client, "*1\r\n").await;
    let mut upstream = world.accept().await;
    assert_eq!(read_some(&mut upstream, 4).await, b"*1\r\n");
}

#[tokio::test]
async fn beyond_an_agent_s_connections_the_next_is_refused() {
    for (all, own) in [(1, 10), (10, 1)] {
        let mut plan = by_name(Rules::Allow);
        plan.limits = Limits {
            connections: all,
            connections_per_agent: own,
            ..Limits::default()
        };
        let world = plan.build().await;
        let mut first = world.connect().await;
        write(&mut first, "*1\r\n").await;
        let upstream = world.accept().await;
        let mut second = world.connect().await;
        assert_reset(&mut second).await;
        drop((first, upstream));
        // The place is free again.
        world.until(|d| d[0].outcome.is_some()).await;
        let mut third = world.connect().await;
        let mut refused = 0;
        while soon(third.write_all(b"*3\r\n")).await.is_err() {
            refused += 1;
            assert!(refused < 100);
            third = world.connect().await;
        }
        drop(third);
        let decisions = world.end().await;
        assert_eq!(decisions[1].reason.code, ReasonCode::LimitReached);
    }
}

/// While the refusals of one agent's flood wait for the record, another agent has its place.
#[tokio::test]
async fn an_agent_that_opens_more_than_its_share_takes_no_other_s_places() {
    const BEYOND: usize = 300;
    let mut plan = by_name(Rules::Allow);
    plan.limits = Limits {
        connections: 40,
        connections_per_agent: 1,
        ..Limits::default()
    };
    let world = plan.build().await;
    let mut first = world.connect().await;
    write(&mut first, "*1\r\n").await;
    let _upstream = world.accept().await;
    world.until(|decisions| decisions.len() == 1).await;

    let disk = world.log.disk.write().await;
    let before = *world.log.given.borrow();
    let mut flood = JoinSet::new();
    for _ in 0..BEYOND {
        let proxy = world.proxy;
        flood.spawn(async move {
            match TcpStream::connect(proxy).await {
                Ok(mut client) => assert_reset(&mut client).await,
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            }
        });
    }
    // A few wait to be recorded; the others are gone at once.
    for _ in 0..BEYOND - 8 {
        soon(flood.join_next()).await.unwrap().unwrap();
    }
    let given = *world.log.given.borrow();
    assert!((1..=8).contains(&(given - before)), "{given}");

    if let Some(origin) = world.outside.origin.lock().unwrap().as_mut() {
        origin.client.agent = AgentId(2);
    }
    let mut other = world.connect().await;
    write(&mut other, "*2\r\n").await;
    let mut asked = world.log.given.subscribe();
    soon(asked.wait_for(|now| *now == given + 1)).await.unwrap();
    drop(disk);
    let mut upstream = world.accept().await;
    assert_eq!(read_some(&mut upstream, 4).await, b"*2\r\n");
    while let Some(reset) = soon(flood.join_next()).await {
        reset.unwrap();
    }
    let counted = |decisions: &[Decision]| {
        let refused = decisions.iter().filter(|decision| {
            let agent = decision.agent.as_ref().unwrap();
            agent.name.as_str() == "tester" && decision.reason.code == ReasonCode::LimitReached
        });
        refused.map(|decision| decision.count).sum::<u64>()
    };
    world
        .until(|decisions| counted(decisions) == BEYOND as u64)
        .await;
}

#[tokio::test]
async fn shutdown_stops_accepting_and_lets_flows_finish() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    write(&mut client, "*1\r\n").await;
    let mut upstream = world.accept().await;
    read_some(&mut upstream, 4).await;
    world.shutdown.cancel();
    // Once nobody listens there any more, the address can be bound again.
    soon(async {
        while TcpListener::bind(world.proxy).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    write(&mut upstream, "+OK\r\n").await;
    assert_eq!(read_some(&mut client, 5).await, b"+OK\r\n");
    assert!(!world.served.is_finished());
    drop((client, upstream));
    assert_eq!(allowed(&world.end().await), [true]);
}

#[tokio::test]
async fn a_flow_that_outlives_the_drain_is_cut_and_has_its_outcome() {
    let mut plan = by_name(Rules::Allow);
    plan.limits.drain = std::time::Duration::from_millis(20);
    let world = plan.build().await;
    let mut client = world.connect().await;
    write(&mut client, "*1\r\n").await;
    let mut upstream = world.accept().await;
    read_some(&mut upstream, 4).await;
    let decisions = world.end().await;
    assert_eq!(decisions[0].outcome.as_ref().unwrap().bytes.sent, 4);
    read_all(&mut client).await.ok();
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(40))]
    #[test]
    fn arbitrary_bytes_end_and_are_decided(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400),
        start in proptest::sample::select(vec![&b""[..], b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x00\x40\x01"]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = by_name(Rules::Deny).build().await;
            let mut client = world.connect().await;
            soon(client.write_all(&[start, &bytes].concat())).await.ok();
            client.shutdown().await.ok();
            read_all(&mut client).await.ok();
            let decisions = world.end().await;
            assert!(!decisions.is_empty());
            assert!(allowed(&decisions).iter().all(|allowed| !allowed));
        });
    }
}

#[tokio::test]
async fn an_address_that_a_rule_denies_is_not_dialled_for_its_name() {
    let mut plan = by_name(Rules::ButOneAddress);
    plan.addresses = Ok(vec![DENIED.parse().unwrap(), "127.0.0.1".parse().unwrap()]);
    let world = plan.build().await;
    let denied = TcpListener::bind((DENIED, world.port())).await.unwrap();
    let mut client = world.connect().await;
    write(&mut client, "*1\r\n").await;
    let mut upstream = world.accept().await;
    assert_eq!(read_some(&mut upstream, 4).await, b"*1\r\n");
    let nobody = std::time::Duration::ZERO;
    assert!(tokio::time::timeout(nobody, denied.accept()).await.is_err());

    let mut plan = by_name(Rules::ButOneAddress);
    plan.addresses = Ok(vec![DENIED.parse().unwrap()]);
    let world = plan.build().await;
    let mut client = world.connect().await;
    write(&mut client, "*1\r\n").await;
    assert_reset(&mut client).await;
    let decisions = world.end().await;
    assert_eq!(decisions.len(), 1);
    assert_eq!(decisions[0].verdict, Verdict::Deny);
    assert_eq!(decisions[0].matched[0].rule, "bad");
}

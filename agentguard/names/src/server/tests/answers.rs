//! What an agent gets for a name, and what is recorded of it.

use super::*;

#[tokio::test]
async fn an_allowed_name_is_answered_with_virtual_addresses_that_mean_it() {
    let world = World::new().await;
    world.upstream.host(
        "both.example",
        &["203.0.113.1", "203.0.113.2", "2001:db8::1"],
    );
    let a = world
        .ask_from(4000, 1, "both.example", RecordType::A)
        .await
        .unwrap();
    let aaaa = world
        .ask_from(4000, 2, "both.example", RecordType::AAAA)
        .await
        .unwrap();
    let pair = world
        .names
        .virtual_addresses
        .pair(&host("both.example"))
        .unwrap();
    assert_eq!(a.addresses, [IpAddr::V4(pair.v4)]);
    assert_eq!(aaaa.addresses, [IpAddr::V6(pair.v6)]);
    assert_eq!((a.ttls, aaaa.ttls), (vec![60], vec![60]));
    for ip in [IpAddr::V4(pair.v4), IpAddr::V6(pair.v6)] {
        assert_eq!(world.names.name_behind(ip), Some(host("both.example")));
    }
    let real = ips(&["203.0.113.1", "203.0.113.2", "2001:db8::1"]);
    assert_eq!(world.desk.answers(), [Answer::Addresses(real.clone())]);
    let published = world.desk.published.lock().unwrap().clone();
    assert_eq!(published.len(), 1, "the kernel is told once");
    let (name, published) = &published[0];
    assert_eq!(name, &host("both.example"));
    assert_eq!(
        (published.virtual4, published.virtual6),
        (Some(pair.v4), Some(pair.v6))
    );
    assert_eq!(published.real, real);
    assert!(published.ttl >= Duration::from_secs(60));
    assert_eq!(
        *world.desk.order.lock().unwrap(),
        ["record both.example", "publish both.example"],
        "first the record, then the effect"
    );
    let recorded = world.desk.recorded.lock().unwrap();
    let client = recorded[0].1.client.as_ref().unwrap();
    assert_eq!(
        (client.agent, client.process.comm.as_str()),
        (AGENT, "curl")
    );
    assert_eq!(recorded[0].1.transport, Transport::Udp);
}

#[tokio::test]
async fn a_family_that_the_name_does_not_have_is_no_data() {
    let world = World::new().await;
    world.upstream.host("four.example", &["203.0.113.1"]);
    world.upstream.host("six.example", &["2001:db8::1"]);
    for (name, record_type, there) in [
        ("four.example", RecordType::A, true),
        ("four.example", RecordType::AAAA, false),
        ("six.example", RecordType::A, false),
        ("six.example", RecordType::AAAA, true),
    ] {
        let seen = world.ask(name, record_type).await;
        assert_eq!(seen.code, ResponseCode::NoError);
        assert_eq!(seen.addresses.len() == 1, there, "{name} {record_type}");
        assert_eq!(seen.is_no_data(), !there, "{name} {record_type}");
    }
    let published = world.desk.published.lock().unwrap();
    for (name, published) in published.iter() {
        let four = name == &host("four.example");
        assert_eq!(published.virtual4.is_some(), four, "{name}");
        assert_eq!(published.virtual6.is_some(), !four, "{name}");
    }
}

#[tokio::test]
async fn a_name_outside_the_policy_does_not_exist_and_says_why() {
    let world = World::new().await;
    let seen = world.ask("tunnel.evil.test", RecordType::TXT).await;
    assert_eq!(seen.code, ResponseCode::NXDomain);
    assert_eq!(seen.negative, Some(10));
    let (id, answered) = world.desk.recorded.lock().unwrap()[0].clone();
    assert_eq!(answered.answer, Answer::Refused);
    assert_eq!(
        (answered.name, answered.types),
        (Some(host("tunnel.evil.test")), vec!["TXT".to_owned()])
    );
    let text = format!("agentguard: no rule allows tunnel.evil.test decision {id}");
    assert_eq!(seen.extended, Some((18, text)));
    assert_eq!(
        world.upstream.asked_in_all(),
        0,
        "no byte of it goes upstream"
    );
    let plain = query(5, "evil.test", RecordType::A, None);
    let peer = "127.0.0.1:5000".parse().unwrap();
    let answer = world
        .server
        .answer(NETNS, peer, Transport::Udp, &plain)
        .await
        .unwrap();
    let seen = world::Seen::read(&answer, 5);
    assert_eq!((seen.code, seen.extended), (ResponseCode::NXDomain, None));
}

#[tokio::test]
async fn https_records_keep_what_holds_over_tcp() {
    let world = World::new().await;
    world.upstream.host("web.example", &["203.0.113.1"]);
    let alpn = |ids: &[&str]| {
        let ids = ids.iter().map(|id| (*id).to_owned()).collect();
        (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(ids)))
    };
    let record = SVCB::new(
        1,
        Name::root(),
        vec![
            alpn(&["h3", "h2"]),
            (
                SvcParamKey::Ipv4Hint,
                SvcParamValue::Ipv4Hint(IpHint(vec![A::new(203, 0, 113, 1)])),
            ),
            (
                SvcParamKey::EchConfigList,
                SvcParamValue::EchConfigList(EchConfigList(vec![0, 1, 2])),
            ),
        ],
    );
    let quic = SVCB::new(
        2,
        Name::root(),
        vec![
            alpn(&["h3"]),
            (SvcParamKey::NoDefaultAlpn, SvcParamValue::NoDefaultAlpn),
        ],
    );
    let records = [record, quic].map(|record| RData::HTTPS(HTTPS(record)));
    world.upstream.script(
        "web.example",
        RecordType::HTTPS,
        Script::Records(300, records.to_vec()),
    );
    let seen = world.ask("web.example", RecordType::HTTPS).await;
    let left = SVCB::new(1, Name::root(), vec![alpn(&["h2"])]);
    assert_eq!(seen.records, [RData::HTTPS(HTTPS(left))]);
    assert!(seen.ttls[0] <= 60);
    assert!(
        world
            .ask("web.example", RecordType::SVCB)
            .await
            .is_no_data()
    );
}

#[tokio::test]
async fn record_types_that_agents_do_not_get() {
    let world = World::new().await;
    world.upstream.host("a.example", &["203.0.113.1"]);
    let txt = RData::TXT(TXT::new(vec!["a message from outside".to_owned()]));
    world
        .upstream
        .script("a.example", RecordType::TXT, Script::Records(60, vec![txt]));
    for (kind, denied) in [
        (RecordType::TXT, true),
        (RecordType::MX, true),
        (RecordType::SRV, true),
        (RecordType::NULL, true),
        (RecordType::Unknown(65_280), true),
        (RecordType::CNAME, false),
        (RecordType::NS, false),
        (RecordType::SOA, false),
        (RecordType::CAA, false),
        (RecordType::DS, false),
        (RecordType::PTR, false),
    ] {
        let seen = world.ask("a.example", kind).await;
        assert!(seen.is_no_data(), "{kind}");
        assert_eq!(
            seen.extended.is_some_and(|(code, _)| code == 21),
            denied,
            "{kind}"
        );
        let answer = world.desk.answers().pop().unwrap();
        assert_eq!(answer.allows(), !denied, "{kind}");
        assert_eq!(answer == Answer::Empty, !denied, "{kind}");
    }
    let any = world.ask("a.example", RecordType::ANY).await;
    assert!(matches!(&any.records[..], [RData::HINFO(hinfo)] if &*hinfo.cpu == b"RFC8482"));
    assert_eq!(world.upstream.asked_in_all(), 0);
    let last = world.desk.recorded.lock().unwrap()[4].1.types.clone();
    assert_eq!(last, ["TYPE65280"]);
}

#[tokio::test]
async fn real_addresses_have_their_own_ttl_within_bounds() {
    let world = World::new().await;
    let real = Rule {
        addresses: Addresses::Real,
        ..Rule::default()
    };
    for (name, ttl, expected) in [
        ("long.example", 86_400, 299..=300),
        ("short.example", 20, 19..=20),
        ("zero.example", 0, 1..=1),
    ] {
        world.desk.rule(name, real.clone());
        let data =
            ["203.0.113.1", "203.0.113.2", "10.0.0.1"].map(|t| RData::A(A(t.parse().unwrap())));
        world
            .upstream
            .script(name, RecordType::A, Script::Records(ttl, data.to_vec()));
        let seen = world.ask(name, RecordType::A).await;
        assert_eq!(
            seen.addresses,
            ips(&["203.0.113.1", "203.0.113.2"]),
            "{name}"
        );
        assert!(
            seen.ttls.iter().all(|ttl| expected.contains(ttl)),
            "{name}: {:?}",
            seen.ttls
        );
        let (_, published) = world.desk.published.lock().unwrap().last().unwrap().clone();
        assert!(!published.is_virtual());
        assert!(published.ttl >= Duration::from_secs(u64::from(seen.ttls[0])));
        assert_eq!(world.names.virtual_addresses.pair(&host(name)), None);
    }
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_answered_and_what_is_denied_stays_denied() {
    let world = World::new().await;
    world.upstream.host("a.example", &["203.0.113.1"]);
    world.desk.refuse_record.store(true, Ordering::SeqCst);
    let seen = world
        .ask_from(4000, 1, "a.example", RecordType::A)
        .await
        .unwrap();
    assert_eq!(
        (seen.code, seen.addresses.len()),
        (ResponseCode::ServFail, 0)
    );
    assert!(seen.extended.unwrap().1.contains("the disk is full"));
    assert!(
        world.desk.published.lock().unwrap().is_empty(),
        "nothing takes effect"
    );
    let seen = world.ask("evil.test", RecordType::A).await;
    assert_eq!(seen.code, ResponseCode::NXDomain);
    assert!(!seen.extended.unwrap().1.contains("decision"));
    world.desk.refuse_record.store(false, Ordering::SeqCst);
    let seen = world
        .ask_from(4000, 1, "a.example", RecordType::A)
        .await
        .unwrap();
    assert_eq!(
        seen.addresses.len(),
        1,
        "the retransmission is recorded and answered"
    );
}

#[tokio::test]
async fn what_the_kernel_was_not_told_is_not_answered() {
    let world = World::new().await;
    world.upstream.host("a.example", &["203.0.113.1"]);
    world.desk.refuse_publish.store(true, Ordering::SeqCst);
    let seen = world.ask("a.example", RecordType::A).await;
    assert_eq!(
        (seen.code, seen.addresses.len()),
        (ResponseCode::ServFail, 0)
    );
    let unanswered = world.desk.unanswered.lock().unwrap();
    let (id, _) = world.desk.recorded.lock().unwrap()[0];
    assert_eq!(
        (unanswered[0].0, unanswered[0].1.code),
        (id, ReasonCode::MapFull)
    );
}

#[tokio::test]
async fn who_is_unknown_and_what_is_unreadable_is_refused_and_recorded() {
    let world = World::new().await;
    let nobody = world
        .ask_from(999, 1, "a.example", RecordType::A)
        .await
        .unwrap();
    assert_eq!(nobody.code, ResponseCode::Refused);
    let peer = "127.0.0.1:4000".parse().unwrap();
    let mut cut = query(3, "a.example", RecordType::A, None);
    cut.truncate(20);
    for (bytes, code) in [(&cut[..], Some(ResponseCode::FormErr)), (&[1, 2, 3], None)] {
        let answer = world
            .server
            .answer(NETNS, peer, Transport::Udp, bytes)
            .await;
        assert_eq!(
            answer.map(|answer| world::Seen::read(&answer, 3).code),
            code
        );
    }
    let root = query(3, "", RecordType::NS, None);
    let answer = world
        .server
        .answer(NETNS, peer, Transport::Udp, &root)
        .await
        .unwrap();
    assert_eq!(world::Seen::read(&answer, 3).code, ResponseCode::NXDomain);
    let codes: Vec<_> = world.desk.codes().into_iter().flatten().collect();
    use ReasonCode::{DnsMalformed, DnsNotSupported, OriginUnknown};
    assert_eq!(
        codes,
        [OriginUnknown, DnsMalformed, DnsMalformed, DnsNotSupported]
    );
}

#[test]
fn arbitrary_messages_get_a_bounded_answer_or_none_and_are_recorded() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let world = runtime.block_on(World::new());
    world
        .upstream
        .host("a.example", &["203.0.113.1", "2001:db8::1"]);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(400));
    let strategy = (
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..600),
            (
                any::<u16>(),
                any::<Option<u16>>(),
                proptest::collection::vec((0_usize..60, any::<u8>()), 0..5)
            )
                .prop_map(|(kind, edns, changes)| {
                    let mut bytes = query(1, "a.example", RecordType::from(kind), edns);
                    for (at, value) in changes {
                        if let Some(byte) = bytes.get_mut(at) {
                            *byte = value;
                        }
                    }
                    bytes
                }),
        ],
        any::<bool>(),
    );
    let asked = std::cell::Cell::new(0_u16);
    runner
        .run(&strategy, |(bytes, tcp)| {
            // A socket of its own for each, so that none joins another's attempt.
            let port = 1000 + asked.get() % 60_000;
            asked.set(asked.get().wrapping_add(1));
            let (transport, limit) = if tcp {
                (Transport::Tcp, 65_535)
            } else {
                (Transport::Udp, 1232)
            };
            let peer = SocketAddr::from(([127, 0, 0, 1], port));
            let before = world.desk.answers().len();
            let answer = runtime.block_on(world.server.answer(NETNS, peer, transport, &bytes));
            if let Some(answer) = answer {
                prop_assert!((12..=limit).contains(&answer.len()));
                prop_assert_eq!(&answer[..2], &bytes[..2]);
            }
            prop_assert_eq!(world.desk.answers().len(), before + 1, "each is a decision");
            Ok(())
        })
        .unwrap();
}

/// A proxy of the operator's resolves it, and this host perhaps cannot.
#[tokio::test]
async fn a_name_that_somebody_else_resolves_is_answered_without_being_asked_for() {
    let world = World::new().await;
    for addresses in [Addresses::Virtual, Addresses::Real] {
        let name = match addresses {
            Addresses::Virtual => "far.example",
            Addresses::Real => "real.example",
        };
        let rule = Rule {
            elsewhere: true,
            addresses,
            ..Rule::default()
        };
        world.desk.rule(name, rule);
    }
    let a = world.ask("far.example", RecordType::A).await;
    let aaaa = world.ask("far.example", RecordType::AAAA).await;
    let https = world.ask("far.example", RecordType::HTTPS).await;
    let pair = world.names.virtual_addresses.pair(&host("far.example"));
    let pair = pair.unwrap();
    assert_eq!(a.addresses, [IpAddr::V4(pair.v4)]);
    assert_eq!(aaaa.addresses, [IpAddr::V6(pair.v6)]);
    assert!(https.is_no_data());
    assert_eq!(world.upstream.asked_in_all(), 0);
    {
        let published = world.desk.published.lock().unwrap();
        assert!(published.iter().all(|(_, published)| {
            published.real.is_empty() && published.virtual4 == Some(pair.v4)
        }));
    }
    let known = |answer: &Answer| *answer == Answer::Addresses(Vec::new());
    assert!(world.desk.answers().iter().all(known));
    // Where it should be answered with its own addresses, they have to be known.
    world.upstream.host("real.example", &["203.0.113.1"]);
    let real = world.ask("real.example", RecordType::A).await;
    assert_eq!(real.addresses, ips(&["203.0.113.1"]));
}

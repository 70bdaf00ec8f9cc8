//! Upstream and the guard.

use super::*;

#[tokio::test]
async fn resolved_addresses_in_special_ranges_are_denied() {
    let world = World::new().await;
    let permitted = Rule {
        ranges: vec!["10.0.0.0/8"],
        ..Rule::default()
    };
    let observing = Rule {
        observing: true,
        ..Rule::default()
    };
    for (name, addresses, rule, fine) in [
        ("private.example", &["10.0.0.5"][..], None, &[][..]),
        ("loopback.example", &["127.0.0.1", "::1"], None, &[]),
        ("metadata.example", &["169.254.169.254"], None, &[]),
        ("mapped.example", &["::ffff:127.0.0.1"], None, &[]),
        (
            "ours.example",
            &["198.18.7.7", "fd41:6775:6172:6400::9"],
            None,
            &[],
        ),
        (
            "mixed.example",
            &["10.0.0.5", "203.0.113.9", "fd00::1"],
            None,
            &["203.0.113.9"],
        ),
        (
            "named.example",
            &["10.0.0.5"],
            Some(permitted),
            &["10.0.0.5"],
        ),
        (
            "tried.example",
            &["10.0.0.5"],
            Some(observing.clone()),
            &["10.0.0.5"],
        ),
        ("hard.example", &["169.254.169.254"], Some(observing), &[]),
    ] {
        world.upstream.host(name, addresses);
        if let Some(rule) = rule {
            world.desk.rule(name, rule);
        }
        let seen = world.ask(name, RecordType::A).await;
        let answered = world
            .desk
            .recorded
            .lock()
            .unwrap()
            .last()
            .unwrap()
            .1
            .clone();
        assert_eq!(answered.name, Some(host(name)));
        if fine.is_empty() {
            assert_eq!(seen.code, ResponseCode::NXDomain, "{name}");
            assert_eq!(
                answered.answer.reason().unwrap().code,
                ReasonCode::Rebinding,
                "{name}"
            );
            assert!(!answered.answer.allows());
            let (code, text) = seen.extended.unwrap();
            assert_eq!(code, 18);
            assert!(
                text.contains(addresses[0].trim_start_matches("::ffff:")),
                "{text}"
            );
            assert_eq!(
                world.names.virtual_addresses.pair(&host(name)),
                None,
                "{name}"
            );
        } else {
            assert_eq!(seen.addresses.len(), 1, "{name}");
            assert_eq!(answered.answer, Answer::Addresses(ips(fine)), "{name}");
            let published = world.desk.published.lock().unwrap().last().unwrap().clone();
            assert_eq!(
                published.1.real,
                ips(fine),
                "{name}: nothing else can be dialled"
            );
        }
        let unenforced = answered.unenforced.map(|reason| reason.code);
        assert_eq!(
            unenforced,
            (name == "tried.example").then_some(ReasonCode::Rebinding)
        );
    }
}

#[tokio::test]
async fn what_upstream_says_is_passed_on_in_kind_and_recorded() {
    let world = World::new().await;
    world.upstream.script(
        "fails.example",
        RecordType::A,
        Script::Code(ResponseCode::ServFail),
    );
    world.upstream.script(
        "fails.example",
        RecordType::AAAA,
        Script::Code(ResponseCode::Refused),
    );
    world.upstream.host("empty.example", &[]);
    for (name, code, reason) in [
        (
            "gone.example",
            ResponseCode::NXDomain,
            Some(ReasonCode::NameUnknown),
        ),
        (
            "fails.example",
            ResponseCode::ServFail,
            Some(ReasonCode::ResolverFailed),
        ),
        ("empty.example", ResponseCode::NoError, None),
    ] {
        let seen = world.ask(name, RecordType::A).await;
        assert_eq!(seen.code, code, "{name}");
        assert!(seen.addresses.is_empty());
        let answer = world.desk.answers().pop().unwrap();
        assert!(answer.allows(), "{name}: the policy allowed it");
        assert_eq!(answer.reason().map(|reason| reason.code), reason, "{name}");
        assert_eq!(
            seen.extended.map(|(code, _)| code),
            (name == "fails.example").then_some(22)
        );
    }
    assert_eq!(world.desk.published.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn chains_are_followed_within_an_answer_and_across_answers() {
    let world = World::new().await;
    let a = |name: &str, ip: &str| {
        let name = Name::from_ascii(format!("{name}.")).unwrap();
        Record::from_rdata(name, 300, RData::A(A(ip.parse().unwrap())))
    };
    world.upstream.script(
        "one.example",
        RecordType::A,
        Script::Chain(vec![
            alias("one.example", "cdn.test", 300),
            alias("cdn.test", "edge.test", 300),
            a("edge.test", "203.0.113.5"),
            // Not at the end of the chain, so not an address of the name.
            a("other.test", "203.0.113.66"),
        ]),
    );
    world.upstream.script(
        "two.example",
        RecordType::A,
        Script::Chain(vec![alias("two.example", "far.test", 300)]),
    );
    world.upstream.host("far.test", &["203.0.113.6"]);
    for (name, ip) in [
        ("one.example", "203.0.113.5"),
        ("two.example", "203.0.113.6"),
    ] {
        let resolved = world.names.resolve(&host(name), &[], false).await.unwrap();
        assert_eq!(resolved, ips(&[ip]), "{name}");
        assert_eq!(world.ask(name, RecordType::A).await.addresses.len(), 1);
    }
}

#[tokio::test]
async fn upstream_is_asked_once_for_all_who_wait_and_until_the_ttl_ends() {
    let world = World::new().await;
    let gate = Arc::new(Semaphore::new(0));
    let records = Script::Records(3600, vec![RData::A(A::new(203, 0, 113, 1))]);
    world
        .upstream
        .script(
            "slow.example",
            RecordType::A,
            Script::Held(Arc::clone(&gate), Box::new(records)),
        )
        .host("short.example", &[])
        .script(
            "short.example",
            RecordType::A,
            Script::Records(0, vec![RData::A(A::new(203, 0, 113, 2))]),
        );
    let all: Vec<_> = (0..10)
        .map(|n| world.ask_from(4000 + n, 1, "slow.example", RecordType::A))
        .collect();
    let open = async {
        while world.upstream.asked("slow.example", RecordType::A) == 0 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(100);
    };
    let (seen, ()) = tokio::join!(all_of(all), open);
    assert!(
        seen.iter()
            .all(|seen| seen.as_ref().unwrap().addresses.len() == 1)
    );
    world.ask("slow.example", RecordType::A).await;
    assert_eq!(world.upstream.asked("slow.example", RecordType::A), 1);
    for times in 1..=2 {
        world.ask("short.example", RecordType::A).await;
        assert_eq!(
            world.upstream.asked("short.example", RecordType::A),
            times,
            "a TTL of 0 is over at once"
        );
        assert_eq!(
            world.upstream.asked("short.example", RecordType::AAAA),
            1,
            "NODATA is kept for its SOA's TTL"
        );
        world.ask("gone.example", RecordType::A).await;
        assert_eq!(
            world.upstream.asked("gone.example", RecordType::A),
            1,
            "and so is NXDOMAIN"
        );
    }
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_over_tcp() {
    let world = World::new().await;
    let data: Vec<RData> = (1..=20).map(|n| RData::A(A::new(203, 0, 113, n))).collect();
    world.upstream.host("large.example", &[]);
    world
        .upstream
        .script("large.example", RecordType::A, Script::OverTcp(data));
    let resolved = world
        .names
        .resolve(&host("large.example"), &[], false)
        .await
        .unwrap();
    assert_eq!(
        resolved.len(),
        crate::upstream::MAX_RECORDS,
        "what is kept is bounded"
    );
    assert_eq!(world.upstream.asked("large.example", RecordType::A), 2);
}

#[tokio::test]
async fn a_silent_or_failing_name_server_is_followed_by_the_next() {
    let (silent, failing) = (NameServer::start().await, NameServer::start().await);
    for kind in [RecordType::A, RecordType::AAAA] {
        for name in ["a.example", "b.example"] {
            silent.script(name, kind, Script::Silent);
            failing.script(name, kind, Script::Code(ResponseCode::ServFail));
        }
    }
    let before = [silent.address, failing.address];
    let world = World::with(Options::default(), Range::default(), &before).await;
    world
        .upstream
        .host("a.example", &["203.0.113.1"])
        .host("b.example", &["203.0.113.2"]);
    assert_eq!(
        world.ask("a.example", RecordType::A).await.addresses.len(),
        1
    );
    assert!(silent.asked("a.example", RecordType::A) > 0);
    assert_eq!(
        world.ask("b.example", RecordType::A).await.addresses.len(),
        1
    );
    assert_eq!(
        silent.asked("b.example", RecordType::A),
        0,
        "who answered last is asked first"
    );
}

#[tokio::test]
async fn a_name_server_that_never_answers_aaaa_costs_a_moment_and_not_a_timeout() {
    let world = World::patient().await;
    world.upstream.host("old.example", &["203.0.113.1"]);
    let never = Script::Held(Arc::new(Semaphore::new(0)), Box::new(Script::Silent));
    world
        .upstream
        .script("old.example", RecordType::AAAA, never);
    let asking = world.ask("old.example", RecordType::A);
    let seen = tokio::time::timeout(Duration::from_secs(20), asking).await;
    assert_eq!(
        seen.expect("long before upstream's deadline")
            .addresses
            .len(),
        1
    );
    // The answer to the wrong type does not say that the name does not exist.
    world
        .upstream
        .script("old.example", RecordType::AAAA, Script::NoName(60));
    world.upstream.host("odd.example", &["203.0.113.2"]);
    world
        .upstream
        .script("odd.example", RecordType::AAAA, Script::NoName(60));
    assert_eq!(
        world
            .ask("odd.example", RecordType::A)
            .await
            .addresses
            .len(),
        1
    );
    assert!(
        world
            .ask("odd.example", RecordType::AAAA)
            .await
            .is_no_data()
    );
}

#[tokio::test]
async fn the_proxy_resolves_to_validated_addresses_only() {
    let world = World::new().await;
    world
        .upstream
        .host("a.example", &["203.0.113.1", "10.0.0.1", "2001:db8::1"]);
    world.upstream.host("private.example", &["10.0.0.1"]);
    world.upstream.host("empty.example", &[]);
    let resolve = async |name: &str, ranges: &[&str]| {
        let ranges: Vec<_> = ranges.iter().map(|text| text.parse().unwrap()).collect();
        let resolved = world.names.resolve(&host(name), &ranges, false).await;
        resolved.map_err(|reason| reason.code)
    };
    assert_eq!(
        resolve("a.example", &[]).await,
        Ok(ips(&["203.0.113.1", "2001:db8::1"]))
    );
    assert_eq!(
        resolve("private.example", &[]).await,
        Err(ReasonCode::Rebinding)
    );
    assert_eq!(
        resolve("private.example", &["10.0.0.0/8"]).await,
        Ok(ips(&["10.0.0.1"]))
    );
    assert_eq!(
        resolve("empty.example", &[]).await,
        Err(ReasonCode::NoAddress)
    );
    assert_eq!(
        resolve("gone.example", &[]).await,
        Err(ReasonCode::NameUnknown)
    );
    assert_eq!(resolve("localhost", &[]).await, Err(ReasonCode::Rebinding));
    assert_eq!(
        world.upstream.asked("private.example", RecordType::A),
        1,
        "the guard looks at the cache too"
    );
}

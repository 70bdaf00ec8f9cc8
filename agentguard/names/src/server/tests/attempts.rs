//! One attempt, one decision.

use super::*;

#[tokio::test]
async fn one_getaddrinfo_is_one_decision_whatever_is_sent_again() {
    let world = World::new().await;
    world
        .upstream
        .host("a.example", &["203.0.113.1", "2001:db8::1"]);
    let gate = Arc::new(Semaphore::new(0));
    *world.desk.slow_record.lock().unwrap() = Some(Arc::clone(&gate));
    let queries = [
        (1, RecordType::A),
        (2, RecordType::AAAA),
        // To the second name server, and once more.
        (1, RecordType::A),
        (2, RecordType::AAAA),
        (1, RecordType::A),
    ];
    let all = queries.map(|(id, kind)| world.ask_from(4000, id, "a.example", kind));
    let mut all = Box::pin(async {
        let [a, b, c, d, e] = all;
        tokio::join!(a, b, c, d, e)
    });
    let held = tokio::select! {
        _ = &mut all => false,
        () = async {
            world.desk.until("a record begins", |desk| desk.recording.load(Ordering::SeqCst) > 0).await;
            // Time for the others to go ahead, if they would.
            for _ in 0..1000 { tokio::task::yield_now().await; }
        } => true,
    };
    assert!(held, "no answer leaves before its decision is recorded");
    gate.add_permits(100);
    let (a, b, c, d, e) = all.await;
    for seen in [a, b, c, d, e] {
        assert_eq!(seen.unwrap().addresses.len(), 1);
    }
    let types = |at: usize| world.desk.recorded.lock().unwrap()[at].1.types.clone();
    assert_eq!(world.desk.answers().len(), 1);
    assert_eq!(world.desk.recording.load(Ordering::SeqCst), 1);
    assert_eq!(types(0), ["A", "AAAA"]);

    world
        .ask_from(4000, 9, "a.example", RecordType::A)
        .await
        .unwrap();
    assert_eq!(
        world.desk.answers().len(),
        2,
        "another id is another attempt"
    );
    world
        .ask_from(4001, 9, "a.example", RecordType::A)
        .await
        .unwrap();
    assert_eq!(
        world.desk.answers().len(),
        3,
        "another socket is another attempt"
    );
    let (denied, again) = tokio::join!(
        world.ask_from(4000, 3, "evil.test", RecordType::A),
        world.ask_from(4000, 4, "evil.test", RecordType::AAAA),
    );
    assert_eq!(
        denied.unwrap().extended,
        again.unwrap().extended,
        "one decision id"
    );
    assert_eq!(world.desk.answers().len(), 4);
}

#[tokio::test]
async fn a_second_verdict_in_an_attempt_is_recorded_too() {
    let world = World::new().await;
    world.upstream.host("a.example", &["203.0.113.1"]);
    for (id, kind, recorded) in [
        (1, RecordType::A, 1),
        (2, RecordType::TXT, 2),
        (2, RecordType::TXT, 2),
        (3, RecordType::AAAA, 2),
    ] {
        world.ask_from(4000, id, "a.example", kind).await.unwrap();
        assert_eq!(world.desk.answers().len(), recorded, "{kind}");
    }
    assert_eq!(
        world.desk.codes(),
        [None, Some(ReasonCode::DnsNotSupported)]
    );
}

#[tokio::test]
async fn rebinding_is_one_decision_although_the_other_family_is_empty() {
    let world = World::new().await;
    world.upstream.host("private.example", &["10.0.0.1"]);
    for (id, kind) in [
        (1, RecordType::AAAA),
        (2, RecordType::A),
        (3, RecordType::HTTPS),
    ] {
        let seen = world
            .ask_from(4000, id, "private.example", kind)
            .await
            .unwrap();
        assert_eq!(seen.code, ResponseCode::NXDomain, "{kind}");
    }
    assert_eq!(world.desk.codes(), [Some(ReasonCode::Rebinding)]);
}

#[tokio::test]
async fn a_family_that_comes_late_is_published_when_it_is_asked_for() {
    let world = World::patient().await;
    let gate = Arc::new(Semaphore::new(0));
    let address = RData::from("2001:db8::1".parse::<IpAddr>().unwrap());
    let late = Script::Held(
        Arc::clone(&gate),
        Box::new(Script::Records(3600, vec![address])),
    );
    let name = "late.example";
    world.upstream.host(name, &["203.0.113.1"]);
    world.upstream.script(name, RecordType::AAAA, late);
    let first = world.ask_from(4000, 1, name, RecordType::A).await.unwrap();
    assert_eq!(first.addresses.len(), 1, "it is not waited for");
    gate.add_permits(10);
    let second = world
        .ask_from(4000, 2, name, RecordType::AAAA)
        .await
        .unwrap();
    assert_eq!(second.addresses.len(), 1);
    let published = world.desk.published.lock().unwrap();
    let six: Vec<_> = published
        .iter()
        .map(|(_, p)| p.virtual6.is_some())
        .collect();
    assert_eq!(
        six,
        [false, true],
        "the kernel knows of it before it is answered"
    );
    assert_eq!(world.desk.answers().len(), 1, "one attempt, one decision");
}

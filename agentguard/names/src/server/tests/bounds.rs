//! What happens when there is no more.

use super::*;

#[tokio::test]
async fn when_virtual_addresses_are_used_up_the_answer_says_so() {
    let range = Range {
        first: [198, 18, 1, 1].into(),
        last: [198, 18, 1, 2].into(),
    };
    let world = World::with(Options::default(), range, &[]).await;
    for (name, code) in [
        ("a.example", ResponseCode::NoError),
        ("b.example", ResponseCode::NoError),
        ("c.example", ResponseCode::ServFail),
        ("a.example", ResponseCode::NoError),
    ] {
        world.upstream.host(name, &["203.0.113.1"]);
        assert_eq!(world.ask(name, RecordType::A).await.code, code, "{name}");
    }
    let codes = world.desk.codes();
    assert_eq!(
        codes,
        [
            None,
            None,
            Some(ReasonCode::VirtualAddressesExhausted),
            None
        ]
    );
}

#[tokio::test]
async fn an_agent_over_its_share_is_refused_and_every_query_is_counted() {
    let options = Options {
        in_flight_per_agent: 2,
        ..Options::default()
    };
    let world = World::with(options, Range::default(), &[]).await;
    let gate = Arc::new(Semaphore::new(0));
    *world.desk.slow_record.lock().unwrap() = Some(Arc::clone(&gate));
    let asking: Vec<_> = (0..30)
        .map(|n| world.ask_from(4000 + n, 1, "evil.test", RecordType::A))
        .collect();
    let open = async {
        // Two at work, eight refusals that wait for the record; the rest is dropped.
        world
            .desk
            .until("ten records", |desk| {
                desk.recording.load(Ordering::SeqCst) == 10
            })
            .await;
        gate.add_permits(100);
    };
    let (seen, ()) = tokio::join!(all_of(asking), open);
    let with = |code| {
        seen.iter()
            .flatten()
            .filter(|seen| seen.code == code)
            .count()
    };
    assert_eq!(
        (with(ResponseCode::NXDomain), with(ResponseCode::ServFail)),
        (2, 8)
    );
    assert_eq!(seen.iter().filter(|seen| seen.is_none()).count(), 20);
    let recorded = world.desk.recorded.lock().unwrap();
    assert_eq!(
        recorded
            .iter()
            .map(|(_, answered)| answered.count)
            .sum::<u64>(),
        30
    );
    let over = |answer: &Answer| {
        answer
            .reason()
            .is_some_and(|r| r.code == ReasonCode::LimitReached)
    };
    let limited = recorded
        .iter()
        .filter(|(_, answered)| over(&answered.answer));
    assert_eq!(limited.map(|(_, answered)| answered.count).sum::<u64>(), 28);
}

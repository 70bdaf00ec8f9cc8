use super::*;
use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

const AGENT: AgentId = AgentId(1);
const DAY: u64 = 24 * 60 * 60;

/// A directory with a database in it, a clock that is moved by hand, and a word on what lives.
struct Place {
    directory: tempfile::TempDir,
    now: Arc<AtomicU64>,
    in_use: Arc<AtomicBool>,
    range: Range,
    share: u32,
}

impl Place {
    fn new(first: [u8; 4], last: [u8; 4]) -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            now: Arc::new(AtomicU64::new(1_800_000_000)),
            in_use: Arc::default(),
            range: Range {
                first: first.into(),
                last: last.into(),
            },
            share: u32::MAX,
        }
    }

    /// Six usable addresses: .253, .254 and 1.1 to 1.4.
    fn small() -> Self {
        Self::new([198, 18, 1, 253], [198, 18, 2, 4])
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("virtual-addresses.redb")
    }

    fn options(&self) -> Options {
        let (now, in_use) = (Arc::clone(&self.now), Arc::clone(&self.in_use));
        Options {
            range: self.range,
            names_per_agent: self.share,
            clock: Arc::new(move || {
                SystemTime::UNIX_EPOCH + Duration::from_secs(now.load(Ordering::Relaxed))
            }),
            in_use: Arc::new(move |_, _| in_use.load(Ordering::Relaxed)),
        }
    }

    /// Opens; the owner thread of an instance dropped just before may still hold the lock.
    fn open(&self) -> VirtualAddresses {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            match VirtualAddresses::open(&self.path(), self.options()) {
                Ok(opened) => return opened,
                Err(OpenError::InUse { .. }) if std::time::Instant::now() < deadline => {
                    std::thread::yield_now();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn pass(&self, seconds: u64) {
        self.now.fetch_add(seconds, Ordering::Relaxed);
    }
}

fn name(text: impl AsRef<str>) -> HostName {
    text.as_ref().parse().unwrap()
}

#[tokio::test]
async fn a_virtual_address_means_the_same_name_after_a_restart_and_an_hour() {
    let place = Place::new([198, 18, 1, 0], [198, 19, 255, 255]);
    let before = place.open();
    let a = before.answer(&name("a.example"), AGENT).await.unwrap();
    let b = before.answer(&name("b.example"), AGENT).await.unwrap();
    assert_eq!(a.v4, Ipv4Addr::new(198, 18, 1, 1), "not the .0");
    assert_eq!(
        a.v6,
        "fd41:6775:6172:6400::100".parse::<Ipv6Addr>().unwrap()
    );
    drop(before);
    place.pass(3600);
    let after = place.open();
    for (pair, expected) in [(a, "a.example"), (b, "b.example")] {
        for ip in [IpAddr::V4(pair.v4), IpAddr::V6(pair.v6)] {
            assert_eq!(after.name_behind(ip), Some(name(expected)), "{ip}");
        }
    }
    let mapped = IpAddr::V6(a.v4.to_ipv6_mapped());
    assert_eq!(after.name_behind(mapped), Some(name("a.example")));
    assert_eq!(after.answer(&name("a.example"), AGENT).await.unwrap(), a);
    let c = after.answer(&name("c.example"), AGENT).await.unwrap();
    assert!(
        c.v6 > b.v6 && c.v4 > b.v4,
        "what was given out is not given out again"
    );
    assert_eq!(after.name_behind("198.18.0.1".parse().unwrap()), None);
}

#[tokio::test]
async fn addresses_run_out_and_come_back_a_week_after_the_last_answer() {
    let place = Place::small();
    let addresses = place.open();
    let mut given = BTreeSet::new();
    for n in 0..6 {
        let pair = addresses
            .answer(&name(format!("n{n}.example")), AGENT)
            .await
            .unwrap();
        assert!(![0, 255].contains(&pair.v4.octets()[3]), "{}", pair.v4);
        assert!(given.insert(pair.v4));
    }
    let x = name("x.example");
    let another = || addresses.answer(&x, AGENT);
    assert_eq!(another().await, Err(Refused::Exhausted(6)));
    let old = addresses.pair(&name("n3.example")).unwrap();

    place.pass(6 * DAY);
    for n in [0, 1, 2, 4, 5] {
        addresses
            .answer(&name(format!("n{n}.example")), AGENT)
            .await
            .unwrap();
    }
    assert_eq!(
        another().await,
        Err(Refused::Exhausted(6)),
        "six days are not seven"
    );
    place.pass(2 * DAY);
    place.in_use.store(true, Ordering::Relaxed);
    assert_eq!(
        another().await,
        Err(Refused::Exhausted(6)),
        "somebody who was given it lives"
    );
    place.in_use.store(false, Ordering::Relaxed);
    assert_eq!(
        another().await,
        Err(Refused::Exhausted(6)),
        "a search in vain is not repeated at once"
    );
    place.pass(pool::RECLAIM_PAUSE);
    let pair = another().await.unwrap();
    assert_eq!(
        pair.v4, old.v4,
        "the one that was not answered for eight days"
    );
    assert!(pair.v6 > old.v6, "an IPv6 address is not used again");
    assert_eq!(addresses.name_behind(IpAddr::V6(old.v6)), None);
    assert_eq!(
        addresses.name_behind(IpAddr::V4(old.v4)),
        Some(name("x.example"))
    );
    assert_eq!(addresses.pair(&name("n3.example")), None);

    drop(addresses);
    let addresses = place.open();
    assert_eq!(
        addresses.name_behind(IpAddr::V4(old.v4)),
        Some(name("x.example"))
    );
    assert_eq!(addresses.len(), 6);
}

#[tokio::test]
async fn a_crash_does_not_shorten_the_hold() {
    let place = Place::small();
    let addresses = place.open();
    for n in 0..6 {
        addresses
            .answer(&name(format!("n{n}.example")), AGENT)
            .await
            .unwrap();
    }
    // These answers come from memory; what is on disk is almost an hour older.
    place.pass(GRANULARITY.as_secs() - 1);
    let held = addresses.answer(&name("n0.example"), AGENT).await.unwrap();
    drop(addresses);
    place.pass(HOLD.as_secs());
    let addresses = place.open();
    assert_eq!(
        addresses.answer(&name("x.example"), AGENT).await,
        Err(Refused::Exhausted(6))
    );
    assert_eq!(
        addresses.name_behind(IpAddr::V4(held.v4)),
        Some(name("n0.example"))
    );
}

#[tokio::test]
async fn one_agent_uses_up_its_share_and_nobody_elses() {
    let mut place = Place::small();
    place.share = 2;
    let addresses = place.open();
    for n in 0..2 {
        addresses
            .answer(&name(format!("n{n}.example")), AGENT)
            .await
            .unwrap();
    }
    let third = name("n2.example");
    assert_eq!(
        addresses.answer(&third, AGENT).await,
        Err(Refused::ShareUsed(2))
    );
    let pair = addresses.answer(&third, AgentId(2)).await.unwrap();
    assert_eq!(
        addresses.answer(&third, AGENT).await,
        Ok(pair),
        "a known name costs nothing"
    );
    drop(addresses);
    let addresses = place.open();
    let fourth = name("n3.example");
    assert_eq!(
        addresses.answer(&fourth, AGENT).await,
        Err(Refused::ShareUsed(2)),
        "the share is counted after a restart too"
    );
    place.pass(8 * DAY);
    addresses.answer(&fourth, AGENT).await.unwrap();
}

#[test]
fn a_database_that_cannot_be_read_is_no_new_beginning() {
    let whole = |place: &Place| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let addresses = place.open();
        for n in 0..5 {
            let name = name(format!("n{n}.example"));
            runtime.block_on(addresses.answer(&name, AGENT)).unwrap();
        }
        drop(addresses);
        drop(place.open());
        wait_until_free(place);
        std::fs::read(place.path()).unwrap()
    };
    type Damage = fn(Vec<u8>) -> Vec<u8>;
    let damages: [(&str, Damage); 4] = [
        ("emptied", |_| Vec::new()),
        ("cut", |bytes| bytes[..bytes.len() / 3].to_vec()),
        ("of another kind", |_| b"# not a database\n".repeat(5000)),
        ("overwritten", |mut bytes| {
            for byte in bytes.iter_mut().skip(4096) {
                *byte ^= 0x55;
            }
            bytes
        }),
    ];
    for (what, damage) in damages {
        let place = Place::small();
        let bytes = damage(whole(&place));
        std::fs::write(place.path(), &bytes).unwrap();
        let error = VirtualAddresses::open(&place.path(), place.options()).unwrap_err();
        assert!(
            matches!(error, OpenError::Corrupt { .. }),
            "{what}: {error}"
        );
        let text = error.to_string();
        assert!(text.contains("virtual-addresses.redb"), "{text}");
        assert!(text.contains("Restore the file"), "{text}");
    }
}

fn wait_until_free(place: &Place) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while matches!(
        Store::reopen(&place.path(), place.range),
        Err(OpenError::InUse { .. })
    ) {
        assert!(
            std::time::Instant::now() < deadline,
            "the database stays locked"
        );
        std::thread::yield_now();
    }
}

#[test]
fn a_database_in_use_or_of_another_range_is_refused() {
    let mut place = Place::small();
    let addresses = place.open();
    let second = VirtualAddresses::open(&place.path(), place.options()).unwrap_err();
    assert!(matches!(second, OpenError::InUse { .. }), "{second}");
    drop(addresses);
    wait_until_free(&place);
    place.range.last = [198, 18, 9, 9].into();
    let other = VirtualAddresses::open(&place.path(), place.options()).unwrap_err();
    assert!(matches!(other, OpenError::Foreign { .. }), "{other}");
}

#[test]
fn two_names_with_one_address_are_found_at_opening() {
    let place = Place::small();
    drop(place.open());
    wait_until_free(&place);
    let store = Store::open(&place.path(), place.range).unwrap();
    let (_, mut pool) = Pool::load(&store, place.range).unwrap();
    let pair = pool.take(1).unwrap();
    let held = ["a.example", "b.example"].map(|text| Held {
        name: name(text),
        pair,
        owner: 1,
        stored: AtomicU64::new(0),
    });
    store.commit(held.iter(), 0, &pool).unwrap();
    drop(store);
    let error = VirtualAddresses::open(&place.path(), place.options()).unwrap_err();
    assert!(error.to_string().contains("shares an address"), "{error}");
}

#[tokio::test]
async fn after_a_commit_that_failed_the_database_is_read_again() {
    let place = Place::small();
    let addresses = place.open();
    let a = addresses.answer(&name("a.example"), AGENT).await.unwrap();
    drop(addresses);
    wait_until_free(&place);
    let store = Store::open(&place.path(), place.range).unwrap();
    let (held, pool) = Pool::load(&store, place.range).unwrap();
    let mut names = Names::default();
    for held in held {
        names.insert(held);
    }
    let options = place.options();
    let mut owner = Owner {
        store: Some(store),
        pool,
        shared: Arc::new(Shared {
            names: RwLock::new(names),
            clock: Arc::clone(&options.clock),
            path: place.path(),
        }),
        options,
        reopen_after: 0,
    };
    let ask = |owner: &mut Owner, text: &str| {
        let (reply, mut replied) = oneshot::channel();
        owner.serve(vec![Request {
            name: name(text),
            agent: AGENT,
            reply,
        }]);
        replied.try_recv().unwrap()
    };
    // As a failed commit leaves it, with the disk still full.
    owner.store = None;
    owner.reopen_after = owner.shared.now() + REOPEN_PAUSE;
    assert!(matches!(
        ask(&mut owner, "b.example"),
        Err(Refused::Storage(_))
    ));
    assert_eq!(
        owner.shared.fresh(&name("a.example")),
        Some(a),
        "what is known stays"
    );
    assert_eq!(
        owner.shared.fresh(&name("b.example")),
        None,
        "nothing is given out"
    );
    place.pass(2 * REOPEN_PAUSE);
    let b = ask(&mut owner, "b.example").unwrap();
    assert!(b.v4 > a.v4);
    // A file that somebody put in the place of ours does not become the truth.
    owner.store = None;
    std::fs::remove_file(place.path()).unwrap();
    drop(Store::open(&place.path(), place.range).unwrap());
    place.pass(2 * REOPEN_PAUSE);
    let refused = ask(&mut owner, "c.example").unwrap_err();
    assert!(refused.to_string().contains("replaced"), "{refused}");
    assert_eq!(owner.shared.fresh(&name("a.example")), Some(a));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever is asked for in whatever order, with days and restarts in between: no address means
    /// two names, and no name changes its address within the hold.
    #[test]
    fn an_address_means_one_name(
        steps in proptest::collection::vec((0_u8..12, 0_u64..3, prop::bool::weighted(0.15)), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let place = Place::small();
        let mut addresses = place.open();
        let mut last: HashMap<HostName, (Pair, u64)> = HashMap::new();
        let mut meaning6: HashMap<Ipv6Addr, HostName> = HashMap::new();
        for (n, days, restart) in steps {
            place.pass(days * DAY);
            if restart {
                drop(addresses);
                addresses = place.open();
            }
            let now = place.now.load(Ordering::Relaxed);
            let name = name(format!("n{n}.example"));
            let Ok(pair) = runtime.block_on(addresses.answer(&name, AGENT)) else {
                continue;
            };
            prop_assert_eq!(addresses.name_behind(IpAddr::V4(pair.v4)), Some(name.clone()));
            let owner = meaning6.entry(pair.v6).or_insert_with(|| name.clone());
            prop_assert_eq!(&*owner, &name, "IPv6 is never used again");
            for (other, (held, answered)) in &last {
                if now - answered <= HOLD.as_secs() {
                    prop_assert_eq!(other == &name, held == &pair, "{} {}", other, name);
                    prop_assert_eq!(other == &name, held.v4 == pair.v4);
                }
            }
            last.insert(name, (pair, now));
        }
    }
}

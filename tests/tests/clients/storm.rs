//! A storm: more than 300 streams at once against nested budgets, while providers fail, clients go away and the daemon is
//! killed.
//!
//! Three keep books that know nothing of each other: the provider bills what its models made until it saw that nobody
//! listens, the clients count the words they got, and the guard has its ledger and its record. Behind the storm they are
//! compared, call by call and account by account.
//!
//! Many wait for each other in the middle of their answers, also when the daemon is killed: what their providers write
//! meanwhile is seen by nobody, and charged all the same. Where the ledger is in a Redis, that is killed in the second wave,
//! twice, and perhaps before the daemon in the first.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where it cannot go on, helpers included"
)]

#[path = "storm/books.rs"]
mod books;
#[path = "storm/killed.rs"]
mod killed;
#[path = "storm/notes.rs"]
mod notes;
#[path = "storm/plan.rs"]
mod plan;
#[path = "storm/store.rs"]
mod store;
#[path = "storm/terms.rs"]
mod terms;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agentguard_model::budget::Unit;
use agentguard_tests::{Guard, Origin, Process, World, address, client, wait_until};
use anyhow::{Context as _, Result};
use serde_json::json;

use crate::serving::serving;
use books::{Faults, compare};
use notes::{End, Provider, Told, accounts, notes};
use plan::{Call, GATHERED, Random, calls, planned};
use store::{Cut, Store};
use terms::{AGENTS, ANTHROPIC, OPENAI, agent, policy, prices};

const SITES: [&str; 2] = [OPENAI, ANTHROPIC];

/// How long a wave may take: its slowest stream, and the waiting for what others hold.
const WAVE: Duration = Duration::from_secs(45);

/// How long books may be behind.
const LATE: Duration = Duration::from_secs(15);

/// A world in a storm.
struct Storm<'w> {
    world: &'w World,
    guard: Guard<'w>,
    provider: Provider,
    clients: Vec<Process>,
    calls: Vec<Call>,
    /// The daemon's end, where the ledger does not end with it.
    cut: Option<Cut>,
}

fn world(name: &str) -> Result<World> {
    let origin = Origin::at(&address::origin(0x10)).leave(443);
    let origin = SITES.into_iter().fold(origin, Origin::site);
    World::new(name).origin(origin).start()
}

/// Starts the program that plays the providers.
fn provider(world: &World, python: &Path) -> Result<Provider> {
    let (certificate, key) = world.ca().certify_pem(&SITES.map(str::to_owned))?;
    let files = ["server.pem", "server-key.pem"].map(|name| world.directory().join(name));
    fs::write(&files[0], certificate)?;
    fs::write(&files[1], key)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/storm_server.py");
    let server = world.internet().command(python).arg(script).arg("443");
    Ok(Provider(serving(server.args(files))?))
}

impl<'w> Storm<'w> {
    /// Everybody stands ready.
    fn gathers(
        world: &'w World,
        python: &Path,
        store: &Store<'w>,
        calls: Vec<Call>,
    ) -> Result<Self> {
        let provider = provider(world, python)?;
        let prices_file = world.directory().join("prices.yaml");
        fs::write(&prices_file, prices())?;
        let guard = world
            .guard()
            .policy(&policy())
            .setting(
                "upstreams",
                json!([{ "host": SITES, "ca": world.ca_file() }]),
            )
            .setting("prices", json!(prices_file));
        let guard = store.configure(world, guard)?.start()?;
        let authorities = world.directory().join("authorities.pem");
        let export = guard
            .cli()
            .args(["ca", "export", "--out"])
            .arg(&authorities);
        export.run()?.success()?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/storm_client.py");
        let mut clients = Vec::new();
        let agents = calls.iter().map(|it| it.agent).max().context("no call")? + 1;
        for number in 0..agents {
            let plan = world.directory().join(format!("plan-{number}"));
            fs::write(&plan, planned(&calls, number))?;
            // In a cgroup that is there before the daemon, and stays when it is gone.
            let cgroup = guard.agent_cgroup(&agent(number))?;
            let words = [
                python,
                &script,
                &plan,
                &authorities,
                &world.directory().join("go-"),
            ];
            clients.push(guard.within(&cgroup, words).spawn()?);
        }
        let storm = Self {
            world,
            guard,
            provider,
            clients,
            calls,
            cut: None,
        };
        storm.said("ready", 1)?;
        Ok(storm)
    }

    /// Waits until each client has said this so often.
    fn said(&self, word: &str, times: usize) -> Result<()> {
        let has = |it: &Process| it.stdout().lines().filter(|line| *line == word).count() >= times;
        let said = wait_until(word, WAVE, || self.clients.iter().all(has).then_some(()));
        said.with_context(|| self.clients.iter().map(Process::stderr).collect::<String>())
    }

    /// Begins a wave.
    fn begins(&self, wave: usize) -> Result<()> {
        Ok(fs::write(
            self.world.directory().join(format!("go-{wave}")),
            "",
        )?)
    }

    /// The accounts, once nobody holds anything any more.
    fn settled(&self) -> Result<BTreeMap<String, Told>> {
        let mut told = BTreeMap::new();
        let settled = wait_until("nothing to be held", LATE, || {
            told = accounts(&self.guard).ok()?;
            told.values().all(|it| it.held == 0).then_some(())
        });
        settled.with_context(|| format!("{told:#?}"))?;
        Ok(told)
    }

    /// Waits until all is over at the provider.
    fn calms(&self) -> Result<()> {
        wait_until("the provider", LATE, || {
            (self.provider.under_way().0 == 0).then_some(())
        })
    }
}

/// Whether there is room for a call and its like of other agents, or none for any; unknown in between.
fn has_room(call: &Call, told: &BTreeMap<String, Told>) -> Option<bool> {
    let rooms = call.accounts().into_iter().map(|account| {
        let left = account
            .limit
            .saturating_sub(told.get(&account.name).map_or(0, |it| it.used));
        let needed = call.bound(account.unit, None)
            * if account.name.contains("agent=") {
                1
            } else {
                20
            };
        let nothing = match account.unit {
            Unit::OutputTokens => left < 16,
            Unit::Calls => left == 0,
            _ => false,
        };
        (left >= needed, nothing)
    });
    let rooms: Vec<_> = rooms.collect();
    match () {
        () if rooms.iter().any(|it| it.1) => Some(false),
        () if rooms.iter().all(|it| it.0) => Some(true),
        () => None,
    }
}

/// Small calls, one of each agent, go where there is room, and are told where there is none.
fn afterwards(storm: &Storm<'_>, told: &BTreeMap<String, Told>, faults: &mut Faults) -> Result<()> {
    storm.begins(2)?;
    storm.said("over", 3)?;
    let notes = notes(&storm.clients);
    let mut went: BTreeMap<(Option<bool>, End), usize> = BTreeMap::new();
    for call in storm.calls.iter().filter(|it| it.wave == 2) {
        let note = notes.get(&call.number).context("no note")?;
        let room = has_room(call, told);
        *went.entry((room, note.end)).or_default() += 1;
        let (done, refused) = (note.end == End::Done, note.end == End::Refused);
        faults.unless(room != Some(true) || (done && note.words == 20), || {
            format!("there is room: {note:?}")
        });
        faults.unless(room != Some(false) || refused, || {
            format!("there is none: {note:?}")
        });
        // Where less is left than it needs, and enough for an answer, its limit is lowered to that.
        let answered = done && (16..=20).contains(&note.words);
        let spent = note.is_for_want() && note.retry.as_deref() == Some("false");
        faults.unless(answered || spent, || format!("{room:?}: {note:?}"));
    }
    eprintln!("small calls by whether there is room: {went:?}");
    Ok(())
}

/// All that happens, against a ledger.
fn storm<'w>(world: &'w World, python: &Path, store: &Store<'w>) {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = std::env::var("AGENTGUARD_STORM")
        .map_or(clock.subsec_nanos().into(), |it| it.parse().unwrap());
    eprintln!("AGENTGUARD_STORM={seed} makes the same storm");
    let mut random = Random(seed);
    let calls = calls(&mut random);
    let mut storm = Storm::gathers(world, python, store, calls).unwrap();

    let begun = Instant::now();
    let told_at = |what: &str| eprintln!("after {:.1} s: {what}", begun.elapsed().as_secs_f64());
    storm.begins(0).unwrap();
    // The small ones are over by then, those that are refused, and some more.
    let enough = AGENTS + usize::try_from(random.within(60, 130)).unwrap();
    wait_until("the midst of the storm", WAVE, || {
        let (under_way, over) = storm.provider.under_way();
        (under_way >= 100 && over >= enough && storm.provider.peak() >= GATHERED).then_some(())
    })
    .unwrap();
    let (under_way, over) = storm.provider.under_way();
    told_at(&format!(
        "{under_way} under way, {over} over, and the daemon is killed"
    ));
    store.kills(&mut storm, &mut random).unwrap();
    storm.said("over", 1).unwrap();
    storm.calms().unwrap();
    store.expires().unwrap();
    let between = storm.settled().unwrap();

    told_at("the second wave");
    storm.begins(1).unwrap();
    store.restarts(&storm, &mut random).unwrap();
    storm.said("over", 2).unwrap();
    storm.calms().unwrap();

    told_at("calm");
    let told = storm.settled().unwrap();
    let mut faults = Faults::default();
    afterwards(&storm, &told, &mut faults).unwrap();
    let told = storm.settled().unwrap();
    compare(&storm, &between, &told, &mut faults).unwrap();
    told_at("compared");
    let Faults(faults) = faults;
    assert!(
        faults.is_empty(),
        "seed {seed}: {} faults\n{}",
        faults.len(),
        faults.join("\n")
    );
}

#[test]
fn a_storm_is_charged_for_what_it_was_billed_and_holds_nothing_afterwards() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("storm").unwrap();
    storm(&world, &python, &Store::Embedded);
}

#[test]
fn a_storm_is_charged_in_redis_which_ends_and_comes_back_in_its_midst() {
    let (Some(python), Some(_)) = (
        client::python().unwrap(),
        client::find("redis-server").unwrap(),
    ) else {
        return;
    };
    let world = world("storm-shared").unwrap();
    storm(&world, &python, &Store::shared(&world));
}

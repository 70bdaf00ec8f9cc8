//! The half without rights: names, proxy, decisions, record, control.
//!
//! What it knows of agents, policy and listeners comes from the keeper, message by message; what it
//! wants of the kernel it asks the keeper for.

mod adopted;
mod alerts;
mod budgets;
mod clock;
mod deeds;
mod ebb;
mod events;
mod gate;
mod ledger;
mod limits;
mod link;
mod local;
mod names;
mod pins;
mod proxy;
mod published;
mod real_names;
mod resources;
mod sequences;
mod status;
mod switches;
mod telemetry;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use agentguard_budget::AnyLedger;
use agentguard_budget::prices::Prices;
use agentguard_control::Sources;
use agentguard_decision::{Accounting, Decider, Directory, Policies};
use agentguard_keeper::gate::view::View;
use agentguard_keeper::groups::Groups;
use agentguard_keeper::message::{Start, ToKeeper, ToWorker};
use agentguard_keeper::namespace::{Listening, Trio};
use agentguard_keeper::{documents, worker};
use agentguard_model::record::RecordLimits;
use agentguard_names::{Names, Server, Upstream, VirtualAddresses, upstream, virtual_addresses};
use agentguard_pins::Pins;
use agentguard_proxy::{EventLoops, Limits, Shared, Tls};
use agentguard_record::{Options, Record};
use agentguard_telemetry::Watched;
use anyhow::{Context as _, bail};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ebb::{Connections, Ebb};
use gate::Gate;
use link::Link;
use names::NamesPort;
use proxy::ProxyPort;
use real_names::{NamesBehind, RealNames};
use status::Board;
use telemetry::Telling;

/// The record, and figures of what goes into it.
type Recorded = Watched<Record>;

/// How often the worker looks whether it can record.
const LOOK: Duration = Duration::from_millis(250);
/// How often the guard forgets original destinations that nobody accepted.
const SWEEP: Duration = Duration::from_secs(30);
/// How often the worker gives back what connections held that have gone.
const EBB: Duration = Duration::from_secs(5);
/// How long a thread that carries connections may have no turn before the worker gives no sign of life: longer than
/// what agents send can keep one at work, so that none of them ends direct flows of the others, or the worker.
const STANDS_STILL: Duration = Duration::from_secs(20);
/// How long the keeper may say nothing before `status` says so: it says something each second, and the
/// gate hears of it that the daemon is there, for five.
const SILENT: Duration = Duration::from_secs(4);

/// How much of the stack a thread may use: addresses, and no memory until it does. What a request is within a tunnel
/// within another is one future, which is many times as large without optimisation.
const STACK: usize = 8 << 20;

/// Runs the worker until the keeper says to stop, or is gone.
pub(crate) fn run() -> anyhow::Result<()> {
    worker::keep_little();
    worker::keep_mapped().context("the allocator does not take how it is to keep memory")?;
    #[cfg(debug_assertions)]
    if worker::hostile::attempt_freely() {
        return Ok(());
    }
    let keeper = worker::keeper()
        .context("the worker is started by the daemon only; hint: `agentguard daemon`")?;
    worker::renounce().context("the worker cannot give up privileges")?;
    let Some((ToWorker::Start(start), descriptors)) = keeper.recv::<ToWorker>()? else {
        bail!("the keeper did not say what to do");
    };
    #[cfg(debug_assertions)]
    if worker::hostile::attempt(&keeper, &descriptors) {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("worker")
        .thread_stack_size(STACK)
        .build()?;
    runtime.block_on(serve(*start, descriptors, keeper))
}

/// The rooms, once the first policy is there.
struct Rooms {
    decider: Decider<Recorded>,
    policies: Arc<Policies>,
    resolver: Server<NamesPort>,
    proxy: Arc<ProxyPort>,
    behind: NamesBehind,
    upstreams: Arc<Shared<Recorded>>,
}

/// What is served in one network namespace.
struct Place {
    shutdown: CancellationToken,
}

/// How the record is kept.
fn options(limits: &RecordLimits) -> Options {
    Options {
        max_bytes: Some(limits.max_bytes),
        quota: limits.agent_share.into(),
        ..Options::default()
    }
}

async fn serve(
    start: Start,
    mut descriptors: Vec<OwnedFd>,
    keeper: agentguard_keeper::packet::Packet,
) -> anyhow::Result<()> {
    let agents = descriptors
        .pop()
        .context("the keeper passed no socket for agents")?;
    let control = descriptors
        .pop()
        .context("the keeper passed no control socket")?;
    let metrics = match start.telemetry.prometheus {
        Some(_) => Some(
            descriptors
                .pop()
                .context("the keeper passed no socket for figures")?,
        ),
        None => None,
    };
    let (mut telling, feed) = Telling::new(&start.telemetry, metrics);
    let (view, events) = View::new(descriptors)?;
    let gate = Arc::new(Gate::new(view));
    let directory = Arc::new(Directory::default());
    let (link, mut messages) = Link::new(keeper)?;
    let record = Record::open(&start.state_dir.join("record"), options(&start.record))?;
    let recorded = Recorded::new(record.clone(), feed);
    let ledger = ledger::open(&start).await?;
    let freezer = link.clone();
    let accounting = Accounting::new(ledger.ledger()).freezing(Box::new(move |agent, budget| {
        let budget = budget.to_owned();
        // The next call that is refused says it again.
        freezer.mention(ToKeeper::Spent { agent, budget });
    }));
    let accounting = Arc::new(accounting);
    let pins = Arc::new(Pins::open(&start.state_dir.join("names/tools.redb"))?);
    let direct = Arc::<AtomicUsize>::default();
    let board = Arc::new(Board::new(&start));
    let mut kept = ledger::Kept::new(ledger.clone(), start.ledger.as_ref());
    kept.look(&board);
    let names = open_names(&start, &link, &board)?;
    let tls = Tls::new(start.upstreams.clone());
    // As many as the runtime's, which the keeper has chosen.
    let threads = tokio::runtime::Handle::current().metrics().num_workers();
    let loops = EventLoops::start(threads, STACK)?;
    let upstreams = Arc::new(Shared::new(tls, Limits::default(), loops));
    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();
    let mut events = Some(events);
    let mut control = Some(control);
    let mut agents = Some(agents);
    let mut rooms: Option<Rooms> = None;
    // A moment before the policy in force was put there.
    let renewed = watch::Sender::new(Timestamp::now());
    let mut switches = switches::Set::default();
    let mut places: HashMap<u64, Place> = HashMap::new();
    let mut sweep = tokio::time::interval(SWEEP);
    let mut look = tokio::time::interval(LOOK);
    let mut ebbs = tokio::time::interval_at(tokio::time::Instant::now() + EBB, EBB);
    let mut ebb = Ebb::of_a_start();
    let mut starts = true;
    let mut recording = true;
    // The worker is alive as long as every thread that carries connections is.
    let mut turn = tokio::spawn(upstreams.turn());
    let mut turned = Instant::now();
    let mut trusted = JoinSet::new();
    let mut heard = Instant::now();
    let drain = loop {
        let (message, descriptors) = tokio::select! {
            message = messages.recv() => match message {
                Some(message) => {
                    heard = Instant::now();
                    message
                }
                // The keeper is gone, and with it everything the worker could ask for.
                None => bail!("the keeper is gone"),
            },
            trusts = trusted.join_next(), if !trusted.is_empty() => {
                trusts.transpose()?.transpose()?;
                continue;
            }
            _ = sweep.tick() => {
                gate.sweep();
                continue;
            }
            _ = ebbs.tick() => {
                if ebb.has_come(connections(&upstreams)) {
                    let started = std::mem::take(&mut starts);
                    tasks.spawn_blocking(move || {
                        worker::give_back();
                        if started {
                            worker::unmap_code();
                        }
                    });
                }
                continue;
            }
            _ = look.tick() => {
                if heard.elapsed() > SILENT {
                    board.keeper_is_silent();
                }
                ebb.see(connections(&upstreams));
                let possible = record.status().degraded.is_none();
                if possible != recording {
                    recording = possible;
                    link.tell(ToKeeper::Recording { possible }).await;
                }
                kept.look(&board);
                if let Some(telling) = &telling {
                    board.telemetry(telling.status());
                }
                if turn.is_finished() {
                    turn = tokio::spawn(upstreams.turn());
                    turned = Instant::now();
                }
                if turned.elapsed() < STANDS_STILL {
                    link.tell(ToKeeper::Alive).await;
                }
                continue;
            }
        };
        match message {
            ToWorker::Agent { id, name } => directory.agent(id, name),
            ToWorker::Run {
                run,
                context,
                labels,
                ..
            } => {
                directory.run(run, status::context(context), labels);
            }
            ToWorker::RunEnded { run } => directory.run_ended(run),
            ToWorker::Policy { generation } => {
                // Now, and again once it decides here: what the policy before asks for meanwhile is answered by this one.
                link.renewed();
                let file = descriptors
                    .into_iter()
                    .next()
                    .context("a policy without documents")?;
                let handed = documents::open(file)?;
                let policy = super::keeper::compile(&handed.documents)?;
                board.policy(&policy, &handed.documents, handed.users);
                let prices = prices(handed.prices.as_ref())?;
                let file = handed.prices.as_ref().map(|(path, _)| path.as_str());
                accounting.price(prices.clone());
                board.prices(&prices, file);
                board.switches(switches.shown(policy.switches()));
                let before = Timestamp::now();
                match &rooms {
                    Some(rooms) => {
                        rooms.policies.put(generation, policy);
                        renewed.send_replace(before);
                    }
                    None => {
                        let policies = Arc::new(Policies::new(generation, policy));
                        renewed.send_replace(before);
                        let clock = clock::follow(policies.clone(), renewed.subscribe());
                        let over = shutdown.clone();
                        tasks.spawn(async move { over.run_until_cancelled(clock).await });
                        let decider = Decider::new(
                            policies.clone(),
                            directory.clone(),
                            Arc::new(recorded.clone()),
                        );
                        let decider = decider.pinning(Arc::new(pins::Kept(pins.clone())));
                        let decider = decider.charging(accounting.clone());
                        let watched =
                            alerts::watch(decider.clone(), ledger.clone(), accounting.clone());
                        let over = shutdown.clone();
                        tasks.spawn(async move { over.run_until_cancelled(watched).await });
                        rooms = Some(open_rooms(
                            &policies, decider, &gate, &names, &link, &upstreams,
                        ));
                    }
                }
                link.renewed();
                link.tell(ToKeeper::Taken { generation }).await;
            }
            ToWorker::Listeners { netns, v6 } => {
                let rooms = rooms.as_ref().context("listeners before a policy")?;
                let listening = Listening::from_descriptors(netns, descriptors)
                    .filter(|listening| listening.v6.is_some() == v6)
                    .context("listeners without their sockets")?;
                board.listening(&listening)?;
                let shutdown = shutdown.child_token();
                for trio in [Some(listening.v4), listening.v6].into_iter().flatten() {
                    listen(rooms, netns, trio, &shutdown, &tasks)?;
                }
                places.insert(netns, Place { shutdown });
            }
            ToWorker::NoListeners { netns } => {
                board.not_listening(netns);
                if let Some(place) = places.remove(&netns) {
                    place.shutdown.cancel();
                }
            }
            ToWorker::Quarantine {
                number,
                agent,
                quarantined,
            } => {
                let rooms = rooms.as_ref().context("a quarantine before a policy")?;
                rooms.decider.quarantine(agent, quarantined);
                let (upstreams, link) = (rooms.upstreams.clone(), link.clone());
                tasks.spawn(async move {
                    if quarantined {
                        upstreams.cut(agent).await;
                    }
                    link.tell(ToKeeper::Cut { number }).await;
                });
            }
            ToWorker::Switch { number, name, set } => {
                let rooms = rooms.as_ref().context("a switch before a policy")?;
                switches.put(name, set);
                rooms.policies.switch(switches.switches());
                board.switches(switches.shown(rooms.policies.current().switches()));
                link.tell(ToKeeper::Cut { number }).await;
            }
            ToWorker::Tools { number, order, uid } => {
                let rooms = rooms.as_ref().context("an order before a policy")?;
                let (pins, decider) = (pins.clone(), rooms.decider.clone());
                let link = link.clone();
                tasks.spawn(async move {
                    let answer = pins::obey(*order, uid, &pins, &decider).await;
                    link.tell(ToKeeper::Answered { number, answer }).await;
                });
            }
            ToWorker::Budget { number, order, uid } => {
                let rooms = rooms.as_ref().context("an order before a policy")?;
                let (ledger, decider) = (ledger.clone(), rooms.decider.clone());
                let (policy, link) = (rooms.policies.current(), link.clone());
                tasks.spawn(async move {
                    let answer = budgets::obey(*order, uid, policy, ledger, &decider).await;
                    link.tell(ToKeeper::Answered { number, answer }).await;
                });
            }
            ToWorker::Limits { number, order, uid } => {
                let rooms = rooms.as_ref().context("an order before a policy")?;
                let (decider, link) = (rooms.decider.clone(), link.clone());
                tasks.spawn(async move {
                    let answer = limits::obey(*order, uid, &decider).await;
                    link.tell(ToKeeper::Answered { number, answer }).await;
                });
            }
            ToWorker::Deed(deed) => {
                let rooms = rooms.as_ref().context("a change before a policy")?;
                let noted = deeds::note(*deed, rooms.decider.clone(), link.clone());
                let over = shutdown.clone();
                tasks.spawn(async move { over.run_until_cancelled(noted).await });
            }
            ToWorker::Closed { agent, sockets } => {
                let rooms = rooms.as_ref().context("closed sockets before a policy")?;
                let noted = adopted::note(agent, sockets, false, rooms.decider.clone());
                let over = shutdown.clone();
                tasks.spawn(async move { over.run_until_cancelled(noted).await });
            }
            ToWorker::Ended(ended) => {
                let rooms = rooms.as_ref().context("an ended flow before a policy")?;
                let noted = adopted::note_ended(*ended, rooms.decider.clone());
                let over = shutdown.clone();
                tasks.spawn(async move { over.run_until_cancelled(noted).await });
            }
            ToWorker::Tolerated { agent, sockets } => {
                let rooms = rooms
                    .as_ref()
                    .context("tolerated connections before a policy")?;
                let noted = adopted::note(agent, sockets, true, rooms.decider.clone());
                let over = shutdown.clone();
                tasks.spawn(async move { over.run_until_cancelled(noted).await });
            }
            ToWorker::Shut { agent, peers } => {
                let rooms = rooms.as_ref().context("what was closed before a policy")?;
                let noted = adopted::note_shut(agent, peers, rooms.decider.clone());
                let over = shutdown.clone();
                tasks.spawn(async move { over.run_until_cancelled(noted).await });
            }
            ToWorker::Past { agent, past } => {
                let rooms = rooms.as_ref().context("what is open before a policy")?;
                let noted = adopted::note_past(agent, past, rooms.decider.clone());
                let over = shutdown.clone();
                tasks.spawn(async move { over.run_until_cancelled(noted).await });
            }
            ToWorker::Usage(usage) => board.usage(usage),
            ToWorker::Resource { agent, event } => {
                let rooms = rooms.as_ref().context("a limit before a policy")?;
                let noted = resources::note(agent, event, rooms.decider.clone());
                let over = shutdown.clone();
                tasks.spawn(async move { over.run_until_cancelled(noted).await });
            }
            ToWorker::Belongs { request, whose } => link.belongs(request, whose),
            ToWorker::Published { request, refused } => link.published(request, refused),
            ToWorker::Signed { request, leaf } => link.signed(request, leaf),
            ToWorker::Governed { cgroup, governed } => board.govern(cgroup, governed),
            ToWorker::State(state) => board.state(&state, &directory),
            ToWorker::Serve => {
                let rooms = rooms.as_ref().context("told to serve without a policy")?;
                if let Some(events) = events.take() {
                    let task = events::consume(
                        events,
                        rooms.decider.clone(),
                        rooms.behind.clone(),
                        gate.clone(),
                        link.clone(),
                        direct.clone(),
                        shutdown.clone(),
                    )?;
                    tasks.spawn(task);
                }
                if let Some(telling) = &mut telling {
                    let asked = telemetry::Asked {
                        record: record.clone(),
                        policies: rooms.policies.clone(),
                        budgets: budgets::Figures::new(ledger.clone(), &tasks, &shutdown),
                        ledger: ledger.clone(),
                        guard: board.guard(),
                        agents: board.agents(),
                        keeper: board.keeper(),
                        gate: gate.clone(),
                        upstreams: upstreams.clone(),
                        names: names.clone(),
                        direct: direct.clone(),
                    };
                    telling.start(asked, board.governed(), start.groups)?;
                }
                if let Some(listener) = agents.take() {
                    local::serve(listener, &rooms.decider, &gate, &link, &tasks, &shutdown)?;
                }
                if let Some(control) = control.take() {
                    let sources = sources(rooms, &record, &board, start.groups, (&pins, &ledger));
                    let listener = std::os::unix::net::UnixListener::from(control);
                    listener.set_nonblocking(true)?;
                    let listener = tokio::net::UnixListener::from_std(listener)?;
                    tasks.spawn(agentguard_control::serve(
                        listener,
                        sources,
                        shutdown.clone(),
                    ));
                }
                // Some hundred files: agents wait for a worker that takes another's place, and only what
                // is inspected needs them.
                let upstreams = upstreams.clone();
                trusted.spawn_blocking(move || trust(&upstreams));
                board.ready();
                link.tell(ToKeeper::Ready).await;
            }
            ToWorker::Drain { within } => break within,
            ToWorker::Start(_) => bail!("the keeper said twice how to start"),
        }
    };
    board.draining();
    shutdown.cancel();
    tasks.close();
    if tokio::time::timeout(drain, tasks.wait()).await.is_err() {
        tracing::warn!("flows were cut: they did not end in time");
    }
    ledger::close(&ledger).await;
    record.close().await;
    if let Some(telling) = telling {
        telling.end().await;
    }
    Ok(())
}

/// The prices in force: what is built in, behind the operator's, whose path and text the keeper has handed over.
fn prices(own: Option<&(String, String)>) -> anyhow::Result<Arc<Prices>> {
    let prices = match own {
        Some((path, text)) => Prices::with(path, text)?,
        None => Prices::built_in().clone(),
    };
    Ok(Arc::new(prices))
}

fn open_names(start: &Start, link: &Link, board: &Arc<Board>) -> anyhow::Result<Names> {
    let (link, board) = (link.clone(), board.clone());
    let options = virtual_addresses::Options::new(Arc::new(move |name, pair| {
        if board.long_lived() {
            return true;
        }
        tracing::info!(%name, v4 = %pair.v4, "a virtual address is given to another name");
        link.retire(pair.v4.into());
        false
    }));
    let path = start.state_dir.join("names/virtual-addresses.redb");
    let addresses = VirtualAddresses::open(Path::new(&path), options)?;
    let upstream = Upstream::new(upstream::Config::new(start.resolvers.clone()))?;
    Ok(Names::new(addresses, upstream))
}

/// Whom upstreams have to be certified by: the system's authorities, and for some names the operator's.
fn trust(upstreams: &Shared<Recorded>) -> anyhow::Result<()> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "some of the system's authorities cannot be read");
    }
    if found.certs.is_empty() {
        tracing::warn!(
            "this host knows no certificate authority: inspected upstreams are verified by those \
             of the configuration alone; hint: apt-get install ca-certificates"
        );
    }
    upstreams
        .trust(&found.certs)
        .map_err(anyhow::Error::msg)
        .context("cannot prepare TLS")
}

fn open_rooms(
    policies: &Arc<Policies>,
    decider: Decider<Recorded>,
    gate: &Arc<Gate>,
    names: &Names,
    link: &Link,
    upstreams: &Arc<Shared<Recorded>>,
) -> Rooms {
    let real_names = Arc::new(RealNames::default());
    let port = NamesPort::new(
        decider.clone(),
        gate.clone(),
        link.clone(),
        real_names.clone(),
        upstreams.clone(),
    );
    let behind = NamesBehind::new(names.clone(), real_names);
    Rooms {
        resolver: Server::new(
            names.clone(),
            Arc::new(port),
            agentguard_names::Options::default(),
        ),
        proxy: Arc::new(ProxyPort::new(
            decider.clone(),
            gate.clone(),
            names.clone(),
            behind.clone(),
            link.clone(),
        )),
        behind,
        upstreams: upstreams.clone(),
        decider,
        policies: policies.clone(),
    }
}

fn connections(upstreams: &Shared<Recorded>) -> Connections {
    Connections {
        awake: upstreams.awake(),
        all: upstreams.clients(),
    }
}

fn listen(
    rooms: &Rooms,
    netns: u64,
    trio: Trio,
    shutdown: &CancellationToken,
    tasks: &TaskTracker,
) -> anyhow::Result<()> {
    let proxy = std::net::TcpListener::from(trio.proxy);
    let udp = std::net::UdpSocket::from(trio.resolver_udp);
    let tcp = std::net::TcpListener::from(trio.resolver_tcp);
    // The keeper made them so; a descriptor's flags are shared with whoever else holds it.
    proxy.set_nonblocking(true)?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    tasks.spawn(agentguard_proxy::serve(
        tokio::net::TcpListener::from_std(proxy)?,
        netns,
        rooms.decider.clone(),
        rooms.proxy.clone(),
        rooms.upstreams.clone(),
        shutdown.clone(),
    ));
    let udp = agentguard_names::readers(&udp)?;
    let tcp = tokio::net::TcpListener::from_std(tcp)?;
    tasks.spawn(rooms.resolver.clone().udp(udp, netns, shutdown.clone()));
    tasks.spawn(rooms.resolver.clone().tcp(tcp, netns, shutdown.clone()));
    Ok(())
}

fn sources(
    rooms: &Rooms,
    record: &Record,
    board: &Board,
    groups: Groups,
    (pins, ledger): (&Arc<Pins>, &AnyLedger),
) -> Sources {
    Sources {
        pins: pins.clone(),
        ledger: ledger.clone(),
        limits: rooms.decider.limits().clone(),
        record: record.clone(),
        policy: rooms.policies.watch(),
        agents: board.agents(),
        guard: board.guard(),
        governed: board.governed(),
        groups,
        users: board.users(),
    }
}

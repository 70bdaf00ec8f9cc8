//! Clients of the keeper's own socket: those who change the guard.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentguard_control::peer::{self, Accepted, Rights};
use agentguard_control::seats::{Seat, Seats};
use agentguard_control::sparing::Sparing;
use agentguard_keeper::ca::CaError;
use agentguard_keeper::groups::APPROVE;
use agentguard_keeper::message::{Answer, BudgetOrder, Command, Ended, LimitOrder, ToolsOrder};
use agentguard_keeper::packet::{Listener, Packet, Peer};
use agentguard_keeper::sockets;
use agentguard_keeper::spawn;
use agentguard_keeper::spawn::message::{Refusal, ToClient};
use agentguard_model::{AgentId, AgentName};
use anyhow::bail;

use super::authorities::Authorities;
use super::host::RunHost;
use super::state::{Asked, Keeper};
use super::{Shared, adoption, lock, resources, told};

/// Clients of root at once, runs among them. Further ones are closed at once.
const CLIENTS: usize = 4096;
/// Clients of other users at once, runs among them; further ones are closed at once.
const CLIENTS_OF_OTHERS: usize = 1024;
/// Of these, those of one user.
const CLIENTS_OF_ONE: usize = 256;
/// Clients that may nothing at once, until they have heard so; further ones are closed at once.
const CLIENTS_REFUSED: usize = 64;
/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the worker may take for a new policy. Then it is replaced, and the next one begins with
/// that policy.
const TAKE: Duration = Duration::from_secs(10);

/// Bytes of what is wrong with a policy in one answer, so that it fits a packet. What is beyond is not told.
const FAULTS: usize = 48 * 1024;

/// What [`Command::Quarantine`] and [`Command::Release`] do, in the words of a refusal.
const QUARANTINE: &str = "quarantine and release agents";

/// Lines about those who find no place: an agent can connect as often as it likes.
static TURNED_AWAY: Sparing = Sparing::new();
/// About those for whom there is no thread.
static NOT_ATTENDED: Sparing = Sparing::new();

/// Why a client is not served.
pub(super) struct Unauthorised {
    pub(super) message: String,
    pub(super) hint: String,
}

/// Accepts clients on a thread of its own.
pub(super) fn serve(listener: Listener, keeper: &Shared) -> anyhow::Result<()> {
    let keeper = keeper.clone();
    let count = Arc::new(AtomicUsize::new(0));
    let others = Seats::new(CLIENTS_OF_OTHERS, CLIENTS_OF_ONE);
    let refused = Seats::new(CLIENTS_REFUSED, CLIENTS_REFUSED);
    std::thread::Builder::new()
        .name("clients".into())
        .spawn(move || {
            loop {
                let client = match listener.accept() {
                    Ok(client) => client,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a client");
                        // Descriptors or memory are short; both come back with a client's end.
                        std::thread::park_timeout(Duration::from_millis(100));
                        continue;
                    }
                };
                // One that is gone already has no user, and is not waited for.
                let Ok(peer) = client.peer() else {
                    continue;
                };
                let place = if peer.uid == 0 {
                    Counted::begin(&count).map(Place::Roots)
                } else {
                    others.take(peer.uid).map(Place::Anothers)
                };
                let Some(place) = place else {
                    if let Some(left_out) = TURNED_AWAY.turn() {
                        tracing::warn!(
                            uid = peer.uid,
                            left_out,
                            "too many clients; one was turned away"
                        );
                    }
                    continue;
                };
                let (keeper, refused) = (keeper.clone(), refused.clone());
                let started = std::thread::Builder::new()
                    .name("client".into())
                    .spawn(move || {
                        // Free again also where that panics; and where there is no thread.
                        attend(&keeper, client, &peer, place, &refused);
                    });
                if let Err(error) = started
                    && let Some(left_out) = NOT_ATTENDED.turn()
                {
                    tracing::warn!(%error, left_out, "cannot attend to a client");
                }
            }
        })?;
    Ok(())
}

/// A client's place, free again when this is dropped.
#[expect(dead_code, reason = "what it holds is there to be dropped")]
enum Place {
    Roots(Counted),
    Anothers(Seat),
}

/// A client of root that counts until this is dropped.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// `None`: there are as many as there may be.
    fn begin(count: &Arc<AtomicUsize>) -> Option<Self> {
        let counted = Self(count.clone());
        (count.fetch_add(1, Ordering::Relaxed) < CLIENTS).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn attend(keeper: &Shared, client: Packet, peer: &Peer, place: Place, refusing: &Arc<Seats>) {
    let accepted = Accepted::now();
    // Whoever may nothing is judged before it is heard, and waits for its refusal in another place: an
    // agent that is root would keep those of the people who are to quarantine it.
    let judged = rights(&lock(keeper), peer, accepted);
    let (refusal, _place) = match judged {
        Ok(_) => (None, place),
        Err(refusal) => {
            drop(place);
            let Some(seat) = refusing.take(peer.uid) else {
                return;
            };
            (Some(refusal), Place::Anothers(seat))
        }
    };
    if client.set_timeout(Some(PATIENCE)).is_err() {
        return;
    }
    let said = match client.recv_said::<Command>() {
        Ok(Some(said)) => said,
        Ok(None) => return,
        Err(error) => {
            let refused = Answer::Refused {
                message: format!("the request cannot be read: {error}"),
                hint: Some("use the `agentguard` of the same version as the daemon".to_owned()),
            };
            // It may not listen either.
            let _ = client.send(&refused, &[]);
            return;
        }
    };
    let (command, descriptors) = (said.message, said.fds);
    let handed = || {
        let refusal = peer::sent_by(peer, said.sender).err()?;
        Some(unauthorised(&refusal))
    };
    if let Some(Unauthorised { message, hint }) = refusal.or_else(handed) {
        let told = match command {
            Command::Run(_) => {
                client.send(&ToClient::Refused(Refusal::new(message).hint(hint)), &[])
            }
            _ => client.send(&refused(&message, Some(hint)), &[]),
        };
        if let Err(error) = told {
            tracing::debug!(%error, "a client did not wait for its refusal");
        }
        return;
    }
    let answer = match command {
        Command::Run(request) => {
            if client.set_timeout(None).is_err() {
                return;
            }
            let host: Arc<dyn spawn::Host> = Arc::new(RunHost {
                keeper: keeper.clone(),
                accepted,
            });
            spawn::serve(client, &request, descriptors, peer, &host);
            return;
        }
        Command::Reload => reload(keeper, peer, accepted),
        Command::AddAgent { name, cgroup } => add(keeper, peer, accepted, &name, &cgroup),
        Command::Authorities => authorities(keeper, peer, accepted, |_| Ok(())),
        Command::RotateAuthority { at_once } => {
            authorities(keeper, peer, accepted, |ca| ca.rotate(at_once))
        }
        Command::Quarantine {
            name,
            reason,
            freeze,
        } => quarantine(keeper, peer, accepted, &name, reason, freeze),
        Command::Release { name } => release(keeper, peer, accepted, &name),
        Command::Switch { name, on, reason } => switch(keeper, peer, accepted, &name, on, reason),
        Command::Tools(order) => tools(keeper, peer, accepted, &order),
        Command::Budget(order) => budget(keeper, peer, accepted, &order),
        Command::Limits(order) => limits(keeper, peer, accepted, &order),
        command => {
            let answer = change(&mut lock(keeper), peer, accepted, command);
            // What is an agent's no more is held to its limits no more.
            if matches!(answer, Answer::Done { .. }) {
                resources::look_now(keeper);
            }
            answer
        }
    };
    if let Err(error) = client.send(&answer, &[]) {
        tracing::debug!(%error, "a client did not wait for its answer");
    }
}

/// Answers when the worker decides with the new policy too.
fn reload(keeper: &Shared, peer: &Peer, accepted: Accepted) -> Answer {
    let source = {
        let keeper = lock(keeper);
        if let Err(why) = authorise(&keeper, peer, accepted) {
            return refused(&why.message, Some(why.hint));
        }
        keeper.policy_source()
    };
    // Without the lock: where a file system or a directory service is away, agents can be quarantined.
    let read = source.read();
    let (answer, generation, taken) = {
        let mut keeper = lock(keeper);
        let answer = keeper
            .reload(read)
            .map_or_else(not_taken, |text| Answer::Done { text });
        (answer, keeper.generation(), keeper.taken())
    };
    match answer {
        Answer::Done { text } if !taken.wait(generation, TAKE) => {
            lock(keeper).give_up_worker();
            let ended = end_what_is_denied(keeper);
            let unbounded = hold_to_limits(keeper);
            Answer::Done {
                text: format!(
                    "{text} in the kernel; the worker did not take it and is replaced{ended}{unbounded}"
                ),
            }
        }
        Answer::Done { text } => {
            let ended = end_what_is_denied(keeper);
            let unbounded = hold_to_limits(keeper);
            Answer::Done {
                text: format!("{text}{ended}{unbounded}"),
            }
        }
        answer => answer,
    }
}

/// Has agents held to the limits of a new policy, and says which of those that something runs as cannot be.
fn hold_to_limits(keeper: &Shared) -> String {
    resources::look_now(keeper);
    let keeper = lock(keeper);
    keeper.tell_state();
    let mut text = String::new();
    for (name, lacks) in keeper.unbounded_agents() {
        for lack in lacks {
            text.push_str(&format!("\n{name} is {lack}"));
        }
    }
    text
}

/// Ends direct flows that a new policy does not let go directly any more; what goes through the proxy the worker
/// ends. With what was done, for a person. The lock is held for one socket at a time.
fn end_what_is_denied(keeper: &Shared) -> String {
    let agents = lock(keeper).agents_cgroups();
    let denied = Mutex::new(Vec::new());
    let note = |ends: Option<Ended>| {
        let is_denied = ends.is_some();
        denied
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(ends);
        is_denied
    };
    let end = |agent: Option<AgentId>, cgroups: &[PathBuf]| {
        sockets::destroy_connected(
            cgroups,
            &|connection| note(lock(keeper).ends(connection)),
            &|told| note(agent.and_then(|agent| lock(keeper).ends_unseen(agent, told))),
        )
    };
    let all: Vec<PathBuf> = agents.iter().flat_map(|(_, own)| own).cloned().collect();
    let mut ended = end(None, &all);
    // Agent by agent: whose a socket is that cannot be taken is known then, and no bound that one of them reached
    // hides what others have open.
    if !ended.failures.is_empty() || ended.unseen > 0 {
        ended.failures.clear();
        for (agent, cgroups) in &agents {
            let one = end(Some(*agent), cgroups);
            ended.sockets += one.sockets;
            ended.failures.extend(one.failures);
        }
    }
    let denied = denied.into_inner().unwrap_or_else(PoisonError::into_inner);
    lock(keeper).note_ended(denied);
    let mut text = match ended.sockets {
        0 => String::new(),
        1 => "; it ends 1 direct flow".to_owned(),
        more => format!("; it ends {more} direct flows"),
    };
    for failure in ended.failures {
        text.push_str(&format!("\n{failure}"));
    }
    text
}

/// Answers when the guard listens where the cgroup's processes live, and nothing older is open.
fn add(keeper: &Shared, peer: &Peer, accepted: Accepted, name: &AgentName, cgroup: &str) -> Answer {
    if let Err(why) = authorise(&lock(keeper), peer, accepted) {
        return refused(&why.message, Some(why.hint));
    }
    answered(adoption::adopt(keeper, name, Path::new(cgroup), peer.uid))
}

/// Answers when nothing is under way any more for the agent.
fn quarantine(
    keeper: &Shared,
    peer: &Peer,
    accepted: Accepted,
    name: &AgentName,
    reason: Option<String>,
    freeze: bool,
) -> Answer {
    let cut = {
        let mut keeper = lock(keeper);
        if let Err(why) = authorise_approver(&keeper, peer, accepted, QUARANTINE) {
            return refused(&why.message, Some(why.hint));
        }
        keeper.quarantine(name, reason, freeze, Some(peer.uid))
    };
    // The sockets are ended, and the worker is waited for, without the lock.
    answered(cut.and_then(|cut| cut.finish(|| lock(keeper).give_up_worker())))
}

/// Answers when the worker decides by the policy again.
fn release(keeper: &Shared, peer: &Peer, accepted: Accepted, name: &AgentName) -> Answer {
    let released = {
        let mut keeper = lock(keeper);
        if let Err(why) = authorise_approver(&keeper, peer, accepted, QUARANTINE) {
            return refused(&why.message, Some(why.hint));
        }
        keeper.release_quarantined(name, peer.uid)
    };
    heard(keeper, released)
}

/// Answers when the worker decides nothing by the old state any more.
fn switch(
    keeper: &Shared,
    peer: &Peer,
    accepted: Accepted,
    name: &str,
    on: Option<bool>,
    reason: Option<String>,
) -> Answer {
    let switched = {
        let mut keeper = lock(keeper);
        if let Err(why) = authorise_approver(&keeper, peer, accepted, "set switches") {
            return refused(&why.message, Some(why.hint));
        }
        keeper.switch(name, on, reason, peer.uid)
    };
    heard(keeper, switched)
}

/// Answers when the worker has done it, which keeps what tools were first seen as.
fn tools(keeper: &Shared, peer: &Peer, accepted: Accepted, order: &ToolsOrder) -> Answer {
    let asked = {
        let keeper = lock(keeper);
        let what = "accept or forget definitions of tools";
        if let Err(why) = authorise_approver(&keeper, peer, accepted, what) {
            return refused(&why.message, Some(why.hint));
        }
        keeper.order_tools(order, peer.uid)
    };
    done_by_worker(asked, "agentguard tools list")
}

/// Answers when the worker has done it, which keeps what was used. Root alone: it gives an agent more than the policy does.
fn budget(keeper: &Shared, peer: &Peer, accepted: Accepted, order: &BudgetOrder) -> Answer {
    let asked = {
        let keeper = lock(keeper);
        if let Err(why) = authorise(&keeper, peer, accepted) {
            return refused(&why.message, Some(why.hint));
        }
        keeper.order_budget(order, peer.uid)
    };
    done_by_worker(asked, "agentguard budget list")
}

/// The same of limits and breakers, which the worker keeps, too. Root alone: it has go on what the policy stops.
fn limits(keeper: &Shared, peer: &Peer, accepted: Accepted, order: &LimitOrder) -> Answer {
    let asked = {
        let keeper = lock(keeper);
        if let Err(why) = authorise(&keeper, peer, accepted) {
            return refused(&why.message, Some(why.hint));
        }
        keeper.order_limits(order, peer.uid)
    };
    done_by_worker(asked, "agentguard limits list")
}

/// What the worker says of an order, without the lock. `shows`: the command that shows how things are.
fn done_by_worker(asked: anyhow::Result<Asked>, shows: &str) -> Answer {
    answered(asked.and_then(|asked| match asked.answer() {
        Some(Ok(text)) => Ok(text),
        Some(Err(why)) => bail!(why),
        None => {
            bail!("the worker did not say what became of it; hint: `{shows}` shows how things are")
        }
    }))
}

/// Waits for the worker, without the lock. One that does not hear is replaced, and the next one is told.
fn heard(keeper: &Shared, done: anyhow::Result<(String, Option<Asked>)>) -> Answer {
    answered(done.map(|(text, asked)| {
        if asked.is_some_and(|asked| !asked.wait()) {
            lock(keeper).give_up_worker();
            return format!("{text}; the worker did not hear it and is replaced");
        }
        text
    }))
}

/// Does something with the certificate authorities and tells them. The keeper's lock is not held
/// while a key is made or written.
fn authorities(
    keeper: &Shared,
    peer: &Peer,
    accepted: Accepted,
    act: impl FnOnce(&Authorities) -> Result<(), CaError>,
) -> Answer {
    let ca = {
        let keeper = lock(keeper);
        match authorise(&keeper, peer, accepted) {
            Ok(()) => keeper.ca(),
            Err(why) => return refused(&why.message, Some(why.hint)),
        }
    };
    match act(&ca) {
        Ok(()) => Answer::Authorities(ca.list()),
        Err(error) => {
            let hint = error.hint();
            refused(&format!("{:#}", anyhow::Error::new(error)), Some(hint))
        }
    }
}

fn change(keeper: &mut Keeper, peer: &Peer, accepted: Accepted, command: Command) -> Answer {
    if let Err(why) = authorise(keeper, peer, accepted) {
        return refused(&why.message, Some(why.hint));
    }
    let result = match command {
        Command::RemoveAgent { name, cgroup } => {
            keeper.release(&name, cgroup.as_deref().map(Path::new))
        }
        // Attended to before.
        Command::Run(_)
        | Command::Reload
        | Command::AddAgent { .. }
        | Command::Authorities
        | Command::RotateAuthority { .. }
        | Command::Quarantine { .. }
        | Command::Release { .. }
        | Command::Switch { .. }
        | Command::Tools(_)
        | Command::Budget(_)
        | Command::Limits(_) => {
            return refused("this is no change of what is governed", None);
        }
    };
    answered(result)
}

/// Why a policy was not taken: what is wrong with its files, or another reason.
fn not_taken(error: anyhow::Error) -> Answer {
    let Some(mut text) = told::faults(&error) else {
        return answered(Err(error));
    };
    if text.len() > FAULTS {
        text.truncate(text.floor_char_boundary(FAULTS));
        text.push('…');
    }
    text.push_str("\nerror: the policy was not taken, and the one in force stays");
    Answer::Faulty { text }
}

fn answered(result: anyhow::Result<String>) -> Answer {
    match result {
        Ok(text) => Answer::Done { text },
        Err(error) => {
            let (message, hint) = told::in_words(&error);
            refused(&message, hint)
        }
    }
}

fn refused(message: &str, hint: Option<String>) -> Answer {
    Answer::Refused {
        message: message.to_owned(),
        hint,
    }
}

/// What a peer may do: nothing, if it is one of those who are governed. An agent is never a client of its
/// own guard, not even one that runs as root.
pub(super) fn rights(
    keeper: &Keeper,
    peer: &Peer,
    accepted: Accepted,
) -> Result<Rights, Unauthorised> {
    let governed = keeper.governed();
    peer::judge(peer, accepted, &governed, keeper.groups())
        .map_err(|refusal| unauthorised(&refusal))
}

fn unauthorised(refusal: &peer::Refusal) -> Unauthorised {
    Unauthorised {
        hint: refusal.hint(),
        message: refusal.to_string(),
    }
}

/// Whether a peer may change the guard.
fn authorise(keeper: &Keeper, peer: &Peer, accepted: Accepted) -> Result<(), Unauthorised> {
    match rights(keeper, peer, accepted)? {
        Rights { root: true, .. } => Ok(()),
        Rights { uid, .. } => Err(Unauthorised {
            message: format!("only root may change the guard, and this is user {uid}"),
            hint: "run this as root".to_owned(),
        }),
    }
}

/// Whether a peer may do what takes from agents, or gives back, within the policy. `what`: in the words of
/// the refusal.
fn authorise_approver(
    keeper: &Keeper,
    peer: &Peer,
    accepted: Accepted,
    what: &str,
) -> Result<(), Unauthorised> {
    match rights(keeper, peer, accepted)? {
        Rights { approve: true, .. } => Ok(()),
        Rights { uid, .. } => Err(Unauthorised {
            message: format!(
                "only root and members of {APPROVE} may {what}, and this is user {uid}"
            ),
            hint: format!("run this as root, or become a member of {APPROVE} and log in anew"),
        }),
    }
}

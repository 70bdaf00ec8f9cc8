//! Adopted cgroups that came back: they are under the gate by now, and what their processes opened
//! before is ended, so that their programs see an error and not a silence. The gate lets none of it
//! through anyway.

use agentguard_keeper::sockets;

use super::{Shared, lock, residents};

/// Says when it goes that the next ones can be seen to.
struct Turn(Shared);

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.0).closed_returned();
    }
}

/// Ends what is open in those that came back since the last time, on a thread of its own, one at a time: a
/// service that starts again and again keeps no more than one busy.
pub(super) fn close(keeper: &Shared) {
    let returned = lock(keeper).take_returned();
    if returned.is_empty() {
        return;
    }
    let turn = Turn(keeper.clone());
    let started = std::thread::Builder::new()
        .name("returned".into())
        .spawn(move || {
            let keeper = &turn.0;
            for (agent, cgroup) in returned {
                let closed = sockets::destroy_held(std::slice::from_ref(&cgroup));
                tracing::warn!(
                    cgroup = %cgroup.display(),
                    sockets = closed.sockets,
                    "an adopted cgroup is there again; what was open in it is closed"
                );
                for failure in &closed.failures {
                    tracing::warn!("{failure}");
                }
                lock(keeper).note_closed(agent, &closed);
                residents::look_at(keeper, agent);
            }
        });
    if let Err(error) = started {
        tracing::warn!(%error, "what was open in a cgroup that came back is left to the gate");
    }
}

//! Cgroups whose processes may have something open that is older than the gate on them: adopted ones that
//! came back, and all of them where the gate or its maps are new. It is ended, so that their programs see an
//! error and not a silence. The gate lets none of it through anyway.

use std::collections::BTreeSet;
use std::path::PathBuf;

use agentguard_keeper::sockets;
use agentguard_model::AgentId;

use super::{Shared, lock, residents};

/// Why something there may be older than the gate.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Why {
    /// An adopted cgroup is there again.
    CameBack,
    /// What the gate noted of its sockets was noted by another version of it.
    OtherVersion,
    /// Processes ran there when the gate was put up.
    NewGate,
}

/// A cgroup to be seen to.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Returned {
    pub(super) agent: AgentId,
    pub(super) cgroup: PathBuf,
    pub(super) why: Why,
}

/// Those that are to be seen to.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    cgroups: BTreeSet<Returned>,
    /// Whether somebody sees to those that were taken last.
    taken: bool,
}

impl Waiting {
    /// One more, unless it waits already.
    pub(super) fn push(&mut self, returned: Returned) {
        self.cgroups.insert(returned);
    }

    /// All of them. None before [`Self::done`] says that the last of them were seen to: a service that
    /// starts again and again keeps no more than one thread busy.
    fn take(&mut self) -> Vec<Returned> {
        if self.taken {
            return Vec::new();
        }
        self.taken = !self.cgroups.is_empty();
        std::mem::take(&mut self.cgroups).into_iter().collect()
    }

    /// The last of them were seen to, but for these.
    fn done(&mut self, left: Vec<Returned>) {
        self.taken = false;
        self.cgroups.extend(left);
    }

    /// Whether all were seen to.
    pub(super) fn is_empty(&self) -> bool {
        self.cgroups.is_empty() && !self.taken
    }
}

/// Who sees to some: says when it goes that the next ones can be, and those that it did not come to.
struct Turn {
    keeper: Shared,
    left: Vec<Returned>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let left = std::mem::take(&mut self.left);
        lock(&self.keeper).returned().done(left);
    }
}

/// Ends what is open in those that wait, on a thread of its own, one at a time. Where there is no thread
/// for it, it is tried again in a second.
pub(super) fn close(keeper: &Shared) {
    let mut left = lock(keeper).returned().take();
    if left.is_empty() {
        return;
    }
    // From the end.
    left.reverse();
    let keeper = keeper.clone();
    let mut turn = Turn { keeper, left };
    let started = std::thread::Builder::new()
        .name("returned".into())
        .spawn(move || {
            while let Some(returned) = turn.left.pop() {
                see_to(&turn.keeper, &returned);
            }
        });
    if let Err(error) = started {
        tracing::warn!(%error, "what was open before the gate is left to the gate for now");
    }
}

fn see_to(keeper: &Shared, returned: &Returned) {
    let Returned { agent, cgroup, why } = returned;
    let closed = sockets::destroy_held(std::slice::from_ref(cgroup));
    match why {
        Why::CameBack => tracing::warn!(
            cgroup = %cgroup.display(),
            sockets = closed.sockets,
            "an adopted cgroup is there again; what was open in it is closed"
        ),
        Why::OtherVersion if closed.sockets > 0 => tracing::warn!(
            cgroup = %cgroup.display(),
            sockets = closed.sockets,
            "the gate is of another version now; what was open before is closed"
        ),
        Why::NewGate if closed.sockets > 0 => tracing::warn!(
            cgroup = %cgroup.display(),
            sockets = closed.sockets,
            "processes ran here when the gate was put up; what was open is closed"
        ),
        Why::OtherVersion | Why::NewGate => {}
    }
    // What was connected to local daemons under another version was decided by that.
    let shut = match why {
        Why::CameBack | Why::NewGate => {
            sockets::shut_local(cgroup, &|name| lock(keeper).refuses_unix(*agent, name))
        }
        Why::OtherVersion => sockets::Shut::default(),
    };
    for failure in closed.failures.iter().chain(&shut.failures) {
        tracing::warn!(cgroup = %cgroup.display(), "{failure}");
    }
    lock(keeper).tell_shut(*agent, &shut);
    lock(keeper).note_closed(*agent, &closed);
    if *why != Why::OtherVersion {
        residents::look_at(keeper, *agent);
    }
}

#[cfg(test)]
mod tests {
    use super::{AgentId, Returned, Waiting, Why};

    fn returned(agent: u32) -> Returned {
        Returned {
            agent: AgentId(agent),
            cgroup: format!("/sys/fs/cgroup/{agent}").into(),
            why: Why::CameBack,
        }
    }

    #[test]
    fn one_at_a_time_is_at_it_and_none_is_forgotten() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.take(), []);
        for _ in 0..1000 {
            waiting.push(returned(1));
        }
        assert_eq!(waiting.take(), [returned(1)]);
        // What comes meanwhile waits, however often it is asked for.
        for agent in [1, 2, 1] {
            waiting.push(returned(agent));
            assert_eq!(waiting.take(), []);
        }
        assert!(!waiting.is_empty());
        // What there was no thread for waits too.
        waiting.done(vec![returned(3)]);
        assert_eq!(waiting.take(), [returned(1), returned(2), returned(3)]);
        assert_eq!(waiting.take(), []);
        waiting.done(Vec::new());
        assert!(waiting.is_empty());
        assert_eq!(waiting.take(), []);
    }
}

//! A look at one agent: in which network namespaces its threads live, and what they could do there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use rustix::thread::{CapabilitySet, capabilities};

use super::descriptors::Descriptors;
use super::{
    Bounds, Known, NamespaceId, Past, Step, Walk, WayOut, is_over, namespace_of, route_out, uplink,
};

/// Namespaces of one agent that are noted.
const NAMESPACES: usize = 256;
/// How long is believed what devices a namespace has. It can get and lose them, and its inode number
/// goes to another one when it ends: neither matters longer than this.
const UPLINK: Duration = Duration::from_secs(10);

const ADMIN: &str = "a process has CAP_NET_ADMIN in a network namespace with an uplink: it can \
                     forward, tunnel and rewrite packets that the gate does not see";
const RAW: &str = "a process has CAP_NET_RAW in a network namespace with an uplink: packet sockets \
                   send what the gate does not see";
const MIGHTY: &str = "a process has CAP_SYS_ADMIN in the host's user namespace: it can enter other \
                      namespaces and leave its cgroup";
/// All of these.
const SENTENCES: usize = 3;

/// A network namespace in which an agent lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seen {
    /// A thread in it.
    pub thread: u32,
    /// Whether a route leads out of it.
    pub route_out: WayOut,
}

/// A look that can be stopped and gone on with.
#[derive(Debug)]
pub struct Look {
    walk: Walk,
    namespaces: BTreeMap<NamespaceId, Seen>,
    omitted: BTreeSet<String>,
    inspection: Option<Inspection>,
    descriptors: Option<Descriptors>,
    begun: Instant,
}

/// What threads could do.
#[derive(Debug, Default)]
struct Inspection {
    /// Inode number of the host's user namespace.
    user: Option<u64>,
    found: BTreeSet<&'static str>,
    uplinks: BTreeMap<NamespaceId, (WayOut, Instant)>,
}

impl Look {
    /// One at what lives in these cgroups and below them; `inspect`: also at what it could do.
    #[must_use]
    pub fn new(cgroups: Vec<PathBuf>, inspect: bool) -> Self {
        Self {
            walk: Walk::new(cgroups, Bounds::default()),
            namespaces: BTreeMap::new(),
            omitted: BTreeSet::new(),
            inspection: inspect.then(|| Inspection {
                user: fs::metadata("/proc/self/ns/user")
                    .map(|found| found.ino())
                    .ok(),
                ..Inspection::default()
            }),
            descriptors: None,
            begun: Instant::now(),
        }
    }

    /// The same, and also at what they have open, where it is looked at what they could do.
    #[must_use]
    pub fn with_descriptors(mut self, known: Known) -> Self {
        self.descriptors = self.inspection.is_some().then(|| Descriptors::new(known));
        self
    }

    /// Looks on until the end, or until the time is over. `true`: it is at its end.
    pub fn advance(&mut self, until: Instant) -> bool {
        if self.descriptors.is_none() {
            return self.step(until);
        }
        loop {
            // One has as many descriptors as it likes: they are looked at in goes too.
            if let Some(descriptors) = &mut self.descriptors
                && !descriptors.advance(until)
            {
                return false;
            }
            let finished = self.step(Instant::now());
            let open = self.descriptors.as_ref().is_some_and(Descriptors::is_open);
            if finished && !open {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
        }
    }

    /// Walks on, a step at least.
    fn step(&mut self, until: Instant) -> bool {
        let (namespaces, omitted) = (&mut self.namespaces, &mut self.omitted);
        let inspection = &mut self.inspection;
        let descriptors = &mut self.descriptors;
        self.walk.advance(until, |step| {
            let Step::Thread(thread) = step else {
                return;
            };
            match namespace_of(thread) {
                Ok(Some(id)) => note(id, thread, namespaces, omitted),
                Ok(None) => {}
                Err(error) => {
                    omitted.insert(format!("a thread's network namespace: {error}"));
                }
            }
            if let Some(inspection) = inspection
                && let Err(error) = inspection.inspect(thread)
            {
                omitted.insert(format!("what a thread could do: {error}"));
            }
            if let Some(descriptors) = descriptors {
                descriptors.begin(thread);
            }
        })
    }

    /// Where they live, as far as was looked.
    #[must_use]
    pub fn namespaces(&self) -> &BTreeMap<NamespaceId, Seen> {
        &self.namespaces
    }

    /// What was left out, a reason each; complete when the look is at its end.
    #[must_use]
    pub fn omitted(&self) -> Vec<String> {
        let mut omitted: BTreeSet<_> = self.walk.omitted().union(&self.omitted).cloned().collect();
        if let Some(descriptors) = &self.descriptors {
            omitted.extend(descriptors.omitted().iter().cloned());
        }
        omitted.into_iter().collect()
    }

    /// What can get around the gate, a sentence each: threads that hold, or could take up, capabilities
    /// with which packets are sent that no socket of an agent sends, and what they have open. `None`: it was
    /// not looked for.
    #[must_use]
    pub fn uncontained(&self) -> Option<Vec<String>> {
        let inspection = self.inspection.as_ref()?;
        let capabilities = inspection.found.iter().map(ToString::to_string);
        let open = self.descriptors.iter().flat_map(Descriptors::found);
        Some(capabilities.chain(open.map(Past::sentence)).collect())
    }

    /// What threads have open that sends past the gate, as far as was looked.
    #[must_use]
    pub fn past(&self) -> Vec<Past> {
        let open = self.descriptors.iter().flat_map(Descriptors::found);
        open.cloned().collect()
    }

    /// How long ago it was begun.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// Notes a namespace. Its routes are looked at once in a look.
fn note(
    id: NamespaceId,
    thread: u32,
    namespaces: &mut BTreeMap<NamespaceId, Seen>,
    omitted: &mut BTreeSet<String>,
) {
    if namespaces.contains_key(&id) {
        return;
    }
    if namespaces.len() >= NAMESPACES {
        omitted.insert(format!("more than {NAMESPACES} network namespaces"));
        return;
    }
    if let Some(route_out) = route_out(thread) {
        namespaces.insert(id, Seen { thread, route_out });
    }
}

impl Inspection {
    fn inspect(&mut self, thread: u32) -> io::Result<()> {
        if self.found.len() == SENTENCES {
            return Ok(());
        }
        let Some(pid) = i32::try_from(thread).ok().and_then(Pid::from_raw) else {
            return Ok(());
        };
        // Not from `/proc/T/status`, which is as long as the agent makes its list of groups. The permitted
        // ones: a thread can make any of them effective.
        let held = match capabilities(Some(pid)) {
            Ok(sets) => sets.permitted,
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let network = [
            (CapabilitySet::NET_ADMIN, ADMIN),
            (CapabilitySet::NET_RAW, RAW),
        ];
        for (capability, sentence) in network {
            // What is unknown is taken for a way out.
            if held.contains(capability)
                && !self.found.contains(sentence)
                && self.uplink(thread)?.is_some_and(|it| it != WayOut::None)
            {
                self.found.insert(sentence);
            }
        }
        if held.contains(CapabilitySet::SYS_ADMIN) && !self.found.contains(MIGHTY) {
            match fs::metadata(format!("/proc/{thread}/ns/user")) {
                Ok(user) if self.user.is_none_or(|own| own == user.ino()) => {
                    self.found.insert(MIGHTY);
                }
                Ok(_) => {}
                Err(error) if is_over(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Of a thread's namespace, from what was found for another thread of it if that is not old.
    fn uplink(&mut self, thread: u32) -> io::Result<Option<WayOut>> {
        let Some(id) = namespace_of(thread)? else {
            return Ok(None);
        };
        if let Some((known, when)) = self.uplinks.get(&id)
            && when.elapsed() < UPLINK
        {
            return Ok(Some(*known));
        }
        let found = match uplink(thread) {
            // Devices have what names an agent gives them, also those that are known to carry nothing.
            Some(WayOut::None) => route_out(thread).map(|routes| match routes {
                WayOut::Open => WayOut::Open,
                WayOut::None | WayOut::Unknown => WayOut::None,
            }),
            found => found,
        };
        if let Some(found) = found
            && (self.uplinks.len() < NAMESPACES || self.uplinks.contains_key(&id))
        {
            self.uplinks.insert(id, (found, Instant::now()));
        }
        Ok(found)
    }
}

//! What the worker sees of the gate.
//!
//! The descriptors come from the keeper and say what may be done with them: the maps that hold
//! verdicts cannot be written through them (`BPF_F_RDONLY`), the original destinations can, to
//! delete what was read, and the ring buffer's consumer page.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use agentguard_common::event::{Event, UnixEvent};
use agentguard_common::map::{Counters, Exe, Origin, OriginKey, SlotKey, TCP, pending};
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuHashMap, RingBuf};

use super::sys::{self, Access};
use super::{Gate, GateError, map_error};

/// The maps that go to the worker, in this order.
const MAPS: [(&str, Access); 6] = [
    ("ORIGINS", Access::ReadWrite),
    ("EVENTS", Access::ReadWrite),
    ("PROCESSES", Access::ReadOnly),
    ("COUNTERS", Access::ReadOnly),
    ("QUERIES", Access::ReadWrite),
    ("SLOTS", Access::ReadWrite),
];

/// What was redirected leads to one of two.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Listener {
    /// The proxy.
    Proxy,
    /// The resolver.
    Resolver,
}

impl Gate {
    /// Descriptors for a [`View`].
    ///
    /// # Errors
    /// [`GateError::File`].
    pub fn view_descriptors(&self) -> Result<Vec<OwnedFd>, GateError> {
        MAPS.iter()
            .map(|(name, access)| {
                let path = self.pin_of(name);
                sys::open_pinned(&path, *access).map_err(|source| GateError::File {
                    what: "open",
                    path,
                    source,
                })
            })
            .collect()
    }
}

/// The gate, as far as the worker may touch it.
pub struct View {
    origins: HashMap<MapData, OriginKey, Origin>,
    queries: HashMap<MapData, OriginKey, Origin>,
    slots: HashMap<MapData, SlotKey, OriginKey>,
    processes: HashMap<MapData, u32, Exe>,
    counters: PerCpuHashMap<MapData, u32, Counters>,
}

/// The kernel's events, in the order of the ring buffer.
pub struct Events(RingBuf<MapData>);

/// An event, and the name of the UNIX socket that it is about, if it is about one: a path as its owner
/// gave it to `bind(2)`, or an abstract name behind an `@`, with what is not text replaced.
#[derive(Clone, Debug)]
pub struct Told {
    /// The event.
    pub event: Event,
    /// The name.
    pub unix: Option<String>,
}

impl View {
    /// From the descriptors of [`Gate::view_descriptors`].
    ///
    /// # Errors
    /// [`GateError::Map`] or [`GateError::Missing`] if the descriptors are not those.
    pub fn new(descriptors: Vec<OwnedFd>) -> Result<(Self, Events), GateError> {
        let mut descriptors = descriptors.into_iter().zip(MAPS);
        let mut next = || {
            let (fd, (name, _)) = descriptors
                .next()
                .ok_or(GateError::Missing("descriptors"))?;
            let map = MapData::from_fd(fd)
                .and_then(Map::from_map_data)
                .map_err(map_error("use", name))?;
            Ok::<_, GateError>((map, name))
        };
        let (origins, name) = next()?;
        let origins = HashMap::try_from(origins).map_err(map_error("use", name))?;
        let (events, name) = next()?;
        let events = RingBuf::try_from(events).map_err(map_error("use", name))?;
        let (processes, name) = next()?;
        let processes = HashMap::try_from(processes).map_err(map_error("use", name))?;
        let (counters, name) = next()?;
        let counters = PerCpuHashMap::try_from(counters).map_err(map_error("use", name))?;
        let (queries, name) = next()?;
        let queries = HashMap::try_from(queries).map_err(map_error("use", name))?;
        let (slots, name) = next()?;
        let slots = HashMap::try_from(slots).map_err(map_error("use", name))?;
        let view = Self {
            origins,
            queries,
            slots,
            processes,
            counters,
        };
        Ok((view, Events(events)))
    }

    /// Where a redirected connection or query was meant to go. `None`: it did not come through the
    /// gate.
    ///
    /// # Errors
    /// [`GateError::Map`].
    pub fn origin(&self, listener: Listener, key: &OriginKey) -> Result<Option<Origin>, GateError> {
        let (map, name) = match listener {
            Listener::Proxy => (&self.origins, "ORIGINS"),
            Listener::Resolver => (&self.queries, "QUERIES"),
        };
        match map.get(key, 0) {
            Ok(origin) => Ok(Some(origin)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(map_error("read", name)(error)),
        }
    }

    /// Forgets an original destination after it was read, and gives its agent the slot back.
    ///
    /// # Errors
    /// [`GateError::Map`].
    pub fn forget_origin(
        &mut self,
        listener: Listener,
        key: &OriginKey,
        origin: &Origin,
    ) -> Result<(), GateError> {
        let (map, name) = match listener {
            Listener::Proxy => (&mut self.origins, "ORIGINS"),
            Listener::Resolver => (&mut self.queries, "QUERIES"),
        };
        super::ignore_absent(map.remove(key), name)?;
        let slot = SlotKey {
            agent: origin.agent,
            slot: origin.slot,
        };
        super::ignore_absent(self.slots.remove(&slot), "SLOTS")
    }

    /// Forgets the original destinations that nobody will accept any more at a time
    /// (`CLOCK_MONOTONIC`, ns): those published longer ago than a slot is held for a connection, or a
    /// query kept. Slots that hold nothing go too. Gives how many destinations.
    ///
    /// # Errors
    /// [`GateError::Map`].
    pub fn sweep_origins(&mut self, now_ns: u64) -> Result<usize, GateError> {
        let mut swept = 0;
        for listener in [Listener::Proxy, Listener::Resolver] {
            let map = match listener {
                Listener::Proxy => &self.origins,
                Listener::Resolver => &self.queries,
            };
            let old: Vec<(OriginKey, Origin)> = map
                .iter()
                .filter_map(Result::ok)
                .filter(|(key, origin)| now_ns.saturating_sub(origin.published_ns) > kept_ns(key))
                .collect();
            for (key, origin) in &old {
                self.forget_origin(listener, key, origin)?;
            }
            swept += old.len();
        }
        // A slot is taken a moment before its origin is published: looked at twice.
        let empty: Vec<(SlotKey, OriginKey)> = self
            .slots
            .iter()
            .filter_map(Result::ok)
            .filter(|(slot, key)| self.is_empty(*slot, key))
            .collect();
        for (slot, key) in &empty {
            let same = self.slots.get(slot, 0).is_ok_and(|now| now == *key);
            if same && self.is_empty(*slot, key) {
                super::ignore_absent(self.slots.remove(slot), "SLOTS")?;
            }
        }
        Ok(swept)
    }

    /// Whether a slot holds nothing.
    fn is_empty(&self, slot: SlotKey, key: &OriginKey) -> bool {
        let map = if slot.slot >> 16 == pending::CONNECTION {
            &self.origins
        } else {
            &self.queries
        };
        map.get(key, 0).map_or(true, |origin| {
            (origin.agent, origin.slot) != (slot.agent, slot.slot)
        })
    }

    /// The path that a process was executed from, where the kernel saw that.
    #[must_use]
    pub fn executable(&self, pid: u32) -> Option<String> {
        let exe = self.processes.get(&pid, 0).ok()?;
        let path = exe.path.split(|byte| *byte == 0).next()?;
        (!path.is_empty()).then(|| String::from_utf8_lossy(path).into_owned())
    }

    /// Traffic of an agent, over all processors.
    ///
    /// # Errors
    /// [`GateError::Map`].
    pub fn counters(&self, agent: u32) -> Result<Counters, GateError> {
        sum(&self.counters, agent)
    }
}

impl Iterator for Events {
    type Item = Told;

    /// The next event, or `None` when there is none now.
    fn next(&mut self) -> Option<Told> {
        loop {
            let item = self.0.next()?;
            if item.len() == size_of::<Event>() {
                // SAFETY: the record has the size of an `Event`, which is integers only; it is
                // copied out unaligned.
                let event = unsafe { item.as_ptr().cast::<Event>().read_unaligned() };
                return Some(Told { event, unix: None });
            }
            if item.len() == size_of::<UnixEvent>() {
                // SAFETY: as above.
                let told = unsafe { item.as_ptr().cast::<UnixEvent>().read_unaligned() };
                return Some(Told {
                    event: told.event,
                    unix: Some(unix_name(&told.name, told.length)),
                });
            }
        }
    }
}

/// How long an origin is kept that nobody takes.
const fn kept_ns(key: &OriginKey) -> u64 {
    if key.transport == TCP {
        pending::CONNECTION_HELD_NS
    } else {
        pending::QUERY_KEPT_NS
    }
}

fn unix_name(name: &[u8], length: u32) -> String {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let name = name.get(..length).unwrap_or(name);
    match name.split_first() {
        Some((0, rest)) => format!("@{}", String::from_utf8_lossy(rest)),
        _ => {
            // A path ends in a zero, if it is not as long as can be.
            let path = name.split(|byte| *byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(path).into_owned()
        }
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Events {
    /// The descriptor that becomes readable when there are events.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring buffer owns the descriptor and outlives the borrow.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

pub(super) fn sum(
    counters: &PerCpuHashMap<MapData, u32, Counters>,
    agent: u32,
) -> Result<Counters, GateError> {
    let mut sum = Counters::default();
    match counters.get(&agent, 0) {
        Ok(values) => {
            for value in values.iter() {
                sum.sent_bytes = sum.sent_bytes.saturating_add(value.sent_bytes);
                sum.received_bytes = sum.received_bytes.saturating_add(value.received_bytes);
                sum.denied = sum.denied.saturating_add(value.denied);
            }
            Ok(sum)
        }
        Err(MapError::KeyNotFound) => Ok(sum),
        Err(error) => Err(map_error("read", "COUNTERS")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::unix_name;

    #[test]
    fn the_name_of_a_unix_socket_is_shown_as_others_show_it() {
        assert_eq!(unix_name(b"/run/a.sock\0\0\0", 12), "/run/a.sock");
        assert_eq!(unix_name(b"/xyz", 4), "/xyz");
        assert_eq!(unix_name(b"\0dbus\0\0", 5), "@dbus");
        assert_eq!(unix_name(b"\0a\0b\xff", 99), "@a\0b\u{fffd}");
        assert_eq!(unix_name(b"\0\0", 0), "");
    }
}

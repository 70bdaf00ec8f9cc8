//! What a cgroup takes, and what happened to it.
//!
//! What was told already of what happened is noted on the cgroup, as limits are: nothing is told twice, whatever
//! became of the daemon meanwhile, and nothing that happened while it was away is lost.

use std::path::Path;

use agentguard_model::{
    CpuUsage, IoUsage, MemoryUsage, Percent, PidsUsage, Pressure, PressureUsage, ResourceEvent,
    ResourceUsage,
};
use rustix::fs::XattrFlags;
use serde::{Deserialize, Serialize};

use super::read;

/// The attribute of what was told.
const TOLD: &str = "trusted.agentguard.told";

/// The longest note, in bytes.
const LONGEST: usize = 512;

/// What a cgroup takes. What cannot be read is left out.
#[must_use]
pub fn of(cgroup: &Path) -> ResourceUsage {
    ResourceUsage {
        cpu: cpu(cgroup),
        memory: memory(cgroup),
        pids: pids(cgroup),
        io: io(cgroup),
        pressure: PressureUsage {
            cpu: pressure(cgroup, "cpu.pressure"),
            memory: pressure(cgroup, "memory.pressure"),
            io: pressure(cgroup, "io.pressure"),
        },
    }
}

fn cpu(cgroup: &Path) -> CpuUsage {
    let stat = Flat::of(cgroup, "cpu.stat");
    // `QUOTA PERIOD`, or `max PERIOD`.
    let limit = text(cgroup, "cpu.max").and_then(|text| {
        let (quota, period) = text.split_once(' ')?;
        let quota: u64 = quota.parse().ok()?;
        quota.checked_mul(1000)?.checked_div(period.parse().ok()?)
    });
    CpuUsage {
        used_us: stat.number("usage_usec"),
        limit_milli: limit,
        periods: stat.number("nr_periods"),
        throttled_periods: stat.number("nr_throttled"),
        throttled_us: stat.number("throttled_usec"),
    }
}

fn memory(cgroup: &Path) -> Option<MemoryUsage> {
    let events = Flat::of(cgroup, "memory.events");
    Some(MemoryUsage {
        current: number(cgroup, "memory.current")?,
        peak: number(cgroup, "memory.peak"),
        high: number(cgroup, "memory.high"),
        max: number(cgroup, "memory.max"),
        above_high: events.number("high"),
        oom_kills: events.number("oom_kill"),
    })
}

fn pids(cgroup: &Path) -> Option<PidsUsage> {
    Some(PidsUsage {
        current: number(cgroup, "pids.current")?,
        max: number(cgroup, "pids.max"),
        refused: Flat::of(cgroup, "pids.events").number("max"),
    })
}

fn io(cgroup: &Path) -> Option<IoUsage> {
    let text = text(cgroup, "io.stat")?;
    let sum = |name: &str| {
        let values = text.split_whitespace().filter_map(|it| {
            let (of, value) = it.split_once('=')?;
            value.parse().ok().filter(|_: &u64| of == name)
        });
        values.fold(0, u64::saturating_add)
    };
    Some(IoUsage {
        read: sum("rbytes"),
        written: sum("wbytes"),
    })
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and `full` likewise.
fn pressure(cgroup: &Path, file: &str) -> Option<Pressure> {
    let text = text(cgroup, file)?;
    let of = |line: &str, name: &str| {
        let line = text.lines().find_map(|it| it.strip_prefix(line))?;
        let mut values = line.split_whitespace().filter_map(|it| it.split_once('='));
        values.find(|(of, _)| *of == name).map(|(_, value)| value)
    };
    let share = |line| {
        let value = of(line, "avg10").unwrap_or_default();
        let (whole, part) = value.split_once('.').unwrap_or((value, "0"));
        let part = format!("{part:0<2}");
        let (whole, part) = (whole.parse::<u32>(), part.get(..2).map(str::parse::<u32>));
        let hundredths = match (whole, part) {
            (Ok(whole), Some(Ok(part))) => whole.saturating_mul(100).saturating_add(part),
            _ => 0,
        };
        Percent { hundredths }
    };
    Some(Pressure {
        some: share("some "),
        full: share("full "),
        some_us: of("some ", "total")?.parse().ok()?,
    })
}

fn text(cgroup: &Path, file: &str) -> Option<String> {
    let text = read(&cgroup.join(file)).ok()?;
    Some(text.trim_end().to_owned())
}

/// A file with one number. `None` also for `max`.
fn number(cgroup: &Path, file: &str) -> Option<u64> {
    text(cgroup, file)?.parse().ok()
}

/// A file with a name and a number in each line.
struct Flat(String);

impl Flat {
    fn of(cgroup: &Path, file: &str) -> Self {
        Self(text(cgroup, file).unwrap_or_default())
    }

    fn number(&self, name: &str) -> u64 {
        let mut lines = self.0.lines().filter_map(|line| line.split_once(' '));
        let found = lines.find(|(of, _)| *of == name);
        found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    }
}

/// How often something happened to a cgroup since it was made.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Counts {
    /// Processes that were killed for want of memory.
    pub oom_kills: u64,
    /// New processes that were refused.
    pub refused: u64,
    /// Periods in which it was held up.
    pub throttled_periods: u64,
    /// For how long.
    pub throttled_us: u64,
    /// How often it was slowed down for its memory. Notes that were made before this was told of have it not.
    #[serde(default)]
    pub above_high: u64,
}

/// Which of what happens all the time to who uses all it may is to be told.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Due {
    /// That it was held up at its share of the processors.
    pub throttling: bool,
    /// That it was slowed down for its memory.
    pub high: bool,
}

impl Counts {
    /// Of what is known of a cgroup.
    #[must_use]
    pub fn of(usage: &ResourceUsage) -> Self {
        Self {
            oom_kills: usage.memory.map_or(0, |it| it.oom_kills),
            refused: usage.pids.map_or(0, |it| it.refused),
            throttled_periods: usage.cpu.throttled_periods,
            throttled_us: usage.cpu.throttled_us,
            above_high: usage.memory.map_or(0, |it| it.above_high),
        }
    }

    /// Up to what it was told. Nothing is noted on a cgroup that is new to the guard: what happened before is not
    /// told.
    #[must_use]
    pub fn told(cgroup: &Path) -> Option<Self> {
        let mut text = [0; LONGEST];
        let length = rustix::fs::getxattr(cgroup, TOLD, &mut text).ok()?;
        serde_json::from_slice(text.get(..length)?).ok()
    }

    /// Notes that it was told up to here. Where that cannot be noted it is told again after a restart.
    pub fn note(&self, cgroup: &Path) {
        let noted = serde_json::to_vec(self)
            .map(|text| rustix::fs::setxattr(cgroup, TOLD, &text, XattrFlags::empty()));
        if !matches!(noted, Ok(Ok(()))) {
            tracing::debug!(cgroup = %cgroup.display(), "what was told of a cgroup is not noted");
        }
    }
}

/// What happened since it was told up to `told`; of what is [`Due`] only where it is. A count that shrank is of another
/// cgroup, or of a controller that was off meanwhile.
#[must_use]
pub fn events(told: &mut Counts, usage: &ResourceUsage, due: Due) -> Vec<ResourceEvent> {
    let now = Counts::of(usage);
    let mut events = Vec::new();
    let since = |now: u64, told: u64| if now < told { now } else { now - told };
    let kills = since(now.oom_kills, told.oom_kills);
    if kills > 0 {
        let max = usage.memory.and_then(|it| it.max);
        events.push(ResourceEvent::OutOfMemory { kills, max });
    }
    let refused = since(now.refused, told.refused);
    if refused > 0 {
        let max = usage.pids.and_then(|it| it.max);
        events.push(ResourceEvent::PidsLimit { refused, max });
    }
    told.oom_kills = now.oom_kills;
    told.refused = now.refused;
    if due.throttling {
        let periods = since(now.throttled_periods, told.throttled_periods);
        if periods > 0 {
            events.push(ResourceEvent::CpuThrottled {
                periods,
                throttled_us: since(now.throttled_us, told.throttled_us),
                limit_milli: usage.cpu.limit_milli,
            });
        }
        told.throttled_periods = now.throttled_periods;
        told.throttled_us = now.throttled_us;
    }
    if due.high {
        let times = since(now.above_high, told.above_high);
        if times > 0 {
            let high = usage.memory.and_then(|it| it.high);
            events.push(ResourceEvent::MemoryHigh { times, high });
        }
        told.above_high = now.above_high;
    }
    events
}

#[cfg(test)]
mod tests {
    use std::fs;

    use agentguard_model::{Percent, ResourceEvent};

    use super::{Counts, Due, events, of};

    /// As Linux 6.1 and 6.12 show it.
    const FILES: [(&str, &str); 13] = [
        (
            "cpu.stat",
            "usage_usec 2500000\nuser_usec 1\nsystem_usec 2\nnr_periods 40\nnr_throttled 12\nthrottled_usec 700000\nnr_bursts 0\n",
        ),
        ("cpu.max", "50000 100000\n"),
        ("memory.current", "4096\n"),
        ("memory.peak", "8192\n"),
        ("memory.high", "max\n"),
        ("memory.max", "65536\n"),
        (
            "memory.events",
            "low 0\nhigh 3\nmax 9\noom 2\noom_kill 2\noom_group_kill 0\n",
        ),
        ("pids.current", "7\n"),
        ("pids.max", "10\n"),
        ("pids.events", "max 5\n"),
        (
            "io.stat",
            "8:0 rbytes=100 wbytes=20 rios=1 wios=1 dbytes=0 dios=0\n254:0 rbytes=1 wbytes=2 rios=1 wios=1 dbytes=0 dios=0\n",
        ),
        (
            "memory.pressure",
            "some avg10=1.53 avg60=0.20 avg300=0.00 total=4711\nfull avg10=0.07 avg60=0.00 avg300=0.00 total=11\n",
        ),
        ("cpu.pressure", "what is this\n"),
    ];

    #[test]
    fn what_a_cgroup_takes_is_read_from_its_files_and_what_is_strange_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(of(dir.path()), agentguard_model::ResourceUsage::default());
        for (file, text) in FILES {
            fs::write(dir.path().join(file), text).unwrap();
        }
        let usage = of(dir.path());
        let cpu = usage.cpu;
        assert_eq!((cpu.used_us, cpu.limit_milli), (2_500_000, Some(500)));
        assert_eq!(
            (cpu.periods, cpu.throttled_periods, cpu.throttled_us),
            (40, 12, 700_000)
        );
        let memory = usage.memory.unwrap();
        assert_eq!(
            (memory.current, memory.peak, memory.high),
            (4096, Some(8192), None)
        );
        assert_eq!(
            (memory.max, memory.above_high, memory.oom_kills),
            (Some(65_536), 3, 2)
        );
        let pids = usage.pids.unwrap();
        assert_eq!((pids.current, pids.max, pids.refused), (7, Some(10), 5));
        let io = usage.io.unwrap();
        assert_eq!((io.read, io.written), (101, 22));
        let pressure = usage.pressure.memory.unwrap();
        let hundredths = |hundredths| Percent { hundredths };
        assert_eq!(
            (pressure.some, pressure.full),
            (hundredths(153), hundredths(7))
        );
        assert_eq!(pressure.some_us, 4711);
        assert_eq!((usage.pressure.cpu, usage.pressure.io), (None, None));
    }

    #[test]
    fn what_happened_is_told_once_and_being_held_up_when_it_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in FILES {
            fs::write(dir.path().join(file), text).unwrap();
        }
        let usage = of(dir.path());
        let mut told = Counts::default();
        let first = events(&mut told, &usage, Due::default());
        let expected = [
            ResourceEvent::OutOfMemory {
                kills: 2,
                max: Some(65_536),
            },
            ResourceEvent::PidsLimit {
                refused: 5,
                max: Some(10),
            },
        ];
        assert_eq!(first, expected);
        let throttled = ResourceEvent::CpuThrottled {
            periods: 12,
            throttled_us: 700_000,
            limit_milli: Some(500),
        };
        let throttling = Due {
            throttling: true,
            high: false,
        };
        assert_eq!(events(&mut told, &usage, throttling), [throttled]);
        assert_eq!(events(&mut told, &usage, throttling), []);
        let high = Due {
            throttling: false,
            high: true,
        };
        let slowed = ResourceEvent::MemoryHigh {
            times: 3,
            high: None,
        };
        assert_eq!(events(&mut told, &usage, high), [slowed]);
        assert_eq!(events(&mut told, &usage, high), []);
        // A cgroup that was made again counts from the beginning.
        told.oom_kills = 100;
        assert_eq!(events(&mut told, &usage, throttling), expected[..1]);
    }

    #[test]
    fn a_note_of_before_memory_was_told_of_is_read_and_what_it_lacks_is_told() {
        let text = r#"{"oom_kills":2,"refused":5,"throttled_periods":12,"throttled_us":700000}"#;
        let note: Counts = serde_json::from_str(text).unwrap();
        assert_eq!((note.refused, note.above_high), (5, 0));
        let widest = Counts {
            oom_kills: u64::MAX,
            refused: u64::MAX,
            throttled_periods: u64::MAX,
            throttled_us: u64::MAX,
            above_high: u64::MAX,
        };
        assert!(serde_json::to_vec(&widest).unwrap().len() <= super::LONGEST);
    }
}

//! What an agent may take of its host, and what it takes.
//!
//! The terms and files are those of cgroup v2 (`Documentation/admin-guide/cgroup-v2.rst` in the kernel's source).

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What one cgroup of an agent may take, at most. `None`, and a device that is not listed: there is no limit.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ResourceLimits {
    /// Processor time: `cpu.max`.
    pub cpu: Option<MilliCpus>,
    /// Bytes of memory, above which processes are killed: `memory.max`.
    pub memory: Option<u64>,
    /// Bytes of memory, above which processes are slowed down while memory is taken back: `memory.high`.
    pub memory_high: Option<u64>,
    /// Processes and threads: `pids.max`.
    pub pids: Option<u32>,
    /// What is read from and written to block devices: `io.max`.
    pub io: Vec<IoLimit>,
}

impl ResourceLimits {
    /// Whether nothing is limited.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.cpu.is_none()
            && self.memory.is_none()
            && self.memory_high.is_none()
            && self.pids.is_none()
            && self.io.is_empty()
    }
}

/// Thousandths of a processor.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct MilliCpus(pub u32);

impl fmt::Display for MilliCpus {
    /// As `1.5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:03}", self.0 % 1000);
        match digits.trim_end_matches('0') {
            "" => write!(f, "{}", self.0 / 1000),
            part => write!(f, "{}.{part}", self.0 / 1000),
        }
    }
}

/// What may be read from and written to a block device in a second.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct IoLimit {
    /// Which one.
    pub device: BlockDevice,
    /// Bytes read.
    pub read: Option<u64>,
    /// Bytes written.
    pub write: Option<u64>,
    /// Operations that read.
    pub read_ops: Option<u64>,
    /// Operations that write.
    pub write_ops: Option<u64>,
}

/// A block device.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum BlockDevice {
    /// By its node, as `/dev/vda`: what has this name when the limit is set.
    Node(PathBuf),
    /// By its number.
    Number {
        /// The driver's.
        major: u32,
        /// The device's.
        minor: u32,
    },
}

impl fmt::Display for BlockDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(path) => path.display().fmt(f),
            Self::Number { major, minor } => write!(f, "{major}:{minor}"),
        }
    }
}

/// What an agent takes, and what became of that: the sum over its cgroups, since each of them was made. Limits
/// are those in force in each cgroup, whoever set them; where its cgroups have several, the least. What this
/// host does not tell, for want of a controller or of a newer kernel, is `None`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ResourceUsage {
    /// Processor time. Told also without the controller, but for limits.
    pub cpu: CpuUsage,
    /// Memory.
    pub memory: Option<MemoryUsage>,
    /// Processes and threads.
    pub pids: Option<PidsUsage>,
    /// What was read from and written to block devices.
    pub io: Option<IoUsage>,
    /// How long it waited for each of these.
    pub pressure: PressureUsage,
}

/// Processor time.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct CpuUsage {
    /// What was used, in microseconds of one processor.
    pub used_us: u64,
    /// Thousandths of a processor that may be used at most.
    pub limit_milli: Option<u64>,
    /// The periods in which it ran under a limit; of 100 ms, where the guard set it.
    pub periods: u64,
    /// Those of them in which it had used up its share, and was held up.
    pub throttled_periods: u64,
    /// For how long its threads were held up, in microseconds.
    pub throttled_us: u64,
}

/// Memory. In bytes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct MemoryUsage {
    /// What is used.
    pub current: u64,
    /// The most that was; `None` before Linux 5.19.
    pub peak: Option<u64>,
    /// Above what it is slowed down.
    pub high: Option<u64>,
    /// Above what processes are killed.
    pub max: Option<u64>,
    /// How often it was above `high`.
    pub above_high: u64,
    /// Processes that were killed for want of memory, its own or the host's.
    pub oom_kills: u64,
}

/// Processes and threads.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct PidsUsage {
    /// How many there are.
    pub current: u64,
    /// How many there may be.
    pub max: Option<u64>,
    /// How often another one was refused.
    pub refused: u64,
}

/// What was read from and written to block devices.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct IoUsage {
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
}

/// Pressure stall information (PSI), where the kernel has it: of shares the most of any of its cgroups, of times the
/// sum over them.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct PressureUsage {
    /// Of processors.
    pub cpu: Option<Pressure>,
    /// Of memory.
    pub memory: Option<Pressure>,
    /// Of block devices.
    pub io: Option<Pressure>,
}

impl PressureUsage {
    /// Of one resource.
    #[must_use]
    pub const fn of(&self, awaited: Awaited) -> Option<Pressure> {
        match awaited {
            Awaited::Cpu => self.cpu,
            Awaited::Memory => self.memory,
            Awaited::Io => self.io,
        }
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Awaited {
    /// Processors.
    Cpu,
    /// Memory: that some is taken back, or comes back from a device.
    Memory,
    /// Block devices.
    Io,
}

impl Awaited {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Io];

    /// The share of ten seconds (`some`, `avg10`) from which on it is recorded that an agent waits for it. Who computes
    /// waits for processors, and who reads a file for the device, and nothing is wrong with that: much of it is much.
    /// Who waits for memory has too little.
    #[must_use]
    pub const fn much(self) -> Percent {
        let hundredths = match self {
            Self::Cpu => 80_00,
            Self::Memory => 10_00,
            Self::Io => 50_00,
        };
        Percent { hundredths }
    }

    /// The share below which it does not any more: half of that, so that who is at the limit is not told of again and
    /// again.
    #[must_use]
    pub const fn little(self) -> Percent {
        Percent {
            hundredths: self.much().hundredths / 2,
        }
    }
}

/// The share of time in which tasks waited for a resource.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct Pressure {
    /// At least one did, in the last ten seconds.
    pub some: Percent,
    /// None could go on, in the last ten seconds.
    pub full: Percent,
    /// For how long at least one did, in all: microseconds.
    pub some_us: u64,
}

impl Pressure {
    /// That of two cgroups. Both may have waited at once, so that the time can be more than has passed.
    fn with(self, other: Self) -> Self {
        Self {
            some: self.some.max(other.some),
            full: self.full.max(other.full),
            some_us: self.some_us.saturating_add(other.some_us),
        }
    }
}

/// Parts of a hundred, with two decimals. A number in JSON.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Percent {
    /// Parts of ten thousand.
    pub hundredths: u32,
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:02} %",
            self.hundredths / 100,
            self.hundredths % 100
        )
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.hundredths) / 100.0)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let percent = f64::deserialize(deserializer)?;
        // A cast saturates, and takes what is no number for 0.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "see above"
        )]
        let hundredths = (percent * 100.0).round() as u32;
        Ok(Self { hundredths })
    }
}

impl ResourceUsage {
    /// Adds what another cgroup of the same agent takes.
    pub fn add(&mut self, other: &Self) {
        let cpu = &mut self.cpu;
        cpu.used_us = cpu.used_us.saturating_add(other.cpu.used_us);
        cpu.limit_milli = least(cpu.limit_milli, other.cpu.limit_milli);
        cpu.periods = cpu.periods.saturating_add(other.cpu.periods);
        cpu.throttled_periods = cpu
            .throttled_periods
            .saturating_add(other.cpu.throttled_periods);
        cpu.throttled_us = cpu.throttled_us.saturating_add(other.cpu.throttled_us);
        self.memory = joined(self.memory, other.memory, |a, b| MemoryUsage {
            current: a.current.saturating_add(b.current),
            peak: joined(a.peak, b.peak, u64::saturating_add),
            high: least(a.high, b.high),
            max: least(a.max, b.max),
            above_high: a.above_high.saturating_add(b.above_high),
            oom_kills: a.oom_kills.saturating_add(b.oom_kills),
        });
        self.pids = joined(self.pids, other.pids, |a, b| PidsUsage {
            current: a.current.saturating_add(b.current),
            max: least(a.max, b.max),
            refused: a.refused.saturating_add(b.refused),
        });
        self.io = joined(self.io, other.io, |a, b| IoUsage {
            read: a.read.saturating_add(b.read),
            written: a.written.saturating_add(b.written),
        });
        let (one, other) = (self.pressure, other.pressure);
        self.pressure = PressureUsage {
            cpu: joined(one.cpu, other.cpu, Pressure::with),
            memory: joined(one.memory, other.memory, Pressure::with),
            io: joined(one.io, other.io, Pressure::with),
        };
    }
}

fn joined<T>(one: Option<T>, other: Option<T>, join: impl FnOnce(T, T) -> T) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(join(one, other)),
        (one, other) => one.or(other),
    }
}

fn least(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    joined(one, other, u64::min)
}

/// That a limit, or the host's end of something, was met.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum ResourceEvent {
    /// Processes were killed for want of memory.
    OutOfMemory {
        /// How many.
        kills: u64,
        /// `memory.max`, in bytes. `None`: it had no limit, the host has.
        max: Option<u64>,
    },
    /// New processes or threads were refused.
    PidsLimit {
        /// How often.
        refused: u64,
        /// `pids.max`.
        max: Option<u64>,
    },
    /// Threads were held up since the share of the processors was used up.
    CpuThrottled {
        /// In how many periods.
        periods: u64,
        /// For how long, in microseconds, all threads together.
        throttled_us: u64,
        /// Thousandths of a processor that may be used.
        limit_milli: Option<u64>,
    },
    /// Threads were slowed down while memory was taken back, since more was in use than may be without that.
    MemoryHigh {
        /// How often.
        times: u64,
        /// `memory.high`, in bytes. `None`: a cgroup below has one.
        high: Option<u64>,
    },
    /// Something waits for a resource for much of its time. Told when that begins.
    Pressure {
        /// For which.
        awaited: Awaited,
        /// How much it waits.
        pressure: Pressure,
    },
}

#[cfg(test)]
mod tests {
    use super::{MemoryUsage, MilliCpus, Percent, Pressure, ResourceUsage};

    #[test]
    fn processors_are_shown_as_they_are_written() {
        let shown = [10, 500, 1000, 1250, 2005, 64_000].map(|milli| MilliCpus(milli).to_string());
        assert_eq!(shown, ["0.01", "0.5", "1", "1.25", "2.005", "64"]);
    }

    #[test]
    fn a_share_is_a_number_in_json_and_comes_back_as_it_was() {
        for (hundredths, text) in [(0, "0.0"), (7, "0.07"), (153, "1.53"), (10_000, "100.0")] {
            let share = Percent { hundredths };
            assert_eq!(serde_json::to_string(&share).unwrap(), text);
            assert_eq!(serde_json::from_str::<Percent>(text).unwrap(), share);
        }
    }

    #[test]
    fn what_cgroups_take_is_added_and_of_their_limits_the_least_counts() {
        let memory = |current, peak, max| {
            Some(MemoryUsage {
                current,
                peak,
                max,
                ..MemoryUsage::default()
            })
        };
        let pressure = |some, full, some_us| {
            Some(Pressure {
                some: Percent { hundredths: some },
                full: Percent { hundredths: full },
                some_us,
            })
        };
        let mut sum = ResourceUsage::default();
        let mut one = ResourceUsage {
            memory: memory(10, Some(20), Some(100)),
            ..ResourceUsage::default()
        };
        one.cpu.used_us = 5;
        one.pressure.memory = pressure(3, 1, 100);
        sum.add(&one);
        one.memory = memory(1, None, Some(50));
        one.pressure.memory = pressure(2, 2, 50);
        sum.add(&one);
        assert_eq!(sum.memory, memory(11, Some(20), Some(50)));
        assert_eq!((sum.cpu.used_us, sum.pids), (10, None));
        assert_eq!(sum.pressure.memory, pressure(3, 2, 150));
        assert_eq!(sum.pressure.io, None);
    }
}

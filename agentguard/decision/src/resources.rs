//! That an agent met a limit of what it may take of the host: recorded after it happened, as the kernel's doing.

use std::time::{Duration, Instant};

use agentguard_model::{
    Action, ActionKind, AgentId, Awaited, DecisionId, Layer, MilliCpus, Mode, Percent, Process,
    Reason, ReasonCode, ResourceEvent, Verdict,
};

use crate::decider::{Decider, Draft};
use crate::port::{Client, RecordRefused, Recorder};

impl<R: Recorder> Decider<R> {
    /// Records that an agent met a limit. What was killed or not begun was denied; what was only held up went on.
    ///
    /// # Errors
    /// [`RecordRefused`]: it happened all the same.
    pub async fn met_limit(
        &self,
        agent: AgentId,
        event: ResourceEvent,
    ) -> Result<DecisionId, RecordRefused> {
        let started = Instant::now();
        let current = self.policies().current();
        let client = Client {
            agent,
            run: 0,
            process: Process {
                pid: 0,
                uid: 0,
                comm: String::new(),
                exe: None,
            },
        };
        let mode = self
            .directory()
            .name(agent)
            .and_then(|name| current.agent(&name).map(|agent| agent.mode))
            .unwrap_or(Mode::Enforce);
        let told = Told::of(event);
        let draft = Draft {
            client: Some(&client),
            layer: Layer::Kernel,
            action: Action {
                method: Some(told.file.to_owned()),
                ..Action::new(ActionKind::Resource)
            },
            verdict: told.verdict,
            enforced: true,
            mode,
            reason: Reason::new(told.code, told.message),
            matched: Vec::new(),
            count: told.count,
            started,
        };
        let decision = self.decision(&current, draft);
        self.recorder().write(decision).await
    }
}

/// What is said of an event.
struct Told {
    /// The file of the cgroup that has the limit.
    file: &'static str,
    verdict: Verdict,
    code: ReasonCode,
    message: String,
    /// How often it happened: what was denied.
    count: u64,
}

impl Told {
    fn of(event: ResourceEvent) -> Self {
        match event {
            ResourceEvent::OutOfMemory { kills, max } => Self {
                file: "memory.max",
                verdict: Verdict::Deny,
                code: ReasonCode::OutOfMemory,
                message: format!(
                    "The kernel killed {} for want of memory: {}.",
                    match kills {
                        1 => "a process of the agent".to_owned(),
                        kills => format!("{kills} processes of the agent"),
                    },
                    match max {
                        Some(max) => format!("it may use {}", size(max)),
                        None =>
                            "it has no limit of its own, so the host or a cgroup above it was short"
                                .to_owned(),
                    }
                ),
                count: kills,
            },
            ResourceEvent::PidsLimit { refused, max } => Self {
                file: "pids.max",
                verdict: Verdict::Deny,
                code: ReasonCode::PidsLimit,
                message: format!(
                    "The kernel refused the agent {}: {}.",
                    match refused {
                        1 => "a new process or thread".to_owned(),
                        refused => format!("{refused} new processes or threads"),
                    },
                    match max {
                        Some(max) => format!("it may have {max}"),
                        None => "a cgroup above or below its own has a limit".to_owned(),
                    }
                ),
                count: refused,
            },
            ResourceEvent::CpuThrottled {
                periods,
                throttled_us,
                limit_milli,
            } => Self {
                file: "cpu.max",
                verdict: Verdict::Allow,
                code: ReasonCode::CpuThrottled,
                message: format!(
                    "The agent had used up its share of the processors in {periods} periods since this was last \
                     recorded, and its threads were held up for {:.1} s in all{}.",
                    Duration::from_micros(throttled_us).as_secs_f64(),
                    match limit_milli.and_then(|it| u32::try_from(it).ok()) {
                        Some(milli) => format!(": it may use {}", MilliCpus(milli)),
                        None => String::new(),
                    }
                ),
                count: 1,
            },
            ResourceEvent::MemoryHigh { times, high } => Self {
                file: "memory.high",
                verdict: Verdict::Allow,
                code: ReasonCode::MemoryHigh,
                message: format!(
                    "The agent was above the memory that it may have without being slowed down {} since this was last \
                     recorded, and was slowed down while some was taken back: {}.",
                    match times {
                        1 => "once".to_owned(),
                        times => format!("{times} times"),
                    },
                    match high {
                        Some(high) => format!("it may have {}", size(high)),
                        None => "a cgroup below its own has a limit".to_owned(),
                    }
                ),
                count: 1,
            },
            ResourceEvent::Pressure { awaited, pressure } => {
                let (file, what) = match awaited {
                    Awaited::Cpu => ("cpu.pressure", "processors"),
                    Awaited::Memory => ("memory.pressure", "memory"),
                    Awaited::Io => ("io.pressure", "block devices"),
                };
                Self {
                    file,
                    verdict: Verdict::Allow,
                    code: ReasonCode::ResourcePressure,
                    message: format!(
                        "Something of the agent waited for {what} for {} of the last ten seconds{}. This is \
                         recorded from {} on, and again only when it was below {}.",
                        pressure.some,
                        match pressure.full {
                            Percent { hundredths: 0 } => String::new(),
                            full => format!(", and all of it for {full}"),
                        },
                        awaited.much(),
                        awaited.little(),
                    ),
                    count: 1,
                }
            }
        }
    }
}

/// In the largest unit in which it is a whole number.
fn size(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes > 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use agentguard_model::{Awaited, Percent, Pressure, ReasonCode, ResourceEvent, Verdict};

    use super::Told;

    #[test]
    fn what_was_killed_or_refused_was_denied_so_often_and_what_was_held_up_went_on() {
        let told = |event| {
            let told = Told::of(event);
            (told.verdict, told.code, told.count, told.message)
        };
        assert_eq!(
            told(ResourceEvent::OutOfMemory {
                kills: 3,
                max: Some(64 << 20)
            }),
            (
                Verdict::Deny,
                ReasonCode::OutOfMemory,
                3,
                "The kernel killed 3 processes of the agent for want of memory: it may use 64 MiB."
                    .to_owned()
            )
        );
        assert_eq!(
            told(ResourceEvent::PidsLimit {
                refused: 1,
                max: Some(20)
            }),
            (
                Verdict::Deny,
                ReasonCode::PidsLimit,
                1,
                "The kernel refused the agent a new process or thread: it may have 20.".to_owned()
            )
        );
        let throttled = ResourceEvent::CpuThrottled {
            periods: 12,
            throttled_us: 700_000,
            limit_milli: Some(500),
        };
        assert_eq!(
            told(throttled),
            (
                Verdict::Allow,
                ReasonCode::CpuThrottled,
                1,
                "The agent had used up its share of the processors in 12 periods since this was last recorded, \
                 and its threads were held up for 0.7 s in all: it may use 0.5."
                    .to_owned()
            )
        );
    }

    #[test]
    fn what_is_slowed_down_or_waits_went_on_and_is_told_with_what_it_is_held_against() {
        let told = |event| {
            let told = Told::of(event);
            assert_eq!((told.verdict, told.count), (Verdict::Allow, 1));
            (told.file, told.code, told.message)
        };
        let (times, high) = (7, Some(32 << 20));
        assert_eq!(
            told(ResourceEvent::MemoryHigh { times, high }),
            (
                "memory.high",
                ReasonCode::MemoryHigh,
                "The agent was above the memory that it may have without being slowed down 7 times since this was last \
                 recorded, and was slowed down while some was taken back: it may have 32 MiB."
                    .to_owned()
            )
        );
        let pressure = |some, full| Pressure {
            some: Percent { hundredths: some },
            full: Percent { hundredths: full },
            some_us: 1,
        };
        assert_eq!(
            told(ResourceEvent::Pressure {
                awaited: Awaited::Memory,
                pressure: pressure(12_34, 5_60),
            }),
            (
                "memory.pressure",
                ReasonCode::ResourcePressure,
                "Something of the agent waited for memory for 12.34 % of the last ten seconds, and all of it for \
                 5.60 %. This is recorded from 10.00 % on, and again only when it was below 5.00 %."
                    .to_owned()
            )
        );
        let (file, _, message) = told(ResourceEvent::Pressure {
            awaited: Awaited::Cpu,
            pressure: pressure(90_00, 0),
        });
        assert_eq!(file, "cpu.pressure");
        assert_eq!(
            message,
            "Something of the agent waited for processors for 90.00 % of the last ten seconds. This is recorded from \
             80.00 % on, and again only when it was below 40.00 %."
        );
    }
}

//! Episodes in which an agent waits for a resource for much of its time.

use std::time::{Duration, Instant};

use agentguard_model::{Awaited, Pressure, PressureUsage};

/// How often an agent's pressure of one resource is told, at most: it can begin and end as often as it likes.
const EVERY: Duration = Duration::from_secs(60);

/// Of one agent. It begins anew with the keeper: an episode that is under way then is told once more.
#[derive(Clone, Copy, Debug, Default)]
pub struct Episodes {
    cpu: Episode,
    memory: Episode,
    io: Episode,
}

/// Of one resource.
#[derive(Clone, Copy, Debug, Default)]
struct Episode {
    /// It was told that it began, and it is not over.
    is_told: bool,
    /// When one was last told.
    last: Option<Instant>,
}

impl Episodes {
    /// What is to be told now: of each resource that is waited for much ([`Awaited::much`]) an episode that was not told
    /// yet. It is due until [`Self::told`] says that it was. One is over once little is waited ([`Awaited::little`]).
    pub fn due(&mut self, usage: &PressureUsage, now: Instant) -> Vec<(Awaited, Pressure)> {
        let mut due = Vec::new();
        for awaited in Awaited::ALL {
            let pressure = usage.of(awaited).unwrap_or_default();
            let episode = self.of(awaited);
            if pressure.some < awaited.little() {
                episode.is_told = false;
            }
            let is_new = !episode.is_told && pressure.some >= awaited.much();
            if is_new && !is_recent(episode.last, now) {
                due.push((awaited, pressure));
            }
        }
        due
    }

    /// That the episode of this resource was told.
    pub fn told(&mut self, awaited: Awaited, now: Instant) {
        *self.of(awaited) = Episode {
            is_told: true,
            last: Some(now),
        };
    }

    /// Whether something was told so lately that it keeps another from being told.
    #[must_use]
    pub fn is_recent(&self, now: Instant) -> bool {
        let all = [self.cpu, self.memory, self.io];
        all.iter().any(|it| is_recent(it.last, now))
    }

    const fn of(&mut self, awaited: Awaited) -> &mut Episode {
        match awaited {
            Awaited::Cpu => &mut self.cpu,
            Awaited::Memory => &mut self.memory,
            Awaited::Io => &mut self.io,
        }
    }
}

fn is_recent(last: Option<Instant>, now: Instant) -> bool {
    last.is_some_and(|it| now.saturating_duration_since(it) < EVERY)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use agentguard_model::{Awaited, Percent, Pressure, PressureUsage};

    use super::Episodes;

    fn memory(percent: u32) -> PressureUsage {
        PressureUsage {
            memory: Some(Pressure {
                some: Percent {
                    hundredths: percent * 100,
                },
                ..Pressure::default()
            }),
            ..PressureUsage::default()
        }
    }

    /// What is due with these shares in percent, each so many seconds after the beginning, and told at once.
    fn told(looks: &[(u64, u32)]) -> Vec<u64> {
        let begun = Instant::now();
        let mut episodes = Episodes::default();
        let mut told = Vec::new();
        for &(seconds, percent) in looks {
            let now = begun + Duration::from_secs(seconds);
            for (awaited, _) in episodes.due(&memory(percent), now) {
                assert_eq!(awaited, Awaited::Memory);
                episodes.told(awaited, now);
                told.push(seconds);
            }
        }
        told
    }

    #[test]
    fn an_episode_is_told_once_and_over_only_when_little_is_waited() {
        assert_eq!(told(&[(0, 9), (2, 10), (4, 90), (400, 50)]), [2]);
        // At the limit, up and down.
        assert_eq!(told(&[(0, 10), (100, 5), (200, 9), (300, 11)]), [0]);
        assert_eq!(told(&[(0, 10), (100, 4), (200, 9), (300, 11)]), [0, 300]);
    }

    #[test]
    fn episodes_are_told_once_a_minute_at_most_and_the_last_not_forgotten() {
        let flapping = [(0, 80), (10, 0), (20, 80), (30, 0), (40, 80), (59, 80)];
        assert_eq!(told(&flapping), [0]);
        let mut goes_on = flapping.to_vec();
        goes_on.extend([(60, 80), (62, 80)]);
        assert_eq!(told(&goes_on), [0, 60]);
    }

    #[test]
    fn what_could_not_be_told_is_due_again_and_resources_do_not_keep_each_other() {
        let now = Instant::now();
        let mut episodes = Episodes::default();
        let mut usage = memory(50);
        for _ in 0..2 {
            assert_eq!(episodes.due(&usage, now).len(), 1);
        }
        assert!(!episodes.is_recent(now));
        episodes.told(Awaited::Memory, now);
        assert!(episodes.is_recent(now));
        assert!(!episodes.is_recent(now + super::EVERY));
        let much = |hundredths| {
            Some(Pressure {
                some: Percent { hundredths },
                ..Pressure::default()
            })
        };
        (usage.cpu, usage.io) = (much(79_99), much(50_00));
        let due = episodes.due(&usage, now);
        assert_eq!(due, [(Awaited::Io, usage.io.unwrap())]);
        // A kernel that has no PSI tells nothing.
        assert_eq!(episodes.due(&PressureUsage::default(), now), []);
    }
}

//! What an agent takes of its host, for people.

use std::time::Duration;

use agentguard_model::{MilliCpus, Percent, Pressure, ResourceUsage};

/// The lines of `agent show`.
pub(super) fn lines(usage: &ResourceUsage) -> String {
    let mut lines = format!("cpu       {}\n", cpu(usage));
    let more = [
        ("memory", memory(usage)),
        ("tasks", tasks(usage)),
        ("devices", devices(usage)),
        ("pressure", pressure(usage)),
    ];
    for (what, words) in more {
        if let Some(words) = words {
            lines.push_str(&format!("{what:<10}{words}\n"));
        }
    }
    lines
}

fn cpu(usage: &ResourceUsage) -> String {
    let cpu = &usage.cpu;
    let mut words = format!("{} used", seconds(cpu.used_us));
    if let Some(milli) = cpu.limit_milli.and_then(|it| u32::try_from(it).ok()) {
        words.push_str(&format!("; limit {} processors", MilliCpus(milli)));
    }
    if cpu.throttled_periods > 0 {
        words.push_str(&format!(
            "; held up in {} of {} periods, for {}",
            cpu.throttled_periods,
            cpu.periods,
            seconds(cpu.throttled_us)
        ));
    }
    words
}

fn memory(usage: &ResourceUsage) -> Option<String> {
    let memory = usage.memory.as_ref()?;
    let mut words = format!("{} used", size(memory.current));
    if let Some(peak) = memory.peak {
        words.push_str(&format!(", {} at most so far", size(peak)));
    }
    if let Some(max) = memory.max {
        words.push_str(&format!("; limit {}", size(max)));
    }
    if let Some(high) = memory.high {
        words.push_str(&format!("; slowed down above {}", size(high)));
    }
    if memory.above_high > 0 {
        words.push_str(&format!(", {} times", memory.above_high));
    }
    if memory.oom_kills > 0 {
        words.push_str(&format!("; processes killed: {}", memory.oom_kills));
    }
    Some(words)
}

fn tasks(usage: &ResourceUsage) -> Option<String> {
    let pids = usage.pids.as_ref()?;
    let mut words = pids.current.to_string();
    if let Some(max) = pids.max {
        words.push_str(&format!("; limit {max}"));
    }
    if pids.refused > 0 {
        words.push_str(&format!("; refused: {}", pids.refused));
    }
    Some(words)
}

fn devices(usage: &ResourceUsage) -> Option<String> {
    let io = usage.io.as_ref()?;
    Some(format!(
        "{} read, {} written",
        size(io.read),
        size(io.written)
    ))
}

/// Of each resource the share of the last ten seconds in which something waited for it.
fn pressure(usage: &ResourceUsage) -> Option<String> {
    let one = |what: &str, pressure: Option<Pressure>| {
        let Pressure { some, full, .. } = pressure?;
        let full = match full {
            Percent { hundredths: 0 } => String::new(),
            full => format!(" ({full} all of it)"),
        };
        Some(format!("{what} {some}{full}"))
    };
    let pressure = &usage.pressure;
    let all = [
        one("cpu", pressure.cpu),
        one("memory", pressure.memory),
        one("devices", pressure.io),
    ];
    let told: Vec<String> = all.into_iter().flatten().collect();
    (!told.is_empty()).then(|| told.join(", "))
}

fn seconds(us: u64) -> String {
    format!("{:.1} s", Duration::from_micros(us).as_secs_f64())
}

/// In the largest unit of which it has one at least, with one decimal.
fn size(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >> shift > 0 {
            let tenths = (u128::from(bytes) * 10) >> shift;
            return match tenths % 10 {
                0 => format!("{} {unit}", tenths / 10),
                part => format!("{}.{part} {unit}", tenths / 10),
            };
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use agentguard_model::{MemoryUsage, Percent, PidsUsage, Pressure, ResourceUsage};

    use super::lines;

    #[test]
    fn what_is_taken_is_told_with_its_limit_and_what_a_host_does_not_tell_is_left_out() {
        let mut usage = ResourceUsage::default();
        usage.cpu.used_us = 12_345_678;
        assert_eq!(lines(&usage), "cpu       12.3 s used\n");
        usage.cpu.limit_milli = Some(1500);
        (usage.cpu.periods, usage.cpu.throttled_periods) = (40, 12);
        usage.cpu.throttled_us = 700_000;
        usage.memory = Some(MemoryUsage {
            current: 3 << 19,
            peak: Some(2 << 20),
            high: None,
            max: Some(2 << 30),
            above_high: 0,
            oom_kills: 3,
        });
        usage.pids = Some(PidsUsage {
            current: 7,
            max: Some(200),
            refused: 5,
        });
        usage.pressure.memory = Some(Pressure {
            some: Percent { hundredths: 153 },
            full: Percent { hundredths: 7 },
            some_us: 1,
        });
        usage.pressure.io = Some(Pressure::default());
        assert_eq!(
            lines(&usage),
            "cpu       12.3 s used; limit 1.5 processors; held up in 12 of 40 periods, for 0.7 s\n\
             memory    1.5 MiB used, 2 MiB at most so far; limit 2 GiB; processes killed: 3\n\
             tasks     7; limit 200; refused: 5\n\
             pressure  memory 1.53 % (0.07 % all of it), devices 0.00 %\n"
        );
    }
}

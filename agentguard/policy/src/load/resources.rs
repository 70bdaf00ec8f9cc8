//! What an agent may take of its host.

use std::path::{Component, PathBuf};

use agentguard_model::{BlockDevice, IoLimit, MilliCpus, ResourceLimits};

use super::Report;
use super::requests::bytes as size;
use crate::agent::ResourcePolicy;
use crate::diagnostic::quoted;
use crate::document::{RawIo, RawResources};
use crate::yaml::At;

/// What the kernel can give at least: a thousandth of a second in each period of a tenth.
const LEAST_CPU: u32 = 10;
/// As many processors as Linux knows on any machine are fewer.
const MOST_CPU: u32 = 4096 * 1000;
/// Less is no process.
const LEAST_MEMORY: u64 = 1 << 20;
/// `PID_MAX_LIMIT` of `linux/threads.h`.
const MOST_PIDS: u64 = 4 * 1024 * 1024;
/// Devices with limits, at most.
const MOST_DEVICES: usize = 64;

/// How processors are written.
const CPU: &str =
    "like `2`, `1.5` or `0.25`: processors, with three decimals at most, from 0.01 to 4096";
/// How sizes are written.
const SIZES: &str = "like `512MiB` or `2GiB`";

/// `whole`: nothing in it was told already.
pub(super) fn resources(
    raw: &At<RawResources>,
    whole: bool,
    report: &mut Report,
) -> ResourcePolicy {
    let RawResources {
        cpu,
        memory,
        memory_high,
        pids,
        io,
        missing,
    } = &raw.value;
    let limits = ResourceLimits {
        cpu: cpu.as_ref().and_then(|it| processors(it, report)),
        memory: memory.as_ref().and_then(|it| bytes("memory", it, report)),
        memory_high: memory_high
            .as_ref()
            .and_then(|it| bytes("memory_high", it, report)),
        pids: pids.as_ref().and_then(|it| processes(it, report)),
        io: io
            .as_ref()
            .map(|it| devices(it, report))
            .unwrap_or_default(),
    };
    if let (Some(high), Some(max), Some(at)) = (limits.memory_high, limits.memory, memory_high)
        && high >= max
    {
        report.error(
            at.place,
            "`memory_high` is not below `memory`, so it would never slow anything down",
            "what is above `memory_high` is slowed down, and what is above `memory` killed: leave room between them",
        );
    }
    let says = cpu.is_some()
        || memory.is_some()
        || memory_high.is_some()
        || pids.is_some()
        || io.is_some();
    if !says && whole {
        report.error(
            raw.place,
            "`resources` limits nothing",
            "add `cpu`, `memory`, `memory_high`, `pids` or `io`, or leave `resources` out",
        );
    }
    ResourcePolicy {
        limits,
        missing: missing.unwrap_or_default(),
    }
}

fn processors(entry: &At<String>, report: &mut Report) -> Option<MilliCpus> {
    let milli = milli(entry.value.trim());
    let found = milli.filter(|milli| (LEAST_CPU..=MOST_CPU).contains(milli));
    if found.is_none() {
        let message = format!(
            "`cpu: {}` is not a number of processors",
            quoted(entry.value.trim())
        );
        report.error(entry.place, message, CPU);
    }
    found.map(MilliCpus)
}

/// Thousandths, of digits with a point and up to three behind it.
fn milli(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 3 {
        return None;
    }
    let part: u32 = format!("{part:0<3}").parse().ok()?;
    whole
        .parse::<u32>()
        .ok()?
        .checked_mul(1000)?
        .checked_add(part)
}

fn bytes(key: &str, entry: &At<String>, report: &mut Report) -> Option<u64> {
    let text = entry.value.trim();
    let Some(bytes) = size(text) else {
        let message = format!("`{key}: {}` is not a number of bytes", quoted(text));
        report.error(entry.place, message, SIZES);
        return None;
    };
    if bytes < LEAST_MEMORY {
        let message = format!("`{key}: {text}` is less than 1 MiB, with which nothing runs");
        report.error(entry.place, message, SIZES);
        return None;
    }
    Some(bytes)
}

fn processes(entry: &At<u64>, report: &mut Report) -> Option<u32> {
    let most = u32::try_from(entry.value).ok();
    let most = most.filter(|most| (1..=MOST_PIDS).contains(&u64::from(*most)));
    if most.is_none() {
        report.error(
            entry.place,
            format!("`pids: {}` is not a number of processes", entry.value),
            &format!(
                "from 1 to {MOST_PIDS}; a shell and one command are 2, and each thread counts"
            ),
        );
    }
    most
}

fn devices(list: &At<Vec<At<RawIo>>>, report: &mut Report) -> Vec<IoLimit> {
    if list.value.is_empty() && list.bare {
        let hint = "leave `io` out to limit no device";
        report.error(list.place, "`io` is empty", hint);
    }
    if list.value.len() > MOST_DEVICES {
        let message = format!("more than {MOST_DEVICES} devices");
        report.error(
            list.place,
            message,
            "limit the whole device, not its partitions",
        );
        return Vec::new();
    }
    let mut limits: Vec<IoLimit> = Vec::new();
    for entry in &list.value {
        let Some(device) = device(&entry.value.device, report) else {
            continue;
        };
        if limits.iter().any(|it| it.device == device) {
            let message = format!("a second limit for `{device}`");
            report.error(
                entry.value.device.place,
                message,
                "write all of a device's limits in one entry",
            );
            continue;
        }
        let RawIo {
            read,
            write,
            read_ops,
            write_ops,
            ..
        } = &entry.value;
        if read.is_none() && write.is_none() && read_ops.is_none() && write_ops.is_none() {
            report.error(
                entry.place,
                format!("nothing is limited of `{device}`"),
                "add `read`, `write`, `read_ops` or `write_ops`",
            );
            continue;
        }
        limits.push(IoLimit {
            read: read.as_ref().and_then(|it| rate("read", it, report)),
            write: write.as_ref().and_then(|it| rate("write", it, report)),
            read_ops: read_ops.as_ref().and_then(|it| ops("read_ops", it, report)),
            write_ops: write_ops
                .as_ref()
                .and_then(|it| ops("write_ops", it, report)),
            device,
        });
    }
    limits
}

fn device(entry: &At<String>, report: &mut Report) -> Option<BlockDevice> {
    let text = entry.value.trim();
    if let Some((major, minor)) = text.split_once(':')
        && let (Ok(major), Ok(minor)) = (major.parse(), minor.parse())
    {
        return Some(BlockDevice::Number { major, minor });
    }
    let path = PathBuf::from(text);
    let up = path.components().any(|part| part == Component::ParentDir);
    if !path.starts_with("/dev") || path.components().count() < 3 || up || text.contains('\0') {
        let message = format!("`{}` is not a block device", quoted(text));
        let hint = "its node, as `/dev/vda`, or its number, as \"254:0\" (`lsblk` shows both); the whole device, not a partition";
        report.error(entry.place, message, hint);
        return None;
    }
    Some(BlockDevice::Node(path))
}

fn rate(key: &str, entry: &At<String>, report: &mut Report) -> Option<u64> {
    let text = entry.value.trim();
    let bytes = size(text).filter(|bytes| *bytes > 0);
    if bytes.is_none() {
        let message = format!(
            "`{key}: {}` is not a number of bytes in a second",
            quoted(text)
        );
        report.error(
            entry.place,
            message,
            "like `10MiB`; nothing at all is no rate",
        );
    }
    bytes
}

fn ops(key: &str, entry: &At<u64>, report: &mut Report) -> Option<u64> {
    // The kernel keeps 32 bits of it.
    let ops = Some(entry.value).filter(|ops| (1..=u64::from(u32::MAX - 1)).contains(ops));
    if ops.is_none() {
        let message = format!(
            "`{key}: {}` is not a number of operations in a second",
            entry.value
        );
        report.error(entry.place, message, "from 1 on; nothing at all is no rate");
    }
    ops
}

#[cfg(test)]
mod tests {
    use super::{milli, size};

    #[test]
    fn processors_and_sizes_are_read_exactly_or_not_at_all() {
        for (text, expected) in [
            ("1.5", Some(1500)),
            ("2", Some(2000)),
            ("0.125", Some(125)),
            ("0.1255", None),
            (".5", None),
            ("1.", None),
            ("-1", None),
            ("500m", None),
            ("1e3", None),
            ("99999999", None),
        ] {
            assert_eq!(milli(text), expected, "{text}");
        }
        for (text, expected) in [
            ("2 GiB", Some(2 << 30)),
            ("1TiB", Some(1 << 40)),
            ("4096", Some(4096)),
            ("1.5GiB", None),
            ("TiB", None),
            ("1KiBTiB", None),
            ("2G", None),
            ("", None),
            ("99999999TiB", None),
        ] {
            assert_eq!(size(text), expected, "{text}");
        }
    }
}

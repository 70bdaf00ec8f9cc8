//! An agent's quota.

use agentguard_model::{ConnectionRate, Quota, QuotaWindow};

use super::Report;
use super::requests::{SIZES, bytes};
use crate::diagnostic::quoted;
use crate::document::RawQuota;
use crate::yaml::At;

/// The fewest bytes that a quota can have: fewer serve no connection, and are a denial by another name.
const LEAST_BYTES: u64 = 64 << 10;
/// The most: 1 PiB. Counts are kept in numbers that hold it 16,000 times.
const MOST_BYTES: u64 = 1 << 50;
/// The most connections in a second, and at once.
const MOST_CONNECTIONS: u32 = 1_000_000;

/// Reads it. `whole`: nothing in it was told already.
pub(super) fn quota(raw: &At<RawQuota>, whole: bool, report: &mut Report) -> Option<Quota> {
    let RawQuota {
        bytes_out,
        bytes_in,
        every,
        connections,
    } = &raw.value;
    let counts_bytes = bytes_out.is_some() || bytes_in.is_some();
    if whole && !counts_bytes && connections.is_none() {
        let message = "`quota` limits nothing";
        let hint = "`bytes_out` or `bytes_in` with `every`, or `connections`; leave `quota` out for no limits";
        report.error(raw.place, message, hint);
    } else if whole && counts_bytes && every.is_none() {
        let message = "`quota` does not say for how long bytes count";
        report.error(raw.place, message, "as `every: day`, or `every: lifetime`");
    } else if let Some(every) = every.as_ref().filter(|_| whole && !counts_bytes) {
        let message = "`every` is for `bytes_out` and `bytes_in`, and there is neither";
        let hint = "connections have a rate, `per_second`: leave `every` out";
        report.error(every.place, message, hint);
    }
    let bytes_out = bytes_out.as_ref().map(|it| limit("bytes_out", it, report));
    let bytes_in = bytes_in.as_ref().map(|it| limit("bytes_in", it, report));
    let connections = connections.as_ref().map(|rate| {
        let raw = &rate.value;
        let per_second = count("per_second", &raw.per_second, report)?;
        let burst = raw.burst.as_ref();
        Some(ConnectionRate {
            per_second,
            burst: burst.map_or(Some(per_second), |it| count("burst", it, report))?,
        })
    });
    // What is wrong was told: then there is no policy.
    let sound = |it: Option<Option<u64>>| it.map_or(Some(None), |it| it.map(Some));
    Some(Quota {
        bytes_out: sound(bytes_out)?,
        bytes_in: sound(bytes_in)?,
        every: every.as_ref().map_or(QuotaWindow::Lifetime, |it| it.value),
        connections: match connections {
            None => None,
            Some(rate) => Some(rate?),
        },
    })
}

/// A number of bytes that is neither too small to be of use nor absurd.
fn limit(key: &str, entry: &At<String>, report: &mut Report) -> Option<u64> {
    let Some(bytes) = bytes(&entry.value) else {
        let text = quoted(entry.value.trim());
        let message = format!("`{key}: {text}` is not a number of bytes");
        report.error(entry.place, message, SIZES);
        return None;
    };
    let text = quoted(entry.value.trim());
    if bytes < LEAST_BYTES {
        let message = format!("`{key}: {text}` is less than 64KiB, which serves no connection");
        let hint = "a rule with `action: deny` keeps an agent off, and `agentguard agent quarantine` cuts it off";
        report.error(entry.place, message, hint);
        return None;
    }
    if bytes > MOST_BYTES {
        let message = format!("`{key}: {text}` is more than 1048576GiB, the most that is counted");
        report.error(entry.place, message, "leave it out for no limit");
        return None;
    }
    Some(bytes)
}

fn count(key: &str, entry: &At<u64>, report: &mut Report) -> Option<u32> {
    let count = u32::try_from(entry.value).ok();
    let count = count.filter(|count| (1..=MOST_CONNECTIONS).contains(count));
    if count.is_none() {
        let message = format!(
            "`{key}: {}` is not a number from 1 to {MOST_CONNECTIONS}",
            entry.value
        );
        let hint = "leave `connections` out for no limit; a rule with `action: deny` refuses all";
        report.error(entry.place, message, hint);
    }
    count
}

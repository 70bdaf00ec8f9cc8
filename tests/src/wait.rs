//! Waiting for a condition, in one place.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long the condition is left alone between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// A limit, so many times longer as `AGENTGUARD_PATIENCE` says (a whole number): everything takes longer on
/// an emulated processor. Without it, or where it makes no sense, the limit itself.
#[must_use]
pub fn patient(limit: Duration) -> Duration {
    static TIMES: OnceLock<u32> = OnceLock::new();
    let times = TIMES.get_or_init(|| {
        let told = std::env::var("AGENTGUARD_PATIENCE").ok();
        told.and_then(|told| told.parse().ok())
            .filter(|times| *times > 0)
            .unwrap_or(1)
    });
    limit.saturating_mul(*times)
}

/// Looks until the condition gives something, and returns that.
///
/// For what cannot wake us (a process of another's, a file, a counter); what can is waited for with
/// its own `recv_timeout`.
///
/// # Errors
/// `what` did not happen within `limit`, or what [`patient`] makes of it.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T> {
    let limit = patient(limit);
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = condition() {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} in vain: {what}");
        }
        thread::park_timeout(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_what_was_found_and_otherwise_says_what_was_not() {
        let mut looks = 0;
        let found = wait_until("three looks", Duration::from_secs(5), || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(found.unwrap(), 3);

        let error = wait_until("a miracle", Duration::from_millis(1), || None::<()>).unwrap_err();
        assert_eq!(error.to_string(), "waited 1ms in vain: a miracle");
    }
}
